"""The dictionary as files: the page is up to date, the XTCE is valid, and others read with it what we read."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from spacepackets.ecss.pus_1_verification import ManagedParamsVerification, Service1Tm
from spacepackets.ecss.pus_verificator import PusVerificator, StatusField
from spacepackets.ecss.tc import PusTc
from spacepackets.ecss.tm import ManagedParams, PusTm

from flightsw.dictionary.commands import COMMANDS, Value, pack_arguments
from flightsw.dictionary.events import EVENTS
from flightsw.dictionary.reports import REPORTS, unpack_report
from flightsw.dictionary.telemetry import HOUSEKEEPING, POINTS, unpack_event, unpack_housekeeping
from flightsw.link.packets import Telecommand, Telemetry, pack_tc, pack_tm
from flightsw.link.services import unpack_verification
from ground.__main__ import main
from ground.archive import Archive
from ground.reference import markdown
from ground.xtce import xtce

sys.path.append(str(Path(__file__).parents[1] / "flightsw"))  # the satellite in flight is that of its own tests
from test_orders import GOOD, put
from test_supervisor import START_S, Flight

ROOT = Path(__file__).resolve().parents[2]
APID = 100
peer = pytest.importorskip("space_packet_parser", reason="space_packet_parser is not installed: see the dev extra")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("xtce") / "satellite.xml"
    assert main(["dictionary", "--xtce", str(path), "--apid", str(APID)]) == 0
    return path


@pytest.fixture(scope="module")
def flown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flight]:
    """A pass on which the satellite says something of everything that it can say."""
    flight = Flight(tmp_path_factory.mktemp("flight"))
    flight.to_compute()
    flight.command("sequence.load", "a", put(flight, "a", "sequence 2\n0 hk.report 1\n3 hk.report 2\n"))
    flight.command("sequence.load", "b", put(flight, "b", "sequence 1\n9 job.cancel 1\n"))
    flight.command("schedule.insert", 1, START_S + 99.0, "mode SAFE")
    flight.command("monitor.add", 1, "battery_v", 1.0, 2.0, 1, 2)
    flight.command("action.add", 1, "shed", "", 3, "hk.report 2")
    flight.command("job.submit", 7, "mask", 30.0, 1.0, 5.0, 3600.0, 2)
    flight.command("ping")
    flight.command("param.report", "die_max_c")
    flight.fly(2)
    for verb in ("time.report", "schedule.report", "monitor.report", "action.report", "sequence.report"):
        flight.command(verb)
    flight.command("sequence.start", "a")
    flight.command("sequence.start", "b")
    for row in HOUSEKEEPING:
        flight.command("hk.report", row.sid)
    flight.board.values["plate_c"] = None
    flight.fly(120)
    yield flight
    flight.supervisor.close()


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs/dictionary.md").read_text("utf-8") == markdown(), "run `make docs`"


def test_the_xtce_is_valid(document: Path) -> None:
    result = peer.validate_xtce(document, allow_schema_download=False, print_results=False, raise_on_error=False)
    assert result.valid, [str(error) for error in result.errors][:5]


def expected(tm: Telemetry) -> dict[str, Value]:
    """Our reading of one packet, by the names that the XTCE has."""
    if tm.service == 3:
        structure, values = unpack_housekeeping(tm.data)
        return dict(zip([point.name for point in structure.points], values, strict=True))
    if tm.service == 5:
        event, args = unpack_event(tm.data)
        return {f"{event.name}_{i}": value for i, value in enumerate(args)}
    if tm.service == 1:
        report = unpack_verification(tm.subservice, tm.data)
        by_stage: dict[int, dict[str, Value]] = {2: {"failure_code": report.code, "failure_text": report.text},
                                                 8: {"failure_code": report.code, "failure_text": report.text},
                                                 5: {"step_number": report.code}}
        return {"REQUEST_ID": report.request_id, **by_stage.get(report.stage, {})}
    if (tm.service, tm.subservice) == (20, 2):
        return {"parameter_number": tm.data[0] << 8 | tm.data[1]}
    if tm.service == 17:
        return {}
    row, args = unpack_report(tm.service, tm.subservice, tm.data)
    return {f"{row.name}_{field.name}": value for field, value in zip(row.fields, args, strict=True)}


def test_another_decoder_reads_a_recorded_pass_as_we_do(document: Path, flown: Flight) -> None:
    definition = peer.load_xtce(document)
    seen: set[str] = set()
    values = 0
    for tm in flown.heard.packets:
        parsed = definition.parse_bytes(pack_tm(tm))
        assert parsed["OBT_COARSE"] + parsed["OBT_FINE"] == pytest.approx(tm.obt_s, abs=2e-5)
        ours = expected(tm)
        for name, value in ours.items():
            theirs = parsed[name]
            raw = theirs.raw_value if hasattr(theirs, "raw_value") else theirs
            raw = raw.hex() if isinstance(raw, bytes) and not isinstance(value, str) else raw
            if isinstance(value, float) and math.isnan(value):
                assert math.isnan(raw), name
            elif isinstance(value, str):
                assert value in {str(theirs), bytes(theirs).hex() if isinstance(theirs, bytes) else ""}, name
            else:
                assert raw == value, name
            values += 1
        seen |= set(ours)
    assert {point.name for point in POINTS} <= seen
    assert {f"{row.name}_{field.name}" for row in REPORTS for field in row.fields} <= seen
    assert values > 1000


def test_enumerations_limits_and_hazards_are_in_the_xtce() -> None:
    text = xtce(APID)
    assert 'label="COMPUTE"' in text
    assert '<CriticalRange minInclusive="0.0" maxInclusive="45.0" />' in text  # battery_c
    assert text.count("consequenceLevel=\"critical\"") == sum(row.hazardous for row in COMMANDS.values())
    for row in (*EVENTS, *COMMANDS.values()):
        name = row.name if hasattr(row, "severity") else row.verb.replace(".", "_")
        assert f'"event_{name}"' in text or f'"{name}"' in text, name


def test_another_implementation_follows_the_whole_verification_chain(flown: Flight) -> None:
    """A sequence that ends well and one that does not, as spacepackets' verificator sees them."""
    requests = sorted({report.request_id for report in flown.heard.verifications if report.stage == 3})
    row = COMMANDS["sequence.start"]
    verificator = PusVerificator()
    for request, name in zip(requests, "ab", strict=True):
        verificator.add_tc(PusTc.unpack(pack_tc(Telecommand(APID, request & 0x3FFF, 0b1001, row.service,
                                                            row.subservice, 0, pack_arguments(row, (name,))))))
    stages: dict[int, list[int]] = {request: [] for request in requests}
    for tm in flown.heard.packets:
        octets = pack_tm(tm)
        read = PusTm.unpack(octets, timestamp_len=6)
        assert (read.service, read.message_subtype, bytes(read.source_data)) == (tm.service, tm.subservice, tm.data)
        if tm.service == 1 and int.from_bytes(tm.data[:4], "big") in stages:
            report = Service1Tm.unpack(octets, ManagedParams(timestamp_len=6),
                                       ManagedParamsVerification(bytes_step_id=2, bytes_err_code=2))
            assert verificator.add_tm(report) is not None
            stages[int.from_bytes(tm.data[:4], "big")].append(tm.subservice)
    assert list(stages.values()) == [[1, 3, 5, 5, 7], [1, 3, 8]]
    well, ill = verificator.verif_dict.values()
    assert well.accepted == well.started == well.completed == StatusField.SUCCESS
    assert list(well.step_list) == [1, 2]
    assert ill.completed == StatusField.FAILURE


def test_reports_are_shown_from_the_archive(flown: Flight, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Archive(tmp_path / "pass.sqlite") as archive:
        for tm in flown.heard.packets:
            archive.add_packet(tm.obt_s + 1.5, tm.obt_s, tm.apid, tm.service, tm.subservice, tm.seq_count, pack_tm(tm))
        archive.add_packet(START_S, START_S, APID, 9, 2, 0, pack_tm(Telemetry(APID, 0, 9, 2, 0, 0, START_S, b"old")))
        archive.flush()
    assert main(["show", "reports", "--archive", str(tmp_path / "pass.sqlite")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (time_line,) = [line for line in lines if " time: " in line]
    assert time_line.endswith("ground's clock +1.500 s at reception")
    assert any("schedule_entry: number=1" in line and "command='mode SAFE'" in line for line in lines)
    assert any("sequence: name=a, state=STORED, count=2, done=0, sha256=" in line for line in lines)
    assert main(["show", "reports", "--json", "--archive", str(tmp_path / "pass.sqlite")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(lines)


def test_a_sequence_is_checked_before_it_is_sent_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evening").write_text(GOOD)
    assert main(["sequence", str(tmp_path / "evening")]) == 0
    out = capsys.readouterr().out
    assert "evening: 3 commands in 5.5 s, SHA-256 " in out
    (tmp_path / "evening").write_text(GOOD.replace("hk.report 4", "hk.report x"))
    assert main(["sequence", str(tmp_path / "evening")]) == 2
    assert "command 2: structure = 'x' is not a whole number" in capsys.readouterr().err
    assert main(["sequence", str(tmp_path / "nowhere")]) == 4
