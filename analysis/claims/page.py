"""The checked claims for people: a table for the terminal, one claim in full, Markdown, and one offline HTML page."""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analysis import units
from analysis.claims.check import ClaimsError, check

if TYPE_CHECKING:
    from rich.console import Console

MAX_WIDTH = 120
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))  # of watts
BASES = {
    "published": "published", "assumption": "an assumption", "lecture": "stated in the lecture", "not seen": "not seen in its source",
    "set": "given with --set",
}  # fmt: skip

PHRASES = {
    "holds": ("holds", "hold"), "rounded": ("is rounded", "are rounded"),
    "off by a factor": ("is off by a factor", "are off by a factor"), "differs": ("names another date or number", "name another date or number"),
    "derived": ("follows without a number of the lecture's", "follow without a number of the lecture's"),
    "not checkable": ("has no number to compare with", "have no number to compare with"),
    "not checked": ("could not be checked", "could not be checked"),
}  # fmt: skip


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

        report._write(files)
    for target, text in asked:
        if target == "-":
            sys.stdout.write(text)


# Words and numbers


def amount(value: float | None, unit: str) -> str:
    """A number with its unit, three significant digits: ``205 kW``, ``4.67 million USD``, ``25,000 TWh``, ``463×``."""
    if value is None:
        return "not known"
    if unit == "year":
        return f"{value:.0f}"
    if unit == "W":
        divisor, prefix = next(((size, name) for size, name in _SCALES if value >= size), (1.0, ""))
        return f"{number(value / divisor)} {prefix}W"
    if unit.split(" ")[0] == "x":
        return f"{number(value)}×{unit[1:]}"
    return f"{number(value)} {unit.removesuffix('s') if value == 1 else unit}".rstrip()


def number(value: float) -> str:
    if value >= 1e15:
        return units.flops(value)
    if value >= 1e6:
        name, size = ("billion", 1e9) if value >= 1e9 else ("million", 1e6)
        return f"{_trim(units.significant(value / size))} {name}"
    return _trim(units.significant(value))


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def stated(claim: dict[str, Any]) -> str:
    return "no number" if claim["stated"] is None else amount(claim["stated"], claim["unit"])


def spread(part: dict[str, Any]) -> str:
    """``197 to 293 kW``, empty where no input has an interval or both ends read the same."""
    if part["low"] is None:
        return ""
    low, high = amount(part["low"], part["unit"]), amount(part["high"], part["unit"])
    if low == high:
        return ""
    figure, _, unit = low.partition(" ")
    return f"{figure if unit == high.partition(' ')[2] else low} to {high}"


def judged(claim: dict[str, Any]) -> str:
    """The verdict, with its factor where it has one."""
    if claim["verdict"] != "off by a factor":
        return str(claim["verdict"])
    return f"off by a factor of {units.significant(max(claim['ratio'], 1 / claim['ratio']), 2)}"


def ratio(claim: dict[str, Any]) -> str:
    return units.ABSENT if claim["ratio"] is None else units.significant(claim["ratio"])


def sentence(also: dict[str, Any]) -> str:
    around = f" ({spread(also)})" if spread(also) else ""
    return f"{amount(also['value'], also['unit'])}{around}, {also['label']}"


def tally(result: dict[str, Any]) -> list[tuple[str, int]]:
    """Verdicts with how many claims have them, in the order of the rules."""
    counts = Counter(claim["verdict"] for claim in result["claims"])
    return [(name, counts[name]) for name in result["verdicts"] if counts[name]]


def changed_line(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in result["changed"].items())


# Terminal


def show(result: dict[str, Any], console: Console | None = None) -> None:
    """The table, or a claim in full where ids were asked for; at most 120 columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = console or Console(highlight=False)
    console.width = min(console.width, MAX_WIDTH) if console.is_terminal else MAX_WIDTH
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for name, options in (
        ("", {"no_wrap": True}), ("the lecture says", {"ratio": 4}), ("stated", {"max_width": 13}), ("recomputed", {"max_width": 16}),
        ("ratio", {"justify": "right", "no_wrap": True}), ("verdict", {"max_width": 15}), ("because", {"ratio": 5}),
    ):  # fmt: skip
        table.add_column(name, **options)  # type: ignore[arg-type]
    for claim in result["claims"]:
        recomputed = "\n".join(filter(None, [amount(claim["recomputed"]["value"], claim["recomputed"]["unit"]),
                                             spread(claim["recomputed"])]))  # fmt: skip
        cells = (claim["id"], claim["paraphrase"], stated(claim), recomputed, ratio(claim), judged(claim), claim["reason"])
        table.add_row(*map(_plain, cells))
    if result["changed"]:
        console.print(_plain(f"Changed: {changed_line(result)}. Reasons are written for the unchanged inputs."))
    console.print(table)
    counts = ", ".join(f"{count} {name}" for name, count in tally(result))
    console.print(_plain(f"\n{len(result['claims'])} claims: {counts}."))
    console.print(
        _plain("`playmeter claims S1` shows inputs and sources, --set NAME=VALUE changes an input, --html FILE is a page.")
    )


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)  # nothing in a table is markup


def in_full(result: dict[str, Any]) -> str:
    """Each claim with its formula, inputs and sources, as plain text."""
    inputs = {it["id"]: it for it in result["inputs"]}
    return "\n\n".join("\n".join(_lines(claim, inputs)) for claim in result["claims"])


def _lines(claim: dict[str, Any], inputs: dict[str, Any]) -> list[str]:
    recomputed = claim["recomputed"]
    around = f" ({spread(recomputed)})" if spread(recomputed) else ""
    facts = [
        ("stated", stated(claim)),
        ("recomputed", f"{amount(recomputed['value'], recomputed['unit'])}{around} = {recomputed['formula']}"),
        ("verdict", judged(claim) + (f", stated / recomputed {ratio(claim)}" if claim["ratio"] else "")),
        ("because", claim["reason"]),
        *(("also", f"{sentence(also)} = {also['formula']}") for also in claim["also"]),
    ]
    lines = [f"{claim['id']}: {claim['paraphrase']}"]
    lines += [_wrapped(f"  {name:<12}{text}", 14) for name, text in facts]
    for it in (inputs[name] for name in names_of(claim)):
        lines.append(_wrapped(f"  {it['id']} = {input_value(it)}: {it['quantity']}; {BASES[it['basis']]}: {it['source']}", 6))
    return lines


def _wrapped(text: str, indent: int) -> str:
    return textwrap.fill(text, MAX_WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def names_of(claim: dict[str, Any]) -> list[str]:
    """The inputs of a claim and of the figures beside it."""
    return list(dict.fromkeys(name for part in (claim["recomputed"], *claim["also"]) for name in part["inputs"]))


def input_value(it: dict[str, Any]) -> str:
    """As precise as the table has it: an input is not rounded."""
    if it["value"] is None:
        return "not known"
    low, high = (it["value"] if it[end] is None else it[end] for end in ("low", "high"))
    around = "" if low == high else f" ({_exact(low)} to {_exact(high)})"
    return f"{_exact(it['value'])}{around}{'' if it['unit'] == 'of 1' else ' ' + it['unit']}"


def _exact(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and value < 1e15 else f"{value:.16g}"


# Markdown and HTML


def as_markdown(result: dict[str, Any]) -> str:
    """A table for a pull request or an appendix, the rules and the sources below it."""
    lines = ["# The lecture, checked", ""]
    if result["changed"]:
        lines += [f"Changed inputs: {changed_line(result)}.", ""]
    lines += ["| | The lecture says | Stated | Recomputed | Ratio | Verdict | Because |", "|---|---|---|---|---|---|---|"]
    for claim in result["claims"]:
        recomputed = amount(claim["recomputed"]["value"], claim["recomputed"]["unit"])
        recomputed += f" ({spread(claim['recomputed'])})" if spread(claim["recomputed"]) else ""
        cells = (claim["id"], claim["paraphrase"], stated(claim), recomputed, ratio(claim), judged(claim), claim["reason"])
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    lines += ["", "Verdicts, ratio = stated / recomputed:", ""]
    lines += [f"- {name}: {rule}" for name, rule in result["verdicts"].items()]
    lines += ["", "Inputs:", ""]
    lines += [
        f"- `{it['id']}` {_cell(input_value(it))}: {_cell(it['quantity'])}; {BASES[it['basis']]}: {_cell(it['source'])}"
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
        result=result, topics=topics, inputs={it["id"]: it for it in result["inputs"]}, bases=BASES, charts=specifications,
        javascript=charts.javascript() if specifications else "", say=sys.modules[__name__], tiles=tiles(result),
    )  # fmt: skip


TILES = (("S1", "200 million frames of Atari"), ("A5", "AlphaStar, each agent"), ("G8", "AlphaGo over a brain"),
         ("E1", "Power of the world"), ("C4", "GPT-3 on one V100"), ("C5", "GPT-3 in the cloud"))  # fmt: skip


def tiles(result: dict[str, Any]) -> list[dict[str, str]]:
    """The figures at the top of the page: {name, value, note}."""
    claims = {claim["id"]: claim for claim in result["claims"]}
    found = []
    for name, title in TILES:
        if (claim := claims.get(name)) is None:
            continue
        recomputed = claim["recomputed"]
        value, note = amount(recomputed["value"], recomputed["unit"]), f"stated {stated(claim)}: {judged(claim)}"
        if name == "A5":
            speed = next(also["value"] for also in claim["also"] if also["unit"] == "x")
            note = f"of play at {amount(speed, 'x')} real time: {judged(claim)}"
        found.append({"id": name, "name": title, "value": value, "note": note})
    return found
