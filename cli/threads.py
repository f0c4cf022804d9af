"""How the threads of a process of ours wait for one another."""

from __future__ import annotations

import os

SPINS = "1000"
"""Turns of libgomp's waiting loop before a thread goes to sleep: some 20 us. It makes 300,000 where nobody says anything, milliseconds
in which a thread keeps the core that the one it waits for may need, and 1,000 where it knows of more threads than cores: beside other
processes that is so without its knowing."""


def wait_briefly() -> None:
    """To be called before torch is imported, which loads libgomp. What the user has set stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
