"""Takes over the runs that a command continues: the trainer goes to their last checkpoint, and their files to the same moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from runs.checkpoint import FOLDER, Manifest, Store
from runs.config import InputError
from runs.folder import check_files, cut_back, names_of
from runs.loop import Trainer
from runs.machine import versions
from runs.resume import Earlier
from runs.schema import LEDGER_FILE, RUNNING, Counts, LedgerLine, RunRecord, after_kill, read_evals, read_ledger


@dataclass(frozen=True)
class TakenOver:
    """What is known of the runs before this process, seed by seed."""

    manifest: Manifest | None  # None: they begin again
    before: list[LedgerLine | None]  # the last lines of the processes before this one
    eval_scores: list[list[float]]
    frozen: dict[int, Counts]  # lineage of the seeds that diverged
    notes: list[list[str]]


def take_over(earlier: Earlier, trainer: Trainer, device: dict[str, Any], notice: Callable[[str], None]) -> TakenOver:
    """Bring the training to its last checkpoint, or leave it at its start, and the files to the same moment. Raises InputError."""
    store, folders, counters = Store(earlier.folders[0] / FOLDER, notice), earlier.folders, trainer.books.counters
    try:
        manifest = store.load()
        if manifest is not None:
            trainer.restore(store, manifest)
        sizes = {} if manifest is None else sizes_of(manifest, folders)
    except (ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{folders[0]} cannot be continued: {reason}") from error
    # As they are now that nobody else writes. Each checkpoint stands behind a line of the ledger that says what it cost.
    lines = [last_words(folder, record) for folder, record in zip(folders, earlier.records, strict=True)]
    for folder, line in zip(folders, lines, strict=True):
        if manifest is not None and (line is None or (line.consumed.steps or 0) < counters.steps):
            raise InputError(f"{folder} cannot be continued: its ledger lacks lines that were there at its checkpoint")
    check_machine(earlier.records[0], trainer, device, notice)
    for name, folder in zip(names_of(folders), folders, strict=True):
        check_files(folder, sizes.get(name, {}))
    for name, folder in zip(names_of(folders), folders, strict=True):
        cut_back(folder, sizes.get(name, {}))
    notes: list[list[str]] = [[] for _ in folders]
    if (last := lines[0]) is not None:
        trainer.books.earlier_wall_s = counters.wall_s = last.wall_s or 0.0
        counters.joules = last.joules
        lost = (last.lineage.steps or 0) - counters.steps
        notes = [[f"continued at step {counters.steps:,}, {lost:,} counted steps were lost"] for _ in folders]
    notice(f"continuing at step {counters.steps:,} in {', '.join(str(folder) for folder in folders)}")
    stopped = trainer.books.stopped
    return TakenOver(
        manifest=manifest,
        before=with_replayed_frames(lines, trainer),
        eval_scores=[[evaluation.mean_return for evaluation in read_evals(folder)] for folder in folders],
        frozen={k: line.lineage for k, line in enumerate(lines) if line is not None and stopped[k]},
        notes=notes,
    )


def with_replayed_frames(lines: list[LedgerLine | None], trainer: Trainer) -> list[LedgerLine | None]:
    """What bringing the games back emulated is work of the emulator that nobody plays."""
    replayed = getattr(trainer.books.world, "replayed_frames", None)
    if replayed is None:
        return lines
    frames = replayed.reshape(len(lines), -1).sum(1)
    return [
        line if line is None or line.boot_frames is None else replace(line, boot_frames=line.boot_frames + int(frames[k]))
        for k, line in enumerate(lines)
    ]


def how_it_computes(trainer: Trainer) -> dict[str, Any]:
    """What rounding depends on besides libraries and hardware, for ``run.json``."""
    return {"compiled": trainer.compiled, "with_cuda_graphs": trainer.cuda_graphs, "torch_threads": torch.get_num_threads()}


def check_machine(record: RunRecord, trainer: Trainer, device: dict[str, Any], notice: Callable[[str], None]) -> None:
    """Say what makes the continued run another one than the uninterrupted."""
    changed = [name for name, value in how_it_computes(trainer).items() if record.run_config.get(name, False) != value]
    changed += [name for name in ("torch", "numpy", "gymnasium", "ale-py") if record.versions.get(name) != versions().get(name)]
    # GPUs of other kinds deal out what they draw in another order, CPUs do not
    moved = any(
        record.device.get(name) != device[name] for name in (("type", "name") if device["type"] == "cuda" else ("type",))
    )
    if changed or moved:
        by = "rounding, and another kind of device may draw other random numbers" if moved else "rounding"
        notice(f"not as when it was started: {', '.join([*changed, *['device'] * moved])}; the results may differ by {by}")


def last_words(folder: Path, record: RunRecord) -> LedgerLine | None:
    """The last line of a ledger, with what a killed run may have spent after it. None: it was killed before its first."""
    lines = read_ledger(folder) if (folder / LEDGER_FILE).exists() else []
    if lines and lines[-1].status == RUNNING:
        return after_kill(lines, record)
    return lines[-1] if lines else None


def sizes_of(manifest: Manifest, folders: Sequence[Path]) -> dict[str, dict[str, int]]:
    """How long the files of each run were at a checkpoint. Raises ValueError where it is not of these runs."""
    files = manifest.plain.get("files")
    if not isinstance(files, dict) or sorted(files) != sorted(names_of(folders)):
        raise ValueError(f"its checkpoint is of {', '.join(files or ['nothing'])}, found were {', '.join(names_of(folders))}")
    if not all(type(size) is int and size >= 0 for sizes in files.values() for size in sizes.values()):
        raise ValueError("its checkpoint has no sizes of the files")
    return files
