"""Count the frames of random play a second time, without the World.

The second count replays the same seed and actions through ale-py's vector environment in its own NEXT_STEP mode, where it resets
itself in a dummy step, and reads the emulator's frame counter. What the counter counts of the boot (menu presses) is measured
on a plain ALEInterface and taken off.

    python -m tests.envs.recount --episodes 20 --games Pong Breakout
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv
from numpy.typing import NDArray

from envs import PROTOCOLS, make
from envs.games import games


@dataclass(frozen=True)
class Recount:
    """Both counts of one game. All frames include the no-op starts, the one of the episode that was just begun too."""

    game: str
    episodes: int
    steps: int
    noop_frames: int
    cut_steps: int  # steps that played fewer than 4 frames
    ledger_frames: int
    emulator_frames: int
    same_episodes: bool  # rewards and episode frames agree, episode for episode

    @property
    def equal(self) -> bool:
        return self.same_episodes and self.ledger_frames == self.emulator_frames


def recount(game: str, episodes: int, seed: int = 1, protocol: str = "nature") -> Recount:
    """Play ``episodes`` random episodes of ``ALE/<game>-v5`` under the ledger, then count them again."""
    actions, ledger, cut, total = _play(game, episodes, seed, protocol)
    recounted, noops, emulator_total = _replay(game, actions, seed, protocol)
    return Recount(
        game=game,
        episodes=len(ledger),
        steps=len(actions),
        noop_frames=noops,
        cut_steps=cut,
        ledger_frames=total,
        emulator_frames=emulator_total,
        same_episodes=ledger == recounted,
    )


def menu_frames(rom: str) -> tuple[int, int]:
    """How far ALE's counter advances by loading the ROM, and by one reset, without sticky actions."""
    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(roms.get_rom_path(rom))
    loaded = ale.getFrameNumber()
    ale.reset_game()
    return loaded, ale.getFrameNumber() - loaded


def _play(game: str, episodes: int, seed: int, protocol: str) -> tuple[NDArray[np.int64], list[tuple[int, float]], int, int]:
    """Returns the actions, (frames, return) of each episode, the number of cut steps and the ledger's total."""
    world = make(f"ALE/{game}-v5", 1, [seed], protocol=protocol)
    rng = np.random.default_rng(seed)
    world.reset()
    actions: list[int] = []
    ended: list[tuple[int, float]] = []
    cut, score = 0, 0.0
    while len(ended) < episodes:
        actions.append(int(rng.integers(world.env_spec.num_actions)))
        _, reward, _, _, info = world.step(np.array(actions[-1:]))
        score += float(reward[0])
        cut += int(info["frames"][0] < 4)
        if "final_obs" in info:
            ended.append((int(info["episode_frames"][0]), score))
            score = 0.0
    total = int(world.frames[0])
    world.close()
    return np.array(actions), ended, cut, total


def _replay(game: str, actions: NDArray[np.int64], seed: int, protocol: str) -> tuple[list[tuple[int, float]], int, int]:
    """Returns (frames, return) of each episode, all no-op frames and the emulator's total, menu presses taken off."""
    rom, rules = games()[f"ALE/{game}-v5"].rom, PROTOCOLS[protocol]
    env = AtariVectorEnv(
        rom,
        1,
        repeat_action_probability=rules.sticky_action_probability,
        noop_max=rules.noop_max + 1,
        use_fire_reset=False,
        reward_clipping=False,
    )
    loaded, per_reset = menu_frames(rom)
    _, info = env.reset(seed=np.array([seed]))
    menu = loaded + per_reset
    start = 0
    noops = int(info["frame_number"][0]) - menu
    ended: list[tuple[int, float]] = []
    score = 0.0
    for action in actions:
        _, reward, terminated, truncated, info = env.step(np.array([action]))
        score += float(reward[0])
        if terminated[0] or truncated[0]:
            end = int(info["frame_number"][0]) - menu
            ended.append((end - start, score))
            start, score = end, 0.0
            _, _, _, _, info = env.step(np.array([0]))  # the dummy step: it resets
            menu += per_reset
            noops += int(info["frame_number"][0]) - menu - end
    return ended, noops, int(info["frame_number"][0]) - menu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--games", nargs="+", default=["Pong", "Breakout"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--protocol", choices=["nature", "sticky", "atari100k"], default="nature")
    args = parser.parse_args()
    print(
        "game             episodes   steps  cut steps  no-op frames  steps x 4 + no-ops  ledger frames  emulator frames  equal"
    )
    for game in args.games:
        r = recount(game, args.episodes, args.seed, args.protocol)
        print(
            f"{r.game:<16} {r.episodes:>8} {r.steps:>7} {r.cut_steps:>10} {r.noop_frames:>13} "
            f"{r.steps * 4 + r.noop_frames:>19} {r.ledger_frames:>14} {r.emulator_frames:>16}  {'yes' if r.equal else 'NO'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
