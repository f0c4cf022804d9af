"""The timing of this machine: what it reads of a ledger, that peers run in turns, and the peer itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import playmeter
from runs import bench
from runs.bench import CASES, Case, Machine
from runs.config import RunConfig
from runs.prepare import Runs
from runs.schema import Counts, Flops
from tests.runs.test_plan import line

MACHINE = Machine(threads=2, matmul_gflops_per_s=100.0, copy_gb_per_s=10.0, env_frames_per_s={"CartPole-v1 x 1": 5_000.0})
FIXED = {"steps_per_s": 1234.0, "updates_per_s": 1234.0, "update_ms": None, "act_ms": None, "phases": {"learn": 0.9, "io": 0.1},
         "gflops_per_s": 50.0, "gpu_busy_share": 0.25}  # fmt: skip
CONFIG = RunConfig("dqn", "CartPole-v1", CASES[0].config, (0, 1), device="cpu")


def tried(monkeypatch: pytest.MonkeyPatch, lines: list[Any], device: str = "cpu") -> dict[str, Any]:
    learner = SimpleNamespace(device=torch.device(device))
    monkeypatch.setattr(bench, "try_out", lambda *_: SimpleNamespace(lines=lines, learner=learner))
    return bench.ours(CONFIG, 1.0)


def test_rates_are_those_between_the_first_update_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 steps and 100 updates of each of two seeds in 4 s of learning and 1 s of acting; set-up and evaluation do not count."""
    before, first = line(0, 0, 0.0), line(100, 1, 2.0, act_s=0.5)
    last = line(500, 101, 6.0, act_s=1.5)
    last = replace(last, flops=Flops(act=10**9, update=9 * 10**9), lineage=Counts(500, 500, 101))
    found = tried(monkeypatch, [before, first, last])
    assert found["steps_per_s"] == pytest.approx(2 * 400 / 5)
    assert found["updates_per_s"] == pytest.approx(2 * 100 / 5)
    assert (found["update_ms"], found["act_ms"]) == (pytest.approx(40.0), pytest.approx(2.5))
    assert found["phases"] == {"act": pytest.approx(0.2), "learn": pytest.approx(0.8), "env": 0.0, "io": 0.0}
    assert found["gflops_per_s"] == pytest.approx(2 * 10 / 5)


def test_on_a_gpu_which_computes_behind_every_phase_calls_are_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5 s of training 4.5 were act and learn: on a GPU the emulator's 0.5 may have been computing as well."""
    first, last = line(100, 1, 2.0, act_s=0.5), line(500, 101, 6.0, act_s=1.0)
    last = replace(last, flops=Flops(act=0, update=10**9), active_s=last.active_s | {"env": last.active_s["env"] + 0.5})
    assert tried(monkeypatch, [first, last])["gflops_per_s"] == pytest.approx(2 / 4.5)
    monkeypatch.setattr(bench, "gpu_ms", lambda learner: (3.0, 0.25))
    found = tried(monkeypatch, [first, last], "cuda")
    assert (found["update_ms"], found["act_ms"]) == (3.0, 0.25)
    assert found["gflops_per_s"] == pytest.approx(2 / 5)


def test_the_gpu_was_busy_for_the_part_of_the_time_in_which_the_driver_saw_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 s, 0.5 s of each of two seeds that share the process; where the driver says nothing, nothing is said."""
    first, last = line(100, 1, 2.0), line(500, 401, 6.0)
    assert tried(monkeypatch, [first, last])["gpu_busy_share"] is None
    first, last = (replace(one, gpu_busy_s=busy, wall_s=wall) for one, busy, wall in ((first, 0.25, 3.0), (last, 0.75, 7.0)))
    assert tried(monkeypatch, [first, last])["gpu_busy_share"] == pytest.approx(0.25)


def test_the_limit_is_that_of_the_fastest_library(monkeypatch: pytest.MonkeyPatch) -> None:
    ways, (a, b) = bench.products(torch.device("cpu")), torch.randn(2, 70, 70)
    assert len(ways) == 1 + torch.backends.mkldnn.is_available()
    for way in ways:
        torch.testing.assert_close(way(a, b), a @ b, rtol=1e-4, atol=1e-4)
    seconds = iter((2.0, 0.5, 1.0)) if len(ways) > 1 else iter((0.5, 1.0))  # the last one is that of the copy
    monkeypatch.setattr(bench, "best_s", lambda *_: next(seconds))
    monkeypatch.setattr(bench, "env_frames_per_s", lambda *_: 1.0)
    assert bench.machine("cpu", None).matmul_gflops_per_s == 2 * 1024**3 / 0.5 / 1e9


def test_plain_cases_are_neither_compiled_nor_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    tried_out: list[RunConfig] = []
    monkeypatch.setattr(bench, "try_out", lambda config, *_: tried_out.append(config))
    fixed = {"steps_per_s": 1.0, "updates_per_s": 1.0, "update_ms": 1.0, "act_ms": 1.0, "phases": {}, "gflops_per_s": 1.0,
             "gpu_busy_share": None}  # fmt: skip
    monkeypatch.setattr(bench, "ours", lambda *_: fixed)
    for case in CASES:
        bench.speed(replace(case, peer=None), MACHINE, 1, 3.0, "cpu", 1, print)
        assert (tried_out[-1].compile, tried_out[-1].cuda_graphs) == (("off", "off") if case.plain else ("on", "auto"))


def test_the_shortest_timing_that_may_be_asked_for_has_something_to_read() -> None:
    found = bench.ours(replace(CONFIG, compile="off"), 3.0)
    assert found["steps_per_s"] > 10
    assert found["updates_per_s"] == pytest.approx(found["steps_per_s"]), "one update a step"
    assert sum(found["phases"].values()) == pytest.approx(1.0)


def test_where_acting_is_in_the_same_call_neither_has_a_latency_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tried(monkeypatch, [line(100, 1, 2.0), line(500, 401, 6.0)])
    assert (found["update_ms"], found["act_ms"]) == (None, None)


def test_a_case_and_its_peer_run_in_turns_and_ratios_are_taken_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Medians of (200, 300, 600) and (100, 50, 200): 300 and 100; of the ratios 2, 6 and 3: 3, which is not 300 / 100 by luck alone."""
    order: list[str] = []
    rates, others = iter([200.0, 300.0, 600.0]), iter([100.0, 50.0, 200.0])

    def ours(config: RunConfig, seconds: float) -> dict[str, Any]:
        order.append("ours")
        rate = next(rates)
        return {
            "steps_per_s": rate,
            "updates_per_s": rate / 4,
            "update_ms": 1.0,
            "act_ms": 1.0,
            "phases": {},
            "gflops_per_s": 25.0,
            "gpu_busy_share": 0.5,
        }

    def peer(*_: Any) -> float:
        order.append("peer")
        return next(others)

    monkeypatch.setattr(bench, "try_out", lambda *_: order.append("warm-up"))
    monkeypatch.setattr(bench, "ours", ours)
    monkeypatch.setattr(bench, "peer", peer)
    found = bench.speed(CASES[0], MACHINE, 3, 1.0, "cpu", 2, print)
    assert order == ["warm-up", "ours", "peer", "ours", "peer", "ours", "peer"], "the first fills the compiler's cache"
    assert (found.steps_per_s, found.steps_per_s_range) == (300, (200, 600))
    assert (found.ratio, found.ratio_range, found.peer_steps_per_s) == (3, (2, 6), 100)
    assert found.updates_per_s == 75, "of the repeat in the middle"
    assert found.matmul_share == 0.25


def test_the_peer_does_the_same_work_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its updates are as many as ours would be, counted in the library's own optimiser."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("SB3_LOGDIR")
    steps = 0
    step = torch.optim.Adam.step

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    case = Case("tiny", "dqn", "CartPole-v1", 1, replace(bench.PEER, hidden=(8,), batch_size=4, replay_ratio=0.5), "MlpPolicy")
    rate = bench.peer(case, 0.2, "cpu", 1)
    assert rate > 10
    learned = steps / 0.5  # steps since learning began: 100 of the warm-up, then what was timed
    assert 100 + 0.5 * 0.2 * rate < learned < 110 + 1.5 * 0.2 * rate + 20
    assert list(tmp_path.glob("SB3*")) == []


def test_the_command_shows_and_writes_what_was_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "machine", lambda *_: MACHINE)
    monkeypatch.setattr(bench, "try_out", lambda *_: None)
    monkeypatch.setattr(bench, "ours", lambda *_: FIXED)
    monkeypatch.setattr(bench, "peer", lambda *_: 617.0)
    target = tmp_path / "bench.json"
    assert playmeter.main(["bench", "--only", "cartpole-1", "rainbow-1", "--json", str(target)]) == 0
    text = capsys.readouterr().out
    for part in (
        "100 GFLOP/s",
        "cartpole-1",
        "1,234",
        "one call",
        "50%",
        "2.00 (2.00–2.00)",
        "learn 90%, io 10%; GPU busy 25%",
    ):
        assert part in text
    content = json.loads(target.read_text())
    assert [(case["case"], case["ratio"]) for case in content["cases"]] == [("cartpole-1", 2.0), ("rainbow-1", None)]


def test_where_nothing_can_be_compiled_the_table_is_not_silent_about_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tried_out(config: RunConfig, runs: Runs, seconds: float, notice: Callable[[str], None]) -> None:
        notice("no C++ compiler found")

    monkeypatch.setattr(bench, "machine", lambda *_: MACHINE)
    monkeypatch.setattr(bench, "try_out", tried_out)
    monkeypatch.setattr(bench, "ours", lambda *_: FIXED)
    assert playmeter.main(["bench", "--only", "rainbow-1", "minatar-1", "--json", "-"]) == 0
    said = capsys.readouterr()
    assert said.err.count("no C++ compiler found\n") == 1
    assert "no C++" not in said.out


def test_what_this_machine_cannot_do_is_left_out_of_the_table_and_refused_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A CPU without bfloat16: the other cases are timed all the same."""
    monkeypatch.setattr(bench, "lacking", lambda precision, device: "no such numbers" if precision == "bf16" else None)
    monkeypatch.setattr(bench, "machine", lambda *_: MACHINE)
    monkeypatch.setattr(bench, "try_out", lambda *_: None)
    monkeypatch.setattr(bench, "ours", lambda *_: FIXED)
    monkeypatch.setattr(bench, "peer", lambda *_: 617.0)
    target = tmp_path / "bench.json"
    assert playmeter.main(["bench", "--json", str(target)]) == 0
    rounded = {case.name for case in CASES if "bf16" in case.name}
    content = json.loads(target.read_text())
    assert [case["case"] for case in content["cases"]] == [case.name for case in CASES if case.name not in rounded]
    assert content["not_timed"] == dict.fromkeys(rounded, "no such numbers")
    assert capsys.readouterr().out.count("not timed: no such numbers") == len(rounded) > 0
    assert playmeter.main(["bench", "--only", "cartpole-1", "atari-bf16"]) == 2
    assert capsys.readouterr().err == "playmeter: atari-bf16 cannot be timed here, no such numbers\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--only", "cartpole"], "cartpole-1"), (["--repeats", "0"], "--repeats"), (["--seconds", "2.9"], "--seconds")],
)
def test_bad_input_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert playmeter.main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
