"""`--write-record`: the record of a job as JSON beside its file.

Owns what stands in it and how it gets there: whole or not at all, never over anything but
an older record of the same job. Trouble with it is a line in the log, never the job's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from typing import TYPE_CHECKING, Any

import aiofiles
import aiofiles.os

from fetcher.errors import FetcherError, bare_url
from fetcher.events import Notice
from fetcher.files.parts import part_key
from fetcher.files.places import TakenError
from fetcher.layout import companion
from fetcher.values import show_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fetcher.events import Sink
    from fetcher.files.places import Places
    from fetcher.finish import Done
    from fetcher.models import Job

SUFFIX = ".json"
_LARGEST_BYTES = 1 << 20  # no record is larger; what is, is something else


def record_of(job: Job) -> dict[str, Any]:
    """Return the record under the API's names, its links without their signatures."""
    return {
        "id": job.id,
        "user_id": job.user_id,
        "transaction_id": job.transaction_id,
        "audio_url": _link(job.audio_url),
        "original_audio_url": _link(job.original_audio_url),
        "file_name": job.file_name,
        "audio_duration": job.audio_duration_s,
        "audio_size": job.audio_size_bytes,
        "audio_format": job.audio_format,
        "source_type": job.source_type,
        "status": str(job.status),
        "error": job.error,
        "created_at": show_time(job.created_at) or None,
        "updated_at": show_time(job.updated_at) or None,
    }


class Companions:
    """Writes records into `places`; `folder` is where they stand until they are whole.

    `folder` is on the file system of DIR, and what is left there by a crash is removed by
    whoever owns it.
    """

    def __init__(self, places: Places, folder: Path, sink: Sink) -> None:
        self._places = places
        self._folder = folder
        self._sink = sink

    async def write(self, group: Sequence[Done]) -> None:
        """Write the records of files that are in place; all are done when this returns."""
        async with asyncio.TaskGroup() as tasks:
            for done in group:
                tasks.create_task(self._write(done))

    async def _write(self, done: Done) -> None:
        job, path = done.entry.job, companion(done.path, SUFFIX)
        fresh = self._folder / f"{part_key(job.id, done.entry.variant)}{SUFFIX}"
        try:
            await self._write_over(fresh, path, job)
        except (OSError, FetcherError) as error:
            why = error.strerror or error if isinstance(error, OSError) else error
            self._sink(Notice("WARNING", f"the record {path} was not written: {why}"))

    async def _write_over(self, fresh: Path, path: str, job: Job) -> None:
        body = _encoded(record_of(job))
        try:
            async with aiofiles.open(fresh, "wb") as file:
                await file.write(body)
            await asyncio.to_thread(self._put, fresh, path, job, body)
        except BaseException:
            with contextlib.suppress(OSError):
                await aiofiles.os.remove(fresh)
            raise

    def _put(self, fresh: Path, path: str, job: Job, body: bytes) -> None:
        """Make the finished record durable and rename it into place.

        Raises FetcherError, OSError.
        """
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        try:
            folder_fd, _ = self._places.put(fresh, path)
        except TakenError:
            there = self._record_at(path, job)
            if there is None:
                raise
            if there == body:
                fresh.unlink()
                return
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
            said = json.loads(content)
        except (OSError, ValueError, RecursionError):
            return None
        return content if isinstance(said, dict) and said.get("id") == job.id else None


def _link(url: str | None) -> str | None:
    return None if url is None else bare_url(url)


def _encoded(record: dict[str, Any]) -> bytes:
    """Return readable JSON in UTF-8; escaped throughout where that cannot hold the text."""
    try:
        text = json.dumps(record, ensure_ascii=False, indent=2)
        return f"{text}\n".encode()
    except UnicodeEncodeError:
        return f"{json.dumps(record, indent=2)}\n".encode()
