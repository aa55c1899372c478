"""One answer of a file host, from its judged head to bytes that are proven.

Owns the way of a body: peeked at before anything that is held is given up, written and
hashed on a thread a megabyte at a time while the next megabyte arrives, and proven at its
end. Knows nothing of retries, links or paths.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fetcher.decoding import Decoder
from fetcher.errors import ContentError, ShortBodyError, TransferError
from fetcher.events import DownloadProgress, DownloadStarted
from fetcher.files.parts import Part, Version
from fetcher.proof import Announced, Digester, algorithms, announced, refuse, settle
from fetcher.ranges import Append, Whole
from fetcher.sniff import PEEK_BYTES, foreign_page
from fetcher.threads import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Executor
    from typing import Protocol

    from fetcher.events import Sink
    from fetcher.files.parts import Parts
    from fetcher.files.space import Space
    from fetcher.filters import Rules
    from fetcher.gates import Limiter
    from fetcher.models import Entry, Head
    from fetcher.proof import Digest

    class Arriving(Protocol):
        """A response whose body is still to come."""

        @property
        def head(self) -> Head:
            """Return status and header fields."""
            ...

        async def chunk(self, max_bytes: int = ...) -> bytes | memoryview:
            """Return the next bytes, b"" at the end; valid until the next call."""
            ...


CHUNK_BYTES = 1 << 20  # a hop to a thread costs 125 us: worth it once a megabyte
SMALL_BYTES = 256 << 10  # up to here a file stays in memory until it is sealed
PROGRESS_EVERY_S = 0.2


class TooLargeError(TransferError):
    """The file is larger than `--max-size`; `bytes_total` is what is known of its length."""

    def __init__(self, reason: str, bytes_total: int) -> None:
        super().__init__(reason)
        self.bytes_total = bytes_total


class DamagedError(ContentError):
    """What is here of the file is proven wrong: it must be dropped."""


class MoreToComeError(TransferError):
    """The part that came is good, and the file goes on behind it."""


@dataclass(slots=True)
class Kit:
    """What every transfer of a run shares."""

    parts: Parts
    space: Space
    limiter: Limiter
    rules: Rules
    threads: Executor
    sink: Sink
    clock: Callable[[], float]


@dataclass(slots=True)
class Progress:
    """One file under way, over all its attempts."""

    entry: Entry
    key: str
    part_on_disk: bool = False
    part: Part | None = None
    content: bytes | None = None  # a small file, whole
    sha256: str = ""
    first_bytes: bytes = b""
    content_type: str = ""
    bytes_fetched: int = 0
    started: bool = False
    told_at_s: float = field(default=0.0)

    @property
    def bytes_done(self) -> int:
        """Return how many bytes of the file are here."""
        if self.content is not None:
            return len(self.content)
        return self.part.bytes_written if self.part else 0


async def receive(kit: Kit, file: Progress, body: Arriving, verdict: Append | Whole) -> None:
    """Take a body in and prove the file; afterwards `file` holds its content or its part.

    Raises ShortBodyError, ConnectionFailedError, ContentError (what was held still is),
    DamagedError (what is held is wrong), TooLargeError, MoreToComeError, StorageError.
    """
    receiver = _Receiver(kit, file, body, verdict)
    try:
        await receiver.take_in()
    finally:
        kit.space.release(file.key)
    await receiver.prove()


async def prove_part(kit: Kit, file: Progress) -> None:
    """Prove a part that is as long as the file; raises DamagedError."""
    part = file.part
    if part is None:
        raise ContentError("there is nothing to prove")
    file.first_bytes = await run(kit.threads, _peek, part)
    _announce_start(kit, file, part.version.bytes_total, part.bytes_written)
    await _prove_held(kit, file)


class _Receiver:
    """The state of one body on its way in."""

    def __init__(self, kit: Kit, file: Progress, body: Arriving, verdict: Append | Whole) -> None:
        self.kit = kit
        self.file = file
        self.body = body
        self.verdict = verdict
        self.said: Announced = announced(body.head, whole=isinstance(verdict, Whole))
        partial = self.said.part + self.said.either
        self.digester = Digester(algorithms(partial)) if partial else None
        file.content_type = body.head.headers.get("content-type", "")

    async def take_in(self) -> None:
        kit, file, verdict = self.kit, self.file, self.verdict
        self._refuse_size(verdict.total)
        pieces = self._pieces()
        first = bytes(await anext(pieces, b""))
        if isinstance(verdict, Append):
            await self._go_on(verdict)
        else:
            await self._begin_anew(verdict, first)
        if file.content is None:
            await self._write_all(first, pieces)
        if kit.rules.max_size_bytes is not None:
            self._refuse_size(file.bytes_done)

    async def _go_on(self, verdict: Append) -> None:
        part = self.file.part
        if part is None or part.bytes_written != verdict.start:
            raise ContentError("the answer goes on where nothing is held")
        self.file.first_bytes = await run(self.kit.threads, _peek, part)
        self.kit.space.promise(self.file.key, verdict.end - verdict.start)
        _announce_start(self.kit, self.file, verdict.total, verdict.start)

    async def _begin_anew(self, verdict: Whole, first: bytes) -> None:
        """Begin a fresh file with its first bytes; a page in its place costs nothing held."""
        file = self.file
        page = foreign_page(first[:PEEK_BYTES], file.content_type) if first else None
        if page is not None:
            raise ContentError(f"not audio: {page}")
        if file.part is not None:
            file.part.close()
            file.part = None
        file.first_bytes = b""
        _announce_start(self.kit, file, verdict.total, 0)
        if verdict.total is not None and len(first) == verdict.total <= SMALL_BYTES:
            file.content, file.first_bytes = first, first[:PEEK_BYTES]
            if file.part_on_disk:
                await run(self.kit.threads, self.kit.parts.discard, file.key)
            return
        version = Version(verdict.validator, verdict.total, self.said.whole)
        self.kit.space.promise(file.key, verdict.total or len(first))
        file.part_on_disk = True
        file.part = await run(self.kit.threads, self.kit.parts.begin, file.key, version)

    async def _write_all(self, first: bytes, pieces: AsyncIterator[bytes | memoryview]) -> None:
        """Write what came and what comes; the body fills its next buffer meanwhile."""
        if first:
            await self._store(first)
        async for data in pieces:
            await self._store(data)
        self._check_length()

    async def _store(self, data: bytes | memoryview) -> None:
        await run(self.kit.threads, self._append, data)
        self._tell()

    def _append(self, data: bytes | memoryview) -> None:
        part = self.file.part
        if part is None:
            raise ContentError("there is no part to append to")
        part.append(data)
        if self.digester is not None:
            self.digester.update(data)
        if len(self.file.first_bytes) < PEEK_BYTES:
            missing = PEEK_BYTES - len(self.file.first_bytes)
            self.file.first_bytes += bytes(data[:missing])
        end = self.verdict.end if isinstance(self.verdict, Append) else self.verdict.total
        self.kit.space.promise(self.file.key, max(0, (end or 0) - part.bytes_written))

    async def _pieces(self) -> AsyncIterator[bytes | memoryview]:
        """Yield the body, decoded where it must be, no faster than the limit allows."""
        limiter = self.kit.limiter
        encoding = self.verdict.encoding if isinstance(self.verdict, Whole) else None
        decoder = Decoder(encoding) if encoding else None
        while data := await self.body.chunk(limiter.slice_bytes(CHUNK_BYTES)):
            self.file.bytes_fetched += len(data)
            if decoder is None:
                yield data
            else:
                for plain in decoder.feed(bytes(data)):
                    yield plain
            await limiter.take(len(data))
        if decoder is not None:
            decoder.finish()

    def _refuse_size(self, size_bytes: int | None) -> None:
        reason = self.kit.rules.refuse_size(size_bytes)
        if reason is not None and size_bytes is not None:
            raise TooLargeError(reason, size_bytes)

    def _check_length(self) -> None:
        verdict, done = self.verdict, self.file.bytes_done
        end = verdict.end if isinstance(verdict, Append) else verdict.total
        if end is not None and done < end:
            raise ShortBodyError(f"the body ended {end - done} bytes before its announced length")
        if end is not None and done > end:
            raise DamagedError(f"the body is {done - end} bytes longer than announced")

    def _tell(self) -> None:
        now_s = self.kit.clock()
        if now_s - self.file.told_at_s >= PROGRESS_EVERY_S:
            self.file.told_at_s = now_s
            entry = self.file.entry
            self.kit.sink(
                DownloadProgress(
                    id=entry.job.id,
                    file_name=entry.job.file_name,
                    variant=entry.variant,
                    bytes_done=self.file.bytes_done,
                    bytes_total=self.verdict.total,
                )
            )

    async def prove(self) -> None:
        """Prove the file against everything that was announced of it."""
        if self.file.content is not None:
            _prove_small(self.file, self.said)
            return
        if self.digester is not None:
            damage, whole = settle(self.said, self.digester)
            if damage is not None:
                raise DamagedError(damage)
            _add_digests(self.file, whole)
        else:
            _add_digests(self.file, self.said.whole)
        verdict = self.verdict
        if isinstance(verdict, Append) and verdict.end < verdict.total:
            raise MoreToComeError("the host sent a part of what was asked for")
        await _prove_held(self.kit, self.file)


def _prove_small(file: Progress, said: Announced) -> None:
    content = file.content or b""
    digester = Digester(algorithms(said.whole))
    digester.update(content)
    damage = digester.mismatch(said.whole) or _damage(file, len(content))
    if damage is not None:
        file.content = None
        raise DamagedError(damage)
    file.sha256 = digester.sha256_hex()


def _add_digests(file: Progress, digests: tuple[Digest, ...]) -> None:
    """Remember digests that a later answer announced for the whole file."""
    if file.part is not None:
        known = file.part.version
        new = tuple(one for one in digests if one not in known.digests)
        if new:
            file.part.version = replace(known, digests=known.digests + new)


async def _prove_held(kit: Kit, file: Progress) -> None:
    part = file.part
    if part is None:
        raise ContentError("there is nothing to prove")
    digests = part.version.digests
    digester = part.digester
    if digester.lacks(digests):
        digester = await run(kit.threads, part.digest_again, algorithms(digests))
    damage = digester.mismatch(digests) or _damage(file, part.bytes_written)
    if damage is not None:
        raise DamagedError(damage)
    file.sha256 = digester.sha256_hex()


def _damage(file: Progress, length_bytes: int) -> str | None:
    return refuse(file.first_bytes, content_type=file.content_type, length_bytes=length_bytes)


def _announce_start(kit: Kit, file: Progress, total: int | None, start: int) -> None:
    if file.started:
        return
    file.started = True
    entry = file.entry
    kit.sink(
        DownloadStarted(
            id=entry.job.id,
            file_name=entry.job.file_name,
            variant=entry.variant,
            bytes_total=total,
            resumed_from=start,
        )
    )


def _peek(part: Part) -> bytes:
    with part.path.open("rb") as file:
        return os.pread(file.fileno(), PEEK_BYTES, 0)
