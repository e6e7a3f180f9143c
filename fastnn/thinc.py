"""fastnn as a backend of Thinc, and of spaCy through it.

>>> import thinc.api, fastnn.thinc
>>> fastnn.thinc.install()                   # what "cpu" means from now on, in Thinc's optimizers too
>>> type(thinc.api.Linear(2, 3).ops).__name__
'FastnnOps'
>>> fastnn.thinc.uninstall()

Without `install` the backend is one of Thinc's, by name: ``with thinc.api.use_ops("fastnn")``. Thinc's
optimizers then still compute with NumpyOps, which they ask for by themselves.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from . import kernels
from .optimizers import Adam

try:
    import thinc.backends
    from thinc.backends.numpy_ops import NumpyOps
except ImportError as _error:
    raise ImportError(
        f"fastnn.thinc needs Thinc ({_error}): install the extra, pip install 'fastnn-core[thinc]'"
    ) from None

__all__ = ["FastnnOps", "install", "uninstall"]

Array = Any  # np.ndarray; Thinc's own names for it are not known where it is not installed

# The step of Adam whose bias corrections are 1 to the last bit, for all betas up to 1 - 1e-15: Thinc's rate
# comes with its own corrections.
_LATE_STEP = 2**62
# Words of numpy.random, which Thinc's `fix_random_seed` seeds; each mask is keyed by one of them.
_SEEDS = 2**63 - 1


class FastnnOps(NumpyOps):  # type: ignore[misc]
    """Thinc's operations on NumPy arrays, with products, activations, Adam and dropout by fastnn's kernels.

    What is not float32 or float64 and contiguous, and what is not listed below, is NumpyOps' own. Arguments
    and results are those of `thinc.backends.Ops`.
    """

    name = "fastnn"
    xp = np

    # ------------------------------------------------------------ products

    def gemm(
        self, x: Array, y: Array, out: Array | None = None, trans1: bool = False, trans2: bool = False
    ) -> Array:
        """x @ y, each of two dimensions, after turning what trans1 and trans2 name, which copies nothing."""
        if not (_is_matrix(x) and _is_matrix(y) and x.dtype == y.dtype):
            return super().gemm(x, y, out=out, trans1=trans1, trans2=trans2)
        a, b = (x.T if trans1 else x), (y.T if trans2 else y)
        if a.shape[1] != b.shape[0]:
            raise ValueError(
                f"y must have {a.shape[1]} {'columns' if trans2 else 'rows'}, as x has "
                f"{'rows' if trans1 else 'columns'}, got shapes {x.shape} and {y.shape}"
            )
        return _product(a, b, None, out)

    def affine(self, X: Array, W: Array, b: Array) -> Array:
        """X @ W.T + b for X (batch, nI), W (nO, nI), b (nO,), in one pass."""
        fits = _is_matrix(X) and _is_matrix(W) and X.shape[1] == W.shape[1] and _is_real(b)
        if not (fits and X.dtype == W.dtype == b.dtype and b.shape == W.shape[:1] and b.flags.c_contiguous):
            return super().affine(X, W, b)
        return _product(X, W.T, b, None)

    # ------------------------------------------------------------ activations

    def relu(self, X: Array, inplace: bool = False) -> Array:
        """max(X, 0), NaN staying NaN."""
        return _apply("relu", X, inplace) if _is_whole(X) else super().relu(X, inplace=inplace)

    def backprop_relu(self, dY: Array, Y: Array, inplace: bool = False) -> Array:
        """dY where Y > 0, else 0."""
        if not _are_alike(dY, Y):
            return super().backprop_relu(dY, Y, inplace=inplace)
        return _apply_backward("relu", dY, Y, inplace)

    def relu_k(self, X: Array, n: float = 6.0, inplace: bool = False) -> Array:
        """min(max(X, 0), n), ours for n = 6."""
        if n != 6 or not _is_whole(X):
            return super().relu_k(X, n=n, inplace=inplace)
        return _apply("relu6", X, inplace)

    def backprop_relu_k(self, dY: Array, X: Array, n: float = 6.0, inplace: bool = False) -> Array:
        """dY where 0 < X < n, else 0."""
        if n != 6 or not _are_alike(dY, X):
            return super().backprop_relu_k(dY, X, n=n, inplace=inplace)
        return _apply_backward("relu6", dY, X, inplace)  # X lies between the bounds where relu6(X) does

    def hard_tanh(self, X: Array, inplace: bool = False) -> Array:
        """min(max(X, -1), 1)."""
        return _apply("hard_tanh", X, inplace) if _is_whole(X) else super().hard_tanh(X, inplace=inplace)

    def backprop_hard_tanh(self, dY: Array, X: Array, inplace: bool = False) -> Array:
        """dY where -1 < X < 1, else 0."""
        if not _are_alike(dY, X):
            return super().backprop_hard_tanh(dY, X, inplace=inplace)
        return _apply_backward("hard_tanh", dY, X, inplace)

    def sigmoid(self, X: Array, *, inplace: bool = False) -> Array:
        """1 / (1 + exp(-X)) with X cut to -20 .. 20, as Thinc has it."""
        if not _is_whole(X):
            return super().sigmoid(X, inplace=inplace)
        # an array of no dimension too: without `out`, clip gives a number for it, which no kernel can fill
        return _apply("sigmoid", np.clip(X, -20.0, 20.0, out=X if inplace else np.empty_like(X)), True)

    def backprop_sigmoid(self, dY: Array, Y: Array, *, inplace: bool = False) -> Array:
        """dY Y (1 - Y)."""
        if inplace or not _are_alike(dY, Y):  # in place means Y here
            return super().backprop_sigmoid(dY, Y, inplace=inplace)
        return _apply_backward("sigmoid", dY, Y, False)

    def softmax(self, x: Array, *, inplace: bool = False, axis: int = -1, temperature: float = 1.0) -> Array:
        """exp(x / temperature), its sums over the axis being 1."""
        if not _is_whole(x) or x.ndim == 0 or axis not in (-1, x.ndim - 1):
            return super().softmax(x, inplace=inplace, axis=axis, temperature=temperature)
        if temperature != 1.0:
            x = x / float(temperature)  # a float64 of NumPy's would make the array one
        out = np.empty_like(x)
        kernels.activation("softmax", x.reshape(-1, x.shape[-1]), out.reshape(-1, x.shape[-1]))
        return out

    def backprop_softmax(self, Y: Array, dY: Array, *, axis: int = -1, temperature: float = 1.0) -> Array:
        """Y (dY - the sums of dY Y over the axis), dY divided by the temperature."""
        if not _are_alike(dY, Y) or Y.ndim == 0 or axis not in (-1, Y.ndim - 1):
            return super().backprop_softmax(Y, dY, axis=axis, temperature=temperature)
        if temperature != 1.0:
            dY = dY / float(temperature)
        out, n = np.empty_like(Y), Y.shape[-1]
        kernels.activation_backward("softmax", Y.reshape(-1, n), dY.reshape(-1, n), out.reshape(-1, n))
        return out

    def swish(self, X: Array, inplace: bool = False) -> Array:
        """X sigmoid(X)."""
        return _apply("silu", X, inplace) if _is_whole(X) else super().swish(X, inplace=inplace)

    def backprop_swish(self, dY: Array, X: Array, Y: Array, inplace: bool = False) -> Array:
        """dY times the derivative of swish at X."""
        if not (_are_alike(dY, X) and _are_alike(dY, Y)):
            return super().backprop_swish(dY, X, Y, inplace=inplace)
        return _apply_slope("silu", dY, X, inplace)

    def hard_swish_mobilenet(self, X: Array, inplace: bool = False) -> Array:
        """X min(max(X + 3, 0), 6) / 6."""
        if not _is_whole(X):
            return super().hard_swish_mobilenet(X, inplace=inplace)
        return _apply("hard_swish", X, inplace)

    def backprop_hard_swish_mobilenet(self, dY: Array, X: Array, inplace: bool = False) -> Array:
        """dY times the derivative of hard_swish_mobilenet at X."""
        if not _are_alike(dY, X):
            return super().backprop_hard_swish_mobilenet(dY, X, inplace=inplace)
        return _apply_slope("hard_swish", dY, X, inplace)

    def gelu(self, X: Array, inplace: bool = False) -> Array:
        """X Phi(X) with the normal distribution Phi."""
        return _apply("gelu", X, inplace) if _is_whole(X) else super().gelu(X, inplace=inplace)

    def backprop_gelu(self, dY: Array, X: Array, inplace: bool = False) -> Array:
        """dY times the derivative of gelu at X."""
        if not _are_alike(dY, X):
            return super().backprop_gelu(dY, X, inplace=inplace)
        return _apply_slope("gelu", dY, X, inplace)

    def gelu_approx(self, X: Array, inplace: bool = False) -> Array:
        """X / 2 (1 + tanh(sqrt(2 / pi) (X + 0.044715 X^3)))."""
        return _apply("gelu_tanh", X, inplace) if _is_whole(X) else super().gelu_approx(X, inplace=inplace)

    def backprop_gelu_approx(self, dY: Array, X: Array, inplace: bool = False) -> Array:
        """dY times the derivative of gelu_approx at X."""
        if not _are_alike(dY, X):
            return super().backprop_gelu_approx(dY, X, inplace=inplace)
        return _apply_slope("gelu_tanh", dY, X, inplace)

    def mish(self, X: Array, threshold: float = 20.0, inplace: bool = False) -> Array:
        """X tanh(log(1 + exp(X))), which is X from 20 on; another threshold is NumpyOps' own."""
        if threshold != 20 or not _is_whole(X):
            return super().mish(X, threshold=threshold, inplace=inplace)
        return _apply("mish", X, inplace)

    def backprop_mish(self, dY: Array, X: Array, threshold: float = 20.0, inplace: bool = False) -> Array:
        """dY times the derivative of mish at X."""
        if threshold != 20 or not _are_alike(dY, X):
            return super().backprop_mish(dY, X, threshold=threshold, inplace=inplace)
        return _apply_slope("mish", dY, X, inplace)

    # ------------------------------------------------------------ training

    def get_dropout_mask(self, shape: Any, drop: float | None) -> Array:
        """float32 of the shape: 0 with probability drop, else 1 / (1 - drop); drawn anew in each call."""
        if drop is None or not 0 < drop < 1:
            return super().get_dropout_mask(shape, drop)
        mask = np.empty(shape, np.float32)
        if mask.size:
            rows = mask.reshape(-1, mask.shape[-1]) if mask.ndim else mask.reshape(1, 1)
            seed = int(np.random.randint(0, _SEEDS, dtype=np.int64))  # noqa: NPY002 (it is Thinc's)
            kernels.dropout(None, rows, seed, 0, 0, float(drop), 0)
        return mask

    def clip_gradient(self, gradient: Array, threshold: float) -> Array:
        """The gradient, in place, made no longer than the threshold; its length is summed in double."""
        if not _is_whole(gradient):
            return super().clip_gradient(gradient, threshold)
        flat = gradient.reshape(-1)
        length = math.sqrt(kernels.dot(flat, flat))
        if length >= threshold:
            gradient *= threshold / length
        return gradient

    def adam(
        self,
        weights: Array,
        gradient: Array,
        mom1: Array,
        mom2: Array,
        beta1: float,
        beta2: float,
        eps: float,
        learn_rate: float,
        mod_rate: float = 1.0,
    ) -> tuple[Array, Array, Array, Array]:
        """One step of Adam on weights, mom1 and mom2, in place; learn_rate holds the bias corrections.

        The gradient is zeros afterwards, as with NumpyOps.
        """
        adam = _adam(float(beta1), float(beta2), float(eps))
        ours = all(_are_alike(weights, array) for array in (gradient, mom1, mom2)) and weights.ndim == 1
        if adam is None or not ours or mod_rate != 1:
            numbers = (beta1, beta2, eps, learn_rate, mod_rate)
            return super().adam(weights, gradient, mom1, mom2, *numbers)  # type: ignore[no-any-return]
        kernels.update(adam, weights, gradient, [mom1, mom2], _LATE_STEP, float(learn_rate))
        gradient.fill(0)
        return weights, gradient, mom1, mom2

    def update_averages(self, ema: Array, weights: Array, t: int, max_decay: float = 0.9999) -> None:
        """ema += (1 - decay) (weights - ema), decay being (1 + t) / (10 + t) or max_decay, what is less."""
        if not _are_alike(ema, weights):
            super().update_averages(ema, weights, t, max_decay)
            return
        decay = min((1.0 + t) / (10.0 + t), max_decay)
        kernels.average(1 - decay, weights.reshape(-1), ema.reshape(-1))


# ---------------------------------------------------------------- what the kernels take

_REAL = (np.dtype(np.float32), np.dtype(np.float64))


def _is_real(X: Any) -> bool:
    """A plain array of float32 or float64, in native order and aligned."""
    return type(X) is np.ndarray and X.dtype in _REAL and X.flags.aligned


def _is_whole(X: Any) -> bool:
    """Real, C-contiguous and not empty: one row of numbers to the kernels."""
    return _is_real(X) and X.flags.c_contiguous and X.size > 0


def _is_matrix(X: Any) -> bool:
    return _is_real(X) and X.ndim == 2


def _are_alike(first: Any, second: Any) -> bool:
    """Both whole, of one shape and type."""
    return (
        _is_whole(first) and _is_whole(second) and first.shape == second.shape and first.dtype == second.dtype
    )


def _product(a: Array, b: Array, bias: Array | None, out: Array | None) -> Array:
    """a @ b + bias, into `out` where it is given; of either factor rows or columns may be strided."""
    shape = (a.shape[0], b.shape[1])
    if out is not None and (out.shape != shape or out.dtype != a.dtype):
        raise ValueError(f"out must be {a.dtype} of shape {shape}, got {out.dtype} of shape {out.shape}")
    if out is not None and not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")
    result: Any = out
    if out is None or not (_is_real(out) and out.strides[1] == out.itemsize and out.strides[0] > 0):
        result = np.empty(shape, a.dtype)
    if a.shape[1] == 0:
        result[...] = 0 if bias is None else bias
    elif result.size:
        kernels.matmul(_factor(a), _factor(b), bias, "identity", result)
    if out is None or result is out:
        return result
    out[...] = result
    return out


def _factor(a: Array) -> Array:
    """A matrix whose rows or columns lie side by side in memory: itself, or a copy."""
    rows, columns = a.strides
    legal = (columns == a.itemsize and rows >= 0) or (rows == a.itemsize and columns > 0)
    return a if legal and rows % a.itemsize == 0 and columns % a.itemsize == 0 else np.ascontiguousarray(a)


def _apply(f: str, X: Array, inplace: bool) -> Array:
    out = X if inplace else np.empty_like(X)
    kernels.activation(f, X.reshape(-1), out.reshape(-1))
    return out


def _apply_backward(f: str, dY: Array, Y: Array, inplace: bool) -> Array:
    """dY f'(Y), by the output Y (or f' itself, where f is of kind from_input)."""
    out = dY if inplace else np.empty_like(dY)
    kernels.activation_backward(f, Y.reshape(-1), dY.reshape(-1), out.reshape(-1))
    return out


def _apply_slope(f: str, dY: Array, X: Array, inplace: bool) -> Array:
    """dY f'(X) for an f of kind from_input."""
    slope, Y = np.empty_like(X), np.empty_like(X)
    kernels.activation_and_slope(f, X.reshape(-1), Y.reshape(-1), slope.reshape(-1))
    out = dY if inplace else Y
    kernels.activation_backward(f, slope.reshape(-1), dY.reshape(-1), out.reshape(-1))
    return out


@functools.lru_cache(maxsize=64)  # betas and eps may follow a schedule
def _adam(beta1: float, beta2: float, eps: float) -> Adam | None:
    """The description for the kernels; None where the numbers are not such that they take them."""
    ours = 0 <= beta1 <= 1 - 1e-15 and 0 <= beta2 <= 1 - 1e-15 and 0 < eps < math.inf
    return Adam(betas=(beta1, beta2), eps=eps) if ours else None


# ---------------------------------------------------------------- the whole process

# Functions of Thinc that choose the operations by themselves, and the modules that hold them by name.
_THEIRS: dict[str, Callable[..., Any]] = {
    name: getattr(thinc.backends, name) for name in ("get_ops", "get_array_ops")
}
_HOLDERS = ("thinc.backends", "thinc.optimizers", "thinc.api")
_shared = FastnnOps()


class _State:
    """Whether Thinc is ours now, and the operations that were current before."""

    installed = False
    before: Any = None


def _get_ops(name: str, **kwargs: Any) -> Any:
    """Thinc's `get_ops`, "cpu" being ours."""
    return FastnnOps(**kwargs) if name == "cpu" and _State.installed else _THEIRS["get_ops"](name, **kwargs)


def _get_array_ops(arr: Any) -> Any:
    """Thinc's `get_array_ops`, with our operations for NumPy arrays."""
    found = _THEIRS["get_array_ops"](arr)
    return _shared if type(found) is NumpyOps and _State.installed else found


def install() -> None:
    """Let Thinc, and spaCy with it, compute by fastnn wherever it chooses a backend for the CPU.

    That is: in models that are made from now on, in the optimizers, and after `require_cpu` and in new
    threads. Models made before keep the operations that they have. Calling it again does nothing.
    """
    import thinc.optimizers  # a holder

    if not _State.installed:
        _State.installed, _State.before = True, thinc.backends.context_ops.get()
        _rebind({"get_ops": _get_ops, "get_array_ops": _get_array_ops})
        thinc.backends.set_current_ops(_shared)


def uninstall() -> None:
    """Take `install` back; models made meanwhile keep the operations that they have."""
    if _State.installed:
        _rebind(_THEIRS)
        thinc.backends.set_current_ops(_State.before)
        _State.installed, _State.before = False, None


def _rebind(functions: dict[str, Callable[..., Any]]) -> None:
    for holder in _HOLDERS:
        module = sys.modules.get(holder)
        for name, function in functions.items():
            if module is not None and hasattr(module, name):
                setattr(module, name, function)
