"""What is decided before a run starts: device, threads, sizes, compiling; and what is refused, before anything is written."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch

from agents.config import AgentConfig
from agents.operators import own_products
from agents.replay import ReplayLayout
from envs import EnvSpec, Protocol, World, lane_seeds, make, spec
from runs.budget import Budget, parse_budget
from runs.config import InputError, RunConfig, check_seeds
from runs.counters import Counters
from runs.flops import FlopCosts
from runs.loop import Books
from runs.machine import reserved_vcpus
from runs.meter import Meter

# From about this many updates on, compiling wins back the 10 to 20 s that it takes: judged from the time of single updates.
COMPILE_FROM_UPDATES = {"mlp": 4_000, "minatar": 2_000, "nature": 600, "der": 3_000, "impala": 100}

# Whose seeds gain by training side by side on a CPU: their layers are matrix products, and S small ones are one batched product.
LOCKSTEP_ENCODERS = ("mlp", "minatar")

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""The names of malloc.h."""
KEEP_UP_TO_BYTES = 256 << 20


class Runs(NamedTuple):
    """Runs that train side by side, an entry each."""

    env_specs: tuple[EnvSpec, ...]
    seeds: tuple[int, ...]

    @property
    def games(self) -> tuple[str, ...]:
        return tuple(env_spec.id for env_spec in self.env_specs)

    @property
    def of_several_games(self) -> bool:
        return len(set(self.games)) > 1

    def only(self, which: Sequence[int]) -> Runs:
        return Runs(tuple(self.env_specs[k] for k in which), tuple(self.seeds[k] for k in which))


def lockstep_groups(config: RunConfig, device: torch.device) -> list[Runs]:
    """Which runs train side by side, group after group: the seeds of an environment where that gains something, and on a GPU those of
    all Atari games, whose observations have one shape."""
    agent, specs = config.agent_config, [spec(env) for env in config.envs]
    on_gpu = device.type != "cpu"
    if not isinstance(agent, AgentConfig) or not (agent.encoder in LOCKSTEP_ENCODERS or on_gpu):
        return [Runs((env_spec,), (seed,)) for env_spec in specs for seed in config.seeds]
    groups: dict[Any, list[EnvSpec]] = {}
    for env_spec in specs:
        alike = (env_spec.frame_rate_hz, env_spec.max_episode_steps) if on_gpu and env_spec.kind == "atari" else env_spec.id
        groups.setdefault(alike, []).append(env_spec)
    return [
        Runs(tuple(env_spec for env_spec in group for _ in config.seeds), config.seeds * len(group))
        for group in groups.values()
    ]


@dataclass(frozen=True)
class Job:
    """What a trainer is given: one group of runs, and what was decided for it."""

    config: RunConfig
    runs: Runs
    protocol: Protocol
    budget: Budget
    device: torch.device
    meter: Meter
    stop: Callable[[], bool]
    notice: Callable[[str], None]

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.runs.seeds

    @property
    def env_spec(self) -> EnvSpec:
        """Of the first run: kind, frame rate and time limit are those of all."""
        return self.runs.env_specs[0]


def open_books(job: Job, world: World, costs: Sequence[FlopCosts]) -> Books:
    """``costs``: of each run."""
    counters = Counters(len(job.seeds), tuple(costs), job.env_spec.frame_rate_hz)
    episodes = job.config.eval_episodes or job.protocol.eval_episodes
    every = parse_budget(job.config.checkpoint_every)
    return Books(
        world,
        job.runs.games,
        counters,
        job.meter,
        job.budget,
        job.config.evals,
        episodes,
        job.config.heartbeat_s,
        job.stop,
        every,
    )


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first GPU where there is one. Raises InputError for a device that is not there."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if available else "cpu")
    kind, _, index = name.partition(":")
    if kind == "cpu" and not index:
        return torch.device("cpu")
    if kind != "cuda" or (index and not index.isdecimal()):
        raise InputError(f"unknown device {name!r}: valid are auto, cpu, cuda:0")
    if not available:
        raise InputError(f"device {name} was asked for, but torch {torch.__version__} sees no CUDA GPU here: use --device cpu")
    if int(index or 0) >= available:
        raise InputError(f"device {name} was asked for, but there are only {available} GPUs: cuda:0 to cuda:{available - 1}")
    return torch.device(kind, int(index or 0))


def train_world(job: Job, envs_per_seed: int) -> World:
    """One lane per seed and environment; a seed's lanes do not depend on which seeds play beside it."""
    lanes = [lane for seed in job.seeds for lane in lane_seeds(seed, envs_per_seed)]
    games = [game for game in job.runs.games for _ in range(envs_per_seed)]
    return make(games, len(lanes), lanes, protocol=job.protocol.name)


def most_steps(budget: Budget, env: EnvSpec) -> int | None:
    """The most steps, over all of a seed's environments, that the budget allows: each plays a frame at least. None: it does not say."""
    if budget.quantity == "play_s" and env.frame_rate_hz is not None:
        return int(budget.amount * env.frame_rate_hz)
    return int(budget.amount) if budget.quantity in ("steps", "frames") else None


def expected_steps(budget: Budget, env: EnvSpec) -> float | None:
    """Steps that the budget will be used up in, if no game ends inside a frame skip. None: it does not say."""
    most = most_steps(budget, env)
    return most if most is None or budget.quantity == "steps" else most / env.frames_per_step


def replay_layout(agent: AgentConfig, world: World, seeds: tuple[int, ...], budget: Budget) -> ReplayLayout:
    """Sizes of the replay. It is never larger than the steps that the budget allows: the ring would not come round."""
    env = world.env_spec
    most = most_steps(budget, env)
    capacity = -(-agent.replay_capacity // agent.envs_per_seed)
    if most is not None:
        capacity = min(capacity, most // agent.envs_per_seed + agent.ahead_steps + 16)
    space = world.single_observation_space
    assert space.shape is not None
    stacked = world.stack_padding is not None
    return ReplayLayout(
        seeds=len(seeds),
        envs_per_seed=agent.envs_per_seed,
        capacity=capacity,
        frame_shape=space.shape[1:] if stacked else space.shape,
        pixels=space.dtype != np.float32,
        stack=space.shape[0] if stacked else 1,
        stack_padding=world.stack_padding or "zeros",
        max_episode_steps=env.max_episode_steps,
        n_step=agent.longest_return_steps,
        gamma=agent.gamma,
        clip_rewards=agent.clip_rewards,
        prioritized=agent.prioritized,
        priority_uniform_share=agent.priority_uniform_share,
        predicted_steps=agent.predicted_steps,
    )


def check_numbers(config: RunConfig) -> None:
    """Raise InputError for settings that no run can have."""
    check_seeds(config.seeds, config.agent_config)
    if config.evals < 1:
        raise InputError(f"--evals must be at least 1, not {config.evals}: the final agent is always evaluated")
    if config.eval_episodes is not None and config.eval_episodes < 1:
        raise InputError(f"--eval-episodes must be at least 1, not {config.eval_episodes}")
    if config.threads is not None and config.threads < 1:
        raise InputError(f"--threads must be at least 1, not {config.threads}")
    if config.wall_meter is not None and parse_budget(config.budget).quantity == "joules":
        raise InputError(
            f"a budget of {config.budget} needs the energy while the run goes on, and --wall-meter is read when it is over: "
            "give a budget in another unit, or no wall meter"
        )
    if not 0 < config.heartbeat_s <= 5:
        raise InputError(f"the heartbeat must lie between 0 and 5 s, not {config.heartbeat_s:g} s")


def check_warm_up(budget: Budget, env: EnvSpec, warm_up_steps: int, flag: str) -> None:
    """Raise InputError where the budget ends before the agent begins to learn."""
    steps = expected_steps(budget, env)
    if steps is not None and steps <= warm_up_steps:
        raise InputError(
            f"a budget of {budget} ends before learning starts, after {warm_up_steps:,} steps: "
            f"give more, or e.g. {flag} {int(steps) // 10}"
        )


def check_memory(layout: ReplayLayout, device: torch.device, several_games: bool = False) -> None:
    """Raise InputError where the replay does not fit into what is free, before it is allocated."""
    flag = "--agent.replay-capacity"
    check_free_memory(
        layout.nbytes,
        device,
        layout.capacity * layout.envs_per_seed,
        f"fewer games at a time or {flag}" if several_games else flag,
    )


def check_free_memory(replay_bytes: int, device: torch.device, steps: int, flag: str) -> None:
    """Raise InputError where a replay of ``steps`` steps does not fit into what is free; ``flag`` would make it smaller."""
    if device.type == "cuda":
        gc.collect()  # the group before may hang in a cycle, and its replay with it
        torch.cuda.empty_cache()
    free = int(psutil.virtual_memory().available) if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    if replay_bytes > 0.9 * free:
        fits = int(steps * 0.9 * free / replay_bytes) // 1000 * 1000
        advice = f"{flag} {fits} would fit" if fits else "train fewer seeds at a time"
        raise InputError(f"the replay needs {replay_bytes / 1e9:.2f} GB and {free / 1e9:.2f} GB are free: {advice}")


def set_precision(agent: AgentConfig, device: torch.device) -> None:
    """Let a GPU round the factors of float32 products only where that was asked for: torch rounds those of convolutions by default.

    Raises InputError where the device lacks what was asked for.
    """
    if lack := lacking(agent.precision, device):
        raise InputError(f"{lack}: use --agent.precision fp32")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = agent.precision == "tf32"


def lacking(precision: str, device: torch.device) -> str | None:
    """What the device would need for this precision and has not: TF32, or bfloat16, which would be emulated (slower than float32, and
    less exact)."""
    cpu = device.type == "cpu"
    if precision == "tf32" and (cpu or torch.cuda.get_device_capability(device) < (8, 0)):
        return f"this {device.type} has no TF32 (GPUs have it from NVIDIA's Ampere on)"
    if precision != "bf16":
        return None
    if cpu:  # a torch without oneDNN has no such question
        native = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        native = torch.cuda.is_bf16_supported(False)
    return None if native else f"this {device.type} has no bfloat16 instructions"


def faster_precision(agent: AgentConfig, device: torch.device, compiled: bool) -> str | None:
    """What to tell who computes convolutions in float32 on a CPU with bfloat16: `dqn` on Atari makes 1.5 times as many steps in it, with
    AMX 2.3 times."""
    if not compiled or device.type != "cpu" or agent.precision != "fp32" or agent.encoder in LOCKSTEP_ENCODERS:
        return None
    return (
        "this CPU multiplies bfloat16 faster than float32: see --agent.precision bf16" if own_products() is not None else None
    )


def resolve_compile(job: Job, agent: AgentConfig) -> bool:
    """Whether to compile: as asked; ``auto`` compiles where the run is long enough to win back the seconds that it takes."""
    asked, budget = job.config.compile, job.budget
    if asked == "off":
        return False
    cpu, named = job.device.type == "cpu", os.environ.get("CC")
    language, package = ("C++", "g++") if cpu else ("C", "gcc")  # the latter for what launches a GPU's kernels
    compilers = [os.environ.get("CXX", "c++"), "c++", "g++", "clang++"] if cpu else [named] if named else ["gcc", "clang"]
    if not any(shutil.which(name) for name in compilers):
        job.notice(f"no {language} compiler found: running eagerly, several times slower (Debian: apt install {package})")
        return False
    if asked == "on":
        return True
    steps = expected_steps(budget, job.env_spec)
    if steps is None:
        return budget.quantity != "wall_s" or budget.amount >= 60
    return (steps - agent.learning_starts_steps) * agent.replay_ratio >= COMPILE_FROM_UPDATES[agent.encoder]


def resolve_cuda_graphs(job: Job) -> bool:
    """Whether the calls of a step become CUDA graphs: on a GPU, where it was not asked otherwise."""
    if job.config.cuda_graphs == "on" and job.device.type != "cuda":
        raise InputError(f"--cuda-graphs on needs a CUDA GPU, and this runs on {job.device.type}: leave it out")
    return job.config.cuda_graphs != "off" and job.device.type == "cuda"


def default_threads(agent: AgentConfig, seeds: int, compiled: bool) -> int:
    """Threads that pay: kernels of small networks are too short to share unless several seeds make them longer.

    MinAtar on two cores: one seed makes 1,800 steps/s with one thread and 760 with two, five 1,900 and 2,400.
    """
    cores = max(1, int(reserved_vcpus()))
    if agent.encoder in LOCKSTEP_ENCODERS:
        return min(cores, max(1, seeds // 2)) if compiled else 1
    return min(cores, 16)


def crowded(threads: int, cores: int, busy: float) -> str | None:
    """What to say where others leave fewer of the machine's cores than there are threads, which then wait for one another."""
    if threads < 2 or cores - busy > threads - 0.5:
        return None
    fewer = max(1, round(cores - busy))
    return f"other processes keep about {min(busy, cores):.0f} of {cores} cores busy: while they do, --threads {fewer} may be faster than {threads}"


def flush_denormals() -> None:
    """Let a CPU take numbers nearer to zero than float32's smallest normal one, 1.2e-38, for zero.

    It computes with them a hundred times slower, and an optimiser's running means are full of them: where a unit is dead, Adam's mean
    of a gradient shrinks by a tenth an update and is there after 800. No parameter moves by so little, with an epsilon that
    agents/config.py allows. The mode is one of the thread that calls and, on Linux, of those that it starts later: hence this comes
    before torch starts its own, and it stays.
    """
    torch.set_flush_denormal(True)  # False where the CPU cannot: it then is as slow as it is


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors in the process instead of giving it back to the kernel.

    glibc gives megabytes back at the end of an update, if they happen to lie at the end of the heap, and the next update is given
    them anew, page by page: up to half of the time of five seeds on MinAtar. Pieces of more than 256 MB still go back
    (32 MB before glibc 2.35).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # not in other C libraries
        mallopt(MMAP_THRESHOLD, KEEP_UP_TO_BYTES) or mallopt(MMAP_THRESHOLD, 32 << 20)  # the most that older ones take
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
