"""`Fetcher`: what a run does from start to end, and the library's face."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Self

from fetcher.core.account import Class
from fetcher.core.causes import first_cause
from fetcher.errors import ApiError, FetcherError, LockedError
from fetcher.events import Event, Notice, RunCompleted, RunStarted, Sink
from fetcher.runs.afterwards import afterwards
from fetcher.runs.assembly import opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from fetcher.configuration.settings import Settings
    from fetcher.runs.afterwards import Afterwards
    from fetcher.runs.run import Run

STOPPED_BY_SIGINT, STOPPED_BY_SIGTERM = 130, 143
_SIGNALLED = frozenset({STOPPED_BY_SIGINT, STOPPED_BY_SIGTERM})


class Stop:
    """A request to stop; `exit_code` is what the run then ends with.

    `is_welcome`: the run goes on until it is stopped, so a signal is its good end.
    """

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self.exit_code: int | None = None
        self.is_welcome = False

    def ask(self, exit_code: int) -> None:
        """Ask for a stop; the first reason stays."""
        if self.exit_code is None:
            self.exit_code = exit_code
            self._asked.set()

    def is_asked(self) -> bool:
        """Return whether a stop was asked for."""
        return self.exit_code is not None

    async def asked(self) -> None:
        """Return once a stop is asked for."""
        await self._asked.wait()

    def verdict(self, exit_code: int) -> int:
        """Return the status of a run that ended with `exit_code`, as it was to stop."""
        return 0 if self.is_welcome and exit_code in _SIGNALLED else exit_code

    def instead_of(self, error: LockedError) -> RunCompleted:
        """Return the final event of a run that was stopped while it waited for DEST.

        Raises `error` where no stop was asked for.
        """
        if self.exit_code is None:
            raise error
        return RunCompleted(exit_code=self.exit_code)


async def until_stopped(work: Awaitable[object], stop: Stop) -> bool:
    """Run `work`; return whether it came to its end before a stop was asked for.

    After a stop the work is cancelled, and has left everything in order before this returns.
    """
    task = asyncio.ensure_future(work)
    asked = asyncio.create_task(stop.asked())
    try:
        await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
            return True
    finally:
        asked.cancel()
        task.cancel()
        await asyncio.wait({task, asked})
    if not task.cancelled() and task.exception() is not None:
        await task
    return False


class _End(NamedTuple):
    """How a run ended, and whether it downloaded anything, originals included."""

    final: RunCompleted
    has_downloaded: bool


class Fetcher:
    """Fetches one account's finished jobs into one destination.

    `async with Fetcher(settings) as fetcher: async for event in fetcher.backfill(): ...`
    Events are those of `fetcher.events`; the last one of a run is `RunCompleted`, whose
    `exit_code` tells how it ended. Raises UsageError, LockedError, StorageError and
    ManifestError where a run cannot begin.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stop = Stop()
        self.wake: Callable[[], None] = _nobody
        self._completed: Callable[[int], RunCompleted] = _nothing_done
        self._tasks: set[asyncio.Task[RunCompleted]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            _cancel_once(task)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def backfill(self) -> AsyncIterator[Event]:
        """Yield the events of one full pass."""
        return self._events(self.run_backfill)

    def watch(self) -> AsyncIterator[Event]:
        """Yield the events of a watch: until `stop` is asked for, or until idle if so set."""
        return self._events(self.run_watch)

    def plan(self) -> AsyncIterator[Event]:
        """Yield what a backfill would do with each job (`Planned`); nothing is written."""
        return self._events(self.run_plan)

    async def _events(self, run: Callable[[Sink], Awaitable[RunCompleted]]) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event | None] = asyncio.Queue()

        async def work() -> RunCompleted:
            try:
                return await run(queue.put_nowait)
            finally:
                queue.put_nowait(None)

        task = asyncio.create_task(work())
        self._tasks.add(task)
        try:
            while (event := await queue.get()) is not None:
                yield event
            await task
        finally:
            _cancel_once(task)
            await asyncio.gather(task, return_exceptions=True)
            self._tasks.discard(task)

    def cut_short(self) -> RunCompleted:
        """Return the final event of a run that was stopped and cannot be waited for any more."""
        return self._completed(self.stop.verdict(self.stop.exit_code or STOPPED_BY_SIGINT))

    async def run_backfill(self, sink: Sink) -> RunCompleted:
        """Fetch every finished job that the manifest does not hold; return the final event."""
        return await self._run(sink, self._backfilled, is_endless=False)

    async def run_watch(self, sink: Sink) -> RunCompleted:
        """Watch the history and fetch what finishes; return the final event.

        Being stopped is the ordinary end of a watch (0), but not of one that was to run
        until idle.
        """
        return await self._run(sink, self._watched, is_endless=not self.settings.until_idle)

    async def _run(
        self,
        sink: Sink,
        work: Callable[[Sink, Afterwards], Awaitable[_End]],
        *,
        is_endless: bool,
    ) -> RunCompleted:
        """Carry a run out, and what is to follow it; a signal ends an endless one well."""
        self.stop.is_welcome = is_endless
        async with afterwards(self.settings, sink, self.stop.asked) as after:
            try:
                final, has_downloaded = await work(sink, after)
            except LockedError as error:
                final, has_downloaded = self.stop.instead_of(error), False
            if self.stop.is_asked():
                final = replace(final, exit_code=self.stop.verdict(final.exit_code))
            await after.run_ended(final, has_downloaded=has_downloaded)
            sink(final)
            return final

    def _opened(
        self, command: str, sink: Sink, after: Afterwards
    ) -> AbstractAsyncContextManager[Run]:
        return opened(
            self.settings,
            sink,
            command=command,
            on_done=after.file_done,
            is_stopped=self.stop.is_asked,
        )

    async def _backfilled(self, sink: Sink, after: Afterwards) -> _End:
        async with self._opened("backfill", sink, after) as run:
            self._completed = run.completed
            sink(RunStarted("backfill", str(run.destination.root)))
            exit_code = await self._end_of(sink, _cleared(run, _backfill(run))) or _verdict(run)
            if exit_code in _SIGNALLED and after.hooks is None and await run.is_done():
                await _clear(run)  # it came after the last file, and cuts no command short
                exit_code = _verdict(run)
            return _End(run.completed(exit_code), run.account.files_downloaded > 0)

    async def _watched(self, sink: Sink, after: Afterwards) -> _End:
        from fetcher.runs.watch import Watch  # noqa: PLC0415 - 8 ms that no backfill need pay

        async with self._opened("watch", sink, after) as run:
            self._completed = run.completed
            sink(RunStarted("watch", str(run.destination.root)))
            watch = Watch(run)
            self.wake = watch.wake
            exit_code = await self._end_of(sink, _cleared(run, watch.serve())) or _verdict(run)
            return _End(run.completed(exit_code), run.account.files_downloaded > 0)

    async def run_plan(self, sink: Sink) -> RunCompleted:
        """Tell of what a backfill would do; return the final event."""
        from fetcher.runs.planning import planning  # noqa: PLC0415 - only a dry run needs it

        async with planning(self.settings, sink) as plan:
            sink(RunStarted("plan", str(plan.destination.root)))
            final = await plan.completed(await self._end_of(sink, plan.make()))
        sink(final)
        return final

    async def _end_of(self, sink: Sink, work: Awaitable[None]) -> int:
        """Carry the work out; return the exit status that its end calls for, 0 for a good one."""
        try:
            if not await until_stopped(work, self.stop):
                return self.stop.exit_code or STOPPED_BY_SIGINT
        except FetcherError as error:
            sink(Notice("ERROR", str(error)))
            return error.exit_code
        return 0


async def _cleared(run: Run, work: Awaitable[None]) -> None:
    """Carry the work out, and clear up behind it."""
    await work
    await _clear(run)


async def _clear(run: Run) -> None:
    """See that nothing stays in `partial/` where all is done (contract 5.2)."""
    if not _verdict(run):
        await asyncio.to_thread(run.parts.purge)


def _verdict(run: Run) -> int:
    """Return the exit status of a run that came to its end (contract 1)."""
    return 1 if run.account.counts[Class.FAILED] else 0


def _cancel_once(task: asyncio.Task[RunCompleted]) -> None:
    """Cancel a run; a second time would cut its orderly end short."""
    if not task.cancelling():
        task.cancel()


def _nothing_done(exit_code: int) -> RunCompleted:
    """Return the final event of a run that has not begun."""
    return RunCompleted(exit_code=exit_code)


def _nobody() -> None:
    """Wake nobody: no watch is running."""


async def _backfill(run: Run) -> None:
    """List everything while downloading; then download what is left of the queue.

    Where the API fails on the way, what was listed before is still fetched, and the error
    is raised afterwards. Raises KeyRefusedError at once, StorageError, ApiError.
    """
    failure: ApiError | None = None
    try:
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(run.downloads.serve_once())
            try:
                await run.list_all()
            except ApiError as error:
                failure = error
            run.downloads.close()
            await serving
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from None
    if failure is not None:
        raise failure
