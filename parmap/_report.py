"""What a call did and why, in words and numbers."""

from __future__ import annotations

import sys
from time import perf_counter

from parmap._outcome import loaded, short_repr
from parmap._probe import TINY_RESTED_SECONDS, Probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_logger: Any = None  # a program that never imports logging does not listen

# Seconds without a call after which workers take long to wake. Smaller takes a moment's work for a
# pause; larger sends too little to workers that sleep.
PAUSE_SECONDS = 10e-3


class Report:
    """What was decided for a call, and what came of it. Filled in as the call goes on.

    Attributes:
        mode: "serial", "parallel", or "not started".
        reason: why, in words.
        workers: processes (or slots of an executor) in use; 0 when serial.
        start_method: "forkserver", "spawn", "fork", or the executor's type; "" when serial.
        items: run so far.
        items_here: how many of them in the calling process.
        chunks: sent to workers.
        seconds_per_item: mean time of one item.
        waiting: share of that time in which no processor was used, 0 to 1.
        bytes_moved: pickled items and results that crossed to and from workers.
        seconds: from the first `next` until now or the end.
        worker_deaths: workers lost in this call.
        rested: whether no call came just before; workers are slow to wake then.
        serial_seconds: what the items run so far would have taken one after the other, with the
            machine to themselves.
        speedup: serial_seconds over seconds; 1 for a serial call.

    Examples:
        >>> from parmap import pmap
        >>> squares = pmap(lambda x: x * x, range(5))
        >>> list(squares)
        [0, 1, 4, 9, 16]
        >>> squares.report.mode, squares.report.items
        ('serial', 5)
    """

    mode: str = "not started"
    reason: str = "nothing was asked of the iterator yet"
    workers: int = 0
    start_method: str = ""
    chunks: int = 0
    bytes_moved: int = 0
    worker_deaths: int = 0
    rested: bool = False

    _items_away = 0
    _seconds_waiting = _seconds_computing = 0.0  # in workers
    _began = _ended = 0.0
    last_end: float = 0.0  # of the class: when a call of this process ended

    def __init__(self) -> None:
        self.probe: Probe = Probe()

    @property
    def seconds(self) -> float:
        return (self._ended or perf_counter()) - self._began if self._began else 0.0

    @property
    def items(self) -> int:
        return self.probe.items + self._items_away

    @property
    def items_here(self) -> int:
        return self.probe.items

    @property
    def serial_seconds(self) -> float:
        seconds = self.probe.seconds + self._seconds_waiting
        if not self._seconds_computing:
            return seconds
        from parmap._machine import costs

        return seconds + self._seconds_computing / (costs().crowding if self.workers > 1 else 1.0)

    @property
    def waiting(self) -> float:
        return max(0.0, 1.0 - self.probe.busy)

    @property
    def seconds_per_item(self) -> float:
        return self.serial_seconds / self.items if self.items else 0.0

    @property
    def speedup(self) -> float:
        parallel = self.mode == "parallel" and self.seconds
        return self.serial_seconds / self.seconds if parallel else 1.0

    def start(self) -> None:
        """The first `next`."""
        if self._began:
            return
        self.mode, self.reason = "serial", "too little work for workers to matter"
        self._began = perf_counter()
        if self._began > Report.last_end + PAUSE_SECONDS:
            self.rested, self.probe.tiny = True, TINY_RESTED_SECONDS

    def end(self, fn: Any) -> None:
        """Nothing more will come. One line for who listens to the logger "parmap"."""
        self._ended = Report.last_end = perf_counter()
        global _logger
        if _logger is None and (logging := loaded("logging")) is not None:
            _logger = logging.getLogger("parmap")  # which takes 20 us on cold caches
        if _logger is not None and _logger.isEnabledFor(10) and not sys.is_finalizing():  # DEBUG
            _logger.debug("%s: %s", short_repr(fn), "; ".join(str(self).splitlines()))

    def add(self, items: int, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        """Count items of workers. Waiting takes as long alone; computing takes what it used of a
        processor, however many shared it."""
        from parmap._plan import WAITING_SHARE

        self._items_away += items
        if cpu_seconds > (1 - WAITING_SHARE) / 2 * seconds:
            self._seconds_computing += min(seconds, cpu_seconds)
        else:
            self._seconds_waiting += seconds

    def learn_crowding(self) -> None:
        """How much longer items took in workers than here, if enough ran to tell."""
        here, away = self.probe.items, self._items_away
        if here and away > 2 * self.workers and self._seconds_computing > self._seconds_waiting:
            from parmap._machine import MOST_CROWDING, measured

            ratio = self._seconds_computing / away / (self.probe.seconds / here)
            measured(crowding=min(max(ratio, 1.0), MOST_CROWDING))

    def __str__(self) -> str:
        from parmap._plan import in_words

        lines = [f"{self.mode}: {self.reason}"]
        if self.items:
            each = in_words(self.seconds_per_item)
            lines.append(f"{self.items} items at {each} each, in {in_words(self.seconds)}")
        if self.mode == "parallel":
            lines += [
                f"{self.workers} workers ({self.start_method}), {self.chunks} chunks, "
                f"{self.items_here} items run here, {self.bytes_moved:,} bytes moved",
                f"serial would have taken {in_words(self.serial_seconds)}: "
                f"{self.speedup:.2f} times as long",
            ]
        if self.worker_deaths:
            lines.append(f"{self.worker_deaths} workers died")
        return "\n".join(lines)
