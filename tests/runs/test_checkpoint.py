"""Checkpoint files: whole or not there, whatever happens between two operations on the disk, and never believed before they are checked."""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs import checkpoint
from runs.checkpoint import Damaged, Manifest, Part, Segment, State, Store, read_arrays, read_manifest, sealed


@dataclass
class Rows:
    """A ring whose row t is the number t, with some ballast."""

    capacity: int = 50
    end: int = 0
    row_bytes: int = 24
    held: dict[int, bytes] = field(default_factory=dict)

    def play(self, rows: int) -> None:
        for row in range(self.end, self.end + rows):
            self.held[row % self.capacity] = self.content(row)
        self.end += rows

    @staticmethod
    def content(row: int) -> bytes:
        return row.to_bytes(8, "little") + bytes([row % 7]) * 16

    def read(self, first: int, count: int) -> bytes:
        assert first // self.capacity == (first + count - 1) // self.capacity, "they lie together"
        return b"".join(self.held[row % self.capacity] for row in range(first, first + count))

    def write(self, first: int, count: int, content: bytes) -> None:
        for k in range(count):
            self.held[(first + k) % self.capacity] = content[k * self.row_bytes : (k + 1) * self.row_bytes]


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES", 20 * 24)
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 3 * 24)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # no machine loses its power here


def silent(text: str) -> None:
    pass


def state_of(ring: Rows) -> State:
    arrays = {
        "params": np.arange(6, dtype=np.float32) + ring.end,
        "none": np.zeros((0, 3), np.int64),
        "one": np.array(ring.end),
    }
    return State({"steps": ring.end, "names": ["a"]}, arrays, ring)


def check_equal(folder: Path, notice: Callable[[str], None] = silent) -> int:
    """Load what is there and compare it to what was written; returns its steps."""
    store = Store(folder, notice)
    manifest = store.load()
    assert manifest is not None
    steps = manifest.steps
    assert manifest.plain == {"steps": steps, "names": ["a"]}
    arrays = store.arrays(manifest)
    np.testing.assert_array_equal(arrays["params"], np.arange(6, dtype=np.float32) + steps)
    assert (arrays["one"].shape, int(arrays["one"]), arrays["none"].shape) == ((), steps, (0, 3))
    ring = Rows(end=steps)
    store.fill(manifest, ring)
    assert ring.held == {row % 50: Rows.content(row) for row in range(max(0, steps - 50), steps)}
    return steps


def written(folder: Path, *plays: int) -> Rows:
    ring, store = Rows(), Store(folder, silent)
    for rows in plays:
        ring.play(rows)
        store.save(ring.end, state_of(ring))
    return ring


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plays=st.lists(st.integers(0, 70), min_size=1, max_size=6))
def test_every_checkpoint_holds_the_ring_as_it_is(plays: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    ring, store = Rows(), Store(folder, silent)
    for rows in plays:
        ring.play(rows)
        store.save(ring.end, state_of(ring))
        assert check_equal(folder) == ring.end


def test_only_new_rows_are_written_and_passed_segments_go(tmp_path: Path) -> None:
    ring, store = Rows(), Store(tmp_path, silent)
    ring.play(45)
    first = store.save(45, state_of(ring))
    assert [(s.first, s.end) for s in first.segments] == [(0, 20), (20, 40), (40, 45)]
    ring.play(10)
    second = store.save(55, state_of(ring))
    assert [(s.first, s.end) for s in second.segments] == [(0, 20), (20, 40), (40, 55)]
    assert second.segments[:2] == first.segments[:2], "they are the same files"
    ring.play(45)
    store.save(100, state_of(ring))
    ring.play(1)
    last = store.save(101, state_of(ring))
    names = {path.name for path in tmp_path.iterdir()}
    assert len([name for name in names if name.startswith("resume")]) == len([n for n in names if n.startswith("state")]) == 2
    assert not {s.name for s in first.segments} & names
    assert {s.name for s in last.segments} <= names


class Crash(BaseException):
    """The process is gone."""


class Disk:
    """Counts the writer's operations on files, and ends the process before one of them, or in the midst of a write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, torn: bool = False) -> None:
        self.at, self.done = at, 0
        for name in ("fsync", "replace", "open"):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))
        for name in ("unlink", "mkdir"):
            monkeypatch.setattr(Path, name, self._counted(getattr(Path, name)))
        real = Path.open
        disk = self

        def opened(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if "w" not in mode:
                return real(path, mode, *arguments, **named)
            disk.step()
            file = builtins.open(path, mode, buffering=0)  # noqa: SIM115
            write = file.write

            class Writing:
                def __enter__(self) -> Any:
                    return self

                def __exit__(self, *error: Any) -> None:
                    file.close()

                def __getattr__(self, name: str) -> Any:
                    return getattr(file, name)

                def write(self, content: bytes) -> int:
                    if disk.done + 1 == disk.at and torn:
                        write(content[: len(content) // 2])
                    disk.step()
                    return write(content)

            return Writing()

        monkeypatch.setattr(Path, "open", opened)

    def step(self) -> None:
        self.done += 1
        if self.done == self.at:
            raise Crash

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.step()
            return call(*arguments, **named)

        return counted


@pytest.mark.parametrize("torn", [False, True])
def test_a_crash_between_any_two_operations_leaves_a_whole_checkpoint(
    torn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before, or the new one; and the next one is written beside what the crash left."""
    seen = set()
    for at in range(1, 200):
        folder = tmp_path / f"{at}"
        ring = written(folder, 45, 20)
        store = Store(folder, silent)
        store.load()
        ring.play(30)
        with monkeypatch.context() as patched:
            disk = Disk(patched, at, torn)
            try:
                store.save(ring.end, state_of(ring))
            except Crash:
                pass
            else:
                break
        warnings: list[str] = []
        seen.add(check_equal(folder, warnings.append))
        assert warnings == [], "nothing is damaged, it is only not there yet"
        again = Store(folder, silent)
        again.load()
        ring.play(3)
        again.save(ring.end, state_of(ring))
        assert check_equal(folder) == 98
        assert not list(folder.glob("*.tmp"))
    assert disk.done > 30
    assert seen == {65, 95}, "before the manifest is there, and after"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_found_and_the_checkpoint_before_is_used(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Torn, cut short, grown, a flipped bit, removed: a warning names the file, and the numbers are those of the one before."""
    folder = tmp_path_factory.mktemp("checkpoints")
    written(folder, 45, 20, 30)
    newest = read_manifest(folder / "resume-000003.json")
    own = [newest.state.name, "resume-000003.json", *(s.name for s in newest.segments if s.name.startswith("replay-000003"))]
    path = folder / data.draw(st.sampled_from(sorted(own)))
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["cut", "grown", "flip", "gone", "zeros"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if kind == "gone":
        path.unlink()
    else:
        if kind == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        damaged = {"cut": content[:at], "grown": content + b"x", "flip": content, "zeros": bytes(len(content))}[kind]
        path.write_bytes(damaged)
    warnings: list[str] = []
    assert check_equal(folder, warnings.append) == 65
    assert (path.name in " ".join(warnings)) == (not (kind == "gone" and path.suffix == ".json"))


def test_where_every_checkpoint_is_damaged_it_says_so(tmp_path: Path) -> None:
    written(tmp_path, 45, 20)
    for path in tmp_path.glob("state-*"):
        path.write_bytes(b"nonsense")
    with pytest.raises(Damaged, match=r"no checkpoint .* can be used"):
        Store(tmp_path, silent).load()
    assert Store(tmp_path / "none", silent).load() is None


def manifest_of(folder: Path, **changes: Any) -> Path:
    part = Part("state-000009.arrays", 0, "")
    body = asdict(Manifest(9, 5, {}, part, [], 50, 24)) | changes
    path = folder / "resume-000009.json"
    path.write_bytes(sealed(body))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"state": {"name": "../state-000009.arrays", "nbytes": 0, "sha256": ""}},
        {"state": {"name": "/etc/passwd", "nbytes": 0, "sha256": ""}},
        {"segments": [{"name": "replay-000001-0-5.rows/../../x", "nbytes": 1, "sha256": "", "first": 0, "end": 5}]},
        {"segments": [{"name": "replay-000001-0-5.rows", "nbytes": 1, "sha256": "", "first": -1, "end": 5}]},
        {"capacity": -1},
        {"steps": 1.5},
        {"schema": 99},
        {"plain": []},
        {"unknown": 1},
    ],
)
def test_a_manifest_of_a_stranger_reaches_nothing_outside(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(Damaged, match="resume-000009"):
        read_manifest(manifest_of(tmp_path, **changes))


def arrays_file(folder: Path, header: Any, body: bytes) -> Path:
    text = json.dumps(header).encode()
    path = folder / "state-000001.arrays"
    path.write_bytes(checkpoint.MAGIC + len(text).to_bytes(8, "little") + text + body)
    return path


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"a": ["float32", [10**12]]}, "size"),
        ({"a": ["float32", [2**62, 2**62]]}, "size"),
        ({"a": ["float32", [-1]]}, "kind"),
        ({"a": ["object", [1]]}, "kind"),
        ({"a": ["float32", 1]}, "kind"),
        ({"a": 5}, "state-000001"),
        ([], "state-000001"),
    ],
)
def test_sizes_are_checked_before_they_are_believed(tmp_path: Path, header: Any, says: str) -> None:
    with pytest.raises(Damaged, match=says):
        read_arrays(arrays_file(tmp_path, header, bytes(8)))


def test_rows_that_unpack_to_more_than_they_should_are_cut_off(tmp_path: Path) -> None:
    import zlib

    path = tmp_path / "replay-000001-0-5.rows"
    path.write_bytes(zlib.compress(bytes(10**8)))
    with pytest.raises(Damaged, match="more than its rows"):
        checkpoint.decompress(path, Segment(path.name, 1, "", 0, 5), Rows(end=5))
    path.write_bytes(zlib.compress(bytes(10)))
    with pytest.raises(Damaged, match="less than its rows"):
        checkpoint.decompress(path, Segment(path.name, 1, "", 0, 5), Rows(end=5))


def test_a_refused_write_leaves_the_checkpoints_before_as_they_were(tmp_path: Path) -> None:
    """Too many open files, as the kernel refuses them; whole trainings on bad disks are in test_disk.py."""
    import resource

    ring = written(tmp_path, 45, 20)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    store = Store(tmp_path, silent)
    store.load()
    ring.play(30)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    hogs = []
    try:
        while True:
            hogs.append(os.dup(0))
    except OSError:
        pass
    try:
        with pytest.raises(OSError, match="Too many open files"):
            store.save(ring.end, state_of(ring))
    finally:
        for hog in hogs:
            os.close(hog)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    store.save(ring.end, state_of(ring))
    assert check_equal(tmp_path) == 95
