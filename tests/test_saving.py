"""Model files: what is saved comes back to the bit, others can read it, and a save is whole or nothing."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import fastnn as fn
from fastnn import container, data, kernels, replacing
from fastnn.errors import FormatError, NotFittedError

GOLDEN = Path(__file__).parent / "golden" / "model-1.safetensors"


def small(dtype: str = "float32") -> fn.Sequential:
    layers = fn.Dense(5, activation="relu"), fn.Dropout(0.25), fn.Dense(3, bias=False)
    return fn.Sequential(*layers, dtype=dtype).build(4, seed=1)


# ---------------------------------------------------------------- round trips

LAYERS = [
    (fn.Dense(1),),
    (fn.Dense(3, bias=False),),
    (fn.Dropout(0.0),),
    (fn.Scale(1 / 255, -0.1), fn.Dense(2)),
    (fn.Scale((0.5, 2.0, -1.0), 0.25), fn.Dense(2), fn.Scale(3.0, [0.1, 0.2])),
    (fn.Dense(2), fn.BatchNorm(momentum=None)),
    (fn.Scale(2.0), fn.Embedding(((2, 9, 4), (0, 2, 1))), fn.Dense(2)),
    (fn.Embedding(((0, 3, 2), (1, 1, 1), (2, 2, 3))),),
    (fn.Dropout(0.3), fn.Activation("tanh")),
    (fn.Dense(7, activation="relu", weight_init="glorot_uniform"), fn.Dropout(1 / 3), fn.Dense(2)),
    *[(fn.Dense(2), fn.Activation(name)) for name in kernels.ACTIVATIONS],
    *[(fn.Dense(2, activation=name),) for name in kernels.ACTIVATIONS],
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", LAYERS, ids=str)
def test_a_model_comes_back_to_the_bit(layers: tuple[Any, ...], dtype: str, tmp_path: Path) -> None:
    model = fn.Sequential(*layers, dtype=dtype).build(3, seed=5)
    model.save(tmp_path / "m")
    loaded = fn.load(str(tmp_path / "m"))
    assert (loaded.layers, loaded.dtype, loaded.n_in) == (model.layers, model.dtype, 3)
    assert loaded.parameters.tobytes() == model.parameters.tobytes()
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(dtype)
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


def test_odd_numbers_come_back_to_the_bit(tmp_path: Path) -> None:
    model = small()
    odd = [np.nan, np.inf, -np.inf, -0.0, np.float32(1e-45), np.finfo(np.float32).max]
    model.parameters[: len(odd)] = odd
    model.save(tmp_path / "m")
    assert fn.load(tmp_path / "m").parameters.tobytes() == model.parameters.tobytes()


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mse"])
def test_the_link_is_saved(loss: str, tmp_path: Path) -> None:
    model = small()
    fn.Trainer(model, loss, "sgd")
    model.save(tmp_path / "m")
    loaded, x = fn.load(tmp_path / "m"), np.ones((2, 4))
    assert loaded.link == model.link
    if loss == "mse":
        with pytest.raises(ValueError, match="predict_proba needs"):
            loaded.predict_proba(x)
    else:
        np.testing.assert_array_equal(loaded.predict_proba(x), model.predict_proba(x))


def test_recipe_and_classes_are_saved(tmp_path: Path) -> None:
    table = {"size": [1.0, 2.0, 4.0, np.nan], "colour": ["rouge", "blé", "\ud800", ""], "sold": [1, 0, 0, 1]}
    recipe = data.Recipe.fit(table, target="sold")
    x, _ = recipe.arrays(table)
    model = fn.Sequential(fn.Dense(2)).build(x.shape[1])
    model.recipe, model.classes = recipe, ["a", np.int64(3), 0.1, True]
    model.save(tmp_path / "m")
    loaded = fn.load(tmp_path / "m")
    assert (loaded.recipe, loaded.classes) == (recipe, ["a", 3, 0.1, True])
    np.testing.assert_array_equal(loaded.predict(table), model.predict(table))
    safetensors.numpy.load_file(tmp_path / "m")


def test_a_loaded_model_trains_and_saves_to_the_same_bytes(tmp_path: Path) -> None:
    small().save(tmp_path / "a")
    loaded = fn.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    x, y = np.ones((4, 4)), np.array([0, 1, 2, 0])
    one, two = (fn.Trainer(m, "cross_entropy", "adam", seed=0) for m in (small(), loaded))
    assert one.fit(x, y, epochs=3) == two.fit(x, y, epochs=3)


def test_another_reader_of_safetensors_opens_it(tmp_path: Path) -> None:
    for model in (small(), small("float64"), fn.Sequential(fn.Dropout(0.5)).build(2)):
        model.save(tmp_path / "m")
        tensors = safetensors.numpy.load_file(tmp_path / "m")
        assert tensors.keys() == model.weights.keys()
        for name, tensor in tensors.items():
            assert tensor.dtype == model.dtype
            np.testing.assert_array_equal(tensor, model.weights[name])
        with safetensors.safe_open(tmp_path / "m", "np") as file:
            assert file.metadata()["format"] == "fastnn"


def test_data_begins_on_8_bytes(tmp_path: Path) -> None:
    for units in range(1, 12):
        fn.Sequential(fn.Dense(units)).build(3).save(tmp_path / "m")
        assert int.from_bytes((tmp_path / "m").read_bytes()[:8], "little") % 8 == 0


def test_an_unbuilt_model_has_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        fn.Sequential(fn.Dense(2)).save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_what_no_file_can_keep_is_refused_before_writing(tmp_path: Path) -> None:
    class Own(fn.Dense):
        pass

    model = fn.Sequential(Own(2)).build(2)
    with pytest.raises(TypeError, match="descriptions of fastnn, got Own"):
        model.save(tmp_path / "m")
    model = small()
    refused: list[Any] = [[object()], [float("nan")], [["a"]], "ab", np.ones((2, 2))]
    for classes in refused:
        model.classes = classes
        with pytest.raises((TypeError, ValueError), match="classes must be"):
            model.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the golden file of format 1


def golden() -> fn.Sequential:
    """The model in the golden file, by its numbers: no random draw has a part in it."""
    model = fn.Sequential(
        fn.Dense(3, activation="tanh"), fn.Dropout(0.5), fn.Dense(2), dtype="float64"
    ).build(2)
    model.parameters = np.arange(-8, 9) / 8
    model.link, model.classes = "softmax", ["no", "yes"]
    return model


def test_files_of_format_1_are_read_for_ever() -> None:
    model = fn.load(GOLDEN)
    assert repr(model) == repr(golden())
    assert (model.link, model.classes) == ("softmax", ["no", "yes"])
    np.testing.assert_array_equal(model.parameters, np.arange(-8, 9) / 8)
    # Worked with math.tanh and math.exp.
    expected = [[0.7977527915351877, 0.8765938335132746], [0.40840772676458237, 0.3615234420195601]]
    np.testing.assert_allclose(model.predict([[0.0, 0.0], [1.0, -1.0]]), expected, rtol=1e-14)
    np.testing.assert_allclose(model.predict_proba([[0.0, 0.0]])[0, 0], 0.48029994293011363, rtol=1e-14)


def test_this_version_writes_format_1_as_it_was(tmp_path: Path) -> None:
    golden().save(tmp_path / "m")
    old, new = container.read(GOLDEN), container.read(tmp_path / "m")
    assert {**old.metadata, "fastnn_version": fn.__version__} == new.metadata
    assert list(old.tensors) == list(new.tensors)
    if old.metadata["fastnn_version"] == fn.__version__:
        assert GOLDEN.read_bytes() == (tmp_path / "m").read_bytes()


# ---------------------------------------------------------------- files that do not fit themselves


def rewritten(tmp_path: Path, change: Any) -> Path:
    """A model file with changed contents and a checksum that is right."""
    small().save(tmp_path / "m")
    found = container.read(tmp_path / "m")
    change(found)
    container.write(tmp_path / "m", found.tensors, found.metadata)
    return tmp_path / "m"


def architecture(**changed: Any) -> Any:
    """A change of the architecture; a layer field by its name."""

    def change(found: container.Contents) -> None:
        text = container.parse_json("it", found.metadata["architecture"])
        for name, value in changed.items():
            where = text if name in text else text["layers"][0]
            if value is None:
                del where[name]
            else:
                where[name] = value
        found.metadata["architecture"] = container.dump_json("it", text)

    return change


MISFITS: dict[str, tuple[Any, str]] = {
    "names": (
        lambda f: f.tensors.update({"3.bias": f.tensors.pop("0.weight")}),
        r"misses '0.weight' and must not have '3.bias'",
    ),
    "shape": (
        lambda f: f.tensors.update({"0.weight": f.tensors["0.weight"].T, "extra": np.ones(2, "f")}),
        r"must not have 'extra'; must have '0.weight' of shape \(4, 5\) float32, got \(5, 4\) float32",
    ),
    "dtype": (
        lambda f: f.tensors.update({"0.bias": f.tensors["0.bias"].astype("f8")}),
        r"'0.bias' of shape \(5,\) float32, got \(5,\) float64",
    ),
    "more units": (
        architecture(units=6),
        r"'0.bias' of shape \(6,\).*; must have '2.weight' of shape \(6, 3\)",
    ),
    "huge units": (architecture(units=10**15), r"shape \(4, 1000000000000000\)"),
    "huge n_in": (architecture(n_in=10**18), r"shape \(1000000000000000000, 5\)"),
    "no class": (architecture(**{"class": None}), "layer 0 of .* must be an object with a class"),
    "unknown class": (architecture(**{"class": "Popen"}), "class of layer 0 .* Dense, .*, got 'Popen'"),
    "missing field": (architecture(bias=None), "layer 0 of .*, Dense, misses bias"),
    "extra field": (architecture(**{"class": "Dropout"}), "misses rate and must not have activation, bias"),
    "mistyped field": (architecture(units="5"), "layer 0 of .*, Dense: units must be an integer, got '5'"),
    "nested": (architecture(units={"class": "Dense"}), "layer 0 of .*, Dense, Dense, misses activation"),
    "misfit": (
        architecture(layers=[{"class": "Embedding", "columns": [[4, 2, 2]]}]),
        "the architecture of .*: layer 0, .* names column 4 of 4 columns",
    ),
    "huge table": (
        architecture(layers=[{"class": "Embedding", "columns": [[1, 10**12, 10**6]]}]),
        r"misses '0.weight_1' and must not have '0.bias'",
    ),
    "listed": (architecture(units=[[5]]), "units must be an integer, got .*5"),
    "no layers": (architecture(layers=[]), "layers must be at least one"),
    "layers of text": (architecture(layers=["Dense"]), "layer 0 of .* must be an object"),
    "layers no list": (architecture(layers="Dense"), "the architecture of .* must have dtype, layers, n_in"),
    "other dtype": (architecture(dtype="int8"), "dtype must be one of float32, float64, got 'int8'"),
    "n_in of text": (architecture(n_in="4"), "n_in must be an integer, got '4'"),
    "n_in zero": (architecture(n_in=0), "n_in must be at least 1, got 0"),
    "no n_in": (architecture(n_in=None), "the architecture of .* must have dtype, layers, n_in"),
    "no JSON": (lambda f: f.metadata.update(architecture="{"), "the architecture of .* must be JSON"),
    "link": (lambda f: f.metadata.update(link="tanh"), "link must be one of softmax, sigmoid, got 'tanh'"),
    "classes": (lambda f: f.metadata.update(classes="{}"), "classes of .* must be a list of texts"),
    "recipe": (lambda f: f.metadata.update(recipe="[1]"), "recipe must have the fields"),
    "kind": (lambda f: f.metadata.update(kind="song"), "must be a model, got a file of kind 'song'"),
    "no kind": (lambda f: f.metadata.pop("kind"), "must be a model, got a file of kind ''"),
    "metadata": (
        lambda f: (f.metadata.pop("fastnn_version"), f.metadata.update(author="x")),
        "the metadata of .* misses 'fastnn_version' and must not have 'author'",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_file_that_does_not_fit_itself_is_refused(name: str, tmp_path: Path) -> None:
    change, message = MISFITS[name]
    path = rewritten(tmp_path, change)
    with pytest.raises(FormatError, match=message):
        fn.load(path)


def all_subclasses(base: type) -> set[type]:
    below = set(base.__subclasses__())
    return below.union(*(all_subclasses(one) for one in below))


def test_descriptions_hold_every_class_that_is_offered() -> None:
    from fastnn import descriptions, layers, losses, optimizers

    for known, base in (
        (descriptions.LAYERS, layers.Layer),
        (descriptions.LOSSES, losses.Loss),
        (descriptions.OPTIMIZERS, optimizers.Optimizer),
    ):
        package = base.__module__.removesuffix(".base")
        if base is layers.Layer:
            package = "fastnn"  # in several modules
        offered = {one for one in all_subclasses(base) if one.__module__.startswith(package)}
        offered -= {losses.Custom}  # a function, which no file holds
        assert set(known.values()) == offered
    sgd = fn.SGD(0.1, 0.9, True, 0.01)
    assert descriptions.from_json("it", descriptions.to_json(sgd), descriptions.OPTIMIZERS) == sgd
    adam = fn.Adam(betas=(0.5, 0.6))
    assert descriptions.from_json("it", descriptions.to_json(adam), descriptions.OPTIMIZERS) == adam


# ---------------------------------------------------------------- writing


def test_a_save_that_fails_leaves_the_file_before_and_nothing_else(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "m"
    small().save(path)
    before = path.read_bytes()
    for name, module in (("fsync", os), ("replace", os), ("token_hex", replacing.secrets)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
            with pytest.raises(OSError, match="Input/output error") as caught:
                small("float64").save(path)
        assert caught.value.filename == str(path)
        assert os.listdir(tmp_path) == ["m"]
        assert path.read_bytes() == before
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with replacing.replacing(path) as file:
            file.write(b"half")
            assert len(os.listdir(tmp_path)) == 2
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["m"]
    assert path.read_bytes() == before


FULL = """
import resource, sys, numpy as np, fastnn as fn
model = fn.Sequential(fn.Dense(300)).build(300)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    model.save(sys.argv[1])
except OSError as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "m"
    small().save(path)
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True)
    assert done.stdout == f"OSError [Errno 27] File too large: {str(path)!r}\n"
    assert os.listdir(tmp_path) == ["m"]
    assert path.read_bytes() == before


def test_permissions_are_those_of_any_new_file_and_kept_on_replacing(tmp_path: Path) -> None:
    for mask in (0o022, 0o077, 0o002):
        path = tmp_path / f"m{mask}"
        old = os.umask(mask)
        try:
            small().save(path)
        finally:
            os.umask(old)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    for mode in (0o600, 0o640, 0o644):
        path.chmod(mode)
        small().save(path)
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to("there/m")
    for _ in range(2):  # dangling, then not
        small().save(link)
        assert link.is_symlink()
        assert os.listdir(tmp_path / "there") == ["m"]
        fn.load(link)


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    model = small()
    os.mkfifo(tmp_path / "pipe")
    cases: list[tuple[Any, type[Exception], str]] = [
        (tmp_path, IsADirectoryError, "Is a directory"),
        (f"{tmp_path}/new/", IsADirectoryError, "Is a directory"),
        (tmp_path / "pipe", OSError, "It is a device or a pipe"),
        ("/dev/null", OSError, "It is a device or a pipe"),
        (tmp_path / "none" / "m", FileNotFoundError, "No such file or directory: '.*none/m'"),
        (tmp_path / "pipe" / "m", NotADirectoryError, "Not a directory"),
        (tmp_path / ("x" * 300), OSError, "File name too long"),
        ("", ValueError, "path must be a text that is not empty"),
        ("a\0b", ValueError, "path must be a text .* no NUL"),
        (b"m", TypeError, "path must be a path, got b'm'"),
        (None, TypeError, "path must be a path, got None"),
        (3, TypeError, "path must be a path, got 3"),
    ]
    for path, kind, message in cases:
        with pytest.raises(kind, match=message):
            model.save(path)
    assert os.listdir(tmp_path) == ["pipe"]


def test_only_abandoned_temporary_files_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "m"
    abandoned = tmp_path / f".m.{'0' * 16}.tmp"
    others = [tmp_path / name for name in (f".n.{'0' * 16}.tmp", ".m.tmp", f".m.{'z' * 16}.tmp")]
    for file in (abandoned, *others):
        file.write_bytes(b"half")
    with replacing.replacing(path) as one:  # another save begins while this one writes
        assert not abandoned.exists()
        one.write(b"first")
        with replacing.replacing(path) as two:
            two.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_saving_while_another_thread_changes_the_parameters_gives_an_intact_file(tmp_path: Path) -> None:
    import threading

    model = fn.Sequential(fn.Dense(400)).build(400)
    done = threading.Event()

    def change() -> None:
        for value in itertools.cycle([1.0, 2.0]):
            model.parameters[...] = value
            if done.is_set():
                return

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(20):
            model.save(tmp_path / "m")
            fn.load(tmp_path / "m")
    finally:
        done.set()
        thread.join()


# ---------------------------------------------------------------- memory

MEMORY = r"""
import re, sys, fastnn as fn
# The peak of this process alone: ru_maxrss begins with that of the one that started it.
peak = lambda: int(re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1]) * 1024
fn.load(sys.argv[1])
before = peak()
fn.load(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_takes_twice_the_memory_of_the_file_at_most(tmp_path: Path) -> None:
    small().save(tmp_path / "small")
    fn.Sequential(fn.Dense(4000)).build(4000).save(tmp_path / "large")
    command = [sys.executable, "-c", MEMORY, tmp_path / "small", tmp_path / "large"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size = (tmp_path / "large").stat().st_size
    assert 0.9 * size < int(done.stdout) < 2.2 * size
