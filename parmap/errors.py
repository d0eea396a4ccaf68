"""What can go wrong in parmap that could not go wrong in ``map``.

    concurrent.futures.BrokenExecutor
        WorkerDied          the process that ran an item is gone
    TimeoutError            an item ran longer than task_timeout (the builtin)
    RemoteTraceback         never raised: the __cause__ that carries a worker's traceback

Everything else is an exception of your own function, raised as `map` would raise it.
"""

from __future__ import annotations

import signal
from concurrent.futures import BrokenExecutor

__all__ = ["RemoteTraceback", "WorkerDied"]


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

    def __reduce__(self) -> tuple[type[WorkerDied], tuple[object, ...]]:
        return type(self), (*self.args, self.index, self.exitcode)

    @classmethod
    def of_item(cls, index: int, exitcode: int | None) -> WorkerDied:
        """The error for the item that was running when its worker ended."""
        return cls(
            f"the worker that ran item {index} died: {_how(exitcode)}. {_hint(exitcode)} "
            "The other items are not affected; `retries=` runs such an item again, "
            "`return_exceptions=True` puts this error in its place.",
            index,
            exitcode,
        )

    @classmethod
    def before_work(cls, exitcode: int | None, when: str, refusal: str = "") -> WorkerDied:
        """The error for workers that ended, one after the other, before they ran anything."""
        how = f"the system refuses ({refusal})" if refusal else _how(exitcode)
        return cls(
            f"workers die {when}: {how}. What they wrote to stderr says more, if they did; "
            "`parallel=False` runs the call without workers.",
            None,
            exitcode,
        )


class RemoteTraceback(Exception):  # noqa: N818  (the name the standard library's pools use)
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


def _how(exitcode: int | None) -> str:
    if exitcode is None:
        return "how is not known"
    if exitcode < 0:
        try:
            return f"killed by {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"killed by signal {-exitcode}"
    return f"it exited with code {exitcode}"


def _hint(exitcode: int | None) -> str:
    if exitcode == -signal.SIGTERM:
        return "Something asked it to end."
    if exitcode is not None and exitcode < 0:
        if exitcode == -9:  # Windows has no signal.SIGKILL
            return (
                "That is how the kernel ends a process when memory runs out "
                "(`dmesg` tells); fewer `max_workers` need less."
            )
        name = _how(exitcode).removeprefix("killed by ")
        return f"{name} points to compiled code; `python -X faulthandler` shows where."
    return "Something in it called os._exit, or the process was ended from outside."
