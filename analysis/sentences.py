"""What the numbers of a comparison say, in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from analysis import convert, statistics, units
from analysis.convert import ANYWHERE, Rates
from runs.schema import ABSENT, MEASURED, EnvRecord

SOURCE_NAMES = {
    "reported": "as reported", "gpu_board": "GPU board", "cpu_package": "CPU package", "dram": "memory", "host_rest": "rest of the computer", "wall_meter": "wall meter",
}  # fmt: skip
THRESHOLD_NAMES = {
    "reward_threshold": "threshold", "half_threshold": "half the threshold", "human": "human score", "half_human": "half-way to human",
    "common": "best score that all reached",
}  # fmt: skip


def headline(comparisons: list[dict[str, Any]], env: EnvRecord, at: Rates = ANYWHERE) -> list[str]:
    """What the best agent reached; then one entry each on scores to compare with, on a person's playtime, on energy, and on what
    that energy means at the rates ``at``."""
    best = best_of(comparisons)
    if best is None:
        return [f"No run on {env.id} has been evaluated yet."]
    parts = (
        _reached(best, comparisons),
        _threshold(best),
        _playtime(best, env),
        _energy(best),
        _meaning(best, at),
        _rent(best, at),
    )
    return [text for text in parts if text]


def best_of(comparisons: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The highest IQM; of those that read the same, the highest mean: where a quarter of the seeds fail, the IQM hides it."""
    scored = [c for c in comparisons if c["score"]["iqm"] is not None]
    top = max((c["score"]["iqm"] for c in scored), default=None)
    level = [c for c in scored if units.score(c["score"]["iqm"]) == units.score(top)]
    return max(level, key=lambda c: float(c["score"]["mean"]), default=None)


def _reached(best: dict[str, Any], comparisons: list[dict[str, Any]]) -> str:
    reached = units.score(best["score"]["iqm"])
    level = [best, *(c for c in comparisons if c is not best and units.score(c["score"]["iqm"]) == reached)]
    if len(level) > 1:
        how = "; ".join(f"{c['label']}{_how(c['score'])}" for c in level)
        text = f"{join(c['label'] for c in level)} reached {reached}: {how}"
    else:
        text = f"{best['label']} reached {reached}{_how(best['score'])}"
    rivals = [c["label"] for c in comparisons if c not in level and _overlaps(c["score"], best["score"])]
    return f"{text}; its interval overlaps that of {join(rivals)}." if rivals else f"{text}."


def _how(score: dict[str, Any]) -> str:
    if score["n"] == 1:
        return " with a single seed, which says nothing about the spread between seeds"
    text = f", the {score['estimator']} of {score['n']} seeds"
    if score["low"] is None:
        return text
    too_narrow = ", too narrow with so few seeds" if score["n"] < statistics.FEW_RUNS else ""
    return f"{text} (95 % interval {units.score(score['low'])} to {units.score(score['high'])}{too_narrow})"


def _overlaps(other: dict[str, Any], best: dict[str, Any]) -> bool:
    return other["high"] is not None and best["low"] is not None and other["high"] >= best["low"]


def _threshold(best: dict[str, Any]) -> str:
    sentences = []
    for name in ("reward_threshold", "human"):
        if (reach := best["frames_to_threshold"].get(name)) is None:
            continue
        what = f"The {THRESHOLD_NAMES[name]} of {units.score(reach['score'])}"
        if not reach["n_reached"]:
            sentences.append(f"{what} was not reached.")
            continue
        how_many = f"{reach['n_reached']} of {reach['n']} seeds of {best['label']}" if reach["n"] > 1 else "it"
        after = "" if reach["frames"] is None else f", after {units.count(reach['frames'])} frames"
        if after and reach["n"] > 1:
            after += " in the median"
        sentences.append(f"{what} was reached by {how_many}{after}.")
    if (share := best["score"]["human_normalised"]) is not None:
        sentences.append(f"Its score is {units.percent(share)} of the human one, where 0 % is random play.")
    return " ".join(sentences)


def _playtime(best: dict[str, Any], env: EnvRecord) -> str:
    if best["frames"] is None:
        return f"The frames of {best['label']} were not counted, so nobody knows how long a person would have played."
    frames = units.count(best["frames"])
    if best["human_play_h"] is None and env.kind == "other":
        return f"The real-time rate of the task is not known, so the {frames} frames are no hours of play."
    if best["human_play_h"] is None:
        return f"The task has no physical time, so the {frames} frames that a seed learned from are no hours of play."
    played = (
        f"To play the {frames} frames that a seed of {best['label']} learned from, "
        f"a person would need {units.duration(best['human_play_h'] * 3600)}"
    )
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
        return f"The energy of {best['label']} is not known: no source could be measured or estimated."
    how = "a measured" if energy["method"] == MEASURED else "an estimated"
    text = f"Training one seed of {best['label']} used {how} {energy_text(energy)} ({energy_spread(energy)})"
    if lacking := [source_name(source) for source in energy["absent"]]:
        text += f", not counting {join(lacking)}, which {'has' if len(lacking) == 1 else 'have'} no number"
    return f"{text}."


def _meaning(best: dict[str, Any], at: Rates) -> str:
    """CO2, money, brain and coffee; nothing where the energy is not known."""
    if best["energy"]["kwh"] is None:
        return ""
    grid, brain = convert.grid_intensity(at.country), units.duration(best["brain_h"] * 3600)
    if at.country is None:
        where = f"at the world mean of {grid.g_per_kwh:.0f} g/kWh, as no country was given"
    else:
        where = f"on the grid of {grid.place} ({grid.g_per_kwh:.0f} g/kWh in {grid.year})"
    building = "" if at.pue is None else f", with a PUE of {convert.pue(at.pue).value:g},"
    price = (
        "at the price given"
        if at.usd_per_kwh is not None
        else f"at the {convert.electricity_price().what}, as no price was given"
    )
    return (
        f"That{building} is {units.mass(best['co2_kg'])} of CO₂ ({co2_spread(best)}) {where}, and {units.money(best['cost_usd'])} of electricity "
        f"({money_spread(best)}) {price}. A human brain, at {convert.brain_power_w()[0]:g} W, runs on it for {brain}; "
        f"as food it is {units.significant(best['coffees'])} cups of black coffee."
    )


def _rent(best: dict[str, Any], at: Rates) -> str:
    """Nothing where no price was given, or no GPU was used."""
    if not best["gpu_rent_usd"] or at.gpu_hour is None:
        return ""
    price, spread = convert.gpu_price(at.gpu_hour), "".join(f" ({text})" for text in rent_spread(best))
    return (
        f"Renting a GPU for the {units.hours(best['gpu_h'])} that the seed had it costs {units.money(best['gpu_rent_usd'])}{spread}, "
        f"at {units.money(price.usd)} an hour ({price.what})."
    )


def tiles(best: dict[str, Any]) -> list[dict[str, str]]:
    """The six figures above the curves: {name, value, note}."""
    score = best["score"]
    spread = (
        f"{units.score(score['low'])} to {units.score(score['high'])}, {score['n']} seeds" if score["n"] > 1 else "one seed"
    )
    name = f"Score ({score['estimator']})" if score["n"] > 1 else "Score"
    return [{"name": name, "value": units.score(score["iqm"]), "note": spread}, *_cost_tiles(best)]


def _cost_tiles(spent: Mapping[str, Any]) -> list[dict[str, str]]:
    play, energy = spent["human_play_h"], spent["energy"]
    gpu_h, wall_h = spent["gpu_h"], spent["wall_h"]
    device = "GPU not known" if gpu_h is None else f"{units.hours(gpu_h)} of GPU allocated" if gpu_h else "no GPU"
    frames = "frames not counted" if spent["frames"] is None else f"{units.count(spent['frames'])} frames in real time"
    return [
        {"name": "Human playtime", "value": units.duration(None if play is None else play * 3600),
         "note": spent.get("human_play_reason") or frames},
        {"name": "Wall-clock time", "value": units.duration(None if wall_h is None else wall_h * 3600), "note": device},
        {"name": f"Energy, {energy['method']}", "value": energy_text(energy), "note": energy_spread(energy)},
        {"name": "CO₂", "value": units.mass(spent["co2_kg"]), "note": co2_spread(spent)},
        {"name": "Electricity", "value": units.money(spent["cost_usd"]), "note": money_spread(spent)},
    ]  # fmt: skip


def over_games(suite: Mapping[str, Any]) -> list[str]:
    """How good the best agent is over all games, where that lies among published agents, and what all of its runs took; nothing where
    the games have no scale."""
    if suite["aggregates"] is None:
        return []
    agent, a = best_over_games(suite)
    spread = "no interval, because a game has a single run" if a["iqm"]["low"] is None else f"95 % {_ends(a['iqm'])}"
    means = f"over the games' means the median is {units.normalised(a['median'])} and the mean {units.normalised(a['mean'])}"
    estimator = statistics.estimator(a["n_runs"])
    first = (
        f"the highest {estimator}"
        if len(suite["agents"]) > 1
        else f"an {estimator}"
        if estimator == "IQM"
        else f"a {estimator}"
    )
    said = [
        f"{agent} has {first} of the {suite['normalised']} score of {units.normalised(a['iqm']['value'])} over {a['n_runs']} runs on "
        f"{_number_of_games(suite)} ({spread}); {means}.",
        _among_published(agent, a, suite),
        f"All of its runs together: {all_runs(suite['totals'][agent])}.",
    ]  # fmt: skip
    return [sentence for sentence in said if sentence]


def _number_of_games(suite: Mapping[str, Any]) -> str:
    return f"{len(suite['games'])} game{'s' if len(suite['games']) > 1 else ''}"


def _among_published(agent: str, a: Mapping[str, Any], suite: Mapping[str, Any]) -> str:
    """Between which two published means it lies, of those whose protocol is not known to differ."""
    alike = [e for e in suite["published"] if not e["differs"]] if len(suite["games"]) > 1 else []
    if not alike:
        return ""
    above = min((e for e in alike if e["mean"] > a["mean"]), key=lambda e: float(e["mean"]), default=None)
    below = max((e for e in alike if e["mean"] <= a["mean"]), key=lambda e: float(e["mean"]), default=None)
    named = [f"{e['agent']} ({units.normalised(e['mean'])})" for e in (below, above) if e is not None]
    where = f"between {named[0]} and {named[1]}" if len(named) > 1 else f"{'above' if above is None else 'below'} {named[0]}"
    others = f"{len(alike)} agents" if len(alike) > 1 else "one agent"
    return f"By that mean {agent} lies {where}, of {others} published on the same games with a protocol not known to differ."


def frames_by_game(frames: Mapping[str, float]) -> str:
    if len(frames) < 4:
        return ", ".join(f"{game} {units.count(number)}" for game, number in frames.items())
    least, most = units.count(min(frames.values())), units.count(max(frames.values()))
    return f"{most} a game" if least == most else f"{least} to {most} a game"


def tiles_over_games(suite: Mapping[str, Any]) -> list[dict[str, str]]:
    """The six figures of the best agent over all games."""
    if suite["aggregates"] is None:
        return []
    agent, a = best_over_games(suite)
    total, iqm = suite["totals"][agent], a["iqm"]
    name = f"{statistics.estimator(a['n_runs'])}, {suite['normalised']}"
    spread = "" if iqm["low"] is None else f"{_ends(iqm)}, "
    score = {"name": name, "value": units.normalised(iqm["value"]), "note": f"{spread}{a['n_runs']} runs"}
    return [score, *_cost_tiles(total | {"energy": total})]


def _ends(interval: Mapping[str, Any]) -> str:
    return f"{units.normalised(interval['low'])} to {units.normalised(interval['high'])}"


def best_over_games(suite: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return max(suite["aggregates"].items(), key=lambda entry: float(entry[1]["iqm"]["value"]))


def energy_text(energy: Mapping[str, Any]) -> str:
    return units.energy(None if energy["kwh"] is None else energy["kwh"] * convert.JOULES_PER_KWH)


def energy_spread(energy: Mapping[str, Any]) -> str:
    if energy["kwh"] is None:
        return "no source has a number"
    if energy["low_kwh"] == energy["high_kwh"]:  # as an import reports it
        return "no interval known"
    return units.energy_range(*(energy[name] * convert.JOULES_PER_KWH for name in ("kwh", "low_kwh", "high_kwh")))


def co2_spread(entry: Mapping[str, Any]) -> str:
    if entry["co2_kg"] is None:
        return "its energy is not known"
    return _spread(units.mass, entry, "co2_kg")


def money_spread(entry: Mapping[str, Any]) -> str:
    if entry["cost_usd"] is None:
        return "its energy is not known"
    return _spread(units.money, entry, "cost_usd")


def rent_spread(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Nothing where one price was given, or nobody knows the time."""
    low, high = entry["low_gpu_rent_usd"], entry["high_gpu_rent_usd"]
    return () if low == high else (units.between(units.money, entry["gpu_rent_usd"], low, high),)


def _spread(show: Callable[..., str], entry: Mapping[str, Any], name: str) -> str:
    low, high = entry[f"low_{name}"], entry[f"high_{name}"]
    return "no interval known" if show(low) == show(high) else units.between(show, entry[name], low, high)


def all_runs(total: Mapping[str, Any]) -> str:
    """Everything that was spent on an agent, lost work included."""
    frames = "frames not counted" if total["frames"] is None else f"{units.count(total['frames'])} frames"
    time = "an unknown time" if total["wall_h"] is None else units.duration(total["wall_h"] * 3600)
    parts = [frames, f"{time} of wall-clock time"]
    if total["kwh"] is None:
        parts.append("energy not known")
    else:
        parts += [
            energy_text(total),
            f"{units.mass(total['co2_kg'])} of CO₂",
            f"{units.money(total['cost_usd'])} of electricity",
        ]
    if total["gpu_rent_usd"]:
        parts.append(f"{units.money(total['gpu_rent_usd'])} of GPU rent")
    if total["lost_frames"]:
        parts.append(f"{units.count(total['lost_frames'])} frames of lost work")
    return ", ".join(parts)


def frontier(entry: dict[str, Any], comparisons: list[dict[str, Any]]) -> str:
    """Who is not dominated on the way to a score, and who never got there."""
    labels = {c["id"]: c["label"] for c in comparisons}
    best = join(labels[p["comparison"]] for p in entry["points"] if not p["dominated_by"])
    text = f"{THRESHOLD_NAMES[entry['level']].capitalize()} {units.score(entry['score'])}: nobody dominates {best}"
    for name, what in (("not_there", "not there"), ("unknown", "there, but without a count of frames or energy")):
        text += f"; {what} {join(labels[c] for c in entry[name])}" if entry[name] else ""
    return f"{text}."


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
    graded = [f"{run_count(counts[grade])} of grade {grade} ({meaning})" for grade, meaning in GRADES.items() if counts[grade]]
    graded += [f"{run_count(counts[None])} without a number"] if counts[None] else []
    short = sum(bool(run["short_window"]) for run in runs)
    return ", ".join(graded) + (f"; short windows: {run_count(short)}" if short else "")


def run_count(count: int) -> str:
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


def rates(summary: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """What CO2 and money rest on."""
    grid, price = convert.grid_intensity(summary["country"]), convert.electricity_price(summary["price_usd_per_kwh"])
    unsaid = "" if summary["country"] else "No country was given (--country), so this is the "
    facility, gpu_hour = convert.pue(summary["pue"]).basis, summary["gpu_hour"]
    rented = (
        "No rent of GPUs is in it (--price-usd-per-gpu-hour)."
        if gpu_hour is None
        else f"GPU rent is that of the allocated hours, {gpu_hour['basis']}."
    )
    return [
        ("CO₂", [f"{unsaid}{grid.basis}. Of making the electricity; the hardware's manufacture is not in it."]),
        ("Money", [f"Electricity {price.basis}. {rented}"]),
        ("Building", [f"CO₂ and electricity: {facility}."]),
    ]
