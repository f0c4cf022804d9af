"""The one place that writes a run folder."""

from __future__ import annotations

import csv
import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from runs.config import InputError
from runs.schema import (
    EVALS_FILE,
    LEDGER_FILE,
    MONITOR_FILE,
    RUN_FILE,
    EvalRecord,
    LedgerLine,
    RunRecord,
    SchemaError,
    read_evals,
    read_ledger,
    seal,
)

if TYPE_CHECKING:
    from agents.policy import Policy


def names_of(folders: Sequence[Path]) -> list[str]:
    """Short names that tell the run folders of a group apart: ``seed0``, or ``Pong-v5/seed0`` where several games have such a seed."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [f"{folder.parent.parent.name}/{folder.name}" for folder in folders]


def new_folder(out: Path, env: str, agent: str, seed: int) -> Path:
    """Make ``<out>/<env>/<agent>/seed<k>``, or ``seed<k>-2``, ``-3`` ... where that run exists. Raises InputError.

    A colon in the agent's name is a hyphen in the path: some file systems and tools give it a meaning.
    """
    parent, number = agent_folder(out, env, agent), 1
    while True:
        folder = parent / (f"seed{seed}" if number == 1 else f"seed{seed}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not parent.is_dir():
                raise InputError(f"{parent} cannot be used for results: something that is no folder is in the way") from None
            number += 1
        except OSError as error:
            raise InputError(f"{out} cannot be written: {error.strerror}; choose another folder with --out") from error


def agent_folder(out: Path, env: str, agent: str) -> Path:
    """Where the run folders of an agent lie."""
    return out / env / agent.replace(":", "-")


def check_writable(out: Path) -> None:
    """Raise InputError where no run folder could be made in ``out``; leaves nothing behind."""
    existing = out
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise InputError(f"{out} cannot be used for results: {existing} is not a folder; choose another with --out")
    probe = existing / f".playmeter-{os.getpid()}"  # os.access() says yes to root on a read-only file system
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}; choose another folder with --out") from error


def remove_folder(folder: Path, out: Path) -> None:
    """Take back a run folder that nothing ran in, and the folders around it that it alone was in, ``out`` among them."""
    shutil.rmtree(folder)
    for parent in folder.parents:
        if any(parent.iterdir()):
            break
        parent.rmdir()
        if parent == out:
            break


class RunFolder:
    """Appends to one run's files. Ledger lines and evaluations are on the disk when the call returns."""

    def __init__(self, folder: Path, record: RunRecord, again: bool = False) -> None:
        """``again``: the run goes on in its folder, after :func:`cut_back`; ``run.json`` stays as it is."""
        self.folder = folder
        if not again:
            write_atomically(folder / RUN_FILE, (json.dumps(asdict(record), indent=2, allow_nan=False) + "\n").encode())
        self._ledger = (folder / LEDGER_FILE).open("ab", buffering=0)
        self._evals = (folder / EVALS_FILE).open("ab", buffering=0)
        self._monitor = (folder / MONITOR_FILE).open("a" if again else "w", encoding="utf-8", newline="")
        self._episodes = csv.writer(self._monitor, lineterminator="\n")
        if self._monitor.tell() == 0:
            # stable-baselines3's Monitor format: a JSON comment, then CSV; its load_results() reads it.
            self._monitor.write(f"#{json.dumps({'t_start': 0.0, 'env_id': record.env.id})}\n")
            self._episodes.writerow(("r", "l", "t", "frames"))

    def episode(self, score: float, steps: int | None, wall_s: float | None, frames: int | None) -> None:
        """One line of ``monitor.csv``; what nobody counted (None) is an empty field."""
        self._episodes.writerow((round(score, 6), steps, None if wall_s is None else round(wall_s, 6), frames))

    def ledger(self, line: LedgerLine) -> None:
        self._monitor.flush()
        _append(self._ledger, seal(line))

    def evaluation(self, record: EvalRecord) -> None:
        _append(self._evals, seal(record))

    def sizes(self) -> dict[str, int]:
        """Bytes of the files that a checkpoint may have to cut back, as they are on the disk when the call returns."""
        self._monitor.flush()
        os.fsync(self._monitor.fileno())
        files = [self.folder / MONITOR_FILE, self.folder / EVALS_FILE, *self.folder.glob(CURVES)]
        return {path.name: path.stat().st_size for path in files}

    def checkpoint(self, name: str, save: Callable[[BinaryIO], None]) -> None:
        """Let ``save`` write the file ``name`` of this folder: the whole content or nothing."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, path)

    def close(self) -> None:
        for file in (self._ledger, self._evals, self._monitor):
            file.close()


def load_policy(checkpoint: Path) -> Policy:
    """The agent of a run's final checkpoint, ready to play. Nothing in the file is executed. Raises InputError."""
    import torch  # here: whoever only writes run folders need not wait for it

    from agents.policy import Policy

    try:
        return Policy.from_state(torch.load(checkpoint, weights_only=True))
    except (OSError, EOFError, KeyError, TypeError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise unloadable(checkpoint, error) from error


def unloadable(checkpoint: Path, error: Exception) -> InputError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged, or another program's"
    return InputError(f"{checkpoint} is no checkpoint that can be loaded: {reason}")


def write_atomically(path: Path, content: bytes) -> None:
    """The whole content or nothing."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _rename(temporary, path)


def _rename(temporary: Path, path: Path) -> None:
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Let the names in a folder reach the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _append(file: Any, line: str) -> None:
    """The whole line or nothing: a disk that fills up takes part of it."""
    content = line.encode()
    before = os.fstat(file.fileno()).st_size
    try:
        if file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            os.ftruncate(file.fileno(), before)
        raise


def cut_back(folder: Path, sizes: Mapping[str, int]) -> None:
    """Take a run's files back to a checkpoint's sizes: what was appended later will be played again.

    Files that ``sizes`` does not name go back to nothing. The ledger stays, but for a line at its end that was cut off: what was
    spent was spent. Raises InputError, before anything is changed, where ``check_files`` does.
    """
    check_files(folder, sizes)
    for path in _growing(folder):
        if sizes.get(path.name) == 0:
            path.touch()  # an empty file is easily lost on the way from one disk to another
        if path.name in sizes:
            os.truncate(path, sizes[path.name])
        else:
            path.unlink(missing_ok=True)
    if (folder / LEDGER_FILE).exists():
        whole = len(read_ledger(folder))
        lines = [line for line in (folder / LEDGER_FILE).read_bytes().split(b"\n") if line][:whole]
        os.truncate(folder / LEDGER_FILE, sum(len(line) + 1 for line in lines))


def check_files(folder: Path, sizes: Mapping[str, int]) -> None:
    """Raise InputError where a file is a link, has less than the checkpoint knew of, or evaluations before it that cannot be read."""
    files = _growing(folder)
    for path in [*files, folder / LEDGER_FILE]:
        if path.is_symlink():
            raise InputError(f"{path} is a link: a run is continued only in its own folder")
    for path in files:
        if sizes.get(path.name, 0) > (path.stat().st_size if path.exists() else 0):
            raise InputError(f"{path} is shorter than at the checkpoint: it cannot be continued")
    try:
        read_evals(folder, sizes.get(EVALS_FILE, 0))
    except SchemaError as error:
        raise InputError(f"{folder} cannot be continued: {error}") from error


def _growing(folder: Path) -> list[Path]:
    """The files beside the ledger that a run appends to."""
    return [folder / MONITOR_FILE, folder / EVALS_FILE, *folder.glob(CURVES)]


CURVES = "events.out.tfevents*"
