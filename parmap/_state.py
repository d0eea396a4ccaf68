"""Whether a worker knows the same code and settings as its caller.

Under `map` a function sees the caller's modules as they are now; a worker that was started earlier,
or that imports afresh, need not. So the *facts* (code and scalars of modules that the function
reads) are taken on both sides of the wall and compared: where they differ the worker does not run
the function. Only the standard library, so that a worker stays light.
"""

from __future__ import annotations

import opcode
import os
import sys
import types
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

Facts = dict[str, str]

# Functions reached from one function that are looked at. More would cost more than the 100 us a
# call that the check may take; fewer would miss state three or four calls away.
REACH_LIMIT = 200

_SCALARS = (int, float, complex, str, bytes, bool, type(None))
_STORES = {opcode.opmap["STORE_GLOBAL"], opcode.opmap["DELETE_GLOBAL"], opcode.opmap["STORE_ATTR"]}
_LOAD_GLOBAL = opcode.opmap["LOAD_GLOBAL"]
_EXTENDED = opcode.opmap["EXTENDED_ARG"]
_STDLIB = os.path.dirname(os.__file__) + os.sep
_OURS = os.path.dirname(__file__) + os.sep


def facts(fn: Callable[..., Any], code_only: bool = False) -> Facts:
    """What `fn` reads, as far as code objects show it: name -> value or checksum.

    Its own code and that of the functions it reaches by reference, and the scalars among the
    globals and module attributes that those read. Not containers, which serve as memo tables; not
    names that the reached code itself assigns; nothing of the standard library or site-packages.
    What travels by value is the same on both sides, and left out; so is, in calls with an
    initializer, all but the code, for an initializer is there to set state.
    """
    found: Facts = {}
    assigned: set[str] = set()
    for function, module, reads in _reached(fn):
        assigned.update(reads.assigned)
        travels = module == "__main__" or "<locals>" in function.__qualname__
        if not travels:
            found[f"{module}.{function.__qualname__}()"] = reads.checksum
        for name, value in _bindings(function, module, reads):
            if code_only or (travels and name.startswith(f"{module}.")):
                continue
            if isinstance(value, _SCALARS) or _scalar_tuple(value):
                found[name] = repr(value)
            else:
                found.setdefault(name, _kind(value))
    return {name: v for name, v in found.items() if name.rpartition(".")[2] not in assigned}


def _kind(value: object) -> str:
    """Of what is no scalar: its type, and its name if it has one, as a function has."""
    called = getattr(value, "__qualname__", "") if callable(value) else ""
    return f"{type(value).__qualname__} {called}".rstrip()


def classes(fn: Callable[..., Any]) -> Iterator[type]:
    """The classes `fn` reaches that are not of the standard library or site-packages."""
    for function, module, reads in _reached(fn):
        cells = [_cell(cell) for cell in function.__closure__ or ()]
        for value in [*cells, *(v for _, v in _bindings(function, module, reads))]:
            if isinstance(value, type) and not _foreign(_file_of(value)):
                yield value


def by_value(function: object) -> bool:
    """Whether a function has globals of its own rather than those of an imported module."""
    namespace = getattr(function, "__globals__", None)
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    return namespace is not None and (module is None or vars(module) is not namespace)


def share(names: dict[str, Any], fn: Callable[..., Any]) -> None:
    """Set globals that an initializer set, in the functions of its module that `fn` reaches."""
    if not names:
        return
    for function, _, _ in _reached(fn):
        if by_value(function) and function.__globals__.get("__name__") == names["__name__"]:
            function.__globals__.update(names)


def assigned(fn: Callable[..., Any]) -> frozenset[str]:
    """Names that the code of `fn` assigns, globals among them."""
    return frozenset[str]().union(*(_read(each.__code__).assigned for each in _functions_in(fn)))


def _file_of(cls: type) -> str:
    return getattr(sys.modules.get(cls.__module__), "__file__", None) or _STDLIB


def _reached(fn: Callable[..., Any]) -> Iterator[tuple[types.FunctionType, str, _Reads]]:
    """The functions that calling `fn` may run, as far as references show: (it, module, reads)."""
    todo = list(_functions_in(fn))
    seen: set[int] = set()
    while todo and len(seen) < REACH_LIMIT:
        function = todo.pop()
        code = function.__code__
        if id(code) in seen or _foreign(code.co_filename):
            continue
        seen.add(id(code))
        module, reads = function.__module__ or "", _read(code)
        yield function, module, reads
        for _, value in _bindings(function, module, reads):
            if not isinstance(value, _SCALARS):
                todo.extend(_functions_in(value))
        for cell in function.__closure__ or ():
            todo.extend(_functions_in(_cell(cell)))


def _bindings(
    function: types.FunctionType, module: str, reads: _Reads
) -> Iterator[tuple[str, Any]]:
    """(qualified name, value) of the globals that are read, and of attributes of modules."""
    namespace = function.__globals__
    for name in reads.globals:
        if name in namespace:
            value = namespace[name]
            if isinstance(value, types.ModuleType):
                yield from _attributes(value, reads)
            else:
                yield f"{module}.{name}", value
    for cell in function.__closure__ or ():
        value = _cell(cell)
        if isinstance(value, types.ModuleType):
            yield from _attributes(value, reads)


def _attributes(module: types.ModuleType, reads: _Reads) -> Iterator[tuple[str, Any]]:
    if not _foreign(getattr(module, "__file__", None) or _STDLIB):
        inside = vars(module)
        for name in reads.names:
            if name in inside:
                yield f"{module.__name__}.{name}", inside[name]


def _functions_in(value: Any) -> Iterator[types.FunctionType]:
    """The Python functions that calling `value` may run, as far as its type shows them."""
    for _ in range(8):  # decorators and partials nest; deeper than this nobody nests by hand
        if isinstance(value, types.FunctionType):
            yield value
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None and not isinstance(value, types.ModuleType):
            value = wrapped
        elif isinstance(value, types.MethodType):
            value = value.__func__
        elif type(value).__name__ == "partial" and hasattr(value, "func"):
            value = getattr(value, "func", None)  # functools.partial, and what imitates it
        else:
            break
    if isinstance(value, type):
        methods = (f for f in vars(value).values() if isinstance(f, types.FunctionType))
        yield from (f for f in methods if f.__name__ != "__annotate__")
    elif not isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.ModuleType):
        calls = (vars(cls).get("__call__") for cls in type(value).__mro__)
        yield from (call for call in calls if isinstance(call, types.FunctionType))


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _scalar_tuple(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(v, _SCALARS) for v in value)


@lru_cache(maxsize=4096)
def _foreign(filename: str) -> bool:
    """Whether a file is of the standard library, of site-packages, or of this package."""
    return (
        "site-packages" in filename
        or "dist-packages" in filename
        or filename.startswith((_STDLIB, _OURS, "<frozen"))
    )


class _Reads(NamedTuple):
    """What one code object and those nested in it look at."""

    checksum: str
    names: frozenset[str]
    globals: frozenset[str]
    assigned: frozenset[str]


@lru_cache(maxsize=4096)
def _read(code: types.CodeType) -> _Reads:
    nested = [_read(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    consts = [_stable(const) for const in code.co_consts if not isinstance(const, types.CodeType)]
    text = "\n".join([*(inner.checksum for inner in nested), *consts, *code.co_names])
    checksum = zlib.crc32(text.encode(errors="replace"), zlib.crc32(code.co_code))
    operations = list(_name_operations(code))
    return _Reads(
        f"code {checksum:08x}",
        frozenset(code.co_names).union(*(inner.names for inner in nested)),
        frozenset(code.co_names[arg >> 1] for op, arg in operations if op == _LOAD_GLOBAL).union(
            *(inner.globals for inner in nested)
        ),
        frozenset(code.co_names[arg] for op, arg in operations if op in _STORES).union(
            *(inner.assigned for inner in nested)
        ),
    )


def _name_operations(code: types.CodeType) -> Iterator[tuple[int, int]]:
    """(opcode, whole argument) of what reads or writes globals and attributes."""
    extended = 0
    for op, arg in zip(code.co_code[::2], code.co_code[1::2], strict=True):
        full = extended | arg
        extended = full << 8 if op == _EXTENDED else 0
        if op == _LOAD_GLOBAL or op in _STORES:
            yield op, full


def _stable(const: object) -> str:
    """A repr that is the same in every process: sets have an order of their own in each."""
    if isinstance(const, frozenset):
        return str(sorted(map(repr, const)))
    return repr(const)


def differences(here: Facts, there: Facts, most: int = 3) -> str:
    """The names on which caller and worker disagree, in words."""
    names: Iterable[str] = sorted(n for n in {*here, *there} if here.get(n) != there.get(n))
    told = [
        f"{name} is {here.get(name, 'absent')} here and {there.get(name, 'absent')} in a worker"
        for name in names
    ]
    more = f" (and {len(told) - most} more)" if len(told) > most else ""
    return "; ".join(told[:most]) + more
