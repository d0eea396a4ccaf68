"""What surrounds the start and the end of processes: no Ctrl-C halfway, no copy of this one, no
stream mixed up."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# Held while this process is copied. A copy made halfway would keep an end of a line that is made,
# close what has the number of one that is closed, or hold the pipe whose end tells that a program
# has started. Nobody who holds it waits for another lock.
no_copy: Any = threading.RLock()


def _copied() -> None:
    if no_copy._is_owned():  # else a Ctrl-C came while the copy waited for it
        no_copy.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=no_copy.acquire,
        after_in_parent=_copied,
        after_in_child=no_copy._at_fork_reinit,
    )


@contextmanager
def interrupts_deferred() -> Iterator[list[Any]]:
    """Ctrl-C waits until this is over; who clears the list has dealt with it."""
    came: list[Any] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield came  # no KeyboardInterrupt would be raised in this thread
        return
    signal.signal(signal.SIGINT, lambda *_: came.append(1))
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Processes started in here are deaf to Ctrl-C until they have taken their seat: one that boots
    would print a traceback of its own."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def filled_streams() -> Iterator[None]:
    """The numbers 0, 1 and 2 are taken in here, also in a caller whose streams are closed. Else a
    pipe of ours gets one, and what fn prints in a new process goes into it."""
    filled = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            filled.append(os.open(os.devnull, os.O_RDWR))  # the lowest number that is free
            os.set_inheritable(filled[-1], True)
    try:
        yield
    finally:
        for number in filled:
            os.close(number)
