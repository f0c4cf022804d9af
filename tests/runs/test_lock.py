"""One process a run folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from runs.config import InputError
from runs.lock import LOCK_FILE, RunLock

ROOT = Path(__file__).resolve().parents[2]
HOLD = "import sys, time; from pathlib import Path; from runs.lock import RunLock; lock = RunLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def test_the_second_process_is_refused_and_a_dead_one_is_taken_over(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {holder.pid} on {socket.gethostname()}"):
            RunLock(tmp_path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (tmp_path / LOCK_FILE).exists(), "nobody removed it"
    lock = RunLock(tmp_path)
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    RunLock(tmp_path).release()


def test_one_process_does_not_work_on_a_run_twice(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    with pytest.raises(InputError, match="in use by process"):
        RunLock(tmp_path)
    lock.release()


def test_where_the_file_system_has_no_locks_the_pid_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def no_locks(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    path = tmp_path / LOCK_FILE
    dead = {"host": socket.gethostname(), "pid": os.getpid(), "started": 1.0}  # the pid lives, but is another process
    for stale in (json.dumps(dead), "", "nonsense", "[]"):
        path.write_text(stale)
        RunLock(tmp_path).release()
    path.write_text(json.dumps(dead | {"host": "elsewhere"}))
    with pytest.raises(InputError, match="elsewhere"):
        RunLock(tmp_path)
    path.unlink()
    lock = RunLock(tmp_path)
    with pytest.raises(InputError, match=str(os.getpid())):
        RunLock(tmp_path)
    lock.release()
