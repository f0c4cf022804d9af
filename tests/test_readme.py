"""The examples of the README, run as they stand there; `dqn.py` of the one is tests/foreign/dqn.py, which knows nothing of us."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runs import schema

ROOT = Path(__file__).resolve().parent.parent
SECTION = re.search(r"## Meter a loop of your own\n(.*?)\n## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
assert SECTION is not None
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", SECTION[1], re.DOTALL)


def example(word: str) -> str:
    (found,) = [code for _, code in BLOCKS if word in code]
    return found


def environment() -> dict[str, str]:
    """With this checkout's playmeter and python first, as in an activated virtual environment."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment(), timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-c", code], cwd)


def total(folder: Path) -> schema.LedgerLine:
    line = schema.read_ledger(folder)[-1]
    assert line.status == "finished"
    return line


def test_each_example_is_short() -> None:
    assert len(BLOCKS) == 4
    assert all(len([line for line in code.splitlines() if line]) < 10 for _, code in BLOCKS)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every example was run."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copy(ROOT / "tests/foreign/dqn.py", folder)
    python(example("for _ in range"), folder)
    python(example("MeterCallback"), folder)
    done = run(["sh", "-c", example("python dqn.py")], folder)
    assert "episodic_return" in done.stdout
    return folder


def test_the_loop(results: Path) -> None:
    folder = results / "results/CartPole-v1/random/seed0"
    line = total(folder)
    assert (line.lineage.frames, line.lineage.steps, line.lineage.updates) == (1000, 1000, None)
    assert line.lineage.episodes == len((folder / schema.MONITOR_FILE).read_text().splitlines()) - 2
    assert schema.read_run(folder).env.frame_rate_hz == 50


def test_the_callback(results: Path) -> None:
    line = total(results / "results/CartPole-v1/sb3-dqn/seed0")
    assert (line.lineage.frames, line.lineage.steps) == (1000, 1000)
    assert line.lineage.updates == 225, "the library's defaults: after 100 steps one update every 4 steps"


def test_the_unmodified_script(results: Path) -> None:
    folder = results / "results/CartPole-v1/my-dqn/seed0"
    line = total(folder)
    assert line.lineage == schema.Counts(None, None, None, None), "nobody counts in it, so nothing is claimed"
    assert line.flops == schema.Flops(None, None, None)
    assert (line.eval_frames, line.boot_frames) == (None, None)
    assert line.cpu_s > 1, "torch alone takes that to import"
    assert line.peak_rss_bytes > 10**8
    assert line.energy["cpu_package"].joules > 0


def test_the_wrapper_alone_and_under_the_command(tmp_path: Path) -> None:
    code = example("count_frames")
    assert python(code, tmp_path).stdout == "1\n"
    assert not list(tmp_path.iterdir()), "without the command nothing is written"
    (tmp_path / "script.py").write_text(code)
    assert run(["playmeter", "meter", "--env", "CartPole-v1", "--", "python", "script.py"], tmp_path).stdout == "1\n"
    assert total(tmp_path / "results/CartPole-v1/script/seed0").lineage == schema.Counts(1, 1, None, 0)


def test_a_report_shows_them_beside_ours(results: Path) -> None:
    tiny = ["--agent.hidden", "16", "--agent.learning-starts-steps", "50", "--compile", "off", "--evals", "1"]
    run(["playmeter", "train", "dqn", "CartPole-v1", "--budget", "200-steps", "--eval-episodes", "1", *tiny], results)
    run(["playmeter", "report", "--json", "summary.json", "--out", "report.html"], results)
    summary = json.loads((results / "summary.json").read_text())
    runs = {found["agent"]: found for found in summary["runs"]}
    assert summary["left_out"] == []
    assert set(runs) == {"dqn", "my-dqn", "random", "sb3-dqn"}
    assert runs["random"]["frames"] == 1000
    assert runs["random"]["human_play_h"] == pytest.approx(1000 / 50 / 3600)
    assert [runs["my-dqn"][name] for name in ("frames", "steps", "updates", "episodes", "human_play_h")] == [None] * 5
    assert runs["my-dqn"]["flops"]["total"] is None
    assert runs["my-dqn"]["human_play_reason"] == "its frames were not counted"
    assert {found["protocol"] for found in runs.values()} == {"control"}, (
        "one section of the page: CartPole is played in one way"
    )
    assert "my-dqn" in (results / "report.html").read_text()
