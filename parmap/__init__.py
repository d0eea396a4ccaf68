"""parmap: `map`, from all cores, sooner or at least never later.

    from parmap import pmap
    list(pmap(fn, items))            # equals list(map(fn, items))

One call, front to back, by the rooms it goes through:

    pmap(fn, items)
      1 _api        check the arguments (_call)                            -> Call
        _way        all that follows, read from top to bottom; what is over in a
                    millisecond goes no further; draw from _inputs
      2 _probe      run the first items here, keep their results           -> Probe
      3 _plan       + _machine: what we may use, and what it takes; _known:
                    what earlier calls have shown, and what workers have to
                    import first; _decision goes over                      -> Plan
      4 _engine     lease warm workers from _pool, which get a _briefing and have
                    a _handle each, by which one sees who speaks or dies;
                    _processes begin, by _zygote if need be, each on its _seat
                    at a line, _quiet about it; _sweep cleans up after the killed;
                    _executors for who brings an executor, and _carriers to it
      5 _flow       cut chunks to measure, keep every worker fed; until
                    workers answer, the caller has chunks of its own       -> Chunk
                    _transport.pack, large data into _files                -> Parcel
                    its line carries it, as one of the _messages           -> Work
      ========================= process wall ===========================
      6 _worker     in the same _place, the same _state? run each item     -> Answer
                    (_outcome)
        _failure    an exception on its way back
        _remote     the same in a worker of somebody else's
      ========================= process wall ===========================
      7 _window     unpack, put in order, hand out
      8 _progress   one tick per finished item; _report tells it all

`python -m parmap` is __main__; `crossover` has a room beside the corridor.

Imports run one way, down this list; `tests/test_house.py` keeps it so. A worker imports `_worker`
and what lies below it, so this page imports nothing: the public names are loaded on first use.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from parmap._api import Results, pmap, pstarmap, shutdown
    from parmap._crossover import Crossover, crossover
    from parmap._report import Report
    from parmap.errors import RemoteTraceback, WorkerDied

__all__ = [
    "Crossover",
    "RemoteTraceback",
    "Report",
    "Results",
    "WorkerDied",
    "crossover",
    "pmap",
    "pstarmap",
    "shutdown",
]
__version__ = "0.1.0"

_ROOMS = {
    "Crossover": "_crossover",
    "crossover": "_crossover",
    "RemoteTraceback": "errors",
    "Report": "_report",
    "Results": "_api",
    "WorkerDied": "errors",
    "pmap": "_api",
    "pstarmap": "_api",
    "shutdown": "_api",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562)."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'parmap' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"parmap.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
