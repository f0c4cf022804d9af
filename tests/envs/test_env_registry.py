"""The facts about environments, against the registries they were taken from."""

from __future__ import annotations

import subprocess
import sys

import ale_py
import gymnasium
import pytest

from envs import PROTOCOLS, SUITES, UnknownEnv, all_specs, describe, make, spec
from envs.games import games

gymnasium.register_envs(ale_py)


def by_kind(kind):
    return [s for s in all_specs() if s.kind == kind]


@pytest.mark.parametrize("env", by_kind("control"), ids=lambda s: s.id)
def test_thresholds_and_limits_are_gymnasiums(env):
    registered = gymnasium.spec(env.id)
    assert env.reward_threshold == registered.reward_threshold
    assert env.max_episode_steps == registered.max_episode_steps


def test_rates_are_the_physics():
    assert spec("CartPole-v1").frame_rate_hz == pytest.approx(1 / gymnasium.make("CartPole-v1").unwrapped.tau)
    assert spec("Acrobot-v1").frame_rate_hz == pytest.approx(1 / gymnasium.make("Acrobot-v1").unwrapped.dt)
    from gymnasium.envs.box2d import lunar_lander

    assert spec("LunarLander-v3").frame_rate_hz == lunar_lander.FPS
    assert spec("MountainCar-v0").frame_rate_hz is None
    assert all(s.frame_rate_hz is None for s in by_kind("minatar"))


def test_every_single_player_game_of_ale_is_listed():
    registered = {i for i in gymnasium.registry if i.startswith("ALE/") and i.endswith("-v5")}
    assert {s.id for s in by_kind("atari")} == registered
    for env in by_kind("atari"):
        kwargs = gymnasium.spec(env.id).kwargs
        assert kwargs["game"] == games()[env.id].rom
        assert kwargs["frameskip"] == env.frames_per_step
        assert kwargs["max_num_frames_per_episode"] == env.max_episode_steps * env.frames_per_step


def test_ntsc_games_run_at_60_and_the_57_are_all_ntsc():
    assert {games()[i].display_format for i in SUITES["atari57"]} == {"NTSC"}
    assert {spec(i).frame_rate_hz for i in SUITES["atari57"]} == {60.0}
    assert {s.frame_rate_hz for s in by_kind("atari")} == {60.0, 50.0}


def test_the_boot_of_every_game_is_known_and_plausible():
    for game in games().values():
        assert game.how_known.startswith("counted")
        assert game.reset_frames >= 60 + 2 * 4  # no-ops, two RESETs
        assert game.load_frames == game.reset_frames + 60  # the television standard is found in 60 frames
        assert game.counted_frames < game.reset_frames - 68 + 1


def test_suites_name_environments_and_nest():
    assert {name: len(suite) for name, suite in SUITES.items()} == {
        "classic": 4,
        "minatar": 5,
        "atari5": 5,
        "atari26": 26,
        "atari57": 57,
    }
    for suite in SUITES.values():
        assert len(set(suite)) == len(suite)
        for env_id in suite:
            spec(env_id)
    assert set(SUITES["atari5"]) | set(SUITES["atari26"]) <= set(SUITES["atari57"])


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("CartPole", "CartPole-v1"),
        ("cartpole-v0", "CartPole-v1"),
        ("ALE/Breakot-v5", "ALE/Breakout-v5"),
        ("breakout", "MinAtar/Breakout-v1"),
        ("breakout", "ALE/Breakout-v5"),
        ("Pong-v4", "ALE/Pong-v5"),
    ],
)
def test_an_unknown_environment_is_one_line_with_the_nearest_ids(asked, nearest):
    with pytest.raises(UnknownEnv) as caught:
        spec(asked)
    message = str(caught.value)
    assert repr(asked) in message
    assert nearest in message
    assert "\n" not in message


def test_a_protocol_that_does_not_apply_is_named_with_those_that_do():
    with pytest.raises(UnknownEnv, match="protocol 'nature' does not apply to CartPole-v1: choose control"):
        make("CartPole-v1", 1, 0, protocol="nature")
    with pytest.raises(UnknownEnv, match="nature or sticky or atari100k"):
        make("ALE/Pong-v5", 1, 0, protocol="control")


def test_every_protocol_of_every_environment_exists_and_no_life_loss_ends_an_evaluation():
    for env in all_specs():
        assert set(env.protocols) <= set(PROTOCOLS)
    assert make("ALE/Pong-v5", 1, 0).protocol is PROTOCOLS["nature"]
    assert make("CartPole-v1", 1, 0).protocol is PROTOCOLS["control"]


def test_describe_has_a_row_for_every_environment():
    rows = describe()
    assert [row["id"] for row in rows] == [s.id for s in all_specs()]
    assert all(isinstance(row["actions"], int) for row in rows)


def test_importing_envs_loads_no_emulator_and_making_minatar_no_plotting():
    code = (
        "import sys, envs; envs.all_specs(); envs.describe()\n"
        "assert not {'torch', 'gymnasium', 'ale_py', 'stable_baselines3'} & set(sys.modules)\n"
        "envs.make('MinAtar/Breakout-v1', 1, 0).reset(); envs.make('CartPole-v1', 1, 0).reset()\n"
        "assert not {'torch', 'matplotlib', 'seaborn', 'stable_baselines3', 'ale_py'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
