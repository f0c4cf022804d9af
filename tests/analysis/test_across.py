import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis import across, contents, published, sentences, summary, tables
from analysis.convert import Rates
from envs import SUITES
from runs import schema
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


def test_two_protocols_are_two_suites_and_one_agent_on_one_game_is_none(results):
    for protocol in ("nature", "sticky"):
        for agent in "ab":
            write_run(results / protocol / agent / "seed0", agent, replace(BREAKOUT, protocol=protocol), scores=[1.0])
    write_run(results / "c" / "a" / "seed0", "a", CARTPOLE)
    assert [(s["protocol"], s["agents"]) for s in summarise(results)["suites"]] == [
        ("nature", ["a", "b"]),
        ("sticky", ["a", "b"]),
    ]


ASTERIX = replace(BREAKOUT, id="ALE/Asterix-v5")


def test_one_agent_on_several_games_is_a_suite_of_its_own(results):
    """One run a game: no interval of anything and nobody to compare with, but a score over games."""
    for env, score in ((BREAKOUT, 16.1), (PONG, -20.7), (ASTERIX, 1000.0)):
        write_run(results / env.id / "a" / "seed0", "a", env, scores=[0.0, score])
    (suite,) = summarise(results)["suites"]
    assert (suite["agents"], suite["improvement"], suite["left_out"]) == (["a"], [], [])
    asterix = (1000 - 210) / (8503.3 - 210)
    assert suite["games"] == ["ALE/Asterix-v5", "ALE/Breakout-v5", "ALE/Pong-v5"]
    assert [each["iqm"] for each in suite["by_game"]["a"]] == pytest.approx([asterix, 0.5, 0])
    entry = suite["aggregates"]["a"]
    assert (entry["mean"], entry["median"]) == (pytest.approx((asterix + 0.5) / 3), pytest.approx(asterix))
    assert (entry["iqm"]["low"], suite["by_game"]["a"][0]["low"]) == (None, None)
    lead = sentences.over_games(suite)[0]
    assert lead.startswith("a has a mean of the human-normalised score of 0.198 over 3 runs on 3 games (no interval")


ALIEN = replace(BREAKOUT, id="ALE/Alien-v5")


def test_one_evaluation_is_no_curve_over_games(results):
    for env in (BREAKOUT, PONG):
        write_run(results / env.id / "a" / "seed0", "a", env, scores=[1.0])
        write_run(results / env.id / "b" / "seed0", "b", env, scores=[1.0])
    (suite,) = contents.content(tables.read_runs([results])[0], summarise(results)).suites
    assert suite.axes == {}
    for env in (BREAKOUT, PONG):
        write_run(results / env.id / "c" / "seed0", "c", env, scores=[1.0, 2.0])
    (suite,) = contents.content(tables.read_runs([results])[0], summarise(results)).suites
    assert "Frames" in suite.axes


def test_games_that_one_agent_played_beyond_those_of_the_others_are_a_suite_too(results):
    """Of four games a played all, e three, b and c two, d one: first what can be compared, then all that a played; e's lie within."""
    four = (BREAKOUT, PONG, ASTERIX, ALIEN)
    for agent, envs in (("a", four), ("b", four[:2]), ("c", four[:2]), ("d", four[1:2]), ("e", four[:3])):
        for env in envs:
            write_run(results / env.id / agent / "seed0", agent, env, scores=[1.0])
    first, second = summarise(results)["suites"]
    assert (sorted(first["agents"]), first["games"]) == (["a", "b", "c", "e"], ["ALE/Breakout-v5", "ALE/Pong-v5"])
    assert (second["agents"], len(second["games"])) == (["a"], 4)
    assert "b: did not play ALE/Alien-v5, ALE/Asterix-v5" in second["left_out"]


def test_agents_without_a_game_in_common_have_a_suite_each(results):
    for agent, envs in (("a", (BREAKOUT, PONG)), ("b", (ASTERIX, ALIEN))):
        for env in envs:
            write_run(results / env.id / agent / "seed0", agent, env, scores=[1.0])
    assert [suite["agents"] for suite in summarise(results)["suites"]] == [["b"], ["a"]]


def test_many_games_that_an_agent_did_not_play_are_counted_and_not_named(results):
    games = [
        replace(BREAKOUT, id=f"ALE/{name}-v5") for name in ("Alien", "Amidar", "Assault", "Boxing", "Freeway", "Krull", "Pong")
    ]
    for agent, envs in (("a", games), ("b", games), ("c", games[:1])):
        for env in envs:
            write_run(results / env.id / agent / "seed0", agent, env, scores=[1.0])
    (suite,) = summarise(results)["suites"]
    assert suite["left_out"] == ["c: did not play 6 of these games"]


def test_without_a_scale_one_agent_has_nothing_to_be_told_over_games(results):
    for env in (MINATAR, replace(MINATAR, id="MinAtar/Asterix-v1")):
        write_run(results / env.id / "a" / "seed0", "a", env, scores=[1.0])
    assert summarise(results)["suites"] == []


def test_a_game_without_a_scale_takes_the_others_from_no_agent(results):
    tetris = replace(BREAKOUT, id="ALE/Tetris-v5")  # nobody published a human score
    for env in (BREAKOUT, PONG, tetris):
        write_run(results / env.id / "a" / "seed0", "a", env, scores=[1.0])
    assert [suite["games"] for suite in summarise(results)["suites"]] == [["ALE/Breakout-v5", "ALE/Pong-v5"]]
    write_run(results / "b" / "seed0", "b", tetris, scores=[1.0])
    assert [suite["games"] for suite in summarise(results)["suites"]] == [["ALE/Tetris-v5"], ["ALE/Breakout-v5", "ALE/Pong-v5"]]


def test_an_agent_without_frames_or_an_evaluation_takes_the_games_from_nobody_else_and_is_named(results):
    for env in (BREAKOUT, PONG):
        for agent in ("a", "b", "c"):
            write_run(results / env.id / agent / "seed0", agent, env, scores=[1.0])
        path = results / env.id / "c" / "seed0" / schema.EVALS_FILE
        path.write_text("".join(schema.seal(replace(e, frames=None)) for e in schema.read_evals(path.parent)))
    write_run(results / "x", "a", ASTERIX, scores=[])
    (suite,) = summarise(results)["suites"]
    assert (suite["agents"], len(suite["games"])) == (["a", "b"], 2)
    assert [text for text in suite["left_out"] if text.startswith("c: its frames on ALE/Pong-v5")]
    assert "a: not evaluated yet on ALE/Asterix-v5" in suite["left_out"]


def test_an_agent_that_is_not_the_same_on_all_games_is_told_so(results):
    for env, n_step in ((BREAKOUT, 1), (PONG, 20)):
        write_run(results / env.id / "a" / "seed0", "a", env, scores=[1.0], agent_config={"n_step": n_step})
    (suite,) = summarise(results)["suites"]
    assert suite["notes"] == ["a is not the same on all games, it differs in n_step"]


def test_the_energy_of_all_runs_is_measured_only_where_that_of_every_one_is(results):
    measured = {"cpu_package": Energy(100.0, 90.0, 110.0, "measured")}
    for env in (BREAKOUT, PONG):
        write_run(results / env.id / "a" / "seed0", "a", env, scores=[1.0], energy=measured)
    assert summarise(results)["suites"][0]["totals"]["a"]["method"] == "measured"
    write_run(results / "more", "a", PONG, 1, scores=[1.0, 1.0], energy=cpu(50.0), status="interrupted", reached=0.5)
    assert summarise(results)["suites"][0]["totals"]["a"]["method"] == "estimated"


def test_random_play_on_video_pinball_counts_nothing_over_games_as_in_published_means(results):
    """C51 over 57 games: Bellemare et al. 2017 report a mean of 701 % and a median of 178 %."""
    for game in SUITES["atari57"]:
        write_run(results / game / "a" / "seed0", "a", replace(BREAKOUT, id=game), scores=[1.0])
    (suite,) = summarise(results)["suites"]
    (c51,) = [entry for entry in suite["published"] if entry["agent"] == "C51"]
    assert (round(c51["mean"], 2), round(c51["median"], 2)) == (7.01, 1.78)


def test_what_all_games_took_is_the_sum_over_every_run(results):
    """Two games of which one process trained both side by side (its 100 s count once), and a third run that was interrupted."""
    for env in (BREAKOUT, PONG):
        write_run(results / env.id / "a" / "seed0", "a", env, scores=[1.0], wall_s=100.0, energy=cpu(100.0), share=0.5)
    write_run(results / "more", "a", PONG, 1, scores=[1.0], wall_s=14.0, energy=cpu(100.0), status="interrupted", reached=0.5)
    (suite,) = summarise(results, price=0.3)["suites"]
    total = suite["totals"]["a"]
    assert (total["n_runs"], total["frames"], total["method"]) == (3, 500_000, "estimated")
    assert total["human_play_h"] == pytest.approx(500_000 / 60 / 3600)
    assert total["wall_h"] == pytest.approx(107 / 3600)
    assert (total["kwh"], total["low_kwh"], total["high_kwh"]) == tuple(pytest.approx(j / 3.6e6) for j in (250, 125, 500))
    assert total["cost_usd"] == pytest.approx(0.3 * 250 / 3.6e6)


def test_what_is_not_known_of_one_game_is_not_known_of_all(results):
    write_run(results / "b" / "seed0", "a", BREAKOUT, scores=[1.0], energy=cpu(100.0))
    write_run(results / "p" / "seed0", "a", PONG, scores=[1.0], energy={"cpu_package": Energy(0, 0, 0, "absent")})
    total = summarise(results)["suites"][0]["totals"]["a"]
    assert (total["kwh"], total["method"], total["frames"]) == (None, "absent", 400_000)


def test_a_number_of_runs_that_is_not_stated_is_null_and_not_empty_text(results):
    for game in SUITES["atari26"]:
        write_run(
            results / game / "a" / "seed0", "a", replace(BREAKOUT, id=game, protocol="atari100k"), steps=100_000, scores=[1.0]
        )
    summary = summarise(results)
    (of_game,) = [each["published"] for each in summary["environments"] if each["env"] == "ALE/Pong-v5"]
    found = [entry["n_runs"] for entry in [*of_game, *summary["suites"][0]["published"]]]
    assert None in found
    assert "100" in found
    assert "" not in found
    assert published._in_words(["5", None, "3", "5"]) == "5, not stated, 3"
    assert published._in_words([None, None]) is None


def test_published_agents_over_the_same_games_have_the_statistics_of_their_papers(results):
    """DER over 26 games: Agarwal et al. 2021 recompute a median of 0.161 and a mean of 0.285 from its table (van Hasselt et al. 2019)."""
    for game in SUITES["atari26"]:
        write_run(
            results / game / "a" / "seed0", "a", replace(BREAKOUT, id=game, protocol="atari100k"), steps=100_000, scores=[1.0]
        )
    (suite,) = summarise(results)["suites"]
    by_agent = {(entry["agent"], entry["most_frames"]): entry for entry in suite["published"]}
    der = by_agent["DER", 400_000]
    assert (round(der["mean"], 3), round(der["median"], 3), der["differs"]) == (0.285, 0.161, [])
    assert "experience" in by_agent["IQN", 200_000_000]["differs"]
    assert not any("human starts" in entry["protocol"] for entry in suite["published"])
    means = [entry["mean"] for entry in suite["published"]]
    assert means == sorted(means, reverse=True)


def test_a_published_training_return_is_never_called_comparable():
    """By the words of the tables themselves: whatever speaks of training is no evaluation."""
    found = [each for env in (CARTPOLE, ACROBOT, MINATAR, BREAKOUT) for each in published.neighbours(env, 500_000)]
    training = [each for each in found if "training" in each.protocol]
    assert len(training) >= 10
    assert all("a training return, not an evaluation" in each.differs for each in training)
    assert not any("a training return, not an evaluation" in each.differs for each in found if each not in training)


def test_an_agent_that_was_not_published_on_every_game_has_no_statistics_over_them(results):
    """CURL's table is of the 26 games of Atari-100k, of which Zaxxon is none; IQN's of 57, of which it is one."""
    for game in ("ALE/Alien-v5", "ALE/Zaxxon-v5"):
        write_run(results / game / "a" / "seed0", "a", replace(BREAKOUT, id=game), scores=[1.0])
    agents = {entry["agent"] for entry in summarise(results)["suites"][0]["published"]}
    assert "IQN" in agents
    assert "CURL" not in agents


@pytest.mark.parametrize(
    ("mean", "says"),
    [
        (0.5, "By that mean a lies between Y (0.400) and X (0.600), of 2 agents published on the same games"),
        (0.6, "By that mean a lies above X (0.600)"),
        (0.1, "By that mean a lies below Y (0.400)"),
    ],
)
def test_the_place_among_published_agents_is_by_their_means_and_only_of_those_alike(mean, says):
    others = [
        {"agent": name, "mean": value, "differs": differs}
        for name, value, differs in (("W", 0.55, ["experience"]), ("X", 0.6, []), ("Y", 0.4, []))
    ]
    suite = {"games": ["g", "h"], "published": others}
    assert sentences._among_published("a", {"mean": mean}, suite).startswith(says)
    assert sentences._among_published("a", {"mean": mean}, suite | {"published": others[:1]}) == ""


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
