"""Counts of one run that several processes keep, where a kill cannot reach them.

Each counter in somebody else's script (a wrapped environment, a Meter) has two files in the run folder's ``counting/``: its cumulative
numbers, mapped into memory, so that an increment is a store that survives SIGKILL; and its events, one JSON line each. The one
process that writes the run folder sums the numbers, takes the events over, and removes ``counting/`` at the end.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import secrets
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

COUNTING = "counting"
_NUMBERS, _EVENTS, _WRITER = ".numbers", ".events", "writer"
_SLOTS = ("frames", "steps", "reported_steps", "updates", "episodes", "eval_frames", "eval_steps", "untold_frames")
_SLOT = {name: slot for slot, name in enumerate(_SLOTS)}
_FRAMES, _STEPS = _SLOT["frames"], _SLOT["steps"]
_FORMAT = f"{len(_SLOTS)}q"
_NEVER = -1  # nobody counted this


@dataclass(frozen=True)
class Counted:
    """What all counters of a run have counted. None: nobody counts it, which is not 0."""

    frames: int | None
    steps: int | None
    updates: int | None
    episodes: int | None
    eval_frames: int | None
    eval_steps: int | None


class Tally:
    """The counter of one environment or one script. Written by one process; not safe across a fork."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the run in ``folder`` has ended, or its disk cannot be written."""
        path = folder / COUNTING / f"{os.getpid()}-{secrets.token_hex(4)}"
        with path.with_suffix(_NUMBERS).open("w+b") as file:
            file.write(struct.pack(_FORMAT, *[_NEVER] * len(_SLOTS)))
            file.flush()
            self.numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")  # by slot: a store survives this process
        self._events = path.with_suffix(_EVENTS).open("ab", buffering=0)

    def add(self, name: str, number: int) -> None:
        numbers, slot = self.numbers, _SLOT[name]
        before = numbers[slot]
        numbers[slot] = number if before == _NEVER else before + number

    def event(self, kind: str, **what: Any) -> None:
        """Hand something on to the writer of the run folder, with the moment it happened."""
        self._events.write((json.dumps({"kind": kind, "ns": time.monotonic_ns(), **what}) + "\n").encode())


class TrainingPlay:
    """Books what a wrapped environment plays: an ``envs.counting.Listener``."""

    def __init__(self, tally: Tally) -> None:
        self._tally, self._numbers = tally, tally.numbers
        self._counts = False

    def played(self, frames: int | None, steps: int) -> None:
        if frames is not None and self._counts:  # nearly always, and once a step of somebody else's training: no detours
            self._numbers[_FRAMES] += frames
            self._numbers[_STEPS] += steps
            return
        add = self._tally.add
        if frames is None:
            add("untold_frames", 1)
        else:
            add("frames", frames)
            self._counts = True
        add("steps", steps)
        add("episodes", 0)  # from the first step on "none" is known

    def episode(self, score: float, steps: int, frames: int | None) -> None:
        self._tally.add("episodes", 1)
        self._tally.event("episode", score=score, steps=steps, frames=frames)


class EvaluationPlay:
    """Books the play of an environment that only evaluates, apart from training."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def played(self, frames: int | None, steps: int) -> None:
        if frames is not None:
            self._tally.add("eval_frames", frames)
        self._tally.add("eval_steps", steps)

    def episode(self, score: float, steps: int, frames: int | None) -> None:
        pass


def open_counting(folder: Path) -> BinaryIO:
    """Make room for counters. The run is under way until the file is closed or this process ends, however it ends."""
    (folder / COUNTING).mkdir()
    writer = (folder / COUNTING / _WRITER).open("wb", buffering=0)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
    writer.write(str(time.monotonic_ns()).encode())
    return writer


def claim(folder: Path) -> BinaryIO | None:
    """The right to end a folder whose writer is dead, for as long as the file is open; None: it lives, or nobody can know."""
    writer = (folder / COUNTING / _WRITER).open("ab")
    try:
        fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        writer.close()
        return None
    return writer


def is_counting(folder: Path) -> bool:
    """Whether the process that writes this folder lives."""
    try:
        with (folder / COUNTING / _WRITER).open("rb") as writer:
            fcntl.flock(writer, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # taken, or a file system without locks, where nobody can know
        return True
    return False


def started_ns(folder: Path) -> int | None:
    """The clock of events when the run began."""
    text = (folder / COUNTING / _WRITER).read_text(encoding="ascii")
    return int(text) if text.isdecimal() else None


def close_counting(folder: Path) -> None:
    """Remove the counters; whoever still counts does so into files that nobody reads."""
    for path in (folder / COUNTING).iterdir():
        path.unlink()
    (folder / COUNTING).rmdir()


def counted(folder: Path) -> Counted:
    """The sum over all counters. Steps that a script reported stand above those that its wrappers saw."""
    rows = [dict(zip(_SLOTS, _numbers(path), strict=True)) for path in sorted((folder / COUNTING).glob(f"*{_NUMBERS}"))]

    def total(name: str) -> int | None:
        known = [row[name] for row in rows if row[name] != _NEVER]
        return sum(known) if known else None

    reported = total("reported_steps")
    return Counted(
        frames=None if total("untold_frames") else total("frames"),
        steps=total("steps") if reported is None else reported,
        updates=total("updates"),
        episodes=total("episodes"),
        eval_frames=total("eval_frames"),
        eval_steps=total("eval_steps"),
    )


def _numbers(path: Path) -> Sequence[int]:
    content = path.read_bytes()
    return struct.unpack(_FORMAT, content) if len(content) == struct.calcsize(_FORMAT) else [_NEVER] * len(_SLOTS)


class Events:
    """The events of all counters, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / COUNTING
        self._read: dict[Path, int] = {}

    def new(self) -> Iterator[dict[str, Any]]:
        """What came since the last look, in order of time; a line that is still being written waits for the next one."""
        found = []
        for path in self._folder.glob(f"*{_EVENTS}"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                whole = file.read().rpartition(b"\n")[0]
            if whole:
                self._read[path] = self._read.get(path, 0) + len(whole) + 1
                found += [json.loads(line) for line in whole.split(b"\n")]
        yield from sorted(found, key=lambda event: event["ns"])
