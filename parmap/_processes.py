"""Station 4, where processes begin: as copies of a fork server (`_zygote`), as new interpreters, or
as forks of the caller.

multiprocessing would import the caller's `__main__` in each, which runs an unguarded script again
and again. Workers need none, since functions travel by value.
"""

from __future__ import annotations

import gc
import os
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress

from parmap._outcome import flush_output, loaded
from parmap._quiet import filled_streams, interrupts_held, no_copy
from parmap._seat import CLOUDPICKLE_WORKER, ENDED, WORKER, close_end, close_ends, keep_end

TYPE_CHECKING = False  # typing takes 3 ms to import, by which the fork server would start later
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

# The number of a new process, or None where only its board will tell; and what tells the exit code
# of one, as multiprocessing does (-9 for SIGKILL), if that can be had within some seconds.
Begun: TypeAlias = "tuple[int | None, Callable[[int | None, float], int | None]]"


def begin(method: str, numbers: tuple[int, ...]) -> Begun:
    """Begin a worker, which gets the numbers of its seat. Raises OSError, or RuntimeError where
    this process may have no children."""
    _may_begin()
    with interrupts_held():
        return _BEGIN[method](numbers)


def _may_begin() -> None:
    process = loaded("multiprocessing.process")
    if process is not None and process.current_process().daemon:
        raise RuntimeError("this process is daemonic, and such may not start processes")


def default_method() -> str:
    """The start method the user set for multiprocessing, else forkserver where there is one; not
    fork, which copies locks of threads that do not exist in the copy."""
    fallback = "spawn" if sys.platform == "win32" else "forkserver"
    multiprocessing = loaded("multiprocessing")
    if multiprocessing is None:  # then nobody can have set anything
        return fallback
    default = multiprocessing.get_all_start_methods()[0]
    chosen: str | None = multiprocessing.get_start_method(allow_none=True)
    # Any use of multiprocessing settles the default, so that may not have been chosen.
    return fallback if chosen is None or chosen == default else chosen


class _Server:
    def __init__(self) -> None:
        import socket

        self._codes: dict[int | None, int] = {}
        self._mute = False  # it was stopped, say, and is not waited for again
        self.refused = ""  # why it could not fork
        self._lock = threading.Lock()
        with filled_streams(), interrupts_held():
            self._control, far = socket.socketpair()
            try:
                with far:
                    self.process = _interpreter("parmap._zygote", (far.fileno(),))
            except BaseException:
                self._control.close()
                raise
        keep_end(self._control)

    def begin(self, numbers: tuple[int, ...]) -> Begun:
        import socket

        word = CLOUDPICKLE_WORKER if loaded("cloudpickle") else WORKER
        socket.send_fds(self._control, [word], numbers)
        return None, self._exitcode

    def _exitcode(self, pid: int | None, seconds: float) -> int | None:
        # Why one without a number did not begin was said before its seat was closed.
        seconds = min(seconds, 0.02) if self._mute else seconds
        limit = time.monotonic() + (seconds if pid else 0.0)
        poll = select.poll()
        with self._lock, suppress(OSError, ValueError):  # closed meanwhile
            poll.register(self._control, select.POLLIN)
            while pid not in self._codes and poll.poll(max(0.0, limit - time.monotonic()) * 1000):
                if not (told := self._control.recv(ENDED.size)):
                    break  # it has ended itself
                ended, code = ENDED.unpack(told)
                if ended:
                    self._codes[ended] = code
                else:
                    self.refused = os.strerror(code)
            if pid and seconds:
                self._mute = pid not in self._codes
        return self._codes.pop(pid, None)

    def end(self, seconds: float) -> None:
        with suppress(OSError):
            self._control.send(b"q")
        close_end(self._control)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_server: _Server | None = None
_starting = threading.Lock()


def start_server() -> _Server:
    """The fork server, which may have been started just now, and is not waited for."""
    global _server
    with _starting:
        if _server is not None and (_server.refused or _server.process.poll() is not None):
            _server.end(0.0)  # it was killed; or was begun under limits that may be gone
            _server = None
        if _server is None:
            _may_begin()
            _server = _Server()
        return _server


def _by_server(numbers: tuple[int, ...]) -> Begun:
    try:
        return start_server().begin(numbers)
    except ConnectionError:  # somebody killed it a moment ago
        end_server(1.0)
    try:
        return start_server().begin(numbers)
    except ConnectionError as error:
        from parmap.errors import WorkerDied

        raise WorkerDied.before_work(None, "while the fork server starts") from error


def refusal() -> str:
    """Why the fork server could not fork, or ""."""
    return "" if _server is None else _server.refused


def end_server(seconds: float) -> None:
    global _server
    with _starting:
        server, _server = _server, None
    if server is not None:
        server.end(seconds)


def _spawn(numbers: tuple[int, ...]) -> Begun:
    process = _interpreter("parmap._worker", numbers)

    def exitcode(_: int | None, seconds: float) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        code: int | None = process.returncode
        return code

    return process.pid, exitcode


def _interpreter(module: str, numbers: tuple[int, ...]) -> Any:
    """A new interpreter like this one, which runs `main(*numbers)` of a module. In the root
    directory, for the caller's may be gone, and what lies there is not to be imported."""
    if not (executable := _executable()):
        raise OSError("there is no Python interpreter to start (sys.executable)")
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # of this very parmap
    program = (
        f"import sys; sys.path[:] = {[home, *_search_path()]!r}; import parmap; "
        f"del sys.path[0]; from {module} import main; main(*map(int, sys.argv[1:]))"
    )
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command = [executable, *flags, "-c", program, *map(str, numbers)]
    if sys.platform == "win32":  # not tested: there is no Windows here
        startup = subprocess.STARTUPINFO()
        startup.lpAttributeList = {"handle_list": list(numbers[:2])}
        for handle in numbers[:2]:
            os.set_handle_inheritable(handle, True)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, startupinfo=startup)
    with no_copy:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=os.sep, pass_fds=numbers)


def _executable() -> str | None:
    """None in a program that is frozen into one file, which would start itself."""
    spawn = loaded("multiprocessing.spawn")  # where the user may have set one
    told = sys.executable if spawn is None else os.fsdecode(spawn.get_executable() or "")
    return None if getattr(sys, "frozen", False) and told == sys.executable else told


def _search_path() -> list[str]:
    """sys.path, as it is from the root directory."""
    try:
        return [os.path.join(os.getcwd(), path) for path in sys.path]
    except FileNotFoundError:
        return [path for path in sys.path if os.path.isabs(path)]


def _fork(numbers: tuple[int, ...]) -> Begun:
    """As Process.start() does, which would leave descriptors open where the system refuses, and
    show the worker to who ends all children."""
    from multiprocessing import get_context

    process: Any = get_context("fork").Process(target=_in_the_copy, args=numbers)
    flush_output()  # else the copy would print it too
    tracker = loaded("multiprocessing.resource_tracker")
    intent: Any = getattr(tracker, "_fork_intent", threading.local())  # since Python 3.14.8
    intent.preserve_fd = True  # the copy has the same shared memory, and counts it with the caller
    try:
        pid = os.fork()
    finally:
        intent.preserve_fd = False
    if not pid:
        code = 1
        try:
            code = process._bootstrap(parent_sentinel=numbers[2])
        finally:
            os._exit(code)
    return pid, _exitcode_of_child


def _exitcode_of_child(pid: int | None, seconds: float) -> int | None:
    limit = time.monotonic() + seconds
    with suppress(ChildProcessError):  # the program has reaped it itself
        while not (ended := os.waitpid(pid or 0, os.WNOHANG))[0]:
            if time.monotonic() > limit:
                return None
            time.sleep(0.01)  # mostly waited for before (see `_handle`)
        return os.waitstatus_to_exitcode(ended[1])
    return None


def _in_the_copy(*numbers: int) -> None:
    from parmap import _worker

    gc.enable()  # another thread may have paused it
    _worker.work(*numbers)


_BEGIN = {"forkserver": _by_server, "spawn": _spawn, "fork": _fork}


def _forget() -> None:
    global _server, _starting
    if _server is not None:
        _server.process.returncode = 0  # not a child of this process
    _server, _starting = None, threading.Lock()
    close_ends()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
