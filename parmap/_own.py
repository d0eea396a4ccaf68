"""Station 5, this side of the wall: chunks that the caller runs itself, though there are workers.

While they boot, so that their start costs nothing while there is work; when they are lost; and what
finds no room on its way to them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from time import perf_counter
from typing import Any

from parmap._call import Call
from parmap._chunk import Chunk, Outcome
from parmap._outcome import run_batch
from parmap._probe import Probe
from parmap._report import Report

# Seconds of work that the caller does between two looks, while workers boot. Smaller looks more
# often, 5 us each; larger leaves a worker waiting that is up.
LOOK_SECONDS = 1e-3


def items_meanwhile(seconds_per_item: float, seconds: float, space: int) -> int:
    """How many items the caller can do in so many seconds; not all of the space there is, and none
    that would keep it from feeding workers long after they are up."""
    if not seconds_per_item or seconds_per_item > 2 * max(seconds, LOOK_SECONDS):
        return 0
    return max(1, int(min(seconds / seconds_per_item, space / 2)))


class Own:
    """A chunk that the caller is at."""

    def __init__(self, call: Call, chunk: Chunk, probe: Probe):
        self._call, self.chunk, self._probe = call, chunk, probe

    def run(self) -> None:
        """Run the next items, for as long as one may go without a look at the workers."""
        chunk, probe = self.chunk, self._probe
        size = max(1, int(LOOK_SECONDS / max(probe.each, 1e-9)))
        items = chunk.items[chunk.got : chunk.got + size]
        began = perf_counter()
        values, error = run_batch(self._call.mapper, self._call.fn, items)
        probe.add(len(values) + (error is not None), perf_counter() - began)
        if values:
            chunk.parts.append((len(values), values))
            chunk.items[chunk.got : chunk.got + len(values)] = [None] * len(values)
            chunk.got += len(values)
        if error is not None:
            chunk.parts.append((1, self._again(error, chunk.items[chunk.got])))
            chunk.got += 1
        chunk.done = chunk.got >= len(chunk.items)

    def _again(self, error: BaseException, item: Any) -> Outcome:
        """What comes of an item that raised."""
        index = self.chunk.start + self.chunk.got
        try:
            return [self._call.again(error, index, item)]
        except KeyboardInterrupt:
            raise
        except BaseException as final:  # raised again in its place
            return final
        finally:
            del error  # see _outcome.raising


def run_whole(call: Call, chunk: Chunk, report: Report, why: OSError) -> None:
    """A chunk that cannot be sent. The others may still be."""
    warnings.warn(f"parmap runs items serially: {why}", RuntimeWarning, stacklevel=7)
    own = Own(call, chunk, report.probe)
    while not chunk.done:
        own.run()


def run_rest(call: Call, chunk: Chunk, report: Report) -> Iterator[Iterator[Any]]:
    """The items of a chunk that have no outcome, each run when it is asked for."""
    while chunk.got < len(chunk.items):
        item, chunk.items[chunk.got] = chunk.items[chunk.got], None
        chunk.got += 1
        report.add(1, 0.0)
        yield _when_asked(call, item, chunk.start + chunk.got - 1)


def _when_asked(call: Call, item: Any, index: int) -> Iterator[Any]:
    yield call.run(item, index)
