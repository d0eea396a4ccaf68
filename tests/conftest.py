"""What every test shares: the ways a call can be made, and the check that nothing is left over.

A contract test takes `pmap` or `pstarmap` and is run once for each `Engine`. Workers stay warm from
one test to the next, as they do for a user; those of "fork" belong to one call and are made anew.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import executors
import pytest

import parmap

# Two workers, whatever the machine has: the suite then costs and does the same everywhere.
WORKERS = 2


@dataclass(frozen=True)
class Engine:
    """One way to make a call: its name in a test's id, and the options that pin it.

    Attributes:
        executor: which of `executors` it runs on, if not on parmap's own workers.
        remote: whether items certainly run in another process.
    """

    name: str
    parallel: bool | None
    mp_context: str | None = None
    executor: str | None = None

    @property
    def remote(self) -> bool:
        return self.parallel is True and self.executor not in ("threads", "thread_pool")

    @property
    def options(self) -> dict[str, Any]:
        chosen: dict[str, Any] = {"parallel": self.parallel, "max_workers": WORKERS}
        if self.executor is not None:
            chosen["executor"] = started_executor(self.executor)
        return chosen if self.mp_context is None else {**chosen, "mp_context": self.mp_context}


ENGINES = (
    Engine("serial", parallel=False),
    Engine("decide", parallel=None),
    Engine("default", parallel=True),
    Engine("fork", parallel=True, mp_context="fork"),
    Engine("forkserver", parallel=True, mp_context="forkserver"),
    Engine("spawn", parallel=True, mp_context="spawn"),
    Engine("threads", parallel=True, executor="threads"),
    Engine("processes", parallel=True, executor="processes"),
    Engine("dask", parallel=True, executor="dask"),
    Engine("ray", parallel=True, executor="ray"),
)

# Engines whose start costs seconds: `pytest -m cluster` runs the contract on them.
CLUSTERS = ("dask", "ray")

_executors = contextlib.ExitStack()


@functools.cache
def started_executor(name: str) -> Any:
    """One of `executors`, started for the first test that wants it."""
    return _executors.enter_context(getattr(executors, name)())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses an engine for all of them, or for those its `engines` mark names."""
    if "engine" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("engines")
    chosen = [
        pytest.param(e, id=e.name, marks=[pytest.mark.cluster] * (e.name in CLUSTERS))
        for e in ENGINES
        if mark is None or e.name in mark.args
    ]
    metafunc.parametrize("engine", chosen, indirect=True)


# Marks of tests that have a command of their own, and are left out where no `-m` asks for any.
OWN_COMMAND = {
    "site": "programs on the pages of docs/, and the examples; needs the dependency group examples",
    "large": "takes gigabytes of memory",
    "soak": "takes a minute in all; what only shows over a long time",
    "cluster": "needs a real Dask or Ray, which take seconds, and the dependency group engines",
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "engines(*names): the engines that a contract test is for")
    for mark, meaning in OWN_COMMAND.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without `-m`, leave out the tests that have a command of their own."""
    if config.option.markexpr:
        return
    left_out = [
        item for item in items if OWN_COMMAND.keys() & {m.name for m in item.iter_markers()}
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Engine:
    """The engine of this run of the test."""
    chosen: Engine = request.param
    return chosen


@pytest.fixture
def pmap(engine: Engine) -> Callable[..., Any]:
    """`parmap.pmap`, pinned to this run's engine."""
    return partial(parmap.pmap, **engine.options)


@pytest.fixture
def pstarmap(engine: Engine) -> Callable[..., Any]:
    """`parmap.pstarmap`, pinned to this run's engine."""
    return partial(parmap.pstarmap, **engine.options)


# ------------------------------------------------------------------ what surrounds every test


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No PARMAP_ variable of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("PARMAP_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """After each test, this process has one directory for its files and no other."""
    yield
    names = {path.name for path in _files() if _owner(path) == os.getpid()}
    assert len(names) <= 1, f"directories of calls that are over: {sorted(names)}"


@pytest.fixture(autouse=True, scope="session")
def own_cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests make this machine seem to cost is not remembered in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def nothing_left_at_the_end() -> Iterator[None]:
    """After the last test, no worker and no file is left: neither ours after `shutdown`, nor of
    any process that the tests started. Other programs may be using parmap at the same time."""
    started = {os.getpid()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", _recording(started))
        yield
    _executors.close()
    gc.collect()  # iterators that a failed test's traceback kept
    parmap.shutdown()
    workers = _descendants()
    assert not workers, f"still alive after shutdown(): {workers}"
    files = [path for path in _files() if _owner(path) in started]
    assert not files, f"left behind, by process {os.getpid()} or one it started: {files}"


def _recording(started: set[int]) -> Callable[..., None]:
    original = subprocess.Popen.__init__

    def init(self: subprocess.Popen[Any], *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        started.add(self.pid)

    return init


def _places() -> list[Path]:
    return [p for p in {Path("/dev/shm"), Path(tempfile.gettempdir())} if p.is_dir()]


def _files() -> list[Path]:
    return [path for place in _places() for path in place.glob("parmap-*")]


def _owner(path: Path) -> int | None:
    """The process a directory belongs to, by its name: parmap-<user>-<process>-<random>."""
    parts = path.name.split("-")
    return int(parts[2]) if len(parts) == 4 and parts[2].isdigit() else None


# Processes that multiprocessing keeps until the interpreter ends. Workers that a fork server forked
# show its command line too, but they are its children, not ours.
_HELPERS = ("resource_tracker import main", "multiprocessing.forkserver")


def _descendants() -> dict[int, str]:
    """Living processes below this one, with their command lines, without the helpers."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended while we looked
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found: dict[int, str] = {}
    todo = [(pid, True) for pid in children.get(os.getpid(), [])]
    while todo:
        pid, direct = todo.pop()
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if not (direct and any(helper in command for helper in _HELPERS)):
            found[pid] = command
        todo.extend((child, False) for child in children.get(pid, []))
    return found
