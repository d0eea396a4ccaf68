"""What cloudpickle leaves to us: functions with a cache, globals that each process makes anew, and
files in tracebacks."""

from __future__ import annotations

import functools
import io
import operator
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from parmap import _state
from parmap._quiet import interrupts_deferred

# Globals to leave out of functions: (id of their namespace, names).
_LeftOut = tuple[int, frozenset[str]]
_left_out: ContextVar[_LeftOut] = ContextVar("_left_out", default=(0, frozenset()))


def dumps(obj: Any, buffer_callback: Callable[[Any], Any] | None = None) -> bytes:
    file = io.BytesIO()
    _pickler()(file, protocol=5, buffer_callback=buffer_callback).dump(obj)
    return file.getvalue()


@contextmanager
def leaving_out(initializer: Callable[..., object]) -> Iterator[None]:
    """In here, functions go without those globals that `initializer` assigns, here as there, and
    that do not pickle: a connection, a lock."""
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
        return bool(dumps(value))
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RuntimeError):
        return False


@functools.cache
def _pickler() -> Any:
    with interrupts_deferred():  # half an import would be in the way of every later call
        import cloudpickle
    script = sys.modules.get("__mp_main__")  # what a child of multiprocessing calls it
    if script is not None and script.__name__ == "__mp_main__":  # else it is an alias
        cloudpickle.register_pickle_by_value(script)

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is _Cached:
                return _reduce_cached(obj)
            if type(obj) is types.CodeType:  # with its file, whose lines a traceback shows
                reduce: Any = self.dispatch_table[types.CodeType]
                make, told = reduce(obj)
                return make, tuple(obj.co_filename if a == "<dynamic-code>" else a for a in told)
            reduced: Any = super().reducer_override(obj)
            namespace, names = _left_out.get()
            by_value = type(obj) is types.FunctionType and isinstance(reduced, tuple)
            if by_value and id(obj.__globals__) == namespace:
                carried = reduced[2][1]["__globals__"]
                for name in names & carried.keys():
                    del carried[name]
            return reduced

    return Pickler


_Cached = type(functools.cache(abs))


def _reduce_cached(cached: Any) -> Any:
    """By name, as pickle does, where a worker can import it; else what is inside, cached anew."""
    name, module = cached.__qualname__, cached.__module__ or "__main__"
    with suppress(AttributeError):
        found = operator.attrgetter(name)(sys.modules.get(module))
        if found is cached and module != "__main__":
            return name
    return _cached_again, (cached.__wrapped__, cached.cache_parameters())


def _cached_again(fn: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(fn)
