"""``playmeter train`` and ``playmeter demo``."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

import tyro
from tyro.conf import Positional

from agents.baselines import BaselineConfig
from agents.config import AgentConfig
from cli import DIVERGED, INTERRUPTED, PREEMPTED
from cli.ending import ignore_signals
from cli.parsing import parse
from cli.progress import ProgressLine, say
from runs.budget import BudgetError, parse_budget
from runs.config import DOMAINS, InputError, RunConfig, check_energy, check_seeds
from runs.folder import check_writable

if TYPE_CHECKING:
    from runs.train import Outcome

Settings = TypeVar("Settings", bound=BaselineConfig)


@dataclass(frozen=True)
class TrainAny:
    """Train an agent on an environment: one run folder per seed, and TensorBoard curves inside it."""

    name: Annotated[Positional[str], tyro.conf.arg(metavar="AGENT", help_behavior_hint="")]
    """A member of the family or a baseline (`playmeter agents`)."""
    env: Annotated[Positional[str], tyro.conf.arg(metavar="ENV", help_behavior_hint="")]
    """An environment (`playmeter envs`), several with commas between them, or a suite, e.g. atari26."""
    seeds: int = 1
    """How many seeds to train; small networks train side by side in this process."""
    first_seed: int = 0
    """The first seed; the others count up from it."""
    budget: str = "50k-steps"
    """When to stop: a number with a unit, e.g. 100k-steps, 400k-frames, 2h-play, 30min, 0.5kWh, 1e15flops (per seed)."""
    protocol: str | None = None
    """How the environment is played (atari: nature, sticky, atari100k); the default is the environment's first."""
    evals: int = 10
    """Evaluations, spread evenly over the budget."""
    eval_episodes: int | None = None
    """Episodes per evaluation and seed; the default is the protocol's number."""
    out: str = "results"
    """Folder for the run folders."""
    device: str = "auto"
    """auto, cpu or cuda:0."""
    threads: int | None = None
    """CPU threads of torch; the default is one for a single small network, more for several seeds or convolutions."""
    checkpoint_every: str = "10min"
    """How much work a kill may cost, in any unit of a budget; what is learned does not depend on it."""
    resume: bool = False
    """Go on with the unfinished run of the same command, from its last checkpoint; start it where there is none."""
    cpu_watts: str | None = None
    """Your processor's draw in watts while this runs, as 70 or 65:85; used where its own counters (RAPL) cannot be read."""
    wall_meter: str | None = None
    """A CSV that your wall meter's logger is writing: time (UTC, ISO 8601 or seconds since 1970) and watts, joules or kwh."""
    gpu_share: float = 1.0
    """This process's part of the GPU where several runs share one, e.g. 0.5."""


@dataclass(frozen=True)
class Train(TrainAny):
    """Train an agent on an environment: one run folder per seed, and TensorBoard curves inside it."""

    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the update: auto does where the run is long enough to win back the seconds that it takes."""
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    """On a GPU, launch all kernels of an update at once: auto does without where that is not possible."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """The agent's settings; the defaults are those of AGENT on this kind of environment."""


@dataclass(frozen=True)
class TrainBaseline(TrainAny, Generic[Settings]):
    """Train an agent of stable-baselines3 under the same meter: one run folder per seed, and TensorBoard curves inside it."""

    sb3: Settings = field(kw_only=True)
    """The agent's settings under their own library's names; the defaults are those of AGENT on this kind of environment."""


@dataclass(frozen=True)
class Demo:
    """dqn on CartPole-v1 (4 seeds) and on ALE/Pong-v5 (a first look, far too short to learn), then a report."""

    out: Path = Path("results/demo")
    """Folder for the run folders and the report."""


def train_command(argv: Sequence[str]) -> int:
    """Train an agent on an environment, one run folder per seed."""
    asked, settings, options = train_arguments(argv, "train")
    return run_and_tell(asked_config(asked, settings, options, ("playmeter", "train", *argv)))


def train_arguments(
    argv: Sequence[str], command: str, kind: type[Train] = Train
) -> tuple[TrainAny, AgentConfig | BaselineConfig, dict[str, Literal["auto", "on", "off"]]]:
    """What was asked, the agent's settings, and the options that only the family's agents have."""
    from agents.baselines import BASELINES, baseline_config, is_baseline
    from agents.family import FAMILY, agent_config
    from envs import spec

    positional = [word for word in argv[:2] if not word.startswith("-")]
    name = positional[0] if positional else "dqn"
    env = positional[1] if len(positional) > 1 else "CartPole-v1"
    asked_for_help = "-h" in argv or "--help" in argv
    if argv and argv[0].startswith("-") and not asked_for_help:
        raise InputError(
            f"{command} takes agent and environment first, e.g. `playmeter {command} dqn CartPole-v1 {argv[0]} ...`"
        )
    if len(positional) < 2 and not asked_for_help:
        known = ", ".join([*FAMILY, *BASELINES])
        raise InputError(
            f"{command} needs an agent and an environment, e.g. `playmeter {command} {name} {env}`; agents: {known}"
        )
    domain = DOMAINS[spec(envs_of(env)[0]).kind]
    if is_baseline(name) and kind is not Train:
        raise InputError(f"{command} knows the family's agents; {name} is trained by its own library: time a short run of it")
    if is_baseline(name):
        baseline = TrainBaseline(name, env, sb3=baseline_config(name, domain))
        baseline = parse(TrainBaseline[type(baseline.sb3)], argv, command, baseline)  # type: ignore[misc]
        return baseline, baseline.sb3, {}
    asked: Train = parse(kind, argv, command, kind(name, env, agent=agent_config(name, domain)))
    return asked, asked.agent, {"compile": asked.compile, "cuda_graphs": asked.cuda_graphs}


def asked_config(
    asked: TrainAny,
    settings: AgentConfig | BaselineConfig,
    options: Mapping[str, Literal["auto", "on", "off"]],
    command: tuple[str, ...],
) -> RunConfig:
    return run_config(
        asked.name,
        envs_of(asked.env),
        settings,
        seeds=range(asked.first_seed, asked.first_seed + asked.seeds),
        budget=asked.budget,
        protocol=asked.protocol,
        evals=asked.evals,
        eval_episodes=asked.eval_episodes,
        out=asked.out,
        device=asked.device,
        threads=asked.threads,
        checkpoint_every=asked.checkpoint_every,
        resume=asked.resume,
        cpu_watts=asked.cpu_watts,
        wall_meter=asked.wall_meter,
        gpu_share=asked.gpu_share,
        **options,
        command=command,
    )


def envs_of(asked: str) -> tuple[str, ...]:
    """The environments of a suite, or those with commas between them. Raises InputError where one agent's settings do not fit all."""
    from envs import SUITES, spec

    names = [name.strip() for name in asked.split(",")]
    if "" in names:
        raise InputError(f"{asked!r} lacks an environment's name: give e.g. ALE/Pong-v5,ALE/Breakout-v5")
    envs = tuple(dict.fromkeys(env for name in names for env in SUITES.get(name, (name,))))
    kinds = {spec(env).kind: env for env in envs}
    if len(kinds) > 1:
        raise InputError(f"{' and '.join(kinds.values())} are of different kinds, with settings of their own: train them apart")
    return envs


def run_config(
    agent: str, envs: Sequence[str], settings: AgentConfig | BaselineConfig, seeds: Sequence[int], **options: Any
) -> RunConfig:
    from envs import spec

    check_seeds(seeds, settings)
    config = RunConfig(agent, envs[0], settings, tuple(seeds), **options, more_envs=tuple(envs[1:]))
    # What needs no torch is looked at before it is loaded, so that a slip is answered at once.
    try:
        parse_budget(config.checkpoint_every)
    except BudgetError as error:
        raise BudgetError(f"--checkpoint-every: {error}") from None
    for env in envs:
        parse_budget(config.budget).check(spec(env).frame_rate_hz)
    check_energy(config.energy)
    check_writable(Path(config.out))
    return config


def run_and_tell(config: RunConfig) -> int:
    """Train with a progress line, then say what came of it."""
    from runs.train import train  # importing torch takes seconds

    with ProgressLine(config) as line:
        outcomes = train(config, line.update, line.notice, human_share)
    if any(outcome.signal for outcome in outcomes):
        ignore_signals()
    for outcome in outcomes:
        say(summary_line(outcome))
    signals = {outcome.signal for outcome in outcomes} - {None}
    if signals:
        return INTERRUPTED if signals == {signal.SIGINT} else PREEMPTED
    return DIVERGED if any(outcome.status == "diverged" for outcome in outcomes) else 0


def human_share(env_id: str, score: float) -> float | None:
    """0 is random play's score, 1 the human tester's; None where neither was published."""
    from analysis.convert import atari_scores

    scores = atari_scores(env_id)
    return None if scores is None else scores.normalise(score)


def summary_line(outcome: Outcome) -> str:
    from analysis.units import score

    final = f"final evaluation {score(outcome.eval_scores[-1])}" if outcome.eval_scores else "not evaluated"
    return f"seed {outcome.seed}: {outcome.status}, {final}, in {outcome.folder}"


def demo_command(argv: Sequence[str]) -> int:
    """Train dqn on CartPole and on Atari Pong for two minutes, and write a report."""

    from agents.family import agent_config
    from analysis.report import write_report

    asked: Demo = parse(Demo, argv, "demo")
    command = ("playmeter", "demo", *argv)
    cartpole = run_config(
        "dqn",
        ["CartPole-v1"],
        agent_config("dqn", "classic"),
        seeds=range(4),
        budget="20k-steps",
        out=str(asked.out),
        command=command,
    )
    pong = run_config(
        "dqn",
        ["ALE/Pong-v5"],
        # The published settings wait 50,000 steps before they learn: here the update has to be seen at work.
        replace(agent_config("dqn", "atari"), learning_starts_steps=1_000, epsilon_decay_steps=2_000),
        seeds=range(1),
        budget="2500-steps",
        evals=2,
        eval_episodes=2,
        out=str(asked.out),
        command=command,
    )
    for config in (cartpole, pong):
        code = run_and_tell(config)
        if code:
            return code
    page = asked.out / "report.html"
    write_report([asked.out], page, None)
    print(f"\nreport:       {page}\nTensorBoard:  {asked.out}   (open it with: playmeter board {asked.out})")
    return 0
