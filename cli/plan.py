"""``playmeter plan``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional

from analysis import units
from analysis.convert import Rates, electricity_price, gpu_price, grid_intensity, kwh, meaning, pue, rent
from cli.parsing import writable_or_dash, write_json
from cli.train import Train, asked_config, train_arguments
from runs.config import InputError
from runs.schema import MEASURED

if TYPE_CHECKING:
    from runs.config import RunConfig
    from runs.plan import Forecast, Pace, Range


@dataclass(frozen=True)
class Plan(Train):
    """What a training would cost, from a few seconds of it on this machine: the options are those of train, and nothing is kept."""

    name: Annotated[Positional[str], tyro.conf.arg(metavar="AGENT", help_behavior_hint="")]
    """A member of the family (`playmeter agents`)."""
    seconds: float = 10.0
    """How long to try, from the first update on; more seconds, a better forecast."""
    try_seeds: tuple[int, ...] = ()
    """Other numbers of seeds to try in one process, e.g. 1 4 16, to see what is fastest a seed."""
    country: str | None = None
    """Where it would run, for its CO2: a three-letter code or an English name; the default is the world mean with its range."""
    price_usd_per_kwh: float | None = None
    """Your price of electricity; the default is a dated table."""
    price_usd_per_gpu_hour: str | None = None
    """Count the rent of GPUs too: your price, or a device whose dated price is taken, e.g. 2.50 or "H200 SXM"."""
    pue: str | None = None
    """What the building draws for each kWh of the computer: a number such as 1.2, or a facility of a dated table, e.g. "Google Cloud"."""
    json: str | None = None
    """Write the forecast to this file as JSON, or to standard output with `-`."""


def plan_command(argv: Sequence[str]) -> int:
    """Forecast what a training costs before anything is burned."""
    from runs.plan import check_asked, plan
    from runs.progress import each_once

    asked, settings, options = train_arguments(argv, "plan", Plan)
    assert isinstance(asked, Plan)
    config = asked_config(asked, settings, options, ("playmeter", "plan", *argv))
    check_asked(config, asked.seconds)
    at = Rates(asked.country, asked.price_usd_per_kwh, asked.price_usd_per_gpu_hour, asked.pue)
    more = [with_seeds(config, seeds) for seeds in asked.try_seeds]
    target = writable_or_dash(asked.json)
    notice = (lambda text: None) if target == "-" else each_once(print)
    notice(f"trying {config.agent} on {one_or_many(config.envs)} for {asked.seconds:g} s ...")
    pace, forecast = plan(config, asked.seconds, notice)
    others = [(one, plan(one, asked.seconds, notice)[1]) for one in more]
    if target != "-":
        print("\n".join(text(config, pace, forecast, others, at)))
    if target is not None:
        write_json(target, as_json(config, pace, forecast, others, at))
    return 0


def one_or_many(games: Sequence[str]) -> str:
    return ", ".join(games) if len(games) < 4 else f"{len(games)} environments"


def with_seeds(config: RunConfig, seeds: int) -> RunConfig:
    if seeds < 1:
        raise InputError("--try-seeds must be numbers from 1 on")
    return replace(config, seeds=tuple(range(seeds)))


def costs(forecast: Forecast, at: Rates) -> dict[str, float | None]:
    joules, gpu_h = forecast.joules, forecast.gpu_h
    ends = (None, None, None) if joules is None else (joules.value, joules.low, joules.high)
    energy = {name: kwh(end) for name, end in zip(("kwh", "low_kwh", "high_kwh"), ends, strict=True)}
    return meaning(energy, at) | rent(gpu_h.value, at, gpu_h.low, gpu_h.high)


def text(
    config: RunConfig, pace: Pace, forecast: Forecast, others: Sequence[tuple[RunConfig, Forecast]], at: Rates
) -> Iterator[str]:
    """The forecast for people, line by line."""
    seeds = len(config.seeds)
    several = " and environment" if config.more_envs else ""
    yield f"{config.agent} on {one_or_many(config.envs)}, {config.budget} each, {seeds} seed(s): {forecast.steps:,} steps a seed{several}"
    yield ""
    found = costs(forecast, at)
    rows = {"wall time": of(forecast.wall_s, units.duration), **costs_in_words(pace, forecast, found, at)}
    play = "no physical time" if forecast.play_s is None else f"{units.duration(forecast.play_s)} of human play"
    rows |= {
        "played": f"{units.count(forecast.frames)} frames ({play}), and {of(forecast.eval_frames, units.count)} in evaluations",
        "GPU-hours": gpu_in_words(forecast, found, at) if pace.gpus else "none",
        "model FLOPs": of(forecast.flops, units.flops),
        "memory": f"{units.size(pace.memory_bytes)}, {units.size(pace.replay_bytes)} of it the replay",
        "on disk": f"{units.size(forecast.checkpoint_bytes)} of agents, and less than {units.size(pace.replay_bytes)} to resume from",
    }
    for name, value in rows.items():
        yield f"  {name:<13} {value}"
    yield ""
    speed = pace.runs / pace.learning_step_s.value
    yield f"  {units.count(speed)} steps/s in sum while it learns, setting up takes {units.duration(pace.setup_s.value)}; the ranges are the fastest and"
    yield f"  slowest tenth of {pace.seconds:g} s of trying, and what evaluations may take, whose games nobody knows yet."
    if len(pace.games) < len(config.envs):
        yield f"  Tried on {', '.join(pace.games)}: the other {len(config.envs) - len(pace.games)} are taken to be like them."
    if others:
        yield from seeds_in_one_process([(config, forecast), *others])


def gpu_in_words(forecast: Forecast, found: Mapping[str, float | None], at: Rates) -> str:
    hours = of(forecast.gpu_h, units.hours)
    return (
        hours
        if at.gpu_hour is None
        else f"{hours}: {spread(found, 'gpu_rent_usd', units.money)}, {gpu_price(at.gpu_hour).what}"
    )


def costs_in_words(pace: Pace, forecast: Forecast, found: Mapping[str, float | None], at: Rates) -> dict[str, str]:
    if forecast.joules is None:
        return {"energy": "no source has a number here: see --cpu-watts"}
    sign = "" if pace.energy_method == MEASURED else "about "
    grid, price = grid_intensity(at.country), electricity_price(at.usd_per_kwh)
    building = "" if at.pue is None else f", with a PUE of {pue(at.pue).value:g}"
    return {
        "energy": sign + of(forecast.joules, units.energy),
        "CO2": f"{sign}{spread(found, 'co2_kg', units.mass)}, {grid.place}{building}",
        "electricity": f"{sign}{spread(found, 'cost_usd', units.money)}, {price.what}{building}",
    }


def spread(found: Mapping[str, float | None], name: str, show: Callable[[float | None], str]) -> str:
    return f"{show(found[name])} ({units.between(show, found[name], found[f'low_{name}'], found[f'high_{name}'])})"


def of(figure: Range, show: Callable[[float], str]) -> str:
    return f"{show(figure.value)} ({units.between(show, figure.value, figure.low, figure.high)})"


def seeds_in_one_process(tried: Sequence[tuple[RunConfig, Forecast]]) -> Iterator[str]:
    """What each number of seeds takes for one of them."""
    yield ""
    each = {len(config.seeds): forecast.wall_s.value / len(config.seeds) for config, forecast in tried}
    fastest = min(each, key=lambda seeds: each[seeds])
    for seeds, seconds in sorted(each.items()):
        mark = "  <- fastest a seed" if seeds == fastest and len(each) > 1 else ""
        yield f"  {seeds:>3} in one process  {units.duration(seconds)} a seed{mark}"


def as_json(
    config: RunConfig, pace: Pace, forecast: Forecast, others: Sequence[tuple[RunConfig, Forecast]], at: Rates
) -> dict[str, Any]:
    return {
        "agent": config.agent,
        "env": config.env,
        "envs": list(config.envs),
        "budget": config.budget,
        "seeds": list(config.seeds),
        "country": at.country,
        "price_usd_per_kwh": at.usd_per_kwh,
        "price_usd_per_gpu_hour": at.gpu_hour,
        "pue": at.pue,
        "forecast": asdict(forecast) | costs(forecast, at),
        "pace": asdict(pace),
        "side_by_side": [
            {"seeds": len(c.seeds), "wall_s_per_seed": f.wall_s.value / len(c.seeds)} for c, f in [(config, forecast), *others]
        ],
    }
