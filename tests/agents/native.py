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
EXACT_SCRATCH = """
#include <sys/mman.h>
#include <cstring>
struct Scratch {
    char* whole = nullptr;
    size_t mapped = 0;
    ~Scratch() { if (whole) munmap(whole, mapped); }
    template <typename T>
    T* get(int64_t count) {
        if (whole) munmap(whole, mapped);
        const size_t bytes = count * sizeof(T), pages = (bytes + PAGE - 1) / PAGE * PAGE;
        mapped = pages + PAGE;
        whole = static_cast<char*>(mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        mprotect(whole + pages, PAGE, PROT_NONE);
        std::memset(whole, 0xff, pages);
        return reinterpret_cast<T*>(whole + pages - bytes);
    }
};
""".replace("PAGE", str(PAGE))


def with_exact_scratch(source: str) -> str:
    """A thread's memory ends before a page that nobody may touch, holds NaNs at first, and is another at each call.

    In a namespace of its own: what is static in an inline function is one for all libraries of a process.
    """
    before, struct, after = source.partition("struct Scratch {")
    assert struct
    includes, body = EXACT_SCRATCH.split("struct", 1)
    whole = f"{includes}{before}struct{body}{after[after.index('};') + 2 :]}"
    return whole.replace("playmeter::", "exact::").replace("namespace playmeter", "namespace exact")


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
