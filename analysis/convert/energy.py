"""Joules, kilowatt-hours, mean power, and what a building adds."""

from __future__ import annotations

from typing import overload

from analysis.convert.figure import Figure, scaled
from analysis.convert.tables import table

JOULES_PER_KWH = 3.6e6


@overload
def kwh(joules: float) -> float: ...
@overload
def kwh(joules: None) -> None: ...
def kwh(joules: float | None) -> float | None:
    """Kilowatt-hours: 3.6 MJ each."""
    return None if joules is None else joules / JOULES_PER_KWH


@overload
def joules(power_w: float, hours: float) -> float: ...
@overload
def joules(power_w: float | None, hours: float | None) -> float | None: ...
def joules(power_w: float | None, hours: float | None) -> float | None:
    """Energy of a constant power: watts are joules a second."""
    return None if power_w is None or hours is None else power_w * hours * 3600


def mean_power_w(energy_kwh: float, hours: float) -> float:
    """The constant power that delivers that energy in that time. A TWh a year is 0.114 GW: energy and power are not the same."""
    return energy_kwh * 1000 / hours


def pue(facility: str) -> float:
    """Power usage effectiveness, facility energy over IT energy (data/pue.csv). Raises KeyError for an unknown facility."""
    return float(table("pue")[facility]["pue"])


def facility_kwh(it_kwh: float | None, facility: str | None = None) -> Figure | None:
    """IT energy plus cooling and losses of the building. Without a facility it stays IT energy, and says so."""
    if it_kwh is None:
        return None
    if facility is None:
        return Figure(it_kwh, None, None, "IT energy, PUE 1.0: without what a data centre adds for cooling")
    factor = pue(facility)
    return scaled(it_kwh, factor, None, None, f"PUE {factor:g}, {facility} ({table('pue')[facility]['source']})")
