"""The small tables in ``analysis/data``: published figures and constants, a source in every row."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"


@cache
def table(name: str) -> dict[str, dict[str, str]]:
    """One of the small tables in ``data/`` by the value of its first column."""
    return {next(iter(row.values())): row for row in rows(name)}


@cache
def rows(name: str) -> list[dict[str, str]]:
    """All rows of a table whose first column need not be unique."""
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def sources() -> list[str]:
    """Where the constants of a report come from, a sentence each."""
    constants = list(table("human_anchors").values()) + list(table("human_energy").values())
    figures = [f"{row['quantity']}: {float(row['value']):,.10g} {row['unit']} ({row['source']})" for row in constants]
    atari = next(iter(table("atari_scores").values()))["source"]
    return [*figures, f"random and human scores of the Atari games ({atari})"]
