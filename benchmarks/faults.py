"""What becomes of a call when something goes wrong: parmap and four others, fault by fault.

    python benchmarks/faults.py                 # the table of docs/reliability.md, some minutes
    python benchmarks/faults.py "SIGKILL"       # the faults whose name contains that

Each cell is a program of its own, which makes the fault happen for real and is ended at the limit.
Each engine is used in the way that keeps most: one future an item for Pool and ProcessPoolExecutor,
imap for mpire. What is compared is outcomes, not speed; seconds are those of the whole call.

    held      all other items have their results; the item at fault, if one is, has an error
    lost n    an error came, and n results of other items went with it
    wrong n   n results are not those of map, without any error
    hang      nothing came within the limit
    then hangs, left n   the program did not end, or n processes of it outlived it, after two seconds
"""

from __future__ import annotations

import glob
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

# Seconds after which a program counts as hung. A held fault takes a fraction of one.
LIMIT = 5.0

# Seconds that processes of a program have to be gone after it.
GONE = 2.0

ENGINES = ["parmap", "Pool", "Executor", "joblib", "mpire"]

# How each engine maps, with an exception in the place of an item where it can tell them apart.
COMMON = '''
import itertools, json, multiprocessing, os, signal, sys, threading, time
ENGINE = sys.argv[1]
PARALLEL = True

def outcome(get):
    try:
        return get()
    except BaseException as error:
        return error

def each(iterator):
    """Results one by one; an exception in its place where the iterator goes on after it."""
    found = []
    while True:
        try:
            found.append(next(iterator))
        except StopIteration:
            return found
        except BaseException as error:
            found.append(error)
            if len(found) > 1 and found[-2] is error or len(found) > 100:
                return found

def run(fn, items, timeout=None):
    if ENGINE == "parmap":
        from parmap import pmap
        return each(pmap(fn, items, parallel=PARALLEL, max_workers=2, task_timeout=timeout))
    if ENGINE == "Pool":
        pool = warm(lambda: multiprocessing.get_context("fork").Pool(2))
        sent = [pool.apply_async(fn, (item,)) for item in items]
        return [outcome(lambda s=s: s.get(timeout)) for s in sent]
    if ENGINE == "Executor":
        import concurrent.futures as futures
        pool = warm(lambda: futures.ProcessPoolExecutor(2))
        sent = [outcome(lambda item=item: pool.submit(fn, item)) for item in items]
        return [s if isinstance(s, BaseException) else outcome(lambda s=s: s.result(timeout)) for s in sent]
    if ENGINE == "joblib":
        import joblib
        return joblib.Parallel(2, timeout=timeout)(joblib.delayed(fn)(item) for item in items)
    import mpire
    pool = warm(lambda: mpire.WorkerPool(2, keep_alive=True))
    return each(pool.imap(fn, [(item,) for item in items], task_timeout=timeout))

_warm = []
def warm(make):
    if not _warm:
        _warm.append(make())
    return _warm[0]

def lazily(fn, items, count):
    """The first results of an input that may be endless."""
    if ENGINE == "parmap":
        from parmap import pmap
        return each(itertools.islice(pmap(fn, items, parallel=True, max_workers=2), count))
    if ENGINE == "Pool":
        return each(itertools.islice(warm(lambda: multiprocessing.get_context("fork").Pool(2)).imap(fn, items), count))
    if ENGINE == "Executor":
        import concurrent.futures as futures
        return each(itertools.islice(warm(lambda: futures.ProcessPoolExecutor(2)).map(fn, items), count))
    if ENGINE == "joblib":
        import joblib
        return each(itertools.islice(joblib.Parallel(2, return_as="generator")(joblib.delayed(fn)(x) for x in items), count))
    import mpire
    return each(itertools.islice(warm(lambda: mpire.WorkerPool(2)).imap(fn, ((x,) for x in items)), count))

def workers():
    """Process ids of the workers."""
    return {x for x in run(lambda_free_pid, range(8)) if isinstance(x, int)}

def lambda_free_pid(_):
    time.sleep(0.02)
    return os.getpid()

def tell(found, expected, fault=()):
    """Say how it came out: what is right, what is an error, what is neither."""
    errors = [i for i, x in enumerate(found) if isinstance(x, BaseException)]
    wrong = sum(1 for i, x in enumerate(found) if i not in errors and i < len(expected) and x != expected[i])
    right = sum(1 for i, x in enumerate(found) if i not in errors and i < len(expected) and i not in fault and x == expected[i])
    lost = len(expected) - len(fault) - right
    if not errors:  # whatever is missing is missing in silence
        wrong, lost = lost + len(fault), 0
    print(json.dumps({"lost": lost - (wrong if errors else 0), "wrong": wrong}), flush=True)
'''

# An item at fault, the third of eight, and what happens at it.
AT_TWO = "def fn(x):\n    if x == 2:\n        {}\n    time.sleep(0.05)\n    return x * 10\nbegan()\ntell(run(fn, range(8){}), [x * 10 for x in range(8)], (2,))\n"


def at_two(text: str, more: str = "") -> str:
    return AT_TWO.format(text, more)


FAULTS: dict[str, str] = {
    "SIGKILL in an item": at_two("os.kill(os.getpid(), signal.SIGKILL)"),
    "SIGSEGV in an item": at_two("os.kill(os.getpid(), signal.SIGSEGV)"),
    "os._exit in an item": at_two("os._exit(3)"),
    "sys.exit in an item": at_two("sys.exit(3)"),
    "KeyboardInterrupt raised by fn": at_two("raise KeyboardInterrupt"),
    "StopIteration raised by fn": at_two("raise StopIteration"),
    "all workers killed between two calls": """
def fn(x):
    return x * 10
for pid in workers() - {os.getpid()}:
    os.kill(pid, signal.SIGKILL)
time.sleep(0.3)
began()
tell(run(fn, range(8)), [x * 10 for x in range(8)])
""",
    "killed while it sends a large result": """
def fn(x):
    if x == 2:
        threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return bytes(400_000_000)
    return x * 10
began()
tell(run(fn, range(8)), [x * 10 for x in range(8)], (2,))
""",
    "killed while it loads its item": """
class Fatal:
    def __reduce__(self):
        return os._exit, (7,)
def fn(x):
    return 1
began()
tell(run(fn, [0, 1, Fatal(), 3, 4, 5, 6, 7]), [1] * 8, (2,))
""",
    "a grandchild keeps the dead worker's pipes": """
def fn(x):
    if x == 2:
        if os.fork():
            os._exit(1)
        time.sleep(2.5)
        os._exit(0)
    return x * 10
began()
tell(run(fn, range(8)), [x * 10 for x in range(8)], (2,))
""",
    "the program reaps all children": """
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
signal.signal(signal.SIGCHLD, reap)
"""
    + at_two("os._exit(3)"),
    "an exception whose `__init__` wants more": "class Own(Exception):\n    def __init__(self, a, b):\n        super().__init__(a)\n"
    + at_two("raise Own(1, 2)"),
    "an exception that holds a lock": at_two("raise ValueError(threading.Lock())"),
    "a result that does not pickle": at_two("return threading.Lock()"),
    "a result that does not load": "class Bad:\n    def __reduce__(self):\n        return int, ('x',)\n"
    + at_two("return Bad()"),
    "an exception and a repr that raises": "class Mute(Exception):\n    def __repr__(self):\n        raise RuntimeError\n    __str__ = __repr__\n"
    + at_two("raise Mute(1)"),
    "an item that never returns, in C, with a time limit": at_two(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); sum(range(10**12))", ", timeout=0.5"
    ),
    "an endless input, of which ten are taken": """
def fn(x):
    return x * 10
began()
tell(lazily(fn, itertools.count(), 10), [x * 10 for x in range(10)])
""",
    "an input that raises SystemExit after five": """
def fn(x):
    return x * 10
def items():
    yield from range(5)
    raise SystemExit
began()
tell(lazily(fn, items(), 20), [x * 10 for x in range(5)] + [None], (5,))
""",
    "state of a module changed between two calls": """
sys.path.insert(0, os.getcwd())
open("config.py", "w").write("import time\\nLEVEL = 1\\ndef fn(x):\\n    time.sleep(0.02)\\n    return x * LEVEL\\n")
import config
run(config.fn, range(30))  # the workers are warm from here on
config.LEVEL = 5
PARALLEL = None  # parmap may decide: insisting on workers would be an error that says so
began()
tell(run(config.fn, range(30)), [x * 5 for x in range(30)])
""",
    "os.fork after a call, and a call in the copy": """
def fn(x):
    return x * 10
run(fn, range(8))
began()
if os.fork():
    os._exit(0 if os.wait()[1] == 0 else 1)
tell(run(fn, range(8)), [x * 10 for x in range(8)])
os._exit(0)
""",
    "the program is killed in a call": """
def fn(x):
    if x == 2:
        os.kill(PARENT, signal.SIGKILL)
    while x:
        pass
PARENT = os.getpid()
began()
print(json.dumps({"lost": 0, "wrong": 0}), flush=True)
run(fn, range(8))
""",
    "no semaphores": "import _multiprocessing\ndel _multiprocessing.SemLock\ndef fn(x):\n    return x * 10\nbegan()\ntell(run(fn, range(8)), [x * 10 for x in range(8)])\n",
}


def program(fault: str) -> str:
    clock = "def began():\n    global _began\n    _began = time.monotonic()\nimport atexit\n"
    return COMMON + clock + FAULTS[fault]


def cell(fault: str, engine: str) -> str:
    """Make a fault happen to an engine; the outcome in words."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.py")
        path.write_text(program(fault))
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(path), engine],
            cwd=folder,
            env={**os.environ, "FAULTS_MARK": mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        began = time.monotonic()
        assert process.stdout is not None
        line = first_line(process, began + LIMIT)
        seconds = time.monotonic() - began
        told = verdict(line) if line is not None else "hang"
        ended = told != "hang" and ends(process)
        left = stay_behind(mark) if ended else []
        end(marked(mark))
        process.wait()
        process.stdout.close()
    words = [told]
    if told != "hang":
        words.append(f"{seconds:.1f} s")
        words.extend(["then hangs"] if not ended else [f"left {len(left)}"] if left else [])
    return ", ".join(words)


def first_line(process: subprocess.Popen[bytes], limit: float) -> bytes | None:
    """What it printed, b"" if it ended without a word; None where nothing came in time."""
    import select

    assert process.stdout is not None
    if select.select([process.stdout], [], [], max(0.0, limit - time.monotonic()))[0]:
        return process.stdout.readline()
    return None


def verdict(line: bytes) -> str:
    if not line:
        return "lost all"
    told: dict[str, Any] = json.loads(line)
    if told["wrong"]:
        return f"wrong {told['wrong']}"
    return f"lost {told['lost']}" if told["lost"] else "held"


def ends(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(GONE)
    except subprocess.TimeoutExpired:
        return False
    return True


def marked(mark: str) -> list[int]:
    """Processes that carry the mark of one program in their environment."""
    found = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            if mark.encode() in Path(path).read_bytes():
                found.append(int(path.split("/")[2]))
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return found


def stay_behind(mark: str) -> list[int]:
    limit = time.monotonic() + GONE
    while (left := marked(mark)) and time.monotonic() < limit:
        time.sleep(0.02)
    return left


def end(processes: list[int]) -> None:
    for pid in processes:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it was ending


def main() -> None:
    chosen = [name for name in FAULTS if all(word in name for word in sys.argv[1:])]
    versions = [f"{n} {importlib.metadata.version(n)}" for n in ("parmap-pool", "joblib", "mpire")]
    print(f"Python {platform.python_version()}, {platform.system()}, {', '.join(versions)}\n")
    print("| Fault | " + " | ".join(ENGINES) + " |")
    print("| --- |" + " --- |" * len(ENGINES))
    held = dict.fromkeys(ENGINES, 0)
    for fault in chosen:
        cells = {engine: cell(fault, engine) for engine in ENGINES}
        for engine, told in cells.items():
            held[engine] += told.startswith("held") and told.endswith(" s")
        print(f"| {fault} | " + " | ".join(cells.values()) + " |", flush=True)
    print(f"| **held, of {len(chosen)}** | " + " | ".join(f"**{n}**" for n in held.values()) + " |")


if __name__ == "__main__":
    main()
