"""Independent pieces of work on all cores, where there is so much of it that starting processes pays."""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Done = TypeVar("Done")

MANY_RUNS = 200


def spread(function: Callable[[Job], Done], jobs: Sequence[Job], runs: int, together: int = 1) -> Iterator[Done]:
    """``function`` of each job, in order; ``runs``: how many run folders all this is about; ``together``: jobs a process takes at once.

    The processes are forked and must leave polars alone: its threads are not forked with them.
    """
    if runs < MANY_RUNS or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(mp_context=context, initializer=_begin) as pool:
        yield from pool.map(function, jobs, chunksize=together)


def _begin() -> None:
    """Of a process: it is short and makes no cycles, and Ctrl-C is for the one that started it."""
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
