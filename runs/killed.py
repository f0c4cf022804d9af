"""Ends the folders of metered loops that were killed: what their counters still know goes into a last line.

Whatever counts of a run lies in files that a kill cannot reach, so steps, frames and games are complete; time and energy are known up
to the last line, see ``schema.after_kill``. The runs of our own loop have no such counters: readers close them by themselves.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from runs.folder import RunFolder, write_atomically
from runs.schema import LEDGER_FILE, Counts, Flops, SchemaError, after_kill, read_ledger, read_run
from runs.tally import COUNTING, Events, claim, close_counting, counted, started_ns


def close_killed(parent: Path) -> None:
    """Write the last line of every run in ``parent`` that nobody writes any more. What cannot be read is left as it is."""
    for counting in sorted(parent.glob(f"*/{COUNTING}")):
        with suppress(SchemaError, OSError):
            close_one(counting.parent)


def close_one(folder: Path) -> None:
    writer = claim(folder)
    if writer is None:  # it lives
        return
    with writer:
        record, lines = read_run(folder), read_ledger(folder)
        if lines:
            last, counts, asked = after_kill(lines, record), counted(folder), record.run_config
            keep_lines(folder / LEDGER_FILE, len(lines))
            files = RunFolder(folder, record)  # begins monitor.csv anew: every game is still among the events
            begin_ns = started_ns(folder)
            for event in Events(folder).new():
                if event["kind"] == "episode":
                    wall_s = None if begin_ns is None else max(0.0, (event["ns"] - begin_ns) / 1e9)
                    files.episode(event["score"], event["steps"], wall_s, event["frames"])
            lineage = Counts(counts.frames, counts.steps, counts.updates, counts.episodes)
            act, update = (
                product(asked.get("flops_per_step"), counts.steps),
                product(asked.get("flops_per_update"), counts.updates),
            )
            notes = [*last.notes, "its steps, frames and games are complete: they were counted up to the end"]
            files.ledger(
                replace(
                    last, lineage=lineage, consumed=lineage, eval_frames=counts.eval_frames,
                    flops=Flops(act, update, last.flops.eval), notes=notes,
                )
            )  # fmt: skip
            files.close()
        close_counting(folder)


def keep_lines(path: Path, lines: int) -> None:
    """Cut off what a torn write left behind the whole lines, so that the next one begins where it should."""
    content = path.read_bytes()
    whole = b"".join(line + b"\n" for line in content.split(b"\n")[:lines])
    if whole != content:
        write_atomically(path, whole)


def product(cost: int | None, number: int | None) -> int | None:
    return None if cost is None or number is None else round(cost * number)
