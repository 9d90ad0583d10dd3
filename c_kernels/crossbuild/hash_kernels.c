/* Prints hashes of what plant, rollout and frame codec compute for fixed made-up inputs, one line each: `NAME PATH HASH`.
 * Every machine, compiler and path must print the same hash for the same name. Run by crossbuild.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plant.h"
#include "rollout.h"
#include "tm_frame.h"

enum { LANES = 101, SLOTS = 3, STEPS = 450, NODES = 8, LINKS = 10, COMPUTE = 4, CASES = 8 };

static const int32_t LINK_A[LINKS] = {0, 1, 2, 3, 4, 4, 5, 6, 0, 5};
static const int32_t LINK_B[LINKS] = {4, 4, 4, 4, 5, 6, 6, 7, 1, 7};
static const double LINK_W_K[LINKS] = {1.2, 1.2, 1.2, 1.2, 6.0, 0.35, 0.2, 0.1, 0.3, 0.05};
static const double CAPACITY_J_K[NODES] = {60, 60, 60, 60, 900, 700, 5900, 1100};
static const double RADIATING_M2[NODES] = {0, 0, 0, 0, 0, 0.12, 0.09, 0.5};

static uint64_t random_state;

/* Uniform in low..high, from xorshift64: the same on every machine. */
static double uniform(double low, double high)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return low + (high - low) * ((double)(random_state >> 11) * 0x1p-53);
}

/* FNV-1a over the bytes of numbers; both machines are little-endian. */
static uint64_t hash(uint64_t so_far, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++)
        so_far = (so_far ^ bytes[i]) * 0x100000001b3u;
    return so_far;
}

static void require(int truth, const char *what, int code)
{
    if (truth)
        return;
    fprintf(stderr, "%s: code %d\n", what, code);
    exit(1);
}

static void hash_plant(void)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (int run = 0; run < 24; run++) {
        struct fsw_plant_model m = {.n_nodes = NODES, .n_links = LINKS, .n_compute = COMPUTE};
        struct fsw_plant_state s = {.battery_j = uniform(1.1e5, 4e5)};
        struct fsw_plant_input in = {.tx_on = run & 1};
        struct fsw_plant_output out;
        for (int i = 0; i < NODES; i++) {
            m.heat_capacity_j_k[i] = CAPACITY_J_K[i] * uniform(0.9, 1.1);
            m.radiating_m2[i] = RADIATING_M2[i];
            s.temperature_k[i] = uniform(270, 330);
            in.heat_w[i] = i < COMPUTE ? 0.0 : uniform(0, 30);
        }
        for (int i = 0; i < LINKS; i++) {
            m.link_a[i] = LINK_A[i];
            m.link_b[i] = LINK_B[i];
            m.link_w_k[i] = LINK_W_K[i] * uniform(0.9, 1.1);
        }
        m.array_node = 7;
        m.array_area_m2 = 0.3;
        m.array_efficiency_frac = 0.29;
        m.array_ref_k = 301.0;
        m.array_temp_coeff_per_k = -0.0022;
        m.array_health_frac = m.mppt_efficiency_frac = m.array_absorptivity_frac = 0.93;
        m.battery_node = m.bus_node = 6;
        m.battery_capacity_j = 5e5;
        m.battery_ocv_v[0] = 13.2;
        m.battery_ocv_v[1] = 3.2;
        m.battery_resistance_ohm = 0.08;
        m.charge_limit_w = 72.0;
        m.taper_start_frac = 0.9;
        m.charge_efficiency_frac = 0.98;
        m.cutoff_frac = 0.2;
        m.restart_frac = 0.25;
        m.bus_w = 13.0;
        m.tx_w = 18.0;
        m.tx_heat_frac = 0.7;
        for (int i = 0; i < FSW_PLANT_HEATERS; i++) {
            m.heater_node[i] = 5 + i;
            m.heater_w[i] = 6.0;
            m.heater_on_k[i] = 285.0;
            m.heater_off_k[i] = 290.0;
        }
        for (int i = 0; i < COMPUTE; i++) {
            m.die_node[i] = i;
            m.module_node[i] = 4;
            m.die_heat_frac[i] = 0.7;
            m.leakage_per_k[i] = 0.003;
            m.leak_ref_k[i] = 300.0;
            m.trip_k[i] = 340.0;
            m.untrip_k[i] = 330.0;
            m.trip_w[i] = 4.0;
            in.compute_w[i] = uniform(0, 60);
        }
        for (int part = 0; part < 40; part++) {
            in.array_flux_w_m2 = part % 8 < 5 ? uniform(900, 1361) : 0.0;
            int code = fsw_plant_advance(&m, &s, &in, 1.0, 60, &out);
            require(code == FSW_PLANT_OK, "fsw_plant_advance", code);
            h = hash(h, s.temperature_k, sizeof s.temperature_k);
            h = hash(h, &s.battery_j, sizeof s.battery_j);
            h = hash(h, s.tripped, sizeof s.tripped);
            h = hash(h, s.node_j, sizeof s.node_j);
            h = hash(h, &s.harvested_j, 5 * sizeof s.harvested_j);
            h = hash(h, &out.array_w, 6 * sizeof out.array_w);
        }
    }
    printf("plant 0 %016llx\n", (unsigned long long)h);
}

static double flux_w_m2[STEPS], tx_w[STEPS], heat_w[STEPS * NODES], compute_w[SLOTS * COMPUTE * LANES];
static double params[FSW_ROLLOUT_PARAMS][LANES];
static double scratch[STEPS * (NODES + 2)];
static struct {
    double max_k[NODES * LANES], end_k[NODES * LANES], lowest_j[LANES], end_j[LANES], drawn_j[COMPUTE * LANES];
    double unmet_s[LANES], trace[SLOTS * (NODES + 1) * LANES];
    int32_t max_step[NODES * LANES], lowest_step[LANES], crossing[LANES];
} results; /* no padding: hashed whole */

/* The middle of each lane parameter; lanes lie around it. */
static double middle_of(int row)
{
    static const double SCALARS[FSW_ROLLOUT_PARAMS - FSW_ROLLOUT_BATTERY_J] = {
        395e3, 522e3, 385e3, 380e3, 13.2, 16.4, 0.08, 72.0, 0.9, 0.95, 0.3, 0.27, 301.0, -0.0022, 0.9, 13.0,
        0.7, 6.0, 275.0, 285.0, 1.0, 1.0, 320.0, 350.0, 0.6, 0.82, 0.2, 0.0,
    };
    static const double LIMIT_K[NODES] = {353, 353, 353, 353, 328, 323, 318, 400};
    if (row < FSW_ROLLOUT_CAPACITY_J_K)
        return 295.0;
    if (row < FSW_ROLLOUT_RADIATING_M2)
        return CAPACITY_J_K[row % NODES];
    if (row < FSW_ROLLOUT_LIMIT_K)
        return RADIATING_M2[row % NODES];
    if (row < FSW_ROLLOUT_LINK_W_K)
        return LIMIT_K[row % NODES];
    if (row < FSW_ROLLOUT_ACTIVITY_FRAC)
        return LINK_W_K[(row - FSW_ROLLOUT_LINK_W_K) % LINKS];
    return row < FSW_ROLLOUT_BATTERY_J ? 1.0 : SCALARS[row - FSW_ROLLOUT_BATTERY_J];
}

static int is_kelvin(int row)
{
    return row < FSW_ROLLOUT_CAPACITY_J_K || (row >= FSW_ROLLOUT_LIMIT_K && row < FSW_ROLLOUT_LINK_W_K)
           || row == FSW_ROLLOUT_ARRAY_REF_K || row == FSW_ROLLOUT_HEATER_ON_K || row == FSW_ROLLOUT_HEATER_OFF_K
           || row == FSW_ROLLOUT_THROTTLE_FULL_K || row == FSW_ROLLOUT_THROTTLE_ZERO_K;
}

static void hash_rollout(int32_t path, int32_t precision)
{
    static const int32_t slot_steps[SLOTS] = {100, 300, 50};
    uint64_t h = 0xcbf29ce484222325u;

    random_state = 20250101;
    memset(&results, 0, sizeof results);
    for (int which = 0; which < CASES; which++) {
        struct fsw_rollout_topology t = {
            .n_nodes = NODES, .n_links = LINKS, .n_compute = COMPUTE, .compute_node = {0, 1, 2, 3}, .array_node = 7,
            .battery_node = 6, .bus_node = 6, .heater_node = 6, .throttle = which & 1};
        struct fsw_rollout_inputs in = {
            .dt_s = 5.0, .n_lanes = LANES - which, .n_steps = STEPS, .n_slots = SLOTS, .slot_steps = slot_steps,
            .array_flux_w_m2 = flux_w_m2, .heat_w = heat_w, .tx_w = tx_w, .compute_w = compute_w,
            .compute_w_slot_stride = COMPUTE * LANES, .compute_w_node_stride = LANES, .compute_w_lane_stride = 1};
        struct fsw_rollout_results out = {
            .lane_pitch = LANES, .max_temperature_k = results.max_k, .min_battery_j = results.lowest_j,
            .max_temperature_step = which & 2 ? results.max_step : NULL, .min_battery_step = results.lowest_step,
            .end_temperature_k = results.end_k, .end_battery_j = results.end_j, .compute_j = results.drawn_j,
            .unmet_s = results.unmet_s, .first_crossing_step = results.crossing, .trace = results.trace};
        for (int i = 0; i < LINKS; i++) {
            t.link_a[i] = LINK_A[i];
            t.link_b[i] = LINK_B[i];
        }
        for (int step = 0; step < STEPS; step++) {
            flux_w_m2[step] = step > 20 && step < 300 ? 1361.0 : 0.0;
            tx_w[step] = step < 90 ? 18.0 : 0.0;
            for (int i = 0; i < NODES; i++)
                heat_w[step * NODES + i] = i == 5 || i == 7 ? uniform(10, 30) : 0.0;
        }
        for (int i = 0; i < SLOTS * COMPUTE * LANES; i++)
            compute_w[i] = uniform(0, 22);
        for (int row = 0; row < FSW_ROLLOUT_PARAMS; row++) {
            double spread = is_kelvin(row) ? 0.005 : row == FSW_ROLLOUT_BATTERY_J ? 0.035 : 0.01;
            for (int lane = 0; lane < LANES; lane++)
                params[row][lane] = middle_of(row) * uniform(1.0 - spread, 1.0 + spread);
            in.param[row] = params[row];
            in.param_stride[row] = (which & 4) == 0 || row < 16 || row > FSW_ROLLOUT_LINK_W_K + LINKS;
        }
        int code = fsw_rollout_run_on(path, &t, &in, &out, precision, scratch, sizeof scratch);
        if (code == FSW_ROLLOUT_E_PATH)
            return;
        require(code == FSW_ROLLOUT_OK, "fsw_rollout_run_on", code);
        h = hash(h, &results, sizeof results);
    }
    printf("rollout_f%d %d %016llx\n", precision, path, (unsigned long long)h);
}

static void hash_tm_frame(void)
{
    static struct fsw_frame_codec codec;
    uint64_t h = 0xcbf29ce484222325u;
    uint8_t body[FSW_FRAME_OCTETS_MAX], line[4 + FSW_FRAME_OCTETS_MAX], out[FSW_FRAME_OCTETS_MAX];

    for (int32_t interleave = 0; interleave <= FSW_RS_INTERLEAVE_MAX; interleave++) {
        const int32_t octets = FSW_RS_DATA_OCTETS * (interleave > 0 ? interleave : 5);
        require(fsw_frame_init(&codec, octets, interleave) == 0, "fsw_frame_init", octets);
        const size_t block = (size_t)codec.block_octets;
        for (int wrong = 0; wrong <= 20 * interleave; wrong++) {
            int32_t corrected = 0;
            for (int32_t i = 0; i < octets; i++)
                body[i] = (uint8_t)uniform(0, 256);
            require(fsw_frame_encode(&codec, body, (size_t)octets - 2, line, 4 + block) == 0, "fsw_frame_encode", wrong);
            h = hash(h, line, 4 + block);
            for (int i = 0; i < wrong; i++)
                line[4 + (size_t)uniform(0, (double)block)] ^= (uint8_t)uniform(1, 256);
            const int code = fsw_frame_decode(&codec, line + 4, block, out, block, &corrected);
            h = hash(h, &code, sizeof code);
            if (code == 0) {
                h = hash(h, out, (size_t)octets);
                h = hash(h, &corrected, sizeof corrected);
            }
        }
    }
    printf("tm_frame 0 %016llx\n", (unsigned long long)h);
}

int main(void)
{
    random_state = 20250101;
    hash_plant();
    hash_tm_frame();
    for (int32_t precision = 32; precision <= 64; precision += 32)
        for (int32_t path = 0; path <= 3; path++)
            hash_rollout(path, precision);
    return 0;
}
