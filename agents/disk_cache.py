"""What took seconds to work out and stays true, kept on the disk for the next start: compiled calls, and what is counted with them.

torch keeps compiled code too, but finds it by the graph that it was compiled from. To ask for it, the compiler has to be imported and the
call traced, which was half of a start. Here a thing is found by what it was made from, code included, so that neither is needed.

Only the program itself keeps and finds anything (:func:`begin`). Another's process, a notebook or a test, may have replaced functions that
compiled calls are made of, which no file would tell.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SETTINGS_OF_TORCH = ("TORCH", "PYTORCH", "ATEN", "AOT_INDUCTOR", "AOTINDUCTOR")  # how names of environment variables begin
COMPILERS = ("c++", "g++", "clang++")
KEEP_NOTHING = ("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "TORCH_COMPILE_FORCE_DISABLE_CACHES")

_folder: Path | None = None  # None: nothing is kept
_sources: str | None = None  # as they were when the process began


def begin() -> None:
    """Keep and find things from now on. To be called before torch is imported, by a process that is all ours.

    Nothing is kept where torch was told to keep nothing either, and on systems whose files have no owners.
    """
    global _folder, _sources
    if any(os.environ.get(name, "0") not in ("", "0") for name in KEEP_NOTHING) or not hasattr(os, "getuid"):
        return
    named = os.environ.get("TORCHINDUCTOR_CACHE_DIR")  # before torch's compiler sets it
    with suppress(OSError):  # there is no folder for temporary files, or a source cannot be read
        _sources = _hash_of_sources()
        _folder = Path(named, "playmeter") if named else Path(tempfile.gettempdir(), f"playmeter_{os.getuid()}")


def key(*made_from: object) -> str | None:
    """What is kept under it was made from these, each known by its repr, and by this code, torch, Python, processor, compilers and
    settings, so that nothing is found where one of them is another. None: nothing is kept."""
    import torch  # the front door begins this without it

    if _folder is None or not hasattr(torch.cpu, "get_capabilities"):  # another processor's code would end the process
        return None
    settings = (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mkldnn.enabled,
    )
    return hashlib.sha256(repr((_sources, _ground(), settings, made_from)).encode()).hexdigest()


def get(key: str | None) -> Any:
    """What is kept under the key; None: nothing that can be read."""
    if key is None or _folder is None or not _is_ours(_folder):
        return None
    with suppress(Exception):  # whatever a damaged file makes of its reader: what it held is worked out anew
        return pickle.loads((_folder / key).read_bytes())
    return None


def put(key: str | None, value: Any) -> None:
    """Keep a value that pickle takes; where the disk takes nothing, it is worked out anew the next time."""
    _keep(key, pickle.dumps(value))


def put_file(key: str | None, path: str) -> str | None:
    """Keep a copy of a file beside the value of the key and say where; None: it could not be kept."""
    with suppress(OSError):
        return _keep(f"{key}.so" if key else None, Path(path).read_bytes())
    return None


def _keep(name: str | None, content: bytes) -> str | None:
    """Where it is kept, whole: others may be reading or writing the same."""
    if name is None or _folder is None:
        return None
    with suppress(OSError):
        if _hash_of_sources() != _sources:  # edited since: who knows what it was made from
            return None
        _folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(_folder):
            return None
        descriptor, written = tempfile.mkstemp(dir=_folder)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.replace(written, _folder / name)
        except OSError:
            os.unlink(written)
        else:
            return str(_folder / name)
    return None


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can have put anything there: the folder for temporary files is everybody's, and what is kept will be run."""
    with suppress(OSError):
        found = folder.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return False


def _hash_of_sources() -> str:
    # an editor's own files begin with a dot, and may lead nowhere
    sources = sorted(path for path in HERE.iterdir() if path.suffix in (".py", ".h") and path.name[0] != ".")
    return hashlib.sha256(repr([(path.name, path.read_bytes()) for path in sources]).encode()).hexdigest()


@cache
def _ground() -> tuple[object, ...]:
    """What does not change while a process runs, beside the sources."""
    import torch

    named = os.environ.get("CXX")
    found = [path for name in (*([named] if named else []), *COMPILERS) if (path := shutil.which(name))]
    variables = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(SETTINGS_OF_TORCH) and name != "TORCHINDUCTOR_CACHE_DIR"  # where, not what
    }
    return (
        (torch.__version__, torch.version.git_version, torch.__file__, sys.version),
        sorted(torch.cpu.get_capabilities().items()),
        [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in found],
        variables,
    )
