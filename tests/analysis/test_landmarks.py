import csv
from dataclasses import fields

import pytest

from analysis import convert
from analysis.landmarks import landmarks

BY_NAME = {it.system: it for it in landmarks()}


def test_the_systems_that_a_reader_looks_for_are_there():
    wanted = {
        "Human tester", "DQN (2015)", "AlphaGo Lee", "AlphaZero", "AlphaStar (January 2019 league)", "OpenAI Five", "MuZero (Atari)",
        "Agent57 (Skiing)", "GPT-3", "BBF",
    }  # fmt: skip
    assert wanted <= set(BY_NAME)
    assert len(BY_NAME) == len(landmarks())


def test_every_landmark_has_a_source_and_what_is_unknown_is_none():
    for it in landmarks():
        assert it.source.strip()
        assert "" not in [getattr(it, field.name) for field in fields(it)]
        assert (it.play_years is None) == (it.play_how is None)
        assert (it.energy_kwh is None) == (it.energy_how is None)
        assert all(
            number is None or number > 0 for number in (it.experience, it.play_years, it.energy_kwh, it.flop, it.cost_usd)
        )
    assert BY_NAME["AlphaGo Lee"].play_years is None, "positions have no length in time"
    assert BY_NAME["GPT-3"].play_years is None
    assert BY_NAME["DQN (2013)"].play_years is None, "whether its frames count skipped ones is not known"
    assert BY_NAME["DQN (2015)"].energy_kwh is None, "its GPU is not named"


def test_playtime_is_frames_at_60_hz_or_as_stated():
    assert BY_NAME["DQN (2015)"].play_years == pytest.approx(925.926 / 8766, rel=1e-5)  # 200e6 / 60 / 3600 h
    assert BY_NAME["Agent57 (Skiing)"].play_years == pytest.approx(41.19, abs=0.01)  # 78e9 / 60 / 3600 / 8766
    assert BY_NAME["OpenAI Five"].play_years == 45_000
    assert BY_NAME["Human tester"].play_years * 8766 == pytest.approx(2)


def test_energy_is_power_times_time_and_says_whose_power():
    assert BY_NAME["GPT-3"].energy_kwh == pytest.approx(5_100_760 * 14.8 * 24 / 1000)  # 1.81 GWh
    assert "Epoch AI" in BY_NAME["GPT-3"].energy_how
    league = BY_NAME["AlphaStar (January 2019 league)"]
    assert league.energy_kwh == pytest.approx(16 * 220 * 14 * 24 / 1000)  # 1,182.7 kWh an agent
    assert "without hosts: 16 x 220 W (TPU v3)" in league.energy_how
    assert BY_NAME["Human tester"].energy_kwh == pytest.approx(0.04)  # 20 W for 2 h
    assert BY_NAME["OpenAI Five"].energy_kwh == pytest.approx(786_396 * 296 * 24 / 1000)


def test_every_row_is_in_order():
    years = [it.year for it in landmarks()]
    assert years == sorted(years)
    with (convert.DATA / "landmarks.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(years)
