"""What crosses the process wall, as messages; and what the board of a worker that died says."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from parmap._failure import Failure
from parmap._files import Store
from parmap._place import Place
from parmap._seat import CHUNK, LENGTH, LOADING, OFFSET, READY, STARTED
from parmap._state import Facts
from parmap._transport import Parcel


def at_work(words: Any, chunk: int, items: int) -> tuple[bool, int, int]:
    """Of a dead worker: (whether it was at that chunk, at which item, of how many at once). While
    unpacking, it may owe its death to any item."""
    if words[LOADING] == chunk:
        return True, 0, items
    return bool(words[CHUNK] == chunk and words[STARTED]), words[OFFSET], words[LENGTH]


def preparing(words: Any) -> str:
    """What a worker was at before any item, in words."""
    if not words[READY]:
        return "while they start"
    return "while they load the function" if words[LOADING] else "before they run an item"


# What crosses often does so as a plain tuple behind a number: a class in a pickle costs 3 us, four
# times a chunk, which would double what a chunk costs.
_WORK, _ANSWER = range(2)


class Hello(NamedTuple):
    """What a worker is for, once.

    `store` is for its files; `initializer` a pickled (initializer, initargs), or the key of an
    inherited one; `place` where that finds its modules; `idle_seconds` how long it waits for work
    before it ends; `arguments` the caller's `sys.argv`.
    """

    store: Store
    initializer: bytes | int | None
    idle_seconds: float
    place: Place | None
    arguments: list[str]

    def wire(self) -> tuple[Any, ...]:
        return self


class Job(NamedTuple):
    """A call, once to each worker. `task` is (mapper, fn), or the key of an inherited one."""

    number: int
    task: Parcel | int
    retries: int
    flush_seconds: float
    place: Place | None
    facts: Facts | None
    threads: dict[str, str]

    def wire(self) -> tuple[Any, ...]:
        return self


class Work(NamedTuple):
    """A chunk of items, in a parcel."""

    job: int
    number: int
    items: Parcel

    def wire(self) -> tuple[Any, ...]:
        return (_WORK, self.job, self.number, *self.items)


class Over(NamedTuple):
    """The call is over. Sent where its function takes memory."""

    def wire(self) -> tuple[Any, ...]:
        return self


class Answer(NamedTuple):
    """Outcomes of consecutive items: groups of values, or the failure of one; the seconds and the
    processor time they took; and whether they are the chunk's last."""

    job: int
    groups: list[tuple[int, Parcel | Failure]]
    seconds: float
    cpu_seconds: float
    last: bool

    def wire(self) -> tuple[Any, ...]:
        groups = [
            (count, *outcome) if type(outcome) is Parcel else (count, outcome)
            for count, outcome in self.groups
        ]
        return (_ANSWER, self.job, groups, *self[2:])


class Refusal(NamedTuple):
    """Why a chunk was not run: `what` is "facts" (they differ; `facts` are this worker's), or one
    that failed: "function", "initializer" or "items"."""

    job: int
    what: str
    failure: Failure | None = None
    facts: Facts | None = None

    def wire(self) -> tuple[Any, ...]:
        return self


def read(wire: tuple[Any, ...]) -> Hello | Job | Work | Over | Answer | Refusal:
    """A message from what its `wire` made of it."""
    if type(wire) is not tuple:
        return cast("Hello | Job | Over | Refusal", wire)
    if wire[0] == _WORK:
        return Work(wire[1], wire[2], Parcel(*wire[3:]))
    groups = [(group[0], Parcel(*group[1:]) if len(group) > 2 else group[1]) for group in wire[2]]
    return Answer(wire[1], groups, *wire[3:])
