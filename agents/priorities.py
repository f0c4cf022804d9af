"""Prioritised sampling without a tree: a sum for every block of priorities, and every operation on whole tensors.

A draw looks for its block among the sums, then for its row inside that block. With blocks as long as there are blocks, both look at
the square root of the rows: about a thousand numbers of a million. A block's sum is always added up anew, so nothing drifts.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.operators import once


class Priorities(NamedTuple):
    """The priorities of S seeds, raised to the priority exponent; 0 is never drawn. Float64: sums of a million stay exact enough."""

    value: Tensor  # [S, blocks, block_length]
    block_sum: Tensor  # [S, blocks]
    largest: Tensor  # [S] the largest ever written: what a new row starts with


def block_length(rows: int) -> int:
    """Rows in a block: the power of two next to the square root."""
    return 1 << max(0, round(math.log2(rows) / 2))


def no_priorities(seeds: int, rows: int, device: torch.device) -> Priorities:
    """Room for ``rows`` priorities a seed, all 0; the first rows will start with 1."""
    length = block_length(rows) if rows else 1
    blocks = -(-rows // length)
    return Priorities(
        torch.zeros(seeds, blocks, length, dtype=torch.float64, device=device),
        torch.zeros(seeds, blocks, dtype=torch.float64, device=device),
        torch.ones(seeds, dtype=torch.float64, device=device),
    )


def draw(priorities: Priorities, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [S, B] drawn in proportion to their priority, and the probability [S, B] of each.

    Args:
        uniform: [S, B] float64 in [0, 1).
    """
    seed = torch.arange(uniform.shape[0], device=uniform.device)[:, None]
    upto = priorities.block_sum.cumsum(-1)
    total = upto[:, -1:]
    point = _below(uniform * total, total)
    block = once((upto[:, None, :] <= point[..., None]).sum(-1))
    inside = priorities.value[seed, block]  # [S, B, block_length]
    upto_inside = inside.cumsum(-1)
    before = upto[seed, block] - priorities.block_sum[seed, block]
    rest = _below((point - before).clamp(min=0), upto_inside[..., -1])  # rounding may lead before the block as well
    place = (upto_inside <= rest[..., None]).sum(-1)
    value = inside.gather(-1, place[..., None]).squeeze(-1)
    return block * inside.shape[-1] + place, value / total


def _below(point: Tensor, end: Tensor) -> Tensor:
    """``point``, held below ``end``: rounding must not lead to the rows of priority 0 behind the last one."""
    return torch.minimum(point, end * (1 - 1e-12))


def write(priorities: Priorities, row: Tensor, value: Tensor) -> None:
    """Set the priorities of rows [S, B], in place. A row that is named twice takes the larger value, in whatever order they come."""
    same = row[:, :, None] == row[:, None, :]
    value = torch.where(same, value[:, None, :], 0).amax(-1)  # of equal rows, so that the order of writing is nothing
    length = priorities.value.shape[-1]
    seed = torch.arange(row.shape[0], device=row.device)[:, None]
    block = once(row // length)
    # index_put_ and not scatter_reduce_: the compiler writes the former in place, and for the latter copies all priorities twice
    priorities.value.index_put_((seed, block, row % length), value)
    priorities.block_sum.index_put_((seed, block), priorities.value[seed, block].sum(-1))
    priorities.largest.copy_(torch.maximum(priorities.largest, value.amax(-1)))


def write_row(priorities: Any, row: int, value: Any) -> None:
    """Set the same row of every seed to ``value``, [S] or a number, in place; for tensors and for numpy views of them alike."""
    block, place = divmod(row, priorities.value.shape[-1])
    priorities.value[:, block, place] = value
    priorities.block_sum[:, block] = priorities.value[:, block].sum(-1)


def importance_weights(probability: Tensor, rows: Tensor, exponent: Tensor) -> Tensor:
    """Weights [S, B] that undo the unevenness of the sampling: (rows x probability)^-exponent over the largest of the batch.

    Schaul et al. 2016, section 3.4; divided by the batch's maximum, as dqn_zoo and Dopamine do.
    """
    weight = (rows * probability) ** -exponent
    return weight / weight.amax(-1, keepdim=True)
