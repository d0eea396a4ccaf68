"""Where the caller is: what a function sees of its process under `map`, and a worker can follow. It
is sent when it has changed."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, NamedTuple

from parmap._outcome import loaded


class Place(NamedTuple):
    cwd: str | None
    path: tuple[str, ...]
    environ: dict[str, str]
    filters: tuple[Any, ...]
    levels: dict[str, int]
    disabled: int
    kin: Kin


class Kin(NamedTuple):
    """What processes of one multiprocessing family share: the default start method, the key by
    which managers know them, the pipe to who keeps count of shared memory. A worker with a tracker
    of its own would unlink memory that it was lent."""

    method: str | None = None
    authkey: bytes | None = None
    tracker: str | None = None


def place() -> Place:
    try:
        cwd: str | None = os.getcwd()
    except FileNotFoundError:  # deleted under our feet
        cwd = None
    # Filters of other categories would make every worker import their modules.
    filters = tuple(f for f in warnings.filters if f[2].__module__ == "builtins")
    return Place(cwd, tuple(sys.path), dict(os.environ), filters, *_levels(), _kin())


def _levels() -> tuple[dict[str, int], int]:
    """Of loggers, and what is disabled; nothing where all is as in a new process."""
    logging = loaded("logging")
    if logging is None:
        return {}, 0
    manager = logging.root.manager
    loggers = {"": logging.root, **manager.loggerDict}
    levels = {n: logger.level for n, logger in loggers.items() if getattr(logger, "level", 0)}
    return {} if levels == {"": logging.WARNING} else levels, manager.disable


def _kin() -> Kin:
    """Nothing where the caller does not use multiprocessing: its import takes 10 ms."""
    family = loaded("multiprocessing")
    if family is None:
        return Kin()
    method = family.get_start_method(allow_none=True)
    if method == family.get_all_start_methods()[0]:
        method = None  # as in any process
    tracker = loaded("multiprocessing.resource_tracker")
    pipe = None if tracker is None else tracker._resource_tracker._fd
    if method is None and pipe is None and "multiprocessing.connection" not in sys.modules:
        return Kin()
    key = bytes(family.current_process().authkey)
    return Kin(method, key, None if pipe is None else f"/proc/{os.getpid()}/fd/{pipe}")


def thread_limits(threads: int) -> dict[str, str]:
    """For BLAS and OpenMP in a worker: its share of the cores."""
    return dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
         "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS"),
        str(threads),
    )  # fmt: skip


def follow(wanted: Place, threads: dict[str, str]) -> None:
    """In a worker: go where the caller is. `threads` holds unless the user's environment says."""
    try:
        os.chdir(wanted.cwd or "")
    except OSError:
        _go_nowhere()
    sys.path[:] = wanted.path
    environ = {**threads, **wanted.environ}
    if environ != os.environ:
        os.environ.clear()
        os.environ.update(environ)
    if wanted.filters != tuple(warnings.filters):
        warnings.resetwarnings()  # forgets what it was warned of, too
        warnings.filters[:] = wanted.filters  # type: ignore[index]
    _set_levels(wanted.levels, wanted.disabled)
    _join(wanted.kin)


def _go_nowhere() -> None:
    """Into a directory that is deleted, as the caller's is: fn must not write elsewhere."""
    import tempfile

    try:
        folder = tempfile.mkdtemp(prefix="parmap-")
    except OSError:
        return  # nowhere to write at all
    os.chdir(folder)
    os.rmdir(folder)


_levelled: dict[str, int] = {}  # what loggers had that were given a level here


def _set_levels(levels: dict[str, int], disabled: int) -> None:
    global _levelled
    if not (levels or _levelled or disabled or "logging" in sys.modules):
        return  # nothing to set, and no reason to import logging, for 5 ms
    import logging

    logging.disable(disabled)
    for name, level in {**_levelled, **levels}.items():
        logging.getLogger(name).setLevel(level)
    _levelled = {name: logging.NOTSET if name else logging.WARNING for name in levels}


_method: str | None = None  # that was set here, as the caller had it


def _join(kin: Kin) -> None:
    global _method
    if kin == Kin() and _method is None:
        return
    import multiprocessing.resource_tracker

    if kin.method != _method:
        multiprocessing.set_start_method(kin.method, force=True)
        _method = kin.method
    if kin.authkey is not None:
        multiprocessing.current_process().authkey = kin.authkey
    mine: Any = multiprocessing.resource_tracker._resource_tracker
    if kin.tracker is not None and mine._fd is None:
        try:
            mine._fd = os.open(kin.tracker, os.O_WRONLY)
        except OSError:
            pass  # not Linux: memory that is lent needs track=False
