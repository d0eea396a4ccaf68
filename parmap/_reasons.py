"""Why something could not be done: in words, and as the error that an item or a caller gets."""

from __future__ import annotations

from collections.abc import Callable

from parmap._chunk import Chunk
from parmap._failure import rebuild
from parmap._messages import Refusal
from parmap._state import Facts, differences


def died(exitcode: int | None) -> Callable[[int], BaseException]:
    from parmap.errors import WorkerDied  # 4 ms, for concurrent.futures imports logging

    return lambda index: WorkerDied.of_item(index, exitcode)


def overdue(limit: float) -> Callable[[int], BaseException]:
    return lambda index: TimeoutError(
        f"item {index} took longer than task_timeout={limit:g} s, and its worker was ended. The "
        "other items are not affected; a larger task_timeout= gives it longer, `retries=` another "
        "try, `return_exceptions=True` puts this error in its place."
    )


def why_refused(refusal: Refusal, facts: Facts) -> tuple[str, BaseException]:
    """The reason in words, and the error for a caller who insists on workers."""
    if refusal.failure is None:  # the facts differ
        told = differences(facts, refusal.facts or {})
        reason = (
            f"workers import modules afresh and would not see state that was set at run time: "
            f"{told}. Pass it as an argument or with initializer=, or use mp_context='fork'"
        )
        return reason, RuntimeError(reason)
    error = rebuild(refusal.failure)
    if refusal.what == "function":
        error.add_note("parmap: raised by a worker that loads the mapped function")
        return f"a worker cannot load the mapped function: {refusal.failure.summary}", error
    error.add_note("parmap: raised by the initializer in a worker")
    return f"the initializer failed: {refusal.failure.summary}", error


def cannot_send(chunk: Chunk, why: BaseException) -> BaseException:
    error = TypeError(
        f"item {chunk.start} cannot be sent to a worker: {type(why).__name__}: {why}. "
        "Pass something that pickles, or parallel=False."
    )
    error.__cause__ = why
    return error


def cannot_load(what: str, index: int, why: str) -> BaseException:
    return TypeError(f"the {what} {index} pickles but does not load on the other side: {why}")
