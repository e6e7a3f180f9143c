"""Models to ONNX files and back, and files of other tools."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from layer_cases import NETWORKS
from numpy.typing import NDArray

import fastnn as fn
import fastnn.onnx
from fastnn import cli, kernels
from fastnn.errors import FormatError

Array = NDArray[Any]
GOLDEN_FOLDER = Path(__file__).parent / "golden" / "onnx"
GOLDEN = sorted(GOLDEN_FOLDER.glob("*.onnx"))


def by_runtime(path: Any, x: Array) -> list[Any]:
    """What ONNX Runtime gives."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, {session.get_inputs()[0].name: x})
    return outputs


def distance(found: Array, wanted: Array) -> float:
    """The largest difference, by the scale of what is wanted."""
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-30)
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    with np.errstate(invalid="ignore"):
        return float(np.where(same, 0, np.abs(found - wanted)).max(initial=0) / scale)


def disturbed(model: fn.Sequential, seed: int) -> fn.Sequential:
    """Parameters and statistics other than those that a model begins with."""
    random = np.random.default_rng(seed)
    model.parameters += 0.1 * random.standard_normal(model.parameters.shape)
    model.buffers += 0.3 * random.random(model.buffers.shape)
    return model


def random_model(seed: int) -> fn.Sequential:
    """A model of some layers of all kinds."""
    random = np.random.default_rng(seed)
    curves = list(kernels.ACTIVATIONS)

    def curve() -> str:
        return curves[random.integers(len(curves))]

    def layers(width: int, depth: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        for _ in range(random.integers(1, 4)):
            kind = random.integers(10 if depth < 2 else 7)
            units = int(random.integers(1, 20))
            if kind <= 1:
                found.append(fn.Dense(units, activation=curve(), bias=bool(random.integers(2))))
                width = units
            elif kind == 2:
                found.append(fn.Activation(curve()))
            elif kind == 3:
                norms = (
                    fn.BatchNorm(),
                    fn.LayerNorm(),
                    fn.RMSNorm(),
                    fn.BatchNorm(affine=False, momentum=None),
                )
                found.append(norms[random.integers(4)])
            elif kind == 4:
                found.append(
                    (fn.Dropout(0.3), fn.GaussianNoise(0.1), fn.AlphaDropout(0.2))[random.integers(3)]
                )
            elif kind == 5:
                found.append(fn.PReLU(int(random.choice([1, width]))))
            elif kind == 6:
                shift = tuple(random.standard_normal(width).tolist())
                found.append(fn.Scale(0.5, 0.25) if units % 2 else fn.Scale(1.5, shift))
            elif kind == 7:
                inner, _ = layers(width, depth + 1)
                found.append(fn.Residual(*inner, fn.Dense(width)))
            elif kind == 8:
                inner, width = layers(width, depth + 1)
                found.append(fn.Residual(*inner, fn.Dense(units), projection=True))
                width = units
            else:
                group = tuple(int(i) for i in random.permutation(width)[: random.integers(1, width + 1)])
                one, n_one = layers(len(group), depth + 1)
                two, n_two = layers(width, depth + 1)
                found.append(fn.Concat((group, *one), (None, *two)))
                width = n_one + n_two
        return found, width

    n_in = int(random.integers(2, 9))
    body, _ = layers(n_in, 0)
    first: list[Any] = []
    if seed % 5 == 0:
        first = [fn.PiecewiseLinear(tuple((-1.0, 0.0, 0.4, 1.5) for _ in range(n_in)))]
        body, _ = layers(3 * n_in, 0)
    elif seed % 5 == 1:
        first = [fn.Periodic(3, sigma=0.5)]
        body, _ = layers(6 * n_in, 0)
    elif seed % 5 == 2:
        first = [fn.Embedding(((1, 4, 3),))]
        body, _ = layers(n_in + 2, 0)
    return disturbed(fn.Sequential(*first, *body, fn.Dense(3)).build(n_in, seed=seed), seed)


def rows_for(model: fn.Sequential, n: int) -> Array:
    """Rows of numbers; codes where the model begins with an embedding."""
    assert model.n_in is not None
    x = np.random.default_rng(7).standard_normal((n, model.n_in)).astype(model.dtype)
    if isinstance(model.layers[0], fn.Embedding):
        x[:, 1] = np.random.default_rng(8).integers(-1, 6, n)
    return x


@pytest.mark.parametrize("seed", range(30))
def test_a_model_goes_to_onnx_and_comes_back(tmp_path: Path, seed: int) -> None:
    """onnx.checker takes it, ONNX Runtime gives the same to 1e-6, and `load` the same bits."""
    model, path = random_model(seed), tmp_path / "model.onnx"
    fastnn.onnx.export(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    x = rows_for(model, 100)
    wanted = model.predict(x)
    assert distance(by_runtime(path, x)[0], wanted) <= 1e-6
    assert distance(fastnn.onnx.Backend.run_model(onnx.load(path), x)[0], wanted) <= 1e-6
    back = fastnn.onnx.load(path)
    assert back.layers == model.layers
    assert back.parameters.tobytes() == model.parameters.tobytes()
    assert back.buffers.tobytes() == model.buffers.tobytes()
    assert back.predict(x).tobytes() == wanted.tobytes()


# What has no operator, and what ONNX Runtime has not for double.
WITHOUT_GRAPH = {"numerical embeddings", "piecewise of trained"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_kind_of_layer(tmp_path: Path, name: str, dtype: str) -> None:
    """Also read by the graph alone, as a file of another tool: other layers may stand there for the same."""
    path, f = tmp_path / "model.onnx", list(kernels.ACTIVATIONS)[len(name) % 20]
    model = disturbed(fn.Sequential(*NETWORKS[name](f), dtype=dtype).build(6, seed=1), 2)
    fastnn.onnx.export(model, path)
    x = rows_for(model, 40)
    wanted = model.predict(x)
    tolerance = 2e-6 if dtype == "float32" else 1e-7  # eps of norms is single precision in ONNX
    if not (dtype == "float64" and f == "gelu"):  # Erf, not for double in ONNX Runtime
        assert distance(by_runtime(path, x)[0], wanted) <= tolerance
    assert distance(fastnn.onnx.Backend.run_model(onnx.load(path), [x])[0], wanted) <= tolerance
    assert fastnn.onnx.load(path).predict(x).tobytes() == wanted.tobytes()
    if name in WITHOUT_GRAPH or (name == "prelu" and dtype == "float64"):
        with pytest.raises(ValueError, match="node 'layer_"):
            fastnn.onnx.load(path, by_graph=True)
    else:
        assert distance(fastnn.onnx.load(path, by_graph=True).predict(x), wanted) <= tolerance


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_activation(tmp_path: Path, dtype: str) -> None:
    x = np.linspace(-30, 30, 2000).reshape(-1, 4).astype(dtype)
    for name in kernels.ACTIVATIONS:
        model = fn.Sequential(fn.Activation(name), fn.Dense(1), dtype=dtype).build(4)
        model.weights["1.weight"][...] = np.eye(4)[:, :1]
        path = tmp_path / f"{name}.onnx"
        fastnn.onnx.export(model, path)
        wanted = model.predict(x)
        # Ours goes on with z from 20 on, as PyTorch does.
        exact = 1e-10 if name == "softplus" else 1e-14
        tolerance = 1e-6 if dtype == "float32" else exact
        if not (dtype == "float64" and name == "gelu"):
            assert distance(by_runtime(path, x)[0], wanted) <= tolerance, name
        found = fastnn.onnx.load(path, by_graph=True)
        if name != "identity":
            wanted_layer = {"celu": "elu"}.get(name, name) if dtype == "float64" else name
            assert found.layers[0] == fn.Activation(wanted_layer), name


def test_codes_that_are_no_categories(tmp_path: Path) -> None:
    """Outside the table: zeros. No whole number: NaN."""
    model = fn.Sequential(fn.Embedding(((0, 3, 2), (2, 2, 1))), fn.Dense(1)).build(3)
    fastnn.onnx.export(model, tmp_path / "m.onnx")
    codes = [-1, 0, 2, 3, 1e30, 0.5, np.nan, np.inf, -np.inf, -0.0]
    x = np.array([[code, 1.0, other] for code in codes for other in (0, 1, 5, 0.25)], np.float32)
    wanted = model.predict(x)
    assert np.isnan(wanted).any()
    for found in (by_runtime(tmp_path / "m.onnx", x)[0], fastnn.onnx.Backend.run_model(
        onnx.load(tmp_path / "m.onnx"), x)[0]):  # fmt: skip
        assert distance(found, wanted) <= 1e-6


def test_what_a_model_file_says_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    x = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    model = fn.Sequential(fn.Dense(6, activation="relu"), fn.BatchNorm(momentum=None), fn.Dense(3))
    fn.Trainer(model, loss="cross_entropy", optimizer="adam", seed=0).fit(x, np.arange(60) % 3, epochs=2)
    model.classes = ["a", "b", "c"]
    fastnn.onnx.export(model, path)
    back = fastnn.onnx.load(path)
    assert (back.link, back.classes, back.layers) == ("softmax", ["a", "b", "c"], model.layers)
    assert back.predict_proba(x).tobytes() == model.predict_proba(x).tobytes()
    assert back.running["1.num_batches_tracked"] == model.running["1.num_batches_tracked"] > 1
    proto = onnx.load(path)
    assert proto.producer_name == "fastnn"
    assert [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [
        "rows",
        4,
    ]
    fn.Trainer(back, loss="cross_entropy", optimizer="adam", seed=0).fit(x, np.arange(60) % 3)  # goes on


def test_the_operator_set_is_the_oldest_that_serves(tmp_path: Path) -> None:
    for layer, version in ((fn.Dense(2), 18), (fn.Activation("gelu"), 20), (fn.RMSNorm(), 23)):
        fastnn.onnx.export(fn.Sequential(layer).build(3), tmp_path / "m.onnx")
        assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == version


def test_the_command_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = fn.Sequential(fn.Dense(3, activation="gelu"), fn.Dense(2)).build(4)
    model.save(tmp_path / "m.safetensors")
    assert cli.main(["export", str(tmp_path / "m.safetensors"), "--to", "onnx"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'm.onnx'}\n"
    fastnn.onnx.export(model, tmp_path / "other.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()


def test_the_lines_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent.parent / "docs" / "interop.md").read_text(encoding="utf-8")
    lines = text.split("## ONNX")[1].split("```python")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    shutil.copy(GOLDEN_FOLDER / "sklearn_classes.onnx", "theirs.onnx")
    names: dict[str, Any] = {"model": fn.Sequential(fn.Dense(3)).build(4), "x": np.zeros((2, 4), np.float32)}
    exec(lines, names)
    assert names["same"].layers == names["model"].layers
    assert names["theirs"].layers[-1] == fn.Dense(3, activation="softmax")
    assert names["logits"].layers[-1] == fn.Dense(3)
    assert names["outputs"][0].shape == (2,)


def test_bad_calls(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(fn.NotFittedError):
        fastnn.onnx.export(fn.Sequential(fn.Dense(2)), path)
    with pytest.raises(TypeError, match="model must be a Sequential"):
        fastnn.onnx.export(3, path)  # type: ignore[arg-type]
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        fastnn.onnx.load(path)
    fastnn.onnx.export(fn.Sequential(fn.Dense(2)).build(2), path)
    with pytest.raises(ValueError, match="logits=True wants a softmax or sigmoid at the end, got Dense"):
        fastnn.onnx.load(path, logits=True)
    with pytest.raises(ValueError, match="output must be one of y"):
        fastnn.onnx.load(path, output="z")


def test_without_the_package_the_error_names_the_extra() -> None:
    code = """
import sys
sys.modules["onnx"] = None
try:
    import fastnn.onnx
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "python -m pip install 'fastnn-core[onnx]'" in done.stdout


# ---------------------------------------------------------------- files of other tools


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_files_of_pytorch_keras_and_scikit_learn(path: Path) -> None:
    """Written by torch.onnx.export, tf2onnx and skl2onnx: run and read, to what ONNX Runtime gives."""
    value = onnx.load(path).graph.input[0]
    shape = [d.dim_value or 5 for d in value.type.tensor_type.shape.dim]
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    wanted = by_runtime(path, x)
    for found, other in zip(fastnn.onnx.Backend.run_model(onnx.load(path), [x]), wanted, strict=True):
        if isinstance(other, list):  # of ZipMap
            assert [set(row) for row in found] == [set(row) for row in other]
            found, other = (np.array([list(row.values()) for row in part]) for part in (found, other))
        if other.dtype.kind == "f":
            assert distance(found, other) <= 1e-6
        else:
            assert (found == other).all()
    last = wanted[-1]
    outputs = np.array([list(row.values()) for row in last]) if isinstance(last, list) else last
    model = fastnn.onnx.load(path)
    assert distance(model.predict(x), outputs.reshape(len(x), -1)) <= 2e-6


def read(name: str, **how: Any) -> fn.Sequential:
    return fastnn.onnx.load(GOLDEN_FOLDER / f"{name}.onnx", **how)


def test_graphs_become_the_layers_that_they_were() -> None:
    block = fn.Residual(fn.Dense(8, activation="gelu"), fn.LayerNorm())
    projection = fn.Residual(fn.Activation("tanh"), fn.Dense(5), shortcut=(fn.Dense(5),))
    layers = fn.Dense(8, activation="relu"), block, projection, fn.Activation("silu"), fn.Dense(3)
    assert read("torch_residual").layers == read("torch_residual_13").layers == layers
    curves = ["mish", "hard_swish", "softplus", "hard_sigmoid", "gelu_tanh", "celu"]
    dense = tuple(fn.Dense(7, activation=name) for name in curves)
    assert read("torch_activations").layers[:8] == (*dense, fn.Dense(7), fn.PReLU(7))
    assert read("torch_activations_13").layers == read("torch_activations").layers
    assert read("keras_norms").layers[2:] == (
        fn.Dense(5, activation="silu"), fn.LayerNorm(eps=1e-3), fn.Dense(3),
    )  # fmt: skip
    columns = fn.Concat(((0, 1, 2), fn.Dense(4, activation="relu")), (None, fn.Dense(2)), ((3, 4, 5),))
    assert read("torch_columns").layers == (columns, fn.Dense(2, activation="softmax"))
    flat = read("torch_flatten").layers
    assert flat[:3] == (fn.Flatten(), fn.Dense(5), fn.BatchNorm())


def test_logits_are_what_losses_want() -> None:
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    whole, logits = read("sklearn_classes"), read("sklearn_classes", logits=True)
    assert (logits.link, logits.classes) == ("softmax", [0, 1, 2])
    assert distance(logits.predict_proba(x), whole.predict(x)) <= 1e-6
    with pytest.raises(ValueError, match="softmax"):
        fn.Trainer(whole, loss="cross_entropy", optimizer="sgd").fit(x, np.arange(8) % 3)
    fn.Trainer(logits, loss="cross_entropy", optimizer="sgd", seed=0).fit(x, np.arange(8) % 3)
    binary = read("sklearn_binary", logits=True)
    assert (binary.link, binary.n_out) == ("sigmoid", 1)
    assert distance(binary.predict_proba(x), read("sklearn_binary").predict(x)) <= 1e-6
    assert read("sklearn_texts").classes == ["a", "b", "c"]


def test_training_goes_on_from_a_file_of_pytorch() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((200, 6)).astype(np.float32)
    y = x[:, :3] * x[:, 3:]
    model = read("torch_residual")
    trainer = fn.Trainer(model, loss="mse", optimizer=fn.Adam(lr=0.01), seed=0)
    before = trainer.evaluate(x, y)["loss"]
    trainer.fit(x, y, epochs=60)
    assert trainer.evaluate(x, y)["loss"] < before / 3


def parsed(body: str, inputs: str = "float[N, 4] x", **_: Any) -> Any:
    text = f'<ir_version: 8, opset_import: ["": 18]> g ({inputs}) => (float[N, M] y) {body}'
    return onnx.parser.parse_model(text)


def test_a_sum_of_two_branches_is_a_residual_with_a_shortcut(tmp_path: Path) -> None:
    onnx.save(parsed("{ a = Relu (x) b = Tanh (x) y = Add (a, b) }"), tmp_path / "m.onnx")
    model = fastnn.onnx.load(tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_allclose(model.predict(x), np.maximum(x, 0) + np.tanh(x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{ t = Relu (x) y = Mul (t, x) }", r"node 'y' \(Mul\).*combines two values of the rows"),
        ("{ y = Transpose (x) }", r"node 'y' \(Transpose\).*not"),
        ("{ y = Sinh (x) }", r"node 'y' \(Sinh\) is not supported: there is no operator Sinh"),
        ("{ y = ReduceSum <keepdims = 0> (x) }", r"node 'y' \(ReduceSum\).*row"),
        ("{ y = ThresholdedRelu (x) }", r"node 'y' \(ThresholdedRelu\).*no layer"),
        ("{ y = Elu <alpha = 0.5> (x) }", r"node 'y' \(Elu\).*alpha must be 1, got 0.5"),
        ("{ y = MatMul (x, x) }", r"node 'y' \(MatMul\)"),
        ("{ c = Constant <value_float = 2.0> () y = Identity (c) }", "must depend on one input"),
    ],
)
def test_what_no_layer_does_is_named(tmp_path: Path, body: str, message: str) -> None:
    onnx.save(parsed(body), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=message):
        fastnn.onnx.load(tmp_path / "m.onnx")


def test_a_formula_is_known_by_its_numbers(tmp_path: Path) -> None:
    """GELU and a norm, written out in a way of nobody's."""
    body = """<float r = {0.70710678}, float one = {1.0}, float half = {0.5}, int64[1] last = {-1},
        float eps = {0.001}, float[4] w = {1.0, 2.0, 3.0, 4.0}>
    { a = Mul (x, r) b = Erf (a) c = Add (one, b) d = Mul (half, c) e = Mul (d, x)
      m = ReduceMean (e, last) s = Sub (e, m) q = Mul (s, s) v = ReduceMean (q, last) p = Add (eps, v)
      t = Sqrt (p) u = Div (s, t) y = Mul (w, u) }"""
    onnx.save(parsed(body), tmp_path / "m.onnx")
    model = fastnn.onnx.load(tmp_path / "m.onnx")
    assert model.layers == (fn.Activation("gelu"), fn.LayerNorm(eps=0.001))
    assert model.weights["1.weight"].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_weights_beside_the_file(tmp_path: Path) -> None:
    """Data outside the file is read from its folder."""
    model = fn.Sequential(fn.Dense(40), fn.Dense(2)).build(30)
    fastnn.onnx.export(model, tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    proto.producer_name = ""
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "o.onnx", save_as_external_data=True, location="o.data", size_threshold=0)
    assert (tmp_path / "o.data").exists()
    back = fastnn.onnx.load(tmp_path / "o.onnx")
    assert back.parameters.tobytes() == model.parameters.tobytes()


def test_a_changed_file_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = fn.Sequential(fn.Dense(3, activation="tanh")).build(2)
    fastnn.onnx.export(model, path)
    proto = onnx.load(path)
    weight = np.ones((2, 3), np.float32)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "0.weight"))
    onnx.save(proto, path)
    with pytest.raises(FormatError, match=r"damaged or changed since fastnn wrote it.*by_graph=True"):
        fastnn.onnx.load(path)
    assert (fastnn.onnx.load(path, by_graph=True).weights["0.weight"] == 1).all()


# ---------------------------------------------------------------- the backend


def test_the_backend_says_what_it_can_run() -> None:
    backend = fastnn.onnx.Backend
    assert backend.is_compatible(parsed("{ y = Relu (x) }"))
    assert not backend.is_compatible(parsed("{ y = Sinh (x) }"))
    with pytest.raises(fn.DeviceError, match="got device 'CUDA'"):
        backend.prepare(parsed("{ y = Relu (x) }"), "CUDA")
    with pytest.raises(ValueError, match=r"node 'y' \(Sinh\)"):
        backend.prepare(parsed("{ y = Sinh (x) }"))


def test_inputs_are_judged() -> None:
    prepared = fastnn.onnx.Backend.prepare(parsed("{ y = Relu (x) }"))
    x = np.ones((2, 4), np.float32)
    assert (prepared.run({"x": -x})[0] == 0).all()
    with pytest.raises(TypeError, match="input 'x' must be of type float32, got float64"):
        prepared.run([x.astype(float)])
    with pytest.raises(ValueError, match=r"input 'x' must have shape \(\?, 4\), got \(2, 3\)"):
        prepared.run([x[:, :3]])
    with pytest.raises(ValueError, match="inputs must be 1 arrays"):
        prepared.run([x, x])
    with pytest.raises(ValueError, match=r"node 'y' \(Gather\): indices must lie from -4 to 3"):
        fastnn.onnx.Backend.run_model(parsed("<int64[1] i = {4}> { y = Gather <axis = 1> (x, i) }"), [x])


def test_kernel_calls_are_counted_and_constants_computed_once() -> None:
    body = "<float[2, 4] w = {1, 2, 3, 4, 5, 6, 7, 8}> { t = Transpose (w) a = MatMul (x, t) y = Relu (a) }"
    prepared = fastnn.onnx.Backend.prepare(parsed(body))
    assert [node.op for node in prepared._nodes] == ["MatMul", "Relu"]
    for _ in range(3):
        y = prepared.run([np.eye(4, dtype=np.float32)])[0]
    assert y.tolist() == [[1, 5], [2, 6], [3, 7], [4, 8]]
    assert prepared.kernel_calls == {"MatMul": 3, "Relu": 3}


def test_older_operator_sets() -> None:
    """Softmax took all dimensions from its axis on; Clip, Squeeze and Dropout had attributes."""
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    node = onnx.helper.make_node("Softmax", ["x"], ["y"])
    run = fastnn.onnx.Backend.run_node
    old, new = run(node, [x], opset_version=11)[0], run(node, [x], opset_version=13)[0]
    assert old.reshape(2, 12).sum(axis=1) == pytest.approx(1)
    assert new.sum(axis=-1).ravel() == pytest.approx(1)
    clip = onnx.helper.make_node("Clip", ["x"], ["y"], min=-0.5, max=0.5)
    assert (run(clip, [x], opset_version=6)[0] == x.clip(-0.5, 0.5)).all()
    squeeze = onnx.helper.make_node("Squeeze", ["x"], ["y"], axes=[0])
    assert run(squeeze, [x[:1]], opset_version=11)[0].shape == (3, 4)
    add = onnx.helper.make_node("Add", ["a", "b"], ["y"], broadcast=1, axis=1)
    assert (run(add, [x, x[0, :, 0]], opset_version=6)[0] == x + x[0, :, :1]).all()


def test_outputs_are_no_part_of_inputs_or_constants() -> None:
    text = (
        '<ir_version: 8, opset_import: ["": 18]> '
        "g (float[N, 4] x) => (float[N, 4] y, float[2] c, float[4, N] t) <float[2] k = {1, 2}> "
        "{ y = Identity (x) c = Identity (k) t = Transpose (x) }"
    )
    prepared = fastnn.onnx.Backend.prepare(onnx.parser.parse_model(text))
    x = np.ones((2, 4), np.float32)
    for one in prepared.run([x]):
        one[:] = 9
    assert (x == 1).all()
    np.testing.assert_array_equal(prepared.run([x])[1], [1, 2])
    (same,) = fastnn.onnx.Backend.run_node(onnx.helper.make_node("Identity", ["a"], ["b"]), [x])
    assert not np.shares_memory(same, x)
