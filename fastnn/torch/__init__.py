"""PyTorch's modules as fastnn's models and back, and a backend of ``torch.compile``.

>>> import fastnn.torch                                             # doctest: +SKIP
>>> model = fastnn.torch.from_torch(module)                         # doctest: +SKIP
>>> module = fastnn.torch.to_torch(model)                           # doctest: +SKIP
>>> quick = torch.compile(module, backend="fastnn")                 # doctest: +SKIP
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
