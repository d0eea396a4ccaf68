"""Station 4, one worker of it: the handle by which its caller speaks, listens, and sees it die."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Any

from parmap import _messages
from parmap._processes import close_end
from parmap._transport import Parcel, frame, open_frame


class Worker:
    """The caller's handle on one worker."""

    def __init__(self, process: Any, host: Any):
        self.process = process
        self.host = host  # whose Pool it is of: a `_pool.Host`
        self.line = process.line
        self.board = process.board.words
        self.pidfd: int | None = None
        self.settled = False
        self.job = 0  # number of the job it knows
        self.inflight = 0  # chunks sent and not yet answered to the end
        self.place: object = None  # the place it was last told to follow

    def post(self, message: _messages.Job | _messages.Work | _messages.Over) -> None:
        """Add a message to what `flush` sends."""
        self.line.post(frame(message.wire(), self.host.store))

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

    def settle(self) -> bool:
        """Whether the process exists: once it does, a descriptor tells of its end."""
        if not self.settled and self.process.named:
            self.settled = True
            self.pidfd = _pidfd(self.process.pid)
        return self.settled

    def alive(self) -> bool:
        if not self.settle():
            return True
        if self.pidfd is None:
            return self.process.exitcode is None
        return not readable([self.pidfd], 0)

    def exitcode(self, limit: float = 1.0) -> int | None:
        """The exit code of a worker that is dead or about to be; None if it cannot be had."""
        self.process.join(limit)
        code: int | None = self.process.exitcode
        return code

    def kill(self) -> None:
        if self.process.pid is None:
            return  # it never came to be
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))

    def close(self) -> None:
        close_end(self.line)
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


def _pidfd(pid: int | None) -> int | None:
    """A descriptor that becomes readable when the process ends, where the system has such."""
    if pid is None or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, a sandbox, or the process is gone already
        return None


def readable(sources: list[Any], timeout: float | None) -> list[Any]:
    from multiprocessing.connection import wait

    return wait(sources, timeout)
