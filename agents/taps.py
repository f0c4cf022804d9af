"""A convolution of stride 1 as products of the pixels where they lie: for bfloat16 on a CPU with AMX or AVX512-BF16, in compiled code.

As one product over patches every pixel is written once for each patch that it is in, and read again. Here each tap of the kernel is a product of all
pixels, moved by the tap's place, with its weights; what is computed for pixels whose patch leaves the image is to be ignored.

Images are [P, C], the pixels of all of them end to end; weights [N, T, C], of T taps in rows of ``taps_wide``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

CHANNELS = 32
"""What the channels of a pixel, before and after, have to be a multiple of."""


def places(taps: int, taps_wide: int, width: int) -> list[int]:
    """How many pixels behind the first each tap lies, in images so wide."""
    return [tap // taps_wide * width + tap % taps_wide for tap in range(taps)]


def convolution(x: Tensor, weight: Tensor, bias: Tensor, width: int, taps_wide: int) -> Tensor:
    """[P, N]; anything where a patch leaves its image. All bfloat16. Its gradients have none themselves."""
    return _Convolution.apply(x, weight, bias, width, taps_wide)  # type: ignore[no-any-return,no-untyped-call]


@torch.library.custom_op("playmeter::taps_output", mutates_args=())
def taps_output(x: Tensor, weight: Tensor, bias: Tensor, width: int, taps_wide: int) -> Tensor:
    """[P, N]."""
    behind = places(weight.shape[1], taps_wide, width)
    whole = len(x) - behind[-1]
    out = bias.float().repeat(len(x), 1)
    for tap, place in enumerate(behind):
        out[:whole] += x[place : place + whole].float() @ weight[:, tap].float().t()
    return out.to(x.dtype)


@torch.library.custom_op("playmeter::taps_input", mutates_args=())
def taps_input(gradient: Tensor, weight: Tensor, width: int, taps_wide: int) -> Tensor:
    """The gradient [P, C] of x, of that of the output with zeros before it, as many as the last tap lies behind the first: [zeros + P, N]."""
    behind = places(weight.shape[1], taps_wide, width)
    pixels = len(gradient) - behind[-1]
    rows = (gradient[behind[-1] - place :][:pixels].float() @ weight[:, tap].float() for tap, place in enumerate(behind))
    return torch.stack(list(rows)).sum(0).to(gradient.dtype)


@torch.library.custom_op("playmeter::taps_weights", mutates_args=())
def taps_weights(gradient: Tensor, x: Tensor, width: int, taps_wide: int, taps: int) -> Tensor:
    """The gradient [N, T, C] of the weights; ``gradient`` as for ``taps_input``."""
    behind = places(taps, taps_wide, width)
    whole = len(x) - behind[-1]
    own = gradient[behind[-1] :][:whole].float().t()
    return torch.stack([own @ x[place : place + whole].float() for place in behind], 1).to(x.dtype)


@taps_output.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, width: int, taps_wide: int) -> Tensor:
    return x.new_empty(len(x), len(weight))


@taps_input.register_fake
def _(gradient: Tensor, weight: Tensor, width: int, taps_wide: int) -> Tensor:
    pixels = len(gradient) - places(weight.shape[1], taps_wide, width)[-1]
    return gradient.new_empty(pixels, weight.shape[2])


@taps_weights.register_fake
def _(gradient: Tensor, x: Tensor, width: int, taps_wide: int, taps: int) -> Tensor:
    return x.new_empty(gradient.shape[1], taps, x.shape[1])


def _one_by_one(operator: Any) -> None:
    """Under vmap, a product for each seed: they are large enough."""

    @operator.register_vmap  # type: ignore[untyped-decorator]
    def _(info: Any, in_dims: tuple[int | None, ...], *given: Any) -> tuple[Tensor, int]:
        seeds = range(info.batch_size)
        each = ([x if dim is None else x.select(dim, k) for x, dim in zip(given, in_dims, strict=True)] for k in seeds)
        return torch.stack([operator(*own) for own in each]), 0


for _operator in (taps_output, taps_input, taps_weights):
    _one_by_one(_operator)


class _Convolution(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, width: int, taps_wide: int) -> Tensor:
        return taps_output(x, weight, bias, width, taps_wide)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, width, taps_wide = inputs
        ctx.save_for_backward(x, weight)
        ctx.width, ctx.taps_wide = width, taps_wide  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # an operator of our own has no gradient, and under torch.func would ask for one
        x, weight, gradient = (tensor.detach() for tensor in (*ctx.saved_tensors, gradient))
        behind = places(weight.shape[1], ctx.taps_wide, ctx.width)
        padded = nn.functional.pad(gradient, (0, 0, behind[-1], 0))
        of_x = taps_input(padded, weight, ctx.width, ctx.taps_wide) if ctx.needs_input_grad[0] else None
        of_weight = taps_weights(padded, x, ctx.width, ctx.taps_wide, weight.shape[1])
        return of_x, of_weight, gradient.sum(0), None, None
