"""What type checkers infer of the public names. Read by mypy --strict and pyright, never run.

Each wrong call carries an ignore, and both checkers report an ignore that is not needed: a wrong
call that went unnoticed would fail the check.
"""
# ruff: noqa: F841
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedVariable=false

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, assert_type

from parmap import Crossover, Report, WorkerDied, crossover, pmap, pstarmap, shutdown


def one(a: int) -> str:
    raise NotImplementedError


def two(a: int, b: str) -> float:
    raise NotImplementedError


def three(a: int, b: str, c: bytes) -> bool:
    raise NotImplementedError


def four(a: int, b: str, c: bytes, d: float) -> list[int]:
    raise NotImplementedError


def five(a: int, b: str, c: bytes, d: float, e: bool) -> dict[str, int]:
    raise NotImplementedError


def many(*args: int) -> complex:
    raise NotImplementedError


def prepare(level: int) -> None:
    raise NotImplementedError


def right(
    ints: list[int],
    strs: Iterable[str],
    blobs: set[bytes],
    floats: tuple[float, ...],
    bools: Iterator[bool],
    flag: bool,
) -> None:
    # One to five iterables, and more
    assert_type(next(pmap(one, ints)), str)
    assert_type(next(pmap(two, ints, strs)), float)
    assert_type(next(pmap(three, ints, strs, blobs)), bool)
    assert_type(next(pmap(four, ints, strs, blobs, floats)), list[int])
    assert_type(next(pmap(five, ints, strs, blobs, floats, bools)), dict[str, int])
    assert_type(next(pmap(many, ints, ints, ints, ints, ints, ints, ints)), complex)
    assert_type(list(pmap(len, ["a"])), list[int])
    assert_type([each + "!" for each in pmap(str, ints)], list[str])

    # It is an iterator, and goes wherever one goes
    lengths: Iterator[int] = pmap(len, ["a"])
    again: Iterator[str] = iter(pmap(one, ints))
    wide: Iterable[float] = pmap(int, ["1"])
    assert_type(sum(pmap(len, strs)), int)
    assert_type(dict(zip(strs, pmap(one, ints), strict=True)), dict[str, str])
    chained: Iterator[int] = pmap(len, pmap(one, ints))

    # Lambdas
    assert_type(next(pmap(lambda x: x * 2, ints)), int)
    assert_type(next(pmap(lambda x: x.upper(), strs)), str)
    assert_type(next(pmap(lambda x, y: (y, x), ints, strs)), tuple[str, int])

    # Exceptions among the results
    assert_type(next(pmap(one, ints, return_exceptions=False)), str)
    assert_type(next(pmap(one, ints, return_exceptions=True)), str | Exception)
    assert_type(next(pmap(one, ints, return_exceptions=flag)), str | Exception)
    assert_type(next(pmap(two, ints, strs, return_exceptions=True)), float | Exception)
    assert_type(next(pstarmap(two, [(1, "a")], return_exceptions=True)), float | Exception)

    # pstarmap, whose arguments nobody can check
    assert_type(next(pstarmap(two, [(1, "a")])), float)
    assert_type(next(pstarmap(many, [[1, 2], [3]])), complex)
    pairs: Iterator[float] = pstarmap(two, zip(ints, strs, strict=True))

    # Every option, and the two attributes
    full = pmap(
        one,
        ints,
        strict=True,
        parallel=None,
        max_workers=2,
        chunksize=10,
        buffersize=100,
        ordered=False,
        return_exceptions=False,
        task_timeout=1.5,
        retries=3,
        progress={"desc": "reading"},
        initializer=prepare,
        initargs=(5,),
        mp_context="spawn",
        executor=None,
    )
    assert_type(next(full), str)
    assert_type(full.report, Report)
    assert_type(full.report.items, int)
    assert_type(full.report.mode, str)
    full.close()
    shutdown()


def measured(flag: bool) -> None:
    assert_type(crossover(one, 3), Crossover)
    assert_type(crossover(one, 3).crossing, int | None)
    crossover(one, "3")  # type: ignore[arg-type]


def died(error: WorkerDied) -> tuple[int | None, int | None]:
    return error.index, error.exitcode


def wrong(ints: list[int], strs: Iterable[str]) -> None:
    # Each of these is an error
    pmap()  # type: ignore[call-overload]
    pmap(one)  # type: ignore[call-overload]
    pmap(one, 42)  # type: ignore[call-overload]
    pmap(one, strs)  # type: ignore[arg-type]
    pmap(one, ints, ints)  # type: ignore[arg-type]
    pmap(two, ints)  # type: ignore[arg-type]
    pmap(two, strs, ints)  # type: ignore[arg-type]
    pmap(42, ints)  # type: ignore[call-overload]
    pmap(one, ints, max_workers="2")  # type: ignore[call-overload]
    pmap(one, ints, parallel="yes")  # type: ignore[call-overload]
    pmap(one, ints, n_jobs=2)  # type: ignore[call-overload]
    pmap(one, ints, initargs=[5])  # type: ignore[call-overload]
    pmap(fn=one, it1=ints)  # type: ignore[call-overload]
    pstarmap(two)  # type: ignore[call-overload]
    pstarmap(two, 42)  # type: ignore[call-overload]
    pstarmap(two, [(1, "a")], [(2, "b")])  # type: ignore[call-overload]
    number: Iterator[int] = pmap(one, ints)  # type: ignore[arg-type]
    text: Iterator[str] = pmap(one, ints, return_exceptions=True)  # type: ignore[assignment]


def anything(fn: Any, items: Any) -> Iterator[Any]:
    """What is not typed stays usable."""
    return pmap(fn, items)
