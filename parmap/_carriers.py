"""Station 4, past this process: how each kind of executor takes a chunk, and gives its reply.

The executor belongs to the caller: it is never shut down here.
"""

from __future__ import annotations

import operator
import pickle
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import cache, partial
from typing import Any

import parmap
from parmap import _machine, _remote
from parmap._call import Call
from parmap._failure import Dumps
from parmap._outcome import UNTRUSTED, loaded, short_repr
from parmap._transport import dumps, dumps_by_value

# Bytes of a function up to which it goes along with each chunk, or with Ray's messages. Smaller has
# workers ask for it, a round trip each; larger sends more than the items.
SMALL_FUNCTION = 4096

# A reply beside those of `_remote`.
LOST = "worker lost"


class Carrier:
    """Any executor or Pool whose workers have parmap."""

    pickles = True
    takes_turns = False  # its workers compute one at a time

    def __init__(self, executor: Any):
        self.name = type(executor).__name__
        self.over = threading.Event()  # the call
        self._executor = executor
        self._hosts = self._processes()

    def capacity(self) -> int:
        """How many chunks can run at once now, as far as the executor says."""
        for name in ("_max_workers", "_processes"):
            if isinstance(size := getattr(self._executor, name, None), int):
                return size
        return _machine.usable_cores()[0]

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        if hasattr(self._executor, "submit"):
            return self._executor.submit(fn, *args)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # cancelled, it would end the Pool's thread
        done, failed = future.set_result, future.set_exception
        self._executor.apply_async(fn, args, callback=done, error_callback=failed)
        return future

    def start(self, call: Call) -> None:
        """Make the function known. Raises TypeError where it does not pickle."""
        self._name(call, dumps)
        self._untold = self.capacity()

    def _name(self, call: Call, dumps: Dumps) -> None:
        """Pickle the function once, with what is to pickle its results."""
        task: _remote.Task = (call.mapper, call.fn, call.settings.retries)
        self._key = uuid.uuid4().hex
        try:
            self._function: Any = dumps_by_value((task, dumps))
        except UNTRUSTED as error:
            raise TypeError(
                f"the mapped function {short_repr(call.fn)} cannot be sent to a worker: "
                f"{type(error).__name__}: {error}. Leave out what does not pickle, or create it "
                "in the function."
            ) from error

    def pack(self, items: list[Any]) -> Any:
        return dumps(items)

    def submit(self, data: Any, again: bool) -> Any:
        """`again` where the process that had it lacked the function."""
        self._untold -= 1
        tell = again or self._untold >= 0 or len(self._function) <= SMALL_FUNCTION
        return self.run(_remote.run_pickled, self._key, self._function if tell else None, data)

    def replies(self, futures: list[Any]) -> list[Any]:
        """For each: a `_remote.Reply`, LOST, or why the executor is of no more use."""
        return [self._reply(future) for future in futures]

    def _reply(self, future: Any) -> Any:
        try:
            return future.result()
        except UNTRUSTED as error:
            return error

    def trouble(self) -> str:
        """What no future says: a Pool replaces a worker that died, and forgets its chunk."""
        if getattr(self._executor, "_state", "") == "TERMINATE":
            return "it was terminated"
        for host in self._hosts:
            code = host.exitcode
            if code or (code == 0 and not self._executor._maxtasksperchild):
                return f"a worker of the pool ended (exit code {code}), and its chunk is lost"
        self._hosts = self._processes()
        return ""

    def _processes(self) -> list[Any]:
        """Of a Pool; others keep something else there."""
        found = getattr(self._executor, "_pool", None)
        return list(found) if isinstance(found, list) else []


class Threads(Carrier):
    """Objects go as they are, and a chunk can be stopped between two."""

    pickles = False
    takes_turns = getattr(sys, "_is_gil_enabled", lambda: True)()

    def start(self, call: Call) -> None:
        self._task = (call.mapper, call.fn, call.settings.retries)

    def pack(self, items: list[Any]) -> Any:
        return list(items)

    def submit(self, data: Any, again: bool) -> Any:
        return self.run(_remote.run_shared, self._task, self.over, data)


class Dask(Carrier):
    """A Dask client. Its scheduler gives the chunks of a dead worker to another one."""

    def capacity(self) -> int:
        return sum(self._executor.nthreads().values())

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._executor.submit(fn, *args, key=f"pmap-{uuid.uuid4().hex}")

    def start(self, call: Call) -> None:
        import cloudpickle

        self._name(call, cloudpickle.dumps)
        if not self.capacity():
            self.run(abs, 0).result()  # a cluster without workers gets some when there is work
        shared = [Sealed(runner_by_value()), self._function]
        self._shared = self._executor.scatter(shared, broadcast=True, hash=False)

    def submit(self, data: Any, again: bool) -> Any:
        runner, function = self._shared
        return self.run(operator.call, runner, self._key, function, data)

    def replies(self, futures: list[Any]) -> list[Any]:
        try:
            return list(self._executor.gather(futures))  # a few ms, however many
        except UNTRUSTED:
            found = super().replies(futures)
        if _remote.MISSING in found:
            # The workers that had the function are gone, as others may be: from now on it is the
            # result of a task, which the scheduler can run again.
            runner = self.run(pickle.loads, runner_by_value())
            self._shared = [runner, self.run(bytes, self._function)]
        return found

    def _reply(self, future: Any) -> Any:
        reply = super()._reply(future)
        killed = type(reply).__name__ == "KilledWorker"
        if killed and reply.task == future.key:
            return LOST
        lacking = killed or isinstance(reply, CancelledError)  # what it depends on is gone
        return _remote.MISSING if lacking and self._executor.status == "running" else reply

    def trouble(self) -> str:
        fine = self._executor.status in ("running", "connecting")
        return "" if fine else "its client is closed"


class Ray(Carrier):
    """A Ray pool. Its actors are chosen here: the pool would go on with one that died."""

    def __init__(self, pool: Any):
        super().__init__(pool)
        self._ray: Any = sys.modules["ray"]
        self.name = f"ray.{self.name}"

    def capacity(self) -> int:
        return len(self._executor._actor_pool)

    def start(self, call: Call) -> None:
        import cloudpickle

        self._name(call, cloudpickle.dumps)
        if len(self._function) > SMALL_FUNCTION:
            self._function = partial(self._ray.get, self._ray.put(self._function))
        self._slots = range(min(self.capacity(), call.settings.max_workers or sys.maxsize))
        self._at: dict[Any, int] = {}  # in which of these each future's actor is
        self._told: set[Any] = set()  # actors that have the function

    def submit(self, data: Any, again: bool) -> Any:
        slot = min(self._slots, key=Counter(self._at.values()).__getitem__)
        actor = self._executor._actor_pool[slot][0]._actor_id
        runner, function = _remote.KEPT_RUNNER, None
        if again or actor not in self._told:
            runner, function = runner_by_value(), self._function
        self._told.add(actor)
        batch: list[Any] = [((self._key, function, data), {})]
        future = self._executor._run_batch(slot, Sealed(runner), batch).future()
        self._at[future] = slot
        return future

    def _reply(self, future: Any) -> Any:
        slot, reply = self._at.pop(future), super()._reply(future)
        result = reply[0] if isinstance(reply, list) else reply  # of a batch of one
        error = getattr(result, "underlying", result)  # of a PoolTaskError
        if isinstance(error, self._ray.exceptions.RayActorError):
            actors = self._executor._actor_pool
            if actors[slot][0]._actor_id.hex() == error.actor_id:  # else it was replaced already
                actors[slot] = self._executor._new_actor_entry()
            return LOST
        lacking = isinstance(error, BaseException) and _remote.KEPT in str(error)
        return _remote.MISSING if lacking else error  # Ray restarted the actor

    def trouble(self) -> str:
        return "" if self._ray.is_initialized() else "Ray was shut down"


def carrier(executor: Any) -> Carrier:
    if _is(executor, "distributed", "Client"):
        return Dask(executor)
    if _is(executor, "ray.util.multiprocessing", "Pool"):
        return Ray(executor)
    return Threads(executor) if shares_memory(executor) else Carrier(executor)


def shares_memory(executor: Any) -> bool:
    """Whether its workers are threads of this process, and of this interpreter."""
    if "InterpreterPoolExecutor" in (c.__name__ for c in type(executor).__mro__):
        return False
    threads = _is(executor, "concurrent.futures.thread", "ThreadPoolExecutor")
    return threads or _is(executor, "multiprocessing.pool", "ThreadPool")


def _is(executor: Any, module: str, kind: str) -> bool:
    """Nothing is imported that is not there already."""
    return isinstance(executor, getattr(loaded(module), kind, ()))


class Sealed:
    """Bytes that become what they hold when they are unpickled."""

    def __init__(self, data: bytes):
        self._data = data

    def __reduce__(self) -> Any:
        return pickle.loads, (self._data,)


_registry = threading.Lock()


@cache
def runner_by_value() -> bytes:
    """`run_pickled` with all it needs, for workers without parmap."""
    import cloudpickle

    with _registry:  # it holds for the whole process
        cloudpickle.register_pickle_by_value(parmap)
        try:
            return dumps_by_value(_remote.run_pickled)
        finally:
            cloudpickle.unregister_pickle_by_value(parmap)
