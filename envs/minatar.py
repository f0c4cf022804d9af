"""MinAtar's games, without the plotting libraries that ``import minatar`` loads (3 s).

The game modules of the package need numpy only, so they are loaded by their path; the few lines around them (sticky actions,
one random state for the game and for the stickiness) are those of ``minatar.Environment``, and a test holds the two equal.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.control import SerialWorld
from envs.protocols import Protocol
from envs.registry import EnvSpec
from envs.world import Array

MODULES = {
    "MinAtar/Asterix-v1": "asterix",
    "MinAtar/Breakout-v1": "breakout",
    "MinAtar/Freeway-v1": "freeway",
    "MinAtar/Seaquest-v1": "seaquest",
    "MinAtar/SpaceInvaders-v1": "space_invaders",
}


def minatar_world(env_specs: Sequence[EnvSpec], protocol: Protocol, seeds: Sequence[int], evaluation: bool) -> SerialWorld:
    """One game a lane; observations uint8 [C, 10, 10] of 0 and 1."""
    lanes = [MinAtarGame(MODULES[env_spec.id], protocol.sticky_action_probability) for env_spec in env_specs]
    return SerialWorld(env_specs, protocol, seeds, evaluation, lanes)


class MinAtarGame(gymnasium.Env[Array, int]):
    """One MinAtar game with its minimal action set, channels first. Freeway ends by itself after 2,500 steps, as a termination."""

    def __init__(self, name: str, sticky_action_probability: float) -> None:
        self._module = _game_module(name)
        self._game = self._module.Env(ramping=True)
        self._sticky = sticky_action_probability
        self._actions: list[int] = self._game.minimal_action_set()
        self._last_action = 0
        height, width, channels = self._game.state_shape()
        self.observation_space = Box(0, 1, (channels, height, width), np.uint8)
        self.action_space = cast(gymnasium.Space[int], Discrete(len(self._actions)))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        if seed is not None:
            # A new game: of the old one the ramp and the action that may stick would live on.
            self._game, self._last_action = self._module.Env(ramping=True), 0
            self._game.random = np.random.RandomState(seed % 2**32)
        self._game.reset()
        return self._observe(), {}

    def step(self, action: int) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        # A repeated action outlives the end of an episode, as in minatar.Environment.
        if not self._game.random.rand() < self._sticky:
            self._last_action = self._actions[action]
        reward, terminal = self._game.act(self._last_action)
        return self._observe(), float(reward), bool(terminal), False, {}

    def _observe(self) -> Array:
        state: Array = self._game.state()  # bool [10, 10, C]
        return state.transpose(2, 0, 1)


def _game_module(name: str) -> ModuleType:
    """``minatar.environments.<name>``, without running ``minatar/__init__.py``."""
    qualified = f"minatar.environments.{name}"
    if qualified in sys.modules:
        return sys.modules[qualified]
    package = importlib.util.find_spec("minatar")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("MinAtar games need the package 'minatar'")
    path = Path(package.origin).parent / "environments" / f"{name}.py"
    file_spec = importlib.util.spec_from_file_location(f"envs._minatar_{name}", path)
    if file_spec is None or file_spec.loader is None:
        raise ModuleNotFoundError(f"minatar has no game {name!r}")
    module = importlib.util.module_from_spec(file_spec)
    file_spec.loader.exec_module(module)
    return module
