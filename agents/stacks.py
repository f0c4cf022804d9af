"""Stacks of frames as a first layer reads them in bfloat16, out of the replay in one pass: in compiled code on a CPU with AMX or AVX512-BF16."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STACK = 4
"""Frames of a stack."""
MOST_WIDE = 8
"""Pixels side by side in a tile: four times as many numbers are a vector register."""


class Tiles(NamedTuple):
    """How a first layer reads images."""

    height: int
    width: int
    scale: float  # of what a pixel is multiplied with


def as_tiles(frames: Tensor, index: Tensor, tiles: Tiles) -> Tensor:
    """Stacks [N, H', W', height, width, 4] bfloat16 of ``frames`` [R, H, W] uint8 at ``index`` [N, 4], zeros where that is negative."""
    return stacks_as_tiles(frames, index, *tiles)


@torch.library.custom_op("playmeter::stacks_as_tiles", mutates_args=())
def stacks_as_tiles(frames: Tensor, index: Tensor, height: int, width: int, scale: float) -> Tensor:
    """See :func:`as_tiles`."""
    stacks = frames[index.clamp(min=0)] * (index >= 0)[..., None, None]  # [N, 4, H, W]
    return tiled(stacks.float() * scale, height, width).to(torch.bfloat16, memory_format=torch.contiguous_format)


@stacks_as_tiles.register_fake
def _(frames: Tensor, index: Tensor, height: int, width: int, scale: float) -> Tensor:
    high, wide = frames.shape[1] // height, frames.shape[2] // width
    return frames.new_empty(len(index), high, wide, height, width, STACK, dtype=torch.bfloat16)


def tiled(x: Tensor, height: int, width: int) -> Tensor:
    """A view [B, H', W', height, width, C] of images [B, C, H, W], without what is beyond their last whole tile."""
    whole = x[:, :, : x.shape[2] // height * height, : x.shape[3] // width * width]
    return whole.unflatten(3, (-1, width)).unflatten(2, (-1, height)).permute(0, 2, 4, 3, 5, 1)
