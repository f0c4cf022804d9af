"""agents/float_products.h in compiled code, for products of float32 matrices on a CPU whose library is far from its limit.

The library is MKL, which uses AVX-512 on Intel's CPUs only. On AMD's it multiplies with half of each register, if that has 512 bits,
and in a small network takes as long again to look at what it was given and to rearrange it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch._inductor.lowering as lowering  # before templates, which import it half done
from torch._inductor.kernel.mm_common import mm_args

from agents.native import call_of

HEADERS = [Path(__file__).with_name(name) for name in ("vectors.h", "float_products.h")]

LARGE_NUMBERS = 1 << 20
"""A second operand of so many that lies as its transpose is in no cache: if it has more columns than the first has rows, that one is
turned instead."""


def teach_float_products() -> None:
    """Have the compiler use agents/float_products.h for ``aten.mm``, ``aten.addmm`` and ``aten.bmm`` of float32 matrices on a CPU."""
    aten = torch.ops.aten
    mm, addmm, bmm = (lowering.lowerings[operator.default] for operator in (aten.mm, aten.addmm, aten.bmm))

    @lowering.register_lowering(aten.mm.default, type_promotion_kind=None)
    def _(a: Any, b: Any, **kwargs: Any) -> Any:
        return _product(a, b) or mm(a, b, **kwargs)

    @lowering.register_lowering(aten.bmm.default, type_promotion_kind=None)
    def _(a: Any, b: Any, **kwargs: Any) -> Any:
        return _product(a, b) or bmm(a, b, **kwargs)

    @lowering.register_lowering(aten.addmm.default, type_promotion_kind=None)
    def _(added: Any, a: Any, b: Any, **kwargs: Any) -> Any:
        plain = kwargs.get("alpha", 1) == 1 and kwargs.get("beta", 1) == 1
        made = _product(a, b) if plain else None
        return addmm(added, a, b, **kwargs) if made is None else lowering.lowerings[aten.add.Tensor](added, made)


def _product(a: Any, b: Any) -> Any:
    """``a @ b`` as a node of the compiler; None where it does not fit."""
    if a.get_device().type != "cpu" or any(x.get_dtype() != torch.float32 for x in (a, b)):
        return None
    many, rows, columns = len(a.get_size()) == 3, a.get_size()[-2], b.get_size()[-1]
    if rows == 1 or (many and columns == 1):  # a single row keeps no register busy; of many vectors the compiler makes a loop
        return None
    given = a, b
    *_, layout, a, b = mm_args(a, b)
    for node in (a, b):
        node.freeze_layout()
    fields = _fields(a, b)
    if fields is None or a.get_name() == b.get_name():
        return None
    if b.get_stride()[-1] != 1 and columns > rows and columns * a.get_size()[-1] >= LARGE_NUMBERS:
        made = _product(*map(_transposed, reversed(given)))  # which turns the first
        return None if made is None else _transposed(made)

    def of_product(pointers: Sequence[str], out: str) -> Sequence[object]:
        return *pointers, out, *fields

    source = "".join(header.read_text() for header in HEADERS)
    return call_of(source, "product", "FloatProduct", of_product, [a, b], layout)


def _transposed(matrices: Any) -> Any:
    axes = list(range(len(matrices.get_size())))
    return lowering.permute(matrices, [*axes[:-2], axes[-1], axes[-2]])


def _fields(a: Any, b: Any) -> list[int] | None:
    """Of ``playmeter::FloatProduct`` after its pointers; None: the matrices do not lie as they should."""
    numbers = (*a.get_size(), *a.get_stride(), *b.get_size(), *b.get_stride())
    if not all(isinstance(number, int) or number.is_number for number in numbers):
        return None
    (*count, rows, depth), (*_, columns) = a.get_size(), b.get_size()
    (*a_next, a_down, a_right), (*b_next, b_down, b_right) = a.get_stride(), b.get_stride()
    if depth == 0 or (b_right != 1 and b_down != 1):
        return None
    matrices, *following = (count[0], a_next[0], b_next[0], rows * columns) if count else (1, 0, 0, 0)
    lie = following[0], a_down, a_right, following[1], b_down, b_right, following[2], columns
    return [int(number) for number in (matrices, rows, columns, depth, *lie)]
