"""agents/float_products.h in compiled code, for products of float32 matrices on a CPU whose library is far from its limit.

The library is MKL, which uses AVX-512 on Intel's CPUs only. On AMD's it multiplies with half of each register, and in a small network
takes as long again to look at what it was given and to rearrange it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch._inductor.lowering as lowering  # before templates, which import it half done
from torch._inductor.codegen.cpp_template import CppTemplate
from torch._inductor.kernel.mm_common import mm_args
from torch._inductor.utils import parallel_num_threads

HEADERS = [Path(__file__).with_name(name) for name in ("vectors.h", "float_products.h")]


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
    *_, layout, a, b = mm_args(a, b)
    for node in (a, b):
        node.freeze_layout()
    fields = _fields(a, b)
    if fields is None or a.get_name() == b.get_name():
        return None
    made = FloatProductTemplate([a, b], layout, fields).generate().output_node()
    made.data.data.allow_epilogue_fusion = False  # what reads the result is a loop of its own
    return made


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


class FloatProductTemplate(CppTemplate):
    """A kernel that is one call of ``playmeter::product``."""

    def __init__(self, input_nodes: list[Any], layout: Any, fields: list[int]) -> None:
        """``fields`` of ``playmeter::FloatProduct`` after its pointers, which are the nodes."""
        super().__init__("float_product", input_nodes, layout, parallel_num_threads())
        self.fields = fields

    def render(self, kernel: Any, template_buffer_node: Any = None, **kwargs: Any) -> str:  # type: ignore[override]
        assert not kwargs.get("epilogue_nodes")
        names = dict(zip(("a", "b"), self.input_nodes, strict=True))
        out = self.output_node if template_buffer_node is None else template_buffer_node
        definition = kernel.def_kernel(inputs=names, outputs={"out": out})
        read = [f"{name} + {int(node.get_layout().offset)}" for name, node in names.items()]
        fields = ", ".join((*read, "out", *map(str, self.fields)))
        return f"""
{self.header().getvalue()}
{"".join(header.read_text() for header in HEADERS)}
extern "C" {definition}
{{
    {kernel.maybe_codegen_profile()}
    playmeter::product(playmeter::FloatProduct{{{fields}}}, {self.num_threads});
}}
"""
