"""What the user says about his machine, and which sources a run gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs.energy import EnergyOptions, StatedWatts, check_options, sources_for
from runs.energy.processor import parse_watts
from runs.meter import Meter
from runs.schema import Energy, energy_grade, is_short_window, total_energy
from tests.runs.fake_nvml import Clock

NOWHERE = Path("/nowhere/powercap")


@pytest.mark.parametrize(("text", "low_high"), [("70", (70.0, 70.0)), ("65:85", (65.0, 85.0)), ("0.5:1.5", (0.5, 1.5))])
def test_watts_are_a_number_or_a_range(text, low_high):
    assert parse_watts(text) == low_high


@pytest.mark.parametrize(
    "text", ["abc", "", ":", "-5", "0", "65:", ":85", "1:2:3", "nan", "inf", "5:inf", "-5:10", "1e9", "65 85"]
)
def test_nonsense_watts_are_refused_in_one_line(text):
    with pytest.raises(ValueError, match="give watts above 0, as 70 or as a range 65:85"):
        check_options(EnergyOptions(cpu_watts=text))


def test_a_range_upside_down_is_named_the_right_way_round():
    with pytest.raises(ValueError, match="the lower end comes first, 65:85"):
        check_options(EnergyOptions(cpu_watts="85:65"))


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_of_the_gpu_is_above_0_and_at_most_1(share):
    with pytest.raises(ValueError, match="--gpu-share must be above 0 and at most 1"):
        check_options(EnergyOptions(gpu_share=share))


@given(st.floats(0.1, 500), st.floats(0, 500), st.floats(0, 1e5))
def test_stated_watts_are_their_range_times_the_time(low_w, more_w, seconds):
    clock = Clock()
    source = StatedWatts(low_w, low_w + more_w, clock=clock)
    clock.advance(50.0)
    source.start()
    clock.advance(seconds)
    energy = source.read()
    assert energy.low_j == pytest.approx(low_w * seconds, abs=1e-5)
    assert energy.high_j == pytest.approx((low_w + more_w) * seconds, abs=1e-5)
    assert energy.joules == pytest.approx((energy.low_j + energy.high_j) / 2)
    assert energy.method == "estimated"


def test_a_single_stated_figure_says_that_nothing_is_known_of_its_error():
    assert StatedWatts(70.0, 70.0).notes
    assert StatedWatts(65.0, 85.0).notes == []


def test_sources_come_in_the_order_of_trust(tmp_path):
    clock, cuda = Clock(), {"type": "cuda", "index": 0, "name": "x", "uuid": "GPU-1"}
    names = [
        (source.name, type(source).__name__)
        for source in sources_for(
            cuda, clock, EnergyOptions(cpu_watts="65:85", wall_meter=tmp_path / "m.csv", powercap=NOWHERE)
        )
    ]
    assert names == [("gpu_board", "NvmlBoard"), ("cpu_package", "StatedWatts"), ("wall_meter", "WallMeter")]
    assert [type(source).__name__ for source in sources_for(None, clock, EnergyOptions(powercap=NOWHERE))] == ["CpuEstimate"]


# The sum, the grade, the window


def energy(method, joules=100.0, samples=None):
    return Energy(joules, joules / 2, joules * 2, method, samples)


def test_a_wall_meter_holds_all_the_others_and_stands_alone_in_the_sum():
    parts = {"gpu_board": energy("measured", 300.0), "cpu_package": energy("estimated", 50.0)}
    assert total_energy(parts) == Energy(350.0, 175.0, 700.0, "estimated")
    assert total_energy(parts | {"wall_meter": energy("measured", 500.0)}).joules == 500.0
    assert total_energy(parts | {"wall_meter": energy("absent", 0.0)}).joules == 350.0
    assert total_energy({"cpu_package": energy("absent", 0.0)}).method == "absent"


@pytest.mark.parametrize(
    ("board", "package", "wall", "on_gpu", "grade"),
    [
        ("measured", "measured", "measured", True, "A"),
        ("measured", "measured", "absent", True, "B"),
        ("measured", "estimated", None, True, "C"),
        ("estimated", "measured", None, True, "C"),
        ("estimated", "estimated", None, True, "D"),
        ("absent", "measured", None, True, "D"),
        ("measured", "absent", None, True, "D"),
        ("absent", "absent", None, True, None),
        (None, "measured", None, False, "B"),
        (None, "estimated", None, False, "D"),
        (None, "estimated", "estimated", False, "D"),
    ],
)
def test_the_grade_follows_from_the_methods(board, package, wall, on_gpu, grade):
    named = {"gpu_board": board, "cpu_package": package, "wall_meter": wall}
    assert energy_grade({name: energy(method) for name, method in named.items() if method}, on_gpu) == grade


@pytest.mark.parametrize(
    ("wall_s", "samples", "short"),
    [(59.9, None, True), (60.0, None, False), (600.0, 59, True), (600.0, 60, False), (600.0, None, False)],
)
def test_under_a_minute_or_sixty_readings_is_a_short_window(wall_s, samples, short):
    assert (
        is_short_window(wall_s, {"wall_meter": energy("measured", samples=samples), "cpu_package": energy("estimated")})
        is short
    )


# Sleep


def test_a_machine_that_slept_is_said_and_the_sleep_is_not_counted():
    clock = Clock()
    asleep_ns = [7_000_000_000]  # it slept before the run too
    meter = Meter(clock=clock, sources=[StatedWatts(10.0, 20.0, clock=clock)], boottime=lambda: clock.ns + asleep_ns[0])
    meter.start()
    clock.advance(10.0)
    assert meter.read().wall_s == 10.0
    assert meter.notes == []
    asleep_ns[0] += 3600 * 10**9
    clock.advance(5.0)
    reading = meter.read()
    assert (reading.wall_s, reading.energy["cpu_package"].joules) == (15.0, 225.0)
    assert meter.notes == ["the machine slept for 3600 s: time and energy of that are not counted"]
    meter.read()
    assert len(meter.notes) == 1
