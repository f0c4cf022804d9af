"""From counts to what they mean to a person: hours of play, kilowatt-hours, CO2, money, brain-hours, coffees, human scores.

One module a currency, one function a conversion; reports and claims use the same ones. None in gives None out: what is not
known is said, it is never 0.
"""

from analysis.convert.brain import JOULES_PER_KCAL, brain_energy_j, brain_h, brain_power_w, coffee_energy_j, coffees
from analysis.convert.carbon import Intensity, UnknownPlace, co2_g, grid_intensity
from analysis.convert.energy import JOULES_PER_KWH, joules, kwh, mean_power_w, pue
from analysis.convert.figure import Figure
from analysis.convert.money import (
    Price,
    UnknownPrice,
    device_cost_usd,
    device_price,
    electricity_cost_usd,
    electricity_price,
    gpu_price,
)
from analysis.convert.play import (
    HOURS_PER_YEAR,
    NO_PHYSICAL_TIME,
    frame_rate_hz,
    hours,
    human_practice_h,
    play_h,
    play_h_in,
    protocol_200m_frames,
    years,
)
from analysis.convert.rates import ANYWHERE, Rates, meaning, rent
from analysis.convert.scores import AtariScores, atari_scores
from analysis.convert.tables import DATA, sources, table

__all__ = [
    "ANYWHERE", "DATA", "HOURS_PER_YEAR", "JOULES_PER_KCAL", "JOULES_PER_KWH", "NO_PHYSICAL_TIME", "AtariScores", "Figure", "Intensity", "Price", "Rates", "UnknownPlace", "UnknownPrice",
    "atari_scores", "brain_energy_j", "brain_h", "brain_power_w", "co2_g", "coffee_energy_j", "coffees",
    "device_cost_usd", "device_price", "electricity_cost_usd", "electricity_price", "frame_rate_hz", "gpu_price",
    "grid_intensity", "hours", "human_practice_h", "joules", "kwh", "mean_power_w", "meaning", "play_h", "play_h_in", "protocol_200m_frames", "pue", "rent",
    "sources", "table", "years",
]  # fmt: skip
