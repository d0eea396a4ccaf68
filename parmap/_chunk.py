"""What goes between the flow and an engine: chunks one way, events the other."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from parmap._messages import Answer
from parmap._outcome import Failure
from parmap._transport import Parcel

_chunk_numbers = itertools.count(1)


@dataclass(eq=False)
class Chunk:
    """Consecutive items on their way, kept until they are answered: a dead worker's are sent again.

    Attributes:
        start: index of the first item; items: the items; number: its name on the board.
        single: ask for one parcel an item; lives: how many more workers each item may cost.
        parts: outcomes that came, not yet handed out, each (count, Parcel or Failure).
        got: how many items have come; done: nothing more will.
    """

    start: int
    items: list[Any]
    single: bool = False
    lives: int = 0
    parts: deque[tuple[int, Parcel | Failure | BaseException]] = field(default_factory=deque)
    got: int = 0
    done: bool = False
    inline_bytes: int = 0  # what it put into the pipe
    origin: int = 0  # index that offset 0 on the board stands for
    number: int = field(default_factory=lambda: next(_chunk_numbers))


@dataclass(frozen=True, slots=True)
class Part:
    """Outcomes of some items of a chunk."""

    chunk: Chunk
    answer: Answer


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone. `chunks` were at it; the first was running `length` items at `offset`,
    unless `running` is false. `error` is what the item at fault gets."""

    chunks: list[Chunk]
    running: bool
    offset: int
    length: int
    error: Callable[[int], BaseException]


@dataclass(frozen=True, slots=True)
class Refused:
    """A chunk that a worker could not read: its items, one by one, may tell which."""

    chunk: Chunk
    failure: Failure


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The engine cannot go on. `chunks` were not run; `error` says why, for who insists."""

    chunks: list[Chunk]
    reason: str
    error: BaseException


Event = Part | Lost | Refused | Unavailable
