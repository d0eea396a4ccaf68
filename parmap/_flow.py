"""Stations 5 and 7: keep every worker fed, a bounded way ahead, and hand out what comes, in order.

All of it runs in the thread that iterates, and only while it asks for more.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import starmap
from time import perf_counter
from typing import Any

from parmap import _machine, _plan
from parmap._call import Call, warn
from parmap._chunk import (
    Chunk,
    Engine,
    Lost,
    Outcome,
    Part,
    Refused,
    Unavailable,
    cannot_load,
    cannot_send,
)
from parmap._outcome import UNTRUSTED, run_batch
from parmap._probe import BATCH_SECONDS
from parmap._progress import Progress
from parmap._report import Report
from parmap._transport import Parcel
from parmap._window import Window

# Items, and bytes, on their way or waiting to be handed out; each worker may have one chunk anyway.
# Smaller starves workers behind a slow item; larger holds more memory.
MOST_AHEAD = 50_000
MOST_BYTES_AHEAD = 128 * 2**20

# Items of them for each worker at first, or what two chunks take. Two more come with each result
# handed out, and it doubles in each TICK that workers wait for one slow item. An input of unknown
# length may be endless: five results should cost a few dozen inputs.
FIRST_AHEAD = 4096
FIRST_AHEAD_UNKNOWN = 8

# Bytes of a chunk from which a worker has two at the most. Smaller starves workers; larger needs
# more files, and a new one costs three times what one costs that is written again.
WAKE_BYTES = 256 * 2**10

# Seconds without an answer from warm workers after which the caller helps, for they may import; and
# of work that it takes at a time. Smaller takes work from workers that are about to answer.
LATE_SECONDS = 20e-3

# Seconds between two looks at the boards, while a bar is shown.
TICK = 0.1


class Flow:
    """The parallel part of one call: an iterator of batches, each an iterator of results."""

    def __init__(
        self, call: Call, engine: Engine, progress: Progress, report: Report, began: float
    ):
        self._call, self._engine = call, engine
        self._progress, self._report = progress, report
        self._window = Window(call.settings, report)
        self.discard = self._window.discard
        self._each = report.probe.each  # seconds of an item of late; 0 while nothing is known
        self._bulk_each = 0.0
        self._fed = False  # no worker has room, and nothing was heard since
        self._warned = False  # that items find no room
        self._drawing = False  # there is more to draw now, but it takes long
        self._first_ahead = FIRST_AHEAD_UNKNOWN
        if call.inputs.left():
            two = 2 * _plan.CHUNK_SECONDS / (self._each or 1.0)
            self._first_ahead = max(FIRST_AHEAD, int(two))
        self._patience = 0  # how often the window was widened for one slow item
        self.unavailable: Unavailable | None = None
        # The caller goes on until enough are at work, unless the user insists on workers.
        self._unanswered = call.settings.executor is None
        self._helps = self._unanswered and call.settings.parallel is None
        self._own: Chunk | None = None
        self._began = began  # when workers were decided for
        self._late = 0.0 if engine.short_handed else LATE_SECONDS

    def batches(self) -> Iterator[Iterator[Any]]:
        """Results as they come, until the input has ended or the engine cannot go on."""
        window, inputs = self._window, self._call.inputs
        while True:
            if not self._engine.ours():  # its workers go on for the original
                raise RuntimeError("this pmap belongs to the process that this one was forked from")
            batch = window.next_ready() if inputs.slow else None
            if batch is None:
                self._feed()
                batch = window.next_ready()
            if batch is not None:
                yield batch
                window.taken()  # all of it was, or we would not be here
            elif not window.chunks:
                if inputs.error is None:
                    return
                yield inputs.failure()
            elif self.unavailable is not None:
                if self._call.insists:
                    return
                _run_some(self._call, window.chunks[0], self._report)
            elif self._own and self._own.left:
                _run_some(self._call, self._own, self._report)
                self._hear(0.0)
            else:
                self._wait()

    # ------------------------------------------------------------------ out: cut and send

    def _feed(self) -> None:
        engine, again = self._engine, self._window.again
        self._drawing = False
        nothing = self._call.inputs.finished and not again and not self._helps
        if nothing or self.unavailable is not None:
            return
        if self._helps and not (self._own and self._own.left):
            self._own = self._next_own()  # before workers get later ones
        if (self._fed and not again) or (self._helps and engine.retired):
            return
        size, low, most = self._shares()
        while (worker := engine.hungry(low)) is not None:
            chunk: Chunk | None = None
            for _ in range(most - low + 1):
                chunk = self._next_chunk(size)
                if chunk is None:
                    break
                self._send(chunk, worker)
                if self._call.inputs.slow or engine.full(worker):
                    break
            engine.flush(worker)
            self._drawing = chunk is not None and self._call.inputs.slow
            if chunk is None or self._drawing:
                return
            size, low, most = self._shares()
        self._fed = True

    def _stop_helping(self) -> None:
        """Workers take over from the caller, if there are any that may still get something."""
        self._helps = self._helps and self._engine.retired == self._engine.workers
        if self._own:
            self._window.split(self._own)
        self._own = None

    def _next_own(self) -> Chunk | None:
        """What the caller can do until workers are there, if that is an item at all; once one is,
        its share. Where nothing else is left, what one of them has not begun."""
        engine, again = self._engine, self._window.again
        if perf_counter() < self._began + self._late:
            return None
        if self._can_help():
            alone = max(1, int(min(LATE_SECONDS / self._each, self._space() / 2)))
            chunk = self._cut(self._shares()[0] if engine.ready else alone)
            if chunk is not None:
                return chunk
            if self._call.inputs.finished and not again:
                for taken in reversed(engine.take_back()):
                    self._window.split(taken)
        return again.popleft() if again and engine.retired else None

    def _can_help(self) -> bool:
        """Between two looks at its workers."""
        return 0 < self._each <= 2 * LATE_SECONDS

    def _shares(self) -> tuple[int, int, int]:
        """Items of the next chunk, and the fewest and the most chunks that a worker should have."""
        engine, each, left = self._engine, self._each, self._call.inputs.left()
        workers, cost = engine.workers + (self._helps and not self._late), engine.chunk_cost
        if left is not None:
            left += sum(len(chunk.items) for chunk in self._window.again)
        size = self._call.settings.chunksize
        if size is None:
            size = _plan.chunk_size(each, left, workers, self._bulk_each, cost) if each else 1
            size = min(size, max(1, self._most_ahead() // (2 * workers)))  # two for each worker
        low, most = _plan.depths(size, each, left, workers, cost)
        return size, low, low if size * self._bulk_each > WAKE_BYTES else most

    def _next_chunk(self, size: int) -> Chunk | None:
        """What is to be sent again, cut smaller where need be; else new items."""
        again = self._window.again
        if again and len(again[0].items) > size:
            self._window.split(again.popleft(), [size])
        return again.popleft() if again else self._cut(size)

    def _space(self) -> int:
        """Items that may still go on their way; 0 or less while the window is full."""
        window = self._window
        if len(window.chunks) >= self._engine.workers and window.bytes_ahead > MOST_BYTES_AHEAD:
            return 0
        return self._most_ahead() - window.ahead

    def _most_ahead(self) -> int:
        first = self._first_ahead * self._engine.workers << self._patience
        most = min(MOST_AHEAD, first + 2 * self._window.handed_out)
        return self._call.settings.buffersize or most

    def _cut(self, size: int) -> Chunk | None:
        """Draw a chunk, if the window has room and the input gives something."""
        space, inputs = self._space(), self._call.inputs
        if space < size // 2 and self._window.ahead:
            return None  # better a whole chunk a moment later than crumbs now
        start = inputs.drawn
        items = inputs.take(min(size, space)) if space > 0 and not inputs.finished else []
        if not items:
            return None
        if self._call.mapper is starmap:
            items = [item if isinstance(item, tuple) else _arguments(item) for item in items]
        chunk = Chunk(start, items, self._call.settings.retries)
        self._window.chunks.append(chunk)
        self._window.ahead += len(items)
        return chunk

    def _send(self, chunk: Chunk, worker: Any) -> None:
        try:
            self._engine.send(chunk, worker)
            self._report.chunks += 1
            self._window.bytes_ahead += chunk.nbytes
            self._bulk_each = max(chunk.bulk / len(chunk.items), self._bulk_each)
        except UNTRUSTED as error:
            full = isinstance(error, OSError)  # there is no room for it anywhere
            if not full or self._call.settings.parallel:
                self._window.settle(chunk, error if full else cannot_send(chunk, error))
                return
            if not self._warned:
                warn(f"parmap runs items serially: {error}")
            self._warned = True
            while chunk.left:
                _run_some(self._call, chunk, self._report)

    # ------------------------------------------------------------------ back: what workers say

    def _wait(self) -> None:
        starved = self._engine.hungry(1) is not None  # a worker has nothing to do
        # Or the caller: the first items are where somebody imports.
        alone = self._helps and self._can_help() and self._call.inputs.left()
        limit = TICK if self._progress.wanted or starved else None
        if self._helps:
            limit = LATE_SECONDS
        if self._drawing and starved:
            limit = 0.0
        if not self._hear(limit) and (starved or alone) and limit:
            self._patience += 1
        if self._progress.wanted:
            self._progress.at(self._report.items + self._engine.running_items())

    def _hear(self, limit: float | None) -> bool:
        """Take what happens within `limit` seconds; whether anything did."""
        events = self._engine.wait(limit)
        self._fed = False
        for event in events:
            match event:
                case Part():
                    self._take(event)
                case Lost():
                    self._report.worker_deaths = self._engine.deaths
                    self._window.resend(event)
                case Refused(chunk, failure):
                    error = cannot_load("item", chunk.start, failure.summary)
                    self._window.settle(chunk, error)
                case Unavailable():
                    self.unavailable = event
        self._report.workers = max(self._report.workers, self._engine.workers)
        if self._helps and self._engine.enough_at_work():
            self._stop_helping()
        return bool(events)

    def _take(self, part: Part) -> None:
        chunk, answer = part
        count = self._window.take(part)
        if not count:
            return
        if self._unanswered:
            self._unanswered = False
            # What warm ones needed beside work and data is what a call costs.
            if self._late and chunk.path is None:
                _machine.called(perf_counter() - self._began - answer.seconds, self._report.rested)
        each = answer.seconds / count
        self._each = (self._each + each) / 2 if self._each else each
        back = sum(o.bulk(n) for n, o in answer.groups if isinstance(o, Parcel))
        moved = back / count + chunk.bulk / len(chunk.items)
        self._bulk_each = max(moved, self._bulk_each / 2)


def _arguments(item: Any) -> Any:
    """starmap takes any iterable of arguments; across the wall it has to be a tuple."""
    try:
        return tuple(item)
    except UNTRUSTED:  # raised again in the worker, at its position
        return item


# ------------------------------------------------------------------ what the caller runs itself:
# while workers boot, so that their start costs nothing; when they are lost; what finds no room.


def _run_some(call: Call, chunk: Chunk, report: Report) -> None:
    """Run the next items: as many as may go without a look at the workers, at 5 us each."""
    probe, first = report.probe, chunk.got
    size = max(1, int(BATCH_SECONDS / (probe.each or 1e-9)))
    items = chunk.items[first : first + size]
    began = perf_counter()
    values, error = run_batch(call.mapper, call.fn, items)
    count = len(values)
    probe.add(count + (error is not None), perf_counter() - began)
    chunk.add(count, values)
    chunk.items[first : first + count] = [None] * count
    if error is not None:
        chunk.add(1, _again(call, error, chunk.start + chunk.got, chunk.items[chunk.got]))


def _again(call: Call, error: BaseException, index: int, item: Any) -> Outcome:
    try:
        return [call.again(error, index, item)]
    except KeyboardInterrupt:
        raise
    except BaseException as final:  # raised again in its place
        return final
    finally:
        del error  # see _outcome.raising
