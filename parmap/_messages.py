"""What crosses the process wall, as messages; and what the board of a worker that died says.

caller  ->  Hello    what a worker is for, once
        ->  Job      the function, once a call and worker
        ->  Work     a chunk of items
        ->  Over     the call is over: let its function go
worker  ->  Answer   outcomes of items, in one or more parts a chunk
        ->  Refusal  why a chunk was not run
"""

from __future__ import annotations

from typing import Any, NamedTuple

from parmap._failure import Failure
from parmap._files import Store
from parmap._place import Place
from parmap._seat import CHUNK, LENGTH, LOADING, OFFSET, READY, STARTED
from parmap._state import Facts
from parmap._transport import Parcel


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


class Hello(NamedTuple):
    """The first message to a worker.

    `store` is where its files go; `initializer` a pickled (initializer, initargs), or the key of
    inherited ones, or None, and `place` where that finds its modules; `idle_seconds` how long the
    worker waits for work before it ends itself; `arguments` the caller's `sys.argv`.
    """

    store: Store
    initializer: bytes | int | None
    idle_seconds: float
    place: Place | None
    arguments: list[str]

    def wire(self) -> tuple[Any, ...]:
        return (_HELLO, self)


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


_JOB, _WORK, _ANSWER, _REFUSAL, _OVER, _HELLO = range(6)


def read(wire: tuple[Any, ...]) -> Hello | Job | Work | Over | Answer | Refusal:
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
    message: Hello | Job | Refusal = wire[1]
    return message
