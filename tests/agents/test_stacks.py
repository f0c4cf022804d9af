"""Stacks of frames as tiles of bfloat16, in one pass: the same bits as step by step."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

from agents.compiler import compiled, teach_products
from agents.config import AgentConfig
from agents.learner import Learner
from agents.networks import QNetwork
from agents.operators import own_products
from agents.replay import gather
from agents.stacks import Tiles, as_tiles
from tests.agents.native import guarded, library, pointer
from tests.agents.test_replay import layout, play

teach_products()
from agents import image_calls  # noqa: E402  (after the compiler it teaches)

CPU = torch.device("cpu")
needs_tiles = pytest.mark.skipif(
    own_products() is None, reason="this CPU has no bfloat16, or compiled code here no products of its own"
)

CALL = """
extern "C" void call(const uint8_t* frames, const int64_t* index, uint16_t* out, const int64_t* n, float scale, int threads) {
    playmeter::stacks_as_tiles({frames, index, out, n[0], n[1], n[2], n[3], n[4], scale}, threads);
}
"""


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    lib = library(tmp_path_factory.mktemp("stacks"), image_calls.STACKS_SOURCE.read_text() + CALL)

    def stacks(frames: Tensor, index: Tensor, out: Tensor, numbers: list[int], scale: float, threads: int) -> None:
        lib.call(*map(pointer, (frames, index, out)), (ctypes.c_int64 * 5)(*numbers), ctypes.c_float(scale), threads)

    return stacks


def pixel_by_pixel(frames: Tensor, index: Tensor, tiles: Tiles) -> Tensor:
    high, wide = frames.shape[1] // tiles.height, frames.shape[2] // tiles.width
    out = np.zeros((len(index), high, wide, tiles.height, tiles.width, 4), np.float32)
    for n, row, column, y, x, k in np.ndindex(*out.shape):
        if index[n, k] >= 0:
            pixel = frames[index[n, k], row * tiles.height + y, column * tiles.width + x]
            out[n, row, column, y, x, k] = np.float32(pixel) * np.float32(tiles.scale)
    return torch.from_numpy(out).bfloat16()


def random_stacks(height: int, width: int, stacks: int = 3, count: int = 7) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(height * 100 + width)
    frames = torch.randint(0, 256, (count, height, width), dtype=torch.uint8, generator=random)
    return frames, torch.randint(-1, count, (stacks, 4), generator=random)


def test_written_out_every_pixel_is_where_it_belongs() -> None:
    for tiles in (Tiles(2, 3, 1 / 255), Tiles(5, 5, 0.1), Tiles(1, 8, 1.0)):
        frames, index = random_stacks(11, 18)
        assert torch.equal(as_tiles(frames, index, tiles), pixel_by_pixel(frames, index, tiles))


@needs_tiles
@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 40),
    tile=st.tuples(st.integers(1, 6), st.integers(1, 8)),
    stacks=st.integers(1, 5),
    threads=st.integers(1, 3),
    at_its_end=st.booleans(),
)
@example(height=84, width=84, tile=(5, 5), stacks=3, threads=2, at_its_end=True)
@example(height=84, width=84, tile=(4, 4), stacks=3, threads=2, at_its_end=False)
def test_nothing_beside_the_frames_is_read_and_nothing_beside_the_tiles_written(
    call: Callable[..., None], height: int, width: int, tile: tuple[int, int], stacks: int, threads: int, at_its_end: bool
) -> None:
    tiles = Tiles(*tile, 1 / 255)
    frames, index = random_stacks(height, width, stacks, count=3)
    assume(height >= tiles.height and width >= tiles.width)
    want = as_tiles(frames, index, tiles)
    out = guarded(torch.full_like(want, torch.nan), at_its_end)
    sizes = [stacks, height, width, *tile]
    call(guarded(frames, at_its_end), guarded(index, at_its_end), out, sizes, tiles.scale, threads)
    assert torch.equal(out, want)


@needs_tiles
@pytest.mark.parametrize("changes", [{}, {"stack_padding": "repeat"}, {"n_step": 1}], ids=str)
def test_what_the_replay_gives_is_what_the_first_layer_makes_of_its_stacks(changes: dict[str, Any]) -> None:
    rules = layout(frame_shape=(12, 15), **changes)
    replay, _ = play(rules, 60)
    first, count = replay._window()
    row = torch.arange(first, first + count).repeat(rules.lanes, 1)
    lane = torch.arange(rules.lanes)[:, None].expand_as(row)
    network = QNetwork(AgentConfig(encoder="der"), (4, 40, 40), 2)

    def call(frames: Tensor, meta: Tensor, lane: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        storage = replay.storage._replace(frames=frames, meta=meta)
        batch = gather(rules, storage, lane, row, Tiles(5, 5, network.scale))
        return batch.obs, batch.next_obs

    plain = gather(rules, replay.storage, lane, row)
    counters["inductor"].clear()
    with fresh_cache():
        got = compiled(call, CPU)(replay.storage.frames, replay.storage.meta, lane, row)
    assert counters["inductor"]["cpp_templated_kernel_counter"] == 2
    for ours, theirs in zip(got, (plain.obs, plain.next_obs), strict=True):
        assert torch.equal(ours.flatten(0, 1), network.scaled(theirs.flatten(0, 1), bf16=True))


@needs_tiles
@pytest.mark.parametrize(
    ("changes", "pixels", "used"),
    [
        ({"encoder": "der"}, True, 2),
        ({"encoder": "nature"}, True, 2),
        ({"encoder": "der"}, False, 0),  # images of floats
        ({"encoder": "der", "precision": "fp32"}, True, 0),
        ({"encoder": "der", "augment": True}, True, 0),  # which shifts pixels before they are tiles
    ],
    ids=str,
)
def test_an_update_takes_both_observations_as_tiles_where_it_reads_them_so(
    changes: dict[str, Any], pixels: bool, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AgentConfig(**({"precision": "bf16", "hidden": (32,)} | changes))
    rules = layout(seeds=1, envs_per_seed=1, frame_shape=(40, 40), pixels=pixels, max_episode_steps=None)
    learner = Learner(config, rules, 3, [0], compile=True)
    graphs = []

    def seen(graph: torch.fx.GraphModule, tensors: Any, **options: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr("torch._inductor.standalone_compile", seen)
    learner.warm_up(np.zeros((rules.lanes, *rules.obs_shape), np.uint8 if pixels else np.float32))
    targets = [node.target for graph in graphs for node in graph.graph.nodes]
    assert targets.count(torch.ops.playmeter.stacks_as_tiles.default) == used
    assert targets.count(torch.ops.playmeter.take_rows.default) == 2 - used
