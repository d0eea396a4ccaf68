"""Station 6: an exception on its way across the process wall, as bytes and text only.

So reading one can never run code of the user's outside a place that expects it to raise.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from parmap._outcome import UNTRUSTED, short_repr

# Links of a chain of exceptions that are followed. More is a cycle or a recursion error, of which
# the text of the traceback shows enough; fewer would cut chains people do write.
CHAIN_LIMIT = 16


class Failure(NamedTuple):
    """An exception on its way across the wall.

    Attributes:
        pickled: the exception by pickle, or b"" where it does not survive that.
        rebuild: pickled (class, args, attributes) to rebuild it without `__init__`, or b"".
        summary: its last line, for where neither works.
        text: the traceback as printed in the worker.
        chain: (name of the link, a Failure's plain tuple) for `__cause__` and `__context__`.
        suppress: its `__suppress_context__`.
        members: plain tuples, too, of the exceptions in a group that does not survive pickle.
    """

    pickled: bytes
    rebuild: bytes
    summary: str
    text: str
    chain: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    suppress: bool = False
    members: tuple[tuple[Any, ...], ...] = ()


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
    members: Sequence[BaseException] = ()
    if isinstance(error, BaseExceptionGroup) and not pickled and depth < CHAIN_LIMIT:
        members = error.exceptions
    return Failure(
        pickled=pickled,
        rebuild=b"" if pickled else _parts(error, dumps),
        summary=_summary(error),
        text=_format(error) if depth == 0 else "",
        chain=tuple(links),
        suppress=error.__suppress_context__,
        members=tuple(tuple(capture(member, dumps, depth + 1)) for member in members),
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

    def portable(value: object) -> bool:
        try:
            pickle.loads(dumps(value))
        except UNTRUSTED:
            return False
        return True

    args = error.args[:1] if isinstance(error, BaseExceptionGroup) else error.args
    args = tuple(a if portable(a) else short_repr(a) for a in args)
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
    try:
        if failure.pickled:
            error: BaseException = pickle.loads(failure.pickled)
            # With tblib, which Dask brings, a traceback is pickled too, and holds these frames.
            error.__traceback__ = None
            return error
        if failure.rebuild:
            cls, args, state = pickle.loads(failure.rebuild)
            if failure.members:
                args = (*args, [_rebuild_chain(Failure(*member)) for member in failure.members])
            error = cls.__new__(cls, *args)
            error.args = args
            vars(error).update(state)
            return error
    except UNTRUSTED as why:  # a class that loads in the worker and not here
        return RuntimeError(f"{failure.summary} (its class cannot be loaded here: {_summary(why)})")
    return RuntimeError(f"{failure.summary} (its class cannot be sent between processes)")
