"""The arguments of all commands, and their help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from .. import kernels

__all__ = ["parser"]

DESCRIPTION = "Train and serve feed-forward neural networks from tables and NumPy arrays."

TRAIN = """\
Train a network on a CSV file with a header, to predict one of its columns.

Kinds of columns are found out: numbers are standardised, categories get a 0/1 column for each text, dates
become time, year, month, day of the year, weekday and hour, missing values are filled and flagged. What was
decided is kept in the model file; "fastnn info MODEL" prints it.

The target is classes where it holds texts, booleans or at most 20 different whole numbers, else numbers;
--task overrides. A tenth of the rows is held back; training ends when it no longer gains, and the best
parameters are kept. Ctrl-C saves the best so far and ends with status 130. A run that was killed, interrupted
or out of time goes on with --resume, if it wrote checkpoints: when it is through, they are taken away.
"""

TRAIN_EXAMPLES = """\
examples:
  fastnn train houses.csv --target price -o houses.safetensors
  fastnn train flowers.csv --target species -o flowers.safetensors --layers 64 --dropout 0.2
  fastnn train sales.csv --target amount -o sales.safetensors --drop order_id --category store --json
  fastnn train big.csv --target y -o big.safetensors --checkpoint-every 10m --time-limit 8h --resume
"""

BENCH = """\
Time fastnn beside other libraries: training steps, predictions, and Adam beside SGD, on made-up data.

Each library has a process of its own, and its best of one and of all threads counts. Its results are compared
with float64 before it is timed; processes take turns; a library that is not installed is named and left out,
one that hangs has "timed out" in its cell. A whole run takes about 20 minutes. Peers: by_hand (NumPy),
sklearn, torch_eager, torch_compiled, jax, numba, onnxruntime, onednn, openvino.
"""

BENCH_EXAMPLES = """\
examples:
  fastnn bench --quick
  fastnn bench train --peers by_hand,sklearn --cells 64-64-10
  fastnn bench predict --out results
"""

PREDICT_EXAMPLES = """\
examples:
  fastnn predict houses.safetensors new.csv
  fastnn predict houses.safetensors new.csv -o prices.csv
  fastnn predict houses.safetensors new.csv | paste -d , new.csv -
"""

EVALUATE_EXAMPLES = """\
examples:
  fastnn evaluate houses.safetensors held-out.csv
  fastnn evaluate houses.safetensors held-out.csv --json
"""


EXPORT_EXAMPLES = """\
examples:
  fastnn export digits.safetensors --to onnx
  fastnn export digits.safetensors --to c
  fastnn export digits.safetensors --to c -o firmware/digits.c --name digits --target microcontroller
"""


class _Parser(argparse.ArgumentParser):
    """One whose errors are one line too."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fastnn: error: {message} (see {self.prog} --help)\n")


# Commands load what they need when they run: help and wrong usage stay quick.


def _train(arguments: argparse.Namespace) -> int:
    from . import train

    return train.run(arguments)


def _predict(arguments: argparse.Namespace) -> int:
    from . import apply

    return apply.predict(arguments)


def _evaluate(arguments: argparse.Namespace) -> int:
    from . import apply

    return apply.evaluate(arguments)


def _export(arguments: argparse.Namespace) -> int:
    from . import export

    return export.run(arguments)


def _info(arguments: argparse.Namespace) -> int:
    from . import about

    return about.info(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    from . import about

    return about.demo(arguments)


def _bench(arguments: argparse.Namespace) -> int:
    from . import about

    return about.bench(arguments)


def parser() -> argparse.ArgumentParser:
    """The parser; each command sets `command`, a function of the arguments that gives the exit status."""
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--threads", type=_positive_int, metavar="N", help="threads to use (default: all)")

    top = _Parser(prog="fastnn", description=DESCRIPTION)
    top.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Any, help: str, description: str = "", epilog: str = "") -> Any:
        added = commands.add_parser(
            name,
            help=help,
            description=description or f"{help[0].upper()}{help[1:]}.",
            epilog=epilog,
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=command)
        return added

    _add_train(add("train", _train, "train on a CSV file", TRAIN, TRAIN_EXAMPLES))

    predict = add(
        "predict",
        _predict,
        "predict the rows of a CSV file",
        "Print a CSV with a header and a line for each row: probability_<class> for each class, then\n"
        "prediction, the label or number. Columns that the model does not know are ignored.",
        PREDICT_EXAMPLES,
    )
    predict.add_argument("model", help="model file that fastnn train wrote")
    predict.add_argument("data", help="CSV file with the columns of the training")
    predict.add_argument("-o", "--output", metavar="FILE", help="CSV file to write (default: stdout)")

    evaluate = add(
        "evaluate",
        _evaluate,
        "measure predictions on a CSV file that has the target",
        epilog=EVALUATE_EXAMPLES,
    )
    evaluate.add_argument("model", help="model file that fastnn train wrote")
    evaluate.add_argument("data", help="CSV file with the columns of the training and the target")
    evaluate.add_argument("--json", action="store_true", help="print JSON")

    _add_export(
        add(
            "export",
            _export,
            "write a model for use without fastnn",
            "Write a model as C source: one file without dependencies and its header, with the results of\n"
            "predict to the bit; or as an ONNX file, which needs the package onnx. See docs/interop.md.",
            EXPORT_EXAMPLES,
        )
    )

    info = add("info", _info, "what a model, or this fastnn, is")
    info.add_argument("model", nargs="?", help="model file; without one: version, instruction set, threads")
    info.add_argument("--json", action="store_true", help="print JSON")

    demo = add("demo", _demo, "train on handwritten digits, beside NumPy and scikit-learn")
    demo.add_argument(
        "--epochs", type=_positive_int, default=30, help="epochs of training (default: %(default)s)"
    )
    demo.add_argument(
        "--seconds", type=_positive_float, default=5.0, help="time of the comparison (default: %(default)s)"
    )

    demo.add_argument(
        "--curves", default="learning-curves.png", help="file of the picture (default: %(default)s)"
    )

    _add_bench(add("bench", _bench, "time fastnn beside other libraries", BENCH, BENCH_EXAMPLES))
    return top


def _add_bench(bench: argparse.ArgumentParser) -> None:
    bench.add_argument(
        "kind", nargs="?", choices=["train", "predict", "adam"], help="what to time (default: all three)"
    )
    bench.add_argument(
        "--peers", type=_names, metavar="A,B", help="peers beside fastnn (default: all that are installed)"
    )
    bench.add_argument(
        "--cells", type=_names, metavar="A,B",
        help='words in the names of cells, as in "64-64-10 b32" (default: all cells)',
    )  # fmt: skip
    bench.add_argument("--rounds", type=_positive_int, metavar="N", help="rounds of each cell")
    bench.add_argument("--quick", action="store_true", help="tiny cells, only to see that all works")
    bench.add_argument("--json", action="store_true", help="print JSON")
    bench.add_argument("--out", type=Path, metavar="DIR", help="folder for JSON, tables and pictures")
    bench.add_argument(
        "--lock", type=Path, metavar="FILE", help="file to lock while something is timed (flock)"
    )
    bench.add_argument(
        "--peer-timeout", type=_positive_float, default=300.0, metavar="SECONDS",
        help="of each preparation and each round of a peer, which is ended then (default: %(default)g)",
    )  # fmt: skip


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("model", help="model file that fastnn train or model.save wrote")
    export.add_argument("--to", required=True, choices=["c", "onnx"], help="what to write")
    export.add_argument(
        "-o", "--output", metavar="FILE", help="file to write (default: MODEL with that ending)"
    )
    export.add_argument("--name", default="model", help="what names in C begin with (default: %(default)s)")
    export.add_argument(
        "--target", choices=["computer", "microcontroller"], default="computer",
        help="where the C code is to run (default: %(default)s)",
    )  # fmt: skip


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("data", help="CSV file with a header; - for the standard input")
    train.add_argument("--target", required=True, metavar="COLUMN", help="column to predict")
    train.add_argument("-o", "--output", required=True, metavar="FILE", help="model file to write")

    columns = train.add_argument_group("columns")
    columns.add_argument("--task", choices=["classification", "regression"], help="what the target is")
    columns.add_argument("--drop", type=_names, default=(), metavar="A,B", help="columns to leave out")
    columns.add_argument(
        "--category", type=_names, default=(), metavar="A,B", help="numbers that are categories"
    )
    columns.add_argument("--number", type=_names, default=(), metavar="A,B", help="columns that are numbers")

    network = train.add_argument_group("network")
    network.add_argument(
        "--layers", type=_layers, default=(128, 64), metavar="N,M",
        help="units of the hidden layers; none: a linear model (default: 128,64)",
    )  # fmt: skip
    of_numbers = [name for name, kind in kernels.ACTIVATIONS.items() if kind != "rowwise"]
    network.add_argument(
        "--activation", choices=of_numbers, default="relu", metavar="NAME",
        help=f"of the hidden layers: {', '.join(of_numbers)} (default: relu)",
    )  # fmt: skip
    network.add_argument(
        "--dropout", type=_share, default=0.0, metavar="RATE", help="after each hidden layer (default: 0)"
    )

    training = train.add_argument_group("training")
    training.add_argument(
        "--optimizer", choices=list(kernels.OPTIMIZERS), default="adam", metavar="NAME",
        help=f"{', '.join(kernels.OPTIMIZERS)} (default: adam); sgd has momentum 0.9",
    )  # fmt: skip
    training.add_argument(
        "--lr", type=_positive_float, metavar="RATE", help="learning rate (default: 0.001; sgd 0.01)"
    )
    training.add_argument(
        "--epochs", type=_positive_int, default=100, metavar="N", help="at most (default: %(default)s)"
    )
    training.add_argument(
        "--batch-size", type=_positive_int, metavar="N",
        help="rows of a step (default: about a hundredth of the rows, 32 to 256)",
    )  # fmt: skip
    training.add_argument(
        "--validation", type=_share, default=0.1, metavar="SHARE",
        help="share of the rows to hold back; 0: train all epochs on all rows (default: %(default)s)",
    )  # fmt: skip
    training.add_argument(
        "--patience", type=_positive_int, default=10, metavar="N",
        help="end after N epochs without gain on the rows held back (default: %(default)s)",
    )  # fmt: skip
    training.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of weights, shuffles, dropout, split (default: 0)"
    )

    long = train.add_argument_group("long runs")
    long.add_argument(
        "--checkpoint-every", type=_steps_or_time, metavar="N|TIME",
        help="write FILE.checkpoint after each N steps, or each 30s, 10m or 2h, and each epoch",
    )  # fmt: skip
    long.add_argument(
        "--resume", action="store_true",
        help="go on from FILE.checkpoint of the same command, to the bits of a run that nothing disturbed",
    )  # fmt: skip
    long.add_argument(
        "--time-limit", type=_time, metavar="TIME",
        help="end the training after 90 (seconds), 30m or 2h; --resume goes on",
    )  # fmt: skip

    shown = train.add_argument_group("output")
    shown.add_argument("--json", action="store_true", help="print a summary as JSON on stdout")
    shown.add_argument("--quiet", action="store_true", help="no progress, notes or summary on stderr")


class _Version(argparse.Action):
    """Prints the version, which is asked for only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        import fastnn

        print(f"fastnn {fastnn.__version__}")
        parser.exit()


# ---------------------------------------------------------------- types of arguments


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


_positive_int.__name__ = "whole number"  # argparse's word for it in "invalid ... value"


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


_positive_float.__name__ = "number"


def _time(text: str) -> float:
    """Seconds, from a number of them or with the unit s, m or h."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    return _positive_float(text) if unit is None else unit * _positive_float(text[:-1])


_time.__name__ = "time"


def _steps_or_time(text: str) -> int | float:
    return _positive_int(text) if text[-1:].isdigit() else _time(text)


_steps_or_time.__name__ = "number of steps, or time"


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, got {text}")
    return value


_share.__name__ = "number"


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**64 - 1, got {text}")
    return value


_seed.__name__ = "whole number"


def _layers(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(_positive_int(units) for units in text.split(","))


_layers.__name__ = "list of whole numbers"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
