"""What known systems needed to learn to play: experience, human-equivalent time, energy, compute, money (data/landmarks.csv).

Published figures are kept as printed; human-equivalent time and energy are computed here and say how. What is not known is None.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis import convert
from analysis.convert.tables import rows

ATARI_HZ = 60.0  # every game of the benchmarks is an NTSC one

# The systems that a report sets beside its runs; `playmeter claims` and the table know more.
FAMOUS = (
    "DQN (2015)", "AlphaGo Lee", "AlphaGo Zero (40-day run)", "AlphaZero", "Rainbow", "R2D2", "OpenAI Five", "MuZero (Atari)",
    "AlphaStar (January 2019 league)", "AlphaStar (Nature, final)", "NGU / Agent57 (51 games)", "Agent57 (Skiing)", "GPT-3", "EfficientZero",
    "SPR", "BBF", "DreamerV3 (Atari 57)",
)  # fmt: skip


@dataclass(frozen=True)
class Landmark:
    """One system. ``kind`` is agent, human or language model."""

    system: str
    year: int
    kind: str
    domain: str
    experience: float | None
    experience_unit: str | None  # frames per game, years of play, self-play games, positions ..., as the source counts
    play_years: float | None  # how long a person would have had to play in real time
    play_how: str | None
    training_days: float | None  # elapsed
    hardware: str | None
    energy_kwh: float | None
    energy_how: str | None
    flop: float | None
    cost_usd: float | None
    cost_kind: str | None
    source: str
    note: str | None


def landmarks() -> list[Landmark]:
    """All systems of the table, oldest first."""
    return sorted((_landmark(row) for row in rows("landmarks")), key=lambda it: it.year)


def _landmark(row: dict[str, str]) -> Landmark:
    play_h, play_how = _play_h(row)
    energy_kwh, energy_how = _energy_kwh(row, play_h)
    return Landmark(
        row["system"], int(row["year"]), row["kind"], row["domain"],
        experience=_number(row["experience"]), experience_unit=row["experience_unit"] or None,
        play_years=convert.years(play_h), play_how=play_how,
        training_days=_number(row["training_days"]), hardware=row["hardware"] or None,
        energy_kwh=energy_kwh, energy_how=energy_how,
        flop=_number(row["flop"]), cost_usd=_number(row["cost_usd"]), cost_kind=row["cost_kind"] or None,
        source=row["source"], note=row["note"] or None,
    )  # fmt: skip


def _number(text: str) -> float | None:
    return float(text) if text else None


def _play_h(row: dict[str, str]) -> tuple[float | None, str | None]:
    """Hours of play in real time, and how they were obtained; games and positions have no published length."""
    experience = _number(row["experience"])
    if experience is None:
        return None, None
    match row["experience_unit"]:
        case "frames per game":
            return convert.play_h(experience, ATARI_HZ), f"frames / {ATARI_HZ:g} Hz"
        case "years of play":
            return experience * convert.HOURS_PER_YEAR, "as stated by its authors"
        case "hours per game":
            return experience, "as stated"
    return None, None


def _energy_kwh(row: dict[str, str], play_h: float | None) -> tuple[float | None, str | None]:
    """Power x time: a published power of the installation, else its accelerators at their rated power (TDP)."""
    days = _number(row["training_days"])
    hours = play_h if row["kind"] == "human" else None if days is None else days * 24
    power_w, how = _power_w(row)
    energy = convert.kwh(convert.joules(power_w, hours))
    return energy, None if energy is None else f"{power_w:,.0f} W x {hours:,.4g} h: {how}"


def _power_w(row: dict[str, str]) -> tuple[float | None, str | None]:
    if row["power_w"]:
        return float(row["power_w"]), row["power_how"]
    if row["n_chips"] and row["chip_w"]:
        how = f"accelerators at TDP, without hosts: {row['n_chips']} x {row['chip_w']} W ({row['chip']})"
        return float(row["n_chips"]) * float(row["chip_w"]), how
    return None, None
