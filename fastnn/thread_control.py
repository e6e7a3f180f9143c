"""The worker pool under threadpoolctl: `threadpool_info` lists it, `threadpool_limits` rules it.

threadpoolctl is never imported for it. Where it is loaded already it is told at once; else a finder of one
name waits in `sys.meta_path` until somebody imports it (scikit-learn does). The pool's limit is two C
functions that the compiled module shows, which threadpoolctl finds and calls as it does those of OpenBLAS.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from . import build_check, kernels

__all__ = ["register", "watch"]

_NAME = "threadpoolctl"
# The file that holds the pool, as threadpoolctl compares names; another package may have one of this name, so
# the symbols decide.
_FILE = os.path.basename(os.path.realpath(kernels.__file__)).lower()


def register(threadpoolctl: Any) -> None:
    """Add our pool to a loaded threadpoolctl; once is enough, and before 3.2 it knew no pools but its own."""
    if not hasattr(threadpoolctl, "register") or "fastnn" in getattr(threadpoolctl, "_ALL_INTERNAL_APIS", ()):
        return

    class FastnnController(threadpoolctl.LibController):  # type: ignore[misc]
        """The limit of fastnn's worker pool, of the whole process."""

        user_api = "fastnn"
        internal_api = "fastnn"
        filename_prefixes = (_FILE,)
        check_symbols = ("fastnn_get_num_threads", "fastnn_set_num_threads")

        def get_num_threads(self) -> Any:
            return self.dynlib.fastnn_get_num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.fastnn_set_num_threads(num_threads)

        def get_version(self) -> str:
            return build_check.version()

    threadpoolctl.register(FastnnController)
    # A controller that was kept from before does not know us.
    getattr(threadpoolctl, "reset_cached_controller", bool)()


class _Finder:
    """Finds threadpoolctl as the finders after it do, and registers our pool when the module has run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _NAME:
            return None
        spec = None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    break
        loader = None if spec is None else spec.loader
        execute = getattr(loader, "exec_module", None)
        if loader is None or execute is None:
            return spec

        def execute_and_register(module: Any) -> None:
            execute(module)
            register(module)

        # In the loader itself: one of our own would have to answer all that inspect and pickle ask of it.
        setattr(loader, "exec_module", execute_and_register)  # noqa: B010 (mypy allows no assignment)
        return spec


def watch() -> None:
    """Register now where threadpoolctl is loaded, else as soon as it is."""
    loaded = sys.modules.get(_NAME)
    if loaded is not None:
        register(loaded)
    main = sys.modules.get("__main__")  # `python -m threadpoolctl -i fastnn` runs the module by that name
    if getattr(getattr(main, "__spec__", None), "name", None) == _NAME:
        register(main)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
