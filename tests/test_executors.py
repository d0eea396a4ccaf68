"""`executor=`: what the contract tests do not say of it, with real executors (see `executors`).

Tests with the mark `cluster` need a real Dask or Ray: `pytest -m cluster` runs them, and the
contract tests on both.
"""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import executors
import pytest
from conftest import started_executor
from waiting import eventually

from parmap import WorkerDied, _machine, _plan, pmap, pstarmap
from parmap._executors import facts_of

KINDS = ["threads", "processes", "pool", "thread_pool", "interpreters", "loky", "multiprocess"]
LIMIT = 30.0


def once(directory: Path, name: object) -> bool:
    """Whether this is the first time, over all processes, that anybody asks for `name`."""
    try:
        (directory / str(name)).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def raised(results: Iterator[Any]) -> BaseException:
    """What ends the iteration."""
    try:
        list(results)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


class Recording(Executor):
    """An executor that runs a chunk where it is submitted, and remembers what was pickled."""

    _max_workers = 2

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.forgetful = False

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        message = pickle.dumps((fn, args, kwargs))
        self.sizes.append(len(message))
        if self.forgetful:  # as a worker process that has just been started
            sys.modules.pop("_parmap_kept", None)
        future: Future[Any] = Future()
        try:
            fn, args, kwargs = pickle.loads(message)
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


# ------------------------------------------------------------------ of every kind


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_executor_gives_what_map_gives(kind):
    """Values in order, an exception at its place with its note; and the executor goes on."""
    with getattr(executors, kind)() as executor:
        results = pmap(lambda x: 10 // x, [1, 2, 0, 5], executor=executor, parallel=True)
        assert [next(results), next(results)] == [10, 5]
        with pytest.raises(ZeroDivisionError) as caught:
            next(results)
        assert "item 2" in caught.value.__notes__[0]
        assert list(results) == [2]
        assert results.report.workers == 2
        assert results.report.start_method == type(executor).__name__
        assert list(pstarmap(pow, [(2, 3)], executor=executor, parallel=True)) == [8]
        submit = getattr(executor, "submit", None) or executor.apply_async
        assert submit(abs, *((-1,) if hasattr(executor, "submit") else ((-1,),))) is not None


@pytest.mark.parametrize("wrong", [3, "dask", print, ThreadPoolExecutor, object()])
def test_anything_else_is_refused_with_a_list_of_what_is_not(wrong):
    """At the call, by a TypeError that names the argument and the value."""
    with pytest.raises(TypeError, match=r"executor must be .*Dask.*Ray") as caught:
        pmap(abs, [1], executor=wrong)
    assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize(
    "option", [{"task_timeout": 2.5}, {"initializer": print}, {"mp_context": "spawn"}]
)
def test_what_the_executor_decides_cannot_be_asked_for(option):
    """Its workers are not parmap's to end, to initialise or to start."""
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match="executor=") as caught:
        pmap(abs, [1], executor=started_executor("threads"), **option)
    assert f"{name}={value!r}" in str(caught.value)


def test_max_workers_bounds_the_chunks_on_their_way():
    """Of the caller's four threads, one call may use one."""
    running, most = 0, 0
    lock = threading.Lock()

    def count(x: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1
        return x

    with ThreadPoolExecutor(4) as executor:
        results = pmap(count, range(30), executor=executor, parallel=True, max_workers=1)
        assert next(results) == 0
        assert results.report.workers == 1
        assert list(results) == list(range(1, 30))


# ------------------------------------------------------------------ threads


def test_threads_get_and_give_the_very_objects():
    """Nothing is pickled: what cannot be is no obstacle, and identity holds."""
    items = [threading.Lock() for _ in range(5)]
    found = list(pmap(lambda x: x, items, executor=started_executor("threads"), parallel=True))
    assert all(a is b for a, b in zip(found, items, strict=True))


def test_a_nested_call_on_the_same_single_thread_does_not_wait_for_itself():
    """It is serial, as in every worker."""
    with ThreadPoolExecutor(1) as executor:

        def outer(x: int) -> list[int]:
            return list(pmap(abs, [-x], executor=executor, parallel=True))

        assert list(pmap(outer, range(3), executor=executor, parallel=True)) == [[0], [1], [2]]


def test_chunks_nobody_wants_any_more_do_not_begin():
    """After close(), what no thread has taken is withdrawn, and the executor is free."""
    ran: list[int] = []
    gate = threading.Event()

    def wait(x: int) -> int:
        ran.append(x)
        if x:
            gate.wait(LIMIT)
        return x

    with ThreadPoolExecutor(1) as executor:
        results = pmap(wait, range(100), executor=executor, parallel=True, chunksize=1)
        assert next(results) == 0
        results.close()
        gate.set()
        executor.submit(abs, 1).result(LIMIT)
    assert len(ran) <= 2


def test_a_pool_answers_after_a_call_on_it_was_closed_early():
    """An answer that nobody wants any more must not end the thread that brings them all."""
    with executors.pool() as pool:
        results = pmap(lambda x: time.sleep(0.02) or x, range(50), executor=pool, parallel=True)
        assert next(results) == 0
        results.close()
        assert pool.apply_async(abs, (-3,)).get(LIMIT) == 3


# ------------------------------------------------------------------ serial or parallel


def test_little_work_is_done_here():
    """The executor is not even asked what it costs."""
    executor = Recording()
    results = pmap(abs, range(100), executor=executor)
    assert list(results) == list(range(100))
    assert results.report.mode == "serial"
    assert executor.sizes == []


def test_work_that_waits_goes_to_the_threads():
    """Sleeping is shared by threads, interpreter lock or not."""
    results = pmap(
        lambda x: time.sleep(0.005) or x, range(60), executor=started_executor("threads")
    )
    assert list(results) == list(range(60))
    assert results.report.mode == "parallel"
    assert 0 < results.report.items_here < 60


@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="these threads do compute at once"
)
@pytest.mark.parametrize(("busy", "parallel"), [(1.0, False), (0.1, True)])
def test_threads_share_waiting_and_not_computing(busy, parallel):
    """With one interpreter lock they would take turns at computing, so that is done here."""
    executor = started_executor("threads")
    facts = _plan.Facts(
        done=1, left=1000, seconds_per_item=0.01, busy=busy, transfer_per_item=0.0,
        costs=_machine.Costs(), warm=0, cores=2,
    )  # fmt: skip
    assert eventually(lambda: facts_of(executor, facts).warm == 2, LIMIT)
    assert _plan.make_plan(facts_of(executor, facts)).parallel == parallel


def test_a_cluster_that_has_no_worker_yet_gets_the_work_all_the_same():
    """Adaptive ones start workers when there is work: no item may be left out meanwhile."""
    executor = Recording()
    executor._max_workers = 0
    assert list(pmap(abs, range(9), executor=executor, parallel=True)) == list(range(9))


def test_what_does_not_pickle_is_no_obstacle_for_threads():
    """Nothing is pickled there, so whether it could be does not count."""
    items = [threading.Lock() for _ in range(60)]
    results = pmap(
        lambda lock: time.sleep(0.005) or lock, items, executor=started_executor("threads")
    )
    assert all(a is b for a, b in zip(results, items, strict=True))
    assert results.report.mode == "parallel"


def test_an_executor_is_not_kept_alive_by_what_is_known_of_it():
    """A ThreadPoolExecutor that is dropped ends its threads: it must be possible to drop it."""
    executor = ThreadPoolExecutor(2)
    list(pmap(lambda x: time.sleep(0.005), range(40), executor=executor))
    gone = weakref.ref(executor)
    del executor
    gc.collect()
    assert gone() is None


def test_chunks_are_worth_what_they_cost():
    """On an engine where a chunk costs 4 ms, one holds 100 ms of work, and at the end no less than
    4 ms; parmap's own are not changed by that."""
    assert _plan.chunk_size(1e-3, 10_000, 2, chunk_cost=4e-3) == 100
    assert _plan.chunk_size(1e-3, 200, 2, chunk_cost=4e-3) == 50
    assert _plan.chunk_size(1e-3, 4, 2, chunk_cost=4e-3) == 4
    assert _plan.chunk_size(1e-3, 4, 2) == 1
    assert _plan.chunk_size(1e-6, 60, 2) >= 60  # a message more would cost as much as they do
    assert _plan.depths(100, 1e-3, None, 2, chunk_cost=4e-3) == (2, 2)
    assert _plan.depths(100, 1e-3, None, 2) == (1, 1)


def test_chunks_of_large_items_are_few_items():
    """However little they take: a message is bounded in bytes."""
    executor = Recording()
    assert set(pmap(len, [bytes(2_000_000)] * 40, executor=executor, parallel=True)) == {2_000_000}
    assert max(executor.sizes) < 10_000_000


# ------------------------------------------------------------------ the function


def test_a_large_function_is_sent_once_a_worker():
    """And small messages after that."""
    table, executor = bytes(1_000_000), Recording()
    found = list(pmap(lambda x: table[x], range(40), executor=executor, parallel=True, chunksize=1))
    assert found == [0] * 40
    assert len([size for size in executor.sizes if size > 1_000_000]) == 2
    assert len(executor.sizes) == 40


def test_a_worker_that_lacks_the_function_gets_it_and_runs_the_chunk():
    """Workers come and go; a new one says that it has not seen the function."""
    table, executor = bytes(100_000), Recording()
    executor.forgetful = True
    results = pmap(lambda x: table[x] + x, range(6), executor=executor, parallel=True, chunksize=1)
    assert list(results) == list(range(6))
    assert len([size for size in executor.sizes if size > 100_000]) == 6


def test_a_function_whose_module_the_worker_lacks_is_an_error_that_says_so(monkeypatch):
    """With what the workers need."""
    executor = Recording()
    monkeypatch.setitem(sys.modules, "not_on_the_worker", module := type(sys)("not_on_the_worker"))
    exec("def f(x):\n    return x", module.__dict__)
    results = pmap(module.f, [1], executor=executor, parallel=True)
    monkeypatch.setattr(
        executor, "submit", lambda fn, *args: _without("not_on_the_worker", fn, args)
    )
    error = raised(results)
    assert isinstance(error, WorkerDied)
    assert "No module named 'not_on_the_worker'" in str(error)
    assert "cloudpickle" in str(error)


def _without(module: str, fn: Any, args: Any) -> Future[Any]:
    future: Future[Any] = Future()
    known = sys.modules.pop(module)
    try:
        future.set_result(fn(*args))
    except ImportError as error:
        future.set_exception(error)
    finally:
        sys.modules[module] = known
    return future


# ------------------------------------------------------------------ faults


@pytest.mark.parametrize("kind", ["processes", "pool"])
def test_a_process_that_dies_is_an_error_that_names_items(kind):
    """A pool does not say which chunk its dead worker had: the error names those on their way.
    None of them is run in this process."""
    here = os.getpid()

    def fatal(x: int) -> int:
        if x == 3:
            assert os.getpid() != here
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    with getattr(executors, kind)() as executor:
        results = pmap(fatal, range(8), executor=executor, parallel=True, chunksize=1)
        got: list[int] = []
        with pytest.raises(WorkerDied, match="items") as caught:
            got.extend(results)
        assert got == list(range(len(got)))
        assert caught.value.index == len(got) <= 3
        assert list(results) == []


def test_a_pool_that_its_owner_ends_is_an_error():
    """Nobody waits for answers that cannot come."""
    with executors.thread_pool() as pool:
        gate = threading.Event()
        results = pmap(lambda x: x and gate.wait(LIMIT), range(9), executor=pool, parallel=True)
        assert next(results) == 0
        threading.Thread(target=pool.terminate).start()
        assert eventually(lambda: pool._state == "TERMINATE", LIMIT)
        error = raised(results)
        gate.set()
    assert isinstance(error, BrokenExecutor)
    assert "lost to this call" in str(error)


def test_an_executor_that_was_shut_down_is_an_error():
    """With what it says itself as the cause."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    error = raised(pmap(abs, [1], executor=executor, parallel=True))
    assert isinstance(error, BrokenExecutor)
    assert isinstance(error.__cause__, RuntimeError)
    assert "shutdown" in str(error)


# ------------------------------------------------------------------ Dask


@pytest.mark.cluster
def test_dask_workers_do_not_need_parmap(tmp_path):
    """What runs there travels by value; and when the call is over nothing is left on the cluster."""
    (tmp_path / "parmap.py").write_text("raise ImportError('this worker has no parmap')\n")
    with executors.dask(path=str(tmp_path)) as client:

        class Local:
            pass

        def check(x: int) -> tuple[int, int, Local]:
            with pytest.raises(ImportError, match="this worker has no parmap"):
                import parmap  # noqa: F401
            return 10 // x, os.getpid(), Local()  # which travels by value, there and back

        results = pmap(
            check, [5, 2, 0, 1], executor=client, parallel=True, chunksize=1, return_exceptions=True
        )
        *found, last = list(results)
        assert [found[0][0], found[1][0], last[0]] == [2, 5, 10]
        assert isinstance(found[2], ZeroDivisionError)
        assert os.getpid() != last[1]
        assert isinstance(last[2], Local)
        assert results.report.workers == 2
        assert eventually(lambda: _tasks(client) == 0, LIMIT)


def _tasks(client: Any) -> int:
    return int(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))


class Heavy:
    """A closure's large part, which tells each process that receives it."""

    def __init__(self, directory: Path, size: int):
        self.directory, self.data = directory, bytes(size)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        with open(self.directory / str(os.getpid()), "ab") as file:
            file.write(b".")


@pytest.mark.cluster
@pytest.mark.parametrize("cluster", ["dask", "ray"])
def test_a_closure_of_100_mb_is_received_once_a_worker(cluster, tmp_path):
    """However many chunks there are."""
    heavy = Heavy(tmp_path, 100_000_000)
    executor = started_executor(cluster)
    results = pmap(
        lambda x: len(heavy.data), range(40), executor=executor, parallel=True, chunksize=2
    )
    assert set(results) == {100_000_000}
    assert 1 <= len(list(tmp_path.iterdir())) <= 2
    assert {path.stat().st_size for path in tmp_path.iterdir()} == {1}
    assert results.report.bytes_moved < 100_000


@pytest.mark.cluster
@pytest.mark.parametrize("cluster", ["dask", "ray"])
def test_a_cluster_worker_that_is_killed_half_way_costs_no_result(cluster, tmp_path):
    """Dask gives its chunk to another worker; on Ray the actor is replaced, and the chunk sent
    again."""

    def fatal_once(x: int) -> int:
        if x == 100 and once(tmp_path, "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    results = pmap(
        fatal_once, range(200), executor=started_executor(cluster), parallel=True, chunksize=5
    )
    assert list(results) == list(range(200))


@pytest.mark.cluster
@pytest.mark.parametrize("cluster", ["dask", "ray"])
def test_an_item_that_kills_every_cluster_worker_is_named(cluster, monkeypatch):
    """The others keep their values."""

    def fatal(x: int) -> int:
        if x == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    with executors.dask() if cluster == "dask" else _started(cluster) as executor:
        results = pmap(
            fatal, range(6), executor=executor, parallel=True, return_exceptions=True, chunksize=3
        )
        found = list(results)
        assert isinstance(found[3], WorkerDied)
        assert found[3].index == 3
        assert [x for x in found if x is not found[3]] == [0, 1, 2, 4, 5]
        assert results.report.worker_deaths > 0
        assert list(pmap(abs, range(9), executor=executor, parallel=True)) == list(range(9))


class _started:  # noqa: N801
    """A context of an executor that goes on after it."""

    def __init__(self, name: str):
        self._name = name

    def __enter__(self) -> Any:
        return started_executor(self._name)

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.cluster
def test_a_dask_scheduler_that_is_gone_is_an_error_and_no_hang():
    """Within the time that the client gives it to come back."""
    with executors.dask(patience=3.0) as client:
        results = pmap(lambda x: time.sleep(0.05) or x, range(1000), executor=client, parallel=True)
        assert next(results) == 0
        client.processes[0].kill()
        error = raised(results)
    assert isinstance(error, WorkerDied)
    assert "lost to this call" in str(error)


@pytest.mark.cluster
def test_all_dask_workers_may_be_replaced_while_a_call_runs(tmp_path):
    """With them goes the function: it is sent again to those that come."""

    def slow(x: int) -> int:
        time.sleep(0.02)
        return x

    with executors.dask() as client:
        results = pmap(slow, range(200), executor=client, parallel=True, chunksize=2)
        assert next(results) == 0
        for pid in client.run(os.getpid).values():
            os.kill(pid, signal.SIGKILL)  # the nannies start others
        assert list(results) == list(range(1, 200))


# ------------------------------------------------------------------ MPI


@pytest.mark.cluster
@pytest.mark.skipif(shutil.which("mpiexec") is None, reason="there is no mpiexec")
def test_an_mpi_pool_gives_what_map_gives(tmp_path):
    """One manager and two workers, started by mpiexec as on a cluster."""
    pytest.importorskip("mpi4py", reason="the group `engines` is not installed")
    script = tmp_path / "script.py"
    script.write_text(
        "from mpi4py.futures import MPIPoolExecutor\n"
        "from parmap import pmap\n"
        "if __name__ == '__main__':\n"
        "    with MPIPoolExecutor() as executor:\n"
        "        results = pmap(lambda x: x * x, range(50), executor=executor, parallel=True)\n"
        "        assert list(results) == [x * x for x in range(50)]\n"
        "        print(results.report.workers, results.report.start_method)\n"
    )
    command = ["mpiexec", "--oversubscribe", "-n", "3", sys.executable, "-m", "mpi4py.futures"]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(
        [*command, str(script)],
        env={**os.environ, **allowed},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "2 MPIPoolExecutor\n", done.stderr
