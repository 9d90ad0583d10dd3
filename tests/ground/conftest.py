"""Every test of the ground finds keys of the tiny satellite where `ground` looks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from tiny_satellite import SCID

from flightsw.keyfile import DEFAULT_FILE, write_keys
from flightsw.link.keys import make_keys


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        keys = (hashlib.sha256(bytes((number,))).digest() for number in range(256))
        write_keys(DEFAULT_FILE, make_keys(SCID, ["Weilheim", "Inuvik"], keys))
        yield
