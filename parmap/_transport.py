"""The door in the process wall: objects become a Parcel, and a Parcel becomes objects.

A Parcel is bytes that fit a pipe, or the path of a file that holds what does not (see `_files`).
Either way arrays arrive writable and private, and nothing stays behind.
"""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

from parmap._files import Store, read, unlink
from parmap._loaded import loaded

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
    from parmap import _carry

    if buffers:
        buffers.clear()
    return _carry.dumps(obj, _out_of_band(buffers))


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
