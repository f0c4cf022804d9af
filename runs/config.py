"""What a run is asked to be: one plain-data RunConfig, the same for the command line, a test and a remote task."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agents.baselines import BaselineConfig
from agents.config import AgentConfig
from runs.energy.source import EnergyOptions

DOMAINS = {"control": "classic", "minatar": "minatar", "atari": "atari"}
"""An environment's kind -> the domain whose settings an agent has there."""


@dataclass(frozen=True)
class RunConfig:
    """S runs of one agent on one environment, one per seed."""

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
    threads: int | None = None
    """CPU threads of torch; None lets playmeter choose: one for a single small network, more for several seeds or convolutions."""
    heartbeat_s: float = 2.0
    """Seconds between ledger lines, at most 5."""
    cpu_watts: str | None = None
    """The processor's draw, ``70`` or ``65:85``, where nothing measures it."""
    wall_meter: str | None = None
    """A CSV that a wall meter's logger writes while the run goes on."""
    gpu_share: float = 1.0
    """This process's part of the GPU, where several runs of ours share one."""
    command: tuple[str, ...] = field(default_factory=tuple)
    """The command line that asked for it, for ``run.json``."""

    @property
    def energy(self) -> EnergyOptions:
        return EnergyOptions(self.cpu_watts, None if self.wall_meter is None else Path(self.wall_meter), self.gpu_share)


class InputError(ValueError):
    """What the user asked for cannot be done; the message is one line that names the fault and the way out."""
