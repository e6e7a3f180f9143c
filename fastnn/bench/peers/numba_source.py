"""Source of a whole epoch, and of a forward pass, for Numba: one function for one network, widths written in.

Two ways, as a careful hand writes them: all loops (tiny networks: no call of a BLAS at all), and `np.dot`
with loops around it. Widths and batch are numbers in the source, so the compiler knows every trip count.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..cells import LR, Cell

__all__ = ["epoch", "forward"]

# Outputs up to which sums are scalars with names: at 64 these took 9 times as long as rows of an array.
NARROW = 16
# Terms added in one pass over a wider row of outputs: fewer passes, fewer loads and stores of the sums; one
# term at a time is what a first version would do.
TERMS = 4


def _indent(lines: list[str], by: int) -> list[str]:
    return [" " * 4 * by + line for line in lines]


def _loops(counter: str, begin: str, end: str, body: list[str]) -> list[str]:
    return [f"for {counter} in range({begin}, {end}):", *_indent(body, 1)]


@dataclass(frozen=True)
class _Sums:
    """For all j < n_out: s = begin(j); s += factor(t) * row(t, j) for all t < n_terms; end(j, s).

    The texts take {t}, {j} and {s}; `row_of_sums` is a row of an array where wide sums may lie.
    """

    n_out: int
    n_terms: int
    begin: str
    factor: str
    row: str
    end: str
    row_of_sums: str

    def lines(self) -> list[str]:
        """Narrow ones stay in registers: for all the compiler knows, a store to one array changes another."""
        if self.n_out <= NARROW:
            js = range(self.n_out)
            body = [f"f = {self.factor.format(t='t')}"]
            body += [f"s{j} += f * {self.row.format(t='t', j=j)}" for j in js]
            return [
                *(f"s{j} = {self.begin.format(j=j)}" for j in js),
                *_loops("t", "0", str(self.n_terms), body),
                *(self.end.format(j=j, s=f"s{j}") for j in js),
            ]
        n, target = str(self.n_out), self.row_of_sums.format(j="j")
        whole = self.n_terms - self.n_terms % TERMS
        return [
            *_loops("j", "0", n, [f"{target} = {self.begin.format(j='j')}"]),
            *(
                [f"for t in range(0, {whole}, {TERMS}):", *_indent(self._pass(target, TERMS), 1)]
                if whole
                else []
            ),
            *(
                _loops("t", str(whole), str(self.n_terms), self._pass(target, 1))
                if whole < self.n_terms
                else []
            ),
            *_loops("j", "0", n, [self.end.format(j="j", s=target)]),
        ]

    def _pass(self, target: str, terms: int) -> list[str]:
        at = ["t", *(f"t + {i}" for i in range(1, terms))]
        products = " + ".join(f"f{i} * {self.row.format(t=one, j='j')}" for i, one in enumerate(at))
        factors = [f"f{i} = {self.factor.format(t=one)}" for i, one in enumerate(at)]
        return [*factors, *_loops("j", "0", str(self.n_out), [f"{target} += {products}"])]


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


def _names(cell: Cell) -> str:
    """Arguments of an epoch after the data."""
    layers = range(len(cell.pairs))
    names = [name for i in layers for name in (f"w{i}", f"b{i}")]
    return ", ".join([*names, *(f"{letter}{i}" for letter in "adg" for i in layers), "xb"])


def _row_forward(cell: Cell, first: str) -> list[str]:
    """All layers of row r; `first` is the row of the input."""
    lines, last = [], len(cell.pairs) - 1
    for i, (n_in, n_out) in enumerate(cell.pairs):
        out = f"a{i}[r, {{j}}]"
        lines += _Sums(
            n_out,
            n_in,
            begin=f"b{i}[{{j}}]",
            factor=first if i == 0 else f"a{i - 1}[r, {{t}}]",
            row=f"w{i}[{{t}}, {{j}}]",
            end=f"{out} = max({{s}}, np.float32(0))" if i < last else f"{out} = {{s}}",
            row_of_sums=out,
        ).lines()
    return lines


def _loops_step(cell: Cell) -> list[str]:
    """One step without a BLAS."""
    pairs = cell.pairs
    row = ["i = order[s, r]", *_loops("k", "0", str(pairs[0][0]), ["xb[r, k] = x[i, k]"])]
    row += _row_forward(cell, "xb[r, {t}]")
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
            update = _Sums(
                n_out,
                cell.batch,
                begin="np.float32(0)",
                factor=f"{below}[{{t}}, k]",
                row=f"d{i}[{{t}}, {{j}}]",
                end=f"w{i}[k, {{j}}] -= {rate} * {{s}}",
                row_of_sums=f"g{i}[0, {{j}}]",
            ).lines()
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
        lines += _loops(
            "k", "0", str(n_in), _loops("j", "0", str(n_out), [f"w{i}[k, j] -= {rate} * g{i}[k, j]"])
        )
        lines += _loops(
            "r", "0", str(cell.batch), _loops("j", "0", str(n_out), [f"b{i}[j] -= {rate} * d{i}[r, j]"])
        )
    return lines


def epoch(cell: Cell, dots: bool) -> str:
    """A function `epoch(x, y, order, ...)`: all steps of an order."""
    step = (_dot_step if dots else _loops_step)(cell)
    lines = [f"def epoch(x, y, order, {_names(cell)}):"]
    return "\n".join([*lines, *_indent(_loops("s", "0", "order.shape[0]", step), 1), ""])


def forward(cell: Cell, dots: bool) -> str:
    """A function `forward(x, a0, a1, ...)` that fills its arrays, the last being the outputs.

    Weights and biases `w0, b0, ...` are globals, which Numba takes for constants: as arguments each would
    cost a call 0.05 µs.
    """
    loops = _loops("r", "0", str(cell.batch), _row_forward(cell, "x[r, {t}]"))
    names = ", ".join(["x", *(f"a{i}" for i in range(len(cell.pairs)))])
    return "\n".join([f"def forward({names}):", *_indent(_dot_forward(cell, "x") if dots else loops, 1), ""])
