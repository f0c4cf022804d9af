"""Several games side by side play, count and come back as each does alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from envs import World, make

STEPS, RESEED_STEPS = 400, 100
ATARI = ["ALE/Berzerk-v5", "ALE/Breakout-v5", "ALE/Breakout-v5"]  # their boots differ
MINATAR = ["MinAtar/Asterix-v1", "MinAtar/Breakout-v1", "MinAtar/Breakout-v1"]


def opened(games: list[str], seeds: list[int], protocol: str | None = None) -> World:
    world = make(games, len(games), seeds, protocol=protocol)
    world.reseed_steps = RESEED_STEPS
    return world


def play(world: World, actions: NDArray[np.int64]) -> list[tuple[NDArray[np.generic], ...]]:
    seen: list[tuple[NDArray[np.generic], ...]] = [(world.reset()[0],)]
    for row in actions:
        obs, reward, terminated, truncated, info = world.step(row % world.num_actions)
        done = terminated | truncated
        final = np.where(done.reshape(-1, *[1] * (obs.ndim - 1)), info["final_obs"], 0) if done.any() else np.zeros_like(obs)
        played = np.where(done, info["episode_frames"], 0) if done.any() else np.zeros(world.num_envs)
        seen.append((obs, reward, terminated, truncated, info["frames"], final, played))
    return seen


@pytest.mark.parametrize(("games", "protocol"), [(ATARI, "nature"), (ATARI, "sticky"), (MINATAR, None)])
def test_a_lane_beside_other_games_plays_counts_and_comes_back_as_it_does_alone(games: list[str], protocol: str | None) -> None:
    actions = np.random.default_rng(0).integers(0, 18, (STEPS, 3))
    together = opened(games, [5, 6, 7], protocol)
    first, others = opened(games[:1], [5], protocol), opened(games[1:], [6, 7], protocol)
    seen = play(together, actions)
    apart = zip(play(first, actions[:, :1]), play(others, actions[:, 1:]), strict=True)
    for step, (one, two) in zip(seen, apart, strict=True):
        for ours, *theirs in zip(step, one, two, strict=True):
            np.testing.assert_array_equal(ours, np.concatenate(theirs))
    for counter in ("frames", "boot_frames"):
        np.testing.assert_array_equal(
            getattr(together, counter), np.concatenate([getattr(world, counter) for world in (first, others)])
        )
    assert together.name == ", ".join(dict.fromkeys(games))

    again = opened(games, [5, 6, 7], protocol)
    np.testing.assert_array_equal(again.load_state_dict(together.state_dict()), seen[-1][0])
    np.testing.assert_array_equal(again.frames, together.frames)
    more = np.random.default_rng(1).integers(0, 18, (20, 3)) % together.num_actions
    for row in more:
        for ours, theirs in zip(again.step(row)[:4], together.step(row)[:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("games", [ATARI, MINATAR])
def test_a_game_that_rests_is_stepped_no_further_and_the_others_play_on(games: list[str]) -> None:
    world, alone = opened(games, [5, 6, 7]), opened(games[1:], [6, 7])
    np.testing.assert_array_equal(world.reset()[0][1:], alone.reset()[0])
    assert not world.rest(np.array([False, True, False])).any(), "one lane of its game is needed"
    np.testing.assert_array_equal(world.rest(np.array([True, True, False])), [True, False, False])
    booked, ended = (world.frames[0], world.boot_frames[0]), False
    for row in np.random.default_rng(0).integers(0, 18, (STEPS, 3)):
        step, expected = world.step(row % world.num_actions), alone.step(row[1:] % alone.num_actions)
        for ours, theirs in zip((*step[:4], step[4]["frames"]), (*expected[:4], expected[4]["frames"]), strict=True):
            np.testing.assert_array_equal(ours[1:], theirs)
        assert not any(values[0] for values in (*step[1:4], step[4]["frames"]))
        ended |= bool(step[2].any())
    assert ended
    assert booked == (world.frames[0], world.boot_frames[0])


def test_actions_for_other_lanes_are_refused_before_any_is_played() -> None:
    world = make(MINATAR, 3, [1, 2, 3], evaluation=True)
    world.reset()
    for lanes in (2, 4):
        with pytest.raises(ValueError, match="3 lanes take an action each"):
            world.step(np.zeros(lanes, np.int64))
    world.step(np.zeros(3, np.int64))


@pytest.mark.parametrize("games", [ATARI, MINATAR])
def test_what_was_returned_is_not_written_to_later(games: list[str]) -> None:
    world = opened(games, [1, 2, 3])
    kept = [world.reset()[0]]
    copies = [kept[0].copy()]
    for _ in range(300):
        obs, _, terminated, _, info = world.step(np.full(3, 1) % world.num_actions)
        for array in (obs, *([info["final_obs"]] if terminated.any() else [])):
            kept.append(array)
            copies.append(array.copy())
    assert len(kept) > 301, "some game ended"
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_games_of_other_shapes_and_lanes_without_a_game_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be played side by side"):
        make(["MinAtar/Asterix-v1", "MinAtar/Seaquest-v1"], 2, 0)
    with pytest.raises(ValueError, match="cannot be played side by side: their kinds differ"):
        make(["MinAtar/Asterix-v1", "ALE/Pong-v5"], 2, 0)
    for games, lanes, seeds in (
        (MINATAR[:2], 3, 0), (MINATAR, 3, -1), (MINATAR, 3, [1, 2]), (MINATAR, 3, [1, 2, -3]), ("CartPole-v1", -1, 0), ([], 0, []),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{lanes} lanes need as many games and as many seeds, each >= 0: got"):
            make(games, lanes, seeds)
    state = opened(MINATAR, [1, 2, 3])
    state.reset()
    log = state.state_dict()
    log["actions"] = np.full((1, 3), 4, np.uint8)  # Asterix has five actions, Breakout three
    with pytest.raises(ValueError, match="actions"):
        opened(MINATAR, [1, 2, 3]).load_state_dict(log)
