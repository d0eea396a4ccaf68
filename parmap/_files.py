"""The cellar: files for what does not fit a pipe, in a directory that only this user may enter.

emptied   The receiver copies it, and lays it into the tray of the call for the next writer: used
          pages are written in a third of the time. For what a worker is done with soon.
mapped    The receiver maps it copy-on-write. For what takes new memory in any case: the function,
          which workers share, and large results, which are kept.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import stat
import sys
from contextlib import suppress
from functools import partial
from typing import Any

# Bytes of a file that is mapped in any case. Smaller writes more files anew, at 0.5 ns a byte, not
# 0.15 (benchmarks/data.py); larger copies into memory that malloc gives back at once.
MAP_BYTES = 32 * 2**20

# Bytes of the average buffer of results that are mapped. Smaller keeps all of a slice with each of
# them; larger takes new memory twice.
MAP_RESULT_BYTES = 256 * 2**10

# Bytes of memory that is used again. Smaller takes longer to find than to get; larger, new pages.
SPARE_BYTES = 256 * 2**10

# Bytes in a tray at the most. Smaller writes files anew; larger keeps memory that nobody reads.
TRAY_BYTES = 64 * 2**20

# What a place says that is full, missing or forbidden.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM}
_NO_ROOM = _FULL | {errno.ENOENT, errno.ENOTDIR, errno.EROFS, errno.EACCES, errno.EPERM}


class Store:
    """A place for the files of parcels: a private directory, made on first use."""

    tray_open = False
    _tray, _map_bytes = "", 0

    def __init__(self, name: str, places: list[str] | None = None, *, shares_main: bool = False):
        self._name = name
        self._places = default_places() if places is None else places
        self.shares_main = shares_main  # its receivers are forks of the caller

    @property
    def directories(self) -> list[str]:
        return [os.path.join(place, self._name) for place in self._places]

    def of_call(self, number: int, map_bytes: int = MAP_BYTES) -> Store:
        """The same with a tray for one call: it maps what has `map_bytes` a buffer, not all."""
        store = Store(self._name, self._places, shares_main=self.shares_main)
        store._tray, store._map_bytes = f"tray-{number}", map_bytes
        return store

    def write(self, parts: list[memoryview], buffers: int = 0) -> tuple[str, str]:
        """The path of a file with the parts, and that of its tray, or "". The last parts are
        `buffers`, which alone stay in use where they arrive."""
        size = sum(part.nbytes for part in parts)
        kept = sum(part.nbytes for part in parts[len(parts) - buffers :])
        mapped = size >= MAP_BYTES or kept >= self._map_bytes * max(1, buffers)
        name = f"{os.getpid()}-{os.urandom(8).hex()}"
        refused: OSError | None = None
        for directory in self.directories:
            path = os.path.join(directory, name)
            tray = "" if mapped else os.path.join(directory, self._tray)
            try:
                _private_directory(directory)
                _fill(path, parts, not mapped and _take_from(tray, size, path), mapped)
                return path, tray
            except OSError as error:
                unlink(path)
                if error.errno not in _NO_ROOM:
                    raise
                refused = error
        places = " or ".join(self._places) or "any temp directory"
        raise OSError(
            getattr(refused, "errno", errno.ENOSPC),
            f"large data for another process finds no room in {places} ({refused}); make room "
            "there, set TMPDIR to a directory that has it, or pass parallel=False",
        )

    def open_tray(self) -> None:
        """Emptied files are kept in it."""
        if self.tray_open:
            return
        self.tray_open = True
        for directory in self.directories:
            with suppress(OSError):  # full or missing: `write` will see
                _private_directory(directory)
                _private_directory(os.path.join(directory, self._tray))

    def close_tray(self) -> None:
        """Those that are emptied later are not kept."""
        for directory in self.directories if self.tray_open else []:
            for _ in range(100):  # a worker may lay a file into it meanwhile
                if remove_directory(os.path.join(directory, self._tray)):
                    break

    def sweep(self, prefix: str = "") -> None:
        """Unlink the files of one writer (`"<pid>-"`), or everything and the directories too."""
        for directory in self.directories:
            if not prefix:
                remove_directory(directory)
                continue
            for name in names_in(directory):
                if name.startswith(prefix):
                    unlink(os.path.join(directory, name))


def new_store(*, shares_main: bool = False) -> Store:
    name = directory_name(os.getpid()) + os.urandom(4).hex()  # so that nobody can take it first
    return Store(name, shares_main=shares_main)


def directory_name(caller: int | str) -> str:
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:  # containers that share /dev/shm number their processes alike
        namespace = f"{os.stat('/proc/self/ns/pid').st_ino:x}."
    except OSError:
        namespace = ""
    return f"parmap-{user}-{caller}-{namespace}"


def default_places() -> list[str]:
    """/dev/shm, where files are memory; then what tempfile says, whose import takes 4 ms."""
    places = ["/dev/shm"] if os.path.isdir("/dev/shm") else []
    if "tempfile" not in sys.modules and sys.platform != "win32":
        get = os.environ.get
        temp = get("TMPDIR") or get("TEMP") or get("TMP") or "/tmp"
        if os.path.isabs(temp) and os.access(temp, os.W_OK | os.X_OK):
            return [*places, temp]
    import tempfile

    with suppress(FileNotFoundError):  # /dev/shm or the pipe has to do
        places.append(tempfile.gettempdir())
    return places


def _private_directory(directory: str) -> None:
    # Asked rather than tried: a Ctrl-C while an error is handled shows as an error in an error.
    if not os.access(directory, os.F_OK):
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
            return
    # Whoever can write here could hand us a pickle, that is code.
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EACCES, "not a private directory of this user", directory)


# ------------------------------------------------------------------ writing and reading


def _fill(path: str, parts: list[memoryview], again: bool, mapped: bool) -> None:
    with io.FileIO(path, "r+" if again else "x", opener=partial(os.open, mode=0o600)) as file:
        for view in parts:
            while view.nbytes:  # one write moves 2 GiB at the most
                view = view[file.write(view) :]
            if mapped:
                file.seek(_paged(file.tell()))


def read(path: str, sizes: tuple[int, ...], tray: str | None, spare: list[bytearray]) -> list[Any]:
    """The parts again, private to this process and writable."""
    with io.FileIO(path, "r+") as file:
        if tray == "":
            unlink(path)
        if not tray and _descriptors_left(file.fileno()):
            with suppress(OSError):
                return _mapped(file.fileno(), sizes)
        # Each has memory of its own, which goes as soon as its user lets it go.
        parts = [_memory(size, spare) for size in sizes]
        for view in parts:
            while view.nbytes:
                count = file.readinto(view)
                if not count:
                    raise EOFError(f"{path!r} is shorter than what was written into it")
                view = view[count:]
            if not tray:
                file.seek(_paged(file.tell()))
        if tray:
            _lay_into(tray, path, file.seek(0, os.SEEK_END))
    return parts


def _descriptors_left(fd: int) -> bool:
    """Before Python 3.13 a map holds one, and thousands may be kept. Half are left to others."""
    if sys.platform == "win32" or sys.version_info >= (3, 13):
        return True
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return fd < (4096 if soft == resource.RLIM_INFINITY else min(soft // 2, 4096))


def _memory(size: int, spare: list[bytearray]) -> memoryview:
    """Spare memory that nothing uses any more; new takes seven times as long as to fill it."""
    if size < SPARE_BYTES:
        return memoryview(bytearray(size))
    for memory in spare:
        try:
            memory.append(memory.pop())  # refused while an array, or any view, is made of it
        except BufferError:
            continue
        if size <= len(memory) <= 2 * size:
            return memoryview(memory)[:size]
        spare.remove(memory)  # no longer the size of what comes
        break
    memory = bytearray(size)
    if sum(map(len, spare)) + size <= MAP_BYTES:
        spare.append(memory)
    return memoryview(memory)


def _mapped(fd: int, sizes: tuple[int, ...]) -> list[memoryview]:
    if sys.version_info >= (3, 13) and sys.platform != "win32":
        whole = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_COPY, trackfd=False))
    else:
        whole = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_COPY))
    parts, start = [], 0
    for size in sizes:
        parts.append(whole[start : start + size])
        start = _paged(start + size)
    return parts


def _paged(offset: int) -> int:
    """The next page: writing to one buffer copies nothing of another."""
    return -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE


# ------------------------------------------------------------------ the tray
#
# Names in it begin with the size. Taking a file is a rename, so two cannot take the same.


def _take_from(tray: str, size: int, path: str) -> bool:
    names = names_in(tray)
    if not names:
        return False
    best = min(names, key=lambda name: (_size(name) < size, abs(_size(name) - size)))
    try:
        os.rename(os.path.join(tray, best), path)
    except OSError:
        return False  # another writer was faster
    return True


def _lay_into(tray: str, path: str, size: int) -> None:
    if size + sum(map(_size, names_in(tray))) <= TRAY_BYTES:
        with suppress(OSError):  # the tray has gone with its call
            os.rename(path, os.path.join(tray, f"{size}-{os.path.basename(path)}"))
            return
    unlink(path)


def _size(name: str) -> int:
    return int(name.partition("-")[0])


def names_in(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def remove_directory(path: str) -> bool:
    """Whether it is gone. shutil takes 3 ms to import, and makes a named tuple, by which an
    interpreter that ends after a Ctrl-C forgets that it did."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_directory(entry.path)
                else:
                    unlink(entry.path)
        os.rmdir(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return True


def unlink(path: str) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):  # its receiver was faster
        os.unlink(path)
