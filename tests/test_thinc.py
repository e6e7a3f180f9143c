"""Thinc and spaCy on fastnn's kernels (make test-thinc)."""

import collections
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastnn import kernels

pytestmark = [
    pytest.mark.thinc,
    # of the libraries themselves
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def adapter():
    import fastnn.thinc

    return fastnn.thinc


@pytest.fixture
def ops(adapter):
    return adapter.FastnnOps()


@pytest.fixture
def theirs():
    from thinc.api import NumpyOps

    return NumpyOps()


@pytest.fixture
def installed(adapter):
    adapter.install()
    yield adapter
    adapter.uninstall()


def counted(counts, name):
    function = getattr(kernels, name)

    def call(*arguments):
        counts[name] += 1
        return function(*arguments)

    return call


@pytest.fixture
def calls(monkeypatch):
    """How often the kernels are called, by name."""
    counts = collections.Counter()
    for name in ("matmul", "activation", "activation_and_slope", "activation_backward", "update", "dropout"):
        monkeypatch.setattr(kernels, name, counted(counts, name))
    return counts


# ---------------------------------------------------------------- products


def strided(rng, shape, layout, dtype):
    """A matrix of a shape in a layout of memory."""
    m, n = shape
    if layout == "columns":
        return rng.standard_normal((n, m)).astype(dtype).T
    if layout == "slice":
        return rng.standard_normal((m, n + 3)).astype(dtype)[:, 2 : n + 2]
    if layout == "backwards":
        return rng.standard_normal((m, n)).astype(dtype)[::-1]
    return rng.standard_normal((m, n)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["rows", "columns", "slice", "backwards"])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 1), (5, 3, 7), (17, 33, 65), (128, 64, 100), (3, 4, 0), (0, 2, 3)]
)
def test_products_are_numpys_whatever_is_turned(ops, calls, rng, m, n, k, layout, dtype):
    for trans1 in (False, True):
        for trans2 in (False, True):
            x = strided(rng, (k, m) if trans1 else (m, k), layout, dtype)
            y = strided(rng, (n, k) if trans2 else (k, n), layout, dtype)
            expected = (x.T if trans1 else x).astype(np.float64) @ (y.T if trans2 else y)
            out = np.full((m, n), np.nan, dtype)
            found = ops.gemm(x, y, trans1=trans1, trans2=trans2)
            assert ops.gemm(x, y, out=out, trans1=trans1, trans2=trans2) is out
            assert found.dtype == dtype
            np.testing.assert_allclose(found, expected, rtol=0, atol=4e-5 if dtype == np.float32 else 1e-13)
            assert np.array_equal(found, out)
    assert calls["matmul"] == (8 if m * n * k else 0)


def test_a_result_may_go_into_any_array(ops, rng):
    x, y = rng.standard_normal((4, 6), np.float32), rng.standard_normal((6, 5), np.float32)
    for out in (np.zeros((5, 4), np.float32).T, np.zeros((4, 9), np.float32)[:, 2:7]):
        assert ops.gemm(x, y, out=out) is out
        np.testing.assert_allclose(out, x @ y, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_affine_adds_the_bias(ops, calls, rng, dtype):
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((9, 20), (35, 20), 35))
    np.testing.assert_allclose(ops.affine(x, w, b), x @ w.T + b, atol=1e-4 if dtype == np.float32 else 1e-13)
    assert calls["matmul"] == 1


def test_wrong_shapes_and_types_of_products_are_errors(ops):
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(
        ValueError, match=r"y must have 3 rows, as x has columns, got shapes \(2, 3\) and \(2, 3\)"
    ):
        ops.gemm(x, x)
    with pytest.raises(ValueError, match="y must have 2 columns, as x has rows"):
        ops.gemm(x, x, trans1=True, trans2=True)
    with pytest.raises(ValueError, match=r"out must be float32 of shape \(2, 2\), got float64"):
        ops.gemm(x, x, out=np.zeros((2, 2)), trans2=True)
    kept = np.zeros((2, 2), np.float32)
    kept.setflags(write=False)
    with pytest.raises(ValueError, match="out must be writable, got a read-only array"):
        ops.gemm(x, x, out=kept, trans2=True)
    with pytest.raises(ValueError, match="dimension"):  # Thinc's own words
        ops.gemm(x[0], x)
    with pytest.raises(ValueError, match="float32"):
        ops.gemm(x.astype(np.int64), x)


# ---------------------------------------------------------------- activations

ACTIVATIONS = (
    "relu", "relu_k", "hard_tanh", "sigmoid", "softmax", "swish", "hard_swish_mobilenet", "gelu",
    "gelu_approx", "mish",
)  # fmt: skip


def backprop(ops, name, dy, x, y, **more):
    function = getattr(ops, f"backprop_{name}")
    given = {"dY": dy, "X": x, "Y": y}
    return function(**{n: given[n] for n in inspect.signature(function).parameters if n in given}, **more)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_thincs(ops, theirs, calls, rng, name, dtype):
    # Thinc's gelu errs by 1.5e-7 in its error function, its gelu_approx has rounded constants, its swish cuts
    close = {
        "rtol": 1e-5,
        "atol": 2e-6 if dtype == np.float32 or "gelu" in name or name == "swish" else 1e-12,
    }
    for shape in ((6, 33), (4,), (2, 3, 5)):
        x = (rng.standard_normal(shape) * 5).astype(dtype)
        dy = rng.standard_normal(shape).astype(dtype)
        y = getattr(ops, name)(x)
        assert y is not x
        assert y.dtype == dtype
        np.testing.assert_allclose(y, getattr(theirs, name)(x), **close)
        found = backprop(ops, name, dy, x, y)
        np.testing.assert_allclose(found, backprop(theirs, name, dy, x, y), **close)
        if name != "softmax":  # which is never in place
            same = dy.copy()
            if name not in ("sigmoid",):
                assert backprop(ops, name, same, x, y, inplace=True) is same
                assert np.array_equal(same, found)
            same = x.copy()
            assert getattr(ops, name)(same, inplace=True) is same
            assert np.array_equal(same, y)
    assert calls["activation"] >= 3
    assert calls["activation_backward"] >= 3


def test_a_number_has_the_sigmoid_that_its_row_has(ops):
    x = np.array(0.5, np.float32)
    wanted = ops.sigmoid(x.reshape(1))[0]
    assert ops.sigmoid(x) == wanted
    assert x == 0.5
    assert ops.sigmoid(x, inplace=True) is x
    assert x == wanted


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_are_those_of_central_differences(ops, rng, name):
    x, dy, h = rng.standard_normal((5, 7)) * 3, rng.standard_normal((5, 7)), 1e-6
    x += np.sign(x) * 2 * h  # away from the kink at 0
    f = getattr(ops, name)
    found = backprop(ops, name, dy, x, f(x))
    for i, j in np.ndindex(2, 7):
        step = np.zeros_like(x)
        step[i, j] = h
        assert np.sum(dy * (f(x + step) - f(x - step))) / (2 * h) == pytest.approx(found[i, j], abs=1e-7)


def test_what_the_kernels_do_not_take_is_numpyops(ops, theirs, calls, rng):
    x = rng.standard_normal((6, 8))
    for given in (x[:, ::2], x.astype(np.float16), x.astype(">f4"), x.T):
        np.testing.assert_allclose(ops.softmax(given), theirs.softmax(given))
        np.testing.assert_allclose(ops.gelu(given), theirs.gelu(given), atol=1e-6)
    np.testing.assert_allclose(ops.softmax(x, axis=0), theirs.softmax(x, axis=0))
    np.testing.assert_allclose(ops.mish(x, threshold=1.0), theirs.mish(x, threshold=1.0))
    np.testing.assert_allclose(ops.relu_k(x, n=2.0), np.clip(x, 0, 2))
    assert ops.relu_k(x[:0]).shape == (0, 8)
    assert not calls
    with pytest.raises(ValueError, match="incompatible shapes"):
        ops.backprop_relu(x, x[:2])


def test_softmax_has_a_temperature(ops, theirs, calls, rng):
    x, dy = rng.standard_normal((4, 9)), rng.standard_normal((4, 9))
    y = ops.softmax(x, temperature=0.5)
    np.testing.assert_allclose(y, theirs.softmax(x, temperature=0.5), atol=1e-14)
    found = ops.backprop_softmax(y, dy, temperature=0.5)
    np.testing.assert_allclose(found, theirs.backprop_softmax(y, dy, temperature=0.5), atol=1e-14)
    assert calls == {"activation": 1, "activation_backward": 1}
    for temperature in (np.float64(2.0), np.float32(2.0), 2):  # of another type than x
        y = ops.softmax(x.astype(np.float32), temperature=temperature)
        assert y.dtype == ops.backprop_softmax(y, y, temperature=temperature).dtype == np.float32


# ---------------------------------------------------------------- training


def test_a_mask_of_dropout_follows_numpys_seed(ops, calls):
    from thinc.api import fix_random_seed

    fix_random_seed(3)
    first, second = ops.get_dropout_mask((400, 50), 0.25), ops.get_dropout_mask((400, 50), 0.25)
    fix_random_seed(3)
    assert np.array_equal(ops.get_dropout_mask((400, 50), 0.25), first)
    assert not np.array_equal(first, second)
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.75)}
    # four deviations of 20,000 draws
    assert np.mean(first == 0) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 20000) ** 0.5)
    assert ops.get_dropout_mask((3, 4, 5), 0.5).shape == (3, 4, 5)
    assert ops.get_dropout_mask(7, 0.5).shape == (7,)
    assert calls["dropout"] == 5
    assert np.all(ops.get_dropout_mask((3, 4), 0.0) == 1)
    assert np.all(ops.get_dropout_mask((3, 4), None) == 1)
    assert not ops.get_dropout_mask((3, 4), 1.0).any()
    assert ops.get_dropout_mask((0, 4), 0.5).shape == (0, 4)


def test_adam_by_hand(ops, calls):
    w, g, m, v = (np.array(x, np.float32) for x in ([1.0, -2.0], [0.5, 4.0], [0.2, 0.0], [0.04, 9.0]))
    assert ops.adam(w, g, m, v, 0.9, 0.5, 1e-8, 0.1)[0] is w
    np.testing.assert_allclose(m, [0.23, 0.4], rtol=1e-6)
    np.testing.assert_allclose(v, [0.145, 12.5], rtol=1e-6)
    np.testing.assert_allclose(w, [1 - 0.1 * 0.23 / 0.145**0.5, -2 - 0.1 * 0.4 / 12.5**0.5], rtol=1e-6)
    assert not g.any()
    assert calls["update"] == 1


def test_numbers_of_adam_that_are_not_ours_are_numpyops(ops, theirs, calls, rng):
    arrays = [np.abs(rng.standard_normal(30, np.float32)) for _ in range(4)]
    for numbers in ((0.9, 1.0, 1e-8, 0.1), (0.9, 0.999, 0.0, 0.1)):
        ours, expected = ([a.copy() for a in arrays] for _ in range(2))
        ops.adam(*ours, *numbers)
        theirs.adam(*expected, *numbers)
        for found, right in zip(ours, expected, strict=True):
            assert np.array_equal(found, right)
    assert not calls


@pytest.mark.parametrize("threshold", [1.0, 1e6])
def test_gradients_are_clipped_by_their_length(ops, theirs, rng, threshold):
    gradient = rng.standard_normal((70, 30), np.float32)
    expected = theirs.clip_gradient(gradient.copy(), threshold)
    assert ops.clip_gradient(gradient, threshold) is gradient
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_averages_are_thincs(ops, theirs, rng):
    for t in (1, 10, 10**6):
        ema, weights = rng.standard_normal((2, 40, 3)).astype(np.float32)
        expected = ema.copy()
        theirs.update_averages(expected, weights, t)
        ops.update_averages(ema, weights, t)
        np.testing.assert_allclose(ema, expected, rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------- the whole


def network(rng, dropout=None):
    from thinc.api import Relu, Softmax, chain, fix_random_seed

    fix_random_seed(0)
    model = chain(Relu(24, dropout=dropout), Relu(24, dropout=dropout), Softmax(3))
    x = rng.standard_normal((64, 30), np.float32)
    y = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 64)]
    model.initialize(X=x, Y=y)
    return model, x, y


def train(model, x, y, steps):
    from thinc.api import Adam

    optimizer = Adam(0.01)
    for _ in range(steps):
        found, back = model.begin_update(x)
        back((found - y) / len(x))
        model.finish_update(optimizer)


def test_a_network_trains_as_with_numpyops(adapter, calls):
    train(*(without := network(np.random.default_rng(0))), 5)
    assert not calls
    adapter.install()
    try:
        within = network(np.random.default_rng(0))
        calls.clear()  # initialize predicts
        train(*within, 5)
    finally:
        adapter.uninstall()
    # three products of each of three layers, two activations and softmax, six arrays of parameters
    assert calls == {"matmul": 45, "activation": 15, "activation_backward": 10, "update": 30}
    np.testing.assert_allclose(within[0].predict(within[1]), without[0].predict(without[1]), atol=1e-4)


def test_a_network_with_dropout_learns(installed, calls):
    model, x, y = network(np.random.default_rng(0), dropout=0.2)
    train(model, x, y, 200)
    assert np.mean(model.predict(x).argmax(1) == y.argmax(1)) > 0.95
    assert calls["dropout"] == 400


def test_what_is_installed_is_what_thinc_chooses(adapter):
    import thinc.optimizers
    from thinc.api import Linear, NumpyOps, get_current_ops
    from thinc.util import require_cpu

    for _ in range(2):
        adapter.install()
    try:
        assert type(get_current_ops()) is type(Linear().ops) is adapter.FastnnOps
        assert type(thinc.optimizers.get_array_ops(np.zeros(3))) is adapter.FastnnOps
        require_cpu()
        assert type(get_current_ops()) is adapter.FastnnOps
        assert type(thinc.api.get_ops("numpy")) is NumpyOps
        held = thinc.api.get_ops
    finally:
        for _ in range(2):
            adapter.uninstall()
    assert type(held("cpu")) is NumpyOps
    assert type(get_current_ops()) is type(Linear().ops) is NumpyOps
    assert type(thinc.optimizers.get_array_ops(np.zeros(3))) is NumpyOps
    require_cpu()
    assert type(get_current_ops()) is NumpyOps


def test_thinc_finds_the_operations_by_name(tmp_path):
    """As pip would have it: the entry point of pyproject.toml, in a folder on the path."""
    import tomllib

    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    home = tmp_path / "fastnn_core_test-1.dist-info"
    home.mkdir()
    (home / "METADATA").write_text("Metadata-Version: 2.1\nName: fastnn-core-test\nVersion: 1\n")
    lines = [f"{name} = {value}" for name, value in project["entry-points"]["thinc_ops"].items()]
    (home / "entry_points.txt").write_text("\n".join(["[thinc_ops]", *lines, ""]))
    code = """
import sys
from thinc.api import use_ops, Linear
with use_ops("fastnn"):
    print(type(Linear().ops).__name__, type(Linear().ops).__module__)
"""
    path = os.pathsep.join([str(tmp_path), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["FastnnOps", "fastnn.thinc"], done.stderr


def failures(log):
    """Names of the tests that a summary calls failed or broken."""
    lines = [line.split(" - ")[0] for line in log.read_text(encoding="utf-8").splitlines()]
    return {line.split(" ", 1)[1] for line in lines if line.startswith(("FAILED ", "ERROR "))}


@pytest.mark.slow
def test_nothing_of_thincs_own_tests_fails_that_passes_without(tmp_path):
    """Side by side: the suite as it is, and with our operations wherever it says NumpyOps."""
    counts = tmp_path / "counts.json"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]),
        "FASTNN_COUNTS": str(counts),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "thinc.tests"]
    # What mypy says of Thinc's types takes a minute, and no backend has a part in it.
    # The comparison with PyTorch fails for all operations with NumPy 2.4 (float() of an array of one number),
    # after minutes of looking for the shortest failure; test_activations_are_thincs stands for it.
    torch = "backends/test_ops.py::test_compare_activations_to_torch"
    command += ["--deselect", "mypy/test_mypy.py", "--deselect", torch, "--color", "no"]
    running = {}
    for name, more in (("without", []), ("within", ["-p", "thinc_in_place"])):
        home = tmp_path / name
        home.mkdir()
        with open(tmp_path / f"{name}.log", "w", encoding="utf-8") as log:
            running[name] = subprocess.Popen(
                [*command, *more], cwd=home, env=environment, stdout=log, stderr=log
            )
    for process in running.values():
        assert process.wait() in (0, 1)
    logs = {name: tmp_path / f"{name}.log" for name in running}
    for log in logs.values():
        assert " passed" in log.read_text(encoding="utf-8").splitlines()[-1]
    assert failures(logs["within"]) - failures(logs["without"]) == set()
    found = json.loads(counts.read_text(encoding="utf-8"))
    print(found, *(log.read_text(encoding="utf-8").splitlines()[-1] for log in logs.values()), sep="\n")
    least = {
        "matmul": 1000,
        "activation": 100,
        "activation_backward": 50,
        "update": 1,
    }
    assert all(found[name] >= number for name, number in least.items()), found


SENTENCES = [
    ("This film is wonderful, I loved every minute", "good"), ("A great and beautiful story", "good"),
    ("What a lovely happy ending", "good"), ("Excellent acting, really good fun", "good"),
    ("Terrible, a waste of time", "bad"), ("I hated this awful boring film", "bad"),
    ("A dull story with bad acting", "bad"), ("What an ugly sad mess", "bad"),
]  # fmt: skip


@pytest.mark.parametrize("architecture", ["spacy.TextCatCNN.v2", "spacy.TextCatBOW.v3"])
def test_a_text_classifier_of_spacy_trains_and_predicts(installed, calls, tmp_path, architecture):
    spacy = pytest.importorskip("spacy")
    from spacy.training import Example
    from thinc.api import fix_random_seed

    fix_random_seed(0)
    model = {"@architectures": architecture, "exclusive_classes": True}
    if "CNN" in architecture:
        model["tok2vec"] = {
            "@architectures": "spacy.HashEmbedCNN.v2", "width": 32, "depth": 1, "embed_size": 200,
            "window_size": 1, "maxout_pieces": 2, "subword_features": True, "pretrained_vectors": None,
        }  # fmt: skip
    else:
        model.update(ngram_size=1, no_output_layer=False, length=4096)
    nlp = spacy.blank("en")
    nlp.add_pipe("textcat", config={"model": model})
    cats = {label: {"good": float(label == "good"), "bad": float(label == "bad")} for _, label in SENTENCES}
    examples = [Example.from_dict(nlp.make_doc(text), {"cats": cats[label]}) for text, label in SENTENCES]
    optimizer = nlp.initialize(lambda: examples)
    if "BOW" in architecture:
        optimizer.learn_rate = 0.05
    losses = [nlp.update(examples, sgd=optimizer, drop=0.1)["textcat"] for _ in range(40)]
    assert losses[-1] < losses[0] / 4
    for text, label in SENTENCES:
        found = nlp(text).cats
        assert max(found, key=found.get) == label
    assert calls["update"] > 0
    if "CNN" in architecture:
        assert calls["matmul"] > 200
    nlp.to_disk(tmp_path / "model")
    again = spacy.load(tmp_path / "model")
    assert again(SENTENCES[0][0]).cats == pytest.approx(nlp(SENTENCES[0][0]).cats)
