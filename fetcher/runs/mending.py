"""`verify --repair`: files that are not whole are fetched again.

Queues their rows anew in the manifest, with fresh links, and lets the ordinary pipeline
fetch them. What stands at a path is replaced in one step once its successor is proven,
never before; a crash on the way leaves queued files, which the next `backfill` fetches.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fetcher.core.causes import first_cause
from fetcher.errors import ApiError
from fetcher.events import DownloadAdopted, DownloadFailed, QueueGrew
from fetcher.manifest.store import Store
from fetcher.models import Status, Variant
from fetcher.transfers.links import Links

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fetcher.events import Event, Sink
    from fetcher.models import Job
    from fetcher.runs.run import Run

_MANY = 50  # from here on a pass over the history costs less than a request for each link
_GONE = "the service has no audio of this job any more"


@dataclass(slots=True)
class Mending:
    """What is to be mended in one run, and what has been. Without a `run` it does nothing.

    `mended` holds rows of the manifest, once `settle` was called; `adopted` counts files
    that turned out to be whole after all.
    """

    sink: Sink
    run: Run | None = None
    mended: set[int] = field(default_factory=set)
    adopted: int = 0
    bytes_stored: int = 0
    bytes_fetched: int = 0
    _reopened: set[int] = field(default_factory=set)

    def note(self, event: Event) -> None:
        """Hand an event of the run on."""
        self.adopted += isinstance(event, DownloadAdopted)
        self.sink(event)

    async def mend(self, rows: Collection[int]) -> None:
        """Fetch the files of these rows again.

        Where the API fails on the way, what was queued before is still fetched, and the
        error is raised afterwards. Raises KeyRefusedError at once, StorageError, ApiError.
        """
        if self.run is None or not rows:
            return
        failure: ApiError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(self.run.downloads.serve_once())
                try:
                    await self._reopen_all(self.run, set(rows))
                except ApiError as error:
                    failure = error
                self.run.downloads.close()
                await serving
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from None
        if failure is not None:
            raise failure

    async def settle(self) -> None:
        """Learn which files are whole again, however the mending ended."""
        if self.run is not None:
            self.mended = self._reopened - await self.run.manifest.do(Store.unfinished)
            self.bytes_stored = self.run.account.bytes_stored
            self.bytes_fetched = self.run.account.bytes_fetched

    async def _reopen_all(self, run: Run, gone: set[int]) -> None:
        """Queue what the service still has; tell of what it has not."""
        if len(gone) > _MANY:
            async with aclosing(run.history.pages(may_be_empty=True)) as pages:
                async for page in pages:
                    await self._reopen(run, page.jobs, gone)
                    if not gone:
                        return
        else:
            await self._reopen_each(run, gone)
        for entry in await run.manifest.do(Store.pick, sorted(gone)):
            self.sink(
                DownloadFailed(
                    id=entry.job.id,
                    file_name=entry.job.file_name,
                    variant=entry.variant,
                    reason=_GONE,
                    attempts=0,
                )
            )

    async def _reopen_each(self, run: Run, gone: set[int]) -> None:
        links = Links(run.api, run.history, run.manifest)
        for entry in await run.manifest.do(Store.pick, sorted(gone)):
            url = await links.relink(entry, ())
            if url is not None:
                is_original = entry.variant is Variant.ORIGINAL
                job = entry.job._replace(
                    status=Status.SUCCESS,
                    audio_url=None if is_original else url,
                    original_audio_url=url if is_original else None,
                )
                await self._reopen(run, [job], gone)

    async def _reopen(self, run: Run, jobs: Sequence[Job], gone: set[int]) -> None:
        reopened = await run.manifest.do(Store.reopen, jobs, frozenset(gone))
        gone.difference_update(reopened)
        self._reopened.update(reopened)
        if reopened:
            self.sink(QueueGrew(len(reopened)))
            run.downloads.wake()
