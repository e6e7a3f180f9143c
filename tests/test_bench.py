"""`fastnn bench`: wrong peers are refused, missing ones named, figures are what samples say."""

import contextlib
import fcntl
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench_stand_ins import TINY, TINY_PREDICT, TINY_VALUES, FakeWorker

from fastnn import cli, kernels
from fastnn.bench import cells, goals, judge, machine, peers, pictures, report, run, turns, worker
from fastnn.bench.limits import fma_peak, read_rate
from fastnn.bench.peers import Task, by_hand_peer, numba_source, own_peer
from fastnn.bench.processes import PeerError

# ---------------------------------------------------------------- who is timed


def test_an_interrupt_asks_workers_nothing_more():
    class Interrupted(FakeWorker):
        def answer(self):
            if self.log[-1][1] == "sample":
                raise KeyboardInterrupt
            return super().answer()

    worker = Interrupted("own")
    with pytest.raises(KeyboardInterrupt):
        turns.measure(TINY, [worker], turns.QUICK)
    assert worker.log[-1] == ("own", "sample")


@pytest.mark.parametrize("error", [0.5, math.nan, math.inf])
def test_a_wrong_peer_is_refused_before_timing(error):
    wrong = FakeWorker("numba", error=error)
    result, _ = turns.measure(TINY, [FakeWorker("own"), wrong], turns.QUICK)
    assert [do for _, do in wrong.log] == ["ways", "make", "drop"]
    assert set(result.timings) == {"own"}
    (why,) = result.refused.values()
    assert "differs from the float64 reference by" in why
    assert why.endswith("not timed")


def test_without_a_right_result_of_fastnn_nothing_is_timed():
    workers = [FakeWorker("own", error=0.5), FakeWorker("numba")]
    result, _ = turns.measure(TINY, workers, turns.QUICK)
    assert result.timings == {}
    assert "own, way, 1 thread" in result.refused


def test_a_missing_peer_is_named(monkeypatch, capsys):
    monkeypatch.setattr(run, "missing", lambda peer: ["jaxlib"] if peer.key == "jax" else [])
    choice = run.Choice(kinds=["train"], peers=["jax"], quick=True)
    reports, status = run.run(choice)
    assert status == 0
    assert reports["train"]["left_out"] == {"JAX": "not installed: jaxlib"}
    assert "left out: JAX (not installed: jaxlib)" in capsys.readouterr().out
    assert "Left out: JAX (not installed: jaxlib)." in report.markdown(reports["train"])


def test_without_a_compiler_compiled_pytorch_is_missing(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert peers.missing(peers.PEERS["torch_compiled"])[-1] == "the C++ compiler no-such-compiler"


def test_what_needs_no_import_is_not_imported():
    code = (
        "import sys; from fastnn.bench import peers, run\n"
        "[peers.missing(peer) for peer in peers.PEERS.values()]\n"
        "names = {'jax', 'numba', 'torch', 'sklearn', 'onnx', 'onnxruntime', 'openvino', 'matplotlib'}\n"
        "print(sorted(names & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adam", "--peers", "tensorflow"], "no peer is called 'tensorflow': there are own, by_hand"),
        (["--peers", "tensorflow"], "no peer is called 'tensorflow': there are own, by_hand"),
        (["train", "--cells", "5-5-5"], "no cell is called '5-5-5': there are 4-16-3 b1"),
    ],
)
def test_wrong_choices_are_one_line(arguments, message, capsys):
    assert cli.main(["bench", *arguments]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "_one_kind", None)
    (tmp_path / "file").write_text("")
    (tmp_path / "training.md").mkdir()
    folders = {tmp_path / "file" / "results": tmp_path / "file", tmp_path: tmp_path / "training.md"}
    if sys.platform == "linux":
        folders[Path("/proc/self")] = Path("/proc/self")  # there, and nobody may write in it
    for folder, named in folders.items():
        assert cli.main(["bench", "train", "--out", str(folder)]) == 1
        shown = capsys.readouterr().err
        assert str(named) in shown
        assert shown.count("\n") == 1


def test_a_report_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    found = {"title": "", "kind": "adam", "rows": [], "summary": {"missed": {}}, "left_out": {}}
    (tmp_path / "adam.json").write_text("before")

    def cut_off(found):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "markdown", cut_off)
    with pytest.raises(KeyboardInterrupt):
        report.save(found, tmp_path, "adam")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("adam.json", "before")]


# ---------------------------------------------------------------- errors, worked by hand


def test_an_error_counts_in_units_of_the_change_of_its_array():
    cell = cells.Cell("train", (1, 1), 1)  # one weight, one bias
    start, true = np.array([1.0, 10.0]), np.array([1.1, 10.001])
    assert worker.errors_of_training(cell, np.array([1.1, 10.001]), true, start) == 0
    assert worker.errors_of_training(cell, np.array([1.101, 10.001]), true, start) == pytest.approx(0.01)
    # The same error beside a smaller change is a larger one.
    assert worker.errors_of_training(cell, np.array([1.1, 10.0]), true, start) == pytest.approx(1.0)
    assert worker.errors_of_training(cell, np.array([np.nan, 10.001]), true, start) == math.inf
    assert worker.errors_of_training(cell, np.array([1.1]), true, start) == math.inf


def test_errors_of_outputs_are_shares_of_the_largest():
    reference = np.array([[1.0, -4.0]])
    assert worker.errors_of_outputs(np.array([[1.0, -3.0]]), reference, None) == pytest.approx(0.25)
    assert worker.errors_of_outputs(np.array([[np.nan, -3.0]]), reference, None) == math.inf
    assert worker.errors_of_outputs(np.array([[1.0]]), reference, None) == math.inf
    half = worker.errors_of_outputs(np.array([[0.5, 0.5]]), np.array([[3.0, 3.0]]), "softmax")
    assert half == pytest.approx(0)


@pytest.mark.parametrize("cell", [TINY, TINY_VALUES, cells.Cell("train", (4, 6, 3), 5, "adam")])
def test_fastnn_gives_the_weights_of_the_reference(cell):
    x, y = cells.data(cell)
    start = cells.parameters(cell)
    trained = own_peer.Trained(Task(cell, x, y, start, 1))
    trained.train(cells.order(cell, cell.checked_steps))
    error = worker.errors_of_training(cell, trained.parameters(), turns.reference(cell), start)
    assert error < 1e-3 < turns.TOLERANCES["train"]


def test_a_rate_that_is_wrong_by_a_twentieth_is_found():
    x, y = cells.data(TINY)
    start = cells.parameters(TINY)
    made = by_hand_peer.Trained(Task(TINY, x, y, start, 1))
    made._network.lr *= 1.05
    made.train(cells.order(TINY, TINY.checked_steps))
    error = worker.errors_of_training(TINY, made.parameters(), turns.reference(TINY), start)
    assert error > turns.TOLERANCES["train"]


@pytest.mark.parametrize("dots", [False, True])
@pytest.mark.parametrize("cell", [TINY, TINY_VALUES, cells.Cell("train", (4, 6, 3), 1)])
def test_the_source_for_numba_trains_as_the_reference_does(cell, dots):
    space = {"np": np, "math": math}
    exec(numba_source.epoch(cell, dots), space)  # it is plain Python
    x, y = cells.data(cell)
    start = cells.parameters(cell)
    flat = start.copy()
    widths = [np.empty((cell.batch, n), np.float32) for _, n in cell.pairs]
    inner = [one.copy() for one in widths] + [one.copy() for one in widths]
    inner += [np.empty(pair if dots else (1, pair[1]), np.float32) for pair in cell.pairs]
    inner.append(np.empty((cell.batch, cell.sizes[0]), np.float32))
    weights = [one for pair in cells.arrays_of(cell, flat) for one in pair]
    space["epoch"](x, y, cells.order(cell, cell.checked_steps), *weights, *inner)
    error = worker.errors_of_training(cell, flat, turns.reference(cell), start)
    assert error < turns.TOLERANCES["train"]


@pytest.mark.parametrize("dots", [False, True])
def test_the_source_for_numba_predicts_as_the_reference_does(dots):
    space = {"np": np}
    for i, (w, b) in enumerate(cells.arrays_of(TINY_PREDICT, cells.parameters(TINY_PREDICT))):
        space |= {f"w{i}": w, f"b{i}": b}
    exec(numba_source.forward(TINY_PREDICT, dots), space)
    x, _ = cells.data(TINY_PREDICT)
    inner = [np.empty((TINY_PREDICT.batch, n), np.float32) for _, n in TINY_PREDICT.pairs]
    space["forward"](x, *inner)
    assert worker.errors_of_outputs(inner[-1], turns.reference(TINY_PREDICT), None) < 1e-6


# ---------------------------------------------------------------- figures from fake samples


def test_ratios_are_paired_by_round():
    own = [judge.Sample(wall=w, cpu=w, calls=10) for w in (1.0, 2.0, 4.0)]
    peer = [judge.Sample(wall=w, cpu=w, calls=5) for w in (1.5, 3.0, 2.0)]
    timings = judge.judge({"own": own, "peer": peer})
    assert timings["own"].median == pytest.approx(0.2)
    assert timings["peer"].median == pytest.approx(0.4)
    assert timings["peer"].ratio == pytest.approx(3.0)  # of 3, 3, 1


def test_rounds_that_waited_for_a_processor_are_dropped():
    clean = [judge.Sample(wall=1.0, cpu=1.0 + i, calls=1, lost=0.01) for i in range(4)]
    stolen = judge.Sample(wall=9.0, cpu=9.0, calls=1, lost=2.0)
    judged = judge.judge({"own": [*clean, stolen]})
    assert judged["own"].dropped == 1
    assert judged["own"].median == 1.0
    assert not judged["own"].busy
    worse = [judge.Sample(wall=9.0, cpu=9.0, calls=1, lost=lost) for lost in (2.0, 3.0, 4.0, 5.0)]
    judged = judge.judge({"own": [clean[0], *worse]})
    assert judged["own"].dropped == 0
    assert judged["own"].busy
    # Threads that outnumber the cores wait for each other, in every round alike.
    alike = [judge.Sample(wall=1.0, cpu=2.0, calls=1, lost=0.5) for _ in range(4)]
    assert not judge.judge({"own": alike})["own"].busy


def test_one_disturbed_heat_does_not_choose_the_slower_way():
    class Disturbed(FakeWorker):
        def ask(self, do, **command):
            found = super().ask(do, **command)
            if do == "sample" and sum(one == "sample" for _, one in self.log) == 1:
                return {**found, "wall": 50.0}
            return found

    workers = [Disturbed("own", threads=2, seconds=1.0), FakeWorker("own", seconds=2.0)]
    result, _ = turns.measure(TINY, workers, turns.Plan(rounds=2))
    assert result.ways["own"] == "way, 2 threads"


def test_geometric_mean_by_hand():
    assert judge.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert math.isnan(judge.geometric_mean([]))


def fake_row(cell, share=None, **ratios):
    timing = {
        "median": 1e-6,
        "quartiles": (1e-6, 1e-6),
        "rounds": 1,
        "dropped": 0,
        "cpus": 1.0,
        "busy": False,
    }
    result = turns.Result(cell)
    row = goals.row_of(result, None)
    row["timings"] = {key: {**timing, "ratio": ratio} for key, ratio in {"own": 1.0, **ratios}.items()}
    row["share"] = share
    return row


def test_goals_and_means_by_hand():
    small, large = cells.TRAINING[0], cells.TRAINING[-1]
    rows = [fake_row(small, jax=1.2, sklearn=8.0), fake_row(large, share=0.7, jax=1.1, sklearn=2.0)]
    found = goals.summary("train", rows)
    assert found["geometric means"] == pytest.approx({"jax": 1.32**0.5, "sklearn": 4.0, "best": 1.32**0.5})
    assert found["missed"][small.name] == ["JAX takes 1.20 x fastnn, less than 1.3"]
    assert found["missed"][large.name] == ["70 % of the peak, less than 80"]
    assert found["missed"]["geometric mean"] == [
        "scikit-learn: 4.00, less than 11",
        "the best peer of each cell: 1.15, less than 2",
    ]
    # A peer that lacks a cell has no mean.
    assert "numba" not in goals.summary("train", [rows[0], fake_row(large, numba=2.0)])["geometric means"]
    one_row = fake_row(cells.PREDICTION[0], onnxruntime=14.0, torch_eager=60.0)
    assert goals.missed("predict", one_row) == ["ONNX Runtime takes 14.0 x fastnn, less than 15"]
    assert goals.missed("adam", fake_row(cells.ADAM[0], adam=1.1)) == []
    assert goals.missed("adam", fake_row(cells.ADAM[0], adam=1.2)) == [
        "Adam takes 1.20 x SGD, more than 1.15"
    ]


def test_work_by_hand():
    train = cells.Cell("train", (4, 16, 3), 2)
    # Forward 64 + 48, gradients of weights 64 + 48, gradient at the hidden layer 48; two each, two rows.
    assert train.flops == 2 * 2 * (64 + 48 + 64 + 48 + 48)
    assert cells.Cell("predict", (4, 16, 3), 2).flops == 2 * 2 * (64 + 48)
    assert train.n_parameters == 4 * 16 + 16 + 16 * 3 + 3
    assert len(cells.TRAINING) == 14
    assert len(cells.PREDICTION) == 16


def test_each_round_starts_with_another_contender():
    log = []
    contenders = {
        key: turns.Contender(FakeWorker(key, log=log), "way", key) for key in ("own", "jax", "numba")
    }
    samples = turns.rounds(contenders, 4, {})
    assert [len(one) for one in samples.values()] == [4, 4, 4]
    assert [key for key, _ in log[::3]] == ["own", "jax", "numba", "own"]


def test_a_peer_that_breaks_while_it_is_timed_is_left_out():
    class Breaking(FakeWorker):
        def ask(self, do, **command):
            if do == "sample" and sum(one == "sample" for _, one in self.log) == 2:
                raise PeerError("gone")
            return super().ask(do, **command)

    refused = {}
    contenders = {
        "own": turns.Contender(FakeWorker("own"), "way", "a"),
        "jax": turns.Contender(Breaking("jax"), "way", "a"),
    }
    samples = turns.rounds(contenders, 4, refused)
    assert list(samples) == ["own"]
    assert refused == {"jax, way, 1 thread": "gone"}


def test_a_peer_that_never_sleeps_is_left_out():
    restless = FakeWorker("jax")
    restless.wait_asleep = lambda: False
    result, _ = turns.measure(TINY, [FakeWorker("own"), restless], turns.QUICK)
    assert set(result.timings) == {"own"}
    assert "keep running between its turns" in result.refused["jax, way, 1 thread"]


# ---------------------------------------------------------------- peak, lock, files


def test_the_loop_of_fmas_counts_its_operations():
    for itemsize in (4, 8):
        lanes = kernels.fma_loop(1, itemsize) / 24
        assert lanes in (16 // itemsize, 32 // itemsize, 64 // itemsize)
        assert kernels.fma_loop(10, itemsize) == 240 * lanes
    assert kernels.fma_loop(0, 4) == 0
    with pytest.raises(ValueError, match="itemsize must be 4 or 8, got 3"):
        kernels.fma_loop(1, 3)
    assert fma_peak(0.005, 2) > 0
    assert read_rate(0.005, 2) > 0


def test_the_lock_keeps_others_out_only_while_something_is_timed(tmp_path):
    path = tmp_path / "lock"

    def others_may():
        with path.open("a") as file:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return True
            return False

    with machine.alone(path) as ours:
        assert others_may()
        with ours():
            assert not others_may()
        assert others_may()


def test_a_run_writes_json_a_table_and_pictures(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    arguments = ["bench", "train", "--quick", "--peers", "by_hand", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    found = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert {
        "title",
        "kind",
        "command",
        "machine",
        "peers",
        "left_out",
        "plan",
        "memory",
        "rows",
        "summary",
    } == set(found)
    assert found["command"] == "fastnn bench train --peers by_hand --quick"
    assert set(found["peers"]) == {"own", "by_hand"}
    wanted = {"case", "kind", "sizes", "batch", "optimizer", "flops", "steps", "peak", "rate", "share"}
    wanted |= {"timings", "ways", "heats", "errors", "refused"}
    for row in found["rows"]:
        assert set(row) == wanted
        assert row["refused"] == {}
        assert set(row["timings"]) == {"own", "by_hand"}
        peak = max(one["peak"] for one in found["rows"])
        assert row["share"] == pytest.approx(row["flops"] / row["timings"]["own"]["median"] / peak)
        assert all(0 <= error < 2e-2 for error in row["errors"].values())
    table = (tmp_path / "training.md").read_text(encoding="utf-8")
    for text in (found["machine"]["cpu"], found["command"], np.__version__, "4-16-3 b16", "MKL"):
        assert text in table
    for name in ("training-ratios.png", "training-roofline.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "4-16-3 b16" in capsys.readouterr().out


def test_pictures_say_what_they_need(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pictures need matplotlib: run"):
        pictures.draw({"title": "", "rows": []}, tmp_path, "a")


def test_every_peer_has_its_file():
    folder = os.path.dirname(peers.__file__)
    files = {name.removesuffix("_peer.py") for name in os.listdir(folder) if name.endswith("_peer.py")}
    assert files == set(peers.PEERS)
