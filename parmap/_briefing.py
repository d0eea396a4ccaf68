"""Station 4, what the workers of one call are told before their first chunk: the function, once,
as a parcel that all of them read. A forked worker finds it in its memory."""

from __future__ import annotations

import itertools

from parmap import _messages, _place, _pool, _state, _worker
from parmap._call import Call
from parmap._files import Store, new_store
from parmap._handle import Worker
from parmap._outcome import UNTRUSTED, short_repr
from parmap._transport import Parcel, dumps_by_value, pack

_numbers = itertools.count(1)


class Briefing:
    """One call, as its workers get to know it: `facts` are what they have to agree with."""

    def __init__(self, call: Call, method: str, threads: int):
        self.number = next(_numbers)
        self._place, self.facts = None, None
        task: Parcel | int = self.number
        if method == "fork":  # a snapshot of this moment: workers of this call only
            self.crew = _pool.Crew(method, self._leave(call), new_store(shares_main=True))
        else:
            self._place = _place.place()
            self.facts = _state.facts(call.fn, code_only=call.settings.initializer is not None)
            self.crew = _pool.crew(method, call.initializer())
            task = _packed(call, self.crew.store)
        self._job = _messages.Job(
            number=self.number,
            task=task,
            retries=call.settings.retries,
            flush_seconds=_worker.FLUSH_SECONDS if call.settings.task_timeout is None else 0.0,
            place=None,
            facts=self.facts,
            threads=_place.thread_limits(threads),
        )

    def _leave(self, call: Call) -> int | None:
        """Leave function and initializer to forked workers. Returns the key of the latter."""
        _worker.inherited[self.number] = (call.mapper, call.fn)
        # Local classes keep their identity if cloudpickle has met them before the fork.
        dumps_by_value(list(_state.classes(call.fn)))
        s = call.settings
        if s.initializer is None:
            return None
        _worker.inherited[-self.number] = (s.initializer, s.initargs)
        return -self.number

    def tell(self, worker: Worker) -> None:
        if worker.job != self.number:
            place = None if worker.place == self._place else self._place
            worker.post(self._job._replace(place=place))
            worker.fresh = not worker.job
            worker.place, worker.job = self._place, self.number

    @property
    def takes_memory(self) -> bool:
        task = self._job.task
        return isinstance(task, Parcel) and task.path is not None

    def end(self) -> None:
        if isinstance(self._job.task, Parcel):
            self._job.task.discard()
        else:
            _worker.inherited.pop(self.number, None)
            _worker.inherited.pop(-self.number, None)
            self.crew.end()
            self.crew.store.sweep()


def _packed(call: Call, store: Store) -> Parcel:
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
