"""What a run ran on: the machine, the device, the versions, the commit; and the CPU seconds of this process and its children.

Run folders are handed to strangers, so nothing here holds a host name, a user name or a path.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")

PACKAGES = (
    "playmeter",
    "torch",
    "gymnasium",
    "ale-py",
    "stable-baselines3",
    "sb3-contrib",
    "minatar",
    "numpy",
    "tensorboard",
    "nvidia-ml-py",
    "psutil",
    "ray",
)

# Server parts only: the watts per vCPU that these names lead to were measured on servers. (CPU family, models) from the
# vendors' documents, as listed in Linux, arch/x86/include/asm/intel-family.h and arch/x86/kernel/cpu/amd.c.
_INTEL = {
    "Haswell": {63},
    "Ice Lake": {106, 108},
    "Sapphire Rapids": {143},
    "Granite Rapids": {173, 174},
}
_AMD = {
    "EPYC 2": (23, range(0x30, 0x40)),
    "EPYC 3": (25, range(0x10)),
    "EPYC 4": (25, (*range(0x10, 0x20), *range(0xA0, 0xB0))),
}
_GIB = 2**30


def describe_machine() -> dict[str, Any]:
    """The machine for ``run.json``. ``memory_gb`` is the memory in GiB that this process may use."""
    return {
        "cpu": cpu_name(),
        "microarchitecture": microarchitecture(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "reserved_vcpus": reserved_vcpus(),
        "memory_gb": round(reserved_memory_gib(), 1),
        "os": f"{platform.system()} {_leading_version(platform.release())}".strip(),
        "python": platform.python_version(),
    }


def describe_device(device: str) -> dict[str, Any]:
    """``cpu``, ``cuda`` or ``cuda:1`` as a record. The UUID is NVML's (``GPU-...``), since NVML counts boards in another order."""
    kind, _, index_text = device.partition(":")
    if kind == "cpu":
        return {"type": "cpu", "name": cpu_name()}
    if kind != "cuda" or not (index_text.isdecimal() or device == "cuda"):
        raise ValueError(f"device {device!r} is not metered: valid are cpu, cuda, cuda:0, ...")
    import torch

    index = int(index_text) if index_text else torch.cuda.current_device()
    board = torch.cuda.get_device_properties(index)
    uuid = str(getattr(board, "uuid", "")) or None
    return {
        "type": "cuda",
        "index": index,
        "name": board.name,
        "uuid": _nvml_uuid(uuid),
        "memory_gb": round(board.total_memory / _GIB, 1),
        "compute_capability": f"{board.major}.{board.minor}",
        "driver": _nvidia_driver(),
    }


def _nvml_uuid(uuid: str | None) -> str | None:
    """With the prefix that NVML wants. CUDA does not say whether a UUID is a board's or a MIG slice's; its user had to name the slice."""
    if uuid is None or uuid.startswith(("GPU-", "MIG-")):
        return uuid
    slices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return f"MIG-{uuid}" if f"MIG-{uuid}" in slices else f"GPU-{uuid}"


def versions() -> dict[str, str]:
    """Versions of playmeter and of what its numbers depend on; packages that are not installed are left out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit(repo: Path) -> str | None:
    """``<sha>``, or ``<sha>-dirty`` with uncommitted changes to tracked files. None where ``repo`` is not the top of a checkout.

    A folder inside another project's checkout (a virtual environment, say) has no commit of its own, so it gets None too.
    """
    head = _git(repo, "rev-parse", "--show-prefix", "HEAD")
    changes = _git(repo, "status", "--porcelain", "--untracked-files=no") if head is not None else None
    if head is None or changes is None:
        return None
    prefix, _, sha = head.partition("\n")
    if prefix or not re.fullmatch(r"[0-9a-f]{40,64}", sha.strip()):
        return None
    return sha.strip() + ("-dirty" if changes.strip() else "")


def cpu_name(proc: Path = PROC) -> str:
    return _cpuinfo(proc).get("model name") or platform.processor() or platform.machine() or "unknown"


def microarchitecture(proc: Path = PROC) -> str | None:
    """The server generation, by the names of ``energy.VCPU_WATTS``; None where it is not one that the table knows."""
    info = _cpuinfo(proc)
    try:
        family, model, stepping = (int(info[key]) for key in ("cpu family", "model", "stepping"))
    except (KeyError, ValueError):
        return None
    if info.get("vendor_id") == "GenuineIntel" and family == 6:
        if model == 85:  # one model number, three generations
            return "Skylake" if stepping <= 4 else "Cascade Lake" if stepping <= 7 else None
        return next((name for name, models in _INTEL.items() if model in models), None)
    if info.get("vendor_id") == "AuthenticAMD" and "EPYC" in info.get("model name", ""):
        return next((name for name, (fam, models) in _AMD.items() if family == fam and model in models), None)
    return None


def reserved_vcpus(proc: Path = PROC, cgroup: Path = CGROUP) -> float:
    """Logical CPUs that this process may use: its affinity, limited by the CPU quota of its cgroup (which may be a fraction)."""
    cpus = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for folder in _cgroup_folders("cpu", proc, cgroup):
        quota = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us").strip(),
            _read(folder / "cpu.cfs_period_us").strip(),
        ]
        if len(quota) == 2 and quota[0].isdecimal() and quota[1].isdecimal() and int(quota[0]) and int(quota[1]):
            cpus = min(cpus, int(quota[0]) / int(quota[1]))
    return cpus


def busy_cores(proc: Path = PROC) -> float:
    """Logical CPUs of the machine that others keep busy: as many as run now, and did over the last minute. 0 where it is not known."""
    words = _read(proc / "loadavg").split()
    if len(words) < 4:
        return 0.0
    return max(0.0, min(float(words[0]), int(words[3].partition("/")[0]) - 1))  # one that runs is who asks


def process_age_s() -> float:
    return time.time() - float(psutil.Process().create_time())


def reserved_memory_gib(proc: Path = PROC, cgroup: Path = CGROUP) -> float:
    """Memory in GiB that this process may use: the machine's, limited by its cgroup."""
    limit = int(psutil.virtual_memory().total)
    for folder in _cgroup_folders("memory", proc, cgroup):
        text = (_read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")).strip()
        if text.isdecimal() and int(text):
            limit = min(limit, int(text))
    return limit / _GIB


def tree_cpu_s() -> float:
    """CPU seconds, user and system, of this process, the children it waited for, and its living descendants.

    Lost: children that nobody waits for, and daemons that leave the tree.
    """
    reaped = os.times()
    total = time.process_time() + reaped.children_user + reaped.children_system
    for pid in descendants(os.getpid()):
        try:
            total += sum(psutil.Process(pid).cpu_times()[:4])  # user, system, and both of its own reaped children
        except (psutil.Error, OSError):  # it ended meanwhile, or this process has too many files open to look
            continue
    return total


def tree_rss_bytes(with_this_process: bool = True) -> int:
    """Memory of this process and its living descendants: the sum of what they hold now, or the peak of the largest if that is more.

    Pages that forked workers share are counted in each of them. 0 where the system does not tell.
    """
    now = peak = 0
    for pid in (*([os.getpid()] if with_this_process else []), *descendants(os.getpid())):
        status = _read(PROC / f"{pid}/status")
        now += _status_bytes(status, "VmRSS")
        peak = max(peak, _status_bytes(status, "VmHWM"))
    return max(now, peak)


def _status_bytes(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB", status, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def machine_cpu_s() -> float:
    """CPU seconds, user and system, of everything on this machine since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.system + sum(getattr(times, name, 0.0) for name in ("nice", "irq", "softirq")))


class TreeCpu:
    """CPU seconds of the process tree since ``start``; never falls, even where a child ends between two looks."""

    def __init__(self, cpu_s: Callable[[], float] = tree_cpu_s) -> None:
        self._cpu_s = cpu_s
        self._base = self._last = 0.0

    def start(self) -> None:
        self._base, self._last = self._cpu_s(), 0.0

    def read(self) -> float:
        self._last = max(self._last, self._cpu_s() - self._base)
        return self._last


def peak_rss_bytes() -> int:
    """The most memory this process held at once; what it holds now where the system keeps no peak; 0 where it cannot be read now.

    Not ``ru_maxrss``: on Linux that is inherited from the program that started this one.
    """
    peak = re.search(r"^VmHWM:\s*(\d+) kB", _read(PROC / "self/status"), re.MULTILINE)
    if peak:
        return int(peak.group(1)) * 1024
    try:
        return int(psutil.Process().memory_info().rss)
    except OSError:  # too many open files
        return 0


def descendants(pid: int) -> Iterator[int]:
    """Living descendants; from the kernel's lists of children where it keeps them, a walk over all processes otherwise."""
    if not (PROC / f"self/task/{os.getpid()}/children").exists():
        yield from (child.pid for child in psutil.Process(pid).children(recursive=True))
        return
    waiting = [pid]
    while waiting:
        tasks = PROC / f"{waiting.pop()}/task"
        try:
            threads = os.listdir(tasks)
        except OSError:  # it ended meanwhile
            continue
        for thread in threads:
            children = [int(child) for child in _read(tasks / thread / "children").split()]
            waiting += children
            yield from children


def _cgroup_folders(controller: str, proc: Path, cgroup: Path) -> Iterator[Path]:
    """The folders whose limits bind this process: its own cgroup and all above it, version 2 and version 1."""
    for line in _read(proc / "self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            root = cgroup
        elif controller in controllers.split(","):
            root = cgroup / controller
        else:
            continue
        parts = [part for part in path.split("/") if part]
        if ".." in parts:  # a cgroup above the namespace's root, which is not mounted here
            parts = []
        for depth in range(len(parts), -1, -1):
            yield root.joinpath(*parts[:depth])


def _cpuinfo(proc: Path) -> dict[str, str]:
    """The first processor's entry in /proc/cpuinfo."""
    first = _read(proc / "cpuinfo").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _leading_version(release: str) -> str:
    """``6.1.0`` of ``6.1.0-acme-build7``: the rest may name an owner."""
    version = re.match(r"\d+(\.\d+)*", release)
    return version.group() if version else ""


def _nvidia_driver() -> str | None:
    import pynvml  # type: ignore[import-untyped]

    try:
        pynvml.nvmlInit()
        try:
            return str(pynvml.nvmlSystemGetDriverVersion())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def _git(repo: Path, *arguments: str) -> str | None:
    """Standard output of git, None on any failure. It must not prompt, run the checkout's hooks, or hang."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", str(repo), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
            env=clean | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
