"""The final agent of a run plays again: as it was trained to, other games, by whichever rules."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import pickle
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import DQN

from agents.baselines import baseline_config, is_baseline
from agents.family import agent_config
from envs.registry import UnknownEnv, spec
from runs import schema
from runs.config import InputError, RunConfig
from runs.evaluate import evaluate, played_out
from runs.final_agent import Asked, FinalAgent, check, play_again
from runs.train import train

EVALS = 2


def trained(out: Path, agent: str = "dqn", env: str = "CartPole-v1", **changes: Any) -> Path:
    """The folder of a small run."""
    domain = "classic" if "/" not in env else "minatar" if env.startswith("MinAtar/") else "atari"
    if agent == "sb3:ppo":
        settings: Any = replace(baseline_config(agent, domain), n_envs=1, n_steps=64, batch_size=32, net_arch=(16, 8))
    elif is_baseline(agent):
        settings = replace(baseline_config(agent, domain), learning_starts=100, buffer_size=300)
    else:
        settings = replace(
            agent_config(agent, domain), hidden=(8,), batch_size=8, learning_starts_steps=100, replay_capacity=300, replay_ratio=1.0 if domain == "classic" else 0.1
        )  # fmt: skip
    values: dict[str, Any] = {
        "seeds": (3,), "budget": "900-steps", "evals": EVALS, "eval_episodes": 7, "out": str(out), "device": "cpu", "compile": "off",
        "threads": 1,
    }  # fmt: skip
    (outcome,) = train(RunConfig(agent, env, settings, **(values | changes)), notice=lambda text: None)
    return outcome.folder


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("trained"))


def again(folder: Path, **asked: Any) -> list[float]:
    return play_again(folder, schema.read_run(folder), Asked(**asked))[1].returns[0]


@pytest.mark.parametrize(
    ("agent", "env", "changes"),
    [
        ("dqn", "CartPole-v1", {}),
        ("rainbow", "CartPole-v1", {}),
        ("iqn", "CartPole-v1", {}),
        ("rainbow", "MinAtar/Breakout-v1", {}),
        ("der", "ALE/Riverraid-v5", {"protocol": "atari100k", "eval_episodes": 2, "evals": 1, "budget": "150-steps"}),
        ("sb3:dqn", "CartPole-v1", {}),
        ("sb3:ppo", "CartPole-v1", {}),
        ("sb3:qrdqn", "CartPole-v1", {}),
        ("sb3:dqn", "ALE/Riverraid-v5", {"eval_episodes": 1, "evals": 1, "budget": "150-steps"}),
    ],
)
def test_what_was_saved_is_what_was_evaluated(agent: str, env: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """The games of the training's last evaluation, played by the saved agent, end as they ended there."""
    folder = trained(tmp_path, agent, env, **changes)
    record, last = schema.read_run(folder), schema.read_evals(folder)[-1]
    number = changes.get("evals", EVALS)
    same = played_out(evaluate(FinalAgent(folder, record), [env], record.env.protocol, len(last.returns), number))
    assert same.returns == [last.returns]
    assert same.lengths == [last.lengths]


def test_the_games_are_others_than_those_of_the_training_and_follow_from_the_seed(cartpole: Path) -> None:
    """Half of the actions are at random, so that no two games are alike by chance."""
    agent = FinalAgent(cartpole, schema.read_run(cartpole))
    evaluated = [
        played_out(evaluate(agent, ["CartPole-v1"], "control", 7, number, epsilon=0.5)).returns[0]
        for number in range(1, EVALS + 1)
    ]
    mine, same, other = (again(cartpole, episodes=7, epsilon=0.5, seed=seed) for seed in (0, 0, 1))
    assert mine == same
    assert len({tuple(games) for games in (mine, other, *evaluated)}) == 2 + EVALS


def test_a_run_folder_is_left_as_it_was(cartpole: Path) -> None:
    def contents() -> dict[Path, str]:
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in cartpole.rglob("*") if path.is_file()}

    before = contents()
    again(cartpole)
    assert contents() == before


def test_who_plays_at_random_alone_is_no_agent_any_more(cartpole: Path, tmp_path: Path) -> None:
    """Two agents have the same games then; random play of CartPole lasts 22 steps."""
    other = trained(tmp_path, agent="c51")
    assert again(other, epsilon=1.0, episodes=200) == (returns := again(cartpole, epsilon=1.0, episodes=200))
    assert np.mean(returns) == pytest.approx(22, abs=3)
    assert again(other, episodes=20) != again(cartpole, episodes=20)


def test_the_rules_are_the_runs_own_or_those_asked_for(tmp_path: Path) -> None:
    folder = trained(tmp_path, env="ALE/Riverraid-v5", protocol="atari100k", eval_episodes=1, evals=1, budget="150-steps")
    record = schema.read_run(folder)
    rules, own = play_again(folder, record, Asked(episodes=1))
    assert (rules.name, own.epsilon) == ("atari100k", 0.001)
    rules, nature = play_again(folder, record, Asked(episodes=1, protocol="nature"))
    assert (rules.name, nature.epsilon) == ("nature", 0.05)
    assert play_again(folder, record, Asked(episodes=1, protocol="nature", epsilon=0.0))[1].epsilon == 0
    with pytest.raises(UnknownEnv, match="protocol 'control' does not apply"):
        check(folder, record, schema.FINISHED, Asked(protocol="control"))


def test_the_protocol_says_how_many_games_where_nobody_does(cartpole: Path) -> None:
    assert len(again(cartpole)) == 10
    heard: list[tuple[int, int]] = []
    assert len(again(cartpole, episodes=3)) == 3
    with pytest.MonkeyPatch.context() as patch:
        clock = iter(range(10**6))
        patch.setattr("runs.final_agent.time.monotonic", lambda: float(next(clock)))
        play_again(cartpole, schema.read_run(cartpole), Asked(), lambda over, of: heard.append((over, of)))
    assert {of for _, of in heard} == {10}
    overs = [over for over, _ in heard]
    assert overs == sorted(overs)
    assert overs[0] == 0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"episodes": 0}, "--episodes is 0"),
        ({"epsilon": 1.5}, "--epsilon is 1.5"),
        ({"epsilon": float("nan")}, "--epsilon is nan"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_what_cannot_be_played_is_refused(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=f"^{says}"):
        Asked(**asked)


@pytest.mark.parametrize(("agent", "file"), [("dqn", schema.FINAL_CHECKPOINT), ("sb3:dqn", schema.FINAL_SB3_CHECKPOINT)])
def test_a_run_without_a_final_agent_or_with_a_damaged_one_is_named(agent: str, file: str, tmp_path: Path) -> None:
    folder = trained(tmp_path, agent, evals=1)
    record = schema.read_run(folder)
    check(folder, record, schema.FINISHED, Asked())
    whole = (folder / file).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no archive"):
        (folder / file).write_bytes(damaged)
        with pytest.raises(
            InputError, match=r"final\.\w+ is no checkpoint that can be loaded: it is damaged, or another program's$"
        ):
            play_again(folder, record, Asked())
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"^it has no final agent: no {file}"):
        check(folder, record, schema.FINISHED, Asked())


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_nothing_in_the_file_of_a_baseline_is_executed(tmp_path: Path) -> None:
    """Where the library's own format holds pickles: its settings stay closed, its tensors are read as tensors. The oracle is the library's
    load, which does fall into the trap."""
    folder = trained(tmp_path, "sb3:dqn", evals=1)
    record, file, sprung = schema.read_run(folder), folder / schema.FINAL_SB3_CHECKPOINT, tmp_path / "sprung"
    before = again(folder)
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    set_up = {":type:": "trap", ":serialized:": base64.b64encode(pickle.dumps(Trap(sprung))).decode()}
    settings = json.dumps(json.loads(parts["data"]) | {"policy_class": set_up}).encode()
    for changed, plays in (({"data": settings}, True), ({"policy.pth": pickle.dumps(Trap(sprung))}, False)):
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in (parts | changed).items():
                archive.writestr(name, content)
        if plays:
            assert again(folder) == before
        else:
            with pytest.raises(InputError, match="no checkpoint that can be loaded"):
                play_again(folder, record, Asked())
        assert not sprung.exists()
        if plays:
            with contextlib.suppress(Exception):
                DQN.load(file)
            assert sprung.exists()
            sprung.rmdir()


def test_no_network_is_made_that_is_larger_than_the_file_for_it(tmp_path: Path) -> None:
    """A run.json may ask for any; 10^9 weights would take gigabytes, and minutes."""
    folder = trained(tmp_path, "sb3:dqn", evals=1)
    record = schema.read_run(folder)
    begun = time.monotonic()
    for net_arch in ([30_000, 30_000], [10**9], "wide", [-1], [256, "x"], [8]):
        elsewhere = replace(record, agent_config=record.agent_config | {"net_arch": net_arch})
        with pytest.raises(InputError, match=r"is not of the network that its run\.json describes"):
            FinalAgent(folder, elsewhere)
    assert time.monotonic() - begun < 5


def test_a_baselines_file_in_the_folder_of_another_environment_is_named(tmp_path: Path) -> None:
    folder = trained(tmp_path, "sb3:dqn", evals=1)
    record = schema.read_run(folder)
    for env in ("LunarLander-v3", "MinAtar/Breakout-v1", "Acrobot-v1", "MountainCar-v0"):
        elsewhere = replace(record, env=replace(record.env, id=env, protocol=spec(env).protocols[0]))
        with pytest.raises(InputError, match=r"is not of the network that its run\.json describes: it is another run's"):
            play_again(folder, elsewhere, Asked())


def test_the_agent_of_another_environment_is_named(tmp_path: Path) -> None:
    """A file that was copied into the wrong folder: of other observations, or of other actions."""
    folder = trained(tmp_path, evals=1)
    record = schema.read_run(folder)
    for env, says in (
        ("LunarLander-v3", "choose from 2 actions, LunarLander-v3 has 4"),
        ("MinAtar/Breakout-v1", "2 actions, .* 3"),
    ):
        elsewhere = replace(record, env=replace(record.env, id=env, protocol=spec(env).protocols[0]))
        with pytest.raises(InputError, match=says):
            play_again(folder, elsewhere, Asked())
    mountain, acrobot = trained(tmp_path, env="MountainCar-v0", evals=1, eval_episodes=1), "Acrobot-v1"
    record = schema.read_run(mountain)
    elsewhere = replace(record, env=replace(record.env, id=acrobot))
    with pytest.raises(InputError, match=r"sees observations \(2,\), the environment's are \(6,\)"):
        play_again(mountain, elsewhere, Asked())


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (schema.RUNNING, "it trains still"),
        (schema.KILLED, "it was ended by force"),
        (schema.FAILED, "it failed"),
        (schema.DIVERGED, "it diverged"),
        (schema.INTERRUPTED, None),
    ],
)
def test_what_was_saved_on_the_way_is_no_final_agent(status: str, says: str | None, cartpole: Path) -> None:
    record = schema.read_run(cartpole)
    if says is None:
        check(cartpole, record, status, Asked())
        return
    with pytest.raises(InputError, match=f"^it has no final agent: {says}"):
        check(cartpole, record, status, Asked())
