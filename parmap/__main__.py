"""`python -m parmap`: what parmap finds on this machine, and the thresholds that follow.

Takes some seconds. What it measures is remembered, as what calls measure is.
"""

from __future__ import annotations

import os
import platform
from bisect import bisect_left
from statistics import median
from time import perf_counter

import parmap
from parmap import _machine, _plan, _pool, _processes
from parmap._api import pmap
from parmap._plan import in_words

# Items' costs, in seconds, for which a threshold is told.
COSTS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)

# How often what is short is measured. Fewer would tell a moment's mood; more takes longer.
TRIES = 30


def main() -> None:
    cores, why = _machine.usable_cores()
    memory = _machine.available_bytes()
    print(f"parmap {parmap.__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"workers: {cores} ({why})")
    if memory is not None:
        print(f"memory: {memory / 2**30:.1f} GiB available")
    print(f"start method: {os.environ.get('PARMAP_START_METHOD') or _processes.default_method()}")
    for name in sorted(name for name in os.environ if name.startswith("PARMAP_")):
        print(f"{name}={os.environ[name]}")
    measure(cores)
    costs = _machine.costs()
    print(
        f"\nfirst parallel call: busy {in_words(costs.start)} with asking for workers, which are "
        f"up {in_words(costs.boot)} later; meanwhile the caller goes on\n"
        f"each further worker: {in_words(costs.hire)}\n"
        f"call on warm workers: {in_words(costs.call)}, after a pause {in_words(costs.wake)} more; "
        f"each chunk: {in_words(costs.chunk)}\n"
    )
    print(f"{'item takes':>10}  {'parallel from, first call':>25}  {'later calls':>15}")
    for seconds in COSTS:
        cold, warm = threshold(seconds, cores, 0), threshold(seconds, cores, cores)
        print(f"{in_words(seconds):>10}  {cold:>25}  {warm:>15}")


def measure(cores: int) -> None:
    """Start workers, and time a call and a chunk on them."""

    def seconds(items: int) -> float:
        began = perf_counter()
        list(pmap(abs, range(items), parallel=True, max_workers=cores, chunksize=1, progress=False))
        return perf_counter() - began

    seconds(2 * cores)
    call = median(seconds(2) for _ in range(TRIES))
    many = median(seconds(200) for _ in range(TRIES // 5))
    for _ in range(TRIES):  # what was believed before counts for little now
        _machine.measured(call=call, chunk=max(1e-6, (many - call) / 198))
    _machine.write()
    _pool.shutdown()


def threshold(seconds_per_item: float, cores: int, warm: int) -> str:
    costs = _machine.costs()
    facts = _plan.Facts(
        done=1, seconds_per_item=seconds_per_item, costs=costs, warm=warm, cores=cores
    )

    def parallel(items: int) -> bool:
        return _plan.make_plan(facts._replace(left=items)).parallel

    most = 2**40
    items = bisect_left(range(most), True, key=parallel)
    return f"{items:,} items" if items < most else "never"


if __name__ == "__main__":
    main()
