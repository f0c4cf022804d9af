"""A stand-in for libnvidia-ml under the real nvidia-ml-py: boards on a virtual clock that draw given power curves.

The energy counter is the curve's exact integral, published every 100 ms as NVML does. ``install(monkeypatch)`` puts it where
the binding keeps the loaded library, so the binding's own code and error paths run.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import pynvml  # type: ignore[import-untyped]

UUID = "GPU-5d3f2a10-0000-4000-8000-00000000beef"
PUBLISH_S = 0.1
SAMPLE_S = 0.25  # utilisation of processes


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


class FakeBoard:
    """One board: what it draws, who uses it, how it is split."""

    def __init__(self, clock: Clock, load: Load, *, limit_w: float = 700.0, gain: float = 1.0, uuid: str = UUID) -> None:
        self.clock, self.load, self.limit_w, self.gain, self.uuid = clock, load, limit_w, gain, uuid
        self.utilisation: Callable[[float], int] = lambda at_s: 100 if load.watts(at_s) > load.idle_w else 0
        self.mig = 0
        self.slices: dict[str, int] = {}  # of a board split by MIG: UUID -> how many of the seven
        self.pids: list[int] = []
        self.sm: dict[int, Callable[[float], int]] = {}  # pid -> percent of the multiprocessors' time; empty: not known
        self.virtualisation = 0
        self._zero_s, self._zero_j = 0.0, 5e8  # the counter has run since the driver was loaded

    def reset_counter(self, joules: float = 0.0) -> None:
        """A driver reload: the counter begins at 0 now."""
        self._zero_s, self._zero_j = self.clock.s, joules

    def counter_j(self) -> float:
        published_s = max(self._zero_s, math.floor(self.clock.s / PUBLISH_S) * PUBLISH_S)
        return self._zero_j + self.gain * self.load.joules(self._zero_s, published_s)


def _point(handle: Any, number: int) -> None:
    """Give out a handle: the binding passes a pointer by reference."""
    ctypes.c_void_p.from_address(ctypes.addressof(handle._obj)).value = number


class FakeNvml(FakeBoard):
    """The library object, which is its first board too: functions are attributes."""

    def __init__(self, clock: Clock, load: Load, *, limit_w: float = 700.0, gain: float = 1.0) -> None:
        super().__init__(clock, load, limit_w=limit_w, gain=gain)
        self.boards: list[FakeBoard] = [self]  # in NVML's order
        self.missing: set[str] = set()  # not exported by this library
        self.unsupported: set[str] = set()  # exported, answered NOT_SUPPORTED
        self.error: int | None = None  # what every device call answers, e.g. NVML_ERROR_GPU_IS_LOST
        self.open = 0  # nvmlInit calls less nvmlShutdown calls
        self.calls: list[str] = []

    def _board(self, handle: Any) -> FakeBoard:
        return self.boards[(ctypes.cast(handle, ctypes.c_void_p).value or 1) % 100 - 1]

    def _slice(self, handle: Any) -> str | None:
        number = (ctypes.cast(handle, ctypes.c_void_p).value or 1) // 100
        return list(self._board(handle).slices)[number - 1] if number else None

    def install(self, monkeypatch: Any) -> FakeNvml:
        monkeypatch.setattr(pynvml, "nvmlLib", self)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        return self

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

    def _nvmlDeviceGetHandleByUUID(self, uuid: Any, handle: Any) -> int | None:
        for number, board in enumerate(self.boards, 1):
            if uuid.value == board.uuid.encode():
                _point(handle, number)
                return None
            for k, name in enumerate(board.slices, 1):
                if uuid.value == name.encode():
                    _point(handle, 100 * k + number)
                    return None
        return int(pynvml.NVML_ERROR_NOT_FOUND)

    def _nvmlDeviceGetCount_v2(self, count: Any) -> None:
        count._obj.value = len(self.boards)

    def _nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int | None:
        if index.value >= len(self.boards):
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        _point(handle, index.value + 1)
        return None

    def _nvmlDeviceGetUUID(self, handle: Any, buffer: Any, _length: Any) -> None:
        buffer.value = self._board(handle).uuid.encode()

    def _nvmlDeviceGetName(self, _handle: Any, buffer: Any, _length: Any) -> None:
        buffer.value = b"NVIDIA Stand-in"

    def _nvmlDeviceGetArchitecture(self, _handle: Any, architecture: Any) -> None:
        architecture._obj.value = pynvml.NVML_DEVICE_ARCH_HOPPER

    def _nvmlDeviceGetMemoryInfo(self, _handle: Any, info: Any) -> None:
        info._obj.total = info._obj.free = 80 * 2**30

    def _nvmlDeviceGetTemperature(self, _handle: Any, _sensor: Any, degrees: Any) -> None:
        degrees._obj.value = 50

    def _nvmlDeviceGetComputeMode(self, _handle: Any, mode: Any) -> None:
        mode._obj.value = pynvml.NVML_COMPUTEMODE_DEFAULT

    def _nvmlDeviceGetGraphicsRunningProcesses_v3(self, _handle: Any, count: Any, _processes: Any) -> None:
        count._obj.value = 0

    def _nvmlDeviceGetPowerManagementLimitConstraints(self, handle: Any, least: Any, most: Any) -> None:
        least._obj.value = most._obj.value = round(self._board(handle).limit_w * 1e3)

    def _nvmlDeviceGetPowerManagementLimit(self, handle: Any, milliwatts: Any) -> None:
        milliwatts._obj.value = round(self._board(handle).limit_w * 1e3)

    def _nvmlDeviceGetVirtualizationMode(self, handle: Any, mode: Any) -> None:
        mode._obj.value = self._board(handle).virtualisation

    def _nvmlDeviceGetMigMode(self, handle: Any, current: Any, _pending: Any) -> None:
        current._obj.value = self._board(handle).mig

    def _nvmlDeviceIsMigDeviceHandle(self, handle: Any, answer: Any) -> None:
        answer._obj.value = self._slice(handle) is not None

    def _nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Any, parent: Any) -> None:
        _point(parent, (ctypes.cast(handle, ctypes.c_void_p).value or 1) % 100)

    def _nvmlDeviceGetMaxMigDeviceCount(self, _handle: Any, count: Any) -> None:
        count._obj.value = 7

    def _nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: Any, found: Any) -> int | None:
        if index.value >= len(self._board(handle).slices):
            return int(pynvml.NVML_ERROR_NOT_FOUND)
        _point(found, 100 * (index.value + 1) + (ctypes.cast(handle, ctypes.c_void_p).value or 1))
        return None

    def _nvmlDeviceGetAttributes_v2(self, handle: Any, attributes: Any) -> None:
        attributes._obj.gpuInstanceSliceCount = self._board(handle).slices[self._slice(handle) or ""]

    def _nvmlDeviceGetEnforcedPowerLimit(self, handle: Any, milliwatts: Any) -> None:
        milliwatts._obj.value = round(self._board(handle).limit_w * 1e3)

    def _nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, millijoules: Any) -> int | None:
        if self._slice(handle) is not None:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        millijoules._obj.value = math.floor(self._board(handle).counter_j() * 1e3)
        return None

    def _nvmlDeviceGetFieldValues(self, handle: Any, count: Any, values: Any) -> None:
        assert count.value == 1
        (field,) = values._obj
        if field.fieldId != 186 or "POWER_INSTANT" in self.unsupported:
            field.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED
            return
        board = self._board(handle)
        field.nvmlReturn = pynvml.NVML_SUCCESS
        field.value.uiVal = round(board.gain * board.load.watts(self.clock.s) * 1e3)

    def _nvmlDeviceGetPowerUsage(self, handle: Any, milliwatts: Any) -> None:
        board = self._board(handle)
        milliwatts._obj.value = round(board.gain * board.load.joules(self.clock.s - 1.0, self.clock.s) * 1e3)

    def _nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int | None:
        if self._board(handle).mig:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        rates._obj.gpu = self._board(handle).utilisation(self.clock.s)
        return None

    def _nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any, count: Any, processes: Any) -> int | None:
        pids = self._board(handle).pids
        if not pids:
            count._obj.value = 0
            return None
        if processes is None:
            count._obj.value = len(pids)
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
        for process, pid in zip(processes, pids, strict=False):
            process.pid = pid
        count._obj.value = len(pids)
        return None

    def _nvmlDeviceGetProcessUtilization(self, handle: Any, samples: Any, count: Any, last_seen: Any) -> int | None:
        """Samples on a grid, as far back as a minute, newer than ``last_seen`` microseconds."""
        board, now = self._board(handle), math.floor(self.clock.s / SAMPLE_S)
        first = max(math.floor(last_seen.value / 1e6 / SAMPLE_S) + 1, now - 240)
        found = [(k * SAMPLE_S, pid) for k in range(first, now + 1) for pid in board.sm]
        if not found:
            return int(pynvml.NVML_ERROR_NOT_FOUND)
        count._obj.value = len(found)
        if samples is None:
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
        for sample, (at_s, pid) in zip(samples, found, strict=True):
            sample.pid, sample.timeStamp, sample.smUtil = pid, round(at_s * 1e6), board.sm[pid](at_s)
        return None
