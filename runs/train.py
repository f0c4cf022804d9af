"""From a RunConfig to run folders: set everything up, let a trainer train, hand its events to the files, the curves and the listener."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from agents.config import AgentConfig
from envs import EnvSpec, spec
from envs.registry import protocol_of
from runs.budget import parse_budget
from runs.config import RunConfig, check_energy
from runs.curves import Curves, axes, live
from runs.family import FamilyTrainer
from runs.folder import RunFolder, check_writable, new_folder
from runs.loop import Ended, Episode, Evaluated, Event, Heartbeat, Trainer
from runs.machine import describe_device, describe_machine, git_commit, versions
from runs.meter import Meter, MeterReading
from runs.prepare import Job, check_numbers, resolve_device
from runs.schema import FAILED, INTERRUPTED, RUNNING, EnvRecord, EvalRecord, LedgerLine, RunRecord, total_energy


@dataclass(frozen=True)
class Progress:
    """What a listener is told at every heartbeat, evaluation and end; sums over the S runs of the process where it says so."""

    status: str
    fraction: float  # of the budget
    steps_per_s: float  # in sum over seeds: since the last report, and over the whole run once it has ended
    steps: int  # per seed
    frames: int  # in sum over seeds
    play_s: float | None  # in sum over seeds
    wall_s: float
    joules: float  # of the process
    low_j: float
    high_j: float
    energy_method: str
    train_score: float | None  # mean of the latest training games of all seeds
    eval_score: float | None  # mean of the latest evaluation over all seeds


Listener = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    folder: Path
    seed: int
    status: str
    eval_scores: list[float]  # mean return of each evaluation
    params_sha256: str


def train(
    config: RunConfig, listener: Listener = lambda progress: None, notice: Callable[[str], None] = print
) -> list[Outcome]:
    """Run every seed of ``config`` and return what became of each.

    Seeds train in lockstep in one process. One after another train convolutions on a CPU, where lockstep gains nothing, and
    stable-baselines3's agents, whose random numbers come from global generators. Ctrl-C and SIGTERM end the run cleanly, with status ``interrupted``.

    Raises:
        InputError, BudgetError, UnknownEnv, ConfigError: nothing was written.
    """
    env_spec = spec(config.env)
    check_energy(config.energy)
    device = resolve_device(config.device)
    outcomes: list[Outcome] = []
    with interruptible() as stopped:
        for seeds in lockstep_groups(config, device):
            group = Group(config, env_spec, device, seeds, stopped, listener, notice)
            outcomes += group.run()
            if stopped():
                break
    return outcomes


def lockstep_groups(config: RunConfig, device: torch.device) -> list[tuple[int, ...]]:
    """The seeds that train side by side, group after group."""
    agent = config.agent_config
    lockstep = isinstance(agent, AgentConfig) and (agent.encoder == "mlp" or device.type != "cpu")
    return [config.seeds] if lockstep else [(seed,) for seed in config.seeds]


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into an answer to ``stopped()``; the second SIGINT interrupts as usual."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever started the thread has to stop it
        before = {}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def trainer_of(job: Job) -> Trainer:
    """Who trains the agent that was asked for."""
    agent = job.config.agent_config
    if isinstance(agent, AgentConfig):
        return FamilyTrainer(job, agent)
    from runs.baselines import BaselineTrainer  # importing stable-baselines3 takes seconds

    return BaselineTrainer(job, agent)


class Group:
    """The runs that train in this process at one time: one trainer, one meter, S run folders."""

    def __init__(
        self,
        config: RunConfig,
        env_spec: EnvSpec,
        device: torch.device,
        seeds: tuple[int, ...],
        stopped: Callable[[], bool],
        listener: Listener,
        notice: Callable[[str], None],
    ) -> None:
        self.config, self.env_spec, self.seeds, self.listener = config, env_spec, seeds, listener
        self._notice, self._told = notice, list[str]()  # what the meter had to say so far
        self.budget = parse_budget(config.budget)
        self.budget.check(env_spec.frame_rate_hz)
        self.protocol = protocol_of(env_spec, config.protocol)
        check_numbers(config)
        check_writable(Path(config.out))
        self.device_record = describe_device(str(device))
        self.meter = Meter(self.device_record, energy=config.energy)
        self.meter.start()
        try:
            self.trainer = trainer_of(
                Job(config, env_spec, self.protocol, seeds, self.budget, device, self.meter, stopped, notice)
            )
        except BaseException:
            self.meter.stop()
            raise
        self.counters = self.trainer.books.counters
        self.scores: list[list[float]] = [[] for _ in seeds]  # training games since the last report
        self.train_score: float | None = None
        self.eval_scores: list[list[float]] = [[] for _ in seeds]
        self._last_report = (self.meter.wall_s, 0)  # wall_s, steps

    def run(self) -> list[Outcome]:
        """Train to the end of the budget or an interrupt, and write everything down."""
        self._open_folders()
        self.meter.lap("setup")
        self.status = RUNNING
        self._write_ledger(RUNNING, None)  # what setting up took is known even of a run that is killed at once
        try:
            self.trainer.train(self._consume)
        except BaseException as error:
            self.meter.stop()
            self._write_ledger(INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED, None)
            raise
        finally:
            self.trainer.books.world.close()
            self.meter.stop()
            for folder, curves in zip(self.folders, self.curves, strict=True):
                folder.close()
                curves.close()
        shas = self.trainer.params_sha256()
        return [
            Outcome(folder.folder, seed, self.status, scores, sha)
            for folder, seed, scores, sha in zip(self.folders, self.seeds, self.eval_scores, shas, strict=True)
        ]

    def _open_folders(self) -> None:
        self.folders: list[RunFolder] = []
        self.curves: list[Curves] = []
        for seed in self.seeds:
            record = self._record(seed)
            path = new_folder(Path(self.config.out), self.env_spec.id, self.config.agent, seed)
            self.folders.append(RunFolder(path, record))
            text = json.dumps(asdict(record), indent=2).replace("\n", "\n    ")
            self.curves.append(Curves(path, f"    {text}"))

    def _record(self, seed: int) -> RunRecord:
        env = self.env_spec
        env_record = EnvRecord(
            env.id,
            env.kind,
            self.protocol.name,
            env.frame_rate_hz,
            env.frames_per_step,
            env.reward_threshold,
            env.max_episode_steps,
        )
        asked = {
            key: value for key, value in asdict(self.config).items() if key not in ("agent_config", "command", "out", "seeds")
        }
        if self.config.wall_meter is not None:
            asked["wall_meter"] = Path(
                self.config.wall_meter
            ).name  # run folders are handed to strangers: no paths of this machine
        return RunRecord(
            agent=self.config.agent,
            agent_config=self.trainer.agent_config,
            env=env_record,
            seed=seed,
            group_seeds=list(self.seeds),
            share=1 / len(self.seeds),
            budget=self.config.budget,
            run_config=asked | {"compiled": self.trainer.compiled, "torch_threads": torch.get_num_threads()},
            command=list(self.config.command),
            started_utc=now_utc(),
            versions=versions(),
            git_commit=git_commit(Path(__file__).resolve().parent.parent),
            machine=describe_machine(),
            device=self.device_record,
        )

    def _consume(self, event: Event) -> None:
        if isinstance(event, Episode):
            self.scores[event.seed_index].append(event.score)
            self.folders[event.seed_index].episode(event.score, event.steps, event.wall_s, event.frames)
        elif isinstance(event, Evaluated):
            self._evaluated(event)
        elif isinstance(event, Ended):
            for k, folder in enumerate(self.folders):
                folder.checkpoint(self.trainer.checkpoint_file, partial(self.trainer.save, k))
            self.meter.lap("io")
            self.meter.stop()  # the last line holds the last reading, and what can only be read when the run is over
            self._write_ledger(event.status, self.trainer.params_sha256())
            self.status = event.status
        else:
            self._heartbeat(event)

    def _heartbeat(self, event: Heartbeat) -> None:
        before = self.lines
        self._write_ledger(RUNNING, None)
        for k, curves in enumerate(self.curves):
            if self.scores[k]:
                curves.over_every_axis("training score", float(np.mean(self.scores[k])), self._axes(k))
            learning = {f"learning/{name}": value[k] for name, value in event.learning.items()}
            curves.over_steps(live(before[k], self.lines[k]) | learning, self.counters.steps)
            curves.flush()
            self.scores[k].clear()

    def _evaluated(self, event: Evaluated) -> None:
        reading = self.meter.read().share(1 / len(self.seeds))
        energy = total_energy(reading.energy)
        self.counters.wall_s, self.counters.joules = reading.wall_s, energy.joules
        for k, (returns, lengths) in enumerate(zip(event.evaluation.returns, event.evaluation.lengths, strict=True)):
            counts = self.counters.counts(k)
            record = EvalRecord(
                steps=counts.steps,
                frames=counts.frames,
                updates=counts.updates,
                wall_s=reading.wall_s,
                joules=energy.joules,
                low_j=energy.low_j,
                high_j=energy.high_j,
                flops=self.counters.flops,
                epsilon=event.evaluation.epsilon,
                returns=returns,
                lengths=lengths,
            )
            self.folders[k].evaluation(record)
            self.eval_scores[k].append(record.mean_return)
            self.curves[k].over_every_axis("evaluation score", record.mean_return, self._axes(k))
            self.curves[k].flush()
        self._write_ledger(RUNNING, None)

    def _axes(self, k: int) -> dict[str, float | None]:
        frames, rate = int(self.counters.frames_by_seed[k]), self.env_spec.frame_rate_hz
        play_s = None if rate is None else frames / rate
        return axes(self.counters.steps, frames, play_s, self.counters.wall_s, self.counters.joules)

    def _write_ledger(self, status: str, shas: list[str] | None) -> MeterReading:
        """One line for every run; returns one run's share of the reading."""
        whole = self.meter.read()
        reading = whole.share(1 / len(self.seeds))
        counters = self.counters
        counters.wall_s = reading.wall_s
        counters.joules = total_energy(reading.energy).joules
        self._tell_notes()
        self.lines = []  # the latest of each run
        for k, folder in enumerate(self.folders):
            counts = counters.counts(k)
            self.lines.append(
                LedgerLine(
                    status=status,
                    time_utc=now_utc(),
                    lineage=counts,
                    consumed=counts,
                    eval_frames=int(counters.eval_frames[k]),
                    boot_frames=int(counters.boot_frames[k] + counters.eval_boot_frames[k]),
                    wall_s=reading.wall_s,
                    active_s=reading.active_s,
                    cpu_s=reading.cpu_s,
                    gpu_allocated_s=reading.gpu_allocated_s,
                    gpu_busy_s=reading.gpu_busy_s,
                    energy=reading.energy,
                    flops=counters.model_flops(),
                    peak_rss_bytes=reading.peak_rss_bytes,
                    peak_cuda_bytes=reading.peak_cuda_bytes,
                    params_sha256=shas[k] if shas else None,
                    peak_cuda_allocated_bytes=reading.peak_cuda_allocated_bytes,
                    notes=list(self.meter.notes),
                )
            )
            folder.ledger(self.lines[k])
        self._report(status, whole)
        return reading

    def _tell_notes(self) -> None:
        for note in self.meter.notes:
            if note not in self._told:
                self._told.append(note)
                self._notice(note)

    def _report(self, status: str, whole: MeterReading) -> None:
        counters, seeds = self.counters, len(self.seeds)
        before_s, before_steps = self._last_report if status == RUNNING else (whole.active_s["setup"], 0)
        seconds = max(whole.wall_s - before_s, 1e-9)
        games = [score for scores in self.scores for score in scores]
        self.train_score = float(np.mean(games)) if games else self.train_score
        latest = [scores[-1] for scores in self.eval_scores if scores]
        frames = int(counters.frames_by_seed.sum())
        rate = self.env_spec.frame_rate_hz
        energy = total_energy(whole.energy)
        self.listener(
            Progress(
                status=status,
                fraction=min(1.0, self.budget.fraction(counters)),
                steps_per_s=(counters.steps - before_steps) * seeds / seconds,
                steps=counters.steps,
                frames=frames,
                play_s=None if rate is None else frames / rate,
                wall_s=whole.wall_s,
                joules=energy.joules,
                low_j=energy.low_j,
                high_j=energy.high_j,
                energy_method=energy.method,
                train_score=self.train_score,
                eval_score=float(np.mean(latest)) if latest else None,
            )
        )
        self._last_report = (whole.wall_s, counters.steps)


def now_utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
