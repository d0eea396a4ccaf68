"""Station 3: serial or parallel, with how many workers, in chunks of what size.

Pure: facts in, a Plan out, with its reason in words. No clock, no files, no processes.
"""

from __future__ import annotations

import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from parmap._machine import Costs

# Workers at the most for functions that wait rather than compute. Fewer leave waiting work slow;
# more cost 10 MB and 5 ms each.
MOST_WAITING_WORKERS = 32

# Share of waiting above which a function waits. Smaller hires workers for noise in the clocks of a
# busy machine; larger leaves waiting work to as many as there are cores.
WAITING_SHARE = 0.3

# Parallel over serial seconds below which parallel is chosen. At 1 every wrong estimate costs;
# lower, and work that would gain a little stays serial. From benchmarks/no_regret.py.
MARGIN = 0.92

# Seconds of work a chunk is cut to, and below which a second one is sent ahead. It costs 25 to 100
# us of a core, below 1 %. Smaller raises that, and shows the latency of a pipe; larger leaves items
# behind a slow one. From benchmarks/no_regret.py and schedules.py.
CHUNK_SECONDS = 10e-3

# Seconds of work in a chunk for each worker, at the least: a caller needs 25 us a chunk. Smaller
# lets hundreds of workers wait; larger chunks end apart. From benchmarks/simulate.py.
CALLER_SECONDS = 50e-6

# Seconds that the caller needs for an item that goes to a worker. Smaller sends `abs` away, for
# three times as long; larger keeps items of a microsecond here. From benchmarks/overhead.py.
HANDLING_SECONDS = 90e-9

# What each processor but the first does for an item that computes on several, as numpy's products
# do. Smaller starts workers, of one thread each, in vain; at 1, long calls go without what they
# gain, 1.1 to 1.8 times.
THREADS_WORTH = 0.5

# Chunks per worker that the rest is cut into at least: factoring sends half of it in each round
# (Hummel, Schonberg, Flynn, CACM 35(8), 1992).
TAPER = 2


class Facts:
    """What is known when a plan is made. All seconds were measured, here or before."""

    done: int  # items run so far
    left: int | None  # items that remain, where the input says so
    seconds_per_item: float
    busy: float = 1.0  # processors that an item uses
    transfer_per_item: float = 0.0  # processor seconds to move it and its result, on both sides
    costs: Costs
    warm: int = 0  # workers that are there already
    rested: bool = False  # there was no call for a while
    cores: int  # that may be used
    missed: float = 0.0  # seconds that earlier calls would have saved with warm workers
    most_workers: int | None = None  # the caller's `max_workers`
    memory_workers: int | None = None  # as many as memory has room for
    loading: float = 0.0  # seconds that workers take to import what the function needs
    pinned: bool | None = None  # the caller's `parallel`
    obstacle: str = ""  # why there can be no workers

    def __init__(self, **facts: Any):
        vars(self).update(facts)

    def _replace(self, **changes: Any) -> Facts:
        return Facts(**{**vars(self), **changes})

    @property
    def expected(self) -> int:
        """Items left; where unknown, as many as were done (ski rental: Karlin et al., 1988)."""
        return self.done if self.left is None else self.left


class Plan:
    """What to do with the rest of a call: how many workers (0 is serial), and why: the case of
    `make_plan`, and in words."""

    def __init__(self, workers: int, case: int, reason: str):
        self.parallel, self.workers, self.case, self.reason = workers > 0, workers, case, reason


def make_plan(f: Facts) -> Plan:
    """Decide.

    1. There can be no workers: serial, whatever was asked (who asked for workers is told).
    2. `parallel=False`: serial.
    3. `parallel=True`: parallel.
    4. One worker at the most: serial.
    5. Parallel is not clearly shorter: serial.
    6. Parallel.
    """
    if f.obstacle:
        return Plan(0, 1, f.obstacle)
    if f.pinned is False:
        return Plan(0, 2, "parallel=False")
    workers = choose_workers(f)
    if f.pinned:
        return Plan(workers, 3, "parallel=True")
    if workers < 2:
        return Plan(0, 4, "there is one worker at the most")
    serial, parallel = f.expected * f.seconds_per_item, _parallel(f, workers)
    count = f"{f.expected} items left" if f.left is not None else f"perhaps {f.expected} items left"
    reason = (
        f"{count} at {in_words(f.seconds_per_item)} each: "
        f"serial {in_words(serial)}, parallel {in_words(parallel)}"
    )
    return Plan(0, 5, reason) if parallel > MARGIN * serial else Plan(workers, 6, reason)


def choose_workers(f: Facts) -> int:
    """What the caller said; else the cores; for work that waits, what makes the call shortest;
    never more than items left, or than memory holds."""
    limits = [limit for limit in (f.left, f.memory_workers) if limit is not None]
    if f.most_workers is not None or f.busy >= 1 - WAITING_SHARE:
        return max(1, min([f.most_workers or f.cores, *limits]))
    enough = math.ceil(f.cores / max(f.busy, 1e-9))
    most = max(1, min([MOST_WAITING_WORKERS, enough, *limits]))
    return min(range(min(f.cores, most), most + 1), key=lambda workers: _parallel(f, workers))


def _parallel(f: Facts, workers: int) -> float:
    """Seconds of the rest with so many workers, if they are sought now.

    Until new ones are there, the caller goes on by itself. Then processors share the work and the
    moving; but the caller moves its half alone, and items are whole. What calls would have gained
    before pays for a start in advance.
    """
    each, start, boot, loading = f.seconds_per_item, 0.0, 0.0, f.loading
    if not f.warm:
        start, boot = f.costs.start, f.costs.boot
    first = at_first(workers, f.cores, loading)
    # Workers that import take processors from the caller, who then does that much less.
    slow = max(f.costs.crowding, (first + 1) / f.cores) - 1.0
    if f.missed > start + slow * loading:  # all that a start costs which comes too late
        boot = loading = 0.0
    start = max(0.0, start - f.missed)
    rest = f.expected * each
    here = math.ceil(min(boot + loading, rest) / each) if each else 0
    left = f.expected - here
    if left <= 0:
        return start + rest + slow * min(loading, rest)
    moved, handled = left * f.transfer_per_item, left * HANDLING_SECONDS
    work = left * each + moved + handled
    load = min(f.busy, 1.0) + THREADS_WORTH * max(0.0, f.busy - 1.0)
    crowding = 1.0 if f.busy < 1 - WAITING_SHARE or workers == 1 else f.costs.crowding
    speed = max(1.0, min(workers, f.cores / max(load, 1e-9)) / crowding)
    together = (work + work / CHUNK_SECONDS * f.costs.chunk) / speed
    rounds = math.ceil(left / workers) * each
    hire = f.costs.hire * max(0, workers - max(f.warm, f.cores))  # till then, the caller helps
    up = start + here * each + slow * loading + (workers - first) * loading / f.cores
    call = f.costs.call + (f.costs.wake if f.warm and f.rested else 0.0)
    return up + hire + call + max(together, rounds, moved / 2 + handled)


def at_first(workers: int, cores: int, loading: float) -> int:
    """How many to begin with: while they import, the caller needs a core. The others follow."""
    return min(workers, max(1, cores - 1)) if loading else workers


# Seconds of work in a chunk for each that it costs an executor. Smaller wastes workers; larger
# leaves less to share out. From benchmarks/executors.py.
CHUNK_WORTH = 25

# Seconds of work in a chunk at the least, also at the end. Smaller sends crumbs, at 40 us each;
# larger lets the last worker end that much later. From benchmarks/no_regret.py.
LEAST_SECONDS = 500e-6


def chunk_size(
    seconds_per_item: float,
    left: int | None,
    workers: int,
    bytes_per_item: float = 0.0,
    chunk_cost: float = 0.0,
) -> int:
    """Items of the next chunk: a fixed time's worth, tapering towards the end, bounded in bytes; on
    an engine other than ours, worth the seconds that a chunk costs there."""
    each = max(seconds_per_item, 1e-9)
    size = max(CHUNK_SECONDS, CHUNK_WORTH * chunk_cost, workers * CALLER_SECONDS) / each
    if left is not None:
        least = max(min(LEAST_SECONDS / each, math.ceil(left / workers)), WAKE_SECONDS / each)
        size = min(size, max(left / (TAPER * workers), least, chunk_cost / each))
    if bytes_per_item:
        size = min(size, CHUNK_BYTES / bytes_per_item)
    return max(1, min(int(size), MOST_CHUNK))


# Seconds of work in a chunk below which several are sent at once. Smaller wakes workers for less
# than waking costs; larger shares out the last ones unevenly.
WAKE_SECONDS = 100e-6


def depths(
    size: int,
    seconds_per_item: float,
    left: int | None,
    workers: int,
    chunk_cost: float = 0.0,
) -> tuple[int, int]:
    """(fewest, most) chunks at one worker: below the first it gets more, up to the second; never
    more than its share of what is left."""
    seconds = size * seconds_per_item
    share = math.inf if left is None else left / (size * workers)
    ahead = max(CHUNK_SECONDS, 4 * CHUNK_WORTH * chunk_cost)
    if seconds > ahead or (share < TAPER and seconds_per_item > CHUNK_SECONDS):
        return 1, 1
    if not seconds or seconds > WAKE_SECONDS:
        return 2, 2
    return 2, max(2, int(min(8, share / TAPER)))


# Bytes of items and results in a chunk. Smaller makes arrays travel one by one, at 50 us each;
# larger holds memory on both sides for little.
CHUNK_BYTES = 8 * 2**20

# Items of a chunk at the most, whatever they cost: a caller that stops early has drawn no more.
MOST_CHUNK = 20_000


def in_words(seconds: float) -> str:
    """1.5 ms, 20 us, 3.2 s."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
