"""``playmeter sweep``."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import tyro
from tyro.conf import Positional

from cli import BAD_INPUT, DIVERGED, EXPECTED, INTERRUPTED, NO_DISK, PREEMPTED
from cli.ending import ignore_signals
from cli.parsing import parse
from cli.plan import one_or_many
from cli.progress import SweepLine, say
from cli.train import Train, asked_config, envs_of, human_share, run_and_tell, summary_line, train_arguments
from runs.config import DiskError, InputError

if TYPE_CHECKING:
    from runs.config import RunConfig
    from runs.stopping import Stop

FIXED = ("help", "h", "out", "resume", "ray", "vary", "first-seed", "seeds")
"""What no setting can be: where runs lie, whether they go on, and their seeds."""


@dataclass(frozen=True)
class Sweep(Train):
    """Many trainings: every agent on every environment, with every setting. The options are those of train, the agents' own too. The same
    command again goes on where it was stopped: what has finished is left alone."""

    name: Annotated[Positional[str], tyro.conf.arg(metavar="AGENT", help_behavior_hint="")]
    """Members of the family or baselines (`playmeter agents`), with commas between them."""
    env: Annotated[Positional[str], tyro.conf.arg(metavar="ENV", help_behavior_hint="")]
    """Environments (`playmeter envs`) or suites, with commas between them."""
    vary: tuple[str, ...] = ()
    """Settings to try in every combination: an option's name, = and its values with commas between, e.g. agent.n-step=1,3 budget=20k-steps,50k-steps."""
    ray: str | None = None
    """Spread them over cores and GPUs with Ray (pip install 'playmeter[ray]'): local, auto for a cluster that this machine is in, or its address. Without, one after another."""


@dataclass(frozen=True)
class Training:
    """One of the sweep, and its setting as its folder tells it; "" where nothing varies."""

    config: RunConfig
    setting: str

    @property
    def title(self) -> str:
        return f"{self.config.agent} on {one_or_many(self.config.envs)}{' with ' * bool(self.setting)}{self.setting}"


def sweep_command(argv: Sequence[str]) -> int:
    """Train every agent on every environment with every setting."""
    from agents.family import agent_config

    if "-h" in argv or "--help" in argv:
        parse(Sweep, ["--help"], "sweep", Sweep("dqn", "CartPole-v1", agent=agent_config("dqn", "classic")))
    trainings, out, ray = asked_for(argv)
    from runs.sweep import check  # importing torch takes seconds

    check([one.config for one in trainings])
    say(f"{len(trainings)} training{'s' * (len(trainings) > 1)}, into {out}")
    code = in_turn(trainings) if ray is None else on_ray(trainings, ray)
    if code not in (INTERRUPTED, PREEMPTED):
        say(f"report: playmeter report {out}")
    return code


def asked_for(argv: Sequence[str]) -> tuple[list[Training], Path, str | None]:
    """The trainings, the folder for all of them, and where Ray is to be found. Raises InputError."""
    if len([word for word in argv[:2] if not word.startswith("-")]) < 2:
        raise InputError("sweep takes agents and environments first, e.g. `playmeter sweep dqn,rainbow CartPole-v1,Acrobot-v1`")
    own, words = _Own().parse_known_args(argv[2:])
    settings = [dict(zip(names, values, strict=True)) for names, values in combinations(own.vary)]
    folders = [folder_of(setting) for setting in settings]
    if twice := {name for name in folders if folders.count(name) > 1}:
        raise InputError(f"two settings would share the folder {twice.pop()}: give values that differ in more than signs")
    trainings = []
    for agent in dict.fromkeys(argv[0].split(",")):
        for envs in by_kind(argv[1]):
            for setting, folder in zip(settings, folders, strict=True):
                out = str(Path(own.out, folder))
                train = [agent, envs, *words, *flags_of(setting), "--out", out]
                asked, agents_own, options = train_arguments(train, "sweep")
                config = asked_config(asked, agents_own, options, ("playmeter", "train", *train))
                trainings.append(Training(replace(config, resume=True), folder))
    return trainings, Path(own.out), own.ray


class _Own(argparse.ArgumentParser):
    """The options that train has not. tyro's parser would have to be told all of train's for every agent at once."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("--vary", nargs="+", action="extend", default=[])
        self.add_argument("--ray")
        self.add_argument("--out", default="results")
        self.add_argument("--resume", action="store_true")  # always so

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `playmeter sweep --help` explains every option")


def combinations(varied: Sequence[str]) -> Iterator[tuple[list[str], tuple[str, ...]]]:
    """Names and values of each setting; one without any where nothing varies."""
    values: dict[str, list[str]] = {}
    for text in varied:
        name, _, listed = text.partition("=")
        name = name.lstrip("-").replace("_", "-")
        if not name or not listed or "" in listed.split(","):
            raise InputError(f"--vary {text}: give a name, = and values with commas between, e.g. --vary agent.n-step=1,3")
        if name in FIXED or name in values:
            raise InputError(
                f"--vary {text}: {name} {'is given twice' if name in values else 'is the same for all of a sweep'}"
            )
        values[name] = list(dict.fromkeys(listed.split(",")))
    for chosen in product(*values.values()):
        yield list(values), chosen


def folder_of(setting: Mapping[str, str]) -> str:
    """A folder's name that tells the setting; "" where there is none."""
    text = ",".join(f"{name.rpartition('.')[2]}={value}" for name, value in setting.items())
    return re.sub(r"[^\w.,=+-]+", "-", text)


def flags_of(setting: Mapping[str, str]) -> list[str]:
    """As words of a command line: a switch is on or off, a list has its values with spaces between."""
    words = []
    for name, value in setting.items():
        room, _, last = name.rpartition(".")
        if value in ("true", "false"):
            words.append(f"--{room}{'.' * bool(room)}{'' if value == 'true' else 'no-'}{last}")
        else:
            words += [f"--{name}", *value.split()]
    return words


def by_kind(asked: str) -> list[str]:
    """The environments, those together that an agent's settings fit alike: control tasks, MinAtar, Atari."""
    from envs import SUITES, spec

    kinds: dict[str, list[str]] = {}
    for name in (word.strip() for word in asked.split(",")):
        for env in SUITES.get(name, (name,)):
            kinds.setdefault(spec(env).kind, []).append(env)
    return [",".join(envs_of(",".join(envs))) for envs in kinds.values()]


def in_turn(trainings: Sequence[Training]) -> int:
    """One after another in this process. A training that cannot be done does not keep the others from it."""
    codes = []
    for number, one in enumerate(trainings, 1):
        say(f"[{number} of {len(trainings)}] {one.title}")
        try:
            codes.append(run_and_tell(one.config))
        except ValueError as error:
            codes.append(told(one.title, error))
        if codes[-1] in (INTERRUPTED, PREEMPTED):
            left = len(trainings) - number
            if left:
                say(f"not begun: {left} of {len(trainings)} trainings")
            return codes[-1]
    return worst(codes)


def told(title: str, fault: Exception) -> int:
    """Say in a line why a training was not done; what came of it as an exit code. Raises what is a defect of ours."""
    expected = type(fault).__name__ in EXPECTED
    if isinstance(fault, ValueError) and not expected:
        raise fault
    print(f"playmeter: {title}: {' '.join(str(fault).split())}", file=sys.stderr, flush=True)
    return BAD_INPUT if expected else NO_DISK if isinstance(fault, DiskError) else DIVERGED


def worst(codes: Sequence[int]) -> int:
    """One exit code for all: a full disk before bad input before one that was preempted before a seed that diverged."""
    return next((code for code in (NO_DISK, BAD_INPUT, PREEMPTED, DIVERGED) if code in codes), 0)


def on_ray(trainings: Sequence[Training], address: str) -> int:
    from runs.stopping import interruptible
    from runs.sweep import apart, spread

    parts = [Training(config, one.setting) for one in trainings for config in apart(one.config)]
    if len(parts) > len(trainings):
        say(f"spread as {len(parts)}, since seeds or environments that do not train side by side can train anywhere")
    codes, over = [], 0
    with interruptible() as stop, SweepLine(len(parts)) as line:
        for number, ended in spread([part.config for part in parts], address, stop, line.update, human_share):
            line.over.add(number)
            over += 1
            title = f"[{over} of {len(parts)}] {parts[number].title}"
            if ended.fault is not None:
                codes.append(told(parts[number].title, ended.fault))
            for outcome in ended.outcomes:
                line.notice(f"{title}: {summary_line(outcome)}")
                codes.append({"diverged": DIVERGED, "interrupted": PREEMPTED}.get(outcome.status, 0))
    return stopped(stop, len(parts) - over, len(parts)) if stop() else worst(codes)


def stopped(stop: Stop, left: int, of: int) -> int:
    ignore_signals()
    if left:
        say(f"not begun: {left} of {of} trainings")
    return INTERRUPTED if stop.signal == signal.SIGINT else PREEMPTED
