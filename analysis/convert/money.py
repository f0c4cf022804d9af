"""Kilowatt-hours and device-hours to money: the user's price, else the newest of a dated table that the basis names."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

from analysis.convert.figure import Figure, number, scaled
from analysis.convert.tables import rows, table


@dataclass(frozen=True)
class Price:
    """USD for one unit (kWh or device-hour), with the spread of the table; ``what`` is in a few words what ``basis`` says with date and source."""

    usd: float
    low: float | None
    high: float | None
    what: str
    basis: str


class UnknownPrice(ValueError):
    """One line that says what can be given."""


def electricity_price(usd_per_kwh: float | None = None) -> Price:
    """The given price of a kilowatt-hour, else the mean of the United States with the range of its states. Raises UnknownPrice."""
    if usd_per_kwh is not None:
        if not 0 <= usd_per_kwh < math.inf:
            raise UnknownPrice(f"the price is {usd_per_kwh} USD per kWh: give a number that is not negative")
        return Price(usd_per_kwh, None, None, "price given", f"at {usd_per_kwh:g} USD per kWh, as given")
    row = table("electricity_prices")["us_all_sectors"]
    low, high = float(row["low"]), float(row["high"])
    what = f"{row['quantity']} in {row['date']}"
    basis = f"at {row['usd_per_kwh']} USD per kWh ({low:g} to {high:g} by state), {what}: {row['source']}"
    return Price(float(row["usd_per_kwh"]), low, high, what, basis)


def electricity_cost_usd(energy_kwh: float | None, usd_per_kwh: float | None = None) -> Figure | None:
    """Money for that electricity, with what the price rests on."""
    return None if energy_kwh is None else _figure(energy_kwh, electricity_price(usd_per_kwh))


@cache
def device_price(device: str) -> Price | None:
    """Renting that device for an hour: median, lowest and highest of the newest on-demand price of each vendor.

    The device as in data/cloud_prices.csv, "NVIDIA " may be left out; None where it has no price there. Vendors' prices of a
    year or more ago are kept: an older device has no newer ones.
    """
    found = [row for row in rows("cloud_prices") if row["device"].removeprefix("NVIDIA ") == device.removeprefix("NVIDIA ")]
    if not found:
        return None
    prices = [float(row["usd_per_device_hour"]) for row in found]
    vendors, dates = sorted({row["vendor"] for row in found}), [row["date"] for row in found]
    basis = (
        f"at {median(prices):.3g} USD per hour of {found[0]['device']} ({min(prices):g} to {max(prices):g} by vendor), "
        f"on demand, {_span(dates)}, {', '.join(vendors)}: {found[0]['source']}"
    )
    return Price(median(prices), min(prices), max(prices), f"rent of {device}", basis)


def gpu_price(asked: str) -> Price:
    """Renting a GPU for an hour: the price given, or that of a device of the dated table by its name. Raises UnknownPrice."""
    if (usd := number(asked)) is not None:
        if not 0 <= usd < math.inf:
            raise UnknownPrice(f"the price is {usd} USD per GPU-hour: give a number that is not negative")
        return Price(usd, None, None, "price given", f"at {usd:g} USD per GPU-hour, as given")
    if (price := device_price(asked)) is not None:
        return price
    devices = list(dict.fromkeys(row["device"].removeprefix("NVIDIA ") for row in rows("cloud_prices")))
    near = difflib.get_close_matches(asked.upper().removeprefix("NVIDIA "), devices, n=4, cutoff=0.4) or devices
    raise UnknownPrice(f"no price of {asked!r} is in the table: give USD per GPU-hour, or {', '.join(near)}")


def device_cost_usd(device_h: float | None, device: str, usd_per_h: float | None = None) -> Figure | None:
    """Renting that many device-hours at the given price, else at the table's; None where neither is known."""
    if device_h is None:
        return None
    if usd_per_h is not None:
        return Figure(device_h * usd_per_h, None, None, f"at {usd_per_h:g} USD per device-hour, as given")
    price = device_price(device)
    return None if price is None else _figure(device_h, price)


def _figure(amount: float, price: Price) -> Figure:
    return scaled(amount, price.usd, price.low, price.high, price.basis)


def _span(dates: Sequence[str]) -> str:
    return min(dates) if min(dates) == max(dates) else f"{min(dates)} to {max(dates)}"
