"""Waiting for any of some workers to say something, or to die."""

from __future__ import annotations

import sys
from typing import Any

from parmap._handle import Worker


class Watch:
    """Waits for any of some workers to say something or to die."""

    def __init__(self) -> None:
        self._poll: Any = None
        if sys.platform != "win32":
            import select

            self._poll = select.poll()
        self._by_source: dict[Any, tuple[Worker, bool]] = {}

    def add(self, worker: Worker) -> None:
        """Watch a worker: its pipe, and its end."""
        worker.settle()
        pipe: Any = worker.line
        end: Any = worker.pidfd if worker.pidfd is not None else worker.process.end_sentinel
        if self._poll is not None:
            pipe = pipe.fileno()
            self._poll.register(pipe, 1)  # POLLIN; hang-ups are told unasked
            self._poll.register(end, 1)
        self._by_source[pipe] = (worker, True)
        self._by_source[end] = (worker, False)

    def remove(self, worker: Worker) -> None:
        for source in [s for s, (w, _) in self._by_source.items() if w is worker]:
            del self._by_source[source]
            if self._poll is not None:
                self._poll.unregister(source)

    def wait(self, seconds: float | None) -> dict[Worker, bool]:
        """Workers that have something to read (True), or nothing to read and are dead (False)."""
        if self._poll is None:
            ready = _ready(list(self._by_source), seconds)
        else:
            ready = [s for s, _ in self._poll.poll(None if seconds is None else seconds * 1000)]
        found: dict[Worker, bool] = {}
        for source in ready:
            if source in self._by_source:
                worker, readable = self._by_source[source]
                if readable or worker.settled or not self._settle(worker):
                    found[worker] = readable or found.get(worker, False)
        return found

    def _settle(self, worker: Worker) -> bool:
        """The sentinel of a new worker told of its beginning, not of its end; or, without one, that
        it never began."""
        self.remove(worker)
        self.add(worker)
        return worker.process.pid is not None


def _ready(sources: list[Any], seconds: float | None) -> list[Any]:
    from multiprocessing.connection import wait

    return wait(sources, seconds)
