"""Landmarks of game-playing machines: what they played, used and computed, from ``data/landmarks.csv``."""

from __future__ import annotations

import csv
from dataclasses import dataclass

from analysis import convert


@dataclass(frozen=True)
class Landmark:
    """One system; None is what its sources do not say. ``energy_kwh`` is computed from hardware and time, nobody measured it."""

    name: str
    year: int
    play_years: float | None
    energy_kwh: float | None
    flops: float | None
    source: str


def landmarks() -> list[Landmark]:
    with (convert.DATA / "landmarks.csv").open(encoding="utf-8", newline="") as file:
        return [
            Landmark(
                row["name"],
                int(row["year"]),
                _number(row["play_years"]),
                _number(row["energy_kwh"]),
                _number(row["flops"]),
                row["source"],
            )
            for row in csv.DictReader(file)
        ]


def _number(text: str) -> float | None:
    return float(text) if text else None
