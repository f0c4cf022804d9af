"""Calls of C++ of ours as nodes of torch's compiler: what agents/products.py and agents/float_products.py have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch._inductor.lowering  # noqa: F401  (before templates, which import it half done)
from torch._inductor import ir
from torch._inductor.codegen.cpp_template import CppTemplate
from torch._inductor.utils import parallel_num_threads

Fields = Callable[[Sequence[str], str], Sequence[object]]
"""Of a struct, from what points to each operand and to the result, in C++."""


def call_of(source: str, function: str, struct: str, fields: Fields, operands: Sequence[Any], layout: Any) -> Any:
    """The result of a call, as a node: of a function of a struct and a number of threads, in namespace playmeter, as in ``source``."""
    made = (
        _Template(source, f"playmeter::{function}", f"playmeter::{struct}", fields, operands, layout).generate().output_node()
    )
    made.data.data.allow_epilogue_fusion = False  # what reads the result is a loop of its own
    return made


def contiguous(*nodes: Any) -> list[Any]:
    """As operands that lie in memory by their sizes, each by itself."""
    operands: list[Any] = []
    for node in nodes:
        own = ir.ExternKernel.require_contiguous(ir.ExternKernel.realize_input(node))
        if own.get_name() in [other.get_name() for other in operands]:  # of one vector, as parameters are
            own = ir.ExternKernel.copy_input(own)
        own.freeze_layout()
        operands.append(own)
    return operands


def sizes(node: Any) -> list[int]:
    return list(map(int, node.get_size()))


def braced(fields: Iterable[object]) -> str:
    """A struct's fields in C++."""
    return f"{{{', '.join(str(field).lower() if isinstance(field, bool) else str(field) for field in fields)}}}"


class _Template(CppTemplate):
    def __init__(self, source: str, function: str, struct: str, fields: Fields, operands: Sequence[Any], layout: Any) -> None:
        super().__init__("playmeter", list(operands), layout, parallel_num_threads())
        self.source, self.function, self.struct, self.fields = source, function, struct, fields

    def render(self, kernel: Any, template_buffer_node: Any = None, **kwargs: Any) -> str:  # type: ignore[override]
        assert not kwargs.get("epilogue_nodes")
        names = {f"operand{k}": node for k, node in enumerate(self.input_nodes)}
        out = self.output_node if template_buffer_node is None else template_buffer_node
        definition = kernel.def_kernel(inputs=names, outputs={"out": out})
        pointers = [f"{name} + {int(node.get_layout().offset)}" for name, node in names.items()]
        return f"""
{self.header().getvalue()}
{self.source}
extern "C" {definition}
{{
    {kernel.maybe_codegen_profile()}
    {self.function}({self.struct}{braced(self.fields(pointers, "out"))}, {self.num_threads});
}}
"""
