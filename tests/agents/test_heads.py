"""The parts of the heads against the papers' formulas, written out as loops over single numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sb3_contrib.common.utils import quantile_huber_loss as sb3_quantile_huber_loss

from agents.heads import categorical_projection, log_policy, munchausen_bonus, quantile_huber_loss

SUPPORT = np.linspace(-2.0, 3.0, 11)  # spacing 0.5


def project(support: NDArray[np.float64], returns: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bellemare et al. 2017, algorithm 1: every return gives its mass to its neighbours below and above, in shares."""
    low, spacing = support[0], support[1] - support[0]
    result = np.zeros((len(returns), len(support)))
    for b, (row, mass) in enumerate(zip(returns, weights, strict=True)):
        for value, p in zip(row, mass, strict=True):
            at = (min(max(value, support[0]), support[-1]) - low) / spacing
            at = min(max(at, 0.0), len(support) - 1.0)
            below, above = math.floor(at), math.ceil(at)
            if below == above:
                result[b, below] += p
            else:
                result[b, below] += p * (above - at)
                result[b, above] += p * (at - below)
    return result


def ours(returns: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return categorical_projection(*map(torch.from_numpy, (SUPPORT, returns, weights))).numpy()


def masses(rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


def test_the_projection_splits_a_return_between_its_neighbours() -> None:
    """By hand: atoms at -2, -1.5, ... 3; 0.1 lies a fifth of the way from 0 (atom 4) to 0.5 (atom 5)."""
    expected = np.zeros((1, 11))
    expected[0, 4], expected[0, 5] = 0.8, 0.2
    np.testing.assert_allclose(ours(np.array([[0.1]]), np.array([[1.0]])), expected, atol=1e-12)


@pytest.mark.parametrize("count", [1, 11, 30])
@pytest.mark.parametrize("where", ["between atoms", "on atoms", "at the ends", "beyond the ends", "everywhere"])
def test_the_projection_equals_the_papers_algorithm(where: str, count: int) -> None:
    rng = np.random.default_rng(count)
    shape = (40, count)
    returns = {
        "between atoms": rng.uniform(-2, 3, shape),
        "on atoms": rng.choice(SUPPORT, shape),
        "at the ends": rng.choice(SUPPORT[[0, -1]], shape),
        "beyond the ends": rng.choice([-1e6, -2.0001, 3.0001, 7.3], shape),
        "everywhere": rng.normal(scale=3, size=shape),
    }[where]
    weights = masses(rng, *shape)
    actual = ours(returns, weights)
    np.testing.assert_allclose(actual, project(SUPPORT, returns, weights), atol=1e-12)
    np.testing.assert_allclose(actual.sum(1), 1)
    assert (actual >= 0).all()


def test_the_projection_keeps_the_mean_of_returns_inside_the_support() -> None:
    rng = np.random.default_rng(0)
    returns, weights = rng.uniform(-2, 3, (50, 7)), masses(rng, 50, 7)
    np.testing.assert_allclose(ours(returns, weights) @ SUPPORT, (returns * weights).sum(1))


def test_the_projection_of_a_terminal_transition_is_its_reward_alone() -> None:
    """Discount 0: all atoms fall onto the reward, whatever was expected of the next state."""
    rng = np.random.default_rng(0)
    reward = np.array([-5.0, -2.0, 0.75, 1.0, 9.0])
    returns = reward[:, None] + 0.0 * SUPPORT[None]
    expected = np.zeros((5, 11))
    for b, places in enumerate([{0: 1.0}, {0: 1.0}, {5: 0.5, 6: 0.5}, {6: 1.0}, {10: 1.0}]):
        for place, mass in places.items():
            expected[b, place] = mass
    np.testing.assert_allclose(ours(returns, masses(rng, 5, 11)), expected, atol=1e-12)


@pytest.mark.parametrize(("low", "high", "atoms"), [(-10.0, 10.0, 51), (0.0, 200.0, 51), (-0.3, 0.7, 2)])
def test_the_projection_loses_no_mass_in_single_precision(low: float, high: float, atoms: int) -> None:
    support = torch.linspace(low, high, atoms)
    g = torch.Generator().manual_seed(0)
    returns = torch.cat([support.expand(20, -1), (high - low) * torch.randn(20, atoms, generator=g)])
    weights = torch.full_like(returns, 1 / atoms)
    expected = project(*(x.double().numpy() for x in (support, returns, weights)))
    actual = categorical_projection(support, returns, weights)
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    np.testing.assert_allclose(actual.sum(1), 1, atol=1e-5)


def quantile_loss_by_loops(quantiles: NDArray[np.float64], tau: NDArray[np.float64], goal: NDArray[np.float64]) -> list[float]:
    """Dabney et al. 2018a, eq. 3: sum over predictions i of the mean over targets j of rho_tau_i(target_j - prediction_i)."""
    losses = []
    for row, taus, targets in zip(quantiles, np.broadcast_to(tau, quantiles.shape), goal, strict=True):
        total = 0.0
        for prediction, t in zip(row, taus, strict=True):
            for target in targets:
                delta = target - prediction
                huber = 0.5 * delta**2 if abs(delta) <= 1 else abs(delta) - 0.5
                total += (1 - t if delta < 0 else t) * huber / len(targets)
        losses.append(total)
    return losses


@pytest.mark.parametrize("own_tau", [False, True], ids=["one tau for all rows", "a tau for each row"])
def test_the_quantile_huber_loss_equals_the_papers_formula(own_tau: bool) -> None:
    rng = np.random.default_rng(0)
    quantiles, goal = rng.normal(scale=1.5, size=(30, 5)), rng.normal(scale=1.5, size=(30, 7))
    tau = rng.random((30, 5) if own_tau else 5)
    actual = quantile_huber_loss(*map(torch.from_numpy, (quantiles, tau, goal)))
    np.testing.assert_allclose(actual, quantile_loss_by_loops(quantiles, tau, goal))


def test_overestimating_a_high_quantile_costs_little_and_underestimating_it_much() -> None:
    """By hand: at tau 0.9 an error of 2 has the Huber loss 1.5 and the weight 0.9 from below, 0.1 from above."""
    tau = torch.tensor([0.9])
    below, above = quantile_huber_loss(torch.tensor([[0.0], [4.0]]), tau, torch.tensor([[2.0], [2.0]]))
    assert (below.item(), above.item()) == (pytest.approx(1.35), pytest.approx(0.15))


def test_the_quantile_huber_loss_is_that_of_sb3_contrib() -> None:
    """Theirs is averaged over batch and targets after the sum over predictions: the mean of ours over the batch.

    Without their sum it is averaged over the N predictions as well: 1 / N of that.
    """
    g = torch.Generator().manual_seed(0)
    quantiles, goal = 2 * torch.randn(16, 10, generator=g), 2 * torch.randn(16, 10, generator=g)
    midpoints = (torch.arange(10) + 0.5) / 10
    mine = quantile_huber_loss(quantiles, midpoints, goal).mean()
    torch.testing.assert_close(mine, sb3_quantile_huber_loss(quantiles, goal))
    torch.testing.assert_close(mine / 10, sb3_quantile_huber_loss(quantiles, goal, sum_over_quantiles=False))
    tau = torch.rand(16, 10, generator=g)
    mine = quantile_huber_loss(quantiles, tau, goal[:, :4]).mean()
    torch.testing.assert_close(mine, sb3_quantile_huber_loss(quantiles, goal[:, :4], cum_prob=tau[..., None]))


def test_minimising_the_quantile_loss_finds_the_quantiles_of_the_target() -> None:
    """A simulation with known truth: 101 targets 0, 10, ... 1000 (Huber's round bottom is small beside them)."""
    goal = torch.linspace(0, 1000, 101)[None]
    tau = torch.tensor([0.1, 0.5, 0.85])
    guess = torch.full((1, 3), 300.0, requires_grad=True)
    optimiser = torch.optim.Adam([guess], lr=3.0)
    for _ in range(600):
        optimiser.zero_grad()
        quantile_huber_loss(guess, tau, goal).sum().backward()
        optimiser.step()
    np.testing.assert_allclose(guess.detach()[0], [100, 500, 850], atol=12)


def softmax_by_loops(q: NDArray[np.float64], temperature: float) -> list[float]:
    powers = [math.exp((value - max(q)) / temperature) for value in q]
    return [power / sum(powers) for power in powers]


def test_log_policy_is_the_scaled_logarithm_of_the_softmax() -> None:
    rng = np.random.default_rng(0)
    q = rng.normal(scale=0.1, size=(20, 4))
    expected = [[0.03 * math.log(p) for p in softmax_by_loops(row, 0.03)] for row in q]
    np.testing.assert_allclose(log_policy(torch.from_numpy(q), 0.03), expected, atol=1e-12)


def test_log_policy_neither_overflows_nor_loses_the_gap() -> None:
    """Far from the maximum the scaled log-policy is the gap to it: exp(-10,000 / 0.03) is 0 to any precision."""
    q = torch.tensor([[1e4, 0.0, 9e3]])
    torch.testing.assert_close(log_policy(q, 0.03), torch.tensor([[0.0, -1e4, -1e3]]))


def test_the_munchausen_bonus_is_the_clipped_scaled_log_policy_of_the_action() -> None:
    rng = np.random.default_rng(1)
    q, action = rng.normal(scale=0.6, size=(200, 3)), rng.integers(0, 3, 200)
    bonuses = []
    for row, a in zip(q, action, strict=True):
        p = softmax_by_loops(row, 0.03)[a]
        bonuses.append(0.9 * max(-1.0, min(0.0, 0.03 * math.log(p))))
    assert min(bonuses) == -0.9, "some are clipped"
    assert len(set(bonuses)) > 100, "some are not"
    actual = munchausen_bonus(torch.from_numpy(q), torch.from_numpy(action), 0.9, 0.03, -1.0)
    np.testing.assert_allclose(actual, bonuses, atol=1e-12)
