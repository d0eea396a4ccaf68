"""Station 6 on somebody else's worker: run a chunk there, and answer with plain tuples.

What runs in an executor's worker is here, and nothing it returns is of a class of parmap's. So it
can travel by value, to workers that do not have parmap (see `_carriers.runner_by_value`).
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
from parmap._outcome import UNTRUSTED, Mapper, run_batch, runs_a_chunk

Task = tuple[Mapper, Callable[..., Any], int]  # how to apply it, the function, retries

# (how many items, what came of them): a list of values or its pickle, an exception or the plain
# tuple of its Failure.
Group = tuple[int, Any]

# What a chunk comes to: its groups, the seconds they took, and of these the seconds of processor.
# A str says why it was not run: that this process lacks the function, or why it cannot read them.
Reply = tuple[list[Group], float, float] | str
MISSING = "function missing"

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
    return _timed(_groups(task, items, stop.is_set))


def run_pickled(key: str, fetch: Callable[[Any], bytes] | None, handle: Any, data: bytes) -> Reply:
    """Run a chunk in another process. The function crosses once: it is kept there under `key`.

    `handle` is the pickle of a Task and of how to pickle here, or None, or what `fetch` makes that
    of.
    """
    kept: Any = sys.modules.setdefault(KEPT, ModuleType(KEPT))
    kept.run_pickled = run_pickled
    tasks: dict[str, tuple[Task, Dumps]] = vars(kept).setdefault("tasks", {})
    found = tasks.get(key)
    if found is None:
        if handle is None:
            return MISSING
        while len(tasks) >= MOST_TASKS:
            tasks.pop(next(iter(tasks)), None)
        found = tasks[key] = pickle.loads(handle if fetch is None else fetch(handle))
    task, dumps = found
    try:
        items = pickle.loads(data)
    except UNTRUSTED as error:
        return capture(error, dumps).summary
    groups = _groups(task, items, bool)
    return _timed(sealed for group in groups for sealed in _sealed(group, dumps))


def _timed(groups: Iterable[Group]) -> Reply:
    """Run what these are to come of, in a thread that says so."""
    thread: Any = threading.current_thread()
    outer, thread.parmap_runs_a_chunk = runs_a_chunk(), True
    began, cpu = time.perf_counter(), time.thread_time()
    try:
        found = list(groups)
    finally:
        thread.parmap_runs_a_chunk = outer
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


def _sealed(group: Group, dumps: Dumps) -> Iterator[Group]:
    """The same, as bytes and text."""
    count, outcome = group
    if isinstance(outcome, BaseException):
        yield count, tuple(capture(outcome, dumps))
        return
    for size, what in seal(outcome, dumps, dumps):
        yield size, what if isinstance(what, bytes) else tuple(what)
