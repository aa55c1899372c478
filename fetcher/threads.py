"""Blocking work on threads, so that a cancelled caller never leaves one running behind it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

P = ParamSpec("P")
T = TypeVar("T")


async def run(executor: Executor, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `call` returns, run on `executor`.

    A cancellation, and a second one as well, waits for a running call to end first: what it
    works on may be closed only then, for the number of a closed file is soon another's. Calls
    are therefore short (a megabyte written, one fsync). One that has not begun is called off.
    """
    work = executor.submit(call, *args, **kwargs)
    future = asyncio.wrap_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        # The asyncio future would say yes to a cancellation, and its thread would go on.
        while not (future.done() or work.cancel()):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if future.done() and not future.cancelled():
            future.exception()  # or asyncio would tell that nobody looked at it
        raise
