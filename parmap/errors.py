"""What can go wrong in parmap that could not go wrong in `map`.

A TimeoutError (the builtin) can too: an item ran longer than task_timeout. Everything else is an
exception of your own function, raised as `map` would raise it.
"""

from __future__ import annotations

import signal
from concurrent.futures import BrokenExecutor


class WorkerDied(BrokenExecutor):
    """The worker process that ran an item ended before the item did.

    Attributes:
        index: position of the item in the input, from 0; None where no item was running.
        exitcode: as `multiprocessing.Process.exitcode`: -9 for SIGKILL, 1 for `os._exit(1)`;
            None where the system could not tell.

    Examples:
        >>> import os
        >>> from parmap import pmap
        >>> options = {"parallel": True, "max_workers": 1, "return_exceptions": True}
        >>> (died,) = pmap(os._exit, [3], **options)
        >>> type(died).__name__, died.index, died.exitcode
        ('WorkerDied', 0, 3)
    """

    def __init__(self, message: str, index: int | None = None, exitcode: int | None = None):
        super().__init__(message)
        self.index = index
        self.exitcode = exitcode

    @classmethod
    def of_item(cls, index: int, exitcode: int | None) -> WorkerDied:
        """The error for the item that was running when its worker ended."""
        how, hint = _evidence(exitcode)
        return cls(
            f"the worker that ran item {index} died: {how}. {hint} The other items are "
            "not affected; `retries=` runs such an item again, `return_exceptions=True` puts "
            "this error in its place.",
            index,
            exitcode,
        )

    @classmethod
    def before_work(cls, exitcode: int | None, when: str, refusal: str = "") -> WorkerDied:
        """The error for workers that ended, one after the other, before they ran anything."""
        how = f"the system refuses ({refusal})" if refusal else _evidence(exitcode)[0]
        return cls(
            f"workers die {when}: {how}. What they wrote to stderr says more, if they did; "
            "`parallel=False` runs the call without workers.",
            None,
            exitcode,
        )


class RemoteTraceback(Exception):  # noqa: N818  (so named in multiprocessing)
    """The `__cause__` of an exception that was raised in a worker: its traceback, as text.

    Examples:
        >>> from parmap import pmap
        >>> options = {"parallel": True, "max_workers": 1, "return_exceptions": True}
        >>> (error,) = pmap(int, ["two"], **options)
        >>> isinstance(error.__cause__, RemoteTraceback), "ValueError" in error.__cause__.text
        (True, True)
    """

    def __init__(self, text: str):
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"


def _evidence(exitcode: int | None) -> tuple[str, str]:
    """How a process ended, and what that points to."""
    if exitcode is None or exitcode >= 0:
        how = "how is not known" if exitcode is None else f"it exited with code {exitcode}"
        return how, "Something in it called os._exit, or the process was ended from outside."
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    if exitcode == -signal.SIGTERM:
        hint = "Something asked it to end."
    elif exitcode == -9:  # Windows has no signal.SIGKILL
        hint = (
            "That is how the kernel ends a process when memory runs out "
            "(`dmesg` tells); fewer `max_workers` need less."
        )
    else:
        hint = f"{name} points to compiled code; `python -X faulthandler` shows where."
    return f"killed by {name}", hint
