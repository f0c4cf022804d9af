"""Many trainings spread by Ray over the cores and GPUs of this machine, or of several.

Each is a whole training of its own, described by its :class:`runs.config.RunConfig`, that knows nothing of the others: what spreads
them decides when and where, never what is learned. They resume, so that one that is lost with its machine is begun again where its
last checkpoint was, as long as all machines see the same folder.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from agents import disk_cache
from runs.config import DiskError, InputError, RunConfig
from runs.machine import reserved_vcpus
from runs.prepare import lockstep_groups, resolve_device
from runs.progress import HumanShare, Progress
from runs.schema import RUNNING
from runs.train import Outcome, train, what_to_train

LOCAL = "local"
OBJECT_STORE_BYTES = 80 * 2**20  # the least that Ray takes: nothing but configurations and outcomes goes through it
LOOK_EVERY_S = 0.5
TELL_EVERY_S = 2.0
CONNECT_S = 10.0
MOST_SIGNS = 30
MOST_STARTS = 4  # of a training whose machine or process is lost


@dataclass(frozen=True)
class Ended:
    """What became of one training: an outcome for each run, or what kept it from having any."""

    outcomes: Sequence[Outcome] = ()
    fault: Exception | None = None


def check(configs: Sequence[RunConfig]) -> None:
    """What speaks against any training is raised before the first begins. Raises what ``train`` raises where nothing was written."""
    for config in configs:
        what_to_train(config, resolve_device(config.device))


def apart(config: RunConfig) -> list[RunConfig]:
    """As many trainings as it can be spread to: those runs that train side by side in a process stay together.

    Each gets the threads that it is to reserve, and paths that hold in whatever folder a process is started.
    """
    wall_meter = None if config.wall_meter is None else str(Path(config.wall_meter).absolute())
    part = replace(
        config,
        threads=config.threads or 1,
        command=config.command if config.threads else (*config.command, "--threads", "1"),
        device="cuda:0" if resolve_device(config.device).type == "cuda" else "cpu",  # of those that Ray lets it see
        resume=True,
        out=str(Path(config.out).absolute()),
        wall_meter=wall_meter,
    )
    parts = []
    for runs in lockstep_groups(config, resolve_device(config.device)):
        games, seeds = tuple(dict.fromkeys(runs.games)), tuple(dict.fromkeys(runs.seeds))
        parts.append(replace(part, env=games[0], more_envs=games[1:], seeds=seeds))
    return parts


def spread(
    configs: Sequence[RunConfig],
    address: str,
    stop: Callable[[], bool],
    listener: Callable[[int, Progress], None],
    human_share: HumanShare,
) -> Iterator[tuple[int, Ended]]:
    """Train each of ``configs`` as soon as there is room for it; which of them it was and what became of it, in the order in which they end.

    After ``stop()`` those that train are interrupted, with a checkpoint, and those that wait are never begun: nothing is told of these.

    Args:
        address: of a cluster, or ``local``: Ray is then started here, and ended with this call.
        listener: hears how far each is, every few seconds.

    Raises:
        InputError: Ray is not installed, cannot be reached, or has not the cores or GPUs that one of them needs.
    """
    with cluster(address) as ray:
        needs = [resources(config) for config in configs]
        check_room([node["Resources"] for node in ray.nodes() if node["Alive"]], needs)
        told = ray.remote(num_cpus=0, max_restarts=-1)(Told).remote()
        remote = ray.remote(max_retries=MOST_STARTS - 1)(_train)
        waiting = {
            remote.options(**need).remote(number, config, told, human_share): number
            for number, (config, need) in enumerate(zip(configs, needs, strict=True))
        }
        cancelled = False
        while waiting:
            if stop() and not cancelled:
                cancelled = True
                for task in waiting:
                    ray.cancel(task, force=False)  # as Ctrl-C: who trains ends as after a signal
            done, _ = ray.wait(list(waiting), timeout=LOOK_EVERY_S)
            with suppress(ray.exceptions.RayError):  # lost with its machine: the trainings are worth more than what they tell
                for number, progress in ray.get(told.take.remote()).items():
                    listener(number, progress)
            for task in done:
                number = waiting.pop(task)
                try:
                    yield number, ray.get(task)
                except ray.exceptions.TaskCancelledError:
                    continue
                except ray.exceptions.RayError as error:
                    yield number, Ended(fault=error)


class Told:
    """The latest of what each training has told, until it is taken: an actor, which all of them reach."""

    def __init__(self) -> None:
        self.latest: dict[int, Progress] = {}

    def put(self, number: int, progress: Progress) -> None:
        self.latest[number] = progress

    def take(self) -> dict[int, Progress]:
        latest, self.latest = self.latest, {}
        return latest


def _train(number: int, config: RunConfig, told: Any, human_share: HumanShare) -> Ended:
    said_s = float("-inf")

    def tell(progress: Progress) -> None:
        nonlocal said_s
        if progress.status != RUNNING or time.monotonic() - said_s >= TELL_EVERY_S:
            said_s = time.monotonic()
            told.put.remote(number, progress)  # and no answer waited for: Ray would give the core of whoever waits to another

    _keep_compiled()
    try:
        return Ended(train(config, tell, lambda text: None, human_share))
    except (ValueError, DiskError) as error:
        return Ended(fault=error)


@cache
def _keep_compiled() -> None:
    """A process of Ray's trains one after another, and finds what others have compiled."""
    disk_cache.begin()


def resources(config: RunConfig) -> dict[str, float]:
    """What of a machine a training has for itself."""
    on_gpu = resolve_device(config.device).type == "cuda"
    return {"num_cpus": float(config.threads or 1), "num_gpus": config.gpu_share if on_gpu else 0.0}


def check_room(machines: Sequence[dict[str, float]], needs: Sequence[dict[str, float]]) -> None:
    """Ray would wait for ever for what none of its machines has. Raises InputError."""
    for need in needs:
        cpus, gpus = need["num_cpus"], need["num_gpus"]
        if not any(there.get("CPU", 0.0) >= cpus and there.get("GPU", 0.0) >= gpus for there in machines):
            asked = f"{cpus:g} CPU threads" + (f" and {gpus:g} GPUs" if gpus else "")
            raise InputError(f"a training asks for {asked}, and no machine of Ray's has that: give it fewer")


def check_reachable(address: str) -> None:
    """Ray itself tries for minutes. Raises InputError."""
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", address)
    if found is None and address != "auto":
        raise InputError(f"--ray is {address!r}: give local, auto, or a cluster's address as host:6379 or ray://host:10001")
    try:
        if found is not None:
            socket.create_connection((found[1], int(found[2])), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"Ray cannot be reached at {address}: {getattr(error, 'strerror', None) or error}") from error


def short_folder() -> str | None:
    """For Ray's sockets, whose paths may have 107 signs; None: where temporary files are."""
    return "/tmp" if len(tempfile.gettempdir()) > MOST_SIGNS and Path("/tmp").is_dir() else None


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """Ray, connected. Raises InputError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError("--ray needs the package ray: pip install 'playmeter[ray]'") from error
    with ExitStack() as stack:
        if address == LOCAL:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="playmeter-", dir=short_folder(), ignore_cleanup_errors=True)
            )
            options: dict[str, Any] = {
                "address": LOCAL, "num_cpus": int(reserved_vcpus()) or 1, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES, "_temp_dir": folder,
            }  # fmt: skip
        else:
            check_reachable(address)
            options = {"address": address}
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise InputError(f"Ray cannot be reached at {address}: {' '.join(str(error).split())}") from error
        stack.callback(ray.shutdown)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray took SIGTERM for itself, and would end at once
                signal.signal(number, handler)
        yield ray
