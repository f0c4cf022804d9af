"""What an energy means to a person: CO2, money, hours of a brain and cups of coffee, at the rates of one place; and what renting costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from analysis.convert.brain import brain_h, coffees
from analysis.convert.carbon import co2_g, grid_intensity
from analysis.convert.energy import JOULES_PER_KWH, pue
from analysis.convert.figure import Figure
from analysis.convert.money import electricity_cost_usd, electricity_price, gpu_price


@dataclass(frozen=True)
class Rates:
    """What the user said of the place; None is the world mean of the grids, the dated table of prices, no rent, and IT energy alone.

    Raises UnknownPlace and UnknownPrice.
    """

    country: str | None = None
    usd_per_kwh: float | None = None
    gpu_hour: str | None = None  # a price, or a device of the dated table
    pue: str | None = None  # a number, or a facility of the table

    def __post_init__(self) -> None:
        if self.country is not None:
            grid_intensity(self.country)
        electricity_price(self.usd_per_kwh)
        pue(self.pue)
        if self.gpu_hour is not None:
            gpu_price(self.gpu_hour)


ANYWHERE = Rates()


def meaning(energy: Mapping[str, float | None], at: Rates) -> dict[str, float | None]:
    """``energy``: kwh, low_kwh, high_kwh, of the computer. Every value is None where the energy is.

    CO2 and money are of what the facility draws for it. An interval goes from the low energy at the low rate to the high energy at the
    high rate, as if both erred together.
    """
    kwh = energy["kwh"]
    joules = None if kwh is None else kwh * JOULES_PER_KWH
    factor = pue(at.pue).value
    facility = {name: None if amount is None else amount * factor for name, amount in energy.items()}
    grams = _ends(facility, lambda amount: co2_g(amount, at.country))
    usd = _ends(facility, lambda amount: electricity_cost_usd(amount, at.usd_per_kwh))
    kilograms = [None if g is None else g / 1000 for g in grams]
    return {
        **dict(zip(("co2_kg", "low_co2_kg", "high_co2_kg"), kilograms, strict=True)),
        **dict(zip(("cost_usd", "low_cost_usd", "high_cost_usd"), usd, strict=True)),
        "brain_h": brain_h(joules), "coffees": coffees(joules),
    }  # fmt: skip


def rent(gpu_h: float | None, at: Rates, low_h: float | None = None, high_h: float | None = None) -> dict[str, float | None]:
    """What renting so many GPU-hours costs; None where no price was given or nobody counted them. ``low_h`` to ``high_h``: where they
    are a forecast."""
    names = ("gpu_rent_usd", "low_gpu_rent_usd", "high_gpu_rent_usd")
    if gpu_h is None or at.gpu_hour is None:
        return dict.fromkeys(names)
    price = gpu_price(at.gpu_hour)
    low, high = price.usd if price.low is None else price.low, price.usd if price.high is None else price.high
    hours = gpu_h, gpu_h if low_h is None else low_h, gpu_h if high_h is None else high_h
    return {name: each * usd for name, each, usd in zip(names, hours, (price.usd, low, high), strict=True)}


def _ends(energy: Mapping[str, float | None], converted: Callable[[float | None], Figure | None]) -> list[float | None]:
    """Value, low and high, where the rate may have an interval of its own."""
    centre, low, high = (converted(energy[name]) for name in ("kwh", "low_kwh", "high_kwh"))
    if centre is None or low is None or high is None:
        return [None, None, None]
    return [centre.value, low.value if low.low is None else low.low, high.value if high.high is None else high.high]
