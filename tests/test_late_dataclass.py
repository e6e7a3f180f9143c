"""Dataclasses that are finished when they are first used are dataclasses in all that can be seen."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest

import fastnn as fn
from fastnn.late_dataclass import dataclass


def bodies() -> dict[str, dict[str, Any]]:
    """Class bodies with what descriptions have: defaults, factories, fields that are not compared."""
    return {
        "plain": {"__annotations__": {"a": int, "b": float}, "b": 0.5},
        "fields": {
            "__annotations__": {"a": int, "b": list[int]},
            "a": dataclasses.field(compare=False, default=3),
            "b": dataclasses.field(default_factory=list),
        },
        "own repr": {"__annotations__": {"a": int}, "__repr__": lambda self: "mine"},
    }


@pytest.mark.parametrize("name", bodies())
@pytest.mark.parametrize("options", [{}, {"eq": False}, {"repr": False}, {"kw_only": True}], ids=str)
def test_it_is_what_the_standard_library_makes(name: str, options: dict[str, Any]) -> None:
    late: Any = dataclass(frozen=True, **options)(type("One", (), bodies()[name]))
    known: Any = dataclasses.dataclass(frozen=True, **options)(type("One", (), bodies()[name]))
    assert inspect.signature(late) == inspect.signature(known)
    assert late.__match_args__ == known.__match_args__
    pairs = [(cls(a=1), cls(a=1), cls(a=2)) for cls in (late, known)]
    for left, right in zip(*pairs, strict=True):
        assert left.__dict__ == right.__dict__
        assert dataclasses.asdict(left) == dataclasses.asdict(right)
        if options.get("repr", True):
            assert repr(left) == repr(right)
    (late_equal, late_other), (equal, other) = [(x == y, x == z) for x, y, z in pairs]
    assert (late_equal, late_other) == (equal, other)
    assert set(vars(late)) - set(vars(known)) <= {"__setattr__", "__delattr__"}
    for cls in (late, known):
        with pytest.raises(dataclasses.FrozenInstanceError):
            cls(a=1).a = 2
        with pytest.raises(dataclasses.FrozenInstanceError):
            del cls(a=1).a
        with pytest.raises(TypeError, match=r"One\.__init__\(\) got an unexpected keyword argument 'c'"):
            cls(a=1, c=2)


def test_a_subclass_has_the_fields_of_its_bases_whichever_is_used_first() -> None:
    @dataclass(frozen=True)
    class Base:
        a: int

    @dataclass(frozen=True)
    class Derived(Base):
        b: int = 2

    assert [f.name for f in dataclasses.fields(Derived)] == ["a", "b"]
    assert Derived(1) == Derived(1, 2) != Base(1)
    assert dataclasses.replace(Derived(1), b=5) == Derived(1, 5)


def test_threads_that_use_a_class_first_at_once_all_find_it_whole() -> None:
    for _ in range(50):

        @dataclass(frozen=True)
        class One:
            a: int
            b: int = 0

        gate, found = threading.Barrier(8), []

        def use(one: Any = One, gate: Any = gate, found: Any = found) -> None:
            gate.wait()
            found.append(one(1, b=2) == one(1, 2) and hash(one(1)) == hash(one(1)))

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [True] * 8


def test_one_that_was_pickled_is_the_same_in_a_process_that_made_none() -> None:
    data = pickle.dumps((fn.Adam(lr=0.25), fn.Residual(fn.Dense(3)), fn.Huber(2.0)))
    code = (
        "import pickle, sys, copy; kept = pickle.loads(sys.stdin.buffer.read()); copy.deepcopy(kept)\n"
        "assert kept == copy.copy(kept) and len({*kept, *kept}) == 3; print(kept)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout.decode().strip() == repr((fn.Adam(lr=0.25), fn.Residual(fn.Dense(3)), fn.Huber(2.0)))
    assert copy.deepcopy(fn.Adam()) == fn.Adam()
