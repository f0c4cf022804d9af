"""From counts to what they mean to a person: hours of play, kilowatt-hours, brain-hours, money.

One function per conversion. None in gives None out: what is not known is said, it is never 0.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import overload

DATA = Path(__file__).parent / "data"
JOULES_PER_KWH = 3.6e6
NO_PHYSICAL_TIME = "the task has no physical time"


@cache
def _table(name: str) -> dict[str, dict[str, str]]:
    """One of the small tables in ``data/`` by the value of its first column."""
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {next(iter(row.values())): row for row in rows}


def human_practice_h() -> float:
    """What the professional tester practised on each game before being scored (Mnih et al. 2015): 2 h."""
    return float(_table("human_anchors")["nature_practice"]["value"])


def protocol_200m_frames() -> int:
    """The training length of the Nature DQN and of most results since: 200 million frames, 38.6 days at 60 Hz."""
    return int(_table("human_anchors")["protocol_200m"]["value"])


def brain_power_w() -> tuple[float, float, float]:
    """Power of a human brain: (centre, low, high), 20 W and what other sources give."""
    table = _table("human_energy")
    power = [float(table[row]["value"]) for row in ("brain_power", "brain_power_low", "brain_power_high")]
    return power[0], power[1], power[2]


def sources() -> list[str]:
    """Where the constants of a report come from, a sentence each."""
    rows = list(_table("human_anchors").values()) + list(_table("human_energy").values())
    figures = [f"{row['quantity']}: {float(row['value']):,.10g} {row['unit']} ({row['source']})" for row in rows]
    atari = next(iter(_table("atari_scores").values()))["source"]
    return [*figures, f"random and human scores of the Atari games ({atari})"]


@dataclass(frozen=True)
class AtariScores:
    """Published scores of one game; ``normalise`` gives 0 for random play and 1 for the human tester."""

    random: float
    human: float

    def normalise(self, score: float) -> float:
        return (score - self.random) / (self.human - self.random)

    def at(self, share: float) -> float:
        """The score that normalises to ``share``."""
        return self.random + share * (self.human - self.random)


def atari_scores(env_id: str) -> AtariScores | None:
    """Random and human score of an Atari game by its environment id, None where none was published."""
    row = _table("atari_scores").get(env_id)
    return AtariScores(float(row["random_score"]), float(row["human_score"])) if row else None


def play_h(frames: float | None, frame_rate_hz: float | None) -> float | None:
    """Hours that a person needs to play that many frames in real time; None where the task has no physical time."""
    if frames is None or frame_rate_hz is None:
        return None
    return frames / frame_rate_hz / 3600


@overload
def kwh(joules: float) -> float: ...
@overload
def kwh(joules: None) -> None: ...
def kwh(joules: float | None) -> float | None:
    """Kilowatt-hours: 3.6 MJ each."""
    return None if joules is None else joules / JOULES_PER_KWH


def hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600


def brain_h(joules: float) -> float:
    """Hours that a human brain, at 20 W, runs on that energy."""
    return joules / brain_power_w()[0] / 3600


def cost_usd(energy_kwh: float | None, price_usd_per_kwh: float | None) -> float | None:
    """Price of the electricity alone; None where no price was given."""
    if energy_kwh is None or price_usd_per_kwh is None:
        return None
    return energy_kwh * price_usd_per_kwh
