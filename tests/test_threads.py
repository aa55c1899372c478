"""Blocking calls on threads: what becomes of them when their caller is cancelled."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from fetcher.threads import run

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def one() -> Iterator[ThreadPoolExecutor]:
    """Give an executor with a single thread."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def test_the_result_comes_back(one: ThreadPoolExecutor) -> None:
    assert await run(one, divmod, 7, 2) == (3, 1)


async def test_an_error_comes_back(one: ThreadPoolExecutor) -> None:
    with pytest.raises(ZeroDivisionError):
        await run(one, divmod, 7, 0)


@pytest.mark.parametrize("cancellations", [1, 2, 3])
async def test_a_cancelled_caller_waits_for_the_running_call(
    cancellations: int, one: ThreadPoolExecutor
) -> None:
    """Whoever closes the file afterwards must not close it under the thread's hands."""
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        began.set()
        may_end.wait(5)
        ended.set()

    task = asyncio.create_task(run(one, call))
    await asyncio.to_thread(began.wait, 5)
    for _ in range(cancellations):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_call_that_has_not_begun_is_called_off(one: ThreadPoolExecutor) -> None:
    may_end = threading.Event()
    calls: list[str] = []
    first = asyncio.create_task(run(one, may_end.wait, 5))
    second = asyncio.create_task(run(one, calls.append, "second"))
    await asyncio.sleep(0.01)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    may_end.set()
    await first
    await run(one, calls.append, "third")
    assert calls == ["third"]


async def test_an_error_after_a_cancellation_is_not_the_loops_business(
    one: ThreadPoolExecutor,
) -> None:
    began, may_end = threading.Event(), threading.Event()

    def call() -> None:
        began.set()
        may_end.wait(5)
        raise ValueError

    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    task = asyncio.create_task(run(one, call))
    await asyncio.to_thread(began.wait, 5)
    task.cancel()
    await asyncio.sleep(0.01)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await asyncio.sleep(0.01)
    assert told == []
