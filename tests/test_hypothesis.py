"""For any inputs: what comes of `pmap` is what comes of `map`, exceptions and positions too."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import parmap

pytestmark = pytest.mark.parametrize("parallel", [False, True])

examples = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class FaultError(Exception):
    """An exception of this module: its instances travel, its class is known on both sides."""


# ------------------------------------------------------------------ what is drawn

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary()
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
kinds = st.sampled_from([ValueError, KeyError, ZeroDivisionError, OSError, FaultError, SystemExit])
faults = st.builds(lambda kind, args: kind(*args), kinds, st.lists(leaves, max_size=2))

# An item tells the function what to do with it: give a value, or raise.
deeds = st.tuples(st.just("give"), values) | st.tuples(st.just("raise"), faults)
options = st.fixed_dictionaries(
    {},
    optional={
        "chunksize": st.integers(1, 9),
        "buffersize": st.integers(1, 9),
        "max_workers": st.integers(1, 2),
        "retries": st.integers(0, 1),
    },
)


def doer() -> Callable[..., Any]:
    """The function under map: local, so that workers get it by value and import no hypothesis."""

    def do(*deeds: tuple[str, Any]) -> Any:
        for verb, what in deeds:
            if verb == "raise":
                raise what
        given = [what for _, what in deeds]
        return given[0] if len(given) == 1 else given

    return do


class Script:
    """An iterator that gives or raises what its script says, and goes on after it raised."""

    def __init__(self, script: Iterable[tuple[str, Any]]):
        self._script = iter(script)

    def __iter__(self) -> Script:
        return self

    def __next__(self) -> tuple[str, Any]:
        verb, what = next(self._script)
        if verb == "fail":
            raise what
        return verb, what


def outcomes(results: Iterator[Any], limit: int = 200) -> list[str]:
    """Values, and (type, args) of exceptions, in order; as text, so that nan equals nan."""
    found: list[str] = []
    for _ in range(limit):
        try:
            found.append(repr(next(results)))
        except StopIteration:
            return found
        except BaseException as error:
            found.append(repr((type(error), error.args)))
    raise AssertionError(f"no end after {limit} steps: {found[:5]} ...")


# ------------------------------------------------------------------ what holds


@examples
@given(items=st.lists(deeds, max_size=30), given_options=options)
def test_one_iterable(parallel, items, given_options):
    """pmap(fn, xs) and map(fn, xs) have the same outcomes."""
    expected = outcomes(map(doer(), items))
    assert outcomes(parmap.pmap(doer(), items, parallel=parallel, **given_options)) == expected


@examples
@given(columns=st.lists(st.lists(deeds, max_size=8), min_size=2, max_size=4), given_options=options)
def test_several_iterables(parallel, columns, given_options):
    """The shortest ends it, whichever that is."""
    expected = outcomes(map(doer(), *columns))
    assert outcomes(parmap.pmap(doer(), *columns, parallel=parallel, **given_options)) == expected


@examples
@given(rows=st.lists(st.lists(deeds, max_size=3), max_size=12), given_options=options)
def test_starmap(parallel, rows, given_options):
    """pstarmap(fn, rows) and starmap(fn, rows) have the same outcomes."""
    rows = [[("give", number), *row] for number, row in enumerate(rows)]
    expected = outcomes(itertools.starmap(doer(), rows))
    assert outcomes(parmap.pstarmap(doer(), rows, parallel=parallel, **given_options)) == expected


failures = st.tuples(st.just("fail"), faults)


@examples
@given(script=st.lists(deeds | failures, max_size=20), given_options=options)
def test_an_input_that_raises_and_goes_on(parallel, script, given_options):
    """What an input raises comes in its place, between the results of its items."""
    expected = outcomes(map(doer(), Script(script)))
    found = outcomes(parmap.pmap(doer(), Script(script), parallel=parallel, **given_options))
    assert found == expected


@examples
@given(
    scripts=st.lists(st.lists(deeds | failures, max_size=8), min_size=2, max_size=3),
    given_options=options,
)
def test_several_inputs_that_raise(parallel, scripts, given_options):
    """Where one of several raises, the others are where map would leave them."""
    ours, theirs = [list(map(Script, scripts)) for _ in range(2)]
    expected = outcomes(map(doer(), *theirs))
    assert outcomes(parmap.pmap(doer(), *ours, parallel=parallel, **given_options)) == expected


@examples
@given(items=st.lists(deeds, max_size=30), given_options=options)
def test_unordered(parallel, items, given_options):
    """ordered=False has the same outcomes in some order."""
    expected = sorted(outcomes(map(doer(), items)))
    results = parmap.pmap(doer(), items, parallel=parallel, ordered=False, **given_options)
    assert sorted(outcomes(results)) == expected


@examples
@given(items=st.lists(deeds, max_size=30), given_options=options)
def test_returned_exceptions(parallel, items, given_options):
    """return_exceptions=True is map over a function that catches Exception."""

    def caught(deed: tuple[str, Any]) -> Any:
        try:
            return doer()(deed)
        except Exception as error:
            return error

    results = parmap.pmap(doer(), items, parallel=parallel, return_exceptions=True, **given_options)
    assert outcomes(results) == outcomes(map(caught, items))


@examples
@given(items=st.lists(deeds, min_size=1, max_size=20), wanted=st.integers(0, 20))
def test_stopping_early(parallel, items, wanted):
    """However many results are taken before the iterator is closed, they are map's first ones."""
    results = parmap.pmap(doer(), items, parallel=parallel)
    expected = outcomes(itertools.islice(map(doer(), items), wanted))
    assert outcomes(itertools.islice(results, wanted)) == expected
    results.close()
