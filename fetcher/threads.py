"""Blocking work on threads, so that a cancelled caller never leaves one running behind it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

P = ParamSpec("P")
T = TypeVar("T")


async def run(executor: Executor, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `call` returns, run on `executor`.

    A cancellation waits for the running call to end first: what it works on may be closed
    only then. Calls are therefore short (a megabyte written, one fsync).
    """
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(executor, partial(call, *args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.cancel():
            await asyncio.wait([future])
        raise
