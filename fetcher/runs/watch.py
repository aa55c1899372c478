"""`watch`: polls repeated until stopped, pending jobs followed live, trouble waited out.

A failing API is told of once and polled ever more slowly; a refused key likewise, so that
a rotated key heals it; a full disk pauses downloading until there is room again. Only a
damaged manifest, a destination that is no longer ours, or being asked to, ends a watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fetcher.core.account import Class
from fetcher.core.causes import first_cause
from fetcher.core.patience import Outage, Relook, Shortage
from fetcher.core.plan import TODO
from fetcher.core.retry import Bounds, Pace, next_poll_s
from fetcher.errors import ApiError, KeyRefusedError, ManifestError, StorageError
from fetcher.events import Notice, QueueGrew
from fetcher.manifest.store import Store
from fetcher.runs.heartbeat import EVERY_S, Sign, Systemd, write_status
from fetcher.runs.live import Live
from fetcher.runs.polling import Poller
from fetcher.threads import is_cancelled

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    from fetcher.errors import FetcherError
    from fetcher.files.locks import Grip
    from fetcher.models import Job, JobId
    from fetcher.runs.run import Run

_OUTAGE_PAUSE_S = 600.0  # between polls that fail, at most, and no more than
_OUTAGE_INTERVALS = 20  # so many intervals: whoever polls often wants to hear soon
_REFUSED_PAUSE_S = 300.0  # a refused key is tried again so slowly
_OUTAGE_UNTIL_IDLE_S = 900.0  # `--until-idle` waits out an outage of so long
_GLANCE_S = 2.0  # between looks for what `retry` queued, and for streams to open again


class Watch:
    """One watch over one run."""

    def __init__(self, run: Run, *, environ: dict[str, str] | None = None) -> None:
        self._run = run
        self._poller = Poller(run)
        self._live = Live(run.api, run.sink, self._job_done, self._look_soon, time.monotonic)
        self._systemd = Systemd(os.environ if environ is None else environ)
        self._rng = random.Random()  # noqa: S311 - jitter, not secrets
        self._wake = asyncio.Event()
        self._obeys_at_s = 0.0  # when a stream may ask for a poll again, monotonic
        self._polled_once = False
        self._knows_wishes = False  # the whole history was taken in by the rules of this run
        self._outage = Outage()
        self._relook = Relook(run.settings.interval, run.settings.full_every)
        self._shortage = Shortage()
        self._idle_polls = 0
        self._waiting: list[Job] = []
        self._last_poll_at: str | None = None

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
            await self._rest(self._pause_s())

    async def _poll_once(self) -> None:
        self._run.history.is_quiet = self._outage.failures > 0
        try:
            news = await self._look()
        except ManifestError:
            raise
        except (KeyRefusedError, ApiError, StorageError) as error:
            self._note_failure(error)
        else:
            self._note_success(news=news)
        await self._refresh_waiting()

    async def _look(self) -> bool:
        """Look at the history, all of it where that is due; return whether that brought news.

        What earlier runs left is queued at the first look: after a full pass, which tells
        what of it is still listed, or where the API fails.
        """
        run, is_first = self._run, not self._polled_once
        if not await self._is_full_pass_due():
            if is_first:
                await run.requeue()
            return await self._poller.poll() > 0
        try:
            await self._poller.learn(await run.list_all())
        except (KeyRefusedError, ApiError):
            if is_first:
                await run.requeue()
            raise
        self._relook.passed(time.monotonic())
        self._knows_wishes = True
        return True

    async def _is_full_pass_due(self) -> bool:
        manifest, run = self._run.manifest, self._run
        if await manifest.do(Store.get, "listing_open") != "0":
            return True
        if not self._knows_wishes and await manifest.do(Store.get, "rules") != run.wishes:
            return True
        last_at = _instant(await manifest.do(Store.get, "last_full_at"))
        if last_at is None or self._are_failed_due():
            return True
        age = datetime.now(UTC) - last_at
        # A clock that was set back must not put the next full pass off for ever.
        return not timedelta() <= age < timedelta(seconds=run.settings.full_every)

    def _are_failed_due(self) -> bool:
        """Return whether files that were given up are to be taken up again, which needs the API."""
        self._count_failed()
        return not self._outage.failures and self._relook.is_due(time.monotonic())

    def _count_failed(self) -> None:
        counts = self._run.account.counts
        self._relook.note(counts[Class.FAILED], counts[Class.TODO], time.monotonic())

    def _note_success(self, *, news: bool) -> None:
        if (told := self._outage.end()) is not None:
            self._relook.answered()
            self._run.sink(Notice("INFO", told))
        self._live.trust()
        self._polled_once = True
        self._last_poll_at = datetime.now(UTC).isoformat()
        self._idle_polls = 0 if news or self._waiting else self._idle_polls + 1

    def _note_failure(self, error: FetcherError) -> None:
        """Bear a failed poll; raise its error where a run that ends by itself should end."""
        now_s = time.monotonic()
        if (told := self._outage.note(error, now_s)) is not None:
            self._run.sink(Notice("ERROR", told))
        is_passing = isinstance(error, ApiError) and self._polled_once
        is_long = now_s - self._outage.since_s > _OUTAGE_UNTIL_IDLE_S
        if self._run.settings.until_idle and (is_long or not is_passing):
            raise error

    def _pause_s(self) -> float:
        pace = Pace(len(self._waiting), self._idle_polls, self._outage.failures)
        interval_s = self._run.settings.interval
        bounds = Bounds(outage_cap_s=min(_OUTAGE_PAUSE_S, interval_s * _OUTAGE_INTERVALS))
        pause_s = next_poll_s(interval_s, pace, rng=self._rng, bounds=bounds)
        if self._outage.is_refused:
            return max(pause_s, min(_REFUSED_PAUSE_S, interval_s * 10))
        return pause_s

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
        if self._outage.failures or not self._polled_once:
            return False
        await self._refresh_waiting()
        self._count_failed()
        is_over = not self._waiting and not self._relook.is_owed
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
        if run.settings.live and not self._outage.failures:
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
                if run.settings.live and self._polled_once:
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
            last_poll_at=self._last_poll_at,
            pending=len(self._waiting),
            queue=self._run.account.counts[Class.TODO],
            last_error=self._trouble,
        )

    @property
    def _trouble(self) -> str | None:
        error = self._outage.error or self._shortage.error
        return None if error is None else str(error)

    def _state(self) -> str:
        if self._trouble is not None:
            return f"trouble: {self._trouble}"[:200]
        return f"{len(self._waiting)} pending, {self._run.account.counts[Class.TODO]} to download"


def _lost(grips: Sequence[Grip]) -> Path | None:
    """Return a file that a grip has lost, None where all hold."""
    return next((lost for grip in grips if (lost := grip.lost()) is not None), None)


def _instant(text: str | None) -> datetime | None:
    """Return the aware time that was recorded, None where there is none to be read."""
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return at if at.tzinfo is not None else None
