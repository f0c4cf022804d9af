"""What is decided for a GPU, as far as it can be seen without one; the rest is `pytest -m gpu`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import playmeter
from agents.config import AgentConfig
from agents.graphs import cuda_graph
from agents.learner import Learner
from runs import prepare, schema, takeover
from runs.config import InputError
from runs.machine import versions
from runs.train import train
from tests.runs.test_train import SMALL, config


def with_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runs.family.resolve_cuda_graphs", lambda job: True)


def fails(call: Callable[[], Any]) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing")


def test_where_graphs_cannot_be_recorded_the_training_goes_on_without_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plain,) = train(config(tmp_path / "plain"))
    with_graphs(monkeypatch)
    monkeypatch.setattr("runs.family.cuda_graph", fails)
    said: list[str] = []
    (outcome,) = train(config(tmp_path / "graphs"), notice=said.append)
    assert any("without CUDA graphs" in line and line.endswith("stream is capturing") for line in said)
    assert schema.read_run(outcome.folder).run_config["with_cuda_graphs"] is False
    assert (outcome.status, outcome.params_sha256) == ("finished", plain.params_sha256)


def test_where_they_were_asked_for_that_is_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_graphs(monkeypatch)
    monkeypatch.setattr("runs.family.cuda_graph", fails)
    with pytest.raises(InputError, match=r"stream is capturing\): use --cuda-graphs off"):
        train(config(tmp_path, cuda_graphs="on"))
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(
    ("device", "asked", "expected"),
    [("cuda:0", "auto", True), ("cuda:0", "on", True), ("cuda:0", "off", False), ("cpu", "auto", False), ("cpu", "off", False)],
)
def test_graphs_are_for_gpus_and_can_be_switched_off(device: str, asked: str, expected: bool) -> None:
    job = SimpleNamespace(config=SimpleNamespace(cuda_graphs=asked), device=torch.device(device))
    assert prepare.resolve_cuda_graphs(job) is expected  # type: ignore[arg-type]


def test_a_training_on_a_gpu_records_its_calls_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorders: list[Any] = []
    with_graphs(monkeypatch)
    monkeypatch.setattr(Learner, "use_graphs", lambda self, obs, record: recorders.append((self.steps, obs.shape, record)))
    (outcome,) = train(config(tmp_path))
    assert recorders == [(0, (1, 4), cuda_graph)]
    assert schema.read_run(outcome.folder).run_config["with_cuda_graphs"] is True


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cuda-graphs", "on"], "--cuda-graphs on needs a CUDA GPU"),
        (["--agent.precision", "tf32"], "use --agent.precision fp32"),
    ],
)
def test_what_only_a_gpu_can_do_is_refused_elsewhere(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "dqn", "CartPole-v1", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert playmeter.main([*command, *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(("capability", "precision"), [((8, 0), "tf32"), ((9, 0), "tf32"), ((7, 5), None), ((9, 0), "fp32")])
def test_products_are_rounded_only_where_that_was_asked_for(
    capability: tuple[int, int], precision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch rounds the factors of convolutions on a GPU unless it is told not to."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [each.allow_tf32 for each in flags]
    agent = AgentConfig(precision=precision or "tf32")  # type: ignore[arg-type]
    try:
        if precision is None:
            with pytest.raises(InputError, match="no TF32"):
                prepare.set_precision(agent, torch.device("cuda:0"))
        else:
            prepare.set_precision(agent, torch.device("cuda:0"))
            assert [each.allow_tf32 for each in flags] == [precision == "tf32"] * 2
    finally:
        for each, value in zip(flags, before, strict=True):
            each.allow_tf32 = value


@pytest.mark.parametrize(("device", "compiler"), [("cpu", "g++"), ("cuda:0", "gcc"), ("cuda:0", "clang")])
def test_without_a_compiler_a_training_runs_eagerly_and_says_so(
    device: str, compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    said: list[str] = []
    asked = replace(config(Path()), compile="on")
    job = SimpleNamespace(config=asked, device=torch.device(device), budget=None, notice=said.append)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/" + name if name == compiler else None)
    assert prepare.resolve_compile(job, SMALL) is True  # type: ignore[arg-type]
    assert said == []
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert prepare.resolve_compile(job, SMALL) is False  # type: ignore[arg-type]
    assert ("g++" if device == "cpu" else "gcc") in said[0]


H200, A100, CPU = {"type": "cuda", "name": "NVIDIA H200"}, {"type": "cuda", "name": "NVIDIA A100"}, {"type": "cpu", "name": "x"}


@pytest.mark.parametrize(
    ("before", "now", "torch_before", "said"),
    [
        (H200, H200, None, None),
        (CPU, CPU | {"name": "y"}, None, None),
        (CPU, CPU, "2.0.0", "torch; the results may differ by rounding"),
        (H200, A100, None, "device; the results may differ by rounding, and another kind of device may draw other random numbers"),
        (CPU, H200, "2.0.0", "torch, device; the results may differ by rounding, and another kind"),
    ],
)  # fmt: skip
def test_a_run_that_goes_on_elsewhere_is_told_what_may_differ(
    before: dict[str, str], now: dict[str, str], torch_before: str | None, said: str | None
) -> None:
    trainer: Any = SimpleNamespace(compiled=True, cuda_graphs=False)
    at_start = versions() if torch_before is None else versions() | {"torch": torch_before}
    record: Any = SimpleNamespace(run_config=takeover.how_it_computes(trainer), versions=at_start, device=before)
    notices: list[str] = []
    takeover.check_machine(record, trainer, now, notices.append)
    assert len(notices) == (said is not None)
    assert not said or said in notices[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")
@pytest.mark.parametrize("compile", ["off", pytest.param("on", marks=pytest.mark.compiler)])
def test_on_a_gpu_the_calls_of_a_training_can_be_recorded(compile: str, tmp_path: Path) -> None:
    """``on`` refuses where they cannot; that they compute the same is shown in tests/agents/test_graphs.py."""
    for outcome in train(config(tmp_path, device="cuda:0", compile=compile, cuda_graphs="on", seeds=(0, 1))):
        assert outcome.status == "finished"
        assert schema.read_run(outcome.folder).run_config["with_cuda_graphs"] is True
