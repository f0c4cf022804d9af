"""Self-prediction (Schwarzer et al. 2021) against the paper's equations, written out transition by transition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agents.compiler import compiled
from agents.config import AgentConfig, ConfigError
from agents.learner import Learner, augmented, split_noise
from agents.networks import FlatNetwork, QNetwork, flat_network
from agents.update import Ahead, Batch, OptState, UpdateNoise, make_update
from tests.agents.test_augment import reference
from tests.agents.test_learner import CONFIG as SMALL
from tests.agents.test_learner import Pictures, learner, train
from tests.agents.test_learning import COLUMNS, Catch, small
from tests.agents.test_learning import train as learn_to_catch
from tests.agents.test_update import fresh, params

B, K, A, SHAPE = 6, 3, 4, (2, 6, 5)
CONFIG = AgentConfig(
    encoder="minatar",
    hidden=(8,),
    head="c51",
    num_atoms=11,
    v_min=-3.0,
    v_max=3.0,
    dueling=True,
    double=True,
    noisy=True,
    batch_size=B,
    self_predict=True,
    self_predict_steps=K,
    self_predict_weight=3.0,
    optimiser="rmsprop",  # lr / sqrt(eps) = 1: the step is the gradient
    optimiser_eps=1e12,
    learning_rate=1e6,
)
WAYS: dict[str, dict[str, Any]] = {
    "one hidden layer of two streams": {},
    "one stream": {"dueling": False},
    "more layers": {"hidden": (9, 8)},
    "iqn": {"head": "iqn", "num_tau": 4, "num_tau_target": 4, "num_tau_act": 4},
    "nature": {"encoder": "nature"},
}


def network(config: AgentConfig, shape: tuple[int, ...] = SHAPE) -> FlatNetwork:
    return flat_network(lambda: QNetwork(config, shape, A))


def case(config: AgentConfig, shape: tuple[int, ...]) -> tuple[FlatNetwork, Tensor, Tensor, Batch, UpdateNoise]:
    g = torch.Generator().manual_seed(0)
    net = network(config, shape)
    obs, next_obs = 255 * torch.rand(2, B, *shape, generator=g)
    alive = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1]]).float()
    ahead = Ahead(255 * torch.rand(B, K, *shape, generator=g), torch.randint(A, (B, K), generator=g), alive)
    taus = (torch.rand(B, 4 if config.head == "iqn" else 0, generator=g) for _ in range(3))
    data = Batch(
        obs=obs,
        action=ahead.action[:, 0],
        reward=torch.randn(B, generator=g),
        discount=torch.full((B,), 0.9),
        next_obs=next_obs,
        weight=torch.rand(B, generator=g) + 0.2,
        ahead=ahead,
    )
    return net, 2 * params(net, 1), 2 * params(net, 2), data, UpdateNoise(torch.randn(3, net.noise_width, generator=g), *taus)


def features(config: AgentConfig, named: dict[str, Tensor], image: Tensor) -> Tensor:
    """Of one image [C, H, W]: convolutions, then stretched to 0..1 (section 2.2)."""
    strides = {"minatar": [1], "nature": [4, 2, 1]}[config.encoder]
    x = image[None] / (255 if config.encoder == "nature" else 1)
    for k, stride in enumerate(strides):
        x = F.relu(F.conv2d(x, named[f"convs.{k}.weight"], named[f"convs.{k}.bias"], stride=stride))
    return (x - x.min()) / (x.max() - x.min() + 1e-5)


def next_features(named: dict[str, Tensor], x: Tensor, action: int) -> Tensor:
    plane = torch.zeros(1, A, *x.shape[2:])
    plane[:, action] = 1
    x = F.conv2d(torch.cat([x, plane], 1), named["transition.first.weight"], named["transition.first.bias"], padding="same")
    x = F.relu(F.conv2d(F.relu(x), named["transition.second.weight"], named["transition.second.bias"], padding="same"))
    return (x - x.min()) / (x.max() - x.min() + 1e-5)


def projection(config: AgentConfig, named: dict[str, Tensor], x: Tensor) -> Tensor:
    """By the first fully connected layers, value before advantage, with their mean weights."""
    layers = ["trunk.0"] if len(config.hidden) > 1 else [*(["value_hidden"] if config.dueling else []), "advantage_hidden"]
    return torch.cat([named[f"{layer}.weight"] @ x.flatten() + named[f"{layer}.bias"] for layer in layers])


def distance(config: AgentConfig, online: dict[str, Tensor], target: dict[str, Tensor], data: Batch, b: int) -> Tensor:
    """The paper's loss of transition b: twice the weight over K times the sum of 1 - cosine (equation 5, and its appendix)."""
    assert data.ahead
    x = features(config, online, data.obs[b])
    total = torch.zeros(())
    for k in range(K):
        x = next_features(online, x, int(data.ahead.action[b, k]))
        predicted = online["predictor.weight"] @ projection(config, online, x) + online["predictor.bias"]
        seen = projection(config, target, features(config, target, data.ahead.obs[b, k]))
        if data.ahead.alive[b, k]:
            total = total + 1 - F.cosine_similarity(predicted, seen.detach(), dim=0)
    return config.self_predict_weight * 2 / K * total


@pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS)
def test_an_update_adds_the_papers_loss_to_the_one_of_the_return(changes: dict[str, Any]) -> None:
    """Loss and gradient are those of the return alone plus the weighted mean of the distances, by autograd."""
    config = replace(CONFIG, **changes)
    shape = (2, 36, 36) if config.encoder == "nature" else SHAPE
    net, online, target, data, noise = case(config, shape)
    (moved,), _, priorities, metrics = make_update(config, net)((online,), (target,), fresh(net.size), data, noise)
    never = replace(config, self_predict_weight=1e-30)
    (alone,), _, priorities_alone, metrics_alone = make_update(never, net)((online,), (target,), fresh(net.size), data, noise)

    leaf = online.clone().requires_grad_()
    named, frozen = net.unflatten(leaf), net.unflatten(target)
    expected = sum((data.weight[b] * distance(config, named, frozen, data, b) for b in range(B)), torch.zeros(())) / B
    expected.backward()
    assert expected.item() > 0.1
    assert metrics.loss.item() - metrics_alone.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert leaf.grad is not None
    torch.testing.assert_close(alone - moved, leaf.grad, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(priorities, priorities_alone, msg="rows are drawn by the error of the return alone")


def test_features_reach_the_head_stretched_from_0_to_1() -> None:
    """What acting sees: a picture twice as bright is the same one to a network without biases."""
    net = network(CONFIG)
    flat = params(net, 3)
    net.unflatten(flat)["convs.0.bias"].zero_()
    image = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    out = net.apply(net.unflatten(flat), image)
    torch.testing.assert_close(net.apply(net.unflatten(flat), 2 * image), out, rtol=1e-3, atol=1e-4)
    plain = network(replace(CONFIG, self_predict=False))
    assert not torch.allclose(plain.apply(plain.unflatten(flat[: plain.size]), image), out, atol=1e-3)
    blank = net.apply(net.unflatten(flat), torch.zeros(1, *SHAPE))
    assert blank.isfinite().all(), "an image without any feature has no range to be divided by"


def test_parameters_of_agents_without_self_prediction_are_as_before_and_those_with_it_have_more_behind() -> None:
    plain, more = network(replace(CONFIG, self_predict=False)), network(CONFIG)
    names = list(more.slices)
    assert names[: len(plain.slices)] == list(plain.slices)
    assert {name.split(".")[0] for name in names[len(plain.slices) :]} == {"transition", "predictor"}
    assert more.slices["transition.first.weight"][1] == (16, 16 + A, 3, 3)
    assert more.slices["predictor.weight"][1] == (16, 16)


def test_images_ahead_are_moved_each_by_its_own_draw() -> None:
    config = AgentConfig(encoder="minatar", batch_size=4, augment=True, shift_pixels=2, self_predict=True, self_predict_steps=3)
    net = flat_network(lambda: QNetwork(config, SHAPE, A))
    g = torch.Generator().manual_seed(0)
    layout_seeds, images = 2, 2 + 3
    uniform = torch.rand(layout_seeds, 4 + 2 * images * 4, generator=g, dtype=torch.float64)
    normal = torch.randn(layout_seeds, images * 4, generator=g)
    _, _, shift, intensity = split_noise(config, net, uniform, normal)
    assert shift.shape == (layout_seeds, images, 4, 2)
    assert intensity.shape == (layout_seeds, images, 4)
    obs, next_obs = torch.randint(256, (2, layout_seeds, 4, *SHAPE), generator=g, dtype=torch.uint8)
    later = torch.randint(256, (layout_seeds, 4, 3, *SHAPE), generator=g, dtype=torch.uint8)
    scalars = torch.zeros(layout_seeds, 4)
    data = Batch(obs, scalars.long(), scalars, scalars, next_obs, scalars, ahead=Ahead(later, scalars.long(), scalars))
    moved = augmented(config, data, shift, intensity)
    assert moved.ahead
    for seed in range(layout_seeds):
        for b in range(4):
            shown = [data.obs[seed, b], data.next_obs[seed, b], *later[seed, b]]
            found = [moved.obs[seed, b], moved.next_obs[seed, b], *moved.ahead.obs[seed, b]]
            for k, (before, after) in enumerate(zip(shown, found, strict=True)):
                down, right = (int(5 * u) - 2 for u in shift[seed, k, b].tolist())
                factor = 1 + 0.05 * float(np.clip(intensity[seed, k, b], -2, 2))
                np.testing.assert_allclose(after, reference(before.numpy(), down, right, 2, factor), rtol=1e-5)


PICTURES = replace(
    SMALL,
    encoder="nature",
    hidden=(32,),
    batch_size=4,
    dueling=True,
    double=True,
    head="c51",
    num_atoms=11,
    prioritized=True,
    noisy=True,
    n_step=2,
    augment=True,
    self_predict=True,
    self_predict_steps=3,
)


@pytest.mark.compiler
@pytest.mark.parametrize("way", ["cpu", "cuda"])
def test_compiled_and_uncompiled_predict_alike(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU; ``way`` is how it is compiled."""
    monkeypatch.setattr("agents.learner.compiled", lambda function, device, made_from: compiled(function, torch.device(way)))
    runs = {}
    for compile in (False, True):
        it = learner((3,), PICTURES, frame_shape=(2, 36, 36), compile=compile, together=True)
        runs[compile] = train(it, 50, world=Pictures((3,)))
    np.testing.assert_array_equal(runs[True][1], runs[False][1])
    np.testing.assert_allclose(runs[True][0], runs[False][0], rtol=1e-3)


def test_seeds_of_games_with_fewer_actions_predict_as_they_do_alone() -> None:
    """The planes of actions that a game has not get no gradient, and its own parameters are those that it has alone."""
    config = replace(PICTURES, noisy=False, augment=False, optimiser_eps=1e-3)  # steps do not hang on the sign of nothing
    worlds = {seed: Pictures((seed,)) for seed in (3, 4)}

    class Both(Pictures):
        def __init__(self) -> None: ...

        def obs(self) -> np.ndarray:
            return np.concatenate([world.obs() for world in worlds.values()])

        def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
            steps = [world.step(action[k : k + 1]) for k, world in enumerate(worlds.values())]
            reward, terminal, truncated, final = (np.concatenate([step[k] for step in steps]) for k in range(4))
            return reward, terminal, truncated, final

    together = learner((3, 4), config, frame_shape=(2, 36, 36), num_actions=(2, 5))
    losses, actions = train(together, 50, world=Both())
    for k, (seed, count) in enumerate(((3, 2), (4, 5))):
        alone = learner((seed,), config, frame_shape=(2, 36, 36), num_actions=count)
        losses_alone, actions_alone = train(alone, 50, world=Pictures((seed,)))
        np.testing.assert_array_equal([row[k] for row in actions], [row[0] for row in actions_alone])
        np.testing.assert_allclose([row[k] for row in losses], [row[0] for row in losses_alone], rtol=2e-3)
        torch.testing.assert_close(together.agent(k)[1], alone.agent(0)[1], rtol=1e-3, atol=1e-3)
    first = together.network.unflatten(together.params[0])["transition.first.weight"]
    assert not first[:, 64 + 2 :].any(), "of the three actions that the first game has not"
    assert first[:, 64 : 64 + 2].any()


def test_it_learns_to_foresee_where_the_ball_falls() -> None:
    """After 1,500 steps of Catch the nearest to a prediction, of all images that can follow, is the one that does follow."""
    it = learn_to_catch(replace(small("spr"), augment=False))  # a ball that is moved cannot be foreseen
    net, flat = it.agent(0)
    named = net.unflatten(flat)
    right = total = 0
    for column in range(COLUMNS):
        for action in range(3):
            game = Catch(np.random.default_rng(0))
            game.start(column)
            now = torch.from_numpy(game.obs())
            _, predicted = net.predicting(named, now, torch.tensor([[action]]), None, None)
            images = []
            for ball in range(COLUMNS):
                for paddle in (1, 2, 3):
                    game.start(ball)
                    game.row, game.paddle = 1, paddle
                    images.append(torch.from_numpy(game.obs()))
            seen = net.projected(named, torch.cat(images))
            best = F.cosine_similarity(predicted[0], seen, dim=1).argmax().item()
            right += best == 3 * column + action
            total += 1
    assert right >= 0.8 * total, f"{right} of {total}; 1 in 15 by chance"


def test_a_replay_that_gives_nothing_to_predict_is_refused() -> None:
    config = replace(PICTURES, self_predict_steps=3)
    layout = learner((3,), config, frame_shape=(2, 36, 36)).layout
    with pytest.raises(ValueError, match="gives 0 observations to predict, the agent predicts 3"):
        Learner(config, replace(layout, predicted_steps=0), 3, (3,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "mlp"}, "agent.self_predict predicts the features of images, and agent.encoder mlp reads vectors"),
        ({"self_predict_steps": 0}, "agent.self_predict_steps must be positive"),
        ({"self_predict_weight": 0.0}, "agent.self_predict_weight must be positive"),
        ({"self_predict_steps": 60, "replay_capacity": 64}, "too small for the 60 steps that an update looks ahead"),
    ],
)
def test_what_cannot_be_predicted_is_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **changes)


def test_an_optimiser_state_of_zeros_is_all_that_it_needs() -> None:
    net, online, target, data, noise = case(CONFIG, SHAPE)
    state = OptState((torch.zeros(net.size),), (torch.zeros(net.size),), torch.zeros(()))
    config = replace(CONFIG, optimiser="adam", learning_rate=3e-3, optimiser_eps=1e-8)
    update = make_update(config, net)
    pieces = (online,)
    losses = []
    for _ in range(60):
        pieces, state, _, metrics = update(pieces, (target,), state, data, noise)
        losses.append(metrics.loss.item())
    assert losses[-1] < 0.7 * losses[0], "a fixed batch is learned by heart"
