"""Signals that come when no training takes them: before it does, while torch is imported, and after it is over."""

from __future__ import annotations

import signal
from types import FrameType

from cli import PREEMPTED

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def end_as_documented() -> None:
    """Exit codes 130 and 75 from now on. For a process that is ours: these handlers stay."""
    for number in NUMBERS:
        signal.signal(number, _end)


def ignore_signals() -> None:
    """The process is ending as it was asked to, and what asked may ask again. In a process that is not ours nothing changes."""
    if signal.getsignal(signal.SIGTERM) is _end:
        for number in NUMBERS:
            signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(PREEMPTED)
