"""The learner's calls, each compiled as a whole."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from agents.operators import multiplies_tiles

SETTINGS = {"cpp_wrapper": True}
"""Of the compiler on a CPU. What leads from kernel to kernel is C++ too: as Python it took a tenth of a step, since after the kernels
the caches hold nothing of it."""


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """``function`` of tensors, and tuples of tensors, for arguments of the shapes that it is called with first.

    torch.compile asks before every call whether what it compiled still fits, of code, settings and tensors: in `dqn` on CartPole a
    quarter of a step. A learner's calls never change, so on a CPU they are traced once and called without asking. On a GPU nobody
    asks either, since CUDA graphs replay them (agents/graphs.py).
    """
    teach_compiler()
    return _traced(function) if device.type == "cpu" else _guarded(function)


def leaves(arguments: Any) -> list[Tensor]:
    """All tensors of nested tuples, in order. As torch's pytree, in a fifth of its 18 us."""
    return [arguments] if isinstance(arguments, Tensor) else [tensor for part in arguments for tensor in leaves(part)]


def _traced(function: Callable[..., Any]) -> Callable[..., Any]:
    graph: Callable[..., list[Tensor]] | None = None
    results: pytree.TreeSpec

    def call(*arguments: Any) -> Any:
        nonlocal graph, results
        tensors = leaves(arguments)
        if graph is None:
            graph, results = _trace(function, arguments)
        return pytree.tree_unflatten(graph(*tensors), results)

    return call


def _trace(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Callable[..., list[Tensor]], pytree.TreeSpec]:
    """What ``function`` does to the tensors of its arguments, compiled, and how its results are nested."""
    tensors, nested = pytree.tree_flatten(arguments)
    results: list[pytree.TreeSpec] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        values, how = pytree.tree_flatten(function(*pytree.tree_unflatten(tensors, nested)))
        results.append(how)
        return values

    graph = make_fx(flat, tracing_mode="fake")(*tensors)
    options = {"config_patches": SETTINGS}
    return torch._inductor.standalone_compile(graph, tensors, dynamic_shapes="from_example_inputs", options=options), results[0]


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch keeps what it compiled beside the function's code and counts eight variants of it: without code of its own, the ninth
    learner of a process would quietly run uncompiled."""
    # TF32 is asked for with agent.precision, see runs/prepare.py
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores .* available but not enabled", UserWarning)
    code = function.__code__.replace()
    own = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    return torch.compile(own, dynamic=False, fullgraph=True)


def _taught() -> str:
    """What the compiler learns here, as a word: compiled code on the disk was made by it, and torch does not ask for it by itself."""
    here = Path(__file__).parent
    sources = (
        here / name for name in ("compiler.py", "operators.py", "stacks.py", "taps.py", "products.py", "products.h", "stacks.h")
    )
    return f"{multiplies_tiles()} {hashlib.sha256(b''.join(source.read_bytes() for source in sources)).hexdigest()}"


@cache
def teach_compiler() -> None:
    """What the operators of agents/operators.py are to it, so that none is called in Python: ``once`` is its argument kept in memory
    instead of fused, ``take_rows`` a call of torch's own operator.

    The compiler takes seconds to import, and then a second to ask processes of their own which vector instructions work here. They
    are asked while the rest of it is imported; should that fail, it asks again.
    """
    import torch._inductor.codecache  # what a thread imports beside an import could be seen half done
    import torch._inductor.cpp_builder
    import torch.utils.cpp_extension  # imports setuptools, which takes its hook off sys.meta_path: an import beside it would fail
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    with ThreadPoolExecutor(1) as beside:
        if not torch.cuda.is_available() or torch.cpu._is_amx_tile_supported():  # what runs on a GPU needs no other answer
            beside.submit(valid_vec_isa_list)
        from torch._inductor.lowering import clone, fallback_handler, register_lowering

    if multiplies_tiles():
        from agents.products import teach_products

        teach_products()
    if hasattr(torch.compiler.config, "cache_key_tag"):
        torch.compiler.config.cache_key_tag += _taught()

    take = fallback_handler(torch.ops.aten.index_select.default, add_to_fallback_set=False)
    # "aten.index_select.default is missing a c-shim implementation": it is called by name, which costs a microsecond
    logging.getLogger("torch._inductor.ir").addFilter(
        lambda record: "index_select.default is missing" not in record.getMessage()
    )

    @register_lowering(torch.ops.playmeter.take_rows, type_promotion_kind=None)
    def _(table: Any, index: Any) -> Any:
        return take(table, 0, index)

    @register_lowering(torch.ops.playmeter.once, type_promotion_kind=None)
    def _(few: Any) -> Any:
        kept = clone(few)  # of a view on another order in memory, too
        kept.realize()
        return kept
