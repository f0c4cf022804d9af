import re

import numpy as np
import pytest

from analysis import charts, tables
from runs.schema import ABSENT, Energy
from tests.analysis.run_folders import BREAKOUT, MOUNTAINCAR, write_run


def evals_of(results):
    runs, _ = tables.read_runs([results])
    return [run.id for run in runs], tables.evals_table(runs)


def rows_of(spec, layer):
    data = layer.get("data") or spec["data"]  # Altair hoists data that every layer shares
    return spec["datasets"][data["name"]]


def series(runs, others=()):
    return [charts.Series("dqn", list(runs), list(others), *charts.look(0))]


def test_seeds_evaluated_at_the_same_steps_are_pooled_at_those_steps(five_seeds):
    runs, evals = evals_of(five_seeds)
    first, last = charts.curve(evals, runs, "steps")
    assert (first["x"], first["score"], first["low"], first["high"], first["n"]) == (25_000, 50, 50, 50, 5)
    assert (last["x"], last["score"]) == (50_000, 300)
    assert last["low"] < 300 < last["high"]


def test_seeds_of_different_speed_are_interpolated_over_the_time_that_both_cover(results):
    write_run(results / "e" / "a" / "seed0", scores=[0.0, 100.0], wall_s=100.0)  # evaluated at 50 s and 100 s
    write_run(results / "e" / "a" / "seed1", seed=1, scores=[0.0, 100.0], wall_s=160.0)  # at 80 s and 160 s
    runs, evals = evals_of(results)
    rows = charts.curve(evals, runs, "wall_s")
    assert (rows[0]["x"], rows[-1]["x"]) == (80, 100)
    assert rows[0]["score"] == pytest.approx((60 + 0) / 2)  # seed 0 is at 60 % of the way from 50 s to 100 s
    assert rows[-1]["score"] == pytest.approx((100 + 25) / 2)
    assert np.all(np.diff([row["x"] for row in rows]) > 0)


def test_one_seed_has_a_line_and_no_band(results):
    write_run(results / "e" / "a" / "seed0", scores=[1.0, 2.0])
    runs, evals = evals_of(results)
    assert [(row["score"], row["low"], row["high"], row["n"]) for row in charts.curve(evals, runs, "steps")] == [
        (1, None, None, 1),
        (2, None, None, 1),
    ]


def test_only_axes_with_numbers_are_offered(results):
    write_run(results / "m" / "a" / "seed0", env=MOUNTAINCAR, energy={"cpu_package": Energy(0, 0, 0, ABSENT)})
    _, evals = evals_of(results)
    assert [axis.name for axis in charts.usable_axes(evals)] == ["Steps", "Frames", "Wall-clock time", "Compute"]


def test_an_axis_is_drawn_in_the_unit_that_its_title_names(results):
    write_run(results / "b" / "a" / "seed0", env=BREAKOUT, steps=50_000_000, scores=[1.0, 2.0], wall_s=36_000.0)
    runs, evals = evals_of(results)
    drawn = {}
    for axis in charts.usable_axes(evals):
        spec = charts.specification(charts.learning_curves(evals, series(runs), axis, None))
        line = next(layer for layer in spec["layer"] if layer["mark"].get("strokeWidth") == 2.5)
        drawn[line["encoding"]["x"]["title"]] = rows_of(spec, line)[-1]["x"]
    assert drawn == {
        "Steps": 50e6, "Frames": 200e6, "Human playtime (days)": pytest.approx(38.58, abs=0.01), "Wall-clock time (hours)": 10,
        "Energy (Wh)": 0.25, "Compute (model FLOPs)": 2e12,
    }  # fmt: skip


def test_an_unfinished_run_is_a_thin_line_outside_the_pooled_curve(five_seeds):
    runs, evals = evals_of(five_seeds)
    spec = charts.specification(charts.learning_curves(evals, series(runs[:4], runs[4:]), charts.AXES[0], 475.0))
    layers = {
        layer["mark"].get("strokeWidth"): rows_of(spec, layer) for layer in spec["layer"] if layer["mark"]["type"] == "line"
    }
    assert {row["run"] for row in layers[1]} == set(runs)
    assert {row["n"] for row in layers[2.5]} == {4}


def test_the_threshold_is_drawn_where_there_is_one(five_seeds):
    runs, evals = evals_of(five_seeds)
    marks = {
        threshold: [
            la["mark"]["type"]
            for la in charts.learning_curves(evals, series(runs), charts.AXES[0], threshold).to_dict()["layer"]
        ]
        for threshold in (475.0, None)
    }
    assert "rule" in marks[475.0]
    assert "rule" not in marks[None]


def test_the_first_comparisons_differ_in_colour_and_later_ones_in_dash():
    looks = [charts.look(n) for n in range(18)]
    assert len({(color, tuple(dash)) for color, dash in looks}) == 18
    assert len({color for color, _ in looks[:6]}) == 6


def test_the_chart_library_names_no_address_but_namespaces():
    assert set(re.findall(r"https?://[^/\"'` ]+", charts.javascript())) == {"http://www.w3.org"}
