"""Station 4, the door to it: the engine that runs chunks on this machine's warm workers."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable

from parmap import _machine, _messages, _pool, _seat
from parmap._briefing import Briefing
from parmap._call import Call
from parmap._chunk import Chunk, Event, Lost, Part, Refused, Unavailable, died, overdue, why_refused
from parmap._files import unlink
from parmap._handle import Watch, Worker
from parmap._processes import refusal
from parmap._quiet import interrupts_deferred
from parmap._transport import Parcel, pack

# Workers that may die before they run anything, one after the other, beside those the call began
# with. Fewer would give up when memory is short for a moment; more would repeat a traceback.
BOOT_TRIES = 3

# Bytes in the pipe to a worker, above which it gets no further chunk. Smaller lets workers wait;
# larger, with a job and the largest message on top, may exceed the 64 KiB that a pipe holds.
MOST_INLINE_AHEAD = 24_000

# Seconds between two looks for items that have begun, in a call with a time limit; and for workers
# that were not ready when the call began. Smaller costs looks (10 us); larger notices later.
LOOK_SECONDS = 0.05

# And for which one may be due and not begin. Smaller takes a slow worker for one that was stopped.
STUCK_SECONDS = 1.0


class LocalEngine:
    """Leased workers of this process, for one call."""

    chunk_cost = 0.0

    def __init__(self, call: Call, workers: int, first: int, cores: int, method: str):
        """With `first` of the workers; the others follow when these run items. Raises what pickling
        `fn`, or starting a process, raises."""
        self._process = os.getpid()
        self._timeout = call.settings.task_timeout
        self._initializes = call.settings.initializer is not None
        self.method = method
        self._briefing = Briefing(call, method, max(1, cores // workers))
        self._job, self._crew = self._briefing.number, self._briefing.crew
        self._store = self._crew.store.of_call(self._job)
        self._queues: dict[Worker, deque[Chunk]] = {}
        self._next_since: dict[Worker, int] = {}  # when its first chunk became the first
        self._watch = Watch()
        self._events: list[Event] = []
        self._idle_deaths = 0  # in a row, without an item at fault or an answer between them
        self._wanted, self._too_many = workers, BOOT_TRIES + workers - 1
        self._follow, self._enough = first < workers, min(workers, cores)
        self._heard: set[Worker] = set()  # who has answered
        self._lost: list[int | None] = []
        self.deaths = self.bytes_moved = 0
        try:
            self._hire(first)
        except BaseException as error:
            with interrupts_deferred() as came:
                self._crew.give_back(self._queues)
                self._briefing.end()
                if isinstance(error, KeyboardInterrupt):
                    came.clear()  # a second one asks for what is on its way
            raise
        self._began = time.monotonic()
        self._booting = not self._first_ready()

    def _hire(self, count: int) -> None:
        with interrupts_deferred():  # else nobody would know of them
            self._take_in(self._crew.lease(count, self._wanted))

    def _take_in(self, workers: list[Worker]) -> None:
        for worker in workers:
            self._queues[worker] = deque()
            self._watch.add(worker)
            if self._follow or not worker.job:  # it may import: the sooner it knows, the better
                self._briefing.tell(worker)
                worker.flush()

    def _until_late_ones(self, seconds: float | None) -> float | None:
        """Take in who was busy for a call that was over when this one began, and is ready now; and
        those that were to follow."""
        if (missing := self._wanted - self.workers) > 0:
            if self._follow:
                if self._at_work() < self.workers:
                    return seconds
                self._follow = False
                self._hire_more(missing)
                return 0.0
            coming = self._crew.coming()
            self._take_in(ready := self._crew.ready(missing))
            if ready:
                return 0.0  # there may be work for them
            if coming:
                return min(LOOK_SECONDS, LOOK_SECONDS if seconds is None else seconds)
        return seconds

    # ------------------------------------------------------------------ see `_chunk.Engine`

    @property
    def workers(self) -> int:
        return len(self._queues)

    def ours(self) -> bool:
        return os.getpid() == self._process

    @property
    def booting(self) -> bool:
        self._see_ready()
        return self._booting

    def _see_ready(self) -> None:
        if self._booting and (ready := self._first_ready()):
            self._booting = False
            if not self._initializes:
                _machine.measured(boot=ready / 1e9 - self._began)

    def _first_ready(self) -> int:
        """When a worker was ready; that may be seen later, by a caller who goes on with items."""
        times = (worker.board[_seat.READY] for worker in self._queues)
        return min(filter(None, times), default=0)

    @property
    def ready(self) -> int:
        return sum(not worker.preparing for worker in self._queues)

    @property
    def short_handed(self) -> bool:
        return self.ready < self._enough

    def enough_at_work(self) -> bool:
        return self._at_work() >= self._enough

    def _at_work(self) -> int:
        """How many are at an item of this call, or have been."""
        begun = (worker for worker in self._queues if worker in self._heard or worker.running)
        return sum(not worker.preparing for worker in begun)

    def hungry(self, low: int) -> Worker | None:
        least = None
        for worker, queue in self._queues.items():
            if len(queue) < low and not self._is_retired(worker) and not self.full(worker):
                low, least = len(queue), worker  # the next has to have even fewer
        return least

    def full(self, worker: Worker) -> bool:
        """Whether a write may have to wait for the worker to read, while that waits for us."""
        queue = self._queues[worker]
        return bool(queue) and (
            not worker.line.roomy or sum(chunk.inline_bytes for chunk in queue) > MOST_INLINE_AHEAD
        )

    def send(self, chunk: Chunk, worker: Worker) -> None:
        parcel = pack(chunk.items, self._store)
        if parcel.tray:
            self._store.open_tray()
        chunk.inline_bytes, chunk.path = len(parcel.payload), parcel.path
        chunk.nbytes, chunk.bulk = parcel.nbytes, parcel.bulk(len(chunk.items))
        self._briefing.tell(worker)
        if not self._queues[worker]:
            self._next_since[worker] = time.monotonic_ns()
        self._queues[worker].append(chunk)
        worker.inflight += 1
        self.bytes_moved += parcel.nbytes
        worker.post(_messages.Work(self._job, chunk.number, parcel))

    def flush(self, worker: Worker) -> None:
        worker.flush()

    def take_back(self) -> list[Chunk]:
        """See `_worker._Desk._claim` for why no item can be run twice."""
        for worker, queue in reversed(self._queues.items()):
            # One that runs its only chunk has nothing to give, and would be stopped in it.
            if len(queue) > worker.running and not self._is_retired(worker):
                worker.board[_seat.CANCELLED] = self._job
                with threading.Lock():
                    claimed = worker.board[_seat.CHUNK]
                numbers = [chunk.number for chunk in queue]
                # Those before it are done, though no answer may be in yet.
                begun = numbers.index(claimed) + 1 if claimed in numbers else 0
                return list(queue)[begun:]
        return []

    @property
    def retired(self) -> int:
        return sum(map(self._is_retired, self._queues))

    def _is_retired(self, worker: Worker) -> bool:
        cancelled: int = worker.board[_seat.CANCELLED]
        return cancelled == self._job

    def wait(self, seconds: float | None) -> list[Event]:
        if not self._events and self._queues:
            if self._timeout is not None:
                seconds = self._until_overdue(self._timeout, seconds)
            spoke = self._watch.wait(self._until_late_ones(seconds))
            _pool.stay_if_ending()
            for worker, readable in spoke.items():
                self._hear(worker, readable)
            if self._timeout is not None:
                self._end_overdue(self._timeout)
        events, self._events = self._events, []
        return events

    def running_items(self) -> int:
        total = 0
        for worker, queue in self._queues.items():
            words = worker.board
            if queue and words[_seat.CHUNK] == queue[0].number:
                total += max(0, words[_seat.OFFSET] - queue[0].got)
        return total

    def close(self, now: bool = False) -> None:
        """Items that have not begun do not begin."""
        # Whether workers would keep memory until the next call.
        large = self._store.tray_open or self._briefing.takes_memory
        for worker, queue in list(self._queues.items()):
            worker.board[_seat.CANCELLED] = self._job
            if now and queue:
                self._remove(worker, kill=True)
            elif large and not self.full(worker):
                worker.post(_messages.Over())
                worker.flush()
        self._crew.give_back(self._queues)
        self._queues.clear()
        self._store.close_tray()
        for pid in self._lost:
            self._store.sweep(f"{pid}-")
        self._briefing.end()

    # ------------------------------------------------------------------ what workers say, or not

    def _hear(self, worker: Worker, readable: bool) -> None:
        while worker in self._queues:
            message = worker.receive() if readable else None
            if message is None:
                self._bury(worker, None)
            elif isinstance(message, _messages.Answer):
                self._take_answer(worker, message)
            else:
                self._take_refusal(worker, message)
            if not worker.line.holds_more():
                return

    def _take_answer(self, worker: Worker, answer: _messages.Answer) -> None:
        self._idle_deaths = 0
        self._heard.add(worker)
        self._see_ready()
        chunk = self._done_with_first(worker) if answer.last else self._queues[worker][0]
        if any(isinstance(outcome, Parcel) and outcome.tray for _, outcome in answer.groups):
            self._store.open_tray()
        self._events.append(Part(chunk, answer))

    def _done_with_first(self, worker: Worker) -> Chunk:
        worker.inflight -= 1
        self._next_since[worker] = time.monotonic_ns()
        return self._queues[worker].popleft()

    def _take_refusal(self, worker: Worker, refusal: _messages.Refusal) -> None:
        if refusal.what == "items":
            assert refusal.failure is not None
            self._events.append(Refused(self._done_with_first(worker), refusal.failure))
        elif refusal.what == "facts" and not worker.fresh:
            # It knows an older state of the caller's modules: a new one imports afresh.
            self._events.append(Lost(list(self._queues[worker]), False, 0, 0, died(None)))
            self._remove(worker, kill=True)
            self._crew.dismiss_idle()
            self._hire_more(1)
        else:
            for each, queue in list(self._queues.items()):
                self._remove(each, kill=bool(queue) or each.preparing)
            reason, error = why_refused(refusal, self._briefing.facts or {})
            self._events.append(Unavailable(reason, error))

    def _bury(self, worker: Worker, overdue: Callable[[int], BaseException] | None) -> None:
        """Tell what was at a dead worker, and hire another if there is work left."""
        chunks = list(self._queues[worker])
        board, running, offset, length = worker.board, False, 0, 0
        if chunks:
            first = chunks[0]
            running, offset, length = _messages.at_work(board, first.number, len(first.items))
        self._remove(worker, kill=False)
        if chunks and not running:
            self._idle_deaths += 1
            if self._idle_deaths >= self._too_many:
                from parmap.errors import WorkerDied

                doing = _messages.preparing(board)
                error = WorkerDied.before_work(worker.code, doing, refusal())
                self._events.append(Unavailable(str(error), error))
                return
        self.deaths += running and overdue is None
        self._events.append(Lost(chunks, running, offset, length, overdue or died(worker.code)))
        if chunks:
            self._hire_more(1)

    def _hire_more(self, count: int) -> None:
        if self.retired < self.workers and refusal():
            return  # the others have to do
        try:
            self._hire(count)
        except (OSError, RuntimeError) as error:
            if self.retired == self.workers:
                self._events.append(Unavailable(f"no worker could be started: {error}", error))

    def _remove(self, worker: Worker, kill: bool) -> None:
        self._watch.remove(worker)
        self._lost.append(worker.pid)  # its files may yet be read
        for chunk in self._queues.pop(worker):
            if chunk.path is not None:
                unlink(chunk.path)
        self._crew.lose(worker, kill=kill)

    def _until_overdue(self, limit: float, seconds: float | None) -> float:
        now, began = time.monotonic_ns(), [w.board[_seat.STARTED] for w in self._queues]
        left = limit - (now - min(filter(None, began), default=now)) * 1e-9
        return max(0.0, min(left, LOOK_SECONDS, LOOK_SECONDS if seconds is None else seconds))

    def _end_overdue(self, limit: float) -> None:
        """End workers that are at an item for too long, or begin none: somebody stopped them."""
        now = time.monotonic_ns()
        for worker, queue in list(self._queues.items()):
            if not queue:
                continue
            board = worker.board
            began, busy = board[_seat.STARTED], board[_seat.LOADING] or not board[_seat.READY]
            if began:
                late = now - began > limit * 1e9
            else:
                since = self._next_since[worker] + max(limit, STUCK_SECONDS) * 1e9
                late = not busy and board[_seat.CHUNK] != queue[0].number and since < now
            if late:
                worker.kill()
                while worker.has_message():  # finished items of the same chunk
                    message = worker.receive()
                    if not isinstance(message, _messages.Answer):
                        break
                    self._take_answer(worker, message)
                self._bury(worker, overdue(limit) if began else None)
