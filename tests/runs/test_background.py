"""Checkpoints that another thread writes: of the moment at which they were asked for, bounded in memory, and as whole as ever."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs import checkpoint, schema
from runs import folder as run_folder
from runs.background import MOST_COPIES, Writer
from runs.checkpoint import State, Store
from runs.config import DiskError, RunConfig
from runs.loop import Books, Loop
from runs.progress import Progress
from runs.train import train
from tests.runs.test_checkpoint import Crash, Disk, Rows, check_equal, silent, state_of
from tests.runs.test_resume import Killed, config, interrupt_at, kill_at
from tests.torture import result

WAIT_S = 30.0


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES", 20 * 24)
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 3 * 24)
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing reaches the disk until it is set."""
    opened, write = threading.Event(), checkpoint.write_part

    def waits(*arguments: Any) -> Any:
        assert opened.wait(WAIT_S)
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "write_part", waits)
    yield opened
    opened.set()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plays=st.lists(st.tuples(st.integers(0, 70), st.booleans()), min_size=1, max_size=8))
def test_every_checkpoint_holds_the_ring_as_it_is_whatever_was_written_ahead(
    plays: list[tuple[int, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    ring, writer = Rows(), Writer(Store(folder, silent))
    for rows, ahead in plays:
        ring.play(rows)
        if ahead:
            writer.ahead(ring, 0.9)
            continue
        writer.settle()
        writer.save(ring.end, state_of(ring))
        assert writer.settle() == ring.end
        assert check_equal(folder) == ring.end
    writer.close()


def test_a_checkpoint_is_of_the_moment_at_which_it_was_asked_for(gate: threading.Event, tmp_path: Path) -> None:
    """The ring comes round and the arrays change while nothing is written yet."""
    ring, writer = Rows(), Writer(Store(tmp_path, silent))
    ring.play(38)
    state = state_of(ring)
    writer.save(38, state)
    ring.play(100)
    state.arrays["params"] += 7
    state.plain["names"].append("b")
    assert (writer.idle, list(tmp_path.glob("resume*"))) == (False, [])
    gate.set()
    assert writer.settle() == 38
    assert check_equal(tmp_path) == 38
    writer.close()


class Counting(Rows):
    """Counts the rows that were copied out of it."""

    copied = 0

    def read(self, first: int, count: int) -> bytes:
        self.copied += count
        return super().read(first, count)


def test_no_more_than_two_segments_are_in_memory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer waits, and what it holds meanwhile is two of five segments; the third is copied when the first is on the disk."""
    ring, writer = Counting(capacity=200), Writer(Store(tmp_path, silent))
    ring.play(100)
    held, written, write = [], [0], checkpoint.write_part
    full = threading.Semaphore(0)

    def slow(path: Path, *arguments: Any) -> Any:
        if path.name.startswith("replay"):
            assert full.acquire(timeout=WAIT_S)
            held.append(ring.copied - 20 * written[0])
            written[0] += 1
        return write(path, *arguments)

    monkeypatch.setattr(checkpoint, "write_part", slow)
    training = threading.Thread(target=writer.save, args=(100, state_of(ring)))
    training.start()
    for k in range(5):
        until(lambda k=k: ring.copied == min(20 * (MOST_COPIES + k), 100))
        training.join(0.05)
        assert ring.copied == min(20 * (MOST_COPIES + k), 100)
        full.release()
    training.join(WAIT_S)
    assert writer.settle() == 100
    assert held == [40, 40, 40, 40, 20]
    writer.close()
    store = Store(tmp_path, silent)
    manifest, again = store.load(), Rows(capacity=200, end=100)
    assert manifest is not None
    store.fill(manifest, again)
    assert again.held == ring.held


def until(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if true():
            return
        pause.wait(0.01)
    raise AssertionError("that never came")


def test_full_segments_are_written_ahead_and_the_checkpoint_copies_the_rest(tmp_path: Path) -> None:
    ring, writer = Counting(capacity=200), Writer(Store(tmp_path, silent))
    ring.play(65)
    for copied in (40, 60, 60):
        writer.ahead(ring, 0.5)
        writer.settle()
        assert ring.copied == copied, "two segments at a time, and none that is not full"
    assert not list(tmp_path.glob("resume*"))
    ring.copied = 0
    writer.save(65, state_of(ring))
    writer.settle()
    assert ring.copied == 5
    writer.close()


@pytest.mark.parametrize(
    ("fraction", "ahead"),
    [
        (0.0, []),  # nobody knows yet how fast it goes
        (0.25, []),  # 300 rows are to come, and none of these 100 will be left
        (0.5, ["40-60", "60-80"]),  # 100 are to come: those from row 50 on will be left
        (0.6, ["0-20", "20-40"]),  # 66.7: from 16.7 on; two ranges at a time
        (1.5, ["0-20", "20-40"]),  # it is late
    ],
)
def test_what_the_ring_will_have_passed_is_not_written_ahead(fraction: float, ahead: list[str], tmp_path: Path) -> None:
    ring, writer = Rows(capacity=150), Writer(Store(tmp_path, silent))
    ring.play(100)
    writer.ahead(ring, fraction)
    writer.settle()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"replay-000001-{rows}.rows" for rows in ahead]
    writer.close()


def written(folder: Path) -> tuple[Rows, Writer]:
    """A ring of which two checkpoints hold 45 and 65 rows."""
    ring, writer = Rows(), Writer(Store(folder, silent))
    for rows in (45, 20):
        ring.play(rows)
        writer.save(ring.end, state_of(ring))
        writer.settle()
    return ring, writer


@pytest.mark.parametrize("torn", [False, True])
def test_a_crash_between_any_two_operations_of_the_thread_leaves_a_whole_checkpoint(
    torn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for at in range(1, 200):
        folder = tmp_path / f"{at}"
        ring, writer = written(folder)
        with monkeypatch.context() as patched:
            disk = Disk(patched, at, torn)
            try:
                ring.play(17)
                writer.ahead(ring, 0.6)
                writer.settle()
                ring.play(13)
                writer.save(ring.end, state_of(ring), lambda: None)
                ring.play(50)
                writer.settle()
            except Crash:
                pass
            else:
                writer.close()
                break
        writer.close()
        warnings: list[str] = []
        steps = check_equal(folder, warnings.append)
        seen.add(steps)
        assert warnings == [], "nothing is damaged, it is only not there yet"
        again, ring = Writer(store := Store(folder, silent), steps), Rows()
        store.load()
        ring.play(98)
        again.save(98, state_of(ring))
        assert again.settle() == check_equal(folder) == 98
        assert not list(folder.glob("*.tmp"))
        again.close()
    assert disk.done > 30
    assert seen == {65, 95}, "before the manifest is there, and after"


def refuse(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    write = checkpoint.write_part

    def full(path: Path, content: Any, written: list[Path]) -> Any:
        if path.name.startswith(what):
            (path.with_name("left.tmp")).write_bytes(b"half")
            written.append(path.with_name("left.tmp"))
            raise OSError(28, os.strerror(28), str(path))
        return write(path, content, written)

    monkeypatch.setattr(checkpoint, "write_part", full)


@pytest.mark.parametrize("what", ["replay", "state", "resume"])
def test_what_the_disk_refuses_the_training_thread_is_told_and_the_next_is_whole(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, writer = written(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ring.play(30)
    with monkeypatch.context() as disk:
        refuse(disk, what)
        writer.save(95, state_of(ring), lambda: pytest.fail("it was not written"))
        with pytest.raises(OSError, match="No space left"):
            writer.settle()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert writer.settle() is None
    writer.save(95, state_of(ring))
    assert writer.settle() == check_equal(tmp_path) == 95
    writer.close()


def test_what_the_disk_refuses_ahead_of_a_checkpoint_is_tried_again_with_it_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, writer = Counting(), Writer(Store(tmp_path, silent))
    ring.play(45)
    with monkeypatch.context() as disk:
        refuse(disk, "replay")
        writer.ahead(ring, 0.9)
        assert writer.settle() is None
        ring.copied = 0
        writer.ahead(ring, 0.9)
        assert ring.copied == 0
        assert list(tmp_path.iterdir()) == []
    writer.save(45, state_of(ring))
    assert writer.settle() == check_equal(tmp_path) == 45
    ring.play(20)
    ring.copied = 0
    writer.ahead(ring, 0.9)
    assert ring.copied == 20, "there is room again"
    writer.close()


def test_a_fault_that_is_not_the_disks_is_raised_where_it_is_seen(tmp_path: Path) -> None:
    writer = Writer(Store(tmp_path, silent))
    writer.save(1, State({"not JSON": object()}, {}))
    with pytest.raises(TypeError, match="JSON"):
        writer.settle()
    writer.close()


# In a training


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every step of the trainings, as it is booked."""
    steps, stepped = list[int](), Books.stepped

    def books(self: Books, *arguments: Any) -> Any:
        steps.append(self.counters.steps)
        return stepped(self, *arguments)

    monkeypatch.setattr(Books, "stepped", books)
    return steps


def test_the_training_goes_on_while_a_checkpoint_is_written_and_its_ledger_line_is_there_before(
    played: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest, the last of its files, waits until forty more steps are played; the last one longer than the training."""
    write, pause, early, manifests = checkpoint.write_part, threading.Event(), list[str](), list[int]()
    (whole,) = train(config(tmp_path / "whole"))
    folder = tmp_path / "slow/CartPole-v1/dqn/seed0"
    played.clear()

    def waits(path: Path, *arguments: Any) -> Any:
        if (number := re.fullmatch(r"resume-(\d+)\.json", path.name)) is not None:
            steps = 50 * int(number[1])
            until(lambda: played[-1] >= steps + 40)
            pause.wait(0.3 if steps == 200 else 0.0)
            manifests.append(steps)
            if schema.read_ledger(folder)[-1].consumed.steps < steps:
                early.append(path.name)
        return write(path, *arguments)

    monkeypatch.setattr(checkpoint, "write_part", waits)
    (outcome,) = train(config(tmp_path / "slow", heartbeat_s=5.0))
    assert result(outcome.folder) == result(whole.folder)
    assert manifests == [50, 100, 150, 200]
    assert early == []
    assert not list((folder / checkpoint.FOLDER).glob("re*")), "a finished run needs no checkpoints"
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("playmeter-checkpoint")]


def test_a_training_has_its_replay_written_as_it_fills(tmp_path: Path) -> None:
    """Thirteen rows of 36 bytes are a segment here; the ring keeps 90 of the 120 until the checkpoint."""
    folder, early = tmp_path / "CartPole-v1/dqn/seed0" / checkpoint.FOLDER, set[str]()

    def look(progress: Progress) -> None:
        if not list(folder.glob("resume*")):
            early.update(path.name for path in folder.glob("*.rows"))

    train(config(tmp_path, checkpoint_every="120-steps", heartbeat_s=0.0001), look)
    assert early
    assert all(int(name.split("-")[3].removesuffix(".rows")) > 30 for name in early)


def test_a_refused_checkpoint_is_told_though_the_run_stops_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "resume")
    said = list[str]()
    (outcome,) = train(config(tmp_path, checkpoint_every="1h"), interrupt_at(60), said.append)
    steps = schema.read_ledger(outcome.folder)[-1].lineage.steps
    assert said == [f"no checkpoint at step {steps}: No space left on device; there is none before it"]


def test_a_seed_that_diverges_is_told_of_the_checkpoint_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of step 100 takes longer than the twenty steps after it."""
    write, pause, act, said = checkpoint.write_part, threading.Event(), Loop._act, list[str]()

    def slow(*arguments: Any) -> Any:
        pause.wait(0.2)
        return write(*arguments)

    def poisoned(self: Loop, obs: Any) -> Any:
        if self.learner.steps == 110:
            self.learner.params[0, 0] = float("nan")
        return act(self, obs)

    monkeypatch.setattr("runs.loop.LOOK_STEPS", 20)
    monkeypatch.setattr(checkpoint, "write_part", slow)
    monkeypatch.setattr(Loop, "_act", poisoned)
    (outcome,) = train(config(tmp_path), notice=said.append)
    assert outcome.status == "diverged"
    assert "its checkpoint is of step 100" in said[-1]


def test_a_run_that_the_disk_ends_names_the_checkpoint_that_was_being_written(
    played: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, append, pause = checkpoint.write_part, run_folder._append, threading.Event()

    def slow(*arguments: Any) -> Any:
        pause.wait(0.2)
        return write(*arguments)

    def full(file: Any, line: str) -> None:
        if played and played[-1] >= 55:
            raise OSError(28, os.strerror(28), file.name)
        append(file, line)

    monkeypatch.setattr(checkpoint, "write_part", slow)
    monkeypatch.setattr(run_folder, "_append", full)
    with pytest.raises(DiskError, match="No space left on device; the last checkpoint is of step 50, and --resume"):
        train(config(tmp_path, heartbeat_s=0.0001))


def test_a_run_that_fails_is_left_when_everything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the thread would write on in a folder whose lock is gone."""
    write, pause = checkpoint.write_part, threading.Event()

    def slow(*arguments: Any) -> Any:
        pause.wait(0.2)
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "write_part", slow)
    kill_at(monkeypatch, 55)
    with pytest.raises(Killed):
        train(config(tmp_path))
    manifest = Store(tmp_path / "CartPole-v1/dqn/seed0" / checkpoint.FOLDER, pytest.fail).load()
    assert manifest is not None
    assert manifest.steps == 50


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_waits_until_everything_is_written(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of the stop stands behind a slow one."""
    write, pause, heard = checkpoint.write_part, threading.Event(), list[Progress]()

    def slow(*arguments: Any) -> Any:
        pause.wait(0.1)
        return write(*arguments)

    def stop(progress: Progress) -> None:
        if progress.steps >= 110 and not heard:
            heard.append(progress)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(checkpoint, "write_part", slow)
    asked: RunConfig = config(tmp_path, heartbeat_s=0.001)
    (outcome,) = train(asked, stop)
    steps = schema.read_ledger(outcome.folder)[-1].lineage.steps
    assert (outcome.status, steps < 200) == ("interrupted", True)
    manifest = Store(outcome.folder / checkpoint.FOLDER, pytest.fail).load()
    assert manifest is not None
    assert manifest.steps == steps
