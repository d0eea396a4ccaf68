"""What earlier calls of this process have shown: of their functions, and of a want of workers.

Every call looks here before its first item, so only what a bare `python` has is imported.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from functools import partial
    from typing import Any
else:
    from _functools import partial  # functools itself takes 2 ms

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
