"""The update of one seed, as pure functions of tensors. ``agents/learner.py`` lifts it over seeds and compiles it.

Nothing here reads a value back to Python, so the same code runs eagerly, under vmap, compiled, and on CUDA without a sync.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from agents.config import AgentConfig
from agents.heads import categorical_projection, huber, log_policy, munchausen_bonus, quantile_huber_loss
from agents.networks import FlatNetwork, Pieces, masks
from agents.operators import once

# Before the exponent. An error of exactly 0 keeps a small priority, or its row would never be drawn again, and once all errors are 0
# nothing could be drawn at all (Schaul et al. 2016, section 3.3).
MIN_PRIORITY = 1e-6
MAX_PRIORITY = 1e30  # a value that overflowed is no reason to look for a row behind the last one
MAX_CROSS_ENTROPY_PRIORITY = (
    100.0  # dqn_zoo, rainbow/agent.py. The other heads' errors have the scale of the rewards: no limit fits all
)


class Ahead(NamedTuple):
    """What came after the observations of B transitions, K steps of it."""

    obs: Tensor  # [B, K, *obs_shape] after one step, two, ...; in an update [B x K, ...], what QNetwork.scaled makes of them
    action: Tensor  # [B, K] int64 that led to each
    alive: Tensor  # [B, K] 1 where it belongs to the same life as the first observation, 0 where its number means nothing


class Batch(NamedTuple):
    """B transitions, n-step returns already summed (agents/replay.py)."""

    obs: Tensor  # [B, *obs_shape], or what QNetwork.scaled makes of them
    action: Tensor  # [B] int64
    reward: Tensor  # [B] discounted sum of the rewards up to the bootstrap
    discount: Tensor  # [B] gamma^k of the bootstrap, 0 after a termination or life loss
    next_obs: Tensor  # [B, *obs_shape] where to bootstrap
    weight: Tensor  # [B] importance weight, 1 where sampling is uniform
    legal: Tensor | None = None  # [A] the outputs that are actions of this game; None or [0]: all are
    ahead: Ahead | tuple[()] = ()  # for self_predict


class UpdateNoise(NamedTuple):
    """The random numbers of one update of one seed, a sample of its own for every network that is looked at.

    The first axis is online at obs, target, online at next_obs (for double). Without noisy layers W is 0, without iqn the N are.
    """

    normal: Tensor  # [3, W] standard normal
    tau: Tensor  # [B, N] of the prediction
    tau_target: Tensor  # [B, N'] of the target
    tau_select: Tensor  # [B, K] for the values that choose the bootstrap action


class OptState(NamedTuple):
    """Optimiser state of one seed; P parameters."""

    mean: Pieces  # [P] running mean of the gradient
    square: Pieces  # [P] running mean of its square
    updates: Tensor  # [] done so far, float32 (exact to 16.7 million)
    rounded: Pieces = ()  # what :meth:`FlatNetwork.rounded` gives of the parameters, or nothing


class Metrics(NamedTuple):
    """Scalars of one update, for the curves."""

    loss: Tensor
    mean_q: Tensor
    grad_norm: Tensor


class Bootstrap(NamedTuple):
    """The return of a transition as K weighted possibilities."""

    returns: Tensor  # [B, K]
    weights: Tensor  # [B, K], each row summing to 1; only c51 tells them apart


Update = Callable[[Pieces, Pieces, OptState, Batch, UpdateNoise], tuple[Pieces, OptState, Tensor, Metrics]]
Params = dict[str, Tensor]


def td_target(next_returns: Tensor, q_select: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
    """TD targets [B, Z]: r + discount * Z_target(s', a*), a* the action that ``q_select`` [B, A] values most.

    Args:
        next_returns: [B, A, Z] what the target network says of s': the action value (Z = 1), or quantiles of the return.
        q_select: [B, A] action values at s' of the target network, or of the online one in double Q-learning (van Hasselt et al.
            2016, eq. 4).
    """
    return reward[:, None] + discount[:, None] * best_action(next_returns, q_select)


def best_action(values: Tensor, q_select: Tensor) -> Tensor:
    """``values`` [B, A, Z] at the action that ``q_select`` [B, A] values most: [B, Z]."""
    best = q_select.argmax(dim=-1)
    return values.gather(1, best[:, None, None].expand(-1, 1, values.shape[-1])).squeeze(1)


def make_update(config: AgentConfig, network: FlatNetwork) -> Update:
    """The pure update of one seed.

    ``(params [P], target [P], optimiser state, batch, noise) -> (params, optimiser state, priorities [B], metrics)``, all [P] in
    pieces; a priority is what prioritised sampling goes by, before the exponent.
    """
    step = adam_step if config.optimiser == "adam" else rmsprop_step
    bootstrap = _munchausen_bootstrap if config.munchausen else _greedy_bootstrap
    loss_of = {"scalar": _scalar_loss, "c51": _categorical_loss, "qr": _quantile_loss, "iqn": _quantile_loss}[config.head]

    def loss_fn(params: Params, target: Params, batch: Batch, noise: UpdateNoise) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        tau = noise.tau if config.head == "iqn" else None
        if batch.ahead:
            out, distance = _self_prediction(config, network, params, target, batch, batch.ahead, noise.normal[0], tau)
        else:
            out = _forward(config, network, params, batch.obs, noise.normal[0], tau, batch.legal)  # [B, A, Z]
        with torch.no_grad():
            goal = Bootstrap(*map(once, bootstrap(config, network, params, target, batch, noise)))
        chosen = out.gather(1, batch.action[:, None, None].expand(-1, 1, out.shape[-1])).squeeze(1)  # [B, Z]
        losses, priorities = loss_of(config, network, chosen, tau, goal)
        values = network.q_values(out)
        mean_q = (values * batch.legal).sum(-1).mean() / batch.legal.sum() if masks(batch.legal) else values.mean()
        if batch.ahead:
            losses = losses + config.self_predict_weight * distance
        return (batch.weight * losses).mean(), (priorities.detach(), mean_q.detach())

    def update(
        params: Pieces, target: Pieces, state: OptState, batch: Batch, noise: UpdateNoise
    ) -> tuple[Pieces, OptState, Tensor, Metrics]:
        bf16 = config.precision == "bf16"
        obs, next_obs = (network.module.scaled(frames, bf16) for frames in (batch.obs, batch.next_obs))
        batch = batch._replace(obs=obs, next_obs=next_obs)
        if batch.ahead:
            after = network.module.scaled(batch.ahead.obs.flatten(0, 1), bf16)
            batch = batch._replace(ahead=batch.ahead._replace(obs=after))
        grad_fn = grad_and_value(loss_fn, has_aux=True)
        read = network.unflatten(*network.reading(params, state.rounded))
        grads, (loss, (priorities, mean_q)) = grad_fn(read, network.unflatten(*target), batch, noise)
        gradient = tuple(piece.float() for piece in network.flatten(grads, params))
        norm = torch.stack([piece.square().sum() for piece in gradient]).sum().sqrt()
        if config.max_grad_norm is not None:
            scale = once(config.max_grad_norm / norm.clamp(min=config.max_grad_norm))
            gradient = tuple(piece * scale for piece in gradient)
        if config.weight_decay:
            params = network.decayed(params, config.learning_rate * config.weight_decay)
        params, moments = step(params, gradient, state, config.learning_rate, config.optimiser_eps)
        state = moments._replace(rounded=network.rounded(params) if state.rounded else ())
        return params, state, priorities.clamp(MIN_PRIORITY, MAX_PRIORITY), Metrics(loss, mean_q, norm)

    return update


def _forward(
    config: AgentConfig,
    network: FlatNetwork,
    params: Params,
    obs: Tensor,
    noise: Tensor,
    tau: Tensor | None,
    legal: Tensor | None,
) -> Tensor:
    """The network at scaled observations as updates compute it, [B, A, Z]; gradients and targets see the same precision."""
    return network.apply(params, obs, noise, tau, bf16=config.precision == "bf16", scaled=True, legal=legal)


def _self_prediction(
    config: AgentConfig,
    network: FlatNetwork,
    params: Params,
    target: Params,
    batch: Batch,
    ahead: Ahead,
    noise: Tensor,
    tau: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The network at the observations [B, A, Z], and how far it predicts from what the target network sees later, [B].

    The squared distance of vectors of length 1, 2 - 2 cos, in the mean over the steps; those after the life's end count as 0
    (Schwarzer et al. 2021, eq. 5).
    """
    bf16 = config.precision == "bf16"
    out, predicted = network.predicting(params, batch.obs, ahead.action, noise, tau, bf16, batch.legal)
    with torch.no_grad():
        seen = once(network.projected(target, ahead.obs, bf16)).unflatten(0, ahead.action.shape)
    distance = (unit(predicted) - unit(seen)).square().sum(-1)  # [B, K]
    return out, (ahead.alive * distance).mean(-1)


def unit(vectors: Tensor) -> Tensor:
    """[..., D] with length 1; hardly any where they are shorter than a thousandth (the authors' code)."""
    return torch.nn.functional.normalize(vectors, dim=-1, eps=1e-3)


def _greedy_bootstrap(
    config: AgentConfig, network: FlatNetwork, params: Params, target: Params, batch: Batch, noise: UpdateNoise
) -> Bootstrap:
    """The return under the best next action, which the target network chooses, or the online one in double Q-learning."""
    iqn, legal = config.head == "iqn", batch.legal
    out = _forward(config, network, target, batch.next_obs, noise.normal[1], noise.tau_target if iqn else None, legal)
    selecting = out
    if config.double:
        tau = noise.tau_select if iqn else None
        selecting = _forward(config, network, params, batch.next_obs, noise.normal[2], tau, legal)
    elif iqn:
        selecting = _forward(config, network, target, batch.next_obs, noise.normal[1], noise.tau_select, legal)
    q_select = network.q_values(selecting, legal)
    if config.head == "c51":
        returns = batch.reward[:, None] + batch.discount[:, None] * network.module.support(out)
        return Bootstrap(returns, best_action(out, q_select).softmax(-1))
    returns = td_target(out, q_select, batch.reward, batch.discount)
    return Bootstrap(returns, torch.full_like(returns, 1 / returns.shape[-1]))


def _munchausen_bootstrap(
    config: AgentConfig, network: FlatNetwork, params: Params, target: Params, batch: Batch, noise: UpdateNoise
) -> Bootstrap:
    """The return under the softmax policy of the target network, with its entropy, and the log-policy in the reward.

    Vieillard et al. 2020, eq. 2 (M-DQN) and appendix B.2 (M-IQN). With n-step returns only the first reward gets its bonus, as in
    BTR (Clark et al. 2024): the others would need the observations in between.
    """
    iqn, temperature, legal = config.head == "iqn", config.munchausen_temperature, batch.legal
    out = _forward(config, network, target, batch.next_obs, noise.normal[1], noise.tau_target if iqn else None, legal)
    next_out = out
    if iqn:
        next_out = _forward(config, network, target, batch.next_obs, noise.normal[1], noise.tau_select, legal)
    now = _forward(config, network, target, batch.obs, noise.normal[1], noise.tau_select if iqn else None, legal)
    q_next, q_now = network.q_values(next_out, legal), network.q_values(now, legal)
    bonus = munchausen_bonus(q_now, batch.action, config.munchausen_alpha, temperature, config.munchausen_clip)
    scaled_log = log_policy(q_next, temperature)  # [B, A]
    policy = (scaled_log / temperature).exp()
    if masks(legal):
        scaled_log = scaled_log.masked_fill(~legal, 0)  # what has no probability has no entropy either
    reward, discount = (batch.reward + bonus)[:, None], batch.discount[:, None]
    if config.head == "c51":
        support = network.module.support(out)
        returns = reward[..., None] + discount[..., None] * (support - scaled_log[..., None])  # [B, A, Z]
        return Bootstrap(returns.flatten(1), (policy[..., None] * out.softmax(-1)).flatten(1))
    returns = reward + discount * (policy[..., None] * (out - scaled_log[..., None])).sum(1)
    return Bootstrap(returns, torch.full_like(returns, 1 / returns.shape[-1]))


# The losses of the heads: (config, network, prediction [B, Z] of the action taken, tau, goal) -> losses [B], priorities [B].


def _scalar_loss(
    config: AgentConfig, network: FlatNetwork, chosen: Tensor, tau: Tensor | None, goal: Bootstrap
) -> tuple[Tensor, Tensor]:
    td_error = (goal.returns - chosen).squeeze(-1)
    return (huber(td_error) if config.loss == "huber" else torch.square(td_error)), td_error.abs()


def _categorical_loss(
    config: AgentConfig, network: FlatNetwork, chosen: Tensor, tau: Tensor | None, goal: Bootstrap
) -> tuple[Tensor, Tensor]:
    projected = categorical_projection(network.module.support(chosen), goal.returns, goal.weights)
    cross_entropy = -(projected * chosen.log_softmax(-1)).sum(-1)
    return cross_entropy, cross_entropy.clamp(max=MAX_CROSS_ENTROPY_PRIORITY)


def _quantile_loss(
    config: AgentConfig, network: FlatNetwork, chosen: Tensor, tau: Tensor | None, goal: Bootstrap
) -> tuple[Tensor, Tensor]:
    if tau is None:
        count = chosen.shape[-1]
        tau = (torch.arange(count, device=chosen.device, dtype=chosen.dtype) + 0.5) / count
    loss = quantile_huber_loss(chosen, tau, goal.returns)
    return loss, loss


def adam_step(params: Pieces, gradient: Pieces, state: OptState, learning_rate: float, eps: float) -> tuple[Pieces, OptState]:
    """One step of Adam (Kingma and Ba 2015, algorithm 1) with beta 0.9 and 0.999; all [P]."""
    updates = state.updates + 1
    mean = tuple(0.9 * m + 0.1 * g for m, g in zip(state.mean, gradient, strict=True))
    square = tuple(0.999 * s + 0.001 * g * g for s, g in zip(state.square, gradient, strict=True))
    # two factors computed once: a division of every parameter costs more than its product
    step_size, debias = once(torch.stack((learning_rate / (1 - 0.9**updates), 1 / (1 - 0.999**updates))))
    moved = (p - step_size * m / ((s * debias).sqrt() + eps) for p, m, s in zip(params, mean, square, strict=True))
    return tuple(moved), OptState(mean, square, updates)


def rmsprop_step(
    params: Pieces, gradient: Pieces, state: OptState, learning_rate: float, eps: float
) -> tuple[Pieces, OptState]:
    """One step of centred RMSProp with decay 0.95, epsilon under the root (as in dqn_zoo's optax.rmsprop); all [P]."""
    mean = tuple(0.95 * m + 0.05 * g for m, g in zip(state.mean, gradient, strict=True))
    square = tuple(0.95 * s + 0.05 * g * g for s, g in zip(state.square, gradient, strict=True))
    scaled = (g * torch.rsqrt(s - m * m + eps) for g, m, s in zip(gradient, mean, square, strict=True))
    moved = tuple(p - learning_rate * g for p, g in zip(params, scaled, strict=True))
    return moved, OptState(mean, square, state.updates + 1)
