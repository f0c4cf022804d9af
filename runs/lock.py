"""One process a run folder: the second is refused and told who the first is.

The kernel's lock on the file is what counts, so that it ends with its process, however that ends; the host and pid inside are for
people, and for file systems without locks.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from runs.config import InputError

LOCK_FILE = "lock"
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


class RunLock:
    """Held from its making to ``release``, or to the end of the process."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError where another process holds it, OSError where the folder cannot be written."""
        self._path = folder / LOCK_FILE
        self._file = self._take()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(_myself()).encode(), 0)

    def _take(self) -> int:
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = _owner(file)
                if error.errno not in _NO_LOCKS or _may_live(owner):
                    os.close(file)
                    raise self._refusal(owner) from error
            if _is_still(file, self._path):  # else whoever held it has just removed it
                return file
            os.close(file)

    def _refusal(self, owner: dict[str, object]) -> InputError:
        who = f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'an unknown host')}"
        return InputError(f"{self._path.parent} is in use by {who}: wait for it, or stop it first")

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._file)


def _myself() -> dict[str, object]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _owner(file: int) -> dict[str, object]:
    try:
        owner = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _may_live(owner: dict[str, object]) -> bool:
    """Whether the process that wrote this may still run: one of another host may."""
    if not owner:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    try:
        return bool(psutil.Process(owner.get("pid")).create_time() == owner.get("started"))
    except (psutil.Error, TypeError, ValueError):
        return False


def _is_still(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
