"""Unfinished files: `partial/<key>.part` with a journal `<key>.journal` beside it.

A stretch that is fetched ahead lies at its place in the same data, with a journal
`<key>@<start>.journal` of its own, whose lengths count from there. Data and journal are fsynced
every 32 MiB or 5 s. What is trusted after a crash is what the journal proves: see `journal`.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from fetcher.core.names import is_device
from fetcher.core.proof import Digester
from fetcher.errors import StorageError
from fetcher.files.direct import Detour, Writer
from fetcher.files.journal import (
    LENGTH,
    Proven,
    Version,
    checkpoints,
    feed,
    header,
    line,
    parse_header,
    prove,
)
from fetcher.files.trouble import explained
from fetcher.frozen import frozen
from fetcher.models import Partial

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from fetcher.files.journal import Checkpoint
    from fetcher.models import JobId, Variant

SYNC_BYTES = 32 << 20
SYNC_AFTER_S = 5.0
_SAFE_ID = re.compile(r"[0-9a-z][0-9a-z_-]{0,63}")
_DATA = ".part"
_JOURNAL = ".journal"
_STRETCH_MARK = "@"  # in no key of a file
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError)  # a journal, or its data


def part_key(job_id: JobId, variant: Variant) -> str:
    """Return the name that a job's unfinished file has, whatever its link or path."""
    key = f"{job_id}.{variant}"
    if _SAFE_ID.fullmatch(job_id) and not is_device(key):
        return key
    return f"~{hashlib.sha256(job_id.encode()).hexdigest()}.{variant}"  # no id begins so


def open_anew(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """Return a new file, open; what stands there is removed, and no link is followed.

    For files that are only written and then renamed. Raises OSError.
    """
    flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        return os.open(path, flags, mode)
    except FileExistsError:
        os.unlink(path)  # noqa: PTH108 - may be text
        return os.open(path, flags, mode)


@frozen
class Where:
    """Where bytes of an unfinished file lie: from `start` on in `data`, proven by `journal`."""

    data: Path
    journal: Path
    start: int = 0


class Part:
    """Bytes of one unfinished file from `start` on, open for appending. One call at a time.

    Mostly all of it, from 0 on; a stretch ahead lies in the same data, and has a journal of
    its own.
    """

    def __init__(self, where: Where, version: Version, proven: Proven, detour: Detour) -> None:
        self.path = where.data
        self.version = version
        self.digester = proven.digester
        self.bytes_written = proven.length
        self._start = where.start
        self._journal_path = where.journal
        self._synced_bytes = 0  # no fsync is known to have covered what a killed process wrote
        self._synced_at_s = time.monotonic()
        self._log_fd = -1
        begins_anew = not proven.length and not where.start
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with explained(self.path):
            self._fd = os.open(self.path, flags | (os.O_TRUNC if begins_anew else 0), 0o666)
            try:
                if proven.noted:
                    self._begin_journal(proven.noted)
            except BaseException:
                os.close(self._fd)
                raise
        self._writer = Writer(self._fd, detour)

    def _begin_journal(self, proven: Sequence[Checkpoint] = ()) -> None:
        """Begin a journal with what one before it proves, else with how far the file is good.

        All of that, since nobody knows which of those bytes a power cut would still take.
        """
        fresh = self._journal_path.with_name(self._journal_path.name + ".new")
        fd = open_anew(fresh, os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb", closefd=False) as journal:
                journal.write(header(self.version))
                journal.writelines(line(*one) for one in proven or [self._checkpoint()])
            if proven:
                os.fsync(fd)  # it takes the place of a journal that may be durable
            fresh.replace(self._journal_path)
        except BaseException:
            os.close(fd)
            raise
        self._log_fd = fd

    def restate(self, version: Version) -> None:
        """Say what version this is a part of, now that more is known of it; in the journal too.

        Its lines stay: each of them proves what an fsync may have covered.
        """
        self.version = version
        if self._log_fd < 0:
            return
        noted: tuple[Checkpoint, ...] = ()
        with contextlib.suppress(*_UNREADABLE):
            noted = tuple(_read(self._journal_path)[1])
        before = self._log_fd
        with explained(self.path):
            self._begin_journal(noted)
            os.close(before)

    def _note(self) -> None:
        """Note how far the file is good."""
        if self._log_fd >= 0:
            os.write(self._log_fd, line(*self._checkpoint()))
        elif self.bytes_written:
            self._begin_journal()

    def _checkpoint(self) -> Checkpoint:
        return self.bytes_written, self.digester.sha256_hex()

    def append(self, data: bytes | bytearray | memoryview) -> bool:
        """Write `data`, hash it, and note in the journal how far the file is good.

        Returns whether `checkpoint` is due. What a full disk still takes of it is kept.
        """
        view = memoryview(data)
        with explained(self.path):
            try:
                while view:
                    count = self._writer.write(view, self._start + self.bytes_written)
                    self.digester.update(view[:count])
                    self.bytes_written += count
                    view = view[count:]
            finally:
                self._note()
        is_much = self.unsynced_bytes >= SYNC_BYTES
        return is_much or time.monotonic() - self._synced_at_s >= SYNC_AFTER_S

    def count_in(self, end: int, most_bytes: int) -> bool:
        """Count in what follows in the data up to `end`; return whether there is more of it.

        It was written as a stretch. No more than `most_bytes` in one go.
        """
        with explained(self.path), self.path.open("rb") as data:
            data.seek(self.bytes_written)
            wanted = max(0, min(end - self.bytes_written, most_bytes))
            self.bytes_written += wanted - feed(data, self.digester, wanted)
            self._note()
        return self.bytes_written < end and wanted == most_bytes

    def cut_off(self) -> None:
        """Remove whatever lies in the data behind what is proven."""
        with explained(self.path):
            os.ftruncate(self._fd, self.bytes_written)

    def checkpoint(self, threads: Executor) -> None:
        """Begin to make durable what is here, on a thread of its own, while more is appended.

        Data first, then the journal. A disk that fails here fails the next write, or the
        fsync at the end, which everything waits for. Without a descriptor to spare, it is
        left to the next time.
        """
        fds: list[int] = []
        try:
            fds += [os.dup(self._fd)]
            fds += [os.dup(self._log_fd)]
        except OSError:
            for fd in fds:
                os.close(fd)
            return
        self._synced_bytes, self._synced_at_s = self.bytes_written, time.monotonic()
        threads.submit(_sync_and_close, fds)

    def sync(self) -> None:
        """Make durable what is here, journal included."""
        with explained(self.path):
            for fd in (self._fd, self._log_fd):
                if fd >= 0:
                    os.fdatasync(fd)
        self._synced_bytes, self._synced_at_s = self.bytes_written, time.monotonic()

    @property
    def unsynced_bytes(self) -> int:
        """How much of what is here a power cut could still take."""
        return self.bytes_written - self._synced_bytes

    def partial(self) -> Partial:
        """Return what is here as the value that the next request is made from."""
        return Partial(self.bytes_written, self.version.bytes_total, self.version.validator)

    def digest_again(
        self, need: Iterable[str], *, start: int = 0, end: int | None = None
    ) -> Digester:
        """Return a digester with more algorithms that has eaten [start, end) as it is on disk.

        All that is here of the file where no `end` is given.
        """
        digester = Digester(need)
        with explained(self.path), self.path.open("rb") as data:
            data.seek(start)
            feed(data, digester, (self.bytes_written if end is None else end) - start)
        return digester

    def finish(self, mtime_ns: int | None) -> None:
        """Make the whole file durable with that modification time, and close it."""
        with explained(self.path):
            if mtime_ns is not None:
                os.utime(self._fd, ns=(mtime_ns, mtime_ns))
            os.fsync(self._fd)
            self.close()

    def forget(self) -> None:
        """Drop the journal of a file that has been renamed into place."""
        with explained(self._journal_path):
            self._journal_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close both files; what is in them stays for the next attempt."""
        for fd in (self._fd, self._log_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._log_fd = -1


def _sync_and_close(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.fdatasync(fd)
        os.close(fd)


def _read(journal: Path) -> tuple[Version, Iterator[Checkpoint]]:
    """Return what a journal says; raises one of `_UNREADABLE`."""
    lines = journal.read_bytes().split(b"\n")
    return parse_header(lines[0]), checkpoints(lines[1:])


class Parts:
    """The folder of unfinished files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._detour = Detour()
        self._no_detour = Detour(is_possible=False)

    def path(self, key: str) -> Path:
        """Return where the data of that unfinished file is."""
        return self.folder / f"{key}{_DATA}"

    def size(self, key: str) -> int:
        """Return the bytes on disk of that unfinished file, proven or not; 0 without one.

        Holes between stretches are no bytes.
        """
        try:
            found = os.lstat(f"{self.folder}/{key}{_DATA}")
        except OSError:
            return 0
        return min(found.st_size, 512 * found.st_blocks or found.st_size)

    def keys(self) -> set[str]:
        """Return the keys of all unfinished files; none where the folder cannot be read."""
        try:
            with os.scandir(self.folder) as found:
                names = [one.name for one in found]
        except OSError:
            return set()
        return {name.removesuffix(_DATA) for name in names if name.endswith(_DATA)}

    def is_empty(self) -> bool:
        """Return whether nothing at all lies in the folder; false where it cannot be read."""
        try:
            with os.scandir(self.folder) as found:
                return next(found, None) is None
        except OSError:
            return False

    def begin(self, key: str, version: Version) -> Part:
        """Return an empty part for a body of that version; what was there is dropped."""
        need = [one.algorithm for one in version.digests]
        return Part(self._where(key), version, Proven(0, Digester(need)), self._detour)

    def recover(self, key: str) -> Part | None:
        """Return the part as far as its journal proves it, None when nothing is proven."""
        part = self._recovered(self._where(key), self._detour)
        if part is not None and not any(self._stretch_journals(key)):
            part.cut_off()
        return part

    def claim(self, key: str, most_bytes: int) -> Partial | None:
        """Return what the journal of an unfinished file says of it, nothing of that proven.

        None where it says nothing, there are stretches, or more than `most_bytes` on disk.
        """
        where = self._where(key)
        try:
            size = os.lstat(where.data).st_size
            if size > most_bytes or any(self._stretch_journals(key)):
                return None
            version, noted = _read(where.journal)
        except _UNREADABLE:
            return None
        length = max((length for length, _ in noted), default=0)
        return Partial(length, version.bytes_total, version.validator) if length <= size else None

    def begin_stretch(self, key: str, start: int, version: Version) -> Part:
        """Return the empty part of the file's bytes from `start` on.

        Its bytes go through the page cache: they are read again soon.
        """
        where = self._where(key, start)
        nothing = Proven(0, Digester())
        return Part(where, replace(version, digests=()), nothing, self._no_detour)

    def recover_stretches(self, key: str) -> list[tuple[int, Part]]:
        """Return (start, part) of every stretch of the file that a journal proves."""
        found: list[tuple[int, Part]] = []
        try:
            for journal in self._stretch_journals(key):
                start = journal.name.removesuffix(_JOURNAL).rpartition(_STRETCH_MARK)[2]
                if LENGTH.fullmatch(start):
                    part = self._recovered(self._where(key, int(start)), self._no_detour)
                    if part is not None:
                        found.append((int(start), part))
        except BaseException:
            for _, part in found:
                part.close()
            raise
        return found

    def _where(self, key: str, start: int = 0) -> Where:
        mark = f"{_STRETCH_MARK}{start}" if start else ""
        return Where(self.path(key), self.folder / f"{key}{mark}{_JOURNAL}", start)

    def _stretch_journals(self, key: str) -> Iterator[Path]:
        return self.folder.glob(f"{glob.escape(key)}{_STRETCH_MARK}*{_JOURNAL}")

    def _recovered(self, where: Where, detour: Detour) -> Part | None:
        try:
            version, noted = _read(where.journal)
            data = where.data.open("rb")
        except _UNREADABLE:
            return None
        need = [one.algorithm for one in version.digests]
        with data, explained(where.data):
            proven = prove(data, where.start, noted, need)
        return None if proven is None else Part(where, version, proven, detour)

    def forget_stretch(self, key: str, start: int) -> None:
        """Remove the journal of a stretch; its bytes count as never written."""
        journal = self._where(key, start).journal
        with explained(journal):
            journal.unlink(missing_ok=True)

    def discard(self, key: str) -> None:
        """Remove the unfinished file, its journal and its stretches, where they are."""
        path = self.path(key)
        with explained(path):
            for leftover in (*self._stretch_journals(key), self._where(key).journal, path):
                leftover.unlink(missing_ok=True)

    def purge(self, *, keep: Iterable[str] = ()) -> None:
        """Remove every file in the folder but those of the keys to keep; no folders.

        A link in the place of the folder is not followed. Raises StorageError.
        """
        kept = {f"{key}{end}" for key in keep for end in (_DATA, _JOURNAL)}
        try:
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                with os.scandir(fd) as found:
                    files = [one.name for one in found if not one.is_dir(follow_symlinks=False)]
                for name in files:
                    if name not in kept:
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(name, dir_fd=fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be emptied: {error.strerror}") from error
