"""Boards that several use: runs of ours, strangers, MIG slices. The oracle adds up who drew what, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pynvml  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runs.energy import NvmlBoard
from runs.energy.sharing import Shared, by_cpu_time, by_work
from runs.meter import Meter, MeterReading
from runs.schema import Energy, until_killed
from tests.runs.fake_nvml import UUID, Clock, FakeBoard, FakeNvml, Load


@pytest.fixture(autouse=True)
def restore_library():
    library = pynvml.nvmlLib
    yield
    pynvml.nvmlLib = library
    pynvml._nvmlGetFunctionPointer_cache.clear()


def install(fake):
    pynvml.nvmlLib = fake
    pynvml._nvmlGetFunctionPointer_cache.clear()
    return fake


def holds(energy: Energy, true_j: float) -> bool:
    return energy.low_j - 1e-6 <= true_j <= energy.high_j + 1e-6 and energy.low_j <= energy.joules <= energy.high_j


@dataclass(frozen=True)
class Piece:
    """For ``half_s`` half seconds, each process keeps this percentage of the board busy; 4 W a percent above idle power."""

    half_s: int
    busy: tuple[int, ...]
    reset: bool = False  # a driver reload at its end

    @property
    def seconds(self) -> float:
        return self.half_s / 2


W_PER_PERCENT = 4.0


class World:
    """Processes 0, 1, ... of ours on one board. Process k is there in pieces [first, last) and is never read again after piece
    ``read``: where that is before ``last``, it was killed and lived on unmetered (its last heartbeat is what we have)."""

    def __init__(self, pieces, windows, *, idle_w, gain=1.0, pids=True):
        self.pieces, self.windows, self.idle_w = pieces, windows, idle_w
        self.clock = Clock()
        self.clock.ns = 20 * 10**9  # a publication of the counter falls on every end of a piece
        self.ends = [self.clock.s]
        for piece in pieces:
            self.ends.append(self.ends[-1] + piece.seconds)
        powers = [(piece.seconds, idle_w + W_PER_PERCENT * sum(self.busy(p).values())) for p, piece in enumerate(pieces)]
        self.fake = install(FakeNvml(self.clock, Load(self.clock.s, powers, idle_w), gain=gain))
        self.pids_told = pids
        if pids:
            self.fake.sm = {k: self._told(k) for k in range(len(windows))}

    def there(self, p):
        return [k for k, (first, last, _) in enumerate(self.windows) if first <= p < last]

    def busy(self, p):
        return {k: self.pieces[p].busy[k] for k in self.there(p)}

    def _told(self, k):
        def percent(at_s):
            p = next((p for p, (a, b) in enumerate(pairwise(self.ends)) if a < at_s <= b), None)
            return 0 if p is None else self.busy(p).get(k, 0)

        return percent

    def part_j(self, k, p):
        """What process k drew in piece p: its work, and an equal part of idle power."""
        seconds, busy = self.pieces[p].seconds, self.busy(p)
        return seconds * (W_PER_PERCENT * busy[k] + self.idle_w / len(busy)) if k in busy else 0.0

    def piece_j(self, p):
        return self.pieces[p].seconds * (self.idle_w + W_PER_PERCENT * sum(self.busy(p).values()))

    def run(self, declared=None, sample=False):
        """Each process's last reading."""
        boards, last = {}, {}
        for p, piece in enumerate(self.pieces):
            self.fake.pids = self.there(p) if self.pids_told else []
            for k in self.there(p):
                if k not in boards:
                    boards[k] = NvmlBoard(UUID, clock=self.clock, threaded=False, own_pids=lambda k=k: {k},
                                          declared_share=declared[k] if declared else 1.0)  # fmt: skip
                    boards[k].start()
                    last[k] = boards[k].read()
            for _ in range(piece.half_s):
                self.clock.advance(0.5)
                for board in boards.values() if sample else ():
                    board.sample()
            if piece.reset:
                self.fake.reset_counter()
            for k in self.there(p):
                if p < self.windows[k][2]:
                    last[k] = boards[k].read()
        return last


def worlds(starts, resets=False):
    """Two or three processes over some pieces; with ``starts`` they come at different times."""

    @st.composite
    def draw(pick):
        many, length = pick(st.integers(2, 3)), pick(st.integers(1, 6))
        percent = st.integers(0, 100 // many)
        pieces = [
            Piece(pick(st.integers(2, 12)), tuple(pick(percent) for _ in range(many)), resets and pick(st.booleans()))
            for _ in range(length)
        ]
        windows = []
        for _ in range(many):
            first = pick(st.integers(0, length - 1)) if starts else 0
            last = pick(st.integers(first + 1, length))
            windows.append((first, last, pick(st.integers(first, last))))
        return pieces, windows, pick(st.floats(20.0, 150.0))

    return draw()


@settings(max_examples=80, deadline=None)
@given(worlds(starts=True, resets=True), st.floats(0.95, 1.05), st.booleans())
def test_each_runs_interval_holds_what_it_drew_through_kills_resets_and_company(world, gain, sample):
    pieces, windows, idle_w = world
    made = World(pieces, windows, idle_w=idle_w, gain=gain)
    last = made.run(sample=sample)
    for k, (first, _, read) in enumerate(windows):
        true_j = sum(made.part_j(k, p) for p in range(first, read))
        assert holds(last[k], true_j), (k, last[k], true_j)


def test_what_a_process_did_before_company_came_is_no_part_of_what_they_share():
    """Alone for 6 s at 19 %, then idle for 4.5 s beside a stranger at 24 %: of the latter it drew half of idle power, 45 J of 522."""
    made = World([Piece(12, (19, 0)), Piece(9, (0, 24))], [(0, 2, 2), (1, 2, 1)], idle_w=20.0)
    assert made.run()[0].joules == pytest.approx(576 + 45)


@settings(max_examples=80, deadline=None)
@given(worlds(starts=True), st.floats(0.95, 1.05))
def test_in_company_too_a_killed_runs_interval_holds_what_it_drew_until_its_end(world, gain):
    pieces, windows, idle_w = world
    made = World(pieces, windows, idle_w=idle_w, gain=gain)
    last = made.run()
    for k, (first, end, read) in enumerate(windows):
        unseen_s = sum(pieces[p].seconds for p in range(read, end))
        assert holds(until_killed(last[k], unseen_s), sum(made.part_j(k, p) for p in range(first, end)))


@settings(max_examples=80, deadline=None)
@given(worlds(starts=False))
def test_the_sum_over_runs_and_what_nobody_metered_is_what_the_board_drew(world):
    """All see the board idle when they start, so they agree about its idle power."""
    pieces, windows, idle_w = world
    nobody = (0,) * len(windows)
    made = World([Piece(2, nobody), *pieces], [(0, last + 1, read + 1) for _, last, read in windows], idle_w=idle_w)
    before = made.fake.counter_j()
    last = made.run()
    metered = [p for p in range(len(made.pieces)) if made.there(p)]
    unattributed = sum(made.piece_j(p) for p in range(len(made.pieces)) if p not in metered)
    unattributed += sum(made.part_j(k, p) for p in metered for k in made.there(p) if p >= made.windows[k][2])
    delta = made.fake.counter_j() - before
    assert sum(energy.joules for energy in last.values()) + unattributed == pytest.approx(delta, abs=0.01 * len(pieces))


@settings(max_examples=60, deadline=None)
@given(worlds(starts=True), st.lists(st.floats(0.05, 1 / 3), min_size=3, max_size=3))
def test_without_pids_declared_shares_add_up_and_the_rest_is_nobodys(world, shares):
    pieces, windows, idle_w = world
    made = World(pieces, windows, idle_w=idle_w, pids=False)
    before = made.fake.counter_j()
    last = made.run(declared=shares)
    delta = made.fake.counter_j() - before
    unattributed = delta
    for k, (first, _, read) in enumerate(windows):
        share_j = shares[k] * sum(made.piece_j(p) for p in range(first, read))
        assert last[k].joules == pytest.approx(share_j, abs=0.01)
        assert holds(last[k], share_j)
        assert last[k].method == ("estimated" if read > first else "measured")
        unattributed -= share_j
    assert unattributed >= -0.01
    assert sum(energy.joules for energy in last.values()) + unattributed == pytest.approx(delta, abs=0.02)


# Strangers


def company(monkeypatch, pids, sm, watts=300.0, idle_w=100.0, declared=1.0, **without):
    clock = Clock()
    clock.ns = 20 * 10**9
    fake = FakeNvml(clock, Load(clock.s + 10, [(1000.0, watts)], idle_w)).install(monkeypatch)
    fake.missing |= set(without.get("missing", ()))
    board = NvmlBoard(UUID, clock=clock, threaded=False, own_pids=lambda: {1}, declared_share=declared)
    board.start()
    clock.advance(10.0)
    first = board.read()
    fake.pids, fake.sm = pids, sm
    fake.utilisation = lambda at_s: 80
    for _ in range(100):
        clock.advance(1.0)
        board.sample()
    return board, first, board.read()


def test_a_stranger_pays_for_his_work_and_half_of_the_idle_power_low_is_our_work_and_high_the_board(monkeypatch):
    board, first, last = company(monkeypatch, [1, 2], {1: lambda s: 20, 2: lambda s: 60})
    assert first.joules == pytest.approx(1000.0)  # alone for 10 s at 100 W
    # 100 s at 300 W, 100 W of it idle: a quarter of 200 W and half of 100 W
    assert last.joules - first.joules == pytest.approx(100 * (50 + 50), rel=1e-3)
    low_w, high_w = 50, 300
    shift_j = 0.75 * 0.1 * 700  # our part changed once, from all to a quarter
    assert last.low_j == pytest.approx((1000 + 100 * low_w) / 1.05 - 140 - shift_j, rel=1e-3)
    assert last.high_j == pytest.approx((1000 + 100 * high_w) / 0.95 + 140, rel=1e-3)
    assert (first.method, last.method) == ("measured", "estimated")
    assert any("other processes use the GPU" in note for note in board.notes)
    assert board.busy_s == pytest.approx(100 * 0.8 / 4, rel=0.1)


@pytest.mark.parametrize(
    ("pids", "sm", "declared", "part", "low_part"),
    [
        ([1, 2], {}, 1.0, 1 / 2, 0),  # whose kernels ran is not told
        ([7, 8, 9], {7: lambda s: 50}, 1.0, 1 / 3, 0),  # the host's pids, seen from a container: one of three is ours
        ([7, 8, 9], {7: lambda s: 50}, 0.2, 0.2, 0.2),  # ... and a declared share goes before an equal one
        ([7], {}, 1.0, 1, 1),  # the host's pid of ourselves
        ([1], {1: lambda s: 5}, 1.0, 1, 1),
        ([1], {1: lambda s: 5}, 0.5, 0.5, 0.5),
    ],
)
def test_without_pids_that_can_be_told_apart_the_split_is_declared_or_equal(monkeypatch, pids, sm, declared, part, low_part):
    _, first, last = company(monkeypatch, pids, sm, declared=declared)
    assert first.joules == pytest.approx(1000.0 * declared)
    assert last.joules - first.joules == pytest.approx(part * 100 * 300.0, rel=1e-3)
    assert last.low_j <= max(0.0, (first.joules + low_part * 100 * 300.0) / 1.05 - 140) + 1
    whole = declared * 31_000 if declared < 1 else 31_000
    assert last.high_j == pytest.approx(whole / 0.95 + 140, rel=1e-3)
    assert last.method == ("measured" if part == 1 else "estimated")


def test_where_idle_power_is_not_known_our_work_alone_has_no_lower_bound(monkeypatch):
    lacks = ["nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage"]
    _, _, last = company(monkeypatch, [1, 2], {1: lambda s: 20, 2: lambda s: 60}, missing=lacks)
    assert last.low_j == 0.0
    assert last.joules == pytest.approx(1000 + 100 * 300 / 4, rel=1e-3)


# Slices and several boards


def test_a_mig_slice_takes_its_part_of_the_boards_counter_between_nothing_and_the_whole(monkeypatch):
    clock = Clock()
    fake = FakeNvml(clock, Load(clock.s, [(1000.0, 350.0)])).install(monkeypatch)
    fake.mig, fake.slices = 1, {"MIG-11111111": 3, "MIG-22222222": 4}
    slices = [NvmlBoard(uuid, clock=clock, threaded=False) for uuid in fake.slices]
    for board in slices:
        board.start()
    clock.advance(100.0)
    three, four = (board.read() for board in slices)
    assert three.joules == pytest.approx(3 / 7 * 35_000, abs=20)
    assert three.joules + four.joules == pytest.approx(35_000, abs=40)
    for energy in (three, four):
        assert (energy.low_j, energy.method) == (0.0, "estimated")
        assert energy.high_j >= 35_000
    assert [board.allocated_share for board in slices] == [3 / 7, 4 / 7]
    assert slices[0].busy_s is None
    assert any("3/7" in note for note in slices[0].notes)


@pytest.mark.parametrize(("uuid", "share", "part"), [(UUID, 1.0, 1.0), (UUID, 0.25, 0.25), ("MIG-11111111", 1.0, 3 / 7)])
def test_allocated_time_is_the_part_of_the_board_that_is_held_busy_or_not(monkeypatch, uuid, share, part):
    clock = Clock()
    fake = FakeNvml(clock, Load(clock.s, [], 50.0)).install(monkeypatch)
    if uuid != UUID:
        fake.mig, fake.slices = 1, {uuid: 3}
    monkeypatch.setattr("runs.meter._peak_cuda_bytes", lambda index: 0)
    monkeypatch.setattr("runs.meter._peak_cuda_allocated_bytes", lambda index: 0)
    board = NvmlBoard(uuid, clock=clock, threaded=False, declared_share=share)
    meter = Meter({"type": "cuda", "index": 0, "uuid": uuid}, clock=clock, sources=[board])
    meter.start()
    clock.advance(700.0)
    reading = meter.stop()
    assert (reading.wall_s, reading.gpu_allocated_s) == (700.0, pytest.approx(700.0 * part))
    clock.advance(5.0)
    assert meter.read().gpu_allocated_s == reading.gpu_allocated_s


def test_the_only_slice_of_a_board_is_ours_also_where_cuda_tells_the_boards_uuid(monkeypatch):
    clock = Clock()
    fake = FakeNvml(clock, Load(clock.s, [(1000.0, 350.0)])).install(monkeypatch)
    fake.mig, fake.slices = 1, {"MIG-11111111": 2}
    for uuid in (UUID, "11111111"):
        board = NvmlBoard(uuid, clock=clock, threaded=False)
        board.start()
        clock.advance(100.0)
        assert board.read().joules == pytest.approx(2 / 7 * 35_000, abs=20)


def test_of_several_boards_ours_is_found_by_uuid_whatever_its_number(monkeypatch):
    clock = Clock()
    fake = FakeNvml(clock, Load(clock.s, [(1000.0, 100.0)])).install(monkeypatch)
    fake.boards += [FakeBoard(clock, Load(clock.s, [(1000.0, w)]), uuid=f"GPU-{w:.0f}") for w in (200.0, 300.0)]
    boards = {watts: NvmlBoard(uuid, clock=clock, threaded=False) for watts, uuid in
              ((300.0, "300"), (100.0, UUID), (200.0, "GPU-200"))}  # fmt: skip
    for board in boards.values():
        board.start()
    clock.advance(10.0)
    for watts, board in boards.items():
        assert board.read().joules == pytest.approx(10 * watts, abs=0.11 * watts)


def test_a_virtual_gpu_is_an_estimate(monkeypatch):
    clock = Clock()
    fake = FakeNvml(clock, Load(clock.s, [(1000.0, 100.0)])).install(monkeypatch)
    fake.virtualisation = pynvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU
    board = NvmlBoard(UUID, clock=clock, threaded=False)
    board.start()
    clock.advance(10.0)
    assert board.read().method == "estimated"
    assert any("vGPU" in note for note in board.notes)


def test_a_counter_that_jumps_up_faster_than_the_board_can_draw_has_begun_anew(monkeypatch):
    clock = Clock()
    fake = FakeNvml(clock, Load(clock.s, [(1000.0, 100.0)])).install(monkeypatch)
    board = NvmlBoard(UUID, clock=clock, threaded=False)
    board.start()
    clock.advance(10.0)
    before = board.read()
    fake.reset_counter(joules=9e9)
    clock.advance(10.0)
    after = board.read()
    assert after.joules == before.joules
    assert holds(after, 2000.0)
    assert after.method == "estimated"


# The arithmetic


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.floats(0.1, 10.0)), min_size=1, max_size=20),
    st.floats(0, 99),
)
def test_parts_of_two_add_up_to_the_whole_for_any_idle_power(periods, idle_w):
    two = [Shared(), Shared()]
    total_j = 0.0
    for a, b, seconds in periods:
        joules = (100 + 3 * (a + b)) * seconds
        total_j += joules
        for shared, ours in zip(two, (a, b), strict=True):
            shared.add(by_work(ours, a + b, 1, 2), joules, seconds)
            shared.saw(idle_w)
    assert sum(shared.split()[0] for shared in two) == pytest.approx(total_j)
    for shared in two:
        joules, low, high = shared.split()
        assert 0 <= low <= joules <= high == pytest.approx(total_j)


@given(st.floats(0, 1), st.floats(1 / 3, 3))
def test_cpu_seconds_that_cost_up_to_three_times_as_much_are_within_low_and_high(ours, cost):
    # of 1 J: our seconds cost 1 each, the others' cost ``cost``
    truth = ours / (ours + cost * (1 - ours)) if ours else 0.0
    centre, low, high = by_cpu_time(ours)
    assert low - 1e-9 <= truth <= high + 1e-9
    assert low <= centre <= high
    assert centre + by_cpu_time(1 - ours)[0] == pytest.approx(1)


@given(st.integers(1, 16), st.floats(0, 1e9), st.integers(0, 10**6))
def test_the_seeds_of_a_process_add_up_to_it(seeds, joules, samples):
    whole = MeterReading(
        1.0, {}, 3.0, {"gpu_board": Energy(joules, joules / 2, joules * 2, "measured", samples)}, 5.0, 2.0, 1, 2
    )
    part = whole.share(1 / seeds)
    energy = part.energy["gpu_board"]
    for name in ("joules", "low_j", "high_j"):
        assert getattr(energy, name) * seeds == pytest.approx(getattr(whole.energy["gpu_board"], name))
    assert (energy.method, energy.samples) == ("measured", samples), "a share of the joules is none of the readings"
    assert (part.cpu_s * seeds, part.gpu_allocated_s * seeds, (part.gpu_busy_s or 0) * seeds) == pytest.approx((3.0, 5.0, 2.0))
