"""The fault library: each fault has its effect while it is on, and it ends."""

import dataclasses
import math
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_satellite import LIT, TRUTH, Forever, Load, satellite, surroundings

from flightsw.dictionary.sensors import INDEX
from flightsw.state import JobState, Mode
from hil.channel import VirtualLine
from hil.faults import LIBRARY, FaultyJobs, Given, ObeyedCaps, Part, table
from hil.inject import PARTS
from hil.jobs import StreamConfig
from hil.plant.satellite import StartState, TruthSatellite
from hil.plant.sensors import SensorFault
from hil.run import Run
from hil.scenario import FaultStep, load
from hil.verdict import Verdict

ROOT = Path(__file__).resolve().parents[2]
TESTED = set()


def begun(rig, kind, target="", lasts_s=math.inf, **values):
    """Begin a fault of the library on a rig, as a run does; next() is a tick of it, close() its end."""
    TESTED.add(kind)
    row = LIBRARY[kind]
    given = Given(target, {param.name: param.default for param in row.params} | values, rig.now_s, rig.now_s + lasts_s)
    effect = row.effect(rig, given)
    next(effect)
    return effect


# --- sensors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "amount", "proof"), [
    ("stuck", 0.0, lambda good, bad, at: bad[at][0] == bad[at - 1][0] and bad[at][1] == good[at][1]),
    ("nan", 0.0, lambda good, bad, at: math.isnan(bad[at][0])),
    ("dropout", 0.0, lambda good, bad, at: bad[at][0] is None),
    ("bias", 4.0, lambda good, bad, at: bad[at][0] == pytest.approx(good[at][0] + 4.0)),
    ("drift", 360.0, lambda good, bad, at: bad[at][0] == pytest.approx(good[at][0] + 0.1 * (at - 20))),
    ("noise", 3.0, lambda good, bad, at: 0.0 < abs(bad[at][0] - good[at][0]) < 15.0),
    ("delay", 7.0, lambda good, bad, at: bad[at] == good[at - 7]),
    ("replay", 5.0, lambda good, bad, at: bad[at] == (good[20 - 5 + (at - 20) % 5][0], good[at][1])),
])
@pytest.mark.parametrize("known", [True, False], ids=["known beforehand", "on a condition"])
def test_sensors(kind, amount, proof, known):
    values = {"amount": amount} if amount else {}
    fault = SensorFault(20.0, 40.0, "plate_c", kind, amount)
    healthy, faulty = satellite(seed=9), satellite(seed=9, faults=[fault] if known else [])
    faulty.remember("plate_c")
    good, bad, effect = [], [], None
    rig = SimpleNamespace(satellite=faulty, now_s=0.0)
    for t in range(60):
        rig.now_s = float(t)
        if t == 20 and not known:
            effect = begun(rig, f"sensor.{kind}", "plate_c", 20.0, **values)
        good.append(tuple(healthy.read_sensors(float(t))[INDEX["plate_c"]]))
        bad.append(tuple(faulty.read_sensors(float(t))[INDEX["plate_c"]]))
        healthy.advance()
        faulty.advance()
    assert good[:20] == bad[:20]
    assert good[40:] == bad[40:]
    assert all(proof(good, bad, at) for at in range(21, 40))
    if effect is not None:
        effect.close()


# --- the true satellite -------------------------------------------------------------------------------


def rig_of(sat, caps=None):
    return SimpleNamespace(satellite=sat, caps=caps, now_s=0.0, parts=PARTS["sil"])


def flown(sat, seconds, effect=None):
    for _ in range(seconds):
        if effect is not None:
            next(effect)
        sat.advance()
    return sat


def test_a_lost_string_gives_less_power_and_comes_back():
    sat = satellite(seconds=200)
    before_w = flown(sat, 1).plant.output.array_available_w
    effect = begun(rig_of(sat), "plant.string_lost", lost_frac=0.25)
    assert flown(sat, 1).plant.output.array_available_w == pytest.approx(0.75 * before_w, rel=0.01)
    effect.close()
    assert flown(sat, 1).plant.output.array_available_w == pytest.approx(before_w, rel=0.01)


def test_lost_cells_take_capacity_and_charge_and_come_back_as_they_went():
    sat = satellite(seconds=20)
    whole_j, charge_j, ohm = (sat.plant.model.battery_capacity_j, sat.plant.state.battery_j,
                              sat.plant.model.battery_resistance_ohm)
    effect = begun(rig_of(sat), "plant.cells_lost", lost_frac=0.25)
    assert sat.plant.model.battery_capacity_j == pytest.approx(0.75 * whole_j)
    assert sat.plant.state.battery_j == pytest.approx(0.75 * charge_j)
    assert sat.plant.model.battery_resistance_ohm == pytest.approx(ohm / 0.75)
    assert sat.charge_frac == pytest.approx(0.9, abs=1e-3)
    effect.close()
    assert sat.charge_frac == pytest.approx(0.9, abs=1e-3)
    assert sat.plant.model.battery_capacity_j == pytest.approx(whole_j)
    flown(sat, 5)


def test_a_degraded_radiator_runs_hotter():
    def radiator_c(degraded):
        sat = satellite(seconds=700)
        if degraded:
            effect = begun(rig_of(sat), "plant.radiator_degraded", kept_frac=0.5)
            return flown(sat, 600, effect).values[INDEX["radiator_c"]]
        return flown(sat, 600).values[INDEX["radiator_c"]]

    assert radiator_c(True) > radiator_c(False) + 2.0


@pytest.mark.parametrize(("heater", "watts"), [("battery", TRUTH.battery.heater_w),
                                               ("plate", TRUTH.structure.plate_heater_w)])
def test_a_stuck_heater_heats_where_it_is_warm(heater, watts):
    sat = satellite(seconds=20)
    assert flown(sat, 1).plant.output.heater_w == 0.0
    effect = begun(rig_of(sat), "plant.heater_stuck", heater)
    assert flown(sat, 2).plant.output.heater_w == pytest.approx(watts)
    effect.close()
    assert flown(sat, 2).plant.output.heater_w == 0.0


def test_a_latched_node_draws_more_until_it_has_been_off():
    caps = Forever((25.0, 15.0, 10.0, 0.5))
    sat = satellite(seconds=60, caps=caps)
    before_w = flown(sat, 1).plant.output.compute_w[0]
    effect = begun(rig_of(sat), "plant.latch_up", "0", extra_w=8.0, clears_after_s=3.0)
    assert flown(sat, 10, effect).plant.output.compute_w[0] == pytest.approx(before_w + 8.0, rel=0.05)
    caps._status = Forever((0.5,) * 4)._status
    assert flown(sat, 2, effect).plant.output.compute_w[0] > 7.0
    assert flown(sat, 4, effect).plant.output.compute_w[0] < 1.0


def test_an_early_eclipse_takes_the_sun_for_its_time():
    sat = satellite(seconds=60)
    flown(sat, 10)
    begun(rig_of(sat), "plant.eclipse_early", lasts_s=20.0)
    assert flown(sat, 1).plant.output.array_available_w == 0.0
    assert sat.values[INDEX["sun_frac"]] == 0.0
    assert flown(sat, 20).plant.output.array_available_w > 50.0


@pytest.mark.parametrize(("kind", "values", "cap_w"), [("actuator.ignored", {}, 25.0),
                                                       ("actuator.partial", {"share_frac": 0.4}, 15.2)])
def test_caps_are_obeyed_in_part_or_not_at_all(kind, values, cap_w):
    asked = Forever((25.0, 15.0, 10.0, 0.5))
    caps = ObeyedCaps(asked)
    effect = begun(rig_of(None, caps), kind, "0", **values)
    asked._status = Forever((0.5, 0.5, 0.5, 0.5))._status
    assert [node.cap_w for node in caps.status(1.0).nodes] == pytest.approx([cap_w, 0.5, 0.5, 0.5])
    effect.close()
    assert [node.cap_w for node in caps.status(1.0).nodes] == [0.5] * 4


# --- link ---------------------------------------------------------------------------------------------


class LineRig:
    """A line with one second's ticks, and what arrives at the satellite's end."""

    def __init__(self, latency_s=0.0):
        self.line = VirtualLine(115_200, latency_s)
        self.latency_s, self.bit_error_rate, self.now_s = latency_s, 0.0, 0.0
        self.parts = PARTS["sil"]

    def generator(self, given):
        return random.Random(5)

    def sent(self, octets, effect=None):
        self.line.b.write(octets)
        self.now_s += 1.0
        self.line.advance(self.now_s)
        if effect is not None:
            next(effect)
        return self.line.a.read()


OCTETS = bytes(range(256)) * 8


@pytest.mark.parametrize(("kind", "values", "proof"), [
    ("link.bit_errors", {"rate": 0.01}, lambda got, rig: got != OCTETS and len(got) == len(OCTETS)
     and rig.line.b_to_a.flipped_bits > 50),
    ("link.bursts", {"every_octets": 512.0, "octets": 40.0}, lambda got, rig: 100 < sum(
        a != b for a, b in zip(got, OCTETS, strict=True)) <= 160 and got[40:512] == OCTETS[40:512]),
    ("link.cut", {}, lambda got, rig: got == b"" and rig.line.b_to_a.lost_octets == len(OCTETS)),
    ("link.duplicate", {}, lambda got, rig: len(got) == 2 * len(OCTETS) and got.startswith(OCTETS[:64])),
    ("link.garbage", {"octets_s": 100.0}, lambda got, rig: len(got) == len(OCTETS) + 200 and OCTETS in got),
    ("link.wrong_baud", {"ratio": 0.5}, lambda got, rig: len(got) == len(OCTETS) // 2 and got != OCTETS[:1024]),
])
def test_the_line(kind, values, proof):
    rig = LineRig()
    effect = begun(rig, kind, "up", **values)
    assert proof(rig.sent(OCTETS, effect), rig)
    effect.close()
    assert rig.sent(b"")[0:0] == b""
    assert rig.sent(OCTETS) == OCTETS


def test_only_the_direction_that_is_meant_is_cut():
    rig = LineRig()
    begun(rig, "link.cut", "down")
    assert rig.sent(OCTETS) == OCTETS


def test_a_delayed_line_takes_longer():
    rig = LineRig(0.1)
    effect = begun(rig, "link.delay", "both", extra_s=3.0)
    assert [len(rig.sent(octets)) for octets in (b"abc", b"", b"", b"", b"")] == [0, 0, 0, 3, 0]
    effect.close()
    assert rig.sent(b"abc") == b"abc"


def test_what_was_heard_is_replayed():
    rig = LineRig()
    effect = begun(rig, "link.replay", "up", record_s=2.0, every_s=3.0)
    heard = [rig.sent(octets, effect) for octets in (b"command", b"", b"", b"", b"", b"")]
    assert heard[0] == b"command"
    assert sum(octets.count(b"command") for octets in heard[1:]) == 2


# --- jobs ---------------------------------------------------------------------------------------------


def test_jobs_overdraw_hang_and_crash():
    from flightsw.jobs.base import Placement
    from flightsw.state import JobSpec
    jobs = FaultyJobs(2, 0.0, StreamConfig(activity_error_frac=0.0), 1)
    rig = SimpleNamespace(jobs=jobs, now_s=0.0)
    spec = JobSpec(7, "a", 100.0, 0.9, 1.0, 0.0, 5000.0, 0.0)
    jobs.place(0.0, [Placement(spec, 1.0), Placement(None, 0.0)])
    overdraw = begun(rig, "job.overdraw", "0", factor=1.5)
    assert jobs.activities() == [pytest.approx(1.35), None]
    overdraw.close()
    assert jobs.activities()[0] == pytest.approx(0.9)
    hangs = begun(rig, "job.hangs", "0")
    jobs.work(0.0, 1.0, [1.0, 1.0])
    assert jobs.units_done == 0.0
    hangs.close()
    jobs.work(1.0, 1.0, [1.0, 1.0])
    assert jobs.units_done == 1.0
    jobs.poll(0.0)
    begun(rig, "job.crashes", "0")
    (end,) = jobs.poll(1.0)
    assert (end.job_id, end.ended, end.succeeded, end.detail) == (7, True, False, "killed by signal 11")


# --- the board, with the flight software flying -------------------------------------------------------


SCENARIO = f"""
id = "faults"
description = "Four minutes with the ground in sight and work to do"
mission = "{ROOT}/missions/iss_like.toml"
truth = "{ROOT}/hil/plant/compsat_16u.toml"
duration = "4 min"
seed = 1
[link]
contact = "always"
[[ground]]
at = "T+1 s"
send = "mode STANDBY"
[[ground]]
at = "T+2 s"
send = "mode COMPUTE"
[[ground]]
at = "T+3 s"
send = "job.submit 1 work 400 0.9 100 3600 STOP_CONTINUE"
"""


@pytest.fixture
def flight(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text(SCENARIO)
    (tmp_path / "run").mkdir()
    with Run(load(path), tmp_path / "run") as run:
        until(run, 40)
        assert run.decision.mode is Mode.COMPUTE
        assert sum(run.satellite.modes) > 2
        yield run


def until(run, t_s):
    while run.now_s < t_s:
        run.tick()


def inject(run, kind, target="", lasts_s=math.inf, **values):
    TESTED.add(kind)
    given = {param.name: param.default for param in LIBRARY[kind].params} | values
    run.injector.now_s = run.now_s
    run.injector.inject(FaultStep("f", kind, target, given, None, lasts_s))


def told(run, name):
    run.archive.flush()
    return [event for event in run.archive.events() if event.name == name]


def test_a_latched_node_is_told_and_switched_off_until_it_lets_go(flight):
    node = flight.satellite.modes.index(max(flight.satellite.modes))
    inject(flight, "plant.latch_up", str(node), extra_w=20.0, clears_after_s=10.0)
    until(flight, 120)
    assert told(flight, "node_overdraws")[0].args[0] == told(flight, "node_cycled")[0].args[0] == node
    assert flight.satellite.stray_w[node] == 0.0
    assert flight.satellite.modes[node] > 1
    assert told(flight, "node_draw_back")


def test_a_node_that_ignores_its_cap_is_told(flight):
    node = flight.satellite.modes.index(max(flight.satellite.modes))
    inject(flight, "actuator.ignored", str(node), lasts_s=60.0)
    flight.operator.send("mode", (int(Mode.SAFE),), flight.now_s)
    until(flight, 60)
    assert told(flight, "node_overdraws")[0].args[0] == node


def test_a_killed_supervisor_leaves_its_caps_to_the_lease_and_knows_its_jobs_afterwards(flight):
    inject(flight, "board.sigkill", lasts_s=40.0)
    until(flight, 45)
    assert sum(flight.satellite.modes) > 2
    until(flight, 65)
    assert sum(flight.satellite.modes) == 0
    until(flight, 90)
    assert flight.flight.boots == 2
    assert [event.args[0] for event in told(flight, "boot")] == [1, 2]
    assert [job.spec.job_id for job in flight.flight.supervisor.brain.open_jobs] == [1]


def test_a_stopped_supervisor_goes_on_late(flight):
    inject(flight, "board.sigstop", lasts_s=10.0)
    until(flight, 60)
    assert flight.flight.boots == 1
    (overrun,) = told(flight, "tick_overrun")
    assert overrun.args[0] == pytest.approx(11.0, abs=1.1)


def test_a_power_cut_takes_everything_at_once(flight):
    inject(flight, "board.power_cut", lasts_s=30.0)
    until(flight, 42)
    assert sum(flight.satellite.modes) == 0
    assert not flight.satellite.transmitting
    until(flight, 90)
    assert flight.flight.boots == 2
    assert flight.satellite.transmitting


def test_a_stepped_clock_stamps_what_comes_after(flight):
    inject(flight, "board.clock_step", ahead_s=600.0)
    assert flight.flight.clock_ahead_s == 600.0
    assert flight.flight.is_running


def test_a_stepped_clock_moves_readings_and_telemetry(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text(SCENARIO + '[[fault]]\nat = "T+40 s"\nkind = "board.clock_step"\nahead_s = 600\n')
    (tmp_path / "run").mkdir()
    with Run(load(path), tmp_path / "run") as run:
        until(run, 60)
        stamped_s = run.operator.station.latest("plate_c").obt_s - run.scenario.start_unix_s
        assert stamped_s == pytest.approx(run.now_s + 600.0, abs=15.0)
        assert run.flight.failures == 0
        assert told(run, "sensor_lost") == []
        (stepped,) = told(run, "clock_stepped")
        assert stepped.args[0] == 600.0


@pytest.mark.parametrize(("kind", "words"), [("board.disk_full", "[Errno 28]"), ("board.disk_error", "[Errno 5]")])
def test_storage_that_fails_sheds_and_says_so(flight, kind, words):
    inject(flight, kind, lasts_s=10.0)
    flight.operator.send("job.submit", (2, "more", 100.0, 0.9, 10.0, 900.0, 1), flight.now_s)
    until(flight, 60)
    assert words in told(flight, "store_failed")[0].text
    assert flight.decision.mode is Mode.SAFE
    assert flight.flight.supervisor.brain.open_jobs  # the fault is over: files of the bench are whole again


def test_a_slow_disk_makes_ticks_late_and_the_lease_outlives_what_it_can(flight):
    inject(flight, "board.slow_disk", lasts_s=60.0, delay_ms=4000.0)
    flight.operator.send("job.submit", (2, "more", 100.0, 0.9, 10.0, 900.0, 1), flight.now_s)
    until(flight, 120)
    late = told(flight, "tick_overrun")
    assert late
    assert late[0].args[0] >= 3.0
    assert late[0].args[1] == int(late[0].args[0])
    assert told(flight, "clock_stepped") == []
    assert flight.flight.failures == 0
    before = len(late)
    flight.operator.send("job.submit", (3, "more", 100.0, 0.9, 10.0, 900.0, 1), flight.now_s)
    until(flight, 160)
    assert len(told(flight, "tick_overrun")) == before  # the fault is over


def test_rotten_facts_are_outvoted_and_a_rotten_ledger_is_found(flight):
    inject(flight, "board.corruption", "facts", octets=8.0)
    until(flight, 42)
    inject(flight, "board.sigkill", lasts_s=2.0)
    until(flight, 60)
    assert flight.flight.boots == 2
    assert told(flight, "boot")[-1].args == (2, "COMPUTE")
    before = b"".join(path.read_bytes() for path in sorted((flight.folder / "flight" / "ledger").iterdir()))
    inject(flight, "board.corruption", "ledger", octets=4.0)
    until(flight, 61)
    after = b"".join(path.read_bytes() for path in sorted((flight.folder / "flight" / "ledger").iterdir()))
    assert 0 < sum(a != b for a, b in zip(before, after, strict=True)) <= 4


def test_a_flipped_bit_changes_what_flies(flight):
    parameters = flight.flight.parameters()
    inject(flight, "board.bit_flip", "die_max_c", bit=51.0)
    until(flight, 42)
    assert parameters["die_max_c"] == 112.0  # 80 degC with the second bit of its fraction set


def test_a_ground_that_crashes_while_it_sends_loses_that_telecommand_only(flight):
    inject(flight, "ground.crash", lasts_s=10.0, sent_octets=20.0)
    torn = flight.operator.send("ping", (), flight.now_s)
    assert flight.operator.is_down
    until(flight, 60)
    assert not flight.operator.is_down
    after = flight.operator.send("ping", (), flight.now_s)
    until(flight, 70)
    assert flight.operator.state(after).value == "completed"
    assert flight.operator.state(torn).value == "sent"
    assert flight.flight.supervisor.brain.tally.commands_accepted == 4  # three of the script and the second ping


# --- the library as a whole ---------------------------------------------------------------------------


def test_what_no_bench_can_do_is_inconclusive_not_passed(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text(SCENARIO.replace('"4 min"', '"60 s"')
                    + '[[fault]]\nat = "T+5 s"\nkind = "job.hostile"\ntarget = "fork_bomb"\n'
                    '[[fault]]\nid = "late"\nwhen = "truth.plate_c > 90 degC"\nkind = "plant.string_lost"\n')
    (tmp_path / "run").mkdir()
    with Run(load(path), tmp_path / "run") as run:
        until(run, 5)
        found = {each.name: each for each in run.finish().findings}["faults"]
    TESTED.add("job.hostile")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert ("fault1 (job.hostile) needs jobs as processes, which bench sil does not offer (fly it with hil serial)"
            in found.detail)
    assert "late (plant.string_lost) never began" in found.detail


def test_conditions_begin_faults_and_telecommands(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text(SCENARIO + '[[fault]]\nid = "dead"\nwhen = "decision.working_nodes >= 1 and t_s > 20"\n'
                    'kind = "job.crashes"\ntarget = "0"\n[[ground]]\nwhen = "fault.dead"\nsend = "ping"\n')
    (tmp_path / "run").mkdir()
    with Run(load(path), tmp_path / "run") as run:
        until(run, 60)
        assert run.book.jobs[1].state is JobState.FAILED
        (span,) = run.injector.spans
        assert 20.0 < span.from_s < 40.0
        assert len(run.operator.requests) == 4


def test_the_table_lists_every_fault_with_bounds(capsys):
    from hil.__main__ import main
    assert main(["faults"]) == 0
    said = capsys.readouterr().out
    assert said.strip() == table(4)
    for row in LIBRARY.values():
        assert row.kind in said
        assert row.about.endswith(".")
        for param in row.params:
            assert f"{param.name} = " in said
            assert param.default is None or param.low <= param.default <= param.high


def test_every_fault_has_its_test():
    assert set(LIBRARY) == TESTED


def test_every_part_is_offered_somewhere_or_said_to_be_missing():
    offered = frozenset().union(*PARTS.values())
    for row in LIBRARY.values():
        assert (row.effect is None) == (row.part not in offered), row.kind
    assert Part.PROCESSES not in offered


def test_the_surroundings_of_others_are_not_shaded():
    sky = surroundings(*LIT, 60)
    sats = [TruthSatellite(TRUTH, sky, Forever((0.5,) * 4), Load((None,) * 4), start=StartState(),
                           sensors=np.random.default_rng(1)) for _ in range(2)]
    sats[0].shade(30)
    assert sats[1].around is sky
    assert dataclasses.is_dataclass(sky)
    assert sky.direct_w_m2.min() == 1.0
