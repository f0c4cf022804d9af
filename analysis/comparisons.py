"""Runs that differ in nothing but the seed, pooled: their score, what one of them cost, and what each level took.

What a comparison holds is described, name by name, at the top of analysis/summary.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from analysis import across, convert, curves, statistics, tables
from analysis.convert import ANYWHERE, Rates
from analysis.tables import Run
from runs import schema

SAME_LENGTH = 0.9  # runs of an unknown budget whose last scores lie further apart than this were not trained equally long


def group(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that may be pooled, in the order of environment, protocol and agent."""
    groups: dict[str, list[Run]] = {}
    ordered = sorted(
        runs, key=lambda run: (run.record.env.id, run.record.env.protocol, run.record.agent, run.record.seed, run.id)
    )
    for run in ordered:
        groups.setdefault(tables.comparison_key(run), []).append(run)
    return list(groups.values())


def compare(runs: Sequence[Run], seeds: Mapping[str, curves.Seed], at: Rates = ANYWHERE) -> list[dict[str, Any]]:
    groups = group(runs)
    differences = _differences([members[0] for members in groups])
    ids = _comparison_ids([members[0].record for members in groups])
    return [_compare(*args, seeds, at) for args in zip(groups, ids, differences, strict=True)]


def _differences(runs: list[Run]) -> list[dict[str, Any]]:
    """For each comparison the settings in which it differs from another of the same environment and agent."""
    differences = []
    for run in runs:
        mine, name = tables.run_settings(run), (run.record.env.id, run.record.agent)
        others = [tables.run_settings(other) for other in runs if (other.record.env.id, other.record.agent) == name]
        names = sorted({setting for other in others for setting in tables.differing(mine, other)})
        differences.append({setting: mine.get(setting) for setting in names})
    return differences


def _comparison_ids(records: list[schema.RunRecord]) -> list[str]:
    ids: list[str] = []
    for record in records:
        base = f"{record.env.id}/{record.env.protocol}/{record.agent}"
        ids.append(base if base not in ids else f"{base}-{1 + sum(i == base or i.startswith(base + '-') for i in ids)}")
    return ids


def _compare(
    members: list[Run], comparison_id: str, differs: dict[str, Any], seeds: Mapping[str, curves.Seed], at: Rates
) -> dict[str, Any]:
    runs, unfinished, repeats = pool(members)
    record = runs[0].record
    table = tables.runs_table(runs)
    mean = _aggregate(table, "mean")
    return {
        "id": comparison_id, "label": across.label(record.agent, differs, runs[0].returns), "env": record.env.id, "agent": record.agent,
        "protocol": record.env.protocol, "budget": record.budget, "differs": differs,
        "n_runs": len(runs), "seeds": [run.record.seed for run in runs], "runs": [run.id for run in runs],
        "finished": all(run.total.status == schema.FINISHED for run in runs),
        "n_unfinished": len(unfinished), "unfinished": [run.id for run in unfinished], "repeats": [run.id for run in repeats],
        "score": _score(runs), "returns": runs[0].returns, "imported": (record.imported or {}).get("format"),
        "frames": mean["frames"], "steps": mean["steps"], "updates": mean["updates"], "eval_frames": mean["eval_frames"],
        "human_play_h": mean["human_play_h"], "human_play_reason": tables.no_play(runs[0]),
        "wall_h": convert.hours(mean["wall_s"]), "gpu_h": convert.hours(mean["gpu_allocated_s"]), "cpu_h": convert.hours(mean["cpu_s"]),
        "flops": mean["flops"], **convert.meaning(tables.kwh(mean), at), **convert.rent(convert.hours(mean["gpu_allocated_s"]), at),
        "energy": tables.kwh(mean) | _pooled_method(runs),
        "frames_to_threshold": {name: reach(runs, score, seeds, at) for name, score in _thresholds(record.env).items()},
        "total": _total(_aggregate(tables.runs_table(members), "sum"), at) | {"method": _pooled_method(members)["method"]},
        "short_window": any(table["short_window"]), "notes": _notes(runs, unfinished, repeats),
    }  # fmt: skip


def pool(members: Sequence[Run]) -> tuple[list[Run], list[Run], list[Run]]:
    """(pooled, unfinished, repeats). Repeats of a seed are no independent evidence: of each seed the finished run counts, and of
    those the newest. A run that stopped half-way would lower both score and cost, so it is pooled only where none is finished."""
    best: dict[int, Run] = {}
    for run in sorted(members, key=lambda run: (run.total.status == schema.FINISHED, run.record.started_utc)):
        best[run.record.seed] = run
    chosen = [best[seed] for seed in sorted(best)]
    finished = [run for run in chosen if run.total.status == schema.FINISHED]
    pooled = finished or chosen
    return pooled, [run for run in chosen if run not in pooled], [run for run in members if run not in chosen]


def _aggregate(table: pl.DataFrame, how: str) -> dict[str, Any]:
    """Mean or sum of every number; null if one run lacks it, for a sum over the others would pass as the sum over all."""
    numbers = [name for name, kind in table.schema.items() if kind.is_numeric() and name != "seed"]
    return {name: None if table[name].null_count() else getattr(table[name], how)() for name in numbers}


def _pooled_method(runs: list[Run]) -> dict[str, Any]:
    grades = [tables.energy_grade(run) for run in runs]
    worst = None if None in grades else max(grade for grade in grades if grade)
    absent = sorted({source for run in runs for source in tables.absent_energy(run)})
    return {"method": tables.method_of_all(map(tables.energy_method, runs)), "grade": worst, "absent": absent}


def _score(runs: list[Run]) -> dict[str, Any]:
    """Mean return of the last evaluation, over seeds."""
    last = {run.record.seed: run.evals.row(-1, named=True) for run in runs if len(run.evals)}
    values = np.array([line["score"] for line in last.values()])
    if not len(values):
        nothing = dict.fromkeys(["estimator", "iqm", "low", "high", "mean", "at_steps", "human_normalised"])
        return nothing | {"confidence": statistics.CONFIDENCE, "n": 0, "per_seed": {str(run.record.seed): None for run in runs}}
    interval = statistics.bootstrap_iqm([values])
    centre, human = float(statistics.iqm(values)), convert.atari_scores(runs[0].record.env.id)
    return {
        "estimator": statistics.estimator(len(values)), "iqm": centre, "mean": float(values.mean()),
        "low": interval.low if interval else None, "high": interval.high if interval else None,
        "confidence": statistics.CONFIDENCE, "n": len(values),
        "per_seed": {str(run.record.seed): last[run.record.seed]["score"] if len(run.evals) else None for run in runs},
        "at_steps": _range([tables.whole(line["steps"]) for line in last.values()]),
        "human_normalised": human.normalise(centre) if human else None,
    }  # fmt: skip


def _range(steps: list[int | None]) -> dict[str, int] | None:
    known = [number for number in steps if number is not None]
    return {"min": min(known), "max": max(known)} if known and len(known) == len(steps) else None


def _thresholds(env: schema.EnvRecord) -> dict[str, float]:
    """Scores worth asking for: gymnasium's threshold and half of it (where half of a positive score means something), on Atari
    the score of the human tester and half the way to it."""
    thresholds: dict[str, float] = {}
    if env.reward_threshold is not None:
        thresholds["reward_threshold"] = env.reward_threshold
        if env.reward_threshold > 0:
            thresholds["half_threshold"] = env.reward_threshold / 2
    if human := convert.atari_scores(env.id):
        thresholds |= {"human": human.human, "half_human": human.at(0.5)}
    return thresholds


def reach(runs: list[Run], score: float, all_seeds: Mapping[str, curves.Seed], at: Rates) -> dict[str, Any]:
    """What each seed had spent at its first evaluation that reached ``score``, and the median over seeds."""
    by_seed: dict[int, dict[str, float]] = {}
    for run in runs:
        if run.id in all_seeds and (reached := all_seeds[run.id]["score"] >= score).any():
            by_seed[run.record.seed] = {name: float(values[reached.argmax()]) for name, values in all_seeds[run.id].items()}
    seeds = [run.record.seed for run in runs]

    def median(column: str) -> float | None:
        if any(column not in row for row in by_seed.values()):
            return None
        return statistics.median_reached([by_seed[seed][column] if seed in by_seed else None for seed in seeds])

    wall_s, kwh = median("wall_s"), tables.kwh({name: median(name) for name in ("joules", "low_j", "high_j")})
    return {
        "score": score, "n_reached": len(by_seed), "n": len(seeds), "frames": median("frames"), "steps": median("steps"),
        "human_play_h": median("human_play_h"), "flops": median("flops"),
        "wall_h": None if wall_s is None else wall_s / 3600, "gpu_h": median("gpu_h"),
        **kwh, **convert.meaning(kwh, at), **convert.rent(median("gpu_h"), at),
        "per_seed_frames": {str(seed): by_seed.get(seed, {}).get("frames") for seed in seeds},
    }  # fmt: skip


def _total(total: dict[str, Any], at: Rates) -> dict[str, Any]:
    kwh = tables.kwh(total)
    return {
        "frames": total["frames"], "consumed_frames": total["consumed_frames"], "lost_frames": total["lost_frames"],
        "eval_frames": total["eval_frames"],
        "human_play_h": total["human_play_h"], "wall_h": convert.hours(total["process_wall_s"]),
        "gpu_h": convert.hours(total["gpu_allocated_s"]), "cpu_h": convert.hours(total["cpu_s"]), **kwh, "flops": total["flops"],
        **convert.meaning(kwh, at), **convert.rent(convert.hours(total["gpu_allocated_s"]), at),
    }  # fmt: skip


def _notes(runs: list[Run], unfinished: list[Run], repeats: list[Run]) -> list[str]:
    """What a reader must know before comparing."""
    notes = []
    if origin := runs[0].record.imported:
        notes.append(f"imported from {origin.get('format')}: only what its files say is known")
    if any(schema.REPORTED in run.total.energy for run in runs):
        notes.append("energy as reported by whoever ran it: neither its source nor its interval is known")
    if any(schema.WALL_METER in schema.present(run.total.energy) and len(run.evals) for run in runs):
        notes.append(
            "energy before the end of a run: the wall meter's, shared out by time and by what the other sources counted"
        )
    if runs[0].returns != schema.EVALUATION:
        notes.append(f"score: {across.RETURNS[runs[0].returns]}")
    if lengths := _unequal_lengths(runs):
        notes.append(lengths)
    if unfinished:
        named = ", ".join(f"{run.record.seed} ({run.total.status}{_at_step(run)})" for run in unfinished)
        notes.append(f"unfinished, in the curves but not in score and cost: seed {named}")
    elif statuses := sorted({run.total.status for run in runs} - {schema.FINISHED}):
        notes.append(f"unfinished ({', '.join(statuses)}): score and cost so far")
    if silent := [str(run.record.seed) for run in runs if not len(run.evals)]:
        notes.append(f"not evaluated yet: seed {', '.join(silent)}")
    if repeats:
        notes.append(f"run again with the same seed, not pooled: {', '.join(run.id for run in repeats)}")
    devices = {str(run.record.device.get("name") or run.record.device.get("type")) for run in runs}
    if len(devices) > 1:
        notes.append(f"seeds ran on different devices: {', '.join(sorted(devices))}")
    if any(run.record.share < 1 for run in runs):
        together = max(len(run.record.group_seeds) for run in runs)
        what = "seeds of several games" if any(run.record.group_envs for run in runs) else "seeds"
        notes.append(
            f"up to {together} {what} trained side by side in one process; each bears its share of energy and device time"
        )
    return notes


def _unequal_lengths(runs: list[Run]) -> str | None:
    """Imports may not know their budget, and then runs of any length share a comparison."""
    at = _range([tables.whole(run.evals["steps"][-1]) for run in runs if len(run.evals)])
    if runs[0].record.budget != schema.UNKNOWN or at is None or at["min"] >= SAME_LENGTH * at["max"]:
        return None
    return f"trained unequally long: the last scores are at {at['min']:,} to {at['max']:,} steps"


def _at_step(run: Run) -> str:
    return "" if run.total.lineage.steps is None else f" at step {run.total.lineage.steps:,}"
