"""Run folders to tables: what was read, and what had to be left out and why.

``read_runs`` finds and reads the folders; ``runs_table``, ``evals_table`` and ``episodes_table`` are the polars frames that
everything after works on. A number that a run does not know is null in a table, never 0.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analysis import convert
from analysis.statistics import Floats
from analysis.workers import spread
from runs import schema
from runs.budget import one_spelling


class NoRunsError(ValueError):
    """Nothing to report on: one line with the fault and the way out."""


@dataclass(frozen=True)
class Run:
    """One readable run folder: what was asked, the last line of its ledger (of a killed run: see ``schema.after_kill``), its evaluations."""

    id: str
    folder: Path
    record: schema.RunRecord
    total: schema.LedgerLine
    returns: str  # what the scores are returns of: evaluation; only an import has others (training, unknown)
    evals: pl.DataFrame  # evaluations by steps, see ``evals_table``
    episodes: pl.DataFrame  # training episodes, see ``episodes_table``


@dataclass(frozen=True)
class LeftOut:
    id: str
    reason: str


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[LeftOut]]:
    """Read every run at or below ``folders``, sorted by id, and what could not be read. Raises NoRunsError if nothing could."""
    found = _find(folders)
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    named = sorted(zip(_short_ids(found), found, strict=True))
    for (run_id, folder), contents in zip(
        named, spread(_contents, [folder for _, folder in named], len(named), together=10), strict=True
    ):
        try:
            if isinstance(contents, str):
                raise schema.SchemaError(contents)
            runs.append(_run(run_id, folder, contents))
        except schema.SchemaError as error:
            left_out.append(LeftOut(run_id, _one_line(str(error).replace(f"{folder}/", ""))))
    if not runs:
        first = left_out[0]
        others = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        raise NoRunsError(f"no run can be reported: {first.id}{others}: {first.reason}")
    return runs, left_out


def _find(folders: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}  # in order, each once even when given twice
    for folder in folders:
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise NoRunsError(f"{folder} {what}: name a run folder, or a folder of runs such as results")
        here = dict.fromkeys(_below(folder))
        if not here:
            raise NoRunsError(
                f"{folder} holds no run (no {schema.RUN_FILE} in it or below): train one first, or name another folder"
            )
        found |= here
    return list(found)


def _below(folder: Path) -> Iterator[Path]:
    """The run folders, those behind links too: results that outgrew a disk lie on another."""
    seen: set[str] = set()
    for here, names, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link that leads back
            names.clear()
            continue
        seen.add(real)
        names.sort()
        if schema.RUN_FILE in files:
            yield Path(real)


def _short_ids(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, at least env/agent/seed, as many as tell the folders apart."""
    longest = max(len(folder.parts) for folder in folders)
    seen = {length: Counter(folder.parts[-length:] for folder in folders) for length in range(3, longest + 1)}
    ids: list[str] = []
    for folder in folders:
        for length in range(3, len(folder.parts) + 1):
            run_id = "/".join(folder.parts[-length:])
            if seen[length][folder.parts[-length:]] == 1:
                break
        ids.append(run_id if len(folder.parts) > 3 else "/".join(folder.parts[1:]))
    return ids


Columns = dict[str, Floats | list[float | None]]


@dataclass(frozen=True)
class Contents:
    """What the JSON files of a folder hold. ``evals``: columns, an array where every evaluation has a number."""

    record: schema.RunRecord
    total: schema.LedgerLine
    returns: str
    evals: Columns


def _contents(folder: Path) -> Contents | str:
    try:
        record = schema.read_run(folder)
        _check(record)
        lines = schema.read_ledger(folder) if (folder / schema.LEDGER_FILE).exists() else []
        if not lines:
            return "has no ledger line yet"
        total = schema.after_kill(lines, record) if schema.has_gone(lines[-1], datetime.now(UTC)) else lines[-1]
        returns, evals = _evals(folder)
        return Contents(record, total, returns, _shared_out(evals, total))
    except (schema.SchemaError, ValueError, TypeError, AttributeError) as error:
        return str(error)


def _evals(folder: Path) -> tuple[str, Columns]:
    """What the scores are returns of (all of one kind), and the evaluations by steps in columns."""
    read = schema.read_eval_columns(folder)
    steps, returns = read["steps"], read["returns"]
    kept = sorted((n for n, each in enumerate(returns) if each), key=lambda n: steps[n] or 0)
    columns = {name: _column([read[name][n] for n in kept]) for name in _EVAL_COUNTERS}
    columns["score"] = _column([sum(returns[n]) / len(returns[n]) for n in kept])
    columns["games"] = [read["games"][n] or len(returns[n]) for n in kept]
    return read["kind"][kept[-1]] if kept else schema.EVALUATION, columns


def _shared_out(evals: Columns, total: schema.LedgerLine) -> Columns:
    """Where a wall meter stands for the run's energy, the energy at each evaluation: its file is read when the run is over, so what an
    evaluation holds is of the other sources alone.

    The total is shared out between two bounds. A computer at rest draws by the clock, and what comes on top goes with what the other
    sources counted: the share by time and the share by those are the ends, and the middle between them is the figure.
    """
    wall = schema.present(total.energy).get(schema.WALL_METER)
    wall_s, counted = evals["wall_s"], evals["joules"]
    if wall is None or not total.wall_s or not isinstance(wall_s, np.ndarray) or not isinstance(counted, np.ndarray):
        return evals
    parts = schema.total_energy({name: each for name, each in total.energy.items() if name != schema.WALL_METER})
    by_time = np.minimum(wall_s / total.wall_s, 1.0)
    by_parts = np.minimum(counted / parts.joules, 1.0) if parts.joules else by_time
    shares = {
        "joules": (by_time + by_parts) / 2,
        "low_j": np.minimum(by_time, by_parts),
        "high_j": np.maximum(by_time, by_parts),
    }
    return evals | {name: getattr(wall, name) * share for name, share in shares.items()}


def _column(values: list[float | None]) -> Floats | list[float | None]:
    return values if None in values else np.array(values, float)


_EVAL_COUNTERS = ("steps", "frames", "wall_s", "joules", "low_j", "high_j", "flops")


def _run(run_id: str, folder: Path, read: Contents) -> Run:
    table = pl.DataFrame(read.evals, schema=dict.fromkeys([*_EVAL_COUNTERS, "score"], pl.Float64) | {"games": pl.Int64})
    return Run(run_id, folder, read.record, read.total, read.returns, table, _monitor(folder))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return type(value) is int


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_TEXT, _MAPPING = (_is_text, "text"), (lambda value: isinstance(value, dict), "a mapping")
_COUNT = (lambda value: value is None or (_is_whole(value) and value > 0), "a positive whole number or null")
_TEXTS = (_is_texts, "a list of texts")
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "agent": _TEXT, "env.id": _TEXT, "env.kind": _TEXT, "env.protocol": _TEXT, "budget": _TEXT, "started_utc": _TEXT,
    "git_commit": (lambda value: value is None or _is_text(value), "text or null"),
    "agent_config": _MAPPING, "run_config": _MAPPING, "versions": _MAPPING, "machine": _MAPPING, "device": _MAPPING,
    "env.frames_per_step": _COUNT, "env.max_episode_steps": _COUNT, "command": _TEXTS, "group_envs": _TEXTS,
    "group_seeds": (lambda value: isinstance(value, list) and all(map(_is_whole, value)), "a list of whole numbers"),
}  # fmt: skip


def _check(record: schema.RunRecord) -> None:
    """``run.json`` carries no checksum, so what is divided by or compared is looked at."""
    rate, threshold = record.env.frame_rate_hz, record.env.reward_threshold
    if not (rate is None or (_is_number(rate) and rate > 0)):
        raise schema.SchemaError(f"{schema.RUN_FILE}: frame_rate_hz is {rate!r}, it should be a positive number or null")
    if not (threshold is None or _is_number(threshold)):
        raise schema.SchemaError(f"{schema.RUN_FILE}: reward_threshold is {threshold!r}, it should be a number or null")
    if not (_is_number(record.share) and 0 < record.share <= 1):
        raise schema.SchemaError(f"{schema.RUN_FILE}: share is {record.share!r}, it should be above 0 and at most 1")
    if type(record.seed) is not int or not 0 <= record.seed <= schema.MOST_SEED:
        raise schema.SchemaError(f"{schema.RUN_FILE}: seed is {record.seed!r}, it should be a whole number from 0 to 2^63 - 1")
    values = {f"env.{name}": value for name, value in vars(record.env).items()} | vars(record)
    for name, (fits, what) in _KINDS.items():
        if not fits(values[name]):
            raise schema.SchemaError(f"{schema.RUN_FILE}: {name} is {reprlib.repr(values[name])}, it should be {what}")
    heartbeat_s = record.run_config.get("heartbeat_s", schema.MOST_HEARTBEAT_S)
    if not (_is_number(heartbeat_s) and heartbeat_s > 0):
        raise schema.SchemaError(f"{schema.RUN_FILE}: heartbeat_s is {heartbeat_s!r}, it should be a positive number")
    _check_import(record.imported)


def _check_import(imported: object) -> None:
    if imported is None:
        return
    files = imported.get("files") if isinstance(imported, dict) else None
    if not (isinstance(imported, dict) and isinstance(imported.get("format"), str) and isinstance(files, list)):
        raise schema.SchemaError(f"{schema.RUN_FILE}: imported should be null, or name a format and its files")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def absent_energy(run: Run) -> list[str]:
    """The sources that belong to this run and have no number: its sum is too low by them. A CPU run lacks no GPU."""
    needed = {schema.GPU_BOARD, schema.CPU_PACKAGE} if _on_gpu(run) else {schema.CPU_PACKAGE}
    named = {name for name in run.total.energy if _on_gpu(run) or name != schema.GPU_BOARD}
    present = schema.present(run.total.energy).keys()
    return [] if {schema.WALL_METER, schema.REPORTED} & present else sorted((needed | named) - present)


def energy_method(run: Run) -> str:
    """Of the sum: measured if every source with a number is, absent if there is none."""
    return schema.total_energy(run.total.energy).method


def method_of_all(methods: Iterable[str]) -> str:
    """Of a sum over runs: absent if one is, measured only if all are."""
    found = set(methods)
    return next((method for method in (schema.ABSENT, schema.ESTIMATED) if method in found), schema.MEASURED)


def energy_grade(run: Run) -> str | None:
    return schema.energy_grade(run.total.energy, _on_gpu(run))


def no_play(run: Run) -> str | None:
    """Why the run's frames are no hours of play; None where they are."""
    if run.record.env.frame_rate_hz is None:
        return convert.NO_PHYSICAL_TIME if run.record.env.kind != "other" else "the real-time rate of the task is not known"
    return "its frames were not counted" if run.total.lineage.frames is None else None


def kwh(row: Mapping[str, Any]) -> dict[str, float | None]:
    """The energy columns of a row in kilowatt-hours."""
    return {"kwh": convert.kwh(row["joules"]), "low_kwh": convert.kwh(row["low_j"]), "high_kwh": convert.kwh(row["high_j"])}


def _on_gpu(run: Run) -> bool:
    return run.record.device.get("type") == "cuda"


def comparison_key(run: Run) -> str:
    """Runs with the same key may be pooled: same environment and protocol, same agent and settings, same budget, same kind of
    score; only seeds differ."""
    return json.dumps(run_settings(run), sort_keys=True, default=str)


def run_settings(run: Run) -> dict[str, Any]:
    """Every setting that must agree before runs are pooled: those of the record, and what the scores are returns of."""
    return settings(run.record) | {"returns": run.returns}


def settings(record: schema.RunRecord) -> dict[str, Any]:
    """Every setting that must agree before runs are pooled, nested ones by their dotted name."""
    config = {name: value for name, value in record.agent_config.items() if name != "seed"}
    origin = {"imported": record.imported.get("format")} if record.imported else {}
    return (
        _flat("env", asdict(record.env))
        | {"agent": record.agent, "budget": one_spelling(record.budget)}
        | origin
        | _flat("", config)
    )


def differing(mine: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """The settings in which two differ. Of two imports, or of a run and an import, the settings that both have: that one was not told its settings is no difference."""
    names = mine.keys() | other.keys()
    if "imported" in names:
        names = (mine.keys() & other.keys()) | {"imported"}
    return {name for name in names if mine.get(name) != other.get(name)}


def _flat(prefix: str, nested: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        dotted = f"{prefix}.{name}" if prefix else name
        flat |= _flat(dotted, value) if isinstance(value, dict) else {dotted: value}
    return flat


def runs_table(runs: Sequence[Run]) -> pl.DataFrame:
    """One row a run: its ledger totals, this run's share of a process that trained several."""
    return pl.DataFrame([_run_row(run) for run in runs], schema=_RUN_COLUMNS)


_RUN_COLUMNS: dict[str, Any] = {
    "run": pl.String, "key": pl.String, "seed": pl.Int64, "status": pl.String,
    "frames": pl.Int64, "steps": pl.Int64, "updates": pl.Int64, "episodes": pl.Int64,
    "consumed_frames": pl.Int64, "consumed_steps": pl.Int64, "lost_frames": pl.Int64, "eval_frames": pl.Int64, "boot_frames": pl.Int64,
    "human_play_h": pl.Float64, "wall_s": pl.Float64, "process_wall_s": pl.Float64, "cpu_s": pl.Float64,
    "gpu_allocated_s": pl.Float64, "gpu_busy_s": pl.Float64,
    "joules": pl.Float64, "low_j": pl.Float64, "high_j": pl.Float64, "flops": pl.Float64, "short_window": pl.Boolean,
}  # fmt: skip


def _run_row(run: Run) -> dict[str, Any]:
    total, energy = run.total, schema.total_energy(run.total.energy)
    known = energy.method != schema.ABSENT
    return {
        "run": run.id, "key": comparison_key(run), "seed": run.record.seed, "status": total.status,
        "frames": total.lineage.frames, "steps": total.lineage.steps, "updates": total.lineage.updates, "episodes": total.lineage.episodes,
        "consumed_frames": total.consumed.frames, "consumed_steps": total.consumed.steps,
        "lost_frames": _difference(total.consumed.frames, total.lineage.frames),
        "eval_frames": total.eval_frames, "boot_frames": total.boot_frames,
        "human_play_h": convert.play_h(total.lineage.frames, run.record.env.frame_rate_hz),
        "wall_s": total.wall_s, "process_wall_s": None if total.wall_s is None else total.wall_s * run.record.share, "cpu_s": total.cpu_s,
        "gpu_allocated_s": total.gpu_allocated_s, "gpu_busy_s": total.gpu_busy_s,
        "joules": energy.joules if known else None, "low_j": energy.low_j if known else None,
        "high_j": energy.high_j if known else None,
        "flops": _float(total.flops.total), "short_window": schema.is_short_window(total.wall_s, total.energy),
    }  # fmt: skip


def evals_table(runs: Sequence[Run]) -> pl.DataFrame:
    """One row an evaluation: the mean return of its games, and every counter at that moment (lineage of the run)."""
    return pl.concat([pl.DataFrame(schema=_EVAL_COLUMNS), *(_evals_of(run) for run in runs)]).sort(
        "run", "steps", maintain_order=True
    )


_EVAL_COLUMNS: dict[str, Any] = {
    "run": pl.String, "key": pl.String, "seed": pl.Int64, "score": pl.Float64, "games": pl.Int64,
    "steps": pl.Float64, "frames": pl.Float64, "human_play_h": pl.Float64, "wall_s": pl.Float64,
    "joules": pl.Float64, "low_j": pl.Float64, "high_j": pl.Float64, "flops": pl.Float64,
}  # fmt: skip


def _evals_of(run: Run) -> pl.DataFrame:
    rate, unknown = run.record.env.frame_rate_hz, [] if energy_method(run) != schema.ABSENT else ["joules", "low_j", "high_j"]
    return run.evals.with_columns(
        pl.lit(run.id).alias("run"), pl.lit(comparison_key(run)).alias("key"), pl.lit(run.record.seed, pl.Int64).alias("seed"),
        pl.lit(None if rate is None else convert.play_h(1, rate), pl.Float64).mul(pl.col("frames")).alias("human_play_h"),
        *(pl.lit(None, pl.Float64).alias(name) for name in unknown),
    ).select(list(_EVAL_COLUMNS))  # fmt: skip


def _float(number: int | None) -> float | None:
    return None if number is None else float(number)


def whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _difference(more: int | None, less: int | None) -> int | None:
    return None if more is None or less is None else more - less


def episodes_table(runs: Sequence[Run]) -> pl.DataFrame:
    """One row a training episode from ``monitor.csv``: return ``r``, length ``l`` steps, ``t`` seconds since the start, ``frames``."""
    return pl.concat([run.episodes.select(pl.lit(run.id).alias("run"), pl.all()) for run in runs])


_MONITOR_COLUMNS: dict[str, Any] = {"r": pl.Float64, "l": pl.Int64, "t": pl.Float64, "frames": pl.Int64}


def _monitor(folder: Path) -> pl.DataFrame:
    """``monitor.csv`` without its ``#`` comment line and without a last line that was cut off; empty where there is none."""
    path = folder / schema.MONITOR_FILE
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise schema.SchemaError(f"{schema.MONITOR_FILE} cannot be read: it is no file")
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    body = whole.partition(b"\n")[2] if whole.startswith(b"#") else whole
    if not body.strip():
        return pl.DataFrame(schema=_MONITOR_COLUMNS)
    try:
        return pl.read_csv(body, columns=list(_MONITOR_COLUMNS), schema_overrides=_MONITOR_COLUMNS)
    except pl.exceptions.PolarsError as error:
        raise schema.SchemaError(f"{schema.MONITOR_FILE} is damaged: {str(error).splitlines()[0]}") from error
