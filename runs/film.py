"""A game of a run's final agent as a moving picture, at the speed of a person's play."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from envs.registry import EnvSpec, spec
from envs.screens import screens
from runs.config import InputError
from runs.evaluate import MOST_GAME_STEPS, evaluate, game_seeds, played_out
from runs.final_agent import FIRST_INDEX, Asked, FinalAgent
from runs.schema import RunRecord

FORMATS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG"}  # PNG moves too, in browsers
STEPS_PER_S = 10.0  # where a task has no physical time
HEIGHT, STRIP = 400, 44  # pixels at least of a screen; of what is written below it


@dataclass(frozen=True)
class Film:
    """Screens [T + 1] of T steps, uint8 [height, width, 3], and what had been scored and played by each of them."""

    env_spec: EnvSpec
    screens: list[NDArray[np.uint8]]
    scores: list[float]
    frames: list[int]  # after the no-op start
    over: bool = False  # the game ended; else it was left when the time was over

    @property
    def step_s(self) -> float:
        rate = self.env_spec.frame_rate_hz
        return 1 / STEPS_PER_S if rate is None else self.env_spec.frames_per_step / rate


def film(folder: Path, record: RunRecord, asked: Asked, seconds: float) -> Film:
    """The game that ``play_again`` plays first when one is asked for, or its first seconds, or as much as fits into memory.

    Raises:
        InputError: the agent cannot be loaded.
    """
    rules, agent, env_spec = asked.rules(record), FinalAgent(folder, record), spec(record.env.id)
    index = FIRST_INDEX + asked.seed
    game = screens(env_spec, rules, game_seeds(record.seed, index, 1)[0])
    shown, over = Film(env_spec, [game.screen()], [0.0], [0]), False
    most = pictures_that_fit(shown.screens[0])

    def watch(actions: NDArray[Any], rewards: NDArray[Any], done: NDArray[Any], frames: NDArray[Any]) -> None:
        nonlocal over
        reward, ended = game.step(int(actions[0]))
        played = shown.frames[-1] + int(frames[0])
        limit = rules.max_eval_episode_frames if env_spec.kind == "atari" else None  # the World's own, as MOST_GAME_STEPS
        cut = len(shown.screens) >= MOST_GAME_STEPS or (limit is not None and played >= limit)
        if reward != rewards[0] or (ended != done[0] and not cut):
            raise RuntimeError("the game that is shown is not the one that is played")
        over = bool(done[0])
        shown.screens.append(game.screen())
        shown.scores.append(shown.scores[-1] + reward)
        shown.frames.append(played)

    def enough() -> bool:
        return len(shown.screens) * shown.step_s > seconds or len(shown.screens) >= most

    try:
        played_out(evaluate(agent, [record.env.id], rules.name, 1, index, stop=enough, epsilon=asked.epsilon, watch=watch))
    finally:
        game.close()
    return replace(shown, over=over)


@dataclass(frozen=True)
class Captioned:
    """The screens as they are shown, each drawn when it is asked for: together they would take gigabytes."""

    shown: Film
    title: str
    first: int = 0

    def __iter__(self) -> Iterator[Image.Image]:  # from the first again each time: PNG's writer looks at all of them before
        font = ImageFont.load_default(size=14)
        for k, screen in enumerate(self.shown.screens[self.first :], self.first):
            yield captioned(screen, font, (self.title, progress(self.shown, k)))


def moving_picture(shown: Film, title: str, suffix: str) -> bytes:
    """The file, endlessly repeated. ``suffix``: one of FORMATS; ``title`` is written below the screen, with score and time."""
    content = io.BytesIO()
    next(iter(Captioned(shown, title))).save(
        content,
        format=FORMATS[suffix],
        save_all=True,
        append_images=Captioned(shown, title, first=1),
        duration=durations_ms(len(shown.screens), shown.step_s),
        loop=0,
        **({"lossless": True} if suffix == ".webp" else {}),
    )
    return content.getvalue()


def enlarged(screen: NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height at which a screen is shown."""
    larger = max(1, round(HEIGHT / screen.shape[0]))
    return screen.shape[1] * larger, screen.shape[0] * larger


def pictures_that_fit(screen: NDArray[np.uint8]) -> int:
    """How many can be held: Pillow's writers keep two or three copies of each until the last is there."""
    width, height = enlarged(screen)
    each = screen.nbytes + 3 * 3 * width * (height + STRIP)
    return max(2, int(0.8 * psutil.virtual_memory().available / each))


def captioned(
    screen: NDArray[np.uint8], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, lines: Sequence[str]
) -> Image.Image:
    width, height = enlarged(screen)
    picture = Image.new("RGB", (width, height + STRIP))
    picture.paste(Image.fromarray(screen).resize((width, height), Image.Resampling.NEAREST), (0, 0))
    draw = ImageDraw.Draw(picture)
    for n, line in enumerate(lines):
        draw.text((8, height + 4 + 19 * n), line, font=font, fill="white")
    return picture


def progress(shown: Film, step: int) -> str:
    score = f"score {shown.scores[step]:,.10g}"
    if shown.env_spec.frame_rate_hz is None:
        return f"{score}   step {step:,}"
    seconds = int(shown.frames[step] / shown.env_spec.frame_rate_hz)
    return f"{score}   {seconds // 60}:{seconds % 60:02} of play"


def durations_ms(pictures: int, step_s: float) -> list[int]:
    """How long each is seen: whole hundredths of a second, which is what a GIF can say, and right in sum. The last stays two seconds."""
    ends = [round(100 * step_s * k) for k in range(pictures)]
    return [10 * (after - before) for before, after in pairwise(ends)] + [2000]


def check_suffix(path: Path) -> str:
    """Raises InputError for a file whose name says no format that can be written."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"{path} should end in {', '.join(FORMATS)}: these are the moving pictures that can be written")
    return suffix
