"""Single kernels through `fastnn.ops` beside in-place NumPy: products, functions of numbers, softmax, Adam.

All activations beside tanh: bench_activations.py; all optimizers beside memory: bench_updates.py.
"""

import timing

arguments = timing.start(__doc__)

import numpy as np  # noqa: E402

import fastnn as fn  # noqa: E402
from fastnn import kernels, ops  # noqa: E402
from fastnn.bench.limits import fma_peak  # noqa: E402

# (batch, n_in, n_out) of layers in the networks of bench_training, single rows, and squares.
SHAPES = (
    (16, 4, 16),
    (32, 64, 64),
    (32, 64, 10),
    (128, 784, 128),
    (128, 128, 10),
    (256, 100, 256),
    (256, 256, 128),
    (256, 128, 1),
    (256, 784, 512),
    (256, 512, 512),
    (1, 784, 128),
    (512, 512, 512),
    (1024, 1024, 1024),
)
ELEMENTS = (1_000, 100_000)
# float32 against float64: sums of up to 1024 terms in units of the largest result; functions of one
# number are within a few units of the last place.
PRODUCT_TOLERANCE, ELEMENT_TOLERANCE = 1e-5, 1e-6

random = np.random.default_rng(0)


def normal(*shape):
    return random.standard_normal(shape, np.float32)


def with_numpy(fastnn_call, numpy_call):
    return [
        timing.Contender("fastnn", fastnn_call),
        timing.Contender("NumPy 1 thread", numpy_call, threads=1),
        timing.Contender("NumPy 2 threads", numpy_call, threads=2),
    ]


def products(batch, n_in, n_out):
    """Of each product: name, both results, float64 reference, fastnn's call, NumPy's call."""
    x, w, b, dz = normal(batch, n_in), normal(n_in, n_out), normal(n_out), normal(batch, n_out)
    x64, w64, dz64 = x.astype(np.float64), w.astype(np.float64), dz.astype(np.float64)
    out, peer = np.empty((batch, n_out), np.float32), np.empty((batch, n_out), np.float32)
    dw, dw_peer = np.empty_like(w), np.empty_like(w)
    dx, dx_peer = np.empty_like(x), np.empty_like(x)

    def forward():
        np.matmul(x, w, out=peer)
        np.add(peer, b, out=peer)
        np.maximum(peer, 0, out=peer)

    return (
        (
            "forward",
            out,
            peer,
            np.maximum(x64 @ w64 + b, 0),
            lambda: ops.linear(x, w, b, activation="relu", out=out),
            forward,
        ),
        (
            "dw",
            dw,
            dw_peer,
            x64.T @ dz64,
            lambda: ops.matmul(x.T, dz, out=dw),
            lambda: np.matmul(x.T, dz, out=dw_peer),
        ),
        (
            "dx",
            dx,
            dx_peer,
            dz64 @ w64.T,
            lambda: kernels.linear_input_gradient(dz, w, dx),
            lambda: np.matmul(dz, w.T, out=dx_peer),
        ),
    )


def bench_products(report, peak):
    for batch, n_in, n_out in SHAPES[:8] if arguments.quick else SHAPES:
        for name, result, peer, reference, call, numpy_call in products(batch, n_in, n_out):
            call()
            numpy_call()
            error = max(
                timing.agree(f"{name}, fastnn", result, reference, PRODUCT_TOLERANCE),
                timing.agree(f"{name}, NumPy", peer, reference, PRODUCT_TOLERANCE),
            )
            timings = timing.compare(with_numpy(call, numpy_call), arguments)
            rate = 2 * batch * n_in * n_out / timings["fastnn"].median / 1e9
            report.add(
                f"{name} {batch} x {n_in} x {n_out}",
                timings,
                error,
                gflops=f"{rate:.3g}",
                share=f"{100 * rate / peak:.0f} %",
            )


def sigmoid_in_place(z, out):
    np.negative(z, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    np.reciprocal(out, out=out)


def softmax_in_place(z, out, column):
    np.max(z, axis=1, keepdims=True, out=column)
    np.subtract(z, column, out=out)
    np.exp(out, out=out)
    np.sum(out, axis=1, keepdims=True, out=column)
    np.divide(out, column, out=out)


def bench_elements(report):
    """Functions of one number, and softmax over rows of ten."""
    for n in ELEMENTS:
        z = normal(n)
        table, column = normal(n // 10, 10), np.empty((n // 10, 1), np.float32)
        for name, x, call, numpy_call, exact in (
            ("exp", z, ops.exp, lambda z, out: np.exp(z, out=out), np.exp),
            ("tanh", z, ops.tanh, lambda z, out: np.tanh(z, out=out), np.tanh),
            ("sigmoid", z, ops.sigmoid, sigmoid_in_place, lambda z: 1 / (1 + np.exp(-z))),
            ("relu", z, ops.relu, lambda z, out: np.maximum(z, 0, out=out), lambda z: np.maximum(z, 0)),
            (
                "softmax of 10",
                table,
                ops.softmax,
                lambda z, out, column=column: softmax_in_place(z, out, column),
                lambda z: np.exp(z) / np.exp(z).sum(axis=1, keepdims=True),
            ),
        ):
            out, peer = np.empty_like(x), np.empty_like(x)
            call(x, out=out)
            numpy_call(x, peer)
            reference = exact(x.astype(np.float64))
            error = max(
                timing.agree(f"{name}, fastnn", out, reference, ELEMENT_TOLERANCE),
                timing.agree(f"{name}, NumPy", peer, reference, ELEMENT_TOLERANCE),
            )
            contenders = [
                timing.Contender("fastnn", lambda call=call, x=x, out=out: call(x, out=out)),
                timing.Contender(
                    "NumPy 1 thread", lambda call=numpy_call, x=x, peer=peer: call(x, peer), threads=1
                ),
            ]
            timings = timing.compare(contenders, arguments)
            report.add(
                f"{name}, {x.size:,}", timings, error, ns=f"{timings['fastnn'].median / x.size * 1e9:.3f}"
            )


class NumpyAdam:
    """Adam in place, as PyTorch writes it."""

    def __init__(self, n, dtype=np.float32):
        self.w, self.m, self.v, self.a, self.b = (np.zeros(n, dtype) for _ in range(5))

    def step(self, g, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
        np.subtract(g, self.m, out=self.a)
        np.multiply(self.a, 1 - beta1, out=self.a)
        np.add(self.m, self.a, out=self.m)
        np.multiply(g, g, out=self.a)
        np.multiply(self.a, 1 - beta2, out=self.a)
        np.multiply(self.v, beta2, out=self.v)
        np.add(self.v, self.a, out=self.v)
        np.sqrt(self.v, out=self.a)
        np.multiply(self.a, 1 / (1 - beta2**t) ** 0.5, out=self.a)
        np.add(self.a, eps, out=self.a)
        np.divide(self.m, self.a, out=self.b)
        np.multiply(self.b, lr / (1 - beta1**t), out=self.b)
        np.subtract(self.w, self.b, out=self.w)


def bench_adam(report):
    for n in ELEMENTS:
        g = normal(n)
        w, m, v = (np.zeros(n, np.float32) for _ in range(3))
        peer, reference = NumpyAdam(n), NumpyAdam(n, np.float64)
        for t in (1, 2, 3):
            ops.adam_update(w, g, m, v, step=t)
            peer.step(g, t)
            reference.step(g.astype(np.float64), t)
        # A sum of three steps of nearly lr each; float32 rounds every one.
        error = max(
            timing.agree("adam, fastnn", w, reference.w, 1e-5),
            timing.agree("adam, NumPy", peer.w, reference.w, 1e-5),
        )
        contenders = [
            timing.Contender("fastnn", lambda g=g, w=w, m=m, v=v: ops.adam_update(w, g, m, v, step=10)),
            timing.Contender("NumPy 1 thread", lambda peer=peer, g=g: peer.step(g, 10), threads=1),
        ]
        timings = timing.compare(contenders, arguments)
        report.add(f"adam, {n:,}", timings, error, ns=f"{timings['fastnn'].median / n * 1e9:.3f}")


def main():
    threads = fn.get_num_threads()
    peak = fma_peak(max(arguments.seconds, 0.1), threads) / 1e9
    report = timing.Report(
        "kernels",
        "Single kernels, float32",
        arguments,
        [
            f"`share` is of {peak:.0f} GFLOP/s, a loop of FMAs in registers on {threads} threads. forward is "
            "x @ w + b with ReLU, dw is xᵀ @ dz, dx is dz @ wᵀ. Both sides are timed through Python, so "
            "small sizes show the cost of a call.",
        ],
    )
    bench_products(report, peak)
    bench_elements(report)
    bench_adam(report)
    report.save()


if __name__ == "__main__":
    main()
