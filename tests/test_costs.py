"""What is measured and remembered, what is told of it, and what the machine allows for real."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import LIMIT, eventually

from parmap import (
    Crossover,
    Results,
    _known,
    _machine,
    _plan,
    _pool,
    _report,
    _way,
    crossover,
    pmap,
    shutdown,
)
from parmap._call import DEFAULT, Call
from parmap._chunk import Chunk, Event
from parmap._decision import Decision
from parmap._engine import LocalEngine
from parmap._handle import Worker
from parmap._inputs import inputs_of
from parmap._probe import Probe


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a cache directory of its own, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield Path(_machine._path())
    forget()


def forget() -> None:
    """As in a new process."""
    _machine._costs, _machine._written_at = None, -math.inf
    _known._functions.clear()
    _known.missed = 0.0


def written(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="ascii")


def test_without_a_file_the_built_in_costs_hold(file: Path) -> None:
    assert not file.exists()
    assert [*_machine.costs()] == [*_machine.Costs()]


def test_what_was_measured_is_there_in_the_next_process(file: Path) -> None:
    _machine.measured(boot=0.01)
    _machine.remember()
    code = "from parmap import _machine; print(repr(_machine.costs().boot))"
    told = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert (float(told.stdout), told.stderr) == (_machine.costs().boot, "")
    assert 0.01 < _machine.costs().boot < _machine.Costs().boot
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_nothing_is_written_where_nothing_was_measured(file: Path) -> None:
    _machine.remember()
    assert not file.exists()


def test_one_wild_measurement_changes_little(file: Path) -> None:
    _machine.measured(boot=1000.0, call=0.0)
    assert _machine.costs().boot < 2 * _machine.Costs().boot
    assert _machine.costs().call > _machine.Costs().call / 2


def test_a_call_after_a_pause_tells_what_waking_costs(file: Path) -> None:
    """And not that all calls take as long: with those that follow each other at once, they do not."""
    _machine.called(10e-3, rested=True)
    first = _machine.costs()
    assert first.wake > _machine.Costs().wake
    assert first.call == _machine.Costs().call
    _machine.called(10e-3, rested=False)
    assert _machine.costs().call > first.call
    assert _machine.costs().wake == first.wake


@pytest.mark.parametrize(("pause", "rested"), [(0.0, True), (math.inf, False)])
def test_a_call_knows_whether_there_was_one_just_before(
    monkeypatch: pytest.MonkeyPatch, pause: float, rested: bool
) -> None:
    """Workers are quick to answer then, and a plan may count on it."""
    monkeypatch.setattr(_report, "PAUSE_SECONDS", pause)
    list(pmap(abs, [1]))
    later = pmap(abs, [1])
    list(later)
    assert later.report.rested == rested


def test_memory_is_looked_at_only_for_new_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says is read from files, which takes as long as a short call on warm workers."""
    shutdown()
    asked = []
    monkeypatch.setattr(_machine, "available_bytes", lambda: asked.append(1))
    options = {"parallel": True, "max_workers": 1}
    assert list(pmap(abs, [-1], **options)) == list(pmap(abs, [-1], **options)) == [1]
    assert asked == [1]


def test_less_counts_for_more_than_more_does(file: Path) -> None:
    """What else runs on a machine only ever adds to a measurement."""
    for _ in range(5):
        _machine.measured(boot=0.045)
    for _ in range(5):
        _machine.measured(boot=0.030)
    assert _machine.costs().boot < 0.032


@pytest.mark.parametrize(("item", "started"), [(5e-3, True), (5e-6, False)])
def test_a_fork_server_boots_from_the_first_long_item_on(item: float, started: bool) -> None:
    """In the first call of a process; one that is cheap loads nothing for it."""
    code = f"""if True:
        import sys, time
        from parmap import pmap
        def busy(_):
            end = time.perf_counter() + {item}
            while time.perf_counter() < end:
                pass
        next(pmap(busy, range(100)))
        print(getattr(sys.modules.get("parmap._processes"), "_server", None) is not None)
    """
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (told.stdout, told.stderr) == (f"{started}\n", "")


def test_a_boot_took_as_long_as_the_worker_says(file: Path) -> None:
    """Its caller may have been at a long item when it was up."""

    class Worker:
        board = (0, int(7.03e9))

    engine = LocalEngine.__new__(LocalEngine)
    engine._initializes, engine._booting, engine._began = False, True, 7.0
    engine._queues = {Worker(): deque()}  # type: ignore[dict-item]
    before = _machine.costs().boot
    assert not engine.booting
    share = _machine.LEARNING_MORE
    assert _machine.costs().boot == pytest.approx(before + share * (0.03 - before))


@pytest.mark.parametrize(
    "text",
    ["", "not numbers", "V 2 3", "V nan 1 1 1 1 1 1", "V -1 1 1 1 1 1 1", "V 1 1 1 1 1 1 1 1 1",
     "99 0.1 0.1 0.1 0.1 0.1 0.1 1", "V 1e9 1 1 1 1 1 1", "\0" * 100],
)  # fmt: skip
def test_a_broken_file_is_as_none(file: Path, text: str) -> None:
    written(file, text.replace("V", str(_machine._VERSION)))
    assert [*_machine.costs()] == [*_machine.Costs()]


def test_an_old_file_is_as_none(file: Path) -> None:
    written(file, f"{_machine._VERSION} 0.1 0.1 0.1 0.1 0.1 0.1 1")
    assert _machine.costs().boot == 0.1
    old = time.time() - _machine.FILE_SECONDS - 1
    os.utime(file, (old, old))
    forget()
    assert [*_machine.costs()] == [*_machine.Costs()]


def test_a_place_that_cannot_be_written_is_no_error(file: Path) -> None:
    """Not even root can make a directory below a file."""
    file.parent.parent.write_text("in the way")
    _machine.measured(boot=0.05)
    _machine.remember()
    assert not file.exists()


def test_processes_that_write_at_once_leave_one_whole_file(file: Path) -> None:
    code = """if True:
        from parmap import _machine
        for _ in range(200):
            _machine.measured(boot=0.05)
            _machine.remember()
    """
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    assert _machine._read_costs(str(file)) is not None
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_script_with_a_broken_cache_runs_and_says_nothing(file: Path) -> None:
    written(file, "rubbish")
    file.chmod(0o000)
    code = "from parmap import pmap; print(sum(pmap(abs, range(9), parallel=True)))"
    told = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert (told.stdout, told.stderr) == ("36\n", "")


# ------------------------------------------------------------------ functions of this process


def busy(loops: int) -> int:
    for _ in range(loops):
        pass
    return os.getpid()


def test_a_function_known_to_take_long_goes_to_workers_at_once(file: Path) -> None:
    """Its first item is not run here when workers are warm: the earlier call has told."""
    shutdown()
    list(pmap(abs, range(4), parallel=True, max_workers=2))
    assert eventually(lambda: _pool.warm_workers() == 2, LIMIT)
    nested = lambda loops: sum(range(loops)) and os.getpid()  # noqa: E731
    _known.imported(nested)
    _known.keep(nested, _known.Known(0.01, 1.0, 1e-6))
    results = pmap(nested, [100_000] * 40, max_workers=2)
    assert next(results) != os.getpid()
    assert results.report.mode == "parallel"


def test_an_initializer_has_run_wherever_items_run(file: Path) -> None:
    """Also where an earlier call has told that the function takes long, and the caller helps."""
    shutdown()
    ready: list[int] = []
    fn = lambda x: (len(ready), sum(range(20_000)))[0]  # noqa: E731
    _known.keep(fn, _known.Known(0.001, 1.0, 1e-6))
    results = pmap(fn, range(400), max_workers=2, initializer=ready.append, initargs=(1,))
    assert next(results) == 1


class Heavy:
    """A function that takes as long to load in a worker as a file is missing."""

    def __init__(self, gate: Path):
        self.gate = gate

    def __call__(self, x: int) -> int:
        sum(range(30_000))  # some 0.4 ms: enough of them are worth workers
        return os.getpid()

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__dict__.update(state)
        while not self.gate.exists():
            time.sleep(0.01)


@pytest.fixture
def heavy(file: Path, tmp_path: Path) -> Iterator[Heavy]:
    """One in a process without workers, which loads at the latest when the test is over."""
    shutdown()
    heavy = Heavy(tmp_path / "gate")
    yield heavy
    heavy.gate.touch()


def run_here(heavy: Heavy) -> Results[int]:
    """A call whose workers do not come to any item."""
    results = pmap(heavy, range(2000), max_workers=2)
    assert list(results) == [os.getpid()] * 2000
    return results


@pytest.mark.parametrize("warm", [True, False])
def test_workers_that_take_long_to_load_the_function_do_not_hold_up_the_call(
    heavy: Heavy, warm: bool
) -> None:
    """The caller takes back what they have not begun, and each item is run once."""
    if warm:
        list(pmap(abs, range(4), parallel=True, max_workers=2))
    _known.keep(heavy, _known.Known(0.001, 1.0, 1e-6))
    results = run_here(heavy)
    heavy.gate.touch()
    assert results.report.mode == "parallel"
    assert results.report.items_here == 2000
    again = set(pmap(heavy, range(50), parallel=True, max_workers=2))
    assert os.getpid() not in again  # the workers are there for the next call


def test_workers_that_still_import_for_an_earlier_call_are_not_joined_by_others(
    heavy: Heavy,
) -> None:
    """A program of many short calls would else begin two more in each of them."""
    first, second = run_here(heavy), run_here(heavy)
    assert (first.report.mode, second.report.mode) == ("parallel", "serial")
    assert second.report.reason == "workers that an earlier call began are not ready yet"
    assert _known.missed == 0.0  # they are paid for


def test_workers_that_an_ended_call_began_serve_the_next(heavy: Heavy) -> None:
    """They answer what it no longer wants, and somebody has to hear that."""
    run_here(heavy)
    assert _pool.warm_workers() == 0
    heavy.gate.touch()
    assert eventually(lambda: _pool.warm_workers() == len(workers()), LIMIT)


class HeavyForOthers(Heavy):
    """It takes the first worker that loads it no time."""

    def __setstate__(self, state: dict[str, Path]) -> None:
        try:
            state["gate"].with_name("first").mkdir()
            self.__dict__.update(state)
        except FileExistsError:
            super().__setstate__(state)


def workers() -> list[Worker]:
    return [worker for crew in _pool._all for worker in crew._workers]


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """And functions that workers have to import something for."""
    monkeypatch.setattr(_machine, "usable_cores", lambda: (2, "by this test"))
    monkeypatch.setattr(_known, "import_seconds", lambda fn, warm: 0.0 if warm else 0.01)


def test_while_a_worker_imports_the_caller_keeps_a_core(heavy: Heavy, two_cores: None) -> None:
    """So a start in vain costs little. The other one is hired by the next call."""
    run_here(heavy)
    assert len(workers()) == 1
    heavy.gate.touch()
    assert eventually(lambda: _pool.warm_workers() == 1, LIMIT)
    results = pmap(heavy, range(2000), max_workers=2)
    assert len(list(results)) == 2000
    assert results.report.workers == len(workers()) == 2


def test_a_worker_that_died_of_its_imports_is_not_expected_any_more(
    heavy: Heavy, two_cores: None
) -> None:
    """Its board says for ever that it is about to be ready."""
    run_here(heavy)
    assert _pool.coming_workers() == 1
    (worker,) = workers()
    assert worker.pid
    os.kill(worker.pid, signal.SIGKILL)
    assert eventually(lambda: _pool.coming_workers() == 0, LIMIT)
    heavy.gate.touch()
    assert os.getpid() not in set(pmap(heavy, range(9), parallel=True, max_workers=2))


def test_of_idle_workers_no_more_follow_than_were_asked_for(
    file: Path, two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutdown()
    list(pmap(abs, range(400), parallel=True, max_workers=4))
    assert eventually(lambda: _pool.warm_workers() == 4, LIMIT)
    monkeypatch.setattr(_known, "import_seconds", lambda fn, warm: 0.01)
    results = pmap(lambda x: sum(range(30_000)), range(2000), max_workers=2)
    assert len(list(results)) == 2000
    assert results.report.workers == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_has_nothing_to_import(
    file: Path, two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So all of them begin at once, with the caller's state of that moment."""
    monkeypatch.setattr(_known, "import_seconds", lambda fn, warm: 60.0)
    results = pmap(lambda x: sum(range(30_000)), range(2000), max_workers=2, mp_context="fork")
    assert len(list(results)) == 2000
    assert (results.report.mode, results.report.workers) == ("parallel", 2)


def test_the_caller_shares_the_work_while_a_worker_still_imports(
    file: Path, tmp_path: Path, two_cores: None
) -> None:
    """Where the first is there in time, the other one follows in the same call."""
    shutdown()
    heavy = HeavyForOthers(tmp_path / "gate")
    try:
        ran = list(pmap(heavy, range(2000), max_workers=2))
        (first,) = set(ran) - {os.getpid()}
        assert ran.count(os.getpid()) < 2000
        assert {worker.pid for worker in workers()} > {first}
    finally:
        heavy.gate.touch()


def test_a_dropped_call_waits_for_nobody_who_looks_for_workers(file: Path) -> None:
    """It may be dropped by the garbage collector, in the middle of that."""
    shutdown()
    assert sum(pmap(abs, range(4), parallel=True, max_workers=1)) == 6
    (crew,) = _pool._crews.values()
    told: list[int] = []
    asking = threading.Thread(target=lambda: told.append(crew.warm()), daemon=True)
    with crew._lock:
        asking.start()
        assert eventually(lambda: told, LIMIT)


def test_what_items_use_of_processors_is_told_from_call_to_call(file: Path) -> None:
    """No call may be long enough to tell by itself, and each would look at its items one by one."""
    fn = Heavy(Path())  # of which the type is known
    _known.keep(fn, _known.Known(1e-6, 0.5, 1.0, 1e-3))
    probe = Decision(Call(fn, map, inputs_of([[1]], False), DEFAULT), _report.Report())._probe
    assert (probe.busy, probe.looked, probe.weighed) == (0.5, 1e-3, False)


def test_cheap_items_are_shared_from_the_first_chunk_on(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may be ahead of the consumer is not all given to one worker while the other waits."""
    done: list[object] = []
    send, wait = LocalEngine.send, LocalEngine.wait

    def sent(engine: LocalEngine, chunk: Chunk, worker: Worker) -> None:
        done.append(worker)
        send(engine, chunk, worker)

    def waited(engine: LocalEngine, seconds: float | None) -> list[Event]:
        done.append("waited")
        return wait(engine, seconds)

    shutdown()
    list(pmap(abs, range(4), parallel=True, max_workers=2))
    assert eventually(lambda: _pool.warm_workers() == 2, LIMIT)
    _known.keep(abs, _known.Known(1e-6, 1.0, 0.0))
    monkeypatch.setattr(LocalEngine, "send", sent)
    monkeypatch.setattr(LocalEngine, "wait", waited)
    results = pmap(abs, range(1_000_000), max_workers=2)
    assert sum(results) == sum(range(1_000_000))
    assert results.report.items_here == 0
    first = done[: done.index("waited")]
    assert len(set(first)) == 2
    assert {first.count(worker) for worker in first} == {2}  # and each has one ahead


def test_items_that_are_dear_to_move_are_seen_here_first(file: Path) -> None:
    """What they took in workers may have been the moving."""
    list(pmap(abs, range(4), parallel=True, max_workers=2))
    _known.keep(abs, _known.Known(1.0, 1.0, 0.5))
    results = pmap(abs, [-1] * 100, max_workers=2)
    assert list(results) == [1] * 100
    assert results.report.mode == "serial"


def test_lambdas_of_one_line_are_one_function(file: Path) -> None:
    def made(n: int):  # type: ignore[no-untyped-def]
        return lambda x: x + n

    known = _known.Known(1.0, 1.0, 0.0)
    _known.keep(made(1), known)
    assert _known.known(made(2)) == known
    assert _known.known(abs) is None


def test_no_more_functions_are_remembered_than_fit(file: Path) -> None:
    for n in range(3 * _known.MOST_FUNCTIONS):
        _known.keep(eval(f"lambda: {n}"), _known.Known(1.0, 1.0, 0.0))
    assert len(_known._functions) <= _known.MOST_FUNCTIONS


def test_a_call_of_two_dear_items_counts_for_a_start(file: Path) -> None:
    """The first runs here and nothing is left to share; with workers there, it would have been."""
    shutdown()
    before = _known.missed
    assert len(list(pmap(lambda n: sum(range(n)), [1_000_000] * 2))) == 2
    assert _known.missed > before
    list(pmap(abs, range(4), parallel=True, max_workers=2))
    assert _known.missed == 0.0  # workers were started, so the next start is to be earned anew


@pytest.fixture
def booted(file: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a first call of this process has booted."""
    told: list[str] = []
    monkeypatch.setattr(_way, "_boot", lambda: told.append("server"))
    for room in ("parmap._pool", "parmap._decision"):  # as if nobody had needed it yet
        monkeypatch.setitem(sys.modules, room, None)
    monkeypatch.setattr(Probe, "before", 0.0)
    return told


def after(seconds: float) -> Probe:
    """One item that took so long."""
    probe = Probe()
    probe.add(1, seconds)
    return probe


def test_a_first_call_whose_plan_says_parallel_has_the_server_boot(booted: list[str]) -> None:
    """What that took counts as paid when the call plans again."""
    probe = after(0.5)
    assert not _way._foresee(abs, probe, 100)
    assert booted == ["server"]
    report = _report.Report()
    report.probe = probe
    call = Call(abs, map, inputs_of(([1, 2, 3],), False), DEFAULT)
    assert Decision(call, report)._gather(probe).missed == probe.spent > 0.0


def test_a_first_call_whose_plan_says_serial_goes_on_here(booted: list[str]) -> None:
    """Without the rooms of a decision, until items cost more."""
    _machine._costs = _machine.Costs(boot=60.0)
    probe = after(0.01)
    assert _way._foresee(abs, probe, 50)
    call = Call(abs, map, inputs_of(([0] * 50,), False), DEFAULT)
    assert probe.brief(call)
    probe.add(1, 0.015)
    assert not probe.brief(call)
    assert _way._foresee(abs, probe, 50)
    assert booted == []


@pytest.mark.parametrize(("left", "before"), [(200, 0.0), (50, 0.5)])
def test_a_first_plan_that_says_serial_is_not_the_last_word(
    booted: list[str], monkeypatch: pytest.MonkeyPatch, left: int, before: float
) -> None:
    """Of a long call, which may want a bar; of one of many, which may gain together."""
    _machine._costs = _machine.Costs(boot=60.0)
    monkeypatch.setattr(Probe, "before", before)
    assert not _way._foresee(abs, after(0.01), left)


def test_many_short_calls_get_workers_as_one_long_one_does(file: Path) -> None:
    """Each alone would not pay for a start; what they missed adds up, and then it is paid."""
    facts = _plan.Facts(
        done=1, left=1000, seconds_per_item=20e-6, busy=1.0, transfer_per_item=0.0,
        costs=_machine.Costs(), warm=0, cores=2,
    )  # fmt: skip
    assert not _plan.make_plan(facts).parallel
    assert _plan.make_plan(facts._replace(missed=1.0)).parallel


# ------------------------------------------------------------------ what is told


def test_the_logger_gets_one_line_a_call(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="parmap"):
        list(pmap(abs, range(5000)))
        list(pmap(abs, range(50), parallel=True, max_workers=2))
    lines = [record.getMessage() for record in caplog.records if record.name == "parmap"]
    assert len(lines) == 2
    assert "serial" in lines[0]
    assert "parallel=True" in lines[1]
    assert all("\n" not in line for line in lines)


def test_the_command_tells_thresholds_and_remembers_what_it_measured(file: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "parmap"], check=True, capture_output=True, text=True, timeout=60
    )
    assert told.stderr == ""
    for word in ("workers:", "start method:", "each chunk", "later calls", "items"):
        assert word in told.stdout
    found = _machine._read_costs(str(file))
    assert found is not None
    assert found.call != _machine.Costs().call
    assert found.boot != _machine.Costs().boot


def test_a_crossover_is_a_table_with_the_crossing_marked() -> None:
    rows = [(1, 1.0, 3.0), (2, 2.0, 3.5), (4, 4.0, 3.9), (8, 8.0, 4.5)]
    found = Crossover("f", tuple(_row(*row) for row in rows), 1.0, 2)
    assert (found.crossing, found.first_crossing) == (4, 8)
    marked = [line.split()[0] for line in str(found).splitlines() if "<-" in line]
    assert marked == ["4", "8"]


def _row(items: int, serial: float, parallel: float):  # type: ignore[no-untyped-def]
    from parmap._crossover import Row

    return Row(items, serial, parallel)


def test_what_never_crosses_says_so() -> None:
    found = Crossover("f", (_row(1, 1.0, 3.0), _row(2, 2.0, 2.5)), 1.0, 2)
    assert found.crossing is None
    assert "never ahead" in str(found)


def test_crossover_measures_growing_counts() -> None:
    found = crossover(busy, 20_000)
    counts = [row.items for row in found.rows]
    assert counts == [2**n for n in range(len(counts))]
    assert all(row.serial > 0 and row.parallel > 0 for row in found.rows)
    assert found.rows[-1].serial > found.rows[0].serial


# ------------------------------------------------------------------ what the machine allows


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_limits_the_workers() -> None:
    """As `taskset` sets it, which is the same system call."""
    code = """if True:
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        from parmap import _machine, pmap
        results = pmap(lambda n: sum(range(n)), [200_000] * 200)
        list(results)
        print(*_machine.usable_cores(), results.report.mode)
    """
    told = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    if os.cpu_count() == 1:
        pytest.skip("one core has no affinity to set")
    assert told.stdout == "1 affinity of this process serial\n"


def test_a_quota_of_a_real_cgroup_limits_the_workers(tmp_path: Path) -> None:
    """A group of this test's own below the one it runs in; half a core is one worker."""
    group = _own_group()
    if group is None:
        pytest.skip("no cgroup can be made here")
    code = f"""if True:
        import os
        open({str(group / "cgroup.procs")!r}, "w").write(str(os.getpid()))
        from parmap import _machine
        print(*_machine.usable_cores())
    """
    try:
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (told.stdout, told.stderr) == ("1 CPU quota of its cgroup\n", "")
    finally:
        group.rmdir()


def _own_group() -> Path | None:
    """A new cgroup with half a core, of version 1 or 2, or None."""
    for root, limits in (
        ("/sys/fs/cgroup/cpu", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}),
        ("/sys/fs/cgroup", {"cpu.max": "50000 100000"}),
    ):
        group = Path(root) / f"parmap-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / "cgroup.procs").exists():  # else this is a folder like any other
                for name, value in limits.items():
                    (group / name).write_text(value)
                return group
        except OSError:
            pass  # this controller is not to be had here
        group.rmdir()
    return None


def test_an_environment_variable_limits_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARMAP_MAX_WORKERS", "1")
    results = pmap(busy, [100] * 4, parallel=True)
    assert len(set(results)) == 1
    assert results.report.workers == 1


def test_the_machine_is_asked_anew() -> None:
    """A quota may change while a program runs."""
    assert _machine.usable_cores()[0] >= 1
