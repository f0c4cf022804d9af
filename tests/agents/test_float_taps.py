"""Convolutions of float32 by AVX-512, alone: against torch's in float64, beside memory that nobody may touch."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d

from agents.compiler import teach_products
from tests.agents.native import guarded, library, pointer

teach_products()
from agents import image_calls  # noqa: E402  (after the compiler it teaches)

pytestmark = pytest.mark.skipif(
    not torch.cpu._is_avx512_supported() or shutil.which("g++") is None, reason="this CPU has no AVX-512, or there is no g++"
)

CALL = """
extern "C" void taps_WHAT(const float* a, const float* b, const float* bias, float* out, const int64_t* n, int threads) {
    playmeter::taps_WHAT(playmeter::FloatTaps{a, b, bias, out, n[0], n[1], n[2], n[3], n[4], n[5], n[6]}, threads);
}
"""
Call = Callable[[str, list[Tensor], Tensor, list[int], int], None]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Call:
    """What is wanted, of two or three operands, to a tensor, by seven sizes and so many threads."""
    source = "".join(header.read_text() for header in image_calls.FLOAT_SOURCES)
    calls = "".join(CALL.replace("WHAT", what) for what in ("output", "input", "weights"))
    lib = library(tmp_path_factory.mktemp("float_taps"), source + calls)

    def taps(what: str, operands: list[Tensor], out: Tensor, sizes: list[int], threads: int) -> None:
        bias = operands[2] if len(operands) == 3 else None
        pointers = map(pointer, (*operands[:2], bias, out))
        getattr(lib, f"taps_{what}")(*pointers, (ctypes.c_int64 * 7)(*sizes), threads)

    return taps


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def channels_first(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2)


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return conv2d(channels_first(x), channels_first(weight), bias).permute(0, 2, 3, 1)


@settings(max_examples=80, deadline=None)
@given(
    images=st.integers(1, 20),
    taps=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    places=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    channels=st.sampled_from([32, 64, 96]),
    outputs=st.sampled_from([32, 64, 96]),
    threads=st.integers(1, 3),
    at_its_end=st.booleans(),
)
@example(images=32, taps=(2, 2), places=(20, 20), channels=64, outputs=32, threads=2, at_its_end=True)  # Nature's first layer
@example(images=10, taps=(3, 3), places=(7, 7), channels=64, outputs=64, threads=3, at_its_end=False)
def test_output_and_gradients_are_those_of_float64(
    call: Call,
    images: int,
    taps: tuple[int, int],
    places: tuple[int, int],
    channels: int,
    outputs: int,
    threads: int,
    at_its_end: bool,
) -> None:
    height, width = (place + tap - 1 for place, tap in zip(places, taps, strict=True))
    x, weight, bias = random(images, height, width, channels), random(outputs, *taps, channels), random(outputs)
    gradient = random(images, *places, outputs)
    sizes = [images, height, width, channels, outputs, *taps]

    def gradients(numbers: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """In float64, of these numbers or of their sizes, which bound the rounding of their sums."""
        wide = [numbers(tensor.double()) for tensor in (x, weight, bias)]
        of_x, of_weight = (tensor.requires_grad_() for tensor in wide[:2])
        out = convolution(of_x, of_weight, wide[2])
        out.backward(numbers(gradient.double()))
        assert of_x.grad is not None
        assert of_weight.grad is not None
        return {"output": out.detach(), "input": of_x.grad, "weights": of_weight.grad}

    want, most = gradients(lambda tensor: tensor.clone()), gradients(torch.abs)
    depth = {"output": weight[0].numel() + 1, "input": outputs * weight[0, ..., 0].numel(), "weights": gradient[..., 0].numel()}
    operands = {"output": [x, weight, bias], "input": [gradient, weight], "weights": [gradient, x]}
    for what, of_it in operands.items():
        read = [guarded(tensor, at_its_end) for tensor in of_it]
        out, alone = (guarded(torch.full(want[what].shape, torch.nan), at_its_end) for _ in range(2))
        call(what, read, out, sizes, threads)
        assert ((out.double() - want[what]).abs() <= most[what] * depth[what] * 2.0**-24).all(), what
        call(what, read, alone, sizes, 1)
        assert torch.equal(out, alone), f"{what}: however many threads share it out"
