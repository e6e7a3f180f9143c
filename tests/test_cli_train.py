"""The command line from a CSV file to predictions."""

import csv
import io
import itertools
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import fastnn as fn
from fastnn import cli, data
from fastnn.cli.train import default_batch_size


def write(path, columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return str(path)


def columns(n=400, seed=1):
    """A price that follows from the others, a class that follows from the price, dates, gaps, an id."""
    rng = np.random.default_rng(seed)
    carat = rng.uniform(0.2, 3.0, n).round(2)
    cut = rng.choice(["Fair", "Good", "Ideal"], n)
    day = np.datetime64("2024-01-01") + rng.integers(0, 365, n)
    price = (1000 * carat + 300 * (cut == "Ideal") + rng.normal(0, 20, n)).round(1)
    gaps = rng.uniform(size=n) < 0.1
    return {
        "id": [f"stone-{i}" for i in range(n)],
        "carat": ["" if gap else c for c, gap in zip(carat.tolist(), gaps, strict=True)],
        "cut": cut.tolist(),
        "day": [str(d) for d in day],
        "same": ["x"] * n,
        "price": price.tolist(),
        "grade": np.where(price > 2000, "dear", np.where(price > 1000, "fair", "cheap")).tolist(),
        "sold": (price > 1500).tolist(),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows to train on and to test on as CSV, and a model for each target, trained by the command."""
    path = tmp_path_factory.mktemp("cli")
    write(path / "train.csv", columns())
    write(path / "test.csv", columns(60, seed=2))
    for target, others in (("price", "grade,sold"), ("grade", "price,sold"), ("sold", "price,grade")):
        arguments = ["--target", target, "--drop", others, "-o", str(path / f"{target}.safetensors")]
        assert cli.main(["train", str(path / "train.csv"), *arguments, "--epochs", "60", "--quiet"]) == 0
    return path


def predictions(capsys, *arguments):
    """Columns of the CSV that `fastnn predict` prints."""
    assert cli.main(["predict", *map(str, arguments)]) == 0
    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    return dict(zip(header, zip(*rows, strict=True), strict=True))


def test_train_tells_what_it_did(folder, capsys):
    arguments = ["train", str(folder / "train.csv"), "--target", "price", "-o", str(folder / "m.safetensors")]
    assert cli.main([*arguments, "--epochs", "3", "--json", "--layers", "8"]) == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert summary["task"] == "regression"
    assert (summary["rows"], summary["validation_rows"], summary["epochs"]) == (360, 40, 3)
    assert set(summary["validation"]) == {"r2", "mae", "rmse"}
    for text in ("'same' is left out: all values are equal", "'id' is left out", "epoch 3/3", "saved "):
        assert text in shown.err
    assert cli.main([*arguments, "--epochs", "1", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_same_command_gives_the_same_model(folder, threads):
    files = [folder / f"same{i}.safetensors" for i in (1, 2)]
    for n, file in enumerate(files, 1):
        arguments = ["--target", "grade", "--epochs", "3", "--threads", str(n), "--dropout", "0.1", "--quiet"]
        threads(1)  # the fixture puts the old number back
        assert cli.main(["train", str(folder / "train.csv"), "-o", str(file), *arguments]) == 0
    first, second = (fn.load(file) for file in files)
    assert np.array_equal(first.parameters, second.parameters)


def test_all_options_are_taken(folder):
    path = str(folder / "options.safetensors")
    arguments = [
        "--layers",
        "16,8",
        "--activation",
        "tanh",
        "--dropout",
        "0.2",
        "--optimizer",
        "sgd",
        "--lr",
        "0.05",
    ]
    arguments += [
        "--epochs",
        "2",
        "--batch-size",
        "64",
        "--patience",
        "2",
        "--validation",
        "0.2",
        "--seed",
        "7",
    ]
    arguments += ["--task", "classification", "--category", "cut", "--number", "carat", "--drop", "id,day"]
    assert (
        cli.main(["train", str(folder / "train.csv"), "--target", "sold", "-o", path, *arguments, "--quiet"])
        == 0
    )
    model = fn.load(path)
    assert model.layers == (
        fn.Dense(16, activation="tanh"), fn.Dropout(0.2),
        fn.Dense(8, activation="tanh"), fn.Dropout(0.2), fn.Dense(2),
    )  # fmt: skip
    assert "day" not in model.recipe.columns
    arguments = ["--target", "price", "--layers", "none", "--validation", "0", "--epochs", "2", "--quiet"]
    assert cli.main(["train", str(folder / "train.csv"), "-o", path, *arguments]) == 0
    assert fn.load(path).layers == (fn.Dense(1),)


def test_evaluate_measures_what_was_learned(folder, capsys):
    # Where the size is missing, in a tenth of the rows, hardly anything is known.
    limits = {"price": ("r2", 0.8), "grade": ("accuracy", 0.7), "sold": ("accuracy", 0.8)}
    for target, (name, least) in limits.items():
        arguments = ["evaluate", str(folder / f"{target}.safetensors"), str(folder / "test.csv")]
        assert cli.main([*arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["rows"] == 60
        assert found[name] > least, target
        assert cli.main(arguments) == 0
        assert f"{name} {found[name]:.6g}" in capsys.readouterr().out


def test_numbers_are_predicted_in_their_own_unit(folder, capsys):
    found = predictions(capsys, folder / "price.safetensors", folder / "test.csv")
    assert list(found) == ["prediction"]
    prices = np.array(columns(60, seed=2)["price"])
    error = np.abs(np.array(found["prediction"], float) - prices)
    assert np.median(error) < 0.2 * prices.std()


def test_classes_come_with_their_probabilities_and_the_label_last(folder, capsys):
    found = predictions(capsys, folder / "grade.safetensors", folder / "test.csv")
    names = ["cheap", "dear", "fair"]
    assert list(found) == [*(f"probability_{name}" for name in names), "prediction"]
    probabilities = np.array([found[f"probability_{name}"] for name in names], float)
    assert np.allclose(probabilities.sum(axis=0), 1, atol=1e-6)  # of float32
    assert [names[i] for i in probabilities.argmax(axis=0)] == list(found["prediction"])
    assert set(predictions(capsys, folder / "sold.safetensors", folder / "test.csv")["prediction"]) == {
        "True",
        "False",
    }


def test_a_row_gets_the_same_answer_everywhere(folder, capsys):
    table = columns(60, seed=2)
    arrays = {name: np.array([c or np.nan for c in v] if name == "carat" else v) for name, v in table.items()}
    arrays["day"] = arrays["day"].astype("datetime64[D]")
    origins = {"arrays": arrays, "csv": folder / "test.csv"}
    try:
        import pandas
    except ImportError:
        pass
    else:
        origins["DataFrame"] = pandas.read_csv(folder / "test.csv")
        origins["DataFrame with dates"] = pandas.read_csv(folder / "test.csv", parse_dates=["day"])
    for target in ("price", "grade"):
        path = folder / f"{target}.safetensors"
        found = predictions(capsys, path, folder / "test.csv")
        shown = np.array(
            [v for name, v in found.items() if name != "prediction" or target == "price"], np.float32
        )
        model = fn.load(path)
        for name, origin in origins.items():
            given = model.predict(origin) if target == "price" else model.predict_proba(origin)
            assert np.array_equal(given.T, shown), name
        # One row alone, in any order of columns, with columns that the model does not know.
        row = {name: v[7:8] for name, v in reversed(arrays.items())} | {"more": [1]}
        one = model.predict(row) if target == "price" else model.predict_proba(row)
        assert np.array_equal(one[0], shown[:, 7])


def test_predictions_go_to_a_file_or_a_pipe(folder, capsys):
    arguments = [str(folder / "price.safetensors"), str(folder / "test.csv")]
    assert cli.main(["predict", *arguments]) == 0
    shown = capsys.readouterr().out
    out = folder / "out.csv"
    assert cli.main(["predict", *arguments, "-o", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert out.read_text() == shown
    # A reader that closes early is no error to be shown.
    many = write(folder / "many.csv", columns(20_000, seed=3))
    command = f"{sys.executable} -m fastnn predict {arguments[0]} {many} | head -n 2"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "prediction"
    assert done.stderr == ""


def test_info_describes_a_model(folder, capsys):
    assert cli.main(["info", str(folder / "grade.safetensors")]) == 0
    shown = capsys.readouterr().out
    for text in ("Dense(units=128", "one of 3: Fair, Good, Ideal", "flagged", "target grade: 3 classes"):
        assert text in shown
    assert cli.main(["info", str(folder / "grade.safetensors"), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["classes"] == ["cheap", "dear", "fair"]
    assert data.Recipe.from_json(described["recipe"]) == fn.load(folder / "grade.safetensors").recipe


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train missing.csv --target a -o m", "No such file or directory: missing.csv"),
        ("train train.csv --target pryce -o m", "did you mean 'price'"),
        ("train train.csv --target price -o nowhere/m", "folder of the model file does not exist: nowhere"),
        ("train train.csv --target price -o .", "the model file must not be a folder"),
        ("train train.csv --target cut -o m --task regression", "the target 'cut' must hold numbers, got"),
        ("train train.csv --target same -o m", "two classes or more, got only 'x'"),
        ("train train.csv --target price -o m --drop carrot", "did you mean 'carat'"),
        ("train train.csv --target price -o m --drop cut --category cut", "'cut' must have one role"),
        ("train train.csv --target price -o m --number cut", "'cut' must hold numbers, got"),
        ("train train.csv --target price -o m --lr 1e30 --optimizer sgd", "the loss is not finite"),
        ("predict missing.safetensors test.csv", "missing.safetensors"),
        ("predict train.csv test.csv", "train.csv"),
        ("predict price.safetensors missing.csv", "No such file or directory: missing.csv"),
        ("predict price.safetensors few.csv", "must have the columns 'carat'"),
        ("evaluate price.safetensors few.csv", "must have the columns 'price'"),
        ("evaluate plain.safetensors test.csv", "has no recipe"),
        ("info train.csv", "train.csv"),
    ],
)
def test_an_error_is_one_line_and_status_1(folder, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "few.csv").write_text("cut,day\nIdeal,2024-01-01\n")
    fn.Sequential(fn.Dense(1)).build(2).save("plain.safetensors")
    assert cli.main(arguments.split()) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    *_, last = shown.err.splitlines()
    assert last.startswith("fastnn: error: ")
    assert message in last
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    "arguments",
    [
        "train", "train a.csv -o m", "train a.csv --target a", "predict m", "evaluate m", "unknown",
        "train a.csv --target a -o m --layers 8,x", "train a.csv --target a -o m --layers 0",
        "train a.csv --target a -o m --activation reluu", "train a.csv --target a -o m --dropout 1",
        "train a.csv --target a -o m --lr nan", "train a.csv --target a -o m --epochs 0",
        "train a.csv --target a -o m --validation 1", "train a.csv --target a -o m --seed -1",
        "train a.csv --target a -o m --task guess", "train a.csv --target a -o m --threads 0",
        "bench --rounds 0", "bench --threads 0", "bench everything",
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_and_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments.split())
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("fastnn: error: ")
    assert shown.err.count("\n") == 1


def test_debug_shows_the_traceback():
    with pytest.raises(FileNotFoundError):
        cli.main(["predict", "missing.safetensors", "missing.csv", "--debug"])


@pytest.mark.parametrize("command", ["train", "predict", "evaluate"])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert f"  fastnn {command} " in capsys.readouterr().out


def test_ctrl_c_saves_the_best_so_far(folder):
    path = folder / "stopped.safetensors"
    arguments = [
        "--target",
        "price",
        "-o",
        str(path),
        "--epochs",
        "1000000",
        "--patience",
        "1000000",
        "--json",
    ]
    command = [sys.executable, "-m", "fastnn", "train", str(folder / "train.csv"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("epoch 20/"):
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    summary = json.loads(out)
    assert summary["interrupted"]
    assert summary["epochs"] >= 20
    assert fn.load(path).predict(folder / "test.csv").shape == (60, 1)


def test_bench_prints_json(capsys):
    assert cli.main(["bench", "train", "--quick", "--peers", "by_hand", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for row in found["train"]["rows"]:
        assert row["timings"]["own"]["median"] > 0
        assert row["timings"]["by_hand"]["ratio"] > 0


@pytest.mark.parametrize(("rows", "size"), [(10, 32), (3200, 32), (3201, 64), (20_000, 256), (10**6, 256)])
def test_small_tables_are_trained_in_small_batches(rows, size):
    assert default_batch_size(rows) == size


def test_training_from_a_shell_says_nothing_on_stdout(folder):
    path = str(folder / "shell.safetensors")
    command = [
        sys.executable,
        "-m",
        "fastnn",
        "train",
        str(folder / "train.csv"),
        "--target",
        "price",
        "-o",
        path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_a_large_category_is_embedded_and_learned(tmp_path, capsys):
    rng = np.random.default_rng(0)
    effect = rng.standard_normal(200)  # of each of 200 shops: what the network has to find out
    shop = rng.integers(0, 200, 6000)
    price = effect[shop] + 0.1 * rng.standard_normal(6000)
    rows = [f"shop {s},{p:.4f}" for s, p in zip(shop, price, strict=True)]
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("\n".join(["shop,price", *rows[:5000]]))
    test.write_text("\n".join(["shop,price", *rows[5000:]]))
    model = tmp_path / "m.safetensors"
    assert (
        cli.main(["train", str(train), "--target", "price", "-o", str(model), "--quiet", "--lr", "0.01"]) == 0
    )
    loaded = fn.load(model)
    assert isinstance(loaded.layers[0], fn.Embedding)
    capsys.readouterr()
    assert cli.main(["predict", str(model), str(test)]) == 0
    predicted = np.array([float(line) for line in capsys.readouterr().out.split()[1:]])
    error = price[5000:] - predicted
    assert 1 - (error**2).mean() / price[5000:].var() > 0.95
    np.testing.assert_array_equal(loaded.predict(test)[:, 0], predicted.astype(np.float32))
    assert np.isfinite(loaded.predict({"shop": ["never seen"]})).all()


def test_a_minus_is_the_standard_input_and_unseen_categories_are_told(tmp_path):
    rows = ["town,x,y", *(f"{'UM'[i % 2]}lm,{i % 7},{i % 2}" for i in range(60))]
    (tmp_path / "train.csv").write_text("\n".join(rows))

    def run(*arguments, given):
        command = [sys.executable, "-m", "fastnn", *arguments]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=True, cwd=tmp_path)

    given = "\n".join(rows)
    run("train", "-", "--target", "y", "-o", "m.safetensors", "--quiet", "--epochs", "2", given=given)
    from_file = run("predict", "m.safetensors", "train.csv", given="")
    from_pipe = run("predict", "m.safetensors", "-", given=given)
    assert from_file.stdout == from_pipe.stdout
    assert from_pipe.stderr == ""
    other = run("predict", "m.safetensors", "-", given=given.replace("Ulm", "Atlantis"))
    assert other.stderr == "fastnn: column 'town': 30 of 60 rows hold what was never seen\n"


# ---------------------------------------------------------------- long runs


def test_a_run_out_of_time_goes_on_with_resume(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "train.csv", columns(4000))
    given = [
        "--target",
        "price",
        "--drop",
        "grade,sold",
        "--epochs",
        "25",
        "--batch-size",
        "2",
        "--patience",
        "99",
    ]
    whole = ["-o", str(tmp_path / "whole"), "--checkpoint-every", "5000"]
    assert cli.main(["train", path, *given, *whole]) == 0
    assert not (tmp_path / "whole.checkpoint").exists()
    part = ["-o", str(tmp_path / "part"), "--resume", "--json", "--checkpoint-every"]
    capsys.readouterr()
    # However fast the machine: a hundredth of a second more at each look at the clock.
    real, ahead = time.monotonic, itertools.count()
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: real() + 0.01 * next(ahead))
        assert cli.main(["train", path, *given, *part, "0.05s", "--time-limit", "0.15s"]) == 0
    found = capsys.readouterr()
    assert "begins anew" in found.err
    assert json.loads(found.out)["unfinished"]
    assert "the same command with --resume goes on" in found.err
    assert (tmp_path / "part.checkpoint").exists()
    assert cli.main(["train", path, *given, *part, "30m"]) == 0
    found = capsys.readouterr()
    assert "goes on after epoch" in found.err
    assert not json.loads(found.out)["unfinished"]
    assert not (tmp_path / "part.checkpoint").exists()
    first, second = fn.load(tmp_path / "whole"), fn.load(tmp_path / "part")
    assert first.parameters.tobytes() == second.parameters.tobytes()


@pytest.mark.parametrize("text", ["0", "-3", "5x", "m", ""])
def test_a_wrong_time_is_a_wrong_argument(text, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "a.csv", "--target", "y", "-o", "m", f"--checkpoint-every={text}"])
    assert "--checkpoint-every" in capsys.readouterr().err
