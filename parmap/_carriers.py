"""Station 4, past this process: how each kind of executor takes a chunk, and gives its reply.

    Threads    an executor or Pool of threads: objects go as they are
    Processes  any other Executor or Pool: pickles; the function again where a process lacks it
    Dask       a Dask client: the function is scattered to all workers
    Ray        a Ray pool: the function lies in the object store; an actor that died is replaced

Each has the same few methods, and nothing of Dask's or Ray's is imported that is not there already.
The executor belongs to the caller: it is never shut down here.
"""

from __future__ import annotations

import operator
import pickle
import sys
import threading
import uuid
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any

from parmap import _machine, _remote
from parmap._call import Call
from parmap._outcome import UNTRUSTED, short_repr
from parmap._transport import dumps, dumps_by_value

# Bytes of a pickled function up to which it goes along with every chunk, or on Ray with an actor's
# first one rather than through the object store. Smaller would ask for it again more often, one
# round trip each; larger sends more than the message itself.
SMALL_FUNCTION = 4096

# What becomes of a chunk whose future has an exception: the worker that ran it is lost; nothing is
# wrong with it, send it again; the executor itself is of no more use.
LOST, AGAIN, GONE = "lost", "again", "gone"

# What a future may raise: what its chunk came to, or that it was cancelled.
FAILED = (*UNTRUSTED, CancelledError)


class Threads:
    """Threads of this process. Nothing is pickled, and items can be stopped between two."""

    def __init__(self, executor: Any):
        self.name = type(executor).__name__
        self._executor = executor
        self._submit = _submitter(executor)
        self._stop = threading.Event()

    def capacity(self) -> list[int]:
        return [_size(self._executor)]

    @property
    def cores(self) -> int:
        """How many items can compute at once: threads share one interpreter, if it is locked."""
        locked = getattr(sys, "_is_gil_enabled", bool)() or sys.version_info < (3, 13)
        return 1 if locked else _size(self._executor)

    def ping(self) -> Any:
        return self._submit(abs, 0)

    def start(self, call: Call) -> None:
        self._task = (call.mapper, call.fn, call.settings.retries)

    def pack(self, items: list[Any]) -> Any:
        return list(items)

    def submit(self, slot: int, data: Any, again: bool) -> Any:
        return self._submit(_remote.run_shared, self._task, self._stop, data)

    def replies(self, futures: list[Any]) -> list[Any]:
        """What came of each: a `_remote.Reply`, or an exception."""
        return [_reply(future) for future in futures]

    def fate(self, slot: int, future: Any, error: Any) -> str:
        """What an exception of a future means for its chunk."""
        return GONE

    def trouble(self) -> str:
        """What is known to be wrong with the executor, though no future says so; or ""."""
        return "it was terminated" if _terminated(self._executor) else ""

    def end(self) -> None:
        self._stop.set()


class Processes(Threads):
    """Any executor or Pool whose workers have parmap: what crosses is pickled."""

    def __init__(self, executor: Any):
        super().__init__(executor)
        self._hosts = _hosts(executor)

    @property
    def cores(self) -> int:
        return _size(self._executor)

    def start(self, call: Call) -> None:
        self._key = uuid.uuid4().hex
        self._function = packed_function(call)
        self._to_tell = _size(self._executor)

    def pack(self, items: list[Any]) -> Any:
        return dumps(items)

    def submit(self, slot: int, data: Any, again: bool) -> Any:
        self._to_tell -= 1
        tell = again or self._to_tell >= 0 or len(self._function) <= SMALL_FUNCTION
        function = self._function if tell else None
        return self._submit(_remote.run_pickled, self._key, None, function, data)

    def trouble(self) -> str:
        """A Pool replaces a worker that died, and forgets the chunk it had: who waits for that
        waits for ever."""
        for host in self._hosts:
            code = host.exitcode
            if code or (code == 0 and not self._executor._maxtasksperchild):
                return f"a worker of the pool ended (exit code {code}), and its chunk is lost"
        self._hosts = _hosts(self._executor)
        return super().trouble()


class Dask:
    """A Dask client. Its scheduler gives the chunks of a dead worker to another one by itself."""

    def __init__(self, client: Any):
        self.name = type(client).__name__
        self._client = client

    def capacity(self) -> list[int]:
        return [sum(self._client.nthreads().values())]

    @property
    def cores(self) -> int:
        return self.capacity()[0]

    def ping(self) -> Any:
        return self._client.submit(abs, 0, pure=False)

    def start(self, call: Call) -> None:
        self._key = uuid.uuid4().hex
        self._function = packed_function(call)
        self._runner = runner_by_value()
        if not self.capacity()[0]:
            self.ping().result()  # a cluster without workers gets some when there is work
        self._shared = self._client.scatter(
            [Sealed(self._runner), self._function], broadcast=True, hash=False
        )

    def _share_again(self) -> None:
        """What was scattered went with the workers that had it. Those that come may go too: so now
        it is the result of a task, which the scheduler can run again."""
        submit = partial(self._client.submit, pure=False)
        self._shared = [submit(pickle.loads, self._runner), submit(bytes, self._function)]

    def pack(self, items: list[Any]) -> Any:
        return dumps(items)

    def submit(self, slot: int, data: Any, again: bool) -> Any:
        runner, function = self._shared
        key = f"pmap-{uuid.uuid4().hex}"
        return self._client.submit(
            operator.call, runner, self._key, None, function, data, key=key, pure=False
        )

    def replies(self, futures: list[Any]) -> list[Any]:
        try:
            return list(self._client.gather(futures))  # a few ms, however many
        except FAILED:
            return [_reply(future) for future in futures]

    def fate(self, slot: int, future: Any, error: Any) -> str:
        killed = type(error).__name__ == "KilledWorker"
        if killed and error.task == future.key:
            return LOST
        if (killed or isinstance(error, CancelledError)) and self._client.status == "running":
            self._share_again()  # what it depends on is gone
            return AGAIN
        return GONE

    def trouble(self) -> str:
        return "" if self._client.status in ("running", "connecting") else "its client is closed"

    def end(self) -> None:
        self._shared = []


class Ray:
    """A Ray pool. Its actors are chosen here, one by one: the pool itself would go on giving
    chunks to one that died."""

    def __init__(self, pool: Any):
        self._ray: Any = sys.modules["ray"]
        self._pool = pool
        self.name = f"ray.{type(pool).__name__}"

    def capacity(self) -> list[int]:
        return [1] * len(self._pool._actor_pool)

    @property
    def cores(self) -> int:
        return len(self._pool._actor_pool)

    def ping(self) -> Any:
        return self._pool._run_batch(0, abs, [((0,), {})]).future()

    def start(self, call: Call) -> None:
        self._key = uuid.uuid4().hex
        function: Any = packed_function(call)
        small = len(function) <= SMALL_FUNCTION
        self._function = (None, function) if small else (self._ray.get, self._ray.put(function))
        # Which actor of each slot has the runner, from this call or one before; and the function.
        self._ready: dict[int, Any] = _ready_actors.setdefault(self._pool, {})
        self._told: dict[int, Any] = {}
        self._buried: set[Any] = set()

    def pack(self, items: list[Any]) -> Any:
        return dumps(items)

    def submit(self, slot: int, data: Any, again: bool) -> Any:
        actor, _ = self._pool._actor_pool[slot]
        ready = self._ready.get(slot) is actor
        told = self._told.get(slot) is actor and not again
        self._ready[slot] = self._told[slot] = actor
        runner = Sealed(_remote.KEPT_RUNNER if ready else runner_by_value())
        fetch, function = (None, None) if told else self._function
        batch: list[Any] = [((self._key, fetch, function, data), {})]
        return self._pool._run_batch(slot, runner, batch).future()

    def replies(self, futures: list[Any]) -> list[Any]:
        found = [_reply(future) for future in futures]  # of an actor: a list of results, of one
        results = [reply[0] if isinstance(reply, list) else reply for reply in found]
        return [getattr(result, "underlying", result) for result in results]  # of a PoolTaskError

    def fate(self, slot: int, future: Any, error: Any) -> str:
        if _remote.KEPT in str(error):  # the actor was restarted by Ray, and knows nothing
            self._ready.pop(slot, None)
            self._told.pop(slot, None)
            return AGAIN
        if not isinstance(error, self._ray.exceptions.RayActorError):
            return GONE
        if error.actor_id not in self._buried:  # each chunk that it had says so
            self._buried.add(error.actor_id)
            self._pool._actor_pool[slot] = self._pool._new_actor_entry()
        return LOST

    def trouble(self) -> str:
        return "" if self._ray.is_initialized() else "Ray was shut down"

    def end(self) -> None:
        self._function = (None, None)


_ready_actors: weakref.WeakKeyDictionary[Any, dict[int, Any]] = weakref.WeakKeyDictionary()

Carrier = Threads | Dask | Ray


def carrier(executor: Any) -> Carrier:
    """How chunks go to this executor."""
    distributed = sys.modules.get("distributed")
    if distributed is not None and isinstance(executor, distributed.Client):
        return Dask(executor)
    if type(executor).__module__.startswith("ray.util.multiprocessing"):
        return Ray(executor)
    return Threads(executor) if shares_memory(executor) else Processes(executor)


def shares_memory(executor: Any) -> bool:
    """Whether its workers are threads of this process, and of this interpreter."""
    pools = sys.modules.get("multiprocessing.pool")
    if pools is not None and isinstance(executor, pools.ThreadPool):
        return True
    interpreters = "InterpreterPoolExecutor" in (c.__name__ for c in type(executor).__mro__)
    return isinstance(executor, ThreadPoolExecutor) and not interpreters


def _reply(future: Any) -> Any:
    try:
        return future.result()
    except FAILED as error:
        return error


def _submitter(executor: Any) -> Callable[..., Any]:
    return executor.submit if hasattr(executor, "submit") else partial(_apply_async, executor)


def _apply_async(pool: Any, fn: Callable[..., Any], *args: Any) -> Future[Any]:
    """Pool.apply_async with a future for its answer."""
    future: Future[Any] = Future()
    pool.apply_async(fn, args, callback=future.set_result, error_callback=future.set_exception)
    return future


def _size(executor: Any) -> int:
    """How many workers it has; as many as there are cores where it does not say."""
    for name in ("_max_workers", "_processes"):
        if isinstance(size := getattr(executor, name, None), int):
            return size
    return _machine.usable_cores()[0]


def _hosts(executor: Any) -> list[Any]:
    """The processes of a Pool, which others keep elsewhere."""
    found = getattr(executor, "_pool", None)
    return list(found) if isinstance(found, list) else []


def _terminated(executor: Any) -> bool:
    return getattr(executor, "_state", "") == "TERMINATE"


# ------------------------------------------------------------------ functions as bytes


def packed_function(call: Call) -> bytes:
    """(mapper, fn, retries), once for all workers. Raises TypeError where it does not pickle."""
    try:
        return dumps_by_value((call.mapper, call.fn, call.settings.retries))
    except UNTRUSTED as error:
        raise TypeError(
            f"the mapped function {short_repr(call.fn)} cannot be sent to a worker: "
            f"{type(error).__name__}: {error}. Leave out what does not pickle, or create it in "
            "the function."
        ) from error


class Sealed:
    """Bytes that become what they hold when they are unpickled, whoever does it."""

    def __init__(self, data: bytes):
        self._data = data

    def __reduce__(self) -> Any:
        return pickle.loads, (self._data,)


_registry = threading.Lock()


@cache
def runner_by_value() -> bytes:
    """`run_pickled` with all it needs, for workers without parmap."""
    import cloudpickle

    import parmap

    with _registry:  # it holds for the whole process
        cloudpickle.register_pickle_by_value(parmap)
        try:
            return dumps_by_value(_remote.run_pickled)
        finally:
            cloudpickle.unregister_pickle_by_value(parmap)
