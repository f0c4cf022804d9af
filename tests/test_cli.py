"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import playmeter as front_door
from cli.progress import ProgressLine
from cli.train import envs_of
from envs import SUITES
from runs import schema
from runs.progress import Progress
from runs.stopping import SAME_WISH_S

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "--agent.hidden",
    "16",
    "--agent.learning-starts-steps",
    "50",
    "--eval-episodes",
    "2",
    "--evals",
    "2",
    "--compile",
    "off",
]


def playmeter(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "playmeter", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two seeds were trained."""
    folder = tmp_path_factory.mktemp("work")
    done = playmeter("train", "dqn", "CartPole-v1", "--seeds", "2", "--budget", "400-steps", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_train_says_true_things_on_plain_lines(tmp_path: Path) -> None:
    done = playmeter("train", "double", "CartPole-v1", "--budget", "400-steps", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout, "piped output stays plain"
    lines = done.stdout.splitlines()
    assert "training double on CartPole-v1" in lines[0]
    assert "400 frames (8" in done.stdout, "400 frames at 50 Hz are 8 s of play"
    assert lines[-1].startswith("seed 0: finished, final evaluation")
    assert (tmp_path / "results/CartPole-v1/double/seed0/run.json").exists()
    assert schema.read_run(tmp_path / "results/CartPole-v1/double/seed0").command[:3] == ["playmeter", "train", "double"]


def test_several_environments_are_one_command(tmp_path: Path) -> None:
    done = playmeter("train", "dqn", "CartPole-v1, MountainCar-v0", "--budget", "200-steps", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "training dqn on 2 environments (CartPole-v1 to MountainCar-v0), 1 seed(s), 200-steps each" in done.stdout
    for env in ("CartPole-v1", "MountainCar-v0"):
        assert any(line.startswith(f"{env}  ") for line in done.stdout.splitlines()), "which of them a line is of"
        assert any(line.startswith("seed 0: finished") and env in line for line in done.stdout.splitlines())
        assert schema.read_run(tmp_path / "results" / env / "dqn" / "seed0").env.id == env


def test_the_name_of_a_suite_stands_for_its_environments() -> None:
    assert envs_of("atari26") == SUITES["atari26"]
    assert envs_of("CartPole-v1,Acrobot-v1,CartPole-v1") == ("CartPole-v1", "Acrobot-v1")
    assert envs_of("ALE/Pong-v5,atari5") == ("ALE/Pong-v5", *SUITES["atari5"])


def test_report_writes_a_page_and_json(trained: Path) -> None:
    done = playmeter("report", cwd=trained)
    assert (done.returncode, done.stderr) == (0, "")
    assert "<html" in (trained / "report.html").read_text()
    done = playmeter("report", "results", "--json", "-", cwd=trained)
    summary = json.loads(done.stdout)
    assert [run["seed"] for run in summary["runs"]] == [0, 1]
    assert summary["comparisons"][0]["n_runs"] == 2
    line = schema.read_ledger(trained / "results/CartPole-v1/dqn/seed0")[-1]
    assert summary["runs"][0]["frames"] == line.lineage.frames == 400
    assert summary["runs"][0]["params_sha256"] == line.params_sha256


def test_agents_and_envs_are_listed(tmp_path: Path) -> None:
    tree = playmeter("agents", cwd=tmp_path).stdout
    assert tree.index("dqn:") < tree.index("double:") < tree.index("dueling:")
    assert "van Hasselt" in tree
    page = playmeter("agents", "dueling", cwd=tmp_path).stdout
    assert "child of double" in page
    assert "1/sqrt(2)" in page
    table = playmeter("envs", cwd=tmp_path).stdout
    assert len(table.splitlines()) > 100
    rows = {line.split()[0]: line for line in table.splitlines()}
    assert "50 Hz" in rows["CartPole-v1"]
    assert "475" in rows["CartPole-v1"]
    assert "none" in rows["MountainCar-v0"]
    assert "60 Hz" in rows["ALE/Breakout-v5"]
    assert "nature, sticky, atari100k" in rows["ALE/Breakout-v5"]


def test_a_baseline_trains_beside_ours_and_is_listed(trained: Path) -> None:
    settings = ["--sb3.net-arch", "16", "--sb3.learning-starts", "50", "--sb3.train-freq", "4", "--sb3.gradient-steps", "1"]
    done = playmeter(
        "train", "sb3:dqn", "CartPole-v1", "--budget", "400-steps", "--evals", "2", "--out", "beside", *settings, cwd=trained
    )
    assert done.returncode == 0, done.stderr
    record = schema.read_run(trained / "beside/CartPole-v1/sb3-dqn/seed0")
    assert (record.agent, record.agent_config["net_arch"], record.agent_config["tau"]) == ("sb3:dqn", [16], 1.0)
    summary = json.loads(playmeter("report", "results", "beside", "--json", "-", cwd=trained).stdout)
    assert [comparison["agent"] for comparison in summary["comparisons"]] == ["dqn", "sb3:dqn"]
    assert [run["frames"] for run in summary["runs"]] == [400] * 3
    tree = playmeter("agents", cwd=trained).stdout
    assert tree.index("dueling:") < tree.index("sb3:dqn:") < tree.index("sb3:qrdqn:") < tree.index("sb3:ppo:")
    page = playmeter("agents", "sb3:dqn", cwd=trained).stdout
    assert "stable_baselines3.DQN" in page
    assert "dqn.yml CartPole-v1" in page
    assert "target_update_interval" in page


BAD = {
    "no command": ([], "usage"),
    "unknown command": (["trian"], "did you mean train"),
    "no agent": (["train"], "train needs an agent"),
    "unknown agent": (["train", "dqm", "CartPole-v1"], "did you mean dqn"),
    "unknown env": (["train", "dqn", "CartPole"], "CartPole-v1"),
    "env in another case": (["train", "dqn", "ale/pong-v5"], "ALE/Pong-v5"),
    "malformed budget": (["train", "dqn", "CartPole-v1", "--budget", "lots"], "100k-steps"),
    "budget without unit": (["train", "dqn", "CartPole-v1", "--budget", "100k"], "100k what?"),
    "no seeds": (["train", "dqn", "CartPole-v1", "--seeds", "0"], "--seeds"),
    "cuda": (["train", "dqn", "CartPole-v1", "--device", "cuda"], "--device cpu"),
    "bad setting": (["train", "dqn", "CartPole-v1", "--agent.gamma", "1.5"], "agent.gamma"),
    "unknown flag": (["train", "dqn", "CartPole-v1", "--bugdet", "1h"], "--budget"),
    "a word for a number": (["train", "dqn", "CartPole-v1", "--seeds", "many"], "--seeds: 'many' is no whole number"),
    "a word for a setting": (["train", "dqn", "CartPole-v1", "--agent.gamma", "x"], "--agent.gamma: 'x' is no number"),
    "a word for a price": (["report", "--price-usd-per-kwh", "cheap"], "--price-usd-per-kwh: no type matching"),
    "no such choice": (["train", "dqn", "CartPole-v1", "--compile", "maybe"], "Expected one of ('auto', 'on', 'off')"),
    "a seed that no table holds": (
        ["train", "dqn", "CartPole-v1", "--first-seed", "9223372036854775808"],
        "no seed more than 2^63 - 1",
    ),
    "a seed that numpy does not take": (
        ["train", "sb3:dqn", "CartPole-v1", "--first-seed", "4294967296"],
        "no seed more than 2^32 - 1",
    ),
    "a metered seed that no table holds": (
        ["meter", "--seed", "9223372036854775808", "--", "true"],
        "seed must be a whole number",
    ),
    "options before names": (["train", "--seeds", "2", "dqn", "CartPole-v1"], "takes agent and environment first"),
    "checkpoints every what": (
        ["train", "dqn", "CartPole-v1", "--checkpoint-every", "foo"],
        "--checkpoint-every: budget 'foo'",
    ),
    "too few frames to learn": (["train", "dqn", "ALE/Pong-v5", "--budget", "100-frames"], "ends before learning starts"),
    "too few frames for a rollout": (
        ["train", "sb3:ppo", "CartPole-v1", "--budget", "100-frames"],
        "ends before the first update",
    ),
    "too few steps to plan": (["plan", "dqn", "CartPole-v1", "--budget", "10-steps"], "learning starts, after 500 steps"),
    "a million seeds": (
        ["train", "dqn", "CartPole-v1", "--seeds", "1000000", "--budget", "60k-steps"],
        "train fewer seeds at a time",
    ),
    "a forecast to nowhere": (["plan", "dqn", "CartPole-v1", "--json", "none/plan.json"], "none does not exist"),
    "a forecast into a folder": (["plan", "dqn", "CartPole-v1", "--json", "empty"], "empty cannot be written"),
    "a bench to nowhere": (["bench", "--json", "none/bench.json"], "none does not exist"),
    "no port": (["board", "empty", "--port", "-1"], "--port must lie between"),
    "two documents on one output": (["report", "empty", "--json", "-", "--markdown", "-"], "both write to standard output"),
    "a flag without its value": (["train", "dqn", "CartPole-v1", "--seeds"], "Missing value for argument '--seeds'"),
    "nonsense watts": (["train", "dqn", "CartPole-v1", "--cpu-watts", "abc"], "--cpu-watts abc: give watts"),
    "negative watts": (["train", "dqn", "CartPole-v1", "--cpu-watts=-5"], "--cpu-watts -5: give watts"),
    "watts upside down": (["train", "sb3:dqn", "CartPole-v1", "--cpu-watts", "85:65"], "65:85"),
    "no wall meter": (["train", "dqn", "CartPole-v1", "--wall-meter", "none.csv"], "--wall-meter none.csv cannot be read"),
    "a wall meter that is none": (["train", "dqn", "CartPole-v1", "--wall-meter", "file"], "no wall meter's CSV"),
    "no share of a GPU": (["train", "dqn", "CartPole-v1", "--gpu-share", "0"], "--gpu-share"),
    "unknown baseline": (["train", "sb3:pqo", "CartPole-v1"], "did you mean sb3:ppo"),
    "unknown baseline page": (["agents", "sb3:dqm"], "did you mean sb3:dqn"),
    "unknown baseline setting": (["train", "sb3:dqn", "CartPole-v1", "--sb3.learning-rat", "1"], "--sb3.learning-rate"),
    "bad baseline setting": (["train", "sb3:dqn", "CartPole-v1", "--sb3.gamma", "1.5"], "sb3.gamma"),
    "a setting of ours for a baseline": (["train", "sb3:dqn", "CartPole-v1", "--compile", "on"], "unknown option --compile"),
    "an image policy for a vector": (["train", "sb3:dqn", "CartPole-v1", "--sb3.policy", "CnnPolicy"], "MlpPolicy"),
    "unwritable": (["train", "dqn", "CartPole-v1", "--out", "file/results"], "--out"),
    "report on nothing": (["report", "nowhere"], "nowhere"),
    "report on an empty folder": (["report", "empty"], "empty"),
    "report on a foreign folder": (["report", "foreign"], "foreign"),
    "board on nothing": (["board", "empty"], "no TensorBoard curves"),
    "environments of two kinds": (
        ["train", "dqn", "CartPole-v1,ALE/Pong-v5"],
        "CartPole-v1 and ALE/Pong-v5 are of different kinds",
    ),
    "an unknown one of several": (["train", "dqn", "CartPole-v1,Acrobat-v1"], "did you mean Acrobot-v1"),
    "a comma too many": (["train", "dqn", "CartPole-v1,"], "lacks an environment's name"),
    "a forecast of two kinds": (["plan", "dqn", "CartPole-v1,ALE/Pong-v5"], "are of different kinds"),
    "a forecast of a suite too short for one": (
        ["plan", "dqn", "CartPole-v1,Acrobot-v1", "--budget", "20s-play", "--device", "cpu"],
        "ends before learning starts",
    ),
    "no such env word": (["envs", "tetriss"], "tetriss"),
    "unknown agent page": (["agents", "rainbwo"], "did you mean"),
}


def in_this_process(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, output and errors: a process of its own would take a second for each. What is raised here is a traceback there."""
    try:
        code = front_door.main(arguments)
    except SystemExit as end:  # of tyro
        code = int(end.code or 0)
    return code, *capsys.readouterr()


@pytest.mark.parametrize(("arguments", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_named_with_exit_code_2_and_nothing_is_written(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes.txt").write_text("not a run")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    code, output, errors = in_this_process(arguments, capsys)
    assert code == 2, output + errors
    assert says in errors + output
    assert sorted(tmp_path.rglob("*")) == before
    if arguments:
        assert errors.startswith("playmeter: ")
        assert len(errors.splitlines()) == 1


def test_bad_input_of_a_process_is_its_exit_code_and_one_line(tmp_path: Path) -> None:
    done = playmeter("report", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "playmeter: nowhere does not exist: name a run folder, or a folder of runs such as results\n"


def test_ctrl_c_ends_a_training_cleanly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "playmeter", "train", "dqn", "CartPole-v1", "--budget", "10M-steps", "--compile", "off"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    folder = tmp_path / "results/CartPole-v1/dqn/seed0"
    deadline = time.monotonic() + 60
    while not (folder / schema.LEDGER_FILE).exists() or not schema.read_ledger(folder):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == ""
    assert "seed 0: interrupted" in output
    assert schema.read_ledger(folder)[-1].status == "interrupted"
    assert (folder / schema.FINAL_CHECKPOINT).exists()


def test_a_training_goes_on_where_nobody_takes_its_lines_any_more(tmp_path: Path) -> None:
    """`playmeter train ... | head -1`: said once, and the run is whole."""
    command = [sys.executable, "-m", "playmeter", "train", "dqn", "CartPole-v1", "--budget", "400-steps", *TINY]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
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
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "playmeter",
        "train",
        "dqn",
        "CartPole-v1,Acrobot-v1",
        "--budget",
        "400-steps",
        *TINY,
        "--out",
    ]
    closed = subprocess.run(
        [*command, "closed"], cwd=tmp_path, env=environment, preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE, timeout=120, check=False
    )  # fmt: skip
    assert (closed.returncode, closed.stderr) == (0, b"")
    terminal, theirs = os.openpty()
    process = subprocess.Popen(
        [*command, "gone", "--resume"], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.DEVNULL
    )  # fmt: skip
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


@pytest.mark.parametrize("arguments", [("report", "results", "--json", "-"), ("envs", "cartpole")], ids=["long", "short"])
def test_an_output_on_a_full_disk_is_one_line_and_exit_code_74(arguments: tuple[str, ...], trained: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {"PYTHONPATH": str(ROOT)}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "playmeter", *arguments], cwd=trained, env=environment,
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 74
    assert done.stderr == "playmeter: standard output cannot be written: No space left on device\n"


def test_signs_that_the_locale_lacks_end_nothing_and_documents_are_utf_8_all_the_same(tmp_path: Path) -> None:
    """A cluster's old locale: ranges have an en dash, a document a multiplication sign."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}

    def said(*arguments: str) -> bytes:
        command = [sys.executable, "-m", "playmeter", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=True).stdout

    lines = said("train", "dqn", "CartPole-v1", "--budget", "400-steps", *TINY).decode("ascii")
    assert "?" in lines
    assert "finished" in lines
    assert "claims:" in said("claims").decode("ascii")
    assert "–" in said("claims", "--markdown", "-").decode("utf-8")


def test_a_board_that_is_ended_leaves_nobody_on_its_port(trained: Path) -> None:
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://localhost:{port}/data/runs"
    command = [sys.executable, "-m", "playmeter", "board", "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=trained, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not any("CartPole-v1" in run for run in _answer(address)):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.terminate()
        assert process.wait(timeout=30) == 0
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(address, timeout=10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and whoever it left
        process.communicate()


def _answer(address: str) -> list[str]:
    """The runs that TensorBoard shows; none as long as it does not answer."""
    try:
        with urllib.request.urlopen(address, timeout=10) as page:
            runs: list[str] = json.load(page)
    except (urllib.error.URLError, ConnectionError):
        return []
    return runs


SPINS = """
import os, sys, playmeter, cli.threads
wait_briefly = cli.threads.wait_briefly
cli.threads.wait_briefly = lambda: (print("torch" in sys.modules), wait_briefly())
sys.argv[1:] = {words}
assert playmeter.main() == 2
print(os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("words", "given", "spins"),
    [
        (["train", "dqn", "Nowhere-v1"], {}, "1000"),
        (["train", "dqn", "Nowhere-v1"], {"GOMP_SPINCOUNT": "7"}, "7"),
        (["train", "dqn", "Nowhere-v1"], {"OMP_WAIT_POLICY": "active"}, "None"),
        (["report", "nowhere"], {}, "None"),
    ],
)
def test_threads_of_a_training_wait_briefly_unless_the_user_says_how(
    words: list[str], given: dict[str, str], spins: str
) -> None:
    """Set before torch is there, with which libgomp reads it."""
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code, asked = SPINS.format(words=words), environment | given | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [*["False"] * (words[0] == "train"), spins]


def test_help_is_fast() -> None:
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "playmeter", "--help"], cwd=ROOT, check=True, capture_output=True)
    assert time.monotonic() - started < 2, "0.04 s on a quiet machine: nothing heavy is imported"


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
    done = subprocess.run(
        [sys.executable, "-c", early], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert (done.returncode, done.stderr) == (code, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_after_the_last_word_changes_nothing(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "playmeter",
        "train",
        "dqn",
        "CartPole-v1",
        "--budget",
        "100-steps",
        "--compile",
        "off",
        *TINY,
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(
            [*command, "--out", str(int(number))], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
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


def test_the_markdown_on_standard_output_is_utf_8_whatever_the_locale(trained: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "playmeter", "report", "results", "--markdown", "-"], cwd=trained, capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}, check=True,
    )  # fmt: skip
    assert done.stdout.decode().startswith("# What learning cost\n\n2 runs, ")
    assert "CO₂" in done.stdout.decode()
    assert done.stderr == b""


def test_a_second_signal_changes_neither_exit_code_nor_what_is_written(tmp_path: Path) -> None:
    """As from a wrapper that passes on what its terminal or scheduler sends to both."""
    asked = ["train", "dqn", "CartPole-v1", "--budget", "10M-steps", "--compile", "off", *TINY]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for number, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        folder = tmp_path / f"{code}/CartPole-v1/dqn/seed0"
        command = [sys.executable, "-m", "playmeter", *asked, "--out", str(code)]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while not (folder / schema.LEDGER_FILE).exists() or not schema.read_ledger(folder):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        first = time.monotonic()
        while process.poll() is None:
            if number != signal.SIGINT or time.monotonic() < first + 0.5 * SAME_WISH_S:  # later it would be another wish
                process.send_signal(number)
            time.sleep(0.001)
            assert time.monotonic() < deadline
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (code, "")
        assert "seed 0: interrupted" in output
        assert schema.read_ledger(folder)[-1].status == "interrupted"
        assert (folder / schema.FINAL_CHECKPOINT).exists()


def test_sigterm_writes_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Exit code 75; meanwhile nobody else works on the run; settings that differ are refused."""
    asked = ["train", "dqn", "CartPole-v1", "--budget", "3k-steps", "--resume", *TINY]
    command = [sys.executable, "-m", "playmeter", *asked]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    folder = tmp_path / "results/CartPole-v1/dqn/seed0"
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
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
