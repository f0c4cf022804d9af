"""Targets, losses and optimisers against brute force in numpy and against torch's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from agents.compiler import leaves
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
    return OptState((torch.zeros(size),), (torch.zeros(size),), torch.zeros(()))


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
    seen = make_update(config, net)((online,), (target,), fresh(net.size), data, quiet())[2]
    expected = make_update(config, undivided)((online_small,), (target_small,), fresh(net.size), data, quiet())[2]
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    others = make_update(config, net)((online,), (target,), fresh(net.size), data._replace(**{which: pixels[1]}), quiet())[2]
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
        (flat,), state, td_error, metrics = update((flat,), (target,), state, data, quiet())
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
        # lr / sqrt(eps) = 1: the step is the gradient
        (moved,), *_ = sgd_like((online,), (target,), fresh(net.size), data, quiet())
        assert target.grad is None
        torch.testing.assert_close(online - moved.detach(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("encoder", ["nature", "der", "minatar"])
def test_the_step_of_every_convolution_is_the_gradient_that_torch_computes(
    encoder: Literal["nature", "der", "minatar"],
) -> None:
    """Whatever the order in which its weights lie in memory."""
    config = replace(CONFIG, encoder=encoder, optimiser="rmsprop", optimiser_eps=1e12, learning_rate=1e6)
    shape, g = (4, 44, 44), torch.Generator().manual_seed(0)
    net, module = flat_network(lambda: QNetwork(config, shape, 3)), QNetwork(config, shape, 3)
    online, pixels = 3 * params(net, 1), torch.randint(256, (8, *shape), dtype=torch.uint8, generator=g)
    module.load_state_dict(net.unflatten(online))
    data = batch()._replace(obs=pixels, next_obs=pixels, discount=torch.zeros(8))
    (moved,), *_ = make_update(config, net)((online,), (online,), fresh(net.size), data, quiet())
    huber(data.reward - module(pixels)[torch.arange(8), data.action, 0]).mean().backward()
    for name, step in net.unflatten(online - moved).items():
        gradient = module.get_parameter(name).grad
        assert gradient is not None
        torch.testing.assert_close(step, gradient, rtol=0.01, atol=1e-4 * gradient.abs().max().item())


def test_gradient_clipping_keeps_the_direction_and_bounds_the_norm() -> None:
    net = network()
    online = params(net, 1)
    settings = {"optimiser": "rmsprop", "optimiser_eps": 1e12, "learning_rate": 1e6}
    steps = []
    for limit in (None, 0.01):
        update = make_update(replace(CONFIG, max_grad_norm=limit, **settings), net)
        (moved,), *_ = update((online,), (params(net, 2),), fresh(net.size), batch(), quiet())
        steps.append(online - moved)
    assert steps[0].norm() > 0.1
    assert steps[1].norm().item() == pytest.approx(0.01, rel=0.05)
    assert torch.cosine_similarity(steps[0], steps[1], dim=0).item() == pytest.approx(1, abs=1e-2)


def test_adam_equals_torchs_adam() -> None:
    g = torch.Generator().manual_seed(0)
    start = torch.randn(50, generator=g, dtype=torch.float64)
    theirs = start.clone().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=0.01, eps=1e-3)
    ours, zeros = start.split((20, 30)), torch.zeros(50, dtype=torch.float64).split((20, 30))
    state = OptState(zeros, zeros, torch.zeros((), dtype=torch.float64))
    for _ in range(20):
        theirs.grad = torch.randn(50, generator=g, dtype=torch.float64)
        ours, state = adam_step(ours, theirs.grad.split((20, 30)), state, 0.01, 1e-3)
        adam.step()
    torch.testing.assert_close(torch.cat(ours), theirs.detach(), rtol=1e-6, atol=1e-8)


def test_rmsprop_follows_the_centred_formula_with_epsilon_under_the_root() -> None:
    rng = np.random.default_rng(0)
    p, mean, square = rng.normal(size=30), np.zeros(30), np.zeros(30)
    ours, zeros = torch.from_numpy(p.copy()).split((10, 20)), torch.zeros(30, dtype=torch.float64).split((10, 20))
    state = OptState(zeros, zeros, torch.zeros(()))
    for _ in range(20):
        gradient = rng.normal(size=30)
        mean = 0.95 * mean + 0.05 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        p = p - 0.01 * gradient / np.sqrt(square - mean**2 + 1e-4)
        ours, state = rmsprop_step(ours, torch.from_numpy(gradient).split((10, 20)), state, 0.01, 1e-4)
    np.testing.assert_allclose(torch.cat(ours), p, rtol=1e-9)


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
        (online,), state, *_ = update((online,), (online,), state, data, quiet())
    out = net.apply(net.unflatten(online), torch.ones(1, 4))
    mass = out[0, 1].softmax(-1)
    assert mass[[2, 8]].tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    assert net.q_values(out)[0, 1].item() == pytest.approx(0.5, abs=0.05)


def test_bf16_computes_the_same_update_to_its_precision_with_float32_parameters() -> None:
    config = replace(CONFIG, hidden=(64, 64), double=True)
    net = flat_network(lambda: QNetwork(config, (4,), 3))
    online, target, data = params(net, 1), params(net, 2), batch()
    exact, rounded = (
        make_update(replace(config, precision=precision), net)((online,), (target,), fresh(net.size), data, quiet())
        for precision in ("fp32", "bf16")
    )
    assert rounded[0][0].dtype == rounded[1].mean[0].dtype == torch.float32
    assert rounded[3].loss.item() == pytest.approx(exact[3].loss.item(), rel=0.02)
    assert rounded[3].loss.item() != exact[3].loss.item()
    gradients = exact[1].mean[0], rounded[1].mean[0]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999


def test_bf16_leaves_acting_in_float32() -> None:
    net = flat_network(lambda: QNetwork(replace(CONFIG, precision="bf16"), (4,), 3))
    flat, obs = params(net, 1), batch().obs
    plain = flat_network(lambda: QNetwork(CONFIG, (4,), 3))
    assert torch.equal(net.apply(net.unflatten(flat), obs), plain.apply(plain.unflatten(flat), obs))


@pytest.mark.parametrize("settings", [{}, {"double": True, "dueling": True}, {"head": "iqn", "munchausen": True}], ids=str)
def test_weights_held_rounded_beside_the_parameters_change_no_update(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded before or on the way into a product, the numbers are the same, and so is their gradient."""
    monkeypatch.setattr("agents.networks.LARGE_NUMEL", 200)
    config = replace(CONFIG, precision="bf16", **settings)
    net, g = flat_network(lambda: QNetwork(config, (4,), 3)), torch.Generator().manual_seed(3)
    tau = (torch.rand(8, count, generator=g) for count in (config.num_tau, config.num_tau_target, config.num_tau_act))
    noise = UpdateNoise(torch.zeros(3, 0), *tau) if config.head == "iqn" else quiet()
    online, target, zero = (
        [piece[0] for piece in net.pieces(vector[None])] for vector in (params(net, 1), params(net, 2), torch.zeros(net.size))
    )
    online, target, zero = tuple(online), tuple(target), tuple(zero)
    update, state = make_update(config, net), OptState(zero, zero, torch.zeros(()))
    held = state._replace(rounded=net.rounded(online))
    assert held.rounded
    expected = update(online, target, state, batch(), noise)
    actual = update(online, net.reading(target, net.rounded(target)), held, batch(), noise)
    for one, other in zip(
        leaves(expected[0]) + leaves(expected[1][:3]), leaves(actual[0]) + leaves(actual[1][:3]), strict=True
    ):
        assert torch.equal(one, other)
    for copy, again in zip(actual[1].rounded, net.rounded(actual[0]), strict=True):
        assert torch.equal(copy, again), "of the new parameters"
    assert not torch.equal(actual[1].rounded[0], held.rounded[0])


@pytest.mark.parametrize("head", ["scalar", "iqn"])
def test_acting_by_rounded_weights_is_acting_by_their_values(head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.networks.LARGE_NUMEL", 200)
    config = replace(CONFIG, precision="bf16", head=head, dueling=True)
    net = flat_network(lambda: QNetwork(config, (4,), 3))
    exact = tuple(piece[0] for piece in net.pieces(params(net, 1)[None]))
    read = net.reading(exact, net.rounded(exact))
    values = tuple(piece.float() for piece in read)
    assert any(piece.dtype == torch.bfloat16 for piece in read)
    with torch.no_grad():
        for obs in (batch().obs[:1], batch().obs):
            one, other = (net.apply(net.unflatten(*pieces), obs) for pieces in (read, values))
            assert one.dtype == torch.float32
            several = head == "iqn" or len(obs) > 1  # rows of features, which are rounded like their weights
            torch.testing.assert_close(one, other, rtol=0, atol=5e-3 if several else 1e-6)


def test_weight_decay_is_torchs_adamw_and_spares_biases() -> None:
    config = replace(CONFIG, weight_decay=0.3, noisy=True, dueling=True)
    net = network(config)
    online, target = params(net, 1), params(net, 2)
    module, g = QNetwork(config, (4,), 3), torch.Generator().manual_seed(0)
    module.load_state_dict(net.unflatten(online))
    several = [p for p in module.parameters() if p.dim() > 1]
    biases = [p for p in module.parameters() if p.dim() == 1]
    groups = [{"params": several, "weight_decay": 0.3}, {"params": biases, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, eps=config.optimiser_eps)
    state, flat, update = fresh(net.size), online, make_update(config, net)
    for k in range(4):
        data, noise = batch(seed=k), UpdateNoise(torch.randn(3, net.noise_width, generator=g), *torch.zeros(3, 8, 0))
        with torch.no_grad():
            next_values = net.apply(net.unflatten(target), data.next_obs, noise.normal[1])[..., 0]
        chosen = module(data.obs, noise.normal[0])[torch.arange(8), data.action, 0]
        loss = torch.nn.functional.smooth_l1_loss(chosen, data.reward + data.discount * next_values.amax(1))
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        (flat,), state, _, _ = update((flat,), (target,), state, data, noise)
    expected = torch.cat([p.detach().flatten() for p in module.parameters()])
    torch.testing.assert_close(flat, expected, rtol=1e-4, atol=1e-5)
