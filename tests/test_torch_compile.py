"""torch.compile(backend="fastnn"): what is taken and left, and weights that change: `make test-torch`."""

from __future__ import annotations

import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
if True:  # needs torch
    import torch.nn.functional as F
    from torch import nn
    from torch_modules import MODULES, inputs, stirred

    from fastnn.torch import backend, explain

TOLERANCE = {"rtol": 1e-5, "atol": 2e-6}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function: Any, **more: Any) -> Any:
    return torch.compile(function, backend=backend, fullgraph=True, **more)


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, **TOLERANCE)


class Made(nn.Module):
    """A module of one function."""

    def __init__(self, forward: Any, **modules: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *x: Any) -> Any:
        return self.function(self, *x)


# Nodes that PyTorch runs: looked up tables and views.
LEFT = {"categories": 8, "images": 1, "functional": 1}


@pytest.mark.parametrize("name", MODULES)
def test_modules_run_in_fastnn_as_in_pytorch(name: str) -> None:
    module = stirred(MODULES[name]()).eval()
    x = inputs(name, 17, torch.float32)
    with torch.no_grad():
        report = explain(module, x)
        assert report.n_parts == 1, str(report)
        assert report.n_left <= LEFT.get(name, 0), str(report)
        assert report.n_taken >= 1
        quick = compiled(module)
        for n in (17, 1, 5, 33):
            x = inputs(name, n, torch.float32)
            same(quick(x), module(x))


def test_float64_and_more_dimensions() -> None:
    layers = nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 4), nn.Softmax(-1)
    module = nn.Sequential(*layers).double()
    with torch.no_grad():
        for shape in ((2, 3, 6), (2, 2, 2, 6), (0, 6)):
            x = torch.randn(shape).double()
            assert explain(module, x).n_left == 0
            torch.testing.assert_close(compiled(module)(x), module(x))


@pytest.mark.parametrize("dynamic", [None, True, False])
def test_any_number_of_rows(dynamic: bool | None) -> None:
    module = MODULES["batch norm"]().eval()
    quick = compiled(module, dynamic=dynamic)
    with torch.no_grad():
        for n in (3, 5, 1, 8):
            x = torch.randn(n, 6)
            same(quick(x), module(x))
    with torch.inference_mode():
        same(quick(x), module(x))


def test_inputs_of_any_stride_are_read() -> None:
    module = MODULES["deep"]()
    quick = compiled(module)
    with torch.no_grad():
        for x in (torch.randn(6, 9).T, torch.randn(9, 12)[:, ::2], torch.randn(1, 6).expand(9, 6)):
            same(quick(x), module(x))
        x = torch.randn(4, 6, requires_grad=True)
        same(quick(x), module(x))


def test_a_number_that_changes_is_seen() -> None:
    module = MODULES["layer norm"]()
    quick, x = compiled(module, dynamic=True), torch.randn(5, 6)
    with torch.no_grad():
        for eps in (1e-5, 0.5, 2.0):
            module[1].eps = eps
            same(quick(x), module(x))
        for scale in (0.5, 2.0, 3.0):
            scaled = compiled(Made(lambda self, x, scale: self.a(x) * scale, a=nn.Linear(6, 6)), dynamic=True)
            same(scaled(x, scale), scaled(x, 1.0) * scale)


# ---------------------------------------------------------------- weights


CHANGES = {
    "in place": lambda w: w.mul_(2),
    "by an index": lambda w: w[0].add_(5),
    "copied": lambda w: w.copy_(torch.ones_like(w)),
    "data exchanged": lambda w: setattr(w, "data", torch.randn(w.shape)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_seen(change: str) -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    module = stirred(module).eval()
    quick, x = compiled(module), torch.randn(5, 6)
    with torch.no_grad():
        before = quick(x)
        same(before, module(x))
        for tensor in (module[0].weight, module[1].running_mean, module[3].bias):
            CHANGES[change](tensor)
            after = quick(x)
            same(after, module(x))
            assert not torch.equal(after, before)
            before = after


def test_a_step_of_training_between_predictions_is_seen() -> None:
    module = MODULES["batch norm"]()
    quick, x = compiled(module), torch.randn(8, 6)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(3):
        module.train()
        module(x).square().sum().backward()
        optimizer.step()
        module.eval()
        with torch.no_grad():
            same(quick(x), module(x))
    state = {name: tensor * 0.5 for name, tensor in module.state_dict().items()}
    module.load_state_dict(state)
    with torch.no_grad():
        same(quick(x), module(x))


def test_values_are_compared_where_that_is_asked_for() -> None:
    module = MODULES["deep"]()
    quick, x = compiled(module, options={"weights": "values"}), torch.randn(5, 6)
    with torch.no_grad():
        same(quick(x), module(x))
        module[0].weight.data.mul_(2)  # no counter tells it
        module[0].bias.detach().numpy()[:] = 1.0
        same(quick(x), module(x))
        module[4].weight[0, 0] = torch.nan
        assert quick(x)[:, 0].isnan().all()


def test_weights_are_copied_once() -> None:
    from fastnn.torch import part as parts

    made: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        whole = parts.Part.__init__
        patch.setattr(parts.Part, "__init__", lambda self, *a: (whole(self, *a), made.append(self))[0])
        module = MODULES["deep"]()
        quick = compiled(module, dynamic=True)
        with torch.no_grad():
            for n in (3, 4, 5, 6):
                quick(torch.randn(n, 6))
            assert [one.n_copies for one in made] == [1]
            module[0].weight.add_(1)
            quick(torch.randn(3, 6))
            quick(torch.randn(3, 6))
    assert [one.n_copies for one in made] == [2]


def test_weights_made_in_inference_mode_have_no_counter() -> None:
    with torch.inference_mode():
        module = MODULES["deep"]()
        quick, x = compiled(module), torch.randn(5, 6)
        same(quick(x), module(x))
        module[0].weight.mul_(2)
        same(quick(x), module(x))


# ---------------------------------------------------------------- what is left


def test_training_is_left_whole() -> None:
    module = MODULES["batch norm"]()
    module[3].p = 0.0
    x = torch.randn(8, 6)
    report = explain(module, x)
    assert report.n_taken == report.n_parts == 0
    assert "needs a gradient" in str(report)
    compiled(module)(x).square().sum().backward()
    found = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    module(x).square().sum().backward()
    for gradient, parameter in zip(found, module.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)
    # eval mode with gradients, and an input that wants one
    x.requires_grad_()
    module.eval()
    compiled(module)(x).sum().backward()
    assert x.grad is not None


def test_no_grad_within_the_function_is_seen() -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU())

    def half(x: Any) -> Any:
        with torch.no_grad():
            teacher = module(x)
        return module(x) - teacher * 2

    x = torch.randn(4, 6)
    report = explain(half, x)
    assert report.n_taken == 2 + 1  # the module without gradients, and the factor
    quick = compiled(half)(x)
    assert quick.requires_grad
    same(quick, half(x))


def test_dropout_in_train_mode_is_left() -> None:
    module = MODULES["batch norm"]().train()
    with torch.no_grad():
        report = explain(module, torch.randn(8, 6))
    assert report.n_left == 4  # both, the count of batches, and the ReLU between
    assert report.n_parts == 2


def test_the_rest_is_left_to_pytorch() -> None:
    def forward(self: Any, x: Any) -> Any:
        h = F.relu(self.a(x))
        h = torch.cumsum(h, 0)  # over rows
        return torch.sort(self.b(h.sin()))[0]

    module = Made(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 4))
    x = torch.randn(5, 6)
    with torch.no_grad():
        report = explain(module, x)
        assert (report.n_parts, report.n_taken) == (2, 3)
        assert {reason for name, reason in report.left if "cumsum" in name} == {"has no equal in fastnn"}
        same(compiled(module)(x), module(x))


def test_several_results_and_several_inputs() -> None:
    def forward(self: Any, x: Any, y: Any) -> Any:
        h = torch.tanh(self.a(x))
        g = self.b(y)
        return h, h + g, F.softmax(self.c(h), 1), self.c(h)[:, 1:3], h.sum()

    module = Made(forward, a=nn.Linear(6, 8), b=nn.Linear(3, 8), c=nn.Linear(8, 4))
    x, y = torch.randn(5, 6), torch.randn(5, 3)
    with torch.no_grad():
        report = explain(module, x, y)
        assert report.n_parts == 2
        for found, expected in zip(compiled(module)(x, y), module(x, y), strict=True):
            same(found, expected)
            assert found.is_contiguous() or found.shape == (5, 2)


def test_changes_in_place_keep_their_order() -> None:
    def forward(self: Any, x: Any) -> Any:
        a = self.a(x)
        x.add_(1.0)
        b = self.a(x)
        c = a.relu_()  # read by others
        return a + b, c, x

    module = Made(forward, a=nn.Linear(6, 6))
    x = torch.randn(5, 6)
    first, second = x.clone(), x.clone()
    with torch.no_grad():
        for found, expected in zip(compiled(module)(first), module(second), strict=True):
            same(found, expected)
    same(first, second)


def test_weights_that_are_computed_are_left() -> None:
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 4))
    x = torch.randn(5, 6)
    with torch.no_grad():
        report = explain(module, x)
        assert any("weight that is computed" in reason for _, reason in report.left)
        assert report.n_taken >= 1
        same(compiled(module)(x), module(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_types_are_left(dtype: Any) -> None:
    module, x = MODULES["deep"]().to(dtype), torch.randn(5, 6, dtype=dtype)
    with torch.no_grad():
        assert explain(module, x).n_taken == 0
        torch.testing.assert_close(compiled(module)(x), module(x))


def test_autocast_and_transforms_are_left() -> None:
    module, x = MODULES["deep"](), torch.randn(5, 6)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert explain(module, x).n_taken == 0
        found = compiled(module)(x)
        assert found.dtype == torch.bfloat16
    with torch.no_grad():
        same(torch.compile(torch.vmap(module), backend=backend)(x), module(x))


def test_a_graph_without_products_is_left() -> None:
    with torch.no_grad():
        report = explain(lambda x: torch.relu(x) * 2, torch.randn(3, 3))
    assert report.n_taken == 0
    assert "no product" in str(report)


def test_dimensions_other_than_the_last_are_left() -> None:
    module = Made(lambda self, x: F.softmax(self.a(x), 1), a=nn.Linear(6, 6))
    x = torch.randn(2, 3, 6)
    with torch.no_grad():
        report = explain(module, x)
        assert report.n_taken == 1
        assert "over other than columns" in str(report)
        same(compiled(module)(x), module(x))


def test_calls_from_many_threads() -> None:
    module, xs = MODULES["deep"](), [torch.randn(n, 6) for n in range(2, 10)]
    with torch.no_grad():
        quick = compiled(module, dynamic=True)
        quick(xs[0])
        expected = [module(x) for x in xs]
    wrong: list[int] = []

    def work(i: int) -> None:
        with torch.no_grad():
            right = [torch.allclose(quick(xs[i]), expected[i], **TOLERANCE) for _ in range(20)]
        wrong.append(right.count(False))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * len(xs)


def test_arguments_are_judged() -> None:
    module, x = MODULES["deep"](), torch.randn(2, 6)
    with torch.no_grad():
        with pytest.raises(Exception, match="options must be one of weights, got 'freeze'"):
            compiled(module, options={"freeze": True})(x)
        torch._dynamo.reset()
        with pytest.raises(Exception, match=r"must be one of versions, values, got 'never'"):
            compiled(module, options={"weights": "never"})(x)
    with pytest.raises(TypeError, match="function must be a module or function"):
        explain(3)


def test_the_entry_point_is_found(tmp_path: Path) -> None:
    """As an installed distribution has it: its metadata is made here from pyproject.toml."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["torch_dynamo_backends"]
    home = tmp_path / "fastnn_stand_in-1.0.dist-info"
    home.mkdir()
    (home / "METADATA").write_text("Metadata-Version: 2.1\nName: fastnn-stand-in\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (home / "entry_points.txt").write_text("\n".join(["[torch_dynamo_backends]", *lines, ""]))
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import torch\n"
        "assert 'fastnn' in torch._dynamo.list_backends()\n"
        "assert 'fastnn.torch' not in sys.modules\n"
        "module, x = torch.nn.Linear(3, 2), torch.randn(4, 3)\n"
        "with torch.no_grad():\n"
        "    quick = torch.compile(module, backend='fastnn')(x)\n"
        "    assert torch.allclose(quick, module(x), atol=1e-6)\n"
        "print('fastnn.torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_bits_do_not_depend_on_the_rows_beside() -> None:
    module = MODULES["residual"]().eval()
    quick, x = compiled(module, dynamic=True), torch.randn(64, 6)
    with torch.no_grad():
        whole = quick(x).numpy()
        alone = np.concatenate([quick(x[i : i + 1]).numpy() for i in range(64)])
    np.testing.assert_array_equal(whole, alone)
