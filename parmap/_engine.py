"""Station 4, the door to it: the engine that runs chunks on this machine's warm workers.

`_flow` knows an engine by what `_chunk.Engine` lists, and does not care which it is.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable

from parmap import _costs, _messages, _pool, _seat, _state
from parmap._briefing import Briefing
from parmap._call import Call
from parmap._chunk import Chunk, Event, Lost, Part, Refused, Unavailable
from parmap._files import unlink
from parmap._handle import Worker, discard
from parmap._processes import refusal
from parmap._reasons import died, nobody_at_fault, overdue, why_refused
from parmap._transport import Parcel, pack
from parmap._watch import Watch

# Workers that may die before they run anything, one after the other, beside those the call began
# with, before it gives up. Fewer would give up when memory is short for a moment, or when all were
# killed at once; more would only repeat the same traceback.
BOOT_TRIES = 3

# Bytes in the pipe to a worker, above which it gets no further chunk. With the largest message and
# the job on top it stays below the 64 KiB of a pipe. Smaller would let workers wait.
MOST_INLINE_AHEAD = 24_000

# Seconds that a worker may have a chunk without beginning it, in a call with a time limit. Smaller
# would take a worker of a busy machine for one that was stopped; larger waits longer for one that
# was.
STUCK_SECONDS = 1.0


class LocalEngine:
    """Leased workers of this process, for one call."""

    chunk_cost = 0.0

    def __init__(
        self, call: Call, workers: int, facts: _state.Facts | None, cores: int, method: str
    ):
        """Lease the workers. Raises what pickling `fn`, or starting a process, raises."""
        self._process = os.getpid()
        self._timeout = call.settings.task_timeout
        self.method = method
        self._briefing = Briefing(call, method, max(1, cores // workers), facts)
        self._job_number, self._crew = self._briefing.number, self._briefing.crew
        self._store = self._crew.store.of_call(self._job_number)
        self._queues: dict[Worker, deque[Chunk]] = {}
        self._next_since: dict[Worker, int] = {}  # when its first chunk became the first
        self._fresh: set[Worker] = set()
        self._retired: set[Worker] = set()
        self._fence = threading.Lock()
        self._watch = Watch()
        self._events: list[Event] = []
        self._idle_deaths = 0  # in a row, without an item at fault or an answer between them
        self._wanted = workers
        self.deaths = 0
        self._lost: list[int | None] = []
        self.bytes_moved = 0
        try:
            self._hire(workers)
        except BaseException:
            self._briefing.end()
            raise
        self._began = time.monotonic()
        self._booting = not any(worker.board[_seat.READY] for worker in self._queues)

    @property
    def workers(self) -> int:
        return len(self._queues)

    def _hire(self, count: int) -> None:
        for worker in self._crew.lease(count):
            if worker.job == 0:
                self._fresh.add(worker)
            self._queues[worker] = deque()
            self._watch.add(worker)

    # ------------------------------------------------------------------ what _flow asks for

    def ours(self) -> bool:
        return os.getpid() == self._process

    @property
    def booting(self) -> bool:
        """Whether no worker has come up yet."""
        if self._booting and any(worker.board[_seat.READY] for worker in self._queues):
            self._came_up()
        return self._booting

    def _came_up(self) -> None:
        if self._booting:
            self._booting = False
            _costs.measured(boot=time.monotonic() - self._began)

    def boot_left(self) -> float:
        """Seconds until a worker will be up, as far as one knows."""
        return self._began + _costs.costs().boot - time.monotonic()

    def hungry(self, low: int) -> Worker | None:
        """A worker with fewer than `low` chunks: the one with the fewest."""
        least = None
        for worker, queue in self._queues.items():
            if len(queue) < low and not self.full(worker) and worker not in self._retired:
                low, least = len(queue), worker
        return least

    def full(self, worker: Worker) -> bool:
        """Whether the pipe may hold all it can, and a write wait for the worker to read: which may
        itself be waiting for us to read."""
        queue = self._queues[worker]
        return bool(queue) and (
            not worker.line.roomy or sum(chunk.inline_bytes for chunk in queue) > MOST_INLINE_AHEAD
        )

    def send(self, chunk: Chunk, worker: Worker) -> None:
        """Send a chunk. Raises what pickling the items raises."""
        parcel = pack(chunk.items, self._store)
        if parcel.tray:
            self._store.open_tray()
        chunk.origin, chunk.inline_bytes = chunk.start, len(parcel.payload)
        chunk.nbytes, chunk.bulk = parcel.nbytes, parcel.bulk(len(chunk.items))
        chunk.path = parcel.path
        self._briefing.tell(worker)
        if not self._queues[worker]:
            self._next_since[worker] = time.monotonic_ns()
        self._queues[worker].append(chunk)
        worker.inflight += 1
        self.bytes_moved += parcel.nbytes
        worker.post(_messages.Work(self._job_number, chunk.number, parcel, chunk.single))

    def flush(self, worker: Worker) -> None:
        worker.flush()

    def take_back(self) -> list[Chunk]:
        """Take back what one worker was sent and has not begun. It gets nothing more of this call.

        See `_worker._Desk._claim` for why no item can be run twice.
        """
        for worker, queue in reversed(self._queues.items()):
            if worker not in self._retired and queue:
                self._retired.add(worker)
                worker.board[_seat.CANCELLED] = self._job_number
                with self._fence:
                    claimed = worker.board[_seat.CHUNK]
                return [chunk for chunk in queue if chunk.number != claimed]
        return []

    @property
    def retired(self) -> int:
        """Workers of which chunks were taken back."""
        return len(self._retired)

    def wait(self, seconds: float | None) -> list[Event]:
        """Wait until something happens, at most `seconds` (None: no limit of the caller's)."""
        if not self._events and self._queues:
            spoke = self._watch.wait(self._patience(seconds))
            _pool.stay_if_ending()
            for worker, readable in spoke.items():
                self._hear(worker, readable)
            if self._timeout is not None:
                self._end_overdue(self._timeout)
        events, self._events = self._events, []
        return events

    def running_items(self) -> int:
        """Items done of the chunks that are running, as the boards tell."""
        total = 0
        for worker, queue in self._queues.items():
            words = worker.board
            if queue and words[_seat.CHUNK] == queue[0].number:
                total += max(0, words[_seat.OFFSET] - queue[0].got)
        return total

    def close(self, now: bool = False) -> None:
        """The call is over. Items that have not begun do not begin."""
        # Whether workers hold memory for this call that they would keep until the next one.
        large = self._store.tray_open or self._briefing.takes_memory
        for worker, queue in list(self._queues.items()):
            worker.board[_seat.CANCELLED] = self._job_number
            if now and queue:
                self._remove(worker, kill=True)
            elif large and not self.full(worker):
                worker.post(_messages.Over())
                worker.flush()
        self._crew.give_back(list(self._queues))
        self._queues.clear()
        self._store.close_tray()
        for pid in self._lost:
            self._store.sweep(f"{pid}-")
        self._briefing.end()

    # ------------------------------------------------------------------ what workers say

    def _hear(self, worker: Worker, readable: bool) -> None:
        """Take its messages; or its death, once all it said before has been read."""
        while worker in self._queues:
            message = worker.receive() if readable else None
            if isinstance(message, _messages.Answer):
                self._take_answer(worker, message)
            elif isinstance(message, _messages.Refusal):
                self._take_refusal(worker, message)
            else:
                self._bury(worker, None)
            if not worker.line.holds_more():
                return

    def _take_answer(self, worker: Worker, answer: _messages.Answer) -> None:
        if answer.job != self._job_number:
            worker.inflight -= answer.last
            discard(answer)
            return
        chunk = self._queues[worker][0]
        self._fresh.discard(worker)
        self._idle_deaths = 0
        self._came_up()
        if answer.last:
            self._done_with_first(worker)
        if any(isinstance(outcome, Parcel) and outcome.tray for _, outcome in answer.groups):
            self._store.open_tray()
        self._events.append(Part(chunk, answer))

    def _done_with_first(self, worker: Worker) -> Chunk:
        worker.inflight -= 1
        self._next_since[worker] = time.monotonic_ns()
        return self._queues[worker].popleft()

    def _take_refusal(self, worker: Worker, refusal: _messages.Refusal) -> None:
        if refusal.job != self._job_number:
            worker.inflight -= 1
            return
        chunk = self._done_with_first(worker)
        if refusal.what == "items":
            assert refusal.failure is not None
            self._events.append(Refused(chunk, refusal.failure))
        elif refusal.what == "facts" and worker not in self._fresh:
            self._replace_stale(worker, chunk)
        else:
            self._give_up(worker, chunk, refusal)

    def _replace_stale(self, worker: Worker, chunk: Chunk) -> None:
        """A warm worker knows another state of the caller's modules: a new one imports afresh."""
        chunks = [chunk, *self._queues[worker]]
        self._remove(worker, kill=True)
        self._crew.dismiss_idle()
        self._events.append(Lost(chunks, False, 0, 0, nobody_at_fault))
        self._hire_instead()

    def _give_up(self, worker: Worker, chunk: Chunk, refusal: _messages.Refusal) -> None:
        chunks = [chunk]
        for each in list(self._queues):
            chunks.extend(self._queues[each])
            self._remove(each, kill=bool(self._queues[each]) or each is worker)
        reason, error = why_refused(refusal, self._briefing.facts or {})
        self._events.append(Unavailable(chunks, reason, error))

    # ------------------------------------------------------------------ workers that are gone

    def _bury(self, worker: Worker, overdue: Callable[[int], BaseException] | None) -> None:
        """A worker is dead: tell what was at it, and hire another if there is work left."""
        chunks = list(self._queues[worker])
        running, offset, length = False, 0, 0
        if chunks:
            first = chunks[0]
            running, offset, length = _messages.at_work(
                worker.board, first.number, len(first.items)
            )
        doing = _messages.preparing(worker.board)
        code = self._remove(worker, kill=False)
        if chunks and not running:
            self._idle_deaths += 1
            if self._idle_deaths >= BOOT_TRIES + self._wanted - 1:
                from parmap.errors import WorkerDied

                error = WorkerDied.before_work(code, doing, refusal())
                self._events.append(Unavailable(chunks, str(error), error))
                return
        if running and overdue is None:
            self.deaths += 1
        self._events.append(Lost(chunks, running, offset, length, overdue or died(code)))
        if chunks:
            self._hire_instead()

    def _hire_instead(self) -> None:
        if self._queues and refusal():
            return  # the others have to do
        try:
            self._hire(1)
        except OSError as error:
            if not self._queues:
                self._events.append(Unavailable([], f"no worker could be started: {error}", error))

    def _remove(self, worker: Worker, kill: bool) -> int | None:
        self._watch.remove(worker)
        self._lost.append(worker.pid)  # its answers, which may yet be read, lie in files
        for chunk in self._queues.pop(worker):
            if chunk.path is not None:
                unlink(chunk.path)
        self._fresh.discard(worker)
        self._retired.discard(worker)
        self._crew.lose(worker, kill=kill)
        return worker.exitcode()

    # ------------------------------------------------------------------ items that take too long

    def _patience(self, seconds: float | None) -> float | None:
        """How long to wait at the most: no longer than until the next item is overdue."""
        if self._timeout is None:
            return seconds
        now = time.monotonic_ns()
        limits = [0.05] if seconds is None else [0.05, seconds]  # an item may begin meanwhile
        for worker in self._queues:
            began = worker.board[_seat.STARTED]
            if began:
                limits.append(max(0.0, self._timeout - (now - began) * 1e-9))
        return min(limits)

    def _end_overdue(self, limit: float) -> None:
        now = time.monotonic_ns()
        for worker in [worker for worker, queue in self._queues.items() if queue]:
            began = worker.board[_seat.STARTED]
            if began and now - began > limit * 1e9:
                worker.kill()
                while worker.has_message():  # finished items of the same chunk
                    message = worker.receive()
                    if not isinstance(message, _messages.Answer):
                        break
                    self._take_answer(worker, message)
                self._bury(worker, overdue(limit))
            elif not began and self._is_stuck(worker, now - max(limit, STUCK_SECONDS) * 1e9):
                worker.kill()
                self._bury(worker, None)

    def _is_stuck(self, worker: Worker, since: float) -> bool:
        """Whether it has had something to do since then, and did not begin: somebody stopped it."""
        board = worker.board
        idle = bool(board[_seat.READY]) and not board[_seat.LOADING]
        begun = board[_seat.CHUNK] == self._queues[worker][0].number
        return idle and not begun and self._next_since[worker] < since
