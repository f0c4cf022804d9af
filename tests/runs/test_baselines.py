"""stable-baselines3's agents under our meter: they learn what they would learn without us, and are counted as ours are."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from sb3_contrib import QRDQN
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import DummyVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.baselines import BASELINES, DqnConfig, PpoConfig, QrdqnConfig, baseline_config
from agents.config import AgentConfig, ConfigError
from envs import lane_seeds, make
from runs import schema
from runs.baselines import BaselineTrainer, SpacesOnly, WorldVecEnv, build
from runs.config import InputError, RunConfig
from runs.evaluate import evaluate
from runs.progress import Progress
from runs.train import Outcome, train
from tests.envs.recount import _replay

SMALL: dict[str, Any] = {
    "sb3:dqn": DqnConfig(
        net_arch=(16,), batch_size=8, learning_starts=50, buffer_size=200, train_freq=4, target_update_interval=20
    ),
    "sb3:qrdqn": QrdqnConfig(
        net_arch=(16,), batch_size=8, learning_starts=50, buffer_size=200, train_freq=4, gradient_steps=-1, n_quantiles=5
    ),
    "sb3:ppo": PpoConfig(n_steps=16, n_envs=2, batch_size=16, n_epochs=3, learning_rate_schedule="linear"),
}
ATARI = replace(
    baseline_config("sb3:dqn", "atari"), learning_starts=100, buffer_size=2000, train_freq=50, exploration_fraction=1.0
)


def config(out: Path, agent: str, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "agent": agent,
        "env": "CartPole-v1",
        "agent_config": SMALL[agent],
        "seeds": (0,),
        "budget": "320-steps",
        "evals": 3,
        "eval_episodes": 2,
        "out": str(out),
        "device": "cpu",
        "threads": 1,
        "heartbeat_s": 0.5,  # each one waits for the disk
    }
    return RunConfig(**(values | changes))


def last(outcome: Outcome) -> schema.LedgerLine:
    return schema.read_ledger(outcome.folder)[-1]


def plain(agent: str, seed: int, steps: int) -> Any:
    """The library alone on gymnasium's CartPole, its lanes seeded as ours are; the arguments are those of SMALL, written out."""
    lanes = 2 if agent == "sb3:ppo" else 1
    env = DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * lanes)
    torch.set_num_threads(1)
    if agent == "sb3:ppo":
        model: Any = PPO(
            "MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=3, learning_rate=lambda left: 3e-4 * left, seed=seed
        )
    elif agent == "sb3:dqn":
        model = DQN("MlpPolicy", env, batch_size=8, learning_starts=50, buffer_size=200, train_freq=4, target_update_interval=20,
                    policy_kwargs={"net_arch": [16]}, seed=seed)  # fmt: skip
    else:
        model = QRDQN("MlpPolicy", env, batch_size=8, learning_starts=50, buffer_size=200, train_freq=4, gradient_steps=-1,
                      policy_kwargs={"net_arch": [16], "n_quantiles": 5}, seed=seed)  # fmt: skip
    env._seeds = list(lane_seeds(seed, lanes))
    return model.learn(steps)


@pytest.mark.parametrize("agent", list(BASELINES))
def test_an_agent_learns_exactly_what_the_library_alone_would(agent: str, tmp_path: Path) -> None:
    (outcome,) = train(config(tmp_path, agent, seeds=(3,)))
    assert len(schema.read_evals(outcome.folder)) == 3, "evaluations and heartbeats come between"
    learned = type(expected := plain(agent, 3, 320)).load(outcome.folder / schema.FINAL_SB3_CHECKPOINT, device="cpu")
    ours, theirs = learned.policy.state_dict(), expected.policy.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=0, msg=name)
    if agent == "sb3:dqn":
        assert last(outcome).lineage.updates == expected._n_updates


def test_a_run_folder_is_as_ours(tmp_path: Path) -> None:
    outcomes = train(config(tmp_path, "sb3:dqn", seeds=(3, 4), heartbeat_s=0.02))
    assert [o.folder for o in outcomes] == [tmp_path / "CartPole-v1/sb3-dqn/seed3", tmp_path / "CartPole-v1/sb3-dqn/seed4"]
    for outcome in outcomes:
        record, lines = schema.read_run(outcome.folder), schema.read_ledger(outcome.folder)
        assert (record.agent, record.group_seeds, record.share) == ("sb3:dqn", [outcome.seed], 1.0)
        assert record.agent_config["schedule_steps"] == 320
        assert record.agent_config["exploration_fraction"] == 0.1
        line = lines[-1]
        assert (line.status, line.lineage.steps, line.lineage.frames) == ("finished", 320, 320)
        assert line.lineage.updates == len([step for step in range(4, 321, 4) if step > 50])
        assert line.params_sha256 == outcome.params_sha256
        for before, after in itertools.pairwise(lines):
            assert after.lineage.steps >= before.lineage.steps
            assert after.flops.total >= before.flops.total
        assert sum(line.active_s.values()) == pytest.approx(line.wall_s, rel=0.02)
        assert all(line.active_s[phase] > 0 for phase in ("setup", "act", "learn", "env", "eval", "io"))
        episodes = load_results(str(outcome.folder))
        assert len(episodes) == line.lineage.episodes > 2
        assert (episodes.r == episodes.l).all(), "CartPole pays 1 a step"
        evals = schema.read_evals(outcome.folder)
        assert [e.steps for e in evals] == [107, 214, 320]
        assert line.eval_frames == sum(max(e.lengths) * 2 for e in evals), "two lanes step until both games are over"
        tags = EventAccumulator(str(outcome.folder)).Reload().Tags()["scalars"]
        assert {"1 over steps/evaluation score", "learning/loss", "learning/epsilon"} <= set(tags)
    assert outcomes[0].params_sha256 != outcomes[1].params_sha256


def test_evaluations_are_those_of_our_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same function with the same arguments at the same steps: environment, protocol, games, number of the evaluation."""
    asked: list[tuple[Any, ...]] = []

    def spy(player: Any, *arguments: Any) -> Any:
        asked.append((tuple(player.seeds), *arguments[:4]))
        return evaluate(player, *arguments)

    monkeypatch.setattr("runs.loop.evaluate", spy)
    ours = AgentConfig(hidden=(16,), batch_size=8, learning_starts_steps=50)
    steps = [
        [e.steps for e in schema.read_evals(train(run)[0].folder)]
        for run in (
            config(tmp_path, "sb3:dqn", seeds=(5,)),
            RunConfig(
                **(vars(config(tmp_path, "sb3:dqn", seeds=(5,))) | {"agent": "dqn", "agent_config": ours, "compile": "off"})
            ),
        )
    ]
    assert steps[0] == steps[1]
    assert asked[:3] == asked[3:] == [((5,), ("CartPole-v1",), "control", 2, number) for number in (1, 2, 3)]


def test_the_checkpoint_is_the_librarys_own_and_plays_as_evaluated(tmp_path: Path) -> None:
    (outcome,) = train(config(tmp_path, "sb3:ppo", budget="2048-steps", evals=1, eval_episodes=30))
    model = PPO.load(outcome.folder / schema.FINAL_SB3_CHECKPOINT, device="cpu")
    mean, _ = evaluate_policy(model, gymnasium.make("CartPole-v1"), n_eval_episodes=30, warn=False)  # type: ignore[arg-type]
    assert mean == pytest.approx(outcome.eval_scores[-1], rel=0.35), "the same policy, other games"


def test_an_atari_runs_frames_equal_an_independent_recount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recount replays the agent's actions in ale-py's own vector environment, which knows nothing of the World."""
    actions: list[int] = []
    models: list[Any] = []
    step, save = WorldVecEnv.step_async, BaselineTrainer.save

    def spy_step(self: WorldVecEnv, action: NDArray[Any]) -> None:
        actions.append(int(action[0]))
        step(self, action)

    def spy_save(self: BaselineTrainer, *arguments: Any) -> None:
        models.append(self.model)
        save(self, *arguments)

    monkeypatch.setattr(WorldVecEnv, "step_async", spy_step)
    monkeypatch.setattr(BaselineTrainer, "save", spy_save)
    run = config(
        tmp_path, "sb3:dqn", env="ALE/SpaceInvaders-v5", agent_config=ATARI, budget="1600-steps", evals=1, eval_episodes=1
    )
    (outcome,) = train(run)
    line = last(outcome)
    games, _, frames = _replay("SpaceInvaders", np.array(actions), lane_seeds(0, 1)[0], "nature")
    monitor = pl.read_csv(outcome.folder / schema.MONITOR_FILE, comment_prefix="#")
    assert line.lineage.frames == frames != 4 * len(actions)
    assert list(zip(monitor["frames"], monitor["r"], strict=True)) == games, "scores are the game's own, unclipped"
    assert len(games) >= 2
    assert monitor["r"].max() >= 50, "an invader pays 5 to 30"
    assert line.boot_frames > 0
    evaluation = schema.read_evals(outcome.folder)[0]
    assert line.eval_frames >= 4 * evaluation.lengths[0] - 3
    buffer = models[0].replay_buffer
    assert set(np.unique(buffer.rewards)) == {0.0, 1.0}, "what is learned from is the sign"
    lives_lost = int(buffer.dones.sum()) - len(games)
    assert lives_lost >= 2 * len(games), "three lives: two end a return within a game"


def test_a_world_answers_as_the_librarys_own_vector_environment() -> None:
    """Every MountainCar game is cut at 200 steps: observations, rewards, ends and last observations are the same."""
    world = make("MountainCar-v0", 2, [5, 9])
    ours, theirs = WorldVecEnv(world, False, lambda phase: None), DummyVecEnv([lambda: gymnasium.make("MountainCar-v0")] * 2)
    theirs._seeds = [5, 9]
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    rng, cut = np.random.default_rng(0), 0
    for _ in range(450):
        actions = rng.integers(3, size=2)
        (obs, reward, done, infos), expected = ours.step(actions), theirs.step(actions)
        for value, other in zip((obs, reward, done), expected[:3], strict=True):
            np.testing.assert_array_equal(value, other)
            assert value.dtype == other.dtype
        for info, other in zip(infos, expected[3], strict=True):
            assert info["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            cut += info["TimeLimit.truncated"]
            assert ("terminal_observation" in info) == ("terminal_observation" in other)
            if "terminal_observation" in info:
                np.testing.assert_array_equal(info["terminal_observation"], other["terminal_observation"])
    assert cut == 4


@pytest.mark.parametrize(("protocol", "ends"), [("nature", True), ("sticky", False)])
def test_a_life_loss_ends_a_return_and_no_game(protocol: str, ends: bool) -> None:
    world = make("ALE/Breakout-v5", 1, [0], protocol=protocol)
    env = WorldVecEnv(world, True, lambda phase: None)
    env.reset()
    rng, lost = np.random.default_rng(0), 0
    for _ in range(400):
        obs, _, done, infos = env.step(rng.integers(4, size=1))
        _, over, info = env.last_step
        if info["life_loss"][0]:
            lost += 1
            assert done[0] == ends
            assert not over[0]
            assert not infos[0]["TimeLimit.truncated"]
            if ends:
                np.testing.assert_array_equal(infos[0]["terminal_observation"], obs[0])
    env.close()
    assert lost >= 2


@pytest.mark.parametrize(
    ("agent", "budget", "frames"),
    [
        ("sb3:dqn", "130-frames", 130),
        ("sb3:dqn", "4s-play", 200),
        ("sb3:ppo", "131-frames", 132),
        ("sb3:ppo", "2.5s", None),
        ("sb3:qrdqn", "1e6flops", None),
    ],
)
def test_a_budget_stops_within_a_step(agent: str, budget: str, frames: int | None, tmp_path: Path) -> None:
    (outcome,) = train(config(tmp_path, agent, budget=budget, heartbeat_s=5.0))
    line = last(outcome)
    assert line.status == "finished"
    assert frames is None or line.lineage.frames == line.lineage.steps == frames
    assert schema.read_evals(outcome.folder)[-1].steps == line.lineage.steps, "the final agent is evaluated"
    if agent == "sb3:ppo":
        assert line.lineage.updates == line.lineage.steps // 32 * 6, "only whole rollouts are learned from"
    spent = {"2.5s": line.wall_s / 2.5, "1e6flops": line.flops.total / 1e6}.get(budget)
    assert spent is None or spent >= 1


def test_an_atari_budget_in_frames_stops_within_a_step(tmp_path: Path) -> None:
    """With a phase of learning after every step, so that the library's own loop, which counts steps, would go on."""
    agent = replace(ATARI, train_freq=1, learning_starts=280)
    run = config(tmp_path, "sb3:dqn", env="ALE/Pong-v5", agent_config=agent, budget="1203-frames", evals=1, eval_episodes=1)
    (outcome,) = train(run)
    line = last(outcome)
    assert 1203 <= line.lineage.frames < 1207
    assert line.lineage.updates == line.lineage.steps - 280, "what was played is learned from"


def test_model_flops_of_dqn_are_exact_counts_times_hand_derived_costs(tmp_path: Path) -> None:
    """4 -> 16 -> 2. The library asks the network for greedy actions only: none in the warm-up, all after it without exploration."""
    agent = replace(SMALL["sb3:dqn"], exploration_initial_eps=0.0, exploration_final_eps=0.0)
    (outcome,) = train(config(tmp_path, "sb3:dqn", agent_config=agent))
    line = last(outcome)
    assert line.flops.act == (320 - 50) * 192
    assert line.flops.update == line.lineage.updates * 8 * (2 * 192 + 192 + 64)
    assert line.flops.eval == line.eval_frames * 192


def test_model_flops_of_ppo_are_exact_counts_times_hand_derived_costs(tmp_path: Path) -> None:
    """Actor 4 -> 64 -> 64 -> 2 and critic 4 -> 64 -> 64 -> 1. At the end of a rollout the critic looks at each lane once more;
    an evaluation asks the actor alone."""
    (outcome,) = train(config(tmp_path, "sb3:ppo", budget="320-steps"))
    line = last(outcome)
    actor, critic = [4 * 64, 64 * 64, 64 * 2], [4 * 64, 64 * 64, 64 * 1]
    assert line.flops.act == 320 * 2 * sum(actor + critic) + 10 * 2 * 2 * sum(critic)
    backward = sum(actor + critic) + sum(actor[1:] + critic[1:])
    assert line.lineage.updates == 10 * 3 * 2
    assert line.flops.update == line.lineage.updates * 16 * 2 * (sum(actor + critic) + backward)
    assert line.flops.eval == line.eval_frames * 2 * sum(actor)


def test_ppos_critic_is_counted_where_a_game_is_cut(tmp_path: Path) -> None:
    """MountainCar 2 -> 64 -> 64 -> 3: both lanes are cut at 200 steps, in the middle of the second of two rollouts."""
    agent = PpoConfig(n_steps=150, n_envs=2, batch_size=100, n_epochs=1)
    (outcome,) = train(config(tmp_path, "sb3:ppo", env="MountainCar-v0", agent_config=agent, budget="600-steps", evals=1))
    actor, critic = 2 * 64 + 64 * 64 + 64 * 3, 2 * 64 + 64 * 64 + 64 * 1
    assert last(outcome).lineage.episodes == 2
    assert last(outcome).flops.act == 600 * 2 * (actor + critic) + (2 * 2 + 2) * 2 * critic


def test_schedules_run_over_their_steps_whatever_the_librarys_limit_is() -> None:
    env = DummyVecEnv([lambda: SpacesOnly(make("CartPole-v1", 1, [0]))])
    agent = DqnConfig(buffer_size=100, exploration_fraction=0.2, learning_rate_schedule="linear", schedule_steps=1000)
    for limit in (1000, 4000, 10**11):
        model: Any = build(DQN, agent, env, limit, seed=0, device="cpu")
        for step, epsilon in ((0, 1.0), (100, 0.525), (200, 0.05), (900, 0.05)):
            assert model.exploration_schedule(1 - step / limit) == pytest.approx(epsilon, abs=1e-4)
            assert model.lr_schedule(1 - step / limit) == pytest.approx(1e-4 * (1 - step / 1000), rel=1e-3)


def test_a_long_phase_of_learning_has_heartbeats(tmp_path: Path) -> None:
    agent = PpoConfig(n_steps=64, batch_size=2, n_epochs=16)
    (outcome,) = train(config(tmp_path, "sb3:ppo", agent_config=agent, budget="64-steps", evals=1, heartbeat_s=0.02))
    lines = schema.read_ledger(outcome.folder)
    learning = [line for line in lines if 0 < line.lineage.updates < 64 // 2 * 16]
    assert len(learning) > 3
    assert {line.lineage.steps for line in learning} == {64}
    assert max(b.wall_s - a.wall_s for a, b in itertools.pairwise(lines)) < 1


def test_an_interrupt_ends_the_run_cleanly_with_everything_written(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.steps > 60 and progress.status == "running":
            os.kill(os.getpid(), signal.SIGINT)

    (outcome,) = train(config(tmp_path, "sb3:dqn", budget="1000k-steps", seeds=(0, 1)), interrupt)
    line = last(outcome)
    assert (outcome.status, line.status) == ("interrupted", "interrupted")
    assert 60 < line.lineage.steps < 1_000_000
    assert line.params_sha256 == outcome.params_sha256
    assert len(load_results(str(outcome.folder))) == line.lineage.episodes
    assert schema.read_run(outcome.folder).agent == "sb3:dqn"
    DQN.load(outcome.folder / schema.FINAL_SB3_CHECKPOINT, device="cpu")


@pytest.mark.parametrize("agent", list(BASELINES))
def test_minatar_is_played_with_a_flat_policy(agent: str, tmp_path: Path) -> None:
    chosen = baseline_config(agent, "minatar")
    assert chosen.policy == "MlpPolicy"
    small = (
        replace(chosen, n_envs=2, n_steps=16, batch_size=16)
        if isinstance(chosen, PpoConfig)
        else replace(chosen, learning_starts=20)
    )
    (outcome,) = train(config(tmp_path, agent, env="MinAtar/Breakout-v1", agent_config=small, budget="100-steps", evals=1))
    line = last(outcome)
    assert (line.status, line.lineage.frames) == ("finished", 100)
    assert line.lineage.updates > 0


BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("sb3:dqn", {"agent_config": replace(SMALL["sb3:dqn"], policy="CnnPolicy")}, InputError, "--sb3.policy MlpPolicy"),
    ("sb3:dqn", {"budget": "30-steps"}, InputError, "--sb3.learning-starts"),
    ("sb3:ppo", {"budget": "30-steps"}, InputError, "before the first update"),
    ("sb3:dqn", {"env": "ALE/Pong-v5", "agent_config": replace(ATARI, buffer_size=10**9), "budget": "1h"}, InputError,
     "--sb3.buffer-size"),
    ("sb3:dqn", {"evals": 0}, InputError, "--evals"),
]  # fmt: skip


@pytest.mark.parametrize(("agent", "changes", "error", "says"), BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    agent: str, changes: dict[str, Any], error: type[Exception], says: str, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    with pytest.raises(error, match=says) as raised:
        train(config(out, agent, **changes))
    assert "\n" not in str(raised.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (lambda: PpoConfig(n_steps=10, batch_size=64), "sb3.batch_size"),
        (lambda: DqnConfig(gamma=1.5), "sb3.gamma"),
        (lambda: DqnConfig(max_grad_norm=None), "always clips"),
        (lambda: DqnConfig(gradient_steps=0), "sb3.gradient_steps"),
        (lambda: QrdqnConfig(n_quantiles=0), "sb3.n_quantiles"),
        (lambda: PpoConfig(net_arch=(0,)), "sb3.net_arch"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        settings()


def test_without_sb3_contrib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(InputError, match=r"playmeter\[baselines\]"):
        train(config(tmp_path / "results", "sb3:qrdqn"))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("agent", list(BASELINES))
def test_the_defaults_are_the_librarys(agent: str) -> None:
    """Every setting that the library's constructor knows has its default there."""
    import inspect

    cls = {"sb3:dqn": DQN, "sb3:qrdqn": QRDQN, "sb3:ppo": PPO}[agent]
    known = inspect.signature(cls).parameters
    ours = vars(BASELINES[agent].defaults)
    shared = {name: value for name, value in ours.items() if name in known and name != "policy"}
    assert shared == {name: known[name].default for name in shared}
    assert len(shared) >= 13
