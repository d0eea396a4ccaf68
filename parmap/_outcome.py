"""Station 6: how items are run, on either side of the process wall, and what comes of them.

Values stay plain values; an exception that has to cross the wall becomes a `_failure.Failure`.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import repeat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, TypeAlias

# map or itertools.starmap
Mapper: TypeAlias = "Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]"

# What code of the user's that runs on our behalf (pickling, repr, __init__) may raise, and not end
# the call or the worker with. KeyboardInterrupt is not in it: that one is the person's.
UNTRUSTED = (Exception, SystemExit, GeneratorExit)


def loaded(name: str) -> Any:
    """A module, if it was imported; not one that another thread has only half imported."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    return None if getattr(spec, "_initializing", False) else module


def runs_a_chunk() -> bool:
    """Whether this thread runs a chunk for an executor. The thread says it (see `_remote`), since
    what runs there may be a copy of this module."""
    import threading

    return getattr(threading.current_thread(), "parmap_runs_a_chunk", False)


def nested() -> bool:
    """Whether this is a worker already, parmap's own or one of an executor."""
    inside = getattr(loaded("parmap._worker"), "inside", bool)
    return inside() or runs_a_chunk()


def run_batch(
    mapper: Mapper, fn: Callable[..., Any], items: Sequence[Any]
) -> tuple[list[Any], BaseException | None]:
    """Run `items` until one raises: the values so far, and the exception or None.

    `list.extend` keeps what it took from an iterator that raises, so all run at C speed, and the
    item that failed is the one at `len(values)`.
    """
    values: list[Any] = []
    try:
        values.extend(mapper(fn, items))
    except BaseException as error:
        del values[len(items) - 1 :]  # a Ctrl-C behind the last one takes its place
        return values, error
    if len(values) < len(items):  # map ends where fn raises StopIteration
        return values, stopped()
    return values, None


def emptying(values: list[Any]) -> Iterator[Any]:
    """Iterate at C speed, and let go of what was handed out."""
    values.reverse()
    return map(list.pop, repeat(values, len(values)))


_PLAIN = frozenset({int, float, bool, str, type(None)})


def handed_out(values: list[Any]) -> Iterator[Any]:
    """Iterate over values, of which only plain ones may be kept meanwhile."""
    return iter(values) if type(values[-1]) in _PLAIN else emptying(values)


def raising(error: BaseException) -> Iterator[Any]:
    """An iterator that raises, and then is empty."""
    try:
        raise error
    finally:
        del error  # this frame is in its traceback: together they would live until collected
    yield


def stopped() -> RuntimeError:
    """What a StopIteration out of `fn` becomes, as in a generator (PEP 479)."""
    return RuntimeError("the mapped function raised StopIteration")


def flush_output() -> None:
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(*UNTRUSTED):  # print would have said so to whoever prints
            stream.flush()


def short_repr(value: object) -> str:
    """A repr of about a line at the most; one that raises is told."""
    from reprlib import Repr

    short = Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, 80, 80
    try:
        return short.repr(value)
    except UNTRUSTED as error:
        return f"<{type(value).__name__} object, whose repr raises {type(error).__name__}>"


def note(error: BaseException, index: int, item: object) -> None:
    """Name the item on the exception (PEP 678)."""
    text = f"parmap: raised by item {index}: {short_repr(item)}"
    try:
        if text not in getattr(error, "__notes__", ()):
            error.add_note(text)
    except UNTRUSTED:
        pass  # an exception class may forbid attributes; the exception matters more
