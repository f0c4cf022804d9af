"""What can be played, and the facts about it that the meter and the report need."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache

from envs.games import games
from envs.protocols import PROTOCOLS, Protocol


class UnknownEnv(ValueError):
    """No such environment or protocol; the message is one line that names the nearest valid choice."""


@dataclass(frozen=True)
class EnvSpec:
    """The facts about one environment."""

    id: str
    kind: str  # "control", "minatar" or "atari"
    frame_rate_hz: float | None  # None: the task has no physical time
    frames_per_step: int  # nominal; World.frames is exact
    reward_threshold: float | None  # the mean return at which gymnasium calls the task solved
    max_episode_steps: int | None
    protocols: tuple[str, ...]  # the default first
    source: str
    num_actions: int


def _control(env_id: str, rate: float | None, threshold: float, limit: int, actions: int, source: str) -> EnvSpec:
    return EnvSpec(env_id, "control", rate, 1, threshold, limit, ("control",), source, actions)


def _minatar(name: str, actions: int) -> EnvSpec:
    source = "MinAtar 1.0.15 defines no game clock; minimal action set, difficulty ramping"
    return EnvSpec(f"MinAtar/{name}-v1", "minatar", None, 1, None, None, ("minatar",), source, actions)


_CONTROL = (
    _control("CartPole-v1", 50.0, 475.0, 500, 2, "gymnasium cartpole.py: tau = 0.02 s; threshold and limit from its registry"),
    _control("Acrobot-v1", 5.0, -100.0, 500, 3, "gymnasium acrobot.py: dt = 0.2 s (render_fps 15 is not physics)"),
    _control("MountainCar-v0", None, -110.0, 200, 3, "gymnasium mountain_car.py: the dynamics have no unit of time"),
    _control("LunarLander-v3", 50.0, 200.0, 1000, 4, "gymnasium lunar_lander.py: FPS = 50, the Box2D world steps 1/FPS"),
)
_MINATAR = (
    _minatar("Asterix", 5),
    _minatar("Breakout", 3),
    _minatar("Freeway", 3),
    _minatar("Seaquest", 6),
    _minatar("SpaceInvaders", 4),
)
ATARI_PROTOCOLS = ("nature", "sticky", "atari100k")


@cache
def _specs() -> dict[str, EnvSpec]:
    atari = [
        EnvSpec(
            id=env_id,
            kind="atari",
            frame_rate_hz=game.frame_rate_hz,
            frames_per_step=4,
            reward_threshold=None,
            max_episode_steps=27_000,
            protocols=ATARI_PROTOCOLS,
            source=f"{game.display_format} ROM: ALE Console::getFrameRate; 108,000 frames: ale_py/registration.py",
            num_actions=game.actions,
        )
        for env_id, game in games().items()
    ]
    return {s.id: s for s in (*_CONTROL, *_MINATAR, *atari)}


def all_specs() -> list[EnvSpec]:
    """Control tasks, MinAtar games, and every single-player game whose ROM ships with ale-py."""
    return list(_specs().values())


def spec(env_id: str) -> EnvSpec:
    """The facts about ``env_id``. Raises UnknownEnv with the nearest valid ids."""
    try:
        return _specs()[env_id]
    except KeyError:
        raise UnknownEnv(f"unknown environment {env_id!r}{_did_you_mean(env_id)}") from None


def relative(env_id: str) -> EnvSpec | None:
    """The facts about a game under any of its names: ``PongNoFrameskip-v4``, ``Pong-v4`` and ``ALE/Pong-v5`` are one game with one
    real-time rate. None for what is not known."""
    if env_id in _specs():
        return _specs()[env_id]
    game = re.fullmatch(r"(\w+?)(-ram)?(NoFrameskip|Deterministic)?-v[04]", env_id)  # the names of ale_py/registration.py
    return _specs().get(f"ALE/{game[1]}-v5") if game else None


def protocol_of(env: EnvSpec, name: str | None) -> Protocol:
    """The named protocol, or the environment's default. Raises UnknownEnv where the environment has no such protocol."""
    if name is None:
        return PROTOCOLS[env.protocols[0]]
    if name not in env.protocols:
        raise UnknownEnv(f"protocol {name!r} does not apply to {env.id}: choose {' or '.join(env.protocols)}")
    return PROTOCOLS[name]


def describe() -> list[dict[str, object]]:
    """One row an environment, for people: the columns of ``playmeter envs``."""
    return [
        {
            "id": s.id,
            "kind": s.kind,
            "frame_rate_hz": s.frame_rate_hz,
            "frames_per_step": s.frames_per_step,
            "reward_threshold": s.reward_threshold,
            "max_episode_steps": s.max_episode_steps,
            "actions": s.num_actions,
            "protocols": ", ".join(s.protocols),
        }
        for s in all_specs()
    ]


def _did_you_mean(env_id: str) -> str:
    """The three nearest ids, by the whole id or by the bare name ("breakout" finds both Breakouts)."""
    query, bare_query = env_id.lower(), _bare(env_id)
    likeness = {known: max(_ratio(query, known.lower()), _ratio(bare_query, _bare(known))) for known in _specs()}
    best = sorted((k for k in likeness if likeness[k] > 0.6), key=lambda k: -likeness[k])[:3]
    return f": did you mean {' or '.join(best)}?" if best else ": see 'playmeter envs' for all ids"


def _bare(env_id: str) -> str:
    """The name alone: "ALE/Breakout-v5" -> "breakout"."""
    return env_id.lower().split("/")[-1].split("-v")[0]


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()
