"""PUS services on both ends: what a report or a telecommand means in octets, and the satellite's side.

Source: ECSS-E-ST-70-41C, services 1 (verification), 3 (housekeeping), 5 (events), 8 (functions), 9 (time), 11
(time-tagged commands), 12 (monitoring), 17 (test), 19 (event-action), 20 (parameters) and 21 (sequences); tailoring
is stated at each codec. The satellite uses `Reporter` and
`CommandReceiver`; the ground uses the `unpack_` functions and `build_telecommand`. Meaning comes from
the dictionary; this module decides nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flightsw.dictionary import commands, events, reports, telemetry
from flightsw.errors import LinkError
from flightsw.link.compress import SeriesCompressor, SeriesDecompressor
from flightsw.link.cop1 import Farm
from flightsw.link.frames import VC_FILES, VC_HOUSEKEEPING, VC_REPORTS
from flightsw.link.packets import (
    Telecommand,
    Telemetry,
    file_apid,
    file_pdu_of,
    pack_file_packet,
    pack_tc,
    pack_tm,
    unpack_tc,
)
from flightsw.link.sdls import OVERHEAD_OCTETS, CommandSeal, SecurityReport, TelemetrySeal
from flightsw.link.stack import STANDARD, Stack
from flightsw.link.tc_frames import Reject, RejectedFrameError, TcFrame, TcKind, build_tc_frame, parse_tc_frame
from flightsw.state import Event, Received

STAGE_ACCEPTED, STAGE_NOT_ACCEPTED, STAGE_STARTED, STAGE_STEP, STAGE_COMPLETED, STAGE_FAILED = 1, 2, 3, 5, 7, 8
"""Subservices of service 1 that are reported; start and steps are those of commands that last, as sequences do."""

HOUSEKEEPING_REPORT, COMPRESSED_REPORT = 25, 130
"""Subservices of service 3: a structure as it is, and compressed (mission-specific; `compress.SeriesCompressor`)."""
_COMPRESSED = frozenset(row.sid for row in telemetry.HOUSEKEEPING if 0.0 < row.period_s <= 60.0)
"""Structures that are worth it: curves that are new each time would come out twice as long."""

_ACK_ALL = 0b1001  # acceptance and completion asked for
_REQUEST = struct.Struct(">I")
_STEP = struct.Struct(">IH")
_FAILURE = struct.Struct(">IH")
_PARAMETER = struct.Struct(">Hd")
_TICKS_OF_A_KEY = 60  # the period of structure `uplink`
_FILE_PDUS_MAX = 4096  # between two ticks: more than a second of the fastest line brings; what is over is asked for


class VerificationReport(NamedTuple):
    """Service 1 report; `request_id` is the first four octets of the telecommand packet, `code` why it failed, or
    the step that is done.
    """

    request_id: int
    stage: int
    code: int
    text: str


def pack_verification(request_id: int, stage: int, code: int, text: str) -> bytes:
    """Source data of a service 1 report: request id, for a step its `u16` number, on failure `u16 code` and `text`."""
    if stage in (STAGE_NOT_ACCEPTED, STAGE_FAILED):
        return _FAILURE.pack(request_id, code) + telemetry.pack_values(["text"], [text])
    if stage == STAGE_STEP:
        return _STEP.pack(request_id, code)
    return _REQUEST.pack(request_id)


def unpack_verification(stage: int, data: bytes) -> VerificationReport:
    """Read the source data of a service 1 report; LinkError when it is not one."""
    failed = stage in (STAGE_NOT_ACCEPTED, STAGE_FAILED)
    layout = _STEP if stage == STAGE_STEP else _REQUEST
    if len(data) < _FAILURE.size if failed else len(data) != layout.size:
        raise LinkError(f"verification report 1,{stage} of {len(data)} octets")
    if stage == STAGE_STEP:
        request_id, step = _STEP.unpack(data)
        return VerificationReport(request_id, stage, step, "")
    if not failed:
        return VerificationReport(_REQUEST.unpack(data)[0], stage, 0, "")
    request_id, code = _FAILURE.unpack_from(data)
    (text,) = telemetry.unpack_values(["text"], data, _FAILURE.size)
    return VerificationReport(request_id, stage, code, str(text))


def pack_parameter(number: int, value: float) -> bytes:
    """Source data of a 20,2 report on one parameter: `u16 number`, `f64 value`."""
    return _PARAMETER.pack(number, value)


def unpack_parameter(data: bytes) -> tuple[int, float]:
    """Read a 20,2 report: parameter number and value."""
    if len(data) != _PARAMETER.size:
        raise LinkError(f"parameter report of {len(data)} octets, expected {_PARAMETER.size}")
    number, value = _PARAMETER.unpack(data)
    return number, value


class BuiltTelecommand(NamedTuple):
    """A telecommand ready for the line, and the request id that its verification will carry."""

    request_id: int
    packet: bytes
    octets: bytes


def build_telecommand(row: commands.Command, values: Sequence[commands.Value], *, apid: int, seq_count: int,
                      scid: int, source_id: int = 0, stack: Stack = STANDARD) -> BuiltTelecommand:
    """Build one telecommand down to the line, in clear; LinkError names the argument that is out of bounds."""
    request_id, packet = pack_telecommand(row, values, apid, seq_count, source_id)
    return BuiltTelecommand(request_id, packet, Uplink(scid, stack).encode(packet))


def pack_telecommand(row: commands.Command, values: Sequence[commands.Value], apid: int, seq_count: int,
                     source_id: int = 0) -> tuple[int, bytes]:
    """Build request id and packet of one telecommand; LinkError names the argument that is out of bounds."""
    packet = pack_tc(Telecommand(apid, seq_count, _ACK_ALL, row.service, row.subservice, source_id,
                                 commands.pack_arguments(row, values)))
    (request_id,) = _REQUEST.unpack_from(packet)
    return request_id, packet


def build_file_uplink(pdu: bytes, *, apid: int, seq_count: int, scid: int, stack: Stack = STANDARD,
                      seal: CommandSeal | None = None) -> bytes:
    """Build one CFDP PDU for the satellite's file service down to the line; LinkError where it is too long."""
    packet = pack_file_packet(file_apid(apid), seq_count, pdu, is_telecommand=True)
    return Uplink(scid, stack, seal).encode(packet)


class Uplink:
    """The ground's way up: packets in, octets for the line out, sealed where there is a `seal`."""

    def __init__(self, scid: int, stack: Stack = STANDARD, seal: CommandSeal | None = None) -> None:
        self._scid = scid
        self._stack = stack
        self.seal = seal

    def encode(self, data: bytes, kind: TcKind = TcKind.BD, sequence: int = 0) -> bytes:
        """Put one packet, or one control command, on the line. LinkError where it is too long."""
        seal = self.seal
        frame = build_tc_frame(data, self._scid, kind=kind, sequence=sequence,
                               secure=None if seal is None else seal.seal,
                               overhead_octets=0 if seal is None else OVERHEAD_OCTETS)
        return self._stack.encode_tc(frame)


class HousekeepingExpander:
    """The ground's end of compressed housekeeping."""

    def __init__(self) -> None:
        self._series = SeriesDecompressor({row.sid: telemetry.housekeeping_octets(row.sid)
                                           for row in telemetry.HOUSEKEEPING})

    def expand(self, tm: Telemetry) -> Telemetry | None:
        """Return a compressed report as the plain one that it stands for; None while that cannot be known."""
        try:
            data = self._series.unpack(tm.data)
        except LinkError:
            return None
        return None if data is None else tm._replace(subservice=HOUSEKEEPING_REPORT, data=data)


class Reporter:
    """The satellite's downlink: reports in, frames for the line out. Bounded, droppable, never blocks.

    Events and verification go before housekeeping. What does not fit pushes out the oldest housekeeping;
    while no station listens everything waits here.
    """

    _REPORTS_OCTETS = 262_144  # about 4,000 events: days of them
    _FILES_OCTETS = 4_194_304  # never filled: files are asked for as the line takes them

    def __init__(self, scid: int, apid: int, store_octets: int, stack: Stack = STANDARD,
                 seal: TelemetrySeal | None = None, *, compress: bool = False) -> None:
        """Housekeeping is compressed where `compress` says so."""
        self._apid = apid
        self._compressor = SeriesCompressor() if compress else None
        self._sender = stack.sender(scid, {VC_REPORTS: self._REPORTS_OCTETS, VC_HOUSEKEEPING: store_octets,
                                           VC_FILES: self._FILES_OCTETS}, seal)
        self._uplink: tuple[int, ...] = ()
        self.unit_octets = self._sender.unit_octets  # what goes on the line in one piece
        self._seq_count = 0
        self._file_seq_count = 0
        self._msg_counters: dict[tuple[int, int], int] = {}

    @property
    def dropped_packets(self) -> int:
        """Packets pushed out unsent since start."""
        return self._sender.dropped_packets(VC_REPORTS) + self._sender.dropped_packets(VC_HOUSEKEEPING)

    @property
    def waiting_octets(self) -> int:
        """Octets that wait for a station."""
        return self._sender.queued_octets(VC_REPORTS) + self._sender.queued_octets(VC_HOUSEKEEPING)

    def event(self, event: Event, obt_s: float) -> None:
        """Report an event; its arguments must fit its row."""
        row = events.BY_NAME[event.name]
        self._submit(VC_REPORTS, 5, int(row.severity), obt_s, telemetry.pack_event(row, event.args))

    def verification(self, request_id: int, stage: int, code: int, text: str, obt_s: float) -> None:
        """Report one stage of a telecommand's verification."""
        self._submit(VC_REPORTS, 1, stage, obt_s, pack_verification(request_id, stage, code, text))

    def housekeeping(self, sid: int, pool: Sequence[float | int], obt_s: float) -> None:
        """Report one housekeeping structure from the pool of all points."""
        data = telemetry.pack_housekeeping(sid, pool)
        if self._compressor is None or sid not in _COMPRESSED:
            self._submit(VC_HOUSEKEEPING, 3, HOUSEKEEPING_REPORT, obt_s, data)
        else:
            self._submit(VC_HOUSEKEEPING, 3, COMPRESSED_REPORT, obt_s, self._compressor.pack(data))

    def pong(self, obt_s: float) -> None:
        """Answer an are-you-alive."""
        self._submit(VC_REPORTS, 17, 2, obt_s, b"")

    def parameter(self, number: int, value: float, obt_s: float) -> None:
        """Report the value of a parameter."""
        self._submit(VC_REPORTS, 20, 2, obt_s, pack_parameter(number, value))

    @property
    def waiting_file_octets(self) -> int:
        """Octets of files that were handed over and are not on the line yet."""
        return self._sender.queued_octets(VC_FILES)

    def file(self, pdu: bytes) -> None:
        """Send one CFDP PDU, behind reports and housekeeping."""
        packet = pack_file_packet(file_apid(self._apid), self._file_seq_count, pdu, is_telecommand=False)
        self._sender.submit(VC_FILES, packet)
        self._file_seq_count = (self._file_seq_count + 1) & 0x3FFF

    def report(self, name: str, args: Sequence[reports.Value], obt_s: float) -> None:
        """Send a report of `dictionary.reports`."""
        row = reports.BY_NAME[name]
        self._submit(VC_REPORTS, row.service, row.subservice, obt_s, reports.pack_report(row, args))

    def report_uplink(self, words: tuple[int, ...]) -> None:
        """Say these control words in turn, one in every frame from now on; at once where they are news."""
        if words != self._uplink:
            self._uplink = words
            self._sender.set_ocf(*words)
            self._sender.say_ocf()

    def take(self, budget_octets: int) -> bytes:
        """Return what goes on the line now: at most `budget_octets`, in pieces of `unit_octets`."""
        return self._sender.take(budget_octets)

    def _submit(self, vcid: int, service: int, subservice: int, obt_s: float, data: bytes) -> None:
        key = (service, subservice)
        counter = self._msg_counters.get(key, 0)
        self._msg_counters[key] = (counter + 1) & 0xFFFF
        self._sender.submit(vcid, pack_tm(Telemetry(self._apid, self._seq_count, service, subservice, counter,
                                                    0, obt_s, data)))
        self._seq_count = (self._seq_count + 1) & 0x3FFF


class UplinkStatus(NamedTuple):
    """Refused frames by cause, in the order of `Reject`; then a key in force, the states of all, and COP-1."""

    reject_fecf: int
    reject_scid: int
    reject_type: int
    reject_spi: int
    reject_mac: int
    reject_replay: int
    reject_window: int
    reject_sequence: int
    reject_packet: int
    uplink_spi: int
    uplink_counter: int
    keys_active: int
    keys_on_trial: int
    uplink_expected: int
    uplink_locked: int


class CommandReceiver:
    """The satellite's uplink: octets in, telecommands that passed every check of the link out.

    With a `seal` nothing is looked at, and no state changes, before a frame has proved to be a station's.
    """

    _BACKLOG_MAX = 256  # telecommands in sequence that wait for the next tick; then FARM-1 asks the ground to wait

    def __init__(self, scid: int, apid: int, stack: Stack = STANDARD, seal: CommandSeal | None = None,
                 may_send_files: Callable[[int], bool] = lambda _spi: True) -> None:
        """File PDUs are taken under the SPIs for which `may_send_files` holds."""
        self.seal = seal
        self._may_send_files = may_send_files
        self.rejects = [0] * len(Reject)
        self._scid = scid
        self._apid = apid
        self._decoder = stack.tc_receiver()
        self._file_pdus: list[bytes] = []
        self._farm = Farm()
        self._security = SecurityReport()
        self._backlog = 0
        self._ticks = 0
        self.frames_accepted = 0
        self.last_rejection = ""

    @property
    def frames_rejected(self) -> int:
        """Frames that were not accepted, for any reason."""
        return sum(self.rejects)

    def push(self, octets: bytes) -> list[Received]:
        """Take received octets; what is not a valid telecommand for this satellite is counted, never raised."""
        received: list[Received] = []
        for content in self._decoder.push(octets):
            try:
                self._take(content, received)
            except LinkError as error:
                why = error.why if isinstance(error, RejectedFrameError) else Reject.PACKET
                self.rejects[why] += 1
                self.last_rejection = str(error)
                if self.seal is not None and Reject.SPI <= why <= Reject.WINDOW:
                    self._security = self._security._replace(
                        alarm=True, bad_counter=why in (Reject.REPLAY, Reject.WINDOW), bad_mac=why is Reject.MAC,
                        bad_spi=why is Reject.SPI)
            else:
                self.frames_accepted += 1
        self._backlog += len(received)
        return received

    def begin_tick(self) -> None:
        """Say that what was received has been taken away: there is room again."""
        self._ticks += 1
        self._backlog = 0
        self._farm.release()

    def control_words(self) -> tuple[int, ...]:
        """What telemetry says of the uplink: the CLCW and, where frames are sealed, the frame security report."""
        clcw = self._farm.clcw().pack()
        return (clcw,) if self.seal is None else (clcw, self._security.pack())

    def status(self) -> UplinkStatus:
        """Return what housekeeping says of the uplink: of the keys in force in turn, so that every station hears."""
        keys = (0, 0, 0, 0)
        if self.seal is not None and (stations := self.seal.ring.stations_in_force):
            one = stations[self._ticks // _TICKS_OF_A_KEY % len(stations)]
            keys = (one.spi, one.used, *self.seal.ring.slots_in_force())
        return UplinkStatus._make((*self.rejects, *keys, self._farm.expected, int(self._farm.lockout)))

    def take_file_pdus(self) -> list[bytes]:
        """CFDP PDUs received since the last call."""
        pdus, self._file_pdus = self._file_pdus, []
        return pdus

    def _take(self, content: bytes, received: list[Received]) -> None:
        """Judge one frame and take what is in it; LinkError names the check that failed."""
        seal = self.seal
        frame = parse_tc_frame(content, self._scid, unseal=None if seal is None else seal.unseal)
        if seal is not None:
            association = seal.ring.find(frame.spi)
            self._security = SecurityReport(spi=frame.spi,
                                            counter_low=association.used & 0xFF if association is not None else 0)
        if frame.kind is TcKind.BC:
            if not self._farm.control(frame.data):
                raise LinkError(f"control command {frame.data[:8].hex()} is neither unlock nor set V(R)")
            return
        if frame.kind is TcKind.BD:
            self._farm.bypass()
        elif not self._farm.take(frame.sequence, has_room=self._backlog + len(received) < self._BACKLOG_MAX):
            raise RejectedFrameError(Reject.SEQUENCE, f"frame {frame.sequence} in sequence, {self._farm.expected} is "
                                                      f"expected{', locked' if self._farm.lockout else ''}")
        pdu = file_pdu_of(frame.data, file_apid(self._apid))
        if pdu is None:
            received.append(self._open(frame))
        elif not self._may_send_files(frame.spi):
            raise LinkError(f"file data under SPI {frame.spi}, whose station may not send any")
        elif len(self._file_pdus) < _FILE_PDUS_MAX:
            self._file_pdus.append(pdu)

    def _open(self, frame: TcFrame) -> Received:
        """Read the packet of an accepted frame; LinkError names the check that failed."""
        tc = unpack_tc(frame.data)
        if tc.apid != self._apid:
            raise LinkError(f"telecommand for application {tc.apid}, this is {self._apid}")
        (request_id,) = _REQUEST.unpack_from(frame.data)
        return Received(request_id, tc.service, tc.subservice, tc.data, frame.spi)
