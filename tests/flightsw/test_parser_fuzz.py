"""The short form of `make fuzz` for the parsers in Python, and the proof that it can fail."""

from __future__ import annotations

import parser_fuzz
import pytest


def test_no_parser_raises_anything_but_its_own_error() -> None:
    counts = parser_fuzz.run(30_000)
    assert min(counts.values()) == 2000


def test_a_parser_that_trusts_a_length_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser_fuzz, "unpack_parameter", lambda octets: octets[10])
    with pytest.raises(AssertionError, match="parameters, seed 1"):
        parser_fuzz.run(3000)
