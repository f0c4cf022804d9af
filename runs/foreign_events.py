"""Reader of foreign TensorBoard events: CleanRL's tags, Dopamine's, stable-baselines3's. A folder of event files is a run.

The tags and what they mean: cleanrl/*.py and cleanrl_utils/evals; dopamine/discrete_domains/run_experiment.py;
stable_baselines3/common (logger, EvalCallback). Scalars may be stored as numbers (PyTorch, TensorFlow 1) or tensors (TensorFlow 2).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from runs.config import InputError
from runs.foreign import ForeignRun, ImportConfig, Point, TrainingEpisode, is_atari, training_points
from runs.foreign_tables import steps_per_iteration
from runs.schema import EVALUATION, TRAINING

CLEANRL_RETURN, CLEANRL_LENGTH, CLEANRL_EVAL = "charts/episodic_return", "charts/episodic_length", "eval/episodic_return"
DOPAMINE_EVAL, DOPAMINE_TRAIN = "Eval/AverageReturns", "Train/AverageReturns"
SB3_EVAL, SB3_TRAIN = "eval/mean_reward", "rollout/ep_rew_mean"
CLEANRL_SETTINGS = "hyperparameters/text_summary"


class Scalar(NamedTuple):
    step: int
    value: float
    time_s: float  # Unix time


class Events:
    """The scalars and texts of one folder. Work that a restart threw away is left out, as TensorBoard does."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        self.folder = folder
        self._events = EventAccumulator(str(folder), {"scalars": 0, "tensors": 0, "images": 1, "audio": 1, "histograms": 1})
        try:
            self._events.Reload()
            tags = self._events.Tags()
        except Exception as error:  # noqa: BLE001 whatever a damaged protocol buffer makes its library raise
            raise InputError(f"{folder} holds TensorBoard events that cannot be read: {_one_line(error)}") from None
        self.tags: set[str] = {*tags["scalars"], *tags["tensors"]}
        self.start_s = float(self._events.FirstEventTimestamp()) if self.tags else 0.0

    def scalars(self, tag: str) -> list[Scalar]:
        """All points of a curve in the order written; empty where there is none. Raises InputError for one that is no number."""
        from tensorboard.util.tensor_util import make_ndarray

        if tag not in self.tags:
            return []
        if tag in self._events.Tags()["scalars"]:
            return [self._scalar(tag, e.step, e.value, e.wall_time) for e in self._events.Scalars(tag)]
        return [self._scalar(tag, e.step, make_ndarray(e.tensor_proto), e.wall_time) for e in self._events.Tensors(tag)]

    def _scalar(self, tag: str, step: int, value: Any, time_s: float) -> Scalar:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or step < 0:
            raise InputError(f"{self.folder}: {tag} at step {step} is no finite number")
        return Scalar(step, number, time_s)

    def text(self, tag: str) -> str:
        if tag not in self._events.Tags()["tensors"]:
            return ""
        strings = self._events.Tensors(tag)[0].tensor_proto.string_val
        return bytes(strings[0]).decode("utf-8", "replace") if strings else ""

    def last_step(self) -> int:
        """Of everything that is logged over training steps."""
        over_steps = [tag for tag in self.tags if tag.startswith(("charts/", "losses/")) and tag != CLEANRL_SETTINGS]
        return max(scalar.step for tag in over_steps for scalar in self.scalars(tag)[-1:])

    def wall_s(self, scalar: Scalar) -> float:
        return max(0.0, scalar.time_s - self.start_s)


def read_events(files: list[Path], config: ImportConfig) -> list[ForeignRun]:
    folders = dict.fromkeys(path.parent for path in files)
    return [_read(folder, tuple(path for path in files if path.parent == folder), config) for folder in folders]


def _read(folder: Path, files: tuple[Path, ...], config: ImportConfig) -> ForeignRun:
    events = Events(folder)
    if CLEANRL_RETURN in events.tags:
        return _cleanrl(events, files, config)
    if events.tags & {DOPAMINE_EVAL, DOPAMINE_TRAIN}:
        return _dopamine(events, files, config)
    if events.tags & {SB3_EVAL, SB3_TRAIN}:
        return _means(events, files, "tensorboard", SB3_EVAL, SB3_TRAIN, lambda step: step, {})
    found = f"; it has {', '.join(sorted(events.tags)[:6])}" if events.tags else ""
    known = ", ".join((CLEANRL_RETURN, DOPAMINE_TRAIN, SB3_TRAIN))
    raise InputError(f"{folder} has no curve of returns that is known ({known}){found}")


def _cleanrl(events: Events, files: tuple[Path, ...], config: ImportConfig) -> ForeignRun:
    env, agent, seed, total = _cleanrl_settings(events)
    returns, lengths = events.scalars(CLEANRL_RETURN), events.scalars(CLEANRL_LENGTH)
    # On Atari the lengths are emulator frames: RecordEpisodeStatistics stands inside the frame skip.
    known = len(lengths) == len(returns) and not is_atari(config.env or env)
    training = [
        TrainingEpisode(r.value, r.step, None, events.wall_s(r), int(lengths[k].value) if known else None)
        for k, r in enumerate(returns)
    ]
    final = [scalar.value for scalar in events.scalars(CLEANRL_EVAL)]  # of the trained agent, over the number of the game
    last = max(returns[-1].step, events.last_step())
    points = [Point(final, steps=last)] if final else training_points(training)
    return ForeignRun(
        "tensorboard", files, "", agent, env, seed, EVALUATION if final else TRAINING, points, training, len(training), last,
        budget=f"{total}-steps" if total else None, started_s=events.start_s,
    )  # fmt: skip


def _cleanrl_settings(events: Events) -> tuple[str | None, str | None, int | None, int | None]:
    """(env, agent, seed, total steps): from the table of settings that CleanRL writes, else from its folder's name."""
    rows = re.findall(r"^\|([^|\n]+)\|([^|\n]*)\|$", events.text(CLEANRL_SETTINGS), re.MULTILINE)
    settings = {name.strip(): value.strip() for name, value in rows}
    parts = events.folder.resolve().name.split("__")  # <env>__<script>__<seed>__<Unix time>
    named = parts if len(parts) == 4 else [None] * 4
    env, agent, seed = (settings.get(name) or named[k] for k, name in enumerate(("env_id", "exp_name", "seed")))
    return env, agent, _whole(seed), _whole(settings.get("total_timesteps"))


def _whole(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d{1,18}", text) else None


def _dopamine(events: Events, files: tuple[Path, ...], config: ImportConfig) -> ForeignRun:
    per_iteration = steps_per_iteration(events.folder, config, None)
    games = {EVALUATION: "Eval/NumEpisodes", TRAINING: "Train/NumEpisodes"}
    # Its step is the iteration; what stands at iteration i was reached after i + 1 of them.
    return _means(events, files, "dopamine", DOPAMINE_EVAL, DOPAMINE_TRAIN, lambda step: (step + 1) * per_iteration, games)


def _means(
    events: Events,
    files: tuple[Path, ...],
    name: str,
    evaluation: str,
    training: str,
    steps: Callable[[int], int],
    games_tags: dict[str, str],
) -> ForeignRun:
    """A curve of means: of evaluations where there are any, else of training episodes."""
    kind, tag = (EVALUATION, evaluation) if evaluation in events.tags else (TRAINING, training)
    games = {scalar.step: int(scalar.value) for scalar in events.scalars(games_tags.get(kind, ""))}
    trained = events.scalars(games_tags.get(TRAINING, ""))
    points = [
        Point([s.value], steps=steps(s.step), wall_s=events.wall_s(s), games=games.get(s.step)) for s in events.scalars(tag)
    ]
    episodes = int(sum(scalar.value for scalar in trained)) if trained else None
    budget = f"{points[-1].steps}-steps" if name == "dopamine" else None
    return ForeignRun(
        name, files, "", None, None, None, kind, points, episodes=episodes, budget=budget, started_s=events.start_s
    )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:150]
