"""Stations 2 to 4 as one call goes through them: probe here, plan, and go over to workers."""

from __future__ import annotations

import sys
import time

from parmap import _known, _machine, _plan
from parmap._call import NO_WORKERS, Call, start_method, warn
from parmap._outcome import loaded, nested
from parmap._plan import Facts, Plan
from parmap._probe import (
    BUSY_SECONDS,
    DEARER,
    LOADING_WORTH,
    THREADS_SECONDS,
    Probe,
    run_here,
)
from parmap._progress import Progress
from parmap._report import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from parmap._engine import LocalEngine
    from parmap._executors import ExecutorEngine
    from parmap._flow import Flow

# Seconds of items between two plans, or a quarter of what was done. Smaller plans the same again,
# for 40 us; larger leaves work here that got dearer.
LOOK_SECONDS = 0.5e-3

# How many times longer than moving it an item must take that is sent unseen. Smaller believes
# workers; larger runs one here first.
SEEN = 4


class Decision:
    """What is decided for one call, while it runs."""

    _plan = Plan(0, 0, "")
    _engine: LocalEngine | ExecutorEngine | None = None
    _flow: Flow | None = None
    _final = False  # nothing more will change the plan
    _next_look = BUSY_SECONDS  # seconds of items to be done before the next plan is made
    _serial_at = 0.0  # seconds of an item for which the last plan said serial
    _loading = 0.0  # seconds that workers would have to import

    def __init__(self, call: Call, report: Report):
        self._call, self._report, self._probe = call, report, report.probe
        self._progress = Progress(call.settings.progress, call.inputs.total)
        self._known = _known.known(call.fn)
        if self._known is not None and not report.probe.looked:
            report.probe.recall(self._known.busy, self._known.looked)

    @property
    def parallel(self) -> bool:
        return self._plan.parallel

    # ------------------------------------------------------------------ here

    def run_here(self) -> Iterator[Iterator[Any]]:
        """Run items in this process, while there is no reason to do otherwise."""
        s = self._call.settings
        if s.parallel is False:
            self._decide(Plan(0, 2, "parallel=False"))
        elif s.parallel and not self._final:
            self._decide(self._make_plan(self._probe))
        elif not self._final:
            self._plan_from_memory()
        if self.parallel:
            return
        if s.initializer is not None and not self._probe.items:
            s.initializer(*s.initargs)  # wherever items run: results must not tell where that was
        yield from run_here(self._call, self._probe, self._stay)

    def _plan_from_memory(self) -> None:
        """Go to workers at once where an earlier call of this function says that it is worth it.
        Where it does not, what this call's own items say counts alone."""
        s, left, known = self._call.settings, self._call.inputs.left(), self._known
        if s.initializer is not None:
            return  # it has to run here first
        if not _warm() and s.executor is None:
            return  # a start is worth a first item
        if known is None or left is None or left * known.each < self._worth():
            return
        if known.each < SEEN * known.transfer:
            return  # in workers it may have waited for memory
        plan = self._make_plan(known)
        if plan.parallel:
            self._probe.each = known.each
            self._probe.trust(known)
            self._decide(plan)

    def _worth(self) -> float:
        """Seconds that must be left for a plan to be worth making."""
        if self._call.settings.executor is not None:
            return LOADING_WORTH
        if _warm():
            costs = _machine.costs()
            return 2 * (costs.call + costs.wake * self._report.rested)
        needed = LOADING_WORTH - 2 * _known.missed  # of work, of which half is gained
        return max(2 * _machine.Costs().call, needed)

    def _stay(self, _: Call) -> bool:
        """Between two batches: whether to go on here."""
        probe = self._probe
        if self._progress.wanted:
            self._progress.at(probe.items)
        if self._final or probe.seconds < self._next_look:
            return True
        left = self._call.inputs.left()
        # Of the last item nothing can be shared.
        if (probe.items if left is None else left - 1) * probe.each < self._worth():
            return True
        if not _warm() and _coming():
            self._report.reason = "workers that an earlier call began are not ready yet"
            return True  # others beside them would be there later still
        if left is None or probe.each >= self._serial_at:  # else the plan would say the same
            probe.closer = not probe.weighed or self._may_have_threads()
            if probe.closer:
                return True  # and come back when more is known
            plan = self._make_plan(probe)
            if plan.parallel:
                self._decide(plan)
                return False
            if self._next_look == BUSY_SECONDS:  # the first reason is about most of the call
                self._report.reason = plan.reason
            self._final = plan.case in (1, 4)
            if self._call.settings.executor is None and not self._loading:
                self._serial_at = DEARER * probe.each
        done = probe.seconds
        self._next_look = max(1.25 * done, done + LOOK_SECONDS, done + self._loading)
        return True

    def _may_have_threads(self) -> bool:
        """Whether items may compute on several processors at once, and one does not know yet."""
        return self._probe.looked < THREADS_SECONDS and _machine.has_foreign_threads()

    def _decide(self, plan: Plan) -> None:
        self._plan = plan
        self._final = not plan.parallel
        self._report.reason = plan.reason

    def _make_plan(self, items: _known.Known | Probe) -> Plan:
        """What takes long to ask is asked only where workers are worth it otherwise."""
        facts = self._gather(items)
        more: dict[str, float] = {}
        plan = _plan.make_plan(facts)
        if not plan.parallel or self._call.settings.executor is not None:
            return plan
        if plan.workers > facts.warm and (memory := _machine.available_bytes()) is not None:
            more["memory_workers"] = max(1, memory // _machine.WORKER_BYTES)
        if plan.case == 6 and self._method() != "fork":  # which has all modules
            self._loading = _known.import_seconds(self._call.fn, facts.warm > 0)
        if self._loading:
            more["loading"] = self._loading
        return _plan.make_plan(facts._replace(**more)) if more else plan

    def _gather(self, items: _known.Known | Probe) -> Facts:
        call = self._call
        facts = Facts(
            done=self._probe.items,
            left=call.inputs.left(),
            seconds_per_item=items.each,
            busy=items.busy,
            transfer_per_item=items.transfer,
            costs=_machine.costs(),
            warm=_warm(),
            rested=self._report.rested,
            cores=_machine.usable_cores()[0],
            missed=_known.missed + self._probe.spent,
            most_workers=call.settings.max_workers,
            pinned=call.settings.parallel,
            obstacle=self._obstacle(),
        )
        if call.settings.executor is None:
            return facts
        from parmap._executors import facts_of

        return facts_of(call.settings.executor, facts)

    def _obstacle(self) -> str:
        if nested():
            return "this is a worker already: nested calls are serial"
        s = self._call.settings
        if s.parallel is not None or not self._probe.obstacle:
            return ""
        if s.executor is not None:
            from parmap._carriers import shares_memory

            if shares_memory(s.executor):
                return ""  # what does not pickle is no obstacle there
        return self._probe.obstacle

    # ------------------------------------------------------------------ going over

    def run_in_workers(self) -> Iterator[Iterator[Any]]:
        """Hand the rest to workers; leaves what they could not do in the inputs."""
        if self._call.inputs.finished:
            return
        began = time.perf_counter()
        try:
            self._engine = self._hire(self._plan.workers)
        except TypeError as error:  # the function does not pickle
            self._cannot(str(error), error, quietly=True)
            return
        except (OSError, ImportError, RuntimeError) as error:
            error.add_note(NO_WORKERS)
            self._cannot(f"no workers could be started: {type(error).__name__}: {error}", error)
            return
        self._report.mode = "parallel"
        self._report.start_method = self._engine.method
        if self._engine.booting:
            _machine.measured(start=time.perf_counter() - began + self._probe.spent)
        if self._engine.booting or self._loading:
            _known.missed = 0.0
        from parmap._flow import Flow  # `_hire` has imported it

        self._flow = Flow(self._call, self._engine, self._progress, self._report, began)
        yield from self._flow.batches()
        self._report.bytes_moved += self._engine.bytes_moved
        lost = self._flow.unavailable
        if lost is not None and self._call.insists:
            raise lost.error
        if lost is not None:
            self._cannot(lost.reason, lost.error)

    def _hire(self, workers: int) -> LocalEngine | ExecutorEngine:
        """Workers for this call, and the imports they need. A Ctrl-C waits for those: half an
        import would be in the way of every later call."""
        from parmap._quiet import interrupts_deferred

        s = self._call.settings
        if s.executor is not None:
            with interrupts_deferred():
                from parmap._executors import ExecutorEngine
            return ExecutorEngine(self._call)
        with interrupts_deferred():
            from parmap import _processes

            method = self._method()
            if method == "forkserver":
                _processes.start_server()  # it boots while the rest is imported
            from parmap._engine import LocalEngine
        cores = _machine.usable_cores()[0]
        first = _plan.at_first(workers, cores, self._loading)
        return LocalEngine(self._call, workers, first, cores, method)

    def _method(self) -> str:
        given = self._call.settings.mp_context
        if given is not None:
            return start_method(given)
        from parmap._processes import default_method

        return default_method()

    def _cannot(self, reason: str, error: BaseException, quietly: bool = False) -> None:
        """Workers cannot be had: an error for who insists, else serial, with a warning unless the
        function itself is the reason."""
        if self._call.settings.parallel:
            raise error
        self._decide(Plan(0, 1, reason))
        if not quietly:
            warn(f"parmap runs this call serially: {reason}")

    # ------------------------------------------------------------------ the end

    def close(self, error: BaseException | None) -> None:
        if sys.is_finalizing():
            return  # nothing can be imported any more; workers and files end after this process
        if self._engine is not None:
            if not self._engine.ours():
                return  # a forked copy of the caller: the call goes on where it began
            self._close_engine(self._engine, isinstance(error, KeyboardInterrupt))
        self._report.end(self._call.fn)
        self._progress.close(self._report.items)
        self._learn()

    def _close_engine(self, engine: LocalEngine | ExecutorEngine, interrupted: bool) -> None:
        """After Ctrl-C nothing may go on."""
        from parmap._quiet import interrupts_deferred

        with interrupts_deferred() as came:
            if self._flow is not None:
                self._flow.discard()
            engine.close(now=interrupted)
            if interrupted:  # a second Ctrl-C asks for what is on its way
                came.clear()

    def _learn(self) -> None:
        probe, each, fn = self._probe, self._report.seconds_per_item, self._call.fn
        local = self._call.settings.executor is None
        if self._flow is not None:
            if local:
                self._report.learn_crowding()
            if local and self._report.start_method != "fork":
                _known.imported(fn)  # or will have been, which is paid for
            _machine.remember()
        seen = probe if probe.weighed else self._known
        if each and seen is not None and not probe.obstacle:
            _known.keep(fn, _known.Known(each, seen.busy, seen.transfer, seen.looked))
        if self._flow is None and self._call.settings.parallel is None and not self._final:
            # With two workers, at the least; for items that use both already, nothing is certain.
            gain = probe.items * (each * (1.0 - max(1.0, probe.busy) / 2) - probe.transfer / 2)
            paid = _warm() or _coming()
            if gain > _machine.Costs().call and local and (self._loading or not paid):
                _known.missed += gain


def _warm() -> int:
    return int(getattr(loaded("parmap._pool"), "warm_workers", int)())


def _coming() -> int:
    return int(getattr(loaded("parmap._pool"), "coming_workers", int)())
