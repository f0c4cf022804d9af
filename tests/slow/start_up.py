"""How long from the command to the first update, with compiled code on the disk from an earlier run.

    python -m tests.slow.start_up [--repeats 5]

Each command is run once more than that, and the first time is left out. The clock starts when the process does, so imports,
compiled code read back, folders and the steps played before the first update are all in it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

COMMANDS = (
    ("dqn", "CartPole-v1"),
    ("dqn", "CartPole-v1", "--seeds", "16"),
    ("rainbow", "CartPole-v1"),
    ("dqn", "MinAtar/Breakout-v1", "--agent.learning-starts-steps", "200"),
    ("dqn", "ALE/Pong-v5", "--agent.learning-starts-steps", "200"),
    ("der", "ALE/Pong-v5", "--protocol", "atari100k", "--agent.learning-starts-steps", "200"),
)
FIRST_UPDATE = """
import os, sys, time
from agents.learner import Learner

def ends(method):
    def first(self, *args):
        method(self, *args)
        print("FIRST", time.time(), flush=True)
        os._exit(0)
    return first

Learner.update, Learner.act_and_update = ends(Learner.update), ends(Learner.act_and_update)
from playmeter import main
sys.exit(main())
"""


def first_update_s(command: tuple[str, ...]) -> float:
    """Seconds from the start of the process to the end of its first update."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        arguments = ("train", *command, "--budget", "1M-steps", "--compile", "on", "--out", folder)
        done = subprocess.run([sys.executable, "-c", FIRST_UPDATE, *arguments], capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if line.startswith("FIRST")]
    if not said:
        raise SystemExit(f"no update in: playmeter {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return float(said[0].split()[1]) - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    for command in COMMANDS:
        seen = [first_update_s(command) for _ in range(repeats + 1)][1:]
        print(f"{' '.join(command)}: {statistics.median(seen):.1f} s ({min(seen):.1f} to {max(seen):.1f})", flush=True)


if __name__ == "__main__":
    main()
