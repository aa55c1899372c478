"""What files are finished with, and how one that cannot be is recorded, counted and told.

`finish` puts files in place with it, `pipeline` gives up with it what never came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fetcher.events import DownloadCancelled, DownloadFailed, Notice, QueueGrew
from fetcher.frozen import frozen
from fetcher.manifest.store import Store
from fetcher.models import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor
    from datetime import datetime

    from fetcher.core.account import Account
    from fetcher.events import Sink
    from fetcher.files.parts import Parts
    from fetcher.files.space import Space
    from fetcher.manifest.manifest import Manifest
    from fetcher.models import Entry
    from fetcher.runs.companions import Companions
    from fetcher.runs.look import Eye
    from fetcher.transfers.outcomes import GivenUp


@frozen
class Done:
    """A recorded file, for hooks."""

    entry: Entry
    path: str
    bytes_stored: int
    sha256: str


@dataclass(slots=True)
class Desk:
    """What finishing works with.

    `companions` writes records beside files, None where nobody asked. `on_done` is called
    after the event of each file.
    """

    manifest: Manifest
    eye: Eye
    parts: Parts
    space: Space
    group_thread: Executor
    fsync_threads: Executor
    sink: Sink
    account: Account
    clock: Callable[[], float]
    now: Callable[[], datetime]
    on_done: Callable[[Done], Awaitable[None]]
    companions: Companions | None = None


async def give_up(desk: Desk, entry: Entry, outcome: GivenUp, *, for_good: bool = False) -> None:
    """Record, count and tell that a file is not fetched; `for_good` as in `Store.fail`."""
    state = State.FAILED
    # Every start has its end, also where a stop comes while this is recorded.
    try:
        state = await desk.manifest.do(
            Store.fail, entry.seq, outcome.reason, outcome.attempts, for_good=for_good
        )
    finally:
        desk.account.given_up(entry, state)
        if state is State.FAILED:
            _tell_failed(desk.sink, entry, outcome)
        else:
            _tell_unfinished(desk.sink, entry, outcome, state)


def _tell_failed(sink: Sink, entry: Entry, outcome: GivenUp) -> None:
    sink(
        DownloadFailed(
            id=entry.job.id,
            file_name=entry.job.file_name,
            variant=entry.variant,
            reason=outcome.reason,
            attempts=outcome.attempts,
        )
    )


def _tell_unfinished(sink: Sink, entry: Entry, outcome: GivenUp, state: State) -> None:
    """Tell of a file that did not come, of a job that is not listed as finished: no failure."""
    job = entry.job
    sink(QueueGrew(-1))
    sink(
        DownloadCancelled(
            id=job.id,
            file_name=job.file_name,
            variant=entry.variant,
            bytes_done=outcome.bytes_done,
        )
    )
    says = "pending" if state is State.WAITING else "failed"
    why = f"not fetched, as its job is listed as {says} after all: {outcome.reason}"
    sink(Notice("INFO", f"{why}: {job.file_name} ({job.id[:8]})"))
