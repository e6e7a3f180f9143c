"""The three products of a training step on one thread, by shape: the way they go, share of the FMA peak.

Beside OpenBLAS on one thread. The peak is that of the best product of this run, which is a lower bound of the
machine's. Results are compared with float64 before anything is timed.
"""

import timing

arguments = timing.start(__doc__)

import numpy as np  # noqa: E402

import fastnn as fn  # noqa: E402
from fastnn import kernels  # noqa: E402

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
            lambda: kernels.matmul(xt, dz, None, "identity", dw),
        ),
    )


def measure(dtype):
    """Rows (label, path, timings, error, GFLOP/s) of all shapes in one real type."""
    rows = []
    for batch, n_in, n_out in SHAPES:
        for name, path, (a, b, out), call in products(batch, n_in, n_out, dtype):
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
                    "OpenBLAS", lambda a=a, b=b, peer=peer: np.matmul(a, b, out=peer), threads=1
                ),
            ]
            timings = timing.compare(contenders, arguments)
            rate = 2e-9 * batch * n_in * n_out / timings["fastnn"].median
            label = f"{np.dtype(dtype).name}, {name}, {batch} x {n_in} x {n_out}"
            rows.append((label, path, timings, error, rate))
    return rows


def main():
    fn.set_num_threads(1)
    notes = [
        "`share` is of the best rate of one type in this run. Timed through Python: small sizes show a call."
    ]
    report = timing.Report("products", "Products, one thread", arguments, notes)
    for dtype in REALS:
        rows = measure(dtype)
        peak = max(rate for *_, rate in rows)
        for label, path, timings, error, rate in rows:
            report.add(
                label, timings, error, path=path, gflops=f"{rate:.3g}", share=f"{100 * rate / peak:.0f} %"
            )
    report.save()


if __name__ == "__main__":
    main()
