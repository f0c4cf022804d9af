"""From a RunConfig to run folders: set everything up, let a trainer train, hand its events to the files, the curves and the listener."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path

import numpy as np
import torch

from agents.config import AgentConfig
from envs import EnvSpec
from envs.registry import protocol_of
from runs.budget import parse_budget
from runs.config import DiskError, InputError, RunConfig, check_energy
from runs.curves import Curves, axes, errors_at_flush, live
from runs.family import FamilyTrainer
from runs.folder import RunFolder, check_writable, new_folder
from runs.lock import RunLock
from runs.loop import Checkpoint, Diverged, Ended, Episode, Evaluated, Event, Heartbeat, Trainer
from runs.machine import describe_device, describe_machine, git_commit, versions
from runs.meter import Meter, MeterReading
from runs.prepare import Job, Runs, check_numbers, lockstep_groups, resolve_device
from runs.progress import HumanShare, Listener, Reporter, each_once, no_human
from runs.resume import Earlier, continued, sum_energy, what_to_resume
from runs.saving import Saver
from runs.schema import (
    DIVERGED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    Counts,
    EnvRecord,
    EvalRecord,
    Flops,
    LedgerLine,
    RunRecord,
    SchemaError,
    read_evals,
    total_energy,
)
from runs.stopping import Stop, interruptible
from runs.takeover import TakenOver, how_it_computes, take_over


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    folder: Path
    seed: int
    status: str
    eval_scores: list[float]  # mean return of each evaluation
    params_sha256: str | None
    signal: int | None = None  # that asked for the end, of this one or, where it came as this one ended, of those after it


def train(
    config: RunConfig,
    listener: Listener = lambda progress: None,
    notice: Callable[[str], None] = print,
    human_share: HumanShare = no_human,
) -> list[Outcome]:
    """Run every seed of ``config`` on each of its environments and return what became of each.

    Seeds train in lockstep in one process, on a GPU those of all Atari games. One after another train large convolutions on a CPU, where
    lockstep gains nothing, and stable-baselines3's agents, whose random numbers come from global generators. Ctrl-C, SIGTERM and SIGUSR1 end the run cleanly, with a checkpoint and status
    ``interrupted``.

    ``human_share`` adds to what the listener and TensorBoard are told how a score compares with a person's, on one scale for all games.

    With ``config.resume`` each group of seeds goes on from its last checkpoint (from its start where it has none), is left alone where
    it has ended, and is begun where there is nothing to continue.

    Raises:
        InputError, BudgetError, UnknownEnv, ConfigError: nothing was written.
        DiskError: the run folder could not be written any more; what was there stays, and can be continued.
    """
    check_energy(config.energy)
    device = resolve_device(config.device)
    outcomes: list[Outcome] = []
    advise = each_once(notice)
    with interruptible() as stopped, errors_at_flush():
        groups = what_to_train(config, device)
        for number, (runs, earlier) in enumerate(groups, 1):
            if earlier is not None and earlier.ended:
                outcomes += ended_before(earlier, notice)
                continue
            if config.resume and earlier is None:
                on = f" on {', '.join(dict.fromkeys(runs.games))}" if config.more_envs else ""
                notice(f"nothing to continue for seed {', '.join(map(str, dict.fromkeys(runs.seeds)))}{on}: starting")
            to_follow = sum(later is None or not later.ended for _, later in groups[number:])
            outcomes += Group(config, runs, device, stopped, listener, notice, earlier, advise, to_follow, human_share).run()
            if stopped():
                outcomes[-1] = replace(outcomes[-1], signal=stopped.signal)
                if later := sum(len(runs.seeds) for runs, _ in groups[number:]):
                    notice(f"not begun, or not looked at: {later} more of these runs")
                break
    return outcomes


def what_to_train(config: RunConfig, device: torch.device) -> list[tuple[Runs, Earlier | None]]:
    """The groups in their order, each with the runs that it continues. What speaks against any of them is raised before the first begins."""
    groups: list[tuple[Runs, Earlier | None]] = []
    for runs in lockstep_groups(config, device):
        for budget in (config.budget, config.checkpoint_every):
            parse_budget(budget).check(runs.env_specs[0].frame_rate_hz)
        envs = [env_record(env_spec, config.protocol) for env_spec in runs.env_specs]
        if config.resume:
            groups += what_to_resume(config, runs, envs)
        else:
            groups.append((runs, None))
    return groups


def ended_before(earlier: Earlier, notice: Callable[[str], None]) -> list[Outcome]:
    """Runs that a command would continue, and that have ended."""
    outcomes = []
    for folder, record, line in zip(earlier.folders, earlier.records, earlier.lines, strict=True):
        assert line is not None
        notice(f"seed {record.seed} has {line.status} already, in {folder}")
        try:
            scores = [evaluation.mean_return for evaluation in read_evals(folder)]
        except SchemaError as error:  # a report will say it too
            notice(f"{folder}: {error}")
            scores = []
        outcomes.append(Outcome(folder, record.seed, line.status, scores, line.params_sha256))
    return outcomes


def env_record(env: EnvSpec, protocol: str | None) -> EnvRecord:
    return EnvRecord(
        env.id,
        env.kind,
        protocol_of(env, protocol).name,
        env.frame_rate_hz,
        env.frames_per_step,
        env.reward_threshold,
        env.max_episode_steps,
    )


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
        runs: Runs,
        device: torch.device,
        stopped: Stop,
        listener: Listener,
        notice: Callable[[str], None],
        earlier: Earlier | None = None,
        advise: Callable[[str], None] | None = None,
        to_follow: int = 0,
        human_share: HumanShare = no_human,
    ) -> None:
        """``earlier``: the runs that these continue; ``advise``: is told, instead of ``notice``, what there is to say of setting up;
        ``to_follow``: groups that begin when this one has ended."""
        self.config, self.runs, self.seeds = config, runs, runs.seeds
        env_spec, seeds = runs.env_specs[0], runs.seeds
        self._rate_hz = env_spec.frame_rate_hz
        self._human_share = human_share
        self._notice, self._told = notice, list[str]()  # what the meter had to say so far
        self.stopped = stopped
        self.budget = parse_budget(config.budget)
        for budget in (self.budget, parse_budget(config.checkpoint_every)):
            budget.check(env_spec.frame_rate_hz)
        self.protocol = protocol_of(env_spec, config.protocol)
        check_numbers(config)
        check_writable(Path(config.out))
        self.device_record = describe_device(str(device))
        self.meter = Meter(self.device_record, energy=config.energy)
        self.meter.start()
        self.locks: list[RunLock] = []
        try:
            if earlier is not None:
                self._lock(earlier.folders)
            self.trainer = trainer_of(
                Job(config, runs, self.protocol, self.budget, device, self.meter, stopped, advise or notice)
            )
            self.counters = self.trainer.books.counters
            if earlier is None:
                taken = TakenOver(None, [None for _ in seeds], [[] for _ in seeds], {}, [[] for _ in seeds])
            else:
                taken = take_over(earlier, self.trainer, self.device_record, notice)
        except BaseException:
            self.meter.stop()
            self._unlock()
            raise
        self.before, self.eval_scores, self.frozen, self.notes = taken.before, taken.eval_scores, taken.frozen, taken.notes
        self.earlier, self.restored, self.origin = earlier, taken.manifest, copy.deepcopy(self.counters)
        self.scores: list[list[float]] = [[] for _ in seeds]  # training games since the last report
        self.reporter = Reporter(
            listener, human_share, runs.games, seeds, to_follow, self.counters, self.budget, self.meter.wall_s
        )

    def run(self) -> list[Outcome]:
        """Train to the end of the budget or an interrupt, and write everything down."""
        self._open_folders()
        self.meter.lap("setup")
        self.status = RUNNING
        try:
            self._write_ledger(RUNNING, None)  # what setting up took is known even of a run that is killed at once
            self.trainer.train(self._consume)
            self._close()
        except OSError as error:
            raise self._no_disk(error) from error
        except BaseException as error:
            self._fail(INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED)
            raise
        finally:
            self.trainer.books.world.close()
            self.saver.close()
            self.meter.stop()
            self._unlock()
        shas = self.trainer.params_sha256()
        signal_number = self.stopped.signal if self.status == INTERRUPTED else None
        return [
            Outcome(folder.folder, seed, self._status(k, self.status), self.eval_scores[k], shas[k], signal_number)
            for k, (folder, seed) in enumerate(zip(self.folders, self.seeds, strict=True))
        ]

    def _fail(self, status: str) -> None:
        self.meter.stop()
        self._write_ledger(status, None)
        self._close()

    def _close(self) -> None:
        for folder, curves in zip(self.folders, self.curves, strict=True):
            folder.close()
            curves.close()

    def _no_disk(self, error: OSError) -> DiskError:
        """The last words may fit where the disk is full for larger things; TensorBoard's writer would wait for ever if closed."""
        self.saver.settle()
        self.meter.stop()
        with suppress(OSError):
            self._write_ledger(FAILED, None)
        with suppress(OSError):
            for folder in self.folders:
                folder.close()
        where = os.fsdecode(error.filename or self.folders[0].folder)  # TensorBoard names its files in bytes
        at = (
            "no checkpoint was written yet"
            if self.saver.good_step is None
            else f"the last checkpoint is of step {self.saver.good_step:,}"
        )
        return DiskError(
            f"{where} cannot be written: {error.strerror or error}; {at}, and --resume goes on when this is mended"
        )

    def _lock(self, folders: Sequence[Path]) -> None:
        """Raises InputError where another process works on one of them."""
        for folder in folders:
            try:
                self.locks.append(RunLock(folder))
            except OSError as error:
                raise InputError(f"{folder} cannot be written: {error.strerror}") from error

    def _unlock(self) -> None:
        while self.locks:
            with suppress(OSError):
                self.locks.pop().release()

    def _open_folders(self) -> None:
        self.folders: list[RunFolder] = []
        self.curves: list[Curves] = []
        for k, seed in enumerate(self.seeds):
            record = self._record(k)
            if self.earlier is None:
                path = new_folder(Path(self.config.out), self.runs.games[k], self.config.agent, seed)
                self._lock([path])
            else:
                path = self.earlier.folders[k]
            self.folders.append(RunFolder(path, record, again=self.earlier is not None))
            text = json.dumps(asdict(record), indent=2).replace("\n", "\n    ")
            self.curves.append(Curves(path, f"    {text}"))
        self.saver = Saver(self.trainer, self.folders, self.curves, self._notice, self.restored)

    def _record(self, k: int) -> RunRecord:
        left_out = ("agent_config", "command", "out", "seeds", "resume", "more_envs")
        asked = {key: value for key, value in asdict(self.config).items() if key not in left_out}
        asked["env"] = self.runs.games[k]
        if self.config.wall_meter is not None:
            asked["wall_meter"] = Path(
                self.config.wall_meter
            ).name  # run folders are handed to strangers: no paths of this machine
        return RunRecord(
            agent=self.config.agent,
            agent_config=self.trainer.agent_config,
            env=env_record(self.runs.env_specs[k], self.config.protocol),
            seed=self.seeds[k],
            group_seeds=list(self.seeds),
            group_envs=list(self.runs.games) if self.runs.of_several_games else [],
            share=1 / len(self.seeds),
            budget=self.config.budget,
            run_config=asked | how_it_computes(self.trainer),
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
        elif isinstance(event, Checkpoint):
            # First: what was spent must never be less than what a checkpoint says was learned from.
            self._write_ledger(RUNNING, None, tell=False)
            self.saver.save()
        elif isinstance(event, Diverged):
            self._diverged(event)
        elif isinstance(event, Ended):
            self.saver.settle()
            self.saver.save_agents()
            self.meter.lap("io")
            self.meter.stop()  # the last line holds the last reading, and what can only be read when the run is over
            self._write_ledger(event.status, self.trainer.params_sha256())
            self.status = event.status
            if event.status == FINISHED:
                self.saver.forget_all()
        else:
            self._heartbeat(event)

    def _diverged(self, event: Diverged) -> None:
        self.saver.settle()
        k, step, good_step = event.seed_index, self.counters.steps, self.saver.good_step
        self.frozen[k] = self.counters.counts(k)
        good = "no checkpoint was written before" if good_step is None else f"its checkpoint is of step {good_step:,}"
        self.notes[k].append(f"diverged by step {step:,} (loss {event.loss:g}); {good}")
        on = f" on {self.runs.games[k]}" if self.runs.of_several_games else ""
        self._notice(f"seed {self.seeds[k]}{on}: {self.notes[k][-1]}")
        self._write_ledger(RUNNING, None)

    def _heartbeat(self, event: Heartbeat) -> None:
        self.reporter.evaluating = event.evaluating
        before, lines = self.latest, self._write_ledger(RUNNING, None)
        for k, curves in enumerate(self.curves):
            if self.scores[k]:
                self._score_curves(k, "training score", float(np.mean(self.scores[k])))
            learning = {f"learning/{name}": value[k] for name, value in event.learning.items()}
            curves.over_steps(live(before[k], lines[k]) | learning, self.counters.steps)
            curves.flush()
            self.scores[k].clear()
        self.saver.beat()

    def _evaluated(self, event: Evaluated) -> None:
        lines = self._write_ledger(RUNNING, None)
        for k, (returns, lengths) in enumerate(zip(event.evaluation.returns, event.evaluation.lengths, strict=True)):
            if self.trainer.books.stopped[k]:
                continue
            counts, line = self.counters.counts(k), lines[k]
            record = EvalRecord(
                steps=counts.steps,
                frames=counts.frames,
                updates=counts.updates,
                wall_s=line.wall_s,
                joules=line.joules,
                low_j=line.low_j,
                high_j=line.high_j,
                flops=line.flops.total,
                epsilon=event.evaluation.epsilon,
                returns=returns,
                lengths=lengths,
            )
            self.folders[k].evaluation(record)
            self.eval_scores[k].append(record.mean_return)
            self._score_curves(k, "evaluation score", record.mean_return)
            self.curves[k].flush()

    def _score_curves(self, k: int, name: str, score: float) -> None:
        share = self._human_share(self.runs.games[k], score)
        self.curves[k].over_every_axis(name, score, self._axes(k))
        if share is not None:
            self.curves[k].over_every_axis(f"{name}, % of human", 100 * share, self._axes(k))

    def _axes(self, k: int) -> dict[str, float | None]:
        frames = int(self.counters.frames_by_seed[k])
        play_s = None if self._rate_hz is None else frames / self._rate_hz
        return axes(self.counters.steps, frames, play_s, self.counters.wall_s, self.counters.joules)

    def _write_ledger(self, status: str, shas: list[str] | None, tell: bool = True) -> list[LedgerLine]:
        """One line for every run, of all that was spent on it by this process and those before."""
        whole = self.meter.read()
        reading = whole.share(1 / len(self.seeds))
        lines = [continued(self.before[k], self._line(k, reading, status, shas)) for k in range(len(self.seeds))]
        self.counters.wall_s, self.counters.joules = lines[0].wall_s or 0.0, lines[0].joules
        self._tell_notes()
        for folder, line in zip(self.folders, lines, strict=True):
            folder.ledger(line)
        if tell:
            energy = reduce(sum_energy, (total_energy(line.energy) for line in lines))
            self.reporter.report(status, whole, self.counters.wall_s, energy, self.scores, self.eval_scores)
        self.latest = lines
        return lines

    def _status(self, k: int, status: str) -> str:
        return DIVERGED if self.trainer.books.stopped[k] else status

    def _line(self, k: int, reading: MeterReading, status: str, shas: list[str] | None) -> LedgerLine:
        """What this process spent on one run."""
        counters, origin, status = self.counters, self.origin, self._status(k, status)
        counts, first = counters.counts(k), origin.counts(k)
        flops, flops_before = counters.model_flops(k), origin.model_flops(k)
        boot = counters.boot_frames + counters.eval_boot_frames - origin.boot_frames - origin.eval_boot_frames
        return LedgerLine(
            status=status,
            time_utc=now_utc(),
            lineage=self.frozen.get(k, counts),
            consumed=Counts(*(a - b for a, b in zip(astuple(counts), astuple(first), strict=True))),
            eval_frames=int(counters.eval_frames[k] - origin.eval_frames[k]),
            boot_frames=int(boot[k]),
            wall_s=reading.wall_s,
            active_s=reading.active_s,
            cpu_s=reading.cpu_s,
            gpu_allocated_s=reading.gpu_allocated_s,
            gpu_busy_s=reading.gpu_busy_s,
            energy=reading.energy,
            flops=Flops(*(a - b for a, b in zip(astuple(flops), astuple(flops_before), strict=True))),
            peak_rss_bytes=reading.peak_rss_bytes,
            peak_cuda_bytes=reading.peak_cuda_bytes,
            params_sha256=shas[k] if shas and status != DIVERGED else None,
            peak_cuda_allocated_bytes=reading.peak_cuda_allocated_bytes,
            notes=[*self.meter.notes, *self.notes[k]],
        )

    def _tell_notes(self) -> None:
        for note in self.meter.notes:
            if note not in self._told:
                self._told.append(note)
                self._notice(note)


def now_utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
