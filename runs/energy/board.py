"""The joules of one GPU board, and its busy seconds, from NVML."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from runs.energy import sharing
from runs.energy.nvml import Nvml, open_board, tree_pids
from runs.energy.source import ABSENT_ENERGY, say_once
from runs.schema import ESTIMATED, MEASURED, Energy

COUNTER_ERROR = 0.05  # gain of a board's counter (arXiv 2312.02741)
POWER_ERROR = 0.10  # power that we integrate ourselves
EDGE_S = 0.1  # NVML publishes about every 100 ms, so each end of a segment may be that much off
AVERAGED_EDGE_S = 1.0  # nvmlDeviceGetPowerUsage is a 1 s average on most boards since Ampere
SAMPLE_S = 0.1
LATE_S = 5 * SAMPLE_S  # two samples farther apart bound nothing between them
STILL_S = 5 * EDGE_S  # a counter that did not move for five publications
LOOK_NS = 1_000_000_000  # how often to look who else uses the board
IMPOSSIBLE = 2.0  # times the power limit: no board draws it, so a counter that says so has begun anew


class NvmlBoard:
    """Where the board has an energy counter (Volta and newer) its differences are summed; a counter that fell, or rose faster than the
    board can draw, was reset by a driver reload, so a new segment begins. Otherwise power is integrated by trapezoids over samples
    taken by a thread.

    The interval holds the truth as long as the board's gain is within the error above and its power within its limit:
    time that nothing covered (a reset, an unanswered call, a late sample) adds nothing to low and limit x time to high.
    Where others use the board, ``sharing`` says what is ours.
    """

    name = "gpu_board"

    def __init__(
        self,
        uuid: str | None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        threaded: bool = True,
        declared_share: float = 1.0,
        own_pids: Callable[[], set[int]] = tree_pids,
    ) -> None:
        self.notes: list[str] = []
        self._uuid, self._clock, self._threaded = uuid, clock, threaded
        self._declared_share, self._own_pids = declared_share, own_pids
        self._nvml: Nvml | None = None
        self._read_joules: Callable[[], float] | None = None
        self._read_watts: Callable[[], float] | None = None
        self._error, self._edge_s, self._limit_w = COUNTER_ERROR, EDGE_S, 0.0
        self._shared = sharing.Shared()
        self._part = sharing.WHOLE
        self._was_shared = False
        self._shifts = 0.0  # how much our part changed from look to look, in sum: each change is seen up to EDGE_S late
        self._ready_j = 0.0  # from the sensor, not yet split
        self._gap_j = self._gap_high_j = 0.0  # not covered: our guess of our part, and the most that the board can have drawn
        self._segments = 1
        self._method = MEASURED
        self._last = 0.0  # the last counter value in joules, or the last power in watts
        self._start_ns = self._last_ns = self._split_ns = 0
        self._samples = 0
        self._busy_s: float | None = None
        self._busy_ns = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def busy_s(self) -> float | None:
        """Our part of the seconds in which a kernel ran, from NVML's utilisation; None where it is not known for the whole time."""
        return self._busy_s

    @property
    def allocated_share(self) -> float:
        """The part of the board that this process holds, busy or not."""
        slice_share = None if self._nvml is None else self._nvml.slice_share
        return self._declared_share * (1.0 if slice_share is None else slice_share)

    def start(self) -> None:
        self._nvml = open_board(self._uuid, self.notes)
        if self._nvml is None:
            return
        self._limit_w = self._nvml.power_limit_w()
        self._choose_sensor(self._nvml)
        self._start_ns = self._split_ns = self._last_ns
        self._look(self._nvml)
        busy = None if self._nvml.slice_share is not None else self._nvml.utilisation()
        self._busy_s, self._busy_ns = (None if busy is None else 0.0), self._clock()
        if self._threaded and (self._senses or self._busy_s is not None):
            self._thread = threading.Thread(target=self._sample_until_stopped, name="playmeter-nvml", daemon=True)
            self._thread.start()

    def sample(self) -> None:
        """One look at power and utilisation, and now and then at the other users; the thread calls it ten times a second."""
        with self._lock:
            if self._nvml is None:
                return
            if self._read_watts is not None:
                self._integrate(self._nvml, self._read_watts)
            if self._senses and self._clock() - self._split_ns >= LOOK_NS:
                self._take(self._nvml)
            if self._busy_s is not None:
                self._add_busy(self._nvml)

    def read(self) -> Energy:
        with self._lock:
            if self._nvml is None or not self._senses:
                return ABSENT_ENERGY
            if self._read_watts is not None:
                self._integrate(self._nvml, self._read_watts)
            self._take(self._nvml)
            return self._interval(unread_s=(self._clock() - self._last_ns) / 1e9)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
        with self._lock:
            if self._nvml is not None:
                self._nvml.close()
            self._nvml = None

    @property
    def _senses(self) -> bool:
        return self._read_joules is not None or self._read_watts is not None

    def _interval(self, unread_s: float) -> Energy:
        edges_j = self._segments * 2 * self._edge_s * self._limit_w
        joules, low, high = self._shared.split()
        # reading = truth x gain, and the gain is within 1 +- error
        low_j = max(0.0, low / (1 + self._error) - edges_j - self._shifts * self._edge_s * self._limit_w)
        high_j = high / (1 - self._error) + self._gap_high_j + unread_s * self._limit_w + edges_j
        method = ESTIMATED if self._was_shared else self._method
        samples = self._samples if self._read_joules is None else int((self._last_ns - self._start_ns) / 1e9 / EDGE_S)
        return Energy(joules + self._gap_j, low_j, high_j, method, samples, most_w=self._limit_w * self._part.high)

    def _take(self, nvml: Nvml) -> None:
        """See who used the board since the last time, and split what it drew meanwhile."""
        if self._read_joules is not None:
            self._add_counter(nvml, self._read_joules)
        before = self._part
        self._look(nvml)
        if self._last_ns > self._split_ns:
            self._shared.add(self._part, self._ready_j, (self._last_ns - self._split_ns) / 1e9)
            self._was_shared = self._was_shared or not self._part.whole
            self._shifts += abs(self._part.low_work - before.low_work)
            self._ready_j, self._split_ns = 0.0, self._last_ns

    def _add_counter(self, nvml: Nvml, read_joules: Callable[[], float]) -> None:
        now_ns, joules = self._clock(), nvml.ask("energy", read_joules)
        if joules is None:  # the counter goes on counting: the next answer covers this time too
            self._method = ESTIMATED
            return
        seconds = (now_ns - self._last_ns) / 1e9
        still = joules == self._last and seconds > STILL_S  # no board draws nothing
        if still or not 0 <= joules - self._last <= IMPOSSIBLE * self._limit_w * (seconds + 2 * EDGE_S):
            self._segments += 1
            self._gap_high_j += self._limit_w * seconds
            self._method = ESTIMATED
            what = "stood still" if still else "was reset (driver reload?)"
            say_once(self.notes, f"the GPU's energy counter {what}: the time around it is not counted")
        else:
            self._ready_j += joules - self._last
            self._method = MEASURED if self._segments == 1 else ESTIMATED
        self._last, self._last_ns = joules, now_ns

    def _integrate(self, nvml: Nvml, read_watts: Callable[[], float]) -> None:
        now_ns, watts = self._clock(), self._plausible(nvml.ask("power", read_watts))
        if watts is None:
            self._method = ESTIMATED
            return
        step_s = (now_ns - self._last_ns) / 1e9
        trapezoid_j = (watts + self._last) / 2 * step_s
        if step_s <= LATE_S:
            self._ready_j += trapezoid_j
        else:
            self._gap_j += trapezoid_j * self._part.work
            self._gap_high_j += max(self._limit_w, watts, self._last) * step_s
        self._samples += step_s > 0
        self._last, self._last_ns = watts, now_ns

    def _plausible(self, watts: float | None) -> float | None:
        """None, with a note, for what no board draws: also nothing at all."""
        if watts is None or 0 < watts <= IMPOSSIBLE * self._limit_w:
            return watts
        say_once(
            self.notes, "the GPU tells a power that no board draws (0 W, or far above its limit): such readings are left out"
        )
        return None

    def _add_busy(self, nvml: Nvml) -> None:
        now_ns, busy = self._clock(), nvml.utilisation()
        if busy is None or self._busy_s is None:
            self._busy_s = None  # a sum with a hole in it would be a wrong number
            return
        self._busy_s += busy * self._part.work * (now_ns - self._busy_ns) / 1e9
        self._busy_ns = now_ns

    def _look(self, nvml: Nvml) -> None:
        self._part = self._our_part(nvml)
        self._shared.saw(self._plausible(nvml.watts()))

    def _our_part(self, nvml: Nvml) -> sharing.Part:
        """In a container NVML sees the host's pids, so that none is ours, and a single one may be ourselves."""
        if nvml.slice_share is not None:
            return sharing.slice_of(nvml.slice_share)
        users = nvml.processes() or set()
        ours = users & self._own_pids() if len(users) > 1 else users
        busy = nvml.process_utilisation() if ours else None  # asked alone too: it tells what was since the last time
        if ours == users:  # nobody else is seen; others of ours may be all the same, in containers of their own
            return sharing.declared(self._declared_share)
        if self._declared_share == 1:
            # not how many: they come and go, and each number would be a note of its own
            say_once(self.notes, "other processes use the GPU too: low is our work alone, high the whole board")
        if busy is not None:
            return sharing.by_work(sum(busy.get(pid, 0) for pid in ours), sum(busy.values()), len(ours), len(users))
        if self._declared_share < 1:
            return sharing.declared(self._declared_share)
        return sharing.equally(max(1, len(ours)), len(users))

    def _sample_until_stopped(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.sample()

    def _choose_sensor(self, nvml: Nvml) -> None:
        """The first of counter, instant power and average power that answers."""
        self._last_ns = self._clock()
        if nvml.is_virtual():
            self._was_shared = True
            say_once(self.notes, "the GPU is virtual (vGPU): what it tells of its energy is an estimate")
        for reader in (nvml.counter_j, nvml.instant_w, nvml.average_w):
            first = nvml.ask(reader.__name__, reader, quiet=True)
            if first is None or (reader != nvml.counter_j and self._plausible(first) is None):
                continue
            self._last, self._last_ns = first, self._clock()
            if reader == nvml.counter_j:
                self._read_joules = reader
            else:
                self._read_watts = reader
                self._error, self._edge_s = POWER_ERROR, EDGE_S if reader == nvml.instant_w else AVERAGED_EDGE_S
                say_once(self.notes, "the GPU has no energy counter: its power is sampled and integrated")
            return
        say_once(self.notes, "NVML tells neither energy nor power of this GPU: GPU energy is absent")
