"""Where items come from: the caller's iterables, drawn by the calling thread and no other."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from time import perf_counter
from typing import Any

# Seconds that drawing a batch may take. Smaller cuts chunks of a generator short; larger keeps
# results that are ready from the consumer, while the next input is awaited.
DRAW_SECONDS = 1e-3

# Iterators that answer at once, run no code of the user's, and know how much is left. From these
# items may be drawn by the batch; from any other, drawing ahead could wait for what the consumer
# has yet to do.
_SIZED: tuple[Any, ...] = (
    *((), [], "", "\u00e9", b"", bytearray(), range(0), range(2**70), deque()),
    *({}, {}.values(), {}.items(), set(), frozenset()),
)
_INSTANT = frozenset(type(iter(empty)) for empty in _SIZED)


class Inputs:
    """The items of one call, in order, each drawn once.

    An item is what `fn` gets: the element of one iterable, or the tuple of several (`spread`).

    Attributes:
        drawn: how many were taken so far; the index of the next one.
        slow: whether the last draw took longer than DRAW_SECONDS.
        exhausted: whether the shortest iterable has ended.
        error: what an iterable raised, until someone delivers it in its place.
    """

    drawn = 0
    slow = False
    exhausted = False
    error: BaseException | None = None

    def __init__(self, iterators: Sequence[Iterator[Any]], strict: bool):
        self._sources = iterators
        self._returned: deque[Any] = deque()
        self._iterator: Iterator[Any] = iterators[0]
        self.instant = type(self._iterator) in _INSTANT
        if len(iterators) > 1:
            self.instant = all(type(it) in _INSTANT for it in iterators)
            self._iterator = _StrictZip(iterators) if strict else zip(*iterators, strict=False)

    def one_by_one(self, count: int) -> Iterator[Any]:
        """The next items, drawn only as they are asked for. Raises what an iterable raises."""
        for _ in range(count):
            if self._returned:
                item = self._returned.popleft()
            else:
                try:
                    item = next(self._iterator)
                except StopIteration:
                    self.exhausted = True
                    return
            self.drawn += 1
            yield item

    def raw(self, count: int) -> Iterator[Any]:
        """The same at C speed where it can be; who uses it calls `took` when done."""
        if self._returned:
            return iter([self._returned.popleft() for _ in range(min(count, len(self._returned)))])
        return islice(self._iterator, count)

    def took(self, count: int, ended: bool) -> None:
        self.drawn += count
        self.exhausted = self.exhausted or ended

    def take(self, count: int) -> list[Any]:
        """The next items, at most `count`; fewer at the end, before one that raises, or when an
        iterable that may run code of the user's takes its time."""
        items: list[Any] = []
        if self.error is not None:
            return items
        try:
            if self.instant and not self._returned:
                items.extend(islice(self._iterator, count))
                self.drawn += len(items)
                if len(items) < count:
                    self.exhausted = True
            else:
                limit = perf_counter() + DRAW_SECONDS
                for item in self.one_by_one(count):
                    items.append(item)
                    if perf_counter() > limit:
                        break
                self.slow = perf_counter() > limit
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # delivered after the items before it, as map would
            self.error = error
        return items

    def put_back(self, items: Sequence[Any]) -> None:
        """Return items that were taken and not run: the next ones to be taken again."""
        self._returned.extendleft(reversed(items))
        self.drawn -= len(items)

    @property
    def finished(self) -> bool:
        """Nothing is left to take, and nothing to raise."""
        return self.exhausted and not self._returned and self.error is None

    def left(self) -> int | None:
        """How many are left, where the iterables say so; a hint, for they may be wrong."""
        hints = [hint for source in self._sources if (hint := _hint(source)) is not None]
        if self.exhausted or not hints:
            return len(self._returned) if self.exhausted else None
        return len(self._returned) + min(hints)

    def total(self) -> int | None:
        """How many there are, drawn ones included."""
        left = self.left()
        return None if left is None else self.drawn + left


def _hint(source: Iterator[Any]) -> int | None:
    try:
        hint = operator.length_hint(source, -1)
    except Exception:  # __length_hint__ is the user's; map never calls it, so it must not matter
        return None
    return None if hint < 0 else hint


class _StrictZip:
    """`zip(*iterators, strict=True)`, with what Python 3.14's map says when lengths differ."""

    drawn = 0
    slow = False
    exhausted = False
    error: BaseException | None = None

    def __init__(self, iterators: Sequence[Iterator[Any]]):
        self._iterators = iterators

    def __iter__(self) -> _StrictZip:
        return self

    def __next__(self) -> tuple[Any, ...]:
        items: list[Any] = []
        for position, iterator in enumerate(self._iterators):
            try:
                items.append(next(iterator))
            except StopIteration:
                if position:
                    raise ValueError(_uneven(position, "shorter")) from None
                self._check_all_ended()
                raise
        return tuple(items)

    def _check_all_ended(self) -> None:
        missing = object()
        for position, iterator in enumerate(self._iterators[1:], start=1):
            if next(iterator, missing) is not missing:
                raise ValueError(_uneven(position, "longer")) from None


def _uneven(position: int, what: str) -> str:
    others = "argument 1" if position == 1 else f"arguments 1-{position}"
    return f"map() argument {position + 1} is {what} than {others}"
