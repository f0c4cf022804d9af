"""Frames to the time that a person needs to play them."""

from __future__ import annotations

from typing import overload

from analysis.convert.tables import table

NO_PHYSICAL_TIME = "the task has no physical time"
HOURS_PER_YEAR = 8766.0  # 365.25 days


def human_practice_h() -> float:
    """What the professional tester practised on each game before being scored (Mnih et al. 2015): 2 h."""
    return float(table("human_anchors")["nature_practice"]["value"])


def protocol_200m_frames() -> int:
    """The training length of the Nature DQN and of most results since: 200 million frames, 38.6 days at 60 Hz."""
    return int(table("human_anchors")["protocol_200m"]["value"])


def frame_rate_hz(env_id: str) -> float | None:
    """Frames a second of an environment in real time, from its own source (data/frame_rates.csv).

    None where the task has no physical time (MountainCar, MinAtar) and for an environment that is not in the table.
    """
    rates = table("frame_rates")
    row = rates.get(env_id) or (rates["ALE/*"] if env_id.startswith("ALE/") else None)
    return float(row["frame_rate_hz"]) if row and row["frame_rate_hz"] else None


def play_h(frames: float | None, frame_rate_hz: float | None) -> float | None:
    """Hours that a person needs to play that many frames in real time; None where the task has no physical time."""
    if frames is None or frame_rate_hz is None:
        return None
    return frames / frame_rate_hz / 3600


def play_h_in(env_id: str, frames: float | None) -> float | None:
    """The same by the environment's id, for experience that came without a run folder."""
    return play_h(frames, frame_rate_hz(env_id))


@overload
def years(hours: float) -> float: ...
@overload
def years(hours: None) -> None: ...
def years(hours: float | None) -> float | None:
    """Julian years of 8,766 hours."""
    return None if hours is None else hours / HOURS_PER_YEAR


def hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600
