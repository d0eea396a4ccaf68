"""Station 3, what a new worker has to import before it can run a function: guessed, for nobody can
know before it was done, and scipy takes longer than many a call."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType

from parmap._known import MOST_FUNCTIONS, key_of
from parmap._outcome import UNTRUSTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

# Seconds to import one module, with what its import runs. numpy, scipy, pandas and pyarrow take
# 0.4 ms each, matplotlib and emcee 0.6 to 0.7, on this project's machine. Smaller starts workers
# that come too late; larger leaves work here.
MODULE_SECONDS = 0.4e-3

# Things looked at from one function. Fewer miss imports; more take over 0.1 ms.
MOST_THINGS = 100

_NOT_COUNTED = sys.stdlib_module_names | {"__main__", "__mp_main__", "parmap", "cloudpickle"}


def packages(fn: Callable[..., Any]) -> frozenset[str]:
    """The packages of others that a worker imports to have `fn`, as far as `fn` shows."""
    key = key_of(fn)
    if key not in _packages:
        if len(_packages) >= MOST_FUNCTIONS:
            _packages.clear()
        found: set[str] = set()
        with suppress(*UNTRUSTED):  # objects may answer in a way of their own
            found.update(map(_package, _modules(fn)))
        _packages[key] = frozenset(found - _NOT_COUNTED)
    return _packages[key]


_packages: dict[Any, frozenset[str]] = {}  # of functions, by what they have in common


def _package(name: str) -> str:
    return name.partition(".")[0]


def _modules(fn: Any) -> Iterator[str]:
    todo = [fn]
    for _ in range(MOST_THINGS):
        if not todo:
            return
        thing = todo.pop()
        for named in (thing, type(thing)):
            module = getattr(named, "__module__", None)
            if isinstance(module, str):
                yield module
        if isinstance(thing, ModuleType):
            yield thing.__name__
        elif isinstance(thing, partial):
            todo += [thing.func, *thing.args]
        elif isinstance(thing, MethodType):
            todo += [thing.__func__, thing.__self__]
        elif isinstance(thing, FunctionType):
            todo += [thing.__globals__.get(name) for name in _names(thing.__code__)]
        elif not isinstance(thing, type):
            todo += [part for part in getattr(thing, "__dict__", {}).values() if callable(part)]


def _names(code: CodeType) -> list[str]:
    nested = [_names(const) for const in code.co_consts if isinstance(const, CodeType)]
    return sum(nested, list(code.co_names))


# Packages that warm workers have imported: what was needed where they have answered.
_in_workers: set[str] = set()


def imported(fn: Callable[..., Any]) -> None:
    """Workers have run it, and so have what it needs."""
    _in_workers.update(packages(fn))


def import_seconds(fn: Callable[..., Any], warm: bool) -> float:
    """What workers, `warm` or new ones, take to import what `fn` needs."""
    if not warm:
        _in_workers.clear()
    return _seconds(packages(fn) - _in_workers, len(sys.modules) // 50)


@lru_cache(maxsize=16)
def _seconds(names: frozenset[str], _: int) -> float:
    """For these packages and those they import: as many modules of each as are here, by now."""
    of_package: dict[str, list[Any]] = {}
    for name, module in list(sys.modules.items()):
        of_package.setdefault(_package(name), []).append(module)
    todo, found = list(names), set(names)
    while todo:
        for module in of_package.get(todo.pop(), ()):
            inside = list(getattr(module, "__dict__", {}).values())
            used = [value.__name__ for value in inside if type(value) is ModuleType]
            new = set(map(_package, used)) - found - _NOT_COUNTED
            found |= new
            todo += new
    return MODULE_SECONDS * sum(len(of_package.get(name, ())) for name in found)
