"""Evaluation: full games with the policy as it is, in a world of its own, counted apart from training."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from agents.noise import EVAL_STREAM, generator
from envs import World, lane_seeds, make
from runs.counters import Ints

Piece = TypeVar("Piece")
Whole = TypeVar("Whole")

MOST_GAME_STEPS = 27_000  # where a task has no time limit (MinAtar): as on Atari, half an hour at 15 decisions a second
MAX_ATARI_LANES = 10  # emulators per seed: each costs memory and the time to load a game


Watch = Callable[[NDArray[np.int64], NDArray[Any], NDArray[np.bool_], NDArray[np.int64]], None]
"""Is told the actions of a step, its rewards, which games are over and the frames that it played, each [lanes]."""


class Player(Protocol):
    """S policies that can be evaluated: a Learner, or stable-baselines3's model."""

    @property
    def seeds(self) -> Sequence[int]: ...

    def greedy(self, obs: NDArray[Any]) -> NDArray[np.int64]:
        """Best actions [L] for observations [L, ...], seed by seed with L / S lanes each; changes nothing."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What S policies scored: one list of full-game returns per seed, real game scores."""

    returns: list[list[float]]
    lengths: list[list[int]]
    epsilon: float
    frames: Ints  # [S] played, also those of games that were begun beyond the number asked for
    boot_frames: Ints  # [S]
    observations: Ints  # [S] forward passes
    complete: bool  # False: interrupted, so that the returns are of the games that were over by then


def evaluate(
    player: Player,
    games: Sequence[str],
    protocol: str,
    episodes: int,
    index: int,
    stop: Callable[[], bool] = lambda: False,
    due: Callable[[], bool] = lambda: False,
    epsilon: float | None = None,
    watch: Watch | None = None,
) -> Generator[Evaluation, None, Evaluation]:
    """Play ``episodes`` games with each seed's policy in its environment, ``games`` [S], or until ``stop()``; returns what came of it.

    Yields what is played so far after every step when ``due()``, for a ledger that goes on while many games are played.

    Every lane plays a fixed number of games, so that short games are not counted more often than long ones. The games of
    evaluation ``index`` follow from the seed and the index alone. Where seeds play several environments, each of these ends when its
    own games are over. A game without a time limit, which a policy may never end, counts with the score that it has after
    ``MOST_GAME_STEPS``.

    ``epsilon``: of actions at random, the protocol's where it is None. ``watch`` sees every step.
    """
    seeds = player.seeds
    lanes = episodes if not games[0].startswith("ALE/") else min(episodes, MAX_ATARI_LANES)
    world = make(
        [game for game in games for _ in range(lanes)],
        len(seeds) * lanes,
        [lane for seed in seeds for lane in game_seeds(seed, index, lanes)],
        protocol=protocol,
        evaluation=True,
    )
    try:
        return (yield from _play(player, world, episodes, lanes, index, stop, due, epsilon, watch))
    finally:
        world.close()


def played_out(games: Generator[Piece, None, Whole], hear: Callable[[Piece], object] = lambda piece: None) -> Whole:
    """What came of an evaluation; what it tells on the way is heard by ``hear``."""
    while True:
        try:
            hear(next(games))
        except StopIteration as over:
            whole: Whole = over.value
            return whole


def game_seeds(seed: int, index: int, lanes: int) -> list[int]:
    """What the lanes of a seed's evaluation are seeded with."""
    return lane_seeds(_mix(seed, index), lanes)


def _mix(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, EVAL_STREAM, index]).generate_state(1)[0])


def _play(
    player: Player,
    world: World,
    episodes: int,
    lanes: int,
    index: int,
    stop: Callable[[], bool],
    due: Callable[[], bool],
    epsilon: float | None,
    watch: Watch | None,
) -> Generator[Evaluation, None, Evaluation]:
    seeds, epsilon = player.seeds, world.protocol.eval_epsilon if epsilon is None else epsilon
    generators = [generator(_mix(seed, index), EVAL_STREAM) for seed in seeds]
    quota = np.tile([episodes // lanes + (k < episodes % lanes) for k in range(lanes)], len(seeds))
    played = np.zeros(len(quota), np.int64)
    score, length = np.zeros(len(quota)), np.zeros(len(quota), np.int64)
    returns: list[list[float]] = [[] for _ in seeds]
    lengths: list[list[int]] = [[] for _ in seeds]
    observations, playing = np.zeros(len(seeds), np.int64), np.ones(len(seeds), np.bool_)

    def so_far() -> Evaluation:
        frames, boot_frames = (counter.reshape(len(seeds), lanes).sum(1) for counter in (world.frames, world.boot_frames))
        return Evaluation(
            returns, lengths, epsilon, frames, boot_frames, observations.copy(), complete=not (played < quota).any()
        )

    obs, _ = world.reset()
    stopped = False
    while (played < quota).any() and not stopped:
        stopped = stop()
        action = player.greedy(obs)
        if epsilon > 0:
            action = explore(action, generators, epsilon, world.num_actions)
        observations[playing] += lanes
        obs, reward, terminated, truncated, info = world.step(action)
        score += reward
        length += 1
        done = terminated | truncated | (length >= MOST_GAME_STEPS)
        if watch is not None:
            watch(action, reward, done, info["frames"])
        for lane in np.flatnonzero(done):
            if played[lane] < quota[lane]:
                returns[lane // lanes].append(float(score[lane]))
                lengths[lane // lanes].append(int(length[lane]))
            played[lane] += 1
        score[done] = 0
        length[done] = 0
        playing[:] = ~world.rest(played >= quota).reshape(len(seeds), lanes).all(1)
        if due():
            yield so_far()
    return so_far()


def explore(
    action: NDArray[np.int64], generators: Sequence[torch.Generator], epsilon: float, num_actions: Ints
) -> NDArray[np.int64]:
    """Replace each action [L] by a random one of ``num_actions`` [L] with probability epsilon."""
    lanes = len(action) // len(generators)
    noise = torch.stack([torch.rand(2, lanes, dtype=torch.float64, generator=g) for g in generators]).numpy()
    explore, which = noise[:, 0].reshape(-1), noise[:, 1].reshape(-1)
    return np.where(explore < epsilon, (which * num_actions).astype(np.int64), action)
