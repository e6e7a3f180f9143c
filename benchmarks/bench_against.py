"""Training steps of this checkout beside those of another that is built: has a change slowed any?

    python benchmarks/bench_against.py ../before
    python benchmarks/bench_against.py ../before --cells 784-128-10,4-16-3 --threads 1

Every cell of `fastnn bench train` and `adam`, on one thread and on all, in processes of their own that take
turns in many short rounds. `minima` is the ratio of the fastest rounds, this / other, above 1 being slower:
what others do on the machine makes rounds longer, never shorter. Beside it stands the ratio of the medians,
paired by round. Without a path this checkout runs beside itself, which shows how far apart equal things
come out.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import timing

from fastnn.bench.cells import ADAM, TRAINING, chosen
from fastnn.bench.judge import judge
from fastnn.bench.processes import PeerError, Worker
from fastnn.bench.turns import TOLERANCES, Contender, reference, rounds
from fastnn.cores import default_threads
from fastnn.demo import uncap_blas

ROOT = Path(__file__).resolve().parents[1]
# Of many short rounds some are free of what others do; a call is at least one epoch, or 12 GFLOP.
ROUND_SECONDS, ROUNDS = 0.02, 60
QUICK_SECONDS, QUICK_ROUNDS = 0.002, 2
# A cell whose call takes longer than a round has fewer of them.
CELL_SECONDS, FEWEST_ROUNDS = 5.0, 5
# What the project lets a cell lose.
MOST = 1.03


def read_arguments():
    """The command line, with what `timing.Report` asks of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", nargs="?", type=Path, default=ROOT, help="another built checkout")
    parser.add_argument("--cells", help="those whose names hold one of these words, by commas")
    parser.add_argument("--threads", help="numbers of threads, by commas (default: 1 and all)")
    parser.add_argument("--rounds", type=int, help=f"of {ROUND_SECONDS} s (default: {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="two small cells: does all run?")
    parser.add_argument("--out", type=Path, help="folder of the table (default: none)")
    arguments = parser.parse_args()
    arguments.other = arguments.other.resolve()
    if not list(arguments.other.glob("fastnn/kernels*.so")):
        parser.error(f"other must be a checkout in which `make build` was run, got {arguments.other}")
    arguments.seconds = QUICK_SECONDS if arguments.quick else ROUND_SECONDS
    arguments.rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    counts = arguments.threads.split(",") if arguments.threads else [1, default_threads(64)]
    arguments.counts = sorted({int(count) for count in counts})
    words = ["4-16-3 b32", "64-64-10 b32"] if arguments.quick else None
    try:
        cells = chosen(TRAINING + ADAM, arguments.cells.split(",") if arguments.cells else words)
    except ValueError as error:
        parser.error(str(error))
    return arguments, cells


def compare(cell, workers, arguments):
    """Timings of "this" and "other" for a step, ratio of their minima, the larger error of the two."""
    refused, made, error = {}, {}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "reference.npy"))
        np.save(path, reference(cell))
        for name, worker in workers.items():
            made[name] = Contender(worker, "run", f"{cell.name} {name}")
            made[name].make(cell, path)
            error = max(error, worker.answer()["error"])
            if not error <= TOLERANCES[cell.kind]:
                sys.exit(f"{cell.name}, {name}: differs from the float64 reference by {error:.3g}")
            made[name].calls = worker.ask("calls", name=made[name].name, seconds=arguments.seconds)["calls"]
    calls = made["this"].calls
    for one in made.values():  # alike, or the start of a round weighs more for one of the two
        one.calls = calls
    taken = max(one.sample().wall for one in made.values())
    count = max(FEWEST_ROUNDS, min(arguments.rounds, int(CELL_SECONDS / 2 / taken)))
    samples = rounds(made, arguments.rounds if arguments.quick else count, refused)
    if refused:
        sys.exit(f"{cell.name}: {refused}")
    least = {name: min(one.seconds for one in found) for name, found in samples.items()}
    timings = judge(samples)
    for name, found in timings.items():
        found.median /= cell.steps
        found.quartiles = found.quartiles[0] / cell.steps, found.quartiles[1] / cell.steps
        made[name].worker.ask("drop", name=made[name].name)
    return timings, least["this"] / least["other"], error


def main():
    uncap_blas(sys.argv)
    arguments, cells = read_arguments()
    notes = ["Times are of a step; `minima`: fastest round of this checkout / fastest of the other."]
    report = timing.Report("against", "Training steps beside another checkout's", arguments, notes)
    ratios = {}
    for threads in arguments.counts:
        workers = {"this": Worker("own", threads, ROOT), "other": Worker("own", threads, arguments.other)}
        try:
            for cell in cells:
                case = f"{cell.name}, {threads}T"
                timings, ratios[case], error = compare(cell, workers, arguments)
                report.add(case, timings, error, minima=f"{ratios[case]:.3f}")
        except PeerError as error:
            sys.exit(f"{cell.name}, {threads} threads: {error}")
        finally:
            for worker in workers.values():
                worker.close()
    worst = max(ratios, key=ratios.__getitem__)
    slower = sum(ratio > MOST for ratio in ratios.values())
    print(f"worst: {worst}, {ratios[worst]:.3f} of the other's time; {slower} of {len(ratios)} above {MOST}")
    if arguments.out is not None:
        report.save()


if __name__ == "__main__":
    main()
