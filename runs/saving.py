"""When a run's checkpoints are taken, of what, and what is said of them: the training thread's side of ``runs.background``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import BinaryIO

from runs.background import Writer
from runs.checkpoint import FOLDER, Manifest, Store
from runs.curves import Curves
from runs.folder import RunFolder, names_of
from runs.loop import Trainer


class Saver:
    """The checkpoints of a group of S runs, and the agents that are saved beside them.

    Where the disk refuses a checkpoint, the training goes on with the one before. ``good_step`` is that of the latest.
    """

    def __init__(
        self,
        trainer: Trainer,
        folders: Sequence[RunFolder],
        curves: Sequence[Curves],
        notice: Callable[[str], None],
        latest: Manifest | None = None,
    ) -> None:
        """``latest``: the checkpoint that the trainer was restored from."""
        self._trainer, self._folders, self._curves, self._notice = trainer, folders, curves, notice
        self._store = Store(folders[0].folder / FOLDER, notice)
        self._store.latest = latest
        self._writer = Writer(self._store, 0 if trainer.ring is None else trainer.ring.end)
        self._refusal = ""  # what the disk said to the latest
        self.good_step = None if latest is None else latest.steps

    def save(self) -> None:
        """Begin a checkpoint; a line of the ledger with all that was spent must be on the disk already."""
        self.settle()
        state, steps = self._trainer.state(), self._trainer.books.counters.steps
        if state is None:
            return
        try:
            for curves in self._curves:
                curves.flush()
            names = names_of([folder.folder for folder in self._folders])
            files = {name: folder.sizes() for name, folder in zip(names, self._folders, strict=True)}
        except OSError as error:
            self._refused(steps, error)
            return
        agents = [(folder, in_memory(save)) for folder, save in self._agents()]

        def save_agents() -> None:
            for folder, content in agents:
                folder.checkpoint(self._trainer.checkpoint_file, partial(write, content=content))

        self._writer.save(steps, replace(state, plain=state.plain | {"files": files}), save_agents)

    def beat(self) -> None:
        """Between two checkpoints: say what became of the last, and have some of the next written."""
        if self._writer.idle:
            self.settle()
        if (ring := self._trainer.ring) is not None:
            self._writer.ahead(ring, self._trainer.books.checkpoint_fraction)

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, and say what became of it."""
        steps = self._writer.saving
        try:
            saved = self._writer.settle()
        except OSError as error:
            self._refused(steps or 0, error)
        else:
            self.good_step = self.good_step if saved is None else saved

    def save_agents(self) -> None:
        """At the end. Raises OSError."""
        for folder, save in self._agents():
            folder.checkpoint(self._trainer.checkpoint_file, save)

    def forget_all(self) -> None:
        """The run is over, and every checkpoint settled: nothing is left to go on from."""
        self._store.forget_all()

    def close(self) -> None:
        """Wait until everything is written."""
        self._writer.close()

    def _agents(self) -> Iterator[tuple[RunFolder, Callable[[BinaryIO], None]]]:
        """How the trained agents are saved; of a seed that diverged the last good one stays."""
        for k, folder in enumerate(self._folders):
            if not self._trainer.books.stopped[k]:
                yield folder, partial(self._trainer.save, k)

    def _refused(self, steps: int, error: OSError) -> None:
        stays = "there is none before it" if self.good_step is None else f"that of step {self.good_step:,} stays"
        reason = f"{error.strerror or error}; {stays}"
        if reason != self._refusal:  # said once
            self._notice(f"no checkpoint at step {steps:,}: {reason}")
        self._refusal = reason


def in_memory(save: Callable[[BinaryIO], None]) -> memoryview:
    file = BytesIO()
    save(file)
    return file.getbuffer()


def write(file: BinaryIO, content: memoryview) -> None:
    file.write(content)
