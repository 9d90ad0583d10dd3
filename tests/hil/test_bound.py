from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("highspy")

from flightsw.kernels import Plant
from flightsw.physics.units import KELVIN
from hil import baselines, compare, lean, run, scenario
from hil.bound import BoundError, Relaxation, Work, works_of
from hil.plant.satellite import absorbed_w, fill_model, thermal_nodes

BRAIN = scenario.SCENARIOS / "brain"


@pytest.fixture(scope="module")
def world():
    flown = scenario.load(BRAIN / "overload15_iss.toml", duration="3 orbits")
    return lean.World.of(flown, run.surroundings(flown))


def relaxation_of(world, **other):
    return Relaxation(world.truth, world.around, world.scenario.start, world.scenario.mission.parameters,
                      compare.transmissions(world), **other)


@pytest.fixture(scope="module")
def relaxation(world):
    found = relaxation_of(world)
    found.settle()
    return found


@pytest.fixture(scope="module")
def flown(world):
    """Endless work under a thermostat: a schedule that keeps the limits."""
    endless = replace(world, stream_config=replace(world.stream_config, activity_error_frac=0.0))
    return lean.fly(endless, lambda mission, forecaster: baselines.make("bang_bang-edf", mission, forecaster),
                    inbox=compare._Endless(4))


def shares(world, flown, slots, slot_s):
    """Part of each slot that each node spent in each working mode."""
    working = [i for i, mode in enumerate(world.truth.compute.modes) if mode.rate > 0.0]
    modes = flown.trace.group("node{}_mode", 4)
    modes = np.vstack((modes[1:], modes[-1:]))  # the trace notes what was in force until its tick
    modes = np.pad(modes, ((0, slots * int(slot_s) - len(modes)), (0, 0)))
    part = np.stack([modes == mode for mode in working], axis=2)
    return part.reshape(slots, int(slot_s), 4, len(working)).mean(axis=1)


def test_a_flown_schedule_is_one_of_the_programme_and_no_better(world, relaxation, flown):
    assert not any(crossing.count for crossing in flown.crossings)
    share = shares(world, flown, relaxation.slots, relaxation.slot_s)
    assert share.sum() > 0.5 * relaxation.slots
    assert relaxation.admits(share, 1.0)
    best = relaxation.divisible().amount
    assert 0.7 * best < flown.units_done <= best


def test_what_the_satellite_cannot_do_is_not_of_the_programme(relaxation):
    share = np.zeros((relaxation.slots, 4, 4))
    share[:, :, 3] = 0.8  # four nodes nearly always in the highest mode: neither energy nor the radiator allow it
    assert not relaxation.admits(share, 1.0)


def test_charge_below_the_floor_has_no_bound(world):
    empty = replace(world, scenario=replace(world.scenario, start=replace(world.scenario.start, charge_frac=0.3)))
    with pytest.raises(BoundError, match="HiGHS"):
        relaxation_of(empty).divisible()


def test_the_bound_is_tight_in_slots_and_band(world, relaxation):
    """Finer slots and wider bands change little; a wider band only ever allows more."""
    amount = relaxation.divisible().amount
    finer = relaxation_of(world, slot_s=60.0)
    finer.settle()
    assert finer.divisible().amount == pytest.approx(amount, rel=5e-3)
    wider = relaxation_of(world)
    wider.band_k += np.array([-10.0, 0.0])[:, None, None]
    wider.settle()
    assert -1e-4 <= wider.divisible().amount / amount - 1.0 <= 0.015


def test_every_schedule_lies_in_the_band(world, relaxation, flown):
    surface_c = compare.surface_extremes(flown.trace["radiator_c"], flown.trace["bus_c"])
    band_c = compare._band_c(relaxation)
    assert compare._outside(surface_c, band_c) == []
    surface_c[0][0][7] = band_c[0][0][7] - 1.0
    assert compare._outside(surface_c, band_c) == [(pytest.approx(1.0), "radiator")]


def test_linear_network_is_never_hotter_than_the_truth(world, relaxation):
    """One slot of constant power after the other, both from the truth's own state."""
    step, gain, chord_w = relaxation._network()
    truth, at = world.truth, thermal_nodes(4)
    plant = Plant()
    fill_model(plant, truth)
    state, width = plant.state, int(relaxation.slot_s)
    nodes = [at.plate, at.root, at.tip, at.bus, at.battery]
    for node in range(at.total):
        state.temperature_k[node] = 12.0 + KELVIN
    state.battery_j = 0.9 * plant.model.battery_capacity_j
    heat = absorbed_w(truth, world.around, slice(0, 60 * width))
    generator = np.random.default_rng(3)
    for slot in range(60):
        if slot % 10 == 0:  # long enough for dies and modules to settle
            watts = generator.uniform(2.0, 20.0, 4).tolist()
        before_c = np.array([state.temperature_k[node] for node in nodes]) - KELVIN
        array_c, drawn = state.temperature_k[at.array] - KELVIN, 0.0
        for tick in range(slot * width, (slot + 1) * width):
            plant.advance(float(world.around.array_flux_w_m2[tick]), heat[tick].tolist(), watts, False, 1.0, 1)
            drawn += sum(plant.output.compute_w[i] for i in range(4)) / width
        array_c = min(array_c, state.temperature_k[at.array] - KELVIN)
        inputs = heat[slot * width:(slot + 1) * width].mean(axis=0)[nodes] + chord_w[slot]
        inputs[0] += drawn
        inputs[3] += truth.platform.bus_w + truth.array.to_bus_w_k * array_c
        if slot % 10 > 2:
            after_c = np.array([state.temperature_k[node] for node in nodes]) - KELVIN
            assert np.all(step[slot] @ before_c + gain[slot] @ inputs <= after_c + 0.15)


def test_leakage_is_never_charged_more_than_it_is(world, relaxation):
    """Summed from the start, whatever the commands: also nodes that run only while they are cold."""
    gain, slope_w_k, offset_w = relaxation.leakage()
    truth, at = world.truth, thermal_nodes(4)
    width, slots = int(relaxation.slot_s), relaxation.slots
    heat = absorbed_w(truth, world.around, slice(0, slots * width))
    for rule in ("random", "cold", "hot", "full"):
        plant = Plant()
        fill_model(plant, truth)
        plant.model.battery_capacity_j, plant.model.charge_limit_w = 1e12, 1e9
        state = plant.state
        for node in range(at.total):
            state.temperature_k[node] = 12.0 + KELVIN
        state.battery_j = 5e11
        generator = np.random.default_rng(5)
        excess_j, worst_j = 0.0, 0.0
        for slot in range(slots - 1):
            plate_c = state.temperature_k[at.plate] - KELVIN
            on = {"random": generator.random() < 0.5, "cold": plate_c < 25.0, "hot": plate_c > 30.0 or slot % 3 == 0,
                  "full": True}[rule]
            watts = [22.2 if on else 0.42] * 4
            before_j = sum(state.node_j[i] for i in range(4))
            for tick in range(slot * width, (slot + 1) * width):
                plant.advance(float(world.around.array_flux_w_m2[tick]), heat[tick].tolist(), watts, False, 1.0, 1)
            true_j = sum(state.node_j[i] for i in range(4)) - before_j
            mean_c = 0.5 * (plate_c + state.temperature_k[at.plate] - KELVIN)
            said_w = float(gain[slot] @ watts) + slope_w_k[slot] * mean_c + offset_w[slot]
            excess_j += said_w * width - true_j
            worst_j = max(worst_j, excess_j)
        assert worst_j < 0.1 * 3600.0, rule


def test_jobs_count_by_the_fraction_that_their_window_allows(relaxation):
    roomy = Work(1, 1000.0, 1.0, 10.0, 3000.0, 12_000.0)
    tight = Work(2, 2000.0, 1.0, 40.0, 3600.0, 3600.0 + 1000.0)
    later = Work(3, 1000.0, 1.0, 5.0, relaxation.duration_s - 100.0, relaxation.duration_s + 9000.0)
    found = relaxation.value((roomy, tight, later))
    most = 1.175  # one node at a time, in the highest mode
    assert found.fractions == pytest.approx([1.0, 1000.0 * most / 2000.0, 100.0 * most / 1000.0], rel=1e-3)
    assert found.amount == pytest.approx(10.0 + 40.0 * 0.5875 + 5.0 * 0.1175, rel=1e-3)


def test_a_lost_node_and_less_array_lower_the_bound(world, relaxation):
    amount = relaxation.divisible().amount
    fewer = relaxation_of(world, node_lost_s=(0.0, 0.0, np.inf, np.inf))
    fewer.settle()
    assert fewer.divisible().amount < amount
    weak = replace(world, truth=replace(world.truth, array=replace(world.truth.array, health_frac=0.8)))
    weaker = relaxation_of(weak)
    weaker.settle()
    assert weaker.divisible().amount < 0.9 * amount


def test_open_jobs_are_left_out_on_request(world):
    jobs, end_s = world.stream().jobs, world.scenario.duration_s
    every, closed = (works_of(jobs, world.stream_config, 1, world.truth, end_s, closed_only=only)
                     for only in (False, True))
    assert len(every) == len(jobs)
    assert {work.job_id for work in closed} == {job.job_id for job in jobs if job.deadline_s <= end_s}
    assert len(closed) < len(every)


def test_more_charge_at_the_end_costs_what_its_price_says(world, relaxation):
    works = works_of(world.stream().jobs, world.stream_config, 1, world.truth, world.scenario.duration_s,
                     closed_only=False)
    many = [*works, Work(9, 1e6, 1.0, 1e6, 0.0, 1e9)]
    free, low, high = (relaxation.value(many, frac) for frac in (0.0, 0.85, 0.9))
    assert free.amount >= low.amount > high.amount
    spent_wh = 0.05 * world.truth.battery.capacity_wh
    assert low.amount <= high.amount + high.end_price_per_wh * spent_wh * (1.0 + 1e-4)
    assert low.amount == pytest.approx(high.amount + high.end_price_per_wh * spent_wh, rel=0.01)
