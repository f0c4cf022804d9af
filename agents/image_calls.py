"""The operators of agents/taps.py and agents/stacks.py as calls of C++ of ours.

Convolutions of bfloat16 are in agents/products.h, of float32 in agents/winograd.h; stacks, of bfloat16 alone, in agents/stacks.h.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._inductor.lowering as lowering  # before templates, which import it half done
from torch._inductor import ir

from agents import float_products
from agents.native import braced, call_of, contiguous, sizes
from agents.products import product_call
from agents.stacks import STACK
from agents.taps import CHANNELS, WINOGRAD_TAPS

STACKS_SOURCE = Path(__file__).with_name("stacks.h")
WINOGRAD_SOURCES = [*float_products.HEADERS, Path(__file__).with_name("winograd.h")]


class Taps(NamedTuple):
    """The sizes of a convolution, in the words of agents/taps.py: weights [N, h, w, C] over images [B, H, W, C]."""

    images: int
    height: int
    width: int
    channels: int
    outputs: int
    tall: int
    wide: int

    @property
    def input_size(self) -> list[int]:
        return [self.images, self.height, self.width, self.channels]

    @property
    def output_size(self) -> list[int]:
        return [self.images, self.height - self.tall + 1, self.width - self.wide + 1, self.outputs]

    @property
    def weight_size(self) -> list[int]:
        return [self.outputs, self.tall, self.wide, self.channels]


def teach_images() -> None:
    """Have the compiler use them. Who calls the operators sees to it that the program multiplies such numbers itself."""
    operators = torch.ops.playmeter

    @lowering.register_lowering(operators.taps_output.default, type_promotion_kind=None)
    def _(x: Any, weight: Any, bias: Any) -> Any:
        (images, height, width, channels), (outputs, tall, wide, of_weights) = map(sizes, (x, weight))
        taps = Taps(images, height, width, channels, outputs, tall, wide)
        assert of_weights == channels
        return _call("output", [x, weight, bias], taps, taps.output_size)

    @lowering.register_lowering(operators.taps_input.default, type_promotion_kind=None)
    def _(gradient: Any, weight: Any) -> Any:
        (images, high, across, outputs), (of_weights, tall, wide, channels) = map(sizes, (gradient, weight))
        taps = Taps(images, high + tall - 1, across + wide - 1, channels, outputs, tall, wide)
        assert of_weights == outputs
        return _call("input", [gradient, weight], taps, taps.input_size)

    @lowering.register_lowering(operators.taps_weights.default, type_promotion_kind=None)
    def _(gradient: Any, x: Any) -> Any:
        (_, high, across, outputs), (images, height, width, channels) = map(sizes, (gradient, x))
        taps = Taps(images, height, width, channels, outputs, height - high + 1, width - across + 1)
        return _call("weights", [gradient, x], taps, taps.weight_size)

    @lowering.register_lowering(operators.stacks_as_tiles.default, type_promotion_kind=None)
    def _(frames: Any, index: Any, height: int, width: int, scale: float) -> Any:
        (_, *image), (stacks, _) = map(sizes, (frames, index))
        size = [stacks, image[0] // height, image[1] // width, height, width, STACK]

        def fields(pointers: Sequence[str], out: str) -> Sequence[object]:
            return *pointers, f"(uint16_t*){out}", stacks, *image, height, width, f"static_cast<float>({scale!r})"

        layout = ir.FixedLayout(torch.device("cpu"), torch.bfloat16, size)
        return call_of(STACKS_SOURCE.read_text(), "stacks_as_tiles", "Stacks", fields, contiguous(frames, index), layout)


def _call(what: str, nodes: list[Any], taps: Taps, size: list[int]) -> Any:
    assert taps.channels % CHANNELS == taps.outputs % CHANNELS == 0
    of_number = {torch.bfloat16: _of_bfloat16, torch.float32: _of_float32}[nodes[0].get_dtype()]
    return of_number(what, contiguous(*nodes), taps, ir.FixedLayout(nodes[0].get_device(), nodes[0].get_dtype(), size))


def _of_bfloat16(what: str, operands: list[Any], taps: Taps, layout: Any) -> Any:
    """Images are rows of products, but for the gradient of the weights, whose depth they are."""
    count, channels = taps.tall * taps.wide, taps.outputs if what == "input" else taps.channels
    of_product, turned = {
        "output": ((taps.images, taps.outputs, count * taps.channels), (False, True, False)),
        "input": ((taps.images, taps.channels, count * taps.outputs), (False, False, False)),
        "weights": ((taps.outputs, count * taps.channels, math.prod(taps.output_size[:3])), (True, False, False)),
    }[what]
    strides = [math.prod(size[1:]) for size in (*map(sizes, operands[:2]), layout.size)]
    fields = (count, taps.wide, channels, taps.height, taps.width, f"playmeter::Taps::OF_{what.upper()}")
    return product_call(operands, layout, False, *of_product, *strides, *turned, braced(fields))


def _of_float32(what: str, operands: list[Any], taps: Taps, layout: Any) -> Any:
    assert (taps.tall, taps.wide) in WINOGRAD_TAPS
    *sizes_of_both, tall, _ = taps

    def fields(pointers: Sequence[str], out: str) -> Sequence[object]:
        return *pointers, *["nullptr"] * (3 - len(pointers)), out, *sizes_of_both

    source = "".join(header.read_text() for header in WINOGRAD_SOURCES)
    return call_of(source, f"winograd_{what}", f"Winograd<{tall}>", fields, operands, layout)
