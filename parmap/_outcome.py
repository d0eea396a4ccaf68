"""Station 6: how items are run, on either side of the process wall, and what comes of them.

An item comes to a value or to an exception. Values stay plain values; an exception crosses the
wall as a `Failure`, which is bytes and text only, so that reading it can never run code of the
user's outside a place that expects it to raise.
"""

from __future__ import annotations

import reprlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

Mapper = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]  # map or itertools.starmap

# Links of a chain of exceptions that are followed. More is a cycle or a recursion error, of which
# the text of the traceback shows enough; fewer would cut chains people do write.
CHAIN_LIMIT = 16

# What code of the user's that runs on our behalf (pickling, repr, __init__) may raise, and must not
# end the call or the worker with. KeyboardInterrupt is not in it: that one is the person's.
UNTRUSTED = (Exception, SystemExit, GeneratorExit)

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 3, 80, 80


def runs_a_chunk() -> bool:
    """Whether this thread is an executor's, running a chunk: a nested call is serial.

    The thread says it (see `_remote`), since what runs there may be a copy of this module.
    """
    return getattr(threading.current_thread(), "parmap_runs_a_chunk", False)


def run_batch(
    mapper: Mapper, fn: Callable[..., Any], items: Sequence[Any]
) -> tuple[list[Any], BaseException | None]:
    """Run `items` until one raises: the values so far, and the exception or None.

    `list.extend` keeps what it took from an iterator that raises later, so the whole batch runs
    at C speed and still tells which item failed: the one at `len(values)`.
    """
    values: list[Any] = []
    try:
        values.extend(mapper(fn, items))
    except BaseException as error:
        return values, error
    if len(values) < len(items):  # map ends where fn raises StopIteration
        return values, stopped()
    return values, None


def emptying(values: list[Any]) -> Iterator[Any]:
    """Iterate a list at C speed while letting go of what was handed out."""
    values.reverse()
    return map(list.pop, repeat(values, len(values)))


def raising(error: BaseException) -> Iterator[Any]:
    """An iterator that raises at its first step, and is empty after it."""
    try:
        raise error
    finally:
        del error  # this frame is in its traceback: together they would live until collected
    yield


def stopped() -> RuntimeError:
    """What a StopIteration out of `fn` becomes, as in a generator (PEP 479): never a silent end."""
    return RuntimeError("the mapped function raised StopIteration")


def short_repr(value: object) -> str:
    """A repr of at most about a line; a repr that raises is told, not raised."""
    try:
        return _short.repr(value)
    except UNTRUSTED as error:
        return f"<{type(value).__name__} object, whose repr raises {type(error).__name__}>"


def note(error: BaseException, index: int, item: object) -> None:
    """Name the item on the exception (PEP 678)."""
    text = f"parmap: raised by item {index}: {short_repr(item)}"
    try:
        if text not in getattr(error, "__notes__", ()):
            error.add_note(text)
    except UNTRUSTED:  # an exception class may forbid attributes; the exception matters more
        return


class Failure(NamedTuple):
    """An exception on its way across the wall.

    Attributes:
        pickled: the exception by pickle, or b"" where it does not survive that.
        rebuild: pickled (class, args, attributes) to rebuild it without `__init__`, or b"".
        summary: its last line, for where neither works.
        text: the traceback as printed in the worker.
        chain: (name of the link, a Failure's plain tuple) for `__cause__` and `__context__`.
        suppress: its `__suppress_context__`.
    """

    pickled: bytes
    rebuild: bytes
    summary: str
    text: str
    chain: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    suppress: bool = False


Dumps = Callable[[Any], bytes]


def capture(error: BaseException, dumps: Dumps, depth: int = 0) -> Failure:
    """Make bytes of an exception, tried before they are sent: dumped, and loaded again."""
    if depth == 0 and error.__traceback__ is not None and error.__traceback__.tb_next is not None:
        error.__traceback__ = error.__traceback__.tb_next  # our own frame tells nobody anything
    pickled = _round_trip(error, dumps)
    links = []
    for name in ("__cause__", "__context__"):
        linked = getattr(error, name)
        if linked is not None and depth < CHAIN_LIMIT:
            links.append((name, tuple(capture(linked, dumps, depth + 1))))
        if name == "__cause__" and linked is error.__context__:
            break
    return Failure(
        pickled=pickled,
        rebuild=b"" if pickled else _parts(error, dumps),
        summary=_summary(error),
        text=_format(error) if depth == 0 else "",
        chain=tuple(links),
        suppress=error.__suppress_context__,
    )


def seal(
    values: list[Any], pack: Callable[[list[Any]], Any], dumps: Dumps
) -> list[tuple[int, Any]]:
    """Values, packed together, with their number; one that does not pickle becomes a Failure."""
    try:
        return [(len(values), pack(values))]
    except BaseException as error:  # whatever the values' own methods raise
        if len(values) > 1:
            return [alone for value in values for alone in seal([value], pack, dumps)]
        return [(1, capture(_cannot_carry(error), dumps))]


def _cannot_carry(why: BaseException) -> BaseException:
    if isinstance(why, OSError):
        return why  # there is no room for it, as it says itself
    error = TypeError(
        f"the result cannot be sent between processes: {type(why).__name__}: {why}. "
        "Return something that pickles, or pass parallel=False."
    )
    error.__cause__ = why
    return error


def _round_trip(error: BaseException, dumps: Dumps) -> bytes:
    import pickle

    try:
        data = dumps(error)
        again = pickle.loads(data)
        if type(again) is type(error) and repr(again.args) == repr(error.args):
            return data
    except UNTRUSTED:
        return b""
    return b""


def _parts(error: BaseException, dumps: Dumps) -> bytes:
    """(class, args, the attributes that pickle): enough to rebuild it without calling __init__."""

    import pickle

    def portable(value: object) -> bool:
        try:
            pickle.loads(dumps(value))
        except UNTRUSTED:
            return False
        return True

    args = tuple(a if portable(a) else short_repr(a) for a in error.args)
    state = {k: v for k, v in getattr(error, "__dict__", {}).items() if portable(v)}
    if not portable(type(error)):
        return b""
    return dumps((type(error), args, state))


def _summary(error: BaseException) -> str:
    import traceback

    try:
        return "".join(traceback.format_exception_only(error)).strip()
    except UNTRUSTED:
        return type(error).__qualname__


def _format(error: BaseException) -> str:
    import traceback

    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except UNTRUSTED:
        return _summary(error)


def rebuild(failure: Failure) -> BaseException:
    """The exception again: same type, args, notes and chain.

    The worker's traceback hangs at the end of the explicit chain, so that a `__cause__` the user
    set stays where `map` would show it.
    """
    from parmap.errors import RemoteTraceback

    error = _rebuild_chain(failure)
    end = error
    while end.__cause__ is not None:
        end = end.__cause__
    end.__cause__ = RemoteTraceback(failure.text)
    return error


def _rebuild_chain(failure: Failure) -> BaseException:
    error = _rebuild_one(failure)
    for name, linked in failure.chain:
        setattr(error, name, _rebuild_chain(Failure(*linked)))
    error.__suppress_context__ = failure.suppress
    return error


def _rebuild_one(failure: Failure) -> BaseException:
    import pickle

    try:
        if failure.pickled:
            error: BaseException = pickle.loads(failure.pickled)
            # With tblib, which Dask brings, a traceback is pickled too, and holds these frames.
            error.__traceback__ = None
            return error
        if failure.rebuild:
            cls, args, state = pickle.loads(failure.rebuild)
            error = cls.__new__(cls, *args)
            error.args = args
            vars(error).update(state)
            return error
    except UNTRUSTED as why:  # a class that loads in the worker and not here
        return RuntimeError(f"{failure.summary} (its class cannot be loaded here: {_summary(why)})")
    return RuntimeError(f"{failure.summary} (its class cannot be sent between processes)")
