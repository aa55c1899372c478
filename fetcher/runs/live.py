"""Pending jobs followed live over their event streams: a bounded number, oldest first.

What a stream says is knowledge and never a duty: one that fails, ends early, never speaks
or is none at all costs a pause before it is opened again, and polling still delivers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fetcher.core.sse import Done, Errored, Processing
from fetcher.core.wire import usable_url
from fetcher.errors import FetcherError, KeyRefusedError
from fetcher.events import JobProgress, JobSettled
from fetcher.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Protocol

    from fetcher.core.sse import Progress
    from fetcher.events import Sink
    from fetcher.models import Job, JobId

    class Streams(Protocol):
        """Whoever can open the event stream of a job."""

        def progress(
            self, job_id: JobId, *, gap_s: float
        ) -> AbstractAsyncContextManager[AsyncIterator[Progress]]:
            """Give its events; raises FetcherError."""
            ...


MOST_STREAMS = 8
_SILENCE_S = 16 * 60.0  # the service itself closes a stream after 15 silent minutes
_TURN_S = 300.0  # a stream gives way after so long when others wait
_MISTRUST_S = 60.0  # hundreds of jobs would ask an API that refuses four times a second
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 600.0


@dataclass(slots=True)
class _Stream:
    """One open stream."""

    job: Job
    began_at_s: float
    has_spoken: bool = False
    gave_way: bool = False
    task: asyncio.Task[None] | None = None


@frozen
class _Pause:
    """How long a job is left alone after its stream ended, and until when."""

    pause_s: float
    ends_at_s: float


@dataclass(slots=True)
class Live:
    """Follows jobs. `on_done` gets the job and its link; `on_end` is called when one ended.

    `clock`: monotonic seconds.
    """

    api: Streams
    sink: Sink
    on_done: Callable[[JobId, str], Awaitable[None]]
    on_end: Callable[[], None]
    clock: Callable[[], float]
    _streams: dict[JobId, _Stream] = field(default_factory=dict)
    _pauses: dict[JobId, _Pause] = field(default_factory=dict)
    _failed: set[JobId] = field(default_factory=set)  # whose streams did since a poll went well
    _opens_at_s: float = 0.0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def follow(self, waiting: Sequence[Job]) -> None:
        """Follow the first of these pending jobs that can be; drop those no longer pending.

        Jobs that were not followed yet come first, then those that wait longest.
        """
        names = {job.id for job in waiting}
        for job_id in [one for one in self._streams if one not in names]:
            self._hang_up(self._streams[job_id])
        now_s = self.clock()
        for job_id in [one for one in self._pauses if one not in names]:
            # One that was done, and whose file was not there after all, is pending again.
            if now_s > self._pauses[job_id].ends_at_s + _LONGEST_PAUSE_S:
                del self._pauses[job_id]
        free = [job for job in waiting if job.id not in self._streams]
        for job in sorted(free, key=self._free_at_s):
            if self._free_at_s(job) > now_s or not self._has_room(now_s):
                return
            self._open(job, now_s)

    def trust(self) -> None:
        """Take note that the API is well, as a poll has shown: streams may open again."""
        self._failed.clear()
        self._opens_at_s = 0.0

    async def close(self) -> None:
        """Close every stream."""
        for stream in list(self._streams.values()):
            self._hang_up(stream)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _free_at_s(self, job: Job) -> float:
        pause = self._pauses.get(job.id)
        return 0.0 if pause is None else pause.ends_at_s

    def _has_room(self, now_s: float) -> bool:
        """Return whether one more stream may open; the one that had its turn gives way."""
        if now_s < self._opens_at_s:
            return False
        if len(self._streams) < MOST_STREAMS:
            return True
        first = min(self._streams.values(), key=lambda stream: stream.began_at_s)
        if now_s - first.began_at_s < _TURN_S:
            return False
        first.gave_way = True
        self._hang_up(first)
        return True

    def _open(self, job: Job, now_s: float) -> None:
        stream = self._streams[job.id] = _Stream(job, now_s)
        stream.task = asyncio.create_task(self._follow(stream))
        self._tasks.add(stream.task)
        stream.task.add_done_callback(self._tasks.discard)

    def _hang_up(self, stream: _Stream) -> None:
        del self._streams[stream.job.id]
        if stream.task is not None:
            stream.task.cancel()

    async def _follow(self, stream: _Stream) -> None:
        job = stream.job
        try:
            await self._listen(stream)
        except FetcherError as error:
            self._note_failure(job.id, error)
        finally:
            self._note_end(stream)
            self.sink(JobSettled(id=job.id, file_name=job.file_name))

    def _note_failure(self, job_id: JobId, error: FetcherError) -> None:
        """Open none for a while where it is not this job's matter: the next poll tells more.

        So it is where the key was refused, and where as many jobs' streams failed as may be open.
        """
        self._failed.add(job_id)
        if isinstance(error, KeyRefusedError) or len(self._failed) >= MOST_STREAMS:
            self._failed.clear()
            self._opens_at_s = self.clock() + _MISTRUST_S

    def _note_end(self, stream: _Stream) -> None:
        """Set the pause: short after a stream that was worth it, longer and longer otherwise."""
        job_id, now_s = stream.job.id, self.clock()
        if self._streams.get(job_id) is stream:
            del self._streams[job_id]
        before = self._pauses.get(job_id)
        pause_s = _FIRST_PAUSE_S
        if before is not None:
            outlasted = stream.has_spoken and now_s - stream.began_at_s > before.pause_s
            if not outlasted and not stream.gave_way:
                pause_s = min(before.pause_s * 2, _LONGEST_PAUSE_S)
        self._pauses[job_id] = _Pause(pause_s, now_s + pause_s)

    async def _listen(self, stream: _Stream) -> None:
        job = stream.job
        async with self.api.progress(job.id, gap_s=_SILENCE_S) as stages:
            async for stage in stages:
                match stage:
                    case Processing(pct=pct, message=message) if pct is not None:
                        stream.has_spoken = True
                        self.sink(
                            JobProgress(
                                id=job.id, file_name=job.file_name, pct=pct, message=message
                            )
                        )
                    case Done() if (url := _link(stage, job.id)) is not None:
                        await self.on_done(job.id, url)
                        return
                    case Done() | Errored():
                        self.on_end()  # the list knows more
                        return
                    case _:
                        pass


def _link(done: Done, job_id: JobId) -> str | None:
    """Return the link of a `done`, None where it is unusable or another job's."""
    is_ours = done.denoise_id is None or done.denoise_id.casefold() == job_id.casefold()
    return usable_url(done.url) if is_ours else None
