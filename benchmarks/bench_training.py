"""One mini-batch step (gather, forward, loss, backward, SGD) in fastnn, NumPy and scikit-learn."""

import timing

arguments = timing.start(__doc__)

import numpy as np  # noqa: E402
import peers  # noqa: E402

ROWS = 4096
# Steps after which all weights are compared with those of a float64 run.
CHECKED_STEPS = 16
# float32 after 16 steps: a few hundred roundings of relative size 6e-8, in units of the largest weight.
TOLERANCE = 2e-5


def checked(net, x, y):
    """Largest error of all weights after a few steps from the same start; a large one ends the run."""
    order = peers.order(net, ROWS, CHECKED_STEPS)
    reference = peers.numpy_network(net, "float64")
    reference.run(x.astype(np.float64), y if net.loss == "cross_entropy" else y.astype(np.float64), order)

    trainer = peers.fastnn_trainer(net)
    trainer.run(x, y, order)
    network = peers.numpy_network(net)
    network.run(x, y, order)
    gathered = order.ravel()
    estimator = peers.SklearnNetwork(net, x[gathered], y[gathered], shuffle=False)
    estimator.epoch()
    results = {"fastnn": trainer.model, "NumPy": network, "scikit-learn": estimator}
    return max(
        timing.agree(f"{net.name}, {name}", trained.parameters, reference.parameters, TOLERANCE)
        for name, trained in results.items()
    )


def contenders(net, x, y, steps):
    """Calls of `steps` steps each."""
    order = peers.order(net, ROWS, steps)
    trainer, network = peers.fastnn_trainer(net), peers.numpy_network(net)
    estimator = peers.SklearnNetwork(net, x[: steps * net.batch], y[: steps * net.batch])
    return [
        timing.Contender("fastnn", lambda: trainer.run(x, y, order)),
        timing.Contender("NumPy 1 thread", lambda: network.run(x, y, order), threads=1),
        timing.Contender("NumPy 2 threads", lambda: network.run(x, y, order), threads=2),
        timing.Contender("scikit-learn", estimator.epoch, threads=2),
    ]


def main():
    report = timing.Report(
        "training",
        "One training step",
        arguments,
        [
            f"Weights of all contenders after {CHECKED_STEPS} steps agree with a float64 run. `speedup` is "
            "the time of the better NumPy thread count over fastnn's. scikit-learn's step holds its own "
            "shuffle and bookkeeping.",
        ],
    )
    for net in peers.NETS:
        x, y = peers.data(net, ROWS)
        error = checked(net, x, y)
        steps = min(ROWS // net.batch, 4 if arguments.quick else ROWS)
        timings = timing.compare(contenders(net, x, y, steps), arguments)
        for one in timings.values():
            one.median, one.quartiles = one.median / steps, tuple(q / steps for q in one.quartiles)
        best = min(timings[f"NumPy {n}"].ratio for n in ("1 thread", "2 threads"))
        rate = net.flops / timings["fastnn"].median / 1e9
        report.add(net.name, timings, error, speedup=f"{best:.2f}", gflops=f"{rate:.3g}")
    report.save()


if __name__ == "__main__":
    main()
