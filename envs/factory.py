"""``make``: from an environment's id to a World."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.registry import protocol_of, spec
from envs.world import World


def make(
    env_id: str | Sequence[str],
    num_envs: int,
    seeds: int | Sequence[int],
    *,
    protocol: str | None = None,
    evaluation: bool = False,
    num_threads: int = 0,
) -> World:
    """A World of ``num_envs`` lanes.

    Args:
        env_id: one of ``all_specs()``, or one a lane: games with the same shape of observation can be played side by side.
        num_envs: the number of lanes L.
        seeds: one seed a lane, each >= 0; a lane's episodes follow from its own seed and actions alone. An int gives
            ``lane_seeds(seed, num_envs)``.
        protocol: None is the environment's default, ``spec(env_id).protocols[0]``.
        evaluation: the protocol's cap for evaluation games instead of the one for training.
        num_threads: of each Atari game; 0: as many as it has lanes, or the machine cores, whichever is less. Where games have more than
            there are cores, those that are slow take the cores that others leave.

    Raises:
        UnknownEnv: no such environment, or the environment has no such protocol.
        ValueError: the seeds do not fit the lanes, or the games not each other.
    """
    env_specs = [spec(name) for name in ([env_id] * num_envs if isinstance(env_id, str) else env_id)]
    given = [seeds] * num_envs if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not len(env_specs) == len(given) == num_envs > 0 or min(given) < 0:
        raise ValueError(f"{num_envs} lanes need as many games and as many seeds, each >= 0: got {len(env_specs)} and {seeds}")
    seeds = lane_seeds(seeds, num_envs) if isinstance(seeds, int) else given
    if len({env_spec.kind for env_spec in env_specs}) > 1:
        raise ValueError(
            f"{' and '.join(dict.fromkeys(s.id for s in env_specs))} cannot be played side by side: their kinds differ"
        )
    rules = protocol_of(env_specs[0], protocol)
    if env_specs[0].kind == "atari":
        from envs.atari import AtariWorld

        return AtariWorld(env_specs, rules, seeds, evaluation, num_threads)
    if env_specs[0].kind == "minatar":
        from envs.minatar import minatar_world

        return minatar_world(env_specs, rules, seeds, evaluation)
    from envs.control import control_world

    return control_world(env_specs, rules, seeds, evaluation)


def lane_seeds(seed: int, num_envs: int) -> list[int]:
    """Independent 31-bit seeds, one a lane; the first k are the same for every ``num_envs`` >= k."""
    children = np.random.SeedSequence(seed).spawn(num_envs)
    return [int(child.generate_state(1)[0]) >> 1 for child in children]
