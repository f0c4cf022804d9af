"""``playmeter agents``, ``envs`` and ``board``: what there is to look at."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from cli.parsing import parse
from runs.config import InputError


@dataclass(frozen=True)
class Agents:
    """Without a name: the family tree, each member with what it adds to its parent. With a name: all its settings."""

    name: Positional[str | None] = None
    """One agent, e.g. `dueling`."""


@dataclass(frozen=True)
class Envs:
    """Every environment that can be played, or those whose name contains a word."""

    word: Positional[str] = ""
    """Part of a name, e.g. `pong`."""


@dataclass(frozen=True)
class Board:
    """TensorBoard on everything in a folder; stop it with Ctrl-C."""

    folder: Positional[Path] = Path("results")
    """A folder that holds run folders."""
    port: int = 6006
    """Where to serve, on this machine only."""


def agents_command(argv: Sequence[str]) -> int:
    """List the agents as a family tree, or one agent's settings with their source."""

    from agents.baselines import is_baseline

    asked: Agents = parse(Agents, argv, "agents")
    if asked.name is None:
        print(f"{family_tree()}\n\n{baseline_list()}")
    else:
        print(baseline_page(asked.name) if is_baseline(asked.name) else agent_page(asked.name))
    return 0


def family_tree(name: str | None = None, depth: int = 0) -> str:
    """The members below ``name``, indented, with their visible differences."""
    from agents.family import children, differences

    lines: list[str] = []
    for entry in children(name):
        indent = "    " * depth
        lines.append(f"{indent}{entry.name}: {entry.idea}")
        lines.append(f"{indent}    {entry.paper}")
        if entry.parent is not None:
            lines += [f"{indent}    {domain}: {_settings(changes)}" for domain, changes in differences(entry).items()]
        lines.append(family_tree(entry.name, depth + 1))
    return "\n".join(line for line in lines if line)


def agent_page(name: str) -> str:
    """Everything about one agent: paper, deviations, settings in each domain, and where they come from."""
    from agents.family import DOMAINS as domains
    from agents.family import agent_config, differences, lineage, member
    from envs.protocols import PROTOCOLS

    entry = member(name)
    settings = {domain: asdict(agent_config(name, domain)) for domain in domains}
    own = {domain: differences(entry).get("all", {}) | differences(entry).get(domain, {}) for domain in domains}

    def cell(domain: str, key: str) -> str:
        return f"{settings[domain][key]!s}{'*' if key in own[domain] else ' '}"

    rows = [f"  {'':<26}" + "".join(f"{domain:>16} " for domain in domains)]
    rows += [f"  {key:<26}" + "".join(f"{cell(domain, key):>17}" for domain in domains) for key in settings["classic"]]
    deviations = [f"  - {text}" for text in entry.deviations] or ["  none"]
    sources = [f"  {it.name}: {it.paper}" for it in lineage(name)]
    sources += [f"  {it.name}, {domain}: {text}" for it in lineage(name) for domain, text in it.sources.items()]
    title = f"{entry.name}" + (f" (child of {entry.parent})" if entry.parent else "")
    return "\n".join(
        [
            title,
            entry.idea,
            "",
            "deliberate deviations:",
            *deviations,
            "",
            "evaluated as the protocol says, whatever the paper did: epsilon "
            + ", ".join(f"{protocol.eval_epsilon:g} in {protocol.name}" for protocol in PROTOCOLS.values()),
            "",
            "settings (* differs from the parent's or is set anew):",
            *rows,
            "",
            "sources, nearest first:",
            *sources,
        ]
    )


def _settings(changes: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in changes.items())


def baseline_list() -> str:
    """The agents of other libraries, one line each."""
    from agents.baselines import BASELINES

    lines = [f"{entry.name}: {entry.implementation}\n    {entry.paper}" for entry in BASELINES.values()]
    return "\n".join(["baselines, trained by stable-baselines3 under the same meter:", *lines])


def baseline_page(name: str) -> str:
    """Everything about one baseline: class, paper, what to know, settings in each domain with their sources."""
    from agents.baselines import baseline, baseline_config

    entry = baseline(name)
    settings = {domain: asdict(baseline_config(name, domain)) for domain in entry.by_domain}
    rows = [f"  {'':<24}" + "".join(f"{domain:>16}" for domain in settings)]
    rows += [f"  {key:<24}" + "".join(f"{settings[domain][key]!s:>16}" for domain in settings) for key in settings["classic"]]
    notes = [f"  - {text}" for text in entry.notes]
    sources = [f"  {domain}: {source}" for domain, source in entry.sources.items()]
    head = [f"{entry.name}: {entry.implementation}", entry.paper, "", "to know:", *notes]
    return "\n".join(
        [*head, "", "sources (zoo: RL Baselines3 Zoo, hyperparams/):", *sources, "", "settings (--sb3.NAME):", *rows]
    )


def envs_command(argv: Sequence[str]) -> int:
    """List the environments with their real-time rate, threshold and protocols."""

    from envs import describe

    asked: Envs = parse(Envs, argv, "envs")
    rows = [row for row in describe() if asked.word.lower() in str(row["id"]).lower()]
    if not rows:
        raise InputError(f"no environment's name contains {asked.word!r}; `playmeter envs` lists them all")
    header = ("environment", "real time", "frames/step", "threshold", "time limit", "actions", "protocols")
    table = [header] + [
        (
            str(row["id"]),
            f"{row['frame_rate_hz']:g} Hz" if row["frame_rate_hz"] else "none",
            str(row["frames_per_step"]),
            "-" if row["reward_threshold"] is None else f"{row['reward_threshold']:g}",
            "-" if row["max_episode_steps"] is None else f"{row['max_episode_steps']} steps",
            str(row["actions"]),
            str(row["protocols"]),
        )
        for row in rows
    ]
    widths = [max(len(row[k]) for row in table) for k in range(len(header))]
    print("\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table))
    return 0


def board_command(argv: Sequence[str]) -> int:
    """Open TensorBoard on the run folders."""

    asked: Board = parse(Board, argv, "board")
    if not 0 < asked.port < 2**16:
        raise InputError(f"--port must lie between 1 and 65535, not {asked.port}")
    if not any(asked.folder.rglob("events.out.tfevents*")):
        raise InputError(f"{asked.folder} holds no TensorBoard curves: train first, or name the folder given to --out")
    # It becomes TensorBoard: as its parent, ended by SIGTERM, it would leave a child behind that keeps the port.
    os.execv(
        sys.executable, [sys.executable, "-m", "tensorboard.main", "--logdir", str(asked.folder), "--port", str(asked.port)]
    )
