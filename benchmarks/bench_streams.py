"""Sources beside arrays: a file larger than the memory allowed, shards, CSV and Parquet.

    python benchmarks/bench_streams.py [--quick] [--out FOLDER] [--folder FOLDER] [--cases CASES]

Each training is a process of its own, array and source in turn, for 8 seconds after 2 that do not count,
with the file read once before, so that it is in the system's cache. The array is a part of the file's rows
in memory (1.5 or 2 GB), shuffled row by row. The process that streams may have 1 GB of its own
(RLIMIT_DATA), and its whole resident memory is judged against 1 GB. --folder keeps the data for the next
time; --cases measures some and leaves the others' lines as they are.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import case_tables
import numpy as np

import fastnn as fn
from fastnn.data import Source
from fastnn.demo import uncap_blas

FOLDER = Path(__file__).parent
LIMITS = {"a source": "0.9 of the array's steps in a second", "resident memory of the 6 GB": "1 GB"}
CAP = 2**30

# name: columns, widths, bytes of x, bytes of the array beside it
NETS = {
    "784-128-10": (784, (128, 10), 6 * 10**9, 2 * 10**9),
    "100-256-128-1": (100, (256, 128, 1), 6 * 10**9, 15 * 10**8),
}
TABLE_ROWS = 2_000_000
# Of training that is measured, after a quarter of it.
SECONDS = float(os.environ.get("FASTNN_STREAMS_SECONDS", 8))


def trainer(widths: tuple[int, ...]) -> fn.Trainer:
    """A net for the widths: classes where there are several outputs."""
    hidden = [fn.Dense(n, "relu") for n in widths[:-1]]
    loss = "cross_entropy" if widths[-1] > 1 else "mse"
    return fn.Trainer(fn.Sequential(*hidden, fn.Dense(widths[-1])), loss, fn.SGD(1e-3), seed=0)


def make_arrays(folder: Path, columns: int, n_out: int, size: int) -> None:
    """x.npy and y.npy of so many bytes, written through: no file has holes."""
    if (folder / "y.npy").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    n = size // (4 * columns)
    part = rng.standard_normal((min(n, 2**26 // (4 * columns)), columns), np.float32)
    with open(folder / "x.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n, columns)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, n, len(part)):
            part[0] = rng.standard_normal(columns)
            file.write(part[: n - first].data)
        os.fsync(file.fileno())
    y = rng.integers(0, n_out, n) if n_out > 1 else rng.standard_normal((n, 1)).astype(np.float32)
    np.save(folder / "y.npy", y)


def make_tables(folder: Path, rows: int) -> None:
    """The same table as CSV and Parquet: 20 columns of numbers, one of texts, a target."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    if (folder / "t.parquet").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"c{i}": rng.standard_normal(rows).astype(np.float32) for i in range(20)}
    columns["kind"] = pa.array(["red", "green", "blue"]).take(pa.array(rng.integers(0, 3, rows)))
    columns["y"] = columns["c0"] * 3 + rng.standard_normal(rows).astype(np.float32)
    table = pa.table(columns)
    csv.write_csv(table, folder / "t.csv")
    parquet.write_table(table, folder / "t.parquet")


# ---------------------------------------------------------------- one training, in a process of its own


def peak() -> int:
    """Bytes that were resident at most; ru_maxrss would begin with those of the process that started this."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


class Clock(fn.Callback):
    """Counts the steps of some seconds after a warm-up, and ends the training then."""

    def __init__(self) -> None:
        self.times, self.steps = [time.monotonic() + SECONDS / 4], [0]

    def next_time(self, trainer: fn.Trainer) -> float:
        return self.times[-1] if len(self.times) == 1 else self.times[0] + SECONDS

    def on_step(self, trainer: fn.Trainer, epoch: int) -> None:
        now = time.monotonic()
        if len(self.times) == 1 and now >= self.times[0]:
            self.times, self.steps = [now, now], [trainer.step, trainer.step]
        elif len(self.times) == 2 and now >= self.times[0] + SECONDS:
            self.times[1], self.steps[1] = now, trainer.step
            trainer.stop("measured", now=True)


def measured_rate(one: fn.Trainer, data: tuple[Any, ...]) -> tuple[float, int]:
    """Steps in a second of epochs that follow a short warm-up, and how many were done."""
    clock = Clock()
    one.fit(*data, epochs=10**6, batch_size=128, callbacks=[clock], progress=False)
    done = clock.steps[1] - clock.steps[0]
    return done / (clock.times[1] - clock.times[0]), done


def child(how: str, x: str, y: str, widths: tuple[int, ...], n_rows: int, out: str) -> None:
    """Train some seconds; tells the steps in a second and the peak of memory."""
    if how == "array":
        data: tuple[Any, ...] = np.load(x, mmap_mode="r")[:n_rows].copy(), np.load(y)[:n_rows]
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (CAP, CAP))
        data = (Source.npy(x, y),)
    one = trainer(widths)
    if how == "source":  # the system may have dropped some of the file since the last process read it
        piece = bytearray(2**23)
        with open(x, "rb", buffering=0) as file:
            while file.readinto(piece):
                pass
    rate, steps = measured_rate(one, data)
    size = data[0].memory_bytes(128) if how != "array" else data[0].nbytes
    found = {"rate": rate, "steps": steps, "peak": peak(), "stated": size}
    Path(out).write_text(json.dumps(found), encoding="ascii")


def measured(how: str, x: Path, y: Path, widths: tuple[int, ...], n_rows: int) -> dict[str, Any]:
    """What a child tells."""
    with tempfile.NamedTemporaryFile() as out:
        call = [how, str(x), str(y), "-".join(map(str, widths)), str(n_rows), out.name]
        subprocess.run([sys.executable, __file__, "--child", *call], check=True)
        found: dict[str, Any] = json.loads(Path(out.name).read_text(encoding="ascii"))
        return found


def beside(case: str, x: Path, y: Path, widths: tuple[int, ...], ways: dict[str, int], rounds: int) -> Any:
    """An array and sources in turn: medians of their rates, and the worst peak."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, n_rows in ways.items():
            found[way].append(measured(way, x, y, widths, n_rows))
    rates = {way: statistics.median(one["rate"] for one in of) for way, of in found.items()}
    facts = {f"{way}_of_array": round(rates[way] / rates["array"], 3) for way in ways if way != "array"}
    peaks = {way: max(one["peak"] for one in of) for way, of in found.items()}
    if "source" in ways:
        facts["resident_MB"] = round(peaks["source"] / 1e6)
        facts["stated_MB"] = round(found["source"][0]["stated"] / 1e6)
        if peaks["source"] > CAP:
            raise SystemExit(f"{case}: {peaks['source'] / 1e6:.0f} MB were resident, more than 1 GB")
    return case_tables.row(case, {way: 1 / rate for way, rate in rates.items()}, **facts)


def tables(folder: Path, rows: int, rounds: int) -> list[dict[str, Any]]:
    """CSV and Parquet: the conversion, and training from what it wrote beside the same in memory."""
    make_tables(folder, rows)
    found = []
    for kind, make in (("csv", Source.csv), ("parquet", Source.parquet)):
        cache = folder / f"{kind}.fastnn"
        shutil.rmtree(cache, ignore_errors=True)
        start = time.perf_counter()
        make(folder / f"t.{kind}", "y", cache=cache, progress=False)
        seconds = time.perf_counter() - start
        n = Source.shards(cache).n_rows
        assert n == rows
        one = beside(
            f"{kind}, {rows} rows, 23-128-64-1",
            cache / "x.npy",
            cache / "y.npy",
            (128, 64, 1),
            {"array": rows, "source": rows},
            rounds,
        )
        found.append({**one, "conversion_s": round(seconds, 1)})
    return found


def main() -> None:
    """Measure, print, save."""
    if sys.argv[1:2] == ["--child"]:
        how, x, y, widths, n_rows, out = sys.argv[2:]
        child(how, x, y, tuple(map(int, widths.split("-"))), int(n_rows), out)
        return
    uncap_blas(sys.argv)
    parser = case_tables.parser(__doc__)
    parser.add_argument(
        "--folder", type=Path, help="of the data, 9 GB, which is kept (default: a temporary one)"
    )
    parser.add_argument("--cases", default=",".join([*NETS, "tables"]), help="by commas; none: only the data")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    quick, cases = arguments.quick, arguments.cases.split(",")
    rounds, shrink = (1, 200) if quick else (arguments.rounds, 1)
    if quick:
        os.environ["FASTNN_STREAMS_SECONDS"] = "0.2"  # of the children
    machine = case_tables.machine(threads=fn.get_num_threads())
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="fastnn-streams-"))
    rows = []
    try:
        for name, (columns, widths, size, held) in NETS.items():
            data = folder / name
            make_arrays(data, columns, widths[-1], size // shrink)
            n = size // shrink // (4 * columns)
            few = held // shrink // (4 * columns)
            if name in cases:
                case = f"{name}, {size / shrink / 1e9:g} GB"
                ways = {"array": few, "source": n}
                rows.append(beside(case, data / "x.npy", data / "y.npy", widths, ways, rounds))
        if "tables" in cases:
            rows += tables(folder / "tables", TABLE_ROWS // shrink, rounds)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)
    out = case_tables.folder(arguments) if rows else arguments.out
    if out is not None and (out / "streams.json").exists():
        before = json.loads((out / "streams.json").read_text(encoding="utf-8"))["rows"]
        taken = {one["case"] for one in rows}
        rows = [one for one in before if one["case"] not in taken] + rows
    lines = case_tables.head("Sources beside arrays", machine, LIMITS)
    lines += case_tables.table(
        "case, batch 128 | a step", rows, lambda name, seconds: f"{name} {seconds * 1e6:.1f} µs"
    )
    content = {"machine": machine, "limits": LIMITS, "rows": rows}
    case_tables.save("streams", out, content, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
