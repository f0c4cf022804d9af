"""Factorised noise: its formula and moments, and that nothing shares a sample that should have its own."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.config import AgentConfig
from agents.layers import Linear
from agents.learner import Learner, split_noise
from agents.networks import FlatNetwork, QNetwork, flat_network
from agents.replay import ReplayLayout
from agents.update import Batch, OptState, UpdateNoise, make_update

CONFIG = AgentConfig(
    hidden=(12, 10), noisy=True, dueling=True, batch_size=8, replay_capacity=100, learning_starts_steps=10, epsilon_end=0.0
)


def network(config: AgentConfig = CONFIG) -> FlatNetwork:
    return flat_network(lambda: QNetwork(config, (4,), 3))


def learner(config: AgentConfig = CONFIG, seeds: tuple[int, ...] = (3, 8)) -> Learner:
    layout = ReplayLayout(len(seeds), 1, 100, (4,), False, 1, "zeros", None, 1, 0.99, False)
    return Learner(config, layout, 3, seeds)


def f(x: float) -> float:
    """Fortunato et al. 2018, section 3.1: sgn(x) sqrt(|x|)."""
    return math.copysign(math.sqrt(abs(x)), x)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_noisy_layer_equals_the_papers_formula() -> None:
    """y = (mu_w + sigma_w f(eps_out) f(eps_in)) x + mu_b + sigma_b f(eps_out), number by number."""
    layer = Linear(5, 3, 0.5, noise_offset=4)
    g = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g)
    noise, x = normal(4 + 8 + 6), normal(2, 5, seed=2)
    eps_in, eps_out = noise[4:9].tolist(), noise[9:12].tolist()
    weight, bias, weight_sigma, bias_sigma = (
        p.detach().numpy() for p in (layer.weight, layer.bias, layer.weight_sigma, layer.bias_sigma)
    )
    expected = np.zeros((2, 3))
    for b, j in itertools.product(range(2), range(3)):
        expected[b, j] = bias[j] + bias_sigma[j] * f(eps_out[j])
        for i in range(5):
            expected[b, j] += (weight[j, i] + weight_sigma[j, i] * f(eps_out[j]) * f(eps_in[i])) * x[b, i].item()
    scaled = torch.tensor([f(number) for number in noise.tolist()])
    np.testing.assert_allclose(layer(x, scaled).detach(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer(x).detach(), x.numpy() @ weight.T + bias, rtol=1e-5, atol=1e-6)


def test_the_noise_of_a_weight_has_the_moments_of_a_product_of_two_roots() -> None:
    """For eps ~ N(0, 1): E f = 0, E f^2 = E|eps| = sqrt(2 / pi), E f^4 = E eps^2 = 1; weights have products of two of them."""
    net = QNetwork(replace(CONFIG, head="scalar", dueling=False, hidden=(1,)), (1,), 1)
    with torch.no_grad():
        for name, parameter in net.named_parameters():  # the hidden number is 100 + its noise, and the output is that number
            parameter.fill_(
                {"advantage_hidden.bias": 100, "advantage.weight": 1}.get(name, "hidden" in name and "sigma" in name)
            )
    draws = normal(200_000, net.noise_width)
    bias = torch.func.vmap(lambda noise: net(torch.zeros(1, 1), noise))(draws).flatten().double() - 100
    weight = torch.func.vmap(lambda noise: net(torch.ones(1, 1), noise))(draws).flatten().double() - 100 - bias
    for sample, square, fourth in ((bias, math.sqrt(2 / math.pi), 1.0), (weight, 2 / math.pi, 1.0)):
        assert sample.mean().item() == pytest.approx(0, abs=0.01)
        assert (sample**2).mean().item() == pytest.approx(square, rel=0.01)
        assert (sample**4).mean().item() == pytest.approx(fourth, rel=0.05)


@pytest.mark.parametrize("head", ["scalar", "c51", "iqn"])
def test_every_layer_has_numbers_of_its_own_and_every_number_is_used(head: str) -> None:
    config = replace(CONFIG, head=head)
    net = network(config)
    layers = [layer for layer in net.module.modules() if isinstance(layer, Linear)]
    assert len(layers) == 5, "one of the trunk, two of each stream"
    owned = [n for layer in layers for n in range(layer.offset, layer.offset + layer.in_features + layer.out_features)]
    assert sorted(owned) == list(range(net.noise_width))
    params = net.unflatten(net.init(torch.Generator().manual_seed(0)))
    noise = normal(net.noise_width).requires_grad_()
    out = net.apply(params, normal(32, 4, seed=1), noise)
    (gradient,) = torch.autograd.grad((out * normal(*out.shape, seed=3)).sum(), noise)
    for layer in layers:
        own = gradient[layer.offset : layer.offset + layer.in_features + layer.out_features]
        assert (own != 0).float().mean() > 0.75, "all but those of dead rectifiers"


def test_sigma_starts_at_sigma_0_over_root_fan_in() -> None:
    """Fortunato et al. 2018, section 3.2, for factorised noise; weights and biases of a layer alike."""
    net = network(replace(CONFIG, noisy_sigma=0.3))
    named = net.unflatten(net.init(torch.Generator().manual_seed(0)))
    fan_in = {"trunk.0": 4, "value_hidden": 12, "value": 10, "advantage_hidden": 12, "advantage": 10}
    sigmas = {name: tensor for name, tensor in named.items() if "sigma" in name}
    assert len(sigmas) == 10
    for name, tensor in sigmas.items():
        torch.testing.assert_close(tensor, torch.full_like(tensor, 0.3 / math.sqrt(fan_in[name.rsplit(".", 1)[0]])))
    for name, tensor in named.items():
        if name not in sigmas:
            assert tensor.abs().max() <= 1 / math.sqrt(fan_in[name.rsplit(".", 1)[0]])


def correlations(series: dict[str, NDArray[np.float32]]) -> dict[tuple[str, str], float]:
    """Largest correlation of two series, however far they are shifted in a few places of the noise vector."""
    return {
        (one, other): max(abs(float(np.corrcoef(series[one], np.roll(series[other], lag))[0, 1])) for lag in range(-3, 4))
        for one, other in itertools.combinations(series, 2)
    }


def test_acting_and_the_three_networks_of_an_update_have_noise_of_their_own_for_each_seed() -> None:
    """Networks x seeds x consecutive updates: no two share a sample. 5 / sqrt(n) is 5 standard deviations of no correlation."""
    it = learner()
    obs = np.zeros((2, 4), np.float32)
    parts: dict[str, list[NDArray[np.float32]]] = {}
    for k in range(60):
        learning, acting = it._learning(), it._observe(obs)
        noise = split_noise(it.config, it.network, learning.uniform, learning.normal)[1]
        assert noise.normal.shape == (2, 3, it.network.noise_width)
        for seed in range(2):
            turn = "even" if k % 2 else "odd"
            parts.setdefault(f"acting, seed {seed}, {turn}", []).append(acting.normal[seed].numpy())
            for which, name in enumerate(("online", "target", "selecting")):
                parts.setdefault(f"{name}, seed {seed}, {turn}", []).append(noise.normal[seed, which].numpy())
    series = {name: np.concatenate(values) for name, values in parts.items()}
    assert len(series) == 16
    size = 30 * it.network.noise_width
    for pair, correlation in correlations(series).items():
        assert correlation < 5 / math.sqrt(size), pair
    for name, values in series.items():
        assert values.std() == pytest.approx(1, abs=0.05), name
    everything = np.concatenate(list(series.values()))
    repeated = 1 - len(np.unique(everything)) / len(everything)
    assert repeated < 0.01, "no number is used twice at whatever time; single precision has a few that are equal by chance"


def test_the_taus_of_prediction_target_and_selection_are_drawn_apart() -> None:
    config = replace(CONFIG, head="iqn", num_tau=5, num_tau_target=6, num_tau_act=7)
    it = learner(config)
    learning = it._learning()
    noise = split_noise(config, it.network, learning.uniform, learning.normal)[1]
    assert [tau.shape for tau in noise[1:]] == [(2, 8, 5), (2, 8, 6), (2, 8, 7)]
    numbers = np.concatenate([tau.flatten() for tau in noise[1:]])
    assert len(set(numbers.tolist())) == 2 * 8 * 18, "no number is used twice"
    assert 0 <= numbers.min() <= 0.02
    assert 0.98 <= numbers.max() < 1


def test_evaluation_takes_the_mean_weights_and_acting_new_noise_at_every_step() -> None:
    it = learner()
    it.steps = 10**6  # epsilon is 0 now: actions vary with the noise alone
    obs = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    module = QNetwork(replace(CONFIG, noisy=False), (4,), 3)
    for seed in range(2):
        means = {name: t for name, t in it.network.unflatten(it.params[seed]).items() if "sigma" not in name}
        module.load_state_dict(means)
        best = module(torch.from_numpy(obs[seed : seed + 1]))[0, :, 0].argmax().item()
        assert {int(it.greedy(obs)[seed]) for _ in range(10)} == {best}
    actions = np.array([it.act(obs) for _ in range(300)])
    for seed in range(2):
        assert len(set(actions[:, seed])) > 1
        assert (np.diff(actions[:, seed]) != 0).sum() > 10
    assert (actions[:, 0] != actions[:, 1]).any()


def test_acting_uses_the_numbers_it_was_given() -> None:
    it = learner()
    it.steps = 10**6
    obs = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    twin = learner()
    for _ in range(20):
        noise = twin._act_normal.draw()
        expected = [
            it.network.apply(it.network.unflatten(it.params[k]), torch.from_numpy(obs[k : k + 1]), noise[k])[0, :, 0]
            .argmax()
            .item()
            for k in range(2)
        ]
        assert it.act(obs).tolist() == expected


def test_the_gradient_reaches_mu_and_sigma_of_every_layer_and_sigmas_is_mus_times_the_noise() -> None:
    """d loss / d sigma = d loss / d mu x f(eps_out) f(eps_in) for every weight, and x f(eps_out) for every bias."""
    config = replace(CONFIG, optimiser="rmsprop", optimiser_eps=1e12, learning_rate=1e6)  # the step is the gradient
    net = network(config)
    online, target = (net.init(torch.Generator().manual_seed(seed)) for seed in (1, 2))
    noise = UpdateNoise(normal(3, net.noise_width), *torch.zeros(3, 8, 0))
    batch = Batch(normal(8, 4), torch.arange(8) % 3, normal(8, seed=4), torch.ones(8), normal(8, 4, seed=5), torch.ones(8))
    zeros = torch.zeros(net.size)
    state = OptState((zeros,), (zeros,), torch.zeros(()))
    (moved,), *_ = make_update(config, net)((online,), (target,), state, batch, noise)
    gradient = net.unflatten(online - moved)
    for name, layer in net.module.named_modules():
        if not isinstance(layer, Linear):
            continue
        own = noise.normal[0, layer.offset :]
        of_inputs = torch.tensor([f(x) for x in own[: layer.in_features].tolist()])
        of_outputs = torch.tensor([f(x) for x in own[layer.in_features :][: layer.out_features].tolist()])
        mu_weight, mu_bias = gradient[f"{name}.weight"], gradient[f"{name}.bias"]
        assert mu_weight.abs().max() > 1e-3
        torch.testing.assert_close(
            gradient[f"{name}.weight_sigma"], mu_weight * of_outputs[:, None] * of_inputs, rtol=1e-3, atol=1e-5
        )
        torch.testing.assert_close(gradient[f"{name}.bias_sigma"], mu_bias * of_outputs, rtol=1e-3, atol=1e-5)
