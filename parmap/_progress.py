"""Station 8: one tick for each finished item, where somebody looks. Only here is tqdm known."""

from __future__ import annotations

import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Seconds a call must last for a bar that nobody asked for. Smaller flashes one at every short map;
# larger leaves a person wondering.
SHOW_AFTER = 2.0


class Progress:
    """The bar of one call. It imports nothing until it shows."""

    _bar: Any = None

    def __init__(
        self, setting: bool | str | dict[str, Any] | None, total: Callable[[], int | None]
    ):
        self.wanted = setting is not False
        self._setting, self._total = setting, total
        self._show_at = 0.0 if setting is not None else time.monotonic() + SHOW_AFTER

    def at(self, done: int) -> None:
        """`done` items are finished."""
        if self._bar is None:
            if not self.wanted or time.monotonic() < self._show_at:
                return
            self.wanted = _can_be_seen(asked=self._setting is not None)
            if not self.wanted:
                return
            given = self._setting if isinstance(self._setting, dict) else {}
            label = self._setting if isinstance(self._setting, str) else None
            self._bar = _new_bar({"total": self._total(), "desc": label, **given})
        if done > self._bar.n:
            self._bar.update(done - self._bar.n)

    def close(self, done: int) -> None:
        if self._bar is not None or self._setting is not None:
            self.at(done)
        if self._bar is not None:
            self._bar.close()


def _can_be_seen(asked: bool) -> bool:
    """Whether there is a stderr, which is not sure, and a person who looks at it, or asked."""
    if _in_notebook():
        return True
    try:
        return not getattr(sys.stderr, "closed", True) and (asked or sys.stderr.isatty())
    except ValueError:  # closed
        return False


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _new_bar(arguments: dict[str, Any]) -> Any:
    """A tqdm bar without tqdm's thread, and without the semaphore of its default lock."""
    from tqdm import tqdm

    def made(kind: Any) -> Any:
        bar: Any = type("Bar", (kind,), {"monitor_interval": 0})
        bar.set_lock(threading.RLock())
        return bar(**arguments)

    if _in_notebook():
        from tqdm.notebook import tqdm_notebook

        try:
            return made(tqdm_notebook)
        except ImportError:  # a notebook without ipywidgets gets the bar in text
            pass
    return made(tqdm)
