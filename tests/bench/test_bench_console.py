"""The short form of `make console-load`: what is sent at 2,000 packets a second is archived and shown, every one."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

pytest.importorskip("textual", reason="the console needs the extra 'console'")


@pytest.mark.benchmark(group="console, 2,000 packets/s for 5 s")
def test_bench_console_load(benchmark: BenchmarkFixture) -> None:
    from console_load import run

    # pytest-benchmark does not type this method.
    found = benchmark.pedantic(lambda: run(5), rounds=1)  # type: ignore[no-untyped-call]
    benchmark.extra_info.update(found)
    assert found["sent"] == found["archived"] == found["shown"] == 10_000
    assert found["lost_frames"] == found["bad"] == 0
