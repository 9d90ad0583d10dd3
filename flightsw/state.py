"""Frozen types that pass between the stages of the loop, and the satellite's modes.

Owned by nobody, changed by nobody: sense makes `Readings`, the estimator makes `Estimate`, decide makes
`Decision`, act makes `Outcome`. Types on the per-tick path are NamedTuples (three times cheaper to make
than frozen dataclasses, and just as frozen).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

NODE_COUNT_MAX = 8
"""Compute nodes that one supervisor serves (design section 9)."""


class Mode(IntEnum):
    """Spacecraft modes. Codes are four bits apart (Hamming distance 4), so no single bit flip is a mode."""

    BOOT = 0x00
    SAFE = 0x0F
    STANDBY = 0x33
    COMPUTE = 0x55


LEGAL_TRANSITIONS: dict[Mode, frozenset[Mode]] = {
    Mode.BOOT: frozenset({Mode.SAFE}),
    Mode.SAFE: frozenset({Mode.STANDBY}),
    Mode.STANDBY: frozenset({Mode.SAFE, Mode.COMPUTE}),
    Mode.COMPUTE: frozenset({Mode.SAFE, Mode.STANDBY}),
}
"""From each mode the modes that may follow. SAFE is reachable from all; upwards goes one step at a time."""


class Quality(IntEnum):
    """Why a reading has, or has not, a value."""

    GOOD = 0
    MISSING = 1
    STALE = 2
    NOT_FINITE = 3
    OUT_OF_RANGE = 4
    NOT_FITTED = 5
    IMPLAUSIBLE = 6


class RawReading(NamedTuple):
    """What a board delivers for one sensor: a value that is not yet believed, and when it was sampled."""

    value: float | None
    sampled_s: float


class Readings(NamedTuple):
    """One tick's believed readings, in the order of `dictionary.sensors.SENSORS`.

    `values[i]` is None unless `qualities[i]` is GOOD; `sampled_s[i]` is when it was last sampled.
    """

    now_s: float
    values: tuple[float | None, ...]
    qualities: tuple[int, ...]
    sampled_s: tuple[float, ...]


class Bounded(NamedTuple):
    """A quantity with its credible bounds; an unknown quantity has bounds, never a made-up value."""

    best: float
    low: float
    high: float


class Factor(NamedTuple):
    """What one of the mission's numbers really is, as a factor on it, and the bound of that factor's own error."""

    frac: float
    error_frac: float


class Learnt(NamedTuple):
    """What telemetry has shown of the satellite; None where it has not shown anything yet.

    `array` is the power that the array gives, `radiator` the heat that the radiator gets rid of, `bus` the load
    besides nodes, heater and transmitter, `plate_link` and `die_links` conductances to radiator and plate.
    """

    array: Factor | None = None
    radiator: Factor | None = None
    bus: Factor | None = None
    plate_link: Factor | None = None
    die_links: tuple[Factor | None, ...] = ()


AS_DESIGNED = Learnt()


class Estimate(NamedTuple):
    """The satellite's state as the flight software believes it.

    `temperature_k` follows the flight thermal network: dies, plate, radiator, bus, battery, array.
    `blind` names the sensors whose absence forbids all compute; it is empty when the state is known.
    `dark_nodes` are the compute nodes whose own temperature is not known: those alone stay off. `pack_frac`
    is the battery's learnt capacity relative to the mission's; `battery_j` counts in the mission's joules.
    `learnt` is what else telemetry has shown to be other than the mission says, `is_shaded` that the Sun is gone where
    the orbit has it shine.
    """

    now_s: float
    battery_j: Bounded
    temperature_k: tuple[Bounded, ...]
    array_w: float | None
    bus_w: float | None
    node_w: tuple[float | None, ...]
    sun_frac: float | None
    blind: tuple[str, ...]
    dark_nodes: tuple[int, ...]
    pack_frac: float = 1.0
    learnt: Learnt = AS_DESIGNED
    is_shaded: bool = False


class Pause(IntEnum):
    """How a job may be interrupted."""

    NONE = 0
    STOP_CONTINUE = 1
    CHECKPOINT = 2


class JobState(IntEnum):
    """Where a job is in its life."""

    QUEUED = 0
    PROMISED = 1
    RUNNING = 2
    PAUSED = 3
    FINISHED = 4
    REFUSED = 5
    FAILED = 6
    CANCELLED = 7
    EXPIRED = 8
    WITHDRAWN = 9

    @property
    def is_final(self) -> bool:
        """True when the job will never run again."""
        return self >= JobState.FINISHED


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What its owner declares of a job.

    One work unit is one second of one node in its reference mode (rate 1.0). `activity_frac` is the
    electrical draw relative to the mode's nominal. Times are on the supervisor's `now_s` axis.
    """

    job_id: int
    name: str
    work_units: float
    activity_frac: float
    value: float
    arrival_s: float
    deadline_s: float
    answer_due_s: float
    pause: Pause = Pause.STOP_CONTINUE
    manifest: str = ""


class Ban(NamedTuple):
    """A time in which a job may not be processed, and the region whose data rules forbid it."""

    from_s: float
    to_s: float
    region: str


class BanNews(NamedTuple):
    """All bans of the jobs of one manifest from `from_s` to `to_s`, in order and apart. Replaces what was known
    from `from_s` on; beyond `to_s` nothing is known, which forbids.
    """

    manifest: str
    from_s: float
    to_s: float
    bans: tuple[Ban, ...]


class JobView(NamedTuple):
    """A job as the planner sees it: its declaration, state, work done and the node it is on (-1: none)."""

    spec: JobSpec
    state: JobState
    done_units: float
    node: int


class RefusalReason(IntEnum):
    """Named reasons, all evaluated; they go down the link."""

    MODE = 1
    DEADLINE_TOO_SOON = 2
    ENERGY = 3
    HEAT = 4
    CAPACITY = 5
    QUEUE_FULL = 6
    STATE_UNKNOWN = 7
    NO_NODE = 8
    OUTBID = 9
    POLICY = 10


class Promise(NamedTuple):
    """An admission: the job finishes by `finish_by_s`; this much energy and heat is reserved for it."""

    job_id: int
    finish_by_s: float
    energy_j: float
    heat_j: float


class Refusal(NamedTuple):
    """A refusal that says why, which limit binds, when, and what would fit.

    `counter_deadline_s` is the earliest deadline at which the job would have been admitted, or None when
    no deadline within the forecast would do.
    """

    job_id: int
    reasons: tuple[RefusalReason, ...]
    binding_limit: str
    binding_at_s: float
    counter_deadline_s: float | None


class NodeCommand(NamedTuple):
    """What one compute node is asked to do: its power mode (index into the mission's table) and its job."""

    power_mode: int
    cap_w: float
    job_id: int


class Plan(NamedTuple):
    """Compute power that each slot affords. `slot_end_s` ascends; `budget_w[i]` holds until it."""

    made_s: float
    slot_end_s: tuple[float, ...]
    budget_w: tuple[float, ...]
    rate_units_s: tuple[float, ...]
    battery_min_frac: float
    battery_min_at_s: float
    hottest_margin_k: float
    binding_limit: str
    is_fallback: bool

    def budget_at(self, now_s: float) -> float:
        """Compute power in W that the plan affords at `now_s`; its last slot's beyond its end."""
        i = min(bisect_right(self.slot_end_s, now_s), len(self.budget_w) - 1)
        return self.budget_w[i]

    def drop_after(self, now_s: float, kept_frac: float) -> float | None:
        """Seconds until the plan affords less than `kept_frac` of what it affords now, None when it does not."""
        first = bisect_right(self.slot_end_s, now_s)
        least_w = kept_frac * self.budget_at(now_s)
        for i in range(first + 1, len(self.budget_w)):
            if self.budget_w[i] < least_w:
                return self.slot_end_s[i - 1] - now_s
        return None


class Limit(IntEnum):
    """Limits that are forecast; each bears the name of its parameter. UNKNOWN: there is no forecast."""

    UNKNOWN = 0
    NONE = 1
    BATTERY_FLOOR_FRAC = 2
    DIE_MAX_C = 3
    PLATE_MAX_C = 4
    RADIATOR_MAX_C = 5
    BATTERY_MAX_C = 6


LIMITS: tuple[Limit, ...] = tuple(Limit)[2:]
"""In the order of `Outlook`."""


class Outlook(NamedTuple):
    """What one load leads to at one corner of the flight model, a value for each of `LIMITS`.

    `margin`: the nearest that it comes to the limit, in K, of full charge for the battery's floor; negative beyond.
    `crossing_s`: seconds until it is crossed, inf when it is not within the forecast.
    """

    margin: tuple[float, ...]
    crossing_s: tuple[float, ...]

    def next_crossing(self) -> tuple[Limit, float]:
        """The limit that is crossed first and in how many seconds; NONE and inf when none is."""
        in_s = min(self.crossing_s)
        return (LIMITS[self.crossing_s.index(in_s)], in_s) if in_s < math.inf else (Limit.NONE, in_s)


class Ahead(NamedTuple):
    """The next orbits as forecast at `made_s`: under the plan, and should the nodes go on drawing what they draw now.

    Each at the best estimate and at the worst credible corner. The curves are those of the plan, `AHEAD_POINTS`
    each, every `step_s` from `made_s` + `step_s` on; `hottest_c` is the hottest junction's.
    """

    made_s: float
    step_s: float
    charge_frac: tuple[float, ...]
    charge_worst_frac: tuple[float, ...]
    hottest_c: tuple[float, ...]
    hottest_worst_c: tuple[float, ...]
    plan: Outlook
    plan_worst: Outlook
    present: Outlook
    present_worst: Outlook

    @property
    def end_s(self) -> float:
        """How far the curves reach."""
        return self.made_s + len(self.charge_frac) * self.step_s


AHEAD_POINTS = 32


class Event(NamedTuple):
    """One event report: a row of `dictionary.events` and its arguments."""

    name: str
    args: tuple[float | int | str, ...]


class JobProgress(NamedTuple):
    """What a runner reports of one job: work units done, whether its process ended, and how."""

    job_id: int
    done_units: float
    ended: bool
    succeeded: bool
    detail: str


SPI_SLOT_BITS = 4
"""Low bits of an SPI that count a sender's keys; the others name the sender (`link.keys`)."""


class Received(NamedTuple):
    """A telecommand that passed every check of the link. `request_id` names it in its verification.

    `spi` names the key that it was sealed with, 0 for none.
    """

    request_id: int
    service: int
    subservice: int
    data: bytes
    spi: int = 0

    @property
    def station(self) -> int:
        """Number of the station that sealed it, 1 for the mission's first; 0 for none."""
        return self.spi >> SPI_SLOT_BITS


class Request(NamedTuple):
    """A telecommand that is kept on board to be run later: its service, subservice and application data."""

    service: int
    subservice: int
    data: bytes


class Scheduled(NamedTuple):
    """A command with its time (PUS 11), `at_obt_s` on-board time."""

    number: int
    at_obt_s: float
    request: Request


class MonitorDefinition(NamedTuple):
    """A monitoring definition (PUS 12): a housekeeping point is to stay in `low`..`high`.

    `samples` in a row beyond it are a crossing, as many inside it a return. `severity` is the event's.
    """

    number: int
    point: str
    low: float
    high: float
    samples: int
    severity: int
    enabled: bool


class Action(NamedTuple):
    """What event `event` sets off (PUS 19), where its first argument is `subject` (empty: any).

    It runs `left` times more, then never: events that set each other off come to an end.
    """

    number: int
    event: str
    subject: str
    left: int
    request: Request
    enabled: bool


class StoredSequence(NamedTuple):
    """A sequence of commands (PUS 21) as it was loaded: its text, and the SHA-256 that it must have."""

    name: str
    sha256: str
    text: str


class Switch(NamedTuple):
    """A standing value: whether a table is in force, or the correction of on-board time in seconds."""

    value: float


class OrderTable(IntEnum):
    """Tables of standing orders: what the ground leaves on board to be done without it."""

    SCHEDULE = 1
    MONITORS = 2
    ACTIONS = 3
    SEQUENCES = 4
    SWITCHES = 5


class OrderChange(NamedTuple):
    """Row `key` of a table of standing orders is set, or deleted where `row` is None.

    Durable before it is acknowledged, in force from the tick that decides it.
    """

    table: OrderTable
    key: int | str
    row: Scheduled | MonitorDefinition | Action | StoredSequence | Switch | None


class FileRead(NamedTuple):
    """Text of a file that the ground sent up, as decide asked for it; `problem` says why there is none."""

    name: str
    text: str
    problem: str


class SetMode(NamedTuple):
    """Go to `mode`, for `reason`."""

    mode: Mode
    reason: str


class ReportHousekeeping(NamedTuple):
    """Send structure `sid` once, now."""

    sid: int


class SetHousekeepingPeriod(NamedTuple):
    """Send structure `sid` every `period_s` seconds; 0 stops it."""

    sid: int
    period_s: float


class SetParameter(NamedTuple):
    """Set on-board parameter `name` to `value`."""

    name: str
    value: float


class ReportParameter(NamedTuple):
    """Report the value of parameter `number`."""

    number: int


class SubmitJob(NamedTuple):
    """Put a job before admission."""

    spec: JobSpec


class CancelJob(NamedTuple):
    """Stop a job for good."""

    job_id: int


class EraseData(NamedTuple):
    """Destroy the keys of all data that is kept for a customer."""

    customer: str


class FileOrder(NamedTuple):
    """Ask something of the file service: `verb` is list, get, delete, cancel, suspend or resume."""

    verb: str
    name: str = ""
    source_id: int = 0
    sequence: int = 0


class ExportAudit(NamedTuple):
    """Copy the audit log to where the ground can get files from."""


class Pong(NamedTuple):
    """Answer an are-you-alive (PUS 17,2)."""


class SendReport(NamedTuple):
    """Send a report of `dictionary.reports` with its values."""

    name: str
    args: tuple[float | int | str, ...]


class LoadSequence(NamedTuple):
    """Read the file `name` and keep it as a sequence if its SHA-256 is `sha256`."""

    name: str
    sha256: str


class StartSequence(NamedTuple):
    """Run the stored sequence `name` from its beginning."""

    name: str


class StopSequence(NamedTuple):
    """Stop running the stored sequence `name`."""

    name: str


class Arm(NamedTuple):
    """Arm the hazardous command of this digest for the station that sent this under `spi`."""

    digest: str
    spi: int = 0


class KeyStep(IntEnum):
    """Steps of a station, or of telemetry, to its next key."""

    ROLL = 1
    CONFIRM = 2


class ChangeKey(NamedTuple):
    """Take `step` with the key of `sender` (0: telemetry, else a station), asked for under `spi`."""

    step: KeyStep
    sender: int
    spi: int = 0


Effect = (
    Arm | ChangeKey | SetMode | ReportHousekeeping | SetHousekeepingPeriod | SetParameter | ReportParameter | SubmitJob
    | CancelJob | EraseData | ExportAudit | FileOrder | Pong | SendReport | OrderChange | LoadSequence | StartSequence
    | StopSequence
)
"""What telecommands ask for; the supervisor carries it out."""


class Verification(NamedTuple):
    """One stage of a telecommand's verification (PUS service 1): 1 accepted, 2 not accepted, 3 started, 5 step done,
    7 completed, 8 failed; `code` and `text` say why where it failed, `code` is the step where one is done.
    """

    request_id: int
    stage: int
    code: int
    text: str


class Usage(NamedTuple):
    """What a job has used so far, as measured: the one form that meter, ledger, telemetry and bill share.

    `energy_j` is the job's share of the measured node power, `core_s` processor time, `peak_octets` the most
    memory it ever held, `written_octets` what it left in its work folder. `customer` is who pays.
    """

    customer: str
    energy_j: float
    core_s: float
    peak_octets: int
    written_octets: int


class JobTransition(NamedTuple):
    """A job enters `state`; `spec` comes with the first one. Durable before it is acknowledged."""

    job_id: int
    state: JobState
    detail: str
    done_units: float
    spec: JobSpec | None


class Inputs(NamedTuple):
    """All that decide knows of one tick besides its own memory; recorded, so that it replays.

    Once `storage_works` is false it stays so until the supervisor is restarted: nothing that must be durable
    is begun any more. `noticed` are events that were reported since the last tick by others than decide, `files`
    what decide asked for.
    """

    now_s: float
    readings: Readings
    received: tuple[Received, ...]
    submitted: tuple[JobSpec, ...]
    progress: tuple[JobProgress, ...]
    guardian_answers: bool
    storage_works: bool = True
    bans: tuple[BanNews, ...] = ()
    noticed: tuple[Event, ...] = ()
    files: tuple[FileRead, ...] = ()


class Decision(NamedTuple):
    """What decide wants this tick. Reductions in `nodes` are always safe; increases passed the governor.

    `transitions` and `orders` are written down before `verifications` go out. `effects` are what telecommands ask of
    the link (reports, periods). `ahead` is the last forecast, None while the state is not known.
    """

    now_s: float
    mode: Mode
    nodes: tuple[NodeCommand, ...]
    plan: Plan
    transitions: tuple[JobTransition, ...]
    verifications: tuple[Verification, ...]
    effects: tuple[Effect, ...]
    events: tuple[Event, ...]
    shed: str
    ahead: Ahead | None = None
    orders: tuple[OrderChange, ...] = ()


class NodeCap(NamedTuple):
    """What the guardian is asked to hold for one node: power cap, share of time its job may run, and
    the process group that the share applies to (0: none).
    """

    cap_w: float
    duty_frac: float
    pgid: int
