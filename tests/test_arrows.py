"""The arrows between the rooms, as docs/decisions.md draws them: playmeter -> cli -> all rooms; runs -> {agents, envs};
analysis -> runs.schema and runs.budget, plain words, alone; agents and envs know nobody."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("agents", "envs", "runs", "analysis", "cli")
MAY_IMPORT = {
    "agents": set(),
    "envs": set(),
    "runs": {"agents", "envs"},
    "analysis": {"runs.schema", "runs.budget"},
    "cli": {"agents", "envs", "runs", "analysis"},
}
FORBIDDEN_LIBRARIES = {
    "agents": {"ale_py", "minatar", "tensorboard"},
    "envs": {"torch", "tensorboard"},
    "analysis": {"torch", "gymnasium"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_arrows_allow(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for module in imports(path):
            top = module.split(".")[0]
            if top in ROOMS and top != room:
                allowed = MAY_IMPORT[room]
                # `from runs import schema` names runs and runs.schema
                fits = (
                    top in allowed
                    or module in allowed
                    or any(a.startswith(module + ".") or module.startswith(a + ".") for a in allowed)
                )
                assert fits, f"{path.relative_to(ROOT)} imports {module}"
            assert top not in FORBIDDEN_LIBRARIES.get(room, set()), f"{path.relative_to(ROOT)} imports {module}"
            assert top != "playmeter", f"{path.relative_to(ROOT)} imports the front door"


def test_the_schema_needs_the_standard_library_only() -> None:
    assert {module.split(".")[0] for module in imports(ROOT / "runs/schema.py")} <= set(sys.stdlib_module_names)


# What an import of the Meter must not wait for: each takes as long as all of playmeter, or longer.
HEAVY = {
    "torch",
    "gymnasium",
    "numpy",
    "polars",
    "scipy",
    "altair",
    "stable_baselines3",
    "tensorboard",
    "tyro",
    "rich",
    "psutil",
    "pynvml",
}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    ("statement", "not_loaded"),
    [
        ("import analysis", {"torch", "gymnasium", "polars", "altair"}),
        ("import analysis.report", {"torch", "gymnasium"}),
        ("import runs.schema", {"torch", "gymnasium", "numpy"}),
        ("import playmeter", HEAVY),
        ("import runs.importing", {"torch", "gymnasium", "tensorboard", "polars"}),
        ("import cli.report, cli.lists, cli.meter", {"torch", "gymnasium", "polars", "altair"}),
        ("import envs", {"torch", "gymnasium"}),
        ("from playmeter import Meter, count_frames", HEAVY),
        ("from playmeter import Meter; Meter('out', agent='a', env='e')", HEAVY),
    ],
)
def test_what_need_not_be_loaded_is_not(statement: str, not_loaded: set[str]) -> None:
    assert not loaded_by(statement) & not_loaded


def test_a_meter_around_a_loop_needs_no_torch_and_no_gymnasium(tmp_path: Path) -> None:
    loop = f"from playmeter import Meter\nwith Meter({str(tmp_path)!r}, agent='a', env='e', device='cpu') as m: m.steps(3)\n"
    assert not loaded_by(f"exec({loop!r})") & (HEAVY - {"psutil", "pynvml"}), "with these two it meters"
    assert (tmp_path / "e/a/seed0/ledger.jsonl").exists()


def test_importing_the_meter_takes_less_than_0_3_seconds() -> None:
    """CPU seconds, the least of several: on a busy machine the clock measures the others. Python's own start is in it."""

    def cpu_s(statement: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", statement], check=True, cwd=ROOT)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(cpu_s("from playmeter import Meter") for _ in range(5)) < 0.3
