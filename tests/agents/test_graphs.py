"""Calls as graphs. What a graph may be is shown everywhere with a stand-in that reads and writes as CUDA graphs do; the real ones on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agents.compiler import leaves
from agents.config import AgentConfig
from agents.family import agent_config
from agents.graphs import cuda_graph, first_cause
from agents.learner import Learner
from tests.agents.test_learner import CONFIG, Pictures, Toy, learner, train

RAINBOW = replace(
    agent_config("rainbow", "classic"), hidden=(16,), batch_size=8, learning_starts_steps=10, replay_capacity=64, num_atoms=11
)
AGENTS = {
    "dqn": CONFIG,
    "rainbow": RAINBOW,
    "iqn": replace(CONFIG, head="iqn", num_tau=4, num_tau_target=4, num_tau_act=4),
    "two updates a step": replace(CONFIG, replay_ratio=2.0),
    "one and two by turns": replace(CONFIG, replay_ratio=1.5),
}


def stand_in(it: Learner) -> Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]:
    """A recorder that keeps what CUDA graphs promise: recording changes nothing, a replay reads the tensors that the call was recorded
    with and no others, and every replay leaves its results in the same place."""

    def record(call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        storage = it.replay.storage
        state = [*leaves(it._state), storage.clock, *storage.priorities]
        before = [tensor.clone() for tensor in state]
        storage.clock[1] = 1  # a CUDA graph that is recorded computes nothing; here there has to be something to sample
        for tensor in storage.priorities:
            tensor.fill_(1)
        results = call()
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        computed = leaves(results)
        for tensor in computed:
            tensor.fill_(0)  # nothing was computed

        def replay() -> None:
            for tensor, value in zip(computed, leaves(call()), strict=True):
                tensor.copy_(value)

        return replay, results

    return record


def recorded(config: AgentConfig, together: bool, seeds: tuple[int, ...] = (3, 5), **options: Any) -> Learner:
    it = learner(seeds, config, together=together, **options)
    it.use_graphs(np.zeros((len(seeds), 4), np.float32), stand_in(it))
    return it


@pytest.mark.parametrize("together", [True, False], ids=["one call", "two calls"])
@pytest.mark.parametrize("config", AGENTS.values(), ids=AGENTS)
def test_a_training_with_graphs_is_the_training_without(config: AgentConfig, together: bool) -> None:
    """Two calls is how Atari learns. Losses, actions and every number of the state, over ends of episodes and a full ring."""
    fused = together and config.replay_ratio == 1
    it, plain = recorded(config, together), learner((3, 5), config)
    seen, expected = train(it, 80, fused), train(plain, 80, fused)
    np.testing.assert_array_equal(seen[0], expected[0])
    np.testing.assert_array_equal(seen[1], expected[1])
    assert it.params_sha256() == plain.params_sha256()
    assert len(seen[0]) > 50
    assert np.std(seen[0]) > 0


@pytest.mark.parametrize("changes", [{"dueling": True}, {"munchausen": True, "head": "c51", "num_atoms": 11}])
def test_games_with_different_numbers_of_actions_too(changes: dict[str, Any]) -> None:
    config = replace(CONFIG, **changes)
    it, plain = recorded(config, True, num_actions=(2, 5)), learner((3, 5), config, num_actions=(2, 5))
    seen, expected = train(it, 80), train(plain, 80)
    np.testing.assert_array_equal(seen[0], expected[0])
    np.testing.assert_array_equal(seen[1], expected[1])
    assert it.params_sha256() == plain.params_sha256()


def test_pictures_and_several_environments_too() -> None:
    config = replace(CONFIG, encoder="nature", envs_per_seed=2, replay_ratio=0.5)
    it, plain = learner((7,), config, (2, 36, 36), together=True), learner((7,), config, (2, 36, 36))
    it.use_graphs(np.zeros((2, 2, 36, 36), np.uint8), stand_in(it))
    seen, expected = (train(one, 40, world=Pictures((7, 8))) for one in (it, plain))
    np.testing.assert_array_equal(seen[0], expected[0])
    np.testing.assert_array_equal(seen[1], expected[1])


def test_recording_changes_nothing_and_a_state_can_be_loaded_after_it() -> None:
    before, fresh = learner((3, 5), RAINBOW), learner((3, 5), RAINBOW)
    it = recorded(RAINBOW, together=True)
    assert it.params_sha256() == fresh.params_sha256()
    assert (it.steps, it.updates) == (0, 0)
    train(before, 60)
    it.load_state_dict(before.state_dict())
    np.testing.assert_array_equal(train(it, 60)[0], train(before, 60)[0])


def test_evaluating_with_graphs_is_evaluating_without_for_any_number_of_lanes_and_while_it_learns() -> None:
    it, plain, rng = recorded(RAINBOW, True), learner((3, 5), RAINBOW), np.random.default_rng(1)
    chosen = []
    for lanes in (3, 3, 1, 3):
        for _ in range(2):
            obs = rng.standard_normal((2 * lanes, 4), np.float32)
            chosen.append(it.greedy(obs))
            np.testing.assert_array_equal(chosen[-1], plain.greedy(obs))
        train(it, 30), train(plain, 30)
    assert len(np.unique(np.concatenate(chosen))) > 1


def test_where_an_evaluation_cannot_be_recorded_it_is_played_without_and_that_is_said_once() -> None:
    def no_memory(call: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        raise RuntimeError("CUDA out of memory")

    it, plain, obs = (
        recorded(RAINBOW, True),
        learner((3, 5), RAINBOW),
        np.random.default_rng(1).standard_normal((6, 4), np.float32),
    )
    it._record = no_memory
    with pytest.warns(UserWarning, match="^evaluating 6 lanes without a CUDA graph, slower: CUDA out of memory$"):
        chosen = it.greedy(obs)
    np.testing.assert_array_equal(chosen, plain.greedy(obs))
    np.testing.assert_array_equal(it.greedy(-obs), plain.greedy(-obs))


def test_the_first_cause_is_told() -> None:
    try:
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nand so on")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    except RuntimeError as error:
        assert first_cause(error) == "operation not permitted when stream is capturing"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.compiler)], ids=["eager", "compiled"])
@pytest.mark.parametrize("together", [True, False], ids=["one call", "two calls"])
@pytest.mark.parametrize("seeds", [(7,), (3, 5)], ids=["one seed", "two"])
@pytest.mark.parametrize("name", ["dqn", "rainbow", "iqn", "pictures", "several games"])
def test_on_a_gpu_a_training_with_graphs_is_the_training_without(
    name: str, seeds: tuple[int, ...], together: bool, compile: bool
) -> None:
    """Also from a state that was loaded after recording. Two compiled learners may use other kernels, and gradients of convolutions
    are added up in any order (0.2 % after 60 updates, seen on an H200), hence the tolerances."""
    rtol = 1e-2 if name == "pictures" else 1e-3
    pictures = replace(CONFIG, encoder="nature", augment=True, shift_pixels=2)
    config, shape = (pictures, (2, 36, 36)) if name == "pictures" else (AGENTS.get(name, replace(CONFIG, dueling=True)), (4,))
    actions = (2, 5)[: len(seeds)] if name == "several games" else 3
    layout = learner(seeds, config, shape).layout
    it, plain = (Learner(config, layout, actions, seeds, "cuda", compile, together) for _ in range(2))
    obs = np.zeros((len(seeds), *shape), np.uint8 if name == "pictures" else np.float32)
    it.warm_up(obs)
    it.use_graphs(obs, cuda_graph)
    worlds = [Pictures(seeds) if name == "pictures" else Toy(seeds) for _ in range(2)]
    for _ in range(2):
        seen, expected = train(it, 60, together, worlds[0]), train(plain, 60, together, worlds[1])
        np.testing.assert_allclose(seen[0], expected[0], rtol=rtol)
        np.testing.assert_array_equal(seen[1], expected[1])
        it.load_state_dict(plain.state_dict())
        shown = np.repeat(worlds[0].obs(), 3, axis=0)
        np.testing.assert_array_equal(it.greedy(shown), plain.greedy(shown))
