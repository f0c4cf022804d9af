"""The processor's and its memory's joules from RAPL, as Linux shows it in /sys/class/powercap.

Counted: the packages and the memory (dram) beside them. A core or uncore counter is part of its package, psys of the whole platform
holds the packages, and intel-rapl-mmio shows the same packages once more: adding those would count joules twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runs.energy.sharing import by_cpu_time
from runs.energy.source import ABSENT_ENERGY, say_once
from runs.machine import TreeCpu, machine_cpu_s
from runs.schema import ESTIMATED, MEASURED, Energy

RAPL_ERROR = 0.05  # against external meters, Haswell and newer (Khan et al., RAPL in Action, 2018, doi 10.1145/3177754)
PUBLISH_S = 0.001  # the counters are renewed about every millisecond
MOST_W = 1000.0  # more than one package draws: within 60 s less than 65.5 kJ, where the smallest counters wrap
SAMPLE_S = 30.0  # well within 60 s
TICKS_S = 0.05  # the kernel counts CPU time in ticks of 10 ms: less than five say nothing of a share
STRANGERS = 0.1  # of the machine's CPU seconds: more than its own housekeeping


@dataclass(frozen=True)
class Zones:
    packages: list[Path]
    drams: list[Path]


def find_zones(root: Path) -> tuple[Zones, list[str]]:
    """The counters that can be read under ``root``, and for people why there are none."""
    names = {zone: _text(zone / "name") for zone in sorted(root.glob("intel-rapl:*"))}
    packages = [zone for zone, name in names.items() if name.startswith("package")]
    # intel-rapl:0:2 is a child of intel-rapl:0
    drams = [zone for zone, name in names.items() if name == "dram" and zone.parent / zone.name.rpartition(":")[0] in packages]
    if not packages:
        return Zones([], []), []  # a virtual machine, or no such processor: nothing that the user could change
    shut = [zone for zone in packages if _microjoules(zone) is None]
    if shut:
        return Zones([], []), [
            f"RAPL is there and may not be read, so the processor is estimated: sudo chmod a+r {root}/intel-rapl:*/energy_uj "
            "(until the next start of the machine)"
        ]
    return Zones(packages, [zone for zone in drams if _microjoules(zone) is not None]), []


class Rapl:
    """Joules of some counters of one kind, and our part of them by CPU time.

    A counter that fell has wrapped, unless the package cannot have drawn that much: then it was reset (a suspend), and adds nothing for the
    gap. After more than 60 s without a look it may have wrapped unseen, which widens upwards.
    """

    def __init__(
        self,
        name: str,
        zones: list[Path],
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        threaded: bool = True,
        own_cpu_s: TreeCpu | None = None,
        all_cpu_s: Callable[[], float] = machine_cpu_s,
    ) -> None:
        self.name, self.notes = name, list[str]()
        self._clock, self._threaded = clock, threaded
        self._counters = [_Counter(zone) for zone in zones]
        self._cpu, self._all_cpu_s = own_cpu_s or TreeCpu(), all_cpu_s
        self._start_ns = self._last_ns = 0
        self._spent = (0.0, 0.0)  # CPU seconds at the last split: ours, everybody's
        self._ours = 1.0
        self._ready_j = 0.0  # counted, not yet split
        self._split = [0.0, 0.0, 0.0]  # joules, low, high
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._start_ns = self._last_ns = self._clock()
        self._cpu.start()
        self._spent = (0.0, self._all_cpu_s())
        for counter in self._counters:
            counter.begin(self._start_ns)
        if self._threaded:
            self._thread = threading.Thread(target=self._sample_until_stopped, name=f"playmeter-{self.name}", daemon=True)
            self._thread.start()

    def sample(self) -> None:
        """One look at the counters; the thread calls it where nobody reads for long."""
        with self._lock:
            self._last_ns = self._clock()
            for counter in self._counters:
                self._ready_j += counter.step(self._last_ns, self.notes)
            self._split_by_cpu_time()

    def read(self) -> Energy:
        self.sample()
        with self._lock:
            if not any(counter.answered for counter in self._counters):
                return ABSENT_ENERGY
            return self._interval()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def _interval(self) -> Energy:
        joules, low, high = (
            done + self._ready_j * part for done, part in zip(self._split, by_cpu_time(self._ours), strict=True)
        )
        edges_j = 2 * PUBLISH_S * MOST_W * len(self._counters)
        unread_j = sum(counter.unread_high_j(self._last_ns) for counter in self._counters)
        alone = joules >= (1 - STRANGERS) * high
        if not alone:
            say_once(self.notes, "other work used the processor too: our part of its energy is taken by CPU time")
        whole = alone and all(counter.whole for counter in self._counters)
        samples = int((self._last_ns - self._start_ns) / 1e9 / PUBLISH_S)
        return Energy(
            joules,
            max(0.0, low / (1 + RAPL_ERROR) - edges_j),
            high / (1 - RAPL_ERROR) + unread_j + edges_j,
            MEASURED if whole else ESTIMATED,
            samples,
            most_w=MOST_W * len(self._counters),
        )

    def _split_by_cpu_time(self) -> None:
        ours, everybodys = self._cpu.read(), self._all_cpu_s()
        own_s, all_s = ours - self._spent[0], everybodys - self._spent[1]
        if max(own_s, all_s) < TICKS_S:
            return
        self._ours = min(1.0, own_s / max(own_s, all_s))
        self._split = [done + self._ready_j * part for done, part in zip(self._split, by_cpu_time(self._ours), strict=True)]
        self._ready_j, self._spent = 0.0, (ours, everybodys)

    def _sample_until_stopped(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.sample()


class _Counter:
    """One energy_uj with its wraps."""

    def __init__(self, zone: Path) -> None:
        self._zone = zone
        self._range_j = (_number(zone / "max_energy_range_uj") or 0) / 1e6
        self._last_j: float | None = None
        self._last_ns = 0
        self._gap_high_j = 0.0
        self.whole = True  # every second of it was counted

    @property
    def answered(self) -> bool:
        return self._last_j is not None

    def begin(self, now_ns: int) -> None:
        self._last_j, self._last_ns = _joules(self._zone), now_ns
        self.whole = self._last_j is not None

    def step(self, now_ns: int, notes: list[str]) -> float:
        """Joules since the last answer. No answer adds nothing: the counter goes on counting."""
        joules = _joules(self._zone)
        if joules is None or self._last_j is None:
            self.whole = False
            say_once(notes, f"RAPL ({_text(self._zone / 'name') or self._zone.name}) stopped answering")
            return 0.0
        most_j = MOST_W * ((now_ns - self._last_ns) / 1e9 + 2 * PUBLISH_S)
        step_j = joules - self._last_j
        if step_j < 0:
            step_j += self._range_j
        if not 0 <= step_j <= most_j:
            say_once(notes, "a RAPL counter was reset (suspend?): the time around it is not counted")
            self._gap_high_j += most_j
            self.whole, step_j = False, 0.0
        elif self._range_j > 0 and (unseen := (most_j - step_j) // self._range_j) > 0:
            say_once(notes, "a RAPL counter was not looked at for more than a minute and may have wrapped unseen")
            self._gap_high_j += unseen * self._range_j
            self.whole = False
        self._last_j, self._last_ns = joules, now_ns
        return step_j

    def unread_high_j(self, now_ns: int) -> float:
        """The most that was drawn and not counted."""
        return self._gap_high_j + MOST_W * (now_ns - self._last_ns) / 1e9


def _joules(zone: Path) -> float | None:
    microjoules = _microjoules(zone)
    return None if microjoules is None else microjoules / 1e6


def _microjoules(zone: Path) -> int | None:
    return _number(zone / "energy_uj")


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
