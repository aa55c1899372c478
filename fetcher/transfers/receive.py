"""One answer of a file host, from its judged head to bytes that are proven.

Owns the way of a body: peeked at before anything that is held is given up, written and
hashed on a thread a megabyte at a time while the next megabyte arrives, and proven at its
end. Knows nothing of retries, links or paths.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from fetcher.core.decoding import Decoder
from fetcher.core.proof import Announced, Digester, Span, announced
from fetcher.core.ranges import Append, Whole
from fetcher.core.sniff import PEEK_BYTES, foreign_page
from fetcher.errors import ContentError, ShortBodyError, TransferError
from fetcher.files.journal import Version
from fetcher.files.parts import SYNC_AFTER_S
from fetcher.memory import ALIGNMENT_BYTES
from fetcher.threads import run
from fetcher.transfers.pieces import Pace
from fetcher.transfers.proving import DamagedError, prove_held, prove_small

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from typing import Protocol

    from fetcher.files.parts import Part
    from fetcher.models import Head
    from fetcher.transfers.splitting import Splitter
    from fetcher.transfers.underway import Underway

    class Arriving(Protocol):
        """A response whose body is still to come."""

        @property
        def head(self) -> Head:
            """Return status and header fields."""
            ...

        @property
        def final_url(self) -> str:
            """Return where it came from, behind whatever redirects."""
            ...

        async def chunk(self, max_bytes: int = ...) -> bytes | memoryview:
            """Return the next bytes, b"" at the end; valid until the next call."""
            ...

        def close(self) -> None:
            """Let go of the connection; may be called twice."""
            ...

    class Opens(Protocol):
        """Whoever can send a GET to a file host."""

        def open(
            self,
            url: str,
            headers: Mapping[str, str],
            *,
            ask: Callable[[str], Awaitable[None]] | None = None,
        ) -> AbstractAsyncContextManager[Arriving]:
            """Give the response; `ask` is awaited before each request with the host's name.

            Raises ConnectionFailedError.
            """
            ...


SMALL_BYTES = 256 << 10  # up to here a file stays in memory until it is sealed


class TooLargeError(TransferError):
    """The file is larger than `--max-size`; `bytes_total` is what is known of its length."""

    def __init__(self, reason: str, bytes_total: int) -> None:
        super().__init__(reason)
        self.bytes_total = bytes_total


class MoreToComeError(TransferError):
    """The part that came is good, and the file goes on behind it."""


async def receive(
    file: Underway, body: Arriving, verdict: Append | Whole, splitter: Splitter
) -> None:
    """Take a body in and prove the file; afterwards `file` holds its content or its part.

    Raises ShortBodyError, ConnectionFailedError, ContentError (what was held still is),
    DamagedError (what is held is wrong), TooLargeError, MoreToComeError, StorageError.
    """
    receiver = _Receiver(file, body, verdict, splitter)
    try:
        await receiver.take_in()
    finally:
        file.kit.space.release(file.key)
    await receiver.prove()


class _Receiver:
    """The state of one body on its way in. `stop`: where other lines take over, if any do."""

    def __init__(
        self, file: Underway, body: Arriving, verdict: Append | Whole, splitter: Splitter
    ) -> None:
        self.kit = file.kit
        self.file = file
        self.body = body
        self.verdict = verdict
        self.splitter = splitter
        self.came_before = verdict.start if isinstance(verdict, Append) else 0
        self.end = verdict.end if isinstance(verdict, Append) else verdict.total
        self.stop = self.end
        self.waited_s = 0.0  # for bytes: what storing takes says nothing of the line
        self.said: Announced = announced(body.head, whole=isinstance(verdict, Whole))
        self.span: Span | None = None  # that digests were announced of, and
        self.digester: Digester | None = None  # what has come of it
        file.content_type = body.head.headers.get("content-type", "")

    async def take_in(self) -> None:
        """Write the body to memory or to the part; raises as `receive` does."""
        file, verdict = self.file, self.verdict
        self._refuse_size(verdict.total)
        self.kit.space.require_disk(verdict.total)
        pieces = self._pieces()
        try:
            first = await anext(pieces, b"")
            if isinstance(verdict, Append):
                await self._go_on(verdict, first)
            else:
                await self._begin_anew(verdict, first)
            if file.content is None:
                await self._write_rest(pieces)
            else:
                await self.kit.limiter.take(len(first))  # the pieces end before they do
        finally:
            await pieces.aclose()

    async def _go_on(self, verdict: Append, first: bytes | memoryview) -> None:
        """Go on with what is held."""
        part = self.file.part
        if part is None or part.bytes_written != verdict.start:
            raise ContentError("the answer goes on where nothing is held")
        version = replace(part.version, validator=verdict.validator, bytes_total=verdict.total)
        if version != part.version:  # stretches ahead are found again by what the journal says
            await run(self.kit.threads, part.restate, version)
        self.span = self.file.hear(self.said, verdict.start, verdict.end)
        self.digester = Digester(self.span.algorithms) if self.span is not None else None
        await self.file.peek()
        self.kit.space.promise(self.file.key, self._left_bytes())
        self.file.announce_start(verdict.total)
        if first:
            await self._store(first)

    async def _begin_anew(self, verdict: Whole, first: bytes | memoryview) -> None:
        """Begin a fresh file with its first bytes; a page in its place costs nothing held."""
        file = self.file
        if not first:
            raise ContentError("the file is empty")
        peek = first if isinstance(first, bytes) else bytes(first[:PEEK_BYTES])
        page = foreign_page(peek, file.content_type)
        if page is not None:
            raise ContentError(f"not audio: {page}")
        await file.drop()
        file.first_bytes = b""
        file.announce_start(verdict.total)
        if verdict.total is not None and len(first) == verdict.total <= SMALL_BYTES:
            file.content, file.first_bytes = bytes(first), peek
            return
        version = Version(verdict.validator, verdict.total, self.said.whole)
        self.kit.space.promise(file.key, verdict.total or 0)
        file.part_on_disk = True
        await run(self.kit.threads, self._begin_part, version, first)
        await self._note_stored()

    def _begin_part(self, version: Version, first: bytes | memoryview) -> None:
        """Begin the part and write its first bytes: a hop to a thread for each would cost twice."""
        self.file.part = self.kit.parts.begin(self.file.key, version)
        self._append(first)

    async def _write_rest(self, pieces: AsyncGenerator[bytes | memoryview, None]) -> None:
        """Write what comes; the body fills its next buffer meanwhile.

        A slow line may be split on the way; then this one ends where the next begins.
        """
        part = self.file.part
        if part is None:
            raise ContentError("there is no part to write to")
        timer = _Timer(self.file.checkpoint)
        try:
            self._consider_splitting(part)
            async for data in pieces:
                await self._store(data)
                if self._consider_splitting(part):
                    self.body.close()  # what comes over it from here on has come already
                    break
            await self.splitter.finished()
        except BaseException:
            self.file.checkpoint()  # nothing more may come for long
            raise
        finally:
            timer.cancel()
            await self.splitter.cancel()
        self._check_length(part.bytes_written)

    def _consider_splitting(self, part: Part) -> bool:
        """Let other lines help where this one is slow; return whether it has met the next."""
        if self.stop is None or self.end is None:
            return False
        rate_bytes_s = (part.bytes_written - self.came_before) / max(self.waited_s, 1e-6)
        self.stop = self.splitter.consider(self.stop, rate_bytes_s)
        return part.bytes_written >= self.stop < self.end

    async def _store(self, data: bytes | memoryview) -> None:
        await run(self.kit.threads, self._append, data)
        await self._note_stored()

    async def _note_stored(self) -> None:
        self._refuse_size(self.file.bytes_done)  # a body of unknown length may have no end
        await self.file.tell_progress(self.verdict.total)

    def _append(self, data: bytes | memoryview) -> None:
        part = self.file.part
        if part is None:
            raise ContentError("there is no part to append to")
        if self.stop is not None and self.stop != self.end:
            data = data[: max(0, self.stop - part.bytes_written)]
        space, key = self.kit.space, self.file.key
        if self.end is None:
            space.promise(key, len(data))
        space.go_on(key)
        if part.append(data):
            part.checkpoint(self.kit.fsync_threads)
        space.wrote(key, len(data), self._left_bytes())
        if self.digester is not None:
            self.digester.update(data)
        if len(self.file.first_bytes) < PEEK_BYTES:
            missing = PEEK_BYTES - len(self.file.first_bytes)
            self.file.first_bytes += bytes(data[:missing])

    def _left_bytes(self) -> int:
        """Return what is still to be written of the file, 0 where nobody knows its length."""
        total = self.verdict.total or self.end or 0
        return max(0, total - self.file.bytes_done)

    async def _pieces(self) -> AsyncGenerator[bytes | memoryview, None]:
        """Yield the body, decoded where it must be, no faster than the limit allows."""
        limiter = self.kit.limiter
        encoding = self.verdict.encoding if isinstance(self.verdict, Whole) else None
        decoder = Decoder(encoding) if encoding else None
        pace = Pace(self.kit.clock, self.verdict.total)
        at = self.came_before
        while data := await self._chunk(limiter.slice_bytes(self._most(pace, at))):
            pace.took(len(data))
            at += len(data)
            self.file.fetched(len(data))
            if decoder is None:
                yield data
            else:
                for plain in decoder.feed(bytes(data)):
                    yield plain
            await limiter.take(len(data))
        if decoder is not None:
            decoder.finish()

    async def _chunk(self, most_bytes: int) -> bytes | memoryview:
        asked_at_s = self.kit.clock()
        try:
            return await self.body.chunk(most_bytes)
        finally:
            self.waited_s += self.kit.clock() - asked_at_s

    def _most(self, pace: Pace, at: int) -> int:
        """Return what to wait for at once: no more than up to where another line has begun.

        Up to the end of a page where that can be, for what follows can be written directly.
        """
        left = 0 if self.stop is None else self.stop - at
        most = min(pace.chunk_bytes, self.splitter.most_bytes) - at % ALIGNMENT_BYTES
        return min(most, left) if left > 0 else most

    def _refuse_size(self, size_bytes: int | None) -> None:
        reason = self.kit.rules.refuse_size(size_bytes)
        if reason is not None and size_bytes is not None:
            raise TooLargeError(reason, size_bytes)

    def _check_length(self, done: int) -> None:
        if self.stop is not None and done < self.stop:
            missing = self.stop - done
            raise ShortBodyError(f"the body ended {missing} bytes before its announced length")
        if self.stop is not None and done > self.stop:
            raise DamagedError(f"the body is {done - self.stop} bytes longer than announced")

    async def prove(self) -> None:
        """Prove the file against everything that was announced of it."""
        if self.file.content is not None:
            prove_small(self.file, self.said)
            return
        if self.span is not None and self.digester is not None and self.stop == self.end:
            damage = self.file.settle(self.span, self.digester)
            if damage is not None:
                raise DamagedError(damage)
        if self.stop is not None and self.stop < (self.verdict.total or self.stop):
            raise MoreToComeError("the file goes on where this line ended")
        await prove_held(self.file)


class _Timer:
    """Lets what has come be made durable every few seconds, also while nothing comes."""

    def __init__(self, checkpoint: Callable[[], None]) -> None:
        self._checkpoint = checkpoint
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(SYNC_AFTER_S, self._tick)

    def cancel(self) -> None:
        """End it."""
        self._handle.cancel()

    def _tick(self) -> None:
        self._checkpoint()
        self._handle = self._loop.call_later(SYNC_AFTER_S, self._tick)
