"""A convolution of stride 1 without its patches: in compiled code on CPUs for which the program has products of its own.

As one product over patches every pixel is written once for each patch that it is in, and read again. Here, in bfloat16, the output at a
place of all images is a sum over the taps of the kernel: of the images' pixels under a tap there, times its weights. In float32, which
has digits to spare, tiles of several places take fewer products (agents/winograd.h).

Images are [B, H, W, C], weights [N, h, w, C], what comes of them [B, H - h + 1, W - w + 1, N].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

CHANNELS = 32
"""What the channels of a pixel, before and after, have to be a multiple of."""
WINOGRAD_TAPS = ((2, 2), (3, 3))
"""Down and across, that agents/winograd.h is for: what a kernel has in float32."""


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """All bfloat16 or all float32, ``bias`` [N]. Its gradients have none themselves."""
    return _Convolution.apply(x, weight, bias)  # type: ignore[no-any-return,no-untyped-call]


@torch.library.custom_op("playmeter::taps_output", mutates_args=())
def taps_output(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    down, right = weight.shape[1:3]
    patches = x.float().unfold(1, down, 1).unfold(2, right, 1)  # [B, H', W', C, h, w]
    return (torch.einsum("byxchw,nhwc->byxn", patches, weight.float()) + bias.float()).to(x.dtype)


@torch.library.custom_op("playmeter::taps_input", mutates_args=())
def taps_input(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient of x, of that of the output."""
    (batch, high, wide, _), (_, down, right, channels) = gradient.shape, weight.shape
    out = gradient.new_zeros(batch, high + down - 1, wide + right - 1, channels, dtype=torch.float32)
    for y in range(down):
        for x in range(right):
            out[:, y : y + high, x : x + wide] += gradient.float() @ weight[:, y, x].float()
    return out.to(gradient.dtype)


@torch.library.custom_op("playmeter::taps_weights", mutates_args=())
def taps_weights(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of the weights."""
    down, right = (of_x - of_output + 1 for of_x, of_output in zip(x.shape[1:3], gradient.shape[1:3], strict=True))
    patches = x.float().unfold(1, down, 1).unfold(2, right, 1)  # [B, H', W', C, h, w]
    return torch.einsum("byxn,byxchw->nhwc", gradient.float(), patches).to(x.dtype).contiguous()


@taps_output.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    (batch, height, width, _), (outputs, down, right, _) = x.shape, weight.shape
    return x.new_empty(batch, height - down + 1, width - right + 1, outputs)


@taps_input.register_fake
def _(gradient: Tensor, weight: Tensor) -> Tensor:
    (batch, high, wide, _), (_, down, right, channels) = gradient.shape, weight.shape
    return gradient.new_empty(batch, high + down - 1, wide + right - 1, channels)


@taps_weights.register_fake
def _(gradient: Tensor, x: Tensor) -> Tensor:
    (_, high, wide, outputs), (_, height, width, channels) = gradient.shape, x.shape
    return x.new_empty(outputs, height - high + 1, width - wide + 1, channels)


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
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return taps_output(x, weight, bias)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # an operator of our own has no gradient, and under torch.func would ask for one
        x, weight, gradient = (tensor.detach() for tensor in (*ctx.saved_tensors, gradient))
        of_x = taps_input(gradient, weight) if ctx.needs_input_grad[0] else None
        return of_x, taps_weights(gradient, x), gradient.sum((0, 1, 2))
