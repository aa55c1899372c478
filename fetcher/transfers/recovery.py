"""What an earlier run fetched of a file: found, proven, and joined to what comes now.

Nothing of it is trusted before its journal has proven it, byte by byte, which takes as long as
reading it. The host is asked for what follows meanwhile: mostly the journal is right, and then
the answer is there when the proof is (eight parts of 10 MB: 45 ms of 1.2 s).
"""

from __future__ import annotations

import asyncio
import contextlib
from itertools import pairwise
from typing import TYPE_CHECKING

from fetcher.core.ranges import agree, resume
from fetcher.errors import FetcherError
from fetcher.threads import run
from fetcher.transfers.underway import Stretch

if TYPE_CHECKING:
    from fetcher.core.ranges import Want
    from fetcher.transfers.underway import Underway

# Until the proof has ended nobody reads what the host sends, and hosts do not wait for ever: a
# slow disk reads eight such parts in 20 s.
_MOST_AHEAD_BYTES = 64 << 20
_JOINED_AT_ONCE_BYTES = 8 << 20


class Recovery:
    """Finds what is here of one file, once; until `proven` returns, the file seems empty."""

    def __init__(self, file: Underway) -> None:
        self._file = file
        self._is_due = file.part_on_disk
        self._proof: asyncio.Task[None] | None = None

    async def claim(self) -> Want | None:
        """Begin the proof; return what may be asked for meanwhile, None where nothing may.

        That is what follows, if all that the journal says is right.
        """
        file, kit = self._file, self._file.kit
        if not self._is_due:
            return None
        self._is_due = False
        claim = await run(kit.threads, kit.parts.claim, file.key, _MOST_AHEAD_BYTES)
        self._proof = asyncio.create_task(_recover(file))
        want = None if claim is None else resume(claim)
        return want if want is not None and want.start else None

    async def proven(self) -> bool:
        """Return once the file's part and stretches are as far as they are proven.

        True where it was not known before. Raises StorageError, PlaceError.
        """
        proof, self._proof = self._proof, None
        if proof is not None:
            await proof
        return proof is not None

    async def call_off(self) -> None:
        """End the proof where it is."""
        proof, self._proof = self._proof, None
        if proof is not None:
            proof.cancel()
            with contextlib.suppress(asyncio.CancelledError, FetcherError):
                await proof


async def _recover(file: Underway) -> None:
    """Find the file's part and the stretches ahead of it."""
    kit = file.kit
    file.part = await run(kit.threads, kit.parts.recover, file.key)
    if file.part is None:
        return
    version = file.part.version
    for start, part in await run(kit.threads, kit.parts.recover_stretches, file.key):
        same = agree(part.version.validator, version.validator)
        if same and part.version.bytes_total == version.bytes_total:
            file.stretches.append(Stretch(start, version.bytes_total or start, part))
        else:
            part.close()
            await run(kit.threads, kit.parts.forget_stretch, file.key, start)
    file.stretches.sort(key=lambda one: one.start)
    for stretch, behind in pairwise(file.stretches):
        stretch.stop = behind.start


async def join(file: Underway) -> None:
    """Count in whatever stretches the file's part has reached, and forget those.

    A few megabytes at a time, since a stop waits for that. A stretch is forgotten once the
    part that holds it now is durable.
    """
    part = file.part
    while part is not None and file.stretches:
        stretch = file.stretches[0]
        if stretch.start > part.bytes_written:
            return
        while await run(file.kit.threads, part.count_in, stretch.at, _JOINED_AT_ONCE_BYTES):
            pass
        await run(file.kit.fsync_threads, part.sync)
        file.stretches.pop(0)
        stretch.part.close()
        await run(file.kit.threads, file.kit.parts.forget_stretch, file.key, stretch.start)
