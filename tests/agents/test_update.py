"""Targets, losses and optimisers against brute force in numpy and against torch's own."""

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
from agents.heads import huber
from agents.networks import FlatNetwork, QNetwork, flat_network
from agents.update import Batch, OptState, UpdateNoise, adam_step, make_update, rmsprop_step, td_target

CONFIG = AgentConfig(hidden=(16, 16), batch_size=8, learning_rate=1e-2)


def network(config: AgentConfig = CONFIG) -> FlatNetwork:
    return flat_network(lambda: QNetwork(config, (4,), 3))


def batch(size: int = 8, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    obs, next_obs = torch.randn(2, size, 4, generator=g)
    action = torch.randint(0, 3, (size,), generator=g)
    reward = 3 * torch.randn(size, generator=g)
    discount = torch.where(torch.rand(size, generator=g) < 0.3, 0.0, 0.99)
    return Batch(obs, action, reward, discount, next_obs, torch.ones(size))


def quiet(size: int = 8) -> UpdateNoise:
    """The noise of an agent that has none."""
    return UpdateNoise(torch.zeros(3, 0), *torch.zeros(3, size, 0))


def fresh(size: int) -> OptState:
    return OptState(torch.zeros(size), torch.zeros(size), torch.zeros(()))


def params(net: FlatNetwork, seed: int) -> torch.Tensor:
    return net.init(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("double", [False, True])
def test_td_target_equals_brute_force(double: bool) -> None:
    rng = np.random.default_rng(0)
    q_target, q_online = rng.normal(size=(2, 64, 5))
    reward, discount = rng.normal(size=64), rng.choice([0.0, 0.5, 0.99], 64)
    expected = []
    for b in range(64):
        if double:
            best = max(range(5), key=lambda a: q_online[b, a])
            value = q_target[b, best]
        else:
            value = max(q_target[b])
        expected.append(reward[b] + discount[b] * value)
    tensors = [torch.from_numpy(x) for x in (q_target, q_online, reward, discount)]
    actual = td_target(tensors[0][..., None], tensors[1] if double else tensors[0], tensors[2], tensors[3])
    np.testing.assert_allclose(actual[:, 0], expected)


def test_huber_is_torchs_smooth_l1() -> None:
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    torch.testing.assert_close(huber(x), torch.nn.functional.smooth_l1_loss(x, torch.zeros_like(x), reduction="none"))


@pytest.mark.parametrize("which", ["obs", "next_obs"])
@pytest.mark.parametrize("munchausen", [False, True])
def test_the_networks_of_an_update_look_at_pixels_divided_by_255(munchausen: bool, which: str) -> None:
    """A network without that division, whose first layer is 255 times as small, is the same network."""
    config = replace(CONFIG, encoder="der", double=not munchausen, munchausen=munchausen)
    net, undivided = (flat_network(lambda: QNetwork(config, (4, 84, 84), 3)) for _ in range(2))
    undivided.module.scale = 1.0
    online, target = params(net, 1), params(net, 2)
    first = slice(0, 32 * 4 * 5 * 5)
    online_small, target_small = online.clone(), target.clone()
    online_small[first] /= 255
    target_small[first] /= 255
    pixels = torch.randint(256, (2, 8, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dark = torch.zeros_like(pixels[0])
    data = batch()._replace(obs=dark, next_obs=dark)._replace(**{which: pixels[0]}, discount=torch.full((8,), 0.99))
    seen = make_update(config, net)(online, target, fresh(net.size), data, quiet())[2]
    expected = make_update(config, undivided)(online_small, target_small, fresh(net.size), data, quiet())[2]
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    others = make_update(config, net)(online, target, fresh(net.size), data._replace(**{which: pixels[1]}), quiet())[2]
    assert not torch.allclose(seen, others, rtol=1e-3), "what it looks at decides"


@pytest.mark.parametrize(("double", "loss_name"), [(False, "huber"), (True, "huber"), (False, "mse")])
def test_update_equals_autograd_with_torchs_adam(double: bool, loss_name: Literal["huber", "mse"]) -> None:
    config = replace(CONFIG, double=double, loss=loss_name)
    loss_of = torch.nn.functional.smooth_l1_loss if loss_name == "huber" else torch.nn.functional.mse_loss
    net = network(config)
    online, target = params(net, 1), params(net, 2)
    module, frozen = QNetwork(config, (4,), 3), QNetwork(config, (4,), 3)
    module.load_state_dict(net.unflatten(online))
    frozen.load_state_dict(net.unflatten(target))
    adam = torch.optim.Adam(module.parameters(), lr=config.learning_rate, eps=config.optimiser_eps)
    state, update = fresh(net.size), make_update(config, net)
    flat = online.clone()
    for k in range(5):
        data = batch(seed=k)
        with torch.no_grad():
            select = (module if double else frozen)(data.next_obs)[..., 0]
            best = select.max(dim=1).indices
            goal = data.reward + data.discount * frozen(data.next_obs)[torch.arange(8), best, 0]
        chosen = module(data.obs)[torch.arange(8), data.action, 0]
        loss = loss_of(chosen, goal)
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1e9)
        adam.step()
        flat, state, td_error, metrics = update(flat, target, state, data, quiet())
        assert metrics.loss.item() == pytest.approx(loss.item(), rel=1e-5)
        assert metrics.grad_norm.item() == pytest.approx(norm.item(), rel=1e-4)
        torch.testing.assert_close(td_error, (goal - chosen).abs().detach(), rtol=1e-4, atol=1e-5)
    expected = torch.cat([p.detach().flatten() for p in module.parameters()])
    torch.testing.assert_close(flat, expected, rtol=1e-4, atol=1e-5)


def test_no_gradient_flows_into_the_target_network_or_through_the_bootstrap() -> None:
    """Doubling how strongly the target reacts to its parameters changes the loss but leaves the gradient's formula alone."""
    for double in (False, True):
        config = replace(CONFIG, double=double)
        net = network(config)
        online, target = params(net, 1), params(net, 2).requires_grad_()
        data = batch()._replace(discount=torch.ones(8))
        flat = online.clone().requires_grad_()
        q = net.apply(net.unflatten(flat), data.obs)[torch.arange(8), data.action, 0]
        with torch.no_grad():
            q_next = net.apply(net.unflatten(target), data.next_obs)
            select = net.apply(net.unflatten(flat), data.next_obs) if double else q_next
            goal = td_target(q_next, select[..., 0], data.reward, data.discount)[:, 0]
        (expected,) = torch.autograd.grad(huber(goal - q).mean(), flat)
        sgd_like = make_update(replace(config, optimiser="rmsprop", optimiser_eps=1e12, learning_rate=1e6), net)
        moved, *_ = sgd_like(online, target, fresh(net.size), data, quiet())  # lr / sqrt(eps) = 1: the step is the gradient
        assert target.grad is None
        torch.testing.assert_close(online - moved.detach(), expected, rtol=1e-3, atol=1e-5)


def test_gradient_clipping_keeps_the_direction_and_bounds_the_norm() -> None:
    net = network()
    online = params(net, 1)
    settings = {"optimiser": "rmsprop", "optimiser_eps": 1e12, "learning_rate": 1e6}
    steps = []
    for limit in (None, 0.01):
        update = make_update(replace(CONFIG, max_grad_norm=limit, **settings), net)
        steps.append(online - update(online, params(net, 2), fresh(net.size), batch(), quiet())[0])
    assert steps[0].norm() > 0.1
    assert steps[1].norm().item() == pytest.approx(0.01, rel=0.05)
    assert torch.cosine_similarity(steps[0], steps[1], dim=0).item() == pytest.approx(1, abs=1e-2)


def test_adam_equals_torchs_adam() -> None:
    g = torch.Generator().manual_seed(0)
    start = torch.randn(50, generator=g, dtype=torch.float64)
    theirs = start.clone().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=0.01, eps=1e-3)
    ours, state = start.clone(), OptState(*(torch.zeros(n, dtype=torch.float64) for n in ((50,), (50,), ())))
    for _ in range(20):
        theirs.grad = torch.randn(50, generator=g, dtype=torch.float64)
        ours, state = adam_step(ours, theirs.grad, state, 0.01, 1e-3)
        adam.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-8)


def test_rmsprop_follows_the_centred_formula_with_epsilon_under_the_root() -> None:
    rng = np.random.default_rng(0)
    p, mean, square = rng.normal(size=30), np.zeros(30), np.zeros(30)
    ours, state = (
        torch.from_numpy(p.copy()),
        OptState(*(torch.zeros(30, dtype=torch.float64) for _ in range(2)), torch.zeros(())),
    )
    for _ in range(20):
        gradient = rng.normal(size=30)
        mean = 0.95 * mean + 0.05 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        p = p - 0.01 * gradient / np.sqrt(square - mean**2 + 1e-4)
        ours, state = rmsprop_step(ours, torch.from_numpy(gradient), state, 0.01, 1e-4)
    np.testing.assert_allclose(ours, p, rtol=1e-9)


# Every head and every way to bootstrap, end to end through the update, against the papers' formulas in loops. All counts differ, so
# that none can stand in for another; layers are noisy, so that each network must be looked at under its own sample.

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
        moved, _, priorities, metrics = make_update(self.config, self.net)(
            self.online, self.target, fresh(self.net.size), self.batch, self.noise
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


def test_a_hundred_updates_of_c51_learn_the_return_distribution() -> None:
    """One state, returns of -1 and 2 equally likely: the histogram gets half its mass at each, and the action value is 0.5."""
    config = replace(CONFIG, head="c51", num_atoms=11, v_min=-2.0, v_max=3.0)
    net = network(config)
    online, state = params(net, 1), fresh(net.size)
    data = batch()._replace(
        obs=torch.ones(8, 4),
        action=torch.ones(8, dtype=torch.int64),
        reward=torch.tensor([-1.0, 2.0] * 4),
        discount=torch.zeros(8),
    )
    update = make_update(config, net)
    for _ in range(100):
        online, state, *_ = update(online, online, state, data, quiet())
    out = net.apply(net.unflatten(online), torch.ones(1, 4))
    mass = out[0, 1].softmax(-1)
    assert mass[[2, 8]].tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    assert net.q_values(out)[0, 1].item() == pytest.approx(0.5, abs=0.05)


def test_bf16_computes_the_same_update_to_its_precision_with_float32_parameters() -> None:
    config = replace(CONFIG, hidden=(64, 64), double=True)
    net = flat_network(lambda: QNetwork(config, (4,), 3))
    online, target, data = params(net, 1), params(net, 2), batch()
    exact, rounded = (
        make_update(replace(config, precision=precision), net)(online, target, fresh(net.size), data, quiet())
        for precision in ("fp32", "bf16")
    )
    assert rounded[0].dtype == rounded[1].mean.dtype == torch.float32
    assert rounded[3].loss.item() == pytest.approx(exact[3].loss.item(), rel=0.02)
    assert rounded[3].loss.item() != exact[3].loss.item()
    gradients = exact[1].mean, rounded[1].mean
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999


def test_bf16_leaves_acting_in_float32() -> None:
    net = flat_network(lambda: QNetwork(replace(CONFIG, precision="bf16"), (4,), 3))
    flat, obs = params(net, 1), batch().obs
    plain = flat_network(lambda: QNetwork(CONFIG, (4,), 3))
    assert torch.equal(net.apply(net.unflatten(flat), obs), plain.apply(plain.unflatten(flat), obs))
