"""Convolutions of float32 by Winograd's products, alone: against torch's in float64, beside memory that nobody may touch."""

from __future__ import annotations

import ctypes
import itertools
import shutil
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d

from agents.compiler import teach_products
from tests.agents.native import guarded, library, pointer, with_exact_scratch

teach_products()
from agents import image_calls  # noqa: E402  (after the compiler it teaches)

pytestmark = pytest.mark.skipif(
    not torch.cpu._is_avx2_supported() or shutil.which("g++") is None, reason="this CPU has no AVX2, or there is no g++"
)

CALL = """
extern "C" void winograd_WHAT_TAPS(const float* a, const float* b, const float* bias, float* out, const int64_t* n, int threads) {
    playmeter::winograd_WHAT(playmeter::Winograd<TAPS>{a, b, bias, out, n[0], n[1], n[2], n[3], n[4]}, threads);
}
"""
Call = Callable[[str, list[Tensor], Tensor, list[int], int, int], None]


@pytest.fixture(scope="module", params=[(), ("-mno-avx512f",)], ids=["widest", "AVX2"])
def call(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Call:
    """What is wanted, of two or three operands, to a tensor, by five sizes, so many taps and so many threads."""
    source = "".join(header.read_text() for header in image_calls.WINOGRAD_SOURCES)
    wanted = itertools.product(("output", "input", "weights"), "23")
    calls = "".join(CALL.replace("WHAT", what).replace("TAPS", taps) for what, taps in wanted)
    lib = library(tmp_path_factory.mktemp("winograd"), with_exact_scratch(source + calls), *request.param)

    def convolve(what: str, operands: list[Tensor], out: Tensor, sizes: list[int], taps: int, threads: int) -> None:
        bias = operands[2] if len(operands) == 3 else None
        pointers = map(pointer, (*operands[:2], bias, out))
        getattr(lib, f"winograd_{what}_{taps}")(*pointers, (ctypes.c_int64 * 5)(*sizes), threads)

    return convolve


def whole(*shape: int) -> Tensor:
    """Numbers of -8 to 8, whose sums of products are exact in float32."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(sum(shape))).float()


def channels_first(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2)


def wanted(x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """By torch, in float64."""
    of_x, of_weight = (tensor.double().requires_grad_() for tensor in (x, weight))
    out = conv2d(channels_first(of_x), channels_first(of_weight), bias.double()).permute(0, 2, 3, 1)
    out.backward(gradient.double())
    assert of_x.grad is not None
    assert of_weight.grad is not None
    return {"output": out.detach(), "input": of_x.grad, "weights": of_weight.grad}


@settings(max_examples=80, deadline=None)
@given(
    images=st.integers(1, 20),
    taps=st.sampled_from([2, 3]),
    places=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    channels=st.sampled_from([32, 64, 96]),
    outputs=st.sampled_from([32, 64, 96]),
    threads=st.integers(1, 3),
    at_its_end=st.booleans(),
)
@example(images=32, taps=2, places=(20, 20), channels=64, outputs=32, threads=2, at_its_end=True)  # Nature's first layer
@example(images=10, taps=3, places=(7, 7), channels=64, outputs=64, threads=3, at_its_end=False)
@example(images=3, taps=2, places=(1, 1), channels=544, outputs=32, threads=2, at_its_end=True)  # deeper than is done at once
def test_output_and_gradients_of_whole_numbers_are_exact(
    call: Call,
    images: int,
    taps: int,
    places: tuple[int, int],
    channels: int,
    outputs: int,
    threads: int,
    at_its_end: bool,
) -> None:
    height, width = (place + taps - 1 for place in places)
    x, weight, bias = whole(images, height, width, channels), 4 * whole(outputs, taps, taps, channels), whole(outputs)
    gradient = whole(images, *places, outputs)  # and weights are divided by 4
    operands = {
        "output": [x, weight, bias],
        "input": [gradient, weight],
        "weights": [gradient, x],
    }
    for what, want in wanted(x, weight, bias, gradient).items():
        read = [guarded(tensor, at_its_end) for tensor in operands[what]]
        out = guarded(torch.full(want.shape, torch.nan), at_its_end)
        call(what, read, out, [images, height, width, channels, outputs], taps, threads)
        assert torch.equal(out.double(), want), what


@pytest.mark.parametrize(("size", "channels", "outputs", "taps"), [(21, 64, 32, 2), (10, 128, 64, 2), (9, 64, 64, 3)], ids=str)
def test_it_rounds_as_little_as_torch_does_and_alike_with_any_number_of_threads(
    call: Call, size: int, channels: int, outputs: int, taps: int
) -> None:
    numbers = torch.Generator().manual_seed(0)
    place = size - taps + 1
    shapes = (32, size, size, channels), (outputs, taps, taps, channels), (outputs,), (32, place, place, outputs)
    x, weight, bias, gradient = (torch.randn(shape, generator=numbers) for shape in shapes)
    operands = {
        "output": [x, weight, bias],
        "input": [gradient, weight],
        "weights": [gradient, x],
    }
    for what, want in wanted(x, weight, bias, gradient).items():
        outs = []
        for threads in (1, 2, 3):
            outs.append(torch.full(want.shape, torch.nan))
            call(what, operands[what], outs[-1], [32, size, size, channels, outputs], taps, threads)
        assert torch.equal(outs[0], outs[1])
        assert torch.equal(outs[0], outs[2])
        assert ((outs[0].double() - want).norm() / want.norm()).item() < 1e-6, what  # torch's in float32: 1.4e-7 to 1.4e-6
