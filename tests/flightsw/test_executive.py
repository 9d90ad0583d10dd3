"""Real time around the supervisor: deadlines, overruns, ports between ticks, a guardian that is kept."""

import os
import signal
import threading
import time

from flightsw.clock import MonotonicClock
from flightsw.executive import Executive, KeptGuardian, StopRequest
from flightsw.guardian import GuardianConfig, GuardianHealth, ProcessGuardian
from flightsw.link.serial_port import SerialPort
from flightsw.state import NodeCap
from hil.channel import PtyLine

RATE = 20.0


class Ticks:
    """Stands where the supervisor does: notes ticks, ends the loop, is slow when told to."""

    def __init__(self, stop, count, slow_tick=-1, slow_s=0.0):
        self.at_s, self.overruns = [], []
        self._stop, self._count, self._slow = stop, count, (slow_tick, slow_s)

    def tick(self, now_s):
        if len(self.at_s) == self._slow[0]:
            time.sleep(self._slow[1] / RATE)
        self.at_s.append(now_s)
        self._stop.asked = len(self.at_s) >= self._count

    def note_overrun(self, now_s, late_s, left_out):
        self.overruns.append((late_s, left_out))


def fly(ticks, stop, ports=()):
    clock = MonotonicClock(RATE, start_s=100.0)
    Executive(ticks, clock, stop, ports, lambda *_: None).run()


def test_ticks_keep_their_grid_and_a_slow_one_leaves_out_and_says_so():
    stop = StopRequest()
    with stop:
        ticks = Ticks(stop, 8, slow_tick=2, slow_s=3.4)
        fly(ticks, stop)
    first_s = ticks.at_s[0]
    assert first_s >= 100.0
    assert any(left_out >= 2 and late_s >= 2.0 for late_s, left_out in ticks.overruns)
    # Left-out ticks are not made up for: eight ticks took at least the ten seconds of their places on the grid.
    assert ticks.at_s[-1] - first_s >= 9.0


def test_octets_are_served_between_ticks_and_do_not_put_them_off():
    stop = StopRequest()
    with stop, PtyLine(921600) as line, SerialPort(line.port_a, 921600) as port, \
            SerialPort(line.port_b, 921600) as far_end:
        ticks = Ticks(stop, 6)
        served: list[tuple[int, bytes]] = []
        ending = threading.Event()

        def serve(_now_s):
            octets = port.read()
            if octets:
                served.append((len(ticks.at_s), octets))

        def chatter():
            while not ending.is_set():
                far_end.write(b"x" * 20)
                time.sleep(0.001)

        thread = threading.Thread(target=chatter)
        thread.start()
        try:
            fly(ticks, stop, [(port, serve)])
        finally:
            ending.set()
            thread.join()
    assert len(ticks.at_s) == 6
    assert len(served) > 6  # more often than once a tick


def test_a_signal_ends_the_loop_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    with stop:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        fly(Ticks(StopRequest(), 10**6), stop)
        timer.join()
        assert stop.asked
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_lost_guardian_is_seen_for_a_tick_and_started_again(tmp_path):
    process = ProcessGuardian(GuardianConfig((0.5,), (30.0,), 60.0), tmp_path / "g.sock", tmp_path, answer_wait_s=1.0)
    kept = KeptGuardian(process, [0.5], rate=10.0)
    try:
        caps = [NodeCap(25.0, 0.0, 0)]
        status = kept.renew(100.0, 20.0, caps)
        assert status.health is GuardianHealth.ALIVE
        assert status.lease_left_s <= 2.0  # twenty seconds of a clock ten times as fast
        assert (tmp_path / "node0_cap_mw").read_text() == "25000\n"
        first = process.pid
        os.kill(first, signal.SIGKILL)
        give_up_s = time.monotonic() + 10.0
        while kept.restarts == 0 and time.monotonic() < give_up_s:
            seen = kept.renew(200.0, 20.0, caps)
        assert seen.health is GuardianHealth.DEAD
        assert process.pid not in {None, first}
        assert kept.renew(210.0, 20.0, caps).health is GuardianHealth.ALIVE
        kept.close(stop=False)  # where it pets a watchdog it stays, at the floor
        assert (tmp_path / "node0_cap_mw").read_text() == "500\n"
        process.start()
        kept.renew(220.0, 20.0, caps)
    finally:
        kept.close(stop=True)
    assert (tmp_path / "node0_cap_mw").read_text() == "500\n"
    assert not (tmp_path / "g.sock").exists()
