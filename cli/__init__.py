"""The commands: each module reads the options of some, calls the rooms that do the work, and says what came of it.

Nothing here is loaded before its command runs, so that ``playmeter --help`` and ``report`` never wait for torch.
"""

from __future__ import annotations

from collections.abc import Iterable

# exit codes
BAD_INPUT, INTERRUPTED, DIVERGED = 2, 130, 1
NO_DISK, PREEMPTED = 74, 75  # EX_IOERR; EX_TEMPFAIL: a checkpoint is there, run the same with --resume

# What a user can do wrong. By name, because importing the classes would import what raises them.
EXPECTED = {
    "InputError",
    "BudgetError",
    "ConfigError",
    "UnknownAgent",
    "UnknownEnv",
    "ReportError",
    "ClaimsError",
    "UnknownPlace",
    "UnknownPrice",
}


def nearest(word: str, known: Iterable[str]) -> str:
    """``: did you mean ...?``, or nothing where nothing is near."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=2, cutoff=0.5)
    return f": did you mean {' or '.join(near)}?" if near else ""
