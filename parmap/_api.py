"""Station 1: what you are promised."""

from __future__ import annotations

import itertools
import sys
import warnings

from parmap._call import settings
from parmap._report import Report
from parmap._way import InTurns, way_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Literal, TypeVar, Unpack, overload

    from parmap._call import Options, Settings
    from parmap._outcome import Mapper

    T = TypeVar("T")
    T1 = TypeVar("T1")
    T2 = TypeVar("T2")
    T3 = TypeVar("T3")
    T4 = TypeVar("T4")
    T5 = TypeVar("T5")


# A chain of batches: iterating costs what iterating a list costs.
class Results(itertools.chain["T"]):
    """What `pmap` and `pstarmap` return: an iterator, like the one `map` returns.

    Attributes:
        report: what was decided and why, and what it came to so far (see `Report`).

    Examples:
        >>> squares = pmap(lambda x: x * x, range(5))
        >>> next(squares), list(squares)
        (0, [1, 4, 9, 16])
        >>> squares.report.items
        5
    """

    report: Report
    _batches: Any = None
    _name = "pmap"

    def close(self) -> None:
        """End the call: no more results; items that have not begun do not begin.

        Happens by itself when the iterator is exhausted, or is dropped.

        Examples:
            >>> squares = pmap(lambda x: x * x, range(5))
            >>> next(squares), squares.close(), list(squares)
            (0, None, [])
        """
        self._batches.close()

    def __del__(self) -> None:
        batches = self._batches
        if batches is None or batches.gi_frame is None:
            return
        if not batches.gi_suspended and not batches.gi_running:
            warnings.warn(
                f"{self._name} was never consumed: it is lazy, as map is, so nothing was run",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )
        if not sys.is_finalizing():  # then all workers have been ended, and modules are half gone
            batches.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a pmap iterator cannot be pickled or copied: it belongs to this process; "
            "send list(...) of it instead"
        )

    def __repr__(self) -> str:
        return f"<{self._name}: {self.report.mode}, {self.report.items} items run>"


# One overload a line, as the table it is.
# fmt: off
if TYPE_CHECKING:
    @overload
    def pmap(fn: Callable[[T1], T], it1: Iterable[T1], /, *, return_exceptions: Literal[False] = False, **options: Unpack[Options]) -> Results[T]: ...
    @overload
    def pmap(fn: Callable[[T1], T], it1: Iterable[T1], /, *, return_exceptions: bool, **options: Unpack[Options]) -> Results[T | Exception]: ...
    @overload
    def pmap(fn: Callable[[T1, T2], T], it1: Iterable[T1], it2: Iterable[T2], /, *, return_exceptions: Literal[False] = False, **options: Unpack[Options]) -> Results[T]: ...
    @overload
    def pmap(fn: Callable[[T1, T2], T], it1: Iterable[T1], it2: Iterable[T2], /, *, return_exceptions: bool, **options: Unpack[Options]) -> Results[T | Exception]: ...
    @overload
    def pmap(fn: Callable[[T1, T2, T3], T], it1: Iterable[T1], it2: Iterable[T2], it3: Iterable[T3], /, *, return_exceptions: Literal[False] = False, **options: Unpack[Options]) -> Results[T]: ...
    @overload
    def pmap(fn: Callable[[T1, T2, T3], T], it1: Iterable[T1], it2: Iterable[T2], it3: Iterable[T3], /, *, return_exceptions: bool, **options: Unpack[Options]) -> Results[T | Exception]: ...
    @overload
    def pmap(fn: Callable[[T1, T2, T3, T4], T], it1: Iterable[T1], it2: Iterable[T2], it3: Iterable[T3], it4: Iterable[T4], /, *, return_exceptions: Literal[False] = False, **options: Unpack[Options]) -> Results[T]: ...
    @overload
    def pmap(fn: Callable[[T1, T2, T3, T4], T], it1: Iterable[T1], it2: Iterable[T2], it3: Iterable[T3], it4: Iterable[T4], /, *, return_exceptions: bool, **options: Unpack[Options]) -> Results[T | Exception]: ...
    @overload
    def pmap(fn: Callable[[T1, T2, T3, T4, T5], T], it1: Iterable[T1], it2: Iterable[T2], it3: Iterable[T3], it4: Iterable[T4], it5: Iterable[T5], /, *, return_exceptions: Literal[False] = False, **options: Unpack[Options]) -> Results[T]: ...
    @overload
    def pmap(fn: Callable[[T1, T2, T3, T4, T5], T], it1: Iterable[T1], it2: Iterable[T2], it3: Iterable[T3], it4: Iterable[T4], it5: Iterable[T5], /, *, return_exceptions: bool, **options: Unpack[Options]) -> Results[T | Exception]: ...
    @overload
    def pmap(fn: Callable[..., T], it1: Iterable[Any], it2: Iterable[Any], it3: Iterable[Any], it4: Iterable[Any], it5: Iterable[Any], it6: Iterable[Any], /, *more: Iterable[Any], return_exceptions: Literal[False] = False, **options: Unpack[Options]) -> Results[T]: ...
    @overload
    def pmap(fn: Callable[..., T], it1: Iterable[Any], it2: Iterable[Any], it3: Iterable[Any], it4: Iterable[Any], it5: Iterable[Any], it6: Iterable[Any], /, *more: Iterable[Any], return_exceptions: bool, **options: Unpack[Options]) -> Results[T | Exception]: ...
# fmt: on
def pmap(
    fn: Callable[..., Any],
    /,
    *iterables: Iterable[Any],
    return_exceptions: bool = False,
    **options: Unpack[Options],
) -> Results[Any]:
    """Equals `map(fn, *iterables)`, from all cores where that is sooner.

    The same values and exceptions in the same order, as lazily. But `fn` may run in another process,
    and what it changes there stays there; up to about a millisecond of cheap items, or a bounded
    window of items in workers, is run ahead of the consumer; and a StopIteration raised by `fn` is a
    RuntimeError, not a silent end.

    Args:
        fn: the function. Lambdas and closures are fine; classes of `__main__` keep their identity.
        *iterables: one or more; the shortest ends the call. Drawn in the calling thread only.
        strict: if True, iterables of different lengths raise ValueError, as in Python 3.14's `map`.
            Default False.
        parallel: None (default) measures the first items and decides; True uses workers from the
            first item on; False never does.
        max_workers: how many workers at the most. Default None: the cores this process may use,
            more for functions that wait.
        chunksize: items sent to a worker at a time. Default None: adapted to measured times.
        buffersize: items submitted and not yet yielded, at the most. Default None: bounded by
            bytes and time.
        ordered: if False, results come as they are ready. Default True.
        return_exceptions: if True, an item's exception is its result (as in `asyncio.gather`); only
            subclasses of Exception. Default False: it is raised at its position, and iteration can
            go on after it.
        task_timeout: seconds one item may take; then its worker is ended, and a TimeoutError takes
            the item's place. Needs workers, so it pins `parallel=True`. Default None.
        retries: how many more times to run an item that raised, timed out or lost its worker.
            Default 0.
        progress: a tqdm bar counted in items. None (default): where a person looks and the work
            takes over two seconds; True or False; a str is its label; a dict goes to tqdm.
        initializer: called once in each process that runs items, before the first. Default None.
        initargs: the arguments of `initializer`, a tuple. Default ().
        mp_context: start method name or multiprocessing context. Default None: what the user set
            for multiprocessing, else "forkserver", else "spawn". "fork" makes workers for this
            call, which see the caller as it is now.
        executor: run on these workers rather than parmap's own: a `concurrent.futures.Executor`, a
            Dask `Client`, or a Pool with `apply_async` (Ray's, multiprocess'). It is yours: it is
            not shut down. Not together with `task_timeout`, `initializer` or `mp_context`.

    Returns:
        An iterator with two more attributes: `report` (see `Report`) and `close()`.

    Raises:
        TypeError: at the call, for an argument of the wrong type, and for a wrong name, with the
            right one; at the position of an item or a result that does not pickle.
        ValueError: at the call, for an argument that cannot be, with its name and value.
        WorkerDied: at the position of an item whose worker ended under it.
        TimeoutError: at the position of an item that took longer than `task_timeout`.
        Exception: whatever `fn` or an iterable raises, at its position; a note names the item.

    Examples:
        >>> list(pmap(lambda x: x * x, range(5)))
        [0, 1, 4, 9, 16]
        >>> list(pmap(int, ["1", "two"], return_exceptions=True))
        [1, ValueError("invalid literal for int() with base 10: 'two'")]
    """
    if not iterables:
        raise TypeError("pmap() must have at least two arguments: a function and an iterable")
    mapper: Any = map if len(iterables) == 1 else itertools.starmap
    return _results(fn, mapper, iterables, settings("pmap", options, return_exceptions))


# One overload a line, as the table it is.
# fmt: off
if TYPE_CHECKING:
    @overload
    def pstarmap(fn: Callable[..., T], iterable: Iterable[Iterable[Any]], /, *, return_exceptions: Literal[False] = False, **options: Unpack[Options]) -> Results[T]: ...
    @overload
    def pstarmap(fn: Callable[..., T], iterable: Iterable[Iterable[Any]], /, *, return_exceptions: bool, **options: Unpack[Options]) -> Results[T | Exception]: ...
# fmt: on
def pstarmap(
    fn: Callable[..., Any],
    iterable: Iterable[Iterable[Any]],
    /,
    *,
    return_exceptions: bool = False,
    **options: Unpack[Options],
) -> Results[Any]:
    """Equals `itertools.starmap(fn, iterable)`, from all cores where that is sooner.

    Args:
        fn: the function; called as `fn(*item)`.
        iterable: of tuples of arguments, or of other iterables.
        **options: as for `pmap`, with the same meaning and defaults; see there also for what is
            returned and raised.

    Examples:
        >>> list(pstarmap(pow, [(2, 5), (3, 2)]))
        [32, 9]
    """
    checked = settings("pstarmap", options, return_exceptions)
    results = _results(fn, itertools.starmap, (iterable,), checked)
    results._name = "pstarmap"
    return results


def shutdown() -> None:
    """End all workers of this process now. The next call that needs some starts new ones.

    Happens by itself when a worker has been idle for a minute, and when the interpreter exits.
    Calls in progress lose their workers: do not call it while another thread iterates a `pmap`.

    Examples:
        >>> from parmap import pmap, shutdown
        >>> sum(pmap(abs, range(-9, 1), parallel=True, max_workers=1))
        45
        >>> shutdown()
    """
    end = getattr(sys.modules.get("parmap._pool"), "shutdown", None)
    if end is not None:  # else no worker was ever wanted
        end()


def _results(
    fn: Callable[..., Any], mapper: Mapper, iterables: Sequence[Any], checked: Settings
) -> Results[Any]:
    report = Report()
    batches = way_of(fn, mapper, iterables, checked, report)
    results: Results[Any] = Results.from_iterable(InTurns(batches))  # type: ignore[assignment]
    results.report, results._batches = report, batches
    return results
