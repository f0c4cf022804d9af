"""Run folders in, one self-contained HTML page and one JSON summary out."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jinja2

from analysis import charts, convert, sentences, statistics, summary, tables, units
from runs import schema

PROTOCOLS = {
    "control": "gymnasium's control task as registered",
    "minatar": "MinAtar as registered: sticky actions with probability 0.1",
    "nature": "Mnih et al. 2015: no sticky actions, a lost life ends the return in training, full games in evaluation",
    "sticky": "Machado et al. 2018: sticky actions with probability 0.25, no life-loss signal",
    "unknown": "nobody said how the environment was played or evaluated",
    "atari100k": "Kaiser et al. 2019: 100,000 steps (400,000 frames), no sticky actions, full games in evaluation",
}


class ReportError(ValueError):
    """One line that names the fault and the way out."""


def write_report(
    folders: Sequence[Path],
    out: Path | None,
    json_out: Path | Literal["-"] | None,
    price_usd_per_kwh: float | None = None,
) -> dict[str, Any]:
    """Read the run folders at or below ``folders``; write the page to ``out`` and the summary to ``json_out`` ("-": standard
    output), each where given. Returns the summary, see analysis/summary.py.

    Raises ReportError where there is nothing to report or a file cannot be written; then no file was changed.
    """
    _check(out, json_out, price_usd_per_kwh)
    try:
        runs, left_out = tables.read_runs(folders)
    except tables.NoRunsError as error:
        raise ReportError(str(error)) from error
    result = summary.summarise(runs, left_out, price_usd_per_kwh)
    files: dict[Path, str] = {}
    if out is not None:
        files[out] = page(runs, result)
    if isinstance(json_out, Path):
        files[json_out] = _json(result)
    _write(files)
    if json_out == "-":
        sys.stdout.write(_json(result))
    return result


def _check(out: Path | None, json_out: Path | Literal["-"] | None, price: float | None) -> None:
    if price is not None and not 0 <= price < float("inf"):
        raise ReportError(f"the price is {price} USD per kWh: give a number that is not negative")
    targets = [path for path in (out, json_out) if isinstance(path, Path)]
    if len(targets) == 2 and targets[0].resolve() == targets[1].resolve():
        raise ReportError(f"{targets[0]} is named for the page and for the summary: give two files")
    for path in targets:
        if path.is_dir():
            raise ReportError(f"{path} is a folder: name a file in it, such as {path / 'report.html'}")
        if not path.parent.is_dir():
            raise ReportError(f"{path.parent} does not exist: make that folder first, or name a file elsewhere")


def _json(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write(files: dict[Path, str]) -> None:
    """All of them or none: temporary files beside the targets first, then renamed into place."""
    ready: dict[Path, Path] = {}
    try:
        for path, text in files.items():
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            ready[path] = Path(name)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            ready[path].chmod(0o666 & ~_umask())
        for path, temporary in ready.items():
            os.replace(temporary, path)
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror}: name a file elsewhere") from error
    finally:
        for temporary in ready.values():
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def page(runs: Sequence[tables.Run], result: dict[str, Any]) -> str:
    """The HTML page of a summary, with everything it needs inside."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    sections = _sections(runs, result["comparisons"])
    has_curves = any(section["curves"] for section in sections)
    return environment.get_template("report.html.j2").render(
        summary=result, sections=sections, javascript=charts.javascript() if has_curves else "",
        setup=sentences.setup(result["runs"]), protocols=PROTOCOLS, sources=convert.sources(), u=units, say=sentences,
        joules_per_kwh=convert.JOULES_PER_KWH, brain_w=convert.brain_power_w(), min_iqm=statistics.IQM_MIN_RUNS,
    )  # fmt: skip


def _sections(runs: Sequence[tables.Run], comparisons: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One section an environment record: scores under two protocols never share a chart or a headline."""
    by_id = {run.id: run for run in runs}
    groups: dict[str, list[dict[str, Any]]] = {}
    for comparison in comparisons:
        groups.setdefault(repr(by_id[comparison["runs"][0]].record.env), []).append(comparison)
    return [_section(f"env{n}", by_id, members) for n, members in enumerate(groups.values())]


def _section(name: str, by_id: dict[str, tables.Run], comparisons: list[dict[str, Any]]) -> dict[str, Any]:
    env = by_id[comparisons[0]["runs"][0]].record.env
    best = sentences.best_of(comparisons)
    series = [
        charts.Series(c["label"], c["runs"], c["unfinished"], *charts.look(number)) for number, c in enumerate(comparisons)
    ]
    return {
        "name": name, "env": env, "headline": sentences.headline(comparisons, env), "tiles": sentences.tiles(best) if best else [],
        "comparisons": list(zip(comparisons, series, strict=True)), "best": best, "curves": _curves(by_id, series, env),
    }  # fmt: skip


def _curves(by_id: dict[str, tables.Run], series: Sequence[charts.Series], env: schema.EnvRecord) -> dict[str, Any]:
    """Axis name -> Vega-Lite specification, for the axes that these runs have numbers for."""
    evals = tables.evals_table([by_id[run] for s in series for run in [*s.runs, *s.others]])
    return {
        axis.name: charts.specification(charts.learning_curves(evals, series, axis, env.reward_threshold))
        for axis in charts.usable_axes(evals)
    }
