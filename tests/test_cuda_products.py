"""Products of captured steps by cublasLt, with a stand-in for the library and for CuPy. Needs no card.

The stand-in judges what it is given as cublasLt.h has it and computes on the host, so that all of the way
through ctypes is gone; that a card's library does as much is tried where one is: test_gpu.py.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import cublaslt_on_cpu
import cuda_on_cpu
import numpy as np
import pytest
from cuda_stand_in import StandIn, Stream, as_numpy

import fastnn as fn
from fastnn import errors
from fastnn.devices import cuda_cards, cuda_cublaslt, cuda_products
from fastnn.devices.cuda_cublaslt import WORKSPACE, CublasError, Library, Matmul, NotSupported

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="needs a C++ compiler")

F32 = np.float32
N, N_IN = 90, 9
X = np.random.default_rng(0).standard_normal((N, N_IN)).astype(F32)
Y = np.random.default_rng(1).integers(0, 4, N)


@pytest.fixture(autouse=True)
def shim(monkeypatch: pytest.MonkeyPatch) -> cublaslt_on_cpu.Shim:
    """A card with cublasLt, for which products of two rows are large."""
    monkeypatch.setattr(cuda_cards, "_cupy", lambda device: StandIn())
    monkeypatch.setattr(errors, "_as_numpy", as_numpy)
    monkeypatch.setattr(cuda_products, "LEAST_FLOPS", 0)
    monkeypatch.setattr(cuda_products, "LEAST_SIDE", 2)
    monkeypatch.setattr(cuda_cublaslt, "find", lambda: str(cublaslt_on_cpu.path()))
    return cublaslt_on_cpu.Shim()


# ---------------------------------------------------------------- one product


def aligned(shape: tuple[int, ...], dtype: Any = F32) -> Any:
    """Zeros at an address that cuBLAS would be given."""
    room = np.zeros(int(np.prod(shape)) * np.dtype(dtype).itemsize + 256, np.uint8)
    begin = -room.ctypes.data % 256
    return room[begin : begin + int(np.prod(shape)) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


def random(*shape: int) -> Any:
    found = aligned(shape)
    found[...] = np.random.default_rng(sum(shape)).standard_normal(shape)
    return found


def at(array: Any) -> int:
    return int(array.ctypes.data)


def queued(matmul: Matmul, a: Any, b: Any, d: Any) -> None:
    stream, workspace = Stream(), aligned((WORKSPACE,), np.uint8)
    matmul(at(a), at(b), at(d), at(workspace), stream.ptr)
    assert not d.any() or d.max() != 0
    stream.synchronize()


SAME = np.asarray
FORMS = {"nn": (SAME, SAME), "nt": (SAME, np.transpose), "tn": (np.transpose, SAME)}


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-5), ("tf32", 1e-2), ("bf16", 1e-1)])
@pytest.mark.parametrize("form", list(FORMS))
def test_rows_come_first_in_all_forms(form: str, precision: str, most: float) -> None:
    m, n, k = 5, 7, 11
    a = random(k, m) if form == "tn" else random(m, k)
    b = random(n, k) if form == "nt" else random(k, n)
    d, library = aligned((m, n)), Library(cuda_cublaslt.find())
    queued(Matmul(library, form, (m, n, k), precision), a, b, d)
    left, right = FORMS[form]
    away = np.abs(d - left(a).astype(float) @ right(b)).max()
    assert away < most
    assert precision == "float32" or away > 1e-5
    # d = beta d + alpha a b, with factors on the card
    factors, before = aligned((2,)), random(m, n)
    factors[...], d[...] = (-0.5, 0.25), before
    queued(Matmul(library, form, (m, n, k), precision, factors=at(factors)), a, b, d)
    np.testing.assert_allclose(d, 0.25 * before - 0.5 * (left(a).astype(float) @ right(b)), atol=most)


def test_what_is_fused_forward_and_back() -> None:
    m, n, k = 6, 130, 9  # more columns than a mask's 128 bits
    library, bits = Library(cuda_cublaslt.find()), 256
    x, w, bias, out, mask = random(m, k), random(k, n), random(n), aligned((m, n)), aligned((m, 32), np.uint8)
    z = x.astype(float) @ w + bias
    bent = np.maximum(z, 0)
    for epilogue, expected in (("bias", z), ("relu_bias", bent), ("relu_aux_bias", bent)):
        given = {"bias": at(bias), "mask": (at(mask), bits) if "aux" in epilogue else (0, 0)}
        queued(Matmul(library, "nn", (m, n, k), "float32", epilogue, **given), x, w, out)
        np.testing.assert_allclose(out, expected, atol=1e-5)
    shown = np.unpackbits(mask, axis=1, bitorder="little")[:, :n]
    np.testing.assert_array_equal(shown, z > 0)
    # The gradient at z of this layer, from that of the next.
    da, next_w, below, sums = random(m, 3), random(n, 3), aligned((m, n)), aligned((n,))
    given = {"bias": at(sums), "mask": (at(mask), bits)}
    queued(Matmul(library, "nt", (m, n, 3), "float32", "drelu_bgrad", **given), da, next_w, below)
    expected = (da.astype(float) @ next_w.T) * (z > 0)
    np.testing.assert_allclose(below, expected, atol=1e-5)
    np.testing.assert_allclose(sums, expected.sum(axis=0), atol=1e-5)
    # The gradient of the weights, and the sums of its second factor.
    g = aligned((k, n))
    queued(Matmul(library, "tn", (k, n, m), "float32", "bgrada", at(sums)), x, below, g)
    np.testing.assert_allclose(g, x.T.astype(float) @ below, atol=1e-5)
    np.testing.assert_allclose(sums, below.sum(axis=0), atol=1e-5)


def test_statuses_are_errors_with_names(shim: cublaslt_on_cpu.Shim, tmp_path: Any) -> None:
    library = Library(cuda_cublaslt.find())
    assert library.name == "cublasLt 12.9.3"
    for text, given in (
        ("MatmulAlgoGetHeuristic gave status 7, INVALID_VALUE", {"epilogue": "bias"}),
        (
            "MatmulAlgoGetHeuristic gave status 7, INVALID_VALUE",
            {"epilogue": "relu_aux", "mask": (4096, 64)},
        ),
        ("MatmulPreferenceSetAttribute gave status 7", {"alignment": (3, 256, 256)}),
    ):
        with pytest.raises(CublasError, match=text):
            Matmul(library, "nn", (4, 4, 4), "float32", **given)
    matmul = Matmul(library, "nn", (4, 4, 4), "float32")
    with pytest.raises(CublasError, match="cublasLtMatmul gave status 7"):
        matmul(0, 0, 0, 0, 1)
    shim.quirk("no algorithm")
    with pytest.raises(NotSupported, match="no algorithm"):
        Matmul(library, "nn", (4, 4, 4), "float32")
    shim.quirk("no card")
    with pytest.raises(CublasError, match="Create gave status 1, NOT_INITIALIZED"):
        Library(cuda_cublaslt.find())
    shim.quirk("version", 110500)
    with pytest.raises(CublasError, match="of version 120000 or newer, got 110500"):
        Library(cuda_cublaslt.find())
    with pytest.raises(CublasError, match="could not be loaded"):
        Library(str(tmp_path / "missing.so"))


def test_handles_and_descriptors_are_ended(shim: cublaslt_on_cpu.Shim, request: Any) -> None:
    gc.collect()
    gc.freeze()  # what is there now is looked through no more
    request.addfinalizer(gc.unfreeze)
    before, library = shim.n_live, Library(cuda_cublaslt.find())
    matmul = Matmul(library, "nn", (4, 4, 4), "float32")
    assert shim.n_live == before + 1 + 1 + 3
    del matmul
    gc.collect()
    assert shim.n_live == before + 1
    del library
    gc.collect()
    assert shim.n_live == before


# ---------------------------------------------------------------- trainings


def trainer_on(
    device: str, *given: Any, optimizer: Any = None, loss: Any = "cross_entropy", **more: Any
) -> Any:
    layers = given or (fn.Dense(13, activation="relu"), fn.Dense(11, activation="relu"), fn.Dense(4))
    return fn.Trainer(
        fn.Sequential(*layers), loss=loss, optimizer=optimizer or fn.SGD(0.1), seed=3, device=device, **more
    )


def both(*given: Any, optimizer: Any = None, y: Any = Y, loss: Any = "cross_entropy", **fit: Any) -> Any:
    """Trained alike on both devices; gives that of the card."""
    found = []
    for device in ("cpu", "cuda"):
        trainer = trainer_on(device, *given, optimizer=optimizer, loss=loss)
        trainer.fit(X, y, **{"epochs": 2, "batch_size": 32, "progress": False, **fit})
        found.append(trainer)
    theirs, ours = found
    np.testing.assert_allclose(ours.history["loss"], theirs.history["loss"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.model.parameters, theirs.model.parameters, rtol=0, atol=5e-6)
    return ours


def used(trainer: Any, rows: int = 32) -> dict[str, str]:
    """What the products with so many rows are."""
    found = trainer._program.products.by_product
    end = f", {rows} rows"
    return {name.removesuffix(end): text for name, text in found.items() if name.endswith(end)}


def test_a_training_by_plain_sgd_has_all_fused(shim: cublaslt_on_cpu.Shim) -> None:
    trainer = both(optimizer=fn.SGD(0.1, weight_decay=0.01))
    assert trainer._program.products.provider == "cublasLt 12.9.3"
    assert trainer._program.products.reason is None
    assert used(trainer) == used(trainer, 26)  # the rest of an epoch has the same
    assert used(trainer) == {
        "layer 0 forward": "relu_aux_bias",
        "layer 1 forward": "relu_aux_bias",
        "layer 2 forward": "bias",
        "layer 2 down": "drelu_bgrad",
        "layer 1 down": "drelu_bgrad",
        "layer 2 weights": "bgrada with the update",
        "layer 1 weights": "default with the update",
        "layer 0 weights": "default with the update",
    }
    assert shim.n_products > 50


GROUPS = [fn.Group(layers=(1,), frozen=True), fn.Group(weights=("*.bias",), lr_factor=0.5)]


@pytest.mark.parametrize(
    ("optimizer", "is_plain"),
    [
        (fn.Adam(0.01, weight_decay=0.01), False),
        (fn.SGD(0.1, momentum=0.9, nesterov=True), False),
        (fn.SGD(0.1, clip_norm=0.5), False),
        (fn.SGD(0.1, clip_value=0.01), False),
        (fn.SGD(0.1, l1=1e-3), False),
        (fn.SGD(0.1, ema=0.9, groups=GROUPS), True),
        (fn.SGD(fn.schedules.Cosine(0.1, 6)), True),
    ],
    ids=["adam", "momentum", "norm", "value", "l1", "groups", "schedule"],
)
def test_optimizers(optimizer: Any, is_plain: bool) -> None:
    trainer = both(optimizer=optimizer)
    assert ("with the update" in used(trainer)["layer 0 weights"]) == is_plain
    if optimizer.groups:
        assert used(trainer)["layer 1 weights"] == "default"  # frozen


def test_all_kinds_of_layers() -> None:
    given = (
        fn.Scale(0.5, 0.1),
        fn.Dense(13, activation="gelu"),
        fn.Dropout(0.3),
        fn.Dense(12, activation="tanh"),
        fn.Dense(14, activation="relu", bias=False),
        fn.Dense(11, activation="softmax"),
        fn.Activation("silu"),
        fn.Dense(4, bias=False),
    )
    trainer = both(*given)
    found = used(trainer)
    assert found["layer 1 forward"] == found["layer 3 forward"] == "bias"
    assert found["layer 4 forward"] == "relu_aux"
    assert found["layer 5 down"] == "drelu"
    assert found["layer 5 weights"] == "bgrada with the update"
    assert found["layer 7 forward"] == "default"
    assert found["layer 7 down"] == "default"


def test_losses_of_values_weights_and_a_penalty() -> None:
    y = np.random.default_rng(2).standard_normal((N, 4)).astype(F32)
    both(y=y, loss="mse", sample_weight=np.random.default_rng(3).uniform(0, 2, N))
    from fastnn.sklearn import MLPClassifier, base

    found = []
    for device in ("cpu", "cuda"):
        given = {"solver": "sgd", "momentum": 0.0, "alpha": 0.1, "batch_size": 30, "max_iter": 2}
        one = MLPClassifier((13,), **given, random_state=0, device=device)
        for _ in range(2):
            one.partial_fit(X, Y, classes=range(4))
        found.append([*one.coefs_, *one.intercepts_])
    products = base._NETWORKS[one].program.products
    assert products.provider
    assert not any("update" in text for text in products.by_product.values())
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("precision", "most"), [("tf32", 2e-3), ("bf16", 2e-2)])
def test_rounded_products_train_nearly_alike(precision: str, most: float) -> None:
    theirs, ours = trainer_on("cpu"), trainer_on("cuda", precision=precision)
    for one in (theirs, ours):
        one.fit(X, Y, epochs=3, batch_size=32, progress=False)
    away = np.abs(np.subtract(theirs.history["loss"], ours.history["loss"]))
    assert 1e-7 < away.max() < most
    assert used(ours)["layer 0 weights"] == "default with the update"


# ---------------------------------------------------------------- what the library does otherwise


@pytest.mark.parametrize(
    ("quirk", "value", "expected"),
    [
        ("no epilogue", 134, {"layer 1 forward": "relu_bias (relu_aux_bias: not supported)"}),
        ("no epilogue", 152, {"layer 1 down": "default (drelu_bgrad: not supported)"}),
        ("no epilogue", 256, {"layer 2 weights": "default with the update (bgrada with the update: not"}),
        ("no folding", 1, {"layer 0 weights": "default (default with the update: not supported)"}),
        ("hides nan", 1, {"layer 0 forward": "bias (relu_aux_bias: hides NaN; relu_bias: hides NaN)"}),
        ("mask at zero", 1, {"layer 1 down": "default (drelu_bgrad: it differs by"}),
        ("wrong sums", 1, {"layer 2 weights": "default with the update (bgrada with the update: its sums"}),
        ("wrong", 1, {"layer 0 weights": "own kernel (default with the update: it differs by"}),
        ("nothing", 1, {"layer 1 forward": "own kernel (relu_aux_bias: not supported; relu_bias: not"}),
    ],
)
def test_what_differs_is_left_out_and_told(
    quirk: str, value: int, expected: dict[str, str], shim: cublaslt_on_cpu.Shim
) -> None:
    shim.quirk(quirk, value)
    trainer = both(epochs=1)
    found = used(trainer)
    for name, text in expected.items():
        assert found[name].startswith(text), found[name]


def test_masks_live_as_long_as_the_products_that_use_them(
    shim: cublaslt_on_cpu.Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_products.Planned, "_try_weights", lambda *_: "it differs")
    trainer = both(epochs=1)
    found = used(trainer)
    assert found["layer 1 weights"].startswith("own kernel")
    assert found["layer 1 forward"] == "relu_aux_bias"
    assert found["layer 2 down"] == "drelu_bgrad"
    assert kept_masks(trainer) == [{0, 1}] * 2
    shim.quirk("no epilogue", 134)
    trainer = both(epochs=1)
    assert used(trainer)["layer 1 forward"].startswith("relu_bias (")
    assert kept_masks(trainer) == [set()] * 2


def kept_masks(trainer: Any) -> list[set[int]]:
    """For each batch size, the steps whose slopes are kept as bits."""
    return [set(batch.planned._masks) for batch in trainer._program._captured._batches.values()]


def test_less_precision_than_was_asked_for_is_seen(shim: cublaslt_on_cpu.Shim) -> None:
    shim.quirk("always tf32")
    trainer = trainer_on("cuda", fn.Dense(70, activation="relu"), fn.Dense(70), fn.Dense(4))
    trainer.fit(X, Y, batch_size=90, progress=False)
    found = used(trainer, 90)
    for what in ("forward", "down", "weights"):
        assert found[f"layer 1 {what}"].startswith("own kernel"), found


def test_a_capture_that_fails_leaves_all_to_our_kernels(shim: cublaslt_on_cpu.Shim) -> None:
    shim.refuses_capture = True
    trainer = both(epochs=1)
    products = trainer._program.products
    assert products.provider is None
    assert "could not be captured: CublasError: cublasLtMatmul gave status 14" in products.reason
    assert not products.by_product
    before = shim.n_products
    trainer.fit(X, Y, batch_size=30, progress=False)
    assert shim.n_products == before


def test_without_the_library_our_kernels_have_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.undo()  # the search itself
    monkeypatch.setattr(cuda_cards, "_cupy", lambda device: StandIn())
    monkeypatch.setattr(errors, "_as_numpy", as_numpy)
    monkeypatch.setattr(cuda_products, "LEAST_FLOPS", 0)
    monkeypatch.setattr(cuda_products, "LEAST_SIDE", 2)
    monkeypatch.setitem(__import__("sys").modules, "cuda.pathfinder", None)
    products = both(epochs=1)._program.products
    assert products.provider is None
    assert "cublasLt was not found (" in products.reason
    monkeypatch.setattr(cuda_cublaslt, "find", lambda: str(tmp_path / "none.so"))
    assert "could not be loaded" in both(epochs=1)._program.products.reason
    monkeypatch.setenv("FASTNN_CUDA_PRODUCTS", "own")
    assert both(epochs=1)._program.products.reason == "FASTNN_CUDA_PRODUCTS=own"
    monkeypatch.setenv("FASTNN_CUDA_PRODUCTS", "yes")
    with pytest.raises(ValueError, match="FASTNN_CUDA_PRODUCTS must be 'own' or not set, got 'yes'"):
        trainer_on("cuda").partial_fit(X, Y)


def test_small_products_ask_for_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(cuda_cards, "_cupy", lambda device: StandIn())
    monkeypatch.setattr(errors, "_as_numpy", as_numpy)
    products = both(epochs=1)._program.products
    assert (products.provider, products.reason, products.by_product) == (None, None, {})
    assert cuda_products.is_large(1024, 4096, 4096)
    assert not cuda_products.is_large(128, 128, 784)
    assert not cuda_products.is_large(1 << 20, 64, 4096)


# ---------------------------------------------------------------- trainings that break


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    x = X.copy()
    x[50, 3] = np.nan
    for device in ("cpu", "cuda"):
        trainer = trainer_on(device)
        trainer.partial_fit(X[:20], Y[:20])
        before = trainer.model.parameters.copy()
        with pytest.raises(fn.DivergenceError, match="x itself"):
            trainer.run(x, Y, [[50, 1, 2]] + [[3, 4, 5]] * 20)
        np.testing.assert_array_equal(trainer.model.parameters, before)
    found = []
    for device in ("cpu", "cuda"):
        trainer = trainer_on(device, optimizer=fn.SGD(1e30))
        with pytest.raises(fn.DivergenceError, match="layer") as met:
            trainer.run(X, Y, np.arange(40).reshape(20, 2))
        found.append((met.value.step_in_call, met.value.layer, trainer.step))
        assert device == "cpu" or "update" in used(trainer, 2)["layer 0 weights"]
    assert found[0] == found[1]


def test_struct_sizes_are_those_of_the_header() -> None:
    assert ctypes.sizeof(cuda_cublaslt._Algorithm) == 64
    assert ctypes.sizeof(cuda_cublaslt._Found) == 96
