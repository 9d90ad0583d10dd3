"""Where the runs of a campaign are carried out: processes of this machine, or a Dask cluster.

An engine takes a function and its argument, and gives back what came of each in the order in which they end. Whatever
happens to a worker is a value (`Lost`), never an exception: a run that takes its process with it is a result of the
campaign. Nothing here knows what a run is.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from flightsw.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
_LOOK_S: Final = 0.5
_DASK: Final = "dask://"


class Lost(NamedTuple):
    """Why there is no result: "crashed" or "timed out", and what is known of it."""

    outcome: str
    detail: str


class Engine(Protocol[T, R_co]):
    """Carries out work somewhere."""

    def submit(self, item: T) -> None:
        """Queue one piece of work."""

    def as_completed(self) -> Iterator[tuple[T, R_co | Lost]]:
        """Give back each piece with its result as it ends, until none is left."""

    def close(self) -> None:
        """Give up what has not been done."""


def connect(address: str | None, work: Callable[[T], R], workers: int, give_up_after_s: float) -> Engine[T, R]:
    """Return the engine at `address` (dask://HOST:PORT), or this machine's processes for None."""
    if address is None:
        return Processes(work, workers, give_up_after_s)
    if not address.startswith(_DASK):
        raise ConfigError("--engine", f"{address!r}: expected {_DASK}HOST:PORT")
    return Dask(work, address.removeprefix(_DASK), give_up_after_s)


class Processes(Generic[T, R]):
    """Processes of this machine. A process that dies or hangs takes only its own piece of work with it."""

    def __init__(self, work: Callable[[T], R], workers: int, give_up_after_s: float) -> None:
        self._work = work
        self._workers = workers
        self._give_up_after_s = give_up_after_s
        self._queue: list[T] = []
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, item: T) -> None:
        """See `Engine`."""
        self._queue.append(item)

    def as_completed(self) -> Iterator[tuple[T, R | Lost]]:
        """See `Engine`."""
        waiting = iter(self._queue)
        flying: dict[Future[R], tuple[T, float]] = {}
        while True:
            for item in itertools.islice(waiting, self._workers - len(flying)):
                flying[self._open().submit(self._work, item)] = item, time.monotonic()
            if not flying:
                return
            done, _ = wait(flying, _LOOK_S, FIRST_COMPLETED)
            suspects: list[T] = []
            for future in done:
                item, _ = flying.pop(future)
                try:
                    yield item, future.result()
                except BrokenProcessPool:
                    suspects.append(item)
                except Exception as error:  # whatever a run raises is its result
                    yield item, Lost("crashed", f"{type(error).__name__}: {error}")
            overdue = [future for future, (_, since_s) in flying.items()
                       if time.monotonic() - since_s > self._give_up_after_s]
            for future in overdue:
                item, _ = flying.pop(future)
                yield item, Lost("timed out", f"no result within {self._give_up_after_s:g} s")
            if suspects or overdue:
                # The pool is gone with whoever did it: the others in flight are tried again, each by itself.
                suspects += [item for item, _ in flying.values()]
                flying.clear()
                self._kill()
                for item in suspects:
                    yield item, self._alone(item)

    def _alone(self, item: T) -> R | Lost:
        """Do one piece of work in a pool of its own."""
        future = self._open().submit(self._work, item)
        try:
            return future.result(self._give_up_after_s)
        except BrokenProcessPool:
            self._kill()
            return Lost("crashed", "its process ended")
        except TimeoutError:
            self._kill()
            return Lost("timed out", f"no result within {self._give_up_after_s:g} s")
        except Exception as error:  # as above
            return Lost("crashed", f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """See `Engine`."""
        self._kill()

    def _open(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Forked from a server that has nothing open: a worker inherits no lock and no file of ours.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([self._work.__module__])
            self._pool = ProcessPoolExecutor(self._workers, context, _end_with, (os.getpid(),))
        return self._pool

    def _kill(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in (getattr(pool, "_processes", None) or {}).values():
                with contextlib.suppress(OSError, AttributeError):
                    process.kill()
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with(process: int) -> None:
    """Let this worker end when `process` is gone: killed, it cannot tell its workers, and they would wait for ever."""
    def watch() -> None:
        while Path(f"/proc/{process}").exists():
            time.sleep(_LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Dask(Generic[T, R]):
    """A Dask cluster, for when one machine is outgrown; its workers need this package installed."""

    def __init__(self, work: Callable[[T], R], address: str, give_up_after_s: float) -> None:
        try:
            self._distributed: Any = importlib.import_module("distributed")  # Any: an extra that few need
        except ImportError as error:
            raise ConfigError("--engine", "dask needs the package distributed: pip install '.[cluster]'") from error
        self._work = work
        self._give_up_after_s = give_up_after_s
        try:
            self._client = self._distributed.Client(address, timeout=10)
        except OSError as error:
            raise ConfigError("--engine", f"no Dask scheduler at {address}: {error}") from error
        self._items: dict[object, T] = {}
        self._futures: list[Any] = []

    def submit(self, item: T) -> None:
        """See `Engine`."""
        future = self._client.submit(self._work, item, pure=False, retries=0)
        self._items[future.key] = item
        self._futures.append(future)

    def as_completed(self) -> Iterator[tuple[T, R | Lost]]:
        """See `Engine`."""
        for future in self._distributed.as_completed(self._futures):
            item = self._items[future.key]
            if future.status == "finished":
                yield item, future.result()
            else:
                error = future.exception()
                yield item, Lost("crashed", f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """See `Engine`."""
        self._client.cancel(self._futures)
        self._client.close()
