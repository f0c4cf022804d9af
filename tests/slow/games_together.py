"""What a step of many Atari games side by side costs beside their emulators.

    python -m tests.slow.games_together [--games 26] [--lanes 1] [--steps 200]

Random play under `atari100k`. Together: a whole step, waiting for the emulators. With a pause between sending the actions and taking the
answer: what is left of taking it when every emulator has long been done, which is Python and copying. Steps in which a game was over
are left out; medians, in milliseconds. Then how long making the games and their first reset took.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np

from envs import SUITES, World, make


def medians(world: World, steps: int, pause_s: float) -> tuple[float, float, float]:
    """Milliseconds of sending, of receiving, and of CPU time in all threads, a step."""
    rng, seen = np.random.default_rng(0), []
    for _ in range(steps):
        actions = rng.integers(0, world.num_actions)
        cpu, began = time.process_time(), time.perf_counter()
        world.send(actions)
        sent = time.perf_counter()
        time.sleep(pause_s)
        paused = time.perf_counter()
        _, _, terminated, truncated, _ = world.recv()
        if not (terminated | truncated).any():
            seen.append((sent - began, time.perf_counter() - paused, time.process_time() - cpu))
    sending, receiving, cpu_s = np.median(np.array(seen), axis=0) * 1e3
    return float(sending), float(receiving), float(cpu_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=26)
    parser.add_argument("--lanes", type=int, default=1, help="of each game")
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args()
    games = [game for game in SUITES["atari26"][: asked.games] for _ in range(asked.lanes)]
    began = time.perf_counter()
    world = make(games, len(games), 0, protocol="atari100k")
    made = time.perf_counter()
    world.reset()
    print(
        f"{len(games)} emulators on {os.cpu_count()} cores: made in {made - began:.1f} s, reset in {time.perf_counter() - made:.1f} s"
    )
    emulated_ms = medians(world, asked.steps, 0.0)[2]
    for name, pause_s in (("together", 0.0), ("with a pause", 2e-3 * emulated_ms / min(os.cpu_count() or 1, len(games)))):
        sending, receiving, cpu = medians(world, asked.steps, pause_s)
        print(f"{name}: sending {sending:.2f} ms, receiving {receiving:.2f} ms, CPU time of all threads {cpu:.1f} ms")
    world.close()


if __name__ == "__main__":
    main()
