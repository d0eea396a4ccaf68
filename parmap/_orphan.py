"""How a worker waits for its caller, and ends with it, whatever it is at."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from typing import Any


def watch_caller(caller: Any) -> None:
    """End this process when its caller, which holds the other end of this pipe, is gone.

    Where the kernel can, it does that: a pipe in O_ASYNC mode sends a signal when its other end
    closes. That is SIGKILL, and so holds even while fn sits in C code with the GIL held. Else a
    thread waits. What the caller leaves in files is removed by others (see _sweep).
    """
    try:
        import fcntl

        set_signal = fcntl.F_SETSIG  # Linux
    except (ImportError, AttributeError):
        threading.Thread(
            target=_wait_for_orphanhood, args=(caller,), name="parmap-orphan", daemon=True
        ).start()
        return
    fcntl.fcntl(caller, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(caller, set_signal, signal.SIGKILL)
    flags = fcntl.fcntl(caller, fcntl.F_GETFL)
    fcntl.fcntl(caller, fcntl.F_SETFL, flags | os.O_ASYNC)
    if speaks(caller, 0):  # it was gone before we asked to be told
        leave()


def _wait_for_orphanhood(caller: Any) -> None:
    speaks(caller, None)
    leave()


def leave() -> None:
    """End this process: whoever it writes to has gone, or has no use for it."""
    os._exit(1)


def speaks(pipe: Any, seconds: float | None) -> bool:
    """Whether a pipe has something to read, or has ended, or does within the time."""
    if sys.platform == "win32":
        from multiprocessing.connection import wait

        return bool(wait([pipe], seconds))
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
