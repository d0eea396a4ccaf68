"""The door in the process wall: objects become a Parcel, and a Parcel becomes objects.

A Parcel is bytes that fit a pipe, or the path of a file that holds what does not (see `_files`).
Either way arrays arrive writable and private, and nothing stays behind.
"""

from __future__ import annotations

import functools
import gc
import io
import operator
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

from parmap._files import Store, read, unlink
from parmap._outcome import loaded

# Bytes of a message that travel in the pipe itself, at one go. Smaller sends small items by file,
# at 20 us each; larger brings back the half message of a killed worker, on which others hang.
INLINE_BYTES = 16_384

# Bytes of a buffer that lies in the file as it is. Smaller costs more to keep account of than to
# copy; larger copies arrays twice.
BUFFER_BYTES = 8_192

# Bytes of a pickle that is loaded with the garbage collector off, for nothing in it is garbage yet
# (50,000 dicts: 17 ms, not 47). Smaller ones would not set it off; larger would.
GARBAGE_BYTES = 4_096

# Bytes of a buffer that cost what one of a pickle does, some 10 ns. Smaller makes longer pickles,
# whose memo leaves the cache (50,000 dicts at once take twice as long); larger makes more chunks.
PICKLE_WEIGHT = 64

# Bytes of an item's pickle that count as small objects; the rest is taken for one long string.
# Smaller lets the memo grow; larger makes strings of 20 kB travel by the half dozen.
SMALL_BYTES = 1024


class Parcel(NamedTuple):
    """Pickled objects. Without `payload` the pickle is the first part of the file, which goes into
    `tray` once it is read; "" is to unlink it, None to leave it to others."""

    payload: bytes
    path: str | None = None
    sizes: tuple[int, ...] = ()
    tray: str | None = ""

    @property
    def nbytes(self) -> int:
        return len(self.payload) + sum(self.sizes)

    def bulk(self, items: int) -> int:
        """Bytes as they count for the size of a chunk: those of small objects count for more."""
        pickled = min(len(self.payload) or self.sizes[0], items * SMALL_BYTES)
        return self.nbytes + PICKLE_WEIGHT * pickled

    def discard(self) -> None:
        if self.path is not None:
            unlink(self.path)


def dumps(obj: Any, buffers: list[memoryview] | None = None, *, shares_main: bool = False) -> bytes:
    """By reference what a worker can import, by value what it cannot; large buffers aside.

    Plain pickle is several times faster than cloudpickle, and right where there is no `__main__`,
    which only a fork of the caller shares, and no module that the user registered by value.
    """
    cloudpickle = loaded("cloudpickle")
    if cloudpickle is None or cloudpickle.list_registry_pickle_by_value() <= {"__mp_main__"}:
        try:
            data = pickle.dumps(obj, 5, buffer_callback=_out_of_band(buffers))
            if shares_main or b"_main__" not in data:  # nor `__mp_main__`, as a child calls it
                return data
        except (pickle.PicklingError, TypeError, AttributeError, ImportError, RecursionError):
            pass  # cloudpickle succeeds, or says it better
    return dumps_by_value(obj, buffers)


def dumps_by_value(obj: Any, buffers: list[memoryview] | None = None) -> bytes:
    if buffers:
        buffers.clear()
    file = io.BytesIO()
    _pickler()(file, protocol=5, buffer_callback=_out_of_band(buffers)).dump(obj)
    return file.getvalue()


def _out_of_band(buffers: list[memoryview] | None) -> Callable[[pickle.PickleBuffer], bool] | None:
    """What pickle asks of each buffer: does it stay in the pickle?"""
    if buffers is None:
        return None

    def stays(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        small = raw.nbytes < BUFFER_BYTES
        if not small:
            buffers.append(raw)
        return small

    return stays


def pack(obj: Any, store: Store, *, shared: bool = False) -> Parcel:
    """Raises what pickling raises, or OSError where no place has room for what is large."""
    buffers: list[memoryview] = []
    payload = dumps(obj, buffers, shares_main=store.shares_main)
    parts = buffers
    if len(payload) > INLINE_BYTES:
        parts, payload = [memoryview(payload), *buffers], b""
    if not parts:
        return Parcel(payload)
    path, tray = store.write(parts, len(buffers))
    sizes = tuple(part.nbytes for part in parts)
    return Parcel(payload, path, sizes, None if shared else tray)


def unpack(parcel: Parcel, spare: list[bytearray] | None = None) -> Any:
    """The objects again, in `spare` memory that nothing refers to any more."""
    payload: Any
    payload, path, sizes, tray = parcel
    parts: list[Any] = []
    if path is not None:
        parts = read(path, sizes, tray, [] if spare is None else spare)
        payload = payload or parts.pop(0)
    collecting = len(payload) >= GARBAGE_BYTES and gc.isenabled()
    if collecting:
        gc.disable()
    try:
        return pickle.loads(payload, buffers=parts)
    finally:
        if collecting:
            gc.enable()


def frame(message: object, store: Store) -> bytes:
    """A message of parmap's own, in no more than INLINE_BYTES."""
    data = pickle.dumps(message, 5)
    if len(data) > INLINE_BYTES:
        try:
            path, _ = store.write([memoryview(data)])
        except OSError:
            return data  # no room: then it has to wait until it is read
        data = pickle.dumps(Parcel(b"", path, (len(data),)), 5)
    return data


def open_frame(data: bytes) -> Any:
    message = pickle.loads(data)
    return unpack(message) if isinstance(message, Parcel) else message


# ------------------------------------------------------------------ what cloudpickle leaves to us
#
# Functions with a cache, globals that each process makes anew, and files in tracebacks.

# Globals to leave out of functions: (id of their namespace, names).
_LeftOut = tuple[int, frozenset[str]]
_left_out: ContextVar[_LeftOut] = ContextVar("_left_out", default=(0, frozenset()))


@contextmanager
def leaving_out(initializer: Callable[..., object]) -> Iterator[None]:
    """In here, functions go without those globals that `initializer` assigns, here as there, and
    that do not pickle: a connection, a lock."""
    from parmap import _state

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
        return bool(dumps_by_value(value))
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RuntimeError):
        return False


@functools.cache
def _pickler() -> Any:
    from parmap._quiet import interrupts_deferred

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
