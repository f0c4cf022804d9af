import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis import across, contents, sentences, summary, tables
from analysis.convert import Rates
from runs.schema import Energy
from tests.analysis.run_folders import BREAKOUT, CARTPOLE, MOUNTAINCAR, write_run

PONG = replace(BREAKOUT, id="ALE/Pong-v5")
ACROBOT = replace(MOUNTAINCAR, id="Acrobot-v1", reward_threshold=-100.0, max_episode_steps=500)
MINATAR = replace(BREAKOUT, id="MinAtar/Breakout-v1", kind="minatar", protocol="minatar", frame_rate_hz=None, frames_per_step=1)


def summarise(folder, country=None, price=None):
    return summary.summarise(*tables.read_runs([folder]), Rates(country, price))


def cpu(joules):
    return {"cpu_package": Energy(joules, joules / 2, joules * 2, "estimated")}


def test_a_normalised_score_is_0_for_nothing_and_1_for_the_level():
    assert across.normaliser(BREAKOUT) == ("human-normalised", 1.7, 30.5)
    assert across.normaliser(CARTPOLE) == ("threshold-normalised", 0, 475)
    assert across.normaliser(MOUNTAINCAR) == ("threshold-normalised", -200, -110)  # -1 a step, at most 200 of them
    assert across.normaliser(ACROBOT) == ("threshold-normalised", -500, -100)
    assert across.normaliser(MINATAR) is None


def test_an_equal_budget_is_the_largest_that_every_seed_has_spent(results):
    """Scores at 25k, 50k (a) and at 50k, 100k (b): at 50,000 frames a has 20, b has 30. In energy a spent 100 J and b 400 J: at 100 J
    b is at a quarter of its way, before its first evaluation at half, so its score there is not known."""
    for seed in range(2):
        write_run(results / "a" / f"seed{seed}", "a", seed=seed, steps=50_000, scores=[10.0, 20.0], energy=cpu(100.0))
        write_run(results / "b" / f"seed{seed}", "b", seed=seed, steps=100_000, scores=[30.0, 50.0], energy=cpu(400.0))
    entry = summarise(results)["environments"][0]["equal_budgets"]
    assert entry["frames"]["budget"] == 50_000
    scores = {name.rpartition("/")[2]: score for name, score in entry["frames"]["scores"].items()}
    assert (scores["a"]["iqm"], scores["b"]["iqm"], scores["a"]["n"]) == (20, 30, 2)
    assert entry["joules"]["budget"] == 100
    assert [score and score["iqm"] for score in entry["joules"]["scores"].values()] == [20, None]
    assert "gpu_h" not in entry  # a CPU has none


def test_scores_between_evaluations_are_interpolated(results):
    write_run(results / "a" / "seed0", "a", steps=30_000, scores=[10.0])
    write_run(results / "b" / "seed0", "b", steps=40_000, scores=[0.0, 100.0])
    entry = summarise(results)["environments"][0]["equal_budgets"]["frames"]
    assert entry["budget"] == 30_000
    assert [score["iqm"] for score in entry["scores"].values()] == [10, pytest.approx(50)]


def test_an_agent_without_energy_takes_the_energy_from_nobody_else(results):
    """An import says nothing of energy: the others still have their equal budget, curves over games and frontier; it is named."""
    nothing = {"cpu_package": Energy(0, 0, 0, "absent")}
    for game in (BREAKOUT, PONG):
        for name, energy in (("a", cpu(100.0)), ("b", cpu(200.0)), ("c", nothing)):
            for seed in range(2):
                write_run(results / game.id[4:] / name / f"seed{seed}", name, game, seed, scores=[10.0, 90.0], energy=energy)
    result = summarise(results)
    entry = result["environments"][0]
    joules = {name[-1]: score and score["iqm"] for name, score in entry["equal_budgets"]["joules"]["scores"].items()}
    assert entry["equal_budgets"]["joules"]["budget"] == 100
    assert joules == {"a": 90, "b": 10, "c": None}  # at 100 J b is half-way, at its first evaluation
    assert entry["equal_budgets"]["frames"]["scores"][f"{entry['comparisons'][2]}"]["iqm"] == 90
    front = next(e for e in entry["frontier"] if e["level"] == "common")
    assert [point["comparison"][-1] for point in front["points"]] == ["a", "b"]
    assert ([c[-1] for c in front["unknown"]], front["not_there"]) == (["c"], [])
    assert "there, but without a count of frames or energy c" in sentences.frontier(front, result["comparisons"])
    (suite,) = contents.content(tables.read_runs([results])[0], result).suites
    assert suite.axes["Energy"]["missing"] == ["c"]
    assert suite.axes["Energy"]["centre"][2] is None
    assert suite.axes["Frames"]["missing"] == []


def test_who_needs_more_of_both_is_dominated(results):
    """First evaluation at the threshold of 475: a after 25k frames and 50 J, b after 12.5k and 100 J, c after 25k and 200 J."""
    for name, scores, joules in (("a", [0.0, 480.0, 480.0, 480.0], 100.0), ("b", [480.0] * 4, 400.0), ("c", [0.0, 480.0, 480.0, 480.0], 400.0),
                                 ("d", [0.0] * 4, 10.0)):  # fmt: skip
        write_run(results / name / "seed0", name, scores=scores, energy=cpu(joules))
    (entry,) = [e for e in summarise(results)["environments"][0]["frontier"] if e["level"] == "reward_threshold"]
    points = {point["comparison"][-1]: point for point in entry["points"]}
    assert {name: (point["frames"], round(point["kwh"] * 3.6e6)) for name, point in points.items()} == {
        "a": (25_000, 50), "b": (12_500, 100), "c": (25_000, 200),
    }  # fmt: skip
    assert {name: [other[-1] for other in point["dominated_by"]] for name, point in points.items()} == {
        "a": [],
        "b": [],
        "c": ["a", "b"],
    }
    assert [c[-1] for c in entry["not_there"]] == ["d"]


def test_equal_needs_do_not_dominate_each_other(results):
    for name in "ab":
        write_run(results / name / "seed0", name, scores=[480.0])
    entry = summarise(results)["environments"][0]["frontier"][0]
    assert [point["dominated_by"] for point in entry["points"]] == [[], []]


def test_the_common_score_is_reached_by_more_than_half_of_the_seeds_of_every_agent(results):
    for seed, (a, b) in enumerate([(10.0, 300.0), (20.0, 400.0), (90.0, 500.0)]):
        write_run(results / "a" / f"seed{seed}", "a", seed=seed, scores=[a])
        write_run(results / "b" / f"seed{seed}", "b", seed=seed, scores=[b])
    (entry,) = [e for e in summarise(results)["environments"][0]["frontier"] if e["level"] == "common"]
    assert entry["score"] == 20
    assert len(entry["points"]) == 2


@pytest.fixture
def suite(results):
    """Two agents with three seeds each on two games; a third agent on one of them only."""
    scores = {
        "a": {BREAKOUT: (10, 12, 14), PONG: (-20, -18, 0)},
        "b": {BREAKOUT: (12, 20, 40), PONG: (-21, -10, 10)},
        "c": {PONG: (1,)},
    }
    for agent, games in scores.items():
        for env, values in games.items():
            for seed, value in enumerate(values):
                write_run(results / env.id[4:] / agent / f"seed{seed}", agent, env, seed, scores=[0.0, float(value)])
    (entry,) = summarise(results)["suites"]
    return entry


def test_a_suite_compares_the_agents_that_played_the_same_games(suite):
    assert (suite["agents"], suite["games"]) == (["a", "b"], ["ALE/Breakout-v5", "ALE/Pong-v5"])
    assert suite["left_out"] == ["c: did not play ALE/Breakout-v5"]
    assert suite["frames"] == {"ALE/Breakout-v5": 200_000, "ALE/Pong-v5": 200_000}


@pytest.fixture
def with_a_longer_run(results):
    """Two agents on two games, and one of them on one game with twice the budget."""
    for agent in "ab":
        for env in (BREAKOUT, PONG):
            write_run(results / env.id[4:] / agent, agent, env, scores=[1.0])
    write_run(results / "Pong" / "longer", "a", PONG, steps=100_000, scores=[2.0, 2.0])
    return results


def test_an_agent_with_two_budgets_on_one_game_has_one_name_for_each_on_all_games(with_a_longer_run):
    (entry,) = summarise(with_a_longer_run)["suites"]
    assert (entry["agents"], entry["games"]) == (["a (budget 50k-steps)", "b"], ["ALE/Breakout-v5", "ALE/Pong-v5"])
    assert entry["left_out"] == ["a (budget 100k-steps): did not play ALE/Breakout-v5"]


def test_and_where_both_budgets_played_all_games_they_are_compared(with_a_longer_run):
    write_run(with_a_longer_run / "Breakout" / "longer", "a", BREAKOUT, steps=100_000, scores=[2.0, 2.0])
    (entry,) = summarise(with_a_longer_run)["suites"]
    assert sorted(entry["agents"]) == ["a (budget 100k-steps)", "a (budget 50k-steps)", "b"]
    assert entry["left_out"] == []


def test_the_statistics_of_a_suite_are_over_normalised_scores_of_all_runs(suite):
    """By hand: Breakout random 1.7, human 30.5; Pong random -20.7, human 14.6."""
    breakout, pong = (lambda s: (s - 1.7) / (30.5 - 1.7)), (lambda s: (s + 20.7) / (14.6 + 20.7))
    a = [breakout(s) for s in (10, 12, 14)] + [pong(s) for s in (-20, -18, 0)]
    b = [breakout(s) for s in (12, 20, 40)] + [pong(s) for s in (-21, -10, 10)]
    for name, scores in (("a", a), ("b", b)):
        entry = suite["aggregates"][name]
        assert entry["iqm"]["value"] == pytest.approx(stats.trim_mean(scores, 0.25))
        assert entry["optimality_gap"]["value"] == pytest.approx(1 - np.mean(np.minimum(scores, 1)))
        assert entry["iqm"]["low"] <= entry["iqm"]["value"] <= entry["iqm"]["high"]
        assert entry["n_runs"] == 6
    (pair,) = suite["improvement"]
    wins = np.mean([stats.mannwhitneyu(x, y).statistic / 9 for x, y in ((a[:3], b[:3]), (a[3:], b[3:]))])
    assert pair["probability"] == pytest.approx(wins)
    profile = suite["profiles"]["agents"]["b"]["share_above"]
    taus = suite["profiles"]["tau"]
    assert profile == pytest.approx([np.mean(np.array(b) > tau) for tau in taus])


def test_without_a_reference_score_only_the_probability_of_improvement_is_said(results):
    for agent, score in (("a", 1.0), ("b", 2.0)):
        for seed in range(2):
            write_run(results / agent / f"seed{seed}", agent, MINATAR, seed, scores=[score + seed])
    (entry,) = summarise(results)["suites"]
    assert (entry["aggregates"], entry["profiles"], entry["normalised"]) == (None, None, None)
    assert "no reference score" in entry["why_not"]
    assert entry["improvement"][0]["probability"] == pytest.approx(1 / 8)  # of 4 pairs: 1 < 2, 1 < 3, 2 = 2, 2 < 3


def test_two_protocols_are_two_suites_and_one_agent_is_none(results):
    for protocol in ("nature", "sticky"):
        for agent in "ab":
            write_run(results / protocol / agent / "seed0", agent, replace(BREAKOUT, protocol=protocol), scores=[1.0])
    write_run(results / "c" / "a" / "seed0", "a", CARTPOLE)
    assert [(s["protocol"], s["agents"]) for s in summarise(results)["suites"]] == [
        ("nature", ["a", "b"]),
        ("sticky", ["a", "b"]),
    ]


def test_the_summary_with_all_of_it_is_json(results):
    for agent in "ab":
        for seed in range(2):
            write_run(results / agent / f"seed{seed}", agent, BREAKOUT, seed)
    result = summarise(results, price=0.3)
    text = json.dumps(result, allow_nan=False)
    assert json.loads(text)["environments"][0]["published"]
    reach = result["comparisons"][0]["frames_to_threshold"]["half_human"]
    assert reach["cost_usd"] == pytest.approx(reach["kwh"] * 0.3)
    assert reach["wall_h"] > 0
