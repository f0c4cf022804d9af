"""The records of a run folder: what the loop writes and the analysis reads.

Standard library only, so that a report opens without torch. A run folder, ``results/<env>/<agent>/seed<k>/``, holds

``run.json``       one :class:`RunRecord`: what was asked, and where it ran. Written once, never changed.
``ledger.jsonl``   one :class:`LedgerLine` a heartbeat, cumulative, each line sealed with its checksum, fsynced.
``monitor.csv``    one line an episode: stable-baselines3's Monitor columns ``r,l,t`` plus ``frames``.
``evals.jsonl``    one :class:`EvalRecord` an evaluation.
``checkpoints/``   ``final.pt``: tensors only, read with ``weights_only=True``; of a stable-baselines3 agent its own ``final.zip``.
``events.out...``  TensorBoard.

Counters are cumulative, so a line that is read twice counts once, and a torn last line costs one heartbeat.

Shares: S runs that train in one process each get 1/S of what the process spent (CPU seconds, joules, GPU-hours), so that the
runs of a process add up to the process. ``wall_s`` is elapsed time and is not shared: it does not add up over such runs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

SCHEMA_VERSION = 1

RUN_FILE = "run.json"
LEDGER_FILE = "ledger.jsonl"
MONITOR_FILE = "monitor.csv"
EVALS_FILE = "evals.jsonl"
FINAL_CHECKPOINT = "checkpoints/final.pt"
FINAL_SB3_CHECKPOINT = "checkpoints/final.zip"

MEASURED, ESTIMATED, ABSENT = "measured", "estimated", "absent"
RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"


class SchemaError(ValueError):
    """A file that is not what a run folder should hold; the message names the file and the fault."""


@dataclass(frozen=True)
class EnvRecord:
    """The environment as it was played."""

    id: str
    kind: str  # "control", "minatar" or "atari"
    protocol: str  # "control", "minatar", "nature", "sticky" or "atari100k"; scores of two protocols are not comparable
    frame_rate_hz: float | None  # None: the task has no physical time
    frames_per_step: int  # nominal; the counters are exact
    reward_threshold: float | None
    max_episode_steps: int | None


@dataclass(frozen=True)
class RunRecord:
    """What was asked and where: ``run.json``."""

    agent: str
    agent_config: dict[str, Any]
    env: EnvRecord
    seed: int
    group_seeds: list[int]  # the seeds that train in this process, this one among them
    share: float  # 1 / len(group_seeds): this run's part of the process's CPU, energy and GPU time
    budget: str
    run_config: dict[str, Any]
    command: list[str]
    started_utc: str  # ISO 8601, for people; durations come from the monotonic clock
    versions: dict[str, str]
    git_commit: str | None
    machine: dict[str, Any]
    device: dict[str, Any]  # {"type": "cpu" | "cuda", "name": ..., "index": ..., "uuid": ...}
    schema: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Counts:
    """Integer counters of training play."""

    frames: int = 0
    steps: int = 0
    updates: int = 0
    episodes: int = 0


@dataclass(frozen=True)
class Energy:
    """Joules from one source. ``method`` is measured, estimated or absent; an absent source is not 0, it is unknown."""

    joules: float
    low_j: float
    high_j: float
    method: str


@dataclass(frozen=True)
class Flops:
    """Model FLOPs: matmul and convolution, 2 per multiply-add."""

    act: int = 0
    update: int = 0
    eval: int = 0

    @property
    def total(self) -> int:
        return self.act + self.update + self.eval


@dataclass(frozen=True)
class LedgerLine:
    """Everything that was spent up to one moment, cumulative: a line of ``ledger.jsonl``."""

    status: str
    time_utc: str
    lineage: Counts  # what the surviving agent learned from
    consumed: Counts  # thrown-away work included
    eval_frames: int
    boot_frames: int  # emulated by resets, training and evaluation together; nobody plays them
    wall_s: float
    active_s: dict[str, float]  # wall seconds by phase: setup, act, learn, env, eval, io
    cpu_s: float  # this run's share
    gpu_allocated_s: float  # this run's share
    gpu_busy_s: float | None  # None: not known
    energy: dict[str, Energy]  # by source: gpu_board, cpu_package, dram, host_rest, wall_meter; this run's share
    flops: Flops
    peak_rss_bytes: int
    peak_cuda_bytes: int | None
    params_sha256: str | None = None  # of the final parameters, on the last line of a finished run
    schema: int = SCHEMA_VERSION

    @property
    def joules(self) -> float:
        return sum(e.joules for e in self.energy.values())

    @property
    def low_j(self) -> float:
        return sum(e.low_j for e in self.energy.values())

    @property
    def high_j(self) -> float:
        return sum(e.high_j for e in self.energy.values())


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """One evaluation: full games, unclipped scores, at a point of training (all counters are those of that moment)."""

    steps: int
    frames: int
    updates: int
    wall_s: float
    joules: float  # this run's share, as in the ledger
    low_j: float
    high_j: float
    flops: int
    epsilon: float
    returns: list[float]  # one per episode
    lengths: list[int] = field(default_factory=list)  # steps, one per episode
    schema: int = SCHEMA_VERSION

    @property
    def mean_return(self) -> float:
        return sum(self.returns) / len(self.returns)


Record = TypeVar("Record", RunRecord, LedgerLine, EvalRecord)


def seal(record: LedgerLine | EvalRecord) -> str:
    """One JSON line with a checksum of the rest of it, newline included."""
    body = asdict(record)
    return json.dumps(body | {"sha": _checksum(body)}, separators=(",", ":"), allow_nan=False) + "\n"


def read_run(folder: Path) -> RunRecord:
    """Read ``run.json``. Raises SchemaError where the folder is not a run folder or its schema is newer than this code."""
    path = folder / RUN_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SchemaError(f"{path} cannot be read: {error}") from error
    return _build(RunRecord, raw, path)


def read_ledger(folder: Path) -> list[LedgerLine]:
    """All whole lines of ``ledger.jsonl``, oldest first. A torn last line is left out; a bad line before it is an error."""
    return _read_sealed(folder / LEDGER_FILE, LedgerLine)


def read_evals(folder: Path) -> list[EvalRecord]:
    """All whole lines of ``evals.jsonl``, oldest first; empty where the run was not evaluated yet."""
    path = folder / EVALS_FILE
    return _read_sealed(path, EvalRecord) if path.exists() else []


def _read_sealed(path: Path, kind: type[Record]) -> list[Record]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise SchemaError(f"{path} cannot be read: {error}") from error
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            raw = json.loads(line)
            sha = raw.pop("sha")
            if sha != _flat_checksum(line) and sha != _checksum(raw):
                raise ValueError("its checksum does not match")
        except (ValueError, KeyError, AttributeError) as error:
            if not any(lines[number:]):  # the last one: the writer was cut off
                break
            raise SchemaError(f"{path} line {number} is damaged: {error}") from error
        records.append(_build(kind, raw, path))
    return records


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode  # made once: a report checks a million lines


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(body).encode()).hexdigest()[:16]


def _flat_checksum(line: str) -> str:
    """The checksum of a line without nested records, from its own text: its pieces in sorted order, half the time of writing it again.

    Of another line it is a number that matches nothing.
    """
    pieces = sorted(piece for piece in line[2:-1].split(',"') if not piece.startswith('sha":'))
    return hashlib.sha256(('{"' + ',"'.join(pieces) + "}").encode()).hexdigest()[:16]


_NESTED: dict[str, Any] = {"env": EnvRecord, "lineage": Counts, "consumed": Counts, "flops": Flops}


def _build(kind: type[Record], raw: Any, path: Path) -> Record:
    """Make a record from parsed JSON; unknown fields of a newer minor writer are an error that names them."""
    if not isinstance(raw, dict) or not isinstance(raw.get("schema"), int):
        raise SchemaError(f"{path} is not a playmeter file: it has no schema number")
    if raw["schema"] > SCHEMA_VERSION:
        raise SchemaError(f"{path} has schema {raw['schema']}, this playmeter reads up to {SCHEMA_VERSION}: update playmeter")
    unknown = raw.keys() - kind.__dataclass_fields__.keys()
    if unknown:
        raise SchemaError(f"{path} has unknown fields: {', '.join(sorted(unknown))}")
    try:
        if kind is EvalRecord:  # flat, and the only record that comes by the thousand
            return kind(**raw)
        return kind(**{name: _nest(name, value) for name, value in raw.items()})
    except (TypeError, AttributeError) as error:
        raise SchemaError(f"{path} lacks what a {kind.__name__} needs: {error}") from error


def _nest(name: str, value: Any) -> Any:
    if name == "energy":
        return {source: Energy(**entry) for source, entry in value.items()}
    return _NESTED[name](**value) if name in _NESTED else value
