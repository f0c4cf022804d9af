"""``playmeter eval``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tyro.conf import Positional

from analysis import units
from cli import INTERRUPTED, PREEMPTED
from cli.ending import ignore_signals
from cli.parsing import parse, writable_or_dash, write_json
from cli.progress import spent
from cli.train import human_share
from runs.config import InputError
from runs.schema import ABSENT, FINISHED, SchemaError, read_evals, total_energy
from runs.schema import INTERRUPTED as STOPPED

if TYPE_CHECKING:
    from analysis.tables import Run
    from envs.protocols import Protocol
    from runs.evaluate import Evaluation
    from runs.final_agent import Asked
    from runs.meter import MeterReading
    from runs.stopping import Stop

HEAD = ("games", "mean ± std. error", "median", "lowest to highest", "of human", "in training")


@dataclass(frozen=True)
class Eval:
    """Let the final agents of finished and interrupted runs play again: other games than those of the training's evaluations. The run folders stay as they are."""

    folders: Positional[tuple[Path, ...]] = (Path("results"),)
    """Run folders, or folders that hold some."""
    episodes: int | None = None
    """Full games of each agent; the default is the protocol's number."""
    protocol: str | None = None
    """The rules of play (`playmeter envs`); the default is each run's own."""
    epsilon: float | None = None
    """The share of random actions, from 0 to 1; the default is the protocol's."""
    seed: int = 0
    """Another number, other games."""
    json: str | None = None
    """Write every game's score to this file as JSON (docs/json.md), or to standard output with `-`."""


@dataclass(frozen=True)
class Played:
    """What one agent did."""

    run: Run
    rules: Protocol
    evaluation: Evaluation

    @property
    def returns(self) -> list[float]:
        return self.evaluation.returns[0]

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std_error(self) -> float | None:
        """Of the mean over games; None of a single game."""
        games = len(self.returns)
        return float(np.std(self.returns, ddof=1) / games**0.5) if games > 1 else None

    @property
    def in_training(self) -> float | None:
        """What the training's own evaluation of the same agent says. None where there was none, or it was played by other rules."""
        try:
            evals = read_evals(self.run.folder)
        except SchemaError:
            return None
        same_rules = self.rules.name == self.run.record.env.protocol
        if not evals or not same_rules or evals[-1].steps != self.run.total.lineage.steps:
            return None
        return evals[-1].mean_return if evals[-1].epsilon == self.evaluation.epsilon else None


def eval_command(argv: Sequence[str]) -> int:
    """Let final agents play again: a line each, what seeds have in common, and what it took. Ctrl-C leaves those that have played."""
    from analysis.tables import NoRunsError, read_runs

    asked: Eval = parse(Eval, argv, "eval")
    target = writable_or_dash(asked.json)
    try:
        runs, unread = read_runs(list(asked.folders))
    except NoRunsError as error:
        raise InputError(str(error)) from None
    from runs.final_agent import Asked  # importing torch takes seconds
    from runs.machine import describe_device
    from runs.meter import Meter
    from runs.stopping import interruptible

    how = Asked(asked.episodes, asked.epsilon, asked.protocol, asked.seed)
    left_out = {one.id: one.reason for one in unread}
    meter = Meter(describe_device("cpu"))
    meter.start()
    try:
        with lines(quiet=target == "-") as (show, going_on), interruptible() as stop:
            played = list(play(runs, how, left_out, show, going_on, stop))
    finally:
        meter.stop()
    if stop():
        ignore_signals()
    elif not played:
        name, reason = next(iter(left_out.items()))
        others = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        raise InputError(f"{name}{others}: {reason}")
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    for one in played:
        if one.run.total.status == STOPPED:
            steps = one.run.total.lineage.steps or 0
            print(f"{one.run.id} was interrupted at step {steps:,} of {one.run.record.budget}", file=sys.stderr)
    groups, reading = over_seeds(played), meter.read()
    if target is not None and played:
        write_json(target, as_json(played, groups, left_out, asked, reading))
    if target != "-" and played:
        print("\n".join([*map(in_words, groups), took(played, reading)]))
    if stop():
        return INTERRUPTED if stop.signal == signal.SIGINT else PREEMPTED
    return 0


Show = Callable[[str], None]


def play(runs: Sequence[Run], how: Asked, left_out: dict[str, str], show: Show, going_on: Show, stop: Stop) -> Iterator[Played]:
    """Every run that can play, until ``stop()``; ``left_out`` is told of the others."""
    from envs.registry import UnknownEnv
    from runs.final_agent import check, play_again

    able: list[Run] = []
    for run in runs:
        try:
            check(run.folder, run.record, run.total.status, how)
            able.append(run)
        except (InputError, UnknownEnv) as error:
            left_out[run.id] = str(error)
    if able:
        width = max(len(run.id) for run in able)
        show(row("", width, HEAD))
    for run in able:
        if stop():
            left_out[run.id] = "interrupted before it played"
            continue
        going_on(f"{run.id} begins")

        def tell(over: int, of: int, name: str = run.id) -> None:
            going_on(f"{name}: {units.count(over)} of {units.count(of)} games over")

        try:
            done = Played(run, *play_again(run.folder, run.record, how, tell, stop))
        except InputError as error:
            left_out[run.id] = str(error)
            continue
        if not done.evaluation.complete:
            left_out[run.id] = "interrupted, its games are not all over"
            continue
        show(row(run.id, width, cells(done)))
        yield done


@contextmanager
def lines(quiet: bool) -> Iterator[tuple[Show, Show]]:
    """What shows a line, and what tells of what is going on: on a terminal below the lines, elsewhere not at all."""
    if quiet:
        yield lambda text: None, lambda text: None
    elif sys.stdout is None or not sys.stdout.isatty():
        yield partial(print, flush=True), lambda text: None
    else:
        from rich.console import Console

        console = Console(highlight=False)
        with console.status("") as status:  # wide lines are the terminal's to break
            yield partial(console.print, markup=False, soft_wrap=True), status.update


def row(name: str, width: int, rest: Sequence[str]) -> str:
    return "  ".join([name.ljust(width), *(text.rjust(len(head)) for text, head in zip(rest, HEAD, strict=True))]).rstrip()


def cells(played: Played) -> list[str]:
    returns, share = played.returns, human_share(played.run.record.env.id, played.mean)
    error = "" if played.std_error is None else f" ± {units.score(played.std_error)}"
    return [
        units.count(len(returns)),
        f"{units.score(played.mean)}{error}",
        units.score(float(np.median(returns))),
        f"{units.score(min(returns))} to {units.score(max(returns))}",
        "" if share is None else units.percent(share),
        "" if played.in_training is None else units.score(played.in_training),
    ]


def over_seeds(played: Sequence[Played]) -> list[dict[str, Any]]:
    """Finished runs that differ in their seed alone, two and more: the centre of their means with its interval, pooled as in reports."""
    from analysis.across import centre
    from analysis.comparisons import group, pool
    from analysis.statistics import estimator

    means = {one.run.id: one.mean for one in played}
    pooled = [pool(alike)[0] for alike in group([one.run for one in played])]
    return [
        {
            "agent": runs[0].record.agent,
            "env": runs[0].record.env.id,
            "budget": runs[0].record.budget,
            "protocol": next(one.rules.name for one in played if one.run is runs[0]),
            "runs": [run.id for run in runs],
            "estimator": estimator(len(runs)),
        }
        | centre([means[run.id] for run in runs])
        for runs in pooled
        if len(runs) > 1 and all(run.total.status == FINISHED for run in runs)
    ]


def in_words(group: dict[str, Any]) -> str:
    ends = f"{units.score(group['low'])} to {units.score(group['high'])}"
    return (
        f"{group['agent']} on {group['env']}, {group['budget']}, {group['n']} seeds: "
        f"{group['estimator']} {units.score(group['iqm'])} (95 % interval {ends})"
    )


def took(played: Sequence[Played], reading: MeterReading) -> str:
    """How much was played, in what time and with what energy."""
    frames = sum(int(one.evaluation.frames.sum()) for one in played)
    with_time = [one for one in played if one.run.record.env.frame_rate_hz is not None]
    play_s = sum(one.evaluation.frames.sum() / (one.run.record.env.frame_rate_hz or 1) for one in with_time)
    play = f" ({units.duration(play_s)} of human play)" if len(with_time) == len(played) else ""
    cost = spent(total_energy(reading.energy))
    games = sum(len(one.returns) for one in played)
    return f"{units.count(games)} game{'s' * (games > 1)}, {units.count(frames)} frames{play} in {units.duration(reading.wall_s)}, {cost}"


def as_json(
    played: Sequence[Played], groups: list[dict[str, Any]], left_out: dict[str, str], asked: Eval, reading: MeterReading
) -> dict[str, Any]:
    energy = total_energy(reading.energy)
    return {
        "seed": asked.seed,
        "runs": [
            {
                "id": one.run.id,
                "agent": one.run.record.agent,
                "env": one.run.record.env.id,
                "seed": one.run.record.seed,
                "budget": one.run.record.budget,
                "trained_steps": one.run.total.lineage.steps,
                "protocol": one.rules.name,
                "epsilon": one.evaluation.epsilon,
                "mean": one.mean,
                "std_error": one.std_error,
                "human_normalised": human_share(one.run.record.env.id, one.mean),
                "in_training": one.in_training,
                "returns": one.returns,
                "lengths": one.evaluation.lengths[0],
                "frames": int(one.evaluation.frames.sum()),
                "boot_frames": int(one.evaluation.boot_frames.sum()),
            }
            for one in played
        ],
        "over_seeds": groups,
        "left_out": left_out,
        "wall_s": reading.wall_s,
        "energy": asdict(energy) | (dict.fromkeys(("joules", "low_j", "high_j")) if energy.method == ABSENT else {}),
    }
