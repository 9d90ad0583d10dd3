/* Checks of the rollout kernel, and the choice of its path. The model itself is rollout_template.h. */
#include "rollout_internal.h"

#include <stddef.h>

#define STABILITY_K 400.0 /* hottest node for which explicit Euler must stay monotone */

struct range {
    double low, high;
};

static const struct range NODE_RANGES[4] = {{1.0, 1000.0}, {0.01, 1e8}, {0.0, 100.0}, {1.0, 1000.0}};
static const struct range LINK_RANGE = {0.0, 1e5};
static const struct range ACTIVITY_RANGE = {0.0, 4.0};

/* In the order of enum fsw_rollout_param from FSW_ROLLOUT_BATTERY_J on. */
static const struct range SCALAR_RANGES[FSW_ROLLOUT_PARAMS - FSW_ROLLOUT_BATTERY_J] = {
    {0.0, 1e9},     {1.0, 1e9},     {0.0, 1e9},    {0.0, 1e9},   /* battery: charge, capacity, floor, cutoff */
    {1.0, 500.0},   {1.0, 500.0},   {0.0, 10.0},                 /* open-circuit volts, resistance */
    {0.0, 1e5},     {0.0, 1.0},     {0.1, 1.0},                  /* charge limit, taper, efficiency */
    {0.0, 100.0},   {0.0, 1.0},     {1.0, 1000.0}, {-0.02, 0.02}, {0.0, 1.0}, /* array */
    {0.0, 1e4},     {0.0, 1.0},                                  /* bus, transmitter heat */
    {0.0, 1e3},     {1.0, 1000.0},  {1.0, 1000.0},               /* heater */
    {0.0, 4.0},     {0.0, 4.0},                                  /* environment scales */
    {1.0, 1000.0},  {1.0, 1000.0},  {0.0, 2.0},    {0.0, 2.0},   {0.0, 1.0}, /* throttle law */
    {0.0, 1.0},                                                  /* heater at the start */
};

/* False for NaN as well. */
static int within(double value, double low, double high)
{
    return value >= low && value <= high;
}

static int all_within(const double *values, int64_t n, double low, double high)
{
    int ok = 1;
    for (int64_t i = 0; i < n; i++)
        ok &= (values[i] >= low) & (values[i] <= high);
    return ok;
}

static int64_t stride_of(const struct fsw_rollout_inputs *in, int32_t row)
{
    return in->param_stride[row];
}

static double value_of(const struct fsw_rollout_inputs *in, int32_t row, int64_t lane)
{
    return in->param[row][lane * in->param_stride[row]];
}

static int check_row(const struct fsw_rollout_inputs *in, int32_t row, struct range range)
{
    if (in->param[row] == NULL || (stride_of(in, row) != 0 && stride_of(in, row) != 1))
        return 0;
    return all_within(in->param[row], stride_of(in, row) ? in->n_lanes : 1, range.low, range.high);
}

static int check_topology(const struct fsw_rollout_topology *t)
{
    if (t->n_nodes < 1 || t->n_nodes > FSW_ROLLOUT_NODES || t->n_links < 0 || t->n_links > FSW_ROLLOUT_LINKS
        || t->n_compute < 0 || t->n_compute > FSW_ROLLOUT_COMPUTE)
        return FSW_ROLLOUT_E_COUNT;
#define IS_NODE(i) ((i) >= 0 && (i) < t->n_nodes)
    int ok = IS_NODE(t->array_node) && IS_NODE(t->battery_node) && IS_NODE(t->bus_node)
             && IS_NODE(t->heater_node) && (t->throttle == 0 || t->throttle == 1);
    for (int32_t i = 0; i < t->n_compute; i++)
        ok = ok && IS_NODE(t->compute_node[i]);
    for (int32_t i = 0; i < t->n_links; i++)
        ok = ok && IS_NODE(t->link_a[i]) && IS_NODE(t->link_b[i]) && t->link_a[i] != t->link_b[i];
#undef IS_NODE
    return ok ? FSW_ROLLOUT_OK : FSW_ROLLOUT_E_TOPOLOGY;
}

static int check_sizes(const struct fsw_rollout_inputs *in, const struct fsw_rollout_results *out)
{
    int64_t steps = 0;

    if (in->n_lanes < 1 || in->n_steps < 1 || in->n_steps > (1 << 24) || in->n_slots < 1
        || out->lane_pitch < in->n_lanes)
        return FSW_ROLLOUT_E_SIZE;
    for (int32_t slot = 0; slot < in->n_slots; slot++) {
        if (in->slot_steps[slot] < 1)
            return FSW_ROLLOUT_E_SIZE;
        steps += in->slot_steps[slot];
    }
    if (steps != in->n_steps)
        return FSW_ROLLOUT_E_SIZE;
    return within(in->dt_s, 1e-3, 3600.0) ? FSW_ROLLOUT_OK : FSW_ROLLOUT_E_STEP;
}

static int check_params(const struct fsw_rollout_topology *t, const struct fsw_rollout_inputs *in)
{
    for (int32_t i = 0; i < t->n_nodes; i++)
        for (int32_t kind = 0; kind < 4; kind++)
            if (!check_row(in, kind * FSW_ROLLOUT_NODES + i, NODE_RANGES[kind]))
                return FSW_ROLLOUT_E_PARAM;
    for (int32_t i = 0; i < t->n_links; i++)
        if (!check_row(in, FSW_ROLLOUT_LINK_W_K + i, LINK_RANGE))
            return FSW_ROLLOUT_E_PARAM;
    for (int32_t i = 0; i < t->n_compute; i++)
        if (!check_row(in, FSW_ROLLOUT_ACTIVITY_FRAC + i, ACTIVITY_RANGE))
            return FSW_ROLLOUT_E_PARAM;
    for (int32_t row = FSW_ROLLOUT_BATTERY_J; row < FSW_ROLLOUT_PARAMS; row++)
        if (!check_row(in, row, SCALAR_RANGES[row - FSW_ROLLOUT_BATTERY_J]))
            return FSW_ROLLOUT_E_PARAM;
    for (int64_t lane = 0; lane < in->n_lanes; lane++) {
#define P(row) value_of(in, (row), lane)
        double on = P(FSW_ROLLOUT_HEATER_START_ON);
        if (P(FSW_ROLLOUT_BATTERY_J) > P(FSW_ROLLOUT_BATTERY_CAPACITY_J)
            || P(FSW_ROLLOUT_HEATER_OFF_K) < P(FSW_ROLLOUT_HEATER_ON_K) || (on > 0.0 && on < 1.0)
            || P(FSW_ROLLOUT_THROTTLE_ZERO_K) - P(FSW_ROLLOUT_THROTTLE_FULL_K) < 0.01 * 0.999
            || P(FSW_ROLLOUT_THROTTLE_FULL_FRAC) - P(FSW_ROLLOUT_THROTTLE_ZERO_FRAC) < 1e-4 * 0.999)
            return FSW_ROLLOUT_E_PARAM;
#undef P
    }
    return FSW_ROLLOUT_OK;
}

static int check_drive(const struct fsw_rollout_topology *t, const struct fsw_rollout_inputs *in)
{
    if (!all_within(in->array_flux_w_m2, in->n_steps, 0.0, 1e5)
        || !all_within(in->heat_w, (int64_t)in->n_steps * t->n_nodes, -1e5, 1e5)
        || !all_within(in->tx_w, in->n_steps, 0.0, 1e4))
        return FSW_ROLLOUT_E_ENVIRONMENT;
    int64_t lanes = in->compute_w_lane_stride ? in->n_lanes : 1;
    for (int32_t slot = 0; slot < in->n_slots; slot++)
        for (int32_t c = 0; c < t->n_compute; c++) {
            const double *row = in->compute_w + slot * in->compute_w_slot_stride + c * in->compute_w_node_stride;
            for (int64_t lane = 0; lane < lanes; lane++)
                if (!within(row[lane * in->compute_w_lane_stride], 0.0, 1e4))
                    return FSW_ROLLOUT_E_POLICY;
        }
    return FSW_ROLLOUT_OK;
}

/* The value at `row` is 0 in every lane. */
static int all_zero(const struct fsw_rollout_inputs *in, int32_t row)
{
    return all_within(in->param[row], stride_of(in, row) ? in->n_lanes : 1, 0.0, 0.0);
}

static int network_varies(const struct fsw_rollout_topology *t, const struct fsw_rollout_inputs *in)
{
    int64_t varies = 0;

    for (int32_t i = 0; i < t->n_nodes; i++)
        varies |= stride_of(in, FSW_ROLLOUT_CAPACITY_J_K + i) | stride_of(in, FSW_ROLLOUT_RADIATING_M2 + i);
    for (int32_t i = 0; i < t->n_links; i++)
        varies |= stride_of(in, FSW_ROLLOUT_LINK_W_K + i);
    return varies != 0;
}

/* With dt (sum(G) + d(radiation)/dT) <= C a step is monotone in every temperature: no overshoot, and more
 * heat never ends colder. The governor's one-corner argument rests on it. */
static int check_stability(const struct fsw_rollout_topology *t, const struct fsw_rollout_inputs *in)
{
    const double radiative_w_m2_k = 4.0 * SIGMA_W_M2_K4 * (STABILITY_K * STABILITY_K * STABILITY_K);
    for (int64_t lane = 0; lane < (network_varies(t, in) ? in->n_lanes : 1); lane++) {
        double sum_w_k[FSW_ROLLOUT_NODES];
        for (int32_t i = 0; i < t->n_nodes; i++)
            sum_w_k[i] = radiative_w_m2_k * value_of(in, FSW_ROLLOUT_RADIATING_M2 + i, lane);
        for (int32_t i = 0; i < t->n_links; i++) {
            sum_w_k[t->link_a[i]] += value_of(in, FSW_ROLLOUT_LINK_W_K + i, lane);
            sum_w_k[t->link_b[i]] += value_of(in, FSW_ROLLOUT_LINK_W_K + i, lane);
        }
        for (int32_t i = 0; i < t->n_nodes; i++)
            if (in->dt_s * sum_w_k[i] > value_of(in, FSW_ROLLOUT_CAPACITY_J_K + i, lane))
                return FSW_ROLLOUT_E_UNSTABLE;
    }
    return FSW_ROLLOUT_OK;
}

/* Append the neighbours of node i; returns the number of entries. */
static int32_t lay_neighbours(const struct fsw_rollout_topology *t, int32_t i, int32_t entry, struct network *net)
{
    for (int32_t link = 0; link < t->n_links; link++)
        if (t->link_a[link] == i || t->link_b[link] == i) {
            net->column[entry] = t->link_a[link] == i ? t->link_b[link] : t->link_a[link];
            net->link[entry++] = link;
        }
    return entry;
}

/* Append the heat sources of node i; returns the number of entries. */
static int32_t lay_sources(const struct fsw_rollout_topology *t, int32_t i, int32_t entry, struct network *net)
{
    if (net->heater && t->heater_node == i)
        net->source[entry++] = SOURCE_HEATER;
    if (t->bus_node == i)
        net->source[entry++] = SOURCE_BUS;
    for (int32_t c = 0; c < t->n_compute; c++)
        if (t->compute_node[c] == i)
            net->source[entry++] = SOURCE_COMPUTE + c;
    if (t->battery_node == i)
        net->source[entry++] = SOURCE_BATTERY;
    if (t->array_node == i)
        net->source[entry++] = SOURCE_ARRAY;
    return entry;
}

static void lay_network(const struct fsw_rollout_topology *t, const struct fsw_rollout_inputs *in,
                        struct network *net)
{
    struct node *node = net->node;
    int32_t neighbours = 0, sources = 0;

    net->heater = !all_zero(in, FSW_ROLLOUT_HEATER_W);
    net->shared = !network_varies(t, in);
    net->early = 0;
    for (int late = 0; late <= 1; late++)
        for (int32_t i = 0; i < t->n_nodes; i++) {
            if ((i == t->battery_node || i == t->array_node) != late)
                continue;
            net->early += !late;
            node->index = i;
            node->neighbour = neighbours;
            node->source = sources;
            node->radiates = !all_zero(in, FSW_ROLLOUT_RADIATING_M2 + i);
            node->warmed = 0;
            for (int64_t step = 0; step < in->n_steps; step++)
                node->warmed |= in->heat_w[step * t->n_nodes + i] != 0.0;
            neighbours = lay_neighbours(t, i, neighbours, net);
            sources = lay_sources(t, i, sources, net);
            node++;
        }
    node->neighbour = neighbours;
    node->source = sources;
}

static void lay_environment(const struct fsw_rollout_topology *t, const struct fsw_rollout_inputs *in,
                            int32_t precision, void *scratch)
{
    const int32_t n = t->n_nodes;
    float *narrow = scratch;
    double *wide = scratch;

    for (int64_t step = 0; step < in->n_steps; step++)
        for (int32_t i = 0; i < n + 2; i++) {
            double value = i == 0 ? in->array_flux_w_m2[step]
                           : i == 1 ? in->tx_w[step] : in->heat_w[step * n + i - 2];
            if (precision == 32)
                narrow[step * (n + 2) + i] = (float)value;
            else
                wide[step * (n + 2) + i] = value;
        }
}

static const struct path *path_of(int32_t path, int32_t precision)
{
    if (path == 0)
        return precision == 32 ? &fsw_rollout_scalar_f32 : &fsw_rollout_scalar_f64;
    if (path == 1)
        return precision == 32 ? &fsw_rollout_base_f32 : &fsw_rollout_base_f64;
#if defined(__x86_64__)
    if (path == 2 && __builtin_cpu_supports("avx2"))
        return precision == 32 ? &fsw_rollout_avx2_f32 : &fsw_rollout_avx2_f64;
    if (path == 3 && __builtin_cpu_supports("avx512f"))
        return precision == 32 ? &fsw_rollout_avx512_f32 : &fsw_rollout_avx512_f64;
#endif
    return NULL;
}

int64_t fsw_rollout_scratch_len(int32_t n_nodes, int32_t n_steps)
{
    if (n_nodes < 1 || n_nodes > FSW_ROLLOUT_NODES)
        return FSW_ROLLOUT_E_COUNT;
    if (n_steps < 1)
        return FSW_ROLLOUT_E_SIZE;
    return (int64_t)n_steps * (n_nodes + 2) * (int64_t)sizeof(double);
}

static int any_null(const struct fsw_rollout_topology *t, const struct fsw_rollout_inputs *in,
                    const struct fsw_rollout_results *out, const void *scratch)
{
    if (t == NULL || in == NULL || out == NULL || scratch == NULL)
        return 1;
    return in->slot_steps == NULL || in->array_flux_w_m2 == NULL || in->heat_w == NULL || in->tx_w == NULL
           || in->compute_w == NULL || out->max_temperature_k == NULL || out->min_battery_j == NULL
           || out->min_battery_step == NULL || out->end_temperature_k == NULL || out->end_battery_j == NULL
           || out->compute_j == NULL || out->unmet_s == NULL || out->first_crossing_step == NULL;
}

int fsw_rollout_run_on(int32_t path, const struct fsw_rollout_topology *topology,
                       const struct fsw_rollout_inputs *inputs, const struct fsw_rollout_results *results,
                       int32_t precision, void *scratch, int64_t scratch_len)
{
    struct rollout r;
    int status, ok = 1;

    if (any_null(topology, inputs, results, scratch))
        return FSW_ROLLOUT_E_NULL;
    if (precision != 32 && precision != 64)
        return FSW_ROLLOUT_E_PRECISION;
    const struct path *by = path_of(path, precision);
    if (by == NULL)
        return FSW_ROLLOUT_E_PATH;
    if ((status = check_topology(topology)) != FSW_ROLLOUT_OK
        || (status = check_sizes(inputs, results)) != FSW_ROLLOUT_OK
        || (status = check_params(topology, inputs)) != FSW_ROLLOUT_OK
        || (status = check_drive(topology, inputs)) != FSW_ROLLOUT_OK
        || (status = check_stability(topology, inputs)) != FSW_ROLLOUT_OK)
        return status;
    if (scratch_len < fsw_rollout_scratch_len(topology->n_nodes, inputs->n_steps))
        return FSW_ROLLOUT_E_SCRATCH;

    r.topology = topology;
    r.inputs = inputs;
    r.results = results;
    r.environment = scratch;
    lay_network(topology, inputs, &r.network);
    lay_environment(topology, inputs, precision, scratch);
    for (int32_t first = 0; first < inputs->n_lanes;) {
        int32_t left = inputs->n_lanes - first;
        /* A part-filled block costs as much as a full one. */
        if (left > by->narrow) {
            int32_t count = left < by->wide ? left : by->wide;
            ok &= by->roll_wide(&r, first, count);
            first += count;
        } else {
            ok &= by->roll_narrow(&r, first, left);
            first += left;
        }
    }
    return ok ? FSW_ROLLOUT_OK : FSW_ROLLOUT_E_DIVERGED;
}

int fsw_rollout_run(const struct fsw_rollout_topology *topology, const struct fsw_rollout_inputs *inputs,
                    const struct fsw_rollout_results *results, int32_t precision, void *scratch,
                    int64_t scratch_len)
{
    int32_t path = 3;

    if (inputs != NULL && inputs->n_lanes < 4)
        path = 0;
    while (path > 1 && path_of(path, precision) == NULL)
        path--;
    return fsw_rollout_run_on(path, topology, inputs, results, precision, scratch, scratch_len);
}
