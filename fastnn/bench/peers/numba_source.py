"""Source of a whole epoch, and of a forward pass, for Numba: one function for one network, widths written in.

Two ways, as a careful hand writes them: all loops (tiny networks: no call of a BLAS at all), and `np.dot` with
loops around it. Widths and batch are numbers in the source, so the compiler knows every trip count.
"""

from __future__ import annotations

from ..cells import LR, Cell

__all__ = ["epoch", "forward"]

# Terms added in one pass over a row of outputs: fewer passes, fewer loads and stores of the sums. 8 was no
# faster than 4, 2 slower.
TERMS = 4


def _indent(lines: list[str], by: int) -> list[str]:
    return [" " * 4 * by + line for line in lines]


def _loops(counter: str, begin: str, end: str, body: list[str]) -> list[str]:
    return [f"for {counter} in range({begin}, {end}):", *_indent(body, 1)]


def _sums(out: str, n_out: int, n_terms: int, factor: str, row: str, index: str) -> list[str]:
    """`out[j] += factor(index) * row(index, j)` for all j, several terms of `index` in one pass."""
    whole = n_terms - n_terms % TERMS
    lines = []
    if whole:
        names = [f"{index} + {t}" for t in range(TERMS)]
        body = [f"f{t} = {factor.format(name)}" for t, name in enumerate(names)]
        terms = " + ".join(f"f{t} * {row.format(name)}" for t, name in enumerate(names))
        body += _loops("j", "0", str(n_out), [f"{out} += {terms}"])
        lines += [f"for {index} in range(0, {whole}, {TERMS}):", *_indent(body, 1)]
    if whole < n_terms:
        body = [
            f"f0 = {factor.format(index)}",
            *_loops("j", "0", str(n_out), [f"{out} += f0 * {row.format(index)}"]),
        ]
        lines += _loops(index, str(whole), str(n_terms), body)
    return lines


def _loss(cell: Cell, z: str, dz: str) -> list[str]:
    """Gradient of the mean loss at the outputs of row r; label or value of the row is y[i]."""
    n = cell.sizes[-1]
    if cell.loss == "mse":
        return [f"{dz}[r, 0] = ({z}[r, 0] - y[i, 0]) * np.float32({2 / cell.batch!r})"]
    scale = f"np.float32({1 / cell.batch!r})"
    return [
        f"top = {z}[r, 0]",
        *_loops("j", "1", str(n), [f"top = max(top, {z}[r, j])"]),
        "total = np.float32(0)",
        *_loops("j", "0", str(n), [f"e = math.exp({z}[r, j] - top)", f"{dz}[r, j] = e", "total += e"]),
        f"total = {scale} / total",
        *_loops("j", "0", str(n), [f"{dz}[r, j] *= total"]),
        f"{dz}[r, y[i]] -= {scale}",
    ]


def _names(cell: Cell, training: bool) -> str:
    layers = range(len(cell.pairs))
    names = [name for i in layers for name in (f"w{i}", f"b{i}")] + [f"a{i}" for i in layers]
    if training:
        names += [f"d{i}" for i in layers] + [f"g{i}" for i in layers] + ["xb"]
    return ", ".join(names)


def _row_forward(cell: Cell, first: str) -> list[str]:
    """All layers of row r; `first` is the row of the input."""
    lines, last = [], len(cell.pairs) - 1
    for i, (n_in, n_out) in enumerate(cell.pairs):
        below = first if i == 0 else f"a{i - 1}[r, {{0}}]"
        lines += _loops("j", "0", str(n_out), [f"a{i}[r, j] = b{i}[j]"])
        lines += _sums(f"a{i}[r, j]", n_out, n_in, below, f"w{i}[{{0}}, j]", "k")
        if i < last:
            lines += _loops("j", "0", str(n_out), [f"a{i}[r, j] = max(a{i}[r, j], np.float32(0))"])
    return lines


def _loops_step(cell: Cell) -> list[str]:
    """One step without a BLAS."""
    pairs = cell.pairs
    row = ["i = order[s, r]", *_loops("k", "0", str(pairs[0][0]), ["xb[r, k] = x[i, k]"])]
    row += _row_forward(cell, "xb[r, {0}]")
    last = len(pairs) - 1
    row += _loss(cell, f"a{last}", f"d{last}")
    for i in range(last, 0, -1):
        n_in, n_out = pairs[i]
        body = [
            "total = np.float32(0)",
            *_loops("j", "0", str(n_out), [f"total += d{i}[r, j] * w{i}[k, j]"]),
            f"d{i - 1}[r, k] = total if a{i - 1}[r, k] > 0 else np.float32(0)",
        ]
        row += _loops("k", "0", str(n_in), body)
    lines = _loops("r", "0", str(cell.batch), row)
    rate = f"np.float32({LR!r})"
    for i, (n_in, n_out) in enumerate(pairs):
        below = "xb" if i == 0 else f"a{i - 1}"
        if cell.batch == 1:
            update = [
                f"f0 = {below}[0, k] * {rate}",
                *_loops("j", "0", str(n_out), [f"w{i}[k, j] -= f0 * d{i}[0, j]"]),
            ]
        else:
            update = [
                *_loops("j", "0", str(n_out), [f"g{i}[0, j] = 0"]),
                *_sums(f"g{i}[0, j]", n_out, cell.batch, f"{below}[{{0}}, k]", f"d{i}[{{0}}, j]", "r"),
                *_loops("j", "0", str(n_out), [f"w{i}[k, j] -= {rate} * g{i}[0, j]"]),
            ]
        lines += _loops("k", "0", str(n_in), update)
        lines += _loops(
            "r", "0", str(cell.batch), _loops("j", "0", str(n_out), [f"b{i}[j] -= {rate} * d{i}[r, j]"])
        )
    return lines


def _dot_forward(cell: Cell, first: str) -> list[str]:
    lines, last = [], len(cell.pairs) - 1
    for i, (_, n_out) in enumerate(cell.pairs):
        lines.append(f"np.dot({first if i == 0 else f'a{i - 1}'}, w{i}, a{i})")
        value = f"a{i}[r, j] + b{i}[j]"
        value = f"max({value}, np.float32(0))" if i < last else value
        body = _loops("j", "0", str(n_out), [f"a{i}[r, j] = {value}"])
        lines += _loops("r", "0", str(cell.batch), body)
    return lines


def _dot_step(cell: Cell) -> list[str]:
    """One step with `np.dot`, everything else in loops."""
    pairs, last, rate = cell.pairs, len(cell.pairs) - 1, f"np.float32({LR!r})"
    gather = ["i = order[s, r]", *_loops("k", "0", str(pairs[0][0]), ["xb[r, k] = x[i, k]"])]
    lines = _loops("r", "0", str(cell.batch), gather) + _dot_forward(cell, "xb")
    lines += _loops("r", "0", str(cell.batch), ["i = order[s, r]", *_loss(cell, f"a{last}", f"d{last}")])
    for i in range(last, -1, -1):
        n_in, n_out = pairs[i]
        lines.append(f"np.dot({'xb' if i == 0 else f'a{i - 1}'}.T, d{i}, g{i})")
        if i:
            lines.append(f"np.dot(d{i}, w{i}.T, d{i - 1})")
            kept = [f"d{i - 1}[r, k] = d{i - 1}[r, k] if a{i - 1}[r, k] > 0 else np.float32(0)"]
            lines += _loops("r", "0", str(cell.batch), _loops("k", "0", str(n_in), kept))
        lines += _loops("k", "0", str(n_in), _loops("j", "0", str(n_out), [f"w{i}[k, j] -= {rate} * g{i}[k, j]"]))
        lines += _loops(
            "r", "0", str(cell.batch), _loops("j", "0", str(n_out), [f"b{i}[j] -= {rate} * d{i}[r, j]"])
        )
    return lines


def epoch(cell: Cell, dots: bool) -> str:
    """A function `epoch(x, y, order, ...)`: all steps of an order."""
    step = (_dot_step if dots else _loops_step)(cell)
    lines = [f"def epoch(x, y, order, {_names(cell, True)}):"]
    return "\n".join([*lines, *_indent(_loops("s", "0", "order.shape[0]", step), 1), ""])


def forward(cell: Cell, dots: bool) -> str:
    """A function `forward(x, ...)` that fills the last of its arrays."""
    body = _dot_forward(cell, "x") if dots else _loops("r", "0", str(cell.batch), _row_forward(cell, "x[r, {0}]"))
    return "\n".join([f"def forward(x, {_names(cell, False)}):", *_indent(body, 1), ""])
