from __future__ import annotations

import pytest


@pytest.fixture
def readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled calls with the same kernels, but called from Python, where the code says what it calls and makes room for."""
    monkeypatch.setattr("agents.compiler.SETTINGS", {})
