"""What every source of energy answers, and what a user can say about his machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runs.schema import ABSENT, Energy

POWERCAP = Path("/sys/class/powercap")
ABSENT_ENERGY = Energy(0.0, 0.0, 0.0, ABSENT)


class EnergySource(Protocol):
    """``start`` once, ``read`` at every heartbeat (cumulative since start), ``close`` once. None of them raises."""

    name: str
    notes: list[str]  # for people: what is missing or odd, each said once

    def start(self) -> None: ...

    def read(self) -> Energy: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class EnergyOptions:
    """What the user says about the energy of his machine."""

    cpu_watts: str | None = None
    """The processor's draw while this runs, ``70`` or ``65:85`` (lowest and highest)."""
    wall_meter: Path | None = None
    """A CSV that a wall meter's logger writes; see ``wall_meter``."""
    gpu_share: float = 1.0
    """This process's part of the GPU, where several runs of ours share one."""
    powercap: Path = POWERCAP
    """Where the kernel shows RAPL."""


class Absent:
    """A source that this machine should have and that cannot be read."""

    def __init__(self, name: str, note: str) -> None:
        self.name, self.notes = name, [note]

    def start(self) -> None:
        pass

    def read(self) -> Energy:
        return ABSENT_ENERGY

    def close(self) -> None:
        pass


def say_once(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)
