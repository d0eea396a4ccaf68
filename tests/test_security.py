"""Who could write what is loaded here: this user alone."""

from __future__ import annotations

import errno
import gc
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from descriptors import descriptors

from parmap import _files, _pool, _sweep, pmap, shutdown

TWO: dict[str, Any] = {"parallel": True, "max_workers": 2}


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_files_of_large_data_are_this_user_s_alone(tmp_path: Path) -> None:
    """The directory is 0700 and the file 0600, whatever the umask allows to others."""
    store = _files.Store("parmap-test", [str(tmp_path)])
    before = os.umask(0)
    try:
        path, _ = store.write([memoryview(b"x" * 100)])
    finally:
        os.umask(before)
    assert mode(tmp_path / "parmap-test") == 0o700
    assert mode(path) == 0o600


def test_results_on_their_way_lie_in_a_directory_of_mode_0700() -> None:
    """Seen where it happens: while a call holds results that nobody took yet."""
    results = pmap(lambda x: bytes(100_000), range(20), chunksize=1, **TWO)
    next(results)
    there = [path for path in _pool.store().directories if os.path.isdir(path)]
    assert there
    assert {(mode(path), os.lstat(path).st_uid) for path in there} == {(0o700, os.getuid())}
    results.close()


@pytest.mark.parametrize("planted", ["open directory", "link", "file"])
def test_a_place_that_somebody_else_prepared_is_refused(tmp_path: Path, planted: str) -> None:
    """Who could write there could hand us a pickle, that is code. The next place is taken."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    trap = first / "parmap-test"
    if planted == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        trap.symlink_to(tmp_path / "elsewhere")
    elif planted == "file":
        trap.touch(mode=0o600)
    else:
        trap.mkdir()
        trap.chmod(0o777)
    store = _files.Store("parmap-test", [str(first), str(second)])
    assert store.write([memoryview(b"x")])[0].startswith(str(second))
    with pytest.raises(OSError) as caught:
        _files.Store("parmap-test", [str(first)]).write([memoryview(b"x")])
    assert caught.value.errno in (errno.EACCES, errno.ENOTDIR)


def test_a_file_that_is_there_already_is_never_written_through(tmp_path: Path) -> None:
    """O_EXCL: neither a file nor a link that waits under the name is used."""
    target = tmp_path / "target"
    (tmp_path / "name").symlink_to(target)
    with pytest.raises(FileExistsError):
        _files._fill(str(tmp_path / "name"), [memoryview(b"x")], False, True)
    assert not target.exists()


def test_two_stores_have_names_that_cannot_be_foreseen() -> None:
    """Nobody can take the name first."""
    assert len({_files.new_store().directories[0] for _ in range(100)}) == 100


def test_what_connects_the_processes_has_no_name_and_listens_to_nobody() -> None:
    """Pipes, memory and a pair of sockets: none is a path, or an address that another could open."""
    shutdown()
    gc.collect()  # a board lives as long as an iterator that other tests dropped in a cycle
    before = set(descriptors().values())
    list(pmap(abs, range(4), **TWO))
    new = set(descriptors().values()) - before
    kinds = {name.partition(":")[0] for name in new}
    assert {"pipe", "socket", "/memfd"} <= kinds <= {"pipe", "socket", "/memfd", "anon_inode"}
    inodes = {name[8:-1] for name in new if name.startswith("socket:[")}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        path = Path("/proc/net") / table
        lines = path.read_text().splitlines()[1:] if path.exists() else []
        assert not inodes & {line.split()[9] for line in lines}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        *_, flags, _, _, inode = line.split()[:7]
        if inode in inodes:
            assert len(line.split()) == 7  # an eighth would be its path
            assert not int(flags, 16) & 0x10000  # it does not listen


def test_paths_are_arguments_of_the_sweeper_and_not_its_program(tmp_path: Path) -> None:
    """A name full of what a shell would obey removes what has that name, and runs nothing."""
    trap = tmp_path / "$(touch hit); touch hit #"
    trap.mkdir()
    sweeper = _sweep.start_sweeper([str(trap)])
    assert sweeper is not None
    assert sweeper.stdin is not None
    sweeper.stdin.close()  # as when its caller is gone
    sweeper.wait(10)
    assert list(tmp_path.iterdir()) == []


def test_directories_of_the_dead_are_removed_and_those_of_the_living_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name and owner: a process that is no more; not one that lives, nor one of another container."""
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    mine, here = _files.directory_name(gone.pid).rsplit("-", 1)
    dead = tmp_path / f"{mine}-{here}abcd"
    kept = {
        f"{_files.directory_name(os.getpid())}abcd",
        f"{_files.directory_name(1)}abcd",
        f"{mine}-1.abcd",
        f"parmap-{os.getuid() + 1}-{gone.pid}-{here}abcd",
        "parmap-notes",
        _files.directory_name("\N{SUPERSCRIPT TWO}") + "abcd",  # a digit, and no number
    }
    made_up = tmp_path / f"{_files.directory_name('9' * 30)}abcd"
    for path in (dead, made_up, *(tmp_path / name for name in kept)):
        path.mkdir()
        (path / "file").touch()
    monkeypatch.setattr(_sweep, "default_places", lambda: [str(tmp_path)])
    _sweep.sweep_after_the_dead()
    assert {path.name for path in tmp_path.iterdir()} == kept
