"""Checkpoints off the training thread: it copies what is new, and another compresses, checks, writes and renames.

Tensors are touched by the training thread alone; the other sees bytes that nobody changes any more. The rows of the replay are copied a
segment at a time, as segments fill, so that a checkpoint has little left to copy, and there are never more than a few such copies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from threading import Semaphore

from runs.checkpoint import Ring, Rows, State, Store, copied

MOST_COPIES = 2
"""Segments in memory at once: one that is being compressed, and the next."""


class Writer:
    """Writes the checkpoints of a store in a thread of its own, one after the other. The store is the thread's until ``settle``."""

    def __init__(self, store: Store, rows: int = 0) -> None:
        """``rows``: of the replay, where it was continued."""
        self._store = store
        self._thread = ThreadPoolExecutor(1, "playmeter-checkpoint")
        self._copies = Semaphore(MOST_COPIES)
        self._jobs: list[Future[None]] = []
        self._failed: BaseException | None = None
        self._rows = rows  # of the replay at the last checkpoint
        self._refused = False  # the disk did not take what was to be ahead of the next one
        self.saving: int | None = None
        """The step of the checkpoint that is being written, until ``settle``."""

    @property
    def idle(self) -> bool:
        return all(job.done() for job in self._jobs)

    def ahead(self, ring: Ring, fraction: float) -> None:
        """Have some of the segments written that are full. ``fraction``: of the interval between checkpoints, how much is over.

        Does nothing while the thread is busy. What the ring will have passed by the next checkpoint would be written in vain.
        """
        if not self.idle or self.saving is not None or self._refused or fraction <= 0:
            return
        self.settle()
        to_come = (ring.end - self._rows) * max(0.0, 1 - fraction) / fraction
        kept_from = ring.end + to_come - ring.capacity
        full = [(first, end) for first, end in self._store.missing(ring) if kept_from < end < ring.end]
        for first, end in full[:MOST_COPIES]:
            self._hand_over(ring, first, end)

    def save(self, steps: int, state: State, then: Callable[[], None] = lambda: None) -> None:
        """Begin a checkpoint, and return when all that it holds is copied; the one before must be settled. ``then`` runs after it."""
        self._refused, self.saving = False, steps
        rows = None
        if (ring := state.ring) is not None:
            rows = Rows(ring.end, ring.capacity, ring.row_bytes)
            self._rows = ring.end
            for first, end in self._store.missing(rows):
                if self._failed is not None:
                    return
                self._hand_over(ring, first, end)
        arrays = {name: array.copy() for name, array in state.arrays.items()}
        still = replace(state, plain=copy.deepcopy(state.plain), arrays=arrays, ring=None)

        def finish() -> None:
            self._store.commit(steps, still, rows)
            then()

        self._do(finish)

    def settle(self) -> int | None:
        """Wait until everything is written. Returns the step of the checkpoint that was saved, None where none was.

        Raises:
            OSError: the disk refused it. What it refuses ahead of a checkpoint is tried again with it, and raises nothing.
        """
        wait(self._jobs)
        self._jobs.clear()
        (failed, self._failed), (saved, self.saving) = (self._failed, None), (self.saving, None)
        if failed is None:
            return saved
        if saved is None and isinstance(failed, OSError):
            self._refused = True
            return None
        raise failed

    def close(self) -> None:
        """Wait until everything is written, and end the thread."""
        self._thread.shutdown()

    def _hand_over(self, ring: Ring, first: int, end: int) -> None:
        self._copies.acquire()
        content = list(copied(ring, first, end))

        def write() -> None:
            self._store.add(first, end, content)

        self._do(write, self._copies.release)

    def _do(self, job: Callable[[], None], finally_: Callable[[], None] = lambda: None) -> None:
        def work() -> None:
            try:
                if self._failed is None:  # what builds on it cannot be written either
                    job()
            except BaseException as error:  # noqa: BLE001 - the training thread raises it
                self._failed = error
            finally:
                finally_()

        self._jobs.append(self._thread.submit(work))
