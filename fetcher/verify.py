"""`verify`: every file that was complete once, against the manifest; `--repair` mends.

Owns the check and what both tell at the end. The check reads disk and manifest only, on as
many threads as there are cores, and holds nothing but the row numbers of what is wrong.
Mending is `mending`'s.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fetcher.engine import STOPPED_BY_SIGINT, until_stopped
from fetcher.errors import FetcherError, LockedError
from fetcher.events import FileDamaged, Notice, RunCompleted, VerifyCompleted, VerifyProgress
from fetcher.files.checks import Finding, Problem, Recorded, examine
from fetcher.files.places import Places
from fetcher.manifest import schema
from fetcher.manifest.reader import Reader
from fetcher.models import State, Variant
from fetcher.refresh import unfiltered
from fetcher.runs.assembly import destination_of, opened
from fetcher.runs.mending import Mending
from fetcher.threads import run as run_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor

    from fetcher.engine import Fetcher
    from fetcher.events import Sink
    from fetcher.models import Entry
    from fetcher.runs.destination import Destination

_ROWS_AT_ONCE = 1000
_CHUNK_FILES = 32  # a hop to a thread costs 125 us, checking a small file 100
_CHUNK_BYTES = 64 << 20


async def verify(fetcher: Fetcher, sink: Sink, *, repair: bool = False) -> RunCompleted:
    """Check the files and, to `repair`, fetch again what is not whole; return the final event.

    Its `exit_code` is 1 where a file is not whole at the end. To repair, the destination is
    held from the start. Raises UsageError (no key) and LockedError then, and StorageError.
    """
    try:
        final = await _verified(fetcher, sink, repair=repair)
    except LockedError as error:
        final = fetcher.stop.instead_of(error)
    sink(final)
    return final


async def _verified(fetcher: Fetcher, sink: Sink, *, repair: bool) -> RunCompleted:
    """Check and mend, tell what was found, and return the account of it."""
    began_s = time.monotonic()
    destination = destination_of(fetcher.settings)
    await asyncio.to_thread(destination.check_readable)
    async with AsyncExitStack() as stack:
        mending = Mending(sink)
        if repair and await asyncio.to_thread(schema.exists, destination.manifest):
            held = opened(
                unfiltered(fetcher.settings),
                mending.note,
                command="verify --repair",
                is_stopped=fetcher.stop.is_asked,
            )
            mending.run = await stack.enter_async_context(held)
        is_alone = mending.run is not None
        check = Check(destination, sink, fetcher.stop.is_asked, is_alone)
        exit_code = await _end_of(check, mending, fetcher)
        completed = check.completed(len(mending.mended), time.monotonic() - began_s)
    sink(completed)
    return replace(
        check.account(mending.mended, mending.adopted),
        bytes=mending.bytes_stored,
        bytes_fetched=mending.bytes_fetched,
        seconds=completed.seconds,
        exit_code=exit_code,
    )


async def _end_of(check: Check, mending: Mending, fetcher: Fetcher) -> int:
    """Carry it all out; return the exit status that its end calls for (contract 1)."""

    async def work() -> None:
        await check.run()
        await mending.mend(check.broken)

    try:
        if not await until_stopped(work(), fetcher.stop):
            return fetcher.stop.exit_code or STOPPED_BY_SIGINT
    except FetcherError as error:
        check.sink(Notice("ERROR", str(error)))
        return error.exit_code
    finally:
        await mending.settle()
    return 1 if len(mending.mended) < len(check.broken) else 0


Found = list[tuple["Entry", Finding]]


@dataclass(slots=True)
class Check:
    """One check of every file. `is_alone`: no other process may write meanwhile.

    `broken` maps the row of each file that is not whole to the first such row of its job.
    """

    destination: Destination
    sink: Sink
    is_stopped: Callable[[], bool]
    is_alone: bool
    broken: dict[int, int] = field(default_factory=dict)
    _problems: Counter[Problem] = field(default_factory=Counter)
    _jobs: int = 0
    _files: int = 0
    _bytes: int = 0
    _total: int = 0

    async def run(self) -> None:
        """Check all files. Raises ManifestError, StorageError."""
        last = ("", "")
        with ThreadPoolExecutor(_cores(), thread_name_prefix="verify") as threads:
            self._total = await run_in(threads, self._count)
            while rows := await run_in(threads, self._read, last):
                last = (rows[-1].job.id, str(rows[-1].variant))
                async with asyncio.TaskGroup() as group:
                    for chunk in _chunks(rows):
                        group.create_task(self._check(chunk, threads))

    def completed(self, repaired: int, seconds: float) -> VerifyCompleted:
        """Return what was found so far."""
        return VerifyCompleted(
            files=self._files,
            intact=self._files - len(self.broken),
            missing=self._problems[Problem.MISSING],
            damaged=self._problems[Problem.DAMAGED],
            foreign=self._problems[Problem.FOREIGN],
            repaired=repaired,
            bytes=self._bytes,
            seconds=round(seconds, 3),
        )

    def account(self, mended: set[int], adopted: int) -> RunCompleted:
        """Return the account of the jobs whose files were checked; it adds up."""
        broken = set(self.broken.values())
        failed = {job for row, job in self.broken.items() if row not in mended}
        whole_again = len(broken) - len(failed)
        found = min(adopted, whole_again)
        return RunCompleted(
            records=self._jobs,
            downloaded=whole_again - found,
            adopted=found,
            already=self._jobs - len(broken),
            failed=len(failed),
        )

    def _count(self) -> int:
        with Reader(self.destination.manifest) as reader:
            return sum(one.files for one in reader.tallies() if one.state is State.COMPLETE)

    def _read(self, last: tuple[str, str]) -> list[Entry]:
        """Return the next rows, all files of a job together.

        The manifest is open only so long: checking may take hours.
        """
        with Reader(self.destination.manifest) as reader:
            rows = reader.stored(last, _ROWS_AT_ONCE)
        if len(rows) < _ROWS_AT_ONCE:
            return rows
        return [row for row in rows if row.job.id != rows[-1].job.id]

    async def _check(self, chunk: Sequence[Entry], threads: Executor) -> None:
        found = await run_in(threads, self._examine, chunk)
        if found and not self.is_alone:
            found = await run_in(threads, self._confirm, found)
        self._jobs += len({entry.job.id for entry in chunk})
        self._files += len(chunk)
        self._bytes += sum(entry.bytes_stored or 0 for entry in chunk)
        first_rows: dict[str, int] = {}
        for entry, finding in found:
            self.broken[entry.seq] = first_rows.setdefault(entry.job.id, entry.seq)
            self._tell(entry, finding)
        self.sink(VerifyProgress(self._files, max(self._total, self._files), self._bytes))

    def _examine(self, chunk: Sequence[Entry]) -> Found:
        places = Places(self.destination.root)
        found = [(entry, examine(places, _recorded(entry), self.is_stopped)) for entry in chunk]
        return [(entry, finding) for entry, finding in found if finding is not None]

    def _confirm(self, found: Found) -> Found:
        """Return the findings that still stand: a file may have been moved or fetched anew."""
        changed: list[Entry] = []
        same: Found = []
        with Reader(self.destination.manifest) as reader:
            for entry, finding in found:
                rows = reader.stored((entry.job.id, ""), len(Variant))
                row = next((one for one in rows if one.seq == entry.seq), entry)
                if _recorded(row) == _recorded(entry):
                    same.append((entry, finding))
                else:
                    changed.append(row)
        return same + self._examine(changed)

    def _tell(self, entry: Entry, finding: Finding) -> None:
        self._problems[finding.problem] += 1
        self.sink(
            FileDamaged(
                id=entry.job.id,
                file_name=entry.job.file_name,
                variant=entry.variant,
                path=entry.path or "",
                problem=str(finding.problem),
                reason=finding.reason,
            )
        )


def _recorded(entry: Entry) -> Recorded:
    return Recorded(entry.path or "", entry.bytes_stored, entry.sha256 or "")


def _chunks(rows: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Yield some jobs at a time: many with small files, or one with large ones."""
    chunk: list[Entry] = []
    size_bytes = 0
    for entry in rows:
        is_full = len(chunk) >= _CHUNK_FILES or size_bytes >= _CHUNK_BYTES
        if is_full and entry.job.id != chunk[-1].job.id:
            yield chunk
            chunk, size_bytes = [], 0
        chunk.append(entry)
        size_bytes += entry.bytes_stored or 0
    if chunk:
        yield chunk


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: what this process may use
    return len(affinity(0)) if affinity else os.cpu_count() or 1
