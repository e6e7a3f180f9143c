"""`dataclass` whose methods are compiled when a class is first used, not when it is defined.

`dataclasses.dataclass` writes the source of each method and compiles it: 0.3 to 1 ms a class. With fifty
descriptions that was half of ``import fastnn``, most of it for classes that a program never uses.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

_finishing = threading.RLock()


class _Unfinished:
    """Stands for an attribute that `dataclasses.dataclass` gives a class, until it is asked for."""

    def __init__(self, finish: Callable[[], None], name: str) -> None:
        self.finish, self.name = finish, name

    def __get__(self, instance: object, owner: type) -> Any:
        self.finish()
        return getattr(owner if instance is None else instance, self.name)


def _set(self: object, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _late(
    *, frozen: bool, init: bool = True, repr: bool = True, eq: bool = True, kw_only: bool = False
) -> Callable[[type], type]:
    assert frozen, "methods of one that changes would need the class itself"
    asked = {"__init__": init, "__repr__": repr, "__eq__": eq, "__hash__": eq}
    names = ["__dataclass_fields__", "__dataclass_params__", "__match_args__"]
    names += [name for name, given in asked.items() if given]

    def define(cls: type) -> type:
        unfinished = [name for name in names if name not in cls.__dict__]

        def finish() -> None:
            with _finishing:
                if not isinstance(cls.__dict__["__dataclass_fields__"], _Unfinished):
                    return  # another thread was first
                # The methods are made on a twin and moved one by one, so that a thread that uses the class
                # meanwhile finds each either as it was or whole.
                own = {name: value for name, value in vars(cls).items() if name not in skipped}
                twin: Any = type(cls)(cls.__name__, cls.__bases__, own)
                twin.__qualname__ = cls.__qualname__
                dataclasses.dataclass(frozen=True, init=init, repr=repr, eq=eq, kw_only=kw_only)(twin)
                for name, value in own.items():
                    if isinstance(value, dataclasses.Field):
                        setattr(cls, name, value.default) if name in vars(twin) else delattr(cls, name)
                for name in reversed(unfinished):  # the fields last: they say that it is done
                    setattr(cls, name, vars(twin)[name])

        skipped = {"__dict__", "__weakref__", "__setattr__", "__delattr__", *unfinished}
        for name in unfinished:
            setattr(cls, name, _Unfinished(finish, name))
        cls.__setattr__, cls.__delattr__ = _set, _delete  # type: ignore[assignment]
        return cls

    return define


if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    dataclass = _late
