"""How the process ends: signals that come when no training takes them (before it does, while torch is imported, and after it is over),
and a standard output that nobody takes."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

from cli import INTERRUPTED, PREEMPTED

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def end_as_documented() -> None:
    """Exit codes 130 and 75 from now on. For a process that is ours: these handlers stay, except that once a training was stopped by
    a signal (runs/train.py), more of them are ignored."""
    for number in NUMBERS:
        signal.signal(number, _end)


def ignore_signals() -> None:
    """The process is ending, and whoever asked for that may ask again. In a process that is not ours nothing changes."""
    if signal.getsignal(signal.SIGTERM) is _end:
        for number in NUMBERS:
            signal.signal(number, signal.SIG_IGN)


def let_go_of_stdout() -> None:
    """From now on what is printed, and what still waits to be, goes nowhere: it could not be written, and would fail again at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class _End:
    """A handler."""

    after_a_stop = signal.SIG_IGN

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """At once: nothing is under way that had to be ended cleanly, and whatever is imported just then could swallow an exception."""
        with suppress(RuntimeError, OSError, AttributeError):  # it was being written to, or is closed and None
            sys.stdout.flush()
        os._exit(INTERRUPTED if number == signal.SIGINT else PREEMPTED)


_end = _End()
