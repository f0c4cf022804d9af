"""``playmeter meter`` and ``playmeter import``: what others train, or have trained."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from cli.parsing import parse
from runs.config import ForeignConfig, InputError
from runs.foreign import ImportConfig

if TYPE_CHECKING:
    from runs.recorder import Recorder


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
    cpu_watts: str | None = None
    """Your processor's draw in watts while this runs, as 70 or 65:85; used where its own counters (RAPL) cannot be read."""
    wall_meter: Path | None = None
    """A CSV that your wall meter's logger is writing: time (UTC, ISO 8601 or seconds since 1970) and watts, joules or kwh."""
    gpu_share: float = 1.0
    """This command's part of the GPU where several share one, e.g. 0.5."""


@dataclass(frozen=True)
class Import(ImportConfig):
    """Result files of other people become run folders, with what is known and nothing else.

    sb3: folders of monitor.csv; tensorboard: events with CleanRL's or stable-baselines3's tags; dopamine: its events or published
    JSON; dqn_zoo: results.csv; csv: columns score and steps or frames, and if you have them seed, agent, env, wall_s, joules.
    """

    path: Annotated[Positional[Path], tyro.conf.arg(metavar="PATH")]
    """A file or a folder: every run in it is imported."""


def meter_command(argv: Sequence[str]) -> int:
    """Meter a command of yours: playmeter meter [--out DIR] [--agent NAME] [--env ID] -- COMMAND ..."""
    split = list(argv).index("--") if "--" in argv else len(argv)
    asked: MeterScript = parse(MeterScript, argv[:split], "meter")
    command = list(argv[split + 1 :])
    if not command:
        raise InputError("meter needs a command after --, e.g. `playmeter meter -- python train.py`")

    from runs.process import CommandError, run_metered

    config = ForeignConfig(
        asked.out, asked.agent or script_name(command), asked.env, asked.seed, device=asked.device,
        cpu_watts=asked.cpu_watts, wall_meter=asked.wall_meter, gpu_share=asked.gpu_share,
    )  # fmt: skip
    try:
        code, recorder = run_metered(config, command, ("playmeter", "meter", *argv))
    except CommandError as error:
        print(f"playmeter: {error}", file=sys.stderr)
        return error.code
    for text in (*recorder.meter.notes, metered_line(recorder)):  # standard output is the command's
        print(f"playmeter: {text}", file=sys.stderr)
    return code


def script_name(command: Sequence[str]) -> str:
    """``dqn`` of ``python -u dir/dqn.py --seed 1``; else the command's own name."""
    scripts = [word for word in command if word.endswith(".py")]
    return Path(scripts[0] if scripts else command[0]).stem


def metered_line(recorder: Recorder) -> str:
    from analysis import units
    from runs.schema import ABSENT, total_energy

    line = recorder.last
    assert line is not None
    frames = "frames not counted" if line.lineage.frames is None else f"{units.count(line.lineage.frames)} frames"
    spent = total_energy(line.energy)
    energy = (
        f"{units.energy(spent.joules)} ({units.energy_range(spent.joules, spent.low_j, spent.high_j)})"
        if spent.method != ABSENT
        else "energy not known"
    )
    return (
        f"{line.status} after {units.duration(line.wall_s)}, {units.duration(line.cpu_s)} of CPU, {frames}, {energy}, "
        f"in {recorder.path}"
    )


def import_command(argv: Sequence[str]) -> int:
    """Make run folders of other people's results, so that they join a report."""
    from runs.importing import import_runs

    if not argv or (argv[0].startswith("-") and not {"-h", "--help"} & set(argv)):
        raise InputError("import needs a file or folder first, e.g. `playmeter import logs/ --agent dqn`")
    asked: Import = parse(Import, argv, "import")
    folders, notices = import_runs(asked, ("playmeter", "import", *argv))
    for notice in notices:
        print(notice)
    for folder in folders:
        print(f"imported: {folder}")
    return 0
