"""The `onnx` package, imported where it is first used."""

from __future__ import annotations

from typing import Any

__all__ = ["onnx_package"]


def onnx_package() -> Any:
    """The module `onnx`.

    Raises
    ------
    ImportError
        It is not installed; the message has the line that installs it.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            f"fastnn.onnx needs the package onnx ({error}): python -m pip install 'fastnn-core[onnx]'"
        ) from error
    return onnx
