"""Prioritised sampling against exact probabilities, the formula of the weights, and the rows it may not touch."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch._inductor.utils import run_and_get_code

from agents import priorities
from agents.compiler import compiled
from agents.config import AgentConfig
from agents.learner import Learner
from agents.priorities import Priorities
from agents.replay import Replay, ReplayLayout, gather, sample

CPU = torch.device("cpu")


def filled(values: NDArray[np.float64]) -> Priorities:
    """Priorities [S, rows], put in by the code under test, in two shuffled halves."""
    seeds, rows = values.shape
    it = priorities.no_priorities(seeds, rows, CPU)
    order = torch.stack([torch.randperm(rows, generator=torch.Generator().manual_seed(s)) for s in range(seeds)])
    for part in order.split(rows // 2 + 1, dim=1):
        priorities.write(it, part, torch.from_numpy(values).gather(1, part))
    return it


def uniforms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def goodness_of_fit(rows: NDArray[np.int64], probability: NDArray[np.float64]) -> float:
    """p-value that rows were drawn with these probabilities; rows of probability 0 must not come up at all."""
    counts = np.bincount(rows, minlength=len(probability))
    assert counts[probability == 0].sum() == 0
    possible = probability > 0
    return stats.chisquare(counts[possible], probability[possible] / probability.sum() * len(rows)).pvalue


def skewed(rng: np.random.Generator, seeds: int, rows: int) -> NDArray[np.float64]:
    """Priorities over two orders of magnitude, a fifth of them 0, among them the first and the last rows and one whole block."""
    values = 10 ** rng.uniform(-1, 1, (seeds, rows)) * (rng.random((seeds, rows)) > 0.15)
    length = priorities.block_length(rows)
    values[:, :2] = values[:, -2:] = values[:, 2 * length : 3 * length] = 0
    return values


@pytest.mark.parametrize("rows", [37, 64, 250], ids=["a last block that is not full", "full blocks", "blocks of 16"])
def test_rows_are_drawn_in_proportion_to_their_priority(rows: int) -> None:
    values = skewed(np.random.default_rng(rows), 2, rows)
    row, probability = priorities.draw(filled(values), uniforms(2, 60_000))
    for seed in range(2):
        exact = values[seed] / values[seed].sum()
        assert goodness_of_fit(row[seed].numpy(), exact) > 1e-3
        np.testing.assert_allclose(probability[seed], exact[row[seed]], rtol=1e-9)


def test_each_row_owns_its_share_of_the_unit_interval_in_order() -> None:
    """The inverse of the cumulative distribution, found by a linear search: block boundaries are nothing special."""
    values = skewed(np.random.default_rng(5), 1, 250)
    ends = np.cumsum(values[0]) / values.sum()
    points = uniforms(1, 5000, seed=2)
    expected = [int(np.argmax(ends > point)) for point in points[0].numpy()]
    np.testing.assert_array_equal(priorities.draw(filled(values), points)[0][0], expected)


@pytest.mark.parametrize("seed", range(20))
def test_a_row_of_priority_zero_is_not_drawn_even_where_rounding_points_at_it(seed: int) -> None:
    """Numbers at and next to the boundaries of all blocks and rows, where the first and last rows of blocks are 0, and whole blocks."""
    rng = np.random.default_rng(seed)
    values = 10 ** rng.uniform(-6, 3, (1, 256))
    values[:, ::16] = values[:, 15::16] = 0  # blocks have 16 rows
    values[:, :16] = values[:, 80:96] = values[:, -16:] = 0  # and some have nothing to draw
    it = filled(values)
    blocks = it.block_sum[0].numpy().cumsum()
    ends = np.concatenate([blocks, np.cumsum(values), [0.0]]) / blocks[-1]
    around = np.concatenate([np.nextafter(ends, -1), ends, np.nextafter(ends, 2)]).clip(0, np.nextafter(1, 0))
    row, probability = priorities.draw(it, torch.from_numpy(around)[None])
    assert (values[0, row[0]] > 0).all()
    assert (probability > 0).all()


def test_overwriting_priorities_moves_the_draws() -> None:
    rng = np.random.default_rng(0)
    values = skewed(rng, 2, 100)
    it = filled(values)
    for _ in range(30):
        row = np.stack([rng.permutation(100)[:8] for _ in range(2)])
        new = 10 ** rng.uniform(-2, 2, (2, 8))
        priorities.write(it, torch.from_numpy(row), torch.from_numpy(new))
        np.put_along_axis(values, row, new, axis=1)
    np.testing.assert_array_equal(it.value.flatten(1)[:, :100], values)
    np.testing.assert_allclose(it.block_sum, it.value.sum(-1))
    row_drawn, _ = priorities.draw(it, uniforms(2, 60_000))
    for seed in range(2):
        assert goodness_of_fit(row_drawn[seed].numpy(), values[seed] / values[seed].sum()) > 1e-3


def test_a_row_written_twice_at_once_takes_the_larger_value_in_either_order() -> None:
    for value in ([3.0, 0.5, 2.0], [0.5, 3.0, 2.0]):
        it = filled(np.full((1, 20), 9.0))
        priorities.write(it, torch.tensor([[4, 4, 7]]), torch.tensor([value], dtype=torch.float64))
        assert it.value.flatten()[[3, 4, 7]].tolist() == [9.0, 3.0, 2.0], "the old value does not count"
        assert it.block_sum.sum().item() == pytest.approx(9 * 18 + 5)


@pytest.mark.compiler
@pytest.mark.usefixtures("readable")
def test_writing_compiled_is_in_place_and_calls_nothing_where_once_stands() -> None:
    """Otherwise the numbers would be the same, later: all priorities copied twice, and a call into Python, at every update."""
    it, row, value = filled(skewed(np.random.default_rng(0), 1, 4321)), torch.tensor([[3, 4000, 3]]), uniforms(1, 3)
    expected = Priorities(*(tensor.clone() for tensor in it))
    priorities.write(expected, row, value)
    with torch._inductor.config.patch(fx_graph_cache=False), torch._functorch.config.patch(enable_autograd_cache=False):
        _, (code,) = run_and_get_code(compiled(priorities.write, CPU), it, row, value)
    for tensor, like in zip(it, expected, strict=True):
        torch.testing.assert_close(tensor, like)
    allocated = [
        math.prod(map(int, re.findall(r"\d+", sizes))) for sizes in re.findall(r"empty_strided_cpu\(\(([^)]*)\)", code)
    ]
    assert allocated
    assert it.value.numel() not in allocated
    assert "ops.playmeter" not in code


def test_the_largest_priority_ever_is_remembered_for_each_seed() -> None:
    it = priorities.no_priorities(2, 10, CPU)
    assert it.largest.tolist() == [1, 1], "Schaul et al. 2016, algorithm 1: p_1 = 1"
    priorities.write(it, torch.tensor([[1, 2], [1, 2]]), torch.tensor([[7.0, 3.0], [0.2, 0.1]], dtype=torch.float64))
    priorities.write(it, torch.tensor([[1], [1]]), torch.tensor([[2.0], [0.3]], dtype=torch.float64))
    assert it.largest.tolist() == [7, 1]


def test_importance_weights_follow_the_formula() -> None:
    """Schaul et al. 2016, section 3.4: (N P(i))^-beta over the largest of the batch."""
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(50), 3)[:, :16]
    for beta in (0.0, 0.4, 1.0):
        raw = [[(50 * p) ** -beta for p in row] for row in probability]
        expected = [[w / max(row) for w in row] for row in raw]
        actual = priorities.importance_weights(torch.from_numpy(probability), torch.tensor(50), torch.tensor(beta))
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


# Through the replay.


def layout(**changes: Any) -> ReplayLayout:
    values: dict[str, Any] = {
        "seeds": 2,
        "envs_per_seed": 3,
        "capacity": 29,
        "frame_shape": (1,),
        "pixels": False,
        "stack": 1,
        "stack_padding": "zeros",
        "max_episode_steps": None,
        "n_step": 2,
        "gamma": 0.9,
        "clip_rewards": False,
        "prioritized": True,
    }
    return ReplayLayout(**(values | changes))


def step(replay: Replay, t: int) -> None:
    """Lane k observes 1000 k + t at row t: an observation says where it comes from."""
    lanes, no = replay.layout.lanes, np.zeros(replay.layout.lanes, bool)
    replay.begin((1000 * np.arange(lanes)[:, None] + t).astype(np.float32))
    replay.complete(np.zeros(lanes, np.int64), np.zeros(lanes), no, no, no, None)


def in_order(replay: Replay) -> NDArray[np.float64]:
    """Priorities [S, E x rows that may be sampled], environment by environment, oldest first."""
    first, count = replay.storage.clock.tolist()
    rules = replay.layout
    per_env = replay.storage.priorities.value.flatten(1)[:, : rules.envs_per_seed * rules.capacity].numpy()
    slots = np.arange(first, first + count) % rules.capacity
    return per_env.reshape(rules.seeds, rules.envs_per_seed, rules.capacity)[:, :, slots].reshape(rules.seeds, -1)


@pytest.mark.parametrize("steps", [12, 29, 30, 85])
def test_rows_that_may_be_sampled_start_at_the_largest_priority_and_all_others_have_none(steps: int) -> None:
    replay = Replay(layout(), CPU)
    for t in range(steps):
        if t == 8:
            row, _ = priorities.draw(replay.storage.priorities, uniforms(2, 4))
            priorities.write(replay.storage.priorities, row, torch.full((2, 4), 5.0, dtype=torch.float64))
        step(replay, t)
    kept = in_order(replay)
    assert kept.shape == (2, 3 * len(replay))
    value = replay.storage.priorities.value
    assert (value.numpy() > 0).sum() == kept.size, "every row outside the window has priority 0"
    newest = kept.reshape(2, 3, -1)[..., -1]
    assert (newest == 5.0).all(), "a new row starts with the largest priority so far"
    if steps == 12:
        assert set(np.unique(kept)) == {1.0, 5.0}
    np.testing.assert_allclose(replay.storage.priorities.block_sum, value.sum(-1))


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("steps", [20, 75], ids=["filling", "came round twice"])
def test_the_replay_draws_rows_of_all_environments_with_the_exact_probabilities(share: float, steps: int) -> None:
    rules = layout(priority_uniform_share=share)
    replay = Replay(rules, CPU)
    rng = np.random.default_rng(0)
    for t in range(steps):
        step(replay, t)
        if len(replay):  # and priorities change all the while
            row = sample(rules, replay.storage, uniforms(2, 6, seed=t), torch.ones(()))[1]
            priorities.write(replay.storage.priorities, row, torch.from_numpy(10 ** rng.uniform(-1, 1, (2, 6))))
    first, count = replay.storage.clock.tolist()
    batch, row = sample(rules, replay.storage, uniforms(2, 60_000, seed=99), torch.tensor(0.7))
    value = in_order(replay)
    for seed in range(2):
        exact = (1 - share) * value[seed] / value[seed].sum() + share / (3 * count)
        lane, t = np.divmod(batch.obs[seed, :, 0].numpy().astype(int), 1000)
        assert set(lane) == {3 * seed, 3 * seed + 1, 3 * seed + 2}
        index = (lane - 3 * seed) * count + t - first
        assert ((t >= first) & (t < first + count)).all(), "only rows that may be sampled"
        assert goodness_of_fit(index, exact) > 1e-3
        np.testing.assert_array_equal(row[seed], (lane - 3 * seed) * rules.capacity + t % rules.capacity)
        weight = (3 * count * exact[index]) ** -0.7
        np.testing.assert_allclose(batch.weight[seed], weight / weight.max(), rtol=1e-5)


# Through the learner.

CONFIG = AgentConfig(
    hidden=(16,),
    batch_size=12,
    replay_capacity=90,
    learning_starts_steps=30,
    envs_per_seed=3,
    prioritized=True,
    priority_exponent=0.6,
)


def learner(config: AgentConfig) -> Learner:
    rules = layout(capacity=30, frame_shape=(4,), n_step=1, priority_uniform_share=config.priority_uniform_share)
    return Learner(config, rules, 3, (4, 9))


def play(it: Learner, steps: int, reward_scale: float = 1.0, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        action = it.act(rng.normal(size=(6, 4)).astype(np.float32))
        over = rng.random(6) < 0.1
        it.record(action, reward_scale * rng.normal(size=6), over, over, np.zeros(6, bool), None)


def td_errors(it: Learner) -> torch.Tensor:
    """|TD error| of every row that may be sampled [S, E x rows], with the present parameters."""
    first, count = it.replay.storage.clock.tolist()
    seed = torch.arange(2)[:, None]
    lane = 3 * seed + torch.arange(3).repeat_interleave(count)[None]
    batch = gather(it.layout, it.replay.storage, lane, torch.arange(first, first + count).repeat(2, 3))
    errors = []
    for k in range(2):
        online, target = (it.network.unflatten(flat[k]) for flat in (it.params, it.target))
        q = it.network.apply(online, batch.obs[k])[..., 0].gather(1, batch.action[k][:, None])[:, 0]
        goal = batch.reward[k] + batch.discount[k] * it.network.apply(target, batch.next_obs[k])[..., 0].amax(1)
        errors.append((goal - q).abs())
    return torch.stack(errors).detach()


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_an_update_writes_the_errors_of_the_rows_it_sampled_to_those_rows(share: float) -> None:
    it = learner(replace(CONFIG, priority_uniform_share=share))
    play(it, 45)
    for _ in range(10):
        before, errors = in_order(it.replay).copy(), td_errors(it).numpy()
        it.update()
        after = in_order(it.replay)
        changed = before != after
        for seed in range(2):
            assert 4 <= changed[seed].sum() <= 12
        np.testing.assert_allclose(after[changed], errors[changed] ** 0.6, rtol=1e-4)


def test_an_update_changes_the_rows_its_random_numbers_point_at_and_weighs_their_losses() -> None:
    """25 steps after a warm-up of 30 and 0.4 to 1 over 50 steps: the exponent of the weights is 0.7."""
    config = replace(CONFIG, importance_anneal_steps=50)
    it, twin = learner(config), learner(config)
    for one in (it, twin):
        play(one, 45)
        one.update()
        one.steps = 55
    rows, weights = weighted_sample(twin, 0.7)
    before = it.replay.storage.priorities.value.flatten(1).clone()
    errors = td_errors(it)
    first, count = it.replay.storage.clock.tolist()
    loss = it.update().loss
    changed = before != it.replay.storage.priorities.value.flatten(1)
    for seed in range(2):
        assert set(changed[seed].nonzero()[:, 0].tolist()) == set(rows[seed].tolist())
        place = rows[seed] // 30 * count + (rows[seed] - first) % 30
        delta = errors[seed, place]
        huber = torch.nn.functional.smooth_l1_loss(delta, torch.zeros_like(delta), reduction="none")
        assert loss[seed].item() == pytest.approx((weights[seed] * huber).mean().item(), rel=1e-4)


def weighted_sample(it: Learner, exponent: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and weights [S, B] that the next update will see, found with its own random numbers."""
    batch, rows = sample(it.layout, it.replay.storage, it._update_noise.draw(), torch.tensor(exponent))
    return rows, batch.weight


def test_the_cross_entropy_of_c51_is_cut_at_100_before_the_exponent_and_errors_in_rewards_are_not() -> None:
    """dqn_zoo, rainbow/agent.py."""
    sure, wrong = learner(replace(CONFIG, head="c51", num_atoms=5)), learner(CONFIG)
    for it, scale in ((sure, 1e3), (wrong, 1.0)):
        it.params.mul_(scale)
        play(it, 45, reward_scale=1e5)
        for _ in range(20):
            it.update()
    assert sure.replay.storage.priorities.largest.tolist() == pytest.approx([100**0.6] * 2)
    assert (wrong.replay.storage.priorities.largest > 1_000**0.6).all()


@pytest.mark.parametrize("head", ["scalar", "qr", "iqn"])
def test_errors_of_exactly_zero_leave_every_row_reachable_and_every_weight_finite(head: str) -> None:
    """A world without rewards and a network of zeros: nothing is ever wrong. Schaul et al. 2016, section 3.3: p = |delta| + eps."""
    it = learner(replace(CONFIG, head=head, num_quantiles=4, num_tau=4, num_tau_target=4))
    it.params.zero_()
    it.target.zero_()
    play(it, 45, reward_scale=0.0)
    for _ in range(150):
        it.update()
    kept = in_order(it.replay)
    assert (kept < 0.01).all(), "by now every row was found to be right"
    assert (kept > 0).all(), "and still every row can be drawn"
    batch, _ = sample(it.layout, it.replay.storage, uniforms(2, 64), torch.ones(()))
    np.testing.assert_allclose(batch.weight, 1)
    assert torch.isfinite(it.params).all()
