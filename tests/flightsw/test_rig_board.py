"""The rig board and its codec: every message comes back, nothing else gets in, silence never stalls."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.board.rig import (
    FRAME_OCTETS_MAX,
    Actuators,
    FrameCutter,
    Kind,
    RigBoard,
    decode_actuators,
    decode_frame,
    decode_sensors,
    encode_actuators,
    encode_frame,
    encode_hello,
    encode_sensors,
)
from flightsw.dictionary.sensors import INDEX, SENSORS
from flightsw.errors import LinkError
from flightsw.sensing import sense
from flightsw.state import NODE_COUNT_MAX, Quality, RawReading
from hil.rig_link import PlantLink

READING = st.one_of(
    st.none(),
    st.builds(RawReading, st.one_of(st.none(), st.floats(width=64)), st.integers(0, 1000).map(float)),
)
READINGS = st.lists(READING, min_size=len(SENSORS), max_size=len(SENSORS))


class Wire:
    """Two ends of a line that delivers at once."""

    def __init__(self) -> None:
        self.ends = (End(self, 0), End(self, 1))
        self.waiting = [bytearray(), bytearray()]


class End:
    def __init__(self, wire: Wire, number: int) -> None:
        self._wire, self._number = wire, number

    def read(self) -> bytes:
        octets = bytes(self._wire.waiting[self._number])
        self._wire.waiting[self._number].clear()
        return octets

    def write(self, octets: bytes) -> int:
        self._wire.waiting[1 - self._number] += octets
        return len(octets)


def same(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))


def readings_with(**values: float | None) -> list[RawReading | None]:
    readings: list[RawReading | None] = [None] * len(SENSORS)
    for name, value in values.items():
        readings[INDEX[name]] = RawReading(value, 0.0)
    return readings


@given(st.integers(0, 255), st.binary(max_size=600))
def test_any_payload_comes_back_and_holds_no_zero_inside(kind, payload):
    frame = encode_frame(kind, payload)
    assert frame[-1] == 0
    assert 0 not in frame[:-1]
    assert decode_frame(frame[:-1]) == (kind, payload)


@pytest.mark.parametrize("size", [0, 250, 251, 252, 253, 254, 255, 505, 506, 507, 508, 509, 510])
@pytest.mark.parametrize("octet", [b"\0", b"\1", b"\xff"])
def test_runs_at_the_edges_of_a_block_come_back(size, octet):
    payload = octet * size
    assert decode_frame(encode_frame(2, payload)[:-1]) == (2, payload)


@given(st.binary(max_size=100), st.data())
def test_a_damaged_frame_is_refused(payload, data):
    frame = bytearray(encode_frame(2, payload)[:-1])
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(LinkError):
        decode_frame(bytes(frame))


@given(st.binary(max_size=300))
def test_noise_is_never_a_message_and_never_raises(noise):
    cutter = FrameCutter()
    cutter.push(noise)
    good = encode_frame(3, b"after")
    assert cutter.push(b"\0" + good)[-1] == (3, b"after")


def test_an_endless_frame_takes_bounded_memory_and_the_next_one_is_read():
    cutter = FrameCutter()
    for _ in range(100):
        assert cutter.push(b"\x07" * 500) == []
    assert len(cutter._rest) <= FRAME_OCTETS_MAX + 500
    assert cutter.push(b"\0" + encode_frame(3, b"after")) == [(3, b"after")]
    assert cutter.bad_frames == 1


@given(st.lists(st.binary(max_size=50), max_size=5), st.data())
def test_cuts_in_the_stream_do_not_matter(payloads, data):
    stream = b"".join(encode_frame(1, payload) for payload in payloads)
    cutter, found = FrameCutter(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += cutter.push(stream[:size])
        stream = stream[size:]
    assert found == [(1, payload) for payload in payloads]


@given(st.integers(0, 2**32 - 1), READINGS)
def test_sensors_come_back_with_validity_and_age(sequence, readings):
    kind, payload = decode_frame(encode_sensors(sequence, 1000.0, readings)[:-1])
    assert kind == Kind.SENSORS
    sensors = decode_sensors(payload)
    assert (sensors.sequence, sensors.t_s) == (sequence, 1000.0)
    for sent, got in zip(readings, sensors.readings, strict=True):
        assert (sent is None) == (got is None)
        if sent is not None and got is not None:
            assert same(sent.value, got.value)
            assert got.sampled_s == sent.sampled_s


@given(st.integers(0, NODE_COUNT_MAX), st.data())
def test_actuators_come_back(nodes, data):
    cap = st.one_of(st.just(math.nan), st.floats(0.0, 2000.0, width=32))
    caps_w = tuple(data.draw(st.lists(cap, min_size=nodes, max_size=nodes)))
    busy = tuple(data.draw(st.lists(st.floats(0.0, 1.0, width=32), min_size=nodes, max_size=nodes)))
    sent = Actuators(7, 12.5, data.draw(st.booleans()), caps_w, busy)
    got = decode_actuators(decode_frame(encode_actuators(sent)[:-1])[1])
    assert got._replace(caps_w=()) == sent._replace(caps_w=())
    assert all(map(same, got.caps_w, sent.caps_w))


@given(st.binary(max_size=500))
def test_any_payload_is_decoded_or_refused(payload):
    for decode in (decode_sensors, decode_actuators):
        try:
            decode(payload)
        except LinkError:
            continue


def test_the_ends_greet_and_sensors_flow():
    wire = Wire()
    board, plant = RigBoard(wire.ends[0], nodes=1), PlantLink(wire.ends[1])
    assert board.describe() == ("rig: no plant has answered",)
    board.serve(0.0)
    plant.poll(0.0)
    assert plant.greetings == 1
    plant.send_sensors(0.5, readings_with(die0_c=41.0, plate_c=None))
    readings = sense(board, 3.0)
    assert readings.values[INDEX["die0_c"]] == 41.0
    assert readings.qualities[INDEX["plate_c"]] == Quality.MISSING
    assert readings.qualities[INDEX["bus_c"]] == Quality.NOT_FITTED
    assert board.fitted == {"die0_c", "plate_c"}
    assert board.describe()[0] == "rig: 2 of 13 sensors are served by the plant"
    board.set_transmitter(True)
    board.report(3.0, [0.5], [0.25])
    plant.poll(3.0)
    assert plant.actuators == Actuators(1, 3.0, True, (0.5,), (0.25,))


def test_a_silent_plant_gives_old_samples_that_grow_stale_and_is_greeted_again():
    wire = Wire()
    board, plant = RigBoard(wire.ends[0]), PlantLink(wire.ends[1])
    board.serve(0.0)
    plant.poll(0.0)
    plant.send_sensors(0.0, readings_with(die0_c=41.0))
    assert sense(board, 1.0).values[INDEX["die0_c"]] == 41.0
    late = sense(board, 5.0)
    assert late.values[INDEX["die0_c"]] is None
    assert late.qualities[INDEX["die0_c"]] == Quality.STALE
    for second in range(6, 10):
        sense(board, float(second))
    plant.poll(10.0)
    assert plant.greetings == 5


def test_ages_travel_so_clocks_need_not_agree():
    wire = Wire()
    board, plant = RigBoard(wire.ends[0]), PlantLink(wire.ends[1])
    plant.send_sensors(9000.0, [RawReading(20.0, 8997.0)] * len(SENSORS))
    board.serve(100.0)
    assert board.read_sensors(100.5)[0] == RawReading(20.0, 97.0)


def test_an_end_with_another_table_is_refused_with_the_reason():
    wire = Wire()
    board, plant = RigBoard(wire.ends[0]), PlantLink(wire.ends[1])
    stranger = encode_frame(Kind.HELLO, b"\0\0\0\0\5\0")
    wire.ends[1].write(stranger)
    board.serve(0.0)
    assert "another table" in board.refused
    assert "another table" in board.describe()[0]
    wire.ends[0].read()
    wire.waiting[1].clear()
    wire.ends[0].write(stranger)
    plant.poll(0.0)
    assert plant.greetings == 0
    assert "another table" in plant.refused


def test_unknown_kinds_and_versions_are_counted_and_passed_over():
    wire = Wire()
    board, plant = RigBoard(wire.ends[0]), PlantLink(wire.ends[1])
    lockstep = encode_frame(0x10, b"tick")
    wire.ends[1].write(lockstep + encode_sensors(1, 0.0, readings_with(die0_c=41.0)))
    wire.ends[0].write(lockstep)
    board.serve(0.0)
    plant.poll(0.0)
    assert board.linked
    assert (board.bad_frames, plant.bad_frames) == (1, 1)
    assert encode_hello()[-1] == 0
