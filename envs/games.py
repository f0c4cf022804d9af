"""The Atari games that ship with ale-py, and what a reset emulates by itself: ``atari_games.csv``.

A reset is not free. Before the player gets the joystick, ALE runs 60 no-op frames, holds the console's RESET switch for 2 x 4
frames, selects the game mode in some menus and plays the game's starting actions: 68 frames for most games, 561 for Word Zapper.
Nobody plays them, so they are kept apart as boot frames.

``reset_frames``    frames emulated by one reset.
``load_frames``     frames emulated by loading the ROM, which resets once and first runs 60 frames to find the television standard.
``counted_frames``  how many frames of one reset ALE's own ``frame_number`` counts all the same (menu presses); to be subtracted.

How they are known: ale-py 0.12.1 was built from its source distribution with a counter in the one function that emulates a
frame (``TIA::update``), and every game was loaded and reset four times after play of different lengths; all four were equal
in every game. ``counted_frames`` was also read from the published wheel. With sticky actions 0.25 and 12 resets only Double Dunk
differs: it is taken through its menu by actions, which stick, and each further press is one more frame emulated and counted.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

COUNTED_IN_ALE_PY = "0.12.1"
TABLE = Path(__file__).parent / "atari_games.csv"


@dataclass(frozen=True)
class Game:
    """A row of ``atari_games.csv``."""

    rom: str
    display_format: str  # "NTSC" or "PAL", as ALE finds it by counting scan lines
    actions: int  # minimal action set
    load_frames: int
    reset_frames: int
    counted_frames: int
    how_known: str

    @property
    def env_id(self) -> str:
        return f"ALE/{self.rom.title().replace('_', '')}-v5"  # ale_py/registration.py, rom_id_to_name

    @property
    def boot_varies_with_sticky_actions(self) -> bool:
        return "sticky" in self.how_known

    @property
    def frame_rate_hz(self) -> float:
        """60 for NTSC, 50 for PAL, as in ALE's Console::getFrameRate."""
        return 50.0 if self.display_format == "PAL" else 60.0


@cache
def games() -> dict[str, Game]:
    """Every single-player game by its env id. The four two-player ROMs of the wheel have no ``-v5`` environment."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = [_game(row) for row in csv.DictReader(file)]
    return {game.env_id: game for game in rows}


def boot_frames_are_exact() -> bool:
    """Whether the installed ale-py is the one in which the boot frames were counted."""
    from importlib.metadata import PackageNotFoundError, version  # takes as long to load as all the rest of this package

    try:
        return version("ale-py") == COUNTED_IN_ALE_PY
    except PackageNotFoundError:
        return False


def _game(row: dict[str, str]) -> Game:
    return Game(
        rom=row["rom"],
        display_format=row["display_format"],
        actions=int(row["actions"]),
        load_frames=int(row["load_frames"]),
        reset_frames=int(row["reset_frames"]),
        counted_frames=int(row["counted_frames"]),
        how_known=row["how_known"],
    )
