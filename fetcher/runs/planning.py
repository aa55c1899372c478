"""The dry run: one pass over the history that ends at the plan. Writes nothing, not even DIR."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fetcher.core.extensions import extension_of_url
from fetcher.core.names import path_key
from fetcher.core.plan import TODO, Action, Decision, classify, decide, explain
from fetcher.events import Planned, RecordInvalid, RunCompleted
from fetcher.manifest.listing import distinct, wants_original
from fetcher.manifest.reader import Reader
from fetcher.models import Entry, Job, State, Variant
from fetcher.runs.assembly import api_of, destination_of, eye_of, history_of, rules_of
from fetcher.threads import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fetcher.configuration.settings import Settings
    from fetcher.core.filters import Rules
    from fetcher.core.plan import Local
    from fetcher.core.wire import Page
    from fetcher.events import Sink
    from fetcher.runs.destination import Destination
    from fetcher.runs.history import History
    from fetcher.runs.look import Eye


@dataclass(slots=True)
class _Planner:
    """Decides one page after the other."""

    settings: Settings
    sink: Sink
    reader: Reader
    eye: Eye
    rules: Rules
    counts: Counter[Action] = field(default_factory=Counter)
    reported: set[str] = field(default_factory=set)
    begun: int = 0

    def plan(self, page: Page) -> None:
        """Tell of what would be done with every record that is seen for the first time."""
        for bad in page.invalid:
            if bad.key not in self.reported:
                self.reported.add(bad.key)
                self.sink(RecordInvalid(reason=bad.reason, id=bad.id, file_name=bad.file_name))
        jobs = [job for job in distinct(page.jobs).values() if self.reader.first_seen(job.id)]
        clean = self._states(jobs, Variant.DENOISED)
        for job, state in zip(jobs, clean, strict=True):
            self.counts[self._decide(job, Variant.DENOISED, state).action] += 1
        if self.settings.originals:  # after the clean files of the page, as they are queued
            wanted = [
                job for job, state in zip(jobs, clean, strict=True) if wants_original(job, state)
            ]
            originals = self._states(wanted, Variant.ORIGINAL)
            for job, state in zip(wanted, originals, strict=True):
                self._decide(job, Variant.ORIGINAL, state)

    def _states(self, jobs: list[Job], variant: Variant) -> list[State]:
        """Return the states that these files would have once they are listed."""
        known = self.reader.look_up([job.id for job in jobs], variant)
        return [classify(job, known.get(job.id), self.rules) for job in jobs]

    def _decide(self, job: Job, variant: Variant, state: State) -> Decision:
        """Tell of what would be done with a file in that state, and return it."""
        path = None
        if state in TODO and job.url(variant):
            entry = Entry(0, job, variant, state)
            local = self._without_others(self.eye.look(entry), job)
            decision = self._within_budget(decide(local))
            path = local.found or self._path(entry)
        else:
            decision = explain(job, state, self.rules)
        self.sink(
            Planned(
                id=job.id,
                file_name=job.file_name,
                action=str(decision.action),
                reason=decision.reason,
                path=path,
                variant=str(variant),
            )
        )
        return decision

    def _without_others(self, local: Local, job: Job) -> Local:
        """Return what is on disk, but for a file that is another job's."""
        if local.found and self.reader.owner(path_key(local.found)) not in {None, job.id}:
            return replace(local, found=None)
        return local

    def _within_budget(self, decision: Decision) -> Decision:
        """Return the decision, or that the file is left out: originals count as well."""
        most = self.settings.max_downloads
        if decision.action is Action.ADOPT:
            return decision
        if most is None or self.begun < most:
            self.begun += 1
            return decision
        return Decision(Action.FILTER, f"beyond --max-downloads {most}")

    def _path(self, entry: Entry) -> str | None:
        """Return where the file would go, None while its extension is not known."""
        extension = extension_of_url(entry.job.url(entry.variant) or "", variant=entry.variant)
        if extension is None:
            return None
        render = self.eye.template.render
        path = render(entry.job, extension, variant=entry.variant)
        if self.reader.owner(path_key(path)) in {None, entry.job.id}:
            return path
        return render(entry.job, extension, variant=entry.variant, whole_id=True)


_FETCHED = frozenset({Action.DOWNLOAD, Action.RESUME, Action.ADOPT})


class Plan:
    """One pass over the history; `destination` is where a backfill would write."""

    def __init__(self, destination: Destination, history: History, planner: _Planner) -> None:
        self.destination = destination
        self._history = history
        self._planner = planner
        self._began_s = time.monotonic()

    async def make(self) -> None:
        """Tell of every action a backfill would take.

        A cancellation waits for the page that is being decided, so that nothing is told after.
        Raises KeyRefusedError, ApiError, ManifestError, StorageError.
        """
        planner = self._planner
        with ThreadPoolExecutor(1) as thread:
            may_be_empty = await run(thread, planner.reader.is_empty)
            async with aclosing(self._history.pages(may_be_empty=may_be_empty)) as pages:
                async for page in pages:
                    await run(thread, planner.plan, page)

    def completed(self, exit_code: int) -> RunCompleted:
        """Return the final event: what was decided so far, which adds up."""
        counts = self._planner.counts
        return RunCompleted(
            records=counts.total(),
            already=counts[Action.SKIP],
            pending=counts[Action.WAIT] + sum(counts[action] for action in _FETCHED),
            rejected=counts[Action.REJECT],
            filtered=counts[Action.FILTER],
            invalid=len(self._planner.reported),
            seconds=round(time.monotonic() - self._began_s, 3),
            exit_code=exit_code,
        )


@contextlib.asynccontextmanager
async def planning(settings: Settings, sink: Sink) -> AsyncIterator[Plan]:
    """Give a plan that is still to be made, with the manifest and a session with the API open.

    Raises UsageError (no key), StorageError, ManifestError.
    """
    settings.read_key()
    destination = destination_of(settings)
    await asyncio.to_thread(destination.check)
    with Reader(destination.manifest) as reader:
        async with api_of(settings) as api:
            planner = _Planner(settings, sink, reader, eye_of(settings), rules_of(settings))
            yield Plan(destination, history_of(settings, api, sink), planner)
