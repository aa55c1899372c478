"""A fresh link in place of one that a file host refused (signed links expire)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.errors import KeyRefusedError, TransferError
from fetcher.manifest.store import Store
from fetcher.models import Variant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from fetcher.manifest.manifest import Manifest
    from fetcher.models import Entry, JobId
    from fetcher.runs.history import History

    class Replays(Protocol):
        """Whoever can replay a finished job's last event."""

        async def fresh_url(self, job_id: JobId) -> str | None:
            """Return the link in it; raises FetcherError."""
            ...


class Links:
    """Where fresh links come from: the event stream's replay first, then the list."""

    def __init__(self, api: Replays, history: History, manifest: Manifest) -> None:
        self._api = api
        self._history = history
        self._manifest = manifest

    async def relink(self, entry: Entry, refused: Sequence[str]) -> str | None:
        """Return a link other than the refused ones, None where the service has none.

        The list alone is asked where a second link, which the replay gave, was refused as
        well. Raises KeyRefusedError, ApiError.
        """
        sources = (self._from_replay, self._from_list)
        for source in sources if len(refused) == 1 else sources[1:]:
            url = await source(entry)
            if url is not None and url not in refused:
                await self._manifest.do(Store.set_url, entry.seq, entry.variant, url)
                return url
        return None

    async def _from_replay(self, entry: Entry) -> str | None:
        if entry.variant is not Variant.DENOISED:
            return None
        try:
            return await self._api.fresh_url(entry.job.id)
        except (KeyRefusedError, TransferError):
            return None  # the list may still know, or refuse the key as well

    async def _from_list(self, entry: Entry) -> str | None:
        created_at = entry.job.created_at
        if created_at is None:
            return None
        rank = await self._manifest.do(Store.count_newer, created_at)
        found = await self._history.find(entry.job.id, created_at, rank)
        return None if found is None else found.url(entry.variant)
