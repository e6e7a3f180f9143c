"""Where the time of a training step goes: the functions of fastnn by share of samples, from Linux `perf`.

Without perf it says so and ends with status 1; with --quick and no perf, with 0.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import timing

from fastnn.bench import cells
from fastnn.build_check import COMPILED

SHOWN = 12
# Objects whose time counts: the compiled modules, and what they call.
OWN = (*(f"{name}." for name in COMPILED), "libc", "libm", "[kernel")
# `perf report` without children: percent, then shared object, then symbol.
LINE = re.compile(r"^\s*(\d+\.\d+)%\s+(\S+)\s+\[[.k]\]\s+(\S.*?)(?:\s{2,}.*)?$")


def train(number, seconds):
    """Keep one network training; this runs below perf."""
    import time

    from fastnn.bench import peers

    cell = cells.TRAINING[number]
    x, y = cells.data(cell)
    order = cells.order(cell, cell.steps)
    own = peers.module(peers.PEERS["own"])
    trained = own.Trained(peers.Task(cell, x, y, cells.parameters(cell), 0))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        trained.train(order)


def usable_perf():
    """Path of a perf that may sample here, or None and why."""
    perf = shutil.which("perf")
    if perf is None:
        return None, "perf is not installed (Debian: linux-perf)"
    trial = subprocess.run(
        [perf, "record", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False
    )
    if trial.returncode:
        last = (trial.stderr.strip().splitlines() or ["no message"])[-1]
        return None, f"perf cannot sample here ({last.strip()})"
    return perf, ""


def profile(perf, number, seconds):
    """Lines (share, object, symbol) of one network, largest first."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "perf.data")
        command = [sys.executable, __file__, "--train", str(number), str(seconds)]
        subprocess.run([perf, "record", "-q", "-F", "2000", "-o", record, *command], check=True)
        report = subprocess.run(
            [perf, "report", "--stdio", "-g", "none", "--sort", "dso,symbol", "-i", record],
            capture_output=True,
            text=True,
            check=True,
        )
    found = [LINE.match(line) for line in report.stdout.splitlines()]
    return [(float(match[1]), match[2], match[3]) for match in found if match]


def main():
    if sys.argv[1:2] == ["--train"]:
        train(int(sys.argv[2]), float(sys.argv[3]))
        return
    arguments = timing.start(__doc__)
    perf, why = usable_perf()
    if perf is None:
        print(f"no profile: {why}")
        sys.exit(0 if arguments.quick else 1)
    lines = ["# Where the time of a training step goes", ""]
    for number, cell in enumerate(cells.TRAINING[:1] if arguments.quick else cells.TRAINING):
        shares = profile(perf, number, 0.5 if arguments.quick else 4.0)
        # Loading Python and NumPy is no part of a step.
        own = [one for one in shares if one[1].startswith(OWN)]
        total = sum(share for share, _, _ in own) or 1.0
        lines += [f"## {cell.name}", "", "| share | where | function |", "|---:|---|---|"]
        lines += [
            f"| {100 * share / total:.1f} % | {place} | `{name}` |" for share, place, name in own[:SHOWN]
        ]
        lines.append("")
    text = "\n".join(lines)
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "profile.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
