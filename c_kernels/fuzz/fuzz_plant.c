/* Fuzz driver of plant.c. An input edits words of a sound model, state and input, then advances; whatever it
 * wrote, a refusal changes nothing and an accepted call keeps ranges, the energy account and its own bits.
 *
 *   clang -fsanitize=fuzzer,address,undefined -DFSW_LIBFUZZER ...     coverage-guided
 *   gcc -fsanitize=address,undefined ... && ./fuzz_plant RUNS SEED    random edits, the same for the same seed
 */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "plant.h"

struct world {
    struct fsw_plant_model model;
    struct fsw_plant_state state;
    struct fsw_plant_input input;
    double dt_s;
    int32_t n_steps;
};

static void make_sound(struct world *w)
{
    struct fsw_plant_model *m = &w->model;
    memset(w, 0, sizeof *w);
    m->n_nodes = 6;
    m->n_links = 5;
    m->n_compute = 2;
    for (int i = 0; i < 6; i++) {
        m->heat_capacity_j_k[i] = 200.0;
        m->radiating_m2[i] = 0.05;
        w->state.temperature_k[i] = 290.0;
    }
    for (int i = 0; i < 5; i++) {
        m->link_a[i] = i;
        m->link_b[i] = i + 1;
        m->link_w_k[i] = 2.0;
    }
    m->array_node = 5;
    m->array_area_m2 = 0.3;
    m->array_efficiency_frac = m->array_health_frac = m->mppt_efficiency_frac = m->array_absorptivity_frac = 0.9;
    m->array_ref_k = 301.0;
    m->array_temp_coeff_per_k = -0.002;
    m->battery_node = 4;
    m->battery_capacity_j = 5e5;
    m->battery_ocv_v[0] = 13.0;
    m->battery_ocv_v[1] = 3.0;
    m->battery_resistance_ohm = 0.1;
    m->charge_limit_w = 70.0;
    m->taper_start_frac = m->charge_efficiency_frac = 0.9;
    m->cutoff_frac = 0.2;
    m->restart_frac = 0.3;
    for (int i = 0; i < 2; i++) {
        m->heater_node[i] = i;
        m->heater_w[i] = 5.0;
        m->heater_on_k[i] = 280.0;
        m->heater_off_k[i] = 285.0;
        m->die_node[i] = i;
        m->module_node[i] = i + 2;
        m->die_heat_frac[i] = 0.7;
        m->leakage_per_k[i] = 0.002;
        m->leak_ref_k[i] = 300.0;
        m->trip_k[i] = 360.0;
        m->untrip_k[i] = 350.0;
        m->trip_w[i] = 4.0;
        w->input.compute_w[i] = 15.0;
    }
    m->bus_node = 3;
    m->bus_w = 13.0;
    m->tx_w = 18.0;
    m->tx_heat_frac = 0.5;
    w->state.battery_j = 3e5;
    w->input.array_flux_w_m2 = 400.0;
    w->dt_s = 1.0;
    w->n_steps = 20;
}

/* One edit: 2 bytes say where (in units of 4 bytes), 1 says what, 4 are the number where it takes one. */
static void edit(struct world *w, const uint8_t *data)
{
    static const double STRANGE[8] = {NAN, INFINITY, -INFINITY, 0.0, -0.0, 1e300, 5e-324, -1.0};
    uint8_t *bytes = (uint8_t *)w;
    const size_t at = 4 * ((size_t)(data[0] | data[1] << 8) % (sizeof *w / 4 - 1));
    int32_t whole;
    double number;
    memcpy(&whole, data + 3, 4);
    memcpy(&number, bytes + at, 8);
    switch (data[2] % 4) {
    case 0:
        memcpy(bytes + at, &whole, 4);
        return;
    case 1:
        whole = whole % 32;
        memcpy(bytes + at, &whole, 4);
        return;
    case 2:
        number = STRANGE[data[3] % 8];
        break;
    default:
        number *= (double)whole / 1073741824.0 + 1.0;
    }
    memcpy(bytes + at, &number, 8);
}

static void check_accepted(const struct world *before, const struct fsw_plant_state *s,
                           const struct fsw_plant_output *out)
{
    const struct fsw_plant_model *m = &before->model;
    const struct fsw_plant_state *was = &before->state;
    for (int i = 0; i < m->n_nodes; i++)
        REQUIRE(s->temperature_k[i] >= 1.0 && s->temperature_k[i] <= 1000.0);
    REQUIRE(s->battery_j >= 0.0 && s->battery_j <= m->battery_capacity_j);
    for (int i = 0; i < m->n_compute; i++)
        REQUIRE(s->tripped[i] == 0 || s->tripped[i] == 1);
    REQUIRE(s->brownout == 0 || s->brownout == 1);
    if (before->n_steps > 0)
        REQUIRE(isfinite(out->battery_v) && isfinite(out->battery_a) && isfinite(out->array_w));
    double change_j = s->battery_j - was->battery_j;
    double account_j = (s->harvested_j - was->harvested_j) - (s->consumed_j - was->consumed_j)
                       - (s->battery_loss_j - was->battery_loss_j);
    double scale_j = fabs(s->harvested_j) + fabs(s->consumed_j) + fabs(s->battery_loss_j)
                     + fabs(was->harvested_j) + fabs(was->consumed_j) + fabs(was->battery_loss_j)
                     + m->battery_capacity_j;
    REQUIRE(fabs(change_j - account_j) <= 1e-9 * scale_j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w;
    make_sound(&w);
    for (; size >= 7; data += 7, size -= 7)
        edit(&w, data);
    if (w.n_steps > 200)
        w.n_steps = 200; /* time, not a promise */

    /* Exact heap copies let the sanitizer see an access beside a struct. */
    struct fsw_plant_model *model = malloc(sizeof *model);
    struct fsw_plant_state *state = malloc(2 * sizeof *state);
    struct fsw_plant_output *out = malloc(2 * sizeof *out);
    REQUIRE(model != NULL && state != NULL && out != NULL);
    *model = w.model;
    memset(out, 0x5a, 2 * sizeof *out);
    state[0] = state[1] = w.state;
    const int code = fsw_plant_advance(model, &state[0], &w.input, w.dt_s, w.n_steps, &out[0]);
    REQUIRE(code == fsw_plant_advance(model, &state[1], &w.input, w.dt_s, w.n_steps, &out[1]));
    REQUIRE(memcmp(&state[0], &state[1], sizeof *state) == 0 && memcmp(&out[0], &out[1], sizeof *out) == 0);
    REQUIRE(memcmp(model, &w.model, sizeof *model) == 0);
    REQUIRE(code <= 0 && code >= FSW_PLANT_E_DIVERGED);
    if (code == FSW_PLANT_OK) {
        REQUIRE(fsw_plant_check(model, w.dt_s) == FSW_PLANT_OK);
        check_accepted(&w, &state[0], &out[0]);
    } else {
        struct fsw_plant_output untouched;
        memset(&untouched, 0x5a, sizeof untouched);
        REQUIRE(memcmp(&state[0], &w.state, sizeof *state) == 0);
        REQUIRE(memcmp(&out[0], &untouched, sizeof *out) == 0);
    }
    free(model);
    free(state);
    free(out);
    return 0;
}

#ifndef FSW_LIBFUZZER
int main(int argc, char **argv)
{
    const long runs = argc > 1 ? strtol(argv[1], NULL, 10) : 1000;
    uint64_t random = argc > 2 ? strtoull(argv[2], NULL, 10) | 1U : 1U;
    for (long run = 0; run < runs; run++) {
        uint8_t script[7 * 8];
        for (size_t i = 0; i < sizeof script; i++) {
            script[i] = (uint8_t)(next_word(&random) >> 40);
        }
        LLVMFuzzerTestOneInput(script, 7 * (1 + (size_t)run % 8));
    }
    printf("%ld plants, every promise kept\n", runs);
    return 0;
}
#endif
