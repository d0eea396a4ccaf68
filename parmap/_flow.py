"""Stations 5 and 7: keep every worker fed, a bounded way ahead, and hand out what comes, in order.

All of it runs in the thread that iterates, and only while it asks for more. The window holds the
chunks that were cut and not yet handed out, in the order of the input; workers answer in any order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import starmap
from typing import Any

from parmap import _messages, _plan
from parmap._call import Call
from parmap._chunk import (
    Chunk,
    Event,
    Lost,
    Part,
    Refused,
    Unavailable,
    arguments,
    cannot_load,
    cannot_send,
    settled,
)
from parmap._engine import LocalEngine
from parmap._outcome import UNTRUSTED, Failure, emptying, note, raising, rebuild
from parmap._own import Own, items_meanwhile, run_rest
from parmap._progress import Progress
from parmap._report import Report, alone_seconds
from parmap._transport import Parcel, unpack

# Items that may be on their way or waiting to be handed out, where no buffersize is given. Waiting
# results are bounded in bytes too. Smaller would starve workers behind one slow item; larger holds
# more results in memory while it runs.
MOST_AHEAD = 50_000

# Of that, what a worker may have before any result was handed out; two more come with each that
# was, and it doubles while workers wait for one slow item, at most each TICK. Where the input does
# not say how long it is it may be endless, and five results should cost a few dozen inputs.
FIRST_AHEAD = 1024
FIRST_AHEAD_UNKNOWN = 8
MOST_BYTES_AHEAD = 128 * 2**20

# Seconds between two looks at the boards, while a bar is shown.
TICK = 0.1


class Flow:
    """The parallel part of one call: an iterator of batches, each an iterator of results."""

    def __init__(
        self,
        call: Call,
        engine: LocalEngine,
        progress: Progress,
        report: Report,
    ):
        self._call = call
        self._engine = engine
        self._progress = progress
        self._report = report
        self.seconds_per_item = report.probe.each  # of late; 0 while nothing is known
        self._bytes_each = 0.0
        self._window: deque[Chunk] = deque()
        self._again: deque[Chunk] = deque()  # to be sent before anything new is cut
        self._ahead = 0  # items in the window
        self._handed = 0  # items the consumer is at
        self._handed_out = 0
        self._input_failed = False
        # The caller's own chunk: it goes on with items while workers boot. Not where the user asked
        # for workers from the first item on.
        self._helps = call.settings.parallel is None and engine.booting
        self._own: Own | None = None
        self._patience = 0  # how often the window was widened for one slow item
        self._bytes_ahead = 0
        self.unavailable: Unavailable | None = None

    def batches(self) -> Iterator[Iterator[Any]]:
        """Results as they come, until the input has ended or the engine cannot go on."""
        while True:
            slow = self._call.inputs.slow
            batch = self._next_ready() if slow else None  # ready results before a slow draw
            if batch is None:
                self._feed()
                batch = self._next_ready()
            if batch is not None:
                yield batch
                self._ahead -= self._handed  # all of it was taken, or we would not be here
                self._handed_out += self._handed
                self._handed = 0
            elif self._window and self.unavailable is None:
                if not (self._helps and self._help()):
                    self._wait()
            elif self._window and not self._call.settings.parallel:
                yield from self._rest_here()
            else:
                return

    def _help(self) -> bool:
        """While workers boot, run the next items here; False when there is nothing to do."""
        own = self._own
        if self._engine.booting and self.unavailable is None:
            if own is None or own.chunk.done:
                own = self._own = self._reserve()
            if own is not None:
                own.run()
                self._hear(0.0)
            return own is not None
        self._helps, self._own = False, None
        if own is not None and not own.chunk.done:  # workers take over
            left = len(own.chunk.items) - own.chunk.got
            self._split(own.chunk, self._sizes(left, self._call.inputs.left()))
            return True
        return False

    def _reserve(self) -> Own | None:
        """What the caller can do itself until workers are there, if that is an item at all."""
        left, seconds = self._call.inputs.left(), self._engine.boot_left()
        size = items_meanwhile(self.seconds_per_item, seconds, self._space(left))
        chunk = self._cut(size, left) if size else None
        return None if chunk is None else Own(self._call, chunk, self._report.probe)

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
        if self._call.inputs.slow and starved and not self._call.inputs.finished:
            limit = 0.0  # only look: there is more to draw, for a worker that has nothing
        if not self._hear(limit) and starved and limit:
            self._patience += 1
        if self._progress.wanted:
            self._progress.at(self._report.items + self._engine.running_items())

    def _hear(self, limit: float | None) -> bool:
        """Take what happened, or happens within `limit` seconds; whether anything did."""
        events = self._engine.wait(limit)
        for event in events:
            self._note(event)
        return bool(events)

    # ------------------------------------------------------------------ out: cut and send

    def _feed(self) -> None:
        """Send chunks while workers have room and the consumer is not too far behind."""
        if self.unavailable is not None:
            return
        engine = self._engine
        if self._helps and self._own is None and engine.booting:
            self._own = self._reserve()  # the next items are here, and later ones for workers
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

    def _left(self) -> int | None:
        """Items that were not sent yet, where the input says how many it has."""
        left = self._call.inputs.left()
        return left if left is None else left + sum(len(chunk.items) for chunk in self._again)

    def _depths(self) -> tuple[int, int]:
        size = self._chunksize(left := self._left())
        return _plan.depths(size, self.seconds_per_item, left, self._engine.workers)

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
        return _plan.chunk_size(self.seconds_per_item, left, self._engine.workers, self._bytes_each)

    def _space(self, left: int | None) -> int:
        """Items that may still go on their way; 0 or less while the window is full."""
        limit = self._call.settings.buffersize or self._most_ahead(left)
        if self._ahead and self._bytes_ahead > MOST_BYTES_AHEAD:
            return 0
        return limit - self._ahead

    def _most_ahead(self, left: int | None) -> int:
        """The window, where the caller did not say."""
        each = FIRST_AHEAD_UNKNOWN if left is None else FIRST_AHEAD
        first = each * self._engine.workers << self._patience
        return min(MOST_AHEAD, first + 2 * self._handed_out)

    def _cut(self, size: int, left: int | None) -> Chunk | None:
        """Draw a chunk; None when the window is full, or the input gave nothing."""
        size = min(size, self._space(left))
        inputs = self._call.inputs
        if size < 1 or inputs.finished or self._input_failed:
            return None
        chunk, start = None, inputs.drawn
        items = inputs.take(size)
        if self._call.mapper is starmap:
            items = [item if isinstance(item, tuple) else arguments(item) for item in items]
        if items:
            chunk = Chunk(start, items, lives=self._call.settings.retries)
            self._admit(chunk)
        if inputs.error is not None:
            error, inputs.error = inputs.error, None
            self._admit(settled(inputs.drawn, error))
            self._input_failed = True  # nothing more is drawn until the consumer asks again
        return chunk

    def _admit(self, chunk: Chunk) -> None:
        self._window.append(chunk)
        self._ahead += len(chunk.items)

    def _send(self, chunk: Chunk, worker: Any) -> None:
        """Send a chunk; where an item does not pickle, find which, and send the others."""
        try:
            self._engine.send(chunk, worker)
            self._report.chunks += 1
        except UNTRUSTED as error:
            if isinstance(error, OSError):
                raise
            if len(chunk.items) > 1:
                self._split(chunk, [1] * len(chunk.items))
                return
            self._settle(chunk, cannot_send(chunk, error))

    # ------------------------------------------------------------------ back: what workers say

    def _note(self, event: Event) -> None:
        match event:
            case Part():
                self._take(event.chunk, event.answer)
            case Lost():
                self._resend(event)
            case Refused(chunk, failure) if len(chunk.items) == 1:
                self._settle(chunk, cannot_load("item", chunk.start, failure.summary))
            case Refused(chunk):
                self._split(chunk, [1] * len(chunk.items))
            case Unavailable():
                self.unavailable = event

    def _take(self, chunk: Chunk, answer: _messages.Answer) -> None:
        count = 0
        for size, outcome in answer.groups:
            chunk.parts.append((size, outcome))
            count += size
            if isinstance(outcome, Parcel):
                self._bytes_ahead += outcome.nbytes
                self._report.bytes_moved += outcome.nbytes
        chunk.got += count
        chunk.done = chunk.got >= len(chunk.items)
        self._report.add(count, alone_seconds(answer.seconds, answer.cpu_seconds))
        if count:
            each, before = answer.seconds / count, self.seconds_per_item
            self.seconds_per_item = (before + each) / 2 if before else each
            moved = sum(o.nbytes for _, o in answer.groups if isinstance(o, Parcel)) / count
            self._bytes_each = max(moved, self._bytes_each / 2)

    def _resend(self, lost: Lost) -> None:
        """Send again what a lost worker had: the chunk it ran in pieces, the others whole."""
        self._report.worker_deaths = self._engine.deaths
        for position, chunk in enumerate(lost.chunks):
            if position == 0 and (lost.running or chunk.got):
                self._resend_running(chunk, lost)
            else:
                self._again.append(chunk)

    def _resend_running(self, chunk: Chunk, lost: Lost) -> None:
        """What came of it is kept. One item was running: it is at fault. Several: each is tried
        alone, for one of them is."""
        left = len(chunk.items) - chunk.got
        before = min(left, max(0, chunk.origin + lost.offset - chunk.start - chunk.got))
        suspects = min(left - before, lost.length) if lost.running else 0
        sizes = [before, *[1] * suspects, left - before - suspects]
        pieces = self._split(chunk, [size for size in sizes if size])
        if suspects == 1:
            culprit = pieces[1 if before else 0]
            if culprit.lives:
                culprit.lives -= 1
                culprit.single = True
            else:
                self._again.remove(culprit)
                self._settle(culprit, lost.error(culprit.start))

    def _split(self, chunk: Chunk, sizes: list[int]) -> list[Chunk]:
        """Replace the part of a chunk that has no outcome by smaller ones, to be sent again."""
        pieces, start = [], chunk.got
        for size in sizes:
            items = chunk.items[start : start + size]
            pieces.append(Chunk(chunk.start + start, items, size == 1, chunk.lives))
            start += size
        place = self._window.index(chunk) + 1
        del chunk.items[chunk.got :]
        chunk.done = True
        self._window.rotate(-place)
        self._window.extendleft(reversed(pieces))
        self._window.rotate(place)
        self._again.extend(pieces)
        return pieces

    def _settle(self, chunk: Chunk, error: BaseException) -> None:
        chunk.parts.append((1, error))
        chunk.got, chunk.done = 1, True
        self._report.add(1, 0.0)

    # ------------------------------------------------------------------ out to the consumer

    def _next_ready(self) -> Iterator[Any] | None:
        """The next results to hand out, if they are there: the first ones, or any if unordered."""
        if self._call.settings.ordered:
            while self._window and self._window[0].done and not self._window[0].parts:
                self._window.popleft()
            if self._window and self._window[0].parts:
                return self._hand_out(self._window[0])
            return None
        for chunk in [c for c in self._window if c.done and not c.parts]:
            self._window.remove(chunk)
        ready = next((c for c in self._window if c.parts), None)
        return None if ready is None else self._hand_out(ready)

    def _hand_out(self, chunk: Chunk) -> Iterator[Any]:
        count, outcome = chunk.parts.popleft()
        index = chunk.start + chunk.got - sum(n for n, _ in chunk.parts) - count
        self._handed = count
        if isinstance(outcome, Parcel):
            self._bytes_ahead -= outcome.nbytes
            try:
                return emptying(unpack(outcome))
            except UNTRUSTED as why:
                return self._unreadable(chunk, index, count, why)
        if isinstance(outcome, list):
            return emptying(outcome)
        error = rebuild(outcome) if isinstance(outcome, Failure) else outcome
        if not chunk.items:  # what the input raised
            self._input_failed = False
            return raising(error)
        note(error, index, chunk.items[index - chunk.start])
        return self._raising(error)

    def _unreadable(
        self, chunk: Chunk, index: int, count: int, error: BaseException
    ) -> Iterator[Any]:
        """Results that do not load here: of several that came together, each is run again alone."""
        if count == 1:
            failed = cannot_load("result of item", index, f"{type(error).__name__}: {error}")
            note(failed, index, chunk.items[index - chunk.start])
            return self._raising(failed)
        offset = index - chunk.start
        pieces = [
            Chunk(index + i, [item], True, chunk.lives)
            for i, item in enumerate(chunk.items[offset : offset + count])
        ]
        del chunk.items[: offset + count]  # what came before has been handed out
        chunk.start, chunk.got = index + count, chunk.got - offset - count
        place = self._window.index(chunk)
        for piece in reversed(pieces):
            self._window.insert(place, piece)
        self._again.extend(pieces)
        self._handed = 0
        self._report.add(-count, 0.0)
        return iter(())

    def _raising(self, error: BaseException) -> Iterator[Any]:
        if self._call.settings.return_exceptions and isinstance(error, Exception):
            return iter((error,))
        return raising(error)

    def _rest_here(self) -> Iterator[Iterator[Any]]:
        """The engine is gone: run what is in the window in this process, in its place."""
        while self._window:
            chunk = self._window.popleft()
            while chunk.parts:
                yield self._hand_out(chunk)
            yield from run_rest(self._call, chunk, self._report)

    def discard(self) -> None:
        """The consumer wants no more: give up the files of results nobody will read."""
        for chunk in self._window:
            for _, outcome in chunk.parts:
                if isinstance(outcome, Parcel):
                    outcome.discard()
