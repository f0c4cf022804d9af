"""The learner's calls, each compiled as a whole."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from agents import disk_cache
from agents.operators import own_float_products, own_products

SETTINGS = {"cpp_wrapper": True}
"""Of the compiler on a CPU. What leads from kernel to kernel is C++ too: as Python it took a tenth of a step, since after the kernels
the caches hold nothing of it."""


def compiled(function: Callable[..., Any], device: torch.device, made_from: object = None) -> Callable[..., Any]:
    """``function`` of tensors, and tuples of tensors, for arguments of the shapes that it is called with first.

    ``made_from``, where it is given, is all that the function depends on beside its arguments and the code of this folder, told by its
    repr: what the program compiled for it once it then finds on the disk, without torch's compiler (agents/disk_cache.py). Only on a CPU.

    torch.compile asks before every call whether what it compiled still fits, of code, settings and tensors: in `dqn` on CartPole a
    quarter of a step. A learner's calls never change, so on a CPU they are traced once and called without asking. On a GPU nobody
    asks either, since CUDA graphs replay them (agents/graphs.py).
    """
    if device.type == "cpu":
        return _traced(function, made_from)
    teach_compiler()
    return _guarded(function)


def leaves(arguments: Any) -> list[Tensor]:
    """All tensors of nested tuples, in order. As torch's pytree, in a fifth of its 18 us."""
    return [arguments] if isinstance(arguments, Tensor) else [tensor for part in arguments for tensor in leaves(part)]


class Call(NamedTuple):
    """A compiled function."""

    run: Callable[..., Sequence[Tensor]]  # from all tensors of its arguments to all of its results
    nested: pytree.TreeSpec  # how the results are nested


class Library(NamedTuple):
    """A compiled function on the disk."""

    path: str
    size: int  # of the file: the loader would stumble over a part of it
    takes: int  # tensors
    results: Any  # nested as they are, each result its number


def _traced(function: Callable[..., Any], made_from: object) -> Callable[..., Any]:
    known: Call | None = None

    def call(*arguments: Any) -> Any:
        nonlocal known
        tensors = leaves(arguments)
        if known is None:
            known = _trace(function, arguments) if made_from is None else _found(function, arguments, tensors, made_from)
        return pytree.tree_unflatten(known.run(*tensors), known.nested)

    return call


def _found(function: Callable[..., Any], arguments: tuple[Any, ...], tensors: list[Tensor], made_from: object) -> Call:
    """From the disk, or compiled now and kept there. The library is called in both cases, not torch's Python around it, unless it is
    that of a call compiled before in this process."""
    shapes = [(tensor.dtype, tensor.shape, tensor.stride()) for tensor in tensors]
    key = disk_cache.key(made_from, _multiplying(), shapes, pytree.tree_flatten(arguments)[1])
    kept = disk_cache.get(key)
    if isinstance(kept, Library):
        with suppress(Exception):  # damaged, or deleted
            return _load(kept)
    before = set(sys.modules)
    call = _trace(function, arguments)
    library = _library(sys.modules.keys() - before, len(tensors), call.nested) if key is not None else None
    if library is None:
        return call
    own = disk_cache.put_file(key, library.path)  # torch's may be deleted, or be written anew just when it is looked at
    if own is not None:
        disk_cache.put(key, library._replace(path=own))
    with suppress(Exception):  # another start just deleted it
        return _load(library)
    return call


def _trace(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Call:
    """What ``function`` does to the tensors of its arguments, compiled."""
    teach_products()
    tensors, nested = pytree.tree_flatten(arguments)
    results: list[pytree.TreeSpec] = []

    def flat(*tensors: Tensor) -> list[Tensor]:
        values, how = pytree.tree_flatten(function(*pytree.tree_unflatten(tensors, nested)))
        results.append(how)
        return values

    graph = make_fx(flat, tracing_mode="fake")(*tensors)
    options = {"config_patches": SETTINGS}
    return Call(
        torch._inductor.standalone_compile(graph, tensors, dynamic_shapes="from_example_inputs", options=options), results[0]
    )


ENTRY = "inductor_entry_cpp"
"""What torch calls the function of a library that it compiled from C++ alone."""


def _library(new_modules: Iterable[str], takes: int, nested: pytree.TreeSpec) -> Library | None:
    """The library that was compiled, where it is one and takes and gives all tensors as they were traced: torch may have wrapped it in
    Python that does the rest."""
    paths = [Path(str(sys.modules[name].__file__)) for name in new_modules if name.endswith(f".{ENTRY}")]
    source = paths[0].with_suffix(".cpp") if len(paths) == 1 else None
    if source is None or not source.exists():
        return None
    code, gives = source.read_text(encoding="utf-8"), nested.num_leaves
    if f"(input_handles, {takes});" not in code or f"std::array<AtenTensorHandle, {gives}> output_handles" not in code:
        return None
    return Library(str(paths[0]), paths[0].stat().st_size, takes, pytree.tree_unflatten(range(gives), nested))


def _load(library: Library) -> Call:
    """As torch's own Python calls it at last; what that does before is a fifteenth of a step of `dqn` on CartPole.

    Raises whatever comes of a file that is not there or damaged.
    """
    if os.stat(library.path).st_size != library.size:
        raise ImportError(f"{library.path} is not whole")
    guards: Any = torch._C._dynamo.guards
    os.environ["_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"] = str(guards._torchinductor_pyobject_tensor_data_ptr)
    where: Any = importlib.util.spec_from_file_location(f"{Path(library.path).stem}.{ENTRY}", library.path)
    module = importlib.util.module_from_spec(where)
    where.loader.exec_module(module)
    entry, takes = getattr(module, ENTRY), library.takes
    handles, tensors = (
        torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors,
        torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs,
    )

    def run(*arguments: Tensor) -> Sequence[Tensor]:
        if len(arguments) != takes:  # it would read what lies behind them
            raise IndexError(f"{len(arguments)} tensors for a call of {takes}")
        given: Sequence[Tensor] = tensors(entry(handles(list(arguments))))
        return given

    return Call(run, pytree.tree_flatten(library.results)[1])


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch keeps what it compiled beside the function's code and counts eight variants of it: without code of its own, the ninth
    learner of a process would quietly run uncompiled."""
    # TF32 is asked for with agent.precision, see runs/prepare.py
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores .* available but not enabled", UserWarning)
    code = function.__code__.replace()
    own = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    return torch.compile(own, dynamic=False, fullgraph=True)


SOURCES = (
    "compiler.py", "operators.py", "native.py", "products.py", "float_products.py", "stacks.py", "taps.py", "image_calls.py",
    "vectors.h", "products.h", "float_products.h", "winograd.h", "stacks.h",
)  # fmt: skip


def _taught() -> str:
    """What the compiler learns here, as a word."""
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in SOURCES)).hexdigest()


def _multiplying() -> str:
    """What compiled code multiplies by itself, and with what, as a word."""
    return f"{own_products()} {own_float_products()}"


def _put_into_key(word: str) -> None:
    """Compiled code on the disk was made by it, and torch does not ask for it by itself."""
    if hasattr(torch.compiler.config, "cache_key_tag"):
        torch.compiler.config.cache_key_tag += word


@cache
def teach_products() -> None:
    """What compiled code multiplies by itself on a CPU (agents/products.py, agents/float_products.py, agents/image_calls.py), and the rest."""
    teach_compiler()
    if own_products() is not None:
        from agents import products

        products.teach_products()
    if own_float_products():
        from agents import float_products

        float_products.teach_float_products()
    if own_products() is not None or own_float_products():
        from agents import image_calls

        image_calls.teach_images()
    _put_into_key(_multiplying())


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
        if not torch.cuda.is_available():  # what runs on a GPU needs no answer
            beside.submit(valid_vec_isa_list)
        from torch._inductor.ir import get_stride_order
        from torch._inductor.lowering import clone, fallback_handler, register_lowering
        from torch._inductor.virtualized import V

    _put_into_key(_taught())

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
        # in the order that it has, where the compiler would prefer that of what it is computed from
        kept.freeze_layout_with_stride_order(get_stride_order(V.graph.current_node.meta["val"].stride()))
        return kept
