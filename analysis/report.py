"""Run folders in; out come one self-contained HTML page, a JSON summary, Markdown, and the charts as figures."""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import jinja2
from altair.utils.schemapi import debug_mode

from analysis import cells, charts, contents, convert, curves, sentences, statistics, summary, tables, units
from analysis.convert import ANYWHERE, Rates

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
    at: Rates = ANYWHERE,
    markdown: Path | Literal["-"] | None = None,
    figures: Path | None = None,
) -> dict[str, Any]:
    """Read the run folders at or below ``folders``; write the page to ``out``, the summary to ``json_out`` ("-": standard output), the
    same content to ``markdown`` ("-" too) and every chart as SVG, PNG and PDF into the folder ``figures``, each where given. CO2 and money
    are computed at the rates ``at``. Returns the summary, see docs/json.md.

    Raises UnknownPlace for an unknown country, and ReportError where there is nothing to report or a file cannot be written; then no
    file was changed.
    """
    _check([path for path in (out, json_out, markdown) if isinstance(path, Path)], figures, at)
    try:
        runs, left_out = tables.read_runs(folders)
    except tables.NoRunsError as error:
        raise ReportError(str(error)) from error
    with ThreadPoolExecutor(1) as aside:  # the chart library is bundled without Python's lock, on another core
        if out is not None and any(len(run.evals) for run in runs):
            aside.submit(charts.javascript)
        result = summary.summarise(runs, left_out, at)
    files: dict[Path, bytes] = {}
    text: str | None = None
    if isinstance(json_out, Path):
        files[json_out] = _json(result).encode()
    if out is not None or markdown is not None or figures is not None:
        content = contents.content(runs, result)
        if out is not None:
            with debug_mode(False):  # Altair would validate every part of every chart; the tests draw them in a browser
                files[out] = page(content, result).encode()
        text = None if markdown is None else _render("report.md.j2", content, result)
        if isinstance(markdown, Path) and text is not None:
            files[markdown] = text.encode()
        if figures is not None:
            files |= {
                figures / f"{name}.{ending}": data
                for name, chart in content.figures()
                for ending, data in charts.figure(chart).items()
            }
    write_files(files, figures)
    if json_out == "-" and sys.stdout is not None:  # closed: `>&-`
        sys.stdout.write(_json(result))
    if markdown == "-" and text is not None and sys.stdout is not None:
        sys.stdout.write(text)
    return result


def _check(targets: Sequence[Path], figures: Path | None, at: Rates) -> None:
    if len({_resolved(path) for path in targets}) < len(targets):
        raise ReportError(f"{targets[0]} is named for the page and for the summary: give two files")
    for path in targets:
        if path.is_dir():
            raise ReportError(f"{path} is a folder: name a file in it, such as {path / 'report.html'}")
    for path in [*targets, *([figures] if figures else [])]:
        if not path.parent.is_dir():
            raise ReportError(f"{path.parent} does not exist: make that folder first, or name a file elsewhere")
    if figures is not None and figures.exists() and not figures.is_dir():
        raise ReportError(f"{figures} is a file: name a folder for the figures")


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # RuntimeError before Python 3.13
        raise ReportError(f"{path} is a link that leads back to itself: name a file") from None


def _json(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_files(files: dict[Path, bytes], folder: Path | None = None) -> None:
    """All of them or none: temporary files beside the targets first, then renamed into place.

    A link stays one, and what it leads to is written; a file that was there keeps its mode. A device or a pipe (``/dev/stdout``) is
    written to when everything else is ready.
    """
    ready: dict[Path, Path] = {}
    path = folder or Path()
    new = folder is not None and not folder.exists()
    try:
        if folder is not None:
            folder.mkdir(exist_ok=True)
        direct = [path for path in files if path.exists() and not path.is_file()]
        for path in files:
            if path in direct:
                continue
            target = path.resolve()
            mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            ready[target] = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(files[path])
            ready[target].chmod(mode)
        for path in direct:
            with path.open("wb") as file:
                file.write(files[path])
        for path, temporary in ready.items():
            os.replace(temporary, path)
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror}: name a file elsewhere") from error
    finally:
        for temporary in ready.values():
            temporary.unlink(missing_ok=True)
        if folder is not None and new:
            with suppress(OSError):  # it has its files
                folder.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def page(content: contents.Content, result: dict[str, Any]) -> str:
    """The HTML page of a summary, with everything it needs inside."""
    return _render("report.html.j2", content, result, javascript=charts.javascript() if content.has_charts else "")


def _render(template: str, content: contents.Content, result: dict[str, Any], **more: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(
        summary=result, content=content, setup=sentences.setup(result["runs"]) + sentences.rates(result), protocols=PROTOCOLS, sources=convert.sources(), u=units,
        say=sentences, plain=cells.plain, brain_w=convert.brain_power_w(), min_iqm=statistics.IQM_MIN_RUNS, points=curves.GRID_POINTS, **more,
    )  # fmt: skip
