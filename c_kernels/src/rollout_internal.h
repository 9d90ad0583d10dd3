/* What the paths of the rollout kernel share; not for callers. */
#ifndef FSW_ROLLOUT_INTERNAL_H
#define FSW_ROLLOUT_INTERNAL_H

#include "rollout.h"

#define SIGMA_W_M2_K4 5.670374419e-8 /* Stefan-Boltzmann, CODATA 2018 */
/* Temperatures are kept as differences to this, so that 32-bit arithmetic resolves microkelvins. */
#define REFERENCE_K 288.0
#define STRETCH_STEPS 64 /* long enough to hide its copy of the state, short enough to be run twice */

/* Where heat comes from, in the order in which a node adds it up. */
enum {
    SOURCE_HEATER,
    SOURCE_BUS,
    SOURCE_COMPUTE,
    SOURCE_BATTERY = SOURCE_COMPUTE + FSW_ROLLOUT_COMPUTE,
    SOURCE_ARRAY,
    SOURCES
};

/* A thermal node as a step sees it; what follows its last neighbour and source belongs to the next in order. */
struct node {
    int32_t index;
    int32_t neighbour;      /* its first in network.column and .link */
    int32_t source;         /* its first in network.source */
    int32_t radiates;       /* 0 when no lane has a radiating area there */
    int32_t warmed;         /* 0 when no heat comes from outside in any step */
};

/* Who heats whom, for all lanes of a run, laid out in the order in which a step visits it. */
struct network {
    struct node node[FSW_ROLLOUT_NODES + 1]; /* the entry after the last node only ends its rows */
    int32_t early;                           /* of the nodes: those that do not wait for the battery come first */
    int32_t column[2 * FSW_ROLLOUT_LINKS];
    int32_t link[2 * FSW_ROLLOUT_LINKS];
    int32_t source[SOURCES];
    int32_t heater;                          /* 0 when no lane has a heater */
    int32_t shared;                          /* all lanes have the same capacities, areas and links */
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
extern const struct path fsw_rollout_avx512_f32, fsw_rollout_avx512_f64;
#endif

#endif
