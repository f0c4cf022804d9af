"""Signals that ask a training to end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAME_WISH_S = 1.0


class Stop:
    """Whether a signal asked for the end, and which."""

    signal: int | None = None
    since_s = 0.0

    def __call__(self) -> bool:
        return self.signal is not None


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Turn the first SIGINT, SIGTERM or SIGUSR1 into an answer to ``stopped()``; a SIGINT a second later or more interrupts as usual.

    What comes sooner is the same wish twice: a terminal and a wrapper that passes it on.
    """
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.signal is None:
            stop.signal, stop.since_s = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - stop.since_s > SAME_WISH_S:
            signal.default_int_handler(number, frame)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    except ValueError:  # not in the main thread: whoever started the thread has to stop it
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # a process that ends with its training has been told (cli/ending.py): what comes now is the same wish again
            signal.signal(number, getattr(handler, "after_a_stop", handler) if stop() else handler)
