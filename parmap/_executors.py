"""Station 4 for who passes `executor=`: the same door as `_engine`, and a foreign engine behind it.

What parmap brings to an executor: chunks sized by its own measured overhead, the function sent
once, a bounded number of chunks on their way, and each item's outcome for itself. How a chunk gets
there is the business of `_carriers`.
"""

from __future__ import annotations

import math
import os
import queue
import time
import weakref
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

from parmap import _carriers, _remote
from parmap._call import Call
from parmap._chunk import Chunk, Event, Lost, Part, Refused, Unavailable
from parmap._costs import Costs
from parmap._messages import Answer
from parmap._outcome import UNTRUSTED
from parmap._plan import Facts
from parmap._reasons import died
from parmap._transport import Parcel
from parmap.errors import WorkerDied

# Seconds a chunk is taken to cost before one was measured, and within which that is believed: a
# busy machine must not make chunks of minutes.
FIRST_OVERHEAD = 1e-3
MOST_OVERHEAD = 20e-3

# Seconds between two looks at how many workers there are now, and at whether the executor still
# lives. Smaller asks a scheduler more often (a few ms each); larger notices later.
LOOK_SECONDS = 1.0


# Round trips that a call costs on top: the function's way there, the first chunk's and the last
# one's. Smaller would try a cluster for work that is over before; larger leaves work here that it
# would have shortened.
CALL_TRIPS = 3


class Trips:
    """What a round trip to an executor takes, measured without waiting for it."""

    def __init__(self) -> None:
        self._made = 0
        self._sent = self._back = -1.0  # when the last one left and came back; 0: not yet
        self.seconds = math.inf  # of the shortest one; infinite while none is known
        self.workers = self.cores = 0

    def look(self, carrier: _carriers.Carrier) -> None:
        """Take what came back, and send the next. The first one does not count: it may have
        started workers. Each look sends one, for one may have met a busy moment."""
        if self._back > 0:
            self._made += 1
            if self._made > 1:
                self.seconds = min(self.seconds, self._back - self._sent)
                self.workers, self.cores = sum(carrier.capacity()), carrier.cores
        if self._back:
            self._back, self._sent = 0.0, time.perf_counter()
            carrier.ping().add_done_callback(self._arrived)

    def _arrived(self, future: Any) -> None:
        self._back = time.perf_counter()


_trips: weakref.WeakKeyDictionary[Any, Trips] = weakref.WeakKeyDictionary()


def facts_of(executor: Any, facts: Facts) -> Facts:
    """The facts of a call as they are on the caller's executor."""
    known = _trips.setdefault(executor, Trips())
    if facts.pinned is None:
        known.look(_carriers.carrier(executor))
    trip, workers = known.seconds, known.workers or facts.most_workers or 2
    transfer = 0.0 if _carriers.shares_memory(executor) else facts.transfer_per_item
    return facts._replace(
        transfer_per_item=transfer,
        costs=Costs(0.0, 0.0 if known.workers else math.inf, 0.0, CALL_TRIPS * trip, 0.0),
        warm=known.workers,
        cores=known.cores or workers,
        missed=0.0,
        most_workers=min(workers, facts.most_workers or workers),
        memory_workers=None,
    )


@dataclass
class _Sent:
    """A chunk on its way: its future, and when it was sent, if its slot had room at once."""

    chunk: Chunk
    future: Any = None
    at: float | None = None


def _put(
    replies: queue.SimpleQueue[tuple[int, int, Any]], slot: int, number: int, done: Any
) -> None:
    """What a future calls, in whatever thread. It must hold neither the call nor the items: an
    executor may keep it."""
    replies.put((slot, number, done))


class ExecutorEngine:
    """Chunks on somebody else's workers, for one call. A "worker" of the flow is a slot here: all
    of an executor that shares out chunks itself, one actor of a Ray pool."""

    retired = 0
    booting = False  # the caller does not compute beside an executor that may have its cores
    deaths = 0
    bytes_moved = 0

    def __init__(self, call: Call):
        """Make the function known. Raises what pickling it raises, and what the executor does."""
        s = call.settings
        self._process = os.getpid()
        self._carrier = _carriers.carrier(s.executor)
        self._most = s.max_workers
        self.method = self._carrier.name
        self._replies: queue.SimpleQueue[tuple[int, int, Any]] = queue.SimpleQueue()
        self._events: list[Event] = []
        self._overhead = math.inf
        # Chunks that were on their way to a worker that died. Whether they were at fault is tried:
        # each is sent again with nothing beside it.
        self._suspects: deque[Chunk] = deque()
        self._suspected: set[int] = set()
        self._slots: list[dict[int, _Sent]] = []  # by the chunk's number
        self._look()
        self._carrier.start(call)

    @property
    def workers(self) -> int:
        return max(1, sum(self._capacity))  # a cluster may have none just now

    @property
    def chunk_cost(self) -> float:
        """Seconds, as measured: the least that a chunk took beyond its work."""
        return FIRST_OVERHEAD if math.isinf(self._overhead) else min(self._overhead, MOST_OVERHEAD)

    def _look(self) -> None:
        """How many chunks can run at once, now."""
        capacity = self._carrier.capacity()
        if self._most is not None:
            capacity = capacity[: self._most] if len(capacity) > 1 else [min(self._most, *capacity)]
        self._capacity = capacity
        self._slots += [{} for _ in range(len(capacity) - len(self._slots))]
        self._looked = time.monotonic()

    # ------------------------------------------------------------------ what _flow asks for

    def hungry(self, low: int) -> int | None:
        """The slot with the fewest chunks for each that it can run, below `low`."""
        least, found = float(low), None
        if self.full(0):
            return None
        for slot, most in enumerate(self._capacity):
            load = len(self._slots[slot]) / max(most, 1)
            if load < least:
                least, found = load, slot
        return found

    def ours(self) -> bool:
        return os.getpid() == self._process

    def boot_left(self) -> float:
        return 0.0

    def full(self, slot: int) -> bool:
        """Whether a suspect is on its way, or is to be sent next: nothing may be beside it."""
        return bool(self._suspects) or any(not self._suspected.isdisjoint(at) for at in self._slots)

    def flush(self, slot: int) -> None:
        """A chunk is sent at once."""

    def send(self, chunk: Chunk, slot: int) -> None:
        """Send a chunk. Raises what pickling the items raises."""
        if chunk.number in self._suspected and any(self._slots):
            self._suspects.append(chunk)
            return
        data = self._carrier.pack(chunk.items)
        if isinstance(data, bytes):
            self.bytes_moved += len(data)
        chunk.origin = chunk.start
        self._submit(chunk, slot, data)

    def _submit(self, chunk: Chunk, slot: int, data: Any, again: bool = False) -> None:
        idle = len(self._slots[slot]) < self._capacity[slot] and not again
        sent = self._slots[slot][chunk.number] = _Sent(chunk)
        try:
            future = self._carrier.submit(slot, data, again)
        except UNTRUSTED as error:
            self._give_up(
                f"the executor takes no more work: {type(error).__name__}: {error}", error
            )
            return
        sent.future, sent.at = future, time.perf_counter() if idle else None
        future.add_done_callback(partial(_put, self._replies, slot, chunk.number))

    def wait(self, seconds: float | None) -> list[Event]:
        """Wait until something happens, at most `seconds` (None: no limit of the caller's)."""
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while not self._events and (self._suspects or any(self._slots)):
            if self._suspects and not any(self._slots):
                self.send(self._suspects.popleft(), 0)
            self._hear(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
            if time.monotonic() >= deadline:
                break
        events, self._events = self._events, []
        return events

    def take_back(self) -> list[Chunk]:
        return []

    def running_items(self) -> int:
        return 0  # nobody tells before a chunk is done

    def close(self, now: bool = False) -> None:
        """The call is over. Chunks that no worker has taken are withdrawn; others end by
        themselves."""
        self._carrier.end()
        for at in self._slots:
            for sent in at.values():
                sent.future.cancel()
            at.clear()

    # ------------------------------------------------------------------ what comes back

    def _hear(self, seconds: float) -> None:
        """Take all replies there are; where none comes for a while, see that all is well."""
        came: list[tuple[int, int, Any]] = []
        try:
            came.append(self._replies.get(timeout=seconds))
            while True:
                came.append(self._replies.get_nowait())
        except queue.Empty:
            pass
        replies = self._carrier.replies([future for _, _, future in came]) if came else []
        for (slot, number, _), reply in zip(came, replies, strict=True):
            if number in self._slots[slot]:  # else the executor was given up meanwhile
                self._take(slot, self._slots[slot][number], reply)
        if time.monotonic() - self._looked > LOOK_SECONDS and any(self._slots):
            self._check()

    def _check(self) -> None:
        trouble = self._carrier.trouble()
        if trouble:
            self._give_up(trouble, None)
            return
        try:
            self._look()
        except UNTRUSTED as error:
            self._give_up(f"the executor does not answer: {type(error).__name__}: {error}", error)

    def _take(self, slot: int, sent: _Sent, reply: Any) -> None:
        chunk = sent.chunk
        if isinstance(reply, BaseException):
            self._failed(slot, sent, reply)
            return
        groups, seconds, cpu = reply
        self._suspected.discard(chunk.number)
        del self._slots[slot][chunk.number]
        if groups == _remote.MISSING:
            self._submit(chunk, slot, self._carrier.pack(chunk.items), again=True)
        elif groups == _remote.UNREADABLE:
            self._events.append(Refused(chunk, _remote.failure_of(seconds)))
        else:
            if sent.at is not None:
                self._overhead = min(self._overhead, time.perf_counter() - sent.at - seconds)
            outcomes: list[Any] = [(count, _outcome(what)) for count, what in groups]
            groups.clear()  # frames of a thread may hold it, and an exception in it those frames
            self._events.append(Part(chunk, Answer(0, 0, outcomes, seconds, cpu, True)))

    # ------------------------------------------------------------------ what goes wrong

    def _failed(self, slot: int, sent: _Sent, error: BaseException) -> None:
        chunk, fate = sent.chunk, self._carrier.fate(slot, sent.future, error)
        if fate == _carriers.GONE:
            self._give_up(f"{type(error).__name__}: {error}", error)
            return
        del self._slots[slot][chunk.number]
        lost = fate == _carriers.LOST
        self.deaths += lost
        guilty = lost and chunk.number in self._suspected
        if lost:
            self._suspected.add(chunk.number)
        self._events.append(Lost([chunk], guilty, 0, len(chunk.items), died(None)))

    def _give_up(self, why: str, error: BaseException | None) -> None:
        """The executor is of no more use. Which items were at fault, if any, it does not tell."""
        chunks = [sent.chunk for at in self._slots for sent in at.values()] + [*self._suspects]
        self._suspects.clear()
        chunks.sort(key=lambda chunk: chunk.start)
        for at in self._slots:
            at.clear()
        self._capacity = []
        items = ", ".join(f"{c.start} to {c.start + len(c.items) - 1}" for c in chunks)
        index = chunks[0].start if chunks else None
        lost = WorkerDied(
            f"the executor {self.method} is lost to this call: {why}. On their way, and perhaps "
            f"at fault, were items {items}. Its workers need the same Python, the modules that "
            "the function uses, and cloudpickle; those of a process pool, parmap too.",
            index,
        )
        lost.__cause__ = error
        self._events.append(Unavailable(chunks, str(lost), lost))


def _outcome(told: Any) -> Any:
    """What came of items, as the flow knows it."""
    if isinstance(told, bytes):
        return Parcel(told)
    return _remote.failure_of(told) if isinstance(told, tuple) else told
