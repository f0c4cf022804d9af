"""How a process of ours ends: signals at every moment, outputs that nobody takes, locales without the signs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import playmeter as front_door
from cli.progress import ProgressLine
from runs import schema
from runs.progress import Progress
from runs.stopping import SAME_WISH_S
from tests.command_line import ENVIRONMENT, TINY, playmeter, started, words


def wait_for_its_ledger(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not (folder / schema.LEDGER_FILE).exists() or not schema.read_ledger(folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_ctrl_c_ends_a_training_cleanly(tmp_path: Path) -> None:
    process = started("train", "dqn", "CartPole-v1", "--budget", "10M-steps", "--compile", "off", cwd=tmp_path)
    folder = tmp_path / "results/CartPole-v1/dqn/seed0"
    wait_for_its_ledger(folder)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == ""
    assert "seed 0: interrupted" in output
    assert schema.read_ledger(folder)[-1].status == "interrupted"
    assert (folder / schema.FINAL_CHECKPOINT).exists()


def test_a_training_goes_on_where_nobody_takes_its_lines_any_more(tmp_path: Path) -> None:
    """`playmeter train ... | head -1`: said once, and the run is whole."""
    process = started("train", "dqn", "CartPole-v1", "--budget", "400-steps", *TINY, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=60) == 0, errors
    assert errors == "playmeter: standard output cannot be written (Broken pipe): going on without it\n"
    last = schema.read_ledger(tmp_path / "results/CartPole-v1/dqn/seed0")[-1]
    assert (last.status, last.lineage.steps) == ("finished", 400)


def test_a_training_whose_output_is_closed_or_whose_terminal_goes_ends_as_any_other(tmp_path: Path) -> None:
    """`>&-`, and a terminal that is closed during the first of two environments, where its SIGHUP does not come or is ignored."""
    asked = ("train", "dqn", "CartPole-v1,Acrobot-v1", "--budget", "400-steps", *TINY, "--out")
    closed = started(*asked, "closed", cwd=tmp_path, stdout=None, preexec_fn=lambda: os.close(1))
    assert (closed.communicate(timeout=120)[1], closed.returncode) == ("", 0)
    terminal, theirs = os.openpty()
    process = started(*asked, "gone", "--resume", cwd=tmp_path, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    deadline = time.monotonic() + 60
    while not (tmp_path / "gone/CartPole-v1/dqn/seed0" / schema.LEDGER_FILE).exists():
        assert time.monotonic() < deadline
        os.read(terminal, 1000)
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    for out in ("closed", "gone"):
        for env in ("CartPole-v1", "Acrobot-v1"):
            assert schema.read_ledger(tmp_path / out / env / "dqn/seed0")[-1].status == "finished"


@pytest.mark.parametrize(
    "arguments",
    [("claims", "--json", "-"), ("envs", "cartpole"), ("--help",), ("--version",)],
    ids=["long", "short", "help", "version"],
)
def test_an_output_on_a_full_disk_is_one_line_and_exit_code_74(arguments: tuple[str, ...], tmp_path: Path) -> None:
    buffered = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        process = started(*arguments, cwd=tmp_path, env=buffered, stdout=full)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 74
    assert errors == "playmeter: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("arguments", [("claims",), ("envs",), ("--help",)], ids=["rich", "plain", "help"])
def test_a_reader_of_the_first_lines_may_go(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """`playmeter claims | head -2` is no failure, in scripts with pipefail neither."""
    reads, writes = os.pipe()
    os.close(reads)
    process = started(*arguments, cwd=tmp_path, stdout=writes)
    os.close(writes)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)


def test_signs_that_the_locale_lacks_end_nothing_and_documents_are_utf_8_all_the_same(tmp_path: Path) -> None:
    """A cluster's old locale: ranges have an en dash, a document a multiplication sign."""

    def said(*arguments: str) -> bytes:
        environment = ENVIRONMENT | {"PYTHONIOENCODING": "ascii"}
        return subprocess.run(
            words(*arguments), cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=True
        ).stdout

    lines = said("train", "dqn", "CartPole-v1", "--budget", "400-steps", *TINY).decode("ascii")
    assert "?" in lines
    assert "finished" in lines
    assert "claims:" in said("claims").decode("ascii")
    assert "–" in said("claims", "--markdown", "-").decode("utf-8")


SPINS = """
import os, sys, playmeter, cli.threads
wait_briefly = cli.threads.wait_briefly
cli.threads.wait_briefly = lambda: (print("torch" in sys.modules), wait_briefly())
sys.argv[1:] = {words}
assert playmeter.main() == 2
print(os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("asked", "given", "spins"),
    [
        (["train", "dqn", "Nowhere-v1"], {}, "1000"),
        (["train", "dqn", "Nowhere-v1"], {"GOMP_SPINCOUNT": "7"}, "7"),
        (["train", "dqn", "Nowhere-v1"], {"OMP_WAIT_POLICY": "active"}, "None"),
        (["report", "nowhere"], {}, "None"),
    ],
)
def test_threads_of_a_training_wait_briefly_unless_the_user_says_how(
    asked: list[str], given: dict[str, str], spins: str
) -> None:
    """Set before torch is there, with which libgomp reads it."""
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = [sys.executable, "-c", SPINS.format(words=asked)]
    done = subprocess.run(code, env=environment | given, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [*["False"] * (asked[0] == "train"), spins]


EARLY = """
import os, sys, playmeter

class Signal:
    @staticmethod
    def find_spec(name, *_):
        if name == "{module}":
            for _ in range(2):
                os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Signal)
sys.argv[1:] = ["train", "dqn", "CartPole-v1"]
sys.exit(playmeter.main())
"""


@pytest.mark.parametrize("module", ["cli.train", "tyro", "runs.train"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_while_commands_and_torch_are_loaded_ends_as_documented(
    number: int, code: int, module: str, tmp_path: Path
) -> None:
    early = EARLY.format(number=int(number), module=module)
    done = subprocess.run([sys.executable, "-c", early], cwd=tmp_path, env=ENVIRONMENT, capture_output=True)
    assert (done.returncode, done.stderr) == (code, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_after_the_last_word_changes_nothing(tmp_path: Path) -> None:
    asked = ("train", "dqn", "CartPole-v1", "--budget", "100-steps", "--compile", "off", *TINY, "--out")
    for number in (signal.SIGTERM, signal.SIGINT):
        process = started(*asked, str(int(number)), cwd=tmp_path, env=ENVIRONMENT | {"PYTHONUNBUFFERED": "1"})
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("seed 0: finished"):
                break
        time.sleep(0.02)
        while process.poll() is None:
            process.send_signal(number)
            time.sleep(0.01)
        assert (process.returncode, process.communicate()[1]) == (0, "")


def test_a_process_that_is_not_ours_keeps_its_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]

    def interrupted(self: ProgressLine, progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ProgressLine, "update", interrupted)
    monkeypatch.chdir(tmp_path)
    assert front_door.main(["train", "dqn", "CartPole-v1", "--budget", "10M-steps", "--compile", "off", *TINY]) == 130
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_second_signal_changes_neither_exit_code_nor_what_is_written(tmp_path: Path) -> None:
    """As from a wrapper that passes on what its terminal or scheduler sends to both."""
    asked = ["train", "dqn", "CartPole-v1", "--budget", "10M-steps", "--compile", "off", *TINY]
    for number, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        folder = tmp_path / f"{code}/CartPole-v1/dqn/seed0"
        process = started(*asked, "--out", str(code), cwd=tmp_path)
        wait_for_its_ledger(folder)
        first = time.monotonic()
        while process.poll() is None:
            if number != signal.SIGINT or time.monotonic() < first + 0.5 * SAME_WISH_S:  # later it would be another wish
                process.send_signal(number)
            time.sleep(0.001)
            assert time.monotonic() < first + 60
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (code, "")
        assert "seed 0: interrupted" in output
        assert schema.read_ledger(folder)[-1].status == "interrupted"
        assert (folder / schema.FINAL_CHECKPOINT).exists()


def test_sigterm_writes_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Exit code 75; meanwhile nobody else works on the run; settings that differ are refused."""
    asked = ["train", "dqn", "CartPole-v1", "--budget", "3k-steps", "--resume", *TINY]
    folder = tmp_path / "results/CartPole-v1/dqn/seed0"
    process = started(*asked, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (folder / schema.LEDGER_FILE).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)  # so that it is there whatever the machine does meanwhile
    second = playmeter(*asked, cwd=tmp_path)
    assert (second.returncode, len(second.stderr.splitlines())) == (2, 1)
    assert f"in use by process {process.pid} on " in second.stderr
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (75, ""), output
    assert "nothing to continue for seed 0: starting" in output
    other = playmeter(*asked, "--agent.gamma", "0.9", cwd=tmp_path)
    assert (other.returncode, "agent.gamma: 0.99, not 0.9" in other.stderr) == (2, True)
    done = playmeter(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "continuing at step" in done.stdout
    assert schema.read_ledger(folder)[-1].lineage.steps == 3000
