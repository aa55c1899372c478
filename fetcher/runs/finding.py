"""What lies on disk of the files of a batch, so that no file is taken for two jobs'."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fetcher.core.names import path_key
from fetcher.manifest.store import Store
from fetcher.threads import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from fetcher.core.plan import Local
    from fetcher.manifest.manifest import Manifest
    from fetcher.models import Entry
    from fetcher.runs.look import Eye


async def find(
    entries: Sequence[Entry], *, eye: Eye, manifest: Manifest, threads: Executor
) -> list[Local]:
    """Return what is on disk for each of these files, and claim the paths that were found.

    Raises ManifestError, StorageError.
    """
    found = await run(threads, eye.look_all, entries)
    ids = {
        entry.job.id
        for entry, local in zip(entries, found, strict=True)
        if local.found not in {None, entry.path}
    }
    if ids:
        rows = await manifest.do(Store.namesakes, ids)
        found = await run(threads, eye.look_again, entries, found, rows)
    return await _claimed(entries, found, manifest)


async def _claimed(entries: Sequence[Entry], found: list[Local], manifest: Manifest) -> list[Local]:
    """Return what was found, but for files that are other jobs'.

    In the order of the queue: of two jobs that may have a path, the first one has it,
    as when they were fetched.
    """
    wanted = [
        (entry.seq, [(local.found, path_key(local.found))])
        for entry, local in zip(entries, found, strict=True)
        if local.found is not None
    ]
    if not wanted:
        return found
    paths = iter(await manifest.do(Store.claim, wanted))
    return [
        local if local.found is None or next(paths) else replace(local, found=None)
        for local in found
    ]
