"""TensorBoard: each curve over steps, frames, human play, wall time and joules, one tag group per axis.

TensorBoard's x axis is a whole number, so human play and wall time are in seconds; it shows groups in alphabetical order, so the
numbers in their names put the scores first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from runs.schema import ABSENT, LedgerLine, present, total_energy

JOULES_PER_WH = 3600.0


class Curves:
    """The curves of one run."""

    def __init__(self, folder: Path, description: str) -> None:
        self._writer = SummaryWriter(str(folder))
        self._writer.add_text("run", description)

    def over_every_axis(self, name: str, value: float, axes: dict[str, float | None]) -> None:
        """One point of a curve in each group; an axis that is None (no physical time) has no group."""
        for axis, at in axes.items():
            if at is not None:
                self._writer.add_scalar(f"{axis}/{name}", value, int(at))

    def over_steps(self, values: dict[str, float], steps: int) -> None:
        """Points of curves that are only shown over steps; names carry their group, ``learning/loss``."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, steps)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


@contextmanager
def errors_at_flush() -> Iterator[None]:
    """TensorBoard's thread keeps what the disk refused for the next ``flush``, which raises it; let it not print a traceback as well."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not (type(failed.thread).__name__ == "_AsyncWriterThread" and isinstance(failed.exc_value, OSError)):
            before(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def live(before: LedgerLine, line: LedgerLine) -> dict[str, float]:
    """What goes on now, as means since the line before, by the names that TensorBoard shows. What is not known has no curve."""
    values: dict[str, float] = {}
    energy, was = total_energy(line.energy), total_energy(before.energy)
    seconds = (line.wall_s or 0.0) - (before.wall_s or 0.0)
    if energy.method != ABSENT:
        values["meter/energy, Wh"] = energy.joules / JOULES_PER_WH
        if seconds > 0 and present(line.energy).keys() == present(before.energy).keys():
            values["meter/power, W"] = (energy.joules - was.joules) / seconds
    busy, allocated = _more(line.gpu_busy_s, before.gpu_busy_s), _more(line.gpu_allocated_s, before.gpu_allocated_s)
    if busy is not None and allocated:
        values["meter/GPU utilisation, %"] = 100 * busy / allocated
    for name in ("frames", "steps"):
        more = _more(getattr(line.lineage, name), getattr(before.lineage, name))
        if more and seconds > 0:  # none while evaluations are played
            values[f"speed/{name} per s"] = more / seconds
    return values


def _more(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else now - before


def axes(steps: int | None, frames: int | None, play_s: float | None, wall_s: float, joules: float) -> dict[str, float | None]:
    """The x axes of :meth:`Curves.over_every_axis`, by the names that TensorBoard shows."""
    return {
        "1 over steps": steps,
        "2 over frames": frames,
        "3 over human play, s": play_s,
        "4 over wall time, s": wall_s,
        "5 over energy, J": joules,
    }
