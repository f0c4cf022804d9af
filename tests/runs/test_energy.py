"""Energy sources against power curves with known integrals, and against hand-computed watts."""

from __future__ import annotations

import os
import threading
import time

import pynvml  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runs.energy import CpuEstimate, NvmlBoard, estimate_cpu, sources_for
from runs.machine import TreeCpu
from runs.schema import Energy
from tests.runs.fake_nvml import UUID, Clock, FakeNvml, Load

NO_COUNTER = "nvmlDeviceGetTotalEnergyConsumption"


class Bench:
    """A board on a virtual clock, with its meter; ``true_j`` is the curve's integral since the start."""

    def __init__(self, pieces, *, idle_w=1.0, gain=1.0, limit_w=700.0, without=(), offset_s=0.0):
        self.clock = Clock()
        self.clock.advance(offset_s)  # where in the 100 ms publication period the run begins
        self.fake = FakeNvml(self.clock, Load(self.clock.s, pieces, idle_w), gain=gain, limit_w=limit_w)
        self.fake.missing |= set(without)
        self.board = NvmlBoard(UUID, clock=self.clock, threaded=False)

    def start(self):
        self.begin_s = self.clock.s
        self.board.start()
        return self

    def run(self, seconds, sample_s=0.1):
        """Let time pass, with samples as the thread would take them."""
        for _ in range(round(seconds / sample_s)):
            self.clock.advance(sample_s)
            self.board.sample()

    @property
    def true_j(self):
        return self.fake.load.joules(self.begin_s, self.clock.s)


@pytest.fixture
def bench(monkeypatch):
    def build(pieces, **options):
        made = Bench(pieces, **options)
        made.fake.install(monkeypatch)
        return made

    return build


def install(made):
    """For hypothesis, which cannot use a function's monkeypatch; the next install replaces it."""
    pynvml.nvmlLib = made.fake
    pynvml._nvmlGetFunctionPointer_cache.clear()
    return made.start()


@pytest.fixture(autouse=True)
def restore_library():
    library = pynvml.nvmlLib
    yield
    pynvml.nvmlLib = library
    pynvml._nvmlGetFunctionPointer_cache.clear()


def holds(energy: Energy, true_j: float) -> bool:
    return energy.low_j - 1e-6 <= true_j <= energy.high_j + 1e-6 and energy.low_j <= energy.joules <= energy.high_j


watts = st.floats(1.0, 700.0)
loads = st.lists(st.tuples(st.floats(0.01, 20.0), watts), min_size=1, max_size=6)
steady_loads = st.lists(st.tuples(st.floats(2.0, 20.0), watts), min_size=1, max_size=6)
gaps = st.lists(st.floats(0.001, 30.0), min_size=1, max_size=6)


# The counter


def test_a_constant_load_is_counted_with_its_error_and_two_edges(bench):
    made = bench([(1000.0, 300.0)]).start()
    made.clock.advance(100.0)
    energy = made.board.read()
    assert energy.method == "measured"
    assert energy.joules == pytest.approx(300.0 * 100.0, abs=300.0 * 0.1 + 0.002)
    # a gain of 1 +- 5 %, and 0.1 s x 700 W at each of the two edges
    assert energy.low_j == pytest.approx(energy.joules / 1.05 - 140.0)
    assert energy.high_j == pytest.approx(energy.joules / 0.95 + 140.0)


@settings(max_examples=200, deadline=None)
@given(loads, gaps, st.floats(0.95, 1.05), st.floats(0.0, 0.1), watts)
def test_the_counters_interval_holds_the_true_integral_at_every_read(pieces, gaps, gain, offset_s, idle_w):
    made = install(Bench(pieces, gain=gain, offset_s=offset_s, idle_w=idle_w))
    before = made.board.read()
    for seconds in gaps:
        made.clock.advance(seconds)
        energy = made.board.read()
        assert energy.method == "measured"
        assert holds(energy, made.true_j)
        assert energy.joules >= before.joules
        before = energy
    made.board.close()


@settings(max_examples=200, deadline=None)
@given(loads, gaps, st.integers(0, 5), st.floats(0.0, 1.0), watts)
def test_a_driver_reload_adds_nothing_and_the_interval_still_holds_the_truth(pieces, gaps, which, part, idle_w):
    # one reload: only a counter that fell tells of it, and here it held 5e8 J before
    made = install(Bench(pieces, idle_w=idle_w))
    which %= len(gaps)
    for number, seconds in enumerate(gaps):
        before = made.board.read()
        made.clock.advance(seconds * part)
        if number == which:
            made.fake.reset_counter()
        made.clock.advance(seconds * (1 - part))
        energy = made.board.read()
        assert holds(energy, made.true_j)
        assert energy.method == ("measured" if number < which else "estimated")
        if number == which:
            assert energy.joules == before.joules
    assert any("reset" in note for note in made.board.notes)


def test_a_lost_gpu_keeps_what_was_counted_and_widens_only_upwards(bench):
    made = bench([(1000.0, 200.0)]).start()
    made.clock.advance(10.0)
    counted = made.board.read()
    made.fake.error = pynvml.NVML_ERROR_GPU_IS_LOST
    made.clock.advance(50.0)
    energy = made.board.read()
    assert (energy.joules, energy.low_j) == (counted.joules, counted.low_j)
    assert energy.high_j == pytest.approx(counted.high_j + 50.0 * 700.0)
    assert energy.method == "estimated"
    assert len([note for note in made.board.notes if "did not answer" in note]) == 1
    made.board.close()


def test_a_counter_that_answers_again_has_counted_on(bench):
    made = bench([(1000.0, 200.0)]).start()
    made.fake.error = pynvml.NVML_ERROR_TIMEOUT
    made.clock.advance(50.0)
    made.board.read()
    made.fake.error = None
    made.clock.advance(50.0)
    energy = made.board.read()
    assert energy.method == "measured"
    assert energy.joules == pytest.approx(200.0 * 100.0, abs=21.0)
    assert energy.high_j < 200.0 * 100.0 * 1.06 + 140.0


def test_energy_before_the_start_is_not_counted(bench):
    made = bench([(1000.0, 200.0)])
    made.clock.advance(500.0)
    made.start()
    assert made.board.read().joules == 0.0


# Integrated power


@settings(max_examples=60, deadline=None)
@given(steady_loads, st.floats(0.93, 1.07), st.floats(20.0, 200.0))
def test_integrated_power_holds_the_true_integral_of_loads_that_are_slow_against_the_samples(pieces, gain, idle_w):
    made = install(Bench(pieces, gain=gain, idle_w=idle_w, without=[NO_COUNTER]))
    for _ in range(5):
        made.run(4.0)
        energy = made.board.read()
        assert energy.method == "measured"
        assert holds(energy, made.true_j)


@settings(max_examples=100, deadline=None)
@given(loads, gaps)
def test_samples_far_apart_say_nothing_of_the_time_between_them(pieces, gaps):
    made = install(Bench(pieces, without=[NO_COUNTER]))
    for seconds in gaps:
        made.clock.advance(0.5 + seconds)
        made.board.sample()
        assert holds(made.board.read(), made.true_j)


def test_a_ramp_is_integrated_by_trapezoids(bench):
    # 10, 20, ..., 400 W held 0.1 s each from 0 on; samples at the boundaries see 10, 20, ..., 400 W and then 1 W:
    # the trapezoid sum is 0.1 s x (10 / 2 + 20 + ... + 400 + 1 / 2) W = 819.55 J; the curve's integral is 820 J
    made = bench([(0.1, 10.0 * k) for k in range(1, 41)], without=[NO_COUNTER]).start()
    made.fake.clock.ns += 1  # just behind the boundaries, which floats do not hit exactly
    made.run(4.0)
    energy = made.board.read()
    assert energy.joules == pytest.approx(819.55, abs=0.1)
    assert energy.low_j == pytest.approx(819.55 / 1.1 - 140.0, abs=0.1)
    assert energy.high_j == pytest.approx(819.55 / 0.9 + 140.0, abs=0.1)


def test_a_step_between_two_samples_counts_half(bench):
    # samples at 0, 0.1, ... s; 100 W until 0.05 s, then 400 W: 100 W x 0.05 s + 400 W x 0.95 s
    made = bench([(0.05, 100.0), (10.0, 400.0)], without=[NO_COUNTER]).start()
    made.run(1.0)
    assert made.board.read().joules == pytest.approx(385.0)


@pytest.mark.parametrize("nonsense_w", [0.0, 1401.0, (2**32 - 1) / 1e3], ids=["nothing", "twice the limit", "all bits set"])
def test_watts_that_no_board_draws_are_left_out_and_widen_only_upwards(bench, nonsense_w):
    made = bench([(10.0, 200.0), (20.0, nonsense_w), (100.0, 200.0)], without=[NO_COUNTER]).start()
    made.run(9.0)
    before = made.board.read()
    made.run(20.0)
    amid = made.board.read()
    assert before.low_j <= amid.joules <= before.joules + 200.0 * 1.1, "the reading before it, no further"
    assert amid.high_j >= before.high_j + 18.0 * 700.0
    assert amid.method == "estimated"
    assert any("no board draws" in note for note in made.board.notes)
    made.run(10.0)
    assert made.board.read().joules <= 200.0 * 40.0


@pytest.mark.parametrize("nonsense_w", [0.0, 1e5])
def test_a_board_that_tells_nonsense_from_the_start_is_absent(bench, nonsense_w):
    made = bench([], idle_w=nonsense_w, without=[NO_COUNTER]).start()
    made.run(5.0)
    assert absent_with(made.board, "neither energy nor power")


def test_a_nonsense_limit_and_utilisation_are_not_believed(bench):
    made = bench([(100.0, 300.0)], limit_w=(2**32 - 1) / 1e3)
    made.fake.utilisation = lambda at_s: 255
    made.start()
    made.run(1.0)
    energy = made.board.read()
    assert energy.high_j <= (300.0 + 30.0) / 0.95 + 2 * 0.1 * 1500.0
    assert made.board.busy_s is None
    assert any("utilisation of 255 %" in note for note in made.board.notes)


def test_power_that_stops_answering_widens_only_upwards(bench):
    made = bench([(1000.0, 200.0)], without=[NO_COUNTER]).start()
    made.run(10.0)
    before = made.board.read()
    made.fake.error = pynvml.NVML_ERROR_UNKNOWN
    made.run(50.0)
    lost = made.board.read()
    assert (lost.joules, lost.low_j, lost.method) == (before.joules, before.low_j, "estimated")
    assert lost.high_j == pytest.approx(before.high_j + 50.0 * 700.0)
    made.fake.error = None
    made.run(10.0)
    back = made.board.read()
    assert holds(back, made.true_j)
    assert back.method == "estimated"


@pytest.mark.parametrize("lack", ["unsupported", "missing"])
def test_average_power_is_the_last_resort_and_its_edges_are_a_second_wide(bench, lack):
    made = bench([(1000.0, 300.0)], idle_w=300.0)
    getattr(made.fake, lack).update({NO_COUNTER, "nvmlDeviceGetFieldValues"})
    made.start()
    made.run(60.0)
    energy = made.board.read()
    assert energy.joules == pytest.approx(300.0 * 60.0, rel=1e-6)
    assert energy.low_j == pytest.approx(300.0 * 60.0 / 1.1 - 2 * 1.0 * 700.0)


def test_instant_power_that_is_refused_in_its_own_field_falls_back_to_average_power(bench):
    made = bench([(1000.0, 300.0)], idle_w=300.0)
    made.fake.unsupported |= {NO_COUNTER, "POWER_INSTANT"}
    made.start()
    made.run(10.0)
    assert made.board.read().joules == pytest.approx(3000.0, rel=1e-6)
    assert "nvmlDeviceGetPowerUsage" in made.fake.calls


# What cannot be measured is absent, never a number


def absent_with(board: NvmlBoard, word: str) -> bool:
    return board.read() == Energy(0.0, 0.0, 0.0, "absent") and any(word in note for note in board.notes)


def test_without_the_library_the_energy_is_absent(monkeypatch):
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    board = NvmlBoard(UUID)
    board.start()
    assert absent_with(board, "NVML is not available")
    assert board.busy_s is None
    board.close()


def test_a_board_that_nvml_does_not_know_is_absent_and_nvml_is_let_go(bench):
    made = bench([])
    board = NvmlBoard("GPU-00000000", clock=made.clock)
    board.start()
    assert absent_with(board, "board")
    assert made.fake.open == 0
    board.close()


def test_without_a_uuid_no_board_is_guessed(bench):
    made = bench([])
    board = NvmlBoard(None, clock=made.clock)
    board.start()
    assert absent_with(board, "UUID")
    assert made.fake.calls == []


def test_a_gpu_split_by_mig_into_slices_that_are_not_told_apart_is_absent(bench):
    made = bench([(100.0, 300.0)])
    made.fake.mig, made.fake.slices = 1, {"MIG-a": 3, "MIG-b": 4}
    made.start()
    made.clock.advance(10.0)
    assert absent_with(made.board, "which slice")
    assert made.board.busy_s is None
    assert made.fake.open == 0


def test_a_gpu_without_any_sensor_is_absent(bench):
    made = bench([(100.0, 300.0)])
    made.fake.unsupported |= {NO_COUNTER, "nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage"}
    made.start()
    made.run(1.0)
    assert absent_with(made.board, "neither energy nor power")


def test_a_gpu_that_is_lost_before_the_start_is_absent(bench):
    made = bench([(100.0, 300.0)])
    made.fake.error = pynvml.NVML_ERROR_GPU_IS_LOST
    made.start()
    assert absent_with(made.board, "GPU")


def test_a_binding_that_breaks_in_its_own_way_does_not_reach_the_training(bench, monkeypatch):
    made = bench([(100.0, 300.0)]).start()

    def broken(_handle):
        raise RuntimeError("a bug in the binding")

    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", broken)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", broken)
    made.run(1.0)
    assert made.board.read().method == "estimated"
    assert made.board.busy_s is None


def test_an_unknown_power_limit_is_said_and_taken_wide(bench):
    made = bench([(100.0, 300.0)], without=["nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPowerManagementLimit"]).start()
    assert made.board.read().high_j == pytest.approx(2 * 0.1 * 1500.0)
    assert any("power limit" in note for note in made.board.notes)


# The board itself


def test_the_uuid_may_come_without_nvmls_prefix(bench):
    made = bench([(100.0, 300.0)])
    board = NvmlBoard(UUID.removeprefix("GPU-"), clock=made.clock, threaded=False)
    board.start()
    assert board.read().method == "measured"


def test_busy_seconds_are_the_utilisation_integrated(bench):
    made = bench([(100.0, 300.0)])
    made.fake.utilisation = lambda at_s: 50
    made.start()
    made.run(20.0)
    assert made.board.busy_s == pytest.approx(10.0)


def test_busy_seconds_with_a_hole_in_them_are_not_known(bench):
    made = bench([(100.0, 300.0)]).start()
    made.run(1.0)
    assert made.board.busy_s == pytest.approx(1.0)
    made.fake.error = pynvml.NVML_ERROR_UNKNOWN
    made.run(1.0)
    made.fake.error = None
    made.run(1.0)
    assert made.board.busy_s is None


@pytest.mark.parametrize(
    ("pids", "said"),
    [([], False), ([4_000_000], False), ([-1], False), ([-1, 4_000_000], True), ([4_000_000, 4_000_001, 4_000_002], True)],
    ids=["nobody", "one unknown: maybe ourselves", "only we", "we and a stranger", "three unknown"],
)
def test_strangers_on_the_board_are_said_where_they_are_certain(bench, pids, said):
    """Once, also where more of them come."""
    made = bench([(100.0, 300.0)])
    made.fake.pids = [os.getpid() if pid == -1 else pid for pid in pids]
    made.start()
    if said:
        made.run(3.0)
        made.fake.pids = [*made.fake.pids, 4_000_009]
        made.run(3.0)
    assert made.board.notes == ["other processes use the GPU too: low is our work alone, high the whole board"] * said


def test_the_sampling_thread_integrates_a_load_and_ends_with_close(bench):
    made = bench([], idle_w=250.0, without=[NO_COUNTER])
    board = NvmlBoard(UUID, clock=time.monotonic_ns)
    begin = time.monotonic()
    board.start()
    (thread,) = [t for t in threading.enumerate() if t.name == "playmeter-nvml"]
    assert thread.daemon
    time.sleep(1.0)
    energy = board.read()
    seconds = time.monotonic() - begin
    board.close()
    assert made.fake.calls.count("nvmlDeviceGetFieldValues") >= 5
    assert 250.0 * 0.97 <= energy.joules <= 250.0 * 1.03 * seconds, (
        "of one second at least, and of no more than passed around it"
    )
    assert board.busy_s == 0.0
    assert not thread.is_alive()
    assert made.fake.open == 0


# The CPU estimate


def test_one_busy_core_of_two_on_a_24_gb_machine_is_1_2_to_16_7_watts_around_4_2():
    # u = 1 s / (1 s x 2) = 0.5, 23.54 GiB.
    # low: 1 CPU s x the smallest Pmax - Pmin, EPYC 2: 1.69 - 0.47 = 1.22 W
    # centre, unknown architecture: mean of the nine rows, Pmin 7.22 / 9 = 0.802, Pmax 30.14 / 9 = 3.349:
    #   2 x (0.802 + 0.5 x (3.349 - 0.802)) = 4.15 W
    # high, Haswell: 2 x (1.86 + 0.5 x (5.60 - 1.86)) = 7.46 W, and memory 23.54 x 0.392 = 9.23 W: 16.69 W
    energy = estimate_cpu(1.0, 1.0, 2, 23.54, None)
    assert (round(energy.low_j, 1), round(energy.joules, 1), round(energy.high_j, 1)) == (1.2, 4.2, 16.7)
    assert energy.low_j == pytest.approx(1.22)
    assert energy.joules == pytest.approx((7.22 + 30.14) / 9)
    assert energy.high_j == pytest.approx(16.68768)
    assert energy.method == "estimated"


def test_a_known_architecture_is_the_centre():
    # EPYC 4, 8 vCPUs for 10 s, 20 CPU seconds: u = 0.25; 8 x (0.74 + 0.25 x 1.54) x 10 s = 90 J
    assert estimate_cpu(10.0, 20.0, 8, 0.0, "EPYC 4").joules == pytest.approx(90.0)


def test_an_idle_reservation_costs_idle_power_and_bounds_nothing_from_below():
    energy = estimate_cpu(100.0, 0.0, 4, 0.0, "Skylake")
    assert (energy.low_j, energy.joules, energy.high_j) == pytest.approx((0.0, 4 * 0.61 * 100, 4 * 1.86 * 100))


@given(
    st.floats(0, 1e6),
    st.floats(0, 1.2),
    st.floats(0.1, 512),
    st.floats(0, 4096),
    st.sampled_from([None, "Haswell", "EPYC 2", "Zen 9"]),
)
def test_the_cpus_interval_is_ordered_and_grows_with_the_work(wall_s, u, vcpus, memory_gib, architecture):
    energy = estimate_cpu(wall_s, u * wall_s * vcpus, vcpus, memory_gib, architecture)
    assert 0 <= energy.low_j <= energy.joules * (1 + 1e-12)
    assert energy.joules <= energy.high_j * (1 + 1e-12)
    idle = estimate_cpu(wall_s, 0.0, vcpus, memory_gib, architecture)
    assert energy.joules >= idle.joules


def test_the_source_counts_from_its_start():
    clock, cpu_s = Clock(), [1000.0]
    source = CpuEstimate(cpu_s=TreeCpu(lambda: cpu_s[0]), clock=clock, vcpus=8, memory_gib=0.0, architecture="EPYC 4")
    clock.advance(77.0)
    source.start()
    assert source.read() == Energy(0.0, 0.0, 0.0, "estimated", most_w=8 * 5.60)
    clock.advance(10.0)
    cpu_s[0] += 20.0
    assert source.read().joules == pytest.approx(90.0)  # as above
    source.close()


def test_a_cpu_run_has_the_cpu_only_and_a_cuda_run_has_its_board_too():
    assert [source.name for source in sources_for({"type": "cpu", "name": "x"})] == ["cpu_package"]
    assert [source.name for source in sources_for(None)] == ["cpu_package"]
    cuda = {"type": "cuda", "index": 0, "name": "x", "uuid": UUID}
    assert [source.name for source in sources_for(cuda)] == ["gpu_board", "cpu_package"]
