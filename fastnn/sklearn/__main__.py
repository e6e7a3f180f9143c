"""python -m fastnn.sklearn script.py [args], or -m module [args]: run it with our MLPs."""

from __future__ import annotations

import os
import runpy
import sys

USAGE = "usage: python -m fastnn.sklearn (script.py | -m module) [args]"


def main(arguments: list[str]) -> int:
    """Run a script or a module as Python would; its exit status is the process's."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    as_module = arguments[0] == "-m"
    if (as_module and len(arguments) < 2) or (arguments[0].startswith("-") and not as_module):
        print(f"{USAGE}\nfastnn.sklearn: expected a script or -m module, got {arguments[0]}", file=sys.stderr)
        return 2
    if not as_module and not os.path.exists(arguments[0]):
        print(f"fastnn.sklearn: script must be a file, got {arguments[0]!r}", file=sys.stderr)
        return 2

    import sklearn

    from . import patch

    patch()
    print(
        f"fastnn.sklearn: MLPClassifier and MLPRegressor of scikit-learn {sklearn.__version__} are replaced",
        file=sys.stderr,
        flush=True,
    )
    if as_module:
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
