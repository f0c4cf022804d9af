"""Atari scores against random play (0) and the human tester (1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.convert.tables import table


@dataclass(frozen=True)
class AtariScores:
    """Published scores of one game; ``normalise`` gives 0 for random play and 1 for the human tester."""

    random: float
    human: float

    def normalise(self, score: float) -> float:
        return (score - self.random) / (self.human - self.random)

    def at(self, share: float) -> float:
        """The score that normalises to ``share``."""
        return self.random + share * (self.human - self.random)


def atari_scores(
    env_id: str, convention: Literal["no-op starts", "deepmind", "human starts"] = "no-op starts"
) -> AtariScores | None:
    """Random and human score of an Atari game by its environment id, None where none was published.

    The usual table is of no-op starts. Two others were used for published figures and must not be mixed with it:

    - ``deepmind``: the same but random = 0 on Video Pinball. There the tester is hardly better than random (17,667.9 against
      16,256.9), so that any good agent has some 10,000 % and carries the mean over 57 games. Published means of C51, R2D2,
      MuZero and Agent57 are only reproduced with 0. Median and IQM do not change.
    - ``human starts``: for agents evaluated from human starting points (Nair et al. 2015), 49 games. None for Video Pinball,
      where random play exceeds the human score and a share of it would be negative.
    """
    row = table("atari_scores").get(env_id)
    if row is None:
        return None
    suffix = "_human_starts" if convention == "human starts" else ""
    random, human = row[f"random_score{suffix}"], row[f"human_score{suffix}"]
    if convention == "deepmind":
        random = row["random_score_deepmind"]
    if not random or float(random) >= float(human):
        return None
    return AtariScores(float(random), float(human))
