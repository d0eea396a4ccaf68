"""Station 4, what the workers of one call are told before their first chunk: the function, once.

It crosses as a parcel that all of them read; a forked worker finds it in its memory.
"""

from __future__ import annotations

import itertools
from typing import Any

from parmap import _messages, _place, _pool, _state, _worker
from parmap._call import Call
from parmap._files import Store
from parmap._handle import Worker
from parmap._outcome import UNTRUSTED, short_repr
from parmap._transport import Parcel, dumps_by_value, pack

_numbers = itertools.count(1)


class Briefing:
    """One call, as its workers get to know it.

    Attributes:
        number: of the job; crew: whose workers they are; facts: what they have to agree with.
    """

    def __init__(self, call: Call, method: str, threads: int, facts: _state.Facts | None):
        """Raises what pickling the function, or the initializer, raises."""
        self.number = next(_numbers)
        self._forked = method == "fork"
        self._place = None if self._forked else _place.place()
        if self._forked:  # a snapshot of this moment: workers of this call only
            self.crew = _pool.Crew.forked(self._leave_initializer(call))
        else:
            self.crew = _pool.crew(method, call.initializer())
        self.facts = None if self._forked else facts
        self._job = _messages.Job(
            number=self.number,
            task=self._leave_task(call) if self._forked else _packed(call, self.crew.store),
            retries=call.settings.retries,
            flush_seconds=_worker.FLUSH_SECONDS if call.settings.task_timeout is None else 0.0,
            place=None,
            facts=self.facts,
            threads=_place.thread_limits(threads),
        )

    def _leave_initializer(self, call: Call) -> int | None:
        """Leave the initializer where forked workers find it, under a key of its own."""
        s = call.settings
        if s.initializer is None:
            return None
        _worker.inherited[-self.number] = (s.initializer, s.initargs)
        return -self.number

    def _leave_task(self, call: Call) -> int:
        _worker.inherited[self.number] = (call.mapper, call.fn)
        # Classes that have no importable name keep their identity if cloudpickle has met them
        # before the fork.
        dumps_by_value(list(_state.classes(call.fn)))
        return self.number

    def tell(self, worker: Worker) -> None:
        """Add it to what a worker is sent, unless that knows it."""
        if worker.job == self.number:
            return
        news: Any = {} if worker.place == self._place else {"place": self._place}
        worker.post(self._job._replace(**news))
        worker.place, worker.job = self._place, self.number

    @property
    def takes_memory(self) -> bool:
        """Whether workers would keep memory for the function until the next call."""
        task = self._job.task
        return isinstance(task, Parcel) and task.path is not None

    def end(self) -> None:
        """Nobody will be told any more."""
        if self._forked:
            _worker.inherited.pop(self.number, None)
            _worker.inherited.pop(-self.number, None)
            self.crew.end()
            self.crew.store.sweep()
        elif isinstance(self._job.task, Parcel):
            self._job.task.discard()


def _packed(call: Call, store: Store) -> Parcel:
    """The function, once for all workers. Raises TypeError where it does not pickle."""
    try:
        return call.carried(lambda: pack((call.mapper, call.fn), store, shared=True))
    except UNTRUSTED as error:
        if isinstance(error, OSError):
            raise
        raise TypeError(
            f"the mapped function {short_repr(call.fn)} cannot be sent to a worker: "
            f"{type(error).__name__}: {error}. Leave out what does not pickle, create it in the "
            "function or in an initializer, or pass mp_context='fork'."
        ) from error
