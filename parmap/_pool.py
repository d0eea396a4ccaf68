"""Station 4: the warm workers of this process, hosted by multiprocessing.Pool.

A Pool starts, hosts and ends processes; each of its processes runs one task, `_worker.serve`, and
the work itself goes over one private pipe a worker, with no thread between caller and worker.

What holds here:
  - Workers are kept for the next call, and end themselves when idle. When the last worker of a Pool
    has left, the Pool goes too.
  - A worker belongs to one call at a time. A call takes idle workers and hires what is missing.
  - Nobody is replaced behind our back: a hired Pool starts its workers once (see `Hiring`). A lost
    worker is replaced by the call that lost it, in its own thread.
  - Death is seen by pidfd and by EOF, whichever comes first.
  - Ending never waits on a lock: workers are killed first, then nobody holds anything.
  - A forked copy of this process starts with nothing, and touches nothing of the original.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Sequence

from parmap import _worker
from parmap._files import Store, new_store
from parmap._handle import Worker, read_late_answers, readable
from parmap._hiring import Hiring
from parmap._processes import close_end, forget_after_fork
from parmap._quiet import interrupts_deferred
from parmap._sweep import sweep_after_the_dead

# Seconds after which a worker without work ends itself. Smaller makes programs that call now and
# then pay for a start each time (60 ms); larger keeps memory for nobody.
IDLE_SECONDS = 60.0

# Seconds that a new call waits for workers that finish the last item of one that was ended early.
# Smaller hires others beside them; larger costs more than hiring one does.
DRAIN_SECONDS = 0.01

# Crews that are kept, one for each start method and initializer. Fewer would start workers anew for
# calls that alternate; more hold processes for initargs that will not come again.
MOST_CREWS = 4

# Seconds that idle workers get to end by themselves at `shutdown`. Smaller would cut short what fn
# registered with atexit; larger makes every program's exit wait for a worker that is stuck.
LEAVE_SECONDS = 0.5


class Host:
    """One Pool: workers that were hired together."""

    def __init__(self, crew: Crew, count: int):
        self.store = crew.store
        self._left = count
        self._crew = crew
        self._hiring = Hiring(crew.method, count, crew.store, crew.initializer, IDLE_SECONDS)
        self._pool = self._hiring.new_pool(count)
        self.workers = [Worker(process, self) for process in self._hiring.processes]
        for _ in self.workers:
            self._pool.apply_async(_worker.serve, callback=self._left_by_one)

    def _left_by_one(self, _: object) -> None:
        """A worker ended by itself. Runs in the Pool's result thread."""
        self._left -= 1
        if self._left == 0:
            self._crew.dismiss(self)

    def end(self) -> None:
        """Kill what is left, then end the Pool. Waits on nothing that a worker could hold."""
        for worker in self.workers:
            worker.close()
        self._hiring.end(self._pool)
        self.workers.clear()


class Crew:
    """All workers of one start method and initializer, whichever Pools host them."""

    def __init__(self, method: str, initializer: bytes | int | None, store: Store):
        self.method = method
        self.initializer = initializer
        self.store = store
        # Held for a few lines at a time, and never while anything is waited for or ended: a Pool's
        # own threads take it too. Not re-entrant, for `give_back` may come in from a finaliser, in
        # the middle of any line here.
        self._lock = threading.Lock()
        self._hosts: list[Host] = []
        self._idle: list[Worker] = []
        self._draining: list[Worker] = []
        self._returned: deque[Worker] = deque()  # given back, not yet sorted into the two above
        self._most = 0  # workers of one call at the most: more idle ones are not kept

    def lease(self, count: int) -> list[Worker]:
        """Up to `count` workers for one call: idle ones first, then newly hired ones.

        Raises what starting a process raises (OSError for the most part).
        """
        self._await_drained(count)
        with self._lock:
            self._sort_returned()
            wanted, self._idle = self._idle[:count], self._idle[count:]
            self._most = max(self._most, count)
        taken = [worker for worker in wanted if worker.alive()]
        self._lay_off([worker for worker in wanted if worker not in taken])
        if len(taken) < count:
            taken.extend(self._hire(count - len(taken)))
        return taken

    def _hire(self, count: int) -> list[Worker]:
        host = Host(self, count)
        with self._lock:
            self._hosts.append(host)
        return list(host.workers)

    def give_back(self, workers: Sequence[Worker]) -> None:
        """End of a lease. Who still runs an item of the call comes back when that is done.

        Called by finalisers too, so it never waits for the lock: if somebody holds it, sorting is
        left to them, or to the next call.
        """
        self._returned.extend(workers)
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._sort_returned()
            surplus, self._idle = self._idle[self._most :], self._idle[: self._most]
        finally:
            self._lock.release()
        self._lay_off(surplus)

    def _sort_returned(self) -> None:
        """With the lock: returned workers are idle, or draining until their last answer is in."""
        while self._returned:
            worker = self._returned.popleft()
            if worker in worker.host.workers:  # else its Pool was ended meanwhile
                self._draining.append(worker)
        for worker in list(self._draining):
            read_late_answers(worker)
        self._idle += [worker for worker in self._draining if not worker.inflight]
        self._draining = [worker for worker in self._draining if worker.inflight]
        # Small Pools last, which is where those are taken that are too many: so whole Pools go.
        self._idle.sort(key=lambda worker: (-len(worker.host.workers), id(worker.host)))

    def _await_drained(self, count: int) -> None:
        """Give workers that were told to stop a moment to be done with the item they are at."""
        limit = time.monotonic() + DRAIN_SECONDS
        while True:
            with self._lock:
                self._sort_returned()
                busy = [worker.line for worker in self._draining]
                enough = not busy or len(self._idle) >= count
            if enough or time.monotonic() > limit:
                return
            readable(busy, max(0.0, limit - time.monotonic()))

    def lose(self, worker: Worker, kill: bool = False) -> None:
        """Strike a worker that died, or is to die. Its files are left to its call."""
        if kill:
            worker.kill()
        self._strike([worker])

    def busy(self) -> int:
        """Workers that belong to a call, or finish the last item of one."""
        with self._lock:
            self._sort_returned()
            return sum(len(host.workers) for host in self._hosts) - len(self._idle)

    def warm(self) -> int:
        """Workers that could be leased at once."""
        return len(self._idle) + len(self._returned)

    def _lay_off(self, workers: Sequence[Worker]) -> None:
        """Strike workers that belong to no call."""
        for worker in self._strike(workers):
            self.store.sweep(f"{worker.process.pid}-")

    def _strike(self, workers: Sequence[Worker]) -> list[Worker]:
        """Strike workers that are dead or dying; end the Pools that have no others."""
        with self._lock:
            struck = [worker for worker in workers if worker in worker.host.workers]
            for worker in struck:
                worker.host.workers.remove(worker)
                for group in (self._idle, self._draining):
                    if worker in group:
                        group.remove(worker)
            empty = {id(w.host): w.host for w in struck if not w.host.workers}
            self._hosts = [host for host in self._hosts if id(host) not in empty]
        for worker in struck:
            worker.close()  # one that is not dead yet leaves when its line closes
            worker.exitcode()
            close_end(worker.process.lifeline)  # and if it would not leave, this ends it
        for host in empty.values():
            host.end()
        return struck

    def dismiss_idle(self) -> None:
        """Let all idle workers go: they know a state of the caller's modules that is over."""
        with self._lock:
            leaving, self._idle = self._idle, []
        for worker in leaving:
            worker.kill()
        self._lay_off(leaving)

    def dismiss(self, host: Host) -> None:
        """Every worker of this Pool has ended by itself."""
        with self._lock:
            if host not in self._hosts or any(w not in self._idle for w in host.workers):
                return  # a call has just leased one of them, and will find it dead
            self._hosts.remove(host)
            self._idle = [w for w in self._idle if w.host is not host]
        host.end()

    @classmethod
    def forked(cls, initializer: int | None) -> Crew:
        """A crew of one call: forks of the caller as it is now."""
        return cls("fork", initializer, new_store(shares_main=True))

    def end(self) -> None:
        """End all workers: those without work are asked to leave, the others are killed."""
        with self._lock:
            self._sort_returned()
            idle, self._idle = self._idle, []
            self._draining = []
            hosts, self._hosts = self._hosts, []
        for worker in idle:
            close_end(worker.line)
        limit = time.monotonic() + LEAVE_SECONDS
        for worker in idle:
            worker.process.join(max(0.0, limit - time.monotonic()))
        for host in hosts:
            host.end()


# ------------------------------------------------------------------ the crews of this process

_crews: dict[tuple[str, bytes | None], Crew] = {}
_lock = threading.RLock()
_store: Store | None = None
_parked: list[object] = []  # what a forked copy must neither use nor finalise


def store() -> Store:
    global _store
    with _lock:
        if _store is None:
            sweep_after_the_dead()
            _store = new_store()
        return _store


def crew(method: str, initializer: bytes | None) -> Crew:
    """The crew for a start method and a pickled initializer."""
    key = (method, initializer)
    with _lock:
        chosen = _crews.pop(key, None) or Crew(*key, store())
        _crews[key] = chosen  # the last one is the one used last
        idle = [each for each in _crews if each != key and not _crews[each].busy()]
        surplus = max(0, len(_crews) - MOST_CREWS)
        retired = [_crews.pop(each) for each in idle[:surplus]]
    for each in retired:
        each.end()
    return chosen


def warm_workers() -> int:
    """Workers of any crew that a call could have at once."""
    return sum(crew.warm() for crew in list(_crews.values()))


def shutdown() -> None:
    """End all workers of this process now (see `_api.shutdown`)."""
    global _store
    with _lock:
        crews, old = list(_crews.values()), _store
        _crews.clear()
        _store = None
    for each in crews:
        each.end()
    if old is not None:
        old.sweep()


def _forget() -> None:
    """In a forked copy of this process: the workers are the original's."""
    global _lock, _store
    _parked.extend((dict(_crews), _store))
    _lock = threading.RLock()
    _crews.clear()
    _store = None
    forget_after_fork()


def _at_exit() -> None:
    with interrupts_deferred() as came:
        shutdown()
        came.clear()  # it is ending


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
