"""Attack a sealed uplink: forged, replayed, truncated, mutated and reordered frames, none of which may pass.

    python tests/flightsw/forge_frames.py [FRAMES] [SEED]      (make forge: 1,000,000)

The satellite's receiver gets every frame as octets on the line. After each hundred its state is compared with what it
was: V(R), flags, accepted frames, telecommands, key states, and the counters on the medium. Now and then a good command
is sent between two attacks, and has to be accepted at once. What ends in an exception, or accepts, fails.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from flightsw.dictionary.commands import COMMANDS
from flightsw.link.coding import encode_cltu
from flightsw.link.cop1 import UNLOCK, set_vr
from flightsw.link.keys import KeyRing, Keys, first_marks, make_keys, spi_of
from flightsw.link.packets import crc16
from flightsw.link.sdls import WINDOW, CommandSeal, TelemetrySeal
from flightsw.link.services import CommandReceiver, Uplink, pack_telecommand
from flightsw.link.tc_frames import Reject, TcKind, build_tc_frame

SCID, APID = 42, 100
_CHECK_EVERY = 100
_GOOD_EVERY = 997


class Outcome(NamedTuple):
    """What came of a campaign."""

    attacks: dict[str, int]
    rejects: dict[str, int]
    good: int


class _Fact:
    def __init__(self, keys: Keys) -> None:
        self.value = first_marks(keys)

    def set(self, value: bytes) -> None:
        self.value = value


def _octets(seed: int) -> Iterator[bytes]:
    return (hashlib.sha256(f"{seed}/{i}".encode()).digest() for i in itertools.count())


class Forger:
    """Everything that an attacker at the line has: all frames sent so far, the dictionary, and keys of his own."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        keys = make_keys(SCID, ["Main", "Second"], _octets(seed))
        self.fact = _Fact(keys)
        self.board = KeyRing(keys, self.fact)
        self.receiver = CommandReceiver(SCID, APID, seal=CommandSeal(self.board))
        ground = KeyRing(keys, _Fact(keys))
        self._seals = {station: CommandSeal(ground, station) for station in (1, 2)}
        self.uplinks = {station: Uplink(SCID, seal=seal) for station, seal in self._seals.items()}
        telemetry = TelemetrySeal(self.board, encrypt=False)
        self._telemetry = [telemetry.seal(self.random.randbytes(60)) for _ in range(50)]
        own = make_keys(SCID, ["Main", "Second"], _octets(seed + 1))
        self._own = KeyRing(own, _Fact(own))
        self._own_seals = {station: CommandSeal(self._own, station) for station in (1, 2)}
        self._count = 0
        self.heard: list[bytes] = []  # frames, as they were on the line
        self.good = 0
        for _ in range(100):
            self.command()
        self.attacks: dict[str, Callable[[], bytes]] = {
            name.removeprefix("attack_"): getattr(self, name) for name in dir(self) if name.startswith("attack_")}

    def command(self) -> None:
        """Send a good command; it has to be accepted."""
        self._count += 1
        station = self.random.choice((1, 2))
        verb, values = self.random.choice((("ping", ()), ("safe", ()), ("param.set", ("die_max_c", 70.0))))
        _, packet = pack_telecommand(COMMANDS[verb], values, APID, self._count & 0x3FFF)
        kind = self.random.choice((TcKind.AD, TcKind.BD))
        sequence = self.receiver.status().uplink_expected if kind is TcKind.AD else 0
        frame = build_tc_frame(packet, SCID, kind=kind, sequence=sequence, secure=self._seals[station].seal,
                               overhead_octets=30)
        self.receiver.begin_tick()
        received = self.receiver.push(encode_cltu(frame))
        if [one.data for one in received] != [packet[11:-2]]:
            raise AssertionError(f"a good {verb} was not accepted: {self.receiver.last_rejection}")
        self.heard = [*self.heard[-999:], frame]
        self.good += 1

    def state(self) -> tuple[object, ...]:
        """All that an attack must not move."""
        status = self.receiver.status()
        return (self.receiver.frames_accepted, self.receiver.control_words()[0], status[len(Reject):], self.fact.value,
                self.receiver.take_file_pdus(), [(one.used, one.mark, one.state) for family in (0, 1, 2)
                                                 for one in self.board.family(family)])

    # -- attacks: each returns octets for the line

    def attack_replay(self) -> bytes:
        return encode_cltu(self.random.choice(self.heard))

    def attack_reordered(self) -> bytes:
        """Recorded frames in another order, in one burst."""
        return b"".join(map(encode_cltu, self.random.sample(self.heard, 3)))

    def attack_truncated(self) -> bytes:
        frame = self.random.choice(self.heard)
        return encode_cltu(self._resealed(frame[:self.random.randrange(1, len(frame))]))

    def attack_bits(self) -> bytes:
        """A recorded frame with up to four bits flipped, and its error control made right again."""
        body = bytearray(self.random.choice(self.heard)[:-2])
        for _ in range(self.random.randrange(1, 5)):
            bit = self.random.randrange(8 * len(body))
            body[bit >> 3] ^= 0x80 >> (bit & 7)
        if bytes(body) == self._body_of(bytes(body)):
            body[-1] ^= 1
        return encode_cltu(self._resealed(bytes(body), add=True))

    def attack_intercepted(self) -> bytes:
        """A good frame that never arrived, with one bit flipped anywhere, or one octet of its header changed."""
        _, packet = pack_telecommand(COMMANDS["safe"], (), APID, self.random.getrandbits(14))
        body = bytearray(build_tc_frame(packet, SCID, kind=self.random.choice((TcKind.AD, TcKind.BD)),
                                        sequence=self.receiver.status().uplink_expected,
                                        secure=self._seals[1].seal, overhead_octets=30)[:-2])
        bit = self.random.choice((self.random.randrange(16), self.random.randrange(32, 48),
                                  self.random.randrange(32, 8 * len(body))))  # the length is made right again
        body[bit >> 3] ^= 0x80 >> (bit & 7)
        return encode_cltu(self._resealed(bytes(body), add=True))

    def attack_line(self) -> bytes:
        """The octets of a recorded CLTU, mutated."""
        octets = bytearray(encode_cltu(self.random.choice(self.heard)))
        for _ in range(self.random.randrange(1, 9)):
            at = self.random.randrange(len(octets))
            what = self.random.randrange(3)
            if what == 0:
                octets[at] = self.random.randrange(256)
            elif what == 1:
                del octets[at]
            else:
                octets.insert(at, self.random.randrange(256))
        return bytes(octets)

    def attack_counter(self) -> bytes:
        """A recorded frame with another counter: the next ones, far ones, zero, the last one."""
        frame = bytearray(self.random.choice(self.heard))
        counter = self.random.choice((0, 1, self._count + 1, self._count + WINDOW, 1 << 64, (1 << 96) - 1,
                                      self.random.getrandbits(96)))
        frame[8:20] = counter.to_bytes(12, "big")
        return encode_cltu(self._resealed(bytes(frame[:-2]), add=True))

    def attack_spi(self) -> bytes:
        """A recorded frame under another station's key, telemetry's, one that is not active, or none."""
        frame = bytearray(self.random.choice(self.heard))
        spi = self.random.choice((0, 1, 2, spi_of(1, 0), spi_of(1, 1), spi_of(2, 0), spi_of(2, 3), 0xFFFF,
                                  self.random.getrandbits(16)))
        if spi.to_bytes(2, "big") == frame[6:8]:
            spi ^= 1
        frame[6:8] = spi.to_bytes(2, "big")
        return encode_cltu(self._resealed(bytes(frame[:-2]), add=True))

    def attack_header(self) -> bytes:
        """A recorded frame as another type, with another sequence number, or for another spacecraft."""
        frame = bytearray(self.random.choice(self.heard))
        at, octet = self.random.choice(((0, 0x00), (0, 0x20), (0, 0x30), (0, 0x10), (1, self.random.getrandbits(8)),
                                        (4, self.random.getrandbits(8)), (5, self.random.getrandbits(8))))
        frame[at] = octet if frame[at] != octet else octet ^ 1
        return encode_cltu(self._resealed(bytes(frame[:-2]), add=True))

    def attack_own_key(self) -> bytes:
        """A whole and well-formed frame, sealed with the attacker's keys at the counter that is expected."""
        station = self.random.choice((1, 2))
        association = self._own.find(spi_of(station, 0))
        expected = self.board.find(spi_of(station, 0))
        if association is not None and expected is not None:
            association.used = association.mark = expected.used
        _, packet = pack_telecommand(COMMANDS["safe"], (), APID, self.random.getrandbits(14))
        kind = self.random.choice(tuple(TcKind))
        data = packet if kind is not TcKind.BC else self.random.choice((UNLOCK, set_vr(self.random.getrandbits(8))))
        return encode_cltu(build_tc_frame(data, SCID, kind=kind, sequence=self.random.getrandbits(8),
                                          secure=self._own_seals[station].seal, overhead_octets=30))

    def attack_clear(self) -> bytes:
        """A frame as a link in clear has it, control commands included."""
        _, packet = pack_telecommand(COMMANDS["safe"], (), APID, self.random.getrandbits(14))
        kind = self.random.choice(tuple(TcKind))
        data = packet if kind is not TcKind.BC else self.random.choice((UNLOCK, set_vr(self.random.getrandbits(8))))
        return encode_cltu(build_tc_frame(data, SCID, kind=kind, sequence=self.random.getrandbits(8)))

    def attack_reflected(self) -> bytes:
        """The satellite's own telemetry, wrapped as a telecommand, and as it is."""
        sealed = self.random.choice(self._telemetry)
        body = sealed if self.random.random() < 0.5 else self._header(len(sealed) + 2) + sealed[6:]
        return encode_cltu(self._resealed(body, add=True))

    def attack_random(self) -> bytes:
        """A frame for this spacecraft with nothing but noise in it, or noise alone."""
        noise = self.random.randbytes(self.random.randrange(1, 120))
        if self.random.random() < 0.5:
            return noise
        return encode_cltu(self._resealed(self._header(len(noise) + 8) + noise, add=True))

    def _header(self, octets: int) -> bytes:
        return (0x2000 | SCID).to_bytes(2, "big") + (octets - 1).to_bytes(2, "big") + b"\0\xc0"

    def _body_of(self, body: bytes) -> bytes | None:
        return next((frame[:-2] for frame in self.heard if frame[:-2] == body), None)

    def _resealed(self, octets: bytes, *, add: bool = False) -> bytes:
        """Make length and error control right: they keep nobody out."""
        body = octets if add else octets[:-2]
        if len(body) < 5:
            return octets
        size = len(body) + 2
        body = body[:2] + ((body[2] & 0xFC) << 8 | size - 1).to_bytes(2, "big") + body[4:]
        return body + crc16(body).to_bytes(2, "big")


def campaign(frames: int, seed: int, told: Callable[[int], object] = lambda _done: None) -> Outcome:
    """Send `frames` attacks; AssertionError at the first that moves anything."""
    forger = Forger(seed)
    names = sorted(forger.attacks)
    counts = dict.fromkeys(names, 0)
    before, recent = forger.state(), []
    for number in range(frames):
        name = forger.random.choice(names)
        counts[name] += 1
        recent.append(name)
        received = forger.receiver.push(forger.attacks[name]())
        if received:
            raise AssertionError(f"attack {number}, {name}, was accepted: {received}")
        if number % _CHECK_EVERY == _CHECK_EVERY - 1:
            after = forger.state()
            if after != before:
                raise AssertionError(f"one of the attacks to {number}, {recent}, moved {before} to {after}")
            recent.clear()
            told(number + 1)
        if number % _GOOD_EVERY == _GOOD_EVERY - 1:
            after = forger.state()
            if after != before:
                raise AssertionError(f"one of the attacks to {number}, {recent}, moved {before} to {after}")
            forger.receiver.push(bytes(1100))  # what a mutated CLTU left open is closed by the silence after it
            forger.command()
            before = forger.state()
    forger.receiver.push(bytes(1100))
    for _ in range(10):
        forger.command()
    return Outcome(counts, {why.name: count for why, count in zip(Reject, forger.receiver.rejects, strict=True)},
                   forger.good)


def main() -> int:
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    outcome = campaign(frames, seed, lambda done: done % 100_000 or print(f"{done:,} attacks", flush=True))
    print(f"{frames:,} attacks of seed {seed}: none accepted, no state moved; {outcome.good} good commands between "
          f"them, all accepted\nattacks  {outcome.attacks}\nrefused  {outcome.rejects}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
