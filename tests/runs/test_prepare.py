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
    return [torch.ones(1 << 20) for _ in range(8)]  # 32 MiB, all alive at once

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory by rules of its own")
def test_an_update_is_given_the_memory_that_the_one_before_it_freed() -> None:
    done = subprocess.run([sys.executable, "-c", PAGES_PER_UPDATE], capture_output=True, text=True, check=True)
    without, kept = map(float, done.stdout.split())
    assert without > 1000, "what this is about: 8,192 pages of 4 KiB"
    assert kept < 10
