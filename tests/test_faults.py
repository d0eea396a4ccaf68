"""What goes wrong in processes, done for real: workers that die, and state that workers do not see."""

from __future__ import annotations

import importlib
import itertools
import logging
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing import Manager, spawn
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from waiting import LIMIT, eventually

from parmap import WorkerDied, _pool, pmap, shutdown

# Pinned, and no more processes than it takes to tell one worker from another.
TWO: dict[str, Any] = {"parallel": True, "max_workers": 2}


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A call that never comes back is a failure of its test, not the end of the test run."""

    def late(*_: object) -> None:
        pytest.fail(
            "the call did not come back within 20 s"
        )  # no Exception: it is not to be caught

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 20, 1)  # and again, should it be lost in a callback
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def outcomes(results: Iterator[Any]) -> list[Any]:
    """All results, with an exception in the place of the item that raised it."""
    found: list[Any] = []
    while True:
        try:
            found.append(next(results))
        except StopIteration:
            return found
        except Exception as error:
            found.append(error)


def running(pid: int) -> bool:
    """Whether a process is there and not just waiting to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def workers_of(**options: Any) -> set[int]:
    """Process ids of workers that are warm for calls with these options."""
    gate = (lambda seconds: lambda _: (time.sleep(seconds), os.getpid())[1])(0.02)
    found: set[int] = set()
    assert eventually(
        lambda: found.update(pmap(gate, range(4), chunksize=1, **options)) or len(found) >= 2
    )
    return found


def assert_next_call_works(**options: Any) -> None:
    """The call after a fault is like any other."""
    assert list(pmap(lambda x: x + 1, range(20), **(options or TWO))) == list(range(1, 21))


# ------------------------------------------------------------------ workers that die under an item


def by_signal(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


DEATHS = {
    "SIGKILL": (by_signal(signal.SIGKILL), -signal.SIGKILL),
    "SIGSEGV": (by_signal(signal.SIGSEGV), -signal.SIGSEGV),
    "SIGTERM": (by_signal(signal.SIGTERM), -signal.SIGTERM),
    "os._exit": (lambda: os._exit(3), 3),
}


def deadly(at: object, die: Callable[[], None]) -> Callable[[int], int]:
    """A function that ends its process at one item, or at several."""
    fatal = at if isinstance(at, tuple) else (at,)
    return lambda x: die() if x in fatal else x * 10  # type: ignore[func-returns-value]


def assert_only_lost(found: list[Any], at: int, exitcode: int, count: int = 20) -> None:
    """The item at fault is named; all others are what map makes of them."""
    died = found[at]
    assert isinstance(died, WorkerDied), died
    assert (died.index, died.exitcode) == (at, exitcode)
    assert f"item {at} " in str(died)
    assert any(f"item {at}: {at}" in note for note in getattr(died, "__notes__", []))
    assert [x for i, x in enumerate(found) if i != at] == [x * 10 for x in range(count) if x != at]


@pytest.mark.parametrize("at", [0, 9, 19], ids=["first", "middle", "last"])
def test_a_killed_worker_loses_its_item_and_no_other(at: int) -> None:
    """SIGKILL in the middle of an item is a WorkerDied in its place; the rest is as ever."""
    die, exitcode = DEATHS["SIGKILL"]
    assert_only_lost(outcomes(pmap(deadly(at, die), range(20), **TWO)), at, exitcode)
    assert_next_call_works()


@pytest.mark.parametrize("how", ["SIGSEGV", "SIGTERM", "os._exit"])
def test_however_a_worker_ends_its_item_is_named_with_the_exit_code(how: str) -> None:
    """A crash in compiled code, a polite request and a bare exit differ only in the exit code."""
    die, exitcode = DEATHS[how]
    assert_only_lost(outcomes(pmap(deadly(9, die), range(20), **TWO)), 9, exitcode)
    assert_next_call_works()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_killed_worker_is_noticed_under_every_start_method(method: str) -> None:
    """The same for workers that were spawned or forked."""
    options = {**TWO, "mp_context": method}
    die, exitcode = DEATHS["SIGKILL"]
    assert_only_lost(outcomes(pmap(deadly(9, die), range(20), **options)), 9, exitcode)
    assert_next_call_works(**options)


@pytest.mark.parametrize("chunksize", [1, 7, 20])
def test_the_item_at_fault_is_found_in_a_chunk_of_any_size(chunksize: int) -> None:
    """Items before and after it in its chunk keep their results."""
    die, exitcode = DEATHS["SIGKILL"]
    found = outcomes(pmap(deadly(9, die), range(20), chunksize=chunksize, **TWO))
    assert_only_lost(found, 9, exitcode)


def test_when_every_item_kills_its_worker_every_item_says_so() -> None:
    """All workers die at once, again and again, and the call still ends with one error an item."""
    die, _ = DEATHS["SIGKILL"]
    found = outcomes(pmap(deadly((0, 1, 2, 3, 4, 5), die), range(6), **TWO))
    assert [(type(error), error.index) for error in found] == [(WorkerDied, i) for i in range(6)]
    assert_next_call_works()


def test_unordered_results_lose_only_the_item_at_fault() -> None:
    """ordered=False changes the order, not what is lost."""
    die, _ = DEATHS["SIGKILL"]
    found = outcomes(pmap(deadly(9, die), range(20), ordered=False, **TWO))
    errors = [x for x in found if isinstance(x, Exception)]
    assert [(type(error), error.index) for error in errors] == [(WorkerDied, 9)]
    assert sorted(x for x in found if isinstance(x, int)) == [x * 10 for x in range(20) if x != 9]


def test_return_exceptions_puts_the_death_in_the_place_of_the_item() -> None:
    """The error is a result like any other, and nothing is raised."""
    die, exitcode = DEATHS["SIGKILL"]
    found = list(pmap(deadly(9, die), range(20), return_exceptions=True, **TWO))
    assert_only_lost(found, 9, exitcode)


def test_retries_run_an_item_that_lost_its_worker_again(tmp_path: Path) -> None:
    """A worker that dies once costs nothing but time when one retry is allowed."""

    def dies_once(x: int) -> int:
        try:
            (tmp_path / str(x)).touch(exist_ok=False)
        except FileExistsError:
            return x
        if x == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    results = pmap(dies_once, range(6), retries=1, chunksize=1, **TWO)
    assert list(results) == list(range(6))
    assert results.report.worker_deaths == 1


def test_retries_end(tmp_path: Path) -> None:
    """An item that kills each worker it meets is run as often as was allowed, then named."""

    def dies_always(x: int) -> int:
        if x == 2:
            with (tmp_path / "runs").open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    found = outcomes(pmap(dies_always, range(4), retries=2, chunksize=1, **TWO))
    assert [found[0], found[1], found[3]] == [0, 1, 3]
    assert isinstance(found[2], WorkerDied)
    assert (tmp_path / "runs").read_text() == "xxx"


# ------------------------------------------------------------------ workers that die at other times


def test_workers_killed_while_idle_are_replaced_in_silence() -> None:
    """Nothing was lost, so there is nothing to say."""
    before = workers_of(**TWO)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not any(running(pid) for pid in before))
    assert_next_call_works()
    assert not before & set(pmap(lambda _: os.getpid(), range(4), **TWO))


def test_a_call_right_after_its_idle_workers_were_killed_works() -> None:
    """Also where the caller cannot have noticed yet: no item had begun, so none is at fault."""
    for _ in range(5):
        for pid in workers_of(**TWO):
            os.kill(pid, signal.SIGKILL)
        assert_next_call_works()


@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_workers_that_die_while_they_start_are_a_clear_error(method: str) -> None:
    """An initializer that ends its process: a few tries, then an error, not a new worker for ever."""
    options = {**TWO, "mp_context": method}
    results = pmap(abs, range(4), initializer=os._exit, initargs=(5,), **options)
    with pytest.raises(WorkerDied, match="while they start") as caught:
        next(results)
    assert (caught.value.index, caught.value.exitcode) == (None, 5)
    assert_next_call_works(**options)


def test_a_worker_killed_while_it_pickles_its_result_loses_that_item() -> None:
    """The item had run, but its result is gone with the process: the same error."""

    class Fatal:
        def __reduce__(self) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

    found = outcomes(pmap(lambda x: Fatal() if x == 2 else x * 10, range(5), chunksize=1, **TWO))
    assert_only_lost(found, 2, -signal.SIGKILL, count=5)
    assert_next_call_works()


class Loaded:
    """An object whose loading in a worker ends as it is told; it was made in this process."""

    def __init__(self, act: Callable[[], object]):
        self.act, self.home = act, os.getpid()

    def __reduce__(self) -> Any:
        return _load, (self.act, self.home)


def _load(act: Callable[[], object], home: int) -> int:
    if os.getpid() != home:
        act()
    return -1


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("chunksize", [1, 8])
@pytest.mark.parametrize("method", ["forkserver", "fork"])
def test_a_worker_killed_while_it_loads_an_item_loses_that_item(
    method: str, chunksize: int
) -> None:
    """Unpickling runs code too. The item is found among those of its chunk, and no worker follows
    the other for ever."""
    options = {**TWO, "mp_context": method}
    items = [0, 1, Loaded(lambda: os._exit(7)), 3, 4]
    found = outcomes(pmap(lambda x: x * 10, items, chunksize=chunksize, **options))
    assert isinstance(found[2], WorkerDied)
    assert (found[2].index, found[2].exitcode) == (2, 7)
    assert [found[i] for i in (0, 1, 3, 4)] == [0, 10, 30, 40]
    assert_next_call_works(**options)


def test_what_is_no_exception_may_come_out_of_loading_an_item() -> None:
    """KeyboardInterrupt out of an item's own code is that item's error, and ends no worker."""
    found = outcomes(pmap(lambda x: x * 10, [0, Loaded(interrupt), 2], **TWO))
    assert isinstance(found[1], TypeError)
    assert "item 1 " in str(found[1])
    assert [found[0], found[2]] == [0, 20]


def test_what_is_no_exception_may_come_out_of_pickling_a_result() -> None:
    """The same, on the way back."""

    class Interrupts:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    found = outcomes(pmap(lambda x: Interrupts() if x == 1 else x, range(3), **TWO))
    assert isinstance(found[1], TypeError)
    assert [found[0], found[2]] == [0, 2]


class FatalFunction:
    """Works here, and ends every worker that loads it."""

    def __call__(self, x: int) -> int:
        time.sleep(0.01)
        return x

    def __reduce__(self) -> Any:
        return _load, (lambda: os._exit(8), os.getpid())


def test_a_function_whose_loading_kills_workers_is_a_clear_error() -> None:
    """A few tries, then it is said; left to decide, the call runs here, with the warning."""
    with pytest.raises(WorkerDied, match="while they load the function") as caught:
        list(pmap(FatalFunction(), range(4), **TWO))
    assert (caught.value.index, caught.value.exitcode) == (None, 8)
    with pytest.warns(RuntimeWarning, match="while they load the function"):
        assert list(pmap(FatalFunction(), range(200), max_workers=2)) == list(range(200))
    assert_next_call_works()


def test_a_worker_killed_while_it_sends_a_large_result_does_not_hang_the_call() -> None:
    """As soon as a worker's file appears it is killed, with 64 MB on their way and a half written."""
    killed: list[int] = []
    over = threading.Event()

    def hunt() -> None:
        while not over.is_set() and not killed:
            for directory in _pool.store().directories:
                for name in os.listdir(directory) if os.path.isdir(directory) else ():
                    pid = int(name.split("-")[0])
                    if pid != os.getpid() and not killed:
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        big = 64 * 2**20
        found = outcomes(pmap(lambda x: bytes([x]) * big, range(4), chunksize=1, **TWO))
    finally:
        over.set()
        hunter.join()
    assert len(killed) == 1
    assert len(found) == 4
    for index, value in enumerate(found):
        if isinstance(value, WorkerDied):
            assert (value.index, value.exitcode) == (index, -signal.SIGKILL)
        else:
            assert (len(value), value[:1], value[-1:]) == (big, bytes([index]), bytes([index]))
    assert_next_call_works()
    for directory in _pool.store().directories:
        names = os.listdir(directory) if os.path.isdir(directory) else []
        assert not [name for name in names if name.startswith(f"{killed[0]}-")]


def test_a_worker_killed_from_outside_in_the_middle_of_an_item_names_it(tmp_path: Path) -> None:
    """Somebody, or the kernel when memory runs out, ends it; the item is known all the same."""
    told = tmp_path / "pid"

    def waits_at_one(x: int) -> int:
        if x == 1:
            (tmp_path / "new").write_text(str(os.getpid()))
            (tmp_path / "new").rename(told)
            signal.pause()
        return x * 10

    def hunt() -> None:
        assert eventually(told.exists)
        os.kill(int(told.read_text()), signal.SIGKILL)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    found = outcomes(pmap(waits_at_one, range(4), **TWO))
    hunter.join()
    assert_only_lost(found, 1, -signal.SIGKILL, count=4)
    assert_next_call_works()


class Deadly:
    """A result that ends the worker which pickles it."""

    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_result_that_kills_its_worker_when_it_is_pickled_is_the_one_at_fault() -> None:
    """Small results are pickled together, some items later: here the last one runs alone."""
    fn = lambda x: Deadly() if x == 5 else x  # noqa: E731
    found = outcomes(pmap(fn, range(8), chunksize=8, **TWO))
    assert isinstance(found[5], WorkerDied)
    assert [x for x in range(8) if found[x] != x] == [5]


def test_large_results_that_a_worker_sent_before_it_died_are_not_lost(tmp_path: Path) -> None:
    """They lie in files of the dead worker, and wait there until the first item is done."""
    replaced = tmp_path / "replaced"

    def fn(x: int) -> bytes:
        if x == 0:
            assert eventually(replaced.exists)
        elif x == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        elif x == 3:
            replaced.touch()
        return bytes([x]) * 100_000

    found = outcomes(pmap(fn, range(4), chunksize=1, **TWO))
    assert isinstance(found[2], WorkerDied)
    assert [found[x] for x in (0, 1, 3)] == [bytes([x]) * 100_000 for x in (0, 1, 3)]


def test_a_stopped_worker_is_overdue_like_a_slow_one() -> None:
    """SIGSTOP: nothing moves, nothing dies; task_timeout ends it and names the item."""
    stop = lambda x: os.kill(os.getpid(), signal.SIGSTOP) if x == 2 else x * 10  # noqa: E731
    found = outcomes(pmap(stop, range(5), task_timeout=0.5, **TWO))
    assert isinstance(found[2], TimeoutError)
    assert "item 2 " in str(found[2])
    assert [found[i] for i in (0, 1, 3, 4)] == [0, 10, 30, 40]
    assert_next_call_works()


def test_a_worker_that_was_stopped_while_idle_is_replaced_where_time_is_limited() -> None:
    """It never begins, so no item of it is overdue; but nobody waits for it for ever."""
    for pid in workers_of(**TWO):
        os.kill(pid, signal.SIGSTOP)
    assert list(pmap(abs, range(4), task_timeout=0.5, **TWO)) == [0, 1, 2, 3]
    assert_next_call_works()


class SlowToLoad:
    """Takes an hour to be unpickled."""

    def __reduce__(self) -> Any:
        return time.sleep, (3600,)


def test_an_item_that_takes_too_long_to_load_is_overdue_too() -> None:
    """The others of its chunk are not."""
    found = outcomes(pmap(str, [1, SlowToLoad(), 3], task_timeout=0.5, **TWO))
    assert isinstance(found[1], TimeoutError)
    assert "item 1 " in str(found[1])
    assert "task_timeout" in str(found[1])
    assert "retries" in str(found[1])
    assert [found[0], found[2]] == ["1", "3"]
    assert_next_call_works()


def test_a_grandchild_that_keeps_everything_open_does_not_delay_the_news(tmp_path: Path) -> None:
    """A copy of the worker lives on with all its descriptors; the worker's death is seen at once."""
    told = tmp_path / "grandchild"

    def leaves_a_copy(x: int) -> int:
        if x == 2:
            child = os.fork()
            if not child:
                signal.pause()
                os._exit(0)
            told.write_text(str(child))
            os.kill(os.getpid(), signal.SIGKILL)
        return x * 10

    try:
        found = outcomes(pmap(leaves_a_copy, range(5), chunksize=1, **TWO))
        assert running(int(told.read_text()))
        assert_only_lost(found, 2, -signal.SIGKILL, count=5)
        assert_next_call_works()
    finally:
        os.kill(int(told.read_text()), signal.SIGKILL)


def test_a_function_that_ends_its_worker_after_the_call_disturbs_nobody() -> None:
    """A thread that fn left behind ends the worker when it is idle."""

    def plants_a_bomb(x: int) -> int:
        threading.Timer(0.05, os._exit, [9]).start()
        return os.getpid()

    planted = set(pmap(plants_a_bomb, range(2), chunksize=1, **TWO))
    assert eventually(lambda: not any(running(pid) for pid in planted))
    assert_next_call_works()


def test_initializers_that_do_not_come_again_cost_nothing_for_ever() -> None:
    """Each new initarg needs new workers; those of long ago are let go."""

    def mapped(number: int) -> list[int]:
        options = {**TWO, "initializer": abs, "initargs": (number,)}
        return list(pmap(lambda _: os.getpid(), range(4), **options))

    first = set(mapped(0))
    for number in range(1, 10):
        mapped(number)
    assert eventually(lambda: not any(running(pid) for pid in first))
    assert len(_pool._crews) <= _pool.MOST_CREWS


def test_calls_that_take_turns_with_initializers_keep_their_workers() -> None:
    """As many as are kept: the second round finds the workers of the first."""
    options = {**TWO, "max_workers": 1, "initializer": abs}

    def mapped(number: int) -> int:
        return next(iter(pmap(lambda _: os.getpid(), range(1), initargs=(number,), **options)))

    shutdown()
    numbers = range(_pool.MOST_CREWS)
    assert [mapped(number) for number in numbers] == [mapped(number) for number in numbers]


# ------------------------------------------------------------------ functions with processes of their own


def test_a_function_may_start_a_program() -> None:
    """subprocess works in a worker, and reports the program's own exit code."""

    def shell(x: int) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", f"print({x}); exit({x})"], capture_output=True, text=True
        )
        return done.returncode, done.stdout

    assert list(pmap(shell, range(3), **TWO)) == [(0, "0\n"), (1, "1\n"), (2, "2\n")]


def test_a_program_that_a_function_starts_can_be_interrupted() -> None:
    """What a worker does about Ctrl-C is not inherited by what it starts."""

    def interrupted(_: int) -> int:
        text = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('ignored')"
        return subprocess.run([sys.executable, "-c", text], capture_output=True).returncode

    assert list(pmap(interrupted, range(2), **TWO)) == [-signal.SIGINT] * 2


def test_a_function_may_start_a_thread() -> None:
    """Threads work in a worker."""

    def threaded(x: int) -> list[int]:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(x))
        thread.start()
        thread.join()
        return found

    assert list(pmap(threaded, range(4), **TWO)) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_function_may_open_shared_memory_of_the_callers(method: str) -> None:
    """It is still the caller's when the workers have ended."""
    block = SharedMemory(create=True, size=8)
    name = block.name

    def read(_: int) -> int:
        there = SharedMemory(name)
        try:
            return there.buf[0]
        finally:
            there.close()

    try:
        block.buf[0] = 7
        assert list(pmap(read, range(4), mp_context=method, **TWO)) == [7] * 4
        shutdown()
        SharedMemory(name).close()
    finally:
        block.close()
        block.unlink()


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_function_may_use_what_a_manager_of_the_callers_holds(method: str) -> None:
    """Managers answer their own family only."""
    with Manager() as manager:
        told = manager.dict()
        lock = manager.Lock()

        def tell(x: int) -> None:
            with lock:
                told[x] = x * x

        list(pmap(tell, range(4), mp_context=method, **TWO))
        assert dict(told) == {0: 0, 1: 1, 2: 4, 3: 9}


# ------------------------------------------------------------------ the fork server


def fork_server() -> int:
    """The process id of a new one of this process."""
    shutdown()
    pid = next(iter(workers_of(**TWO)))
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_fork_server_killed_between_calls_is_replaced() -> None:
    """Its workers live on; who needs more than there are gets another server."""
    server = fork_server()
    os.kill(server, signal.SIGKILL)
    assert eventually(lambda: not running(server))
    assert_next_call_works()
    assert fork_server() != server


def test_a_fork_server_killed_in_a_call_loses_nothing() -> None:
    """Nor does a worker that dies after it, whose exit code then nobody can know."""
    server = fork_server()
    results = pmap(lambda x: os._exit(3) if x == 15 else x, range(20), chunksize=1, **TWO)
    assert next(results) == 0
    os.kill(server, signal.SIGKILL)
    found = [0, *outcomes(results)]
    died = found.pop(15)
    assert isinstance(died, WorkerDied)
    assert died.index == 15
    assert found == [x for x in range(20) if x != 15]
    assert_next_call_works()


def test_a_stopped_fork_server_is_not_waited_for_once_a_worker() -> None:
    """It cannot tell how its workers ended: a second for each would be more than a test may take."""
    server = fork_server()
    list(pmap(abs, range(40), chunksize=1, parallel=True, max_workers=20))
    os.kill(server, signal.SIGSTOP)
    shutdown()
    assert not running(server)


def test_a_fork_server_that_dies_at_its_start_is_a_clear_error() -> None:
    before = spawn.get_executable()
    shutdown()
    multiprocessing.set_executable(shutil.which("true") or "")
    try:
        with pytest.raises((OSError, WorkerDied), match="die") as caught:
            list(pmap(abs, range(4), **TWO))
    finally:
        multiprocessing.set_executable(before)
    assert "parallel" in str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert_next_call_works()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_shutdown_ends_workers_of_a_call_that_was_left(method: str) -> None:
    results = pmap(lambda x: os.getpid(), range(9), chunksize=1, mp_context=method, **TWO)
    worker = next(results)
    shutdown()
    assert eventually(lambda: not running(worker))
    results.close()
    assert_next_call_works()


def test_shutdown_ends_the_fork_server() -> None:
    """A program that wants no more of parmap has no process of it."""
    server = fork_server()
    shutdown()
    assert not running(server)


def test_a_copy_of_a_worker_that_fn_makes_answers_nothing() -> None:
    """It comes back from fn as its original does, and would answer for every item a second time."""

    def forks(x: int) -> int:
        if child := os.fork():
            os.waitpid(child, 0)
        return x

    assert list(pmap(forks, range(6), chunksize=1, **TWO)) == list(range(6))
    assert_next_call_works()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_function_may_start_a_pool_of_its_own(method: str) -> None:
    """Workers are not daemonic to fn: under map it may start processes, so it may here."""

    def pooled(x: int) -> list[int]:
        import multiprocessing

        with multiprocessing.get_context(method).Pool(1) as pool:
            return pool.map(abs, [-x, -x])

    assert list(pmap(pooled, range(2), **TWO)) == [[0, 0], [1, 1]]


# ------------------------------------------------------------------ calls in calls


@pytest.mark.parametrize("parallel", [None, True])
def test_a_call_inside_a_worker_is_serial(parallel: bool | None) -> None:
    """Nested calls give the same results, without workers of workers."""

    def nested(x: int) -> tuple[list[int], str]:
        inner = pmap(lambda y: y * x, range(3), parallel=parallel)
        return list(inner), inner.report.mode

    assert list(pmap(nested, range(3), **TWO)) == [
        ([y * x for y in range(3)], "serial") for x in range(3)
    ]


def test_a_call_may_take_another_call_as_its_input() -> None:
    """pmap(f, pmap(g, xs)): both have workers at the same time, and neither waits for the other."""
    inner = pmap(lambda x: x + 1, range(100), **TWO)
    assert list(pmap(lambda x: x * 2, inner, **TWO)) == [(x + 1) * 2 for x in range(100)]


def test_a_call_may_be_made_by_the_input_of_another() -> None:
    """A generator that maps in parallel while it is drawn from."""

    def rows() -> Iterator[int]:
        for start in range(3):
            yield from pmap(lambda x, s=start: x + s, range(10), **TWO)

    expected = [-(x + start) for start in range(3) for x in range(10)]
    assert list(pmap(lambda x: -x, rows(), **TWO)) == expected


def test_two_calls_may_be_consumed_in_turns() -> None:
    """Half-used iterators side by side do not take each other's results."""
    first, second = pmap(lambda x: x, range(200), **TWO), pmap(lambda x: -x, range(200), **TWO)
    assert list(zip(first, second, strict=True)) == [(x, -x) for x in range(200)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_call_does_not_wait_for_items_of_another_thread_s_call(
    method: str, tmp_path: Path
) -> None:
    """A forked worker keeps no pipe by which another thread learns that a program has started."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    begun = threading.Barrier(5)

    def call(fn: Callable[[Any], Any], items: list[Any], method: str) -> None:
        begun.wait(LIMIT)
        list(pmap(fn, items, **TWO, mp_context=method, chunksize=1))

    def ended() -> bool:
        with suppress(OSError):  # nobody reads from it now
            os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        return not long.is_alive()

    long = threading.Thread(target=call, args=(Path.read_bytes, [gate] * 2, "fork"), daemon=True)
    short = [
        threading.Thread(target=call, args=(abs, [1] * 9, method), daemon=True) for _ in range(4)
    ]
    for thread in (long, *short):
        thread.start()
    for thread in short:
        thread.join(LIMIT)
    waited = any(thread.is_alive() for thread in short)
    assert eventually(ended)
    assert not waited


def test_eight_threads_may_call_at_once() -> None:
    """Each gets its own results, all of them."""
    found: dict[int, list[int]] = {}
    ready = threading.Barrier(8)

    def call(number: int) -> None:
        ready.wait()
        for _ in range(3):
            found[number] = list(pmap(lambda x: x + number, range(50), chunksize=5, **TWO))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert not any(thread.is_alive() for thread in threads)
    assert found == {n: [x + n for x in range(50)] for n in range(8)}
    shutdown()  # sixteen workers are more than the next test needs


def test_a_call_may_take_over_workers_of_a_call_that_began_later() -> None:
    """The older call loses a worker after the newer one has ended, and gets one that served it."""
    die, exitcode = DEATHS["SIGKILL"]
    older = pmap(deadly(9, die), range(20), chunksize=1, **TWO)
    first = next(older)
    assert_next_call_works()
    # busy() also takes back workers that had still something to say.
    assert eventually(lambda: [c.busy() for c in _pool._crews.values()] and _pool.warm_workers())
    assert_only_lost([first, *outcomes(older)], 9, exitcode)


def test_a_worker_that_was_late_for_a_call_joins_it(tmp_path: Path) -> None:
    """It was still loading for the call before; the one that is there does not remain alone."""
    gate, pair = tmp_path / "gate", tmp_path / "pair"
    os.mkfifo(gate)
    os.mkfifo(pair)
    shutdown()

    def load() -> None:
        try:
            os.mkdir(tmp_path / "first")
        except FileExistsError:
            gate.read_bytes()

    loading = pmap(partial(max, Loaded(load)), range(2), chunksize=1, ordered=False, **TWO)
    assert next(loading) in (0, 1)
    loading.close()

    def meet(x: int) -> int:
        if x == 0:
            gate.write_bytes(b"")  # opens when who loads is there, and lets it go
            pair.read_bytes()  # until another worker writes
        elif x == 19:
            pair.write_bytes(b"")
        return os.getpid()

    results = pmap(meet, range(20), chunksize=1, progress=False, **TWO)
    assert len(set(results)) == 2
    assert results.report.workers == 2


def test_a_death_in_one_thread_s_call_is_no_matter_of_another_s() -> None:
    """Two calls at once: the one whose item dies is told so, the other has all its results."""
    die, exitcode = DEATHS["SIGKILL"]
    found: dict[str, list[Any]] = {}

    def call(name: str, at: int) -> None:
        found[name] = outcomes(pmap(deadly(at, die), range(20), **TWO))

    threads = [threading.Thread(target=call, args=args) for args in (("dies", 9), ("lives", -1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert_only_lost(found["dies"], 9, exitcode)
    assert found["lives"] == [x * 10 for x in range(20)]


# ------------------------------------------------------------------ state that workers do not see

_names = itertools.count()


class Written:
    """A module of the user's, written to a file and imported."""

    def __init__(self, folder: Path):
        self.name = f"written_{next(_names)}"
        self.path = folder / f"{self.name}.py"

    def write(self, text: str) -> None:
        """Put a text into the file; longer each time, so that no cached bytecode passes for it."""
        count = self.path.stat().st_size if self.path.exists() else 0
        self.path.write_text(text + "\n" + "#" * count + "\n")
        importlib.invalidate_caches()

    def load(self, text: str) -> ModuleType:
        self.write(text)
        return importlib.import_module(self.name)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """A module file in a folder of sys.path."""
    monkeypatch.syspath_prepend(tmp_path)
    module = Written(tmp_path)
    yield module
    sys.modules.pop(module.name, None)


LEVEL = """
import math, time
LEVEL = 1
def helper(): return LEVEL
rounded = math.floor
class Config: LIMIT = 0
def level(_):
    time.sleep(0.01)
    return helper() + rounded(0.5) + Config.LIMIT
"""

# What a test does to the module above, and what `level` returns after it under map.
CHANGES = {
    "a scalar": (lambda module: setattr(module, "LEVEL", 5), 5, "LEVEL"),
    "a function": (lambda module: setattr(module, "helper", lambda: 6), 6, "helper"),
    "a type for a function": (lambda module: setattr(module, "helper", int), 0, "helper"),
    "a builtin": (lambda module: setattr(module, "rounded", math.ceil), 2, "rounded"),
    "of a class": (lambda module: setattr(module.Config, "LIMIT", 7), 8, "Config.LIMIT"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_state_set_at_run_time_is_never_answered_from_a_stale_worker(
    written: Written, change: str
) -> None:
    """Left to decide, the call runs here, says so once, names what differs, and is right."""
    act, expected, name = CHANGES[change]
    module = written.load(LEVEL)
    assert list(pmap(module.level, range(4), **TWO)) == [1] * 4
    act(module)
    with pytest.warns(RuntimeWarning, match=name) as caught:
        results = list(pmap(module.level, range(60), max_workers=2))
    assert results == [expected] * 60
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("change", CHANGES)
def test_state_set_at_run_time_is_an_error_for_who_insists_on_workers(
    written: Written, change: str
) -> None:
    """parallel=True cannot be right, and says what to do."""
    act, _, name = CHANGES[change]
    module = written.load(LEVEL)
    act(module)
    with pytest.raises(RuntimeError, match=name) as caught:
        list(pmap(module.level, range(4), **TWO))
    assert "mp_context='fork'" in str(caught.value)
    assert_next_call_works()


@pytest.mark.parametrize("change", CHANGES)
def test_forked_workers_see_state_set_at_run_time(written: Written, change: str) -> None:
    """mp_context="fork" is a snapshot of this moment, at every call."""
    act, expected, _ = CHANGES[change]
    module = written.load(LEVEL)
    options = {**TWO, "mp_context": "fork"}
    assert list(pmap(module.level, range(2), **options)) == [1, 1]
    act(module)
    assert list(pmap(module.level, range(2), **options)) == [expected] * 2


def test_state_that_is_set_back_is_no_longer_in_the_way(written: Written) -> None:
    """Equal again is equal: the check looks at values, not at history."""
    module = written.load(LEVEL)
    module.LEVEL = 5
    with pytest.raises(RuntimeError):
        list(pmap(module.level, range(2), **TWO))
    module.LEVEL = 1
    assert list(pmap(module.level, range(2), **TWO)) == [1, 1]


def test_an_attribute_of_a_module_that_fn_reads_is_state_too(
    written: Written, tmp_path: Path
) -> None:
    """`config.LEVEL = 5` and then a map whose function reads config.LEVEL."""
    config = Written(tmp_path)
    loaded = config.load("LEVEL = 1")
    module = written.load(f"import {config.name} as config\ndef level(_): return config.LEVEL\n")
    assert list(pmap(module.level, range(2), **TWO)) == [1, 1]
    loaded.LEVEL = 5
    with pytest.raises(RuntimeError, match="LEVEL"):
        list(pmap(module.level, range(2), **TWO))
    with pytest.raises(RuntimeError, match="LEVEL"):  # the module is in a cell of the closure
        list(pmap(lambda _: loaded.LEVEL, range(2), **TWO))
    del sys.modules[config.name]


def test_an_attribute_of_a_module_in_a_package_is_state_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`import package.config`, and a function that reads package.config.LEVEL."""
    name = f"package_{next(_names)}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "config.py").write_text("LEVEL = 1")
    (tmp_path / name / "work.py").write_text(
        f"import {name}.config\ndef level(_): return {name}.config.LEVEL"
    )
    monkeypatch.syspath_prepend(tmp_path)
    work = importlib.import_module(f"{name}.work")
    assert list(pmap(work.level, range(2), **TWO)) == [1, 1]
    sys.modules[f"{name}.config"].LEVEL = 5  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=f"{name}.config.LEVEL is 5 here and 1 in a worker"):
        list(pmap(work.level, range(2), **TWO))
    for module in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[module]


@pytest.mark.parametrize("wrap", ["method", "partial", "closure", "callable", "decorated"])
def test_state_is_found_through_what_wraps_the_function(written: Written, wrap: str) -> None:
    """A bound method, a partial, a closure, an object with __call__, a decorated function."""
    module = written.load(
        """
import functools
LEVEL = 1
def level(_=0): return LEVEL
class Reader:
    def read(self, _): return LEVEL
    def __call__(self, _): return level()
method = Reader().read
partial = functools.partial(level)
def around(inner): return lambda _: inner()
closure = around(level)
callable = Reader()
@functools.wraps(level)
def decorated(_): return level.__wrapped__() if hasattr(level, "__wrapped__") else level()
"""
    )
    assert list(pmap(getattr(module, wrap), range(2), **TWO)) == [1, 1]
    module.LEVEL = 5
    with pytest.raises(RuntimeError, match="LEVEL"):
        list(pmap(getattr(module, wrap), range(2), **TWO))


def test_a_module_that_was_edited_and_reloaded_is_answered_from_the_new_code(
    written: Written,
) -> None:
    """A warm worker knows the old code; a new one imports the new: no error, the right answer."""
    module = written.load("def f(x): return x + 1")
    assert list(pmap(module.f, range(3), **TWO)) == [1, 2, 3]
    written.write("def f(x): return x + 1000")
    importlib.reload(module)
    assert list(pmap(module.f, range(3), **TWO)) == [1000, 1001, 1002]
    written.write("SCALE = 7\ndef f(x): return x * SCALE")
    importlib.reload(module)
    assert list(pmap(module.f, range(3), **TWO)) == [0, 7, 14]


def test_a_module_that_was_edited_and_not_reloaded_is_not_run_in_its_new_form(
    written: Written,
) -> None:
    """The caller has the old code in memory, and map would run that; a new worker would not."""
    module = written.load("def f(x): return x + 1")
    shutdown()
    written.write("def f(x): return x + 1000")
    with pytest.raises(RuntimeError, match=r"f\(\)"):
        list(pmap(module.f, range(3), **TWO))


def test_logging_levels_follow_the_caller_there_and_back() -> None:
    """Also those that the caller takes back: a worker is as quiet as its caller is now."""

    def levels(_: int) -> tuple[int, int, int]:
        import logging

        named = logging.getLogger("parmap.tests.levels")
        return logging.getLogger().level, named.level, logging.root.manager.disable

    root, named = logging.getLogger(), logging.getLogger("parmap.tests.levels")
    before = root.level
    try:
        for told in ((logging.DEBUG, logging.ERROR, 40), (logging.WARNING, logging.NOTSET, 0)):
            root.setLevel(told[0])
            named.setLevel(told[1])
            logging.disable(told[2])
            assert set(pmap(levels, range(4), chunksize=1, **TWO)) == {told}
    finally:
        root.setLevel(before)
        named.setLevel(logging.NOTSET)
        logging.disable(logging.NOTSET)


def test_the_default_start_method_of_multiprocessing_follows_the_caller() -> None:
    """A function that starts processes of its own gets those that it would get here."""
    told = lambda _: multiprocessing.get_start_method()  # noqa: E731
    before = multiprocessing.get_start_method(allow_none=True)
    try:
        for method in ("spawn", "forkserver", "fork", "spawn"):
            multiprocessing.set_start_method(method, force=True)
            results = pmap(told, range(4), mp_context="forkserver", **TWO)
            assert set(results) == {method}
    finally:
        multiprocessing.set_start_method(before, force=True)
        shutdown()


MEMORY = """
import functools, logging
memo = {}
count = 0
log = logging.getLogger("parmap.tests")
seen = set()
@functools.lru_cache
def square(x): return x * x
class Cache:
    hits = 0
class Lazy:
    made = None
    @classmethod
    def make(cls): cls.made = object()
    @functools.cached_property
    def limit(self): return 5
lazy = Lazy()
def remember(x):
    if Lazy.made is None: Lazy.make()
    assert lazy.limit == 5
    global count
    count += 1
    Cache.hits += 1
    memo[x] = square(x)
    seen.add(x)
    log.debug("%s", x)
    return memo[x]
"""


def test_memo_tables_counters_caches_and_loggers_raise_no_alarm(written: Written) -> None:
    """What a function keeps for itself differs between processes as a matter of course."""
    module = written.load(MEMORY)
    for _ in range(3):
        assert [module.remember(x) for x in range(5)] == [0, 1, 4, 9, 16]
        module.log.setLevel(10)
        assert list(pmap(module.remember, range(5), **TWO)) == [0, 1, 4, 9, 16]


def test_a_counter_that_another_function_of_the_module_advances_raises_no_alarm(
    written: Written,
) -> None:
    """What fn reads and helpers that it reaches assign is a counter, not a setting."""
    module = written.load(
        """
total = 0
def advance():
    global total
    total += 1
def f(x):
    advance()
    return x if total else None
"""
    )
    module.f(0)
    assert list(pmap(module.f, range(3), **TWO)) == [0, 1, 2]


def test_globals_of_main_travel_with_the_function_at_every_call() -> None:
    """A script that changes a global between two calls gets what map would give."""
    program = """if True:
        from parmap import pmap
        level = 1
        table = {"a": 1}
        def f(_): return level, table["a"]
        two = dict(parallel=True, max_workers=2)
        print(list(pmap(f, range(2), **two)))
        level = 2
        table["a"] = 3
        print(list(pmap(f, range(2), **two)))
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.stdout, done.stderr) == ("[(1, 1), (1, 1)]\n[(2, 3), (2, 3)]\n", "")


def test_closures_travel_with_the_function_at_every_call() -> None:
    """A cell that is changed between two calls is as it is at the second."""
    table = {"a": 1}
    read = lambda _: table["a"]  # noqa: E731
    assert list(pmap(read, range(2), **TWO)) == [1, 1]
    table["a"] = 2
    assert list(pmap(read, range(2), **TWO)) == [2, 2]


# ------------------------------------------------------------------ the place, which follows


def test_the_working_directory_follows_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warm workers go where the caller has gone since, and back."""
    start = os.getcwd()
    for folder in (start, str(tmp_path), start):
        monkeypatch.chdir(folder)
        assert set(pmap(lambda _: os.getcwd(), range(4), **TWO)) == {os.path.realpath(folder)}


def test_environment_variables_follow_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set, changed and deleted between calls."""
    for value in ("1", "2", None):
        if value is None:
            monkeypatch.delenv("PARMAP_TESTS_SAY")
        else:
            monkeypatch.setenv("PARMAP_TESTS_SAY", value)
        assert set(pmap(lambda _: os.environ.get("PARMAP_TESTS_SAY"), range(4), **TWO)) == {value}


def test_sys_path_follows_the_caller(written: Written) -> None:
    """A warm worker imports from a folder that was put on sys.path after it started."""
    assert_next_call_works()
    written.write("VALUE = 3")
    name = written.name
    assert list(pmap(lambda _: importlib.import_module(name).VALUE, range(2), **TWO)) == [3, 3]


def test_warnings_filters_follow_the_caller() -> None:
    """What is an error here is one there, and what is ignored here is ignored there."""

    def warn(x: int) -> int:
        warnings.warn("careful", UserWarning, stacklevel=1)
        return x

    assert [type(e) for e in outcomes(pmap(warn, range(2), **TWO))] == [UserWarning] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert list(pmap(warn, range(2), **TWO)) == [0, 1]
    assert [type(e) for e in outcomes(pmap(warn, range(2), **TWO))] == [UserWarning] * 2


def test_a_deleted_working_directory_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers, warm or new, are then as lost as the caller, and write nowhere else."""

    def write(_: int) -> str:
        try:
            Path("parmap-lost").write_text("here")
        except FileNotFoundError as error:
            return type(error).__name__
        return os.getcwd()

    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for _ in range(2):
        assert set(pmap(write, range(4), chunksize=1, **TWO)) == {"FileNotFoundError"}
        assert_next_call_works()
        shutdown()
