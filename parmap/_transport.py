"""The door in the process wall: objects become a Parcel, and a Parcel becomes objects.

A Parcel is bytes that fit a pipe, or the path of a file that holds what does not (see `_files`).
Either way arrays arrive writable and private, and nothing stays behind. Where plain pickle is
not enough, `_carry` does it with cloudpickle.
"""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from parmap._files import Store, read, unlink
from parmap._loaded import loaded

# Bytes up to which a message travels in the pipe itself. It is written in one system call and fits
# the pipe, so a worker that is killed leaves a whole message or none. Smaller would send small
# items by file, at some 20 us each; larger would bring back the half message that hangs every
# other pool.
INLINE_BYTES = 16_384

# Bytes from which one buffer leaves the pickle and lies in the file as it is. Smaller costs more in
# bookkeeping than the copy it saves; larger copies arrays twice.
BUFFER_BYTES = 8_192


# Bytes of a pickle from which it is loaded with the garbage collector off. Smaller ones hold too
# few objects to set it off; larger ones would.
GARBAGE_BYTES = 4_096


# How many bytes of a buffer cost what one of a pickle does, which is some 10 ns. Smaller makes
# longer pickles, whose memo leaves the cache (50,000 dicts at once take twice as long as by the
# thousand); larger sends more chunks.
PICKLE_WEIGHT = 64

# Bytes of an item's pickle that count as small objects; what it has beyond is taken for one long
# string. Smaller lets the memo grow; larger makes strings of 20 kB travel by the half dozen.
SMALL_BYTES = 1024


class Parcel(NamedTuple):
    """Pickled objects, ready to cross.

    Attributes:
        payload: the pickle, or b"" when it lies in the file.
        path: the file, or None.
        sizes: bytes of each part of the file; the first is the pickle's when payload is empty.
        shared: several receivers read the file and its sender unlinks it.
        tray: where its receiver lays it, to be written again; "" to unlink it.
    """

    payload: bytes
    path: str | None = None
    sizes: tuple[int, ...] = ()
    shared: bool = False
    tray: str = ""

    @property
    def nbytes(self) -> int:
        return len(self.payload) + sum(self.sizes) if self.sizes else len(self.payload)

    def bulk(self, items: int) -> int:
        """Bytes as they count for the size of a chunk: those of small objects count for more."""
        pickled = min(len(self.payload) or self.sizes[0], items * SMALL_BYTES)
        return self.nbytes + PICKLE_WEIGHT * pickled

    def discard(self) -> None:
        """Give up the file, if there is one and nobody took it."""
        if self.path is not None:
            unlink(self.path)


def dumps(obj: Any, buffers: list[memoryview] | None = None, *, shares_main: bool = False) -> bytes:
    """Pickle by reference what a worker can import, by value what it cannot.

    Plain pickle is several times faster than cloudpickle and right for nearly all data. Where it
    fails, or would refer to `__main__` (which no worker has, unless it `shares_main` by being a
    fork of the caller), cloudpickle carries the value. Large buffers go to `buffers` instead of
    into the pickle, if that is given.
    """
    if not _by_value_modules():
        try:
            data = pickle.dumps(obj, 5, buffer_callback=_out_of_band(buffers))
        except (pickle.PicklingError, TypeError, AttributeError, ImportError, RecursionError):
            pass  # cloudpickle succeeds, or says it better
        else:
            if shares_main or not _names_main(data):
                return data
    return dumps_by_value(obj, buffers)


def _names_main(data: bytes) -> bool:
    """Whether a pickle refers to the caller's script, whose name is another in a process that
    multiprocessing started."""
    return b"__main__" in data or b"__mp_main__" in data


def dumps_by_value(obj: Any, buffers: list[memoryview] | None = None) -> bytes:
    from parmap import _carry

    if buffers:
        buffers.clear()
    return _carry.dumps(obj, _out_of_band(buffers))


def _out_of_band(buffers: list[memoryview] | None) -> Callable[[pickle.PickleBuffer], bool] | None:
    """What pickle asks for each buffer: is it to stay in the pickle?"""
    if buffers is None:
        return None

    def stays(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous: pickle itself has to deal with it
            return True
        if raw.nbytes >= BUFFER_BYTES:
            buffers.append(raw)
        return raw.nbytes < BUFFER_BYTES

    return stays


def _by_value_modules() -> bool:
    """Whether the user told cloudpickle to carry some module by value."""
    cloudpickle = loaded("cloudpickle")
    if cloudpickle is None:
        return False
    # `_names_main` sees to the one that may always be there.
    return not cloudpickle.list_registry_pickle_by_value() <= {"__mp_main__"}


def pack(obj: Any, store: Store, *, shared: bool = False) -> Parcel:
    """Pickle `obj` once; its large buffers, and a large pickle, go into a file.

    Raises what pickling raises; an OSError only where no place has room for the file.
    """
    buffers: list[memoryview] = []
    payload = dumps(obj, buffers, shares_main=store.shares_main)
    if not buffers and len(payload) <= INLINE_BYTES:
        return Parcel(payload)
    inline = len(payload) <= INLINE_BYTES
    parts = [*([] if inline else [memoryview(payload)]), *buffers]
    path, tray = store.write(parts, len(buffers), shared=shared)
    return Parcel(
        payload if inline else b"",
        path,
        tuple(part.nbytes for part in parts),
        shared,
        tray,
    )


def unpack(parcel: Parcel, spare: list[bytearray] | None = None) -> Any:
    """The objects again. Their buffers are private to this process, and writable.

    `spare` is memory for them that is used again, once nothing refers to it any more.
    """
    if parcel.path is None:
        return _loads(parcel.payload, ())
    parts = read(
        parcel.path,
        parcel.sizes,
        shared=parcel.shared,
        tray=parcel.tray,
        spare=[] if spare is None else spare,
    )
    payload: Any = parcel.payload or parts.pop(0)
    return _loads(payload, parts)


def _loads(payload: Any, buffers: Sequence[Any]) -> Any:
    """What is being loaded is no garbage yet: looking for some, again and again while there is ever
    more of it, takes longer than the loading (50,000 dicts: 47 ms instead of 17)."""
    if len(payload) < GARBAGE_BYTES or not gc.isenabled():
        return pickle.loads(payload, buffers=buffers)
    gc.disable()
    try:
        return pickle.loads(payload, buffers=buffers)
    finally:
        gc.enable()


def frame(message: object, store: Store) -> bytes:
    """A message of parmap's own as what goes through a pipe: never more than INLINE_BYTES."""
    data = pickle.dumps(message, 5)
    if len(data) <= INLINE_BYTES:
        return data
    try:
        path, tray = store.write([memoryview(data)])
    except OSError:
        return data  # no room: then it has to wait until it is read
    return pickle.dumps(Parcel(b"", path, (len(data),), False, tray), 5)


def open_frame(data: bytes) -> Any:
    """The message again."""
    message = pickle.loads(data)
    return unpack(message) if isinstance(message, Parcel) else message
