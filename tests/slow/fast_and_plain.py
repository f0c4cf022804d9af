"""Learning curves of the fast paths beside a plainer one, compared statistically.

    python -m tests.slow.fast_and_plain dqn CartPole-v1 --seeds 20 --threads 1
    python -m tests.slow.fast_and_plain dqn ALE/RoadRunner-v5 --paths compiled bf16 --budget 100k-steps ...

Takes what ``playmeter train`` takes. The first path is what the others are compared with. Plain is uncompiled, in float32, and without the
CUDA graphs that the others have on a GPU. Each path has seeds of its own, so that its runs are independent of the others'. A run counts by
the mean of its evaluations (the area under its curve) and by its last one; IQM and 95 % bootstrap intervals, and how likely a run of the
fast path beats one of the first: an interval that holds 0.5 shows no difference. A run that has ended before is not run again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.config import AgentConfig
from analysis.statistics import bootstrap_improvement, bootstrap_iqm, iqm, probability_of_improvement
from cli.train import TrainAny, asked_config, run_and_tell, train_arguments
from runs.schema import read_evals

PATHS = ("plain", "compiled", "bf16")


def scores(path: str, asked: TrainAny, settings: AgentConfig) -> NDArray[np.float64]:
    """Mean returns [S, evaluations] of a path's runs."""
    asked = replace(asked, first_seed=asked.first_seed + 100 * PATHS.index(path), out=str(Path(asked.out) / path), resume=True)
    plain = path == "plain"
    config = asked_config(
        asked,
        replace(settings, precision="bf16" if path == "bf16" else "fp32"),
        {"compile": "off" if plain else "on", "cuda_graphs": "off" if plain else "auto"},
        ("python", "-m", "tests.slow.fast_and_plain", *sys.argv[1:]),
    )
    if run_and_tell(config) != 0:
        raise SystemExit(f"{path} did not end")
    folders = [Path(config.out) / config.env / config.agent / f"seed{seed}" for seed in config.seeds]
    return np.array([[one.mean_return for one in read_evals(folder)] for folder in folders])


def main(argv: Sequence[str] = tuple(sys.argv[1:])) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=list(PATHS))
    own, rest = parser.parse_known_args(argv)
    asked, settings, _ = train_arguments(
        [*rest[:2], "--eval-episodes", "20", "--out", "results/fast_and_plain", *rest[2:]], "train"
    )
    assert isinstance(settings, AgentConfig)
    seen = {path: scores(path, asked, settings) for path in own.paths}
    first, *others = own.paths
    for what, figure in (
        ("mean of the evaluations", lambda curve: curve.mean(1)),
        ("last evaluation", lambda curve: curve[:, -1]),
    ):
        print(what)
        for path in own.paths:
            mine, theirs = figure(seen[path]), figure(seen[first])
            interval = bootstrap_iqm([mine])
            line = f"  {path:<9} IQM {iqm(mine):.1f}" + (f" ({interval.low:.1f} to {interval.high:.1f})" if interval else "")
            if path in others:
                better, between = probability_of_improvement([mine], [theirs]), bootstrap_improvement([mine], [theirs])
                line += f", better than {first} {better:.2f}" + (
                    f" ({between.low:.2f} to {between.high:.2f})" if between else ""
                )
            print(line)


if __name__ == "__main__":
    main()
