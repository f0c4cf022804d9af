"""The machine-readable summary of a set of run folders: what ``playmeter report --json`` writes.

docs/json.md describes ``environments`` and ``suites``. Units stand in the names. ``null`` is what is not known or does not apply; it is never written as 0.

    schema              1; grows when a name changes its meaning
    playmeter           version, null where the package is not installed
    generated_utc       ISO 8601
    price_usd_per_kwh   as given, or null
    runs                one object a run folder
    comparisons         one object for runs of one environment and agent that may be pooled: same environment record (protocol
                        included), same agent settings, same budget, different seeds
    environments        one object for each environment record: agents that may be compared, see docs/json.md
    suites              one object for each protocol on which agents played the same games: statistics over games, see docs/json.md
    landmarks           [{name, year, play_years, energy_kwh, flops, source}]: well-known systems
    left_out            [{id, reason}]: folders that hold a run.json and could not be read

A run:

    id, agent, env, protocol, seed, share, budget, status, comparison (id of the comparison it belongs to), started_utc
                                              status: running, finished, interrupted, failed, or killed (see schema.after_kill)
    frames, steps, updates, episodes          lineage: what the surviving agent learned from
    consumed {frames, steps, updates, episodes}   thrown-away work included
    lost_frames                               consumed - lineage
    eval_frames, boot_frames
    human_play_h, human_play_reason           lineage frames in real time; the reason where it is null
    wall_s, active_s {phase: s}, cpu_s, gpu_allocated_s, gpu_busy_s, cpu_h, gpu_h, wall_h
                                              cpu, gpu, energy: this run's share of its process; wall: elapsed
    energy {joules, low_j, high_j, kwh, low_kwh, high_kwh, method, grade, absent [source], by_source {source: {joules, low_j, high_j, method, samples}}, notes [text]}
    brain_h, cost_usd
    flops {act, update, eval, total}
    peak_rss_bytes, peak_cuda_bytes (reserved), peak_cuda_allocated_bytes, params_sha256
    score, score_at_steps                     mean return of the last evaluation
    returns                                   what the scores are returns of: evaluation; of an import also training, or unknown
    imported                                  null, or of an import {format, files, sha256, env as its files name it, seed, frames, steps: how got}
    training_return_last_100                  mean return of the last (at most) 100 training episodes
    short_window                              under 60 s or 60 readings of a sensor: its energy is uncertain
    git_commit, versions, machine, device, agent_config, env_record

A comparison. Scores and costs are those of its finished runs (of all, where none is finished), costs as the mean over runs: what
training ONE seed cost. ``total`` is the sum over everything that was spent, unfinished runs and repeats included:

    id, label, env, agent, protocol, budget, differs {setting: value}   settings in which it differs from others of that name
    n_runs, seeds, runs [id]                  the runs that are pooled
    finished                                  whether they are finished
    n_unfinished, unfinished [id]             runs beside them that did not finish: in the curves, not in scores and costs
    repeats [id]                              runs of a seed that was run again: shown, not pooled
    score {estimator, iqm, low, high, mean, confidence, n, per_seed {seed: score}, at_steps {min, max}, human_normalised}
                                              interval null with one seed; iqm equals the mean below 4 seeds
    returns, imported                         as of a run; imported is the format alone
    frames, steps, updates, human_play_h, human_play_reason, wall_h, gpu_h, cpu_h, flops, brain_h, cost_usd
    energy {kwh, low_kwh, high_kwh, method, grade, absent}
    frames_to_threshold {reward_threshold | half_threshold | human | half_human: {score, n_reached, n, frames, steps, human_play_h,
                         wall_h, gpu_h, kwh, low_kwh, high_kwh, brain_h, cost_usd, flops, per_seed_frames}}
                                              at the first evaluation that reached it; median over seeds, one that never did
                                              counting as the most expensive
    total {frames, consumed_frames, lost_frames, human_play_h, wall_h, gpu_h, cpu_h, kwh, low_kwh, high_kwh, flops, cost_usd}
                                              wall_h: seeds that train in one process at the same time count once
    short_window, notes [text]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import polars as pl

from analysis import across, convert, curves, landmarks, published, statistics, tables
from analysis.tables import LeftOut, Run
from runs import schema

SUMMARY_SCHEMA = 1

# What scores that are no evaluations are called.
SAME_LENGTH = 0.9  # runs of an unknown budget whose last scores lie further apart than this were not trained equally long


def summarise(runs: Sequence[Run], left_out: Sequence[LeftOut], price_usd_per_kwh: float | None = None) -> dict[str, Any]:
    """The whole summary, plain data that JSON can hold. See the top of this file for its names."""
    seeds = curves.of_runs(runs)
    comparisons = compare(runs, seeds, price_usd_per_kwh)
    of_run = {run_id: c["id"] for c in comparisons for run_id in [*c["runs"], *c["unfinished"], *c["repeats"]]}
    training = training_returns(runs)
    summary = {
        "schema": SUMMARY_SCHEMA,
        "playmeter": _version(),
        "generated_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "price_usd_per_kwh": price_usd_per_kwh,
        "runs": [_run(run, row, of_run[run.id], training.get(run.id), price_usd_per_kwh) for run, row in _with_rows(runs)],
        "comparisons": comparisons,
        "environments": environments(runs, comparisons, seeds, price_usd_per_kwh),
        "suites": across.suites(comparisons, env_records(runs, comparisons), seeds),
        "landmarks": [
            {
                "name": it.system,
                "year": it.year,
                "play_years": it.play_years,
                "energy_kwh": it.energy_kwh,
                "flops": it.flop,
                "source": it.source,
            }
            for it in landmarks.landmarks()
            if it.system in landmarks.FAMOUS
        ],
        "left_out": [asdict(entry) for entry in left_out],
    }
    finite: dict[str, Any] = _finite(summary)
    return finite


def env_records(runs: Sequence[Run], comparisons: Sequence[dict[str, Any]]) -> dict[str, schema.EnvRecord]:
    """The environment of each comparison, by its id."""
    by_id = {run.id: run for run in runs}
    return {c["id"]: by_id[c["runs"][0]].record.env for c in comparisons}


def environments(
    runs: Sequence[Run], comparisons: Sequence[dict[str, Any]], seeds: Mapping[str, curves.Seed], price: float | None
) -> list[dict[str, Any]]:
    """What agents on one environment record can be compared by. Scores under two protocols are never in one entry."""
    by_id = {run.id: run for run in runs}
    groups: dict[schema.EnvRecord, list[dict[str, Any]]] = {}
    for c in comparisons:
        groups.setdefault(by_id[c["runs"][0]].record.env, []).append(c)
    return [_environment(env, members, by_id, seeds, price) for env, members in groups.items()]


def _environment(
    env: schema.EnvRecord,
    comparisons: list[dict[str, Any]],
    by_id: Mapping[str, Run],
    seeds: Mapping[str, curves.Seed],
    price: float | None,
) -> dict[str, Any]:
    scale = across.normaliser(env)
    longest = max(c["frames"] or 0 for c in comparisons)
    return {
        "env": env.id, "protocol": env.protocol, "env_record": asdict(env), "comparisons": [c["id"] for c in comparisons],
        "normalised": None if scale is None else dict(zip(("name", "zero", "one"), scale, strict=True)),
        "equal_budgets": across.equal_budgets(comparisons, seeds), "frontier": _frontiers(comparisons, by_id, seeds, price),
        "published": [asdict(each) for each in published.neighbours(env, longest)],
    }  # fmt: skip


def _frontiers(
    comparisons: list[dict[str, Any]], by_id: Mapping[str, Run], seeds: Mapping[str, curves.Seed], price: float | None
) -> list[dict[str, Any]]:
    """The frontier for each level of the environment, and for the best score that every agent reached."""
    levels = {
        name: {c["id"]: c["frames_to_threshold"][name] for c in comparisons} for name in comparisons[0]["frames_to_threshold"]
    }
    if (common := across.common_score(comparisons, seeds)) is not None:
        levels["common"] = {c["id"]: _reach([by_id[run] for run in c["runs"]], common, seeds, price) for c in comparisons}
    made = [across.frontier(name, next(iter(reached.values()))["score"], reached) for name, reached in levels.items()]
    return [entry for entry in made if entry is not None]


def training_returns(runs: Sequence[Run], last: int = 100) -> dict[str, float]:
    """Mean return of the last training episodes of each run that has any."""
    return {run.id: float(run.episodes["r"].tail(last).mean()) for run in runs if len(run.episodes)}  # type: ignore[arg-type]


def _with_rows(runs: Sequence[Run]) -> list[tuple[Run, dict[str, Any]]]:
    return list(zip(runs, tables.runs_table(runs).to_dicts(), strict=True))


def _run(run: Run, row: dict[str, Any], comparison: str, training: float | None, price: float | None) -> dict[str, Any]:
    record, total = run.record, run.total
    last = run.evals.row(-1, named=True) if len(run.evals) else None
    return {
        "id": run.id, "agent": record.agent, "env": record.env.id, "protocol": record.env.protocol, "seed": record.seed,
        "share": record.share, "budget": record.budget, "status": total.status, "comparison": comparison,
        "started_utc": record.started_utc, **asdict(total.lineage), "consumed": asdict(total.consumed),
        "lost_frames": row["lost_frames"], "eval_frames": total.eval_frames, "boot_frames": total.boot_frames,
        "human_play_h": row["human_play_h"], "human_play_reason": _no_play(run),
        "wall_s": total.wall_s, "active_s": total.active_s, "cpu_s": total.cpu_s,
        "gpu_allocated_s": total.gpu_allocated_s, "gpu_busy_s": total.gpu_busy_s,
        "cpu_h": convert.hours(total.cpu_s), "gpu_h": convert.hours(total.gpu_allocated_s), "wall_h": convert.hours(total.wall_s),
        "energy": _run_energy(run, row), **_energy_meaning(row["joules"], price),
        "flops": asdict(total.flops) | {"total": total.flops.total},
        "peak_rss_bytes": total.peak_rss_bytes, "peak_cuda_bytes": total.peak_cuda_bytes,
        "peak_cuda_allocated_bytes": total.peak_cuda_allocated_bytes, "params_sha256": total.params_sha256,
        "returns": run.returns, "imported": record.imported,
        "score": last["score"] if last else None, "score_at_steps": _whole(last["steps"]) if last else None,
        "training_return_last_100": training, "short_window": row["short_window"],
        "git_commit": record.git_commit, "versions": record.versions, "machine": record.machine, "device": record.device,
        "agent_config": record.agent_config, "env_record": asdict(record.env),
    }  # fmt: skip


def _run_energy(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "joules": row["joules"], "low_j": row["low_j"], "high_j": row["high_j"], **_kwh(row),
        "method": tables.energy_method(run), "grade": tables.energy_grade(run), "absent": tables.absent_energy(run),
        "by_source": {name: _source(energy) for name, energy in run.total.energy.items()}, "notes": run.total.notes,
    }  # fmt: skip


def _source(energy: schema.Energy) -> dict[str, Any]:
    if energy.method == schema.ABSENT:
        return {"joules": None, "low_j": None, "high_j": None, "method": schema.ABSENT, "samples": None}
    return asdict(energy)


def _kwh(row: dict[str, Any]) -> dict[str, float | None]:
    return {"kwh": convert.kwh(row["joules"]), "low_kwh": convert.kwh(row["low_j"]), "high_kwh": convert.kwh(row["high_j"])}


def _energy_meaning(joules: float | None, price: float | None) -> dict[str, float | None]:
    """What an energy means to a person: the one place where converters of joules enter the summary."""
    return {
        "brain_h": None if joules is None else convert.brain_h(joules),
        "cost_usd": convert.cost_usd(convert.kwh(joules), price),
    }


def _no_play(run: Run) -> str | None:
    if run.record.env.frame_rate_hz is None:
        return convert.NO_PHYSICAL_TIME if run.record.env.kind != "other" else "the real-time rate of the task is not known"
    return "its frames were not counted" if run.total.lineage.frames is None else None


def group(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that may be pooled, in the order of environment, protocol and agent."""
    groups: dict[str, list[Run]] = {}
    ordered = sorted(
        runs, key=lambda run: (run.record.env.id, run.record.env.protocol, run.record.agent, run.record.seed, run.id)
    )
    for run in ordered:
        groups.setdefault(tables.comparison_key(run), []).append(run)
    return list(groups.values())


def compare(runs: Sequence[Run], seeds: Mapping[str, curves.Seed], price: float | None = None) -> list[dict[str, Any]]:
    groups = group(runs)
    differences = _differences([members[0] for members in groups])
    ids = _comparison_ids([members[0].record for members in groups])
    return [_compare(*args, seeds, price) for args in zip(groups, ids, differences, strict=True)]


def _differences(runs: list[Run]) -> list[dict[str, Any]]:
    """For each comparison the settings in which it differs from another of the same environment and agent."""
    differences = []
    for run in runs:
        mine, name = tables.run_settings(run), (run.record.env.id, run.record.agent)
        others = [tables.run_settings(other) for other in runs if (other.record.env.id, other.record.agent) == name]
        names = sorted({setting for other in others for setting in _differing(mine, other)})
        differences.append({setting: mine.get(setting) for setting in names})
    return differences


def _differing(mine: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Of two imports, or of a run and an import, the settings that both have: that one was not told its settings is no difference."""
    names = mine.keys() | other.keys()
    if "imported" in names:
        names = (mine.keys() & other.keys()) | {"imported"}
    return {name for name in names if mine.get(name) != other.get(name)}


def _comparison_ids(records: list[schema.RunRecord]) -> list[str]:
    ids: list[str] = []
    for record in records:
        base = f"{record.env.id}/{record.env.protocol}/{record.agent}"
        ids.append(base if base not in ids else f"{base}-{1 + sum(i == base or i.startswith(base + '-') for i in ids)}")
    return ids


def _compare(
    members: list[Run], comparison_id: str, differs: dict[str, Any], seeds: Mapping[str, curves.Seed], price: float | None
) -> dict[str, Any]:
    runs, unfinished, repeats = _pool(members)
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
        "frames": mean["frames"], "steps": mean["steps"], "updates": mean["updates"],
        "human_play_h": mean["human_play_h"], "human_play_reason": _no_play(runs[0]),
        "wall_h": convert.hours(mean["wall_s"]), "gpu_h": convert.hours(mean["gpu_allocated_s"]), "cpu_h": convert.hours(mean["cpu_s"]),
        "flops": mean["flops"], **_energy_meaning(mean["joules"], price),
        "energy": _kwh(mean) | _pooled_method(runs),
        "frames_to_threshold": {name: _reach(runs, score, seeds, price) for name, score in _thresholds(record.env).items()},
        "total": _total(_aggregate(tables.runs_table(members), "sum"), price),
        "short_window": any(table["short_window"]), "notes": _notes(runs, unfinished, repeats),
    }  # fmt: skip


def _pool(members: list[Run]) -> tuple[list[Run], list[Run], list[Run]]:
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
    methods = {tables.energy_method(run) for run in runs}
    grades = [tables.energy_grade(run) for run in runs]
    worst = None if None in grades else max(grade for grade in grades if grade)
    absent = sorted({source for run in runs for source in tables.absent_energy(run)})
    if schema.ABSENT in methods:
        method = schema.ABSENT
    else:
        method = schema.MEASURED if methods == {schema.MEASURED} else schema.ESTIMATED
    return {"method": method, "grade": worst, "absent": absent}


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
        "at_steps": _range([_whole(line["steps"]) for line in last.values()]),
        "human_normalised": human.normalise(centre) if human else None,
    }  # fmt: skip


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


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


def _reach(runs: list[Run], score: float, all_seeds: Mapping[str, curves.Seed], price: float | None) -> dict[str, Any]:
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

    joules, wall_s = median("joules"), median("wall_s")
    return {
        "score": score, "n_reached": len(by_seed), "n": len(seeds), "frames": median("frames"), "steps": median("steps"),
        "human_play_h": median("human_play_h"), "flops": median("flops"),
        "wall_h": None if wall_s is None else wall_s / 3600, "gpu_h": median("gpu_h"),
        **_kwh({"joules": joules, "low_j": median("low_j"), "high_j": median("high_j")}), **_energy_meaning(joules, price),
        "per_seed_frames": {str(seed): by_seed.get(seed, {}).get("frames") for seed in seeds},
    }  # fmt: skip


def _total(total: dict[str, Any], price: float | None) -> dict[str, Any]:
    return {
        "frames": total["frames"], "consumed_frames": total["consumed_frames"], "lost_frames": total["lost_frames"],
        "human_play_h": total["human_play_h"], "wall_h": convert.hours(total["process_wall_s"]),
        "gpu_h": convert.hours(total["gpu_allocated_s"]), "cpu_h": convert.hours(total["cpu_s"]), **_kwh(total), "flops": total["flops"],
        "cost_usd": convert.cost_usd(convert.kwh(total["joules"]), price),
    }  # fmt: skip


def _notes(runs: list[Run], unfinished: list[Run], repeats: list[Run]) -> list[str]:
    """What a reader must know before comparing."""
    notes = []
    if origin := runs[0].record.imported:
        notes.append(f"imported from {origin.get('format')}: only what its files say is known")
    if any(schema.REPORTED in run.total.energy for run in runs):
        notes.append("energy as reported by whoever ran it: neither its source nor its interval is known")
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
        notes.append(
            f"up to {together} seeds trained side by side in one process; each bears its share of energy and device time"
        )
    return notes


def _unequal_lengths(runs: list[Run]) -> str | None:
    """Imports may not know their budget, and then runs of any length share a comparison."""
    at = _range([_whole(run.evals["steps"][-1]) for run in runs if len(run.evals)])
    if runs[0].record.budget != schema.UNKNOWN or at is None or at["min"] >= SAME_LENGTH * at["max"]:
        return None
    return f"trained unequally long: the last scores are at {at['min']:,} to {at['max']:,} steps"


def _at_step(run: Run) -> str:
    return "" if run.total.lineage.steps is None else f" at step {run.total.lineage.steps:,}"


def _version() -> str | None:
    try:
        return metadata.version("playmeter")
    except metadata.PackageNotFoundError:
        return None


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity; a hand-made run.json may hold them, so they become text."""
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(name): _finite(entry) for name, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value
