"""The promise, point by point: `pmap` is `map`, `pstarmap` is `itertools.starmap`.

Every test runs for every engine (see conftest.py), unless what it checks is settled before an
engine is chosen. Functions given to `pmap` are mostly local, so that they travel by value.
"""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import operator
import os
import pickle
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from waiting import eventually

import parmap
from parmap import RemoteTraceback, Report, _decision, _plan

REMOTE = ("default", "fork", "forkserver", "spawn")
LOCAL = ("serial", "decide", *REMOTE)  # where parmap makes the workers, and may end them
AWAY = ("processes", "dask", "ray")  # the caller's executors with other processes

# Seconds after which an item that waits for another one is taken to wait for ever: the test fails
# then, rather than hang. Nothing that works comes near it.
LIMIT = 10.0


# ------------------------------------------------------------------ helpers


def outcomes(results: Iterator[Any], limit: int = 100) -> list[Any]:
    """What comes of an iterator to its end: values, and (type, args) of what it raises."""
    found: list[Any] = []
    for _ in range(limit):
        try:
            found.append(next(results))
        except StopIteration:
            return found
        except BaseException as error:
            found.append((type(error), error.args))
    raise AssertionError(f"no end after {limit} steps: {found[:5]} ...")


def raised(results: Iterator[Any]) -> BaseException:
    """The exception that the next step raises."""
    try:
        value = next(results)
    except BaseException as error:
        return error
    raise AssertionError(f"a value came, not an exception: {value!r}")


def said(error: BaseException) -> str:
    """The message of an exception with its notes: what a person is shown."""
    return "".join(traceback.format_exception_only(error))


class Source:
    """An iterator over `items` that counts how many were drawn, and raises those to be raised."""

    def __init__(self, items: Iterable[Any]):
        self._items = iter(items)
        self.drawn = 0

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Any:
        item = next(self._items)
        self.drawn += 1
        if isinstance(item, BaseException):
            raise item
        return item


def picky(bad: int, error: type[BaseException], *args: Any) -> Callable[[int], int]:
    """A function that raises for one item, and squares the others."""

    def square(x: int) -> int:
        if x == bad:
            raise error(*args)
        return x * x

    return square


def attempt(directory: Path, name: object) -> int:
    """Count, over all processes, how often this was called for `name`: 1 the first time."""
    with open(directory / str(name), "ab") as file:
        file.write(b".")
        return file.tell()


# ------------------------------------------------------------------ 1 a lazy iterator


def test_the_values_of_map_come_in_the_order_of_map(pmap):
    """pmap(fn, xs) gives what map(fn, xs) gives."""
    assert list(pmap(str, range(100))) == list(map(str, range(100)))
    assert list(pmap(lambda x: x * x, range(100))) == [x * x for x in range(100)]


def test_the_values_of_starmap_come_in_the_order_of_starmap(pstarmap):
    """pstarmap(fn, xs) gives what itertools.starmap(fn, xs) gives."""
    pairs = [(x, x % 3) for x in range(50)]
    assert list(pstarmap(pow, pairs)) == list(itertools.starmap(pow, pairs))


def test_nothing_runs_before_the_first_next(pmap, tmp_path):
    """No item is drawn and fn is not called until a result is asked for."""
    source = Source([1, 2, 3])
    results = pmap(lambda x: attempt(tmp_path, x), source)
    assert source.drawn == 0
    assert not list(tmp_path.iterdir())
    assert list(results) == [1, 1, 1]
    assert source.drawn == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]


def test_iter_is_called_on_every_iterable_at_the_call(pmap):
    """As with map, iterables are asked for their iterator by the call, in their order."""
    asked = []

    class Asked:
        def __init__(self, name: str):
            self.name = name

        def __iter__(self) -> Iterator[int]:
            asked.append(self.name)
            return iter([1, 2])

    results = pmap(lambda a, b, c: a + b + c, Asked("a"), Asked("b"), Asked("c"))
    assert asked == ["a", "b", "c"]
    assert list(results) == [3, 6]
    assert asked == ["a", "b", "c"]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_non_iterable_is_a_type_error_at_the_call(pmap, position):
    """What is not iterable is refused by the call, not by the first next."""
    iterables: list[Any] = [[1], [2], [3]]
    iterables[position] = 42
    with pytest.raises(TypeError, match="'int' object is not iterable"):
        pmap(max, *iterables)


def test_pstarmap_of_a_non_iterable_is_a_type_error_at_the_call(pstarmap):
    """What is not iterable is refused by the call, not by the first next."""
    with pytest.raises(TypeError, match="'int' object is not iterable"):
        pstarmap(max, 42)


@pytest.mark.parametrize("call", [parmap.pmap, parmap.pstarmap])
@pytest.mark.parametrize("arguments", [(), (len,)])
def test_a_call_without_function_or_iterable_is_a_type_error(call, arguments):
    """pmap() and pmap(f) are refused, as map() and map(f) are."""
    with pytest.raises(TypeError):
        call(*arguments)


def test_pstarmap_takes_one_iterable(pstarmap):
    """pstarmap(f, xs, ys) is refused, as starmap(f, xs, ys) is."""
    with pytest.raises(TypeError):
        pstarmap(max, [(1, 2)], [(3, 4)])


@pytest.mark.parametrize("name", ["pmap", "pstarmap"])
def test_one_that_is_dropped_unconsumed_says_so(engine, name):
    """Without a single next, nothing was run, and that is seldom meant: a RuntimeWarning."""
    results = getattr(parmap, name)(max, [(1, 2)], **engine.options)
    with pytest.warns(RuntimeWarning, match=f"{name} was never consumed"):
        del results


def test_one_that_was_begun_or_closed_is_dropped_in_silence(pmap):
    """The warning is for those that nobody began; close() says that none was meant to be."""
    begun, ended, closed = pmap(abs, range(9)), pmap(abs, []), pmap(abs, range(9))
    assert next(begun) == 0
    assert list(ended) == []
    closed.close()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del begun, ended, closed
    assert not told


def test_it_is_its_own_iterator_and_has_no_length(pmap):
    """iter(p) is p, and len(p) is a TypeError, as with map."""
    results = pmap(abs, [-1, -2])
    assert iter(results) is results
    with pytest.raises(TypeError):
        len(results)
    assert list(results) == [1, 2]


def test_it_stays_at_its_end(pmap):
    """After the last result, every next is a StopIteration."""
    results = pmap(abs, [-1])
    assert next(results) == 1
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(results)


def test_what_takes_an_iterator_takes_it(pmap):
    """sum, dict, zip, islice, unpacking and a for loop all work."""
    assert sum(pmap(abs, range(-5, 0))) == 15
    assert dict(zip("ab", pmap(abs, [-1, -2]), strict=True)) == {"a": 1, "b": 2}
    assert list(itertools.islice(pmap(abs, range(-9, 0)), 2, 8, 3)) == [7, 4]
    first, *rest = pmap(abs, [-1, -2, -3])
    assert (first, rest) == (1, [2, 3])
    assert -2 not in pmap(abs, [-1, -2])
    for number, value in enumerate(pmap(abs, [-1, -2]), start=1):
        assert value == number


@pytest.mark.parametrize("by", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_half_used_iterator_is_neither_pickled_nor_copied(pmap, by):
    """It belongs to this process; trying is a TypeError that harms nothing."""
    results = pmap(abs, range(-5, 0))
    assert next(results) == 5
    with pytest.raises(TypeError, match="pmap iterator cannot be pickled or copied"):
        by(results)
    assert list(results) == [4, 3, 2, 1]


# ------------------------------------------------------------------ 2 inputs


@pytest.mark.parametrize("start", [itertools.count, lambda: Source(itertools.count())])
def test_five_results_of_an_endless_input_cost_a_few_dozen_items(pmap, tmp_path, start):
    """An infinite input works, and is advanced only a bounded way ahead."""
    drawn = 0

    def watched() -> Iterator[int]:
        nonlocal drawn
        for x in start():
            drawn += 1
            yield x

    results = pmap(lambda x: -x, watched())
    assert list(itertools.islice(results, 5)) == [0, -1, -2, -3, -4]
    assert 5 <= drawn <= 64


def test_an_endless_instant_input_is_cut_short_too(pmap):
    """Also an iterable of C speed, such as a range, may have no end to speak of."""
    results = pmap(lambda x: -x, range(10**12))
    assert list(itertools.islice(results, 5)) == [0, -1, -2, -3, -4]
    results.close()
    assert results.report.items < 10_000


def test_inputs_are_advanced_in_the_calling_thread_only(pmap):
    """A generator that belongs to a thread, or a database cursor, is safe as an input."""
    threads = set()

    def source() -> Iterator[int]:
        for x in range(20):
            threads.add((os.getpid(), threading.get_ident()))
            yield x

    assert list(pmap(abs, source())) == list(range(20))
    assert threads == {(os.getpid(), threading.get_ident())}


def test_the_shortest_iterable_ends_it(pmap):
    """Shortest wins, and each iterator is left where map would leave it."""

    def left_by(mapper: Callable[..., Any]) -> Any:
        a, b, c = iter(range(9)), iter("xyz"), itertools.count()
        values = list(mapper(lambda *args: args, a, b, c))
        return values, list(a), list(b), next(c)

    assert left_by(pmap) == left_by(map)


@pytest.mark.parametrize("shape", [(7,), (7, 2), (0,), (0, 3)])
@pytest.mark.parametrize("kind", [float, object])
def test_an_array_is_mapped_as_by_map(pmap, shape, kind):
    """Its rows, or its scalars, of the same types; an empty one gives nothing."""
    array = numpy.arange(numpy.prod(shape)).reshape(shape).astype(kind)

    def told(item: Any) -> Any:
        return type(item), numpy.sum(item)

    assert list(pmap(told, array)) == list(map(told, array))


def test_an_array_without_a_dimension_is_a_type_error_at_the_call(pmap):
    """As map(f, array) is."""
    with pytest.raises(TypeError, match="0-d array"):
        pmap(abs, numpy.array(3.0))


@pytest.mark.engines("serial", "decide")
def test_a_list_that_grows_meanwhile_is_followed(pmap):
    """As with map, what fn appends to the list it is mapped over has its turn."""

    def followed(mapper: Callable[..., Any]) -> list[int]:
        items = [0]

        def grow(x: int) -> int:
            items.extend([x + 1] if x < 50 else [])
            return x

        return list(mapper(grow, items))

    assert followed(pmap) == followed(map) == list(range(51))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((3, 2), "map() argument 2 is shorter than argument 1"),
        ((2, 3), "map() argument 2 is longer than argument 1"),
        ((2, 2, 1), "map() argument 3 is shorter than arguments 1-2"),
        ((2, 2, 3), "map() argument 3 is longer than arguments 1-2"),
        ((1, 2, 0), "map() argument 3 is shorter than arguments 1-2"),
        ((0, 1), "map() argument 2 is longer than argument 1"),
        ((4, 4, 4, 0), "map() argument 4 is shorter than arguments 1-3"),
    ],
)
def test_strict_says_what_python_3_14_says(pmap, lengths, message):
    """strict=True raises at the position where lengths turn out to differ, in map's words."""
    results = pmap(lambda *args: args, *map(range, lengths), strict=True)
    whole = [(x,) * len(lengths) for x in range(min(lengths))]
    assert list(itertools.islice(results, min(lengths))) == whole
    error = raised(results)
    assert (type(error), error.args) == (ValueError, (message,))


def test_strict_is_content_with_equal_lengths(pmap):
    """strict=True changes nothing where all iterables have one length, or there is only one."""
    assert list(pmap(max, [1, 5], [4, 2], [3, 3], strict=True)) == [4, 5]
    assert list(pmap(max, [], [], strict=True)) == []
    assert list(pmap(abs, [-1, -2], strict=True)) == [1, 2]


def test_an_input_that_raises_after_five_items_yields_five_results_first(pmap):
    """A generator's exception comes after the results of what it gave; then it has ended."""

    def source() -> Iterator[int]:
        yield from range(5)
        raise OSError(5, "the disk is gone")

    expected = [0, -1, -2, -3, -4, (OSError, (5, "the disk is gone"))]
    assert outcomes(pmap(lambda x: -x, source())) == expected


def test_after_an_input_raised_it_is_asked_again(pmap):
    """As with map, an input that can go on after its exception goes on."""
    script = [1, 2, ValueError("one"), 3, KeyError("two"), KeyError("three"), 4, 5]
    expected = outcomes(map(operator.neg, Source(script)))
    assert expected[2:5] == [(ValueError, ("one",)), -3, (KeyError, ("two",))]
    assert outcomes(pmap(operator.neg, Source(script))) == expected


def test_an_input_may_raise_more_than_exceptions(pmap):
    """SystemExit and KeyboardInterrupt of an input come after the results before it as well."""
    for error in (SystemExit(3), GeneratorExit("g")):
        assert outcomes(pmap(abs, Source([1, 2, error, 4]))) == [1, 2, (type(error), error.args), 4]


def test_ctrl_c_in_an_input_is_raised(pmap):
    """KeyboardInterrupt while an item is drawn reaches the caller."""
    results = pmap(abs, Source([KeyboardInterrupt("c")]))
    with pytest.raises(KeyboardInterrupt):
        list(results)


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("ordered", [True, False])
def test_buffersize_bounds_what_is_submitted_and_not_yet_yielded(pmap, size, ordered):
    """However large the chunks, an item is drawn only while fewer than buffersize are out."""
    drawn = yielded = most = 0

    def source() -> Iterator[int]:
        nonlocal drawn, most
        for x in range(60):
            drawn += 1
            most = max(most, drawn - yielded)
            yield x

    for _ in pmap(abs, source(), buffersize=4, chunksize=size, ordered=ordered):
        yielded += 1
    assert yielded == drawn == 60
    assert most <= 4


@pytest.mark.engines(*REMOTE, *AWAY)
def test_buffersize_is_used(pmap):
    """Items are submitted ahead, up to buffersize: the first result costs more than one draw."""
    source = Source(range(60))
    results = pmap(abs, source, buffersize=4, chunksize=1)
    assert next(results) == 0
    assert 1 < source.drawn <= 5
    results.close()


# ------------------------------------------------------------------ 3 exceptions


def test_an_exception_is_raised_at_its_position_and_iteration_goes_on(pmap):
    """[1, ValueError, 3, 4], as with map."""
    results = pmap(picky(2, ValueError, "two", 2), [1, 2, 3, 4])
    assert outcomes(results) == [1, (ValueError, ("two", 2)), 9, 16]


def test_exceptions_in_a_row_and_at_both_ends_keep_their_positions(pmap):
    """Every failing item has its own exception, wherever it stands."""

    def odd(x: int) -> int:
        if x % 3 == 0 or x > 17:
            raise LookupError(x)
        return x

    assert outcomes(pmap(odd, range(20))) == outcomes(map(odd, range(20)))
    assert outcomes(pmap(odd, range(20), chunksize=7)) == outcomes(map(odd, range(20)))


def test_pstarmap_raises_at_the_position_too(pstarmap):
    """An item that fn refuses, and one that is no tuple of arguments, each in its place."""
    items = [(1, 2), (1, 0), [6, 3], 7, iter((8, 2))]
    found = outcomes(pstarmap(lambda a, b: a // b, items))
    assert [found[i] for i in (0, 2, 4)] == [0, 2, 4]
    assert found[1][0] is ZeroDivisionError
    assert found[3][0] is TypeError


def test_an_exception_keeps_its_type_args_and_attributes(pmap):
    """A class of the user's own comes back as that class, with what it carries."""

    class RejectedError(ValueError):
        def __init__(self, code: int, why: str):
            super().__init__(f"{code}: {why}")
            self.code, self.why = code, why

    def reject(x: int) -> None:
        raise RejectedError(x, "no")

    error = raised(pmap(reject, [7]))
    assert type(error) is RejectedError
    assert error.args == ("7: no",)
    assert (error.code, error.why) == (7, "no")


def test_an_exception_group_comes_back_whole(pmap):
    """Exceptions within an exception keep their types."""

    def fail(x: int) -> None:
        raise ExceptionGroup("both", [ValueError(x), OSError(2, "gone")])

    error = raised(pmap(fail, [1]))
    assert isinstance(error, ExceptionGroup)
    assert [(type(e), e.args) for e in error.exceptions] == [
        (ValueError, (1,)),
        (FileNotFoundError, (2, "gone")),
    ]


@pytest.mark.parametrize("retries", [0, 1])
def test_a_note_names_the_index_and_the_item(pmap, retries):
    """PEP 678: the exception says which item raised it, once."""
    results = pmap(picky(30, ValueError), [10, 20, 30, 40], retries=retries)
    assert [next(results), next(results)] == [100, 400]
    notes = raised(results).__notes__
    assert len(notes) == 1
    assert "item 2" in notes[0]
    assert "30" in notes[0]
    assert list(results) == [1600]


def test_a_note_of_the_users_own_is_kept(pmap):
    """Notes that fn added come first, then ours."""

    def noted(x: int) -> None:
        error = ValueError(x)
        error.add_note("seen before")
        raise error

    notes = raised(pmap(noted, [5])).__notes__
    assert notes[0] == "seen before"
    assert len(notes) == 2


@pytest.mark.parametrize("item", ["x" * 100_000, list(range(100_000)), {"k": b"y" * 100_000}])
def test_the_note_of_a_large_item_is_short(pmap, item):
    """Nobody wants a megabyte of repr in a traceback."""
    (note,) = raised(pmap(lambda x: 1 / 0, [item])).__notes__
    assert "item 0" in note
    assert len(note) < 300


def test_the_note_of_an_item_whose_repr_raises_says_so(pmap):
    """A broken repr does not replace the exception."""

    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("do not look")

    error = raised(pmap(lambda x: 1 / 0, [Shy()]))
    assert type(error) is ZeroDivisionError
    assert "Shy" in error.__notes__[0]


@pytest.mark.engines(*REMOTE, *AWAY)
def test_the_traceback_in_the_worker_is_the_cause(pmap):
    """Where it went wrong can be read, though it was in another process."""

    def deeply_wrong(x: int) -> float:
        return 1 / x

    error = raised(pmap(deeply_wrong, [0]))
    assert isinstance(error.__cause__, RemoteTraceback)
    printed = "".join(traceback.format_exception(error))
    assert "in deeply_wrong" in printed
    assert "test_contract.py" in error.__cause__.text
    assert "return 1 / x" in error.__cause__.text


def test_threads_may_share_an_iterator(pmap):
    """As under map: each result goes to one of them, and none is lost while another thread waits."""
    shared = pmap(lambda x: time.sleep(0.001) or x, range(60))
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.extend(shared)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(60))


class WantsTwoError(Exception):
    """Pickles, and does not load: __init__ wants more than args has."""

    def __init__(self, a: int, b: int):
        super().__init__(f"{a}-{b}")
        self.a = a


def test_a_group_keeps_members_that_pickle_would_lose(pmap):
    """A group crosses with all that is in it, groups included."""

    def grouped(x: int) -> int:
        inner = ExceptionGroup("inner", [WantsTwoError(x, 2)])
        raise ExceptionGroup("outer", [ValueError(x), inner])

    error = raised(pmap(grouped, [1]))
    assert (type(error), error.message) == (ExceptionGroup, "outer")
    first, inner = error.exceptions
    assert (type(first), first.args) == (ValueError, (1,))
    (wanted,) = inner.exceptions
    assert (type(wanted), wanted.args, wanted.a) == (WantsTwoError, ("1-2",), 1)


def test_the_cause_that_fn_set_is_kept(pmap):
    """`raise A from B` is still A from B."""

    def chained(x: str) -> int:
        try:
            return int(x)
        except ValueError as error:
            raise LookupError("no number", x) from error

    error = raised(pmap(chained, ["seven"]))
    assert (type(error), error.args) == (LookupError, ("no number", "seven"))
    assert type(error.__cause__) is ValueError
    assert error.__cause__.args == ("invalid literal for int() with base 10: 'seven'",)
    assert error.__suppress_context__


def test_the_context_of_an_exception_is_kept(pmap):
    """What was being handled when it was raised is still told."""

    def clumsy(x: str) -> int:
        try:
            return int(x)
        except ValueError:
            return {}[x]

    error = raised(pmap(clumsy, ["seven"]))
    assert type(error) is KeyError
    assert type(error.__context__) is ValueError


@pytest.mark.parametrize("bad", [0, 3, 5])
def test_a_stop_iteration_out_of_fn_drops_no_item(pmap, bad):
    """map would end there in silence; pmap raises RuntimeError at the position and goes on."""
    found = outcomes(pmap(picky(bad, StopIteration, "early"), range(6)))
    assert found[bad][0] is RuntimeError
    assert "StopIteration" in str(found[bad][1])
    assert [*found[:bad], *found[bad + 1 :]] == [x * x for x in range(6) if x != bad]


def test_a_stop_iteration_out_of_fn_is_a_result_where_exceptions_are(pmap):
    """return_exceptions gives the RuntimeError as a value."""
    found = list(pmap(picky(1, StopIteration), range(3), return_exceptions=True))
    assert [found[0], type(found[1]), found[2]] == [0, RuntimeError, 4]


def test_a_stop_iteration_out_of_fn_is_no_end_for_pstarmap(pstarmap):
    """The same, where items are tuples of arguments."""
    found = outcomes(pstarmap(picky(1, StopIteration), [(0,), (1,), (2,)]))
    assert [found[0], found[1][0], found[2]] == [0, RuntimeError, 4]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_what_is_no_exception_is_raised_at_its_position_too(pmap, error):
    """SystemExit out of fn ends neither worker nor call: it is that item's outcome."""
    found = outcomes(pmap(picky(2, error, 3), range(5)))
    assert found == [0, 1, (error, (3,)), 9, 16]


def test_return_exceptions_puts_exceptions_among_the_results(pmap):
    """As asyncio.gather does: nothing is raised, positions stay."""
    found = list(pmap(picky(2, ValueError, "two"), range(5), return_exceptions=True))
    assert [found[i] for i in (0, 1, 3, 4)] == [0, 1, 9, 16]
    assert (type(found[2]), found[2].args) == (ValueError, ("two",))
    assert "item 2" in found[2].__notes__[0]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_return_exceptions_returns_exceptions_only(pmap, error):
    """What is not a subclass of Exception is raised all the same."""
    found = outcomes(pmap(picky(1, error, 3), range(3), return_exceptions=True))
    assert found == [0, (error, (3,)), 4]


def test_return_exceptions_is_about_items_not_about_inputs(pmap):
    """What an iterable raises belongs to no item: it is raised, with every engine."""
    results = pmap(abs, Source([1, ValueError("input"), 3]), return_exceptions=True)
    assert outcomes(results) == [1, (ValueError, ("input",)), 3]


def test_strict_raises_where_exceptions_are_returned(pmap):
    """An uneven length is no item's exception."""
    results = pmap(max, [1, 2], [3], strict=True, return_exceptions=True)
    message = "map() argument 2 is shorter than argument 1"
    assert outcomes(results) == [3, (ValueError, (message,))]


def test_an_exception_that_fn_returns_is_a_value(pmap):
    """Returned is not raised."""
    found = list(pmap(lambda x: ValueError(x), [1, 2]))
    assert [(type(e), e.args) for e in found] == [(ValueError, (1,)), (ValueError, (2,))]


def test_an_exception_that_cannot_be_pickled_keeps_its_type(pmap):
    """What it holds may not travel; that it was this exception does."""

    class HoldingError(Exception):
        pass

    def hold(x: int) -> int:
        if x == 1:
            raise HoldingError("held", threading.Lock())
        return x

    results = pmap(hold, range(3))
    assert next(results) == 0
    error = raised(results)
    assert type(error) is HoldingError
    assert error.args[0] == "held"
    assert "item 1" in said(error)
    assert next(results) == 2
    results.close()


def test_an_exception_that_cannot_be_rebuilt_by_calling_it_keeps_type_and_args(pmap):
    """The classic: __init__ takes other arguments than it passes on."""

    class AwkwardError(Exception):
        def __init__(self, a: int, *, b: int):
            super().__init__(f"a={a} b={b}")

    def awkward(x: int) -> None:
        raise AwkwardError(x, b=2)

    found = outcomes(pmap(awkward, [1, 2]))
    assert found == [(AwkwardError, ("a=1 b=2",)), (AwkwardError, ("a=2 b=2",))]


def test_an_exception_that_breaks_when_it_is_pickled_harms_no_other_item(pmap):
    """Its own methods run in the worker, and may raise anything."""

    class ViciousError(Exception):
        def __reduce__(self) -> Any:
            raise SystemExit("gotcha")

    found = outcomes(pmap(picky(1, ViciousError, "v"), range(3)))
    assert found == [0, (ViciousError, ("v",)), 4]


# ------------------------------------------------------------------ 4 what can be carried


def test_lambdas_and_closures_are_carried(pmap):
    """A function needs no importable name, and takes along what it closes over."""
    table = {x: str(x) * 3 for x in range(5)}
    assert list(pmap(lambda key: table[key], range(5))) == ["000", "111", "222", "333", "444"]


def test_a_recursive_local_function_is_carried(pmap):
    """A closure that contains itself works."""

    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    assert list(pmap(factorial, range(6))) == [1, 1, 2, 6, 24, 120]


def test_functions_of_modules_and_builtins_are_carried(pmap):
    """By reference, and methods of builtin types too."""
    assert list(pmap(len, ["a", "bc"])) == [1, 2]
    assert list(pmap(str.upper, ["a", "bc"])) == ["A", "BC"]
    assert list(pmap("-".join, ["ab", "cde"])) == ["a-b", "c-d-e"]
    assert list(pmap(os.path.basename, ["/a/b", "/c"])) == ["b", "c"]


def test_partials_bound_methods_and_callable_objects_are_carried(pmap):
    """Everything callable is a function."""

    class Scale:
        def __init__(self, factor: int):
            self.factor = factor

        def times(self, x: int) -> int:
            return self.factor * x

        __call__ = times

        @classmethod
        def named(cls, x: int) -> str:
            return f"{cls.__name__}{x}"

    assert list(pmap(functools.partial(pow, 2), range(4))) == [1, 2, 4, 8]
    assert list(pmap(functools.partial(lambda x, y: x - y, y=1), range(3))) == [-1, 0, 1]
    assert list(pmap(Scale(3).times, range(3))) == [0, 3, 6]
    assert list(pmap(Scale(4), range(3))) == [0, 4, 8]
    assert list(pmap(Scale.named, range(2))) == ["Scale0", "Scale1"]
    assert [s.factor for s in pmap(Scale, [5, 6])] == [5, 6]


def test_local_classes_keep_their_identity_over_the_round_trip(pmap):
    """isinstance holds on results, and on arguments in fn."""

    class Point:
        def __init__(self, x: int):
            self.x = x

    def mirror(point: Point) -> Point:
        assert isinstance(point, Point)
        return Point(-point.x)

    found = list(pmap(mirror, [Point(1), Point(2)]))
    assert all(type(point) is Point for point in found)
    assert [point.x for point in found] == [-1, -2]


_MAIN = """
import dataclasses, enum

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

@dataclasses.dataclass(frozen=True)
class Pixel:
    colour: Colour
    at: tuple = ()

def swapped(pixel):
    assert isinstance(pixel, Pixel) and pixel.colour in Colour
    if pixel.colour is Colour.RED:
        return Pixel(Colour.BLUE, pixel.at)
    return pixel
"""


def test_dataclasses_and_enums_of_main_keep_their_identity(pmap, monkeypatch):
    """Classes of a script are the same classes after the round trip, members the same members."""
    main = sys.modules["__main__"]
    before = set(vars(main))
    exec(compile(_MAIN, "<script>", "exec"), vars(main))
    colour, pixel, swapped = main.Colour, main.Pixel, main.swapped
    try:
        found = list(pmap(swapped, [pixel(colour.RED, (1,)), pixel(colour.BLUE, (2,))]))
    finally:
        for name in set(vars(main)) - before:
            delattr(main, name)
    assert found == [pixel(colour.BLUE, (1,)), pixel(colour.BLUE, (2,))]
    assert all(type(each) is pixel and each.colour is colour.BLUE for each in found)


def test_an_item_that_cannot_be_sent_is_an_error_of_that_item(pmap, engine):
    """A lock among the arguments is a TypeError that names the item; the others have values."""
    results = pmap(lambda x: str(x)[:3], [1, threading.Lock(), 3])
    assert next(results) == "1"
    if engine.remote:
        error = raised(results)
        assert type(error) is TypeError
        assert "item 1 cannot be sent" in said(error)
        assert "lock" in said(error)
    else:
        assert next(results) == "<un"
    assert list(results) == ["3"]


def test_a_result_that_cannot_be_sent_is_an_error_of_that_item(pmap, engine):
    """A lock as a result is a TypeError that names the item; the others have values."""

    def lock(x: int) -> Any:
        return threading.Lock() if x == 1 else x

    results = pmap(lock, range(3), chunksize=3)
    assert next(results) == 0
    if engine.remote:
        error = raised(results)
        assert type(error) is TypeError
        assert "result cannot be sent" in said(error)
        assert "item 1" in said(error)
        assert "lock" in said(error)
    else:
        assert next(results).acquire()
    assert list(results) == [2]


class _Unloadable:
    """Pickles, and does not load."""

    def __reduce__(self) -> Any:
        return int, ("this is no number",)

    def __str__(self) -> str:
        return "unloadable"


def test_a_result_that_does_not_load_is_an_error_of_that_item(pmap, engine):
    """It pickled in the worker and raised here: told as such, with the item, and no more lost."""
    results = pmap(lambda x: _Unloadable() if x == 1 else x, range(4), chunksize=4)
    assert next(results) == 0
    if engine.remote:
        error = raised(results)
        assert type(error) is TypeError
        assert "result of item 1" in said(error)
        assert "this is no number" in said(error)
    else:
        assert str(next(results)) == "unloadable"
    assert list(results) == [2, 3]


def test_an_item_that_does_not_load_is_an_error_of_that_item(pmap, engine):
    """It pickled here and raised in the worker: told as such, with the item, and no more lost."""
    results = pmap(lambda x: str(x), [0, _Unloadable(), 2, 3], chunksize=4)
    assert next(results) == "0"
    if engine.remote:
        error = raised(results)
        assert type(error) is TypeError
        assert "item 1" in said(error)
        assert "this is no number" in said(error)
    else:
        assert next(results) == "unloadable"
    assert list(results) == ["2", "3"]


def test_an_error_of_the_way_is_a_result_where_exceptions_are(pmap, engine):
    """return_exceptions holds for items and results that cannot be carried as well."""
    found = list(pmap(lambda x: x, [1, threading.Lock(), 3], return_exceptions=True))
    assert [found[0], found[2]] == [1, 3]
    assert isinstance(found[1], TypeError) == engine.remote


def test_a_function_that_cannot_be_sent(pmap, engine):
    """A closure over a lock: a clear error where workers are insisted on and cannot inherit it."""
    lock = threading.Lock()

    def guarded(x: int) -> int:
        with lock:
            return x + 1

    if engine.name in ("default", "forkserver", "spawn", *AWAY):
        error = raised(pmap(guarded, [1]))
        assert type(error) is TypeError
        assert "function" in said(error)
        assert "lock" in said(error)
    else:
        assert list(pmap(guarded, [1, 2])) == [2, 3]


def test_large_items_and_results_are_carried(pmap):
    """What does not fit a pipe takes another way, and arrives the same."""
    blob = bytes(range(256)) * 4096
    found = list(pmap(lambda data: data[::-1], [blob, blob[:-1]]))
    assert found == [blob[::-1], blob[:-1][::-1]]


def test_what_is_no_function_is_a_type_error_at_its_first_item(pmap):
    """map(10, xs) raises at next, not at the call."""
    results = pmap(10, range(2))
    assert [outcome[0] for outcome in outcomes(results)] == [TypeError, TypeError]


# ------------------------------------------------------------------ the options


def test_unordered_results_are_the_same_results(pmap):
    """ordered=False changes the order at the most."""
    found = Counter(map(repr, outcomes(pmap(picky(7, ValueError), range(40), ordered=False))))
    assert found == Counter(map(repr, outcomes(map(picky(7, ValueError), range(40)))))


@pytest.mark.engines(*REMOTE)
def test_unordered_results_overtake_a_slow_item(pmap, tmp_path):
    """The first item waits for us, who wait for another one: that one has to pass it."""
    os.mkfifo(tmp_path / "gate")

    def meet(x: int) -> int:
        if x == 0:
            (tmp_path / "gate").read_bytes()  # blocks until somebody has written
        return x

    results = pmap(meet, range(4), ordered=False, chunksize=1, task_timeout=LIMIT)
    first = next(results)
    (tmp_path / "gate").write_bytes(b"go")
    assert sorted([first, *results]) == [0, 1, 2, 3]
    assert first != 0


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_chunks_of_any_size_give_the_same(pmap, size):
    """chunksize decides what travels together, and nothing else."""
    found = outcomes(pmap(picky(4, ValueError, 4), range(10), chunksize=size))
    assert found == outcomes(map(picky(4, ValueError, 4), range(10)))


@pytest.mark.engines(*REMOTE, *AWAY)
@pytest.mark.parametrize(("size", "chunks"), [(1, 10), (3, 4), (10, 1), (99, 1)])
def test_a_given_chunksize_is_kept_to(pmap, size, chunks):
    """Ten items in chunks of three are four chunks."""
    results = pmap(abs, range(10), chunksize=size)
    assert list(results) == list(range(10))
    assert results.report.chunks == chunks


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_an_item_that_raises_is_run_again(pmap, tmp_path, failures):
    """With retries=2 an item may fail twice, and still has a value."""

    def flaky(x: int) -> int:
        if x == 1 and attempt(tmp_path, x) <= failures:
            raise ConnectionError(x)
        return x

    assert list(pmap(flaky, range(3), retries=2)) == [0, 1, 2]
    assert (tmp_path / "1").stat().st_size == failures + 1


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries_are_runs_after_the_first(pmap, tmp_path, retries):
    """An item that always raises is run 1 + retries times, then its last exception is raised."""

    def hopeless(x: int) -> int:
        if x == 1:
            raise ConnectionError(attempt(tmp_path, x))
        return x

    found = outcomes(pmap(hopeless, range(3), retries=retries))
    assert found == [0, (ConnectionError, (retries + 1,)), 2]


@pytest.mark.engines("decide", *REMOTE)
def test_an_item_over_its_time_limit_is_a_timeout_error(pmap):
    """task_timeout ends the item that never ends; the others keep their values."""

    def stuck(x: int) -> int:
        if x == 2:
            threading.Event().wait()
        return x

    results = pmap(stuck, range(6), task_timeout=1.0)
    assert [next(results), next(results)] == [0, 1]
    error = raised(results)
    assert type(error) is TimeoutError
    assert "item 2" in said(error)
    assert "task_timeout" in said(error)
    assert list(results) == [3, 4, 5]
    assert results.report.mode == "parallel"


@pytest.mark.engines(*REMOTE)
def test_an_item_over_its_time_limit_is_run_again(pmap, tmp_path):
    """retries counts runs that timed out too."""

    def stuck_once(x: int) -> int:
        if x == 1 and attempt(tmp_path, x) == 1:
            threading.Event().wait()
        return x

    assert list(pmap(stuck_once, range(3), task_timeout=1.0, retries=1)) == [0, 1, 2]
    assert (tmp_path / "1").stat().st_size == 2


@pytest.mark.engines("default", "fork")
def test_an_item_whose_worker_is_killed_is_an_error_of_that_item(pmap):
    """WorkerDied names the item and how its worker ended; the others keep their values."""

    def fatal(x: int) -> int:
        if x == 3:
            os.kill(os.getpid(), 9)
        return x

    results = pmap(fatal, range(6))
    assert list(itertools.islice(results, 3)) == [0, 1, 2]
    error = raised(results)
    assert type(error) is parmap.WorkerDied
    assert (error.index, error.exitcode) == (3, -9)
    assert list(results) == [4, 5]


@pytest.mark.engines(*LOCAL)
def test_the_initializer_runs_once_in_every_process_that_runs_items(pmap, tmp_path, monkeypatch):
    """What it sets is there when fn runs."""
    monkeypatch.setattr(sys, "parmap_level", None, raising=False)

    def prepare(level: int, mark: str) -> None:
        sys.parmap_level = (level, mark)
        attempt(tmp_path, os.getpid())

    results = pmap(lambda x: (os.getpid(), sys.parmap_level), range(20), initializer=prepare,
                   initargs=(5, "m"))  # fmt: skip
    found = list(results)
    assert {level for _, level in found} == {(5, "m")}
    prepared = {int(path.name): path.stat().st_size for path in tmp_path.iterdir()}
    assert {pid for pid, _ in found} <= prepared.keys()
    assert set(prepared.values()) == {1}


@pytest.mark.engines(*LOCAL)
def test_what_the_initializer_raises_is_raised(pmap):
    """Without its initializer no item runs: the call ends with the exception."""

    def broken() -> None:
        raise ZeroDivisionError("in the initializer")

    with pytest.raises(ZeroDivisionError, match="in the initializer"):
        list(pmap(abs, range(3), initializer=broken))


@pytest.mark.engines(*REMOTE)
def test_one_worker_is_enough(pmap):
    """max_workers=1 runs everything in one other process, in order."""
    results = pmap(lambda x: (x, os.getpid()), range(20), max_workers=1)
    found = list(results)
    assert [x for x, _ in found] == list(range(20))
    assert len({pid for _, pid in found}) == 1
    assert os.getpid() not in {pid for _, pid in found}
    assert results.report.workers == 1


@pytest.mark.engines(*REMOTE)
def test_two_workers_run_two_items_at_once(pmap, tmp_path):
    """Two items that need each other both come to an end."""
    os.mkfifo(tmp_path / "pipe")

    def half(x: int) -> int:
        with open(tmp_path / "pipe", "rb" if x else "wb"):  # opens when both ends are there
            return x

    results = pmap(half, range(2), chunksize=1, task_timeout=LIMIT)
    assert list(results) == [0, 1]
    assert results.report.workers == 2


@pytest.mark.engines("serial", *REMOTE, *AWAY)
def test_parallel_is_where_fn_runs(pmap, engine):
    """True: never in the calling process. False: nowhere else."""
    pids = set(pmap(lambda x: os.getpid(), range(10)))
    assert (os.getpid() not in pids) if engine.remote else pids == {os.getpid()}


def test_a_call_that_grows_dear_on_its_way_gives_the_same(pmap):
    """Going over to workers in the middle of a call is not seen in its results."""

    def dear(x: int) -> int:
        if x == 70:
            raise ValueError(x)
        return sum(i % 7 for i in range(x * 1000))

    assert outcomes(pmap(dear, range(100)), 101) == outcomes(map(dear, range(100)), 101)


# ------------------------------------------------------------------ calls beside each other


def test_a_pmap_over_a_pmap(pmap):
    """The results of one are the input of another."""
    assert list(pmap(abs, pmap(lambda x: -x, range(20)))) == list(range(20))


def test_two_calls_take_turns(pmap):
    """Iterating one while the other is half way mixes nothing up."""
    one, two = pmap(lambda x: x + 1, range(20)), pmap(lambda x: -x, range(20))
    assert list(zip(one, two, strict=True)) == [(x + 1, -x) for x in range(20)]


def test_a_pmap_within_fn(pmap, engine):
    """A nested call has the same values, in a worker too."""
    options = {**engine.options, "executor": None}

    def inner(n: int) -> list[int]:
        from parmap import pmap as nested

        return list(nested(lambda x: x * n, range(n), **options))

    assert list(pmap(inner, range(4))) == [[], [0], [0, 2], [0, 3, 6]]


def test_calls_of_several_threads(pmap):
    """Threads may map at the same time, each with its own call."""
    found: dict[int, list[int]] = {}

    def use(n: int) -> None:
        found[n] = list(pmap(lambda x: x * n, range(30)))

    threads = [threading.Thread(target=use, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [x * n for x in range(30)] for n in range(3)}


# ------------------------------------------------------------------ the end of a call


def test_close_ends_it(pmap):
    """After close there are no more results; a second close is nothing; the next call works."""
    results = pmap(abs, range(-50, 0))
    assert next(results) == 50
    results.close()
    rest = list(results)  # what had been handed out in one batch may still be there
    assert rest == list(range(49, 49 - len(rest), -1))
    assert len(rest) < 49
    results.close()
    assert list(pmap(abs, [-1])) == [1]


def test_close_before_the_first_next_runs_nothing(pmap, tmp_path):
    """A call that is closed unused never begins."""
    source = Source([1, 2])
    results = pmap(lambda x: attempt(tmp_path, x), source)
    results.close()
    assert list(results) == []
    assert source.drawn == 0
    assert not list(tmp_path.iterdir())


def test_close_keeps_items_from_beginning(pmap, tmp_path):
    """Of a thousand items, those that had not begun at the close never do."""
    results = pmap(lambda x: attempt(tmp_path, x), Source(range(1000)), buffersize=8)
    assert next(results) == 1
    results.close()
    assert list(pmap(abs, [-1])) == [1]
    assert len(list(tmp_path.iterdir())) <= 9


def test_a_result_is_let_go_when_the_consumer_lets_go(pmap):
    """The iterator keeps no reference to what it has handed out, not even to the last one."""

    class Result:
        def __init__(self, x: int):
            self.x = x

    results = pmap(Result, range(5))
    for x in range(5):
        value = next(results)
        assert value.x == x
        gone = weakref.ref(value)
        del value
        assert gone() is None


def test_an_item_is_let_go_when_its_result_is_taken(pmap):
    """As with map, an argument lives no longer than its turn, once the call is over."""

    class Item:
        pass

    gone = []

    def source() -> Iterator[Item]:
        for _ in range(5):
            item = Item()
            gone.append(weakref.ref(item))
            yield item
            del item

    assert list(pmap(lambda item: 1, source())) == [1] * 5
    assert [ref() for ref in gone] == [None] * 5


def test_an_exception_that_was_caught_keeps_nothing_alive(pmap):
    """As with map: who drops the iterator and its exception has dropped the call, without gc."""

    class Fails:
        def __call__(self, x: int) -> float:
            return 1 / x

    def use(mapper: Callable[..., Any]) -> weakref.ref[Fails]:
        fn = Fails()
        results = mapper(fn, [0, 1])
        kind = type(raised(results))  # the exception itself in a local here would be a cycle
        assert kind is ZeroDivisionError
        return weakref.ref(fn)

    gc.disable()
    try:
        assert use(map)() is None
        fn = use(pmap)
        # A thread of an executor may still be on its way out of its last item.
        assert eventually(lambda: fn() is None)
    finally:
        gc.enable()


# ------------------------------------------------------------------ the report


def test_the_report_before_and_after(pmap, engine):
    """What was decided and why, in words and numbers that fit the call."""
    results = pmap(abs, range(30))
    report = results.report
    assert isinstance(report, Report)
    assert (report.mode, report.items) == ("not started", 0)
    assert list(results) == list(range(30))
    assert results.report is report
    assert report.mode in ("serial", "parallel")
    assert report.items == 30
    assert report.reason
    assert report.mode in str(report)
    assert 0 < report.seconds_per_item * 30 == pytest.approx(report.serial_seconds)
    assert report.seconds > 0
    assert 0 <= report.waiting <= 1
    assert report.worker_deaths == 0
    if report.mode == "serial":
        assert not engine.remote
        assert (report.workers, report.start_method, report.chunks) == (0, "", 0)
        assert report.items_here == 30
        assert report.bytes_moved == 0
    else:
        assert 1 <= report.workers <= 2
        assert 1 <= report.chunks <= 30
        assert report.items_here < 30
        assert report.bytes_moved > 0 or engine.executor == "threads"


@pytest.mark.engines(*REMOTE)
def test_the_report_names_the_start_method(pmap, engine):
    """And, where workers were insisted on, that nothing was run here."""
    results = pmap(abs, range(5))
    assert list(results) == list(range(5))
    assert results.report.start_method == (engine.mp_context or "forkserver")
    assert results.report.items_here == 0


@pytest.mark.parametrize("empty", [[], iter(()), range(0), Source([])])
def test_of_nothing_comes_nothing(pmap, empty):
    """An empty input is an empty result, and no work."""
    results = pmap(abs, empty)
    assert list(results) == []
    assert results.report.items == 0


def test_failed_items_are_counted(pmap):
    """report.items counts every item that came to something."""
    results = pmap(picky(3, ValueError), range(10))
    assert len(outcomes(results)) == 10
    assert results.report.items == 10


# ------------------------------------------------------------------ arguments that are refused

_WRONG_TYPE: list[tuple[str, Any]] = [
    ("strict", 1),
    ("strict", "no"),
    ("parallel", 1),
    ("parallel", "yes"),
    ("max_workers", 1.5),
    ("max_workers", "2"),
    ("max_workers", True),
    ("chunksize", 2.0),
    ("chunksize", False),
    ("chunksize", "auto"),
    ("buffersize", [4]),
    ("buffersize", True),
    ("ordered", None),
    ("ordered", 0),
    ("return_exceptions", None),
    ("return_exceptions", "yes"),
    ("task_timeout", "1s"),
    ("task_timeout", True),
    ("retries", None),
    ("retries", 1.0),
    ("retries", True),
    ("progress", 1),
    ("progress", ["bar"]),
    ("initializer", 3),
    ("initargs", [1]),
    ("initargs", None),
    ("mp_context", 3),
    ("mp_context", True),
    ("executor", 3),
    ("executor", "threads"),
]

_WRONG_VALUE: list[tuple[str, Any]] = [
    ("max_workers", 0),
    ("max_workers", -1),
    ("chunksize", 0),
    ("chunksize", -5),
    ("buffersize", 0),
    ("buffersize", -3),
    ("task_timeout", 0),
    ("task_timeout", 0.0),
    ("task_timeout", -1.5),
    ("task_timeout", float("nan")),
    ("retries", -1),
    ("initargs", (1,)),
    ("mp_context", "thread"),
    ("mp_context", ""),
]

_REFUSED = [(TypeError, *pair) for pair in _WRONG_TYPE] + [
    (ValueError, *pair) for pair in _WRONG_VALUE
]


@pytest.mark.parametrize("call", [parmap.pmap, parmap.pstarmap])
@pytest.mark.parametrize(
    ("error", "name", "value"), _REFUSED, ids=[f"{name}={value!r}" for _, name, value in _REFUSED]
)
def test_a_bad_argument_is_refused_at_the_call(call, error, name, value):
    """By an error that names the argument and the value."""
    with pytest.raises(error) as caught:
        call(max, [(1, 2)], **{name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("call", [parmap.pmap, parmap.pstarmap])
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"task_timeout": 2, "parallel": False}, ["task_timeout=2", "parallel=False"]),
        ({"executor": object(), "mp_context": "spawn"}, ["executor", "mp_context"]),
        ({"executor": object(), "initializer": print}, ["executor", "initializer"]),
    ],
)
def test_arguments_that_exclude_each_other_are_refused(call, options, names):
    """By an error that names both."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call(max, [(1, 2)], **options)
    for name in names:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"n_jobs": 2}, "max_workers"),
        ({"processes": 2}, "max_workers"),
        ({"chunk_size": 2}, "chunksize"),
        ({"timeout": 2}, "task_timeout"),
        ({"key": 2}, None),
    ],
)
def test_an_unknown_argument_is_refused_with_advice(options, advice):
    """Options are never handed to fn, and a name from another library has its own here."""
    (name,) = options
    with pytest.raises(TypeError, match=f"pmap.*unexpected keyword argument '{name}'") as caught:
        parmap.pmap(max, [(1, 2)], **options)
    assert (advice or "did you mean") in str(caught.value) or advice is None


@pytest.mark.engines(*LOCAL)
def test_a_context_of_multiprocessing_is_taken(engine):
    """mp_context takes what multiprocessing.get_context gives, as the standard library does."""
    import multiprocessing

    context = multiprocessing.get_context(engine.mp_context)
    options = {**engine.options, "mp_context": context}
    results = parmap.pmap(lambda x: -x, range(5), **options)
    assert list(results) == [0, -1, -2, -3, -4]
    if engine.mp_context is not None:
        assert results.report.start_method == engine.mp_context


# ------------------------------------------------------------------ the environment


@pytest.mark.parametrize(
    ("text", "mode"), [("1", "parallel"), ("true", "parallel"), ("0", "serial"), ("no", "serial")]
)
def test_parmap_parallel_pins_calls_that_do_not_say(monkeypatch, text, mode):
    """PARMAP_PARALLEL is the default of parallel=, and no more than the default."""
    monkeypatch.setenv("PARMAP_PARALLEL", text)
    results = parmap.pmap(abs, range(5), max_workers=2)
    assert list(results) == list(range(5))
    assert results.report.mode == mode
    results = parmap.pmap(abs, range(5), max_workers=2, parallel=mode != "parallel")
    assert list(results) == list(range(5))
    assert results.report.mode != mode


def test_parmap_parallel_auto_measures(monkeypatch):
    """PARMAP_PARALLEL=auto is parallel=None: five tiny items stay here."""
    monkeypatch.setenv("PARMAP_PARALLEL", "auto")
    results = parmap.pmap(abs, range(5))
    assert list(results) == list(range(5))
    assert results.report.mode == "serial"


def test_parmap_max_workers_is_the_default_of_max_workers(monkeypatch):
    """PARMAP_MAX_WORKERS bounds calls that do not say."""
    parmap.shutdown()  # one that still loads for an earlier call would be waited for
    monkeypatch.setenv("PARMAP_MAX_WORKERS", "1")
    results = parmap.pmap(abs, range(5), parallel=True)
    assert list(results) == list(range(5))
    assert results.report.workers == 1
    results = parmap.pmap(abs, range(5), parallel=True, max_workers=2)
    assert list(results) == list(range(5))
    assert results.report.workers == 2


@pytest.mark.parametrize(("text", "shown"), [("1", True), ("0", False)])
def test_parmap_progress_shows_the_bar_or_not(monkeypatch, capfd, text, shown):
    """PARMAP_PROGRESS is the default of progress=."""
    monkeypatch.setenv("PARMAP_PROGRESS", text)
    assert list(parmap.pmap(abs, range(5))) == list(range(5))
    assert ("5/5" in capfd.readouterr().err) == shown
    assert list(parmap.pmap(abs, range(5), progress=not shown)) == list(range(5))
    assert ("5/5" in capfd.readouterr().err) != shown


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_parmap_start_method_is_the_default_of_mp_context(monkeypatch, method):
    """PARMAP_START_METHOD chooses for calls that do not say."""
    monkeypatch.setenv("PARMAP_START_METHOD", method)
    results = parmap.pmap(abs, range(5), parallel=True, max_workers=2)
    assert list(results) == list(range(5))
    assert results.report.start_method == method
    results = parmap.pmap(abs, range(5), parallel=True, max_workers=2, mp_context="forkserver")
    assert list(results) == list(range(5))
    assert results.report.start_method == "forkserver"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PARMAP_PARALLEL", "perhaps"),
        ("PARMAP_MAX_WORKERS", "0"),
        ("PARMAP_MAX_WORKERS", "many"),
        ("PARMAP_PROGRESS", "loud"),
        ("PARMAP_START_METHOD", "thread"),
    ],
)
def test_a_bad_variable_is_refused_by_name(monkeypatch, name, text):
    """A ValueError names the variable and its value, at the call."""
    monkeypatch.setenv(name, text)
    with pytest.raises(ValueError, match=name) as caught:
        parmap.pmap(abs, range(5), parallel=None if name == "PARMAP_PARALLEL" else True)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("kind", [list, iter])
def test_a_warning_names_the_line_that_asked_for_results(monkeypatch, kind):
    def refused(*_):
        raise OSError("no process today")

    monkeypatch.setattr(_decision.Decision, "_hire", refused)
    monkeypatch.setattr(_decision.Decision, "_make_plan", lambda *_: _plan.Plan(2, 5, "wanted"))
    with pytest.warns(RuntimeWarning, match="no process today") as warned:
        list(parmap.pmap(lambda n: sum(range(n)), kind([20_000] * 400)))
    assert [warning.filename for warning in warned] == [__file__]
