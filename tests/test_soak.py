"""A long time, in minutes: nothing grows. Left out of the everyday run; `pytest -m soak` runs it."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_leaks import Census, descendants, eventually

from parmap import _pool, pmap, shutdown

pytestmark = pytest.mark.soak

TWO: dict[str, Any] = {"parallel": True, "max_workers": 2}

# Bytes by which memory may differ without growing: caches fill, and the allocator keeps some.
SLACK = 8 * 2**20


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Each test begins and ends without workers."""
    shutdown()
    yield
    gc.collect()
    shutdown()


def memory(pid: int | str = "self") -> int:
    """Bytes of memory that a process has to itself."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell")


def all_watched() -> bool:
    """Whether the end of each worker is watched, by a descriptor: it is opened when the fork server
    has told the worker's number, which may be after the call that hired it."""
    crews = list(_pool._crews.values())
    return all(w.settle() for crew in crews for w in crew._workers)


def assert_flat(act: Callable[[], None], before: int) -> None:
    """Run `act` some times to fill what fills once, then again: nothing has grown since."""
    for _ in range(before):
        act()
    assert eventually(all_watched)
    census, bytes_before = Census(), memory()
    act()
    gc.collect()
    assert eventually(all_watched)
    assert census.grown() == {}
    assert memory() < bytes_before + SLACK


def test_ten_thousand_calls() -> None:
    """Memory, descriptors, threads and processes are as after the first hundreds."""

    def thousands() -> None:
        for number in range(5000):
            assert list(pmap(abs, (-number, number), **TWO)) == [number, number]

    assert_flat(thousands, before=1)


@pytest.mark.parametrize("parallel", [None, True])
def test_ten_million_items(parallel: bool | None) -> None:
    """Items are drawn, run, handed out and let go; neither side keeps any of them."""

    def millions() -> None:
        results = pmap(abs, range(-5_000_000, 0), parallel=parallel, max_workers=2)
        assert sum(results) == 5_000_000 * 5_000_001 // 2

    list(pmap(abs, range(4), **TWO))  # whether a call that decides itself hires, is not the point
    assert_flat(millions, before=2)


def test_a_day_of_busy_and_idle_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers leave when idle and come back when wanted, two hundred times over."""
    monkeypatch.setattr(_pool, "IDLE_SECONDS", 0.05)
    at_rest = len(descendants())

    def busy_and_idle() -> None:
        for _ in range(100):
            assert list(pmap(lambda x: x + 1, range(20), **TWO)) == list(range(1, 21))
            limit = time.monotonic() + 10
            while len(descendants()) > at_rest + 1 and time.monotonic() < limit:
                time.sleep(0.005)  # between two looks, until the workers have left

    assert_flat(busy_and_idle, before=1)


def test_a_thousand_deaths() -> None:
    """Each costs its worker, and nothing else stays of it."""

    def deaths() -> None:
        for _ in range(250):
            found = list(pmap(lambda x: os._exit(1), range(2), return_exceptions=True, **TWO))
            assert [error.index for error in found] == [0, 1]

    assert_flat(deaths, before=1)


def test_ten_thousand_large_results() -> None:
    """A worker's memory is flat too, and each file goes with its data."""

    def large() -> None:
        for y in pmap(lambda x: bytes(200_000), range(5000), chunksize=10, **TWO):
            assert len(y) == 200_000

    assert_flat(large, before=1)
    workers = set(pmap(lambda _: os.getpid(), range(8), chunksize=1, **TWO))
    assert all(memory(pid) < 100 * 2**20 for pid in workers)
