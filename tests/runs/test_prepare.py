"""What a trainer prepares of its process."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from agents.config import AgentConfig
from runs.config import InputError, RunConfig
from runs.prepare import COMPILE_FROM_UPDATES, check_numbers, crowded, faster_precision
from runs.train import train

PAGES_PER_UPDATE = """
import resource
import torch
from runs.prepare import keep_freed_memory

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def update():
    torch.ones(10 << 20)  # 40 MiB: more than glibc ever keeps by itself, wherever it lies

torch.set_num_threads(1)
for prepare in (lambda: None, keep_freed_memory):
    prepare()
    for _ in range(3):
        update()
    before = pages()
    for _ in range(10):
        update()
    print((pages() - before) / 10)
"""


DENORMALS = """
import sys
import torch
from playmeter import main

torch.set_num_threads(2)
if sys.argv[1:]:
    assert main(sys.argv[1:]) == 0
small = torch.full((1 << 20,), 2.0**-126)  # float32's smallest normal number; enough of them for two threads
print((small * 0.5).count_nonzero().item())
"""


@pytest.mark.parametrize("compiling", ["off", "on"])
def test_once_a_training_began_denormal_numbers_are_zero_on_every_thread(compiling: str, tmp_path: Path) -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this CPU has no such mode")

    def nonzero(*arguments: str) -> int:
        done = subprocess.run([sys.executable, "-c", DENORMALS, *arguments], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1])

    assert nonzero() == 1 << 20
    budget = "--budget 80-steps --agent.learning-starts-steps 64 --evals 1 --eval-episodes 1 --threads 2"
    train = f"train dqn MinAtar/Breakout-v1 {budget} --compile {compiling} --out".split()
    assert nonzero(*train, str(tmp_path / "runs")) == 0


NAME, VERSION = platform.libc_ver()


@pytest.mark.skipif(NAME != "glibc" or tuple(map(int, VERSION.split("."))) < (2, 35), reason="keeps memory by other rules")
def test_an_update_is_given_the_memory_that_the_one_before_it_freed() -> None:
    done = subprocess.run([sys.executable, "-c", PAGES_PER_UPDATE], capture_output=True, text=True, check=True)
    without, kept = map(float, done.stdout.split())
    assert without > 10, "what this is about: 10,240 pages of 4 KiB, or 20 huge ones"
    assert kept < without / 10


@pytest.mark.parametrize(
    ("products", "agent", "device", "compiled", "told"),
    [
        ("AVX512-BF16", AgentConfig(encoder="nature"), "cpu", True, True),
        ("AMX", AgentConfig(encoder="nature"), "cpu", True, True),
        ("AMX", AgentConfig(encoder="der"), "cpu", True, True),
        (None, AgentConfig(encoder="nature"), "cpu", True, False),
        ("AMX", AgentConfig(encoder="nature", precision="bf16"), "cpu", True, False),
        ("AMX", AgentConfig(encoder="minatar"), "cpu", True, False),
        ("AMX", AgentConfig(encoder="nature"), "cuda", True, False),
        ("AMX", AgentConfig(encoder="nature"), "cpu", False, False),
    ],
)
def test_who_computes_pictures_in_float32_on_a_cpu_with_bfloat16_is_told_what_is_faster(
    products: str | None, agent: AgentConfig, device: str, compiled: bool, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runs.prepare.own_products", lambda: products)
    advice = faster_precision(agent, torch.device(device), compiled)
    assert (advice is not None) == told
    assert advice is None or "--agent.precision bf16" in advice


def test_a_budget_of_energy_is_refused_beside_a_wall_meter_which_is_read_when_the_run_is_over() -> None:
    config = RunConfig("dqn", "CartPole-v1", AgentConfig(), (0,), "0.5kWh", wall_meter="meter.csv")
    with pytest.raises(InputError, match="give a budget in another unit, or no wall meter"):
        check_numbers(config)
    for other in (replace(config, budget="30min"), replace(config, wall_meter=None)):
        check_numbers(other)


@pytest.mark.parametrize(
    ("threads", "cores", "busy", "advised"),
    [
        (2, 2, 2.1, "--threads 1"),
        (2, 2, 1.0, "--threads 1"),
        (2, 2, 0.3, None),
        (1, 2, 9.0, None),
        (16, 16, 5.2, "--threads 11"),
        (4, 64, 60.0, None),
    ],
)
def test_threads_that_would_wait_for_the_processes_of_others_are_advised_against(
    threads: int, cores: int, busy: float, advised: str | None
) -> None:
    said = crowded(threads, cores, busy)
    assert said is None if advised is None else said is not None and advised in said


@pytest.mark.parametrize(
    ("threads", "resume", "age_s", "said"),
    [(None, False, 1.0, True), (2, False, 1.0, False), (None, True, 1.0, False), (None, False, 3600.0, False)],
    ids=["a new training", "as asked for", "one that is continued", "a process whose own work it may be"],
)
def test_they_are_at_the_start_of_a_training_that_was_not_told_how_many(
    threads: int | None, resume: bool, age_s: float, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runs.family.busy_cores", lambda: 99.0)
    monkeypatch.setattr("runs.family.default_threads", lambda *_: 2)
    monkeypatch.setattr("runs.family.process_age_s", lambda: age_s)
    agent = AgentConfig(hidden=(8,), batch_size=4, learning_starts_steps=20, replay_capacity=100)
    config = RunConfig(
        "dqn", "CartPole-v1", agent, (0,), "40-steps", evals=1, eval_episodes=1, device="cpu", compile="off", threads=threads,
        resume=resume, out=str(tmp_path),
    )  # fmt: skip
    before, told = torch.get_num_threads(), list[str]()
    try:
        train(config, notice=told.append)
    finally:
        torch.set_num_threads(before)
    assert any("other processes keep about" in text for text in told) == said


def test_it_is_known_of_every_encoder_from_when_on_compiling_pays() -> None:
    assert set(COMPILE_FROM_UPDATES) == set(get_args(get_type_hints(AgentConfig)["encoder"]))
