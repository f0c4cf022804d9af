"""Which run a command continues, and how its ledger goes on: ``consumed`` and all costs grow, ``lineage`` goes back to the checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from runs.budget import parse_budget
from runs.config import InputError, RunConfig
from runs.prepare import Runs
from runs.schema import (
    ABSENT,
    DIVERGED,
    FINISHED,
    LEDGER_FILE,
    MEASURED,
    RUN_FILE,
    Counts,
    Energy,
    EnvRecord,
    Flops,
    LedgerLine,
    RunRecord,
    SchemaError,
    read_ledger,
    read_run,
)

ONE_START_S = 60.0  # within which the folders of a group are made

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Earlier:
    """The runs of a group that were begun before, seed by seed."""

    folders: list[Path]
    lines: list[LedgerLine | None]  # the last of each ledger; None: killed before its first
    records: list[RunRecord]

    @property
    def ended(self) -> bool:
        """Nothing is left to do: continued, a run that diverged would diverge again."""
        return all(line is not None and line.status in (FINISHED, DIVERGED) for line in self.lines)


def what_to_resume(config: RunConfig, runs: Runs, envs: Sequence[EnvRecord]) -> list[tuple[Runs, Earlier | None]]:
    """A group as it was, or else those of its runs that have ended in other groups, each alone, and the rest as a group. Raises InputError."""
    fault: InputError | None = None
    try:
        if (earlier := find(config, envs, runs.seeds)) is not None:
            return [(runs, earlier)]
    except InputError as error:
        fault = error
    ones = [find_one(config, env, seed) for env, seed in zip(envs, runs.seeds, strict=True)]
    under_way = [one.records[0] for one in ones if one is not None and not one.ended]
    # one that has ended in a group that is still under way belongs to that
    ended = [
        one
        if one is not None and one.ended and not any(began_together([one.records[0], other]) for other in under_way)
        else None
        for one in ones
    ]
    left = [k for k, one in enumerate(ended) if one is None]
    if fault is not None and len(left) == len(ended):
        raise fault
    alone: list[tuple[Runs, Earlier | None]] = [(runs.only([k]), one) for k, one in enumerate(ended) if one is not None]
    if not left:
        return alone
    rest = runs.only(left)
    return [*alone, (rest, find(config, [envs[k] for k in left], rest.seeds) if alone else None)]


def find(config: RunConfig, envs: Sequence[EnvRecord], seeds: Sequence[int]) -> Earlier | None:
    """The newest runs of the same configuration, one for each environment and seed of these. None where there are none.

    Raises InputError where a run of the same agent, environment and seed is unfinished, but was asked for with other settings.
    """
    games = [env.id for env in envs]
    together = {"seeds": list(seeds), "games": games if len(set(games)) > 1 else []}
    found = [_newest(config, env, together, seed) for env, seed in zip(envs, seeds, strict=True)]
    known = [each for each in found if each is not None]
    if len(known) < len(seeds) or not began_together([record for _, record, _ in known]):
        return None
    return Earlier([folder for folder, _, _ in known], [line for _, _, line in known], [record for _, record, _ in known])


def find_one(config: RunConfig, env: EnvRecord, seed: int) -> Earlier | None:
    """The newest run of the same configuration, whatever trained beside it."""
    for folder in candidates(_parent(config, env), seed):
        try:
            record, lines = read_run(folder), read_ledger(folder) if (folder / LEDGER_FILE).exists() else []
        except SchemaError:
            continue
        if not differences(config, env, {}, record):
            return Earlier([folder], [lines[-1] if lines else None], [record])
    return None


def began_together(records: Sequence[RunRecord]) -> bool:
    """Whether these runs are of one group: a command makes the folders of a group one after another, without anything in between."""
    beside = {(tuple(record.group_seeds), tuple(record.group_envs)) for record in records}
    times = [datetime.fromisoformat(record.started_utc) for record in records]
    return len(beside) == 1 and (max(times) - min(times)).total_seconds() < ONE_START_S


def _parent(config: RunConfig, env: EnvRecord) -> Path:
    return Path(config.out) / env.id / config.agent.replace(":", "-")


def _newest(
    config: RunConfig, env: EnvRecord, together: Mapping[str, Any], seed: int
) -> tuple[Path, RunRecord, LedgerLine | None] | None:
    others = ""
    for folder in candidates(_parent(config, env), seed):
        try:
            record = read_run(folder)
            lines = read_ledger(folder) if (folder / LEDGER_FILE).exists() else []
        except SchemaError as error:
            raise InputError(f"{folder} cannot be continued: {error}") from error
        line = lines[-1] if lines else None
        different = differences(config, env, together, record)
        if not different:
            return folder, record, line
        if line is not None and line.status not in (FINISHED, DIVERGED):  # without a line there is nothing in it to be lost
            others = others or f"{folder} is unfinished and has other settings ({'; '.join(different[:3])})"
    if others:
        raise InputError(
            f"{others}: give the command that it was started with, or start another without --resume, or into another --out"
        )
    return None


def candidates(parent: Path, seed: int) -> list[Path]:
    """``seed<k>``, ``seed<k>-2``, ...: the newest first. Raises InputError where one of them is a link."""
    numbered = []
    for folder in parent.glob(f"seed{seed}*"):
        name = re.fullmatch(rf"seed{seed}(?:-([0-9]+))?", folder.name)
        if name and (folder / RUN_FILE).is_file():
            if folder.is_symlink():
                raise InputError(f"{folder} is a link: a run is continued only in its own folder, {folder.resolve()}")
            numbered.append((int(name[1] or 1), folder))
    return [folder for _, folder in sorted(numbered, reverse=True)]


def differences(config: RunConfig, env: EnvRecord, together: Mapping[str, Any], record: RunRecord) -> list[str]:
    """What of the configuration decides the result and is not as it was: ``name: there, not here``. ``together``: seeds and games of the
    runs that train side by side, where these matter."""
    asked: dict[str, Any] = {f"agent.{name}": value for name, value in _plain(asdict(config.agent_config)).items()}
    there = {f"agent.{name}": value for name, value in record.agent_config.items()}
    if ":" in config.agent:  # a baseline's None is filled in from the budget
        asked = {name: value for name, value in asked.items() if value is not None}
        there = {name: there.get(name) for name in asked}
    ours, theirs = parse_budget(config.budget), parse_budget(record.budget)
    asked |= {"budget": config.budget, "env": _plain(asdict(env)), **together}
    there |= {"budget": record.budget, "env": _plain(asdict(record.env))}
    beside = {"seeds": record.group_seeds, "games": record.group_envs}
    there |= {name: value for name, value in beside.items() if name in together}
    if (ours.quantity, ours.amount) == (theirs.quantity, theirs.amount):
        there["budget"] = config.budget
    for name in ("evals", "eval_episodes"):
        asked[name], there[name] = getattr(config, name), record.run_config.get(name)
    names = [name for name in asked | there if asked.get(name) != there.get(name)]
    return [f"{name}: {there.get(name)}, not {asked.get(name)}" for name in names]


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def continued(before: LedgerLine | None, line: LedgerLine) -> LedgerLine:
    """A line of this process, put onto the last one of the processes before it. ``lineage`` is the agent's and is not added."""
    if before is None:
        return line
    return replace(
        line,
        consumed=_sum_counts(before.consumed, line.consumed),
        eval_frames=_sum(before.eval_frames, line.eval_frames),
        boot_frames=_sum(before.boot_frames, line.boot_frames),
        wall_s=_sum(before.wall_s, line.wall_s),
        active_s=_sum_by_name(before.active_s, line.active_s),
        cpu_s=_sum(before.cpu_s, line.cpu_s),
        gpu_allocated_s=_sum(before.gpu_allocated_s, line.gpu_allocated_s),
        gpu_busy_s=_sum(before.gpu_busy_s, line.gpu_busy_s),
        energy={
            name: sum_energy(before.energy.get(name), line.energy.get(name))
            for name in [*before.energy, *(name for name in line.energy if name not in before.energy)]
        },
        flops=Flops(*(_sum(getattr(before.flops, name), getattr(line.flops, name)) for name in ("act", "update", "eval"))),
        peak_rss_bytes=_most(before.peak_rss_bytes, line.peak_rss_bytes),
        peak_cuda_bytes=_most(before.peak_cuda_bytes, line.peak_cuda_bytes),
        peak_cuda_allocated_bytes=_most(before.peak_cuda_allocated_bytes, line.peak_cuda_allocated_bytes),
        notes=[*before.notes, *(note for note in line.notes if note not in before.notes)],
    )


def _sum(a: Number | None, b: Number | None) -> Number | None:
    """What is not known of a part is not known of the sum."""
    return None if a is None or b is None else a + b


def _most(a: int | None, b: int | None) -> int | None:
    return a if b is None else b if a is None else max(a, b)


def _sum_counts(a: Counts, b: Counts) -> Counts:
    return Counts(*(_sum(getattr(a, name), getattr(b, name)) for name in ("frames", "steps", "updates", "episodes")))


def _sum_by_name(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {name: a.get(name, 0.0) + b.get(name, 0.0) for name in [*a, *(name for name in b if name not in a)]}


def sum_energy(a: Energy | None, b: Energy | None) -> Energy:
    """Absent where one of the processes had no number: a part of the run's energy is no energy of the run."""
    if a is None or b is None or ABSENT in (a.method, b.method):
        return Energy(0.0, 0.0, 0.0, ABSENT)
    method = MEASURED if a.method == b.method == MEASURED else next(e.method for e in (a, b) if e.method != MEASURED)
    samples = _sum(a.samples, b.samples)
    return Energy(a.joules + b.joules, a.low_j + b.low_j, a.high_j + b.high_j, method, samples, most_w=b.most_w)
