"""Stations 2 to 4 as one call goes through them: probe here, plan, and go over to workers."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from parmap import _machine, _plan
from parmap._call import Call, start_method
from parmap._plan import Facts, Plan
from parmap._probe import WORTH_SECONDS, run_here
from parmap._progress import Progress
from parmap._report import Report

if TYPE_CHECKING:
    from parmap._engine import LocalEngine
    from parmap._flow import Flow

# Seconds a first parallel call is assumed to lose on this machine before it was ever measured:
# imports, starting the fork server, starting a worker.
BOOT_SECONDS = 0.08
START_SECONDS = 0.02
HIRE_SECONDS = 0.006

# Seconds of fixed cost of a parallel call on warm workers: telling them the function, the first
# chunks' way there and back.
CALL_SECONDS = 0.6e-3


class Decision:
    """What is known and decided for one call, while it runs."""

    _plan: Plan | None = None
    _engine: LocalEngine | None = None
    _flow: Flow | None = None
    _go_over_at = 0.0  # time.monotonic() at which workers can be had
    _final = False  # nothing more will change the plan
    _next_look = 1  # items to be done before the next plan is made
    _cores = 0
    _memory: int | None = None

    def __init__(self, call: Call, report: Report):
        self._call = call
        self._report = report
        self._probe = report._probe
        self._progress = Progress(call.settings.progress, call.inputs.total)
        report.start()
        report.mode, report.reason = "serial", "too little work for workers to matter"

    @property
    def parallel(self) -> bool:
        return self._plan is not None and self._plan.parallel

    # ------------------------------------------------------------------ here

    def run_here(self) -> Iterator[Iterator[Any]]:
        """Run items in this process, while there is no reason to do otherwise."""
        pinned = self._call.settings.parallel
        if pinned is False:
            self._decide(Plan(False, 0, 2, "parallel=False"))
        elif pinned and not self._final:
            self._decide(_plan.make_plan(self._gather()))
            if self.parallel:
                return
        self._initialize_here()
        yield from run_here(self._call, self._probe, self._progress, self._stay)

    def _initialize_here(self) -> None:
        """An initializer runs wherever items run: results must not tell where that was."""
        s = self._call.settings
        if s.initializer is not None and not self._probe.items:
            s.initializer(*s.initargs)

    def _stay(self) -> bool:
        """Between two batches: go on here? A few comparisons, unless there is enough left."""
        probe = self._probe
        if self._final or probe.items < self._next_look:
            return True
        if self._plan is not None:
            return not self._workers_ready()
        left = self._call.inputs.left()
        if (probe.items if left is None else left) * probe.each < WORTH_SECONDS:
            return True
        if not probe.weighed:
            probe.closer = True  # look at the next item more closely, then come back
            return True
        plan = _plan.make_plan(self._gather())
        if not plan.parallel:
            self._report.reason = plan.reason
            self._final = plan.case in (1, 4)
            self._look_again_later()
            return True
        self._decide(plan)
        return not self._prepare()

    def _look_again_later(self) -> None:
        """After a quarter more items, or as many as would make a difference if they got dearer."""
        probe = self._probe
        self._next_look = probe.items + max(1, probe.items // 4)

    def _decide(self, plan: Plan) -> None:
        self._plan = plan
        self._final = not plan.parallel
        self._report.reason = plan.reason

    def _gather(self) -> Facts:
        """Everything the plan needs, measured now or before."""
        call, probe = self._call, self._probe
        if not self._cores:
            self._cores, _ = _machine.usable_cores()
            self._memory = _machine.available_bytes()
        memory, warm = self._memory, self._warm()
        return Facts(
            done=probe.items,
            left=call.inputs.left(),
            seconds_per_item=probe.each,
            waiting=probe.waiting,
            transfer_per_item=probe.transfer,
            bytes_per_item=probe.bytes,
            boot=0.0 if warm else BOOT_SECONDS,
            start=0.0 if warm else START_SECONDS,
            call=CALL_SECONDS,
            hire=HIRE_SECONDS,
            warm=warm,
            cores=self._cores,
            most_workers=call.settings.max_workers,
            memory_workers=None if memory is None else max(1, memory // _machine.WORKER_BYTES),
            pinned=call.settings.parallel,
            obstacle=self._obstacle(),
        )

    def _warm(self) -> int:
        pool = sys.modules.get("parmap._pool")
        return 0 if pool is None else pool.warm_workers()

    def _obstacle(self) -> str:
        worker = sys.modules.get("parmap._worker")  # not loaded: this is not one
        if worker is not None and worker.inside():
            return "this is a worker already: nested calls are serial"
        if self._call.settings.parallel is None:
            return self._probe.obstacle
        return ""

    # ------------------------------------------------------------------ going over

    def _prepare(self) -> bool:
        """Get workers on their way; whether there is nothing to wait for."""
        if self._warm():
            return True
        from parmap import _processes  # 20 to 30 ms, the first time

        context = self._call.settings.mp_context
        method = _processes.default_method() if context is None else start_method(context)
        try:
            if method == "forkserver" and _processes.start_server():
                self._go_over_at = time.monotonic() + BOOT_SECONDS
        except OSError:
            pass  # the engine will meet the same, and say so
        return self._workers_ready()

    def _workers_ready(self) -> bool:
        return time.monotonic() >= self._go_over_at

    def run_in_workers(self) -> Iterator[Iterator[Any]]:
        """Hand the rest to workers; leaves what they could not do in the inputs."""
        assert self._plan is not None
        if self._call.inputs.finished:
            return
        from parmap import _state
        from parmap._engine import LocalEngine  # here, for a serial call never needs them
        from parmap._flow import Flow

        try:
            initializer = self._call.settings.initializer
            facts = _state.facts(self._call.fn, code_only=initializer is not None)
            self._engine = LocalEngine(self._call, self._plan.workers, facts, self._cores)
        except TypeError as error:  # the function does not pickle
            self._cannot(str(error), error, quietly=True)
            return
        except (OSError, ImportError, RuntimeError) as error:
            self._cannot(f"no workers could be started: {type(error).__name__}: {error}", error)
            return
        self._report.mode = "parallel"
        self._report.workers = self._engine.workers
        self._report.start_method = self._engine.method
        self._flow = Flow(self._call, self._engine, self._progress, self._report, self._probe.each)
        yield from self._flow.batches()
        self._report.bytes_moved += self._engine.bytes_moved
        if self._flow.unavailable is not None:
            self._cannot(self._flow.unavailable.reason, self._flow.unavailable.error)

    def _cannot(self, reason: str, error: BaseException, quietly: bool = False) -> None:
        """Workers were wanted and cannot be had: an error for who insists, else serial, with a
        warning unless the function itself is the reason."""
        if self._call.settings.parallel:
            raise error
        self._decide(Plan(False, 0, 1, reason))
        if quietly:
            return
        warnings.warn(f"parmap runs this call serially: {reason}", RuntimeWarning, stacklevel=4)

    # ------------------------------------------------------------------ the end

    def close(self, error: BaseException | None) -> None:
        """The call is over, whichever way. After Ctrl-C nothing may go on in the background."""
        self._report.end()
        if self._flow is not None:
            self._flow.discard()
        if self._engine is not None:
            self._engine.close(now=isinstance(error, KeyboardInterrupt))
        self._progress.close(self._report.items)
