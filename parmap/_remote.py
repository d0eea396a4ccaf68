"""Station 6 on somebody else's worker: run a chunk there, and answer with plain tuples.

What runs in an executor's worker is here, and nothing it returns is of a class of parmap's. So it
can travel by value, to workers that do not have parmap (see `_carriers.by_value`).
"""

from __future__ import annotations

import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from parmap._failure import Failure, capture
from parmap._outcome import UNTRUSTED, Mapper, run_batch, runs_a_chunk
from parmap._transport import dumps

Task = tuple[Mapper, Callable[..., Any], int]  # how to apply it, the function, retries

# (how many items, what came of them): a list of values or its pickle, an exception or the plain
# tuple of its Failure.
Group = tuple[int, Any]

# What a chunk comes to: its groups, the seconds they took, and of these the seconds of processor.
# A str instead of the groups says why it was not run: one of the two below.
Reply = tuple[list[Group] | str, Any, float]
MISSING = "function missing"  # this process has not seen it yet: send it along
UNREADABLE = "items unreadable"  # with the plain tuple of the Failure

# The module that a worker process keeps functions in, `run_pickled` among them: a copy of it that
# came by value has no other place that outlives it. The second is a pickle of that reference.
KEPT = "_parmap_kept"
KEPT_RUNNER = f"c{KEPT}\nrun_pickled\n.".encode()

# Items that are run between two looks at whether anybody wants the rest.
MOST_SLICE = 256

# Functions that a worker process keeps. Calls that take turns need one each; more would keep the
# closures of calls that are long over.
MOST_TASKS = 2


def run_shared(task: Task, stop: threading.Event, items: list[Any]) -> Reply:
    """Run a chunk in a thread of the caller's process: nothing is pickled."""
    return _timed(task, items, stop.is_set, _as_they_are)


def run_pickled(key: str, fetch: Callable[[Any], bytes] | None, handle: Any, data: bytes) -> Reply:
    """Run a chunk in another process. The function crosses once: it is kept there under `key`.

    `handle` is the pickled function or None, or what `fetch` makes that of.
    """
    kept: Any = sys.modules.setdefault(KEPT, ModuleType(KEPT))
    kept.run_pickled = run_pickled
    tasks: dict[str, Any] = kept.__dict__.setdefault("tasks", {})
    task = tasks.get(key)
    if task is None:
        if handle is None:
            return MISSING, None, 0.0
        while len(tasks) >= MOST_TASKS:
            tasks.pop(next(iter(tasks)), None)
        task = tasks[key] = pickle.loads(handle if fetch is None else fetch(handle))
    try:
        items = pickle.loads(data)
    except UNTRUSTED as error:
        return UNREADABLE, plain(_captured(error)), 0.0
    return _timed(task, items, bool, _pickled)


def _timed(
    task: Task,
    items: list[Any],
    stopped: Callable[[], bool],
    seal: Callable[[list[Any] | BaseException], Iterator[Group]],
) -> Reply:
    thread: Any = threading.current_thread()
    outer, thread.parmap_runs_a_chunk = runs_a_chunk(), True
    began, cpu = time.perf_counter(), time.thread_time()
    try:
        groups = [group for outcome in _outcomes(task, items, stopped) for group in seal(outcome)]
    finally:
        thread.parmap_runs_a_chunk = outer
    return groups, time.perf_counter() - began, time.thread_time() - cpu


def _outcomes(
    task: Task, items: list[Any], stopped: Callable[[], bool]
) -> Iterator[list[Any] | BaseException]:
    """Lists of values, and the exceptions between them."""
    mapper, fn, retries = task
    done, size = 0, 1
    while done < len(items) and not stopped():
        values, error = run_batch(mapper, fn, items[done : done + size])
        done, size = done + len(values), min(2 * size, MOST_SLICE)
        if values:
            yield values
        if error is not None:
            yield _again(mapper, fn, retries, items[done : done + 1], error)
            error, done, size = None, done + 1, 1


def _again(
    mapper: Mapper,
    fn: Callable[..., Any],
    retries: int,
    item: Sequence[Any],
    error: BaseException | None,
) -> list[Any] | BaseException:
    try:
        for _ in range(retries):
            values, again = run_batch(mapper, fn, item)
            if again is None:
                return values
            error = again
        assert error is not None
        return error
    finally:
        error = again = None  # see _outcome.raising


def _as_they_are(outcome: list[Any] | BaseException) -> Iterator[Group]:
    yield (1 if isinstance(outcome, BaseException) else len(outcome)), outcome


def _pickled(outcome: list[Any] | BaseException) -> Iterator[Group]:
    """Values as bytes; one that does not pickle becomes the failure of its item."""
    if isinstance(outcome, BaseException):
        yield 1, plain(_captured(outcome))
        return
    try:
        yield len(outcome), dumps(outcome)
    except UNTRUSTED as error:
        if len(outcome) > 1:
            for value in outcome:
                yield from _pickled([value])
            return
        refused = TypeError(
            f"the result cannot be sent between processes: {type(error).__name__}: {error}. "
            "Return something that pickles, or pass parallel=False."
        )
        refused.__cause__ = error
        yield 1, plain(_captured(refused))


def _captured(error: BaseException) -> Failure:
    if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
        error.__traceback__ = error.__traceback__.tb_next  # our own frame tells nobody anything
    return capture(error, dumps)


def plain(failure: Failure) -> tuple[Any, ...]:
    """A Failure as a tuple of tuples, which needs no class of ours to be read."""
    chain = tuple((name, plain(linked)) for name, linked in failure.chain)
    return (*failure[:4], chain, failure.suppress)


def failure_of(told: tuple[Any, ...]) -> Failure:
    """The Failure again."""
    chain = tuple((name, failure_of(linked)) for name, linked in told[4])
    return Failure(told[0], told[1], told[2], told[3], chain, told[5])
