"""Which of a user's files are results, and in which format."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path

from runs.config import InputError
from runs.foreign import ForeignRun, ImportConfig, header_of
from runs.foreign_events import read_events
from runs.foreign_tables import (
    DQN_ZOO_COLUMNS,
    is_dopamine_json,
    read_dopamine_json,
    read_dqn_zoo,
    read_plain,
    read_sb3,
)
from runs.schema import MONITOR_FILE, SchemaError, read_run

Reader = Callable[[list[Path], ImportConfig], list[ForeignRun]]
READERS: dict[str, Reader] = {
    "sb3": read_sb3,
    "tensorboard": read_events,
    "dopamine": read_dopamine_json,
    "dqn_zoo": read_dqn_zoo,
    "csv": read_plain,
}
NO_PICKLES = (
    "is a pickle, and to open one runs whatever it holds, so it stays closed: import the TensorBoard events of that run, "
    "Dopamine's published JSON, or a CSV of your own"
)


def read_files(config: ImportConfig) -> list[ForeignRun]:
    """Every run in ``config.path``. Raises InputError where one cannot be read, or there is none."""
    name, files = _detect(config)
    reader = read_events if name == "dopamine" and "tfevents" in files[0].name else READERS[name]
    return reader(files, config)


def _detect(config: ImportConfig) -> tuple[str, list[Path]]:
    """The format and the files to read. Raises InputError where it is none, or more than one."""
    path = config.path
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if _is_regular(p))
    if ours := next((folder for folder in dict.fromkeys(p.parent for p in files) if _is_ours(folder)), None):
        raise InputError(f"{ours} is a run folder of playmeter already: `playmeter report` reads it as it is")
    by_format = _sorted_out(files)
    if config.format != "auto":
        wanted = by_format.get(config.format) or (by_format.get("tensorboard") if config.format == "dopamine" else None)
        wanted = wanted or ([p for p in files if p.suffix == ".csv"] if config.format in ("csv", "dqn_zoo") else None)
        if not wanted:
            raise _nothing(path, files, f"holds nothing of the format {config.format}")
        return config.format, wanted
    specific = [name for name in by_format if name != "csv"] or list(by_format)
    if len(specific) > 1:
        raise InputError(f"{path} holds results of several formats: choose one with --format {' or '.join(sorted(specific))}")
    if not specific:
        raise _nothing(path, files, f"holds no results of a known format ({', '.join(READERS)})")
    return specific[0], by_format[specific[0]]


def _is_ours(folder: Path) -> bool:
    try:
        read_run(folder)
    except SchemaError:
        return False
    return True


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _sorted_out(files: list[Path]) -> dict[str, list[Path]]:
    by_format: dict[str, list[Path]] = {}
    for path in files:
        if name := _format_of(path):
            by_format.setdefault(name, []).append(path)
    return by_format


def _format_of(path: Path) -> str | None:
    if path.name.endswith(MONITOR_FILE):
        return "sb3"
    if "tfevents" in path.name:
        return "tensorboard"
    if path.suffix == ".json":
        return "dopamine" if is_dopamine_json(path) else None
    if path.suffix == ".csv":
        return "dqn_zoo" if set(header_of(path)) >= DQN_ZOO_COLUMNS else "csv"
    return None


def _nothing(path: Path, files: list[Path], fault: str) -> InputError:
    if pickles := [p for p in files if _is_pickle(p)]:
        return InputError(f"{pickles[0]} {NO_PICKLES}")
    return InputError(f"{path} {fault}")


def _is_pickle(path: Path) -> bool:
    """By its name (Dopamine writes logs/log_<iteration>) or its first bytes: the opcode of protocol 2 and later."""
    if path.suffix in (".pkl", ".pickle") or re.fullmatch(r"log_\d+", path.name):
        return True
    try:
        with path.open("rb") as file:
            return re.match(rb"\x80[\x02-\x05]", file.read(2)) is not None
    except OSError:
        return False
