/* One block of lanes of the flight model. Included once per arithmetic, instruction set and block width.
 *
 * The includer defines: NAME(x), TARGET (function attribute), REAL, LANES per vector, VECTORS per block, VEC,
 * MASK, and V_SQRT(a), V_MAX(a, b) = a > b ? a : b, V_MIN(a, b) = a < b ? a : b, V_ABOVE(a, b) = a > b as a
 * MASK, V_SELECT(mask, a, b). No operation mixes lanes, so a lane's bits do not depend on the width it ran at.
 *
 * What makes it fast (measured with 8 nodes and 16 links in 32-bit arithmetic):
 * - Steps run in stretches. A stretch is first run lean: without crossings, brown-out and their step numbers,
 *   which rarely change. Its end shows whether one of them did; then the stretch is taken back and run watched.
 * - Heat reaches a node from the rows of its own sources instead of being added up in memory.
 * - Where all lanes have the same network, a coefficient is loaded once for the vectors of a block.
 * - Nodes that do not wait for the battery step between its root and its division, and hide their latency.
 * - Nodes, their sources and neighbours lie in memory in the order of their use: fewer integer operations, which
 *   compete with the vectors' for ports.
 * - Several vectors to a block, 6 with AVX2 and 4 else: the shortest time of 3, 4, 5, 6, 7, 8 and 12.
 * Tried without gain: tables of offsets to neighbours, maxima every second step, each load over all vectors, a
 * switch over the number of neighbours, longer stretches, another order of instructions by compiler options. A
 * network known to the compiler would save another tenth.
 */

#define EACH_VECTOR for (int v = 0; v < VECTORS; v++)

/* What a step changes; saved at the start of a stretch. */
struct NAME(state) {
    VEC x[2][FSW_ROLLOUT_NODES][VECTORS];   /* temperature - REFERENCE_K: of step s in x[s & 1] */
    VEC hottest[FSW_ROLLOUT_NODES][VECTORS];
    VEC drawn_w[FSW_ROLLOUT_COMPUTE][VECTORS];  /* summed over the steps of a slot */
    VEC battery_j[VECTORS], lowest_j[VECTORS], lowest_step[VECTORS], heater_on[VECTORS];
};

/* A row that all lanes share (the network's, often) is filled in every vector, but only read in the first. */
struct NAME(block) {
    struct NAME(state) now;
    VEC source_w[SOURCES][VECTORS];         /* heat of this step, by source */
    VEC self[FSW_ROLLOUT_NODES][VECTORS];   /* - dt sum(G) / C */
    VEC k_per_w[FSW_ROLLOUT_NODES][VECTORS];/* dt / C */
    VEC radiate[FSW_ROLLOUT_NODES][VECTORS];/* dt sigma A / C */
    VEC limit[FSW_ROLLOUT_NODES][VECTORS];
    VEC couple[2 * FSW_ROLLOUT_LINKS][VECTORS]; /* dt G / C */
    VEC slot_w[FSW_ROLLOUT_COMPUTE][VECTORS];
    VEC capacity_j[VECTORS], floor_j[VECTORS], cutoff_j[VECTORS];
    VEC ocv_v[VECTORS], ocv_v_per_j[VECTORS], four_ohm[VECTORS];
    VEC charge_w[VECTORS], taper_per_s[VECTORS], charge_eff[VECTORS];
    VEC array_m2[VECTORS], array_m2_per_k[VECTORS], absorb_m2[VECTORS];
    VEC bus_w[VECTORS], tx_heat[VECTORS], heat_scale[VECTORS];
    VEC heater_w[VECTORS], on_x[VECTORS], off_x[VECTORS];
    VEC zero_x[VECTORS], per_k[VECTORS], zero_j[VECTORS], per_j[VECTORS], min_factor[VECTORS];
    VEC unmet_steps[VECTORS], crossing[VECTORS];
    VEC hottest_step[FSW_ROLLOUT_NODES][VECTORS];
    double compute_j[FSW_ROLLOUT_COMPUTE][VECTORS * LANES];
};

/* Power into the pack at its terminals, its open-circuit volts, and the root of the equation for the current. */
struct NAME(pack) {
    VEC power_w, ocv_v, root_v;
};

/* One lane of a row of vectors. */
#define AT(row, lane) (((REAL *)(row))[lane])

TARGET static double NAME(param)(const struct rollout *r, int32_t row, int64_t lane)
{
    return r->inputs->param[row][lane * r->inputs->param_stride[row]];
}

/* Fill lane `at` of the block from lane `lane` of the inputs; products are taken in double, then rounded. */
TARGET static void NAME(load_lane)(const struct rollout *r, struct NAME(block) *b, int64_t lane, int32_t at)
{
    const struct network *net = &r->network;
    const int32_t n_nodes = r->topology->n_nodes;
    const double dt_s = r->inputs->dt_s;
#define P(row) NAME(param)(r, (row), lane)
    for (const struct node *node = net->node; node < net->node + n_nodes; node++) {
        const int32_t i = node->index;
        double k_per_w = dt_s / P(FSW_ROLLOUT_CAPACITY_J_K + i);
        double self = 0.0;
        for (int32_t e = node->neighbour; e < node[1].neighbour; e++) {
            double couple = k_per_w * P(FSW_ROLLOUT_LINK_W_K + net->link[e]);
            AT(b->couple[e], at) = (REAL)couple;
            self -= couple;
        }
        AT(b->self[i], at) = (REAL)self;
        AT(b->k_per_w[i], at) = (REAL)k_per_w;
        AT(b->radiate[i], at) = (REAL)(k_per_w * SIGMA_W_M2_K4 * P(FSW_ROLLOUT_RADIATING_M2 + i));
        AT(b->now.x[0][i], at) = (REAL)(P(FSW_ROLLOUT_TEMPERATURE_K + i) - REFERENCE_K);
        AT(b->now.hottest[i], at) = AT(b->now.x[0][i], at);
        AT(b->hottest_step[i], at) = (REAL)-1;
        AT(b->limit[i], at) = (REAL)(P(FSW_ROLLOUT_LIMIT_K + i) - REFERENCE_K);
    }

    double capacity_j = P(FSW_ROLLOUT_BATTERY_CAPACITY_J);
    double taper_start = P(FSW_ROLLOUT_TAPER_START_FRAC);
    /* The limit falls as taper * (capacity - charge); no more than what fills the pack in one step. */
    double taper_per_s = 1.0 / dt_s;
    if (P(FSW_ROLLOUT_CHARGE_LIMIT_W) < taper_per_s * (1.0 - taper_start) * capacity_j)
        taper_per_s = P(FSW_ROLLOUT_CHARGE_LIMIT_W) / ((1.0 - taper_start) * capacity_j);
    AT(b->now.battery_j, at) = (REAL)P(FSW_ROLLOUT_BATTERY_J);
    AT(b->capacity_j, at) = (REAL)capacity_j;
    AT(b->floor_j, at) = (REAL)P(FSW_ROLLOUT_BATTERY_FLOOR_J);
    AT(b->cutoff_j, at) = (REAL)P(FSW_ROLLOUT_BATTERY_CUTOFF_J);
    AT(b->now.lowest_j, at) = AT(b->now.battery_j, at);
    AT(b->now.lowest_step, at) = (REAL)-1;
    AT(b->ocv_v, at) = (REAL)P(FSW_ROLLOUT_OCV_EMPTY_V);
    AT(b->ocv_v_per_j, at) = (REAL)((P(FSW_ROLLOUT_OCV_FULL_V) - P(FSW_ROLLOUT_OCV_EMPTY_V)) / capacity_j);
    AT(b->four_ohm, at) = (REAL)(4.0 * P(FSW_ROLLOUT_RESISTANCE_OHM));
    AT(b->charge_w, at) = (REAL)P(FSW_ROLLOUT_CHARGE_LIMIT_W);
    AT(b->taper_per_s, at) = (REAL)taper_per_s;
    AT(b->charge_eff, at) = (REAL)P(FSW_ROLLOUT_CHARGE_EFF_FRAC);

    double area_m2 = P(FSW_ROLLOUT_ARRAY_AREA_M2) * P(FSW_ROLLOUT_FLUX_SCALE_FRAC);
    double coeff_per_k = P(FSW_ROLLOUT_ARRAY_COEFF_PER_K);
    double electric_m2 = area_m2 * P(FSW_ROLLOUT_ARRAY_EFF_FRAC);
    AT(b->array_m2, at) = (REAL)(electric_m2 * (1.0 + coeff_per_k * (REFERENCE_K - P(FSW_ROLLOUT_ARRAY_REF_K))));
    AT(b->array_m2_per_k, at) = (REAL)(electric_m2 * coeff_per_k);
    AT(b->absorb_m2, at) = (REAL)(area_m2 * P(FSW_ROLLOUT_ARRAY_ABSORPT_FRAC));

    AT(b->bus_w, at) = (REAL)P(FSW_ROLLOUT_BUS_W);
    AT(b->tx_heat, at) = (REAL)P(FSW_ROLLOUT_TX_HEAT_FRAC);
    AT(b->heat_scale, at) = (REAL)P(FSW_ROLLOUT_HEAT_SCALE_FRAC);
    AT(b->heater_w, at) = (REAL)P(FSW_ROLLOUT_HEATER_W);
    AT(b->now.heater_on, at) = (REAL)P(FSW_ROLLOUT_HEATER_START_ON);
    AT(b->on_x, at) = (REAL)(P(FSW_ROLLOUT_HEATER_ON_K) - REFERENCE_K);
    AT(b->off_x, at) = (REAL)(P(FSW_ROLLOUT_HEATER_OFF_K) - REFERENCE_K);

    double zero_frac = P(FSW_ROLLOUT_THROTTLE_ZERO_FRAC);
    AT(b->zero_x, at) = (REAL)(P(FSW_ROLLOUT_THROTTLE_ZERO_K) - REFERENCE_K);
    AT(b->per_k, at) = (REAL)(1.0 / (P(FSW_ROLLOUT_THROTTLE_ZERO_K) - P(FSW_ROLLOUT_THROTTLE_FULL_K)));
    AT(b->zero_j, at) = (REAL)(zero_frac * capacity_j);
    AT(b->per_j, at) = (REAL)(1.0 / ((P(FSW_ROLLOUT_THROTTLE_FULL_FRAC) - zero_frac) * capacity_j));
    AT(b->min_factor, at) = (REAL)P(FSW_ROLLOUT_THROTTLE_MIN_FRAC);
    AT(b->unmet_steps, at) = (REAL)0;
    AT(b->crossing, at) = (REAL)-1;
    for (int32_t c = 0; c < r->topology->n_compute; c++)
        b->compute_j[c][at] = 0.0;
#undef P
}

TARGET static void NAME(load_slot)(const struct rollout *r, struct NAME(block) *b, int32_t slot, int32_t first,
                                   int32_t count)
{
    const struct fsw_rollout_inputs *in = r->inputs;
    for (int32_t c = 0; c < r->topology->n_compute; c++) {
        const double *row = in->compute_w + slot * in->compute_w_slot_stride + c * in->compute_w_node_stride;
        for (int32_t at = 0; at < VECTORS * LANES; at++) {
            int64_t lane = first + (at < count ? at : count - 1);
            double power_w = row[lane * in->compute_w_lane_stride];
            AT(b->slot_w[c], at) = (REAL)(power_w * NAME(param)(r, FSW_ROLLOUT_ACTIVITY_FRAC + c, lane));
            AT(b->now.drawn_w[c], at) = (REAL)0;
        }
    }
}

/* Heater, bus and compute loads of one step for vector v: returns their sum, leaves their heat in source_w. */
TARGET static inline __attribute__((always_inline)) VEC
NAME(draw_loads)(const struct rollout *r, struct NAME(block) *b, VEC (*x)[VECTORS], REAL tx_w, int v)
{
    const struct fsw_rollout_topology *t = r->topology;
    VEC load_w = b->bus_w[v] + tx_w;
    VEC by_charge = SPLAT(1);

    b->source_w[SOURCE_BUS][v] = b->bus_w[v] + tx_w * b->tx_heat[v];
    if (r->network.heater) {
        VEC watched = x[t->heater_node][v];
        VEC on = V_SELECT(V_ABOVE(watched, b->off_x[v]), SPLAT(0), b->now.heater_on[v]);
        on = V_SELECT(V_ABOVE(b->on_x[v], watched), SPLAT(1), on);
        VEC heater_w = on * b->heater_w[v];
        b->now.heater_on[v] = on;
        b->source_w[SOURCE_HEATER][v] = heater_w;
        load_w += heater_w;
    }
    if (t->throttle)
        by_charge = V_MAX(V_MIN((b->now.battery_j[v] - b->zero_j[v]) * b->per_j[v], SPLAT(1)), SPLAT(0));
    for (int32_t c = 0; c < t->n_compute; c++) {
        VEC power_w = b->slot_w[c][v];
        if (t->throttle) {
            /* Below 0 the thermal factor needs no clamp: min_factor is not negative. */
            VEC factor = (b->zero_x[v] - x[t->compute_node[c]][v]) * b->per_k[v];
            power_w *= V_MAX(V_MIN(factor, SPLAT(1)) * by_charge, b->min_factor[v]);
        }
        b->now.drawn_w[c][v] += power_w;
        b->source_w[SOURCE_COMPUTE + c][v] = power_w;
        load_w += power_w;
    }
    return load_w;
}

/* Array and battery of one step up to the power into the pack, for vector v: what `charge` needs of it. */
TARGET static inline __attribute__((always_inline)) struct NAME(pack)
NAME(meet_load)(const struct fsw_rollout_topology *t, struct NAME(block) *b, VEC (*x)[VECTORS], REAL flux_w_m2,
                VEC load_w, int v)
{
    struct NAME(pack) pack;
    VEC battery_j = b->now.battery_j[v];
    VEC available_w = flux_w_m2 * (b->array_m2[v] + b->array_m2_per_k[v] * x[t->array_node][v]);
    available_w = V_MAX(available_w, SPLAT(0));
    VEC surplus_w = available_w - load_w;
    VEC accepted_w = V_MIN(b->charge_w[v], b->taper_per_s[v] * (b->capacity_j[v] - battery_j));
    pack.power_w = V_MIN(surplus_w, accepted_w);
    pack.ocv_v = b->ocv_v[v] + b->ocv_v_per_j[v] * battery_j;
    pack.root_v = V_SQRT(V_MAX(pack.ocv_v * pack.ocv_v + b->four_ohm[v] * pack.power_w, SPLAT(0)));
    b->source_w[SOURCE_ARRAY][v] = flux_w_m2 * b->absorb_m2[v] - (available_w - (surplus_w - pack.power_w));
    return pack;
}

/* Charge at the end of a step, for vector v. Lean, it may fall below the pack's cut-off: must_watch sees it. */
TARGET static inline __attribute__((always_inline)) void
NAME(charge)(struct NAME(block) *b, struct NAME(pack) pack, REAL dt_s, REAL step, MASK *crossed, const int watch,
             int v)
{
    /* power = (ocv + r i) i solved for i without cancellation; stored = ocv i. */
    VEC battery_j = b->now.battery_j[v];
    VEC stored_w = pack.power_w * ((pack.ocv_v + pack.ocv_v) / (pack.ocv_v + pack.root_v));
    stored_w = V_MIN(stored_w * b->charge_eff[v], stored_w); /* the efficiency, at most 1, is for charging only */

    VEC end_j = battery_j + stored_w * dt_s;
    if (watch) {
        VEC cutoff_j = V_MIN(battery_j, b->cutoff_j[v]);
        b->unmet_steps[v] += V_SELECT(V_ABOVE(cutoff_j, end_j), SPLAT(1), SPLAT(0));
        end_j = V_MAX(end_j, cutoff_j);
    }
    end_j = V_MIN(end_j, b->capacity_j[v]);
    b->now.lowest_step[v] = V_SELECT(V_ABOVE(b->now.lowest_j[v], end_j), SPLAT(step), b->now.lowest_step[v]);
    b->now.lowest_j[v] = V_MIN(end_j, b->now.lowest_j[v]);
    if (watch)
        crossed[v] |= V_ABOVE(b->floor_j[v], end_j);
    b->now.battery_j[v] = end_j;
    b->source_w[SOURCE_BATTERY][v] = pack.power_w - stored_w;
}

/* Temperatures at the end of a step, of the nodes `node` .. `end` - 1, from x to after. */
TARGET static inline __attribute__((always_inline)) void
NAME(step_heat)(const struct network *net, const struct node *node, const struct node *end, struct NAME(block) *b,
                VEC (*restrict x)[VECTORS], VEC (*restrict after)[VECTORS], const REAL *heat_w, REAL step,
                MASK *crossed, const int own, const int watch)
{
    for (; node < end; node++) {
        const int32_t i = node->index;
        VEC change[VECTORS];
        EACH_VECTOR
            change[v] = SPLAT(0);
        if (node->warmed)
            EACH_VECTOR
                change[v] = heat_w[i] * b->heat_scale[v];
        for (int32_t s = node->source; s < node[1].source; s++)
            EACH_VECTOR
                change[v] += b->source_w[net->source[s]][v];
        EACH_VECTOR
            change[v] = change[v] * b->k_per_w[i][own ? v : 0] + b->self[i][own ? v : 0] * x[i][v];
        _Pragma("GCC unroll 2")
        for (int32_t e = node->neighbour; e < node[1].neighbour; e++)
            EACH_VECTOR
                change[v] += b->couple[e][own ? v : 0] * x[net->column[e]][v];
        if (node->radiates)
            EACH_VECTOR
            {
                VEC square = (x[i][v] + (REAL)REFERENCE_K) * (x[i][v] + (REAL)REFERENCE_K);
                change[v] -= b->radiate[i][own ? v : 0] * (square * square);
            }
        EACH_VECTOR
        {
            VEC end_x = x[i][v] + change[v];
            after[i][v] = end_x;
            if (watch) {
                crossed[v] |= V_ABOVE(end_x, b->limit[i][v]);
                MASK hotter = V_ABOVE(end_x, b->now.hottest[i][v]);
                b->hottest_step[i][v] = V_SELECT(hotter, SPLAT(step), b->hottest_step[i][v]);
            }
            b->now.hottest[i][v] = V_MAX(end_x, b->now.hottest[i][v]);
        }
    }
}

/* Run steps `step` .. `end` - 1. own: a lane has its own network; watch: note crossings, brown-out and maxima's
 * steps. Both are constants of the three functions below. */
TARGET static inline __attribute__((always_inline)) void
NAME(run_steps)(const struct rollout *r, struct NAME(block) *b, int32_t step, int32_t end, const int own,
                const int watch)
{
    const struct fsw_rollout_topology *t = r->topology;
    const REAL *restrict environment = (const REAL *)r->environment + (int64_t)step * (2 + t->n_nodes);
    const REAL dt_s = (REAL)r->inputs->dt_s;
    const struct network *net = &r->network;
    const struct node *late = net->node + net->early;

    for (; step < end; step++) {
        VEC (*x)[VECTORS] = b->now.x[step & 1], (*after)[VECTORS] = b->now.x[(step & 1) ^ 1];
        struct NAME(pack) pack[VECTORS];
        VEC load_w[VECTORS];
        MASK crossed[VECTORS];
        _Pragma("GCC unroll 1") /* one vector's numbers fit the registers */
        EACH_VECTOR
            load_w[v] = NAME(draw_loads)(r, b, x, environment[1], v);
        EACH_VECTOR
        {
            pack[v] = NAME(meet_load)(t, b, x, environment[0], load_w[v], v);
            crossed[v] = V_ABOVE(SPLAT(0), SPLAT(0));
        }
        NAME(step_heat)(net, net->node, late, b, x, after, environment + 2, (REAL)step, crossed, own, watch);
        EACH_VECTOR
            NAME(charge)(b, pack[v], dt_s, (REAL)step, crossed, watch, v);
        NAME(step_heat)(net, late, net->node + t->n_nodes, b, x, after, environment + 2, (REAL)step, crossed, own,
                        watch);
        if (watch)
            EACH_VECTOR
            {
                VEC since = V_SELECT(crossed[v], SPLAT(step), SPLAT(-1));
                b->crossing[v] = V_SELECT(V_ABOVE(SPLAT(0), b->crossing[v]), since, b->crossing[v]);
            }
        environment += 2 + t->n_nodes;
    }
}

TARGET static __attribute__((noinline)) void
NAME(run_shared)(const struct rollout *r, struct NAME(block) *b, int32_t step, int32_t end)
{
    NAME(run_steps)(r, b, step, end, 0, 0);
}

TARGET static __attribute__((noinline)) void
NAME(run_own)(const struct rollout *r, struct NAME(block) *b, int32_t step, int32_t end)
{
    NAME(run_steps)(r, b, step, end, 1, 0);
}

TARGET static __attribute__((noinline)) void
NAME(run_watched)(const struct rollout *r, struct NAME(block) *b, int32_t step, int32_t end)
{
    NAME(run_steps)(r, b, step, end, 1, 1);
}

/* Whether a lean stretch will not do, or did not: a lane has been below its cut-off, or beyond a limit without a
 * known step of crossing. What is not finite stays so in the temperatures, and is reported at the end. */
TARGET static int NAME(must_watch)(const struct rollout *r, const struct NAME(block) *b)
{
    VEC flag[VECTORS];
    EACH_VECTOR
    {
        VEC crossed = V_SELECT(V_ABOVE(b->floor_j[v], b->now.lowest_j[v]), SPLAT(1), SPLAT(0));
        for (int32_t i = 0; i < r->topology->n_nodes; i++)
            crossed = V_SELECT(V_ABOVE(b->now.hottest[i][v], b->limit[i][v]), SPLAT(1), crossed);
        crossed = V_SELECT(V_ABOVE(SPLAT(0), b->crossing[v]), crossed, SPLAT(0));
        flag[v] = V_SELECT(V_ABOVE(b->cutoff_j[v], b->now.lowest_j[v]), SPLAT(1), crossed);
    }
    int any = 0;
    for (int32_t at = 0; at < VECTORS * LANES; at++)
        any |= AT(flag, at) > 0;
    return any;
}

/* Copy the state at the start of `step`. */
TARGET static void NAME(copy_state)(const struct rollout *r, struct NAME(state) *to,
                                    const struct NAME(state) *from, int32_t step)
{
    for (int32_t i = 0; i < r->topology->n_nodes; i++)
        EACH_VECTOR
        {
            to->x[step & 1][i][v] = from->x[step & 1][i][v];
            to->hottest[i][v] = from->hottest[i][v];
        }
    for (int32_t c = 0; c < r->topology->n_compute; c++)
        EACH_VECTOR
            to->drawn_w[c][v] = from->drawn_w[c][v];
    EACH_VECTOR
    {
        to->battery_j[v] = from->battery_j[v];
        to->lowest_j[v] = from->lowest_j[v];
        to->lowest_step[v] = from->lowest_step[v];
        to->heater_on[v] = from->heater_on[v];
    }
}

/* Add the slot's energy and, where wanted, its end state to the results. */
TARGET static void NAME(close_slot)(const struct rollout *r, struct NAME(block) *b, VEC (*x)[VECTORS],
                                    int32_t slot, int32_t first, int32_t count)
{
    const int32_t n_nodes = r->topology->n_nodes;
    const int64_t pitch = r->results->lane_pitch;

    for (int32_t c = 0; c < r->topology->n_compute; c++)
        for (int32_t at = 0; at < count; at++)
            b->compute_j[c][at] += (double)AT(b->now.drawn_w[c], at) * r->inputs->dt_s;
    if (r->results->trace != NULL) {
        double *row = r->results->trace + (int64_t)slot * (n_nodes + 1) * pitch + first;
        for (int32_t i = 0; i < n_nodes; i++, row += pitch)
            for (int32_t at = 0; at < count; at++)
                row[at] = (double)AT(x[i], at) + REFERENCE_K;
        for (int32_t at = 0; at < count; at++)
            row[at] = (double)AT(b->now.battery_j, at);
    }
}

/* Write the lanes' results; returns 0 when a lane left the range of the model (or is not a number). */
TARGET static int NAME(store)(const struct rollout *r, struct NAME(block) *b, VEC (*x)[VECTORS], int32_t first,
                              int32_t count)
{
    const struct fsw_rollout_results *out = r->results;
    int ok = 1;

    for (int32_t at = 0; at < count; at++) {
        int64_t lane = first + at;
        for (int32_t i = 0; i < r->topology->n_nodes; i++) {
            double end_k = (double)AT(x[i], at) + REFERENCE_K;
            double hottest_k = (double)AT(b->now.hottest[i], at) + REFERENCE_K;
            out->end_temperature_k[i * out->lane_pitch + lane] = end_k;
            out->max_temperature_k[i * out->lane_pitch + lane] = hottest_k;
            if (out->max_temperature_step != NULL)
                out->max_temperature_step[i * out->lane_pitch + lane] = (int32_t)AT(b->hottest_step[i], at);
            ok &= end_k >= 1.0 && hottest_k <= 1000.0;
        }
        for (int32_t c = 0; c < r->topology->n_compute; c++)
            out->compute_j[c * out->lane_pitch + lane] = b->compute_j[c][at];
        out->end_battery_j[lane] = (double)AT(b->now.battery_j, at);
        out->min_battery_j[lane] = (double)AT(b->now.lowest_j, at);
        out->min_battery_step[lane] = (int32_t)AT(b->now.lowest_step, at);
        out->unmet_s[lane] = (double)AT(b->unmet_steps, at) * r->inputs->dt_s;
        out->first_crossing_step[lane] = (int32_t)AT(b->crossing, at);
        ok &= out->end_battery_j[lane] >= 0.0;
    }
    return ok;
}

TARGET static int NAME(roll)(const struct rollout *r, int32_t first, int32_t count)
{
    const int always = r->results->max_temperature_step != NULL;
    struct NAME(block) b;
    struct NAME(state) before;
    int32_t step = 0;

    for (int32_t at = 0; at < VECTORS * LANES; at++)
        NAME(load_lane)(r, &b, first + (at < count ? at : count - 1), at);
    int watched = always || NAME(must_watch)(r, &b);
    for (int32_t slot = 0; slot < r->inputs->n_slots; slot++) {
        NAME(load_slot)(r, &b, slot, first, count);
        for (int32_t end = step + r->inputs->slot_steps[slot]; step < end;) {
            int32_t stop = end - step < STRETCH_STEPS ? end : step + STRETCH_STEPS;
            if (!watched) {
                NAME(copy_state)(r, &before, &b.now, step);
                if (r->network.shared)
                    NAME(run_shared)(r, &b, step, stop);
                else
                    NAME(run_own)(r, &b, step, stop);
                watched = NAME(must_watch)(r, &b);
                if (watched)
                    NAME(copy_state)(r, &b.now, &before, step);
            }
            if (watched) {
                NAME(run_watched)(r, &b, step, stop);
                watched = always || NAME(must_watch)(r, &b);
            }
            step = stop;
        }
        NAME(close_slot)(r, &b, b.now.x[step & 1], slot, first, count);
    }
    return NAME(store)(r, &b, b.now.x[step & 1], first, count);
}

#undef AT
#undef EACH_VECTOR
