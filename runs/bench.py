"""How fast this machine is: short trainings of several agents, with their phases, beside stable-baselines3 and beside the hardware.

Every figure of ours comes from whole trainings, files and meter included, after their warm-up; a case's repeats and its peer's are run in
turns, so that a noisy machine disturbs both alike. They share a process: the peer gains by what ours sets in it, as freed memory kept
and denormal numbers taken for zero.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.config import AgentConfig
from agents.family import agent_config
from agents.learner import Learner
from envs import lane_seeds, make, spec
from runs.config import DOMAINS, RunConfig
from runs.plan import TRAINING_PHASES, try_out
from runs.prepare import Runs, flush_denormals, lacking, resolve_device
from runs.progress import each_once
from runs.schema import LedgerLine

PEER = AgentConfig(hidden=(128, 128), batch_size=64, replay_ratio=1.0, learning_starts_steps=500, target_period_updates=100)
ATARI = replace(agent_config("dqn", "atari"), learning_starts_steps=500, replay_capacity=20_000)
PEER_WARM_UP_STEPS = 600


@dataclass(frozen=True)
class Case:
    """One training to time."""

    name: str
    agent: str
    env: str
    seeds: int = 1
    settings: AgentConfig | None = None  # None: the agent's own
    peer: str | None = None  # stable-baselines3's policy, where its DQN does the same work
    protocol: str | None = None
    plain: bool = False  # neither compiled nor with CUDA graphs

    def lacks(self, device: str) -> str | None:
        """What it would need of the device that this one has not."""
        return lacking(self.config.precision, resolve_device(device))

    @property
    def config(self) -> AgentConfig:
        return self.settings or agent_config(self.agent, DOMAINS[spec(self.env).kind])


CASES = (
    Case("cartpole-1", "dqn", "CartPole-v1", 1, PEER, "MlpPolicy"),
    Case("cartpole-plain", "dqn", "CartPole-v1", 1, PEER, plain=True),
    Case("cartpole-4", "dqn", "CartPole-v1", 4, PEER, "MlpPolicy"),
    Case("cartpole-16", "dqn", "CartPole-v1", 16, PEER, "MlpPolicy"),
    Case("cartpole-bf16", "dqn", "CartPole-v1", 16, replace(PEER, precision="bf16"), "MlpPolicy"),
    Case("rainbow-1", "rainbow", "CartPole-v1"),
    Case("rainbow-16", "rainbow", "CartPole-v1", 16),
    Case("minatar-1", "dqn", "MinAtar/Breakout-v1"),
    Case("atari-1", "dqn", "ALE/Pong-v5", 1, ATARI, "CnnPolicy"),
    Case("atari-plain", "dqn", "ALE/Pong-v5", 1, ATARI, plain=True),
    Case("atari-bf16", "dqn", "ALE/Pong-v5", 1, replace(ATARI, precision="bf16"), "CnnPolicy"),
    Case("der-1", "der", "ALE/Pong-v5", protocol="atari100k"),
)


@dataclass(frozen=True)
class Speed:
    """One case, medians of its repeats."""

    case: str
    seeds: int
    steps_per_s: float  # in sum over the seeds, while it learns
    steps_per_s_range: tuple[float, float]
    updates_per_s: float  # in sum
    update_ms: float | None  # of all seeds side by side; None where acting is in the same call
    act_ms: float | None
    phases: dict[str, float]  # share of the training's time
    gflops_per_s: float  # of the model, over the time of acting and learning
    matmul_share: float  # of the measured matmul rate; convolutions by agents/winograd.h multiply less often than is counted
    gpu_busy_share: (
        float | None
    )  # of the training's time, in which the driver saw a kernel running; None: no GPU, or it does not say
    peer_steps_per_s: float | None
    ratio: float | None  # median of the pairs' ratios
    ratio_range: tuple[float, float] | None


@dataclass(frozen=True)
class Machine:
    """What the hardware gives at most."""

    threads: int
    matmul_gflops_per_s: float  # float32, 1024 x 1024, by the fastest of torch's libraries
    copy_gb_per_s: float  # read and written
    env_frames_per_s: dict[str, float]  # random play, by environment and lanes


def machine(device: str, threads: int | None) -> Machine:
    """Measured now, on ``threads`` threads or on torch's own number of them."""
    flush_denormals()  # before torch's threads start, as a training does
    if threads is not None:
        torch.set_num_threads(threads)
    where = resolve_device(device)
    a, b = torch.randn(2, 1024, 1024, device=where)
    block, copy = torch.zeros(2, 16 * 2**20, device=where)
    matmul_s = min(best_s(partial(product, a, b), where) for product in products(where))
    copy_s = best_s(lambda: copy.copy_(block), where)
    frames = {
        f"{env} x {lanes}": env_frames_per_s(env, lanes)
        for env in ("CartPole-v1", "MinAtar/Breakout-v1", "ALE/Pong-v5")
        for lanes in (1, 8)
    }
    return Machine(torch.get_num_threads(), 2 * 1024**3 / matmul_s / 1e9, 2 * block.nbytes / copy_s / 1e9, frames)


def products(device: torch.device) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """torch's ways to multiply float32 matrices: oneDNN beside MKL, which on AMD's CPUs uses half of each AVX-512 register."""
    ways: list[Callable[[Tensor, Tensor], Tensor]] = [torch.mm]
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        ways.append(lambda a, b: torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], ""))
    return ways


def best_s(work: Callable[[], Any], device: torch.device, tries: int = 20) -> float:
    """Seconds, the best of many: what the hardware can do, not what a busy machine leaves of it."""
    seconds = []
    for _ in range(tries):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def env_frames_per_s(env: str, lanes: int, seconds: float = 1.0) -> float:
    """Played by random actions, resets included."""
    world = make(env, lanes, lane_seeds(0, lanes))
    rng = np.random.default_rng(0)
    try:
        world.reset()
        before, began = world.frames.sum(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            world.step(rng.integers(0, world.env_spec.num_actions, lanes))
        return float((world.frames.sum() - before) / (time.perf_counter() - began))
    finally:
        world.close()


def speed(
    case: Case, of: Machine, repeats: int, seconds: float, device: str, threads: int | None, notice: Callable[[str], None]
) -> Speed:
    """Train the case and its peer in turns. ``notice`` is told what there is to say of setting up, as that nothing is compiled."""
    config = RunConfig(
        case.agent, case.env, case.config, tuple(range(case.seeds)), "100k-steps", protocol=case.protocol, device=device,
        compile="off" if case.plain else "on", cuda_graphs="off" if case.plain else "auto", threads=threads,
    )  # fmt: skip
    with_peer = case.peer is not None and (case.peer == "MlpPolicy" or importlib.util.find_spec("cv2") is not None)
    try_out(config, side_by_side(config), 0.5, notice)  # fills the compiler's cache, and is not timed
    mine, theirs = [], []
    for _ in range(repeats):
        mine.append(ours(config, seconds))
        if with_peer:
            theirs.append(peer(case, seconds, device, of.threads))
    rates = [one["steps_per_s"] for one in mine]
    ratios = [rate / other for rate, other in zip(rates, theirs, strict=False)]
    typical = sorted(mine, key=lambda one: one["steps_per_s"])[len(mine) // 2]
    return Speed(
        case=case.name,
        seeds=case.seeds,
        steps_per_s=median(rates),
        steps_per_s_range=(min(rates), max(rates)),
        updates_per_s=typical["updates_per_s"],
        update_ms=typical["update_ms"],
        act_ms=typical["act_ms"],
        phases=typical["phases"],
        gflops_per_s=typical["gflops_per_s"],
        matmul_share=typical["gflops_per_s"] / of.matmul_gflops_per_s,
        gpu_busy_share=typical["gpu_busy_share"],
        peer_steps_per_s=median(theirs) if theirs else None,
        ratio=median(ratios) if ratios else None,
        ratio_range=(min(ratios), max(ratios)) if ratios else None,
    )


def side_by_side(config: RunConfig) -> Runs:
    """All seeds in one group, whatever a training would do."""
    return Runs((spec(config.env),) * len(config.seeds), config.seeds)


def ours(config: RunConfig, seconds: float) -> dict[str, Any]:
    """Rates between the first update and the end of a short training, of three seconds at least: its ledger has a line a second."""
    trial = try_out(config, side_by_side(config), seconds, quietly)
    learning, learner = [line for line in trial.lines if line.lineage.updates], trial.learner
    first, last = learning[0], learning[-1]
    phases = {name: last.active_s[name] - first.active_s[name] for name in TRAINING_PHASES}
    spent = sum(phases.values())
    steps, updates = ((getattr(last.lineage, name) or 0) - (getattr(first.lineage, name) or 0) for name in ("steps", "updates"))
    flops = sum((getattr(last.flops, name) or 0) - (getattr(first.flops, name) or 0) for name in ("act", "update"))
    seeds, acts_apart = len(config.seeds), phases["act"] > 0.02 * spent
    computing = phases["act"] + phases["learn"]
    update_ms, act_ms = (1e3 * phases["learn"] / updates, 1e3 * phases["act"] / steps) if acts_apart else (None, None)
    if learner.device.type == "cuda":  # goes on computing behind every phase
        computing = spent
        if acts_apart:
            update_ms, act_ms = gpu_ms(learner)
    return {
        "steps_per_s": seeds * steps / spent,
        "updates_per_s": seeds * updates / spent,
        "update_ms": update_ms,
        "act_ms": act_ms,
        "phases": {name: value / spent for name, value in phases.items()},
        "gflops_per_s": seeds * flops / 1e9 / computing,
        "gpu_busy_share": gpu_busy_share(first, last, seeds),
    }


def gpu_ms(learner: Learner, calls: int = 50) -> tuple[float, float]:
    """Milliseconds of an update and of acting, each waited for."""
    layout = learner.layout
    obs = np.zeros((layout.lanes, *layout.obs_shape), np.uint8 if layout.pixels else np.float32)

    def each_ms(call: Callable[[], Any]) -> float:
        torch.cuda.synchronize(learner.device)
        began = time.perf_counter()
        for _ in range(calls):
            call()
            torch.cuda.synchronize(learner.device)
        return 1e3 * (time.perf_counter() - began) / calls

    act_ms = each_ms(lambda: learner.act(obs))
    if "update" in learner.call_names:
        return each_ms(learner.update), act_ms
    return each_ms(lambda: learner.act_and_update(obs)) - act_ms, act_ms


def gpu_busy_share(first: LedgerLine, last: LedgerLine, seeds: int) -> float | None:
    if first.gpu_busy_s is None or last.gpu_busy_s is None or not last.wall_s:
        return None
    return seeds * (last.gpu_busy_s - first.gpu_busy_s) / (last.wall_s - (first.wall_s or 0.0))


def quietly(notice: str) -> None:
    pass


def peer(case: Case, seconds: float, device: str, threads: int) -> float:
    """Steps per second of stable-baselines3's DQN on the same work, after its warm-up."""
    import gymnasium
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import Logger

    class Stopwatch(BaseCallback):
        began_s, ended_s, steps = 0.0, 0.0, 0

        def _on_step(self) -> bool:
            if self.num_timesteps == PEER_WARM_UP_STEPS:
                self.began_s = time.perf_counter()
            self.ended_s, self.steps = time.perf_counter(), self.num_timesteps - PEER_WARM_UP_STEPS
            return not self.began_s or self.ended_s - self.began_s < seconds

    torch.set_num_threads(threads)
    # torch's defaults, which are theirs
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = False, True, False
    agent = case.config
    arch: dict[str, Any] = {"policy_kwargs": {"net_arch": list(agent.hidden)}} if case.peer == "MlpPolicy" else {}
    env: Any = gymnasium.make(case.env) if case.peer == "MlpPolicy" else atari_as_theirs(case.env)
    model = DQN(
        case.peer or "", env, learning_rate=agent.learning_rate, batch_size=agent.batch_size, buffer_size=agent.replay_capacity,
        learning_starts=PEER_WARM_UP_STEPS - 100, train_freq=round(1 / agent.replay_ratio), gradient_steps=1,
        target_update_interval=round(agent.target_period_updates / agent.replay_ratio), seed=0,
        device=str(resolve_device(device)), **arch,
    )  # fmt: skip
    model.set_logger(Logger(None, []))  # its own writes nothing either, but leaves a folder behind for each
    watch = Stopwatch()
    model.learn(10**9, callback=watch)
    return watch.steps / (watch.ended_s - watch.began_s)


def atari_as_theirs(env: str) -> Any:
    import ale_py
    import gymnasium
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    game = env.removeprefix("ALE/").removesuffix("-v5")
    return VecFrameStack(make_atari_env(f"{game}NoFrameskip-v4", n_envs=1, seed=0), 4)


def bench(
    of: Machine,
    cases: Sequence[Case],
    repeats: int,
    seconds: float,
    device: str,
    threads: int | None,
    notice: Callable[[str], None],
) -> Iterator[Speed]:
    """The cases one after another, as they come. ``notice`` is told each thing once."""
    advise = each_once(notice)
    for case in cases:
        yield speed(case, of, repeats, seconds, device, threads, advise)
