"""Budgets: a number with a unit, and any counter can be the stop.

``100k-steps``, ``400k-frames``, ``2h-play`` (hours of play at the task's own rate), ``30min`` (wall-clock), ``0.5kWh``,
``1e15flops``. Standard library only.
"""

from __future__ import annotations

import decimal
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

EXAMPLES = "100k-steps, 400k-frames, 2h-play, 30min, 0.5kWh or 1e15flops"

_COUNTS = {"step": "steps", "steps": "steps", "frame": "frames", "frames": "frames"}
_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
}
_JOULES = {"j": 1, "wh": 3600}
_COUNT_PREFIX = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_FLOPS_PREFIX = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15, "e": 10**18}
_JOULES_PREFIX = {"": 1, "k": 10**3, "M": 10**6, "g": 10**9}  # a small m would be milli, so mega is a capital

_NUMBER = re.compile(r"[+-]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?")


class BudgetError(ValueError):
    """A budget that cannot be used; the message is one line that names the fault and shows what is valid."""


@dataclass(frozen=True)
class Budget:
    """A stop: ``amount`` of ``quantity``. ``str(budget)`` is the text it was read from and reads back as the same budget."""

    text: str
    quantity: str  # "steps", "frames", "play_s", "wall_s", "joules" or "flops"
    amount: float  # in the quantity's base unit: counts, seconds, joules, FLOPs

    def __str__(self) -> str:
        return self.text

    def used(self, counters: Mapping[str, Any] | object) -> float:
        """What was spent of this quantity. ``counters`` is a mapping, or an object with attributes, named as the quantities."""
        spent: Any = counters[self.quantity] if isinstance(counters, Mapping) else getattr(counters, self.quantity)
        if spent is None:
            raise BudgetError(f"budget {self.text}: {self.quantity} is not counted here; use e.g. 100k-steps or 30min")
        return float(spent)

    def fraction(self, counters: Mapping[str, Any] | object) -> float:
        """The spent share: 0 at the start, 1 or more when the budget is used up."""
        return self.used(counters) / self.amount

    def check(self, frame_rate_hz: float | None) -> None:
        """Refuse a budget of play on a task without physical time, before anything runs."""
        if self.quantity == "play_s" and frame_rate_hz is None:
            raise BudgetError(
                f"budget {self.text}: this environment has no physical time, so hours of play are undefined; "
                "use e.g. 100k-steps, 400k-frames or 30min"
            )


def parse_budget(text: str) -> Budget:
    """Read a budget. Raises BudgetError, one line, for anything that is not a positive finite amount of a known unit."""
    text = text.strip()
    number = _NUMBER.match(text)
    if number is None:
        raise _refusal(text, "it does not start with a number")
    value, unit = _decimal(text, number.group()), re.sub(r"^[-_\s]+", "", text[number.end() :])
    if unit.lower() in {"", "k", "m", "g", "b"}:
        bare = (number.group() + unit)[:40]
        minutes = f"{number.group()}min or " if unit in {"m", "M"} else ""
        raise BudgetError(f"budget {_short(text)} has no unit: {bare} what? Say e.g. {minutes}{bare}-steps")
    quantity, factor = _unit(text, unit)
    amount = _float(value, factor)
    if not math.isfinite(amount):
        raise _refusal(text, "the amount is not finite")
    if amount <= 0:
        raise _refusal(text, "the amount must be more than 0")
    if quantity in {"steps", "frames"} and not amount.is_integer():
        raise _refusal(text, f"{amount:g} is not a whole number of {quantity}")
    return Budget(text, quantity, amount)


_UNITS = {
    "steps": ((10**9, "G-steps"), (10**6, "M-steps"), (10**3, "k-steps"), (1, "-steps")),
    "frames": ((10**9, "G-frames"), (10**6, "M-frames"), (10**3, "k-frames"), (1, "-frames")),
    "play_s": ((3600, "h-play"), (60, "min-play"), (1, "s-play")),
    "wall_s": ((3600, "h"), (60, "min"), (1, "s")),
    "joules": ((3.6e6, "kWh"), (3600, "Wh"), (1, "J")),
    "flops": tuple(
        (10**power, f"{prefix}flops")
        for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k"), (0, ""))
    ),
}


def one_spelling(text: str) -> str:
    """The same for budgets that are the same: ``1000-steps`` is ``1k-steps``. What is no budget stays as it is (an import's ``unknown``)."""
    try:
        budget = parse_budget(text)
    except BudgetError:
        return text
    amount, units = Decimal(repr(budget.amount)), _UNITS[budget.quantity]
    for scale, unit in units:
        number = amount / Decimal(scale)  # of floats the quotient may miss a whole number by its last digit
        if number == number.to_integral_value() and number < 10**15:
            return f"{int(number)}{unit}"
    short = f"{budget.amount:g}"
    return f"{short if float(short) == budget.amount else repr(budget.amount)}{units[-1][1]}"


def _unit(text: str, unit: str) -> tuple[str, int]:
    """The quantity that ``unit`` counts, and the factor to its base unit."""
    lower = unit.lower()
    prefix, _, noun = lower.rpartition("-") if "-" in lower else _split_count(lower)
    prefix = prefix.strip("-_ ")
    if noun in _COUNTS and prefix in _COUNT_PREFIX:
        return _COUNTS[noun], _COUNT_PREFIX[prefix]
    if noun == "play":
        if prefix not in _SECONDS:
            raise _refusal(text, "play is counted in time, e.g. 2h-play or 45min-play")
        return "play_s", _SECONDS[prefix]
    if lower in _SECONDS:
        return "wall_s", _SECONDS[lower]
    for name, scale in _JOULES.items():
        if lower.endswith(name):
            if unit[: -len(name)] == "m":
                raise _refusal(text, f"a small m is milli, and no run is that short; mega is a capital M, {_mega(text, unit)}")
            key = lower[: -len(name)]
            key = "M" if key == "m" else key
            if key in _JOULES_PREFIX:
                return "joules", _JOULES_PREFIX[key] * scale
    flops = re.fullmatch(r"([a-z]?)-?flops?", lower)
    if flops and flops.group(1) in _FLOPS_PREFIX:
        return "flops", _FLOPS_PREFIX[flops.group(1)]
    raise _refusal(text, f"unknown unit {_short(unit)}")


def _split_count(lower: str) -> tuple[str, str, str]:
    """``ksteps`` -> ``k``, ``steps``: the hyphen may be left out before a noun."""
    for noun in (*_COUNTS, "play"):
        if lower.endswith(noun):
            return lower[: -len(noun)], "", noun
    return "", "", lower


def _decimal(text: str, number: str) -> Decimal:
    try:
        return Decimal(number)
    except decimal.DecimalException as error:
        raise _refusal(text, "the number is out of range") from error


def _float(value: Decimal, factor: int) -> float:
    try:
        return float(value * factor)
    except (decimal.DecimalException, OverflowError):
        return math.inf


def _mega(text: str, unit: str) -> str:
    return f"{text[: len(text) - len(unit)]}M{unit[1:]}"


def _refusal(text: str, fault: str) -> BudgetError:
    return BudgetError(f"budget {_short(text)}: {fault}; valid are e.g. {EXAMPLES}")


def _short(text: str) -> str:
    """In quotes, on one line of at most 42 characters, however long its escapes are."""
    shown = repr(text)
    return shown if len(shown) <= 42 else f"{shown[:38]}...{shown[-1]}"
