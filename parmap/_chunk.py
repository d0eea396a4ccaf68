"""What goes between the flow and an engine: chunks one way, events the other; and what they say of
that which could not be done, in words and as the error that an item or a caller gets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple, Protocol

from parmap._failure import Failure, rebuild
from parmap._messages import Answer, Refusal
from parmap._state import Facts, differences
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
    def ready(self) -> int: ...  # how many of them do not start or import any more
    @property
    def short_handed(self) -> bool: ...  # these leave a core to the caller
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

    def enough_at_work(self) -> bool:
        """Whether the caller would only be in their way."""
        return False

    def take_back(self) -> list[Chunk]:
        """Chunks that one worker will not run."""
        return []

    def running_items(self) -> int:
        """Items done of chunks not yet answered."""
        return 0


# ------------------------------------------------------------------ why something could not be done


def died(exitcode: int | None) -> Callable[[int], BaseException]:
    from parmap.errors import WorkerDied  # 4 ms, for concurrent.futures imports logging

    return lambda index: WorkerDied.of_item(index, exitcode)


def overdue(limit: float) -> Callable[[int], BaseException]:
    return lambda index: TimeoutError(
        f"item {index} took longer than task_timeout={limit:g} s, and its worker was ended. The "
        "other items are not affected; a larger task_timeout= gives it longer, `retries=` another "
        "try, `return_exceptions=True` puts this error in its place."
    )


def why_refused(refusal: Refusal, facts: Facts) -> tuple[str, BaseException]:
    """The reason in words, and the error for a caller who insists on workers."""
    if refusal.failure is None:  # the facts differ
        told = differences(facts, refusal.facts or {})
        reason = (
            f"workers import modules afresh and would not see state that was set at run time: "
            f"{told}. Pass it as an argument or with initializer=, or use mp_context='fork'"
        )
        return reason, RuntimeError(reason)
    error = rebuild(refusal.failure)
    if refusal.what == "function":
        error.add_note("parmap: raised by a worker that loads the mapped function")
        return f"a worker cannot load the mapped function: {refusal.failure.summary}", error
    error.add_note("parmap: raised by the initializer in a worker")
    return f"the initializer failed: {refusal.failure.summary}", error


def cannot_send(chunk: Chunk, why: BaseException) -> BaseException:
    error = TypeError(
        f"item {chunk.start} cannot be sent to a worker: {type(why).__name__}: {why}. "
        "Pass something that pickles, or parallel=False."
    )
    error.__cause__ = why
    return error


def cannot_load(what: str, index: int, why: str) -> BaseException:
    return TypeError(f"the {what} {index} pickles but does not load on the other side: {why}")
