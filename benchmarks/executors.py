"""pmap on a real Dask and a real Ray, beside what these offer themselves.

    python benchmarks/executors.py [--rounds N] [--only dask|ray]

Needs the extras: `pip install "parmap-pool[dask,ray]"`. Each starts a cluster of two workers with one
thread each, and ends it. What is compared is measured in turns, so that a slow moment of the machine
meets all. An item is busy until a time has passed, so every way has the same work to share.
"""

import argparse
import contextlib
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

from parmap import pmap

WORKERS = 2


def busy(seconds):
    """A function of an item that takes so long."""

    def work(item):
        import time

        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        return item

    return work


# ------------------------------------------------------------------ clusters


@contextlib.contextmanager
def dask_client():
    from distributed import Client

    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        file = f"{directory}/scheduler.json"
        log = stack.enter_context(open(f"{directory}/log", "ab"))

        def start(kind, *options):
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--host=127.0.0.1",
                       "--no-dashboard", "--scheduler-file", file, *options]  # fmt: skip
            process = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)

        start("scheduler", "--port=0")
        for _ in range(WORKERS):
            start("worker", "--nthreads=1", "--local-directory", directory)
        with Client(scheduler_file=file, timeout=60) as client:
            client.wait_for_workers(WORKERS)
            yield client


@contextlib.contextmanager
def ray_pool():
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray.util.multiprocessing import Pool

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    yield Pool(WORKERS)
    ray.shutdown()


# ------------------------------------------------------------------ ways to map


def on_dask(client, function, count):
    def by_hand():
        parts = [range(start, min(start + 100, count)) for start in range(0, count, 100)]
        futures = client.map(lambda part: [function(item) for item in part], parts, pure=False)
        return [value for part in client.gather(futures) for value in part]

    return {
        "pmap": lambda: list(pmap(function, range(count), executor=client)),
        "client.map, gather": lambda: client.gather(client.map(function, range(count), pure=False)),
        "get_executor().map": lambda: list(client.get_executor(pure=False).map(function, range(count))),
        "chunks of 100 by hand": by_hand,
    }  # fmt: skip


def on_ray(pool, function, count):
    return {
        "pmap": lambda: list(pmap(function, range(count), executor=pool)),
        "Pool.map": lambda: pool.map(function, range(count)),
        "Pool.map, chunksize=1": lambda: pool.map(function, range(count), chunksize=1),
    }


def compare(title, ways, count, rounds):
    times = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            assert way() == list(range(count))
            if turn:  # the first one warms up
                times[name].append(time.perf_counter() - began)
    print(f"\n{title}")
    for name, taken in times.items():
        ratios = [other / own for other, own in zip(taken, times["pmap"], strict=True)]
        over = "" if name == "pmap" else f"{statistics.median(ratios):6.2f} times pmap's"
        print(f"  {name:<24} {statistics.median(taken):8.3f} s  {over}".rstrip(), flush=True)


# ------------------------------------------------------------------ what is sent, and what survives


class Heavy:
    """100 MB, which leave a mark where they are unpickled."""

    def __init__(self, directory):
        self.directory, self.data = directory, bytes(100_000_000)

    def __setstate__(self, state):
        vars(self).update(state)
        with open(f"{self.directory}/{os.getpid()}", "ab") as file:
            file.write(b".")


def large_closure(executor):
    with tempfile.TemporaryDirectory() as directory:
        heavy = Heavy(directory)
        began = time.perf_counter()
        results = pmap(
            lambda item: len(heavy.data) + item,
            range(400),
            executor=executor,
            parallel=True,
            chunksize=4,
        )
        total = sum(results)
        seconds = time.perf_counter() - began
        assert total == 400 * 100_000_000 + sum(range(400))
        marks = [path.stat().st_size for path in Path(directory).iterdir()]
        print(
            f"\n100 MB closure, {results.report.chunks} chunks: unpickled {sum(marks)} times by "
            f"{len(marks)} workers, {seconds:.2f} s",
            flush=True,
        )


def killed_half_way(executor):
    with tempfile.TemporaryDirectory() as directory:

        def work(item):
            import os
            import time

            time.sleep(0.005)
            if item == 200:
                try:
                    open(f"{directory}/killed", "x").close()
                except FileExistsError:
                    return item
                os.kill(os.getpid(), signal.SIGKILL)
            return item

        began = time.perf_counter()
        results = pmap(work, range(400), executor=executor, parallel=True)
        arrived = list(results) == list(range(400))
        seconds = time.perf_counter() - began
        print(
            f"worker killed half-way: every result arrived: {arrived}, {seconds:.2f} s", flush=True
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["dask", "ray"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)
    clusters = {"dask": (dask_client, on_dask, "distributed"), "ray": (ray_pool, on_ray, "ray")}
    print(f"Python {platform.python_version()}, parmap {version('parmap-pool')}, "
          f"{os.cpu_count()} cores, {platform.platform()}")  # fmt: skip
    for name, (start, ways, package) in clusters.items():
        if arguments.only in (None, name):
            print(f"\n== {package} {version(package)}, {WORKERS} workers with one thread each")
            with start() as executor:
                for count, seconds in ((2000, 0.5e-3), (200, 50e-3)):
                    few = arguments.rounds if count == 2000 else 1
                    title = f"{count} items of {1e3 * seconds:g} ms"
                    compare(title, ways(executor, busy(seconds), count), count, few)
                large_closure(executor)
                killed_half_way(executor)


if __name__ == "__main__":
    main()
