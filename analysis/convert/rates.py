"""What an energy means to a person: CO2, money, hours of a brain and cups of coffee, at the rates of one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from analysis.convert.brain import brain_h, coffees
from analysis.convert.carbon import co2_g
from analysis.convert.energy import JOULES_PER_KWH
from analysis.convert.figure import Figure
from analysis.convert.money import electricity_cost_usd


@dataclass(frozen=True)
class Rates:
    """What the user said of the place; None is the world mean of the grids, and the dated table of prices."""

    country: str | None = None
    usd_per_kwh: float | None = None


ANYWHERE = Rates()


def meaning(energy: Mapping[str, float | None], at: Rates) -> dict[str, float | None]:
    """``energy``: kwh, low_kwh, high_kwh. Every value is None where the energy is.

    An interval goes from the low energy at the low rate to the high energy at the high rate, as if both erred together.
    Raises UnknownPlace.
    """
    kwh = energy["kwh"]
    joules = None if kwh is None else kwh * JOULES_PER_KWH
    grams = _ends(energy, lambda amount: co2_g(amount, at.country))
    usd = _ends(energy, lambda amount: electricity_cost_usd(amount, at.usd_per_kwh))
    kilograms = [None if g is None else g / 1000 for g in grams]
    return {
        **dict(zip(("co2_kg", "low_co2_kg", "high_co2_kg"), kilograms, strict=True)),
        **dict(zip(("cost_usd", "low_cost_usd", "high_cost_usd"), usd, strict=True)),
        "brain_h": brain_h(joules), "coffees": coffees(joules),
    }  # fmt: skip


def _ends(energy: Mapping[str, float | None], converted: Callable[[float | None], Figure | None]) -> list[float | None]:
    """Value, low and high, where the rate may have an interval of its own."""
    centre, low, high = (converted(energy[name]) for name in ("kwh", "low_kwh", "high_kwh"))
    if centre is None or low is None or high is None:
        return [None, None, None]
    return [centre.value, low.value if low.low is None else low.low, high.value if high.high is None else high.high]
