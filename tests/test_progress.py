"""The bar: counted in items, whatever way they are run, and only where somebody looks."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from waiting import short_temp

from parmap import _progress, pmap, pstarmap

# Seconds after which something that should happen is taken not to.
LIMIT = 30.0

WAYS: dict[str, dict[str, Any]] = {
    "serial": {"parallel": False},
    "parallel": {"parallel": True, "max_workers": 2},
    "decide": {"parallel": None, "max_workers": 2},
}


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The bars that are made while the test runs, as tqdm's own objects."""
    made: list[Any] = []
    make = _progress._new_bar

    def noted(arguments: dict[str, Any]) -> Any:
        made.append(make({"file": io.StringIO(), "mininterval": 0, **arguments}))
        return made[-1]

    monkeypatch.setattr(_progress, "_new_bar", noted)
    return made


def finished(bars: list[Any]) -> tuple[int, int | None]:
    """(n, total) of the only bar there was, which is closed."""
    (bar,) = bars
    assert bar.disable  # what tqdm's close() leaves
    return bar.n, bar.total


def last_line(text: str) -> str:
    """What a terminal shows in the end of what was written to one line."""
    return re.split(r"[\r\n]+", text.strip())[-1]


# ------------------------------------------------------------------ counted in items


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunksize", [None, 1, 7, 100])
def test_every_item_is_counted_once_whatever_the_chunk(
    bars: list[Any], way: str, chunksize: int | None
) -> None:
    """A list says how long it is, and the bar ends full."""
    results = pmap(lambda x: x, list(range(40)), progress=True, chunksize=chunksize, **WAYS[way])
    assert list(results) == list(range(40))
    assert finished(bars) == (40, 40)


@pytest.mark.parametrize("way", WAYS)
def test_a_generator_has_no_total(bars: list[Any], way: str) -> None:
    """Nobody knows how much is to come, so the bar only counts."""
    assert sum(pmap(lambda x: x, (x for x in range(40)), progress=True, **WAYS[way])) == 780
    assert finished(bars) == (40, None)


@pytest.mark.parametrize("way", WAYS)
def test_the_shortest_of_several_iterables_is_the_total(bars: list[Any], way: str) -> None:
    """Also when one of them is endless."""
    import itertools

    assert (
        len(
            list(pmap(lambda a, b: a + b, itertools.count(), range(40), progress=True, **WAYS[way]))
        )
        == 40
    )
    assert finished(bars) == (40, 40)


@pytest.mark.parametrize("way", WAYS)
def test_pstarmap_counts_the_same(bars: list[Any], way: str) -> None:
    """A tuple of arguments is one item."""
    assert len(list(pstarmap(pow, [(2, 5)] * 20, progress=True, **WAYS[way]))) == 20
    assert finished(bars) == (20, 20)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunksize", [None, 1, 100])
def test_items_that_fail_are_finished_too(bars: list[Any], way: str, chunksize: int | None) -> None:
    """An exception is an outcome; the bar does not stop short of its end."""
    options = {"return_exceptions": True, "chunksize": chunksize, **WAYS[way]}
    found = list(pmap(lambda x: 1 // (x % 4), range(40), progress=True, **options))
    assert sum(isinstance(x, ZeroDivisionError) for x in found) == 10
    assert finished(bars) == (40, 40)


@pytest.mark.parametrize("way", WAYS)
def test_the_bar_counts_on_when_the_consumer_goes_on_after_an_exception(
    bars: list[Any], way: str
) -> None:
    """Raised at its position, caught, and the rest taken: one bar, all items."""
    results = pmap(lambda x: 1 // (x % 4), range(12), progress=True, **WAYS[way])
    seen = 0
    while True:
        try:
            next(results)
        except ZeroDivisionError:
            pass
        except StopIteration:
            break
        seen += 1
    assert seen == 12
    assert finished(bars) == (12, 12)


@pytest.mark.parametrize("way", WAYS)
def test_items_that_run_again_are_counted_once(bars: list[Any], way: str, tmp_path: Path) -> None:
    """Retries, and items of a worker that died, do not count twice."""

    def fails_once(x: int) -> int:
        try:
            (tmp_path / str(x)).touch(exist_ok=False)
        except FileExistsError:
            return x
        if x == 2 and way == "parallel":
            os._exit(1)
        raise ValueError(x)

    assert list(pmap(fails_once, range(8), progress=True, retries=2, **WAYS[way])) == list(range(8))
    assert finished(bars) == (8, 8)


@pytest.mark.parametrize("way", WAYS)
def test_no_items_make_an_empty_bar(bars: list[Any], way: str) -> None:
    """Who asks for a bar gets one, also for nothing."""
    assert list(pmap(abs, [], progress=True, **WAYS[way])) == []
    assert finished(bars) == (0, 0)


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_is_left_early_closes_its_bar(bars: list[Any], way: str) -> None:
    """It stays where it was, at no more than what was run."""
    results = pmap(lambda x: x, range(1000), progress=True, chunksize=1, **WAYS[way])
    next(results)
    results.close()
    n, total = finished(bars)
    assert 1 <= n <= 1000
    assert total == 1000


@pytest.mark.parametrize("way", ["serial", "parallel"])
def test_the_bar_moves_while_items_run_and_never_backwards(
    bars: list[Any], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """What it has shown so far is at least what the consumer has, and at most what there is."""
    monkeypatch.setattr("parmap._flow.TICK", 0.001)
    shown = []
    for count, _ in enumerate(
        pmap(lambda x: time.sleep(0.002), range(40), progress=True, chunksize=10, **WAYS[way])
    ):
        shown.append(bars[0].n if bars else 0)
        assert shown[-1] <= 40
        assert count - 1 <= shown[-1] or way == "serial"
    assert shown == sorted(shown)
    assert finished(bars) == (40, 40)


# ------------------------------------------------------------------ what the setting means


@pytest.mark.parametrize("way", WAYS)
def test_a_str_is_the_label(bars: list[Any], way: str) -> None:
    """It stands in front of the bar."""
    list(pmap(abs, range(4), progress="thumbnails", **WAYS[way]))
    assert finished(bars) == (4, 4)
    assert last_line(bars[0].fp.getvalue()).startswith("thumbnails: 100%")


@pytest.mark.parametrize("way", WAYS)
def test_a_dict_goes_to_tqdm(way: str) -> None:
    """With a file of the user's own, a unit, and a total that only the user knows."""
    file = io.StringIO()
    options = {"file": file, "unit": "page", "desc": "scan", "total": 4, "ascii": True}
    list(pmap(abs, (x for x in range(4)), progress=options, **WAYS[way]))
    line = last_line(file.getvalue())
    assert line.startswith("scan: 100%")
    assert "4/4" in line
    assert "page/s" in line or "s/page" in line


@pytest.mark.parametrize("way", WAYS)
def test_true_writes_to_stderr_where_tqdm_does(
    way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing on stdout, which may be piped to somewhere."""
    list(pmap(abs, range(4), progress=True, **WAYS[way]))
    out, err = capsys.readouterr()
    assert out == ""
    assert "4/4" in last_line(err)


@pytest.mark.parametrize("setting", [None, False])
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_written_where_nobody_looks(
    way: str,
    setting: bool | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """stderr is no terminal: no bar, however long it takes."""
    monkeypatch.setattr(_progress, "SHOW_AFTER", 0.0)
    list(pmap(lambda x: time.sleep(0.001), range(20), progress=setting, **WAYS[way]))
    assert capsys.readouterr() == ("", "")


class _Terminal(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_false_is_no_bar_even_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person may look and still not want it."""
    monkeypatch.setattr(sys, "stderr", terminal := _Terminal())
    monkeypatch.setattr(_progress, "SHOW_AFTER", 0.0)
    list(pmap(lambda x: time.sleep(0.001), range(20), progress=False, parallel=False))
    assert terminal.getvalue() == ""


def test_no_stderr_at_all_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """pythonw and some services have none; a closed one is as good as none."""
    monkeypatch.setattr(sys, "stderr", None)
    assert list(pmap(abs, range(4), parallel=False)) == [0, 1, 2, 3]
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert list(pmap(abs, range(4), parallel=False)) == [0, 1, 2, 3]


def test_the_environment_may_ask_for_a_bar_or_forbid_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PARMAP_PROGRESS holds where the call does not say."""
    monkeypatch.setenv("PARMAP_PROGRESS", "1")
    list(pmap(abs, range(4)))
    assert "4/4" in capsys.readouterr().err
    list(pmap(abs, range(4), progress=False))
    assert capsys.readouterr().err == ""


def test_a_bar_starts_no_thread_and_leaves_tqdm_as_it_was(bars: list[Any]) -> None:
    """tqdm's monitor thread would make fork unsafe for ever after; its lock would be a semaphore."""
    import threading

    import tqdm

    before = threading.enumerate(), getattr(tqdm.tqdm, "_lock", None), tqdm.tqdm.monitor_interval
    list(pmap(abs, range(4), progress=True, parallel=False))
    after = threading.enumerate(), getattr(tqdm.tqdm, "_lock", None), tqdm.tqdm.monitor_interval
    assert after == before


# ------------------------------------------------------------------ where a person looks

SCRIPT = """\
    import sys, time
    from parmap import _progress, pmap
    _progress.SHOW_AFTER = float(sys.argv[1])
    options = dict(parallel=sys.argv[2] == "parallel", max_workers=2)
    assert len(list(pmap(lambda x: time.sleep(0.01), range(30), **options))) == 30
"""


def on_a_terminal(*arguments: str) -> str:
    """What a program writes to stderr when that is a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))  # a new one has no columns, and a bar no room
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        text = b"".join(iter(lambda: _read(ours), b""))
        out, _ = process.communicate(timeout=LIMIT)
    os.close(ours)
    assert (process.returncode, out) == (0, b"")
    return text.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # EIO: the last who had the terminal open is gone
        return b""


@pytest.mark.parametrize("way", ["serial", "parallel"])
def test_on_a_terminal_a_long_call_shows_a_bar(way: str) -> None:
    """Unasked, once it has lasted long enough, and it ends full."""
    text = on_a_terminal("0.05", way)
    assert "30/30" in last_line(text)
    assert "100%" in last_line(text)


@pytest.mark.parametrize("way", ["serial", "parallel"])
def test_on_a_terminal_a_short_call_prints_nothing(way: str) -> None:
    """A bar that flashes by at every little map would be a nuisance."""
    assert on_a_terminal("60", way) == ""


NOTEBOOK = """\
import json, sys
import nbformat
from nbclient import NotebookClient
cells = [nbformat.v4.new_code_cell(text) for text in json.loads(sys.stdin.read())]
notebook = nbformat.v4.new_notebook(cells=cells)
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
print(json.dumps({"cells": notebook.cells, "widgets": notebook.metadata.get("widgets", {})}))
"""


@pytest.fixture(scope="module")
def notebook() -> dict[str, Any]:
    """A notebook with one call that asks for a bar and one that does not, executed."""
    pytest.importorskip("ipykernel")
    pytest.importorskip("nbclient")
    pytest.importorskip("ipywidgets")
    cells = [
        "from parmap import pmap, _progress\n_progress.SHOW_AFTER = 0.01",
        "r = list(pmap(abs, range(25), parallel=True, max_workers=2, progress='pages'))",
        "import time; r = list(pmap(lambda x: time.sleep(0.005), range(20), parallel=False))",
        "_progress.SHOW_AFTER = 60.0\nr = list(pmap(abs, range(20), parallel=True, max_workers=2))",
    ]
    with short_temp() as temp:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", NOTEBOOK], env={**os.environ, "TMPDIR": temp},
            input=json.dumps(cells), capture_output=True, text=True, timeout=90,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_in_a_notebook_the_bar_is_a_widget(notebook: dict[str, Any]) -> None:
    """tqdm's notebook bar, in the output of its cell, with its label and its end."""
    (output,) = notebook["cells"][1]["outputs"]
    assert "application/vnd.jupyter.widget-view+json" in output["data"]
    states = [w["state"] for kind in notebook["widgets"].values() for w in kind["state"].values()]
    full = [
        s for s in states if s.get("_model_name") == "FloatProgressModel" and s.get("max") == 25
    ]
    assert [(s["value"], s["bar_style"]) for s in full] == [(25, "success")]
    assert any("pages" in str(s.get("value")) for s in states)


def test_in_a_notebook_a_long_call_shows_a_bar_and_a_short_one_none(
    notebook: dict[str, Any],
) -> None:
    """A notebook is where a person looks, so the rule of the terminal holds."""
    assert len(notebook["cells"][2]["outputs"]) == 1
    assert notebook["cells"][3]["outputs"] == []
