"""How a checked claim reads: its numbers with units, its verdict, its inputs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from analysis import units

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))  # of watts
BASES = {
    "published": "published", "assumption": "an assumption", "lecture": "stated in the lecture", "not seen": "not seen in its source",
    "set": "given with --set",
}  # fmt: skip

PHRASES = {
    "holds": ("holds", "hold"), "rounded": ("is rounded", "are rounded"),
    "off by a factor": ("is off by a factor", "are off by a factor"), "differs": ("names another date or number", "name another date or number"),
    "derived": ("follows without a number of the lecture's", "follow without a number of the lecture's"),
    "not checkable": ("has no number to compare with", "have no number to compare with"),
    "not checked": ("could not be checked", "could not be checked"),
}  # fmt: skip


def amount(value: float | None, unit: str) -> str:
    """A number with its unit, three significant digits: ``205 kW``, ``4.67 million USD``, ``25,000 TWh``, ``463×``."""
    if value is None:
        return "not known"
    if unit == "year":
        return f"{value:.0f}"
    if unit == "W":
        divisor, prefix = next(((size, name) for size, name in _SCALES if value >= size), (1.0, ""))
        return f"{number(value / divisor)} {prefix}W"
    if unit.split(" ")[0] == "x":
        return f"{number(value)}×{unit[1:]}"
    return f"{number(value)} {unit.removesuffix('s') if value == 1 else unit}".rstrip()


def number(value: float) -> str:
    if value >= 1e15:
        return units.flops(value)
    if value >= 1e6:
        name, size = ("billion", 1e9) if value >= 1e9 else ("million", 1e6)
        return f"{_trim(units.significant(value / size))} {name}"
    return _trim(units.significant(value))


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def stated(claim: dict[str, Any]) -> str:
    return "no number" if claim["stated"] is None else amount(claim["stated"], claim["unit"])


def spread(part: dict[str, Any]) -> str:
    """``197 to 293 kW``, empty where no input has an interval or both ends read the same."""
    if part["low"] is None:
        return ""
    low, high = amount(part["low"], part["unit"]), amount(part["high"], part["unit"])
    if low == high:
        return ""
    figure, _, unit = low.partition(" ")
    return f"{figure if unit == high.partition(' ')[2] else low} to {high}"


def judged(claim: dict[str, Any]) -> str:
    """The verdict, with its factor where it has one."""
    if claim["verdict"] != "off by a factor":
        return str(claim["verdict"])
    return f"off by a factor of {units.significant(max(claim['ratio'], 1 / claim['ratio']), 2)}"


def ratio(claim: dict[str, Any]) -> str:
    return units.ABSENT if claim["ratio"] is None else units.significant(claim["ratio"])


def sentence(also: dict[str, Any]) -> str:
    around = f" ({spread(also)})" if spread(also) else ""
    return f"{amount(also['value'], also['unit'])}{around}, {also['label']}"


def tally(result: dict[str, Any]) -> list[tuple[str, int]]:
    """Verdicts with how many claims have them, in the order of the rules."""
    counts = Counter(claim["verdict"] for claim in result["claims"])
    return [(name, counts[name]) for name in result["verdicts"] if counts[name]]


def changed_line(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in result["changed"].items())


def names_of(claim: dict[str, Any]) -> list[str]:
    """The inputs of a claim and of the figures beside it."""
    return list(dict.fromkeys(name for part in (claim["recomputed"], *claim["also"]) for name in part["inputs"]))


def input_value(it: dict[str, Any]) -> str:
    """As precise as the table has it: an input is not rounded."""
    if it["value"] is None:
        return "not known"
    low, high = (it["value"] if it[end] is None else it[end] for end in ("low", "high"))
    around = "" if low == high else f" ({_exact(low)} to {_exact(high)})"
    return f"{_exact(it['value'])}{around}{'' if it['unit'] == 'of 1' else ' ' + it['unit']}"


def _exact(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and value < 1e15 else f"{value:.16g}"
