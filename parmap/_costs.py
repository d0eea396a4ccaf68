"""What workers cost on this machine, as measured before, and kept in the user's cache directory.

Where that file is missing, old, broken or forbidden, the built-in costs serve, and nobody is told.
"""

from __future__ import annotations

import math
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


# Not a NamedTuple: typing takes 3 ms to import, in a call that may well stay serial.
class Costs:
    """Seconds that workers cost on this machine. The defaults are this project's own machine."""

    start: float = 0.018  # the caller is busy with a first call: imports, asking for workers
    boot: float = 0.030  # after that, until a new worker has answered; the caller goes on meanwhile
    hire: float = 0.002  # one more worker than the first two
    call: float = 0.3e-3  # fixed cost of a call on warm workers, there and back
    chunk: float = 40e-6  # one more chunk, on both sides of the wall
    # How many times longer an item computes while all cores are busy, and share units or a cache.
    crowding: float = 1.1

    def __init__(self, *seconds: float, **named: float):
        vars(self).update(zip(Costs.__annotations__, seconds, strict=False), **named)

    def __iter__(self) -> Iterator[float]:
        return (getattr(self, name) for name in Costs.__annotations__)


# Share of a new measurement in what is kept, if it is less, and if it is more: what else runs only
# ever adds to it, and calls that stay serial for that measure nothing more. Smaller learns slowly;
# larger believes a busy moment.
LEARNING_LESS = 0.3
LEARNING_MORE = 0.1

# How many times more or less a measurement may be than what is kept, and that than the built-in.
# Larger believes anything, and then no call might be parallel, and measure, any more.
MOST_CHANGE = 3.0
FARTHEST = 8.0

# Crowding that is believed at the most; two workers then still do 1.18 times the work of one.
MOST_CROWDING = 1.7

# Seconds after which the file is out of date: machines get other neighbours and interpreters.
FILE_SECONDS = 30 * 86_400

# How many times more or less a cost must be to be written again, and seconds between two writes.
# Smaller writes after every call, at 0.5 ms; larger leaves the next process behind.
NEWS = 1.1
WRITE_SECONDS = 30.0

_VERSION = 3
_costs: Costs | None = None
_written = Costs()  # what the next process takes
_written_at = -math.inf


def costs() -> Costs:
    """From the file at first, then from what was measured since."""
    global _costs, _written
    if _costs is None:
        _costs = _written = _read(_path()) or Costs()
    return _costs


def measured(**seconds: float) -> None:
    """Take a measurement into account: `measured(boot=0.06)`."""
    global _costs
    known = Costs(*costs())
    for name, value in seconds.items():
        old, built_in = getattr(known, name), getattr(Costs, name)
        share = LEARNING_LESS if value < old else LEARNING_MORE
        learned = old + share * (_within(MOST_CHANGE, old, value) - old)
        setattr(known, name, _within(FARTHEST, built_in, learned))
    _costs = known


def _within(times: float, middle: float, value: float) -> float:
    return min(max(value, middle / times), middle * times)


def remember() -> None:
    """Write it for the next process, where it is news."""
    late = time.monotonic() > _written_at + WRITE_SECONDS
    pairs = zip(costs(), _written, strict=True)
    if late and any(not old / NEWS < new < old * NEWS for new, old in pairs):
        write()


def write() -> None:
    global _written, _written_at
    _written, _written_at = costs(), time.monotonic()
    path = _path()
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(temporary, "x", encoding="ascii") as file:
            file.write(" ".join(map(repr, (_VERSION, *costs()))))
        os.replace(temporary, path)  # whole or not at all, whoever else writes
    except OSError:
        pass  # the next process takes the built-in costs, and measures again


def _path() -> str:
    """One file for each host and interpreter: home directories are shared between machines."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    name = f"costs-{host}-{sys.implementation.cache_tag}-{os.cpu_count()}"
    return os.path.join(base, "parmap", name)


def _read(path: str) -> Costs | None:
    try:
        if time.time() - os.stat(path).st_mtime > FILE_SECONDS:
            return None
        with open(path, encoding="ascii") as file:
            version, *words = file.read(1000).split()
        found = Costs(*map(float, words))
    except (OSError, ValueError):  # missing, forbidden; not numbers
        return None
    usable = all(math.isfinite(value) and 0 < value < 60 for value in found)
    return found if usable and version == str(_VERSION) and len(words) == len([*found]) else None
