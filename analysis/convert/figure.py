"""A converted number with its interval and the sentence that says what it rests on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """``low`` and ``high`` are None where the factor has no interval of its own; ``basis`` names factor, date and source."""

    value: float
    low: float | None
    high: float | None
    basis: str


def scaled(amount: float, factor: float, low: float | None, high: float | None, basis: str) -> Figure:
    """``amount`` times a factor that may have an interval."""
    return Figure(amount * factor, None if low is None else amount * low, None if high is None else amount * high, basis)


def number(text: str) -> float | None:
    """None where it is a name."""
    try:
        return float(text)
    except ValueError:
        return None
