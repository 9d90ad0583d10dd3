"""The serial port on pseudo-terminals: whole reads, bounded writes, locking, and a pulled adapter."""

from __future__ import annotations

import os
import select
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from flightsw.errors import BoardError
from flightsw.link.serial_port import ByteStream, SerialPort


class Adapter:
    """A pseudo-terminal that stands for a USB adapter under a fixed name; `master` is the far end."""

    def __init__(self, name: Path) -> None:
        self.name = name
        self.plug()

    def plug(self) -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(self.master, False)
        self.name.symlink_to(os.ttyname(slave))
        self._slave = slave

    def pull(self) -> None:
        self.name.unlink()
        os.close(self.master)
        os.close(self._slave)

    def received(self, octets: int) -> bytes:
        taken = b""
        while len(taken) < octets:
            assert select.select([self.master], [], [], 5.0)[0], f"{len(taken)} of {octets} octets came"
            taken += os.read(self.master, 65536)
        return taken


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Adapter]:
    adapter = Adapter(tmp_path / "ttyLINK")
    yield adapter
    if adapter.name.is_symlink():
        adapter.pull()


@pytest.fixture
def port(adapter: Adapter) -> Iterator[SerialPort]:
    with SerialPort(str(adapter.name), 115200) as port:
        yield port


def _read(port: ByteStream, descriptor: int, octets: int) -> bytes:
    taken = b""
    while len(taken) < octets:
        assert select.select([descriptor], [], [], 5.0)[0], f"{len(taken)} of {octets} octets came"
        taken += port.read()
    return taken


def test_octets_go_both_ways(adapter: Adapter, port: SerialPort) -> None:
    message = bytes(range(256)) * 4
    assert port.read() == b""
    assert port.write(message) == len(message)
    assert adapter.received(len(message)) == message
    os.write(adapter.master, message)
    assert _read(port, port.fileno(), len(message)) == message
    assert (port.overrun_octets, port.disconnects, port.fault) == (0, 0, None)


def test_a_reader_that_sleeps_costs_whole_writes_and_never_time(adapter: Adapter) -> None:
    with SerialPort(str(adapter.name), 115200, backlog_octets=2000) as port:
        frames = [bytes((number,)) * 223 for number in range(256)] * 2
        accepted = [frame for frame in frames if port.write(frame)]
        assert 0 < len(accepted) < len(frames)
        assert port.overrun_octets == 223 * (len(frames) - len(accepted))
        assert 0 < port.backlog_octets <= 2000
        expected = b"".join(accepted)
        received = b""
        while len(received) < len(expected):
            received += adapter.received(1)
            assert port.read() == b""  # serving the port sends the backlog
        assert received == expected
        assert port.backlog_octets == 0


def test_a_missing_port_names_port_rate_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "ttyNONE"
    with pytest.raises(BoardError, match=rf"serial port {path} at 115200 baud: no such port"):
        SerialPort(str(path), 115200)


def test_what_is_no_serial_port_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(BoardError, match=r"at 115200 baud: .*Inappropriate ioctl"):
        SerialPort(str(path), 115200)


def test_an_impossible_rate_is_refused(adapter: Adapter) -> None:
    with pytest.raises(BoardError, match=r"at -1 baud: .*-1"):
        SerialPort(str(adapter.name), -1)


@pytest.mark.usefixtures("port")
def test_a_port_in_use_is_refused(adapter: Adapter) -> None:
    with pytest.raises(BoardError, match=r"at 9600 baud: in use by another program"):
        SerialPort(str(adapter.name), 9600)


def test_a_pulled_adapter_is_a_value_and_comes_back(adapter: Adapter, port: SerialPort) -> None:
    adapter.pull()
    assert port.read() == b""
    assert port.fault is not None
    assert str(adapter.name) in port.fault
    assert port.disconnects == 1
    assert port.fileno() == -1
    assert port.write(b"lost") == 0
    assert port.overrun_octets == 4

    assert not port.reconnect(now_s=10.0)
    assert port.fault.endswith("no such port; is the adapter plugged in?")
    adapter.plug()
    assert not port.reconnect(now_s=10.9)  # not before the retry time
    assert port.reconnect(now_s=11.0)
    assert port.fault is None
    assert port.write(b"back") == 4
    assert adapter.received(4) == b"back"


def test_an_adapter_pulled_under_a_write_loses_the_backlog_with_a_count(adapter: Adapter) -> None:
    with SerialPort(str(adapter.name), 115200, backlog_octets=100_000) as port:
        assert port.write(bytes(90_000)) == 90_000
        waiting = port.backlog_octets
        assert waiting > 0
        adapter.pull()
        assert port.write(b"more") == 0
        assert port.overrun_octets == waiting + 4
        assert port.backlog_octets == 0
        assert port.disconnects == 1


def test_a_closed_port_stays_closed(adapter: Adapter) -> None:
    port = SerialPort(str(adapter.name), 115200)
    port.close()
    assert port.read() == b""
    assert port.write(b"x") == 0
    assert not port.reconnect(now_s=1e9)
    with SerialPort(str(adapter.name), 115200) as again:
        assert again.fault is None
