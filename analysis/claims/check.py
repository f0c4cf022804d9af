"""Claims, inputs and formulas together: recomputed values with intervals, the ratio stated / recomputed, and a verdict.

``check`` returns plain data, the same that ``playmeter claims --json`` writes (schema 1):

- ``schema``; ``verdicts``: name -> its rule; ``changed``: input -> value, as given with ``--set``.
- ``inputs``: one object an input that a shown claim uses: id, quantity, value (null: not known), low, high (null: no interval),
  unit, basis (published, assumption, lecture, not seen, set), source.
- ``claims``: one object a claim: id, topic, paraphrase, source (of the claim), stated, unit, kind, recomputed {value, low, high,
  unit, formula, inputs}, ratio (stated / recomputed; null where one of them is, and for dates and the like), verdict, reason,
  assumes (ids of its inputs that are assumptions), sources (of its inputs), also: list of {label, value, low, high, unit,
  formula, inputs}.

An interval holds the values at all combinations of the ends of the inputs' intervals; null where no input has one.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import isfinite
from typing import Any

from analysis.claims.formulas import FORMULAS, Formula
from analysis.convert.tables import rows

SCHEMA = 1
HOLDS_WITHIN, ROUNDED_WITHIN = 0.01, 0.05

VERDICTS = {
    "holds": f"within {HOLDS_WITHIN:.0%} of the recomputed value, or inside its interval",
    "rounded": f"within {ROUNDED_WITHIN:.0%} of the recomputed value",
    "off by a factor": f"further away than {ROUNDED_WITHIN:.0%}; the factor is the larger over the smaller value",
    "differs": "a date, a year or a number of players that is another one",
    "derived": "the lecture states no number; the value follows from others that it names",
    "not checkable": "a statement without a number to compare with; figures that bear on it are given",
    "not checked": "an input was not seen in its source, or has no value",
}


class ClaimsError(ValueError):
    """One line that names the fault and the way out."""


@dataclass(frozen=True)
class Input:
    """A row of data/claim_inputs.csv; with a basis of "set" it was given by the user."""

    id: str
    quantity: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    basis: str
    source: str

    @property
    def ends(self) -> list[float]:
        """The values at which a formula is tried for its interval."""
        return sorted({end for end in (self.value, self.low, self.high) if end is not None})


def check(changes: Sequence[str] = (), ids: Sequence[str] = ()) -> dict[str, Any]:
    """All claims, or those named, with inputs replaced by ``changes`` ("name=value"). See the module for what is returned.

    Raises ClaimsError for an unknown name or claim and for a value that is no positive number.
    """
    inputs = {row["id"]: _input(row) for row in rows("claim_inputs")}
    changed = dict(_change(text, inputs) for text in changes)
    for name, value in changed.items():
        inputs[name] = replace(inputs[name], value=value, low=None, high=None, basis="set", source="given with --set")
    claims = [_checked(row, inputs) for row in _chosen(ids)]
    used = {name for claim in claims for part in (claim["recomputed"], *claim["also"]) for name in part["inputs"]}
    return {
        "schema": SCHEMA,
        "verdicts": VERDICTS,
        "changed": changed,
        "inputs": [asdict(it) for it in inputs.values() if it.id in used],
        "claims": claims,
    }


def _input(row: dict[str, str]) -> Input:
    value, low, high = (float(row[name]) if row[name] else None for name in ("value", "low", "high"))
    return Input(row["id"], row["quantity"], value, low, high, row["unit"], row["basis"], row["source"])


def _change(text: str, known: Mapping[str, Input]) -> tuple[str, float]:
    name, equals, number = text.partition("=")
    if not equals:
        raise ClaimsError(f"--set {text}: give a name and a value, such as --set alphago_power_w=0.5e6")
    if name not in known:
        raise ClaimsError(
            f"--set {text}: unknown input {name!r}{nearest(name, known)}; `playmeter claims --json -` lists them all"
        )
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not (isfinite(value) and value > 0):
        raise ClaimsError(f"--set {text}: {number!r} is not a positive number")
    return name, value


def _chosen(ids: Sequence[str]) -> list[dict[str, str]]:
    claims = {row["id"]: row for row in rows("lecture_claims")}
    for name in ids:
        if name not in claims:
            raise ClaimsError(f"unknown claim {name!r}{nearest(name.upper(), claims)}; `playmeter claims` lists them all")
    return [claims[name] for name in ids] if ids else list(claims.values())


def nearest(word: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(word, known, n=2, cutoff=0.4)
    return f": did you mean {' or '.join(near)}?" if near else ""


def _checked(row: dict[str, str], inputs: Mapping[str, Input]) -> dict[str, Any]:
    main, *others = (_evaluated(formula, inputs) for formula in FORMULAS[row["id"]])
    used = [inputs[name] for name in main["inputs"]]
    stated = float(row["stated"]) if row["stated"] else None
    seen = main["value"] is not None and all(it.basis != "not seen" for it in used)
    ratio = None if stated is None or main["value"] is None or row["kind"] == "exact" else stated / main["value"]
    del main["label"]
    return {
        "id": row["id"], "topic": row["topic"], "paraphrase": row["paraphrase"], "source": row["source"],
        "stated": stated, "unit": row["unit"], "kind": row["kind"], "recomputed": main, "ratio": ratio,
        "verdict": verdict(row["kind"], stated, main, seen), "reason": row["reason"],
        "assumes": [it.id for it in used if it.basis == "assumption"],
        "sources": list(dict.fromkeys(it.source for it in used)), "also": others,
    }  # fmt: skip


def _evaluated(formula: Formula, inputs: Mapping[str, Input]) -> dict[str, Any]:
    used = [inputs[name] for name in formula.inputs]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    if all(it.value is not None for it in used):
        value = _call(formula, [it.value for it in used if it.value is not None])
        if any(len(it.ends) > 1 for it in used):
            corners = [_call(formula, corner) for corner in product(*(it.ends for it in used))]
            low, high = min(corners), max(corners)
    return {
        "label": formula.label, "value": value, "low": low, "high": high, "unit": formula.unit, "formula": formula.text,
        "inputs": list(formula.inputs),
    }  # fmt: skip


def _call(formula: Formula, values: Sequence[float]) -> float:
    try:
        value = float(formula.function(*values))
    except ArithmeticError:
        value = float("nan")
    if not isfinite(value):
        given = ", ".join(f"{name} = {value:g}" for name, value in zip(formula.inputs, values, strict=True))
        raise ClaimsError(f"{formula.text} is no finite number with {given}: give other values with --set")
    return value


def verdict(kind: str, stated: float | None, recomputed: Mapping[str, Any], seen: bool) -> str:
    """The first of the rules in VERDICTS that applies, "not checked" before all others."""
    value, low, high = recomputed["value"], recomputed["low"], recomputed["high"]
    if not seen:
        return "not checked"
    if kind in ("derived", "qualitative") or stated is None:
        return "derived" if kind == "derived" else "not checkable"
    if kind == "exact":
        return "holds" if stated == value else "differs"
    distance = round(abs(stated / value - 1), 9)  # 1.01 is within 1 %, whatever its last bit
    if distance <= HOLDS_WITHIN or (low is not None and low <= stated <= high):
        return "holds"
    return "rounded" if distance <= ROUNDED_WITHIN else "off by a factor"
