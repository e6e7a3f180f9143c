"""The two texts of an exported model: its steps as calls of `pieces`, its numbers as constants."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..layers import AnyLayer
from ..steps import Step, sources_of
from . import pieces
from .plan import LEFT_OUT, Plan, plan

__all__ = ["Exported", "generate"]

Array = NDArray[Any]

_LINE = 108
_INTEGERS = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "unsigned long long"}


@dataclass(frozen=True)
class Exported:
    """The texts, and what they take.

    Parameters
    ----------
    source, header : str
    constant_bytes : int
        Of all tables of constants.
    buffer_bytes : int
        Of the buffers that a row goes through.
    """

    source: str
    header: str
    constant_bytes: int
    buffer_bytes: int


def generate(
    steps: tuple[Step, ...],
    layers: tuple[AnyLayer, ...],
    block: Array,
    buffers: Array,
    *,
    name: str,
    header_name: str,
    microcontroller: bool,
    link: str | None,
    version: str,
) -> Exported:
    """The C of steps over a block of parameters and one of running statistics; norms are folded already."""
    real = "float" if block.dtype == np.float32 else "double"
    places = plan(steps, f"{name}_" if microcontroller else "")
    found = _Writer(steps, block, buffers, real, name, places)
    for i, step in enumerate(steps):
        if step.kind not in LEFT_OUT:
            found.step(i, step, layers)
    found.finish()
    buffer_bytes = sum(places.buffers.values()) * block.itemsize
    facts = _Facts(real, name, steps[0].n_in, steps[-1].n_out, link, version, microcontroller)
    numbers = buffer_bytes, found.constant_bytes, len(places.buffers)
    storage = "static " if microcontroller else "    "
    rooms = [f"{storage}{real} {buffer}[{n}];\n" for buffer, n in places.buffers.items()]
    calls = "".join(found.calls)
    row = [
        f"static void {name}_row(const {real} *restrict x, {real} *restrict out)\n{{\n",
        *([] if microcontroller else rooms),
        "    ptrdiff_t j;\n" if "for (j" in calls else "",
        calls,
        "}\n",
    ]
    text = [
        _about(facts, *numbers, in_header=False),
        f'#include "{header_name}"\n\n#include <math.h>\n\n',
        _GUARDS,
        pieces.written(found.needed, real, name, by_output=microcontroller),
        "\n",
        *found.tables,
        "\n" if found.tables else "",
        *(rooms if microcontroller else []),
        "\n" if microcontroller and rooms else "",
        *row,
        f"\nvoid {name}_predict(const {real} *x, {real} *out, ptrdiff_t rows)\n{{\n",
        f"    for (; rows > 0; rows--, x += {facts.n_in}, out += {facts.n_out}) {name}_row(x, out);\n}}\n",
    ]
    header = _header(facts, *numbers)
    return Exported("".join(text), header, found.constant_bytes, buffer_bytes)


# ---------------------------------------------------------------- steps


@dataclass
class _Writer:
    """The body of the row function in the making, and the tables that it reads."""

    steps: tuple[Step, ...]
    block: Array
    buffers: Array
    real: str
    name: str
    places: Plan
    needed: set[str] = field(default_factory=set)
    tables: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    constant_bytes: int = 0

    def step(self, i: int, step: Step, layers: tuple[AnyLayer, ...]) -> None:
        """Write one step."""
        method = getattr(self, f"_{step.kind}", None)
        if method is None:
            layer = layers[step.layer]
            what = f"a step of kind {step.kind!r}"
            raise ValueError(f"layer {step.prefix}, {layer!r}, has no form in C: {what}")
        sources = [self.places.place[self.places.value[j]] for j in sources_of(i, step)]
        self.calls.append(f"    /* layer {step.prefix}: {step.kind} */\n")
        method(i, step, sources, self.places.place[i])
        if step.kind == "dense":
            self._activation(i, step, [self.places.place[i]], self.places.place[i])

    def finish(self) -> None:
        """A model that computes nothing gives its input."""
        if self.places.value[len(self.steps) - 1] < 0:
            self._copy(self.steps[-1].n_out, "x", "out")

    # -- the kinds

    def _dense(self, i: int, step: Step, sources: list[str], out: str) -> None:
        weight = self._table(f"weight_{i}", self._parameters(step.weight, step.n_in * step.n_out))
        bias = self._table(f"bias_{i}", self._parameters(step.bias, step.n_out)) if step.bias >= 0 else "NULL"
        product = "dots" if kernels.by_dots(step.n_out, step.n_in) else "dense"
        self._call(product, step.n_in, step.n_out, weight, bias, sources[0], out)

    def _activation(self, i: int, step: Step, sources: list[str], out: str) -> None:
        f = step.activation
        if f != "identity" and f not in pieces.NAMES:
            raise ValueError(f"layer {step.prefix}: the activation {f!r} has no form in C")
        if f == "identity":
            if sources[0] != out:
                self._copy(step.n_out, sources[0], out)
        elif kernels.ACTIVATIONS[f] == "rowwise":
            self._call(f, step.n_out, sources[0], out)
        else:
            self.needed.add(f)
            self._each(step.n_out, f"{out}[j] = {self.name}_{f}({sources[0]}[j]);")

    def _scale(self, i: int, step: Step, sources: list[str], out: str) -> None:
        factor, shift = self._number(step.factor), self._number(step.shift)
        self._each(step.n_out, f"{out}[j] = {self._fma}({factor}, {sources[0]}[j], {shift});")

    def _scale_columns(self, i: int, step: Step, sources: list[str], out: str) -> None:
        dtype = self.block.dtype
        factor = self._table(f"factor_{i}", np.array(step.factors, dtype))
        shift = self._table(f"shift_{i}", np.array(step.shifts, dtype))
        self._each(step.n_out, f"{out}[j] = {self._fma}({sources[0]}[j], {factor}[j], {shift}[j]);")

    def _embedding(self, i: int, step: Step, sources: list[str], out: str) -> None:
        categories = {table.column for table in step.tables}
        kept = [j for j in range(step.n_in) if j not in categories]
        if kept:
            self._take(f"columns_{i}", kept, sources[0], out)
        for table in step.tables:
            numbers = self._parameters(table.weight, table.n_categories * table.width)
            where = self._table(f"table_{i}_{table.column}", numbers)
            code, to = f"{sources[0]}[{table.column}]", _moved(out, table.out)
            self._call("category", code, table.n_categories, table.width, where, to)

    def _add(self, i: int, step: Step, sources: list[str], out: str) -> None:
        self._each(step.n_out, f"{out}[j] = {sources[0]}[j] + {sources[1]}[j];")

    def _columns(self, i: int, step: Step, sources: list[str], out: str) -> None:
        self._take(f"columns_{i}", list(step.columns), sources[0], out)

    def _join(self, i: int, step: Step, sources: list[str], out: str) -> None:
        at = 0
        for j, source in zip(sources_of(i, step), sources, strict=True):
            n = self.steps[j].n_out if j >= 0 else self.steps[0].n_in
            self._copy(n, source, out, at)
            at += n

    def _batch_norm(self, i: int, step: Step, sources: list[str], out: str) -> None:
        n, dtype = step.n_out, self.block.dtype.type
        running = self.buffers[step.running : step.running + 2 * n]
        with np.errstate(all="ignore"):
            scale = dtype(1) / np.sqrt(running[n:] + dtype(step.eps))
            if step.weight >= 0:
                scale = scale * self._parameters(step.weight, n)
        shift = self._parameters(step.bias, n) if step.bias >= 0 else np.zeros(n, dtype)
        mean, factor = self._table(f"mean_{i}", running[:n]), self._table(f"scale_{i}", scale)
        moved = self._table(f"shift_{i}", shift)
        self._each(n, f"{out}[j] = {self._fma}({sources[0]}[j] - {mean}[j], {factor}[j], {moved}[j]);")

    def _layer_norm(self, i: int, step: Step, sources: list[str], out: str) -> None:
        self.needed.add("row_sum")
        mean = f"{self.name}_row_sum({step.n_out}, {sources[0]}) / {self._number(step.n_out)}"
        self._norm(i, step, mean, step.eps, sources[0], out)

    def _rms_norm(self, i: int, step: Step, sources: list[str], out: str) -> None:
        eps = float(np.finfo(self.block.dtype).eps) if step.eps < 0 else step.eps
        self._norm(i, step, self._number(0.0), eps, sources[0], out)

    def _norm(self, i: int, step: Step, mean: str, eps: float, source: str, out: str) -> None:
        n = step.n_out
        gamma = self._table(f"weight_{i}", self._parameters(step.weight, n)) if step.weight >= 0 else "NULL"
        beta = self._table(f"bias_{i}", self._parameters(step.bias, n)) if step.bias >= 0 else "NULL"
        self._call("norm", n, mean, self._number(eps), gamma, beta, source, out)

    def _prelu(self, i: int, step: Step, sources: list[str], out: str) -> None:
        slopes = self._parameters(step.weight, math.prod(step.weight_shape))
        slope = self._number(slopes[0]) if len(slopes) == 1 else f"{self._table(f'weight_{i}', slopes)}[j]"
        z = f"{sources[0]}[j]"
        self._each(step.n_out, f"{out}[j] = {self._number(0.0)} < {z} ? {z} : {z} * {slope};")

    def _periodic(self, i: int, step: Step, sources: list[str], out: str) -> None:
        n, k = step.weight_shape
        frequencies = self._table(f"weight_{i}", self._parameters(step.weight, n * k))
        self._call("periodic", n, k, frequencies, sources[0], out)

    def _piecewise(self, i: int, step: Step, sources: list[str], out: str) -> None:
        edges = np.array([edge for column in step.edges for edge in column]).astype(self.block.dtype)
        table = self._table(f"edges_{i}", edges)
        begin = at = 0
        for j, column in enumerate(step.edges):
            e, x, to = _moved(table, begin), f"{sources[0]}[{j}]", _moved(out, at)
            self._call("piecewise", len(column) - 1, e, x, to)
            begin += len(column)
            at += len(column) - 1

    # -- what they are made of

    @property
    def _fma(self) -> str:
        return "fmaf" if self.real == "float" else "fma"

    def _parameters(self, offset: int, n: int) -> Array:
        return self.block[offset : offset + n]

    def _number(self, value: Any) -> str:
        """A number of the model's type, exact."""
        return _literals(np.array([value]).astype(self.block.dtype))[0]

    def _call(self, function: str, *arguments: object) -> None:
        self.needed.add(function)
        self.calls.append(f"    {self.name}_{function}({', '.join(map(str, arguments))});\n")

    def _each(self, n: int, body: str) -> None:
        self.calls.append(f"    for (j = 0; j < {n}; j++) {body}\n")

    def _copy(self, n: int, source: str, out: str, at: int = 0) -> None:
        self._each(n, f"{out}[{f'{at} + ' if at else ''}j] = {source}[j];")

    def _take(self, table: str, columns: list[int], source: str, out: str) -> None:
        """out[j] = source[columns[j]]."""
        if columns == list(range(columns[0], columns[0] + len(columns))):
            first = f"{columns[0]} + " if columns[0] else ""
            self._each(len(columns), f"{out}[j] = {source}[{first}j];")
            return
        where = self._table(table, np.array(columns, np.min_scalar_type(max(columns))))
        self._each(len(columns), f"{out}[j] = {source}[{where}[j]];")

    def _table(self, table: str, values: Array) -> str:
        """A constant array, and the C name that it got."""
        name = f"{self.name}_{table}"
        kind = self.real if values.dtype.kind == "f" else _INTEGERS[values.itemsize]
        words = _literals(values) if values.dtype.kind == "f" else list(map(str, values.tolist()))
        lines, line = [], "   "
        for word in words:
            if len(line) + len(word) + 2 > _LINE:
                lines.append(line)
                line = "   "
            line += f" {word},"
        lines.append(line)
        body = "\n".join(lines)
        self.tables.append(f"static const {kind} {name}[{len(words)}] = {{\n{body}\n}};\n")
        self.constant_bytes += values.nbytes
        return name


def _moved(pointer: str, by: int) -> str:
    return f"{pointer} + {by}" if by else pointer


def _literals(values: Array) -> list[str]:
    """Numbers as C reads them back to the bit."""
    suffix = "f" if values.dtype == np.float32 else ""
    return [_literal(value, suffix) for value in values.ravel().tolist()]


def _literal(value: float, suffix: str) -> str:
    if math.isfinite(value):
        if value == int(value) and abs(value) < 1e6:
            return f"{value:.1f}{suffix}"
        mantissa, exponent = value.hex().split("p")
        return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}{suffix}"
    real = "(float)" if suffix else "(double)"
    return f"{real}NAN" if math.isnan(value) else f"{'-' if value < 0 else ''}{real}INFINITY"


# ---------------------------------------------------------------- words around the code


@dataclass(frozen=True)
class _Facts:
    real: str
    name: str
    n_in: int
    n_out: int
    link: str | None
    version: str
    microcontroller: bool


_GUARDS = """\
/* Each rounding is the library's: no multiplication may melt into an addition. */
#if defined(__FAST_MATH__)
#error "-ffast-math changes the results"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

"""

_LINKS = {
    "softmax": "Outputs are logits: their softmax are probabilities.",
    "sigmoid": "Outputs are logits: their sigmoid are probabilities.",
}


def _about(facts: _Facts, buffer_bytes: int, constant_bytes: int, n_buffers: int, *, in_header: bool) -> str:
    """The comment that a file begins with."""
    lines = [f"{facts.name}: {facts.n_in} numbers in, {facts.n_out} out; written by fastnn {facts.version}."]
    if in_header:
        lines += [
            "",
            "Results have the bits of model.predict (of a NaN, that it is one) where arithmetic is IEEE 754",
            "in the type itself: gcc and clang on x86-64, on aarch64, on Arm with a unit for the type.",
            "Products are fused multiply-adds: on x86-64 compile with -O2 -mfma (or -march=native); aarch64",
            "always has them. Without them in hardware each is a call of the C library: the same bits if its",
            "fma rounds once, as the standard says, but many times slower. Link with -lm.",
        ]
        if facts.microcontroller:
            buffers = "one buffer" if n_buffers == 1 else f"{n_buffers or 'no'} buffers"
            lines += [
                "",
                f"Flash: {constant_bytes} bytes of constants, and the code.",
                f"RAM: {buffer_bytes} bytes, static, in {buffers}; the stack holds some dozens of numbers.",
                "One row goes through at a time. Not for two threads, or an interrupt, at once.",
            ]
        else:
            lines += [
                "",
                f"{constant_bytes} bytes of constants, {buffer_bytes} bytes of buffers on the stack; nothing",
                "is kept between calls, so that any number of threads may call at once.",
            ]
        if facts.link is not None:
            lines += ["", _LINKS.get(facts.link, f"predict_proba applies {facts.link}.")]
    return "\n".join(["/* " + lines[0], *(f" * {line}".rstrip() for line in lines[1:])]) + " */\n"


def _header(facts: _Facts, buffer_bytes: int, constant_bytes: int, n_buffers: int) -> str:
    upper = facts.name.upper()
    about = _about(facts, buffer_bytes, constant_bytes, n_buffers, in_header=True)
    return f"""\
{about}#ifndef {upper}_H
#define {upper}_H

#include <stddef.h>

#define {upper}_INPUTS {facts.n_in}
#define {upper}_OUTPUTS {facts.n_out}

#ifdef __cplusplus
extern "C" {{
#endif

/* x (rows, {facts.n_in}), out (rows, {facts.n_out}), row after row; they must not overlap. */
void {facts.name}_predict(const {facts.real} *x, {facts.real} *out, ptrdiff_t rows);

#ifdef __cplusplus
}}
#endif

#endif
"""
