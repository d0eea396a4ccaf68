"""The house rules: who may import whom, what is loaded when, and how long anything may be."""

from __future__ import annotations

import ast
import doctest
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import parmap
from parmap import _call, pmap

HOUSE = Path(parmap.__file__).parent

# From the front hall to the cellar. A room may import those that come later, and no others.
ROOMS = [
    "__main__",
    "__init__",
    "_crossover",
    "_api",
    "_way",
    "_decision",
    "_flow",
    "_engine",
    "_briefing",
    "_executors",
    "_carriers",
    "_window",
    "_chunk",
    "_pool",
    "_handle",
    "_processes",
    "_zygote",
    "_sweep",
    "_worker",
    "_remote",
    "_report",
    "_probe",
    "_call",
    "_plan",
    "_known",
    "_machine",
    "_inputs",
    "_progress",
    "_messages",
    "_seat",
    "_failure",
    "_transport",
    "_files",
    "_place",
    "_state",
    "_quiet",
    "_outcome",
    "errors",
]

# Rooms of the caller. A worker has no use for them, and starts sooner without.
CALLERS = {
    "_api",
    "_way",
    "_decision",
    "_flow",
    "_window",
    "_known",
    "_engine",
    "_briefing",
    "_executors",
    "_carriers",
    "_remote",
    "_chunk",
    "_handle",
    "_report",
    "_probe",
    "_plan",
    "_pool",
    "_processes",
    "_inputs",
}

# The rooms where each of these may be known; nothing else that is not of the standard library is.
THIRD_PARTIES = {
    "cloudpickle": {"_transport", "_carriers", "_zygote"},
    "tqdm": {"_progress"},
    "matplotlib": {"_crossover"},
    "multiprocessing": {"_processes", "_seat", "_handle", "_worker", "_place"},
}

# The rooms that may ask which system this is.
PLATFORMS = {
    "_processes",
    "_seat",
    "_handle",
    "_worker",
    "_transport",
    "_files",
    "_machine",
}

OPTIONS = list(_call.Settings.__annotations__)

# Lines of a function, without its docstring and decorators; more do not fit one look.
MOST_FUNCTION_LINES = 45
MOST_MODULE_LINES = 400


def source(room: str) -> ast.Module:
    return ast.parse((HOUSE / f"{room}.py").read_text(encoding="utf-8"))


def imported(room: str) -> Iterator[str]:
    """Full names of all modules that a room imports, wherever in it."""
    for node in ast.walk(source(room)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{room} line {node.lineno}: imports are absolute"
            if node.module == "parmap":
                yield from (f"parmap.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def in_a_new_interpreter(program: str) -> Any:
    """What a program prints as JSON, run by itself."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


# ------------------------------------------------------------------ who knows whom


def test_every_room_has_its_place_in_the_list() -> None:
    """A new room is put where it belongs before it can be built."""
    assert sorted(ROOMS) == sorted(path.stem for path in HOUSE.glob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    """Each room imports only rooms further down, also inside functions."""
    inside = {name.split(".")[1] for name in imported(room) if name.startswith("parmap.")}
    further_down = ROOMS[ROOMS.index(room) + 1 :]
    assert sorted(inside - set(further_down)) == []


@pytest.mark.parametrize("room", ROOMS)
def test_third_parties_live_in_their_rooms(room: str) -> None:
    """cloudpickle, tqdm and multiprocessing are known in few places, and nothing else is at all."""
    outside = {name.partition(".")[0] for name in imported(room)} - {"parmap"}
    strangers = {name for name in outside if name not in sys.stdlib_module_names}
    assert strangers <= set(THIRD_PARTIES)
    for name in outside & set(THIRD_PARTIES):
        assert room in THIRD_PARTIES[name], f"{name} is not to be known in {room}"


@pytest.mark.parametrize("room", ROOMS)
def test_platforms_differ_only_where_processes_are_made_and_bytes_moved(room: str) -> None:
    """Linux is what is tested; what differs elsewhere has to be found in few places."""
    names = {
        ast.unparse(node) for node in ast.walk(source(room)) if isinstance(node, ast.Attribute)
    }
    if room not in PLATFORMS:
        assert names & {"sys.platform", "os.name", "platform.system"} == set()


# ------------------------------------------------------------------ what is loaded when

HEAVY = ["multiprocessing", "multiprocessing.pool", "cloudpickle", "tqdm", "numpy", "IPython"]


def test_importing_parmap_loads_nothing_heavy() -> None:
    """A package that depends on parmap pays nothing for it until it maps in parallel."""
    program = """if True:
        import json, sys
        before = set(sys.modules)
        import parmap
        print(json.dumps(sorted(set(sys.modules) - before)))
    """
    loaded = in_a_new_interpreter(program)
    assert "parmap" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_a_call_that_is_over_at_once_loads_no_room_of_a_decision() -> None:
    """They, and typing, cost more than most calls take: it is not to be paid at the import either."""
    program = """if True:
        import json, sys
        before = set(sys.modules)
        from parmap import pmap
        assert list(pmap(lambda x: x + 1, [30, 30])) == [31, 31]
        print(json.dumps(sorted(set(sys.modules) - before)))
    """
    loaded = in_a_new_interpreter(program)
    assert "parmap._probe" in loaded
    rooms = ("_decision", "_plan", "_machine", "_progress", "_failure", "_transport")
    assert [room for room in rooms if f"parmap.{room}" in loaded] == []
    assert [name for name in ("typing", "re", "threading", "dataclasses") if name in loaded] == []


def test_a_call_that_stays_serial_loads_nothing_heavy() -> None:
    """Ten tiny items are over before anything of it could matter."""
    program = """if True:
        import json, sys
        before = set(sys.modules)
        from parmap import pmap
        assert list(pmap(lambda x: x + 1, range(10))) == list(range(1, 11))
        assert list(pmap(lambda x: x + 1, range(10), parallel=False)) == list(range(1, 11))
        print(json.dumps(sorted(set(sys.modules) - before)))
    """
    loaded = in_a_new_interpreter(program)
    assert [name for name in HEAVY if name in loaded] == []


def test_the_first_call_of_a_process_may_have_any_input() -> None:
    """A list and a generator, which tells of no length, both get workers once they are worth it."""
    program = """if True:
        import itertools, json, time
        from parmap import pmap
        limit = time.monotonic() + 30
        results = pmap(lambda n: sum(range(n)), ITEMS)
        while results.report.mode != "parallel" and time.monotonic() < limit:
            next(results)
        results.close()
        print(json.dumps(results.report.mode))
    """
    for items in (
        "itertools.repeat(30_000)",
        "(30_000 for _ in itertools.count())",
        "[30_000] * 10**5",
    ):
        assert in_a_new_interpreter(program.replace("ITEMS", items)) == "parallel"


def test_functions_that_can_be_imported_need_no_cloudpickle() -> None:
    """Not here, and not in workers, where it takes longer than the fork of one."""
    program = """if True:
        import json, sys
        from parmap import pmap
        ask = "'cloudpickle' in __import__('sys').modules"
        options = {"parallel": True, "max_workers": 1}
        by_reference = list(pmap(eval, [ask], **options)), eval(ask)
        by_value = list(pmap(lambda ask: eval(ask), [ask], **options)), eval(ask)
        print(json.dumps([by_reference, by_value]))
    """
    assert in_a_new_interpreter(program) == [[[False], False], [[True], True]]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_worker_loads_nothing_that_it_does_not_need(method: str) -> None:
    """Asked of a real one: no bar, no arrays, none of the caller's rooms, and no pytest."""
    parmap.shutdown()  # workers of other tests loaded what those needed
    options: dict[str, Any] = {"parallel": True, "max_workers": 1, "mp_context": method}
    (loaded,) = pmap(lambda _: sorted(sys.modules), [0], **options)
    assert "parmap._worker" in loaded
    assert [
        name for name in ("tqdm", "numpy", "IPython", "pytest", "test_house") if name in loaded
    ] == []
    assert [room for room in sorted(CALLERS) if f"parmap.{room}" in loaded] == []


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize("room", ROOMS)
def test_no_function_is_longer_than_one_look(room: str) -> None:
    """Without its docstring, which may be as long as what there is to say."""
    long = []
    for node in ast.walk(source(room)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                docstring = node.body[0]
                lines -= (docstring.end_lineno or 0) - docstring.lineno + 1
            if lines > MOST_FUNCTION_LINES:
                long.append(f"{node.name}: {lines} lines")
    assert long == []


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_is_larger_than_it_should_be(room: str) -> None:
    """One that is has two things to say."""
    assert len((HOUSE / f"{room}.py").read_text(encoding="utf-8").splitlines()) <= MOST_MODULE_LINES


# ------------------------------------------------------------------ what is said


def test_the_options_for_type_checkers_are_the_settings() -> None:
    """The TypedDict, which only checkers see, and the class that checks have the same names."""
    classes = (node for node in ast.walk(source("_call")) if isinstance(node, ast.ClassDef))
    options = next(node for node in classes if node.name == "Options")
    seen = [ast.unparse(node.target) for node in options.body if isinstance(node, ast.AnnAssign)]
    beside = ["return_exceptions"]  # changes the type of the results: it stands in the overloads
    assert sorted([*seen, *beside]) == sorted(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_documented(option: str) -> None:
    """In pmap's docstring, which is where `help(pmap)` leads."""
    text = pmap.__doc__ or ""
    lines = [line.strip() for line in text.splitlines()]
    assert any(line.partition(":")[0].replace(" ", "").split(",").count(option) for line in lines)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_what_it_is(room: str) -> None:
    """In its first lines."""
    assert ast.get_docstring(source(room))


@pytest.mark.parametrize("name", parmap.__all__)
def test_every_public_name_can_be_had_and_says_what_it_is(name: str) -> None:
    """Also those that are loaded on first use, and the public methods of classes."""
    value = getattr(parmap, name)
    assert value.__doc__
    if isinstance(value, type):
        public = {k: v for k, v in vars(value).items() if callable(v) and not k.startswith("_")}
        assert [k for k, v in public.items() if not v.__doc__ and not isinstance(v, type)] == []


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """Names loaded on first use must not turn a typing mistake into something else."""
    with pytest.raises(AttributeError, match="pmpa"):
        parmap.pmpa  # noqa: B018


def test_the_examples_in_docstrings_are_right() -> None:
    """They are the first thing anybody tries."""
    for room in ("_api", "_crossover", "_report", "errors"):
        done = doctest.testmod(importlib.import_module(f"parmap.{room}"))
        assert done.attempted > 0
        assert done.failed == 0
