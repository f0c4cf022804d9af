"""Options from dataclasses: every field is a flag, its docstring the help."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import tyro

from cli import nearest
from runs.config import DiskError, InputError


def parse(kind: Any, argv: Sequence[str], command: str, default: Any = None) -> Any:
    """Read the options of a command. Raises InputError for one that it does not have, and for a value of the wrong kind."""
    given = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            asked, unknown = tyro.cli(kind, args=list(argv), prog=f"playmeter {command}", return_unknown_args=True, **given)
    except SystemExit as end:
        if not end.code:  # --help
            raise
        raise InputError(f"{fault_in(said.getvalue())}; `playmeter {command} --help` explains every option") from None
    if unknown:
        near = nearest(unknown[0], flags(asked)) or ":"
        raise InputError(f"unknown option {unknown[0]}{near} `playmeter {command} --help` lists them all")
    return asked


def fault_in(box: str) -> str:
    """The message of tyro's box, with a frame or without, on one line: its rows between the first rule and the next or an empty row."""
    rows = [row.strip("│| ") for row in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    rules = [n for n, row in enumerate(rows) if "─" * 10 in row or "-" * 10 in row]
    first = rules[0] + 1 if rules else 0
    text = (
        " ".join(takewhile(bool, rows[first : rules[1] if len(rules) > 1 else None])).removeprefix("Error parsing ").rstrip(".")
    )
    text = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is no whole number", text)
    return re.sub(r"could not convert string to float: (.*)", r"\1 is no number", text)


def flags(options: Any, prefix: str = "--") -> list[str]:
    """The names of all flags of a dataclass, those of its dataclasses too: ``--agent.n-step``."""
    found: list[str] = []
    for option in fields(options):
        if "Positional" in str(option.type):
            continue
        name, value = f"{prefix}{option.name.replace('_', '-')}", getattr(options, option.name)
        found += flags(value, f"{name}.") if is_dataclass(value) else [name]
    return found


def file_or_dash(target: str | None) -> Path | Literal["-"] | None:
    return "-" if target == "-" else Path(target) if target else None


def writable_or_dash(target: str | None) -> Path | Literal["-"] | None:
    """The same, for what is written after minutes of work. Raises InputError where that would fail."""
    path = file_or_dash(target)
    if isinstance(path, Path):
        if not path.absolute().parent.is_dir():
            raise InputError(f"{path.parent} does not exist: make that folder first, or name a file elsewhere")
        try:
            path.resolve()
        except (OSError, RuntimeError):  # RuntimeError before Python 3.13
            raise InputError(f"{path} is a link that leads back to itself: name a file") from None
        if path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise InputError(f"{path} cannot be written: name a file elsewhere")
    return path


def write_json(target: Path | Literal["-"], content: Any) -> None:
    """Raises DiskError."""
    words = json.dumps(content, indent=2, allow_nan=False) + "\n"
    if target != "-":
        write_whole(target, words.encode())
    elif sys.stdout is not None:  # it was closed: `>&-`
        sys.stdout.write(words)


def write_whole(target: Path, content: bytes) -> None:
    """The whole file or none of it, what a link leads to, or into a pipe. Raises DiskError: minutes of work are lost, no input was bad."""
    from analysis.report import ReportError, write_files

    try:
        write_files({target: content})
    except ReportError as error:
        raise DiskError(str(error)) from error
