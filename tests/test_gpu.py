"""The device "cuda" on a card (make check-gpu): what test_cuda.py trains without one, and larger nets.

With FASTNN_REQUIRE_GPU=1 a missing card, driver or CuPy fails; without, the tests are skipped where it is so.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from layer_cases import NETWORKS
from loss_targets import targets_of
from test_ops_cards import CASES, as_type, copied

import fastnn as fn
from fastnn.devices import cuda, cuda_data, cuda_persistent, cuda_products

pytestmark = pytest.mark.gpu

F32 = np.float32
N, N_IN = 2000, 97
X = np.random.default_rng(0).standard_normal((N, N_IN)).astype(F32)
Y = np.random.default_rng(1).integers(0, 10, N)


@pytest.fixture(autouse=True, scope="module")
def card() -> Any:
    """CuPy with a card that answers."""
    try:
        return cuda.check("cuda")
    except fn.DeviceError as error:
        if os.environ.get("FASTNN_REQUIRE_GPU") == "1":
            pytest.fail(f"FASTNN_REQUIRE_GPU=1, but {error}")
        pytest.skip(str(error))


def trained(
    device: str, given: Any, x: Any, y: Any, loss: Any, optimizer: Any, precision: str, **fit: Any
) -> Any:
    model = fn.Sequential(*given)
    trainer = fn.Trainer(model, loss, optimizer, seed=3, device=device, precision=precision)
    trainer.fit(x, y, **{"epochs": 3, "batch_size": 128, "progress": False, **fit})
    return trainer


def both(
    given: Any, x: Any = X, y: Any = Y, loss: Any = "cross_entropy", optimizer: Any = None, **fit: Any
) -> Any:
    """Trained alike on CPU and card: losses within 1e-4. Gives that of the card."""
    optimizer = optimizer or fn.SGD(0.05, momentum=0.9)
    theirs, ours = (trained(d, given, x, y, loss, optimizer, "float32", **fit) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(ours.history["loss"], theirs.history["loss"], rtol=0, atol=1e-4)
    return ours


def test_a_hundred_steps_have_the_losses_of_the_cpu() -> None:
    pair = [
        fn.Trainer(
            fn.Sequential(fn.Dense(128, activation="relu"), fn.Dense(10)),
            "cross_entropy",
            "adam",
            seed=3,
            device=d,
        )
        for d in ("cpu", "cuda")
    ]
    for i in range(100):
        order = np.random.default_rng(i).integers(0, N, (1, 128))
        theirs, ours = (one.run(X, Y, order) for one in pair)
        assert abs(theirs - ours) < 1e-4


@pytest.mark.parametrize(
    "name", ["relu", "gelu", "silu", "mish", "tanh", "softplus", "hard_swish", "softmax"]
)
def test_activations_and_dropout(name: str) -> None:
    given = (fn.Dense(130, activation=name), fn.Dropout(0.3), fn.Dense(65, activation="tanh"), fn.Dense(10))
    assert both(given)._program.not_captured is None


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "log_cosh", "binary_cross_entropy", "hinge"])
def test_losses_of_values(loss: str) -> None:
    y = targets_of(loss, np.random.default_rng(2), N, 3).astype(F32)
    both((fn.Dense(33, activation="tanh"), fn.Dense(3)), y=y, loss=loss, optimizer=fn.SGD(0.01))


@pytest.mark.parametrize(
    "optimizer",
    [
        fn.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
        fn.RMSprop(1e-3, centered=True, momentum=0.5),
        fn.Adagrad(),
        fn.Adadelta(),
        fn.Adam(clip_norm=1.0),
        fn.AdamW(ema=0.9),
        fn.Adamax(),
        fn.NAdam(),
        fn.RAdam(),
        fn.Lion(),
    ],
    ids=lambda o: o.name,
)
def test_optimizers(optimizer: Any) -> None:
    both((fn.Dense(70, activation="tanh"), fn.Dense(10)), optimizer=optimizer, epochs=2)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_what_is_not_captured_trains_by_cupy(name: str) -> None:
    both((*NETWORKS[name]("tanh")[:-1], fn.Dense(3)), x=X[:, :6].copy(), y=Y % 3, epochs=1)


@pytest.mark.parametrize("widths", [(64, 10), (512, 512, 10), (4096, 1000)])
def test_products_of_all_tiles(widths: tuple[int, ...]) -> None:
    given = [fn.Dense(n, activation="relu") for n in widths[:-1]]
    both((*given, fn.Dense(widths[-1])), epochs=1, batch_size=1000, optimizer=fn.SGD(0.01))


@pytest.mark.parametrize("optimizer", [fn.SGD(0.01, weight_decay=1e-3), fn.Adam(1e-4)], ids=["sgd", "adam"])
def test_large_products_are_the_librarys(optimizer: Any) -> None:
    given = [fn.Dense(1024, activation=name) for name in ("relu", "relu", "gelu")]
    trainer = both((*given, fn.Dense(10)), epochs=2, batch_size=1000, optimizer=optimizer)
    products = trainer._program.products
    assert products.reason is None, products
    assert "cublasLt" in products.provider
    # Of layers 1 and 2 the products forward, back and of the weights; what is fused depends on the card.
    assert len(products.by_product) == 6
    assert not any(text.startswith("own") for text in products.by_product.values()), products
    again = trained("cuda", (*given, fn.Dense(10)), X, Y, "cross_entropy", optimizer, "float32", epochs=2)
    twice = trained("cuda", (*given, fn.Dense(10)), X, Y, "cross_entropy", optimizer, "float32", epochs=2)
    np.testing.assert_array_equal(again.model.parameters, twice.model.parameters)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_a_librarys_products_of_awkward_sizes(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_products, "LEAST_FLOPS", 0)
    monkeypatch.setattr(cuda_products, "LEAST_SIDE", 2)
    given = (fn.Dense(130, activation="relu"), fn.Dense(65, activation="tanh"), fn.Dense(10))
    for optimizer in (fn.SGD(0.05), fn.Adam(1e-3)):
        found = [
            trained(device, given, X, Y, "cross_entropy", optimizer, name, batch_size=131)
            for device, name in (("cpu", "float32"), ("cuda", precision))
        ]
        products = found[1]._program.products
        assert products.reason is None, products
        most = {"float32": 1e-4, "tf32": 5e-3, "bf16": 5e-2}[precision]
        losses = [one.history["loss"] for one in found]
        np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=most, err_msg=str(products))


def test_a_library_changes_nothing_once_a_loss_is_not_finite() -> None:
    given = [fn.Dense(1024, activation="relu") for _ in range(3)]
    model = fn.Sequential(*given, fn.Dense(10))
    trainer = fn.Trainer(model, "cross_entropy", fn.SGD(0.01), seed=3, device="cuda")
    trainer.partial_fit(X[:1000], Y[:1000])
    x, before = X.copy(), trainer.model.parameters.copy()
    x[0, 3] = np.nan
    with pytest.raises(fn.DivergenceError, match="x itself"):
        trainer.run(x, Y, np.arange(2000).reshape(2, 1000))
    np.testing.assert_array_equal(trainer.model.parameters, before)


def test_the_same_run_twice_has_the_same_bits() -> None:
    given = (fn.Dense(130, activation="gelu"), fn.Dropout(0.3), fn.Dense(10))
    first, second = (trained("cuda", given, X, Y, "cross_entropy", fn.Adam(), "float32") for _ in range(2))
    np.testing.assert_array_equal(first.model.parameters, second.model.parameters)


@pytest.mark.parametrize(("precision", "most"), [("tf32", 5e-3), ("bf16", 5e-2)])
def test_rounded_products_train_nearly_alike(precision: str, most: float) -> None:
    given = (fn.Dense(256, activation="relu"), fn.Dense(10))
    exact, rounded = (
        trained("cuda", given, X, Y, "cross_entropy", fn.SGD(0.05), name) for name in ("float32", precision)
    )
    away = np.abs(np.subtract(exact.history["loss"], rounded.history["loss"]))
    assert 0 < away.max() < most


def test_data_in_windows_bytes_and_memory_maps(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = (fn.Scale(1 / 255), fn.Dense(64, activation="relu"), fn.Dense(10))
    x = np.random.default_rng(5).integers(0, 255, X.shape).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    both(given, x=np.load(tmp_path / "x.npy", mmap_mode="r"))
    monkeypatch.setattr(cuda_data, "HELD_SHARE", 0.0)
    monkeypatch.setattr(cuda_data, "WINDOW_BYTES", 512 * N_IN)
    both(given, x=x)
    both((fn.Dense(64, activation="relu"), fn.Dense(10)))


def test_data_of_cupy_stays_where_it_is(card: Any) -> None:
    given = (fn.Dense(64, activation="relu"), fn.Dense(10))
    of_host, of_card = (
        trained("cuda", given, x, y, "cross_entropy", fn.Adam(), "float32")
        for x, y in ((X, Y), (card.asarray(X), card.asarray(Y)))
    )
    np.testing.assert_array_equal(of_host.model.parameters, of_card.model.parameters)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_an_estimator_of_scikit_learns_face(solver: str, early_stopping: bool) -> None:
    from fastnn.sklearn import MLPClassifier, base

    given = {"solver": solver, "early_stopping": early_stopping, "alpha": 0.01, "max_iter": 3}
    weight = np.random.default_rng(3).uniform(0.5, 2, N)
    theirs, ours = (
        MLPClassifier((64,), random_state=0, device=device, **given).fit(X, Y, weight)
        for device in ("cpu", "cuda")
    )
    assert ours.fit_info_["device"] == "cuda"
    if solver != "lbfgs":
        assert base._NETWORKS[ours].program.not_captured is None
    for one, other in zip(theirs.coefs_, ours.coefs_, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-3)


SMALL = (fn.Dense(64, activation="gelu"), fn.Dropout(0.3), fn.Dense(10))


@pytest.mark.parametrize("optimizer", [fn.SGD(2e-3, momentum=0.9, nesterov=True), fn.AdamW(clip_norm=1.0)])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_small_nets_are_trained_many_steps_in_a_launch(
    optimizer: Any, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = X[:300, :33].copy(), Y[:300]
    given = {"x": x, "y": y, "optimizer": optimizer, "batch_size": batch_size}
    ours = both(SMALL, **given)
    assert ours._program.not_persistent is None
    np.testing.assert_array_equal(ours.model.parameters, both(SMALL, **given).model.parameters)
    monkeypatch.setattr(cuda_persistent, "MOST_FLOPS", -1)
    captured = both(SMALL, **given)
    assert "operations" in captured._program.not_persistent
    # The same functions in the same order; but a product and a sum may be fused in one and not in the other.
    np.testing.assert_allclose(ours.model.parameters, captured.model.parameters, rtol=0, atol=1e-5)


def test_a_small_net_without_room_for_gradient_and_states(card: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: Any = {"x": X[:, :33].copy(), "optimizer": fn.Adam(), "batch_size": 32}
    whole = both(SMALL, **given)
    places = cuda_persistent.places

    def small(*arguments: Any) -> Any:
        *before, _, n_blocks = arguments
        return places(*before, 0, n_blocks)

    monkeypatch.setattr(cuda_persistent, "places", small)
    less = both(SMALL, **given)
    assert less._program.not_persistent is None
    np.testing.assert_array_equal(less.model.parameters, whole.model.parameters)


def test_shared_memory_that_must_be_asked_for(card: Any) -> None:
    most = card.cuda.runtime.getDeviceProperties(0)["sharedMemPerBlockOptin"]
    found, units = None, 64
    while True:  # the widest that has room
        steps = fn.Sequential(fn.Dense(units), fn.Dense(10)).build(33).steps
        if cuda_persistent.places(steps, 1, 0, 32, 0, 0).n_bytes > most - cuda_persistent._OWN_BYTES:
            break
        found, units = units, units + 1
    assert found is not None
    given: Any = {"x": X[:, :33].copy(), "batch_size": 32, "epochs": 1}
    assert (
        both((fn.Dense(found), fn.Dense(10)), optimizer=fn.SGD(0.01), **given)._program.not_persistent is None
    )


def has_clusters() -> bool:
    return int(cuda.cards()[0]["capability"].split(".")[0]) >= 9


@pytest.mark.parametrize("n_blocks", [2, 4, 8])
def test_nets_in_clusters_of_blocks(n_blocks: int, card: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: Any = {"x": X[:300].copy(), "y": Y[:300], "optimizer": fn.AdamW(clip_norm=1.0), "batch_size": 32}
    nets = ((fn.Scale(0.5), *SMALL), (fn.Dense(96, activation="tanh"), fn.Dense(50), fn.Dense(10)))
    monkeypatch.setattr(cuda_persistent, "SIZES", (n_blocks,))
    ours = [both(net, **given) for net in nets]
    for one, net in zip(ours, nets, strict=True):
        assert one._program.not_persistent is None
        if not has_clusters():  # one block has it
            continue
        assert one._program._persistent._choice(32, 0)[0] == n_blocks
        np.testing.assert_array_equal(one.model.parameters, both(net, **given).model.parameters)
    monkeypatch.setattr(cuda_persistent, "MOST_FLOPS", -1)
    for one, net in zip(ours, nets, strict=True):
        captured = both(net, **given)
        np.testing.assert_allclose(one.model.parameters, captured.model.parameters, rtol=0, atol=1e-5)


def test_a_wide_net_has_a_cluster_where_the_card_has_them(card: Any) -> None:
    x = np.random.default_rng(0).integers(0, 255, (640, 784)).astype(np.uint8)
    y = np.random.default_rng(1).integers(0, 10, 640)
    net = fn.Scale(1 / 255), fn.Dense(128, activation="relu"), fn.Dense(10)
    why = both(net, x=x, y=y, optimizer=fn.Adam(), batch_size=32)._program.not_persistent
    if not has_clusters():
        assert "operations in the products of a step" in why
    else:
        assert why is None or "in each of 8 blocks" in why  # cards for desks have less shared memory


def several(n: int) -> list[Any]:
    optimizers = [fn.Adam(0.01), fn.SGD(0.1, momentum=0.9), fn.AdamW(clip_norm=1.0)]
    return [
        fn.Trainer(
            fn.Sequential(fn.Dense(16 + i % 5, activation="relu"), fn.Dense(10)),
            "cross_entropy",
            optimizers[i % 3],
            seed=i,
            device="cuda",
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("n", [3, 300])  # of more than 256 some begin when others have ended
def test_many_small_nets_in_one_launch_have_the_bits_of_each_alone(n: int) -> None:
    x, y = X[:200, :20].copy(), Y[:200]
    ours = several(n)
    given: Any = {"batch_size": 16, "progress": False, "validation_split": 0.2}
    callbacks = [[fn.EarlyStopping(patience=1, min_delta=1.0)] if i % 2 else [] for i in range(n)]
    fn.fit_many(ours, x, y, epochs=3, callbacks=callbacks, on_error="raise", **given)
    for i in range(0, n, max(1, n // 7)):
        alone = several(n)[i]
        stops = [fn.EarlyStopping(patience=1, min_delta=1.0)] if i % 2 else []
        alone.fit(x, y, epochs=3, callbacks=stops, **given)
        np.testing.assert_array_equal(ours[i].model.parameters, alone.model.parameters)
        assert ours[i].history["loss"] == alone.history["loss"]
        assert ours[i]._program.not_persistent is None


def test_small_and_large_nets_and_a_failing_one_together() -> None:
    class Broken(fn.Callback):
        def on_epoch_end(self, trainer: Any, epoch: int, logs: Any) -> None:
            raise RuntimeError("mine")

    large = fn.Trainer(
        fn.Sequential(fn.Dense(512, activation="relu"), fn.BatchNorm(), fn.Dense(10)),
        "cross_entropy",
        "adam",
        seed=9,
        device="cuda",
    )
    ours = [*several(4), large]
    with pytest.warns(RuntimeWarning, match="1 of 5 trainers failed; trainer 2"):
        found = fn.fit_many(
            ours, X, Y, epochs=2, progress=False, callbacks=lambda i: [Broken()] if i == 2 else []
        )
    assert [type(one).__name__ for one in found] == ["History"] * 2 + ["RuntimeError"] + ["History"] * 2
    alone = several(4)[3]
    alone.fit(X, Y, epochs=2, progress=False)
    np.testing.assert_array_equal(ours[3].model.parameters, alone.model.parameters)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    trainer = fn.Trainer(fn.Sequential(fn.Dense(10)), "cross_entropy", "adam", seed=3, device="cuda")
    trainer.partial_fit(X[:20], Y[:20])
    x, before = X.copy(), trainer.model.parameters.copy()
    x[100, 3] = np.nan
    with pytest.raises(fn.DivergenceError, match="x itself"):
        trainer.run(x, Y, [[100, 1, 2]] + [[3, 4, 5]] * 40)
    np.testing.assert_array_equal(trainer.model.parameters, before)
    assert trainer.step == 1


def test_a_time_limit_is_kept() -> None:
    trainer = fn.Trainer(
        fn.Sequential(fn.Dense(64), fn.Dense(10)), "cross_entropy", "adam", seed=3, device="cuda"
    )
    trainer.fit(X, Y, progress=False)
    trainer.fit(X, Y, epochs=10**6, progress=False, time_limit=0.5)
    assert trainer.out_of_time
    assert trainer.epoch < 10**6  # hours


def test_the_cards_are_named() -> None:
    assert all(one["name"] and one["memory"] > 0 for one in cuda.cards())


@pytest.mark.parametrize("name", fn.ops.__all__)
def test_functions_of_arrays_give_what_the_cpu_gives(name: str, card: Any) -> None:
    function = getattr(fn.ops, name)
    for dtype, rtol, atol in (("float32", 1e-4, 1e-5), ("float64", 1e-9, 1e-10)):
        for case in CASES[name]:
            mine = copied(as_type(case, dtype))
            yours = {
                key: card.asarray(value) if isinstance(value, np.ndarray) and key != "pos_weight" else value
                for key, value in copied(mine).items()
            }
            pairs = list(zip(*(listed(function(**given)) for given in (mine, yours)), strict=True))
            pairs += [(mine[key], value) for key, value in yours.items()]  # what is changed in place
            for theirs, ours in pairs:
                if isinstance(theirs, np.ndarray) and isinstance(ours, card.ndarray):
                    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
                    np.testing.assert_allclose(ours.get(), theirs, rtol=rtol, atol=atol)
                elif isinstance(theirs, float):
                    assert ours == pytest.approx(theirs, rel=rtol, abs=atol, nan_ok=True)
                else:
                    assert type(theirs) is type(ours)


def listed(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


def test_masks_of_functions_have_the_bits_of_the_cpu(card: Any) -> None:
    x = np.ones((301, 77), np.float32)
    for function in (fn.ops.dropout, fn.ops.alpha_dropout):
        _, mask = function(x, 0.3, seed=2**63 + 1, step=2**35, layer=3, first_row=2**31)
        _, there = function(card.asarray(x), 0.3, seed=2**63 + 1, step=2**35, layer=3, first_row=2**31)
        np.testing.assert_array_equal(there.get(), mask)
