"""MeterCallback inside stable-baselines3: its counts against the library's own and against the emulator's."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import ale_py
import gymnasium
import pytest
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack

from analysis import tables
from runs import recorder, schema
from runs.anyone import Meter
from runs.callback import MeterCallback
from tests.envs.test_counting import atari, truth_of

gymnasium.register_envs(ale_py)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "nvidia_boards", list)


def learn(out: Path, model: Any, steps: int, env: str = "CartPole-v1", **options: Any) -> schema.LedgerLine:
    with Meter(out, agent="sb3", env=env) as meter:
        model.learn(steps, callback=MeterCallback(meter), **options)
        folder = meter.folder
    return schema.read_ledger(folder)[-1]


class Games:
    """The library's Monitor, kept: its rewards and lengths are the oracle of ours."""

    def __init__(self, env_id: str) -> None:
        self.env = Monitor(gymnasium.make(env_id))

    @property
    def ended(self) -> list[tuple[float, int]]:
        return list(zip(self.env.get_episode_rewards(), self.env.get_episode_lengths(), strict=True))


def test_dqn_on_cartpole(tmp_path: Path) -> None:
    games = Games("CartPole-v1")
    model = DQN("MlpPolicy", games.env, learning_starts=50, train_freq=2, seed=0, device="cpu")
    line = learn(tmp_path, model, 300)
    assert line.lineage == schema.Counts(300, 300, model._n_updates, len(games.ended))
    assert model._n_updates == 125
    (run,), _ = tables.read_runs([tmp_path])
    assert [(row["r"], row["l"], row["frames"]) for row in run.episodes.to_dicts()] == [(r, n, n) for r, n in games.ended]


def test_ppo_on_a_vector_counts_gradient_steps_and_every_lane(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 3, seed=0), n_steps=32, batch_size=48, n_epochs=2, device="cpu")
    line = learn(tmp_path, model, 192)
    assert (line.lineage.frames, line.lineage.steps) == (192, 192)
    assert line.lineage.updates == 2 * 2 * (96 // 48), "rollouts x epochs x minibatches"


def test_sac_counts_the_steps_of_its_critic(tmp_path: Path) -> None:
    model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=20, batch_size=8, policy_kwargs={"net_arch": [8]}, device="cpu")
    line = learn(tmp_path, model, 60, "Pendulum-v1")
    assert line.lineage.updates == model._n_updates == 40


def test_learning_on_is_counted_once(tmp_path: Path) -> None:
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=10**6, seed=0, device="cpu")
    model.learn(100)
    before = model.num_timesteps
    with Meter(tmp_path, agent="sb3", env="CartPole-v1") as meter:
        callback = MeterCallback(meter)
        model.learn(40, callback=callback, reset_num_timesteps=False)
        model.learn(40, callback=callback, reset_num_timesteps=False)
    line = schema.read_ledger(tmp_path / "CartPole-v1/sb3/seed0")[-1]
    assert model.num_timesteps - before == 80
    assert (line.lineage.frames, line.lineage.steps, line.lineage.updates) == (80, 80, 0)


@pytest.mark.parametrize("played_before", [False, True])
def test_learning_on_with_emulators(played_before: bool, tmp_path: Path) -> None:
    """What was played before the callback came is not its own, the no-op start of the game under way neither."""
    vec = DummyVecEnv([partial(made, "Breakout")])
    model = DQN("CnnPolicy", vec, learning_starts=10**6, buffer_size=1000, seed=0, device="cpu")
    if played_before:
        model.learn(100)
    before = truth_of(vec.envs[0])
    with Meter(tmp_path, agent="sb3", env="ALE/Breakout-v5") as meter:
        callback = MeterCallback(meter)
        for _ in range(3):
            model.learn(60, callback=callback, reset_num_timesteps=False)
    line = schema.read_ledger(tmp_path / "ALE/Breakout-v5/sb3/seed0")[-1]
    assert line.lineage.frames == truth_of(vec.envs[0]) - before


def test_an_environment_that_counts_by_itself_is_not_counted_twice(tmp_path: Path) -> None:
    with Meter(tmp_path, agent="sb3", env="CartPole-v1") as meter:
        env = meter.wrap(gymnasium.make("CartPole-v1"))
        DQN("MlpPolicy", env, learning_starts=10, train_freq=1, device="cpu").learn(40, callback=MeterCallback(meter))
    line = schema.read_ledger(tmp_path / "CartPole-v1/sb3/seed0")[-1]
    assert (line.lineage.frames, line.lineage.steps, line.lineage.updates) == (40, 40, 30)


def made(game: str) -> gymnasium.Env:
    """As the library's make_atari_env builds it, with the oracle at the bottom."""
    return AtariWrapper(Monitor(atari(game)))


def random_dqn(vec: Any) -> DQN:
    return DQN("CnnPolicy", VecFrameStack(vec, 4), learning_starts=10**6, buffer_size=1000, seed=0, device="cpu")


def games_of(out: Path) -> list[dict[str, Any]]:
    (run,), _ = tables.read_runs([out])
    return run.episodes.select("r", "l", "frames").to_dicts()


@pytest.mark.parametrize("game", ["Breakout", "Berzerk", "MsPacman"])  # no FIRE in MsPacman: its resets do tell the counter
def test_frames_of_atari_are_the_emulators_own(game: str, tmp_path: Path) -> None:
    """In this process the oracle sits at the bottom of each pile; the same play in worker processes must come to the same."""
    lanes, env, steps = [partial(made, game)] * 2, f"ALE/{game}-v5", 1600 if game == "MsPacman" else 400
    here = DummyVecEnv(lanes)
    line = learn(tmp_path / "here", random_dqn(here), steps, env)
    assert line.lineage.steps == steps
    assert line.lineage.frames == sum(truth_of(lane) for lane in here.envs) != 4 * steps
    there = SubprocVecEnv(lanes, start_method="fork")
    remote = learn(tmp_path / "there", random_dqn(there), steps, env)
    there.close()
    assert remote.lineage == line.lineage
    assert games_of(tmp_path / "there") == games_of(tmp_path / "here") != []


class Silent(gymnasium.Wrapper):
    """Tells nothing in its infos."""

    def reset(self, **options: Any) -> Any:
        return self.env.reset(**options)[0], {}

    def step(self, action: Any) -> Any:
        return (*self.env.step(action)[:4], {})


def made_silent(game: str) -> gymnasium.Env:
    return Monitor(Silent(AtariWrapper(atari(game))))


def test_emulators_elsewhere_that_tell_nothing_have_unknown_frames_and_no_steps_pass_for_them(tmp_path: Path) -> None:
    vec = SubprocVecEnv([partial(made_silent, "Breakout")], start_method="fork")
    line = learn(tmp_path, random_dqn(vec), 300, "ALE/Breakout-v5")
    vec.close()
    assert (line.lineage.frames, line.lineage.steps) == (None, 300)
    assert {game["frames"] for game in games_of(tmp_path)} == {None}


def test_frames_of_games_add_up(tmp_path: Path) -> None:
    vec = DummyVecEnv([partial(made, "Breakout")])
    model = DQN("CnnPolicy", vec, learning_starts=10**6, buffer_size=1000, seed=0, device="cpu")
    line = learn(tmp_path, model, 500, "ALE/Breakout-v5")
    (run,), _ = tables.read_runs([tmp_path])
    assert len(run.episodes) == line.lineage.episodes > 1
    ale = vec.envs[0].unwrapped.ale
    assert run.episodes["frames"].sum() + ale.getEpisodeFrameNumber() == line.lineage.frames


def test_an_error_in_a_callback_gives_failed(tmp_path: Path) -> None:
    class Broken(BaseCallback):
        def _on_step(self) -> bool:
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"), Meter(tmp_path, agent="sb3", env="CartPole-v1") as meter:  # noqa: PT012
        callback = MeterCallback(meter)
        model = DQN("MlpPolicy", "CartPole-v1", device="cpu")
        model.learn(20, callback=[callback, Broken()])
    assert schema.read_ledger(tmp_path / "CartPole-v1/sb3/seed0")[-1].status == "failed"
