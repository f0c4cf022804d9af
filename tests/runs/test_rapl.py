"""RAPL on fake powercap trees against loads with known integrals."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runs.energy import EnergyOptions, Rapl, find_zones, sources_for
from runs.machine import TreeCpu
from runs.schema import Energy
from tests.runs.fake_nvml import Clock, Load
from tests.runs.fake_powercap import RANGE_UJ, FakePowercap


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tree(tmp_path, clock):
    return FakePowercap(tmp_path, clock)


def steady(clock, watts):
    return Load(clock.s, [(1e6, watts)], watts)


def server(tree, clock):
    """Two packages with core and dram, the platform around them, and the mmio twin of the first."""
    for k in range(2):
        tree.zone(f"intel-rapl:{k}", f"package-{k}", steady(clock, 100.0 + k))
        tree.zone(f"intel-rapl:{k}:0", "core", steady(clock, 60.0))
        tree.zone(f"intel-rapl:{k}:1", "dram", steady(clock, 20.0 + k))
    tree.zone("intel-rapl:2", "psys", steady(clock, 400.0))
    tree.zone("intel-rapl-mmio:0", "package-0", steady(clock, 100.0))
    (tree.root / "intel-rapl").mkdir()
    return tree


def rapl(tree, name="cpu_package", ours=lambda: 0.0, everybodys=lambda: 0.0):
    zones, _ = find_zones(tree.root)
    chosen = zones.packages if name == "cpu_package" else zones.drams
    return Rapl(name, chosen, clock=tree.clock, threaded=False, own_cpu_s=TreeCpu(ours), all_cpu_s=everybodys)


def holds(energy: Energy, true_j: float) -> bool:
    return energy.low_j - 1e-6 <= true_j <= energy.high_j + 1e-6 and energy.low_j <= energy.joules <= energy.high_j


def pass_time(tree, seconds, source=None):
    tree.clock.advance(seconds)
    tree.show()
    if source is not None:
        source.sample()


def test_packages_and_dram_are_counted_and_core_psys_and_twins_are_not(tree, clock):
    server(tree, clock)
    package, dram = rapl(tree), rapl(tree, "dram")
    for source in (package, dram):
        source.start()
    pass_time(tree, 50.0)
    energy = package.read()
    assert energy.joules == pytest.approx(50 * 201.0)
    assert energy.method == "measured"
    assert energy.low_j == pytest.approx(50 * 201.0 / 1.05 - 2 * 2 * 0.001 * 1000)
    assert energy.high_j == pytest.approx(50 * 201.0 / 0.95 + 2 * 2 * 0.001 * 1000)
    assert dram.read().joules == pytest.approx(50 * 41.0)


def test_dies_of_a_package_are_packages_and_dram_of_something_else_is_not_ours(tree, clock):
    tree.zone("intel-rapl:0", "package-0-die-0", steady(clock, 1.0))
    tree.zone("intel-rapl:1", "package-0-die-1", steady(clock, 1.0))
    tree.zone("intel-rapl:2", "psys", steady(clock, 1.0))
    tree.zone("intel-rapl:2:0", "dram", steady(clock, 1.0))
    zones, notes = find_zones(tree.root)
    assert [zone.name for zone in zones.packages] == ["intel-rapl:0", "intel-rapl:1"]
    assert (zones.drams, notes) == ([], [])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 80.0), st.floats(0.0, 900.0)), min_size=1, max_size=6),
    st.lists(st.floats(0.01, 59.0), min_size=1, max_size=8),
    st.integers(0, RANGE_UJ - 1),
    st.floats(0.96, 1.04),
)
def test_the_interval_holds_the_truth_over_wraps(pieces, gaps, start_uj, gain):
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        tree = FakePowercap(Path(folder), clock)
        truth = Load(clock.s, pieces)
        tree.zone("intel-rapl:0", "package-0", Load(clock.s, [(s, gain * w) for s, w in pieces]), start_uj)
        source, begin_s = rapl(tree), clock.s
        source.start()
        for seconds in gaps:
            pass_time(tree, seconds)
            energy = source.read()
            assert holds(energy, truth.joules(begin_s, clock.s))
            assert energy.method == "measured"
        assert source.notes == []


@settings(max_examples=60, deadline=None)
@given(st.floats(61.0, 1000.0), st.floats(0.0, 900.0))
def test_a_long_time_without_a_look_may_hide_wraps_and_widens_upwards(seconds, watts):
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        tree = FakePowercap(Path(folder), clock)
        tree.zone("intel-rapl:0", "package-0", steady(clock, watts))
        source = rapl(tree)
        source.start()
        pass_time(tree, seconds)
        energy = source.read()
        assert holds(energy, watts * seconds)
        assert energy.method == ("estimated" if seconds * 1000 > energy.joules + RANGE_UJ / 1e6 else "measured")


def test_a_counter_that_was_reset_is_not_taken_for_a_wrap(tree, clock):
    tree.zone("intel-rapl:0", "package-0", steady(clock, 100.0), start_uj=30_000_000_000)
    source = rapl(tree)
    source.start()
    pass_time(tree, 10.0)
    before = source.read()
    tree.reset("intel-rapl:0")
    pass_time(tree, 2.0)
    after = source.read()
    assert after.joules == before.joules == pytest.approx(1000.0)
    assert holds(after, 1200.0)
    assert after.method == "estimated"
    assert any("reset" in note for note in source.notes)


def test_without_permission_the_processor_is_estimated_and_the_command_that_helps_is_named(tree, clock):
    server(tree, clock)
    for zone in tree.root.glob("intel-rapl:*"):
        (zone / "energy_uj").unlink()
        (zone / "energy_uj").mkdir()  # root reads whatever the mode says, but no folder
    (source,) = sources_for(None, clock, EnergyOptions(powercap=tree.root))
    source.start()
    assert source.read().method == "estimated"
    (note,) = source.notes
    assert f"sudo chmod a+r {tree.root}/intel-rapl:*/energy_uj" in note


def test_without_powercap_there_is_nothing_to_say(tmp_path, clock):
    (source,) = sources_for(None, clock, EnergyOptions(powercap=tmp_path / "none"))
    assert (source.name, source.notes) == ("cpu_package", [])


def test_where_rapl_answers_it_comes_before_what_the_user_states_and_missing_dram_is_said(tree, clock):
    tree.zone("intel-rapl:0", "package-0", steady(clock, 50.0))
    package, dram = sources_for(None, clock, EnergyOptions(cpu_watts="65:85", powercap=tree.root))
    assert (type(package), package.name, dram.name) == (Rapl, "cpu_package", "dram")
    assert package.notes == ["--cpu-watts is not used: RAPL measures the processor"]
    dram.start()
    assert dram.read() == Energy(0.0, 0.0, 0.0, "absent")
    assert dram.notes


def test_a_counter_that_stops_answering_widens_upwards_and_counts_on_when_it_is_back(tree, clock):
    tree.zone("intel-rapl:0", "package-0", steady(clock, 100.0))
    source = rapl(tree)
    source.start()
    pass_time(tree, 10.0)
    before = source.read()
    (tree.root / "intel-rapl:0/energy_uj").unlink()
    clock.advance(10.0)
    gone = source.read()
    assert (gone.joules, gone.low_j, gone.method) == (before.joules, before.low_j, "estimated")
    assert gone.high_j == pytest.approx(before.high_j + 10 * 1000)
    pass_time(tree, 10.0)
    assert source.read().joules == pytest.approx(3000.0)


# Others on the same processor


def test_alone_all_of_it_is_ours_and_beside_others_our_part_of_the_cpu_seconds(tree, clock):
    tree.zone("intel-rapl:0", "package-0", steady(clock, 100.0))
    cpu = {"ours": 0.0, "all": 500.0}
    source = rapl(tree, ours=lambda: cpu["ours"], everybodys=lambda: cpu["all"])
    source.start()
    cpu["ours"] += 10.0
    cpu["all"] += 10.0
    pass_time(tree, 10.0)
    alone = source.read()
    assert (alone.joules, alone.method) == (pytest.approx(1000.0), "measured")
    cpu["ours"] += 2.0
    cpu["all"] += 8.0
    pass_time(tree, 10.0)
    shared = source.read()
    assert shared.joules == pytest.approx(1000 + 250)
    # a quarter of the seconds: at a third of the others' cost 1/10 of the joules, at three times 1/2
    assert shared.low_j == pytest.approx(1100 / 1.05 - 2)
    assert shared.high_j == pytest.approx(1500 / 0.95 + 2)
    assert shared.method == "estimated"
    assert any("CPU time" in note for note in source.notes)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 30.0), *[st.floats(0.1, 8.0)] * 3), min_size=1, max_size=8))
def test_runs_on_one_processor_and_the_rest_add_up_to_its_counter(periods):
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        tree = FakePowercap(Path(folder), clock)
        tree.zone("intel-rapl:0", "package-0", steady(clock, 123.0))
        cpu = [0.0, 0.0, 0.0]
        runs = [rapl(tree, ours=lambda k=k: cpu[k], everybodys=lambda: sum(cpu)) for k in range(3)]
        for run in runs:
            run.start()
        begin_s = clock.s
        for seconds, *spent in periods:
            cpu[:] = [before + more for before, more in zip(cpu, spent, strict=True)]
            pass_time(tree, seconds)
            readings = [run.read() for run in runs]
        assert sum(energy.joules for energy in readings) == pytest.approx(123.0 * (clock.s - begin_s))


def test_the_thread_looks_where_nobody_reads(tree, clock, monkeypatch):
    import time

    monkeypatch.setattr("runs.energy.rapl.SAMPLE_S", 0.01)
    tree.zone("intel-rapl:0", "package-0", steady(clock, 700.0))
    source = Rapl(
        "cpu_package", find_zones(tree.root)[0].packages, clock=clock, own_cpu_s=TreeCpu(lambda: 0.0), all_cpu_s=lambda: 0.0
    )
    source.start()
    for _ in range(6):  # 210 kJ: three wraps
        tree.clock.ns += 50 * 10**9
        tree.show()
        time.sleep(0.2)
    assert source.read().joules == pytest.approx(700.0 * 300, rel=0.34), "at most one look fell between clock and file"
    source.close()
    assert not source._thread.is_alive()
