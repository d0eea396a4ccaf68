"""Station 4, the handle by which the caller speaks to a worker, listens, and sees it die."""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from typing import Any

from parmap import _messages
from parmap._processes import begin
from parmap._seat import LOADING, PID, READY, STARTED, close_end, close_numbers, new_seat, readable
from parmap._transport import Parcel, frame, open_frame

_READABLE = 1  # select.POLLIN, which Windows lacks; hang-ups are told unasked


class Worker:
    """One worker.

    Attributes:
        job, place: what it was told last; fresh: it was told no other job before.
        inflight: chunks sent and not yet answered to the end.
        free_since: when a call gave it back; 0.0 while it belongs to one.
        code: its exit code, if it has ended and that can be had.
    """

    job = inflight = 0
    fresh = True
    free_since = 0.0
    place: object = None
    code: int | None = None
    _pidfd: int | None = None

    def __init__(self, method: str, hello: _messages.Hello):
        self._store = hello.store
        seat, numbers = new_seat()
        self.line, self._lifeline, self.board = seat.line, seat.lifeline, seat.board
        try:
            self._pid, self._exitcode = begin(method, numbers)
        except BaseException:
            seat.close()
            raise
        finally:
            close_numbers(numbers)
        self.post(hello)
        self.flush()

    def post(self, message: _messages.Message) -> None:
        self.line.post(frame(_messages.wire(message), self._store))

    def flush(self) -> None:
        with suppress(OSError):  # it is gone, as who waits for it will be told
            self.line.flush()

    def receive(self) -> _messages.Answer | _messages.Refusal | None:
        """The next message, or None at the end."""
        try:
            message = _messages.read(open_frame(self.line.receive()))
        except (EOFError, OSError):
            return None
        assert isinstance(message, _messages.Answer | _messages.Refusal)
        return message

    def has_message(self) -> bool:
        return self.line.holds_more() or readable([self.line], 0)

    def drain(self) -> None:
        """Read what it still says of a call that is over."""
        while (self.inflight or self.preparing) and self.has_message():
            message = self.receive()
            if message is None:  # it is dead, as whoever leases it will see
                self.inflight = self.board[LOADING] = 0
                self.board[READY] = 1
            elif isinstance(message, _messages.Refusal):
                self.inflight -= 1
            else:
                self.inflight -= message.last
                for _, outcome in message.groups:
                    if isinstance(outcome, Parcel):
                        outcome.discard()

    @property
    def preparing(self) -> bool:
        """Whether it starts, or loads a function, which may import a lot."""
        return not self.board[READY] or self.board[LOADING] < 0

    @property
    def running(self) -> bool:
        """Whether it is at an item, not at what comes before the first."""
        return bool(self.board[STARTED])

    @property
    def pid(self) -> int | None:
        return self.board[PID] or self._pid

    @property
    def pidfd(self) -> int | None:
        """Readable once the process has ended; None where that cannot be had, or not yet."""
        if self._pidfd is None and self.pid is not None:
            with suppress(AttributeError, OSError):  # no such thing; or ended, as its line tells
                self._pidfd = os.pidfd_open(self.pid)
        return self._pidfd

    def alive(self) -> bool:
        """Whether it is, if it is idle, and so has nothing to say but its end."""
        return not readable([self.line if self.pidfd is None else self.pidfd], 0)

    def await_end(self, seconds: float = 1.0) -> None:
        """Wait until it has ended, and ask how."""
        if self.code is None:
            if self.pidfd is not None:
                readable([self.pidfd], seconds)
            self.code = self._exitcode(self.pid, seconds)

    def kill(self) -> None:
        """One that does not run yet ends as it takes its seat, without a lifeline."""
        if self.pid is None:
            close_end(self._lifeline)
        else:
            with suppress(ProcessLookupError):
                os.kill(self.pid, 9)  # Windows has no signal.SIGKILL

    def close(self) -> None:
        """Let it go: it leaves when it is done with its item."""
        close_end(self.line)

    def bury(self) -> None:
        """Close all of it. Its lifeline ends it, if it has not ended by then."""
        for end in (self.line, self._lifeline):
            close_end(end)
            self.await_end()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class Watch:
    """Waits for any of several workers."""

    def __init__(self) -> None:
        self._poll = _Poll()
        self._sources: dict[int, tuple[Worker, bool]] = {}  # False: it tells of death alone
        self._unsettled: set[Worker] = set()  # that have no pidfd yet

    def add(self, worker: Worker) -> None:
        self._poll.register(worker.line, _READABLE)
        self._sources[worker.line.fileno()] = worker, True
        self._unsettled.add(worker)

    def remove(self, worker: Worker) -> None:
        self._unsettled.discard(worker)
        for number in [number for number, (w, _) in self._sources.items() if w is worker]:
            del self._sources[number]
            self._poll.unregister(number)

    def wait(self, seconds: float | None) -> dict[Worker, bool]:
        """Workers that say something (True), or are dead and say nothing more (False)."""
        for worker in list(self._unsettled):
            if (pidfd := worker.pidfd) is not None:
                self._unsettled.remove(worker)
                self._poll.register(pidfd, _READABLE)
                self._sources[pidfd] = worker, False
        found: dict[Worker, bool] = {}
        for number, _ in self._poll.poll(None if seconds is None else seconds * 1000):
            worker, speaks = self._sources[number]
            found[worker] = speaks or found.get(worker, False)
        return found


class _WindowsPoll(dict[int, Any]):  # not tested: there is no Windows here
    """What `select.poll` is elsewhere."""

    unregister = dict.__delitem__

    def register(self, line: Any, _: int) -> None:
        self[line.fileno()] = line

    def poll(self, milliseconds: float | None) -> list[tuple[int, int]]:
        from multiprocessing.connection import wait

        lines: list[Any] = wait(
            self.values(), None if milliseconds is None else milliseconds / 1000
        )
        return [(line.fileno(), _READABLE) for line in lines]


_Poll: Any = _WindowsPoll if sys.platform == "win32" else select.poll
