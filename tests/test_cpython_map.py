"""What CPython's test-suite asks of `map` and `itertools.starmap`, asked of pmap and pstarmap.

After test_builtin (map, and its strict flag of 3.14), test_itertools (map, starmap, the various
kinds of iterators, cycles) and test_iter, in our words. Two things differ. Pickling and copying a
half-used iterator is refused. And what fn cannot do without the caller's memory (tell apart
objects by identity, say) is not asked.
"""

from __future__ import annotations

import copy
import gc
import itertools
import math
import operator
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import parmap

pytestmark = pytest.mark.engines("serial", "default", "fork")


def arguments() -> Callable[..., tuple[Any, ...]]:
    """A function that gives its arguments back."""
    return lambda *args: args


def only(x: Any) -> Any:
    """A function of exactly one argument."""
    return x


def failing(*args: Any) -> None:
    raise ValueError("on purpose")


def until_error(results: Iterator[Any]) -> tuple[list[Any], BaseException]:
    """The values before the first exception, and that exception."""
    values: list[Any] = []
    try:
        values.extend(results)
    except Exception as error:
        return values, error
    raise AssertionError(f"ended without an exception, after {values}")


# ------------------------------------------------------------------ sequences and iterators


class Squares:
    """A sequence by the old protocol: indices from 0 until IndexError."""

    def __init__(self, length: int):
        self._length = length

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return index * index


class Countdown:
    """An iterator of size-1, ..., 1, 0, which then raises `end`, again and again."""

    def __init__(self, size: int, end: type[BaseException]):
        self._left = size
        self._end = end

    def __iter__(self) -> Countdown:
        return self

    def __next__(self) -> int:
        self._left -= 1
        if self._left < 0:
            raise self._end
        return self._left


class BrokenError(Exception):
    """What a Countdown ends with, where it does not just stop."""


class ByIndex:
    """Iterable by the old protocol only."""

    def __init__(self, items: Any):
        self._items = items

    def __getitem__(self, index: int) -> Any:
        return self._items[index]


class ByNext:
    """Its own iterator."""

    def __init__(self, items: Any):
        self._items, self._at = items, 0

    def __iter__(self) -> ByNext:
        return self

    def __next__(self) -> Any:
        if self._at >= len(self._items):
            raise StopIteration
        self._at += 1
        return self._items[self._at - 1]


class ByGenerator:
    """Whose __iter__ is a generator."""

    def __init__(self, items: Any):
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        yield from self._items


def generator(items: Any) -> Iterator[Any]:
    yield from items


def layered(items: Any) -> Iterator[Any]:
    """Several kinds on top of each other."""
    return itertools.chain(map(only, generator(ByGenerator(ByIndex(items)))))


class Empty(ByNext):
    """Stops at once."""

    def __init__(self, items: Any):
        super().__init__(())


class Raising(ByNext):
    """Raises at once."""

    def __next__(self) -> Any:
        return 1 // 0


class WithoutIter:
    """Has __next__ and no __iter__: no iterable."""

    def __init__(self, items: Any):
        self._items = items

    def __next__(self) -> Any:
        raise StopIteration


class WithoutNext:
    """Has __iter__, which returns what has no __next__: no iterable."""

    def __init__(self, items: Any):
        self._items = items

    def __iter__(self) -> Any:
        return self


KINDS = [generator, ByIndex, ByNext, ByGenerator, Empty, layered]
INPUTS = [range(10), range(0), range(100), (7, 11), range(20, 50, 5)]


# ------------------------------------------------------------------ test_builtin: map


def test_one_iterable(pmap):
    """A function of one argument, over a range and over lists."""
    assert list(pmap(lambda n: n**2, range(1, 4))) == [1, 4, 9]
    roots = pmap(lambda row: list(map(math.sqrt, row)), [[25, 4], [49, 100]])
    assert list(roots) == [[5.0, 2.0], [7.0, 10.0]]


def test_as_many_arguments_as_iterables(pmap):
    """A function of any number of arguments, over one, two and three iterables."""
    total = lambda *numbers: sum(numbers)  # noqa: E731
    one, two, three = [2, 5, 8], [7, 1, 3], [10, 20, 30]
    assert list(pmap(total, one)) == one
    assert list(pmap(total, one, two)) == [9, 6, 11]
    assert list(pmap(total, one, two, three)) == [19, 26, 41]


def test_sequences_of_the_old_protocol(pmap):
    """What has only __getitem__ is iterable; the shorter one ends it."""
    assert list(pmap(int, Squares(8))) == [0, 1, 4, 9, 16, 25, 36, 49]
    assert list(pmap(max, Squares(4), Squares(3))) == [0, 1, 4]
    assert list(pmap(max, Squares(2), Squares(3))) == [0, 1]


def test_arguments_that_do_not_fit_are_type_errors():
    """Nothing at all, a function alone, and what is not iterable."""
    for wrong in ((), (abs,), (abs, 42), (abs, [1], 42)):
        with pytest.raises(TypeError):
            parmap.pmap(*wrong)


def test_an_iterable_that_cannot_be_iterated_raises_what_it_raises(pmap):
    """An exception of __iter__ itself comes at the call, one of a generator at the first next."""

    class AtTheCall:
        def __iter__(self) -> Iterator[int]:
            raise ValueError("not today")

    class AtTheFirst:
        def __iter__(self) -> Iterator[int]:
            raise ValueError("not today")
            yield

    with pytest.raises(ValueError, match="not today"):
        pmap(only, AtTheCall())
    results = pmap(only, AtTheFirst())
    with pytest.raises(ValueError, match="not today"):
        list(results)


def test_a_function_that_raises(pmap):
    """list() ends with the first exception."""
    assert until_error(pmap(failing, range(5)))[0] == []
    values, error = until_error(pmap(lambda x: 6 // x, [1, 2, 3, 0, 6]))
    assert values == [6, 3, 2]
    assert isinstance(error, ZeroDivisionError)


# ------------------------------------------------------------------ test_builtin: strict


def test_strict_with_equal_lengths(pmap):
    """Nothing happens that would not happen otherwise."""
    assert list(pmap(arguments(), "xy", (8, 9), strict=True)) == [("x", 8), ("y", 9)]
    assert list(pmap(arguments(), [], [], [], strict=True)) == []


@pytest.mark.parametrize(
    "uneven", [((1, 2, 3, 4), "abc"), ((1, 2), "abc"), ((1, 2), (1, 2), "abc"), ((), "a")]
)
def test_strict_with_uneven_lengths(pmap, uneven):
    """ValueError, after the results that all had arguments for."""
    values, error = until_error(pmap(arguments(), *uneven, strict=True))
    assert isinstance(error, ValueError)
    assert values == list(zip(*uneven, strict=False))


def test_strict_draws_no_more_than_it_must(pmap):
    """Where the second of three ends, the first has given one more, the third has not."""
    first, third = iter(range(10)), iter(range(10))
    values, error = until_error(pmap(arguments(), first, "abc", third, strict=True))
    assert values == [(0, "a", 0), (1, "b", 1), (2, "c", 2)]
    assert isinstance(error, ValueError)
    assert next(first) == 4
    assert next(third) == 3


# Arguments made for each run, the results before the error, and what an iterator that raises in
# place of stopping brings; one that stops brings a ValueError or, all being at their end, nothing.
_STRICT = [
    (lambda end: ("AB", Countdown(1, end)), [("A", 0)], True),
    (lambda end: ("AB", Countdown(2, end), "A"), [("A", 1, "A")], False),
    (lambda end: ("AB", Countdown(2, end), "ABC"), [("A", 1, "A"), ("B", 0, "B")], True),
    (lambda end: ("AB", Countdown(3, end)), [("A", 2), ("B", 1)], False),
    (lambda end: (Countdown(1, end), "AB"), [(0, "A")], True),
    (lambda end: (Countdown(2, end), "A"), [(1, "A")], False),
    (lambda end: (Countdown(2, end), "ABC"), [(1, "A"), (0, "B")], True),
    (lambda end: (Countdown(3, end), "AB"), [(2, "A"), (1, "B")], False),
]


@pytest.mark.parametrize(("make", "expected", "reached"), _STRICT)
def test_strict_and_an_iterator_that_raises(pmap, make, expected, reached):
    """Its exception wins where the drawing meets it before it meets the uneven length."""
    values, error = until_error(pmap(arguments(), *make(BrokenError), strict=True))
    assert values == expected
    assert type(error) is (BrokenError if reached else ValueError)


@pytest.mark.parametrize(("make", "expected", "reached"), _STRICT)
def test_strict_and_an_iterator_that_stops(pmap, make, expected, reached):
    """The same with a StopIteration, which is an end: the uneven length is what remains."""
    values, error = until_error(pmap(arguments(), *make(StopIteration), strict=True))
    assert values == expected
    assert type(error) is ValueError


# ------------------------------------------------------------------ test_itertools: map


def test_map_over_pairs(pmap):
    """Two iterables, the second longer or endless."""
    assert list(pmap(operator.pow, range(4), range(2, 9))) == [0, 1, 16, 243]
    letters = [("p", 0), ("q", 1), ("r", 2)]
    assert list(pmap(arguments(), "pqr", range(7))) == letters
    assert list(pmap(arguments(), "pqr", itertools.count())) == letters
    assert list(itertools.islice(pmap(arguments(), "pqr", itertools.count()), 2)) == letters[:2]
    assert list(pmap(operator.pow, [])) == []
    assert list(pmap(pow, (2, 3, 10), (5, 2, 3))) == [32, 9, 1000]


def test_what_cannot_be_called_is_a_type_error_at_the_first_next(pmap):
    """None is no identity function, and a number no function at all."""
    for wrong in (None, 10):
        assert isinstance(until_error(pmap(wrong, range(3), range(3)))[1], TypeError)
        results = pmap(wrong, range(3))
        with pytest.raises(TypeError):
            next(results)


def test_errors_of_the_function_come_at_the_next(pmap):
    """Whether it raises, or is called with an argument too many."""
    results = pmap(failing, [4], [5])
    with pytest.raises(ValueError, match="on purpose"):
        next(results)
    results = pmap(only, [4], [5])
    with pytest.raises(TypeError, match="positional argument"):
        next(results)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("begun", [False, True])
def test_pickling_is_refused_by_every_protocol(pmap, protocol, begun):
    """map could be pickled until Python 3.14; pmap says that it cannot."""
    results = pmap(arguments(), "ab", itertools.count())
    if begun:
        assert next(results) == ("a", 0)
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        pickle.dumps(results, protocol)
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        copy.copy(results)
    assert list(results) == [("a", 0), ("b", 1)][begun:]


# ------------------------------------------------------------------ test_itertools: starmap


def test_starmap_over_pairs(pstarmap):
    """Pairs from zip, endless ones, none at all, and arguments from an iterator."""
    assert list(pstarmap(operator.pow, zip(range(4), range(2, 9), strict=False))) == [0, 1, 16, 243]
    endless = zip(itertools.count(), itertools.count(1), strict=False)
    assert list(itertools.islice(pstarmap(operator.pow, endless), 3)) == [0, 1, 8]
    assert list(pstarmap(operator.pow, [])) == []
    assert list(pstarmap(operator.pow, [iter([3, 4])])) == [81]
    assert list(pstarmap(operator.pow, [[2, 3], (3, 2), range(2, 4)])) == [8, 9, 8]
    assert list(pstarmap(pow, [(2, 5), (3, 2), (10, 3)])) == [32, 9, 1000]


def test_starmap_refuses_what_starmap_refuses(pstarmap):
    """At the call what the call can see, at the next what an item brings."""
    for wrong in ((), (operator.pow, [(4, 5)], "more")):
        with pytest.raises(TypeError):
            parmap.pstarmap(*wrong)
    assert isinstance(until_error(pstarmap(operator.pow, [None]))[1], TypeError)
    assert isinstance(until_error(pstarmap(10, [(4, 5)]))[1], TypeError)
    assert isinstance(until_error(pstarmap(failing, [(4, 5)]))[1], ValueError)
    assert isinstance(until_error(pstarmap(only, [(4, 5)]))[1], TypeError)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_a_starmap_is_refused(pstarmap, protocol):
    """As for pmap."""
    results = pstarmap(operator.pow, zip(range(3), range(1, 7), strict=False))
    assert next(results) == 0
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        pickle.dumps(results, protocol)
    assert list(results) == [1, 8]


# ------------------------------------------------------------------ test_itertools: the rest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("items", INPUTS, ids=str)
def test_various_kinds_of_iterators(pmap, kind, items):
    """However an iterable is made, one of it or two of it."""
    assert list(pmap(only, kind(items))) == list(kind(items))
    assert list(pmap(operator.pow, kind(items), kind(items))) == [x**x for x in kind(items)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("items", INPUTS, ids=str)
def test_various_kinds_of_iterators_of_pairs(pstarmap, kind, items):
    """The same for pstarmap."""
    pairs = list(zip(items, items, strict=True))
    assert list(pstarmap(operator.pow, kind(pairs))) == [x**y for x, y in kind(pairs)]


@pytest.mark.parametrize("items", INPUTS, ids=str)
def test_various_kinds_of_what_is_no_iterator(pmap, pstarmap, items):
    """Half an iterator is none, which shows at the call; a broken one shows at the next."""
    for call in (pmap, pstarmap):
        for kind in (WithoutIter, WithoutNext):
            with pytest.raises(TypeError):
                call(only, kind(items))
        with pytest.raises(ZeroDivisionError):
            list(call(only, Raising(items)))


def test_an_iterator_that_stops_at_once(pmap, pstarmap):
    """next() is a StopIteration right away."""
    for call in (pmap, pstarmap):
        for nothing in ([], Countdown(0, StopIteration)):
            results = call(only, nothing)
            with pytest.raises(StopIteration):
                next(results)


@pytest.mark.parametrize("name", ["pmap", "pstarmap"])
def test_a_cycle_through_the_iterator_is_collected(engine, name):
    """An input that refers to the iterator over it is garbage when nobody else has it."""

    class Holder(list[Any]):
        pass

    holder = Holder()
    results = getattr(parmap, name)(lambda *args: len(args), [(1,), holder], **engine.options)
    holder.append(results)
    gone = weakref.ref(holder)
    assert next(results) == 1
    results.close()
    del results, holder
    gc.collect()
    assert gone() is None


# ------------------------------------------------------------------ test_iter: map


def test_over_a_dictionary_and_a_file(pmap, tmp_path):
    """Keys come in their order, lines as they are read."""
    assert list(pmap(lambda x: x + 1, Squares(3))) == [1, 2, 5]
    numbers = {"uno": 1, "due": 2, "tre": 3}
    assert list(pmap(lambda key: (key, numbers[key]), numbers)) == list(numbers.items())
    path = tmp_path / "lines"
    path.write_text("".join("ab" * n + "\n" for n in range(10)), encoding="utf-8")
    with open(path, encoding="utf-8") as lines:
        assert list(pmap(len, lines)) == [2 * n + 1 for n in range(10)]
