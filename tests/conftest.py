"""What a test may find in its process."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _denormal_numbers() -> None:
    """They are computed with in every test, whatever trained before: a training takes them for zero for the rest of its process."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
