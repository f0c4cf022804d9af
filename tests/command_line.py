"""The command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
TINY = [
    "--agent.hidden",
    "16",
    "--agent.learning-starts-steps",
    "50",
    "--eval-episodes",
    "2",
    "--evals",
    "2",
    "--compile",
    "off",
]


def words(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "playmeter", *arguments]


def playmeter(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words(*arguments), capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=120, check=False)


def started(*arguments: str, cwd: Path, **more: Any) -> subprocess.Popen[str]:
    """A process that goes on while the test does; ``more``: of Popen, in place of pipes and this environment."""
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT}
    return subprocess.Popen(words(*arguments), cwd=cwd, text=True, **(usual | more))
