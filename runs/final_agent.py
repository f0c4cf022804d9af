"""The final agent of a run plays again: other games than its training's evaluations, as many and by whichever rules are asked for.

It plays on the CPU, where the emulators are. Nothing is written: what a run folder holds is the training's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.baselines import is_baseline
from envs.protocols import Protocol
from envs.registry import protocol_of, spec
from runs.config import InputError
from runs.evaluate import Evaluation, evaluate, played_out
from runs.folder import load_policy
from runs.schema import DIVERGED, FAILED, FINAL_CHECKPOINT, FINAL_SB3_CHECKPOINT, KILLED, RUNNING, RunRecord

FIRST_INDEX = 2**32
"""Evaluations of a training are numbered from 1, and an evaluation's games follow from its number: none of theirs is played again."""


class FinalAgent:
    """What a finished or interrupted run has learned, as a :class:`runs.evaluate.Player` of one seed.

    Nothing in the file is executed. Raises InputError where it cannot be loaded, or plays something else.
    """

    def __init__(self, folder: Path, record: RunRecord) -> None:
        self.seeds = (record.seed,)
        file = folder / checkpoint_file(record)
        if is_baseline(record.agent):
            from runs.baselines import final_policy  # importing stable-baselines3 takes seconds

            model = final_policy(file, record)
            self._obs_shape, actions = tuple(model.observation_space.shape), int(model.action_space.n)
        else:
            model = load_policy(file)
            self._obs_shape, actions = model.obs_shape, model.num_actions
        self._predict: Callable[..., tuple[NDArray[Any], Any]] = model.predict
        if actions != (here := spec(record.env.id).num_actions):
            raise InputError(
                f"{file} has learned to choose from {actions} actions, {record.env.id} has {here}: it is another run's"
            )

    def greedy(self, obs: NDArray[Any]) -> NDArray[np.int64]:
        if obs.shape[1:] != self._obs_shape:
            raise InputError(
                f"its agent sees observations {self._obs_shape}, the environment's are {obs.shape[1:]}: it is another run's"
            )
        return self._predict(obs, deterministic=True)[0].astype(np.int64)


def checkpoint_file(record: RunRecord) -> str:
    return FINAL_SB3_CHECKPOINT if is_baseline(record.agent) else FINAL_CHECKPOINT


@dataclass(frozen=True)
class Asked:
    """How the games are to be played; None is the protocol's own."""

    episodes: int | None = None
    epsilon: float | None = None
    protocol: str | None = None  # None: the run's own
    seed: int = 0  # which games

    def __post_init__(self) -> None:
        if self.episodes is not None and self.episodes < 1:
            raise InputError(f"--episodes is {self.episodes}: play at least one game")
        if self.epsilon is not None and not 0 <= self.epsilon <= 1:
            raise InputError(f"--epsilon is {self.epsilon:g}: it is the share of random actions, from 0 to 1")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed is {self.seed}: choose a number from 0 to 4,294,967,295")

    def rules(self, record: RunRecord) -> Protocol:
        """Raises UnknownEnv where the environment is not ours, or has no such protocol."""
        return protocol_of(spec(record.env.id), self.protocol or record.env.protocol)


NOT_FINAL = {
    RUNNING: "it trains still",
    KILLED: "it was ended by force; the same command with --resume goes on",
    FAILED: "it failed; the same command with --resume goes on",
    DIVERGED: "it diverged, and what was saved is an agent from before",
}


def check(folder: Path, record: RunRecord, status: str, asked: Asked) -> None:
    """Whether a run of that status can play so at all, before anything is loaded.

    Raises:
        InputError: it has no final agent. While it trains the file holds that of the last checkpoint.
        UnknownEnv: the environment is not ours, or has no such protocol.
    """
    asked.rules(record)
    if status in NOT_FINAL:
        raise InputError(f"it has no final agent: {NOT_FINAL[status]}")
    if not (folder / checkpoint_file(record)).exists():
        raise InputError(f"it has no final agent: no {checkpoint_file(record)}, so it is another program's, or lost that file")


def play_again(
    folder: Path,
    record: RunRecord,
    asked: Asked,
    tell: Callable[[int, int], None] = lambda over, of: None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Protocol, Evaluation]:
    """Play the games to their end, or until ``stop()``, by which rules. ``tell`` hears about once a second how many of how many are over.

    Raises:
        InputError: the agent cannot be loaded, or is of another environment.
    """
    rules, agent = asked.rules(record), FinalAgent(folder, record)
    episodes = asked.episodes or rules.eval_episodes
    torch.set_num_threads(1)  # a batch of ten is too small to be shared; Atari's emulators have threads of their own
    told_s = time.monotonic()

    def due() -> bool:
        nonlocal told_s
        if time.monotonic() - told_s < 1:
            return False
        told_s = time.monotonic()
        return True

    games = evaluate(agent, [record.env.id], rules.name, episodes, FIRST_INDEX + asked.seed, stop, due, asked.epsilon)
    return rules, played_out(games, lambda so_far: tell(len(so_far.returns[0]), episodes))
