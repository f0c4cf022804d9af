"""``MeterCallback``: what a Meter counts, inside stable-baselines3's ``model.learn``."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from envs.counting import CountFrames, EmulatorCounter, InfoCounters, Ints, is_emulator
from runs.anyone import Meter
from runs.tally import TrainingPlay


class MeterCallback(BaseCallback):
    """Counts frames, steps, episodes and updates of a model into a Meter::

        with Meter("results", agent="sb3-dqn", env="CartPole-v1", seed=0) as meter:
            model.learn(20_000, callback=MeterCallback(meter))

    A step is one step of one environment; an update is one step of the optimiser (of the critic's where there are several).
    Episodes are those that the library's Monitor reports, so a life that is lost is none.
    """

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter
        self._play: TrainingPlay | None = None
        self._hook: Any = None

    def _on_training_start(self) -> None:
        # Environments that were wrapped one by one count for themselves.
        if not any(self.training_env.env_is_wrapped(CountFrames)):  # type: ignore[arg-type]
            self._play = self._play or TrainingPlay(self.meter.new_tally())
            fresh = self.model._num_timesteps_at_start == 0  # then `learn` has just reset every environment
            self._frames = LaneFrames(self.training_env, self.meter.env, fresh)
            self._from: Ints = np.zeros(self.training_env.num_envs, np.int64)
            self._play.played(self._frames.new(), 0)
        optimizer = optimizer_of(self.model)
        self.meter.updates(0)
        self._hook = optimizer.register_step_post_hook(lambda *_: self.meter.updates())

    def _on_step(self) -> bool:
        if self._play is not None:
            self._play.played(self._frames.new(self.locals["infos"], self.locals["dones"]), self.training_env.num_envs)
            for lane, info in enumerate(self.locals["infos"]):
                if "episode" in info:
                    end = self._frames.at_end_of_game(lane)
                    frames = None if end is None else end - int(self._from[lane])
                    self._play.episode(float(info["episode"]["r"]), int(info["episode"]["l"]), frames)
                    self._from[lane] = end or 0
        return True

    def _on_training_end(self) -> None:
        if self._hook is not None:
            self._hook.remove()


class LaneFrames:
    """Frames that a VecEnv of L lanes plays: its emulators' own, where they are in this process or in its infos; else one a step."""

    def __init__(self, env: VecEnv, env_id: str, fresh: bool) -> None:
        self._env = innermost(env)
        lanes = getattr(self._env, "envs", [])
        here = bool(lanes) and all(is_emulator(lane.unwrapped) for lane in lanes)
        self._emulators = [EmulatorCounter(lane.unwrapped, from_episode_start=fresh) for lane in lanes] if here else []
        self._counters = InfoCounters(env.num_envs, env_id)
        self._first: Ints | None = np.zeros(env.num_envs, np.int64)
        if not here and all("frame_number" in info for info in self._env.reset_infos):
            noops = self._counters.reset(np.ones(env.num_envs, np.bool_), False, joined(self._env.reset_infos))
            self._first = noops if fresh else self._first
        self.lanes: Ints = np.zeros(env.num_envs, np.int64)
        """[L] Frames so far."""

    def new(self, infos: list[dict[str, Any]] | None = None, dones: Any = None) -> int | None:
        """Frames of the step that these infos answer, over all lanes; without infos, those of the first reset. None: not told."""
        if self._emulators:
            frames: Ints | None = np.array([emulator.frames for emulator in self._emulators]) - self.lanes
        elif infos is None:
            frames = self._first
        elif "frame_number" in infos[0]:
            latest = [reset if done else info for reset, done, info in zip(self._env.reset_infos, dones, infos, strict=True)]
            frames = self._counters.stepped(joined(latest), AutoresetMode.SAME_STEP)
        else:
            frames = None if self._counters.is_atari else np.ones_like(self.lanes)
        if frames is None:
            return None
        self.lanes = self.lanes + frames
        return int(frames.sum())

    def at_end_of_game(self, lane: int) -> int | None:
        """Frames of a lane when the game ended that was reset just now."""
        if self._emulators:
            return self._emulators[lane].before_reset
        return int(self.lanes[lane] - self._counters.after_start[lane])


def joined(infos: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("frame_number", "episode_frame_number")
    return {name: np.array([info[name] for info in infos]) for name in names if all(name in info for info in infos)}


def innermost(env: VecEnv) -> VecEnv:
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env


def optimizer_of(model: Any) -> Any:
    """DQN, PPO, A2C: the policy's; SAC, TD3: the critic's."""
    policy = model.policy
    return policy.optimizer if hasattr(policy, "optimizer") else policy.critic.optimizer
