"""One formatter per unit: three significant digits in a unit that fits, so that nothing small is shown as 0.0.

Each takes the number in the unit that its argument names and returns text for people; None becomes a dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable

ABSENT = "–"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def significant(value: float, digits: int = 3) -> str:
    """Fixed-point text with that many significant digits; whole digits are never dropped (1234.5 is 1,234)."""
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    magnitude = math.floor(math.log10(abs(round(value, digits - 1 - magnitude))))  # 9.999 rounds up to 10.0
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def _scaled(value: float, steps: list[tuple[float, float, str]], unit_of: float | None) -> str:
    """``steps``: (smallest value for this unit, divisor, unit), largest first; the last one catches the rest. ``unit_of``: another
    number, whose unit this one is to have as well."""
    chosen = abs(unit_of or value)
    _, divisor, unit = steps[-1] if chosen == 0 else next((step for step in steps if chosen >= step[0]), steps[-1])
    return f"{significant(value / divisor)} {unit}"


def energy(joules: float | None, unit_of: float | None = None) -> str:
    if joules is None:
        return ABSENT
    return _scaled(joules, [(3.6e9, 3.6e9, "MWh"), (3.6e6, 3.6e6, "kWh"), (36, 3600, "Wh"), (0, 1, "J")], unit_of)


def energy_range(joules: float, low_j: float, high_j: float) -> str:
    return between(energy, joules, low_j, high_j)


def between(show: Callable[..., str], value: float | None, low: float | None, high: float | None) -> str:
    """Both ends in the unit of the value that lies between them, the unit once: ``0.12–1.7 Wh``, ``$0.10–$2.00``; one of them where they
    read the same."""
    with_units = show in (energy, duration, money, mass)  # what others write behind a number is a part of it, as in 2 million
    of_value = {"unit_of": value or high} if with_units else {}
    first, last = show(low, **of_value), show(high, **of_value)
    if first == last:
        return first
    figure, _, unit = first.partition(" ")
    return f"{figure if unit == last.partition(' ')[2] else first}–{last}"


def duration(seconds: float | None, unit_of: float | None = None) -> str:
    if seconds is None:
        return ABSENT
    day, year = 86400.0, 365.25 * 86400
    steps = [(2 * year, year, "years"), (2 * day, day, "days"), (7200, 3600, "h"), (120, 60, "min"), (0, 1, "s")]
    return _scaled(seconds, steps, unit_of)


def hours(value_h: float | None) -> str:
    """Device time: hours even when small, since GPU-hours are what is bought."""
    return ABSENT if value_h is None else f"{significant(value_h)} h"


def count(number: float | None) -> str:
    if number is None:
        return ABSENT
    if number >= 1e9:
        return f"{_trimmed(significant(number / 1e9))} billion"
    if number >= 1e7:
        return f"{_trimmed(significant(number / 1e6))} million"
    return f"{number:,.0f}"


def device_hours(value_h: float | None) -> str:
    """Hours of a device that may not have been there: none is not the same as not known."""
    return "none" if value_h == 0 else hours(value_h)


def flops(number: float | None) -> str:
    if number is None:
        return ABSENT
    if number < 1e6:
        return f"{number:,.0f}"
    mantissa, exponent = f"{number:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def score(value: float | None) -> str:
    if value is None:
        return ABSENT
    text = significant(value, 4) if abs(value) < 1000 else f"{value:,.0f}"
    return _trimmed(text).replace("-", "−")


def normalised(value: float) -> str:
    """A score of which 0 and 1 mean something, as 0.142."""
    return (f"{value:.3f}" if abs(value) < 1 else significant(value)).replace("-", "−")


def _trimmed(text: str) -> str:
    """Without trailing zeros after a point, for counts and scores, which are exact: 12.0 is 12."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float) -> str:
    return f"{significant(100 * share, 2)} %".replace("-", "−")


def size(number_bytes: float | None) -> str:
    if number_bytes is None:
        return ABSENT
    return _scaled(number_bytes, [(1e9, 1e9, "GB"), (1e6, 1e6, "MB"), (0, 1e3, "kB")], None)


def money(usd: float | None, unit_of: float | None = None) -> str:
    """Dollars from one cent on, else cents. ``unit_of``: another sum, whose unit this one is to have as well."""
    if usd is None:
        return ABSENT
    chosen = unit_of or usd
    if usd == 0 and (chosen == 0 or chosen >= 0.01):
        return "$0"
    if chosen < 0.01:
        return f"{significant(100 * usd)} ¢"
    return f"${usd:,.2f}" if usd >= 1 else f"${significant(usd)}"


def mass(kilograms: float | None, unit_of: float | None = None) -> str:
    if kilograms is None:
        return ABSENT
    return _scaled(kilograms, [(1000, 1000, "t"), (1, 1, "kg"), (1e-3, 1e-3, "g"), (0, 1e-6, "mg")], unit_of)
