"""The three products of a training step by shape: path, share of the FMA peak, OpenBLAS beside them.

On one thread, and on all from 4 MFLOP on. The peak is that of a loop of FMAs in registers on as many threads,
the best of one look at it before every shape. Results are compared with float64 before anything is timed.
`inside` is the share that is left when the cost of a call from Python, a product of 1 x 1 x 1, is taken off.
"""

import timing

arguments = timing.start(__doc__)

import numpy as np  # noqa: E402

import fastnn as fn  # noqa: E402
from fastnn import kernels  # noqa: E402
from fastnn.bench.limits import fma_peak  # noqa: E402

# (batch, n_in, n_out): squares, then layers of the networks of bench_training, narrow ones and small batches.
SQUARES = [(n, n, n) for n in (64, 128, 256, 512, 1024)]
LAYERS = [
    (32, 64, 64),
    (32, 100, 256),
    (256, 100, 256),
    (256, 256, 128),
    (32, 784, 128),
    (128, 784, 128),
    (64, 784, 512),
    (256, 784, 512),
    (256, 512, 512),
    (256, 4096, 1000),
]
NARROW = [(256, 128, 1), (256, 128, 3), (256, 128, 10), (1, 512, 512), (8, 512, 512)]
SHAPES = SQUARES[:2] + NARROW[:2] if arguments.quick else SQUARES + LAYERS + NARROW
# Sums of up to 4096 terms, in units of the largest result.
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}
# From here on a product is asked to use all cores.
TEAM_FLOPS = 4e6
REALS = (np.float32,) if arguments.quick else (np.float32, np.float64)

random = np.random.default_rng(0)


def padded(rows, columns, dtype):
    """Rows as the program keeps them: whole cache lines, never a multiple of 4096 bytes apart."""
    line = 64 // np.dtype(dtype).itemsize
    width = -(-columns // line) * line
    width += line if width * np.dtype(dtype).itemsize % 4096 == 0 else 0
    return random.standard_normal((rows, width)).astype(dtype)[:, :columns]


def products(batch, n_in, n_out, dtype):
    """Of each product: name, path, arrays, fastnn's call."""
    x, dz, w = padded(batch, n_in, dtype), padded(batch, n_out, dtype), padded(n_in, n_out, dtype).copy()
    z, dx, dw = padded(batch, n_out, dtype), padded(batch, n_in, dtype), np.empty_like(w)
    xt, size = x.T, np.dtype(dtype).itemsize
    return (
        (
            "x w",
            kernels.product_path(batch, n_out, n_in, itemsize=size),
            (x, w, z),
            lambda: kernels.matmul(x, w, None, "identity", z),
        ),
        (
            "dz wT",
            kernels.product_path(batch, n_in, n_out, itemsize=size, b_is_transposed=True),
            (dz, w.T, dx),
            lambda: kernels.linear_input_gradient(dz, w, dx),
        ),
        (
            "xT dz",
            kernels.product_path(n_in, n_out, batch, itemsize=size, a_is_transposed=True),
            (xt, dz, dw),
            lambda: kernels.linear_weight_gradient(x, dz, dw),
        ),
    )


def call_seconds(dtype):
    """What each of the three products costs where there is nothing to compute."""
    calls = (call for *_, call in products(1, 1, 1, dtype))
    return [timing.compare([timing.Contender("call", call)], arguments)["call"].median for call in calls]


def measure(dtype, threads):
    """Rows (label, path, timings, error, FLOP/s, that without the call) of all shapes in a type; the peak."""
    rows, peak, size = [], 0.0, np.dtype(dtype).itemsize
    costs = call_seconds(dtype)
    fn.set_num_threads(threads)
    for batch, n_in, n_out in SHAPES:
        flops = 2 * batch * n_in * n_out
        if threads > 1 and flops < TEAM_FLOPS:
            continue
        peak = max(peak, fma_peak(arguments.seconds, threads, size))
        for cost, (name, path, (a, b, out), call) in zip(
            costs, products(batch, n_in, n_out, dtype), strict=True
        ):
            peer = out.copy()
            call()
            np.matmul(a, b, out=peer)
            exact = a.astype(np.float64) @ b.astype(np.float64)
            error = max(
                timing.agree(f"{name}, fastnn", out, exact, TOLERANCE[dtype]),
                timing.agree(f"{name}, NumPy", peer, exact, TOLERANCE[dtype]),
            )
            contenders = [
                timing.Contender("fastnn", call),
                timing.Contender(
                    "OpenBLAS", lambda a=a, b=b, peer=peer: np.matmul(a, b, out=peer), threads=threads
                ),
            ]
            timings = timing.compare(contenders, arguments)
            label = f"{np.dtype(dtype).name}, {threads}T, {name}, {batch} x {n_in} x {n_out}"
            taken = timings["fastnn"].median
            rows.append((label, path, timings, error, flops / taken, flops / max(taken - cost, 1e-9)))
    return rows, peak


def main():
    notes = ["Rows x n_in x n_out of the layer. Timed through Python: small sizes show a call."]
    report = timing.Report("products", "The products of a training step", arguments, notes)
    counts = sorted({1, fn.get_num_threads()})
    for dtype in REALS:
        for threads in counts:
            rows, peak = measure(dtype, threads)
            for label, path, timings, error, rate, inside in rows:
                report.add(
                    label,
                    timings,
                    error,
                    path=path,
                    gflops=f"{rate / 1e9:.3g}",
                    share=f"{100 * rate / peak:.0f} %",
                    inside=f"{100 * inside / peak:.0f} %",
                )
    report.save()


if __name__ == "__main__":
    main()
