"""What stands around the program: import, wheel, calls, epochs and memory.

    python benchmarks/bench_around.py [--quick] [--out FOLDER] [--wheel FILE]

Nothing here is compared with other libraries: each figure is held against its own floor (the import of NumPy,
the program's own time, the size of the data), and the limits stand beside it.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import case_tables
import numpy as np

import fastnn as fn
from fastnn.demo import uncap_blas

FOLDER = Path(__file__).parent
LIMITS = {
    "import over NumPy": "30 ms",
    "wheel": "3 MB",
    "share of an epoch in the program": "95 %",
    "partial_fit of one row over the step": "2 us",
}


def median(call: Callable[[], float], rounds: int) -> float:
    """Median of what a call measures."""
    return statistics.median(call() for _ in range(rounds))


# ---------------------------------------------------------------- import and wheel


def imports(quick: bool) -> list[dict[str, Any]]:
    """Fresh processes, in turn: Python with NumPy, and with fastnn; bytecode is there, as pip leaves it."""
    rounds = 2 if quick else 25
    with tempfile.TemporaryDirectory() as bytecode:
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment = {**kept, "PYTHONPYCACHEPREFIX": bytecode}
        # The package that this process has, wherever it lies.
        environment["PYTHONPATH"] = str(Path(fn.__file__).parents[1])

        def process(code: str) -> float:
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], env=environment, check=True)
            return time.perf_counter() - start

        process("import fastnn")
        pairs = [(process("import numpy"), process("import fastnn")) for _ in range(rounds)]
        # In one process, without the noise of starting one.
        code = "import time, numpy; t = time.perf_counter(); import fastnn; print(time.perf_counter() - t)"
        command = [sys.executable, "-c", code]
        inside = median(lambda: float(subprocess.check_output(command, env=environment)), rounds)
    numpy_, fastnn_ = (statistics.median(times) for times in zip(*pairs, strict=True))
    over = statistics.median(b - a for a, b in pairs)
    return [
        row("process with import numpy", median=numpy_),
        row("process with import fastnn", median=fastnn_, over_numpy_ms=round(over * 1e3, 1)),
        row("import fastnn after numpy", median=inside),
    ]


def sizes(wheel: Path | None) -> dict[str, Any]:
    """Bytes of the compiled modules in use, and of a wheel where one is named or lies in dist."""
    modules = [fn.kernels.__file__, fn.inference.__file__, fn.program.__file__]
    found: dict[str, Any] = {"compiled modules, MB": sum(os.path.getsize(m) for m in modules) / 1e6}
    if wheel is None:
        built = sorted((FOLDER.parent / "dist").glob("*.whl"), key=lambda path: path.stat().st_mtime)
        wheel = built[-1] if built else None
    found["wheel, MB"] = wheel.stat().st_size / 1e6 if wheel else "not built"
    return found


# ---------------------------------------------------------------- epochs


class Clock:
    """A program that adds up the time spent in it."""

    def __init__(self, program: Any) -> None:
        self.__dict__.update(program=program, seconds=0.0)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.program, name)
        if name not in ("run", "loss", "predict"):
            return found

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return found(*arguments, **options)
            finally:
                self.__dict__["seconds"] += time.perf_counter() - start

        return timed

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.program, name, value)


def epochs(quick: bool) -> list[dict[str, Any]]:
    """Time of fit, and its share in the program, for 784-128-10 on 60,000 rows."""
    n, rounds = (2_000, 1) if quick else (60_000, 5)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 784), np.float32)
    y = rng.integers(0, 10, n)
    held = {"validation_data": (x[: n // 6], y[: n // 6])}
    cases: dict[str, tuple[list[str], dict[str, Any]]] = {
        "fit": ([], {}),
        "progress": ([], {"progress": True}),
        "validation data": ([], held),
        "validation split 0.1": ([], {"validation_split": 0.1}),
        "accuracy": (["accuracy"], {}),
        "accuracy, validation, early stopping": (
            ["accuracy"],
            {**held, "callbacks": [fn.EarlyStopping(patience=100)]},
        ),
    }
    rows = []
    for batch in (128, 32):
        for name, (metrics, arguments) in cases.items():
            model = fn.Sequential(fn.Dense(128, "relu"), fn.Dense(10))
            trainer = fn.Trainer(model, "cross_entropy", fn.SGD(0.01), metrics, seed=0)
            trainer.partial_fit(x[:batch], y[:batch])
            clock = Clock(trainer._program)
            trainer._program = clock  # type: ignore[assignment]
            walls, inside = [], []
            for _ in range(rounds):
                clock.__dict__["seconds"] = 0.0
                start = time.perf_counter()
                with Silence():
                    trainer.fit(x, y, batch_size=batch, **{"progress": False, **arguments})
                walls.append(time.perf_counter() - start)
                inside.append(clock.seconds)
            share = statistics.median(b / a for a, b in zip(walls, inside, strict=True))
            outside = statistics.median(a - b for a, b in zip(walls, inside, strict=True))
            rows.append(
                row(
                    f"epoch, batch {batch}: {name}",
                    median=statistics.median(walls),
                    in_program=f"{share:.1%}",
                    outside_ms=round(outside * 1e3, 2),
                )
            )
    return rows


class Silence:
    """Sends what is written to stderr nowhere: progress is measured, not shown."""

    def __enter__(self) -> None:
        self._before, sys.stderr = sys.stderr, open(os.devnull, "w", encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        sys.stderr.close()
        sys.stderr = self._before


# ---------------------------------------------------------------- calls


def calls(quick: bool) -> list[dict[str, Any]]:
    """One row at a time: the step itself (inside a run of many), the program's call, and the public ones."""
    number, rounds = (20, 2) if quick else (2000, 15)
    rng = np.random.default_rng(0)
    rows = []

    def timed(call: Callable[[], object], times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times

    def of_net(widths: tuple[int, int, int]) -> None:
        net = "-".join(map(str, widths))
        model = fn.Sequential(fn.Dense(widths[1], "relu"), fn.Dense(widths[2]))
        trainer = fn.Trainer(model, "cross_entropy", fn.SGD(1e-6), seed=0)
        x, y = rng.standard_normal((1, widths[0])).astype(np.float32), np.array([1])
        trainer.partial_fit(x, y)
        program: Any = trainer._program
        order, rates = np.zeros((1, 1), np.int64), np.full(1, 1e-6)
        many, many_rates = np.zeros((1000, 1), np.int64), np.full(1000, 1e-6)

        contenders: dict[str, tuple[Callable[[], object], int, int]] = {
            "step in a run of 1000": (lambda: program.run(x, y, many, many_rates), 3, 1000),
            "program.run": (lambda: program.run(x, y, order, rates), number, 1),
            "trainer.run": (lambda: trainer.run(x, y, order), number, 1),
            "trainer.partial_fit": (lambda: trainer.partial_fit(x, y), number, 1),
            "trainer.gradient": (lambda: trainer.gradient(x, y), number, 1),
            "trainer.evaluate": (lambda: trainer.evaluate(x, y), number, 1),
            "model.predict": (lambda: model.predict(x), number, 1),
        }
        samples: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, (call, times, steps) in contenders.items():
                samples[name].append(timed(call, times) / steps)
        step = statistics.median(samples["step in a run of 1000"])
        for name, taken in samples.items():
            over = statistics.median(taken) - step
            extra = (
                {}
                if name in ("step in a run of 1000", "model.predict")
                else {"over_step_us": round(over * 1e6, 2)}
            )
            rows.append(row(f"{net}, one row: {name}", median=statistics.median(taken), **extra))

    for widths in ((4, 16, 3), (64, 64, 10)):
        of_net(widths)
    return rows


# ---------------------------------------------------------------- memory

MEMORY = """
import os, re, resource, sys
import numpy as np, fastnn as fn
n = int(sys.argv[1])
x, y = np.zeros((n, 784), np.float32), np.zeros(n, np.int64)  # zeros that are only read take no memory
model = fn.Sequential(fn.Dense(128, "relu"), fn.Dense(10))
trainer = fn.Trainer(model, "cross_entropy", fn.SGD(0.1), metrics=["accuracy"], seed=0)
trainer.fit(x[:256], y[:256], validation_data=(x[:256], y[:256]), progress=False)
def peak():
    # Where there is /proc, ru_maxrss begins with that of the process that started this one.
    if os.path.exists("/proc/self/status"):
        return int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
trainer.fit(x, y, batch_size=128, validation_data=(x, y), callbacks=[fn.EarlyStopping()], progress=False)
trainer.run(x, y, np.arange(n // 128 * 128).reshape(-1, 128))
trainer.evaluate(x, y)
trainer.predict(x)
trainer.partial_fit(x[:128], y[:128])
print(peak() - before, x.nbytes)
"""


def memory(quick: bool) -> dict[str, Any]:
    """What calls on an array add to the peak of resident memory."""
    rows = "4096" if quick else "65536"
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), rows]
    grown, data = map(int, subprocess.check_output(command, text=True).split())
    return {f"resident beyond data of {data / 1e6:.0f} MB, MB": grown / 1e6}


# ---------------------------------------------------------------- the report


def row(case: str, *, median: float, **facts: Any) -> dict[str, Any]:
    """A line of the table."""
    return case_tables.row(case, {"fastnn": median}, **facts)


def markdown(machine: dict[str, Any], facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Both tables."""
    lines = case_tables.head("Around the program", machine, LIMITS)
    lines += ["| | |", "|---|---:|"]
    lines += [f"| {k} | {v if isinstance(v, str) else format(v, '.2f')} |" for k, v in facts.items()]
    lines += ["", *case_tables.table("case | time", rows, shown)]
    return "\n".join(lines) + "\n"


def shown(name: str, seconds: float) -> str:
    """A time as the table has it."""
    return f"{seconds * 1e6:.2f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def processor() -> str:
    """Name of the processor, or of its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    """Measure, print, save."""
    uncap_blas(sys.argv)
    parser = case_tables.parser(__doc__)
    parser.add_argument("--wheel", type=Path, help="a wheel to weigh (default: the newest in dist)")
    arguments = parser.parse_args()
    machine = {"processor": processor(), **case_tables.machine(threads=fn.get_num_threads())}
    rows = imports(arguments.quick) + calls(arguments.quick) + epochs(arguments.quick)
    facts = sizes(arguments.wheel) | memory(arguments.quick)
    content = {"title": "Around the program", "machine": machine, "facts": facts, "rows": rows}
    case_tables.save("around", case_tables.folder(arguments), content, markdown(machine, facts, rows))


if __name__ == "__main__":
    main()
