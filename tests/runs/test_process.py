"""``playmeter meter -- COMMAND`` in a process of its own: streams, signals, exit codes, and what the run folder says afterwards."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from analysis import tables
from runs import schema

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
PLAYMETER = [sys.executable, "-m", "playmeter", "meter", "--agent", "mine"]


def meter(cwd: Path, *command: str, options: tuple[str, ...] = (), **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PLAYMETER, *options, "--", *command], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False, **how
    )  # fmt: skip


def total(cwd: Path, run: str = "unknown/mine/seed0") -> schema.LedgerLine:
    (found,), left_out = tables.read_runs([cwd / "results"])
    assert left_out == []
    assert found.id.endswith(run)
    assert not (found.folder / "counting").exists() or found.total.status == "running"
    return found.total


def python(code: str) -> tuple[str, str, str]:
    return sys.executable, "-c", code


@pytest.mark.parametrize(("code", "status"), [(0, "finished"), (3, "failed"), (2, "failed"), (130, "failed")])
def test_the_exit_code_is_the_commands(code: int, status: str, tmp_path: Path) -> None:
    done = meter(tmp_path, "sh", "-c", f"exit {code}")
    assert done.returncode == code
    assert total(tmp_path).status == status


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, "failed"), (signal.SIGSEGV, "failed"), (signal.SIGTERM, "interrupted"), (signal.SIGINT, "interrupted")],
)
def test_a_command_that_a_signal_killed(number: signal.Signals, status: str, tmp_path: Path) -> None:
    # As in a shell's foreground: a job in the background of a script ignores SIGINT, and so would its children.
    done = meter(
        tmp_path, "sh", "-c", f"kill -{number.value} $$", preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    )
    assert done.returncode == 128 + number
    assert total(tmp_path).status == status


def test_streams_pass_through_untouched(tmp_path: Path) -> None:
    done = meter(tmp_path, "sh", "-c", "cat; echo to stderr >&2", input="one\ntwo\n")
    assert done.stdout == "one\ntwo\n"
    first, *_, last = done.stderr.splitlines()  # between them what this machine's meter has to say
    assert first == "to stderr"
    assert last.startswith("playmeter: finished after")


def test_arguments_and_environment_pass_through(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ['OMP_NUM_THREADS'])"
    done = meter(tmp_path, *python(code), "--out", "x y", "--", "-v")
    assert done.stdout == "['--out', 'x y', '--', '-v'] 1\n"


BURN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"


def test_the_whole_tree_is_metered(tmp_path: Path) -> None:
    """A child and a grandchild burn 0.4 CPU seconds each; the child holds 100 MB."""
    grandchild = BURN.format(0.4)
    child = f"import subprocess, sys\nblock = b'x' * 10**8\nsubprocess.run([sys.executable, '-c', {grandchild!r}])\n{BURN.format(0.4)}"
    begin = time.monotonic()
    assert meter(tmp_path, *python(child), options=("--env", "CartPole-v1", "--seed", "4")).returncode == 0
    wall_s = time.monotonic() - begin
    line = total(tmp_path, "CartPole-v1/mine/seed4")
    assert 0.75 <= line.cpu_s <= 2.5
    assert 0.75 <= line.wall_s <= wall_s
    assert 10**8 <= line.peak_rss_bytes <= 3 * 10**8
    assert line.energy["cpu_package"].low_j == pytest.approx(1.22 * line.cpu_s, rel=0.15)
    assert line.lineage == schema.Counts(None, None, None, None)
    assert (line.gpu_allocated_s, line.gpu_busy_s, line.peak_cuda_bytes) == (0.0, None, None)


SCRIPT = """
import gymnasium
from playmeter import Meter, count_frames
env, eval_env = count_frames(gymnasium.make("CartPole-v1")), count_frames(gymnasium.make("CartPole-v1"), evaluation=True)
def play(env, steps):
    env.reset(seed=0)
    for _ in range(steps):
        if any(env.step(env.action_space.sample())[2:4]):
            env.reset()
play(env, 100)
play(eval_env, 30)
with Meter("elsewhere", agent="inside", env="CartPole-v1") as meter:
    play(meter.wrap(gymnasium.make("CartPole-v1")), 50)
    meter.updates(9)
    meter.evaluation([5.0, 7.0])
"""


def test_a_meter_and_wrappers_inside_the_script_count_into_the_same_folder(tmp_path: Path) -> None:
    done = meter(tmp_path, *python(SCRIPT), options=("--env", "CartPole-v1"))
    assert done.returncode == 0, done.stderr
    assert "150 frames" in done.stderr
    assert not (tmp_path / "elsewhere").exists()
    line = total(tmp_path, "CartPole-v1/mine/seed0")
    assert (line.lineage.frames, line.lineage.steps, line.lineage.updates, line.eval_frames) == (150, 150, 9, 30)
    folder = tmp_path / "results/CartPole-v1/mine/seed0"
    (record,) = schema.read_evals(folder)
    assert (record.returns, record.frames, record.updates) == ([5.0, 7.0], 150, 9)
    assert len(tables._monitor(folder)) == line.lineage.episodes
    assert 0 < record.wall_s <= line.wall_s


def test_the_agent_is_named_after_the_script(tmp_path: Path) -> None:
    (tmp_path / "sarsa.py").write_text("")
    command = [sys.executable, "-m", "playmeter", "meter", "--", sys.executable, "sarsa.py", "--seed", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/unknown/sarsa/seed0/run.json").exists()


BAD: dict[str, tuple[list[str], int, str]] = {
    "no command": ([], 2, "needs a command after --"),
    "nothing after the dashes": (["--"], 2, "needs a command after --"),
    "no such command": (["--", "pyhton", "x.py"], 127, "pyhton: command not found"),
    "no such file": (["--", "./nothing.sh"], 127, "./nothing.sh: command not found"),
    "no permission": (["--", "./plain"], 126, "./plain cannot be executed"),
    "a folder": (["--", "./folder"], 126, "./folder cannot be executed"),
    "no interpreter": (["--", "./orphan"], 126, "./orphan cannot be executed"),
    "unwritable": (["--out", "plain/results", "--", "true"], 2, "--out"),
    "a bad name": (["--env", "/etc", "--", "true"], 2, "env must be a name"),
    "a bad device": (["--device", "tpu", "--", "true"], 2, "'tpu' cannot be metered"),
    "nonsense watts": (["--cpu-watts", "lots", "--", "true"], 2, "--cpu-watts lots: give watts"),
    "no wall meter": (["--wall-meter", "none.csv", "--", "true"], 2, "--wall-meter none.csv cannot be read"),
    "no share": (["--gpu-share", "0", "--", "true"], 2, "--gpu-share must be above 0"),
    "an unknown option": (["--evn", "x", "--", "true"], 2, "--env"),
}


@pytest.mark.parametrize(("arguments", "code", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_nothing_is_written(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no program")
    (tmp_path / "folder").mkdir()
    (tmp_path / "orphan").write_text("#!/no/such/interpreter\n")
    (tmp_path / "orphan").chmod(0o755)
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [*PLAYMETER, *arguments], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


LISTEN = """
import signal, sys, time
def heard(number, frame):
    print("heard", signal.Signals(number).name, flush=True)
    if number != signal.SIGUSR1:
        sys.exit(7)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, heard)
print("ready", flush=True)
for _ in range(600):
    time.sleep(0.05)
"""


def line_of(process: subprocess.Popen[str]) -> str:
    """Its next line; nothing, and its end, where none comes: a test that waits for ever tells nobody."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], 20)[0]:
        process.kill()
        return ""
    return process.stdout.readline()


def listening(cwd: Path, **how: Any) -> subprocess.Popen[str]:
    command = [*PLAYMETER, "--", *python(LISTEN)]
    process = subprocess.Popen(
        command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how
    )
    assert line_of(process) == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on_and_the_command_decides(number: signal.Signals, tmp_path: Path) -> None:
    process = listening(tmp_path)
    process.send_signal(signal.SIGUSR1)
    assert line_of(process) == "heard SIGUSR1\n"
    assert process.poll() is None
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert output == f"heard {number.name}\n"
    assert process.returncode == 7
    assert total(tmp_path).status == "interrupted"


def ctrl_c(cwd: Path, code: str) -> tuple[str, int]:
    """Type it at a terminal that a metered command is the foreground job of. What the command said after "ready", and the exit code."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "import os, sys, termios, fcntl; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
         "os.execv(sys.argv[1], sys.argv[1:])", *PLAYMETER, "--", *python(code)],
        cwd=cwd, env=ENVIRONMENT, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert line_of(process) == "ready\n"
    os.write(master, b"\x03")
    output, _ = process.communicate(timeout=30)
    os.close(master)
    os.close(slave)
    return output, process.returncode


def test_ctrl_c_at_a_terminal_reaches_the_command(tmp_path: Path) -> None:
    assert ctrl_c(tmp_path, LISTEN) == ("heard SIGINT\n", 7)
    assert total(tmp_path).status == "interrupted"


def test_ctrl_c_at_a_terminal_is_not_passed_on_a_second_time(tmp_path: Path) -> None:
    """Two of one signal can melt into one. So the command leaves the terminal, which then sends it none: each that it hears was passed on."""
    left = "import os; os.setsid()\n" + LISTEN.replace("range(600)", "range(20)")
    assert ctrl_c(tmp_path, left) == ("", 0)


COUNTING = """
import gymnasium, os, time
from playmeter import count_frames
env = count_frames(gymnasium.make("CartPole-v1"))
env.reset(seed=0)
n = 0
while True:
    if any(env.step(0)[2:4]):
        env.reset()
    n += 1
    print(n, os.getpid(), flush=True)
    time.sleep(0.001)
"""


def test_a_killed_script_leaves_every_frame_that_it_counted(tmp_path: Path) -> None:
    """SIGKILL to the script: the command that meters it lives on, and the counters lie in memory that the kernel keeps."""
    process = subprocess.Popen(
        [*PLAYMETER, "--", *python(COUNTING)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = pid = 0
    for _ in range(300):
        said, pid = map(int, process.stdout.readline().split())
    os.kill(pid, signal.SIGKILL)
    said = max([said, *(int(line.split()[0]) for line in process.communicate(timeout=30)[0].splitlines())])
    assert process.returncode == 137
    line = total(tmp_path)
    assert line.status == "failed"
    assert said <= (line.lineage.frames or 0) <= said + 1
    (run,), _ = tables.read_runs([tmp_path / "results"])
    assert len(run.episodes) == line.lineage.episodes


def test_a_killed_meter_leaves_the_truth_up_to_its_last_heartbeat(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*PLAYMETER, "--", *python(COUNTING)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    ledger = tmp_path / "results/unknown/mine/seed0"
    said, pid = map(int, process.stdout.readline().split())
    while (
        said % 50 or len(schema.read_ledger(ledger)) < 2
    ):  # one more than the first line, which is written before the script begins
        said, pid = map(int, process.stdout.readline().split())
    process.kill()
    os.kill(pid, signal.SIGKILL)
    process.wait(timeout=30)
    line = total(tmp_path)
    assert line.status == "running"
    assert 0 < (line.lineage.frames or 0) <= said + 50


def test_what_the_user_says_of_his_machine_counts_and_what_is_odd_is_said_at_the_end(tmp_path: Path) -> None:
    done = meter(tmp_path, "sh", "-c", "echo of the command >&2; sleep 0.5", options=("--cpu-watts", "70"))
    first, note, last = done.stderr.splitlines()
    assert first == "of the command"
    assert note.startswith("playmeter: --cpu-watts 70 is one figure")
    assert last.startswith("playmeter: finished after")
    line = total(tmp_path)
    assert line.energy["cpu_package"].joules == pytest.approx(70 * line.wall_s, rel=0.05)
    assert line.notes == [note.removeprefix("playmeter: ")]


def test_heartbeats_are_at_most_five_seconds_apart(tmp_path: Path) -> None:
    assert meter(tmp_path, "sleep", "2.4").returncode == 0
    lines = schema.read_ledger(tmp_path / "results/unknown/mine/seed0")
    walls = [line.wall_s for line in lines]
    assert lines[-1].peak_rss_bytes < 10**7, "of sleep; the process that meters holds several times that"
    assert len(walls) == 3, "the first, one after 2 s, the last"
    assert max(later - sooner for sooner, later in pairwise(walls)) < 5
