"""Every activation of numbers beside tanh, with the slope that training keeps of some, and backward.

A new one is to cost at most 1.5 times tanh a vector, on each instruction set. All take turns in one run; a
call goes over the same 40 KB many times, so that what is timed is the kernel, not the call from Python.
"""

import timing

arguments = timing.start(__doc__)

import numpy as np  # noqa: E402

from fastnn import kernels  # noqa: E402
from fastnn.devices import array_activations  # noqa: E402

ELEMENTS = 10_000  # of which all arrays are in L1 and L2
ROWS = 1 if arguments.quick else 64
arguments.seconds = min(arguments.seconds, 0.03)
BOUND = 1.5
# A few units of the last place of the largest result, about 4.
TOLERANCE = {np.float32: 1e-6, np.float64: 1e-14}

random = np.random.default_rng(0)


def repeated(row):
    """ROWS rows that are one and the same; each is written over the one before."""
    return np.lib.stride_tricks.as_strided(row, (ROWS, row.size), (0, row.itemsize))


def contenders_of(name, z, a, slope, da):
    """What is timed of an activation: its name alone is f(z)."""
    yield timing.Contender(name, lambda: kernels.activation(name, z, a))
    yield timing.Contender(f"{name} back", lambda: kernels.activation_backward(name, a, da, slope))
    if kernels.ACTIVATIONS[name] == "from_input":
        yield timing.Contender(f"{name} slope", lambda: kernels.activation_and_slope(name, z, a, slope))


def measure(report, isa, dtype):
    """Rows of all activations in one type on one instruction set, which must be the active one."""
    z = random.standard_normal(ELEMENTS).astype(dtype)
    a, slope, da = np.empty_like(z), np.empty_like(z), random.standard_normal(ELEMENTS).astype(dtype)
    names = [
        "tanh",
        *(name for name, kind in kernels.ACTIVATIONS.items() if kind != "rowwise" and name != "tanh"),
    ]
    errors = {}
    for name in names:
        exact = z.astype(np.float64)
        array_activations.ACTIVATIONS[name][0](np, exact)
        kernels.activation(name, z, a)
        errors[name] = timing.agree(f"{name}, {isa}", a, exact, TOLERANCE[dtype])
    # Backward reads a and the slope: a gate in (0, 1) for all.
    kernels.activation_and_slope("silu", z, a, slope)
    rows = [repeated(row) for row in (z, a, slope, da)]
    contenders = [one for name in names for one in contenders_of(name, *rows)]
    found = timing.compare(contenders, arguments)
    over = []
    for name in names:
        share = found[name].ratio
        over += [name] if share > BOUND else []
        with_slope = found.get(f"{name} slope")
        report.add(
            f"{name}, {np.dtype(dtype).name}, {isa}",
            {"fastnn": found[name]},
            errors[name],
            ns=f"{found[name].median / rows[0].size * 1e9:.3f}",
            of_tanh=f"{share:.2f}",
            with_slope="" if with_slope is None else f"{with_slope.ratio:.2f}",
            backward=f"{found[f'{name} back'].ratio:.2f}",
        )
    return over


def main():
    report = timing.Report(
        "activations",
        "Activations of 10,000 numbers beside tanh",
        arguments,
        [
            "`ns` a number; `of_tanh`, `with_slope` (f and f' together), `backward` in units of tanh's "
            f"time, paired by round. The bound is {BOUND} for `of_tanh`. A call goes over them {ROWS} times.",
        ],
    )
    before, over = kernels.isa(), []
    available = kernels.isa_available()
    for isa in available[-1:] if arguments.quick else available[1:] or available:
        kernels.set_isa(isa)
        for dtype in (np.float32, np.float64):
            over += [f"{name} ({np.dtype(dtype).name}, {isa})" for name in measure(report, isa, dtype)]
    kernels.set_isa(before)
    report.notes.append(f"Above the bound: {', '.join(over) or 'none'}.")
    report.save()


if __name__ == "__main__":
    main()
