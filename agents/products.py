"""agents/products.h in compiled code, for products of bfloat16 matrices on a CPU with AMX or AVX512-BF16, instead of calls of a library.

In a small network a call of torch's product takes longer to get going than to compute: its own code and tables have left the caches, and
what it needs is looked up and arranged anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._inductor.lowering as lowering  # before templates, which import it half done
from torch._inductor import ir
from torch._inductor.kernel.mm_common import mm_args

from agents.native import call_of
from agents.operators import own_products

HEADERS = [Path(__file__).with_name(name) for name in ("vectors.h", "products.h")]
MIN_ROWS = 32
"""Of an operand that lies along the depth: fewer leave tiles empty."""


def teach_products() -> None:
    """Have the compiler use agents/products.h for ``aten.mm`` and ``aten.addmm`` of bfloat16 matrices on a CPU, where they fit."""
    aten = torch.ops.aten
    mm, addmm = lowering.lowerings[aten.mm.default], lowering.lowerings[aten.addmm.default]

    @lowering.register_lowering(aten.mm.default, type_promotion_kind=None)
    def _(a: Any, b: Any, **kwargs: Any) -> Any:
        return _product(a, b) or mm(a, b, **kwargs)

    @lowering.register_lowering(aten.addmm.default, type_promotion_kind=None)
    def _(added: Any, a: Any, b: Any, **kwargs: Any) -> Any:
        if kwargs.get("alpha", 1) != 1 or kwargs.get("beta", 1) != 1:
            return addmm(added, a, b, **kwargs)
        if len(added.get_size()) == 1:
            return _product(a, b, added) or addmm(added, a, b, **kwargs)
        made = _product(a, b)
        return addmm(added, a, b, **kwargs) if made is None else lowering.lowerings[aten.add.Tensor](added, made)


def _product(a: Any, b: Any, bias: Any = None) -> Any:
    """``a @ b + bias`` as a node of the compiler; None where it does not fit."""
    if a.get_device().type != "cpu" or any(x.get_dtype() != torch.bfloat16 for x in (a, b)):
        return None
    _, _, _, layout, a, b = mm_args(a, b)
    nodes = [a, b] if bias is None else [a, b, ir.ExternKernel.realize_input(bias)]
    for node in nodes:
        node.freeze_layout()
    matrices = Matrices.of(*nodes)
    if matrices is None or len({node.get_name() for node in nodes}) < len(nodes):
        return None
    return product_call(nodes, layout, matrices.swapped, *matrices.sizes, *matrices.strides, *matrices.turned)


def product_call(operands: Sequence[Any], layout: Any, swapped: bool, *sizes_and_order: object) -> Any:
    """A product of a, b and perhaps a bias, a and b the other way round if ``swapped``, with the other fields of ``playmeter::Product``."""

    def fields(pointers: Sequence[str], out: str) -> Sequence[object]:
        a, b, bias = [f"(const playmeter::bf16*){pointer}" for pointer in pointers] + ["nullptr"] * (3 - len(pointers))
        return *((b, a) if swapped else (a, b)), bias, f"(playmeter::bf16*){out}", *sizes_and_order

    return call_of(products_header(), "product", "Product", fields, operands, layout)


class Matrices(NamedTuple):
    """How those of a product lie in memory, in the words of ``playmeter::Product``."""

    swapped: bool
    """out.T = b.T @ a.T is what is computed: the larger of two matrices that lie along the depth is read in place."""
    sizes: tuple[int, int, int]
    strides: tuple[int, int, int]
    turned: tuple[bool, bool, bool]

    @classmethod
    def of(cls, a: Any, b: Any, bias: Any = None) -> Matrices | None:
        """None: they do not lie as they should."""
        of_a, of_b = _in_memory(a), _in_memory(b)
        if of_a is None or of_b is None or (bias is not None and not _fits(bias, b.get_size()[1])):
            return None
        (rows, depth), (_, columns) = a.get_size(), b.get_size()
        row_numbers, swapped = columns, of_b.turned and bool(columns > rows)
        if swapped:
            rows, columns = columns, rows
            of_a, of_b = Lies(of_b.stride, False), Lies(of_a.stride, not of_a.turned)
        if not of_a.turned and rows < MIN_ROWS:
            return None
        sizes, strides = (int(rows), int(columns), int(depth)), (of_a.stride, of_b.stride, int(row_numbers))
        return cls(swapped, sizes, strides, (of_a.turned, of_b.turned, swapped))


def _fits(bias: Any, columns: Any) -> bool:
    return bool(bias.get_size() == [columns] and bias.get_stride() == [1] and bias.get_dtype() == torch.bfloat16)


class Lies(NamedTuple):
    stride: int
    turned: bool
    """As its transpose."""


def _in_memory(matrix: Any) -> Lies | None:
    numbers = (*matrix.get_size(), *matrix.get_stride())
    if not all(isinstance(number, int) or number.is_number for number in numbers):
        return None
    height, width, down, right = map(int, numbers)
    if height == 0 or width == 0:
        return None
    if right == 1 and down >= width:
        return Lies(down, False)
    return Lies(right, True) if down == 1 and right >= height else None


def products_header() -> str:
    """agents/products.h and what it takes, for the instructions that are to be used."""
    return "".join(("#define PLAYMETER_AMX\n" if own_products() == "AMX" else "", *(header.read_text() for header in HEADERS)))
