"""Station 6 on somebody else's worker: run a chunk there, and answer with plain tuples.

So it can travel by value, to workers without parmap: none of parmap's classes comes back.
"""

from __future__ import annotations

import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

from parmap._failure import Dumps, capture, seal
from parmap._outcome import UNTRUSTED, Mapper, run_batch

Task = tuple[Mapper, Callable[..., Any], int]  # how to apply it, the function, retries

# How many items, and what came of them: values or their pickle, an exception or the plain tuple of
# its Failure.
Group = tuple[int, Any]

# Groups, their seconds, and those of processor. Or why a chunk was not run: this process lacks the
# function, or cannot read the items.
Reply = tuple[list[Group], float, float] | str
MISSING = "function missing"

# The module that keeps functions in a worker process, `run_pickled` too, which may have come by
# value; and a pickle that refers to that.
KEPT = "_parmap_kept"
KEPT_RUNNER = f"c{KEPT}\nrun_pickled\n.".encode()

# Items that are run between two looks at whether anybody wants the rest.
MOST_SLICE = 256

# Functions that a worker process keeps. Fewer are sent again where calls take turns; more are of
# calls that are over.
MOST_TASKS = 2


def run_shared(task: Task, stop: threading.Event, items: list[Any]) -> Reply:
    """Run a chunk in a thread of the caller's process."""
    return _timed(_groups(task, items, stop.is_set))


def run_pickled(key: str, function: bytes | Callable[[], bytes] | None, data: bytes) -> Reply:
    """Run a chunk in another process, which keeps the function: a pickle of the Task and of how to
    pickle here, or what gets that, or None."""
    kept: Any = sys.modules.setdefault(KEPT, ModuleType(KEPT))
    kept.run_pickled = run_pickled
    tasks = vars(kept).setdefault("tasks", {})
    found = tasks.get(key)
    if found is None:
        if function is None:
            return MISSING
        while len(tasks) >= MOST_TASKS:
            tasks.pop(next(iter(tasks)), None)
        found = tasks[key] = pickle.loads(function() if callable(function) else function)
    task, dumps = found
    try:
        items = pickle.loads(data)
    except UNTRUSTED as error:
        return capture(error, dumps).summary
    groups = _groups(task, items, bool)
    return _timed(sealed for group in groups for sealed in _sealed(*group, dumps))


def _timed(groups: Iterable[Group]) -> Reply:
    """Run a chunk, in a thread that says so."""
    thread: Any = threading.current_thread()
    thread.parmap_runs_a_chunk = True
    began, cpu = time.perf_counter(), time.thread_time()
    try:
        found = list(groups)
    finally:
        thread.parmap_runs_a_chunk = False
    return found, time.perf_counter() - began, time.thread_time() - cpu


def _groups(task: Task, items: list[Any], stopped: Callable[[], bool]) -> Iterator[Group]:
    """Lists of values, and the exceptions between them."""
    mapper, fn, retries = task
    done, size, failures = 0, 1, 0
    while done < len(items) and not stopped():
        values, error = run_batch(mapper, fn, items[done : done + size])
        if values:
            yield len(values), values
            done, size, failures = done + len(values), min(2 * size, MOST_SLICE), 0
        if error is not None:
            size, failures = 1, failures + 1
            if failures > retries:
                yield 1, error
                done, failures = done + 1, 0
            error = None  # see _outcome.raising


def _sealed(count: int, outcome: Any, dumps: Dumps) -> list[Group]:
    if isinstance(outcome, BaseException):
        return [(count, tuple(capture(outcome, dumps)))]
    sealed = seal(outcome, dumps, dumps)
    return [(size, what if isinstance(what, bytes) else tuple(what)) for size, what in sealed]
