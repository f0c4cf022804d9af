"""The checked claims in files: JSON, Markdown, and one offline HTML page."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from analysis.claims import words
from analysis.claims.check import ClaimsError, check


def write_claims(
    changes: Sequence[str] = (),
    ids: Sequence[str] = (),
    html: Path | None = None,
    json_out: Path | Literal["-"] | None = None,
    markdown: Path | Literal["-"] | None = None,
) -> dict[str, Any]:
    """Check the claims and write what was asked for, "-" to standard output; all files or none. Returns what ``check`` returns.

    Raises ClaimsError, and ReportError where a file cannot be written.
    """
    result = check(changes, ids)
    asked: list[tuple[Path | Literal["-"], str]] = []
    if html is not None:
        asked.append((html, page(result)))
    if json_out is not None:
        asked.append((json_out, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"))
    if markdown is not None:
        asked.append((markdown, as_markdown(result)))
    _write(asked)
    return result


def _write(asked: Sequence[tuple[Path | Literal["-"], str]]) -> None:
    targets = [str(target.resolve()) if isinstance(target, Path) else target for target, _ in asked]
    if len(set(targets)) < len(targets):
        raise ClaimsError("two outputs have one target: give each a file of its own, and `-` to one of them at most")
    if files := {target: text for target, text in asked if isinstance(target, Path)}:
        from analysis import report

        report.write_files({target: text.encode() for target, text in files.items()})
    for target, text in asked:
        if target == "-":
            sys.stdout.write(text)


def as_markdown(result: dict[str, Any]) -> str:
    """A table for a pull request or an appendix, the rules and the sources below it."""
    lines = ["# The lecture, checked", ""]
    if result["changed"]:
        lines += [f"Changed inputs: {words.changed_line(result)}.", ""]
    lines += ["| | The lecture says | Stated | Recomputed | Ratio | Verdict | Because |", "|---|---|---|---|---|---|---|"]
    for claim in result["claims"]:
        recomputed = words.amount(claim["recomputed"]["value"], claim["recomputed"]["unit"])
        recomputed += f" ({words.spread(claim['recomputed'])})" if words.spread(claim["recomputed"]) else ""
        cells = (
            claim["id"],
            claim["paraphrase"],
            words.stated(claim),
            recomputed,
            words.ratio(claim),
            words.judged(claim),
            claim["reason"],
        )
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    lines += ["", "Verdicts, ratio = stated / recomputed:", ""]
    lines += [f"- {name}: {rule}" for name, rule in result["verdicts"].items()]
    lines += ["", "Inputs:", ""]
    lines += [
        f"- `{it['id']}` {_cell(words.input_value(it))}: {_cell(it['quantity'])}; {words.BASES[it['basis']]}: {_cell(it['source'])}"
        for it in result["inputs"]
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def page(result: dict[str, Any]) -> str:
    """The HTML page, with everything it needs inside."""
    import jinja2

    from analysis import charts
    from analysis.claims import comparison

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    specifications = {
        claim["id"]: charts.specification(chart) for claim in result["claims"] if (chart := comparison.chart(claim)) is not None
    }
    topics: dict[str, list[dict[str, Any]]] = {}
    for claim in result["claims"]:
        topics.setdefault(claim["topic"], []).append(claim)
    return environment.get_template("claims.html.j2").render(
        result=result, topics=topics, inputs={it["id"]: it for it in result["inputs"]}, bases=words.BASES, charts=specifications,
        javascript=charts.javascript() if specifications else "", say=words, tiles=tiles(result),
    )  # fmt: skip


TILES = (("S1", "Atari frames, played by a person"), ("A5", "AlphaStar, each agent"), ("G8", "AlphaGo over a brain"),
         ("E1", "Power of the world"), ("C4", "GPT-3 on one V100"), ("C5", "GPT-3 in the cloud"))  # fmt: skip


def tiles(result: dict[str, Any]) -> list[dict[str, str]]:
    """The figures at the top of the page: {name, value, note}."""
    claims = {claim["id"]: claim for claim in result["claims"]}
    found = []
    for name, title in TILES:
        if (claim := claims.get(name)) is None:
            continue
        recomputed = claim["recomputed"]
        value, note = (
            words.amount(recomputed["value"], recomputed["unit"]),
            f"stated {words.stated(claim)}: {words.judged(claim)}",
        )
        if name == "A5":
            speed = next(also["value"] for also in claim["also"] if also["unit"] == "x")
            note = f"of play at {words.amount(speed, 'x')} real time: {words.judged(claim)}"
        found.append({"id": name, "name": title, "value": value, "note": note})
    return found
