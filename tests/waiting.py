"""How tests wait: for an event, never for a time, and never for ever."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Seconds after which something that should happen is taken not to. Generous: a busy machine is not
# a fault, and nobody waits for it but who has one.
LIMIT = 10.0


def eventually(true: Callable[[], object], seconds: float = LIMIT) -> bool:
    """Whether `true()` comes to hold within the limit."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)  # between two looks, not instead of one
    return True


@contextmanager
def short_temp() -> Iterator[str]:
    """A temp directory for a program that may be killed with all it started, so that nobody is
    left to tidy up. Short, for the path of a socket has 108 bytes at the most."""
    folder = tempfile.mkdtemp(prefix="pm")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
