"""Station 4, one worker of it: the handle by which its caller speaks, listens, and sees it die."""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress
from typing import Any

from parmap import _messages
from parmap._processes import begin
from parmap._seat import PID, STARTED, close_end, close_numbers, new_seat
from parmap._transport import Parcel, frame, open_frame


class Worker:
    """The caller's handle on one worker, and its beginning.

    Attributes:
        job: number of the job it knows; place: the place it was last told to follow.
        inflight: chunks sent and not yet answered to the end.
        pidfd: readable once the process has ended; None before there is one, and where the system
            has no such thing.
    """

    pidfd: int | None = None
    _code: int | None = None
    _buried = False
    job = 0
    inflight = 0
    place: object = None

    def __init__(self, method: str, hello: _messages.Hello):
        """Begin it. Raises OSError where that is not possible."""
        self._store = hello.store
        seat, numbers = new_seat()
        self.line, self.lifeline, self.board = seat
        try:
            self._exitcode = begin(method, numbers)
        except BaseException:
            seat.close()
            raise
        finally:
            close_numbers(numbers)
        self.post(hello)
        self.flush()

    def post(
        self, message: _messages.Hello | _messages.Job | _messages.Work | _messages.Over
    ) -> None:
        """Add a message to what `flush` sends."""
        self.line.post(frame(message.wire(), self._store))

    def flush(self) -> None:
        """Send. That the worker is gone is no error here: who waits for it will be told."""
        with suppress(OSError):
            self.line.flush()

    def receive(self) -> _messages.Answer | _messages.Refusal | None:
        """The next message, None at the end of the pipe."""
        try:
            message = _messages.read(open_frame(self.line.receive()))
        except (EOFError, OSError):
            return None
        assert isinstance(message, _messages.Answer | _messages.Refusal)
        return message

    def has_message(self) -> bool:
        """Whether `receive` has something to return at once: a message, or the end."""
        return self.line.holds_more() or bool(readable([self.line], 0))

    @property
    def pid(self) -> int | None:
        """Its process, once that runs."""
        return self.board[PID] or None

    @property
    def running(self) -> bool:
        """Whether it is at an item, rather than at what comes before the first."""
        return bool(self.board[STARTED])

    def settle(self) -> int | None:
        """The descriptor that tells of its end, if it can be had by now."""
        if self.pidfd is None and self.pid is not None and hasattr(os, "pidfd_open"):
            try:
                self.pidfd = os.pidfd_open(self.pid)
            except OSError:  # an old kernel, a sandbox; or it has ended, as its line tells
                return None
        return self.pidfd

    def alive(self) -> bool:
        """Whether it can be given work, as far as one knows."""
        if self.settle() is not None:
            return not readable([self.pidfd], 0)
        return not self.has_message()  # an idle worker has nothing to say but its end

    def exitcode(self, limit: float = 1.0) -> int | None:
        """The exit code of a worker that is dead or about to be; None if it cannot be had."""
        if self._code is None and not self._buried:
            if self.settle() is not None:
                readable([self.pidfd], limit)
            self._code = self._exitcode(self.pid, limit)
        return self._code

    def kill(self) -> None:
        """End it. One that does not run yet ends when its line is closed."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, getattr(signal, "SIGKILL", signal.SIGTERM))

    def close(self) -> None:
        """Let it go: its line is closed, by which it leaves when it is done with its item."""
        close_end(self.line)

    def bury(self) -> None:
        """Close all of it. Its lifeline ends it, if it has not ended by then."""
        self.close()
        self.exitcode()
        close_end(self.lifeline)
        self.exitcode()
        self._buried = True
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def read_late_answers(worker: Worker) -> None:
    """What a worker still says of a call that is over: nobody wants its parcels."""
    while worker.inflight and worker.has_message():
        message = worker.receive()
        if isinstance(message, _messages.Answer):
            worker.inflight -= message.last
            discard(message)
        elif message is None:
            worker.inflight = 0  # it is dead, as whoever leases it will see
        else:
            worker.inflight -= 1


def discard(answer: _messages.Answer) -> None:
    """Give up the files of an answer that nobody will read."""
    for _, outcome in answer.groups:
        if isinstance(outcome, Parcel):
            outcome.discard()


def readable(sources: list[Any], seconds: float | None) -> list[Any]:
    """Those of the sources that can be read, or have ended; waits for the first one."""
    if sys.platform == "win32":
        from multiprocessing.connection import wait

        return wait(sources, seconds)
    poll = select.poll()
    for source in sources:
        poll.register(source, select.POLLIN)
    ready = {number for number, _ in poll.poll(None if seconds is None else seconds * 1000)}
    return [each for each in sources if (each if isinstance(each, int) else each.fileno()) in ready]
