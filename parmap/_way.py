"""All stations as one call goes through them: the short way, which most calls take, and the whole
one, read from top to bottom.
"""

from __future__ import annotations

import sys
from _thread import RLock
from contextlib import suppress
from time import perf_counter

from parmap import _known
from parmap._call import DEFAULT, NO_WORKERS, Call, warn
from parmap._inputs import Slices, inputs_of, sliced
from parmap._outcome import handed_out, loaded, nested, stopped
from parmap._probe import (
    BATCH_SECONDS,
    BUSY_SECONDS,
    DEARER,
    LOADING_WORTH,
    Probe,
    clocks,
    run_failed,
    run_here,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from parmap._call import Settings
    from parmap._outcome import Mapper
    from parmap._plan import Plan
    from parmap._report import Report


def way_of(
    fn: Callable[..., Any],
    mapper: Mapper,
    iterables: Sequence[Any],
    settings: Settings,
    report: Report,
) -> Iterator[Iterator[Any]]:
    """The batches of results of a call. A generator, so nothing runs before the first `next`."""
    if settings is DEFAULT and len(iterables) == 1 and sliced(iterables[0]):
        try:
            return _short_way(fn, mapper, iterables[0], len(iterables[0]), report)
        except OverflowError:
            pass  # a range of more than 2**63 has no len
    call = Call(fn, mapper, inputs_of(iterables, settings.strict), settings)
    return _whole_way(call, report)


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
    fn: Callable[..., Any], mapper: Mapper, items: Sequence[Any], left: int, report: Report
) -> Iterator[Iterator[Any]]:
    """The first millisecond of what can be cut, as `run_here` would run it. In one piece: on cold
    caches each function that is entered costs a microsecond; most calls end here."""
    report.start()
    probe, size, done, before = report.probe, 1, 0, None
    batch: Sequence[Any] = ()
    values: list[Any] = []
    errors: list[BaseException] = []
    short = _known.seconds_of(fn, left) < probe.tiny
    if short and left > 2:  # else there is nothing to share
        before = clocks()
    while short and probe.seconds < BATCH_SECONDS and len(batch := items[done : done + size]):
        values = []
        began = perf_counter()
        try:
            values.extend(mapper(fn, batch))
            if len(values) < len(batch):
                errors.append(stopped())
        except BaseException as error:
            del values[len(batch) - 1 :]  # see `run_batch`
            errors.append(error)
        seconds = perf_counter() - began
        done += len(batch)
        count = len(values) + len(errors)
        probe.items += count
        probe.seconds += seconds
        probe.each = seconds / count
        if errors:
            break
        if before is not None and seconds > BUSY_SECONDS:
            probe.look(seconds, before)
            _foresee(fn, probe, left - 1)
            if probe.dear(left - 1):
                probe.weigh(batch, values)
        before, batch = None, ()
        yield handed_out(values)
        size = int(min(16 * size, BATCH_SECONDS / (probe.each or 1e-9))) or 1
    if done < len(items) or errors:
        call = Call(fn, mapper, Slices(items, done), DEFAULT)
        batch = list(batch)  # which can be emptied
        yield from _go_on(call, report, errors, batch, values)
    else:
        _end(fn, report)


def _go_on(
    call: Call, report: Report, errors: list[BaseException], batch: list[Any], values: list[Any]
) -> Iterator[Iterator[Any]]:
    """Where the short way was too short, or ended with an item that raised."""
    if errors:
        yield from run_failed(call, report.probe, errors, batch, values)
    if call.inputs.finished:
        _end(call.fn, report)
    else:
        yield from _whole_way(call, report)


# Seconds of items up to which a first plan that says serial is believed. Larger shows no bar where
# a person may be waiting for it.
BELIEVED_SECONDS = 1.0


def _foresee(fn: Callable[..., Any], probe: Probe, left: int, most: int | None = None) -> bool:
    """Plan the first long call of a process before the rooms of a decision are loaded, which takes
    as long as a fork server boots. True: all is to run here. Else one may boot meanwhile."""
    rest = left * probe.each
    total = Probe.before + probe.seconds + rest
    if probe.seconds < BATCH_SECONDS or total < probe.worth or loaded("parmap._pool") or nested():
        return False
    began = perf_counter()
    with suppress(OSError, ImportError, RuntimeError):  # as who hires workers will tell
        if _first_plan(fn, probe, left, most).parallel:
            _boot()
            probe.spent = perf_counter() - began
            return False
        # Of later calls one has to know what they gain together.
        probe.worth = DEARER * total
        return rest < BELIEVED_SECONDS and Probe.before < LOADING_WORTH
    return False


def _first_plan(fn: Callable[..., Any], probe: Probe, left: int, most: int | None) -> Plan:
    from parmap import _machine, _plan

    facts = _plan.Facts(
        done=probe.items,
        left=left,
        seconds_per_item=probe.each,
        busy=probe.busy,
        costs=_machine.costs(),
        cores=_machine.usable_cores()[0],
        most_workers=most,
        missed=_known.missed,
        loading=_known.import_seconds(fn, warm=False),
    )
    return _plan.make_plan(facts)


def _boot() -> None:
    from parmap._quiet import interrupts_deferred

    with interrupts_deferred():
        from parmap import _processes

        if _processes.default_method() == "forkserver":
            _processes.start_server()
        from parmap import _pool  # noqa: F401  (which ends it at exit)


def _end(fn: Callable[..., Any], report: Report) -> None:
    Probe.before += report.probe.seconds
    report.end(fn)


def _stays(call: Call, probe: Probe) -> bool:
    """Whether to go on here without a decision."""
    if probe.brief(call):
        return True
    s, left = call.settings, call.inputs.left()
    if s.executor is None and s.mp_context is None and s.parallel is None:
        return _foresee(call.fn, probe, probe.items if left is None else left, s.max_workers)
    return False


def _whole_way(call: Call, report: Report) -> Iterator[Iterator[Any]]:
    """First here, then perhaps in workers, what they cannot do here again."""
    report.start()
    probe = report.probe
    if call.plain(probe.tiny):
        yield from run_here(call, probe, lambda call: _stays(call, probe))
        if call.inputs.finished:
            _end(call.fn, report)
            return
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
            if not call.inputs.finished:  # workers were lost to the call
                yield from decision.run_here()
    finally:
        decision.close(sys.exc_info()[1])
