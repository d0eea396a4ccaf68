"""Station 4, what a worker is given at its birth, as numbers: descriptors, or handles on Windows.

line      messages, both ways: two pipes
lifeline  a pipe that nobody writes to: its end tells a worker that its caller is gone
board     a few words in memory that both sides see, so that some things need no message
"""

from __future__ import annotations

import io
import mmap
import os
import select
import signal
import struct
import sys
import threading
from contextlib import suppress

from parmap._quiet import no_copy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# Words of the board. PID is 0 until the worker runs; READY is 0, then the time when it had run its
# initializer, in nanoseconds of the monotonic clock, which all processes share.
# LOADING is the chunk being unpacked, or minus the job; -1 before the first.
PID, READY, CANCELLED, CHUNK, OFFSET, LENGTH, STARTED, LOADING = range(8)
_BOARD_BYTES = 8 * 8

# What the fork server hears: that a worker is wanted; or one for what cloudpickle has carried,
# which it then imports first.
WORKER, CLOUDPICKLE_WORKER = b"w", b"c"

# What it says of a process that ended: its number and exit code. Where it could not fork one: 0 and
# the error number.
ENDED = struct.Struct("!qq")


class Seat:
    def __init__(self, line: Any, lifeline: Any, board: memoryview):
        self.line, self.lifeline, self.board = line, lifeline, board

    def close(self) -> None:
        close_end(self.line)
        close_end(self.lifeline)
        memory: Any = self.board.obj  # which has a descriptor of its own
        self.board.release()
        memory.close()


def new_seat() -> tuple[Seat, tuple[int, ...]]:
    """The caller's side, and the numbers of the other, which the caller has to close."""
    if sys.platform == "win32":
        return _new_seat_windows()
    opened: list[int] = []
    with no_copy:
        try:
            for _ in range(3):
                opened.extend(os.pipe())
            opened.append(_shared_file())
            board = _board(opened[-1])
        except OSError:
            close_numbers(opened)
            raise
        to_read, from_write, from_read, to_write, watched, held, file = opened
        seat = Seat(Line(from_read, from_write), io.FileIO(held, "w"), board)
        keep_end(seat.line)
        keep_end(seat.lifeline)
    return seat, (to_read, to_write, watched, file)


def take_seat(numbers: tuple[int, ...]) -> Seat:
    if sys.platform == "win32":
        return _take_seat_windows(numbers)
    reader, writer, watched, file = numbers
    board = _board(file)
    os.close(file)
    return Seat(Line(reader, writer), watched, board)


def close_numbers(numbers: Any) -> None:
    for number in numbers:
        os.close(number)


def _shared_file() -> int:
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("parmap")
    else:
        import tempfile

        number, path = tempfile.mkstemp(prefix="parmap-")
        os.unlink(path)
    os.truncate(number, _BOARD_BYTES)
    return number


def _board(file: int, **name: Any) -> memoryview:
    return memoryview(mmap.mmap(file, _BOARD_BYTES, **name)).cast("q")


# ------------------------------------------------------------------ the line
#
# Each message behind its length. A pipe costs two thirds of a socket (benchmarks/overhead.py), and
# reading whatever is there saves a system call a message.

_PIPE_BYTES = 65_536  # what one holds by default


class Line:
    def __init__(self, source: int, sink: int):
        self._source, self._sink = source, sink
        self._buffer = self._posted = b""
        # It holds two messages, so that neither side waits for the other to read. Not where the
        # system ran out of memory for pipes.
        self.roomy = True
        with suppress(ImportError, AttributeError, OSError):  # not Linux
            import fcntl

            self.roomy = fcntl.fcntl(sink, fcntl.F_GETPIPE_SZ) >= _PIPE_BYTES

    def fileno(self) -> int:
        return self._source

    def post(self, data: bytes) -> None:
        self._posted += len(data).to_bytes(4, "big") + data

    def flush(self) -> None:
        """At one go: waking a process takes 5 to 20 us, more than all else."""
        data, self._posted = self._posted, b""
        while data:  # again, where a signal came, or the pipe was nearly full
            data = data[os.write(self._sink, data) :]

    def receive(self) -> bytes:
        """The next message; EOFError at the end."""
        while not self.holds_more():
            data = os.read(self._source, _PIPE_BYTES)
            if not data:
                raise EOFError
            self._buffer += data
        buffer = self._buffer
        end = 4 + int.from_bytes(buffer[:4], "big")
        self._buffer = buffer[end:]
        return buffer[4:end]

    def holds_more(self) -> bool:
        buffer = self._buffer
        return len(buffer) >= 4 and len(buffer) - 4 >= int.from_bytes(buffer[:4], "big")

    def close(self) -> None:
        ends, self._source, self._sink = {self._source, self._sink}, -1, -1
        for end in ends - {-1}:
            os.close(end)


# ------------------------------------------------------------------ the lifeline


def watch_caller(caller: Any) -> None:
    """End this process when its caller, which holds the other end of this pipe, is gone.

    Where the kernel can, it does that: a pipe in O_ASYNC mode sends a signal when its other end
    closes. That is SIGKILL, and so holds even while fn sits in C code with the GIL held. Else a
    thread waits. What the caller leaves in files is removed by others (see _sweep).
    """
    try:
        import fcntl

        set_signal = fcntl.F_SETSIG  # Linux
    except (ImportError, AttributeError):
        threading.Thread(
            target=_wait_for_orphanhood, args=(caller,), name="parmap-orphan", daemon=True
        ).start()
        return
    fcntl.fcntl(caller, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(caller, set_signal, signal.SIGKILL)
    flags = fcntl.fcntl(caller, fcntl.F_GETFL)
    fcntl.fcntl(caller, fcntl.F_SETFL, flags | os.O_ASYNC)
    if readable([caller], 0):  # it was gone before we asked to be told
        leave()


def _wait_for_orphanhood(caller: Any) -> None:
    readable([caller], None)
    leave()


def leave() -> None:
    """End this process: whoever it writes to has gone, or has no use for it."""
    os._exit(1)


def readable(sources: Iterable[Any], seconds: float | None) -> bool:
    """Whether one of these has something to read, or has ended, or does within the time."""
    if sys.platform == "win32":
        from multiprocessing.connection import wait

        return bool(wait(list(sources), seconds))
    poll = select.poll()
    for source in sources:
        poll.register(source, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


# ------------------------------------------------------------------ Windows: none of it was run


class WindowsLine:
    """The same over multiprocessing's pipe, which Windows can wait for."""

    roomy = True

    def __init__(self, connection: Any):
        self.fileno = connection.fileno
        self.post = connection.send_bytes
        self.receive = connection.recv_bytes
        self.close = connection.close

    def flush(self) -> None: ...

    def holds_more(self) -> bool:
        return False


def _new_seat_windows() -> tuple[Seat, tuple[int, ...]]:
    from multiprocessing.connection import Pipe

    here, there = Pipe()
    watched, held = Pipe(duplex=False)
    name = int.from_bytes(os.urandom(7), "big")
    numbers = (there.fileno(), watched.fileno(), name)
    for end in (there, watched):
        end.__dict__["_handle"] = None  # its number is all that is left of it
    return Seat(WindowsLine(here), held, _board(-1, tagname=f"parmap-{name}")), numbers


def _take_seat_windows(numbers: tuple[int, ...]) -> Seat:
    from multiprocessing.connection import PipeConnection  # type: ignore[attr-defined]

    there, watched, name = numbers
    line = WindowsLine(PipeConnection(there))
    lifeline = PipeConnection(watched, writable=False)
    return Seat(line, lifeline, _board(-1, tagname=f"parmap-{name}"))


# ------------------------------------------------------------------ copies of the caller

# The caller's ends of all pipes. A copy of it, as a forked worker is, closes them first thing: else
# they would outlast it.
_ends: set[Any] = set()


def keep_end(end: Any) -> None:
    """Have copies of this process close it. It has no lock, which a thread might hold then."""
    with no_copy:
        _ends.add(end)


def close_end(end: Any) -> None:
    with no_copy:
        _ends.discard(end)
        end.close()


def close_ends() -> None:
    for end in list(_ends):
        close_end(end)
