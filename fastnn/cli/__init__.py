"""The command line: train, predict, evaluate, export, info, demo, bench; `python -m fastnn` is the same.

Results go to stdout, everything else to stderr. An error is one line, `fastnn: error: ...`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .arguments import parser

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit status: 0 success, 1 failure, 2 wrong usage, 130 Ctrl-C."""
    arguments = parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing can be said any more, and the exit must not try.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ImportError, OSError, ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        if getattr(arguments, "debug", False):
            raise
        print(f"fastnn: error: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if getattr(arguments, "debug", False):
            raise
        print("fastnn: stopped", file=sys.stderr)
        return 130
    return status


def _sentence(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {os.fsdecode(error.filename)}"
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}" if str(error) else "not enough memory"
    return " ".join(str(error).split()) or type(error).__name__
