"""``playmeter meter -- COMMAND``: meter a whole foreign process tree, and change nothing about it.

The command gets this process's standard streams, its signals, and one more environment variable. Signals: what a terminal sends to
its whole foreground group (Ctrl-C) has reached the command already; what was sent to this process alone is passed on.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from runs.anyone import RUN_VARIABLE
from runs.config import ForeignConfig, InputError
from runs.recorder import Recorder
from runs.schema import FAILED, FINISHED, INTERRUPTED, PROCESS_TREE

LOOK_S = 0.2
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as the shell, env, nice and timeout say it: 2 may be the command's own
STOP = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
PASSED_ON = STOP | {signal.SIGUSR1, signal.SIGUSR2}
_FROM_KERNEL = 0x80  # si_code SI_KERNEL: the terminal's driver sent it


class CommandError(Exception):
    """The command cannot be started: one line, and the exit code that says so."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def run_metered(asked: ForeignConfig, command: Sequence[str], own_command: Sequence[str]) -> tuple[int, Recorder]:
    """Run ``command`` to its end under the meter. Returns its exit code (128 + n where signal n killed it) and the closed recorder.

    Raises InputError or CommandError; then nothing was written.
    """
    if not hasattr(signal, "sigtimedwait"):
        raise InputError("playmeter meter needs Linux: this system cannot wait for a process and its signals at once")
    program = find(command[0])
    recorder = Recorder(asked, list(own_command), PROCESS_TREE, children_only=True)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON | {signal.SIGCHLD})
    try:
        recorder.start(threaded=False)
        pid = start(program, command, recorder, mask)
        code, asked_to_stop = wait(pid, recorder)
        recorder.stop(status_of(code, asked_to_stop))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return code, recorder


def find(program: str) -> str:
    found = shutil.which(program)
    if found is not None:
        return found
    if os.sep in program and Path(program).exists():
        raise CommandError(f"{program} cannot be executed: permission denied, or a folder", NOT_EXECUTABLE)
    raise CommandError(f"{program}: command not found", NOT_FOUND)


def start(program: str, command: Sequence[str], recorder: Recorder, mask: set[int] | set[signal.Signals]) -> int:
    environment = os.environ | {RUN_VARIABLE: str(recorder.path.resolve())}
    try:
        # Python ignores these two, and what is ignored stays so in a child.
        return os.posix_spawn(program, list(command), environment, setsigmask=mask, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ])
    except OSError as error:  # e.g. a script whose interpreter is not there
        recorder.withdraw()
        raise CommandError(f"{command[0]} cannot be executed: {error.strerror}", NOT_EXECUTABLE) from error


def wait(pid: int, recorder: Recorder) -> tuple[int, bool]:
    """Beat, and pass signals on, until the command ends. Returns its exit code and whether it was asked to stop."""
    asked_to_stop = False
    next_beat_s = time.monotonic() + recorder.asked.heartbeat_s
    while True:
        got = signal.sigtimedwait(PASSED_ON | {signal.SIGCHLD}, LOOK_S)
        if got is not None and got.si_signo != signal.SIGCHLD:
            asked_to_stop |= got.si_signo in STOP
            if got.si_code != _FROM_KERNEL:
                os.kill(pid, got.si_signo)  # not reaped yet, so the number is still its own
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return (code if code >= 0 else 128 - code), asked_to_stop or -code in (signal.SIGINT, signal.SIGTERM)
        if time.monotonic() >= next_beat_s:
            recorder.beat()
            next_beat_s = time.monotonic() + recorder.asked.heartbeat_s
        else:
            recorder.look()


def status_of(code: int, asked_to_stop: bool) -> str:
    if asked_to_stop:
        return INTERRUPTED
    return FINISHED if code == 0 else FAILED
