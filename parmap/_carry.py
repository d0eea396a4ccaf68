"""What cloudpickle leaves to us: functions with a cache, globals that each process makes anew, and
the names of files in tracebacks.

Known to `_transport` only, which decides when anything is carried by value at all.
"""

from __future__ import annotations

import functools
import io
import operator
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from parmap import _state
from parmap._quiet import interrupts_deferred

# The globals to leave out of functions: (id of their namespace, names).
_LeftOut = tuple[int, frozenset[str]]
_left_out: ContextVar[_LeftOut] = ContextVar("_left_out", default=(0, frozenset()))


def dumps(obj: Any, buffer_callback: Callable[[Any], Any] | None = None) -> bytes:
    """Like `cloudpickle.dumps`."""
    with io.BytesIO() as file:
        _pickler()(file, protocol=5, buffer_callback=buffer_callback).dump(obj)
        return file.getvalue()


@contextmanager
def leaving_out(initializer: Callable[..., object]) -> Iterator[None]:
    """In here, a function is carried without those globals that `initializer` assigns and that do
    not pickle: a connection, a lock. The initializer makes them in the other process too."""
    namespace = getattr(initializer, "__globals__", {})
    assigned = _state.assigned(initializer) & namespace.keys()
    names = frozenset(name for name in assigned if not _pickles(namespace[name]))
    before = _left_out.set((id(namespace), names))
    try:
        yield
    finally:
        _left_out.reset(before)


def _pickles(value: Any) -> bool:
    try:
        dumps(value)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RuntimeError):
        return False
    return True


@functools.cache
def _pickler() -> Any:
    with interrupts_deferred():  # half an import would be in the way of every later call
        import cloudpickle
    script = sys.modules.get("__mp_main__")  # what a child of multiprocessing calls it
    if script is not None and script.__name__ == "__mp_main__":  # else it is an alias
        cloudpickle.register_pickle_by_value(script)
    base: Any = cloudpickle.Pickler
    ours = {_Cached: _reduce_cached, types.CodeType: _reduce_code}
    reducers: Any = ChainMap(ours, base.dispatch_table)

    class Pickler(base):  # type: ignore[misc]
        dispatch_table = reducers

        def reducer_override(self, obj: Any) -> Any:
            reduced: Any = super().reducer_override(obj)
            namespace, names = _left_out.get()
            if names and type(obj) is types.FunctionType and id(obj.__globals__) == namespace:
                _leave_out(names, reduced)
            return reduced

    return Pickler


def _leave_out(names: frozenset[str], reduced: Any) -> None:
    """From a function in the form cloudpickle gives it: a tuple, where it goes by value."""
    carried = reduced[2][1]["__globals__"] if isinstance(reduced, tuple) else {}
    for name in names & carried.keys():
        del carried[name]


def _reduce_code(code: types.CodeType) -> Any:
    """As cloudpickle does, but with the name of the file: a worker's traceback then shows lines."""
    import cloudpickle

    reduced: Any = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    make, arguments = reduced
    return make, tuple(code.co_filename if a == "<dynamic-code>" else a for a in arguments)


_Cached = type(functools.cache(abs))


def _reduce_cached(cached: Any) -> Any:
    """A function with functools.cache: by its name where a worker can import it, else the function
    inside with a new cache. pickle knows the name only, and a worker has no `__main__`."""
    module = sys.modules.get(cached.__module__ or "")
    try:
        importable = operator.attrgetter(cached.__qualname__)(module) is cached
    except AttributeError:
        importable = False
    if importable and cached.__module__ != "__main__":
        return cached.__qualname__
    return _cached_again, (cached.__wrapped__, cached.cache_parameters())


def _cached_again(fn: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(fn)
