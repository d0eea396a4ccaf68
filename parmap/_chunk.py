"""What goes between the flow and an engine: chunks one way, events the other."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from parmap._failure import Failure
from parmap._messages import Answer
from parmap._transport import Parcel

_chunk_numbers = itertools.count(1)

# What came of items: values as bytes, values of items that ran here, or one item's exception.
Outcome = Parcel | list[Any] | Failure | BaseException


class Chunk:
    """Consecutive items on their way, kept until they are answered: a dead worker's are sent again.

    Attributes:
        start: index of the first item; items: the items; number: its name on the board.
        single: ask for one parcel an item; lives: how many more workers each item may cost.
        parts: outcomes that came, not yet handed out, each with the count of items it is of.
        got: how many items have come; done: nothing more will.
        nbytes, bulk: of its items, packed; inline_bytes: what of them went into the pipe.
        path: of the file they went in, or None.
        origin: the index that offset 0 on the board is.
    """

    __slots__ = (
        *("start", "items", "number", "single", "lives", "parts", "got", "done"),
        *("nbytes", "bulk", "path", "inline_bytes", "origin"),
    )

    def __init__(self, start: int, items: list[Any], single: bool = False, lives: int = 0):
        self.start, self.items, self.number = start, items, next(_chunk_numbers)
        self.single, self.lives = single, lives
        self.parts: deque[tuple[int, Outcome]] = deque()
        self.got, self.done = 0, False
        self.nbytes, self.bulk, self.inline_bytes, self.origin = 0, 0, 0, start
        self.path: str | None = None


class Part(NamedTuple):
    """Outcomes of some items of a chunk."""

    chunk: Chunk
    answer: Answer


class Lost(NamedTuple):
    """A worker is gone. `chunks` were at it; the first was running `length` items at `offset`,
    unless `running` is false. `error` is what the item at fault gets."""

    chunks: list[Chunk]
    running: bool
    offset: int
    length: int
    error: Callable[[int], BaseException]


class Refused(NamedTuple):
    """A chunk that a worker could not read: its items, one by one, may tell which."""

    chunk: Chunk
    failure: Failure


class Unavailable(NamedTuple):
    """The engine cannot go on. `chunks` were not run; `error` says why, for who insists."""

    chunks: list[Chunk]
    reason: str
    error: BaseException


Event = Part | Lost | Refused | Unavailable


class Engine(Protocol):
    """The door at which the flow meets an engine. What a worker is, only the engine knows.

    Attributes:
        workers: how many there are now; deaths: how many were lost.
        booting: whether no worker has come up yet, and the caller may go on meanwhile.
        retired: workers of which chunks were taken back, and which get nothing more.
        chunk_cost: seconds that a chunk costs; 0 for parmap's own workers, for which the plan's
            constants are made.
    """

    @property
    def workers(self) -> int: ...
    @property
    def deaths(self) -> int: ...
    @property
    def booting(self) -> bool: ...
    @property
    def retired(self) -> int: ...
    @property
    def chunk_cost(self) -> float: ...

    def ours(self) -> bool:
        """Whether this process may go on with it: a forked copy of the caller may not."""
        return True

    def boot_left(self) -> float:
        """Seconds until a worker will be up."""
        return 0.0

    def hungry(self, low: int) -> Any:
        """A worker with fewer than `low` chunks, or None."""

    def full(self, worker: Any, /) -> bool:
        """Whether it can take no further chunk now."""
        return False

    def send(self, chunk: Chunk, worker: Any, /) -> None:
        """Send it one more. Raises what pickling the items raises."""

    def flush(self, worker: Any, /) -> None:
        """Nothing more is sent to it for now."""

    def wait(self, seconds: float | None) -> list[Event]:
        """What happened, or happens within the time (None: until something does)."""
        return []

    def take_back(self) -> list[Chunk]:
        """Chunks that one worker had and will not run."""
        return []

    def running_items(self) -> int:
        """Items done of chunks not yet answered, for the bar."""
        return 0


def arguments(item: Any) -> Any:
    """starmap takes any iterable for the arguments; across the wall it has to be a tuple."""
    try:
        return tuple(item)
    except TypeError:  # not iterable: starmap says so in the worker, at its position
        return item


def settled(start: int, error: BaseException) -> Chunk:
    """A place in the window without an item: what the input raised there."""
    chunk = Chunk(start, [])
    chunk.parts.append((0, error))
    chunk.done = True
    return chunk
