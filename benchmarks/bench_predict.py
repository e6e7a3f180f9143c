"""Prediction of 1 to 4096 rows: fastnn's predict and its compiled handle, NumPy in place, scikit-learn."""

import timing

arguments = timing.start(__doc__)

import numpy as np  # noqa: E402
import peers  # noqa: E402

ROWS = (1, 16, 256, 4096)
# float32 products of at most 784 terms.
TOLERANCE = 1e-5


def softmax(z):
    """In float64, by rows."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def case(net, rows):
    """Contenders, and the largest error of their results."""
    x, _ = peers.data(net, rows, seed=3)
    model = peers.fastnn_trainer(net).model
    handle = model.compile()
    out = np.empty((rows, net.sizes[-1]), np.float32)
    network = peers.numpy_network(net, batch=rows)
    few = peers.data(net, net.batch)
    estimator = peers.SklearnNetwork(net, *few)

    reference = peers.numpy_network(net, "float64", batch=rows).predict(x.astype(np.float64))
    links = reference if net.loss == "mse" else softmax(reference)
    error = max(
        timing.agree(f"{net.name}, predict", model.predict(x), reference, TOLERANCE),
        timing.agree(f"{net.name}, handle", handle(x, out), reference, TOLERANCE),
        timing.agree(f"{net.name}, NumPy", network.predict(x), reference, TOLERANCE),
        timing.agree(f"{net.name}, sklearn", estimator.predict(x).reshape(links.shape), links, TOLERANCE),
    )
    return error, [
        timing.Contender("handle", lambda: handle(x, out)),
        timing.Contender("predict", lambda: model.predict(x)),
        timing.Contender("NumPy 1 thread", lambda: network.predict(x), threads=1),
        timing.Contender("NumPy 2 threads", lambda: network.predict(x), threads=2),
        timing.Contender("scikit-learn", lambda: estimator.predict(x), threads=2),
    ]


def main():
    report = timing.Report(
        "predict",
        "One call of predict",
        arguments,
        ["`handle` is `model.compile()` writing into a given array; scikit-learn gives probabilities."],
    )
    for net in peers.NETS:
        for rows in ROWS[:3] if arguments.quick else ROWS:
            error, contenders = case(net, rows)
            timings = timing.compare(contenders, arguments)
            best = min(timings[f"NumPy {n}"].ratio for n in ("1 thread", "2 threads"))
            rate = rows * net.forward_flops / timings["handle"].median / 1e9
            name = f"{'-'.join(map(str, net.sizes))}, {rows} rows"
            report.add(name, timings, error, speedup=f"{best:.2f}", gflops=f"{rate:.3g}")
    report.save()


if __name__ == "__main__":
    main()
