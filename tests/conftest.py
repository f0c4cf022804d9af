"""What a test may find in its process."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _no_logs_of_stable_baselines3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The library alone, as a peer is trained in tests, leaves a folder for each of its loggers among the temporary files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("sb3")))
        yield


@pytest.fixture(autouse=True)
def _denormal_numbers() -> None:
    """They are computed with in every test, whatever trained before: a training takes them for zero for the rest of its process."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
