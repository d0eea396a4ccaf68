"""Station 5, this side of the wall: items that the caller runs itself, though there are workers.

While they boot, so that their start costs nothing; when they are lost; and what finds no room.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from parmap._call import Call
from parmap._chunk import Chunk, Outcome
from parmap._outcome import run_batch
from parmap._probe import BATCH_SECONDS
from parmap._report import Report


def run_some(call: Call, chunk: Chunk, report: Report) -> None:
    """Run the next items: as many as may go without a look at the workers, at 5 us each."""
    probe, first = report.probe, chunk.got
    size = max(1, int(BATCH_SECONDS / (probe.each or 1e-9)))
    items = chunk.items[first : first + size]
    began = perf_counter()
    values, error = run_batch(call.mapper, call.fn, items)
    count = len(values)
    probe.add(count + (error is not None), perf_counter() - began)
    chunk.add(count, values)
    chunk.items[first : first + count] = [None] * count
    if error is not None:
        chunk.add(1, _again(call, error, chunk.start + chunk.got, chunk.items[chunk.got]))


def _again(call: Call, error: BaseException, index: int, item: Any) -> Outcome:
    """What comes of an item that raised."""
    try:
        return [call.again(error, index, item)]
    except KeyboardInterrupt:
        raise
    except BaseException as final:  # raised again in its place
        return final
    finally:
        del error  # see _outcome.raising
