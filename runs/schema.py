"""The records of a run folder: what the loop writes and the analysis reads.

Standard library only, so that a report opens without torch. A run folder, ``results/<env>/<agent>/seed<k>/``, holds

``run.json``       one :class:`RunRecord`: what was asked, and where it ran. Written once, never changed.
``ledger.jsonl``   one :class:`LedgerLine` a heartbeat, cumulative, each line sealed with its checksum, fsynced.
``monitor.csv``    one line an episode: stable-baselines3's Monitor columns ``r,l,t`` plus ``frames``.
``evals.jsonl``    one :class:`EvalRecord` an evaluation.
``checkpoints/``   ``final.pt``: tensors only, read with ``weights_only=True``; of a stable-baselines3 agent its own ``final.zip``.
                   While the run is unfinished also what continues it: runs/checkpoint.py.
``lock``           while a process works on the run: its host and pid.
``events.out...``  TensorBoard.

Counters are cumulative, so a line that is read twice counts once, and a torn last line costs one heartbeat.

Shares: S runs that train in one process each get 1/S of what the process spent (CPU seconds, joules, GPU-hours), so that the
runs of a process add up to the process. ``wall_s`` is elapsed time and is not shared: it does not add up over such runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

SCHEMA_VERSION = 3  # 2: samples, peak of allocated CUDA memory, notes. 3: most_w of each source

RUN_FILE = "run.json"
LEDGER_FILE = "ledger.jsonl"
MONITOR_FILE = "monitor.csv"
EVALS_FILE = "evals.jsonl"
FINAL_CHECKPOINT = "checkpoints/final.pt"
FINAL_SB3_CHECKPOINT = "checkpoints/final.zip"

MEASURED, ESTIMATED, ABSENT = "measured", "estimated", "absent"
GPU_BOARD, CPU_PACKAGE, WALL_METER = "gpu_board", "cpu_package", "wall_meter"
SHORT_S, FEW_SAMPLES = 60.0, 60
RUNNING, FINISHED, INTERRUPTED, FAILED, DIVERGED = "running", "finished", "interrupted", "failed", "diverged"
KILLED = "killed"  # nobody wrote its end: SIGKILL, a power cut; see ``after_kill``
MOST_HEARTBEAT_S = 5.0  # between two lines of a ledger
MOST_SEED = 2**63 - 1  # what tables hold
GONE_S = 60.0  # a run that wrote no line for so long is taken for killed
PROCESS_TREE = "process tree"  # metered by a parent process, which can be killed without it
EVALUATION, TRAINING, UNKNOWN = "evaluation", "training", "unknown"
REPORTED = "reported"  # energy source of an import: a figure of whoever ran it, for whatever they metered


class SchemaError(ValueError):
    """A file that is not what a run folder should hold; the message names the file and the fault."""


@dataclass(frozen=True)
class EnvRecord:
    """The environment as it was played."""

    id: str
    kind: str  # "control", "minatar", "atari", or "other" where only a foreign loop knows it
    # "control", "minatar", "nature", "sticky", "atari100k", "own": as a loop that is not ours plays, or whatever an import was
    # told, else "unknown". Scores of two protocols are not comparable.
    protocol: str
    frame_rate_hz: float | None  # None: the task has no physical time
    frames_per_step: int | None  # nominal; the counters are exact. None: not known
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
    # Of an import: {"format", "files", "sha256" of them, "env" as they name it, "seed", "frames", "steps": how those were got}. None: a run of ours.
    imported: dict[str, Any] | None = None
    group_envs: list[str] = field(default_factory=list)  # of group_seeds, one each; empty where all play this run's
    schema: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Counts:
    """Integer counters of training play. None: nobody counted it (a loop that is not ours), which is not 0."""

    frames: int | None = 0
    steps: int | None = 0
    updates: int | None = 0
    episodes: int | None = 0


@dataclass(frozen=True)
class Energy:
    """Joules from one source. ``method`` is measured, estimated or absent; an absent source is not 0, it is unknown."""

    joules: float
    low_j: float
    high_j: float
    method: str
    samples: int | None = None  # readings that the sensor gave; None where there is no sensor
    most_w: float | None = (
        None  # the most that the source can draw: bounds what a killed run spent unseen. None: nobody can say
    )

    def share(self, fraction: float) -> Energy:
        joules, low_j, high_j = self.joules * fraction, self.low_j * fraction, self.high_j * fraction
        most_w = None if self.most_w is None else self.most_w * fraction
        return replace(self, joules=joules, low_j=low_j, high_j=high_j, most_w=most_w)


def present(energy: Mapping[str, Energy]) -> dict[str, Energy]:
    """The sources that have a number."""
    return {name: e for name, e in energy.items() if e.method != ABSENT}


def total_energy(energy: Mapping[str, Energy]) -> Energy:
    """Of all sources together: a wall meter has all the others in it, so it stands alone. Absent where no source has a number.

    Lows and highs add up, as if the sources erred together. Measured only where every part is.
    """
    parts = present(energy)
    if WALL_METER in parts:
        return parts[WALL_METER]
    if not parts:
        return Energy(0.0, 0.0, 0.0, ABSENT)
    low_j, high_j = (sum(getattr(e, end) for e in parts.values()) for end in ("low_j", "high_j"))
    method = MEASURED if all(e.method == MEASURED for e in parts.values()) else ESTIMATED
    return Energy(sum(e.joules for e in parts.values()), low_j, high_j, method)


def energy_grade(energy: Mapping[str, Energy], on_gpu: bool) -> str | None:
    """How far the energy of a run can be trusted; None where no source has a number.

    A: a wall meter given by the user. B: board and processor measured (NVML, RAPL). C: one of them measured, the other estimated.
    D: all estimated, or the board or the processor has no number, so that the sum is not the run's.
    """
    parts = present(energy)
    if not parts:
        return None
    if WALL_METER in parts and parts[WALL_METER].method == MEASURED:
        return "A"
    needed = {GPU_BOARD, CPU_PACKAGE} if on_gpu else {CPU_PACKAGE}
    measured = {name for name, e in parts.items() if e.method == MEASURED}
    if needed <= measured:
        return "B"
    return "C" if needed & measured and needed <= parts.keys() else "D"


def is_short_window(wall_s: float | None, energy: Mapping[str, Energy]) -> bool | None:
    """Under a minute, or a sensor that gave fewer than 60 readings: too little to trust a joule of it. None: nobody took the time."""
    if wall_s is None:
        return None
    counts = [e.samples for e in present(energy).values() if e.samples is not None]
    return wall_s < SHORT_S or any(count < FEW_SAMPLES for count in counts)


@dataclass(frozen=True)
class Flops:
    """Model FLOPs: matmul and convolution, 2 per multiply-add. None: not known, and then the total is not known either."""

    act: int | None = 0
    update: int | None = 0
    eval: int | None = 0

    @property
    def total(self) -> int | None:
        if self.act is None or self.update is None or self.eval is None:
            return None
        return self.act + self.update + self.eval


@dataclass(frozen=True)
class LedgerLine:
    """Everything that was spent up to one moment, cumulative: a line of ``ledger.jsonl``."""

    status: str
    time_utc: str
    lineage: Counts  # what the surviving agent learned from
    consumed: Counts  # thrown-away work included
    eval_frames: int | None  # None: not counted
    boot_frames: int | None  # emulated by resets, training and evaluation together; nobody plays them. None: not counted
    wall_s: float | None  # None, here and below: not known
    active_s: dict[str, float]  # wall seconds by phase: setup, act, learn, env, eval, io; empty: not told apart
    cpu_s: float | None  # this run's share
    gpu_allocated_s: float | None  # this run's share
    gpu_busy_s: float | None  # None: not known
    energy: dict[str, Energy]  # by source: gpu_board, cpu_package, dram, host_rest, wall_meter; this run's share
    flops: Flops
    peak_rss_bytes: int | None
    peak_cuda_bytes: int | None  # reserved by torch's allocator: what must be free for this run, less the CUDA context itself
    params_sha256: str | None = None  # of the final parameters, on the last line of a finished run
    peak_cuda_allocated_bytes: int | None = None  # held by tensors
    notes: list[str] = field(default_factory=list)  # what is missing or odd in these figures
    schema: int = SCHEMA_VERSION

    @property
    def joules(self) -> float:
        return total_energy(self.energy).joules

    @property
    def low_j(self) -> float:
        return total_energy(self.energy).low_j

    @property
    def high_j(self) -> float:
        return total_energy(self.energy).high_j


def has_gone(line: LedgerLine, now: datetime) -> bool:
    """Whether the writer of a ledger with this last line was killed: the line is no last one, and old."""
    return line.status == RUNNING and (now - datetime.fromisoformat(line.time_utc)).total_seconds() > GONE_S


def after_kill(lines: Sequence[LedgerLine], record: RunRecord) -> LedgerLine:
    """What is known of a killed run, from the lines that it wrote: its last one, whose energy may be higher by what was spent after it.

    The next line was due within a heartbeat, or within the longest time that two of its lines lie apart. In that time nothing may have
    been spent (low), or the most that each source can draw (high).
    """
    last, times = lines[-1], [line.wall_s for line in lines if line.wall_s is not None]
    lost_s = max([record.run_config.get("heartbeat_s", MOST_HEARTBEAT_S), *(b - a for a, b in pairwise(times))])
    energy = {name: until_killed(e, lost_s) for name, e in last.energy.items()}
    note = f"killed: it may have gone on for {lost_s:.1f} s after its last line, in no counter, and in the high end of its energy alone"
    if boundless := [name for name, e in present(energy).items() if e.most_w is None]:
        note += f" (not of {', '.join(boundless)}: how much it can draw is not known)"
    if record.run_config.get("metered") == PROCESS_TREE:
        note += "; the command itself may have gone on, unmetered"
    return replace(last, status=KILLED, energy=energy, notes=[*last.notes, note])


def until_killed(energy: Energy, seconds: float) -> Energy:
    """With what the source may have drawn in the ``seconds`` after this figure was taken."""
    return energy if energy.most_w is None else replace(energy, high_j=energy.high_j + energy.most_w * seconds)


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """One score at a point of training: of an evaluation (full games, unclipped), or what an import has in its place.

    All counters are those of that moment; None: not known.
    """

    steps: int | None
    frames: int | None
    updates: int | None
    wall_s: float | None
    joules: float  # this run's share, as in the ledger
    low_j: float
    high_j: float
    flops: int | None
    epsilon: float | None
    returns: list[float]  # one per episode
    lengths: list[int] = field(default_factory=list)  # steps, one per episode
    kind: str = EVALUATION  # TRAINING: returns of the training episodes since the last line; UNKNOWN: nobody said which
    games: int | None = (
        None  # of an import that knows only their mean, which then is the one entry of returns: how many, if known
    )
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
    text = _text(path)
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"{path} cannot be read: {error}") from error
    return _build(RunRecord, raw, path)


def read_ledger(folder: Path) -> list[LedgerLine]:
    """All whole lines of ``ledger.jsonl``, oldest first. A torn last line is left out; a bad line before it is an error."""
    path = folder / LEDGER_FILE
    return [_build(LedgerLine, raw, path) for raw in _read_sealed(path)]


def read_evals(folder: Path, most_bytes: int | None = None) -> list[EvalRecord]:
    """All whole lines of ``evals.jsonl``, or those in its first bytes, oldest first; empty where the run was not evaluated yet."""
    path = folder / EVALS_FILE
    return [_build(EvalRecord, raw, path) for raw in _read_sealed(path, most_bytes)] if path.exists() else []


def read_eval_columns(folder: Path) -> dict[str, list[Any]]:
    """``read_evals`` by field of EvalRecord, in half the time: a report reads a million lines."""
    path, names = folder / EVALS_FILE, EvalRecord.__dataclass_fields__
    columns = _flat_columns(_text(path).split("\n")) if path.exists() else None
    if columns and columns.keys() == names.keys() and set(columns["schema"]) <= set(range(1, SCHEMA_VERSION + 1)):
        return columns
    records = read_evals(folder)
    return {name: [getattr(record, name) for record in records] for name in names}


def _flat_columns(lines: list[str]) -> dict[str, list[Any]] | None:
    """The values by name of whole, sealed lines without nested records that all have the same names in the same order; else None."""
    if lines.pop() or not all(lines):  # cut off, or nothing there
        return None
    split = [_pieces(line) for line in lines]
    order = _sorted_order(split[0]) if split else []
    if any(f'sha":"{_flat_checksum(pieces, order)}"' not in pieces for pieces in split):
        return None
    try:
        return {name: values for name, values in map(_flat_column, zip(*split, strict=True)) if name != "sha"}
    except ValueError:
        return None


def _flat_column(pieces: tuple[str, ...]) -> tuple[str, list[Any]]:
    """``('steps":1', 'steps":2')`` to ``steps`` and [1, 2]. Raises ValueError where the names differ."""
    name, text = pieces[0].partition('"')[0], ",".join(pieces)
    values: list[Any] = json.loads("[" + text.replace(f'{name}":', "") + "]")
    if len(values) != len(pieces):
        raise ValueError(name)
    return name, values


def _read_sealed(path: Path, most_bytes: int | None = None) -> list[dict[str, Any]]:
    """The lines of a file whose checksum matches, without it."""
    records: list[dict[str, Any]] = []
    lines = _text(path, most_bytes).split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            raw = json.loads(line)
            sha = raw.pop("sha")
            if sha != _checksum(raw):
                raise ValueError("its checksum does not match")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            if not any(lines[number:]):  # the last one: the writer was cut off
                break
            raise SchemaError(f"{path} line {number} is damaged: {error}") from error
        records.append(raw)
    return records


def _text(path: Path, most_bytes: int | None = None) -> str:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise SchemaError(f"{path} cannot be read: it is no file")
    try:
        return path.read_bytes()[:most_bytes].decode("utf-8", errors="replace")
    except OSError as error:
        raise SchemaError(f"{path} cannot be read: {error}") from error


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode  # made once: a report checks a million lines


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(body).encode()).hexdigest()[:16]


def _pieces(line: str) -> list[str]:
    return line[2:-1].split(',"')


def _sorted_order(pieces: list[str]) -> list[int]:
    """Where the pieces of a line stand that its checksum is over, in the order of their names."""
    return sorted((n for n, piece in enumerate(pieces) if not piece.startswith('sha":')), key=pieces.__getitem__)


def _flat_checksum(pieces: list[str], order: list[int]) -> str:
    """The checksum of a line without nested records, from its own text: its pieces in the order of the names, which all lines of one
    writer share; a third of the time of writing it again. Of another line it is a text that matches nothing.
    """
    if len(pieces) != len(order) + 1:
        return ""
    return hashlib.sha256(('{"' + ',"'.join([pieces[n] for n in order]) + "}").encode()).hexdigest()[:16]


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
