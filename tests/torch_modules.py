"""Modules of PyTorch as people write them, of 6 columns, for the tests of `fastnn.torch`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """A residual block with a norm and dropout, in modules."""

    def __init__(self, n: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(n), nn.Linear(n, hidden), nn.Linear(hidden, n)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Any) -> Any:
        return x + self.down(self.dropout(F.gelu(self.up(self.norm(x)))))


class Downsample(nn.Module):
    """A residual block whose shortcut has layers of its own, as ResNets have."""

    def __init__(self, n: int, n_out: int, bias: bool, norm: bool) -> None:
        super().__init__()
        body = (nn.Linear(n, n_out), nn.BatchNorm1d(n_out), nn.ReLU(), nn.Linear(n_out, n_out))
        self.body = nn.Sequential(*body)
        short = [nn.Linear(n, n_out, bias=bias)]
        self.shortcut = nn.Sequential(*short, nn.BatchNorm1d(n_out)) if norm else short[0]

    def forward(self, x: Any) -> Any:
        return F.relu(self.body(x) + self.shortcut(x))


class Functional(nn.Module):
    """All by functions and methods, and a view at its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 9), nn.Linear(9, 9), nn.Linear(9, 4)

    def forward(self, x: Any) -> Any:
        x = x.view(x.size(0), -1) * 0.5 - 1
        h = torch.tanh(self.a(x))
        h = F.dropout(h, 0.3, training=self.training)
        h = h + F.leaky_relu(self.b(h)).mul(2.0)
        h = F.softplus(h).clamp(min=0)
        return F.log_softmax(self.c(h), dim=-1)


class Towers(nn.Module):
    """Groups of columns through towers of their own, joined, beside the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(3, 5), nn.SiLU())
        self.right = nn.Sequential(nn.Linear(4, 4), nn.Mish(), nn.Linear(4, 2))
        self.head = nn.Linear(5 + 2 + 6 + 2, 4)

    def forward(self, x: Any) -> Any:
        joined = torch.cat([self.left(x[:, :3]), self.right(x[:, 2:]), x, x[:, [0, -1]]], dim=1)
        return self.head(joined)


class Dense(nn.Module):
    """Each block sees what all before it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(6 + 3 * i, 3) for i in range(3))
        self.out = nn.Linear(15, 4)

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = torch.cat((x, F.elu(block(x))), -1)
        return self.out(x)


class Categories(nn.Module):
    """Two columns are codes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(5, 3), nn.Embedding(4, 2)
        self.body = nn.Sequential(nn.Linear(4 + 3 + 2, 8), nn.PReLU(8), nn.Linear(8, 4))

    def forward(self, x: Any) -> Any:
        return self.body(
            torch.cat([x[:, 2:6], self.first(x[:, 0].long()), self.second(x[:, 1].to(torch.int64))], dim=1)
        )


class Reused(nn.Module):
    """One module without parameters in many places."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)])
        self.act = nn.ReLU(True)

    def forward(self, x: Any) -> Any:
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)


def _sequence(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


MODULES = {
    "perceptron": lambda: nn.Linear(6, 4),
    "deep": lambda: _sequence(
        nn.Linear(6, 17), nn.ReLU(), nn.Linear(17, 9, bias=False), nn.Tanh(), nn.Linear(9, 4)
    ),
    "nested": lambda: _sequence(
        _sequence(nn.Linear(6, 8), _sequence(nn.ReLU6(), nn.Identity())), nn.Linear(8, 4)
    ),
    "softmax last": lambda: _sequence(
        nn.Linear(6, 8), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(8, 4), nn.Softmax(1)
    ),
    "batch norm": lambda: _sequence(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)
    ),
    "batch norms": lambda: _sequence(
        nn.BatchNorm1d(6, affine=False), nn.Linear(6, 9), nn.BatchNorm1d(9, momentum=None, eps=1e-3),
        nn.Hardtanh(), nn.Linear(9, 4),
    ),
    "layer norm": lambda: _sequence(
        nn.Linear(6, 9), nn.LayerNorm(9), nn.GELU(), nn.LayerNorm(9, elementwise_affine=False),
        nn.Linear(9, 4),
    ),
    "rms norm": lambda: _sequence(
        nn.RMSNorm(6), nn.Linear(6, 9), nn.GELU("tanh"), nn.RMSNorm(9, eps=1e-2), nn.Linear(9, 4)
    ),
    "prelu": lambda: _sequence(nn.PReLU(), nn.Linear(6, 9), nn.PReLU(9, init=0.4), nn.Linear(9, 4)),
    "images": lambda: _sequence(nn.Flatten(), nn.Linear(6, 9), nn.LeakyReLU(), nn.Linear(9, 4)),
    "all bounded": lambda: _sequence(
        nn.Linear(6, 9), nn.Sigmoid(), nn.Linear(9, 9), nn.Hardsigmoid(), nn.Linear(9, 9), nn.Softsign(),
        nn.Linear(9, 9), nn.Hardswish(), nn.Linear(9, 4), nn.CELU(), nn.LogSoftmax(-1),
    ),
    "all smooth": lambda: _sequence(
        nn.Linear(6, 9), nn.Softplus(), nn.Linear(9, 9), nn.SiLU(), nn.Linear(9, 9), nn.Mish(),
        nn.Linear(9, 4), nn.ELU(),
    ),
    "residual": lambda: _sequence(
        nn.Linear(6, 8), Block(8, 12), Block(8, 5), nn.LayerNorm(8), nn.Linear(8, 4)
    ),
    "projection": lambda: _sequence(Downsample(6, 8, bias=False, norm=False), nn.Linear(8, 4)),
    "shortcut": lambda: _sequence(Downsample(6, 8, bias=True, norm=False), nn.Linear(8, 4)),
    "shortcut with a norm": lambda: _sequence(
        Downsample(6, 8, bias=False, norm=True), Downsample(8, 5, bias=True, norm=True), nn.Linear(5, 4)
    ),
    "functional": Functional,
    "towers": Towers,
    "dense": Dense,
    "categories": Categories,
    "reused": Reused,
}  # fmt: skip


def inputs(name: str, n: int, dtype: Any) -> Any:
    """Rows for the module of that name."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(n), dtype=dtype)
    if name == "categories":
        x[:, 0], x[:, 1] = torch.arange(n) % 5, torch.arange(n) % 4
    return x.reshape(n, 2, 3) if name == "images" else x


def stirred(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with running statistics and weights other than those it begins with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and not name.endswith("running_var"):
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            elif name.endswith("running_var"):
                tensor *= 1.5
    return module
