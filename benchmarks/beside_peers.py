"""What the benchmarks beside other libraries share: `fastnn bench`, its files in this folder's results."""

import sys
from pathlib import Path

from fastnn.cli import main

RESULTS = Path(__file__).parent / "results"


def run(kind):
    """Run `fastnn bench KIND` with this process's arguments; a quick run writes nothing unless told to."""
    given = sys.argv[1:]
    if not any(word == "--out" or word.startswith("--out=") or word == "--quick" for word in given):
        given = ["--out", str(RESULTS), *given]
    sys.exit(main(["bench", kind, *given]))
