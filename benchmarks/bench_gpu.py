"""Training steps on a card: fastnn beside PyTorch and JAX, each as a share of what the card allows.

Data lies on the card, and CUDA events stand around the work; with JAX, which shows no stream, the clock
of the host around a wait. fastnn as it is, and with its own kernels for all products. Small nets, which
fastnn trains many steps in a launch, are there once more as captured steps; and many of them, by `fit_many`,
launched together and one after the other. PyTorch eager, compiled with max-autotune, and with its whole step
in a CUDA graph; JAX as one scan. Peers that are not installed are named and left out. The floor of a step
is the larger of its operations over the rate, and its bytes over the bandwidth, that CuPy's own product
(float32, whatever the precision of the step) and copy reach on the same card just before.

    python benchmarks/bench_gpu.py [--dry] [--quick] [--device cuda:1] [--out results/gpu.json]

--dry lists what would be measured. Without a card: exit code 2.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

import fastnn as fn
from fastnn.devices import cuda, cuda_persistent, cuda_places
from fastnn.devices.cuda_products import VARIABLE

# Widths, and rows of a batch: from a net whose launches are all of its time to one that is all products.
CELLS = [
    ((784, 128, 10), 128),
    ((784, 128, 10), 32),
    ((784, 512, 512, 10), 256),
    ((1024, 4096, 4096, 1000), 1024),
    ((1024, 4096, 4096, 1000), 8192),
    ((64, 64, 10), 32),
]
LR, ROWS = 0.01, 16384
# So many nets of the last cell at once.
MANY = (1, 16, 64, 256)
PRECISIONS = ("float32", "tf32", "bf16")
OWN = "fastnn own"  # kernels for all products
CAPTURED = "fastnn captured"  # small nets as well
PEERS = ("torch eager", "torch compiled", "torch graph", "jax scan")
# A timing of one contender takes about so long; the median of so many is told.
SECONDS, ROUNDS = 0.5, 5


def flops(widths, batch):
    """Of the products of a step: forward, weight gradients, input gradients of all layers but the first."""
    pairs = list(itertools.pairwise(widths))
    return sum(2 * batch * a * b * (3 if i else 2) for i, (a, b) in enumerate(pairs))


def least_bytes(widths, batch):
    """Each weight read and written once, each activation written and read on both ways; plain SGD."""
    parameters = sum(a * b + b for a, b in itertools.pairwise(widths))
    return 4 * (2 * parameters + batch * (2 * widths[0] + 4 * sum(widths[1:])))


def orders(batch, n_steps):
    """Row numbers, the same for all."""
    return np.random.default_rng(0).integers(0, ROWS, (n_steps, batch))


def data(widths):
    """x and labels, the same for all."""
    random = np.random.default_rng(1)
    return random.standard_normal((ROWS, widths[0]), np.float32), random.integers(0, widths[-1], ROWS)


def limits(cp):
    """Operations and bytes a second that CuPy reaches: a large float32 product, a large copy."""
    n = 8192
    a, b, c = (cp.ones((n, n), np.float32) for _ in range(3))
    return {
        "flops": 2 * n**3 / events(cp, lambda: cp.matmul(a, b, out=c), 5),
        "bytes": 2 * a.nbytes / events(cp, lambda: cp.copyto(c, a), 20),
    }


def events(cp, work, n, stream=None):
    """Seconds of one of n calls, by events on their stream; after one that is not counted."""
    stream = stream or cp.cuda.get_current_stream()
    begin, end = cp.cuda.Event(), cp.cuda.Event()
    work()
    begin.record(stream)
    for _ in range(n):
        work()
    end.record(stream)
    end.synchronize()
    return cp.cuda.get_elapsed_time(begin, end) / 1e3 / n


class Fastnn:
    """The device "cuda"; x and labels are CuPy's.

    is_own: whether no library has a product; is_captured: whether small nets are captured, too.
    """

    def __init__(self, device, widths, batch, precision, is_own, is_captured):
        cuda_persistent.MOST_FLOPS = -1 if is_captured else MOST_FLOPS
        cp = cuda.check(device)
        os.environ.pop(VARIABLE, None)
        if is_own:
            os.environ[VARIABLE] = "own"
        x, y = data(widths)
        layers = [fn.Dense(n, activation="relu") for n in widths[1:-1]]
        model = fn.Sequential(*layers, fn.Dense(widths[-1]))
        self._trainer = fn.Trainer(
            model, "cross_entropy", fn.SGD(LR), seed=0, device=device, precision=precision
        )
        self._cp, self._x, self._y = cp, cp.asarray(x), cp.asarray(y)
        self._batch = batch
        self._trainer.run(self._x, y, orders(batch, 1))
        self._program = self._trainer._program
        self._program.hold(True)

    @property
    def products(self):
        """What computes them."""
        return self._program.products

    def seconds(self, n_steps):
        """Of a step; parameters go to the card and come back once in the call, as they do once an epoch."""
        order, rates = orders(self._batch, n_steps), np.full(n_steps, LR)
        work = lambda: self._program.run(self._x, self._y, order, rates)  # noqa: E731
        return events(self._cp, work, 1, self._program._stream) / n_steps


class Torch:
    """PyTorch: "eager", "compiled" or "graph"."""

    def __init__(self, way, widths, batch, precision):
        import torch

        self._torch, self._way, self._batch, place = torch, way, batch, "cuda"
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        modules = []
        for a, b in itertools.pairwise(widths):
            modules += [torch.nn.Linear(a, b), torch.nn.ReLU()]
        net = torch.nn.Sequential(*modules[:-1]).to(place)
        optimizer = torch.optim.SGD(net.parameters(), LR, fused=True)
        x, y = (torch.from_numpy(a).to(place) for a in data(widths))
        self._rows = torch.zeros(batch, dtype=torch.int64, device=place)
        is_bf16 = precision == "bf16"

        def step():
            with torch.autocast(place, torch.bfloat16, enabled=is_bf16):
                loss = torch.nn.functional.cross_entropy(net(x[self._rows]), y[self._rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

        self._step = torch.compile(step, mode="max-autotune") if way == "compiled" else step
        if way == "graph":
            other = torch.cuda.Stream()
            with torch.cuda.stream(other):
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(other)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            self._step = graph.replay

    def seconds(self, n_steps):
        """Of a step."""
        torch = self._torch
        order = torch.from_numpy(orders(self._batch, n_steps)).to("cuda")
        for rows in order[:3]:
            self._rows.copy_(rows)
            self._step()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for rows in order:
            self._rows.copy_(rows)
            self._step()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / n_steps


class Jax:
    """All steps as one scan."""

    def __init__(self, widths, batch, precision):
        import jax
        import jax.numpy as jnp

        names = {"float32": "highest", "tf32": "tensorfloat32", "bf16": "bfloat16"}
        jax.config.update("jax_default_matmul_precision", names[precision])
        if jax.default_backend() != "gpu":
            raise ImportError("jax sees no card")
        random = np.random.default_rng(2)
        pairs = itertools.pairwise(widths)
        weights = [
            (random.standard_normal((a, b), np.float32) / a**0.5, np.zeros(b, np.float32)) for a, b in pairs
        ]
        x, y = map(jnp.asarray, data(widths))

        def loss(weights, rows):
            a = x[rows]
            for w, b in weights[:-1]:
                a = jnp.maximum(a @ w + b, 0)
            z = a @ weights[-1][0] + weights[-1][1]
            chosen = jnp.take_along_axis(z, y[rows][:, None], axis=1)[:, 0]
            return jnp.mean(jax.nn.logsumexp(z, axis=1) - chosen)

        def body(weights, rows):
            value, gradient = jax.value_and_grad(loss)(weights, rows)
            return jax.tree.map(lambda w, g: w - LR * g, weights, gradient), value

        self._run = jax.jit(lambda weights, order: jax.lax.scan(body, weights, order))
        self._jax, self._weights, self._batch = jax, jax.device_put(weights), batch

    def seconds(self, n_steps):
        """Of a step."""
        order = self._jax.device_put(orders(self._batch, n_steps))
        self._jax.block_until_ready(self._run(self._weights, order))
        begin = time.perf_counter()
        self._jax.block_until_ready(self._run(self._weights, order))
        return (time.perf_counter() - begin) / n_steps


MOST_FLOPS = cuda_persistent.MOST_FLOPS


def is_small(widths, batch, precision):
    """Whether it is likely to be trained many steps in a launch; the card has the last word."""
    return precision == "float32" and flops(widths, batch) <= cuda_places.SIZES[-1] * MOST_FLOPS


def many(device, n, n_workers):
    """Seconds of a step of each of n nets of the last cell, by `fit_many`; host and transfers included."""
    cuda_persistent.MOST_FLOPS = MOST_FLOPS
    widths, batch = CELLS[-1]
    x, y = data(widths)
    epochs = max(2, 64 // n)
    best = float("inf")
    for _ in range(3):
        trainers = [
            fn.Trainer(
                fn.Sequential(fn.Dense(widths[1], activation="relu"), fn.Dense(widths[2])),
                "cross_entropy",
                fn.SGD(LR),
                seed=i,
                device=device,
            )
            for i in range(n)
        ]
        begin = time.perf_counter()
        fn.fit_many(
            trainers,
            x,
            y,
            epochs=epochs,
            batch_size=batch,
            n_workers=n_workers,
            on_error="raise",
            progress=False,
        )
        best = min(best, time.perf_counter() - begin)
    return best / (n * epochs * (ROWS // batch))


def contender(name, device, widths, batch, precision):
    """Ready to be timed."""
    if name in ("fastnn", OWN, CAPTURED):
        return Fastnn(device, widths, batch, precision, name == OWN, name == CAPTURED)
    if name == "jax scan":
        return Jax(widths, batch, precision)
    return Torch(name.removeprefix("torch "), widths, batch, precision)


def measured(one, rounds):
    """Median seconds of a step, and each round's."""
    n_steps = 16
    each = one.seconds(n_steps)
    n_steps = max(8, min(4096, int(SECONDS / max(each, 1e-7))))
    found = [one.seconds(n_steps) for _ in range(rounds)]
    return statistics.median(found), found


def main():
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry", action="store_true", help="list what would be measured")
    parser.add_argument("--quick", action="store_true", help="the smallest network, one round")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    arguments = parser.parse_args()
    cells = CELLS[-1:] if arguments.quick else CELLS
    plan = [
        (*cell, precision, name)
        for cell in cells
        for precision in PRECISIONS
        for name in ("fastnn", OWN, *([CAPTURED] if is_small(*cell, precision) else []), *PEERS)
    ]
    if arguments.dry:
        for widths, batch, precision, name in plan:
            text = f"{flops(widths, batch) / 1e6:10.1f} MFLOP {least_bytes(widths, batch) / 1e6:8.2f} MB"
            print(f"{'-'.join(map(str, widths)):>22} b{batch:<6}{precision:<9}{name:<16}{text}")
        for n in MANY:
            print(f"{n} nets {'-'.join(map(str, CELLS[-1][0]))} b{CELLS[-1][1]} by fit_many")
        return 0
    try:
        cp = cuda.check(arguments.device)
        number = cuda.number_of(arguments.device)
        card = cuda.cards()[number]
    except fn.DeviceError as error:
        print(f"bench_gpu: {error}", file=sys.stderr)
        return 2
    if number and any("torch" in name for *_, name in plan):
        print("bench_gpu: peers run on the first card; use CUDA_VISIBLE_DEVICES to choose", file=sys.stderr)
        return 2
    reached = limits(cp)
    results, missing = [], {}
    for widths, batch, precision, name in plan:
        if name in missing:
            continue
        try:
            one = contender(name, arguments.device, widths, batch, precision)
            seconds, rounds = measured(one, 1 if arguments.quick else ROUNDS)
        except ImportError as error:
            missing[name] = str(error)
            print(f"{name}: left out ({error})", file=sys.stderr)
            continue
        work = flops(widths, batch) / reached["flops"], least_bytes(widths, batch) / reached["bytes"]
        result = {
            "net": "-".join(map(str, widths)),
            "batch": batch,
            "precision": precision,
            "contender": name,
            "seconds": seconds,
            "rounds": rounds,
            "of_floor": max(work) / seconds,
            "floor": "operations" if work[0] > work[1] else "bytes",
        }
        if isinstance(one, Fastnn):
            result["not_persistent"] = one._program.not_persistent
        if name == "fastnn":  # what became of its products
            result["products"] = asdict(one.products)
        results.append(result)
        print(
            f"{result['net']:>22} b{batch:<6}{precision:<9}{name:<16}{seconds * 1e6:12.1f} us"
            f"{100 * result['of_floor']:7.1f} % of the floor ({result['floor']})",
            flush=True,
        )
        del one
        cp.get_default_memory_pool().free_all_blocks()
    of_many = []
    for n in MANY[:2] if arguments.quick else MANY:
        found = {
            "nets": n,
            "together": many(arguments.device, n, None),
            "in turn": many(arguments.device, n, 1),
        }
        of_many.append(found)
        text = ", ".join(f"{way} {seconds * 1e6:.2f}" for way, seconds in list(found.items())[1:])
        print(f"{n:5} nets by fit_many, us a step and net: {text}", flush=True)
    written = {
        "card": card,
        "limits": reached,
        "cupy": cp.__version__,
        "missing": missing,
        "results": results,
        "many": of_many,
    }
    arguments.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
