"""Where the caller is, as far as a process can be told to be there too.

Under `map` a function sees the caller's working directory, sys.path, environment, warnings filters
and logging levels of this moment. They are sent to a worker when they have changed, and it follows.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, NamedTuple

from parmap._loaded import loaded


class Place(NamedTuple):
    """Where the caller is, as far as a process can be told to be there too."""

    cwd: str | None
    path: tuple[str, ...]
    environ: dict[str, str]
    filters: tuple[Any, ...]
    levels: dict[str, int]
    disabled: int
    kin: Kin | None


class Kin(NamedTuple):
    """What processes of one multiprocessing family have in common: the default start method, the
    key by which managers know them, and the pipe to who keeps count of shared memory. A worker with
    a tracker of its own would take memory that it was lent for its own, and unlink it."""

    method: str | None
    authkey: bytes
    tracker: str | None


def place() -> Place:
    """The caller's place now."""
    try:
        cwd: str | None = os.getcwd()
    except FileNotFoundError:  # deleted under our feet; a worker can stay where it is
        cwd = None
    simple = tuple(f for f in warnings.filters if _portable_filter(f))
    return Place(cwd, tuple(sys.path), dict(os.environ), simple, *_levels(), _kin())


def _portable_filter(entry: tuple[Any, ...]) -> bool:
    """Filters of builtin categories; others would make every worker import their module."""
    return getattr(entry[2], "__module__", "") == "builtins"


def _levels() -> tuple[dict[str, int], int]:
    """Of all loggers that have one, and what is disabled; nothing where all is as it is in a new
    process."""
    logging = loaded("logging")
    if logging is None:
        return {}, 0
    manager = logging.root.manager
    loggers = {"": logging.root, **manager.loggerDict}
    levels = {
        name: logger.level
        for name, logger in list(loggers.items())
        if isinstance(logger, logging.Logger) and logger.level
    }
    return {} if levels == {"": logging.WARNING} else levels, manager.disable


def _kin() -> Kin | None:
    """Nothing where the caller does not use multiprocessing: its import takes 10 ms."""
    family = loaded("multiprocessing")
    if family is None:
        return None
    chosen = family.get_start_method(allow_none=True)
    tracker = loaded("multiprocessing.resource_tracker")
    pipe = None if tracker is None else tracker._resource_tracker._fd
    if chosen == family.get_all_start_methods()[0]:
        chosen = None  # as in any process
    if chosen is None and pipe is None and "multiprocessing.connection" not in sys.modules:
        return None
    key = bytes(family.current_process().authkey)
    return Kin(chosen, key, None if pipe is None else f"/proc/{os.getpid()}/fd/{pipe}")


_method: str | None = None  # that was set here, as the caller had it


def _join(kin: Kin | None) -> None:
    global _method
    method = None if kin is None else kin.method
    if method != _method:
        import multiprocessing

        multiprocessing.set_start_method(method, force=True)
        _method = method
    if kin is None:
        return
    import multiprocessing.resource_tracker

    multiprocessing.current_process().authkey = kin.authkey
    mine: Any = multiprocessing.resource_tracker._resource_tracker
    if kin.tracker is not None and mine._fd is None:
        try:
            mine._fd = os.open(kin.tracker, os.O_WRONLY)
        except OSError:
            pass  # not Linux: memory that is lent has to be opened with track=False


def thread_limits(threads: int) -> dict[str, str]:
    """BLAS and OpenMP in a worker: its share of the cores, unless the user's environment says."""
    return dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
         "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS"),
        str(threads),
    )  # fmt: skip


def follow(wanted: Place, threads: dict[str, str]) -> None:
    """Go where the caller is (in the worker). `threads` limits BLAS, unless the user did."""
    try:
        os.chdir(wanted.cwd or "")
    except OSError:
        _go_nowhere()
    sys.path[:] = wanted.path
    environ = {**threads, **wanted.environ}
    if environ != dict(os.environ):
        os.environ.clear()
        os.environ.update(environ)
    if wanted.filters != tuple(warnings.filters):
        warnings.filters[:] = list(wanted.filters)  # type: ignore[index]
        getattr(warnings, "_filters_mutated", lambda: None)()
    _follow_levels(wanted.levels, wanted.disabled)
    _join(wanted.kin)


def _go_nowhere() -> None:
    """Into a directory that is deleted, as the caller's is: what fn writes there must not land
    somewhere else."""
    import tempfile

    try:
        folder = tempfile.mkdtemp(prefix="parmap-")
    except OSError:
        return  # nowhere to write at all
    os.chdir(folder)
    os.rmdir(folder)


_levelled: frozenset[str] = frozenset()  # loggers that were given a level here


def _follow_levels(levels: dict[str, int], disabled: int) -> None:
    global _levelled
    if not levels and not _levelled and not disabled and "logging" not in sys.modules:
        return  # nothing to set, and no reason to import logging, for 5 ms
    import logging

    logging.disable(disabled)

    for name in _levelled - levels.keys():
        logging.getLogger(name or None).setLevel(logging.NOTSET if name else logging.WARNING)
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
    _levelled = frozenset(levels)
