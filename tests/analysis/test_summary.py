import json
from dataclasses import replace

import pytest

from analysis import summary, tables
from analysis.convert import Rates
from analysis.report import write_report
from runs.schema import ABSENT, ESTIMATED, MEASURED, Energy
from tests.analysis.run_folders import BREAKOUT, CARTPOLE, GPU, MOUNTAINCAR, write_run

CONFIG = {"double": False, "n_step": 1, "encoder": "mlp", "optimiser": {"lr": 1e-3}}


def summarise(folder, country=None, price=None):
    return summary.summarise(*tables.read_runs([folder]), Rates(country, price))


def compare(folder):
    return summarise(folder)["comparisons"]


def test_runs_whose_budget_is_spelled_in_two_ways_are_pooled(results):
    write_run(results / "a", seed=0, steps=50_000)
    write_run(results / "b", seed=1, steps=50_000, budget="50k-steps")
    (comparison,) = summary.summarise(*tables.read_runs([results]))["comparisons"]
    assert (comparison["n_runs"], comparison["label"]) == (2, "dqn")


def test_a_return_that_is_no_number_is_no_mean_and_no_crash(results, tmp_path):
    folder = write_run(results / "a")
    with (folder / "monitor.csv").open("a") as file:
        file.write("nan,5,99.0,5\n")
    result = write_report([results], tmp_path / "r.html", None)
    assert result["runs"][0]["training_return_last_100"] is None
    assert (tmp_path / "r.html").exists()


def test_five_seeds_are_one_comparison_with_the_iqm_of_their_last_scores(five_seeds):
    (comparison,) = compare(five_seeds)
    score = comparison["score"]
    assert (comparison["n_runs"], comparison["seeds"], comparison["label"]) == (5, [0, 1, 2, 3, 4], "dqn")
    assert (score["estimator"], score["iqm"], score["mean"]) == ("IQM", 300, 300)  # 200, 300, 400 are left of the five
    assert 100 <= score["low"] < 300 < score["high"] <= 500
    assert score["per_seed"] == {"0": 100, "1": 200, "2": 300, "3": 400, "4": 500}
    assert score["at_steps"] == {"min": 50_000, "max": 50_000}


def test_costs_are_the_mean_of_one_seed_and_the_total_their_sum(five_seeds):
    (comparison,) = compare(five_seeds)
    assert comparison["frames"] == 50_000
    assert comparison["human_play_h"] == pytest.approx(1000 / 3600)
    assert comparison["energy"] == {
        "kwh": pytest.approx(900 / 3.6e6), "low_kwh": pytest.approx(260 / 3.6e6), "high_kwh": pytest.approx(3500 / 3.6e6),
        "method": ESTIMATED, "grade": "D", "absent": [],
    }  # fmt: skip
    assert comparison["total"]["kwh"] == pytest.approx(5 * 900 / 3.6e6)
    assert comparison["total"]["frames"] == 250_000
    assert comparison["total"]["lost_frames"] == 2_000


def test_seeds_of_one_process_add_up_to_the_elapsed_time_of_the_process(results):
    for seed in range(4):
        write_run(
            results / "e" / "a" / f"seed{seed}", seed=seed, scores=[1.0], wall_s=3600.0, share=0.25, group_seeds=[0, 1, 2, 3]
        )
    (comparison,) = compare(results)
    assert comparison["wall_h"] == pytest.approx(1)
    assert comparison["total"]["wall_h"] == pytest.approx(1)
    assert "up to 4 seeds trained side by side" in comparison["notes"][0]


@pytest.mark.parametrize(
    ("changes", "differs", "label"),
    [
        ({"agent_config": CONFIG | {"n_step": 3}}, {"n_step": 3}, "dqn (n_step 3)"),
        ({"agent_config": CONFIG | {"optimiser": {"lr": 1e-4}}}, {"optimiser.lr": 1e-4}, "dqn (optimiser.lr 0.0001)"),
        ({"agent_config": CONFIG | {"noisy": True}}, {"noisy": True}, "dqn (noisy true)"),
        ({"budget": "2h-play"}, {"budget": "2h-play"}, "dqn (budget 2h-play)"),
        ({"env": replace(CARTPOLE, protocol="sticky")}, {"env.protocol": "sticky"}, "dqn (protocol sticky)"),
        ({"env": replace(CARTPOLE, max_episode_steps=200)}, {"env.max_episode_steps": 200}, "dqn (max_episode_steps 200)"),
    ],
)
def test_runs_with_another_setting_are_not_pooled_and_the_label_says_which(five_seeds, changes, differs, label):
    write_run(five_seeds / "CartPole-v1" / "dqn" / "seed5", seed=5, **changes)
    comparisons = {c["n_runs"]: c for c in compare(five_seeds)}
    assert set(comparisons) == {5, 1}
    assert comparisons[1]["differs"] == differs
    assert comparisons[1]["label"] == label
    assert comparisons[5]["label"] != "dqn"
    assert len({c["id"] for c in comparisons.values()}) == 2


def test_a_seed_in_the_agent_settings_does_not_separate_runs(results):
    for seed in range(2):
        write_run(results / "e" / "a" / f"seed{seed}", seed=seed, agent_config=CONFIG | {"seed": seed})
    assert len(compare(results)) == 1


def test_an_unfinished_run_is_shown_but_does_not_lower_the_score(five_seeds):
    write_run(five_seeds / "CartPole-v1" / "dqn" / "seed5", seed=5, scores=[9.0, 9.0, 9.0, 9.0], reached=0.5, status="running")
    result = summarise(five_seeds)
    (comparison,) = result["comparisons"]
    assert comparison["score"]["iqm"] == 300
    assert (comparison["n_runs"], comparison["n_unfinished"], comparison["finished"]) == (5, 1, True)
    assert comparison["unfinished"] == ["CartPole-v1/dqn/seed5"]
    assert comparison["total"]["frames"] == 275_000
    assert result["runs"][5]["status"] == "running"
    assert "seed 5 (running at step 25,000)" in comparison["notes"][0]


def test_where_no_run_is_finished_the_score_so_far_is_given_and_said(results):
    write_run(results / "e" / "a" / "seed0", scores=[7.0], status="running")
    (comparison,) = compare(results)
    assert comparison["score"]["iqm"] == 7
    assert comparison["finished"] is False
    assert comparison["notes"] == ["unfinished (running): score and cost so far"]


def test_the_same_seed_run_twice_is_no_second_seed(results):
    write_run(results / "e" / "a" / "seed0", scores=[10.0], started_utc="2026-01-01T00:00:00+00:00")
    write_run(results / "e" / "a" / "seed0-2", scores=[20.0], started_utc="2026-01-02T00:00:00+00:00")
    (comparison,) = compare(results)
    assert (comparison["runs"], comparison["repeats"]) == (["e/a/seed0-2"], ["e/a/seed0"])
    assert comparison["score"]["iqm"] == 20
    assert comparison["score"]["low"] is None
    assert comparison["total"]["frames"] == 100_000


def test_a_run_that_was_not_evaluated_has_no_score(results):
    (write_run(results / "e" / "a" / "seed0") / "evals.jsonl").unlink()
    result = summarise(results)
    assert result["comparisons"][0]["score"]["iqm"] is None
    assert result["comparisons"][0]["score"]["per_seed"] == {"0": None}
    assert result["runs"][0]["score"] is None
    assert result["runs"][0]["training_return_last_100"] == pytest.approx(sum(range(20, 120)) / 100)


def test_reaching_a_score_is_the_first_evaluation_there_and_the_median_over_seeds(results):
    curves = [[480.0, 100.0, 500.0, 500.0], [100.0, 475.0, 300.0, 500.0], [100.0, 200.0, 300.0, 474.0]]
    for seed, scores in enumerate(curves):
        write_run(results / "e" / "a" / f"seed{seed}", seed=seed, scores=scores, steps=40_000)
    reach = compare(results)[0]["frames_to_threshold"]["reward_threshold"]
    assert reach["per_seed_frames"] == {"0": 10_000, "1": 20_000, "2": None}
    assert (reach["n_reached"], reach["n"], reach["frames"]) == (2, 3, 20_000)
    assert reach["human_play_h"] == pytest.approx(20_000 / 50 / 3600)
    assert reach["kwh"] == pytest.approx(450 / 3.6e6)


def test_half_a_threshold_is_asked_only_where_it_means_something(results):
    write_run(results / "c" / "a" / "seed0")
    write_run(results / "m" / "a" / "seed0", env=MOUNTAINCAR)
    write_run(results / "b" / "a" / "seed0", env=BREAKOUT)
    asked = {c["env"]: {name: reach["score"] for name, reach in c["frames_to_threshold"].items()} for c in compare(results)}
    assert asked["CartPole-v1"] == {"reward_threshold": 475, "half_threshold": 237.5}
    assert asked["MountainCar-v0"] == {"reward_threshold": -110}
    assert asked["ALE/Breakout-v5"] == {"human": 30.5, "half_human": pytest.approx(16.1)}


def test_a_sum_is_measured_only_if_every_run_and_source_is(results):
    measured, estimated = (Energy(10.0, 9.0, 11.0, method) for method in (MEASURED, ESTIMATED))
    for seed, cpu in enumerate([measured, estimated]):
        write_run(
            results / "e" / "a" / f"seed{seed}", seed=seed, device=GPU, energy={"gpu_board": measured, "cpu_package": cpu}
        )
    (comparison,) = compare(results)
    assert (comparison["energy"]["method"], comparison["energy"]["grade"]) == (ESTIMATED, "C")


def test_energy_that_one_seed_lacks_is_not_averaged_over_the_others(results):
    write_run(results / "e" / "a" / "seed0")
    write_run(results / "e" / "a" / "seed1", seed=1, energy={"cpu_package": Energy(0, 0, 0, ABSENT)})
    result = summarise(results, price=0.3)
    energy = result["comparisons"][0]["energy"]
    assert (energy["kwh"], energy["method"], energy["grade"], energy["absent"]) == (None, ABSENT, None, ["cpu_package"])
    assert result["runs"][1]["energy"]["joules"] is None
    assert result["runs"][1]["energy"]["by_source"]["cpu_package"]["joules"] is None
    assert result["runs"][1]["cost_usd"] is None


def test_a_run_carries_every_ledger_total(five_seeds):
    run = summarise(five_seeds, price=0.5)["runs"][4]
    assert (run["id"], run["seed"], run["status"], run["comparison"]) == (
        "CartPole-v1/dqn/seed4",
        4,
        "finished",
        "CartPole-v1/control/dqn",
    )
    assert (run["frames"], run["consumed"]["frames"], run["lost_frames"], run["eval_frames"], run["boot_frames"]) == (
        50_000,
        50_400,
        400,
        8000,
        0,
    )
    assert run["flops"] == {"act": 2e11, "update": 1.7e12, "eval": 1e11, "total": 2e12}
    assert (run["energy"]["joules"], run["energy"]["low_j"], run["energy"]["high_j"]) == (900, 260, 3500)
    assert run["cost_usd"] == pytest.approx(900 / 3.6e6 * 0.5)
    assert run["brain_h"] == pytest.approx(900 / 20 / 3600)
    assert run["params_sha256"] == "ab" * 32
    assert run["gpu_busy_s"] is None
    assert run["score"] == 500


def test_no_physical_time_is_null_with_its_reason(results):
    write_run(results / "e" / "a" / "seed0", env=MOUNTAINCAR)
    result = summarise(results)
    for entry in (result["runs"][0], result["comparisons"][0]):
        assert entry["human_play_h"] is None
        assert entry["human_play_reason"] == "the task has no physical time"


def test_the_documented_names_are_the_written_ones(five_seeds):
    """Every key of the summary stands in the module's docstring."""
    result = summarise(five_seeds)
    documented = summary.__doc__.replace(",", " ").replace("{", " ").replace("}", " ").replace("[", " ").split()
    for entry in (
        result,
        result["runs"][0],
        result["comparisons"][0],
        result["comparisons"][0]["score"],
        result["comparisons"][0]["total"],
    ):
        assert set(entry) <= set(documented)


def test_a_number_that_json_cannot_hold_becomes_text(results):
    write_run(results / "e" / "a" / "seed0", agent_config=CONFIG | {"clip": float("inf")})
    text = json.dumps(summarise(results), allow_nan=False)
    assert json.loads(text)["runs"][0]["agent_config"]["clip"] == "inf"
