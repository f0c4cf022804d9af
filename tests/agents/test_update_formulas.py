"""Every head and every way to bootstrap, end to end through the update, against the papers' formulas in loops.

All counts differ, so that none can stand in for another; layers are noisy, so that each network must be looked at under its own
sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import entropy

from agents.config import AgentConfig
from agents.networks import FlatNetwork
from agents.update import Batch, UpdateNoise, make_update
from tests.agents.test_update import batch, fresh, network, params

SMALL = AgentConfig(
    hidden=(16, 16),
    noisy=True,
    batch_size=8,
    num_atoms=11,
    v_min=-2.0,
    v_max=3.0,
    num_quantiles=5,
    num_tau=6,
    num_tau_target=7,
    num_tau_act=4,
    munchausen_temperature=0.3,  # policies that are far from certain, so that their entropy counts
    munchausen_clip=-0.4,
    optimiser="rmsprop",  # lr / sqrt(eps) = 1: the step is the gradient
    optimiser_eps=1e12,
    learning_rate=1e6,
)
MODES: dict[str, dict[str, bool]] = {
    "greedy": {},
    "double": {"double": True},
    "munchausen": {"munchausen": True},
}
Head = Literal["scalar", "c51", "qr", "iqn"]
HEADS: list[Head] = ["scalar", "c51", "qr", "iqn"]
Returns = list[tuple[float, float]]  # possible returns of one transition: (value, probability)


@dataclass
class Case:
    """One update of one agent, and what the networks say, number by number, in double precision."""

    config: AgentConfig
    net: FlatNetwork
    online: torch.Tensor
    target: torch.Tensor
    batch: Batch
    noise: UpdateNoise

    @classmethod
    def of(cls, head: Head, mode: str, seed: int = 0) -> Case:
        config = replace(SMALL, head=head, **MODES[mode])
        net = network(config)
        g = torch.Generator().manual_seed(seed)
        iqn = head == "iqn"
        taus = [
            torch.rand(8, n if iqn else 0, generator=g) for n in (config.num_tau, config.num_tau_target, config.num_tau_act)
        ]
        noise = UpdateNoise(torch.randn(3, net.noise_width, generator=g), *taus)
        data = batch(seed=seed)._replace(weight=torch.rand(8, generator=g) + 0.1)
        assert 0 in data.discount
        return cls(config, net, 2 * params(net, 1), 2 * params(net, 2), data, noise)

    def update(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Gradient by way of the step, priorities, loss."""
        (moved,), _, priorities, metrics = make_update(self.config, self.net)(
            (self.online,), (self.target,), fresh(self.net.size), self.batch, self.noise
        )
        return self.online - moved, priorities, metrics.loss.item()

    def outputs(self, flat: torch.Tensor, obs: torch.Tensor, which: int, tau: torch.Tensor) -> NDArray[np.float64]:
        """[B, A, Z]: the network under the sample ``which`` of the noise; c51: probabilities instead of logits."""
        iqn = self.config.head == "iqn"
        out = self.net.apply(self.net.unflatten(flat), obs, self.noise.normal[which], tau if iqn else None)
        numbers = out.detach().double().numpy()
        return softmax(numbers, axis=-1) if self.config.head == "c51" else numbers

    def atoms(self) -> list[float]:
        config = self.config
        return [config.v_min + k * (config.v_max - config.v_min) / (config.num_atoms - 1) for k in range(config.num_atoms)]

    def value(self, outputs: NDArray[np.float64]) -> float:
        """The action value of one action's outputs [Z]."""
        if self.config.head == "c51":
            return sum(p * z for p, z in zip(outputs, self.atoms(), strict=True))
        return sum(outputs) / len(outputs)

    def values(self, outputs: NDArray[np.float64]) -> list[list[float]]:
        return [[self.value(action) for action in row] for row in outputs]

    def goals(self) -> list[Returns]:
        """The possible returns of each transition."""
        data, noise = self.batch, self.noise
        out = self.outputs(self.target, data.next_obs, 1, noise.tau_target)
        q_target = self.values(self.outputs(self.target, data.next_obs, 1, noise.tau_select))
        q_online = self.values(self.outputs(self.online, data.next_obs, 2, noise.tau_select))
        q_now = self.values(self.outputs(self.target, data.obs, 1, noise.tau_select))
        goals = []
        for b in range(8):
            reward, discount = data.reward[b].item(), data.discount[b].item()
            if self.config.munchausen:
                goals.append(self._soft(reward, discount, out[b], q_target[b], q_now[b], int(data.action[b])))
            else:
                q = q_online[b] if self.config.double else q_target[b]
                best = q.index(max(q))
                goals.append([(reward + discount * z, p) for z, p in self._distribution(out[b][best])])
        return goals

    def _distribution(self, outputs: NDArray[np.float64]) -> Returns:
        if self.config.head == "c51":
            return list(zip(self.atoms(), outputs.tolist(), strict=True))
        return [(z, 1 / len(outputs)) for z in outputs.tolist()]

    def _soft(
        self, reward: float, discount: float, out: NDArray[np.float64], q: list[float], q_now: list[float], action: int
    ) -> Returns:
        """Vieillard et al. 2020: r + alpha [tau ln pi(a|s)] clipped + gamma sum_a' pi(a'|s') (z(s', a') - tau ln pi(a'|s')).

        Quantiles are averaged over actions one by one, as in M-IQN (appendix B.2). A histogram is a mixture: every action adds its
        own, moved by its own entropy term.
        """
        temperature = self.config.munchausen_temperature

        def log_pi(values: list[float], a: int) -> float:
            return math.log(math.exp(values[a] / temperature) / sum(math.exp(v / temperature) for v in values))

        bonus = min(0.0, max(self.config.munchausen_clip, temperature * log_pi(q_now, action)))
        start = reward + self.config.munchausen_alpha * bonus
        if self.config.head == "c51":
            return [
                (start + discount * (z - temperature * log_pi(q, a)), math.exp(log_pi(q, a)) * p)
                for a in range(len(q))
                for z, p in self._distribution(out[a])
            ]
        count = out.shape[1]
        return [
            (
                start
                + discount * sum(math.exp(log_pi(q, a)) * (out[a, k] - temperature * log_pi(q, a)) for a in range(len(q))),
                1 / count,
            )
            for k in range(count)
        ]

    def losses(self, flat: torch.Tensor, goals: list[Returns]) -> list[float]:
        """The loss of each transition for goals that stand still."""
        out = self.outputs(flat, self.batch.obs, 0, self.noise.tau)
        return [self._loss(out[b, self.batch.action[b]], self.noise.tau[b].tolist(), goals[b]) for b in range(8)]

    def _loss(self, chosen: NDArray[np.float64], tau: list[float], goal: Returns) -> float:
        if self.config.head == "c51":
            return -sum(m * math.log(p) for m, p in zip(self._projected(goal), chosen, strict=True))
        if self.config.head == "scalar":
            return huber_of(goal[0][0] - chosen[0])
        if self.config.head == "qr":
            tau = [(2 * i - 1) / (2 * len(chosen)) for i in range(1, len(chosen) + 1)]
        return sum(
            abs(t - (z < theta)) * huber_of(z - theta) * p for theta, t in zip(chosen, tau, strict=True) for z, p in goal
        )

    def _projected(self, goal: Returns) -> list[float]:
        """Bellemare et al. 2017, algorithm 1."""
        atoms = self.atoms()
        mass = [0.0] * len(atoms)
        for z, p in goal:
            at = (min(max(z, atoms[0]), atoms[-1]) - atoms[0]) / (atoms[1] - atoms[0])
            below = min(int(at), len(atoms) - 2)
            mass[below] += p * (below + 1 - at)
            mass[below + 1] += p * (at - below)
        return mass


def huber_of(x: float) -> float:
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


cases = pytest.mark.parametrize(("head", "mode"), [(head, mode) for head in HEADS for mode in MODES])


@cases
def test_loss_and_priorities_of_every_head_equal_the_papers_formulas(head: Head, mode: str) -> None:
    for seed in range(3):
        case = Case.of(head, mode, seed)
        losses = case.losses(case.online, case.goals())
        _, priorities, loss = case.update()
        weighted = sum(w * x for w, x in zip(case.batch.weight.tolist(), losses, strict=True)) / 8
        assert loss == pytest.approx(weighted, rel=1e-4)
        if head == "scalar":
            out = case.outputs(case.online, case.batch.obs, 0, case.noise.tau)
            errors = [goal[0][0] - out[b, case.batch.action[b], 0] for b, goal in enumerate(case.goals())]
            np.testing.assert_allclose(priorities, np.abs(errors), rtol=1e-3, atol=1e-5)
        else:
            np.testing.assert_allclose(priorities, losses, rtol=1e-3, atol=1e-5)


@cases
def test_the_gradient_of_every_head_is_that_of_the_loss_with_a_target_that_stands_still(head: Head, mode: str) -> None:
    """Central differences at the largest entry of every parameter tensor, and along a random direction through all of them."""
    case = Case.of(head, mode)
    gradient, _, _ = case.update()
    goals = case.goals()

    def loss(flat: torch.Tensor) -> float:
        return sum(w * x for w, x in zip(case.batch.weight.tolist(), case.losses(flat, goals), strict=True)) / 8

    def slope(direction: torch.Tensor, size: float = 2e-3) -> float:
        return (loss(case.online + size * direction) - loss(case.online - size * direction)) / (2 * size)

    for offset, shape in case.net.slices.values():
        at = offset + int(gradient[offset : offset + math.prod(shape)].abs().argmax())
        direction = torch.zeros_like(gradient)
        direction[at] = 1
        assert gradient[at].item() == pytest.approx(slope(direction), rel=0.02, abs=2e-3)
    g = torch.Generator().manual_seed(7)
    direction = torch.randn(gradient.shape, generator=g) / math.sqrt(len(gradient))
    direction += gradient / gradient.norm()  # not nearly perpendicular to it
    assert (gradient @ direction).item() == pytest.approx(slope(direction), rel=0.02)


def test_the_cases_tell_the_ideas_apart() -> None:
    """The oracle would prove little where the online network chose as the target network does, or nothing was clipped."""
    for head in HEADS:
        goals = {mode: Case.of(head, mode).goals() for mode in MODES}
        alive = [b for b, d in enumerate(Case.of(head, "greedy").batch.discount) if d > 0]
        assert any(goals["greedy"][b] != goals["double"][b] for b in alive)
        assert any(goals["greedy"][b] == goals["double"][b] for b in alive)
        case = Case.of(head, "munchausen")
        q = np.array(case.values(case.outputs(case.target, case.batch.obs, 1, case.noise.tau_select)))
        policy = softmax(q / 0.3, axis=1)
        scaled = 0.3 * np.log(policy)[range(8), case.batch.action]
        assert (scaled < -0.4).any()
        assert (scaled > -0.4).any()
        assert 0.3 * entropy(policy, axis=1).max() > 0.15
        if head == "c51":
            returns = [z for goal in goals["greedy"] for z, _ in goal]
            assert min(returns) < -2
            assert max(returns) > 3


@pytest.mark.parametrize("head", HEADS)
def test_a_terminal_transition_learns_from_its_reward_alone(head: Head) -> None:
    """Discount 0: whatever the target network says, the loss is the same."""
    case = Case.of(head, "double")
    case.batch = case.batch._replace(discount=torch.zeros(8))
    first = case.update()
    case.target = 3 * params(case.net, 9)
    torch.testing.assert_close(case.update()[1], first[1])
    case.batch = case.batch._replace(discount=torch.ones(8))
    assert not torch.allclose(case.update()[1], first[1])
