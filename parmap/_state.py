"""Whether a worker knows the same code and settings as its caller.

Under `map` a function sees the caller's modules as they are now; a worker that started earlier, or
imports afresh, need not. So *facts* are taken on both sides: where they differ, it does not run.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from opcode import opname
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

Facts = dict[str, str]

# Functions that are looked at. More would cost more than the 100 us a call that the check may take;
# fewer would miss state three or four calls away.
REACH_LIMIT = 200

_SCALARS = (int, float, complex, str, bytes, bool, type(None))
_NOT_CALLED = (*_SCALARS, ModuleType)
_STORES = {"STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR"}
_OTHERS = (os.path.dirname(os.__file__) + os.sep, os.path.dirname(__file__) + os.sep, "<frozen")


def facts(fn: Callable[..., Any], code_only: bool = False) -> Facts:
    """What `fn` reads, as far as code objects show it: name -> value or checksum.

    Its code and that of the functions it reaches by reference, and the scalars among the globals
    and the attributes of modules and classes that those read. Not containers, which serve as memo
    tables; not what the reached code assigns; nothing of the standard library or site-packages;
    nothing that travels by value. With an initializer, which is there to set state, only code.
    """
    found: Facts = {}
    assigned: set[str] = set()
    for function, reads, values in _reached(fn):
        assigned |= reads.assigned
        module = function.__module__
        travels = _travels(function)
        if not travels:
            found[f"{module}.{function.__qualname__}()"] = reads.checksum
        for name, value in () if code_only else values:
            if name and not (travels and name.startswith(f"{module}.")):
                found[name] = _fact(value)
    return {name: fact for name, fact in found.items() if name.rpartition(".")[2] not in assigned}


def _fact(value: object) -> str:
    """A repr of scalars and tuples of them; else the type, and the name if it has one."""
    scalars = isinstance(value, tuple) and all(isinstance(each, _SCALARS) for each in value)
    if scalars or isinstance(value, _SCALARS):
        return repr(value)
    called = getattr(value, "__qualname__", "") if callable(value) else ""
    return f"{type(value).__qualname__} {called}".rstrip()


def differences(here: Facts, there: Facts) -> str:
    """The first names on which caller and worker disagree, in words."""
    told = [
        f"{name} is {here.get(name, 'absent')} here and {there.get(name, 'absent')} in a worker"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]
    more = f" (and {len(told) - 3} more)" if len(told) > 3 else ""
    return "; ".join(told[:3]) + more


def classes(fn: Callable[..., Any]) -> Iterator[type]:
    """The user's own classes that `fn` reaches."""
    for _, _, values in _reached(fn):
        for _, value in values:
            if isinstance(value, type):
                module = sys.modules.get(value.__module__)
                if not _foreign(getattr(module, "__file__", None)):
                    yield value


def by_value(function: object) -> bool:
    """Whether a function has globals of its own rather than a module's."""
    namespace = getattr(function, "__globals__", None)
    module = sys.modules.get(getattr(function, "__module__", ""))
    return namespace is not None and getattr(module, "__dict__", None) is not namespace


def share(names: dict[str, Any], fn: Callable[..., Any]) -> None:
    """Set what an initializer set in functions of its module that `fn` reaches."""
    for function, _, _ in _reached(fn) if names else ():
        if by_value(function) and function.__globals__.get("__name__") == names["__name__"]:
            function.__globals__.update(names)


def assigned(fn: Callable[..., Any]) -> set[str]:
    """Names that `fn` assigns, globals among them."""
    return {name for each in _functions_in(fn) for name in _read(each.__code__).assigned}


_Reached = tuple[FunctionType, "_Reads", list[tuple[str, Any]]]


def _reached(fn: Callable[..., Any]) -> Iterator[_Reached]:
    """The functions that `fn` may run, and what they read."""
    todo = list(_functions_in(fn))
    seen: set[int] = set()
    while todo and len(seen) < REACH_LIMIT:
        function = todo.pop()
        code = function.__code__
        if id(code) not in seen and not _foreign(code.co_filename):
            seen.add(id(code))
            reads = _read(code)
            values = list(_values(function, reads))
            yield function, reads, values
            todo.extend(inner for _, value in values for inner in _functions_in(value))


def _values(function: FunctionType, reads: _Reads) -> Iterator[tuple[str, Any]]:
    """(qualified name, value) of globals, and of attributes of the user's own modules and classes;
    closures have no names."""
    module, namespace = function.__module__, function.__globals__
    todo = [(f"{module}.{name}", namespace[name]) for name in reads.globals & namespace.keys()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not filled yet
            todo.append(("", cell.cell_contents))
    inside: set[str] = set()
    while todo:
        name, value = todo.pop()
        if not isinstance(value, ModuleType):
            yield name, value
            if isinstance(value, type):
                yield from _settings(value, reads)
        elif value.__name__ not in inside and not _foreign(getattr(value, "__file__", None)):
            inside.add(value.__name__)
            found = vars(value)
            todo += [(f"{value.__name__}.{n}", found[n]) for n in reads.names & found.keys()]


def _settings(cls: type, reads: _Reads) -> Iterator[tuple[str, Any]]:
    """Scalars that are attributes of a class, if a worker imports it. Not None, which becomes
    something else once that is needed."""
    home = sys.modules.get(cls.__module__)
    if _travels(cls) or _foreign(getattr(home, "__file__", None)):
        return
    for name in reads.names & vars(cls).keys():
        value = vars(cls)[name]
        if value is not None and isinstance(value, _SCALARS):
            yield f"{cls.__module__}.{cls.__qualname__}.{name}", value


def _travels(what: Any) -> bool:
    """Whether a function or class goes to workers by value."""
    return what.__module__ == "__main__" or "<locals>" in what.__qualname__


def _functions_in(value: Any) -> Iterator[FunctionType]:
    """The functions that calling `value` may run, as far as one sees."""
    if isinstance(value, _NOT_CALLED):
        return
    for _ in range(8):  # decorators and partials; deeper nobody nests by hand
        if isinstance(value, FunctionType):
            yield value
        wrapped = None
        with suppress(Exception):  # of the user's own __getattr__
            wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None:
            value = wrapped
        elif isinstance(value, MethodType):
            value = value.__func__
        elif type(value).__name__ == "partial" and hasattr(value, "func"):
            value = getattr(value, "func", None)  # functools.partial, and what imitates it
        else:
            break
    if isinstance(value, FunctionType):
        return
    if isinstance(value, type):
        methods = list(vars(value).values())
    else:
        methods = [vars(cls).get("__call__") for cls in type(value).__mro__]
    for method in methods:
        if isinstance(method, FunctionType) and method.__name__ != "__annotate__":
            yield method


@lru_cache(maxsize=4096)
def _foreign(file: str | None) -> bool:
    """Whether a file is none of the user's own."""
    return (
        not file or "site-packages" in file or "dist-packages" in file or file.startswith(_OTHERS)
    )


class _Reads(NamedTuple):
    """What code looks at, with that nested in it."""

    checksum: str
    names: set[str]
    globals: set[str]
    assigned: set[str]


@lru_cache(maxsize=4096)
def _read(code: CodeType) -> _Reads:
    checksum, reads = 0, _Reads("", set(), set(), set())
    for each in _nested(code):
        names = each.co_names
        text = "\n".join([*map(_stable, each.co_consts), *names])
        checksum = zlib.crc32(text.encode(errors="replace"), zlib.crc32(each.co_code, checksum))
        reads.names.update(names)
        extended = 0
        for operation, arg in zip(each.co_code[::2], each.co_code[1::2], strict=True):
            argument, name = extended | arg, opname[operation]
            extended = argument << 8 if name == "EXTENDED_ARG" else 0
            if name == "LOAD_GLOBAL":
                reads.globals.add(names[argument >> 1])
            elif name in _STORES:
                reads.assigned.add(names[argument])
    return reads._replace(checksum=f"code {checksum:08x}")


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _nested(const)


def _stable(const: object) -> str:
    """A repr that is the same in every process."""
    if isinstance(const, frozenset):
        return str(sorted(map(repr, const)))
    return "" if isinstance(const, CodeType) else repr(const)
