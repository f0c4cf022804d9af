"""Control and MinAtar worlds against the packages they come from."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from envs import make, spec

STEPS = {"CartPole-v1": 1500, "Acrobot-v1": 1100, "MountainCar-v0": 700, "LunarLander-v3": 1200}


def balance(obs: np.ndarray) -> np.ndarray:
    """A hand-made CartPole controller that lives to the limit of 500."""
    return (obs[:, 2] + 0.5 * obs[:, 3] + 0.05 * obs[:, 1] + 0.02 * obs[:, 0] > 0).astype(np.int64)


@pytest.mark.parametrize(("env_id", "policy"), [*((env_id, "random") for env_id in STEPS), ("CartPole-v1", "balance")])
def test_a_lane_is_gymnasiums_own_environment_step_for_step(env_id, policy):
    """gymnasium.make(id), reset once with the seed and then without, driven by the same actions: bit for bit."""
    seeds = [3, 4]
    world = make(env_id, 2, seeds)
    singles = [gymnasium.make(env_id) for _ in seeds]
    obs, _ = world.reset()
    for k, (single, seed) in enumerate(zip(singles, seeds, strict=True)):
        assert (obs[k] == single.reset(seed=seed)[0]).all()
    rng = np.random.default_rng(0)
    ends = {"terminated": 0, "truncated": 0}
    for _ in range(STEPS[env_id]):
        actions = balance(obs) if policy == "balance" else rng.integers(world.env_spec.num_actions, size=2)
        obs, reward, terminated, truncated, info = world.step(actions)
        for k, single in enumerate(singles):
            expected, r, term, trunc, _ = single.step(actions[k])
            assert (reward[k], terminated[k], truncated[k]) == (pytest.approx(r, rel=1e-15), term, trunc and not term)
            ends["terminated"] += term
            ends["truncated"] += trunc
            if term or trunc:
                assert (info["final_obs"][k] == expected).all(), "final_obs is the true last observation"
                expected, _ = single.reset()
            assert (obs[k] == expected).all()
    if policy == "balance":
        assert ends == {"terminated": 0, "truncated": 6}
    elif env_id in ("CartPole-v1", "LunarLander-v3"):
        assert ends["terminated"] > 5
    else:
        assert ends["truncated"] > 0


def test_a_death_at_the_time_limit_is_a_death():
    world = make("CartPole-v1", 2, 0)
    world.reset()
    world._sim.steps[:] = 499
    world._sim.state[:, 0] = [2.39, 9.0, 0.0, 0.0]  # leaves the track in this step
    _, _, terminated, truncated, _ = world.step(np.array([1, 1]))
    assert terminated.tolist() == [True, False]
    assert truncated.tolist() == [False, True]
    _, _, terminated, truncated, _ = world.step(np.array([1, 1]))
    assert not (terminated | truncated).any()


@pytest.mark.parametrize("name", ["asterix", "breakout", "freeway", "seaquest", "space_invaders"])
def test_a_minatar_lane_is_minatars_own_environment(name):
    """Observations, rewards and ends of minatar.Environment with the same seed, its sticky actions 0.1 and ramping on."""
    import minatar

    env_id = f"MinAtar/{name.title().replace('_', '')}-v1"
    world = make(env_id, 1, [17])
    game = minatar.Environment(name)
    game.seed(17)
    game.reset()
    minimal = game.minimal_action_set()
    assert len(minimal) == spec(env_id).num_actions
    obs, _ = world.reset()
    assert obs.dtype == np.uint8
    assert (obs[0] == game.state().transpose(2, 0, 1)).all()
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(2600):  # Freeway ends after 2,500
        action = rng.integers(len(minimal), size=1)
        reward, terminal = game.act(minimal[action[0]])
        obs, got, terminated, truncated, info = world.step(action)
        assert (got[0], terminated[0], truncated[0]) == (reward, terminal, False)
        if terminal:
            assert (info["final_obs"][0] == game.state().transpose(2, 0, 1)).all()
            game.reset()
            ends += 1
        assert (obs[0] == game.state().transpose(2, 0, 1)).all()
    assert ends > 0
