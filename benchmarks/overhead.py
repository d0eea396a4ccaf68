"""What parmap costs where there is nothing to gain: import, small calls, chunks.

    python benchmarks/overhead.py [--rounds N]

Every figure is a median over rounds. What is compared is measured in the same run, in turns, so that
a slow moment of the machine meets both. Needs nothing beyond parmap and the standard library.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Pool

import parmap
from parmap import pmap, shutdown

HEAVY = ("multiprocessing.pool", "cloudpickle", "tqdm", "numpy")


def seconds(run):
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def in_turns(rounds, **runs):
    """Medians of the times of several runs, taken in turns. The first turn does not count."""
    times = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            taken = seconds(run)
            if turn:
                times[name].append(taken)
    return times


def medians(times):
    return {name: statistics.median(taken) for name, taken in times.items()}


def ratio(times, one, other):
    """Median of the ratios of the same turn."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def show(what, figure, note=""):
    print(f"{what:<52} {figure:>12}  {note}".rstrip(), flush=True)


def imports(rounds):
    def python(code):
        subprocess.run([sys.executable, "-c", code], check=True)

    times = in_turns(rounds, bare=lambda: python("pass"), parmap=lambda: python("import parmap"))
    m = medians(times)
    show("import parmap, over a bare interpreter", f"{1e3 * (m['parmap'] - m['bare']):.1f} ms",
         f"bare {1e3 * m['bare']:.1f} ms, ratio {ratio(times, 'parmap', 'bare'):.2f}")  # fmt: skip
    code = f"import sys, parmap; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    show("heavy modules that it loads", loaded.stdout.strip() or "none", f"of {', '.join(HEAVY)}")


def tiny(rounds):
    items = [1, -2, 3, -4, 5, -6, 7, -8, 9, -10]
    times = in_turns(
        200 * rounds, pmap=lambda: list(pmap(abs, items)), map=lambda: list(map(abs, items))
    )
    m = medians(times)
    show("serial call of ten tiny items, over list(map())", f"{1e6 * (m['pmap'] - m['map']):.1f} us",
         f"map {1e6 * m['map']:.2f} us")  # fmt: skip


def million(rounds):
    def loop(iterator):
        for _ in iterator:
            pass

    count = 1_000_000
    for kind, items in (("range", range(count)), ("list", list(range(count)))):
        for use in (list, loop, sum):
            # parallel=None, as a user would call it: to decide is part of what it costs.
            times = in_turns(
                2 * rounds,
                pmap=lambda use=use, items=items: use(pmap(abs, items)),
                map=lambda use=use, items=items: use(map(abs, items)),
            )
            name = "for" if use is loop else use.__name__
            show(f"a million abs of a {kind}, {name}: pmap / map", f"{ratio(times, 'pmap', 'map'):.3f}",
                 f"map {1e3 * medians(times)['map']:.1f} ms")  # fmt: skip


def warm(rounds, workers):
    options = {"parallel": True, "max_workers": workers}
    times = in_turns(100 * rounds, pmap=lambda: list(pmap(abs, range(10), **options)))
    show("warm parallel call of ten tiny items", f"{1e3 * medians(times)['pmap']:.3f} ms")


def chunks(rounds, workers, count):
    options = {"parallel": True, "chunksize": 1, "max_workers": workers}
    with Pool(workers) as pool, ProcessPoolExecutor(workers) as executor:

        def apply_async():
            for result in [pool.apply_async(abs, (item,)) for item in range(count)]:
                result.get()

        times = in_turns(
            rounds,
            pmap=lambda: list(pmap(abs, range(count), **options)),
            apply_async=apply_async,
            executor=lambda: list(executor.map(abs, range(count))),
        )
        pool.close()
        pool.join()
    m = medians(times)
    print(f"per chunk of one tiny item, {count} chunks, {workers} workers, warm:")
    show("  pmap(parallel=True, chunksize=1)", f"{1e6 * m['pmap'] / count:.1f} us")
    for name, label in (
        ("apply_async", "Pool.apply_async"),
        ("executor", "ProcessPoolExecutor.map"),
    ):
        show(f"  {label}", f"{1e6 * m[name] / count:.1f} us",
             f"{ratio(times, name, 'pmap'):.1f} times pmap's")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=9, help="turns of each comparison (default 9)"
    )
    parser.add_argument("--chunks", type=int, default=4000, help="chunks a turn (default 4000)")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = 2  # as many as nearly every machine has cores
    print(f"{platform.platform()}, {platform.machine()}, {cores} usable cores")
    print(
        f"{platform.python_implementation()} {platform.python_version()}, parmap {parmap.__version__}"
    )
    imports(2 * arguments.rounds)
    tiny(arguments.rounds)
    million(arguments.rounds)
    try:
        warm(arguments.rounds, workers)
        chunks(arguments.rounds, workers, arguments.chunks)
    finally:
        shutdown()


if __name__ == "__main__":  # for the peers: parmap itself needs no guard
    main()
