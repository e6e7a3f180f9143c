"""What `fastnn.ops` calls of `fastnn.kernels`, as array code over `xp`: for arrays that lie on a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from .. import kernels
from ..optimizers import Optimizer
from . import array_optimizers
from .array_activations import ACTIVATIONS, SLOPES
from .array_losses import LOSSES
from .array_random import dropout_mask, normal_numbers

__all__ = ["ArrayKernels"]

Array = NDArray[Any]


class ArrayKernels:
    """Names, arguments and meaning are those of `fastnn.kernels`; arrays may have any strides.

    What is written may be what is read wherever the functions of `fastnn.ops` allow it.

    Parameters
    ----------
    xp : module
        CuPy, or a module with its face.
    """

    ACTIVATIONS = kernels.ACTIVATIONS

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    # ------------------------------------------------------------ elementwise and by rows

    def vector(self, name: str, x: Array, out: Array) -> None:
        getattr(self._xp, name)(x, out=out)

    def activation(self, name: str, z: Array, out: Array) -> None:
        out[...] = z
        ACTIVATIONS[name][0](self._xp, out)

    def activation_and_slope(self, name: str, z: Array, out: Array, slope: Array) -> None:
        slope[...] = SLOPES[name](self._xp, z)
        self.activation(name, z, out)

    def activation_backward(self, name: str, a: Array, da: Array, out: Array) -> None:
        out[...] = da
        ACTIVATIONS[name][1](self._xp, a, out)

    def multiply(self, a: Array, b: Array) -> None:
        a *= b

    # ------------------------------------------------------------ products

    def matmul(self, a: Array, b: Array, bias: Array | None, activation: str, out: Array) -> None:
        out[...] = self._xp.matmul(a, b)  # not its out=: rows may lie apart
        if bias is not None:
            out += bias
        ACTIVATIONS[activation][0](self._xp, out)

    def linear_input_gradient(self, dz: Array, w: Array, dx: Array) -> None:
        dx[...] = self._xp.matmul(dz, w.T)

    def linear_weight_gradient(self, x: Array, dz: Array, dw: Array) -> None:
        dw[...] = self._xp.matmul(x.T, dz)

    def sum_rows(self, a: Array, out: Array) -> None:
        out[...] = a.sum(axis=0)

    # ------------------------------------------------------------ losses and steps

    def loss(
        self,
        name: str,
        z: Array,
        y: Array,
        weight: Array | None,
        scale: float,
        loss_rows: Array,
        dz: Array,
        numbers: Mapping[str, Any],
    ) -> None:
        given = dict(numbers)
        if "each" in given:
            given["each"] = self._xp.asarray(given["each"], z.dtype)
        loss_rows[...] = LOSSES[name](self._xp, z, y, dz, **given)
        if weight is None:
            dz *= scale
        else:
            dz *= (weight * scale).astype(dz.dtype)[:, None]

    def update(
        self, optimizer: Optimizer, w: Array, g: Array, states: Sequence[Array], step: int, lr: float
    ) -> None:
        decay, l1 = optimizer.weight_decay, optimizer.l1
        array_optimizers.one_step(self._xp, optimizer, w, g.copy(), list(states), lr, step, decay, l1)

    # ------------------------------------------------------------ noise and embeddings

    def dropout(
        self, x: Array, mask: Array, seed: int, step: int, layer: int, rate: float, first_row: int
    ) -> None:
        dropout_mask(self._xp, seed, step, layer, rate, mask, first_row)
        x *= mask

    def alpha_dropout(self, x: Array, mask: Array, scale: float, shift: float, dropped: float) -> None:
        kept = mask != 0
        x[...] = self._xp.where(kept, x * scale + shift, dropped)
        self._xp.multiply(kept, mask.dtype.type(scale), out=mask)

    def gaussian_noise(
        self, x: Array, seed: int, step: int, layer: int, deviation: float, first_row: int
    ) -> None:
        x += deviation * normal_numbers(self._xp, seed, step, layer, x, first_row)

    def embed(self, codes: Array, table: Array, out: Array) -> None:
        known = (codes >= 0) & (codes < len(table))
        rows = table[self._xp.where(known, codes, 0)]
        out[...] = self._xp.where(known[:, None], rows, 0)

    def embed_gradient(self, codes: Array, d: Array, g: Array) -> None:
        known = (codes >= 0) & (codes < len(g))
        self._xp.add.at(g, codes[known], d[known])

    # ------------------------------------------------------------ norms and PReLU

    def norm_rows(
        self,
        x: Array,
        gamma: Array | None,
        beta: Array | None,
        centred: bool,
        eps: float,
        out: Array,
        stats: Array,
    ) -> None:
        mean = x.mean(axis=1) if centred else self._xp.zeros(len(x), x.dtype)
        away = x - mean[:, None]
        scale = 1 / self._xp.sqrt((away * away).mean(axis=1) + eps)
        stats[:, 0], stats[:, 1] = mean, scale
        out[...] = away * scale[:, None]
        self._affine(out, gamma, beta)

    @staticmethod
    def _affine(out: Array, gamma: Array | None, beta: Array | None) -> None:
        if gamma is not None:
            out *= gamma
        if beta is not None:
            out += beta

    def norm_rows_backward(
        self,
        x: Array,
        gamma: Array | None,
        centred: bool,
        stats: Array,
        d: Array,
        dx: Array,
        dgamma: Array,
    ) -> None:
        scale = stats[:, 1:]
        h = (x - stats[:, :1]) * scale
        dgamma[...] = (d * h).sum(axis=0)
        g = d if gamma is None else d * gamma
        found = g - h * (g * h).mean(axis=1, keepdims=True)
        if centred:
            found -= g.mean(axis=1, keepdims=True)
        dx[...] = found * scale

    def column_moments(self, x: Array, mean: Array, var: Array) -> None:
        mean[...] = x.mean(axis=0)
        away = x - mean
        var[...] = (away * away).mean(axis=0)

    def norm_columns(
        self,
        x: Array,
        mean: Array,
        var: Array,
        gamma: Array | None,
        beta: Array | None,
        eps: float,
        out: Array,
    ) -> None:
        out[...] = (x - mean) * (1 / self._xp.sqrt(var + eps))
        self._affine(out, gamma, beta)

    def norm_columns_backward(
        self,
        x: Array,
        mean: Array,
        var: Array,
        gamma: Array | None,
        eps: float,
        of_batch: bool,
        d: Array,
        dx: Array,
        dgamma: Array,
        dbeta: Array,
    ) -> None:
        scale = 1 / self._xp.sqrt(var + eps)
        h = (x - mean) * scale
        dgamma[...], dbeta[...] = (d * h).sum(axis=0), d.sum(axis=0)
        g = d if gamma is None else d * gamma
        if of_batch:
            g = g - g.mean(axis=0) - h * (g * h).mean(axis=0)
        dx[...] = g * scale

    def prelu(self, z: Array, slope: Array, out: Array) -> None:
        out[...] = self._xp.where(z > 0, z, slope * z)

    def prelu_backward(self, z: Array, slope: Array, d: Array, dz: Array, dslope: Array) -> None:
        each = self._xp.where(z > 0, 0, z * d)
        dslope[...] = each.sum(axis=0) if len(slope) == z.shape[1] else each.sum()
        dz[...] = self._xp.where(z > 0, d, slope * d)
