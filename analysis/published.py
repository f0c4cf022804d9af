"""Published scores of the same game or task, each with the protocol it was obtained under.

What counts as comparable: sticky actions alike, no-op or plain starts (never human starts), and an experience within a factor of two.
Everything else is shown too, with what differs; how the figure was evaluated always stands beside it.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from analysis import convert
from runs.schema import EnvRecord

STICKY = {"nature": "no", "atari100k": "no", "sticky": "yes"}  # our protocols, in the words of the tables
NEAR = 2.0


@dataclass(frozen=True)
class Neighbour:
    """One published figure. ``differs``: what keeps it from being compared with a run, empty where nothing is known to."""

    agent: str
    score: float
    frames: int
    n_runs: str
    protocol: str
    source: str
    differs: tuple[str, ...]


@cache
def _rows() -> dict[str, list[dict[str, str]]]:
    """Rows of the tables by environment, the columns of the control tasks brought to those of Atari."""
    by_env: dict[str, list[dict[str, str]]] = {}
    for name in ("published_100k", "published_200m", "published_control"):
        with (convert.DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if name == "published_control":
                    row |= {
                        "env_id": row["env"],
                        "agent": row["published_as"],
                        "frames": row["steps"],
                        "evaluation": row["score_kind"],
                    }
                    row |= {"sticky_actions": "", "start": ""}
                by_env.setdefault(row["env_id"].replace("LunarLander-v2", "LunarLander-v3"), []).append(row)
    return by_env


def neighbours(env: EnvRecord, frames: float) -> list[Neighbour]:
    """Published figures on ``env``, best first, beside a run of that protocol and that many frames."""
    found = [_neighbour(row, env, frames) for row in _rows().get(env.id, [])]
    return sorted(found, key=lambda each: -each.score)


def _neighbour(row: dict[str, str], env: EnvRecord, frames: float) -> Neighbour:
    published = int(float(row["frames"]))
    label = [row["evaluation"]]
    differs = []
    if env.kind == "atari":
        label = [f"sticky actions: {row['sticky_actions']}", f"starts: {row['start']}", *label]
        if row["sticky_actions"].split()[0] != STICKY.get(env.protocol):
            differs.append("sticky actions" if row["sticky_actions"] != "not stated" else "sticky actions not stated")
        if row["start"] == "human starts":
            differs.append("human starts")
    if row["evaluation"].startswith("training return"):
        differs.append("a training return, not an evaluation")
    if row["env_id"] != env.id:
        differs.append(row["env_id"])
    if not 1 / NEAR <= published / max(frames, 1) <= NEAR:
        differs.append("experience")
    return Neighbour(
        row["agent"], float(row["score"]), published, row["n_runs"], "; ".join(label), row["source"], tuple(differs)
    )
