"""Wrappers that count the frames somebody else's script plays, wherever in its pile of wrappers they stand.

A frame of Atari is what the emulator's own counter says it is, no-op starts included: frame skip, a game that ends inside a skip
and resets that wrappers make by themselves are all in it. Of any other environment a frame is a step.

How the emulator is read:

- an ``AtariEnv`` in this process (alone, or in a ``SyncVectorEnv``): its counter before and after each of its own resets. A reset
  plays no frame, but a seeded one puts the counter back to 0 and some games count their menu in it. That is why its ``reset``, deep
  below all wrappers, is listened to: a wrapper resets again when a game dies during its no-op start, and no outer wrapper sees it.
- ``AtariVectorEnv`` and emulators in other processes: ``info["frame_number"]``. There a no-op start that a Python wrapper began
  again with the same seed is counted once only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, Protocol, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from envs.games import games
from envs.registry import relative

Ints = NDArray[np.int64]


class Listener(Protocol):
    """Who is told what was played."""

    def played(self, frames: int | None, steps: int) -> None:
        """So much more. ``frames`` is None where this environment does not say how many it plays."""
        ...

    def episode(self, score: float, steps: int, frames: int | None) -> None:
        """An episode is over; ``score`` sums the rewards as they pass the wrapper."""
        ...


class EmulatorCounter:
    """Played frames of one ``AtariEnv``, since this object was made."""

    def __init__(self, atari: Any, from_episode_start: bool = False) -> None:
        """``from_episode_start``: the episode that was begun before, its no-op start above all, counts too."""
        self._ale = atari.ale
        self._booked = 0
        self._at = self._ale.getFrameNumber()
        if from_episode_start:
            self._at -= max(0, self._ale.getEpisodeFrameNumber() - menu_frames(_game_id(atari)))
        self.before_reset = 0
        """``frames`` when the latest reset began."""
        atari.reset = self._listening(atari.reset)

    @property
    def frames(self) -> int:
        return self._booked + int(self._ale.getFrameNumber()) - self._at

    def _listening(self, reset: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(reset)
        def listened_reset(*args: Any, **kwargs: Any) -> Any:
            self._booked = self.before_reset = self.frames
            try:
                return reset(*args, **kwargs)
            finally:
                self._at = self._ale.getFrameNumber()

        return listened_reset


class CountFrames(gymnasium.Wrapper[Any, Any, Any, Any]):
    """One environment; nothing that passes is changed.

    ``frames`` and ``steps`` are cumulative, ``episodes`` are those that ended. A step is a call of ``step``: stand where the agent
    acts, outside a frame skip, for steps to be decisions; frames are the same anywhere.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], listener: Listener | None = None) -> None:
        refuse_to_count_twice(env)
        super().__init__(env)
        self.steps = self.episodes = 0
        self._emulator = EmulatorCounter(env.unwrapped) if is_emulator(env.unwrapped) else None
        self._emulated = 0  # frames of the emulator that are booked
        self._listener = listener
        self._score, self._first_step, self._first_frame = 0.0, 0, 0  # of this episode

    @property
    def frames(self) -> int:
        return self.steps if self._emulator is None else self._emulated

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        self._begin_episode()  # one that is given up has no line
        if self._emulator is not None:
            self._read(self._emulator, 0)
        elif self._listener is not None:
            self._listener.played(0, 0)
        return result

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        # Once a step of somebody else's training: as little as can be.
        result = self.env.step(action)
        self.steps += 1
        self._score += float(result[1])
        if self._emulator is not None:
            self._read(self._emulator, 1)
        elif self._listener is not None:
            self._listener.played(1, 1)
        if result[2] or result[3]:
            self.episodes += 1
            if self._listener is not None:
                self._listener.episode(self._score, self.steps - self._first_step, self.frames - self._first_frame)
            self._begin_episode()
        return result

    def _begin_episode(self) -> None:
        self._score, self._first_step, self._first_frame = 0.0, self.steps, self.frames

    def _read(self, emulator: EmulatorCounter, steps: int) -> None:
        before, self._emulated = self._emulated, emulator.frames
        if self._listener is not None:
            self._listener.played(self._emulated - before, steps)


class CountVectorFrames(VectorWrapper[Any, Any, Any, Any, Any]):
    """A vector environment; nothing that passes is changed. The step that only resets a lane (autoreset NEXT_STEP) is no step.

    ``lane_frames`` int64 [L] is cumulative; ``frames`` is its sum, None where emulators play that tell nothing of their counter.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], listener: Listener | None = None, env_id: str | None = None) -> None:
        refuse_to_count_twice(env)
        super().__init__(env)
        self.steps = self.episodes = 0
        self.lane_frames: Ints = np.zeros(self.num_envs, np.int64)
        self._listener = listener
        self._emulators = emulators_of(env)
        self._counters = InfoCounters(self.num_envs, env_id or _vector_id(env))
        self._knows_frames = True
        self._mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._over: NDArray[np.bool_] = np.zeros(self.num_envs, np.bool_)
        self._scores = np.zeros(self.num_envs)
        self._lengths: Ints = np.zeros(self.num_envs, np.int64)
        self._from: Ints = np.zeros(self.num_envs, np.int64)

    @property
    def frames(self) -> int | None:
        return int(self.lane_frames.sum()) if self._knows_frames else None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        asked = (options or {}).get("reset_mask")  # now: an environment may take it out
        mask = np.ones(self.num_envs, np.bool_) if asked is None else np.array(asked, np.bool_)
        result = self.env.reset(seed=seed, options=options)
        self._over[mask] = False
        self._scores[mask] = 0
        self._lengths[mask] = 0
        self._from[mask] = self.lane_frames[mask]
        self._book(np.zeros(self.num_envs, np.int64), lambda: self._counters.reset(mask, seed is not None, result[1]))
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        result = self.env.step(actions)
        _, reward, terminated, truncated, info = result
        real = ~self._over
        self._book(real.astype(np.int64), lambda: self._counters.stepped(info, self._mode))
        self._scores[real] += np.asarray(reward)[real]
        self._lengths[real] += 1
        done = np.asarray(terminated) | np.asarray(truncated)
        for lane in np.flatnonzero(done):
            self._ended(int(lane))
        if self._mode == AutoresetMode.NEXT_STEP:
            self._over = done.copy()
        return result

    def _book(self, steps: Ints, read_info: Callable[[], Ints | None]) -> None:
        """Add this call's steps [L] and its frames: the emulators', or those that the info tells, or one a step."""
        frames: Ints | None
        if self._emulators:
            frames = np.array([emulator.frames for emulator in self._emulators]) - self.lane_frames
        else:
            frames = read_info()
            if frames is None and not self._counters.is_atari:
                frames = steps
        self.steps += int(steps.sum())
        if frames is None:
            self._knows_frames = False
        else:
            self.lane_frames = self.lane_frames + frames
        if self._listener is not None:
            self._listener.played(int(frames.sum()) if frames is not None else None, int(steps.sum()))

    def _ended(self, lane: int) -> None:
        """In SAME_STEP the no-op start of the next episode is already among the frames: it is the next one's."""
        end = int(self.lane_frames[lane])
        if self._mode == AutoresetMode.SAME_STEP:
            fresh = self._emulators[lane].before_reset if self._emulators else end - int(self._counters.after_start[lane])
            end = fresh if fresh > self._from[lane] else end  # else a wrapper ended the episode and did not reset the game
        self.episodes += 1
        if self._listener is not None:
            frames = end - int(self._from[lane]) if self._knows_frames else None
            self._listener.episode(float(self._scores[lane]), int(self._lengths[lane]), frames)
        self._scores[lane] = self._lengths[lane] = 0
        self._from[lane] = end


class InfoCounters:
    """Played frames of L emulators, from the counters in the infos of a vector environment.

    ``frame_number`` less ``episode_frame_number`` is the counter at the start of an episode: it moves where a lane was reset.
    """

    def __init__(self, lanes: int, env_id: str | None) -> None:
        self._menu = None if env_id is None or relative(env_id) is None else menu_frames(env_id)
        spec = None if env_id is None else relative(env_id)
        self.is_atari = spec is not None and spec.kind == "atari"
        self._counter: Ints = np.zeros(lanes, np.int64)
        self._start: Ints = np.zeros(lanes, np.int64)
        self._loaded = False
        self.after_start: Ints = np.zeros(lanes, np.int64)
        """[L] Played frames since the start of the episode, of the latest answer."""

    def reset(self, mask: NDArray[np.bool_], seeded: bool, info: dict[str, Any]) -> Ints | None:
        """Frames [L] that a reset of the lanes in ``mask`` played: no-op starts. None where the info does not tell."""
        read = self._read(info)
        if read is None:
            return None
        counter, start = (np.where(mask, new, old) for new, old in zip(read, (self._counter, self._start), strict=True))
        if self._menu is None:  # a freshly loaded ROM has booted once, and its counter shows the menu of that boot
            self._menu = int(start[mask].min()) if seeded or not self._loaded else 0
        # A ROM that was loaded starts from its menu; where the lanes' past is not known, only this episode is ours.
        base = np.where(mask, self._menu if seeded else self._counter if self._loaded else start, self._counter)
        self._loaded = True
        resets = np.where(mask, 1 + (start != base), 0)  # reset once more where the game ended during its no-ops
        return self._advance(counter, start, base, resets)

    def stepped(self, info: dict[str, Any], mode: AutoresetMode) -> Ints | None:
        """Frames [L] of a step, with the no-op starts of the lanes that it reset. None where the info does not tell."""
        read = self._read(info)
        if read is None or not self._loaded:  # wrapped in the midst of an episode
            return None
        counter, start = read
        # The counter at which a first reset can have begun: at once (NEXT_STEP), or after the frames of one step.
        latest = self._counter + (MOST_SKIPPED if mode == AutoresetMode.SAME_STEP else 0)
        resets = np.where(start == self._start, 0, 1 + (start > latest))
        return self._advance(counter, start, self._counter, resets)

    def _advance(self, counter: Ints, start: Ints, base: Ints, resets: Ints) -> Ints:
        menu = self._menu or 0
        self._counter, self._start = counter, start
        self.after_start = counter - start - menu
        return counter - base - resets * menu

    def _read(self, info: dict[str, Any]) -> tuple[Ints, Ints] | None:
        """(counter, counter at the start of the episode), each [L]; lanes that the info leaves out stay as they were."""
        if "frame_number" not in info or "episode_frame_number" not in info:
            return None
        self.is_atari = True
        told = np.asarray(info.get("_frame_number", np.ones(len(self._counter), np.bool_)))
        counter = np.asarray(info["frame_number"], np.int64)
        start = counter - np.asarray(info["episode_frame_number"], np.int64)
        return np.where(told, counter, self._counter), np.where(told, start, self._start)


MOST_SKIPPED = 16  # frames of one step; more than any frame skip in use, fewer than a game with a menu can last


def count(env: Any, listener: Listener | None = None, env_id: str | None = None) -> CountFrames | CountVectorFrames:
    """Wrap a gymnasium environment, single or vector. Raises TypeError for anything else, ValueError where it is counted already."""
    if isinstance(env, VectorEnv):
        return CountVectorFrames(env, listener, env_id)
    if isinstance(env, gymnasium.Env):
        return CountFrames(env, listener)
    raise TypeError(
        f"frames can be counted in a gymnasium.Env or gymnasium.vector.VectorEnv, not in a {type(env).__name__}; "
        "for stable-baselines3 use MeterCallback"
    )


def is_emulator(env: Any) -> bool:
    return hasattr(getattr(env, "ale", None), "getEpisodeFrameNumber")


def emulators_of(env: VectorEnv[Any, Any, Any]) -> list[EmulatorCounter]:
    """A counter for each lane that plays an ``AtariEnv`` in this process; none for any other vector environment."""
    inner = _lanes(env)
    return [EmulatorCounter(lane.unwrapped) for lane in inner] if inner and all(is_emulator(e.unwrapped) for e in inner) else []


def menu_frames(env_id: str | None) -> int:
    """Frames that the emulator counts in a reset although nobody plays them."""
    spec = None if env_id is None else relative(env_id)
    return games()[spec.id].counted_frames if spec is not None and spec.kind == "atari" else 0


def refuse_to_count_twice(env: Any) -> None:
    for layer in _layers(env):
        if isinstance(layer, CountFrames | CountVectorFrames) or any(
            isinstance(inner, CountFrames) for lane in _lanes(layer) for inner in _layers(lane)
        ):
            raise ValueError("the frames of this environment are counted already: wrap it once")


def _layers(env: Any) -> Iterator[Any]:
    while env is not None:
        yield env
        env = env.__dict__.get("env")


def _lanes(env: Any) -> Sequence[gymnasium.Env[Any, Any]]:
    """The environments of a vector environment that live in this process."""
    lanes = getattr(env.unwrapped, "envs", None) if isinstance(env, VectorEnv) else None
    return lanes if isinstance(lanes, list) and all(isinstance(lane, gymnasium.Env) for lane in lanes) else []


def _vector_id(env: VectorEnv[Any, Any, Any]) -> str | None:
    return None if env.spec is None else env.spec.id


def _game_id(atari: Any) -> str | None:
    return None if atari.spec is None else str(atari.spec.id)
