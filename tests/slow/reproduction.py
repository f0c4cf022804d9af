"""Reproduce published scores: run the trainings, keep their small summaries, write the tables of docs/reproduction.md.

    python -m tests.slow.reproduction run classic --only CartPole-v1     # hours; a job whose runs are finished is not run again
    python -m tests.slow.reproduction summarise                          # results/reproduction/*  ->  docs/reproduction/*.json
    python -m tests.slow.reproduction tables                             # docs/reproduction/*.json  ->  docs/reproduction.md

A published figure is *inside* where it lies in the 95 % interval of ours; where its own spread over runs is known, the page says too
whether our mean lies within two standard deviations of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.report import write_report
from envs import SUITES as ENVS

ROOT = Path(__file__).resolve().parents[2]
PAGE, SUMMARIES = ROOT / "docs/reproduction.md", ROOT / "docs/reproduction"
DATA = ROOT / "analysis/data"
NAMES_100K = {"DER": "der", "DrQ(eps)": "drq_eps", "SPR": "spr"}  # as the tables call our agents
CLASSIC, MINATAR = ("dqn", "c51", "qrdqn", "iqn", "rainbow"), ("dqn", "rainbow")


@dataclass(frozen=True)
class Job:
    """One ``playmeter train``."""

    agent: str
    env: str
    budget: str
    seeds: int
    options: tuple[str, ...] = ()

    def command(self, out: str) -> list[str]:
        words = ["playmeter", "train", self.agent, self.env, "--budget", self.budget, "--seeds", str(self.seeds)]
        return [*words, *self.options, "--out", out]


def classic(env: str, budget: str) -> list[Job]:
    return [Job(agent, env, budget, 10, ("--evals", "10", "--eval-episodes", "20")) for agent in CLASSIC]


ATARI100K = ("--protocol", "atari100k", "--evals", "1")
SUITES = {
    "classic": [
        *classic("CartPole-v1", "50k-steps"),
        *classic("Acrobot-v1", "50k-steps"),
        *classic("LunarLander-v3", "150k-steps"),
    ],
    "minatar": [
        Job(agent, f"MinAtar/{game}-v1", "1M-steps", 5, ("--evals", "5", "--eval-episodes", "30"))
        for game in ("Breakout", "Asterix")
        for agent in MINATAR
    ],
    "atari100k": [
        Job("der", "ALE/MsPacman-v5", "100k-steps", 2, ATARI100K),
        Job("der", "ALE/RoadRunner-v5", "100k-steps", 2, ATARI100K),
        Job("drq_eps", "ALE/MsPacman-v5", "100k-steps", 1, ATARI100K),
    ],
    "atari26": [Job("der", game, "100k-steps", 1, ATARI100K) for game in ENVS["atari26"]],
    "spr": [Job("spr", f"ALE/{game}-v5", "100k-steps", 1, ATARI100K) for game in ("Breakout", "Boxing")],
    "kungfu": [Job("der", "ALE/KungFuMaster-v5", "100k-steps", 6, ATARI100K)],
    "kungfu-n10": [Job("der", "ALE/KungFuMaster-v5", "100k-steps", 5, (*ATARI100K, "--agent.n-step", "10"))],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "summarise", "tables"))
    parser.add_argument("suites", nargs="*", default=list(SUITES), metavar="suite", help=", ".join(SUITES))
    parser.add_argument("--only", help="run: part of an agent's or environment's name")
    parser.add_argument("--threads", help="run: CPU threads of torch")
    parser.add_argument("--results", type=Path, default=Path("results/reproduction"))
    asked = parser.parse_args()
    for suite in asked.suites:
        folder = asked.results / suite
        if asked.what == "run":
            run(suite, folder, asked.only or "", asked.threads)
        elif asked.what == "summarise" and folder.is_dir():
            path = SUMMARIES / f"{suite}.json"
            before = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps(merged(before, small(write_report([folder], None, None))), indent=1) + "\n")
    if asked.what == "tables":
        PAGE.write_text(with_tables(PAGE.read_text()))


def run(suite: str, folder: Path, only: str, threads: str | None) -> None:
    for job in SUITES[suite]:
        if only not in f"{job.agent} {job.env}" or finished(job, folder):
            continue
        command = [sys.executable, "-m", *job.command(str(folder)), *(("--threads", threads) if threads else ())]
        subprocess.run(command, check=True)


def finished(job: Job, folder: Path) -> bool:
    return len(list((folder / job.env / job.agent).glob("seed*/checkpoints/final.*"))) >= job.seeds


def small(summary: dict[str, Any]) -> dict[str, Any]:
    """What of a summary does not speak of the reader's machine or of all runs together, and only of finished comparisons."""
    done = [comparison for comparison in summary["comparisons"] if comparison["finished"]]
    of_done = {run_id for comparison in done for run_id in comparison["runs"]}
    runs = [run for run in summary["runs"] if run["id"] in of_done]
    return {
        "schema": summary["schema"],
        "generated_utc": summary["generated_utc"],
        "comparisons": done,
        "suites": [
            {name: suite[name] for name in ("games", "normalised", "comparisons", "aggregates", "published")}
            for suite in summary["suites"]
            if suite["aggregates"] and of_several_finished_games(suite, done)
        ],
        "machines": distinct([{key: run[key] for key in ("machine", "versions", "git_commit")} for run in runs]),
        "params_sha256": {run["id"]: run["params_sha256"] for run in runs},
    }


def of_several_finished_games(suite: dict[str, Any], done: list[dict[str, Any]]) -> bool:
    finished = {comparison["id"] for comparison in done}
    return len(suite["games"]) > 2 and all(finished.issuperset(ids) for ids in suite["comparisons"].values())


def merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The new summary with the old one's comparisons that it lacks: a suite takes longer than a sitting."""
    again = {comparison["id"] for comparison in now["comparisons"]}
    kept = [comparison for comparison in before.get("comparisons", []) if comparison["id"] not in again]
    return now | {
        "comparisons": sorted(kept + now["comparisons"], key=lambda comparison: str(comparison["id"])),
        "suites": max(now["suites"], before.get("suites", []), key=lambda suites: sum(len(suite["games"]) for suite in suites)),
        "machines": distinct(before.get("machines", []) + now["machines"]),
        "params_sha256": dict(sorted((before.get("params_sha256", {}) | now["params_sha256"]).items())),
    }


def distinct(records: list[Any]) -> list[Any]:
    return [json.loads(text) for text in sorted({json.dumps(record, sort_keys=True) for record in records})]


def with_tables(page: str) -> str:
    """The page with the text between each pair of markers made anew."""
    for suite, jobs in SUITES.items():
        path = SUMMARIES / f"{suite}.json"
        if not path.exists():
            continue
        before, _, rest = page.partition(f"<!-- {suite} -->\n")
        _, _, after = rest.partition(f"<!-- end of {suite} -->\n")
        summary = json.loads(path.read_text())
        table = "\n".join([*rows(jobs, summary["comparisons"]), *over_games(summary.get("suites", []))])
        page = f"{before}<!-- {suite} -->\n{table}\n<!-- end of {suite} -->\n{after}"
    return page


def rows(jobs: list[Job], comparisons: list[dict[str, Any]]) -> Iterator[str]:
    published = [*read("published_control"), *map(at_100k, read("published_100k"))]
    yield "| environment | agent | steps | seeds | IQM (95 %) | mean | published | steps, kind | inside? |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for job in jobs:
        found = [c for c in comparisons if (c["env"], c["agent"], c["budget"]) == (job.env, job.agent, job.budget)]
        ours = found[0] if found and found[0]["finished"] else None
        start = f"| {job.env} | {job.agent} | {job.budget.removesuffix('-steps')} | "
        if ours is None:
            yield f"{start}{job.seeds} | not run yet | | | | |"
            continue
        score = ours["score"]
        interval = "no interval" if score["low"] is None else f"{number(score['low'])} to {number(score['high'])}"
        start += f"{ours['n_runs']} of {job.seeds} | {number(score['iqm'])} ({interval}) | {number(score['mean'])} | "
        neighbours = [row for row in published if row["agent"] == job.agent and same_task(row["env"], job.env)]
        for row in neighbours:
            spread = f" ± {number(float(row['std']))} {row['std_kind']}" if row["std"] else ""
            figure = f"{row['published_as']}: {number(float(row['score']))}{spread}"
            yield f"{start}{figure} | {int(row['steps']):,}, {row['score_kind']} | {verdict(score, row)} |"
        if not neighbours:
            yield f"{start}none in our tables | | |"


def over_games(suites: list[dict[str, Any]]) -> Iterator[str]:
    """A line an agent on several games, beside what was published of it on the same ones."""
    for suite in suites:
        for agent, ours in suite["aggregates"].items():
            theirs = [e for e in suite["published"] if NAMES_100K.get(e["agent"]) == agent]
            said = [f"`{agent}`: {statistics_of(ours)}", *(f"{e['agent']}: {statistics_of(e)}" for e in theirs)]
            yield f"\nOver {len(suite['games'])} games, {suite['normalised']} scores: {'; '.join(said)}."


def statistics_of(e: dict[str, Any]) -> str:
    return f"mean {e['mean']:.3f}, median {e['median']:.3f}, IQM of the games' means {e['iqm_of_means']:.3f}"


def read(name: str) -> list[dict[str, str]]:
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def at_100k(row: dict[str, str]) -> dict[str, str]:
    """A row of the Atari table in the words of the control tasks'."""
    own = {"env": row["env_id"], "agent": NAMES_100K.get(row["agent"], ""), "published_as": row["agent"], "steps": "100000"}
    return row | own | {"score_kind": row["evaluation"], "std_kind": "over runs" if row["std"] else ""}


def same_task(published: str, ours: str) -> bool:
    return (
        published.removesuffix("-v2") == ours.removesuffix("-v3") if published.startswith("LunarLander") else published == ours
    )


def verdict(score: dict[str, Any], row: dict[str, str]) -> str:
    figure = float(row["score"])
    if score["low"] is None:
        place = f"one seed, {'higher' if score['mean'] > figure else 'lower'}"
    elif score["low"] <= figure <= score["high"]:
        place = "inside"
    else:
        place = f"ours is {'higher' if score['low'] > figure else 'lower'}"
    if row["std_kind"] != "over runs" or place == "inside":
        return place
    near = abs(score["mean"] - figure) <= 2 * float(row["std"])
    return f"{place}, {'within' if near else 'beyond'} two deviations"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
