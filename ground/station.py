"""One session with the satellite: octets from the line to decoded, archived reports, and commands up.

A `Station` is driven by `poll(now_s)`, in virtual time by the rig and in real time by `ground watch`; it reads
no clock. It owns the receiving chain, the latest values, the state of the commands that it sent, and the order
that makes the archive trustworthy: a report is in the archive before a listener sees it, a command is in the
archive before its first octet leaves. It draws nothing and decides nothing.

Whatever the line delivers is counted, never raised. A packet that the dictionary cannot decode is archived raw.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from flightsw.dictionary import parameters
from flightsw.dictionary.commands import COMMANDS, Command, Value, find
from flightsw.dictionary.events import EventRow
from flightsw.dictionary.reports import ReportRow, unpack_report
from flightsw.dictionary.telemetry import HOUSEKEEPING, Housekeeping, unpack_event, unpack_housekeeping
from flightsw.errors import LinkError, StoreError
from flightsw.link.cop1 import Fop
from flightsw.link.frames import Clcw
from flightsw.link.keys import TELEMETRY, KeyRing
from flightsw.link.packets import Telemetry, file_apid, file_pdu_of, pack_file_packet, pack_tm, unpack_tc, unpack_tm
from flightsw.link.sdls import CommandSeal, SecurityReport, TelemetrySeal
from flightsw.link.serial_port import ByteStream
from flightsw.link.services import (
    COMPRESSED_REPORT,
    STAGE_ACCEPTED,
    STAGE_COMPLETED,
    STAGE_FAILED,
    STAGE_NOT_ACCEPTED,
    STAGE_STARTED,
    STAGE_STEP,
    HousekeepingExpander,
    Uplink,
    pack_telecommand,
    unpack_parameter,
    unpack_verification,
)
from flightsw.link.stack import STANDARD, Stack
from flightsw.link.tc_frames import TcKind
from ground.archive import PENDING_MAX, Archive, CommandEntry

_SEQUENCE_COUNTS = 0x4000
_MESSAGE_COUNTS = 0x10000


class CommandState(StrEnum):
    """How far a telecommand got."""

    SENT = "sent"
    ACCEPTED = "accepted"
    STARTED = "started"
    COMPLETED = "completed"
    REJECTED = "rejected"
    FAILED = "failed"
    NO_ANSWER = "no answer"
    NOT_SENT = "not sent"

    @property
    def is_final(self) -> bool:
        """True when nothing more is waited for (a late report still changes NO_ANSWER)."""
        return self not in {CommandState.SENT, CommandState.ACCEPTED, CommandState.STARTED}


_STATE_OF_STAGE = {
    STAGE_ACCEPTED: CommandState.ACCEPTED,
    STAGE_NOT_ACCEPTED: CommandState.REJECTED,
    STAGE_STARTED: CommandState.STARTED,
    STAGE_STEP: CommandState.STARTED,
    STAGE_COMPLETED: CommandState.COMPLETED,
    STAGE_FAILED: CommandState.FAILED,
}
_MAY_FOLLOW = {
    CommandState.SENT: frozenset(_STATE_OF_STAGE.values()),
    CommandState.NO_ANSWER: frozenset(_STATE_OF_STAGE.values()),
    CommandState.ACCEPTED: frozenset({CommandState.STARTED, CommandState.COMPLETED, CommandState.FAILED}),
    CommandState.STARTED: frozenset({CommandState.STARTED, CommandState.COMPLETED, CommandState.FAILED}),
}
"""What a verification report may change; any other report is a repetition or came late."""


def state_after(stages: Iterable[int]) -> CommandState:
    """Return how far a command is after these subservices of verification, in the order of their coming."""
    state = CommandState.SENT
    for stage in stages:
        after = _STATE_OF_STAGE.get(stage, state)
        if after in _MAY_FOLLOW.get(state, ()):
            state = after
    return state


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """One telecommand as sent and how far it got; `code` and `text` say why it was rejected or failed, or which
    step is done.

    Times are on the session's `now_s` axis. `deadline_s` is when the next stage is given up.
    """

    command_id: int
    request_id: int
    verb: str
    args: tuple[Value, ...]
    state: CommandState
    sent_s: float
    changed_s: float
    deadline_s: float
    timeout_s: float
    code: int = 0
    text: str = ""


class Sample(NamedTuple):
    """The latest value of a point, None where it travelled as missing, and when it was stamped and received."""

    value: float | int | None
    obt_s: float
    received_s: float


class HousekeepingReport(NamedTuple):
    """One received structure; `values` follow `row.points`, NaN for missing."""

    received_s: float
    obt_s: float
    row: Housekeeping
    values: tuple[float | int, ...]


class EventReport(NamedTuple):
    """One received event; `text` is the dictionary's text with its arguments."""

    received_s: float
    obt_s: float
    row: EventRow
    args: tuple[float | int | str, ...]
    text: str


class CommandReport(NamedTuple):
    """A command was sent, or got further, or was given up."""

    received_s: float
    record: CommandRecord


class ParameterReport(NamedTuple):
    """The satellite told the value of an on-board parameter."""

    received_s: float
    obt_s: float
    row: parameters.Parameter
    value: float


class TableReport(NamedTuple):
    """One received report of `dictionary.reports`: a time, or a row of an on-board table."""

    received_s: float
    obt_s: float
    row: ReportRow
    args: tuple[float | int | str, ...]


class PongReport(NamedTuple):
    """The satellite answered an are-you-alive."""

    received_s: float
    obt_s: float


class Seals(NamedTuple):
    """A station's keys: as which family of them it seals, and whether telemetry is encrypted."""

    ring: KeyRing
    family: int
    encrypted: bool


Report = HousekeepingReport | EventReport | CommandReport | ParameterReport | TableReport | PongReport
Listener = Callable[[Report], None]


class Station:
    """The ground's end of one link, with its archive.

    `received_s` of reports, samples and records is the session's `now_s`; in the archive it is
    `epoch_s + now_s`, so `epoch_s` is the Unix time at which `now_s` was 0.
    """

    def __init__(self, link: ByteStream, archive: Archive, *, scid: int, apid: int, epoch_s: float,
                 source_id: int = 0, stack: Stack = STANDARD, seals: Seals | None = None) -> None:
        """Without `seals` the link is in clear both ways."""
        self.link = link
        self.archive = archive
        self.heard_s: float | None = None  # when the last valid frame was received
        self.packets = 0
        self.bad_packets = 0  # not a PUS telemetry packet
        self.undecoded_packets = 0  # not in this dictionary
        self.repeated_verifications = 0  # changed nothing
        self.foreign_verifications = 0  # of a command that this archive never sent
        self.archive_trouble = ""  # why the archive cannot be written now; empty when it can
        self.file_listener: Callable[[bytes], None] | None = None  # takes the CFDP PDUs, which are not archived
        self.parameters: dict[str, float] = archive.parameters()  # as reported, by name
        self.received: dict[int, HousekeepingReport] = {}  # the latest of each structure
        self._scid = scid
        self._apid = apid
        self._epoch_s = epoch_s
        self._source_id = source_id
        self.seals = seals
        self.seals_telemetry = seals is not None and stack.seals_telemetry
        self.security: SecurityReport | None = None  # what the satellite says of the last sealed frame
        self.clcw: Clcw | None = None
        self._uplink = Uplink(scid, stack, None if seals is None else CommandSeal(seals.ring, seals.family))
        self._receiver = stack.receiver(
            scid, None if seals is None else TelemetrySeal(seals.ring, encrypt=seals.encrypted))
        self._telemetry_keys = () if seals is None else seals.ring.family(TELEMETRY)
        for key in self._telemetry_keys:
            key.used = max(key.used, archive.counter(_counter_name(key.spi)))
        self._key_changed_obt_s = -math.inf
        self._fop = Fop(self._transmit)
        self._heard_frames = 0
        self._lost_frames = 0
        self._expander = HousekeepingExpander()
        self._next_message: dict[tuple[int, int, int], int] = {}
        self._commands: dict[int, CommandRecord] = {}  # bounded: a request id comes again after 16,384
        self._open: set[int] = set()
        self._file_seq_count = 0
        self._listeners: list[Listener] = []
        self._unpublished: deque[Report] = deque(maxlen=PENDING_MAX)
        self._on_packet: Callable[[bytes], object] | None = None

    @property
    def bad_frames(self) -> int:
        """Frames that did not close or were not this spacecraft's."""
        return self._receiver.bad_frames

    @property
    def unsealed_frames(self) -> int:
        """Frames that closed and were not the satellite's own, or came a second time."""
        return self._receiver.unsealed_frames

    @property
    def skipped_octets(self) -> int:
        """Octets received outside frames."""
        return self._receiver.skipped_octets

    @property
    def corrected_octets(self) -> int:
        """Wrong octets in frames that the line's code put right."""
        return self._receiver.corrected_octets

    @property
    def lost_frames(self) -> int:
        """Frames missing by the counter in those received."""
        return self._receiver.lost_frames

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every report from now on, once it is in the archive."""
        self._listeners.append(listener)

    def hand_on(self, *, frame: Callable[[bytes], object] | None = None,
                packet: Callable[[bytes], object] | None = None) -> None:
        """Give other ground software every valid TM frame, opened, and every packet from now on."""
        self._receiver.on_frame = frame
        self._on_packet = packet

    def latest(self, point: str) -> Sample | None:
        """Return the latest value of `point`; None when its structure was never received."""
        sid, index = _WHERE[point]
        report = self.received.get(sid)
        if report is None:
            return None
        value = report.values[index]
        return Sample(value if math.isfinite(value) else None, report.obt_s, report.received_s)

    def limit(self, parameter: str) -> float:
        """Return the value of `parameter` as the satellite reported it last, or else the dictionary's default."""
        return self.parameters.get(parameter, parameters.BY_NAME[parameter].default)

    def command(self, request_id: int) -> CommandRecord:
        """Return the command of this session that `request_id` names, as far as it got."""
        return self._commands[request_id]

    def poll(self, now_s: float) -> None:
        """Take what the line delivered, archive it, then tell the listeners.

        Raises StoreError only where the archive is broken for good; a disk that is full is
        `archive_trouble`, and what was received waits.
        """
        octets = self.link.read()
        if octets:
            receiver = self._receiver
            before = [key.used for key in self._telemetry_keys]
            packets = receiver.push(octets)
            for key, used in zip(self._telemetry_keys, before, strict=True):
                if key.used != used:
                    self.archive.keep_counter(_counter_name(key.spi), key.used)
            for packet in packets:
                self._take(packet, now_s)
                if self._on_packet is not None:
                    self._on_packet(packet)
            for word in receiver.take_control_words():
                self._hear_control(word, now_s)
            if receiver.heard_frames != self._heard_frames:
                self._heard_frames = receiver.heard_frames
                self.heard_s = now_s
            if receiver.lost_frames != self._lost_frames:
                self.archive.add_gap(self._epoch_s + now_s, "TM frames",
                                     receiver.lost_frames - self._lost_frames)
                self._lost_frames = receiver.lost_frames
        self._fop.tick(now_s)
        if self._open:
            self._give_up_late(now_s)
        self._publish(now_s)

    def send(self, verb: str, values: Sequence[Value], now_s: float, timeout_s: float = 30.0, *,
             sequenced: bool = False) -> CommandRecord:
        """Send one telecommand; each of acceptance and completion is waited for `timeout_s`.

        A `sequenced` one is sent again until it is there, in order with the others (COP-1); any other goes out once.
        The record's state is NOT_SENT where the line did not take it. Raises LinkError for an unknown verb or
        an argument out of bounds, StoreError where the archive could not take the command first.
        """
        row = command_row(verb)
        args = tuple(values)
        seq_count = self.archive.take_count(f"tc_sequence_{self._apid}", _SEQUENCE_COUNTS)
        request_id, packet = pack_telecommand(row, args, self._apid, seq_count, self._source_id)
        command_id = self.archive.add_command(request_id, self._epoch_s + now_s, verb, args, packet,
                                              CommandState.SENT)
        record = CommandRecord(command_id, request_id, verb, args, CommandState.SENT, now_s, now_s,
                               now_s + timeout_s, timeout_s)
        self._note(record)
        if sequenced:
            self._fop.send(packet, now_s)
        elif not self._transmit(TcKind.BD, 0, packet):
            record = self._change(record, CommandState.NOT_SENT, now_s)
        return record

    def send_file_pdu(self, pdu: bytes) -> bool:
        """Send one CFDP PDU; False where the line did not take it. LinkError where it is too long for a frame."""
        packet = pack_file_packet(file_apid(self._apid), self._file_seq_count, pdu, is_telecommand=True)
        self._file_seq_count = (self._file_seq_count + 1) % _SEQUENCE_COUNTS
        return self._transmit(TcKind.BD, 0, packet)

    def relay(self, data: bytes, now_s: float, kind: TcKind = TcKind.BD, sequence: int = 0) -> bool:
        """Put on the line, sealed, what other ground software sends: a packet, or a control command of type BC.

        A telecommand is in the archive first, by its verb. Return whether the line took it. Raises LinkError where
        it is too long, StoreError where the archive could not take it.
        """
        if kind is not TcKind.BC:
            with contextlib.suppress(LinkError):  # what is no telecommand (a file's packet) leaves no mark there
                _, _, _, service, subservice, _, arguments = unpack_tc(data)
                row = find(service, subservice, arguments)
                self.archive.add_command(int.from_bytes(data[:4], "big"), self._epoch_s + now_s,
                                         row.verb if row is not None else f"TC {service},{subservice}", (), data,
                                         CommandState.SENT)
        return self._transmit(kind, sequence, data)

    # -- inside

    def _transmit(self, kind: TcKind, sequence: int, data: bytes) -> bool:
        """Put one frame on the line, sealed afresh; False where the line did not take it."""
        octets = self._uplink.encode(data, kind, sequence)
        return self.link.write(octets) == len(octets)

    def _hear_control(self, word: int, now_s: float) -> None:
        """Take the control field of one frame: CLCW or frame security report."""
        try:
            if word >> 31:
                self.security = SecurityReport.unpack(word)
            else:
                self.clcw = Clcw.unpack(word)
                self._fop.hear(self.clcw, now_s)
        except LinkError:
            self.bad_packets += 1

    def _take(self, packet: bytes, now_s: float) -> None:
        self.packets += 1
        if self.file_listener is not None:
            pdu = file_pdu_of(packet, file_apid(self._apid))
            if pdu is not None:
                self.file_listener(pdu)
                return
        received_s = self._epoch_s + now_s
        try:
            tm = unpack_tm(packet)
        except LinkError:
            self.bad_packets += 1
            apid, seq_count = _identity(packet)
            self.archive.add_packet(received_s, None, apid, None, None, seq_count, packet)
            return
        apid, seq_count, service, subservice, message, _, obt_s, _ = tm
        if (service, subservice) == (3, COMPRESSED_REPORT):  # the archive keeps what it stands for
            plain = self._expander.expand(tm)
            if plain is not None:
                tm, packet = plain, pack_tm(plain)
        self.archive.add_packet(received_s, obt_s, apid, service, tm.subservice, seq_count, packet)
        source = (apid, service, subservice)
        expected = self._next_message.get(source, message)
        self._next_message[source] = (message + 1) % _MESSAGE_COUNTS
        if message != expected:
            missed = (message - expected) % _MESSAGE_COUNTS
            # A counter that went backwards was started again; how much was missed then is not known.
            self.archive.add_gap(received_s, f"APID {apid} service {service},{subservice}",
                                 missed if missed < _MESSAGE_COUNTS // 2 else None)
        try:
            self._decode(tm, now_s)
        except LinkError:
            self.undecoded_packets += 1

    def _decode(self, tm: Telemetry, now_s: float) -> None:
        """Decode, archive and queue one report; LinkError when the dictionary does not have it."""
        apid, _, service, subservice, _, _, obt_s, data = tm
        if apid != self._apid:
            raise LinkError(f"report of application {apid}, this dictionary is of {self._apid}")
        if service == 3 and subservice == 25:
            row, values = unpack_housekeeping(data)
            self.archive.add_housekeeping(row.sid)
            report = HousekeepingReport(now_s, obt_s, row, values)
            self.received[row.sid] = report
            if row.name == "uplink" and self.seals is not None and self._telemetry_keys:
                spi, counter, active, on_trial = [_whole(self._value(report, name)) for name in _KEY_POINTS]
                self.seals.ring.raise_to(spi, counter)
                if obt_s > self._key_changed_obt_s:  # events overtake housekeeping
                    self.seals.ring.agree(active, on_trial)
            self._queue(report)
        elif service == 5:
            event, args = unpack_event(data)
            if event.severity != subservice:
                raise LinkError(f"event {event.name} with severity {subservice}, not {event.severity}")
            text = event.text.format(*args)
            self.archive.add_event(obt_s, event, args, text)
            self._queue(EventReport(now_s, obt_s, event, args, text))
            if event.name in _KEY_EVENTS and self._telemetry_keys:
                self._key_changed_obt_s = obt_s
                self._follow_key(event.name, int(args[0]), args)
            if event.name == "parameter_set" and args[0] in parameters.BY_NAME:
                self._learn(parameters.BY_NAME[str(args[0])], float(args[1]), obt_s)
        elif service == 1:
            self._verify(subservice, data, obt_s, now_s)
        elif service == 20 and subservice == 2:
            number, value = unpack_parameter(data)
            parameter = parameters.BY_NUMBER.get(number)
            if parameter is None:
                raise LinkError(f"parameter {number} is not in the dictionary")
            self._learn(parameter, value, obt_s)
            self._queue(ParameterReport(now_s, obt_s, parameter, value))
        elif service == 17 and subservice == 2:
            self._queue(PongReport(now_s, obt_s))
        else:
            table, args = unpack_report(service, subservice, data)
            self._queue(TableReport(now_s, obt_s, table, args))

    @staticmethod
    def _value(report: HousekeepingReport, point: str) -> float | int:
        return report.values[_WHERE[point][1]]

    def _follow_key(self, name: str, spi: int, args: tuple[float | int | str, ...]) -> None:
        """Do with our ring what the satellite says that it did with its own."""
        ring = None if self.seals is None else self.seals.ring
        if ring is None:
            return
        if name == "uplink_counter":
            ring.raise_to(spi, _whole(float(args[1])))
        elif name == "key_trial":
            ring.put_on_trial(spi)
        elif name == "key_active":
            ring.activate(spi)
        else:
            ring.take_back(spi)

    def _learn(self, row: parameters.Parameter, value: float, obt_s: float) -> None:
        self.archive.add_parameter(obt_s, row.number, row.name, value)
        if math.isfinite(value):
            self.parameters[row.name] = value

    def _verify(self, stage: int, data: bytes, obt_s: float, now_s: float) -> None:
        state = _STATE_OF_STAGE.get(stage)
        if state is None:
            raise LinkError(f"verification report 1,{stage} is not in the dictionary")
        request_id, _, code, text = unpack_verification(stage, data)
        record = self._commands.get(request_id)
        if record is None:
            entry = self.archive.command_of(request_id)
            if entry is not None:  # sent in an earlier session, or by `ground send` on its own
                record = self._recalled(entry)
        self.archive.add_verification(None if record is None else record.command_id, request_id, stage, code,
                                      text, obt_s)
        if record is None:
            self.foreign_verifications += 1
        elif state in _MAY_FOLLOW.get(record.state, ()):
            self._change(record, state, now_s, code, f"step {code}" if stage == STAGE_STEP else text)
        else:
            self.repeated_verifications += 1

    def _recalled(self, entry: CommandEntry) -> CommandRecord:
        sent_s = entry.sent_s - self._epoch_s
        return CommandRecord(entry.command_id, entry.request_id, entry.verb, entry.args,
                             CommandState(entry.state), sent_s, sent_s, sent_s, 0.0)

    def _change(self, record: CommandRecord, state: CommandState, now_s: float, code: int = 0,
                text: str = "") -> CommandRecord:
        record = dataclasses.replace(record, state=state, changed_s=now_s, code=code, text=text,
                                     deadline_s=now_s + record.timeout_s)
        self.archive.set_state(record.command_id, state)
        self._note(record)
        return record

    def _note(self, record: CommandRecord) -> None:
        self._commands[record.request_id] = record
        if record.state.is_final:
            self._open.discard(record.request_id)
        else:
            self._open.add(record.request_id)
        self._queue(CommandReport(record.changed_s, record))

    def _give_up_late(self, now_s: float) -> None:
        for request_id in [r for r in self._open if now_s >= self._commands[r].deadline_s]:
            record = self._commands[request_id]
            missing = {CommandState.SENT: "acceptance", CommandState.STARTED: "next step"}.get(
                record.state, "completion")
            self._change(record, CommandState.NO_ANSWER, now_s,
                         text=f"no {missing} within {record.timeout_s:g} s"
                              + (f"; sequence ended: {self._fop.alert}" if self._fop.alert else ""))

    def _queue(self, report: Report) -> None:
        if self._listeners:
            self._unpublished.append(report)

    def _publish(self, now_s: float) -> None:
        try:
            if not self.archive.tend(now_s):
                return
        except StoreError as error:
            if self.archive.is_broken:
                raise
            self.archive_trouble = str(error)
            return
        self.archive_trouble = ""
        while self._unpublished:
            report = self._unpublished.popleft()
            for listener in self._listeners:
                listener(report)


def command_row(verb: str) -> Command:
    """Return the dictionary's row of `verb`; LinkError names those that there are."""
    row = COMMANDS.get(verb)
    if row is None:
        raise LinkError(f"no telecommand {verb!r}; known: {', '.join(sorted(COMMANDS))}")
    return row


_KEY_EVENTS = frozenset({"uplink_counter", "key_trial", "key_active", "key_rolled_back"})
_KEY_POINTS = ("uplink_spi", "uplink_counter", "keys_active", "keys_on_trial")

_WHERE: dict[str, tuple[int, int]] = {
    point.name: (row.sid, i) for row in HOUSEKEEPING for i, point in enumerate(row.points)
}


def _whole(value: float) -> int:
    if not math.isfinite(value):
        raise LinkError(f"{value} stands where a counter should")
    return int(value)


def _counter_name(spi: int) -> str:
    return f"telemetry_counter_{spi}"


def _identity(packet: bytes) -> tuple[int, int]:
    """APID and sequence count of the primary header, which the deframer has seen to be whole."""
    first, second = packet[0] << 8 | packet[1], packet[2] << 8 | packet[3]
    return first & 0x7FF, second & 0x3FFF
