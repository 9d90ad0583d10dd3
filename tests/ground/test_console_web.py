"""The console in a browser: a socket such as a browser opens shows the pages, and only to whoever has the key."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_satellite import PtySatellite

pytest.importorskip("textual_serve", reason="the console in a browser needs the extra 'web'")
PATIENCE_S = 40.0


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where an owner of a port serves its console; the key is in it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with PtySatellite(has_keys=False) as satellite:
        served = subprocess.Popen([sys.executable, "-m", "ground", "console", "--port", satellite.port, "--archive",
                                   str(tmp_path / "a.sqlite"), "--security", "clear", "--web", str(port)],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert served.stdout is not None
        yield served.stdout.readline().removeprefix("open ").strip()
        served.send_signal(signal.SIGINT)
        _, err = served.communicate(timeout=PATIENCE_S)
        assert served.returncode == 0, err


def test_a_browser_sees_the_console_and_types(address: str) -> None:
    import aiohttp

    root, _, key = address.partition("/?key=")

    async def look() -> None:
        async with aiohttp.ClientSession() as stranger:
            for path in ("", "?key=guess", "ws"):
                assert (await stranger.get(f"{root}/{path}")).status == 403
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            page = await (await browser.get(address)).text()
            assert "Ground station" in page
            assert "googleapis" not in page
            with pytest.raises(aiohttp.WSServerHandshakeError):  # a page of somebody else's, in the same browser
                await browser.ws_connect(f"{root}/ws", headers={"Origin": "http://example.com"})
            async with browser.ws_connect(f"{root}/ws?width=100&height=30", headers={"Origin": root}) as screen:
                await until(screen, "overview")
                await screen.send_str(json.dumps(["stdin", "2"]))
                await until(screen, "thermal (2)")
                await screen.send_str(json.dumps(["stdin", ":ping\r"]))
                await until(screen, "ping completed")

    async def until(screen: aiohttp.ClientWebSocketResponse, text: str) -> None:
        seen = ""
        async with asyncio.timeout(PATIENCE_S):
            while text not in seen:
                message = await screen.receive()
                assert message.type is aiohttp.WSMsgType.BINARY, (message, seen)
                seen += message.data.decode()

    assert key
    asyncio.run(look())
