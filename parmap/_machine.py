"""What this machine lets this process use: processors and memory. Reads, decides nothing."""

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
