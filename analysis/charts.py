"""Charts in Altair: one Vega-Lite specification serves the page, where the reader switches axes, and the figures for a paper.

A page draws learning curves from one specification a section and compact columns of numbers an axis; ``rows`` and the page's script
unfold them in the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt

from analysis import curves, units
from analysis.curves import Curve, Line, Seed

# Okabe & Ito's colour-blind safe palette, without the yellow that vanishes on white and the black that vanishes on dark.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
DASHES = ([1, 0], [7, 3], [2, 2])  # after six comparisons the colours return with another dash
LEGEND = alt.Legend(
    title=None,
    orient="top",
    labelLimit=400,
    columns=3,
    symbolType="stroke",
    symbolSize=300,
    symbolOpacity=1,
    symbolStrokeWidth=3,
)
WIDTH = 720  # of a figure in a file; on a page charts are as wide as the page


@dataclass(frozen=True)
class Axis:
    """What the reader may put on the horizontal axis."""

    column: str  # a currency of analysis/curves.py
    name: str
    units: tuple[tuple[float, float, str], ...]  # (smallest value for this unit, its size, unit), largest first


AXES = (
    Axis("steps", "Steps", ((0, 1, "steps"),)),
    Axis("frames", "Frames", ((0, 1, "frames"),)),
    Axis(
        "human_play_h",
        "Human playtime",
        ((48, 24, "days"), (2, 1, "hours"), (2 / 60, 1 / 60, "minutes"), (0, 1 / 3600, "seconds")),
    ),
    Axis("wall_s", "Wall-clock time", ((7200, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))),
    Axis("gpu_h", "GPU-hours", ((0, 1, "GPU-hours"),)),
    Axis("joules", "Energy", ((3.6e6, 3.6e6, "kWh"), (36, 3600, "Wh"), (0, 1, "J"))),
    Axis("flops", "Compute", ((0, 1, "model FLOPs"),)),
)


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


def usable_axes(seeds: Sequence[Seed]) -> list[Axis]:
    """The axes that some run has values for, and that move; a chart leaves out the runs without any and names them."""
    known = {axis.column: [seed[axis.column][-1] for seed in seeds if axis.column in seed] for axis in AXES}
    return [axis for axis in AXES if any(last > 0 for last in known[axis.column])]


def axis_columns(
    series: Sequence[Series], seeds: Mapping[str, Seed], axis: Axis, max_lines: int | None = None
) -> dict[str, Any]:
    """Everything that one axis shows, in columns: {title, format, missing: one text a series that lacks runs here, centre: one {x, score,
    low, high, n} or null a series, seeds: [{s, run, x, score}]}. Of the single seeds at most ``max_lines`` are drawn, the same number
    of each series."""
    evaluated = [[run for run in [*s.runs, *s.others] if run in seeds] for s in series]
    with_runs = [[run for run in runs if axis.column in seeds[run]] for runs in evaluated]
    centre = [
        curves.curve([[curves.line(seeds[run], axis.column) for run in s.runs if run in runs]])
        for s, runs in zip(series, with_runs, strict=True)
    ]
    each = None if max_lines is None else max_lines // len(series)
    singles = [
        (n, run, curves.thin(curves.line(seeds[run], axis.column)))
        for n, runs in enumerate(with_runs) if len(runs) > 1 for run in runs[:each]
    ]  # fmt: skip
    missing = [_missing(*args) for args in zip(series, evaluated, with_runs, strict=True)]
    return _columns(axis, centre, singles, [text for text in missing if text])


def _missing(series: Series, evaluated: Sequence[str], shown: Sequence[str]) -> str:
    """What an axis has to leave out; a run that was never evaluated is in no curve anyway."""
    absent = len(evaluated) - len(shown)
    if not absent:
        return ""
    return f"{series.label} ({absent} of {len(evaluated)} runs)" if shown else series.label


def _columns(
    axis: Axis, centre: Sequence[Curve | None], singles: Sequence[tuple[int, str, Line]], missing: Sequence[str]
) -> dict[str, Any]:
    ends = [float(c.x[-1]) for c in centre if c is not None] + [float(x[-1]) for _, _, (x, _) in singles]
    largest = max(ends, default=0.0)
    _, size, unit = next((step for step in axis.units if largest >= step[0]), axis.units[-1])
    return {
        "format": "~s" if axis.column in ("steps", "frames", "flops") else ",~g",  # 0.02 Wh, not "20m"
        "missing": list(missing),
        "title": axis.name if axis.name.lower() == unit.lower() else f"{axis.name} ({unit})",
        "centre": [None if c is None else {
            "x": short(c.x / size), "score": short(c.score), "low": None if c.low is None else short(c.low),
            "high": None if c.high is None else short(c.high), "n": c.n} for c in centre],
        "seeds": [{"s": n, "run": run, "x": short(x / size), "score": short(y)} for n, run, (x, y) in singles],
    }  # fmt: skip


def over_games(found: Mapping[str, Curve | None], axis: Axis) -> dict[str, Any]:
    """The columns of curves that are pooled over games; an agent without a curve lacks a number on this axis."""
    return _columns(axis, list(found.values()), [], [agent for agent, curve in found.items() if curve is None])


def short(values: Any) -> list[float | int]:
    """Five significant digits draw the same picture and halve the page; whole numbers without a point."""
    rounded = [float(f"{v:.5g}") for v in values.tolist()]
    return [int(v) if v.is_integer() and abs(v) < 1e15 else v for v in rounded]


def rows(columns: Mapping[str, Any], labels: Sequence[str], log: bool = False) -> dict[str, list[dict[str, Any]]]:
    """The columns of an axis as the rows of a chart; on a log axis without what lies at 0."""
    centre = [
        {"x": c["x"][k], "score": c["score"][k], "agent": label, "n": c["n"]}
        | {end: None if c[end] is None else c[end][k] for end in ("low", "high")}
        for c, label in zip(columns["centre"], labels, strict=True) if c is not None for k in range(len(c["x"]))
    ]  # fmt: skip
    single = [
        {"x": x, "score": y, "agent": labels[seed["s"]], "run": seed["run"]}
        for seed in columns["seeds"] for x, y in zip(seed["x"], seed["score"], strict=True)
    ]  # fmt: skip
    return {name: [row for row in data if not log or row["x"] > 0] for name, data in (("centre", centre), ("seeds", single))}


def learning_curves(
    series: Sequence[Series], columns: Mapping[str, Any] | None, levels: Mapping[str, float], *,
    y_title: str = "Evaluation score (mean return)", log: bool = False, legend: bool = False,
) -> alt.LayerChart:  # fmt: skip
    """Score against one axis: a line and a band a comparison, a thin line a seed, the levels worth reaching dashed.

    Without ``columns`` the chart names its data (``centre``, ``seeds``, ``levels``) and the page's script fills them in.
    """
    data: dict[str, Any] = {
        "centre": alt.NamedData("centre"),
        "seeds": alt.NamedData("seeds"),
        "levels": alt.NamedData("levels"),
    }
    if columns is not None:
        inline = rows(columns, [s.label for s in series], log) | {
            "levels": [{"y": v, "text": f"{k} {units.score(v)}"} for k, v in levels.items()]
        }
        data = {name: alt.InlineData(values=values) for name, values in inline.items()}
    domain = [s.label for s in series]
    shown = LEGEND if legend else None
    color = alt.Color("agent:N", legend=shown, scale=alt.Scale(domain=domain, range=[s.color for s in series]))
    dash = alt.StrokeDash("agent:N", legend=shown, scale=alt.Scale(domain=domain, range=[s.dash for s in series]))
    x_title = columns["title"] if columns is not None else "x"
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(nice=False)
    x = alt.X("x:Q", title=x_title, axis=alt.Axis(format=columns["format"] if columns else "~s", tickCount=6), scale=scale)
    y = alt.Y("score:Q", title=y_title, scale=alt.Scale(zero=False))
    tooltip = [
        alt.Tooltip("agent:N", title="Agent"), alt.Tooltip("x:Q", title=x_title, format=",.4~r"),
        alt.Tooltip("score:Q", title="Score", format=",.4~r"), alt.Tooltip("low:Q", title="95 % from", format=",.4~r"),
        alt.Tooltip("high:Q", title="95 % to", format=",.4~r"), alt.Tooltip("n:Q", title="Runs"),
    ]  # fmt: skip
    centre, level = alt.Chart(data["centre"]), alt.Chart(data["levels"])
    layers = [
        centre.transform_filter("isValid(datum.low)").mark_area(opacity=0.18).encode(x, alt.Y("low:Q", title=y_title), alt.Y2("high:Q"), color),
        alt.Chart(data["seeds"]).mark_line(strokeWidth=1, opacity=0.3).encode(x, y, color, dash, detail="run:N"),
        centre.mark_line(strokeWidth=2.5, point=alt.OverlayMarkDef(size=30)).encode(x, y, color, dash),  # points: one evaluation is no line
        centre.mark_point(filled=True, size=260, opacity=0).encode(x, y, color, tooltip=tooltip),
        level.mark_rule(strokeDash=[5, 4], color="currentColor", opacity=0.55).encode(alt.Y("y:Q")),
        level.mark_text(align="left", dx=4, dy=-7, fontSize=12, color="currentColor", opacity=0.75).encode(
            alt.Y("y:Q"), x=alt.value(0), text="text:N"
        ),
    ]  # fmt: skip
    if columns is not None:
        layers = [layer for layer in layers if _has_rows(layer)]
    chart = alt.LayerChart(layer=layers, height=320)
    if columns is not None and columns["missing"]:  # a figure in a file has no caption
        text = f"Not known on this axis: {', '.join(columns['missing'])}"
        chart = chart.properties(title=alt.TitleParams(text, anchor="start", fontSize=12, fontWeight="normal", limit=WIDTH))
    return _page_wide(chart)


def _has_rows(layer: alt.Chart) -> bool:
    """A layer without rows would have an axis without end: no single seeds, no levels, or no band where each game has one run."""
    banded = layer.transform is not alt.Undefined
    return any(not banded or row["low"] is not None for row in layer.data.values)


def page_curves(series: Sequence[Series], y_title: str) -> dict[str, Any]:
    """``learning_curves`` without data, as a specification: a page may hold a hundred, and Altair takes 40 ms for each."""
    spec: dict[str, Any] = json.loads(_curves_template(y_title))
    return _in_colours_of(series, spec)


@cache
def _curves_template(y_title: str) -> str:
    return json.dumps(specification(learning_curves([], None, {}, y_title=y_title)))


def _in_colours_of(series: Sequence[Series], spec: dict[str, Any]) -> dict[str, Any]:
    """The specification with the colours and dashes of these series."""
    looks = {"color": [s.color for s in series], "fill": [s.color for s in series], "strokeDash": [s.dash for s in series]}
    for encoding in (layer["encoding"] for layer in spec["layer"]):
        for channel in looks.keys() & encoding.keys():
            definition = encoding[channel].get("condition", encoding[channel])
            definition["scale"] = {"domain": [s.label for s in series], "range": looks[channel]}
    return spec


def frontier(entry: Mapping[str, Any], series: Mapping[str, Series]) -> dict[str, Any]:
    """Samples against energy to reach one score, both log; ``series``: comparison id -> its look. Not dominated: filled."""
    points = [
        {"agent": series[p["comparison"]].label, "frames": p["frames"], "kwh": p["kwh"], "low": p["low_kwh"], "high": p["high_kwh"],
         "state": "dominated" if p["dominated_by"] else "not dominated",
         "text": f"{units.count(p['frames'])} frames, {units.energy(p['kwh'] * 3.6e6)} ({units.energy_range(*(p[name] * 3.6e6 for name in ('kwh', 'low_kwh', 'high_kwh')))})"}
        for p in entry["points"]
    ]  # fmt: skip
    spec: dict[str, Any] = json.loads(_frontier_template()) | {"datasets": {"points": points}}
    return _in_colours_of([series[p["comparison"]] for p in entry["points"]], spec)


@cache
def _frontier_template() -> str:
    color = alt.Color("agent:N", legend=None)  # names stand beside the points
    x_scale, y_scale = (alt.Scale(type="log", padding=padding, nice=False) for padding in (60, 30))
    x = alt.X("frames:Q", title="Frames to reach it", scale=x_scale, axis=alt.Axis(format="~s", tickCount=5))
    y = alt.Y("kwh:Q", title="Energy (kWh)", scale=y_scale, axis=alt.Axis(format="~g", tickCount=5))
    tooltip = [alt.Tooltip("agent:N", title="Agent"), alt.Tooltip("text:N", title="Needed"), alt.Tooltip("state:N", title="Is")]
    filled = alt.condition("datum.state == 'not dominated'", alt.Color("agent:N", legend=None), alt.value("transparent"))
    base = alt.Chart(alt.NamedData("points"))
    layers = [
        base.mark_rule(strokeWidth=2, opacity=0.5).encode(x, alt.Y("low:Q", title="Energy (kWh)"), alt.Y2("high:Q"), color),
        base.mark_point(size=170, strokeWidth=2.5, opacity=1).encode(x, y, color, tooltip=tooltip, fill=filled),
        base.mark_text(align="left", dx=12, fontSize=12, color="currentColor").encode(x, y, text="agent:N"),
    ]
    return json.dumps(specification(_page_wide(alt.LayerChart(layer=layers, height=300))))


def profiles(suite: Mapping[str, Any], looks: Sequence[Series], legend: bool = False) -> alt.LayerChart:
    """Share of runs that score more than tau, with its band."""
    points = [
        {"agent": agent, "tau": float(f"{tau:.5g}"), "share": p["share_above"][k], "low": p["low"] and p["low"][k], "high": p["high"] and p["high"][k]}
        for agent, p in suite["profiles"]["agents"].items() for k, tau in enumerate(suite["profiles"]["tau"])
    ]  # fmt: skip
    domain, shown = [s.label for s in looks], LEGEND if legend else None
    color = alt.Color("agent:N", legend=shown, scale=alt.Scale(domain=domain, range=[s.color for s in looks]))
    dash = alt.StrokeDash("agent:N", legend=shown, scale=alt.Scale(domain=domain, range=[s.dash for s in looks]))
    x = alt.X(
        "tau:Q", title=f"{suite['normalised'].capitalize()} score τ", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=8)
    )
    share = "Share of runs with a score above τ"
    y = alt.Y("share:Q", title=share, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    tooltip = [alt.Tooltip("agent:N", title="Agent"), alt.Tooltip("tau:Q", title="τ", format=".3~r")] + [
        alt.Tooltip(f"{name}:Q", title=title, format=".0%") for name, title in (("share", "Runs above"), ("low", "95 % from"), ("high", "95 % to"))
    ]  # fmt: skip
    base = alt.Chart(alt.InlineData(values=points))
    layers = [
        base.transform_filter("isValid(datum.low)")
        .mark_area(opacity=0.15, interpolate="step-after")
        .encode(x, alt.Y("low:Q", title=share), alt.Y2("high:Q"), color),
        base.mark_line(strokeWidth=2.5, interpolate="step-after").encode(x, y, color, dash),
        base.mark_point(filled=True, size=200, opacity=0).encode(x, y, color, tooltip=tooltip),
    ]
    return _page_wide(alt.LayerChart(layer=[layer for layer in layers if _has_rows(layer)], height=280))


def intervals(
    values: Sequence[Mapping[str, Any]], title: str, line_at: float | None = None, domain: list[float] | None = None
) -> alt.LayerChart:
    """One row a name: a point and its 95 % interval. ``values``: {name, value, low, high, color}."""
    scale = alt.Scale(domain=domain) if domain else alt.Scale(zero=False, padding=12)
    base = alt.Chart(alt.InlineData(values=[dict(v) for v in values]))
    y = alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=260, ticks=False))
    x = alt.X("value:Q", title=title, scale=scale)
    color = alt.Color("color:N", scale=None, legend=None)
    tooltip = [
        alt.Tooltip("name:N", title=" "),
        *(
            alt.Tooltip(f"{k}:Q", title=t, format=".3~r")
            for k, t in (("value", title), ("low", "95 % from"), ("high", "95 % to"))
        ),
    ]
    layers = [
        base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=6, opacity=0.35).encode(y, alt.X("low:Q", title=title, scale=scale), alt.X2("high:Q"), color),
        base.mark_point(filled=True, size=130, opacity=1).encode(y, x, color, tooltip=tooltip),
    ]  # fmt: skip
    if line_at is not None:
        rule = alt.Chart(alt.InlineData(values=[{"x": line_at}]))
        layers.insert(
            0,
            rule.mark_rule(strokeDash=[5, 4], color="currentColor", opacity=0.55).encode(
                alt.X("x:Q", title=title, scale=scale)
            ),
        )
    return _page_wide(alt.LayerChart(layer=[layer for layer in layers if _has_rows(layer)], height=30 * len(values)))


def game_by_game(suite: Mapping[str, Any], looks: Sequence[Series], legend: bool = False) -> alt.LayerChart:
    """A row a game, a point an agent with its interval where it has one; the games that the first agent is best at on top."""
    first = suite["by_game"][suite["agents"][0]]
    order = [game for _, game in sorted(zip((-each["iqm"] for each in first), suite["games"], strict=True))]
    points = [
        {"agent": agent, "game": _game(game), **{name: each[name] for name in ("iqm", "low", "high", "n")}}
        for agent, of in suite["by_game"].items() for game, each in zip(suite["games"], of, strict=True)
    ]  # fmt: skip
    title, shown = f"{suite['normalised'].capitalize()} score", LEGEND if legend else None
    color = alt.Color("agent:N", legend=shown, scale=alt.Scale(domain=[s.label for s in looks], range=[s.color for s in looks]))
    y = alt.Y("game:N", title=None, sort=[_game(game) for game in order], axis=alt.Axis(labelLimit=260, ticks=False, grid=True))
    x = alt.X("iqm:Q", title=title)
    tooltip = [alt.Tooltip("game:N", title="Game"), alt.Tooltip("agent:N", title="Agent"), alt.Tooltip("n:Q", title="Runs")] + [
        alt.Tooltip(f"{name}:Q", title=what, format=".3~r") for name, what in (("iqm", title), ("low", "95 % from"), ("high", "95 % to"))
    ]  # fmt: skip
    base, level = alt.Chart(alt.InlineData(values=points)), alt.Chart(alt.InlineData(values=[{"x": 0}, {"x": 1}]))
    layers = [
        level.mark_rule(strokeDash=[5, 4], color="currentColor", opacity=0.55).encode(alt.X("x:Q", title=title)),
        base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=6, opacity=0.35).encode(y, alt.X("low:Q", title=title), alt.X2("high:Q"), color),
        base.mark_point(filled=True, size=110, opacity=1).encode(y, x, color, tooltip=tooltip),
    ]  # fmt: skip
    return _page_wide(alt.LayerChart(layer=[layer for layer in layers if _has_rows(layer)], height=22 * len(order)))


def _game(env_id: str) -> str:
    return env_id.removeprefix("ALE/").removesuffix("-v5")


KINDS = {"yours": PALETTE[3], "a person": PALETTE[2], "landmark": PALETTE[0]}


def landmarks(entries: Sequence[Mapping[str, Any]], title: str, legend: bool = False) -> alt.LayerChart:
    """One dot a system on a log axis, smallest on top. ``entries``: {name, value, text, kind, source}."""
    ordered = sorted(entries, key=lambda entry: float(entry["value"]))
    base = alt.Chart(alt.InlineData(values=[dict(entry) for entry in ordered]))
    y = alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=230, ticks=False, grid=True))
    x = alt.X(
        "value:Q",
        title=title,
        scale=alt.Scale(type="log", padding=70),
        axis=alt.Axis(format=".0e", tickCount=6, labelOverlap=True),
    )
    color = alt.Color(
        "kind:N", legend=LEGEND if legend else None, scale=alt.Scale(domain=list(KINDS), range=list(KINDS.values()))
    )
    shape = alt.Shape("kind:N", legend=None, scale=alt.Scale(domain=list(KINDS), range=["diamond", "square", "circle"]))
    tooltip = [alt.Tooltip("name:N", title=" "), alt.Tooltip("text:N", title=title), alt.Tooltip("source:N", title="Source")]
    layers = [
        base.mark_point(filled=True, size=130, opacity=1).encode(y, x, color, shape, tooltip=tooltip),
        base.mark_text(align="left", dx=10, fontSize=12, color="currentColor").encode(y, x, text="text:N"),
    ]
    return _page_wide(alt.LayerChart(layer=layers, height=22 * len(ordered)))


def _page_wide(chart: alt.LayerChart) -> alt.LayerChart:
    return _styled(chart.properties(width="container", autosize=alt.AutoSizeParams(type="fit-x", contains="padding")))


def figure(specified: dict[str, Any]) -> dict[str, bytes]:
    """A specification as files for a paper: ending -> content, black on white, as wide as a page."""
    import vl_convert

    spec = json.dumps(specified | {"width": WIDTH, "background": "white"}).replace("currentColor", "#1b1f24")
    version = _vega_lite()
    return {
        "svg": vl_convert.vegalite_to_svg(spec, vl_version=version).encode(),
        "png": vl_convert.vegalite_to_png(spec, vl_version=version, scale=2),
        "pdf": vl_convert.vegalite_to_pdf(spec, vl_version=version),
    }


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
    spec: dict[str, Any] = chart.to_dict(validate=False)  # the tests validate; a page of hundred charts would wait for it
    del spec["$schema"]
    return spec


def _vega_lite() -> str:
    """The version of Vega-Lite that this Altair writes."""
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


@cache
def javascript() -> str:
    """Vega, Vega-Lite and vega-embed in one script that sets ``window.vegaEmbed``, with the addresses in it made inert.

    What keeps its ``http:`` are the identifiers of the SVG and XLink namespaces: names, which no browser fetches.
    """
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_vega_lite())
    if "</script" in bundle.lower():
        raise RuntimeError("the chart library holds a closing script tag and cannot stand in a page")
    return re.sub(r"https?://(?!www\.w3\.org/)", "", bundle)
