"""Products of matrices and their gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .. import errors, kernels
from .shapes import Array, any_strides, right_factor, two_dimensional

__all__ = ["linear", "linear_backward", "matmul"]


def matmul(a: ArrayLike, b: ArrayLike, *, out: Array | None = None) -> Array:
    """a (m, k) @ b (k, n) as (m, n); each element is summed in one order, whatever the machine.

    That is the order of k, but for n of 4 or less and k of 64 or more 64 bytes of running sums and a tree.
    """
    a, b = errors.reals(a=a, b=b)
    two_dimensional(a=a, b=b)
    return _product("a", a, "b", b, None, "identity", out)


def linear(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    activation: str | None = None,
    out: Array | None = None,
) -> Array:
    """f(x @ w + b) for x (batch, n_in), w (n_in, n_out), b (n_out,): (batch, n_out)."""
    name = "identity" if activation is None else errors.choice("activation", activation, kernels.ACTIVATIONS)
    if b is None:
        x, w = errors.reals(x=x, w=w)
    else:
        x, w, b = errors.reals(x=x, w=w, b=b)
    two_dimensional(x=x, w=w)
    if b is not None and b.shape != (w.shape[1],):
        raise ValueError(f"b must have shape ({w.shape[1]},), got {b.shape}")
    return _product("x", x, "w", w, b, name, out)


def _product(
    a_name: str, a: Array, b_name: str, b: Array, bias: Array | None, f: str, out: Array | None
) -> Array:
    if a.shape[1] != b.shape[0]:
        raise ValueError(
            f"{b_name} must have {a.shape[1]} rows, as {a_name} has columns, got shape {b.shape}"
        )
    inputs = (a, b) if bias is None else (a, b, bias)
    result = errors.output(out, (a.shape[0], b.shape[1]), a.dtype, *inputs)
    if result.size == 0:
        return result
    if a.shape[1] == 0:  # an empty sum, and the kernels need an address of b
        a, b = np.zeros((len(a), 1), a.dtype), np.zeros((1, b.shape[1]), b.dtype)
    bias = None if bias is None else np.ascontiguousarray(bias)
    kernels.matmul(any_strides(a), right_factor(b), bias, f, result)
    return result


def linear_backward(
    dz: ArrayLike, x: ArrayLike, w: ArrayLike, *, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """Gradients of ``z = x @ w + b`` for dz (batch, n_out): dx (batch, n_in), dw (n_in, n_out), db (n_out,).

    dx is None where need_dx is False. dw is summed in the order of the rows, dx in that of the outputs, but
    for dx of a single row through 65,536 weights or more and 64 outputs or more: that is made of dot
    products, and its last bits are not those of the same row in a batch.
    """
    dz, x, w = errors.reals(dz=dz, x=x, w=w)
    two_dimensional(dz=dz, x=x, w=w)
    if x.shape[1] != w.shape[0]:
        raise ValueError(f"w must have {x.shape[1]} rows, as x has columns, got shape {w.shape}")
    if dz.shape != (x.shape[0], w.shape[1]):
        raise ValueError(f"dz must have shape {(x.shape[0], w.shape[1])}, got {dz.shape}")
    dw, db = np.zeros(w.shape, dz.dtype), np.zeros(w.shape[1], dz.dtype)
    dx = np.zeros(x.shape, dz.dtype) if need_dx else None
    if dz.size:
        dz = errors.rows(dz)
        kernels.sum_rows(dz, db)
        if x.size:
            kernels.linear_weight_gradient(any_strides(x), dz, dw)
            if dx is not None:
                kernels.linear_input_gradient(dz, errors.rows(w), dx)
    return dx, dw, db
