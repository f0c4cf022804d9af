"""playmeter: the front door. The command line, and the few names that a library user imports.

What a command needs is imported when it runs (``cli/``), so that ``--help`` and ``report`` never wait for torch.
"""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cli import BAD_INPUT, EXPECTED, INTERRUPTED, NO_DISK, nearest

if TYPE_CHECKING:
    from runs.anyone import Meter, count_frames
    from runs.callback import MeterCallback

__all__ = ["Meter", "MeterCallback", "count_frames", "main"]

EXPORTS = {"Meter": "runs.anyone", "count_frames": "runs.anyone", "MeterCallback": "runs.callback"}

# name: (module, function, what it does)
COMMANDS = {
    "demo": ("cli.train", "demo_command", "Train dqn on CartPole and on Atari Pong for two minutes, and write a report."),
    "train": ("cli.train", "train_command", "Train an agent on an environment, one run folder per seed."),
    "sweep": ("cli.sweep", "sweep_command", "Train several agents on several environments with several settings."),
    "plan": ("cli.plan", "plan_command", "Forecast what a training would cost, from a few seconds of it on this machine."),
    "bench": ("cli.bench", "bench_command", "Time this machine: emulators, updates and trainings, beside stable-baselines3."),
    "eval": ("cli.evaluate", "eval_command", "Let the agents of finished runs play again: more games, other rules."),
    "video": ("cli.video", "video_command", "Show a game of a trained agent as a moving picture, at a person's speed."),
    "report": ("cli.report", "report_command", "Write a comparison report of run folders: one HTML page, or JSON."),
    "meter": (
        "cli.meter",
        "meter_command",
        "Meter a command of yours: playmeter meter [--out DIR] [--agent NAME] [--env ID] -- COMMAND ...",
    ),
    "import": ("cli.meter", "import_command", "Make run folders of other people's results, so that they join a report."),
    "claims": ("cli.report", "claims_command", "Check the numbers of a lecture on the limits of deep learning."),
    "board": ("cli.lists", "board_command", "Open TensorBoard on the run folders."),
    "agents": ("cli.lists", "agents_command", "List the agents as a family tree, or one agent's settings with their source."),
    "envs": ("cli.lists", "envs_command", "List the environments with their real-time rate, threshold and protocols."),
}


def __getattr__(name: str) -> Any:
    """What a library user imports, loaded at its first use."""
    if name not in EXPORTS:
        raise AttributeError(f"module 'playmeter' has no attribute {name!r}")
    return getattr(import_module(EXPORTS[name]), name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Bad input is one line on stderr and code 2.

    Without ``arguments`` this is the whole process: it takes its signals, and finds what earlier ones compiled.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is not None or not argv or argv[0] not in COMMANDS:
        return run(argv)
    begin(argv[0])
    if argv[0] not in ("train", "demo", "sweep", "eval"):
        return run(argv)
    from cli.ending import end_as_documented, ignore_signals

    end_as_documented()
    try:
        return run(argv)
    finally:
        ignore_signals()


def begin(command: str) -> None:
    """What is set for a process that is ours, before anything heavy is imported."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a dash that the locale lacks ends no training
    if command in ("train", "demo", "sweep", "plan", "bench", "eval", "video"):
        from agents import disk_cache
        from cli.threads import wait_briefly

        disk_cache.begin()
        wait_briefly()


def run(argv: Sequence[str]) -> int:
    """A command, and its exit code whatever becomes of it."""
    try:
        code = answer(argv)
        if sys.stdout is not None:  # it was closed: `>&-`
            sys.stdout.flush()
        return code
    except ValueError as error:
        if type(error).__name__ not in EXPECTED:  # a defect of ours: let it be seen
            raise
        return fail(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `playmeter envs | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        from cli.ending import let_go_of_stdout

        print(f"playmeter: standard output cannot be written: {error.strerror}", file=sys.stderr)
        let_go_of_stdout()
        return NO_DISK
    except Exception as error:
        if type(error).__name__ != "DiskError":
            raise
        print(f"playmeter: {error}", file=sys.stderr)
        return NO_DISK


def answer(argv: Sequence[str]) -> int:
    """What a command does, or the front door itself."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else BAD_INPUT
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"playmeter {version('playmeter')}")
        return 0
    if argv[0] not in COMMANDS:
        return fail(f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)}; `playmeter --help` lists them all")
    module, function, _ = COMMANDS[argv[0]]
    command: Callable[[Sequence[str]], int] = getattr(import_module(module), function)
    return command(argv[1:])


def fail(message: str) -> int:
    print(f"playmeter: {message}", file=sys.stderr)
    return BAD_INPUT


def usage() -> str:
    lines = [f"  {name:<8} {what}" for name, (_, _, what) in COMMANDS.items()]
    return "\n".join(
        [
            "playmeter trains game-playing agents and counts what that costs.",
            "",
            "usage: playmeter COMMAND ...",
            "",
            *lines,
            "",
            "`playmeter COMMAND --help` explains a command. Start with `playmeter demo`.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
