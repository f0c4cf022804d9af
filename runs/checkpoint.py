"""Checkpoints of a training: whole or not there, verified, and cheap where the replay is large.

In the folder ``checkpoints/`` of a group's first run:

``resume-<n>.json``               what checkpoint n consists of: plain numbers, and every file with its size and SHA-256; sealed
                                  with a checksum of its own. It is written last: with it the checkpoint is there.
``state-<n>.arrays``              parameters, optimiser, generators, priorities, actions: a JSON header and plain bytes.
``replay-<n>-<first>-<end>.rows`` rows of the replay ring, compressed. Those of earlier checkpoints serve the later ones until the
                                  ring has passed them, so that a checkpoint writes what is new.

Every file goes to a temporary name, is fsynced, renamed, its folder fsynced, then read again and compared. The checkpoint before stays
beside the newest, for the day that the newest is damaged. Nothing in these files is executed, names in them stay in the folder, and
a size is checked before memory is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runs.folder import sync_folder

FOLDER = "checkpoints"
CHECKPOINT_SCHEMA = 1
MAGIC = b"playmeter arrays 1\n"
MOST_HEADER_BYTES = 1 << 20
SEGMENT_BYTES = 64 << 20  # of the replay in one file, before compression
PIECE_BYTES = 1 << 20  # copied out of the ring, or into it, at once
DTYPES = {"uint8", "int64", "float32", "float64", "bool"}

_MANIFEST = re.compile(r"resume-([0-9]{6,})\.json")
_PART = re.compile(r"(state-[0-9]{6,}\.arrays|replay-[0-9]{6,}-[0-9]+-[0-9]+\.rows)")
_OURS = re.compile(r"(resume-|state-|replay-)[0-9]{6,}.*")


class Damaged(ValueError):
    """A checkpoint that is not what was written; the message is one line that names the file and the fault."""


Bytes = bytes | memoryview


class Extent(Protocol):
    """Which rows are in a ring: numbered from the first ever written, the newest ``capacity`` of them."""

    @property
    def end(self) -> int:
        """One more than the newest row."""
        ...

    @property
    def capacity(self) -> int: ...

    @property
    def row_bytes(self) -> int: ...


class Ring(Extent, Protocol):
    """A replay's rows."""

    def read(self, first: int, count: int) -> Bytes:
        """A copy of rows that lie together in the ring, row by row."""
        ...

    def write(self, first: int, count: int, content: bytes) -> None: ...


@dataclass(frozen=True)
class Part:
    """A file of a checkpoint."""

    name: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Segment(Part):
    """Rows ``first`` to ``end`` of the replay."""

    first: int
    end: int


@dataclass(frozen=True)
class Manifest:
    """What ``resume-<n>.json`` holds."""

    number: int
    steps: int
    plain: dict[str, Any]
    state: Part
    segments: list[Segment]
    capacity: int  # of the ring, in rows
    row_bytes: int
    schema: int = CHECKPOINT_SCHEMA


@dataclass(frozen=True)
class Rows:
    """Which rows are in a ring at one moment: an :class:`Extent` that stays."""

    end: int
    capacity: int
    row_bytes: int


@dataclass(frozen=True)
class State:
    """What a trainer hands over: JSON's numbers and texts, arrays by name, and the replay's ring."""

    plain: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    ring: Ring | None = None


@dataclass
class Store:
    """The checkpoints of one run folder, for one thread at a time. ``notice`` is told of damaged ones.

    A checkpoint is ``add`` for every range of the replay that is ``missing``, in time or ahead of it, and then ``commit``; ``save`` is
    all of that. Each raises OSError where the disk refuses; then the checkpoints before are as they were, and this one begins again.
    """

    folder: Path
    notice: Callable[[str], None] = print
    latest: Manifest | None = field(default=None, init=False)
    _before: Manifest | None = field(default=None, init=False)
    _number: int | None = field(default=None, init=False)  # of the checkpoint that was begun
    _written: list[Path] = field(default_factory=list, init=False)  # of it
    _added: list[Segment] = field(default_factory=list, init=False)

    def save(self, steps: int, state: State) -> Manifest:
        """Write a checkpoint, and forget those older than the one before."""
        if (ring := state.ring) is not None:
            for first, end in self.missing(ring):
                self.add(first, end, copied(ring, first, end))
        return self.commit(steps, state, ring)

    def missing(self, ring: Extent) -> list[tuple[int, int]]:
        """First row and end of what is in the ring and in no file."""
        return [(first, end) for first, end in ranges(ring) if self._holding(first, end) is None]

    def _holding(self, first: int, end: int) -> Segment | None:
        """The file of these rows; it may begin with some that the ring has passed since."""
        known = self._added if self.latest is None else [*self._added, *self.latest.segments]
        return next((s for s in known if s.first <= first and s.end == end), None)

    def add(self, first: int, end: int, content: Iterable[Bytes]) -> None:
        """Write a range of the replay."""
        with self._begun() as number:
            path = self.folder / f"replay-{number:06d}-{first}-{end}.rows"
            part = write_part(path, compressed(content), self._written)
            self._added.append(Segment(**asdict(part), first=first, end=end))

    def commit(self, steps: int, state: State, rows: Extent | None) -> Manifest:
        """Write the state, and the manifest that makes a checkpoint of it all. ``rows``: of the replay, all of them in files."""
        with self._begun() as number:
            segments = [] if rows is None else [self._holding(first, end) for first, end in ranges(rows)]
            name = f"state-{number:06d}.arrays"
            part = write_part(self.folder / name, array_bytes(state.arrays), self._written)
            capacity, row_bytes = (0, 0) if rows is None else (rows.capacity, rows.row_bytes)
            kept = [segment for segment in segments if segment is not None]
            if len(kept) < len(segments):
                raise RuntimeError("a checkpoint without all rows of its replay")
            manifest = Manifest(number, steps, state.plain, part, kept, capacity, row_bytes)
            path = self.folder / f"resume-{number:06d}.json"
            write_part(path, [sealed(asdict(manifest))], self._written)
            read_manifest(path)
        self._before, self.latest = self.latest, manifest
        self._end()
        self._forget()
        return manifest

    @contextmanager
    def _begun(self) -> Iterator[int]:
        """The number of the checkpoint that is being written; what was written of it goes where the disk refuses the rest."""
        try:
            if self._number is None:
                self.folder.mkdir(exist_ok=True)
                self._number = self._next_number()
            yield self._number
        except OSError:
            for path in self._written:
                with suppress(OSError):
                    path.unlink()
            self._end()
            raise

    def _end(self) -> None:
        self._number = None
        self._written.clear()
        self._added.clear()

    def load(self) -> Manifest | None:
        """The newest checkpoint whose files are all what was written; None where there is none at all.

        Raises Damaged where there are some and none of them can be used.
        """
        damaged = ""
        for path in sorted(self.folder.glob("resume-*.json"), key=lambda path: (len(path.name), path.name), reverse=True):
            if not _MANIFEST.fullmatch(path.name):
                continue
            try:
                manifest = read_manifest(path)
                for part in (manifest.state, *manifest.segments):
                    check_part(self.folder, part)
            except Damaged as error:
                damaged = str(error)
                self.notice(f"checkpoint {path} is damaged ({damaged}): trying the one before")
                continue
            self.latest = manifest
            return manifest
        if damaged:
            raise Damaged(f"no checkpoint in {self.folder} can be used; the oldest: {damaged}")
        return None

    def arrays(self, manifest: Manifest) -> dict[str, NDArray[Any]]:
        """Raises Damaged."""
        return read_arrays(self.folder / manifest.state.name)

    def fill(self, manifest: Manifest, ring: Ring) -> None:
        """Put the rows of a checkpoint into the ring. Raises Damaged."""
        if manifest.capacity != ring.capacity or manifest.row_bytes != ring.row_bytes:
            raise Damaged("its replay has other sizes than this agent's")
        row = max(0, ring.end - ring.capacity)
        for segment in manifest.segments:
            if not segment.first <= row < segment.end <= ring.end:
                raise Damaged("its replay has gaps")
            row = segment.end
            decompress(self.folder / segment.name, segment, ring)
        if row != ring.end:
            raise Damaged("its replay has gaps")

    def forget_all(self) -> None:
        """The run is over: remove every checkpoint."""
        self.latest = self._before = None
        self._end()
        self._forget()

    def _next_number(self) -> int:
        numbers = [int(path.name.split("-")[1].split(".")[0]) for path in self.folder.iterdir() if _OURS.fullmatch(path.name)]
        return max(numbers, default=0) + 1

    def _forget(self) -> None:
        """Remove every file of ours that the newest two checkpoints do not name. What cannot be removed waits for the next time."""
        kept = set()
        for manifest in (self.latest, self._before):
            if manifest is not None:
                kept |= {f"resume-{manifest.number:06d}.json", manifest.state.name, *(s.name for s in manifest.segments)}
        with suppress(OSError):
            for path in self.folder.iterdir():
                if _OURS.fullmatch(path.name) and path.name not in kept:
                    with suppress(OSError):
                        path.unlink()


def ranges(ring: Extent) -> Iterator[tuple[int, int]]:
    """The rows that are in the ring, cut at multiples of a segment's length: all but the last range are the same next time."""
    length = max(1, SEGMENT_BYTES // ring.row_bytes)
    first = max(0, ring.end - ring.capacity)
    while first < ring.end:
        end = min((first // length + 1) * length, ring.end)
        yield first, end
        first = end


def pieces(ring: Extent, first: int, end: int) -> Iterator[tuple[int, int]]:
    """First row and count of parts that lie together in the ring and are small beside it."""
    most = max(1, PIECE_BYTES // ring.row_bytes)
    while first < end:
        count = min(most, end - first, ring.capacity - first % ring.capacity)
        yield first, count
        first += count


def copied(ring: Ring, first: int, end: int) -> Iterator[Bytes]:
    """A range of the ring in small parts."""
    for start, count in pieces(ring, first, end):
        yield ring.read(start, count)


def compressed(content: Iterable[Bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(1)
    for some in content:
        yield packer.compress(some)
    yield packer.flush()


def decompress(path: Path, segment: Segment, ring: Ring) -> None:
    """Rows that the ring has passed are read over. Never holds more than a piece, whatever the file claims."""
    unpacker, oldest = zlib.decompressobj(), ring.end - ring.capacity
    with path.open("rb") as file:
        for start, count in pieces(ring, segment.first, segment.end):
            content = _take(file, unpacker, count * ring.row_bytes, path)
            skip = min(max(0, oldest - start), count)
            if skip < count:
                ring.write(start + skip, count - skip, content[skip * ring.row_bytes :])
        if _take(file, unpacker, 1, path, missing_is_fine=True):
            raise Damaged(f"{path.name} holds more than its rows")


def _take(file: Any, unpacker: Any, wanted: int, path: Path, missing_is_fine: bool = False) -> bytes:
    content = bytearray()
    while len(content) < wanted:
        packed = unpacker.unconsumed_tail or file.read(1 << 16)
        if not packed:
            break
        try:
            content += unpacker.decompress(packed, wanted - len(content))
        except zlib.error as error:
            raise Damaged(f"{path.name} cannot be decompressed: {error}") from error
    if len(content) < wanted and not missing_is_fine:
        raise Damaged(f"{path.name} holds less than its rows")
    return bytes(content)


def write_part(path: Path, content: Iterable[bytes], written: list[Path]) -> Part:
    """Write a file, whole or not at all, and read it again. ``written`` takes the paths that a failure leaves to be removed."""
    temporary = path.with_name(path.name + ".tmp")
    written += [temporary, path]
    digest, nbytes = hashlib.sha256(), 0
    with temporary.open("wb") as file:
        for some in content:
            file.write(some)
            digest.update(some)
            nbytes += len(some)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
    part = Part(path.name, nbytes, digest.hexdigest())
    if (fault := fault_of(path, part)) is not None:
        raise OSError(f"{path} does not read as it was written: {fault}")
    return part


def fault_of(path: Path, part: Part) -> str | None:
    try:
        if path.is_symlink() or path.stat().st_size != part.nbytes:
            return "it has not the size that was written"
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == part.sha256
    except FileNotFoundError:
        return "it is missing"
    return None if same else "its checksum does not match"


def check_part(folder: Path, part: Part) -> None:
    """Raises Damaged."""
    try:
        fault = fault_of(folder / part.name, part)
    except OSError as error:
        fault = f"it cannot be read: {error.strerror}"
    if fault is not None:
        raise Damaged(f"{part.name}: {fault}")


def sealed(body: dict[str, Any]) -> bytes:
    text = json.dumps(body, sort_keys=True, allow_nan=False)
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "checkpoint": body}, allow_nan=False).encode()


def read_manifest(path: Path) -> Manifest:
    """Raises Damaged where it is not whole, or names what is no part of a checkpoint."""
    try:
        raw = json.loads(path.read_bytes())
        body = raw["checkpoint"]
        if hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest() != raw["sha256"]:
            raise ValueError("its checksum does not match")
        if body["schema"] != CHECKPOINT_SCHEMA:
            raise ValueError(f"schema {body['schema']}, this playmeter reads {CHECKPOINT_SCHEMA}")
        state, segments = Part(**body.pop("state")), [Segment(**each) for each in body.pop("segments")]
        manifest = Manifest(**body, state=state, segments=segments)
        numbers = [manifest.number, manifest.steps, manifest.capacity, manifest.row_bytes]
        numbers += [number for part in (state, *segments) for number in (part.nbytes,)]
        numbers += [number for s in segments for number in (s.first, s.end)]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a count that is none")
        if not all(isinstance(part.name, str) and _PART.fullmatch(part.name) for part in (state, *segments)):
            raise ValueError("it names a file that is no part of a checkpoint")
        if not isinstance(manifest.plain, dict):
            raise ValueError("its numbers are none")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path.name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
    return manifest


def array_bytes(arrays: dict[str, NDArray[Any]]) -> Iterator[bytes]:
    """A JSON header, then each array's bytes in its order."""
    header = json.dumps({name: [array.dtype.name, list(array.shape)] for name, array in arrays.items()}).encode()
    yield MAGIC + len(header).to_bytes(8, "little") + header
    for array in arrays.values():
        yield np.ascontiguousarray(array).tobytes()


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Raises Damaged. What the header claims must be the file's size to the byte before anything is read."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError("it is no file of arrays")
            length = int.from_bytes(file.read(8), "little")
            if length > MOST_HEADER_BYTES:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
            sizes = {name: _nbytes(dtype, shape) for name, (dtype, shape) in header.items()}
            if file.tell() + sum(sizes.values()) != os.fstat(file.fileno()).st_size:
                raise ValueError("it has not the size that its header claims")
            return {
                name: np.frombuffer(bytearray(file.read(sizes[name])), dtype).reshape(shape)
                for name, (dtype, shape) in header.items()
            }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path.name}: {error}") from error


def _nbytes(dtype: Any, shape: Any) -> int:
    if dtype not in DTYPES or not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("an array of an unknown kind")
    size = np.dtype(dtype).itemsize
    for length in shape:
        size *= length
    return size
