"""Every idea compiled, against the eager mode: up to a minute each where nothing is cached. `make slow`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from agents.config import AgentConfig
from tests.agents.test_learner import AGENTS, losses_of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.compiler
@pytest.mark.parametrize("seeds", [(7,), (7, 9)], ids=["one seed", "two seeds"])
@pytest.mark.parametrize("config", AGENTS.values(), ids=AGENTS)
def test_eager_and_compiled_give_the_same_losses(config: AgentConfig, seeds: tuple[int, ...]) -> None:
    np.testing.assert_allclose(losses_of(config, seeds, compile=True), losses_of(config, seeds), rtol=5e-4)
