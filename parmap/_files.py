"""The cellar: files that carry what does not fit a pipe.

They lie in a directory that only this user may enter. A file goes one of two ways:

  emptied   Its receiver copies it into memory of its own, and lays it into the tray of the call,
            where the next writer finds it: a page that was written before is written again in a
            third of the time that a new one takes. For what a worker is done with soon.
  mapped    Its receiver maps it copy-on-write, and unlinks it unless others map it too. For what
            is kept, and so takes new memory in any case: large results. And for the function.
"""

from __future__ import annotations

import errno
import io
import itertools
import mmap
import os
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

# Bytes of a file from which it is always mapped. Smaller writes more files anew, at 0.5 ns a byte
# instead of 0.15 (benchmarks/data.py); larger copies into memory that malloc gives back at once.
MAP_BYTES = 32 * 2**20

# Bytes that buffers of results have on average, from which their file is mapped. Smaller keeps all
# results of a slice as long as one of them; larger takes new memory twice, here and there.
MAP_RESULT_BYTES = 256 * 2**10

# Bytes of a buffer from which a worker keeps its memory for the next one of about the size. Smaller
# takes longer to look for than malloc does; larger pays for new pages.
SPARE_BYTES = 256 * 2**10

# Bytes of files in a tray at the most. Smaller writes files anew where several chunks are on their
# way; larger keeps memory that nobody reads.
TRAY_BYTES = 64 * 2**20

# What a full, missing or forbidden place for files answers; the next place is tried.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM}
_NO_ROOM = _FULL | {errno.ENOENT, errno.ENOTDIR, errno.EROFS, errno.EACCES, errno.EPERM}

_serials = itertools.count(1)


class Store:
    """A place for the files of parcels: a private directory, made on first use.

    /dev/shm first, where files are memory; the temp directory when that is full or missing.
    """

    def __init__(
        self,
        name: str,
        places: Sequence[str] | None = None,
        shares_main: bool = False,
        tray: str = "",
        map_bytes: int = 0,
    ):
        self._name = name
        self.shares_main = shares_main  # its receivers are forks of the caller
        self._places = list(places) if places is not None else default_places()
        self._tray = tray
        self._map_bytes = map_bytes
        self.tray_open = False

    @property
    def directories(self) -> list[str]:
        return [os.path.join(place, self._name) for place in self._places]

    def of_call(self, number: int, map_bytes: int = MAP_BYTES) -> Store:
        """The same place, with a tray for the files of one call. Buffers that have `map_bytes` on
        average are mapped."""
        tray = f"tray-{number}"
        return Store(self._name, self._places, self.shares_main, tray, map_bytes)

    def write(
        self, parts: Sequence[memoryview], buffers: int = 0, *, shared: bool = False
    ) -> tuple[str, str]:
        """Write the parts: the file's path, and that of the tray it is to be laid in, or "".

        The last are `buffers`, which stay in use where they arrive; what is before them does not.
        """
        refused: OSError | None = None
        size = sum(part.nbytes for part in parts)
        kept = sum(part.nbytes for part in parts[len(parts) - buffers :])
        mapped = shared or not self._tray or size >= MAP_BYTES
        mapped = mapped or (bool(buffers) and kept >= self._map_bytes * buffers)
        for directory in self.directories:
            path = os.path.join(
                directory, f"{os.getpid()}-{threading.get_ident()}-{next(_serials)}"
            )
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
        number = errno.ENOSPC if refused is None else refused.errno
        places = " or ".join(self._places) or "any temp directory"
        raise OSError(
            number,
            f"large data for another process finds no room in {places} ({refused}); make room "
            "there, set TMPDIR to a directory that has it, or pass parallel=False",
        )

    def open_tray(self) -> None:
        """From now on emptied files of this call are kept, until `close_tray`."""
        if self.tray_open:
            return
        self.tray_open = True
        for directory in self.directories:
            try:
                _private_directory(directory)
                _private_directory(os.path.join(directory, self._tray))
            except OSError:
                continue  # full or missing: `write` will see

    def close_tray(self) -> None:
        """The call is over: its emptied files go, and those emptied later are not kept."""
        for directory in self.directories if self.tray_open else []:
            tray = os.path.join(directory, self._tray)
            for _ in range(100):  # a worker may lay a file into it meanwhile
                if remove_directory(tray):
                    break

    def sweep(self, prefix: str = "") -> None:
        """Unlink the files of one writer (`"<pid>-"`), or everything and the directories too."""
        for directory in self.directories:
            if not prefix:
                remove_directory(directory)
                continue
            try:
                names = os.listdir(directory)
            except OSError:
                continue  # never made, or gone
            for name in names:
                if name.startswith(prefix):
                    unlink(os.path.join(directory, name))


def directory_name(caller: int | str) -> str:
    """How the directories of one calling process begin; those of all, for "*"."""
    return f"parmap-{os.getuid() if hasattr(os, 'getuid') else 0}-{caller}-"


def new_store(*, shares_main: bool = False) -> Store:
    """A store of this process: a name nobody can foresee, so that nobody can take it first."""
    name = directory_name(os.getpid()) + namespace() + os.urandom(4).hex()
    return Store(name, shares_main=shares_main)


def namespace() -> str:
    """What tells processes of other containers apart, whose numbers say nothing here though they
    may share /dev/shm with us."""
    try:
        return f"{os.stat('/proc/self/ns/pid').st_ino:x}."
    except OSError:
        return ""


def default_places() -> list[str]:
    places = ["/dev/shm"] if sys.platform == "linux" and os.path.isdir("/dev/shm") else []
    temp = _temp_directory()
    return places if temp is None else [*places, temp]


def _temp_directory() -> str | None:
    """What tempfile says; without it, for its import takes 4 ms, where there is no doubt."""
    if "tempfile" not in sys.modules and sys.platform != "win32":
        told = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
        first = [*told, "/tmp"][0]
        if os.path.isabs(first) and os.access(first, os.W_OK | os.X_OK):
            return first
    import tempfile

    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return None  # /dev/shm or the pipe has to do


def _private_directory(directory: str) -> None:
    # Asked rather than tried: it is there as a rule, and a Ctrl-C that comes while an error is
    # being handled would be told as an error in an error.
    if not os.access(directory, os.F_OK):
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
            return
    # Whoever can write here could hand us a pickle, that is code: it has to be ours alone.
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EACCES, "not a private directory of this user", directory)


# ------------------------------------------------------------------ writing and reading


def _fill(path: str, parts: Sequence[memoryview], again: bool, mapped: bool) -> None:
    with io.FileIO(path, "r+" if again else "x", opener=_open_private) as file:
        for part in parts:
            view = part
            while view.nbytes:  # one write moves 2 GiB at the most
                view = view[file.write(view) :]
            if mapped:
                file.seek(_paged(file.tell()))


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def read(
    path: str, sizes: Sequence[int], *, shared: bool, tray: str, spare: list[bytearray]
) -> list[Any]:
    """The parts again, private to this process and writable; in `spare` memory where there is."""
    with io.FileIO(path, "r+") as file:
        if not shared and not tray:
            unlink(path)
        if not tray and _descriptors_left(file.fileno()):
            return list(_views(_map_private(file.fileno()), sizes))
        # Each part gets memory of its own, and so goes as soon as its user lets it go.
        parts = [_memory(size, spare) for size in sizes]
        for part in parts:
            _read_into(file, part)
            if not tray:
                file.seek(_paged(file.tell()))
        if tray:
            _lay_into(tray, path, file.seek(0, os.SEEK_END))
    return parts


def _descriptors_left(fd: int) -> bool:
    """Whether a file may be mapped: before Python 3.13 a map holds a descriptor for as long as its
    arrays live, and a caller may keep thousands of results. Half of them are left to others."""
    if sys.platform == "win32" or sys.version_info >= (3, 13):
        return True
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 4096 if soft == resource.RLIM_INFINITY else min(soft // 2, 4096)
    try:
        held = os.dup(fd)
    except OSError:
        return False
    os.close(held)
    return held < most


def _memory(size: int, spare: list[bytearray]) -> memoryview:
    """Memory of so many bytes: new, or spare memory that nothing uses any more.

    The pages of new memory take longer than all else here: seven times as long as to fill them.
    """
    if size < SPARE_BYTES:
        return memoryview(bytearray(size))
    for memory in spare:
        try:
            last = memory.pop()  # refused while an array, or any view, is made of it
        except BufferError:
            continue
        memory.append(last)
        if size <= len(memory) <= 2 * size:
            return memoryview(memory)[:size]
        spare.remove(memory)  # no longer the size of what comes
        break
    memory = bytearray(size)
    if sum(map(len, spare)) + size <= MAP_BYTES:
        spare.append(memory)
    return memoryview(memory)


def _read_into(file: io.FileIO, view: memoryview) -> None:
    while view.nbytes:
        count = file.readinto(view)
        if not count:
            raise EOFError(f"{file.name!r} is shorter than what was written into it")
        view = view[count:]


def _map_private(fd: int) -> mmap.mmap:
    """Map the file copy-on-write: what the receiver writes stays with the receiver."""
    if sys.platform == "win32":
        return mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
    flags, access = mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, os.fstat(fd).st_size, flags, access, trackfd=False)
    return mmap.mmap(fd, 0, flags, access)


def _views(mapped: mmap.mmap, sizes: Sequence[int]) -> Iterator[memoryview]:
    start = 0
    whole = memoryview(mapped)
    for size in sizes:
        yield whole[start : start + size]
        start = _paged(start + size)


def _paged(offset: int) -> int:
    """The next page, where a mapped buffer begins: writing to one copies nothing of another."""
    return -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE


# ------------------------------------------------------------------ the tray
#
# The names of its files begin with their sizes. Taking one is a rename, so two cannot take the
# same; laying one into a tray that has gone with its call fails, and the file is unlinked.


def _take_from(tray: str, size: int, path: str) -> bool:
    """Take a file that was emptied, the best in size, to be written again as `path`."""
    try:
        names = os.listdir(tray)
        if not names:
            return False
        best = min(names, key=lambda name: (_size(name) < size, abs(_size(name) - size)))
        os.rename(os.path.join(tray, best), path)
    except OSError:
        return False  # another writer was faster, or there is no tray
    return True


def _lay_into(tray: str, path: str, size: int) -> None:
    """Give a file that was emptied to the next writer; unlink it where there are enough."""
    try:
        if size + sum(map(_size, os.listdir(tray))) > TRAY_BYTES:
            unlink(path)
        else:
            os.rename(path, os.path.join(tray, f"{size}-{os.path.basename(path)}"))
    except OSError:
        unlink(path)


def _size(name: str) -> int:
    return int(name.partition("-")[0])


def remove_directory(path: str) -> bool:
    """Remove it with all that is in it; whether it is gone.

    shutil does that too, but it takes 3 ms to import, and makes a named tuple, by which an
    interpreter that ends after a Ctrl-C forgets that it did.
    """
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_directory(entry.path)
                else:
                    unlink(entry.path)
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # its receiver was faster, which is the usual case
    except NotADirectoryError:
        pass
