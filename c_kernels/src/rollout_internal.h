/* What the paths of the rollout kernel share; not for callers. */
#ifndef FSW_ROLLOUT_INTERNAL_H
#define FSW_ROLLOUT_INTERNAL_H

#include "rollout.h"

#define SIGMA_W_M2_K4 5.670374419e-8 /* Stefan-Boltzmann, CODATA 2018 */
/* Temperatures are kept as differences to this, so that 32-bit arithmetic resolves microkelvins. */
#define REFERENCE_K 288.0

/* The links as rows of a sparse matrix: neighbours of node i are entries start[i] .. start[i + 1] - 1. */
struct network {
    int32_t start[FSW_ROLLOUT_NODES + 1];
    int32_t column[2 * FSW_ROLLOUT_LINKS];
    int32_t link[2 * FSW_ROLLOUT_LINKS];
    int32_t radiates[FSW_ROLLOUT_NODES]; /* 0 when no lane has a radiating area there */
};

struct rollout {
    const struct fsw_rollout_topology *topology;
    const struct fsw_rollout_inputs *inputs;
    const struct fsw_rollout_results *results;
    struct network network;
    const void *environment; /* [n_steps][2 + n_nodes] flux, tx, heat in the arithmetic's own type */
};

/* Roll lanes first .. first + count - 1 out, count at most the path's width. Returns 0 when a lane diverged. */
typedef int fsw_rollout_block(const struct rollout *r, int32_t first, int32_t count);

struct path {
    int32_t wide;   /* lanes of a wide block: several vectors, so that latencies overlap */
    int32_t narrow; /* lanes of one vector */
    fsw_rollout_block *roll_wide;
    fsw_rollout_block *roll_narrow;
};

extern const struct path fsw_rollout_scalar_f32, fsw_rollout_scalar_f64;
extern const struct path fsw_rollout_base_f32, fsw_rollout_base_f64;
#ifdef __x86_64__
extern const struct path fsw_rollout_avx2_f32, fsw_rollout_avx2_f64;
#endif

#endif
