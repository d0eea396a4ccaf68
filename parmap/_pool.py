"""Station 4: the warm workers of this process.

What holds here:
  - Workers are kept for the next call, and end themselves when idle.
  - A worker belongs to one call at a time. A call takes idle workers and hires what is missing.
  - A lost worker is replaced by the call that lost it, in its own thread. Nobody else begins any.
  - Death is seen by pidfd and by the end of its line, whichever comes first.
  - Ending never waits on a lock, and on a worker for half a second at the most.
  - A forked copy of this process starts with nothing, and touches nothing of the original.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from parmap._files import Store, new_store
from parmap._handle import Worker, read_late_answers, readable
from parmap._messages import Hello
from parmap._place import place
from parmap._processes import end_server, forget_after_fork
from parmap._quiet import filled_streams, interrupts_deferred
from parmap._seat import close_end, keep_end
from parmap._sweep import end_sweeper, start_sweeper, sweep_after_the_dead

# Seconds after which a worker without work ends itself. Smaller makes programs that call now and
# then pay for a start each time (60 ms); larger keeps memory for nobody.
IDLE_SECONDS = 60.0

# Seconds that a new call waits for workers that finish the last item of one that was ended early.
# Smaller hires others beside them; larger costs more than hiring one does.
DRAIN_SECONDS = 0.01

# Seconds for which workers that import for a call that is over are expected to be there soon. Smaller
# begins others beside them, that import as long; larger goes without when somebody stopped them.
COMING_SECONDS = 30.0

# Crews that are kept, one for each start method and initializer. Fewer would start workers anew for
# calls that alternate; more hold processes for initargs that will not come again.
MOST_CREWS = 4

# Seconds that idle workers get to end by themselves at `shutdown`. Smaller would cut short what fn
# registered with atexit; larger makes every program's exit wait for a worker that is stuck.
LEAVE_SECONDS = 0.5


class Crew:
    """All workers of one start method and initializer."""

    def __init__(self, method: str, initializer: bytes | int | None, store: Store):
        self.method = method
        self.initializer = initializer
        self.store = store
        # Held for a few lines at a time, and never while anything is waited for or ended. Not
        # re-entrant, for `give_back` may come in from a finaliser, in the middle of any line here.
        self._lock = threading.Lock()
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._draining: list[Worker] = []
        self._returned: deque[Worker] = deque()  # given back, not yet sorted into the two above
        self._returned_at = 0.0
        self._most = 0  # workers of one call at the most: more idle ones are not kept
        self._sweeper: Any = None
        self._sweeping = threading.Lock()  # held while it is started

    # ------------------------------------------------------------------ begin and end of a lease

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
        return taken + self._hire(count - len(taken) - (self.coming() if taken else 0))

    def give_back(self, workers: Sequence[Worker]) -> None:
        """End of a lease. Who still runs an item of the call comes back when that is done.

        Called by finalisers too, so it never waits for the lock: if somebody holds it, sorting is
        left to them, or to the next call.
        """
        self._returned.extend(workers)
        self._returned_at = time.monotonic()
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
            if worker in self._workers:  # else it was ended meanwhile
                self._draining.append(worker)
        for worker in self._draining:
            read_late_answers(worker)
        self._idle += [worker for worker in self._draining if not worker.inflight]
        self._draining = [worker for worker in self._draining if worker.inflight]

    def _await_drained(self, count: int) -> None:
        """Give workers that were told to stop a moment to be done with the item they are at."""
        limit = time.monotonic() + DRAIN_SECONDS
        while True:
            with self._lock:
                self._sort_returned()
                busy = [worker.line for worker in self._draining if worker.running]
                enough = not busy or len(self._idle) >= count
            if enough or time.monotonic() > limit:
                return
            readable(busy, max(0.0, limit - time.monotonic()))

    def busy(self) -> int:
        """Workers that belong to a call, or finish the last item of one."""
        with self._lock:
            self._sort_returned()
            return len(self._workers) - len(self._idle)

    def warm(self) -> int:
        """Workers that could be leased at once, as far as one knows without asking them."""
        if time.monotonic() - self._returned_at > IDLE_SECONDS:
            self._lay_off(self._take_idle())
        return len(self._idle) + len(self._returned)

    def coming(self) -> int:
        """Workers that still import what a call needed that is over. They will be idle then."""
        if not self._draining or time.monotonic() - self._returned_at > COMING_SECONDS:
            return 0
        with self._lock:
            self._sort_returned()
            return sum(not worker.running for worker in self._draining)

    # ------------------------------------------------------------------ begin and end of a worker

    def _hire(self, count: int) -> list[Worker]:
        """New workers: all that are wanted, or none."""
        hired: list[Worker] = []
        if count < 1:
            return hired
        with interrupts_deferred(), filled_streams():
            try:
                self._see_to_sweeping()
                hello = self._hello()
                while len(hired) < count:
                    hired.append(Worker(self.method, hello))
            except BaseException:
                for worker in hired:
                    worker.kill()
                    worker.bury()
                raise
            with self._lock:
                self._workers.update(hired)
        return hired

    def _see_to_sweeping(self) -> None:
        with self._sweeping:
            if self._sweeper is None and self.method != "forkserver":  # whose server sweeps
                self._sweeper = start_sweeper(self.store.directories)
                if self._sweeper is not None:
                    keep_end(self._sweeper.stdin)

    def _hello(self) -> Hello:
        here = place() if isinstance(self.initializer, bytes) else None
        return Hello(self.store, self.initializer, IDLE_SECONDS, here, sys.argv)

    def lose(self, worker: Worker, kill: bool = False) -> None:
        """Strike a worker that died, or is to die. Its files are left to its call."""
        if kill:
            worker.kill()
        self._strike([worker])

    def _lay_off(self, workers: Sequence[Worker]) -> None:
        """Strike workers that belong to no call."""
        for worker in self._strike(workers):
            self.store.sweep(f"{worker.pid}-")

    def _strike(self, workers: Sequence[Worker]) -> list[Worker]:
        with self._lock:
            struck = [worker for worker in workers if worker in self._workers]
            self._workers.difference_update(struck)
            for worker in struck:
                for group in (self._idle, self._draining):
                    if worker in group:
                        group.remove(worker)
        for worker in struck:
            worker.bury()
        return struck

    def _take_idle(self) -> list[Worker]:
        with self._lock:
            self._sort_returned()
            taken, self._idle = self._idle, []
        return taken

    def dismiss_idle(self) -> None:
        """Let all idle workers go: they know a state of the caller's modules that is over."""
        leaving = self._take_idle()
        for worker in leaving:
            worker.kill()
        self._lay_off(leaving)

    @classmethod
    def forked(cls, initializer: int | None) -> Crew:
        """A crew of one call: forks of the caller as it is now."""
        return cls("fork", initializer, new_store(shares_main=True))

    def end(self) -> None:
        """End all workers: those without work are asked to leave, the others are killed."""
        leaving = self._take_idle()
        for worker in leaving:
            worker.close()
        limit = time.monotonic() + LEAVE_SECONDS
        for worker in leaving:
            worker.exitcode(max(0.0, limit - time.monotonic()))
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            worker.kill()
        self._strike(workers)
        if self._sweeper is not None:
            end_sweeper(self._sweeper)
            close_end(self._sweeper.stdin)
            self._sweeper = None


# ------------------------------------------------------------------ the crews of this process

_crews: dict[tuple[str, bytes | None], Crew] = {}
_lock = threading.RLock()
_store: Store | None = None
_ending = False  # the program: its main thread has run to the end
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


def coming_workers() -> int:
    """Workers that will be warm without being hired."""
    return sum(crew.coming() for crew in list(_crews.values()))


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
    end_server(LEAVE_SECONDS)


def stay_if_ending() -> None:
    """A daemon thread that is in a call while the program ends goes no further: its workers have
    been ended, and nobody is to hear of that."""
    if _ending and threading.current_thread() is not threading.main_thread():
        threading.Event().wait()


def _forget() -> None:
    """In a forked copy of this process: the workers are the original's."""
    global _lock, _store
    _parked.extend((dict(_crews), _store))
    _lock = threading.RLock()
    _crews.clear()
    _store = None
    forget_after_fork()


def _at_exit() -> None:
    global _ending
    _ending = True
    with interrupts_deferred() as came:
        shutdown()
        came.clear()  # it is ending


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
