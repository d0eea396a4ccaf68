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


class Job(NamedTuple):
    """A call, once to each worker. `task` is (mapper, fn), or the key of an inherited one."""

    number: int
    task: Parcel | int
    retries: int
    flush_seconds: float
    place: Place | None
    facts: Facts | None
    threads: dict[str, str]


class Work(NamedTuple):
    """A chunk of items, in a parcel."""

    job: int
    number: int
    items: Parcel


class Over(NamedTuple):
    """The call is over. Sent where its function takes memory."""


class Answer(NamedTuple):
    """Outcomes of consecutive items: groups of values, or the failure of one; the seconds and the
    processor time they took; and whether they are the chunk's last."""

    job: int
    groups: list[tuple[int, Parcel | Failure]]
    seconds: float
    cpu_seconds: float
    last: bool


class Refusal(NamedTuple):
    """Why a chunk was not run: `what` is "facts" (they differ; `facts` are this worker's), or one
    that failed: "function", "initializer" or "items"."""

    job: int
    what: str
    failure: Failure | None = None
    facts: Facts | None = None


# What crosses often does so as a plain tuple behind a number: a class in a pickle costs 3 us, four
# times a chunk, which would double what a chunk costs.
_WORK, _ANSWER = range(2)

Message = Hello | Job | Work | Over | Answer | Refusal


def wire(message: Message) -> tuple[Any, ...]:
    if isinstance(message, Work):
        return (_WORK, message.job, message.number, *message.items)
    if isinstance(message, Answer):
        groups = [(n, *what) if type(what) is Parcel else (n, what) for n, what in message.groups]
        return (_ANSWER, message.job, groups, *message[2:])
    return message


def read(wire: tuple[Any, ...]) -> Message:
    if type(wire) is not tuple:
        return cast("Message", wire)
    if wire[0] == _WORK:
        return Work(wire[1], wire[2], Parcel(*wire[3:]))
    groups = [(group[0], Parcel(*group[1:]) if len(group) > 2 else group[1]) for group in wire[2]]
    return Answer(wire[1], groups, *wire[3:])
