"""Kills trainings with SIGKILL at random moments, continues them, and compares what comes of it with an uninterrupted one."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from envs import spec
from runs import schema
from runs.config import RunConfig
from runs.resume import candidates

RESEED_STEPS = 60
"""So that short runs, too, have lanes that were seeded again."""

NOISE_BLOCK_STEPS = 10
"""So that checkpoints fall on the ends of blocks of random numbers, too."""

SEGMENT_BYTES = {"control": 700, "minatar": 20_000, "atari": 100_000}
"""So that short runs, too, fill segments, which are written ahead of their checkpoint."""

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["runs.train", "torch._dynamo", "torch.utils.tensorboard", "tests.torture"])


def work(config: RunConfig, said: Path, own_group: bool, quick_disk: bool, die_at: int | None) -> None:
    """A process of its own that trains. ``quick_disk``: no fsync, which matters to a power cut and not to a kill."""
    if quick_disk:
        os.fsync = lambda file: None
    if own_group:
        os.setsid()
    with said.open("a", buffering=1) as file:
        sys.stdout = sys.stderr = file
        if config.device != "cpu":
            make_deterministic()
        import envs.world
        from agents import noise
        from runs import checkpoint, evaluate
        from runs.loop import Books
        from runs.train import train

        envs.world.World.reseed_steps = RESEED_STEPS
        noise.BLOCK_STEPS = NOISE_BLOCK_STEPS
        evaluate.MAX_ATARI_LANES = 1
        checkpoint.SEGMENT_BYTES = SEGMENT_BYTES[spec(config.env).kind]
        if die_at is not None:
            stepped = Books.stepped

            def last_step(books: Books, *arguments: Any) -> Any:
                if books.counters.steps >= die_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return stepped(books, *arguments)

            Books.stepped = last_step
        train(config)


def make_deterministic() -> None:
    """Kernels that give the same bits each time, where torch has them; it warns of the others."""
    import torch

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when the first product is computed
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def start(config: RunConfig, said: Path, own_group: bool, quick_disk: bool, die_at: int | None = None) -> Any:
    process = _forks.Process(target=work, args=(config, said, own_group, quick_disk, die_at))
    process.start()
    return process


def result(folder: Path) -> dict[str, Any]:
    """All that must not depend on interruptions."""
    line = schema.read_ledger(folder)[-1]
    episodes = pl.read_csv(folder / schema.MONITOR_FILE, comment_prefix="#").drop("t")
    evals = [(e.steps, e.frames, e.updates, e.epsilon, e.returns, e.lengths) for e in schema.read_evals(folder)]
    return {
        "status": line.status, "lineage": line.lineage, "sha": line.params_sha256, "evals": evals, "episodes": episodes.rows(),
    }  # fmt: skip


def check_books(folder: Path) -> int:
    """Consumed never falls and is never less than lineage; returns how often lineage went back."""
    lines = schema.read_ledger(folder)
    back = 0
    for before, after in itertools.pairwise(lines):
        for name in ("frames", "steps", "updates", "episodes"):
            assert getattr(after.consumed, name) >= getattr(before.consumed, name), name
            assert getattr(after.consumed, name) >= getattr(after.lineage, name), name
        assert (after.wall_s, after.joules, after.eval_frames) >= (before.wall_s, before.joules, before.eval_frames)
        back += after.lineage.steps < before.lineage.steps
    return back


def folders(config: RunConfig) -> list[Path]:
    """Where a seed was killed before the folder of the next one was made, both began again in new ones."""
    return [candidates(Path(config.out) / config.env / config.agent, seed)[0] for seed in config.seeds]


def killed_at_steps(config: RunConfig, said: Path, steps: Sequence[int]) -> list[Path]:
    """Killed at these steps, each time continued, and played to its end; returns the folders."""
    for step in steps:
        process = start(config, said, own_group=False, quick_disk=True, die_at=step)
        process.join(600)
        assert process.exitcode == -signal.SIGKILL, said.read_text()
        config = replace(config, resume=True)
    finish(config, said)
    return folders(config)


def finish(config: RunConfig, said: Path) -> None:
    process = start(config, said, own_group=False, quick_disk=True)
    process.join(600)
    assert process.exitcode == 0, said.read_text()


def torture(
    config: RunConfig, out: Path, kills: int, seed: int, own_group: bool = False, quick_disk: bool = False
) -> dict[str, int]:
    """Kill so often, over as many runs as that takes; every run that ends must be the uninterrupted one."""
    rng, said = random.Random(seed), out / "said"
    out.mkdir()
    config = replace(config, out=str(out / "whole"))
    ready = _forks.Process(target=time.monotonic)  # from now on everything is imported
    ready.start()
    ready.join()
    began = time.monotonic()
    process = start(config, said, False, quick_disk)
    process.join(600)
    assert process.exitcode == 0, said.read_text()
    whole_s = time.monotonic() - began
    oracle = [result(folder) for folder in folders(config)]
    killed = ended = back = in_write = 0
    while killed < kills:
        config = replace(config, out=str(out / f"cut{ended}"), resume=True)
        while True:
            process = start(config, said, own_group, quick_disk)
            process.join(rng.uniform(0.02, 0.6 * whole_s) if killed < kills else 600)
            if process.exitcode is not None:
                assert process.exitcode == 0, said.read_text()
                break
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if own_group else os.kill)(process.pid, signal.SIGKILL)
            process.join()
            killed += process.exitcode == -signal.SIGKILL
            in_write += bool(list(Path(config.out).rglob("*.tmp")))
        for folder, expected in zip(folders(config), oracle, strict=True):
            assert result(folder) == expected, f"{folder} after {killed} kills"
            back += check_books(folder)
        ended += 1
    text = said.read_text()
    assert "Traceback" not in text, text
    assert "damaged" not in text, "what a kill leaves is not there yet, and never damaged"
    return {"whole, ms": int(1000 * whole_s), "kills": killed, "runs": ended, "went back": back, "in a write": in_write}
