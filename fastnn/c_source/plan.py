"""Where the result of each step lies while a row goes through: shared buffers, each of its exact size."""

from __future__ import annotations

from dataclasses import dataclass

from ..steps import Step, sources_of

__all__ = ["LEFT_OUT", "Plan", "plan"]

# Kinds that predictions leave out.
LEFT_OUT = frozenset({"dropout", "alpha_dropout", "noise"})
# Kinds that may write where they read: number j of the result wants number j of the input alone, or the
# whole row is read before it is written.
_IN_PLACE = frozenset(
    {"activation", "scale", "scale_columns", "batch_norm", "layer_norm", "rms_norm", "prelu", "add"}
)


@dataclass(frozen=True)
class Plan:
    """Places by step.

    Parameters
    ----------
    value : dict of int
        Step -> step whose result it is; other than itself for what is left out. -1 is the input.
    place : dict of str
        Step -> "x" (of -1), "out", or the name of a buffer.
    buffers : dict of int
        Name of a buffer -> how many numbers it holds.
    """

    value: dict[int, int]
    place: dict[int, str]
    buffers: dict[str, int]


def plan(steps: tuple[Step, ...], prefix: str = "") -> Plan:
    """The places of all results; a chain of layers takes two buffers at most.

    The names of buffers begin with `prefix`.
    """
    value = {-1: -1}
    for i, step in enumerate(steps):
        value[i] = value[sources_of(i, step)[0]] if step.kind in LEFT_OUT else i
    final = value[len(steps) - 1]
    kept = [i for i in range(len(steps)) if value[i] == i]
    reads = {i: [value[j] for j in sources_of(i, steps[i])] for i in kept}
    last = {j: i for i in kept for j in reads[i]}
    last[final] = len(steps)

    # Results that share one place, named by the first: each takes that of a source that nobody reads later.
    group: dict[int, int] = {}
    for i in kept:
        free = [j for j in reads[i] if j >= 0 and last[j] == i]
        group[i] = group[free[0]] if free and steps[i].kind in _IN_PLACE else i
    ends: dict[int, int] = {}
    for i in kept:
        ends[group[i]] = max(ends.get(group[i], i), last.get(i, i))

    place = {-1: "x"}
    sizes: list[int] = []
    busy: dict[int, int] = {}  # buffer -> the group in it
    for i in kept:
        if group[i] != i:
            place[i] = place[group[i]]
            continue
        if final >= 0 and group[i] == group[final]:
            place[i] = "out"
            continue
        busy = {number: g for number, g in busy.items() if ends[g] >= i}
        n, free_buffers = steps[i].n_out, [b for b in range(len(sizes)) if b not in busy]
        # The smallest that is large enough, else the largest, which grows.
        fitting = [b for b in free_buffers if sizes[b] >= n]
        if fitting:
            chosen = min(fitting, key=lambda b: sizes[b])
        elif free_buffers:
            chosen = max(free_buffers, key=lambda b: sizes[b])
        else:
            chosen = len(sizes)
            sizes.append(0)
        sizes[chosen] = max(sizes[chosen], n)
        busy[chosen] = i
        place[i] = f"{prefix}buffer_{chosen}"
    return Plan(value, place, {f"{prefix}buffer_{b}": n for b, n in enumerate(sizes)})
