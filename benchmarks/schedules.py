"""How well the chunks share out work of uneven length: sleeping items, 2, 8 and 32 workers.

    python benchmarks/schedules.py [--rounds N] [--peers]

Items sleep, so that 32 workers need no 32 cores. A figure is the time over that of the ideal
schedule, in which each item goes to the first free worker and nothing else costs anything; the
median over rounds. Workers are warm. With --peers the same for Pool.imap and Pool.map, for
ProcessPoolExecutor and for joblib.
"""

import argparse
import multiprocessing
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import shapes

from parmap import pmap, shutdown

MEAN = {2: 5e-3, 8: 10e-3, 32: 20e-3}  # seconds of an item, by workers
COUNT = {2: 200, 8: 400, 32: 800}


def seconds(run, items):
    began = time.perf_counter()
    run(items)
    return time.perf_counter() - began


def ways(workers, peers):
    options = {"parallel": True, "max_workers": workers}
    yield "pmap", lambda items: list(pmap(time.sleep, items, **options)), lambda: None
    if not peers:
        return
    pool = multiprocessing.Pool(workers)
    yield "Pool.imap", lambda items: list(pool.imap(time.sleep, items)), lambda: None
    yield "Pool.map", lambda items: pool.map(time.sleep, items), pool.terminate
    executor = ProcessPoolExecutor(workers)
    yield "Executor", lambda items: list(executor.map(time.sleep, items)), executor.shutdown
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=workers)
    yield "joblib", lambda items: parallel(delayed(time.sleep)(i) for i in items), lambda: None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", default="2,8,32")
    parser.add_argument("--peers", action="store_true")
    chosen = parser.parse_args()
    print(f"Python {platform.python_version()} on {platform.platform()}")
    head = None
    for workers in map(int, chosen.workers.split(",")):
        work = {shape.__name__: shape(COUNT[workers], MEAN[workers]) for shape in shapes.ALL}
        if head is None:
            head = work
            print(
                f"\n| workers | way | {' | '.join(work)} |\n| ---: | --- |" + " ---: |" * len(work)
            )
        for name, run, end in ways(workers, chosen.peers):
            run([0.01] * 2 * workers)  # start the workers
            row = []
            for items in work.values():
                best = shapes.ideal(items, workers)
                taken = [seconds(run, items) for _ in range(chosen.rounds)]
                row.append(f"{statistics.median(taken) / best:.3f}")
            end()
            print(f"| {workers} | {name} | {' | '.join(row)} |", flush=True)
        shutdown()


if __name__ == "__main__":
    main()
