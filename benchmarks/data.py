"""What it costs to move large data: arrays in, arrays in and out, a large closure, many small objects.

    python benchmarks/data.py [--rounds N] [--only WORD] [--growth] [--streams]

Against Pool.map, ProcessPoolExecutor.map, joblib and mpire, all warm, with as many workers, in turns in
one run. "copy" is one memcpy of the same bytes in one process: nothing that moves data can be faster.
`--growth` shows instead how time and memory grow with one array, from 1 MB to 1 GB; `--streams` what the
caller's memory grows by while it consumes long streams one by one. Needs numpy, joblib, mpire, Linux.
"""

import argparse
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from multiprocessing import Pool
from pathlib import Path

import joblib
import mpire
import numpy

from parmap import pmap, shutdown

WORKERS = 2  # as many as nearly every machine has cores
MB = 2**20


def first(array):
    return array[0]


def total(array):
    return array.sum()


def same(array):
    return array


def plus_one(array):
    return array + 1


def lookup(table, index):
    return table[index]


def summed(record):
    return record["a"] + len(record["b"])


# ------------------------------------------------------------------ the ways to map


class Ways:
    """pmap and its peers, each with two workers that stay: `run[name](fn, items)` makes a list."""

    def __init__(self, stack):
        pool = stack.enter_context(Pool(WORKERS))
        executor = stack.enter_context(ProcessPoolExecutor(WORKERS))
        mpire_pool = stack.enter_context(mpire.WorkerPool(WORKERS, keep_alive=True))
        stack.callback(shutdown)
        self.run = {
            "pmap": lambda fn, items: list(pmap(fn, items, parallel=True, max_workers=WORKERS)),
            "Pool.map": pool.map,
            "ProcessPoolExecutor": lambda fn, items: list(executor.map(fn, items)),
            "joblib": lambda fn, items: joblib.Parallel(n_jobs=WORKERS)(
                joblib.delayed(fn)(item) for item in items
            ),
            # Items go in tuples, or it would spread arrays as arguments; results are not to be joined.
            "mpire": lambda fn, items: mpire_pool.map(
                fn, [(item,) for item in items], concatenate_numpy_output=False
            ),
            # What parmap does if it is not told: it may well stay serial.
            "pmap, unpinned": lambda fn, items: list(pmap(fn, items, max_workers=WORKERS)),
            "map": lambda fn, items: list(map(fn, items)),
        }


PEERS = ("Pool.map", "ProcessPoolExecutor", "joblib", "mpire")


def compare(ways, title, fn, items, moved, rounds, names=None):
    """One table: each way's median, its ratio to pmap's of the same turn, its peak of memory."""
    names = list(names or ways.run)
    times = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names:
            began = time.perf_counter()
            result = ways.run[name](fn, items)
            taken = time.perf_counter() - began
            assert len(result) == len(items)
            del result
            if turn:
                times[name].append(taken)
    ratios = {
        name: statistics.median(a / b for a, b in zip(times[name], times["pmap"], strict=True))
        for name in names
    }
    print(f"\n{title}")
    if moved:
        print(f"  {'copy':<20} {1e3 * copy_seconds(moved):9.1f} ms")
    for name in names:
        peak = peak_memory(lambda name=name: ways.run[name](fn, items)) if moved else 0
        print(
            f"  {name:<20} {1e3 * statistics.median(times[name]):9.1f} ms {ratios[name]:8.2f} x pmap"
            + (f"   peak + {peak / MB:6.0f} MB" if moved else ""),
            flush=True,
        )
    peers = [name for name in names if name in PEERS]
    if peers:
        best = min(peers, key=lambda name: statistics.median(times[name]))
        print(f"  best of the peers over pmap: {ratios[best]:.2f} ({best})", flush=True)


# ------------------------------------------------------------------ memory of all processes


def descendants(root):
    """Process ids of `root` and all below it."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        children.setdefault(int(parent), []).append(int(stat.parent.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo.extend(children.get(pid, []))
    return found


def in_files():
    """Bytes in /dev/shm: memory too, whether mapped or not. Nobody else should use it meanwhile."""
    stat = os.statvfs("/dev/shm")
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def memory(root):
    """Of all processes below `root`: PSS, with files in memory counted once, mapped or not."""
    total = in_files()
    for pid in descendants(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        except OSError:
            continue
        kinds = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
        total += (kinds["Pss"] - kinds["Pss_Shmem"]) * (pid != os.getpid())
    return total


def watch(root):
    """In a process of its own: tell the memory now, then, when told to stop, the most there was."""
    print(memory(root), flush=True)
    most = 0
    while not select.select([sys.stdin], [], [], 0.001)[0]:
        most = max(most, memory(root))
    print(most)


def peak_memory(run):
    """The most that a run takes, of all processes together, beyond what they had before."""
    command = [sys.executable, __file__, "--watch", str(os.getpid())]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        before = int(process.stdout.readline())
        result = run()
        del result
        most, _ = process.communicate("end\n")
    return max(0, int(most) - before)


def copy_seconds(arrays):
    """One memcpy of these bytes into memory that is already there."""
    target = numpy.zeros_like(arrays[0])
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for array in arrays:
            numpy.copyto(target, array)
        times.append(time.perf_counter() - began)
    return min(times)


# ------------------------------------------------------------------ the tables


def tables(ways, rounds, only):
    def show(title, *arguments, **options):
        if only in title:
            compare(ways, title, *arguments, rounds, **options)

    rng = numpy.random.default_rng(0)
    arrays = [rng.random(MB) for _ in range(40)]
    show("40 arrays of 8 MB in, the first number of each", first, arrays, arrays)
    show("40 arrays of 8 MB in, the sum of each", total, arrays, arrays)
    show("40 arrays of 8 MB in and out, as they are", same, arrays, arrays * 2)
    show("40 arrays of 8 MB in and out, plus one", plus_one, arrays, arrays * 2)
    table = numpy.concatenate(arrays[:25])
    del arrays
    names = ("pmap", "joblib", "pmap, unpinned", "map")  # the others take 6 s and 50 s
    show(
        "a table of 200 MB bound in fn, 64 items",
        partial(lookup, table),
        range(64),
        [table],
        names=names,
    )
    texts = [os.urandom(MB) for _ in range(100)]
    show(
        "100 bytes objects of 1 MB in and out",
        same,
        texts,
        [numpy.frombuffer(t, "u1") for t in texts * 2],
    )
    records = [{"a": i, "b": str(i), "c": [i, i + 1]} for i in range(50_000)]
    show("50,000 small dicts in, a number out", summed, records, None)
    show("50,000 small dicts in and out", same, records, None)


def growth(ways, rounds):
    for size in (1, 8, 64, 256, 1024):
        array = numpy.random.default_rng(0).random(size * MB // 8)
        names = ("pmap", "Pool.map", "joblib")
        title = f"one array of {size} MB in and out"
        compare(ways, title, same, [array], [array] * 2, rounds, names=names)


def streams():
    """What the caller's resident memory grows by, at the most."""

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def grown(iterator):
        before = most = resident()
        for number, _ in enumerate(iterator):
            if number % 100 == 0:
                most = max(most, resident())
        return f"{(most - before) / MB:.0f} MB"

    options = {"parallel": True, "max_workers": WORKERS}
    list(pmap(abs, range(10), **options))
    print("\nthe caller's memory grows by, while it consumes one by one")
    print(
        "  a generator of 2,000,000 numbers:", grown(pmap(abs, iter(range(2_000_000)), **options))
    )
    results = pmap(lambda i: numpy.full(MB // 8, i), range(3000), **options)
    print("  3,000 results of 1 MB:", grown(results))
    inputs = (numpy.full(MB // 8, i) for i in range(3000))
    print("  a generator of 3,000 arrays of 1 MB:", grown(pmap(first, inputs, **options)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each comparison (default 5)"
    )
    parser.add_argument("--only", default="", help="tables whose title has this in it")
    parser.add_argument("--growth", action="store_true", help="one array from 1 MB to 1 GB")
    parser.add_argument("--streams", action="store_true", help="memory of the caller")
    parser.add_argument("--watch", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        watch(arguments.watch)
        return
    print(f"{platform.platform()}, {len(os.sched_getaffinity(0))} usable cores, {WORKERS} workers")
    names = ("parmap-pool", "numpy", "joblib", "mpire")
    print(
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in names),
        sep=", ",
    )
    with ExitStack() as stack:
        ways = Ways(stack)
        if arguments.growth:
            growth(ways, arguments.rounds)
        elif arguments.streams:
            streams()
        else:
            tables(ways, arguments.rounds, arguments.only)


if __name__ == "__main__":  # for the peers: parmap itself needs no guard
    main()
