"""The console in a browser of this machine: `textual-serve` behind a key.

Whoever reaches the page can command the satellite, so it is served to whoever was given its address, with the key in
it, and to no page of anybody else's: a browser lets any page open a socket to this machine. Nothing is fetched from
elsewhere, so it works where there is no network.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web
from textual_serve.server import Server

_COOKIE = "ground-key"
_FOREIGN_FONT = re.compile(r'<link[^>]*"https://fonts\.googleapis\.com[^>]*>')
_GRACE_S = 0.5
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ConsoleServer(Server):
    """Serves a command's screen on `localhost`; `address` is where, with the key."""

    def __init__(self, command: str, port: int) -> None:
        super().__init__(command, port=port, title="Ground station")
        self._key = secrets.token_urlsafe(24)
        self.address = f"{self.public_url}/?key={self._key}"

    def initialize_logging(self) -> None:
        """Log nothing of requests: the key is in them."""
        logging.basicConfig(level=logging.WARNING)

    async def on_startup(self, app: web.Application) -> None:
        """Say where to look."""
        print(f"open {self.address}\nCtrl-C ends it", flush=True)

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._guard)
        app.on_cleanup.append(_let_end)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        given = request.query.get("key", "") or request.cookies.get(_COOKIE, "")
        foreign = request.headers.get("Origin", self.public_url) != self.public_url
        if foreign or not hmac.compare_digest(given.encode(), self._key.encode()):
            raise web.HTTPForbidden(text="open the address that ground console printed\n")
        response = await handler(request)
        if isinstance(response, web.Response) and response.content_type == "text/html" and response.text is not None:
            response.text = _FOREIGN_FONT.sub("", response.text)
            response.set_cookie(_COOKIE, self._key, httponly=True, samesite="Strict")
        return response


async def _let_end(_: web.Application) -> None:
    """Let the browsers' consoles end before the loop that reads them does."""
    await asyncio.sleep(_GRACE_S)
