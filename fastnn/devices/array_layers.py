"""The steps of a network as array code: what each gives, and the gradients at its sources and parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from ..steps import Step, Table
from . import array_norms
from .array_activations import ACTIVATIONS, SLOPES
from .array_context import Context
from .array_random import dropout_mask

__all__ = ["BACKWARD", "FORWARD"]

Array = NDArray[Any]


# ---------------------------------------------------------------- one after the other


def _activate(c: Context, s: Step, z: Array) -> None:
    """Change z into f(z), and keep f'(z) where that does not tell it."""
    if s.activation in SLOPES:
        c.kept["slope"] = SLOPES[s.activation](c.xp, z)
    ACTIVATIONS[s.activation][0](c.xp, z)


def _slope(c: Context, s: Step, out: Array, da: Array) -> None:
    """Change the gradient at f(z) into that at z."""
    ACTIVATIONS[s.activation][1](c.xp, c.kept.get("slope", out), da)


def _dense(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    c.xp.matmul(sources[0], c.weight, out=out)
    if c.bias is not None:
        out += c.bias
    _activate(c, s, out)


def _dense_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    _slope(c, s, out, da)
    c.xp.matmul(sources[0].T, da, out=c.weight_gradient)
    if c.bias is not None:
        c.xp.sum(da, axis=0, out=c.bias_gradient)
    if not wanted[0]:
        return [None]
    dx = c.kept.get("dx")
    if dx is None:
        dx = c.kept["dx"] = c.xp.empty((len(da), s.n_in), da.dtype)
    return [c.xp.matmul(da, c.weight.T, out=dx)]


def _activation(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    out[...] = sources[0]
    _activate(c, s, out)


def _activation_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    _slope(c, s, out, da)
    return [da]


def _scale(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    out[...] = sources[0]  # as the first step it takes bytes too
    out *= s.factor
    out += s.shift


def _scale_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    da *= s.factor
    return [da]


def _scale_columns(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    out[...] = sources[0]
    out *= c.xp.asarray(s.factors, out.dtype)
    out += c.xp.asarray(s.shifts, out.dtype)


def _scale_columns_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    da *= c.xp.asarray(s.factors, da.dtype)
    return [da]


def _dropout(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    if c.dropout_step is None:
        out[...] = sources[0]
        return
    mask = c.kept.get("mask")
    if mask is None:
        mask = c.kept["mask"] = c.xp.empty_like(out)
    dropout_mask(c.xp, c.seed, c.dropout_step, s.draws, s.rate, mask)
    c.xp.multiply(sources[0], mask, out=out)


def _dropout_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    if c.dropout_step is not None:
        da *= c.kept["mask"]
    return [da]


# ---------------------------------------------------------------- embeddings


def _codes(xp: Any, x: Array, table: Table) -> tuple[Array, Array, Array]:
    """Row of the table for each row of x; which rows name one; which hold no whole number."""
    code = x[:, table.column]
    whole = code == xp.floor(code)  # NaN is none, infinities are
    whole &= xp.isfinite(code)
    known = whole & (code >= 0) & (code < table.n_categories)
    return xp.where(known, code, 0).astype(xp.int64), known, ~whole


def _embed(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    x = sources[0]
    kept = [j for j in range(s.n_in) if all(j != table.column for table in s.tables)]
    out[:, : len(kept)] = x[:, kept]
    for table in s.tables:
        row, known, broken = _codes(c.xp, x, table)
        end = table.weight + table.n_categories * table.width
        numbers = c.parameters[table.weight : end].reshape(table.n_categories, table.width)[row]
        numbers[~known] = 0
        numbers[broken] = c.xp.nan
        out[:, table.out : table.out + table.width] = numbers


def _embed_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    for table in s.tables:
        row, known, _ = _codes(c.xp, sources[0], table)
        end = table.weight + table.n_categories * table.width
        g = c.gradient[table.weight : end].reshape(table.n_categories, table.width)
        g[...] = 0
        c.xp.add.at(g, row[known], da[known, table.out : table.out + table.width])
    return [None]


# ---------------------------------------------------------------- branches


def _add(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    c.xp.add(sources[0], sources[1], out=out)


def _add_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    return [da, da.copy()]  # what is given is changed in place


def _columns(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    out[...] = sources[0][:, list(s.columns)]


def _columns_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    dx = c.xp.zeros((len(da), s.n_in), da.dtype)
    dx[:, list(s.columns)] = da
    return [dx]


def _join(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    c.xp.concatenate(sources, axis=1, out=out)


def _join_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    ends = [sum(c.n_in[: j + 1]) for j in range(len(c.n_in))]
    return [da[:, end - n : end].copy() for n, end in zip(c.n_in, ends, strict=True)]


# ---------------------------------------------------------------- the tables

# kind -> f(context, step, sources, out): fills out.
FORWARD: dict[str, Callable[[Context, Step, list[Array], Array], None]] = {
    "dense": _dense,
    "activation": _activation,
    "scale": _scale,
    "scale_columns": _scale_columns,
    "dropout": _dropout,
    "embedding": _embed,
    "add": _add,
    "columns": _columns,
    "join": _join,
    **array_norms.FORWARD,
}
# kind -> f(context, step, sources, out, da, wanted): fills the gradients of the step's parameters, and gives
# that at each source, or None where it is not wanted. May change da, the gradient at out, and give it back.
BACKWARD: dict[str, Callable[[Context, Step, list[Array], Array, Array, list[bool]], list[Any]]] = {
    "dense": _dense_backward,
    "activation": _activation_backward,
    "scale": _scale_backward,
    "scale_columns": _scale_columns_backward,
    "dropout": _dropout_backward,
    "embedding": _embed_backward,
    "add": _add_backward,
    "columns": _columns_backward,
    "join": _join_backward,
    **array_norms.BACKWARD,
}
