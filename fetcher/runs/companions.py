"""`--write-record`: the record of a job as JSON beside its file.

Owns how it gets there: whole or not at all, never over anything but an older record of the
same job, which is told from other files by how it is written and by its fields. What stands in
it is `records`'s. Trouble with it is a line in the log, never the job's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from typing import TYPE_CHECKING

import aiofiles
import aiofiles.os

from fetcher.core.layout import companion
from fetcher.errors import FetcherError
from fetcher.events import Notice
from fetcher.files.parts import open_anew, part_key
from fetcher.files.places import TakenError
from fetcher.frozen import frozen
from fetcher.runs.records import brought_up, encoded, is_record, may_succeed, record_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from fetcher.events import Sink
    from fetcher.files.places import Places
    from fetcher.models import Job, JobId
    from fetcher.runs.desk import Done

    Sent = Callable[[Sequence[JobId]], Awaitable[Mapping[JobId, bytes]]]

SUFFIX = ".json"
_LARGEST_BYTES = 1 << 20  # no record is larger; what is, is something else


@frozen
class _Text:
    """A record as it is written; `is_sent`: as the API sent it, not put together by us."""

    job: Job
    body: bytes
    is_sent: bool


class Companions:
    """Writes records into `places`; `folder` is where they stand until they are whole.

    `folder` is on the file system of DIR, and what is left there by a crash is removed by
    whoever owns it. `sent` returns the records of these jobs as the API sent them, as far
    as they are known.
    """

    def __init__(self, places: Places, folder: Path, sink: Sink, sent: Sent) -> None:
        self._places = places
        self._folder = folder
        self._sink = sink
        self._sent = sent

    async def write(self, group: Sequence[Done]) -> None:
        """Write the records of files that are in place; all are done when this returns."""
        sent = await self._sent([done.entry.job.id for done in group])
        async with asyncio.TaskGroup() as tasks:
            for done in group:
                tasks.create_task(self._write(done, sent.get(done.entry.job.id)))

    async def _write(self, done: Done, sent: bytes | None) -> None:
        job, path = done.entry.job, companion(done.path, SUFFIX)
        fresh = self._folder / f"{part_key(job.id, done.entry.variant)}{SUFFIX}"
        try:
            await self._write_over(fresh, path, _text(job, sent))
        except (OSError, FetcherError) as error:
            why = error.strerror or error if isinstance(error, OSError) else error
            self._sink(Notice("WARNING", f"the record {path} was not written: {why}"))

    async def _write_over(self, fresh: Path, path: str, text: _Text) -> None:
        try:
            async with aiofiles.open(fresh, "wb", opener=open_anew) as file:
                await file.write(text.body)
            await asyncio.to_thread(self._put, fresh, path, text)
        except BaseException:
            with contextlib.suppress(OSError):
                await aiofiles.os.remove(fresh)
            raise

    def _put(self, fresh: Path, path: str, text: _Text) -> None:
        """Make the finished record durable and rename it into place.

        One that is put together replaces none: what stands there knows more. Raises
        FetcherError, OSError.
        """
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        try:
            folder_fd, _ = self._places.put(fresh, path)
        except TakenError:
            there = self._record_at(path, text.job)
            if there is None:
                raise
            if there == text.body or not text.is_sent:
                fresh.unlink()
                return
            if not may_succeed(text.body, there):
                raise
            folder_fd, _ = self._places.put(fresh, path, over_file=True)
        try:
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)

    def _record_at(self, path: str, job: Job) -> bytes | None:
        """Return what stands there if it is a record of this very job, None otherwise."""
        found = self._places.find(path)
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_BYTES:
            return None
        if not self._places.contains(path):
            return None
        try:
            fd = os.open(self._places.root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(fd, "rb") as file:  # noqa: PTH123 - takes the descriptor over
                content = file.read(_LARGEST_BYTES)
            return content if is_record(content, job.id) else None
        except (OSError, ValueError, RecursionError):
            return None


def _text(job: Job, sent: bytes | None) -> _Text:
    if sent is None:
        return _Text(job, encoded(record_of(job)), is_sent=False)
    return _Text(job, brought_up(sent, job), is_sent=True)
