"""Models as plain C: one file without dependencies, whose results are those of `model.predict` to the bit."""

from __future__ import annotations

import os
import re
from typing import Any

from .. import build_check, errors, folding
from ..network import Sequential
from ..replacing import replacing
from .generate import Exported, generate

__all__ = ["TARGETS", "to_c"]

TARGETS = ("computer", "microcontroller")

# Of C, to C23, and of C++: the header serves both.
_KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t
char8_t class compl concept const const_cast consteval constexpr constinit continue co_await
co_return co_yield decltype default delete do double dynamic_cast else enum explicit export extern
false float for friend goto if inline int long mutable namespace new noexcept not not_eq nullptr
operator or or_eq private protected public register reinterpret_cast requires restrict return short
signed sizeof static static_assert static_cast struct switch template this thread_local throw true
try typedef typeid typename typeof typeof_unqual union unsigned using virtual void volatile wchar_t
while xor xor_eq
"""
_LONGEST_NAME = 40  # with what is added, within the 63 letters that C99 tells apart


def to_c(
    model: Sequential, path: str | os.PathLike[str], name: str = "model", *, target: str = "computer"
) -> tuple[str, str]:
    """Write a model as a C99 file, weights and code, and a header beside it; gives both paths.

    The header declares ``void <name>_predict(const float *x, float *out, ptrdiff_t rows)`` (double for a
    float64 model). Compiled with gcc or clang, the results have the bits of ``model.predict``. The file wants
    <math.h> and <stddef.h> and nothing else, and allocates nothing. Both appear whole or not at all.

    Parameters
    ----------
    model : Sequential
        Built; `predict` of a matrix is exported, without recipe and link.
    path : path
        Of the C file, ``*.c``; the header is ``*.h``.
    name : str
        What all names begin with: a C identifier.
    target : "computer" or "microcontroller"
        For a microcontroller, buffers are static instead of on the stack, products go output by output, and
        the header states the bytes of flash and RAM.

    Raises
    ------
    NotFittedError
        The model has no parameters.
    ValueError, TypeError
        An argument is wrong, or a layer has no form in C.
    OSError
        A file can not be written.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastnn as fn
    >>> model = fn.Sequential(fn.Dense(16, activation="relu"), fn.Dense(3)).build(4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = fn.to_c(model, os.path.join(folder, "iris.c"), "iris")
    ...     [os.path.basename(path) for path in paths]
    ['iris.c', 'iris.h']
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model must be a Sequential, got {type(model).__name__}")
    source_path = errors.file_path("path", path)
    stem, ending = os.path.splitext(source_path)
    if ending != ".c":
        raise ValueError(f"path must end with .c, got {source_path!r}")
    header_path = stem + ".h"
    header_name = os.path.basename(header_path)
    if not re.fullmatch(r"[^\x00-\x1f\"\\]+", header_name):
        raise ValueError(f"path must be a name that C can include, got {source_path!r}")
    exported = generated(model, name, target, header_name)
    with replacing(header_path) as header, replacing(source_path) as source:
        header.write(exported.header.encode())
        source.write(exported.source.encode())
    return source_path, header_path


def generated(model: Sequential, name: Any, target: Any, header_name: str) -> Exported:
    """The texts of a model, arguments judged."""
    _judge_name(name)
    errors.choice("target", target, TARGETS)
    steps, block = model.steps, model.parameters
    if folding.can_fold(steps):
        steps, block = folding.fold(steps, block, model.buffers)
    return generate(
        steps,
        model.layers,
        block,
        model.buffers,
        name=name,
        header_name=header_name,
        microcontroller=target == "microcontroller",
        link=model.link,
        version=build_check.version(),
    )


def _judge_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be a text, got {errors.shown(name)}")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or len(name) > _LONGEST_NAME:
        raise ValueError(
            f"name must be a C identifier of at most {_LONGEST_NAME} letters, digits and _, "
            f"a letter first, got {errors.shown(name)}"
        )
    if name in _KEYWORDS.split():
        raise ValueError(f"name must not be a word of C or C++ itself, got {errors.shown(name)}")
