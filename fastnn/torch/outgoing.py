"""A module of PyTorch that does what a model does, with copies of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ..input_layers import Flatten, Periodic, PiecewiseLinear
from ..layers import Activation, AnyLayer, Concat, Dense, Dropout, Embedding, Residual, Scale
from ..network import Sequential
from ..noise_layers import AlphaDropout, GaussianNoise
from ..norm_layers import BatchNorm, LayerNorm, PReLU, RMSNorm
from ..steps import Step
from . import layers as own

__all__ = ["to_torch"]

# Each activation as a module.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "relu6": nn.ReLU6,
    "hard_tanh": nn.Hardtanh,
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_swish": nn.Hardswish,
    "softsign": nn.Softsign,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softmax": lambda: nn.Softmax(-1),
    "log_softmax": lambda: nn.LogSoftmax(-1),
}


def to_torch(model: Sequential) -> nn.Module:
    """A torch.nn.Sequential with copies of a model's parameters and running statistics, in eval mode.

    Names of the state_dict are those of ``model.weights`` and ``model.running``, and shapes PyTorch's own:
    "0.weight" of a Dense is (n_out, n_in). So ``load_state_dict`` takes what ``fn.save_weights(model, path,
    layout="torch")`` wrote. The activation of the Dense at 0 is the child "0_relu". Layers that PyTorch has
    are its modules; the others (Residual, Concat, Scale, Embedding, Periodic, PiecewiseLinear,
    GaussianNoise) are those of `fastnn.torch.layers`.

    Left out are the model's recipe, its link and what weights are initialised with.

    Parameters
    ----------
    model : Sequential
        That has parameters.

    Examples
    --------
    >>> import fastnn as fn, fastnn.torch
    >>> model = fn.Sequential(fn.Dense(16, activation="relu"), fn.Dense(3)).build(4)
    >>> list(fastnn.torch.to_torch(model).state_dict())
    ['0.weight', '0.bias', '1.weight', '1.bias']
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model must be a Sequential, got {type(model).__name__}")
    n_in = model.steps[0].n_in
    module = _Builder(model).sequence(((str(i), layer) for i, layer in enumerate(model.layers)), n_in)[0]
    state = module.state_dict()
    with torch.no_grad():
        turned = {f"{step.prefix}.weight" for step in model.steps if step.kind == "dense"}
        for name, array in {**model.weights, **model.running}.items():
            numbers = torch.from_numpy(array.T.copy() if name in turned else array.copy())
            state[name].copy_(numbers.reshape(state[name].shape))
    return module.eval()


class _Builder:
    """Modules of layers, whose widths the steps of the model tell."""

    def __init__(self, model: Sequential) -> None:
        self._dtype = getattr(torch, model.dtype.name)
        self._by_prefix: dict[str, list[Step]] = {}
        for step in model.steps:
            self._by_prefix.setdefault(step.prefix, []).append(step)

    def sequence(
        self, layers: Iterable[tuple[str, AnyLayer]], width: int, outer: str = ""
    ) -> tuple[nn.Sequential, int]:
        """A Sequential of layers by their positions, and the width of what it gives."""
        children = []
        for position, layer in layers:
            path = f"{outer}.{position}" if outer else position
            made = list(self._modules(position, layer, width, path))
            children += [(name, module) for name, module, _ in made]
            width = made[-1][2]
        return own.named_sequence(children), width

    def _modules(
        self, name: str, layer: AnyLayer, width: int, path: str
    ) -> Iterator[tuple[str, nn.Module, int]]:
        """The modules of one layer with their names, and the width after each."""
        dtype: dict[str, Any] = {"dtype": self._dtype}
        if isinstance(layer, Dense):
            yield name, nn.Linear(width, layer.units, bias=layer.bias, **dtype), layer.units
            if layer.activation is not None:
                yield f"{name}_{layer.activation}", ACTIVATIONS[layer.activation](), layer.units
            return
        n_out, module = width, None
        if isinstance(layer, Activation):
            module = ACTIVATIONS[layer.name]()
        elif isinstance(layer, Dropout):
            module = nn.Dropout(layer.rate)
        elif isinstance(layer, AlphaDropout):
            module = nn.AlphaDropout(layer.rate)
        elif isinstance(layer, BatchNorm):
            module = nn.BatchNorm1d(
                width, eps=layer.eps, momentum=layer.momentum, affine=layer.affine, **dtype
            )
        elif isinstance(layer, LayerNorm):
            module = nn.LayerNorm(width, eps=layer.eps, elementwise_affine=layer.affine, **dtype)
        elif isinstance(layer, RMSNorm):
            module = nn.RMSNorm(width, eps=layer.eps, elementwise_affine=layer.affine, **dtype)
        elif isinstance(layer, PReLU):
            module = nn.PReLU(layer.n, init=layer.init, **dtype)
        elif isinstance(layer, Flatten):
            module = nn.Flatten()
        elif isinstance(layer, GaussianNoise):
            module = own.GaussianNoise(layer.std)
        elif isinstance(layer, Scale):
            module = own.Scale(layer.factor, layer.shift, self._dtype)
        elif isinstance(layer, Embedding):
            module = own.Embedding(layer.columns, width, self._dtype)
            n_out = self._width_after(path)
        elif isinstance(layer, PiecewiseLinear):
            module, n_out = own.PiecewiseLinear(layer.bins, self._dtype), self._width_after(path)
        elif isinstance(layer, Periodic):
            module = own.Periodic(width, layer.n_frequencies, layer.sigma, self._dtype)
            n_out = self._width_after(path)
        elif isinstance(layer, Residual):
            module, n_out = self._residual(layer, width, path)
        elif isinstance(layer, Concat):
            module, n_out = self._concat(layer, width, path)
        else:
            raise TypeError(f"layer {path}, {layer!r}, must be one that PyTorch can be given")
        yield name, module, n_out

    def _width_after(self, path: str) -> int:
        return self._by_prefix[path][-1].n_out

    def _residual(self, layer: Residual, width: int, path: str) -> tuple[nn.Module, int]:
        f, n_out = self.sequence(_numbered(layer.layers), width, path)
        g: nn.Module | None = None
        if layer.projection:
            g = nn.Linear(width, n_out, bias=False, dtype=self._dtype)
        elif layer.shortcut:
            g, _ = self.sequence(_numbered(layer.shortcut), width, f"{path}.shortcut")
        return own.Residual(f, g, width, n_out), n_out

    def _concat(self, layer: Concat, width: int, path: str) -> tuple[nn.Module, int]:
        branches, n_out = [], 0
        for i, (group, *layers) in enumerate(layer.branches):
            n = width
            if isinstance(group, tuple):
                n = len(range(*group[1:])) if group[0] == "slice" else len(group)
            branch, n = self.sequence(_numbered(layers), n, f"{path}.{i}")
            branches.append(branch)
            n_out += n
        groups = [group for group, *_ in layer.branches]
        return own.Concat(groups, branches, width, n_out), n_out


def _numbered(layers: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((str(i), layer) for i, layer in enumerate(layers))
