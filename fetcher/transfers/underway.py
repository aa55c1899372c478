"""One file under way, over all its attempts, and what all transfers of a run share."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fetcher.core.proof import Span, settle
from fetcher.core.sniff import PEEK_BYTES
from fetcher.events import DownloadProgress, DownloadStarted
from fetcher.threads import run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

    from fetcher.core.account import Account
    from fetcher.core.filters import Rules
    from fetcher.core.proof import Announced, Digest, Digester
    from fetcher.events import Sink
    from fetcher.files.journal import Version
    from fetcher.files.parts import Part, Parts
    from fetcher.files.space import Space
    from fetcher.models import Entry
    from fetcher.network.gates import Limiter

PROGRESS_EVERY_S = 0.2
_MOST_SPANS = 16  # each is read again at the end; they hardly overlap


@dataclass(slots=True)
class Kit:
    """What every transfer of a run shares."""

    parts: Parts
    space: Space
    limiter: Limiter
    rules: Rules
    threads: Executor
    fsync_threads: Executor
    sink: Sink
    clock: Callable[[], float]
    account: Account
    note_partial: Callable[[Underway, int | None], Awaitable[None]]


@dataclass(slots=True)
class Stretch:
    """Bytes [start, stop) of a file, fetched over a line of their own; `part` proves them."""

    start: int
    stop: int
    part: Part

    @property
    def at(self) -> int:
        """Return the offset in the file up to which this stretch has come."""
        return self.start + self.part.bytes_written


@dataclass(slots=True)
class Underway:
    """One file under way. `stretches` lie ahead of `part`, in order.

    `ranges_work` turns false once the host answered a question for a stretch with something
    else, or with a longer pause than is waited for, or what was put together proved to be
    damaged. `dropped` is the version that was last given up. `spans` are those that a 206
    announced digests of and that were not held against them as they came, being cut or taken
    over by other lines: the finished file has to match them.
    """

    entry: Entry
    key: str
    kit: Kit
    part_on_disk: bool = False
    part: Part | None = None
    stretches: list[Stretch] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    content: bytes | None = None  # a small file, whole
    sha256: str = ""
    first_bytes: bytes = b""
    content_type: str = ""
    bytes_fetched: int = 0
    started: bool = False
    ranges_work: bool = True
    dropped: Version | None = None
    _told_at_s: float = 0.0
    _noted: bool = False

    @property
    def bytes_done(self) -> int:
        """Return how many bytes of the file are here."""
        if self.content is not None:
            return len(self.content)
        ahead = sum(stretch.part.bytes_written for stretch in self.stretches)
        return ahead + (self.part.bytes_written if self.part else 0)

    def announce_start(self, bytes_total: int | None) -> None:
        """Tell, once, that this file's download begins."""
        if self.started:
            return
        self.started = True
        self.kit.sink(
            DownloadStarted(
                id=self.entry.job.id,
                file_name=self.entry.job.file_name,
                variant=self.entry.variant,
                bytes_total=bytes_total,
                resumed_from=self.bytes_done,
            )
        )

    def fetched(self, count: int) -> None:
        """Count bytes that came over the network."""
        self.bytes_fetched += count
        self.kit.account.bytes_fetched += count

    def hear(self, said: Announced, start: int, end: int) -> Span | None:
        """Remember what a 206 with bytes [start, end) announced, however it ends.

        Returns the span that it announced digests of, None where it did not.
        """
        self._add_digests(said.whole)
        span = Span(start, end, said)
        if not span.algorithms:
            return None
        if len(self.spans) < _MOST_SPANS and not any(one.covers(span) for one in self.spans):
            self.spans.append(span)
        return span

    def settle(self, span: Span, digester: Digester) -> str | None:
        """Return why a span, whose bytes all passed through `digester`, is damaged, if it is."""
        if span in self.spans:
            self.spans.remove(span)
        damage, digests = settle(span.said, digester)
        if damage is None:
            self._add_digests(digests)
        return damage

    def _add_digests(self, digests: tuple[Digest, ...]) -> None:
        if self.part is None:
            return
        known = self.part.version
        new = tuple(one for one in digests if one not in known.digests)
        if new:
            self.part.version = replace(known, digests=known.digests + new)

    async def tell_progress(self, bytes_total: int | None) -> None:
        """Tell how far it is, a few times a second; the manifest learns once that it is partial.

        Not of a file that is here before there is more to tell: a transaction for each costs
        a tenth of fetching 2 MB.
        """
        now_s = self.kit.clock()
        if now_s - self._told_at_s < PROGRESS_EVERY_S:
            return
        if self._told_at_s and not self._noted:
            self._noted = True
            await self.kit.note_partial(self, bytes_total)
        self._told_at_s = now_s
        self.kit.sink(
            DownloadProgress(
                id=self.entry.job.id,
                file_name=self.entry.job.file_name,
                variant=self.entry.variant,
                bytes_done=self.bytes_done,
                bytes_total=bytes_total,
            )
        )

    def checkpoint(self) -> None:
        """Begin to make durable what has come and is not."""
        for part in (self.part, *(stretch.part for stretch in self.stretches)):
            if part is not None and part.unsynced_bytes:
                part.checkpoint(self.kit.fsync_threads)

    async def peek(self) -> None:
        """Read the first bytes of what is held."""
        if self.part is not None:
            self.first_bytes = await run(self.kit.threads, _first_bytes, self.part)

    def close(self) -> None:
        """Close what is open of it; all of it stays on disk."""
        for part in (self.part, *(stretch.part for stretch in self.stretches)):
            if part is not None:
                part.close()

    async def drop(self) -> None:
        """Remove what is here of it: it cannot be gone on with."""
        self.close()
        if self.part is not None:
            self.dropped = self.part.version
        self.part = None
        self.stretches = []
        self.spans = []
        self.content = None
        if self.part_on_disk:
            await run(self.kit.threads, self.kit.parts.discard, self.key)
            self.part_on_disk = False


def _first_bytes(part: Part) -> bytes:
    with part.path.open("rb") as file:
        return os.pread(file.fileno(), PEEK_BYTES, 0)
