"""A large file over several lines, where that pays: a slow line, and slots that are idle.

The line that has brought the file so far keeps its beginning; what is left is divided into
equal stretches, each fetched by a request of its own (Range, If-Range) into its place in the
same data, with a journal of its own, so that it survives a crash like any other part. A
stretch that fails costs nothing: the file's own line goes on from where it stopped, or does
not even stop where no other line brought anything. A host that ignored a Range is not asked
for another stretch of this file; one that answered 429 or 503 is held back like by any other
request, and asked again later, unless it asks for a longer pause than is waited for. Stretches
that the file has reached are read and counted in, which hashes them as if they had come in
order.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fetcher.core.proof import Digester, announced
from fetcher.core.ranges import Append, Want, judge, request_headers, resumable
from fetcher.core.retry import PRESSED, retry_after_s
from fetcher.errors import TransferError
from fetcher.memory import ALIGNMENT_BYTES
from fetcher.network.gates import Visit
from fetcher.threads import run
from fetcher.transfers.pieces import CHUNK_BYTES, LEAST_BYTES, Pace
from fetcher.transfers.underway import Stretch, Underway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from fetcher.files.journal import Version
    from fetcher.models import Head
    from fetcher.network.gates import Gates
    from fetcher.transfers.receive import Arriving, Opens
    from fetcher.transfers.slots import Slots

_LEAST_STRETCH_BYTES = 1 << 20
_LEAST_LEFT_S = 1.5  # a line that ends sooner is not worth another handshake
_FAST_BYTES_S = 64 << 20  # of one line: more of them would wait for this machine
_MOST_REFUSED = 3  # divisions whose every line was refused, before one line is to do
_LEAST_SEEN_BYTES = 64 << 10  # before a line's speed is believed


@dataclass(slots=True)
class Lines:
    """How many connections are in use: one for each file, and the extra ones.

    One file never has more than `most_per_file` (`-x`), and all together no more than slots
    (`-j`): extra lines only use idle ones. Where there are fewer slots than one file may have
    lines (`-j 1 -x 4`), all together have as many as that.
    """

    slots: Slots
    most_per_file: int
    extra: int = 0

    def spare(self) -> int:
        """Return how many extra lines one file may open now."""
        most = max(self.slots.count, self.most_per_file)
        in_use = self.slots.count - self.slots.idle + self.extra
        return max(0, min(self.most_per_file - 1, most - in_use))


class Splitter:
    """Splits one file's body, at most once for each answer."""

    def __init__(self, file: Underway, host: Opens, lines: Lines, gates: Gates, url: str) -> None:
        self._file = file
        self._host = host
        self._lines = lines
        self._gates = gates
        self._url = url
        self._tasks: list[asyncio.Task[None]] = []
        self._past: list[asyncio.Task[None]] = []  # of divisions that were taken back
        self._at_gate: set[asyncio.Task[Any]] = set()  # lines that wait for their host
        self._busy_hosts: set[str] = set()  # those that refused a line of the present division
        self._refused_divisions = 0
        self._undivided: int | None = None  # where the own line would end, had it not been split

    @property
    def most_bytes(self) -> int:
        """What each line of the file may hold in memory."""
        lines = 1 + sum(not task.done() for task in self._tasks)
        return max(LEAST_BYTES, _page_at(CHUNK_BYTES // lines))

    def consider(self, stop: int, rate_bytes_s: float) -> int:
        """Return where the file's own line is to stop, splitting what is left if that pays.

        Stretches that an earlier attempt began are gone on with, each over its own line.
        """
        part = self._file.part
        if part is None:
            return stop
        if self._undivided is not None and self._is_in_vain(stop - part.bytes_written):
            stop = self._undivide(self._undivided)
        if self._tasks or not self._may_split():
            return stop
        if self._file.stretches:
            self._go_on()
            return stop
        left = stop - part.bytes_written
        if part.bytes_written < _LEAST_SEEN_BYTES or _is_fast(rate_bytes_s, left):
            return stop
        count = min(self._lines.spare(), left // _LEAST_STRETCH_BYTES - 1)
        if count < 1:
            return stop
        size = left // (count + 1)
        starts = [_page_at(part.bytes_written + size * n) for n in range(1, count + 1)]
        self._undivided = stop
        self._busy_hosts.clear()
        for start, end in zip(starts, [*starts[1:], stop], strict=True):
            self._open_line(self._fetch(start, end))
        return starts[0]

    def _go_on(self) -> None:
        unfinished = [one for one in self._file.stretches if one.at < one.stop]
        for stretch in unfinished[: self._lines.spare()]:
            self._open_line(self._fetch(stretch.at, stretch.stop, stretch))

    def _open_line(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._close_line)
        self._tasks.append(task)
        self._lines.extra += 1

    def _close_line(self, _: asyncio.Task[None]) -> None:
        self._lines.extra -= 1

    def _is_in_vain(self, left_bytes: int) -> bool:
        """Return whether no line brought anything, and none is about to.

        Those that wait for their host are about to until the file's own line is at hand.
        """
        if self._file.stretches or left_bytes <= 0:
            return False
        still = {task for task in self._tasks if not task.done()}
        return not still or (left_bytes <= CHUNK_BYTES and still <= self._at_gate)

    def _undivide(self, end: int) -> int:
        """Let the own line go on to `end`; where hosts were only busy, ask again later."""
        is_busy = bool(self._busy_hosts or self._at_gate)
        for task in self._at_gate:
            task.cancel()
        if is_busy and self._refused_divisions < _MOST_REFUSED:
            self._past += self._tasks
            self._tasks.clear()
            self._undivided = None
            self._refused_divisions += 1
        return end

    def _may_split(self) -> bool:
        file = self._file
        part = file.part
        return (
            file.ranges_work
            and not file.kit.limiter.is_set  # it counts the bytes of a file's own line only
            and part is not None
            and part.version.bytes_total is not None
            and resumable(part.version.validator)
            and not any(self._gates.is_held(host) for host in self._busy_hosts)
        )

    async def finished(self) -> None:
        """Return once every line has ended. Raises StorageError.

        One that waits for its host is not waited for: the file's own line is here now.
        """
        for task in self._at_gate:
            task.cancel()
        if lines := self._past + self._tasks:
            await asyncio.wait(lines)
            for task in lines:
                if not task.cancelled():
                    task.result()

    async def cancel(self) -> None:
        """End whatever line is still open; what it brought stays."""
        lines = self._past + self._tasks
        for task in lines:
            task.cancel()
        await asyncio.gather(*lines, return_exceptions=True)
        self._tasks.clear()

    async def _fetch(self, start: int, stop: int, stretch: Stretch | None = None) -> None:
        """Fetch bytes [start, stop) as far as they come, into a new stretch or the given one."""
        file = self._file
        if file.part is None:
            return
        version = file.part.version
        want = Want(start, stop, version.validator, version.bytes_total)
        try:
            visit = Visit(self._gates, self._wait)
            async with self._host.open(self._url, request_headers(want), ask=visit.ask) as body:
                if body.head.status in PRESSED:
                    self._note_refusal(visit, body.head)
                    return
                verdict = judge(want, body.head)
                if not isinstance(verdict, Append):
                    file.ranges_work = False
                    return
                visit.answered()
                if stretch is None:
                    stretch = await self._begin(start, stop, version)
                await self._take_in(stretch, body, verdict.end)
        except TransferError:
            return  # what came stays, and the file's own line fetches the rest

    def _note_refusal(self, visit: Visit, head: Head) -> None:
        """Let everybody ask that host less, and the file no more where it asks for too long."""
        asked_s = retry_after_s(head, now=datetime.now(UTC)) or 0.0
        visit.refused(asked_s)
        self._busy_hosts.add(visit.host)
        if not self._gates.is_obeyed(asked_s):
            self._file.ranges_work = False

    async def _wait(self, waiting: Awaitable[None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._at_gate.add(task)
        try:
            await waiting
        finally:
            self._at_gate.discard(task)

    async def _begin(self, start: int, stop: int, version: Version) -> Stretch:
        file = self._file
        part = await run(file.kit.threads, file.kit.parts.begin_stretch, file.key, start, version)
        stretch = Stretch(start, stop, part)
        file.stretches.append(stretch)
        file.stretches.sort(key=lambda one: one.start)
        return stretch

    async def _take_in(self, stretch: Stretch, body: Arriving, end: int) -> None:
        """Store a body that is to go up to `end`, as far as it comes."""
        file = self._file
        span = file.hear(announced(body.head, whole=False), stretch.at, end)
        digester = Digester(span.algorithms) if span is not None else None
        pace = Pace(file.kit.clock, stretch.stop - stretch.start)
        while stretch.at < end and (data := await body.chunk(self._most(pace))):
            pace.took(len(data))
            file.fetched(len(data))
            kept = data[: end - stretch.at]
            await run(file.kit.threads, self._store, stretch, kept, digester)
            await file.tell_progress(stretch.part.version.bytes_total)
        if span is None or digester is None or stretch.at < end:
            return
        if file.settle(span, digester) is not None:
            await self._forget(stretch)

    def _most(self, pace: Pace) -> int:
        """Return what a line waits for at once: what all of them hold is lost by a kill."""
        return min(pace.chunk_bytes, self.most_bytes)

    def _store(self, stretch: Stretch, data: bytes | memoryview, digester: Digester | None) -> None:
        file = self._file
        file.kit.space.go_on(file.key)
        if stretch.part.append(data):
            stretch.part.checkpoint(file.kit.fsync_threads)
        if digester is not None:
            digester.update(data)
        left_bytes = max(0, (stretch.part.version.bytes_total or 0) - file.bytes_done)
        file.kit.space.wrote(file.key, len(data), left_bytes)

    async def _forget(self, stretch: Stretch) -> None:
        """Drop a stretch whose bytes are not what its answer announced."""
        file = self._file
        stretch.part.close()
        file.stretches.remove(stretch)
        await run(file.kit.threads, file.kit.parts.forget_stretch, file.key, stretch.start)


def _page_at(offset: int) -> int:
    """Return where the page begins that `offset` is in: no line writes into another's page."""
    return offset - offset % ALIGNMENT_BYTES


def _is_fast(rate_bytes_s: float, left_bytes: int) -> bool:
    return rate_bytes_s >= _FAST_BYTES_S or left_bytes < _LEAST_LEFT_S * rate_bytes_s
