"""How a task is played: the settings that make two scores comparable, or not. A run names the protocol that it used.

``noop_max``: an episode starts with 0 to ``noop_max`` no-op frames, drawn uniformly by the emulator's vector environment. The
papers draw 1 to 30; a start without a no-op is the difference. No FIRE is pressed for the agent at a start, as in dqn_zoo and
Dopamine: it has to learn that.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """Named settings of play and evaluation. Frames count the game after its no-op start, as ALE's own limit does."""

    name: str
    sticky_action_probability: float  # Atari: for each frame; MinAtar: for each step
    noop_max: int
    terminal_on_life_loss: bool
    """In training only: the return ends (discount 0) at a life loss and the game goes on. Evaluation plays full games."""
    eval_episodes: int
    eval_epsilon: float
    max_episode_frames: int | None  # None: the task's own time limit
    max_eval_episode_frames: int | None
    source: str


CONTROL = Protocol(
    name="control",
    sticky_action_probability=0.0,
    noop_max=0,
    terminal_on_life_loss=False,
    eval_episodes=10,
    eval_epsilon=0.0,
    max_episode_frames=None,
    max_eval_episode_frames=None,
    source="gymnasium's registered tasks; 10 greedy episodes are our choice",
)
"""Classic control and Box2D, as gymnasium registers them."""

MINATAR = Protocol(
    name="minatar",
    sticky_action_probability=0.1,
    noop_max=0,
    terminal_on_life_loss=False,
    eval_episodes=10,
    eval_epsilon=0.0,
    max_episode_frames=None,
    max_eval_episode_frames=None,
    source="Young and Tian 2019, arXiv 1903.03176: sticky actions 0.1, difficulty ramping on, training returns reported",
)
"""MinAtar's defaults with its minimal action sets (the -v1 ids). What the paper reports is training returns; the 10 evaluation
episodes are ours."""

NATURE = Protocol(
    name="nature",
    sticky_action_probability=0.0,
    noop_max=30,
    terminal_on_life_loss=True,
    eval_episodes=30,
    eval_epsilon=0.05,
    max_episode_frames=108_000,
    max_eval_episode_frames=18_000,
    source="Mnih et al. 2015, Methods: 30 episodes of up to 5 min, random no-op starts, epsilon 0.05; training cap 30 min: dqn_zoo",
)
"""DQN as published in Nature."""

STICKY = Protocol(
    name="sticky",
    sticky_action_probability=0.25,
    noop_max=0,
    terminal_on_life_loss=False,
    eval_episodes=10,
    eval_epsilon=0.001,
    max_episode_frames=108_000,
    max_eval_episode_frames=108_000,
    source="Machado et al. 2018, arXiv 1709.06009; cap of 27,000 steps and epsilon 0.001 from Dopamine (the paper: 18,000 frames)",
)
"""Sticky actions, no life signal, no no-ops. What the paper reports is training returns; the 10 evaluation episodes are ours."""

ATARI100K = Protocol(
    name="atari100k",
    sticky_action_probability=0.0,
    noop_max=30,
    terminal_on_life_loss=True,
    eval_episodes=100,
    eval_epsilon=0.001,
    max_episode_frames=108_000,
    max_eval_episode_frames=108_000,
    source="Dopamine labs/atari_100k (DER.gin, SPR.gin): 100 episodes, epsilon 0.001, no sticky actions, life loss is terminal",
)
"""400,000 frames of training. Dopamine draws 0 to 29 no-op steps of 4 frames, we draw 0 to 30 frames."""

PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (CONTROL, MINATAR, NATURE, STICKY, ATARI100K)}
