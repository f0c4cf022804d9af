"""Operators of our own: borders that the compiler does not fuse across.

It fuses whatever it can into the loop that reads it, and computes there anew, for every few elements, what was meant to be computed
once. On a CPU that costs more than the pass over memory that it saves.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from agents import disk_cache

PRODUCTS_FOR_TORCH = "2.13."


@torch.library.custom_op("playmeter::take_rows", mutates_args=())
def take_rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows of ``table`` [R, ...] at ``index`` [N], one copy a row.

    Fused, the address of every pixel would be computed anew: 50 ms instead of 1 ms for a batch of 32 stacks.
    """
    return table.index_select(0, index)


@take_rows.register_fake
def _(table: Tensor, index: Tensor) -> Tensor:
    return table.new_empty(len(index), *table.shape[1:])


def once(few: Tensor) -> Tensor:
    """The same numbers, computed once and not in every loop that reads them.

    Fused, the two powers of Adam's bias correction would be taken for every 16 parameters, and where a transition lies in the replay
    would be looked up for every 16 numbers that are computed from it. No gradient passes it.
    """
    return _kept(few) if torch.compiler.is_compiling() or traced() else few


@cache
def own_products() -> Literal["AMX", "AVX512-BF16"] | None:
    """With which instructions compiled code multiplies matrices of bfloat16 itself (agents/products.py); None: it calls a library.

    This CPU has them, the system lets this process use them, the C++ compiler knows them (GCC 11 and 10), and this is the torch whose
    compiler agents/products.py was written for, which is not its public part.
    """
    cpu = torch.cpu
    if not torch.__version__.startswith(PRODUCTS_FOR_TORCH) or not cpu._is_avx512_bf16_supported():
        return None
    if cpu._is_amx_tile_supported() and cpu._init_amx() and _compiler_knows("AMX"):
        return "AMX"
    return "AVX512-BF16" if _compiler_knows("AVX512-BF16") else None


@cache
def own_float_products() -> bool:
    """Whether compiled code multiplies matrices of float32 itself (agents/float_products.py), and does convolutions (agents/winograd.h),
    with AVX-512 or AVX2; else it calls a library.

    On AMD's CPUs, where it was measured.
    """
    cpu = torch.cpu
    if not torch.__version__.startswith(PRODUCTS_FOR_TORCH) or not cpu._is_avx2_supported():
        return False
    return "AMD" in cpu.get_capabilities().get("cpu_name", "") and _compiler_knows("AVX2")


def _compiler_knows(instructions: str) -> bool:
    key = disk_cache.key("C++ compiler knows", instructions)
    knows = disk_cache.get(key) is True
    if not knows and (knows := instructions in _known_to_compiler()):  # a no may be an accident: it is asked again
        disk_cache.put(key, True)
    return knows


def _known_to_compiler() -> set[str]:
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list  # seconds to import
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        sets = valid_vec_isa_list()
    except InvalidCxxCompiler:  # there is none, as beside a GPU, whose kernels need a C compiler only
        return set()
    amx = {"AMX" for each in sets if "amx_tile" in str(each)}
    vectors = {"AVX2" for each in sets if str(each).startswith(("avx2", "avx512"))}
    return amx | vectors | {"AVX512-BF16" for each in sets if getattr(each, "_is_avx512_bf16_supported", False)}


def kept(tensor: Tensor) -> Tensor:
    """The same numbers, computed in the order of ``tensor`` and not in that of what reads them; gradients pass."""
    return _Kept.apply(tensor) if traced() else tensor  # type: ignore[no-any-return,no-untyped-call]


def traced() -> bool:
    """Whether what is done now is being written down for a CPU (agents/compiler.py)."""
    return not torch.compiler.is_compiling() and get_proxy_mode() is not None


@torch.library.custom_op("playmeter::once", mutates_args=())
def _kept(few: Tensor) -> Tensor:
    return few.clone()


@_kept.register_fake
def _(few: Tensor) -> Tensor:
    return torch.empty_like(few)


@_kept.register_vmap
def _(info: object, in_dims: tuple[int | None], few: Tensor) -> tuple[Tensor, int | None]:
    return _kept(few), in_dims[0]


class _Kept(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        return _kept(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient
