"""Joules, kilowatt-hours, mean power, and what a building adds."""

from __future__ import annotations

import math
from typing import overload

from analysis.convert.carbon import UnknownPlace
from analysis.convert.figure import Figure, number
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


def pue(asked: str | None = None) -> Figure:
    """Power usage effectiveness, facility energy over IT energy: the number given, or that of a facility of data/pue.csv by its name.

    Without either it stays IT energy, and says so. Raises UnknownPlace.
    """
    if asked is None:
        return Figure(1.0, None, None, "IT energy, PUE 1.0: without what a data centre adds for cooling")
    if (factor := number(asked)) is not None:
        if not 1 <= factor < math.inf:
            raise UnknownPlace(f"a PUE is facility energy over IT energy, a number from 1 on, not {asked}")
        return Figure(factor, None, None, f"PUE {factor:g}, as given")
    facilities = {name.lower(): row for name, row in table("pue").items()}
    if asked.lower() not in facilities:
        raise UnknownPlace(f"no PUE of {asked!r}: give a number from 1 on, or one of {', '.join(table('pue'))}")
    row = facilities[asked.lower()]
    return Figure(float(row["pue"]), None, None, f"PUE {row['pue']}, {row['facility']} ({row['source']})")
