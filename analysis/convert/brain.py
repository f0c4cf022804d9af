"""Energy in the currencies of a person: hours of thinking, and cups of coffee."""

from __future__ import annotations

from typing import overload

from analysis.convert.energy import joules as energy_j
from analysis.convert.tables import table

JOULES_PER_KCAL = 4184.0  # thermochemical


def brain_power_w() -> tuple[float, float, float]:
    """Power of a human brain: (centre, low, high), 20 W and what other sources give."""
    rows = table("human_energy")
    power = [float(rows[row]["value"]) for row in ("brain_power", "brain_power_low", "brain_power_high")]
    return power[0], power[1], power[2]


@overload
def brain_h(joules: float, power_w: float | None = None) -> float: ...
@overload
def brain_h(joules: None, power_w: float | None = None) -> None: ...
def brain_h(joules: float | None, power_w: float | None = None) -> float | None:
    """Hours that a human brain, at 20 W unless another power is given, runs on that energy."""
    if joules is None:
        return None
    return joules / (power_w or brain_power_w()[0]) / 3600


def brain_energy_j(hours: float, power_w: float | None = None) -> float:
    """What a brain uses in that time. The body around it uses about five times as much."""
    return energy_j(power_w or brain_power_w()[0], hours)


def coffee_energy_j() -> float:
    """Food energy of a cup (8 oz) of black coffee: 2 kcal. Milk and sugar add tens of kcal."""
    return float(table("human_energy")["coffee_kcal"]["value"]) * JOULES_PER_KCAL


@overload
def coffees(joules: float, cup_j: float | None = None) -> float: ...
@overload
def coffees(joules: None, cup_j: float | None = None) -> None: ...
def coffees(joules: float | None, cup_j: float | None = None) -> float | None:
    """Cups of black coffee with that food energy."""
    return None if joules is None else joules / (cup_j or coffee_energy_j())
