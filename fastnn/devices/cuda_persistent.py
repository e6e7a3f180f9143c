"""Many training steps of a small net in one launch: the net stays in the shared memory of one thread block.

What `cuda_step` captures, this trains too, by the same functions of kernels_*.cu and in the same order of
sums, where it is small enough: `why_not` of a step tells. Blocks of several nets are one launch (`gangs`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..errors import DeviceError
from ..losses import Loss
from ..optimizers import Optimizer, Rule
from ..steps import Step
from . import cuda_constants, cuda_kernels, gangs
from .array_optimizers import is_decoupled
from .cuda_kernels import FROM_INPUT, NORM_BLOCKS, THREADS

__all__ = ["MOST_FLOPS", "PersistentStep", "Places", "flops", "places", "source"]

# A step with more operations in its products is left to the captured step, which has all multiprocessors: one
# of them has done so many in about the time that the launches of a captured step take. An estimate (13 of
# them, 2 to 3 us each, 100 GFLOP/s of one block); nobody has timed it on a card.
MOST_FLOPS = 4_000_000
# Of the shared memory of a block: what persistent.cu and kernels_*.cu declare themselves, 3.3 KB, and a rest.
_OWN_BYTES = 4096

_KINDS = {"dense": 0, "activation": 1, "scale": 2, "scale_columns": 2, "dropout": 3}  # KIND_*
_BY_ROW = {"softmax": 1, "log_softmax": 2}  # BY_ROW_*


@cache
def source() -> str:
    """The text that is compiled: persistent.cu behind kernels_*.cu, of which it takes the functions alone."""
    return cuda_kernels.joined("persistent.cu", before=["#define FASTNN_PARTS"])


@cache
def _columns(prefix: str) -> list[str]:
    """Columns of the table that the kernel reads: an enum of persistent.cu, in small letters."""
    found = re.search(rf"enum {{\s*({prefix}_.*?){prefix}_COLUMNS", cuda_kernels.text("persistent.cu"), re.S)
    assert found is not None
    names = re.findall(r"\w+", re.sub(r"/\*.*?\*/", "", found[1]))
    return [name.removeprefix(f"{prefix}_").lower() for name in names]


def flops(steps: tuple[Step, ...], n_rows: int) -> int:
    """Of the products of a training step: forward, gradients of weights, of inputs but those of the first."""
    dense = [s for s in steps if s.kind == "dense"]
    return sum(2 * n_rows * s.n_in * s.n_out * (3 if i else 2) for i, s in enumerate(dense))


class Places(NamedTuple):
    """Where things lie in the shared memory of a block, in floats; -1: in the memory of the card."""

    n_bytes: int
    net: dict[str, int]
    outputs: list[int]
    kept: list[int]


def _apart(n: int) -> int:
    """How far rows of n floats lie apart: see persistent.cu."""
    return n | 1


def places(
    steps: tuple[Step, ...], n_rules: int, n_states: int, n_rows: int, n_targets: int, limit: int
) -> Places:
    """What a block has in shared memory, of which it may use `limit` bytes.

    Parameters, the batch and its activations always are there, even beyond the limit; then the gradient and
    the states of the optimizer, where they fit as well.
    """
    at = 2 * (len(_columns("NET")) + len(_columns("OP")) * len(steps) + len(_columns("RULE")) * n_rules)

    def room(n_floats: int) -> int:
        nonlocal at
        found, at = at, at + n_floats
        return found

    n_parameters = sum(s.n_parameters for s in steps)
    first = _first(steps)
    net = {"at_weights": room(2 * (n_rows + 1)), "at_losses": room(2 * n_rows), "at_w": room(n_parameters)}
    net["at_x"] = room(n_rows * _apart(steps[0].n_in))
    net["at_targets"] = net["at_labels"] = room(n_rows * _apart(n_targets) if n_targets else n_rows)
    widest = n_rows * max(_apart(s.n_out) for s in steps[first:])
    net["at_gradients"], net["at_gradients_too"] = room(widest), room(widest)
    outputs = [room(n_rows * _apart(s.n_out)) for s in steps]
    kept = [room(n_rows * _apart(s.n_out)) if s.activation in FROM_INPUT else -1 for s in steps]
    for name, n in (("at_g", n_parameters), ("at_state", n_states * n_parameters)):
        net[name] = room(n) if 4 * (at + n) <= limit else -1
    return Places(4 * at, net, outputs, kept)


def _first(steps: tuple[Step, ...]) -> int:
    """The first step with parameters: nobody needs the gradient below it."""
    return next(i for i, s in enumerate(steps) if s.n_parameters)


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
        self._tables: dict[tuple[int, int, bool], tuple[Any, int]] = {}

    def why_not(self, n_rows: int, n_targets: int) -> str | None:
        """Why batches of n_rows are no work for one block; None where they are."""
        work = flops(self._steps, n_rows)
        if work > MOST_FLOPS:
            return f"{work:,} operations in the products of a step, more than {MOST_FLOPS:,}"
        needed = self._places(n_rows, n_targets).n_bytes
        if needed > self._limit:
            return f"{needed:,} bytes of shared memory, of which a block may use {self._limit:,} here"
        return None

    def prepare(self, n_steps: int, n_rows: int, n_targets: int, bytes_: bool) -> None:
        """Make what `launch` of the same will need."""
        _function(self._cp, self._number, self._limit)
        self._table(n_rows, n_targets, bytes_)

    def launch(self, n_steps: int, n_rows: int, n_targets: int, bytes_: bool) -> None:
        """Queue so many steps; `sources`, `progress` and `sums` say on what.

        Where the caller trains together with others, they are done when this returns.
        """
        table, n_bytes = self._table(n_rows, n_targets, bytes_)
        task = gangs.Task(table.data.ptr, n_steps, n_bytes)
        gang = gangs.current()
        if gang is not None:
            self.stream.synchronize()  # what it sends is there: the launch has another stream
            each, self.n_together = gang.submit(task, self._together)
            self.each = max(1e-7, each)
            return
        self.each, self.n_together = None, 1
        self._tasks.set(np.array([task.table, n_steps], np.uint64), stream=self.stream)
        function = _function(self._cp, self._number, self._limit)
        function((1,), (THREADS,), (self._tasks,), shared_mem=n_bytes)

    def broken_step(self) -> int | None:
        """The step of the network that was the first with an output not finite, after a loss that was not."""
        found = int(self.progress.get(stream=self.stream)[3])
        return None if found < 0 else found

    def _together(self, tasks: Sequence[gangs.Task]) -> float:
        """One launch for the nets of several trainers on this card; gives its seconds."""
        cp = self._cp
        # The longest begin first, where there are more than the card has room for.
        rows = sorted(tasks, key=lambda task: -task.n_steps)
        given = np.array([(task.table, task.n_steps) for task in rows], np.uint64).reshape(-1)
        with cp.cuda.Device(self._number):
            function = _function(cp, self._number, self._limit)
            stream = _stream(cp, self._number)
            with stream:
                there = cp.empty(len(given), np.uint64)
                there.set(given, stream=stream)
                begun = time.perf_counter()
                most = max(task.n_bytes for task in tasks)
                function((len(tasks),), (THREADS,), (there,), shared_mem=most)
                stream.synchronize()
                return time.perf_counter() - begun

    # ------------------------------------------------------------ the table

    def _places(self, n_rows: int, n_targets: int) -> Places:
        n_states = self._state.shape[0] if self._state.size else 0
        return places(self._steps, len(self._all_rules), n_states, n_rows, n_targets, self._limit)

    def _table(self, n_rows: int, n_targets: int, bytes_: bool) -> tuple[Any, int]:
        """The table of a batch size, on the card, and the shared memory of its block."""
        key = n_rows, n_targets, bytes_
        found = self._tables.get(key)
        if found is None:
            if len(self._tables) > 7:  # a sampler may have many sizes of its rest
                self.stream.synchronize()  # the kernel may be reading one
                del self._tables[next(iter(self._tables))]
            where = self._places(n_rows, n_targets)
            rows = [self._net(where, n_rows, n_targets, bytes_)]
            rows += [self._op(i, s, where) for i, s in enumerate(self._steps)]
            rows += self._rule_rows()
            table = np.concatenate([np.array(row, np.int64) for row in rows])
            table[0] = len(table)
            found = self._tables[key] = self._cp.asarray(table), where.n_bytes
        return found

    def _net(self, where: Places, n_rows: int, n_targets: int, bytes_: bool) -> list[int]:
        steps, o = self._steps, self._o
        numbers = self._loss.numbers(steps[-1].n_out)
        given = {
            "size": 0,
            "ops": len(steps),
            "first": _first(steps),
            "rules": len(self._all_rules),
            "rows": n_rows,
            "targets": n_targets,
            "bytes": int(bytes_),
            "in": steps[0].n_in,
            "out": steps[-1].n_out,
            "w": self._w.data.ptr,
            "g": self._g.data.ptr,
            "state": self._state.data.ptr if self._state.size else 0,
            "sources": self.sources.data.ptr,
            "progress": self.progress.data.ptr,
            "sums": self.sums.data.ptr,
            "parameters": self._w.size,
            "states": self._state.shape[0] if self._state.size else 0,
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
        return [given[name] for name in _columns("NET")]

    def _op(self, i: int, s: Step, where: Places) -> list[int]:
        is_dropout = s.kind == "dropout"
        factors, shifts = self._columns.get(i, (None, None))
        given = {
            "kind": _KINDS[s.kind],
            "in": s.n_in,
            "out": s.n_out,
            "activation": int(cuda_kernels.number_of(kernels.ACTIVATIONS, s.activation)),
            "by_row": _BY_ROW.get(s.activation, 0),
            "weight": s.weight,
            "bias": s.bias,
            "kept": where.kept[i],
            "at": where.outputs[i],
            "threshold": min(int(s.rate * 2**32 + 0.5), 0xFFFFFFFF),
            "layer": s.draws & 0xFFFF,
            "number": _float(1 / (1 - s.rate) if is_dropout else s.factor),
            "shift": _float(s.shift),
            "numbers": 0 if factors is None else factors.data.ptr,
            "shifts": 0 if shifts is None else shifts.data.ptr,
        }
        return [given[name] for name in _columns("OP")]

    def _rule_rows(self) -> Iterable[list[int]]:
        decoupled, n = is_decoupled(self._o), 0
        for rule in self._all_rules:
            yield self._rule(rule, decoupled, n)
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
        return [given[name] for name in _columns("RULE")]


def _float(value: float) -> int:
    """The bits of a float32."""
    return int(np.float32(value).view(np.int32))


def _double(value: float) -> int:
    """The bits of a float64."""
    return int(np.float64(value).view(np.int64))


@lru_cache(maxsize=8)
def _function(cp: Any, number: int, limit: int) -> Any:
    """The kernel on a card, which is the current one; compiled at first use, then kept on disk by CuPy."""
    module = cp.RawModule(code=source(), options=("--std=c++17",), backend="nvrtc")
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
