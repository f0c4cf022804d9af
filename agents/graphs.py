"""CUDA graphs: all kernels of a call as one launch, without Python between them.

A small network's kernels take a few microseconds each, and Python longer than that to launch each of them: a GPU would wait most of the
time. A graph reads its inputs where they lay when it was recorded and leaves its results where they lay then. Nothing in our
calls is random or looks at a value, so that a replay is the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Record = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]
"""Takes a call and gives what replays it, and its results, which every replay writes anew. Recording computes nothing."""
Values = TypeVar("Values", bound=tuple[Any, ...])


def cuda_graph(call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """A :data:`Record`. Everything that is only done once (compiling, libraries' handles) must have been done before.

    Raises RuntimeError for a call that cannot be recorded, as one that waits for the GPU.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph.replay, results


def replayed(function: Callable[..., Any], arguments: tuple[Any, ...], record: Record) -> Callable[..., Any]:
    """``function`` as a graph over these arguments. It is called with the same ones, their tensors' values changed (:func:`put`)."""
    replay, results = record(lambda: function(*arguments))

    def call(*_: Any) -> Any:
        replay()
        return results

    return call


def put(values: Values, where: Values) -> Values:
    """Copy values to where a graph reads them; those that lie there already are left alone."""
    for value, there in zip(values, where, strict=True):
        if value is not there:
            there.copy_(value)
    return where
