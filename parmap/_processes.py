"""How a worker process is made: a private multiprocessing context.

The standard contexts import the caller's `__main__` in every worker, which runs an unguarded
script again and again. Workers of ours need no `__main__`, since functions travel by value, so
these contexts leave it out. All of it is private to parmap: the preparation data, the fork server
and its preload list that multiprocessing shares with the user's own code are not touched.

A process made here comes with a line and a board of its own.
"""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.process
import os
import sys
import threading
from typing import Any

from parmap import _messages, _worker
from parmap._line import line_pair
from parmap._orphan import watch_caller
from parmap._quiet import filled_streams, in_a_directory, interrupts_held

# The caller's ends of all pipes. A forked copy of the caller, as each forked worker is, inherits
# them and would keep them open after the caller's death; it closes them first thing.
_caller_ends: set[Any] = set()

# Held while one of them is closed, and while this process is copied: a copy that is made between
# the closing of a descriptor and the noting of it would close another file's, of the same number.
_closing = threading.RLock()


class _Hosted:
    """Mixed into multiprocessing's Process classes: a process with a seat.

    Attributes:
        line: the caller's end of its line.
        lifeline: the caller's end of a pipe by whose closing the process knows that it is alone.
    """

    def __init__(self, *args: Any, hiring: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.line, far = line_pair()
        caller, self.lifeline = multiprocessing.connection.Pipe(duplex=False)
        self.board = _messages.Board()
        self.seat: _worker.Seat | None = _worker.Seat(
            far, caller, self.board, hiring.store, hiring.initializer, hiring.idle_seconds
        )
        keep_end(self.line)
        keep_end(self.lifeline)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("line", "lifeline", "board")}

    @property
    def named(self) -> bool:
        """Whether the process has a number yet; see the fork server's Popen."""
        told = getattr(self._popen, "named", None)  # type: ignore[attr-defined]
        return told is None or told()

    @property
    def sentinel(self) -> Any:
        """Hidden from the Pool: its handler thread would look at all workers whenever one begins,
        in the very moment in which the caller is waiting for them."""
        raise AttributeError("sentinel")

    @property
    def end_sentinel(self) -> Any:
        """What `multiprocessing.Process.sentinel` is."""
        return self._sentinel  # type: ignore[attr-defined]

    def start(self) -> None:
        super().start()  # type: ignore[misc]
        # Its end is Pool's business and ours. The registry of children is the user's: who ends all
        # of them, or is a forked copy of this process and exits, must not end workers of ours.
        multiprocessing.process._children.discard(self)  # type: ignore[attr-defined]
        assert self.seat is not None
        self.seat.line.close()  # so that the worker's end is its own, and its death an EOF
        self.seat.caller.close()
        self.seat = None

    def run(self) -> None:
        """In the new process: take the seat, then do what the Pool wants done."""
        for end in list(_caller_ends):
            end.close()
        assert self.seat is not None
        watch_caller(self.seat.caller)
        # The Pool makes its processes daemonic. To fn that would be a difference from map: it may
        # start processes of its own.
        self.daemon = False
        _worker.settle(self.seat)
        super().run()  # type: ignore[misc]


def keep_end(end: Any) -> None:
    """Have forked copies of this process close `end`, so that it closes when this process ends.

    Nothing that closes with a lock: a copy may be made while another thread holds it.
    """
    with _closing:
        _caller_ends.add(end)


def close_end(end: Any) -> None:
    """Close what was kept."""
    with _closing:
        _caller_ends.discard(end)
        end.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_closing.acquire,
        after_in_parent=_closing.release,
        after_in_child=_closing.release,
    )


_WITHOUT_WAITING = getattr(os, "WNOHANG", 1)


class _OnePoll:
    """Mixed into Popen classes: one thread at a time asks for the exit status.

    The Pool's handler thread and the caller may both ask; the status can be had only once, and the
    loser would report a wrong one.
    """

    def __init__(self, process: Any):
        self._asking = threading.Lock()
        super().__init__(process)  # type: ignore[call-arg]

    def poll(self, flag: int = _WITHOUT_WAITING) -> int | None:
        if not self._asking.acquire(blocking=flag != _WITHOUT_WAITING):
            code: int | None = self.returncode  # type: ignore[attr-defined]
            return code  # who holds the lock is asking, and will know
        try:
            return super().poll(flag)  # type: ignore[misc,no-any-return]
        finally:
            self._asking.release()


def _preparation(name: str) -> dict[str, Any]:
    """What `spawn.prepare` needs in a new process, without the caller's `__main__`.

    Unlike `spawn.get_preparation_data`, this works in a directory that was deleted, and does not
    settle the user's default start method as a side effect.
    """
    data: dict[str, Any] = {
        "name": name,
        "authkey": multiprocessing.process.current_process().authkey,
        "sys_path": list(sys.path),
        "sys_argv": sys.argv,
        "orig_dir": multiprocessing.process.ORIGINAL_DIR,  # type: ignore[attr-defined]
    }
    try:
        data["dir"] = os.getcwd()
    except FileNotFoundError:
        pass
    return data


def _pickled(popen: Any, process: Any) -> bytes:
    """The process object as its own new process reads it from a pipe."""
    import io
    from multiprocessing import reduction
    from multiprocessing.context import set_spawning_popen

    buffer = io.BytesIO()
    set_spawning_popen(popen)
    try:
        reduction.dump(_preparation(process.name), buffer)
        reduction.dump(process, buffer)
    finally:
        set_spawning_popen(None)
    return buffer.getvalue()


# --------------------------------------------------------------------------- one class a method


def default_method() -> str:
    """The start method the user set for multiprocessing, else forkserver where there is one.

    Not fork: it copies locks of threads that do not exist in the copy (see docs/design.md).
    """
    methods = multiprocessing.get_all_start_methods()  # the system's default comes first
    chosen = multiprocessing.get_start_method(allow_none=True)
    # Any use of multiprocessing settles the default, so the default was not necessarily chosen.
    if chosen is not None and chosen != methods[0]:
        return chosen
    return "forkserver" if "forkserver" in methods else "spawn"


def process_class(method: str) -> Any:
    return {
        "fork": ForkProcess,
        "spawn": SpawnProcess,
        "forkserver": ForkServerProcess,
    }[method]


class SpawnProcess(_Hosted, multiprocessing.context.SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  (multiprocessing's name)
        return _spawn_popen()(process_obj)


if sys.platform != "win32":

    class ForkProcess(_Hosted, multiprocessing.context.ForkProcess):
        @staticmethod
        def _Popen(process_obj: Any) -> Any:  # noqa: N802
            return _fork_popen()(process_obj)

    class ForkServerProcess(_Hosted, multiprocessing.context.ForkServerProcess):
        @staticmethod
        def _Popen(process_obj: Any) -> Any:  # noqa: N802
            return _forkserver_popen()(process_obj)


def _untyped(name: str) -> Any:
    """A module of multiprocessing whose undocumented half is not in the type stubs."""
    import importlib

    return importlib.import_module(f"multiprocessing.{name}")


@functools.cache
def _fork_popen() -> Any:
    from multiprocessing import popen_fork

    class Popen(_OnePoll, popen_fork.Popen):
        pass

    return Popen


@functools.cache
def _spawn_popen() -> Any:
    if sys.platform == "win32":
        return _spawn_popen_windows()
    from multiprocessing import popen_spawn_posix, resource_tracker

    spawn, util = _untyped("spawn"), _untyped("util")

    class Popen(_OnePoll, popen_spawn_posix.Popen):
        def _launch(self, process: Any) -> None:
            tracker = resource_tracker.getfd()
            self._fds: list[int]
            data = _pickled(self, process)
            status_r, status_w = os.pipe()
            data_r, data_w = os.pipe()
            try:
                command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=data_r)
                passed = [*self._fds, tracker, data_r, status_w]
                self.pid = util.spawnv_passfds(spawn.get_executable(), command, passed)
            finally:
                os.close(status_w)
                os.close(data_r)
            self.sentinel = status_r
            # The worker takes the closing of data_w as its caller's death.
            self.finalizer = util.Finalize(self, util.close_fds, (status_r, data_w))
            with open(data_w, "wb", closefd=False) as file:
                file.write(data)

    return Popen


def _spawn_popen_windows() -> Any:  # not tested: there is no Windows here
    """There `_launch` has no seam for the preparation data, so it is exchanged for the moment."""
    popen_spawn_win32 = _untyped("popen_spawn_win32")

    def popen(process: Any) -> Any:
        module = popen_spawn_win32.spawn
        standard = module.get_preparation_data
        module.get_preparation_data = _preparation
        try:
            return popen_spawn_win32.Popen(process)
        finally:
            module.get_preparation_data = standard

    return popen


class _NamedLater(_OnePoll):
    """Mixed into the fork server's Popen, which then does not wait until there is a process: a
    server that boots takes 60 ms, in which the caller has better things to do."""

    sentinel: Any
    returncode: int | None
    _pid: int | None = None

    def __init__(self, process: Any):
        self._naming = threading.Lock()
        super().__init__(process)

    @property
    def pid(self) -> int | None:
        """Waits for the server to tell it; None if the server died before it could."""
        from multiprocessing import forkserver

        with self._naming:  # the Pool's handler thread asks too
            if self._pid is None and self.returncode is None:
                try:
                    self._pid = forkserver.read_signed(self.sentinel)
                except EOFError:
                    self.returncode = 255
            return self._pid

    def named(self) -> bool:
        """Whether `pid` can be had at once: till then the sentinel tells of that, not of an end."""
        return self._pid is not None or bool(
            multiprocessing.connection.wait([self.sentinel], timeout=0)
        )

    def poll(self, flag: int = _WITHOUT_WAITING) -> int | None:
        if flag == _WITHOUT_WAITING and not self.named():
            return None
        return self.returncode if self.pid is None else super().poll(flag)

    def wait(self, timeout: float | None = None) -> int | None:
        if self.pid is None:
            return self.returncode
        code: int | None = super().wait(timeout)  # type: ignore[misc]
        return code


@functools.cache
def _forkserver_popen() -> Any:
    from multiprocessing import popen_forkserver

    util = _untyped("util")

    class Popen(_NamedLater, popen_forkserver.Popen):  # type: ignore[misc]
        def _launch(self, process: Any) -> None:
            self._fds: list[int]
            data = _pickled(self, process)
            self.sentinel, writer = _server().connect_to_new_process(self._fds)
            # The worker takes the closing of this duplicate as its caller's death.
            alive = os.dup(writer)
            self.finalizer = util.Finalize(self, util.close_fds, (alive, self.sentinel))
            with open(writer, "wb", closefd=True) as file:
                file.write(data)

    return Popen


def start_server() -> bool:
    """Start the fork server without waiting until it is up; False where it ran already."""
    global _server_started
    started, _server_started = _server_started, True
    _server().ensure_running()
    return not started


_server_started = False


@functools.cache
def _server() -> Any:
    from multiprocessing import forkserver

    class Server(forkserver.ForkServer):
        def ensure_running(self) -> None:
            # Starting asks for the preparation data of the standard contexts, which settles the
            # user's default start method (before 3.14); that is taken back.
            before = multiprocessing.get_start_method(allow_none=True)
            self.set_forkserver_preload(["parmap._boot"])
            main = sys.modules.get("__main__")
            if main is not None and not hasattr(main, "__spec__"):
                main.__spec__ = None  # as in any script; pdb forgets to say, and they insist
            with filled_streams(), in_a_directory(), interrupts_held():
                super().ensure_running()
            if before is None:
                multiprocessing.set_start_method(None, force=True)

    return Server()


def forget_after_fork() -> None:
    """In a forked copy of the caller: close what belongs to the original."""
    global _server_started
    for end in list(_caller_ends):
        end.close()
    if _server.cache_info().currsize:  # what keeps the server until its caller has gone
        alive = getattr(_server(), "_forkserver_alive_fd", None)
        if alive is not None:
            os.close(alive)
    _server.cache_clear()
    _server_started = False
