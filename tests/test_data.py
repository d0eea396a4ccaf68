"""Large data on its way: what crosses, how often, what stays behind, and what happens without room."""

from __future__ import annotations

import gc
import glob
import os
import subprocess
import sys
import tempfile
import textwrap
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
from waiting import eventually

from parmap import _files, _transport, pmap, shutdown
from parmap._files import Store
from parmap._transport import pack, unpack

TWO: dict[str, Any] = {"parallel": True, "max_workers": 2}
MB = 2**20


def files(pid: int | None = None) -> list[str]:
    """Files in the directories of a process, in every place where parmap puts some."""
    found: list[str] = []
    for place in {"/dev/shm", tempfile.gettempdir()}:
        for path in glob.glob(f"{place}/parmap-*-{pid or os.getpid()}-*/**", recursive=True):
            found += [] if os.path.isdir(path) and path.endswith("/") else [path]
    return [path for path in found if not path.rpartition("/")[2].startswith("parmap-")]


def same(value: Any) -> Any:
    return value


@pytest.fixture(autouse=True, scope="module")
def own_workers() -> Iterator[None]:
    """Those of these tests have numpy and more loaded, which those of other tests must not."""
    yield
    shutdown()


@pytest.fixture(autouse=True)
def no_file_is_left() -> Iterator[None]:
    """After each call that is over: no file, and no tray."""
    yield
    gc.collect()
    assert eventually(lambda: not files()), files()


def pss(pid: int) -> dict[str, int]:
    """Memory of a process in bytes, by kind: what n processes share counts 1/n for each."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}


# ------------------------------------------------------------------ what crosses

ARRAYS = {
    "c order": numpy.arange(60_000.0).reshape(200, 300),
    "fortran order": numpy.asfortranarray(numpy.arange(60_000.0).reshape(200, 300)),
    "structured": numpy.zeros(9_000, [("x", "i4"), ("y", "f8", (3,)), ("z", "S5")]),
    "zero-sized": numpy.empty((0, 5)),
    "no dimension": numpy.array(3.5),
    "not contiguous": numpy.arange(400_000).reshape(400, 1000)[::3, ::-2],
    "one column": numpy.arange(400_000.0).reshape(1000, 400)[:, 7],
    "transposed": numpy.arange(60_000).reshape(20, 30, 100).transpose(2, 0, 1),
    "objects": numpy.array([{"a": 1}, None, [2, 3], "four"] * 5_000, dtype=object),
    "dates": numpy.arange("2020-01", "2300-01", dtype="datetime64[h]"),
    "strings": numpy.array(["a", "\u00e9\u4e16"] * 9_000),
    "broadcast": numpy.broadcast_to(numpy.arange(300.0), (200, 300)),
    "big-endian": numpy.arange(60_000, dtype=">i4"),
    "masked": numpy.ma.masked_greater(numpy.arange(60_000.0), 5),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_of_any_kind_crosses_both_ways(kind: str) -> None:
    """Equal in values, type and shape; in worker and caller it is writable and its own."""
    sent = ARRAYS[kind]

    def write(array: Any) -> Any:
        assert array.flags.writeable
        before = array.copy(order="K")
        array[...] = numpy.zeros((), array.dtype)
        return before

    (got,) = pmap(write, [sent], **TWO)
    assert type(got) is type(sent)
    assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
    assert (got == sent).all() or got.size == 0
    assert got.flags.writeable
    assert got.flags.f_contiguous or not (sent.flags.f_contiguous and sent.ndim == 2)


def test_frames_and_tables_cross_both_ways() -> None:
    """pandas with numpy and with Arrow blocks, an Arrow table, an index of dates."""
    pandas = pytest.importorskip("pandas", reason="no pandas for this Python here")
    pyarrow = pytest.importorskip("pyarrow", reason="no pyarrow for this Python here")
    plain = pandas.DataFrame(
        {"a": range(20_000), "b": numpy.arange(20_000.0), "c": ["x", "y"] * 10_000},
        index=pandas.date_range("2020", periods=20_000, freq="s"),
    )
    arrow = plain.reset_index().convert_dtypes(dtype_backend="pyarrow")
    table = pyarrow.table({"n": list(range(50_000)), "s": [str(i) for i in range(50_000)]})

    def changed(frame: Any) -> Any:
        frame.iloc[0, 0] = 7  # writable in the worker
        return frame

    for sent in (plain, arrow):
        (got,) = pmap(same, [sent], **TWO)
        pandas.testing.assert_frame_equal(got, sent)
        got.iloc[1, 1] = 0
    (got,) = pmap(changed, [plain], **TWO)
    assert (got.iloc[0, 0], plain.iloc[0, 0]) == (7, 0)
    (got,) = pmap(same, [table], **TWO)
    assert got.equals(table)


# Around the size from which a buffer leaves the pickle, a message the pipe, a pipe is full, a page
# ends, a result is mapped, a worker keeps its memory.
LIMITS = [
    0,
    1,
    4096,
    _transport.BUFFER_BYTES,
    _transport.INLINE_BYTES,
    65_536,
    _files.MAP_RESULT_BYTES,
    MB,
]
SIZES = sorted({max(0, limit + step) for limit in LIMITS for step in (-300, -1, 0, 1, 300)})


@pytest.mark.parametrize("kind", [bytes, bytearray, numpy.frombuffer])
def test_a_payload_of_any_size_crosses_both_ways(kind: Any) -> None:
    """Around every limit there is inside."""
    options = {"dtype": "u1"} if kind is numpy.frombuffer else {}
    data = numpy.random.default_rng(0).integers(0, 256, max(SIZES), "u1").tobytes()
    sent = [kind(data[:size], **options) for size in SIZES]
    for chunksize in (1, 7):
        got = list(pmap(same, sent, chunksize=chunksize, **TWO))
        assert [len(value) for value in got] == SIZES
        assert all(bytes(a) == bytes(b) for a, b in zip(got, sent, strict=True))


@pytest.mark.parametrize("limit", [_files.MAP_BYTES])
def test_a_payload_around_the_size_that_is_mapped_crosses_both_ways(limit: int) -> None:
    """One byte below it is copied; from it on it is mapped. Nobody can tell."""
    for size in (limit - 1, limit, limit + 1):
        sent = numpy.full(size, 7, "u1")
        (got,) = pmap(same, [sent], **TWO)
        assert got.size == size
        assert (got == 7).all()
        got[-1] = 8


@pytest.mark.large
def test_a_payload_of_more_than_4_gib_crosses_both_ways() -> None:
    """More than 32 bits can count, and more than one system call moves. Takes 9 GB of memory."""
    sent = numpy.zeros(2**32 + 4096, "u1")
    sent[-1] = 7
    (got,) = pmap(same, [sent], **TWO)
    assert (got.size, got[0], got[-1]) == (sent.size, 0, 7)
    got[-1] = 8


def test_many_small_buffers_cross_in_one_item() -> None:
    """A thousand arrays above the limit from which each lies in the file by itself, and below."""
    sent = {i: numpy.full(1000 + i, i) for i in range(1000)}
    (got,) = pmap(same, [sent], **TWO)
    assert all((got[i] == sent[i]).all() and got[i].flags.writeable for i in sent)


def test_nested_containers_keep_what_is_shared_in_them() -> None:
    """One array twice in an item is one array there, and one array back."""
    array = numpy.arange(50_000)
    item = {"a": [array, (array, {"b": array})], "c": bytearray(70_000), "d": b"x" * 70_000}
    (got,) = pmap(lambda x: (x, x["a"][0] is x["a"][1][1]["b"]), [item], **TWO)
    assert got[1]
    assert got[0]["a"][0] is got[0]["a"][1][0]
    assert (got[0]["c"], got[0]["d"]) == (item["c"], item["d"])


# ------------------------------------------------------------------ how often, and how much of it


def test_a_view_is_sent_without_the_array_it_is_of() -> None:
    """Ten numbers of a hundred MB are ten numbers; as an item, a result, or bound in fn."""
    base = numpy.zeros(100 * MB // 8)
    views = [base[i : i + 10_000] for i in range(4)]
    it = pmap(same, views, **TWO)
    list(it)
    assert it.report.bytes_moved < 2 * 4 * 10_000 * 8 + 10_000
    it = pmap(partial(numpy.add, base[:10]), range(4), **TWO)
    list(it)
    assert it.report.bytes_moved < 10_000
    it = pmap(lambda n: numpy.zeros(MB)[:n], [10] * 4, **TWO)
    list(it)
    assert it.report.bytes_moved < 10_000


def test_the_same_array_in_every_item_is_sent_once_for_each_chunk() -> None:
    array = numpy.zeros(MB // 8)
    it = pmap(lambda pair: pair[1], [(array, i) for i in range(40)], chunksize=10, **TWO)
    assert list(it) == list(range(40))
    assert it.report.bytes_moved < 4 * (array.nbytes + 10_000)


def test_what_a_function_is_bound_to_is_written_once_for_all_workers(tmp_path: Path) -> None:
    """The workers share its memory, and what one writes into it the other does not see."""
    shutdown()  # earlier tests left memory with the workers
    table = numpy.arange(128 * MB // 8)

    def use(table: Any, index: int) -> Any:
        (tmp_path / str(index)).touch()
        assert eventually(lambda: len(os.listdir(tmp_path)) >= 2)  # both workers are at it
        assert table.sum() == (table.size - 1) * table.size // 2
        (tmp_path / f"{index} read").touch()
        assert eventually(lambda: len(os.listdir(tmp_path)) >= 4)
        here = pss(os.getpid())
        (tmp_path / f"{index} told").touch()
        assert eventually(lambda: len(os.listdir(tmp_path)) >= 6)
        table[0] = index + 100
        (tmp_path / f"{index} wrote").touch()
        assert eventually(lambda: len(os.listdir(tmp_path)) == 8)
        return here, int(table[0])

    it = pmap(partial(use, table), range(2), chunksize=1, **TWO)
    (first, one), (second, two) = it
    assert (one, two, table[0]) == (100, 101, 0)
    for here in (first, second):  # half of it each, and none of it besides
        assert here["Pss_Shmem"] + here["Pss_File"] < 0.6 * table.nbytes + 20 * MB, here
        assert here["Pss_Anon"] < table.nbytes, here


def test_a_function_that_takes_memory_is_let_go_when_its_call_is_over() -> None:
    """Its workers stay warm, and give back what it was bound to before the next call comes."""
    table = numpy.zeros(MB)

    def look(i: int) -> Any:
        return os.getpid(), mapped(os.getpid()), table[i]

    def mapped(pid: int) -> bool:
        return "/parmap-" in Path(f"/proc/{pid}/maps").read_text()

    it = list(pmap(look, range(8), **TWO))
    assert all(was for _, was, _ in it)
    assert eventually(lambda: not any(mapped(pid) for pid, _, _ in it))


# ------------------------------------------------------------------ what is held


def test_an_array_that_fn_keeps_is_not_written_over_by_the_next_one() -> None:
    """A worker uses the memory of its arguments again, but not while somebody holds them."""

    def keep(array: Any) -> Any:
        import builtins

        kept = builtins.__dict__.setdefault("_kept", [])
        kept.append(array[::1000])
        return [int(view[0]) for view in kept], all((view == view[0]).all() for view in kept)

    arrays = [numpy.full(MB // 8, i) for i in range(12)]
    got = list(pmap(keep, arrays, chunksize=1, parallel=True, max_workers=1))
    assert all(whole for _, whole in got)
    assert got[-1][0] == list(range(12))
    shutdown()  # the worker keeps them otherwise


def test_a_result_that_is_dropped_is_gone() -> None:
    """Also where it came in one message with others that are kept."""
    seen = []
    kept = []
    for number, array in enumerate(
        pmap(lambda n: numpy.full(5_000, n), range(40), chunksize=20, **TWO)
    ):
        seen.append(weakref.ref(array))
        if number % 2:
            kept.append(array)
        del array
    assert [ref() is not None for ref in seen] == [False, True] * 20
    assert all((array == 2 * i + 1).all() for i, array in enumerate(kept))


def test_an_input_that_was_handed_over_is_gone() -> None:
    """Once its result was taken, nothing of the call holds an item."""
    seen: list[Any] = []

    def arrays() -> Iterator[Any]:
        for i in range(100):
            array = numpy.full(20_000, i)
            seen.append(weakref.ref(array))
            yield array

    it = pmap(lambda a: int(a[0]), arrays(), chunksize=2, **TWO)
    for number, value in enumerate(it):
        assert value == number
        if number % 2 == 0 and number > 2:
            assert not any(ref() is not None for ref in seen[: number - 2])
    gc.collect()
    assert not any(ref() is not None for ref in seen)


def test_inputs_are_drawn_ahead_by_their_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator of arrays is not drawn a thousand items ahead, as one of numbers is."""
    monkeypatch.setattr("parmap._flow.MOST_BYTES_AHEAD", 8 * MB)
    alive = most = 0

    class Counted(numpy.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def arrays() -> Iterator[Any]:
        nonlocal alive, most
        for i in range(200):
            alive += 1
            most = max(most, alive)
            yield numpy.full(MB // 8, i).view(Counted)

    for number, value in enumerate(pmap(lambda a: int(a[0]), arrays(), **TWO)):
        assert value == number
    assert most <= 8 + 2 * 8 + 4  # the bound, and a chunk of 8 MB at each worker


def test_two_items_above_the_bound_still_run_at_once(tmp_path: Path, monkeypatch: Any) -> None:
    """Bytes ahead are bounded, but never so that a worker has nothing."""
    monkeypatch.setattr("parmap._flow.MOST_BYTES_AHEAD", MB)

    def meet(array: Any) -> int:
        (tmp_path / str(array[0])).touch()
        return int(eventually(lambda: len(os.listdir(tmp_path)) == 2))

    assert list(pmap(meet, [numpy.full(MB, i) for i in range(2)], chunksize=1, **TWO)) == [1, 1]


STREAM = """
    import numpy, resource
    from parmap import pmap

    def most():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    options = dict(parallel={parallel}, max_workers=2)
    list(pmap(abs, range(10), **options))
    before = most()
    assert sum(pmap(lambda x: x & 1, (i for i in range({numbers})), **options)) == {numbers} // 2
    after = most()
    count = 0
    for array in pmap(lambda i: numpy.full(131072, i), range({arrays}), **options):
        assert array[-1] == count
        count += 1
    print(after - before, most() - after, count)
"""


@pytest.mark.parametrize("parallel", [True, None])
def test_streams_hold_the_memory_of_the_caller_flat(parallel: bool | None) -> None:
    """Numbers by the hundred thousand, results of a MB by the hundred; benchmarks/data.py has more."""
    done = python(STREAM.format(parallel=parallel, numbers=400_000, arrays=600))
    numbers, arrays, count = map(int, done.stdout.split())
    assert count == 600
    assert numbers < 50
    assert arrays < 150


# ------------------------------------------------------------------ without room


def python(program: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program by itself; it has to end well, and to leave nothing behind."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert files(process.pid) == []
    return subprocess.CompletedProcess(process.args, 0, out, err)


FULL = """
    import os, resource, sys, warnings
    from parmap import pmap
    # No file may grow beyond this: what a full disk is, for each file by itself.
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    caught = []
    warnings.showwarning = lambda message, *_: caught.append(str(message))
    warnings.simplefilter("always")
"""


def test_items_that_find_no_room_run_in_the_caller() -> None:
    """Those that do find some go on in workers; a warning says what to do."""
    done = python(
        FULL
        + """
    import time
    sizes = [400_000 if i % 50 == 49 else 1000 for i in range(200)]
    it = pmap(lambda x: (len(x), os.getpid(), time.sleep(0.01)), map(bytes, sizes), max_workers=2)
    got = list(it)
    assert [size for size, *_ in got] == sizes
    print(it.report.mode, sum(pid != os.getpid() for _, pid, _ in got) > 0, len(caught), *caught)
    """
    )
    assert done.stdout.startswith("parallel True 1 ")
    assert "TMPDIR" in done.stdout


def test_items_that_find_no_room_are_an_error_for_who_insists_on_workers() -> None:
    """Of those items alone."""
    done = python(
        FULL
        + """
    items = [bytes(size) for size in (10, 400_000, 20, 30)]
    sizes = pmap(len, items, chunksize=2, return_exceptions=True, parallel=True, max_workers=2)
    first, error, third, fourth = sizes
    assert (first, third, fourth) == (10, 20, 30)
    print(type(error).__name__, error, *error.__notes__)
    assert list(pmap(abs, range(10), parallel=True, max_workers=2)) == list(range(10))
    """
    )
    assert done.stdout.startswith("OSError ")
    assert "item 1" in done.stdout
    assert "make room" in done.stdout
    assert "/dev/shm" in done.stdout
    assert "TMPDIR" in done.stdout


def test_a_result_that_finds_no_room_is_an_error_of_its_item() -> None:
    """The others are not affected, and neither is the worker."""
    done = python(
        FULL
        + """
    it = pmap(bytes, [10, 400_000, 20], chunksize=3, return_exceptions=True, parallel=True,
              max_workers=2)
    first, second, third = it
    assert (len(first), len(third)) == (10, 20)
    print(type(second).__name__, second)
    """
    )
    assert done.stdout.startswith("OSError ")
    assert "make room" in done.stdout


def test_a_function_that_finds_no_room_is_run_here_or_an_error() -> None:
    done = python(
        FULL
        + """
    import time
    table = bytes(400_000)
    call = lambda i: (table[i], time.sleep(0.01))[0]
    assert list(pmap(call, range(200), max_workers=2)) == [0] * 200
    print(len(caught), *caught)
    try:
        list(pmap(call, range(20), max_workers=2, parallel=True))
    except OSError as error:
        print(error)
    """
    )
    assert done.stdout.count("make room") == 2


def test_a_missing_or_closed_first_place_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways, and for the function: the next place serves."""
    (tmp_path / "file").touch()
    for first in ("missing", "file"):
        shutdown()
        places = [str(tmp_path / first), str(tmp_path)]
        monkeypatch.setattr(_files, "default_places", lambda places=places: places)
        array = numpy.arange(200_000)
        got = list(pmap(partial(numpy.add, array), [array] * 3, chunksize=1, **TWO))
        assert all((each == 2 * array).all() for each in got)
        shutdown()
        assert sorted(os.listdir(tmp_path)) == ["file"]


def test_where_shared_memory_finds_no_place_workers_have_nameless_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """/dev/shm may be there and refuse every file; what worker and caller share needs none."""
    import errno
    import multiprocessing.heap

    def refuse(*_: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    shutdown()
    monkeypatch.setattr(multiprocessing.heap, "BufferWrapper", refuse)
    assert list(pmap(abs, range(100), **TWO)) == list(range(100))
    shutdown()


def test_with_64_descriptors_large_data_crosses_too() -> None:
    """Hundreds of arrays kept: before Python 3.13 a mapped one holds a descriptor."""
    python("""
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    import numpy
    from parmap import pmap
    arrays = [numpy.full(100_000, i) for i in range(200)]
    got = list(pmap(lambda a: a + 1, arrays, parallel=True, max_workers=2, chunksize=1))
    assert all((a == i + 1).all() for i, a in enumerate(got))
    """)


def test_descriptors_that_run_out_in_a_call_cost_results_and_nothing_else() -> None:
    """Those that cannot be opened any more; the call ends, and the next one has all of them."""
    python("""
    import os, resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    from parmap import pmap
    options = dict(parallel=True, max_workers=2, chunksize=1, return_exceptions=True)
    call = pmap(lambda x: bytes(300_000), range(40), **options)
    got, held = [next(call)], []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        got += call
    kinds = [type(value) for value in got]
    assert len(got) == 40 and set(kinds) == {bytes, OSError}, kinds
    assert all("Too many open files" in str(value) for value in got if type(value) is OSError)
    for number in held:
        os.close(number)
    assert list(pmap(lambda x: bytes(300_000), range(4), **options)) == [bytes(300_000)] * 4
    """)


def test_a_directory_that_vanishes_is_made_again() -> None:
    """Somebody cleaned /dev/shm between two calls."""
    import shutil

    array = numpy.zeros(50_000)
    list(pmap(same, [array] * 2, **TWO))
    for place in {"/dev/shm", tempfile.gettempdir()}:
        for path in glob.glob(f"{place}/parmap-*-{os.getpid()}-*"):
            shutil.rmtree(path)
    assert all((got == array).all() for got in pmap(same, [array] * 2, **TWO))


# ------------------------------------------------------------------ nothing is left behind


def test_a_caller_that_is_killed_in_the_middle_leaves_no_file() -> None:
    """Arrays on their way in and out, a table in the function: all of it goes."""
    program = """
    import numpy, os, signal
    from parmap import pmap
    table = numpy.zeros(500_000)
    it = pmap(lambda a: a + table[0], (numpy.zeros(300_000) for _ in range(1000)),
              parallel=True, max_workers=2)
    for number, _ in enumerate(it):
        if number == 20:
            os.kill(os.getpid(), signal.SIGKILL)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    assert process.wait(60) == -9

    def gone() -> bool:
        places = {"/dev/shm", tempfile.gettempdir()}
        return not any(glob.glob(f"{place}/parmap-*-{process.pid}-*") for place in places)

    assert eventually(gone)


def test_workers_that_are_killed_in_the_middle_leave_no_file() -> None:
    """Whatever they were writing or emptying; their items are run again or are errors."""

    def now_and_then(array: Any) -> Any:
        if array[0] % 7 == 3:
            os.kill(os.getpid(), 9)
        return array + 1

    arrays = [numpy.full(300_000, i) for i in range(21)]
    got = list(pmap(now_and_then, arrays, return_exceptions=True, **TWO))
    assert [i for i, each in enumerate(got) if isinstance(each, Exception)] == [3, 10, 17]
    assert all((each == i + 1).all() for i, each in enumerate(got) if i % 7 != 3)


def test_a_call_that_is_dropped_in_the_middle_leaves_no_file() -> None:
    """Files on their way in, on their way out and in the tray."""
    for _ in range(5):
        it = pmap(lambda a: a + 1, (numpy.zeros(300_000) for _ in range(1000)), **TWO)
        assert next(it)[0] == 1
        del it
        list(pmap(abs, range(4), **TWO))  # a call takes late answers off the pipes
        assert eventually(lambda: list(pmap(abs, range(4), **TWO)) and not files()), files()


# ------------------------------------------------------------------ the tray


def test_a_file_that_was_emptied_is_written_again(tmp_path: Path) -> None:
    """One file serves for parcels of different sizes, while its call lasts."""
    store = Store("parmap-unit", [str(tmp_path)]).of_call(1)
    store.open_tray()
    inodes = set()
    for size in (100_000, 900_000, 20_000, 900_000):
        parcel = pack(numpy.full(size, 7, "u1"), store)
        assert parcel.path is not None
        inodes.add(os.stat(parcel.path).st_ino)
        assert (unpack(parcel) == 7).all()
    assert len(inodes) == 1
    store.close_tray()
    assert os.listdir(store.directories[0]) == []


def test_a_file_emptied_after_its_call_is_unlinked(tmp_path: Path) -> None:
    """The tray is gone, and nobody makes it anew."""
    store = Store("parmap-unit", [str(tmp_path)]).of_call(1)
    store.open_tray()
    parcel = pack(numpy.zeros(100_000), store)
    store.close_tray()
    assert unpack(parcel).sum() == 0
    assert os.listdir(store.directories[0]) == []


def test_a_tray_holds_no_more_than_its_limit(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_files, "TRAY_BYTES", 250_000)
    store = Store("parmap-unit", [str(tmp_path)]).of_call(1)
    store.open_tray()
    parcels = [pack(numpy.zeros(100_000, "u1"), store) for _ in range(5)]
    for parcel in parcels:
        unpack(parcel)
    (tray,) = os.listdir(store.directories[0])
    assert len(os.listdir(os.path.join(store.directories[0], tray))) == 2
