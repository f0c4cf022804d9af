"""From a RunConfig to run folders: set everything up, drive the loop, hand its events to the files, the curves and the listener."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from agents.learner import Learner
from agents.update import Metrics
from envs import EnvSpec, spec
from envs.registry import protocol_of
from runs.budget import parse_budget
from runs.config import RunConfig
from runs.counters import Counters
from runs.curves import Curves, axes
from runs.flops import flop_costs
from runs.folder import RunFolder, check_writable, new_folder
from runs.loop import Ended, Episode, Evaluated, Event, Loop
from runs.machine import describe_device, describe_machine, git_commit, versions
from runs.meter import Meter, MeterReading
from runs.prepare import (
    check_memory,
    check_numbers,
    default_threads,
    replay_layout,
    resolve_compile,
    resolve_device,
    train_world,
)
from runs.schema import FAILED, RUNNING, EnvRecord, EvalRecord, LedgerLine, RunRecord


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

    Seeds train in lockstep in one process, except that convolutions on a CPU, where lockstep gains nothing, train one seed after
    another. Ctrl-C and SIGTERM end the run cleanly, with status ``interrupted``.

    Raises:
        InputError, BudgetError, UnknownEnv, ConfigError: nothing was written.
    """
    env_spec = spec(config.env)
    device = resolve_device(config.device)
    one_by_one = device.type == "cpu" and config.agent_config.encoder != "mlp"
    groups = [(seed,) for seed in config.seeds] if one_by_one else [config.seeds]
    outcomes: list[Outcome] = []
    with interruptible() as stopped:
        for seeds in groups:
            group = Group(config, env_spec, device, seeds, stopped, listener, notice)
            outcomes += group.run()
            if stopped():
                break
    return outcomes


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


class Group:
    """The runs that train in lockstep in this process: one learner, one world, one meter, S run folders."""

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
        agent = config.agent_config
        self.config, self.env_spec, self.seeds, self.listener = config, env_spec, seeds, listener
        self.budget = parse_budget(config.budget)
        self.budget.check(env_spec.frame_rate_hz)
        self.protocol = protocol_of(env_spec, config.protocol)
        check_numbers(config, self.budget)
        check_writable(Path(config.out))
        compiled = resolve_compile(config, self.budget, device, notice)
        torch.set_num_threads(config.threads or default_threads(agent, len(seeds), compiled))

        self.device_record = describe_device(str(device))
        self.meter = Meter(self.device_record)
        self.meter.start()
        self.world = train_world(config, self.protocol.name, seeds)
        layout = replay_layout(agent, self.world, seeds, self.budget)
        check_memory(layout, device)
        self.learner = Learner(agent, layout, env_spec.num_actions, seeds, device, compiled)
        if compiled:
            self.learner.warm_up(np.zeros((self.world.num_envs, *layout.obs_shape), np.uint8 if layout.pixels else np.float32))
        costs = flop_costs(agent, layout, env_spec.num_actions)
        self.counters = Counters(len(seeds), costs, env_spec.frame_rate_hz)
        episodes = config.eval_episodes or self.protocol.eval_episodes
        self.loop = Loop(
            self.learner,
            self.world,
            self.counters,
            self.meter,
            self.budget,
            config.evals,
            episodes,
            config.heartbeat_s,
            stopped,
        )
        self.compiled = compiled
        self.scores: list[list[float]] = [[] for _ in seeds]  # training games since the last report
        self.train_score: float | None = None
        self.eval_scores: list[list[float]] = [[] for _ in seeds]
        self._last_report = (self.meter.wall_s, 0)  # wall_s, steps

    def run(self) -> list[Outcome]:
        """Train to the end of the budget or an interrupt, and write everything down."""
        self._open_folders()
        self.meter.lap("setup")
        status = RUNNING
        try:
            for event in self.loop.events():
                self._consume(event)
                if isinstance(event, Ended):
                    status = event.status
        except BaseException:
            self._write_ledger(FAILED, None)
            raise
        finally:
            self.world.close()
            self.meter.stop()
            for folder, curves in zip(self.folders, self.curves, strict=True):
                folder.close()
                curves.close()
        shas = self.learner.params_sha256()
        return [
            Outcome(folder.folder, seed, status, scores, sha)
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
        return RunRecord(
            agent=self.config.agent,
            agent_config=asdict(self.config.agent_config),
            env=env_record,
            seed=seed,
            group_seeds=list(self.seeds),
            share=1 / len(self.seeds),
            budget=self.config.budget,
            run_config=asked | {"compiled": self.compiled, "torch_threads": torch.get_num_threads()},
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
                folder.checkpoint(self._final_state(k))
            self._write_ledger(event.status, self.learner.params_sha256())
        else:
            self._heartbeat(event.metrics)

    def _heartbeat(self, metrics: Metrics | None) -> None:
        before = self._last_report
        reading = self._write_ledger(RUNNING, None)
        seconds, steps = self._last_report[0] - before[0], self._last_report[1] - before[1]
        for k, curves in enumerate(self.curves):
            if self.scores[k]:
                curves.over_every_axis("training score", float(np.mean(self.scores[k])), self._axes(k))
            values = {
                "speed/steps per s": steps / seconds,
                "speed/frames per s": self.counters.counts(k).frames / reading.wall_s,
                "meter/energy, J": self.counters.joules,
                "learning/epsilon": self.config.agent_config.epsilon(self.counters.steps),
            }
            if metrics is not None:
                values |= {f"learning/{name}": float(value[k]) for name, value in metrics._asdict().items()}
            curves.over_steps(values, self.counters.steps)
            curves.flush()
            self.scores[k].clear()

    def _evaluated(self, event: Evaluated) -> None:
        reading = self.meter.read().share(1 / len(self.seeds))
        low_j, high_j = (sum(getattr(e, end) for e in reading.energy.values()) for end in ("low_j", "high_j"))
        self.counters.wall_s = reading.wall_s
        self.counters.joules = sum(e.joules for e in reading.energy.values())
        for k, (returns, lengths) in enumerate(zip(event.evaluation.returns, event.evaluation.lengths, strict=True)):
            counts = self.counters.counts(k)
            record = EvalRecord(
                steps=counts.steps,
                frames=counts.frames,
                updates=counts.updates,
                wall_s=reading.wall_s,
                joules=self.counters.joules,
                low_j=low_j,
                high_j=high_j,
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
        counts, rate = self.counters.counts(k), self.env_spec.frame_rate_hz
        play_s = None if rate is None else counts.frames / rate
        return axes(counts.steps, counts.frames, play_s, self.counters.wall_s, self.counters.joules)

    def _write_ledger(self, status: str, shas: list[str] | None) -> MeterReading:
        """One line for every run; returns one run's share of the reading."""
        whole = self.meter.read()
        reading = whole.share(1 / len(self.seeds))
        counters = self.counters
        counters.wall_s = reading.wall_s
        counters.joules = sum(e.joules for e in reading.energy.values())
        for k, folder in enumerate(self.folders):
            counts = counters.counts(k)
            folder.ledger(
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
                )
            )
        self._report(status, whole)
        return reading

    def _report(self, status: str, whole: MeterReading) -> None:
        counters, seeds = self.counters, len(self.seeds)
        before_s, before_steps = self._last_report if status == RUNNING else (whole.active_s["setup"], 0)
        seconds = max(whole.wall_s - before_s, 1e-9)
        games = [score for scores in self.scores for score in scores]
        self.train_score = float(np.mean(games)) if games else self.train_score
        latest = [scores[-1] for scores in self.eval_scores if scores]
        frames = int(counters.frames_by_seed.sum())
        rate = self.env_spec.frame_rate_hz
        methods = {e.method for e in whole.energy.values()}
        self.listener(
            Progress(
                status=status,
                fraction=min(1.0, self.budget.fraction(counters)),
                steps_per_s=(counters.steps - before_steps) * seeds / seconds,
                steps=counters.steps,
                frames=frames,
                play_s=None if rate is None else frames / rate,
                wall_s=whole.wall_s,
                joules=sum(e.joules for e in whole.energy.values()),
                low_j=sum(e.low_j for e in whole.energy.values()),
                high_j=sum(e.high_j for e in whole.energy.values()),
                energy_method="estimated" if "estimated" in methods else "measured",
                train_score=self.train_score,
                eval_score=float(np.mean(latest)) if latest else None,
            )
        )
        self._last_report = (whole.wall_s, counters.steps)

    def _final_state(self, k: int) -> dict[str, Any]:
        """What an agent needs to play, for one seed: plain data and tensors."""
        network = self.learner.network
        named = {name: tensor.clone() for name, tensor in network.unflatten(self.learner.params[k].cpu()).items()}
        return {
            "agent": self.config.agent,
            "agent_config": asdict(self.config.agent_config),
            "env": self.env_spec.id,
            "protocol": self.protocol.name,
            "seed": self.seeds[k],
            "num_actions": self.env_spec.num_actions,
            "obs_shape": list(self.learner.layout.obs_shape),
            "params": named,
        }


def now_utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
