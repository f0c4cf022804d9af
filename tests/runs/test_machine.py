"""What a run ran on: fake /proc and cgroup trees, a fake NVML, and throw-away git repositories."""

from __future__ import annotations

import getpass
import json
import os
import platform
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil  # type: ignore[import-untyped]
import pytest

from runs import machine
from runs.energy import VCPU_WATTS
from runs.machine import (
    busy_cores,
    cpu_name,
    describe_device,
    describe_machine,
    git_commit,
    machine_cpu_s,
    microarchitecture,
    peak_rss_bytes,
    reserved_memory_gib,
    reserved_vcpus,
    tree_cpu_s,
    versions,
)
from tests.runs.fake_nvml import Clock, FakeNvml, Load


def cpuinfo(tmp_path, vendor, family, model, name, stepping=1):
    entry = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {name}\nstepping\t: {stepping}\n"
    (tmp_path / "cpuinfo").write_text(entry + "\n" + entry.replace("processor\t: 0", "processor\t: 1"))
    return tmp_path


@pytest.mark.parametrize(
    ("vendor", "family", "model", "stepping", "name", "expected"),
    [
        ("GenuineIntel", 6, 63, 2, "Intel(R) Xeon(R) CPU E5-2690 v3 @ 2.60GHz", "Haswell"),
        ("GenuineIntel", 6, 85, 4, "Intel(R) Xeon(R) Gold 6154 CPU @ 3.00GHz", "Skylake"),
        ("GenuineIntel", 6, 85, 7, "Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz", "Cascade Lake"),
        ("GenuineIntel", 6, 85, 11, "Intel(R) Xeon(R) Platinum 8380H CPU @ 2.90GHz", None),  # Cooper Lake
        ("GenuineIntel", 6, 106, 6, "Intel(R) Xeon(R) Platinum 8358 CPU @ 2.60GHz", "Ice Lake"),
        ("GenuineIntel", 6, 143, 8, "Intel(R) Xeon(R) Platinum 8480+", "Sapphire Rapids"),
        ("GenuineIntel", 6, 173, 1, "Intel(R) Xeon(R) 6980P", "Granite Rapids"),
        ("GenuineIntel", 6, 158, 10, "Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", None),
        ("AuthenticAMD", 23, 49, 0, "AMD EPYC 7742 64-Core Processor", "EPYC 2"),
        ("AuthenticAMD", 25, 1, 1, "AMD EPYC 7763 64-Core Processor", "EPYC 3"),
        ("AuthenticAMD", 25, 17, 1, "AMD EPYC 9654 96-Core Processor", "EPYC 4"),
        ("AuthenticAMD", 25, 160, 2, "AMD EPYC 9754 128-Core Processor", "EPYC 4"),
        ("AuthenticAMD", 23, 1, 2, "AMD EPYC 7601 32-Core Processor", None),
        ("AuthenticAMD", 25, 33, 0, "AMD Ryzen 9 5950X 16-Core Processor", None),  # Zen 3, but no server
        ("AuthenticAMD", 23, 49, 0, "AMD Ryzen Threadripper 3990X 64-Core Processor", None),  # Zen 2 on a desk
    ],
)
def test_the_server_generation_is_read_from_family_and_model(tmp_path, vendor, family, model, stepping, name, expected):
    proc = cpuinfo(tmp_path, vendor, family, model, name, stepping)
    assert microarchitecture(proc) == expected
    assert expected is None or expected in VCPU_WATTS
    assert cpu_name(proc) == name


def test_a_machine_without_cpuinfo_has_a_name_and_no_generation(tmp_path):
    assert microarchitecture(tmp_path) is None
    assert cpu_name(tmp_path)


def limited(tmp_path, membership, **files):
    """A fake /proc and /sys/fs/cgroup; file names have / as __."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name.replace("__", "/").replace("cpu_", "cpu.").replace("memory_", "memory.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"proc": tmp_path / "proc", "cgroup": tmp_path / "cgroup"}


@pytest.fixture
def eight_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/job/step\n", {}, 8),
        ("0::/job/step\n", {"job__step__cpu_max": "max 100000\n"}, 8),
        ("0::/job/step\n", {"job__step__cpu_max": "150000 100000\n"}, 1.5),
        (
            "0::/job/step\n",
            {"job__step__cpu_max": "max 100000\n", "job__cpu_max": "400000 100000\n"},
            4,
        ),  # the parent binds too
        ("0::/job/step\n", {"other__cpu_max": "100000 100000\n"}, 8),
        ("0::/job/step\n", {"cpu_max": "6400000 100000\n"}, 8),  # a quota above the affinity
        ("0::/../..\n", {"cpu_max": "200000 100000\n", "..__cpu_max": "100000 100000\n"}, 2),  # stay inside the mount
        ("3:cpu,cpuacct:/box\n", {"cpu__box__cpu_cfs_quota_us": "300000\n", "cpu__box__cpu_cfs_period_us": "100000\n"}, 3),
        ("3:cpu,cpuacct:/box\n", {"cpu__box__cpu_cfs_quota_us": "-1\n", "cpu__box__cpu_cfs_period_us": "100000\n"}, 8),
        # in a container the path is the host's, and the mount shows only our own group
        ("3:cpu:/docker/ab\n", {"cpu__cpu_cfs_quota_us": "200000\n", "cpu__cpu_cfs_period_us": "100000\n"}, 2),
    ],
)
def test_reserved_cpus_are_the_affinity_limited_by_the_quota(tmp_path, eight_cpus, membership, files, expected):
    assert reserved_vcpus(**limited(tmp_path, membership, **files)) == expected


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/job\n", {"job__memory_max": f"{3 * 2**30}\n"}, 3.0),
        ("0::/job\n", {"job__memory_max": "max\n"}, None),
        ("8:memory:/job\n", {"memory__job__memory_limit_in_bytes": f"{2**30}\n"}, 1.0),
        ("8:memory:/job\n", {"memory__job__memory_limit_in_bytes": "9223372036854771712\n"}, None),
    ],
)
def test_reserved_memory_is_the_machines_limited_by_the_group(tmp_path, membership, files, expected):
    total = psutil.virtual_memory().total / 2**30
    assert reserved_memory_gib(**limited(tmp_path, membership, **files)) == (expected or total)


def test_the_machine_is_described_without_names_of_hosts_users_or_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "release", lambda: "6.1.12-acme-gpu-cluster")
    described = describe_machine()
    keys = {"cpu", "microarchitecture", "physical_cores", "logical_cores", "reserved_vcpus", "memory_gb", "os", "python"}
    assert set(described) == keys
    assert described["os"].endswith(" 6.1.12")
    assert described["python"] == platform.python_version()
    assert 0 < described["reserved_vcpus"] <= described["logical_cores"]
    text = json.dumps(described)
    assert platform.node() not in text
    assert getpass.getuser() not in text.split()
    assert os.sep not in text


def test_versions_leave_out_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("psutil", "no-such-package-at-all"))
    assert versions() == {"psutil": psutil.__version__}


def test_a_cpu_is_described_without_torch():
    code = "import sys; from runs.machine import describe_device; print(describe_device('cpu')['type'], 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "cpu False\n"
    assert describe_device("cpu") == {"type": "cpu", "name": cpu_name()}


def fake_torch(monkeypatch, uuid="12345678-aaaa-bbbb-cccc-1234567890ab"):
    boards = {k: SimpleNamespace(name=f"Board {k}", uuid=uuid, total_memory=80 * 2**30, major=9, minor=0) for k in (0, 1)}
    cuda = SimpleNamespace(get_device_properties=boards.__getitem__, current_device=lambda: 1)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))


def test_a_gpu_is_described_with_nvmls_uuid_and_the_driver(monkeypatch):
    fake_torch(monkeypatch)
    fake = FakeNvml(Clock(), Load(0.0, [])).install(monkeypatch)
    assert describe_device("cuda:0") == {
        "type": "cuda",
        "index": 0,
        "name": "Board 0",
        "uuid": "GPU-12345678-aaaa-bbbb-cccc-1234567890ab",
        "memory_gb": 80.0,
        "compute_capability": "9.0",
        "driver": "570.00.01",
    }
    assert describe_device("cuda")["index"] == 1
    assert fake.open == 0


def test_a_gpu_without_nvml_or_uuid_is_described_as_far_as_known(monkeypatch):
    fake_torch(monkeypatch, uuid="")
    FakeNvml(Clock(), Load(0.0, [])).install(monkeypatch).missing.add("nvmlSystemGetDriverVersion")
    described = describe_device("cuda:0")
    assert (described["uuid"], described["driver"]) == (None, None)


@pytest.mark.parametrize("visible", ["MIG-12345678-aaaa-bbbb-cccc-1234567890ab", "0,MIG-12345678-aaaa-bbbb-cccc-1234567890ab"])
def test_a_slice_of_a_gpu_is_told_from_a_board_by_what_the_user_made_visible(monkeypatch, visible):
    fake_torch(monkeypatch)
    FakeNvml(Clock(), Load(0.0, [])).install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert describe_device("cuda:0")["uuid"] == "MIG-12345678-aaaa-bbbb-cccc-1234567890ab"


def test_the_machines_cpu_seconds_hold_ours_and_no_idle_time():
    before_all, before_own, begin = machine_cpu_s(), tree_cpu_s(), time.monotonic()
    while tree_cpu_s() - before_own < 0.3:
        pass
    seconds, spent_s = time.monotonic() - begin, machine_cpu_s() - before_all
    assert 0.3 - 0.05 <= spent_s <= seconds * (os.cpu_count() or 1) + 0.05


@pytest.mark.parametrize("device", ["mps", "cuda:", "cuda:x", "cuda:-1", "cudax", "", "gpu"])
def test_other_devices_are_refused(device):
    with pytest.raises(ValueError, match="valid are cpu, cuda"):
        describe_device(device)


def git(repo, *arguments):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=repo, check=True, capture_output=True, text=True, env=clean
    ).stdout


@pytest.fixture
def repo(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "inner").mkdir()
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_clean_checkout_is_its_commit_and_a_changed_one_says_dirty(repo):
    sha = git(repo, "rev-parse", "HEAD").strip()
    assert git_commit(repo) == sha
    (repo / "results.txt").write_text("not tracked\n")
    assert git_commit(repo) == sha
    (repo / "code.py").write_text("x = 2\n")
    assert git_commit(repo) == sha + "-dirty"
    git(repo, "add", "code.py")
    assert git_commit(repo) == sha + "-dirty"


def test_there_is_no_commit_outside_inside_another_or_before_the_first(repo, tmp_path_factory):
    plain = tmp_path_factory.mktemp("plain")
    assert git_commit(plain) is None
    assert git_commit(plain / "missing") is None
    assert git_commit(repo / "inner") is None  # say a virtual environment in somebody's project
    git(plain, "init", "-q")
    assert git_commit(plain) is None


def test_a_foreign_git_dir_in_the_environment_is_not_believed(repo, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(repo / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(repo))
    assert git_commit(tmp_path_factory.mktemp("plain")) is None
    assert git_commit(repo) == git(repo, "rev-parse", "HEAD").strip()


def test_without_git_or_with_one_that_hangs_there_is_no_commit(repo, monkeypatch):
    def hang(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", hang)
        assert git_commit(repo) is None
    monkeypatch.setenv("PATH", "")
    assert git_commit(repo) is None


def test_the_peak_memory_is_at_least_what_is_held_now():
    assert peak_rss_bytes() >= psutil.Process().memory_info().rss * 0.9


@pytest.mark.parametrize(
    ("loadavg", "busy"),
    [
        ("1.90 1.88 2.88 3/512 12345\n", 1.9),
        ("1.90 1.88 2.88 2/512 12345\n", 1.0),  # whatever ran over the last minute has ended
        ("1.90 1.88 2.88 1/512 12345\n", 0.0),
        ("0.10 0.10 0.10 9/512 12345\n", 0.1),  # something short
        (None, 0.0),
    ],
)
def test_cores_are_busy_that_were_over_the_last_minute_and_are_now(loadavg, busy, tmp_path):
    if loadavg is not None:
        (tmp_path / "loadavg").write_text(loadavg)
    assert busy_cores(tmp_path) == busy


def test_a_process_is_as_old_as_the_time_since_it_began():
    code = "import time; time.sleep(1); from runs.machine import process_age_s; print(process_age_s())"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert abs(float(done.stdout) - (time.monotonic() - began)) < 1.5, "the kernel says when it started to the second"
