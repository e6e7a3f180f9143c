"""Several models that answer as one: the mean of what they give, how far they are apart, one file.

Metadata of its file beside those of `saving`: ``members``, a JSON list with the texts of each model's own
file, of which those that all share stand once beside it; ``weights``, a JSON list. Tensors are those of the
members under their number, ``"0/0.weight"``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import build_check, container, errors, saving
from .container import Contents
from .errors import FormatError
from .network import Sequential, described

__all__ = ["Ensemble"]

Array = NDArray[Any]

_SHARED = ("link", "recipe", "classes")


class Ensemble:
    """Models of one task, whatever their layers, that predict together.

    Parameters
    ----------
    models : list of Sequential
        Built, with the same number of inputs and outputs, the same link and classes. They are held, not
        copied: what is trained further predicts so here.
    weights : array_like (n_models,), optional
        How much each counts, at least 0; None: all alike. Divided by their sum.

    Attributes
    ----------
    models : tuple of Sequential
    weights : ndarray (n_models,)
        With the sum 1.
    n_in, n_out : int
    link : str or None
    recipe, classes
        Those that all models have, else None.

    Examples
    --------
    >>> import fastnn as fn
    >>> models = [fn.Sequential(fn.Dense(2, weight_init="zeros")).build(3) for _ in range(2)]
    >>> models[1].parameters += 1
    >>> both = Ensemble(models)
    >>> both.predict([[1.0, 0.0, 0.0]]).tolist(), both.std([[1.0, 0.0, 0.0]]).tolist()
    ([[1.0, 1.0]], [[1.0, 1.0]])
    """

    def __init__(self, models: Iterable[Sequential], weights: ArrayLike | None = None) -> None:
        if isinstance(models, Sequential) or not isinstance(models, Iterable):
            raise TypeError(f"models must be a list of models, got {type(models).__name__}")
        self.models = tuple(models)
        if not self.models:
            raise ValueError("models must be at least one, got none")
        for i, one in enumerate(self.models):
            if not isinstance(one, Sequential):
                raise TypeError(f"models[{i}] must be a Sequential, got {type(one).__name__}")
            if not one.is_built:
                raise errors.NotFittedError(
                    f"models[{i}] has no parameters yet: train it, or call its build(n_in)"
                )
            for name in ("n_in", "n_out", "link", "classes"):
                want, got = getattr(self.models[0], name), getattr(one, name)
                if want != got:
                    raise ValueError(f"models[{i}] must have {name} {want!r} as models[0] has, got {got!r}")
        self.weights = self._judged_weights(weights)
        self.n_in, self.n_out = self.models[0].n_in, self.models[0].n_out
        self.link, self.classes = self.models[0].link, self.models[0].classes
        recipes = [None if one.recipe is None else one.recipe.to_json() for one in self.models]
        self.recipe = self.models[0].recipe if all(one == recipes[0] for one in recipes) else None

    def _judged_weights(self, weights: ArrayLike | None) -> NDArray[np.float64]:
        n = len(self.models)
        if weights is None:
            return np.full(n, 1 / n)
        found = errors.array("weights", weights)
        if found.shape != (n,):
            raise ValueError(f"weights must have shape ({n},), got {found.shape}")
        judged = [errors.real(f"weights[{i}]", one) for i, one in enumerate(found.tolist())]
        if not 0 < sum(judged) < np.inf:
            raise ValueError(f"weights must have a finite sum above 0, got {sum(judged):g}")
        return np.array(judged) / sum(judged)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is predicted: float64 where one model has it."""
        return np.result_type(*(one.dtype for one in self.models))

    def __len__(self) -> int:
        return len(self.models)

    def __iter__(self) -> Iterator[Sequential]:
        return iter(self.models)

    def __getitem__(self, i: int) -> Sequential:
        return self.models[i]

    def __repr__(self) -> str:
        return f"Ensemble({len(self)} models, {self.n_in} inputs, {self.n_out} outputs, link={self.link!r})"

    # ------------------------------------------------------------ prediction

    def predict(self, x: Any) -> Array:
        """The weighted mean of what the models' last layers give: (rows, n_out).

        Where the loss takes logits, the mean of logits: `predict_proba` is not its softmax.

        Parameters
        ----------
        x : array_like (rows, n_in), or a table
            As for `Sequential.predict`.
        """
        return self._moments(x, proba=False)[0].astype(self.dtype)

    def predict_proba(self, x: Any) -> Array:
        """The weighted mean of the models' probabilities (rows, n_classes)."""
        return self._moments(x, proba=True)[0].astype(self.dtype)

    def std(self, x: Any, *, proba: bool = False) -> Array:
        """How far the models are apart: the weighted standard deviation of their outputs (rows, n_out).

        Of the population: for two models half their distance.

        Parameters
        ----------
        proba : bool
            Of their probabilities instead.
        """
        return np.sqrt(self._moments(x, proba=errors.flag("proba", proba))[1]).astype(self.dtype)

    def _moments(self, x: Any, proba: bool) -> tuple[Array, Array]:
        """Mean and variance in float64, by West's running sums (1979): the outputs of one model at a time."""
        mean = spread = None
        total = 0.0
        for model, weight in zip(self.models, self.weights.tolist(), strict=True):
            out = (model.predict_proba(x) if proba else model.predict(x)).astype(np.float64)
            if mean is None or spread is None:
                mean, spread = np.zeros_like(out), np.zeros_like(out)
            if weight == 0.0:
                continue
            total += weight
            away = out - mean
            mean += away * (weight / total)
            spread += weight * away * (out - mean)
        assert mean is not None
        assert spread is not None
        return mean, np.maximum(spread / total, 0.0)

    # ------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all models and their weights to one file that `fastnn.load` reads; see `Sequential.save`."""
        texts = [one._description().to_metadata() for one in self.models]
        common = {
            name: texts[0][name]
            for name in _SHARED
            if name in texts[0] and all(one.get(name) == texts[0][name] for one in texts)
        }
        members = [{name: text for name, text in one.items() if name not in common} for one in texts]
        metadata = {
            "kind": "ensemble",
            "fastnn_version": build_check.version(),
            "members": container.dump_json("members", members),
            "weights": container.dump_json("weights", self.weights.tolist()),
            **common,
        }
        tensors = {
            f"{i}/{name}": tensor
            for i, one in enumerate(self.models)
            for name, tensor in {**one.weights, **one.running}.items()
        }
        container.write(path, tensors, metadata)

    @classmethod
    def _from_file(cls, found: Contents) -> Ensemble:
        """What a file holds (FormatError)."""
        path = found.path
        saving.judge_kind(found, "ensemble", {"members", "weights"})
        members = container.parse_json(f"members of {path}", found.metadata["members"])
        weights = container.parse_json(f"weights of {path}", found.metadata["weights"])
        if not isinstance(members, list) or not all(map(_are_texts, members)):
            raise FormatError(f"members of {path} must be texts by name, got {members!r:.200}")
        common = {name: found.metadata[name] for name in _SHARED if name in found.metadata}
        models = []
        for i, member in enumerate(members):
            texts = {**common, **member}
            if "architecture" not in texts or texts.keys() - {"architecture", *_SHARED}:
                raise FormatError(f"member {i} of {path} must have an architecture, got {sorted(texts)}")
            description = saving.Description.from_metadata(path, texts)
            shapes = {**description.shapes(), **description.running_shapes()}
            named = {f"{i}/{name}": shape for name, shape in shapes.items()}
            last = i == len(members) - 1
            taken = saving.take(found, named, description.dtype, others=not last)
            own = {name: taken[f"{i}/{name}"] for name in shapes}
            models.append(described(path, description, own))
        try:
            ensemble = cls(models, weights)
        except (TypeError, ValueError) as error:
            raise FormatError(f"the ensemble of {path}: {error}") from None
        # As they were: a division by a sum that is 1 but for its rounding would change them.
        ensemble.weights = np.array(weights, np.float64)
        if not abs(ensemble.weights.sum() - 1) < 1e-6:
            raise FormatError(f"weights of {path} must have the sum 1, got {ensemble.weights.sum():g}")
        return ensemble


def _are_texts(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values())
