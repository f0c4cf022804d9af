"""Agents against each other: scores at equal budgets, the frontier of samples and energy, statistics over games.

All of it is plain data for the summary (docs/json.md names every field). ``seeds`` is ``curves.of_runs`` of all runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from analysis import convert, curves, published, statistics, tables
from analysis.curves import Seed
from analysis.statistics import Floats
from runs.schema import EVALUATION, TRAINING, UNKNOWN, EnvRecord

Comparison = dict[str, Any]
PROFILE_POINTS = 41
MOST_NAMED = 5  # games in a text


RETURNS = {TRAINING: "training returns", UNKNOWN: "training or evaluation: not known"}


def label(agent: str, differs: Mapping[str, Any], returns: str) -> str:
    """The agent's name with what sets it apart. Scores that are no evaluations are always named as what they are."""
    shown = [_difference(name, value) for name, value in differs.items() if name != "returns"]
    if returns != EVALUATION:
        shown.append(RETURNS[returns])
    return f"{agent} ({', '.join(shown)})" if shown else agent


def _difference(name: str, value: Any) -> str:
    if name == "imported":
        return "trained by playmeter" if value is None else f"imported from {value}"
    return f"{name.removeprefix('env.')} {_plain(value)}"


def _plain(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def normaliser(env: EnvRecord) -> tuple[str, float, float] | None:
    """(name, score that counts 0, score that counts 1): of Atari random play and the human tester, of a control task nothing and the
    threshold. None where neither was published.

    Nothing is a score of 0, or, where every step costs 1 (the threshold is negative), the loss of a whole episode: -200 on MountainCar.
    """
    if human := convert.atari_scores(env.id):
        return "human-normalised", human.random, human.human
    if env.reward_threshold is None or (env.reward_threshold <= 0 and env.max_episode_steps is None):
        return None
    nothing = 0.0 if env.reward_threshold > 0 else -float(env.max_episode_steps or 0)
    return "threshold-normalised", nothing, env.reward_threshold


def centre(values: Sequence[float]) -> dict[str, Any]:
    """IQM and interval of the scores of some seeds."""
    scores = np.array(values)
    interval = statistics.bootstrap_iqm([scores])
    return {"iqm": float(statistics.iqm(scores)), **_ends(interval), "n": len(values)}


def _ends(interval: statistics.Interval | None) -> dict[str, float | None]:
    return {"low": interval.low if interval else None, "high": interval.high if interval else None}


def equal_budgets(comparisons: Sequence[Comparison], seeds: Mapping[str, Seed]) -> dict[str, Any]:
    """Currency -> the largest budget that every agent has spent on every seed, and each agent's score there."""
    scored = [c for c in comparisons if all(run in seeds for run in c["runs"])]
    budgets = {name: at_equal(scored, seeds, name) for name in curves.CURRENCIES[1:]} if scored else {}
    return {name: entry for name, entry in budgets.items() if entry is not None}


def at_equal(scored: Sequence[Comparison], seeds: Mapping[str, Seed], currency: str) -> dict[str, Any] | None:
    """None where fewer than two agents (one, if there is no other) have a number in that currency for every seed, or nothing was
    spent in it. An agent that lacks a number has no score there and sets no budget."""
    lines = {c["id"]: [curves.line(seeds[run], currency) for run in c["runs"] if currency in seeds[run]] for c in scored}
    known = {c["id"]: lines[c["id"]] for c in scored if len(lines[c["id"]]) == len(c["runs"])}
    if len(known) < min(2, len(scored)):
        return None
    budget = min(x[-1] for each in known.values() for x, _ in each)
    values = {name: [curves.score_at(each, budget) for each in known.get(name, [])] for name in lines}
    scores = {name: None if None in of or not of else centre([v for v in of if v is not None]) for name, of in values.items()}
    return {"budget": float(budget), "scores": scores} if budget > 0 else None


def common_score(comparisons: Sequence[Comparison], seeds: Mapping[str, Seed]) -> float | None:
    """The best score that more than half of the seeds of every agent reached at some evaluation."""
    best = [sorted((float(seeds[run]["score"].max()) for run in c["runs"] if run in seeds), reverse=True) for c in comparisons]
    reached = [
        scores[len(c["runs"]) // 2] if len(scores) > len(c["runs"]) // 2 else None
        for c, scores in zip(comparisons, best, strict=True)
    ]
    known = [score for score in reached if score is not None]
    return min(known) if known and len(known) == len(comparisons) else None


def frontier(name: str, score: float, reached: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """What it took each agent to reach one score, in samples and energy; ``reached``: comparison id -> its ``reach`` entry.

    An agent is dominated if another needs no more of either and less of one. None where fewer than two got there with known energy.
    """
    points = [
        {"comparison": c, "frames": r["frames"], **{key: r[key] for key in ("kwh", "low_kwh", "high_kwh")}}
        for c, r in reached.items() if _there(r) and r["frames"] is not None and r["kwh"] is not None
    ]  # fmt: skip
    if len(points) < 2:
        return None
    for point in points:
        point["dominated_by"] = [other["comparison"] for other in points if _dominates(other, point)]
    return {
        "level": name,
        "score": score,
        "points": points,
        "not_there": [c for c, r in reached.items() if not _there(r)],
        "unknown": [c for c, r in reached.items() if _there(r) and (r["frames"] is None or r["kwh"] is None)],
    }


def _there(r: Mapping[str, Any]) -> bool:
    """As the median over seeds says it."""
    return bool(r["n_reached"] > r["n"] / 2)


def _dominates(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a["frames"] <= b["frames"] and a["kwh"] <= b["kwh"] and (a["frames"], a["kwh"]) != (b["frames"], b["kwh"])


def suites(
    comparisons: Sequence[Comparison],
    envs: Mapping[str, EnvRecord],
    settings: Mapping[str, Mapping[str, Any]],
    seeds: Mapping[str, Seed],
) -> list[dict[str, Any]]:
    """For each protocol an entry for the games on which most can be said of several agents, and one for each larger set of games that
    somebody played; ``envs`` and ``settings``: of each comparison id."""
    by_protocol: dict[tuple[str, str], list[Comparison]] = {}
    not_told: dict[tuple[str, str], list[str]] = {}
    for c in comparisons:
        where, runs = (envs[c["id"]].kind, c["protocol"]), c["runs"]
        if c["score"]["iqm"] is None or not all(run in seeds for run in runs):
            not_told.setdefault(where, []).append(f"{c['label']}: not evaluated yet on {c['env']}")
        elif not all("frames" in seeds[run] for run in runs):
            not_told.setdefault(where, []).append(f"{c['label']}: its frames on {c['env']} are not known")
        else:
            by_protocol.setdefault(where, []).append(c)
    made = []
    for where, members in by_protocol.items():
        by_agent = _by_agent(members, settings)
        sets = _sets_of_games(by_agent, {c["env"] for c in members if over_games_scale(envs[c["id"]])})
        made += [_suite(where, by_agent, games, envs, settings, seeds, not_told.get(where, [])) for games in sets]
    return [suite for suite in made if suite is not None]


ByAgent = dict[str, dict[str, Comparison]]


def over_games_scale(env: EnvRecord) -> tuple[str, float, float] | None:
    """``normaliser``, but random play on Video Pinball counts 0, as in published means over games: the tester is hardly better than
    random there, so that any agent's thousands of percent would be most of the mean (``convert.atari_scores``)."""
    scale, convention = normaliser(env), convert.atari_scores(env.id, "deepmind")
    return scale if scale is None or convention is None else (scale[0], convention.random, convention.human)


def _suite(
    where: tuple[str, str],
    by_agent: ByAgent,
    games: frozenset[str],
    envs: Mapping[str, EnvRecord],
    settings: Mapping[str, Mapping[str, Any]],
    seeds: Mapping[str, Seed],
    not_told: Sequence[str],
) -> dict[str, Any] | None:
    kind, protocol = where
    agents, ordered = [name for name, played in by_agent.items() if games <= played.keys()], sorted(games)
    at = {game: at_equal([by_agent[agent][game] for agent in agents], seeds, "frames") for game in ordered}
    if any(entry is None or None in entry["scores"].values() for entry in at.values()):
        return None
    frames = {game: entry["budget"] for game, entry in at.items() if entry}
    raw = {agent: [_at(by_agent[agent][game], seeds, frames[game]) for game in ordered] for agent in agents}
    ids = {agent: [by_agent[agent][game]["id"] for game in ordered] for agent in agents}
    first = [envs[each] for each in ids[agents[0]]]
    scales = [over_games_scale(env) for env in first]
    known = [scale for scale in scales if scale is not None]
    theirs = published.over_games(first, list(frames.values()), known) if len(known) == len(games) else []
    others = [_left_out(name, games - played.keys()) for name, played in by_agent.items() if name not in agents]
    return {
        "kind": kind, "protocol": protocol, "agents": agents, "games": ordered, "comparisons": ids, "frames": frames,
        "left_out": [*others, *not_told], "notes": [text for agent in agents if (text := _mixed(agent, ids[agent], settings))],
        "improvement": _improvements(raw), **_aggregates(raw, scales),
        "totals": {agent: _totals([by_agent[agent][game] for game in ordered]) for agent in agents},
        "published": [asdict(each) for each in theirs],
    }  # fmt: skip


def _mixed(agent: str, ids: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What to say of an agent that is not the same on all its games."""
    first = settings[ids[0]]
    names = {name for each in ids for name in tables.differing(first, settings[each]) if not name.startswith("env.")}
    return f"{agent} is not the same on all games, it differs in {', '.join(sorted(names)[:MOST_NAMED])}" if names else None


def _left_out(agent: str, missing: Set[str]) -> str:
    games = ", ".join(sorted(missing)) if len(missing) <= MOST_NAMED else f"{len(missing)} of these games"
    return f"{agent}: did not play {games}"


def _totals(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What all runs on all games took together; null what is not known of one of them."""
    totals = [c["total"] for c in comparisons]
    names = totals[0].keys() - {"method"}
    sums = {name: None if any(t[name] is None for t in totals) else sum(t[name] for t in totals) for name in names}
    n_runs = sum(len(c["runs"]) + len(c["unfinished"]) + len(c["repeats"]) for c in comparisons)
    reason = next((c["human_play_reason"] for c in comparisons if c["human_play_reason"]), None)
    return {"n_runs": n_runs, **sums, "human_play_reason": reason, "method": tables.method_of_all(t["method"] for t in totals)}


def _by_agent(members: list[Comparison], settings: Mapping[str, Mapping[str, Any]]) -> ByAgent:
    """Agent -> game -> comparison. An agent that played a game with several settings is several agents, each with one name on all games."""
    differ: dict[str, set[str]] = {}
    for a, b in combinations(members, 2):
        if (a["agent"], a["env"]) == (b["agent"], b["env"]):
            differ.setdefault(a["agent"], set()).update(tables.differing(settings[a["id"]], settings[b["id"]]))
    by_agent: ByAgent = {}
    for c in members:
        named = [
            name for name in sorted(differ.get(c["agent"], ())) if not name.startswith("env.")
        ]  # the protocol is the suite's
        name = label(c["agent"], {each: settings[c["id"]].get(each) for each in named}, c["returns"])
        by_agent.setdefault(name, {})[c["env"]] = c
    return by_agent


def _sets_of_games(by_agent: ByAgent, with_scale: Set[str]) -> list[frozenset[str]]:
    """First the games on which most can be said of several agents, then those that somebody played beyond them and that have a scale
    (without a rival and a scale nothing can be said): two and more, none within another's."""
    shared = _shared_games(by_agent)
    scaled = [frozenset(games.keys() & with_scale) for games in by_agent.values()]
    played = {games for games in scaled if len(games) > 1}
    beyond = [games for games in played if not games <= shared and not any(games < others for others in played)]
    return [*[shared] * bool(shared), *sorted(beyond, key=lambda games: (-len(games), sorted(games)))]


def _shared_games(by_agent: ByAgent) -> frozenset[str]:
    """Of the intersections of two agents' games, the one with most agents times games."""
    shared = [frozenset(by_agent[a]) & frozenset(by_agent[b]) for a, b in combinations(by_agent, 2)]
    return max(
        shared, key=lambda games: len(games) * sum(games <= played.keys() for played in by_agent.values()), default=frozenset()
    )


def _at(comparison: Comparison, seeds: Mapping[str, Seed], frames: float) -> Floats:
    return np.array([curves.score_at(curves.line(seeds[run], "frames"), frames) for run in comparison["runs"]], float)


def _improvements(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"x": x, "y": y, "probability": statistics.probability_of_improvement(raw[x], raw[y]),
         **_ends(statistics.bootstrap_improvement(raw[x], raw[y]))}
        for x, y in combinations(raw, 2)
    ]  # fmt: skip


def _aggregates(raw: Mapping[str, Any], scales: Sequence[tuple[str, float, float] | None]) -> dict[str, Any]:
    """IQM, optimality gap and performance profile of normalised scores; null, with the reason, where a game has no scale."""
    known = [scale for scale in scales if scale is not None]
    if len(known) < len(scales):
        return {
            "normalised": None,
            "why_not": "no reference score was published for these games",
            "aggregates": None,
            "by_game": None,
            "profiles": None,
        }
    scores = {
        agent: [(values - nothing) / (one - nothing) for values, (_, nothing, one) in zip(of, known, strict=True)]
        for agent, of in raw.items()
    }
    everything = np.concatenate([values for of in scores.values() for values in of])
    taus = np.linspace(min(0.0, float(everything.min())), max(1.0, float(np.quantile(everything, 0.98))), PROFILE_POINTS)
    return {
        "normalised": known[0][0], "why_not": None,
        "aggregates": {agent: _aggregate(of) for agent, of in scores.items()},
        "by_game": {agent: [centre(values.tolist()) for values in of] for agent, of in scores.items()},
        "profiles": {"tau": taus.tolist(), "agents": {agent: _profile(of, taus) for agent, of in scores.items()}},
    }  # fmt: skip


def _aggregate(scores: Sequence[Floats]) -> dict[str, Any]:
    pooled = np.concatenate(scores)
    return {
        "n_runs": len(pooled), **statistics.over_games([float(values.mean()) for values in scores]),
        "iqm": {"value": float(statistics.iqm(pooled)), **_ends(statistics.bootstrap_iqm(scores))},
        "optimality_gap": {"value": statistics.optimality_gap(scores), **_ends(statistics.bootstrap_gap(scores))},
    }  # fmt: skip


def _profile(scores: Sequence[Floats], taus: Floats) -> dict[str, Any]:
    band = statistics.bootstrap_profile(scores, taus, resamples=500)
    low, high = (None, None) if band is None else (band[0].tolist(), band[1].tolist())
    return {"share_above": statistics.performance_profile(scores, taus).tolist(), "low": low, "high": high}


def suite_curves(
    suite: Mapping[str, Any],
    envs: Mapping[str, EnvRecord],
    runs: Mapping[str, Sequence[str]],
    seeds: Mapping[str, Seed],
    column: str,
) -> dict[str, curves.Curve | None]:
    """Agent -> the IQM over its seeds and games of the normalised score, over one currency; None for an agent that lacks a number in
    it. Empty where the games have no scale."""
    scales = [over_games_scale(envs[each]) for each in next(iter(suite["comparisons"].values()))]
    known = [scale for scale in scales if scale is not None]
    if len(known) < len(scales):
        return {}
    return {
        agent: _over_games([runs[each] for each in ids], known, seeds, column) for agent, ids in suite["comparisons"].items()
    }


def _over_games(
    runs: Sequence[Sequence[str]], scales: Sequence[tuple[str, float, float]], seeds: Mapping[str, Seed], column: str
) -> curves.Curve | None:
    if any(column not in seeds[run] for game in runs for run in game):
        return None
    lines = [[curves.line(seeds[run], column) for run in game] for game in runs]
    return curves.curve(
        [[(x, (y - nothing) / (one - nothing)) for x, y in game] for game, (_, nothing, one) in zip(lines, scales, strict=True)]
    )
