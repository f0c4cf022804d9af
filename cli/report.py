"""``playmeter report`` and ``playmeter claims``."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

from cli.parsing import file_or_dash, parse
from runs.config import InputError


@dataclass(frozen=True)
class Report:
    """One self-contained HTML page about everything found in the folders: what was learned and what it cost."""

    folders: Positional[tuple[Path, ...]] = (Path("results"),)
    """Run folders, or folders that hold some."""
    out: Path | None = None
    """The page; report.html unless only --json, --markdown or --figures is asked for."""
    json: str | None = None
    """Write the machine-readable summary (docs/json.md) to this file, or to standard output with `-`."""
    markdown: str | None = None
    """Write the same content as Markdown, for a paper's appendix or a pull request, or to standard output with `-`."""
    figures: Path | None = None
    """Write every chart into this folder, as SVG, PNG and PDF."""
    country: str | None = None
    """Where the runs ran, for their CO2: a three-letter code or an English name, e.g. DEU; the default is the world mean with its range."""
    price_usd_per_kwh: float | None = None
    """Your price of electricity, for the costs in money; the default is a dated table that the report names."""
    price_usd_per_gpu_hour: str | None = None
    """Count the rent of GPUs too: your price, or a device whose dated price is taken, e.g. 2.50 or "H200 SXM"."""
    pue: str | None = None
    """What the building draws for each kWh of the computer: a number such as 1.2, or a facility of a dated table, e.g. "Google Cloud"."""


@dataclass(frozen=True)
class Claims:
    """The quantitative claims of Vitay's lecture "Limits of deep learning", recomputed from published inputs."""

    ids: Positional[tuple[str, ...]] = ()
    """Some claims only, in full with inputs and sources, e.g. `S1 C4`."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Another value for an input, e.g. `--set alphago_power_w=0.5e6`; may be repeated."""
    json: str | None = None
    """Write everything to this file, or to standard output with `-`; analysis/claims/check.py describes it."""
    html: Path | None = None
    """Write one offline page with charts to this file."""
    markdown: str | None = None
    """Write a Markdown table to this file, or to standard output with `-`."""


def report_command(argv: Sequence[str]) -> int:
    """Write a comparison report of run folders: one HTML page, or JSON."""

    from analysis.convert import Rates
    from analysis.report import write_report

    asked: Report = parse(Report, argv, "report")
    others = {"summary": asked.json, "markdown": asked.markdown, "figures": asked.figures}
    out = asked.out or (None if any(others.values()) else Path("report.html"))
    json_out, markdown = file_or_dash(asked.json), file_or_dash(asked.markdown)
    if json_out == markdown == "-":
        raise InputError("--json - and --markdown - would both write to standard output: name a file for one")
    if "-" in (json_out, markdown):
        as_the_files_are()
    at = Rates(asked.country, asked.price_usd_per_kwh, asked.price_usd_per_gpu_hour, asked.pue)
    write_report(list(asked.folders), out, json_out, at, markdown, asked.figures)
    for name, path in ({"report": out} | others).items():
        if path and path != "-":
            print(f"{name}: {path}", file=sys.stderr if "-" in (asked.json, asked.markdown) else sys.stdout)
    return 0


def claims_command(argv: Sequence[str]) -> int:
    """Check the numbers of a lecture on the limits of deep learning."""

    from analysis.claims.page import write_claims
    from analysis.claims.terminal import in_full, show

    asked: Claims = parse(Claims, argv, "claims")
    json_out, markdown = file_or_dash(asked.json), file_or_dash(asked.markdown)
    if "-" in (json_out, markdown):
        as_the_files_are()
    result = write_claims(asked.set, asked.ids, asked.html, json_out, markdown)
    written = [path for path in (asked.html, asked.json, asked.markdown) if path is not None]
    for path in written:
        if path != "-":
            print(f"claims: {path}", file=sys.stderr if "-" in written else sys.stdout)
    if not written and asked.ids:
        print(in_full(result))
    elif not written:
        show(result)
    return 0


def as_the_files_are() -> None:
    """Standard output in UTF-8, whatever the terminal's locale."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
