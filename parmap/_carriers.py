"""Station 4, past this process: how each kind of executor takes a chunk, and gives its reply.

    Carrier   any Executor or Pool: pickles; the function again where a process lacks it
    Threads   an executor or Pool of threads: objects go as they are
    Dask      a Dask client: the function is scattered to all workers
    Ray       a Ray pool: the function lies in the object store; an actor that died is replaced

The last three say what is different with them, and nothing of Dask's or Ray's is imported that is
not there already. The executor belongs to the caller: it is never shut down here.
"""

from __future__ import annotations

import operator
import pickle
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import cache, partial
from typing import Any

from parmap import _machine, _remote
from parmap._call import Call
from parmap._failure import Dumps
from parmap._outcome import UNTRUSTED, short_repr
from parmap._transport import dumps, dumps_by_value

# Bytes of a pickled function up to which it goes along with every chunk, and on Ray in the message
# rather than through the object store. Smaller would ask for it again more often, one round trip
# each; larger sends more than the message itself.
SMALL_FUNCTION = 4096

# A reply beside those of `_remote`: the worker that ran the chunk is lost.
LOST = "worker lost"

# What a future may raise: what its chunk came to, or that it was cancelled.
FAILED = (*UNTRUSTED, CancelledError)


class Carrier:
    """Any executor or Pool whose workers have parmap: what crosses is pickled."""

    pickles = True
    takes_turns = False  # whether its workers compute one at a time

    def __init__(self, executor: Any):
        self.name = type(executor).__name__
        self.over = threading.Event()  # the call
        self._executor = executor
        self._hosts = _hosts(executor)

    def capacity(self) -> int:
        """How many chunks can run at once, now; as for us where the executor does not say."""
        for name in ("_max_workers", "_processes"):
            if isinstance(size := getattr(self._executor, name, None), int):
                return size
        return _machine.usable_cores()[0]

    def ping(self) -> Any:
        return _submit(self._executor, abs, 0)

    def start(self, call: Call) -> None:
        """Make the function known. Raises TypeError where it does not pickle."""
        self._name(call, dumps)
        self._untold = self.capacity()

    def _name(self, call: Call, dumps: Dumps) -> None:
        """Pickle the function once for all workers, with how they are to pickle its results."""
        task: _remote.Task = (call.mapper, call.fn, call.settings.retries)
        try:
            self._key, self._function = uuid.uuid4().hex, dumps_by_value((task, dumps))
        except UNTRUSTED as error:
            raise TypeError(
                f"the mapped function {short_repr(call.fn)} cannot be sent to a worker: "
                f"{type(error).__name__}: {error}. Leave out what does not pickle, or create it "
                "in the function."
            ) from error

    def pack(self, items: list[Any]) -> Any:
        return dumps(items)

    def submit(self, data: Any, again: bool) -> Any:
        """A future for a chunk; `again` where the process that had it lacked the function."""
        self._untold -= 1
        tell = again or self._untold >= 0 or len(self._function) <= SMALL_FUNCTION
        function = self._function if tell else None
        return _submit(self._executor, _remote.run_pickled, self._key, None, function, data)

    def replies(self, futures: list[Any]) -> list[Any]:
        """What came of each: a `_remote.Reply`, LOST, or the exception that says why the executor
        is of no more use."""
        return [self._reply(future) for future in futures]

    def _reply(self, future: Any) -> Any:
        try:
            return future.result()
        except FAILED as error:
            return error

    def trouble(self) -> str:
        """What is known to be wrong with the executor, though no future says so; or "".

        A Pool replaces a worker that died, and forgets the chunk it had: who waits for that waits
        for ever.
        """
        if getattr(self._executor, "_state", "") == "TERMINATE":
            return "it was terminated"
        for code in [host.exitcode for host in self._hosts]:
            if code or (code == 0 and not self._executor._maxtasksperchild):
                return f"a worker of the pool ended (exit code {code}), and its chunk is lost"
        self._hosts = _hosts(self._executor)
        return ""


class Threads(Carrier):
    """Threads of this process. Nothing is pickled, and items can be stopped between two."""

    pickles = False
    takes_turns = getattr(sys, "_is_gil_enabled", lambda: True)()

    def start(self, call: Call) -> None:
        self._task = (call.mapper, call.fn, call.settings.retries)

    def pack(self, items: list[Any]) -> Any:
        return list(items)

    def submit(self, data: Any, again: bool) -> Any:
        return _submit(self._executor, _remote.run_shared, self._task, self.over, data)


class Dask(Carrier):
    """A Dask client. Its scheduler gives the chunks of a dead worker to another one by itself."""

    def capacity(self) -> int:
        return sum(self._executor.nthreads().values())

    def ping(self) -> Any:
        return self._executor.submit(abs, 0, pure=False)

    def start(self, call: Call) -> None:
        import cloudpickle

        self._name(call, cloudpickle.dumps)
        if not self.capacity():
            self.ping().result()  # a cluster without workers gets some when there is work
        shared = [Sealed(runner_by_value()), self._function]
        self._shared = self._executor.scatter(shared, broadcast=True, hash=False)

    def _share_again(self) -> None:
        """What was scattered went with the workers that had it. Those that come may go too: so now
        it is the result of a task, which the scheduler can run again."""
        submit = partial(self._executor.submit, pure=False)
        self._shared = [submit(pickle.loads, runner_by_value()), submit(bytes, self._function)]

    def submit(self, data: Any, again: bool) -> Any:
        runner, function = self._shared
        task = (operator.call, runner, self._key, None, function, data)
        return self._executor.submit(*task, key=f"pmap-{uuid.uuid4().hex}", pure=False)

    def replies(self, futures: list[Any]) -> list[Any]:
        try:
            return list(self._executor.gather(futures))  # a few ms, however many
        except FAILED:
            found = super().replies(futures)
        if _remote.MISSING in found:
            self._share_again()
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
    """A Ray pool. Its actors are chosen here, one by one: the pool itself would go on giving
    chunks to one that died."""

    def __init__(self, pool: Any):
        super().__init__(pool)
        self._ray: Any = sys.modules["ray"]
        self.name = f"ray.{self.name}"

    def capacity(self) -> int:
        return len(self._executor._actor_pool)

    def start(self, call: Call) -> None:
        import cloudpickle

        self._name(call, cloudpickle.dumps)
        self._fetch = None
        if len(self._function) > SMALL_FUNCTION:
            self._fetch, self._function = self._ray.get, self._ray.put(self._function)
        self._slots = range(min(self.capacity(), call.settings.max_workers or sys.maxsize))
        self._at: dict[Any, int] = {}  # in which of these each future's actor is
        self._told: set[Any] = set()  # actors that have the function, and what runs it

    def submit(self, data: Any, again: bool) -> Any:
        slot = min(self._slots, key=Counter(self._at.values()).__getitem__)
        actor = self._executor._actor_pool[slot][0]._actor_id
        runner, fetch, function = _remote.KEPT_RUNNER, None, None
        if again or actor not in self._told:
            runner, fetch, function = runner_by_value(), self._fetch, self._function
        self._told.add(actor)
        batch: list[Any] = [((self._key, fetch, function, data), {})]
        future = self._executor._run_batch(slot, Sealed(runner), batch).future()
        self._at[future] = slot
        return future

    def _reply(self, future: Any) -> Any:
        self._at.pop(future, None)
        reply = super()._reply(future)  # of an actor: a list of results, of one
        result = reply[0] if isinstance(reply, list) else reply
        error = getattr(result, "underlying", result)  # of a PoolTaskError
        if isinstance(error, self._ray.exceptions.RayActorError):
            self._replace(error.actor_id)
            return LOST
        lacking = isinstance(error, BaseException) and _remote.KEPT in str(error)
        return _remote.MISSING if lacking else error  # Ray restarted the actor

    def _replace(self, dead: str) -> None:
        """Once, though each chunk that it had says so."""
        actors = self._executor._actor_pool
        for slot, (actor, _) in enumerate(actors):
            if actor._actor_id.hex() == dead:
                actors[slot] = self._executor._new_actor_entry()

    def trouble(self) -> str:
        return "" if self._ray.is_initialized() else "Ray was shut down"


def carrier(executor: Any) -> Carrier:
    """How chunks go to this executor."""
    distributed = sys.modules.get("distributed")
    if distributed is not None and isinstance(executor, distributed.Client):
        return Dask(executor)
    if type(executor).__module__.startswith("ray.util.multiprocessing"):
        return Ray(executor)
    return Threads(executor) if shares_memory(executor) else Carrier(executor)


def shares_memory(executor: Any) -> bool:
    """Whether its workers are threads of this process, and of this interpreter."""
    pools = sys.modules.get("multiprocessing.pool")
    if pools is not None and isinstance(executor, pools.ThreadPool):
        return True
    interpreters = "InterpreterPoolExecutor" in (c.__name__ for c in type(executor).__mro__)
    return isinstance(executor, ThreadPoolExecutor) and not interpreters


def _submit(executor: Any, fn: Callable[..., Any], *args: Any) -> Any:
    """The future of `fn(*args)`, also where the executor is a Pool."""
    if hasattr(executor, "submit"):
        return executor.submit(fn, *args)
    future: Future[Any] = Future()
    # Nobody can cancel it: an answer to a cancelled one would end the thread that brings them all.
    future.set_running_or_notify_cancel()
    executor.apply_async(fn, args, callback=future.set_result, error_callback=future.set_exception)
    return future


def _hosts(executor: Any) -> list[Any]:
    """The processes of a Pool, which others keep elsewhere."""
    found = getattr(executor, "_pool", None)
    return list(found) if isinstance(found, list) else []


# ------------------------------------------------------------------ functions as bytes


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
