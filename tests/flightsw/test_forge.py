"""The campaign against the uplink in its short form, and a flood at line rate."""

from __future__ import annotations

import pytest
from forge_frames import Forger, campaign

from flightsw.dictionary.commands import COMMANDS
from flightsw.link.services import pack_telecommand
from hil.channel import VirtualLine

APID, BAUD = 100, 115200
OCTETS_PER_S = BAUD // 10


def test_twenty_thousand_attacks_move_nothing() -> None:
    outcome = campaign(20_000, seed=20261123)
    assert sum(outcome.attacks.values()) == 20_000
    assert min(outcome.attacks.values()) > 1000
    assert min(outcome.rejects[why] for why in ("FECF", "SCID", "TYPE", "SPI", "MAC", "REPLAY")) > 100
    assert outcome.good > 100


@pytest.mark.parametrize("kind", ["replay", "own_key", "clear", "bits", "line", "random"])
def test_a_flood_at_line_rate_delays_a_good_command_by_its_airtime_and_a_tick(kind: str) -> None:
    """The line is never silent: attacks until the command, the command, attacks again. Ticks of one second."""
    forger = Forger(3)
    line = VirtualLine(BAUD)
    waiting: dict[bytes, float] = {}  # until when a command has to be taken
    taken = 0
    for tick in range(60):
        line.advance(float(tick))
        for received in forger.receiver.push(line.a.read()):
            until_s = waiting.pop(received.data)
            assert tick <= until_s
            taken += 1
        forger.receiver.begin_tick()
        assert all(tick <= until_s for until_s in waiting.values())
        if tick == 58:
            break
        octets = b""
        while len(octets) < forger.random.randrange(OCTETS_PER_S - 200):
            octets += forger.attacks[kind]()
        _, packet = pack_telecommand(COMMANDS["param.set"], ("die_max_c", 70.0 + 0.1 * tick), APID, tick)
        command = forger.uplinks[1].encode(packet)
        waiting[packet[11:-2]] = tick + (len(octets) + len(command)) / OCTETS_PER_S + 1.0
        octets += command
        while len(octets) < OCTETS_PER_S:
            octets += forger.attacks[kind]()
        assert line.b.write(octets[:OCTETS_PER_S]) == OCTETS_PER_S
    assert (taken, waiting) == (58, {})
