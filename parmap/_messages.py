"""What crosses the process wall, and the memory both sides see: messages and the board.

caller  ->  Job      the function, once a call and worker
        ->  Work     a chunk of items
        ->  Over     the call is over: let its function go
worker  ->  Answer   outcomes of items, in one or more parts a chunk
        ->  Refusal  why a chunk was not run
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from parmap._failure import Failure
from parmap._state import Facts, Place
from parmap._transport import Parcel

# Words of the board, by which caller and worker see each other's state without a message.
# LOADING is the chunk being unpacked, or the job with a minus before it; 0 for nothing.
READY, CANCELLED, CHUNK, OFFSET, LENGTH, STARTED, LOADING = range(7)
BOARD_WORDS = 8


class Board:
    """A few 64-bit words in memory that caller and worker share."""

    def __init__(self) -> None:
        self._block = _shared_block(8 * BOARD_WORDS)
        self.words = self._block.create_memoryview().cast("q")
        for word in range(BOARD_WORDS):  # the block may have been another worker's
            self.words[word] = 0

    def __reduce__(self) -> Any:
        return _board_of, (self._block,)


def _shared_block(size: int) -> Any:
    """Memory that a worker sees too."""
    from multiprocessing import heap

    try:
        return heap.BufferWrapper(size)
    except OSError:  # no place for its file
        if not hasattr(os, "memfd_create"):
            raise
    return _Nameless(size)


class _Nameless:
    """A shared block whose file has no name, and so needs no place."""

    def __init__(self, size: int):
        from multiprocessing import heap, util

        fd = os.memfd_create("parmap")
        os.ftruncate(fd, size)
        self._arena = heap.Arena(size, fd)
        util.Finalize(self, os.close, (fd,))

    def create_memoryview(self) -> memoryview:
        return memoryview(self._arena.buffer)


def _board_of(block: Any) -> Board:
    board = Board.__new__(Board)
    board._block = block
    board.words = block.create_memoryview().cast("q")
    return board


def at_work(words: Any, chunk: int, items: int) -> tuple[bool, int, int]:
    """What the board of a dead worker says: (whether it was at that chunk, at which item, of how
    many at once). A chunk that ends the process while it is unpacked may owe that to any item."""
    if words[LOADING] == chunk:
        return True, 0, items
    return bool(words[CHUNK] == chunk and words[STARTED]), words[OFFSET], words[LENGTH]


def preparing(words: Any) -> str:
    """What a worker was at before any item, in words."""
    if not words[READY]:
        return "while they start"
    return "while they load the function" if words[LOADING] else "before they run an item"


# ------------------------------------------------------------------ what crosses, as bytes
#
# Named tuples, not dataclasses: those with slots pickle through Python code, 5 us each, in the one
# place where it counts.


class Job(NamedTuple):
    """A call, as a worker needs to know it. Sent once to each worker.

    `task` is a parcel of (mapper, fn), or the key of one that a forked worker inherited.
    """

    number: int
    task: Parcel | int
    retries: int
    flush_seconds: float
    place: Place | None
    facts: Facts | None
    threads: dict[str, str]

    def wire(self) -> tuple[Any, ...]:
        return (_JOB, self)


class Work(NamedTuple):
    """A chunk of items, in a parcel. `single` asks for one parcel an item in the answer."""

    job: int
    number: int
    items: Parcel
    single: bool

    def wire(self) -> tuple[Any, ...]:
        return (_WORK, self.job, self.number, self.single, *self.items)


class Over(NamedTuple):
    """The call is over, and its function takes memory. Not sent where it does not."""

    def wire(self) -> tuple[Any, ...]:
        return (_OVER,)


class Answer(NamedTuple):
    """Outcomes of consecutive items of a chunk: `groups` of values, or the failure of one item.

    `seconds` is what they took, `cpu_seconds` the processor time in it; `last` ends the chunk.
    """

    job: int
    chunk: int
    groups: list[tuple[int, Parcel | Failure]]
    seconds: float
    cpu_seconds: float
    last: bool

    def wire(self) -> tuple[Any, ...]:
        groups = [
            (count, *outcome) if type(outcome) is Parcel else (count, outcome)
            for count, outcome in self.groups
        ]
        return (_ANSWER, self.job, self.chunk, groups, self.seconds, self.cpu_seconds, self.last)


class Refusal(NamedTuple):
    """The job or the chunk cannot be run here; nothing of it was run.

    `what` is "facts" (facts differ; `facts` are this worker's), "function", "initializer" or
    "items"; `failure` says why.
    """

    job: int
    chunk: int | None
    what: str
    failure: Failure | None = None
    facts: Facts | None = None

    def wire(self) -> tuple[Any, ...]:
        return (_REFUSAL, self)


_JOB, _WORK, _ANSWER, _REFUSAL, _OVER = range(5)


def read(wire: tuple[Any, ...]) -> Job | Work | Over | Answer | Refusal:
    """A message from what its `wire` made of it.

    The frequent ones cross as plain tuples: naming a class in a pickle costs 3 us, four times a
    chunk, which would double what a chunk costs.
    """
    if wire[0] == _WORK:
        return Work(wire[1], wire[2], Parcel(*wire[4:]), wire[3])
    if wire[0] == _ANSWER:
        groups = [
            (group[0], Parcel(*group[1:]) if len(group) > 2 else group[1]) for group in wire[3]
        ]
        return Answer(wire[1], wire[2], groups, *wire[4:])
    if wire[0] == _OVER:
        return Over()
    message: Job | Refusal = wire[1]
    return message
