"""C++ of ours called by itself, on memory beside which one number more would be a crash."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PAGE = mmap.PAGESIZE


def library(folder: Path, source: str, *options: str) -> Any:
    """C++ as a shared library, by the compiler's options."""
    (folder / "call.cpp").write_text(source)
    compiler = shutil.which("g++")
    assert compiler is not None
    flags = ["-O1", "-march=native", "-fopenmp", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, *options, "call.cpp", "-o", "call.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "call.so"))


def pointer(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def guarded(x: Tensor, at_its_end: bool = True) -> Tensor:
    """A contiguous copy of it between two pages that nobody may touch, right before the second or right after the first."""
    size = x.nbytes
    pages = -(-size // PAGE) + 2
    memory = mmap.mmap(-1, pages * PAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (0, pages - 1):
        assert libc.mprotect(ctypes.c_void_p(whole.data_ptr() + page * PAGE), ctypes.c_size_t(PAGE), 0) == 0
    begin = (pages - 1) * PAGE - size if at_its_end else PAGE
    return whole[begin : begin + size].view(x.dtype).view(x.shape).copy_(x)
