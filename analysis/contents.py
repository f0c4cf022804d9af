"""What a report shows, section by section, before it becomes a page, Markdown or figures."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import altair as alt

from analysis import across, cells, charts, convert, curves, sentences, summary, tables, units
from analysis.cells import Table
from analysis.charts import Series
from analysis.convert import Rates
from analysis.curves import Seed
from analysis.workers import spread
from runs.schema import EnvRecord

SEED_LINES = 240  # single seeds drawn on one page; each is up to 60 points on each axis


@dataclass(frozen=True)
class Section:
    """One environment record: scores under two protocols never share a chart or a headline."""

    name: str
    env: EnvRecord
    headline: list[str]
    best: dict[str, Any] | None
    comparisons: list[dict[str, Any]]
    looks: list[Series]
    axes: dict[str, dict[str, Any]]  # axis name -> columns of charts.axis_columns
    scales: list[tuple[str, float, float]]  # (name, what counts 0, what counts 1); the first is the raw score
    levels: dict[str, float]
    frontiers: list[dict[str, Any]]
    tables: dict[str, Table]
    drawn: tuple[int, int]  # single seeds drawn, and how many there are

    @property
    def tiles(self) -> list[dict[str, str]]:
        return sentences.tiles(self.best) if self.best else []

    def curves_spec(self) -> dict[str, Any]:
        return charts.page_curves(self.looks, "Evaluation score (mean return)")

    @cached_property
    def frontier_specs(self) -> dict[str, dict[str, Any]]:
        looks = {c["id"]: look for c, look in zip(self.comparisons, self.looks, strict=True)}
        return {level_name(entry): charts.frontier(entry, looks) for entry in self.frontiers}


@dataclass(frozen=True)
class Suite:
    """Agents that played the same games under one protocol, or one agent that played several."""

    name: str
    data: dict[str, Any]
    looks: list[Series]
    axes: dict[str, dict[str, Any]]
    tables: dict[str, Table]

    @cached_property
    def specs(self) -> dict[str, dict[str, Any]]:
        return {name: charts.specification(chart) for name, chart in self.charts().items()}

    def curves_spec(self) -> dict[str, Any]:
        return charts.page_curves(self.looks, self.y_title)

    @property
    def y_title(self) -> str:
        return f"IQM, {self.data['normalised']} score"

    @property
    def best(self) -> str:
        return sentences.best_over_games(self.data)[0]

    @property
    def headline(self) -> list[str]:
        return sentences.over_games(self.data)

    @property
    def tiles(self) -> list[dict[str, str]]:
        return sentences.tiles_over_games(self.data)

    def charts(self, legend: bool = False) -> dict[str, alt.LayerChart]:
        colors = {look.label: look.color for look in self.looks}
        shown: dict[str, alt.LayerChart] = {}
        if self.data["aggregates"] is not None:
            shown["Game by game"] = charts.game_by_game(self.data, self.looks, legend)
            shown["Performance profile"] = charts.profiles(self.data, self.looks, legend)
            rows = [
                {"name": agent, "color": colors[agent], **a["optimality_gap"]} for agent, a in self.data["aggregates"].items()
            ]
            shown["Optimality gap"] = charts.intervals(rows, "Optimality gap (lower is better)")
        pairs = [
            {
                "name": f"{i['x']} over {i['y']}",
                "value": i["probability"],
                "low": i["low"],
                "high": i["high"],
                "color": colors[i["x"]],
            }
            for i in self.data["improvement"][:MAX_PAIRS]
        ]
        if pairs:
            shown["Probability of improvement"] = charts.intervals(pairs, "P(X > Y)", 0.5, [0, 1])
        return shown


MAX_PAIRS = 30  # of a chart; the table holds all


@dataclass(frozen=True)
class Content:
    sections: list[Section]
    suites: list[Suite]
    landmarks: list[dict[str, Any]]

    @property
    def has_charts(self) -> bool:
        return any(section.axes for section in self.sections)

    @property
    def landmarks_table(self) -> Table:
        return cells.landmarks(self.landmarks)

    def landmark_charts(self, legend: bool = False) -> dict[str, alt.LayerChart]:
        asked = {
            "Experience": ("play_years", "Experience (years of play)", lambda v: units.duration(v * cells.YEAR_S)),
            "Energy": ("energy_kwh", "Energy (kWh)", lambda v: units.energy(v * convert.JOULES_PER_KWH)),
            "Compute": ("flops", "Compute (FLOPs)", units.flops),
        }
        return {
            name: charts.landmarks(
                [{"name": e["name"], "value": e[key], "text": text(e[key]), "kind": e["kind"], "source": e["source"]}
                 for e in self.landmarks if e[key]], title, legend,
            )
            for name, (key, title, text) in asked.items()
        }  # fmt: skip

    @cached_property
    def landmark_specs(self) -> dict[str, dict[str, Any]]:
        return {name: charts.specification(chart) for name, chart in self.landmark_charts().items()}

    def figures(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every chart as a specification with a name for its file; names that differ only in signs get a number."""
        taken: Counter[str] = Counter()
        for name, spec in self._figures():
            taken[name] += 1
            yield (name if taken[name] == 1 else f"{name}-{taken[name]}"), spec

    def _figures(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for section in self.sections:
            base = _file_name(f"{section.env.id}-{section.env.protocol}")
            for axis, columns in section.axes.items():
                drawn = charts.learning_curves(section.looks, columns, section.levels, legend=True)
                yield f"{base}-{_file_name(axis)}", charts.specification(drawn)
            for entry, spec in zip(section.frontiers, section.frontier_specs.values(), strict=True):
                yield f"{base}-frontier-{_file_name(entry['level'])}", spec
        for suite in self.suites:
            base = _file_name(f"{suite.data['kind']}-{suite.data['protocol']}")
            for axis, columns in suite.axes.items():
                drawn = charts.learning_curves(suite.looks, columns, {}, y_title=suite.y_title, legend=True)
                yield f"{base}-{_file_name(axis)}", charts.specification(drawn)
            for name, chart in suite.charts(legend=True).items():
                yield f"{base}-{_file_name(name)}", charts.specification(chart)
        for name, chart in self.landmark_charts(legend=True).items():
            yield f"landmarks-{_file_name(name)}", charts.specification(chart)


def _file_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "x"


def level_name(entry: Mapping[str, Any]) -> str:
    return f"{sentences.THRESHOLD_NAMES[entry['level']]} {units.score(entry['score'])}"


def content(runs: Sequence[tables.Run], result: Mapping[str, Any]) -> Content:
    """Everything that is shown of a summary; the curves come from the runs."""
    seeds = curves.of_runs(runs)
    by_id = {c["id"]: c for c in result["comparisons"]}
    envs = summary.env_records(runs, result["comparisons"])
    at = Rates(*(result[name] for name in ("country", "price_usd_per_kwh", "price_usd_per_gpu_hour", "pue")))
    each = SEED_LINES // len(result["environments"])
    sections = [[by_id[name] for name in entry["comparisons"]] for entry in result["environments"]]
    jobs = [  # the longest first
        *(_suite_job(data, by_id, envs, seeds) for data in result["suites"]),
        *(_section_job(comparisons, seeds, each) for comparisons in sections),
    ]
    axes = spread(operator.call, jobs, len(runs))
    suites = [_suite(f"suite{n}", data, next(axes)) for n, data in enumerate(result["suites"])]
    made = [
        _section(f"env{n}", entry, comparisons, envs, len(seeds.keys() & _runs(comparisons)), next(axes), at)
        for n, (entry, comparisons) in enumerate(zip(result["environments"], sections, strict=True))
    ]
    return Content(made, suites, _among_landmarks(result))


Axes = dict[str, dict[str, Any]]


def _looks(comparisons: Sequence[Mapping[str, Any]]) -> list[Series]:
    return [Series(c["label"], c["runs"], c["unfinished"], *charts.look(number)) for number, c in enumerate(comparisons)]


def _runs(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    return [run for c in comparisons for run in [*c["runs"], *c["unfinished"]]]


def _section_job(comparisons: Sequence[Mapping[str, Any]], seeds: Mapping[str, Seed], lines: int) -> Callable[[], Axes]:
    mine = {run: seeds[run] for run in _runs(comparisons) if run in seeds}
    return partial(_section_axes, _looks(comparisons), mine, lines)


def _section_axes(looks: Sequence[Series], seeds: Mapping[str, Seed], lines: int) -> Axes:
    return {axis.name: charts.axis_columns(looks, seeds, axis, lines) for axis in charts.usable_axes(list(seeds.values()))}


def _suite_job(
    data: Mapping[str, Any], by_id: Mapping[str, Mapping[str, Any]], envs: Mapping[str, EnvRecord], seeds: Mapping[str, Seed]
) -> Callable[[], Axes]:
    runs = {name: by_id[name]["runs"] for ids in data["comparisons"].values() for name in ids}
    mine = {run: seeds[run] for of in runs.values() for run in of}
    return partial(_suite_axes, data, runs, {name: envs[name] for name in runs}, mine)


def _suite_axes(
    data: Mapping[str, Any], runs: Mapping[str, Sequence[str]], envs: Mapping[str, EnvRecord], seeds: Mapping[str, Seed]
) -> Axes:
    """No curves where there was one evaluation: it is a point, which the tables say."""
    if not data["normalised"] or len(data["games"]) < 2:  # with one game the section's own curves say it
        return {}
    found = {axis: across.suite_curves(data, envs, runs, seeds, axis.column) for axis in charts.AXES}
    return {
        axis.name: charts.over_games(by_agent, axis)
        for axis, by_agent in found.items() if any(curve is not None and len(curve.x) > 1 and curve.x[-1] > 0 for curve in by_agent.values())
    }  # fmt: skip


def _section(
    name: str,
    entry: Mapping[str, Any],
    comparisons: list[dict[str, Any]],
    envs: Mapping[str, EnvRecord],
    evaluated: int,
    axes: Axes,
    at: Rates,
) -> Section:
    env, looks = envs[comparisons[0]["id"]], _looks(comparisons)
    scale = entry["normalised"]
    made = {"agents": cells.agents(f"{name}-agents", comparisons, looks)}
    if comparisons[0]["frames_to_threshold"]:
        made["reach"] = cells.reach(f"{name}-reach", comparisons, looks)
    if len(comparisons) > 1 and entry["equal_budgets"]:
        made["budgets"] = cells.budgets(f"{name}-budgets", entry["equal_budgets"], comparisons, looks)
    if entry["published"]:
        made["published"] = cells.published(f"{name}-published", entry["published"], comparisons, looks)
    return Section(
        name, env, sentences.headline(comparisons, env, at), sentences.best_of(comparisons), comparisons, looks, axes,
        [("score", 0.0, 1.0), *([(scale["name"], scale["zero"], scale["one"])] if scale else [])], _levels(env), entry["frontier"], made,
        (max((len(columns["seeds"]) for columns in axes.values()), default=0), evaluated),
    )  # fmt: skip


def _levels(env: EnvRecord) -> dict[str, float]:
    """The dashed lines of the curves."""
    levels = {} if env.reward_threshold is None else {"threshold": env.reward_threshold}
    human = convert.atari_scores(env.id)
    return levels | ({"human": human.human, "random": human.random} if human else {})


def _suite(name: str, data: dict[str, Any], axes: Axes) -> Suite:
    looks = [Series(agent, [], [], *charts.look(number)) for number, agent in enumerate(data["agents"])]
    made = {"spent": cells.spent(f"{name}-spent", data, looks)}
    if data["improvement"]:
        made["improvement"] = cells.improvements(f"{name}-improvement", data)
    if data["aggregates"] is not None:
        made["aggregates"] = cells.aggregates(f"{name}-aggregates", data, looks)
    if data["published"] and len(data["games"]) > 1:  # of one game its own section holds them
        made["published"] = cells.published_over_games(f"{name}-published", data, looks)
    return Suite(name, data, looks, axes, made)


def _among_landmarks(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The landmarks, the human tester's practice, and the best agent of each environment, smallest experience first."""
    practice_h, brain_w = convert.human_practice_h(), convert.brain_power_w()[0]
    person = {
        "name": "Human tester, practice on one game", "year": 2015, "play_years": practice_h / HOURS_A_YEAR,
        "energy_kwh": practice_h * brain_w / 1000, "flops": None, "kind": "a person",
        "source": f"{practice_h:g} hours of practice; energy of a {brain_w:g} W brain for that time",
    }  # fmt: skip
    by_id = {c["id"]: c for c in result["comparisons"]}
    best = [sentences.best_of([by_id[each] for each in entry["comparisons"]]) for entry in result["environments"]]
    ours = [
        {"name": f"Yours: {c['label']}, {c['env']}", "year": None, "kind": "yours", "flops": c["flops"], "energy_kwh": c["energy"]["kwh"],
         "play_years": None if c["human_play_h"] is None else c["human_play_h"] / HOURS_A_YEAR, "source": "this report, one seed"}
        for c in best[:MAX_YOURS] if c is not None
    ]  # fmt: skip
    known = [dict(each) | {"kind": "landmark"} for each in result["landmarks"]]
    return sorted([*known, person, *ours], key=lambda e: (e["play_years"] is None, e["play_years"] or 0.0))


HOURS_A_YEAR = 365.25 * 24
MAX_YOURS = 10
