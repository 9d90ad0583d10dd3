"""2,000 packets a second through a port into archive and console, while an operator presses keys.

Called by `make console-load` for ten minutes. A process of its own is the satellite: it sends housekeeping at a steady
rate into a pseudo-terminal. Station, archive and the console's application run as `ground console` runs them, on a
screen of 160x50 in memory. The last line is the verdict; exits 1 when a packet is missing anywhere, or when any key
took 100 ms or more to its painted page.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
import tty
from pathlib import Path

import numpy as np
from textual.events import Key

from ground.archive import Archive
from ground.cli.console import settle
from ground.cli.options import add_link
from ground.console.app import Console
from ground.console.model import Model
from ground.console.views import Status
from ground.session import SessionThread

RATE = 2000
KEY_MS_MAX = 100.0
_BURSTS_A_S = 50
_SATELLITE = """
import os, select, sys, time
from flightsw.dictionary.telemetry import POINTS
from flightsw.link.services import Reporter
descriptor, seconds, rate, bursts = (int(word) for word in sys.argv[1:])
reporter = Reporter(42, 100, 1 << 24)
pool = [20.0 if point.kind in {"f32", "f64"} else 3 for point in POINTS]
pool[0] = 85
begun_s, sent, reserve = time.monotonic(), 0, b""
start_s = float(int(time.time()))
for burst in range(seconds * bursts):
    time.sleep(max(0.0, begun_s + burst / bursts - time.monotonic()))
    for _ in range(rate // bursts):
        for i in range(1, 5):
            pool[i] = 20.0 + sent % 97 * 0.1
        reporter.housekeeping(1 + sent % 3, pool, start_s + sent / rate)
        sent += 1
    reserve += reporter.take(1 << 24)
    while reserve:
        select.select([], [descriptor], [], 5.0)
        reserve = reserve[os.write(descriptor, reserve):]
print(sent, time.monotonic() - begun_s)
"""


class _Timed(Console):
    """The console, and a sign each time that the page of a key has been painted."""

    painted = asyncio.Event()

    def on_key(self, event: Key) -> None:
        super().on_key(event)
        self.call_after_refresh(self.painted.set)


def run(seconds: int, rate: int = RATE) -> dict[str, float]:
    """Send for `seconds`; return what was counted and how long keys took, in ms."""
    master, slave = os.openpty()
    tty.setraw(slave)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "load.sqlite"
        parser = argparse.ArgumentParser()
        add_link(parser, defaults=True)
        options = parser.parse_args(["--port", os.ttyname(slave), "--archive", str(archive), "--security", "clear"])
        keys_ms: list[float] = []
        with SessionThread(options) as session, Archive(archive, read_only=True) as reader:
            model = Model(reader)
            model.start(time.time())
            settle()
            app = _Timed(archive, model, time.time, lambda: Status("load", *session.status))
            satellite = subprocess.Popen(
                [sys.executable, "-c", _SATELLITE, str(master), str(seconds), str(rate), str(_BURSTS_A_S)],
                pass_fds=(master,), stdout=subprocess.PIPE, text=True)
            asyncio.run(_operate(app, satellite, keys_ms))
            sent, took_s = (float(word) for word in satellite.communicate()[0].split())
            give_up_s = time.monotonic() + 10.0
            while model.packets < sent and time.monotonic() < give_up_s:
                model.refresh(time.time())
                time.sleep(0.1)
            status, shown = session.status, model.packets
        with Archive(archive, read_only=True) as reader:
            kept = sum(1 for _ in reader.packets())
            size = archive.stat().st_size
    os.close(master)
    os.close(slave)
    p50, p95 = np.percentile(keys_ms, [50, 95]).tolist()
    return {"sent": sent, "archived": kept, "shown": shown, "packets_s": sent / took_s,
            "lost_frames": status.lost_frames, "bad": status.bad, "keys": len(keys_ms), "key_ms_p50": p50,
            "key_ms_p95": p95, "key_ms_max": max(keys_ms), "octets_packet": size / max(kept, 1)}


async def _operate(app: _Timed, satellite: subprocess.Popen[str], keys_ms: list[float]) -> None:
    """Press keys while the satellite sends; a press ends when the page has been painted."""
    async with app.run_test(size=(160, 50)) as pilot:
        await pilot.pause(0.5)
        number = 0
        while satellite.poll() is None:
            app.painted.clear()
            began_s = time.perf_counter()
            app.post_message(Key("123456"[number % 6], "123456"[number % 6]))
            await app.painted.wait()
            keys_ms.append(1e3 * (time.perf_counter() - began_s))
            number += 1
            await asyncio.sleep(0.15)


def main() -> int:
    """Run and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    found = run(parser.parse_args().seconds)
    for name, value in found.items():
        print(f"{name:<14} {value:,.1f}")
    lost = found["sent"] - min(found["archived"], found["shown"])
    whole = found["sent"] == found["archived"] == found["shown"] and not found["lost_frames"] and not found["bad"]
    good = whole and found["key_ms_max"] < KEY_MS_MAX
    print(f"{'PASS' if good else 'FAIL'}: {found['sent']:,.0f} packets at {found['packets_s']:,.0f}/s, "
          f"{found['archived']:,.0f} archived, {found['shown']:,.0f} shown, {lost:,.0f} lost; {found['keys']:.0f} keys "
          f"p50 {found['key_ms_p50']:.0f} ms, p95 {found['key_ms_p95']:.0f} ms, max {found['key_ms_max']:.0f} ms, "
          f"limit {KEY_MS_MAX:.0f} ms")
    return int(not good)


if __name__ == "__main__":
    raise SystemExit(main())
