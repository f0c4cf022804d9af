"""C++ of ours in compiled code, on a CPU with AMX or AVX512-BF16: agents/products.h for products of bfloat16 matrices, instead of calls of a library, and
agents/stacks.h for agents/stacks.py.

In a small network a call of torch's product takes longer to get going than to compute: its own code and tables have left the caches, and
what it needs is looked up and arranged anew each time.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._inductor.lowering as lowering  # before templates, which import it half done
from torch._inductor import ir
from torch._inductor.codegen.cpp_template import CppTemplate
from torch._inductor.kernel.mm_common import mm_args
from torch._inductor.utils import parallel_num_threads

from agents.operators import own_products
from agents.stacks import STACK
from agents.taps import CHANNELS

HEADERS = [Path(__file__).with_name(name) for name in ("vectors.h", "products.h")]
STACKS_HEADER = Path(__file__).with_name("stacks.h")
MIN_ROWS = 32
"""Of an operand that lies along the depth: fewer leave tiles empty."""


def teach_products() -> None:
    """Have the compiler use agents/products.h for agents/taps.py, and for ``aten.mm`` and ``aten.addmm`` of bfloat16 matrices on a CPU,
    where they fit; and agents/stacks.h."""
    _teach_taps()
    _teach_stacks()
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
    return _made(ProductTemplate(nodes, layout, matrices.swapped, (*matrices.sizes, *matrices.strides, *matrices.turned)))


def _made(template: ProductTemplate | StacksTemplate) -> Any:
    made = template.generate().output_node()
    made.data.data.allow_epilogue_fusion = False  # what reads the result is a loop of its own
    return made


def _teach_taps() -> None:
    def contiguous(*nodes: Any) -> list[Any]:
        read: list[Any] = []
        for node in nodes:
            own = ir.ExternKernel.require_contiguous(ir.ExternKernel.realize_input(node))
            if own.get_name() in [other.get_name() for other in read]:  # of one vector, as parameters are
                own = ir.ExternKernel.copy_input(own)
            own.freeze_layout()
            read.append(own)
        return read

    def made(where: str, nodes: list[Any], size: list[int], sizes: tuple[int, int, int], turned: tuple[bool, bool]) -> Any:
        """Of images that are the first operand's rows, or both operands', and weights."""
        layout = ir.FixedLayout(nodes[0].get_device(), nodes[0].get_dtype(), size)
        strides = (math.prod(shape[1:]) for shape in (*map(_sizes, nodes[:2]), size))
        return _made(ProductTemplate(nodes, layout, False, (*sizes, *strides, *turned, False, where)))

    def taps(where: str, channels: int, images: list[int], weight: list[int]) -> str:
        (_, height, width, of_input), (_, down, right, of_weights) = images, weight
        assert channels % CHANNELS == of_input % CHANNELS == 0
        assert of_input == of_weights
        return f"{{{down * right}, {right}, {channels}, {height}, {width}, playmeter::Taps::{where}}}"

    operators = torch.ops.playmeter

    @lowering.register_lowering(operators.taps_output.default, type_promotion_kind=None)
    def _(x: Any, weight: Any, bias: Any) -> Any:
        images, (outputs, down, right, channels) = map(_sizes, (x, weight))
        size = [images[0], images[1] - down + 1, images[2] - right + 1, outputs]
        where = taps("OF_OUTPUT", channels, images, _sizes(weight))
        return made(where, contiguous(x, weight, bias), size, (images[0], outputs, down * right * channels), (False, True))

    @lowering.register_lowering(operators.taps_input.default, type_promotion_kind=None)
    def _(gradient: Any, weight: Any) -> Any:
        (batch, high, wide, outputs), (_, down, right, channels) = map(_sizes, (gradient, weight))
        images = [batch, high + down - 1, wide + right - 1, channels]
        where = taps("OF_INPUT", outputs, images, _sizes(weight))
        return made(where, contiguous(gradient, weight), images, (batch, channels, down * right * outputs), (False, False))

    @lowering.register_lowering(operators.taps_weights.default, type_promotion_kind=None)
    def _(gradient: Any, x: Any) -> Any:
        (batch, high, wide, outputs), images = map(_sizes, (gradient, x))
        weight = [outputs, images[1] - high + 1, images[2] - wide + 1, images[3]]
        where = taps("OF_WEIGHTS", images[3], images, weight)
        return made(
            where, contiguous(gradient, x), weight, (outputs, math.prod(weight[1:]), batch * high * wide), (True, False)
        )


def _teach_stacks() -> None:
    @lowering.register_lowering(torch.ops.playmeter.stacks_as_tiles.default, type_promotion_kind=None)
    def _(frames: Any, index: Any, height: int, width: int, scale: float) -> Any:
        nodes = [ir.ExternKernel.require_contiguous(ir.ExternKernel.realize_input(node)) for node in (frames, index)]
        for node in nodes:
            node.freeze_layout()
        (_, *image), (stacks, _) = map(_sizes, nodes)
        size = [stacks, image[0] // height, image[1] // width, height, width, STACK]
        layout = ir.FixedLayout(torch.device("cpu"), torch.bfloat16, size)
        return _made(StacksTemplate(nodes, layout, (stacks, *image, height, width, scale)))


def _sizes(node: Any) -> list[int]:
    return list(map(int, node.get_size()))


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


class StacksTemplate(CppTemplate):
    """A kernel that is one call of ``playmeter::stacks_as_tiles``."""

    def __init__(self, input_nodes: list[Any], layout: Any, fields: tuple[float, ...]) -> None:
        """``fields`` of ``playmeter::Stacks`` after its pointers, which are the nodes."""
        super().__init__("stacks", input_nodes, layout, parallel_num_threads())
        self.fields = fields

    def render(self, kernel: Any, template_buffer_node: Any = None, **kwargs: Any) -> str:  # type: ignore[override]
        names = dict(zip(("frames", "index"), self.input_nodes, strict=True))
        out = self.output_node if template_buffer_node is None else template_buffer_node
        definition = kernel.def_kernel(inputs=names, outputs={"out": out})
        read = [f"{name} + {int(node.get_layout().offset)}" for name, node in names.items()]
        *sizes, scale = self.fields
        fields = ", ".join((*read, "(uint16_t*)out", *map(str, sizes), f"static_cast<float>({scale!r})"))
        return f"""
{self.header().getvalue()}
{STACKS_HEADER.read_text()}
extern "C" {definition}
{{
    {kernel.maybe_codegen_profile()}
    playmeter::stacks_as_tiles({{{fields}}}, {self.num_threads});
}}
"""


class ProductTemplate(CppTemplate):
    """A kernel that is one call of ``playmeter::product``."""

    def __init__(self, input_nodes: list[Any], layout: Any, swapped: bool, fields: tuple[Any, ...]) -> None:
        """``fields`` of ``playmeter::Product`` after its pointers, which are the nodes, the first two the other way round if ``swapped``."""
        super().__init__("product", input_nodes, layout, parallel_num_threads())
        self.swapped, self.fields = swapped, fields

    def render(self, kernel: Any, template_buffer_node: Any = None, **kwargs: Any) -> str:  # type: ignore[override]
        assert not kwargs.get("epilogue_nodes")
        names = dict(zip(("a", "b", "bias"), self.input_nodes, strict=False))
        out = self.output_node if template_buffer_node is None else template_buffer_node
        definition = kernel.def_kernel(inputs=names, outputs={"out": out})
        read = [f"(const playmeter::bf16*){name} + {int(node.get_layout().offset)}" for name, node in names.items()]
        if self.swapped:
            read[0], read[1] = read[1], read[0]
        pointers = [*read, *["nullptr"] * (3 - len(read)), "(playmeter::bf16*)out"]
        fields = ", ".join(
            (*pointers, *(str(field).lower() if isinstance(field, bool) else str(field) for field in self.fields))
        )
        return f"""
{self.header().getvalue()}
{products_header()}
extern "C" {definition}
{{
    {kernel.maybe_codegen_profile()}
    playmeter::product({{{fields}}}, {self.num_threads});
}}
"""
