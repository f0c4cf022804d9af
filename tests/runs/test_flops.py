"""Model FLOPs against figures derived by hand, layer by layer: 2 per multiply-add, biases and activations not counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.family import agent_config
from agents.replay import ReplayLayout
from runs.flops import flop_costs

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
    costs = flop_costs(agent_config(agent, "atari"), layout((84, 84), 4, True), 18)
    assert costs.forward == 2 * sum(NATURE) == 18_704_384
    assert costs.update == update(NATURE, 32, forwards)


def test_minatar_network() -> None:
    layers = [8 * 8 * 16 * 3 * 3 * 4, 1024 * 128, 128 * 3]
    costs = flop_costs(agent_config("dqn", "minatar"), layout((4, 10, 10), 1, True), 3)
    assert (costs.forward, costs.update) == (2 * sum(layers), update(layers, 32, 2))


def test_mlp_and_its_dueling_streams() -> None:
    config = replace(agent_config("dqn", "classic"), batch_size=64)
    layers = [4 * 128, 128 * 128, 128 * 2]
    costs = flop_costs(config, layout((4,), 1, False), 2)
    assert (costs.forward, costs.update) == (2 * sum(layers), update(layers, 64, 2))
    dueling = flop_costs(replace(config, dueling=True), layout((4,), 1, False), 2)
    assert dueling.forward == 2 * (4 * 128 + 2 * 128 * 128 + 128 * 1 + 128 * 2)
