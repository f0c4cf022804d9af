"""What a training computes lies on its device, and never waits for it to look at a value: shown without a GPU, on torch's meta device.

Tensors there have shapes and no values. Computing with one of another device is an error almost everywhere, and so is looking at a value,
which on a GPU would wait for everything before it and could not be recorded in a graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agents.family import FAMILY, agent_config
from agents.learner import Learner
from agents.replay import ReplayLayout

FRAMES: dict[str, tuple[tuple[int, ...], int]] = {"classic": ((4,), 1), "minatar": ((4, 10, 10), 1), "atari": ((84, 84), 4)}


def record(call: Any) -> Any:
    """In the place of a CUDA graph."""
    return lambda: None, call()


@pytest.mark.parametrize("domain", FRAMES)
@pytest.mark.parametrize("name", FAMILY)
def test_a_step_of_every_agent_stays_on_its_device_and_looks_at_no_value(name: str, domain: str) -> None:
    config, (frame_shape, stack) = agent_config(name, domain), FRAMES[domain]
    layout = ReplayLayout(
        seeds=2, envs_per_seed=config.envs_per_seed, capacity=50, frame_shape=frame_shape, pixels=len(frame_shape) > 1,
        stack=stack, stack_padding="zeros", max_episode_steps=30, n_step=config.longest_return_steps, gamma=config.gamma, clip_rewards=True,
        prioritized=config.prioritized, priority_uniform_share=config.priority_uniform_share,
        predicted_steps=config.predicted_steps,
    )  # fmt: skip
    obs = np.zeros((layout.lanes, *layout.obs_shape), np.uint8 if layout.pixels else np.float32)
    nothing, over = np.zeros(layout.lanes), np.ones(layout.lanes, np.bool_)
    for together, recorder in ((True, record), (False, None)):
        it = Learner(config, layout, 3, (0, 1), "meta", together=together)
        it.warm_up(obs)
        if recorder is not None:
            it.use_graphs(obs, recorder)
        for _ in range(2):  # the second time with rows that are complete
            acting, learning = it._observe(obs), it._learning()
            it.record(nothing.astype(np.int64), nothing, ~over, over, over, obs)
        arguments = it._arguments(it._state, acting, learning)
        several = config.replay_ratio > 1  # updates at a step
        assert set(arguments) == ({"act", "act_update"} if together and not several else {"act", "update"})
        for call, values in arguments.items():
            leaves, _ = torch.utils._pytree.tree_flatten(it._calls[call](*values))
            assert {leaf.device.type for leaf in leaves} == {"meta"}
