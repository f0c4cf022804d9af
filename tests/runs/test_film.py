"""A game of a final agent as a moving picture: the game that was played, at its speed."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import playmeter as front_door
from envs import make, spec
from envs.protocols import PROTOCOLS
from envs.screens import screens
from runs import schema
from runs.film import STRIP, Film, durations_ms, film, moving_picture, pictures_that_fit
from runs.final_agent import Asked, play_again
from tests.runs.test_final_agent import trained

ATARI: dict[str, Any] = {"protocol": "sticky", "eval_episodes": 1, "evals": 1, "budget": "150-steps"}


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize(
    ("env", "changes"),
    [("CartPole-v1", {}), ("MountainCar-v0", {}), ("MinAtar/SpaceInvaders-v1", {}), ("ALE/Riverraid-v5", ATARI)],
)
def test_the_game_that_is_shown_is_the_one_that_is_played(env: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Random actions and sticky ones included: score and length are those of the same agent's game without screens."""
    folder = trained(tmp_path, env=env, **changes)
    record, asked = schema.read_run(folder), Asked(episodes=1, epsilon=0.9, seed=3)
    _, played = play_again(folder, record, asked)
    shown = film(folder, record, asked, seconds=1e6)
    assert shown.over
    assert [shown.scores[-1]] == played.returns[0]
    assert [len(shown.screens) - 1] == played.lengths[0]
    assert len(shown.scores) == len(shown.frames) == len(shown.screens)
    assert len({screen.tobytes() for screen in shown.screens}) > 3, "something moves"
    assert {screen.dtype for screen in shown.screens} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("seed", [1, 3])
def test_a_game_that_goes_another_way_is_not_shown(seed: int, cartpole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its pole falls sooner or later."""
    monkeypatch.setattr("runs.film.game_seeds", lambda seed, index, lanes: [7])
    with pytest.raises(RuntimeError, match="not the one that is played"):
        film(cartpole, schema.read_run(cartpole), Asked(seed=seed, epsilon=1.0), 60)


def test_a_game_that_the_world_ends_by_itself_is_shown_to_that_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator would go on at the protocol's limit of frames, and a MinAtar game for ever."""
    folder = trained(tmp_path, env="ALE/Riverraid-v5", **ATARI)
    short = replace(PROTOCOLS["sticky"], max_eval_episode_frames=60)
    monkeypatch.setitem(PROTOCOLS, "sticky", short)
    shown = film(folder, schema.read_run(folder), Asked(), 60)
    assert shown.over
    assert shown.frames[-1] == 60
    monkeypatch.setattr("runs.evaluate.MOST_GAME_STEPS", 3)
    monkeypatch.setattr("runs.film.MOST_GAME_STEPS", 3)
    minatar = trained(tmp_path, env="MinAtar/Breakout-v1", eval_episodes=1)
    shown = film(minatar, schema.read_run(minatar), Asked(), 60)
    assert shown.over
    assert len(shown.screens) - 1 == 3


def test_more_pictures_than_fit_into_memory_are_not_kept(
    cartpole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("runs.film.pictures_that_fit", lambda screen: 4)
    assert ": the beginning of a game, as much as fits into memory, " in told(capsys, str(cartpole))[1]
    monkeypatch.undo()
    screen = np.zeros((210, 160, 3), np.uint8)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2e9))
    assert 500 < pictures_that_fit(screen) < 2e9 / (3 * 320 * 464), "a captioned picture is 445 kB"


def test_ataris_screens_are_what_the_agent_sees_in_colour() -> None:
    rules, env_spec = PROTOCOLS["atari100k"], spec("ALE/Breakout-v5")
    world, seen = make(env_spec.id, 1, [5], protocol=rules.name, evaluation=True), screens(env_spec, rules, 5)
    obs, _ = world.reset()
    random = np.random.default_rng(0)
    for _ in range(100):
        screen = seen.screen()
        assert screen.shape == (210, 160, 3)
        gray = cv2.resize(cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY), (84, 84), interpolation=cv2.INTER_AREA)
        assert np.abs(gray.astype(int) - obs[0, -1]).max() <= 3
        action = int(random.integers(4))
        obs, reward, *_ = world.step(np.array([action]))
        assert seen.step(action)[0] == reward[0]
    assert len({tuple(colour) for colour in seen.screen().reshape(-1, 3)}) > 5
    world.close()
    seen.close()


def test_the_beginning_of_a_game_is_as_long_as_was_asked(tmp_path: Path) -> None:
    folder = trained(tmp_path, env="ALE/Riverraid-v5", **ATARI)
    shown = film(folder, schema.read_run(folder), Asked(), seconds=2)
    assert not shown.over
    assert len(shown.screens) == pytest.approx(2 * 15, abs=2)
    assert shown.frames[-1] == 4 * (len(shown.screens) - 1)


@pytest.mark.parametrize("step_s", [1 / 15, 1 / 50, 0.2, 4 / 50])
def test_pictures_are_seen_in_hundredths_of_a_second_that_are_right_in_sum(step_s: float) -> None:
    for pictures in (1, 2, 7, 901):
        found = durations_ms(pictures, step_s)
        assert len(found) == pictures
        assert all(one % 10 == 0 and one >= 20 for one in found), "browsers show what is shorter at another speed"
        assert sum(found[:-1]) == pytest.approx(1000 * step_s * (pictures - 1), abs=5)


def drawn(count: int) -> Film:
    pictures = [np.full((10, 20, 3), (0, 20 * k, 255), np.uint8) for k in range(count)]
    for picture in pictures:
        picture[:, ::3] = 255
    return Film(spec("ALE/Pong-v5"), pictures, [float(k) for k in range(count)], [4 * k for k in range(count)])


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_a_moving_picture_has_every_screen_larger_and_what_was_scored_below(suffix: str) -> None:
    content = Image.open(io.BytesIO(moving_picture(drawn(5), "dqn on ALE/Pong-v5", suffix)))
    assert content.n_frames == 5  # type: ignore[attr-defined]
    assert content.size == (20 * 40, 10 * 40 + STRIP)
    assert content.info.get("loop") == 0
    strips, durations = [], []
    for k in range(5):
        content.seek(k)
        content.load()
        durations.append(content.info["duration"])
        picture = np.array(content.convert("RGB"))
        assert (picture[:400] == drawn(5).screens[k].repeat(40, 0).repeat(40, 1)).all()
        strips.append(picture[400:].tobytes())
        assert picture[400:].any()
    assert len(set(strips)) == 5, "the score goes on"
    assert durations == [70, 60, 70, 70, 2000]


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = front_door.main(["video", *arguments])
    return code, *capsys.readouterr()


def test_the_command_names_the_file_and_what_it_shows(
    cartpole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (score,) = play_again(cartpole, schema.read_run(cartpole), Asked(episodes=1, epsilon=1.0, seed=2))[1].returns[0]
    code, output, errors = told(capsys, str(cartpole), "--seed", "2", "--epsilon", "1")
    assert (code, errors) == (0, "")
    assert output.startswith("video: CartPole-v1-dqn-seed3.gif: a whole game, ")
    assert f" of play, score {score:g}, " in output
    assert Image.open(tmp_path / "CartPole-v1-dqn-seed3.gif").n_frames == score + 1  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir()] == ["CartPole-v1-dqn-seed3.gif"]
    assert "the beginning of a game, 0.0600 s of play, score 3, " in told(capsys, str(cartpole), "--seconds", "0.05")[1]


def test_bad_input_leaves_nothing_behind(
    cartpole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    two = tmp_path.parent / f"{tmp_path.name}-two"
    for seed in (1, 2):
        trained(two, seeds=(seed,), budget="120-steps")
    lost = trained(tmp_path.parent / f"{tmp_path.name}-lost", budget="120-steps")
    (lost / schema.FINAL_CHECKPOINT).unlink()
    before = sorted(tmp_path.iterdir())
    for arguments, says in (
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "empty holds no run"),
        ([str(two)], "holds 2 runs: name one of them"),
        ([str(lost)], "lost/CartPole-v1/dqn/seed3: it has no final agent: no checkpoints/final.pt"),
        ([str(cartpole), "--out", "game.mp4"], "game.mp4 should end in .gif, .webp, .png"),
        ([str(cartpole), "--out", "nowhere/game.gif"], "make that folder first"),
        ([str(cartpole), "--seconds", "0"], "--seconds is 0"),
        ([str(cartpole), "--protocol", "nature"], "does not apply to CartPole-v1"),
    ):
        code, output, errors = told(capsys, *arguments)
        assert (code, output, len(errors.splitlines())) == (2, "", 1), arguments
        assert says in errors
    assert sorted(tmp_path.iterdir()) == before
