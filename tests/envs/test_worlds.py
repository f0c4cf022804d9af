"""What holds for a world of every kind."""

from __future__ import annotations

import numpy as np
import pytest

from envs import EnvSpec, World, lane_seeds, make, spec

SHORT = {  # one of each implementation, with a number of steps in which several episodes end
    "CartPole-v1": 300,
    "Acrobot-v1": 1100,
    "MountainCar-v0": 450,
    "LunarLander-v3": 400,
    "MinAtar/Breakout-v1": 300,
    "MinAtar/Seaquest-v1": 300,
    "ALE/Breakout-v5": 220,
}
SEEDS = [11, 2**31 - 1, 0, 11]


def play(world: World, actions: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Everything the world reports, step by step; rows of ``final_obs`` that carry no meaning are zeroed."""
    tape = [{"obs": world.reset()[0]}]
    for a in actions:
        obs, reward, terminated, truncated, info = world.step(a)
        done = terminated | truncated
        event = {"obs": obs, "reward": reward, "terminated": terminated, "truncated": truncated, "frames": info["frames"]}
        event["final_obs"] = np.zeros_like(obs)
        event["episode_frames"] = np.zeros(len(done), np.int64)
        assert ("final_obs" in info) == done.any()
        if done.any():
            assert (info["_final_obs"] == done).all()
            event["final_obs"][done] = info["final_obs"][done]
            event["episode_frames"][done] = info["episode_frames"][done]
        event["life_loss"] = info.get("life_loss", np.zeros(len(done), bool))
        event["total"], event["boot"] = world.frames.copy(), world.boot_frames.copy()
        tape.append(event)
    world.close()
    return tape


def actions_for(env: EnvSpec, steps: int, lanes: int) -> np.ndarray:
    return np.random.default_rng(1).integers(env.num_actions, size=(steps, lanes))


@pytest.mark.parametrize("env_id", SHORT)
def test_lane_k_of_four_is_bit_for_bit_the_world_of_its_seed_alone(env_id):
    actions = actions_for(spec(env_id), SHORT[env_id], 4)
    actions[:, 3] = actions[:, 0]  # as is the seed
    four = play(make(env_id, 4, SEEDS), actions)
    assert sum(int((event["terminated"] | event["truncated"]).sum()) for event in four[1:]) >= 4
    for lane in (0, 1, 2):
        one = play(make(env_id, 1, SEEDS[lane : lane + 1]), actions[:, lane : lane + 1])
        for whole, alone in zip(four, one, strict=True):
            for key in alone:
                assert whole[key][lane].tobytes() == alone[key][0].tobytes(), key
    for event in four:
        assert event["obs"][3].tobytes() == event["obs"][0].tobytes()
    first = [e["obs"] for e in four]
    assert any((obs[0] != obs[1]).any() for obs in first), "two seeds played the same"


@pytest.mark.parametrize("env_id", SHORT)
def test_observations_fit_the_space_and_belong_to_the_caller(env_id):
    """No later step writes into an array that was returned."""
    world = make(env_id, 2, 3)
    env = world.env_spec
    obs, _ = world.reset()
    kept = [(obs, obs.copy())]
    for a in actions_for(env, 60, 2):
        obs, reward, terminated, truncated, info = world.step(a)
        assert world.observation_space.contains(obs)
        assert reward.dtype in (np.float32, np.float64)
        assert terminated.dtype == truncated.dtype == np.bool_
        assert info["frames"].dtype == world.frames.dtype == world.boot_frames.dtype == np.int64
        kept += [(x, x.copy()) for x in (obs, reward, terminated, truncated, info["frames"])]
        kept += [(x, x.copy()) for x in (info.get("final_obs", obs), info.get("episode_frames", obs))]
    for array, copy in kept:
        assert (array == copy).all()
    assert world.single_action_space.n == env.num_actions


@pytest.mark.parametrize("env_id", SHORT)
def test_frames_of_steps_and_noops_add_up_to_the_ledger(env_id):
    world = make(env_id, 2, 5)
    world.reset()
    starts = world.frames.copy()
    stepped = np.zeros(2, np.int64)
    episode = starts.copy()
    for a in actions_for(world.env_spec, SHORT[env_id], 2):
        before = world.frames.copy()
        *_, info = world.step(a)
        stepped += info["frames"]
        episode += info["frames"]
        noops = world.frames - before - info["frames"]
        if "final_obs" in info:
            done = info["_final_obs"]
            assert (info["episode_frames"][done] == episode[done]).all()
            assert (noops[~done] == 0).all()
            episode[done] = noops[done]
            starts += noops
        else:
            assert (noops == 0).all()
    assert (world.frames == stepped + starts).all()
    if world.env_spec.kind != "atari":
        assert (starts == 0).all()
        assert (world.boot_frames == 0).all()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MinAtar/Breakout-v1", "ALE/Breakout-v5"])
def test_send_then_recv_is_a_step_and_misuse_is_an_error(env_id):
    stepped, split = make(env_id, 2, 1), make(env_id, 2, 1)
    with pytest.raises(RuntimeError, match="before reset"):
        split.send(np.zeros(2, np.int64))
    stepped.reset(), split.reset()
    with pytest.raises(RuntimeError, match="without send"):
        split.recv()
    for a in actions_for(spec(env_id), 20, 2):
        split.send(a)
        for one, two in zip(stepped.step(a)[:4], split.recv()[:4], strict=True):
            assert (one == two).all()
    split.send(np.zeros(2, np.int64))
    with pytest.raises(RuntimeError, match="twice"):
        split.send(np.zeros(2, np.int64))
    with pytest.raises(RuntimeError, match="between"):
        split.reset()
    with pytest.raises(ValueError, match="make"):
        stepped.reset(seed=1)
    stepped.close(), split.close()
    for call in (stepped.reset, lambda: stepped.step(np.zeros(2, np.int64)), split.recv):
        with pytest.raises(RuntimeError, match="closed World"):
            call()


def test_lane_seeds_do_not_depend_on_the_number_of_lanes():
    assert lane_seeds(5, 3) == lane_seeds(5, 8)[:3]
    assert len(set(lane_seeds(5, 64) + lane_seeds(6, 64))) == 128


def test_seeds_must_fit_the_lanes():
    for lanes, seeds in ((2, [1]), (0, []), (1, [-1])):
        with pytest.raises(ValueError, match="seeds"):
            make("CartPole-v1", lanes, seeds)
