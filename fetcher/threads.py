"""Blocking work on threads, so that a cancelled caller never leaves one running behind it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

P = ParamSpec("P")
T = TypeVar("T")

_here = threading.local()  # `call`: what this thread carries out for `run`, if anything


class CalledOffError(Exception):
    """Whoever wanted this call's result was cancelled; what it worked on is left half done."""


class _Call:
    is_called_off = False


def end_if_called_off() -> None:
    """Raise CalledOffError in a call whose caller was cancelled.

    For loops over whole files, once a megabyte: a run is to stop within five seconds.
    """
    call: _Call | None = getattr(_here, "call", None)
    if call is not None and call.is_called_off:
        raise CalledOffError


async def run(executor: Executor, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `call` returns, run on `executor`.

    A cancellation, and a second one as well, waits for a running call to end first: what it
    works on may be closed only then, for the number of a closed file is soon another's. Calls
    are therefore short (a megabyte written, one fsync), or ask `end_if_called_off` now and
    then. One that has not begun is called off.
    """
    underway = _Call()
    work = executor.submit(_carry_out, underway, partial(call, *args, **kwargs))
    future = asyncio.wrap_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        underway.is_called_off = True
        # The asyncio future would say yes to a cancellation, and its thread would go on.
        while not (future.done() or work.cancel()):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if future.done() and not future.cancelled():
            future.exception()  # or asyncio would tell that nobody looked at it
        raise


def is_cancelled() -> bool:
    """Return whether the running task was asked to end, whatever error hides that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _carry_out(underway: _Call, call: Callable[[], T]) -> T:
    _here.call = underway
    try:
        return call()
    finally:
        _here.call = None
