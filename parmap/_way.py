"""All stations as one call goes through them: the short way, which most calls take, and the whole
one, read from top to bottom.
"""

from __future__ import annotations

import sys
from _thread import RLock
from contextlib import suppress
from time import perf_counter

from parmap._call import DEFAULT, NO_WORKERS, TINY_SECONDS, Call, warn
from parmap._inputs import Slices, inputs_of
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
    call = Call(fn, mapper, inputs_of(iterables, settings.strict), settings)
    short = settings is DEFAULT and type(call.inputs) is Slices
    return (_short_way if short else _whole_way)(call, report)


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


def _short_way(call: Call, report: Report) -> Iterator[Iterator[Any]]:
    """The first millisecond of a list, a tuple or a range, as `run_here` would run it. In one
    piece: on cold caches each function that is entered costs a microsecond; most calls end here."""
    report.start()
    inputs, probe, size, before = call.inputs, report.probe, 1, None
    batch: Sequence[Any] = ()
    values: list[Any] = []
    errors: list[BaseException] = []
    left = inputs.left() or 0
    short = seconds_of(call.fn, left) < TINY_SECONDS
    if short and left > 2:  # else there is nothing to share
        before = clocks()
    while short and probe.seconds < BATCH_SECONDS and (batch := inputs.cut(size)):
        values = []
        began = perf_counter()
        try:
            values.extend(call.mapper(call.fn, batch))
            if len(values) < len(batch):
                errors.append(stopped())
        except BaseException as error:
            del values[len(batch) - 1 :]  # see `run_batch`
            errors.append(error)
        seconds = perf_counter() - began
        count = len(values) + len(errors)
        probe.items += count
        probe.seconds += seconds
        probe.each = seconds / count
        if errors:
            yield from run_failed(call, probe, errors, batch, values)
            break
        if before is not None and seconds > BUSY_SECONDS:
            probe.look(seconds, before)
            _foresee(probe, call, left - 1)
            if probe.dear(left - 1):
                probe.weigh(batch, values)
        before, batch = None, ()
        yield handed_out(values)
        size = int(min(16 * size, BATCH_SECONDS / (probe.each or 1e-9))) or 1
    if inputs.finished:
        _end(call.fn, report)
    else:
        yield from _whole_way(call, report)


# Seconds of items, by those of the first millisecond, for which a fork server is started at once.
# Smaller starts some in vain, at 5 ms; larger has more calls wait for it.
EARLY_SECONDS = 80e-3


def _foresee(probe: Probe, call: Call, left: int) -> None:
    """In the first long call, have the fork server boot while the rooms of a decision are loaded
    and items are weighed, which takes as long. Who hires workers tells what is wrong with that."""
    s, rest = call.settings, left * probe.each
    if probe.seconds < BATCH_SECONDS or rest < EARLY_SECONDS or loaded("parmap._pool") or nested():
        return
    if s.executor is None and s.mp_context is None and s.parallel is None:
        from parmap._quiet import interrupts_deferred

        with interrupts_deferred(), suppress(OSError, ImportError, RuntimeError):
            from parmap import _imports, _processes

            if rest < EARLY_SECONDS + _imports.import_seconds(call.fn, warm=False):
                return
            if _processes.default_method() == "forkserver":
                _processes.start_server()
            from parmap import _pool  # noqa: F401  (which ends it at exit)


def _end(fn: Callable[..., Any], report: Report) -> None:
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
    _foresee(probe, call, call.inputs.left() or 0)
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
