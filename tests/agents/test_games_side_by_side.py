"""Seeds that play games with different numbers of actions: each acts and learns as it does alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agents.compiler import compiled
from tests.agents.test_learner import CONFIG, Toy, learner, train

GAMES: dict[str, dict[str, Any]] = {
    "dqn": {},
    "dueling, double, clipped": {"dueling": True, "double": True, "max_grad_norm": 1.0},
    "c51, prioritized": {"head": "c51", "dueling": True, "num_atoms": 11, "prioritized": True, "n_step": 3},
    "qr": {"head": "qr", "num_quantiles": 5},
    "iqn": {"head": "iqn", "num_tau": 4, "num_tau_target": 4, "num_tau_act": 4, "tau_cosines": 8},
    "munchausen": {"munchausen": True},
    "munchausen, c51": {"munchausen": True, "head": "c51", "num_atoms": 11},
}


@pytest.mark.parametrize("changes", GAMES.values(), ids=GAMES)
def test_a_seed_beside_games_with_more_actions_acts_and_learns_as_it_does_alone(changes: dict[str, Any]) -> None:
    """Padded outputs must be chosen neither by the agent nor by its targets, nor be part of any mean or gradient."""
    config = replace(CONFIG, **changes)
    together, steps = learner((3, 4, 5), config, num_actions=(2, 5, 3)), 90
    toys = {seed: Toy((seed,)) for seed in together.seeds}
    everyone = Everyone(list(toys.values()))
    losses, actions = train(together, steps, world=everyone)
    assert len(losses) > 60
    lone = []
    for k, (seed, count) in enumerate(zip((3, 4, 5), (2, 5, 3), strict=True)):
        alone = learner((seed,), config, num_actions=count)
        assert torch.equal(alone.agent(0)[1], learner((3, 4, 5), config, num_actions=(2, 5, 3)).agent(k)[1]), (
            "it begins as alone"
        )
        losses_alone, actions_alone = train(alone, steps)
        np.testing.assert_array_equal([row[k] for row in actions], [row[0] for row in actions_alone])
        np.testing.assert_allclose([row[k] for row in losses], [row[0] for row in losses_alone], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(together.agent(k)[1], alone.agent(0)[1], rtol=1e-3, atol=1e-4)
        obs = np.random.default_rng(0).normal(size=(together.layout.seeds * 20, 4)).astype(np.float32)
        np.testing.assert_array_equal(together.greedy(obs)[20 * k : 20 * k + 20], alone.greedy(obs[20 * k : 20 * k + 20]))
        lone.append(alone)
    everyones, own = together.update(), [alone.update() for alone in lone]
    for name in ("mean_q", "grad_norm"):
        torch.testing.assert_close(
            getattr(everyones, name), torch.cat([getattr(one, name) for one in own]), rtol=1e-3, atol=1e-4
        )


class Everyone(Toy):
    """Toys side by side, each with as many actions as its learner takes."""

    def __init__(self, toys: list[Toy]) -> None:
        self.toys = toys

    def obs(self) -> np.ndarray:
        return np.concatenate([toy.obs() for toy in self.toys])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        steps = [toy.step(action[k : k + 1]) for k, toy in enumerate(self.toys)]
        reward, terminal, truncated, final = (np.concatenate([step[k] for step in steps]) for k in range(4))
        return reward, terminal, truncated, final


def test_noisy_seeds_of_several_games_explore_their_own_actions_and_leave_the_others_parameters_at_zero() -> None:
    config = replace(CONFIG, noisy=True, dueling=True, head="c51", num_atoms=11, epsilon_end=0.5)
    it = learner((3, 4), config, num_actions=(2, 5))
    _, actions = train(it, 150)
    first, second = (np.array([row[k] for row in actions]) for k in (0, 1))
    assert set(first) == {0, 1}
    assert set(second) == {0, 1, 2, 3, 4}
    for name, values in it.network.unflatten(it.params[0]).items():
        if name.startswith("advantage."):
            assert values[: 2 * 11].abs().sum() > 0
            assert not values[2 * 11 :].any(), "of the three actions that the first game has not"


@pytest.mark.compiler
@pytest.mark.parametrize("way", ["cpu", "cuda"])
def test_compiled_learners_of_several_games_compute_what_uncompiled_ones_do(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU; ``way`` is how it is compiled."""
    monkeypatch.setattr("agents.learner.compiled", lambda function, device, made_from: compiled(function, torch.device(way)))
    plain, fast = (
        learner((3, 4), replace(CONFIG, dueling=True), num_actions=(2, 5), compile=compile, together=True)
        for compile in (False, True)
    )
    expected, found = train(plain, 60), train(fast, 60)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-3, atol=1e-5)
