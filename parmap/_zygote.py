"""The fork server: a small process that has imported what workers need, and forks them.

It hears from its caller by one socket: a letter and the numbers of a seat for each worker that is
wanted. It answers with the number and exit code of each that ended. It never reads a pickle.

It outlives a caller that was killed, by the moment it takes to notice; so it is also the one that
removes what such a caller could not.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket

import cloudpickle  # noqa: F401  (6 ms, in each worker that gets a function by value)

from parmap import _worker
from parmap._seat import ENDED, close_numbers

# Descriptors of a seat: two of its line, its lifeline's, its board's.
_NUMBERS = 4


def main(control: int) -> None:
    """Serve until the caller says no more, or is gone; in a worker, be one."""
    caller = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the caller
    with socket.socket(fileno=control) as line:
        numbers = _serve(line, caller)
    if numbers:
        _worker.main(*numbers)


def _serve(line: socket.socket, caller: int) -> list[int]:
    """Fork a worker whenever one is wanted. Returns its numbers in each of them."""
    ended, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(line, select.POLLIN)
    poll.register(ended, select.POLLIN)
    gc.freeze()  # what is there now stays in pages that all workers share
    while True:
        ready = [number for number, _ in poll.poll()]
        if ended in ready:
            os.read(ended, 512)
            _tell_who_ended(line)
        if line.fileno() not in ready:
            continue
        word, numbers = _hear(line)
        if not word:
            _sweep(caller)
        if word != b"w":
            return []
        if _fork(line, numbers):
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            close_numbers((ended, tell))
            return numbers
        close_numbers(numbers)


def _hear(line: socket.socket) -> tuple[bytes, list[int]]:
    """The next word of the caller's, and what came with it; b"" when the caller is gone."""
    try:
        word, numbers, _, _ = socket.recv_fds(line, 1, _NUMBERS)
    except ConnectionError:  # gone with something of ours unread
        return b"", []
    return word, numbers


def _fork(line: socket.socket, numbers: list[int]) -> bool:
    """Whether this is the new process. Why there is none, the caller is told."""
    try:
        if len(numbers) < _NUMBERS:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return os.fork() == 0
    except OSError as error:
        _tell(line, 0, error.errno or 0)
        return False


def _tell_who_ended(line: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _tell(line, pid, os.waitstatus_to_exitcode(status))


def _tell(line: socket.socket, pid: int, code: int) -> None:
    try:
        line.send(ENDED.pack(pid, code), socket.MSG_DONTWAIT)
    except OSError:
        return  # the caller is gone, or has not listened to some thousands of them


def _sweep(caller: int) -> None:
    from parmap._sweep import sweep_after

    sweep_after(caller)
