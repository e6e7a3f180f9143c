"""From an ONNX file to a model that can be trained on."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import container, errors
from ..errors import FormatError
from ..network import Sequential, described
from ..saving import Description
from .graph import Graph, Node, Value, read_model
from .operators import Limits
from .pieces import Piece, last_activation
from .structure import Reader
from .writing import COUNTS, PREFIX

__all__ = ["load"]

Array = NDArray[Any]

# Numbers that a graph may make while it is read: of some rows, so far more than any network needs, and
# never much more than the file has.
_ROOM = 1 << 22
_TOLERANCE = {"float32": 1e-3, "float64": 1e-6}  # of the comparison below: single precision, many layers
_CHECKED_ROWS = 5


def load(
    path: str | os.PathLike[str], *, output: str | None = None, logits: bool = False, by_graph: bool = False
) -> Sequential:
    """The model of an ONNX file, to predict with and to train on.

    A file of `export` gives its model back, with layers, link, classes and recipe, and the same bits. Graphs
    of other tools (PyTorch, Keras, scikit-learn, ..) are read as layers; what no layer does is an error that
    names the node. What has been read is compared with the graph on some rows.

    Parameters
    ----------
    output : str, optional
        Name of the output that the model is to give; wanted where there are several. Of a classifier of
        scikit-learn it is the probabilities, whose labels become ``model.classes``.
    logits : bool
        Whether a last softmax or sigmoid is left off: `predict` then gives logits, as the losses want them,
        and `predict_proba` what the file gives.
    by_graph : bool
        Whether a file of `export` is read as any other: one that was changed since.

    Raises
    ------
    FormatError
        The file is broken, or a file of ours was changed.
    ValueError
        It has what no layer does.

    Examples
    --------
    A file of another tool, trained on:

    >>> import os, tempfile, numpy as np, onnx.parser, fastnn as fn, fastnn.onnx
    >>> path = os.path.join(tempfile.mkdtemp(), "other.onnx")
    >>> text = '''<ir_version: 8, opset_import: ["": 18]> g (float[N, 2] a) => (float[N, 1] c)
    ...     <float[2, 1] w = {1.0, 2.0}> { b = MatMul (a, w)  c = Relu (b) }'''
    >>> onnx.save(onnx.parser.parse_model(text), path)
    >>> model = fastnn.onnx.load(path)
    >>> model
    Sequential(Dense(units=1, activation='relu', bias=False))
    >>> trainer = fn.Trainer(model, loss="mse", optimizer=fn.SGD(lr=0.1))
    >>> _ = trainer.fit(np.eye(2, dtype="float32"), np.zeros(2, "float32"), epochs=3)
    """
    given = errors.file_path("path", path)
    errors.flag("logits", logits)
    errors.flag("by_graph", by_graph)
    graph = read_model(path)
    is_own = graph.producer == "fastnn" or any(key.startswith(PREFIX) for key in graph.metadata)
    try:
        if is_own and not by_graph:
            model = _own(given, graph)
            if output is not None:
                errors.choice("output", output, [value.name for value in graph.outputs])
            return _without_activation(given, model) if logits else model
        return _of_graph(graph, output, logits)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{given}: {error}") from error


# ---------------------------------------------------------------- files of ours


def _own(path: str, graph: Graph) -> Sequential:
    """The model that `export` wrote."""
    if not graph.is_whole:
        raise FormatError(
            f"{path} was damaged or changed since fastnn wrote it, as its checksum says; "
            "by_graph=True reads a changed graph as that of any tool"
        )
    texts = {key.removeprefix(PREFIX): text for key, text in graph.metadata.items()}
    if "architecture" not in texts:
        raise FormatError(f"the metadata of {path} misses {PREFIX}architecture")
    description = Description.from_metadata(path, texts)
    weights = dict(graph.constants)
    counts = container.parse_json(f"{COUNTS} of {path}", graph.metadata.get(COUNTS, "{}"))
    for name, count in counts.items() if isinstance(counts, dict) else ():
        if not isinstance(count, (int, float)):
            raise FormatError(f"{COUNTS} of {path} must hold numbers, got {count!r:.100}")
        weights[name] = np.full(1, count)
    faults = []
    for name, shape in {**description.shapes(), **description.running_shapes()}.items():
        if name not in weights:
            faults.append(f"misses {name!r}")
        elif weights[name].shape != shape:
            faults.append(f"has {name!r} of shape {weights[name].shape} instead of {shape}")
    if faults:
        raise FormatError(f"{path} {'; '.join(faults[:8])}")
    return described(path, description, weights)


def _without_activation(path: str, model: Sequential) -> Sequential:
    """The same model without a last softmax or sigmoid."""
    if model.link is not None:
        return model
    weights = {**model.weights, **model.running}
    pieces = []
    for i, layer in enumerate(model.layers):
        own = {name.removeprefix(f"{i}."): v for name, v in weights.items() if name.startswith(f"{i}.")}
        pieces.append(Piece(layer, own))
    assert model.n_in is not None
    found = _model(pieces, model.n_in, str(model.dtype), logits=True)
    found.classes, found.recipe = model.classes, model.recipe
    return found


# ---------------------------------------------------------------- files of others


def _of_graph(graph: Graph, output: str | None, logits: bool) -> Sequential:
    """A model with the layers of a graph."""
    limits = Limits(most=_ROOM + 2 * graph.n_bytes)
    name, classes = _chosen(graph, output)
    reader = Reader(graph, name, limits)
    pieces = reader.pieces()
    model = _model(pieces, reader.n_in, reader.dtype, logits=False)
    _compare(reader, model)
    if logits:
        model = _model(pieces, reader.n_in, reader.dtype, logits=True)
    if classes is not None and (model.n_out == len(classes) or (model.n_out == 1 and len(classes) == 2)):
        model.classes = classes
    return model


def _chosen(graph: Graph, output: str | None) -> tuple[str, list[Any] | None]:
    """The value to compute, and the labels of its columns where the graph has some."""
    giver = {name: node for node in graph.nodes for name in node.outputs if name}
    names = [value.name for value in graph.outputs]
    if output is None:
        numbers = [value for value in graph.outputs if _may_be_rows(value, giver.get(value.name))]
        if len(numbers) != 1:
            raise ValueError(f"output must name one of the outputs {', '.join(names)}")
        name = numbers[0].name
    else:
        name = errors.choice("output", output, names)
    classes: list[Any] | None = None
    node = giver.get(name)
    if node is not None and node.op == "ai.onnx.ml.ZipMap":
        labels = node.attributes.get("classlabels_strings") or node.attributes.get("classlabels_int64s")
        classes = None if labels is None else list(labels)
        name = node.inputs[0]
    for node in graph.nodes:
        labels = graph.constants.get(node.inputs[0]) if node.inputs else None
        if classes is None and node.op == "ai.onnx.ml.ArrayFeatureExtractor" and labels is not None:
            classes = labels.reshape(-1).tolist()
    return name, classes


def _may_be_rows(value: Value, node: Node | None) -> bool:
    """Whether an output is rows of numbers: no labels."""
    if node is not None and node.op == "ai.onnx.ml.ZipMap":
        return True
    return value.dtype is not None and value.dtype.kind == "f"


def _model(pieces: list[Piece], n_in: int, dtype: str, *, logits: bool) -> Sequential:
    """A model of layers with their weights."""
    link = None
    if logits:
        found = last_activation(pieces)
        if found is None:
            end = repr(pieces[-1].layer) if pieces else "nothing"
            raise ValueError(f"logits=True wants a softmax or sigmoid at the end, got {end}")
        pieces, link = found
    if not pieces:
        raise ValueError("the output is the input: there is no layer")
    model = Sequential(*(piece.layer for piece in pieces), dtype=dtype)
    model._allocate(n_in)
    model.link = link
    for name, view in {**model.weights, **model.running}.items():
        position, _, end = name.partition(".")
        array = pieces[int(position)].weights.get(end)
        if array is None or array.shape != view.shape:
            got = "none" if array is None else f"shape {array.shape}"
            raise ValueError(
                f"layer {position}, {model.layers[int(position)]!r}, wants {end} {view.shape}, got {got}"
            )
        with np.errstate(over="ignore"):
            view[...] = array
    return model


def _compare(reader: Reader, model: Sequential) -> None:
    """Refuse a model that does not predict what the graph gives."""
    n_rows = max(reader.n_rows())
    n_rows = n_rows if reader.n_rows()[0] == n_rows else _CHECKED_ROWS
    numbers = np.random.default_rng(1).standard_normal(n_rows * reader.n_in)
    x = reader.inputs(n_rows, numbers)
    wanted = np.asarray(reader.run(x)[reader.output], np.float64).reshape(n_rows, -1)
    found = model.predict(x.reshape(n_rows, -1).astype(model.dtype)).astype(np.float64)
    with np.errstate(all="ignore"):
        scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-30)
        close = np.abs(found - wanted) <= _TOLERANCE[str(model.dtype)] * scale
    if found.shape != wanted.shape or not (close | (found == wanted) | np.isnan(wanted)).all():
        raise ValueError(f"the layers that were read do not compute what the graph does: {model!r:.300}")
