"""The meter of one process: wall time by phase, CPU seconds, energy by source, GPU time, peak memory.

It counts the whole process from ``start``; S runs that train together each take ``reading.share(1 / S)``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from runs.energy import Absent, EnergyOptions, EnergySource, NvmlBoard, WallMeter, sources_for
from runs.energy.source import ABSENT_ENERGY, say_once
from runs.machine import TreeCpu, peak_rss_bytes
from runs.schema import Energy

Answer = TypeVar("Answer")

PHASES = ("setup", "act", "learn", "env", "eval", "io")


@dataclass(frozen=True)
class MeterReading:
    """What was spent since the meter started; the fields are those of ``schema.LedgerLine``."""

    wall_s: float
    active_s: dict[str, float]
    cpu_s: float
    energy: dict[str, Energy]
    gpu_allocated_s: float
    gpu_busy_s: float | None
    peak_rss_bytes: int
    peak_cuda_bytes: int | None
    peak_cuda_allocated_bytes: int | None = None

    def share(self, fraction: float) -> MeterReading:
        """One run's part of what the process spent. Elapsed time and peaks are not divided: every run of the process has them."""
        return replace(
            self,
            cpu_s=self.cpu_s * fraction,
            energy={name: e.share(fraction) for name, e in self.energy.items()},
            gpu_allocated_s=self.gpu_allocated_s * fraction,
            gpu_busy_s=None if self.gpu_busy_s is None else self.gpu_busy_s * fraction,
        )


class Meter:
    """``start``, a ``lap`` at the end of every phase, ``read`` at every heartbeat, ``stop`` at the end.

    ``device`` is a record of ``machine.describe_device``; ``energy`` what the user says about his machine's. Clocks (nanoseconds;
    ``boottime`` goes on while the machine sleeps), CPU seconds and sources can be given, for tests.
    """

    def __init__(
        self,
        device: Mapping[str, Any] | None = None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        cpu_s: TreeCpu | None = None,
        sources: Sequence[EnergySource] | None = None,
        energy: EnergyOptions | None = None,
        boottime: Callable[[], int] | None = None,
    ) -> None:
        self._cuda_index: int | None = device["index"] if device is not None and device["type"] == "cuda" else None
        self._clock = clock
        self._boottime = boottime or (boottime_ns if clock is time.monotonic_ns else clock)
        self._cpu = cpu_s or TreeCpu()
        self._sources = list(sources_for(device, clock, energy) if sources is None else sources)
        self._active_ns = dict.fromkeys(PHASES, 0)
        self._start_ns = self._lap_ns = 0
        self._gpu_share = 1.0 if energy is None else energy.gpu_share
        self._asleep_ns = 0  # how far boottime was ahead at the start
        self._slept: list[str] = []
        self._notes: list[str] = []
        self._peak_rss_bytes = 0
        self._final: MeterReading | None = None

    def start(self) -> None:
        self._sources = [self._started(source) for source in self._sources]
        self._cpu.start()
        self._start_ns = self._lap_ns = self._clock()
        self._asleep_ns = self._boottime() - self._clock()

    def lap(self, phase: str) -> None:
        """Book the time since the last lap (or the start) to ``phase``, one of PHASES; KeyError for any other name."""
        now = self._clock()
        self._active_ns[phase] += now - self._lap_ns
        self._lap_ns = now

    @property
    def wall_s(self) -> float:
        """Seconds since the start; stands still after ``stop``."""
        return self._final.wall_s if self._final is not None else (self._clock() - self._start_ns) / 1e9

    @property
    def notes(self) -> list[str]:
        """What the sources have to say to people: what is missing or odd, each said once."""
        return self._slept + self._notes + [note for source in self._sources for note in source.notes]

    def read(self) -> MeterReading:
        """Everything so far. Time since the last lap is in ``wall_s`` and in no phase yet. After ``stop``: the last reading."""
        if self._final is not None:
            return self._final
        self._look_for_sleep()
        board = next((source for source in self._sources if isinstance(source, NvmlBoard)), None)
        energy = {source.name: self._ask(source, source.read) or ABSENT_ENERGY for source in self._sources}
        wall_s, share = self.wall_s, self._gpu_share if board is None else board.allocated_share
        self._peak_rss_bytes = max(self._peak_rss_bytes, peak_rss_bytes())
        return MeterReading(
            wall_s=wall_s,
            active_s={phase: spent / 1e9 for phase, spent in self._active_ns.items()},
            cpu_s=self._cpu.read(),
            energy=energy,
            gpu_allocated_s=0.0 if self._cuda_index is None else wall_s * share,
            gpu_busy_s=None if board is None else board.busy_s,
            peak_rss_bytes=self._peak_rss_bytes,
            peak_cuda_bytes=None if self._cuda_index is None else _peak_cuda_bytes(self._cuda_index),
            peak_cuda_allocated_bytes=None if self._cuda_index is None else _peak_cuda_allocated_bytes(self._cuda_index),
        )

    def stop(self) -> MeterReading:
        """Take the last reading and let go of the sources. A second call gives the same reading."""
        if self._final is None:
            for source in self._sources:
                if isinstance(source, WallMeter):
                    self._ask(source, source.settle)
            self._final = self.read()
            for source in self._sources:
                self._ask(source, source.close)
        return self._final

    def close(self) -> None:
        """``stop`` for ``contextlib.closing`` and ``finally``."""
        self.stop()

    def _started(self, source: EnergySource) -> EnergySource:
        """The source; where it cannot start, an absent one: without a beginning it would count from somewhere."""
        try:
            source.start()
            return source
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the run
            return Absent(source.name, _cannot_be_read(source, error))

    def _ask(self, source: EnergySource, question: Callable[[], Answer]) -> Answer | None:
        """No source should raise; one that does is absent, and the training goes on."""
        try:
            return question()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the run
            say_once(self._notes, _cannot_be_read(source, error))
            return None

    def _look_for_sleep(self) -> None:
        """Sleep is in no figure: the run's clock stands still, and a sensor's jump after it is a gap."""
        asleep_s = (self._boottime() - self._clock() - self._asleep_ns) / 1e9
        if asleep_s >= 1.0:
            self._slept = [f"the machine slept for {asleep_s:.0f} s: time and energy of that are not counted"]


def _cannot_be_read(source: EnergySource, error: Exception) -> str:
    return f"{source.name} cannot be read ({type(error).__name__}: {error}): it is absent"


def boottime_ns() -> int:
    """As ``time.monotonic_ns``, but going on while the machine sleeps; the same where the system has no such clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns()


def _peak_cuda_bytes(index: int) -> int | None:
    """The most that torch's allocator reserved of the board: what must be free for this run, less the CUDA context itself."""
    cuda = _torch_cuda()
    return None if cuda is None else int(cuda.max_memory_reserved(index))


def _peak_cuda_allocated_bytes(index: int) -> int | None:
    """The most of that that tensors held."""
    cuda = _torch_cuda()
    return None if cuda is None else int(cuda.max_memory_allocated(index))


def _torch_cuda() -> Any:
    """None where this process does not use torch on a GPU: a metered script may use another library."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
