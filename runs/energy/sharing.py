"""Which part of a board's or a processor's joules is ours, where others use it too. Pure arithmetic.

A GPU: what work adds is split by the time that each process kept the board busy, idle power equally. Where only the number of
processes is known, equally. Strangers can be wrong about that, so low is our work alone and high the whole board.

Runs of ours that declare their shares split by declaration, which is no estimate of who drew more: it is how the allocation is paid.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Our part for a while: of what work adds above idle power, and of idle power."""

    work: float
    idle: float
    low_work: float
    low_idle: float
    high: float

    @property
    def whole(self) -> bool:
        return self == WHOLE


WHOLE = Part(1.0, 1.0, 1.0, 1.0, 1.0)


def declared(share: float) -> Part:
    return Part(share, share, share, share, share)


def by_work(ours: float, everybodys: float, our_processes: int, processes: int) -> Part:
    """``ours`` of ``everybodys`` busy time; equal parts of work where nobody was busy."""
    idle = our_processes / processes
    work = ours / everybodys if everybodys > 0 else idle
    return Part(work, idle, work, 0.0, 1.0)


def equally(our_processes: int, processes: int) -> Part:
    part = our_processes / processes
    return Part(part, part, 0.0, 0.0, 1.0)


def slice_of(share: float) -> Part:
    """A MIG slice: no sensor tells who of the slices drew the power."""
    return Part(share, share, 0.0, 0.0, 1.0)


class Shared:
    """Joules of a device split between us and others, period by period.

    With idle power P, a period of E joules and t seconds gives us work x (E - P t) + idle x P t. The sums keep E and t apart,
    because P, the lowest power seen, is known best at the end.
    """

    def __init__(self) -> None:
        self.idle_w = float("inf")
        self._centre_j = self._centre_s = self._low_j = self._low_s = self._high_j = 0.0

    def saw(self, watts: float | None) -> None:
        """A look at the whole device's power."""
        if watts is not None:
            self.idle_w = min(self.idle_w, watts)

    def add(self, part: Part, joules: float, seconds: float) -> None:
        self._centre_j += part.work * joules
        self._centre_s += (part.idle - part.work) * seconds
        self._low_j += part.low_work * joules
        self._low_s += (part.low_idle - part.low_work) * seconds
        self._high_j += part.high * joules

    def split(self) -> tuple[float, float, float]:
        """(joules, low, high) so far."""
        known = self.idle_w < float("inf")
        idle_w = self.idle_w if known else 0.0
        low_j = self._low_j + idle_w * self._low_s if known or self._low_s == 0 else 0.0
        joules = min(max(0.0, self._centre_j + idle_w * self._centre_s), self._high_j)
        return joules, min(max(0.0, low_j), joules), self._high_j


COST_OF_A_CPU_SECOND = 3.0


def by_cpu_time(ours: float) -> tuple[float, float, float]:
    """(centre, low, high) of our part of a processor's joules, of whose CPU seconds we spent the part ``ours``.

    In proportion, so that everybody's parts add up; low and high where one's CPU second costs up to three times that of
    another (vector units at work against a core that waits for memory).
    """
    others, k = 1 - ours, COST_OF_A_CPU_SECOND
    return ours, ours / (ours + k * others), k * ours / (k * ours + others)
