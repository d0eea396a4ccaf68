"""Real executors for the tests, each started here and ended here: pools, a Dask cluster, a Ray.

A Dask cluster is a scheduler and two workers, each a process with its own command line, as on real
machines; Ray is a head with two CPUs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.pool
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

WORKERS = 2
SECONDS_TO_START = 60


@contextlib.contextmanager
def threads() -> Iterator[Any]:
    with ThreadPoolExecutor(WORKERS) as executor:
        yield executor


@contextlib.contextmanager
def processes() -> Iterator[Any]:
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
        yield executor


@contextlib.contextmanager
def pool() -> Iterator[Any]:
    pool = multiprocessing.get_context("forkserver").Pool(WORKERS)
    yield pool
    pool.terminate()  # after a lost chunk, close() and join() would wait for it
    pool.join()


@contextlib.contextmanager
def thread_pool() -> Iterator[Any]:
    pool = multiprocessing.pool.ThreadPool(WORKERS)
    yield pool
    pool.close()
    pool.join()


@contextlib.contextmanager
def interpreters() -> Iterator[Any]:
    if sys.version_info < (3, 14):
        pytest.skip("InterpreterPoolExecutor came with Python 3.14")
    from concurrent.futures import InterpreterPoolExecutor

    with InterpreterPoolExecutor(WORKERS) as executor:
        yield executor


@contextlib.contextmanager
def loky() -> Iterator[Any]:
    loky = pytest.importorskip("loky", reason="the group `engines` is not installed")
    with loky.ProcessPoolExecutor(WORKERS) as executor:
        yield executor


@contextlib.contextmanager
def multiprocess() -> Iterator[Any]:
    other = pytest.importorskip("multiprocess", reason="the group `engines` is not installed")
    pool = other.get_context("spawn").Pool(WORKERS)
    yield pool
    pool.close()
    pool.join()


@contextlib.contextmanager
def dask(path: str | None = None, patience: float = SECONDS_TO_START) -> Iterator[Any]:
    """A client of a scheduler and two workers with one thread each, whose nannies start another one
    where one is killed. `client.processes` are these three; `patience` is how long the client
    waits for a scheduler that is gone."""
    distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    with TemporaryDirectory(prefix="dask-") as directory, contextlib.ExitStack() as stack:
        file = f"{directory}/scheduler.json"
        common = ["--no-dashboard", "--scheduler-file", file]
        started = [_start(stack, directory, path, "distributed.cli.dask_scheduler",
                          "--host=127.0.0.1", "--port=0", *common)]  # fmt: skip
        options = ["--nthreads=1", "--host=127.0.0.1", "--local-directory", directory, *common]
        for _ in range(WORKERS):
            started.append(_start(stack, directory, path, "distributed.cli.dask_worker", *options))
        assert _until_it_is_there(Path(file))
        client = distributed.Client(scheduler_file=file, timeout=patience)
        stack.callback(client.close)
        client.wait_for_workers(WORKERS, timeout=SECONDS_TO_START)
        client.processes = started
        yield client


def _until_it_is_there(file: Path) -> bool:
    end = time.monotonic() + SECONDS_TO_START
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return file.exists()


def _start(
    stack: contextlib.ExitStack, directory: str, path: str | None, module: str, *options: str
) -> subprocess.Popen[bytes]:
    """One process of the cluster, which sees the tests' modules as a shared disk would show them."""
    environment = {**os.environ, "PYTHONPATH": path or str(Path(__file__).parent)}
    log = open(f"{directory}/{module}.log", "ab")  # noqa: SIM115
    stack.enter_context(log)
    process = subprocess.Popen(
        [sys.executable, "-m", module, *options],
        stdout=log,
        stderr=log,
        env=environment,
        cwd=directory,
    )

    def end() -> None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)
    return process


@contextlib.contextmanager
def ray() -> Iterator[Any]:
    """A pool of two actors on a Ray head of its own."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    os.environ.update(_RAY_QUIET)
    import ray
    from ray.util.multiprocessing import Pool

    here = str(Path(__file__).parent)
    ray.init(
        num_cpus=WORKERS,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=400_000_000,
        runtime_env={"env_vars": {"PYTHONPATH": here}},
    )
    pool = Pool(WORKERS)
    yield pool
    pool.terminate()
    pool.join()
    ray.shutdown()


_RAY_QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}
