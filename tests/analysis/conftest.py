from pathlib import Path

import pytest

from tests.analysis.run_folders import write_run


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def five_seeds(results: Path) -> Path:
    """Five seeds of dqn on CartPole with known last scores 100, 200, 300, 400, 500, each at the last of two evaluations."""
    for seed in range(5):
        write_run(results / "CartPole-v1" / "dqn" / f"seed{seed}", seed=seed, scores=[50.0, 100.0 * (seed + 1)])
    return results
