"""Convolutions without patches, against torch's convolution in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache
from torch.func import functional_call

from agents.compiler import compiled
from agents.config import AgentConfig
from agents.layers import StridedConv2d, convolutions
from agents.learner import over_seeds
from agents.networks import QNetwork, flat_network
from agents.operators import own_float_products, own_products
from agents.taps import WINOGRAD_TAPS, convolution

CPU = torch.device("cpu")
MARKS = {
    torch.bfloat16: pytest.mark.skipif(own_products() is None, reason="no bfloat16 products of our own here"),
    torch.float32: pytest.mark.skipif(not own_float_products(), reason="no float32 convolutions of our own here"),
}
numbers = pytest.mark.parametrize("dtype", [pytest.param(dtype, marks=mark) for dtype, mark in MARKS.items()], ids=str)
Images = tuple[int, int, int, int]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def case(
    images: Images, outputs: int, taps: tuple[int, int], dtype: torch.dtype
) -> tuple[tuple[Tensor, ...], Callable[..., Any], Callable[..., Any]]:
    """Tensors; then the output and the gradients of them all, by taps and by torch's convolution."""
    batch, height, width, channels = images
    high, wide = height - taps[0] + 1, width - taps[1] + 1

    def of_taps(x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor) -> Tensor:
        return convolution(x, weight, bias)

    def of_torch(x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), bias).permute(0, 2, 3, 1)

    def with_gradients(function: Callable[..., Tensor]) -> Callable[..., Any]:
        def loss(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            out = function(*tensors)
            return (out * tensors[-1]).float().sum(), out

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            gradients, (_, out) = torch.func.grad_and_value(loss, argnums=(0, 1, 2), has_aux=True)(*tensors)
            return out, *gradients

        return call

    shapes: list[tuple[int, ...]] = [images, (outputs, *taps, channels), (outputs,), (batch, high, wide, outputs)]
    return tuple(random(*shape).to(dtype) for shape in shapes), with_gradients(of_taps), with_gradients(of_torch)


def assert_near(got: tuple[Tensor, ...], wide: tuple[Tensor, ...]) -> None:
    for one, want in zip(got, wide, strict=True):
        most = 2**-7 if one.dtype == torch.bfloat16 else 1e-5
        assert ((one.double() - want).abs().max() / want.abs().max()).item() < most


CASES: list[tuple[Images, int, tuple[int, int]]] = [
    ((3, 7, 9, 64), 32, (2, 2)),
    ((2, 9, 9, 32), 64, (3, 3)),
    ((4, 6, 5, 32), 32, (1, 4)),
    ((1, 40, 41, 64), 32, (4, 1)),
    ((5, 8, 5, 96), 64, (3, 3)),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("images", "outputs", "taps"), CASES, ids=str)
def test_written_out_it_is_the_convolution(images: Images, outputs: int, taps: tuple[int, int], dtype: torch.dtype) -> None:
    tensors, of_taps, of_torch = case(images, outputs, taps, dtype)
    assert_near(of_taps(*tensors), of_torch(*(x.double() for x in tensors)))


@pytest.mark.parametrize(
    ("dtype", "images", "outputs", "taps"),
    [
        pytest.param(dtype, *case, marks=mark)
        for dtype, mark in MARKS.items()
        for case in CASES
        if dtype == torch.bfloat16 or case[-1] in WINOGRAD_TAPS
    ],
    ids=str,
)
def test_compiled_it_is_the_convolution_and_three_products(
    images: Images, outputs: int, taps: tuple[int, int], dtype: torch.dtype
) -> None:
    tensors, of_taps, of_torch = case(images, outputs, taps, dtype)
    counters["inductor"].clear()
    with fresh_cache():
        got = compiled(of_taps, CPU)(*tensors)
    assert counters["inductor"]["cpp_templated_kernel_counter"] == 3
    assert_near(got, of_torch(*(x.double() for x in tensors)))


@numbers
def test_an_image_smaller_than_a_block_of_rows_is_done_as_well(dtype: torch.dtype) -> None:
    tensors, of_taps, of_torch = case((1, 4, 6, 32), 32, (2, 2), dtype)
    with fresh_cache():
        assert_near(compiled(of_taps, CPU)(*tensors), of_torch(*(x.double() for x in tensors)))


@numbers
def test_each_of_several_seeds_has_its_own(dtype: torch.dtype) -> None:
    tensors, of_taps, of_torch = case(*CASES[0], dtype)
    both = [torch.stack([x, x.flip(0)]) for x in tensors]
    counters["inductor"].clear()
    with fresh_cache():
        got = compiled(over_seeds(of_taps, 2), CPU)(*both)
    assert counters["inductor"]["cpp_templated_kernel_counter"] == 2 * 3
    for seed in range(2):
        assert_near(tuple(x[seed] for x in got), of_torch(*(x[seed].double() for x in both)))


@numbers
def test_the_nature_network_learns_by_taps(dtype: torch.dtype) -> None:
    """Its output and gradients, compiled, beside itself in float64: as near as uncompiled, where it does without taps."""
    bf16 = dtype == torch.bfloat16
    network = flat_network(lambda: QNetwork(AgentConfig(encoder="nature", optimiser_eps=1e-5), (4, 84, 84), 6))
    params = network.init(torch.Generator().manual_seed(0))
    frames = torch.randint(0, 256, (32, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

    def call(params: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        def loss(params: Tensor) -> tuple[Tensor, Tensor]:
            obs = network.module.scaled(frames, bf16)
            out = network.apply(network.unflatten(params), obs, bf16=bf16, scaled=True)
            return out.square().sum(), out

        gradient, (_, out) = torch.func.grad_and_value(loss, has_aux=True)(params)
        return out, gradient

    def wide(params: Tensor) -> tuple[Tensor, Tensor]:
        out = network.apply(network.unflatten(params), frames.double() / 255, scaled=True)
        return out.square().sum(), out

    gradient, (_, out) = torch.func.grad_and_value(wide, has_aux=True)(params.double())
    counters["inductor"].clear()
    with fresh_cache():
        got = compiled(call, CPU)(params, frames)
    # three convolutions, forward and of their weights, and of two of their inputs; three layers, of which the last is float32
    of_floats = 3 if own_float_products() else 0
    assert counters["inductor"]["cpp_templated_kernel_counter"] == 8 + 6 + of_floats

    def distance(answer: tuple[Tensor, Tensor]) -> float:
        return max(((a.double() - b).norm() / b.norm()).item() for a, b in zip(answer, (out, gradient), strict=True))

    as_near, near = (1.5, 0.05) if bf16 else (3, 1e-6)  # the library adds float32 up in parts
    assert distance(got) < as_near * distance(call(params, frames)) < near


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "bf16", "winograd"),
    [
        *((channels, 8, 4, bf16, True) for channels in (1, 3) for bf16 in (True, False)),
        *((32, kernel, 1, False, True) for kernel in (4, (3, 2))),
        (32, 3, 1, False, False),  # it would fit
    ],
    ids=str,
)
def test_what_its_channels_or_taps_do_not_fit_or_may_not_be_a_rounding_error_is_done_without(
    channels: int, kernel: Any, stride: int, bf16: bool, winograd: bool
) -> None:
    layer = StridedConv2d(channels, 32, kernel, stride, winograd)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return functional_call(layer, {"weight": weight, "bias": bias}, (x,)).float()

    tensors = random(4, channels, 36, 39), layer.weight.detach(), layer.bias.detach()
    counters["inductor"].clear()
    with fresh_cache():
        got = compiled(call, CPU)(*tensors)
    of_patches = int(bf16 and own_products() is not None)
    assert counters["inductor"]["cpp_templated_kernel_counter"] == of_patches
    wide = torch.nn.functional.conv2d(*(x.double() for x in tensors), stride=stride)
    assert_near((got.bfloat16() if bf16 else got,), (wide,))


@pytest.mark.parametrize(("eps", "winograd"), [(1e-8, False), (0.01 / 32**2 / 4**2, True)])
def test_rounding_errors_in_the_place_of_zeros_are_for_optimisers_that_do_not_divide_by_them(
    eps: float, winograd: bool
) -> None:
    """Adam's step is a gradient over its size and epsilon. The second is the smallest of an agent on Atari."""
    config = AgentConfig(encoder="nature", optimiser_eps=eps)
    layers = [layer for layer in convolutions(config, (4, 84, 84)) if isinstance(layer, StridedConv2d)]
    assert [layer.winograd for layer in layers] == [winograd] * 3


def test_a_batch_of_one_is_a_batch() -> None:
    """Its frames are tiles already, which an observation to act on is not."""
    network = flat_network(lambda: QNetwork(AgentConfig(encoder="nature"), (4, 84, 84), 6))
    params = network.init(torch.Generator().manual_seed(0))
    frames = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def values(params: Tensor, frames: Tensor) -> Tensor:
        return network.apply(network.unflatten(params), network.module.scaled(frames, True), bf16=True, scaled=True)

    both = values(params, frames)
    with fresh_cache():
        for one in (values(params, frames[:1]), compiled(values, CPU)(params, frames[:1])):
            torch.testing.assert_close(one, both[:1], rtol=0.05, atol=0.01)


def test_in_bfloat16_observations_may_be_scaled_before_or_not() -> None:
    network = flat_network(lambda: QNetwork(AgentConfig(encoder="nature", hidden=(32,)), (4, 84, 84), 6))
    params = network.init(torch.Generator().manual_seed(0))
    frames = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def both(params: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        scaled = network.module.scaled(frames, True)
        return tuple(network.apply(network.unflatten(params), obs, bf16=True, scaled=obs is scaled) for obs in (scaled, frames))

    with fresh_cache():
        assert torch.equal(*compiled(both, CPU)(params, frames))
