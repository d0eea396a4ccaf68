"""The fork server: a small process that has imported what workers need, and forks them.

By one socket it hears a letter, and the numbers of a seat for each worker that is wanted, and tells
who ended, and how. It reads no pickle. It removes what a caller leaves that is killed.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
from contextlib import suppress

from parmap import _worker
from parmap._seat import CLOUDPICKLE_WORKER, ENDED, WORKER, close_numbers

_NUMBERS = 4  # descriptors of a seat


def main(control: int) -> None:
    caller = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the caller
    with socket.socket(fileno=control) as line:
        word, numbers = _serve(line)
    if numbers:
        _worker.main(*numbers)
    elif not word:
        from parmap._sweep import sweep_after

        _end_workers()
        sweep_after(caller)


def _end_workers() -> None:
    """Workers see by themselves that the caller is gone, but not where fn closed all it found."""
    with suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
        for number in file.read().split():
            os.kill(int(number), signal.SIGKILL)


def _serve(line: socket.socket) -> tuple[bytes, list[int]]:
    """Fork workers until the caller says no more. Returns the last word; in a worker, its numbers
    too."""
    ended, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(line, select.POLLIN)
    poll.register(ended, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if ended in ready:
            os.read(ended, 512)
            _tell_who_ended(line)
        if line.fileno() in ready:
            word, numbers = _hear(line)
            if word not in (WORKER, CLOUDPICKLE_WORKER):
                return word, []
            if word == CLOUDPICKLE_WORKER:
                with suppress(ImportError):  # as the worker will tell
                    import cloudpickle  # noqa: F401  (13 ms, once rather than in each worker)
            if _fork(line, numbers):
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                close_numbers((ended, tell))
                return word, numbers
            close_numbers(numbers)


def _hear(line: socket.socket) -> tuple[bytes, list[int]]:
    """A word and what came with it; b"" when the caller is gone."""
    try:
        return socket.recv_fds(line, 1, _NUMBERS)[:2]
    except ConnectionError:  # gone with something of ours unread
        return b"", []


def _fork(line: socket.socket, numbers: list[int]) -> bool:
    """Whether this is the new process."""
    try:
        if len(numbers) < _NUMBERS:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        gc.freeze()  # what is there now stays in pages that all workers share
        return os.fork() == 0
    except OSError as error:
        _tell(line, 0, error.errno or 0)
        return False


def _tell_who_ended(line: socket.socket) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _tell(line, ended[0], os.waitstatus_to_exitcode(ended[1]))


def _tell(line: socket.socket, pid: int, code: int) -> None:
    with suppress(OSError):  # the caller is gone, or has not listened to some thousands of them
        line.send(ENDED.pack(pid, code), socket.MSG_DONTWAIT)
