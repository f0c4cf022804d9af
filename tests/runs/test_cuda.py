"""On a GPU with deterministic kernels, killed and continued equals uninterrupted too: `pytest -m gpu`. Left out where there is none."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import schema
from tests.runs.test_resume import MINATAR, RAINBOW, SMALL, config
from tests.torture import check_books, finish, folders, killed_at_steps, result

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU"),
]
KINDS: dict[str, dict[str, Any]] = {
    "dqn": {"agent_config": SMALL},
    "rainbow, 2 seeds": {"agent": "rainbow", "agent_config": RAINBOW, "seeds": (0, 1)},
    "dqn on MinAtar, 2 seeds": {"env": "MinAtar/Asterix-v1", "agent_config": MINATAR, "seeds": (0, 1)},
}


@pytest.mark.parametrize("compile", ["off", pytest.param("on", marks=pytest.mark.compiler)])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_run_on_a_gpu_that_was_killed_and_continued_is_the_run_that_would_have_been(
    kind: dict[str, Any], compile: str, tmp_path: Path
) -> None:
    """The processes of tests/torture.py ask torch for deterministic kernels where the device is a GPU."""
    asked = config(
        tmp_path / "whole", device="cuda:0", compile=compile, budget="1k-steps", checkpoint_every="100-steps", **kind
    )
    asked, said = replace(asked, heartbeat_s=0.05), tmp_path / "said"
    finish(asked, said)
    whole = folders(asked)
    cut = killed_at_steps(replace(asked, out=str(tmp_path / "cut")), said, [333, 704])
    for folder, uninterrupted in zip(cut, whole, strict=True):
        assert schema.read_run(folder).device["type"] == "cuda"
        assert schema.read_run(folder).run_config["with_cuda_graphs"] is True
        assert result(folder) == result(uninterrupted)
        check_books(folder)
        continued = re.findall(r"continued at step (\d+)", " ".join(schema.read_ledger(folder)[-1].notes))
        assert len(continued) == 2
        assert "0" not in continued, "a checkpoint is whole before the next one begins"
    assert "Traceback" not in said.read_text()
