"""A large file over several lines, where that pays: a slow line, and slots that are idle.

The line that has brought the file so far keeps its beginning; what is left is divided into
equal stretches, each fetched by a request of its own (Range, If-Range) into a part of its
own, which survives a crash like any other. A stretch that fails costs nothing: the file's
own line goes on from where it stopped, or does not even stop where no other line brought
anything. A host that ignored a Range is not asked for another stretch of this file.
Stretches that the file has reached are appended to it, which proves and hashes them as if they
had come in order.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from fetcher.errors import TransferError
from fetcher.pieces import CHUNK_BYTES, Pace
from fetcher.proof import Digester, algorithms, announced, settle
from fetcher.ranges import Append, Want, judge, request_headers, resumable
from fetcher.threads import run
from fetcher.underway import Stretch, Underway

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from typing import Self

    from fetcher.files.parts import Version
    from fetcher.receive import Arriving, Opens

_LEAST_STRETCH_BYTES = 1 << 20
_LEAST_LEFT_S = 1.5  # a line that ends sooner is not worth another handshake
_LEAST_SEEN_BYTES = 256 << 10  # before a line's speed is believed


@dataclass(slots=True)
class Lines:
    """How many connections are in use: one for each file, and the extra ones.

    Extra ones only use slots that are idle: files and extra lines together never exceed
    `most_files` (-j), and one file never has more than `most_per_file` (-x).
    """

    most_files: int
    most_per_file: int
    files: int = 0
    extra: int = 0

    def spare(self) -> int:
        """Return how many extra lines one file may open now."""
        return max(0, min(self.most_per_file - 1, self.most_files - self.files - self.extra))

    def __enter__(self) -> Self:
        """Count a file in."""
        self.files += 1
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Count a file out."""
        self.files -= 1


class Splitter:
    """Splits one file's body, at most once for each answer."""

    def __init__(self, file: Underway, host: Opens, lines: Lines, url: str) -> None:
        self._file = file
        self._host = host
        self._lines = lines
        self._url = url
        self._tasks: list[asyncio.Task[None]] = []
        self._undivided: int | None = None  # where the own line would end, had it not been split

    def consider(self, stop: int, rate_bytes_s: float) -> int:
        """Return where the file's own line is to stop, splitting what is left if that pays.

        Stretches that an earlier attempt began are gone on with, each over its own line.
        """
        part = self._file.part
        if part is None:
            return stop
        if self._undivided is not None and part.bytes_written < stop and self._is_in_vain():
            return self._undivided
        if self._tasks or not self._may_split():
            return stop
        if self._file.stretches:
            self._go_on()
            return stop
        left = stop - part.bytes_written
        if part.bytes_written < _LEAST_SEEN_BYTES or left < _LEAST_LEFT_S * rate_bytes_s:
            return stop
        count = min(self._lines.spare(), left // _LEAST_STRETCH_BYTES - 1)
        if count < 1:
            return stop
        size = left // (count + 1)
        starts = [part.bytes_written + size * n for n in range(1, count + 1)]
        self._undivided = stop
        for start, end in zip(starts, [*starts[1:], stop], strict=True):
            self._open_line(self._fetch(start, end))
        return starts[0]

    def _go_on(self) -> None:
        unfinished = [one for one in self._file.stretches if one.at < one.stop]
        for stretch in unfinished[: self._lines.spare()]:
            self._open_line(self._fetch(stretch.at, stretch.stop, stretch))

    def _open_line(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(work))
        self._lines.extra += 1

    def _is_in_vain(self) -> bool:
        """Return whether every line has ended and none brought anything."""
        return not self._file.stretches and all(task.done() for task in self._tasks)

    def _may_split(self) -> bool:
        file = self._file
        limited = file.kit.limiter.slice_bytes(CHUNK_BYTES) < CHUNK_BYTES
        part = file.part
        return (
            file.ranges_work
            and not limited
            and part is not None
            and part.version.bytes_total is not None
            and resumable(part.version.validator)
        )

    async def finished(self) -> None:
        """Return once every line has ended. Raises StorageError."""
        if self._tasks:
            await asyncio.wait(self._tasks)
            for task in self._tasks:
                await task

    async def cancel(self) -> None:
        """End whatever line is still open; what it brought stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._lines.extra -= len(self._tasks)
        self._tasks.clear()

    async def _fetch(self, start: int, stop: int, stretch: Stretch | None = None) -> None:
        """Fetch bytes [start, stop) as far as they come, into a new stretch or the given one."""
        file = self._file
        if file.part is None:
            return
        version = file.part.version
        want = Want(start, stop, version.validator, version.bytes_total)
        try:
            async with self._host.open(self._url, request_headers(want)) as body:
                verdict = judge(want, body.head)
                if not isinstance(verdict, Append):
                    file.ranges_work = False
                    return
                if stretch is None:
                    stretch = await self._begin(start, stop, version)
                await self._take_in(stretch, body)
        except TransferError:
            return  # what came stays, and the file's own line fetches the rest

    async def _begin(self, start: int, stop: int, version: Version) -> Stretch:
        file = self._file
        key, part = await run(
            file.kit.threads, file.kit.parts.begin_stretch, file.key, start, version
        )
        stretch = Stretch(start, stop, key, part)
        file.stretches.append(stretch)
        file.stretches.sort(key=lambda one: one.start)
        return stretch

    async def _take_in(self, stretch: Stretch, body: Arriving) -> None:
        file = self._file
        said = announced(body.head, whole=False)
        digester = Digester(algorithms(said.part + said.either))
        pace = Pace(file.kit.clock)
        while stretch.at < stretch.stop and (data := await body.chunk(pace.chunk_bytes)):
            pace.took(len(data))
            file.fetched(len(data))
            kept = data[: stretch.stop - stretch.at]
            if await run(file.kit.threads, stretch.part.append, kept):
                stretch.part.checkpoint(file.kit.fsync_threads)
            digester.update(kept)
            total = stretch.part.version.bytes_total
            await file.tell_progress(total)
        if stretch.at == stretch.stop and settle(said, digester)[0] is not None:
            await self._forget(stretch)

    async def _forget(self, stretch: Stretch) -> None:
        """Drop a stretch whose bytes are not what its answer announced."""
        file = self._file
        stretch.part.close()
        file.stretches.remove(stretch)
        await run(file.kit.threads, file.kit.parts.discard, stretch.key)


async def recover(file: Underway) -> None:
    """Find what an earlier run fetched of the file: its part and the stretches ahead of it."""
    kit = file.kit
    file.part = await run(kit.threads, kit.parts.recover, file.key)
    if file.part is None:
        return
    version = file.part.version
    for start, key, part in await run(kit.threads, kit.parts.recover_stretches, file.key):
        same = part.version.validator == version.validator
        if same and part.version.bytes_total == version.bytes_total:
            file.stretches.append(Stretch(start, version.bytes_total or start, key, part))
        else:
            part.close()
            await run(kit.threads, kit.parts.discard, key)
    file.stretches.sort(key=lambda one: one.start)
    for stretch, behind in pairwise(file.stretches):
        stretch.stop = behind.start


async def join(file: Underway) -> None:
    """Append to the file's part whatever stretches it has reached, and forget those."""
    part = file.part
    while part is not None and file.stretches:
        stretch = file.stretches[0]
        if stretch.start > part.bytes_written:
            return
        for block in _blocks_left(stretch, part.bytes_written):
            await run(file.kit.threads, part.append, block)
        file.stretches.pop(0)
        stretch.part.close()
        await run(file.kit.threads, file.kit.parts.discard, stretch.key)


def _blocks_left(stretch: Stretch, at: int) -> Iterator[bytes]:
    """Yield what the stretch has from offset `at` of the file on."""
    with stretch.part.path.open("rb") as data:
        data.seek(at - stretch.start)
        left = stretch.at - at
        while left > 0 and (block := data.read(min(left, CHUNK_BYTES))):
            left -= len(block)
            yield block
