"""A user's program, without a `__main__` guard, in a process of its own.

Each program carries a mark in its environment that all its descendants inherit, whoever their
parent comes to be, so that a test can say that none of them is left.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import LIMIT, eventually, short_temp

METHODS = ["forkserver", "spawn", "fork"]

# Every block ends in an empty line and every statement prints or returns nothing, so that the same
# text is a script, a module, a REPL session and a notebook cell.
PROGRAM = """\
import os
from dataclasses import dataclass
from enum import Enum
from functools import partial
from parmap import pmap, pstarmap, shutdown

class Colour(Enum):
    RED = 1
    BLUE = 2

@dataclass
class Point:
    x: int
    def shifted(self, by):
        return Point(self.x + by)

def closing_over(table):
    return lambda n: table[n]

def moved(point):
    return Point(point.x + 1) if isinstance(point, Point) else "another class"

def is_red(colour):
    return colour is Colour.RED

def add(a, b):
    return a + b

def where(_):
    return os.getpid()

two = dict(parallel=True, max_workers=2)
print(list(pmap(closing_over({n: n * n for n in range(9)}), range(4), **two)))
points = list(pmap(moved, [Point(1), Point(2)], **two))
print(points, [isinstance(point, Point) for point in points])
colours = list(pmap(lambda colour: colour, list(Colour), **two))
print([a is b for a, b in zip(colours, Colour)], list(pmap(is_red, list(Colour), **two)))
print(list(pmap(partial(add, 10), range(3), **two)))
print(list(pmap(Point(5).shifted, range(3), **two)))
print(list(pstarmap(add, [(1, 2), (3, 4)], **two)))
print(os.getpid() in list(pmap(where, range(4), **two)))
results = pmap(str, range(3), **two)
print(list(results), results.report.mode, results.report.start_method)
"""

EXPECTED = """\
[0, 1, 4, 9]
[Point(x=2), Point(x=3)] [True, True]
[True, True] [True, False]
[10, 11, 12]
[Point(x=5), Point(x=6), Point(x=7)]
[3, 7]
False
['0', '1', '2'] parallel {method}
"""


class Place:
    """Where a program runs: a folder, a temp directory of its own, and the mark."""

    def __init__(self, folder: Path, temp: str):
        self.folder = folder
        self.temp = temp
        self.mark = uuid.uuid4().hex
        self._started: list[int] = []

    def environment(self, method: str = "") -> dict[str, str]:
        """The environment of a program: nothing of parmap's set but the start method."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PARMAP_")}
        if method:
            kept["PARMAP_START_METHOD"] = method
        # What this machine seems to cost under a test run is not to decide the next program's plan.
        caches = {"XDG_CACHE_HOME": str(self.folder / "cache")}
        return {**kept, **caches, "PARMAP_TEST_MARK": self.mark, "TMPDIR": self.temp}

    def file(self, text: str, name: str = "script.py") -> str:
        """Write a program; the name of its file."""
        (self.folder / name).write_text(textwrap.dedent(text))
        return name

    def start(self, *arguments: str, method: str = "", group: bool = False) -> subprocess.Popen:
        """Start `python <arguments>` with pipes for all it reads and writes."""
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment(method),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=group,
            # A shell starts what it runs in the background deaf to Ctrl-C, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._started.append(process.pid)
        return process

    def run(self, *arguments: str, stdin: str = "", method: str = "") -> tuple[int, str, str]:
        """Run `python <arguments>` to its end: exit code, output, what it wrote to stderr."""
        with self.start(*arguments, method=method) as process:
            out, err = process.communicate(stdin, timeout=LIMIT)
        return process.returncode, out, err

    def processes(self) -> list[int]:
        """Processes that carry the mark: the program, and everything it came to start."""
        found = []
        for path in glob.glob("/proc/[0-9]*/environ"):
            try:
                text = Path(path).read_bytes()
            except OSError:
                continue  # gone meanwhile, or another user's
            if self.mark.encode() in text:
                found.append(int(path.split("/")[2]))
        return found

    def files(self, pid: int) -> list[str]:
        """What the process `pid` left in /dev/shm and in its temp directory."""
        return [
            *glob.glob(f"/dev/shm/*-{pid}-*"),
            *glob.glob(f"{self.temp}/**", recursive=True)[1:],
        ]

    def kill_without_a_trace(self, process: subprocess.Popen) -> None:
        """Kill a program; no process and no file of it may be left."""
        process.kill()
        process.wait(LIMIT)
        assert eventually(lambda: not self.processes())
        assert eventually(lambda: not self.files(process.pid)), self.files(process.pid)

    def clear(self) -> None:
        """End what is left, so that a test that failed does not disturb the next."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended by itself
        for pid in self._started:
            for path in glob.glob(f"/dev/shm/*-{pid}-*"):
                shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A folder for a program; whatever it started is ended after the test."""
    with short_temp() as temp:
        found = Place(tmp_path, temp)
        yield found
        found.clear()


def read_until(process: subprocess.Popen, word: str) -> None:
    """Read lines of a program's output up to the one that says `word`."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == word:
            return
    raise AssertionError(f"{word!r} never came; stderr: {process.stderr and process.stderr.read()}")


# ------------------------------------------------------------------ the same from everywhere


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["file", "stdin", "-c", "-m"])
def test_an_unguarded_program_prints_what_it_should_and_nothing_else(
    place: Place, way: str, method: str
) -> None:
    """Lambda, dataclass, enum, partial, bound method: the same lines from wherever it is run."""
    place.file(PROGRAM, "program.py")
    arguments = {
        "file": ["program.py"],
        "stdin": ["-"],
        "-c": ["-c", PROGRAM],
        "-m": ["-m", "program"],
    }
    stdin = PROGRAM if way == "stdin" else ""
    code, out, err = place.run(*arguments[way], stdin=stdin, method=method)
    assert (code, out, err) == (0, EXPECTED.format(method=method), "")
    assert eventually(lambda: not place.processes())


@pytest.mark.parametrize("method", METHODS)
def test_the_same_program_typed_into_the_interpreter_prints_the_same(
    place: Place, method: str
) -> None:
    """A REPL, which has no file for `__main__` at all; on stderr there are its prompts and no more."""
    code, out, err = place.run("-i", "-q", stdin=PROGRAM, method=method)
    assert (code, out) == (0, EXPECTED.format(method=method))
    assert err.replace(">>> ", "").replace("... ", "").strip() == ""


# Executes the notebook whose cells it is given, in a process of its own: neither its event loop nor
# its warnings are a matter of the tests.
NOTEBOOK = """\
import json, sys
import nbformat
from nbclient import NotebookClient
cells = [nbformat.v4.new_code_cell(text) for text in json.loads(sys.stdin.read())]
notebook = nbformat.v4.new_notebook(cells=cells)
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
print(json.dumps([[dict(output) for output in cell.outputs] for cell in notebook.cells]))
"""


@pytest.mark.parametrize("method", METHODS)
def test_the_same_program_in_a_notebook_prints_the_same(place: Place, method: str) -> None:
    """Definitions in one cell, calls in the next, all in a kernel; no bar for work this short."""
    pytest.importorskip("ipykernel")
    pytest.importorskip("nbclient")
    definitions, calls = PROGRAM.split("two = ")
    cells = json.dumps([definitions, "two = " + calls])
    code, out, err = place.run("-W", "ignore", "-c", NOTEBOOK, stdin=cells, method=method)
    assert code == 0, err
    first, second = json.loads(out.splitlines()[-1])
    assert first == []
    assert {output.get("name") for output in second} == {"stdout"}
    assert "".join(output["text"] for output in second) == EXPECTED.format(method=method)
    assert eventually(lambda: not place.processes())


CACHES = """\
from functools import cache, lru_cache
from parmap import pmap

@cache
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

class Table:
    @lru_cache(maxsize=2)
    def doubled(self, n):
        return 2 * n

two = dict(parallel=True, max_workers=2)
print(list(pmap(fib, [10, 20, 30], **two)))
print(list(pmap(lambda n: fib(n) + 1, [10, 20], **two)))
print(list(pmap(Table().doubled, [1, 2], **two)))
print(list(pmap(lambda n: fib.cache_parameters()["maxsize"], [1], **two)))
"""


@pytest.mark.parametrize("method", METHODS)
def test_functions_with_a_cache_cross_from_a_script(place: Place, method: str) -> None:
    """pickle knows them by their name in `__main__`, which no worker has."""
    code, out, err = place.run(place.file(CACHES), method=method)
    assert (code, err) == (0, "")
    assert out == "[55, 6765, 832040]\n[56, 6766]\n[2, 4]\n[None]\n"


INITIALIZED = """\
import sqlite3
from parmap import pmap

connection = None
calls = 0

def connect(name):
    global connection, calls
    connection = sqlite3.connect(name)
    calls += 1

def squared(n):
    return connection.execute("select ? * ?", (n, n)).fetchone()[0], calls

connect(":memory:")
results = pmap(squared, range(3), parallel=True, initializer=connect, initargs=(":memory:",))
print([square for square, _ in results], results.report.mode)
try:
    list(pmap(squared, range(3), parallel=True))
except TypeError as error:
    print("sqlite3.Connection" in str(error))
"""


def test_what_an_initializer_makes_in_each_process_need_not_pickle(place: Place) -> None:
    """It was made here too, for the items that run here, and stands among the function's globals.
    Without the initializer it could not be made there, and that is still an error."""
    code, out, err = place.run(place.file(INITIALIZED))
    assert (code, err) == (0, "")
    assert out == "[0, 1, 4] parallel\nTrue\n"


# ------------------------------------------------------------------ the end of a program


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param("next(pmap(f, count(), **two))", id="dropped half-used"),
        pytest.param("it = pmap(f, count(), **two)\nnext(it)", id="half-used in a global"),
        pytest.param("it = pmap(f, [0, 60, 60, 60], **two)\nnext(it)", id="while items run"),
        pytest.param(
            "it = pmap(f, count(), **two)\nnext(it)\ncycle = [it]; cycle.append(cycle); del it",
            id="in a cycle",
        ),
        pytest.param(
            "it = pmap(f, count(), **two)\nnext(it)\nkeep = iter(lambda: next(it), None)",
            id="held by an iterator",
        ),
        pytest.param("it = pmap(f, count(), **two)\nnext(it)\nsys.exit(0)", id="sys.exit"),
    ],
)
def test_a_program_ends_whatever_it_leaves_half_used(place: Place, body: str, method: str) -> None:
    """Exit neither hangs nor complains, and no worker outlives it."""
    if method == "spawn" and "60" not in body:
        pytest.skip("the start method makes no difference to it: two are enough")
    head = """\
        import sys, time
        from itertools import count
        from parmap import pmap
        two = dict(parallel=True, max_workers=2)
        f = lambda x: time.sleep(x if x == 60 else 0)
        """
    script = place.file(
        textwrap.dedent(head) + body + "\nprint('end')\n" * ("sys.exit" not in body)
    )
    code, out, err = place.run(script, method=method)
    assert (code, out, err) == (0, "" if "sys.exit" in body else "end\n", "")
    assert eventually(lambda: not place.processes())


@pytest.mark.parametrize("method", METHODS)
def test_a_program_that_leaves_a_call_in_the_middle_leaves_no_file(
    place: Place, method: str
) -> None:
    """Of large results that are on their way."""
    script = place.file(
        """\
        import os
        from itertools import count
        from parmap import pmap
        it = pmap(lambda x: bytes(200_000), count(), parallel=True, max_workers=2)
        next(it)
        print(os.getpid())
        """
    )
    code, out, err = place.run(script, method=method)
    assert (code, err) == (0, "")
    folders = (f"/dev/shm/parmap-*-{int(out)}-*", f"{tempfile.gettempdir()}/parmap-*-{int(out)}-*")
    assert not [path for each in folders for path in glob.glob(each)]


@pytest.mark.parametrize("kept", ["", "it = "])
def test_a_program_ends_with_an_iterator_that_was_never_asked(place: Place, kept: str) -> None:
    """An unconsumed pmap starts nothing and hangs nothing; the only word is its RuntimeWarning."""
    script = place.file(
        f"from parmap import pmap\n{kept}pmap(print, [1], parallel=True)\nprint('end')\n"
    )
    code, out, err = place.run(script)
    assert (code, out) == (0, "end\n")
    assert err.count("RuntimeWarning: pmap was never consumed") == 1
    assert "Traceback" not in err
    assert "Exception ignored" not in err


def test_a_program_that_raises_shows_one_traceback_and_ends(place: Place) -> None:
    """An exception of an item ends an unguarded script as it does under map: once."""
    script = place.file(
        """\
        from parmap import pmap
        for y in pmap(lambda x: [][x] if x else 1, [0, 1, 0], parallel=True, max_workers=2):
            print(y)
        """
    )
    code, out, err = place.run(script)
    assert (code, out) == (1, "1\n")
    assert err.splitlines()[-2:] == [
        "IndexError: list index out of range",
        "parmap: raised by item 1: 1",
    ]
    assert eventually(lambda: not place.processes())


@pytest.mark.parametrize("method", METHODS)
def test_a_forked_copy_of_the_program_calls_pmap_itself(place: Place, method: str) -> None:
    """The copy has workers of its own and leaves the original's alone, also when it just ends."""
    script = place.file(
        """\
        import os
        from parmap import pmap
        two = dict(parallel=True, max_workers=2)
        print(list(pmap(lambda x: x + 1, range(3), **two)), flush=True)
        half = pmap(lambda x: x, range(10_000), **two)
        next(half)
        child = os.fork()
        if not child:
            print(list(pmap(lambda x: x + 10, range(3), **two)), flush=True)
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(list(half)[-1])
        print(list(pmap(lambda x: x + 2, range(3), **two)))
        """
    )
    code, out, err = place.run("-W", "ignore::DeprecationWarning", script, method=method)
    assert (code, err) == (0, "")
    assert out.splitlines() == ["[1, 2, 3]", "[10, 11, 12]", "7", "9999", "[2, 3, 4]"]
    assert eventually(lambda: not place.processes())


# ------------------------------------------------------------------ Ctrl-C


# Item 0 is done at once; the others say that they run, and would for an hour.
SLOW = """\
import os, time
from parmap import pmap, shutdown
two = dict(parallel=True, max_workers=2)

def slow(x):
    if x:
        os.write(1, b"running\\n")
        time.sleep(3600)
    return bytearray(100_000)

"""


def interrupt(process: subprocess.Popen, whole_group: bool) -> None:
    """SIGINT to the process alone, as from a supervisor, or to its group, as from a terminal."""
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("whole_group", [False, True], ids=["alone", "group"])
@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_ends_a_waiting_program_with_one_traceback(
    place: Place, method: str, whole_group: bool
) -> None:
    """The caller's own KeyboardInterrupt is all there is to see, and no process is left."""
    script = place.file(SLOW + "list(pmap(slow, range(8), **two))\n")
    with place.start(script, method=method, group=True) as process:
        read_until(process, "running")
        interrupt(process, whole_group)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == -signal.SIGINT
    assert err.count("Traceback") == 1
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert eventually(lambda: not place.processes())
    assert place.files(process.pid) == []


@pytest.mark.parametrize("whole_group", [False, True], ids=["alone", "group"])
@pytest.mark.parametrize("method", METHODS)
def test_after_ctrl_c_in_the_interpreter_the_next_call_works(
    place: Place, method: str, whole_group: bool
) -> None:
    """One traceback, then the prompt; nothing of the interrupted call runs on behind it."""
    with place.start("-i", "-q", method=method, group=True) as process:
        assert process.stdin is not None
        process.stdin.write(SLOW + "list(pmap(slow, range(8), **two))\n")
        process.stdin.flush()
        read_until(process, "running")
        interrupt(process, whole_group)
        process.stdin.write("print(list(pmap(lambda x: x + 1, range(4), **two)))\n")
        out, err = process.communicate(timeout=LIMIT)
    # Since 3.14 an interpreter that is fed by a pipe remembers at its end that it was interrupted.
    assert process.returncode in (0, -signal.SIGINT)
    assert err.count("Traceback") == 1
    assert [line for line in out.splitlines() if line != "running"] == ["[1, 2, 3, 4]"]
    assert eventually(lambda: not place.processes())


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_while_workers_start_prints_one_traceback(place: Place, method: str) -> None:
    """Workers that boot while the group is interrupted have nothing to say about it."""
    body = """\
    def pause(x):
        time.sleep(3600)

    print("starting", flush=True)
    list(pmap(pause, range(8), parallel=True, max_workers=4))
    """
    script = place.file(SLOW + textwrap.dedent(body))
    with place.start(script, method=method, group=True) as process:
        read_until(process, "starting")
        # The caller, and one that boots.
        assert eventually(lambda: len(place.processes()) >= 2)
        interrupt(process, whole_group=True)
        _, err = process.communicate(timeout=LIMIT)
    assert err.count("Traceback") == 1
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert eventually(lambda: not place.processes())


@pytest.mark.parametrize("what", ["_pool.Crew.lose", "_window.Window.discard"])
@pytest.mark.parametrize("method", METHODS)
def test_a_second_ctrl_c_while_a_call_is_closed_changes_nothing(
    place: Place, method: str, what: str
) -> None:
    """It comes while workers are being ended: they are ended all the same, with one traceback."""
    body = f"""\
    import signal
    from parmap import _pool, _window

    before = {what}
    def interrupted(*args, **options):
        signal.raise_signal(signal.SIGINT)
        return before(*args, **options)

    {what} = interrupted
    list(pmap(slow, range(8), **two))
    """
    script = place.file(SLOW + textwrap.dedent(body))
    with place.start(script, method=method, group=True) as process:
        read_until(process, "running")
        interrupt(process, whole_group=True)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == -signal.SIGINT
    assert err.count("Traceback") == 1
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert eventually(lambda: not place.processes())
    assert place.files(process.pid) == []


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_twice_while_workers_begin_is_one_traceback(place: Place, method: str) -> None:
    """Once between two of them, and once while the first is ended again."""
    script = place.file(
        """\
        import signal
        from parmap import _briefing, _pool, pmap

        class Worker(_pool.Worker):
            def __init__(self, *args):
                super().__init__(*args)
                signal.raise_signal(signal.SIGINT)

        end = _briefing.Briefing.end
        def interrupted(self):
            signal.raise_signal(signal.SIGINT)
            end(self)

        _pool.Worker, _briefing.Briefing.end = Worker, interrupted
        list(pmap(abs, range(8), parallel=True, max_workers=2))
        """
    )
    code, out, err = place.run(script, method=method)
    assert (code, out) == (-signal.SIGINT, "")
    assert err.count("Traceback") == 1
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert eventually(lambda: not place.processes())


# ------------------------------------------------------------------ a caller that is killed


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_program_leaves_no_worker_and_no_file(place: Place, method: str) -> None:
    """SIGKILL in the middle of a call: workers end in the middle of an item, files are removed."""
    script = place.file(SLOW + "list(pmap(slow, range(8), buffersize=4, chunksize=1, **two))\n")
    with place.start(script, method=method) as process:
        read_until(process, "running")
        place.kill_without_a_trace(process)
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize("method", METHODS)
def test_workers_that_still_boot_when_their_caller_is_killed_end_too(
    place: Place, method: str
) -> None:
    """The first item kills the caller, while the other workers may not even watch it yet."""
    body = """\
    def last_words(x):
        os.kill(caller, 9)
        time.sleep(3600)

    caller = os.getpid()
    list(pmap(last_words, range(8), parallel=True, max_workers=4))
    """
    script = place.file(SLOW + textwrap.dedent(body))
    with place.start(script, method=method) as process:
        assert process.wait(LIMIT) == -signal.SIGKILL
        assert eventually(lambda: not place.processes())
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize("method", METHODS)
def test_a_program_killed_with_results_on_their_way_leaves_no_file(
    place: Place, method: str
) -> None:
    """Large results that nobody took lie in files; they go with the caller, however it ends."""
    body = """\
    results = pmap(lambda x: bytearray(200_000), range(1000), chunksize=1, buffersize=50, **two)
    next(results)
    os.write(1, b"half\\n")
    time.sleep(3600)
    """
    script = place.file(SLOW + textwrap.dedent(body))
    with place.start(script, method=method) as process:
        read_until(process, "half")
        assert eventually(lambda: glob.glob(f"/dev/shm/*-{process.pid}-*/*"))
        place.kill_without_a_trace(process)
        assert process.stderr is not None
        assert process.stderr.read() == ""


STUCK = {
    "computing in C": "sum(range(10**12))",
    "deaf to all signals": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); time.sleep(3600)",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
    "without a descriptor": "os.closerange(3, 10_000); time.sleep(3600)",
}


# The start method decides who ends a worker, and not what that is at: each varies alone.
@pytest.mark.parametrize(
    ("how", "method"),
    [
        *((how, "forkserver") for how in STUCK),
        *(("computing in C", method) for method in ("spawn", "fork")),
        *(("without a descriptor", method) for method in ("spawn", "fork")),
    ],
)
def test_workers_end_with_a_killed_program_whatever_they_are_at(
    place: Place, how: str, method: str
) -> None:
    """The kernel ends them, or the fork server: no bytecode of theirs needs to run. Their files go all
    the same."""
    body = f"""\
    import signal
    def stuck(x):
        if x:
            os.write(1, b"stuck\\n")
            {STUCK[how]}
        return bytes(200_000)

    results = pmap(stuck, range(8), chunksize=1, **two)
    next(results)
    next(results)
    """
    script = place.file(SLOW + textwrap.dedent(body))
    with place.start(script, method=method) as process:
        read_until(process, "stuck")
        place.kill_without_a_trace(process)


@pytest.mark.parametrize("method", METHODS)
def test_workers_end_with_a_killed_program_that_left_a_copy_of_itself(
    place: Place, method: str
) -> None:
    """A fork of the caller lives on and holds none of what keeps workers alive."""
    body = """\
    def where(x):
        with open("workers", "a") as file:
            print(os.getpid(), file=file)
        return bytes(200_000) if not x else time.sleep(3600)

    results = pmap(where, range(8), chunksize=1, **two)
    next(results)
    if not os.fork():
        print("copied", flush=True)
        time.sleep(3600)
    next(results)
    """
    script = place.file(SLOW + textwrap.dedent(body))
    arguments = ("-W", "ignore::DeprecationWarning", script)
    with place.start(*arguments, method=method) as process:
        read_until(process, "copied")
        process.kill()
        process.wait(LIMIT)
        workers = {int(line) for line in (place.folder / "workers").read_text().split()}
        assert eventually(lambda: not workers & set(place.processes()))
        assert eventually(lambda: not glob.glob(f"/dev/shm/*-{process.pid}-*"))
        assert place.processes()  # the copy
        place.clear()


@pytest.mark.parametrize("method", METHODS)
def test_a_forked_copy_that_just_ends_leaves_the_call_alone(place: Place, method: str) -> None:
    """It may exit with the iterator half-used, and is told so if it goes on with it."""
    script = place.file(
        """\
        import os, sys, time
        from parmap import pmap
        half = pmap(lambda x: time.sleep(0.005) or bytes(50_000), range(100), chunksize=5, parallel=True, max_workers=2)
        next(half)
        child = os.fork()
        if not child:
            try:
                list(half)
            except RuntimeError as error:
                print(error, flush=True)
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(len(list(half)))
        """
    )
    code, out, err = place.run("-W", "ignore::DeprecationWarning", script, method=method)
    assert (code, err) == (0, "")
    told = "this pmap belongs to the process that this one was forked from"
    assert out.splitlines() == [told, "7", "99"]
    assert eventually(lambda: not place.processes())


@pytest.mark.parametrize(
    ("parallel", "method"), [(None, "forkserver"), *((True, method) for method in METHODS)]
)
def test_the_first_calls_of_a_program_may_be_made_by_eight_threads(
    place: Place, method: str, parallel: bool | None
) -> None:
    """Rooms that are imported when first needed may be half imported by another thread."""
    script = place.file(
        f"""\
        import threading, time
        from parmap import pmap
        found = []
        def call(number):
            fn = lambda x: time.sleep(0.002) or x + number
            found.append((number, list(pmap(fn, range(60), parallel={parallel}, max_workers=2))))
        threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(sorted(found) == [(n, [x + n for x in range(60)]) for n in range(8)])
        """
    )
    arguments = ("-W", "ignore::DeprecationWarning", script)
    assert place.run(*arguments, method=method) == (0, "True\n", "")
    assert eventually(lambda: not place.processes())


ROOMS_ON_THE_WAY = ["_decision", "_processes", "_engine", "_flow", "_transport"]


@pytest.mark.parametrize(
    "module", ["cloudpickle", *(f"parmap.{name}" for name in ROOMS_ON_THE_WAY)]
)
def test_ctrl_c_while_a_room_is_imported_is_not_in_the_way_of_the_next_call(
    place: Place, module: str
) -> None:
    """Half an import that stayed would be an error of its own in every later call."""
    script = place.file(
        f"""\
        import os, signal, sys
        from parmap import pmap

        class Interrupting:
            def find_spec(self, name, path, target=None):
                if name == {module!r}:
                    sys.meta_path.remove(self)
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Interrupting())
        for _ in range(2):
            try:
                print(list(pmap(lambda x: x + 1, range(3), parallel=True, max_workers=2)))
            except KeyboardInterrupt:
                print("interrupted")
        """
    )
    assert place.run(script) == (0, "interrupted\n[1, 2, 3]\n", "")
    assert eventually(lambda: not place.processes())


@pytest.mark.parametrize("method", METHODS)
def test_a_program_ends_beside_a_thread_that_is_in_a_call(place: Place, method: str) -> None:
    """A daemon thread is not waited for, and its workers' end is nobody's news."""
    script = place.file(
        """\
        import os, threading, time
        from parmap import pmap
        begun = threading.Event()
        def call():
            for _ in pmap(lambda x: time.sleep(0.01), range(100_000), parallel=True, max_workers=2):
                begun.set()
        threading.Thread(target=call, daemon=True).start()
        begun.wait()
        print("over")
        """
    )
    arguments = ("-W", "ignore::DeprecationWarning", script)
    assert place.run(*arguments, method=method) == (0, "over\n", "")
    assert eventually(lambda: not place.processes())


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_a_call_in_a_worker_of_an_executor_of_the_programs(place: Place, context: str) -> None:
    """There the script has another name, and its functions are sent by value all the same."""
    script = place.file(
        f"""\
        import concurrent.futures, multiprocessing
        from parmap import pmap

        class Kept:
            def __init__(self, x):
                self.x = x

        def fn(x):
            return Kept(x + 1)

        def job():
            results = list(pmap(fn, range(3), parallel=True, max_workers=2))
            return [type(r) is Kept and r.x for r in results]

        if __name__ == "__main__":
            context = multiprocessing.get_context("{context}")
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
                print(executor.submit(job).result())
        """
    )
    arguments = ("-W", "ignore::DeprecationWarning", script)
    assert place.run(*arguments) == (0, "[1, 2, 3]\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_a_program_runs_in_the_debugger(place: Place, method: str) -> None:
    """pdb has a `__main__` of its own making."""
    script = place.file(
        """\
        from parmap import pmap
        results = list(pmap(lambda x: x + 1, range(3), parallel=True, max_workers=2))
        print(results)
        """
    )
    code, out, err = place.run("-m", "pdb", "-c", "continue", script, stdin="q\n", method=method)
    assert (code, err) == (0, "")
    assert "[1, 2, 3]" in out
    assert "Error" not in out


# ------------------------------------------------------------------ where workers cannot be had


# Root is exempt from a limit on processes; this is root without what makes it so, in programs that it
# starts too.
FEW_PROCESSES = """
import ctypes, os, resource

def few_processes(most):
    if os.getuid() == 0:
        libc = ctypes.CDLL(None)
        version, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        libc.prctl(28, 1)  # PR_SET_SECUREBITS, SECBIT_NOROOT
        libc.capget(version, sets)
        sets[0] = sets[1] = sets[0] & ~(1 << 21 | 1 << 24)  # CAP_SYS_ADMIN, CAP_SYS_RESOURCE
        os.setresuid(100_000 + os.getpid(), -1, -1)  # a user without other processes
        libc.capset(version, sets)
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
"""

POOR = {
    "a daemonic process": (
        "import multiprocessing",
        """
        process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
        process.start()
        process.join()
        """,
        "daemonic",
    ),
    "no processes": (
        "import sys; sys.modules['subprocess'] = None",
        "work()",
        "subprocess",
    ),
    "too few processes": (
        FEW_PROCESSES + "few_processes(1)",
        "work()",
        "Resource temporarily unavailable",
    ),
    "too few descriptors": (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))",
        "work()",
        "Too many open files",
    ),
}


@pytest.mark.parametrize(
    ("poor", "method"),
    [*((poor, "forkserver") for poor in POOR), ("too few processes", "fork")],
)
def test_where_workers_cannot_be_had_the_call_is_serial_and_says_why(
    place: Place, poor: str, method: str
) -> None:
    """The same results and one warning; an error that says the same for who insists on workers. No
    descriptor is lost on the way."""
    before, run, reason = POOR[poor]
    script = place.file(
        before
        + textwrap.dedent(
            """
            import os, time, warnings
            from parmap import pmap, shutdown

            def work():
                opened = os.listdir("/proc/self/fd")
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    results = list(pmap(lambda x: time.sleep(0.01) or x, range(40), max_workers=2))
                assert results == list(range(40))
                print([(w.category.__name__, str(w.message)) for w in caught])
                try:
                    list(pmap(abs, range(4), parallel=True))
                except (OSError, ImportError, RuntimeError) as error:
                    print(error, error.__notes__, flush=True)
                shutdown()
                assert os.listdir("/proc/self/fd") == opened
            """
        )
        + textwrap.dedent(run)
    )
    code, out, err = place.run("-W", "ignore::DeprecationWarning", script, method=method)
    assert (code, err) == (0, "")
    warned, refused = out.splitlines()
    assert warned.count("RuntimeWarning") == 1
    assert "parmap runs this call serially" in warned
    assert reason in warned
    assert reason in refused
    assert "no workers could be started" in refused
    assert eventually(lambda: not place.processes())


@pytest.mark.skipif(os.getuid() != 0, reason="how many processes others have cannot be known")
def test_a_fork_server_that_may_not_fork_says_so(place: Place) -> None:
    """It was the last process that the system allowed; under a higher limit there are workers."""
    script = place.file(
        FEW_PROCESSES
        + textwrap.dedent(
            """
            import warnings
            from parmap import pmap
            few_processes(2)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                print(sum(pmap(lambda n: sum(range(n)), [30_000] * 2000, max_workers=2)))
            print(*(each.message for each in caught))
            try:
                list(pmap(abs, range(4), parallel=True))
            except RuntimeError as error:
                print(type(error).__name__, error)
            """
        )
    )
    code, out, err = place.run(script)
    assert (code, err) == (0, "")
    total, warned, refused = out.splitlines()
    assert int(total) == 2000 * sum(range(30_000))
    told = "workers die while they start: the system refuses (Resource temporarily unavailable)"
    assert f"parmap runs this call serially: {told}" in warned
    assert refused.startswith(f"WorkerDied {told}")
    assert eventually(lambda: not place.processes())


@pytest.mark.parametrize("method", METHODS)
def test_no_semaphores_are_needed(place: Place, method: str) -> None:
    """AWS Lambda has none, and workers all the same."""
    script = place.file(
        """\
        import _multiprocessing
        del _multiprocessing.SemLock
        from parmap import pmap
        results = pmap(lambda x: x + 1, range(3), parallel=True, max_workers=2)
        print(list(results), results.report.mode)
        """
    )
    assert place.run(script, method=method) == (0, "[1, 2, 3] parallel\n", "")


def test_multiprocessing_is_not_needed(place: Place) -> None:
    """Only to fork the caller, which it does better than anybody."""
    script = place.file(
        """\
        import sys
        sys.modules["multiprocessing"] = sys.modules["_multiprocessing"] = None
        from parmap import pmap
        results = pmap(lambda x: x + 1, range(3), parallel=True, max_workers=2)
        print(list(results), results.report.mode)
        """
    )
    assert place.run(script) == (0, "[1, 2, 3] parallel\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_a_program_may_put_anything_in_the_place_of_its_streams(place: Place, method: str) -> None:
    """Nothing, a file that is closed, an object that has no flush, one whose flush raises."""
    script = place.file(
        """\
        import io, sys
        from parmap import pmap, shutdown
        class Full(io.StringIO):
            def flush(self):
                raise RuntimeError("full")
        closed, streams = io.StringIO(), (sys.stdout, sys.stderr)
        closed.close()
        for stream in (None, closed, object(), Full()):
            sys.stdout = sys.stderr = stream
            results = pmap(lambda x: x + 1, range(3), parallel=True, max_workers=2)
            found, mode = list(results), results.report.mode
            shutdown()
            sys.stdout, sys.stderr = streams
            print(found, mode)
        """
    )
    assert place.run(script, method=method) == (0, "[1, 2, 3] parallel\n" * 4, "")


@pytest.mark.parametrize(
    ("closed", "method"),
    [
        ("0<&-", "forkserver"),
        ("1>&-", "forkserver"),
        *(("0<&- 1>&- 2>&-", method) for method in METHODS),
    ],
)
def test_a_program_without_standard_streams_maps_and_prints_into_nothing(
    place: Place, closed: str, method: str
) -> None:
    """As map would. No pipe of parmap's gets a number that workers take for a stream."""
    script = place.file(
        """\
        import os
        from parmap import pmap
        results = list(pmap(lambda x: print("lost") or bytes(50_000), range(9), parallel=True, max_workers=2))
        with open("told", "w") as file:
            file.write(str([len(result) for result in results]))
        """
    )
    command = f'exec "$0" "$1" {closed}'
    with subprocess.Popen(
        ["sh", "-c", command, sys.executable, script],
        cwd=place.folder,
        env=place.environment(method),
        stderr=subprocess.PIPE,
    ) as process:
        _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, b"")
    assert (place.folder / "told").read_text() == str([50_000] * 9)
    assert eventually(lambda: not place.processes())


def in_a_namespace(place: Place, mounts: str, script: str, method: str) -> tuple[int, str, str]:
    """Run a program where other file systems are mounted; only root may do that."""
    command = ["unshare", "-m", "sh", "-c", f'{mounts} exec "$0" "$1"', sys.executable, script]
    try:
        allowed = subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("private mounts need root and util-linux")
    done = subprocess.run(
        command,
        cwd=place.folder,
        env=place.environment(method),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ("size=1m", "forkserver"),
        ("size=4k", "forkserver"),
        *(("ro", method) for method in METHODS),
    ],
)
def test_a_full_or_read_only_shm_is_no_obstacle(place: Place, options: str, method: str) -> None:
    """Large items, results and functions take the temp directory instead."""
    script = place.file(
        """\
        from parmap import pmap
        two = dict(parallel=True, max_workers=2)
        print({len(y) for y in pmap(lambda x: bytes(1_500_000), range(8), **two)})
        print(set(pmap(len, [bytes(1_500_000)] * 8, **two)))
        table = bytes(3_000_000)
        print(set(pmap(lambda x: len(table), range(3), **two)))
        """
    )
    mounts = f"mount -t tmpfs -o {options} none /dev/shm &&"
    found = in_a_namespace(place, mounts, script, method)
    assert found == (0, "{1500000}\n{1500000}\n{3000000}\n", "")
    assert eventually(lambda: not place.processes())


# ------------------------------------------------------------------ beside the user's own ways


@pytest.mark.parametrize("method", METHODS)
def test_a_program_may_still_choose_a_start_method_after_a_call(place: Place, method: str) -> None:
    """multiprocessing's default is the user's to set, once, and a pmap before does not settle it."""
    script = place.file(
        """\
        import multiprocessing
        from parmap import pmap
        print(list(pmap(abs, [-1, -2], parallel=True, max_workers=2)))
        print(multiprocessing.get_start_method(allow_none=True))
        multiprocessing.set_start_method("fork")
        with multiprocessing.Pool(1) as pool:
            print(pool.map(abs, [-3]))
        print(list(pmap(abs, [-4], parallel=True, max_workers=2)))
        """
    )
    code, out, err = place.run("-W", "ignore::DeprecationWarning", script, method=method)
    assert (code, out, err) == (0, "[1, 2]\nNone\n[3]\n[4]\n", "")


def test_a_program_that_set_a_start_method_gets_workers_of_that_kind(place: Place) -> None:
    """Where parmap is told nothing, what the user set for multiprocessing holds."""
    script = place.file(
        """\
        import multiprocessing
        from parmap import pmap
        multiprocessing.set_start_method("spawn")
        results = pmap(abs, [-1], parallel=True, max_workers=1)
        print(list(results), results.report.start_method)
        """
    )
    assert place.run(script) == (0, "[1] spawn\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_a_program_in_a_folder_that_was_deleted_still_gets_its_results(
    place: Place, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory is gone before the first worker starts, and again between two calls."""
    for variable in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
        monkeypatch.delenv(variable, raising=False)  # coverage itself cannot start in such a place
    script = place.file(
        """\
        import os
        from parmap import pmap, shutdown
        two = dict(parallel=True, max_workers=2)
        for name in ("first", "second"):
            os.mkdir(f"{os.path.dirname(__file__)}/{name}")
            os.chdir(f"{os.path.dirname(__file__)}/{name}")
            os.rmdir(os.getcwd())
            print(list(pmap(lambda x: x + 1, range(3), **two)))
        shutdown()
        print(list(pmap(lambda x: x + 2, range(3), **two)))
        """
    )
    code, out, err = place.run(str(place.folder / script), method=method)
    assert (code, out, err) == (0, "[1, 2, 3]\n[1, 2, 3]\n[2, 3, 4]\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_a_script_named_like_a_standard_module_does_not_break_workers(
    place: Place, method: str
) -> None:
    """Files beside the user's script that shadow what a worker imports are not parmap's to trip on."""
    place.file("raise SystemExit('imported the wrong statistics')\n", "statistics.py")
    script = place.file(
        """\
        from parmap import pmap
        print(list(pmap(lambda x: x + 1, range(3), parallel=True, max_workers=2)))
        """
    )
    assert place.run(script, method=method) == (0, "[1, 2, 3]\n", "")


@pytest.mark.parametrize("method", METHODS)
def test_what_an_item_prints_comes_out_once(place: Place, method: str) -> None:
    """Output of workers is seen when the call is done, each line once, and the caller's before it."""
    script = place.file(
        """\
        import sys
        from parmap import pmap
        print("before")
        list(pmap(lambda x: sys.stdout.write(f"item {x}\\n"), range(3), parallel=True, max_workers=2))
        print("after", flush=True)
        """
    )
    code, out, err = place.run(script, method=method)
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == ["after", "before", "item 0", "item 1", "item 2"]
