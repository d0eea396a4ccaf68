"""Station 4: the warm workers of this process.

What holds here:
  - A worker belongs to one call at a time. When it has answered all of it, it is kept for the
    next, or ends itself after a while.
  - A lost worker is replaced by the call that lost it. Nobody else begins any.
  - Ending waits on no lock, and on a worker for half a second at the most.
  - A forked copy of this process starts with nothing, and touches nothing of the original.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from parmap._files import Store, new_store
from parmap._handle import Worker
from parmap._messages import Hello
from parmap._place import place
from parmap._processes import end_server
from parmap._quiet import filled_streams, interrupts_deferred
from parmap._seat import close_end, keep_end, readable
from parmap._sweep import start_sweeper, sweep_after_the_dead

# Seconds after which a worker without work ends itself. Smaller makes programs that call now and
# then pay for starts (60 ms); larger keeps memory for nobody.
IDLE_SECONDS = 60.0

# Seconds that a call waits for workers that finish the last item of one that was ended early.
# Smaller hires others beside them; larger costs more than that.
DRAIN_SECONDS = 0.01

# Seconds for which workers that import for a call that is over are expected. Smaller hires others
# that import as long; larger waits for who was stopped.
COMING_SECONDS = 30.0

# Crews that are kept. Fewer would start workers anew for calls that alternate; more hold processes
# for initargs that will not come again.
MOST_CREWS = 4

# Seconds that idle workers get to end by themselves. Smaller cuts short what fn registered with
# atexit; larger makes every exit wait for a worker that is stuck.
LEAVE_SECONDS = 0.5


class Crew:
    """All workers of one start method and initializer."""

    def __init__(self, method: str, initializer: bytes | int | None, store: Store):
        self.method, self.initializer, self.store = method, initializer, store
        # Held for a few lines, and never while anything is waited for or ended. Not re-entrant,
        # for `give_back` may come in from a finaliser, in the middle of any line here.
        self._lock = threading.Lock()
        self._workers: set[Worker] = set()
        self._most = 0  # workers of one call at the most: more idle ones are not kept
        self._sweeper: Any = None

    def lease(self, count: int, most: int) -> list[Worker]:
        """Up to `count` workers for a call that has `most` in all: idle ones, and newly hired ones.
        Raises what starting a process raises."""
        self._await_drained(count)
        self._most = max(self._most, most)
        team = self.ready(count)
        missing = count - len(team) - (self.coming() if team else 0)
        if missing > 0:
            self._hire(missing, team)
        return team

    def ready(self, count: int) -> list[Worker]:
        """Up to `count` idle workers, for one call."""
        wanted = self._take_idle(slice(count))
        team = [worker for worker in wanted if worker.alive()]
        self._lay_off(set(wanted).difference(team))
        return team

    def give_back(self, workers: Iterable[Worker]) -> None:
        """End of a lease. Called by finalisers too, so it never waits for the lock: where somebody
        holds it, who is too many stays until the next call ends."""
        for worker in workers:
            worker.free_since = time.monotonic()
        # Who is at the last item of an earlier call will be idle too: counted now, for nobody looks
        # when that is done.
        surplus = max(0, len(self._free()) - self._most)
        self._lay_off(self._take_idle(slice(-surplus, None) if surplus else slice(0), wait=False))

    def _free(self) -> list[Worker]:
        """Workers that belong to no call, the longest first."""
        free = (worker for worker in list(self._workers) if worker.free_since)
        return sorted(free, key=lambda worker: worker.free_since)

    def _idle(self) -> list[Worker]:
        """With the lock: those whose last answer is in. Last, who prepares for one that is over."""
        free = self._free()
        for worker in free:
            worker.drain()
        idle = (worker for worker in free if not worker.inflight)
        return sorted(idle, key=lambda worker: worker.preparing)

    def _take_idle(self, which: slice = slice(None), wait: bool = True) -> list[Worker]:
        """Idle workers, which nobody else gets from now on."""
        taken: list[Worker] = []
        if self._lock.acquire(blocking=wait):
            try:
                taken = self._idle()[which]
                for worker in taken:
                    worker.free_since = 0.0
            finally:
                self._lock.release()
        return taken

    def _await_drained(self, count: int) -> None:
        """Give workers of a call that is over a moment for the item they are at."""
        limit = time.monotonic() + DRAIN_SECONDS
        while True:
            with self._lock:
                enough = len(self._idle()) >= count
            busy = [worker.line for worker in self._free() if worker.inflight and worker.running]
            if enough or not busy or not readable(busy, max(0.0, limit - time.monotonic())):
                return

    def busy(self) -> int:
        """Workers that belong to a call, or finish the last item of one."""
        with self._lock:
            return len(self._workers) - len(self._idle())

    def warm(self) -> int:
        """Workers that could be leased at once. A call that is dropped asks too, as above."""
        self._take_idle(slice(0), wait=False)  # by which they are heard
        free = self._free()
        if free and time.monotonic() - free[-1].free_since > IDLE_SECONDS:
            self._lay_off(self._take_idle(wait=False))
        return sum(not (worker.inflight or worker.preparing) for worker in self._free())

    def coming(self) -> int:
        """Workers that still import what a call needed that is over."""
        self._take_idle(slice(0))
        since = time.monotonic() - COMING_SECONDS
        late = [w for w in self._free() if w.preparing or (w.inflight and not w.running)]
        return sum(worker.free_since > since for worker in late)

    def _hire(self, count: int, team: list[Worker]) -> None:
        """Add new workers to a team. Where one cannot be had, those that are there have to do."""
        _all.add(self)
        with interrupts_deferred(), filled_streams():
            try:
                self._see_to_sweeping()
                here = place() if isinstance(self.initializer, bytes) else None
                hello = Hello(self.store, self.initializer, IDLE_SECONDS, here, sys.argv)
                for _ in range(count):
                    team.append(Worker(self.method, hello))
                    self._workers.add(team[-1])
            except OSError:
                if not team:
                    raise
            except BaseException:
                self._lay_off(team, kill=True)
                raise
            self._tell_sweeper()

    def _see_to_sweeping(self) -> None:
        with _lock:
            if self._sweeper is None and self.method != "forkserver":  # whose server sweeps
                self._sweeper = start_sweeper(self.store.directories)
                if self._sweeper is not None:
                    os.set_blocking(self._sweeper.stdin.fileno(), False)  # somebody may stop it
                    keep_end(self._sweeper.stdin)

    def _tell_sweeper(self) -> None:
        if (sweeper := self._sweeper) is not None:
            with self._lock, suppress(OSError, ValueError):  # somebody killed it, or it was ended
                pids = [str(worker.pid) for worker in self._workers]
                sweeper.stdin.write(" ".join([*pids, "\n"]).encode())

    def lose(self, worker: Worker, kill: bool = False) -> None:
        """Strike a worker. Its files are left to its call."""
        if kill:
            worker.kill()
        with self._lock:
            known = worker in self._workers
            self._workers.discard(worker)
        if known:
            worker.bury()
            self._tell_sweeper()

    def _lay_off(self, workers: Iterable[Worker], kill: bool = False) -> None:
        """Strike workers that are of no more use, with their files."""
        for worker in workers:
            if kill or worker.preparing:  # it would not hear of it for a while
                worker.kill()
        for worker in workers:
            self.lose(worker)
            self.store.sweep(f"{worker.pid}-")

    def dismiss_idle(self) -> None:
        """Let all idle workers go: they know a state of the caller's modules that is over."""
        self._lay_off(self._take_idle(), kill=True)

    def end(self) -> None:
        """Those without work are asked to leave, the others are killed."""
        leaving = [worker for worker in self._take_idle() if not worker.preparing]
        for worker in leaving:
            worker.close()
        limit = time.monotonic() + LEAVE_SECONDS
        for worker in leaving:
            worker.await_end(max(0.0, limit - time.monotonic()))
        self._lay_off(list(self._workers), kill=True)
        if self._sweeper is not None:
            self._sweeper.kill()
            self._sweeper.wait()
            close_end(self._sweeper.stdin)
            self._sweeper = None
        _all.discard(self)


# ------------------------------------------------------------------ the crews of this process

_crews: dict[tuple[str, bytes | None], Crew] = {}  # that calls share
_all: set[Crew] = set()  # with those of one forked call each
_lock = threading.RLock()
_store: Store | None = None
_ending = False  # the program is
_parked: list[object] = []  # what a forked copy must neither use nor finalise


def store() -> Store:
    global _store
    with _lock:
        if _store is None:
            sweep_after_the_dead()
            _store = new_store()
        return _store


def crew(method: str, initializer: bytes | None) -> Crew:
    key = (method, initializer)
    with _lock:
        chosen = _crews.pop(key, None) or Crew(*key, store())
        idle = [each for each in _crews if not _crews[each].busy()]  # least recently used first
        retired = [_crews.pop(each) for each in idle[: max(0, len(_crews) + 1 - MOST_CREWS)]]
        _crews[key] = chosen
    for each in retired:
        each.end()
    return chosen


def warm_workers() -> int:
    return sum(crew.warm() for crew in list(_crews.values()))


def coming_workers() -> int:
    return sum(crew.coming() for crew in list(_crews.values()))


def shutdown() -> None:
    global _store
    with _lock:
        crews, old = list(_all), _store
        _crews.clear()
        _store = None
    for each in crews:
        each.end()
        each.store.sweep()
    if old is not None:
        old.sweep()
    end_server(LEAVE_SECONDS)


def stay_if_ending() -> None:
    """A daemon thread goes no further while the program ends: nobody is to hear that its workers
    have ended."""
    if _ending and threading.current_thread() is not threading.main_thread():
        threading.Event().wait()


def _forget() -> None:
    global _lock, _store
    _parked.extend((*_all, _store))
    _lock = threading.RLock()
    _crews.clear()
    _all.clear()
    _store = None


def _at_exit() -> None:
    global _ending
    _ending = True
    with interrupts_deferred() as came:
        shutdown()
        came.clear()  # it is ending


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
