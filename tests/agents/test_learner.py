"""The lifted learner: seeds, compilation and call order change nothing but rounding."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agents.compiler import leaves
from agents.config import AgentConfig
from agents.learner import Learner
from agents.noise import BLOCK_STEPS, INIT_STREAM, Noise
from agents.replay import ReplayLayout

CONFIG = AgentConfig(
    hidden=(32, 32),
    batch_size=16,
    replay_capacity=200,
    learning_starts_steps=20,
    target_period_updates=10,
    epsilon_decay_steps=60,
    learning_rate=1e-3,
)


def learner(
    seeds: tuple[int, ...],
    config: AgentConfig = CONFIG,
    frame_shape: tuple[int, ...] = (4,),
    num_actions: int | tuple[int, ...] = 3,
    **options: Any,
) -> Learner:
    layout = ReplayLayout(
        seeds=len(seeds),
        envs_per_seed=config.envs_per_seed,
        capacity=config.replay_capacity // config.envs_per_seed,
        frame_shape=frame_shape,
        pixels=len(frame_shape) > 1,
        stack=1,
        stack_padding="zeros",
        max_episode_steps=30,
        n_step=config.longest_return_steps,
        gamma=config.gamma,
        clip_rewards=False,
        prioritized=config.prioritized,
        priority_uniform_share=config.priority_uniform_share,
        predicted_steps=config.predicted_steps,
    )
    return Learner(config, layout, num_actions, seeds, **options)


class Toy:
    """A world whose lanes depend on their own seed and actions alone: the state drifts with the action."""

    def __init__(self, seeds: tuple[int, ...]) -> None:
        self.generators = [np.random.default_rng(seed) for seed in seeds]
        self.state = np.stack([g.normal(size=4) for g in self.generators])
        self.age = np.zeros(len(seeds), int)

    def obs(self) -> np.ndarray:
        return self.state.astype(np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        for k, g in enumerate(self.generators):
            self.state[k] = 0.9 * self.state[k] + 0.3 * (action[k] - 1) + 0.1 * g.normal(size=4)
        reward = -np.abs(self.state).sum(1)
        terminal, self.age = reward < -4, self.age + 1
        truncated = (self.age >= 30) & ~terminal
        final = self.obs()
        done = terminal | truncated
        for k in np.flatnonzero(done):
            self.state[k], self.age[k] = self.generators[k].normal(size=4), 0
        return reward, terminal, truncated, final


class Pictures(Toy):
    """The same world seen as two channels of 36 x 36 pixels."""

    def obs(self) -> np.ndarray:
        x, y = np.mgrid[:36, :36] / 6
        first, second, third, fourth = (self.state[:, k, None, None].round(2) for k in range(4))
        waves = np.stack([np.sin(first + x * second + y), np.cos(third + y * fourth + x)], axis=1)
        return (127.5 + 127 * waves).astype(np.uint8)


def train(it: Learner, steps: int, fused: bool = True, world: Toy | None = None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Losses [S] of every update and actions [L] of every step."""
    toy = world or Toy(it.seeds)
    losses, actions = [], []
    for _ in range(steps):
        if it.updates_due() and fused:
            action, metrics = it.act_and_update(toy.obs())
            losses.append(metrics.loss.cpu().numpy().copy())
        else:
            action = it.act(toy.obs())
            losses += [it.update().loss.cpu().numpy().copy() for _ in range(it.updates_due())]
        reward, terminal, truncated, final = toy.step(action)
        it.record(action, reward, terminal, terminal | truncated, truncated, final)
        actions.append(action.copy())
    return losses, actions


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.compiler
def test_eager_and_compiled_one_seed_and_one_of_four_give_the_same_losses() -> None:
    """The four ways to run the same update, over 50 updates of a run with terminations and truncations."""
    runs = {}
    for name, seeds, compiled in (
        ("eager 1", (7,), False),
        ("compiled 1", (7,), True),
        ("eager 4", (3, 5, 7, 9), False),
        ("compiled 4", (3, 5, 7, 9), True),
    ):
        losses, actions = train(learner(seeds, compile=compiled), 72)
        k = seeds.index(7)
        runs[name] = np.array([loss[k] for loss in losses[:50]]), np.array([action[k] for action in actions])
    reference, reference_actions = runs.pop("eager 1")
    assert len(reference) == 50
    assert reference[-1] != reference[0]
    for name, (losses, actions) in runs.items():
        np.testing.assert_array_equal(actions, reference_actions, err_msg=name)
        np.testing.assert_allclose(losses, reference, rtol=2e-4, err_msg=name)


RAINBOW = replace(
    CONFIG,
    head="c51",
    num_atoms=21,
    v_min=-20.0,
    v_max=5.0,
    double=True,
    dueling=True,
    noisy=True,
    prioritized=True,
    priority_uniform_share=0.1,
    n_step=3,
)
IQN = replace(CONFIG, head="iqn", num_tau=6, num_tau_target=5, num_tau_act=4, tau_cosines=8)
DRQ = replace(
    CONFIG, encoder="der", hidden=(16,), batch_size=4, augment=True, double=True, dueling=True, target_ema_rate=0.05, n_step=3
)
NATURE = replace(DRQ, encoder="nature", optimiser_eps=1e-6)  # Winograd's products, where they are ours
SR_SPR = replace(
    NATURE, self_predict=True, self_predict_steps=2, head="c51", num_atoms=11, reset_every_steps=30, act_with_target=True
)
BBF = replace(
    SR_SPR,
    encoder="impala",
    n_step=2,
    n_step_start=4,
    gamma_start=0.9,
    anneal_updates=20,
    weight_decay=0.1,
    target_ema_rate=0.05,
    optimiser_eps=1e-3,
    learning_rate=3e-5,  # of pixels that are equal in a flat picture, rounding decides which is the largest and takes the gradient
)
AGENTS = {
    "bbf": BBF,
    "self-prediction and resets": SR_SPR,
    "rainbow": RAINBOW,
    "iqn": IQN,
    "drq with der's encoder": DRQ,
    "drq with nature's encoder": NATURE,
}


def losses_of(config: AgentConfig, seeds: tuple[int, ...], updates: int = 30, compile: bool = False) -> np.ndarray:
    """Losses of seed 7 over the first updates."""
    pictures = config.encoder != "mlp"
    it = learner(seeds, config, (2, 36, 36) if pictures else (4,), compile=compile)
    world = (Pictures if pictures else Toy)(seeds)
    losses, _ = train(it, updates + 22, world=world, fused=False)
    assert len(losses) >= updates
    return np.array([loss[seeds.index(7)] for loss in losses[:updates]])


@pytest.mark.parametrize("config", AGENTS.values(), ids=AGENTS)
def test_one_seed_alone_and_as_one_of_four_give_the_same_losses_with_every_idea(config: AgentConfig) -> None:
    alone, one_of_four = losses_of(config, (7,)), losses_of(config, (3, 5, 7, 9))
    assert len(set(alone)) == 30
    np.testing.assert_allclose(one_of_four, alone, rtol=5e-4)


def test_shift_and_brightness_reach_the_update() -> None:
    still = replace(DRQ, shift_pixels=0, intensity_scale=0.0)
    losses = [
        losses_of(config, (7,), updates=2)
        for config in (still, replace(still, shift_pixels=4), replace(still, intensity_scale=0.3), still)
    ]
    np.testing.assert_array_equal(losses[0], losses[3])
    assert len({loss[0] for loss in losses}) == 3, "the same transitions, looked at in three ways"


@pytest.mark.compiler
def test_eager_and_compiled_give_the_same_losses_for_rainbow() -> None:
    """The other agents, and rainbow's several seeds, are compiled in tests/slow: half a minute each where nothing is cached."""
    config = replace(RAINBOW, hidden=(16,))
    np.testing.assert_allclose(losses_of(config, (7,), compile=True), losses_of(config, (7,)), rtol=5e-4)


def test_seeds_of_a_group_differ() -> None:
    losses, actions = train(learner((0, 1, 2)), 60)
    assert len({tuple(np.array(losses)[:, k]) for k in range(3)}) == 3
    assert len({tuple(np.array(actions)[:, k]) for k in range(3)}) == 3


def test_what_a_seed_draws_is_its_own_and_does_not_depend_on_its_neighbours() -> None:
    device = torch.device("cpu")
    both, alone, other = (Noise(seeds, 1, 5, device) for seeds in ((3, 4), (4,), (4,)))
    other_stream = Noise((4,), 2, 5, device)
    for _ in range(BLOCK_STEPS + 3):
        three, four = both.draw()
        assert torch.equal(four, alone.draw()[0])
        assert not torch.equal(three, four)
        assert not torch.equal(other_stream.draw(), other.draw())


DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")]
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("normal", [False, True])
def test_noise_goes_on_from_its_state(device: str, normal: bool) -> None:
    """Before its first number, in the middle of a block, and at its end, where the next block is not drawn yet."""
    noise, other = (Noise((3, 4), 1, 7, torch.device(device), normal) for _ in range(2))
    taken_at, drawn = (0, 5, BLOCK_STEPS - 1, BLOCK_STEPS, 2 * BLOCK_STEPS, 2 * BLOCK_STEPS + 1), 0
    for at in taken_at:
        for _ in range(at - drawn):
            noise.draw()
        drawn = at
        other.load_state_dict(noise.state_dict())
        ahead = Noise((3, 4), 1, 7, torch.device(device), normal)
        for _ in range(at):
            ahead.draw()
        for _ in range(3):
            assert torch.equal(other.draw(), ahead.draw()), at


def test_a_state_of_a_gpus_generator_is_gone_on_from_on_a_cpu_with_numbers_that_depend_on_it_alone() -> None:
    """16 bytes, as torch has them on CUDA: a seed and an offset; in a checkpoint zeros stand behind them."""
    noise = Noise((3, 4), 1, 7, torch.device("cpu"))
    state = noise.state_dict()
    start = torch.zeros_like(state["start"])
    assert start.shape == (2, 5056)
    start[:, :8] = torch.tensor([[9], [10]])

    def drawn(start: torch.Tensor) -> torch.Tensor:
        noise.load_state_dict({"start": start, "next": 0})
        return noise.draw().clone()

    first = drawn(start)
    assert torch.equal(drawn(start), first)
    assert not torch.equal(first[0], first[1])
    later = start.clone()
    later[:, 8] = 4
    assert not torch.equal(drawn(later), first)


def test_a_reset_mixes_the_convolutions_with_fresh_ones_and_begins_the_rest_anew() -> None:
    """Of each network with numbers of its own; the optimiser forgets, the replay stays."""
    every, keep = 40, 0.75
    config = replace(SR_SPR, reset_every_steps=every, reset_keep=keep)
    it, never = (learner((3, 4), c, (2, 36, 36)) for c in (config, replace(config, reset_every_steps=None)))
    for each in (it, never):
        train(each, every, world=Pictures((3, 4)))
        each.act(Pictures((3, 4)).obs())
    assert never.updates == it.updates > 10
    assert torch.equal(never.replay.storage.meta, it.replay.storage.meta)
    assert torch.equal(never.replay.storage.priorities.value, it.replay.storage.priorities.value)
    assert it.state_dict()["optimiser"]["updates"].tolist() == [0, 0]
    fresh: dict[str, list[torch.Tensor]] = {}
    for seed in (0, 1):
        for vectors in ("params", "target"):
            before, after = (each.network.unflatten(getattr(each, vectors)[seed]) for each in (never, it))
            for name, values in after.items():
                mixed = name.startswith(("convs.", "transition."))
                new = (values - keep * before[name]) / (1 - keep) if mixed else values
                fan_in = after[name.replace("bias", "weight")][0].numel()
                assert 0.8 < new.abs().max() * fan_in**0.5 < 1.001, f"{name}: uniform within +-1/sqrt(fan in)"
                fresh.setdefault(name, []).append(new)
        for vectors in ("mean", "square"):
            before, after = (each.network.unflatten(getattr(each, vectors)[seed]) for each in (never, it))
            assert not any(values.any() for values in after.values()), "the optimiser knows nothing"
            assert all(values.any() for values in before.values())
        for name, values in it.network.unflatten(it._fresh(INIT_STREAM)[seed]).items():
            fresh[name].append(values)  # what it began with
    for name, draws in fresh.items():
        for one, other in itertools.combinations(draws, 2):
            assert not torch.allclose(one, other, atol=1e-3), f"{name}: every network's numbers are its own"
    assert torch.equal(torch.cat(it._state[0], 1), it.params), "where the calls read them"
    assert torch.equal(torch.cat(it._state[1], 1), it.target)
    assert torch.equal(it._acts, it.target)
    reset = it.params.clone()
    losses, _ = train(it, every, world=Pictures((3, 4)))
    assert np.isfinite(losses).all()
    again = learner((3, 4), config, (2, 36, 36))
    train(again, every, world=Pictures((3, 4)))
    again.act(Pictures((3, 4)).obs())
    assert torch.equal(again.params, reset)


def test_resets_come_every_so_many_steps_once_it_learns_and_never_after_the_last_step() -> None:
    config = replace(CONFIG, reset_every_steps=9, learning_starts_steps=25, envs_per_seed=2)
    it, numbers = learner((0,), config), []
    reset = it._reset
    it._reset = lambda number: (numbers.append((it.steps, number)), reset(number))[1]  # type: ignore[method-assign]
    train(it, 30, world=Toy((0, 1)))
    assert numbers == [(28, 3), (36, 4), (46, 5), (54, 6)]


def test_n_and_discount_go_from_start_to_end_over_updates_and_again_after_a_reset() -> None:
    """As bigger_better_faster's exponential schedules: n in powers of 3 / 10, the distance of the discount to 1 in powers of 0.1."""
    config = replace(
        CONFIG, n_step=3, n_step_start=10, gamma=0.997, gamma_start=0.97, anneal_updates=20, reset_every_steps=80,
        replay_capacity=500,
    )  # fmt: skip
    it, seen = learner((0, 1), config), []
    update = it._calls["update"]
    it._calls["update"] = lambda *args: (seen.append(args[-1].returns.tolist()), update(*args))[1]
    train(it, 110, fused=False, world=Toy((0, 1)))
    first = next(k for k in range(1, len(seen)) if seen[k][0] > seen[k - 1][0])
    assert first == 80 - 20 - 1, "the updates before the reset"
    for part in (seen[:first], seen[first:]):
        for k, (n, gamma) in enumerate(part):
            left = max(0, 20 - k) / 20
            assert n == round(10 * 0.3 ** (1 - left))
            assert gamma == pytest.approx(1 - 0.003 * 10**left, rel=1e-6)
    assert [n for n, _ in seen[:21:4]] == [10, 8, 6, 5, 4, 3]


def test_returns_that_change_from_a_value_to_the_same_are_constant_ones() -> None:
    config = replace(CONFIG, n_step=3, prioritized=True)
    constant, _ = train(learner((0, 1), config), 80, world=Toy((0, 1)))
    annealed, _ = train(learner((0, 1), replace(config, n_step_start=3, gamma_start=0.99)), 80, world=Toy((0, 1)))
    np.testing.assert_allclose(annealed, constant, rtol=1e-5)
    other, _ = train(learner((0, 1), replace(config, n_step_start=3, gamma_start=0.9)), 80, world=Toy((0, 1)))
    assert not np.allclose(other, constant, rtol=1e-2)


@pytest.mark.parametrize("rate", [None, 0.02])
def test_it_acts_with_its_target_network_where_it_is_told_to(rate: float | None) -> None:
    config = replace(
        CONFIG, epsilon_start=0.0, epsilon_end=0.0, target_ema_rate=rate, target_period_updates=1_000, act_with_target=True
    )
    it = learner((0, 1), config)
    train(it, 120, world=Toy((0, 1)))
    obs = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)

    def best(flat: torch.Tensor, seed: int, shown: np.ndarray) -> list[int]:
        out = it.network.apply(it.network.unflatten(flat[seed]), torch.from_numpy(shown))
        return [int(action) for action in it.network.q_values(out).argmax(1)]

    assert it.greedy(obs).tolist() == best(it.target, 0, obs[:100]) + best(it.target, 1, obs[100:])
    assert it.greedy(obs).tolist() != best(it.params, 0, obs[:100]) + best(it.params, 1, obs[100:])
    for k in range(0, 100, 9):
        shown = obs[[k, k + 100]]
        expected = best(it.target, 0, shown[:1]) + best(it.target, 1, shown[1:])
        assert it.act(shown).tolist() == expected
        assert it.act_and_update(shown)[0].tolist() == expected, "with the one from before the update"
    assert torch.equal(it.agent(1)[1], it.target[1]), "what is kept of it is what played"


def test_the_ema_target_moves_its_share_of_the_way_at_every_update() -> None:
    it = learner((0, 1), replace(CONFIG, target_ema_rate=0.1))
    toy = Toy((0, 1))
    train(it, 22, world=toy)
    expected = it.target.clone()
    for _ in range(15):
        train(it, 1, world=toy)
        expected = 0.9 * expected + 0.1 * it.params
        torch.testing.assert_close(it.target, expected, rtol=1e-5, atol=1e-7)
    assert it.updates == 16


def test_acting_and_learning_in_one_call_or_in_two_is_the_same() -> None:
    one, two = train(learner((0, 1)), 80, fused=True), train(learner((0, 1)), 80, fused=False)
    np.testing.assert_allclose(one[0], two[0], rtol=1e-5)
    np.testing.assert_array_equal(one[1], two[1])


def test_the_order_of_one_step_is_store_act_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner and its parts write to one tape; the whole sequence of two steps is asserted."""
    it = learner((0,), replace(CONFIG, learning_starts_steps=4, target_period_updates=2))
    tape: list[str] = []

    def tap(owner: Any, name: str, label: str) -> None:
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (tape.append(label), call(*a, **k))[1])

    tap(it.replay, "begin", "store obs")
    tap(it.replay, "complete", "store outcome")
    for name, call in list(it._calls.items()):
        monkeypatch.setitem(it._calls, name, lambda *a, name=name, call=call: (tape.append(name), call(*a))[1])
    toy = Toy((0,))
    for _ in range(6):
        before = it.target.clone()
        train(it, 1, fused=False, world=toy)
        if not torch.equal(before, it.target):
            tape.append("target copied")
    assert tape == [
        *["store obs", "act", "store outcome"] * 5,  # 4 steps of warm-up; updates are due once they are over
        *["store obs", "act", "update", "store outcome"],
    ]
    tape.clear()
    before = it.target.clone()
    train(it, 1, fused=False, world=toy)
    assert tape == ["store obs", "act", "update", "store outcome"]
    assert not torch.equal(before, it.target), "the second update copies the target"
    assert torch.equal(it.params, it.target)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 2.0, 0.3])
def test_updates_follow_the_replay_ratio(ratio: float) -> None:
    it = learner((0,), replace(CONFIG, replay_ratio=ratio))
    losses, _ = train(it, 121, fused=False)
    assert len(losses) == it.updates == int((120 - 20) * ratio + 1e-9)


def test_several_environments_per_seed_count_as_steps() -> None:
    config = replace(CONFIG, envs_per_seed=4)
    it = learner((0,), config)
    toy = Toy((0, 1, 2, 3))
    losses, _ = train(it, 20, fused=False, world=toy)
    assert it.steps == 80
    assert len(losses) == 76 - 20


def test_epsilon_decides_how_often_actions_are_random() -> None:
    config = replace(CONFIG, epsilon_start=0.4, epsilon_end=0.4, learning_starts_steps=0)
    it = learner((0,), config)
    it.params.zero_()
    it.params[:, -3:] = torch.tensor([0.0, 0.0, 5.0])  # output biases: action 2 is the best everywhere
    obs = np.zeros((1, 4), np.float32)
    actions = [it.act(obs)[0] for _ in range(3000)]
    counts = np.bincount(actions, minlength=3) / 3000
    assert counts == pytest.approx([0.4 / 3, 0.4 / 3, 0.6 + 0.4 / 3], abs=0.03)


def test_epsilon_schedule() -> None:
    config = replace(CONFIG, epsilon_start=1.0, epsilon_end=0.1, learning_starts_steps=100, epsilon_decay_steps=200)
    assert [config.epsilon(s) for s in (0, 99, 100, 200, 300, 10**6)] == pytest.approx([1, 1, 1, 0.55, 0.1, 0.1])


def test_importance_exponent_schedule() -> None:
    """By hand: constant through the warm-up of 100 steps, then 0.4 to 1 over 200 steps, half of it after 100."""
    config = replace(
        CONFIG,
        learning_starts_steps=100,
        importance_exponent_start=0.4,
        importance_exponent_end=1.0,
        importance_anneal_steps=200,
    )
    exponents = [config.importance_exponent(s) for s in (0, 100, 150, 200, 300, 10**6)]
    assert exponents == pytest.approx([0.4, 0.4, 0.55, 0.7, 1, 1])
    at_once = replace(config, importance_anneal_steps=0)
    assert at_once.importance_exponent(100) == 1


def test_the_schedules_reach_acting_and_learning() -> None:
    config = replace(CONFIG, learning_starts_steps=10, epsilon_end=0.5, epsilon_decay_steps=20, importance_anneal_steps=60)
    it = learner((0,), config)
    it.steps = 25  # 15 steps after the warm-up: 3/4 of the way to 0.5, 1/4 of the way from 0.4 to 1
    assert it._observe(np.zeros((1, 4), np.float32)).epsilon.item() == pytest.approx(0.625)
    assert it._learning().importance_exponent.item() == pytest.approx(0.55)


@pytest.mark.parametrize(("config", "steps"), [(CONFIG, 600), (RAINBOW, 150)], ids=["dqn", "rainbow"])
def test_state_dict_continues_exactly(tmp_path: Any, config: AgentConfig, steps: int) -> None:
    """Saved to disk and read back safely, the copy does what the original does, bit for bit."""
    it, toy = learner((0, 1), config), Toy((0, 1))
    train(it, 47, world=toy)
    torch.save(it.state_dict(), tmp_path / "state.pt")
    copy = learner((0, 1), config)
    copy.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    twin = Toy((0, 1))
    twin.generators = [np.random.default_rng() for _ in range(2)]
    for one, other in zip(twin.generators, toy.generators, strict=True):
        one.bit_generator.state = other.bit_generator.state
    twin.state, twin.age = toy.state.copy(), toy.age.copy()
    losses, actions = train(it, steps, world=toy)
    losses_copy, actions_copy = train(copy, steps, world=twin)
    np.testing.assert_array_equal(losses, losses_copy)
    np.testing.assert_array_equal(actions, actions_copy)
    assert it.params_sha256() == copy.params_sha256()


@pytest.mark.compiler
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("config", [CONFIG, replace(RAINBOW, target_ema_rate=0.01)], ids=["dqn", "rainbow"])
def test_a_learner_in_pieces_learns_what_a_learner_in_one_does(
    config: AgentConfig, compile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it acts by, the gradient's norm, the target that follows: nothing knows where the parameters are cut."""
    seen = []
    for large, count in ((10**9, 1), (500, 3)):
        monkeypatch.setattr("agents.networks.LARGE_NUMEL", large)
        it = learner((0, 1), replace(config, max_grad_norm=0.5), compile=compile, together=True)
        assert len(it._state[0]) >= count
        losses, actions = train(it, 120)
        seen.append((losses, actions, it.params.clone(), it.target.clone()))
    np.testing.assert_array_equal(seen[0][1], seen[1][1])
    for one, other in zip(seen[0], seen[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.compiler
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("ema_rate", [None, 0.1])
def test_rounded_weights_follow_the_parameters_and_the_target(
    ema_rate: float | None, compile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.networks.LARGE_NUMEL", 500)
    config = replace(CONFIG, precision="bf16", target_ema_rate=ema_rate)
    it, other = learner((0, 1), config, compile=compile, together=True), learner((2, 3), config)
    before = [tensor.clone() for tensor in leaves(it._state)]
    it.warm_up(np.ones((2, 4), np.float32))
    assert all(map(torch.equal, leaves(it._state), before)), "warmed up on copies, of these as well"
    train(it, 57)  # 37 updates: the target is 7 old
    train(other, 25)
    other.seeds = it.seeds
    other.load_state_dict(it.state_dict())
    for one in (it, other):
        for vector, pieces, count in ((one.params, one._read, 1), (one.target, one._state[1], ema_rate is None)):
            read, exact = torch.cat([piece.float() for piece in pieces], 1), vector.bfloat16().float()
            where = read != vector
            assert torch.equal(read[where], exact[where])
            assert where.any() == bool(count)
            assert sum(piece.dtype == torch.bfloat16 for piece in pieces) == count
    assert not torch.equal(it.params, it.target)


def test_the_state_of_other_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match="seeds"):
        learner((0, 1)).load_state_dict(learner((0, 2)).state_dict())


def test_params_sha256_tells_seeds_and_agents_apart() -> None:
    it = learner((0, 1))
    first = it.params_sha256()
    assert first == learner((0, 1)).params_sha256()
    assert first[0] != first[1]
    train(it, 40)
    assert it.params_sha256()[0] != first[0]


@pytest.mark.parametrize("together", [True, False])
def test_warm_up_changes_nothing(together: bool) -> None:
    it, other = learner((0, 1), together=together), learner((0, 1))
    it.warm_up(np.zeros((2, 4), np.float32))
    assert it.updates == 0
    np.testing.assert_array_equal(train(it, 40)[0], train(other, 40)[0])
