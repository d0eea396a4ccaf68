"""What this machine lets this process use, processors and memory; and what workers cost on it, as
measured before. Decides nothing."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Bytes of a worker without data, but with numpy. Smaller fills a small machine with processes;
# larger leaves its cores idle.
WORKER_BYTES = 64 * 2**20


def usable_cores(root: str = "/") -> tuple[int, str]:
    """How many cores this process may keep busy, and what set that limit.

    The least of: the cores there are, this process's affinity, the CPU quota of its cgroup and of
    every group above, rounded up. `PYTHON_CPU_COUNT` overrides them all, as in Python 3.13.

    Args:
        root: where /proc and /sys are; tests give a folder of recorded files.
    """
    told = os.environ.get("PYTHON_CPU_COUNT", "")
    if told.isdigit() and int(told) > 0:
        return int(told), "PYTHON_CPU_COUNT"
    limits = [(os.cpu_count() or 1, "cores of the machine")]
    if hasattr(os, "sched_getaffinity"):
        limits.append((len(os.sched_getaffinity(0)), "affinity of this process"))
    quota = _quota(root, _moment())
    if quota is not None:
        limits.append((max(1, math.ceil(quota)), "CPU quota of its cgroup"))
    return min(limits, key=lambda limit: limit[0])


def available_bytes(root: str = "/") -> int | None:
    """Memory that new processes could use, in bytes; None where the system does not say."""
    return _available(root, _moment())


def has_foreign_threads() -> bool:
    """Whether there are threads that Python has not made: those of numpy's BLAS, say."""
    try:
        return len(os.listdir("/proc/self/task")) > threading.active_count()
    except OSError:
        return False


def _moment() -> int:
    """Changes every five seconds: what files say holds for that long, for reading takes 1 ms."""
    return int(time.monotonic() / 5)


@lru_cache(maxsize=4)
def _available(root: str, _: int) -> int | None:
    lines = _read(root, "proc/meminfo").splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for folder in _with_ancestors(root):
        for limit, usage in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most, used = _read(folder, limit), _read(folder, usage)
            if most.isdigit() and used.isdigit() and int(most) < sys.maxsize // 2:
                found.append(max(0, int(most) - int(used)))
    return min(found, default=None)


@lru_cache(maxsize=8)
def _groups(root: str) -> tuple[tuple[str, str], ...]:
    """(mount point, own group) of each cgroup hierarchy: ("", version 2) or (controller, v1)."""
    mounts: dict[str, str] = {}
    for line in _read(root, "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.partition(" ")
        names = options.split()[-1].split(",") if kind == "cgroup" else [""]
        if kind in ("cgroup", "cgroup2"):
            mounts.update(dict.fromkeys(names, left.split()[4].lstrip("/")))
    groups = []
    for line in _read(root, "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        for name in controllers.split(","):
            if name in mounts:
                groups.append((os.path.join(root, mounts[name]), group.lstrip("/")))
    return tuple(dict.fromkeys(groups))


def _with_ancestors(root: str) -> Iterator[str]:
    """Folders of this process's control groups and of every group above them."""
    for mount, group in _groups(root):
        while group:
            yield os.path.join(mount, group)
            group = os.path.dirname(group)
        yield mount  # in a container this is the own group, whatever its name says


@lru_cache(maxsize=4)
def _quota(root: str, _: int) -> float | None:
    """The least CPU quota of all groups, in cores."""
    found = []
    for folder in _with_ancestors(root):
        words = _read(folder, "cpu.max").split()  # version 2: "quota period"
        if not words:  # version 1 has a file each
            words = [_read(folder, f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if len(words) == 2 and all(words) and words[0] not in ("max", "-1"):
            found.append(int(words[0]) / int(words[1]))
    return min(found, default=None)


def _read(folder: str, name: str) -> str:
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


# ------------------------------------------------------------------ what workers cost
#
# Where its file is missing, old or broken, the built-in costs serve.


# Not a NamedTuple: typing takes 3 ms to import.
class Costs:
    """Seconds that workers cost on this machine. The defaults are this project's own machine."""

    start: float = 0.024  # the caller is busy with a first call: imports, asking for workers
    boot: float = 0.017  # after that, until a new worker has answered; the caller goes on meanwhile
    hire: float = 0.002  # one more worker than there are cores
    call: float = 0.5e-3  # a call on warm workers: until the first answer, its items apart
    wake: float = 1.5e-3  # what that takes longer after a pause: on cold caches, idle processors
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

_VERSION = 5
_costs: Costs | None = None
_written = Costs()  # what the next process takes
_written_at = -math.inf


def costs() -> Costs:
    """From the file at first, then from what was measured since."""
    global _costs, _written
    if _costs is None:
        _costs = _written = _read_costs(_path()) or Costs()
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


def called(seconds: float, rested: bool) -> None:
    """A call on warm workers took so long beside its items."""
    measured(**{"wake": seconds - costs().call} if rested else {"call": seconds})


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


def _read_costs(path: str) -> Costs | None:
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
