"""What a run is asked to be: one plain-data RunConfig, the same for the command line, a test and a remote task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agents.baselines import BaselineConfig
from agents.config import AgentConfig
from runs.schema import MOST_HEARTBEAT_S, MOST_SEED

if TYPE_CHECKING:
    from runs.energy.source import EnergyOptions

DOMAINS = {"control": "classic", "minatar": "minatar", "atari": "atari"}
"""An environment's kind -> the domain whose settings an agent has there."""


@dataclass(frozen=True)
class RunConfig:
    """S runs of one agent on each environment, one per seed."""

    agent: str
    env: str
    agent_config: AgentConfig | BaselineConfig
    seeds: tuple[int, ...]
    budget: str = "50k-steps"
    protocol: str | None = None
    """How the environment is played; None is its default. Scores under two protocols are not comparable."""
    evals: int = 10
    """Evaluations, spread evenly over the budget; the last one is of the final agent."""
    eval_episodes: int | None = None
    """Episodes per evaluation and seed; None is the protocol's number."""
    out: str = "results"
    device: str = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    """On a GPU: auto does without them where they cannot be recorded, on does not."""
    threads: int | None = None
    """CPU threads of torch; None lets playmeter choose: one for a single small network, more for several seeds or convolutions."""
    heartbeat_s: float = 2.0
    """Seconds between ledger lines, at most 5."""
    checkpoint_every: str = "10min"
    """A budget: how much is lost at most where the run is killed. What is learned does not depend on it."""
    resume: bool = False
    """Continue the unfinished run of the same configuration, where there is one."""
    cpu_watts: str | None = None
    """The processor's draw, ``70`` or ``65:85``, where nothing measures it."""
    wall_meter: str | None = None
    """A CSV that a wall meter's logger writes while the run goes on."""
    gpu_share: float = 1.0
    """This process's part of the GPU, where several runs of ours share one."""
    command: tuple[str, ...] = field(default_factory=tuple)
    """The command line that asked for it, for ``run.json``."""
    more_envs: tuple[str, ...] = ()
    """Trained by the same command beside ``env``, of the same kind: on a GPU Atari's games side by side, else one after another."""

    @property
    def envs(self) -> tuple[str, ...]:
        return self.env, *self.more_envs

    @property
    def energy(self) -> EnergyOptions:
        from runs.energy.source import EnergyOptions

        return EnergyOptions(self.cpu_watts, None if self.wall_meter is None else Path(self.wall_meter), self.gpu_share)


class InputError(ValueError):
    """What the user asked for cannot be done; the message is one line that names the fault and the way out."""


class DiskError(Exception):
    """A run had to stop because its folder cannot be written any more; what was there stays. The message is one line."""


@dataclass(frozen=True)
class ForeignConfig:
    """What the user says about a loop that is not ours, which is metered and not run."""

    out: Path
    agent: str
    env: str
    seed: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    protocol: str | None = None
    frame_rate_hz: float | None = None
    device: str | None = None
    flops_per_step: int | None = None
    flops_per_update: int | None = None
    tensorboard: bool = False
    heartbeat_s: float = 2.0
    cpu_watts: str | None = None
    wall_meter: Path | None = None
    gpu_share: float = 1.0

    @property
    def energy(self) -> EnergyOptions:
        from runs.energy.source import EnergyOptions

        return EnergyOptions(self.cpu_watts, self.wall_meter, self.gpu_share)

    def check(self) -> None:
        """Raise InputError for what no run folder can hold."""
        for name, text in (("agent", self.agent), ("env", self.env)):
            if not isinstance(text, str) or not text.strip() or Path(text).is_absolute() or ".." in Path(text).parts:
                raise InputError(f"{name} must be a name that can be a folder, not {text!r}")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed <= MOST_SEED:
            raise InputError(f"seed must be a whole number from 0 to 2^63 - 1, not {self.seed!r}")
        if not 0 < self.heartbeat_s <= MOST_HEARTBEAT_S:
            raise InputError(f"heartbeat_s must lie between 0 and {MOST_HEARTBEAT_S:g} s, not {self.heartbeat_s!r}")
        for name in ("frame_rate_hz", "flops_per_step", "flops_per_update"):
            number = getattr(self, name)
            if number is not None and not 0 < number < float("inf"):
                raise InputError(f"{name} must be a positive number, not {number!r}")
        try:
            json.dumps(dict(self.config), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"config must be plain data that JSON can hold: {error}") from error
        check_energy(self.energy)


def check_seeds(seeds: Sequence[int], agent: AgentConfig | BaselineConfig) -> None:
    """Raise InputError for seeds that no run can have."""
    most, name = (
        (MOST_SEED, "2^63 - 1") if isinstance(agent, AgentConfig) else (2**32 - 1, "2^32 - 1 for stable-baselines3's agents")
    )
    if not seeds or min(seeds) < 0 or max(seeds) > most:
        raise InputError(f"--seeds must be at least 1 and --first-seed at least 0, and no seed more than {name}")


def check_energy(energy: EnergyOptions) -> None:
    """Raise InputError for what no run can be metered with. Asked once: what goes wrong later is a note, and no end of a training."""
    from runs.energy import check_options

    try:
        check_options(energy)
    except ValueError as error:
        raise InputError(str(error)) from error
