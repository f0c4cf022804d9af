"""The actions of L lanes since each was last seeded: with the seeds, all it takes to bring a World back.

The state of an emulator cannot be copied exactly (what sticks of a sticky action is not in it); seed and actions, played again, are
exact. One row a step for all lanes, in memory that is allocated in advance; a byte an action.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


class ActionLog:
    """``append`` every step, ``begin`` where lanes are seeded again."""

    def __init__(self, lanes: int, room: int = 4096) -> None:
        self._rows: Bytes = np.zeros((room, lanes), np.uint8)
        self._end = 0
        self.first: Ints = np.zeros(lanes, np.int64)
        """The row in which each lane's log begins."""
        self.seeded: Ints = np.zeros(lanes, np.int64)
        """How often each lane was seeded again."""

    @property
    def steps(self) -> Ints:
        """Length of each lane's log [L]."""
        steps: Ints = self._end - self.first
        return steps

    @property
    def rows(self) -> Bytes:
        """uint8 [T, L]; those of a lane before its ``first`` are of no use."""
        return self._rows[: self._end]

    def append(self, actions: npt.NDArray[Any] | int) -> None:
        if self._end == len(self._rows):
            self._make_room()
        self._rows[self._end] = actions
        self._end += 1

    def begin(self, lanes: npt.NDArray[np.bool_]) -> None:
        """The log of these lanes begins anew."""
        self.first[lanes] = self._end
        self.seeded[lanes] += 1

    def _make_room(self) -> None:
        """Forget rows that no lane needs; where that frees less than half, take twice the room."""
        unused = int(self.first.min())
        needed = self.rows[unused:]
        room = len(self._rows) * (2 if 2 * len(needed) > len(self._rows) else 1)
        rows = np.zeros((room, self._rows.shape[1]), np.uint8)
        rows[: len(needed)] = needed
        self._rows, self._end = rows, len(needed)
        self.first -= unused

    def state_dict(self) -> dict[str, Any]:
        unused = int(self.first.min())
        return {"actions": self.rows[unused:].copy(), "first": self.first - unused, "seeded": self.seeded.copy()}

    def load_state_dict(self, state: dict[str, Any], num_actions: Ints, reset: int) -> None:
        """Raises ValueError for a state that is no log of so many lanes with so many actions [L]; ``reset`` marks a row that is no step."""
        actions, first, seeded = state["actions"], state["first"], state["seeded"]
        lanes = len(self.first)
        fits = actions.ndim == 2 and actions.dtype == np.uint8 and actions.shape[1] == lanes == len(first) == len(seeded)
        if not fits or (first < 0).any() or (first > len(actions)).any() or (seeded < 0).any():
            raise ValueError(f"this is no log of the actions of {lanes} lanes")
        played = actions[actions[:, 0] != reset]
        if (played >= num_actions).any():
            raise ValueError(f"the log has actions beyond the {max(num_actions)} that there are")
        self._rows, self._end = np.concatenate([actions, np.zeros((4096, lanes), np.uint8)]), len(actions)
        self.first, self.seeded = first.astype(np.int64), seeded.astype(np.int64)
