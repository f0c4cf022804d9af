"""A world that is brought back by its seeds and its logged actions plays on as if it had never been gone."""

from __future__ import annotations

import numpy as np
import pytest

from envs import World, make, spec
from envs.actions import ActionLog
from envs.world import RESEED_STEPS, reseed

STEPS = {  # one of each implementation, with a number of steps in which lanes are seeded again at different times
    "CartPole-v1": 200,
    "Acrobot-v1": 1100,
    "MountainCar-v0": 450,
    "LunarLander-v3": 400,
    "MinAtar/Seaquest-v1": 250,
    "MinAtar/Breakout-v1": 200,
    "ALE/Breakout-v5": 220,
}
SEEDS = [11, 5, 2**31 - 1]


def world_of(env_id: str, seeds: list[int] = SEEDS, every: int = 60, protocol: str | None = None) -> World:
    world = make(env_id, len(seeds), seeds, protocol=protocol)
    world.reseed_steps = every
    return world


def actions_for(env_id: str, steps: int) -> np.ndarray:
    return np.random.default_rng(3).integers(spec(env_id).num_actions, size=(steps, len(SEEDS)))


def play(world: World, actions: np.ndarray) -> list[bytes]:
    """Everything a step reports and what the counters are, as bytes."""
    tape = []
    for action in actions:
        obs, reward, terminated, truncated, info = world.step(action)
        parts = [obs, reward, terminated, truncated, info["frames"], info.get("life_loss", terminated)]
        if "final_obs" in info:
            parts += [info["final_obs"][info["_final_obs"]], info["episode_frames"]]
        tape.append(b"".join(part.tobytes() for part in [*parts, world.frames, world.boot_frames]))
    return tape


@pytest.mark.parametrize("env_id", STEPS)
def test_a_world_that_was_brought_back_plays_on_bit_for_bit(env_id: str) -> None:
    """At its start, within the first log, and after lanes were seeded again at different steps."""
    actions = actions_for(env_id, STEPS[env_id])
    whole = world_of(env_id)
    obs = {0: whole.reset()[0]}
    states = {0: whole.state_dict()}
    tape: list[bytes] = []
    for step, action in enumerate(actions, 1):
        tape += play(whole, action[None])
        if step in (25, STEPS[env_id] - 40):
            states[step] = whole.state_dict()
    whole.close()
    assert len({tuple(state["seeded"]) for state in states.values()}) > 1, (
        "no lane was seeded again: the test proves too little"
    )
    for step, state in states.items():
        again = world_of(env_id)
        seen = again.load_state_dict(state)
        if step == 0:
            np.testing.assert_array_equal(seen, obs[0])
        rest = play(again, actions[step:])
        assert rest == tape[step:], f"from step {step}"
        assert (again.replayed_frames > 0).all() or step == 0
        again.close()


def test_sticky_actions_survive() -> None:
    """What a clone of the emulator's state would lose: the action that may stick."""
    actions = actions_for("ALE/Pong-v5", 120)
    whole = world_of("ALE/Pong-v5", protocol="sticky")
    whole.reset()
    play(whole, actions[:60])
    state = whole.state_dict()
    again = world_of("ALE/Pong-v5", protocol="sticky")
    again.load_state_dict(state)
    assert play(again, actions[60:]) == play(whole, actions[60:])


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MinAtar/Breakout-v1"])
def test_when_a_lane_is_seeded_again_follows_from_its_own_games(env_id: str) -> None:
    actions = actions_for(env_id, STEPS[env_id])
    three, alone = world_of(env_id), world_of(env_id, SEEDS[1:2])
    np.testing.assert_array_equal(three.reset()[0][1], alone.reset()[0][0])
    for action in actions:
        np.testing.assert_array_equal(three.step(action)[0][1], alone.step(action[1:2])[0][0])
    assert alone.state_dict()["seeded"][0] == three.state_dict()["seeded"][1] > 0


def test_seeding_again_is_a_new_game_and_evaluations_never_do() -> None:
    actions = actions_for("CartPole-v1", 200)
    tapes = []
    for every, evaluation in ((60, False), (10**9, False), (60, True)):
        world = make("CartPole-v1", len(SEEDS), SEEDS, evaluation=evaluation)
        world.reseed_steps = every
        world.reset()
        tapes.append(play(world, actions))
    assert tapes[0][:60] == tapes[1][:60]
    assert tapes[0] != tapes[1]
    assert tapes[1] == tapes[2]
    with pytest.raises(RuntimeError, match="training"):
        world.state_dict()


def test_a_reset_by_the_caller_is_in_the_log() -> None:
    actions = actions_for("MinAtar/Seaquest-v1", 60)
    whole = world_of("MinAtar/Seaquest-v1")
    whole.reset()
    play(whole, actions[:20])
    whole.reset()
    play(whole, actions[20:40])
    again = world_of("MinAtar/Seaquest-v1")
    again.load_state_dict(whole.state_dict())
    assert play(again, actions[40:]) == play(whole, actions[40:])


def test_the_log_forgets_what_no_lane_needs_and_grows_where_an_episode_is_long() -> None:
    log = ActionLog(2, room=8)
    begun = [0, 0]
    rng = np.random.default_rng(0)
    actions = rng.integers(4, size=(500, 2))
    for step, action in enumerate(actions):
        for lane, every in enumerate((7, 50)):
            if step and step % every == 0:
                log.begin(np.arange(2) == lane)
                begun[lane] = step
        log.append(action)
        assert log.steps.tolist() == [step + 1 - begun[0], step + 1 - begun[1]]
        for lane in (0, 1):
            np.testing.assert_array_equal(log.rows[log.first[lane] :, lane], actions[begun[lane] : step + 1, lane])
    assert len(log._rows) <= 128


def test_a_log_that_does_not_fit_is_refused() -> None:
    whole = world_of("CartPole-v1")
    whole.reset()
    play(whole, actions_for("CartPole-v1", 30))
    good = whole.state_dict()
    bad = [
        {"actions": good["actions"] + 2},
        {"actions": good["actions"][:, :2]},
        {"actions": good["actions"].astype(np.int64)},
        {"first": good["first"] + 1000},
        {"first": good["first"] - 1},
        {"seeded": -1 - good["seeded"]},
        {"episode_frames": good["episode_frames"] + 1},
    ]
    for change in bad:
        with pytest.raises(ValueError, match=r"log|plays?"):
            world_of("CartPole-v1").load_state_dict({**good, **change})


def test_seeds_of_one_lane_differ_and_the_first_is_its_own() -> None:
    assert reseed(7, 0) == 7
    assert len({reseed(lane, times) for lane in (7, 8) for times in range(50)}) == 100
    assert RESEED_STEPS == 20_000, "a new number is a new trajectory of every run: say so in CHANGELOG.md"
