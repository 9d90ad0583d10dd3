/* Truth plant: power and heat of one satellite, double precision, one trajectory.
 *
 * Owned by the caller, no globals, no allocation. Called through flightsw/kernels.py by the rig's plant.
 * Temperatures go by classical RK4; array, battery, heaters and protection are evaluated at the start of a
 * step and held over it (the battery by right rectangle on the held input). Only + - * / sqrt: results are
 * bit-identical on every IEEE 754 machine.
 */
#ifndef FSW_PLANT_H
#define FSW_PLANT_H

#include <stdint.h>

/* cffi: begin */
#define FSW_PLANT_NODES 24
#define FSW_PLANT_LINKS 64
#define FSW_PLANT_COMPUTE 8
#define FSW_PLANT_HEATERS 2

enum fsw_plant_status {
    FSW_PLANT_OK = 0,
    FSW_PLANT_E_NULL = -1,        /* a required pointer is NULL */
    FSW_PLANT_E_COUNT = -2,       /* n_nodes 1..24, n_links 0..64, n_compute 0..8 */
    FSW_PLANT_E_NODE = -3,        /* heat capacity 1e-3..1e9 J/K, radiating area 0..1e3 m2 */
    FSW_PLANT_E_LINK = -4,        /* both ends in range and different, conductance 0..1e6 W/K */
    FSW_PLANT_E_ARRAY = -5,       /* array parameter out of range */
    FSW_PLANT_E_BATTERY = -6,     /* battery parameter out of range, or OCV not in 0.1..1e3 V for 0..1 */
    FSW_PLANT_E_HEATER = -7,      /* heater_w 0..1e4 W, on_k < off_k where a heater has power, both 1..1000 K */
    FSW_PLANT_E_LOAD = -8,        /* bus_w or tx_w 0..1e5 W, tx_heat_frac 0..1, node index */
    FSW_PLANT_E_COMPUTE = -9,     /* compute node parameter out of range, or untrip_k above trip_k */
    FSW_PLANT_E_STEP = -10,       /* dt_s 1e-6..3600 s, n_steps 0..10 000 000 */
    FSW_PLANT_E_UNSTABLE = -11,   /* dt_s too long for RK4: dt (2 sum(G) + 4 s A T^3) / C > 2.7 at 500 K */
    FSW_PLANT_E_STATE = -12,      /* temperature 1..1000 K, battery_j 0..capacity, flags 0 or 1, finite sums */
    FSW_PLANT_E_INPUT = -13,      /* flux 0..1e5 W/m2, heat -1e6..1e6 W, compute 0..1e5 W, tx_on 0 or 1 */
    FSW_PLANT_E_DIVERGED = -14    /* a temperature left 1..1000 K; the state is unchanged */
};

/* Parameters. May be edited between calls (that is how faults are injected): every call checks them. */
struct fsw_plant_model {
    int32_t n_nodes;
    int32_t n_links;
    int32_t n_compute;
    double heat_capacity_j_k[24];
    double radiating_m2[24];        /* sum of emissivity * area that sees space */
    int32_t link_a[64];
    int32_t link_b[64];
    double link_w_k[64];

    int32_t array_node;
    double array_area_m2;
    double array_efficiency_frac;   /* at array_ref_k */
    double array_ref_k;
    double array_temp_coeff_per_k;  /* negative: efficiency * (1 + coeff * (T - ref)) */
    double array_health_frac;       /* ageing and faults */
    double array_absorptivity_frac; /* heat = absorptivity * area * flux - power drawn */
    double mppt_efficiency_frac;

    int32_t battery_node;           /* takes the battery's losses */
    double battery_capacity_j;
    double battery_ocv_v[4];        /* open-circuit volts: polynomial in charge fraction, constant first */
    double battery_resistance_ohm;
    double charge_limit_w;          /* at the pack's terminals */
    double taper_start_frac;        /* above it the limit falls linearly to zero at full; 1 = no taper */
    double charge_efficiency_frac;
    double cutoff_frac;             /* at or below it, and array short of the load: compute loses power */
    double restart_frac;            /* compute comes back at or above it; >= cutoff_frac */

    int32_t heater_node[2];
    double heater_w[2];             /* 0 = no heater */
    double heater_on_k[2];
    double heater_off_k[2];

    int32_t bus_node;
    double bus_w;
    double tx_w;
    double tx_heat_frac;            /* part of tx_w that heats bus_node; the rest leaves by the antenna */

    int32_t die_node[8];
    int32_t module_node[8];
    double die_heat_frac[8];        /* part of the power that heats the die; the rest heats the module */
    double leakage_per_k[8];        /* power = command * clamp(1 + leakage * (T_die - leak_ref), 0.5, 2) */
    double leak_ref_k[8];
    double trip_k[8];               /* the node's own protection: at it the node drops to trip_w ... */
    double untrip_k[8];             /* ... until the die is below this */
    double trip_w[8];
};

struct fsw_plant_state {
    double temperature_k[24];
    double battery_j;
    int32_t heater_on[2];
    int32_t tripped[8];
    int32_t brownout;
    /* running integrals; harvested = consumed + battery_loss + change of battery_j */
    double harvested_j;
    double consumed_j;
    double shunted_j;
    double battery_loss_j;
    double unmet_j;                 /* load that neither array nor battery carried */
    double node_j[8];
};

struct fsw_plant_input {            /* held over all steps of a call */
    double array_flux_w_m2;         /* irradiance * illumination * cosine */
    double heat_w[24];              /* absorbed from outside; not the array's own sunlight */
    double compute_w[8];            /* commanded electrical power */
    int32_t tx_on;
};

struct fsw_plant_output {           /* of the last step */
    double array_w;                 /* drawn */
    double array_available_w;
    double battery_w;               /* at the terminals, + charging */
    double battery_v;
    double battery_a;               /* + charging */
    double bus_total_w;             /* all loads carried */
    double compute_w[8];
    double heater_w;
    double tx_w;
};

/* Check the model for steps of dt_s. Return FSW_PLANT_OK or the first fault found. */
int fsw_plant_check(const struct fsw_plant_model *model, double dt_s);

/* Advance state by n_steps steps of dt_s with input held; fill output with the last step's powers (untouched
 * when n_steps is 0). On a negative return state and output are unchanged. */
int fsw_plant_advance(const struct fsw_plant_model *model, struct fsw_plant_state *state,
                      const struct fsw_plant_input *input, double dt_s, int32_t n_steps,
                      struct fsw_plant_output *output);
/* cffi: end */

#endif
