"""playmeter: the front door. The command line, and the few names that a library user imports.

Every command imports what it needs when it runs, so that ``--help`` and ``report`` never wait for torch.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

import tyro
from tyro.conf import Positional

from agents.baselines import BaselineConfig
from agents.config import AgentConfig
from runs.foreign import ImportConfig

if TYPE_CHECKING:
    from runs.anyone import Meter, count_frames
    from runs.callback import MeterCallback
    from runs.config import RunConfig
    from runs.recorder import Recorder
    from runs.train import Outcome, Progress

__all__ = ["Meter", "MeterCallback", "count_frames", "main"]

BAD_INPUT, INTERRUPTED = 2, 130
DIVERGED = 1
NO_DISK, PREEMPTED = 74, 75  # EX_IOERR; EX_TEMPFAIL: a checkpoint is there, run the same with --resume

EXPORTS = {"Meter": "runs.anyone", "count_frames": "runs.anyone", "MeterCallback": "runs.callback"}


def __getattr__(name: str) -> Any:
    """What a library user imports, loaded at its first use."""
    if name not in EXPORTS:
        raise AttributeError(f"module 'playmeter' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(EXPORTS[name]), name)


Settings = TypeVar("Settings", bound=BaselineConfig)


# The options of each command: every field is a flag, its docstring the help.


@dataclass(frozen=True)
class TrainAny:
    """Train an agent on an environment: one run folder per seed, and TensorBoard curves inside it."""

    name: Annotated[Positional[str], tyro.conf.arg(metavar="AGENT")]
    """A member of the family or a baseline (`playmeter agents`)."""
    env: Annotated[Positional[str], tyro.conf.arg(metavar="ENV")]
    """An environment (`playmeter envs`)."""
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
    agent: AgentConfig = field(default_factory=AgentConfig)
    """The agent's settings; the defaults are those of AGENT on this kind of environment."""


@dataclass(frozen=True)
class TrainBaseline(TrainAny, Generic[Settings]):
    """Train an agent of stable-baselines3 under the same meter: one run folder per seed, and TensorBoard curves inside it."""

    sb3: Settings = field(kw_only=True)
    """The agent's settings under their own library's names; the defaults are those of AGENT on this kind of environment."""


@dataclass(frozen=True)
class Report:
    """One self-contained HTML page about everything found in the folders: what was learned and what it cost."""

    folders: Positional[tuple[Path, ...]] = (Path("results"),)
    """Run folders, or folders that hold some."""
    out: Path | None = None
    """The page; report.html unless only --json, --markdown or --figures is asked for."""
    json: str | None = None
    """Write the machine-readable summary (docs/json.md) to this file, or to standard output with `-`."""
    markdown: Path | None = None
    """Write the same content as Markdown, for a paper's appendix or a pull request."""
    figures: Path | None = None
    """Write every chart into this folder, as SVG, PNG and PDF."""
    price_usd_per_kwh: float | None = None
    """Your price of electricity, for the costs in money."""


@dataclass(frozen=True)
class Import(ImportConfig):
    """Result files of other people become run folders, with what is known and nothing else.

    sb3: folders of monitor.csv; tensorboard: events with CleanRL's or stable-baselines3's tags; dopamine: its events or published
    JSON; dqn_zoo: results.csv; csv: columns score and steps or frames, and if you have them seed, agent, env, wall_s, joules.
    """

    path: Annotated[Positional[Path], tyro.conf.arg(metavar="PATH")]
    """A file or a folder: every run in it is imported."""


@dataclass(frozen=True)
class Claims:
    """The quantitative claims of Vitay's lecture "Limits of deep learning", recomputed from published inputs."""

    ids: Positional[tuple[str, ...]] = ()
    """Some claims only, in full with inputs and sources, e.g. `S1 C4`."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Another value for an input, e.g. `--set alphago_power_w=0.5e6`; may be repeated."""
    json: str | None = None
    """Write everything to this file, or to standard output with `-`; analysis/claims/check.py describes it."""
    html: Path | None = None
    """Write one offline page with charts to this file."""
    markdown: str | None = None
    """Write a Markdown table to this file, or to standard output with `-`."""


@dataclass(frozen=True)
class Agents:
    """Without a name: the family tree, each member with what it adds to its parent. With a name: all its settings."""

    name: Positional[str | None] = None
    """One agent, e.g. `dueling`."""


@dataclass(frozen=True)
class Envs:
    """Every environment that can be played, or those whose name contains a word."""

    word: Positional[str] = ""
    """Part of a name, e.g. `pong`."""


@dataclass(frozen=True)
class Board:
    """TensorBoard on everything in a folder; stop it with Ctrl-C."""

    folder: Positional[Path] = Path("results")
    """A folder that holds run folders."""
    port: int = 6006
    """Where to serve, on this machine only."""


@dataclass(frozen=True)
class MeterScript:
    """Meter any command and its child processes: wall, CPU, memory, GPU, energy; frames where the script counts them."""

    out: Path = Path("results")
    """Folder for the run folder."""
    agent: str | None = None
    """What learns; the default is the name of the script."""
    env: str = "unknown"
    """What it plays, e.g. ALE/Pong-v5; frames become hours of play where playmeter knows its real-time rate."""
    seed: int = 0
    """The seed that the script uses: a report pools runs that differ in it alone."""
    device: str = "auto"
    """auto (the machine's one GPU if it has one), cpu or cuda:0."""


@dataclass(frozen=True)
class Demo:
    """dqn on CartPole-v1 (4 seeds) and on ALE/Pong-v5 (a first look, far too short to learn), then a report."""

    out: Path = Path("results/demo")
    """Folder for the run folders and the report."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Bad input is one line on stderr and code 2."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else BAD_INPUT
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"playmeter {version('playmeter')}")
        return 0
    command = COMMANDS.get(argv[0])
    if command is None:
        return fail(f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)}; `playmeter --help` lists them all")
    try:
        return command(argv[1:])
    except ValueError as error:
        if type(error).__name__ not in EXPECTED:  # a defect of ours: let it be seen
            raise
        return fail(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `playmeter envs | head`
        sys.stderr.close()
        return 0
    except Exception as error:
        if type(error).__name__ != "DiskError":
            raise
        print(f"playmeter: {error}", file=sys.stderr)
        return NO_DISK


# What a user can do wrong. By name, because importing the classes would import what raises them.
EXPECTED = {"InputError", "BudgetError", "ConfigError", "UnknownAgent", "UnknownEnv", "ReportError", "ClaimsError"}


def fail(message: str) -> int:
    print(f"playmeter: {message}", file=sys.stderr)
    return BAD_INPUT


def nearest(word: str, known: Any) -> str:
    import difflib

    near = difflib.get_close_matches(word, list(known), n=2, cutoff=0.5)
    return f": did you mean {' or '.join(near)}?" if near else ""


def usage() -> str:
    lines = [f"  {name:<8} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
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


def parse(kind: Any, argv: Sequence[str], command: str, default: Any = None) -> Any:
    """Read the options of a command. Raises InputError for one that it does not have."""
    from runs.config import InputError

    given = {} if default is None else {"default": default}
    asked, unknown = tyro.cli(kind, args=list(argv), prog=f"playmeter {command}", return_unknown_args=True, **given)
    if unknown:
        near = nearest(unknown[0], flags(asked)) or ":"
        raise InputError(f"unknown option {unknown[0]}{near} `playmeter {command} --help` lists them all")
    return asked


def flags(options: Any, prefix: str = "--") -> list[str]:
    """The names of all flags of a dataclass, those of its dataclasses too: ``--agent.n-step``."""
    found: list[str] = []
    for option in fields(options):
        if "Positional" in str(option.type):
            continue
        name, value = f"{prefix}{option.name.replace('_', '-')}", getattr(options, option.name)
        found += flags(value, f"{name}.") if is_dataclass(value) else [name]
    return found


def train_command(argv: Sequence[str]) -> int:
    """Train an agent on an environment, one run folder per seed."""
    from agents.baselines import BASELINES
    from agents.family import FAMILY

    positional = [word for word in argv[:2] if not word.startswith("-")]
    name = positional[0] if positional else "dqn"
    env = positional[1] if len(positional) > 1 else "CartPole-v1"
    asked_for_help = "-h" in argv or "--help" in argv
    if len(positional) < 2 and not asked_for_help:
        known = ", ".join([*FAMILY, *BASELINES])
        return fail(f"train needs an agent and an environment, e.g. `playmeter train {name} {env}`; agents: {known}")

    asked, settings, options = train_options(name, env, argv)
    return run_and_tell(
        run_config(
            asked.name,
            asked.env,
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
            command=("playmeter", "train", *argv),
        )
    )


def train_options(
    name: str, env: str, argv: Sequence[str]
) -> tuple[TrainAny, AgentConfig | BaselineConfig, dict[str, Literal["auto", "on", "off"]]]:
    """What was asked, the agent's settings, and the options that only the family's agents have."""
    from agents.baselines import baseline_config, is_baseline
    from agents.family import agent_config
    from envs import spec
    from runs.config import DOMAINS

    domain = DOMAINS[spec(env).kind]
    if is_baseline(name):
        baseline = TrainBaseline(name, env, sb3=baseline_config(name, domain))
        baseline = parse(TrainBaseline[type(baseline.sb3)], argv, "train", baseline)  # type: ignore[misc]
        return baseline, baseline.sb3, {}
    asked: Train = parse(Train, argv, "train", Train(name, env, agent=agent_config(name, domain)))
    return asked, asked.agent, {"compile": asked.compile}


def run_config(agent: str, env: str, settings: AgentConfig | BaselineConfig, seeds: Sequence[int], **options: Any) -> RunConfig:
    from runs.config import InputError, RunConfig

    if not seeds or min(seeds) < 0:
        raise InputError("--seeds must be at least 1 and --first-seed at least 0")
    return RunConfig(agent, env, settings, tuple(seeds), **options)


def run_and_tell(config: RunConfig) -> int:
    """Train with a progress line, then say what came of it."""
    from runs.train import train

    with ProgressLine(config) as line:
        outcomes = train(config, line.update, line.notice)
    for outcome in outcomes:
        print(summary_line(outcome))
    signals = {outcome.signal for outcome in outcomes} - {None}
    if signals:
        return INTERRUPTED if signals == {signal.SIGINT} else PREEMPTED
    return DIVERGED if any(outcome.status == "diverged" for outcome in outcomes) else 0


def summary_line(outcome: Outcome) -> str:
    from analysis.units import score

    final = f"final evaluation {score(outcome.eval_scores[-1])}" if outcome.eval_scores else "not evaluated"
    return f"seed {outcome.seed}: {outcome.status}, {final}, in {outcome.folder}"


class ProgressLine:
    """One line that tells how a training goes: live on a terminal, a plain line now and then where output is piped."""

    PLAIN_EVERY_S = 10.0

    def __init__(self, config: RunConfig) -> None:
        from rich.console import Console
        from rich.live import Live

        self.config = config
        self.console = Console(highlight=False)
        self.live = Live(console=self.console, transient=False, refresh_per_second=4) if self.console.is_terminal else None
        self.last_plain_s = float("-inf")
        # wall_s and fraction of the first report: setting up is no measure of speed
        self.first: tuple[float, float] | None = None

    def __enter__(self) -> ProgressLine:
        self.notice(
            f"training {self.config.agent} on {self.config.env}, {len(self.config.seeds)} seed(s), {self.config.budget} each"
        )
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def notice(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def update(self, progress: Progress) -> None:
        text = self.text(progress)
        if self.live is not None:
            from rich.text import Text

            self.live.update(Text(text))
        elif progress.status != "running" or progress.wall_s - self.last_plain_s >= self.PLAIN_EVERY_S:
            self.last_plain_s = progress.wall_s if progress.status == "running" else float("-inf")
            print(text, flush=True)

    def text(self, progress: Progress) -> str:
        from analysis import units

        if self.first is None or progress.wall_s < self.first[0]:  # a new group of seeds starts its own clock
            self.first = (progress.wall_s, progress.fraction)
        parts = [f"{progress.fraction:4.0%}", f"{units.count(progress.steps_per_s)} steps/s"]
        if progress.eval_score is not None:
            parts.append(f"score {units.score(progress.eval_score)}")
        elif progress.train_score is not None:
            parts.append(f"training score {units.score(progress.train_score)}")
        play = "no physical time" if progress.play_s is None else f"{units.duration(progress.play_s)} of human play"
        parts.append(f"{units.count(progress.frames)} frames ({play})")
        if progress.energy_method == "absent":
            parts.append("energy not known")
        else:
            sign = "about " if progress.energy_method == "estimated" else ""
            parts.append(f"{sign}{units.energy(progress.joules)} ({units.energy_range(progress.low_j, progress.high_j)})")
        if progress.status != "running":
            parts.append(f"{progress.status} after {units.duration(progress.wall_s)}")
        elif progress.fraction > self.first[1]:
            pace_s = (progress.wall_s - self.first[0]) / (progress.fraction - self.first[1])
            parts.append(f"{units.duration(pace_s * (1 - progress.fraction))} left")
        return "  ".join(parts)


def report_command(argv: Sequence[str]) -> int:
    """Write a comparison report of run folders: one HTML page, or JSON."""

    from analysis.report import write_report

    asked: Report = parse(Report, argv, "report")
    others = {"summary": asked.json, "markdown": asked.markdown, "figures": asked.figures}
    out = asked.out or (None if any(others.values()) else Path("report.html"))
    json_out = file_or_dash(asked.json)
    write_report(list(asked.folders), out, json_out, asked.price_usd_per_kwh, asked.markdown, asked.figures)
    for name, path in ({"report": out} | others).items():
        if path is not None and path != "-":
            print(f"{name}: {path}", file=sys.stderr if asked.json == "-" else sys.stdout)
    return 0


def meter_command(argv: Sequence[str]) -> int:
    """Meter a command of yours: playmeter meter [--out DIR] [--agent NAME] [--env ID] -- COMMAND ..."""
    split = list(argv).index("--") if "--" in argv else len(argv)
    asked: MeterScript = parse(MeterScript, argv[:split], "meter")
    command = list(argv[split + 1 :])
    if not command:
        return fail("meter needs a command after --, e.g. `playmeter meter -- python train.py`")

    from runs.config import ForeignConfig
    from runs.process import CommandError, run_metered

    named = asked.agent or script_name(command)
    try:
        code, recorder = run_metered(
            ForeignConfig(asked.out, named, asked.env, asked.seed, device=asked.device), command, ("playmeter", "meter", *argv)
        )
    except CommandError as error:
        print(f"playmeter: {error}", file=sys.stderr)
        return error.code
    print(metered_line(recorder), file=sys.stderr)  # standard output is the command's
    return code


def script_name(command: Sequence[str]) -> str:
    """``dqn`` of ``python -u dir/dqn.py --seed 1``; else the command's own name."""
    scripts = [word for word in command if word.endswith(".py")]
    return Path(scripts[0] if scripts else command[0]).stem


def metered_line(recorder: Recorder) -> str:
    from analysis import units

    line = recorder.last
    assert line is not None
    frames = "frames not counted" if line.lineage.frames is None else f"{units.count(line.lineage.frames)} frames"
    return (
        f"playmeter: {line.status} after {units.duration(line.wall_s)}, {units.duration(line.cpu_s)} of CPU, {frames}, "
        f"{units.energy(line.joules)} ({units.energy_range(line.low_j, line.high_j)}), in {recorder.path}"
    )


def import_command(argv: Sequence[str]) -> int:
    """Make run folders of other people's results, so that they join a report."""
    from runs.importing import import_runs

    if not argv or (argv[0].startswith("-") and not {"-h", "--help"} & set(argv)):
        return fail("import needs a file or folder first, e.g. `playmeter import logs/ --agent dqn`")
    asked: Import = parse(Import, argv, "import")
    folders, notices = import_runs(asked, ("playmeter", "import", *argv))
    for notice in notices:
        print(notice)
    for folder in folders:
        print(f"imported: {folder}")
    return 0


def claims_command(argv: Sequence[str]) -> int:
    """Check the numbers of a lecture on the limits of deep learning."""

    from analysis.claims.page import write_claims
    from analysis.claims.terminal import in_full, show

    asked: Claims = parse(Claims, argv, "claims")
    result = write_claims(asked.set, asked.ids, asked.html, file_or_dash(asked.json), file_or_dash(asked.markdown))
    written = [path for path in (asked.html, asked.json, asked.markdown) if path is not None]
    for path in written:
        if path != "-":
            print(f"claims: {path}", file=sys.stderr if "-" in written else sys.stdout)
    if not written and asked.ids:
        print(in_full(result))
    elif not written:
        show(result)
    return 0


def file_or_dash(target: str | None) -> Path | Literal["-"] | None:
    return "-" if target == "-" else Path(target) if target else None


def agents_command(argv: Sequence[str]) -> int:
    """List the agents as a family tree, or one agent's settings with their source."""

    from agents.baselines import is_baseline

    asked: Agents = parse(Agents, argv, "agents")
    if asked.name is None:
        print(f"{family_tree()}\n\n{baseline_list()}")
    else:
        print(baseline_page(asked.name) if is_baseline(asked.name) else agent_page(asked.name))
    return 0


def baseline_list() -> str:
    """The agents of other libraries, one line each."""
    from agents.baselines import BASELINES

    lines = [f"{entry.name}: {entry.implementation}\n    {entry.paper}" for entry in BASELINES.values()]
    return "\n".join(["baselines, trained by stable-baselines3 under the same meter:", *lines])


def baseline_page(name: str) -> str:
    """Everything about one baseline: class, paper, what to know, settings in each domain with their sources."""
    from agents.baselines import baseline, baseline_config

    entry = baseline(name)
    settings = {domain: asdict(baseline_config(name, domain)) for domain in entry.by_domain}
    rows = [f"  {'':<24}" + "".join(f"{domain:>16}" for domain in settings)]
    rows += [f"  {key:<24}" + "".join(f"{settings[domain][key]!s:>16}" for domain in settings) for key in settings["classic"]]
    notes = [f"  - {text}" for text in entry.notes]
    sources = [f"  {domain}: {source}" for domain, source in entry.sources.items()]
    head = [f"{entry.name}: {entry.implementation}", entry.paper, "", "to know:", *notes]
    return "\n".join(
        [*head, "", "sources (zoo: RL Baselines3 Zoo, hyperparams/):", *sources, "", "settings (--sb3.NAME):", *rows]
    )


def family_tree(name: str | None = None, depth: int = 0) -> str:
    """The members below ``name``, indented, with their visible differences."""
    from agents.family import children, differences

    lines: list[str] = []
    for entry in children(name):
        indent = "    " * depth
        lines.append(f"{indent}{entry.name}: {entry.idea}")
        lines.append(f"{indent}    {entry.paper}")
        if entry.parent is not None:
            lines += [f"{indent}    {domain}: {_settings(changes)}" for domain, changes in differences(entry).items()]
        lines.append(family_tree(entry.name, depth + 1))
    return "\n".join(line for line in lines if line)


def agent_page(name: str) -> str:
    """Everything about one agent: paper, deviations, settings in each domain, and where they come from."""
    from agents.family import DOMAINS as domains
    from agents.family import agent_config, differences, lineage, member

    entry = member(name)
    settings = {domain: asdict(agent_config(name, domain)) for domain in domains}
    own = {domain: differences(entry).get("all", {}) | differences(entry).get(domain, {}) for domain in domains}

    def cell(domain: str, key: str) -> str:
        return f"{settings[domain][key]!s}{'*' if key in own[domain] else ' '}"

    rows = [f"  {'':<26}" + "".join(f"{domain:>16} " for domain in domains)]
    rows += [f"  {key:<26}" + "".join(f"{cell(domain, key):>17}" for domain in domains) for key in settings["classic"]]
    deviations = [f"  - {text}" for text in entry.deviations] or ["  none"]
    sources = [f"  {it.name}: {it.paper}" for it in lineage(name)]
    sources += [f"  {it.name}, {domain}: {text}" for it in lineage(name) for domain, text in it.sources.items()]
    title = f"{entry.name}" + (f" (child of {entry.parent})" if entry.parent else "")
    return "\n".join(
        [
            title,
            entry.idea,
            "",
            "deliberate deviations:",
            *deviations,
            "",
            "settings (* differs from the parent's or is set anew):",
            *rows,
            "",
            "sources, nearest first:",
            *sources,
        ]
    )


def _settings(changes: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in changes.items())


def envs_command(argv: Sequence[str]) -> int:
    """List the environments with their real-time rate, threshold and protocols."""

    from envs import describe

    asked: Envs = parse(Envs, argv, "envs")
    rows = [row for row in describe() if asked.word.lower() in str(row["id"]).lower()]
    if not rows:
        return fail(f"no environment's name contains {asked.word!r}; `playmeter envs` lists them all")
    header = ("environment", "real time", "frames/step", "threshold", "time limit", "actions", "protocols")
    table = [header] + [
        (
            str(row["id"]),
            f"{row['frame_rate_hz']:g} Hz" if row["frame_rate_hz"] else "none",
            str(row["frames_per_step"]),
            "-" if row["reward_threshold"] is None else f"{row['reward_threshold']:g}",
            "-" if row["max_episode_steps"] is None else f"{row['max_episode_steps']} steps",
            str(row["actions"]),
            str(row["protocols"]),
        )
        for row in rows
    ]
    widths = [max(len(row[k]) for row in table) for k in range(len(header))]
    print("\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table))
    return 0


def board_command(argv: Sequence[str]) -> int:
    """Open TensorBoard on the run folders."""

    asked: Board = parse(Board, argv, "board")
    if not any(asked.folder.rglob("events.out.tfevents*")):
        return fail(f"{asked.folder} holds no TensorBoard curves: train first, or name the folder given to --out")
    import subprocess

    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(asked.folder), "--port", str(asked.port)]
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:  # TensorBoard got it too, and is closing
        return 0


def demo_command(argv: Sequence[str]) -> int:
    """Train dqn on CartPole and on Atari Pong for two minutes, and write a report."""

    from agents.family import agent_config
    from analysis.report import write_report

    asked: Demo = parse(Demo, argv, "demo")
    command = ("playmeter", "demo", *argv)
    cartpole = run_config(
        "dqn",
        "CartPole-v1",
        agent_config("dqn", "classic"),
        seeds=range(4),
        budget="20k-steps",
        out=str(asked.out),
        command=command,
    )
    pong = run_config(
        "dqn",
        "ALE/Pong-v5",
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


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": demo_command,
    "train": train_command,
    "report": report_command,
    "meter": meter_command,
    "import": import_command,
    "claims": claims_command,
    "board": board_command,
    "agents": agents_command,
    "envs": envs_command,
}

if __name__ == "__main__":
    sys.exit(main())
