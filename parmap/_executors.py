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
from contextlib import suppress
from typing import Any

from parmap import _carriers, _remote
from parmap._call import Call
from parmap._chunk import Chunk, Engine, Event, Lost, Part, Refused, Unavailable
from parmap._costs import Costs
from parmap._failure import Failure
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


# Seconds of the last round trips to each executor; infinite for one that is on its way.
_trips: weakref.WeakKeyDictionary[Any, deque[float]] = weakref.WeakKeyDictionary()


def _shortest_trip(executor: Any, carrier: _carriers.Carrier) -> float:
    """Seconds, measured without waiting for it; infinite while none is known.

    The first one does not count: it may have started workers. Each look sends one more, for one
    may have met a busy moment.
    """
    trips = _trips.setdefault(executor, deque(maxlen=8))
    shortest = min(list(trips)[1:], default=math.inf)
    if math.inf not in trips:
        trips.append(math.inf)
        sent = time.perf_counter()

        def arrived(_: Any) -> None:
            trips[-1] = time.perf_counter() - sent

        carrier.ping().add_done_callback(arrived)
    return shortest


def facts_of(executor: Any, facts: Facts) -> Facts:
    """The facts of a call as they are on the caller's executor."""
    carrier, trip, there = _carriers.carrier(executor), math.inf, 0
    if facts.pinned is None:
        trip = _shortest_trip(executor, carrier)
    if trip < math.inf:
        there = carrier.capacity()
    workers = there or facts.most_workers or 2
    return facts._replace(
        transfer_per_item=facts.transfer_per_item if carrier.pickles else 0.0,
        costs=Costs(0.0, 0.0 if there else math.inf, 0.0, CALL_TRIPS * trip, 0.0),
        warm=there,
        cores=1 if carrier.takes_turns else workers,
        missed=0.0,
        most_workers=min(workers, facts.most_workers or workers),
        memory_workers=None,
    )


class ExecutorEngine:
    """Chunks on somebody else's workers, for one call. To the flow all of them are one "worker":
    who runs what is shared out behind it."""

    retired = 0
    booting = False  # the caller does not compute beside an executor that may have its cores
    deaths = 0
    bytes_moved = 0
    # A chunk is sent at once, not taken back, and nobody tells how far it is.
    flush, take_back, running_items = Engine.flush, Engine.take_back, Engine.running_items
    boot_left = Engine.boot_left

    def __init__(self, call: Call):
        """Make the function known. Raises what pickling it raises, and what the executor does."""
        self._process = os.getpid()
        self._carrier = _carriers.carrier(call.settings.executor)
        self._most = call.settings.max_workers or math.inf
        self.method = self._carrier.name
        # Futures that are done. All that a callback holds, for an executor may keep it: neither
        # the call nor the items.
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # By its future each chunk on its way, and when it was sent if a worker was idle.
        self._sent: dict[Any, tuple[Chunk, float | None]] = {}
        self._events: list[Event] = []
        self._overhead = math.inf
        # Chunks that were on their way to a worker that died. Whether they were at fault is tried:
        # the first of them is sent again with nothing beside it.
        self._suspects: deque[Chunk] = deque()
        self._look()
        self._carrier.start(call)

    @property
    def workers(self) -> int:
        return max(1, self._capacity)

    @property
    def chunk_cost(self) -> float:
        """Seconds, as measured: the least that a chunk took beyond its work."""
        return FIRST_OVERHEAD if math.isinf(self._overhead) else min(self._overhead, MOST_OVERHEAD)

    def _look(self) -> None:
        """How many chunks can run at once, now. A cluster that has no worker may get one when
        there is work; 0 is for an executor that is lost."""
        self._capacity = max(1, int(min(self._most, self._carrier.capacity())))
        self._looked = time.monotonic()

    # ------------------------------------------------------------------ what _flow asks for

    def hungry(self, low: int) -> int | None:
        return 0 if len(self._sent) < low * self._capacity and not self._suspects else None

    def full(self, worker: Any) -> bool:
        """Whether nothing may be sent: beside a suspect, or to an executor that is lost."""
        return bool(self._suspects) or not self._capacity

    def ours(self) -> bool:
        return os.getpid() == self._process

    def send(self, chunk: Chunk, worker: int, again: bool = False) -> None:
        """Send a chunk. Raises what pickling the items raises."""
        data = self._carrier.pack(chunk.items)
        if isinstance(data, bytes):
            self.bytes_moved += len(data)
            chunk.nbytes = chunk.bulk = len(data)
        idle = len(self._sent) < self._capacity and not again
        try:
            future = self._carrier.submit(data, again)
        except UNTRUSTED as error:
            self._give_up("the executor takes no more work: ", error, chunk)
            return
        self._sent[future] = chunk, time.perf_counter() if idle else None
        future.add_done_callback(self._done.put)

    def wait(self, seconds: float | None) -> list[Event]:
        """Wait until something happens, at most `seconds` (None: no limit of the caller's)."""
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while not self._events and (self._suspects or self._sent):
            if not self._sent:
                self.send(self._suspects[0], 0)
                continue
            left = max(0.0, deadline - time.monotonic())
            self._hear(min(LOOK_SECONDS, left))
            if not left:
                break
        events, self._events = self._events, []
        return events

    def close(self, now: bool = False) -> None:
        """The call is over. Chunks that no worker has taken are withdrawn; others end by
        themselves."""
        self._carrier.over.set()
        for future in self._sent:
            future.cancel()
        self._sent.clear()
        del self._carrier  # and with it what lies on a cluster

    # ------------------------------------------------------------------ what comes back

    def _hear(self, seconds: float) -> None:
        """Take all that is done; where nothing is for a while, see that all is well."""
        done: list[Any] = []
        with suppress(queue.Empty):
            done.append(self._done.get(timeout=seconds))
            while True:
                done.append(self._done.get_nowait())
        replies = self._carrier.replies(done) if done else []
        for future, reply in zip(done, replies, strict=True):
            if future in self._sent:  # else the executor was given up meanwhile
                self._take(*self._sent.pop(future), reply)
        if self._sent and time.monotonic() - self._looked > LOOK_SECONDS:
            self._check()

    def _check(self) -> None:
        try:
            self._look()
        except UNTRUSTED as error:
            self._give_up("the executor does not answer: ", error)
        if self._capacity and (trouble := self._carrier.trouble()):
            self._give_up(trouble)

    def _take(self, chunk: Chunk, at: float | None, reply: Any) -> None:
        if reply == _remote.MISSING:
            self.send(chunk, 0, again=True)
            return
        if suspect := chunk in self._suspects:
            self._suspects.remove(chunk)
        match reply:
            case BaseException():
                self._give_up("", reply, chunk)
            case _carriers.LOST:
                self.deaths += 1
                if not suspect:
                    self._suspects.append(chunk)
                at_fault = [chunk] if suspect else []
                self._events.append(Lost(at_fault, True, 0, len(chunk.items), died(None)))
            case str():
                self._events.append(Refused(chunk, Failure(b"", b"", reply, "")))
            case groups, seconds, cpu:
                if at is not None:
                    self._overhead = min(self._overhead, time.perf_counter() - at - seconds)
                outcomes: list[Any] = [(count, _outcome(what)) for count, what in groups]
                groups.clear()  # frames of a thread may hold it, and an exception in it those
                self._events.append(Part(chunk, Answer(0, 0, outcomes, seconds, cpu, True)))

    def _give_up(self, why: str, error: BaseException | None = None, *more: Chunk) -> None:
        """The executor is of no more use. Which items were at fault, if any, it does not tell."""
        if error is not None:
            why += f"{type(error).__name__}: {error}"
        sent = (chunk for chunk, _ in self._sent.values())
        chunks = sorted({*more, *self._suspects, *sent}, key=lambda chunk: chunk.start)
        self._suspects.clear()
        self._sent.clear()
        self._capacity = 0
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
    return Failure(*told) if isinstance(told, tuple) else told
