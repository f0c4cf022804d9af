"""Frames of foreign scripts: what the wrappers count against a plain emulator that is driven by hand, without any wrapper.

The oracle is ``Emulator``: an AtariEnv's ``ale`` that is asked before and after every single ``act``, in a subclass of the emulator's
environment class, so it sees each frame that anybody plays and nothing that a reset boots.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TimeLimit
from stable_baselines3.common.atari_wrappers import AtariWrapper

from envs.counting import CountFrames, CountVectorFrames, count
from envs.games import games
from tests.envs.recount import menu_frames

gymnasium.register_envs(ale_py)
ALEInterface.setLoggerMode(LoggerMode.Error)


class Recounted(gymnasium.Wrapper):
    """The oracle, as the innermost layer: the emulator's counter around each of its own steps. No reset passes through ``step``."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.truth = 0

    def step(self, action: Any) -> Any:
        before = self.unwrapped.ale.getFrameNumber()
        result = self.env.step(action)
        self.truth += self.unwrapped.ale.getFrameNumber() - before
        return result


def atari(game: str = "Breakout", **options: Any) -> Recounted:
    return Recounted(gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0, **options))


def preprocessed(env: gymnasium.Env) -> gymnasium.Env:
    return FrameStackObservation(AtariPreprocessing(env, terminal_on_life_loss=True), 4)


def sb3(env: gymnasium.Env) -> gymnasium.Env:
    return AtariWrapper(env)


def play(env: Any, steps: int, reseed_every: int = 0) -> int:
    """Random play; seeded at the first reset, and at each ``reseed_every``-th. Returns the number of games that ended."""
    rng = np.random.default_rng(0)
    env.reset(seed=1)
    ends = 0
    for _ in range(steps):
        *_, terminated, truncated, _ = env.step(int(rng.integers(env.action_space.n)))
        if terminated or truncated:
            ends += 1
            env.reset(seed=ends if reseed_every and ends % reseed_every == 0 else None)
    return ends


PILES = {
    "outside of gymnasium's wrappers": lambda env: count(preprocessed(env)),
    "inside of gymnasium's wrappers": lambda env: preprocessed(count(env)),
    "between gymnasium's wrappers": lambda env: FrameStackObservation(
        count(AtariPreprocessing(env, terminal_on_life_loss=True)), 4
    ),
    "outside of stable-baselines3's wrappers": lambda env: count(sb3(env)),
    "inside of stable-baselines3's wrappers": lambda env: sb3(count(env)),
}


def counter(env: Any) -> CountFrames:
    while not isinstance(env, CountFrames):
        env = env.env
    return env


@pytest.mark.parametrize("reseed_every", [0, 2, 1])
@pytest.mark.parametrize("pile", PILES.values(), ids=PILES)
def test_frames_are_the_emulators_own_anywhere_in_a_pile_of_wrappers(pile: Any, reseed_every: int) -> None:
    oracle = atari()
    env = pile(oracle)
    ends = play(env, 250, reseed_every)
    assert ends > 1
    assert counter(env).frames == oracle.truth
    assert oracle.truth != 4 * 250, "no-op starts and cut skips are among them, or this proves little"


def test_the_frames_of_a_menu_are_not_played() -> None:
    """Berzerk's counter counts 20 menu frames a reset, 20 more when the ROM is loaded."""
    assert menu_frames("berzerk") == (20, 20)
    oracle = atari("Berzerk")
    env = count(preprocessed(oracle))
    assert play(env, 250, reseed_every=2) > 1
    assert env.frames == oracle.truth


def test_a_game_that_dies_during_its_no_op_start_is_counted_whole() -> None:
    """Road Runner dies by itself; the wrapper then resets again with the same seed, which puts the counter back to 0 unseen."""
    oracle = atari("RoadRunner")
    lasts = 0
    oracle.reset(seed=0)
    while not oracle.step(0)[2]:
        lasts += 1
    oracle.truth = 0
    env = count(AtariPreprocessing(oracle, noop_max=3 * lasts))
    for seed in range(3):
        env.reset(seed=seed)
        env.step(0)
    assert oracle.truth > lasts
    assert env.frames == oracle.truth


def test_an_environment_that_was_played_before_owes_nothing() -> None:
    oracle = atari()
    play(oracle, 50)
    before = oracle.truth
    env = count(oracle)
    env.step(0)
    assert env.frames == oracle.truth - before == 1


def test_the_frame_skip_of_the_environment_itself_is_counted() -> None:
    """Without wrappers: ALE/...-v5 skips 4 frames with sticky actions. The emulator of the same seed is replayed by hand."""
    env = count(gymnasium.make("ALE/Breakout-v5"))
    env.reset(seed=3)
    terminated, actions = False, []
    rng = np.random.default_rng(1)
    while not terminated:
        actions.append(int(rng.integers(4)))
        _, _, terminated, _, info = env.step(actions[-1])
    assert env.frames == info["frame_number"] == info["episode_frame_number"]
    assert (env.steps, env.episodes) == (len(actions), 1)
    assert env.frames <= 4 * len(actions)


class Recorded:
    def __init__(self) -> None:
        self.frames = self.steps = self.untold = 0
        self.episodes: list[tuple[float, int, int | None]] = []

    def played(self, frames: int | None, steps: int) -> None:
        self.untold += frames is None
        self.frames += frames or 0
        self.steps += steps

    def episode(self, score: float, steps: int, frames: int | None) -> None:
        self.episodes.append((score, steps, frames))


def test_episodes_and_their_frames_add_up_to_the_whole() -> None:
    book = Recorded()
    oracle = atari()
    env = count(AtariPreprocessing(oracle), book)
    rng = np.random.default_rng(0)
    env.reset(seed=1)
    while env.episodes < 3:
        *_, terminated, truncated, _ = env.step(int(rng.integers(4)))
        if (terminated or truncated) and env.episodes < 3:
            env.reset()
    assert (book.frames, book.steps) == (env.frames, env.steps) == (oracle.truth, env.steps)
    assert sum(frames or 0 for _, _, frames in book.episodes) == oracle.truth, "no-op starts belong to their episode"
    assert sum(steps for _, steps, _ in book.episodes) == env.steps


def test_an_episode_that_is_given_up_has_no_line_and_its_frames_count() -> None:
    book = Recorded()
    env = count(gymnasium.make("CartPole-v1"), book)
    env.reset(seed=0)
    env.step(0)
    env.step(0)
    env.reset()
    assert (env.frames, env.episodes, book.episodes) == (2, 0, [])
    while not book.episodes:
        env.step(0)
    assert env.frames == 2 + book.episodes[0][1] == 2 + (book.episodes[0][2] or 0)


def test_elsewhere_a_frame_is_a_step_and_nothing_that_passes_is_changed() -> None:
    plain, env = gymnasium.make("CartPole-v1"), count(gymnasium.make("CartPole-v1"))
    assert (plain.reset(seed=0)[0] == env.reset(seed=0)[0]).all()
    for step in range(1, 100):
        left, right = plain.step(step % 2), env.step(step % 2)
        assert (left[0] == right[0]).all()
        assert left[1:] == right[1:]
        if left[2]:
            plain.reset(seed=step)
            env.reset(seed=step)
    assert (env.frames, env.steps) == (99, 99)


# Vector environments.


class Game(gymnasium.Env):
    """Lasts ``length`` steps, each worth 1, and counts the steps that were really played."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length: int) -> None:
        self.length, self.at, self.played = length, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.at += 1
        self.played += 1
        return np.zeros(1, np.float32), 1.0, self.at == self.length, False, {}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_dummy_steps_are_no_frames_in_any_autoreset_mode(mode: AutoresetMode) -> None:
    book = Recorded()
    inner = SyncVectorEnv([partial(Game, 3), partial(Game, 5)], autoreset_mode=mode)
    env = count(inner, book)
    env.reset(seed=0)
    for _ in range(20):
        *_, terminated, _, _ = env.step(np.zeros(2, int))
        if mode == AutoresetMode.DISABLED and terminated.any():
            env.reset(options={"reset_mask": terminated})
    played = [game.played for game in inner.envs]
    assert env.lane_frames.tolist() == played
    assert (env.frames, env.steps, book.frames, book.steps) == (sum(played),) * 4
    assert played == ([15, 17] if mode == AutoresetMode.NEXT_STEP else [20, 20])
    assert {(score, steps, frames) for score, steps, frames in book.episodes} == {(3.0, 3, 3), (5.0, 5, 5)}
    assert len(book.episodes) == env.episodes == (5 + 3 if mode == AutoresetMode.NEXT_STEP else 6 + 4)


def test_gymnasiums_own_vector_cartpole_resets_in_dummy_steps() -> None:
    book = Recorded()
    env = count(gymnasium.make_vec("CartPole-v1", 3, "vector_entry_point"), book)
    env.reset(seed=0)
    calls, over, dummies = 200, np.zeros(3, bool), 0
    for _ in range(calls):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        dummies += int(over.sum())
        over = terminated | truncated
    assert dummies > 0
    assert env.frames == env.steps == 3 * calls - dummies
    assert book.episodes
    assert all(score == steps == frames for score, steps, frames in book.episodes)


def make_atari(game: str, pile: Any) -> gymnasium.Env:
    return pile(atari(game))


def truth_of(env: gymnasium.Env) -> int:
    while not isinstance(env, Recounted):
        env = env.env
    return env.truth


VECTOR_PILES = {"preprocessed": preprocessed, "sb3": sb3}


@pytest.mark.parametrize("game", ["Breakout", "Berzerk"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("pile", VECTOR_PILES.values(), ids=VECTOR_PILES)
def test_frames_of_vectors_of_atari_are_the_emulators_own(pile: Any, mode: AutoresetMode, game: str) -> None:
    book = Recorded()
    inner = SyncVectorEnv([partial(make_atari, game, pile)] * 2, autoreset_mode=mode)
    env = count(inner, book)
    rng = np.random.default_rng(0)
    env.reset(seed=1)
    for step in range(200):
        env.step(rng.integers(env.single_action_space.n, size=2))
        if step == 120:
            env.reset(seed=5)
    assert env.episodes > 1
    assert env.lane_frames.tolist() == [truth_of(lane) for lane in inner.envs]
    assert book.frames == env.frames


@pytest.mark.parametrize("game", ["Breakout", "Berzerk"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_emulators_in_other_processes_are_read_from_their_infos(mode: AutoresetMode, game: str) -> None:
    """The oracle: the same play in this process, where the frames of each emulator are counted one by one."""
    fns = [partial(make_atari, game, partial(AtariPreprocessing, terminal_on_life_loss=True))] * 2
    here, there = SyncVectorEnv(fns, autoreset_mode=mode), count(AsyncVectorEnv(fns, autoreset_mode=mode))
    rng = np.random.default_rng(0)
    for env in (here, there):
        env.reset(seed=1)
    for step in range(250):
        action = rng.integers(here.single_action_space.n, size=2)
        here.step(action)
        there.step(action)
        if step == 150:
            here.reset(seed=5)
            there.reset(seed=5)
        if step == 200:
            here.reset()
            there.reset()
    there.close()
    assert there.episodes > 0
    assert there.lane_frames.tolist() == [truth_of(lane) for lane in here.envs]


def drive_by_hand(game: str, seed: int, actions: list[int]) -> int:
    """Frames that a plain ALEInterface plays for these actions (-1: reset), without sticky actions and no-ops."""
    ale = ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(roms.get_rom_path(game))
    ale.reset_game()
    minimal, frames = ale.getMinimalActionSet(), 0
    for action in actions:
        if action == -1:
            ale.reset_game()
            continue
        for _ in range(4):
            if not ale.game_over():
                before = ale.getFrameNumber()
                ale.act(minimal[action])
                frames += ale.getFrameNumber() - before
    return frames


@pytest.mark.parametrize("rom", ["breakout", "berzerk"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_ale_pys_vector_environment_against_an_emulator_driven_by_hand(mode: AutoresetMode, rom: str) -> None:
    """No no-ops, so that every frame is an action of ours; the game of the table is not told, its menu is read from the counter."""
    env = count(AtariVectorEnv(rom, 1, noop_max=1, use_fire_reset=False, autoreset_mode=mode))
    rng = np.random.default_rng(2)
    env.reset(seed=7)
    actions, over = [], False
    for _ in range(700):
        actions.append(-1 if over and mode == AutoresetMode.NEXT_STEP else int(rng.integers(env.single_action_space.n)))
        *_, terminated, truncated, _ = env.step(np.array([max(actions[-1], 0)]))
        over = bool(terminated[0] or truncated[0])
        if over and mode == AutoresetMode.SAME_STEP:
            actions.append(-1)
    assert env.episodes > 2
    assert env.frames == drive_by_hand(rom, 7, actions)
    assert env.frames < 4 * env.steps


def test_no_op_starts_seeds_and_masks_of_ale_pys_vector_environment() -> None:
    """Without a menu all that the counters advance is played: with seeded and masked resets the sum of their pieces is the truth."""
    inner = AtariVectorEnv("breakout", 2, noop_max=31, use_fire_reset=True, reward_clipping=False)
    env = count(inner)
    rng = np.random.default_rng(0)
    truth, last = np.zeros(2, int), np.zeros(2, int)
    _, info = env.reset(seed=1)
    truth += info["frame_number"]
    last = info["frame_number"].copy()
    for step in range(600):
        *_, info = env.step(rng.integers(4, size=2))
        truth += info["frame_number"] - last
        last = info["frame_number"].copy()
        if step in (100, 300):
            _, info = env.reset(seed=np.array([step]), options={"reset_mask": np.array([True, False])})
            truth += [info["frame_number"][0], 0]  # its counter began at 0
            last = info["frame_number"].copy()
    assert env.lane_frames.tolist() == truth.tolist()
    assert games()["ALE/Breakout-v5"].counted_frames == 0


def test_a_vector_of_emulators_that_tells_nothing_is_not_counted_as_steps() -> None:
    class Silent(gymnasium.vector.VectorWrapper):
        def reset(self, **options: Any) -> Any:
            return self.env.reset(**options)[0], {}

        def step(self, actions: Any) -> Any:
            return (*self.env.step(actions)[:4], {})

    book = Recorded()
    env = count(Silent(AtariVectorEnv("pong", 1)), book, "ALE/Pong-v5")
    env.reset(seed=0)
    env.step(np.array([0]))
    assert env.frames is None
    assert (book.untold, book.frames, book.steps) == (2, 0, 1)


def test_what_is_counted_already_is_refused() -> None:
    with pytest.raises(ValueError, match="counted already"):
        count(TimeLimit(count(gymnasium.make("CartPole-v1")), 10))
    with pytest.raises(ValueError, match="counted already"):
        count(SyncVectorEnv([lambda: count(gymnasium.make("CartPole-v1"))]))
    with pytest.raises(ValueError, match="counted already"):
        count(gymnasium.wrappers.vector.RecordEpisodeStatistics(count(gymnasium.make_vec("CartPole-v1", 2))))


def test_what_is_no_environment_is_refused() -> None:
    with pytest.raises(TypeError, match="not in a str"):
        count("CartPole-v1")


def test_the_wrappers_are_gymnasiums_own_kinds() -> None:
    assert isinstance(count(gymnasium.make("CartPole-v1")), gymnasium.Wrapper)
    assert isinstance(count(gymnasium.make_vec("CartPole-v1", 2)), CountVectorFrames)
