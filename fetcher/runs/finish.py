"""From proven bytes to a recorded file: path, seal, manifest row, event, in that order.

Works in groups (up to 64 files): one transaction claims their paths, one seal makes them
durable and visible, one transaction records them, while the next group is sealed already.
A group is whatever has gathered while the group before was on its way, so a lone file never
waits.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from fetcher.core.account import Class
from fetcher.core.names import path_key
from fetcher.errors import FetcherError, FullError, HaltedError, StorageError
from fetcher.events import (
    DownloadAdopted,
    DownloadCancelled,
    DownloadCompleted,
    FileSuspect,
)
from fetcher.files.parts import Part
from fetcher.files.places import TakenError, mtime_ns
from fetcher.files.sealing import Sealable, confirm, seal
from fetcher.frozen import frozen
from fetcher.manifest.files import Stored
from fetcher.manifest.store import Store
from fetcher.runs.desk import Done, give_up
from fetcher.runs.look import TAKEN, Adoptable, was_ours
from fetcher.threads import run
from fetcher.transfers.outcomes import Fetched, GivenUp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fetcher.files.parts import Parts
    from fetcher.models import Entry
    from fetcher.runs.desk import Desk

    _Sealed = tuple["Ready", str, FetcherError | None]  # with its path, and its trouble

GROUP_FILES = 64


@frozen
class Ready:
    """A file to be put in place, or one that is in place already and only to be recorded."""

    entry: Entry
    key: str
    what: Fetched | Adoptable
    began_s: float
    attempts: int = 1


class Finisher:
    """Takes files in with `put`, finishes them in its own `serve` loop.

    Whatever was put comes to an end: recorded, failed, or cancelled where there is no room
    for it, which `on_full` is told of, or where `serve` broke.
    """

    def __init__(self, desk: Desk, on_full: Callable[[FullError], None]) -> None:
        self._desk = desk
        self._on_full = on_full
        self._queue: asyncio.Queue[Ready | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(GROUP_FILES)
        self._open: dict[int, Ready] = {}  # put and not at its end yet, by row
        self._recording: asyncio.Task[None] | None = None
        self._broken = False
        self._is_halted = False

    async def put(self, ready: Ready) -> None:
        """Hand a file over; waits while a whole group is waiting already, unless cancelled."""
        self._open[ready.entry.seq] = ready
        if self._broken:
            self._abandon_all()
            return
        try:
            await self._room.acquire()
        finally:
            self._queue.put_nowait(ready)

    def holds(self, seq: int) -> bool:
        """Return whether the file of that row was put, and has not come to its end yet."""
        return seq in self._open

    async def close(self) -> None:
        """Let `serve` return once everything that was put has been finished."""
        self._queue.put_nowait(None)

    def halt(self) -> None:
        """Let `serve` return as soon as it can: what is not in place yet is left.

        It is fetched again, or gone on with, by the next run, as after a crash.
        """
        self._is_halted = True

    async def serve(self) -> None:
        """Finish files until closed; raises StorageError, ManifestError.

        A cancellation closes it, and waits until everything that was put has been finished.
        """
        work = asyncio.create_task(self._until_closed())
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await self.close()
            await asyncio.wait([work])
            raise

    async def _until_closed(self) -> None:
        try:
            await self._take_groups()
        except BaseException:
            self._broken = True
            self._abandon_all()
            raise

    async def _take_groups(self) -> None:
        try:
            await self._place_groups()
        finally:
            await self._recorded()

    async def _recorded(self) -> None:
        """Return once the group that is being recorded is; raises what went wrong."""
        recording, self._recording = self._recording, None
        if recording is not None:
            await recording

    async def _place_groups(self) -> None:
        open_ = True
        while open_:
            group = [await self._queue.get()]
            while len(group) < GROUP_FILES and not self._queue.empty():
                group.append(self._queue.get_nowait())
            open_ = None not in group
            ready = [one for one in group if one is not None]
            for _ in ready:
                self._room.release()
            if self._is_halted:
                for one in ready:
                    self._abandon(one)
                continue
            if not ready:
                continue
            placed = await self._place(ready)
            await self._recorded()
            if placed:
                self._recording = asyncio.create_task(self._record(placed))

    async def _place(self, group: Sequence[Ready]) -> list[tuple[Ready, str]]:
        """Put the files of a group in place; return those that are, with their paths."""
        placed: list[tuple[Ready, str]] = []
        for one, path in zip(group, await self._claim(group), strict=True):
            if path is None:
                await self._fail(one, TAKEN)
            else:
                placed.append((one, path))
        return await self._seal(placed)

    async def _claim(self, group: Sequence[Ready]) -> list[str | None]:
        """Return the path of each file; most get the first one that they ask for."""
        manifest = self._desk.manifest
        best = [(one.entry.seq, [next(self._candidates(one))]) for one in group]
        paths = await manifest.do(Store.claim, best)
        refused = [n for n, path in enumerate(paths) if path is None]
        if refused:
            wanted = [(group[n].entry.seq, list(self._candidates(group[n]))) for n in refused]
            for n, path in zip(refused, await manifest.do(Store.claim, wanted), strict=True):
                paths[n] = path
        return paths

    def _candidates(self, one: Ready) -> Iterator[tuple[str, str]]:
        if isinstance(one.what, Adoptable):
            return iter([(one.what.path, path_key(one.what.path))])
        return self._desk.eye.candidates(one.entry, one.what.extension)

    async def _seal(self, placed: list[tuple[Ready, str]]) -> list[tuple[Ready, str]]:
        """Put the files in place; return those that are, fail those that cannot be.

        One that there is no room for is left to the next run.
        """
        moving = [(one, path) for one, path in placed if not isinstance(one.what, Adoptable)]
        there = [(one, path) for one, path in placed if isinstance(one.what, Adoptable)]
        ended = await self._moved(moving) if moving else []
        if there:
            ended += await self._confirmed(there)
        return await self._settled(ended)

    async def _moved(self, moving: list[tuple[Ready, str]]) -> list[_Sealed]:
        """Put in place what was fetched."""
        ended: list[_Sealed] = []
        sealables = [_sealable(one, path, self._desk.parts) for one, path in moving]
        troubles = await self._put_in_place(sealables)
        for (one, path), sealable, trouble in zip(moving, sealables, troubles, strict=True):
            final, left = path, trouble
            if isinstance(trouble, TakenError):
                final, left = await self._seal_elsewhere(one, path, sealable)
            if left is None:
                _note_sealed(one, sealable)
            ended.append((one, final, left))
        return ended

    async def _confirmed(self, there: list[tuple[Ready, str]]) -> list[_Sealed]:
        """Make durable what is in place already."""
        desk, paths = self._desk, [path for _, path in there]
        troubles = await run(
            desk.group_thread,
            confirm,
            paths,
            desk.eye.places,
            desk.fsync_threads,
            is_halted=self._halted,
        )
        return [(one, path, trouble) for (one, path), trouble in zip(there, troubles, strict=True)]

    async def _settled(self, ended: Sequence[_Sealed]) -> list[tuple[Ready, str]]:
        """Return what is in place; see to what is not. Raises StorageError where nothing can be."""
        there: list[tuple[Ready, str]] = []
        stop: StorageError | None = None
        for one, path, trouble in ended:
            if trouble is None:
                there.append((one, path))
            elif isinstance(trouble, FullError):
                self._abandon(one)
                self._on_full(trouble)
            elif isinstance(trouble, HaltedError):
                self._abandon(one)
            elif isinstance(trouble, StorageError):
                stop = stop or trouble
            else:
                await self._fail(one, str(trouble))
        if stop is not None:
            await self._record(there)
            raise stop
        return there

    async def _put_in_place(self, group: Sequence[Sealable]) -> list[FetcherError | None]:
        """Seal a group on its thread; return the trouble of each."""
        desk = self._desk
        return await run(
            desk.group_thread,
            seal,
            group,
            desk.eye.places,
            desk.space,
            desk.fsync_threads,
            is_halted=self._halted,
        )

    def _halted(self) -> bool:
        return self._is_halted

    async def _seal_elsewhere(
        self, one: Ready, taken: str, sealable: Sealable
    ) -> tuple[str, FetcherError | None]:
        """Try the other paths of a file whose first one is taken by something foreign."""
        desk = self._desk
        others = [(path, key) for path, key in self._candidates(one) if path != taken]
        trouble: FetcherError | None = TakenError(TAKEN)
        for candidate in others:
            [path] = await desk.manifest.do(Store.claim, [(one.entry.seq, [candidate])])
            if path is None:
                continue
            again = replace(sealable, path=path, is_durable=True, may_replace=False)
            [trouble] = await self._put_in_place([again])
            if not isinstance(trouble, TakenError):
                return path, trouble
        return taken, trouble

    async def _record(self, placed: Sequence[tuple[Ready, str]]) -> None:
        desk = self._desk
        completed_at = desk.now()
        stored = [
            Stored(
                seq=one.entry.seq,
                path=path,
                path_key=path_key(path),
                bytes_stored=one.what.bytes_stored,
                sha256=one.what.sha256,
                completed_at=completed_at,
                marked_at=one.entry.job.marked_at,
            )
            for one, path in placed
        ]
        done = [
            Done(one.entry, path, one.what.bytes_stored, one.what.sha256) for one, path in placed
        ]
        if desk.companions is not None:  # before the row: a crash between them adopts the file
            await desk.companions.write(done)
        for changed in await desk.manifest.do(Store.complete, stored):
            await asyncio.to_thread(desk.eye.stamp, changed.path, changed.after)
        for (one, path), file in zip(placed, done, strict=True):
            self._tell(one, path)
            # A file that was in place, of a job that no manifest knew, is no news to hooks;
            # one whose path we had decided is: a crash kept them from hearing of it.
            if not isinstance(one.what, Adoptable) or one.entry.path is not None:
                await desk.on_done(file)

    def _tell(self, one: Ready, path: str) -> None:
        desk, entry, what = self._desk, one.entry, one.what
        self._open.pop(entry.seq, None)
        job = entry.job
        if isinstance(what, Adoptable):
            desk.account.ended(entry, Class.ADOPTED, stored=what.bytes_stored)
            desk.sink(
                DownloadAdopted(
                    id=job.id,
                    file_name=job.file_name,
                    variant=entry.variant,
                    path=path,
                    bytes=what.bytes_stored,
                    sha256=what.sha256,
                )
            )
            return
        desk.account.ended(entry, Class.DOWNLOADED, stored=what.bytes_stored)
        desk.sink(
            DownloadCompleted(
                id=job.id,
                file_name=job.file_name,
                variant=entry.variant,
                path=path,
                bytes=what.bytes_stored,
                bytes_fetched=what.bytes_fetched,
                sha256=what.sha256,
                seconds=round(desk.clock() - one.began_s, 3),
            )
        )
        if what.suspect is not None:
            desk.sink(FileSuspect(id=job.id, file_name=job.file_name, reason=what.suspect))

    async def _fail(self, one: Ready, reason: str) -> None:
        """Record that a fetched file cannot be put in place; its data stays for the next run."""
        outcome = GivenUp(reason, one.attempts, one.what.bytes_stored)
        try:
            await give_up(self._desk, one.entry, outcome)
        finally:
            self._open.pop(one.entry.seq, None)

    def _abandon_all(self) -> None:
        """Tell that the files which are open will not be finished in this run."""
        for one in list(self._open.values()):
            self._abandon(one)

    def _abandon(self, one: Ready) -> None:
        """Tell that a file will not be finished in this run."""
        del self._open[one.entry.seq]
        if isinstance(one.what, Adoptable):
            return  # nothing of it was begun
        if isinstance(one.what.content, Part):
            one.what.content.close()
        job = one.entry.job
        self._desk.sink(
            DownloadCancelled(
                id=job.id,
                file_name=job.file_name,
                variant=one.entry.variant,
                bytes_done=one.what.bytes_stored,
            )
        )


def _note_sealed(one: Ready, sealable: Sealable) -> None:
    """Keep the digest of a file that is in place, and not its bytes: the record comes next."""
    if isinstance(one.what, Fetched):
        one.what.sha256 = sealable.sha256
        one.what.content = b""


def _sealable(one: Ready, path: str, parts: Parts) -> Sealable:
    what = one.what
    if isinstance(what, Adoptable):
        raise TypeError("a file that is in place is not sealed")
    marked_at = one.entry.job.marked_at
    return Sealable(
        content=what.content,
        part_path=what.content.path if isinstance(what.content, Part) else parts.path(one.key),
        path=path,
        mtime_ns=None if marked_at is None else mtime_ns(marked_at),
        sha256=what.sha256,
        bytes_stored=what.bytes_stored,
        may_replace=was_ours(one.entry, path),
    )
