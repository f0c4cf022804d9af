"""What NVML tells of one board. Every question has an answer or None, with a note: a lost board, a missing function or a broken
binding must not end a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from runs.energy.source import say_once

UNKNOWN_LIMIT_W = 1500.0  # more than any board draws; used where NVML does not tell the power limit
MOST_LIMIT_W = 5000.0  # a limit beyond is none

Answer = TypeVar("Answer")


class Nvml:
    """One board, found by its UUID (NVML counts boards in another order than CUDA); of a MIG slice, the board that it is a part of."""

    def __init__(self, binding: Any, board: Any, slice_share: float | None, notes: list[str]) -> None:
        self._nvml, self._board, self.notes = binding, board, notes
        self.slice_share = slice_share
        """The slice's part of its board; None where the board is not split by MIG."""
        self._seen_us = 0  # NVML's time stamp of the newest utilisation sample of a process

    def ask(self, what: str, question: Callable[[], Answer], quiet: bool = False) -> Answer | None:
        return ask(self.notes, what, question, quiet)

    def counter_j(self) -> float:
        """Joules since the driver was loaded, published about every 100 ms; Volta and newer. Raises NVMLError, as the next two."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._board)) / 1e3

    def instant_w(self) -> float:
        (field,) = self._nvml.nvmlDeviceGetFieldValues(self._board, [self._nvml.NVML_FI_DEV_POWER_INSTANT])
        if field.nvmlReturn != self._nvml.NVML_SUCCESS:
            raise self._nvml.NVMLError(field.nvmlReturn)
        return float(field.value.uiVal) / 1e3

    def average_w(self) -> float:
        """On Ampere and newer (except GA100) the mean of the last second."""
        return float(self._nvml.nvmlDeviceGetPowerUsage(self._board)) / 1e3

    def watts(self) -> float | None:
        """The power now, as well as this board tells it."""
        instant_w = self.ask("power", self.instant_w, quiet=True)
        return instant_w if instant_w is not None else self.ask("power", self.average_w, quiet=True)

    def power_limit_w(self) -> float:
        for limit in (self._nvml.nvmlDeviceGetEnforcedPowerLimit, self._nvml.nvmlDeviceGetPowerManagementLimit):
            milliwatts = self.ask("power limit", partial(limit, self._board), quiet=True)
            if milliwatts and milliwatts <= 1e3 * MOST_LIMIT_W:
                return float(milliwatts) / 1e3
        say_once(self.notes, f"NVML does not tell the power limit: {UNKNOWN_LIMIT_W:.0f} W is assumed for the uncertainty")
        return UNKNOWN_LIMIT_W

    def utilisation(self, quiet: bool = False) -> float | None:
        """Part of the last moments in which a kernel ran, 0 to 1."""
        rates = self.ask("utilisation", lambda: self._nvml.nvmlDeviceGetUtilizationRates(self._board), quiet)
        if rates is not None and rates.gpu > 100:
            say_once(self.notes, f"NVML tells a utilisation of {rates.gpu} %: busy time is not known")
            return None
        return None if rates is None else rates.gpu / 100

    def processes(self) -> set[int] | None:
        """Processes with a compute context on the board. In a container these are the host's numbers, or none."""
        users = self.ask("processes", lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(self._board), quiet=True)
        return None if users is None else {int(user.pid) for user in users}

    def process_utilisation(self) -> dict[int, int] | None:
        """Sum of the utilisation samples of each process since the last call; None where there are none."""
        samples = self.ask(
            "utilisation of processes",
            lambda: self._nvml.nvmlDeviceGetProcessUtilization(self._board, self._seen_us),
            quiet=True,
        )
        if not samples:
            return None
        self._seen_us = max(int(sample.timeStamp) for sample in samples)
        busy: dict[int, int] = {}
        for sample in samples:
            busy[int(sample.pid)] = busy.get(int(sample.pid), 0) + int(sample.smUtil)
        return busy

    def is_virtual(self) -> bool:
        """A vGPU: part of a board, as NVIDIA's hypervisor gives it to a guest."""
        mode = self.ask("virtualisation", lambda: self._nvml.nvmlDeviceGetVirtualizationMode(self._board), quiet=True)
        return mode == self._nvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU

    def close(self) -> None:
        self.ask("shutdown", self._nvml.nvmlShutdown)


def open_board(uuid: str | None, notes: list[str]) -> Nvml | None:
    """The board of a CUDA device with this UUID (with or without NVML's prefix), or None with a note."""
    if not uuid:
        say_once(notes, "the CUDA device tells no UUID, so NVML cannot find its board: GPU energy is absent")
        return None
    try:
        import pynvml  # type: ignore[import-untyped]

        pynvml.nvmlInit()
    except Exception as error:  # noqa: BLE001 - a missing library, driver or binding each raise their own
        say_once(notes, f"NVML is not available ({error}): GPU energy is absent")
        return None
    found = _find(pynvml, uuid, notes)
    if found is None:
        ask(notes, "shutdown", pynvml.nvmlShutdown)
        return None
    return Nvml(pynvml, *found, notes)


def ask(notes: list[str], what: str, question: Callable[[], Answer], quiet: bool = False) -> Answer | None:
    try:
        return question()
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the run
        if not quiet:
            say_once(notes, f"NVML did not answer ({what}): {error}")
        return None


def _find(pynvml: Any, uuid: str, notes: list[str]) -> tuple[Any, float | None] | None:
    """(board, the slice's share of it). CUDA gives the UUID of a MIG slice without saying that it is one."""
    bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
    handle = None
    for name in (uuid, f"GPU-{bare}", f"MIG-{bare}"):
        handle = ask(notes, "board", partial(pynvml.nvmlDeviceGetHandleByUUID, name), quiet=True)
        if handle is not None:
            break
    else:
        ask(notes, "board", lambda: pynvml.nvmlDeviceGetHandleByUUID(uuid))  # once more, to say why
        return None
    is_slice = ask(notes, "MIG", lambda: pynvml.nvmlDeviceIsMigDeviceHandle(handle).value, quiet=True)
    mode = ask(notes, "MIG mode", lambda: pynvml.nvmlDeviceGetMigMode(handle), quiet=True)
    if is_slice or (mode is not None and mode[0] == 1):
        return _slice(pynvml, handle if is_slice else _only_slice(pynvml, handle, notes), notes)
    return handle, None


def _only_slice(pynvml: Any, board: Any, notes: list[str]) -> Any:
    """The slice of a split board that has one; with several nobody can tell which is ours."""
    most = ask(notes, "MIG", lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(board), quiet=True) or 0
    slices = [ask(notes, "MIG", partial(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, board, k), quiet=True) for k in range(most)]
    there = [handle for handle in slices if handle is not None]
    return there[0] if len(there) == 1 else None


def _slice(pynvml: Any, handle: Any, notes: list[str]) -> tuple[Any, float] | None:
    """MIG has no energy per slice: the parent's counter, times the slices that this one consists of."""
    parent = most = attributes = None
    if handle is not None:
        parent = ask(notes, "MIG", lambda: pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), quiet=True)
        attributes = ask(notes, "MIG", lambda: pynvml.nvmlDeviceGetAttributes(handle), quiet=True)
    if parent is not None:
        most = ask(notes, "MIG", lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(parent), quiet=True)
    if not most or attributes is None or not 0 < attributes.gpuInstanceSliceCount <= most:
        say_once(notes, "the GPU is split by MIG and NVML does not tell which slice is ours: GPU energy is absent")
        return None
    share = attributes.gpuInstanceSliceCount / most
    say_once(
        notes,
        f"the GPU is split by MIG, which has no energy per slice: {attributes.gpuInstanceSliceCount}/{most} of the board is taken, "
        "with nothing as low and the whole board as high",
    )
    return parent, share


def tree_pids() -> set[int]:
    """This process and its living descendants."""
    from runs.machine import descendants

    return {os.getpid(), *descendants(os.getpid())}
