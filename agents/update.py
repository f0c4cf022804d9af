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
from agents.networks import FlatNetwork


class Batch(NamedTuple):
    """B transitions, n-step returns already summed (agents/replay.py)."""

    obs: Tensor  # [B, *obs_shape]
    action: Tensor  # [B] int64
    reward: Tensor  # [B] discounted sum of the rewards up to the bootstrap
    discount: Tensor  # [B] gamma^k of the bootstrap, 0 after a termination or life loss
    next_obs: Tensor  # [B, *obs_shape] where to bootstrap


class OptState(NamedTuple):
    """Optimiser state of one seed; P parameters."""

    mean: Tensor  # [P] running mean of the gradient
    square: Tensor  # [P] running mean of its square
    updates: Tensor  # [] done so far, float32 (exact to 16.7 million)


class Metrics(NamedTuple):
    """Scalars of one update, for the curves."""

    loss: Tensor
    mean_q: Tensor
    grad_norm: Tensor


Update = Callable[[Tensor, Tensor, OptState, Batch], tuple[Tensor, OptState, Tensor, Metrics]]


def td_target(q_next_target: Tensor, q_next_online: Tensor | None, reward: Tensor, discount: Tensor) -> Tensor:
    """TD target [B]: r + discount * Q_target(s', a*), where a* maximises Q_target, or Q_online in double Q-learning.

    Args:
        q_next_target: [B, A] target network at the bootstrap observation.
        q_next_online: [B, A] online network there (van Hasselt et al. 2016, eq. 4), or None for plain Q-learning.
    """
    selector = q_next_target if q_next_online is None else q_next_online
    best = selector.argmax(dim=-1, keepdim=True)
    return reward + discount * q_next_target.gather(-1, best).squeeze(-1)


def huber(x: Tensor) -> Tensor:
    """Huber loss with threshold 1: its gradient is the TD error clipped to -1..1 (Mnih et al. 2015, Methods)."""
    size = x.abs()
    return torch.where(size < 1, 0.5 * x * x, size - 0.5)


def make_update(config: AgentConfig, network: FlatNetwork) -> Update:
    """The pure update of one seed: ``(params [P], target [P], optimiser state, batch) -> (params, state, |TD error| [B], metrics)``."""
    loss_of = huber if config.loss == "huber" else torch.square
    step = adam_step if config.optimiser == "adam" else rmsprop_step

    def loss_fn(params: dict[str, Tensor], target: dict[str, Tensor], batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q = network.apply(params, batch.obs)
        q_next_online = network.apply(params, batch.next_obs).detach() if config.double else None
        q_next_target = network.apply(target, batch.next_obs).detach()
        goal = td_target(q_next_target, q_next_online, batch.reward, batch.discount)
        td_error = goal - q.gather(-1, batch.action[:, None]).squeeze(-1)
        return loss_of(td_error).mean(), (td_error.abs().detach(), q.mean().detach())

    def update(params: Tensor, target: Tensor, state: OptState, batch: Batch) -> tuple[Tensor, OptState, Tensor, Metrics]:
        grad_fn = grad_and_value(loss_fn, has_aux=True)
        grads, (loss, (td_error, mean_q)) = grad_fn(network.unflatten(params), network.unflatten(target), batch)
        gradient = torch.cat([grads[name].flatten() for name in network.slices])
        norm = gradient.square().sum().sqrt()
        if config.max_grad_norm is not None:
            gradient = gradient * (config.max_grad_norm / norm.clamp(min=config.max_grad_norm))
        params, state = step(params, gradient, state, config.learning_rate, config.optimiser_eps)
        return params, state, td_error, Metrics(loss, mean_q, norm)

    return update


def adam_step(params: Tensor, gradient: Tensor, state: OptState, learning_rate: float, eps: float) -> tuple[Tensor, OptState]:
    """One step of Adam (Kingma and Ba 2015, algorithm 1) with beta 0.9 and 0.999; all tensors [P]."""
    updates = state.updates + 1
    mean = 0.9 * state.mean + 0.1 * gradient
    square = 0.999 * state.square + 0.001 * gradient * gradient
    mean_hat = mean / (1 - 0.9**updates)
    square_hat = square / (1 - 0.999**updates)
    return params - learning_rate * mean_hat / (square_hat.sqrt() + eps), OptState(mean, square, updates)


def rmsprop_step(
    params: Tensor, gradient: Tensor, state: OptState, learning_rate: float, eps: float
) -> tuple[Tensor, OptState]:
    """One step of centred RMSProp with decay 0.95, epsilon under the root (as in dqn_zoo's optax.rmsprop); all tensors [P]."""
    mean = 0.95 * state.mean + 0.05 * gradient
    square = 0.95 * state.square + 0.05 * gradient * gradient
    scaled = gradient * torch.rsqrt(square - mean * mean + eps)
    return params - learning_rate * scaled, OptState(mean, square, state.updates + 1)
