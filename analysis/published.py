"""Published scores of the same game or task, each with the protocol it was obtained under.

What counts as comparable: sticky actions alike, no-op or plain starts (never human starts), and an experience within a factor of two.
Everything else is shown too, with what differs; how the figure was evaluated always stands beside it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from analysis import convert, statistics
from runs.schema import EnvRecord

STICKY = {"nature": "no", "atari100k": "no", "sticky": "yes"}  # our protocols, in the words of the tables
NEAR = 2.0
TRAINING_RETURN = re.compile(r"training (episodic )?returns?")  # in a table's words on how a figure was found


@dataclass(frozen=True)
class Neighbour:
    """One published figure. ``differs``: what keeps it from being compared with a run, empty where nothing is known to."""

    agent: str
    score: float
    frames: int
    n_runs: str | None  # in a table's words; None: not stated
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


@dataclass(frozen=True)
class OverGames:
    """One published agent on several games. Statistics are of one normalised score a game, the published mean; an IQM over runs, which
    papers give, needs their runs and is another number."""

    agent: str
    mean: float
    median: float
    iqm_of_means: float
    least_frames: int
    most_frames: int
    n_runs: str | None  # in a table's words; None: not stated
    protocol: str
    source: str
    differs: tuple[str, ...]


def over_games(
    envs: Sequence[EnvRecord], frames: Sequence[float], scales: Sequence[tuple[str, float, float]]
) -> list[OverGames]:
    """The agents that have a published figure on every one of ``envs``, best mean first.

    ``scales``: of each environment (name, score that counts 0, score that counts 1). Figures of human starts are left out: these have
    a scale of their own (``convert.atari_scores``).
    """
    found: dict[tuple[str, str], list[tuple[Neighbour, float]]] = {}
    for env, spent, (_, nothing, one) in zip(envs, frames, scales, strict=True):
        for each in neighbours(env, spent):
            if "human starts" not in each.differs:
                found.setdefault((each.agent, each.protocol), []).append((each, (each.score - nothing) / (one - nothing)))
    return sorted((_over_games(rows) for rows in found.values() if len(rows) == len(envs)), key=lambda each: -each.mean)


def _over_games(rows: Sequence[tuple[Neighbour, float]]) -> OverGames:
    neighbours = [each for each, _ in rows]
    sources = list(dict.fromkeys(each.source for each in neighbours))
    return OverGames(
        neighbours[0].agent, **statistics.over_games([score for _, score in rows]),
        least_frames=min(each.frames for each in neighbours), most_frames=max(each.frames for each in neighbours),
        n_runs=_in_words([each.n_runs for each in neighbours]), protocol=neighbours[0].protocol,
        source=sources[0] if len(sources) == 1 else f"{sources[0]}; and of each game its own, {len(sources)} in all",
        differs=tuple(dict.fromkeys(what for each in neighbours for what in each.differs)),
    )  # fmt: skip


def _in_words(n_runs: Sequence[str | None]) -> str | None:
    """The numbers of runs on several games; None where not one is stated."""
    return ", ".join(dict.fromkeys(each or "not stated" for each in n_runs)) if any(n_runs) else None


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
    if TRAINING_RETURN.search(row["evaluation"]):
        differs.append("a training return, not an evaluation")
    elif row["evaluation"].startswith("derived from learning curve"):
        differs.append("from a learning curve: evaluations or training returns not stated")
    if row["env_id"] != env.id:
        differs.append(row["env_id"])
    if not 1 / NEAR <= published / max(frames, 1) <= NEAR:
        differs.append("experience")
    return Neighbour(
        row["agent"], float(row["score"]), published, row["n_runs"] or None, "; ".join(label), row["source"], tuple(differs)
    )
