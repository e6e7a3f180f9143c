"""scikit-learn's own tests of its multilayer perceptrons, as shipped, on our classes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastnn.sklearn import MLPClassifier, MLPRegressor

HERE = Path(__file__).parent


@pytest.mark.slow
def test_scikit_learns_shipped_tests_pass_and_dense_fits_are_ours(tmp_path):
    environment = {**os.environ, "FASTNN_FITS": str(tmp_path / "fits")}
    paths = [str(HERE / "sklearn_stand_in"), str(HERE.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "stand_in", "-p", "no:cacheprovider"]
    command += ["-c", os.devnull, f"--rootdir={tmp_path}"]
    command += ["--pyargs", "sklearn.neural_network.tests.test_mlp"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    fits = [line.split("\t") for line in (tmp_path / "fits").read_text().splitlines()]
    assert len(fits) > 100
    # One of the tests trains on numbers near the end of the range, which is for scikit-learn's code.
    others = [fit[2] for fit in fits if fit[1] == "dense" and not fit[0].startswith("fastnn")]
    assert all(reason.startswith("numbers of X are beyond") for reason in others)
    assert len(others) < 3


# Older versions give an iterator, which pytest is about to refuse.
CHECKS = parametrize_with_checks([MLPClassifier(max_iter=20), MLPRegressor(max_iter=20)]).mark


@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_of_estimators(estimator, check):
    check(estimator)
