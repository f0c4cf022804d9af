"""Worlds that report exactly how many frames were played, and at what real-time rate.

Importing this package imports no emulator; ``make`` loads what the one environment needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envs.protocols import PROTOCOLS, Protocol
from envs.registry import EnvSpec, UnknownEnv, all_specs, describe, spec
from envs.suites import SUITES

if TYPE_CHECKING:
    from envs.factory import lane_seeds, make
    from envs.world import World

__all__ = [
    "PROTOCOLS",
    "SUITES",
    "EnvSpec",
    "Protocol",
    "UnknownEnv",
    "World",
    "all_specs",
    "describe",
    "lane_seeds",
    "make",
    "spec",
]


def __getattr__(name: str) -> Any:
    """Load what needs gymnasium at its first use."""
    if name in ("make", "lane_seeds"):
        from envs import factory

        return getattr(factory, name)
    if name == "World":
        from envs.world import World

        return World
    raise AttributeError(f"module 'envs' has no attribute {name!r}")
