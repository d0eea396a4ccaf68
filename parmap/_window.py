"""Station 7: the chunks that were cut and not yet handed out, in the order of the input.

What comes back is kept until its turn, and unpacked then; what was lost is sent again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from errno import EMFILE, ENFILE
from typing import Any

from parmap._call import Settings
from parmap._chunk import Chunk, Lost, Part, cannot_load
from parmap._failure import Failure, rebuild
from parmap._outcome import UNTRUSTED, emptying, note, raising
from parmap._report import Report
from parmap._transport import Parcel, unpack


class Window:
    """What is between the input and the consumer.

    Attributes:
        chunks: in order; again: those to be sent before anything new.
        ahead: items in it; bytes_ahead: of these, and of results that wait.
        handed_out: items that the consumer has taken.
    """

    def __init__(self, settings: Settings, report: Report):
        self._settings, self._report = settings, report
        self.chunks: deque[Chunk] = deque()
        self.again: deque[Chunk] = deque()
        self.ahead = self.bytes_ahead = self.handed_out = 0
        self._handed = 0  # items the consumer is at

    def take(self, part: Part) -> int:
        """Keep what came of a chunk; of how many items that is."""
        (chunk, answer), count = part, 0
        for size, outcome in answer.groups:
            chunk.add(size, outcome)
            count += size
            if isinstance(outcome, Parcel):
                self.bytes_ahead += outcome.nbytes
                self._report.bytes_moved += outcome.nbytes
        if answer.last:
            self.split(chunk)  # the worker may have been told to stop
        self._report.add(count, answer.seconds, answer.cpu_seconds)
        return count

    def resend(self, lost: Lost) -> None:
        """Send again what a lost worker had. The item that was running is at fault; of several,
        each is tried alone."""
        for chunk in reversed(lost.chunks):
            before = suspects = 0
            if lost.running and chunk is lost.chunks[0]:
                before = min(chunk.left, max(0, lost.offset - chunk.got))
                suspects = min(chunk.left - before, lost.length)
            pieces = self.split(chunk, [before, *[1] * suspects])
            if suspects == 1:
                culprit = pieces[1 if before else 0]
                if culprit.lives:
                    culprit.lives -= 1
                else:
                    self.again.remove(culprit)
                    self.settle(culprit, lost.error(culprit.start))

    def settle(self, chunk: Chunk, error: BaseException) -> None:
        """One item cannot be run; of several, each is tried alone."""
        if len(chunk.items) == 1:
            chunk.add(1, error)
            self._report.add(1)
        else:
            self.split(chunk, [1] * len(chunk.items))

    def split(self, chunk: Chunk, sizes: Sequence[int] = ()) -> list[Chunk]:
        """Send what has no outcome again, in chunks of these sizes and one of the rest."""
        if not chunk.left:
            return []  # it was taken back before its worker was lost
        pieces = self._cut_again(chunk, chunk.got, [*sizes, chunk.left - sum(sizes)])
        del chunk.items[chunk.got :]
        return pieces

    def _cut_again(self, chunk: Chunk, offset: int, sizes: Sequence[int]) -> list[Chunk]:
        place = self.chunks.index(chunk) + (offset == chunk.got)
        pieces = []
        for size in filter(None, sizes):
            items = chunk.items[offset : offset + size]
            pieces.append(Chunk(chunk.start + offset, items, chunk.lives))
            offset += size
        self.chunks.rotate(-place)
        self.chunks.extendleft(reversed(pieces))
        self.chunks.rotate(place)
        self.again.extendleft(reversed(pieces))
        return pieces

    def next_ready(self) -> Iterator[Any] | None:
        """The first results, or any if unordered, if they are there."""
        position = 0
        while position < len(self.chunks):
            chunk = self.chunks[position]
            if chunk.parts:
                return self._hand_out(chunk)
            if not chunk.left:
                self.bytes_ahead -= chunk.nbytes
                del self.chunks[position]
            elif self._settings.ordered:
                break
            else:
                position += 1
        return None

    def taken(self) -> None:
        """The consumer has taken what was handed out last."""
        self.ahead -= self._handed
        self.handed_out += self._handed
        self._handed = 0

    def _hand_out(self, chunk: Chunk) -> Iterator[Any]:
        index = chunk.start + chunk.got - sum(count for count, _ in chunk.parts)
        self._handed, outcome = chunk.parts.popleft()
        if isinstance(outcome, Parcel):
            self.bytes_ahead -= outcome.nbytes
            try:
                return emptying(unpack(outcome))
            except UNTRUSTED as why:
                return self._unreadable(chunk, index, why)
        if isinstance(outcome, list):
            return emptying(outcome)
        error = rebuild(outcome) if isinstance(outcome, Failure) else outcome
        return self._raising(error, index, chunk)

    def _unreadable(self, chunk: Chunk, index: int, why: BaseException) -> Iterator[Any]:
        """Results that do not load here: of several, each is run again alone."""
        if self._handed == 1:
            if getattr(why, "errno", 0) not in (EMFILE, ENFILE):
                why = cannot_load("result of item", index, f"{type(why).__name__}: {why}")
            return self._raising(why, index, chunk)
        self._cut_again(chunk, index - chunk.start, [1] * self._handed)
        self._report.add(-self._handed)
        self._handed = 0
        return iter(())

    def _raising(self, error: BaseException, index: int, chunk: Chunk) -> Iterator[Any]:
        note(error, index, chunk.items[index - chunk.start])
        if self._settings.return_exceptions and isinstance(error, Exception):
            return iter((error,))
        return raising(error)

    def discard(self) -> None:
        for chunk in self.chunks:
            for _, outcome in chunk.parts:
                if isinstance(outcome, Parcel):
                    outcome.discard()
