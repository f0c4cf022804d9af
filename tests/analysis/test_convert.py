import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import convert, units


def test_200_million_frames_at_60_hz_are_38_days_of_play():
    hours = convert.play_h(convert.protocol_200m_frames(), 60.0)
    assert hours == pytest.approx(200e6 / 60 / 3600)
    assert hours == pytest.approx(925.9, abs=0.05)
    assert hours / 24 == pytest.approx(38.6, abs=0.05)


def test_50_thousand_cartpole_steps_at_50_hz_are_1000_seconds():
    assert convert.play_h(50_000, 50.0) * 3600 == pytest.approx(1000)


def test_a_task_without_physical_time_has_no_playtime():
    assert convert.play_h(50_000, None) is None


def test_a_kilowatt_hour_is_3_6_megajoules_and_runs_a_20_w_brain_for_50_hours():
    assert convert.kwh(3.6e6) == 1
    assert convert.brain_h(3.6e6) == pytest.approx(1000 / 20)


def test_unknown_stays_unknown():
    assert convert.kwh(None) is None
    assert convert.cost_usd(None, 0.3) is None
    assert convert.cost_usd(2.0, None) is None
    assert convert.cost_usd(2.0, 0.3) == pytest.approx(0.6)


def test_constants_are_the_published_ones():
    assert convert.human_practice_h() == 2
    assert convert.brain_power_w() == (20, 16, 24.21)


def test_human_normalised_score_is_0_for_random_and_1_for_the_tester():
    breakout = convert.atari_scores("ALE/Breakout-v5")
    assert (breakout.random, breakout.human) == (1.7, 30.5)
    assert breakout.normalise(1.7) == 0
    assert breakout.normalise(30.5) == 1
    assert breakout.at(0.5) == pytest.approx(16.1)
    assert convert.atari_scores("CartPole-v1") is None


def test_every_row_of_every_table_names_its_source():
    for name in ("human_anchors", "human_energy", "atari_scores"):
        rows = convert._table(name).values()
        assert rows
        assert all(row["source"].strip() and "http" not in row["source"] for row in rows)


@pytest.mark.parametrize(
    ("joules", "text"),
    [(0, "0 J"), (0.83, "0.830 J"), (1440, "0.400 Wh"), (3599, "1.00 Wh"), (5.4e6, "1.50 kWh"), (7.2e9, "2.00 MWh")],
)
def test_energy_is_written_in_a_unit_that_fits(joules, text):
    assert units.energy(joules) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "0.250 s"), (83, "83.0 s"), (1000, "16.7 min"), (7200, "2.00 h"), (200e6 / 60, "38.6 days")]
)
def test_durations_are_written_in_a_unit_that_fits(seconds, text):
    assert units.duration(seconds) == text


def test_a_range_names_its_unit_once_where_both_ends_share_it():
    assert units.energy_range(432, 6120) == "0.120–1.70 Wh"
    assert units.energy_range(18, 6120) == "18.0 J–1.70 Wh"


def test_numbers_for_people():
    assert units.count(50_000) == "50,000"
    assert units.count(2e8) == "200 million"
    assert units.flops(1.234e12) == "1.23 × 10¹²"
    assert units.score(-110.0) == "−110"
    assert units.score(0.0) == "0"
    assert units.money(0.0012) == "$0.00120"
    assert [
        f(None) for f in (units.energy, units.duration, units.hours, units.count, units.flops, units.score, units.size)
    ] == ["–"] * 7


@given(st.floats(min_value=1e-9, max_value=1e15))
def test_nothing_that_was_spent_is_written_as_zero(value):
    for text in (units.energy(value), units.duration(value), units.hours(value), units.money(value), units.percent(value)):
        assert any(digit in text for digit in "123456789")


@given(st.floats(min_value=1e-6, max_value=1e12))
def test_three_digits_are_within_half_a_percent(value):
    assert float(units.significant(value).replace(",", "")) == pytest.approx(value, rel=5.1e-3)
