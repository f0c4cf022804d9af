"""Energy sources: joules of the GPU board from NVML, and an estimate of the CPU where nothing measures it.

Every figure is an interval, ``low_j <= joules <= high_j``, with the method it came from. Energy is gross: idle power is in it.
A source never ends a run: what cannot be measured is ``absent``, or a wider interval, with the reason in ``notes``.
An absent source is recorded as 0 J with low and high 0; its method says that this is not a measurement of nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from runs.machine import TreeCpu, microarchitecture, reserved_memory_gib, reserved_vcpus
from runs.schema import ABSENT, ESTIMATED, MEASURED, Energy

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

COUNTER_ERROR = 0.05  # gain of a board's counter (arXiv 2312.02741)
POWER_ERROR = 0.10  # power that we integrate ourselves
EDGE_S = 0.1  # NVML publishes about every 100 ms, so each end of a segment may be that much off
AVERAGED_EDGE_S = 1.0  # nvmlDeviceGetPowerUsage is a 1 s average on most boards since Ampere
SAMPLE_S = 0.1
LATE_S = 5 * SAMPLE_S  # two samples farther apart bound nothing between them
UNKNOWN_LIMIT_W = 1500.0  # more than any board draws; used where NVML does not tell the power limit

Answer = TypeVar("Answer")


class EnergySource(Protocol):
    """``start`` once, ``read`` at every heartbeat (cumulative since start), ``close`` once. None of them raises."""

    name: str
    notes: list[str]  # for people: what is missing or odd, each said once

    def start(self) -> None: ...

    def read(self) -> Energy: ...

    def close(self) -> None: ...


def sources_for(device: Mapping[str, Any] | None, clock: Callable[[], int] = time.monotonic_ns) -> list[EnergySource]:
    """The sources of a run on ``device`` (a record of ``machine.describe_device``): the board it uses, and the CPU."""
    cpu = CpuEstimate(clock=clock)
    if device is not None and device["type"] == "cuda":
        return [NvmlBoard(device.get("uuid"), clock=clock), cpu]
    return [cpu]


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
    high_j = max(map(joules, rows)) + wall_s * memory_gib * MEMORY_W_PER_GIB
    return Energy(joules(centre), low_j, high_j, ESTIMATED)


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


class NvmlBoard:
    """The joules of one GPU board, and its busy seconds, from NVML.

    Where the board has an energy counter (Volta and newer) its differences are summed; a counter that fell was reset by a
    driver reload, so a new segment begins (a reload that ends above the last value cannot be seen). Otherwise power is integrated by trapezoids over samples taken by a thread.

    The interval holds the truth as long as the board's gain is within the error above and its power within its limit:
    time that nothing covered (a reset, an unanswered call, a late sample) adds nothing to low and limit x time to high.
    """

    name = "gpu_board"

    def __init__(self, uuid: str | None, *, clock: Callable[[], int] = time.monotonic_ns, threaded: bool = True) -> None:
        self.notes: list[str] = []
        self._uuid, self._clock, self._threaded = uuid, clock, threaded
        self._nvml: Any = None  # the binding, imported on start: it takes 0.1 s
        self._board: Any = None
        self._read_joules: Callable[[], float] | None = None
        self._read_watts: Callable[[], float] | None = None
        self._error, self._edge_s, self._limit_w = COUNTER_ERROR, EDGE_S, UNKNOWN_LIMIT_W
        self._joules = 0.0  # covered by the sensor
        self._gap_j = self._gap_high_j = 0.0  # not covered: our guess of it, and the most it can be
        self._segments = 1
        self._method = MEASURED
        self._last = 0.0  # the last counter value in joules, or the last power in watts
        self._last_ns = 0
        self._busy_s: float | None = None
        self._busy_ns = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def busy_s(self) -> float | None:
        """Seconds in which a kernel ran, from NVML's utilisation; None where it is not known for the whole time."""
        return self._busy_s

    def start(self) -> None:
        self._board = self._find_board()
        if self._board is None:
            return
        self._limit_w = self._power_limit()
        self._choose_sensor()
        self._note_strangers()
        busy = self._ask("utilisation", lambda: self._nvml.nvmlDeviceGetUtilizationRates(self._board))
        self._busy_s, self._busy_ns = (None if busy is None else 0.0), self._clock()
        if self._threaded and (self._read_watts is not None or self._busy_s is not None):
            self._thread = threading.Thread(target=self._sample_until_stopped, name="playmeter-nvml", daemon=True)
            self._thread.start()

    def sample(self) -> None:
        """One look at power and utilisation; the thread calls it ten times a second."""
        with self._lock:
            if self._read_watts is not None:
                self._integrate(self._read_watts)
            if self._busy_s is not None:
                self._add_busy()

    def read(self) -> Energy:
        if self._read_joules is None and self._read_watts is None:
            return Energy(0.0, 0.0, 0.0, ABSENT)
        with self._lock:
            if self._read_joules is not None:
                self._add_counter(self._read_joules)
            elif self._read_watts is not None:
                self._integrate(self._read_watts)
            return self._interval(unread_s=(self._clock() - self._last_ns) / 1e9)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
        if self._board is not None:
            self._ask("shutdown", lambda: self._nvml.nvmlShutdown())
        self._board = None

    def _interval(self, unread_s: float) -> Energy:
        edges_j = self._segments * 2 * self._edge_s * self._limit_w
        # reading = truth x gain, and the gain is within 1 +- error
        low_j = max(0.0, self._joules / (1 + self._error) - edges_j)
        high_j = self._joules / (1 - self._error) + self._gap_high_j + unread_s * self._limit_w + edges_j
        return Energy(self._joules + self._gap_j, low_j, high_j, self._method)

    def _add_counter(self, read_joules: Callable[[], float]) -> None:
        now_ns, joules = self._clock(), self._ask("energy", read_joules)
        if joules is None:  # the counter goes on counting: the next answer covers this time too
            self._method = ESTIMATED
            return
        if joules < self._last:
            self._segments += 1
            self._gap_high_j += self._limit_w * (now_ns - self._last_ns) / 1e9
            self._method = ESTIMATED
            self._note("the GPU's energy counter was reset (driver reload?): the time around it is not counted")
        else:
            self._joules += joules - self._last
            self._method = MEASURED if self._segments == 1 else ESTIMATED
        self._last, self._last_ns = joules, now_ns

    def _integrate(self, read_watts: Callable[[], float]) -> None:
        now_ns, watts = self._clock(), self._ask("power", read_watts)
        if watts is None:
            self._method = ESTIMATED
            return
        step_s = (now_ns - self._last_ns) / 1e9
        trapezoid_j = (watts + self._last) / 2 * step_s
        if step_s <= LATE_S:
            self._joules += trapezoid_j
        else:
            self._gap_j += trapezoid_j
            self._gap_high_j += max(self._limit_w, watts, self._last) * step_s
        self._last, self._last_ns = watts, now_ns

    def _add_busy(self) -> None:
        now_ns, rates = self._clock(), self._ask("utilisation", lambda: self._nvml.nvmlDeviceGetUtilizationRates(self._board))
        if rates is None or self._busy_s is None:
            self._busy_s = None  # a sum with a hole in it would be a wrong number
            return
        self._busy_s += rates.gpu / 100 * (now_ns - self._busy_ns) / 1e9
        self._busy_ns = now_ns

    def _sample_until_stopped(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.sample()

    def _find_board(self) -> Any:
        """NVML's handle of the board, or None with a note."""
        if not self._uuid:
            self._note("the CUDA device tells no UUID, so NVML cannot find its board: GPU energy is absent")
            return None
        try:
            import pynvml  # type: ignore[import-untyped]

            self._nvml = pynvml
            pynvml.nvmlInit()
        except Exception as error:  # noqa: BLE001 - a missing library, driver or binding each raise their own
            self._note(f"NVML is not available ({error}): GPU energy is absent")
            return None
        uuid = self._uuid if self._uuid.startswith(("GPU-", "MIG-")) else f"GPU-{self._uuid}"
        board = self._ask("board", lambda: pynvml.nvmlDeviceGetHandleByUUID(uuid))
        if board is not None:
            mig = self._ask("MIG mode", lambda: pynvml.nvmlDeviceGetMigMode(board), quiet=True)
            if uuid.startswith("MIG-") or (mig is not None and mig[0] == 1):
                self._note("the GPU is split by MIG, which has no energy per slice: GPU energy is absent")
                board = None
        if board is None:
            self._ask("shutdown", pynvml.nvmlShutdown)
        return board

    def _power_limit(self) -> float:
        for ask in (self._nvml.nvmlDeviceGetEnforcedPowerLimit, self._nvml.nvmlDeviceGetPowerManagementLimit):
            milliwatts = self._ask("power limit", partial(ask, self._board), quiet=True)
            if milliwatts:
                return float(milliwatts) / 1e3
        self._note(f"NVML does not tell the power limit: {UNKNOWN_LIMIT_W:.0f} W is assumed for the uncertainty")
        return UNKNOWN_LIMIT_W

    def _choose_sensor(self) -> None:
        """The first of counter, instant power and average power that answers."""
        self._last_ns = self._clock()
        for reader in (self._counter_j, self._instant_w, self._average_w):
            first = self._ask(reader.__name__, reader, quiet=True)
            if first is None:
                continue
            self._last, self._last_ns = first, self._clock()
            if reader == self._counter_j:
                self._read_joules = reader
            else:
                self._read_watts = reader
                self._error, self._edge_s = POWER_ERROR, EDGE_S if reader == self._instant_w else AVERAGED_EDGE_S
                self._note("the GPU has no energy counter: its power is sampled and integrated")
            return
        self._note("NVML tells neither energy nor power of this GPU: GPU energy is absent")

    def _counter_j(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._board)) / 1e3

    def _instant_w(self) -> float:
        (field,) = self._nvml.nvmlDeviceGetFieldValues(self._board, [self._nvml.NVML_FI_DEV_POWER_INSTANT])
        if field.nvmlReturn != self._nvml.NVML_SUCCESS:
            raise self._nvml.NVMLError(field.nvmlReturn)
        return float(field.value.uiVal) / 1e3

    def _average_w(self) -> float:
        return float(self._nvml.nvmlDeviceGetPowerUsage(self._board)) / 1e3

    def _note_strangers(self) -> None:
        """Say it where others certainly use the board. In a container NVML sees foreign pids, so one process may be ourselves."""
        users = self._ask("processes", lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(self._board), quiet=True)
        pids = {user.pid for user in users or []}
        others = len(pids - {os.getpid()}) if os.getpid() in pids else len(pids) - 1
        if others > 0:
            self._note(f"the GPU is shared with {others} more process(es): their energy is in the GPU's figure")

    def _ask(self, what: str, question: Callable[[], Answer], quiet: bool = False) -> Answer | None:
        """NVML's answer, None where it fails: a lost board, a missing function or a broken binding must not end a run."""
        try:
            return question()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the run
            if not quiet:
                self._note(f"NVML did not answer ({what}): {error}")
            return None

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
