"""Who removes the files of a caller that SIGKILL kept from it.

Its fork server (see `_zygote`), or a shell, which first ends workers in which `fn` has closed all
descriptors; where these were killed too, the next process of this user that starts workers.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress

from parmap._files import default_places, directory_name, names_in, remove_directory
from parmap._quiet import no_copy

# Twice: a worker that is killed at the same moment may just have begun another file.
_SCRIPT = """
while read -r now; do workers=$now; done
kill -9 $workers
rm -rf -- "$@"; sleep 0.5; rm -rf -- "$@"
"""


def start_sweeper(directories: list[str]) -> subprocess.Popen[bytes] | None:
    """A shell that removes them at the end of its stdin, which copies of the caller must close. The
    last line says whom to kill."""
    try:
        with no_copy:
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


def sweep_after_the_dead() -> None:
    for owner, path in _directories():
        if not _alive(owner):
            remove_directory(path)


def sweep_after(caller: int) -> None:
    for owner, path in _directories():
        if owner == caller:
            remove_directory(path)


def _directories() -> Iterator[tuple[int, str]]:
    """Those of this user, with the process that made each."""
    for place in default_places():
        for name in names_in(place):
            owner = name.rpartition("-")[0].rpartition("-")[2]
            if owner.isdecimal() and name.startswith(directory_name(owner)):
                path = os.path.join(place, name)
                with suppress(FileNotFoundError):  # somebody else who sweeps was faster
                    if os.lstat(path).st_uid == os.getuid():
                        yield int(owner), path


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # somebody may have made up the number
        return False
    except PermissionError:
        pass
    return True
