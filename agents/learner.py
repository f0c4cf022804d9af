"""The learner: the pure update of one seed, lifted over S seeds, compiled or eager, with its replay, schedules and generators.

The order of one step is the same in every mode: the observation enters the replay, the agent acts with the parameters it has, then
it learns from the rows that are complete. ``act_and_update`` does the last two in one compiled call; ``act`` and ``update`` do them
apart, so that an update can run while an emulator works. The numbers are the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.config import AgentConfig
from agents.networks import FlatNetwork, QNetwork, flat_network
from agents.replay import Replay, ReplayLayout, ReplayStorage, sample
from agents.update import Batch, Metrics, OptState, Update, make_update

NOISE_BLOCK_STEPS = 512  # random numbers are drawn for this many steps at once


class Noise:
    """Uniform numbers in [0, 1) for S seeds, ``width`` per seed and call; each seed draws from its own generator.

    What a seed draws does not depend on which seeds train beside it.
    """

    def __init__(self, seeds: Sequence[int], stream: int, width: int, device: torch.device) -> None:
        self._generators = [generator(seed, stream) for seed in seeds]
        self._block = torch.empty(NOISE_BLOCK_STEPS, len(seeds), width, dtype=torch.float64)
        self._device = device
        self._next = NOISE_BLOCK_STEPS
        self._start = [g.get_state() for g in self._generators]  # of the present block, so that a checkpoint need not hold it

    def draw(self) -> Tensor:
        """[S, width] float64."""
        if self._next == NOISE_BLOCK_STEPS:
            self._fill()
        values = self._ready[self._next]
        self._next += 1
        return values

    def peek(self) -> Tensor:
        """A tensor of the shape and place that ``draw`` gives."""
        return self._block[0].to(self._device)

    def _fill(self) -> None:
        self._start = [g.get_state() for g in self._generators]
        for k, g in enumerate(self._generators):
            self._block[:, k] = torch.rand(self._block.shape[0], self._block.shape[2], dtype=torch.float64, generator=g)
        self._ready = self._block.to(self._device)
        self._next = 0

    def state_dict(self) -> dict[str, Any]:
        return {"start": torch.stack(self._start), "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for g, start in zip(self._generators, state["start"], strict=True):
            g.set_state(start.clone())  # a view would be read from the start of its base
        if state["next"] < NOISE_BLOCK_STEPS:
            self._fill()
        self._next = state["next"]


def generator(seed: int, stream: int) -> torch.Generator:
    """An independent generator for each (seed, stream)."""
    entropy = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(entropy >> np.uint64(1)))


INIT_STREAM, ACT_STREAM, UPDATE_STREAM = range(3)


class Learner:
    """S seeds of one agent in lockstep. Arrays from the environments are [L, ...], L = S x envs_per_seed, seed by seed."""

    def __init__(
        self,
        config: AgentConfig,
        layout: ReplayLayout,
        num_actions: int,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        compile: bool = False,
    ) -> None:
        self.config, self.layout, self.num_actions, self.seeds = config, layout, num_actions, tuple(seeds)
        self.device = torch.device(device)
        self.network = q_network(config, layout, num_actions)
        self.replay = Replay(layout, self.device)
        self.params = torch.stack([self.network.init(generator(s, INIT_STREAM)) for s in seeds]).to(self.device)  # [S, P]
        self.target = self.params.clone()
        zeros = torch.zeros_like(self.params)
        self.optimiser = OptState(zeros, zeros.clone(), torch.zeros(len(self.seeds), device=self.device))
        self.steps = 0  # per seed
        self.updates = 0  # per seed
        self._epsilon = torch.ones((), device=self.device)
        envs = config.envs_per_seed
        self._act_noise = Noise(self.seeds, ACT_STREAM, 2 * envs, self.device)
        self._update_noise = Noise(self.seeds, UPDATE_STREAM, config.batch_size, self.device)
        self._q_values = over_seeds(lambda params, x: self.network.apply(self.network.unflatten(params), x), layout.seeds)
        self._act, self._update, self._act_update = build_calls(config, layout, self.network, num_actions, compile)

    def updates_due(self) -> int:
        """Gradient steps that the replay ratio asks for now."""
        since = self.steps - self.config.learning_starts_steps
        if since <= 0 or not len(self.replay):
            return 0
        return math.floor(since * self.config.replay_ratio + 1e-9) - self.updates

    def act(self, obs: NDArray[Any]) -> NDArray[np.int64]:
        """Store observations [L, ...] and choose actions [L], epsilon-greedily."""
        return self._act(self.params, *self._observe(obs)).cpu().numpy().reshape(-1)

    def update(self) -> Metrics:
        """One gradient step for every seed; metrics [S]."""
        metrics = self._update(*self._state(), self.replay.storage, self._update_noise.draw())
        self._updated()
        return metrics

    def act_and_update(self, obs: NDArray[Any]) -> tuple[NDArray[np.int64], Metrics]:
        """``act`` and then ``update`` in one call."""
        acting = self._observe(obs)
        action, metrics = self._act_update(*self._state(), *acting, self.replay.storage, self._update_noise.draw())
        self._updated()
        return action.cpu().numpy().reshape(-1), metrics

    @torch.no_grad()
    def greedy(self, obs: NDArray[Any]) -> NDArray[np.int64]:
        """Best actions [L] for observations [L, ...] of any number of lanes per seed; changes nothing."""
        return self._q_values(self.params, self.batched(obs)).argmax(-1).cpu().numpy().reshape(-1)

    def warm_up(self, obs: NDArray[Any]) -> None:
        """Compile before the clock of the first step runs: every call once, on copies, so that nothing is changed."""
        params, target = self.params.clone(), self.target.clone()
        optimiser = OptState(*(tensor.clone() for tensor in self.optimiser))
        acting = self.batched(obs), torch.ones_like(self._act_noise.peek()), self._epsilon
        storage = self.replay.storage._replace(clock=torch.tensor([0, 1], device=self.device))
        uniform = torch.zeros_like(self._update_noise.peek())
        self._act(params, *acting)
        self._update(params, target, optimiser, storage, uniform)
        self._act_update(params, target, optimiser, *acting, storage, uniform)

    def record(
        self,
        action: NDArray[np.int64],
        reward: NDArray[np.floating],
        terminal: NDArray[np.bool_],
        done: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        final_obs: NDArray[Any] | None,
    ) -> None:
        """What came of the actions, all [L]; see :meth:`agents.replay.Replay.complete`."""
        self.replay.complete(action, reward, terminal, done, truncated, final_obs)
        self.steps += self.config.envs_per_seed

    def _observe(self, obs: NDArray[Any]) -> tuple[Tensor, Tensor, Tensor]:
        self.replay.begin(obs)
        self._epsilon.fill_(self.config.epsilon(self.steps))
        return self.batched(obs), self._act_noise.draw(), self._epsilon

    def batched(self, obs: NDArray[Any]) -> Tensor:
        """Observations [L, ...] as a tensor [S, L / S, ...] on the device."""
        return torch.from_numpy(obs).to(self.device).unflatten(0, (len(self.seeds), -1))

    def _state(self) -> tuple[Tensor, Tensor, OptState]:
        return self.params, self.target, self.optimiser

    def _updated(self) -> None:
        self.updates += 1
        if self.config.target_ema_rate is None and self.updates % self.config.target_period_updates == 0:
            self.target.copy_(self.params)

    def params_sha256(self) -> list[str]:
        """A hash of each seed's parameters: equal hashes are equal agents."""
        return [hashlib.sha256(row.numpy().tobytes()).hexdigest() for row in self.params.cpu()]

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what the learner does next."""
        return {
            "seeds": list(self.seeds),
            "params": self.params,
            "target": self.target,
            "optimiser": self.optimiser._asdict(),
            "steps": self.steps,
            "updates": self.updates,
            "act_noise": self._act_noise.state_dict(),
            "update_noise": self._update_noise.state_dict(),
            "replay": self.replay.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if tuple(state["seeds"]) != self.seeds:
            raise ValueError(f"this state is of seeds {state['seeds']}, the learner trains {list(self.seeds)}")
        self.params.copy_(state["params"])
        self.target.copy_(state["target"])
        for name, tensor in self.optimiser._asdict().items():
            tensor.copy_(state["optimiser"][name])
        self.steps, self.updates = state["steps"], state["updates"]
        self._act_noise.load_state_dict(state["act_noise"])
        self._update_noise.load_state_dict(state["update_noise"])
        self.replay.load_state_dict(state["replay"])


def q_network(config: AgentConfig, layout: ReplayLayout, num_actions: int) -> FlatNetwork:
    """The network of an agent on observations of this layout."""
    return flat_network(lambda: QNetwork(config, layout.obs_shape, num_actions))


def epsilon_greedy(q: Tensor, noise: Tensor, epsilon: Tensor) -> Tensor:
    """Actions [S, E] from action values [S, E, A]; ``noise`` [S, 2E] decides whether to explore, and where to."""
    explore, which = noise.chunk(2, dim=-1)
    return torch.where(explore < epsilon, (which * q.shape[-1]).long(), q.argmax(-1))


def over_seeds(function: Callable[..., Any], seeds: int) -> Callable[..., Any]:
    """Lift a function of one seed's tensors to a leading axis of S seeds. One seed skips vmap, whose batched kernels cost more."""
    if seeds > 1:
        return torch.func.vmap(function)

    def single(*args: Any) -> Any:
        first = torch.utils._pytree.tree_map(lambda t: t[0], args)
        return torch.utils._pytree.tree_map(lambda t: t[None], function(*first))

    return single


def build_calls(
    config: AgentConfig, layout: ReplayLayout, network: FlatNetwork, num_actions: int, compile: bool
) -> tuple[Callable[..., Tensor], Callable[..., Metrics], Callable[..., tuple[Tensor, Metrics]]]:
    """``act``, ``update`` and both in one, over seeds. Parameters and optimiser state are updated in place: their buffers never move."""
    q_values = over_seeds(lambda params, obs: network.apply(network.unflatten(params), obs), layout.seeds)
    update_seeds: Update = over_seeds(make_update(config, network), layout.seeds)

    def act(params: Tensor, obs: Tensor, noise: Tensor, epsilon: Tensor) -> Tensor:
        return epsilon_greedy(q_values(params, obs), noise, epsilon)

    def update(params: Tensor, target: Tensor, state: OptState, storage: ReplayStorage, uniform: Tensor) -> Metrics:
        batch: Batch = sample(layout, storage, uniform)
        new_params, new_state, _, metrics = update_seeds(params, target, state, batch)
        params.copy_(new_params)
        if config.target_ema_rate is not None:
            target.lerp_(new_params, config.target_ema_rate)
        for old, new in zip(state, new_state, strict=True):
            old.copy_(new)
        return metrics

    def act_update(
        params: Tensor,
        target: Tensor,
        state: OptState,
        obs: Tensor,
        act_noise: Tensor,
        epsilon: Tensor,
        storage: ReplayStorage,
        uniform: Tensor,
    ) -> tuple[Tensor, Metrics]:
        action = act(params, obs, act_noise, epsilon)
        return action, update(params, target, state, storage, uniform)

    def ready(function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.no_grad()(torch.compile(function, dynamic=False) if compile else function)

    return ready(act), ready(update), ready(act_update)
