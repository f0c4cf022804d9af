"""Learning curves in Altair, one Vega-Lite specification an axis, drawn without any network.

The seeds of a comparison are brought to common x values by linear interpolation between their evaluations, then the IQM (mean
below 4 seeds) and its bootstrap band are taken at each x, point by point.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from analysis import statistics
from analysis.statistics import Floats

# Okabe & Ito's colour-blind safe palette, without the yellow that vanishes on white and the black that vanishes on dark.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
DASHES = ([1, 0], [7, 3], [2, 2])  # after six comparisons the colours return with another dash
GRID_POINTS = 80
CURVE_RESAMPLES = 500


@dataclass(frozen=True)
class Axis:
    """What the reader may put on the horizontal axis."""

    column: str  # of the evals table
    name: str
    units: tuple[tuple[float, str], ...]  # (size, unit), largest first: the first one below the largest value is used


AXES = (
    Axis("steps", "Steps", ((1, "steps"),)),
    Axis("frames", "Frames", ((1, "frames"),)),
    Axis("human_play_h", "Human playtime", ((48, "days"), (2, "hours"), (2 / 60, "minutes"), (0, "seconds"))),
    Axis("wall_s", "Wall-clock time", ((7200, "hours"), (120, "minutes"), (0, "seconds"))),
    Axis("joules", "Energy", ((3.6e6, "kWh"), (36, "Wh"), (0, "J"))),
    Axis("flops", "Compute", ((0, "model FLOPs"),)),
)
_SIZE: dict[str, dict[str, float]] = {
    "human_play_h": {"days": 24, "hours": 1, "minutes": 1 / 60, "seconds": 1 / 3600},
    "wall_s": {"hours": 3600, "minutes": 60, "seconds": 1},
    "joules": {"kWh": 3.6e6, "Wh": 3600, "J": 1},
}


@dataclass(frozen=True)
class Series:
    """The runs of one comparison, its name and its look."""

    label: str
    runs: list[str]  # pooled
    others: list[str]  # unfinished ones beside finished ones: thin lines only
    color: str
    dash: list[int]


def look(number: int) -> tuple[str, list[int]]:
    """Colour and dash of the n-th comparison of an environment."""
    return PALETTE[number % len(PALETTE)], list(DASHES[number // len(PALETTE) % len(DASHES)])


def usable_axes(evals: pl.DataFrame) -> list[Axis]:
    """The axes that every evaluation has a value for, and that move."""
    return [axis for axis in AXES if len(evals) and not evals[axis.column].null_count() and (evals[axis.column].max() or 0) > 0]  # type: ignore[operator]


def _unit(axis: Axis, largest: float) -> tuple[float, str]:
    """Divisor and name of the unit that fits the largest value."""
    unit = next((name for floor, name in axis.units if largest >= floor), axis.units[-1][1])
    return _SIZE.get(axis.column, {}).get(unit, 1), unit


def _seed_curve(evals: pl.DataFrame, run: str, column: str) -> tuple[Floats, Floats]:
    """x and score of one run, x strictly growing (of evaluations at one x the last counts)."""
    rows = evals.filter(pl.col("run") == run).unique(column, keep="last").sort(column)
    return rows[column].to_numpy().astype(float), rows["score"].to_numpy().astype(float)


def curve(evals: pl.DataFrame, runs: Sequence[str], column: str) -> list[dict[str, Any]]:
    """Centre and band over seeds at common x: rows of {x, score, low, high, n}; low and high are null with one seed.

    The common x lie in the range that every run covers, so that the same seeds stand behind every point.
    """
    curves = [(x, y) for x, y in (_seed_curve(evals, run, column) for run in runs) if len(x)]
    if not curves:
        return []
    grid = _grid([x for x, _ in curves])
    scores = np.array([np.interp(grid, x, y) for x, y in curves]).T  # [T, S]
    centre, band = statistics.iqm(scores), statistics.bootstrap_curve([scores], CURVE_RESAMPLES)
    nothing = [None] * len(grid)
    low, high = (nothing, nothing) if band is None else (band[0].tolist(), band[1].tolist())
    columns = zip(grid.tolist(), centre.tolist(), low, high, strict=True)
    return [{"x": x, "score": c, "low": lo, "high": hi, "n": len(curves)} for x, c, lo, hi in columns]


def _grid(xs: list[Floats]) -> Floats:
    """The evaluations' own x where all runs share them, else evenly spaced x over the range that all runs cover."""
    if all(len(x) == len(xs[0]) and np.array_equal(x, xs[0]) for x in xs):
        return xs[0]
    start, end = max(x[0] for x in xs), min(x[-1] for x in xs)
    return np.linspace(start, end, GRID_POINTS) if end > start else np.array([end])


def learning_curves(evals: pl.DataFrame, series: Sequence[Series], axis: Axis, threshold: float | None) -> alt.LayerChart:
    """Score against one axis: a line and a band a comparison, a thin line a seed, the threshold dashed."""
    size, unit = _unit(axis, float(evals[axis.column].max()))  # type: ignore[arg-type]
    centre = [row | {"agent": s.label} for s in series for row in curve(evals, s.runs, axis.column)]
    seeds = [
        {"x": x, "score": y, "agent": s.label, "run": run}
        for s in series for run in [*s.runs, *s.others] if len(s.runs) + len(s.others) > 1
        for x, y in zip(*(v.tolist() for v in _seed_curve(evals, run, axis.column)), strict=True)
    ]  # fmt: skip
    for row in [*centre, *seeds]:
        row["x"] /= size
    title = axis.name if axis.name.lower() == unit else f"{axis.name} ({unit})"
    return _layers(_round(centre), _round(seeds), series, title, threshold)


def _round(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Six significant digits draw the same picture and halve the page."""
    return [{name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in row.items()} for row in rows]


def _layers(
    centre: list[dict[str, Any]], seeds: list[dict[str, Any]], series: Sequence[Series], x_title: str, threshold: float | None
) -> alt.LayerChart:
    domain = [s.label for s in series]
    color = alt.Color("agent:N", legend=None, scale=alt.Scale(domain=domain, range=[s.color for s in series]))
    dash = alt.StrokeDash("agent:N", legend=None, scale=alt.Scale(domain=domain, range=[s.dash for s in series]))
    x = alt.X("x:Q", title=x_title, axis=alt.Axis(format="~s", tickCount=6), scale=alt.Scale(nice=False))
    y = alt.Y("score:Q", title="Evaluation score (mean return)", scale=alt.Scale(zero=False))
    tooltip = [
        alt.Tooltip("agent:N", title="Agent"), alt.Tooltip("x:Q", title=x_title, format=",.4~r"),
        alt.Tooltip("score:Q", title="Score", format=",.4~r"), alt.Tooltip("low:Q", title="95 % from", format=",.4~r"),
        alt.Tooltip("high:Q", title="95 % to", format=",.4~r"), alt.Tooltip("n:Q", title="Seeds"),
    ]  # fmt: skip
    lines = alt.Chart(alt.InlineData(values=centre))
    layers: list[alt.Chart] = []
    if any(row["low"] is not None for row in centre):
        banded = lines.transform_filter("isValid(datum.low)")
        layers.append(banded.mark_area(opacity=0.18).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), color))
    if seeds:
        single = alt.Chart(alt.InlineData(values=seeds)).mark_line(strokeWidth=1, opacity=0.3)
        layers.append(single.encode(x, y, color, dash, detail="run:N"))
    layers += [
        lines.mark_line(strokeWidth=2.5).encode(x, y, color, dash),
        lines.mark_point(filled=True, size=260, opacity=0).encode(x, y, color, tooltip=tooltip),
    ]
    if threshold is not None:
        layers += _threshold_layers(threshold)
    chart = alt.LayerChart(layer=layers, width="container", height=320)
    return _styled(chart.properties(autosize=alt.AutoSizeParams(type="fit-x", contains="padding")))


def _threshold_layers(threshold: float) -> list[alt.Chart]:
    base = alt.Chart(alt.InlineData(values=[{"threshold": threshold, "text": f"threshold {threshold:g}"}]))
    y = alt.Y("threshold:Q")
    return [
        base.mark_rule(strokeDash=[5, 4], color="currentColor", opacity=0.55).encode(y),
        base.mark_text(align="left", dx=4, dy=-7, fontSize=12, color="currentColor", opacity=0.75).encode(
            y, x=alt.value(0), text="text:N"
        ),
    ]


def _styled(chart: alt.LayerChart) -> alt.LayerChart:
    """``currentColor`` takes the page's text colour, so one drawing serves light, dark and paper."""
    font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
    axis = {
        "labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": 500,
        "titlePadding": 10, "labelPadding": 6, "labelOpacity": 0.8, "gridColor": "currentColor", "gridOpacity": 0.1, "domain": False,
        "tickColor": "currentColor", "tickOpacity": 0.2, "labelFont": font, "titleFont": font,
    }  # fmt: skip
    return chart.configure(background="transparent", font=font).configure_view(stroke=None).configure_axis(**axis)


def specification(chart: alt.LayerChart) -> dict[str, Any]:
    """The chart as Vega-Lite, without the address of its schema: a report names nothing that a browser could fetch."""
    spec: dict[str, Any] = chart.to_dict()
    del spec["$schema"]
    return spec


@cache
def javascript() -> str:
    """Vega, Vega-Lite and vega-embed in one script that sets ``window.vegaEmbed``, with the addresses in it made inert.

    What keeps its ``http:`` are the identifiers of the SVG and XLink namespaces: names, which no browser fetches.
    """
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])  # the Vega-Lite that this Altair writes
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    if "</script" in bundle.lower():
        raise RuntimeError("the chart library holds a closing script tag and cannot stand in a page")
    return re.sub(r"https?://(?!www\.w3\.org/)", "", bundle)
