"""What is known of functions: what earlier calls of this process have shown, of them and of a want
of workers; and what a new worker has to import first.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType

from parmap._outcome import UNTRUSTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

# Functions that are remembered. Each keeps a code object alive.
MOST_FUNCTIONS = 256


class Known:
    """What items of a function took in an earlier call: as in `_probe.Probe`."""

    each: float
    busy: float
    transfer: float
    looked: float

    def __init__(self, each: float, busy: float, transfer: float, looked: float = 0.0):
        self.each, self.busy, self.transfer, self.looked = each, busy, transfer, looked


# Seconds that calls would have saved, had workers been there. Above what a start costs, it is worth
# it (ski rental, Karlin, Manasse, Rudolph and Sleator, 1988): many short calls then get workers as
# one long one does. Each start has to be earned anew.
missed = 0.0

# By the number of a key, which is kept alive: a hash of code reads all of it.
_functions: dict[int, tuple[Any, Known]] = {}
_BUILTIN = (type(len), type(str.upper), type)


def key_of(fn: Callable[..., Any]) -> Any:
    """What functions that cost the same have in common: their code, whatever they close over."""
    code = getattr(fn, "__code__", None)
    if code is not None:
        return code
    if isinstance(fn, partial):
        return key_of(fn.func)
    return fn if isinstance(fn, _BUILTIN) else type(fn)


def known(fn: Callable[..., Any]) -> Known | None:
    code = getattr(fn, "__code__", None)  # `key_of` takes longer
    found = _functions.get(id(key_of(fn) if code is None else code))
    return None if found is None else found[1]


def seconds_of(fn: Callable[..., Any], count: int) -> float:
    """What so many of its items took in an earlier call; 0 where nothing is known."""
    found = known(fn) if _functions else None
    return 0.0 if found is None else found.each * count


def keep(fn: Callable[..., Any], found: Known) -> None:
    if len(_functions) >= MOST_FUNCTIONS:
        _functions.clear()
    key = key_of(fn)
    _functions[id(key)] = key, found


# ------------------------------------------------------------------ imports
#
# Guessed, for nobody can know before it was done.

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
