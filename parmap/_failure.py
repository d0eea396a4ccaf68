"""Station 6: an exception on its way across the process wall, as bytes and text only: so reading
one cannot run code of the user's outside a place that expects it to raise."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from parmap._outcome import UNTRUSTED, short_repr

# Exceptions of a chain that are followed. More are a cycle or a recursion error, of which the
# traceback shows enough; fewer would cut chains people do write.
CHAIN_LIMIT = 16

Dumps = Callable[[Any], bytes]


class Failure(NamedTuple):
    """An exception, with those it is linked to.

    Attributes:
        pickled: by pickle, or b"" where it does not survive that.
        rebuild: pickled (class, args, attributes) to rebuild it without `__init__`, or b"".
        summary: its last line, for where neither works.
        text: the traceback as printed in the worker.
        links: (name, a Failure's plain tuple) for `__cause__` and `__context__`; "" for members
            of a group that does not survive pickle.
        suppress: its `__suppress_context__`.
    """

    pickled: bytes
    rebuild: bytes
    summary: str
    text: str
    links: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    suppress: bool = False


def capture(error: BaseException, dumps: Dumps, depth: int = 0) -> Failure:
    """Make bytes of an exception, tried before they are sent: dumped, and loaded again."""
    traceback = error.__traceback__
    if depth == 0 and traceback is not None and traceback.tb_next is not None:
        error.__traceback__ = traceback.tb_next  # our own frame tells nobody anything
    pickled = _round_trip(error, dumps)
    links = [("__cause__", error.__cause__)]
    if error.__context__ is not error.__cause__:
        links.append(("__context__", error.__context__))
    if isinstance(error, BaseExceptionGroup) and not pickled:
        links += [("", member) for member in error.exceptions]
    return Failure(
        pickled,
        b"" if pickled else _parts(error, dumps),
        _summary(error),
        "" if depth else _format(error),
        tuple(
            (name, tuple(capture(linked, dumps, depth + 1)))
            for name, linked in links
            if linked is not None and depth < CHAIN_LIMIT
        ),
        error.__suppress_context__,
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
    with suppress(*UNTRUSTED):
        data = dumps(error)
        again = pickle.loads(data)
        if type(again) is type(error) and repr(again.args) == repr(error.args):
            return data
    return b""


def _parts(error: BaseException, dumps: Dumps) -> bytes:
    """(class, args, the attributes that pickle): enough to rebuild it without calling __init__."""

    def portable(value: object) -> bool:
        with suppress(*UNTRUSTED):
            pickle.loads(dumps(value))
            return True
        return False

    if not portable(type(error)):
        return b""
    args = error.args[:1] if isinstance(error, BaseExceptionGroup) else error.args
    args = tuple(a if portable(a) else short_repr(a) for a in args)
    state = {k: v for k, v in getattr(error, "__dict__", {}).items() if portable(v)}
    return dumps((type(error), args, state))


def _summary(error: BaseException) -> str:
    import traceback

    with suppress(*UNTRUSTED):
        return "".join(traceback.format_exception_only(error)).strip()
    return type(error).__qualname__


def _format(error: BaseException) -> str:
    import traceback

    with suppress(*UNTRUSTED):
        return "".join(traceback.format_exception(error)).rstrip()
    return _summary(error)


def rebuild(failure: Failure) -> BaseException:
    """The exception again: same type, args, notes and chain.

    The worker's traceback comes last in it, so that a `__cause__` the user set stays where it is.
    """
    from parmap.errors import RemoteTraceback

    end = error = _rebuild_chain(failure)
    while end.__cause__ is not None:
        end = end.__cause__
    end.__cause__ = RemoteTraceback(failure.text)
    return error


def _rebuild_chain(failure: Failure) -> BaseException:
    error = _rebuild_one(failure)
    for name, linked in failure.links:
        if name:
            setattr(error, name, _rebuild_chain(Failure(*linked)))
    error.__suppress_context__ = failure.suppress
    return error


def _rebuild_one(failure: Failure) -> BaseException:
    try:
        if failure.pickled:
            error: BaseException = pickle.loads(failure.pickled)
            error.__traceback__ = None  # with tblib, which Dask brings, it is pickled too
            return error
        if failure.rebuild:
            cls, args, state = pickle.loads(failure.rebuild)
            members = [
                _rebuild_chain(Failure(*linked)) for name, linked in failure.links if not name
            ]
            if members:
                args = (*args, members)
            error = cls.__new__(cls, *args)
            error.args = args
            vars(error).update(state)
            return error
    except UNTRUSTED as why:  # a class that loads in the worker and not here
        return RuntimeError(f"{failure.summary} (its class cannot be loaded here: {_summary(why)})")
    return RuntimeError(f"{failure.summary} (its class cannot be sent between processes)")
