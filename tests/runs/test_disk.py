"""A disk that is full or read-only, and too many open files, as the kernel refuses them: the training goes on, or stops with one clear
line; what was on the disk can be read, and --resume goes on when it is mended.

Permissions do not bind root, so that file systems are mounted; where that is not allowed, the tests that need it are left out.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agents.config import AgentConfig
from runs import schema
from runs.checkpoint import FOLDER, Store
from runs.config import DiskError, InputError, RunConfig
from runs.progress import Progress
from runs.train import train
from tests.torture import result

AGENT = AgentConfig(hidden=(300, 300), batch_size=4, replay_ratio=0.2, learning_starts_steps=30, replay_capacity=90)
"""Half a megabyte of parameters: a checkpoint takes much more of the disk than a ledger."""
SEED = "CartPole-v1/dqn/seed0"


def config(out: Path, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "agent": "dqn", "env": "CartPole-v1", "agent_config": AGENT, "seeds": (0,), "budget": "240-steps", "evals": 1,
        "eval_episodes": 1, "out": str(out), "device": "cpu", "compile": "off", "threads": 1, "heartbeat_s": 0.003,
        "checkpoint_every": "50-steps",
    }  # fmt: skip
    return RunConfig(**(values | changes))


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of the run that nothing befell."""
    (outcome,) = train(config(tmp_path_factory.mktemp("whole")))
    return result(outcome.folder)


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"mount {' '.join(arguments)}: {done.stderr.strip()}")


Mount = Callable[..., Path]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts what is asked for, and takes it away at the end."""
    points: list[Path] = []

    def mounts(point: Path, *arguments: str) -> Path:
        point.mkdir(exist_ok=True)
        try:
            mount(*arguments, str(point))
        except OSError as error:
            pytest.skip(str(error))
        points.append(point)
        return point

    yield mounts
    for point in reversed(points):
        subprocess.run(["umount", "--lazy", str(point)], check=True)


def set_read_only(point: Path, read_only: bool = True) -> None:
    """Of a mount: the kernel refuses as long as a file in it is open for writing."""
    for _ in range(200):
        try:
            return mount("-o", f"remount,bind,{'ro' if read_only else 'rw'}", str(point))
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"{point} stays busy")


def at(step: int, act: Callable[[], object], *, then: Callable[[Progress], None] = lambda progress: None) -> Any:
    """A listener that acts once, at the first heartbeat from a step on."""
    done: list[int] = []

    def listener(progress: Progress) -> None:
        then(progress)
        if progress.steps >= step and not done:
            done.append(progress.steps)
            act()

    return listener


def check_readable(folder: Path) -> int:
    """Ledger, games, evaluations and a checkpoint; returns the checkpoint's step."""
    assert schema.read_ledger(folder)
    assert (folder / schema.MONITOR_FILE).read_text().startswith("#")
    if (folder / schema.EVALS_FILE).stat().st_size:
        schema.read_evals(folder)
    store = Store(folder / FOLDER, pytest.fail)
    manifest = store.load()
    assert manifest is not None
    assert store.arrays(manifest)
    return manifest.steps


def refusals(said: list[str]) -> list[str]:
    return [text for text in said if text.startswith("no checkpoint at step")]


def test_checkpoints_that_cannot_be_written_are_done_without_and_the_run_that_could_not_end_goes_on_later(
    whole: dict[str, Any], mounted: Mount, tmp_path: Path
) -> None:
    """Their folder becomes read-only in the midst of the training."""
    folder, said = tmp_path / SEED, list[str]()

    def seal() -> None:
        mounted(folder / FOLDER, "--bind", str(folder / FOLDER))
        set_read_only(folder / FOLDER)

    with pytest.raises(DiskError) as end:
        train(config(tmp_path), at(70, seal), said.append)
    (refused,) = refusals(said)
    assert refused.endswith("Read-only file system; that of step 50 stays"), "said once"
    assert str(end.value) == (
        f"{folder / FOLDER / 'final.tmp'} cannot be written: Read-only file system; the last checkpoint is of step 50, "
        "and --resume goes on when this is mended"
    )
    assert schema.read_ledger(folder)[-1].status == "failed"
    assert check_readable(folder) == 50
    set_read_only(folder / FOLDER, False)
    (again,) = train(config(tmp_path, resume=True))
    assert result(again.folder) == whole


def test_a_run_folder_that_became_read_only_is_refused_in_one_line_and_stays_as_it_was(
    whole: dict[str, Any], mounted: Mount, tmp_path: Path
) -> None:
    out = mounted(tmp_path / "out", "-t", "tmpfs", "-o", "size=32m", "tmpfs")
    train(config(out), at(120, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    mount("-o", "remount,ro", str(out))
    for again in (config(out, resume=True), config(out)):
        with pytest.raises(InputError, match="cannot be written: Read-only file system") as refusal:
            train(again)
        assert "\n" not in str(refusal.value)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert check_readable(out / SEED) >= 120
    mount("-o", "remount,rw", str(out))
    (outcome,) = train(config(out, resume=True))
    assert result(outcome.folder) == whole


def test_where_only_the_run_folder_is_read_only_it_is_named(mounted: Mount, tmp_path: Path) -> None:
    train(config(tmp_path), at(60, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    folder = mounted(tmp_path / SEED, "--bind", str(tmp_path / SEED))
    set_read_only(folder)
    with pytest.raises(InputError) as refusal:
        train(config(tmp_path, resume=True))
    assert str(refusal.value) == f"{folder} cannot be written: Read-only file system"
    assert check_readable(folder) >= 60


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_where_nothing_can_be_written_any_more_the_run_stops_with_one_line(
    number: int, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that turns read-only after an error refuses open files too, which no mount can be asked to do: at the border."""
    from runs import checkpoint, folder

    def refuse(file: Any, *_: Any) -> Any:
        raise OSError(number, os.strerror(number), str(getattr(file, "name", file)))

    with monkeypatch.context() as disk:

        def seal() -> None:
            disk.setattr(folder, "_append", refuse)
            disk.setattr(checkpoint, "write_part", refuse)

        with pytest.raises(DiskError) as end:
            train(config(tmp_path), at(120, seal))
    line = str(end.value)
    assert line.startswith(
        f"{tmp_path / SEED / schema.LEDGER_FILE} cannot be written: {os.strerror(number)}; the last checkpoint is"
    )
    assert "\n" not in line
    assert schema.read_ledger(tmp_path / SEED)[-1].status == "running"
    assert check_readable(tmp_path / SEED) == 100
    (again,) = train(config(tmp_path, resume=True))
    assert result(again.folder) == whole


def fill(out: Path, but: int) -> Path:
    """Take all of a small disk but so many bytes; returns the file that does."""
    ballast = out / "ballast"
    free = os.statvfs(out)
    with ballast.open("wb") as file:
        file.write(bytes(max(0, free.f_bavail * free.f_bsize - but)))
    return ballast


def test_on_a_full_disk_checkpoints_are_done_without_until_there_is_room(
    whole: dict[str, Any], mounted: Mount, tmp_path: Path
) -> None:
    out, said = mounted(tmp_path / "out", "-t", "tmpfs", "-o", "size=16m", "tmpfs"), list[str]()
    empty = at(160, lambda: (out / "ballast").unlink())
    (outcome,) = train(config(out), at(70, lambda: fill(out, 500_000), then=empty), said.append)
    assert result(outcome.folder) == whole
    (refused,) = refusals(said)
    assert refused == "no checkpoint at step 100: No space left on device; that of step 50 stays"
    assert not list(out.rglob("*.tmp"))


def test_on_a_disk_without_any_room_the_run_stops_with_one_line(whole: dict[str, Any], mounted: Mount, tmp_path: Path) -> None:
    out = mounted(tmp_path / "out", "-t", "tmpfs", "-o", "size=16m", "tmpfs")
    with pytest.raises(DiskError) as end:
        train(config(out), at(70, lambda: fill(out, 0)))
    assert "cannot be written: No space left on device; the last checkpoint is of step 50" in str(end.value)
    assert "\n" not in str(end.value)
    assert check_readable(out / SEED) == 50
    (out / "ballast").unlink()
    (again,) = train(config(out, resume=True))
    assert result(again.folder) == whole


@pytest.mark.filterwarnings(
    "error::pytest.PytestUnhandledThreadExceptionWarning"
)  # pytest takes a thread's traceback for itself
def test_with_too_many_open_files_the_run_stops_with_one_line(
    whole: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hogs = list[int]()

    def hog() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
        with suppress(OSError):
            while True:
                hogs.append(os.dup(0))

    try:
        with pytest.raises(DiskError) as end:
            train(config(tmp_path), at(70, hog))
    finally:
        for each in hogs:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    folder = tmp_path / SEED
    assert str(end.value).startswith(f"{folder}/events.out.tfevents")
    assert "cannot be written: Too many open files; the last checkpoint is of step 50" in str(end.value)
    assert "\n" not in str(end.value)
    assert "Traceback" not in capfd.readouterr().err, "of TensorBoard's thread, which opens its file anew each time"
    last = schema.read_ledger(folder)[-1]
    assert (last.status, last.lineage.steps >= 70, last.peak_rss_bytes > 10**7) == ("failed", True, True)
    assert check_readable(folder) == 50
    (again,) = train(config(tmp_path, resume=True))
    assert result(again.folder) == whole
