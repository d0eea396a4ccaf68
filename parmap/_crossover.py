"""Beside the corridor: where parallel overtakes serial, measured for one function."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

from parmap import _machine
from parmap._api import pmap
from parmap._plan import in_words

T = TypeVar("T")

# Seconds that one way may take at one count; the next takes twice that. Smaller ends before cheap
# functions have crossed; larger keeps a person waiting.
LONGEST_SECONDS = 0.5

# A count is measured this often, and the shortest time kept: what disturbs only ever adds.
TRIES = 3


class Row(NamedTuple):
    """Seconds for so many `items`: `serial` by map, `parallel` by workers that were there."""

    items: int
    serial: float
    parallel: float


class Crossover(NamedTuple):
    """What `crossover` measured. It prints as a table; `plot()` draws it.

    Attributes:
        name: of the function.
        rows: one for each count, growing.
        start: seconds that the first parallel call of a process takes longer.
        workers: that the parallel times were taken with.
    """

    name: str
    rows: tuple[Row, ...]
    start: float
    workers: int

    @property
    def crossing(self) -> int | None:
        """Items from which parallel stays ahead; None if it never came to that."""
        return self._from(0.0)

    @property
    def first_crossing(self) -> int | None:
        """The same for the first call of a process, which has to start the workers."""
        return self._from(self.start)

    def _from(self, start: float) -> int | None:
        ahead = None
        for row in reversed(self.rows):
            if row.parallel + start >= row.serial:
                break
            ahead = row.items
        return ahead

    def __repr__(self) -> str:
        marks = {
            self.crossing: "  <- parallel is ahead from here on",
            self.first_crossing: "  <- and from here on in the first call too",
        }
        lines = [f"{self.name}, {self.workers} workers"]
        lines.append(f"{'items':>9}  {'serial':>9}  {'parallel':>9}  speed-up")
        for items, serial, parallel in self.rows:
            times = f"{in_words(serial):>9}  {in_words(parallel):>9}  {serial / parallel:>8.2f}"
            lines.append(f"{items:>9,}  {times}{marks.get(items, '')}")
        if self.crossing is None:
            lines.append("parallel was never ahead")
        lines.append(f"starting workers took {in_words(self.start)}, once a process")
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Draw seconds over items, both axes logarithmic, with the crossing marked.

        Args:
            ax: matplotlib axes to draw on. Default None: new ones.

        Returns:
            The axes. Save with `ax.figure.savefig(...)`.

        Raises:
            ImportError: matplotlib is not installed (`pip install parmap-pool[plot]`).
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError("plot() needs matplotlib: pip install 'parmap-pool[plot]'") from error
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        counts, serial, parallel = zip(*self.rows, strict=True)
        ax.loglog(counts, serial, "o-", label="serial")
        ax.loglog(counts, parallel, "s-", label="parallel, warm")
        first = [seconds + self.start for seconds in parallel]
        ax.loglog(counts, first, ":", label="parallel, first call")
        if self.crossing is not None:
            ax.axvline(self.crossing, color="0.6", linewidth=1)
            ax.annotate(f" {self.crossing:,} items", (self.crossing, ax.get_ylim()[0]), color="0.4")
        ax.set(xlabel="items", ylabel="seconds", title=f"{self.name}, {self.workers} workers")
        ax.legend(frameon=False)
        return ax


def crossover(fn: Callable[[T], object], item: T) -> Crossover:
    """Measure from how many items on `fn` is sooner done in parallel.

    Runs `map(fn, [item] * n)` and `pmap(fn, [item] * n, parallel=True)` for n = 1, 2, 4, ... until
    one of them takes half a second or parallel has been ahead three times, in some seconds in all.

    Args:
        fn: the function, of one argument. It is run many times.
        item: the argument.

    Returns:
        A `Crossover`: rows of seconds, the crossing, and what starting workers took.

    Raises:
        Exception: what `fn` raises, and what `pmap(parallel=True)` raises where there can be no
            workers.

    Examples:
        >>> from parmap import crossover
        >>> measured = crossover(sum, range(10_000))
        >>> measured.rows[0].items
        1
    """
    workers, _ = _machine.usable_cores()
    items = [item]

    def serial() -> object:
        return list(map(fn, items))

    def parallel() -> object:
        return list(pmap(fn, items, parallel=True, max_workers=workers))

    start = _seconds(parallel, 1)
    rows: list[Row] = []
    while not rows or (max(rows[-1][1:]) < LONGEST_SECONDS and not _settled(*rows[-3:])):
        rows.append(Row(len(items), _seconds(serial), _seconds(parallel)))
        items += items
    name = getattr(fn, "__qualname__", None) or repr(fn)
    return Crossover(name, tuple(rows), max(0.0, start - rows[0].parallel), workers)


def _settled(*last: Row) -> bool:
    """Parallel was ahead three times in a row, and clearly in the last."""
    ahead = len(last) == 3 and all(row.parallel < row.serial for row in last)
    return ahead and last[-1].parallel < 0.75 * last[-1].serial


def _seconds(run: Callable[[], object], tries: int = TRIES) -> float:
    times = []
    for _ in range(tries):
        began = perf_counter()
        run()
        times.append(perf_counter() - began)
    return min(times)
