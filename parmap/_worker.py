"""Station 6, behind the process wall: all that runs in a worker.

A worker is a process that runs `main`. It reads jobs and chunks from a pipe that only it and its
caller hold, and answers every chunk, whatever happens, with bytes. It never sees the caller's
`__main__`, and imports nothing that a function does not need: the standard library, and cloudpickle
where something has to travel by value.

    caller                           worker
    Hello  what it is for, once    ->   initialize
    Job    the function, once   ->   unpack, compare facts      -> Refusal if it must not run it
    Work   a chunk of items     ->   run each, capture outcomes -> Answer, in one or more parts
    Over   the call has ended   ->   let the function go
"""

from __future__ import annotations

import atexit
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from parmap import _place, _state
from parmap._failure import Failure, capture, seal
from parmap._files import MAP_RESULT_BYTES, Store
from parmap._line import Line
from parmap._messages import Answer, Hello, Job, Over, Refusal, Work, read
from parmap._orphan import leave, watch_caller
from parmap._outcome import Mapper, run_batch
from parmap._seat import (
    CANCELLED,
    CHUNK,
    LENGTH,
    LOADING,
    OFFSET,
    PID,
    READY,
    STARTED,
    Seat,
    take_seat,
)
from parmap._transport import Parcel, dumps, frame, open_frame, pack, unpack

# Seconds of finished items that a worker may hold back before it answers with a part of a chunk.
# Smaller costs messages (20 us each); larger loses more when the worker dies, and lets the
# caller wait longer for its first value.
FLUSH_SECONDS = 0.05

# Seconds of items that are run between two looks at the board, at C speed. Smaller costs more
# looks, 8 us each with what belongs to them; larger sees later that nobody wants the rest, and has
# more items to try one by one when the process dies.
SLICE_SECONDS = 1e-3


class _Office:
    """Where a worker sits, and what it was told at its start.

    Attributes:
        board: the words shared with the caller; store: where its files go.
        hello: the rest of it.
    """

    def __init__(self, seat: Seat):
        self._line, self.board = seat.line, seat.board
        hello = read(open_frame(self._line.receive()))
        assert isinstance(hello, Hello)
        self.store, self._idle_seconds = hello.store, hello.idle_seconds
        self.hello = hello

    def receive(self) -> Job | Work | Over | None:
        """The next message, or None when there will be none: the caller closed, died, or idles."""
        try:
            if not self._line.holds_more() and not _wait_for(self._line, self._idle_seconds):
                return None
            message = read(open_frame(self._line.receive()))
        except (EOFError, OSError):  # fn may have closed what it found open
            return None
        assert isinstance(message, Job | Work | Over)
        return message

    def send(self, message: Answer | Refusal) -> None:
        self._line.post(frame(message.wire(), self.store))
        try:
            self._line.flush()
        except OSError:  # nobody wants it, or fn closed what it found open
            leave()


def _wait_for(line: Line, seconds: float) -> bool:
    """Whether something can be read within `seconds`."""
    if sys.platform == "win32":
        from multiprocessing.connection import wait

        return bool(wait([line], seconds))
    poll = select.poll()
    poll.register(line.fileno(), select.POLLIN)
    return bool(poll.poll(seconds * 1000))


_Task = tuple[Mapper, Callable[..., Any]]

_inside = False
inherited: dict[int, Any] = {}  # tasks a forked worker finds in its memory (see _briefing)


def inside() -> bool:
    """Whether this process is a worker: a nested call runs serially."""
    return _inside


def main(*numbers: int) -> None:
    """A worker, and the end of its process: as quiet as that of multiprocessing's children, for
    what is left lying in a worker (an unclosed socket, say) is nobody's news."""
    code = 1
    try:
        work(*numbers)
        code = 0
    except BaseException as error:  # a bug, which has to be seen; nothing of the user's comes here
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        _flush_output()
        os._exit(code)


def work(*numbers: int) -> None:
    """All of a worker's life: take the seat with these numbers, answer chunks until there are no
    more."""
    global _inside
    _inside = True
    seat = take_seat(numbers)
    watch_caller(seat.lifeline)
    seat.board[PID] = os.getpid()
    _hear_signals()
    try:
        office = _Office(seat)
    except (EOFError, OSError):
        return  # the caller has thought better of it
    sys.argv[:] = office.hello.arguments
    if office.hello.place is not None:
        _place.follow(office.hello.place, {})
    _serve(office)


def _hear_signals() -> None:
    # A Python handler that does nothing, rather than SIG_IGN: subprocesses of fn would inherit
    # that. Ctrl-C in a terminal reaches every process; what becomes of the call, the caller says.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler a forked caller had
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _serve(office: _Office) -> None:
    initialized = _initialize(office.hello.initializer)
    office.board[READY] = 1
    desk: _Desk | None = None
    while (message := office.receive()) is not None:
        if isinstance(message, Job):
            desk = None  # lets go of the last call's function before the next one is unpacked
            desk = _Desk(office, message, initialized)
        elif isinstance(message, Over):
            desk = None
        elif desk is not None:
            desk.answer(message)


def _initialize(given: bytes | int | None) -> Failure | dict[str, Any]:
    """Run the caller's initializer: what it raised, or the globals it set.

    A function that travels by value has globals of its own, so what the initializer set in them is
    handed to each mapped function of the same module (see `_Desk`).
    """
    if given is None:
        return {}
    try:
        initializer, initargs = inherited[given] if isinstance(given, int) else pickle.loads(given)
        namespace = getattr(initializer, "__globals__", {})
        before = dict(namespace)
        initializer(*initargs)
    except BaseException as error:  # told to the call, which it ends
        return capture(error, dumps)
    if isinstance(given, int) or not _state.by_value(initializer):
        return {}
    missing = object()
    changed = {k: v for k, v in namespace.items() if before.get(k, missing) is not v}
    return {**changed, "__name__": namespace.get("__name__")}


class _Desk:
    """One call as one worker sees it."""

    def __init__(self, office: _Office, job: Job, initialized: Failure | dict[str, Any]):
        self._office = office
        self._job = job
        self._spare: list[bytearray] = []
        self._store = office.store.of_call(job.number, MAP_RESULT_BYTES)
        self._refused: Refusal | None = None
        self._task: _Task | None = None
        self._fence = threading.Lock()
        if isinstance(initialized, Failure):
            self._refused = Refusal(job.number, None, "initializer", initialized)
            return
        if job.place is not None:
            _place.follow(job.place, job.threads)
        try:
            task = self._load(job.task, -job.number)
        except BaseException as error:  # nobody interrupts a worker: this is the pickle's own doing
            self._refused = Refusal(job.number, None, "function", capture(error, dumps))
            return
        self._task, fn = task, task[1]
        _state.share(initialized, fn)
        if job.facts is not None:
            mine = _state.facts(fn, code_only=office.hello.initializer is not None)
            if mine != job.facts:
                self._refused = Refusal(job.number, None, "facts", None, mine)

    def _load(self, parcel: Parcel | int, name: int, spare: list[bytearray] | None = None) -> Any:
        """Unpack, with a word on the board for the caller if that should end this process."""
        board = self._office.board
        board[LOADING] = name
        try:
            return inherited[parcel] if isinstance(parcel, int) else unpack(parcel, spare)
        finally:
            board[LOADING] = 0

    def answer(self, work: Work) -> None:
        """Run a chunk and send its outcomes; or say why not."""
        if work.job != self._job.number:
            return
        refused = self._refused
        if refused is None and self._task is not None:
            if not self._claim(work):
                work.items.discard()
                self._office.send(Answer(work.job, work.number, [], 0.0, 0.0, True))
                return
            self._office.board[STARTED] = time.monotonic_ns()  # loading counts as running
            try:
                items = self._load(work.items, work.number, self._spare)
            except BaseException as error:
                self._office.board[STARTED] = 0
                refused = Refusal(work.job, work.number, "items", capture(error, dumps))
            else:
                _Run(self._office, self._store, self._job, work, self._task, items).run()
                return
        assert refused is not None
        work.items.discard()
        self._office.send(refused._replace(chunk=work.number))

    def _claim(self, work: Work) -> bool:
        """Say that the chunk is begun, unless the caller has taken it back.

        Each side writes its word and then reads the other's (Dekker, 1965), so the two cannot both
        run an item. The lock between is for processors that would do the reading first.
        """
        board = self._office.board
        board[OFFSET], board[CHUNK] = 0, work.number
        with self._fence:
            return bool(board[CANCELLED] != work.job)


_cpu_before = 0.0  # processor time of this process at its last answer


class _Run:
    """One chunk being run: items left, outcomes not yet sent."""

    def __init__(
        self, office: _Office, store: Store, job: Job, work: Work, task: _Task, items: list[Any]
    ):
        self._office, self._store, self._job, self._work = office, store, job, work
        self._mapper, self._fn = task
        self._items = items
        self._next, self._total = 0, len(items)
        self._groups: list[tuple[int, Parcel | Failure]] = []
        self._values: list[Any] = []  # not yet pickled
        self._together = False  # whether values are small, and so pickled many at a time
        self._began = time.perf_counter()

    def run(self) -> None:
        size = 1
        board = self._office.board
        while self._next < self._total and board[CANCELLED] != self._work.job:
            size = self._run_slice(min(size, self._total - self._next))
            held = time.perf_counter() - self._began
            if held > self._job.flush_seconds and self._next < self._total:
                self._send(last=False)
        self._send(last=True)
        board[STARTED] = 0  # nothing is running
        _flush_output()

    def _run_slice(self, size: int) -> int:
        """Run the next `size` items, and say how many to run at once after them."""
        board = self._office.board
        items = self._items[self._next : self._next + size]
        board[LENGTH] = size
        board[OFFSET] = self._next
        board[STARTED] = began = time.monotonic_ns()
        values, error = run_batch(self._mapper, self._fn, items)
        seconds = (time.monotonic_ns() - began) * 1e-9
        self._next += len(values)
        self._values += values
        if not self._together:
            self._pickle()
        if error is not None:
            self._fail(items[len(values)], error)
        items.clear()
        # What has been handed on is let go: this chunk's arguments need not outlive their run.
        for done in range(max(0, self._next - size), self._next):
            self._items[done] = None
        each = seconds / max(1, len(values) + (error is not None))
        if self._work.single or self._job.flush_seconds == 0:
            return 1
        return max(1, min(2 * size, int(SLICE_SECONDS / max(each, 1e-8))))

    def _pickle(self) -> None:
        """Pickle the values there are: alone where they are large, for each may be kept by itself;
        else together, for a pickle each costs 10 us on either side of the wall."""
        values, self._values = self._values, []
        if values:
            self._keep(values)
            _, outcome = self._groups[-1]
            self._together = isinstance(outcome, Parcel) and outcome.path is None

    def _keep(self, values: list[Any]) -> None:
        """Pickle values that came out well; one that does not pickle becomes a failure."""
        self._groups += seal(values, partial(pack, store=self._store), dumps)

    def _fail(self, item: Any, error: BaseException) -> None:
        """An item raised: run it again as often as the caller asked, then keep its exception."""
        self._pickle()
        for _ in range(self._job.retries):
            self._office.board[STARTED] = time.monotonic_ns()
            values, again = run_batch(self._mapper, self._fn, [item])
            if again is None:
                self._keep(values)
                self._next += 1
                return
            error = again
        self._groups.append((1, capture(error, dumps)))
        self._next += 1

    def _send(self, last: bool) -> None:
        global _cpu_before
        self._pickle()
        now, cpu = time.perf_counter(), time.process_time()
        used, _cpu_before = cpu - _cpu_before, cpu  # waiting for work uses none
        answer = Answer(
            self._work.job, self._work.number, self._groups, now - self._began, used, last
        )
        self._office.send(answer)
        self._groups = []
        self._began = now


def _flush_output() -> None:
    """What fn printed is seen when its chunk is done, not when the worker ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # closed, or nobody reads it: print would have said so to fn
