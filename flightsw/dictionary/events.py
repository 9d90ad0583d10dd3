"""Every event report (PUS service 5), one row each: number, severity, text and argument types.

Argument types are those of `dictionary.telemetry.PACK`: `u8 u16 u32 i32 f32 f64` and `text`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Severity(IntEnum):
    """ECSS-E-ST-70-41C section 6.5: the subservice is the severity."""

    INFO = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4


class EventRow(NamedTuple):
    """One event; `text` is a format string over `args` in order."""

    number: int
    name: str
    severity: Severity
    text: str
    args: tuple[str, ...] = ()


_I, _L, _M, _H = Severity.INFO, Severity.LOW, Severity.MEDIUM, Severity.HIGH

EVENTS: tuple[EventRow, ...] = (
    EventRow(1, "boot", _I, "Supervisor started, boot {0}, last mode {1}", ("u32", "text")),
    EventRow(2, "mode_changed", _I, "Mode {0} -> {1}: {2}", ("text", "text", "text")),
    EventRow(3, "mode_refused", _L, "Mode {0} -> {1} refused: {2}", ("text", "text", "text")),
    EventRow(10, "limit_warning", _L, "{0} = {1:.2f}, within {3:.2f} of its limit {2:.2f}",
             ("text", "f32", "f32", "f32")),
    EventRow(11, "limit_crossed", _H, "{0} = {1:.2f} crossed its limit {2:.2f}", ("text", "f32", "f32")),
    EventRow(12, "limit_cleared", _I, "{0} = {1:.2f} is back inside its limit {2:.2f}",
             ("text", "f32", "f32")),
    EventRow(13, "sensor_lost", _M, "Sensor {0} has no value: {1}", ("text", "text")),
    EventRow(14, "sensor_back", _I, "Sensor {0} has a value again", ("text",)),
    EventRow(15, "blind", _H, "Compute stopped: the state is not known without {0}", ("text",)),
    EventRow(16, "sighted", _I, "The state is known again"),
    EventRow(17, "limit_ahead", _L, "At the present draw will cross {0} in {1:.0f} s, {2} case",
             ("text", "f32", "text")),
    EventRow(18, "limit_ahead_cleared", _I, "{0} is not near ahead any more", ("text",)),
    EventRow(19, "sensor_implausible", _M,
             "Sensor {0} is not believed: the same {1:.3f} for {2:.0f} s while {3} moved by {4:.3f}",
             ("text", "f32", "f32", "text", "f32")),
    EventRow(20, "shed", _M, "All compute shed: {0}", ("text",)),
    EventRow(21, "cap_reduced", _I, "Governor reduced node {0} from {1:.1f} W to {2:.1f} W: {3}",
             ("u8", "f32", "f32", "text")),
    EventRow(22, "guardian_lost", _H, "Guardian does not answer: {0}", ("text",)),
    EventRow(23, "guardian_back", _I, "Guardian answers again"),
    EventRow(24, "plan_fallback", _M, "No plan keeps every limit; planning for the least load: {0}", ("text",)),
    EventRow(25, "plan_failed", _M, "Nothing can be forecast; planning for the least load: {0}", ("text",)),
    EventRow(26, "node_overdraws", _M,
             "Node {0} draws {1:.1f} W under a cap of {2:.1f} W, where no job draws over {3:.1f} W",
             ("u8", "f32", "f32", "f32")),
    EventRow(27, "node_cycled", _M, "Node {0} switched off for {1:.0f} s, to end a latch-up", ("u8", "f32")),
    EventRow(28, "node_draw_back", _I, "Node {0} draws {1:.1f} W, what its cap allows", ("u8", "f32")),
    EventRow(29, "clock_stepped", _M, "The clock moved by {0:+.1f} s between two ticks", ("f64",)),
    EventRow(30, "job_queued", _I,
             "Job {0} queued: {1:.0f} units, value {2:.1f}, deadline T+{3:.0f} s, answer due by T+{4:.0f} s",
             ("u32", "f32", "f32", "f32", "f32")),
    EventRow(31, "job_promised", _I, "Job {0} promised by T+{1:.0f} s, {2:.2f} Wh and {3:.2f} Wh of heat reserved",
             ("u32", "f32", "f32", "f32")),
    EventRow(32, "job_refused", _L, "Job {0} refused: {1}; binding {2} at T+{3:.0f} s; deadline that would do: {4}",
             ("u32", "text", "text", "f32", "text")),
    EventRow(33, "job_started", _I, "Job {0} started on node {1}", ("u32", "u8")),
    EventRow(34, "job_finished", _I, "Job {0} finished, {1:.0f} units", ("u32", "f32")),
    EventRow(35, "job_failed", _M, "Job {0} failed: {1}", ("u32", "text")),
    EventRow(36, "job_withdrawn", _H, "Promise of job {0} withdrawn: {1}", ("u32", "text")),
    EventRow(37, "job_cancelled", _I, "Job {0} cancelled", ("u32",)),
    EventRow(38, "job_expired", _L, "Job {0} expired at its deadline", ("u32",)),
    EventRow(39, "job_settled", _I, "Job {0} of {1} used {2:.0f} J, {3:.1f} core-seconds, {4:.0f} octets of memory at "
             "most, wrote {5:.0f} octets; value {6:.2f}", ("u32", "text", "f64", "f64", "f64", "f64", "f64")),
    EventRow(40, "tick_overrun", _M, "Tick was {0:.3f} s late, {1} ticks left out", ("f32", "u32")),
    EventRow(41, "tick_failed", _H, "Tick failed and everything was shed: {0}", ("text",)),
    EventRow(42, "recording_ended", _L, "Inputs are not recorded any more: {0}", ("text",)),
    EventRow(43, "parameter_set", _I, "Parameter {0} = {1:g}", ("text", "f64")),
    EventRow(44, "command_loss", _H, "No telecommand for {0:.0f} s", ("f32",)),
    EventRow(45, "store_failed", _H, "Durable storage failed: {0}", ("text",)),
    EventRow(46, "promise_settled", _I,
             "Promise of job {0} settled: {1:.2f} Wh declared, {2:.2f} Wh reserved, {3:.2f} Wh used ({4:+.2f} Wh), "
             "drew {5:.2f} of what it declared", ("u32", "f32", "f32", "f32", "f32", "f32")),
    EventRow(47, "job_held", _I, "Job {0} held: region {1}, until T+{2:.0f} s", ("u32", "text", "f64")),
    EventRow(48, "job_resumed", _I, "Job {0} goes on, on node {1}", ("u32", "u8")),
    EventRow(49, "job_overdraws", _L, "Job {0} declared {1:.2f} of its mode's nominal draw and draws {2:.2f}",
             ("u32", "f32", "f32")),
    EventRow(50, "eclipse_entered", _I, "Eclipse entered"),
    EventRow(51, "eclipse_left", _I, "Eclipse left after {0:.0f} s", ("f32",)),
    EventRow(52, "ground_pass", _I, "Pass over {0}: {1:.0f} s, {2:.0f} degrees high", ("text", "f32", "f32")),
    EventRow(53, "energy_balance", _I, "Since start the bus drew {0:.0f} J: jobs {1:.0f} J, house {2:.0f} J; {3:.0f} s "
             "were not metered", ("f64", "f64", "f64", "f64")),
    EventRow(54, "job_saved", _I, "Job {0} saved itself and was ended: {1}", ("u32", "text")),
    EventRow(55, "job_not_saved", _M, "Job {0} was ended: {1}", ("u32", "text")),
    EventRow(60, "bundle_accepted", _I, "Bundle {0} is job {1}: {2}'s {3}", ("text", "u32", "text", "text")),
    EventRow(61, "bundle_refused", _M, "Bundle {0} refused: {1}", ("text", "text")),
    EventRow(62, "bundle_repeated", _L, "Bundle {0} is job {1}, known already", ("text", "u32")),
    EventRow(63, "intake_failed", _M, "Intake of bundles: {0}", ("text",)),
    EventRow(70, "sandbox_held", _I, "Sandbox: all of {0} attacks held, in {1:.1f} s", ("u8", "f32")),
    EventRow(71, "sandbox_broken", _H, "Untrusted jobs are refused, the sandbox does not hold: {0}", ("text",)),
    EventRow(80, "audit_head", _I, "Audit log: record {0} has hash {1}", ("u32", "text")),
    EventRow(83, "audit_exported", _I, "Audit log copied to {0}: {1} records", ("text", "u32")),
    EventRow(84, "audit_not_exported", _M, "Audit log not copied: {0}", ("text",)),
    EventRow(81, "policy_violated", _H, "Job {0} was stopped: {1}", ("u32", "text")),
    EventRow(82, "data_erased", _M, "Data of {0} erased: {1} keys destroyed", ("text", "u32")),
    EventRow(90, "file_received", _I, "File {0} received, {1:.0f} octets", ("text", "f64")),
    EventRow(91, "file_delivered", _I, "File {0} is on the ground, {1:.0f} octets", ("text", "f64")),
    EventRow(92, "file_failed", _L, "Transfer {1} of file {0} ended: {2}", ("text", "text", "text")),
    EventRow(93, "file_refused", _L, "File {0}: {1}", ("text", "text")),
    EventRow(94, "file_listed", _I, "File {0}: {1:.0f} octets", ("text", "f64")),
    EventRow(95, "files_listed", _I, "{0} files on board, {1} transfers open, {2:.0f} octets free",
             ("u32", "u32", "f64")),
    EventRow(96, "file_deleted", _I, "File {0} deleted", ("text",)),
    EventRow(97, "files_failed", _H, "Files are not transferred any more: {0}", ("text",)),
    EventRow(98, "result_delivered", _I, "Result of job {0} is on the ground, {1:.0f} octets", ("u32", "f64")),
    EventRow(120, "link_clear", _H, "The link is in clear: anyone at the line can command this satellite"),
    EventRow(121, "uplink_counter", _I, "SPI {0} takes counters above {1:.0f}", ("u16", "f64")),
    EventRow(122, "key_trial", _L, "Key of SPI {0} is on trial for {1:.0f} s", ("u16", "f32")),
    EventRow(123, "key_active", _L, "Key of SPI {0} is confirmed; the one before it is retired", ("u16",)),
    EventRow(124, "key_rolled_back", _M, "Key of SPI {0} was not confirmed and is taken back", ("u16",)),
    EventRow(125, "key_refused", _L, "Change of key refused: {0}", ("text",)),
    EventRow(126, "armed", _I, "Command {0} is armed for {1:.0f} s", ("text", "f32")),
    EventRow(100, "stored_command_done", _I, "{0}: {1} done", ("text", "text")),
    EventRow(101, "stored_command_rejected", _M, "{0}: {1} rejected: {2}", ("text", "text", "text")),
    EventRow(102, "command_missed", _M, "Time-tagged command {0}, {1}, was not run: its time was {2:.0f} s ago, {3}",
             ("u32", "text", "f64", "text")),
    EventRow(103, "action_spent", _L, "Event-action {0} has run for the last time", ("u16",)),
    EventRow(104, "sequence_loaded", _I, "Sequence {0} loaded, {1} commands", ("text", "u16")),
    EventRow(105, "sequence_ended", _I, "Sequence {0} ended after {1} commands", ("text", "u16")),
    EventRow(106, "sequence_failed", _M, "Sequence {0} did not go on after {1} commands: {2}",
             ("text", "u16", "text")),
    EventRow(107, "monitor_info", _I, "Monitor {0}: {1} = {2:g} outside {3:g}..{4:g}",
             ("u16", "text", "f64", "f64", "f64")),
    EventRow(108, "monitor_low", _L, "Monitor {0}: {1} = {2:g} outside {3:g}..{4:g}",
             ("u16", "text", "f64", "f64", "f64")),
    EventRow(109, "monitor_medium", _M, "Monitor {0}: {1} = {2:g} outside {3:g}..{4:g}",
             ("u16", "text", "f64", "f64", "f64")),
    EventRow(110, "monitor_high", _H, "Monitor {0}: {1} = {2:g} outside {3:g}..{4:g}",
             ("u16", "text", "f64", "f64", "f64")),
    EventRow(111, "monitor_cleared", _I, "Monitor {0}: {1} = {2:g} is back inside {3:g}..{4:g}",
             ("u16", "text", "f64", "f64", "f64")),
    EventRow(112, "time_corrected", _L, "On-board time moved by {0:+.3f} s", ("f64",)),
    EventRow(114, "sun_missing", _M, "The Sun is gone where the forecast has it shine: not counted on any more"),
    EventRow(115, "sun_back", _I, "The Sun shines again as forecast"),
)

BY_NAME: dict[str, EventRow] = {row.name: row for row in EVENTS}
BY_NUMBER: dict[int, EventRow] = {row.number: row for row in EVENTS}
