"""Unit tests of rooms that need no worker: transport, machine, plan, outcome, errors."""

from __future__ import annotations

import errno
import os
import signal
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest

from parmap import (
    _chunk,
    _failure,
    _known,
    _machine,
    _outcome,
    _plan,
    _probe,
    _seat,
    _transport,
)
from parmap._engine import LocalEngine
from parmap._files import Store
from parmap._handle import Worker
from parmap._transport import pack, unpack
from parmap.errors import WorkerDied


def test_a_large_array_crosses_by_file_and_arrives_writable(tmp_path: Path) -> None:
    """Mapped copy-on-write, and the file is gone once it is mapped."""
    store = Store("parmap-unit", [str(tmp_path)])
    sent = numpy.arange(100_000)
    parcel = pack([sent, b"x" * 50_000], store)
    assert parcel.path is not None
    assert parcel.nbytes > sent.nbytes
    array, text = unpack(parcel)
    array[0] = 7
    assert (array[1:] == sent[1:]).all()
    assert (sent[0], len(text)) == (0, 50_000)
    assert os.listdir(store.directories[0]) == []
    assert os.stat(store.directories[0]).st_mode & 0o777 == 0o700


def test_a_place_that_refuses_is_passed_over(tmp_path: Path) -> None:
    """A missing first place, then one that works; with none left it is an OSError."""
    missing = str(tmp_path / "missing")
    parcel = pack(b"x" * 100_000, Store("parmap-unit", [missing, str(tmp_path)]))
    assert parcel.path is not None
    assert parcel.path.startswith(str(tmp_path / "parmap-unit"))
    parcel.discard()
    assert not os.path.exists(parcel.path)
    parcel.discard()
    with pytest.raises(OSError, match="missing") as caught:
        pack(b"x" * 100_000, Store("parmap-unit", [missing]))
    assert caught.value.errno == errno.ENOENT


def test_a_directory_that_others_may_enter_is_not_used(tmp_path: Path) -> None:
    """What lies in it is code, so it has to be this user's alone."""
    (tmp_path / "parmap-unit").mkdir(mode=0o755)
    with pytest.raises(OSError, match="private"):
        pack(b"x" * 100_000, Store("parmap-unit", [str(tmp_path)]))


def test_a_store_sweeps_one_writer_or_everything(tmp_path: Path) -> None:
    store = Store("parmap-unit", [str(tmp_path), str(tmp_path / "missing")])
    pack(b"x" * 100_000, store)
    store.sweep("0-")
    assert len(os.listdir(store.directories[0])) == 1
    store.sweep(f"{os.getpid()}-")
    assert os.listdir(store.directories[0]) == []
    store.sweep()
    assert not os.path.exists(store.directories[0])


def test_an_array_that_is_not_contiguous_crosses_too(tmp_path: Path) -> None:
    sent = numpy.arange(200_000).reshape(400, 500)[::2, ::3]
    assert (unpack(pack(sent, Store("parmap-unit", [str(tmp_path)]))) == sent).all()


def recorded(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    _machine._groups.cache_clear()
    return str(root)


def test_the_least_quota_of_all_groups_above_counts(tmp_path: Path) -> None:
    """Version 2, as recorded in a nested group whose parent has the smaller quota; rounded up."""
    root = recorded(tmp_path, {
        "proc/self/mountinfo": "1 2 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
        "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/a/b/memory.max": "1000000\n",
        "sys/fs/cgroup/a/b/memory.current": "400000\n",
        "proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 9000 kB\n",
    })  # fmt: skip
    assert _machine.usable_cores(root) == (1, "CPU quota of its cgroup")
    assert _machine.available_bytes(root) == 600_000


def test_version_1_has_a_quota_and_a_period(tmp_path: Path) -> None:
    root = recorded(tmp_path, {
        "proc/self/mountinfo": "1 2 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
        "proc/self/cgroup": "4:cpu,cpuacct:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    })  # fmt: skip
    assert _machine.usable_cores(root)[0] == 1


def test_python_cpu_count_overrides_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", "7")
    assert _machine.usable_cores() == (7, "PYTHON_CPU_COUNT")


FACTS = _plan.Facts(
    done=10, left=1000, seconds_per_item=0.01, busy=1.0, transfer_per_item=0.0,
    costs=_machine.Costs(), warm=2, cores=2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "case", "parallel"),
    [
        ({"obstacle": "no"}, 1, False),
        ({"pinned": False}, 2, False),
        ({"pinned": True}, 3, True),
        ({"cores": 1}, 4, False),
        ({"transfer_per_item": 0.02}, 5, False),
        ({"warm": 0, "costs": _machine.Costs(boot=60.0)}, 5, False),
        ({"warm": 0, "left": 4}, 5, False),
        ({"busy": 2.0, "warm": 0, "left": 20}, 5, False),
        ({"left": 2, "seconds_per_item": 2e-3, "rested": True}, 5, False),
        ({"left": 2, "seconds_per_item": 2e-3}, 6, True),
        ({"warm": 0, "left": 4, "missed": 1.0}, 6, True),
        ({}, 6, True),
        ({"left": None, "done": 1000}, 6, True),
    ],
)
def test_each_case_of_a_plan(changes: dict[str, Any], case: int, parallel: bool) -> None:
    """The numbers are those of `make_plan`'s docstring."""
    plan = _plan.make_plan(FACTS._replace(**changes))
    assert (plan.case, plan.parallel) == (case, parallel)
    assert plan.reason


def test_the_first_items_do_not_make_all_look_dear() -> None:
    """They run on cold caches; a batch of many tells more of an item than what came before it."""
    probe = _probe.Probe()
    for count, seconds in ((1, 4e-6), (16, 2e-6), (256, 10e-6), (4096, 160e-6)):
        probe.add(count, seconds)
    assert probe.each == pytest.approx(160e-6 / 4096)
    probe.add(1, 1e-3)
    assert probe.each > 100e-6  # one that is dear counts at once


@pytest.mark.parametrize(
    ("after", "busy"),
    [
        pytest.param((1.0, 1.0, 0), 1.0, id="it computed"),
        pytest.param((0.5, 0.5, 0), 1.0, id="another process took the processor from it"),
        pytest.param((0.1, 0.1, 5), 0.1, id="it waited"),
        pytest.param((1.0, 2.0, 0), 2.0, id="two threads of its own computed"),
    ],
)
def test_what_an_item_uses_of_processors(
    monkeypatch: pytest.MonkeyPatch, after: tuple[float, float, int], busy: float
) -> None:
    """By the processor time of its thread and of all threads, and how often it chose to wait."""
    monkeypatch.setattr(_probe, "clocks", lambda: after)
    probe = _probe.Probe()
    probe.look(1.0, (0.0, 0.0, 0))
    assert probe.busy == pytest.approx(busy)


def test_what_an_earlier_call_has_shown_outweighs_one_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_probe, "clocks", lambda: (1e-3, 1e-3, 0))
    for busy in (0.1, 1.0, 2.0):
        probe = _probe.Probe()
        probe.trust(_known.Known(1.0, busy, 0.0))
        probe.look(1e-3, (0.0, 0.0, 0))
        assert probe.busy == pytest.approx(busy, abs=0.1)


def test_a_plan_counts_what_workers_have_to_import() -> None:
    """Until earlier calls have lost as much by not having them."""
    short = FACTS._replace(left=20)
    assert _plan.make_plan(short).parallel
    assert not _plan.make_plan(short._replace(loading=1.0)).parallel
    assert _plan.make_plan(short._replace(loading=1.0, missed=1.0)).parallel
    assert _plan.make_plan(short._replace(loading=1.0, left=2000)).parallel


def test_what_a_function_makes_workers_import_is_seen_through_what_wraps_it() -> None:
    class Wrapper:
        def __init__(self, fn: Any):
            self.fn = fn

        def __call__(self, x: Any) -> Any:
            return self.fn(x)

    by_global = lambda x: numpy.sum(x)  # noqa: E731
    for fn in (by_global, numpy.mean, partial(by_global, 1), Wrapper(by_global)):
        assert "numpy" in _known.packages(fn)
    assert _known.packages(lambda x: os.getpid() + x) <= {__name__}
    assert _known.packages(abs) == frozenset()
    assert _known._seconds(frozenset({"numpy"}), 0) > 50 * _known.MODULE_SECONDS


def test_waiting_work_gets_more_workers_than_cores() -> None:
    assert _plan.choose_workers(FACTS._replace(busy=0.01)) == _plan.MOST_WAITING_WORKERS
    assert _plan.choose_workers(FACTS._replace(busy=0.01, most_workers=5)) == 5
    assert _plan.choose_workers(FACTS._replace(busy=0.01, memory_workers=3)) == 3


class NeverAgainError(Exception):
    """Pickles, and its copy does not load."""

    def __init__(self, first: int, second: int):
        super().__init__(first + second)


def test_an_exception_that_does_not_load_is_rebuilt_without_init() -> None:
    error = _failure.rebuild(_failure.capture(NeverAgainError(1, 2), _transport.dumps))
    assert type(error) is NeverAgainError
    assert error.args == (3,)


def test_a_ctrl_c_behind_the_last_item_of_a_batch_takes_its_place() -> None:
    """What is raised belongs to an item; there has to be one."""

    def interrupted(fn: Any, items: Any) -> Iterator[Any]:
        yield from map(fn, items)
        raise KeyboardInterrupt

    values, error = _outcome.run_batch(interrupted, abs, [1, 2, 3])
    assert values == [1, 2]
    assert isinstance(error, KeyboardInterrupt)


def test_what_cannot_be_rebuilt_keeps_its_last_line() -> None:
    failure = _failure.Failure(b"", b"", "ValueError: gone", "")
    assert "ValueError: gone" in str(_failure.rebuild(failure))
    failure = _failure.Failure(b"not a pickle", b"", "ValueError: gone", "")
    assert "ValueError: gone" in str(_failure.rebuild(failure))


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [(None, "not known"), (-9, "SIGKILL"), (-15, "SIGTERM"), (-11, "SIGSEGV"), (-99, "signal 99"),
     (3, "code 3")],
)  # fmt: skip
def test_a_death_is_told_in_words(exitcode: int | None, words: str) -> None:
    error = WorkerDied.of_item(5, exitcode)
    assert words in str(error)
    assert "item 5" in str(error)
    assert (error.index, error.exitcode) == (5, exitcode)
    assert signal.SIGTERM == 15


@pytest.mark.parametrize(("claimed", "left"), [(0, 3), (1, 2), (2, 1), (3, 0)])
def test_what_a_worker_has_begun_cannot_be_taken_back(claimed: int, left: int) -> None:
    """Nor what it had before that: it is done, though the answer may not be in yet."""
    worker = Worker.__new__(Worker)
    worker.board = memoryview(bytearray(64)).cast("q")
    engine = LocalEngine.__new__(LocalEngine)
    chunks = [_chunk.Chunk(start, [start], 0) for start in range(3)]
    engine._job, engine._queues = 7, {worker: deque(chunks)}
    worker.board[_seat.CHUNK] = chunks[claimed - 1].number if claimed else 0
    assert engine.take_back() == chunks[3 - left :]
    assert engine.take_back() == []  # it is to get nothing more, and has nothing more


def test_enough_are_at_work_when_as_many_run_items_as_there_are_cores() -> None:
    """Or have answered, if they have nothing to do any more; but not who has yet to import."""

    def seen(ready: int, started: int, loading: int) -> Worker:
        worker = Worker.__new__(Worker)
        worker.board = memoryview(bytearray(64)).cast("q")
        words = worker.board
        words[_seat.READY], words[_seat.STARTED], words[_seat.LOADING] = ready, started, loading
        return worker

    def enough(*workers: Worker, heard: int = 0) -> bool:
        engine = LocalEngine.__new__(LocalEngine)
        engine._queues = {worker: deque() for worker in workers}
        engine._heard, engine._enough = set(workers[:heard]), 2
        return engine.enough_at_work()

    assert enough(seen(1, 1, 0), seen(1, 2, 0))
    assert enough(seen(1, 0, 0), seen(1, 2, 7), heard=1)
    assert not enough(seen(1, 1, 0))
    assert not enough(seen(1, 1, 0), seen(1, 0, 0))
    assert not enough(seen(1, 1, 0), seen(1, 0, -1), heard=2)
    assert not enough(seen(1, 1, 0), seen(0, 0, 0), heard=1)
