"""Atari: ale-py's C++ vector environment under the World's ledger.

Why the episodes are ended and restarted here, and not by the vector environment (ale-py 0.12.1):

- its SAME_STEP mode reports the frame counter of after the reset, so the frames of the last step would be lost among the
  no-ops; its NEXT_STEP mode answers a game over with a dummy step. An explicit reset of the done lanes has neither fault.
- a reset with a seed reloads the ROM (the time of about 1,000 frames) and puts the emulator's counter back; most resets are not
  seeded and go on with the lane's generator.
- at its own frame limit the last two screens of the skip are not captured, so the observation one bootstraps from would be
  stale. Our limit ends the episode after a whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.spaces import Box, Discrete

from envs.games import boot_frames_are_exact, games
from envs.protocols import Protocol
from envs.registry import EnvSpec
from envs.world import Array, Bools, Ints, StepResult, World

NO_LIMIT = 2**30  # frames; the C++ counts in int32


class AtariWorld(World):
    """Gray 84x84 screens, 4 stacked, frame skip 4 with the maximum of the last two screens, minimal action set."""

    stack_padding = "zeros"

    def __init__(self, env_spec: EnvSpec, protocol: Protocol, seeds: Sequence[int], evaluation: bool, num_threads: int) -> None:
        self._game = games()[env_spec.id]
        self._vec = AtariVectorEnv(
            self._game.rom,
            len(seeds),
            num_threads=num_threads,
            max_num_frames_per_episode=NO_LIMIT,
            repeat_action_probability=protocol.sticky_action_probability,
            noop_max=protocol.noop_max + 1,  # it draws from 0 to noop_max - 1
            use_fire_reset=False,
            reward_clipping=False,
            frameskip=env_spec.frames_per_step,
        )
        space, actions = cast(Box, self._vec.single_observation_space), cast(Discrete, self._vec.single_action_space)
        super().__init__(env_spec, protocol, seeds, evaluation, space, actions)
        limit = protocol.max_eval_episode_frames if evaluation else protocol.max_episode_frames
        self._limit_frames = NO_LIMIT if limit is None else limit
        # Double Dunk with sticky actions: the unseeded load of the ROM when the lane is made is known to some 10 frames only.
        varies = self._game.boot_varies_with_sticky_actions and protocol.sticky_action_probability > 0
        self.boot_frames_exact = boot_frames_are_exact() and not varies
        self._counter: Ints = np.zeros(self.num_envs, np.int64)  # the emulator's own frame counter
        self._since_start: Ints = np.zeros(self.num_envs, np.int64)  # frames after the no-op start
        self._lives: Array = np.zeros(self.num_envs, np.int32)

    def _seed(self, mask: Bools, seeds: Sequence[int]) -> Array:
        # The ROM was loaded when the lane was made, and is loaded again by every seeded reset, with its counter back at 0.
        self.boot_frames[mask] += self._game.load_frames * (1 if self._started else 2)
        self._counter[mask] = self._game.counted_frames
        seeds_due = np.array([seeds[lane] % 2**31 for lane in np.flatnonzero(mask).tolist()])
        obs, info = self._vec.reset(seed=seeds_due, options={"reset_mask": mask})
        self._enter(mask, info)
        return cast(Array, obs)

    def _begin(self, actions: Array) -> None:
        self._vec.send(actions)

    def _finish(self) -> StepResult:
        obs, reward, terminated, _, emulator = self._vec.recv()
        frames = emulator["frame_number"] - self._counter
        self._counter += frames
        self._since_start += frames
        truncated = (self._since_start >= self._limit_frames) & ~terminated
        lives = emulator["lives"]
        # Lives that fall while the game goes on. Lives that rise, or are always 0, never count.
        life_loss = (lives < self._lives) & ~(terminated | truncated)
        self._lives = lives
        return obs, reward.astype(np.float32), terminated, truncated, {"frames": frames, "life_loss": life_loss}

    def _restart(self, mask: Bools) -> Array:
        obs, info = self._vec.reset(options={"reset_mask": mask})
        self._enter(mask, info)
        return cast(Array, obs)

    def _enter(self, mask: Bools, info: dict[str, Array]) -> None:
        """Book a reset of the lanes in ``mask``: what it emulated by itself, and the no-ops it played."""
        advance = np.where(mask, info["frame_number"] - self._counter, 0)
        if self.protocol.noop_max == 0:  # then all of it was the menu, however long
            resets, noops = mask.astype(np.int64), np.zeros_like(self.frames)
            self.boot_frames += advance - resets * self._game.counted_frames
        else:
            # A game that ends during its no-ops is reset once more; only then do the episode's frames differ from the advance.
            resets = np.where(mask, 1 + (info["episode_frame_number"] != advance), 0)
            noops = advance - resets * self._game.counted_frames
        self._counter += advance
        self.boot_frames += resets * self._game.reset_frames
        self.frames += noops
        self._episode_frames[mask] = noops[mask]
        self._since_start[mask] = 0
        self._lives = info["lives"]

    def close_extras(self, **kwargs: Any) -> None:
        self.__dict__.pop("_vec", None)  # joins its threads
