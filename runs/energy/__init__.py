"""Where joules come from, in order of trust: a board's own counter, its integrated power, the processor's counters (RAPL), and, where
nothing measures, watts that the user states or a table of watts. A user's wall meter stands above them all.

Every figure is an interval, ``low_j <= joules <= high_j``, with the method it came from. Energy is gross: idle power is in it.
A source never ends a run: what cannot be measured is ``absent``, or a wider interval, with the reason in ``notes``.
An absent source is recorded as 0 J with low and high 0; its method says that this is not a measurement of nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from runs.energy.board import NvmlBoard
from runs.energy.processor import VCPU_WATTS, CpuEstimate, StatedWatts, estimate_cpu, parse_watts
from runs.energy.rapl import Rapl, find_zones
from runs.energy.source import Absent, EnergyOptions, EnergySource
from runs.energy.wall_meter import WallMeter, check_wall_meter

__all__ = [
    "VCPU_WATTS",
    "Absent",
    "CpuEstimate",
    "EnergyOptions",
    "EnergySource",
    "NvmlBoard",
    "Rapl",
    "StatedWatts",
    "WallMeter",
    "check_options",
    "estimate_cpu",
    "sources_for",
]


def sources_for(
    device: Mapping[str, Any] | None, clock: Callable[[], int] = time.monotonic_ns, options: EnergyOptions | None = None
) -> list[EnergySource]:
    """The sources of a run on ``device`` (a record of ``machine.describe_device``): the board it uses, the processor, and a
    wall meter where the user has one."""
    options = options or EnergyOptions()
    sources: list[EnergySource] = []
    if device is not None and device["type"] == "cuda":
        sources.append(NvmlBoard(device.get("uuid"), clock=clock, declared_share=options.gpu_share))
    sources += processor_sources(clock, options)
    if options.wall_meter is not None:
        sources.append(WallMeter(options.wall_meter, clock=clock))
    return sources


def processor_sources(clock: Callable[[], int], options: EnergyOptions) -> list[EnergySource]:
    """RAPL where it can be read; else the user's watts; else the estimate."""
    zones, notes = find_zones(options.powercap)
    stated = None if options.cpu_watts is None else parse_watts(options.cpu_watts)
    if zones.packages:
        package = Rapl("cpu_package", zones.packages, clock=clock)
        if stated is not None:
            package.notes.append("--cpu-watts is not used: RAPL measures the processor")
        dram = (
            Rapl("dram", zones.drams, clock=clock) if zones.drams else Absent("dram", "RAPL has no counter of the memory here")
        )
        return [package, dram]
    processor = CpuEstimate(clock=clock) if stated is None else StatedWatts(*stated, clock=clock)
    processor.notes += notes
    return [processor]


def check_options(options: EnergyOptions) -> None:
    """Raise ValueError, one line that names the fault and the way out, for what no run can be metered with."""
    if options.cpu_watts is not None:
        parse_watts(options.cpu_watts)
    if not 0 < options.gpu_share <= 1:
        raise ValueError(
            f"--gpu-share must be above 0 and at most 1, not {options.gpu_share:g}: 0.5 for one of two runs on a GPU"
        )
    if options.wall_meter is not None:
        check_wall_meter(options.wall_meter)
