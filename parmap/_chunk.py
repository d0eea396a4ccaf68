"""What goes between the flow and an engine: chunks one way, events the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple, Protocol

from parmap._failure import Failure
from parmap._messages import Answer
from parmap._transport import Parcel

_numbers = count(1)

# What came of items: values as bytes, values of items run here, or one item's exception.
Outcome = Parcel | list[Any] | Failure | BaseException


class Chunk:
    """Consecutive items on their way, kept until they are answered: a dead worker's are sent again.

    Attributes:
        start: index of the first; number: its name on the board.
        lives: workers that each item may still cost.
        got: items that have come; parts: what of that is to be handed out, each with its count.
        nbytes, bulk: of the items, packed; inline_bytes: of these, in the pipe; path: of a file.
    """

    def __init__(self, start: int, items: list[Any], lives: int):
        self.start, self.items, self.lives = start, items, lives
        self.number = next(_numbers)
        self.parts: deque[tuple[int, Outcome]] = deque()
        self.got = self.nbytes = self.bulk = self.inline_bytes = 0
        self.path: str | None = None

    @property
    def left(self) -> int:
        return len(self.items) - self.got

    def add(self, size: int, outcome: Outcome) -> None:
        self.parts.append((size, outcome))
        self.got += size


class Part(NamedTuple):
    chunk: Chunk
    answer: Answer


class Lost(NamedTuple):
    """A worker is gone. Of the first of its chunks, if `running`, it was at `length` items from
    `offset` on; `error` is for the one at fault."""

    chunks: list[Chunk]
    running: bool
    offset: int
    length: int
    error: Callable[[int], BaseException]


class Refused(NamedTuple):
    """A worker could not read a chunk."""

    chunk: Chunk
    failure: Failure


class Unavailable(NamedTuple):
    """The engine cannot go on. `error` says why, for who insists."""

    reason: str
    error: BaseException


Event = Part | Lost | Refused | Unavailable


class Engine(Protocol):
    """The door at which the flow meets an engine. What a worker is, only the engine knows."""

    @property
    def workers(self) -> int: ...  # how many there are
    @property
    def deaths(self) -> int: ...  # how many were lost
    @property
    def booting(self) -> bool: ...  # no worker has come up yet, and the caller may go on meanwhile
    @property
    def retired(self) -> int: ...  # workers of which chunks were taken back; they get nothing more
    @property
    def chunk_cost(self) -> float: ...  # in seconds; 0 for parmap's own, which the plan knows

    def ours(self) -> bool: ...  # not in a forked copy of the caller
    def hungry(self, low: int) -> Any: ...  # a worker with fewer than `low` chunks, or None
    def full(self, worker: Any, /) -> bool: ...  # it can take no further chunk now

    def send(self, chunk: Chunk, worker: Any, /) -> None:
        """Raises what pickling the items raises."""

    def flush(self, worker: Any, /) -> None:
        """Nothing more is sent for now."""

    def wait(self, seconds: float | None) -> list[Event]:
        """What happened, or does within the time; None: until something does."""
        return []

    def boot_left(self) -> float:
        """Seconds until a worker will be up."""
        return 0.0

    def all_at_work(self) -> bool:
        """Whether every worker is at an item, so that the caller would only be in their way."""
        return False

    def take_back(self) -> list[Chunk]:
        """Chunks that one worker will not run."""
        return []

    def running_items(self) -> int:
        """Items done of chunks not yet answered."""
        return 0
