import re

import numpy as np
import pytest

from analysis import charts, curves, tables
from runs.schema import ABSENT, Energy
from tests.analysis.run_folders import BREAKOUT, GPU, MOUNTAINCAR, write_run


def seeds_of(results):
    return curves.of_runs(tables.read_runs([results])[0])


def curve_over(seeds, column, runs=None):
    return curves.curve([[curves.line(seeds[run], column) for run in (runs or seeds)]])


def rows_of(spec, layer):
    data = layer.get("data") or spec["data"]  # Altair hoists data that every layer shares
    return spec["datasets"][data["name"]]


def series(runs, others=()):
    return [charts.Series("dqn", list(runs), list(others), *charts.look(0))]


def drawn(seeds, axis=charts.AXES[0], others=(), levels=None, **options):
    shown = series([run for run in seeds if run not in others], others)
    return charts.specification(charts.learning_curves(shown, charts.axis_columns(shown, seeds, axis), levels or {}, **options))


def test_seeds_evaluated_at_the_same_steps_are_pooled_at_those_steps(five_seeds):
    curve = curve_over(seeds_of(five_seeds), "steps")
    assert curve.x.tolist() == [25_000, 50_000]
    assert curve.score.tolist() == [50, 300]
    assert (curve.low[0], curve.high[0], curve.n) == (50, 50, 5)
    assert curve.low[1] < 300 < curve.high[1]


def test_seeds_of_different_speed_are_interpolated_over_the_time_that_both_cover(results):
    write_run(results / "e" / "a" / "seed0", scores=[0.0, 100.0], wall_s=100.0)  # evaluated at 50 s and 100 s
    write_run(results / "e" / "a" / "seed1", seed=1, scores=[0.0, 100.0], wall_s=160.0)  # at 80 s and 160 s
    curve = curve_over(seeds_of(results), "wall_s")
    assert (curve.x[0], curve.x[-1]) == (80, 100)
    assert curve.score[0] == pytest.approx((60 + 0) / 2)  # seed 0 is at 60 % of the way from 50 s to 100 s
    assert curve.score[-1] == pytest.approx((100 + 25) / 2)
    assert np.all(np.diff(curve.x) > 0)


def test_one_seed_has_a_line_and_no_band(results):
    write_run(results / "e" / "a" / "seed0", scores=[1.0, 2.0])
    curve = curve_over(seeds_of(results), "steps")
    assert (curve.score.tolist(), curve.low, curve.high, curve.n) == ([1, 2], None, None, 1)


def test_of_evaluations_at_one_x_the_last_counts():
    seed = {"steps": np.array([1.0, 2, 2, 3]), "score": np.array([10.0, 20, 25, 30])}
    x, score = curves.line(seed, "steps")
    assert (x.tolist(), score.tolist()) == ([1, 2, 3], [10, 25, 30])


def test_a_thinned_line_keeps_its_ends_and_invents_nothing():
    x = np.arange(1000.0)
    thin_x, thin_y = curves.thin((x, x**2))
    assert len(thin_x) == curves.GRID_POINTS
    assert (thin_x[0], thin_x[-1]) == (0, 999)
    assert np.array_equal(thin_y, thin_x**2)


def test_curves_over_games_resample_within_each_game():
    """Two games without spread between seeds: the IQM of 5 zeros and 5 ones is 0.5 in every stratified resample."""
    x = np.array([1.0, 2.0])
    games = [[(x, np.full(2, level)) for _ in range(5)] for level in (0.0, 1.0)]
    curve = curves.curve(games)
    assert curve.n == 10
    assert curve.score.tolist() == curve.low.tolist() == curve.high.tolist() == [0.5, 0.5]


def test_an_axis_that_some_runs_lack_is_offered_without_them_and_names_them(results):
    """a has energy; b has it in one of two seeds; c, an import say, in none."""
    absent = {"cpu_package": Energy(0, 0, 0, ABSENT)}
    for seed in range(2):
        write_run(results / "e" / "a" / f"seed{seed}", "a", seed=seed, scores=[1.0, 2.0])
        write_run(results / "e" / "b" / f"seed{seed}", "b", seed=seed, scores=[3.0, 4.0], energy=absent if seed else None)
        write_run(results / "e" / "c" / f"seed{seed}", "c", seed=seed, scores=[5.0, 6.0], energy=absent)
    seeds = seeds_of(results)
    shown = [charts.Series(name, [f"e/{name}/seed{k}" for k in range(2)], [], *charts.look(n)) for n, name in enumerate("abc")]
    axes = {axis.name: charts.axis_columns(shown, seeds, axis) for axis in charts.usable_axes(list(seeds.values()))}
    assert axes["Frames"]["missing"] == []
    energy = axes["Energy"]
    assert energy["missing"] == ["b (1 of 2 runs)", "c"]
    assert [centre and (centre["n"], centre["score"][-1]) for centre in energy["centre"]] == [(2, 2), (1, 4), None]
    assert {(line["s"], line["run"]) for line in energy["seeds"]} == {(0, "e/a/seed0"), (0, "e/a/seed1")}
    spec = charts.specification(charts.learning_curves(shown, energy, {}))
    assert spec["title"]["text"] == "Not known on this axis: b (1 of 2 runs), c"
    assert "title" not in charts.specification(charts.learning_curves(shown, axes["Frames"], {}))


def test_only_axes_with_numbers_are_offered(results):
    write_run(results / "m" / "a" / "seed0", env=MOUNTAINCAR, energy={"cpu_package": Energy(0, 0, 0, ABSENT)})
    usable = charts.usable_axes(list(seeds_of(results).values()))
    assert [axis.name for axis in usable] == ["Steps", "Frames", "Wall-clock time", "Compute"]


def test_an_axis_is_drawn_in_the_unit_that_its_title_names(results):
    """Half of the device: 36,000 s of wall time are 5 GPU-hours."""
    write_run(
        results / "b" / "a" / "seed0", env=BREAKOUT, steps=50_000_000, scores=[1.0, 2.0], wall_s=36_000.0, device=GPU, share=0.5
    )
    seeds = seeds_of(results)
    shown = {}
    for axis in charts.usable_axes(list(seeds.values())):
        spec = drawn(seeds, axis)
        line = next(layer for layer in spec["layer"] if layer["mark"].get("strokeWidth") == 2.5)
        shown[line["encoding"]["x"]["title"]] = rows_of(spec, line)[-1]["x"]
    assert shown == {
        "Steps": 50e6, "Frames": 200e6, "Human playtime (days)": pytest.approx(38.58, abs=0.01), "Wall-clock time (hours)": 10,
        "GPU-hours": 5, "Energy (Wh)": 0.25, "Compute (model FLOPs)": 2e12,
    }  # fmt: skip


def test_an_unfinished_run_is_a_thin_line_outside_the_pooled_curve(five_seeds):
    seeds = seeds_of(five_seeds)
    spec = drawn(seeds, others=[list(seeds)[-1]], levels={"threshold": 475.0})
    layers = {
        layer["mark"].get("strokeWidth"): rows_of(spec, layer) for layer in spec["layer"] if layer["mark"]["type"] == "line"
    }
    assert {row["run"] for row in layers[1]} == set(seeds)
    assert {row["n"] for row in layers[2.5]} == {4}


def test_a_level_below_zero_has_the_minus_of_the_text(five_seeds):
    assert "random −20.7" in str(drawn(seeds_of(five_seeds), levels={"random": -20.7}))


def test_levels_are_drawn_where_there_are_some(five_seeds):
    seeds = seeds_of(five_seeds)
    marks = [{layer["mark"]["type"] for layer in drawn(seeds, levels=levels)["layer"]} for levels in ({"threshold": 475.0}, {})]
    assert "rule" in marks[0]
    assert "rule" not in marks[1]


def test_a_log_axis_leaves_out_what_lies_at_zero(results):
    write_run(results / "e" / "a" / "seed0", scores=[1.0, 2.0])
    seeds = seeds_of(results)
    (run,) = seeds
    seeds[run]["steps"] = np.array([0.0, 10.0])
    for log, points in ((False, [0, 10]), (True, [10])):
        spec = drawn(seeds, log=log)
        line = next(layer for layer in spec["layer"] if layer["mark"].get("strokeWidth") == 2.5)
        assert [row["x"] for row in rows_of(spec, line)] == points
        assert line["encoding"]["x"]["scale"].get("type") == ("log" if log else None)


def luminance_and_chroma(color, deficiency):
    """CIELAB of a colour as a person with that deficiency sees it (Machado, Oliveira & Fernandes 2009, severity 1)."""
    simulate = {
        "none": np.eye(3),
        "protan": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
        "deutan": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
        "tritan": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
    }[deficiency]
    srgb = np.array([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(simulate @ linear, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", ["none", "protan", "deutan", "tritan"])
def test_colours_can_be_told_apart_by_the_colour_blind(deficiency):
    """A CIELAB distance of 2.3 is just noticeable; lines and dots ask for more."""
    seen = [luminance_and_chroma(color, deficiency) for color in charts.PALETTE]
    distances = [np.linalg.norm(a - b) for n, a in enumerate(seen) for b in seen[:n]]
    assert min(distances) > 10


def test_the_first_comparisons_differ_in_colour_and_later_ones_in_dash():
    looks = [charts.look(n) for n in range(18)]
    assert len({(color, tuple(dash)) for color, dash in looks}) == 18
    assert len({color for color, _ in looks[:6]}) == 6


def test_the_chart_library_names_no_address_but_namespaces():
    assert set(re.findall(r"https?://[^/\"'` ]+", charts.javascript())) == {"http://www.w3.org"}
