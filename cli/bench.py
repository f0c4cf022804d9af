"""``playmeter bench``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from analysis import units
from cli import nearest
from cli.parsing import parse, writable_or_dash, write_json
from runs.config import InputError

if TYPE_CHECKING:
    from runs.bench import Machine, Speed


@dataclass(frozen=True)
class Bench:
    """How fast this machine is: emulators, acting, updates and whole trainings, beside stable-baselines3's DQN and the hardware's limit."""

    only: tuple[str, ...] = ()
    """Some cases only, e.g. cartpole-1 atari-1."""
    repeats: int = 3
    """How often each case and its peer are run, in turns; medians are shown with their range."""
    seconds: float = 8.0
    """How long each run is timed, from its first update on."""
    device: str = "auto"
    """auto, cpu or cuda:0."""
    threads: int | None = None
    """CPU threads of torch on both sides; by default each side uses what it chooses."""
    json: str | None = None
    """Write the results to this file as JSON, or to standard output with `-`."""


def bench_command(argv: Sequence[str]) -> int:
    """Time this machine."""
    asked: Bench = parse(Bench, argv, "bench")
    if asked.repeats < 1 or not 3 <= asked.seconds <= 600 or (asked.threads is not None and asked.threads < 1):
        raise InputError("--repeats and --threads must be at least 1, and --seconds lie between 3 and 600")
    target = writable_or_dash(asked.json)
    from runs.bench import CASES, bench, machine  # importing torch takes seconds

    known = [case.name for case in CASES]
    for name in asked.only:
        if name not in known:
            raise InputError(f"unknown case {name!r}{nearest(name, known)}; there are {', '.join(known)}")
    cases = [case for case in CASES if case.name in (asked.only or known)]
    not_timed = {case.name: lack for case in cases if (lack := case.lacks(asked.device))}
    if asked.only and not_timed:
        raise InputError("; ".join(f"{name} cannot be timed here, {lack}" for name, lack in not_timed.items()))
    stream = sys.stderr if target == "-" else sys.stdout
    of, found = machine(asked.device, asked.threads), []
    print(hardware(of), file=stream, flush=True)
    possible = [case for case in cases if case.name not in not_timed]

    def notice(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    for one in bench(of, possible, asked.repeats, asked.seconds, asked.device, asked.threads, notice):
        print(row(one), file=stream, flush=True)
        found.append(one)
    for name, lack in not_timed.items():
        print(f"{name:<14} not timed: {lack}", file=stream, flush=True)
    if target is not None:
        write_json(target, {"machine": asdict(of), "cases": [asdict(one) for one in found], "not_timed": not_timed})
    return 0


COLUMNS = "{:<14} {:<24} {:<10} {:<15} {:<10} {:<20} {}"


def hardware(of: Machine) -> str:
    frames = [f"  {env:<24} {units.count(rate)} frames/s" for env, rate in of.env_frames_per_s.items()]
    limits = (
        f"{of.threads} threads: matmul {of.matmul_gflops_per_s:,.0f} GFLOP/s, copy {of.copy_gb_per_s:.1f} GB/s; random play:"
    )
    head = COLUMNS.format("case", "steps/s in sum", "updates/s", "update/act, ms", "of matmul", "x SB3's DQN", "time goes to")
    return "\n".join([limits, *frames, "", head])


def row(one: Speed) -> str:
    low, high = one.steps_per_s_range
    ratio = (
        ""
        if one.ratio is None or one.ratio_range is None
        else f"{one.ratio:.2f} ({one.ratio_range[0]:.2f}–{one.ratio_range[1]:.2f})"
    )
    return COLUMNS.format(
        one.case,
        f"{units.count(one.steps_per_s)} ({units.count(low)}–{units.count(high)})",
        units.count(one.updates_per_s),
        "one call" if one.update_ms is None else f"{one.update_ms:.2f} / {one.act_ms:.2f}",
        f"{one.matmul_share:.0%}",
        ratio,
        ", ".join(f"{name} {share:.0%}" for name, share in one.phases.items() if share >= 0.005)
        + ("" if one.gpu_busy_share is None else f"; GPU busy {one.gpu_busy_share:.0%}"),
    )
