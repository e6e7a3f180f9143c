"""Modules of PyTorch to models and back, and what is refused: `make test-torch`."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layer_cases import COUPLED, NETWORKS

import fastnn as fn

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
if True:  # needs torch
    import torch.nn.functional as F
    from torch import nn
    from torch_modules import MODULES, Block, inputs, stirred

    from fastnn.torch import from_torch, to_torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def output(module: Any, x: Any) -> Any:
    with torch.no_grad():
        return module.eval()(x).numpy()


def gradient(module: Any, x: Any, y: Any) -> Any:
    """The gradient of the mean square in train mode without dropout, in the order of the model's block."""
    module = copy.deepcopy(module).train()
    for one in module.modules():
        if isinstance(one, (nn.Dropout, nn.AlphaDropout)):
            one.eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "dropout", lambda x, *_, **__: x)
        F.mse_loss(module(x), y).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.grad)
    return from_torch(module, n_in=6).parameters


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODULES)
def test_modules_convert_both_ways(name: str, dtype: str) -> None:
    kind = getattr(torch, dtype)
    module = stirred(MODULES[name]().to(kind))
    state = copy.deepcopy(module.state_dict())
    x, y = inputs(name, 33, kind), torch.randn(33, 4, dtype=kind)
    module.train()
    model = from_torch(module, n_in=6 if name == "categories" else None)
    assert (model.dtype, model.n_in) == (dtype, 6)
    assert all(one.training for one in module.modules())
    tolerance = {"rtol": 0, "atol": 1e-6 if dtype == "float32" else 1e-12}
    expected = output(module, x)
    np.testing.assert_allclose(model.predict(x.numpy()), expected, **tolerance)
    np.testing.assert_allclose(output(to_torch(model), x), expected, **tolerance)
    # a step of training
    found = fn.Trainer(model, "mse", "sgd").gradient(x.numpy(), y.numpy())[1]
    theirs = gradient(module, x, y)
    tolerance["atol"] = 1e-6 if dtype == "float32" else 1e-9  # theirs of hard_sigmoid has 1/6 in float32
    np.testing.assert_allclose(found, theirs, **tolerance)
    np.testing.assert_allclose(gradient(to_torch(model), x, y), theirs, **tolerance)
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[key])


@pytest.mark.parametrize("name", NETWORKS)
def test_models_come_back_as_they_were(name: str) -> None:
    rng = np.random.default_rng(0)
    for activation in ("relu", "identity", "log_softmax"):
        model = fn.Sequential(*NETWORKS[name](activation), dtype="float64").build(6, seed=3)
        model.parameters += 0.1 * rng.standard_normal(model.parameters.shape)
        model.buffers += 1  # counts of batches are whole
        module = to_torch(model)
        assert not module.training
        x = rng.standard_normal((9, 6))
        theirs = output(module, torch.from_numpy(x))
        np.testing.assert_allclose(theirs, model.predict(x), rtol=1e-11, atol=1e-12)
        again = from_torch(module)
        assert again.layers == model.layers
        np.testing.assert_array_equal(again.parameters, model.parameters)
        np.testing.assert_array_equal(again.buffers, model.buffers)
        if name != "noise":
            x, y = rng.standard_normal((33, 6)), rng.standard_normal((33, 3))
            found = fn.Trainer(model, "mse", "sgd").gradient(x, y)[1]
            theirs = gradient(module, torch.from_numpy(x), torch.from_numpy(y))
            loose = name in COUPLED
            np.testing.assert_allclose(found, theirs, rtol=1e-8, atol=1e-9 if loose else 1e-11)


@pytest.mark.parametrize("activation", fn.ops.ACTIVATIONS)
def test_each_activation_converts(activation: str) -> None:
    layers = fn.Dense(5, activation=activation), fn.Activation(activation)
    model = fn.Sequential(*layers, dtype="float64").build(3)
    x = np.random.default_rng(0).standard_normal((8, 3))
    module = to_torch(model)
    np.testing.assert_allclose(output(module, torch.from_numpy(x)), model.predict(x), rtol=1e-13, atol=1e-15)
    assert from_torch(module).layers == model.layers


def test_names_of_the_state_are_those_of_the_weights(tmp_path: Path) -> None:
    layers = NETWORKS["batch norm in branches"]("relu")
    model = fn.Sequential(*layers, fn.Residual(fn.Dense(5), shortcut=(fn.Dense(5), fn.LayerNorm()))).build(6)
    module = to_torch(model)
    ours = model.weights.keys() | model.running.keys()
    assert {name for name in module.state_dict() if not name.endswith("num_batches_tracked")} == ours
    fn.save_weights(model, tmp_path / "w.safetensors", layout="torch")
    from safetensors.torch import load_file, save_file

    other = to_torch(fn.Sequential(*model.layers).build(6, seed=1))
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    x = torch.randn(5, 6)
    assert torch.equal(other(x), module(x))
    save_file(module.state_dict(), tmp_path / "theirs.safetensors")
    third = fn.Sequential(*model.layers).build(6, seed=2)
    fn.load_weights(third, tmp_path / "theirs.safetensors", layout="torch")
    np.testing.assert_array_equal(third.parameters, model.parameters)


def test_modules_of_ours_are_saved_and_copied(tmp_path: Path) -> None:
    model = fn.Sequential(*NETWORKS["nested"]("relu")).build(6)
    module = to_torch(model)
    torch.save(module, tmp_path / "m.pt")
    again = torch.load(tmp_path / "m.pt", weights_only=False)
    assert from_torch(again).layers == model.layers
    assert from_torch(copy.deepcopy(module)).layers == model.layers
    assert to_torch(model).double()(torch.randn(2, 6, dtype=torch.float64)).dtype == torch.float64


def test_what_is_unknown_to_an_embedding_is_zeros() -> None:
    model = fn.Sequential(fn.Embedding(((1, 4, 3),)), fn.Dense(2), dtype="float64").build(3)
    x = np.array([[0.5, 3, 1], [0.5, 4, 1], [0.5, -1, 1], [0.5, 1.5, 1]])
    np.testing.assert_allclose(output(to_torch(model), torch.from_numpy(x)), model.predict(x), rtol=1e-14)


def test_a_converted_model_goes_on_training() -> None:
    module = MODULES["batch norm"]()
    model = from_torch(module)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 6)).astype(np.float32), rng.integers(0, 4, 200)
    history = fn.Trainer(model, "cross_entropy", "adam", seed=0).fit(x, y, epochs=5)
    assert history["loss"][-1] < history["loss"][0]
    assert not np.array_equal(model.parameters, from_torch(module).parameters)


def test_parameters_of_any_stride_are_read() -> None:
    linear = nn.Linear(3, 4)
    linear.weight = nn.Parameter(torch.randn(3, 4).T)
    with torch.no_grad():
        np.testing.assert_allclose(from_torch(linear).weights["0.weight"], linear.weight.numpy().T)


def test_inputs_that_are_not_used_are_no_inputs() -> None:
    class Extra(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x: Any, mask: Any = None) -> Any:
            return self.a(x)

    assert from_torch(Extra()).layers == (fn.Dense(2),)


# ---------------------------------------------------------------- what is refused


class Made(nn.Module):
    """A module of one function."""

    def __init__(self, forward: Any, **modules: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def _tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    return module


def _hooked() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 3))
    module[0].register_forward_hook(lambda *_: None)
    return module


class Two(nn.Module):
    def forward(self, x: Any, y: Any) -> Any:
        return x + y


class Branching(nn.Module):
    def forward(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


REFUSED = {
    "unknown": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Bilinear(3, 3, 2))),
        r"module '1.0', a Bilinear, has no layer in fastnn",
    ),
    "unknown root": (lambda: nn.Conv1d(1, 1, 1), r"conv1d in the module, a Conv1d, has no equal"),
    "function": (
        lambda: nn.Sequential(Made(lambda self, x: torch.cumsum(x, 1))),
        r"cumsum in module '0', a Made, has no equal in fastnn",
    ),
    "slope": (lambda: nn.Sequential(nn.LeakyReLU(0.2)), r"'0', a LeakyReLU, has slope 0.2; fastnn has 0.01"),
    "alpha": (lambda: nn.Sequential(nn.ELU(0.5)), r"module '0', a ELU, has alpha 0.5"),
    "softmax of rows": (lambda: nn.Sequential(nn.Linear(3, 3), nn.Softmax(0)), "must be over the columns"),
    "no statistics": (
        lambda: nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)),
        r"module '0', a BatchNorm1d, has no running statistics",
    ),
    "weight alone": (lambda: nn.Sequential(nn.LayerNorm(3, bias=False)), "has a weight or a bias alone"),
    "two dimensions": (lambda: nn.Sequential(nn.LayerNorm((2, 3))), "normalises 2 dimensions together"),
    "half": (lambda: nn.Sequential(nn.Linear(3, 3)).half(), r"'0', a Linear, must have weight in float32 or"),
    "bfloat16": (lambda: nn.Linear(3, 3).bfloat16(), r"float32 or float64, has bfloat16"),
    "mixed": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).double()),
        r"one dtype, has float32 \(0.weight\) and float64 \(1.weight\)",
    ),
    "meta": (lambda: nn.Linear(3, 3, device="meta"), r"weight with numbers, has it on the device meta"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), r"'0', a LazyLinear, must have weight with a shape"),
    "hook": (_hooked, r"module '0', a Linear, must have no hooks"),
    "parametrized": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))),
        r"module '0', a ParametrizedLinear, must have no parametrization, has one of weight",
    ),
    "tied": (_tied, r"2.weight must not be 0.weight too"),
    "used twice": (
        lambda: Made(lambda self, x: self.a(F.relu(self.a(x))), a=nn.Linear(3, 3)),
        r"a.weight must not be a.weight too",
    ),
    "two inputs": (Two, r"must use one input, uses 2 \(x, y\)"),
    "several results": (lambda: Made(lambda self, x: (x, x)), "must give one result, gives a tuple"),
    "control flow": (Branching, r"must be traceable by torch.fx, which says"),
    "dropout always on": (
        lambda: Made(lambda self, x: F.dropout(self.a(x), 0.5), a=nn.Linear(3, 3)),
        "must be off in eval mode",
    ),
    "modes differ": (
        lambda: Made(lambda self, x: F.relu(self.a(x)) if self.training else self.a(x), a=nn.Linear(3, 3)),
        "must do the same in train and eval mode",
    ),
    "product": (lambda: Made(lambda self, x: x * torch.sigmoid(x)), "is a product of two results"),
    "crossing": (
        lambda: Made(
            lambda self, x: _crossing(self, x), a=nn.Linear(3, 3), b=nn.Linear(3, 3), d=nn.Dropout(0.1)
        ),
        r"value within one branch is read by another|must not be",
    ),
    "changed in place": (
        lambda: Made(lambda self, x: _changed(self.a(x)), a=nn.Linear(3, 3)),
        "must not change in place what add reads afterwards",
    ),
    "result not used": (
        lambda: Made(lambda self, x: _dropped(self.a(x)), a=nn.Linear(3, 3)),
        "must be used by its result",
    ),
    "number of columns": (nn.ReLU, "n_in must be given"),
    "one column": (
        lambda: Made(lambda self, x: self.a(x[:, 0]), a=nn.Linear(3, 3)),
        "must keep rows of columns",
    ),
    "rate": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(1.0)),
        "must have a rate from 0 to below 1, has 1.0",
    ),
    "padding": (
        lambda: Made(lambda self, x: self.e(x[:, 0].long()), e=nn.Embedding(3, 2, padding_idx=0)),
        r"module 'e', a Embedding, has padding_idx",
    ),
    "shapes": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)), r"1.weight must have shape \(4, 2\)"),
}  # fmt: skip


def _crossing(self: Any, x: Any) -> Any:
    inner = self.d(self.a(x))
    return x + self.b(torch.cat([x, inner], 1)[:, :3]) + inner


def _changed(h: Any) -> Any:
    a = h.relu_()
    return a + h


def _dropped(h: Any) -> Any:
    h.relu_()
    return h


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_equal_is_named(case: str) -> None:
    make, text = REFUSED[case]
    with pytest.raises(ValueError, match=text):
        from_torch(make())


def test_arguments_are_judged() -> None:
    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module, got int"):
        from_torch(3)
    with pytest.raises(TypeError, match="model must be a Sequential, got Linear"):
        to_torch(nn.Linear(1, 1))
    with pytest.raises(fn.NotFittedError):
        to_torch(fn.Sequential(fn.Dense(1)))
    with pytest.raises(ValueError, match="n_in must be at least 1"):
        from_torch(nn.Linear(1, 1), n_in=0)
    assert from_torch(nn.ReLU(), n_in=3).layers == (fn.Activation("relu"),)


def test_tied_parameters_may_be_parted() -> None:
    module = _tied()
    model = from_torch(module, untie=True)
    x = torch.randn(4, 3)
    np.testing.assert_allclose(model.predict(x.numpy()), output(module, x), rtol=1e-5, atol=1e-6)


def test_parts_of_a_network_convert() -> None:
    assert from_torch(Block(8, 5)).layers == (
        fn.Residual(fn.LayerNorm(), fn.Dense(5, activation="gelu"), fn.Dropout(0.2), fn.Dense(8)),
    )


def test_pytorch_is_loaded_by_fastnn_torch_alone() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import fastnn\n"
        "try:\n    import fastnn.torch\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fastnn.torch needs PyTorch" in done.stdout
    assert "pip install 'fastnn-core[torch]'" in done.stdout
