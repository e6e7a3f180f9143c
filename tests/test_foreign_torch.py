"""Tensors of PyTorch, and JAX's arrays, through the door and through `fastnn.ops`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastnn as fn  # noqa: E402
from fastnn import errors, ops  # noqa: E402

pytestmark = pytest.mark.torch

SINGLE = np.dtype(np.float32)
NUMBERS = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
LABELS = np.arange(12) % 3


def tensor(dtype: Any = None) -> Any:
    return torch.tensor(NUMBERS, dtype=dtype)


def in_compressed_rows() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls the layout young
        return tensor().to_sparse_csr()


def place(found: np.ndarray) -> int:
    return int(found.__array_interface__["data"][0])


@pytest.fixture(scope="module")
def model() -> fn.Sequential:
    return fn.Sequential(fn.Dense(5, activation="relu"), fn.Dense(3)).build(4, seed=1)


@pytest.mark.parametrize(
    "make",
    {
        "plain": tensor,
        "rows of a wider one": lambda: torch.cat([tensor(), tensor()], 1)[:, :4],
        "every other row": lambda: tensor().repeat_interleave(2, 0)[::2],
        "parameter in no_grad": lambda: torch.nn.Parameter(tensor()),
        "made in inference mode": lambda: torch.inference_mode()(tensor)(),
    }.items(),
    ids=lambda v: v[0],
)
def test_a_tensor_is_read_where_it_lies(make: Any, model: fn.Sequential) -> None:
    value = make[1]()
    with torch.no_grad():
        found = errors.matrix("x", value, 4, SINGLE)
        assert place(found) == value.data_ptr()
        np.testing.assert_array_equal(model.predict(value), model.predict(NUMBERS))
        out = torch.empty(12, 3)
        assert model.compile()(value, out) is out
    np.testing.assert_array_equal(out, model.predict(NUMBERS))


@pytest.mark.parametrize(
    "make",
    {
        "columns side by side": lambda: tensor().T.contiguous().T,
        "float64": lambda: tensor(torch.float64),
        "flipped": lambda: tensor().flip(0).flip(0),
        "negated lazily": lambda: torch.complex(tensor(), -tensor()).conj().imag,
        "view of turned rows": lambda: torch.from_numpy(np.ascontiguousarray(NUMBERS[::-1]).copy()).flip(0),
    }.items(),
    ids=lambda v: v[0],
)
def test_a_tensor_that_lies_otherwise_is_converted(make: Any, model: fn.Sequential) -> None:
    value = make[1]()
    np.testing.assert_array_equal(errors.matrix("x", value, 4, SINGLE), NUMBERS)
    np.testing.assert_array_equal(model.predict(value), model.predict(NUMBERS))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32", "uint8", "bool", "float8_e4m3fn"])
def test_types_that_numpy_has_not_are_widened_too(dtype: str, model: fn.Sequential) -> None:
    value = (tensor() * 3).to(torch.float32).round().abs().to(getattr(torch, dtype))
    wanted = value.float().numpy()
    np.testing.assert_array_equal(errors.matrix("x", value, 4, SINGLE), wanted)
    np.testing.assert_array_equal(model.predict(value), model.predict(wanted))


def test_what_cannot_be_read_says_what_to_do(model: fn.Sequential) -> None:
    for make, text in (
        (lambda: tensor().requires_grad_(), "x must be a tensor without gradient, .* pass x.detach"),
        (lambda: tensor().to_sparse(), "x must be a dense array, got a tensor of layout .*; pass x.to_dense"),
        (in_compressed_rows, "x must be a dense array, got .*sparse_csr; pass x.to_dense"),
        (lambda: tensor().to("meta"), "x must be an array that NumPy can read, got torch.Tensor"),
        (lambda: tensor() * 1j, "x must hold real numbers, got dtype complex64"),
        (lambda: [tensor()[0].requires_grad_()] * 3, "x must be an array"),
    ):
        with pytest.raises(TypeError, match=text):
            model.predict(make())
    negated = torch.complex(tensor(), tensor()).conj().imag  # the memory holds the numbers as they were
    with pytest.raises(TypeError, match=r"out must be .* whose memory NumPy can write, got torch.float32 of"):
        ops.relu(tensor(), out=negated)
    with pytest.raises(TypeError, match="x must be a tensor without gradient"):
        model.compile()(tensor().requires_grad_())
    with pytest.raises(TypeError, match=r"z must be a tensor without gradient"):
        ops.relu(tensor().requires_grad_())
    with pytest.raises(TypeError, match=r"out must be a tensor without gradient"):
        ops.relu(tensor(), out=tensor().requires_grad_())


def test_every_door_of_a_trainer_takes_tensors() -> None:
    def trained(x: Any, y: Any, weight: Any, order: Any) -> list[Any]:
        net = fn.Sequential(fn.Dense(5, activation="tanh"), fn.Dense(3))
        trainer = fn.Trainer(net, loss="cross_entropy", optimizer="adam", metrics=["accuracy"], seed=3)
        history = trainer.fit(
            x, y, epochs=2, batch_size=5, sample_weight=weight, validation_data=(x, y), progress=False
        )
        found = [history["loss"], history["val_loss"], trainer.run(x, y, order, weight)]
        found += [trainer.partial_fit(x, y), trainer.gradient(x, y, weight)[0], trainer.evaluate(x, y)]
        return [*found, trainer.predict_proba(x).tolist(), net.parameters.tolist()]

    order, weight = np.arange(12).reshape(3, 4), LABELS + 1.0
    assert trained(*map(torch.tensor, (NUMBERS, LABELS, weight, order))) == trained(
        NUMBERS, LABELS, weight, order
    )


# ---------------------------------------------------------------- fastnn.ops

W, B = np.arange(12, dtype=np.float32).reshape(4, 3) / 7, np.ones(3, np.float32)


@pytest.mark.parametrize(
    "call",
    {
        "relu": lambda t: ops.relu(t(NUMBERS)),
        "gelu_backward": lambda t: ops.gelu_backward(t(NUMBERS), t(NUMBERS)),
        "exp": lambda t: ops.exp(t(NUMBERS)),
        "linear": lambda t: ops.linear(t(NUMBERS), t(W), t(B), activation="tanh"),
        "a list beside": lambda t: ops.linear(t(NUMBERS), W.tolist(), b=None),
        "an array beside": lambda t: ops.matmul(NUMBERS, t(W)),
        "linear_backward": lambda t: ops.linear_backward(t(NUMBERS[:, :3].copy()), t(NUMBERS), t(W)),
        "without dx": lambda t: ops.linear_backward(
            t(NUMBERS[:, :3].copy()), t(NUMBERS), t(W), need_dx=False
        ),
        "cross_entropy": lambda t: ops.cross_entropy(t(NUMBERS), t(LABELS), sample_weight=t(LABELS)),
        "mse": lambda t: ops.mse(t(NUMBERS), t(NUMBERS * 2)),
        "dropout": lambda t: ops.dropout(t(NUMBERS), 0.5, seed=1),
        "layer_norm_backward": lambda t: ops.layer_norm_backward(t(NUMBERS), t(NUMBERS), t(W[:, 0].copy())),
        "embedding": lambda t: ops.embedding(t(LABELS), t(W)),
        "softmax": lambda t: ops.softmax(t(NUMBERS.astype(np.float64))),
        "float16": lambda t: ops.tanh(t(NUMBERS.astype(np.float16))),
        "0-d": lambda t: ops.relu(t(np.array(2.0))),
        "empty": lambda t: ops.relu(t(np.empty((0, 3)))),
        "batch_norm": lambda t: ops.batch_norm(t(NUMBERS)),
        "prelu_backward": lambda t: ops.prelu_backward(t(NUMBERS), t(NUMBERS), 0.25),
    }.items(),
    ids=lambda v: v[0],
)
def test_tensors_in_give_tensors_out(call: tuple[str, Callable[[Any], Any]]) -> None:
    wanted, found = call[1](lambda a: a), call[1](torch.tensor)
    if not isinstance(wanted, tuple):
        wanted, found = (wanted,), (found,)
    assert len(found) == len(wanted)
    for theirs, ours in zip(found, wanted, strict=True):
        if isinstance(ours, np.ndarray):
            assert type(theirs) is torch.Tensor
            assert theirs.numpy().dtype == ours.dtype
            np.testing.assert_array_equal(theirs.numpy(), ours)
        else:
            assert theirs == ours
            assert type(theirs) is type(ours)


def test_bfloat16_gives_float32() -> None:
    found = ops.relu(tensor(torch.bfloat16))
    assert found.dtype == torch.float32
    assert torch.equal(found, tensor(torch.bfloat16).float().relu())


def test_out_is_filled_where_it_lies_and_given_back() -> None:
    z, out = tensor(), torch.empty(12, 4)
    version = out._version
    assert ops.relu(z, out=out) is out
    assert out._version > version
    np.testing.assert_array_equal(out, ops.relu(NUMBERS))
    assert ops.tanh(z, out=z) is z
    np.testing.assert_array_equal(z, ops.tanh(NUMBERS))
    padded = torch.zeros(12, 7)
    ops.relu(tensor(), out=padded[:, :4])
    np.testing.assert_array_equal(padded[:, :4], ops.relu(NUMBERS))
    assert (padded[:, 4:] == 0).all()
    y, mask = ops.dropout(tensor(), 0.5, seed=1, out=out)
    assert y is out
    assert type(mask) is torch.Tensor
    array = np.empty((12, 4), np.float32)
    ops.relu(tensor(), out=array)  # an array to be filled stays one, and comes back as a tensor of its memory
    np.testing.assert_array_equal(array, ops.relu(NUMBERS))


def test_out_that_is_not_right_is_refused_as_arrays_are() -> None:
    for out, error, text in (
        (
            torch.empty(12, 4, dtype=torch.bfloat16),
            TypeError,
            "out must be a float32 or float64 tensor .*bfloat16",
        ),
        (torch.empty(12, 4, dtype=torch.float64), TypeError, "out must have dtype float32, got <f8"),
        (torch.empty(4, 12), ValueError, r"out must have shape \(12, 4\), got \(4, 12\)"),
        (torch.empty(4, 12).T, ValueError, "out must be C-contiguous"),
    ):
        with pytest.raises(error, match=text):
            ops.relu(tensor(), out=out)
    z = torch.zeros(13, 4)
    with pytest.raises(ValueError, match="out must not partly overlap an input"):
        ops.relu(z[1:], out=z[:-1])


def test_steps_of_optimizers_change_parameters_in_place() -> None:
    linear = torch.nn.Linear(4, 3)
    wanted, gradient = linear.weight.detach().numpy().copy(), np.ones((3, 4), np.float32)
    states, theirs = [np.zeros((3, 4), np.float32) for _ in range(2)], [torch.zeros(3, 4) for _ in range(2)]
    where, version = linear.weight.data_ptr(), linear.weight._version
    with torch.no_grad():
        for step in (1, 2):
            ops.adam_update(wanted, gradient, *states, step=step)
            ops.adam_update(linear.weight, torch.tensor(gradient), *theirs, step=step)
    assert linear.weight.data_ptr() == where
    assert linear.weight._version > version
    np.testing.assert_array_equal(linear.weight.detach(), wanted)
    np.testing.assert_array_equal(theirs[0], states[0])
    with pytest.raises(TypeError, match="w must be a tensor without gradient"):
        ops.sgd_update(linear.weight, gradient)


def test_calls_that_are_wrong_are_told_as_python_tells_them() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'inplace'"):
        ops.relu(tensor(), inplace=True)
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        ops.relu(tensor(), tensor())
    with pytest.raises(TypeError, match="multiple values for argument 'z'"):
        ops.relu(tensor(), z=tensor())


# ---------------------------------------------------------------- JAX


# In a process of its own: once JAX is loaded, every later fork of this one warns.
JAX = """
import jax, numpy as np, pytest, fastnn as fn
from fastnn import errors, ops
numbers = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
model = fn.Sequential(fn.Dense(5, activation="relu"), fn.Dense(3)).build(4, seed=1)
value, single = jax.numpy.asarray(numbers), np.dtype(np.float32)
found = errors.matrix("x", value, 4, single)
assert found.__array_interface__["data"][0] == value.unsafe_buffer_pointer()
assert np.array_equal(model.predict(value), model.predict(numbers))
found = ops.relu(value)
assert type(found) is np.ndarray and np.array_equal(found, ops.relu(numbers))
small = value.astype(jax.numpy.bfloat16)
assert np.array_equal(errors.matrix("x", small, 4, single), np.asarray(small, np.float32))
with pytest.raises(TypeError, match="x must be an array that NumPy can read, got jax"):
    jax.jit(lambda x: model.predict(x))(value)
assert np.array_equal(model.compile()(value), model.predict(numbers))
with pytest.raises(TypeError) as caught:
    jax.grad(lambda x: ops.relu(x).sum())(value)
assert chr(10) not in str(caught.value)
with pytest.raises(TypeError, match="out must be a NumPy array"):
    ops.relu(numbers, out=value)
with pytest.raises(TypeError, match="out must be a writable"):
    model.compile()(numbers, jax.numpy.zeros((12, 3)))
"""


def test_arrays_of_jax_are_read_where_they_lie() -> None:
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed")
    subprocess.run([sys.executable, "-c", JAX], check=True)
