"""`ground bill`: what each customer's jobs used, and what the same work costs in a data centre on the ground.

Owns the statement. Settlements come from an archive (event `job_settled`) or from lines of JSON as `ground bill
--json` prints them, so that statements of several archives can be put together. A figure that was not metered is
shown as missing and not charged for; nothing here makes a number up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from flightsw.declared import load, number, text
from flightsw.errors import StoreError
from ground.archive import Archive, EventEntry

LINE_OCTETS_MAX: Final = 4096
FILE_OCTETS_MAX: Final = 64 << 20
_J_PER_KWH: Final = 3.6e6
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a data centre on the ground asks: energy at the meter, its overhead, and a rented core where wanted.

    `pue` is the power usage effectiveness, energy of the site over energy of its computers (ISO/IEC 30134-2).
    """

    name: str = text(r".{1,80}", "1..80 characters")
    currency: str = text(r"[A-Z]{3}", "an ISO 4217 code")
    energy_source: str = text(r".{1,200}", "1..200 characters")
    pue_source: str = text(r".{1,200}", "1..200 characters")
    energy_per_kwh: float = number("per kWh", 0.0, 100.0)
    pue: float = number("", 1.0, 5.0)


class Settlement(NamedTuple):
    """What one job used; None where it was not metered. `value` is what its owner said that it was worth, 0 for one
    that did not finish.
    """

    obt_s: float
    job_id: int
    customer: str
    energy_j: float | None
    core_s: float | None
    peak_octets: float | None
    written_octets: float | None
    value: float | None


class Line(NamedTuple):
    """One line of a statement: a job, or a customer's sum (`job_id` 0). `ground_cost` is None without a tariff.

    A sum adds up what was metered; `unmetered` counts its jobs without a measured energy.
    """

    customer: str
    job_id: int
    jobs: int
    ended_obt_s: float
    energy_j: float | None
    core_s: float | None
    peak_octets: float | None
    written_octets: float | None
    value: float | None
    ground_cost: float | None
    unmetered: int


class Statement(NamedTuple):
    """Lines by customer and job, each customer's ending with its sum; and what a reader must know beside them."""

    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def load_tariff(path: Path) -> Tariff:
    """Read a tariff file; ConfigError lists everything that is wrong with it."""
    return load(Tariff, path)


def from_archive(archive: Archive, since_s: float, until_s: float) -> tuple[list[Settlement], list[str]]:
    """Return the settlements with `since_s` <= on-board time < `until_s`, and what the archive may lack."""
    events = list(archive.events(since_s, until_s))
    gaps = len(archive.gaps())
    notes = [f"gaps in telemetry, in which settlements may be missing: {gaps}"] if gaps else []
    balances = [event for event in events if event.name == "energy_balance"]
    if balances:
        bus_j, jobs_j, house_j, unmetered_s = (_figure(arg, signed=True) or 0.0 for arg in balances[-1].args)
        notes.append(f"all joules of the bus since the satellite's last start, as of {_utc(balances[-1].obt_s)}: "
                     f"{bus_j:,.0f} = {jobs_j:,.0f} by jobs + {house_j:,.0f} by the house; "
                     f"{unmetered_s:,.0f} s not metered")
    return settlements_of(events), notes


def settlements_of(events: Iterable[EventEntry]) -> list[Settlement]:
    """Return the settlements among `events`."""
    return [_from_event(event.obt_s, event.args) for event in events if event.name == "job_settled"]


def from_lines(path: Path, since_s: float, until_s: float) -> list[Settlement]:
    """Read settlements, one JSON object a line; StoreError names file, line and what is wrong."""
    try:
        if path.stat().st_size > FILE_OCTETS_MAX:
            raise StoreError(f"{path}: {path.stat().st_size} octets, limit {FILE_OCTETS_MAX}")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    found = [_from_json(line, f"{path}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    return [settlement for settlement in found if since_s <= settlement.obt_s < until_s]


def statement(settlements: Iterable[Settlement], tariff: Tariff | None, customer: str | None = None) -> Statement:
    """Make a statement. A job that was settled twice counts once, by its last settlement."""
    by_job: dict[int, Settlement] = {}
    notes: list[str] = []
    for one in sorted(settlements, key=lambda s: (s.obt_s, s.job_id)):
        before = by_job.get(one.job_id)
        if before is not None and before[1:] != one[1:]:
            notes.append(f"job {one.job_id} was settled twice with different figures: the last one counts")
        by_job[one.job_id] = one
    lines: list[Line] = []
    names = sorted({s.customer for s in by_job.values() if customer in (None, s.customer)})
    for name in names:
        own = sorted((s for s in by_job.values() if s.customer == name), key=lambda s: s.job_id)
        lines += [_line(s, tariff) for s in own]
        lines.append(_sum(name, own, tariff))
    unmetered = sum(line.unmetered for line in lines if line.job_id)
    if unmetered:
        notes.append(f"jobs without a measured energy, left out of the sums: {unmetered}")
    return Statement(tuple(lines), tuple(notes))


def as_text(made: Statement, tariff: Tariff | None) -> Iterator[str]:
    """Lay a statement out as a table, with the sources of the comparison below it."""
    unit = "" if tariff is None else tariff.currency
    head = ("customer", "job", "ended (UTC)", "energy J", "Wh", "core-s", "peak MB", "written MB", "value",
            *((f"ground {unit}",) if tariff else ()))
    rows = [_cells(line, tariff) for line in made.lines]
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [cell.ljust(width) if i in (0, 2) else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        yield "  ".join(cells).rstrip()
    if not made.lines:
        yield "no settled jobs"
    if tariff:
        yield (f"ground: {tariff.name}: the same joules at {tariff.energy_per_kwh:g} {unit} per kWh "
               f"({tariff.energy_source}) and PUE {tariff.pue:g} ({tariff.pue_source})")
    for note in made.notes:
        yield f"note: {note}"


def as_json(made: Statement) -> Iterator[str]:
    """One JSON object a line: jobs as `from_lines` reads them, customers' sums with `job_id` 0 left out."""
    for line in made.lines:
        if line.job_id:
            fields = line._asdict()
            fields["obt_s"] = fields.pop("ended_obt_s")
            for derived in ("jobs", "unmetered"):
                del fields[derived]
            fields["energy_wh"] = None if line.energy_j is None else line.energy_j / 3600.0
            yield json.dumps(fields)


_FIELDS: Final = ("energy_j", "core_s", "peak_octets", "written_octets", "value")


def _from_event(obt_s: float, args: Sequence[float | int | str | None]) -> Settlement:
    job_id, customer, *figures = args
    return Settlement(obt_s, int(job_id or 0), str(customer), *(_figure(figure) for figure in figures))


def _from_json(line: bytes, where: str) -> Settlement:
    if len(line) > LINE_OCTETS_MAX:
        raise StoreError(f"{where}: {len(line)} octets, limit {LINE_OCTETS_MAX}")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not JSON: {line[:60]!r}") from error
    if not isinstance(fields, dict):
        raise StoreError(f"{where}: not an object: {line[:60]!r}")
    job_id, obt_s, customer = fields.get("job_id"), _figure(fields.get("obt_s"), signed=True), fields.get("customer")
    if type(job_id) is not int or not 0 < job_id <= 0xFFFFFFFF or obt_s is None or not isinstance(customer, str):
        raise StoreError(f"{where}: job_id, obt_s and customer are expected: {line[:60]!r}")
    return Settlement(obt_s, job_id, customer, *(_figure(fields.get(name)) for name in _FIELDS))


def _figure(value: object, *, signed: bool = False) -> float | None:
    """Return a number as it is, None for whatever cannot be a measured one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        figure = float(value)
    except OverflowError:
        return None
    return figure if math.isfinite(figure) and (signed or figure >= 0.0) else None


def _line(one: Settlement, tariff: Tariff | None) -> Line:
    return Line(one.customer, one.job_id, 1, one.obt_s, one.energy_j, one.core_s, one.peak_octets, one.written_octets,
                one.value, _ground_cost(one.energy_j, tariff), int(one.energy_j is None))


def _sum(customer: str, own: Sequence[Settlement], tariff: Tariff | None) -> Line:
    def total(name: str) -> float | None:
        known = [figure for figure in (getattr(s, name) for s in own) if figure is not None]
        return math.fsum(known) if known else None

    peaks = [s.peak_octets for s in own if s.peak_octets is not None]
    return Line(customer, 0, len(own), max(s.obt_s for s in own), total("energy_j"), total("core_s"),
                max(peaks) if peaks else None, total("written_octets"), total("value"),
                _ground_cost(total("energy_j"), tariff), sum(s.energy_j is None for s in own))


def _ground_cost(energy_j: float | None, tariff: Tariff | None) -> float | None:
    """Cost of the same energy in computers on the ground: it is drawn `pue` times at the meter."""
    if tariff is None or energy_j is None:
        return None
    return energy_j / _J_PER_KWH * tariff.pue * tariff.energy_per_kwh


def _utc(obt_s: float) -> str:
    return datetime.fromtimestamp(obt_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _cells(line: Line, tariff: Tariff | None) -> tuple[str, ...]:
    def cell(value: float | None, scale: float, digits: int) -> str:
        return "-" if value is None else f"{value / scale:,.{digits}f}"

    ended = _utc(line.ended_obt_s) if line.job_id else ""
    name = line.customer if line.job_id else f"{line.customer}: sum"
    return (
        name, str(line.job_id) if line.job_id else f"{line.jobs} jobs", ended, cell(line.energy_j, 1.0, 0),
        cell(line.energy_j, 3600.0, 3), cell(line.core_s, 1.0, 1), cell(line.peak_octets, _MB, 1),
        cell(line.written_octets, _MB, 3), cell(line.value, 1.0, 2),
        *((cell(line.ground_cost, 1.0, 6),) if tariff else ()),
    )
