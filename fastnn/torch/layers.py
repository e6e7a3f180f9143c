"""The layers of fastnn that PyTorch has no module for, as modules that train as they do.

Plain modules of plain functions: they are saved, copied, compiled and moved to devices as all modules are.
Numbers that are not trained are buffers outside the state_dict, as fastnn's files have them in the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .. import input_layers, noise_layers
from .. import layers as layers_

__all__ = [
    "MARK",
    "OWN",
    "Concat",
    "Embedding",
    "GaussianNoise",
    "Parts",
    "Periodic",
    "PiecewiseLinear",
    "Residual",
    "Scale",
    "parts",
]

# The attribute of a Sequential of `to_torch`: its names are those of fastnn's layers.
MARK = "named_as_in_fastnn"


class Scale(nn.Module):  # type: ignore[misc]
    """``factor * x + shift``."""

    def __init__(
        self, factor: tuple[float, ...] | float, shift: tuple[float, ...] | float, dtype: Any
    ) -> None:
        super().__init__()
        self.given = factor, shift
        self.register_buffer("factor", torch.tensor(factor, dtype=dtype), persistent=False)
        self.register_buffer("shift", torch.tensor(shift, dtype=dtype), persistent=False)

    def forward(self, x: Any) -> Any:
        """(rows, n) of the same shape."""
        return x * self.factor + self.shift

    def extra_repr(self) -> str:
        """The numbers."""
        return f"factor={self.given[0]}, shift={self.given[1]}"


class GaussianNoise(nn.Module):  # type: ignore[misc]
    """Adds normal numbers of mean 0 while training."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Any) -> Any:
        """(rows, n) of the same shape."""
        return x + self.std * torch.randn_like(x) if self.training else x

    def extra_repr(self) -> str:
        """The deviation."""
        return f"std={self.std}"


class Embedding(nn.Module):  # type: ignore[misc]
    """Columns of category codes, each replaced by trained numbers of its own.

    Unknown codes give zeros, and what is no whole number NaN.

    The table (n_categories, width) of the category column 3 is the parameter `weight_3`.
    """

    def __init__(self, columns: Sequence[tuple[int, int, int]], n_in: int, dtype: Any) -> None:
        super().__init__()
        self.columns, self.n_in = tuple(columns), n_in
        categories = {column for column, _, _ in self.columns}
        self.others = [column for column in range(n_in) if column not in categories]
        for column, n_categories, width in self.columns:
            self.register_parameter(
                f"weight_{column}", nn.Parameter(torch.randn(n_categories, width, dtype=dtype))
            )

    def forward(self, x: Any) -> Any:
        """(rows, n_in) to the other columns, then the numbers of each category column."""
        found = [x[:, self.others]]
        for column, n_categories, _ in self.columns:
            codes = x[:, column]
            is_whole = codes == codes.floor()
            known = is_whole & (codes >= 0) & (codes < n_categories)
            rows = torch.where(known, codes, torch.zeros_like(codes)).long()
            numbers = nn.functional.embedding(rows, getattr(self, f"weight_{column}"))
            unknown = torch.where(is_whole, 0.0, torch.nan).to(numbers.dtype)
            found.append(torch.where(known[:, None], numbers, unknown[:, None]))
        return torch.cat(found, dim=1)

    def extra_repr(self) -> str:
        """The columns."""
        return f"columns={self.columns}"


class PiecewiseLinear(nn.Module):  # type: ignore[misc]
    """Each column as one number a bin: how much of the bin lies below x."""

    def __init__(self, bins: Sequence[Sequence[float]], dtype: Any) -> None:
        super().__init__()
        self.bins = tuple(tuple(edges) for edges in bins)
        low: list[float] = []
        high: list[float] = []
        least: list[float] = []
        most: list[float] = []
        columns: list[int] = []
        for j, edges in enumerate(self.bins):
            n = len(edges) - 1
            low += edges[:-1]
            high += edges[1:]
            least += [0.0 if t else -torch.inf for t in range(n)]
            most += [1.0 if t < n - 1 else torch.inf for t in range(n)]
            columns += [j] * n
        self.columns = columns
        for name, numbers in (("low", low), ("high", high), ("least", least), ("most", most)):
            self.register_buffer(name, torch.tensor(numbers, dtype=dtype), persistent=False)

    def forward(self, x: Any) -> Any:
        """(rows, n_columns) to (rows, number of bins)."""
        share = (x[:, self.columns] - self.low) / (self.high - self.low)
        return torch.clamp(share, self.least, self.most)

    def extra_repr(self) -> str:
        """The edges."""
        return f"bins={self.bins}"


class Periodic(nn.Module):  # type: ignore[misc]
    """Of each column the sines, then the cosines, of ``2 pi f x`` with trained frequencies f.

    They are the parameter `weight` (n_columns, n_frequencies).
    """

    def __init__(self, n_columns: int, n_frequencies: int, sigma: float, dtype: Any) -> None:
        super().__init__()
        self.sigma = sigma
        self.weight = nn.Parameter(sigma * torch.randn(n_columns, n_frequencies, dtype=dtype))

    def forward(self, x: Any) -> Any:
        """(rows, n_columns) to (rows, 2 n_columns n_frequencies)."""
        angle = 2 * torch.pi * (x[:, :, None] * self.weight)
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=2).flatten(1)

    def extra_repr(self) -> str:
        """Number of frequencies and the deviation that they began with."""
        return f"n_frequencies={self.weight.shape[1]}, sigma={self.sigma}"


class Residual(nn.Module):  # type: ignore[misc]
    """``x + f(x)``, or ``g(x) + f(x)``.

    f are the children "0", "1", ..; g is "projection", a Linear without bias, or "shortcut", a Sequential.
    """

    def __init__(self, f: nn.Sequential, g: nn.Module | None, n_in: int, n_out: int) -> None:
        super().__init__()
        self.n_in, self.n_out = n_in, n_out
        self.steps = [name for name, _ in f.named_children()]
        for name, module in f.named_children():
            self.add_module(name, module)
        if g is not None:
            self.add_module("shortcut" if isinstance(g, nn.Sequential) else "projection", g)

    def forward(self, x: Any) -> Any:
        """(rows, n_in) to (rows, n_out)."""
        a = x
        for name in self.steps:
            a = getattr(self, name)(a)
        if hasattr(self, "projection"):
            return self.projection(x) + a
        return (self.shortcut(x) if hasattr(self, "shortcut") else x) + a


class Concat(nn.Module):  # type: ignore[misc]
    """Groups of columns, each through modules of its own; the results side by side.

    The child "1" is the Sequential of the second group.
    """

    def __init__(
        self, groups: Sequence[object], branches: Sequence[nn.Sequential], n_in: int, n_out: int
    ) -> None:
        super().__init__()
        self.groups, self.n_in, self.n_out = tuple(groups), n_in, n_out
        for i, branch in enumerate(branches):
            self.add_module(str(i), branch)

    def forward(self, x: Any) -> Any:
        """(rows, n_in) to (rows, n_out)."""
        found = []
        for i, group in enumerate(self.groups):
            taken = x
            if isinstance(group, tuple):
                is_slice = group[0] == "slice"
                taken = x[:, slice(*group[1:])] if is_slice else x[:, list(group)]
            found.append(getattr(self, str(i))(taken))
        return torch.cat(found, dim=1)

    def extra_repr(self) -> str:
        """The columns of each group."""
        return f"groups={self.groups}"


OWN = (Scale, GaussianNoise, Embedding, PiecewiseLinear, Periodic, Residual, Concat)


@dataclass(frozen=True)
class Parts:
    """What `from_torch` makes of one of these modules; see `structure.Placed`."""

    layer: Any
    tensors: dict[str, Any] = field(default_factory=dict)
    turned: bool = False
    inner: tuple[tuple[str, Any], ...] = ()
    n_in: int | None = None
    n_out: int | None = None


def parts(module: nn.Module, path: str, convert: Callable[[nn.Module, str], list[Any]]) -> Parts:
    """The layer of one of these modules, its tensors, and what is within it.

    Parameters
    ----------
    convert : function of a module and its path
        Gives the layers of a Sequential.
    """
    if isinstance(module, Scale):
        width = next((len(g) for g in module.given if isinstance(g, (tuple, list))), None)
        factor, shift = module.given
        return Parts(layers_.Scale(factor, shift), n_in=width, n_out=width)
    if isinstance(module, GaussianNoise):
        return Parts(noise_layers.GaussianNoise(module.std))
    tensors = dict(module.named_parameters(recurse=False))
    if isinstance(module, Embedding):
        n_out = len(module.others) + sum(width for _, _, width in module.columns)
        return Parts(layers_.Embedding(module.columns), tensors, n_in=module.n_in, n_out=n_out)
    if isinstance(module, PiecewiseLinear):
        layer = input_layers.PiecewiseLinear(module.bins)
        return Parts(layer, n_in=len(module.bins), n_out=len(module.columns))
    if isinstance(module, Periodic):
        n_columns, n = module.weight.shape
        return Parts(input_layers.Periodic(n, module.sigma), tensors, n_in=n_columns, n_out=2 * n * n_columns)
    widths = {"n_in": module.n_in, "n_out": module.n_out}
    inner: list[tuple[str, Any]] = []
    if isinstance(module, Residual):
        f = named_sequence((name, getattr(module, name)) for name in module.steps)
        found = convert(f, path)
        inner += [(str(i), one) for i, one in enumerate(found)]
        projection, shortcut = hasattr(module, "projection"), ()
        if projection:
            (one,) = convert(named_sequence([("projection", module.projection)]), path)
            inner.append(("projection", one))
        elif hasattr(module, "shortcut"):
            short = convert(module.shortcut, f"{path}.shortcut")
            inner += [(f"shortcut.{i}", one) for i, one in enumerate(short)]
            shortcut = tuple(one.layer for one in short)
        residual = layers_.Residual(*(one.layer for one in found), projection=projection, shortcut=shortcut)
        return Parts(residual, inner=tuple(inner), **widths)
    assert isinstance(module, Concat)
    branches: list[tuple[object, ...]] = []
    for i, group in enumerate(module.groups):
        found = convert(getattr(module, str(i)), f"{path}.{i}")
        branches.append((group, *(one.layer for one in found)))
        inner += [(f"{i}.{j}", one) for j, one in enumerate(found)]
    return Parts(layers_.Concat(*branches), inner=tuple(inner), **widths)


def named_sequence(children: Any) -> nn.Sequential:
    """A Sequential of children that are named as fastnn's layers are."""
    found = nn.Sequential()
    for name, child in children:
        found.add_module(name, child)
    setattr(found, MARK, True)
    return found
