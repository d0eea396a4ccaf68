"""Work that waits, with default arguments: forty sleeps of 50 ms.

    python benchmarks/waiting.py [--rounds N]

First call of a fresh process, then a later one. Serially it would take two seconds.
"""

import argparse
import platform
import statistics
import subprocess
import sys

WAYS = {
    "pmap": "from parmap import pmap\nrun = lambda: list(pmap(time.sleep, items))",
    "Pool.map": "import multiprocessing\npool = []\n"
    "run = lambda: (pool or pool.append(multiprocessing.Pool()) or pool)[0].map(time.sleep, items)",
    "ProcessPoolExecutor": "from concurrent.futures import ProcessPoolExecutor\n"
    "pool = ProcessPoolExecutor()\nrun = lambda: list(pool.map(time.sleep, items))",
    "joblib": "from joblib import Parallel, delayed\n"
    "run = lambda: Parallel(n_jobs=-1)(delayed(time.sleep)(item) for item in items)",
}

TIMED = """
import time
{way}
items = [0.05] * 40
for _ in range(2):
    began = time.perf_counter()
    run()
    print(time.perf_counter() - began)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    print(f"Python {platform.python_version()} on {platform.platform()}\n")
    taken = {way: [] for way in WAYS}
    for _ in range(chosen.rounds):
        for way, code in WAYS.items():
            done = subprocess.run(
                [sys.executable, "-c", TIMED.format(way=code)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            taken[way].append([float(line) for line in done.stdout.split()])
    print("| way | first call | later call |\n| --- | ---: | ---: |")
    for way, rounds in taken.items():
        first, later = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"| {way} | {first:.2f} s | {later:.2f} s |")


if __name__ == "__main__":
    main()
