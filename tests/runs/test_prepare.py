"""What a trainer prepares of its process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGES_PER_UPDATE = """
import resource
import torch
from runs.prepare import keep_freed_memory

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def update():
    torch.ones(10 << 20)  # 40 MiB: more than glibc ever keeps by itself, wherever it lies

torch.set_num_threads(1)
for prepare in (lambda: None, keep_freed_memory):
    prepare()
    for _ in range(3):
        update()
    before = pages()
    for _ in range(10):
        update()
    print((pages() - before) / 10)
"""


NAME, VERSION = platform.libc_ver()


@pytest.mark.skipif(NAME != "glibc" or tuple(map(int, VERSION.split("."))) < (2, 35), reason="keeps memory by other rules")
def test_an_update_is_given_the_memory_that_the_one_before_it_freed() -> None:
    done = subprocess.run([sys.executable, "-c", PAGES_PER_UPDATE], capture_output=True, text=True, check=True)
    without, kept = map(float, done.stdout.split())
    assert without > 10, "what this is about: 10,240 pages of 4 KiB, or 20 huge ones"
    assert kept < without / 10
