"""A station and a satellite with keys: restarts of either, keys that roll, commands in sequence, and `ground keys`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_satellite import APID, SCID, TinySatellite, Wire

from flightsw.keyfile import End, read_keys, write_keys
from flightsw.link.keys import KeyRing, Rollover, SlotState, make_keys
from flightsw.state import ChangeKey, Event, KeyStep
from flightsw.store import TripleFact
from ground.__main__ import main
from ground.archive import Archive
from ground.station import CommandState, Seals, Station

MISSION = Path(__file__).resolve().parents[2] / "missions" / "iss_like.toml"
OBT_S = 1_800_000_000.0


class Link:
    """Both ends in memory, with their counters in files; each can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "link.keys"
        write_keys(self.path, make_keys(SCID, ["Main", "Second"],
                                        (hashlib.sha256(bytes((i,))).digest() for i in range(12))))
        self.archive = Archive(folder / "ground.sqlite", commit_s=0.0)
        self.wire = Wire()
        self.now_s = 0.0
        self.restart_board()
        self.restart_ground()

    def _ring(self, end: End) -> KeyRing:
        """Open an end anew. The ring before it is left as a killed process leaves it: never closed."""
        marks = [self.path.with_name(f"link.keys.{end}-{copy}") for copy in "abc"]
        return KeyRing(read_keys(self.path), TripleFact(marks))

    def restart_board(self) -> None:
        self.board = self._ring(End.BOARD)
        self.rollover = Rollover(self.board)
        self.satellite = TinySatellite(self.board)

    def restart_ground(self) -> None:
        self.ground = self._ring(End.GROUND)
        self.station = Station(self.wire, self.archive, scid=SCID, apid=APID, epoch_s=OBT_S,
                               seals=Seals(self.ground, 1, encrypted=False))

    def turn(self, turns: int = 1) -> None:
        for _ in range(turns):
            self.now_s += 1.0
            self.satellite.receiver.begin_tick()
            self.satellite.uplink(self.wire.take_sent(), OBT_S + self.now_s)
            if self.now_s % 5.0 == 0.0:
                self.satellite.reporter.housekeeping(1, self.satellite.pool, OBT_S + self.now_s)
            self.wire.waiting += self.satellite.downlink()
            self.station.poll(self.now_s)

    def ping(self, *, sequenced: bool = False) -> CommandState:
        sent = self.station.send("ping", (), self.now_s, 15.0, sequenced=sequenced)
        self.turn(16)
        return self.station.command(sent.request_id).state

    def housekeeping(self) -> None:
        """Say what structure `uplink` says, and nothing else."""
        status = self.satellite.receiver.status()
        self.satellite.set(**status._asdict())
        self.satellite.reporter.housekeeping(11, self.satellite.pool, OBT_S + self.now_s)
        self.turn()

    def say(self, event: Event) -> None:
        self.satellite.reporter.event(event, OBT_S + self.now_s)
        self.turn()


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    made = Link(tmp_path)
    yield made
    made.archive.close()


def test_commands_and_telemetry_go_through_and_each_is_said(link: Link) -> None:
    assert link.ping() is CommandState.COMPLETED
    assert link.station.security is not None
    assert (link.station.security.spi, link.station.security.counter_low) == (17, 1)
    assert not link.station.security.alarm
    assert link.station.clcw is not None
    assert link.station.clcw.farm_b_count == 1


def test_an_attack_is_seen_in_the_security_report(link: Link) -> None:
    link.station.send("ping", (), link.now_s)
    frame = link.wire.sent
    link.turn()
    link.wire.sent = frame  # once more
    link.turn(2)
    assert link.station.security is not None
    assert (link.station.security.alarm, link.station.security.bad_counter) == (True, True)
    assert link.ping() is CommandState.COMPLETED
    assert not link.station.security.alarm


def test_recorded_telemetry_does_not_count_twice_also_after_a_restart(link: Link) -> None:
    link.satellite.reporter.housekeeping(1, link.satellite.pool, OBT_S)
    octets = link.satellite.downlink()
    link.wire.waiting += octets
    link.turn()
    packets = link.station.packets
    link.restart_ground()
    link.wire.waiting += octets
    link.turn()
    assert packets >= 1
    assert link.station.packets == 0
    assert link.station.unsealed_frames >= 1
    assert link.ping() is CommandState.COMPLETED


def test_the_ground_learns_where_a_killed_satellite_goes_on(link: Link) -> None:
    assert link.ping() is CommandState.COMPLETED
    link.restart_board()
    assert link.ping() is CommandState.NO_ANSWER  # the satellite skipped to its mark
    used = link.board.find(17)
    assert used is not None
    link.say(Event("uplink_counter", (17, float(used.used))))
    assert link.ping() is CommandState.COMPLETED


def test_commands_in_sequence_survive_loss_and_a_lockout(link: Link) -> None:
    assert link.ping(sequenced=True) is CommandState.COMPLETED
    sent = [link.station.send("ping", (), link.now_s, 60.0, sequenced=True) for _ in range(3)]
    link.wire.take_sent()  # all of it is lost
    link.turn(20)
    assert {link.station.command(one.request_id).state for one in sent} == {CommandState.COMPLETED}
    link.satellite.receiver._farm.lockout = True
    assert link.ping() is CommandState.COMPLETED  # the bypass is never locked
    assert link.ping(sequenced=True) is CommandState.COMPLETED
    assert not link.satellite.receiver._farm.lockout


def test_both_ends_roll_to_the_next_key(link: Link) -> None:
    link.say(link.rollover.take(ChangeKey(KeyStep.ROLL, 1, 17), link.now_s, 60.0))
    assert link.ping() is CommandState.COMPLETED
    assert link.station.security is not None
    assert link.station.security.spi == 18
    link.say(*link.rollover.tick(link.now_s + 100.0, 60.0), *link.rollover.tick(link.now_s + 161.0, 60.0))
    assert link.ping() is CommandState.COMPLETED
    assert link.station.security.spi == 17
    for sender, spi in ((1, 18), (0, 2)):
        link.say(link.rollover.take(ChangeKey(KeyStep.ROLL, sender, 17), link.now_s, 60.0))
        link.say(link.rollover.take(ChangeKey(KeyStep.CONFIRM, sender, 18), link.now_s, 60.0))
        assert link.ping() is CommandState.COMPLETED
        assert [_state(ring, spi) for ring in (link.board, link.ground)] == [SlotState.ACTIVE] * 2
        assert [_state(ring, spi - 1) for ring in (link.board, link.ground)] == [SlotState.RETIRED] * 2


def test_what_was_said_of_keys_and_never_heard_is_in_housekeeping(link: Link) -> None:
    trial = link.rollover.take(ChangeKey(KeyStep.ROLL, 1, 17), link.now_s, 60.0)
    link.say(trial)
    link.rollover.tick(link.now_s + 61.0, 60.0)  # taken back out of sight
    assert link.ping() is CommandState.NO_ANSWER
    link.housekeeping()
    assert link.ping() is CommandState.COMPLETED
    assert [_state(link.ground, spi) for spi in (17, 18)] == [SlotState.ACTIVE, SlotState.PRE_ACTIVE]
    link.rollover.take(ChangeKey(KeyStep.ROLL, 1, 17), link.now_s, 60.0)
    link.housekeeping()
    assert link.ping() is CommandState.COMPLETED
    assert link.station.security is not None
    assert link.station.security.spi == 18
    link.rollover.take(ChangeKey(KeyStep.CONFIRM, 1, 18), link.now_s, 60.0)
    link.housekeeping()
    link.housekeeping()
    assert [_state(link.ground, spi) for spi in (17, 18)] == [SlotState.RETIRED, SlotState.ACTIVE]
    link.ground.agree(0, 0)  # whatever is said, a retired key does not come back
    assert _state(link.ground, 17) is SlotState.RETIRED


def test_housekeeping_that_an_event_overtook_changes_no_key(link: Link) -> None:
    late = link.satellite.receiver.status()
    link.say(link.rollover.take(ChangeKey(KeyStep.ROLL, 1, 17), link.now_s, 60.0))
    link.satellite.set(**late._asdict())
    link.satellite.reporter.housekeeping(11, link.satellite.pool, OBT_S + link.now_s - 2.0)
    link.turn()
    assert _state(link.ground, 18) is SlotState.TRIAL


@pytest.mark.parametrize("counter", [float("nan"), float("inf")])
def test_a_counter_that_is_none_is_counted_and_raises_nothing(link: Link, counter: float) -> None:
    link.say(Event("uplink_counter", (17, counter)))
    link.satellite.set(**{**link.satellite.receiver.status()._asdict(), "uplink_counter": counter})
    link.satellite.reporter.housekeeping(11, link.satellite.pool, OBT_S + link.now_s)
    link.turn()
    assert link.station.undecoded_packets == 2
    assert link.ping() is CommandState.COMPLETED


def test_every_station_hears_its_counter_within_as_many_minutes_as_there_are(link: Link) -> None:
    """A satellite was killed out of sight, and what it said at boot is lost."""
    assert link.ping() is CommandState.COMPLETED
    link.restart_board()
    assert link.ping() is CommandState.NO_ANSWER
    said = set()
    for _ in range(2):
        link.housekeeping()
        said.add(link.satellite.receiver.status().uplink_spi)
        link.turn(60)
    assert said == {17, 33}
    assert link.ping() is CommandState.COMPLETED


def _state(ring: KeyRing, spi: int) -> SlotState:
    association = ring.find(spi)
    assert association is not None
    return association.state


def test_ground_keys_makes_keys_and_shows_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "link.keys"
    assert main(["keys", "new", str(MISSION), "--keys", str(path)]) == 0
    said = capsys.readouterr().out
    assert main(["keys", "show", "--keys", str(path)]) == 0
    said += capsys.readouterr().out
    keys = read_keys(path)
    assert keys.scid == 42
    assert "Weilheim" in said
    assert f"fingerprint {keys.fingerprint.hex()}" in said
    assert "SPI   17  Weilheim" in said
    assert not any(key.octets.hex() in said for key in keys.keys)
    assert main(["keys", "new", str(MISSION), "--keys", str(path)]) == 4
    assert "exists already" in capsys.readouterr().err
