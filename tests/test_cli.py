"""The command line."""

import json
import os
import subprocess
import sys

import pytest

import fastnn
from fastnn import cli


def fastnn_command(*arguments, **keywords):
    return subprocess.run(
        [sys.executable, "-m", "fastnn", *arguments], capture_output=True, text=True, check=False, **keywords
    )


def test_info_prints_the_configuration(capsys):
    assert cli.main(["info"]) == 0
    shown = capsys.readouterr().out
    for key, value in fastnn.show_config(mode="dict").items():
        assert key in shown
        if isinstance(value, str):
            assert value in shown


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FASTNN_ISA", "foo", "FASTNN_ISA must be one of"),
        ("FASTNN_NUM_THREADS", "257", "FASTNN_NUM_THREADS must be a whole number from 1 to 256, got '257'"),
        ("FASTNN_NUM_THREADS", "9" * 5000, "FASTNN_NUM_THREADS must be a whole number from 1 to 256"),
        ("FASTNN_NUM_THREADS", "two", "FASTNN_NUM_THREADS must be a whole number from 1 to 256"),
    ],
)
def test_a_wrong_environment_is_one_line_and_wrong_usage(name, value, message):
    done = fastnn_command("info", env={**os.environ, name: value})
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"fastnn: error: {message}")
    assert done.stderr.count("\n") == 1


def test_a_wrong_environment_of_a_program_is_an_error_it_can_catch():
    code = "try:\n    import fastnn\nexcept ValueError as error:\n    print(error)"
    environment = {**os.environ, "FASTNN_ISA": "foo"}
    done = subprocess.run(
        [sys.executable, "-c", code, "-m", "fastnn"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout.startswith("FASTNN_ISA must be one of")


def test_more_openmp_threads_than_fastnn_takes_are_no_error():
    others = {name: value for name, value in os.environ.items() if name != "FASTNN_NUM_THREADS"}
    done = fastnn_command("info", "--json", env={**others, "OMP_NUM_THREADS": "1000"})
    assert json.loads(done.stdout)["num_threads"] == 256


def test_no_command_is_wrong_usage_on_stderr():
    done = fastnn_command()
    assert done.returncode == 2
    assert done.stdout == ""
    assert "COMMAND" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--epochs", "0"], ["--seconds", "0"], ["--seconds", "nan"], ["--epochs", "x"]]
)
def test_demo_refuses_numbers_that_make_no_sense(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", *arguments])
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_demo_learns_the_digits_and_mnist_and_times_three_contenders(tmp_path):
    picture = tmp_path / "curves.png"
    done = fastnn_command("demo", "--seconds", "0.1", "--curves", str(picture))
    assert done.returncode == 0, done.stderr
    digits, mnist = done.stdout.split("MNIST-5k")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "<- kept" in mnist
    assert float(mnist.split("test accuracy")[1].split()[0]) > 93
    lines = digits.strip().splitlines()
    losses = [float(line.split()[-1]) for line in lines if line.startswith("epoch")]
    assert len(losses) == 30
    assert losses[-1] < losses[0] / 10
    (accuracy,) = (float(line.split()[2]) for line in lines if line.startswith("test accuracy"))
    assert accuracy >= 97
    assert [line.split(" ms")[0].split()[0] for line in lines[-3:]] == ["fastnn", "NumPy,", "scikit-learn"]


def test_demo_that_learned_too_little_fails():
    done = fastnn_command("demo", "--epochs", "1", "--seconds", "0.1")
    assert done.returncode == 1
    assert "below" in done.stderr


def test_demo_leaves_the_caps_on_openblas_behind():
    code = (
        "import os, sys\n"
        "from fastnn import demo\n"
        "code = 'import os; print([name for name in os.environ if name.startswith(\"OPENBLAS_\")])'\n"
        "demo.uncap_blas(['-c', code])\n"
        "print('not started anew')"
    )
    others = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    environment = {**others, "OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "512"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]"
