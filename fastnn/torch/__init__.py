"""PyTorch's modules as fastnn's models and back, and a backend of ``torch.compile``.

>>> import torch, fastnn.torch
>>> model = fastnn.torch.from_torch(torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU()))
>>> module = fastnn.torch.to_torch(model)
>>> quick = torch.compile(module, backend=fastnn.torch.backend)    # "fastnn" where it is installed
"""

from __future__ import annotations

try:
    import torch  # noqa: F401
except ImportError as _error:
    raise ImportError(
        f"fastnn.torch needs PyTorch ({_error}): install the extra, pip install 'fastnn-core[torch]'"
    ) from _error

from .compiling import backend
from .incoming import from_torch
from .outgoing import to_torch
from .report import Report, explain

__all__ = ["Report", "backend", "explain", "from_torch", "to_torch"]
