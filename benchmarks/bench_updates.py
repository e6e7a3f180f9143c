"""Every optimizer's step beside its own traffic: share of the speed of memory that an update reaches.

The yardstick of an optimizer reads and writes the same arrays, each once, and adds a multiple of the gradient
to each (`kernels.stream`): as many streams in each direction, and next to no arithmetic. A copy, or one array
in place, would be another mix. Steps are compared with float64 before anything is timed.
"""

import timing

arguments = timing.start(__doc__)

import numpy as np  # noqa: E402

import fastnn as fn  # noqa: E402
from fastnn import kernels, ops  # noqa: E402
from fastnn.devices import array_optimizers  # noqa: E402
from fastnn.optimizers import Rule  # noqa: E402

# Vectors of 80 MB, beyond all caches.
N_BYTES = 80_000 if arguments.quick else 80_000_000
# A call is 4 to 12 ms; short rounds, for a change of the machine's load is to meet both alike.
arguments.seconds = min(arguments.seconds, 0.04)
OPTIMIZERS = {
    "sgd": fn.SGD(0.01),
    "sgd, momentum": fn.SGD(0.01, momentum=0.9),
    "sgd, nesterov, decay": fn.SGD(0.01, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "rmsprop": fn.RMSprop(),
    "rmsprop, centered": fn.RMSprop(centered=True),
    "rmsprop, centered, momentum": fn.RMSprop(centered=True, momentum=0.5),
    "adagrad": fn.Adagrad(),
    "adadelta": fn.Adadelta(),
    "adam": fn.Adam(),
    "adam, l1, clip_value": fn.Adam(l1=1e-4, clip_value=1.0),
    "amsgrad": fn.Adam(amsgrad=True),
    "adamw": fn.AdamW(),
    "adamax": fn.Adamax(),
    "nadam": fn.NAdam(),
    "radam": fn.RAdam(),
    "lion": fn.Lion(),
}
# Three steps in units of the largest weight: float32 rounds each to 6e-8, and more where a step is a quotient
# of two small numbers. float64: the same sums in another order.
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-11}
CHECKED = 1003  # whole vectors and a rest

random = np.random.default_rng(0)


def error_of(name, optimizer, dtype):
    """Largest difference of three steps of the kernel from the array code in float64."""
    w, state = random.standard_normal(CHECKED).astype(dtype), np.zeros((optimizer.n_states, CHECKED), dtype)
    exact, exact_state = w.astype(np.float64), state.astype(np.float64)
    rules = (Rule(0, CHECKED, 0, 1.0, optimizer.weight_decay, optimizer.l1, 0.0, False),)
    for t in (1, 2, 3):
        g = random.standard_normal(CHECKED).astype(dtype)
        kernels.update(optimizer, w, g, list(state), t, optimizer.lr)
        array_optimizers.update(
            np, optimizer, rules, exact, g.astype(np.float64), exact_state, optimizer.lr, t
        )
    return timing.agree(name, w, exact, TOLERANCE[dtype])


def bench(report, dtype, threads):
    """All optimizers in one type on so many threads, over one set of arrays."""
    fn.set_num_threads(threads)
    n = N_BYTES // np.dtype(dtype).itemsize
    w, g = (random.standard_normal(n, np.float32).astype(dtype) for _ in range(2))
    held = [np.zeros(n, dtype) for _ in range(3)]
    calls = {
        name: (
            optimizer.n_states,
            lambda optimizer=optimizer: kernels.update(
                optimizer, w, g, held[: optimizer.n_states], 10, optimizer.lr
            ),
        )
        for name, optimizer in OPTIMIZERS.items()
    }
    # The public face of two of them: judged by `error_of` as the others.
    calls["ops.sgd_update"] = 0, lambda: ops.sgd_update(w, g)
    calls["ops.adam_update"] = 2, lambda: ops.adam_update(w, g, held[0], held[1], step=10)
    for name, (n_states, call) in calls.items():
        known = name.removeprefix("ops.").removesuffix("_update")
        error = error_of(name, OPTIMIZERS[known], dtype)
        for state in held:
            state.fill(0)  # what another optimizer left may be no state of this one
        arrays = [w, *held[:n_states]]
        contenders = [
            timing.Contender("fastnn", call),
            timing.Contender("yardstick", lambda arrays=arrays: kernels.stream(g, arrays, 0.0)),
        ]
        timings = timing.compare(contenders, arguments)
        n_bytes = (2 * len(arrays) + 1) * N_BYTES
        report.add(
            f"{name}, {np.dtype(dtype).name}, {threads}T",
            timings,
            error,
            gb_per_s=f"{n_bytes / timings['fastnn'].median / 1e9:.1f}",
            share=f"{timings['yardstick'].ratio:.2f}",
        )


def main():
    report = timing.Report(
        "updates",
        "Steps of the optimizers over 80 MB of parameters",
        arguments,
        [
            "`share`: the yardstick's time by the optimizer's, paired by round. The yardstick reads and "
            "writes the same arrays (an optimizer of s states: s + 2 read, s + 1 written), adds a multiple "
            "of the gradient to each; above 1 it was slower itself.",
        ],
    )
    for threads in sorted({1, fn.get_num_threads()}):
        for dtype in (np.float32, np.float64):
            bench(report, dtype, threads)
    report.save()


if __name__ == "__main__":
    main()
