"""One scenario, one command log: the benches differ in where the octets go and in nothing else."""

from pathlib import Path

import pytest

from flightsw.errors import BoardError
from hil import benches, run
from hil.__main__ import main
from hil.channel import PtyLine
from hil.scenario import find, load

DURATION = "1500 s"
DURATION_S = 1500


def fly(bench: str, folder: Path, duration: str = DURATION) -> run.Flight:
    folder.mkdir()
    scenario = load(find("short_iss"), duration=duration)
    with benches.BENCHES[bench](scenario, folder) as connect:
        return run.fly(scenario, folder, connect=connect)


@pytest.fixture(scope="module")
def sil(tmp_path_factory):
    return fly("sil", tmp_path_factory.mktemp("benches") / "sil")


@pytest.mark.parametrize("bench", ["sil-framed", "serial"])
def test_every_bench_gives_the_same_command_log(sil, bench, tmp_path):
    flown = fly(bench, tmp_path / bench)
    for name in ("run.json", f"flight/{run.RECORDING}"):
        assert (flown.folder / name).read_bytes() == (sil.folder / name).read_bytes(), name
    assert flown.logbook.forecasts == sil.logbook.forecasts
    assert flown.events == sil.events
    assert len((flown.folder / benches.COMMANDS).read_bytes()) == 4 * DURATION_S
    assert flown.metrics["jobs_offered"] > 0


def test_a_noisy_rig_line_is_repeated_and_changes_nothing(sil, tmp_path):
    """One octet in some thousands is hit; ticks are sent again, the satellite decides the same."""
    scenario = load(find("short_iss"), duration="120 s")
    folder = tmp_path / "noisy"
    folder.mkdir()
    with PtyLine(4_000_000, bit_error_rate=2e-5, seed=3, fifo_octets=1 << 20) as line, \
            benches.over_port(scenario, folder, line.port_a, line.port_b, 4_000_000) as connect:
        flown = run.fly(scenario, folder, connect=connect)
    log = (flown.folder / benches.COMMANDS).read_bytes()
    quiet = fly("sil-framed", tmp_path / "quiet", "120 s")
    assert log == (quiet.folder / benches.COMMANDS).read_bytes()
    assert line.line.a_to_b.flipped_bits + line.line.b_to_a.flipped_bits > 0
    assert '"repeats": 0' not in (folder / "line.json").read_text()


def test_a_flight_program_that_dies_is_an_error_with_its_own_words(tmp_path, monkeypatch):
    monkeypatch.setattr(benches, "START_WITHIN_S", 3.0)
    scenario = load(find("short_iss"), duration="120 s")
    (tmp_path / "flight").write_text("in the way")
    with pytest.raises(BoardError, match=r"no board answered .* cannot be made"), \
            benches.serial(scenario, tmp_path) as connect:
        connect(None)


def test_the_command_flies_on_the_bench_that_is_asked_for(tmp_path, capsys):
    assert main(["run", "short_iss", "--duration", "120 s", "--bench", "sil-framed", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "latest" / benches.COMMANDS).exists()
    with pytest.raises(SystemExit):
        main(["run", "short_iss", "--bench", "orbit"])
    assert "invalid choice" in capsys.readouterr().err
