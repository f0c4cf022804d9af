"""``make``: from an environment's id to a World."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

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
        num_threads: of the Atari emulator; 0: as many as lanes or cores, whichever is less.

    Raises:
        UnknownEnv: no such environment, or the environment has no such protocol.
        ValueError: the seeds do not fit the lanes, or the games not each other.
    """
    if not isinstance(env_id, str):
        return _several(list(env_id), num_envs, seeds, protocol=protocol, evaluation=evaluation, num_threads=num_threads)
    env_spec = spec(env_id)
    rules = protocol_of(env_spec, protocol)
    seeds = lane_seeds(seeds, num_envs) if isinstance(seeds, int) else [int(s) for s in seeds]
    if num_envs < 1 or len(seeds) != num_envs or min(seeds) < 0:
        raise ValueError(f"{num_envs} lanes need as many seeds, each >= 0, got {seeds}")
    if env_spec.kind == "atari":
        from envs.atari import AtariWorld

        return AtariWorld(env_spec, rules, seeds, evaluation, num_threads)
    if env_spec.kind == "minatar":
        from envs.minatar import minatar_world

        return minatar_world(env_spec, rules, seeds, evaluation)
    from envs.control import control_world

    return control_world(env_spec, rules, seeds, evaluation)


def _several(
    env_ids: list[str], num_envs: int, seeds: int | Sequence[int], *, protocol: str | None, evaluation: bool, num_threads: int
) -> World:
    """Lanes of these games: equal ones that follow each other are one World of their own."""
    parts = list(_stretches(env_ids))
    seeds = lane_seeds(seeds, num_envs) if isinstance(seeds, int) else list(seeds)
    if not len(env_ids) == num_envs == len(seeds):
        raise ValueError(f"{num_envs} lanes need as many games and seeds, got {len(env_ids)} and {len(seeds)}")
    threads = num_threads or (max(1, (os.cpu_count() or 1) // len(parts)) if len(parts) > 1 else 0)
    worlds = [
        make(name, lanes.stop - lanes.start, seeds[lanes], protocol=protocol, evaluation=evaluation, num_threads=threads)
        for name, lanes in parts
    ]
    if len(worlds) == 1:
        return worlds[0]
    from envs.several import SeveralGames

    return SeveralGames(worlds)


def _stretches(names: list[str]) -> Iterator[tuple[str, slice]]:
    """Where equal names follow each other: the name, and where."""
    first = 0
    for k in range(1, len(names) + 1):
        if k == len(names) or names[k] != names[first]:
            yield names[first], slice(first, k)
            first = k


def lane_seeds(seed: int, num_envs: int) -> list[int]:
    """Independent 31-bit seeds, one a lane; the first k are the same for every ``num_envs`` >= k."""
    children = np.random.SeedSequence(seed).spawn(num_envs)
    return [int(child.generate_state(1)[0]) >> 1 for child in children]
