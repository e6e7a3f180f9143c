"""Sequential: a list of layer descriptions and the flat block of their parameters."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import devices, errors, folding, initializers, ops
from .input_layers import flattened
from .layers import AnyLayer, Dense, Layer, Step, lower, n_parameters, places
from .prediction import Predictor
from .steps import initial_buffers, running_places, sources_of

if TYPE_CHECKING:
    from . import saving
    from .data import Recipe

__all__ = ["Sequential", "described"]

Array = NDArray[Any]

# The block starts on a cache line, and a whole vector may be read at its last element.
_ALIGNMENT = 64
_MOST_BYTES = 2**47  # of a block: what processors address
# Rows converted at a time for a prediction: enough for all threads, few beside the data.
_BLOCK_ROWS = 1024
_NOT_COPIED = (
    "_block",
    "_buffers",
    "_steps",
    "_predictor",
    "_attempt",
    "_folded",
)  # made anew with each copy


def _aligned_zeros(n: int, dtype: np.dtype[Any]) -> Array:
    """A block of n zeros that starts on a 64-byte boundary, with 64 bytes of room after them."""
    n_bytes = n * dtype.itemsize + _ALIGNMENT
    raw = np.zeros(n_bytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + n_bytes].view(dtype)


def _views(found: Mapping[str, tuple[int, tuple[int, ...]]], block: Array) -> dict[str, Array]:
    """Each array by its name, as a view of the block."""
    return {
        name: block[offset : offset + math.prod(shape)].reshape(shape)
        for name, (offset, shape) in found.items()
    }


def _activation_after(steps: tuple[Step, ...], i: int) -> str:
    """The activation that a dense step's sums go through, be it a layer of its own."""
    reached = {i}
    for j in range(i, len(steps)):
        step = steps[j]
        if j > i and (step.kind == "dense" or reached.isdisjoint(sources_of(j, step))):
            continue
        reached.add(j)
        if step.activation != "identity":
            return step.activation
    return "identity"


class Sequential:
    """A feed-forward network: layers one after the other.

    Parameters
    ----------
    *layers : Dense, Activation, BatchNorm, Residual and others
        Descriptions, from the input to the output.
    dtype : "float32" or "float64"
        Of parameters and of all arithmetic.

    Attributes
    ----------
    layers : tuple
    dtype : numpy.dtype
    n_in, n_out : int or None
        Widths; None before the model is built.
    link : str or None
        The activation that turns outputs into probabilities; set by the trainer from its loss.
    recipe : fastnn.data.Recipe or None
        What turns a table with named columns into the matrix; saved with the model.
    classes : list or None
        The label that each output stands for; saved with the model.

    Examples
    --------
    >>> import fastnn as fn
    >>> model = fn.Sequential(fn.Dense(3, activation="relu"), fn.Dense(2)).build(4)
    >>> model.weights["0.weight"].shape
    (4, 3)
    >>> model.predict([[0.0, 0.0, 0.0, 0.0]]).tolist()
    [[0.0, 0.0]]
    """

    def __init__(self, *layers: AnyLayer, dtype: Any = "float32") -> None:
        if len(layers) == 1 and isinstance(layers[0], (list, tuple)):
            raise TypeError("layers must be given one by one: Sequential(*layers)")
        if not layers:
            raise ValueError("layers must be at least one, got none")
        for i, layer in enumerate(layers):
            if isinstance(layer, type) and issubclass(layer, Layer):
                raise TypeError(
                    f"layer {i} must be a description, got the class; write {layer.__name__}(...)"
                )
            if not isinstance(layer, Layer):
                raise TypeError(f"layer {i} must be a layer such as Dense, got {errors.shown(layer)}")
        self.layers = layers
        self.dtype = errors.real_dtype("dtype", dtype)
        self.n_in: int | None = None
        self.n_out: int | None = None
        self.link: str | None = None
        self.recipe: Recipe | None = None
        self.classes: list[Any] | None = None
        self._steps: tuple[Step, ...] = ()
        self._block: Array | None = None  # the parameters and their room
        self._buffers: Array = np.empty(0, self.dtype)
        self._folded: Array | None = None  # what the predictor has, where it is not the block itself
        self._predictor: devices.Program | None = None
        self._attempt: Callable[[object], Array | None] | None = None
        self._n_builds = 0  # tells a trainer, across copies too, that parameters are not those it knew

    # ------------------------------------------------------------ parameters

    def build(self, n_in: int, seed: int = 0) -> Sequential:
        """Give the model its parameters for inputs of n_in columns, drawn from seed; returns the model.

        A model that has parameters already starts anew: views of the old ones are no longer its own.
        """
        n_in, seed = errors.integer("n_in", n_in), errors.seed("seed", seed)
        steps, block = self._room(n_in)
        views = _views(places(steps), block)
        for i, step in enumerate(steps):
            try:
                if step.kind == "dense":
                    name = step.weight_init or initializers.default_for(_activation_after(steps, i))
                    drawn = initializers.draw(name, step.n_in, step.n_out, seed=seed, layer=step.draws)
                    views[f"{step.prefix}.weight"][...] = drawn
                    if step.bias_init is not None:
                        biases = initializers.draw_bias(
                            step.bias_init, step.n_in, step.n_out, seed=seed, layer=step.draws
                        )
                        views[f"{step.prefix}.bias"][...] = biases
                elif step.kind == "periodic":
                    n = step.n_parameters
                    drawn = initializers.normal(n, seed=seed, layer=step.draws, parameter=0)
                    views[f"{step.prefix}.weight"][...] = step.initial * drawn.reshape(step.weight_shape)
                elif step.weight >= 0:
                    views[f"{step.prefix}.weight"][...] = step.initial
                for table in step.tables:
                    shape = table.n_categories, table.width
                    numbers = initializers.normal(
                        shape[0] * shape[1], seed=seed, layer=step.draws, parameter=table.column
                    )
                    views[f"{step.prefix}.weight_{table.column}"][...] = numbers.reshape(shape)
            except MemoryError:
                raise MemoryError(f"no memory to draw the weights of {self._size_of(step)}") from None
        self._become(steps, block)
        return self

    def _allocate(self, n_in: int) -> None:
        """A new block of zeros for inputs of n_in columns."""
        self._become(*self._room(n_in))

    def _room(self, n_in: int) -> tuple[tuple[Step, ...], Array]:
        """Steps and a block of zeros for inputs of n_in columns; the model is as before."""
        steps = lower(self.layers, n_in)
        n, largest = n_parameters(steps), max(steps, key=lambda step: step.n_parameters)
        if n * self.dtype.itemsize > _MOST_BYTES:
            raise ValueError(f"{self._size_of(largest)}: more than any machine can address")
        try:
            return steps, _aligned_zeros(n, self.dtype)
        except MemoryError:
            raise MemoryError(f"no memory for the parameters: {self._size_of(largest)}") from None

    def _size_of(self, step: Step) -> str:
        """A layer and what its parameters take, for messages."""
        n_bytes = step.n_parameters * self.dtype.itemsize
        return (
            f"layer {step.layer}, {self.layers[step.layer]!r}, of {step.n_in} inputs takes {n_bytes:,} bytes"
        )

    def _become(self, steps: tuple[Step, ...], block: Array) -> None:
        """Take a block that is filled: all at once, so that an error or Ctrl-C before leaves the old one."""
        self.__dict__.update(
            _block=block,
            _buffers=initial_buffers(steps, self.dtype),
            _folded=None,
            _steps=steps,
            n_in=steps[0].n_in,
            n_out=steps[-1].n_out,
            _predictor=None,
            _attempt=None,
            _n_builds=self._n_builds + 1,
        )

    @property
    def is_built(self) -> bool:
        """Whether the model has parameters."""
        return self._block is not None

    def _require(self) -> Array:
        """The block of a built model."""
        if self._block is None:
            raise errors.NotFittedError(
                "this model has no parameters yet: train it, or call model.build(n_in)"
            )
        return self._block

    @property
    def steps(self) -> tuple[Step, ...]:
        """What a device compiles: layers with their widths and places in the block."""
        self._require()
        return self._steps

    @property
    def parameters(self) -> Array:
        """All trained numbers as one writable vector, in layer order: each weight row by row, then its bias.

        What is assigned is copied into it.
        """
        return self._require()[: n_parameters(self._steps)]

    @parameters.setter
    def parameters(self, value: ArrayLike) -> None:
        parameters = self.parameters
        given = errors.array("parameters", value)
        if given.shape != parameters.shape:
            raise ValueError(f"parameters must have shape {parameters.shape}, got {given.shape}")
        parameters[...] = errors.cast("parameters", given, self.dtype)

    @property
    def weights(self) -> dict[str, Array]:
        """Writable views of the parameters by layer position: "0.weight" (n_in, n_out), "0.bias" (n_out,).

        An embedding has "0.weight_3" (n_categories, width) for the category column 3.
        """
        block = self._require()
        return _views(places(self._steps), block)

    @property
    def buffers(self) -> Array:
        """State that is not trained, as one writable vector: the running statistics of each BatchNorm.

        What is assigned is copied into it.
        """
        self._require()
        return self._buffers

    @buffers.setter
    def buffers(self, value: ArrayLike) -> None:
        buffers = self.buffers
        given = errors.array("buffers", value)
        if given.shape != buffers.shape:
            raise ValueError(f"buffers must have shape {buffers.shape}, got {given.shape}")
        buffers[...] = errors.cast("buffers", given, self.dtype)

    @property
    def running(self) -> dict[str, Array]:
        """Writable views of the buffers: "1.running_mean" and "1.running_var" (n_out,) by layer position."""
        self._require()
        return _views(running_places(self._steps), self._buffers)

    # ------------------------------------------------------------ prediction

    def predict(self, x: Any) -> Array:
        """What the last layer gives for each row of x: (rows, n_out), in the model's dtype.

        These are logits where the loss takes logits; dropout is off. Safe in many threads at once.

        Parameters
        ----------
        x : array_like (rows, n_in), or a table
            A table (see `fastnn.data.read_table`: a DataFrame, a dict of arrays, the path of a CSV file)
            goes through the model's recipe; its other columns are ignored.
        """
        attempt = self._attempt
        if attempt is not None:  # 0.3 us where x is right as it is, against 2.5 through the door
            out = attempt(x)
            if out is not None:
                return out
        self._require()
        table = self._table(x)
        program = self._present_predictor()
        out = np.empty((len(table), self._steps[-1].n_out), self.dtype)
        probe = table[:1]
        if len(table) <= _BLOCK_ROWS or errors.inputs("x", probe, self.dtype) is probe:
            program.predict(errors.inputs("x", table, self.dtype), out)
            return out
        # Converted block by block: no second table. A row's prediction does not depend on its block.
        for first in range(0, len(table), _BLOCK_ROWS):
            part = slice(first, first + _BLOCK_ROWS)
            program.predict(errors.inputs("x", table[part], self.dtype), out[part])
        return out

    def _present_predictor(self) -> devices.Program:
        """A program of the present parameters; where norms are folded, of a copy, anew if they changed."""
        block = self._require()
        program = self._predictor
        if program is not None and self._folded is None:
            return program
        if not folding.can_fold(self._steps):
            program = self._predictor = devices.make("cpu", self._steps, block, buffers=self._buffers)
            self._attempt = Predictor(self._steps, block, self._buffers).attempt  # reads what is trained
            return program
        steps, folded = folding.fold(self._steps, block, self._buffers)
        before = self._folded
        if program is None or before is None or before.tobytes() != folded.tobytes():
            program = devices.make("cpu", steps, self._padded(folded), buffers=self._buffers)
            self._predictor, self._folded = program, folded
        return program

    def _padded(self, parameters: Array) -> Array:
        """Parameters in a block of their own."""
        block = _aligned_zeros(len(parameters), self.dtype)
        block[: len(parameters)] = parameters
        return block

    def _table(self, x: Any) -> Array:
        """The matrix of a matrix or table, not yet converted."""
        if self.recipe is not None:
            from . import data  # loaded with the recipe: 15 ms that matrices do not pay

            if data.is_table(x):
                x = self.recipe.matrix(x, self.dtype)
            elif np.ndim(x) == 2 and np.shape(x)[1] != self.n_in:
                raise ValueError(
                    f"x must have {self.n_in} columns as the recipe gives them, got shape {np.shape(x)}; "
                    "pass a table with named columns to have the recipe applied"
                )
        elif isinstance(x, (Mapping, str, os.PathLike)):
            raise TypeError(f"x must be a matrix, as this model has no recipe; got {type(x).__name__}")
        return errors.table("x", flattened("x", x, self.layers), self.n_in)

    def predict_proba(self, x: Any) -> Array:
        """Probabilities (rows, n_classes) through the link of the loss that the model was trained with.

        Softmax over the outputs for cross_entropy. For binary_cross_entropy the sigmoid: one output gives
        two columns (of class 0 and 1), several give one column each.
        """
        return self._linked(self.predict, x)

    def _linked(self, predict: Callable[[Any], Array], x: Any) -> Array:
        """What `predict` gives for x, through the link."""
        self._require()
        if self.link is None:
            raise ValueError("predict_proba needs a model trained with cross_entropy or binary_cross_entropy")
        z = predict(x)
        if self.link == "softmax":
            return ops.softmax(z, out=z)
        if z.shape[1] == 1:
            z = np.hstack([-z, z])  # 1 - p would lose the small ones
        return ops.sigmoid(z, out=z)

    def scale_outputs(self, scale: float, shift: float) -> None:
        """Multiply all outputs by scale and add shift, for good: into the last layer's weight and bias.

        A model trained on ``(y - shift) / scale`` gives y afterwards, compiled and saved too.

        Raises
        ------
        ValueError
            The last layer is no Dense with a bias and without an activation.
        """
        if not (math.isfinite(scale) and math.isfinite(shift)):
            raise ValueError(f"scale and shift must be finite, got {scale!r} and {shift!r}")
        weights, last = self.weights, len(self.layers) - 1
        layer = self.layers[last]
        if not isinstance(layer, Dense) or layer.activation not in (None, "identity") or not layer.bias:
            raise ValueError(
                f"the last layer must be a Dense with a bias and no activation, got {errors.shown(layer)}"
            )
        w, b = weights[f"{last}.weight"], weights[f"{last}.bias"]
        w[...] = w.astype(np.float64) * scale
        b[...] = b.astype(np.float64) * scale + shift

    def compile(self) -> Predictor:
        """An immutable snapshot for the hot path: ``h(x, out=None)`` returns out (rows, n_out)."""
        steps, parameters = self.steps, self.parameters
        if folding.can_fold(steps):
            steps, parameters = folding.fold(steps, parameters, self._buffers)
        return Predictor(steps, self._padded(parameters), self._buffers.copy())

    # ------------------------------------------------------------ description

    def summary(self) -> str:
        """A table of the layers with their widths and numbers of parameters."""
        table = [("layer", "", "outputs", "parameters")]
        ends = {s.layer: s.n_out for s in self._steps}
        for i, layer in enumerate(self.layers):
            before = ends.get(i - 1, self.n_in)  # of a layer without a step, as Flatten
            ends.setdefault(i, before if self.is_built and before is not None else -1)
            n_out = str(ends[i] if ends[i] >= 0 else getattr(layer, "units", "?"))
            n = sum(s.n_parameters for s in self._steps if s.layer == i)
            table.append((str(i), repr(layer), n_out, f"{n:,}" if self.is_built else "?"))
        w = [max(len(row[column]) for row in table) for column in range(4)]
        lines = [f"{i:<{w[0]}}  {name:<{w[1]}}  {n:>{w[2]}}  {count:>{w[3]}}" for i, name, n, count in table]
        if self.is_built:
            n = n_parameters(self._steps)
            size = f"{self.dtype}, {n * self.dtype.itemsize:,} bytes"
            lines.append(f"{n:,} parameters ({size}), inputs of {self.n_in} columns")
            if len(self._buffers):
                lines.append(f"{len(self._buffers):,} numbers of running statistics")
        else:
            lines.append(f"not built yet ({self.dtype})")
        return "\n".join(lines)

    def __repr__(self) -> str:
        given = [repr(layer) for layer in self.layers]
        if self.dtype != np.float32:
            given.append(f"dtype='{self.dtype}'")
        return f"Sequential({', '.join(given)})"

    # ------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file that `fastnn.load` reads, and any reader of safetensors.

        The file appears whole and safe on the disk, or what was there stays; see docs/files.md.

        Raises
        ------
        NotFittedError
            The model has no parameters.
        OSError
            It can not be written.
        """
        from . import saving  # loaded with the first file

        saving.write_model(path, self._description(), {**self.weights, **self.running})

    def _description(self) -> saving.Description:
        """All that a file says of the model but its numbers."""
        from . import saving

        self._require()
        assert self.n_in is not None
        recipe = None if self.recipe is None else self.recipe.to_json()
        return saving.Description(self.layers, str(self.dtype), self.n_in, self.link, recipe, self.classes)

    # ------------------------------------------------------------ copies

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and copy take: all attributes, a subclass's too, and a plain copy of the parameters."""
        state = {name: value for name, value in self.__dict__.items() if name not in _NOT_COPIED}
        parameters = self.parameters.copy() if self.is_built else None
        return {**state, "parameters": parameters, "buffers": self._buffers.copy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A block of its own, aligned again."""
        attributes = dict(state)
        parameters, buffers = attributes.pop("parameters"), attributes.pop("buffers")
        self.__dict__.update(attributes)
        self._block, self._steps, self._predictor, self._attempt = None, (), None, None
        self._buffers, self._folded = buffers, None
        if parameters is not None:
            self._allocate(attributes["n_in"])
            self.parameters, self.buffers = parameters, buffers
            self._n_builds = attributes["_n_builds"]


def recipe_from_json(path: str, value: Any, n_in: int) -> Recipe:
    """The recipe of a file, which fits a model of n_in columns (FormatError)."""
    from . import data

    recipe = data.Recipe.from_json(value)
    n_features = len(recipe.features)
    if n_features != n_in:
        raise errors.FormatError(f"the recipe of {path} must give {n_in} columns, got {n_features}")
    return recipe


def described(path: str, description: saving.Description, weights: Mapping[str, Array]) -> Sequential:
    """The model that a file describes, with its weights (FormatError)."""
    model = Sequential(*description.layers, dtype=description.dtype)
    model.link, model.classes = description.link, description.classes
    if description.recipe is not None:
        model.recipe = recipe_from_json(path, description.recipe, description.n_in)
    model._allocate(description.n_in)
    for name, view in {**model.weights, **model.running}.items():
        view[...] = weights[name]
    return model
