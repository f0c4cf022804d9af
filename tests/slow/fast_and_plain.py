"""Learning curves of the fast paths beside the plain one, compared statistically.

    python -m tests.slow.fast_and_plain [--agent dqn] [--env CartPole-v1] [--budget 50k-steps] [--seeds 20] [--paths compiled bf16]

Plain is uncompiled, in float32, and without the CUDA graphs that the others have on a GPU. Each path has seeds of its own, so that its
runs are independent of the others'. A run counts by the mean of its evaluations (the area under its curve) and by its last one; IQM and 95 % bootstrap intervals, and how likely a run of the fast path
beats a plain one: an interval that holds 0.5 shows no difference. A path that has ended before is not run again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.family import agent_config
from analysis.statistics import bootstrap_improvement, bootstrap_iqm, iqm, probability_of_improvement
from cli.train import run_and_tell
from envs import spec
from runs.config import DOMAINS, RunConfig
from runs.schema import read_evals

PATHS = ("plain", "compiled", "bf16")


def scores(path: str, asked: argparse.Namespace) -> NDArray[np.float64]:
    """Mean returns [S, evaluations] of a path's runs."""
    agent = agent_config(asked.agent, DOMAINS[spec(asked.env).kind])
    agent = replace(agent, precision="bf16" if path == "bf16" else "fp32")
    first = asked.seeds * PATHS.index(path)
    out = Path(asked.results) / path
    config = RunConfig(
        asked.agent, asked.env, agent, tuple(range(first, first + asked.seeds)), asked.budget, evals=10, eval_episodes=20,
        out=str(out), device=asked.device, compile="off" if path == "plain" else "on",
        cuda_graphs="off" if path == "plain" else "auto", threads=asked.threads, resume=True,
        command=("python", "-m", "tests.slow.fast_and_plain"),
    )  # fmt: skip
    if run_and_tell(config) != 0:
        raise SystemExit(f"{path} did not end")
    folders = [out / asked.env / asked.agent / f"seed{seed}" for seed in config.seeds]
    return np.array([[one.mean_return for one in read_evals(folder)] for folder in folders])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="dqn")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--budget", default="50k-steps")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--paths", nargs="*", choices=PATHS[1:], default=list(PATHS[1:]))
    parser.add_argument("--results", default="results/fast_and_plain")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    asked = parser.parse_args()
    seen = {path: scores(path, asked) for path in ("plain", *asked.paths)}
    for what, figure in (
        ("mean of the evaluations", lambda curve: curve.mean(1)),
        ("last evaluation", lambda curve: curve[:, -1]),
    ):
        print(what)
        plain = figure(seen["plain"])
        for path, curves in seen.items():
            mine = figure(curves)
            interval = bootstrap_iqm([mine])
            line = f"  {path:<9} IQM {iqm(mine):.1f}" + (f" ({interval.low:.1f} to {interval.high:.1f})" if interval else "")
            if path != "plain":
                better, between = probability_of_improvement([mine], [plain]), bootstrap_improvement([mine], [plain])
                line += f", better than plain {better:.2f}" + (f" ({between.low:.2f} to {between.high:.2f})" if between else "")
            print(line)


if __name__ == "__main__":
    main()
