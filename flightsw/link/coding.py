"""Synchronisation and channel coding: transfer frames as octets on a serial line, and back.

Owns, for the downlink, the byte-stream synchroniser (131.0-B-5), over a C kernel that codes and randomises; for the
uplink, BCH(63,56) codeblocks in CLTUs (231.0-B-4). `stack.py` puts it together with `frames.py`. Nothing here raises
on received octets: what cannot be used is skipped and counted. Buffers are bounded by one frame and its marker, or
one CLTU, however much noise arrives.
"""

from __future__ import annotations

import functools

from flightsw.errors import LinkError
from flightsw.kernels import FrameCodec
from flightsw.link.tc_frames import TC_FRAME_OCTETS_MAX

ASM = bytes.fromhex("1ACFFC1D")
ASM_OCTETS = 4

CLTU_START = bytes.fromhex("EB90")
CLTU_TAIL = bytes.fromhex("C5C5C5C5C5C5C579")

_ASM_VALUE = int.from_bytes(ASM, "big")
_TC_FILL = b"\x55"
_BLOCK_OCTETS = 8  # 7 of information, 1 of parity
_CLTU_BLOCKS_MAX = -(-TC_FRAME_OCTETS_MAX // 7)


def _lfsr_period(taps: int) -> bytes:
    """255 octets of the bit sequence of an 8-bit all-ones register, feedback = parity of `taps`."""
    register = 0xFF
    octets = bytearray()
    for _ in range(255):
        octet = 0
        for _ in range(8):
            octet = octet << 1 | register >> 7
            register = (register << 1 | (register & taps).bit_count() & 1) & 0xFF
        octets.append(octet)
    return bytes(octets)


# Bit 7 of the register holds the oldest bit, so the term x^k of the polynomial taps bit 7-k.
_TC_SEQUENCE = _lfsr_period(0b11111010)  # x^8 + x^6 + x^4 + x^3 + x^2 + x + 1, 231.0-B-4 section 6


@functools.cache
def _tc_sequence(octets: int) -> int:
    return int.from_bytes((_TC_SEQUENCE * (octets // len(_TC_SEQUENCE) + 1))[:octets], "big")


def randomise_tc(frame: bytes) -> bytes:
    """Apply the TC pseudo-randomiser; applying it twice gives `frame` back."""
    octets = len(frame)
    return (int.from_bytes(frame, "big") ^ _tc_sequence(octets)).to_bytes(octets, "big")


class CaduSynchroniser:
    """Cut a stream of octets into TM frames of one fixed length.

    Searches for an exact marker; once a frame has closed, the marker expected after it may have up to
    `asm_bit_errors` wrong bits (the flywheel). With an `interleave`, frames are Reed-Solomon coded and repaired.
    A candidate that stays beyond repair, or whose frame error control field does not close, is lost to bit errors
    when a marker follows where it should; otherwise octets were lost or the marker was chance, and the search goes
    on one octet further: no good frame is swallowed with a bad one.
    """

    __slots__ = (
        "_asm_bit_errors",
        "_codec",
        "_rest",
        "bad_frames",
        "frames",
        "locked",
        "skipped_octets",
    )

    def __init__(self, frame_octets: int = 223, asm_bit_errors: int = 4, interleave: int = 0) -> None:
        self._codec = FrameCodec(frame_octets, interleave)
        self._asm_bit_errors = asm_bit_errors
        self._rest = b""  # received and not used yet: less than a frame with both its markers
        self.locked = False
        self.frames = 0
        self.bad_frames = 0  # marker found, frame beyond repair
        self.skipped_octets = 0  # octets outside frames

    @property
    def corrected_octets(self) -> int:
        """Wrong octets that the code put right."""
        return self._codec.corrected_octets

    def push(self, octets: bytes) -> list[bytes]:
        """Take received octets; return the frames completed by them, repaired and FECF checked."""
        codec = self._codec
        buffer = self._rest + octets
        cadu_octets = codec.line_octets
        frames: list[bytes] = []
        at, end = 0, len(buffer)
        while end - at >= ASM_OCTETS:
            if not (self.locked and self._marker_near(buffer, at)):
                self.locked = False
                found = buffer.find(ASM, at)
                start = found if found >= 0 else end - ASM_OCTETS + 1
                self.skipped_octets += start - at
                at = start
                if found < 0:
                    break
            after = at + cadu_octets
            if after > end:
                break
            frame = codec.decode(buffer[at + ASM_OCTETS : after])
            if frame is not None:
                frames.append(frame)
                self.frames += 1
                self.locked = True
                at = after
            elif after + ASM_OCTETS > end:
                break  # the next marker, still to come, tells bit errors from a slip
            else:
                self.bad_frames += 1
                self.locked = self._marker_near(buffer, after)
                if self.locked:
                    at = after
                else:
                    self.skipped_octets += 1
                    at += 1
        self._rest = buffer[at:]
        return frames

    def _marker_near(self, buffer: bytes, at: int) -> bool:
        marker = buffer[at : at + ASM_OCTETS]
        return marker == ASM or (
            (int.from_bytes(marker, "big") ^ _ASM_VALUE).bit_count() <= self._asm_bit_errors
        )


def _bch_table() -> bytes:
    """Remainders of each octet by x^7 + x^6 + x^2 + 1, kept in the upper seven bits."""
    table = bytearray()
    for octet in range(256):
        remainder = octet
        for _ in range(8):
            remainder = (remainder << 1) ^ (0x8A if remainder & 0x80 else 0)
        table.append(remainder & 0xFF)
    return bytes(table)


_BCH_TABLE = _bch_table()


def bch_parity(information: bytes) -> int:
    """Parity octet of a BCH(63,56) codeblock: complemented remainder and a zero filler bit.

    Source: 231.0-B-4, section 3.3. `information` is 7 octets.
    """
    remainder = 0
    for octet in information:
        remainder = _BCH_TABLE[remainder ^ octet]
    return remainder ^ 0xFE


def encode_cltu(frame: bytes, randomised: bool = False) -> bytes:
    """Build a CLTU of one TC frame: start sequence, codeblocks filled with 0x55, tail sequence.

    Raises LinkError where `frame` is empty or longer than 1024 octets.
    """
    if not 0 < len(frame) <= TC_FRAME_OCTETS_MAX:
        raise LinkError(f"CLTU of a TC frame of {len(frame)} octets, limit 1..{TC_FRAME_OCTETS_MAX} octets")
    padded = frame + _TC_FILL * (-len(frame) % 7)
    if randomised:
        padded = randomise_tc(padded)
    parts = [CLTU_START]
    for at in range(0, len(padded), 7):
        information = padded[at : at + 7]
        parts.append(information)
        parts.append(bytes((bch_parity(information),)))
    parts.append(CLTU_TAIL)
    return b"".join(parts)


class CltuDecoder:
    """Find CLTUs in a stream of octets and hand on what they carry.

    Detects, never corrects: a codeblock whose parity or filler bit is wrong ends the CLTU, as the tail does
    by design. What came before it is handed on, fill included; the frame's own length and FECF decide
    (`parse_tc_frame`). A CLTU ended by anything but the tail is counted, and the search resumes inside the
    bad codeblock.
    """

    __slots__ = (
        "_buffer",
        "_randomised",
        "_receiving",
        "_taken",
        "bad_codeblocks",
        "cltus",
        "skipped_octets",
    )

    def __init__(self, randomised: bool = False) -> None:
        self._randomised = randomised
        self._buffer = bytearray()
        self._taken = bytearray()  # information octets of the CLTU being received
        self._receiving = False
        self.cltus = 0
        self.bad_codeblocks = 0
        self.skipped_octets = 0  # octets outside CLTUs

    def push(self, octets: bytes) -> list[bytes]:
        """Take received octets; return the contents of the CLTUs ended by them, 7 to 1029 octets each."""
        buffer = self._buffer
        buffer += octets
        contents: list[bytes] = []
        at, end = 0, len(buffer)
        while True:
            if not self._receiving:
                found = buffer.find(CLTU_START, at)
                start = found if found >= 0 else max(at, end - 1)
                self.skipped_octets += start - at
                at = start
                if found < 0:
                    break
                at += len(CLTU_START)
                self._receiving = True
            if end - at < _BLOCK_OCTETS:
                break
            block = bytes(buffer[at : at + _BLOCK_OCTETS])
            room = len(self._taken) < 7 * _CLTU_BLOCKS_MAX
            if room and bch_parity(block[:7]) == block[7]:
                self._taken += block[:7]
                at += _BLOCK_OCTETS
                continue
            if block == CLTU_TAIL:
                at += _BLOCK_OCTETS
            else:
                self.bad_codeblocks += 1
            if self._taken:
                taken = bytes(self._taken)
                contents.append(randomise_tc(taken) if self._randomised else taken)
                self.cltus += 1
                self._taken.clear()
            self._receiving = False
        del buffer[:at]
        return contents
