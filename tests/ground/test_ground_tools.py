"""plot, export, report, check, pass and job from the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tiny_satellite import add_report

from flightsw.dictionary.events import BY_NAME
from flightsw.dictionary.telemetry import BY_SID
from ground.__main__ import main
from ground.archive import Archive

MISSION = str(Path(__file__).resolve().parents[2] / "missions" / "iss_like.toml")
START_S = 1_774_008_000.0


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """Two passes an hour apart; one value of the first is missing."""
    path = tmp_path / "a.sqlite"
    with Archive(path) as made:
        for i in [*range(100), *range(3600, 3700)]:
            values = [15, *[math.nan if i == 50 else 0.5 + i / 10_000] * (len(BY_SID[1].points) - 1)]
            add_report(made, START_S + i, 1, values)
        made.add_packet(START_S + 4650.0, START_S + 3650.0, 100, 5, 2, 0, b"")
        made.add_event(START_S + 3650.0, BY_NAME["job_refused"], (7, "ENERGY", "x", 1.0, "none"),
                       "Job <7> refused: ENERGY")
        made.add_note(START_S + 4660.0, "morning.py", "sent ping: completed")
    return str(path)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_export_has_every_sample_and_no_made_up_number(archive: str, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "sun_frac", "--archive", archive]) == 0
    rows = lines(capsys)
    assert rows[0] == "obt_s,point,value"
    assert len(rows) == 201
    assert rows[51] == f"{START_S + 50},sun_frac,"
    assert main(["export", "events", "--archive", archive, "--format", "jsonl"]) == 0
    assert json.loads(lines(capsys)[0])["text"] == "Job <7> refused: ENERGY"
    assert main(["export", "--archive", archive, "--since", "0", "--until", "1"]) == 1
    assert main(["export", "volts", "--archive", archive]) == 2
    assert main(["export", "commands", "--archive", archive, "--out", str(tmp_path / "none" / "x.csv")]) == 4


def test_parquet_holds_what_the_archive_holds(archive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs the extra 'parquet'")
    out = tmp_path / "x.parquet"
    assert main(["export", "sun_frac", "battery_soc_frac", "--archive", archive, "--out", str(out)]) == 0
    table = parquet.read_table(out).to_pydict()
    assert list(table) == ["obt_s", "point", "value"]
    with Archive(Path(archive), read_only=True) as reader:
        for point in ("sun_frac", "battery_soc_frac"):
            rows = [(t, v) for t, p, v in zip(*table.values(), strict=True) if p == point]
            assert rows == reader.samples(point)
            assert rows[50] == (START_S + 50, None)
    assert main(["export", "events", "--archive", archive, "--out", str(out)]) == 0
    assert parquet.read_table(out).to_pydict()["text"] == ["Job <7> refused: ENERGY"]
    assert main(["export", "commands", "--archive", archive, "--out", str(out)]) == 1  # there are none
    assert parquet.read_table(out).num_rows == 0
    assert main(["export", "--archive", archive, "--format", "parquet"]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["export", "events", "--archive", archive, "--out", str(tmp_path / "none" / "x.parquet")]) == 4


def test_plot_on_terminal_and_as_svg(archive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "sun_frac", "--archive", archive]) == 0
    assert any(0x2801 <= ord(char) <= 0x28FF for line in lines(capsys) for char in line)
    out = tmp_path / "p.svg"
    assert main(["plot", "sun_frac", "battery_soc_frac", "--archive", archive, "--out", str(out)]) == 0
    assert out.read_text().count("<polyline") >= 4  # a line breaks at what is missing and where nothing was received
    assert main(["plot", "sun_frac", "--archive", archive, "--json"]) == 0
    assert json.loads(lines(capsys)[-1])["value"][50] is None
    assert main(["plot", "plate_c", "--archive", archive]) == 1


def test_report_of_a_pass_and_of_a_day(archive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.html"
    assert main(["report", "latest", "--archive", archive, "--out", str(out), "--mission", MISSION]) == 0
    page = out.read_text()
    assert "Pass of 2026-03-20T13:16:40Z" in page
    assert "<b>101</b>packets" in page
    assert "Job &lt;7&gt; refused" in page
    assert "sent ping: completed" in page
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")  # needs nothing else
    assert main(["report", "2026-03-20", "--archive", archive, "--out", str(out)]) == 0
    assert "<b>201</b>packets" in out.read_text()
    assert main(["report", "2026-03-21", "--archive", archive, "--out", str(out)]) == 1
    assert main(["report", "2026-03-20T20:00:00", "--archive", archive, "--out", str(out)]) == 2
    assert "passes: 2026-03-20T12:16:40Z, 2026-03-20T13:16:40Z" in capsys.readouterr().err


def test_check_says_what_is_not_sound(archive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text('def run(op):\n    op.send("ping")\n')
    bad.write_text('def run(op):\n    op.send("dance")\n')
    assert main(["check", archive, MISSION, str(good)]) == 0
    assert sum(line.endswith(": sound") for line in lines(capsys)) == 3
    assert main(["check", str(good), str(bad), "--json"]) == 1
    assert [json.loads(line)["sound"] for line in lines(capsys)] == [True, False]
    with Path(archive).open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 4096)
    assert main(["check", archive]) == 1


def test_pass_lists_what_is_sent_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('[[step]]\nsend = "hk.report 8"\npriority = 2\n[[step]]\nsend = "ping"\npriority = 1\n')
    at = ["pass", "--mission", MISSION, "--from", "2026-03-20T12:00:00Z", "--hours", "6"]
    assert main([*at, "--plan", str(plan), "--json"]) == 0
    first, *others = map(json.loads, lines(capsys))
    assert (first["station"], len(others)) == ("Santiago", 4)
    assert [step["step"] for step in first["steps"]] == ["ping", "hk.report 8"]
    assert main([*at[:-1], "1"]) == 1


def test_job_board_and_a_job_without_an_owner_of_the_port(archive: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["job", "list", "--archive", archive, "--json"]) == 0
    (job,) = map(json.loads, lines(capsys))
    assert (job["job_id"], job["state"]) == (7, "refused")
    at = ["job", "submit", "x", "--archive", archive, "--deadline", "60"]
    assert main([*at, "--work", "10"]) == 4
    assert "nobody owns the port" in capsys.readouterr().err
    assert main([*at, "--work", "nan"]) == 2


def test_run_dry_prints_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "p.py"
    script.write_text('def run(op):\n    op.send("mode", "SAFE")\n    op.expect("mode == SAFE", within=5)\n')
    assert main(["run", str(script), "--dry-run"]) == 0
    assert lines(capsys) == ["dry run of p.py begins", "would send mode SAFE", "would expect mode == SAFE within 5 s",
                             "p.py done"]
