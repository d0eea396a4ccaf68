"""No regret: pmap against serial and every peer, from two items to a million, cold and warm.

    python benchmarks/no_regret.py [--rounds N] [--state cold|warm|both] [--most SECONDS] [--data]

A cell is an item's cost and a count. Each way to map runs in a process of its own, so that none
meets what another left behind; the ways take turns within a round, and a figure is the median of
the ratios of single rounds. Cold is the first call of a fresh process, the start of its workers
included and imports of the way itself not. Warm is a later call of the same process, after one
that needed workers: peers keep their pool open between calls where they can.

Needs joblib, mpire and tqdm besides parmap; NumPy for --data.
"""

import argparse
import functools
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time

COSTS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # seconds of one item
COUNTS = (2, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

# Seconds that pmap may cost in a call whatever the work: looking at arguments, building a report.
FREE_SECONDS = 20e-6


def spin(loops):
    """One item: so many turns of an empty loop."""
    for _ in range(loops):
        pass
    return loops


def make_array(megabytes):
    import numpy

    return numpy.full(megabytes * 131_072, 1.0)


def double(array):
    return array * 2


def total(array):
    return float(array.sum())


def grow(array):
    """Dear to do, cheap to move."""
    for _ in range(30):
        array = (array * 1.000001) ** 0.999
    return float(array[0])


# ------------------------------------------------------------------ the ways to map


class Serial:
    def map(self, fn, items):
        return list(map(fn, items))


class Parmap:
    def __init__(self):
        from parmap import pmap

        self.pmap = pmap

    def map(self, fn, items):
        return list(self.pmap(fn, items))


class Pool:
    def __init__(self):
        import multiprocessing

        self.make, self.pool = multiprocessing.Pool, None

    def map(self, fn, items):
        if self.pool is None:
            self.pool = self.make(WORKERS)
        return self.pool.map(fn, items)


class Executor:
    def __init__(self):
        from concurrent.futures import ProcessPoolExecutor

        self.make, self.pool = ProcessPoolExecutor, None

    def map(self, fn, items):
        if self.pool is None:
            self.pool = self.make(WORKERS)
        # Its default, a chunk of one, would not end with a million items.
        return list(self.pool.map(fn, items, chunksize=max(1, len(items) // (4 * WORKERS))))


class Joblib:
    def __init__(self):
        import joblib

        self.parallel, self.delayed = joblib.Parallel, joblib.delayed

    def map(self, fn, items):
        return self.parallel(n_jobs=WORKERS)(self.delayed(fn)(item) for item in items)


class Mpire:
    def __init__(self):
        from mpire import WorkerPool

        self.make, self.pool = WorkerPool, None

    def map(self, fn, items):
        if self.pool is None:
            self.pool = self.make(WORKERS, keep_alive=True)
        return self.pool.map(fn, items)


class ProcessMap:
    def __init__(self):
        from tqdm.contrib.concurrent import process_map

        self.process_map = process_map

    def map(self, fn, items):
        size = max(1, len(items) // (4 * WORKERS))
        return self.process_map(fn, items, max_workers=WORKERS, chunksize=size, disable=True)


WAYS = {
    "serial": Serial, "pmap": Parmap, "Pool": Pool, "ProcessPoolExecutor": Executor,
    "joblib": Joblib, "mpire": Mpire, "process_map": ProcessMap,
}  # fmt: skip

DATA = {
    "sum of 8 MB arrays": (total, make_array, 8),
    "double 8 MB arrays": (double, make_array, 8),
    "work on 1 MB arrays": (grow, make_array, 1),
}


# ------------------------------------------------------------------ one way, in its own process


def serve(way):
    """Measure what is asked on stdin, a line of JSON each; answer with seconds."""
    mapper = WAYS[way]()
    print("ready", flush=True)
    for line in sys.stdin:
        kind, cost, count = json.loads(line)
        if kind == "spin":
            fn, items = spin, [cost] * count
        else:
            fn, make, size = DATA[kind]
            items = [make(size) for _ in range(count)]
        began = time.perf_counter()
        values = mapper.map(fn, items)
        taken = time.perf_counter() - began
        if len(values) != count:
            raise AssertionError(f"{way} returned {len(values)} results for {count} items")
        print(taken, flush=True)
    os._exit(0)  # some peers do not end by themselves; their workers see the pipes close


class Child:
    """A process that maps in one way."""

    def __init__(self, way):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", way],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n", way

    def measure(self, kind, cost, count):
        print(json.dumps([kind, cost, count]), file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def end(self):
        """End it and all it started; but trackers, which unlink what the others leave in /dev/shm,
        end by themselves once those are gone."""
        self.process.stdin.close()
        self.process.wait()
        for member in members_of(self.process.pid):
            if not is_tracker(member):
                kill(member)
        limit = time.monotonic() + 5.0
        while (left := list(members_of(self.process.pid))) and time.monotonic() < limit:
            time.sleep(0.01)
        for member in left:
            kill(member)
        self.process.stdout.close()


def kill(pid):
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        pass


def is_tracker(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"resource_tracker" in file.read()
    except OSError:
        return False


def members_of(session):
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat") as file:
                if name.isdigit() and int(file.read().rpartition(")")[2].split()[3]) == session:
                    yield int(name)
        except (OSError, ValueError):
            continue


# ------------------------------------------------------------------ all ways, in turns


def loops_in(seconds):
    """Turns of the loop in so many seconds."""
    return max(1, round(seconds * _loops_in_a_second()))


@functools.cache
def _loops_in_a_second():
    return 200_000 / min(_timed(spin, 200_000) for _ in range(20))


def _timed(fn, *args):
    began = time.perf_counter()
    fn(*args)
    return time.perf_counter() - began


def rounds_of(state, kind, cost, count, rounds, ways):
    """Times of one cell: a dict of way to seconds for each round."""
    kept = {way: Child(way) for way in ways} if state == "warm" else {}
    for child in kept.values():  # half a second of work, for which everybody gets workers
        child.measure("spin", loops_in(0.125), 4)
        child.measure(kind, cost, count)
    times = []
    for _ in range(rounds):
        taken = {}
        for way in ways:
            child = kept.get(way) or Child(way)
            taken[way] = child.measure(kind, cost, count)
            if way not in kept:
                child.end()
        times.append(taken)
    for child in kept.values():
        child.end()
    return times


def best_other(taken):
    return min(seconds for way, seconds in taken.items() if way != "pmap")


def regret(taken, way):
    own = max(taken[way] - (FREE_SECONDS if way == "pmap" else 0.0), 1e-9)
    return own / min(seconds for other, seconds in taken.items() if other != way)


def print_table(state, cells, ways):
    print(f"\n{state}: time over the best of serial and all other ways, median of rounds\n")
    print(f"| item | count | serial | {' | '.join(ways)} |")
    print("| ---: | ---: | ---: |" + " ---: |" * len(ways))
    columns = {way: [] for way in ways}
    for (item, count), times in cells:
        row = []
        for way in ways:
            # Each way against the best of all; pmap against the best of the others, less its due.
            figures = [
                regret(t, way) if way == "pmap" else t[way] / min(best_other(t), t[way])
                for t in times
            ]
            figure = statistics.median(figures)
            columns[way].append(figure)
            row.append(f"**{figure:.2f}**" if way == "pmap" and figure > 1.15 else f"{figure:.2f}")
        serial = statistics.median(t["serial"] for t in times)
        print(f"| {item} | {count:,} | {serial * 1e3:.3g} ms | {' | '.join(row)} |", flush=True)
    means = [math.exp(statistics.fmean(map(math.log, columns[way]))) for way in ways]
    print(f"| geometric mean | | | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    print(f"| worst | | | {' | '.join(f'{max(columns[way]):.3g}' for way in ways)} |", flush=True)


def in_words(seconds):
    return f"{seconds * 1e6:g} us" if seconds < 1e-3 else f"{seconds * 1e3:g} ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--state", choices=["cold", "warm", "both"], default="both")
    parser.add_argument("--most", type=float, default=2.0, help="seconds of serial work in a cell")
    parser.add_argument("--least", type=float, default=0.0)
    parser.add_argument("--data", action="store_true", help="only the data-heavy cells")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--costs", default=",".join(map(str, COSTS)))
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)))
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve)
    ways = chosen.ways.split(",")
    peers = ("parmap-pool", "cloudpickle", "joblib", "mpire", "tqdm")
    print("Python", platform.python_version(), "on", platform.platform(), f"{WORKERS} cores;",
          ", ".join(f"{name} {importlib.metadata.version(name)}" for name in peers))  # fmt: skip
    for state in ("cold", "warm") if chosen.state == "both" else (chosen.state,):
        cells = []
        if chosen.data:
            for kind in DATA:
                for count in (4, 40):
                    times = rounds_of(state, kind, 0, count, chosen.rounds, ways)
                    cells.append(((kind, count), times))
        else:
            for cost in map(float, chosen.costs.split(",")):
                for count in map(int, chosen.counts.split(",")):
                    if not chosen.least <= cost * count <= chosen.most:
                        continue
                    times = rounds_of(state, "spin", loops_in(cost), count, chosen.rounds, ways)
                    cells.append(((in_words(cost), count), times))
        print_table(state, cells, ways)


if __name__ == "__main__":
    main()
