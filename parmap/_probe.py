"""Station 2: run items in the calling process, keep their results, and know what they cost.

The serial loop of every call. Between two batches somebody looks whether the rest is worth workers;
a call that stays cheap ends here, at the speed of map.
"""

from __future__ import annotations

from itertools import islice
from time import perf_counter, process_time, thread_time

try:
    from resource import RUSAGE_THREAD, getrusage
except ImportError:  # not on Linux
    RUSAGE_THREAD, getrusage = 0, None  # type: ignore[assignment,misc]

from parmap._outcome import UNTRUSTED, emptying, handed_out, loaded, run_batch, stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from parmap._call import Call
    from parmap._known import Known

# Seconds of work in a batch, and without a plan; the other one after a pause: no warm worker has
# answered by then. Smaller costs more looks, a microsecond each, and plans, 0.3 ms on cold caches;
# larger runs more that a consumer who stops early never sees, and leaves work here.
BATCH_SECONDS = 1e-3
TINY_RESTED_SECONDS = 4e-3

# Items of a batch at the most. Half of it costs a million `abs` 3 %; larger runs more that may turn
# out dear before anybody looks. From benchmarks/overhead.py.
MOST_ITEMS = 8192

# Seconds of items, had and expected, that are worth loading the rooms of a decision, for 4 to 8 ms,
# and a plan where no workers are: less never made up for a start. Smaller makes short programs
# longer; larger leaves work here. From benchmarks/no_regret.py.
LOADING_WORTH = 70e-3

# How many times dearer items must have become for another plan. Smaller plans again for the noise
# of clocks; larger leaves work here.
DEARER = 1.1

# Seconds of items that tell what they use of processors. Smaller takes the grain of a clock, or
# another process on the core, for waiting; larger misses some that waits.
BUSY_SECONDS = 200e-6

# The same where items may have threads, which the system counts by ticks of 4 ms. Smaller misses
# them; larger keeps items here.
THREADS_SECONDS = 10e-3

# Items that are weighed together. Fewer bear the cost of a whole pickle; more takes longer than it
# tells.
WEIGH_ITEMS = 16

# Seconds up to which items are weighed twice. Smaller takes the import of pickle for their cost;
# larger repeats what is dear.
AGAIN_SECONDS = 5e-3

# Bytes that are copied to time it. Smaller measures a cache; larger takes 0.2 ms more.
SAMPLE_BYTES = 2**20


class Probe:
    """What running items here has shown of them."""

    items: int = 0  # run here
    seconds: float = 0.0  # that they took in all
    tiny: float = BATCH_SECONDS  # seconds of items that are not worth a plan
    each: float = 0.0  # seconds of one item of late
    busy: float = 1.0  # processors an item uses: 0 where it waits, several where it has threads
    transfer: float = 0.0  # seconds to move one item and its result, on both sides together
    obstacle: str = ""  # why items or results cannot cross the wall
    weighed: bool = False  # whether an item and its result were looked at
    closer: bool = False  # look at the next items with care, and weigh them: a plan depends on it
    looked: float = 0.0  # seconds of items that were looked at with care
    _used: Sequence[float] = (0.0, 0.0, 0)  # of processors in that time, as `clocks` tells
    worth: float = LOADING_WORTH  # more once a plan said serial
    spent: float = 0.0  # seconds that a start has taken
    before: float = 0.0  # of the class: seconds that calls of this process have had without a plan

    def brief(self, call: Call) -> bool:
        """Whether to go on without a plan: there are too few items for one, or to load what makes
        plans."""
        if self.seconds < BATCH_SECONDS:
            return True
        if call.settings.executor is not None:
            return False
        left = call.inputs.left()
        rest = (self.items if left is None else left) * self.each
        if loaded("parmap._decision") is not None:
            return self.seconds + rest < self.tiny
        return Probe.before + self.seconds + rest < self.worth

    def add(self, count: int, seconds: float) -> None:
        if not count:
            return
        self.items += count
        self.seconds += seconds
        each = seconds / count
        # A batch of more than all before tells more: the first items ran on cold caches.
        self.each = each if 2 * count >= self.items else (self.each + each) / 2

    def trust(self, known: Known) -> None:
        """Take what an earlier call has weighed."""
        self.transfer, self.weighed = known.transfer, True
        self.recall(known.busy, THREADS_SECONDS)

    def recall(self, busy: float, seconds: float) -> None:
        """Go on from what earlier calls have seen, for so long, of processors in use."""
        self.busy, self.looked = busy, min(seconds, THREADS_SECONDS)
        self._used = [self.looked * share for share in (min(1.0, busy), busy, 1)]

    def look(self, seconds: float, before: tuple[float, float, int]) -> None:
        """What items used of processors, that took so many seconds from these clocks on."""
        new = (b - a for a, b in zip(before, clocks(), strict=True))
        self._used = here, everywhere, naps = [a + b for a, b in zip(self._used, new, strict=True)]
        self.looked += seconds
        if self.looked > BUSY_SECONDS:
            beside = max(0.0, everywhere - here)  # by threads of an item's own, as numpy's
            self.busy = ((here if naps else self.looked) + beside) / self.looked

    def dear(self, left: int | None) -> bool:
        """Whether a plan will want the weight of these items: it was asked for, or will be."""
        rest = self.items if left is None else left
        first = self.each > BATCH_SECONDS and rest * self.each > LOADING_WORTH
        return (self.closer or first) and not self.weighed

    def weigh(self, items: Sequence[Any], values: Sequence[Any]) -> None:
        count = min(len(values), WEIGH_ITEMS)  # behind them one may have raised
        items, values, self.weighed = list(items[:count]), values[:count], True
        buffers: list[memoryview] = []
        try:
            seconds = _there_and_back((items, values), buffers)
            if seconds < AGAIN_SECONDS:  # the first time is of imports and cold memory
                buffers.clear()
                fixed = _there_and_back(([], []), [])
                seconds = max(0.0, _there_and_back((items, values), buffers) - fixed)
        except OSError:
            return  # no descriptors, say: who starts workers will tell
        except UNTRUSTED as error:
            self.obstacle = f"items or results cannot be sent: {type(error).__name__}: {error}"
            return
        # Buffers will be copied twice: into memory, and from there.
        self.transfer = (seconds + 2 * _copy_seconds(buffers)) / len(items)


def _there_and_back(both: Sequence[Sequence[Any]], buffers: list[memoryview]) -> float:
    """Seconds to pickle and load these; their large buffers are added to `buffers`."""
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
    """What copying these takes, by a part of the largest."""
    if not buffers:
        return 0.0
    sample = max(buffers, key=lambda buffer: buffer.nbytes)[:SAMPLE_BYTES]
    began = perf_counter()
    bytes(sample)
    return (perf_counter() - began) * sum(buffer.nbytes for buffer in buffers) / sample.nbytes


def run_here(call: Call, probe: Probe, look: Callable[[Call], bool]) -> Iterator[Iterator[Any]]:
    """Run items here, in growing batches, each whole before its first value is handed out, until
    the input ends or `look`, which is called between them, says no."""
    inputs, size = call.inputs, probe.items or 1
    errors: list[BaseException] = []  # what was raised leaves it before it is raised again
    while not inputs.finished and look(call):
        if probe.items:
            size = int(min(16 * size, MOST_ITEMS, BATCH_SECONDS / (probe.each or 1e-9))) or 1
        if not inputs.instant and size > 1 and not probe.closer:
            yield _one_by_one(call, probe, size)
            continue
        items = inputs.cut(size if inputs.instant else 1)
        values = _run(call, probe, items, errors)
        if errors:
            yield from run_failed(call, probe, errors, items, values)
        elif values:
            del items
            yield handed_out(values)
        if inputs.error is not None:
            yield inputs.failure()


def _run(call: Call, probe: Probe, items: Sequence[Any], errors: list[BaseException]) -> list[Any]:
    """Run items until one raises: their values, and in `errors` what was raised."""
    # With fewer than two items left there is nothing to share, whatever they cost.
    closely = probe.closer or (len(items) == 1 and call.inputs.left() not in (0, 1))
    before = clocks() if closely else None
    began = perf_counter()
    values, error = run_batch(call.mapper, call.fn, items)
    seconds = perf_counter() - began
    if error is not None:
        errors.append(error)
        del error  # see _outcome.raising
    probe.add(len(values) + len(errors), seconds)
    if before is not None:
        probe.look(seconds, before)
        if values and call.settings.parallel is None and probe.dear(call.inputs.left()):
            probe.weigh(items, values)
        probe.closer = False
    return values


def run_failed(
    call: Call, probe: Probe, errors: list[BaseException], items: Sequence[Any], values: list[Any]
) -> Iterator[Iterator[Any]]:
    """A batch in which an item raised: the values before it, what comes of it, and, once they are
    asked for, those behind it."""
    index = call.inputs.drawn - len(items)
    while errors:
        done = len(values)
        item, behind = items[done], items[done + 1 :]
        if isinstance(items, list):
            items.clear()  # frames of the traceback know it
        yield emptying(values)
        yield _again(call, errors, index + done, item)
        index, items = index + done + 1, behind
        values = _run(call, probe, items, errors)
    yield emptying(values)


def _again(call: Call, errors: list[BaseException], index: int, item: Any) -> Iterator[Any]:
    yield call.again(errors.pop(), index, item)


def clocks() -> tuple[float, float, int]:
    """Processor time of this thread, and of all; and how often this one gave the processor up: one
    that another process took from it was no waiting."""
    count = int(perf_counter() * 1e9) if getrusage is None else getrusage(RUSAGE_THREAD).ru_nvcsw
    return thread_time(), process_time(), count


def _one_by_one(call: Call, probe: Probe, count: int) -> Iterator[Any]:
    """As map does: each item is drawn, run and handed out before the next is drawn. The time
    includes the consumer's; a plan is made on items timed alone."""
    inputs, fn, done = call.inputs, call.fn, 0
    out: list[Any] = []
    one: Callable[[Any], Any] = fn if call.mapper is map else lambda args: fn(*args)
    began = perf_counter()
    try:
        for item in islice(inputs.iterator, count):
            done += 1
            try:
                out.append(one(item))
            except BaseException as error:
                if isinstance(error, StopIteration):
                    error = stopped()
                out.append(call.again(error, inputs.drawn + done - 1, item))
            item = None
            yield out.pop()
        inputs.exhausted = done < count
    finally:
        probe.add(done, perf_counter() - began)
        inputs.drawn += done
