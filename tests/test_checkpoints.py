"""Checkpoints: a resumed training ends with the bits of the undisturbed one, and nothing else is resumed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import fastnn as fn
from fastnn import container, data
from fastnn.errors import FormatError, NotFittedError


def rows() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4))
    return x, (x[:, 0] * x[:, 1] > 0).astype(int)


def make(dtype: str = "float32", optimizer: Any = None, **given: Any) -> fn.Trainer:
    model = fn.Sequential(fn.Dense(6, activation="tanh"), fn.Dropout(0.3), fn.Dense(2), dtype=dtype)
    optimizer = fn.Adam(lr=0.01) if optimizer is None else optimizer
    return fn.Trainer(model, "cross_entropy", optimizer, ["accuracy"], **{"seed": 3, **given})


class Killed(Exception):
    pass


class Kill(fn.Callback):
    """Ends a fit when an epoch begins, as if the process were gone."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        if epoch == self.at:
            raise Killed


def everything(trainer: fn.Trainer) -> dict[str, Any]:
    """All that a training is, comparable."""
    program = trainer._current_program()
    return {
        "parameters": trainer.model.parameters.tobytes(),
        "state": program.state.tobytes(),
        "counts": (trainer.epoch, trainer.step, program.step, trainer.seed),
        "rate": trainer.rate_factor,
        "history": (trainer.history.epoch, {name: repr(trainer.history[name]) for name in trainer.history}),
        "stop": trainer.stop_reason,
    }


# ---------------------------------------------------------------- going on

OPTIMIZERS = [fn.SGD(0.1), fn.SGD(0.1, momentum=0.9, nesterov=True), fn.Adam(0.01, weight_decay=0.1)]


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("at", [2, 5])
def test_a_resumed_fit_ends_with_the_same_bits(
    optimizer: Any, dtype: str, device: str, at: int, tmp_path: Path
) -> None:
    path, (x, y) = tmp_path / "c", rows()

    def callbacks(kill_at: int) -> list[fn.Callback]:
        plateau = fn.ReduceLROnPlateau(patience=0, threshold=1.0, threshold_mode="abs")
        return [fn.EarlyStopping(patience=50), plateau, fn.ModelCheckpoint(path), Kill(kill_at)]

    given: dict[str, Any] = {"epochs": 6, "batch_size": 16, "validation_split": 0.25}
    whole = make(dtype, optimizer, device=device)
    expected = whole.fit(x, y, callbacks=callbacks(0), **given)
    with pytest.raises(Killed):
        make(dtype, optimizer, device=device).fit(x, y, callbacks=callbacks(at), **given)
    resumed = make(dtype, optimizer, device=device)
    resumed.resume(path)
    assert resumed.epoch == at - 1
    history = resumed.fit(x, y, callbacks=callbacks(0), **given)
    assert history == expected
    assert everything(resumed) == everything(whole)
    assert resumed.fit(x, y, epochs=1) == whole.fit(x, y, epochs=1)


def test_epochs_count_in_total_of_the_interrupted_fit(tmp_path: Path) -> None:
    x, y = rows()
    whole, killed = make(), make()
    for trainer in (whole, killed):
        trainer.fit(x, y, epochs=3)
    expected = whole.fit(x, y, epochs=4, callbacks=[fn.ModelCheckpoint(tmp_path / "whole"), Kill(0)])
    with pytest.raises(Killed):
        killed.fit(x, y, epochs=4, callbacks=[fn.ModelCheckpoint(tmp_path / "c"), Kill(6)])
    resumed = make()
    resumed.resume(tmp_path / "c")
    history = resumed.fit(x, y, epochs=4, callbacks=[fn.ModelCheckpoint(tmp_path / "c"), Kill(0)])
    assert history.epoch == expected.epoch == [4, 5, 6, 7]
    assert everything(resumed) == everything(whole)


def test_none_left_is_legal(tmp_path: Path) -> None:
    x, y = rows()
    whole = make()
    whole.fit(x, y, epochs=3, callbacks=[fn.ModelCheckpoint(tmp_path / "c")])
    for epochs in (3, 2, 0):
        resumed = make()
        resumed.resume(tmp_path / "c")
        history = resumed.fit(x, y, epochs=epochs, callbacks=[fn.ModelCheckpoint(tmp_path / "d")])
        assert history.epoch == [1, 2, 3]
        assert everything(resumed) == everything(whole)
    assert resumed.fit(x, y, epochs=2).epoch == [4, 5]


def test_a_checkpoint_between_fits_goes_on_with_a_fit_of_its_own(tmp_path: Path) -> None:
    x, y = rows()
    whole = make()
    whole.fit(x, y, epochs=3)
    whole.save_checkpoint(tmp_path / "c")
    resumed = make()
    resumed.resume(tmp_path / "c")
    assert everything(resumed) == everything(whole)
    assert resumed.fit(x, y, epochs=2).epoch == whole.fit(x, y, epochs=2).epoch == [4, 5]
    assert everything(resumed) == everything(whole)


def test_steps_outside_of_fit_are_kept_too(tmp_path: Path) -> None:
    x, y = rows()
    whole = make()
    whole.run(x, y, np.arange(120).reshape(10, 12))
    whole.save_checkpoint(tmp_path / "c")
    resumed = make()
    resumed.resume(tmp_path / "c")
    for trainer in (whole, resumed):
        trainer.run(x, y, np.arange(60).reshape(5, 12))
        trainer.partial_fit(x, y)
    assert everything(resumed) == everything(whole)


def test_a_training_that_had_stopped_stays_stopped(tmp_path: Path) -> None:
    class Stop(fn.Callback):
        def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
            if epoch == 2:
                trainer.stop("enough")

    x, y = rows()
    callbacks = [Stop(), fn.ModelCheckpoint(tmp_path / "c")]
    make().fit(x, y, epochs=5, callbacks=callbacks)
    resumed = make()
    resumed.resume(tmp_path / "c")
    assert resumed.fit(x, y, epochs=5, callbacks=callbacks).epoch == [1, 2]
    assert resumed.stop_reason == "enough"


def test_a_checkpoint_saved_anew_has_the_same_bytes(tmp_path: Path) -> None:
    x, y = rows()
    callbacks = [fn.EarlyStopping("loss"), fn.ModelCheckpoint(tmp_path / "c"), Kill(3)]
    with pytest.raises(Killed):
        make().fit(x, y, epochs=5, callbacks=callbacks)
    resumed = make()
    resumed.resume(tmp_path / "c")
    resumed.save_checkpoint(tmp_path / "d")
    pickle.loads(pickle.dumps(resumed)).save_checkpoint(tmp_path / "e")
    assert len({(tmp_path / name).read_bytes() for name in "cde"}) == 1


def test_a_seed_that_was_not_given_is_taken_over(tmp_path: Path) -> None:
    x, y = rows()
    whole = make(seed=2**64 - 1)
    whole.fit(x, y, epochs=2)
    whole.save_checkpoint(tmp_path / "c")
    resumed = make(seed=None)
    resumed.fit(x, y)  # even where a program with the other seed is there already
    resumed.resume(tmp_path / "c")
    assert resumed.seed == 2**64 - 1
    assert resumed.fit(x, y, epochs=2) == whole.fit(x, y, epochs=2)
    assert everything(resumed) == everything(whole)


def test_views_of_a_built_model_stay_its_own(tmp_path: Path) -> None:
    x, y = rows()
    whole = make()
    whole.fit(x, y)
    whole.save_checkpoint(tmp_path / "c")
    trainer = make()
    trainer.model.build(4, seed=9)
    view = trainer.model.weights["0.weight"]
    trainer.resume(tmp_path / "c")
    np.testing.assert_array_equal(view, whole.model.weights["0.weight"])
    assert np.shares_memory(view, trainer.model.parameters)


def test_recipe_and_classes_come_back(tmp_path: Path) -> None:
    table = {"a": [1.0, 2.0, 3.0], "b": ["x", "y", "y"], "t": ["no", "yes", "no"]}
    recipe = data.Recipe.fit(table, target="t")
    x, y = recipe.arrays(table)
    whole = make()
    whole.model.recipe, whole.model.classes = recipe, ["no", "yes"]
    whole.fit(x, y)
    whole.save_checkpoint(tmp_path / "c")
    for resumed in (make(), make()):
        resumed.resume(tmp_path / "c")
        assert (resumed.model.recipe, resumed.model.classes) == (recipe, ["no", "yes"])
    other = make()
    other.model.recipe = data.Recipe.fit({"a": [1.0, 2.0], "t": ["no", "yes"]}, target="t")
    other.model.classes = ["yes", "no"]
    with pytest.raises(ValueError, match=r"classes is \['no', 'yes'\] in it and .*; its recipe is another"):
        other.resume(tmp_path / "c")


# ---------------------------------------------------------------- states of callbacks


class Keeper(fn.Callback):
    """Keeps whatever it is given."""

    def __init__(self, state: Any, path: Path | None = None) -> None:
        self.state, self.path = state, path
        self.loaded: Any = None

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        if self.path is not None:
            trainer.save_checkpoint(self.path)

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state


def carried(state: Any, path: Path) -> Any:
    """A state after a checkpoint."""
    x, y = rows()
    make().fit(x, y, callbacks=[Keeper(state, path)])
    resumed, keeper = make(), Keeper(None)
    resumed.resume(path)
    resumed.fit(x, y, callbacks=[keeper])
    return keeper.loaded


def test_states_of_callbacks_come_back_as_they_were(tmp_path: Path) -> None:
    plain = {
        "a": None,
        "b": True,
        "c": -(2**63),
        "d": 0.1,
        "e": "ü\n",
        "f": [1, [2.5, "x"]],
        "g": {},
        "": 1e-320,
    }
    special = {
        "t": (1, (2,)),
        "i": [float("inf"), float("-inf")],
        "d": {"float": "nan", "array": {"dict": ()}},
    }
    assert carried({**plain, **special}, tmp_path / "c") == {**plain, **special}
    assert np.isnan(carried({"x": float("nan")}, tmp_path / "c")["x"])
    assert carried({"x": np.float32(0.1), "y": np.int8(3)}, tmp_path / "c") == {
        "x": float(np.float32(0.1)),
        "y": 3,
    }


def test_arrays_in_states_come_back_as_they_were(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(3, dtype=np.int8),
        "b.c": np.ones((2, 0)),
        "e": np.array([True]),
        "f": np.array(1.5),
    }
    state = {**arrays, "b": {"c": np.arange(4.0).reshape(2, 2).T}, "l": [np.ones(2, "f"), np.zeros(1)]}
    loaded = carried(state, tmp_path / "c")
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)
    np.testing.assert_array_equal(loaded["b"]["c"], state["b"]["c"], strict=True)
    np.testing.assert_array_equal(loaded["l"][0], state["l"][0], strict=True)
    safetensors.numpy.load_file(tmp_path / "c")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, r"state_dict of callbacks\[0\], Keeper, must give a dict, got None"),
        ({"x": {1, 2}}, r"lists, dicts and arrays, got set as callbacks.0.x"),
        ({"x": [b"a"]}, r"got bytes as callbacks.0.x.0"),
        ({"x": {1: 2}}, r"got dict as callbacks.0.x"),
        ({"x": np.ones(1, complex)}, r"tensor 'callbacks.0.x' must have one of the types"),
        ({"x": np.array([None])}, r"tensor 'callbacks.0.x' must have one of the types"),
        ({"x": 10**30}, r"the training must be what a file can keep"),
    ],
)
def test_a_state_that_no_file_can_keep_is_refused(state: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        carried(state, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_other_callbacks_are_refused_and_the_right_ones_taken_then(tmp_path: Path) -> None:
    x, y = rows()
    callbacks = [fn.EarlyStopping("loss"), fn.ModelCheckpoint(tmp_path / "c")]
    make().fit(x, y, epochs=2, callbacks=callbacks)
    resumed = make()
    resumed.resume(tmp_path / "c")
    for wrong in ([], callbacks[::-1], [*callbacks, Kill(0)]):
        with pytest.raises(
            ValueError, match=r"callbacks must be .*\[EarlyStopping, ModelCheckpoint\], got \["
        ):
            resumed.fit(x, y, epochs=3, callbacks=wrong)
    assert resumed.fit(x, y, epochs=3, callbacks=callbacks).epoch == [1, 2, 3]


# ---------------------------------------------------------------- what is refused

DIFFERENT: dict[str, tuple[Callable[[], fn.Trainer], str]] = {
    "dtype": (lambda: make("float64"), "dtype is 'float32' in it and 'float64' here"),
    "seed": (lambda: make(seed=4), "seed is 3 in it and 4 here"),
    "rate": (lambda: make(optimizer=fn.Adam(lr=0.02)), r"optimizer is Adam\(lr=0.01.* and Adam\(lr=0.02"),
    "optimizer": (lambda: make(optimizer="sgd"), r"optimizer is Adam\(.* in it and SGD\("),
    "all": (
        lambda: fn.Trainer(fn.Sequential(fn.Dense(2)), "mse", "sgd"),
        r"the number of layers is 3 in it and 1 here; loss is CrossEntropy\(.*\) in it and MSE\(\) here; opt",
    ),
    "layer": (
        lambda: fn.Trainer(
            fn.Sequential(fn.Dense(6, activation="tanh"), fn.Dropout(0.2), fn.Dense(2)),
            "cross_entropy",
            fn.Adam(lr=0.01),
        ),
        r"layer 1 is Dropout\(rate=0.3\) in it and Dropout\(rate=0.2\) here",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_checkpoint_of_another_training_is_refused_and_nothing_changes(name: str, tmp_path: Path) -> None:
    x, y = rows()
    trainer = make()
    trainer.fit(x, y)
    trainer.save_checkpoint(tmp_path / "c")
    other, message = DIFFERENT[name][0](), DIFFERENT[name][1]
    with pytest.raises(ValueError, match=f"c must be a checkpoint of this training, but {message}"):
        other.resume(tmp_path / "c")
    assert not other.model.is_built
    assert (other.epoch, other.step) == (0, 0)


def test_another_number_of_columns_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    x, y = rows()
    trainer, other = make(), make()
    trainer.fit(x, y)
    trainer.save_checkpoint(tmp_path / "c")
    other.fit(x[:, :3], y)
    before = everything(other)
    with pytest.raises(ValueError, match="n_in is 4 in it and 3 here"):
        other.resume(tmp_path / "c")
    assert everything(other) == before


def test_a_model_is_no_checkpoint_and_a_checkpoint_no_model(tmp_path: Path) -> None:
    x, y = rows()
    trainer = make()
    with pytest.raises(NotFittedError):
        trainer.save_checkpoint(tmp_path / "c")
    trainer.fit(x, y)
    trainer.save_checkpoint(tmp_path / "c")
    trainer.model.save(tmp_path / "m")
    with pytest.raises(
        FormatError, match=r"must be a checkpoint, got a file of kind 'model': fn.load reads it"
    ):
        trainer.resume(tmp_path / "m")
    with pytest.raises(
        FormatError, match=r"must be a model, got a file of kind 'checkpoint': trainer.resume"
    ):
        fn.load(tmp_path / "c")
    with pytest.raises(FileNotFoundError):
        trainer.resume(tmp_path / "none")


def test_resume_inside_a_fit_is_refused(tmp_path: Path) -> None:
    class Resume(fn.Callback):
        def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
            trainer.resume(tmp_path / "c")

    x, y = rows()
    trainer = make()
    with pytest.raises(RuntimeError, match="resume must not be called while fit is running"):
        trainer.fit(x, y, callbacks=[Resume()])
    assert trainer.fit(x, y).epoch == [1]


def training(**changed: Any) -> Callable[[container.Contents], None]:
    """A change of fields of the training."""

    def change(found: container.Contents) -> None:
        value = {**container.parse_json("it", found.metadata["training"]), **changed}
        kept = {name: item for name, item in value.items() if item is not ...}
        found.metadata["training"] = container.dump_json("it", kept)

    return change


WRONG: dict[str, tuple[Callable[[container.Contents], Any], str]] = {
    "missing": (training(seed=...), "the training of .* must have callbacks, epoch, .*, got "),
    "extra": (training(author="x"), "the training of .* must have callbacks, epoch, "),
    "no training": (lambda f: f.metadata.pop("training"), "the metadata of .* misses 'training'"),
    "seed": (training(seed=2**64), "training of .*: seed must be from 0"),
    "epoch": (training(epoch=-1), "epoch must be from 0"),
    "step": (training(step=1.5), "step must be an integer, got 1.5"),
    "rate": (training(rate_factor=-1), "rate_factor must be at least 0"),
    "begun": (training(fit_begun=9), "fit_begun must be from 0 to 2, got 9"),
    "reason": (training(stop_reason=3), "stop_reason must be a text, got 3"),
    "loss": (training(loss="mse"), "loss of the training of .* must be an object with a class"),
    "other loss": (training(loss={"class": "Adam"}), "class of loss .* CrossEntropy, .*, got 'Adam'"),
    "optimizer": (training(optimizer={"class": "Adam", "lr": 1}), "Adam, misses accumulate, amsgrad"),
    "callbacks": (training(callbacks=3), "callbacks must be a list, got 3"),
    "callback": (training(callbacks=[{}]), r"callbacks\[0\] must have class and state, got \{\}"),
    "state": (training(callbacks=[{"class": "A", "state": []}]), r"state of callbacks\[0\] must be a dict"),
    "state's value": (
        training(callbacks=[{"class": "A", "state": {"dict": {"x": {"call": "exit"}}}}]),
        "is no value of a state",
    ),
    "state's float": (training(callbacks=[{"class": "A", "state": {"float": []}}]), "is no value of a state"),
    "state's array": (
        training(callbacks=[{"class": "A", "state": {"array": "x"}}]),
        "is no value of a state",
    ),
    "names": (training(history=["accuracy"]), "history must be names with 'loss' among them"),
    "names twice": (training(history=["loss", "loss"]), r"'history.values' must have shape \(2, 2\)|names"),
    "fewer names": (training(history=["loss"]), r"'history.values' must have shape \(2, 1\), got \(2, 2\)"),
    "epochs": (lambda f: f.tensors["history.epoch"].fill(2), "'history.epoch' must rise from 1 to 2"),
    "late epochs": (training(epoch=1), "'history.epoch' must rise from 1 to 1"),
    "no history": (lambda f: f.tensors.pop("history.values"), "tensor 'history.values' is missing"),
    "history's type": (
        lambda f: f.tensors.update({"history.values": np.ones((2, 2), "f")}),
        "'history.values' must be 2-D float64",
    ),
    "extra tensor": (lambda f: f.tensors.update(x=np.ones(1)), "must not have the tensors 'x'"),
    "no weight": (lambda f: f.tensors.pop("0.bias"), "misses '0.bias'"),
    "states": (
        lambda f: f.tensors.update({"optimizer.state": f.tensors["optimizer.state"][:1]}),
        r"'optimizer.state' must have shape \(2, 44\), got \(1, 44\)",
    ),
    "columns": (
        lambda f: f.tensors.update({"optimizer.state": f.tensors["optimizer.state"][:, :9]}),
        r"'optimizer.state' must have 44 columns, got shape \(2, 9\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_checkpoint_that_does_not_fit_itself_is_refused(name: str, tmp_path: Path) -> None:
    path, (x, y) = tmp_path / "c", rows()
    trainer = make()
    trainer.fit(x, y, epochs=2)
    trainer.save_checkpoint(path)
    found = container.read(path)
    WRONG[name][0](found)
    container.write(path, found.tensors, found.metadata)
    other = make()
    with pytest.raises(FormatError, match=WRONG[name][1]):
        other.resume(path)
    assert not other.model.is_built
    trainer.save_checkpoint(path)
    other.resume(path)
    assert everything(other) == everything(trainer)


def test_every_flip_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path, (x, y) = tmp_path / "c", rows()
    make().fit(x, y, callbacks=[fn.EarlyStopping("loss"), fn.ModelCheckpoint(path)])
    good, rng, trainer = path.read_bytes(), np.random.default_rng(0), make()
    for at in rng.integers(len(good), size=500):
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << int(rng.integers(8)))]) + good[at + 1 :])
        with pytest.raises(FormatError):
            trainer.resume(path)
    assert not trainer.model.is_built
