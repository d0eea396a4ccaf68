"""What a Pool gets for a context: workers once, and locks that can be given back.

A Pool asks its context for processes, queues and locks. This one makes no more processes than were
hired: when a worker is gone, the Pool gets a `_Vacancy` in its place, and so replaces nobody.
"""

from __future__ import annotations

import multiprocessing.connection
import multiprocessing.process
import multiprocessing.queues
from typing import Any

from parmap._files import Store
from parmap._orphan import leave
from parmap._processes import close_end, keep_end, process_class
from parmap._quiet import filled_streams, in_a_directory, interrupts_deferred, interrupts_held
from parmap._sweep import end_sweeper, start_sweeper


class Hiring:
    """A multiprocessing context that makes `count` workers, and no more.

    It is what a Pool asks for processes, queues and locks. Its queues' locks are its own, so that
    one that a dead worker held can be given back.

    Attributes:
        processes: the workers made so far, of the class `_Hosted`.
        store, initializer, idle_seconds: what each gets (see `_worker.Seat`).
        sweeper: who removes the store if this process is killed; None where a fork server will.
    """

    def __init__(
        self,
        method: str,
        count: int,
        store: Store,
        initializer: bytes | int | None,
        idle_seconds: float,
    ):
        self._class = process_class(method)
        self._swept = method == "forkserver"
        self.sweeper: Any = None
        self._left = count
        self._locks: list[_Lock] = []
        self._queues: list[Any] = []
        self.processes: list[Any] = []
        self.store, self.initializer, self.idle_seconds = store, initializer, idle_seconds

    def new_pool(self, count: int) -> Any:
        """A Pool of `count` workers of this hiring; none is left where it cannot be had whole.

        Raises OSError and RuntimeError: too many processes, threads or files, no memory, or a
        process that multiprocessing forbids children.
        """
        from multiprocessing.pool import Pool

        if multiprocessing.process.current_process().daemon:
            raise RuntimeError("this process is daemonic, and such may not start processes")
        pool: Any = None
        try:
            with interrupts_deferred(), filled_streams(), in_a_directory(), interrupts_held():
                pool = Pool(count, maxtasksperchild=1, context=self)
                if not self._swept:
                    self.sweeper = start_sweeper(self.store.directories)
        except BaseException:  # a Ctrl-C that waited, too
            with interrupts_deferred() as came:
                self.end(pool)
                self._close_pipes()
                came.clear()  # what is raised already says enough
            raise
        if self.sweeper is not None:
            keep_end(self.sweeper.stdin)
        return pool

    def end(self, pool: Any) -> None:
        """Kill what is left, then end the Pool. Waits on nothing that a worker could hold."""
        for process in self.processes:
            close_end(process.line)
            close_end(process.lifeline)
            if process.pid is not None:
                process.kill()
        for process in self.processes:
            if process.pid is not None:
                process.join(1.0)
        self._disarm()
        if pool is not None:
            pool.terminate()
        if self.sweeper is not None:
            end_sweeper(self.sweeper)
            close_end(self.sweeper.stdin)

    def _close_pipes(self) -> None:
        """What a Pool that was not made whole holds is in cycles, and descriptors may be short."""
        ends = [end for lock in self._locks for end in (lock._reader, lock._writer)]
        ends += [end for queue in self._queues for end in (queue._reader, queue._writer)]
        seats = [process.seat for process in self.processes if process.seat is not None]
        ends += [end for seat in seats for end in (seat.line, seat.caller)]
        for end in ends:
            end.close()

    def Process(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802  (multiprocessing's name)
        if self._left <= 0:
            return _Vacancy()
        self._left -= 1
        process = self._class(*args, hiring=self, **kwargs)
        self.processes.append(process)
        return process

    def SimpleQueue(self) -> Any:  # noqa: N802
        self._queues.append(_Queue(ctx=self))
        return self._queues[-1]

    def Lock(self) -> _Lock:  # noqa: N802
        self._locks.append(_Lock())
        return self._locks[-1]

    def _disarm(self) -> None:
        """When all workers are dead: let `Pool.terminate` find no lock taken, whoever held it, and
        nothing in a queue to read, for a worker killed at its start may have read half of it."""
        for lock in self._locks:
            lock.release()
        for queue in self._queues:
            if queue is not self._queues[-1]:  # the last one is between the Pool's own threads
                queue._reader = _Quiet(queue._reader)


class _Queue(multiprocessing.queues.SimpleQueue):  # type: ignore[type-arg]
    """A queue of the Pool's, in which a worker whose caller is gone leaves without a traceback."""

    def put(self, obj: Any) -> None:
        try:
            super().put(obj)
        except BrokenPipeError:
            leave()


class _Quiet:
    """The reading end of a queue, of which `poll` says that nothing is there."""

    def __init__(self, reader: Any):
        self._reader = reader

    def poll(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


class _Lock:
    """A lock between processes: an empty message in a pipe, which is taken and put back.

    Not a semaphore: those have names that a killed caller leaves behind, do not exist everywhere
    (AWS Lambda), and stay taken for ever when their holder is killed.
    """

    def __init__(self) -> None:
        self._reader, self._writer = multiprocessing.connection.Pipe(duplex=False)
        self.release()

    def acquire(self) -> bool:
        self._reader.recv_bytes()
        return True

    def release(self) -> None:
        self._writer.send_bytes(b"")

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _Vacancy:
    """What a Pool gets instead of another process: never started, never running, never joined.

    A Pool replaces each dead worker from a thread of its own, for ever, in a loop when they die at
    their start. Having no `sentinel`, this is not watched; having no exit code, not replaced.
    """

    name, daemon, exitcode, pid = "vacancy", True, None, 0

    def start(self) -> None: ...
    def terminate(self) -> None: ...
    def join(self) -> None: ...
    def is_alive(self) -> bool:
        return False
