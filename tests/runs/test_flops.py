"""Model FLOPs against figures derived by hand, layer by layer: 2 per multiply-add, biases and activations not counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agents.config import AgentConfig
from agents.family import agent_config
from agents.replay import ReplayLayout
from runs.flops import count_flops

# out height x out width x out channels x kernel height x kernel width x in channels
NATURE_CONVS = [20 * 20 * 32 * 8 * 8 * 4, 9 * 9 * 64 * 4 * 4 * 32, 7 * 7 * 64 * 3 * 3 * 64]
NATURE = [*NATURE_CONVS, 3136 * 512, 512 * 18]


def layout(shape: tuple[int, ...], stack: int, pixels: bool) -> ReplayLayout:
    return ReplayLayout(1, 1, 100, shape, pixels, stack, "zeros", 27_000, 1, 0.99, True)


def update(layers: list[int], batch: int, forwards: int) -> int:
    """Forward passes, then backward: the gradient of every weight, and of every layer's input but the first's."""
    return 2 * batch * (forwards * sum(layers) + sum(layers) + sum(layers[1:]))


@pytest.mark.parametrize(("agent", "forwards"), [("dqn", 2), ("double", 3)])
def test_nature_network(agent: str, forwards: int) -> None:
    costs = count_flops(agent_config(agent, "atari"), layout((84, 84), 4, True), 18)
    assert costs.forward == 2 * sum(NATURE) == 18_704_384
    assert costs.update == update(NATURE, 32, forwards)


def test_minatar_network() -> None:
    layers = [8 * 8 * 16 * 3 * 3 * 4, 1024 * 128, 128 * 3]
    costs = count_flops(agent_config("dqn", "minatar"), layout((4, 10, 10), 1, True), 3)
    assert (costs.forward, costs.update) == (2 * sum(layers), update(layers, 32, 2))


def test_mlp_and_its_dueling_streams() -> None:
    config = replace(agent_config("dqn", "classic"), batch_size=64)
    layers = [4 * 128, 128 * 128, 128 * 2]
    costs = count_flops(config, layout((4,), 1, False), 2)
    assert (costs.forward, costs.update) == (2 * sum(layers), update(layers, 64, 2))
    dueling = count_flops(replace(config, dueling=True), layout((4,), 1, False), 2)
    assert dueling.forward == 2 * (4 * 128 + 2 * 128 * 128 + 128 * 1 + 128 * 2)


def test_data_efficient_network() -> None:
    """Strides of 5 leave 16 x 16 and 3 x 3 positions. Dueling and c51: 51 atoms of a value, and of each of 18 advantages. Noise costs no
    matmul: it is multiplied in element by element. Double: a third forward pass."""
    convs = [16 * 16 * 32 * 5 * 5 * 4, 3 * 3 * 64 * 5 * 5 * 32]
    streams = [576 * 256, 256 * 51, 576 * 256, 256 * 18 * 51]
    costs = count_flops(agent_config("der", "atari"), layout((84, 84), 4, True), 18)
    assert costs.forward == costs.eval_forward == 2 * sum([*convs, *streams]) == 3_645_952
    assert costs.update == update([*convs, *streams], 32, 3) == 530_923_520


# The heads on a network 4 -> 16 -> 8 -> 2 actions, batch 3.
HEAD = AgentConfig(encoder="mlp", hidden=(16, 8), batch_size=3)
BODY = [4 * 16, 16 * 8]


@pytest.mark.parametrize(
    ("changes", "outputs", "forwards"),
    [
        ({"head": "scalar"}, 2, 2),
        ({"head": "scalar", "loss": "mse", "noisy": True, "prioritized": True, "n_step": 3}, 2, 2),
        ({"head": "c51", "num_atoms": 51}, 2 * 51, 2),  # its expectation, a product with a vector, is no matmul
        ({"head": "c51", "num_atoms": 21, "double": True}, 2 * 21, 3),
        ({"head": "qr", "num_quantiles": 200}, 2 * 200, 2),
        ({"head": "qr", "num_quantiles": 7, "double": True}, 2 * 7, 3),
        ({"munchausen": True}, 2, 3),  # the target network also looks at the observation itself
        ({"head": "c51", "munchausen": True}, 2 * 51, 3),
    ],
)
def test_heads_differ_in_the_width_of_the_last_layer_and_in_forward_passes(
    changes: dict[str, Any], outputs: int, forwards: int
) -> None:
    layers = [*BODY, 8 * outputs]
    costs = count_flops(replace(HEAD, **changes), layout((4,), 1, False), 2)
    assert (costs.forward, costs.update) == (2 * sum(layers), update(layers, 3, forwards))


@pytest.mark.parametrize(("changes", "selects"), [({}, 1), ({"double": True}, 1), ({"munchausen": True}, 2)])
def test_implicit_quantiles_run_all_layers_behind_the_embedding_once_a_quantile(changes: dict[str, Any], selects: int) -> None:
    """Per observation 4 x 16; per quantile 9 cosines x 16, 16 x 8 and 8 x 2. Update: online with 5 quantiles, target with 6, and 7 to
    choose an action (Munchausen: at both observations). Backward: every weight, and every input but the observation and the cosines."""
    embedding, behind = 9 * 16, 16 * 8 + 8 * 2

    def forward(quantiles: int) -> int:
        return 4 * 16 + quantiles * (embedding + behind)

    config = replace(HEAD, head="iqn", num_tau=5, num_tau_target=6, num_tau_act=7, tau_cosines=9, **changes)
    costs = count_flops(config, layout((4,), 1, False), 2)
    assert costs.forward == 2 * forward(7) == 4160
    assert costs.update == 2 * 3 * (forward(5) + forward(6) + selects * forward(7) + forward(5) + 5 * behind)


@pytest.mark.parametrize("double", [False, True])
def test_augmented_images_cost_no_matmul(double: bool) -> None:
    config = replace(agent_config("dqn", "atari"), double=double)
    images = layout((84, 84), 4, True)
    assert count_flops(replace(config, augment=True), images, 18) == count_flops(config, images, 18)


def test_self_prediction() -> None:
    """Of five images ahead: features and projection without a gradient; and from the first image's features five times the transition
    (two convolutions of 3 x 3, 18 planes of actions with the 64 channels), the projection and the predictor, with gradients."""
    projection = 2 * 3136 * 256
    streams = [3136 * 256, 256 * 51, 3136 * 256, 256 * 18 * 51]
    transition = 7 * 7 * 64 * 3 * 3 * (64 + 18) + 7 * 7 * 64 * 3 * 3 * 64
    costs = count_flops(agent_config("spr", "atari"), layout((84, 84), 4, True), 18)
    assert costs.forward == costs.eval_forward == 2 * sum([*NATURE_CONVS, *streams])
    ahead = 5 * (3 * (transition + projection + 512 * 512) + sum(NATURE_CONVS) + projection)
    assert costs.update == update([*NATURE_CONVS, *streams], 32, 3) + 2 * 32 * ahead == 11_598_110_720
