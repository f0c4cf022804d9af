"""Control tasks: gymnasium's own dynamics, one generator a lane. One step is one physics step, and one frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.seeding import np_random

from envs.protocols import Protocol
from envs.registry import EnvSpec
from envs.world import Array, Bools, StepResult, World, ones_readonly


def control_world(env_specs: Sequence[EnvSpec], protocol: Protocol, seeds: Sequence[int], evaluation: bool) -> World:
    """CartPole vectorised over its lanes, the others lane by lane."""
    if {env_spec.id for env_spec in env_specs} == {"CartPole-v1"}:
        return CartPoleWorld(env_specs, protocol, seeds, evaluation)
    lanes = [gymnasium.make(env_spec.id, disable_env_checker=True) for env_spec in env_specs]
    return SerialWorld(env_specs, protocol, seeds, evaluation, lanes)


class CartPoleWorld(World):
    """gymnasium's CartPoleVectorEnv with resets of ours, so that lane k is ``gymnasium.make("CartPole-v1")`` with its seed."""

    def __init__(self, env_specs: Sequence[EnvSpec], protocol: Protocol, seeds: Sequence[int], evaluation: bool) -> None:
        self._sim = CartPoleVectorEnv(len(seeds), max_episode_steps=cast(int, env_specs[0].max_episode_steps))
        super().__init__(env_specs, protocol, seeds, evaluation, self._sim.single_observation_space)
        self._sim.action_space = _AnyAction()  # its check of each action costs as much as the physics
        self._sim.reset(seed=0)  # for its buffers; every state is drawn again
        self._generators = [np_random(seed)[0] for seed in seeds]
        self._one_frame = ones_readonly(self.num_envs)

    def _seed(self, mask: Bools, seeds: Sequence[int]) -> Array:
        for lane in np.flatnonzero(mask).tolist():
            self._generators[lane] = np_random(seeds[lane])[0]
        return self._restart(mask)

    def _begin(self, actions: Array) -> None:
        self._actions = actions

    def _finish(self) -> StepResult:
        obs, reward, terminated, truncated, info = self._sim.step(self._actions)
        self._sim.prev_done[:] = False  # or its next step would reset these lanes by itself
        truncated &= ~terminated
        info["frames"] = self._one_frame
        return np.ascontiguousarray(obs), reward, terminated, truncated, info

    def _restart(self, mask: Bools) -> Array:
        state = cast(Array, self._sim.state)  # [4, L] float64
        for lane in np.flatnonzero(mask):
            state[:, lane] = self._generators[lane].uniform(low=self._sim.low, high=self._sim.high, size=4)
            self._sim.steps[lane] = 0
        return np.ascontiguousarray(state.T, np.float32)


class _AnyAction(Discrete):
    """A space that accepts everything, unchecked."""

    def __init__(self) -> None:
        super().__init__(2)

    def contains(self, x: Any) -> bool:
        return True


class SerialWorld(World):
    """Single gymnasium environments, one a lane, stepped one after another. Their time limits are their own."""

    def __init__(
        self,
        env_specs: Sequence[EnvSpec],
        protocol: Protocol,
        seeds: Sequence[int],
        evaluation: bool,
        lanes: Sequence[gymnasium.Env[Any, Any]],
    ) -> None:
        spaces = [cast(Box, lane.observation_space) for lane in lanes]
        for env_spec, other in zip(env_specs, spaces, strict=True):
            if other != spaces[0]:
                raise ValueError(
                    f"{env_spec.id} and {env_specs[0].id} cannot be played side by side: their observations differ"
                )
        super().__init__(env_specs, protocol, seeds, evaluation, spaces[0])
        self._lanes = list(lanes)
        self._one_frame = ones_readonly(self.num_envs)
        space = self.single_observation_space
        self._obs: Array = np.zeros((self.num_envs, *cast(tuple[int, ...], space.shape)), space.dtype)

    def _seed(self, mask: Bools, seeds: Sequence[int]) -> Array:
        for k in np.flatnonzero(mask).tolist():
            self._obs[k], _ = self._lanes[k].reset(seed=seeds[k])
        return self._obs.copy()

    def _begin(self, actions: Array) -> None:
        self._actions = actions

    def _finish(self) -> StepResult:
        reward = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        for k, (lane, action) in enumerate(zip(self._lanes, self._actions.tolist(), strict=True)):
            if not self._resting[k]:
                self._obs[k], reward[k], terminated[k], truncated[k], _ = lane.step(action)
        truncated &= ~terminated
        frames = (~self._resting).astype(np.int64) if self._resting.any() else self._one_frame
        return self._obs.copy(), reward, terminated, truncated, {"frames": frames}

    def _restart(self, mask: Bools) -> Array:
        for k in np.flatnonzero(mask):
            self._obs[k], _ = self._lanes[k].reset()
        return self._obs.copy()

    def close_extras(self, **kwargs: Any) -> None:
        for lane in self._lanes:
            lane.close()
