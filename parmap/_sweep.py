"""Who removes the files of a caller that was killed: somebody who outlives it.

A caller that ends, however badly, removes its files itself, unless it is killed by SIGKILL. Then
  - its fork server does, where it has one (see `_zygote`);
  - else a shell does, which waits for nothing but the caller's end (`Sweeper`);
  - and where these were killed with it, the next process of this user that starts workers.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from parmap._files import default_places, directory_name, namespace, remove_directory

# Twice: a worker that is being killed at the same moment may just have begun another file.
_SCRIPT = 'read _ || { rm -rf -- "$@"; sleep 0.5; rm -rf -- "$@"; }'


def start_sweeper(directories: Sequence[str]) -> subprocess.Popen[bytes] | None:
    """A process that removes the directories once this one is gone; None where it cannot start.

    The end of its stdin is its sign, so copies of the caller must close theirs.
    """
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "parmap-sweep", *directories],
            bufsize=0,  # a buffer has a lock, which copies of this process may find taken
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # a Ctrl-C in the terminal is not for it
        )
    except (OSError, RuntimeError):  # no shell, too many processes, an interpreter that is ending
        return None


def end_sweeper(sweeper: subprocess.Popen[bytes]) -> None:
    """All is well: it need not sweep."""
    sweeper.kill()
    sweeper.wait()


def sweep_after_the_dead() -> None:
    """Remove directories of processes of this user that are no more."""
    for path in _directories():
        owner = path.rsplit("-", 2)[1]
        if owner.isdigit() and not _alive(int(owner)):
            _remove(path)


def sweep_after(caller: int) -> None:
    """Remove the directories of a process that is no more."""
    for path in _directories(caller):
        _remove(path)


def _directories(caller: int | None = None) -> list[str]:
    """Those of one process, or of all."""
    found = []
    for place in default_places():
        try:
            names = os.listdir(place)
        except OSError:
            continue
        found += [os.path.join(place, name) for name in names if _is_ours(name, caller)]
    return found


def _is_ours(name: str, caller: int | None) -> bool:
    start, _, rest = name.rpartition("-")
    owner = start.rpartition("-")[2] if caller is None else caller
    return start + "-" == directory_name(owner) and rest.startswith(namespace())


def _remove(path: str) -> None:
    try:
        if os.lstat(path).st_uid == os.getuid():
            remove_directory(path)
    except FileNotFoundError:
        pass  # somebody else who sweeps was faster


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
