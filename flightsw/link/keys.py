"""Keys of the link and how far their counters are used: slots, their states, and marks that survive a power cut.

A key belongs to one security parameter index (SPI) and to one sender: a ground station, or the satellite's telemetry.
Each of them is a *family* with a few slots, so that a station can move to its next key over the air. Both ends hold
the same `Keys`, read from one file, and each its own `KeyRing`: the states of the slots and, for each, the highest
counter that may have been used. That mark is written ahead, `RESERVE` counters at a time, before the first of them is
used: after a power cut a ring goes on at the mark, so no counter is ever used or accepted twice.

`sdls.py` seals and opens with what it finds here. `flightsw/keyfile.py` reads and writes the files. Nothing here
makes keys, reads a clock or draws random numbers.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flightsw.errors import ConfigError, StoreError
from flightsw.state import SPI_SLOT_BITS, ChangeKey, Event, KeyStep

KEY_OCTETS = 32
SLOTS_MAX = 4
STATIONS_MAX = 10
TELEMETRY = 0
"""The satellite's own family; stations are 1 and up, in the order of the mission file."""

COUNTER_MAX = (1 << 96) - 1
RESERVE = 256
"""Counters that one write of the marks covers: what a power cut costs at most."""
FAILED_JUMP = 1 << 32
"""Once marks cannot be written, a sender jumps this far ahead: beyond whatever it would use after a restart."""

_HEAD = struct.Struct(">4s8s")
_MAGIC = b"KRG1"
_ENTRY = struct.Struct(">HB12s")


class SlotState(IntEnum):
    """State of a key. Codes are four bits apart, so no flipped bit makes one of another."""

    PRE_ACTIVE = 0x0F
    ACTIVE = 0x33
    TRIAL = 0x55  # in force beside the one before it, until the ground confirms it or it is taken back
    RETIRED = 0x69


IN_FORCE = (SlotState.ACTIVE, SlotState.TRIAL)


class Key(NamedTuple):
    """One key. `name` is the station's, or "telemetry"."""

    spi: int
    name: str
    octets: bytes


class Keys(NamedTuple):
    """All keys of one spacecraft, as both ends hold them."""

    scid: int
    keys: tuple[Key, ...]

    @property
    def fingerprint(self) -> bytes:
        """Eight octets that tell these keys from any others, and nothing about them."""
        return hashlib.blake2b(repr(self).encode(), digest_size=8).digest()

    @property
    def families(self) -> dict[int, str]:
        """Names of the senders by family."""
        return {family_of(key.spi): key.name for key in self.keys}


class Fact(Protocol):
    """A few octets that survive anything; `flightsw.store.TripleFact` is one."""

    @property
    def value(self) -> bytes:
        """The last value that was durably set."""

    def set(self, value: bytes, /) -> None:
        """Return once `value` is on the medium; StoreError where it may not be."""


def spi_of(family: int, slot: int) -> int:
    """Security parameter index of a slot; 0 and 65535 are not used (355.0-B-2)."""
    return family << SPI_SLOT_BITS | slot + 1


def family_of(spi: int) -> int:
    """Family that an SPI belongs to."""
    return spi >> SPI_SLOT_BITS


def make_keys(scid: int, stations: Sequence[str], octets: Iterator[bytes], slots: int = SLOTS_MAX) -> Keys:
    """Make a set with `slots` keys for telemetry and each station, from as many times 32 random `octets`.

    Raises ConfigError where there are too many stations or a key is not 32 octets.
    """
    if not 0 < len(stations) <= STATIONS_MAX:
        raise ConfigError("link keys", f"{len(stations)} stations, 1..{STATIONS_MAX} can have keys")
    names = ("telemetry", *stations)
    keys = tuple([Key(spi_of(family, slot), name, next(octets))
                  for family, name in enumerate(names) for slot in range(slots)])
    if any(len(key.octets) != KEY_OCTETS for key in keys):
        raise ConfigError("link keys", f"a key is not {KEY_OCTETS} octets")
    return Keys(scid, keys)


def first_marks(keys: Keys) -> bytes:
    """Fact of a ring that was never used: the first slot of each family in force, every counter at 0."""
    return _pack_marks(keys, [
        (key.spi, SlotState.ACTIVE if key.spi & 0xF == 1 else SlotState.PRE_ACTIVE, 0) for key in keys.keys])


def _pack_marks(keys: Keys, entries: Sequence[tuple[int, SlotState, int]]) -> bytes:
    return _HEAD.pack(_MAGIC, keys.fingerprint) + b"".join(
        [_ENTRY.pack(spi, state, mark.to_bytes(12, "big")) for spi, state, mark in entries])


class Association:
    """One key in a ring. `used` is the highest counter used or accepted, `mark` what is on the medium, never lower."""

    __slots__ = ("cipher", "family", "mark", "name", "spi", "state", "used")

    def __init__(self, key: Key, state: SlotState, mark: int) -> None:
        self.spi = key.spi
        self.family = family_of(key.spi)
        self.name = key.name
        self.cipher = AESGCM(key.octets)
        self.state = state
        self.used = mark
        self.mark = mark


class KeyRing:
    """One end's keys: which are in force, and the counters. Every change is durable before it has an effect."""

    def __init__(self, keys: Keys, fact: Fact) -> None:
        """Read the marks; StoreError where they are not of these keys, or cannot be written any more."""
        self.keys = keys
        self.failure = ""  # why marks cannot be written any more; counters then live in memory alone
        self._fact = fact
        octets = fact.value
        wanted = _HEAD.size + _ENTRY.size * len(keys.keys)
        if len(octets) != wanted or _HEAD.unpack_from(octets) != (_MAGIC, keys.fingerprint):
            raise StoreError("counters of the link keys: they belong to other keys")
        self._by_spi: dict[int, Association] = {}
        for key, (spi, state, mark) in zip(keys.keys, _ENTRY.iter_unpack(octets[_HEAD.size:]), strict=True):
            if spi != key.spi or state not in set(SlotState):
                raise StoreError(f"counters of the link keys: SPI {spi} in state {state:#x} where SPI {key.spi} stands")
            self._by_spi[spi] = Association(key, SlotState(state), int.from_bytes(mark, "big"))
        fact.set(octets)  # a medium that fails is found before anything is sealed, not when a reserve is used up

    def find(self, spi: int) -> Association | None:
        """Return the key of an SPI, whatever its state; None where there is none."""
        return self._by_spi.get(spi)

    def family(self, family: int) -> tuple[Association, ...]:
        """All slots of a sender, in the order in which they are used."""
        return tuple([one for one in self._by_spi.values() if one.family == family])

    def in_force(self, family: int) -> Association | None:
        """Return the key that a sender seals with: the one on trial, else the active one; None where none is left."""
        slots = self.family(family)
        return next((one for state in (SlotState.TRIAL, SlotState.ACTIVE) for one in slots if one.state is state), None)

    @property
    def stations_in_force(self) -> tuple[Association, ...]:
        """Keys under which stations may command now."""
        return tuple([one for one in self._by_spi.values() if one.family != TELEMETRY and one.state in IN_FORCE])

    def slots_in_force(self) -> tuple[int, int]:
        """Slots of the active keys, two bits a sender, and a bit for each sender that has its next on trial."""
        active = on_trial = 0
        for family in self.keys.families:
            for slot, one in enumerate(self.family(family)):
                active |= (one.state is SlotState.ACTIVE) * slot << 2 * family
                on_trial |= (one.state is SlotState.TRIAL) << family
        return active, on_trial

    def agree(self, active: int, on_trial: int) -> None:
        """Take over the other end's `slots_in_force`, durably; a retired key stays retired whatever is said."""
        changes = {}
        for family in self.keys.families:
            now = active >> 2 * family & 3
            for slot, one in enumerate(self.family(family)):
                state = (SlotState.RETIRED if slot < now else SlotState.ACTIVE if slot == now else
                         SlotState.TRIAL if slot == now + 1 and on_trial >> family & 1 else SlotState.PRE_ACTIVE)
                if state is not one.state is not SlotState.RETIRED:
                    changes[one.spi] = state
        if changes:
            self._change(changes)

    def commit(self, association: Association, counter: int) -> None:
        """Use up all counters up to `counter`, durably. The caller knows that it is higher than `used`.

        Never raises: once a write has failed the ring goes on in memory and `failure` says why.
        """
        if counter > association.mark:
            self._reserve(association, counter)
        association.used = counter

    def draw(self, association: Association) -> int:
        """Return the next counter to seal with; StoreError where the last one is used."""
        counter = association.used + 1
        if counter > association.mark and not self._reserve(association, counter):
            counter += FAILED_JUMP
            association.mark = COUNTER_MAX  # in memory: there is nothing more to reserve
        if counter > COUNTER_MAX:
            raise StoreError(f"counter of SPI {association.spi} is used up: {COUNTER_MAX}")
        association.used = counter
        return counter

    def follow(self, association: Association, counter: int) -> None:
        """Remember an accepted counter that is also kept elsewhere: in memory, and on the medium now and then."""
        association.used = counter
        if counter - association.mark >= RESERVE:
            association.mark = counter
            self._write()

    def raise_to(self, spi: int, counter: int) -> None:
        """Go on above `counter`, which the other end said is used up; never goes back."""
        association = self._by_spi.get(spi)
        if association is not None and association.used < counter <= COUNTER_MAX:
            self.commit(association, counter)

    def put_on_trial(self, spi: int) -> None:
        """Take a key into force beside the active one, durably; nothing where it was in force before."""
        if self._is(spi, SlotState.PRE_ACTIVE):
            self._change({spi: SlotState.TRIAL})

    def take_back(self, spi: int) -> None:
        """Take a key out of force that was not confirmed, durably; nothing where it is not on trial."""
        if self._is(spi, SlotState.TRIAL):
            self._change({spi: SlotState.PRE_ACTIVE})

    def activate(self, spi: int) -> None:
        """Make a key its sender's only one in force, durably, and retire those before it for good."""
        if self._is(spi, SlotState.TRIAL, SlotState.PRE_ACTIVE):
            self._change({one.spi: SlotState.RETIRED for one in self.family(family_of(spi)) if one.state in IN_FORCE}
                         | {spi: SlotState.ACTIVE})

    def _is(self, spi: int, *states: SlotState) -> bool:
        association = self._by_spi.get(spi)
        return association is not None and association.state in states

    def _change(self, states: dict[int, SlotState]) -> None:
        for spi, state in states.items():
            self._by_spi[spi].state = state
        self._write()

    def close(self) -> None:
        """Write down exactly what is used: an orderly end costs no counters."""
        for association in self._by_spi.values():
            association.mark = association.used
        self._write()

    def _reserve(self, association: Association, counter: int) -> bool:
        """Move a mark ahead of `counter`; False where it is not on the medium."""
        before, association.mark = association.mark, min(counter + RESERVE - 1, COUNTER_MAX)
        self._write()
        if self.failure:
            association.mark = before
        return not self.failure

    def _write(self) -> None:
        if self.failure:
            return
        try:
            self._fact.set(_pack_marks(self.keys, [(one.spi, one.state, one.mark) for one in self._by_spi.values()]))
        except StoreError as error:
            self.failure = str(error)


class Rollover:
    """The satellite's side of moving a sender to its next key: a trial, then confirmed or taken back in time.

    What it did, or why not, is an event; the ground's ring follows those.
    """

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._until_s: dict[int, float] = {}  # by SPI on trial
        self._told_failure = False

    def take(self, change: ChangeKey, now_s: float, trial_s: float) -> Event:
        """Carry out one step that the ground asked for."""
        slots = self._ring.family(change.sender)
        trial = next((one for one in slots if one.state is SlotState.TRIAL), None)
        if change.step is KeyStep.ROLL:
            following = next((one for one in slots if one.state is SlotState.PRE_ACTIVE), None)
            if trial is not None:
                return Event("key_refused", (f"SPI {trial.spi} is on trial already",))
            if following is None:
                return Event("key_refused", (f"sender {change.sender} has no key left",))
            self._ring.put_on_trial(following.spi)
            self._until_s[following.spi] = now_s + trial_s
            return Event("key_trial", (following.spi, trial_s))
        if trial is None:
            return Event("key_refused", (f"sender {change.sender} has no key on trial",))
        if change.sender != TELEMETRY and change.spi != trial.spi:
            return Event("key_refused", (f"SPI {trial.spi} was confirmed under SPI {change.spi}, not by itself",))
        self._until_s.pop(trial.spi, None)
        self._ring.activate(trial.spi)
        return Event("key_active", (trial.spi,))

    def tick(self, now_s: float, trial_s: float) -> list[Event]:
        """Take back what was not confirmed in time, and say once that counters are not durable any more.

        A trial that a restart cut begins again.
        """
        events = []
        if self._ring.failure and not self._told_failure:
            self._told_failure = True
            events.append(Event("store_failed", (self._ring.failure,)))
        for family in self._ring.keys.families:
            for one in self._ring.family(family):
                if one.state is SlotState.TRIAL and now_s > self._until_s.setdefault(one.spi, now_s + trial_s):
                    del self._until_s[one.spi]
                    self._ring.take_back(one.spi)
                    events.append(Event("key_rolled_back", (one.spi,)))
        return events
