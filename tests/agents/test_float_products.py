"""Products of float32 matrices by vectors, against the same products in float64."""

from __future__ import annotations

import ctypes
import re
import shutil
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache, run_and_get_code

from agents.compiler import compiled, teach_products
from agents.operators import own_float_products
from tests.agents.native import guarded, library, pointer, with_exact_scratch

teach_products()
from agents import float_products  # noqa: E402  (after the compiler it teaches)

CPU = torch.device("cpu")
needs_vectors = pytest.mark.skipif(
    not torch.cpu._is_avx2_supported() or shutil.which("g++") is None, reason="this CPU has no AVX2, or there is no g++"
)

CALL = """
extern "C" void call(const float* a, const float* b, float* out, const int64_t* n, int threads) {
    playmeter::product(playmeter::FloatProduct{a, b, out, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], n[11]}, threads);
}
"""
Call = Callable[[Tensor, Tensor, Tensor, int], None]


@pytest.fixture(scope="module", params=[(), ("-mno-avx512f",)], ids=["widest", "AVX2"])
def call(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Call:
    """out [L, M, N] = a [L, M, K] b [L, K, N]: beside those that are ``guarded`` one number more would be a crash."""
    headers = "".join(header.read_text() for header in float_products.HEADERS)
    lib = library(tmp_path_factory.mktemp("float_products"), with_exact_scratch(headers + CALL), *request.param)

    def product(a: Tensor, b: Tensor, out: Tensor, threads: int) -> None:
        numbers = (*out.shape, a.shape[2], *a.stride(), *b.stride(), *out.stride()[:2])
        lib.call(*map(pointer, (a, b, out)), (ctypes.c_int64 * 12)(*numbers), threads)

    return product


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Right but for the rounding of sums in float32."""
    rounding = (a.double().abs() @ b.double().abs()) * a.shape[-1] * 2.0**-24
    assert ((out.double() - a.double() @ b.double()).abs() <= rounding).all()


@needs_vectors
@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 5),
    rows=st.integers(1, 40),
    columns=st.integers(1, 100),
    depth=st.integers(1, 80),
    turned=st.tuples(st.booleans(), st.booleans()),
    threads=st.integers(1, 3),
    at_its_end=st.booleans(),
)
@example(
    count=1, rows=32, columns=70, depth=1300, turned=(False, True), threads=2, at_its_end=True
)  # more than is turned at once
@example(count=2, rows=9, columns=33, depth=1100, turned=(True, False), threads=3, at_its_end=False)
@example(count=1, rows=301, columns=7, depth=20, turned=(False, False), threads=3, at_its_end=True)  # shared out by rows
def test_the_product_is_that_of_float64(
    call: Call, count: int, rows: int, columns: int, depth: int, turned: tuple[bool, bool], threads: int, at_its_end: bool
) -> None:
    a, b = random(count, rows, depth), random(count, depth, columns)
    in_memory = [guarded(x.mT if lies else x, at_its_end) for x, lies in zip((a, b), turned, strict=True)]
    read = [x.mT if lies else x for x, lies in zip(in_memory, turned, strict=True)]
    out = guarded(torch.full((count, rows, columns), torch.nan), at_its_end)
    call(*read, out, threads)
    assert_product(out, a, b)
    alone = torch.empty_like(out)
    call(*read, alone, 1)
    assert torch.equal(out, alone), "however many threads share it out"


@needs_vectors
def test_numbers_beside_a_result_stay_and_what_is_beside_its_factors_is_not_read(call: Call) -> None:
    a, b = torch.full((2, 9, 40), torch.nan), torch.full((2, 30, 60), torch.nan)
    a[:, :, 5:35], b[:, :, 7:47] = random(2, 9, 30), random(2, 30, 40)
    out = torch.full((2, 9, 50), 7.0)
    call(a[:, :, 5:35], b[:, :, 7:47], out[:, :, :40], 2)
    assert_product(out[:, :, :40], a[:, :, 5:35], b[:, :, 7:47])
    assert (out[:, :, 40:] == 7).all()


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def of_one_vector(x: Tensor, params: Tensor) -> Tensor:
    """As the parameters of a network are."""
    return torch.nn.functional.linear(x, params[48:348].view(3, 100), params[348:351])


def gradients(x: Tensor, weight: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    return out @ weight, out.mT @ x


def halved(added: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return torch.addmm(added, x, weight.t(), beta=0.5)


def doubled(added: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return torch.addmm(added, x, weight.t(), alpha=2)


def with_itself(x: Tensor) -> Tensor:
    return x @ x.t()


X, WEIGHT, BIAS, OUT = random(32, 100), random(300, 100), random(300), random(32, 300)
MANY, WEIGHTS, OUTS = random(4, 32, 100), random(4, 30, 100), random(4, 32, 30)


@pytest.mark.compiler
@pytest.mark.skipif(not own_float_products(), reason="on this CPU, or by this compiler, a library multiplies float32")
@pytest.mark.parametrize(
    ("function", "arguments", "used"),
    [
        (linear, (X, WEIGHT, BIAS), 1),
        (of_one_vector, (X, random(400)), 1),
        (linear, (X[:, 20:60], WEIGHT[5:200, 10:50], BIAS[5:200]), 1),
        (gradients, (X, WEIGHT, OUT), 2),
        (gradients, (MANY, WEIGHTS, OUTS), 2),
        (torch.bmm, (MANY, WEIGHTS.mT), 1),
        (torch.bmm, (MANY[:1].expand(4, 32, 100), WEIGHTS.mT), 1),
        (torch.mm, (X[:, ::2], WEIGHT[:, :50].t()), 1),
        (torch.mm, (X[:, ::2], WEIGHT[:, ::2].t()), 1),  # of numbers that do not lie side by side: the compiler copies them
        (torch.bmm, (MANY, random(30, 100, 4).permute(2, 1, 0)), 0),  # neither rows nor columns lie side by side, but matrices
        (torch.mm, (X.double(), WEIGHT.t().double()), 0),
        (linear, (random(5, 4096), random(300, 4096), BIAS), 1),  # large: below
        (torch.bmm, (random(2, 5, 4096), random(2, 300, 4096).mT), 1),
        (linear, (X[:1], WEIGHT, BIAS), 0),  # one observation
        (gradients, (X, WEIGHT[:1], OUT[:, :1]), 1),  # of a layer with one output: of its input there is nothing to add up
        (torch.bmm, (MANY, WEIGHTS[:, :1].mT), 0),
        (halved, (OUT, X, WEIGHT), 0),
        (doubled, (OUT, X, WEIGHT), 0),
        (with_itself, (X,), 0),
        (torch.mm, (X[:, :0], WEIGHT[:, :0].t()), 0),
    ],
)
def test_the_compiler_uses_it_where_it_fits(function: Callable[..., Tensor], arguments: tuple[Tensor, ...], used: int) -> None:
    counters["inductor"].clear()
    with fresh_cache():
        got = compiled(lambda *given: function(*given), CPU)(*arguments)
    assert counters["inductor"]["cpp_templated_kernel_counter"] == used
    wide = function(*(x.double() for x in arguments))
    for one, want in zip(*((x,) if isinstance(x, Tensor) else x for x in (got, wide)), strict=True):
        torch.testing.assert_close(one.double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.compiler
@pytest.mark.skipif(not own_float_products(), reason="on this CPU, or by this compiler, a library multiplies float32")
@pytest.mark.parametrize(
    ("inputs", "outputs", "rows", "turned"),
    [
        (4096, 300, 5, "a batch"),
        (4096, 250, 5, "weights"),  # fewer than a million
        (4096, 300, 400, "weights"),  # of a batch that is larger
    ],
)
def test_of_a_large_layer_a_batch_is_turned_instead_of_the_weights(inputs: int, outputs: int, rows: int, turned: str) -> None:
    with fresh_cache():
        _, (code,) = run_and_get_code(
            compiled(lambda *given: linear(*given), CPU), random(rows, inputs), random(outputs, inputs), random(outputs)
        )
    high, wide = (outputs, rows) if turned == "a batch" else (rows, outputs)
    assert re.findall(r"FloatProduct\{[^}]*\}", code)[0].split(", ")[3:7] == ["1", str(high), str(wide), str(inputs)]
