"""Waiting for any of some workers to say something, or to die."""

from __future__ import annotations

import select
import sys
from typing import Any

from parmap._handle import Worker, readable


class Watch:
    """Waits for any of some workers to say something or to die."""

    def __init__(self) -> None:
        self._poll: Any = None if sys.platform == "win32" else select.poll()
        self._by_source: dict[Any, Worker] = {}  # by its line's descriptor, and its pidfd
        self._unsettled: set[Worker] = set()  # of which only the line can tell as yet

    def add(self, worker: Worker) -> None:
        self._register(worker.line.fileno(), worker)
        self._unsettled.add(worker)

    def remove(self, worker: Worker) -> None:
        self._unsettled.discard(worker)
        for source in [s for s, w in self._by_source.items() if w is worker]:
            del self._by_source[source]
            if self._poll is not None:
                self._poll.unregister(source)

    def wait(self, seconds: float | None) -> dict[Worker, bool]:
        """Workers that have something to read (True), or nothing to read and are dead (False)."""
        for worker in [w for w in self._unsettled if w.settle() is not None]:
            self._unsettled.remove(worker)
            self._register(worker.pidfd, worker)
        found: dict[Worker, bool] = {}
        for source in self._ready(seconds):
            worker = self._by_source[source]
            found[worker] = source != worker.pidfd or found.get(worker, False)
        return found

    def _register(self, source: Any, worker: Worker) -> None:
        self._by_source[source] = worker
        if self._poll is not None:
            self._poll.register(source, 1)  # POLLIN; hang-ups are told unasked

    def _ready(self, seconds: float | None) -> list[Any]:
        if self._poll is None:
            return readable(list(self._by_source), seconds)
        timeout = None if seconds is None else seconds * 1000
        return [source for source, _ in self._poll.poll(timeout)]
