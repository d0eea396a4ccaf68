"""Station 6, behind the process wall: all that runs in a worker.

A worker is a process of a multiprocessing.Pool whose one task is `serve`. It reads jobs and chunks
from a pipe that only it and its caller hold, and answers every chunk, whatever happens, with
bytes. It never sees the caller's `__main__`, and imports nothing that a function does not need: the
standard library, and cloudpickle where something has to travel by value.

    caller                           worker
    Job    the function, once   ->   unpack, compare facts      -> Refusal if it must not run it
    Work   a chunk of items     ->   run each, capture outcomes -> Answer, in one or more parts
    Over   the call has ended   ->   let the function go
"""

from __future__ import annotations

import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from parmap import _state
from parmap._failure import Failure, capture
from parmap._files import MAP_RESULT_BYTES, Store
from parmap._line import Line
from parmap._messages import (
    CANCELLED,
    CHUNK,
    LENGTH,
    LOADING,
    OFFSET,
    READY,
    STARTED,
    Answer,
    Board,
    Job,
    Over,
    Refusal,
    Work,
    read,
)
from parmap._orphan import leave
from parmap._outcome import Mapper, run_batch
from parmap._transport import Parcel, dumps, frame, open_frame, pack, unpack

# Seconds of finished items that a worker may hold back before it answers with a part of a chunk.
# Smaller costs messages (20 us each); larger loses more when the worker dies, and lets the
# caller wait longer for its first value.
FLUSH_SECONDS = 0.05

# Seconds an item must take to be run by itself, with its number on the board and a pickle of its
# own. Cheaper items are run by the slice, at C speed, which a board entry each would double.
SINGLE_SECONDS = 50e-6


class Seat(NamedTuple):
    """What a worker was given at its start.

    Attributes:
        line: its end of the line to the caller.
        caller: its end of a pipe that closes when the caller is gone.
        board: the words shared with the caller.
        store: where its files go.
        initializer: pickled (initializer, initargs) of the caller's, or the key of inherited ones,
            or None.
        idle_seconds: how long it waits for work before it ends itself.
    """

    line: Line
    caller: Any
    board: Board
    store: Store
    initializer: bytes | int | None
    idle_seconds: float

    def receive(self) -> Job | Work | Over | None:
        """The next message, or None when there will be none: the caller closed, died, or idles."""
        try:
            if not self.line.holds_more() and not _wait_for(self.line, self.idle_seconds):
                return None
            message = read(open_frame(self.line.receive()))
        except (EOFError, ConnectionError):
            return None
        assert isinstance(message, Job | Work | Over)
        return message

    def send(self, message: Answer | Refusal) -> None:
        self.line.post(frame(message.wire(), self.store))
        try:
            self.line.flush()
        except BrokenPipeError:  # nobody wants it
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

_seat: Seat | None = None
inherited: dict[int, Any] = {}  # tasks a forked worker finds in its memory (see _pool)


def inside() -> bool:
    """Whether this process is a worker: a nested call runs serially."""
    return _seat is not None


def settle(seat: Seat) -> None:
    """Take the seat: called once, in the new process, before the Pool's own loop begins."""
    global _seat
    _seat = seat
    # A Python handler that does nothing, rather than SIG_IGN: subprocesses of fn would inherit
    # that. Ctrl-C in a terminal reaches every process; what becomes of the call, the caller says.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler a forked caller had
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def serve() -> None:
    """The one task of a worker in its Pool: answer chunks until there are no more."""
    seat = _seat
    assert seat is not None
    initialized = _initialize(seat.initializer)
    seat.board.words[READY] = 1
    desk: _Desk | None = None
    while (message := seat.receive()) is not None:
        if isinstance(message, Job):
            desk = None  # lets go of the last call's function before the next one is unpacked
            desk = _Desk(seat, message, initialized)
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
        return _captured(error)
    if isinstance(given, int) or not _state.by_value(initializer):
        return {}
    missing = object()
    changed = {k: v for k, v in namespace.items() if before.get(k, missing) is not v}
    return {**changed, "__name__": namespace.get("__name__")}


class _Desk:
    """One call as one worker sees it."""

    def __init__(self, seat: Seat, job: Job, initialized: Failure | dict[str, Any]):
        self._seat = seat
        self._job = job
        self._spare: list[bytearray] = []
        self._store = seat.store.of_call(job.number, MAP_RESULT_BYTES)
        self._refused: Refusal | None = None
        self._task: _Task | None = None
        self._fence = threading.Lock()
        if isinstance(initialized, Failure):
            self._refused = Refusal(job.number, None, "initializer", initialized)
            return
        if job.place is not None:
            _state.follow(job.place, job.threads)
        try:
            task = self._load(job.task, -job.number)
        except BaseException as error:  # nobody interrupts a worker: this is the pickle's own doing
            self._refused = Refusal(job.number, None, "function", _captured(error))
            return
        self._task, fn = task, task[1]
        _state.share(initialized, fn)
        if job.facts is not None:
            mine = _state.facts(fn, code_only=seat.initializer is not None)
            if mine != job.facts:
                self._refused = Refusal(job.number, None, "facts", None, mine)

    def _load(self, parcel: Parcel | int, name: int, spare: list[bytearray] | None = None) -> Any:
        """Unpack, with a word on the board for the caller if that should end this process."""
        board = self._seat.board.words
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
                self._seat.send(Answer(work.job, work.number, [], 0.0, 0.0, True))
                return
            try:
                items = self._load(work.items, work.number, self._spare)
            except BaseException as error:
                refused = Refusal(work.job, work.number, "items", _captured(error))
            else:
                _Run(self._seat, self._store, self._job, work, self._task, items).run()
                return
        assert refused is not None
        work.items.discard()
        self._seat.send(refused._replace(chunk=work.number))

    def _claim(self, work: Work) -> bool:
        """Say that the chunk is begun, unless the caller has taken it back.

        Each side writes its word and then reads the other's (Dekker, 1965), so the two cannot both
        run an item. The lock between is for processors that would do the reading first.
        """
        board = self._seat.board.words
        board[OFFSET], board[CHUNK] = 0, work.number
        with self._fence:
            return bool(board[CANCELLED] != work.job)


_cpu_before = 0.0  # processor time of this process at its last answer


class _Run:
    """One chunk being run: items left, outcomes not yet sent."""

    def __init__(
        self, seat: Seat, store: Store, job: Job, work: Work, task: _Task, items: list[Any]
    ):
        self._seat, self._store, self._job, self._work = seat, store, job, work
        self._mapper, self._fn = task
        self._items = items
        self._next, self._total = 0, len(items)
        self._groups: list[tuple[int, Parcel | Failure]] = []
        self._values: list[Any] = []  # not yet pickled
        self._together = False  # whether values are small, and so pickled many at a time
        self._began = time.perf_counter()

    def run(self) -> None:
        size = 1
        board = self._seat.board.words
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
        board = self._seat.board.words
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
        if self._work.single or self._job.flush_seconds == 0 or each >= SINGLE_SECONDS:
            return 1
        # Double, but stay within half a millisecond, so that a cancel is seen in time.
        return max(1, min(2 * size, int(5e-4 / max(each, 1e-8))))

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
        try:
            self._groups.append((len(values), pack(values, self._store)))
        except BaseException as error:  # whatever the values' own methods raise
            if len(values) == 1:
                self._groups.append((1, _captured(_cannot_carry(error))))
                return
            for value in values:
                self._keep([value])

    def _fail(self, item: Any, error: BaseException) -> None:
        """An item raised: run it again as often as the caller asked, then keep its exception."""
        self._pickle()
        for _ in range(self._job.retries):
            self._seat.board.words[STARTED] = time.monotonic_ns()
            values, again = run_batch(self._mapper, self._fn, [item])
            if again is None:
                self._keep(values)
                self._next += 1
                return
            error = again
        self._groups.append((1, _captured(error)))
        self._next += 1

    def _send(self, last: bool) -> None:
        global _cpu_before
        self._pickle()
        now, cpu = time.perf_counter(), time.process_time()
        used, _cpu_before = cpu - _cpu_before, cpu  # waiting for work uses none
        answer = Answer(
            self._work.job, self._work.number, self._groups, now - self._began, used, last
        )
        self._seat.send(answer)
        self._groups = []
        self._began = now


def _captured(error: BaseException) -> Failure:
    if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
        error.__traceback__ = error.__traceback__.tb_next  # our own frame tells nobody anything
    return capture(error, dumps)


def _cannot_carry(why: BaseException) -> BaseException:
    if isinstance(why, OSError):
        return why  # there is no room for it, as it says itself
    error = TypeError(
        f"the result cannot be sent between processes: {type(why).__name__}: {why}. "
        "Return something that pickles, or pass parallel=False."
    )
    error.__cause__ = why
    return error


def _flush_output() -> None:
    """What fn printed is seen when its chunk is done, not when the worker ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # closed, or nobody reads it: print would have said so to fn
