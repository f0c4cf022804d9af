"""The trainer of the family's own agents: S seeds in lockstep, one learner on one world."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from agents.config import AgentConfig
from agents.graphs import cuda_graph
from agents.learner import Learner
from agents.replay import Replay
from runs.checkpoint import Manifest, State, Store
from runs.config import InputError
from runs.flops import flop_costs
from runs.loop import Event, Loop, learns_while_playing
from runs.machine import busy_cores, process_age_s
from runs.prepare import (
    Job,
    check_memory,
    check_warm_up,
    crowded,
    default_threads,
    faster_precision,
    flush_denormals,
    keep_freed_memory,
    open_books,
    replay_layout,
    resolve_compile,
    resolve_cuda_graphs,
    set_precision,
    train_world,
)
from runs.schema import FINAL_CHECKPOINT

EVAL_OBSERVATIONS = "books/counters/eval_observations"
YOUNG_S = 60.0  # a process that cannot be what kept the cores busy over the last minute


class ReplayRing:
    """The rows of a replay as bytes: a :class:`runs.checkpoint.Ring`."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        layout = replay.layout
        self.capacity = layout.capacity
        frames, meta = replay.storage.frames[0, 0], replay.storage.meta[0, 0]
        self._frame_bytes, self._meta_bytes = (t.numel() * t.element_size() for t in (frames, meta))
        self.row_bytes = layout.lanes * (self._frame_bytes + self._meta_bytes)

    @property
    def end(self) -> int:
        return self._replay.row + 1

    def read(self, first: int, count: int) -> memoryview:
        at, storage = first % self.capacity, self._replay.storage
        parts = [tensor[:, at : at + count].cpu().numpy() for tensor in (storage.frames, storage.meta)]  # [L, count, ...]
        rows = [np.ascontiguousarray(part.swapaxes(0, 1)).reshape(count, -1).view(np.uint8) for part in parts]
        return np.concatenate(rows, axis=1).reshape(-1).data

    def write(self, first: int, count: int, content: bytes) -> None:
        at, storage, lanes = first % self.capacity, self._replay.storage, self._replay.layout.lanes
        rows = np.frombuffer(content, np.uint8).reshape(count, self.row_bytes)
        split = lanes * self._frame_bytes
        for tensor, part in ((storage.frames, rows[:, :split]), (storage.meta, rows[:, split:])):
            dtype = np.uint8 if tensor.dtype == torch.uint8 else np.float32
            values = np.ascontiguousarray(part).view(dtype).reshape(count, lanes, *tensor.shape[2:])
            tensor[:, at : at + count] = torch.from_numpy(values.swapaxes(0, 1).copy()).to(tensor.device)


def flatten(state: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Nested state as plain values and arrays, each by its path."""
    plain: dict[str, Any] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            inner = flatten(value, f"{prefix}{name}/")
            plain |= inner[0]
            arrays |= inner[1]
        elif isinstance(value, torch.Tensor | np.ndarray):
            arrays[prefix + name] = value.cpu().numpy() if isinstance(value, torch.Tensor) else value
        else:
            plain[prefix + name] = value
    return plain, arrays


def unflatten(plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for path, value in [*plain.items(), *arrays.items()]:
        *parents, name = path.split("/")
        inner = state
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = value
    return state


def _as_tensors(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _as_tensors(value) for name, value in state.items()}
    return torch.from_numpy(state) if isinstance(state, np.ndarray) else state


def _check_fit(
    mine: tuple[dict[str, Any], dict[str, NDArray[Any]]], theirs: tuple[dict[str, Any], dict[str, NDArray[Any]]]
) -> None:
    """Raise ValueError where a checkpoint lacks a value of mine, or has it in another form."""
    for name, value in mine[0].items():
        if type(theirs[0].get(name)) is not type(value):
            raise ValueError(f"the checkpoint's {name} is not this agent's")
    for name, array in mine[1].items():
        other = theirs[1].get(name)
        if other is None or other.shape != array.shape or other.dtype != array.dtype:
            raise ValueError(f"the checkpoint's {name} is not this agent's")


class FamilyTrainer:
    """A :class:`runs.loop.Trainer`."""

    checkpoint_file = FINAL_CHECKPOINT

    def __init__(self, job: Job, agent: AgentConfig) -> None:
        check_warm_up(job.budget, job.env_spec, agent.learning_starts_steps, "--agent.learning-starts-steps")
        set_precision(agent, job.device)
        if job.device.type == "cuda":
            torch.cuda.set_device(job.device)  # whose streams graphs are recorded on
            if torch.cuda.is_initialized():
                torch.cuda.reset_peak_memory_stats(job.device)  # of the group before
            # the fastest kernel for each shape, tried out at its first call: cuDNN's guess for small batches can be ten times slower
            torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        keep_freed_memory()
        flush_denormals()
        self.job, self.agent_config = job, asdict(agent)
        self.compiled, self.cuda_graphs = resolve_compile(job, agent), resolve_cuda_graphs(job)
        busy = busy_cores() if process_age_s() < YOUNG_S else 0.0
        torch.set_num_threads(job.config.threads or default_threads(agent, len(job.seeds), self.compiled))
        world = train_world(job, agent.envs_per_seed)
        layout = replay_layout(agent, world, job.seeds, job.budget)
        check_memory(layout, job.device, job.runs.of_several_games)
        together = not learns_while_playing(job.env_spec)
        actions = [env_spec.num_actions for env_spec in job.runs.env_specs]
        self.learner = Learner(agent, layout, actions, job.seeds, job.device, self.compiled, together)
        advice = faster_precision(agent, job.device, self.compiled)
        threads = 1 if job.config.threads or job.device.type != "cpu" else torch.get_num_threads()
        for text in (advice, crowded(threads, os.cpu_count() or 1, busy)):
            if text is not None and not job.config.resume:  # another precision or rounding would be another run
                job.notice(text)
        if self.compiled or self.cuda_graphs:
            obs = np.zeros((world.num_envs, *layout.obs_shape), np.uint8 if layout.pixels else np.float32)
            self.learner.warm_up(obs)
            self.cuda_graphs = self.cuda_graphs and self._records(obs)
        self.ring = ReplayRing(self.learner.replay)
        costs = {count: flop_costs(agent, layout, count) for count in sorted(set(actions))}
        self.books = open_books(job, world, [costs[count] for count in actions])
        self.loop = Loop(self.learner, self.books)

    def _records(self, obs: NDArray[Any]) -> bool:
        """Whether the learner's calls are CUDA graphs now."""
        try:
            self.learner.use_graphs(obs, cuda_graph)
        except RuntimeError as error:
            if self.job.config.cuda_graphs == "on":
                raise InputError(f"CUDA graphs cannot be recorded here ({error}): use --cuda-graphs off") from error
            self.job.notice(f"going on without CUDA graphs, several times slower on small networks: {error}")
            return False
        return True

    def train(self, consume: Callable[[Event], None]) -> None:
        for event in self.loop.events():
            consume(event)

    def state(self) -> State | None:
        """Everything that decides what happens next. The replay's ring is handed over as it is, and not copied."""
        if (self.loop.sick() & ~self.books.stopped).any():
            return None
        world = {"world": self.books.world.state_dict(), "obs": self.loop.obs}
        plain, arrays = flatten(self._own_state() | world)
        return State(plain, arrays, self.ring)

    def _own_state(self) -> dict[str, Any]:
        learner = self.learner.state_dict()
        ring = learner["replay"]
        final_frames = ring.pop("frames")[:, self.learner.layout.capacity :]
        del ring["meta"]
        return {
            "learner": learner,
            "final_frames": final_frames,
            "loss": self.loop.latest_loss(),
            "books": self.books.state_dict(),
        }

    def restore(self, store: Store, manifest: Manifest) -> None:
        """Learner, books and world as they were. Raises ValueError where the checkpoint is of another agent or is not whole."""
        plain, arrays = dict(manifest.plain), store.arrays(manifest)
        observations = plain.pop(EVAL_OBSERVATIONS, None)
        if isinstance(observations, int):  # until 2026-11-27 one number for all seeds
            arrays = {**arrays, EVAL_OBSERVATIONS: np.full(len(self.job.seeds), observations)}
        _check_fit(flatten(self._own_state()), (plain, arrays))
        state = unflatten(plain, arrays)
        storage, learner = self.learner.replay.storage, state["learner"]
        learner["replay"] |= {"frames": storage.frames, "meta": storage.meta}
        self.learner.load_state_dict(_as_tensors(learner))
        storage.frames[:, self.learner.layout.capacity :] = torch.from_numpy(state["final_frames"]).to(storage.frames.device)
        store.fill(manifest, self.ring)
        self.books.load_state_dict(state["books"])
        self.loop.loss = state["loss"]
        self.loop.obs = self.books.world.load_state_dict(state["world"])
        if not np.array_equal(self.loop.obs, state["obs"]):
            raise ValueError(f"{self.books.world.name} does not play the logged actions as before: is it another version?")

    def params_sha256(self) -> list[str]:
        return self.learner.params_sha256()

    def save(self, seed_index: int, file: BinaryIO) -> None:
        """Plain data and tensors."""
        network, params = self.learner.agent(seed_index)
        state: dict[str, Any] = {
            "agent": self.job.config.agent,
            "agent_config": self.agent_config,
            "env": self.job.runs.games[seed_index],
            "protocol": self.job.protocol.name,
            "seed": self.job.seeds[seed_index],
            "num_actions": self.learner.num_actions[seed_index],
            "obs_shape": list(self.learner.layout.obs_shape),
            "params": {
                name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in network.unflatten(params).items()
            },
        }
        torch.save(state, file)
