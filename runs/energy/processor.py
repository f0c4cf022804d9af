"""The processor's joules where nothing measures them: from a table of watts, or from what the user states."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from runs.machine import TreeCpu, microarchitecture, reserved_memory_gib, reserved_vcpus
from runs.schema import ESTIMATED, Energy

# Watts of one vCPU, idle and at full load. Source: Cloud Carbon Footprint, coefficients derived from SPECpower_ssj2008.
VCPU_WATTS = {
    "Haswell": (1.86, 5.60),
    "Skylake": (0.61, 4.10),
    "Cascade Lake": (0.69, 4.06),
    "Ice Lake": (0.77, 3.76),
    "Sapphire Rapids": (1.04, 4.16),
    "Granite Rapids": (0.58, 2.53),
    "EPYC 2": (0.47, 1.69),
    "EPYC 3": (0.46, 1.96),
    "EPYC 4": (0.74, 2.28),
}
MEMORY_W_PER_GIB = 0.392  # same source
MOST_STATED_W = 10_000.0  # more than any one computer's processors draw


def estimate_cpu(wall_s: float, cpu_s: float, vcpus: float, memory_gib: float, architecture: str | None) -> Energy:
    """Joules of ``vcpus`` reserved for ``wall_s`` seconds, of which ``cpu_s`` CPU seconds were worked.

    With utilisation u = cpu_s / (wall_s * vcpus), a row draws vcpus * (Pmin + u (Pmax - Pmin)) watts, hence
    E = vcpus * wall_s * Pmin + cpu_s * (Pmax - Pmin).

    - centre: the architecture's row, or the mean of all rows where it is not known;
    - low: what this work added at the least, cpu_s times the smallest Pmax - Pmin; the machine would have idled anyway;
    - high: the largest row, plus all of the reserved memory.
    """
    rows = list(VCPU_WATTS.values())
    mean = (sum(idle for idle, _ in rows) / len(rows), sum(full for _, full in rows) / len(rows))
    centre = VCPU_WATTS.get(architecture or "", mean)

    def joules(row: tuple[float, float]) -> float:
        return vcpus * wall_s * row[0] + cpu_s * (row[1] - row[0])

    low_j = cpu_s * min(full - idle for idle, full in rows)
    memory_w = memory_gib * MEMORY_W_PER_GIB
    most_w = vcpus * max(full for _, full in rows) + memory_w
    return Energy(joules(centre), low_j, max(map(joules, rows)) + wall_s * memory_w, ESTIMATED, most_w=most_w)


class CpuEstimate:
    """The CPU's joules from CPU seconds and a table of watts: nothing is measured, so the interval is wide."""

    name = "cpu_package"

    def __init__(
        self,
        *,
        cpu_s: TreeCpu | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        vcpus: float | None = None,
        memory_gib: float | None = None,
        architecture: str | None = None,
    ) -> None:
        self.notes: list[str] = []
        self._clock, self._cpu = clock, cpu_s or TreeCpu()
        self._vcpus = vcpus or reserved_vcpus()
        self._memory_gib = reserved_memory_gib() if memory_gib is None else memory_gib
        self._architecture = architecture or microarchitecture()
        self._start_ns = 0

    def start(self) -> None:
        self._cpu.start()
        self._start_ns = self._clock()

    def read(self) -> Energy:
        wall_s = (self._clock() - self._start_ns) / 1e9
        return estimate_cpu(wall_s, self._cpu.read(), self._vcpus, self._memory_gib, self._architecture)

    def close(self) -> None:
        pass


def parse_watts(text: str) -> tuple[float, float]:
    """Lowest and highest watts of ``70`` or ``65:85``. Raises ValueError with one line for anything else."""
    parts = text.split(":")
    try:
        low, high = float(parts[0]), float(parts[-1])
    except ValueError:
        low = high = math.nan
    if len(parts) > 2 or not (0 < low <= MOST_STATED_W and 0 < high <= MOST_STATED_W):
        raise ValueError(f"--cpu-watts {text}: give watts above 0, as 70 or as a range 65:85")
    if low > high:
        raise ValueError(f"--cpu-watts {text}: the lower end comes first, {parts[-1]}:{parts[0]}")
    return low, high


class StatedWatts:
    """The processor's joules from watts that the user states: the middle of the range, its ends as low and high."""

    name = "cpu_package"

    def __init__(self, low_w: float, high_w: float, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.notes: list[str] = []
        if low_w == high_w:
            self.notes.append(
                f"--cpu-watts {low_w:g} is one figure: it is taken as exact; a range would say how far it can be trusted"
            )
        self._low_w, self._high_w, self._clock = low_w, high_w, clock
        self._start_ns = 0

    def start(self) -> None:
        self._start_ns = self._clock()

    def read(self) -> Energy:
        wall_s = (self._clock() - self._start_ns) / 1e9
        joules, low_j, high_j = (wall_s * watts for watts in ((self._low_w + self._high_w) / 2, self._low_w, self._high_w))
        return Energy(joules, low_j, high_j, ESTIMATED, most_w=self._high_w)

    def close(self) -> None:
        pass
