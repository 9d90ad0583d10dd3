"""A whole flight with keys: they roll, roll back, and hazardous commands are armed; it replays bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from flightsw.dictionary.commands import COMMANDS, digest_of, pack_arguments
from ground.archive import Archive
from hil import run
from hil.scenario import load

ROOT = Path(__file__).resolve().parents[2]
ERASE = COMMANDS["data.erase"]
DIGEST = digest_of(ERASE.service, ERASE.subservice, pack_arguments(ERASE, ("acme",)))
STEPS = (
    (20, "ping"), (30, "param.set key_trial_s 30"), (40, "key.roll 1"), (50, "ping"), (55, "key.confirm 1"),
    (60, "key.roll 0"), (80, "ping"), (100, "ping"), (110, "data.erase acme"), (120, f"arm {DIGEST}"),
    (130, "data.erase acme"), (140, "data.erase acme"),
)


@pytest.mark.parametrize("security", ["authenticated", "encrypted", "clear"])
def test_a_flight_with_keys(tmp_path: Path, security: str) -> None:
    mission = (ROOT / "missions" / "iss_like.toml").read_text("utf-8")
    (tmp_path / "m.toml").write_text(mission.replace("[link]\n", f'[link]\nsecurity = "{security}"\n'), "utf-8")
    head = (ROOT / "hil" / "scenarios" / "short_iss.toml").read_text("utf-8").split("[[ground]]")[0]
    head = head.replace("../../missions/iss_like.toml", str(tmp_path / "m.toml")).replace("../..", str(ROOT))
    head = head.replace('"../plant', f'"{ROOT}/hil/plant').replace("bit_error_rate = 1e-6", "bit_error_rate = 0.0")
    steps = "".join(f'[[ground]]\nat = "T+{at} s"\nsend = "{send}"\n' for at, send in STEPS)
    (tmp_path / "s.toml").write_text(head.rsplit("\n#", 1)[0] + "\n" + steps, "utf-8")
    (tmp_path / "out").mkdir()
    flown = run.fly(load(tmp_path / "s.toml", duration="200 s"), tmp_path / "out")
    with Archive(flown.folder / "ground.sqlite", read_only=True) as archive:
        commands = {(command.verb, round(command.sent_s - flown.start_unix_s)): command.state
                    for command in archive.commands()}
        names = [event.name for event in archive.events()]
    refused = [step for step, state in commands.items() if state == "rejected"]
    assert refused == [("data.erase", 110), ("data.erase", 140)]  # not armed; armed for one shot only
    assert set(commands.values()) == {"completed", "rejected"}
    keys = [name for name in names if name.startswith(("key_", "link_", "armed"))]
    assert keys == (["link_clear", *["key_refused"] * 3, "armed"] if security == "clear" else
                    ["key_trial", "key_active", "key_trial", "key_rolled_back", "armed"])
    assert flown.metrics["telemetry_frames_lost"] == 0
    assert run.replay(run.find_recording(flown.folder)) == (200, None)
