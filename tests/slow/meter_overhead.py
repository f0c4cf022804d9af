"""What the meter costs: one training, in which it is on and off by turns.

    OMP_NUM_THREADS=1 python -m tests.slow.meter_overhead [--minutes 5] [--only script|ours|parts]

``script``: the single-file DQN of tests/foreign, its environment plain and wrapped, under a Meter. ``ours``: ``playmeter train dqn``,
compiled, with laps and without.

Blocks of 20 steps, in the order off, on, on, off; the first and the second, the third and the fourth are a pair. On a machine that
others share the speed changes by tens of per cent from one second to the next; only neighbours within some hundredths of a second see
the same. Printed are wall time and CPU time of the process a step, each as the median of the pairs' ratios with the 95 % interval of
that median (order statistics: no assumption about the noise), and beside them the share of the time that heartbeats took, every one
timed: they come every few seconds, so no pair of blocks can show them.

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
from runs.meter import Meter as ProcessMeter
from runs.recorder import Recorder
from tests.foreign import dqn

BLOCK_STEPS = 20
ORDER = (False, True, True, False)
WARM_UP_S = 10.0  # imports, caches, steps before the first update
HEARTBEAT_S = 2.0

Seconds = tuple[float, float]  # wall, CPU


def timed(work: Callable[[], Any]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


class Over(Exception):
    pass


class Blocks:
    """Turns the meter off and on by turns, and keeps the seconds of each block."""

    def __init__(self, minutes: float) -> None:
        self.on = ORDER[0]
        self.blocks: list[Seconds] = []
        self.beats: list[Seconds] = []
        self._steps = 0
        self._began_s = time.monotonic()
        self._end_s = self._began_s + WARM_UP_S + 60 * minutes
        self._since = self._now()

    def _now(self) -> tuple[float, float, Seconds]:
        beats = sum(wall for wall, _ in self.beats), sum(cpu for _, cpu in self.beats)
        return time.perf_counter(), time.process_time(), beats

    def stepped(self) -> None:
        """Once a step, at one place of it. Raises Over at the end."""
        self._steps += 1
        if self._steps < BLOCK_STEPS:
            return
        now, since, self._steps = self._now(), self._since, 0
        # Without heartbeats, which are counted by themselves.
        self.blocks.append((now[0] - since[0] - now[2][0] + since[2][0], now[1] - since[1] - now[2][1] + since[2][1]))
        self.on = ORDER[len(self.blocks) % len(ORDER)]
        if time.monotonic() - self._began_s < WARM_UP_S:
            self.blocks.clear()
            self.beats.clear()
            self.on = ORDER[0]
        if time.monotonic() > self._end_s:
            raise Over
        self._since = self._now()

    def beat(self, beat: Callable[..., Any], *arguments: Any) -> Any:
        """A heartbeat, timed."""
        wall, cpu = time.perf_counter(), time.thread_time()
        result = beat(*arguments)
        self.beats.append((time.perf_counter() - wall, time.thread_time() - cpu))
        return result

    def percent(self, which: int) -> list[float]:
        """What the meter added in each pair, of wall (0) or CPU (1) seconds."""
        of = [seconds[which] for seconds in self.blocks]
        pairs = [(of[k], of[k + 1]) if k % 4 == 0 else (of[k + 1], of[k]) for k in range(0, len(of) - 1, 2)]
        return [100 * (on / off - 1) for off, on in pairs]


class Turned(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The environment, counted while the meter is on. Its games are counted wrongly then, which costs the same."""

    def __init__(self, env: gymnasium.Env[Any, Any], counted: gymnasium.Env[Any, Any], blocks: Blocks) -> None:
        super().__init__(counted)
        self.plain, self.counted, self.blocks = env, counted, blocks

    def step(self, action: Any) -> Any:
        self.blocks.stepped()
        return (self.counted if self.blocks.on else self.plain).step(action)


def script(minutes: float) -> Blocks:
    blocks, make_env, beat = Blocks(minutes), dqn.make_env, Recorder.beat
    arguments = ["dqn.py", "--total-timesteps", str(10**9), "--train-frequency", "1", "--exploration-fraction", "0.00001"]

    def make(meter: Meter, *of: Any) -> Turned:
        env = make_env(*of)
        return Turned(env, meter.wrap(env), blocks)

    with tempfile.TemporaryDirectory() as out, contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", arguments))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        meter = stack.enter_context(Meter(out, agent="dqn", env="CartPole-v1", heartbeat_s=HEARTBEAT_S))
        stack.enter_context(mock.patch.object(Recorder, "beat", lambda *of: blocks.beat(beat, *of)))
        stack.enter_context(mock.patch.object(dqn, "make_env", lambda *of: make(meter, *of)))
        with contextlib.suppress(Over):
            dqn.main()
    return blocks


def ours(minutes: float) -> Blocks:
    blocks, lap, due, beat = Blocks(minutes), ProcessMeter.lap, loop.Books.heartbeat_due, train.Group._heartbeat

    def lap_if_on(meter: ProcessMeter, phase: str) -> None:
        if blocks.on:
            lap(meter, phase)

    def heartbeat_due(books: loop.Books) -> bool:
        """Asked once a step."""
        blocks.stepped()
        return due(books)

    with tempfile.TemporaryDirectory() as out, contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(ProcessMeter, "lap", lap_if_on))
        stack.enter_context(mock.patch.object(loop.Books, "heartbeat_due", heartbeat_due))
        stack.enter_context(mock.patch.object(train.Group, "_heartbeat", lambda *of: blocks.beat(beat, *of)))
        config = RunConfig("dqn", "CartPole-v1", agent_config("dqn", "classic"), (0,), "1-day", evals=1, eval_episodes=1, out=out,
                           device="cpu", compile="on", threads=1, checkpoint_every="1-day", heartbeat_s=HEARTBEAT_S)  # fmt: skip
        with contextlib.suppress(Over):
            train.train(config, notice=lambda _: None)
    return blocks


def compare(name: str, blocks: Blocks) -> float:
    """Print what the meter added, in per cent. Returns the median wall seconds of a step."""
    wall, cpu = blocks.percent(0), blocks.percent(1)
    step_s = statistics.median(seconds for seconds, _ in blocks.blocks) / BLOCK_STEPS
    print(f"{name:<7} {len(wall):,} pairs, {1e3 * step_s:.2f} ms a step   wall {show(wall)}   CPU {show(cpu)}")
    spent = [sum(seconds[which] for seconds in blocks.blocks) for which in (0, 1)]
    beats = [100 * sum(seconds[which] for seconds in blocks.beats) / spent[which] for which in (0, 1)]
    print(f"        and {len(blocks.beats)} heartbeats: wall {beats[0]:.2f} %, CPU {beats[1]:.2f} %", flush=True)
    return step_s


def show(percent: list[float]) -> str:
    low, high = interval_of_median(percent)
    return f"{statistics.median(percent):+.2f} % (95 %: {low:+.2f} to {high:+.2f})"


def interval_of_median(values: list[float]) -> tuple[float, float]:
    """At least 95 %: how many of n values lie below the true median is binomial(n, 1/2). Everything below 6 values."""
    ordered = sorted(values)
    below = max(0, int(binom.ppf(0.025, len(ordered), 0.5)) - 1)
    return ordered[below], ordered[-1 - below]


def parts(script_step_s: float | None) -> None:
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
    if script_step_s is not None:
        of_steps, of_beats = 100 * step_s / script_step_s, 100 * beat_s / HEARTBEAT_S
        print(f"        of the script's time: steps {of_steps:.2f} %, heartbeats every {HEARTBEAT_S:g} s {of_beats:.2f} %")


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
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--only", choices=["script", "ours", "parts"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load average {os.getloadavg()[0]:.1f}; medians of the pairs", flush=True)
    if asked.only != "ours":
        parts(None if asked.only == "parts" else compare("script", script(asked.minutes)))
        imports()
    if asked.only in (None, "ours"):
        compare("ours", ours(asked.minutes))


if __name__ == "__main__":
    main()
