"""Runs that nobody ended: what can still be said of them, and that it holds the truth."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pynvml  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analysis import sentences, summary, tables
from runs import recorder, schema
from runs.anyone import RUN_VARIABLE, Meter
from runs.energy import CpuEstimate, NvmlBoard, Rapl, StatedWatts, find_zones
from runs.energy.processor import VCPU_WATTS
from runs.killed import close_killed
from runs.machine import TreeCpu
from runs.resume import continued
from runs.schema import Energy, after_kill, has_gone
from runs.takeover import last_words
from runs.tally import COUNTING, is_counting
from tests.analysis.run_folders import write_run
from tests.runs.fake_nvml import UUID, Clock, FakeNvml, Load
from tests.runs.fake_powercap import FakePowercap
from tests.runs.test_schema import LINE

ROOT = Path(__file__).resolve().parent.parent.parent
HEARTBEAT_S = 2.0
NOW = datetime(2026, 1, 1, 0, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> schema.RunRecord:
    return schema.read_run(write_run(tmp_path_factory.mktemp("run") / "a", run_config={"heartbeat_s": HEARTBEAT_S}))


@pytest.fixture(autouse=True)
def restore_library() -> Any:
    library = pynvml.nvmlLib
    yield
    pynvml.nvmlLib = library
    pynvml._nvmlGetFunctionPointer_cache.clear()


def holds(energy: Energy, true_j: float) -> bool:
    """Up to what whole nanoseconds of the clock make of it."""
    return energy.low_j - 1e-3 <= true_j <= energy.high_j + 1e-3 and energy.low_j <= energy.joules <= energy.high_j


# What a reader says


def test_a_run_whose_last_line_is_old_and_not_its_end_was_killed() -> None:
    line = replace(LINE, time_utc="2026-01-01T00:00:00+00:00")
    assert has_gone(line, NOW)
    assert not has_gone(line, NOW - timedelta(seconds=1)), "it may be writing its next line"
    assert not has_gone(replace(line, status="finished"), NOW + timedelta(days=400))


def test_low_and_centre_stay_and_high_grows_by_the_most_that_a_source_can_draw_until_the_next_line(
    record: schema.RunRecord,
) -> None:
    energy = {
        "gpu_board": Energy(100.0, 90.0, 120.0, "measured", 20, most_w=700.0),
        "cpu_package": Energy(10.0, 5.0, 20.0, "estimated", most_w=30.0),
        "wall_meter": Energy(0.0, 0.0, 0.0, "absent"),
    }
    lines = [replace(LINE, wall_s=wall_s, energy=energy) for wall_s in (0.0, 2.0, 5.5, 7.5)]
    killed = after_kill(lines, record)
    assert killed.energy == {
        "gpu_board": replace(energy["gpu_board"], high_j=120.0 + 3.5 * 700.0),  # two lines lay 3.5 s apart
        "cpu_package": replace(energy["cpu_package"], high_j=20.0 + 3.5 * 30.0),
        "wall_meter": energy["wall_meter"],
    }
    assert (killed.status, killed.wall_s, killed.lineage) == ("killed", 7.5, LINE.lineage)
    assert "3.5 s after its last line" in killed.notes[-1]
    assert after_kill(lines[:2], record).energy["gpu_board"].high_j == 120.0 + HEARTBEAT_S * 700.0
    assert after_kill(lines[:1], record).energy["gpu_board"].high_j == 120.0 + HEARTBEAT_S * 700.0


def test_a_continued_run_keeps_what_the_killed_process_may_have_spent(tmp_path: Path) -> None:
    """Each part's high end adds up: 20 + 2 s x 30 W of the process that was killed, 7 of the one that goes on."""
    folder = write_run(tmp_path / "a", run_config={"heartbeat_s": HEARTBEAT_S})
    spent = {"cpu_package": Energy(10.0, 5.0, 20.0, "estimated", most_w=30.0)}
    running = replace(LINE, status="running", energy=spent)
    (folder / schema.LEDGER_FILE).write_text(schema.seal(running))
    before = last_words(folder, schema.read_run(folder))
    now = replace(LINE, energy={"cpu_package": Energy(6.0, 4.0, 7.0, "estimated", most_w=50.0)})
    energy = continued(before, now).energy["cpu_package"]
    assert energy == Energy(16.0, 9.0, 87.0, "estimated", most_w=50.0), "a second kill is bounded by what this process can draw"
    (folder / schema.LEDGER_FILE).write_text(schema.seal(replace(running, status="interrupted")))
    assert last_words(folder, schema.read_run(folder)) == replace(running, status="interrupted"), "it wrote its end itself"


def test_where_the_most_was_not_written_the_note_says_that_nothing_bounds_it(record: schema.RunRecord) -> None:
    killed = after_kill([LINE], record)
    assert killed.energy == LINE.energy
    assert "not of cpu_package" in killed.notes[-1]


def test_a_command_can_outlive_its_meter(record: schema.RunRecord) -> None:
    tree = replace(record, run_config={"metered": "process tree", "heartbeat_s": 2.0})
    assert "may have gone on" in after_kill([LINE], tree).notes[-1].partition(";")[2]


def test_a_report_says_killed_and_how_much_may_be_missing(tmp_path: Path) -> None:
    energy = {"cpu_package": Energy(900.0, 260.0, 3500.0, "estimated", most_w=10.0)}
    folder = write_run(tmp_path / "e/a/seed0", energy=energy, wall_s=40.0, run_config={"heartbeat_s": 5.0})
    lines = [replace(line, status="running") for line in schema.read_ledger(folder)]
    (folder / schema.LEDGER_FILE).write_text("".join(map(schema.seal, lines)))
    runs, _ = tables.read_runs([tmp_path])
    found = summary.summarise(runs, [])["runs"][0]
    assert found["status"] == "killed"
    gap_s = lines[-1].wall_s - lines[-2].wall_s
    assert found["energy"]["high_j"] == pytest.approx(3500 + gap_s * 10)
    assert any(f"{gap_s:.1f} s after its last line" in text for _, texts in sentences.setup([found]) for text in texts)


# Over random kills the interval holds the truth

pieces = st.lists(st.tuples(st.floats(0.01, 9.0), st.floats(1.0, 700.0)), min_size=1, max_size=6)
beats = st.lists(st.floats(0.0, 0.4), min_size=1, max_size=5)  # how late each line comes
Kill = tuple[list[float], float]
kills = st.tuples(beats, st.floats(0.0, 1.0))


def killed_after(record: schema.RunRecord, clock: Clock, source: Any, kill: Kill, look: Callable[[], None]) -> Energy:
    """Beat, and die somewhere before the next line."""
    late, part = kill
    begin_s = clock.s
    source.start()

    def line() -> schema.LedgerLine:
        return replace(LINE, wall_s=clock.s - begin_s, energy={"source": source.read()})

    lines = [line()]
    for late_s in late:
        for _ in range(20):
            clock.advance((HEARTBEAT_S + late_s) / 20)
            look()
        lines.append(line())
    clock.advance(part * (HEARTBEAT_S + max(late)))
    return after_kill(lines, record).energy["source"]


@settings(max_examples=100, deadline=None)
@given(pieces, kills, st.floats(0.95, 1.05), st.booleans(), st.sampled_from([1.0, 0.25]))
def test_of_a_board(
    record: schema.RunRecord, pieces: list[tuple[float, float]], kill: Kill, gain: float, counter: bool, share: float
) -> None:
    clock = Clock()
    load = Load(clock.s, pieces, 50.0)
    pynvml.nvmlLib = fake = FakeNvml(clock, load, gain=gain)
    pynvml._nvmlGetFunctionPointer_cache.clear()
    if not counter:
        fake.missing.add("nvmlDeviceGetTotalEnergyConsumption")
        load.pieces = [(20.0, watts) for _, watts in pieces]  # what two samples of power bound is slow against them
    board = NvmlBoard(UUID, clock=clock, threaded=False, declared_share=share)
    begin_s = clock.s
    energy = killed_after(record, clock, board, kill, board.sample)
    assert holds(energy, share * load.joules(begin_s, clock.s))
    assert energy.most_w == 700.0 * share, "shares of a board add up in high too"


@settings(max_examples=60, deadline=None)
@given(pieces, kills, st.integers(0, 65_000_000_000))
def test_of_a_processor_with_counters(
    record: schema.RunRecord, pieces: list[tuple[float, float]], kill: Kill, start_uj: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        load, tree = Load(clock.s, pieces, 5.0), FakePowercap(Path(folder), clock)
        tree.zone("intel-rapl:0", "package-0", load, start_uj)
        own = TreeCpu(lambda: clock.s)
        source = Rapl(
            "cpu_package",
            find_zones(tree.root)[0].packages,
            clock=clock,
            threaded=False,
            own_cpu_s=own,
            all_cpu_s=lambda: clock.s,
        )
        begin_s = clock.s
        energy = killed_after(record, clock, source, kill, tree.show)
        assert holds(energy, load.joules(begin_s, clock.s))


@settings(max_examples=60, deadline=None)
@given(kills, st.floats(10.0, 200.0), st.floats(0.0, 200.0), st.floats(0.0, 1.0))
def test_of_stated_watts(record: schema.RunRecord, kill: Kill, low_w: float, more_w: float, part: float) -> None:
    clock = Clock()
    begin_s = clock.s
    energy = killed_after(record, clock, StatedWatts(low_w, low_w + more_w, clock=clock), kill, lambda: None)
    seconds = clock.s - begin_s
    assert energy.high_j + 1e-3 >= (low_w + more_w) * seconds
    assert energy.low_j - 1e-3 <= low_w * seconds
    assert holds(energy, (low_w + part * more_w) * seconds)


@settings(max_examples=60, deadline=None)
@example(([0.0], 1.0), "Haswell", 1.0, 1.0)  # nothing draws more
@given(kills, st.sampled_from(sorted(VCPU_WATTS)), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_of_an_estimated_processor_of_any_row_of_the_table(
    record: schema.RunRecord, kill: Kill, row: str, before: float, after: float
) -> None:
    """Busy for a part ``before`` of the time up to the last line, and a part ``after`` it."""
    clock, vcpus, memory_gib = Clock(), 4.0, 16.0
    begin_s, busy = clock.s, before
    source = CpuEstimate(
        cpu_s=TreeCpu(lambda: busy * vcpus * (clock.s - begin_s)),
        clock=clock,
        vcpus=vcpus,
        memory_gib=memory_gib,
        architecture=row,
    )
    energy = killed_after(record, clock, source, kill, lambda: None)
    lived_s = sum(HEARTBEAT_S + late_s for late_s in kill[0])
    idle_w, full_w = VCPU_WATTS[row]
    seconds = clock.s - begin_s
    cpu_s = vcpus * (before * lived_s + after * (seconds - lived_s))
    assert holds(energy, vcpus * idle_w * seconds + cpu_s * (full_w - idle_w) + 0.392 * memory_gib * seconds)


# The folders of killed Meters


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "nvidia_boards", list)
    monkeypatch.delenv(RUN_VARIABLE, raising=False)


LOOP = """
import os, signal, sys, gymnasium
from playmeter import Meter
with Meter(sys.argv[1], agent="mine", env="CartPole-v1", flops_per_update=10, heartbeat_s=1.0) as meter:
    env = meter.wrap(gymnasium.make("CartPole-v1"))
    env.reset(seed=0)
    ended = 0
    for n in range(1, 778):
        if any(env.step(0)[2:4]):
            ended += 1
            env.reset()
        meter.updates()
    print(n, ended, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(tmp_path: Path) -> tuple[Path, int, int]:
    """(folder, steps, games) of a Meter that was killed between two lines."""
    command = [sys.executable, "-c", LOOP, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    steps, games = map(int, done.stdout.split())
    return tmp_path / "CartPole-v1/mine/seed0", steps, games


def test_the_next_meter_ends_the_folder_of_a_killed_one_with_all_that_it_counted(
    killed: tuple[Path, int, int], tmp_path: Path
) -> None:
    folder, steps, games = killed
    assert not is_counting(folder)
    before = schema.read_ledger(folder)
    with (folder / schema.LEDGER_FILE).open("ab") as ledger:
        ledger.write(b'{"status": "runn')  # torn by the kill
    with Meter(tmp_path, agent="mine", env="CartPole-v1", seed=1):
        pass
    *lines, end = schema.read_ledger(folder)
    assert lines == before
    assert end.status == "killed"
    assert end.lineage == end.consumed == schema.Counts(steps, steps, steps, games)
    assert end.flops.update == 10 * steps
    assert end.energy == after_kill(before, schema.read_run(folder)).energy
    assert end.time_utc == before[-1].time_utc, "the last that is known of it"
    (first, _), left_out = tables.read_runs([tmp_path])
    assert left_out == []
    assert first.total == end
    assert first.episodes["l"].sum() <= steps < first.episodes["l"].sum() + 500
    assert len(first.episodes) == games
    assert first.episodes["t"].is_sorted()
    assert sorted(path.name for path in folder.iterdir()) == ["evals.jsonl", "ledger.jsonl", "monitor.csv", "run.json"]


def test_a_living_meter_and_a_folder_that_cannot_be_read_are_left_alone(killed: tuple[Path, int, int], tmp_path: Path) -> None:
    folder, *_ = killed
    (folder / schema.RUN_FILE).write_text("{")
    with Meter(tmp_path, agent="mine", env="CartPole-v1", seed=5) as meter:
        close_killed(folder.parent)
        assert is_counting(meter.folder)
        meter.updates(3)
        alive = meter.folder
    assert schema.read_ledger(alive)[-1].status == "finished"
    assert (folder / COUNTING).is_dir()


def test_a_parent_counts_to_the_end_of_a_command_that_is_killed(tmp_path: Path) -> None:
    """``playmeter meter`` survives its child: time and energy are known up to the death, and no bound is needed."""
    command = [sys.executable, "-m", "playmeter", "meter", "--agent", "mine", "--cpu-watts", "50:60", "--"]
    begin = time.monotonic()
    done = subprocess.run(
        [*command, "sh", "-c", "sleep 0.9; kill -9 $$"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 137
    line = schema.read_ledger(tmp_path / "results/unknown/mine/seed0")[-1]
    assert line.status == "failed"
    assert line.wall_s is not None
    assert 0.9 <= line.wall_s <= time.monotonic() - begin
    energy = line.energy["cpu_package"]
    assert (energy.low_j, energy.high_j) == (
        pytest.approx(50 * line.wall_s, rel=0.02),
        pytest.approx(60 * line.wall_s, rel=0.02),
    )
