"""The meter for anybody's training loop: ``from playmeter import Meter``."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from runs.config import ForeignConfig, InputError
from runs.schema import FAILED, FINISHED, INTERRUPTED
from runs.tally import EvaluationPlay, Tally, TrainingPlay, counted, is_counting

if TYPE_CHECKING:
    from envs.counting import CountFrames, CountVectorFrames
    from runs.recorder import Recorder

RUN_VARIABLE = "PLAYMETER_RUN"
"""The run folder that ``playmeter meter`` writes; whatever counts in the processes below counts into it."""


class Meter:
    """Meters whatever runs inside ``with``, and writes a run folder that ``playmeter report`` reads::

        with Meter("results", agent="my-dqn", env="CartPole-v1", seed=0) as meter:
            env = meter.wrap(gymnasium.make("CartPole-v1"))
            ...  # your loop

    A ledger line is written every ``heartbeat_s`` seconds by a thread. What nobody counts is recorded as not known. An exception
    that leaves ``with`` gives the status ``failed``, Ctrl-C and SIGTERM ``interrupted``; they go on their way.

    Under ``playmeter meter`` the command has the folder and the ledger, and this counts into it; the names given here are ignored.
    """

    def __init__(
        self,
        out: str | Path = "results",
        *,
        agent: str,
        env: str,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        protocol: str | None = None,
        frame_rate_hz: float | None = None,
        device: str | None = None,
        cpu_watts: str | None = None,
        wall_meter: str | Path | None = None,
        gpu_share: float = 1.0,
        flops_per_step: int | None = None,
        flops_per_update: int | None = None,
        tensorboard: bool = False,
        heartbeat_s: float = 2.0,
    ) -> None:
        """The folder is made when ``with`` begins.

        Args:
            out: folder for the run folders; the run is ``<out>/<env>/<agent>/seed<k>``.
            agent: what learns. Runs of one agent with the same ``config`` are pooled over their seeds.
            env: the environment's id; what playmeter knows of it (real-time rate, threshold) is taken over.
            config: the agent's settings, plain data for ``run.json``.
            protocol: how the environment is played, where it is one of ours (``nature``, ``sticky``, ...); Atari's default is ``own``.
            frame_rate_hz: frames in a second of human play, for an environment that playmeter does not know.
            device: ``cpu``, ``cuda:0``, ...; the default is the machine's one GPU if it has one.
            cpu_watts: the processor's draw, ``70`` or ``65:85``, where nothing measures it.
            wall_meter: a CSV that your wall meter's logger writes; see ``runs.energy.wall_meter``.
            gpu_share: this process's part of the GPU, where several runs of yours share one.
            flops_per_step, flops_per_update: model FLOPs of choosing one action and of one update, if you know them.
            tensorboard: write TensorBoard curves too (imports torch).
            heartbeat_s: seconds between ledger lines, at most 5.

        Raises InputError (a ValueError) when ``with`` begins, for what cannot be done; nothing is written then.
        """
        self._asked = ForeignConfig(
            Path(out), agent, env, seed, config or {}, protocol, frame_rate_hz, device, flops_per_step, flops_per_update,
            tensorboard, heartbeat_s, cpu_watts, None if wall_meter is None else Path(wall_meter), gpu_share,
        )  # fmt: skip
        self._recorder: Recorder | None = None
        self._folder: Path | None = None
        self._sigterm: Any = None

    @property
    def folder(self) -> Path:
        """The run folder. Raises InputError outside ``with``."""
        if self._folder is None:
            raise InputError("a Meter counts inside `with` only")
        return self._folder

    def __enter__(self) -> Meter:
        run = run_of_this_process()
        if run is not None:
            self._folder = run
        else:
            from runs.recorder import Recorder

            command = [Path(sys.argv[0]).name, *sys.argv[1:]]  # no path: run folders are handed to strangers
            self._recorder = Recorder(self._asked, command, "Meter", notice=log)
            self._folder = self._recorder.path
            self._pid = os.getpid()
            self._recorder.start()
            self._listen_for_sigterm()
        self._tally = Tally(self._folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop(status_of(error))
        self._folder = None

    def wrap(self, env: Any, *, evaluation: bool = False) -> CountFrames | CountVectorFrames | Any:
        """Count the frames, steps and episodes of a gymnasium environment, single or vector; see ``envs.counting``.

        ``evaluation=True`` counts its frames apart from training. May be called in worker processes too.
        Raises TypeError for anything else, ValueError where the environment is counted already.
        """
        from envs.counting import count

        tally = self.new_tally()
        return count(env, EvaluationPlay(tally) if evaluation else TrainingPlay(tally), self.env)

    @property
    def env(self) -> str:
        """The environment's id, as given."""
        return self._asked.env

    def new_tally(self) -> Tally:
        """A counter of this run, for what counts by itself."""
        return Tally(self.folder)

    def steps(self, n: int = 1) -> None:
        """``n`` more decisions of the agent. Once reported, only what is reported counts, not what the wrapper sees."""
        self._add("reported_steps", n)

    def frames(self, n: int) -> None:
        """``n`` more frames that no wrapper sees: for a loop without gymnasium."""
        self._add("frames", n)

    def updates(self, n: int = 1) -> None:
        """``n`` more gradient steps."""
        self._add("updates", n)

    def evaluation(self, returns: Iterable[float], lengths: Iterable[int] = (), epsilon: float | None = None) -> None:
        """Record an evaluation at this point of training: the return of each of its games, and their lengths in steps.

        Raises InputError for no game, or a return that is no number.
        """
        scores = [float(score) for score in returns]
        if not scores or any(score != score or abs(score) == float("inf") for score in scores):
            raise InputError(f"an evaluation needs the return of at least one game, each a number, not {scores}")
        steps, now = [int(length) for length in lengths], counted(self.folder)
        self._tally.event("evaluation", returns=scores, lengths=steps, epsilon=epsilon, counted=asdict(now))
        if self._recorder is not None:
            self._recorder.take_events()

    def __reduce__(self) -> tuple[Any, ...]:
        """In a worker process a Meter wraps environments and counts into the same folder; it writes no ledger there."""
        return (_in_a_worker, (self.folder, self._asked))

    def _add(self, name: str, n: int) -> None:
        if n < 0:
            raise InputError(f"counters only grow: {n} cannot be added")
        if self._folder is None:
            raise InputError("a Meter counts inside `with` only")
        self._tally.add(name, int(n))

    def _stop(self, status: str) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        if self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)
        try:
            recorder.stop(status)
        except OSError as error:  # a full disk must not hide what the training has to say
            warnings.warn(f"playmeter: {recorder.path} cannot be written: {error.strerror}", RuntimeWarning, stacklevel=3)

    def _listen_for_sigterm(self) -> None:
        """Where the script leaves SIGTERM alone, the last line says why the run ended; then it ends as it would have."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._sigterm = signal.signal(signal.SIGTERM, self._terminated)

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        if self._pid == os.getpid():  # a forked worker inherits this handler, but not the run
            self._stop(INTERRUPTED)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def count_frames(env: Any, *, evaluation: bool = False) -> Any:
    """Count what a gymnasium environment plays, single or vector: ``env.frames`` and ``env.steps``.

    Under ``playmeter meter`` it counts into that run folder too; ``evaluation=True`` apart from training.
    Raises TypeError for anything else, ValueError where the environment is counted already.
    """
    from envs.counting import count

    run = run_of_this_process()
    if run is None:
        return count(env)
    tally = Tally(run)
    return count(env, EvaluationPlay(tally) if evaluation else TrainingPlay(tally), None)


def run_of_this_process() -> Path | None:
    """The run folder of the ``playmeter meter`` above us; None where there is none, or its run has ended."""
    named = os.environ.get(RUN_VARIABLE)
    return Path(named) if named and is_counting(Path(named)) else None


def status_of(error: BaseException | None) -> str:
    """``sys.exit(0)`` is an end like any other."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return FINISHED
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED


def log(note: str) -> None:
    """Where the script sets up no logging of its own, Python shows it on stderr."""
    import logging

    logging.getLogger("playmeter").warning("playmeter: %s", note)


def _in_a_worker(folder: Path, asked: ForeignConfig) -> Meter:
    meter = Meter(asked.out, agent=asked.agent, env=asked.env)
    meter._folder, meter._tally = folder, Tally(folder)
    return meter
