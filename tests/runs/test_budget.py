"""Budgets: what a text means, what is refused and how, and when a budget is used up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runs.budget import Budget, BudgetError, one_spelling, parse_budget


@pytest.mark.parametrize(
    ("text", "quantity", "amount"),
    [
        ("100k-steps", "steps", 100_000),
        ("100_000-steps", "steps", 100_000),
        ("1-step", "steps", 1),
        ("1.1k-steps", "steps", 1100),  # in binary 1.1 * 1000 is not whole
        ("2e3steps", "steps", 2000),
        ("5 M steps", "steps", 5_000_000),
        ("400k-frames", "frames", 400_000),
        ("10M-frames", "frames", 10_000_000),
        ("10m-FRAMES", "frames", 10_000_000),
        ("1G-frames", "frames", 1e9),
        ("1b-frames", "frames", 1e9),
        ("2h-play", "play_s", 7200),
        ("45min-play", "play_s", 2700),
        ("3d-play", "play_s", 3 * 86_400),
        ("30min", "wall_s", 1800),
        ("90s", "wall_s", 90),
        ("1.5H", "wall_s", 5400),
        ("0.5kWh", "joules", 1.8e6),  # 1 kWh = 3.6e6 J
        ("0.5kwh", "joules", 1.8e6),
        ("20Wh", "joules", 72_000),
        ("500J", "joules", 500),
        ("2kJ", "joules", 2000),
        ("2MJ", "joules", 2e6),
        ("1e15flops", "flops", 1e15),
        ("1e15-FLOPs", "flops", 1e15),
        ("3Pflops", "flops", 3e15),
        (" 100k-steps ", "steps", 100_000),
    ],
)
def test_a_budget_is_a_number_with_a_unit(text, quantity, amount):
    budget = parse_budget(text)
    assert (budget.quantity, budget.amount) == (quantity, amount)
    assert parse_budget(str(budget)) == budget


UNITS = [
    ("-steps", "steps", 1),
    ("k-steps", "steps", 1e3),
    ("M-frames", "frames", 1e6),
    ("s-play", "play_s", 1),
    ("h-play", "play_s", 3600),
    ("min", "wall_s", 60),
    ("d", "wall_s", 86_400),
    ("J", "joules", 1),
    ("kWh", "joules", 3.6e6),
    ("flops", "flops", 1),
    ("Tflops", "flops", 1e12),
]


@given(st.integers(1, 10**9), st.sampled_from(UNITS), st.sampled_from(["{}", "{:_}", "{:.0f}.0", "{:.12e}"]))
@example(36893489, UNITS[-1], "{}")  # a quotient of floats that is no whole number
def test_any_amount_of_any_unit_reads_back_as_itself(number, unit, form):
    suffix, quantity, factor = unit
    budget = parse_budget(form.format(number) + suffix)
    assert budget.quantity == quantity
    assert budget.amount == pytest.approx(number * factor, rel=1e-15)
    assert parse_budget(str(budget)) == budget
    assert "\n" not in str(budget)
    one = one_spelling(str(budget))
    assert (parse_budget(one).quantity, parse_budget(one).amount) == (quantity, budget.amount)
    assert one_spelling(one) == one


@pytest.mark.parametrize(
    ("spellings", "one"),
    [
        (("1000-steps", "1k-steps", "1e3 steps", "0.001M-steps"), "1k-steps"),
        (("1100-steps", "1.1k-steps"), "1100-steps"),
        (("200M-frames", "200000000-frames", "0.2g-frames"), "200M-frames"),
        (("2h-play", "120min-play"), "2h-play"),
        (("3s", "0.05min"), "3s"),
        (("0.5kWh", "500Wh", "1.8MJ"), "500Wh"),
        (("1e15flops", "1 Pflop"), "1Pflops"),
        (("1e14flops", "0.1Pflops"), "100Tflops"),
        (("unknown",), "unknown"),
    ],
)
def test_budgets_that_are_the_same_have_one_spelling(spellings, one):
    assert {one_spelling(each) for each in spellings} == {one}


FRAGMENTS = [
    "1",
    "0",
    "99",
    ".",
    "_",
    "-",
    "+",
    "e",
    "k",
    "m",
    "M",
    "G",
    "steps",
    "frames",
    "play",
    "s",
    "min",
    "h",
    "d",
    "J",
    "Wh",
    "flops",
    "nan",
    "inf",
    ",",
    "\n",
    "٣",
    "²",
]


@given(st.text(max_size=60) | st.lists(st.sampled_from([*FRAGMENTS, " "]), max_size=8).map("".join))
@example("1" + "\U00018cd6" * 40)  # ten characters each when shown
def test_any_other_text_is_refused_in_one_short_line(text):
    try:
        budget = parse_budget(text)
    except BudgetError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 300
    else:
        assert math.isfinite(budget.amount)
        assert budget.amount > 0


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("100k", "100k what? Say e.g. 100k-steps"),
        ("100", "100 what? Say e.g. 100-steps"),
        ("30m", "30m what? Say e.g. 30min or 30m-steps"),
        ("0-steps", "more than 0"),
        ("0J", "more than 0"),
        ("-5-steps", "more than 0"),
        ("1e-400J", "more than 0"),
        ("nan-steps", "does not start with a number"),
        ("inf", "does not start with a number"),
        ("", "does not start with a number"),
        ("steps", "does not start with a number"),
        ("1e400flops", "not finite"),
        ("1e999999flops", "not finite"),
        ("9e99999999999999999999-steps", "out of range"),
        ("1.5-steps", "not a whole number of steps"),
        ("5-parsecs", "unknown unit 'parsecs'"),
        ("2h-steps", "unknown unit 'h-steps'"),
        ("2k-play", "play is counted in time"),
        ("2-play", "play is counted in time"),
        ("5ms", "unknown unit 'ms'"),
        ("1h30min", "unknown unit 'h30min'"),
        ("1,000-steps", "unknown unit"),
        ("500mJ", "500MJ"),
        ("500mWh", "500MWh"),
        ("1Tflop/s", "unknown unit"),
        ("100k-steps\n400k-frames", "unknown unit"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_valid_examples(text, fault):
    with pytest.raises(BudgetError) as refused:
        parse_budget(text)
    message = str(refused.value)
    assert fault in message
    assert "-steps" in message or "2h-play" in message
    assert "\n" not in message


COUNTERS = {"steps": 500, "frames": 2000, "play_s": 36.0, "wall_s": 15.0, "joules": 90.0, "flops": 10**15}


@pytest.mark.parametrize(
    ("text", "used", "fraction"),
    [
        ("1k-steps", 500, 0.5),
        ("500-steps", 500, 1.0),
        ("1k-frames", 2000, 2.0),
        ("1h-play", 36, 0.01),
        ("1min", 15, 0.25),
        ("0.1Wh", 90, 0.25),
        ("4Pflops", 1e15, 0.25),
    ],
)
def test_the_spent_share_is_taken_from_the_counter_of_that_quantity(text, used, fraction):
    budget = parse_budget(text)
    assert budget.used(COUNTERS) == used
    assert budget.fraction(COUNTERS) == fraction


def test_counters_may_be_an_object_with_attributes():
    @dataclass
    class Spent:
        steps: int = 250

    assert parse_budget("1k-steps").fraction(Spent()) == 0.25


def test_play_needs_physical_time_and_is_refused_before_the_start():
    play = parse_budget("2h-play")
    play.check(60.0)
    with pytest.raises(BudgetError, match=r"no physical time.*100k-steps"):
        play.check(None)
    with pytest.raises(BudgetError, match="play_s is not counted"):
        play.fraction(COUNTERS | {"play_s": None})
    parse_budget("100k-steps").check(None)


def test_a_budget_cannot_be_changed():
    with pytest.raises(AttributeError):
        Budget("1-step", "steps", 1).amount = 2  # type: ignore[misc]
