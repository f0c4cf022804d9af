"""The committed summaries of trainings that take longer than a sitting: what is new is added, what was there stays."""

from __future__ import annotations

from typing import Any

from tests.slow.reproduction import merged, over_games, small


def summary(*comparisons: tuple[str, float], machine: str = "a", unfinished: str = "") -> dict[str, Any]:
    """As the report gives it, one run a comparison."""
    names = [name for name, _ in comparisons]
    return {
        "schema": 1,
        "generated_utc": f"of {machine}",
        "suites": [],
        "comparisons": [
            {"id": name, "finished": name != unfinished, "runs": [f"{name}/0"], "score": score} for name, score in comparisons
        ],
        "runs": [
            {
                "id": f"{name}/0",
                "machine": machine,
                "versions": {},
                "git_commit": "c",
                "params_sha256": f"hash of {name} on {machine}",
            }
            for name in names
        ],
    }


def test_a_second_sitting_adds_its_comparisons_and_keeps_the_first() -> None:
    first, second = small(summary(("dqn", 1.0), ("c51", 2.0))), small(summary(("rainbow", 3.0), machine="b"))
    both = merged(first, second)
    assert [(one["id"], one["score"]) for one in both["comparisons"]] == [("c51", 2.0), ("dqn", 1.0), ("rainbow", 3.0)]
    assert [one["machine"] for one in both["machines"]] == ["a", "b"]
    assert list(both["params_sha256"]) == ["c51/0", "dqn/0", "rainbow/0"]
    assert both["generated_utc"] == "of b"


def test_a_comparison_that_was_made_anew_replaces_the_old_one() -> None:
    both = merged(small(summary(("dqn", 1.0))), small(summary(("dqn", 5.0), machine="b")))
    assert [one["score"] for one in both["comparisons"]] == [5.0]
    assert both["params_sha256"] == {"dqn/0": "hash of dqn on b"}


def test_what_is_not_finished_replaces_nothing_and_brings_no_machine() -> None:
    """The training of dqn was begun again on another machine and is under way."""
    before = small(summary(("dqn", 1.0)))
    both = merged(before, small(summary(("dqn", 9.0), machine="b", unfinished="dqn")))
    assert both == before | {"generated_utc": "of b"}


def test_the_first_sitting_has_nothing_to_keep() -> None:
    now = small(summary(("dqn", 1.0)))
    assert merged({}, now) == now


def over_three_games(machine: str, games: str = "xyz") -> dict[str, Any]:
    """One agent on that many games; what was published of it lies a tenth above."""
    found = summary(*((game, 1.0) for game in games), machine=machine)
    ours = {"mean": 0.2, "median": 0.3, "iqm_of_means": 0.25}
    suite = {
        "games": list(games), "normalised": "human-normalised", "comparisons": {"der": list(games)}, "aggregates": {"der": ours},
        "published": [{"agent": "DER", **{name: value + 0.1 for name, value in ours.items()}}, {"agent": "SPR", **ours}],
    }  # fmt: skip
    return found | {"suites": [suite]}


def test_what_is_said_over_games_is_of_finished_ones_and_of_the_most_that_a_sitting_had() -> None:
    first, second = small(over_three_games("a", "vwxyz")), small(over_three_games("b"))
    assert merged(first, second)["suites"] == first["suites"]
    assert merged(second, first)["suites"] == first["suites"]
    under_way = over_three_games("a")
    under_way["comparisons"][0]["finished"] = False
    assert small(under_way)["suites"] == []
    (line,) = over_games(second["suites"])
    assert line == (
        "\nOver 3 games, human-normalised scores: `der`: mean 0.200, median 0.300, IQM of the games' means 0.250; "
        "DER: mean 0.300, median 0.400, IQM of the games' means 0.350."
    )
