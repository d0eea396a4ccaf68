"""Where items come from: the caller's iterables, drawn by the calling thread and no other."""

from __future__ import annotations

import operator
from collections import deque
from itertools import islice
from time import perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

# Seconds that drawing a batch may take. Smaller cuts chunks of a generator short; larger keeps
# results that are ready from the consumer, while the next input is awaited.
DRAW_SECONDS = 1e-3

# Iterators that answer at once, run no code of the user's, and know how much is left. Drawing ahead
# from any other could wait for what the consumer has yet to do.
_SIZED: tuple[Any, ...] = (
    *((), [], "", "\u00e9", b"", bytearray(), range(0), range(2**70), deque()),
    *({}, {}.values(), {}.items(), set(), frozenset()),
)
_INSTANT = frozenset(type(iter(empty)) for empty in _SIZED)

# Iterables that are cut in slices, which takes a third of the time of drawing.
_SLICED = frozenset({list, tuple, range})


def inputs_of(iterables: Sequence[Iterable[Any]], strict: bool) -> Inputs:
    """The items of a call. `iter` is called on each iterable here, as `map` does."""
    if len(iterables) > 1:
        iterators = [iter(iterable) for iterable in iterables]
        zipped = _StrictZip(iterators) if strict else zip(*iterators, strict=False)
        return Inputs(zipped, iterators)
    only: Any = iterables[0]
    if type(only) in _SLICED:
        try:
            return Slices(only)
        except OverflowError:
            pass  # a range of more than 2**63 has no len
    iterator = iter(only)
    return Inputs(iterator, [iterator])


class Inputs:
    """The items of one call, in order, each drawn once: what `fn` gets, the element of one
    iterable or the tuple of several."""

    drawn: int = 0  # so far; the index of the next one
    slow: bool = False  # the last draw took longer than DRAW_SECONDS
    exhausted: bool = False  # the shortest iterable has ended
    error: BaseException | None = None  # what one raised, until someone delivers it in its place
    iterator: Iterator[Any]
    instant: bool

    def __init__(self, iterator: Iterator[Any], sources: Sequence[Iterator[Any]]):
        # For who draws one by one; he counts in `drawn`, and tells of the end.
        self.iterator, self._sources = iterator, sources
        self.instant = _INSTANT.issuperset(map(type, sources))  # may be drawn by the batch

    @property
    def finished(self) -> bool:
        """Nothing is left to take, or to raise."""
        return self.exhausted and self.error is None

    def cut(self, count: int) -> Sequence[Any]:
        """The next items, for who only reads them."""
        return self.take(count)

    def take(self, count: int) -> list[Any]:
        """The next items, at most `count`; fewer at the end, before one that raises, or when an
        iterable that may run code of the user's takes its time."""
        items: list[Any] = []
        if self.error is not None:
            return items
        try:
            if self.instant:
                items.extend(islice(self.iterator, count))
                self.exhausted = len(items) < count
            else:
                self._draw(items, count)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # delivered after the items before it, as map would
            self.error = error
        finally:
            self.drawn += len(items)
        return items

    def _draw(self, items: list[Any], count: int) -> None:
        limit = perf_counter() + DRAW_SECONDS
        for item in islice(self.iterator, count):
            items.append(item)
            if perf_counter() > limit:
                self.slow = True
                return
        self.exhausted = len(items) < count
        self.slow = perf_counter() > limit

    def left(self) -> int | None:
        """How many are left, where the iterables say so; a hint, for they may be wrong."""
        if self.exhausted:
            return 0
        hints = [hint for source in self._sources if (hint := _hint(source)) is not None]
        return min(hints, default=None)

    def total(self) -> int | None:
        """How many there are, drawn ones included."""
        left = self.left()
        return None if left is None else self.drawn + left


class Slices(Inputs):
    """The same of a list, a tuple or a range. Changes of a list are seen, as by `map`."""

    instant = True

    def __init__(self, items: Sequence[Any]):
        self._items = items
        len(items)  # or an OverflowError

    @property
    def finished(self) -> bool:
        return self.drawn >= len(self._items)

    def cut(self, count: int) -> Sequence[Any]:
        items = self._items[self.drawn : self.drawn + count]
        self.drawn += len(items)
        return list(items) if type(items) is tuple else items

    def take(self, count: int) -> list[Any]:
        return list(self.cut(count))

    def left(self) -> int:
        return max(0, len(self._items) - self.drawn)


def _hint(source: Iterator[Any]) -> int | None:
    try:
        hint = operator.length_hint(source, -1)
    except Exception:  # __length_hint__ is the user's; map never calls it, so it must not matter
        return None
    return None if hint < 0 else hint


class _StrictZip:
    """`zip(*iterators, strict=True)` in the words of Python 3.14's map. A generator would end with
    what an iterable raises; `map` asks that one again."""

    def __init__(self, iterators: Sequence[Iterator[Any]]):
        self._zip = zip(*iterators, strict=True)

    def __iter__(self) -> _StrictZip:
        return self

    def __next__(self) -> tuple[Any, ...]:
        try:
            return next(self._zip)
        except ValueError as error:
            text = str(error)
            if text.startswith("zip() argument"):
                raise ValueError(text.replace("zip", "map", 1)) from None
            raise
