"""The real console, through the pilot and in a real terminal, against the real flight process over a pty."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ground.__main__ import main
from ground.archive import Archive
from ground.cli.options import add_link
from ground.console.model import Model
from ground.console.views import Status
from ground.session import SessionThread
from hil import outside
from hil.scenario import find, load

pytest.importorskip("textual", reason="the console needs the extra 'console'")
PATIENCE_S = 40.0


class Flying(NamedTuple):
    port: str
    keys: Path
    folder: Path


@pytest.fixture(scope="module")
def flying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flying]:
    """The flight program behind a port, at eight times real time."""
    folder = tmp_path_factory.mktemp("satellite")
    up, over = threading.Event(), threading.Event()
    found: list[Flying | BaseException] = []

    def fly() -> None:
        try:
            outside.fly(load(find("serial_iss"), duration="4 h"), folder, 8.0,
                        lambda port, keys: (found.append(Flying(port, keys, folder)), up.set()), over.is_set)
        except BaseException as error:  # told below
            found.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=fly)
    thread.start()
    up.wait()
    if not isinstance(found[0], Flying):
        raise found[0]
    yield found[0]
    over.set()
    thread.join()


def options(flying: Flying, archive: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_link(parser, defaults=True)
    return parser.parse_args(["--port", flying.port, "--archive", str(archive), "--keys", str(flying.keys)])


async def until(condition: Callable[[], bool], pilot: object, what: str) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s, what
        await pilot.pause(0.1)  # type: ignore[attr-defined]


def test_a_pass_worked_from_the_keyboard(flying: Flying, tmp_path: Path) -> None:
    from ground.console.app import Console, Lines

    archive = tmp_path / "pass.sqlite"
    with SessionThread(options(flying, archive)) as session, Archive(archive, read_only=True) as reader:
        model = Model(reader)
        model.start(time.time())
        app = Console(archive, model, time.time, lambda: Status(flying.port, *session.status))

        def shown() -> str:
            return "\n".join("".join(text for text, _ in line) for name in ("head", "body", "foot")
                             for line in app.screen_stack[0].query_one(f"#{name}", Lines)._lines)

        async def type_in(pilot, line: str) -> None:
            await pilot.press("colon")
            await pilot.pause()
            app.screen.query_one("#line").value = line
            await pilot.press("enter")
            await pilot.pause()

        async def run() -> None:
            async with app.run_test(size=(160, 50)) as pilot:
                await until(lambda: model.value("mode")[0] is not None, pilot, "no telemetry")
                assert " SAFE " in shown()
                await type_in(pilot, "job.submit 7 telemetry_pack 20 0.95 3 3600 STOP_CONTINUE")
                await until(lambda: any(c.state == "rejected" for c in model.commands), pilot, "no rejection")
                await pilot.press("6")
                await pilot.pause()
                assert "job.submit needs mode COMPUTE, STANDBY, mode is SAFE" in shown()
                for line in ("mode STANDBY", "mode COMPUTE", "job.submit 8 telemetry_pack 20 0.95 3 3600 STOP_CONTINUE",
                             "job.submit 9 cloud_mask 900000 0.95 3 60 STOP_CONTINUE"):
                    await type_in(pilot, line)
                    verb = line.split()[0]
                    await until(lambda verb=verb: model.commands[-1].verb == verb
                                and model.commands[-1].state == "completed", pilot, f"{line} did not complete")
                await until(lambda: {8, 9} <= model.jobs.keys() and model.jobs[9].state == "refused"
                            and model.jobs[8].state in {"promised", "running", "finished"}, pilot, str(model.jobs))
                await pilot.press("4")
                await pilot.pause()
                page = shown()
                assert "telemetry_pack" in page
                assert "refused" in page
                assert model.jobs[9].text.partition(": ")[2][:20] in page  # and why
                await type_in(pilot, "data.erase nobody")
                await until(lambda: "ARMED" in "".join(
                    t for line in app.screen.query_one("#choices", Lines)._lines for t, _ in line), pilot, "not armed")
                app.screen.query_one("#line").value = "FIRE"
                await pilot.press("enter")
                await until(lambda: model.commands[-1].verb == "data.erase" and model.commands[-1].state == "completed",
                            pilot, f"not erased: {model.commands[-1]}")
                assert [c.verb for c in model.commands][-2:] == ["arm", "data.erase"]
                note = tmp_path / "note.txt"
                note.write_text("for the satellite\n" * 200)
                await type_in(pilot, f"upload {note}")
                await until(lambda: "delivered" in shown() and "100%" in shown(), pilot, shown())
                await type_in(pilot, "download note.txt")
                received = archive.with_name(archive.name + ".files") / "received" / "note.txt"
                await until(lambda: shown().count("delivered") >= 2 and received.is_file(), pilot, shown())
                assert received.read_bytes() == note.read_bytes()
                await type_in(pilot, f"upload {flying.folder}/bundles/matrix_workload.job")
                await until(lambda: any("matrix_workload" in model.name_of(job) and job.state in {
                    "promised", "running", "finished"} for job in model.jobs.values()), pilot, "no signed job")
                await pilot.press("q")

        asyncio.run(run())
        assert session.status.trouble == ""
    with Archive(archive, read_only=True) as archived:
        assert archived.examine()
        assert model.last_id <= max(row.packet_id for row in archived.packets())
        see_again(archived, archive)


def see_again(reader: Archive, archive: Path) -> None:
    """Replay the pass on the same console, as fast as it goes."""
    from ground.console.app import Console, Lines

    start_s, end_s = next(iter(reader.packets_after(0, 1))).received_s, reader.last_reception_s()
    model, now = Model(reader), [0.0]
    model.start(start_s)
    app = Console(archive, model, lambda: min(end_s, start_s + now[0]), lambda: Status("pass", mode="replay"))

    async def run() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            assert not model.jobs
            while start_s + now[0] < end_s:
                now[0] += 5.0
                app.tick()
            await pilot.press("4")
            await pilot.pause()
            page = "\n".join("".join(text for text, _ in line) for line in app.query_one("#body", Lines)._lines)
            assert "1 refused" in page
            assert "1 rejected" in page
            assert "matrix_workload" in page
            await pilot.press("colon")
            await pilot.pause()
            assert type(app.screen).__name__ != "Palette"  # nothing is sent from the past

    asyncio.run(run())


def test_a_job_is_submitted_and_answered_from_the_command_line(
        flying: Flying, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = str(tmp_path / "pass.sqlite")
    submit = ["job", "submit", "telemetry_pack", "--archive", archive, "--json"]
    with SessionThread(options(flying, tmp_path / "pass.sqlite")):
        assert main(["send", "--archive", archive, "safe"]) == 0
        capsys.readouterr()
        assert main([*submit, "--id", "71", "--work", "20", "--deadline", "3600"]) == 1
        answer = json.loads(capsys.readouterr().out)
        assert (answer["job"], answer["state"]) == (71, "rejected")
        assert "mode is SAFE" in answer["text"]
        for mode in ("STANDBY", "COMPUTE"):
            assert main(["send", "--archive", archive, "mode", mode]) == 0
        capsys.readouterr()
        assert main([*submit, "--id", "72", "--work", "20", "--deadline", "3600"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["job"], answer["state"]) == (72, "promised")
        assert "promised by T+" in answer["text"]
        assert main([*submit, "--id", "73", "--work", "900000", "--deadline", "60"]) == 1
        answer = json.loads(capsys.readouterr().out)
        assert (answer["job"], answer["state"]) == (73, "refused")
        assert "DEADLINE_TOO_SOON" in answer["text"]
    assert main(["job", "list", "--archive", archive, "--json"]) == 0
    board = {job["job_id"]: job["state"] for job in map(json.loads, capsys.readouterr().out.splitlines())}
    assert board[71] == "rejected"
    assert board[72] in {"promised", "running", "finished"}
    assert board[73] == "refused"


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_the_program_in_a_real_terminal(flying: Flying, tmp_path: Path) -> None:
    tmux = ["tmux", "-L", f"ground-test-{tmp_path.name}", "-f", "/dev/null"]
    archive, given = tmp_path / "pass.sqlite", options(flying, tmp_path / "x")

    def capture() -> str:
        return subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout

    def wait_for(text: str) -> str:
        give_up_s = time.monotonic() + PATIENCE_S
        while text not in (page := capture()):
            assert time.monotonic() < give_up_s, f"{text!r} is not on:\n{page}"
            time.sleep(0.1)
        return page

    subprocess.run([*tmux, "new-session", "-d", "-x", "80", "-y", "24", sys.executable, "-m", "ground", "console",
                    "--port", given.port, "--keys", str(given.keys), "--archive", str(archive)], check=True)
    try:
        page = wait_for("─ charge")
        assert max(map(len, page.splitlines())) <= 80
        subprocess.run([*tmux, "send-keys", ":"], check=True)
        wait_for("Tab completes")
        subprocess.run([*tmux, "send-keys", "pi", "Tab", "Enter"], check=True)
        wait_for("ping completed")
        subprocess.run([*tmux, "send-keys", "?"], check=True)
        wait_for("this help; leave")
        subprocess.run([*tmux, "send-keys", "q"], check=True)
        wait_for("─ charge")
        subprocess.run([*tmux, "send-keys", "6"], check=True)
        wait_for("ping  sent → accepted")
        subprocess.run([*tmux, "send-keys", "q"], check=True)
        give_up_s = time.monotonic() + PATIENCE_S
        while subprocess.run([*tmux, "list-sessions"], capture_output=True, check=False).returncode == 0:
            assert time.monotonic() < give_up_s
            time.sleep(0.1)
    finally:
        subprocess.run([*tmux, "kill-server"], capture_output=True, check=False)
    with Archive(archive, read_only=True) as archived:
        assert [(c.verb, c.state) for c in archived.commands()] == [("ping", "completed")]
