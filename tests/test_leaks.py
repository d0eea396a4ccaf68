"""What calls leave behind: nothing, however many there were and however they ended."""

from __future__ import annotations

import gc
import glob
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from descriptors import descriptors
from waiting import LIMIT, eventually

from parmap import _pool, pmap, shutdown

TWO: dict[str, Any] = {"parallel": True, "max_workers": 2}


def descendants() -> list[int]:
    """Process ids of all living processes below this one."""
    children: dict[int, list[int]] = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            state, parent = Path(path).read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended while we looked
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(path.split("/")[2]))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        todo.extend(children.get(todo.pop(), []))
        found = [*found, *todo]
    return sorted(set(found))


def zombies() -> list[int]:
    """Children that ended and were not reaped."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            state, parent = Path(path).read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state == "Z" and int(parent) == os.getpid():
            found.append(int(path.split("/")[2]))
    return found


def files() -> set[str]:
    """Files of this process, in every place where parmap puts some."""
    found: set[str] = set()
    for place in {"/dev/shm", tempfile.gettempdir()}:
        for name in (f"parmap-*-{os.getpid()}-*/*", f"pym-{os.getpid()}-*"):
            found.update(glob.glob(os.path.join(place, name)))
    return found


class Census:
    """What this process has now; `grown()` says what it has more of later."""

    def __init__(self) -> None:
        gc.collect()
        self.descriptors = len(descriptors())
        self.threads = threading.active_count()
        self.processes = len(descendants())
        self.files = files()

    def grown(self) -> dict[str, Any]:
        """Only what there is more of; empty when all is as it was."""
        now = Census()
        found = {
            name: f"{getattr(self, name)} -> {getattr(now, name)}"
            for name in ("descriptors", "threads", "processes")
            if getattr(now, name) > getattr(self, name)
        }
        if now.files - self.files:
            found["files"] = str(now.files - self.files)
        if zombies():
            found["zombies"] = str(zombies())
        return found


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Each test begins and ends without workers."""
    gc.collect()
    shutdown()
    yield
    gc.collect()
    shutdown()


def pids(**options: Any) -> set[int]:
    """Workers that answered a call."""
    return set(pmap(lambda _: os.getpid(), range(8), chunksize=1, **{**TWO, **options}))


def warm_up() -> None:
    """Calls that start what is started once: the workers, the fork server, lazily imported rooms."""
    for _ in range(3):
        assert list(pmap(lambda x: x, range(10), **TWO)) == list(range(10))


# ------------------------------------------------------------------ many calls


def test_a_thousand_calls_leave_nothing_behind() -> None:
    """Descriptors, threads, processes and files are as many after the calls as before."""
    warm_up()
    census = Census()
    for number in range(1000):
        assert list(pmap(abs, (-number, number), **TWO)) == [number, number]
    assert census.grown() == {}


def test_calls_with_large_data_leave_nothing_behind() -> None:
    """Items and results that go by file: each file is gone when its data is."""
    warm_up()
    census = Census()
    data = bytearray(100_000)
    for _ in range(30):
        assert [len(y) for y in pmap(lambda x: x + x, [data] * 4, **TWO)] == [200_000] * 4
    assert census.grown() == {}


def test_calls_with_a_large_function_leave_nothing_behind() -> None:
    """A closure over a big table is in a file for all workers while the call lasts, and no longer."""
    warm_up()
    census = Census()
    table = list(range(100_000))
    for _ in range(10):
        assert list(pmap(lambda x: table[x], range(4), **TWO)) == [0, 1, 2, 3]
    assert census.grown() == {}


def test_calls_whose_items_fail_leave_nothing_behind() -> None:
    """Exceptions carry tracebacks and items; none of it holds on to a call."""
    warm_up()
    census = Census()
    for _ in range(100):
        with pytest.raises(ZeroDivisionError):
            list(pmap(lambda x: 1 / x, range(4), **TWO))
    warm_up()  # on a busy machine others were begun beside workers that had not heard of the end
    assert census.grown() == {}


def test_forked_workers_end_with_their_call() -> None:
    """They are a snapshot of one moment, and of no use afterwards."""
    list(pmap(abs, range(2), mp_context="fork", **TWO))
    census = Census()
    for _ in range(20):
        assert list(pmap(abs, (-1, 1), mp_context="fork", **TWO)) == [1, 1]
    assert eventually(lambda: not census.grown()), census.grown()


def test_workers_that_die_leave_nothing_behind() -> None:
    """Neither a dead worker's descriptors nor its host's threads outlive its replacement."""

    def deaths() -> None:
        errors = list(pmap(lambda x: os._exit(1), range(2), return_exceptions=True, **TWO))
        assert [error.index for error in errors] == [0, 1]
        warm_up()

    deaths()  # from here on workers are hosted as replacements are, one by one
    deaths()
    census = Census()
    for _ in range(10):
        deaths()
    assert eventually(lambda: not census.grown()), census.grown()


# ------------------------------------------------------------------ calls left half-way


def test_two_hundred_dropped_iterators_leave_nothing_behind() -> None:
    """Each was asked once and dropped, with results on their way; the workers serve the next call."""
    warm_up()
    census = Census()
    for number in range(200):
        half = pmap(lambda x, n=number: x + n, range(1000), chunksize=10, **TWO)
        assert next(half) == number
        del half
    assert list(pmap(abs, range(10), **TWO)) == list(range(10))
    assert eventually(lambda: not census.grown()), census.grown()


def test_dropped_iterators_with_large_results_leave_no_files() -> None:
    """Files of results that nobody will read are given up, also those that came too late."""
    warm_up()
    census = Census()
    for _ in range(20):
        half = pmap(lambda x: bytes(100_000), range(50), chunksize=1, **TWO)
        assert len(next(half)) == 100_000
        half.close()

    def settled() -> bool:
        list(pmap(abs, range(4), **TWO))  # a call is what takes late answers off the pipes
        return not census.grown()

    assert eventually(settled), census.grown()


def test_an_iterator_in_a_cycle_is_collected_with_its_call() -> None:
    """A reference cycle keeps a call alive until the collector comes, and not longer."""
    warm_up()
    census = Census()
    for _ in range(20):
        half = pmap(abs, range(1000), chunksize=10, **TWO)
        cycle: list[Any] = [half]
        cycle.append(cycle)
        next(half)
        del half, cycle
    gc.collect()

    def back_to_two() -> bool:  # who is too many goes when a call ends
        list(pmap(abs, range(4), **TWO))
        return not census.grown()

    assert eventually(back_to_two), census.grown()


def test_a_dropped_iterator_stops_its_call() -> None:
    """Items that have not begun do not begin when nobody wants them any more."""
    warm_up()
    half = pmap(lambda x: time.sleep(0.01) or x, range(10_000), chunksize=1000, **TWO)
    assert next(half) == 0
    half.close()
    # The workers are busy with that call until they have seen its end, which is one item away.
    workers = pids()
    assert len(workers) <= 2
    assert eventually(lambda: all(c.busy() == 0 for c in _pool._crews.values()))


# ------------------------------------------------------------------ the end of workers


def test_shutdown_ends_all_and_a_call_after_it_works() -> None:
    """No worker, thread, descriptor or file is left, and the next call starts anew."""
    warm_up()
    shutdown()
    census = Census()
    before = pids()
    pids(mp_context="spawn")
    list(pmap(lambda x: bytes(100_000), range(4), **TWO))
    shutdown()
    assert census.grown() == {}
    assert not before & set(descendants())
    assert glob.glob(f"/dev/shm/parmap-*-{os.getpid()}-*") == []
    assert not before & pids()


def test_shutdown_may_be_called_when_there_is_nothing_to_end() -> None:
    """Twice in a row, and from several threads."""
    warm_up()
    threads = [threading.Thread(target=shutdown) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    shutdown()
    assert list(pmap(abs, range(4), **TWO)) == [0, 1, 2, 3]


def test_shutdown_ends_a_worker_that_is_stuck() -> None:
    """A worker in the middle of an item that nobody waits for is not waited for either."""
    half = pmap(lambda x: time.sleep(3600 if x else 0), range(2), chunksize=1, **TWO)
    next(half)
    half.close()
    before = descendants()
    shutdown()
    assert len(descendants()) < len(before)
    assert {w for c in _pool._crews.values() for w in c._workers} == set()


def test_idle_workers_end_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to say so: they leave, and their descriptors with the next look at them."""
    monkeypatch.setattr(_pool, "IDLE_SECONDS", 0.2)
    census: Census | None = None
    for _ in range(2):
        workers = pids()
        assert workers & set(descendants())
        assert eventually(lambda: not workers & set(descendants()))  # noqa: B023
        assert eventually(lambda: not _pool.warm_workers())
        census = census or Census()
    assert census is not None
    assert census.grown() == {}
    assert not workers & pids()


def test_a_call_after_its_workers_went_idle_gets_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it comes before, while or after the old ones leave makes no difference to results."""
    monkeypatch.setattr(_pool, "IDLE_SECONDS", 0.05)
    for pause in (0.0, 0.04, 0.045, 0.05, 0.055, 0.06, 0.1):
        time.sleep(pause)  # the point: to come at a bad moment
        assert list(pmap(abs, range(4), chunksize=1, **TWO)) == [0, 1, 2, 3]
