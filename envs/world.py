"""The World: a gymnasium VectorEnv that keeps an exact ledger of played frames and never shows a dummy step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.actions import ActionLog
from envs.protocols import Protocol
from envs.registry import EnvSpec

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
StepResult = tuple[Array, Array, Bools, Bools, dict[str, Any]]


RESEED_STEPS = 20_000
"""Steps between two seeds of a lane: 80,000 Atari frames, beside which the 1,000 of loading the game are little."""
RESET = 255  # in the log of actions: every lane was reset by the caller


class World(VectorEnv[Array, Array, Array]):
    """L lanes of one environment, or of several whose observations have one shape, in SAME_STEP autoreset: every step is a real one.

    ``env_specs`` has the environment of each lane, ``env_spec`` is the one with the most actions. A lane plays as it would alone.

    ``reset()`` seeds each lane at its first call; later episodes go on from the lane's own generator. ``step(actions)`` is
    ``send(actions)`` and ``recv()``; between the two the Atari threads work while the caller does something else.

    A lane is seeded again at the first episode start after every ``reseed_steps`` steps, so that the actions since then, which
    are logged, are all it takes to bring it back: ``state_dict()`` and ``load_state_dict()``. When that is follows from the lane's
    own games alone. Evaluations are neither logged nor seeded again.

    ``recv`` returns observations [L, ...], rewards [L] (the game's own, never clipped), ``terminated`` [L] and ``truncated``
    [L] (never both: a death wins), and an info dict:

    ``frames``          int64 [L]: played by this step alone (fewer than 4 on Atari where the game ends inside the skip).
    ``life_loss``       bool [L], Atari only: a life was lost and the game goes on.
    ``_final_obs``      bool [L], only where a lane is done: which ones. For them the returned observation is already the first
                        of the next episode, and row k of
    ``final_obs``       [L, ...] is the last observation of the episode that ended, row k of
    ``episode_frames``  int64 [L] its played frames, no-op start included.

    Arrays that are returned are the caller's: no later step writes into them (``info["frames"]`` may be read-only).

    Counters, all int64 [L] and cumulative over the World's life:

    ``frames``       played frames, no-op starts included (those of the last reset too). Control, MinAtar: one a step.
    ``boot_frames``  frames that resets emulate and nobody plays. ``frames + boot_frames`` is all that was emulated;
                     ``boot_frames_exact`` is False where the boot of this emulator version or game is known only nearly.

    ``stack_padding`` says what stands in a frame stack (Atari [4, 84, 84], newest last) before an episode's first observation:
    "zeros": frames older than the episode's first observation are all zero, also where the episode started with no-ops. So a
    stack is exactly the newest frame of each step, back to the episode's first, then zeros. None: observations are no stacks.
    """

    stack_padding: Literal["zeros", "repeat"] | None = None
    boot_frames_exact = True
    reseed_steps = RESEED_STEPS

    def __init__(
        self,
        env_specs: Sequence[EnvSpec],
        protocol: Protocol,
        seeds: Sequence[int],
        evaluation: bool,
        observation_space: gymnasium.Space[Array],
    ) -> None:
        self.env_specs = tuple(env_specs)
        self.env_spec = max(env_specs, key=lambda env_spec: env_spec.num_actions)
        self.protocol = protocol
        self.evaluation = evaluation
        self.lane_seeds = tuple(seeds)
        self.num_envs = len(seeds)
        self.num_actions: Ints = np.array([env_spec.num_actions for env_spec in env_specs])  # of each lane's game
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = observation_space
        self.single_action_space = Discrete(self.env_spec.num_actions)
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.frames: Ints = np.zeros(self.num_envs, np.int64)
        self.boot_frames: Ints = np.zeros(self.num_envs, np.int64)
        self._episode_frames: Ints = np.zeros(self.num_envs, np.int64)
        self._resting: Bools = np.zeros(self.num_envs, np.bool_)
        self._started = False
        self._sent = False
        self._log = None if evaluation else ActionLog(self.num_envs)

    @property
    def name(self) -> str:
        """What is played, for people."""
        return ", ".join(env_spec.id for env_spec, _ in stretches(self.env_specs))

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode in every lane. A World is seeded when it is made: ``seed`` and ``options`` must be None."""
        if seed is not None or options is not None:
            raise ValueError("a World is seeded by make(), lane by lane: reset() takes no seed and no options")
        if self._sent or self.closed:
            raise RuntimeError("reset() of a closed World" if self.closed else "reset() between send() and recv()")
        self._episode_frames[:] = 0
        everyone = np.ones(self.num_envs, np.bool_)
        if self._started:
            if self._log is not None:
                self._log.append(RESET)
            return self._restart(everyone), {}
        obs = self._seed(everyone, self.lane_seeds)
        self._started = True
        return obs, {}

    def step(self, actions: Array) -> StepResult:
        """``send(actions)``, then ``recv()``. ``actions``: int64 [L]."""
        self.send(actions)
        return self.recv()

    def send(self, actions: Array) -> None:
        """Take one action a lane, int64 [L], and let the emulators work."""
        if self._sent or not self._started or self.closed:
            fault = "to a closed World" if self.closed else "twice without recv()" if self._started else "before reset()"
            raise RuntimeError(f"send() {fault}")
        if np.shape(actions) != (self.num_envs,):  # before any emulator has its own
            raise ValueError(f"{self.num_envs} lanes take an action each, got an array {np.shape(actions)}")
        self._begin(actions)
        if self._log is not None:
            self._log.append(actions)
        self._sent = True

    def recv(self) -> StepResult:
        """Wait for the step that ``send`` began, and start the next episode of each lane that is done."""
        if not self._sent or self.closed:
            raise RuntimeError("recv() of a closed World" if self.closed else "recv() without send()")
        self._sent = False
        obs, reward, terminated, truncated, info = self._finish()
        self.frames += info["frames"]
        self._episode_frames += info["frames"]
        done = terminated | truncated
        if done.any():
            info["final_obs"] = obs
            info["_final_obs"] = done
            info["episode_frames"] = self._episode_frames.copy()
            self._episode_frames[done] = 0
            obs = self._next_episodes(done)
        return obs, reward, terminated, truncated, info

    def rest(self, lanes: Bools) -> Bools:
        """Of these lanes [L] that are not needed any more, those that are not stepped from now on: where there are several environments,
        neighbouring lanes of one of which none is needed. Nothing is counted for them, and what is observed there means nothing."""
        several = list(stretches(self.env_specs))
        for _, own in several if len(several) > 1 else ():
            self._resting[own] = lanes[own].all()
        return self._resting.copy()

    def _next_episodes(self, done: Bools) -> Array:
        """Restart the lanes that are done; those whose log is long enough with a new seed."""
        again = np.zeros_like(done) if self._log is None else done & (self._log.steps >= self.reseed_steps)
        if not again.any() or self._log is None:
            return self._restart(done)
        if (done & ~again).any():
            self._restart(done & ~again)
        self._log.begin(again)
        return self._seed(again, self._seeds_now())

    def _seeds_now(self) -> list[int]:
        """What each lane was seeded with last."""
        assert self._log is not None
        return [reseed(seed, int(times)) for seed, times in zip(self.lane_seeds, self._log.seeded, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """What brings the lanes back, between two steps: seeds are the World's own, so it is the logged actions and the counters."""
        if self._log is None or self._sent or not self._started:
            raise RuntimeError("a World's state is that of a training between two steps")
        counters = {"frames": self.frames, "boot_frames": self.boot_frames, "episode_frames": self._episode_frames}
        return {**self._log.state_dict(), **{name: counter.copy() for name, counter in counters.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> Array:
        """Play the logged actions again, in a World that was not started yet; returns the observations the state was taken at.

        ``replayed_frames`` [L] then says what that emulated, resets included. Raises ValueError for a state that is not of this World
        or that its emulator plays otherwise.
        """
        if self._log is None or self._started:
            raise RuntimeError("a World is brought back before it is started")
        self._log.load_state_dict(state, self.num_actions, RESET)
        obs = self._replay(self._log)
        if (self._episode_frames != state["episode_frames"]).any():
            raise ValueError(f"{self.name} does not play the logged actions as before: is it another version?")
        self.replayed_frames = self.frames + self.boot_frames
        self.frames[:], self.boot_frames[:] = state["frames"], state["boot_frames"]
        return obs

    def _replay(self, log: ActionLog) -> Array:
        """Lanes whose log begins later play along until then, and are seeded where it does."""
        seeds = self._seeds_now()
        obs = self._seed(np.ones(self.num_envs, np.bool_), seeds)
        self._started = True
        for row, actions in enumerate(log.rows):
            if row and (due := log.first == row).any():
                self._episode_frames[due] = 0
                obs = self._seed(due, seeds)
            if actions[0] == RESET:
                self._episode_frames[:] = 0
                obs = self._restart(np.ones(self.num_envs, np.bool_))
                continue
            self._begin(actions.astype(np.int64))
            obs, _, terminated, truncated, info = self._finish()
            self.frames += info["frames"]
            self._episode_frames += info["frames"]
            if (done := terminated | truncated).any():
                self._episode_frames[done] = 0
                obs = self._restart(done)
        if len(log.rows) and (due := log.first == len(log.rows)).any():
            self._episode_frames[due] = 0
            obs = self._seed(due, seeds)
        return obs

    # What a kind of world defines. None of these touches `frames` for the steps themselves: recv() does.

    def _seed(self, mask: Bools, seeds: Sequence[int]) -> Array:
        """Reset the lanes of ``mask`` with their seeds ([L], the others' are not looked at); returns as ``_restart`` does. What such
        a lane plays follows from its seed and the actions alone, whatever was played before."""
        raise NotImplementedError

    def _begin(self, actions: Array) -> None:
        """Begin a step."""
        raise NotImplementedError

    def _finish(self) -> StepResult:
        """End the step; observations are those before any reset, and info holds ``frames``. Lanes that rest are not stepped."""
        raise NotImplementedError

    def _restart(self, mask: Bools) -> Array:
        """Reset the lanes of ``mask`` without a seed; returns a new array: their first observations, the other lanes' last."""
        raise NotImplementedError


def reseed(lane_seed: int, times: int) -> int:
    """The seed of a lane that was seeded anew so many times, 31 bits; the first is the lane's own."""
    return lane_seed if times == 0 else int(np.random.SeedSequence([lane_seed, times]).generate_state(1)[0]) >> 1


def stretches(env_specs: Sequence[EnvSpec]) -> Iterator[tuple[EnvSpec, slice]]:
    """The lanes of one environment that follow each other."""
    end = 0
    for env_spec, group in groupby(env_specs):
        first, end = end, end + len(list(group))
        yield env_spec, slice(first, end)


def ones_readonly(num_envs: int) -> Ints:
    """One frame a step, for the worlds that skip none."""
    ones: Ints = np.ones(num_envs, np.int64)
    ones.setflags(write=False)
    return ones
