/* Fuzz driver of the rollout kernel. An input chooses sizes, topology and numbers; every path must agree bit for
 * bit, stay inside buffers of exactly the stated size, and write nothing when it refuses.
 *
 *   clang -fsanitize=fuzzer,address,undefined -DFSW_LIBFUZZER ...      coverage-guided
 *   gcc -fsanitize=address,undefined ... && ./fuzz_rollout RUNS SEED   random input, the same for the same seed
 */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "rollout.h"

enum { BUFFERS = 192, PATHS = 4, SUMMARIES = 10 };

struct source {
    const uint8_t *data;
    size_t size;
};

static uint32_t byte_of(struct source *s)
{
    if (s->size == 0)
        return 0;
    s->size--;
    return *s->data++;
}

/* Mostly a number of the range; one in 256 of the bytes is a number that no range has. */
static double number(struct source *s, double low, double high)
{
    static const double STRANGE[4] = {NAN, INFINITY, -1e30, 1e30};
    uint32_t b = byte_of(s);
    return b == 255 ? STRANGE[byte_of(s) % 4] : low + (high - low) * b / 254.0;
}

static int32_t index_of(struct source *s, int32_t n)
{
    uint32_t b = byte_of(s);
    return b == 255 ? (int32_t)byte_of(s) - 128 : (int32_t)b % (n > 0 ? n : 1);
}

/* Exact heap blocks, freed together. */
static void *blocks[BUFFERS];
static int n_blocks;

static void *block(size_t size)
{
    REQUIRE(n_blocks < BUFFERS);
    void *p = malloc(size > 0 ? size : 1);
    REQUIRE(p != NULL);
    return blocks[n_blocks++] = p;
}

static double *numbers(struct source *s, int64_t n, double low, double high)
{
    double *p = block((size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++)
        p[i] = number(s, low, high);
    return p;
}

static void choose_topology(struct source *s, struct fsw_rollout_topology *t)
{
    t->n_nodes = 1 + index_of(s, FSW_ROLLOUT_NODES);
    t->n_links = t->n_nodes > 1 ? index_of(s, FSW_ROLLOUT_LINKS + 1) : 0;
    t->n_compute = index_of(s, FSW_ROLLOUT_COMPUTE + 1);
    for (int i = 0; i < FSW_ROLLOUT_LINKS; i++) {
        t->link_a[i] = index_of(s, t->n_nodes);
        t->link_b[i] = (t->link_a[i] + 1 + index_of(s, t->n_nodes - 1)) % (t->n_nodes > 0 ? t->n_nodes : 1);
    }
    for (int i = 0; i < FSW_ROLLOUT_COMPUTE; i++)
        t->compute_node[i] = index_of(s, t->n_nodes);
    t->array_node = index_of(s, t->n_nodes);
    t->battery_node = index_of(s, t->n_nodes);
    t->bus_node = index_of(s, t->n_nodes);
    t->heater_node = index_of(s, t->n_nodes);
    t->throttle = (int32_t)byte_of(s) & 1;
}

/* Ranges in which most choices are accepted, by row. */
static void range_of(int row, double *low, double *high)
{
    static const double SCALARS[28][2] = {
        {1e4, 2e5}, {2e5, 5e5}, {0, 2e5}, {0, 1e5}, {12, 14}, {14, 17}, {0, 0.5}, {0, 100}, {0, 1}, {0.5, 1},
        {0, 1}, {0, 0.4}, {280, 320}, {-0.01, 0.01}, {0, 1}, {0, 30}, {0, 1}, {0, 10}, {270, 280}, {280, 290},
        {0, 2}, {0, 2}, {300, 330}, {331, 360}, {0, 0.5}, {0.6, 1}, {0, 1}, {0, 0},
    };
    *low = row < 16 ? 250 : row < 32 ? 200 : row < 48 ? 0 : row < 64 ? 300 : row < 96 ? 0 : 0.5;
    *high = row < 16 ? 350 : row < 32 ? 5000 : row < 48 ? 0.5 : row < 64 ? 360 : row < 96 ? 5 : 1.5;
    if (row >= FSW_ROLLOUT_BATTERY_J) {
        *low = SCALARS[row - FSW_ROLLOUT_BATTERY_J][0];
        *high = SCALARS[row - FSW_ROLLOUT_BATTERY_J][1];
    }
}

static void choose_inputs(struct source *s, const struct fsw_rollout_topology *t, struct fsw_rollout_inputs *in)
{
    const int64_t n_nodes = t->n_nodes > 0 ? t->n_nodes : 1;
    const int64_t n_compute = t->n_compute > 0 ? t->n_compute : 0;
    in->dt_s = number(s, 0.1, 8.0);
    in->n_lanes = 1 + (int32_t)byte_of(s) % 70;
    in->n_slots = 1 + (int32_t)byte_of(s) % 4;
    int32_t *slot_steps = block((size_t)in->n_slots * sizeof *slot_steps);
    for (int32_t i = 0; i < in->n_slots; i++)
        in->n_steps += slot_steps[i] = 1 + (int32_t)byte_of(s) % 12;
    if (byte_of(s) == 255)
        slot_steps[0] = -slot_steps[0];
    in->slot_steps = slot_steps;
    in->array_flux_w_m2 = numbers(s, in->n_steps, 0, 1500);
    in->heat_w = numbers(s, in->n_steps * n_nodes, -50, 50);
    in->tx_w = numbers(s, in->n_steps, 0, 20);
    in->compute_w_lane_stride = byte_of(s) & 1;
    in->compute_w_node_stride = in->compute_w_lane_stride ? in->n_lanes : 1;
    in->compute_w_slot_stride = in->compute_w_node_stride * n_compute;
    in->compute_w = numbers(s, in->n_slots * in->compute_w_slot_stride, 0, 25);
    for (int row = 0; row < FSW_ROLLOUT_PARAMS; row++) {
        double low, high;
        if ((row < 64 && row % 16 >= n_nodes) || (row >= 64 && row < 96 && row - 64 >= t->n_links)
            || (row >= 96 && row < 104 && row - 96 >= n_compute))
            continue; /* an unused row: NULL */
        range_of(row, &low, &high);
        in->param_stride[row] = byte_of(s) & 1;
        in->param[row] = numbers(s, in->param_stride[row] ? in->n_lanes : 1, low, high);
    }
}

/* Results of one path, each array of exactly its size and filled with a pattern. */
static void lay_results(const struct fsw_rollout_topology *t, const struct fsw_rollout_inputs *in,
                        struct fsw_rollout_results *out, size_t *sizes, uint32_t optional)
{
    const size_t n = (size_t)in->n_lanes, nodes = (size_t)(t->n_nodes > 0 ? t->n_nodes : 1);
    const size_t compute = (size_t)(t->n_compute > 0 ? t->n_compute : 0), slots = (size_t)in->n_slots;
    const size_t all[SUMMARIES] = {8 * nodes * n, 4 * nodes * n, 8 * n, 4 * n, 8 * nodes * n, 8 * n,
                                   8 * compute * n, 8 * n, 4 * n, 8 * slots * (nodes + 1) * n};
    void *p[SUMMARIES];
    for (int i = 0; i < SUMMARIES; i++) {
        sizes[i] = all[i];
        p[i] = block(all[i]);
        memset(p[i], 0x5a, all[i]);
    }
    *out = (struct fsw_rollout_results){
        .lane_pitch = in->n_lanes, .max_temperature_k = p[0], .max_temperature_step = optional & 1 ? p[1] : NULL,
        .min_battery_j = p[2], .min_battery_step = p[3], .end_temperature_k = p[4], .end_battery_j = p[5],
        .compute_j = p[6], .unmet_s = p[7], .first_crossing_step = p[8], .trace = optional & 2 ? p[9] : NULL,
    };
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct source s = {data, size};
    struct fsw_rollout_topology t = {0};
    struct fsw_rollout_inputs in = {0};
    struct fsw_rollout_results out[PATHS];
    size_t sizes[SUMMARIES];
    int first_of[PATHS], code[PATHS];

    n_blocks = 0;
    const int32_t precision = byte_of(&s) & 1 ? 32 : 64;
    const uint32_t optional = byte_of(&s);
    choose_topology(&s, &t);
    choose_inputs(&s, &t, &in);
    int64_t length = fsw_rollout_scratch_len(t.n_nodes, in.n_steps);
    length = length > 0 ? length : 0;
    void *scratch = block((size_t)length);
    for (int path = 0; path < PATHS; path++) {
        first_of[path] = n_blocks;
        lay_results(&t, &in, &out[path], sizes, optional);
        code[path] = fsw_rollout_run_on(path, &t, &in, &out[path], precision, scratch, length);
        REQUIRE(code[path] <= 0 && code[path] >= FSW_ROLLOUT_E_DIVERGED);
        REQUIRE(code[path] == code[0] || code[path] == FSW_ROLLOUT_E_PATH);
        for (int i = 0; i < SUMMARIES; i++) {
            const uint8_t *bytes = blocks[first_of[path] + i];
            if (code[path] == FSW_ROLLOUT_OK)
                REQUIRE(memcmp(bytes, blocks[first_of[0] + i], sizes[i]) == 0);
            else if (code[path] != FSW_ROLLOUT_E_DIVERGED)
                for (size_t k = 0; k < sizes[i]; k++)
                    REQUIRE(bytes[k] == 0x5a);
        }
    }
    if (code[0] == FSW_ROLLOUT_OK)
        for (int32_t lane = 0; lane < in.n_lanes; lane++) {
            REQUIRE(out[0].end_battery_j[lane] >= out[0].min_battery_j[lane] && out[0].min_battery_j[lane] >= 0.0);
            REQUIRE(out[0].first_crossing_step[lane] >= -1 && out[0].first_crossing_step[lane] < in.n_steps);
        }
    while (n_blocks > 0)
        free(blocks[--n_blocks]);
    return 0;
}

#ifndef FSW_LIBFUZZER
int main(int argc, char **argv)
{
    static uint8_t script[16384];
    const long runs = argc > 1 ? strtol(argv[1], NULL, 10) : 1000;
    uint64_t random = argc > 2 ? strtoull(argv[2], NULL, 10) | 1U : 1U;
    for (long run = 0; run < runs; run++) {
        for (size_t i = 0; i < sizeof script; i++) {
            script[i] = (uint8_t)(next_word(&random) >> 40);
            if (run % 4 != 0 && script[i] == 255) /* one run in four is full of strange numbers */
                script[i] = (uint8_t)(random >> 32 & 0x7f);
        }
        LLVMFuzzerTestOneInput(script, run % 8 == 7 ? (size_t)(random >> 50) : sizeof script);
    }
    printf("%ld rollouts, every promise kept\n", runs);
    return 0;
}
#endif
