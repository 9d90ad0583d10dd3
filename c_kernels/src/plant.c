#include "plant.h"

#include <math.h>
#include <stddef.h>

#define SIGMA_W_M2_K4 5.670374419e-8 /* Stefan-Boltzmann, CODATA 2018 */
#define MIN_K 1.0
#define MAX_K 1000.0
#define STABILITY_K 500.0 /* hottest node for which the RK4 bound must hold */
#define RK4_LIMIT 2.7     /* real-axis stability of RK4 ends at 2.785 */
#define MAX_STEPS 10000000

/* False for NaN as well. */
static int within(double value, double low, double high)
{
    return value >= low && value <= high;
}

static int is_node(const struct fsw_plant_model *m, int32_t node)
{
    return node >= 0 && node < m->n_nodes;
}

static int is_flag(int32_t value)
{
    return value == 0 || value == 1;
}

/* Differences of equal powers may leave a sum a rounding error below zero. */
static int is_sum(double value)
{
    return within(value, -1e18, 1e18);
}

static double ocv_v(const struct fsw_plant_model *m, double charge_frac)
{
    const double *c = m->battery_ocv_v;
    return ((c[3] * charge_frac + c[2]) * charge_frac + c[1]) * charge_frac + c[0];
}

static int check_battery(const struct fsw_plant_model *m)
{
    int ok = is_node(m, m->battery_node) && within(m->battery_capacity_j, 1.0, 1e12)
             && within(m->battery_resistance_ohm, 0.0, 1e3) && within(m->charge_limit_w, 0.0, 1e9)
             && within(m->taper_start_frac, 0.0, 1.0) && within(m->charge_efficiency_frac, 1e-3, 1.0)
             && within(m->cutoff_frac, 0.0, 1.0) && within(m->restart_frac, m->cutoff_frac, 1.0);
    for (int i = 0; i < 4; i++)
        ok = ok && within(m->battery_ocv_v[i], -1e3, 1e3);
    for (int i = 0; ok && i <= 16; i++) /* a cubic with bounded coefficients hides no dip between */
        ok = within(ocv_v(m, i / 16.0), 0.1, 1e3);
    return ok;
}

static int check_compute(const struct fsw_plant_model *m, int i)
{
    return is_node(m, m->die_node[i]) && is_node(m, m->module_node[i]) && within(m->die_heat_frac[i], 0.0, 1.0)
           && within(m->leakage_per_k[i], -0.1, 0.1) && within(m->leak_ref_k[i], MIN_K, MAX_K)
           && within(m->trip_k[i], MIN_K, MAX_K) && within(m->untrip_k[i], MIN_K, m->trip_k[i])
           && within(m->trip_w[i], 0.0, 1e5);
}

int fsw_plant_check(const struct fsw_plant_model *m, double dt_s)
{
    double conductance_w_k[FSW_PLANT_NODES] = {0.0};

    if (m == NULL)
        return FSW_PLANT_E_NULL;
    if (m->n_nodes < 1 || m->n_nodes > FSW_PLANT_NODES || m->n_links < 0 || m->n_links > FSW_PLANT_LINKS
        || m->n_compute < 0 || m->n_compute > FSW_PLANT_COMPUTE)
        return FSW_PLANT_E_COUNT;
    for (int i = 0; i < m->n_nodes; i++)
        if (!within(m->heat_capacity_j_k[i], 1e-3, 1e9) || !within(m->radiating_m2[i], 0.0, 1e3))
            return FSW_PLANT_E_NODE;
    for (int i = 0; i < m->n_links; i++) {
        if (!is_node(m, m->link_a[i]) || !is_node(m, m->link_b[i]) || m->link_a[i] == m->link_b[i]
            || !within(m->link_w_k[i], 0.0, 1e6))
            return FSW_PLANT_E_LINK;
        conductance_w_k[m->link_a[i]] += m->link_w_k[i];
        conductance_w_k[m->link_b[i]] += m->link_w_k[i];
    }
    if (!is_node(m, m->array_node) || !within(m->array_area_m2, 0.0, 1e3)
        || !within(m->array_efficiency_frac, 0.0, 1.0) || !within(m->array_ref_k, MIN_K, MAX_K)
        || !within(m->array_temp_coeff_per_k, -0.1, 0.1) || !within(m->array_health_frac, 0.0, 1.0)
        || !within(m->array_absorptivity_frac, 0.0, 1.0) || !within(m->mppt_efficiency_frac, 0.0, 1.0))
        return FSW_PLANT_E_ARRAY;
    if (!check_battery(m))
        return FSW_PLANT_E_BATTERY;
    for (int i = 0; i < FSW_PLANT_HEATERS; i++)
        if (!within(m->heater_w[i], 0.0, 1e4)
            || (m->heater_w[i] > 0.0
                && !(is_node(m, m->heater_node[i]) && within(m->heater_on_k[i], MIN_K, MAX_K)
                     && within(m->heater_off_k[i], m->heater_on_k[i], MAX_K)
                     && m->heater_off_k[i] > m->heater_on_k[i])))
            return FSW_PLANT_E_HEATER;
    if (!is_node(m, m->bus_node) || !within(m->bus_w, 0.0, 1e5) || !within(m->tx_w, 0.0, 1e5)
        || !within(m->tx_heat_frac, 0.0, 1.0))
        return FSW_PLANT_E_LOAD;
    for (int i = 0; i < m->n_compute; i++)
        if (!check_compute(m, i))
            return FSW_PLANT_E_COMPUTE;
    if (!within(dt_s, 1e-6, 3600.0))
        return FSW_PLANT_E_STEP;
    /* Gershgorin: no eigenvalue of the linearised network is larger than this row sum. */
    for (int i = 0; i < m->n_nodes; i++) {
        double radiative_w_k = 4.0 * SIGMA_W_M2_K4 * m->radiating_m2[i] * (STABILITY_K * STABILITY_K * STABILITY_K);
        if (dt_s * (2.0 * conductance_w_k[i] + radiative_w_k) > RK4_LIMIT * m->heat_capacity_j_k[i])
            return FSW_PLANT_E_UNSTABLE;
    }
    return FSW_PLANT_OK;
}

static int check_state(const struct fsw_plant_model *m, const struct fsw_plant_state *s)
{
    int ok = within(s->battery_j, 0.0, m->battery_capacity_j) && is_flag(s->brownout);
    for (int i = 0; i < m->n_nodes; i++)
        ok &= within(s->temperature_k[i], MIN_K, MAX_K);
    for (int i = 0; i < FSW_PLANT_HEATERS; i++)
        ok &= is_flag(s->heater_on[i]);
    for (int i = 0; i < m->n_compute; i++)
        ok &= is_flag(s->tripped[i]) && is_sum(s->node_j[i]);
    return ok && is_sum(s->harvested_j) && is_sum(s->consumed_j) && is_sum(s->shunted_j)
           && is_sum(s->battery_loss_j) && is_sum(s->unmet_j);
}

static int check_input(const struct fsw_plant_model *m, const struct fsw_plant_input *in)
{
    int ok = within(in->array_flux_w_m2, 0.0, 1e5) && is_flag(in->tx_on);
    for (int i = 0; i < m->n_nodes; i++)
        ok &= within(in->heat_w[i], -1e6, 1e6);
    for (int i = 0; i < m->n_compute; i++)
        ok &= within(in->compute_w[i], 0.0, 1e5);
    return ok;
}

/* Power the compute nodes would draw: their own thermal protection, then leakage. */
static void draw_compute(const struct fsw_plant_model *m, struct fsw_plant_state *s,
                         const struct fsw_plant_input *in, double *compute_w)
{
    for (int i = 0; i < m->n_compute; i++) {
        double die_k = s->temperature_k[m->die_node[i]];
        double command_w = in->compute_w[i];
        double factor = 1.0 + m->leakage_per_k[i] * (die_k - m->leak_ref_k[i]);
        factor = factor < 0.5 ? 0.5 : factor > 2.0 ? 2.0 : factor;
        if (die_k >= m->trip_k[i])
            s->tripped[i] = 1;
        else if (die_k < m->untrip_k[i])
            s->tripped[i] = 0;
        if (s->tripped[i] && command_w > m->trip_w[i])
            command_w = m->trip_w[i];
        compute_w[i] = command_w * factor;
    }
}

/* Power at the pack's terminals and what it does inside. */
struct pack {
    double terminal_w; /* + charging */
    double stored_w;   /* into (+) or out of (-) the cells */
    double battery_j;  /* charge at the end of the step */
    double volt_v;
    double current_a;
};

/* terminal_w = (ocv + r i) i solved for i without cancellation; stored = ocv i. With r = 0 the ratio is
 * exactly 1 and the pack an ideal integrator. Beyond the pack's greatest power it delivers that. */
static struct pack drive_pack(const struct fsw_plant_model *m, double battery_j, double wanted_w, double dt_s)
{
    double charge_frac = battery_j / m->battery_capacity_j;
    double ocv = ocv_v(m, charge_frac);
    double room_j = m->battery_capacity_j - battery_j;
    double square = ocv * ocv + 4.0 * m->battery_resistance_ohm * wanted_w;
    struct pack p;

    if (square < 0.0) {
        square = 0.0;
        wanted_w = -ocv * ocv / (4.0 * m->battery_resistance_ohm);
    }
    double ratio = 2.0 * ocv / (ocv + sqrt(square));
    p.terminal_w = wanted_w;
    p.stored_w = wanted_w * ratio;
    if (wanted_w > 0.0)
        p.stored_w *= m->charge_efficiency_frac;
    p.battery_j = battery_j + p.stored_w * dt_s;
    if (p.battery_j > m->battery_capacity_j) { /* full within the step */
        p.battery_j = m->battery_capacity_j;
        p.terminal_w *= room_j / (p.stored_w * dt_s);
        p.stored_w = room_j / dt_s;
    } else if (p.battery_j < 0.0) { /* empty within the step */
        p.battery_j = 0.0;
        p.terminal_w *= battery_j / (-p.stored_w * dt_s);
        p.stored_w = -battery_j / dt_s;
    }
    p.current_a = p.terminal_w * ratio / ocv;
    p.volt_v = ocv + m->battery_resistance_ohm * p.current_a;
    return p;
}

/* One step of array, battery, heaters and loads; heat_w receives all heat that goes into the nodes. */
static void step_power(const struct fsw_plant_model *m, struct fsw_plant_state *s,
                       const struct fsw_plant_input *in, double dt_s, struct fsw_plant_output *out,
                       double *heat_w)
{
    double heater_w[FSW_PLANT_HEATERS];
    double charge_frac = s->battery_j / m->battery_capacity_j;
    double cells_k = s->temperature_k[m->array_node];
    double derate = 1.0 + m->array_temp_coeff_per_k * (cells_k - m->array_ref_k);
    double available_w = in->array_flux_w_m2 * m->array_area_m2 * m->array_efficiency_frac
                         * m->array_health_frac * m->mppt_efficiency_frac * (derate > 0.0 ? derate : 0.0);
    double load_w = m->bus_w;

    out->tx_w = in->tx_on ? m->tx_w : 0.0;
    load_w += out->tx_w;
    out->heater_w = 0.0;
    for (int i = 0; i < FSW_PLANT_HEATERS; i++) {
        if (m->heater_w[i] > 0.0) {
            double watched_k = s->temperature_k[m->heater_node[i]];
            if (watched_k < m->heater_on_k[i])
                s->heater_on[i] = 1;
            else if (watched_k > m->heater_off_k[i])
                s->heater_on[i] = 0;
        } else {
            s->heater_on[i] = 0;
        }
        heater_w[i] = s->heater_on[i] ? m->heater_w[i] : 0.0;
        out->heater_w += heater_w[i];
    }
    load_w += out->heater_w;

    draw_compute(m, s, in, out->compute_w);
    double compute_w = 0.0;
    for (int i = 0; i < m->n_compute; i++)
        compute_w += out->compute_w[i];
    if (s->brownout && charge_frac >= m->restart_frac)
        s->brownout = 0;
    if (charge_frac <= m->cutoff_frac && available_w < load_w + compute_w)
        s->brownout = 1;
    if (s->brownout)
        for (int i = 0; i < m->n_compute; i++)
            out->compute_w[i] = 0.0;
    else
        load_w += compute_w;

    double wanted_w = available_w - load_w;
    if (wanted_w > 0.0) {
        double limit_w = m->charge_limit_w;
        if (charge_frac > m->taper_start_frac)
            limit_w *= (1.0 - charge_frac) / (1.0 - m->taper_start_frac);
        if (wanted_w > limit_w)
            wanted_w = limit_w;
    }
    struct pack p = drive_pack(m, s->battery_j, wanted_w, dt_s);
    s->battery_j = p.battery_j;

    /* Charging takes what the pack accepts; discharging may fall short of the load. */
    double unmet_w = wanted_w < 0.0 && p.terminal_w > wanted_w ? p.terminal_w - wanted_w : 0.0;
    double carried_frac = unmet_w > 0.0 ? (load_w - unmet_w) / load_w : 1.0;
    out->array_available_w = available_w;
    out->array_w = wanted_w < 0.0 ? available_w : load_w + p.terminal_w;
    out->battery_w = p.terminal_w;
    out->battery_v = p.volt_v;
    out->battery_a = p.current_a;
    out->bus_total_w = load_w - unmet_w;
    out->tx_w *= carried_frac;
    out->heater_w *= carried_frac;
    for (int i = 0; i < m->n_compute; i++)
        out->compute_w[i] *= carried_frac;

    double loss_w = p.terminal_w - p.stored_w;
    s->harvested_j += out->array_w * dt_s;
    s->consumed_j += out->bus_total_w * dt_s;
    s->shunted_j += (available_w - out->array_w) * dt_s;
    s->battery_loss_j += loss_w * dt_s;
    s->unmet_j += unmet_w * dt_s;

    for (int i = 0; i < m->n_nodes; i++)
        heat_w[i] = in->heat_w[i];
    heat_w[m->array_node] += m->array_absorptivity_frac * m->array_area_m2 * in->array_flux_w_m2 - out->array_w;
    heat_w[m->battery_node] += loss_w;
    heat_w[m->bus_node] += m->bus_w * carried_frac + out->tx_w * m->tx_heat_frac;
    for (int i = 0; i < FSW_PLANT_HEATERS; i++)
        if (heater_w[i] > 0.0)
            heat_w[m->heater_node[i]] += heater_w[i] * carried_frac;
    for (int i = 0; i < m->n_compute; i++) {
        double die_w = out->compute_w[i] * m->die_heat_frac[i];
        s->node_j[i] += out->compute_w[i] * dt_s;
        heat_w[m->die_node[i]] += die_w;
        heat_w[m->module_node[i]] += out->compute_w[i] - die_w;
    }
}

static void slope_of(const struct fsw_plant_model *m, const double *k_per_j, const double *heat_w,
                     const double *temperature_k, double *slope_k_s)
{
    for (int i = 0; i < m->n_nodes; i++) {
        double square = temperature_k[i] * temperature_k[i];
        slope_k_s[i] = heat_w[i] - SIGMA_W_M2_K4 * m->radiating_m2[i] * (square * square);
    }
    for (int i = 0; i < m->n_links; i++) {
        int32_t a = m->link_a[i];
        int32_t b = m->link_b[i];
        double flow_w = m->link_w_k[i] * (temperature_k[a] - temperature_k[b]);
        slope_k_s[a] -= flow_w;
        slope_k_s[b] += flow_w;
    }
    for (int i = 0; i < m->n_nodes; i++)
        slope_k_s[i] *= k_per_j[i];
}

/* Classical Runge-Kutta with heat held; returns 0 when a temperature left its range. */
static int step_heat(const struct fsw_plant_model *m, const double *k_per_j, const double *heat_w, double dt_s,
                     double *temperature_k)
{
    double k1[FSW_PLANT_NODES], k2[FSW_PLANT_NODES], k3[FSW_PLANT_NODES], k4[FSW_PLANT_NODES];
    double probe_k[FSW_PLANT_NODES];
    int ok = 1;

    slope_of(m, k_per_j, heat_w, temperature_k, k1);
    for (int i = 0; i < m->n_nodes; i++)
        probe_k[i] = temperature_k[i] + 0.5 * dt_s * k1[i];
    slope_of(m, k_per_j, heat_w, probe_k, k2);
    for (int i = 0; i < m->n_nodes; i++)
        probe_k[i] = temperature_k[i] + 0.5 * dt_s * k2[i];
    slope_of(m, k_per_j, heat_w, probe_k, k3);
    for (int i = 0; i < m->n_nodes; i++)
        probe_k[i] = temperature_k[i] + dt_s * k3[i];
    slope_of(m, k_per_j, heat_w, probe_k, k4);
    for (int i = 0; i < m->n_nodes; i++) {
        temperature_k[i] += dt_s / 6.0 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i]);
        ok &= within(temperature_k[i], MIN_K, MAX_K);
    }
    return ok;
}

int fsw_plant_advance(const struct fsw_plant_model *m, struct fsw_plant_state *state,
                      const struct fsw_plant_input *in, double dt_s, int32_t n_steps,
                      struct fsw_plant_output *out)
{
    double k_per_j[FSW_PLANT_NODES];
    double heat_w[FSW_PLANT_NODES];
    int status = fsw_plant_check(m, dt_s);

    if (status != FSW_PLANT_OK)
        return status;
    if (state == NULL || in == NULL || out == NULL)
        return FSW_PLANT_E_NULL;
    if (n_steps < 0 || n_steps > MAX_STEPS)
        return FSW_PLANT_E_STEP;
    if (!check_state(m, state))
        return FSW_PLANT_E_STATE;
    if (!check_input(m, in))
        return FSW_PLANT_E_INPUT;

    struct fsw_plant_state s = *state;
    struct fsw_plant_output last = *out;
    for (int i = 0; i < m->n_nodes; i++)
        k_per_j[i] = 1.0 / m->heat_capacity_j_k[i];
    for (int32_t step = 0; step < n_steps; step++) {
        step_power(m, &s, in, dt_s, &last, heat_w);
        if (!step_heat(m, k_per_j, heat_w, dt_s, s.temperature_k))
            return FSW_PLANT_E_DIVERGED;
    }
    *state = s;
    *out = last;
    return FSW_PLANT_OK;
}
