"""Products of bfloat16 matrices by AMX and by AVX512-BF16, against the same products in float64."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

from agents.compiler import compiled, teach_products
from agents.operators import own_float_products, own_products
from tests.agents.native import guarded, library, pointer

teach_products()
from agents import products  # noqa: E402  (after the compiler it teaches)

pytestmark = pytest.mark.skipif(
    own_products() is None, reason="this CPU has no bfloat16, or compiled code here no products of its own"
)

CALL = """
extern "C" void call(const uint16_t* a, const uint16_t* b, const uint16_t* bias, uint16_t* out, const int64_t* n, int threads) {
    playmeter::Product p{a, b, bias, out, n[0], n[1], n[2], n[3], n[4], n[5], n[6] != 0, n[7] != 0, n[8] != 0};
    p.taps = {n[9], n[10], n[11], n[12], n[13], static_cast<playmeter::Taps::Where>(n[14])};
    playmeter::product(p, threads);
}
"""
AMX_IN_SOFTWARE = Path(__file__).with_name("amx_in_software.h")
Call = Callable[..., None]


@pytest.fixture(scope="module", params=["AMX", "AMX in software", "AVX512-BF16"])
def call(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """``playmeter::product`` of matrices: beside those that are ``guarded`` one number more would be a crash."""
    instructions, _, in_software = request.param.partition(" ")
    if request.param == "AMX" != own_products():
        pytest.skip("this CPU has no AMX, or compiled code here no products of its own by it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "own_products", lambda: instructions)
        header = products.products_header()
    assert header.startswith("#define PLAYMETER_AMX") == (instructions == "AMX")
    before = AMX_IN_SOFTWARE.read_text() if in_software else ""
    lib = library(tmp_path_factory.mktemp("products"), before + header + CALL)

    def product(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor, numbers: list[int], threads: int) -> None:
        assert len(numbers) == 15
        lib.call(*map(pointer, (a, b, bias, out)), (ctypes.c_int64 * 15)(*numbers), threads)

    return product


def assert_product(out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None) -> None:
    """Right but for rounding: once to bfloat16, and of sums in float32."""
    wide = a.double() @ b.double() + (0 if bias is None else bias.double())
    rounding = wide.abs() * 2.0**-8 + (a.double().abs() @ b.double().abs()) * a.shape[1] * 2.0**-24
    assert ((out.double() - wide).abs() <= rounding + 1e-30).all()


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 150),
    depth=st.integers(1, 300),
    turned=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    with_bias=st.booleans(),
    threads=st.integers(1, 3),
    at_its_end=st.booleans(),
)
@example(
    rows=32, columns=100, depth=2000, turned=(True, False, False), with_bias=False, threads=2, at_its_end=True
)  # depth shared
@example(
    rows=64, columns=33, depth=5000, turned=(False, False, False), with_bias=True, threads=2, at_its_end=True
)  # more steps than a panel holds
@example(rows=40, columns=70, depth=5000, turned=(False, True, True), with_bias=True, threads=3, at_its_end=False)
@example(rows=20, columns=70, depth=5000, turned=(False, True, False), with_bias=True, threads=2, at_its_end=True)
def test_the_product_is_that_of_float64(
    call: Call,
    rows: int,
    columns: int,
    depth: int,
    turned: tuple[bool, bool, bool],
    with_bias: bool,
    threads: int,
    at_its_end: bool,
) -> None:
    a_turned, b_turned, out_turned = turned
    random = torch.Generator().manual_seed(rows * 7 + columns * 3 + depth)
    a, b = torch.randn(rows, depth, generator=random).bfloat16(), torch.randn(depth, columns, generator=random).bfloat16()
    bias = torch.randn(rows if out_turned else columns, generator=random).bfloat16() if with_bias else None
    in_memory = guarded(a.t() if a_turned else a, at_its_end), guarded(b.t() if b_turned else b, at_its_end)
    out = guarded(torch.full((columns, rows) if out_turned else (rows, columns), torch.nan).bfloat16(), at_its_end)
    strides = [matrix.stride(0) for matrix in (*in_memory, out)]
    own_bias = None if bias is None else guarded(bias, at_its_end)
    call(*in_memory, own_bias, out, [rows, columns, depth, *strides, *turned, 1, 1, 0, 1, 1, 0], threads)
    added = None if bias is None else bias[:, None] if out_turned else bias
    assert_product(out.t() if out_turned else out, a, b, added)


def test_numbers_beside_a_result_stay(call: Call) -> None:
    """Of rows further apart than they are long: what lies between them is another's."""
    a, b = torch.randn(70, 50).bfloat16(), torch.randn(50, 40).bfloat16()
    out = torch.full((70, 48), 7.0).bfloat16()
    call(a, b, None, out, [70, 40, 50, 50, 40, 48, 0, 0, 0, 1, 1, 0, 1, 1, 0], 2)
    assert_product(out[:, :40], a, b)
    assert (out[:, 40:] == 7).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("at_its_end", [True, False])
@pytest.mark.parametrize(
    ("images", "channels"),
    [
        ((32, 4, 5), 64),
        ((3, 5, 9), 64),
        ((40, 9, 9), 64),
        ((70, 2, 3), 64),
        ((64, 5, 12), 64),
        ((1, 21, 30), 64),
        ((20, 2, 3), 64),
        ((33, 3, 4), 704),  # more steps than a panel holds
        ((2, 3, 4), 704),
    ],
    ids=str,
)
def test_taps_touch_what_is_theirs_alone(
    call: Call, images: tuple[int, int, int], channels: int, at_its_end: bool, threads: int
) -> None:
    (batch, height, width), down, right, outputs = images, 2, 3, 96
    high, wide, count = height - down + 1, width - right + 1, down * right
    places, pixels, depth = high * wide, height * width, count * channels

    def guard(x: Tensor) -> Tensor:
        return guarded(x.bfloat16(), at_its_end)

    def taps(where: int, channels: int) -> list[int]:
        return [count, right, channels, height, width, where]

    x, weight, bias = guard(torch.randn(*images, channels)), guard(torch.randn(outputs, depth)), guard(torch.randn(outputs))
    patches = x.unfold(1, down, 1).unfold(2, right, 1).permute(0, 1, 2, 4, 5, 3).reshape(batch * places, depth)
    out = guard(torch.full((batch * places, outputs), torch.nan))
    strides = [pixels * channels, depth, places * outputs]
    call(x, weight, bias, out, [batch, outputs, depth, *strides, 0, 1, 0, *taps(2, channels)], threads)
    assert_product(out, patches, weight.t(), bias)

    gradient, of_weight = guard(torch.randn(batch * places, outputs)), guard(torch.full((outputs, depth), torch.nan))
    strides = [places * outputs, pixels * channels, depth]
    call(gradient, x, None, of_weight, [outputs, depth, batch * places, *strides, 1, 0, 0, *taps(3, channels)], threads)
    assert_product(of_weight, gradient.t(), patches)

    of_x = guard(torch.full((batch * pixels, channels), torch.nan))
    strides = [places * outputs, depth, pixels * channels]
    call(gradient, weight, None, of_x, [batch, channels, count * outputs, *strides, 0, 0, 0, *taps(1, outputs)], threads)
    around = (0, 0, right - 1, right - 1, down - 1, down - 1)
    spread = torch.nn.functional.pad(gradient.view(batch, high, wide, outputs), around)
    reached = spread.unfold(1, down, 1).unfold(2, right, 1).permute(0, 1, 2, 4, 5, 3).reshape(-1, count * outputs)
    mirrored = weight.view(outputs, count, channels).flip(1).permute(1, 0, 2).reshape(-1, channels)
    assert_product(of_x, reached, mirrored)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def gradients(x: Tensor, weight: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    return out @ weight, out.t() @ x


def accumulated(added: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return torch.addmm(added, x, weight.t())


def inside(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.linear(x[:, 20:60], weight[5:290, 10:50], bias[7:292])


def added_to_all(one: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return torch.addmm(one, x, weight.t())


def with_itself(x: Tensor) -> Tensor:
    return x @ x.t()


X, WEIGHT, BIAS = torch.randn(32, 100).bfloat16(), torch.randn(300, 100).bfloat16(), torch.randn(300).bfloat16()
OUT = torch.randn(32, 300).bfloat16()


@pytest.mark.parametrize(
    ("function", "arguments", "used"),
    [
        (linear, (X, WEIGHT, BIAS), 1),
        (linear, (X[:, 20:60], WEIGHT[:, 10:50], BIAS), 1),  # of a matrix with more columns
        (inside, (X, WEIGHT, BIAS), 1),  # the same, and begins further on
        (gradients, (X, WEIGHT, OUT), 2),
        (accumulated, (OUT, X, WEIGHT), 1),
        (linear, (X.float(), WEIGHT.float(), BIAS.float()), int(own_float_products())),
        (linear, (X[:1], WEIGHT[:8], BIAS[:8]), 0),  # one observation
        (torch.mm, (X[:, ::2], WEIGHT[:, :50].t()), 1),  # of numbers that do not lie side by side: the compiler copies them
        (with_itself, (X,), 0),
        (added_to_all, (BIAS[:1], X, WEIGHT), 0),
    ],
    ids=[
        "forward",
        "part of a matrix",
        "part of what it is given",
        "gradients",
        "added to",
        "float32",
        "too few rows",
        "every other",
        "with itself",
        "one bias for all",
    ],
)
def test_the_compiler_uses_it_where_it_fits(function: Callable[..., Tensor], arguments: tuple[Tensor, ...], used: int) -> None:
    counters["inductor"].clear()
    with fresh_cache():
        got = compiled(lambda *given: function(*given), torch.device("cpu"))(*arguments)
    assert counters["inductor"]["cpp_templated_kernel_counter"] == used
    wide = function(*(x.double() for x in arguments))
    for one, want in zip(*((x,) if isinstance(x, Tensor) else x for x in (got, wide)), strict=True):
        assert one.dtype == arguments[0].dtype
        torch.testing.assert_close(one.double(), want, rtol=2**-7, atol=0.1)


def test_uneven_numbers_are_rounded_to_the_nearest(call: Call) -> None:
    """Half-way cases go to the even one, as torch rounds."""
    values = torch.tensor(np.linspace(1, 2, 513)[:512].astype(np.float32))  # ten significant bits where bfloat16 has eight
    high = values.bfloat16()
    low = (values - high.float()).bfloat16()
    a = torch.stack([high, low], 1)
    out = torch.empty(512, 1).bfloat16()
    call(a, torch.ones(2, 1).bfloat16(), None, out, [512, 1, 2, 2, 1, 1, 0, 0, 0, 1, 1, 0, 1, 1, 0], 1)
    assert torch.equal(out[:, 0], values.bfloat16())
