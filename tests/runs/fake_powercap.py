"""A fake /sys/class/powercap: zones whose energy_uj follows a load on a virtual clock, wrapping where a real one does."""

from __future__ import annotations

from pathlib import Path

from tests.runs.fake_nvml import Clock, Load

RANGE_UJ = 65_532_610_987  # of many servers


class FakePowercap:
    """``zone`` adds one; ``show`` writes what the counters show now (the kernel does that at every read)."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self.root, self.clock = root, clock
        self.zones: dict[str, tuple[Load, int, float, int]] = {}

    def zone(self, folder: str, name: str, load: Load, start_uj: int = 0, range_uj: int = RANGE_UJ) -> None:
        (self.root / folder).mkdir(parents=True)
        (self.root / folder / "name").write_text(f"{name}\n")
        (self.root / folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        self.zones[folder] = (load, start_uj, self.clock.s, range_uj)
        self.show()

    def reset(self, folder: str) -> None:
        load, _, _, range_uj = self.zones[folder]
        self.zones[folder] = (load, 0, self.clock.s, range_uj)

    def show(self) -> None:
        for folder, (load, start_uj, since_s, range_uj) in self.zones.items():
            shown = (start_uj + round(load.joules(since_s, self.clock.s) * 1e6)) % range_uj
            (self.root / folder / "energy_uj").write_text(f"{shown}\n")
