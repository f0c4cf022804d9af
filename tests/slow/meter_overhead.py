"""What the meter costs: whole small trainings with and without it, in alternating pairs.

    OMP_NUM_THREADS=1 python -m tests.slow.meter_overhead [--pairs 10] [--steps 6000] [--only script|ours]

``script``: the single-file DQN of tests/foreign, plain against a Meter around it with its environment wrapped (heartbeats, ledger,
monitor, energy). ``ours``: ``playmeter train dqn`` as it is against the same without energy sources, laps, heartbeats and ledger.
The order turns round from pair to pair. Wall time and CPU time of the process, each as the median of the pairs' ratios with their
range: on a busy machine the ratio of the CPU times says more. Last, the parts one by one, the best of many tries: what a step in
the wrapper and a heartbeat take, and what share of the script's time that comes to.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium
import torch

from agents.family import agent_config
from playmeter import Meter
from runs import loop, train
from runs.config import RunConfig
from runs.folder import RunFolder
from runs.meter import Meter as ProcessMeter
from tests.foreign import dqn

Seconds = tuple[float, float]  # wall, CPU of all threads


def timed(work: Callable[[], Any]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def script(steps: int, metered: bool) -> Seconds:
    """The time of its ``main``; the Meter is opened and closed outside, as it is once a run."""
    make_env = dqn.make_env
    arguments = ["dqn.py", "--total-timesteps", str(steps), "--train-frequency", "1"]
    with tempfile.TemporaryDirectory() as out, contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", arguments))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if metered:
            meter = stack.enter_context(Meter(out, agent="dqn", env="CartPole-v1"))
            wrapped = mock.patch.object(dqn, "make_env", lambda *args: meter.wrap(make_env(*args)))
            stack.enter_context(wrapped)
        return timed(dqn.main)


class NoMeter(ProcessMeter):
    def __init__(self, device: Any = None) -> None:
        super().__init__(device, sources=())

    def lap(self, phase: str) -> None:
        pass


def ours(steps: int, metered: bool) -> Seconds:
    with tempfile.TemporaryDirectory() as out, contextlib.ExitStack() as stack:
        if not metered:
            stack.enter_context(mock.patch.object(train, "Meter", NoMeter))
            stack.enter_context(mock.patch.object(RunFolder, "ledger"))
            stack.enter_context(mock.patch.object(loop.Books, "heartbeat_due", return_value=False))
        config = RunConfig("dqn", "CartPole-v1", agent_config("dqn", "classic"), (0,), f"{steps}-steps", evals=1, eval_episodes=1,
                           out=out, device="cpu", compile="off", threads=1)  # fmt: skip
        return timed(lambda: train.train(config, notice=lambda _: None))


def compare(name: str, run: Callable[[int, bool], Seconds], pairs: int, steps: int) -> float:
    """Print the ratios of metered to plain, less 1, in per cent. Returns the median wall seconds of a plain run."""
    run(steps // 4, True)  # imports and caches, not counted
    wall, cpu, plain_s = [], [], []
    for pair in range(pairs):
        seconds = {metered: run(steps, metered) for metered in ((False, True) if pair % 2 else (True, False))}
        wall.append(100 * (seconds[True][0] / seconds[False][0] - 1))
        cpu.append(100 * (seconds[True][1] / seconds[False][1] - 1))
        plain_s.append(seconds[False][0])
    seconds_s = statistics.median(plain_s)
    print(f"{name:<7} {seconds_s:.1f} s a run   wall {show(wall)}   CPU {show(cpu)}", flush=True)
    return seconds_s


def show(percent: list[float]) -> str:
    return f"{statistics.median(percent):+.2f} % ({min(percent):+.2f} to {max(percent):+.2f})"


def parts(script_s: float, steps: int) -> None:
    """The cost of one step in the wrapper and of one heartbeat."""
    with tempfile.TemporaryDirectory() as out, Meter(Path(out), agent="dqn", env="CartPole-v1") as meter:
        plain, wrapped = gymnasium.make("CartPole-v1"), meter.wrap(gymnasium.make("CartPole-v1"))
        step_s = best(lambda: play(wrapped)) / 200 - best(lambda: play(plain)) / 200
        assert meter._recorder is not None
        beat_s = best(meter._recorder.beat)
    share = 100 * (steps * step_s + script_s / 2.0 * beat_s) / script_s
    print(f"parts   step {1e6 * step_s:.1f} us, heartbeat {1e3 * beat_s:.2f} ms every 2 s: {share:.2f} % of the script's time")


def play(env: Any) -> None:
    env.reset(seed=0)
    for step in range(200):
        if env.step(step % 2)[2]:
            env.reset()


def best(work: Callable[[], Any], tries: int = 200) -> float:
    return min(timed(work)[0] for _ in range(tries))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--only", choices=["script", "ours"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.pairs} pairs; load average {os.getloadavg()[0]:.1f}; medians of the pairs (least to most)")
    if arguments.only != "ours":
        parts(compare("script", script, arguments.pairs, arguments.steps), arguments.steps)
    if arguments.only != "script":
        compare("ours", ours, arguments.pairs, arguments.steps)


if __name__ == "__main__":
    main()
