"""The door in the process wall: objects become a Parcel, and a Parcel becomes objects.

A Parcel is bytes that fit a pipe, or the path of a file that holds what does not. The file lies in
a directory that only this user may enter; its receiver maps it copy-on-write and unlinks it at
once, so arrays arrive writable and private, and nothing stays behind. This is the only room that
knows cloudpickle, which is imported when plain pickle is not enough.
"""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

# Bytes up to which a message travels in the pipe itself. It is written in one system call and fits
# the pipe, so a worker that is killed leaves a whole message or none. Smaller would send small
# items by file, at some 20 us each; larger would bring back the half message that hangs every
# other pool.
INLINE_BYTES = 16_384

# Bytes from which one buffer leaves the pickle and lies in the file as it is. Smaller costs more in
# bookkeeping than the copy it saves; larger copies arrays twice.
BUFFER_BYTES = 8_192

ALIGNMENT = 64  # bytes; what numpy and SIMD code like best, a cache line

# What a full, missing or forbidden place for files answers; the next place is tried.
_NO_ROOM = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
)


class Parcel(NamedTuple):
    """Pickled objects, ready to cross.

    Attributes:
        payload: the pickle, or b"" when it lies in the file.
        path: the file, or None.
        sizes: bytes of each part of the file; the first is the pickle's when payload is empty.
        shared: several receivers map the file and its sender unlinks it.
    """

    payload: bytes
    path: str | None = None
    sizes: tuple[int, ...] = ()
    shared: bool = False

    @property
    def nbytes(self) -> int:
        return len(self.payload) + sum(self.sizes) if self.sizes else len(self.payload)

    def discard(self) -> None:
        """Give up the file, if there is one and nobody took it."""
        if self.path is not None:
            _unlink(self.path)


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
            if shares_main or b"__main__" not in data:
                return data
    return dumps_by_value(obj, buffers)


def dumps_by_value(obj: Any, buffers: list[memoryview] | None = None) -> bytes:
    import cloudpickle

    if buffers:
        buffers.clear()
    data: bytes = cloudpickle.dumps(obj, protocol=5, buffer_callback=_out_of_band(buffers))
    return data


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
    loaded = sys.modules.get("cloudpickle")
    return loaded is not None and bool(loaded.list_registry_pickle_by_value())


class Store:
    """A place for the files of parcels: a private directory, made on first use.

    /dev/shm first, where files are memory; the temp directory when that is full or missing.
    """

    def __init__(
        self, name: str, places: Sequence[str] | None = None, *, shares_main: bool = False
    ):
        self._name = name
        self.shares_main = shares_main  # its receivers are forks of the caller
        self._places = list(places) if places is not None else default_places()
        self._serial = 0

    @property
    def directories(self) -> list[str]:
        return [os.path.join(place, self._name) for place in self._places]

    def write(self, parts: Sequence[memoryview]) -> str:
        """Write the parts one after the other, aligned; the file's path."""
        refused: OSError | None = None
        self._serial += 1
        for directory in self.directories:
            path = os.path.join(directory, f"{os.getpid()}-{threading.get_ident()}-{self._serial}")
            try:
                _private_directory(directory)
                _write_file(path, parts)
                return path
            except OSError as error:
                _unlink(path)
                if error.errno not in _NO_ROOM:
                    raise
                refused = error
        raise refused or OSError(errno.ENOENT, "no directory to write to")

    def sweep(self, prefix: str = "") -> None:
        """Unlink the files of one writer (`"<pid>-"`), or everything and the directories too."""
        for directory in self.directories:
            if not prefix:
                import shutil

                shutil.rmtree(directory, ignore_errors=True)
                continue
            try:
                names = os.listdir(directory)
            except OSError:
                continue  # never made, or gone
            for name in names:
                if name.startswith(prefix):
                    _unlink(os.path.join(directory, name))


def directory_name(caller: int) -> str:
    """How the directories of one calling process begin."""
    return f"parmap-{os.getuid() if hasattr(os, 'getuid') else 0}-{caller}-"


def new_store(*, shares_main: bool = False) -> Store:
    """A store of this process: a name nobody can foresee, so that nobody can take it first."""
    return Store(directory_name(os.getpid()) + os.urandom(4).hex(), shares_main=shares_main)


def default_places() -> list[str]:
    places = ["/dev/shm"] if sys.platform == "linux" and os.path.isdir("/dev/shm") else []
    import tempfile

    try:
        places.append(tempfile.gettempdir())
    except FileNotFoundError:
        pass  # no temp directory at all: /dev/shm or the pipe has to do
    return places


def _private_directory(directory: str) -> None:
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        # Whoever can write here could hand us a pickle, that is code: it has to be ours alone.
        found = os.lstat(directory)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(
                errno.EACCES, "not a private directory of this user", directory
            ) from None


def pack(obj: Any, store: Store, *, by_value: bool = False, shared: bool = False) -> Parcel:
    """Pickle `obj` once; its large buffers, and a large pickle, go into a file.

    Raises what pickling raises; an OSError only where no place has room for the file.
    """
    buffers: list[memoryview] = []
    if by_value:
        payload = dumps_by_value(obj, buffers)
    else:
        payload = dumps(obj, buffers, shares_main=store.shares_main)
    if not buffers and len(payload) <= INLINE_BYTES:
        return Parcel(payload)
    inline = len(payload) <= INLINE_BYTES
    parts = [*([] if inline else [memoryview(payload)]), *buffers]
    sizes = tuple(part.nbytes for part in parts)
    return Parcel(payload if inline else b"", store.write(parts), sizes, shared)


def unpack(parcel: Parcel) -> Any:
    """The objects again. Their buffers are private to this process, and writable."""
    if parcel.path is None:
        return pickle.loads(parcel.payload)
    views = list(_views(_take(parcel), parcel.sizes))
    payload: Any = parcel.payload or views.pop(0)
    return pickle.loads(payload, buffers=views)


def frame(message: object, store: Store) -> bytes:
    """A message of parmap's own as what goes through a pipe: never more than INLINE_BYTES."""
    data = pickle.dumps(message, 5)
    if len(data) <= INLINE_BYTES:
        return data
    path = store.write([memoryview(data)])
    return pickle.dumps(Parcel(b"", path, (len(data),)), 5)


def open_frame(data: bytes) -> Any:
    """The message again."""
    message = pickle.loads(data)
    return unpack(message) if isinstance(message, Parcel) else message


def _take(parcel: Parcel) -> mmap.mmap:
    """Map the parcel's file, and unlink it if nobody else needs it."""
    assert parcel.path is not None
    fd = os.open(parcel.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if not parcel.shared:
            _unlink(parcel.path)
        size = os.fstat(fd).st_size
        return _map_private(fd, size)
    finally:
        os.close(fd)


def _map_private(fd: int, size: int) -> mmap.mmap:
    """Map the file copy-on-write: what the receiver writes stays with the receiver."""
    if sys.platform == "win32":
        return mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
    flags, access = mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, flags, access, trackfd=False)
    if fd < _many_descriptors():
        return mmap.mmap(fd, size, flags, access)
    # Before 3.13 a map holds a descriptor for as long as its arrays live. A caller that keeps
    # thousands of results would run out, so from here on the bytes are copied instead.
    copy = mmap.mmap(-1, size, flags | mmap.MAP_ANONYMOUS, access)
    view, done = memoryview(copy), 0
    while done < size:
        done += os.preadv(fd, [view[done:]], done)
    view.release()
    return copy


def _many_descriptors() -> int:
    """A descriptor number from which on this process has used up half of what it may open."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else min(soft // 2, 4096)


def _views(mapped: mmap.mmap, sizes: Sequence[int]) -> Iterator[memoryview]:
    start = 0
    whole = memoryview(mapped)
    for size in sizes:
        yield whole[start : start + size]
        start = _aligned(start + size)


def _write_file(path: str, parts: Sequence[memoryview]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        start = 0
        for part in parts:
            os.lseek(fd, start, os.SEEK_SET)
            view = part
            while view.nbytes:  # one write moves 2 GiB at the most
                view = view[os.write(fd, view) :]
            start = _aligned(start + part.nbytes)
    finally:
        os.close(fd)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # its receiver was faster, which is the usual case
    except NotADirectoryError:
        pass
