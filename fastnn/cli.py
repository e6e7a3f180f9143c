"""The command line: `fastnn info`, `fastnn demo`; `python -m fastnn` is the same."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

__all__ = ["main"]

# The accuracy below which the demonstration has failed: it reaches 97 to 98.5 %.
DEMO_ACCURACY = 0.97


def _info(arguments: argparse.Namespace) -> int:
    import fastnn

    fastnn.show_config()
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from . import demo

    given = ["--epochs", str(arguments.epochs), "--seconds", str(arguments.seconds)]
    demo.uncap_blas(["-m", "fastnn", "demo", *given])
    accuracy = demo.run(arguments.epochs, arguments.seconds)
    if accuracy < DEMO_ACCURACY:
        print(f"fastnn: error: test accuracy {accuracy:.4f} is below {DEMO_ACCURACY}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastnn", description="Train and serve feed-forward neural networks from NumPy arrays."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    info = commands.add_parser(
        "info", help="what this fastnn is and runs on", description="Print version, instruction set, threads."
    )
    info.set_defaults(command=_info)

    demo = commands.add_parser(
        "demo",
        help="train on handwritten digits, beside NumPy and scikit-learn",
        description="Train on handwritten digits and time the same network in NumPy and in scikit-learn.",
    )
    demo.add_argument(
        "--epochs", type=_positive_int, default=30, help="epochs of training (default: %(default)s)"
    )
    demo.add_argument(
        "--seconds",
        type=_positive_float,
        default=5.0,
        help="time given to the comparison (default: %(default)s)",
    )
    demo.set_defaults(command=_demo)
    return parser


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit status: 0 success, 1 failure, 2 wrong usage, 130 Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
    except (ImportError, OSError, ValueError) as error:
        print(f"fastnn: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status
