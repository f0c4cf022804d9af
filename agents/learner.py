"""The learner: the pure update of one seed, lifted over S seeds, compiled or eager, with its replay, schedules and generators.

The order of one step is the same in every mode: the observation enters the replay, the agent acts with the parameters it has, then
it learns from the rows that are complete. ``act_and_update`` does the last two in one compiled call; ``act`` and ``update`` do them
apart, so that an update can run while an emulator works. The numbers are the same.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents import noise, priorities
from agents.augment import augment
from agents.compiler import compiled, leaves
from agents.config import AgentConfig
from agents.graphs import Record, put, replayed
from agents.networks import FlatNetwork, Pieces, QNetwork, flat_network, masks, narrowed, widened
from agents.noise import Noise
from agents.replay import Replay, ReplayLayout, ReplayStorage, sample
from agents.update import Batch, Metrics, OptState, Update, UpdateNoise, make_update

COMPILE_ACT_FROM_STEPS = 5_000
"""Compiling ``act`` on its own takes half a second, two where nothing is cached, and saves 0.25 to 0.35 ms a step of a small network;
where it is called for fewer steps, it runs eagerly."""


class Acting(NamedTuple):
    """What a step is chosen from."""

    obs: Tensor  # [S, E, *obs_shape]
    uniform: Tensor  # [S, E x (2 + K)]: whether to explore and where to, then the quantiles of iqn
    normal: Tensor  # [S, W] noise of a noisy network
    epsilon: Tensor  # []
    legal: Tensor  # [S, A] bool, or [S, 0]: see QNetwork.forward


class Learning(NamedTuple):
    """What an update learns from."""

    storage: ReplayStorage
    uniform: Tensor  # [S, U], see split_noise
    normal: Tensor  # [S, G], see split_noise
    importance_exponent: Tensor  # []
    returns: Tensor  # [2] n and discount where they change, else [0]: see agents.replay.sample
    legal: Tensor  # [S, A] bool, or [S, 0]: see QNetwork.forward


class Learner:
    """S seeds of one agent in lockstep. Arrays from the environments are [L, ...], L = S x envs_per_seed, seed by seed.

    The seeds may play games of their own that have different numbers of actions: the networks then have as many outputs as the game
    with the most, and each learns and acts as if it had no more than its own.
    """

    def __init__(
        self,
        config: AgentConfig,
        layout: ReplayLayout,
        num_actions: int | Sequence[int],
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        compile: bool = False,
        together: bool = False,
    ) -> None:
        """``num_actions``: of all seeds, or of each. ``together``: where one update is due at a step, the caller asks for
        ``act_and_update``; else always for the two apart."""
        if layout.predicted_steps != config.predicted_steps:
            raise ValueError(
                f"the replay gives {layout.predicted_steps} observations to predict, the agent predicts {config.predicted_steps}"
            )
        self.config, self.layout, self.seeds = config, layout, tuple(seeds)
        self.num_actions = (num_actions,) * len(seeds) if isinstance(num_actions, int) else tuple(num_actions)
        self.device = torch.device(device)
        most = max(self.num_actions)
        self.network = q_network(config, layout, most)
        self._legal = torch.arange(most) < torch.tensor(self.num_actions)[:, None]
        self._legal = self._legal[:, : 0 if self._legal.all() else most].to(self.device)
        self.replay = Replay(layout, self.device)
        self.params = self._fresh(noise.INIT_STREAM)  # [S, P]
        self.target = self.params.clone()
        self._acts = self.target if config.act_with_target else self.params
        self.mean, self.square = torch.zeros_like(self.params), torch.zeros_like(self.params)  # the optimiser's, [S, P]
        self._optimised = torch.zeros(len(self.seeds), device=self.device)
        self._vectors = self.params, self.target, self.mean, self.square
        self._state = self._in_pieces(*self._vectors, updates=self._optimised)
        self._read = self._reading(self._state)
        self.steps = 0  # per seed
        self.updates = 0  # per seed
        self._epsilon = torch.ones((), device=self.device)
        self._importance_exponent = torch.ones((), device=self.device)
        self._returns = torch.ones(2 if config.anneals_returns else 0, device=self.device)
        self._n, self._gamma = self._returns[:1], self._returns[1:]
        self._begun_at_update = 0  # by the parameters as they are: the last reset's
        self._filled: dict[Tensor, float] = {}
        self._act_noise, self._act_normal, self._update_noise, self._update_normal = self._noises()
        self._q_values = over_seeds(greedy_values(self.network), layout.seeds)
        self._record: Record | None = None
        self._watched: Tensor | None = None  # [S, L / S, ...]: where the graph of an evaluation reads observations
        self._greedy_graph: Callable[..., Tensor] | None = None
        due = config.envs_per_seed * config.replay_ratio  # updates at a step
        self.call_names = ("act", *["act_update"] * (together and due < 2), *["update"] * (not together or due > 1))
        """The calls that a training makes, once it learns or before."""
        # with one update at every step, acting alone ends when learning starts
        rarely_acts = together and due == 1 and config.learning_starts_steps < COMPILE_ACT_FROM_STEPS
        self._calls = build_calls(config, layout, self.network, self.device, compile, compile and not rarely_acts)
        self._graphs_read: tuple[Acting, Learning] | None = None

    def _fresh(self, stream: int, part: tuple[int, ...] = ()) -> Tensor:
        """Parameters [S, P] that have learned nothing, each seed's drawn by itself."""
        fresh = []
        for seed, actions in zip(self.seeds, self.num_actions, strict=True):
            own = q_network(self.config, self.layout, actions)
            fresh.append(widened(own.init(noise.generator(seed, stream, part=part)), own, self.network))
        return torch.stack(fresh).to(self.device)

    def _noises(self) -> tuple[Noise, Noise, Noise, Noise]:
        config, network = self.config, self.network
        per_env = 2 + (config.num_tau_act if config.head == "iqn" else 0)
        uniforms, normals = (sum(widths) for widths in noise_widths(config, network))
        return (
            Noise(self.seeds, noise.ACT_STREAM, config.envs_per_seed * per_env, self.device),
            Noise(self.seeds, noise.ACT_NORMAL_STREAM, network.noise_width, self.device, normal=True),
            Noise(self.seeds, noise.UPDATE_STREAM, uniforms, self.device),
            Noise(self.seeds, noise.UPDATE_NORMAL_STREAM, normals, self.device, normal=True),
        )

    def updates_due(self) -> int:
        """Gradient steps that the replay ratio asks for now."""
        since = self.steps - self.config.learning_starts_steps
        if since <= 0 or not len(self.replay):
            return 0
        return math.floor(since * self.config.replay_ratio + 1e-9) - self.updates

    def act(self, obs: NDArray[Any]) -> NDArray[np.int64]:
        """Store observations [L, ...] and choose actions [L], epsilon-greedily."""
        return self._calls["act"](self._read, self._observe(obs)).cpu().numpy().reshape(-1)

    def update(self) -> Metrics:
        """One gradient step for every seed; metrics [S]."""
        metrics: Metrics = self._calls["update"](*self._state, self._learning())
        self._updated()
        return metrics

    def act_and_update(self, obs: NDArray[Any]) -> tuple[NDArray[np.int64], Metrics]:
        """``act`` and then ``update`` in one call."""
        acting = self._observe(obs)
        action, metrics = self._calls["act_update"](*self._state, acting, self._learning())
        self._updated()
        return action.cpu().numpy().reshape(-1), metrics

    @torch.no_grad()
    def greedy(self, obs: NDArray[Any]) -> NDArray[np.int64]:
        """Best actions [L] for observations [L, ...] of any number of lanes per seed; changes nothing."""
        shown = self._by_seed(obs)
        if self._record is not None and (self._watched is None or self._watched.shape != shown.shape):
            self._watch(shown.to(self.device, copy=True), self._record)
        if self._watched is None or self._greedy_graph is None:
            return self._greedy(shown.to(self.device)).cpu().numpy().reshape(-1)
        self._watched.copy_(shown)
        return self._greedy_graph().cpu().numpy().reshape(-1)

    def _greedy(self, obs: Tensor) -> Tensor:
        return self._q_values(self._acts, obs, self._legal).argmax(-1)

    def _watch(self, obs: Tensor, record: Record) -> None:
        """Make a graph of choosing the best action for so many lanes; where that fails, as for want of memory, it is said once."""
        self._greedy(obs)  # what is only done once, as looking for the fastest kernel, cannot be recorded
        self._watched, self._greedy_graph = obs, None  # the one for other lanes is freed first
        try:
            self._greedy_graph = replayed(self._greedy, (obs,), record)
        except RuntimeError as error:
            warnings.warn(f"evaluating {obs.shape[:2].numel()} lanes without a CUDA graph, slower: {error}", stacklevel=3)

    def warm_up(self, obs: NDArray[Any]) -> None:
        """Compile before the clock of the first step runs: the calls of a training once, on copies, so that nothing is changed.

        Args:
            obs: [L, ...], as the environments give them.
        """
        acting, learning = self._blank(obs)
        storage = learning.storage._replace(
            clock=torch.tensor([0, 1], device=self.device),
            priorities=priorities.Priorities(*(torch.ones_like(tensor) for tensor in learning.storage.priorities)),
        )
        copies = self._in_pieces(*(vectors.clone() for vectors in self._vectors), updates=self._optimised.clone())
        for name, arguments in self._arguments(copies, acting, learning._replace(storage=storage)).items():
            self._calls[name](*arguments)

    def use_graphs(self, obs: NDArray[Any], record: Record) -> None:
        """Make a graph of each call of a training (agents/graphs.py), after ``warm_up``. Nothing is changed where that fails."""
        acting, learning = self._blank(obs)
        calls = self._arguments(self._state, acting, learning).items()
        self._calls |= {name: replayed(self._calls[name], arguments, record) for name, arguments in calls}
        self._graphs_read = acting, learning
        self._record = record

    def _blank(self, obs: NDArray[Any]) -> tuple[Acting, Learning]:
        """Inputs of their own for every call, to be filled in."""
        half, zero = torch.full_like(self._act_noise.peek(), 0.5), torch.zeros_like(self._act_normal.peek())
        uniform, normal = torch.zeros_like(self._update_noise.peek()), torch.zeros_like(self._update_normal.peek())
        acting = Acting(self.batched(obs).clone(), half, zero, self._epsilon, self._legal)
        return acting, Learning(self.replay.storage, uniform, normal, self._importance_exponent, self._returns, self._legal)

    def _arguments(
        self, state: tuple[Pieces, Pieces, OptState], acting: Acting, learning: Learning
    ) -> dict[str, tuple[Any, ...]]:
        """The calls that a training makes, each with its arguments."""
        arguments: dict[str, tuple[Any, ...]] = {
            "act": (self._reading(state), acting),
            "update": (*state, learning),
            "act_update": (*state, acting, learning),
        }
        return {name: arguments[name] for name in self.call_names}

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

    def _reset_where_due(self) -> None:
        """When the next step begins, so that the agent that is evaluated or kept after the last one has just learned."""
        every = self.config.reset_every_steps
        if every is not None and self.updates and self.steps % every < self.config.envs_per_seed:
            self._reset(self.steps // every)

    def _reset(self, number: int) -> None:
        """See AgentConfig.reset_every_steps. Drawn by the number of the reset, so that no generator has a state to be saved."""
        kept = self.network.features_alone().to(self.device) * self.config.reset_keep
        for network, vectors in enumerate((self.params, self.target)):
            vectors.mul_(kept).add_((1 - kept) * self._fresh(noise.RESET_STREAM, (number, network)))
        for tensor in (self.mean, self.square, self._optimised):
            tensor.zero_()
        self._begun_at_update = self.updates
        self._round()

    def _observe(self, obs: NDArray[Any]) -> Acting:
        self._reset_where_due()
        self._fill(self._epsilon, self.config.epsilon(self.steps))
        noises = self._act_noise.draw(), self._act_normal.draw()
        if self._graphs_read is None:
            acting = Acting(self.batched(obs), *noises, self._epsilon, self._legal)
        else:
            acting = put(Acting(self._by_seed(obs), *noises, self._epsilon, self._legal), self._graphs_read[0])
        self.replay.begin(obs if self.device.type == "cpu" else acting.obs.flatten(0, 1))
        return acting

    def _learning(self) -> Learning:
        self._fill(self._importance_exponent, self.config.importance_exponent(self.steps))
        if self.config.anneals_returns:
            n, gamma = self.config.returns(self.updates - self._begun_at_update)
            self._fill(self._n, n)
            self._fill(self._gamma, gamma)
        noises = self._update_noise.draw(), self._update_normal.draw()
        learning = Learning(self.replay.storage, *noises, self._importance_exponent, self._returns, self._legal)
        return learning if self._graphs_read is None else put(learning, self._graphs_read[1])

    def batched(self, obs: NDArray[Any]) -> Tensor:
        """Observations [L, ...] as a tensor [S, L / S, ...] on the device."""
        return self._by_seed(obs).to(self.device)

    def _by_seed(self, obs: NDArray[Any]) -> Tensor:
        return torch.from_numpy(obs.reshape(len(self.seeds), -1, *obs.shape[1:]))

    def _fill(self, tensor: Tensor, value: float) -> None:
        """Where it changed: most schedules end early, and on a GPU every call costs."""
        if self._filled.get(tensor) != value:
            tensor.fill_(value)
            self._filled[tensor] = value

    def _in_pieces(self, *vectors: Tensor, updates: Tensor) -> tuple[Pieces, Pieces, OptState]:
        """What the calls compute with: parameters, target and the optimiser's two, each [S, P], as :meth:`FlatNetwork.pieces`."""
        params, target, mean, square = map(self.network.pieces, vectors)
        if self.config.target_ema_rate is None:
            target = self.network.reading(target, self.network.rounded(target))
        return params, target, OptState(mean, square, updates, self.network.rounded(params))

    def _reading(self, state: tuple[Pieces, Pieces, OptState]) -> Pieces:
        """The parameters that are acted with, as networks read them."""
        return state[1] if self.config.act_with_target else self.network.reading(state[0], state[2].rounded)

    def _round(self) -> None:
        """Copy anew what is held in less precision beside the parameters and the target."""
        fresh = self._in_pieces(*self._vectors, updates=self._optimised)
        for own, new in zip(leaves(self._state), leaves(fresh), strict=True):
            if own.dtype != self.params.dtype:
                own.copy_(new)

    def _updated(self) -> None:
        self.updates += 1
        if self.config.target_ema_rate is None and self.updates % self.config.target_period_updates == 0:
            self.target.copy_(self.params)
            read = self.network.reading(self._state[0], self._state[2].rounded)
            for own, new in zip(self._state[1], read, strict=True):
                if own.dtype != self.target.dtype:
                    own.copy_(new)

    def params_sha256(self) -> list[str]:
        """A hash of each seed's parameters: equal hashes are equal agents."""
        agents = (self.agent(k) for k in range(len(self.seeds)))
        return [hashlib.sha256(own.in_order(params[None]).numpy().tobytes()).hexdigest() for own, params in agents]

    def agent(self, seed_index: int) -> tuple[FlatNetwork, Tensor]:
        """One seed's network and the parameters [P] that it acts with, on the CPU, with the actions of its own game alone."""
        own = q_network(self.config, self.layout, self.num_actions[seed_index])
        return own, narrowed(self._acts[seed_index].cpu(), own, self.network)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what the learner does next."""
        params, target, mean, square = map(self.network.in_order, self._vectors)
        return {
            "seeds": list(self.seeds),
            "params": params,
            "target": target,
            "optimiser": {"mean": mean, "square": square, "updates": self._optimised},
            "steps": self.steps,
            "updates": self.updates,
            "act_noise": self._act_noise.state_dict(),
            "act_normal": self._act_normal.state_dict(),
            "update_noise": self._update_noise.state_dict(),
            "update_normal": self._update_normal.state_dict(),
            "replay": self.replay.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if tuple(state["seeds"]) != self.seeds:
            raise ValueError(f"this state is of seeds {state['seeds']}, the learner trains {list(self.seeds)}")
        optimiser = state["optimiser"]
        saved = state["params"], state["target"], optimiser["mean"], optimiser["square"]
        for own, values in zip(self._vectors, saved, strict=True):
            own.copy_(self.network.from_order(values))
        self._optimised.copy_(optimiser["updates"])
        self._round()
        self.steps, self.updates = state["steps"], state["updates"]
        self._begun_at_update = self.updates - int(optimiser["updates"][0])
        self._act_noise.load_state_dict(state["act_noise"])
        self._act_normal.load_state_dict(state["act_normal"])
        self._update_noise.load_state_dict(state["update_noise"])
        self._update_normal.load_state_dict(state["update_normal"])
        self.replay.load_state_dict(state["replay"])


def q_network(config: AgentConfig, layout: ReplayLayout, num_actions: int) -> FlatNetwork:
    """The network of an agent on observations of this layout."""
    return flat_network(lambda: QNetwork(config, layout.obs_shape, num_actions))


def greedy_values(network: FlatNetwork) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """``(params [P], obs [B, ...], legal [A] or [0]) -> action values [B, A]`` without noise."""
    return lambda params, obs, legal: network.q_values(network.apply(network.unflatten(params), obs, legal=legal), legal)


def epsilon_greedy(q: Tensor, explore: Tensor, which: Tensor, epsilon: Tensor, legal: Tensor) -> Tensor:
    """Actions [E] from action values [E, A], -inf where ``legal`` has none; ``explore`` and ``which``, uniform [E], decide whether to
    explore, and where to."""
    actions = legal.sum() if masks(legal) else q.shape[-1]
    return torch.where(explore < epsilon, (which * actions).long(), q.argmax(-1))


def noise_widths(config: AgentConfig, network: FlatNetwork) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many uniform and how many normal numbers an update of one seed takes, in the order of :func:`split_noise`."""
    batch, iqn, images = config.batch_size, config.head == "iqn", moved_images(config)
    taus = (batch * count if iqn else 0 for count in (config.num_tau, config.num_tau_target, config.num_tau_act))
    return (batch, *taus, 2 * images * batch), (3 * network.noise_width, images * batch)


def moved_images(config: AgentConfig) -> int:
    """How many images of a transition are shifted and brightened, M."""
    return 2 + config.predicted_steps if config.augment else 0


def split_noise(
    config: AgentConfig, network: FlatNetwork, uniform: Tensor, normal: Tensor
) -> tuple[Tensor, UpdateNoise, Tensor, Tensor]:
    """The random numbers of one update of S seeds, by what they are for.

    Returns:
        For sampling [S, B] float64; for the networks, with a leading axis of seeds; for the shifts [S, M, B, 2] of obs, next_obs and
        what is ahead, and their brightness [S, M, B].
    """
    uniforms, normals = noise_widths(config, network)
    which, *taus, shift = uniform.split(uniforms, dim=1)
    noisy, intensity = normal.split(normals, dim=1)
    tau, tau_target, tau_select = (part.float().unflatten(1, (config.batch_size, -1)) for part in taus)
    images = (moved_images(config), config.batch_size)
    noise_of_networks = UpdateNoise(noisy.unflatten(1, (3, -1)), tau, tau_target, tau_select)
    return which, noise_of_networks, shift.unflatten(1, (*images, 2)), intensity.unflatten(1, images)


def over_seeds(function: Callable[..., Any], seeds: int) -> Callable[..., Any]:
    """Lift a function of one seed's tensors to a leading axis of S seeds. One seed skips vmap, whose batched kernels cost more."""
    if seeds > 1:
        return torch.func.vmap(function)

    def single(*args: Any) -> Any:
        first = torch.utils._pytree.tree_map(lambda t: t[0], args)
        return torch.utils._pytree.tree_map(lambda t: t[None], function(*first))

    return single


def build_calls(
    config: AgentConfig, layout: ReplayLayout, network: FlatNetwork, device: torch.device, compile: bool, compile_act: bool
) -> dict[str, Callable[..., Any]]:
    """``act`` gives actions, ``update`` metrics, and ``act_update`` both, over seeds.

    Parameters and optimiser state are updated in place: their buffers never move.
    """
    update_seeds: Update = over_seeds(make_update(config, network), layout.seeds)

    def act_seed(params: Pieces, obs: Tensor, uniform: Tensor, normal: Tensor, epsilon: Tensor, legal: Tensor) -> Tensor:
        explore, which, tau = uniform.split((len(obs), len(obs), uniform.shape[0] - 2 * len(obs)))
        tau = tau.float().view(len(obs), -1) if config.head == "iqn" else None
        q = network.q_values(network.apply(network.unflatten(*params), obs, normal, tau, legal=legal), legal)
        return epsilon_greedy(q, explore, which, epsilon, legal)

    act_seeds = over_seeds(act_seed, layout.seeds)

    def act(params: Pieces, acting: Acting) -> Tensor:
        epsilon = acting.epsilon.expand(layout.seeds)
        return act_seeds(params, acting.obs, acting.uniform, acting.normal, epsilon, acting.legal)

    def update(params: Pieces, target: Pieces, state: OptState, learning: Learning) -> Metrics:
        which, noise_of_networks, shift, intensity = split_noise(config, network, learning.uniform, learning.normal)
        exponent, returns = learning.importance_exponent, learning.returns
        batch, rows = sample(layout, learning.storage, which, exponent, network.module.tiles(), returns)
        batch = batch._replace(legal=learning.legal)
        if config.augment:
            batch = augmented(config, batch, shift, intensity)
        new_params, new_state, priority, metrics = update_seeds(params, target, state, batch, noise_of_networks)
        for old, new in zip(leaves((params, state)), leaves((new_params, new_state)), strict=True):
            old.copy_(new)
        if config.target_ema_rate is not None:
            for piece, new in zip(target, new_params, strict=True):
                piece.lerp_(new, config.target_ema_rate)
        if config.prioritized:
            priorities.write(learning.storage.priorities, rows, priority.double() ** config.priority_exponent)
        return metrics

    def act_update(
        params: Pieces, target: Pieces, state: OptState, acting: Acting, learning: Learning
    ) -> tuple[Tensor, Metrics]:
        action = act(target if config.act_with_target else network.reading(params, state.rounded), acting)
        return action, update(params, target, state, learning)

    def ready(function: Callable[..., Any], compile: bool) -> Callable[..., Any]:
        made_from = function.__name__, read_by_calls(config), layout, network.module, network.slices
        return torch.no_grad()(compiled(function, device, made_from) if compile else function)

    return {"act": ready(act, compile_act), "update": ready(update, compile), "act_update": ready(act_update, compile)}


UNREAD_BY_CALLS = (
    "learning_starts_steps", "replay_ratio", "replay_capacity", "target_period_updates", "epsilon_start", "epsilon_end",
    "reset_every_steps", "reset_keep",
    "epsilon_decay_steps", "importance_exponent_start", "importance_exponent_end", "importance_anneal_steps",
)  # fmt: skip
"""Of an agent's settings, those that decide when its calls are made and what they are given."""


def read_by_calls(config: AgentConfig) -> dict[str, Any]:
    """The settings that compiled calls depend on."""
    return {name: value for name, value in asdict(config).items() if name not in UNREAD_BY_CALLS}


def augmented(config: AgentConfig, batch: Batch, shift: Tensor, intensity: Tensor) -> Batch:
    """The batch [S, B, ...] with its images shifted and brightened, every one apart."""

    def moved(obs: Tensor, shift: Tensor, intensity: Tensor) -> Tensor:
        """Images [..., C, H, W], with shifts [..., 2] and brightness [...]."""
        leading = intensity.dim()
        flat = obs.flatten(0, leading - 1), shift.flatten(0, leading - 1), intensity.flatten()
        return augment(*flat, config.shift_pixels, config.intensity_scale).view(obs.shape)

    batch = batch._replace(
        obs=moved(batch.obs, shift[:, 0], intensity[:, 0]), next_obs=moved(batch.next_obs, shift[:, 1], intensity[:, 1])
    )
    if batch.ahead:
        after = moved(batch.ahead.obs, shift[:, 2:].transpose(1, 2), intensity[:, 2:].transpose(1, 2))
        batch = batch._replace(ahead=batch.ahead._replace(obs=after))
    return batch
