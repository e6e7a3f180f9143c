"""From samples to figures: which rounds count, medians, ratios paired by round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["CLEAN_SHARE", "LOST_SHARE", "Sample", "Timing", "geometric_mean", "judge"]

# A round in which threads waited for a processor by this share of its wall time more than in the contender's
# best round was shared with others. (JAX's threads outnumber the cores: they wait for each other.)
LOST_SHARE = 0.05
# Where the system does not tell: one whose CPU time for each second of wall time is below this share of the
# contender's best one.
CLEAN_SHARE = 0.95


@dataclass
class Sample:
    """So many calls of one contender in one round."""

    wall: float
    cpu: float
    calls: int
    lost: float | None = None  # seconds that its threads were ready and had no processor

    @property
    def share(self) -> float:
        """CPU seconds for each second of wall time."""
        return self.cpu / self.wall

    @property
    def seconds(self) -> float:
        """Of one call."""
        return self.wall / self.calls


@dataclass
class Timing:
    """What one contender took: seconds of a call (median over clean rounds) and the rounds behind it."""

    median: float
    quartiles: tuple[float, float]
    rounds: int
    dropped: int
    cpus: float  # CPU seconds for each second of wall time
    ratio: float = 1.0  # to the first contender, median over rounds in which both were clean
    busy: bool = False  # too few rounds were clean to stand on: others were at work, and all are counted


def _clean(rounds: list[Sample]) -> list[bool]:
    best = max(one.share for one in rounds)
    waits = [one.lost / one.wall for one in rounds if one.lost is not None]
    if len(waits) == len(rounds):
        return [wait <= min(waits) + LOST_SHARE for wait in waits]
    return [one.share >= CLEAN_SHARE * best for one in rounds]


def judge(samples: dict[str, list[Sample]]) -> dict[str, Timing]:
    """Medians over clean rounds; ratios pair each contender with the first one, round by round."""
    clean = {name: _clean(rounds) for name, rounds in samples.items()}
    # Of fewer than a quarter nobody can tell a median: all are kept, and it is said.
    busy = {name for name, good in clean.items() if sum(good) < max(min(2, len(good)), len(good) // 4)}
    clean |= {name: [True] * len(clean[name]) for name in busy}
    first = next(iter(samples))
    timings = {}
    for name, rounds in samples.items():
        kept = [one for one, good in zip(rounds, clean[name], strict=True) if good]
        seconds = [one.seconds for one in kept]
        low, _, high = (
            statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
        )
        both = [i for i in range(len(rounds)) if clean[name][i] and clean[first][i]] or range(len(rounds))
        timings[name] = Timing(
            median=statistics.median(seconds),
            quartiles=(low, high),
            rounds=len(rounds),
            dropped=len(rounds) - len(kept),
            cpus=statistics.median(one.share for one in kept),
            ratio=statistics.median(rounds[i].seconds / samples[first][i].seconds for i in both),
            busy=name in busy,
        )
    return timings


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers; nan of none."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan
