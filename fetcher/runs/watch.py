"""`watch`: polls repeated until stopped, pending jobs followed live, trouble waited out.

A failing API is told of once and polled ever more slowly; a refused key likewise, so that
a rotated key heals it; a full disk pauses downloading until there is room again. Only a
damaged manifest, a destination that is no longer ours, or being asked to, ends a watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fetcher.core.account import Class
from fetcher.core.causes import first_cause
from fetcher.core.patience import Shortage
from fetcher.core.plan import TODO
from fetcher.errors import ApiError, KeyRefusedError, ManifestError, StorageError
from fetcher.events import Notice, QueueGrew
from fetcher.manifest.store import Store
from fetcher.runs.heartbeat import EVERY_S, Sign, Systemd, write_status
from fetcher.runs.live import Live
from fetcher.runs.polling import Poller
from fetcher.runs.schedule import Schedule
from fetcher.threads import is_cancelled

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    from fetcher.files.locks import Grip
    from fetcher.models import Job, JobId
    from fetcher.runs.run import Run

_GLANCE_S = 2.0  # between looks for what `retry` queued, and for streams to open again


class Watch:
    """One watch over one run."""

    def __init__(self, run: Run, *, environ: dict[str, str] | None = None) -> None:
        self._run = run
        self._poller = Poller(run)
        self._live = Live(run.api, run.sink, self._job_done, self._look_soon, time.monotonic)
        self._systemd = Systemd(os.environ if environ is None else environ)
        self._schedule = Schedule(run)
        self._wake = asyncio.Event()
        self._obeys_at_s = 0.0  # when a stream may ask for a poll again, monotonic
        self._shortage = Shortage()
        self._waiting: list[Job] = []

    def wake(self) -> None:
        """Poll now, even where the API asked to be left alone: somebody wants to know."""
        self._run.api.release()
        self._wake.set()

    def _look_soon(self) -> None:
        """Poll now, for a stream; or when it is due, where the API asked to be left alone.

        Or where another stream was obeyed just now: of hundreds, each may ask.
        """
        now_s = time.monotonic()
        if not self._run.api.held_s and now_s >= self._obeys_at_s:
            self._obeys_at_s = now_s + self._run.settings.interval / 2
            self._wake.set()

    async def serve(self) -> None:
        """Watch until cancelled, or until idle where that was asked for.

        Raises ManifestError, and StorageError where the destination was replaced; with
        `--until-idle` also KeyRefusedError, ApiError and any StorageError.
        """
        self._systemd.tell("READY=1", "STATUS=watching")
        helpers: list[Coroutine[None, None, None]] = [
            self._download(),
            self._glance(),
            self._beat(),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(helper) for helper in helpers]
                await self._poll_on()
                self._run.downloads.close()
                await tasks[0]
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from None
        finally:
            self._systemd.tell("STOPPING=1")
            await self._live.close()
            await write_status(self._run.destination.own_state, self._sign())

    # ---- polling ----

    async def _poll_on(self) -> None:
        until_idle = self._run.settings.until_idle
        while True:
            self._wake.clear()
            await self._poll_once()
            if until_idle and await self._is_idle():
                return
            await self._rest(self._schedule.pause_s(pending=len(self._waiting)))

    async def _poll_once(self) -> None:
        schedule = self._schedule
        self._run.history.is_quiet = schedule.is_down
        try:
            news = await self._look()
        except ManifestError:
            raise
        except (KeyRefusedError, ApiError, StorageError) as error:
            schedule.failed(error)
        else:
            schedule.went_well(is_eventful=news or bool(self._waiting))
            self._live.trust()
        await self._refresh_waiting()

    async def _look(self) -> bool:
        """Look at the history, all of it where that is due; return whether that brought news.

        What earlier runs left is queued at the first look: after a full pass, which tells
        what of it is still listed, or where the API fails.
        """
        run, is_first = self._run, not self._schedule.polled_once
        if not await self._schedule.is_full_pass_due():
            if is_first:
                await run.requeue()
            return await self._poller.poll() > 0
        try:
            await self._poller.learn(await run.list_all())
        except (KeyRefusedError, ApiError):
            if is_first:
                await run.requeue()
            raise
        self._schedule.passed()
        return True

    async def _rest(self, pause_s: float) -> None:
        """Wait for the next poll's time, a wake-up, or the end that was asked for.

        The time comes no sooner than the API has said, to a stream as well.
        """
        until_idle = self._run.settings.until_idle
        ends_at_s = time.monotonic() + pause_s
        while not self._wake.is_set():
            left_s = max(ends_at_s - time.monotonic(), self._run.api.held_s)
            if left_s <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, _GLANCE_S)):
                    await self._wake.wait()
            if until_idle and await self._is_idle():
                return

    async def _is_idle(self) -> bool:
        """Return whether no job is pending and nothing is left to download.

        What an outage made fail is left to download until it was taken up again.
        """
        if self._schedule.is_down or not self._schedule.polled_once:
            return False
        await self._refresh_waiting()
        is_over = not self._waiting and not self._schedule.owes_full_pass()
        return is_over and self._run.downloads.is_idle

    # ---- pending jobs ----

    async def _refresh_waiting(self) -> None:
        run = self._run
        try:
            waiting = await run.manifest.do(Store.waiting)
        except ManifestError:
            raise
        except StorageError:
            return  # the next poll tells of it
        gone = self._poller.gone
        self._waiting = [
            job for job in waiting if job.id not in gone and run.rules.refuse(job) is None
        ]
        if run.settings.live and not self._schedule.is_down:
            self._live.follow(self._waiting)

    async def _job_done(self, job_id: JobId, url: str) -> None:
        """Queue a job whose stream said done."""
        run = self._run
        intake = run.intake(run.run_base)
        listed = await run.manifest.do(Store.announce_done, job_id, url, intake)
        if listed is not None and listed.after in TODO:
            run.account.listed(listed.seq, listed.before, listed.after)
            run.sink(QueueGrew(1))
            run.downloads.wake()

    # ---- beside the polls ----

    async def _download(self) -> None:
        """Keep the downloads going; a disk that is full pauses them."""
        while True:
            try:
                await self._run.downloads.serve()
            except (BaseExceptionGroup, StorageError) as errors:
                cause = first_cause(errors)
                if not isinstance(cause, StorageError) or isinstance(cause, ManifestError):
                    raise
                if is_cancelled():  # the error of the last files hides that
                    raise asyncio.CancelledError from None
                if self._run.settings.until_idle:
                    raise cause from None
                await self._wait_for_room(cause)
            else:
                return

    async def _wait_for_room(self, error: StorageError) -> None:
        run = self._run
        if (told := self._shortage.note(error, run.account.bytes_stored)) is not None:
            run.sink(Notice("ERROR", told))
        while True:
            await asyncio.sleep(self._shortage.pause_s(run.settings.interval))
            with contextlib.suppress(StorageError):
                await asyncio.to_thread(run.destination.renew_parts)
                await asyncio.to_thread(run.space.check)
                return

    async def _glance(self) -> None:
        """Notice what `retry` queued, that there is room again, that a stream may open again."""
        run = self._run
        newest = await run.manifest.do(Store.sync_tickets)
        while True:
            await asyncio.sleep(_GLANCE_S)
            if (told := self._shortage.end(run.account.bytes_stored)) is not None:
                run.sink(Notice("INFO", told))
            with contextlib.suppress(StorageError):
                ticket = await run.manifest.do(Store.sync_tickets)
                if ticket != newest:
                    newest = ticket
                    run.downloads.wake()
                if run.settings.live and self._schedule.polled_once:
                    await self._refresh_waiting()

    async def _beat(self) -> None:
        """See that the destination is still ours, write the status file, pet systemd's watchdog.

        Raises StorageError where at two beats in a row it is not: at one, it may be moving.
        """
        every_s = min(EVERY_S, (self._systemd.watchdog_s or EVERY_S) / 2)
        grips = await asyncio.to_thread(self._run.destination.grips)
        lost_before: Path | None = None
        while True:
            lost = await asyncio.to_thread(_lost, grips)
            if lost is not None and lost == lost_before:
                raise StorageError(
                    f"{lost} is gone or was replaced while it was in use, so that others may "
                    f"write to {self._run.destination.root} as well. See that this is the folder "
                    "you mean, and start again."
                )
            lost_before = lost
            await write_status(self._run.destination.own_state, self._sign())
            self._systemd.tell("WATCHDOG=1", f"STATUS={self._state()}")
            await asyncio.sleep(every_s)

    def _sign(self) -> Sign:
        return Sign(
            time=datetime.now(UTC).isoformat(),
            pid=os.getpid(),
            last_poll_at=self._schedule.last_poll_at,
            pending=len(self._waiting),
            queue=self._run.account.counts[Class.TODO],
            last_error=self._trouble,
        )

    @property
    def _trouble(self) -> str | None:
        error = self._schedule.error or self._shortage.error
        return None if error is None else str(error)

    def _state(self) -> str:
        if self._trouble is not None:
            return f"trouble: {self._trouble}"[:200]
        return f"{len(self._waiting)} pending, {self._run.account.counts[Class.TODO]} to download"


def _lost(grips: Sequence[Grip]) -> Path | None:
    """Return a file that a grip has lost, None where all hold."""
    return next((lost for grip in grips if (lost := grip.lost()) is not None), None)
