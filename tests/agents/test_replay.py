"""The replay against a naive history that keeps every transition in full."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from agents.config import AgentConfig
from agents.networks import QNetwork, flat_network
from agents.replay import Replay, ReplayLayout, gather, sample
from agents.update import Batch, OptState, UpdateNoise, make_update

PLAIN = torch.zeros(())  # the exponent of importance weights, where sampling is uniform
LIMIT = 7  # steps: the time limit of the toy game


def layout(**changes: Any) -> ReplayLayout:
    values: dict[str, Any] = {
        "seeds": 2,
        "envs_per_seed": 2,
        "capacity": 40,
        "frame_shape": (3, 2),
        "pixels": True,
        "stack": 4,
        "stack_padding": "zeros",
        "max_episode_steps": LIMIT,
        "n_step": 3,
        "gamma": 0.9,
        "clip_rewards": False,
    }
    return ReplayLayout(**(values | changes))


@dataclass
class Lane:
    """Everything that happened in one lane, nothing thrown away."""

    frames: list[NDArray[Any]] = field(default_factory=list)  # newest frame of observation t
    age: list[int] = field(default_factory=list)
    action: list[int] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    terminal: list[bool] = field(default_factory=list)  # game over or life loss
    done: list[bool] = field(default_factory=list)
    final: list[NDArray[Any] | None] = field(default_factory=list)  # last frame of an episode that the time limit ended

    def obs(self, t: int, rules: ReplayLayout) -> NDArray[Any]:
        if rules.stack == 1:
            return self.frames[t]
        return self._pad([self.frames[k] for k in range(t - min(self.age[t], rules.stack - 1), t + 1)], rules)

    def final_obs(self, t: int, rules: ReplayLayout) -> NDArray[Any]:
        last = self.final[t]
        assert last is not None
        if rules.stack == 1:
            return last
        before = [self.frames[k] for k in range(t - min(self.age[t], rules.stack - 2), t + 1)]
        return self._pad([*before, last], rules)

    @staticmethod
    def _pad(frames: list[NDArray[Any]], rules: ReplayLayout) -> NDArray[Any]:
        first = frames[0] if rules.stack_padding == "repeat" else np.zeros_like(frames[0])
        return np.stack([first] * (rules.stack - len(frames)) + frames)

    def transition(self, t: int, rules: ReplayLayout) -> tuple[NDArray[Any], int, float, float, NDArray[Any] | None]:
        """The n-step transition that starts at t, by the definition: reward by reward."""
        total, factor = 0.0, 1.0
        for k in range(t, t + rules.n_step):
            reward = float(np.clip(self.reward[k], -1, 1)) if rules.clip_rewards else self.reward[k]
            total += factor * reward
            factor *= rules.gamma
            if self.terminal[k]:
                return self.obs(t, rules), self.action[t], total, 0.0, None
            if self.final[k] is not None:
                return self.obs(t, rules), self.action[t], total, factor, self.final_obs(k, rules)
        return self.obs(t, rules), self.action[t], total, factor, self.obs(t + rules.n_step, rules)


def play(rules: ReplayLayout, steps: int, seed: int = 0) -> tuple[Replay, list[Lane]]:
    """A toy game with deaths, life losses and a time limit, written to the replay and to the naive history."""
    rng = np.random.default_rng(seed)
    replay, lanes = Replay(rules, torch.device("cpu")), [Lane() for _ in range(rules.lanes)]
    age = np.zeros(rules.lanes, int)

    def frames() -> NDArray[Any]:
        shape = (rules.lanes, *rules.frame_shape)
        return rng.integers(1, 255, shape, dtype=np.uint8) if rules.pixels else rng.normal(size=shape).astype(np.float32)

    for t in range(steps):
        newest = frames()
        for k, lane in enumerate(lanes):
            lane.frames.append(newest[k])
            lane.age.append(int(age[k]))
        replay.begin(np.stack([lane.obs(t, rules) for lane in lanes]))
        if t == steps - 1:
            break  # the step in progress
        action, reward = rng.integers(0, 5, rules.lanes), rng.normal(scale=2, size=rules.lanes)
        over, life = rng.random(rules.lanes) < 0.1, rng.random(rules.lanes) < 0.1
        truncated = (age + 1 >= LIMIT) & ~over
        last = frames()
        done = over | truncated
        for k, lane in enumerate(lanes):
            lane.action.append(int(action[k]))
            lane.reward.append(float(np.float32(reward[k])))
            lane.terminal.append(bool(over[k] or (life[k] and not truncated[k])))
            lane.done.append(bool(done[k]))
            lane.final.append(last[k] if truncated[k] else None)
        final_obs = np.stack([lane.final_obs(t, rules) if truncated[k] else lane.obs(t, rules) for k, lane in enumerate(lanes)])
        terminal = np.array([lane.terminal[-1] for lane in lanes])
        replay.complete(action, reward, terminal, done, truncated, final_obs)
        age = np.where(done, 0, age + 1)
    return replay, lanes


VARIANTS = {
    "pixels, n 3": {},
    "pixels, n 1": {"n_step": 1},
    "repeat padding": {"stack_padding": "repeat"},
    "clipped rewards": {"clip_rewards": True},
    "vectors, n 1": {"stack": 1, "pixels": False, "frame_shape": (4,), "n_step": 1},
    "vectors, n 5": {"stack": 1, "pixels": False, "frame_shape": (4,), "n_step": 5},
    "predicting 2 of 3 steps": {"predicted_steps": 2},
    "predicting 5 steps, n 3": {"predicted_steps": 5},
}


@pytest.mark.parametrize("steps", [30, 131], ids=["filling", "wrapped three times"])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_every_row_that_may_be_sampled_is_the_transition_of_the_naive_history(changes: dict[str, Any], steps: int) -> None:
    rules = layout(**changes)
    replay, lanes = play(rules, steps)
    first, count = replay.storage.clock.tolist()
    oldest = max(0, steps - rules.capacity)  # the row in progress has taken the place of the one before it
    assert first == (oldest + rules.stack - 1 if oldest else 0)
    ahead = max(rules.n_step, rules.predicted_steps)
    assert first + count - 1 == steps - 1 - ahead, "the newest start is the one whose successors are known"
    starts = torch.arange(first, first + count)
    for k, lane in enumerate(lanes):
        batch = gather(rules, replay.storage, torch.full((1, count), k), starts[None])
        for at, t in enumerate(starts.tolist()):
            obs, action, reward, discount, next_obs = lane.transition(t, rules)
            np.testing.assert_array_equal(batch.obs[0, at], obs)
            assert batch.action[0, at] == action
            assert batch.reward[0, at].item() == pytest.approx(reward, rel=1e-5, abs=1e-5)
            assert batch.discount[0, at].item() == pytest.approx(discount, rel=1e-6)
            if next_obs is not None:
                np.testing.assert_array_equal(batch.next_obs[0, at], next_obs)
            assert bool(batch.ahead) == bool(rules.predicted_steps)
            if batch.ahead:
                alive = True
                for step in range(rules.predicted_steps):
                    assert batch.ahead.action[0, at, step] == lane.action[t + step]
                    alive = alive and not lane.terminal[t + step] and not lane.done[t + step]
                    assert batch.ahead.alive[0, at, step] == alive
                    if alive:
                        np.testing.assert_array_equal(batch.ahead.obs[0, at, step], lane.obs(t + step + 1, rules))


@pytest.mark.parametrize(("n", "gamma"), [(1, 0.5), (4, 0.97), (6, 0.997)])
def test_returns_that_change_are_those_of_a_replay_with_that_n_and_discount(n: int, gamma: float) -> None:
    """Of the layout's six steps at most; n and discount are inputs, so that another value needs no other code."""
    rules = layout(n_step=6, gamma=0.123)
    replay, lanes = play(rules, 131)
    first, count = replay.storage.clock.tolist()
    assert first + count - 1 == 131 - 1 - 6, "rows are sampled once the longest return is known"
    starts = torch.arange(first, first + count)
    for k, lane in enumerate(lanes):
        batch = gather(rules, replay.storage, torch.full((1, count), k), starts[None], returns=torch.tensor([n, gamma]))
        for at, t in enumerate(starts.tolist()):
            _, _, reward, discount, next_obs = lane.transition(t, replace(rules, n_step=n, gamma=gamma))
            assert batch.reward[0, at].item() == pytest.approx(reward, rel=1e-5, abs=1e-5)
            assert batch.discount[0, at].item() == pytest.approx(discount, rel=1e-5)
            if next_obs is not None:
                np.testing.assert_array_equal(batch.next_obs[0, at], next_obs)


def test_truncation_bootstraps_and_life_loss_does_not() -> None:
    rules = layout(seeds=1, envs_per_seed=1, n_step=1, stack=1, frame_shape=(1,), pixels=False, max_episode_steps=5)
    replay = Replay(rules, torch.device("cpu"))
    yes, no = np.array([True]), np.array([False])
    ends = [(no, no, no), (yes, no, no), (no, yes, yes), (no, no, no)]  # a step, a life loss, a truncation, a step
    for t, (terminal, done, truncated) in enumerate(ends):
        replay.begin(np.array([[t]], np.float32))
        replay.complete(np.array([0]), np.array([1.0]), terminal, done, truncated, np.array([[99]], np.float32))
    replay.begin(np.array([[4]], np.float32))
    batch = gather(rules, replay.storage, torch.zeros(1, 4, dtype=torch.int64), torch.arange(4)[None])
    assert batch.discount[0].tolist() == pytest.approx([0.9, 0.0, 0.9, 0.9])
    assert batch.next_obs[0, [0, 2, 3], 0].tolist() == [1, 99, 4], "the truncated step bootstraps from what came last"


def steady(ends: dict[int, str], steps: int = 30, n_step: int = 20, gamma: float = 0.997) -> Batch:
    """Transitions from row 0 on of one lane that observes t and earns t + 1 at row t; ``ends`` says where and how it ends."""
    rules = layout(
        seeds=1, envs_per_seed=1, n_step=n_step, gamma=gamma, stack=1, frame_shape=(1,), pixels=False, max_episode_steps=25
    )
    replay = Replay(rules, torch.device("cpu"))
    for t in range(steps):
        end = ends.get(t, "")
        over, cut = np.array([end == "game over"]), np.array([end == "truncation"])
        replay.begin(np.array([[t]], np.float32))
        replay.complete(
            np.array([0]), np.array([t + 1.0]), over | (end == "life loss"), over | cut, cut, np.array([[1000 + t]], np.float32)
        )
    return gather(rules, replay.storage, torch.zeros(1, 9, dtype=torch.int64), torch.arange(9)[None])


def test_twenty_steps_sum_discounted_rewards_and_bootstrap_with_gamma_to_the_20() -> None:
    batch = steady({})
    for t in range(9):
        expected = sum(0.997**k * (t + k + 1) for k in range(20))
        assert batch.reward[0, t].item() == pytest.approx(expected, rel=1e-5)
        assert batch.discount[0, t].item() == pytest.approx(0.997**20, rel=1e-5)
        assert batch.next_obs[0, t].item() == t + 20


@pytest.mark.parametrize(("how", "alive"), [("game over", 0.0), ("life loss", 0.0), ("truncation", 1.0)])
def test_an_end_inside_twenty_steps_cuts_the_return_there(how: str, alive: float) -> None:
    """The end at row 7 is k = 7 - t rewards away: the last reward counts, and only a truncation bootstraps, with gamma^(k + 1)."""
    batch = steady({7: how})
    for t in range(8):
        length = 7 - t + 1
        expected = sum(0.997**k * (t + k + 1) for k in range(length))
        assert batch.reward[0, t].item() == pytest.approx(expected, rel=1e-5)
        assert batch.discount[0, t].item() == pytest.approx(alive * 0.997**length, rel=1e-5)
        if alive:
            assert batch.next_obs[0, t].item() == 1007, "from what came last, not from the next episode's first observation"
    assert batch.discount[0, 8].item() == pytest.approx(0.997**20, rel=1e-5), "the next episode is whole"


def test_the_c51_target_of_twenty_steps_lies_at_the_return_plus_gamma_to_the_20_times_each_atom() -> None:
    """From the replay through the update: one atom has nearly all mass at s', so the loss is the cross-entropy at one place."""
    config = AgentConfig(hidden=(4,), head="c51", num_atoms=121, v_min=0.0, v_max=600.0, n_step=20, gamma=0.997)
    net = flat_network(lambda: QNetwork(config, (1,), 1))
    certain = torch.zeros(net.size)
    net.unflatten(certain)["advantage.bias"][40] = 100.0  # the target network: 200 for sure
    uniform = torch.zeros(net.size)
    net.unflatten(uniform)["advantage.bias"].copy_(torch.linspace(0, 3, 121))  # every place has a cross-entropy of its own
    batch = Batch(*(part[0] for part in steady({})[:-2]))
    noise = UpdateNoise(torch.zeros(3, 0), *torch.zeros(3, 9, 0))
    state = OptState((torch.zeros(net.size),), (torch.zeros(net.size),), torch.zeros(()))
    losses = make_update(config, net)((uniform,), (certain,), state, batch, noise)[2]
    logits = np.linspace(0, 3, 121)
    log_p = logits - np.log(np.exp(logits).sum())
    for t in range(9):
        goal = sum(0.997**k * (t + k + 1) for k in range(20)) + 0.997**20 * 200
        expected = -np.interp(goal, np.linspace(0, 600, 121), log_p)
        assert losses[t].item() == pytest.approx(expected, rel=1e-4)


def test_sampling_is_uniform_over_rows_and_environments_of_a_seed() -> None:
    rules = layout(n_step=2, stack=1, frame_shape=(1,), pixels=False, capacity=25)
    replay, lanes = play(rules, 60)
    uniform = torch.rand(2, 40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    batch: Batch = sample(rules, replay.storage, uniform, PLAIN)[0]
    for seed in range(2):
        own = np.array([lane.frames[t][0] for lane in lanes[2 * seed : 2 * seed + 2] for t in range(35, 58)])
        counts = np.array([(batch.obs[seed, :, 0].numpy() == value).sum() for value in own])
        assert counts.sum() == 40_000, "every sample is a start of this seed that may be sampled"
        assert stats.chisquare(counts).pvalue > 1e-3


def test_sampling_reaches_every_row_of_a_million_evenly() -> None:
    """Single precision has 2^24 steps between 0 and 1: some of a million rows would come up 6 % more often than others."""
    rules = layout(seeds=1, envs_per_seed=1, capacity=10**6, stack=1, frame_shape=(1,), pixels=False, n_step=1)
    clock = torch.tensor([0, 999_000])
    index = torch.arange(999_000, dtype=torch.float64)
    inside = (index + 0.5) / 999_000  # the middle of each row's share of [0, 1)
    storage = Replay(rules, torch.device("cpu")).storage
    storage.frames[0, :999_000, 0] = index.float()
    batch, _ = sample(rules, storage._replace(clock=clock), inside[None], PLAIN)
    np.testing.assert_array_equal(batch.obs[0, :, 0], index.float())


def test_a_frame_is_stored_once() -> None:
    rules = layout(capacity=1_000_000, seeds=1, envs_per_seed=1, frame_shape=(84, 84), max_episode_steps=27_000)
    frames = rules.nbytes - 1_000_000 * 5 * 4
    assert frames == pytest.approx(7.056e9, rel=1e-3), "84 x 84 bytes a row, not eight times that"


def test_memory_for_frames_is_taken_as_they_are_written() -> None:
    """Zeroing a million Atari frames first would hold up the start of every training for seconds."""
    process, rules = psutil.Process(), layout(seeds=1, envs_per_seed=1, capacity=60_000, frame_shape=(84, 84), pixels=True)
    before = process.memory_info().rss
    replay = Replay(rules, torch.device("cpu"))
    assert process.memory_info().rss - before < rules.nbytes / 4
    assert not replay.storage.frames[:, ::9_999].any()


def test_truncation_without_a_declared_time_limit_is_refused() -> None:
    rules = layout(max_episode_steps=None, seeds=1, envs_per_seed=1)
    replay = Replay(rules, torch.device("cpu"))
    replay.begin(np.zeros((1, 4, 3, 2), np.uint8))
    yes = np.array([True])
    with pytest.raises(ValueError, match="no time limit"):
        replay.complete(np.array([0]), np.array([0.0]), ~yes, yes, yes, np.zeros((1, 4, 3, 2), np.uint8))


def test_state_dict_restores_the_replay_exactly() -> None:
    rules = layout()
    replay, _ = play(rules, 90)
    copy = Replay(rules, torch.device("cpu"))
    copy.load_state_dict(replay.state_dict())
    uniform = torch.rand(2, 64, dtype=torch.float64)
    ours, theirs = (sample(rules, it.storage, uniform, PLAIN)[0] for it in (replay, copy))
    assert ours.legal is theirs.legal is None, "a replay knows nothing of games"
    for one, other in zip(ours[:-2], theirs[:-2], strict=True):
        assert torch.equal(one, other)
    assert len(copy) == len(replay)
