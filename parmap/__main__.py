"""`python -m parmap`: what parmap finds on this machine, and the thresholds that follow.

Takes some seconds. What it measures is remembered, as what calls measure is.
"""

from __future__ import annotations

import os
import platform
from statistics import median
from time import perf_counter

import parmap
from parmap import _costs, _machine, _plan, _pool, _processes
from parmap._api import pmap
from parmap._plan import in_words

# Items' costs, in seconds, for which a threshold is told.
COSTS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)

# How often what is short is measured. Fewer would tell a moment's mood; more takes longer.
TRIES = 30


def main() -> None:
    """Print it."""
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
    print()
    for line in told(_costs.costs()):
        print(line)
    print()
    print(f"{'item takes':>10}  {'parallel from, first call':>25}  {'later calls':>15}")
    for seconds in COSTS:
        cold, warm = threshold(seconds, cores, 0), threshold(seconds, cores, cores)
        print(f"{in_words(seconds):>10}  {cold:>25}  {warm:>15}")


def measure(cores: int) -> None:
    """Start workers, and time a call and a chunk on them."""
    list(pmap(abs, range(2 * cores), parallel=True, max_workers=cores, progress=False))
    call = median(_seconds(cores, items=2) for _ in range(TRIES))
    many = median(_seconds(cores, items=200) for _ in range(TRIES // 5))
    for _ in range(TRIES):  # what was believed before counts for little now
        _costs.measured(call=call, chunk=max(1e-6, (many - call) / 198))
    _costs.write()
    _pool.shutdown()


def _seconds(cores: int, items: int) -> float:
    began = perf_counter()
    for _ in pmap(abs, range(items), parallel=True, max_workers=cores, chunksize=1, progress=False):
        pass
    return perf_counter() - began


def told(costs: _costs.Costs) -> list[str]:
    """What workers cost, in words."""
    return [
        f"first parallel call: busy {in_words(costs.start)} with asking for workers, which are up "
        f"{in_words(costs.boot)} later; meanwhile the caller goes on",
        f"each further worker: {in_words(costs.hire)}",
        f"call on warm workers: {in_words(costs.call)}; each chunk: {in_words(costs.chunk)}",
    ]


def threshold(seconds_per_item: float, cores: int, warm: int) -> str:
    """Items from which a call is parallel."""
    facts = _plan.Facts(
        done=1, left=1, seconds_per_item=seconds_per_item, busy=1.0, transfer_per_item=0.0,
        costs=_costs.costs(), warm=warm, cores=cores,
    )  # fmt: skip
    low, high = 1, 2**40
    if not _plan.make_plan(facts._replace(left=high)).parallel:
        return "never"
    while low < high:
        middle = (low + high) // 2
        if _plan.make_plan(facts._replace(left=middle)).parallel:
            high = middle
        else:
            low = middle + 1
    return f"{low:,} items"


if __name__ == "__main__":
    main()
