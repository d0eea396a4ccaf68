"""All stations as one call goes through them: the short way, which most calls take, and the whole
one, read from top to bottom.
"""

from __future__ import annotations

import sys
from _thread import RLock
from contextlib import suppress
from time import perf_counter

from parmap._call import DEFAULT, NO_WORKERS, TINY_SECONDS, Call, warn
from parmap._inputs import SLICED, Slices, inputs_of
from parmap._known import seconds_of
from parmap._loaded import loaded
from parmap._outcome import handed_out, nested, stopped
from parmap._probe import BATCH_SECONDS, BUSY_SECONDS, Probe, clocks, run_failed, run_here

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from parmap._call import Settings
    from parmap._outcome import Mapper
    from parmap._report import Report


def way_of(
    fn: Callable[..., Any],
    mapper: Mapper,
    iterables: Sequence[Any],
    settings: Settings,
    report: Report,
) -> Iterator[Iterator[Any]]:
    """The batches of results of a call. A generator, so nothing runs before the first `next`."""
    if settings is DEFAULT and len(iterables) == 1 and type(iterables[0]) in SLICED:
        try:
            len(iterables[0])
            return _short_way(fn, mapper, iterables[0], report)
        except OverflowError:
            pass  # a range of more than 2**63
    inputs = inputs_of(iterables, settings.strict)
    return _whole_way(Call(fn, mapper, inputs, settings), report)


class InTurns:
    """Batches for whichever thread asks. A generator refuses a second `next` while it runs, which
    the chain would take for the end; under map, threads may share an iterator."""

    __slots__ = ("_batches", "_lock")

    def __init__(self, batches: Iterator[Iterator[Any]]):
        self._batches, self._lock = batches, RLock()

    def __iter__(self) -> InTurns:
        return self

    def __next__(self) -> Iterator[Any]:
        with self._lock:
            return next(self._batches)


def _short_way(
    fn: Callable[..., Any], mapper: Mapper, items: Sequence[Any], report: Report
) -> Iterator[Iterator[Any]]:
    """The first millisecond of a list, a tuple or a range, as `run_here` would run it. In one
    piece: on cold caches each function that is entered costs a microsecond; most calls end here."""
    report.start()
    probe, size, seconds = report.probe, 1, 0.0
    batch: Sequence[Any] = ()
    values: list[Any] = []
    errors: list[BaseException] = []
    short = seconds_of(fn, len(items)) < TINY_SECONDS
    before = clocks() if short and len(items) > 2 else None  # else there is nothing to share
    while short and probe.items < len(items) and probe.seconds < BATCH_SECONDS:
        batch, values = items[probe.items : probe.items + size], []
        began = perf_counter()
        try:
            values.extend(mapper(fn, batch))
            if len(values) < len(batch):
                errors.append(stopped())
        except BaseException as error:
            errors.append(error)
        seconds = perf_counter() - began
        if errors:
            break
        size = len(values)
        probe.items += size
        probe.seconds += seconds
        probe.each = seconds / size
        if before is not None and seconds > BUSY_SECONDS:
            _look(probe, before, batch, values, len(items) - 1)
        before, batch = None, ()
        yield handed_out(values)
        size = int(min(16 * size, BATCH_SECONDS / (probe.each or 1e-9))) or 1
    if probe.items >= len(items):  # most calls are over here
        _end(fn, report)
        return
    call = Call(fn, mapper, Slices(items), DEFAULT)
    call.inputs.drawn = probe.items
    if errors:
        batch = list(batch)  # which is emptied
        call.inputs.drawn += len(batch)
        probe.add(len(values) + 1, seconds)
        yield from run_failed(call, probe, errors, batch, values)
    yield from _whole_way(call, report)


def _look(
    probe: Probe,
    before: tuple[float, float, int],
    batch: Sequence[Any],
    values: Sequence[Any],
    left: int,
) -> None:
    """What a first item tells that is not cheap."""
    probe.look(probe.each, before)
    _foresee(probe, DEFAULT, left)
    if probe.dear(left):
        probe.weigh(batch, values)


# Seconds of items, by those of the first millisecond, for which a fork server is started at once.
# Smaller starts some in vain, at 5 ms; larger has more calls wait for it.
EARLY_SECONDS = 80e-3


def _foresee(probe: Probe, settings: Settings, left: int) -> None:
    """In the first long call, have the fork server boot while the rooms of a decision are loaded
    and items are weighed, which takes as long. Who hires workers tells what is wrong with that."""
    seen = probe.seconds >= BATCH_SECONDS and left * probe.each >= EARLY_SECONDS
    if not seen or loaded("parmap._pool") or nested():
        return
    if settings.executor is None and settings.mp_context is None and settings.parallel is None:
        from parmap._quiet import interrupts_deferred

        with interrupts_deferred(), suppress(OSError, ImportError, RuntimeError):
            from parmap import _processes

            if _processes.default_method() == "forkserver":
                _processes.start_server()
            from parmap import _pool  # noqa: F401  (which ends it at exit)


def _end(fn: Callable[..., Any], report: Report) -> None:
    """The end of a call that needed no plan."""
    Probe.before += report.probe.seconds
    report.end(fn)


def _whole_way(call: Call, report: Report) -> Iterator[Iterator[Any]]:
    """First here, then perhaps in workers, what they cannot do here again."""
    report.start()
    probe = report.probe
    if call.plain:
        yield from run_here(call, probe, probe.brief)
        if call.inputs.finished:
            _end(call.fn, report)
            return
    _foresee(probe, call.settings, call.inputs.left() or 0)
    try:
        from parmap._decision import Decision
    except OSError as error:  # not even a descriptor left to read it with
        if call.insists:
            error.add_note(NO_WORKERS)
            raise
        warn(f"parmap runs this call serially: {error}")
        yield from run_here(call, probe, lambda _: True)
        report.end(call.fn)
        return
    decision = Decision(call, report)
    try:
        yield from decision.run_here()
        if decision.parallel:
            yield from decision.run_in_workers()
            yield from decision.run_here()  # only where workers were lost to the call
    finally:
        decision.close(sys.exc_info()[1])
