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
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from ale_py.vector_env import AtariVectorEnv

from envs.games import boot_frames_are_exact, games
from envs.protocols import Protocol
from envs.registry import EnvSpec
from envs.world import Array, Bools, Ints, StepResult, World, stretches

NO_LIMIT = 2**30  # frames; the C++ counts in int32


class AtariWorld(World):
    """Gray 84x84 screens, 4 stacked, frame skip 4 with the maximum of the last two screens, minimal action set.

    A vector environment plays one game, so several games are as many of them. What a step costs beside the emulators' time is
    Python's, hence all bookkeeping is done for all lanes at once.
    """

    stack_padding = "zeros"

    def __init__(
        self, env_specs: Sequence[EnvSpec], protocol: Protocol, seeds: Sequence[int], evaluation: bool, num_threads: int
    ) -> None:
        self._pools = [
            (vector_env(env_spec, protocol, lanes.stop - lanes.start, num_threads), lanes)
            for env_spec, lanes in stretches(env_specs)
        ]
        space = self._pools[0][0].single_observation_space
        super().__init__(env_specs, protocol, seeds, evaluation, space)
        limit = protocol.max_eval_episode_frames if evaluation else protocol.max_episode_frames
        self._limit_frames = NO_LIMIT if limit is None else limit
        played = [games()[env_spec.id] for env_spec in env_specs]
        self._load_frames: Ints = np.array([game.load_frames for game in played])
        self._reset_frames: Ints = np.array([game.reset_frames for game in played])
        self._counted_frames: Ints = np.array([game.counted_frames for game in played])
        # Double Dunk with sticky actions: the unseeded load of the ROM when the lane is made is known to some 10 frames only.
        varies = protocol.sticky_action_probability > 0 and any(game.boot_varies_with_sticky_actions for game in played)
        self.boot_frames_exact = boot_frames_are_exact() and not varies
        self._counter: Ints = np.zeros(self.num_envs, np.int64)  # the emulator's own frame counter
        self._since_start: Ints = np.zeros(self.num_envs, np.int64)  # frames after the no-op start
        self._lives: Array = np.zeros(self.num_envs, np.int32)
        self._obs: Array = np.zeros((self.num_envs, *cast(tuple[int, ...], space.shape)), space.dtype)

    def _seed(self, mask: Bools, seeds: Sequence[int]) -> Array:
        # The ROM was loaded when the lane was made, and is loaded again by every seeded reset, with its counter back at 0.
        self.boot_frames[mask] += self._load_frames[mask] * (1 if self._started else 2)
        self._counter[mask] = self._counted_frames[mask]
        return self._enter(mask, seeds)

    def _restart(self, mask: Bools) -> Array:
        return self._enter(mask, None)

    def _begin(self, actions: Array) -> None:
        for vec, lanes in self._pools:
            if not self._resting[lanes.start]:
                vec.send(actions[lanes])

    def _finish(self) -> StepResult:
        reward, terminated = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.bool_)
        counter, lives = self._counter.copy(), self._lives.copy()
        obs = np.empty_like(self._obs)
        for vec, lanes in self._pools:
            if not self._resting[lanes.start]:
                obs[lanes], reward[lanes], terminated[lanes], _, emulator = vec.recv()
                counter[lanes], lives[lanes] = emulator["frame_number"], emulator["lives"]
        frames = counter - self._counter
        self._since_start += frames
        truncated = (self._since_start >= self._limit_frames) & ~terminated
        # Lives that fall while the game goes on. Lives that rise, or are always 0, never count.
        life_loss = (lives < self._lives) & ~(terminated | truncated)
        self._counter, self._lives, self._obs = counter, lives, obs
        return obs, reward, terminated, truncated, {"frames": frames, "life_loss": life_loss}

    def _enter(self, mask: Bools, seeds: Sequence[int] | None) -> Array:
        """Reset the lanes of ``mask``, and book what that emulated by itself, and the no-ops it played."""

        def reset(pool: tuple[AtariVectorEnv, slice]) -> tuple[Array, dict[str, Array]]:
            vec, lanes = pool
            due = np.flatnonzero(mask[lanes]) + lanes.start
            seeds_due = None if seeds is None else np.array([seeds[lane] % 2**31 for lane in due.tolist()])
            return cast(tuple[Array, dict[str, Array]], vec.reset(seed=seeds_due, options={"reset_mask": mask[lanes]}))

        pools = [(vec, lanes) for vec, lanes in self._pools if mask[lanes].any()]
        with ThreadPoolExecutor(len(pools)) as threads:  # none waits until another's game is loaded, a tenth of a second each
            answers = list(threads.map(reset, pools) if len(pools) > 1 else map(reset, pools))
        obs = self._obs.copy()  # what was returned is the caller's
        counter, episode, lives = self._counter.copy(), np.zeros(self.num_envs, np.int64), self._lives.copy()
        for (_, lanes), (screens, emulator) in zip(pools, answers, strict=True):
            obs[lanes], lives[lanes] = screens, emulator["lives"]
            counter[lanes], episode[lanes] = emulator["frame_number"], emulator["episode_frame_number"]
        advance = np.where(mask, counter - self._counter, 0)
        if self.protocol.noop_max == 0:  # then all of it was the menu, however long
            resets, noops = mask.astype(np.int64), np.zeros_like(self.frames)
            self.boot_frames += advance - resets * self._counted_frames
        else:
            # A game that ends during its no-ops is reset once more; only then do the episode's frames differ from the advance.
            resets = np.where(mask, 1 + (episode != advance), 0)
            noops = advance - resets * self._counted_frames
        self._counter += advance
        self.boot_frames += resets * self._reset_frames
        self.frames += noops
        self._episode_frames[mask] = noops[mask]
        self._since_start[mask] = 0
        self._lives, self._obs = lives, obs
        return obs

    def close_extras(self, **kwargs: Any) -> None:
        self._pools.clear()  # joins their threads


def vector_env(env_spec: EnvSpec, protocol: Protocol, lanes: int, num_threads: int, **screens: Any) -> AtariVectorEnv:
    """The game as the protocol has it; ``screens``: how ale-py gives what is to be seen of it."""
    return AtariVectorEnv(
        games()[env_spec.id].rom,
        lanes,
        num_threads=num_threads,
        max_num_frames_per_episode=NO_LIMIT,
        repeat_action_probability=protocol.sticky_action_probability,
        noop_max=protocol.noop_max + 1,  # it draws from 0 to noop_max - 1
        use_fire_reset=False,
        reward_clipping=False,
        frameskip=env_spec.frames_per_step,
        **screens,
    )
