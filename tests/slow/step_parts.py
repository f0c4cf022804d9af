"""Where the time of a step goes: acting, an update, and what is done around them, each alone and many times, on made-up observations.

    python -m tests.slow.step_parts der@atari rainbow@minatar:5 [--device cuda:0] [--precision bf16] [--compile off]

A case is AGENT@DOMAIN[:SEEDS]. On a GPU `queued` lets calls follow each other and waits at the end, `waited` waits for each; the kernels of an update are
those of torch's profiler. The best of three rounds, in microseconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from agents.family import agent_config
from agents.graphs import cuda_graph
from agents.learner import Learner
from agents.replay import ReplayLayout
from runs.prepare import flush_denormals, keep_freed_memory, resolve_device, set_precision

FRAMES: dict[str, tuple[tuple[int, ...], int, int]] = {  # frame, stack, actions
    "classic": ((4,), 1, 2),
    "minatar": ((4, 10, 10), 1, 6),
    "atari": ((84, 84), 4, 18),
}
WARM_UP_STEPS = 300


def build(case: str, device: torch.device, precision: Any, compile: bool, graphs: bool) -> tuple[Learner, np.ndarray]:
    """A learner that has seen a few hundred steps, and observations [8, L, ...] to show it."""
    agent, _, rest = case.partition("@")
    domain, _, count = rest.partition(":")
    seeds, (frame_shape, stack, actions) = tuple(range(int(count or 1))), FRAMES[domain]
    config = replace(agent_config(agent, domain), envs_per_seed=1, precision=precision)
    set_precision(config, device)
    keep_freed_memory()
    flush_denormals()
    layout = ReplayLayout(
        seeds=len(seeds), envs_per_seed=1, capacity=20_000, frame_shape=frame_shape, pixels=len(frame_shape) > 1, stack=stack,
        stack_padding="zeros", max_episode_steps=27_000, n_step=config.longest_return_steps, gamma=config.gamma, clip_rewards=True,
        prioritized=config.prioritized, priority_uniform_share=config.priority_uniform_share,
        predicted_steps=config.predicted_steps,
    )  # fmt: skip
    learner = Learner(config, layout, actions, seeds, device, compile)
    rng, shape = np.random.default_rng(0), (8, len(seeds), *layout.obs_shape)
    obs = rng.integers(0, 256, shape, np.uint8) if layout.pixels else rng.random(shape, np.float32)
    if compile or graphs:
        learner.warm_up(obs[0])
    if graphs:
        learner.use_graphs(obs[0], cuda_graph)
    for step in range(WARM_UP_STEPS):
        store(learner, learner.act(obs[step % 8]))
    return learner, obs


def store(learner: Learner, action: np.ndarray) -> None:
    nothing = np.zeros(len(action), np.bool_)
    learner.record(action, np.zeros(len(action)), nothing, nothing, nothing, None)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def microseconds(call: Callable[[], Any], device: torch.device, each: bool = False, seconds: float = 0.3) -> float:
    call()
    wait(device)
    began = time.perf_counter()
    call()
    wait(device)
    calls = max(3, int(seconds / (time.perf_counter() - began)))
    rounds = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(calls):
            call()
            if each:
                wait(device)
        wait(device)
        rounds.append((time.perf_counter() - began) / calls)
    return 1e6 * min(rounds)


def kernels(learner: Learner, updates: int = 3) -> str:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(updates):
            learner.update()
        wait(learner.device)
    found = [event for event in profiled.key_averages() if event.self_device_time_total > 0]
    found.sort(key=lambda event: -event.self_device_time_total)
    lines = [
        f"    {event.self_device_time_total / updates:8.1f} x{event.count / updates:4.0f}  {event.key[:100]}" for event in found
    ]
    total = sum(event.self_device_time_total for event in found) / updates
    return "\n".join(
        [f"  kernels of an update {total:11.1f} in {sum(event.count for event in found) / updates:.0f}", *lines[:8]]
    )


def parts(learner: Learner, obs: np.ndarray) -> dict[str, Callable[[], Any]]:
    acting = learner._observe(obs[0])

    def step() -> None:
        action = learner.act(obs[1])
        learner.update()
        store(learner, action)

    return {
        "act": lambda: learner.act(obs[2]),
        "  storing and sending": lambda: learner._observe(obs[2]),
        "  computing": lambda: learner._calls["act"](learner._read, acting).cpu(),
        "store what came of it": lambda: store(learner, np.zeros(len(obs[0]), np.int64)),
        "update, queued": learner.update,
        "  what it learns from": learner._learning,
        "act, update and store": step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", metavar="AGENT@DOMAIN[:SEEDS]")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--compile", choices=("on", "off"), default="on")
    parser.add_argument("--cuda-graphs", choices=("auto", "off"), default="auto")
    asked = parser.parse_args()
    device = resolve_device(asked.device)
    for case in asked.cases:
        graphs = asked.cuda_graphs == "auto" and device.type == "cuda"
        learner, obs = build(case, device, asked.precision, asked.compile == "on", graphs)
        print(f"{case} on {device}, {asked.precision}, compiled: {asked.compile}, graphs: {'on' if graphs else 'off'}")
        for name, call in parts(learner, obs).items():
            print(f"  {name:24} {microseconds(call, device):8.1f}")
        if device.type == "cuda":
            print(f"  {'update, waited':24} {microseconds(learner.update, device, each=True):8.1f}")
            print(kernels(learner), flush=True)


if __name__ == "__main__":
    main()
