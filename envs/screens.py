"""What a person would see of a game. The agent plays one lane of a World; a second game with the same seed and actions shows its screens.

Worlds keep what agents see, 84 x 84 gray or a few numbers, and drawing would cost training its speed. A game follows from seed
and actions alone, so the second is the same one; rewards and ends that differ raise a RuntimeError.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np

from envs import protocols
from envs.registry import EnvSpec
from envs.world import Array

# Colours of MinAtar's channels, which have none of their own: told apart in print and by the colour-blind (Okabe and Ito 2008).
MINATAR_COLOURS = np.array(
    [(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
     (255, 255, 255), (150, 150, 150), (120, 80, 40)],
    np.uint8,
)  # fmt: skip


class Screens(Protocol):
    """One game as a person sees it, from its start on."""

    def screen(self) -> Array:
        """uint8 [height, width, 3], the caller's: no later step draws into it."""
        ...

    def step(self, action: int) -> tuple[float, bool]:
        """Reward, and whether the game is over."""
        ...

    def close(self) -> None: ...


def screens(env_spec: EnvSpec, protocol: protocols.Protocol, seed: int) -> Screens:
    """The screens of the first game of a World's lane with that seed."""
    if env_spec.kind == "atari":
        return AtariScreens(env_spec, protocol, seed)
    if env_spec.kind == "minatar":
        from envs.minatar import MODULES, MinAtarGame

        return Drawn(MinAtarGame(MODULES[env_spec.id], protocol.sticky_action_probability), seed)
    import gymnasium

    return Drawn(gymnasium.make(env_spec.id, render_mode="rgb_array", disable_env_checker=True), seed)


class AtariScreens:
    """The emulator's colours, as in training the maximum of the last two frames of a step."""

    def __init__(self, env_spec: EnvSpec, protocol: protocols.Protocol, seed: int) -> None:
        from envs.atari import vector_env

        self._vec = vector_env(env_spec, protocol, 1, 1, grayscale=False, img_height=210, img_width=160, stack_num=1)
        self._obs, _ = self._vec.reset(seed=np.array([seed % 2**31]))

    def screen(self) -> Array:
        return cast(Array, self._obs[0, 0])

    def step(self, action: int) -> tuple[float, bool]:
        self._obs, reward, terminated, truncated, _ = self._vec.step(np.array([action]))
        return float(reward[0]), bool(terminated[0] or truncated[0])

    def close(self) -> None:
        del self._vec  # joins its thread


class Drawn:
    """A gymnasium environment that draws itself, or a MinAtar game, whose ten by ten fields are enlarged."""

    def __init__(self, env: Any, seed: int) -> None:
        self._env = env
        self._obs, _ = env.reset(seed=seed)

    def screen(self) -> Array:
        if self._obs.ndim == 1:
            return cast(Array, self._env.render())
        channels = np.arange(1, len(self._obs) + 1)[:, None, None]
        fields = (self._obs.astype(np.int64) * channels).max(0)  # where several things are, the last channel is on top
        return cast(Array, MINATAR_COLOURS[fields].repeat(20, 0).repeat(20, 1))

    def step(self, action: int) -> tuple[float, bool]:
        self._obs, reward, terminated, truncated, _ = self._env.step(action)
        return float(reward), bool(terminated or truncated)

    def close(self) -> None:
        self._env.close()
