"""What TensorBoard shows of a run under way, from two lines of a ledger worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runs.curves import live
from runs.schema import Counts, Energy
from tests.runs.test_schema import LINE

BEFORE = replace(
    LINE,
    wall_s=10.0,
    lineage=Counts(4000, 1000, 900, 3),
    gpu_allocated_s=5.0,
    gpu_busy_s=2.0,
    energy={"gpu_board": Energy(3000.0, 0, 0, "measured"), "cpu_package": Energy(600.0, 0, 0, "estimated")},
)
LATER = replace(
    BEFORE,
    wall_s=12.0,
    lineage=Counts(4720, 1180, 1000, 3),
    gpu_allocated_s=6.0,
    gpu_busy_s=2.25,
    energy={"gpu_board": Energy(3500.0, 0, 0, "measured"), "cpu_package": Energy(640.0, 0, 0, "estimated")},
)


def test_watts_utilisation_and_speed_are_of_the_time_between_two_lines_and_energy_is_cumulative() -> None:
    assert live(BEFORE, LATER) == {
        "meter/energy, Wh": pytest.approx(4140 / 3600),
        "meter/power, W": pytest.approx((500 + 40) / 2),
        "meter/GPU utilisation, %": pytest.approx(25.0),  # half of the board is ours, and a quarter of that second it was busy
        "speed/frames per s": 360.0,
        "speed/steps per s": 90.0,
    }


def test_what_is_not_known_has_no_curve() -> None:
    silent = {"lineage": Counts(None, None, None, None), "gpu_busy_s": None, "energy": {"gpu_board": Energy(0, 0, 0, "absent")}}
    assert live(replace(BEFORE, **silent), replace(LATER, **silent)) == {}
    assert "meter/GPU utilisation, %" not in live(replace(BEFORE, gpu_allocated_s=0.0), replace(LATER, gpu_allocated_s=0.0))


def test_a_source_that_went_away_makes_no_negative_watts() -> None:
    lost = replace(LATER, energy=LATER.energy | {"gpu_board": Energy(0, 0, 0, "absent")})
    assert "meter/power, W" not in live(BEFORE, lost)
    assert "meter/power, W" not in live(lost, replace(LATER, wall_s=14.0))


def test_a_heartbeat_of_an_evaluation_shows_no_speed() -> None:
    assert not [name for name in live(BEFORE, replace(LATER, lineage=BEFORE.lineage)) if name.startswith("speed")]
