"""What the heads learn towards, and how wrong they are: the distributional parts of the family as pure functions.

B transitions, A actions, Z atoms or quantiles. Every target is a set of K returns with weights: the heads differ in what the K
are and in the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor


def huber(x: Tensor) -> Tensor:
    """Huber loss with threshold 1: its gradient is the TD error clipped to -1..1 (Mnih et al. 2015, Methods)."""
    size = x.abs()
    return torch.where(size < 1, 0.5 * x * x, size - 0.5)


def categorical_projection(support: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
    """Distribute weights over the two nearest atoms (Bellemare et al. 2017, eq. 7).

    Args:
        support: [Z] evenly spaced, ascending.
        returns: [B, K]; what lies beyond the ends of the support counts as its end.
        weights: [B, K], each row summing to 1.

    Returns:
        [B, Z] probabilities of the atoms.
    """
    spacing = support[1] - support[0]
    clipped = returns.clamp(support[0], support[-1])
    # A triangle of one spacing around every atom: one dense product instead of scattered additions, and without a case for
    # returns that lie exactly on an atom, where public implementations have lost the mass.
    distance = (clipped[:, None, :] - support[:, None]).abs() / spacing  # [B, Z, K]
    return ((1 - distance).clamp(min=0) * weights[:, None, :]).sum(-1)


def quantile_huber_loss(quantiles: Tensor, tau: Tensor, goal: Tensor) -> Tensor:
    """Quantile Huber loss with threshold 1 (Dabney et al. 2018a, eq. 3; 2018b, eq. 10).

    Args:
        quantiles: [B, N] predicted returns.
        tau: [B, N] or [N], which quantiles they are.
        goal: [B, K] equally likely target returns.

    Returns:
        [B]: summed over the N predictions, averaged over the K targets.
    """
    error = goal[:, None, :] - quantiles[:, :, None]  # [B, N, K]
    weight = (tau[..., None] - (error < 0).to(error.dtype)).abs()
    return (weight * huber(error)).mean(-1).sum(-1)


def log_policy(q: Tensor, temperature: float) -> Tensor:
    """[..., A]: temperature x log softmax(q / temperature), without overflow (Vieillard et al. 2020, appendix B.1)."""
    return temperature * torch.log_softmax(q / temperature, dim=-1)


def munchausen_bonus(q: Tensor, action: Tensor, alpha: float, temperature: float, clip: float) -> Tensor:
    """[B]: the scaled log-policy of the action taken, added to the reward (Vieillard et al. 2020, eq. 1 and section 4).

    Args:
        q: [B, A] action values of the target network at the observation.
        action: [B] int64.
        clip: the scaled log-policy is clipped to clip..0.
    """
    taken = log_policy(q, temperature).gather(-1, action[:, None]).squeeze(-1)
    return alpha * taken.clamp(clip, 0)
