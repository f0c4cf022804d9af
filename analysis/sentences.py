"""What the numbers of a comparison say, in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from analysis import convert, statistics, units
from runs.schema import ABSENT, MEASURED, EnvRecord

SOURCE_NAMES = {
    "reported": "as reported", "gpu_board": "GPU board", "cpu_package": "CPU package", "dram": "memory", "host_rest": "rest of the computer", "wall_meter": "wall meter",
}  # fmt: skip
THRESHOLD_NAMES = {
    "reward_threshold": "threshold", "half_threshold": "half the threshold", "human": "human score", "half_human": "half-way to human",
    "common": "best score that all reached",
}  # fmt: skip


def headline(comparisons: list[dict[str, Any]], env: EnvRecord) -> list[str]:
    """What the best agent reached; then one entry each on scores to compare with, on a person's playtime, and on energy."""
    best = best_of(comparisons)
    if best is None:
        return [f"No run on {env.id} has been evaluated yet."]
    return [text for text in (_reached(best, comparisons), _threshold(best), _playtime(best, env), _energy(best)) if text]


def best_of(comparisons: list[dict[str, Any]]) -> dict[str, Any] | None:
    scored = [c for c in comparisons if c["score"]["iqm"] is not None]
    return max(scored, key=lambda c: float(c["score"]["iqm"])) if scored else None


def _reached(best: dict[str, Any], comparisons: list[dict[str, Any]]) -> str:
    score = best["score"]
    text = f"{best['label']} reached {units.score(score['iqm'])}"
    if score["n"] == 1:
        return f"{text} with a single seed, which says nothing about the spread between seeds."
    text += f", the {score['estimator']} of {score['n']} seeds"
    if score["low"] is not None:
        too_narrow = ", too narrow with so few seeds" if score["n"] < statistics.FEW_RUNS else ""
        text += f" (95 % interval {units.score(score['low'])} to {units.score(score['high'])}{too_narrow})"
    rivals = [
        c["label"] for c in comparisons
        if c is not best and c["score"]["high"] is not None and score["low"] is not None and c["score"]["high"] >= score["low"]
    ]  # fmt: skip
    return f"{text}; its interval overlaps that of {join(rivals)}." if rivals else f"{text}."


def _threshold(best: dict[str, Any]) -> str:
    sentences = []
    for name in ("reward_threshold", "human"):
        if (reach := best["frames_to_threshold"].get(name)) is None:
            continue
        what = f"The {THRESHOLD_NAMES[name]} of {units.score(reach['score'])}"
        if not reach["n_reached"]:
            sentences.append(f"{what} was not reached.")
            continue
        how_many = f"{reach['n_reached']} of {reach['n']} seeds" if reach["n"] > 1 else "it"
        after = "" if reach["frames"] is None else f", after {units.count(reach['frames'])} frames"
        if after and reach["n"] > 1:
            after += " in the median"
        sentences.append(f"{what} was reached by {how_many}{after}.")
    if (share := best["score"]["human_normalised"]) is not None:
        sentences.append(f"Its score is {units.percent(share)} of the human one, where 0 % is random play.")
    return " ".join(sentences)


def _playtime(best: dict[str, Any], env: EnvRecord) -> str:
    if best["frames"] is None:
        return "Its frames were not counted, so nobody knows how long a person would have played."
    frames = units.count(best["frames"])
    if best["human_play_h"] is None and env.kind == "other":
        return f"The real-time rate of the task is not known, so the {frames} frames are no hours of play."
    if best["human_play_h"] is None:
        return f"The task has no physical time, so the {frames} frames that a seed learned from are no hours of play."
    played = f"To play the {frames} frames that a seed learned from, a person would need {units.duration(best['human_play_h'] * 3600)}"
    if env.kind != "atari":
        return f"{played}."
    practice, protocol = convert.human_practice_h(), convert.protocol_200m_frames()
    protocol_h = convert.play_h(protocol, env.frame_rate_hz) or 0.0
    against_practice = (
        f"{_times(best['human_play_h'] / practice)} the {practice:g} hours of practice that the professional tester had"
    )
    against_protocol = f"{units.percent(best['frames'] / protocol)} of the usual {units.count(protocol)} frames"
    return f"{played} without a break: {against_practice}, and {against_protocol} ({units.duration(protocol_h * 3600)})."


def _times(ratio: float) -> str:
    return f"{units.significant(ratio)} times" if ratio >= 1 else f"{units.percent(ratio)} of"


def _energy(best: dict[str, Any]) -> str:
    energy = best["energy"]
    if energy["kwh"] is None:
        return "Its energy is not known: no source could be measured or estimated."
    how = "a measured" if energy["method"] == MEASURED else "an estimated"
    text = f"Training one seed used {how} {energy_text(energy)} ({energy_spread(energy)})"
    if energy["absent"]:
        text += f", not counting {join(source_name(s) for s in energy['absent'])}, which has no number"
    if best["cost_usd"] is not None:  # what else an energy means, such as its CO2, is said here
        text += f", {units.money(best['cost_usd'])} of electricity at the price given"
    brain = units.duration(best["brain_h"] * 3600)
    return f"{text}; a human brain, at {convert.brain_power_w()[0]:g} W, runs on that for {brain}."


def tiles(best: dict[str, Any]) -> list[dict[str, str]]:
    """The four figures above the curves: {name, value, note}."""
    score, energy = best["score"], best["energy"]
    spread = (
        f"{units.score(score['low'])} to {units.score(score['high'])}, {score['n']} seeds" if score["n"] > 1 else "one seed"
    )
    play = best["human_play_h"]
    gpu_h, wall_h = best["gpu_h"], best["wall_h"]
    device = "GPU not known" if gpu_h is None else f"{units.hours(gpu_h)} of GPU allocated" if gpu_h else "no GPU"
    return [
        {"name": f"Score ({score['estimator']})" if score["n"] > 1 else "Score", "value": units.score(score["iqm"]), "note": spread},
        {"name": "Human playtime", "value": units.duration(None if play is None else play * 3600),
         "note": best["human_play_reason"] or f"{units.count(best['frames'])} frames in real time"},
        {"name": f"Energy, {energy['method']}", "value": energy_text(energy), "note": energy_spread(energy)},
        {"name": "Wall-clock time", "value": units.duration(None if wall_h is None else wall_h * 3600), "note": device},
    ]  # fmt: skip


def energy_text(energy: dict[str, Any]) -> str:
    return units.energy(None if energy["kwh"] is None else energy["kwh"] * convert.JOULES_PER_KWH)


def energy_spread(energy: dict[str, Any]) -> str:
    if energy["kwh"] is None:
        return "no source has a number"
    if energy["low_kwh"] == energy["high_kwh"]:  # as an import reports it
        return "no interval known"
    return units.energy_range(energy["low_kwh"] * convert.JOULES_PER_KWH, energy["high_kwh"] * convert.JOULES_PER_KWH)


def all_runs(total: dict[str, Any]) -> str:
    """Everything that was spent on an agent, lost work included."""
    frames = "frames not counted" if total["frames"] is None else f"{units.count(total['frames'])} frames"
    time = "an unknown time" if total["wall_h"] is None else units.duration(total["wall_h"] * 3600)
    parts = [frames, f"{time} of wall-clock time"]
    parts.append("energy not known" if total["kwh"] is None else units.energy(total["kwh"] * convert.JOULES_PER_KWH))
    if total["cost_usd"] is not None:
        parts.append(units.money(total["cost_usd"]))
    if total["lost_frames"]:
        parts.append(f"{units.count(total['lost_frames'])} frames of lost work")
    return ", ".join(parts)


def frontier(entry: dict[str, Any], comparisons: list[dict[str, Any]]) -> str:
    """Who is not dominated on the way to a score, and who never got there."""
    labels = {c["id"]: c["label"] for c in comparisons}
    best = join(labels[p["comparison"]] for p in entry["points"] if not p["dominated_by"])
    text = f"{THRESHOLD_NAMES[entry['level']].capitalize()} {units.score(entry['score'])}: nobody dominates {best}"
    return f"{text}; not there {join(labels[c] for c in entry['not_there'])}." if entry["not_there"] else f"{text}."


def setup(runs: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Where the runs ran, each distinct answer once: (name, answers)."""
    methods = {
        f"{source_name(name)}: {entry['method']}" for run in runs for name, entry in run["energy"]["by_source"].items()
        if not (entry["method"] == ABSENT and name not in run["energy"]["absent"])
    } | {f"{source_name(name)}: {ABSENT}" for run in runs for name in run["energy"]["absent"]}  # fmt: skip
    return [
        ("Machine", _distinct(_pairs(run["machine"]) for run in runs)),
        ("Device", _distinct(_pairs(run["device"]) for run in runs)),
        ("Versions", _distinct(_pairs(run["versions"]) for run in runs)),
        ("Commit", _distinct(run["git_commit"] or "not known" for run in runs)),
        ("Energy", sorted(methods)),
        ("Energy, how good", [_graded(runs)]),
        ("Energy, notes", _distinct(note for run in runs for note in run["energy"]["notes"]) or ["none"]),
    ]


GRADES = {
    "A": "a wall meter", "B": "every board and package measured", "C": "part measured and part estimated", "D": "estimated or incomplete",
}  # fmt: skip


def _graded(runs: list[dict[str, Any]]) -> str:
    """``3 runs of grade C (part measured and part estimated), 1 run without a number; 2 runs are short windows``."""
    counts = Counter(run["energy"]["grade"] for run in runs)
    graded = [f"{_runs(counts[grade])} of grade {grade} ({meaning})" for grade, meaning in GRADES.items() if counts[grade]]
    graded += [f"{_runs(counts[None])} without a number"] if counts[None] else []
    short = sum(bool(run["short_window"]) for run in runs)
    return ", ".join(graded) + (f"; short windows: {_runs(short)}" if short else "")


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _pairs(mapping: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in mapping.items() if value is not None) or "not known"


def source_name(source: str) -> str:
    return SOURCE_NAMES.get(source, source)


def join(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last
