"""A chart a claim: what the lecture states, what follows, and other figures of the same unit, one row each."""

from __future__ import annotations

from typing import Any

import altair as alt

from analysis import charts
from analysis.claims import words

LOG_FROM = 20.0  # largest over smallest value from which lengths cannot be compared any more
ROW_PX = 46
STATED, RECOMPUTED, OTHER = "The lecture", "Recomputed", "Beside it"
COLORS = {STATED: charts.PALETTE[3], RECOMPUTED: charts.PALETTE[0], OTHER: charts.PALETTE[2]}
SHAPES = {STATED: "diamond", RECOMPUTED: "circle", OTHER: "square"}


def chart(claim: dict[str, Any]) -> alt.LayerChart | None:
    """None where there is nothing to compare: fewer than two values of one unit, or dates, whose zero means nothing."""
    units = dict.fromkeys([claim["recomputed"]["unit"], *(also["unit"] for also in claim["also"])])
    unit, rows = next(((unit, rows) for unit in units if len(rows := _rows(claim, unit)) > 1), ("", []))
    if not rows or claim["kind"] == "exact":
        return None
    ends = [end for row in rows for end in (row["low"], row["high"])]
    logarithmic = min(ends) > 0 and max(ends) / min(ends) >= LOG_FROM
    return _drawn(rows, logarithmic, unit)


def _rows(claim: dict[str, Any], unit: str) -> list[dict[str, Any]]:
    """The figures of a claim in that unit, the lecture's first."""
    given = {"value": claim["stated"], "low": None, "high": None, "unit": claim["unit"], "label": "", "kind": STATED}
    parts = [
        given,
        claim["recomputed"] | {"label": "", "kind": RECOMPUTED},
        *(also | {"kind": OTHER} for also in claim["also"]),
    ]
    found = [part for part in parts if part["unit"] == unit and part["value"] is not None]
    return [_row(position, part) for position, part in enumerate(found)]


def _row(position: int, part: dict[str, Any]) -> dict[str, Any]:
    value, name = part["value"], part["label"] or part["kind"]
    return {
        "row": position, "kind": part["kind"], "value": value, "name": name[0].upper() + name[1:],
        "low": value if part["low"] is None else part["low"], "high": value if part["high"] is None else part["high"],
        "text": words.amount(value, part["unit"]), "interval": words.spread(part) or "none",
    }  # fmt: skip


def _drawn(rows: list[dict[str, Any]], logarithmic: bool, unit: str) -> alt.LayerChart:
    kinds = list(COLORS)
    title = f"{ {'x': 'times', '': 'value'}.get(unit, unit) }{', log scale' if logarithmic else ''}"
    scale = alt.Scale(type="log", nice=True) if logarithmic else alt.Scale(zero=True, nice=True)
    short = "~s" if max(row["high"] for row in rows) >= 1e5 else ",~r"
    label = "datum.value === 0 ? '0' : replace(datum.label, 'G', 'B')"  # billions, as the text has them
    x = alt.X("value:Q", scale=scale, title=title, axis=alt.Axis(format=short, labelExpr=label, tickCount=4, labelOverlap=True))
    y = alt.Y("row:O", axis=None)
    color = alt.Color("kind:N", legend=None, scale=alt.Scale(domain=kinds, range=list(COLORS.values())))
    shape = alt.Shape("kind:N", legend=None, scale=alt.Scale(domain=kinds, range=list(SHAPES.values())))
    tooltip = [
        alt.Tooltip("name:N", title="Figure"),
        alt.Tooltip("text:N", title="Value"),
        alt.Tooltip("interval:N", title="Interval"),
    ]
    base = alt.Chart(alt.InlineData(values=rows))
    layers = [
        base.mark_rule(strokeWidth=1, opacity=0.15, color="currentColor", yOffset=9).encode(y),
        base.mark_rule(strokeWidth=4, opacity=0.35, strokeCap="round", yOffset=9).encode(
            y, alt.X("low:Q"), alt.X2("high:Q"), color
        ),
        base.mark_point(filled=True, size=120, opacity=1, yOffset=9).encode(x, y, color, shape, tooltip=tooltip),
        base.transform_calculate(line="datum.name + ': ' + datum.text")
        .mark_text(align="left", dy=-9, fontSize=13, color="currentColor", limit=700)
        .encode(y, x=alt.value(2), text="line:N"),
    ]
    drawn = alt.LayerChart(layer=layers, width="container", height=ROW_PX * len(rows))
    return charts._styled(drawn.properties(autosize=alt.AutoSizeParams(type="fit-x", contains="padding")))
