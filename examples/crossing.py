"""Where parallel overtakes serial: squares of numbers, from a handful to a million.

    python examples/crossing.py [picture.svg]

Measures map, Pool.map and pmap, each started for the call, and draws it. Needs matplotlib.
"""

import multiprocessing
import sys
import time

import matplotlib.pyplot as plt

from parmap import pmap, shutdown


def square(x):
    return x * x


def plain_pool(fn, items):
    with multiprocessing.Pool() as pool:
        return pool.map(fn, items)


def seconds(mapper, count):
    shutdown()  # so that workers are started anew
    began = time.perf_counter()
    list(mapper(square, range(count)))
    return time.perf_counter() - began


def main():
    counts = [4, 16, 64, 256, 1_000, 4_000, 16_000, 64_000, 250_000, 1_000_000]
    ways = {"serial map": map, "Pool.map": plain_pool, "pmap": pmap}
    _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    for (name, mapper), style in zip(ways.items(), ("o-", "s--", "^-"), strict=True):
        times = [min(seconds(mapper, count) for _ in range(3)) for count in counts]
        print(f"{name:>10}", *(f"{1e3 * each:9.3f} ms" for each in times))
        ax.loglog(counts, times, style, label=name)
    ax.set(xlabel="numbers squared", ylabel="seconds", title="The first call of a program")
    ax.legend(frameon=False)
    ax.figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "crossing.svg")


if __name__ == "__main__":
    main()
