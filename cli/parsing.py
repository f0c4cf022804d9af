"""Options from dataclasses: every field is a flag, its docstring the help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from cli import nearest
from runs.config import InputError


def parse(kind: Any, argv: Sequence[str], command: str, default: Any = None) -> Any:
    """Read the options of a command. Raises InputError for one that it does not have."""
    given = {} if default is None else {"default": default}
    asked, unknown = tyro.cli(kind, args=list(argv), prog=f"playmeter {command}", return_unknown_args=True, **given)
    if unknown:
        near = nearest(unknown[0], flags(asked)) or ":"
        raise InputError(f"unknown option {unknown[0]}{near} `playmeter {command} --help` lists them all")
    return asked


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
