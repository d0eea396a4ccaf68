"""Station 4, what a worker is given at its birth: a line, a lifeline, a board.

    line      messages, both ways (see `_line`)
    lifeline  a pipe that nobody writes to: its closing tells a worker that its caller is gone
    board     a few 64-bit words in memory that both sides see, so that some things need no message

Each crosses to the new process as a number: a file descriptor, or a handle on Windows.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import threading
from typing import Any, NamedTuple

from parmap._line import Line, WindowsLine

# Words of the board. PID is 0 until the worker runs; READY until it has run its initializer.
# LOADING is the chunk being unpacked, or the job with a minus before it; 0 for nothing.
PID, READY, CANCELLED, CHUNK, OFFSET, LENGTH, STARTED, LOADING = range(8)
_BOARD_BYTES = 8 * 8

# What the fork server says of each process that ended: its number, and its exit code; or 0, and the
# error number for which it could not fork one.
ENDED = struct.Struct("!qq")


class Lifeline:
    """One end of a lifeline."""

    def __init__(self, number: int):
        self._number = number

    def fileno(self) -> int:
        return self._number

    def close(self) -> None:
        number, self._number = self._number, -1
        if number >= 0:
            os.close(number)


class Seat(NamedTuple):
    """One side's end of all three."""

    line: Any
    lifeline: Any
    board: memoryview

    def close(self) -> None:
        close_end(self.line)
        close_end(self.lifeline)


def new_seat() -> tuple[Seat, tuple[int, ...]]:
    """The caller's side, and the numbers of the other one, which the caller has to close."""
    if sys.platform == "win32":
        return _new_seat_windows()
    opened: list[int] = []
    try:
        for _ in range(3):
            opened.extend(os.pipe())
        opened.append(_shared_file())
        board = memoryview(mmap.mmap(opened[-1], _BOARD_BYTES)).cast("q")
    except OSError:
        close_numbers(opened)
        raise
    to_read, from_write, from_read, to_write, watched, held, file = opened
    seat = Seat(Line(from_read, from_write), Lifeline(held), board)
    keep_end(seat.line)
    keep_end(seat.lifeline)
    return seat, (to_read, to_write, watched, file)


def take_seat(numbers: tuple[int, ...]) -> Seat:
    """The worker's side, from its numbers."""
    if sys.platform == "win32":
        return _take_seat_windows(numbers)
    reader, writer, watched, file = numbers
    board = memoryview(mmap.mmap(file, _BOARD_BYTES)).cast("q")
    os.close(file)
    return Seat(Line(reader, writer), Lifeline(watched), board)


def close_numbers(numbers: Any) -> None:
    """The other side has its own copies now."""
    for number in numbers:
        os.close(number)


def _shared_file() -> int:
    """A file without a name, which needs no place."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("parmap")
    else:
        import tempfile

        number, path = tempfile.mkstemp(prefix="parmap-")
        os.unlink(path)
    os.truncate(number, _BOARD_BYTES)
    return number


# ------------------------------------------------------------------ Windows: none of it was run


def _new_seat_windows() -> tuple[Seat, tuple[int, ...]]:
    from multiprocessing.connection import Pipe

    here, there = Pipe()
    watched, held = Pipe(duplex=False)
    name = int.from_bytes(os.urandom(7), "big")
    numbers = [end.fileno() for end in (there, watched)]
    for end in (there, watched):
        end.__dict__["_handle"] = None  # its number is all that is left of it
    return Seat(WindowsLine(here), held, _named_board(name)), (*numbers, name)


def _named_board(name: int) -> memoryview:
    block = mmap.mmap(-1, _BOARD_BYTES, tagname=f"parmap-{name}")  # type: ignore[call-arg]
    return memoryview(block).cast("q")


def _take_seat_windows(numbers: tuple[int, ...]) -> Seat:
    from multiprocessing.connection import PipeConnection  # type: ignore[attr-defined]

    there, watched, name = numbers
    watching = PipeConnection(watched, writable=False)
    return Seat(WindowsLine(PipeConnection(there)), watching, _named_board(name))


# ------------------------------------------------------------------ copies of the caller

# The caller's ends of all pipes. A forked copy of the caller, as each forked worker is, inherits
# them and would keep them open after the caller's death; it closes them first thing.
_ends: set[Any] = set()

# Held while one of them is closed, and while this process is copied: a copy that is made between
# the closing of a descriptor and the noting of it would close another file's, of the same number.
_closing = threading.RLock()


def keep_end(end: Any) -> None:
    """Have forked copies of this process close `end`, so that it closes when this process ends.

    Nothing that closes with a lock: a copy may be made while another thread holds it.
    """
    with _closing:
        _ends.add(end)


def close_end(end: Any) -> None:
    """Close what was kept."""
    with _closing:
        _ends.discard(end)
        end.close()


def close_ends() -> None:
    """In a copy of the caller: they are the original's."""
    for end in list(_ends):
        close_end(end)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_closing.acquire,
        after_in_parent=_closing.release,
        after_in_child=_closing.release,
    )
