"""A wall meter's CSV against loads with known integrals, and files that are none."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runs.energy import WallMeter, check_wall_meter
from runs.energy.wall_meter import Readings, integrate, read_csv
from runs.schema import Energy
from tests.runs.fake_nvml import Clock, Load

NOW_S = 1_790_000_000.0


def written(tmp_path, text):
    path = tmp_path / "meter.csv"
    path.write_text(text)
    return path


def every(seconds, watts, start_s=NOW_S - 10, end_s=NOW_S + 200):
    rows = []
    while start_s <= end_s:
        rows.append(f"{start_s},{watts(start_s) if callable(watts) else watts}")
        start_s += seconds
    return "time,watts\n" + "\n".join(rows) + "\n"


class Run:
    """A run from NOW_S on, on virtual clocks."""

    def __init__(self, path):
        self.clock, self.now_s = Clock(), NOW_S
        self.meter = WallMeter(path, clock=self.clock, utc_s=lambda: self.now_s)
        self.meter.start()

    def last(self, seconds):
        self.clock.advance(seconds)
        self.now_s += seconds
        return self

    def settled(self):
        self.meter.settle()
        return self.meter.read()


def holds(energy: Energy, true_j: float) -> bool:
    return energy.low_j - 1e-6 <= true_j <= energy.high_j + 1e-6 and energy.low_j <= energy.joules <= energy.high_j


def test_steady_watts_are_watts_times_seconds_and_absent_until_the_run_is_over(tmp_path):
    run = Run(written(tmp_path, every(1.0, 250.0))).last(100.0)
    assert run.meter.read().method == "absent"
    energy = run.settled()
    assert energy.joules == pytest.approx(25_000)
    assert (energy.method, energy.samples) == ("measured", 100)
    assert energy.low_j == pytest.approx(25_000 / 1.02, rel=1e-6)
    assert energy.high_j == pytest.approx(25_000 / 0.98, rel=1e-6)
    assert run.meter.notes == []


@pytest.mark.parametrize(("column", "unit_j"), [("joules", 1.0), ("kWh", 3.6e6)])
def test_a_count_in_joules_or_kwh_is_its_difference(tmp_path, column, unit_j):
    rows = [f"{NOW_S - 5 + 10 * k},{(1e9 + 3000.0 * k) / unit_j!r}" for k in range(20)]
    run = Run(written(tmp_path, f"time,{column}\n" + "\n".join(rows))).last(100.0)
    energy = run.settled()
    assert energy.joules == pytest.approx(30_000, rel=1e-5)
    # nine whole steps between the two that hold an end of the run
    assert (energy.low_j, energy.high_j) == pytest.approx((27_000 / 1.02, 33_000 / 0.98), rel=1e-5)


def test_times_may_be_iso_with_or_without_a_zone_and_the_columns_in_any_order(tmp_path):
    rows = [f"x,300,{datetime.fromtimestamp(NOW_S - 5 + k, UTC):{form}}" for k, form in
            zip(range(30), ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S+00:00"] * 10, strict=True)]  # fmt: skip
    run = Run(written(tmp_path, "note, Watts ,Time\n" + "\n".join(rows))).last(20.0)
    assert run.settled().joules == pytest.approx(6000)


loads = st.lists(st.tuples(st.floats(5.0, 40.0), st.floats(50.0, 600.0)), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(loads, st.floats(0.5, 10.0), st.floats(0.0, 1.0), st.floats(0.981, 1.019), st.floats(5.0, 150.0))
def test_a_counts_interval_holds_the_truth_however_the_steps_lie(pieces, step_s, phase, gain, seconds):
    truth = Load(NOW_S - 30, pieces, 100.0)
    times = [NOW_S - (2 + phase) * step_s + k * step_s for k in range(int(seconds / step_s) + 6)]
    readings = Readings(times, [gain * truth.joules(NOW_S - 100, at_s) for at_s in times], True, [])
    energy = integrate(readings, NOW_S, NOW_S + seconds, [])
    assert energy.method == "measured"
    assert holds(energy, truth.joules(NOW_S, NOW_S + seconds))


@settings(max_examples=60, deadline=None)
@given(loads, st.integers(1, 60), st.integers(61, 120))
@example([(33.75, 50.0), (39.5, 50.0), (40.0, 289.0)], 38, 75)  # one reading of the largest power, at an end of the gap
def test_a_gap_is_said_and_bounded_by_the_largest_power_seen(pieces, first, length):
    truth = Load(NOW_S, [(s, w) for s, w in pieces], 50.0)
    times = [NOW_S + k / 4 for k in range(-4, 4 * 220) if not 4 * first < k < 4 * (first + length)]
    readings = Readings(times, [truth.watts(at_s) for at_s in times], False, [])
    notes = []
    energy = integrate(readings, NOW_S, NOW_S + 200, notes)
    assert energy.method == "estimated"
    assert notes == [f"the wall meter has a gap of {length} s during the run"]
    # the largest power seen bounds the gap where the gap hides no larger one; a step between two readings is half seen
    if max(w for _, w in [*pieces, (0, 50.0)]) <= max(readings.values):
        assert energy.low_j - 60 * len(pieces) <= truth.joules(NOW_S, NOW_S + 200) <= energy.high_j + 60 * len(pieces)


def test_a_count_that_fell_is_a_gap(tmp_path):
    values = [1000.0 + 100 * k for k in range(50)] + [100.0 * k for k in range(100)]
    rows = [f"{NOW_S - 5 + k},{value}" for k, value in enumerate(values)]
    run = Run(written(tmp_path, "time,joules\n" + "\n".join(rows))).last(100.0)
    energy = run.settled()
    assert energy.method == "estimated"
    assert holds(energy, 10_000)
    assert any("reset" in note for note in run.meter.notes)


@pytest.mark.parametrize(
    ("start_s", "end_s", "says"),
    [
        (NOW_S - 10, NOW_S + 60, "do not cover 40 s"),
        (NOW_S + 30, NOW_S + 200, "do not cover 30 s"),
        (NOW_S - 99, NOW_S - 50, "cover"),
    ],
)
def test_readings_that_do_not_cover_the_run_are_absent(tmp_path, start_s, end_s, says):
    run = Run(written(tmp_path, every(1.0, 250.0, start_s, end_s))).last(100.0)
    assert run.settled() == Energy(0.0, 0.0, 0.0, "absent")
    assert any(says in note for note in run.meter.notes)


def test_the_last_reading_may_be_a_step_late(tmp_path):
    run = Run(written(tmp_path, every(5.0, 200.0, NOW_S - 10, NOW_S + 95))).last(100.0)
    energy = run.settled()
    assert holds(energy, 20_000)
    assert energy.joules == pytest.approx(20_000)


def test_a_clock_that_was_set_assigns_nothing(tmp_path):
    run = Run(written(tmp_path, every(1.0, 250.0))).last(100.0)
    run.now_s += 30
    assert run.settled().method == "absent"
    assert any("was set or the machine slept" in note for note in run.meter.notes)


def test_a_file_that_vanishes_or_breaks_during_the_run_is_absent_with_a_note(tmp_path):
    path = written(tmp_path, every(1.0, 250.0))
    run = Run(path).last(100.0)
    path.write_bytes(b"\x00\xff\xfe")
    assert run.settled().method == "absent"
    assert any("it is no text" in note for note in run.meter.notes)
    run = Run(path).last(100.0)
    path.unlink()
    assert run.settled().method == "absent"


def test_bad_lines_within_are_left_out_and_said(tmp_path):
    lines = every(1.0, 250.0).splitlines()
    lines[40] = "what,ever"
    run = Run(written(tmp_path, "\n".join(lines))).last(100.0)
    assert run.settled().joules == pytest.approx(25_000)
    assert any("1 lines" in note for note in run.meter.notes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no wall meter's CSV"),
        ("hello\nworld\n", "no wall meter's CSV"),
        ("time,volts\n1,2\n", "no wall meter's CSV"),
        ("time,watts\n", "no reading from before the run"),
        (f"time,watts\n{NOW_S + 60},100\n{NOW_S + 61},100\n", "no reading from before the run"),
        (f"time,watts\n{NOW_S - 7200},100\n{NOW_S - 7199},100\n", "its last reading is 120 min old"),
        (f"time,watts\nyesterday,100\n{NOW_S},100\n", "line 2 is no time and number"),
        (f"time,watts\n{NOW_S - 1},-5\n{NOW_S},100\n", "line 2 is no time and number"),
        (f"time,watts\n{NOW_S - 1},nan\n{NOW_S},100\n", "line 2 is no time and number"),
    ],
)
def test_what_will_not_cover_a_run_is_refused_before_it_starts(tmp_path, text, says):
    with pytest.raises(ValueError, match=says) as error:
        check_wall_meter(written(tmp_path, text), lambda: NOW_S)
    assert "\n" not in str(error.value)


def test_a_missing_file_or_a_folder_is_refused_before_the_start(tmp_path):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(ValueError, match="cannot be read"):
            read_csv(path)


def test_a_file_that_is_being_written_is_accepted_with_half_a_last_line(tmp_path):
    check_wall_meter(written(tmp_path, every(1.0, 250.0, end_s=NOW_S) + "17900"), lambda: NOW_S)
