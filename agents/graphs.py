"""CUDA graphs: all kernels of a call as one launch, without Python between them.

A small network's kernels take a few microseconds each, and Python longer than that to launch each of them: a GPU would wait most of the
time. A graph reads its inputs where they lay when it was recorded and leaves its results where they lay then. Nothing in our
calls is random or looks at a value, so that a replay is the call.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Record = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]
"""Takes a call and gives what replays it, and its results, which every replay writes anew. Recording computes nothing."""
Values = TypeVar("Values", bound=tuple[Any, ...])


def cuda_graph(call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """A :data:`Record` on the current device. What is only done once (compiling, libraries' handles) must have been done before.

    Raises RuntimeError for a call that cannot be recorded, as one that waits for the GPU; its message is the first cause.
    """
    gc.collect()  # an earlier learner's graphs must not be freed while this one is recorded
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
            results = call()
    except RuntimeError as error:
        torch.cuda.set_stream(stream)  # torch stays on its own where ending the recording fails as well
        raise RuntimeError(first_cause(error)) from error
    return graph.replay, results


def first_cause(error: BaseException) -> str:
    """The first line of the error that others came of while it was handled."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]


def replayed(function: Callable[..., Any], arguments: tuple[Any, ...], record: Record) -> Callable[..., Any]:
    """``function`` as a graph over these arguments. It is called with the same ones, their tensors' values changed (:func:`put`)."""
    replay, results = record(lambda: function(*arguments))

    def call(*_: Any) -> Any:
        replay()
        return results

    return call


def put(values: Values, where: Values) -> Values:
    """Copy values to where a graph reads them; those that lie there already, and empty ones, cost nothing."""
    for value, there in zip(values, where, strict=True):
        if value is not there and value.numel():
            there.copy_(value)
    return where
