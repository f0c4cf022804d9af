"""The tables of a report, once: the page, its CSV downloads and the Markdown are made from the same cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from analysis import convert, sentences, units
from analysis.charts import Series

Value = float | int | str | None


@dataclass(frozen=True)
class Cell:
    """A number as a person reads it, with small print below; ``value`` is what sorts and what the CSV holds, ``more`` its further columns."""

    text: str
    value: Value = None
    notes: tuple[str, ...] = ()
    more: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """``columns``: (heading, unit of the values in the CSV). ``looks``: the swatch of each row, if it has one."""

    name: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]
    looks: Sequence[Series | None] = ()

    def csv(self) -> str:
        """Everything as numbers with their units in the header, for a spreadsheet."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self._header())
        writer.writerows([_safe(v) for cell in row for v in (cell.value, *cell.more.values())] for row in self.rows)
        return out.getvalue()

    def _header(self) -> list[str]:
        heads = [f"{heading} ({unit})" if unit else heading for heading, unit in self.columns]
        first = self.rows[0] if self.rows else [Cell("") for _ in heads]
        return [
            name for head, cell in zip(heads, first, strict=True) for name in (head, *(f"{head} {more}" for more in cell.more))
        ]

    def download(self) -> str:
        """The CSV as a link that holds it."""
        return "data:text/csv;charset=utf-8," + quote(self.csv())

    def markdown(self) -> str:
        head = "| " + " | ".join(plain(heading) for heading, _ in self.columns) + " |"
        body = ["| " + " | ".join(plain("; ".join([cell.text, *cell.notes])) for cell in row) + " |" for row in self.rows]
        return "\n".join([head, "|" + "---|" * len(self.columns), *body])


def plain(text: str) -> str:
    """Text that stays in its cell, and stays text where the Markdown becomes HTML."""
    for sign, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "\\`"), ("[", "\\["), ("\n", " ")):
        text = text.replace(sign, written)
    return text


def _safe(value: Value) -> Value:
    """A text that a spreadsheet would take for a formula starts with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _name(c: Mapping[str, Any], notes: Iterable[str] = ()) -> Cell:
    return Cell(c["label"], c["label"], tuple(notes), {"seeds": c["n_runs"], "budget": c["budget"]})


def _energy(entry: Mapping[str, Any], notes: Iterable[str] = ()) -> Cell:
    spread = () if entry["kwh"] is None else (sentences.energy_spread(dict(entry)),)
    more = {"low": entry["low_kwh"], "high": entry["high_kwh"]}
    return Cell(sentences.energy_text(dict(entry)), entry["kwh"], (*spread, *notes), more)


def _frames(entry: Mapping[str, Any], notes: Iterable[str] = ()) -> Cell:
    """Frames of training, and beside them those of the evaluations: time and energy hold both."""
    tested = entry["eval_frames"]
    return Cell(
        units.count(entry["frames"]), entry["frames"],
        (*notes, *[f"+ {units.count(tested)} in evaluations"] * bool(tested)), {"in evaluations": tested},
    )  # fmt: skip


def _play(hours: float | None, reason: str | None) -> Cell:
    return Cell(units.duration(None if hours is None else hours * 3600), hours, ("no physical time",) if reason else ())


def _hours(value_h: float | None) -> Cell:
    return Cell(units.duration(None if value_h is None else value_h * 3600), value_h)


def _gpu(value_h: float | None) -> Cell:
    """None: nobody knows; 0: there was none."""
    return Cell("none" if value_h == 0 else units.hours(value_h), value_h)


def _score(score: Mapping[str, Any] | None, notes: Iterable[str] = ()) -> Cell:
    if score is None or score["iqm"] is None:
        return Cell(units.ABSENT, None, tuple(notes), {"low": None, "high": None})
    spread = () if score["low"] is None else (f"{units.score(score['low'])} to {units.score(score['high'])}",)
    return Cell(units.score(score["iqm"]), score["iqm"], (*spread, *notes), {"low": score["low"], "high": score["high"]})


def agents(name: str, comparisons: Sequence[Mapping[str, Any]], looks: Sequence[Series]) -> Table:
    """Score and cost of one seed, a row an agent."""
    rented = _rented(comparisons)
    columns = [("Agent", ""), ("Score", ""), ("Frames", ""), ("Human play", "h"), ("Time", "h"), ("GPU-hours", "h"), ("CPU-hours", "h"),
               *MEANING, *RENT * rented, ("Model FLOPs", "")]  # fmt: skip
    return Table(name, columns, [_agent(c, rented) for c in comparisons], looks)


MEANING = (("Energy", "kWh"), ("CO₂", "kg"), ("Electricity", "USD"))


RENT = (("GPU rent", "USD"),)


def _rented(entries: Iterable[Mapping[str, Any]]) -> bool:
    """Whether any of them has a rent to show."""
    return any(entry["gpu_rent_usd"] for entry in entries)


def _meaning(entry: Mapping[str, Any], energy: Cell, rented: bool) -> list[Cell]:
    """An energy and what it means, each with its interval, and the rent of a GPU where one is to be shown."""
    known = entry["co2_kg"] is not None
    spreads = (sentences.co2_spread(entry), sentences.money_spread(entry)) if known else ("", "")
    return [
        energy,
        Cell(units.mass(entry["co2_kg"]), entry["co2_kg"], (spreads[0],) * known, {"low": entry["low_co2_kg"], "high": entry["high_co2_kg"]}),
        Cell(units.money(entry["cost_usd"]), entry["cost_usd"], (spreads[1],) * known, {"low": entry["low_cost_usd"], "high": entry["high_cost_usd"]}),
        *[Cell(units.money(entry["gpu_rent_usd"]), entry["gpu_rent_usd"], sentences.rent_spread(entry), {"low": entry["low_gpu_rent_usd"], "high": entry["high_gpu_rent_usd"]})] * rented,
    ]  # fmt: skip


def _agent(c: Mapping[str, Any], rented: bool) -> list[Cell]:
    score, energy = c["score"], c["energy"]
    kind = [score["estimator"] if score["n"] > 1 else "one seed" if score["n"] else "not evaluated"]
    if score["human_normalised"] is not None:
        kind.append(f"{units.percent(score['human_normalised'])} of human")
    how = [] if energy["kwh"] is None else [f"{energy['method']}, grade {energy['grade']}"]
    how += [f"without {sentences.source_name(source)}" for source in energy["absent"]] + ["short window"] * c["short_window"]
    return [
        _name(c, (f"{c['n_runs']} seed{'s' if c['n_runs'] != 1 else ''} · {c['budget']}", *c["notes"])), _score(score, kind),
        _frames(c, (f"{units.count(c['steps'])} steps",)), _play(c["human_play_h"], c["human_play_reason"]),
        _hours(c["wall_h"]), _gpu(c["gpu_h"]), Cell(units.hours(c["cpu_h"]), c["cpu_h"]),
        *_meaning(c, _energy(energy, how), rented), Cell(units.flops(c["flops"]), c["flops"]),
    ]  # fmt: skip


def reach(name: str, comparisons: Sequence[Mapping[str, Any]], looks: Sequence[Series]) -> Table:
    """What it took to get to each level, a row an agent and level."""
    rented = _rented(r for c in comparisons for r in c["frames_to_threshold"].values())
    columns = [("Agent", ""), ("Level", ""), ("Seeds there", ""), ("Frames", ""), ("Human play", "h"), ("Time", "h"), ("GPU-hours", "h"),
               *MEANING, *RENT * rented, ("Model FLOPs", "")]  # fmt: skip
    rows, row_looks = [], []
    for c, look in zip(comparisons, looks, strict=True):
        for level, r in c["frames_to_threshold"].items():
            rows.append(_reached(c, level, r, rented))
            row_looks.append(look)
    return Table(name, columns, rows, row_looks)


def _reached(c: Mapping[str, Any], level: str, r: Mapping[str, Any], rented: bool) -> list[Cell]:
    missed = r["n_reached"] <= r["n"] / 2  # the median over seeds did not get there
    return [
        _name(c), Cell(f"{sentences.THRESHOLD_NAMES[level]} {units.score(r['score'])}", r["score"]),
        Cell(f"{r['n_reached']} of {r['n']}", r["n_reached"]), Cell("not reached" if missed else units.count(r["frames"]), r["frames"]),
        _hours(r["human_play_h"]), _hours(r["wall_h"]), Cell(units.hours(r["gpu_h"] or None), r["gpu_h"]),
        *_meaning(r, _energy(r), rented),
        Cell(units.flops(r["flops"]), r["flops"]),
    ]  # fmt: skip


BUDGETS = {"frames": ("frames", ""), "human_play_h": ("of play", "h"), "wall_s": ("of time", "s"), "gpu_h": ("of GPU", "h"),
           "joules": ("", "J"), "flops": ("FLOPs", "")}  # fmt: skip


def budget_text(currency: str, value: float) -> str:
    """The budget as a person reads it: "50,000 frames", "16.7 min of play"."""
    if currency in ("frames", "flops"):
        return f"{units.count(value) if currency == 'frames' else units.flops(value)} {BUDGETS[currency][0]}"
    text = units.energy(value) if currency == "joules" else units.duration(value * (1 if currency == "wall_s" else 3600))
    return f"{text} {BUDGETS[currency][0]}".strip()


def budgets(name: str, entry: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]], looks: Sequence[Series]) -> Table:
    """Scores at the largest budget that all agents reached, a column a currency."""
    columns = [("Agent", ""), *((f"At {budget_text(currency, e['budget'])}", "") for currency, e in entry.items())]
    rows = [[_name(c), *(_score(e["scores"].get(c["id"])) for e in entry.values())] for c in comparisons]
    return Table(name, columns, rows, looks)


def published(
    name: str, entries: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]], looks: Sequence[Series]
) -> Table:
    """Published figures and the runs among them, best first, each with its protocol."""
    columns = [
        ("Agent", ""),
        ("Score", ""),
        ("Frames", ""),
        ("Runs", ""),
        ("Protocol", ""),
        ("Differs from these runs in", ""),
        ("Source", ""),
    ]
    ours = [([_name(c), _score(c["score"]), Cell(units.count(c["frames"]), c["frames"]), Cell(str(c["n_runs"]), c["n_runs"]),
              Cell(c["protocol"], c["protocol"]), Cell("this report", ""), Cell("this report", "")], look)
            for c, look in zip(comparisons, looks, strict=True) if c["score"]["iqm"] is not None]  # fmt: skip
    theirs: list[tuple[list[Cell], Series | None]] = [(_neighbour(e), None) for e in entries]
    ordered = sorted([*ours, *theirs], key=lambda row: -float(row[0][1].value or 0))
    return Table(name, columns, [row for row, _ in ordered], [look for _, look in ordered])


def _neighbour(e: Mapping[str, Any]) -> list[Cell]:
    return [
        Cell(e["agent"], e["agent"], (), {"seeds": None, "budget": None}), Cell(units.score(e["score"]), e["score"], (), {"low": None, "high": None}),
        Cell(units.count(e["frames"]), e["frames"]), *_of_a_paper(e),
    ]  # fmt: skip


def _of_a_paper(e: Mapping[str, Any]) -> list[Cell]:
    """Runs, protocol, what differs, and source."""
    differs = ", ".join(e["differs"])
    return [
        Cell(e["n_runs"] or "not stated", e["n_runs"]), Cell(e["protocol"], e["protocol"]), Cell(differs or "nothing known", differs),
        Cell(e["source"], e["source"]),
    ]  # fmt: skip


def aggregates(name: str, suite: Mapping[str, Any], looks: Sequence[Series]) -> Table:
    """IQM, optimality gap, median and mean of normalised scores, a row an agent."""
    columns = [("Agent", ""), ("Runs", ""), ("IQM", ""), ("Optimality gap", ""), ("Median over games", ""), ("Mean", "")]
    rows = [
        [Cell(agent, agent), Cell(str(a["n_runs"]), a["n_runs"]), _interval(a["iqm"]), _interval(a["optimality_gap"]),
         *(Cell(units.normalised(a[key]), a[key]) for key in ("median", "mean"))]
        for agent, a in suite["aggregates"].items()
    ]  # fmt: skip
    return Table(name, columns, rows, looks)


def spent(name: str, suite: Mapping[str, Any], looks: Sequence[Series]) -> Table:
    """What all runs on all games took, a row an agent."""
    totals = suite["totals"]
    rented = _rented(totals.values())
    columns = [("Agent", ""), ("Runs", ""), ("Frames", ""), ("Human play", "h"), ("Time", "h"), ("GPU-hours", "h"), ("CPU-hours", "h"),
               *MEANING, *RENT * rented, ("Model FLOPs", "")]  # fmt: skip
    rows = [
        [Cell(agent, agent), Cell(str(t["n_runs"]), t["n_runs"]), _frames(t), _play(t["human_play_h"], t["human_play_reason"]),
         _hours(t["wall_h"]), _gpu(t["gpu_h"]), Cell(units.hours(t["cpu_h"]), t["cpu_h"]),
         *_meaning(t, _energy(t, (t["method"],) if t["kwh"] is not None else ()), rented), Cell(units.flops(t["flops"]), t["flops"])]
        for agent, t in totals.items()
    ]  # fmt: skip
    return Table(name, columns, rows, looks)


def published_over_games(name: str, suite: Mapping[str, Any], looks: Sequence[Series]) -> Table:
    """Statistics over games of published figures and of the agents among them, best mean first, each with its protocol."""
    columns = [("Agent", ""), ("Mean", ""), ("Median", ""), ("IQM of the games' means", ""), ("Frames a game", ""), ("Runs", ""),
               ("Protocol", ""), ("Differs from these runs in", ""), ("Source", "")]  # fmt: skip
    frames = (min(suite["frames"].values()), max(suite["frames"].values()))
    ours = [
        ([Cell(agent, agent), *_over_games(a), _frames_a_game(*frames), Cell(str(a["n_runs"]), a["n_runs"]),
          *(Cell(text, text) for text in (suite["protocol"], "this report", "this report"))], look)
        for (agent, a), look in zip(suite["aggregates"].items(), looks, strict=True)
    ]  # fmt: skip
    theirs: list[tuple[list[Cell], Series | None]] = [
        (
            [
                Cell(e["agent"], e["agent"]),
                *_over_games(e),
                _frames_a_game(e["least_frames"], e["most_frames"]),
                *_of_a_paper(e),
            ],
            None,
        )
        for e in suite["published"]
    ]
    ordered = sorted([*ours, *theirs], key=lambda row: -float(row[0][1].value or 0))
    return Table(name, columns, [row for row, _ in ordered], [look for _, look in ordered])


def _over_games(e: Mapping[str, Any]) -> list[Cell]:
    return [Cell(units.normalised(e[key]), e[key]) for key in ("mean", "median", "iqm_of_means")]


def _frames_a_game(least: float, most: float) -> Cell:
    return Cell(
        units.count(most) if least == most else f"{units.count(least)} to {units.count(most)}", most, (), {"least": least}
    )


def improvements(name: str, suite: Mapping[str, Any]) -> Table:
    """How likely a run of X beats one of Y on the same game, both directions known from one row."""
    columns = [("X", ""), ("Y", ""), ("P(X > Y)", ""), ("Says", "")]
    rows = [
        [
            Cell(i["x"], i["x"]),
            Cell(i["y"], i["y"]),
            _interval(i | {"value": i["probability"]}),
            Cell(says := _verdict(i), says),
        ]
        for i in suite["improvement"]
    ]
    return Table(name, columns, rows)


def _verdict(i: Mapping[str, Any]) -> str:
    if i["low"] is None:
        return "too few runs to say"
    return "X is better" if i["low"] > 0.5 else "Y is better" if i["high"] < 0.5 else "not decided"


def _interval(entry: Mapping[str, Any]) -> Cell:
    text = f"{entry['value']:.2f}".replace("-", "−")
    spread = () if entry["low"] is None else (f"{entry['low']:.2f} to {entry['high']:.2f}".replace("-", "−"),)
    return Cell(text, entry["value"], spread, {"low": entry["low"], "high": entry["high"]})


def landmarks(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Well-known systems, a person and the runs: experience, energy, compute."""
    columns = [("Who", ""), ("Year", ""), ("Experience", "years"), ("Energy", "kWh"), ("FLOPs", ""), ("Source", "")]
    rows = [
        [Cell(e["name"], e["name"]), Cell(str(e["year"] or ""), e["year"]),
         Cell(units.duration(None if e["play_years"] is None else e["play_years"] * YEAR_S), e["play_years"]),
         Cell(units.energy(None if e["energy_kwh"] is None else e["energy_kwh"] * convert.JOULES_PER_KWH), e["energy_kwh"]),
         Cell(units.flops(e["flops"]), e["flops"]), Cell(e["source"], e["source"])]
        for e in entries
    ]  # fmt: skip
    return Table("landmarks", columns, rows)


YEAR_S = 365.25 * 86400
