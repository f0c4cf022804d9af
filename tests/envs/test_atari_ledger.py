"""Atari worlds: the frame ledger, life losses, stacks and limits, each against an emulator driven without the World."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv

from envs import PROTOCOLS, make, spec
from envs.atari import AtariWorld
from envs.games import games
from tests.envs.recount import menu_frames, recount


def plain_emulator(rom: str, seed: int, sticky: float) -> ALEInterface:
    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", sticky)
    ale.loadROM(roms.get_rom_path(rom))
    return ale


@pytest.mark.parametrize("game", ["Breakout", "Berzerk"])  # Berzerk: the counter counts 20 menu frames a reset
def test_ledger_equals_a_recount_from_the_emulators_counter(game):
    count = recount(game, episodes=20)
    assert count.same_episodes
    assert count.ledger_frames == count.emulator_frames
    assert count.noop_frames > 0
    assert count.ledger_frames < count.steps * 4 + count.noop_frames, "no game ended inside a skip: the test proves too little"


@pytest.mark.parametrize("game", ["Breakout", "Kaboom"])  # Kaboom's lives are 1 and 0 only
def test_every_step_is_what_a_plain_emulator_plays(game):
    """Frames, rewards, ends and life losses of each step, sticky actions included; a game that ends in a skip plays fewer than 4."""
    world = make(f"ALE/{game}-v5", 1, [7], protocol="sticky")
    ale = plain_emulator(games()[f"ALE/{game}-v5"].rom, 7, 0.25)
    action_set = ale.getMinimalActionSet()
    ale.reset_game()
    world.reset()
    rng = np.random.default_rng(0)
    cut = losses = 0
    for _ in range(600):
        action = int(rng.integers(len(action_set)))
        lives, before, reward = ale.lives(), ale.getFrameNumber(), 0
        for _ in range(4):
            if not ale.game_over():
                reward += ale.act(action_set[action])
        over = ale.game_over()
        lost = ale.lives() < lives and not over
        frames = ale.getFrameNumber() - before
        _, got_reward, terminated, truncated, info = world.step(np.array([action]))
        assert (got_reward[0], terminated[0], truncated[0]) == (reward, over, False)
        assert (info["frames"][0], info["life_loss"][0]) == (frames, lost)
        cut += frames < 4
        losses += lost
        if over:
            ale.reset_game()
    assert cut > 0
    assert losses > 0 or game == "Kaboom"
    assert world.frames[0] == ale.getFrameNumber()


def test_a_life_loss_is_flagged_and_the_game_goes_on():
    world = make("ALE/Breakout-v5", 1, [3])
    world.reset()
    rng = np.random.default_rng(3)
    flags = []
    for _ in range(2000):
        _, _, terminated, _, info = world.step(rng.integers(4, size=1))
        assert not (info["life_loss"] & terminated).any()
        flags.append(bool(info["life_loss"][0]))
        if terminated[0]:
            break
    assert sum(flags) == 4, "Breakout has five lives: four losses go on, the fifth ends the game"


@pytest.mark.parametrize("game", ["Breakout", "Berzerk"])
def test_a_stack_is_the_newest_frames_of_the_episode_with_zeros_before(game):
    """What a replay that stores one frame a step will rebuild."""
    world = make(f"ALE/{game}-v5", 2, [5, 6])
    assert world.stack_padding == "zeros"
    obs, _ = world.reset()
    rng = np.random.default_rng(0)
    stacks = np.zeros_like(obs)
    stacks[:, -1] = obs[:, -1]
    assert (obs == stacks).all()
    ends = 0
    for _ in range(1000):  # 2 lanes: 2,000 steps
        obs, _, terminated, truncated, info = world.step(rng.integers(world.env_spec.num_actions, size=2))
        done = terminated | truncated
        newest = np.where(done[:, None, None], info["final_obs"][:, -1], obs[:, -1]) if done.any() else obs[:, -1]
        stacks = np.concatenate([stacks[:, 1:], newest[:, None]], axis=1)
        last = info.get("final_obs", obs)
        assert (last[done] == stacks[done]).all()
        stacks[done] = 0
        stacks[done, -1] = obs[done, -1]
        assert (obs == stacks).all()
        ends += int(done.sum())
    assert ends >= 4


def test_the_frame_limit_truncates_after_a_whole_step_and_does_not_kill():
    """At the limit the last observation is that of a game which simply goes on: here the vector environment without a limit."""
    rules = replace(PROTOCOLS["nature"], max_episode_frames=200, max_eval_episode_frames=120)
    env = spec("ALE/Pong-v5")
    short = AtariWorld([env], rules, [9], False, 1)
    free = AtariVectorEnv("pong", 1, noop_max=31, use_fire_reset=False, reward_clipping=False)
    assert (short.reset()[0] == free.reset(seed=np.array([9]))[0]).all()
    noops = int(short.frames[0])
    rng = np.random.default_rng(0)
    for step in range(1, 51):
        action = rng.integers(6, size=1)
        obs, _, terminated, truncated, info = short.step(action)
        free_obs, *_ = free.step(action)
        assert not terminated[0]
        assert truncated[0] == (step == 50)  # 200 frames after the no-ops
    assert (info["final_obs"] == free_obs).all()
    assert info["episode_frames"][0] == noops + 200
    assert (obs[0, :3] == 0).all()
    assert [short.step(np.array([0]))[3][0] for _ in range(100)] == 2 * ([False] * 49 + [True])
    evaluation = AtariWorld([env], rules, [9], True, 1)
    evaluation.reset()
    assert [evaluation.step(np.array([0]))[3][0] for _ in range(30)] == [False] * 29 + [True]


class ScriptedEmulator:
    """Stands in for the vector environment: one lane, lives and ends as written, 4 frames a step."""

    def __init__(self, lives, ends):
        self.lives, self.ends, self.frame = iter(lives), iter(ends), 0

    def report(self):
        return {
            "frame_number": np.array([self.frame]),
            "episode_frame_number": np.array([0]),
            "lives": np.array([next(self.lives)]),
        }

    def reset(self, **kwargs):
        return np.zeros((1, 4, 84, 84), np.uint8), self.report()

    def send(self, actions):
        self.frame += 4

    def recv(self):
        end = np.array([next(self.ends)])
        return np.zeros((1, 4, 84, 84), np.uint8), np.zeros(1), end, np.zeros(1, bool), self.report()


def test_life_losses_where_lives_rise_start_at_zero_or_fall_in_the_first_step():
    world = make("ALE/Pong-v5", 1, [0], protocol="sticky")
    #        reset: 0; then 3 (rises), 3, 2 (lost), 3 (bonus), 2 (lost), 0 (over); reset: 3; then 2 (lost at once)
    lives = [0, 3, 3, 2, 3, 2, 0, 3, 2]
    world._pools = [(ScriptedEmulator(lives, [False, False, False, False, False, True, False]), slice(0, 1))]
    world.reset()
    flags = [bool(world.step(np.array([0]))[4]["life_loss"][0]) for _ in range(7)]
    assert flags == [False, False, True, False, True, False, True]


def test_a_death_at_the_frame_limit_is_a_death():
    world = AtariWorld([spec("ALE/Pong-v5")], replace(PROTOCOLS["sticky"], max_episode_frames=8), [0], False, 1)
    world._pools = [(ScriptedEmulator([0] * 7, [False, True, False, False]), slice(0, 1))]
    world.reset()
    ends = [world.step(np.array([0]))[2:4] for _ in range(4)]
    assert [(bool(died[0]), bool(cut[0])) for died, cut in ends] == [
        (False, False),
        (True, False),
        (False, False),
        (False, True),
    ]


def test_boot_frames_grow_with_every_reset_and_played_frames_do_not_hold_them():
    """Sticky protocol, no no-ops. Berzerk's boot: 92 frames a reset, 152 a ROM load, counted in an instrumented emulator."""
    world = make("ALE/Berzerk-v5", 1, [2], protocol="sticky")
    assert world.boot_frames[0] == 0
    world.reset()
    assert (world.frames[0], world.boot_frames[0]) == (0, 2 * 152 + 92)
    world.reset()
    assert (world.frames[0], world.boot_frames[0]) == (0, 2 * 152 + 2 * 92)
    world.step(np.array([0]))
    assert (world.frames[0], world.boot_frames[0]) == (4, 2 * 152 + 2 * 92)


def test_a_game_that_ends_during_its_noops_boots_twice():
    """Road Runner dies by itself after T no-ops; where more are drawn, the emulator resets once more. With noop_max < 2 T never twice."""
    game = games()["ALE/RoadRunner-v5"]
    ale = plain_emulator(game.rom, 1, 0.0)
    ale.reset_game()
    dies_after = 0
    while not ale.game_over():
        ale.act(0)
        dies_after += 1
    rules = replace(PROTOCOLS["nature"], noop_max=2 * dies_after - 1)
    world = AtariWorld([spec("ALE/RoadRunner-v5")], rules, [4], False, 1)
    seen = set()
    for _ in range(6):
        frames, boot = int(world.frames[0]), int(world.boot_frames[0])
        world.reset()
        noops, booted = int(world.frames[0]) - frames, int(world.boot_frames[0]) - boot
        if boot:
            twice = noops >= dies_after
            assert booted == game.reset_frames * (2 if twice else 1)
            seen.add(twice)
    assert seen == {True, False}


@pytest.mark.parametrize("name", ["Breakout", "Berzerk", "Surround", "NameThisGame", "DoubleDunk"])
def test_the_game_table_agrees_with_the_emulator(name):
    """Double Dunk's menu without sticky actions; the next test is about those."""
    game = games()[f"ALE/{name}-v5"]
    assert menu_frames(game.rom) == (game.counted_frames, game.counted_frames)
    assert len(plain_emulator(game.rom, 1, 0.0).getMinimalActionSet()) == game.actions


def test_double_dunks_menu_that_sticky_actions_prolong_is_boot_and_not_play():
    """The k-th reset's boot is that of the table, plus how much more of the menu a plain emulator with this seed counts."""
    game = games()["ALE/DoubleDunk-v5"]
    world = make("ALE/DoubleDunk-v5", 1, [8], protocol="sticky")
    ale = plain_emulator(game.rom, 8, 0.25)
    world.reset()
    ale.reset_game()
    assert not world.boot_frames_exact
    menus = set()
    for _ in range(4):
        counter, boot = ale.getFrameNumber(), int(world.boot_frames[0])
        world.reset()
        ale.reset_game()
        menu = ale.getFrameNumber() - counter
        assert world.boot_frames[0] - boot == game.reset_frames + menu - game.counted_frames
        assert world.frames[0] == 0
        menus.add(menu)
    assert len(menus) > 1, "the menu never varied: the test proves nothing"
    for _ in range(3):
        before = ale.getFrameNumber()
        for _ in range(4):
            ale.act(0)
        *_, info = world.step(np.array([0]))
        assert info["frames"][0] == ale.getFrameNumber() - before
    assert world.frames[0] == 12


def test_the_threads_do_not_change_the_game():
    played = []
    for threads in (1, 2):
        world = make("ALE/Breakout-v5", 2, 1, num_threads=threads)
        obs, _ = world.reset()
        rng = np.random.default_rng(0)
        for _ in range(200):
            obs, *_ = world.step(rng.integers(4, size=2))
        played.append((obs, world.frames, world.boot_frames))
    for one, two in zip(*played, strict=True):
        assert (one == two).all()
