"""Several games side by side as one World: what many agents that learn together on one device play."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from gymnasium.spaces import Discrete

from envs.world import Array, Bools, StepResult, World


class SeveralGames(World):
    """The lanes of several Worlds of one kind, protocol and shape of observation, end to end.

    The parts do what their kind of world defines; ledger, log of actions and seeds are this World's, so that a lane plays as it would
    alone. ``env_spec`` is that of the game with the most actions.
    """

    def __init__(self, parts: Sequence[World]) -> None:
        first = parts[0]
        for part in parts:
            same = part.protocol == first.protocol and part.evaluation == first.evaluation
            if not same or part.single_observation_space != first.single_observation_space:
                raise ValueError(f"{part.env_spec.id} and {first.env_spec.id} cannot be played side by side")
        most = max(parts, key=lambda part: part.env_spec.num_actions)
        seeds = [seed for part in parts for seed in part.lane_seeds]
        super().__init__(
            most.env_spec,
            first.protocol,
            seeds,
            first.evaluation,
            first.single_observation_space,
            Discrete(most.env_spec.num_actions),
        )
        self.stack_padding = first.stack_padding
        self.boot_frames_exact = all(part.boot_frames_exact for part in parts)
        ends = np.cumsum([part.num_envs for part in parts]).tolist()
        self._parts = [(part, slice(end - part.num_envs, end)) for part, end in zip(parts, ends, strict=True)]
        self.num_actions = np.concatenate([part.num_actions for part in parts])
        for part, lanes in self._parts:  # they book into views of one ledger
            part.frames, part.boot_frames = self.frames[lanes], self.boot_frames[lanes]
            part._episode_frames = self._episode_frames[lanes]
        self._resting: Bools = np.zeros(self.num_envs, np.bool_)
        self._obs = np.zeros((self.num_envs, *self._shape), self.single_observation_space.dtype)

    @property
    def name(self) -> str:
        return ", ".join(part.name for part, _ in self._parts)

    @property
    def _shape(self) -> tuple[int, ...]:
        assert self.single_observation_space.shape is not None
        return self.single_observation_space.shape

    def _seed(self, mask: Bools, seeds: Sequence[int]) -> Array:
        obs = self._where(mask, lambda part, lanes: part._seed(mask[lanes], seeds[lanes]))
        for part, _ in self._parts:
            part._started = True
        return obs

    def _restart(self, mask: Bools) -> Array:
        return self._where(mask, lambda part, lanes: part._restart(mask[lanes]))

    def _where(self, mask: Bools, reset: Callable[[World, slice], Array]) -> Array:
        """Observations [L, ...] after a reset of the lanes of ``mask``, the others' last."""
        self._obs = self._obs.copy()  # what was returned is the caller's
        for part, lanes in self._parts:
            if mask[lanes].any():
                self._obs[lanes] = reset(part, lanes)
        return self._obs

    def rest(self, lanes: Bools) -> Bools:
        """Games that are not needed in any of their lanes."""
        for _, of_part in self._parts:
            self._resting[of_part] = lanes[of_part].all()
        return self._resting

    def _playing(self) -> Iterator[tuple[World, slice]]:
        return ((part, lanes) for part, lanes in self._parts if not self._resting[lanes].all())

    def _begin(self, actions: Array) -> None:
        for part, lanes in self._playing():
            part._begin(actions[lanes])

    def _finish(self) -> StepResult:
        """Lanes that rest stay where they are, and no frame is played there."""
        obs, reward = self._obs.copy(), np.zeros(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.bool_)
        info: dict[str, Array] = {}
        for part, lanes in self._playing():
            obs[lanes], reward[lanes], terminated[lanes], truncated[lanes], own = part._finish()
            for name, values in own.items():
                info.setdefault(name, np.zeros(self.num_envs, values.dtype))[lanes] = values
        self._obs = obs
        return obs, reward, terminated, truncated, info

    def close_extras(self, **kwargs: object) -> None:
        for part, _ in self._parts:
            part.close()
