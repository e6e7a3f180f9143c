"""Many training steps of a small net in one launch: the net stays in the shared memory of one thread block.

Or in that of a cluster of blocks, where one has no room for it. What `cuda_step` captures, this trains too,
by the same functions of kernels_*.cu and in the same order of sums, where it is small enough: `why_not` of a
step tells. Blocks of several nets are one launch (`gangs`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import numpy as np

from .. import kernels
from ..errors import DeviceError
from ..losses import Loss
from ..optimizers import Optimizer, Rule
from ..steps import Step
from . import cuda_constants, cuda_kernels, gangs
from .array_optimizers import is_decoupled
from .cuda_kernels import NORM_BLOCKS, THREADS
from .cuda_places import SIZES, Places, columns, first_of, flops, may_be_divided, places, tensors

__all__ = ["CLUSTERS_FROM", "MOST_FLOPS", "PersistentStep", "source"]

CLUSTERS_FROM = (9, 0)  # compute capability with clusters of blocks

# A step with more operations in its products for each block is left to the captured step, which has all
# multiprocessors: one of them has done so many in about the time that the launches of a captured step take.
# An estimate (13 of them, 2 to 3 us each, 100 GFLOP/s of one block); nobody has timed it on a card.
MOST_FLOPS = 4_000_000
# Of the shared memory of a block: what persistent_*.cu and kernels_*.cu declare themselves, and a rest.
_OWN_BYTES = 4096

_KINDS = {"dense": 0, "activation": 1, "scale": 2, "scale_columns": 2, "dropout": 3}  # KIND_*
_BY_ROW = {"softmax": 1, "log_softmax": 2}  # BY_ROW_*


@cache
def source(n_blocks: int = 1) -> str:
    """The text that is compiled for clusters of n_blocks; of kernels_*.cu it takes the functions alone."""
    names, before = (
        ["persistent_base.cu", "persistent_products.cu", "persistent.cu"],
        ["#define FASTNN_PARTS"],
    )
    if n_blocks > 1:
        names.insert(2, "persistent_cluster.cu")
        before += ["#define CLUSTERED 1", f"#define CLUSTER {n_blocks}"]
    return cuda_kernels.joined(*names, before=before)


class PersistentStep:
    """The steps of a small net as one kernel; to its caller the face of `CapturedStep`.

    Parameters
    ----------
    cp : module
        CuPy, or what has its face.
    number : int
        Of the card.
    shared_bytes : int
        Of shared memory, that a block of the card may ask for.
    has_clusters : bool
        Whether the card has clusters of blocks.
    steps, loss, optimizer, parameters, gradient, state, seed, stream
        As for `CapturedStep`.

    Attributes
    ----------
    each : float or None
        Seconds of a step of the last launch, where that was one together with others.
    n_together : int
        Nets of the last launch.
    """

    def __init__(
        self,
        cp: Any,
        number: int,
        shared_bytes: int,
        has_clusters: bool,
        steps: tuple[Step, ...],
        loss: Loss,
        optimizer: Optimizer,
        parameters: Any,
        gradient: Any,
        state: Any,
        seed: int,
        stream: Any,
    ) -> None:
        self._cp, self._number, self._limit = cp, number, max(0, shared_bytes - _OWN_BYTES)
        self._sizes = SIZES if has_clusters and may_be_divided(steps) else (1,)
        self._steps, self._loss, self._o, self._seed = steps, loss, optimizer, seed
        self._w, self._g, self._state, self.stream = parameters, gradient, state, stream
        self._all_rules = cuda_constants.merged(optimizer.rules(steps))
        self.rules = tuple(r for r in self._all_rules if not r.frozen)
        self.progress, self.sums = cp.zeros(4, np.int64), cp.zeros(2, np.float64)
        self.sources, self._tasks = cp.zeros(6, np.uint64), cp.zeros(2, np.uint64)
        self._columns = {
            i: (cp.asarray(s.factors, np.float32), cp.asarray(s.shifts, np.float32))
            for i, s in enumerate(steps)
            if s.kind == "scale_columns"
        }
        self.each: float | None = None
        self.n_together = 1
        self._tables: dict[tuple[int, int, bool], tuple[Any, gangs.Task]] = {}
        self._rooms: dict[tuple[int, int], Any] = {}
        self._choices: dict[tuple[int, int], tuple[int, str | None]] = {}
        self._refusals: dict[tuple[int, int], str | None] = {}

    def why_not(self, n_rows: int, n_targets: int) -> str | None:
        """Why batches of n_rows are no work for one block or a cluster; None where they are."""
        return self._choice(n_rows, n_targets)[1]

    def refusal(self, n_rows: int, n_targets: int) -> str | None:
        """Why the card does not take a launch of so many blocks, tried once; None where it does.

        `why_not` must have nothing against these batches.
        """
        n_blocks = self._choice(n_rows, n_targets)[0]
        if n_blocks == 1:
            return None
        n_bytes = self._places(n_rows, n_targets, n_blocks).n_bytes
        key = n_blocks, n_bytes
        if key not in self._refusals:
            function = _function(self._cp, self._number, self._limit, n_blocks)
            self._tasks.set(np.zeros(2, np.uint64), stream=self.stream)  # no steps
            try:
                function((n_blocks,), (THREADS,), (self._tasks,), shared_mem=n_bytes)
                self.stream.synchronize()
                self._refusals[key] = None
            except Exception as error:
                self._refusals[key] = (
                    f"a cluster of {n_blocks} blocks, each with {n_bytes:,} bytes of shared memory, could "
                    f"not be launched: {type(error).__name__}: {error}"
                )
        return self._refusals[key]

    def _choice(self, n_rows: int, n_targets: int) -> tuple[int, str | None]:
        """The least number of blocks that have room and time for such batches, or why there is none."""
        found = self._choices.get((n_rows, n_targets))
        if found is None:  # asked for in every call, and some 50 us where there are clusters to try
            if len(self._choices) > 63:
                self._choices.clear()
            found = self._choices[n_rows, n_targets] = self._chosen(n_rows, n_targets)
        return found

    def _chosen(self, n_rows: int, n_targets: int) -> tuple[int, str | None]:
        work, why = flops(self._steps, n_rows), None
        for n in self._sizes:
            each = "" if n == 1 else f" in each of {n} blocks"
            if work > n * MOST_FLOPS:
                why = f"{work:,} operations in the products of a step, more than {MOST_FLOPS:,}{each}"
                continue
            needed = self._places(n_rows, n_targets, n).n_bytes
            if needed <= self._limit:
                return n, None
            why = f"{needed:,} bytes of shared memory{each}, of which a block may use {self._limit:,} here"
        return 0, why

    def prepare(self, n_steps: int, n_rows: int, n_targets: int, bytes_: bool) -> None:
        """Make what `launch` of the same will need."""
        task = self._table(n_rows, n_targets, bytes_)
        _function(self._cp, self._number, self._limit, task.n_blocks)

    def launch(self, n_steps: int, n_rows: int, n_targets: int, bytes_: bool) -> None:
        """Queue so many steps; `sources`, `progress` and `sums` say on what.

        Where the caller trains together with others, they are done when this returns.
        """
        task = self._table(n_rows, n_targets, bytes_)._replace(n_steps=n_steps)
        gang = gangs.current()
        if gang is not None:
            self.stream.synchronize()  # what it sends is there: the launch has another stream
            each, self.n_together = gang.submit(task, self._together)
            self.each = max(1e-7, each)
            return
        self.each, self.n_together = None, 1
        self._tasks.set(np.array([task.table, n_steps], np.uint64), stream=self.stream)
        function = _function(self._cp, self._number, self._limit, task.n_blocks)
        function((task.n_blocks,), (THREADS,), (self._tasks,), shared_mem=task.n_bytes)

    def broken_step(self) -> int | None:
        """The step of the network that was the first with an output not finite, after a loss that was not."""
        found = int(self.progress.get(stream=self.stream)[3])
        return None if found < 0 else found

    def _together(self, tasks: Sequence[gangs.Task]) -> float:
        """A launch for all nets of this card with clusters of one size; gives the seconds."""
        cp = self._cp
        # The longest begin first, where there are more than the card has room for.
        rows = sorted(tasks, key=lambda task: (task.n_blocks, -task.n_steps))
        given = np.array([(task.table, task.n_steps) for task in rows], np.uint64).reshape(-1)
        with cp.cuda.Device(self._number):
            stream = _stream(cp, self._number)
            with stream:
                there = cp.empty(len(given), np.uint64)
                there.set(given, stream=stream)
                begun, done = time.perf_counter(), 0
                for n, group in itertools.groupby(rows, key=lambda task: task.n_blocks):
                    alike = list(group)
                    function = _function(cp, self._number, self._limit, n)
                    most = max(task.n_bytes for task in alike)
                    function((n * len(alike),), (THREADS,), (there[2 * done :],), shared_mem=most)
                    done += len(alike)
                stream.synchronize()
                return time.perf_counter() - begun

    # ------------------------------------------------------------ the table

    @property
    def _n_states(self) -> int:
        return self._state.shape[0] if self._state.size else 0

    def _places(self, n_rows: int, n_targets: int, n_blocks: int) -> Places:
        given = len(self._all_rules), self._n_states, n_rows, n_targets, self._limit
        return places(self._steps, *given, n_blocks)

    def _room(self, n_blocks: int, n_floats: int) -> int:
        """The address of memory of the card for what each block of a cluster has no shared memory for."""
        key = n_blocks, n_floats
        if key not in self._rooms:
            self._rooms[key] = self._cp.empty(n_blocks * n_floats, np.float32)
        return int(self._rooms[key].data.ptr)

    def _table(self, n_rows: int, n_targets: int, bytes_: bool) -> gangs.Task:
        """The table of a batch size, on the card, as a task of no steps."""
        key = n_rows, n_targets, bytes_
        found = self._tables.get(key)
        if found is None:
            if len(self._tables) > 7:  # a sampler may have many sizes of its rest
                self.stream.synchronize()  # the kernel may be reading one
                del self._tables[next(iter(self._tables))]
            n_blocks, why = self._choice(n_rows, n_targets)
            assert why is None
            where = self._places(n_rows, n_targets, n_blocks)
            rows = [self._net(where, n_blocks, n_rows, n_targets, bytes_)]
            here = {one.there: one.here for one in tensors(self._steps, n_blocks)} | {-1: -1}
            rows += [self._op(i, s, where, here) for i, s in enumerate(self._steps)]
            rows += self._rule_rows(n_blocks)
            table = np.concatenate([np.array(row, np.int64) for row in rows])
            table[0] = len(table)
            there = self._cp.asarray(table)
            found = self._tables[key] = there, gangs.Task(there.data.ptr, 0, where.n_bytes, n_blocks)
        return found[1]

    def _net(self, where: Places, n_blocks: int, n_rows: int, n_targets: int, bytes_: bool) -> list[int]:
        steps, o = self._steps, self._o
        numbers = self._loss.numbers(steps[-1].n_out)
        n_parameters = sum(one.size for one in tensors(steps, n_blocks))
        g, room = self._g.data.ptr, 0
        if n_blocks > 1:  # in parts, which the flat blocks may have no room for: the last ones may be less
            g = self._room(n_blocks, n_parameters) if where.net["at_g"] < 0 else 0
            if self._n_states and where.net["at_state"] < 0:
                room = self._room(n_blocks, self._n_states * n_parameters)
        given = {
            "size": 0,
            "ops": len(steps),
            "first": first_of(steps),
            "rules": len(self._all_rules),
            "rows": n_rows,
            "targets": n_targets,
            "bytes": int(bytes_),
            "in": steps[0].n_in,
            "out": steps[-1].n_out,
            "w": self._w.data.ptr,
            "g": g,
            "state": self._state.data.ptr if self._state.size else 0,
            "room": room,
            "sources": self.sources.data.ptr,
            "progress": self.progress.data.ptr,
            "sums": self.sums.data.ptr,
            "parameters": n_parameters,
            "all_parameters": self._w.size,
            "states": self._n_states,
            "average": int(o.ema is not None),
            "toward": _float(0.0 if o.ema is None else 1 - o.ema),
            "seed": int(np.uint64(self._seed).astype(np.int64)),
            "loss": int(cuda_kernels.number_of(kernels.LOSSES, self._loss.name)),
            "loss_number": _float(numbers.get("smoothing", numbers.get("delta", 0.0))),
            "optimizer": int(cuda_kernels.number_of(kernels.OPTIMIZERS, o.name)),
            "flags": int(cuda_constants.flags_of(o)),
            "clip_value": _float(o.clip_value or 0.0),
            "clip_norm": _double(-1.0 if o.clip_norm is None else o.clip_norm),
            "norm_blocks": min(NORM_BLOCKS, -(-self._g.size // THREADS)),
            **where.net,
        }
        return [given[name] for name in columns("NET")]

    def _op(self, i: int, s: Step, where: Places, here: dict[int, int]) -> list[int]:
        is_dropout = s.kind == "dropout"
        factors, shifts = self._columns.get(i, (None, None))
        given = {
            "kind": _KINDS[s.kind],
            "in": s.n_in,
            "out": s.n_out,
            "activation": int(cuda_kernels.number_of(kernels.ACTIVATIONS, s.activation)),
            "by_row": _BY_ROW.get(s.activation, 0),
            "weight": here[s.weight],
            "bias": here[s.bias],
            "weight_there": s.weight,
            "bias_there": s.bias,
            "kept": where.kept[i],
            "at": where.outputs[i],
            "threshold": min(int(s.rate * 2**32 + 0.5), 0xFFFFFFFF),
            "layer": s.draws & 0xFFFF,
            "number": _float(1 / (1 - s.rate) if is_dropout else s.factor),
            "shift": _float(s.shift),
            "numbers": 0 if factors is None else factors.data.ptr,
            "shifts": 0 if shifts is None else shifts.data.ptr,
        }
        return [given[name] for name in columns("OP")]

    def _rule_rows(self, n_blocks: int) -> Iterable[list[int]]:
        decoupled, n, parts = is_decoupled(self._o), 0, tensors(self._steps, n_blocks)
        for rule in self._all_rules:
            own = [one for one in parts if 0 <= one.there - rule.offset < rule.length]  # whole ones
            part = replace(rule, offset=own[0].here, length=sum(one.size for one in own))
            yield self._rule(part, decoupled, n)
            n += not rule.frozen

    @staticmethod
    def _rule(rule: Rule, decoupled: bool, row: int) -> list[int]:
        given = {
            "offset": rule.offset,
            "length": rule.length,
            "frozen": int(rule.frozen),
            "decay": _float(0.0 if decoupled else rule.decay),
            "l1": _float(rule.l1),
            "row": row,
        }
        return [given[name] for name in columns("RULE")]


def _float(value: float) -> int:
    """The bits of a float32."""
    return int(np.float32(value).view(np.int32))


def _double(value: float) -> int:
    """The bits of a float64."""
    return int(np.float64(value).view(np.int64))


@lru_cache(maxsize=8 * len(SIZES))
def _function(cp: Any, number: int, limit: int, n_blocks: int) -> Any:
    """The kernel on a card, which is the current one; compiled at first use, then kept on disk by CuPy."""
    module = cp.RawModule(code=source(n_blocks), options=("--std=c++17",), backend="nvrtc")
    try:
        function = module.get_function("train_nets")
        function.max_dynamic_shared_size_bytes = limit
    except Exception as error:  # NVRTC's log, a missing library, a card that it does not know
        raise DeviceError(
            f"device 'cuda' could not compile its kernel for small nets: {type(error).__name__}: {error}; "
            "the extras cuda12 and cuda13 bring the compiler that CuPy needs"
        ) from error
    return function


@lru_cache(maxsize=8)
def _stream(cp: Any, number: int) -> Any:
    """What launches of several trainers have on a card, which is the current one."""
    return cp.cuda.Stream(non_blocking=True)
