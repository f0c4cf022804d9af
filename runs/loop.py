"""The training loop: a generator of events. Meter, curves, files, budget and progress are its consumers.

One step, in this order: act in the present observation, let the emulator work, learn meanwhile from the steps that are complete,
take the emulator's answer, record it. Atari works while the learner works; for the other worlds acting and learning are one call.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from agents.learner import Learner
from agents.update import Metrics
from envs import EnvSpec, World
from runs.budget import Budget
from runs.checkpoint import Manifest, Ring, State, Store
from runs.counters import Counters, Ints
from runs.evaluate import Evaluation, Player, evaluate
from runs.meter import Meter
from runs.schema import DIVERGED, FINISHED, INTERRUPTED

LOOK_STEPS = 1_000
"""Steps between two looks for seeds that diverged; they are those of the run, so that a seed ends where it would have ended."""
EXPLODED = 1e15
"""A loss beyond this will never be any use: games pay up to a million, and losses are their squares at most."""


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

    learning: Mapping[str, Sequence[float]]  # name -> [S]: the latest epsilon, loss and the like, for the curves
    evaluating: tuple[int, int] | None = None  # games that are over, of how many, in sum over seeds


@dataclass(frozen=True)
class Evaluated:
    """The policies were evaluated."""

    evaluation: Evaluation


@dataclass(frozen=True)
class Checkpoint:
    """Time to write everything down that the run needs to go on from here."""


@dataclass(frozen=True)
class Diverged:
    """A seed's loss or parameters are no numbers any more: it is stopped, and the others go on."""

    seed_index: int
    loss: float


@dataclass(frozen=True)
class Ended:
    """The last event."""

    status: str


Event = Episode | Heartbeat | Evaluated | Checkpoint | Diverged | Ended


@dataclass
class Books:
    """What is booked of every step, whoever learns: counters, finished games, and when to write, to evaluate and to stop."""

    world: World
    games: Sequence[str]  # [S], the environment that each seed plays
    counters: Counters
    meter: Meter
    budget: Budget
    evals: int
    eval_episodes: int
    heartbeat_s: float
    stop: Callable[[], bool]  # asked once a step: an interrupt ends the run cleanly
    checkpoint_every: Budget | None = None
    evaluated: int = field(default=0, init=False)  # how many of the evaluations that were asked for are due or done
    earlier_wall_s: float = field(default=0.0, init=False)  # of the processes that this one continues

    def __post_init__(self) -> None:
        self.stopped = np.zeros(self.counters.seeds, np.bool_)  # seeds that diverged
        self._before_evaluation: dict[str, Any] | None = None
        self._next_checkpoint = np.inf if self.checkpoint_every is None else self.checkpoint_every.amount
        self._returns = np.zeros(self.world.num_envs)
        self._lengths = np.zeros(self.world.num_envs, np.int64)
        self._next_heartbeat_s = self.meter.wall_s + self.heartbeat_s

    def opened(self) -> None:
        """The world was reset for the first time."""
        self._read_world(resets=True)
        if self.checkpoint_every is not None:
            self.counters.wall_s = self.earlier_wall_s + self.meter.wall_s
            self._next_checkpoint = self.checkpoint_every.used(self.counters) + self.checkpoint_every.amount
        self.meter.lap("env")

    def stepped(self, reward: NDArray[Any], done: NDArray[np.bool_], info: Mapping[str, Any]) -> Iterator[Episode]:
        """Book a step of every lane, all [L] and unclipped; yields the games that it ended."""
        self._read_world(resets=bool(done.any()))
        self.counters.wall_s = self.earlier_wall_s + self.meter.wall_s
        self._returns += reward
        self._lengths += 1
        if done.any():
            per_seed = self.world.num_envs // self.counters.seeds
            for lane in np.flatnonzero(done):
                seed, frames = int(lane // per_seed), int(info["episode_frames"][lane])
                if self.stopped[seed]:
                    continue
                self.counters.episodes[seed] += 1
                yield Episode(seed, float(self._returns[lane]), int(self._lengths[lane]), frames, self.counters.wall_s)
            self._returns[done] = 0
            self._lengths[done] = 0
            self.meter.lap("io")

    def heartbeat_due(self) -> bool:
        if self.meter.wall_s < self._next_heartbeat_s:
            return False
        self._next_heartbeat_s = self.meter.wall_s + self.heartbeat_s
        return True

    def checkpoint_due(self) -> bool:
        if self.checkpoint_every is None or (used := self.checkpoint_every.used(self.counters)) < self._next_checkpoint:
            return False
        self._next_checkpoint = used + self.checkpoint_every.amount
        return True

    @property
    def checkpoint_fraction(self) -> float:
        """How much of the interval between two checkpoints is over; 0 where there are none."""
        if self.checkpoint_every is None:
            return 0.0
        return 1 - (self._next_checkpoint - self.checkpoint_every.used(self.counters)) / self.checkpoint_every.amount

    @property
    def used_up(self) -> bool:
        return self.budget.fraction(self.counters) >= 1

    def evaluation_due(self) -> bool:
        """Evaluations are spread evenly over the budget, the last one at its end; several that fall into one step are one."""
        fraction = self.budget.fraction(self.counters)
        if fraction * self.evals < self.evaluated + 1 and fraction < 1:
            return False
        self._before_evaluation = self._state()  # an evaluation that is cut off will be played again from its start
        self.evaluated = max(self.evaluated + 1, int(fraction * self.evals))
        return True

    def evaluate(self, player: Player) -> Generator[Heartbeat, None, Evaluation]:
        """Play the evaluation that is due, and book its frames apart; beats meanwhile, with what is played so far booked."""
        counters, protocol = self.counters, self.world.protocol.name
        before = counters.eval_frames, counters.eval_boot_frames, counters.eval_observations

        def book(evaluation: Evaluation) -> None:
            counters.eval_frames = before[0] + evaluation.frames
            counters.eval_boot_frames = before[1] + evaluation.boot_frames
            counters.eval_observations = before[2] + evaluation.observations
            self.meter.lap("eval")

        games = evaluate(player, self.games, protocol, self.eval_episodes, self.evaluated, self.stop, self.heartbeat_due)
        while True:
            try:
                book(so_far := next(games))
            except StopIteration as stopped:
                evaluation: Evaluation = stopped.value
                book(evaluation)
                if evaluation.complete:
                    self._before_evaluation = None
                return evaluation
            over = sum(len(returns) for returns in so_far.returns)
            yield Heartbeat({}, evaluating=(over, self.eval_episodes * len(self.games)))
            self.meter.lap("io")

    def state_dict(self) -> dict[str, Any]:
        """What the books hold of the surviving agent; an evaluation that was cut off is not among it."""
        return self._state() if self._before_evaluation is None else self._before_evaluation

    def _state(self) -> dict[str, Any]:
        arrays = {"returns": self._returns, "lengths": self._lengths, "stopped": self.stopped}
        copies = {name: array.copy() for name, array in arrays.items()}
        return {"evaluated": self.evaluated, **copies, "counters": self.counters.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.evaluated = state["evaluated"]
        self._returns[:], self._lengths[:], self.stopped[:] = state["returns"], state["lengths"], state["stopped"]
        self.counters.load_state_dict(state["counters"])

    def _read_world(self, resets: bool) -> None:
        self.counters.frames_by_seed = self._by_seed(self.world.frames)
        if resets:
            self.counters.boot_frames = self._by_seed(self.world.boot_frames)

    def _by_seed(self, lanes: Ints) -> Ints:
        """Sum a counter [L] over the lanes of each seed, [S]."""
        return lanes.reshape(self.counters.seeds, -1).sum(1)


class Trainer(Protocol):
    """What trains the S seeds of a group, and is asked for the trained agents at the end: ours (runs/family.py) or
    stable-baselines3's (runs/baselines.py)."""

    books: Books
    compiled: bool
    cuda_graphs: bool
    agent_config: dict[str, Any]
    """Every setting as it is in force, for ``run.json``."""
    checkpoint_file: str

    @property
    def ring(self) -> Ring | None:
        """The replay, where checkpoints hold one."""
        ...

    def train(self, consume: Callable[[Event], None]) -> None:
        """Reset the world, train, and hand on every event as it comes; the last one is Ended."""
        ...

    def params_sha256(self) -> list[str]:
        """A hash of each seed's parameters: equal hashes are equal agents."""
        ...

    def save(self, seed_index: int, file: BinaryIO) -> None:
        """Write what one seed's agent needs to play."""
        ...

    def state(self) -> State | None:
        """Everything that the training needs to go on from here, between two steps; None: it cannot be continued, or is not worth it
        because a seed has just diverged."""
        ...

    def restore(self, store: Store, manifest: Manifest) -> None:
        """Take over what ``state`` gave. Raises ValueError where it does not fit."""
        ...


def _next_look(steps: int) -> int:
    return (steps // LOOK_STEPS + 1) * LOOK_STEPS


def learns_while_playing(env: EnvSpec) -> bool:
    """Whether an update runs between sending the actions and receiving what came of them; else it is one call with acting."""
    return env.kind == "atari"


@dataclass
class Loop:
    """The family's own loop: one learner, one world, S seeds."""

    learner: Learner
    books: Books
    obs: NDArray[Any] | None = None
    """What the world shows now; None: it was not started yet."""
    loss: NDArray[Any] = field(init=False)
    """Of the latest update when a run was continued, [S]."""

    def __post_init__(self) -> None:
        self.loss = np.zeros(len(self.learner.seeds), np.float32)
        self.metrics: Metrics | None = None

    def events(self) -> Iterator[Event]:
        """Train until the budget is used up or ``stop()``. Consumers run between two steps; their time is booked as io."""
        learner, books = self.learner, self.books
        world, counters, meter = books.world, books.counters, books.meter
        if self.obs is None:
            self.obs, _ = world.reset()
        books.opened()
        next_look = _next_look(counters.steps)
        while True:
            if counters.steps >= next_look:
                yield from self._diverged()
                next_look = _next_look(counters.steps)
                if books.stopped.all():
                    yield Ended(DIVERGED)
                    return
            if books.stop():
                yield Checkpoint()
                yield Ended(INTERRUPTED)
                return
            if books.evaluation_due():
                used_up = books.used_up
                evaluation = yield from books.evaluate(learner)
                if not evaluation.complete:
                    yield Checkpoint()
                    yield Ended(INTERRUPTED)
                    return
                yield Evaluated(evaluation)
                meter.lap("io")
                if used_up:
                    yield Ended(FINISHED)
                    return
            if books.checkpoint_due():
                yield Checkpoint()
                meter.lap("io")
            action, new_metrics = self._act(self.obs)
            self.obs, reward, terminated, truncated, info = world.recv()
            meter.lap("env")
            self.metrics = new_metrics or self.metrics
            done = terminated | truncated
            life_loss = info.get("life_loss") if world.protocol.terminal_on_life_loss else None
            terminal = terminated if life_loss is None else terminated | life_loss
            learner.record(action, reward, terminal, done, truncated, info.get("final_obs"))
            meter.lap("learn")
            counters.steps, counters.updates = learner.steps, learner.updates
            yield from books.stepped(reward, done, info)
            if books.heartbeat_due():
                yield Heartbeat(self._learning(self.metrics))
                meter.lap("io")

    def latest_loss(self) -> NDArray[Any]:
        """Of the latest update, [S]."""
        return self.loss if self.metrics is None else self.metrics.loss.cpu().numpy().astype(np.float32)

    def sick(self) -> NDArray[np.bool_]:
        """Seeds [S] that diverged, whether they are stopped by now or not."""
        finite = torch.isfinite(self.learner.params).all(1).cpu().numpy()
        return ~(finite & (np.abs(self.latest_loss()) < EXPLODED))  # a loss that is NaN is not below

    def _diverged(self) -> Iterator[Event]:
        loss = self.latest_loss()
        for seed in np.flatnonzero(self.sick() & ~self.books.stopped):
            self.books.stopped[seed] = True
            yield Diverged(int(seed), float(loss[seed]))

    def _act(self, obs: np.ndarray) -> tuple[np.ndarray, Metrics | None]:
        """Act, send the actions, and do the updates that are due."""
        learner, world, meter = self.learner, self.books.world, self.books.meter
        due = learner.updates_due()
        if due == 1 and not learns_while_playing(world.env_spec):
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

    def _learning(self, metrics: Metrics | None) -> dict[str, Sequence[float]]:
        epsilon = self.learner.config.epsilon(self.books.counters.steps)
        learned = {} if metrics is None else {name: value.tolist() for name, value in metrics._asdict().items()}
        return {"epsilon": [epsilon] * len(self.learner.seeds), **learned}
