"""Steps that normalise, bend, blur and spread their input, as array code; see array_layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..steps import Step
from .array_context import Context
from .array_random import dropout_mask, normal_numbers

__all__ = ["BACKWARD", "FORWARD"]

Array = NDArray[Any]

# ---------------------------------------------------------------- norms


def _batch_norm(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    xp, x = c.xp, sources[0]
    if c.statistics:
        mean = x.mean(axis=0)
        centred = x - mean
        var = (centred * centred).mean(axis=0)
        c.kept["moments"] = mean, var
    else:
        running = c.buffers[s.running : s.running + 2 * s.n_out]
        mean, var = running[: s.n_out], running[s.n_out :]
        centred = x - mean
    scale = 1 / xp.sqrt(var + x.dtype.type(s.eps))
    c.kept["scale"] = scale
    xp.multiply(centred, scale, out=out)
    c.kept["normal"] = out.copy()
    _affine(c, out)


def _affine(c: Context, out: Array) -> None:
    if c.weight is not None:
        out *= c.weight
    if c.bias is not None:
        out += c.bias


def _sum_parameters(c: Context, da: Array) -> Array:
    """Fill the gradients of weight and bias; gives that at the normalised numbers."""
    if c.weight is None:
        return da
    (da * c.kept["normal"]).sum(axis=0, out=c.weight_gradient)
    if c.bias is not None:
        da.sum(axis=0, out=c.bias_gradient)
    g: Array = da * c.weight
    return g


def _batch_norm_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    h, g = c.kept["normal"], _sum_parameters(c, da)
    return [(g - g.mean(axis=0) - h * (g * h).mean(axis=0)) * c.kept["scale"]]


def store_statistics(s: Step, kept: dict[str, Any], buffers: Array, n_rows: int) -> None:
    """Move the running statistics of a step towards those of its last batch."""
    mean, var = kept["moments"]
    momentum = s.momentum
    if momentum < 0:
        count = buffers[s.running + 2 * s.n_out : s.running + s.n_buffers]
        count += 1
        momentum = 1 / float(count[0])
    for first, value in ((s.running, mean), (s.running + s.n_out, var * (n_rows / (n_rows - 1)))):
        view = buffers[first : first + s.n_out]
        view *= 1 - momentum
        view += momentum * value


def row_norm_eps(s: Step, dtype: Any) -> float:
    """The eps of a step: RMSNorm's own is that of the dtype."""
    return float(np.finfo(dtype).eps) if s.eps < 0 else s.eps


def _row_norm(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    xp, x = c.xp, sources[0]
    centred = x - x.mean(axis=1, keepdims=True) if s.kind == "layer_norm" else x
    var = (centred * centred).mean(axis=1, keepdims=True)
    c.kept["scale"] = 1 / xp.sqrt(var + x.dtype.type(row_norm_eps(s, x.dtype)))
    xp.multiply(centred, c.kept["scale"], out=out)
    c.kept["normal"] = out.copy()
    _affine(c, out)


def _row_norm_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    h, g = c.kept["normal"], _sum_parameters(c, da)
    dx = g - h * (g * h).mean(axis=1, keepdims=True)
    if s.kind == "layer_norm":
        dx -= g.mean(axis=1, keepdims=True)
    return [dx * c.kept["scale"]]


# ---------------------------------------------------------------- PReLU


def _prelu(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    z = sources[0]
    out[...] = c.xp.where(z > 0, z, c.weight * z)


def _prelu_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    z = sources[0]
    each = c.xp.where(z > 0, 0, z * da).sum(axis=0)
    c.weight_gradient[...] = each if len(c.weight) == s.n_out else each.sum()
    return [c.xp.where(z > 0, da, c.weight * da)]


# ---------------------------------------------------------------- noise


def _alpha_dropout(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    out[...] = sources[0]
    if c.dropout_step is None or s.rate == 0:
        c.kept.pop("mask", None)
        return
    mask = c.xp.empty_like(out)
    dropout_mask(c.xp, c.seed, c.dropout_step, s.draws, s.rate, mask)
    c.kept["mask"] = mask > 0
    out *= out.dtype.type(s.factor)
    out += out.dtype.type(s.shift)
    c.xp.copyto(out, s.dropped, where=mask == 0)


def _alpha_dropout_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    if "mask" in c.kept:
        da *= c.kept["mask"] * da.dtype.type(s.factor)
    return [da]


def _noise(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    out[...] = sources[0]
    if c.dropout_step is not None:
        out += s.factor * normal_numbers(c.xp, c.seed, c.dropout_step, s.draws, out)


def _noise_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    return [da]


# ---------------------------------------------------------------- numerical embeddings


def _turns(c: Context, s: Step, sources: list[Array]) -> Array:
    """2 pi f x, reduced to one turn: (rows, columns, frequencies)."""
    t = sources[0][:, :, None] * c.weight
    t -= c.xp.rint(t)
    angle: Array = t * t.dtype.type(2 * math.pi)
    return angle


def _periodic(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    angle = _turns(c, s, sources)
    both = c.xp.stack([c.xp.sin(angle), c.xp.cos(angle)], axis=2)
    out[...] = both.reshape(out.shape)


def _periodic_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    shape = len(da), s.n_in, 2, -1
    a, d = out.reshape(shape), da.reshape(shape)
    g = (d[:, :, 0] * a[:, :, 1] - d[:, :, 1] * a[:, :, 0]) * da.dtype.type(2 * math.pi)
    c.weight_gradient[...] = (g * sources[0][:, :, None]).sum(axis=0)
    return [(g * c.weight).sum(axis=2)]


def _piecewise(c: Context, s: Step, sources: list[Array], out: Array) -> None:
    c.kept["slopes"] = slopes = c.xp.zeros_like(out)
    at = 0
    for j, edges in enumerate(s.edges):
        e = c.xp.asarray(edges, out.dtype)
        v = (sources[0][:, j : j + 1] - e[:-1]) / (e[1:] - e[:-1])
        n = len(edges) - 1
        cut = c.xp.zeros(v.shape, bool)
        cut[:, 1:] |= v[:, 1:] < 0
        cut[:, :-1] |= v[:, :-1] > 1
        v[:, 1:] = c.xp.maximum(v[:, 1:], 0)
        v[:, :-1] = c.xp.minimum(v[:, :-1], 1)
        out[:, at : at + n] = v
        slopes[:, at : at + n] = c.xp.where(cut, 0, 1 / (e[1:] - e[:-1]))
        at += n


def _piecewise_backward(
    c: Context, s: Step, sources: list[Array], out: Array, da: Array, wanted: list[bool]
) -> list[Any]:
    g, dx, at = da * c.kept["slopes"], c.xp.empty((len(da), s.n_in), da.dtype), 0
    for j, edges in enumerate(s.edges):
        dx[:, j] = g[:, at : at + len(edges) - 1].sum(axis=1)
        at += len(edges) - 1
    return [dx]


FORWARD: dict[str, Any] = {
    "batch_norm": _batch_norm,
    "layer_norm": _row_norm,
    "rms_norm": _row_norm,
    "prelu": _prelu,
    "alpha_dropout": _alpha_dropout,
    "noise": _noise,
    "periodic": _periodic,
    "piecewise": _piecewise,
}
BACKWARD: dict[str, Any] = {
    "batch_norm": _batch_norm_backward,
    "layer_norm": _row_norm_backward,
    "rms_norm": _row_norm_backward,
    "prelu": _prelu_backward,
    "alpha_dropout": _alpha_dropout_backward,
    "noise": _noise_backward,
    "periodic": _periodic_backward,
    "piecewise": _piecewise_backward,
}
