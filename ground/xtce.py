"""The dictionary as an XTCE 1.2 file (OMG, formal/2018-10-04), for ground software that is not ours.

Everything comes out of the dictionary's rows: telemetry with enumerations, units and limits, commands with bounds,
mode gates and hazards. Called by `ground dictionary`; reads nothing, writes nothing.

What a reader should know: a float that is NaN is a missing value. Texts and octets are counted, each count a
parameter of its own. Limits are those of the on-board parameters' defaults, and an alarm is a value outside its range.
Compressed housekeeping (a mission option) is in the file as an opaque packet. CFDP packets are not in it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum

from flightsw.dictionary import parameters
from flightsw.dictionary.commands import COMMANDS, Arg, Command
from flightsw.dictionary.events import EVENTS
from flightsw.dictionary.reports import REPORTS
from flightsw.dictionary.telemetry import HOUSEKEEPING, TEXT_MAX_OCTETS, Point
from flightsw.link.packets import PRIMARY_OCTETS, TM_OVERHEAD_OCTETS
from flightsw.link.services import (
    COMPRESSED_REPORT,
    STAGE_ACCEPTED,
    STAGE_COMPLETED,
    STAGE_FAILED,
    STAGE_NOT_ACCEPTED,
    STAGE_STARTED,
    STAGE_STEP,
)
from flightsw.state import Mode

NAMESPACE = "http://www.omg.org/spec/XTCE/20180204"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_SCHEMA = "https://www.omg.org/spec/XTCE/20180204/SpaceSystem.xsd"

_BITS = {"u8": 8, "u16": 16, "u32": 32, "i32": 32, "f32": 32, "f64": 64}
_HEADER = (
    ("VERSION", 3, "Packet version number, 0."), ("TYPE", 1, "0 telemetry, 1 telecommand."),
    ("SEC_HDR_FLG", 1, "1: a secondary header follows."), ("PKT_APID", 11, "Application."),
    ("SEQ_FLGS", 2, "3: unsegmented."), ("SRC_SEQ_CTR", 14, "Packet count of the application."),
    ("PKT_LEN", 16, "Octets after the primary header, less one."),
)
_PUS_HEADER = (
    ("PUS_VERSION", 4, "2: PUS-C."), ("TIME_STATUS", 4, "0."), ("SERVICE", 8, "Service type."),
    ("SUBSERVICE", 8, "Message subtype."), ("MSG_COUNTER", 16, "Count of this service and subtype."),
    ("DESTINATION", 16, "Destination, 0."), ("OBT_COARSE", 32, "On-board time: seconds of Unix time."),
    ("OBT_FINE", 16, "On-board time: the fraction, in seconds."),
)
_STAGES = {
    STAGE_ACCEPTED: "accepted", STAGE_NOT_ACCEPTED: "not_accepted", STAGE_STARTED: "started", STAGE_STEP: "step_done",
    STAGE_COMPLETED: "completed", STAGE_FAILED: "failed",
}


def xtce(apid: int) -> str:
    """Return the whole dictionary as an XTCE document for the application `apid`."""
    ET.register_namespace("", NAMESPACE)
    ET.register_namespace("xsi", _XSI)
    system = ET.Element(_tag("SpaceSystem"), {
        "name": "compute_satellite", f"{{{_XSI}}}schemaLocation": f"{NAMESPACE} {_SCHEMA}"})
    _add(system, "LongDescription").text = (__doc__ or "").split("\n\n", 2)[2].strip()
    _add(system, "Header", version="1", date="1970-01-01", validationStatus="Working")
    _Telemetry(_add(system, "TelemetryMetaData"), apid).write()
    _Commands(_add(system, "CommandMetaData"), apid).write()
    ET.indent(system)
    return f"<?xml version='1.0' encoding='UTF-8'?>\n{ET.tostring(system, encoding='unicode')}\n"


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _add(parent: ET.Element, tag: str, /, **attributes: str) -> ET.Element:
    return ET.SubElement(parent, _tag(tag), attributes)


def _unit(parent: ET.Element, unit: str) -> None:
    units = _add(parent, "UnitSet")
    if unit:
        _add(units, "Unit").text = unit


def _encoding(parent: ET.Element, kind: str, bits: int = 0) -> ET.Element:
    """Add how a number lies in the packet; `kind` is the dictionary's."""
    if kind.startswith("f"):
        return _add(parent, "FloatDataEncoding", sizeInBits=str(_BITS[kind]), encoding="IEEE754_1985")
    signed = "twosComplement" if kind == "i32" else "unsigned"
    return _add(parent, "IntegerDataEncoding", sizeInBits=str(bits or _BITS[kind]), encoding=signed)


def _enumeration(parent: ET.Element, codes: Mapping[str, int]) -> None:
    listed = _add(parent, "EnumerationList")
    for label, code in codes.items():
        _add(listed, "Enumeration", value=str(int(code)), label=label)


def _members(codes: type[IntEnum] | None) -> Mapping[str, int] | None:
    return None if codes is None else codes.__members__


class _Telemetry:
    """Writes types, parameters and containers; a type of each parameter's own, so that none is shared by accident."""

    def __init__(self, parent: ET.Element, apid: int) -> None:
        self._apid = apid
        self._types = _add(parent, "ParameterTypeSet")
        self._parameters = _add(parent, "ParameterSet")
        self._containers = _add(parent, "ContainerSet")

    def write(self) -> None:
        self._headers()
        for row in HOUSEKEEPING:
            for point in row.points:
                self._point(point)
            self._packet(row.name, "Housekeeping", [("HK_STRUCTURE", row.sid)], [point.name for point in row.points],
                         f"Housekeeping structure {row.sid}.")
        self._remainder()
        for event in EVENTS:
            names = [name for i, kind in enumerate(event.args)
                     for name in self._field(f"{event.name}_{i}", kind, "", f"Argument {i} of {event.name}.")]
            self._packet(f"event_{event.name}", "Event", [("EVENT_NUMBER", event.number)], names,
                         f"{event.severity.name}: {event.text}")
        self._verification()
        for report in REPORTS:
            names = [name for field in report.fields
                     for name in self._field(f"{report.name}_{field.name}", field.kind, field.unit, field.description,
                                             _members(field.enum))]
            self._packet(f"report_{report.name}", "PusTelemetry",
                         [("SERVICE", report.service), ("SUBSERVICE", report.subservice)], names, report.description)

    def _headers(self) -> None:
        for name, bits, text in (*_HEADER, *_PUS_HEADER):
            self._bits(name, bits, text)
        self._bits("HK_STRUCTURE", 8, "Housekeeping structure id.")
        self._bits("EVENT_NUMBER", 16, "Number of the event.")
        self._bits("REQUEST_ID", 32, "First four octets of the telecommand packet that is verified.")
        self._bits("PACKET_CRC", 16, "CRC-16 of the packet (ECSS-E-ST-70-41C annex B).")
        self._container("CCSDSPacket", [name for name, *_ in _HEADER], abstract=True)
        self._container("PusTelemetry", [name for name, *_ in _PUS_HEADER], abstract=True, base="CCSDSPacket",
                        where=[("TYPE", 0), ("SEC_HDR_FLG", 1), ("PKT_APID", self._apid)])
        self._container("Housekeeping", ["HK_STRUCTURE"], abstract=True, base="PusTelemetry",
                        where=[("SERVICE", 3), ("SUBSERVICE", 25)])
        self._container("Event", ["EVENT_NUMBER"], abstract=True, base="PusTelemetry", where=[("SERVICE", 5)])
        self._container("Verification", ["REQUEST_ID"], abstract=True, base="PusTelemetry", where=[("SERVICE", 1)])
        self._packet("pong", "PusTelemetry", [("SERVICE", 17), ("SUBSERVICE", 2)], [], "The satellite is alive.")

    def _remainder(self) -> None:
        """Compressed housekeeping: all between the headers and the CRC, by the packet's own length."""
        typed = _add(self._types, "BinaryParameterType", name="compressed_type")
        _unit(typed, "")
        value = _add(_add(_add(typed, "BinaryDataEncoding"), "SizeInBits"), "DynamicValue")
        _add(value, "ParameterInstanceRef", parameterRef="PKT_LEN", useCalibratedValue="false")
        _add(value, "LinearAdjustment", slope="8", intercept=str(-8 * (TM_OVERHEAD_OCTETS - PRIMARY_OCTETS - 1)))
        self._parameter("compressed", "Structure id, count, CRC-16 and CCSDS 124.0-B data of a housekeeping structure.")
        self._packet("compressed_housekeeping", "PusTelemetry", [("SERVICE", 3), ("SUBSERVICE", COMPRESSED_REPORT)],
                     ["compressed"], "A housekeeping structure, compressed.")

    def _verification(self) -> None:
        codes = list(self._field("failure_code", "u16", "", "Why a telecommand was not carried out."))
        codes += self._field("failure_text", "text", "", "The same in words.")
        step = list(self._field("step_number", "u16", "", "Number of the step that is done."))
        for stage, name in _STAGES.items():
            fields = codes if stage in (STAGE_NOT_ACCEPTED, STAGE_FAILED) else step if stage == STAGE_STEP else []
            self._packet(f"verification_{name}", "Verification", [("SUBSERVICE", stage)], fields,
                         f"Telecommand {name.replace('_', ' ')}.")
        rows = list(self._field("parameter_number", "u16", "", "Which on-board parameter.",
                                {row.name: row.number for row in parameters.PARAMETERS}))
        rows += self._field("parameter_value", "f64", "", "Its value, in its own unit.")
        self._packet("parameter_report", "PusTelemetry", [("SERVICE", 20), ("SUBSERVICE", 2)], rows,
                     "The value of an on-board parameter.")

    def _bits(self, name: str, bits: int, text: str) -> None:
        """A header field. The fraction of the time is calibrated to seconds; all others are as they are."""
        if name == "OBT_FINE":
            typed = _add(self._types, "FloatParameterType", name=f"{name}_type", sizeInBits="64")
            _unit(typed, "s")
            calibrator = _add(_add(_encoding(typed, "u16"), "DefaultCalibrator"), "PolynomialCalibrator")
            _add(calibrator, "Term", coefficient=repr(2.0**-16), exponent="1")
        else:
            self._plain(name, "u32", "", bits)
        self._parameter(name, text)

    def _plain(self, name: str, kind: str, unit: str, bits: int = 0) -> ET.Element:
        element = "FloatParameterType" if kind.startswith("f") else "IntegerParameterType"
        signed = {} if kind.startswith("f") else {"signed": "true" if kind == "i32" else "false"}
        typed = _add(self._types, element, name=f"{name}_type", sizeInBits=str(_BITS[kind]), **signed)
        _unit(typed, unit)
        _encoding(typed, kind, bits)
        return typed

    def _parameter(self, name: str, text: str) -> None:
        _add(self._parameters, "Parameter", name=name, parameterTypeRef=f"{name}_type", shortDescription=text)

    def _point(self, point: Point) -> None:
        if point.enum is not None:
            self._field(point.name, point.kind, point.unit, point.description, point.enum.__members__)
            return
        typed = self._plain(point.name, point.kind, point.unit)
        limits = {key: parameters.BY_NAME[name].default
                  for key, name in (("minInclusive", point.lower), ("maxInclusive", point.upper)) if name}
        if limits:
            ranges = _add(_add(typed, "DefaultAlarm"), "StaticAlarmRanges")
            _add(ranges, "CriticalRange", **{key: repr(value) for key, value in limits.items()})
        self._parameter(point.name, point.description)

    def _field(self, name: str, kind: str, unit: str, text: str,
               codes: Mapping[str, int] | None = None) -> tuple[str, ...]:
        """Write one field; return the parameters that it is made of, in order."""
        if codes is not None:
            typed = _add(self._types, "EnumeratedParameterType", name=f"{name}_type")
            _unit(typed, unit)
            _encoding(typed, kind)
            _enumeration(typed, codes)
        elif kind in {"text", "octets"}:
            count = f"{name}_octets"
            self._plain(count, "u8", "octets")
            self._parameter(count, f"How many octets {name} has.")
            self._counted(name, kind, count)
            self._parameter(name, text)
            return count, name
        else:
            self._plain(name, kind, unit)
        self._parameter(name, text)
        return (name,)

    def _counted(self, name: str, kind: str, count: str) -> None:
        if kind == "text":
            typed = _add(self._types, "StringParameterType", name=f"{name}_type")
            _unit(typed, "")
            size = _add(_add(typed, "StringDataEncoding", encoding="UTF-8"), "Variable",
                        maxSizeInBits=str(8 * TEXT_MAX_OCTETS))
        else:
            typed = _add(self._types, "BinaryParameterType", name=f"{name}_type")
            _unit(typed, "")
            size = _add(_add(typed, "BinaryDataEncoding"), "SizeInBits")
        value = _add(size, "DynamicValue")
        _add(value, "ParameterInstanceRef", parameterRef=count, useCalibratedValue="false")
        _add(value, "LinearAdjustment", slope="8", intercept="0")

    def _packet(self, name: str, base: str, where: Sequence[tuple[str, int]], entries: Iterable[str],
                text: str) -> None:
        self._container(name, [*entries, "PACKET_CRC"], base=base, where=where, text=text)

    def _container(self, name: str, entries: Iterable[str], *, base: str = "",
                   where: Sequence[tuple[str, int]] = (), abstract: bool = False, text: str = "") -> None:
        container = _add(self._containers, "SequenceContainer", name=name,
                         **({"abstract": "true"} if abstract else {}), **({"shortDescription": text} if text else {}))
        listed = _add(container, "EntryList")
        for entry in entries:
            _add(listed, "ParameterRefEntry", parameterRef=entry)
        if base:
            criteria = _add(_add(container, "BaseContainer", containerRef=base), "RestrictionCriteria")
            comparisons = _add(criteria, "ComparisonList")
            for parameter, value in where:
                _add(comparisons, "Comparison", parameterRef=parameter, value=str(value),
                     comparisonOperator="==", useCalibratedValue="false")


class _Commands:
    """Writes argument types and commands. Count, length and CRC of the packet are the sender's to fill in."""

    def __init__(self, parent: ET.Element, apid: int) -> None:
        self._apid = apid
        self._types = _add(parent, "ArgumentTypeSet")
        self._commands = _add(parent, "MetaCommandSet")

    def write(self) -> None:
        typed = _add(self._types, "IntegerArgumentType", name="octets", signed="false", sizeInBits="8")
        _unit(typed, "octets")
        _encoding(typed, "u8")
        for row in COMMANDS.values():
            self._command(row)

    def _command(self, row: Command) -> None:
        name = row.verb.replace(".", "_")  # a point parts names from each other in XTCE
        command = _add(self._commands, "MetaCommand", name=name, shortDescription=row.description)
        aliases = _add(command, "AliasSet")
        _add(aliases, "Alias", nameSpace="verb", alias=row.verb)
        if row.args:
            arguments = _add(command, "ArgumentList")
            for arg in row.args:
                if arg.kind in {"text", "request"}:
                    _add(arguments, "Argument", name=f"{arg.name}_octets", argumentTypeRef="octets",
                         shortDescription=f"How many octets {arg.name} has.")
                kind = self._type(f"{name}_{arg.name}", arg)
                _add(arguments, "Argument", name=arg.name, argumentTypeRef=kind, shortDescription=arg.description)
        container = _add(command, "CommandContainer", name=name)
        entries = _add(container, "EntryList")
        head = (("packet_id", 0x1800 | self._apid, 2), ("sequence", 0xC000, 2), ("length", 0, 2),
                ("version_and_acknowledgement", 0x29, 1), ("service", row.service, 1),
                ("subservice", row.subservice, 1), ("source", 0, 2))
        for field, value, octets in (*head, *([] if row.function is None else [("function", row.function, 1)])):
            _add(entries, "FixedValueEntry", name=field, binaryValue=f"{value:0{2 * octets}X}",
                 sizeInBits=str(8 * octets))
        for arg in row.args:
            if arg.kind in {"text", "request"}:
                _add(entries, "ArgumentRefEntry", argumentRef=f"{arg.name}_octets")
            _add(entries, "ArgumentRefEntry", argumentRef=arg.name)
        if row.hazardous:
            _add(command, "DefaultSignificance", consequenceLevel="critical", reasonForWarning=row.description)
        self._gate(command, row.modes)

    def _gate(self, command: ET.Element, modes: frozenset[Mode]) -> None:
        if modes == frozenset(Mode):
            return
        wanted = _add(_add(command, "TransmissionConstraintList"), "TransmissionConstraint")
        either = _add(_add(wanted, "BooleanExpression"), "ORedConditions") if len(modes) > 1 else None
        for mode in sorted(modes):
            if either is None:
                _add(wanted, "Comparison", parameterRef="mode", value=mode.name)
                continue
            condition = _add(either, "Condition")
            _add(condition, "ParameterInstanceRef", parameterRef="mode")
            _add(condition, "ComparisonOperator").text = "=="
            _add(condition, "Value").text = mode.name

    def _type(self, name: str, arg: Arg) -> str:
        """Write the type of one argument, its bounds in it; return its name."""
        if arg.kind in {"text", "request"}:
            typed = _add(self._types, "StringArgumentType" if arg.kind == "text" else "BinaryArgumentType", name=name)
            _unit(typed, "")
            size = (_add(_add(typed, "StringDataEncoding", encoding="UTF-8"), "Variable",
                         maxSizeInBits=str(8 * int(arg.high)))
                    if arg.kind == "text" else _add(_add(typed, "BinaryDataEncoding"), "SizeInBits"))
            value = _add(size, "DynamicValue")
            _add(value, "ArgumentInstanceRef", argumentRef=f"{arg.name}_octets")
            _add(value, "LinearAdjustment", slope="8", intercept="0")
        elif arg.enum is not None:
            typed = _add(self._types, "EnumeratedArgumentType", name=name)
            _unit(typed, arg.unit)
            _encoding(typed, arg.kind)
            _enumeration(typed, arg.enum.__members__)
        else:
            whole = not arg.kind.startswith("f")
            signed = {"signed": "true" if arg.kind == "i32" else "false"} if whole else {}
            typed = _add(self._types, "IntegerArgumentType" if whole else "FloatArgumentType", name=name,
                         sizeInBits=str(_BITS[arg.kind]), **signed)
            _unit(typed, arg.unit)
            _encoding(typed, arg.kind)
            bounds = [str(int(bound)) if whole else repr(float(bound)) for bound in (arg.low, arg.high)]
            _add(_add(typed, "ValidRangeSet"), "ValidRange", minInclusive=bounds[0], maxInclusive=bounds[1])
        return name
