"""The network behind an estimator on its device: its block of parameters, of which `coefs_` are views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import devices
from .. import layers as layers_
from .. import losses as losses_
from .. import optimizers as optimizers_
from ..losses import Loss
from ..network import Sequential
from ..norm_layers import BatchNorm
from ..optimizers import Optimizer
from ..steps import Objective, initial_buffers

__all__ = ["ACTIVATIONS", "OUTPUTS", "Network", "layers_of", "task_of"]

Array = NDArray[Any]

# scikit-learn's names and ours.
ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
OUTPUTS = {"identity": "identity", "logistic": "sigmoid", "softmax": "softmax", "exp": "identity"}


def layers_of(
    hidden: Sequence[int],
    n_out: int,
    activations: Sequence[str],
    *,
    dropout: Sequence[float] = (),
    batch_norm: bool = False,
) -> list[Any]:
    """Descriptions of a net without its output's activation, which belongs to the loss.

    Parameters
    ----------
    hidden : widths of the hidden layers
    n_out : int
    activations : our names, one a hidden layer
    dropout : rates after each hidden layer; () for none
    batch_norm : whether one stands between each hidden product and its activation
    """
    found: list[Any] = []
    for i, (width, activation) in enumerate(zip(hidden, activations, strict=True)):
        if batch_norm:
            found += [layers_.Dense(width), BatchNorm()]
            if activation != "identity":
                found.append(layers_.Activation(activation))
        else:
            found.append(layers_.Dense(width, activation=activation))
        if dropout and dropout[i]:
            found.append(layers_.Dropout(dropout[i]))
    return [*found, layers_.Dense(n_out)]


def task_of(loss: str, out_activation: str, n_out: int, dtype: np.dtype[Any]) -> tuple[Loss, Objective]:
    """What scikit-learn minimises and tells, by its names.

    It sums over outputs where our losses are means, squares are halved, and the value that it tells for
    squares is a mean over the outputs though the gradient is that of the sum. Its logarithms are of
    probabilities cut off at eps, label by label, which changes what is told and not the gradient. It divides
    sums over a batch by the weight of the batch where each row is divided here, so that it overflows
    earlier: a loss so large that this could be seen is left to it.
    """
    info = np.finfo(dtype)
    eps, largest = float(info.eps), float(info.max)
    common: dict[str, float] = {"limit": largest**0.8}
    if out_activation in ("softmax", "logistic"):
        common |= {"floor": -math.log1p(-eps), "cap": -math.log(eps)}
    if out_activation == "softmax":
        return losses_.CrossEntropy(), Objective(**common)
    if out_activation == "logistic":
        return losses_.BinaryCrossEntropy(), Objective(factor=n_out, told=n_out, **common)
    if loss == "poisson":  # its gradient is as large as itself
        return losses_.Poisson(), Objective(factor=n_out, told=n_out, limit=largest**0.5)
    return losses_.MSE(), Objective(factor=n_out / 2, told=0.5, **common)


class Network:
    """A net's parameters in one block, and the programs that train and use it in place.

    Parameters
    ----------
    layers : list of descriptions
    n_in : int
    dtype : numpy.dtype
    out_activation : str
        scikit-learn's name.
    device : str
        Of the programs; the block stays on the host.

    Attributes
    ----------
    coefs, intercepts : list of ndarray
        Views of the block, by dense layer.
    model : Sequential
        The same net to its users; its block is this one.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        n_in: int,
        dtype: np.dtype[Any],
        out_activation: str,
        device: str = "cpu",
    ) -> None:
        self.device = device
        self.model = Sequential(*layers, dtype=dtype.name)
        self.model._allocate(n_in)
        self._adopt(out_activation)

    @classmethod
    def of(cls, model: Sequential, out_activation: str) -> Network:
        """The network of a model that has parameters."""
        self = cls.__new__(cls)
        self.device, self.model = "cpu", model
        self._adopt(out_activation)
        return self

    def _adopt(self, out_activation: str) -> None:
        self.dtype, self.n_in = self.model.dtype, int(self.model.n_in or 0)
        views = self.model.weights
        prefixes = [step.prefix for step in self.model.steps if step.kind == "dense"]
        self.coefs: list[Array] = [views[f"{prefix}.weight"] for prefix in prefixes]
        self.intercepts: list[Array] = [views[f"{prefix}.bias"] for prefix in prefixes]
        self.n_out = self.coefs[-1].shape[1]
        self.n_layers = len(self.coefs) + 1  # as scikit-learn counts: with the input
        self.out_activation = out_activation
        self.described: tuple[Any, ...] | None = None  # the parameters of an estimator that it was made by
        self._predicting: devices.Program | None = None
        self.program: devices.Program | None = None
        self.plan: tuple[Any, ...] | None = None  # what the program was compiled for

    # ------------------------------------------------------------ parameters

    def holds(self, coefs: Sequence[Array], intercepts: Sequence[Array]) -> bool:
        """Whether these are the views of this block themselves."""
        mine, theirs = (*self.coefs, *self.intercepts), (*coefs, *intercepts)
        return len(mine) == len(theirs) and all(map(_same, mine, theirs))

    def takes(self, coefs: Sequence[Array], intercepts: Sequence[Array]) -> bool:
        """Whether these have the shapes and the dtype of the block."""
        mine, theirs = (*self.coefs, *self.intercepts), (*coefs, *intercepts)
        return len(mine) == len(theirs) and all(
            isinstance(b, np.ndarray) and a.shape == b.shape and a.dtype == b.dtype
            for a, b in zip(mine, theirs, strict=True)
        )

    def load(self, coefs: Sequence[Array], intercepts: Sequence[Array]) -> None:
        """Copy parameters into the block."""
        for to, given in zip((*self.coefs, *self.intercepts), (*coefs, *intercepts), strict=True):
            if to is not given:
                to[...] = given

    def reset_norms(self) -> None:
        """Norms as they begin: weights of 1, running variances of 1."""
        views = self.model.weights
        for step in self.model.steps:
            if step.kind == "batch_norm" and step.weight >= 0:
                views[f"{step.prefix}.weight"][...] = step.initial
        self.model.buffers[...] = initial_buffers(self.model.steps, self.dtype)

    # ------------------------------------------------------------ programs

    def compile(
        self, loss: Loss, optimizer: Optimizer | None, objective: Objective | None, seed: int = 0
    ) -> devices.Program:
        """The program that trains the block from now on."""
        self.program = self.made(loss, optimizer, objective, seed)
        return self.program

    def made(
        self, loss: Loss, optimizer: Optimizer | None, objective: Objective | None, seed: int = 0
    ) -> devices.Program:
        """A program of the block on the device."""
        block = self.model._block
        assert block is not None
        return devices.make(
            self.device,
            self.model.steps,
            block,
            loss=losses_.get(loss),
            optimizer=None if optimizer is None else optimizers_.get(optimizer),
            seed=seed,
            buffers=self.model.buffers,
            objective=objective,
        )

    def state_views(self, row: int) -> list[Array]:
        """A vector of optimizer state in the shapes of coefs, then intercepts."""
        assert self.program is not None
        return self.parts(self.program.state[row])

    def parts(self, flat: Array) -> list[Array]:
        """Views of a vector laid out as the block, in the shapes of coefs, then intercepts."""
        size = self.dtype.itemsize
        start = self.model.parameters.__array_interface__["data"][0]
        found = []
        for view in (*self.coefs, *self.intercepts):
            at = (view.__array_interface__["data"][0] - start) // size
            found.append(flat[at : at + view.size].reshape(view.shape))
        return found

    def output(self, x: Array) -> Array:
        """What scikit-learn's last layer gives, dropout off.

        Parameters
        ----------
        x : ndarray (rows, n_in)
            Of the dtype of the block.
        """
        if self._predicting is None:
            steps, block = self.model.steps, self.model._block
            assert block is not None
            activation = OUTPUTS[self.out_activation]
            if activation != "identity":
                last = layers_.Activation(activation)
                steps = layers_.lower((*self.model.layers, last), self.n_in)
            self._predicting = devices.make(self.device, steps, block, buffers=self.model.buffers)
        out = self._predicting.predict(x, np.empty((x.shape[0], self.n_out), self.dtype))
        return np.exp(out, out=out) if self.out_activation == "exp" else out


def _same(a: object, b: object) -> bool:
    return a is b
