"""``playmeter import``: result files of other people become run folders, with what is known and nothing else.

Everything is read and checked before anything is written. Nothing in a foreign file is executed, so pickles stay closed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from envs import EnvSpec
from runs.config import InputError
from runs.folder import RunFolder, check_writable, new_folder, remove_folder
from runs.foreign import LARGEST, ForeignRun, ImportConfig, Point, TrainingEpisode, known_env
from runs.foreign_formats import READERS, read_files
from runs.schema import (
    ABSENT,
    ESTIMATED,
    EVALUATION,
    FINISHED,
    REPORTED,
    RUN_FILE,
    TRAINING,
    UNKNOWN,
    Counts,
    Energy,
    EnvRecord,
    EvalRecord,
    Flops,
    LedgerLine,
    RunRecord,
)


@dataclass(frozen=True)
class Planned:
    """A run that is ready to be written."""

    run: ForeignRun
    digest: str
    record: RunRecord
    env: EnvSpec | None


def import_runs(config: ImportConfig, command: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Write a run folder for every run in ``config.path``. Returns the folders, and what the user should know, a line each.

    Raises InputError where anything cannot be imported; then nothing was written.
    """
    _check(config)
    found = read_files(config)
    planned = _plan([_as_named(run, found, config) for run in found], config, command)
    check_writable(Path(config.out))
    return _write(planned, Path(config.out)), _notices(planned)


def _check(config: ImportConfig) -> None:
    for option, value in (("--frames-per-step", config.frames_per_step), ("--steps-per-iteration", config.steps_per_iteration)):
        if value is not None and value < 1:
            raise InputError(f"{option} must be at least 1, not {value}")
    if config.returns not in (None, EVALUATION, TRAINING):
        raise InputError(f"--returns must be {EVALUATION} or {TRAINING}, not {config.returns!r}")
    if config.format not in ("auto", *READERS):
        raise InputError(f"unknown format {config.format!r}: choose auto, {', '.join(READERS)}")
    if not config.path.exists():
        raise InputError(f"{config.path} does not exist: name a file or folder of results")
    if not config.protocol.strip():
        raise InputError("--protocol is empty: name how it was played, or leave it out")


# What the runs are called, and what is known of them.


def _as_named(run: ForeignRun, found: list[ForeignRun], config: ImportConfig) -> ForeignRun:
    """With the names that the user gave. Raises InputError where nobody named it, or two different things would share a name."""
    named: dict[str, Any] = {}
    for what in ("agent", "env"):
        given, names = getattr(config, what), {getattr(other, what) for other in found}
        if given is not None and len(names) > 1:
            shown = ", ".join(sorted(str(name) for name in names))
            raise InputError(f"--{what} would give one name to several ({shown}): import them one by one")
        name = given if given is not None else getattr(run, what)
        if name is None:
            raise InputError(f"{run.files[0]} does not say which {what} it is of: give --{what}")
        named[what] = _checked_name(name, what, run)
    if not run.points:
        raise InputError(f"{run.files[0]} holds no score of {named['agent']} on {named['env']}")
    return replace(run, **named)


def _checked_name(name: str, what: str, run: ForeignRun) -> str:
    """Names become folders, so one that would lead out of the results is refused."""
    parts = name.split("/") if what == "env" else [name]
    if len(name) > 100 or any(not part.strip(". ") or re.search(r"[\x00-\x1f\x7f/\\]", part) for part in parts):
        raise InputError(f"{run.files[0]}: {name[:60]!r} cannot be the name of an {what}: give --{what}")
    return name


def _plan(runs: list[ForeignRun], config: ImportConfig, command: Sequence[str]) -> list[Planned]:
    known = dict(_imported_before(Path(config.out)))
    planned: list[Planned] = []
    taken: dict[tuple[str, str], set[int]] = {}
    for run in runs:
        digest = _digest(run)
        if digest in known and not config.again:
            folder, _ = known[digest]
            raise InputError(f"{run.files[0]} was imported before, as {folder}: give --again for a second folder")
        if twin := next((plan.run for plan in planned if plan.digest == digest), None):
            raise InputError(f"{run.files[0]} holds the same as {twin.files[0]}: a run counts once")
        env = known_env(run.env or "")
        folder_env, agent = env.id if env else run.env or "", run.agent or ""
        seeds = taken.setdefault((folder_env, agent), _seeds(Path(config.out), folder_env, agent))
        seed = run.seed if run.seed is not None else known[digest][1] if digest in known else _free(seeds)
        seeds.add(seed)
        full = _with_other_axis(run, env, config)
        _check_counts(full)
        planned.append(Planned(full, digest, _record(full, run, env, seed, digest, config, command), env))
    return planned


def _check_counts(run: ForeignRun) -> None:
    counts = [count for p in run.points for count in (p.steps, p.frames)]
    counts += [count for e in run.training for count in (e.steps, e.frames)]
    if max((count for count in counts if count is not None), default=0) > LARGEST:
        raise InputError(f"{run.files[0]} counts more than {LARGEST:.0e} steps or frames: that cannot be")


def _imported_before(out: Path) -> Iterator[tuple[str, tuple[Path, int]]]:
    """(digest, (folder, seed)) of every import in the results."""
    for path in sorted(out.rglob(RUN_FILE), reverse=True):  # of several the first one stays
        try:
            record = json.loads(path.read_bytes())
            yield record["imported"]["sha256"], (path.parent, record["seed"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # not an import, or not readable: a report says so


def _digest(run: ForeignRun) -> str:
    """Of the files' content and which run in them it is: the same results are known again under any name."""
    whole = hashlib.sha256(run.part.encode())
    for path in run.files:
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _seeds(out: Path, env: str, agent: str) -> set[int]:
    parent = out / env / agent.replace(":", "-")
    names = [path.name for path in parent.iterdir()] if parent.is_dir() else []
    return {int(found[1]) for name in names if (found := re.match(r"seed(\d+)", name))}


def _free(seeds: set[int]) -> int:
    return next(k for k in range(len(seeds) + 1) if k not in seeds)


def _frames_per_step(env: EnvSpec | None, config: ImportConfig) -> int | None:
    """On Atari it depends on wrappers that no file names; on the other tasks of ours a step is a frame."""
    if config.frames_per_step is None and env is not None and env.kind != "atari":
        return env.frames_per_step
    return config.frames_per_step


def _with_other_axis(run: ForeignRun, env: EnvSpec | None, config: ImportConfig) -> ForeignRun:
    """Frames from steps or steps from frames, where it is known how many frames a step has."""
    per_step = _frames_per_step(env, config)
    if per_step is None:
        return run
    # Frames that Monitor counted inside the frame skip: how many decisions they were, nobody counted.
    bare = per_step == 1 and env is not None and env.kind == "atari"

    def both(steps: int | None, frames: int | None) -> tuple[int | None, int | None]:
        if steps is None and frames is not None and not bare:
            steps = frames // per_step
        elif frames is None and steps is not None and not (bare and run.format == "sb3"):
            frames = steps * per_step
        return steps, frames

    def point(p: Point) -> Point:
        steps, frames = both(p.steps, p.frames)
        return replace(p, steps=steps, frames=frames)

    def episode(e: TrainingEpisode) -> TrainingEpisode:
        (steps, frames), (length, length_frames) = both(e.steps, e.frames), both(e.length, e.length_frames)
        return replace(e, steps=steps, frames=frames, length=length, length_frames=length_frames)

    steps, frames = both(run.steps, run.frames)
    return replace(run, points=[*map(point, run.points)], training=[*map(episode, run.training)], steps=steps, frames=frames)


def _how(axis: str, run: ForeignRun, before: ForeignRun, env: EnvSpec | None, config: ImportConfig) -> str | None:
    """How a counter was got; None where it is not known."""
    if getattr(run.points[-1], axis) is None:
        return None
    return "of the files" if getattr(before.points[-1], axis) is not None else f"{_frames_per_step(env, config)} frames a step"


def _record(
    run: ForeignRun,
    before: ForeignRun,
    env: EnvSpec | None,
    seed: int,
    digest: str,
    config: ImportConfig,
    command: Sequence[str],
) -> RunRecord:
    return RunRecord(
        agent=run.agent or "",
        agent_config={},
        env=EnvRecord(
            id=env.id if env else run.env or "",
            kind=env.kind if env else "other",
            protocol=config.protocol,
            frame_rate_hz=env.frame_rate_hz if env else None,
            frames_per_step=config.frames_per_step or (env.frames_per_step if env else None),
            reward_threshold=env.reward_threshold if env else None,
            max_episode_steps=env.max_episode_steps if env else None,
        ),
        seed=seed,
        group_seeds=[seed],
        share=1.0,
        budget=run.budget or UNKNOWN,
        run_config={key: str(value) for key, value in asdict(config).items() if value is not None},
        command=list(command),
        started_utc=_utc(run.started_s),
        versions={},
        git_commit=None,
        machine={},
        device={},
        imported={
            "format": run.format,
            "files": [path.name for path in run.files],
            "sha256": digest,
            "env": run.env,
            "seed": "of the files" if run.seed is not None else "numbered here",
            "frames": _how("frames", run, before, env, config),
            "steps": _how("steps", run, before, env, config),
        },
    )


def _utc(unix_s: float | None) -> str:
    try:
        return "" if unix_s is None else datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")
    except (OverflowError, OSError, ValueError):
        return ""


# Writing.


def _write(planned: list[Planned], out: Path) -> list[Path]:
    """All run folders or none."""
    folders: list[Path] = []
    try:
        for plan in planned:
            folders.append(new_folder(out, plan.record.env.id, plan.record.agent, plan.record.seed))
            _fill(RunFolder(folders[-1], plan.record), plan.run)
    except BaseException as error:
        for folder in reversed(folders):
            remove_folder(folder, out)
        if isinstance(error, OSError):
            raise InputError(f"{out} cannot be written: {error.strerror}; choose another folder with --out") from error
        raise
    return folders


def _fill(folder: RunFolder, run: ForeignRun) -> None:
    try:
        for episode in run.training:
            folder.episode(episode.score, episode.length, episode.wall_s, episode.length_frames)
        for point in run.points:
            folder.evaluation(_evaluation(run, point))
        folder.ledger(_ledger(run))
    finally:
        folder.close()


def _evaluation(run: ForeignRun, point: Point) -> EvalRecord:
    joules = point.joules or 0.0  # the ledger says whether that is a figure or absent
    return EvalRecord(
        point.steps, point.frames, None, point.wall_s, joules, joules, joules, None, None, point.returns, kind=run.kind, games=point.games
    )  # fmt: skip


def _ledger(run: ForeignRun) -> LedgerLine:
    """The one line of an import: what the files say had been done when they end."""
    last, end = run.points[-1], (run.training or run.points)[-1]
    counts = Counts(
        frames=_most(last.frames, end.frames, run.frames),
        steps=_most(last.steps, end.steps, run.steps),
        updates=None,
        episodes=run.episodes,
    )
    energy = {"cpu_package": Energy(0.0, 0.0, 0.0, ABSENT)}
    if last.joules is not None:  # whether it was measured and how well, the file does not say
        energy = {REPORTED: Energy(last.joules, last.joules, last.joules, ESTIMATED)}
    return LedgerLine(
        status=FINISHED,
        time_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        lineage=counts,
        consumed=replace(counts),
        eval_frames=None,
        boot_frames=None,
        wall_s=last.wall_s if last.wall_s is not None else end.wall_s,
        active_s={},
        cpu_s=None,
        gpu_allocated_s=None,
        gpu_busy_s=None,
        energy=energy,
        flops=Flops(None, None, None),
        peak_rss_bytes=None,
        peak_cuda_bytes=None,
    )


def _most(*counts: int | None) -> int | None:
    return max((count for count in counts if count is not None), default=None)


def _notices(planned: list[Planned]) -> list[str]:
    """What the user may want to say more about."""
    notices: dict[str, None] = {}
    for plan in planned:
        record, last = plan.record, plan.run.points[-1]
        if plan.env is None:
            notices[f"{record.env.id} is no environment of playmeter's: its real-time rate and threshold are not known"] = None
        elif plan.env.id != plan.run.env:
            notices[f"{plan.run.env} is taken as {plan.env.id}"] = None
        if last.frames is None or last.steps is None:
            missing = "frames" if last.frames is None else "steps"
            notices[f"{missing} of {record.env.id} are not known: --frames-per-step would say them"] = None
        if plan.run.kind == UNKNOWN:
            notices["scores are marked as unknown: --returns evaluation or --returns training would say what they are"] = None
    if planned[0].record.env.protocol == UNKNOWN:
        notices["the protocol is unknown, so these scores stand apart from those of a named one: --protocol names it"] = None
    return list(notices)
