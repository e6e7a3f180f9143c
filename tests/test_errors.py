"""The door: what is legal input, what it becomes, and what the messages say; and the exceptions."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fastnn as fn
from fastnn import errors

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)

# ---------------------------------------------------------------- matrices


def padded(dtype: Any) -> Any:
    return np.arange(40, dtype=dtype).reshape(5, 8)[:, 2:6]


def read_only() -> Any:
    x = np.arange(20, dtype=np.float32).reshape(5, 4)
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    "x",
    [
        np.arange(20, dtype=np.float32).reshape(5, 4),
        padded(np.float32),
        read_only(),
        np.arange(20, dtype=np.float32).reshape(5, 4)[::2],
        np.broadcast_to(np.arange(4, dtype=np.float32), (3, 4)),
        np.zeros((0, 4), np.float32),
    ],
    ids=["plain", "padded rows", "read-only", "every second row", "one row broadcast", "no rows"],
)
def test_fit_matrices_are_not_copied(x: Any) -> None:
    found = errors.matrix("x", x, 4, F32)
    assert found is x or np.shares_memory(found, x) or x.size == 0
    np.testing.assert_array_equal(found, x)


def test_a_column_made_from_a_vector_is_not_copied() -> None:
    for x in (np.arange(5.0)[:, None], np.arange(10.0)[::2].reshape(-1, 1)):
        found = errors.matrix("x", x, 1, F64)
        assert np.shares_memory(found, x)
        np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize(
    "x",
    [
        np.asfortranarray(np.arange(20, dtype=np.float32).reshape(5, 4)),
        np.arange(20, dtype=np.float32).reshape(5, 4)[::-1],
        np.arange(20, dtype=np.float32).reshape(5, 4)[:, ::-1],
        np.arange(40, dtype=np.float32).reshape(5, 8)[:, ::2],
        np.arange(20, dtype=np.float64).reshape(5, 4),
        np.arange(20, dtype=">f4").reshape(5, 4),
        np.arange(20, dtype=np.float16).reshape(5, 4),
        np.arange(20).reshape(5, 4),
        np.arange(20).reshape(5, 4) % 2 == 0,
        np.arange(20).reshape(5, 4).tolist(),
        np.frombuffer(b"\0" + np.arange(20, dtype=np.float32).tobytes(), np.float32, 20, 1).reshape(5, 4),
    ],
    ids=[
        "Fortran",
        "rows backwards",
        "columns backwards",
        "every second column",
        "float64",
        "byte-swapped",
        "float16",
        "integers",
        "bools",
        "lists",
        "not aligned",
    ],
)
def test_other_matrices_are_converted_once(x: Any) -> None:
    found = errors.matrix("x", x, 4, F32)
    assert found.dtype == F32
    assert found.dtype.isnative
    assert found.flags.aligned
    assert found.strides == (16, 4)
    np.testing.assert_array_equal(found, np.asarray(x, dtype=np.float32))


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (np.zeros((10, 3)), ValueError, r"x must have 4 columns, got shape \(10, 3\)"),
        (np.zeros(4), ValueError, r"x must be 2-D \(rows, 4\), got shape \(4,\); x\.reshape\(1, -1\)"),
        (np.zeros((2, 2, 4)), ValueError, "x must be 2-D"),
        (np.float32(3), ValueError, r"x must be 2-D .* got shape \(\)"),
        (np.full((2, 4), "a"), TypeError, "x must hold real numbers, got dtype <U1"),
        (np.full((2, 4), None), TypeError, "x must hold real numbers, got dtype object"),
        (np.zeros((2, 4), complex), TypeError, "x must hold real numbers, got dtype complex128"),
        ([[1, 2, 3, 4], [1, 2]], ValueError, "x must be an array of one shape"),
        (np.full((2, 4), 1e300), ValueError, "x has values too large for float32"),
    ],
)
def test_wrong_matrices_are_named(x: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        errors.matrix("x", x, 4, F32)


def test_a_matrix_without_columns_is_refused_where_any_number_is_legal() -> None:
    with pytest.raises(ValueError, match=r"x must have at least one column, got shape \(3, 0\)"):
        errors.matrix("x", np.zeros((3, 0)), None, F32)


def test_a_sparse_matrix_is_told_how_to_become_dense() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"pass x\.toarray\(\)"):
        errors.matrix("x", sparse.eye(4).tocsr(), 4, F32)


def test_nan_and_inf_pass_the_door_without_a_warning() -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 0.0]])
    np.testing.assert_array_equal(errors.matrix("x", x, 4, F32), x)


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize(
    "y", [[0, 2, 1], np.array([[0], [2], [1]]), np.array([0, 2, 1], np.uint8), np.array([0, 2, 1], ">i4")]
)
def test_labels_become_int64(y: Any) -> None:
    found = errors.labels("y", y, 3, 3)
    assert found.dtype == np.int64
    assert found.dtype.isnative
    assert found.tolist() == [0, 2, 1]


def test_bools_are_labels_of_two_classes() -> None:
    assert errors.labels("y", np.array([True, False]), 2, 2).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("y", "error", "text"),
    [
        ([0, 1, 3], ValueError, "y must hold labels from 0 to 2, got 3 in row 2"),
        ([0, -1, 3], ValueError, "got -1 in row 1"),
        (np.array([0, 1, 2**63], np.uint64), ValueError, "got 9223372036854775808 in row 2"),
        ([0.0, 1.0, 2.0], TypeError, r"y must hold integer labels, got dtype float64; use y\.astype\(int\)"),
        (["a", "b", "c"], TypeError, r"np\.unique\(y, return_inverse=True\)"),
        ([0, 1], ValueError, r"y must have shape \(3,\), got \(2,\)"),
        (np.eye(3, dtype=int), ValueError, r"y\.argmax\(axis=1\) turns one-hot rows into labels"),
    ],
)
def test_wrong_labels_are_named(y: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        errors.labels("y", y, 3, 3)


def test_with_an_order_only_its_targets_are_looked_at() -> None:
    order = np.array([[0, 2], [2, 0]])
    assert errors.labels("y", [0, 99, 1], 3, 2, order).tolist() == [0, 99, 1]
    assert errors.values("y", [0.5, np.nan, 1], 3, 1, F32, None, order).shape == (3, 1)
    with pytest.raises(ValueError, match="got 99 in row 1"):
        errors.labels("y", [0, 99, 1], 3, 2, np.array([[0, 1]]))
    with pytest.raises(ValueError, match="got nan in row 1"):
        errors.values("y", [0.5, np.nan, 1], 3, 1, F32, None, np.array([[2, 1]]))


def test_one_output_takes_vectors_and_columns() -> None:
    for y in ([1, 2, 3], [[1], [2], [3]], np.array([1.0, 2.0, 3.0])):
        found = errors.values("y", y, 3, 1, F32)
        assert found.dtype == F32
        assert found.tolist() == [[1.0], [2.0], [3.0]]


@pytest.mark.parametrize(
    ("y", "n_out", "text"),
    [
        (np.zeros((3, 2)), 1, r"y must have shape \(3,\) or \(3, 1\), got \(3, 2\)"),
        (np.zeros(3), 2, r"y must have shape \(3, 2\), got \(3,\)"),
        (np.zeros((1, 2)), 2, r"y must have shape \(3, 2\), got \(1, 2\)"),
        ([[0, 0], [0, np.nan], [0, 0]], 2, "y must be finite, got nan in row 1"),
        ([0.0, 1.5, 0.0], 1, r"y must lie from 0 to 1, got 1\.5 in row 1"),
        ([0.0, 1.0, -1.0], 1, r"y must lie from 0 to 1, got -1\.0 in row 2"),
    ],
)
def test_wrong_values_are_named(y: Any, n_out: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        errors.values("y", y, 3, n_out, F32, (0.0, 1.0))


@pytest.mark.parametrize(
    ("w", "text"),
    [
        ([1, 2], r"sample_weight must have shape \(3,\), got \(2,\)"),
        ([1, -1, 1], r"must be finite and not negative, got -1\.0 in row 1"),
        ([1, 1, np.nan], "got nan in row 2"),
        ([1, np.inf, 1], "got inf in row 1"),
        ([0, 0, 0], "sample_weight must not be all zero"),
    ],
)
def test_wrong_weights_are_named(w: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        errors.sample_weights("sample_weight", w, 3)


def test_weights_become_float64() -> None:
    found = errors.sample_weights("sample_weight", [0, 1, 2], 3)
    assert found is not None
    assert found.dtype == F64
    assert errors.sample_weights("sample_weight", None, 3) is None


@pytest.mark.parametrize(
    ("order", "error", "text"),
    [
        (
            [0, 1],
            ValueError,
            r"order must be 2-D \(steps, batch\), got shape \(2,\); order\.reshape\(1, -1\)",
        ),
        ([[0, 3]], ValueError, "order must hold row numbers from 0 to 2, got 3"),
        ([[-1, 0]], ValueError, "got -1"),
        ([[0.0, 1.0]], TypeError, "order must hold integers, got dtype float64"),
    ],
)
def test_wrong_orders_are_named(order: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        errors.row_order("order", order, 3)


# ---------------------------------------------------------------- what came, on one line


LARGE = np.zeros((300, 6))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: fn.Dense(LARGE), "units must be an integer, got ndarray of shape (300, 6)"),
        (
            lambda: fn.Sequential(LARGE),
            "layer 0 must be a layer such as Dense, got ndarray of shape (300, 6)",
        ),
        (lambda: fn.Adam(LARGE), "lr must be a number, got ndarray of shape (300, 6)"),
        (lambda: fn.set_num_threads(LARGE), "n must be an integer, got ndarray of shape (300, 6)"),
        (lambda: fn.data.split(LARGE, test=LARGE), "test must be a number, got ndarray of shape (300, 6)"),
        (lambda: fn.data.split([1]), "arrays must have two rows or more, got 1"),
        (lambda: fn.data.split(LARGE, test=0), "test must be above 0 and below 1, got 0"),
        (
            lambda: fn.load("a" * 500 + "\0"),
            f"path must be a text that is not empty and has no NUL, got '{'a' * 199}...",
        ),
        (lambda: fn.Dense([[1], "a\n"] * 90), "units must be an integer, got [[1], 'a\\n', [1], "),
    ],
)
def test_large_values_are_told_on_one_line(call: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value).startswith(text)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- exceptions


def test_divergence_error_keeps_its_attributes_through_pickle() -> None:
    error = fn.DivergenceError("so", step_in_call=3, layer=1, loss_sum=2.5, weight_sum=4.0, epoch=2)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, FloatingPointError)
    assert str(again) == "so"
    assert vars(again) == vars(error)
    assert (again.step_in_call, again.layer, again.loss_sum, again.epoch, again.batch) == (3, 1, 2.5, 2, None)


def test_not_fitted_error_is_value_and_attribute_error() -> None:
    model = fn.Sequential(fn.Dense(3))
    for error in (ValueError, AttributeError, fn.NotFittedError):
        with pytest.raises(error, match="no parameters yet"):
            model.predict([[1.0]])
    assert not hasattr(model, "parameters")


def test_not_fitted_error_is_scikit_learns_where_that_is_loaded() -> None:
    code = (
        "import sys, pickle, fastnn as fn\n"
        "plain = fn.NotFittedError('a')\n"
        "assert 'sklearn' not in sys.modules and type(plain) is fn.NotFittedError\n"
        "from sklearn.exceptions import NotFittedError\n"
        "try: fn.Sequential(fn.Dense(1)).parameters\n"
        "except NotFittedError as error: caught = error\n"
        "assert isinstance(caught, fn.NotFittedError)\n"
        "again = pickle.loads(pickle.dumps(caught))\n"
        "assert isinstance(again, NotFittedError) and again.args == caught.args\n"
    )
    pytest.importorskip("sklearn")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_device_and_format_errors_have_their_bases() -> None:
    assert issubclass(fn.DeviceError, RuntimeError)
    assert issubclass(fn.FormatError, ValueError)
