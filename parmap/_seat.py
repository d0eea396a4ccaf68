"""Station 4, what a worker is given at its birth, as numbers: descriptors, or handles on Windows.

line      messages, both ways (see `_line`)
lifeline  a pipe that nobody writes to: its end tells a worker that its caller is gone
board     a few words in memory that both sides see, so that some things need no message
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import sys
import threading
from typing import Any, NamedTuple

from parmap._line import Line, WindowsLine

# Words of the board. PID is 0 until the worker runs; READY is 0, then the time when it had run its
# initializer, in nanoseconds of the monotonic clock, which all processes share.
# LOADING is the chunk being unpacked, or minus the job.
PID, READY, CANCELLED, CHUNK, OFFSET, LENGTH, STARTED, LOADING = range(8)
_BOARD_BYTES = 8 * 8

# What the fork server says of a process that ended: its number and exit code. Where it could not
# fork one: 0 and the error number.
ENDED = struct.Struct("!qq")


class Seat(NamedTuple):
    line: Any
    lifeline: Any
    board: memoryview

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
    """The worker's side."""
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


# ------------------------------------------------------------------ Windows: none of it was run


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

# Held while one is closed, and while this process is copied: a copy made halfway would close what
# has the number next.
_closing = threading.RLock()


def keep_end(end: Any) -> None:
    """Have copies of this process close it. It has no lock, which a thread might hold then."""
    with _closing:
        _ends.add(end)


def close_end(end: Any) -> None:
    with _closing:
        _ends.discard(end)
        end.close()


def close_ends() -> None:
    for end in list(_ends):
        close_end(end)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_closing.acquire,
        after_in_parent=_closing.release,
        after_in_child=_closing.release,
    )
