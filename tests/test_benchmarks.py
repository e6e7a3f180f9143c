"""Every benchmark runs, and its clockwork judges rounds as it says."""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
# bench_gpu needs a card: make check-gpu.
SCRIPTS = [
    pytest.param(path.name, marks=pytest.mark.thinc if path.name == "bench_thinc.py" else ())
    for path in sorted(FOLDER.glob("bench_*.py"))
    if path.name != "bench_gpu.py"
]
# Of `fastnn bench`: the quickest peer stands for all, which have tests of their own.
BESIDE_PEERS = ("bench_training.py", "bench_prediction.py", "bench_adam.py")


@pytest.fixture(scope="module")
def timing():
    sys.path.insert(0, str(FOLDER))
    try:
        import timing
    finally:
        sys.path.remove(str(FOLDER))
    return timing


def run_quick(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / script), "--quick", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_benchmark_runs_quickly_and_saves_its_table(script, tmp_path):
    few = ["--peers", "by_hand"] if script in BESIDE_PEERS else []
    shown = run_quick(script, "--out", str(tmp_path), *few)
    name = script.removeprefix("bench_").removesuffix(".py")
    saved = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    table = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert saved["rows"]
    for row in saved["rows"]:
        assert row["case"] in shown
        assert row["case"] in table
        assert all(timing["median"] > 0 for timing in row["timings"].values())
    assert saved["machine"]["caps"] == {"OPENBLAS_CORETYPE": None, "OPENBLAS_L2_SIZE": None}


@pytest.mark.slow
def test_tables_are_trained_and_predicted_from_a_shell():
    shown = run_quick("tables.py")
    (row,) = (line for line in shown.splitlines() if line.startswith("| breast_cancer"))
    assert float(row.split("|")[6]) > 0.93


@pytest.mark.slow
def test_profile_runs_or_says_why_not():
    shown = run_quick("profile_training.py")
    assert "no profile: perf" in shown or "| share |" in shown


def test_a_wrong_result_is_not_timed(timing):
    with pytest.raises(SystemExit, match=r"case: differs from the float64 reference by 0\.5"):
        timing.agree("case", [1.0, 3.0], [1.0, 2.0], 1e-3)
    with pytest.raises(SystemExit, match="differs"):
        timing.agree("case", [np.nan], [1.0], 1e-3)
    with pytest.raises(SystemExit, match="shape"):
        timing.agree("case", [1.0], [1.0, 1.0], 1e-3)
    assert timing.agree("case", [1.0, 2.002], [1.0, 2.0], 1e-2) == pytest.approx(1e-3)


def test_rounds_that_lost_the_processor_are_dropped(timing):
    clean, stolen = timing.Sample(wall=1.0, cpu=1.0, calls=10), timing.Sample(wall=4.0, cpu=1.0, calls=10)
    two = timing.Sample(wall=2.0, cpu=4.0, calls=10)
    judged = timing.judge({"one": [clean, clean, stolen, clean, clean], "two": [two] * 5})
    assert judged["one"].dropped == 1
    assert judged["one"].median == pytest.approx(0.1)
    assert judged["two"].dropped == 0
    assert judged["two"].cpus == pytest.approx(2.0)
    assert judged["two"].ratio == pytest.approx(2.0)


def test_all_rounds_are_kept_where_too_few_are_clean(timing):
    rounds = [timing.Sample(wall=1.0 + i, cpu=1.0, calls=1) for i in range(10)]
    assert timing.judge({"one": rounds})["one"].dropped == 0


def test_contenders_are_timed_in_turn(timing):
    calls = []
    contenders = [timing.Contender(name, lambda name=name: calls.append(name)) for name in "ab"]
    arguments = argparse.Namespace(quick=False, rounds=4, seconds=1e-4, pause=0.0)
    timings = timing.compare(contenders, arguments)
    assert list(timings) == ["a", "b"]
    assert {one.rounds for one in timings.values()} == {4}
    # Every round starts with another one, so neighbours in the log change at least once a round.
    assert sum(first != second for first, second in itertools.pairwise(calls)) >= 4
