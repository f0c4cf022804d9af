"""A forecast of a training's cost before anything is burned: a few seconds of the same training on this machine, then arithmetic.

The calibration is the training itself, loop, meter and files, in a folder that is thrown away; only its warm-up is shortened. What it
cannot see is how long the trained agent's games will be: evaluations therefore have the widest interval.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, quantiles
from tempfile import TemporaryDirectory

from agents.config import AgentConfig
from agents.learner import Learner
from envs import spec
from envs.registry import protocol_of
from runs.budget import Budget, parse_budget
from runs.config import InputError, RunConfig
from runs.counters import Counters
from runs.evaluate import evaluate
from runs.family import FamilyTrainer
from runs.prepare import Runs, check_warm_up, lockstep_groups, resolve_device
from runs.schema import FINAL_CHECKPOINT, RUNNING, LedgerLine, read_ledger, total_energy
from runs.stopping import Stop
from runs.train import Group

TRAINING_PHASES = ("act", "learn", "env", "io")
HEARTBEAT_S = 1.0  # shorter ones wait for the disk so often that the forecast is a fifth too slow
WARM_UP_STEPS = 400  # at most: enough to time a step without learning
LEAST_SPREAD = 0.1  # of the pace: what an hour on a shared machine may differ from these seconds
LEAST_GAMES = 10
MOST_TRIED = 3  # games, of those that train one after another
LONG_GAME_STEPS = 2_000  # a longer time limit says nothing about how long a game usually is


@dataclass(frozen=True)
class Range:
    """A figure and what it may be instead."""

    value: float
    low: float
    high: float

    def __add__(self, other: Range | float) -> Range:
        if not isinstance(other, Range):
            other = Range(other, other, other)
        return Range(self.value + other.value, self.low + other.low, self.high + other.high)

    def __mul__(self, factor: Range | float) -> Range:
        if not isinstance(factor, Range):
            factor = Range(factor, factor, factor)
        return Range(self.value * factor.value, self.low * factor.low, self.high * factor.high)


@dataclass(frozen=True)
class Pace:
    """What a calibration saw of S runs in one process. A step is one of every run; seconds are wall-clock seconds of the process.

    Of several calibrations, each on a game of its own, it is their mean, with ranges that hold all of them (``mean_pace``).
    """

    games: tuple[str, ...]  # that were tried
    runs: int  # side by side: seeds, and on a GPU games
    setup_s: Range  # with a warm cache of the compiler; at most what the trial took, which may have compiled
    warm_up_step_s: float  # before learning starts
    learning_step_s: Range  # with the updates that belong to it
    eval_setup_s: float  # the emulators of an evaluation, every time
    eval_observation_s: float  # an observation of one game of every seed
    game_steps: Range  # of an evaluation
    frames_per_step: float
    eval_frames_per_observation: float
    watts: Range | None  # of the process; None: no source has a number
    energy_method: str
    gpus: float  # allocated
    forward_flops: int
    update_flops: int
    memory_bytes: int  # of the process, its replay full
    replay_bytes: int
    checkpoint_bytes: int  # of the agents alone, all runs
    seconds: float  # that the calibration learned


@dataclass(frozen=True)
class Forecast:
    """What the whole training will take: all its seeds and games together where it does not say otherwise."""

    steps: int  # per seed and game
    wall_s: Range
    frames: float  # training play
    play_s: float | None
    eval_frames: Range
    joules: Range | None
    gpu_h: Range
    flops: Range
    checkpoint_bytes: int  # of the agents alone; what a resume needs beside them is the replay, compressed


@dataclass(frozen=True)
class Job:
    """The arithmetic's inputs that are not measured, for one group of runs that train side by side."""

    budget: Budget
    frame_rate_hz: float | None
    warm_up_steps: int
    replay_ratio: float
    evals: int
    eval_episodes: int


def check_asked(config: RunConfig, seconds: float) -> None:
    """Raise InputError for what cannot be forecast."""
    if not 1 <= seconds <= 600:
        raise InputError(f"--seconds must lie between 1 and 600, not {seconds:g}")


def plan(config: RunConfig, seconds: float, notice: Callable[[str], None]) -> tuple[Pace, Forecast]:
    """Calibrate for about that many seconds of learning, and forecast the whole training.

    Runs that train one after another are tried on one game, or on ``MOST_TRIED`` where there are more; the others are taken to be alike.

    Raises:
        InputError, BudgetError, UnknownEnv, ConfigError: as ``train`` does; nothing was written.
    """
    agent = config.agent_config
    assert isinstance(agent, AgentConfig)
    check_asked(config, seconds)
    for env in config.envs:
        check_warm_up(parse_budget(config.budget), spec(env), agent.learning_starts_steps, "--agent.learning-starts-steps")
    groups = lockstep_groups(config, resolve_device(config.device))
    tried = spread_out(list({group.games: group for group in groups}.values()))
    paces = [calibrate(config, group, seconds, notice) for group in tried]
    forecasts = [forecast(pace, job_of(config, agent, group)) for pace, group in zip(paces, tried, strict=True)]
    return mean_pace(paces), whole(forecasts, len(groups))


def spread_out(groups: Sequence[Runs]) -> list[Runs]:
    """At most ``MOST_TRIED`` of them, from the first to the last."""
    count = min(MOST_TRIED, len(groups))
    return [groups[k * (len(groups) - 1) // max(1, count - 1)] for k in range(count)]


def job_of(config: RunConfig, agent: AgentConfig, group: Runs) -> Job:
    env_spec = group.env_specs[0]
    return Job(
        budget=parse_budget(config.budget),
        frame_rate_hz=env_spec.frame_rate_hz,
        warm_up_steps=agent.learning_starts_steps,
        replay_ratio=agent.replay_ratio,
        evals=config.evals,
        eval_episodes=config.eval_episodes or protocol_of(env_spec, config.protocol).eval_episodes,
    )


def mean_pace(paces: Sequence[Pace]) -> Pace:
    """What is alike in all of them, the mean of what takes time, and the most of what takes room."""
    first = paces[0]
    watts = [pace.watts for pace in paces if pace.watts is not None]
    return replace(
        first,
        games=tuple(game for pace in paces for game in pace.games),
        setup_s=widest([pace.setup_s for pace in paces]),
        warm_up_step_s=fmean(pace.warm_up_step_s for pace in paces),
        learning_step_s=widest([pace.learning_step_s for pace in paces]),
        eval_setup_s=fmean(pace.eval_setup_s for pace in paces),
        eval_observation_s=fmean(pace.eval_observation_s for pace in paces),
        game_steps=widest([pace.game_steps for pace in paces]),
        frames_per_step=fmean(pace.frames_per_step for pace in paces),
        eval_frames_per_observation=fmean(pace.eval_frames_per_observation for pace in paces),
        watts=widest(watts) if len(watts) == len(paces) else None,
        forward_flops=round(fmean(pace.forward_flops for pace in paces)),
        update_flops=round(fmean(pace.update_flops for pace in paces)),
        memory_bytes=max(pace.memory_bytes for pace in paces),
        replay_bytes=max(pace.replay_bytes for pace in paces),
        checkpoint_bytes=max(pace.checkpoint_bytes for pace in paces),
    )


def widest(ranges: Sequence[Range]) -> Range:
    return Range(fmean(each.value for each in ranges), min(each.low for each in ranges), max(each.high for each in ranges))


def whole(forecasts: Sequence[Forecast], groups: int) -> Forecast:
    """Of ``groups`` that train one after another and take in the mean what those forecast take."""
    each = groups / len(forecasts)

    def total(of: Sequence[Range]) -> Range:
        return sum(of[1:], start=of[0]) * each

    joules = [f.joules for f in forecasts if f.joules is not None]
    play_s = [f.play_s for f in forecasts if f.play_s is not None]
    return Forecast(
        steps=round(fmean(f.steps for f in forecasts)),
        wall_s=total([f.wall_s for f in forecasts]),
        frames=sum(f.frames for f in forecasts) * each,
        play_s=sum(play_s) * each if len(play_s) == len(forecasts) else None,
        eval_frames=total([f.eval_frames for f in forecasts]),
        joules=total(joules) if len(joules) == len(forecasts) else None,
        gpu_h=total([f.gpu_h for f in forecasts]),
        flops=total([f.flops for f in forecasts]),
        checkpoint_bytes=round(sum(f.checkpoint_bytes for f in forecasts) * each),
    )


@dataclass(frozen=True)
class Trial:
    """A training that was stopped early."""

    group: Group
    learner: Learner
    lines: list[LedgerLine]  # up to the stop: without the checkpoint that it writes
    checkpoint_bytes: int  # of the agents alone, all runs


class Limit(Stop):
    """Asks for the end some seconds after the first update."""

    counters: Counters | None = None
    began_s: float | None = None

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> bool:
        if self.began_s is None and self.counters is not None and self.counters.updates > 0:
            self.began_s = time.monotonic()
        return self.began_s is not None and time.monotonic() - self.began_s > self.seconds


def try_out(config: RunConfig, runs: Runs, seconds: float, notice: Callable[[str], None]) -> Trial:
    """Train for ``seconds`` after the first update, in a folder that is thrown away. The warm-up is shortened, nothing else."""
    agent = config.agent_config
    assert isinstance(agent, AgentConfig)
    warm_up = min(agent.learning_starts_steps, max(WARM_UP_STEPS, 2 * agent.batch_size))
    stopped = Limit(seconds)
    with TemporaryDirectory(prefix="playmeter-") as folder:
        short = replace(
            config, out=folder, agent_config=replace(agent, learning_starts_steps=warm_up), evals=1, eval_episodes=1,
            heartbeat_s=HEARTBEAT_S,
        )  # fmt: skip
        group = Group(short, runs, resolve_device(config.device), stopped, lambda progress: None, notice)
        stopped.counters = group.counters
        outcomes = group.run()
        assert isinstance(group.trainer, FamilyTrainer)
        size = sum((one.folder / FINAL_CHECKPOINT).stat().st_size for one in outcomes)
        lines = [line for line in read_ledger(outcomes[0].folder) if line.status == RUNNING]
        return Trial(group, group.trainer.learner, lines, size)


def calibrate(config: RunConfig, runs: Runs, seconds: float, notice: Callable[[str], None]) -> Pace:
    """Train one group of runs for ``seconds`` after its first update, and play an evaluation for a third of that."""
    trial = try_out(config, runs, seconds, notice)
    games = play(trial.group, config, seconds / 3)
    layout, costs, last = trial.learner.layout, trial.group.counters.costs, trial.lines[-1]
    untouched = max(0.0, 1 - steps_of(last) / (layout.capacity * layout.envs_per_seed))  # memory that is not in use yet
    first_s = last.active_s["setup"]
    pace = Pace(
        games=tuple(dict.fromkeys(runs.games)),
        runs=len(runs.seeds),
        setup_s=Range(first_s, first_s, first_s),
        warm_up_step_s=warm_up_pace(trial.lines),
        learning_step_s=learning_pace(trial.lines),
        eval_setup_s=games.setup_s,
        eval_observation_s=games.observation_s,
        game_steps=game_steps(games.steps, runs.env_specs[0].max_episode_steps),
        frames_per_step=(last.lineage.frames or 0) / max(1, steps_of(last)),
        eval_frames_per_observation=games.frames_per_observation,
        watts=power(trial.lines, len(runs.seeds)),
        energy_method=total_energy(last.energy).method,
        gpus=(last.gpu_allocated_s or 0.0) * len(runs.seeds) / (last.wall_s or 1.0),
        forward_flops=round(fmean(each.forward for each in costs)),
        update_flops=round(fmean(each.update for each in costs)),
        memory_bytes=(last.peak_rss_bytes or 0) + int(layout.nbytes * untouched if trial.learner.device.type == "cpu" else 0),
        replay_bytes=layout.nbytes,
        checkpoint_bytes=trial.checkpoint_bytes,
        seconds=seconds,
    )
    del trial, games
    gc.collect()  # there may be no room for a second replay
    again_s = time_setup(config, runs)
    return replace(pace, setup_s=Range(again_s, again_s, max(again_s, first_s)))


def time_setup(config: RunConfig, runs: Runs) -> float:
    """Seconds to set everything up where the compiler's cache is warm, as the training will find it after the trial."""
    began_s = time.monotonic()
    with TemporaryDirectory(prefix="playmeter-") as folder:
        group = Group(
            replace(config, out=folder), runs, resolve_device(config.device), Stop(), lambda progress: None,
            lambda note: None,
        )  # fmt: skip
        again_s = time.monotonic() - began_s
        group.trainer.books.world.close()
        group.meter.stop()
    return again_s


@dataclass(frozen=True)
class Games:
    """A piece of an evaluation."""

    setup_s: float
    observation_s: float
    steps: float  # of a mean game
    frames_per_observation: float


def play(group: Group, config: RunConfig, seconds: float) -> Games:
    """Play evaluation games for that long. Those that are not over then count as far as they got, so that short ones do not count double."""
    trainer = group.trainer
    assert isinstance(trainer, FamilyTrainer)
    seeds, began_s = len(group.seeds), time.monotonic()
    games = evaluate(
        trainer.learner, group.runs.games, group.protocol.name, config.eval_episodes or LEAST_GAMES, 0,
        stop=lambda: time.monotonic() - began_s > seconds, due=lambda: True,
    )  # fmt: skip
    first = next(games)  # the emulators are there, and every lane made a step
    first_s = time.monotonic()
    last, lanes = first, int(first.observations[0])
    for last in games:  # noqa: B007
        pass
    observations = int(last.observations[0])
    observation_s = (time.monotonic() - first_s) / max(1, observations - lanes)
    played = observations * seeds
    over = sum(len(lengths) for lengths in last.lengths)
    return Games(first_s - began_s, observation_s, played / (over + lanes * seeds / 2), float(last.frames.sum()) / played)


def training_s(line: LedgerLine) -> float:
    return sum(line.active_s[phase] for phase in TRAINING_PHASES)


def steps_of(line: LedgerLine) -> int:
    return line.lineage.steps or 0


def warm_up_pace(lines: Sequence[LedgerLine]) -> float:
    """Seconds a step before the first update; of acting and playing alone, where no line fell into the warm-up."""
    before = [line for line in lines if line.lineage.updates == 0]
    if steps_of(before[-1]) > 0:
        return training_s(before[-1]) / steps_of(before[-1])
    last = lines[-1]
    return (last.active_s["act"] + last.active_s["env"] + last.active_s["io"]) / max(1, steps_of(last))


def learning_pace(lines: Sequence[LedgerLine]) -> Range:
    """Seconds a step once updates are made: their mean, and the fastest and slowest tenth of the times between two lines."""
    learning = [line for line in lines if line.lineage.updates]
    first, last = learning[0], learning[-1]
    if steps_of(last) == steps_of(first):
        first = lines[0]
    mean = (training_s(last) - training_s(first)) / max(1, steps_of(last) - steps_of(first))
    pairs = pairwise(learning)
    paces = [(training_s(b) - training_s(a)) / (steps_of(b) - steps_of(a)) for a, b in pairs if steps_of(b) > steps_of(a)]
    tenths = quantiles(paces, n=10) if len(paces) > 9 else [mean]
    return Range(mean, min(tenths[0], (1 - LEAST_SPREAD) * mean), max(tenths[-1], (1 + LEAST_SPREAD) * mean))


def power(lines: Sequence[LedgerLine], seeds: int) -> Range | None:
    """Watts of the process while it learned."""
    learning = [line for line in lines if line.lineage.updates]
    last, first = learning[-1], learning[0] if len(learning) > 1 else lines[0]
    a, b = total_energy(first.energy), total_energy(last.energy)
    seconds = (last.wall_s or 0.0) - (first.wall_s or 0.0)
    if b.method == "absent" or seconds <= 0:
        return None
    return Range(b.joules - a.joules, b.low_j - a.low_j, b.high_j - a.high_j) * (seeds / seconds)


def game_steps(seen: float, limit: int | None) -> Range:
    """How long a game of an evaluation may be, from the games of an agent that has learned nothing yet."""
    if limit is not None and limit <= LONG_GAME_STEPS:
        return Range(min(max(seen, limit / 2), limit), min(seen, limit), limit)
    return Range(1.5 * seen, 0.5 * seen, 6 * seen)


def forecast(pace: Pace, job: Job) -> Forecast:
    """The arithmetic, for one group. A budget that is not in steps is turned into the steps that use it up."""
    steps = steps_for(pace, job)
    learning = max(0, steps - job.warm_up_steps)
    updates = learning * job.replay_ratio
    observations = pace.game_steps * (job.evals * job.eval_episodes)  # of one seed
    wall = wall_s(pace, job, steps)
    frames = steps * pace.frames_per_step * pace.runs
    return Forecast(
        steps=steps,
        wall_s=wall,
        frames=frames,
        play_s=None if job.frame_rate_hz is None else frames / job.frame_rate_hz,
        eval_frames=observations * (pace.eval_frames_per_observation * pace.runs),
        joules=None if pace.watts is None else wall * pace.watts,
        gpu_h=wall * (pace.gpus / 3600),
        flops=(observations * pace.forward_flops + (steps * pace.forward_flops + updates * pace.update_flops)) * pace.runs,
        checkpoint_bytes=pace.checkpoint_bytes,
    )


def wall_s(pace: Pace, job: Job, steps: int) -> Range:
    """Of one group."""
    warm_up = min(steps, job.warm_up_steps)
    training = pace.learning_step_s * (steps - warm_up) + warm_up * pace.warm_up_step_s
    evaluation = pace.game_steps * (job.eval_episodes * pace.eval_observation_s) + pace.eval_setup_s
    return training + evaluation * job.evals + pace.setup_s


def steps_for(pace: Pace, job: Job) -> int:
    """Steps of one seed that the budget allows."""
    budget = job.budget

    def used(steps: int) -> float:
        seconds = wall_s(pace, job, steps).value
        learning = max(0, steps - job.warm_up_steps)
        flops = steps * pace.forward_flops + learning * job.replay_ratio * pace.update_flops
        joules = None if pace.watts is None else pace.watts.value * seconds / pace.runs
        frames = steps * pace.frames_per_step
        play_s = None if job.frame_rate_hz is None else frames / job.frame_rate_hz
        return budget.fraction(
            {"steps": steps, "frames": frames, "play_s": play_s, "wall_s": seconds, "joules": joules, "flops": flops}
        )

    most = 1
    while used(most) < 1:
        most *= 2
    least = most // 2
    while least + 1 < most:
        middle = (least + most) // 2
        least, most = (middle, most) if used(middle) < 1 else (least, middle)
    return most
