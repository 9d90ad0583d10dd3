"""A job goes up as a file, is promised, and its result comes down by itself: flight, line and ground together."""

from __future__ import annotations

import dataclasses
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flightsw import compose, mission
from flightsw.files import Result
from flightsw.guardian import InProcessGuardian
from flightsw.jobs.base import Placement
from flightsw.jobs.bundle import job_number, pack, sign
from flightsw.jobs.customers import Customer
from flightsw.jobs.intake import Intake
from flightsw.jobs.manifest import DataPolicy
from flightsw.jobs.onboard import Bundle
from flightsw.state import JobProgress, JobSpec, Mode
from ground.archive import Archive
from ground.files import FileDesk, folder_of
from ground.station import Station
from hil.channel import VirtualLine

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "flightsw"))

from test_supervisor import ScriptedBoard, ScriptedRunner  # noqa: E402 - the folder is known only now

MISSION_FILE = ROOT / "missions" / "dawn_dusk.toml"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


class Runner(ScriptedRunner):
    """Holds jobs that are no processes: their numbers are too large for one's."""

    def place(self, now_s: float, placements: Sequence[Placement]) -> tuple[int, ...]:
        return tuple(0 for _ in super().place(now_s, placements))


class Mission:
    """A supervisor on a scripted board, a line at 115,200 baud, a station with its file desk; a turn a second."""

    def __init__(self, folder: Path) -> None:
        loaded = mission.load(MISSION_FILE)
        flown = dataclasses.replace(loaded, link=dataclasses.replace(loaded.link, security="clear", baud=115_200))
        start_s = compose.start_unix_s(flown, "m.toml")
        self.runner = Runner()
        self.output = folder / "mask.bin"
        self.line = VirtualLine(115_200, 0.02, seed=1)
        bundles: dict[str, Bundle] = {}
        customer = Customer("Example customer", KEY.public_key().public_bytes_raw().hex(), open_jobs=4, disk_mb=64.0)
        inbox = folder / "flight" / "inbox"
        intake = Intake(inbox, folder / "flight" / "bundles", {customer.name: customer},
                        {mode.name: mode.draw_w for mode in flown.compute.modes if mode.rate > 0.0}, start_s, bundles)
        parts = compose.Parts(ScriptedBoard(), InProcessGuardian(compose.guardian_config(flown)), self.runner, intake,
                              self.line.a, always_transmit=True, bundle_inbox=inbox, result_of=self._result_of)
        self.supervisor = compose.build(flown, MISSION_FILE.read_text(), parts, folder / "flight", "m.toml")
        self.archive = Archive(folder / "ground.sqlite")
        self.station = Station(self.line.b, self.archive, scid=flown.link.spacecraft_id, apid=flown.link.apid,
                               epoch_s=start_s)
        self.desk = FileDesk(self.station, folder_of(self.archive.path), 115_200)
        self.now_s = 0.0

    def _result_of(self, spec: JobSpec) -> Result:
        return Result(spec.job_id, spec.value, (self.output,), DataPolicy())

    def until(self, done: Callable[[], bool], limit_s: float = 300.0) -> None:
        end_s = self.now_s + limit_s
        while not done():
            assert self.now_s < end_s, [event.text for event in self.archive.events()][-8:]
            self.now_s += 1.0
            self.line.advance(self.now_s)
            decision = self.supervisor.tick(self.now_s)
            assert decision is not None, [event.text for event in self.archive.events()][-8:]
            self.station.poll(self.now_s)
            self.desk.poll(self.now_s)

    def said(self, name: str) -> list[tuple[object, ...]]:
        return [event.args for event in self.archive.events() if event.name == name]

    def close(self) -> None:
        self.supervisor.close()
        self.desk.close()
        self.archive.close()


def test_a_job_is_uploaded_promised_and_its_result_comes_down(tmp_path: Path) -> None:
    both = Mission(tmp_path)
    both.until(lambda: both.station.heard_s is not None)
    for mode in (Mode.STANDBY, Mode.COMPUTE):
        both.station.send("mode", [int(mode)], both.now_s)
    bundle = tmp_path / "cloud_mask.job"
    bundle.write_bytes(sign(pack(ROOT / "examples" / "jobs" / "cloud_mask"), KEY))
    both.desk.upload(bundle, bundle.name)
    number = job_number("Example customer", "cloud_mask")
    both.until(lambda: any(args[0] == number for args in both.said("job_promised")))
    assert both.said("file_received") == [("cloud_mask.job", float(bundle.stat().st_size))]
    both.until(lambda: number in both.runner.running)
    both.output.write_bytes(bytes(200_000))
    both.runner.progress.append(JobProgress(number, 1e9, ended=True, succeeded=True, detail="SHA-256 00"))
    both.until(lambda: bool(both.said("result_delivered")))
    [view] = [view for view in both.desk.views(both.now_s) if view.direction == "down"]
    assert view.state == "delivered"
    with tarfile.open(view.path) as tar:
        member = tar.extractfile("mask.bin")
        assert member is not None
        assert member.read() == bytes(200_000)
    assert both.said("result_delivered") == [(number, float(Path(view.path).stat().st_size))]
    both.close()
