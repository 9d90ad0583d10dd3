"""A sequence goes up as a file, is loaded by its hash and run; housekeeping comes down compressed meanwhile."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
from test_job_by_upload import Mission as Both

from flightsw import mission
from flightsw.state import Mode
from ground.station import CommandState

SEQUENCE = "sequence 3\n0 mode STANDBY\n5 hk.report 4\n2 mode COMPUTE\n"


def test_a_sequence_is_uploaded_loaded_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = mission.load

    def compressed(path: Path) -> mission.Mission:
        loaded = plain(path)
        return dataclasses.replace(loaded, link=dataclasses.replace(loaded.link, compress_housekeeping=True))

    monkeypatch.setattr(mission, "load", compressed)
    both = Both(tmp_path)
    both.until(lambda: both.station.heard_s is not None)
    (tmp_path / "evening").write_text(SEQUENCE)
    both.desk.upload(tmp_path / "evening", "evening")
    both.until(lambda: bool(both.said("file_received")))
    sha256 = hashlib.sha256(SEQUENCE.encode()).hexdigest()
    loaded = both.station.send("sequence.load", ["evening", sha256], both.now_s)
    both.until(lambda: both.station.command(loaded.request_id).state is CommandState.COMPLETED)
    started = both.station.send("sequence.start", ["evening"], both.now_s)
    both.until(lambda: both.station.command(started.request_id).state is CommandState.COMPLETED)
    assert both.supervisor.mode is Mode.COMPUTE
    (entry,) = [entry for entry in both.archive.commands() if entry.verb == "sequence.start"]
    assert [stage.stage for stage in entry.stages] == [1, 3, 5, 5, 5, 7]
    both.until(lambda: both.now_s > 120.0)
    both.archive.flush()
    packets = {(packet.service, packet.subservice) for packet in both.archive.packets()}
    assert (3, 25) in packets  # as they were before they were compressed
    assert (3, 130) not in packets
    assert both.station.undecoded_packets == 0
    sample = both.station.latest("battery_v")
    assert sample is not None
    assert sample.value is not None
    both.close()
