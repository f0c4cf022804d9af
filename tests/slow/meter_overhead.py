"""What the meter costs: whole small trainings with and without it, in alternating pairs.

    OMP_NUM_THREADS=1 python -m tests.slow.meter_overhead [--pairs 30] [--steps 6000] [--only script|ours|parts]

``script``: the single-file DQN of tests/foreign, plain against a Meter around it with its environment wrapped (heartbeats, ledger,
monitor, energy). ``ours``: ``playmeter train dqn`` as it is against the same without energy sources, laps, heartbeats and ledger;
what the heartbeats write to TensorBoard is left out with them.

The order turns round from pair to pair. Wall time and CPU time of the process, each as the median of the pairs' ratios with the 95 %
interval of that median (order statistics: no assumption about the noise): a pair differs by several per cent on a shared machine,
and only an interval that is narrower than 0.5 % says something of 0.5 %. On a busy machine the CPU times say more.

Last the parts, which noise cannot hide: what a step in the wrapper, a lap and a heartbeat take, the best of many tries in turns
with the plain loop, and what share of a run's time that comes to. Opening and closing a Meter, and importing it (the median of ten
processes), are paid once a run and stand apart.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium
import torch
from scipy.stats import binom

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
    def __init__(self, device: Any = None, **_: Any) -> None:
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
    low, high = interval_of_median(percent)
    return f"{statistics.median(percent):+.2f} % (95 %: {low:+.2f} to {high:+.2f})"


def interval_of_median(values: list[float]) -> tuple[float, float]:
    """At least 95 %: how many of n values lie below the true median is binomial(n, 1/2). Everything below 6 values."""
    ordered = sorted(values)
    below = max(0, int(binom.ppf(0.025, len(ordered), 0.5)) - 1)
    return ordered[below], ordered[-1 - below]


def parts(script_s: float | None, steps: int) -> None:
    """The cost of one step in the wrapper, of one lap, of one heartbeat, and of opening and closing."""
    with tempfile.TemporaryDirectory() as out:
        opened_s = statistics.median(timed(lambda: open_and_close(out))[0] for _ in range(10))
        with Meter(Path(out), agent="dqn", env="CartPole-v1", heartbeat_s=5.0) as meter:
            plain, wrapped = gymnasium.make("CartPole-v1"), meter.wrap(gymnasium.make("CartPole-v1"))
            plain_s, wrapped_s = best(lambda: play(plain), lambda: play(wrapped))
            assert meter._recorder is not None
            beats_s = [timed(meter._recorder.beat)[0] for _ in range(200)]
            process = meter._recorder.meter
            (laps_s,) = best(lambda: [process.lap("act") for _ in range(200)])
    step_s, beat_s = (wrapped_s - plain_s) / 200, statistics.median(beats_s)
    print(
        f"parts   step {1e6 * step_s:.2f} us, lap {1e6 * laps_s / 200:.2f} us, heartbeat {1e3 * min(beats_s):.2f} ms at best, "
        f"{1e3 * beat_s:.2f} in the median; once a run {1e3 * opened_s:.0f} ms"
    )
    if script_s is not None:
        of_steps, of_beats = 100 * steps * step_s / script_s, 100 * beat_s / 2.0
        print(f"        of the script's time: steps {of_steps:.2f} %, heartbeats every 2 s {of_beats:.2f} %")


def imports() -> None:
    """What ``from playmeter import Meter`` takes in a process of its own, and Python's own start in it."""

    def median_s(statement: str) -> float:
        return statistics.median(
            timed(lambda: subprocess.run([sys.executable, "-c", statement], check=True))[0] for _ in range(10)
        )

    print(f"import  {median_s('from playmeter import Meter'):.3f} s, of which Python's own start {median_s('pass'):.3f}")


def open_and_close(out: str) -> None:
    with Meter(out, agent="dqn", env="CartPole-v1"):
        pass


def play(env: Any) -> None:
    env.reset(seed=0)
    for step in range(200):
        if env.step(step % 2)[2]:
            env.reset()


def best(*works: Callable[[], Any], tries: int = 200) -> list[float]:
    """The least seconds of each, tried in turns: other work on the machine only ever adds."""
    rounds = [[timed(work)[0] for work in works] for _ in range(tries)]
    return [min(column) for column in zip(*rounds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--only", choices=["script", "ours", "parts"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.pairs} pairs; load average {os.getloadavg()[0]:.1f}; medians of the pairs")
    if arguments.only != "ours":
        script_s = None if arguments.only == "parts" else compare("script", script, arguments.pairs, arguments.steps)
        parts(script_s, arguments.steps)
        imports()
    if arguments.only in (None, "ours"):
        compare("ours", ours, arguments.pairs, arguments.steps)


if __name__ == "__main__":
    main()
