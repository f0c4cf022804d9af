"""The machine-readable summary of a set of run folders: what ``playmeter report --json`` writes.

docs/json.md describes ``environments`` and ``suites``. Units stand in the names. ``null`` is what is not known or does not apply; it is never written as 0.

    schema              1; grows when a name changes its meaning
    playmeter           version, null where the package is not installed
    generated_utc       ISO 8601
    country, price_usd_per_kwh, price_usd_per_gpu_hour, pue   as given, or null
    grid                {g_per_kwh, low, high, place, year, source}: what CO2 is computed with; without a country the world mean with
                        the range of countries, else low and high null
    electricity         {usd, low, high, what, basis} of a kWh: what money is computed with; without a price that of a dated table
    gpu_hour            {usd, low, high, what, basis} of a GPU-hour, null where no price was asked for
    runs                one object a run folder
    comparisons         one object for runs of one environment and agent that may be pooled: same environment record (protocol
                        included), same agent settings, same budget, different seeds
    environments        one object for each environment record: agents that may be compared, see docs/json.md
    suites              one object for each set of two games or more, of one protocol: statistics over games, see docs/json.md
    landmarks           [{name, year, play_years, energy_kwh, flops, source}]: well-known systems
    left_out            [{id, reason}]: folders that hold a run.json and could not be read

A run:

    id, agent, env, protocol, seed, share, budget, status, comparison (id of the comparison it belongs to), started_utc
                                              status: running, finished, interrupted, failed, diverged, or killed (see schema.after_kill)
    frames, steps, updates, episodes          lineage: what the surviving agent learned from
    consumed {frames, steps, updates, episodes}   thrown-away work included
    lost_frames                               consumed - lineage
    eval_frames, boot_frames
    human_play_h, human_play_reason           lineage frames in real time; the reason where it is null
    wall_s, active_s {phase: s}, cpu_s, gpu_allocated_s, gpu_busy_s, cpu_h, gpu_h, wall_h
                                              cpu, gpu, energy: this run's share of its process; wall: elapsed
    energy {joules, low_j, high_j, kwh, low_kwh, high_kwh, method, grade, absent [source], by_source {source: {joules, low_j, high_j, method, samples, most_w}}, notes [text]}
    co2_kg, low_co2_kg, high_co2_kg, cost_usd, low_cost_usd, high_cost_usd, brain_h, coffees
                                              what the energy means; intervals hold those of energy and rate. CO2 and cost, which is
                                              that of electricity, are of energy times pue
    gpu_rent_usd, low_gpu_rent_usd, high_gpu_rent_usd   of the allocated GPU time; null without a price
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
    frames, steps, updates, eval_frames, human_play_h, human_play_reason, wall_h, gpu_h, cpu_h, flops
                                              eval_frames: played in evaluations beside frames; in time, energy and FLOPs, not in play
    co2_kg, low_co2_kg, high_co2_kg, cost_usd, low_cost_usd, high_cost_usd, brain_h, coffees   as of a run
    gpu_rent_usd, low_gpu_rent_usd, high_gpu_rent_usd   as of a run
    energy {kwh, low_kwh, high_kwh, method, grade, absent}
    frames_to_threshold {reward_threshold | half_threshold | human | half_human: {score, n_reached, n, frames, steps, human_play_h,
                         wall_h, gpu_h, flops, per_seed_frames, kwh, low_kwh, high_kwh, and what it means as of a run}}
                                              at the first evaluation that reached it; median over seeds, one that never did
                                              counting as the most expensive
    total {frames, consumed_frames, lost_frames, eval_frames, human_play_h, wall_h, gpu_h, cpu_h, flops, kwh, low_kwh, high_kwh, method,
           and what it means as of a run}
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

from analysis import across, convert, curves, landmarks, published, tables
from analysis.comparisons import compare, reach
from analysis.convert import ANYWHERE, Rates
from analysis.tables import LeftOut, Run
from runs import schema

SUMMARY_SCHEMA = 1


def summarise(runs: Sequence[Run], left_out: Sequence[LeftOut], at: Rates = ANYWHERE) -> dict[str, Any]:
    """The whole summary, plain data that JSON can hold. See the top of this file for its names."""
    seeds = curves.of_runs(runs)
    comparisons = compare(runs, seeds, at)
    of_run = {run_id: c["id"] for c in comparisons for run_id in [*c["runs"], *c["unfinished"], *c["repeats"]]}
    training = training_returns(runs)
    summary = {
        "schema": SUMMARY_SCHEMA,
        "playmeter": _version(),
        "generated_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "country": at.country,
        "price_usd_per_kwh": at.usd_per_kwh,
        "price_usd_per_gpu_hour": at.gpu_hour,
        "pue": at.pue,
        "grid": asdict(convert.grid_intensity(at.country)),
        "electricity": asdict(convert.electricity_price(at.usd_per_kwh)),
        "gpu_hour": None if at.gpu_hour is None else asdict(convert.gpu_price(at.gpu_hour)),
        "runs": [_run(run, row, of_run[run.id], training.get(run.id), at) for run, row in _with_rows(runs)],
        "comparisons": comparisons,
        "environments": environments(runs, comparisons, seeds, at),
        "suites": across.suites(comparisons, env_records(runs, comparisons), _settings(runs, comparisons), seeds),
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


def _settings(runs: Sequence[Run], comparisons: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was set in each comparison, by its id."""
    by_id = {run.id: run for run in runs}
    return {c["id"]: tables.run_settings(by_id[c["runs"][0]]) for c in comparisons}


def environments(
    runs: Sequence[Run], comparisons: Sequence[dict[str, Any]], seeds: Mapping[str, curves.Seed], at: Rates
) -> list[dict[str, Any]]:
    """What agents on one environment record can be compared by. Scores under two protocols are never in one entry."""
    by_id = {run.id: run for run in runs}
    groups: dict[schema.EnvRecord, list[dict[str, Any]]] = {}
    for c in comparisons:
        groups.setdefault(by_id[c["runs"][0]].record.env, []).append(c)
    return [_environment(env, members, by_id, seeds, at) for env, members in groups.items()]


def _environment(
    env: schema.EnvRecord,
    comparisons: list[dict[str, Any]],
    by_id: Mapping[str, Run],
    seeds: Mapping[str, curves.Seed],
    at: Rates,
) -> dict[str, Any]:
    scale = across.normaliser(env)
    longest = max(c["frames"] or 0 for c in comparisons)
    return {
        "env": env.id, "protocol": env.protocol, "env_record": asdict(env), "comparisons": [c["id"] for c in comparisons],
        "normalised": None if scale is None else dict(zip(("name", "zero", "one"), scale, strict=True)),
        "equal_budgets": across.equal_budgets(comparisons, seeds), "frontier": _frontiers(comparisons, by_id, seeds, at),
        "published": [asdict(each) for each in published.neighbours(env, longest)],
    }  # fmt: skip


def _frontiers(
    comparisons: list[dict[str, Any]], by_id: Mapping[str, Run], seeds: Mapping[str, curves.Seed], at: Rates
) -> list[dict[str, Any]]:
    """The frontier for each level of the environment, and for the best score that every agent reached."""
    levels = {
        name: {c["id"]: c["frames_to_threshold"][name] for c in comparisons} for name in comparisons[0]["frames_to_threshold"]
    }
    if (common := across.common_score(comparisons, seeds)) is not None:
        levels["common"] = {c["id"]: reach([by_id[run] for run in c["runs"]], common, seeds, at) for c in comparisons}
    made = [across.frontier(name, next(iter(reached.values()))["score"], reached) for name, reached in levels.items()]
    return [entry for entry in made if entry is not None]


def training_returns(runs: Sequence[Run], last: int = 100) -> dict[str, float]:
    """Mean return of the last training episodes of each run that has any; none where a loop wrote one that is no number."""
    means = {run.id: float(run.episodes["r"].tail(last).mean()) for run in runs if len(run.episodes)}  # type: ignore[arg-type]
    return {run: mean for run, mean in means.items() if np.isfinite(mean)}


def _with_rows(runs: Sequence[Run]) -> list[tuple[Run, dict[str, Any]]]:
    return list(zip(runs, tables.runs_table(runs).to_dicts(), strict=True))


def _run(run: Run, row: dict[str, Any], comparison: str, training: float | None, at: Rates) -> dict[str, Any]:
    record, total = run.record, run.total
    last = run.evals.row(-1, named=True) if len(run.evals) else None
    return {
        "id": run.id, "agent": record.agent, "env": record.env.id, "protocol": record.env.protocol, "seed": record.seed,
        "share": record.share, "budget": record.budget, "status": total.status, "comparison": comparison,
        "started_utc": record.started_utc, **asdict(total.lineage), "consumed": asdict(total.consumed),
        "lost_frames": row["lost_frames"], "eval_frames": total.eval_frames, "boot_frames": total.boot_frames,
        "human_play_h": row["human_play_h"], "human_play_reason": tables.no_play(run),
        "wall_s": total.wall_s, "active_s": total.active_s, "cpu_s": total.cpu_s,
        "gpu_allocated_s": total.gpu_allocated_s, "gpu_busy_s": total.gpu_busy_s,
        "cpu_h": convert.hours(total.cpu_s), "gpu_h": convert.hours(total.gpu_allocated_s), "wall_h": convert.hours(total.wall_s),
        "energy": _run_energy(run, row), **convert.meaning(tables.kwh(row), at), **convert.rent(convert.hours(total.gpu_allocated_s), at),
        "flops": asdict(total.flops) | {"total": total.flops.total},
        "peak_rss_bytes": total.peak_rss_bytes, "peak_cuda_bytes": total.peak_cuda_bytes,
        "peak_cuda_allocated_bytes": total.peak_cuda_allocated_bytes, "params_sha256": total.params_sha256,
        "returns": run.returns, "imported": record.imported,
        "score": last["score"] if last else None, "score_at_steps": tables.whole(last["steps"]) if last else None,
        "training_return_last_100": training, "short_window": row["short_window"],
        "git_commit": record.git_commit, "versions": record.versions, "machine": record.machine, "device": record.device,
        "agent_config": record.agent_config, "env_record": asdict(record.env),
    }  # fmt: skip


def _run_energy(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "joules": row["joules"], "low_j": row["low_j"], "high_j": row["high_j"], **tables.kwh(row),
        "method": tables.energy_method(run), "grade": tables.energy_grade(run), "absent": tables.absent_energy(run),
        "by_source": {name: _source(energy) for name, energy in run.total.energy.items()}, "notes": run.total.notes,
    }  # fmt: skip


def _source(energy: schema.Energy) -> dict[str, Any]:
    if energy.method == schema.ABSENT:
        return {"joules": None, "low_j": None, "high_j": None, "method": schema.ABSENT, "samples": None}
    return asdict(energy)


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
