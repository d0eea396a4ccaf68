"""Stations 5 and 7: keep every worker fed, a bounded way ahead, and hand out what comes, in order.

All of it runs in the thread that iterates, and only while it asks for more. The window holds the
chunks that were cut and not yet handed out, in the order of the input; workers answer in any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import starmap
from time import monotonic
from typing import Any

from parmap import _costs, _messages, _plan
from parmap._call import Call
from parmap._chunk import (
    Chunk,
    Engine,
    Event,
    Lost,
    Part,
    Refused,
    Unavailable,
    arguments,
    settled,
)
from parmap._outcome import UNTRUSTED
from parmap._own import Own, items_meanwhile, run_rest, run_whole
from parmap._progress import Progress
from parmap._reasons import cannot_load, cannot_send
from parmap._report import Report
from parmap._transport import Parcel
from parmap._window import Window

# Items on their way or waiting to be handed out, where no buffersize is given; and bytes, but each
# worker may have one chunk. Smaller starves workers behind a slow item; larger holds more memory.
MOST_AHEAD = 50_000

# Of that, what a worker may have before any result was handed out; two more come with each that
# was, and it doubles while workers wait for one slow item, at most each TICK. Where the input does
# not say how long it is it may be endless, and five results should cost a few dozen inputs.
FIRST_AHEAD = 4096
FIRST_AHEAD_UNKNOWN = 8
MOST_BYTES_AHEAD = 128 * 2**20

# Bytes of a chunk from which a worker has two at the most. Smaller starves workers; larger has more
# files on their way, and a new one costs three times what one costs that is written again.
WAKE_BYTES = 256 * 2**10

# Seconds without an answer from warm workers after which the caller helps: they may be importing
# what the function needs. Smaller would take work from workers that are about to answer.
LATE_SECONDS = 20e-3

# Seconds between two looks at the boards, while a bar is shown.
TICK = 0.1


class Flow:
    """The parallel part of one call: an iterator of batches, each an iterator of results."""

    def __init__(self, call: Call, engine: Engine, progress: Progress, report: Report):
        self._call = call
        self._engine = engine
        self._progress = progress
        self._report = report
        self.seconds_per_item = report.probe.each  # of late; 0 while nothing is known
        self._bulk_each = 0.0
        self._fed = False  # no worker has room, and nothing was heard since
        self._window = Window(call.settings, report)
        self._again = self._window.again
        # The caller goes on with items until a worker has answered. Not where the user asked for
        # workers from the first item on, or brought them.
        ours, began = call.settings.executor is None, monotonic()
        self._helps = ours and call.settings.parallel is None
        self._waits_since = began if ours else None  # until the first answer
        self._helps_at = began + (0.0 if engine.booting else LATE_SECONDS)
        self._own: Own | None = None  # what it is at
        self._patience = 0  # how often the window was widened for one slow item
        self.unavailable: Unavailable | None = None

    def batches(self) -> Iterator[Iterator[Any]]:
        """Results as they come, until the input has ended or the engine cannot go on."""
        while True:
            if not self._engine.ours():  # its workers go on for the original
                raise RuntimeError("this pmap belongs to the process that this one was forked from")
            slow = self._call.inputs.slow
            batch = self._window.next_ready() if slow else None  # ready results before a slow draw
            if batch is None:
                self._feed()
                batch = self._window.next_ready()
            if batch is not None:
                yield batch
                self._window.taken()  # all of it was, or we would not be here
            elif self._window.chunks and self.unavailable is None:
                if not (self._helps and self._help()):
                    self._wait()
            elif self._window.chunks and not self._call.insists:
                yield from self._rest_here()
            else:
                return

    def _help(self) -> bool:
        """Until workers answer, run the next items here; False when there is nothing to do."""
        if self._own is None or self._own.chunk.done:
            chunk = self._next_own() if monotonic() >= self._helps_at else None
            self._own = None if chunk is None else Own(self._call, chunk, self._report.probe)
        if self._own is None:
            return False
        self._own.run()
        self._hear(0.0)
        return True

    def _next_own(self) -> Chunk | None:
        """What the caller can do until workers are there, if that is an item at all. When nothing
        else is left it takes back what a worker has not begun: that one may import for long."""
        left, engine = self._call.inputs.left(), self._engine
        seconds = max(engine.boot_left(), LATE_SECONDS)
        size = items_meanwhile(self.seconds_per_item, seconds, self._space(left))
        chunk = self._cut(size, left) if size else None
        if chunk is None and size and self._call.inputs.finished and not self._again:
            for taken in engine.take_back():
                self._window.split(taken, [len(taken.items)])
        return self._again.popleft() if engine.retired and self._again else chunk

    def _first_answer(self, since: float, answer: _messages.Answer) -> None:
        """Workers take over what the caller reserved for itself. What warm ones needed beside the
        work is what a call costs."""
        if since == self._helps_at - LATE_SECONDS:
            _costs.measured(call=monotonic() - since - answer.seconds)
        self._waits_since = None
        if not self._helps:
            return
        own, self._own = self._own, None
        self._helps = self._engine.retired == self._engine.workers  # nobody else is left
        if own is not None and not own.chunk.done:
            left = len(own.chunk.items) - own.chunk.got
            self._window.split(own.chunk, self._sizes(left, self._call.inputs.left()))

    def _sizes(self, count: int, later: int | None) -> list[int]:
        """Chunk sizes for so many items, after which `later` more come."""
        sizes = []
        while count:
            left = None if later is None else count + later
            sizes.append(min(count, self._chunksize(left)))
            count -= sizes[-1]
        return sizes

    def _wait(self) -> None:
        starved = self._engine.hungry(1) is not None  # a worker has nothing to do
        limit = TICK if self._progress.wanted or starved else None
        if self._helps:
            limit = LATE_SECONDS
        if self._call.inputs.slow and starved and not self._call.inputs.finished:
            limit = 0.0  # only look: there is more to draw, for a worker that has nothing
        if not self._hear(limit) and starved and limit:
            self._patience += 1
        if self._progress.wanted:
            self._progress.at(self._report.items + self._engine.running_items())

    def _hear(self, limit: float | None) -> bool:
        """Take what happened, or happens within `limit` seconds; whether anything did."""
        events = self._engine.wait(limit)
        self._fed = False
        for event in events:
            self._note(event)
        return bool(events)

    # ------------------------------------------------------------------ out: cut and send

    def _feed(self) -> None:
        """Send chunks while workers have room and the consumer is not too far behind."""
        if self.unavailable is not None or (self._fed and not self._again):
            return
        engine = self._engine
        if self._helps and engine.retired:
            return
        if self._helps and self._own is None and engine.booting:
            chunk = self._next_own()  # the next items are done here, and later ones by workers
            self._own = None if chunk is None else Own(self._call, chunk, self._report.probe)
        low, most = self._depths()
        while (worker := engine.hungry(low)) is not None:
            for _ in range(most - low + 1):
                chunk = self._next_chunk()
                if chunk is not None:
                    self._send(chunk, worker)
                if chunk is None or self._call.inputs.slow:
                    engine.flush(worker)
                    return
                if engine.full(worker):
                    break
            engine.flush(worker)
            low, most = self._depths()  # chunks get smaller as less is left
        self._fed = True

    def _left(self) -> int | None:
        """Items that were not sent yet, where the input says how many it has."""
        left = self._call.inputs.left()
        return left if left is None else left + sum(len(chunk.items) for chunk in self._again)

    def _depths(self) -> tuple[int, int]:
        size = self._chunksize(left := self._left())
        workers, cost = self._engine.workers, self._engine.chunk_cost
        low, most = _plan.depths(size, self.seconds_per_item, left, workers, cost)
        if size * self._bulk_each > WAKE_BYTES:
            low = most = min(low, 2)
        return low, most

    def _next_chunk(self) -> Chunk | None:
        left = self._left()
        return self._again.popleft() if self._again else self._cut(self._chunksize(left), left)

    def _chunksize(self, left: int | None) -> int:
        """Items of the next chunks; a single one while nothing is known of their cost."""
        fixed = self._call.settings.chunksize
        if fixed is not None:
            return fixed
        if not self.seconds_per_item:
            return 1
        each, workers = self.seconds_per_item, self._engine.workers
        return _plan.chunk_size(each, left, workers, self._bulk_each, self._engine.chunk_cost)

    def _space(self, left: int | None) -> int:
        """Items that may still go on their way; 0 or less while the window is full."""
        limit = self._call.settings.buffersize or self._most_ahead(left)
        many = len(self._window.chunks) >= self._engine.workers
        if many and self._window.bytes_ahead > MOST_BYTES_AHEAD:
            return 0
        return limit - self._window.ahead

    def _most_ahead(self, left: int | None) -> int:
        """The window, where the caller did not say."""
        each = FIRST_AHEAD_UNKNOWN if left is None else FIRST_AHEAD
        first = each * self._engine.workers << self._patience
        return min(MOST_AHEAD, first + 2 * self._window.handed_out)

    def _cut(self, size: int, left: int | None) -> Chunk | None:
        """Draw a chunk; None when the window is full, or the input gave nothing."""
        space, inputs = self._space(left), self._call.inputs
        if space < size // 2 and self._window.ahead:
            return None  # better a whole chunk a moment later than crumbs now
        size = min(size, space)
        if size < 1 or inputs.finished or self._window.input_failed:
            return None
        chunk, start = None, inputs.drawn
        items = inputs.take(size)
        if self._call.mapper is starmap:
            items = [item if isinstance(item, tuple) else arguments(item) for item in items]
        if items:
            chunk = Chunk(start, items, lives=self._call.settings.retries)
            self._window.admit(chunk)
        if inputs.error is not None:
            error, inputs.error = inputs.error, None
            self._window.admit(settled(inputs.drawn, error))
            self._window.input_failed = True  # nothing more is drawn until the consumer asks again
        return chunk

    def _send(self, chunk: Chunk, worker: Any) -> None:
        """Send a chunk; where an item does not pickle, find which, and send the others."""
        try:
            before = chunk.nbytes  # of an earlier sending
            self._engine.send(chunk, worker)
            self._report.chunks += 1
            self._window.bytes_ahead += chunk.nbytes - before
            self._bulk_each = max(chunk.bulk / len(chunk.items), self._bulk_each)
        except OSError as error:  # no room for it anywhere
            if self._call.settings.parallel:
                raise
            run_whole(self._call, chunk, self._report, error)
        except UNTRUSTED as error:
            if len(chunk.items) > 1:
                self._window.split(chunk, [1] * len(chunk.items))
            else:
                self._window.settle(chunk, cannot_send(chunk, error))

    # ------------------------------------------------------------------ back: what workers say

    def _note(self, event: Event) -> None:
        match event:
            case Part():
                self._take(event.chunk, event.answer)
            case Lost():
                self._report.worker_deaths = self._engine.deaths
                self._window.resend(event)
            case Refused(chunk, failure) if len(chunk.items) == 1:
                self._window.settle(chunk, cannot_load("item", chunk.start, failure.summary))
            case Refused(chunk):
                self._window.split(chunk, [1] * len(chunk.items))
            case Unavailable():
                self.unavailable = event

    def _take(self, chunk: Chunk, answer: _messages.Answer) -> None:
        count = self._window.take(chunk, answer)
        if count and self._waits_since is not None:
            self._first_answer(self._waits_since, answer)
        if count:
            each, before = answer.seconds / count, self.seconds_per_item
            self.seconds_per_item = (before + each) / 2 if before else each
            back = sum(o.bulk(n) for n, o in answer.groups if isinstance(o, Parcel))
            moved = back / count + chunk.bulk / max(1, len(chunk.items))
            self._bulk_each = max(moved, self._bulk_each / 2)

    def _rest_here(self) -> Iterator[Iterator[Any]]:
        """The engine is gone: run what is in the window in this process, in its place."""
        for chunk, ready in self._window.drain():
            yield from ready
            yield from run_rest(self._call, chunk, self._report)

    def discard(self) -> None:
        """The consumer wants no more."""
        self._window.discard()
