"""Station 7: the chunks that were cut and not yet handed out, in the order of the input.

What comes back is kept with its chunk until its turn; what was lost is cut again; what is handed
out is unpacked at that moment, and let go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from parmap import _messages
from parmap._call import Settings
from parmap._chunk import Chunk, Lost
from parmap._failure import Failure, rebuild
from parmap._outcome import UNTRUSTED, emptying, note, raising
from parmap._reasons import cannot_load
from parmap._report import Report
from parmap._transport import Parcel, unpack


class Window:
    """What is between the input and the consumer.

    Attributes:
        chunks: in order; again: those of them to be sent before anything new is cut.
        ahead: items in it; bytes_ahead: of these, and of results that wait.
        handed_out: items that the consumer has taken.
        input_failed: an input raised, and the consumer was not yet told.
    """

    def __init__(self, settings: Settings, report: Report):
        self._settings, self._report = settings, report
        self.chunks: deque[Chunk] = deque()
        self.again: deque[Chunk] = deque()
        self.ahead = self.bytes_ahead = self.handed_out = 0
        self.input_failed = False
        self._handed = 0  # items the consumer is at

    def admit(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.ahead += len(chunk.items)

    def take(self, chunk: Chunk, answer: _messages.Answer) -> int:
        """Keep what came of a chunk until its turn; how many items that is of."""
        count = 0
        for size, outcome in answer.groups:
            chunk.parts.append((size, outcome))
            count += size
            if isinstance(outcome, Parcel):
                self.bytes_ahead += outcome.nbytes
                self._report.bytes_moved += outcome.nbytes
        chunk.got += count
        chunk.done = chunk.got >= len(chunk.items)
        if answer.last and not chunk.done:  # the worker was told to stop
            self.split(chunk, [len(chunk.items) - chunk.got])
        self._report.add(count, answer.seconds, answer.cpu_seconds)
        return count

    def taken(self) -> None:
        """The consumer has taken all of what was handed out last."""
        self.ahead -= self._handed
        self.handed_out += self._handed
        self._handed = 0

    def resend(self, lost: Lost) -> None:
        """Send again what a lost worker had: the chunk it ran in pieces, the others whole."""
        for position, chunk in enumerate(lost.chunks):
            if position == 0 and (lost.running or chunk.got):
                self._resend_running(chunk, lost)
            else:
                self.again.append(chunk)

    def _resend_running(self, chunk: Chunk, lost: Lost) -> None:
        """What came of it is kept. One item was running: it is at fault. Several: each is tried
        alone, for one of them is."""
        left = len(chunk.items) - chunk.got
        before = min(left, max(0, chunk.origin + lost.offset - chunk.start - chunk.got))
        suspects = min(left - before, lost.length) if lost.running else 0
        sizes = [before, *[1] * suspects, left - before - suspects]
        pieces = self.split(chunk, [size for size in sizes if size])
        if suspects == 1:
            culprit = pieces[1 if before else 0]
            if culprit.lives:
                culprit.lives -= 1
                culprit.single = True
            else:
                self.again.remove(culprit)
                self.settle(culprit, lost.error(culprit.start))

    def split(self, chunk: Chunk, sizes: list[int]) -> list[Chunk]:
        """Replace the part of a chunk that has no outcome by smaller ones, to be sent again."""
        pieces, start = [], chunk.got
        for size in sizes:
            items = chunk.items[start : start + size]
            pieces.append(Chunk(chunk.start + start, items, size == 1, chunk.lives))
            start += size
        place = self.chunks.index(chunk) + 1
        del chunk.items[chunk.got :]
        chunk.done = True
        self.chunks.rotate(-place)
        self.chunks.extendleft(reversed(pieces))
        self.chunks.rotate(place)
        self.again.extend(pieces)
        return pieces

    def settle(self, chunk: Chunk, error: BaseException) -> None:
        chunk.parts.append((1, error))
        chunk.got, chunk.done = 1, True
        self._report.add(1, 0.0)

    # ------------------------------------------------------------------ out to the consumer

    def next_ready(self) -> Iterator[Any] | None:
        """The next results to hand out, if they are there: the first ones, or any if unordered."""
        if self._settings.ordered:
            while self.chunks and self.chunks[0].done and not self.chunks[0].parts:
                self.bytes_ahead -= self.chunks.popleft().nbytes
            if self.chunks and self.chunks[0].parts:
                return self._hand_out(self.chunks[0])
            return None
        for chunk in [c for c in self.chunks if c.done and not c.parts]:
            self.chunks.remove(chunk)
            self.bytes_ahead -= chunk.nbytes
        ready = next((c for c in self.chunks if c.parts), None)
        return None if ready is None else self._hand_out(ready)

    def _hand_out(self, chunk: Chunk) -> Iterator[Any]:
        count, outcome = chunk.parts.popleft()
        index = chunk.start + chunk.got - sum(n for n, _ in chunk.parts) - count
        self._handed = count
        if isinstance(outcome, Parcel):
            self.bytes_ahead -= outcome.nbytes
            try:
                return emptying(unpack(outcome))
            except UNTRUSTED as why:
                return self._unreadable(chunk, index, count, why)
        if isinstance(outcome, list):
            return emptying(outcome)
        error = rebuild(outcome) if isinstance(outcome, Failure) else outcome
        if not chunk.items:  # what the input raised
            self.input_failed = False
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
        place = self.chunks.index(chunk)
        for piece in reversed(pieces):
            self.chunks.insert(place, piece)
        self.again.extend(pieces)
        self._handed = 0
        self._report.add(-count, 0.0)
        return iter(())

    def _raising(self, error: BaseException) -> Iterator[Any]:
        if self._settings.return_exceptions and isinstance(error, Exception):
            return iter((error,))
        return raising(error)

    def drain(self) -> Iterator[tuple[Chunk, Iterator[Iterator[Any]]]]:
        """Each chunk, with what is there of it; the rest is done by who asks for it."""
        while self.chunks:
            chunk = self.chunks.popleft()
            yield chunk, self._all_parts(chunk)

    def _all_parts(self, chunk: Chunk) -> Iterator[Iterator[Any]]:
        while chunk.parts:
            yield self._hand_out(chunk)

    def discard(self) -> None:
        """The consumer wants no more: give up the files of results nobody will read."""
        for chunk in self.chunks:
            for _, outcome in chunk.parts:
                if isinstance(outcome, Parcel):
                    outcome.discard()
