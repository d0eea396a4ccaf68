"""Station 1: a call, checked and named."""

from __future__ import annotations

import os
import sys
import warnings

from parmap._known import seconds_of
from parmap._outcome import UNTRUSTED, note, run_batch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, TypedDict, TypeVar

    from parmap._inputs import Inputs
    from parmap._outcome import Mapper

    P = TypeVar("P")

    class Options(TypedDict, total=False):
        """`Settings` but `return_exceptions`, which changes the type of the results, and so stands
        in each overload."""

        strict: bool
        parallel: bool | None
        max_workers: int | None
        chunksize: int | None
        buffersize: int | None
        ordered: bool
        task_timeout: float | None
        retries: int
        progress: bool | str | dict[str, Any] | None
        initializer: Callable[..., object] | None
        initargs: tuple[Any, ...]
        mp_context: Any
        executor: Any


# What an error says beside itself that ends a call for want of workers.
NO_WORKERS = "parmap: no workers could be started; parallel=None goes on without"


def warn(text: str) -> None:
    """A RuntimeWarning, at the line that asks for results."""
    frame: FrameType | None = sys._getframe()
    level = 0
    while frame is not None and frame.f_globals.get("__package__") == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, RuntimeWarning, stacklevel=level + 1)


class Settings:
    """`Options`, checked, with their defaults. One object, passed on whole."""

    strict: bool = False
    parallel: bool | None = None
    max_workers: int | None = None
    chunksize: int | None = None
    buffersize: int | None = None
    ordered: bool = True
    return_exceptions: bool = False
    task_timeout: float | None = None
    retries: int = 0
    progress: bool | str | dict[str, Any] | None = None
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    mp_context: Any = None
    executor: Any = None

    def __init__(self, given: dict[str, Any]):
        vars(self).update(given)


DEFAULT = Settings({})

# What other libraries call the same thing.
_ELSEWHERE = {
    "n_jobs": "max_workers",
    "processes": "max_workers",
    "num_workers": "max_workers",
    "workers": "max_workers",
    "chunk_size": "chunksize",
    "batch_size": "chunksize",
    "timeout": "task_timeout",
    "start_method": "mp_context",
    "context": "mp_context",
    "desc": "progress",
    "progress_bar": "progress",
}


def settings(name: str, options: Options, return_exceptions: bool) -> Settings:
    """Check the keyword arguments of the function `name`: an error names argument and value."""
    if not options and return_exceptions is False and _raw_environment.keys().isdisjoint(_keys):
        return DEFAULT
    for keyword in options:
        if keyword not in Settings.__annotations__:
            hint = _ELSEWHERE.get(keyword)
            advice = f"; did you mean {hint}=?" if hint else ""
            raise TypeError(f"{name}() got an unexpected keyword argument {keyword!r}{advice}")
    checked = Settings({**_environment(), **options, "return_exceptions": return_exceptions})
    _check(checked)
    if checked.task_timeout is not None:  # needs workers that can be ended
        checked.parallel = True
    return checked


# ------------------------------------------------------------------ the environment


def _environment() -> dict[str, Any]:
    """The PARMAP_ variables, which hold where the call does not say."""
    return {
        setting: read(name, text)
        for name, (setting, read) in _VARIABLES.items()
        if (text := os.environ.get(name))
    }


_WORDS = {
    **dict.fromkeys(("1", "true", "yes"), True),
    **dict.fromkeys(("0", "false", "no"), False),
    **dict.fromkeys(("auto", "none")),
}


def _truth(name: str, text: str) -> bool | None:
    if text.lower() not in _WORDS:
        raise ValueError(f"{name} must be 1, 0 or auto, not {text!r}")
    return _WORDS[text.lower()]


def _count(name: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{name} must be a whole number from 1, not {text!r}")
    return int(text)


_METHODS = ("fork", "spawn", "forkserver") if hasattr(os, "fork") else ("spawn",)


def start_method(context: Any, name: str = "mp_context") -> str:
    """The start method that `mp_context` names: a name, or a multiprocessing context."""
    named = context if isinstance(context, str) else getattr(context, "get_start_method", None)
    if named is None:
        raise TypeError(
            f"mp_context must be a start method name or a multiprocessing context, not {context!r}"
        )
    method = named if isinstance(named, str) else named()
    if method not in _METHODS:
        raise ValueError(f"{name} must be one of {', '.join(_METHODS)}, not {context!r}")
    return str(method)


_VARIABLES: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "PARMAP_PARALLEL": ("parallel", _truth),
    "PARMAP_MAX_WORKERS": ("max_workers", _count),
    "PARMAP_PROGRESS": ("progress", _truth),
    "PARMAP_START_METHOD": ("mp_context", lambda name, text: start_method(text, name)),
}

# The dict behind os.environ, and its form of these names: look-ups through os.environ cost 3 us,
# as much as all the rest of a small call. Private, so where it is missing, os.environ serves.
_environ: Any = os.environ
try:
    _raw_environment, _keys = _environ._data, frozenset(map(_environ.encodekey, _VARIABLES))
except AttributeError:
    _raw_environment, _keys = _environ, frozenset(_VARIABLES)

# ------------------------------------------------------------------ the arguments


def _check(s: Settings) -> None:
    for name in ("strict", "ordered", "return_exceptions"):
        _check_type(name, getattr(s, name), bool)
    _check_type("parallel", s.parallel, bool, type(None))
    for name in ("max_workers", "chunksize", "buffersize"):
        _check_number(name, getattr(s, name), 1, int, type(None))
    _check_number("retries", s.retries, 0, int)
    _check_number("task_timeout", s.task_timeout, 0, int, float, type(None))
    if s.task_timeout == 0:
        raise ValueError(f"task_timeout must be more than 0 seconds, not {s.task_timeout!r}")
    _check_type("progress", s.progress, bool, str, dict, type(None))
    _check_type("initargs", s.initargs, tuple)
    if s.initializer is not None and not callable(s.initializer):
        raise TypeError(f"initializer must be callable or None, not {s.initializer!r}")
    if s.initargs and s.initializer is None:
        raise ValueError(f"initargs={s.initargs!r} needs an initializer")
    if s.mp_context is not None:
        start_method(s.mp_context)
    if s.executor is not None:
        _check_executor(s)
    if s.task_timeout is not None and s.parallel is False:
        raise ValueError(
            f"task_timeout={s.task_timeout!r} needs workers, and parallel=False forbids them"
        )


# What an executor that the caller brings leaves no room for.
_OF_WORKERS = {
    "mp_context": "cannot hold",
    "initializer": "belongs to it",
    "task_timeout": "would have to end them",
}


def _check_executor(s: Settings) -> None:
    for name, why in _OF_WORKERS.items():
        value = getattr(s, name)
        if value is not None:
            raise ValueError(f"executor= brings its own workers; {name}={value!r} {why}")
    executor = s.executor
    methods = (getattr(executor, name, None) for name in ("submit", "apply_async"))
    if isinstance(executor, type) or not any(callable(method) for method in methods):
        raise TypeError(
            "executor must be a concurrent.futures.Executor (of threads, processes, interpreters, "
            "loky, mpi4py), a Dask Client, or a Pool with apply_async (of multiprocessing, "
            f"multiprocess, Ray), not {executor!r}"
        )
    if getattr(executor, "asynchronous", False):
        raise TypeError(f"executor={executor!r} is asynchronous, and pmap is not")


def _check_type(name: str, value: object, *types: type) -> None:
    if not isinstance(value, types):
        wanted = " or ".join("None" if t is type(None) else t.__name__ for t in types)
        raise TypeError(f"{name} must be {wanted}, not {value!r}")


def _check_number(name: str, value: Any, least: int, *types: type) -> None:
    _check_type(name, value, *types)
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if value is not None and not value >= least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")


class Call:
    """One call: the function, its inputs and settings, and how it is applied: by builtin `map` to
    items that are one argument, by `itertools.starmap` to those that are tuples of them."""

    fn: Callable[..., Any]
    mapper: Mapper
    inputs: Inputs
    settings: Settings

    def __init__(
        self, fn: Callable[..., Any], mapper: Mapper, inputs: Inputs, settings: Settings
    ) -> None:
        self.fn, self.mapper, self.inputs, self.settings = fn, mapper, inputs, settings

    def plain(self, tiny: float) -> bool:
        """Whether its first items may simply be run: nothing has to come before them, and no
        earlier call says that all take longer than these seconds."""
        s = self.settings
        if s is not DEFAULT and (s.parallel or s.initializer is not None or s.progress):
            return False
        count = self.inputs.left() or 0
        return s.parallel is False or seconds_of(self.fn, count) < tiny

    @property
    def insists(self) -> bool:
        """Whether items of lost workers must not be run here: the caller said so, or the workers
        are the caller's own, and may have died of an item."""
        return bool(self.settings.parallel) or self.settings.executor is not None

    def again(self, error: BaseException, index: int, item: Any) -> Any:
        """Run an item that raised again, as often as `retries` allows. Then its exception is
        returned if the caller wants that, else raised."""
        raised: BaseException | None = error
        try:
            for _ in range(self.settings.retries):
                if isinstance(error, KeyboardInterrupt):
                    break
                values, raised = run_batch(self.mapper, self.fn, (item,))
                if raised is None:
                    return values.pop()
                error = raised
            note(error, index, item)
            if self.settings.return_exceptions and isinstance(error, Exception):
                return error
            raise error
        finally:
            del error, raised  # see _outcome.raising

    def initializer(self) -> bytes | None:
        """(initializer, initargs) as a worker gets them."""
        if self.settings.initializer is None:
            return None
        import pickle

        from parmap._transport import dumps_by_value

        pair = (self.settings.initializer, self.settings.initargs)
        try:
            return self.carried(lambda: dumps_by_value(pair))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise TypeError(
                f"initializer {self.settings.initializer!r} and its initargs cannot be sent to "
                f"a worker: {error}"
            ) from error

    def carried(self, packed: Callable[[], P]) -> P:
        """What `packed` gives; else, where something does not pickle, without the globals that the
        initializer sets."""
        try:
            return packed()
        except UNTRUSTED as error:
            if self.settings.initializer is None or isinstance(error, OSError):
                raise
        from parmap._transport import leaving_out

        with leaving_out(self.settings.initializer):
            return packed()
