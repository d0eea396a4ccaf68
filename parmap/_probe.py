"""Station 2: run items in the calling process, keep their results, and know what they cost.

The serial loop of every call. While nothing is pinned it looks, between two batches, whether the
rest is worth workers; a call that stays cheap ends here, at the speed of map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter, thread_time
from typing import Any

try:
    from resource import RUSAGE_THREAD, getrusage
except ImportError:  # not on Linux
    RUSAGE_THREAD, getrusage = 0, None  # type: ignore[assignment,misc]

from parmap._call import Call
from parmap._outcome import UNTRUSTED, emptying, raising, run_batch, stopped
from parmap._progress import Progress

# Seconds of work that one batch may hold. It bounds what a consumer never sees when it stops
# early, and how long the loop is asleep. Smaller costs more looks, a microsecond each.
BATCH_SECONDS = 1e-3

# Items of a batch at the most: that many may turn out dear before anybody looks.
MOST_ITEMS = 4096

# Seconds an item must take for its data to be weighed unasked. Smaller would import pickle (2 ms)
# for calls that are over soon; larger would run one more dear item here before a plan is made.
WEIGH_SECONDS = 20e-3

# Seconds that items must take before their waiting is looked at. Smaller would take the grain of a
# clock, and a moment in which another process had the core, for waiting.
WAIT_SECONDS = 200e-6

# Items that are weighed together. Fewer would put the cost of a whole pickle on each; more takes
# longer than it tells.
WEIGH_ITEMS = 64

# Seconds up to which items are weighed twice. Smaller would take the import of pickle for the cost
# of an item; larger would do twice what is dear.
AGAIN_SECONDS = 5e-3

# Bytes that are copied to know what copying costs. Smaller would measure a cache; larger takes
# longer than 0.2 ms.
SAMPLE_BYTES = 2**20


class Probe:
    """What is known of the items so far, from running them here.

    Attributes:
        items, seconds: run here, and what they took in all.
        each: seconds of one item of late.
        waiting: share of the time of the last weighed item that used no processor.
        transfer: seconds to move one item and its result, added up over both sides.
        obstacle: why items or results cannot cross the wall, or "".
        weighed: whether an item and its result were looked at.
        closer: the next items are to be weighed, and timed with care: a plan depends on it.
    """

    items: int = 0
    seconds: float = 0.0
    each: float = 0.0
    waiting: float = 0.0
    transfer: float = 0.0
    obstacle: str = ""
    weighed: bool = False
    closer: bool = False

    def add(self, count: int, seconds: float) -> None:
        if not count:
            return
        self.items += count
        self.seconds += seconds
        each = seconds / count
        self.each = each if self.items == count else (self.each + each) / 2

    def weigh(self, items: Sequence[Any], values: Sequence[Any]) -> None:
        """Measure what it costs to send these items and to get these values back, each."""
        self.weighed = True
        buffers: list[memoryview] = []
        try:
            seconds = _there_and_back((items, values), buffers)
            if seconds < AGAIN_SECONDS:  # the first time is of imports and cold memory
                buffers.clear()
                fixed = _there_and_back(([], []), [])
                seconds = max(0.0, _there_and_back((items, values), buffers) - fixed)
        except UNTRUSTED as error:
            self.obstacle = f"items or results cannot be sent: {type(error).__name__}: {error}"
            return
        # Buffers were not copied by that, but will be: once into memory, and read from there.
        self.transfer = (seconds + 2 * _copy_seconds(buffers)) / len(items)


def _there_and_back(both: Sequence[Sequence[Any]], buffers: list[memoryview]) -> float:
    """Seconds to pickle and load these; what they have of large buffers is added to `buffers`."""
    import pickle

    from parmap._transport import dumps

    began = perf_counter()
    for things in both:
        large: list[memoryview] = []
        data = dumps(things, large)
        buffers += large
        if not large:
            pickle.loads(data)
    return perf_counter() - began


def _copy_seconds(buffers: Sequence[memoryview]) -> float:
    """What copying these takes: measured on a part of the largest, and the same per byte."""
    if not buffers:
        return 0.0
    sample = max(buffers, key=lambda buffer: buffer.nbytes)[:SAMPLE_BYTES]
    began = perf_counter()
    bytes(sample)
    return (perf_counter() - began) * sum(buffer.nbytes for buffer in buffers) / sample.nbytes


def first_items(call: Call, probe: Probe) -> Iterator[Iterator[Any]]:
    """The first items of a call, in batches that grow, for about a millisecond: no plan is worth
    making before."""
    size = 1
    while size and not call.inputs.finished:
        yield from _alone(call, probe) if size == 1 else _eagerly(call, probe, size)
        size = int(
            min(16 * size, MOST_ITEMS, (BATCH_SECONDS - probe.seconds) / (probe.each or 1e-9))
        )
        if size < 1 or not call.inputs.instant:
            return


def run_here(
    call: Call, probe: Probe, progress: Progress, stay: Callable[[], bool]
) -> Iterator[Iterator[Any]]:
    """Run items in this process, in batches, until the input ends or `stay` says to stop."""
    inputs = call.inputs
    size = _next_size(1, probe) if probe.items else 1
    while not (inputs.exhausted and inputs.finished) and stay():
        if size == 1 or (probe.closer and not inputs.instant):
            yield from _alone(call, probe)
        elif inputs.instant:
            yield from _eagerly(call, probe, size)
        else:
            yield _one_by_one(call, probe, size)
        if progress.wanted:
            progress.at(probe.items)
        size = _next_size(size, probe)


def _next_size(size: int, probe: Probe) -> int:
    return int(min(16 * size, MOST_ITEMS, BATCH_SECONDS / (probe.each or 1e-9))) or 1


def _alone(call: Call, probe: Probe) -> Iterator[Iterator[Any]]:
    """One item, timed by itself."""
    index = call.inputs.drawn
    items = call.inputs.take(1)
    if items:
        values, error = _run_measured(call, probe, items)
        if error is None:
            items.clear()
            yield emptying(values)
        else:
            errors, error = [error], None
            yield _failing(call, errors, index, items.pop())
    if call.inputs.error is not None:
        yield _input_raised(call)


def _run_measured(
    call: Call, probe: Probe, items: list[Any]
) -> tuple[list[Any], BaseException | None]:
    """Run items, timed; and looked at more closely if that was asked for."""
    closer, cpu, naps = probe.closer, 0.0, 0
    if closer or len(items) == 1:
        cpu, naps = thread_time(), _naps()
    began = perf_counter()
    values, error = run_batch(call.mapper, call.fn, items)
    seconds = perf_counter() - began
    try:
        probe.add(len(values) + (error is not None), seconds)
        if cpu and seconds > WAIT_SECONDS and _naps() > naps:
            probe.waiting = min(1.0, max(0.0, 1 - (thread_time() - cpu) / seconds))
        if values and (closer or (seconds > WEIGH_SECONDS and not probe.weighed)):
            probe.weigh(items[: len(values)][:WEIGH_ITEMS], values[:WEIGH_ITEMS])
            probe.closer = False
        return values, error
    finally:
        del error  # see _outcome.raising


def _naps() -> int:
    """How often this thread gave up the processor by itself: one that another process took from it
    did not wait for anything."""
    return getrusage(RUSAGE_THREAD).ru_nvcsw if getrusage is not None else int(perf_counter() * 1e9)


def _eagerly(call: Call, probe: Probe, size: int) -> Iterator[Iterator[Any]]:
    """A batch of items at C speed, all of them before the first is handed out."""
    index = call.inputs.drawn
    items = call.inputs.take(size)
    values, error = _run_measured(call, probe, items)
    errors: list[BaseException] = []
    failed, item = index + len(values), None
    if error is not None:
        errors, error = [error], None
        item = items[len(values)]
        call.inputs.put_back(items[len(values) + 1 :])
    items.clear()
    # A list of plain small values may as well be iterated as it is; others must not be kept alive.
    plain = bool(values) and type(values[-1]) in _PLAIN
    yield iter(values) if plain else emptying(values)
    if errors:
        yield _failing(call, errors, failed, item)
    elif call.inputs.error is not None:
        yield _input_raised(call)


_PLAIN = frozenset({int, float, bool, str, type(None)})


def _failing(call: Call, errors: list[BaseException], index: int, item: Any) -> Iterator[Any]:
    """The place of an item that raised. The error is handed over in a list, and leaves it, so that
    no frame of its own traceback keeps it alive."""
    yield call.again(errors.pop(), index, item)


def _input_raised(call: Call) -> Iterator[Any]:
    error, call.inputs.error = call.inputs.error, None
    assert error is not None
    return raising(error)


def _one_by_one(call: Call, probe: Probe, count: int) -> Iterator[Any]:
    """Some items as map runs them: each drawn, run and handed out before the next is drawn.

    The time includes what the consumer does in between; a plan is made on items timed alone.
    """
    done, index = 0, call.inputs.drawn
    out: list[Any] = []
    one = call.fn if call.mapper is map else _starred(call.fn)
    items = call.inputs.raw(count)
    ended = False
    began = perf_counter()
    try:
        for item in items:
            done += 1
            try:
                out.append(one(item))
            except StopIteration:
                out.append(call.again(stopped(), index + done - 1, item))
            except BaseException as error:
                out.append(call.again(error, index + done - 1, item))
            item = None
            yield out.pop()
        ended = done < count
    finally:
        probe.add(done, perf_counter() - began)
        call.inputs.took(done, ended)


def _starred(fn: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda args: fn(*args)
