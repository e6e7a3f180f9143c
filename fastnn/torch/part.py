"""A region of a graph as one call: steps over a block of copied weights, which are looked at in each call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from .. import folding
from ..prediction import Predictor
from ..steps import Step
from .operations import Operation
from .regions import Region, width_of

__all__ = ["Part"]

Array = NDArray[Any]

_ROOM = 64  # bytes after the last parameter: a whole vector may be read there


class Part(nn.Module):  # type: ignore[misc]
    """The call of a region: ``part(x, *weights)`` gives its results.

    Weights lie turned in PyTorch, so they are copied. Each call compares their addresses and version
    counters, which every change in place moves on, with those of the copy; weights without counters, or all
    of them where `by_value` says so, are compared number by number.

    Parameters
    ----------
    region : Region
    by_value : bool

    Attributes
    ----------
    weights : list of node
        What a call gives after x.
    n_copies : int
        How often weights were copied.
    """

    def __init__(self, region: Region, by_value: bool) -> None:
        super().__init__()
        self.n_in = width_of(region.entry.meta["example_value"])
        self.weights: list[fx.Node] = []
        self.by_value, self.n_copies = by_value, 0
        self._slots: list[tuple[int, int, tuple[int, ...], bool, bool]] = []
        self._n_parameters = self._n_buffers = 0
        self._numbers: dict[fx.Node, int] = {region.entry: -1}
        steps: list[Step] = []
        dtype = region.entry.meta["example_value"].dtype
        for node, operation in region.operations.items():
            self._add(steps, node, operation)
        ends = [self._numbers[result] for result in region.results]
        self._cuts = self._joined(steps, region, ends)
        self._steps = tuple(steps)
        self._dtype = np.dtype(str(dtype).split(".")[-1])
        self._torch_dtype = dtype
        self._state: tuple[list[Any], Callable[..., Any]] | None = None

    # ------------------------------------------------------------ steps

    def _add(self, steps: list[Step], node: fx.Node, operation: Operation) -> None:
        """The step of an operation, where it is more than its source."""
        kind, numbers = operation.kind, operation.numbers
        first = operation.sources[0]
        n_in, n_out = width_of(first.meta["example_value"]), width_of(node.meta["example_value"])
        sources = tuple(self._numbers[source] for source in operation.sources)
        position = len(steps)
        if kind in ("same", "dropout", "alpha_dropout") or _takes_all(operation, n_in):
            self._numbers[node] = sources[0]
            return
        step = Step(kind, position, n_in, n_out, sources=() if sources == (position - 1,) else sources)
        weight, bias = operation.tensors.get("weight"), operation.tensors.get("bias")
        if kind == "dense":
            step = replace(step, weight=self._parameter(weight, n_in * n_out, turned=True))
            step = replace(step, bias=-1 if bias is None else self._parameter(bias, n_out))
        elif kind in ("batch_norm", "layer_norm", "rms_norm", "prelu"):
            slopes = operation.tensors["weight"].meta["example_value"] if kind == "prelu" else None
            n = n_in if slopes is None else int(slopes.numel())
            step = replace(
                step,
                shape=(n,),
                weight=-1 if weight is None else self._parameter(weight, n),
                bias=-1 if bias is None else self._parameter(bias, n),
            )
            if kind != "prelu":
                step = replace(step, eps=-1.0 if numbers["eps"] is None else numbers["eps"])
            if kind == "batch_norm":
                mean, var = operation.tensors["running_mean"], operation.tensors["running_var"]
                step = replace(step, running=self._buffer(mean, n))
                self._buffer(var, n)
        elif kind == "activation":
            if self._fuses(steps, sources[0], first):
                steps[-1] = replace(steps[-1], activation=numbers["name"])
                self._numbers[node] = position - 1
                return
            step = replace(step, activation=numbers["name"])
        elif kind == "scale":
            step = replace(step, factor=numbers["factor"], shift=numbers["shift"])
        elif kind == "columns":
            columns = numbers["columns"]
            picked = range(n_in)[columns] if isinstance(columns, slice) else [c % n_in for c in columns]
            step = replace(step, columns=tuple(picked))
        self._numbers[node] = position
        steps.append(step)

    def _fuses(self, steps: list[Step], source: int, node: fx.Node) -> bool:
        """Whether the product before is read by an activation alone."""
        return (
            bool(steps)
            and source == len(steps) - 1
            and steps[-1].kind == "dense"
            and steps[-1].activation == "identity"
            and len(node.users) == 1
        )

    def _parameter(self, node: fx.Node, n: int, turned: bool = False) -> int:
        offset, self._n_parameters = self._n_parameters, self._n_parameters + n
        self._hold(node, offset, n, turned, buffer=False)
        return offset

    def _buffer(self, node: fx.Node, n: int) -> int:
        offset, self._n_buffers = self._n_buffers, self._n_buffers + n
        self._hold(node, offset, n, False, buffer=True)
        return offset

    def _hold(self, node: fx.Node, offset: int, n: int, turned: bool, buffer: bool) -> None:
        if node not in self.weights:
            self.weights.append(node)
        self._slots.append((self.weights.index(node), offset, (n,), turned, buffer))

    def _joined(self, steps: list[Step], region: Region, ends: list[int]) -> list[slice] | None:
        """The columns of each result where there are several, which leave side by side; None for one."""
        last = len(steps) - 1
        if ends == [last]:
            return None
        cuts, at = [], 0
        for result in region.results:
            width = width_of(result.meta["example_value"])
            cuts.append(slice(at, at + width))
            at += width
        steps.append(Step("join", last + 1, cuts[0].stop, at, sources=tuple(ends)))
        return cuts

    # ------------------------------------------------------------ weights

    def _copied(self, weights: tuple[Any, ...]) -> Callable[..., Any]:
        """A predictor of the present weights."""
        size = self._dtype.itemsize
        parameters = np.zeros(self._n_parameters + _ROOM // size, self._dtype)
        buffers = np.zeros(self._n_buffers, self._dtype)
        for number, offset, (n,), turned, buffer in self._slots:
            tensor = weights[number]
            numbers = tensor.numpy(force=True)
            block = buffers if buffer else parameters
            block[offset : offset + n] = (numbers.T if turned else numbers).ravel()
        steps = self._steps
        if folding.can_fold(steps):
            steps, folded = folding.fold(steps, parameters, buffers)
            parameters = np.concatenate([folded, np.zeros(_ROOM // size, self._dtype)])
        self.n_copies += 1
        made: Callable[..., Any] = Predictor(steps, parameters, buffers)
        return made

    def _present(self, weights: tuple[Any, ...]) -> Callable[..., Any]:
        """The predictor, made anew if a weight is not what it was."""
        state = self._state  # one look: other threads may put another there
        if state is not None:
            for seen, tensor in zip(state[0], weights, strict=True):
                if not seen.is_still(tensor):
                    break
            else:
                return state[1]
        seen = [_Seen(tensor, self.by_value) for tensor in weights]
        predictor = self._copied(weights)
        self._state = seen, predictor
        return predictor

    # ------------------------------------------------------------ the call

    def forward(self, x: Any, *weights: Any) -> Any:
        """The result, or a tuple of results, for x (..., n_in)."""
        predictor = self._present(weights)
        lead = x.shape[:-1]
        rows = x.detach().contiguous()
        table = rows.numpy(force=True).reshape(-1, self.n_in)
        out = torch.from_numpy(predictor(table))
        if self._cuts is None:
            return out if len(lead) == 1 else out.view(*lead, out.shape[-1])
        # each result with memory of its own, as PyTorch's would have
        results = tuple(out[:, cut].contiguous().view(*lead, -1) for cut in self._cuts)
        return results if len(results) > 1 else results[0]


def _takes_all(operation: Operation, n_in: int) -> bool:
    """Whether columns are taken, and are all, in order."""
    if operation.kind != "columns":
        return False
    columns = operation.numbers["columns"]
    picked = range(n_in)[columns] if isinstance(columns, slice) else [c % n_in for c in columns]
    return list(picked) == list(range(n_in))


class _Seen:
    """What a weight was when it was copied."""

    def __init__(self, tensor: Any, by_value: bool) -> None:
        by_value = by_value or tensor.is_inference()  # such tensors have no counter
        self._copy = tensor.detach().clone() if by_value else None
        # held, so that its address is not given to another tensor meanwhile; the counter is shared
        self._alias = tensor.detach()
        self._address = tensor.data_ptr()
        self._version = -1 if by_value else tensor._version

    def is_still(self, tensor: Any) -> bool:
        """Whether the tensor has the same numbers."""
        if self._copy is not None:
            return bool(_same_bits(tensor, self._copy))
        return bool(
            tensor.data_ptr() == self._address
            and not tensor.is_inference()
            and tensor._version == self._version
            and tensor.stride() == self._alias.stride()
        )


def _same_bits(a: Any, b: Any) -> bool:
    """Whether two tensors are equal, NaN being equal to NaN."""
    if torch.equal(a, b):
        return True
    same_shape = a.shape == b.shape
    return bool(same_shape and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes())
