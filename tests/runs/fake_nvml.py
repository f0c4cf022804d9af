"""A stand-in for libnvidia-ml under the real nvidia-ml-py: one board on a virtual clock that draws a given power curve.

The energy counter is the curve's exact integral, published every 100 ms as NVML does. ``install(monkeypatch)`` puts it where
the binding keeps the loaded library, so the binding's own code and error paths run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pynvml  # type: ignore[import-untyped]

UUID = "GPU-5d3f2a10-0000-4000-8000-00000000beef"
PUBLISH_S = 0.1


class Clock:
    """Nanoseconds, as time.monotonic_ns, that pass only when told to."""

    def __init__(self) -> None:
        self.ns = 12_345_678_900

    def __call__(self) -> int:
        return self.ns

    @property
    def s(self) -> float:
        return self.ns / 1e9

    def advance(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


class Load:
    """A power curve: watts held for seconds, one after the other, from ``start_s`` on; idle watts before and after."""

    def __init__(self, start_s: float, pieces: Sequence[tuple[float, float]], idle_w: float = 0.0) -> None:
        self.start_s, self.pieces, self.idle_w = start_s, pieces, idle_w

    def watts(self, at_s: float) -> float:
        begin = self.start_s
        for seconds, watts in self.pieces:
            if begin <= at_s < begin + seconds:
                return watts
            begin += seconds
        return self.idle_w

    def joules(self, from_s: float, to_s: float) -> float:
        """The exact integral: the sum of watts times overlap."""
        begin, covered, total = self.start_s, 0.0, 0.0
        for seconds, watts in self.pieces:
            overlap = max(0.0, min(to_s, begin + seconds) - max(from_s, begin))
            covered, total, begin = covered + overlap, total + overlap * watts, begin + seconds
        return total + (to_s - from_s - covered) * self.idle_w


class FakeNvml:
    """The library object: functions are attributes; ``without`` names those that this driver lacks or does not support."""

    def __init__(self, clock: Clock, load: Load, *, limit_w: float = 700.0, gain: float = 1.0) -> None:
        self.clock, self.load, self.limit_w, self.gain = clock, load, limit_w, gain
        self.missing: set[str] = set()  # not exported by this library
        self.unsupported: set[str] = set()  # exported, answered NOT_SUPPORTED
        self.error: int | None = None  # what every device call answers, e.g. NVML_ERROR_GPU_IS_LOST
        self.utilisation: Callable[[float], int] = lambda at_s: 100 if load.watts(at_s) > load.idle_w else 0
        self.mig = 0
        self.pids: list[int] = []
        self.open = 0  # nvmlInit calls less nvmlShutdown calls
        self.calls: list[str] = []
        self._zero_s, self._zero_j = 0.0, 5e8  # the counter has run since the driver was loaded

    def install(self, monkeypatch: Any) -> FakeNvml:
        monkeypatch.setattr(pynvml, "nvmlLib", self)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        return self

    def reset_counter(self) -> None:
        """A driver reload: the counter begins at 0 now."""
        self._zero_s, self._zero_j = self.clock.s, 0.0

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("nvml") or name in self.missing:
            raise AttributeError(name)
        answer = getattr(FakeNvml, "_" + name, None)
        if answer is None:
            raise AttributeError(name)

        def function(*arguments: Any) -> int:
            self.calls.append(name)
            if name.startswith("nvmlDevice") and self.error is not None:
                return self.error
            if name in self.unsupported:
                return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return int(answer(self, *arguments) or pynvml.NVML_SUCCESS)

        return function

    def _nvmlInitWithFlags(self, _flags: Any) -> None:
        self.open += 1

    def _nvmlShutdown(self) -> None:
        self.open -= 1

    def _nvmlSystemGetDriverVersion(self, buffer: Any, _length: Any) -> None:
        buffer.value = b"570.00.01"

    def _nvmlDeviceGetHandleByUUID(self, uuid: Any, _handle: Any) -> int | None:
        return None if uuid.value == UUID.encode() else int(pynvml.NVML_ERROR_NOT_FOUND)

    def _nvmlDeviceGetMigMode(self, _handle: Any, current: Any, _pending: Any) -> None:
        current._obj.value = self.mig

    def _nvmlDeviceGetEnforcedPowerLimit(self, _handle: Any, milliwatts: Any) -> None:
        milliwatts._obj.value = round(self.limit_w * 1e3)

    def _nvmlDeviceGetTotalEnergyConsumption(self, _handle: Any, millijoules: Any) -> None:
        published_s = max(self._zero_s, math.floor(self.clock.s / PUBLISH_S) * PUBLISH_S)
        joules = self._zero_j + self.gain * self.load.joules(self._zero_s, published_s)
        millijoules._obj.value = math.floor(joules * 1e3)

    def _nvmlDeviceGetFieldValues(self, _handle: Any, count: Any, values: Any) -> None:
        assert count.value == 1
        (field,) = values._obj
        if field.fieldId != 186 or "POWER_INSTANT" in self.unsupported:
            field.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED
            return
        field.nvmlReturn = pynvml.NVML_SUCCESS
        field.value.uiVal = round(self.gain * self.load.watts(self.clock.s) * 1e3)

    def _nvmlDeviceGetPowerUsage(self, _handle: Any, milliwatts: Any) -> None:
        milliwatts._obj.value = round(self.gain * self.load.joules(self.clock.s - 1.0, self.clock.s) * 1e3)

    def _nvmlDeviceGetUtilizationRates(self, _handle: Any, rates: Any) -> None:
        rates._obj.gpu = self.utilisation(self.clock.s)

    def _nvmlDeviceGetComputeRunningProcesses_v3(self, _handle: Any, count: Any, processes: Any) -> int | None:
        if not self.pids:
            count._obj.value = 0
            return None
        if processes is None:
            count._obj.value = len(self.pids)
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
        for process, pid in zip(processes, self.pids, strict=False):
            process.pid = pid
        count._obj.value = len(self.pids)
        return None
