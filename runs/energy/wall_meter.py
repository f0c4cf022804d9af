"""A wall meter between socket and computer, as its logger's CSV: the one source that misses nothing.

The file has a header with ``time`` (UTC as ISO 8601, or seconds since 1970) and one of ``watts``, ``joules`` or ``kwh``; the latter two
count up. It is looked at before the run (can it be read, is it being written) and read when the run is over.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from runs.energy.source import ABSENT_ENERGY, say_once
from runs.schema import ESTIMATED, MEASURED, Energy

METER_ERROR = 0.02  # plug-in meters state 1 to 2 %
STALE_S = 600.0  # a logger that wrote nothing for ten minutes is not running
GAP_S = 60.0  # between two readings of watts; power in between is not known
CLOCK_STEP_S = 1.0
JOULES = {"joules": 1.0, "kwh": 3.6e6}


@dataclass(frozen=True)
class Readings:
    """Ascending times, seconds since 1970, with power in watts or a count in joules."""

    times_s: list[float]
    values: list[float]
    counts: bool  # joules that count up, not watts
    bad_rows: list[int]


def read_csv(path: Path) -> Readings:
    """Raises ValueError, one line, where the file is no such CSV. Rows without numbers are left out and their lines named."""
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"--wall-meter {path} cannot be read: {reason}") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    column = next((name for name in ("joules", "kwh", "watts") if name in header), None)
    if "time" not in header or column is None:
        raise ValueError(
            f"--wall-meter {path} is no wall meter's CSV: its first line must name time and one of watts, joules, kwh"
        )
    where, found, bad = (header.index("time"), header.index(column)), {}, []
    for number, row in enumerate(rows[1:], 2):
        try:
            at_s, value = _time_s(row[where[0]]), float(row[where[1]])
            if not (math.isfinite(at_s) and math.isfinite(value) and value >= 0):
                raise ValueError
            found[at_s] = value * JOULES.get(column, 1.0)
        except (ValueError, IndexError, OverflowError):
            if row and number < len(rows):  # the last line may be half written
                bad.append(number)
    times_s = sorted(found)
    return Readings(times_s, [found[at_s] for at_s in times_s], column != "watts", bad)


def _time_s(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        at = datetime.fromisoformat(text.strip())
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def check_wall_meter(path: Path, utc_s: Callable[[], float] = time.time) -> None:
    """Raise ValueError where this file will not cover a run that starts now."""
    readings, now_s = read_csv(path), utc_s()
    if readings.bad_rows:
        raise ValueError(f"--wall-meter {path} line {readings.bad_rows[0]} is no time and number")
    if not readings.times_s or readings.times_s[0] > now_s:
        raise ValueError(f"--wall-meter {path} has no reading from before the run: start the meter's logger first")
    if now_s - readings.times_s[-1] > STALE_S:
        old_min = (now_s - readings.times_s[-1]) / 60
        raise ValueError(
            f"--wall-meter {path} is not being written: its last reading is {old_min:.0f} min old, and it must cover the run"
        )


class WallMeter:
    """Absent while the run goes on; after ``settle`` what the meter counted between start and settling."""

    name = "wall_meter"

    def __init__(
        self, path: Path, *, clock: Callable[[], int] = time.monotonic_ns, utc_s: Callable[[], float] = time.time
    ) -> None:
        self.notes: list[str] = []
        self._path, self._clock, self._utc_s = path, clock, utc_s
        self._start_s, self._start_ns = 0.0, 0
        self._energy = ABSENT_ENERGY

    def start(self) -> None:
        self._start_s, self._start_ns = self._utc_s(), self._clock()

    def settle(self) -> None:
        """The run is over: read the file."""
        end_s, seconds = self._utc_s(), (self._clock() - self._start_ns) / 1e9
        if abs(end_s - self._start_s - seconds) > CLOCK_STEP_S:
            say_once(
                self.notes,
                "the time of day was set or the machine slept, so the wall meter's readings cannot be assigned: absent",
            )
            return
        try:
            readings = read_csv(self._path)
        except ValueError as error:
            say_once(self.notes, f"{error}: the wall meter is absent")
            return
        if readings.bad_rows:
            say_once(self.notes, f"{len(readings.bad_rows)} lines of the wall meter's file are no readings and were left out")
        self._energy = integrate(readings, self._start_s, end_s, self.notes)

    def read(self) -> Energy:
        return self._energy

    def close(self) -> None:
        pass


def integrate(readings: Readings, start_s: float, end_s: float, notes: list[str]) -> Energy:
    """Joules between two times: trapezoids over watts, differences of counts; absent where the readings do not cover it.

    Where within a step the run began is not known: low leaves such a step out, high takes all of it. A step of watts that is longer than
    a minute and five usual ones is a gap: its middle is a guess, low has nothing for it, high the largest power seen.
    """
    steps = list(zip(readings.times_s, readings.times_s[1:], readings.values, readings.values[1:], strict=False))
    inside = [step for step in steps if step[1] > start_s and step[0] < end_s]
    usual_s = median(after - before for before, after, *_ in steps) if steps else 0.0
    missing_s = (end_s - start_s) - sum(min(step[1], end_s) - max(step[0], start_s) for step in inside)
    if not inside or missing_s > 2 * usual_s:
        say_once(notes, f"the wall meter's readings do not cover {missing_s:.0f} s of the run: it is absent")
        return ABSENT_ENERGY
    most_w = max(step_watts(readings, step) for step in steps) if readings.counts else max(readings.values)
    joules = low = high = 0.0
    method = MEASURED
    for step in inside:
        before_s, after_s = step[:2]
        part = (min(after_s, end_s) - max(before_s, start_s)) / (after_s - before_s)
        step_j = step_watts(readings, step) * (after_s - before_s)
        reset = readings.counts and step[3] < step[2]
        if reset or (not readings.counts and after_s - before_s > max(GAP_S, 5 * usual_s)):
            say_once(
                notes, f"the wall meter {'was reset' if reset else f'has a gap of {after_s - before_s:.0f} s'} during the run"
            )
            method = ESTIMATED
            joules, high = joules + (0.0 if reset else step_j * part), high + most_w * part * (after_s - before_s)
        else:
            joules, low, high = joules + step_j * part, low + (step_j if part == 1 else 0.0), high + step_j
    mean_w = joules / max(end_s - start_s - missing_s, 1e-9)
    joules, high = joules + mean_w * missing_s, high + 2 * most_w * missing_s
    return Energy(joules, low / (1 + METER_ERROR), high / (1 - METER_ERROR), method, len(inside))


def step_watts(readings: Readings, step: tuple[float, float, float, float]) -> float:
    """Mean power of a step between two readings; nothing where a count fell."""
    before_s, after_s, before, after = step
    return max(0.0, after - before) / (after_s - before_s) if readings.counts else (before + after) / 2
