"""A file of 1 MiB through frames, code and the emulated line at 115,200 baud: how much of the computed rate is used.

Computed rates of the link notes, section 7, octets of file a second; of 1115-octet frames, twelve times those at 9,600.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from file_pair import GROUND, SATELLITE, End

from flightsw.link.cfdp import Config
from flightsw.link.packets import file_apid, file_pdu_of, pack_file_packet
from flightsw.link.services import CommandReceiver, Reporter, Uplink
from flightsw.link.stack import Stack
from hil.channel import VirtualLine

SCID, APID = 42, 100
BAUD = 115_200
FILE = random.Random(1).randbytes(1 << 20)

PLAIN, CODED = Stack(), Stack(reed_solomon=True)
LONG, LONG_CODED = Stack(frame_octets=1115), Stack(frame_octets=1115, reed_solomon=True)


def seconds_for(stack: Stack, bit_error_rate: float, folder: Path) -> tuple[float, VirtualLine]:
    """Send FILE down, both ends served once a second as the loop does; the ground has it whole in the end."""
    satellite, ground = End(folder / "s", Config(SATELLITE, GROUND)), End(folder / "g", Config(GROUND, SATELLITE))
    line = VirtualLine(BAUD, 0.05, bit_error_rate, seed=5)
    reporter, commands = Reporter(SCID, APID, 100_000, stack), CommandReceiver(SCID, APID, stack)
    receiver, uplink = stack.receiver(SCID), Uplink(SCID, stack)
    (folder / "file").write_bytes(FILE)
    satellite.entity.put(folder / "file", "file", 1.0)
    now_s, credit_octets, sequence = 0.0, 0.0, 0
    while not ground.ended:
        now_s += 1.0
        assert now_s < 600.0
        line.advance(now_s)
        for packet in receiver.push(line.b.read()):
            pdu = file_pdu_of(packet, file_apid(APID))
            assert pdu is not None
            ground.entity.receive(pdu)
        ground.entity.advance(now_s, True)
        for _ in range(8):
            if (pdu := ground.entity.next_pdu()) is None:
                break
            line.b.write(uplink.encode(pack_file_packet(file_apid(APID), sequence, pdu, is_telecommand=True)))
            sequence += 1
        commands.push(line.a.read())
        for pdu in commands.take_file_pdus():
            satellite.entity.receive(pdu)
        satellite.entity.advance(now_s, True)
        credit_octets = min(credit_octets + BAUD / 10, BAUD / 10 + reporter.unit_octets)
        while reporter.waiting_file_octets < credit_octets and (pdu := satellite.entity.next_pdu()) is not None:
            reporter.file(pdu)
        credit_octets -= line.a.write(reporter.take(int(credit_octets)))
        ground.take_news()
    assert (ground.received / "file").read_bytes() == FILE
    assert line.a_to_b.overrun_octets == 0
    satellite.store.close()
    ground.store.close()
    return now_s, line


@pytest.mark.parametrize(("stack", "bit_error_rate", "computed_octets_s"), [
    (PLAIN, 0.0, 10_519), (CODED, 0.0, 9_219), (LONG, 0.0, 930 * 12), (LONG_CODED, 0.0, 813 * 12),
    (CODED, 1e-4, 9_219), (LONG_CODED, 1e-4, 813 * 12), (CODED, 1e-3, 9_219),
], ids=str)
def test_a_file_takes_95_percent_of_the_computed_rate(stack: Stack, bit_error_rate: float, computed_octets_s: int,
                                                       tmp_path: Path) -> None:
    took_s, line = seconds_for(stack, bit_error_rate, tmp_path)
    assert len(FILE) / took_s >= 0.95 * computed_octets_s
    assert (line.a_to_b.flipped_bits > 0) == (bit_error_rate > 0.0)


def test_an_uncoded_file_is_whole_at_one_wrong_bit_in_a_hundred_thousand(tmp_path: Path) -> None:
    took_s, line = seconds_for(PLAIN, 1e-5, tmp_path)
    assert line.a_to_b.flipped_bits > 50
    assert took_s < 1.5 * len(FILE) / 10_519


def test_a_bench_line_without_frames_is_not_slower(tmp_path: Path) -> None:
    took_s, _ = seconds_for(Stack("cobs"), 0.0, tmp_path)
    assert len(FILE) / took_s >= 10_519
