"""What denormal numbers cost an update on a CPU, and how many there are: synthetic frames, as for tests.slow.step_parts.

    python -m tests.slow.denormals der@atari dqn@atari --precision bf16

For each case without and with ``flush_denormals``, in processes of their own: milliseconds of an update by how many there were before, and the
share of the numbers in Adam's (or RMSProp's) running means that are denormal.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from typing import Literal

import torch

from agents.family import agent_config
from agents.learner import Learner
from tests.slow import step_parts

SMALLEST_NORMAL_BITS = 1 << 23  # of float32


def denormal_share(learner: Learner) -> float:
    means = torch.cat([learner.mean.flatten(), learner.square.flatten()]).numpy()
    bits = abs(means).view("int32")  # compared as floats, denormal numbers would be zero here as well
    return float(((bits > 0) & (bits < SMALLEST_NORMAL_BITS)).mean())


def measure(case: str, precision: Literal["fp32", "bf16"], flushing: bool, updates: int, every: int) -> None:
    step_parts.agent_config = lambda agent, domain: replace(agent_config(agent, domain), precision=precision)
    if not flushing:
        step_parts.flush_denormals = lambda: None
    learner, obs = step_parts.build(case, torch.device("cpu"), True, False)
    for done in range(0, updates, every):
        spent_s = 0.0
        for k in range(every):
            action = learner.act(obs[k % 8])
            began = time.perf_counter()
            learner.update()
            spent_s += time.perf_counter() - began
            step_parts.store(learner, action)
        print(f"    {done + every:5} updates  {1e3 * spent_s / every:6.2f} ms  {denormal_share(learner):6.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--updates", type=int, default=3_000)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--flushing", choices=["off", "on"], help="of these two one alone, in this process")
    own = parser.parse_args()
    for case in own.cases:
        if own.flushing is not None:
            torch.set_num_threads(own.threads)
            measure(case, own.precision, own.flushing == "on", own.updates, own.every)
            continue
        for flushing in ("off", "on"):
            print(f"{case}, flushing {flushing}", flush=True)
            sizes = [
                "--precision",
                own.precision,
                "--updates",
                str(own.updates),
                "--every",
                str(own.every),
                "--threads",
                str(own.threads),
            ]
            command = [sys.executable, "-m", "tests.slow.denormals", case, "--flushing", flushing, *sizes]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
