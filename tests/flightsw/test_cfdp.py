"""File transfer as the standard and the passes ask for it: both ends in virtual time, on a bad line, with restarts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from file_pair import GROUND, SATELLITE, End, Pair, content
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cfdp_pdu import messages

from flightsw.errors import LinkError, StoreError
from flightsw.link import cfdp, cfdp_transfer
from flightsw.link.cfdp import Config
from flightsw.link.cfdp_pdu import (
    Ack,
    ChecksumType,
    Condition,
    Directive,
    Eof,
    FileData,
    Finished,
    Header,
    KeepAlive,
    Metadata,
    Nak,
    Prompt,
    pack,
    unpack,
)
from flightsw.link.cfdp_transfer import Receiver, State
from flightsw.link.filestore import Filestore, Key


def source(pair: Pair, octets: int, name: str = "a.bin", seed: int = 0) -> Path:
    path = pair.satellite.folder / f"source-{name}"
    path.write_bytes(content(octets, seed))
    return path


def send(pair: Pair, octets: int, name: str = "a.bin", density: float = 1.0, seed: int = 0) -> Key:
    return pair.satellite.entity.put(source(pair, octets, name, seed), name, density, name)


def kinds(pair: Pair, entity_id: int) -> list[type]:
    return [type(unpack(pdu)[1]) for sender, pdu in pair.sent if sender == entity_id]


@pytest.mark.parametrize("octets", [0, 1, 999, 1000, 1001, 50_000])
@pytest.mark.parametrize("kind", list(ChecksumType))
def test_a_file_arrives(tmp_path: Path, octets: int, kind: ChecksumType) -> None:
    pair = Pair(tmp_path, down=Config(SATELLITE, GROUND, checksum_type=kind))
    key = send(pair, octets)
    pair.run(pair.quiet)
    assert (pair.ground.received / "a.bin").read_bytes() == content(octets)
    for end in (pair.satellite, pair.ground):
        [view] = end.ended
        assert (view.key, view.name, view.size, view.state) == (key, "a.bin", octets, State.DELIVERED)
    down, up = kinds(pair, SATELLITE), kinds(pair, GROUND)
    assert down == [Metadata, *[FileData] * -(-octets // 1000), Eof, Ack]
    assert up == [Ack, Finished]


def test_both_ways_at_once_and_many(tmp_path: Path) -> None:
    pair = Pair(tmp_path, seed=1, loss=0.05)
    for i in range(20):
        send(pair, 500 * i, f"down{i}", seed=i)
        path = pair.ground.folder / f"up{i}"
        path.write_bytes(content(300 * i, 100 + i))
        pair.ground.entity.put(path, path.name, 1.0)
    pair.run(pair.quiet)
    for i in range(20):
        assert (pair.ground.received / f"down{i}").read_bytes() == content(500 * i, i)
        assert (pair.satellite.received / f"up{i}").read_bytes() == content(300 * i, 100 + i)


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.05, 0.3, 0.6]), st.sampled_from([0.0, 0.3]),
       st.sampled_from([0.0, 0.3]), st.lists(st.sampled_from(["satellite", "ground", "outage"]), max_size=4))
def test_it_arrives_whatever_happens(tmp_path_factory: pytest.TempPathFactory, seed: int, loss: float, repeat: float,
                                     disorder: float, trouble: list[str]) -> None:
    pair = Pair(tmp_path_factory.mktemp("pair"), seed, loss)
    pair.repeat, pair.disorder = repeat, disorder
    send(pair, 60_000)
    chance = random.Random(seed)
    for what in trouble:
        for _ in range(chance.randrange(1, 12)):
            pair.step()
        if what == "outage":
            pair.in_contact = False
            for _ in range(chance.randrange(1, 300)):
                pair.step()
            pair.in_contact = True
        else:
            getattr(pair, what).restart()
    pair.run(pair.quiet)
    assert (pair.ground.received / "a.bin").read_bytes() == content(60_000)
    assert {view.state for view in [*pair.satellite.ended, *pair.ground.ended]} == {State.DELIVERED}
    assert list((pair.ground.folder / "state").glob("*.part")) == []


def test_a_restart_asks_for_no_more_than_a_checkpoint(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    send(pair, 400_000)
    for _ in range(20):
        pair.step()
    pair.ground.restart()
    pair.satellite.restart()
    pair.run(pair.quiet)
    assert (pair.ground.received / "a.bin").read_bytes() == content(400_000)
    octets = sum(len(pdu) for sender, pdu in pair.sent if sender == SATELLITE)
    assert octets < 400_000 * 1.03 + 4 * 65_536 + 65_536 + 25_000


def test_the_clock_of_contact_stands_still(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    send(pair, 3000)
    pair.step()
    pair.in_contact = False
    pair.step(86_400.0)
    sent = len(pair.sent)
    for _ in range(100):
        pair.step(60.0)
    assert len(pair.sent) == sent  # nothing is said to nobody
    pair.in_contact = True
    assert pair.run(pair.quiet) < 20.0
    assert (pair.ground.received / "a.bin").exists()


def test_silence_costs_little_and_cancels_nothing(tmp_path: Path) -> None:
    pair = Pair(tmp_path, loss=1.0)
    send(pair, 3000)
    for _ in range(3600):
        pair.step()
    assert kinds(pair, SATELLITE).count(Eof) < 65  # an hour: 4, 8, ... 64 s apart
    pair.loss = 0.0
    pair.run(pair.quiet, 120.0)
    assert (pair.ground.received / "a.bin").read_bytes() == content(3000)


def test_the_most_valuable_goes_first_and_may_overtake(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    send(pair, 40_000, "low", 1.0)
    send(pair, 40_000, "high", 5.0)
    pair.step()
    pair.step()
    send(pair, 5_000, "urgent", 9.0)
    pair.run(pair.quiet)
    assert [view.name for view in pair.ground.ended] == ["urgent", "high", "low"]


def test_held_files_wait_for_another_station(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    send(pair, 20_000, "secret", 5.0)
    send(pair, 20_000, "open", 1.0)
    pair.step()
    pair.satellite.entity.hold(lambda tag: tag != "secret")
    pair.run(lambda: len(pair.ground.ended) == 1)
    assert pair.ground.ended[0].name == "open"
    data = len(pair.sent)
    for _ in range(100):
        pair.step()
    assert not any(isinstance(unpack(pdu)[1], FileData) for _, pdu in pair.sent[data:])
    pair.satellite.entity.hold(lambda _: True)
    pair.run(pair.quiet)
    assert [view.name for view in pair.ground.ended] == ["open", "secret"]


def test_suspended_transfers_wait_and_go_on_after_a_restart(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    key = send(pair, 40_000)
    pair.step()
    assert pair.satellite.entity.suspend(key, True)
    pair.satellite.restart()
    for _ in range(50):
        pair.step()
    assert pair.ground.ended == []
    assert pair.satellite.entity.suspend(key, False)
    pair.run(pair.quiet)
    assert (pair.ground.received / "a.bin").read_bytes() == content(40_000)
    assert not pair.satellite.entity.suspend(key, True)
    assert not pair.satellite.entity.cancel(key)


@pytest.mark.parametrize("by", ["satellite", "ground"])
def test_either_end_cancels(tmp_path: Path, by: str) -> None:
    pair = Pair(tmp_path, loss=0.3, seed=3)
    key = send(pair, 200_000)
    pair.run(lambda: bool(pair.ground.entity.views()) and pair.ground.entity.views()[0].done_octets > 5000)
    assert getattr(pair, by).entity.cancel(key)
    pair.run(pair.quiet)
    for end in (pair.satellite, pair.ground):
        assert [(view.state, view.condition) for view in end.ended] == [(State.CANCELLED, Condition.CANCELLED)]
    assert not pair.ground.received.exists()
    assert list((pair.ground.folder / "state").glob("*.part")) == []


def test_a_name_that_the_receiver_does_not_take_is_refused(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.satellite.entity.put(source(pair, 50_000), "../etc/passwd", 1.0)
    pair.run(pair.quiet)
    for end in (pair.satellite, pair.ground):
        assert [(view.state, view.condition) for view in end.ended] == [
            (State.FAILED, Condition.FILESTORE_REJECTION)]


def test_a_file_that_changed_under_way_is_not_delivered(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    path = source(pair, 50_000)
    pair.satellite.entity.put(path, "a.bin", 1.0)
    pair.step()
    path.write_bytes(content(50_000, 9))
    pair.run(pair.quiet)
    assert pair.ground.ended[0].condition is Condition.CHECKSUM_FAILURE
    assert pair.satellite.ended[0].state is State.FAILED
    assert not (pair.ground.received / "a.bin").exists()


def test_a_file_that_is_cut_under_way_ends_the_transfer(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    path = source(pair, 50_000)
    pair.satellite.entity.put(path, "a.bin", 1.0)
    pair.step()
    path.write_bytes(b"short")
    pair.run(pair.quiet)
    assert pair.satellite.ended[0].condition is Condition.FILESTORE_REJECTION
    assert pair.ground.ended[0].state is State.CANCELLED


def test_no_file_no_transfer(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with pytest.raises(LinkError, match="cannot be read"):
        pair.satellite.entity.put(tmp_path / "none", "none", 1.0)
    with pytest.raises(LinkError, match="limit 255"):
        pair.satellite.entity.put(source(pair, 1), "x" * 300, 1.0)


# -- late and repeated messages


def finished_pair(tmp_path: Path) -> Pair:
    pair = Pair(tmp_path)
    send(pair, 3000)
    pair.run(pair.quiet)
    return pair


def said(pair: Pair, by: int, since: int) -> list[object]:
    return [unpack(pdu)[1] for sender, pdu in pair.sent[since:] if sender == by]


def last(pair: Pair, by: int, kind: type) -> bytes:
    return [pdu for sender, pdu in pair.sent if sender == by and isinstance(unpack(pdu)[1], kind)][-1]


@pytest.mark.parametrize("restart", [False, True])
def test_a_late_eof_is_acknowledged_and_told_the_end_again(tmp_path: Path, restart: bool) -> None:
    pair = finished_pair(tmp_path)
    if restart:
        pair.ground.restart()
    since = len(pair.sent)
    pair.ground.entity.receive(last(pair, SATELLITE, Eof))
    pair.step()
    answers = said(pair, GROUND, since)
    assert answers == [Ack(Directive.EOF, 0, 2), Finished(0, True, 2)]
    assert pair.ground.entity.is_idle


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_repeated_finished_is_acknowledged_each_time(tmp_path: Path, forgotten: bool) -> None:
    pair = finished_pair(tmp_path)
    if forgotten:
        for path in (pair.satellite.folder / "state").glob("*.tx"):
            path.unlink()
    pair.satellite.restart()
    since = len(pair.sent)
    for _ in range(3):
        pair.satellite.entity.receive(last(pair, GROUND, Finished))
    pair.step()
    assert said(pair, SATELLITE, since) == [Ack(Directive.FINISHED, 0, 3 if forgotten else 2)] * 3
    assert len(pair.satellite.ended) == 1


def test_finished_before_the_acknowledgement_of_eof(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    send(pair, 3000)
    pair.spoil = lambda pdu: None if isinstance(unpack(pdu)[1], Ack) and unpack(pdu)[0].toward_sender else pdu
    pair.run(pair.quiet)
    assert pair.satellite.ended[0].state is State.DELIVERED


def test_a_lost_acknowledgement_of_finished_brings_it_again(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    send(pair, 3000)
    lost: list[bytes] = []

    def spoil(pdu: bytes) -> bytes | None:
        header, said_pdu = unpack(pdu)
        if isinstance(said_pdu, Ack) and not header.toward_sender and len(lost) < 3:
            lost.append(pdu)
            return None
        return pdu

    pair.spoil = spoil
    pair.run(pair.quiet)
    assert len(lost) == 3
    assert kinds(pair, GROUND).count(Finished) == 4


def test_prompts_are_answered(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    key = send(pair, 60_000)
    pair.step()
    pair.step()
    header = Header(*key, GROUND)
    since = len(pair.sent)
    pair.ground.entity.receive(pack(header, Prompt(True)))
    pair.ground.entity.receive(pack(header, Prompt(False)))
    pair.step()
    assert said(pair, GROUND, since) == [KeepAlive(21_000), Nak(0, 21_000, ())]
    pair.run(pair.quiet)


def test_a_sender_that_lost_everything_frees_the_receiver(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.spoil = lambda pdu: None if isinstance(unpack(pdu)[1], Metadata) else pdu
    send(pair, 20_000)
    pair.step()
    pair.step()
    for path in (pair.satellite.folder / "state").glob("*.tx"):
        path.unlink()
    pair.satellite.restart()
    pair.run(pair.quiet)
    assert pair.ground.ended[0].state is State.CANCELLED


def test_a_receiver_that_lost_everything_gets_the_file_again(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    send(pair, 100_000)
    for _ in range(8):
        pair.step()
    [state] = (pair.ground.folder / "state").glob("*.tx")
    state.write_bytes(state.read_bytes().replace(b"1", b"2"))  # rot
    pair.ground.restart()
    assert pair.ground.store.damaged == [state.name]
    pair.run(pair.quiet)
    assert (pair.ground.received / "a.bin").read_bytes() == content(100_000)


def test_what_is_not_ours_or_no_pdu_is_counted(tmp_path: Path) -> None:
    entity = Pair(tmp_path).ground.entity
    entity.advance(0.0, True)
    for octets in (b"", b"x" * 40, pack(Header(1, 1, 9), FileData(0, b"x")),
                   pack(Header(1, 1, GROUND, unacknowledged=True), FileData(0, b"x")),
                   pack(Header(1, 1, GROUND), Ack(Directive.EOF, 0, 0)), pack(Header(1, 1, GROUND), Prompt(True))):
        entity.receive(octets)
    assert entity.counters == (2, 2, 2, 0)
    assert entity.views() == []


def test_octets_beyond_the_file_are_refused(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    header = Header(SATELLITE, 1, GROUND)
    pair.ground.entity.advance(0.0, True)
    for pdu in (Metadata(10, "a", "a"), FileData(5, b"123456"), Eof(0, 0, 10)):
        pair.ground.entity.receive(pack(header, pdu))
    assert pair.ground.entity.counters.refused_pdus == 1
    pair.ground.entity.receive(pack(Header(SATELLITE, 2, GROUND), FileData(0, bytes(20))))
    pair.ground.entity.receive(pack(Header(SATELLITE, 2, GROUND), Eof(0, 0, 10)))
    pair.ground.take_news()
    assert [(view.key.sequence, view.condition) for view in pair.ground.ended] == [(2, Condition.SIZE_ERROR)]


@settings(max_examples=30)
@given(st.lists(st.tuples(messages(), st.booleans(), st.integers(1, 3)), max_size=12))
def test_whatever_arrives_nothing_is_raised(tmp_path_factory: pytest.TempPathFactory,
                                            received: list[tuple[tuple[Header, object], bool, int]]) -> None:
    pair = Pair(tmp_path_factory.mktemp("pair"))
    send(pair, 3000)
    for (header, pdu), is_ours, sequence in received:
        ours = header._replace(source_id=SATELLITE, destination_id=GROUND, unacknowledged=False, sequence=sequence)
        octets = pack(ours if is_ours else header, pdu)  # type: ignore[arg-type]
        for end in (pair.satellite, pair.ground):
            end.entity.receive(octets)
        pair.step()
    pair.ground.restart()
    pair.satellite.restart()
    for _ in range(20):
        pair.step(5.0)
    assert pair.ground.entity.counters.bad_pdus == 0


# -- order of writing


def test_an_end_that_was_not_taken_in_is_told_again(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.satellite.settles = pair.ground.settles = False
    send(pair, 3000)
    pair.run(lambda: len(pair.satellite.ended) == 1 and len(pair.ground.ended) == 1)
    for end in (pair.satellite, pair.ground):
        end.settles = True
        end.restart()
        end.take_news()
        assert [view.state for view in end.ended] == [State.DELIVERED] * 2
    pair.run(pair.quiet)


def on_medium(end: End) -> dict[str, object]:
    saved: dict[str, object] = json.loads((end.folder / "state" / "1-1.tx").read_text().splitlines()[0])
    return saved


def test_eof_is_saved_before_it_is_acknowledged_and_the_file_before_finished(tmp_path: Path) -> None:
    pair = Pair(tmp_path, seed=2, loss=0.2)
    send(pair, 60_000)
    ground = pair.ground

    def watch(pdu: bytes) -> bytes:
        header, message = unpack(pdu)
        if header.toward_sender:
            if isinstance(message, Ack):
                assert on_medium(ground)["eof"] is not None
            if isinstance(message, Finished):
                assert on_medium(ground)["state"] == "delivered"
                assert (ground.received / "a.bin").read_bytes() == content(60_000)
        elif isinstance(message, Ack):
            assert on_medium(pair.satellite)["state"] == "delivered"
        return pdu

    pair.spoil = watch
    pair.run(pair.quiet)


def test_numbers_are_never_used_twice(tmp_path: Path) -> None:
    taken = []
    for _ in range(5):
        store = Filestore(tmp_path, lambda _: None)
        taken += [store.take_sequence() for _ in range(70)]
        with pytest.raises(StoreError, match="another program is using them"):
            Filestore(tmp_path, lambda _: None)
        store.close()
    assert len(set(taken)) == len(taken)
    for copy in "ab":
        (tmp_path / f"sequence-{copy}").unlink()
    store = Filestore(tmp_path, lambda _: None)
    assert store.take_sequence() > max(taken)
    store.close()
    for copy in "abc":
        (tmp_path / f"sequence-{copy}").write_bytes(b"rot")
    with pytest.raises(StoreError):
        Filestore(tmp_path, lambda _: None)


# -- bounds


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cfdp, "CLOSED_MAX", 3)
    monkeypatch.setattr(cfdp, "OPEN_MAX", 5)
    pair = Pair(tmp_path)
    for i in range(5):
        send(pair, 100, f"f{i}")
    with pytest.raises(LinkError, match="limit 5"):
        send(pair, 100, "more")
    pair.run(pair.quiet)
    assert len(pair.ground.entity.views()) == len(pair.satellite.entity.views()) == 3
    assert len(list((pair.ground.folder / "state").glob("*.tx"))) == 3
    for sequence in range(100, 110):
        pair.ground.entity.receive(pack(Header(SATELLITE, sequence, GROUND), FileData(0, b"x")))
    assert len(pair.ground.entity.views()) == 3 + 5


def test_too_many_gaps_are_not_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cfdp_transfer, "GAPS_MAX", 4)
    pair = Pair(tmp_path, loss=0.5, seed=5)
    send(pair, 80_000)
    pair.run(pair.quiet)
    assert (pair.ground.received / "a.bin").read_bytes() == content(80_000)
    assert pair.ground.entity.counters.refused_pdus > 0


def test_segments_are_short_on_a_bad_line_and_long_again(tmp_path: Path) -> None:
    pair = Pair(tmp_path, loss=0.7, seed=1)
    send(pair, 200_000, "a")
    pair.run(lambda: pair.satellite.entity.segment_octets == 200)
    pair.loss = 0.0
    pair.run(pair.quiet)
    send(pair, 400_000, "b")
    pair.run(pair.quiet)
    assert pair.satellite.entity.segment_octets == 1000


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=40))
def test_gaps_are_what_was_not_received(pieces: list[tuple[int, int]]) -> None:
    receiver = Receiver(Key(1, 1), Header(1, 1, 2))
    here: set[int] = set()
    for start, octets in pieces:
        new = set(range(start, start + octets)) - here
        fresh = receiver.cover(start, start + octets)
        assert {at for low, high in fresh for at in range(low, high)} == new
        assert sum(high - low for low, high in fresh) == len(new)
        assert receiver.fill(start, start + octets)
        here |= new
        assert receiver.reach == max(here) + 1
        assert {at for low, high in receiver.gaps for at in range(low, high)} == set(range(receiver.reach)) - here
        assert all(a[1] < b[0] for a, b in zip(receiver.gaps, receiver.gaps[1:], strict=False))
