/* Flight model: power and heat of many satellites at once ("lanes"), for planner, admission and governor.
 *
 * A lane is one parameter set under one policy; all lanes share the topology and the environment. Explicit
 * Euler on a network of linear links and T^4 radiators, battery with pack loss and charge taper, optional
 * throttle law. Every lane's result is the same bit for bit on every path (scalar, baseline vectors, AVX2,
 * AVX-512), machine and batch position: only + - * / sqrt in a fixed order, no contraction. No globals, no
 * allocation; needs about 100 KiB of stack. Called through flightsw/kernels.py.
 */
#ifndef FSW_ROLLOUT_H
#define FSW_ROLLOUT_H

#include <stdint.h>

/* cffi: begin */
#define FSW_ROLLOUT_NODES 16
#define FSW_ROLLOUT_LINKS 32
#define FSW_ROLLOUT_COMPUTE 8

enum fsw_rollout_status {
    FSW_ROLLOUT_OK = 0,
    FSW_ROLLOUT_E_NULL = -1,        /* a required pointer is NULL */
    FSW_ROLLOUT_E_COUNT = -2,       /* n_nodes 1..16, n_links 0..32, n_compute 0..8 */
    FSW_ROLLOUT_E_TOPOLOGY = -3,    /* a node index is out of range, or a link joins a node to itself */
    FSW_ROLLOUT_E_SIZE = -4,        /* n_lanes, n_steps or n_slots < 1, or slot_steps do not sum to n_steps */
    FSW_ROLLOUT_E_STEP = -5,        /* dt_s 1e-3..3600 s */
    FSW_ROLLOUT_E_PARAM = -6,       /* a lane parameter is not finite or out of its range */
    FSW_ROLLOUT_E_ENVIRONMENT = -7, /* flux 0..1e5 W/m2, heat -1e5..1e5 W, tx 0..1e4 W */
    FSW_ROLLOUT_E_POLICY = -8,      /* compute_w 0..1e4 W */
    FSW_ROLLOUT_E_UNSTABLE = -9,    /* dt (sum(G) + 4 s A T^3) / C > 1 at 400 K in some lane */
    FSW_ROLLOUT_E_SCRATCH = -10,    /* scratch smaller than fsw_rollout_scratch_len */
    FSW_ROLLOUT_E_PRECISION = -11,  /* precision is neither 32 nor 64 */
    FSW_ROLLOUT_E_PATH = -12,       /* this machine has no such path */
    FSW_ROLLOUT_E_DIVERGED = -13    /* a lane left 1..1000 K; the results must not be used */
};

/* Rows of the lane parameters: first row of each; [..] = one row per node, link or compute node. */
enum fsw_rollout_param {
    FSW_ROLLOUT_TEMPERATURE_K = 0,       /* [16] at the start, 1..1000 */
    FSW_ROLLOUT_CAPACITY_J_K = 16,       /* [16] heat capacity, 0.01..1e8 */
    FSW_ROLLOUT_RADIATING_M2 = 32,       /* [16] emissivity * area that sees space, 0..100 */
    FSW_ROLLOUT_LIMIT_K = 48,            /* [16] upper limit, for first_crossing_step, 1..1000 */
    FSW_ROLLOUT_LINK_W_K = 64,           /* [32] conductance, 0..1e5 */
    FSW_ROLLOUT_ACTIVITY_FRAC = 96,      /* [8] scale on compute_w, 0..4 */
    FSW_ROLLOUT_BATTERY_J = 104,         /* at the start, 0..capacity */
    FSW_ROLLOUT_BATTERY_CAPACITY_J = 105,/* 1..1e9 */
    FSW_ROLLOUT_BATTERY_FLOOR_J = 106,   /* limit, for first_crossing_step, 0..1e9 */
    FSW_ROLLOUT_BATTERY_CUTOFF_J = 107,  /* the pack delivers nothing below it, 0..1e9 */
    FSW_ROLLOUT_OCV_EMPTY_V = 108,       /* open-circuit volts at charge 0, 1..500; linear in charge to ... */
    FSW_ROLLOUT_OCV_FULL_V = 109,        /* ... volts at charge 1, 1..500 */
    FSW_ROLLOUT_RESISTANCE_OHM = 110,    /* pack, 0..10 */
    FSW_ROLLOUT_CHARGE_LIMIT_W = 111,    /* at the terminals, 0..1e5 */
    FSW_ROLLOUT_TAPER_START_FRAC = 112,  /* above it the limit falls linearly to 0 at full, 0..1 */
    FSW_ROLLOUT_CHARGE_EFF_FRAC = 113,   /* 0.1..1 */
    FSW_ROLLOUT_ARRAY_AREA_M2 = 114,     /* 0..100 */
    FSW_ROLLOUT_ARRAY_EFF_FRAC = 115,    /* cells * mppt * health at ARRAY_REF_K, 0..1 */
    FSW_ROLLOUT_ARRAY_REF_K = 116,       /* 1..1000 */
    FSW_ROLLOUT_ARRAY_COEFF_PER_K = 117, /* -0.02..0.02 */
    FSW_ROLLOUT_ARRAY_ABSORPT_FRAC = 118,/* heat = absorptivity * area * flux - power drawn, 0..1 */
    FSW_ROLLOUT_BUS_W = 119,             /* 0..1e4 */
    FSW_ROLLOUT_TX_HEAT_FRAC = 120,      /* part of tx_w that heats bus_node, 0..1 */
    FSW_ROLLOUT_HEATER_W = 121,          /* 0..1e3 */
    FSW_ROLLOUT_HEATER_ON_K = 122,       /* on below, 1..1000 */
    FSW_ROLLOUT_HEATER_OFF_K = 123,      /* off above, >= HEATER_ON_K, 1..1000 */
    FSW_ROLLOUT_FLUX_SCALE_FRAC = 124,   /* on array_flux_w_m2, 0..4 */
    FSW_ROLLOUT_HEAT_SCALE_FRAC = 125,   /* on heat_w, 0..4 */
    FSW_ROLLOUT_THROTTLE_FULL_K = 126,   /* factor 1 at or below, linear down to ... 1..1000 */
    FSW_ROLLOUT_THROTTLE_ZERO_K = 127,   /* ... 0 at or above; >= THROTTLE_FULL_K + 0.01 */
    FSW_ROLLOUT_THROTTLE_ZERO_FRAC = 128,/* charge fraction with factor 0, linear up to ... 0..2 */
    FSW_ROLLOUT_THROTTLE_FULL_FRAC = 129,/* ... 1; >= THROTTLE_ZERO_FRAC + 0.0001 */
    FSW_ROLLOUT_THROTTLE_MIN_FRAC = 130, /* the product of both factors is never below this, 0..1 */
    FSW_ROLLOUT_HEATER_START_ON = 131,   /* thermostat at the start: 0 or 1 */
    FSW_ROLLOUT_PARAMS = 132
};

struct fsw_rollout_topology {
    int32_t n_nodes;
    int32_t n_links;
    int32_t n_compute;
    int32_t link_a[32];
    int32_t link_b[32];
    int32_t compute_node[8];        /* thermal node that a compute node heats; the throttle law looks at it */
    int32_t array_node;
    int32_t battery_node;           /* takes the battery's losses */
    int32_t bus_node;
    int32_t heater_node;            /* heated and watched by the thermostat */
    int32_t throttle;               /* 1: the throttle law scales compute power; 0: factor 1 */
};

struct fsw_rollout_inputs {
    double dt_s;
    int32_t n_lanes;
    int32_t n_steps;
    int32_t n_slots;
    const int32_t *slot_steps;      /* [n_slots] steps per slot, >= 1 */
    const double *array_flux_w_m2;  /* [n_steps] irradiance * illumination * cosine */
    const double *heat_w;           /* [n_steps][n_nodes] absorbed from outside, not the array's sunlight */
    const double *tx_w;             /* [n_steps] transmitter draw */
    const double *compute_w;        /* power per slot, compute node, lane, at the three strides below */
    int64_t compute_w_slot_stride;
    int64_t compute_w_node_stride;
    int64_t compute_w_lane_stride;  /* 0: one policy for all lanes */
    const double *param[132];       /* rows of enum fsw_rollout_param; unused node/link rows may be NULL */
    int64_t param_stride[132];      /* 1: a value per lane; 0: one value for all lanes */
};

/* Every array is [..][lane_pitch]; only the first n_lanes of a row are written. Steps count from 0; the
 * values compared are those at the end of a step. */
struct fsw_rollout_results {
    int64_t lane_pitch;             /* >= n_lanes */
    double *max_temperature_k;      /* [n_nodes] */
    int32_t *max_temperature_step;  /* [n_nodes] first step with the maximum, -1: at the start; may be NULL */
    double *min_battery_j;
    int32_t *min_battery_step;      /* -1: at the start */
    double *end_temperature_k;      /* [n_nodes] */
    double *end_battery_j;
    double *compute_j;              /* [n_compute] energy drawn, after throttle */
    double *unmet_s;                /* time in which the pack was at its cut-off and the load not carried */
    int32_t *first_crossing_step;   /* first step with a node above LIMIT_K or charge below floor; -1: none */
    double *trace;                  /* [n_slots][n_nodes + 1] temperatures (K), battery (J) at slot ends; may be NULL */
};

/* Bytes of scratch that fsw_rollout_run needs; negative code when the counts are out of range. */
int64_t fsw_rollout_scratch_len(int32_t n_nodes, int32_t n_steps);

/* Roll all lanes out in 32- or 64-bit arithmetic (inputs and results are doubles either way), on the fastest
 * path of this machine. Inputs are checked before anything is written. */
int fsw_rollout_run(const struct fsw_rollout_topology *topology, const struct fsw_rollout_inputs *inputs,
                    const struct fsw_rollout_results *results, int32_t precision, void *scratch,
                    int64_t scratch_len);

/* The same on a stated path: 0 scalar, 1 baseline vectors (SSE2, NEON), 2 AVX2, 3 AVX-512. For tests. */
int fsw_rollout_run_on(int32_t path, const struct fsw_rollout_topology *topology,
                       const struct fsw_rollout_inputs *inputs, const struct fsw_rollout_results *results,
                       int32_t precision, void *scratch, int64_t scratch_len);
/* cffi: end */

#endif
