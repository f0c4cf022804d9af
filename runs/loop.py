"""The training loop: a generator of events. Meter, curves, files, budget and progress are its consumers.

One step, in this order: act in the present observation, let the emulator work, learn meanwhile from the steps that are complete,
take the emulator's answer, record it. Atari works while the learner works; for the other worlds acting and learning are one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from agents.learner import Learner
from agents.update import Metrics
from envs import World
from runs.budget import Budget
from runs.counters import Counters, Ints
from runs.evaluate import Evaluation, evaluate
from runs.meter import Meter
from runs.schema import FINISHED, INTERRUPTED


@dataclass(frozen=True)
class Episode:
    """A training game is over."""

    seed_index: int
    score: float  # the game's own, unclipped
    steps: int
    frames: int  # its no-op start included
    wall_s: float


@dataclass(frozen=True)
class Heartbeat:
    """Time to write the ledger."""

    metrics: Metrics | None  # of the last update, [S]; None before the first


@dataclass(frozen=True)
class Evaluated:
    """The policies were evaluated."""

    evaluation: Evaluation


@dataclass(frozen=True)
class Ended:
    """The last event."""

    status: str


Event = Episode | Heartbeat | Evaluated | Ended


@dataclass
class Loop:
    """Everything that one group of S seeds trains with."""

    learner: Learner
    world: World
    counters: Counters
    meter: Meter
    budget: Budget
    evals: int
    eval_episodes: int
    heartbeat_s: float
    stop: Callable[[], bool]  # asked once a step: an interrupt ends the run cleanly

    def events(self) -> Iterator[Event]:
        """Train until the budget is used up or ``stop()``. Consumers run between two steps; their time is booked as io."""
        learner, world, counters, meter = self.learner, self.world, self.counters, self.meter
        returns = np.zeros(world.num_envs)
        lengths = np.zeros(world.num_envs, np.int64)
        evaluated = 0
        metrics: Metrics | None = None
        next_heartbeat_s = meter.wall_s + self.heartbeat_s
        obs, _ = world.reset()
        counters.frames_by_seed, counters.boot_frames = self._by_seed(world.frames), self._by_seed(world.boot_frames)
        meter.lap("env")
        while True:
            action, new_metrics = self._act(obs)
            obs, reward, terminated, truncated, info = world.recv()
            meter.lap("env")
            metrics = new_metrics or metrics
            done = terminated | truncated
            life_loss = info.get("life_loss") if world.protocol.terminal_on_life_loss else None
            terminal = terminated if life_loss is None else terminated | life_loss
            learner.record(action, reward, terminal, done, truncated, info.get("final_obs"))
            meter.lap("learn")
            counters.steps, counters.updates = learner.steps, learner.updates
            counters.frames_by_seed = self._by_seed(world.frames)
            counters.wall_s = meter.wall_s
            returns += reward
            lengths += 1
            if done.any():
                counters.boot_frames = self._by_seed(world.boot_frames)
                per_seed = world.num_envs // counters.seeds
                for lane in np.flatnonzero(done):
                    counters.episodes[lane // per_seed] += 1
                    frames = int(info["episode_frames"][lane])
                    yield Episode(int(lane // per_seed), float(returns[lane]), int(lengths[lane]), frames, counters.wall_s)
                returns[done] = 0
                lengths[done] = 0
                meter.lap("io")
            if counters.wall_s >= next_heartbeat_s:
                next_heartbeat_s = counters.wall_s + self.heartbeat_s
                yield Heartbeat(metrics)
                meter.lap("io")
            if self.stop():
                yield Ended(INTERRUPTED)
                return
            fraction = self.budget.fraction(counters)
            if fraction * self.evals >= evaluated + 1 or fraction >= 1:
                evaluated = max(evaluated + 1, int(fraction * self.evals))
                evaluation = self._evaluate(evaluated)
                if not evaluation.complete:
                    yield Ended(INTERRUPTED)
                    return
                yield Evaluated(evaluation)
                meter.lap("io")
                if fraction >= 1:
                    yield Ended(FINISHED)
                    return

    def _act(self, obs: np.ndarray) -> tuple[np.ndarray, Metrics | None]:
        """Act, send the actions, and do the updates that are due."""
        learner, world, meter = self.learner, self.world, self.meter
        due = learner.updates_due()
        if due == 1 and world.env_spec.kind != "atari":
            action, metrics = learner.act_and_update(obs)
            meter.lap("learn")
            world.send(action)
            return action, metrics
        action = learner.act(obs)
        meter.lap("act")
        world.send(action)
        new_metrics: Metrics | None = None
        for _ in range(due):
            new_metrics = learner.update()
        meter.lap("learn")
        return action, new_metrics

    def _by_seed(self, lanes: Ints) -> Ints:
        """Sum a counter [L] over the lanes of each seed, [S]."""
        return lanes.reshape(self.counters.seeds, -1).sum(1)

    def _evaluate(self, index: int) -> Evaluation:
        env_id, protocol = self.world.env_spec.id, self.world.protocol.name
        evaluation = evaluate(self.learner, env_id, protocol, self.eval_episodes, index, self.stop)
        self.counters.eval_frames += evaluation.frames
        self.counters.eval_boot_frames += evaluation.boot_frames
        self.counters.eval_observations += evaluation.observations
        self.meter.lap("eval")
        return evaluation
