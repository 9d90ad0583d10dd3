"""What the link costs: a housekeeping packet from fields to fields, and a tick's worth over the line.

The peer is spacepackets with its compiled CRC, doing the same work as far as it goes: packet and frame both
ways, without marker, randomiser, synchroniser, packets across frames or queues.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import pytest
from fastcrc import crc16 as fast_crc16
from pytest_benchmark.fixture import BenchmarkFixture
from spacepackets.ccsds.tm_frame import (
    MasterChannelId,
    TmFramePrimaryHeader,
    TmTransferFrame,
    TransferFrameDataFieldStatus,
)
from spacepackets.ecss.tm import PusTm

from flightsw.kernels import FrameCodec
from flightsw.link.coding import CaduSynchroniser, CltuDecoder, encode_cltu
from flightsw.link.frames import TM_FRAME_OCTETS, VC_HOUSEKEEPING, TmDeframer, TmFramer
from flightsw.link.packets import (
    TM_OVERHEAD_OCTETS,
    Telecommand,
    Telemetry,
    pack_tc,
    pack_tm,
    unpack_tc,
    unpack_tm,
)
from flightsw.link.tc_frames import build_tc_frame, parse_tc_frame
from hil.channel import VirtualLine

DATA = bytes(range(150 - TM_OVERHEAD_OCTETS))
TM = Telemetry(66, 5, 3, 25, 1, 0, 1.75e9, DATA)
SCID = 66


class Chain:
    """Both ends of the downlink, nothing between them."""

    def __init__(self) -> None:
        self.codec = FrameCodec(TM_FRAME_OCTETS)
        self.framer = TmFramer(SCID, {VC_HOUSEKEEPING: 8192}, close=self.codec.encode)
        self.synchroniser = CaduSynchroniser()
        self.deframer = TmDeframer(SCID)

    def one(self) -> Telemetry:
        self.framer.submit(VC_HOUSEKEEPING, pack_tm(TM))
        cadu = self.framer.next_frame()
        assert cadu is not None
        (received,) = self.synchroniser.push(cadu)
        ((_, packet),) = self.deframer.push_checked(received)
        return unpack_tm(packet)


def _peer() -> PusTm:
    packet = PusTm(
        service=3,
        message_subtype=25,
        timestamp=bytes(6),
        source_data=DATA,
        apid=66,
        seq_count=5,
        message_counter=1,
    ).pack()
    status = TransferFrameDataFieldStatus(False, False, False, 3, 0)
    header = TmFramePrimaryHeader(MasterChannelId(0, SCID), 1, True, 0, 0, status)
    data = bytes(packet) + bytes(211 - len(packet))
    body = TmTransferFrame(221, header, None, data, bytes(4), None).pack()
    frame = body + fast_crc16.ibm_3740(body).to_bytes(2, "big")
    received = TmTransferFrame.unpack(frame, 223, has_error_control_field=True)
    return PusTm.unpack(received.data_field[: len(packet)], timestamp_len=6)


@pytest.mark.benchmark(group="housekeeping packet of 150 octets, fields to fields")
@pytest.mark.parametrize("by", ["flightsw", "spacepackets"])
def test_bench_housekeeping_packet(benchmark: BenchmarkFixture, by: str) -> None:
    work: Callable[[], Telemetry | PusTm] = Chain().one if by == "flightsw" else _peer
    received = benchmark(work)
    assert (received.data if isinstance(received, Telemetry) else received.source_data) == DATA


@pytest.mark.benchmark(group="downlink stages of that packet")
@pytest.mark.parametrize("stage", ["pack", "submit and frame", "code", "synchronise", "deframe", "unpack"])
def test_bench_stage(benchmark: BenchmarkFixture, stage: str) -> None:
    chain = Chain()
    packet = pack_tm(TM)
    chain.framer.submit(VC_HOUSEKEEPING, packet)
    cadu = chain.framer.next_frame()
    assert cadu is not None
    (frame,) = chain.synchroniser.push(cadu)

    def submit_and_frame() -> bytes | None:
        chain.framer.submit(VC_HOUSEKEEPING, packet)
        return chain.framer.next_frame()

    work: dict[str, Callable[[], object]] = {
        "pack": functools.partial(pack_tm, TM),
        "submit and frame": submit_and_frame,
        "code": functools.partial(chain.codec.encode, frame[:-2]),
        "synchronise": functools.partial(chain.synchroniser.push, cadu),
        "deframe": functools.partial(chain.deframer.push_checked, frame),
        "unpack": functools.partial(unpack_tm, packet),
    }
    assert benchmark(work[stage])


@pytest.mark.benchmark(group="telecommand of 20 octets, fields to fields")
def test_bench_telecommand(benchmark: BenchmarkFixture) -> None:
    decoder = CltuDecoder()
    tc = Telecommand(66, 1, 15, 8, 1, 1, bytes(20))

    def uplink() -> Telecommand:
        (content,) = decoder.push(encode_cltu(build_tc_frame(pack_tc(tc), SCID)))
        return unpack_tc(parse_tc_frame(content, SCID).data)

    assert benchmark(uplink) == tc


@pytest.mark.benchmark(group="one tick of the link in virtual time")
@pytest.mark.parametrize(("packets", "bit_error_rate"), [(0, 1e-5), (1, 0.0), (4, 0.0), (4, 1e-5)])
def test_bench_tick(benchmark: BenchmarkFixture, packets: int, bit_error_rate: float) -> None:
    """Packets framed, sent at 115,200 baud, received and decoded a tick later; both ends in one process."""
    chain = Chain()
    line = VirtualLine(115200, 0.01, bit_error_rate, seed=1)
    seconds = itertools.count(1)

    def tick() -> int:
        line.advance(float(next(seconds)))
        for _ in range(packets):
            chain.framer.submit(VC_HOUSEKEEPING, pack_tm(TM))
        for cadu in chain.framer.frames(50):
            line.a.write(cadu)
        received = 0
        for frame in chain.synchroniser.push(line.b.read()):
            for _, packet in chain.deframer.push_checked(frame):
                unpack_tm(packet)
                received += 1
        return received

    benchmark(tick)
    assert line.a_to_b.overrun_octets == 0
