"""Station 8: one tick for each finished item, where somebody looks. Only here is tqdm known."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

# Seconds a call must last before a bar appears that nobody asked for. Smaller flashes a bar at
# every short map; larger leaves a person wondering.
SHOW_AFTER = 2.0


Setting = bool | str | dict[str, Any] | None


class Progress:
    """The bar of one call, counted in items. It draws nothing, and imports nothing, until it shows.

    Attributes:
        wanted: whether a bar may come; who ticks can spare itself the rest.
    """

    def __init__(self, setting: Setting, total: Callable[[], int | None]):
        self.wanted = setting is not False
        self._setting = setting
        self._total = total
        self._bar: Any = None
        self._show_at = 0.0 if setting is not None else time.monotonic() + SHOW_AFTER

    def at(self, done: int) -> None:
        """`done` items are finished."""
        if not self.wanted:
            return
        if self._bar is None:
            if time.monotonic() < self._show_at:
                return
            if not _can_be_seen() or (self._setting is None and not _someone_looks()):
                self.wanted = False
                return
            self._bar = _new_bar(self._arguments())
        if done > self._bar.n:
            self._bar.update(done - self._bar.n)

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"total": self._total()}
        if isinstance(self._setting, str):
            arguments["desc"] = self._setting
        elif isinstance(self._setting, dict):
            arguments.update(self._setting)
        return arguments

    def close(self, done: int) -> None:
        """The call is over: the bar's last state stays."""
        if not self.wanted or (self._bar is None and self._setting is None):
            return
        self._show_at = 0.0
        self.at(done)
        if self._bar is not None:
            self._bar.close()
        self.wanted = False


def _can_be_seen() -> bool:
    """Whether there is a stderr: a program may run without, and a bar is no reason to fail."""
    return _in_notebook() or (sys.stderr is not None and not sys.stderr.closed)


def _someone_looks() -> bool:
    if _in_notebook():
        return True
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def _new_bar(arguments: dict[str, Any]) -> Any:
    """A tqdm bar without tqdm's thread, and without the semaphore of its default lock."""
    from tqdm import tqdm

    kinds = [tqdm]
    if _in_notebook():
        from tqdm.notebook import tqdm_notebook

        kinds.insert(0, tqdm_notebook)
    for kind in kinds:

        class Bar(kind):  # type: ignore[valid-type,misc]
            monitor_interval = 0

        Bar.set_lock(threading.RLock())
        try:
            return Bar(**arguments)
        except ImportError:  # a notebook without ipywidgets gets the bar in text
            continue
    raise AssertionError("the plain bar needs no import")
