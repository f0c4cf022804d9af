"""Writes the run folder of a loop that is not ours: counters and events of ``runs.tally``, figures of ``runs.meter``."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.registry import relative, spec
from runs.config import ForeignConfig, InputError
from runs.folder import RunFolder, agent_folder, check_writable, new_folder, remove_folder
from runs.killed import close_killed, product
from runs.machine import describe_device, describe_machine, git_commit, tree_rss_bytes, versions
from runs.meter import Meter as ProcessMeter
from runs.schema import MOST_HEARTBEAT_S, RUNNING, Counts, EnvRecord, EvalRecord, Flops, LedgerLine, RunRecord, total_energy
from runs.tally import Counted, Events, close_counting, counted, open_counting

if TYPE_CHECKING:
    from runs.curves import Curves

OWN = "own"
"""The protocol and the budget of a loop that is not ours: as its author wrote it."""


class Recorder:
    """From ``start`` to ``stop``: a ledger line every few seconds, and each episode and evaluation that was counted.

    The two are called by one thread; a thread of our own beats in between unless ``threaded`` is False and the caller does.
    """

    def __init__(
        self,
        asked: ForeignConfig,
        command: list[str],
        how: str,
        children_only: bool = False,
        notice: Callable[[str], None] = lambda note: None,
    ) -> None:
        """Makes the run folder, and ends those beside it whose writer was killed. Raises InputError; then nothing was written.

        Args:
            how: the loop is metered, for ``run.json``.
            children_only: the loop runs in child processes, so the memory of this one is none of its.
            notice: told what is missing or odd in the figures, each once.
        """
        asked.check()
        self._children_only = children_only
        check_writable(asked.out)
        self.asked, self.device = asked, device_record(asked.device)
        record = run_record(asked, command, how, self.device)
        self.meter = ProcessMeter(self.device, energy=asked.energy)
        self._notice, self._told = notice, list[str]()
        close_killed(agent_folder(asked.out, asked.env, asked.agent))
        self.path = new_folder(asked.out, asked.env, asked.agent, asked.seed)
        try:
            self._folder = RunFolder(self.path, record)
            self._writer = open_counting(self.path)
        except OSError as error:
            remove_folder(self.path, asked.out)
            raise InputError(f"{asked.out} cannot be written: {error.strerror}; choose another folder") from error
        self._rate_hz = record.env.frame_rate_hz
        self._events = Events(self.path)
        self._curves = curves(self.path, record) if asked.tensorboard else None
        self._scores: list[float] = []
        self._eval_steps: int | None = 0  # of the evaluations that were reported; None: one came without its lengths
        self._peak_rss_bytes = 0
        self._lock = threading.RLock()  # a signal handler may beat in the midst of a beat
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.last: LedgerLine | None = None

    def start(self, threaded: bool = True) -> None:
        self.meter.start()
        self._start_ns = time.monotonic_ns()
        self.beat()
        if threaded:
            self._thread = threading.Thread(target=self._beat_until_stopped, name="playmeter-heartbeat", daemon=True)
            self._thread.start()

    def stop(self, status: str) -> None:
        """Write the last line and close everything."""
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=MOST_HEARTBEAT_S)
        with self._lock:
            self.take_events()
            self.meter.stop()
            self.beat(status)
            self._folder.close()
            if self._curves is not None:
                self._curves.close()
            close_counting(self.path)
            self._writer.close()

    def withdraw(self) -> None:
        """Nothing came of it: leave no trace."""
        self.meter.stop()
        self._folder.close()
        self._writer.close()
        remove_folder(self.path, self.asked.out)

    def look(self) -> None:
        """Between two beats: the memory of the process tree, and what was counted meanwhile."""
        with self._lock:
            self._peak_rss_bytes = max(self._peak_rss_bytes, tree_rss_bytes(not self._children_only))
            self.take_events()

    def beat(self, status: str = RUNNING) -> None:
        """One line of the ledger."""
        with self._lock:
            self.look()
            reading, counts = self.meter.read(), counted(self.path)
            self._tell_notes()
            before, mine = self.last, not self._children_only
            lineage = Counts(counts.frames, counts.steps, counts.updates, counts.episodes)
            self.last = LedgerLine(
                status=status,
                time_utc=datetime.now(UTC).isoformat(timespec="seconds"),
                lineage=lineage,
                consumed=lineage,
                eval_frames=counts.eval_frames,
                boot_frames=None,
                wall_s=reading.wall_s,
                active_s={},
                cpu_s=reading.cpu_s,
                gpu_allocated_s=reading.gpu_allocated_s,
                gpu_busy_s=reading.gpu_busy_s,
                energy=reading.energy,
                flops=self._flops(counts),
                peak_rss_bytes=self._peak_rss_bytes,
                peak_cuda_bytes=reading.peak_cuda_bytes if mine else None,
                peak_cuda_allocated_bytes=reading.peak_cuda_allocated_bytes if mine else None,
                notes=list(self.meter.notes),
            )
            self._folder.ledger(self.last)
            if self._curves is not None and before is not None:
                self._draw(self._curves, before, self.last)

    def take_events(self) -> None:
        """Write the episodes and evaluations that were counted since the last time."""
        with self._lock:
            for event in self._events.new():
                wall_s = max(0.0, (event["ns"] - self._start_ns) / 1e9)
                if event["kind"] == "episode":
                    self._folder.episode(event["score"], event["steps"], wall_s, event["frames"])
                    if self._curves is not None:
                        self._scores.append(event["score"])
                else:
                    self._evaluated(event, wall_s)

    def _evaluated(self, event: dict[str, Any], wall_s: float) -> None:
        energy, counts = total_energy(self.meter.read().energy), Counted(**event["counted"])
        if self._eval_steps is not None:
            self._eval_steps = self._eval_steps + sum(event["lengths"]) if event["lengths"] else None
        record = EvalRecord(
            steps=counts.steps,
            frames=counts.frames,
            updates=counts.updates,
            wall_s=wall_s,
            joules=energy.joules,
            low_j=energy.low_j,
            high_j=energy.high_j,
            flops=self._flops(counts).total,
            epsilon=event["epsilon"],
            returns=event["returns"],
            lengths=event["lengths"],
        )
        self._folder.evaluation(record)
        if self._curves is not None:
            self._curves.over_every_axis("evaluation score", record.mean_return, self._axes(counts, wall_s, record.joules))

    def _flops(self, counts: Counted) -> Flops:
        """What the user's numbers per step and per update give; without them nothing is known."""
        asked, eval_steps = self.asked, self._eval_steps if counts.eval_steps is None else counts.eval_steps
        return Flops(
            act=product(asked.flops_per_step, counts.steps),
            update=product(asked.flops_per_update, counts.updates),
            eval=product(asked.flops_per_step, eval_steps),
        )

    def _draw(self, curves: Curves, before: LedgerLine, line: LedgerLine) -> None:
        from runs.curves import live

        assert line.wall_s is not None  # only imports do not know it
        if self._scores:
            score = sum(self._scores) / len(self._scores)
            curves.over_every_axis("training score", score, self._axes(line.lineage, line.wall_s, line.joules))
            self._scores.clear()
        steps = line.lineage.steps
        curves.over_steps(
            live(before, line), round(line.wall_s) if steps is None else steps
        )  # seconds, where nobody counts steps
        curves.flush()

    def _axes(self, counts: Counts | Counted, wall_s: float, joules: float) -> dict[str, float | None]:
        from runs.curves import axes

        play_s = None if counts.frames is None or self._rate_hz is None else counts.frames / self._rate_hz
        return axes(counts.steps, counts.frames, play_s, wall_s, joules)

    def _tell_notes(self) -> None:
        for note in self.meter.notes:
            if note not in self._told:
                self._told.append(note)
                self._notice(note)

    def _beat_until_stopped(self) -> None:
        while not self._stopping.wait(self.asked.heartbeat_s):
            try:
                self.beat()
            except OSError as error:  # a full disk must not end the training
                warnings.warn(f"playmeter: {self.path} cannot be written: {error.strerror}", RuntimeWarning, stacklevel=1)


def run_record(asked: ForeignConfig, command: list[str], how: str, device: dict[str, Any]) -> RunRecord:
    return RunRecord(
        agent=asked.agent,
        agent_config=dict(asked.config),
        env=env_record(asked.env, asked.protocol, asked.frame_rate_hz),
        seed=asked.seed,
        group_seeds=[asked.seed],
        share=1.0,
        budget=OWN,
        run_config={
            "metered": how,
            "cpu_watts": asked.cpu_watts,
            "wall_meter": None if asked.wall_meter is None else asked.wall_meter.name,  # no path: folders are handed on
            "gpu_share": asked.gpu_share,
            "heartbeat_s": asked.heartbeat_s,
            "flops_per_step": asked.flops_per_step,
            "flops_per_update": asked.flops_per_update,
        },
        command=command,
        started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        git_commit=git_commit(Path(__file__).resolve().parent.parent),
        machine=describe_machine(),
        device=device,
    )


def env_record(env_id: str, protocol: str | None, frame_rate_hz: float | None) -> EnvRecord:
    """What our registry knows of the environment. A task that is played in one way only has that protocol; an Atari game has not."""
    known = relative(env_id)
    if known is None:
        return EnvRecord(env_id, "other", protocol or OWN, frame_rate_hz, 1, None, None)
    only = known.id == env_id and len(known.protocols) == 1
    return EnvRecord(
        env_id,
        known.kind,
        protocol or (spec(env_id).protocols[0] if only else OWN),
        frame_rate_hz or known.frame_rate_hz,
        known.frames_per_step,
        known.reward_threshold,
        known.max_episode_steps,
    )


def curves(folder: Path, record: RunRecord) -> Curves:
    from runs.curves import Curves

    return Curves(folder, f"    {record.agent} on {record.env.id}, seed {record.seed}: a loop that is not playmeter's own")


def device_record(device: str | None) -> dict[str, Any]:
    """The device as asked. None or ``auto``: the machine's one NVIDIA board if it has one, else the CPU. Raises InputError."""
    if device not in (None, "auto"):
        try:
            return describe_device(str(device))
        except (RuntimeError, AssertionError, ValueError, ImportError) as error:
            raise InputError(f"device {device!r} cannot be metered: {str(error).splitlines()[0]}") from error
    boards = nvidia_boards()
    if len(boards) > 1:
        raise InputError(f"this machine has {len(boards)} GPUs: say which one is used, e.g. device cuda:0, or cpu")
    return boards[0] if boards else describe_device("cpu")


def nvidia_boards() -> list[dict[str, Any]]:
    """The boards that NVML knows; none where CUDA_VISIBLE_DEVICES hides them all. Without torch: it would make a context."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return []
    try:
        import pynvml  # type: ignore[import-untyped]

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - a missing library, driver or binding each raise their own
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [
            {"type": "cuda", "index": 0, "name": pynvml.nvmlDeviceGetName(handle), "uuid": pynvml.nvmlDeviceGetUUID(handle)}
            for handle in handles
        ]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()
