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
        self._frames: LaneFrames | None = None
        self._hook: Any = None

    def _on_training_start(self) -> None:
        # Environments that were wrapped one by one count for themselves.
        if not any(self.training_env.env_is_wrapped(CountFrames)):  # type: ignore[arg-type]
            self._play = self._play or TrainingPlay(self.meter.new_tally())
            if self._frames is None or not self._frames.is_of(self.training_env):
                fresh = self.model._num_timesteps_at_start == 0  # then `learn` has just reset every environment
                self._frames = LaneFrames(self.training_env, self.meter.env, fresh)
                self._from: Ints = np.zeros(self.training_env.num_envs, np.int64)
        optimizer = optimizer_of(self.model)
        self.meter.updates(0)
        self._hook = optimizer.register_step_post_hook(lambda *_: self.meter.updates())

    def _on_step(self) -> bool:
        if self._play is not None and self._frames is not None:
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
    """Frames that a VecEnv of L lanes plays: its emulators' own, where they are in this process or in its infos; else one a step.

    Wrappers of the library answer a reset with an empty info: then its no-op start is seen, and counted, with the next step.
    """

    def __init__(self, env: VecEnv, env_id: str, fresh: bool) -> None:
        """``fresh``: every lane has been reset just now, so its no-op start is ours."""
        self._env, self._fresh = innermost(env), fresh
        lanes = getattr(self._env, "envs", [])
        here = bool(lanes) and all(is_emulator(lane.unwrapped) for lane in lanes)
        self._emulators = [EmulatorCounter(lane.unwrapped, from_episode_start=fresh) for lane in lanes] if here else []
        self._counters = InfoCounters(env.num_envs, env_id)
        self._begun = False
        self._knows_frames = True
        self._after_game: Ints = np.zeros(env.num_envs, np.int64)
        self.lanes: Ints = np.zeros(env.num_envs, np.int64)
        """[L] Frames so far."""

    def is_of(self, env: VecEnv) -> bool:
        return self._env is innermost(env)

    def new(self, infos: list[dict[str, Any]], dones: Any) -> int | None:
        """Frames since the last call, over all lanes, when a step was answered with these infos. None: they do not tell."""
        frames: Ints | None
        if self._emulators:
            frames = np.array([emulator.frames for emulator in self._emulators]) - self.lanes
        elif all("frame_number" in info for info in infos):
            frames = self._told(infos, dones)
        else:
            frames = None if self._counters.is_atari else np.ones_like(self.lanes)
        if frames is None:
            self._knows_frames = False
            return None
        self.lanes = self.lanes + frames
        return int(frames.sum())

    def _told(self, infos: list[dict[str, Any]], dones: Any) -> Ints | None:
        resets = self._env.reset_infos
        told = [bool(done) and "frame_number" in reset for done, reset in zip(dones, resets, strict=True)]
        latest = [reset if new else info for new, reset, info in zip(told, resets, infos, strict=True)]
        if self._begun:
            frames = self._counters.stepped(joined(latest), AutoresetMode.SAME_STEP)
            self._after_game = np.where(told, self._counters.after_start, 0)
            return frames
        self._begun = True
        frames = self._counters.reset(np.ones(len(infos), np.bool_), False, joined(latest))
        return frames if self._fresh else None  # lanes that played before: where they stood is not known

    def at_end_of_game(self, lane: int) -> int | None:
        """Frames of a lane when the game ended that the latest step ended; the next one's no-op start is not among them."""
        if self._emulators:
            return self._emulators[lane].before_reset
        return int(self.lanes[lane] - self._after_game[lane]) if self._knows_frames else None


def joined(infos: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("frame_number", "episode_frame_number")
    return {name: np.array([info[name] for info in infos]) for name in names}


def innermost(env: VecEnv) -> VecEnv:
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env


def optimizer_of(model: Any) -> Any:
    """DQN, PPO, A2C: the policy's; SAC, TD3: the critic's."""
    policy = model.policy
    return policy.optimizer if hasattr(policy, "optimizer") else policy.critic.optimizer
