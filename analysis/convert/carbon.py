"""Kilowatt-hours to grams of CO2, by the country whose grid was used. There is no default country."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache

from analysis.convert.figure import Figure, scaled
from analysis.convert.tables import rows

WORLD = "WORLD-GEN"  # the generation-weighted mean of the country rows
SMALLEST_GRID_TWH = 1.0  # below that, intensities of one or two power stations: 0 and 1,000 g/kWh


class UnknownPlace(ValueError):
    """One line that names the nearest country."""


@dataclass(frozen=True)
class Intensity:
    """Grams of CO2 equivalents a kilowatt-hour of a grid; low and high where the country is not known."""

    g_per_kwh: float
    low: float | None
    high: float | None
    place: str
    year: str
    source: str

    @property
    def basis(self) -> str:
        spread = "" if self.low is None else f" ({self.low:.0f} to {self.high:,.0f} by country)"
        return f"{self.place}, {self.g_per_kwh:.0f} g/kWh{spread}, {self.year}: {self.source}"


def grid_intensity(country: str | None = None) -> Intensity:
    """Of a country, by its three-letter ISO code or English name; of the world, with the range of countries, without one.

    Raises UnknownPlace.
    """
    if country is None:
        row, (low, high) = _places()[WORLD.lower()], _world_range()
        return Intensity(float(row["g_co2_per_kwh"]), low, high, "world mean", row["year"], row["source"])
    row = _places().get(country.lower(), {})
    if not row:
        near = difflib.get_close_matches(country.lower(), _places(), n=2, cutoff=0.5)
        hint = f": did you mean {' or '.join(_places()[name]['name'] for name in near)}?" if near else ""
        raise UnknownPlace(f"no carbon intensity of the grid of {country!r}{hint}")
    return Intensity(float(row["g_co2_per_kwh"]), None, None, row["name"], row["year"], row["source"])


def co2_g(energy_kwh: float | None, country: str | None = None) -> Figure | None:
    """Grams of CO2 equivalents of that electricity; its making only, without the hardware's manufacture."""
    if energy_kwh is None:
        return None
    grid = grid_intensity(country)
    return scaled(energy_kwh, grid.g_per_kwh, grid.low, grid.high, grid.basis)


@cache
def _places() -> dict[str, dict[str, str]]:
    """Rows by lower-case code and by lower-case name."""
    table = rows("grid_carbon")
    return {row["name"].lower(): row for row in table} | {row["code"].lower(): row for row in table}


@cache
def _world_range() -> tuple[float, float]:
    """Lowest and highest of the countries whose grid is more than a few power stations."""
    countries = [row for row in rows("grid_carbon") if row["code"] != WORLD and float(row["total_twh"]) >= SMALLEST_GRID_TWH]
    values = [float(row["g_co2_per_kwh"]) for row in countries]
    return min(values), max(values)
