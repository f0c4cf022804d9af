"""A factory of realistic run folders, written with the same records and seals that a training run uses."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runs import schema

CARTPOLE = schema.EnvRecord("CartPole-v1", "control", "control", 50.0, 1, 475.0, 500)
MOUNTAINCAR = schema.EnvRecord("MountainCar-v0", "control", "control", None, 1, -110.0, 200)
BREAKOUT = schema.EnvRecord("ALE/Breakout-v5", "atari", "nature", 60.0, 4, None, 27000)
CPU = {"type": "cpu", "name": "2-core virtual CPU", "index": None, "uuid": None}
GPU = {"type": "cuda", "name": "NVIDIA H200", "index": 0, "uuid": "GPU-0000"}
ON_CPU = {
    "cpu_package": schema.Energy(900.0, 260.0, 3500.0, schema.ESTIMATED),
    "gpu_board": schema.Energy(0, 0, 0, schema.ABSENT),
}


def learning(start: float, end: float, midpoint: float = 0.45) -> Callable[[float, random.Random], float]:
    """A sigmoid from ``start`` to ``end`` over the run, with noise."""

    def score(progress: float, rng: random.Random) -> float:
        value = start + (end - start) / (1 + math.exp(-12 * (progress - midpoint)))
        return value + rng.gauss(0, 0.03 * abs(end - start))

    return score


def write_run(
    folder: Path,
    agent: str = "dqn",
    env: schema.EnvRecord = CARTPOLE,
    seed: int = 0,
    *,
    steps: int = 50_000,
    scores: list[float] | Callable[[float, random.Random], float] | None = None,
    wall_s: float = 83.0,
    energy: dict[str, schema.Energy] | None = None,
    status: str = schema.FINISHED,
    reached: float = 1.0,
    notes: list[str] | None = None,
    eval_frames: int | None = 8000,
    **changes: Any,
) -> Path:
    """One run folder. ``scores``: one an evaluation at even distances, or a function of progress; ``reached``: how much of the
    budget was done; ``notes``: the meter's; ``eval_frames``: played in evaluations; ``changes`` replace fields of run.json."""
    rng = random.Random(f"{agent} {env.id} {seed}")
    folder.mkdir(parents=True)
    record = schema.RunRecord(
        agent=agent, agent_config={"double": agent != "dqn", "n_step": 1, "encoder": "mlp", "optimiser": {"lr": 1e-3}},
        env=env, seed=seed, group_seeds=[seed], share=1.0, budget=f"{steps}-steps", run_config={"eval_every": "5k-steps"},
        command=["playmeter", "train", agent, env.id], started_utc=f"2026-01-0{1 + seed % 9}T10:00:00+00:00",
        versions={"playmeter": "0.1.0", "torch": "2.13.0", "gymnasium": "1.4.0"}, git_commit="0123abc",
        machine={"cpu": "2-core virtual CPU", "cores": 2, "os": "Linux"}, device=CPU,
    )  # fmt: skip
    record = replace(record, **changes)
    (folder / schema.RUN_FILE).write_text(json.dumps(asdict(record)), encoding="utf-8")
    energy = ON_CPU if energy is None else energy
    function = scores if callable(scores) else learning(22, 500)
    points = len(scores) if isinstance(scores, list) else 20
    wall_s *= rng.uniform(0.95, 1.05) if callable(scores) or scores is None else 1
    done = [(k + 1) / points for k in range(points) if (k + 1) / points <= reached]
    with (folder / schema.EVALS_FILE).open("w") as file:
        for k, progress in enumerate(done):
            centre = scores[k] if isinstance(scores, list) else function(progress, rng)
            file.write(schema.seal(_evaluation(centre, progress, steps, env, wall_s, energy)))
    with (folder / schema.LEDGER_FILE).open("w") as file:
        for progress in [0.5 * reached, reached]:
            last = progress == reached
            line = _ledger_line(progress, steps, env, wall_s, energy, record, status if last else schema.RUNNING)
            now = datetime.now(UTC).isoformat(
                timespec="seconds"
            )  # of a run under way; one that wrote nothing since January was killed
            when = now if status == schema.RUNNING else line.time_utc
            file.write(schema.seal(replace(line, notes=notes or [], time_utc=when, eval_frames=eval_frames)))
    with (folder / schema.MONITOR_FILE).open("w") as file:
        file.write('#{"t_start": 0.0, "env_id": "x"}\nr,l,t,frames\n')
        for episode in range(120):
            file.write(f"{float(episode)},{200},{episode * 0.5},{200 * env.frames_per_step}\n")
    return folder


def _share(energy: dict[str, schema.Energy], progress: float) -> dict[str, schema.Energy]:
    return {name: e.share(progress) for name, e in energy.items()}


def _evaluation(
    score: float, progress: float, steps: int, env: schema.EnvRecord, wall_s: float, energy: dict[str, schema.Energy]
) -> schema.EvalRecord:
    spent = _share(energy, progress).values()
    return schema.EvalRecord(
        steps=round(steps * progress), frames=round(steps * progress) * env.frames_per_step, updates=round(steps * progress),
        wall_s=wall_s * progress, joules=sum(e.joules for e in spent), low_j=sum(e.low_j for e in spent),
        high_j=sum(e.high_j for e in spent), flops=int(2e12 * progress), epsilon=0.0, returns=[score - 1, score + 1], lengths=[1, 1],
    )  # fmt: skip


def _ledger_line(
    progress: float,
    steps: int,
    env: schema.EnvRecord,
    wall_s: float,
    energy: dict[str, schema.Energy],
    record: schema.RunRecord,
    status: str,
) -> schema.LedgerLine:
    played = round(steps * progress)
    counts = schema.Counts(played * env.frames_per_step, played, played, played // 200)
    on_gpu = record.device["type"] == "cuda"
    return schema.LedgerLine(
        status=status, time_utc="2026-01-01T10:05:00+00:00", lineage=counts, consumed=replace(counts, frames=counts.frames + 400),
        eval_frames=None, boot_frames=0, wall_s=wall_s * progress,
        active_s={"act": 20 * progress, "learn": 50 * progress, "env": 8 * progress, "eval": 5 * progress},
        cpu_s=90 * progress * record.share, gpu_allocated_s=wall_s * progress * record.share if on_gpu else 0.0,
        gpu_busy_s=wall_s * 0.6 * progress * record.share if on_gpu else None, energy=_share(energy, progress),
        flops=schema.Flops(int(2e11 * progress), int(1.7e12 * progress), int(1e11 * progress)), peak_rss_bytes=612_000_000,
        peak_cuda_bytes=2_100_000_000 if on_gpu else None, params_sha256="ab" * 32 if status == schema.FINISHED else None,
    )  # fmt: skip
