"""Blocking calls on threads: what becomes of them when their caller is cancelled."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from fetcher.files.journal import Version
from fetcher.files.parts import Parts
from fetcher.files.places import digest_file
from fetcher.models import Validator
from fetcher.threads import CalledOffError, end_if_called_off, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


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


# ---- long calls --------------------------------------------------------------------------


async def is_ended_by_a_cancellation(
    executor: ThreadPoolExecutor, call: Callable[[], object]
) -> bool:
    """Return whether `call`, whose caller has been cancelled by then, ends for that."""
    began, is_cancelled = threading.Event(), threading.Event()
    ended_by: list[BaseException] = []

    def late() -> None:
        began.set()
        is_cancelled.wait(5)
        try:
            call()
        except CalledOffError as error:
            ended_by.append(error)

    task = asyncio.create_task(run(executor, late))
    await asyncio.to_thread(began.wait, 5)
    task.cancel()
    await asyncio.sleep(0.01)
    is_cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    return bool(ended_by)


async def test_a_call_may_ask_whether_it_is_called_off(one: ThreadPoolExecutor) -> None:
    end_if_called_off()
    assert await is_ended_by_a_cancellation(one, end_if_called_off)
    await run(one, end_if_called_off)
    one.submit(end_if_called_off).result()


@pytest.mark.parametrize("reading", ["recover", "recover_stretches", "digest_again", "digest_file"])
async def test_what_reads_a_whole_file_ends_once_it_is_called_off(
    reading: str, one: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """Contract 5.8: a run stops within 5 s, however long its files are."""
    parts = Parts(tmp_path)
    part = parts.begin("key", Version(Validator(), None))
    stretch = parts.begin_stretch("key", 4096, part.version)
    for held in (part, stretch):
        held.append(b"OggS")
    calls: dict[str, Callable[[], object]] = {
        "recover": lambda: parts.recover("key"),
        "recover_stretches": lambda: parts.recover_stretches("key"),
        "digest_again": lambda: part.digest_again(["md5"]),
        "digest_file": lambda: digest_file(part.path),
    }
    assert await is_ended_by_a_cancellation(one, calls[reading])
    for held in (part, stretch):
        held.close()
