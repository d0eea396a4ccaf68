"""parmap: `map`, from all cores, sooner or at least never later.

    from parmap import pmap
    list(pmap(fn, items))            # equals list(map(fn, items))

One call, front to back, by the rooms it goes through:

    pmap(fn, items)
      1 _api        check the arguments, name the call (_call, _inputs)    -> Call
      2 _probe      run the first items here, keep their results           -> Probe
      3 _plan       + what _machine says we may use; _decision goes over   -> Plan
      4 _engine     lease warm workers from _pool, which _processes makes
      5 _flow       cut chunks to measure, keep every worker fed           -> Chunk
                    _transport.pack                                        -> Parcel
      ========================= process wall ===========================
      6 _worker     the same state? (_state) then run each item (_outcome) -> Answer
      ========================= process wall ===========================
      7 _flow       unpack, put in order, hand out
      8 _progress   one tick per finished item

Imports run one way, down this list; `tests/test_house.py` keeps it so. Nothing heavy is imported
before it is needed: a call that stays serial never loads multiprocessing, cloudpickle or tqdm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parmap._api import pmap, pstarmap
from parmap._report import Report

if TYPE_CHECKING:
    from parmap._pool import shutdown
    from parmap.errors import RemoteTraceback, WorkerDied

__all__ = ["RemoteTraceback", "Report", "WorkerDied", "pmap", "pstarmap", "shutdown"]
__version__ = "0.1.0"

_LATER = {
    "RemoteTraceback": "parmap.errors",
    "WorkerDied": "parmap.errors",
    "shutdown": "parmap._pool",
}


def __getattr__(name: str) -> Any:
    """Load the rest of the public names on first use (PEP 562)."""
    if name not in _LATER:
        raise AttributeError(f"module 'parmap' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LATER[name]), name)
