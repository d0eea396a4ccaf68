"""Station 6, behind the process wall: all that runs in a worker.

It answers every chunk, whatever happens, with bytes. It never sees the caller's `__main__`, and
imports nothing but the standard library, and cloudpickle where something travels by value.

    Hello  ->  initialize
    Job    ->  get the function, compare facts
    Work   ->  run the items, capture outcomes  ->  Answer, in one or more parts; or Refusal
    Over   ->  let the function go
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from parmap import _place, _state
from parmap._failure import Failure, capture, seal
from parmap._files import MAP_RESULT_BYTES
from parmap._messages import Answer, Hello, Job, Over, Refusal, Work, read, wire
from parmap._outcome import Mapper, flush_output, run_batch
from parmap._seat import (
    CANCELLED,
    CHUNK,
    LENGTH,
    LOADING,
    OFFSET,
    PID,
    READY,
    STARTED,
    leave,
    readable,
    take_seat,
    watch_caller,
)
from parmap._transport import Parcel, dumps, frame, open_frame, pack, unpack

# Seconds of finished items that a worker may hold back. Smaller costs messages (20 us each); larger
# loses more when the worker dies, and lets the caller wait longer for its first value.
FLUSH_SECONDS = 0.05

# Seconds of items between two looks at the board. Smaller costs looks (8 us each); larger notices
# later that nobody wants the rest, and has more items to try one by one when the process dies.
SLICE_SECONDS = 1e-3

inherited: dict[int, Any] = {}  # for forked workers (see _briefing)
_inside = False


def inside() -> bool:
    """Whether this process is a worker: a nested call runs serially."""
    return _inside


def main(*numbers: int) -> None:
    """A worker, and the quiet end of its process: an unclosed socket, say, is nobody's news."""
    code = 1
    try:
        work(*numbers)
        code = 0
    except BaseException as error:  # a bug, which has to be seen
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        flush_output()
        os._exit(code)


def work(*numbers: int) -> None:
    """A worker's life, on the seat with these numbers."""
    global _inside
    _inside = True
    seat = take_seat(numbers)
    watch_caller(seat.lifeline)
    seat.board[PID] = os.getpid()
    _hear_signals()
    try:
        office = _Office(seat.line, seat.board)
    except (EOFError, OSError):
        return  # the caller has thought better of it
    sys.argv[:] = office.hello.arguments
    if office.hello.place is not None:
        _place.follow(office.hello.place, {})
    _serve(office)


def _hear_signals() -> None:
    # Ctrl-C is for the caller to deal with. Not SIG_IGN, which subprocesses of fn would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler a forked caller had
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class _Office:
    """A worker's end of the line, and what it was told at its start."""

    def __init__(self, line: Any, board: Any):
        self._line, self.board = line, board
        hello = read(open_frame(line.receive()))
        assert isinstance(hello, Hello)
        self.hello = hello
        self.cpu = 0.0  # processor time of this process at its last answer

    def receive(self) -> Job | Work | Over | None:
        """The next message; None at the end: the caller is gone, or idles."""
        try:
            if not self._line.holds_more() and not readable([self._line], self.hello.idle_seconds):
                return None
            message = read(open_frame(self._line.receive()))
        except (EOFError, OSError):  # fn may have closed what it found open
            return None
        assert isinstance(message, Job | Work | Over)
        return message

    def send(self, message: Answer | Refusal) -> None:
        if os.getpid() != self.board[PID]:
            leave()  # a copy that fn has made: who answers is the worker
        self._line.post(frame(wire(message), self.hello.store))
        try:
            self._line.flush()
        except OSError:  # nobody wants it, or fn closed what it found open
            leave()


def _serve(office: _Office) -> None:
    initialized = _initialize(office.hello.initializer)
    office.board[LOADING] = -1  # the first function is on its way
    office.board[READY] = time.monotonic_ns()
    desk: _Desk | None = None
    while (message := office.receive()) is not None:
        if isinstance(message, Work):
            assert desk is not None
            desk.answer(message)
        else:
            desk = None  # the last function goes before the next one comes
            if isinstance(message, Job):
                desk = _Desk(office, message, initialized)


def _initialize(given: bytes | int | None) -> Failure | dict[str, Any]:
    """Run the initializer: what it raised, or the globals it set, for mapped functions of the same
    module, which have globals of their own where they travel by value."""
    if given is None:
        return {}
    try:
        initializer, initargs = inherited[given] if isinstance(given, int) else pickle.loads(given)
        namespace = getattr(initializer, "__globals__", {})
        before = dict(namespace)
        initializer(*initargs)
    except BaseException as error:
        return capture(error, dumps)
    if isinstance(given, int) or not _state.by_value(initializer):
        return {}
    missing = object()
    changed = {k: v for k, v in namespace.items() if before.get(k, missing) is not v}
    return {**changed, "__name__": namespace.get("__name__")}


class _Desk:
    """One call as a worker sees it."""

    task: tuple[Mapper, Callable[..., Any]]

    def __init__(self, office: _Office, job: Job, initialized: Failure | dict[str, Any]):
        self.office, self.job = office, job
        self.store = office.hello.store.of_call(job.number, MAP_RESULT_BYTES)
        self._spare: list[bytearray] = []
        self._fence = threading.Lock()
        self._refusal = self._prepare(initialized)

    def _prepare(self, initialized: Failure | dict[str, Any]) -> Refusal | None:
        """Get ready to run items; or why that cannot be."""
        job = self.job
        if isinstance(initialized, Failure):
            return Refusal(job.number, "initializer", initialized)
        if job.place is not None:
            _place.follow(job.place, job.threads)
        try:
            self.task = self._load(job.task, -job.number)
        except BaseException as error:  # the pickle's own doing
            return Refusal(job.number, "function", capture(error, dumps))
        _, fn = self.task
        _state.share(initialized, fn)
        if job.facts is not None:
            mine = _state.facts(fn, code_only=self.office.hello.initializer is not None)
            if mine != job.facts:
                return Refusal(job.number, "facts", None, mine)
        return None

    def _load(self, parcel: Parcel | int, name: int) -> Any:
        """Unpack; the board says what, should that end this process."""
        board = self.office.board
        board[LOADING] = name
        try:
            return inherited[parcel] if isinstance(parcel, int) else unpack(parcel, self._spare)
        finally:
            board[LOADING] = 0

    def answer(self, work: Work) -> None:
        """Run a chunk and send its outcomes; or say why not."""
        board, refusal, items = self.office.board, self._refusal, []
        if refusal is None and self._claim(work):
            board[STARTED] = time.monotonic_ns()  # loading counts as running
            try:
                items = self._load(work.items, work.number)
            except BaseException as error:
                board[STARTED] = 0
                refusal = Refusal(work.job, "items", capture(error, dumps))
        if not items:
            work.items.discard()
        if refusal is None:
            _Run(self, items).run()
        else:
            self.office.send(refusal)

    def _claim(self, work: Work) -> bool:
        """Say that the chunk is begun, unless the caller has taken it back. Each side writes its
        word, then reads the other's (Dekker, 1965): the two cannot both run an item."""
        board = self.office.board
        board[OFFSET], board[CHUNK] = 0, work.number
        with self._fence:  # a lock, for processors that would read first
            return bool(board[CANCELLED] != work.job)


class _Run:
    def __init__(self, desk: _Desk, items: list[Any]):
        self._office, self._store, self._job = desk.office, desk.store, desk.job
        self._mapper, self._fn = desk.task
        self._board = desk.office.board
        self._items = items
        self._next = 0
        self._groups: list[tuple[int, Parcel | Failure]] = []
        self._values: list[Any] = []  # not yet pickled
        self._together = False  # whether values are small
        self._began = time.perf_counter()

    def run(self) -> None:
        size, total = 1, len(self._items)
        while self._next < total and self._board[CANCELLED] != self._job.number:
            size = self._run_slice(size)
            held = time.perf_counter() - self._began
            if held > self._job.flush_seconds and self._next < total:
                self._send(last=False)
        self._send(last=True)
        self._board[STARTED] = 0
        flush_output()

    def _run_slice(self, size: int) -> int:
        """Run so many items; how many are to be next."""
        board, start = self._board, self._next
        items = self._items[start : start + size]
        board[LENGTH], board[OFFSET] = len(items), start
        board[STARTED] = began = time.monotonic_ns()
        values, error = run_batch(self._mapper, self._fn, items)
        seconds = (time.monotonic_ns() - began) * 1e-9
        self._next += len(values)
        self._values += values
        if not self._together:
            self._pickle()
        if error is not None:
            self._fail(items[len(values)], error)
        items.clear()  # arguments do not outlive their run
        count = self._next - start
        self._items[start : self._next] = [None] * count
        if self._job.flush_seconds == 0:
            return 1
        return max(1, min(2 * size, int(SLICE_SECONDS / max(seconds / count, 1e-8))))

    def _pickle(self) -> None:
        """Pickle the values there are: large ones alone, for each may be kept by itself; others
        together, for a pickle costs 10 us on either side."""
        values, self._values = self._values, []
        if values:  # any of them may end this process
            self._board[LENGTH], self._board[OFFSET] = len(values), self._next - len(values)
            self._groups += seal(values, partial(pack, store=self._store), dumps)
            _, outcome = self._groups[-1]
            self._together = isinstance(outcome, Parcel) and outcome.path is None

    def _fail(self, item: Any, error: BaseException) -> None:
        """Try again as often as the caller asked; then keep the exception."""
        self._pickle()
        self._next += 1
        for _ in range(self._job.retries):
            self._board[STARTED] = time.monotonic_ns()
            self._values, again = run_batch(self._mapper, self._fn, [item])
            if again is None:
                self._pickle()
                return
            error = again
        self._groups.append((1, capture(error, dumps)))

    def _send(self, last: bool) -> None:
        self._pickle()
        now, cpu = time.perf_counter(), time.process_time()
        used, self._office.cpu = cpu - self._office.cpu, cpu  # waiting for work uses none
        seconds, self._began = now - self._began, now
        groups, self._groups = self._groups, []
        self._office.send(Answer(self._job.number, groups, seconds, used, last))
