"""Models in ONNX files: `export`, `load`, and `Backend`, which runs any graph of the supported operators.

Needs the package onnx (``pip install 'fastnn-core[onnx]'``). See docs/interop.md.
"""

from __future__ import annotations

from .reading import load
from .running import Backend, Prepared
from .writing import export

__all__ = ["Backend", "Prepared", "export", "load"]
