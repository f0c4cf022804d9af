"""The checked claims in a terminal: a table, or each claim in full."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from analysis.claims import words

if TYPE_CHECKING:
    from rich.console import Console

MAX_WIDTH = 120


def show(result: dict[str, Any], console: Console | None = None) -> None:
    """The table, or a claim in full where ids were asked for; at most 120 columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    class Quiet(Console):
        """Whoever read the output has gone (`| head`): main() says how that ends, where rich would exit with 1."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    console = console or Quiet(highlight=False)
    console.width = min(console.width, MAX_WIDTH) if console.is_terminal else MAX_WIDTH
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for name, options in (
        ("", {"no_wrap": True}), ("the lecture says", {"ratio": 4}), ("stated", {"max_width": 13}), ("recomputed", {"max_width": 16}),
        ("ratio", {"justify": "right", "no_wrap": True}), ("verdict", {"max_width": 15}), ("because", {"ratio": 5}),
    ):  # fmt: skip
        table.add_column(name, **options)  # type: ignore[arg-type]
    for claim in result["claims"]:
        recomputed = "\n".join(filter(None, [words.amount(claim["recomputed"]["value"], claim["recomputed"]["unit"]),
                                             words.spread(claim["recomputed"])]))  # fmt: skip
        cells = (
            claim["id"],
            claim["paraphrase"],
            words.stated(claim),
            recomputed,
            words.ratio(claim),
            words.judged(claim),
            claim["reason"],
        )
        table.add_row(*map(_plain, cells))
    if result["changed"]:
        console.print(_plain(f"Changed: {words.changed_line(result)}. Reasons are written for the unchanged inputs."))
    console.print(table)
    counts = ", ".join(f"{count} {name}" for name, count in words.tally(result))
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
    around = f" ({words.spread(recomputed)})" if words.spread(recomputed) else ""
    facts = [
        ("stated", words.stated(claim)),
        ("recomputed", f"{words.amount(recomputed['value'], recomputed['unit'])}{around} = {recomputed['formula']}"),
        ("verdict", words.judged(claim) + (f", stated / recomputed {words.ratio(claim)}" if claim["ratio"] else "")),
        ("because", claim["reason"]),
        *(("also", f"{words.sentence(also)} = {also['formula']}") for also in claim["also"]),
    ]
    lines = [f"{claim['id']}: {claim['paraphrase']}"]
    lines += [_wrapped(f"  {name:<12}{text}", 14) for name, text in facts]
    for it in (inputs[name] for name in words.names_of(claim)):
        lines.append(
            _wrapped(f"  {it['id']} = {words.input_value(it)}: {it['quantity']}; {words.BASES[it['basis']]}: {it['source']}", 6)
        )
    return lines


def _wrapped(text: str, indent: int) -> str:
    return textwrap.fill(text, MAX_WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
