"""Where items come from: the caller's iterables, drawn in the calling thread only."""

from __future__ import annotations

import operator
from collections import deque
from itertools import islice
from time import perf_counter

from parmap._outcome import raising

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

# Seconds that drawing a batch may take. Smaller cuts chunks of a generator short; larger keeps
# ready results from the consumer.
DRAW_SECONDS = 1e-3

# Iterators that run no code of the user's. Drawing ahead from others could wait for what the
# consumer has yet to do.
_SIZED: tuple[Any, ...] = (
    *((), [], "", "\u00e9", b"", bytearray(), range(0), range(2**70), deque()),
    *({}, {}.values(), {}.items(), set(), frozenset()),
)
_INSTANT = frozenset(type(iter(empty)) for empty in _SIZED)


_SLICED = (list, tuple, range)


def sliced(items: Any) -> bool:
    """Whether slices hold what iterating gives, as those of NumPy's arrays do."""
    kind = type(items)
    array = kind.__name__ == "ndarray" and kind.__module__ == "numpy"
    return items.ndim > 0 if array else kind in _SLICED


def inputs_of(iterables: Sequence[Any], strict: bool) -> Inputs:
    """The items of a call. `iter` is called on each iterable here, as `map` does."""
    if len(iterables) == 1 and sliced(iterables[0]):
        try:
            return Slices(iterables[0])
        except OverflowError:
            pass  # a range of more than 2**63 has no len
    iterators = [iter(iterable) for iterable in iterables]
    if len(iterators) == 1:
        return Inputs(iterators[0], iterators)
    kind = _StrictZip if strict else zip
    return Inputs(kind(*iterators, strict=strict), iterators)


class Inputs:
    """The items of one call: the elements of one iterable, or tuples of those of several."""

    drawn: int = 0  # so far; the index of the next one
    slow: bool = False  # the last draw took longer than DRAW_SECONDS
    exhausted: bool = False  # the shortest iterable has ended
    error: BaseException | None = None  # what one raised, until it is delivered in its place
    iterator: Iterator[Any]  # for who draws one by one, counts in `drawn`, and tells of the end
    instant: bool  # may be drawn by the batch

    def __init__(self, iterator: Iterator[Any], sources: Sequence[Iterator[Any]]):
        self.iterator, self._sources = iterator, sources
        self.instant = _INSTANT.issuperset(map(type, sources))

    @property
    def finished(self) -> bool:
        """Nothing is left to take, or to raise."""
        return self.exhausted and self.error is None

    def cut(self, count: int) -> Sequence[Any]:
        """The next items, for who only reads them."""
        return self.take(count)

    def take(self, count: int) -> list[Any]:
        """At most `count` items; fewer at the end, before one that raises, or if that is slow."""
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
        except BaseException as error:
            self.error = error
        finally:
            self.drawn += len(items)
        return items

    def _draw(self, items: list[Any], count: int) -> None:
        limit = perf_counter() + DRAW_SECONDS
        for item in islice(self.iterator, count):
            items.append(item)
            if perf_counter() > limit:
                break
        else:
            self.exhausted = len(items) < count
        self.slow = perf_counter() > limit

    def failure(self) -> Iterator[Any]:
        """What an iterable raised, to be raised once; no frame may know it: see _outcome."""
        assert self.error is not None
        failed, self.error = [self.error], None
        return raising(failed.pop())

    def left(self) -> int | None:
        """How many are left, where the iterables say so; they may be wrong."""
        if self.exhausted:
            return 0
        return min((hint for hint in map(_hint, self._sources) if hint >= 0), default=None)

    def total(self) -> int | None:
        left = self.left()
        return None if left is None else self.drawn + left


class Slices(Inputs):
    """Of what can be cut, in a third of the time. Changes are seen, as by `map`."""

    instant = True

    def __init__(self, items: Sequence[Any], drawn: int = 0):
        self._items, self.drawn = items, drawn
        len(items)  # or an OverflowError

    @property
    def finished(self) -> bool:
        return self.drawn >= len(self._items)

    def cut(self, count: int) -> Sequence[Any]:
        items = self._items[self.drawn : self.drawn + count]
        self.drawn += len(items)
        return items if type(items) is list or type(items) is range else list(items)

    def take(self, count: int) -> list[Any]:
        items = self.cut(count)
        return items if type(items) is list else list(items)

    def left(self) -> int:
        return max(0, len(self._items) - self.drawn)


def _hint(source: Iterator[Any]) -> int:
    try:
        return operator.length_hint(source, -1)
    except Exception:  # the user's own code, which map never calls
        return -1


class _StrictZip(zip):  # type: ignore[type-arg]
    """In the words of Python 3.14's map. A generator would end with what an iterable raises; `map`
    asks that one again."""

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except ValueError as error:
            if str(error).startswith("zip() argument"):
                error.args = (str(error).replace("zip", "map", 1),)
            raise
