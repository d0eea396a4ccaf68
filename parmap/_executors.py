"""Station 4 for who passes `executor=`: the same door as `_engine`, with `_carriers` behind it."""

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
from parmap._chunk import Chunk, Engine, Event, Lost, Part, Refused, Unavailable, died
from parmap._failure import Failure
from parmap._machine import Costs
from parmap._messages import Answer
from parmap._outcome import UNTRUSTED
from parmap._plan import Facts
from parmap._transport import Parcel
from parmap.errors import WorkerDied

# Seconds that a chunk costs where none was measured, and at the most: a busy moment must not make
# chunks of minutes.
FIRST_OVERHEAD = 1e-3
MOST_OVERHEAD = 20e-3

# Seconds between two looks at the executor. Smaller asks a scheduler more often, a few ms each;
# larger notices later.
LOOK_SECONDS = 1.0

# Round trips of a call: the function's, the first chunk's, the last one's. Smaller tries a cluster
# for work that is over before; larger leaves work here that it would shorten.
CALL_TRIPS = 3

# Seconds of the last round trips; infinite for one that is on its way.
_trips: weakref.WeakKeyDictionary[Any, deque[float]] = weakref.WeakKeyDictionary()


def facts_of(executor: Any, facts: Facts) -> Facts:
    """As they are on the caller's executor."""
    carrier, trip = _carriers.carrier(executor), math.inf
    if facts.pinned is None:
        trip = _shortest_trip(executor, carrier)
    there = carrier.capacity() if trip < math.inf else 0
    workers = there or facts.most_workers or 2
    return facts._replace(
        transfer_per_item=facts.transfer_per_item if carrier.pickles else 0.0,
        costs=Costs(0.0, 0.0 if there else math.inf, 0.0, CALL_TRIPS * trip, chunk=0.0),
        warm=there,
        rested=False,
        cores=1 if carrier.takes_turns else workers,
        missed=0.0,
        most_workers=min(workers, facts.most_workers or workers),
        memory_workers=None,
    )


def _shortest_trip(executor: Any, carrier: _carriers.Carrier) -> float:
    """Infinite while none is known, for nobody waits. The first may have started workers, and does
    not count."""
    trips = _trips.setdefault(executor, deque(maxlen=8))
    shortest = min(list(trips)[1:], default=math.inf)
    if math.inf not in trips:
        trips.append(math.inf)
        sent = time.perf_counter()

        def arrived(_: Any) -> None:
            trips[-1] = time.perf_counter() - sent

        carrier.run(abs, 0).add_done_callback(arrived)
    return shortest


class ExecutorEngine:
    """For one call. To the flow all workers are one."""

    # The caller does not compute beside an executor that may have its cores.
    booting = short_handed = False
    ready = retired = deaths = bytes_moved = 0
    chunk_cost = FIRST_OVERHEAD
    # A chunk is sent at once, not taken back, and nobody tells how far it is.
    flush, take_back, running_items = Engine.flush, Engine.take_back, Engine.running_items
    enough_at_work = Engine.enough_at_work

    def __init__(self, call: Call):
        """Raises what pickling the function raises, and what the executor does."""
        self._process = os.getpid()
        self._carrier = _carriers.carrier(call.settings.executor)
        self._most = call.settings.max_workers or math.inf
        self.method = self._carrier.name
        # Futures that are done. A callback, which may outlive the call, holds no more than this.
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # Chunks on their way, and when they were sent if a worker was idle.
        self._sent: dict[Any, tuple[Chunk, float | None]] = {}
        self._events: list[Event] = []
        self._overhead = math.inf
        # Chunks whose worker died. Each is sent again with nothing beside it: does it kill?
        self._suspects: list[Chunk] = []
        self._lost = False
        self._look()
        self._carrier.start(call)

    def _look(self) -> None:
        """A cluster without workers gets some when there is work."""
        self.workers = max(1, int(min(self._most, self._carrier.capacity())))
        self._looked = time.monotonic()

    # ------------------------------------------------------------------ what _flow asks for

    def hungry(self, low: int) -> int | None:
        return None if self.full(0) or len(self._sent) >= low * self.workers else 0

    def full(self, worker: Any) -> bool:
        return self._lost or bool(self._suspects)

    def ours(self) -> bool:
        return os.getpid() == self._process

    def send(self, chunk: Chunk, worker: int, again: bool = False) -> None:
        data = self._carrier.pack(chunk.items)
        if isinstance(data, bytes):
            self.bytes_moved += len(data)
            chunk.nbytes = chunk.bulk = len(data)
        idle = len(self._sent) < self.workers and not again
        try:
            future = self._carrier.submit(data, again)
        except UNTRUSTED as error:
            self._give_up("the executor takes no more work: ", error, chunk)
            return
        self._sent[future] = chunk, time.perf_counter() if idle else None
        future.add_done_callback(self._done.put)

    def wait(self, seconds: float | None) -> list[Event]:
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while self._sent and not self._events:
            left = max(0.0, deadline - time.monotonic())
            self._hear(min(LOOK_SECONDS, left))
            if not left:
                break
        events, self._events = self._events, []
        return events

    def close(self, now: bool = False) -> None:
        """Withdraw what no worker has taken."""
        self._carrier.over.set()
        for future in self._sent:
            future.cancel()
        self._sent.clear()
        del self._carrier  # and with it what lies on a cluster

    # ------------------------------------------------------------------ what comes back

    def _hear(self, seconds: float) -> None:
        done: list[Any] = []
        with suppress(queue.Empty):
            done.append(self._done.get(timeout=seconds))
            while True:
                done.append(self._done.get_nowait())
        replies = self._carrier.replies(done) if done else []
        for future, reply in zip(done, replies, strict=True):
            if future in self._sent:  # else the executor was given up meanwhile
                self._take(*self._sent.pop(future), reply)
        if self._suspects and not self._sent:
            self.send(self._suspects[0], 0)
        if self._sent and time.monotonic() - self._looked > LOOK_SECONDS:
            self._check()

    def _check(self) -> None:
        try:
            self._look()
            if trouble := self._carrier.trouble():
                self._give_up(trouble)
        except UNTRUSTED as error:
            self._give_up("the executor does not answer: ", error)

    def _take(self, chunk: Chunk, at: float | None, reply: Any) -> None:
        if reply == _remote.MISSING:
            self.send(chunk, 0, again=True)
            return
        suspect = chunk in self._suspects
        if suspect:
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
                    self.chunk_cost = min(self._overhead, MOST_OVERHEAD)
                outcomes: list[Any] = [(count, _outcome(told)) for count, told in groups]
                groups.clear()  # frames of a thread may hold it, and an exception in it those
                self._events.append(Part(chunk, Answer(0, outcomes, seconds, cpu, True)))

    def _give_up(self, why: str, error: BaseException | None = None, *more: Chunk) -> None:
        """Which items were at fault, if any, the executor does not tell."""
        if error is not None:
            why += f"{type(error).__name__}: {error}"
        sent = (chunk for chunk, _ in self._sent.values())
        chunks = sorted({*more, *self._suspects, *sent}, key=lambda chunk: chunk.start)
        self._suspects.clear()
        self._sent.clear()
        self._lost = True
        items = ", ".join(f"{c.start} to {c.start + len(c.items) - 1}" for c in chunks)
        lost = WorkerDied(
            f"the executor {self.method} is lost to this call: {why}. On their way, and perhaps "
            f"at fault, were items {items}. Its workers need the same Python, the modules that "
            "the function uses, and cloudpickle; those of a process pool, parmap too.",
            chunks[0].start,
        )
        lost.__cause__ = error
        self._events.append(Unavailable(str(lost), lost))


def _outcome(told: Any) -> Any:
    if isinstance(told, bytes):
        return Parcel(told)
    return Failure(*told) if isinstance(told, tuple) else told
