"""The dry run: one pass over the history that ends at the plan. Writes nothing, not even DIR."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from fetcher.core.complaints import Complaints
from fetcher.core.extensions import FALLBACK_EXTENSION, extension_of_url
from fetcher.core.names import SHORT_ID_CHARACTERS, path_key
from fetcher.core.plan import TODO, Action, Decision, classify, decide, explain
from fetcher.events import Planned, RecordInvalid, RunCompleted
from fetcher.files.places import TakenError
from fetcher.manifest.draft import Draft
from fetcher.manifest.listing import concerns_original, distinct
from fetcher.manifest.reader import Reader
from fetcher.models import Entry, State, Status, Variant
from fetcher.runs.assembly import api_of, destination_of, eye_of, history_of, rules_of
from fetcher.runs.look import TAKEN, was_ours
from fetcher.threads import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from concurrent.futures import Executor

    from fetcher.configuration.settings import Settings
    from fetcher.core.filters import Rules
    from fetcher.core.plan import Known
    from fetcher.core.wire import Page
    from fetcher.errors import PlaceError
    from fetcher.events import Event, Sink
    from fetcher.models import Job
    from fetcher.runs.destination import Destination
    from fetcher.runs.history import History
    from fetcher.runs.look import Eye

P = ParamSpec("P")
T = TypeVar("T")

_BATCH = 256  # as many files as a run takes from its queue at once
_FIRST = (0, 0)  # a ticket and a row, both before all that may be fetched
_FETCHED = frozenset({Action.DOWNLOAD, Action.RESUME, Action.ADOPT})


@dataclass(slots=True)
class _Planner:
    """Decides page by page, then what no page has shown.

    `told`: events not handed on yet. `listed`: the files that are being decided.
    """

    settings: Settings
    reader: Reader
    draft: Draft
    eye: Eye
    rules: Rules
    told: list[Event] = field(default_factory=list)
    listed: list[Entry] = field(default_factory=list)
    complaints: Complaints = field(default_factory=Complaints)
    begun: int = 0

    def plan(self, page: Page) -> None:
        """Tell of what would be done with every record that is seen for the first time."""
        for bad in self.complaints.news(page):
            self.told.append(RecordInvalid(reason=bad.reason, id=bad.id, file_name=bad.file_name))
        clean = self._listed(distinct(page.jobs).values(), Variant.DENOISED)
        self._decide_all(clean)
        if self.settings.originals:  # after the clean files of the page, as they are queued
            known = self.reader.look_up([entry.job.id for entry in clean], Variant.ORIGINAL)
            originals = [
                entry.job
                for entry in clean
                if concerns_original(entry.job, entry.state, known.get(entry.job.id))
            ]
            self._decide_all(self._listed(originals, Variant.ORIGINAL))

    def _decide_all(self, entries: list[Entry]) -> None:
        self.listed = entries
        for entry in entries:
            self._decide(entry)

    def plan_left(self, after: tuple[int, int]) -> tuple[int, int] | None:
        """Tell of what earlier runs left and no page has queued (`Queue.requeue`), a batch.

        `after`: where the last one ended. Returns where this one did, None when nothing is left.
        """
        rows = self.reader.left(after, _BATCH)
        for _, row in rows:
            is_wanted = self.settings.originals or row.variant is Variant.DENOISED
            if is_wanted and not self.draft.has(row.job.id, row.variant):
                state = State.FILTERED if self.rules.refuse(row.job) else row.state
                self._decide(self._with_path(row._replace(state=state)))
                if row.variant is Variant.ORIGINAL:
                    self._count_clean(row.job)
        return (rows[-1][0], rows[-1][1].seq) if rows else None

    def _count_clean(self, job: Job) -> None:
        """Count a job whose original is left, unless its clean file is to come by itself."""
        known = self.reader.look_up([job.id]).get(job.id)
        if known is not None and not (known.state in TODO and known.ticket >= 0):
            action = explain(job, known.state, self.rules).action
            self.draft.note(job.id, Variant.DENOISED, action)

    def _listed(self, jobs: Collection[Job], variant: Variant) -> list[Entry]:
        """Return the rows that these files would have once they are listed, new ones only.

        What a listing leaves as it is comes later, with what earlier runs left: a file that
        an event stream has called done, while the list does not yet.
        """
        known = self.reader.look_up([job.id for job in jobs], variant)
        entries: list[Entry] = []
        for job in jobs:
            if self.draft.has(job.id, variant):
                continue
            found = known.get(job.id)
            state = classify(job, found, self.rules)
            if found is not None and state in TODO and job.status is not Status.SUCCESS:
                continue
            entries.append(self._row(job, variant, state, found))
        return entries

    def _row(self, job: Job, variant: Variant, state: State, known: Known | None) -> Entry:
        """Return the row of a listed file, with the path that an earlier run gave it."""
        row = None
        if known is not None and state in TODO:
            row = self.reader.entry(job.id, variant)
        if row is None:
            return Entry(0, job, variant, state)
        return self._with_path(row._replace(job=job, state=state))

    def _with_path(self, row: Entry) -> Entry:
        """Return the row, without its path where another template has given it.

        Only what was complete once keeps it then (`Files.forget_paths`).
        """
        is_kept = row.sha256 is not None or self.reader.get("output") == self.settings.output
        return row if is_kept else row._replace(path=None)

    def _decide(self, entry: Entry) -> None:
        """Tell of what would be done with a file in that state, and keep it."""
        job, path = entry.job, None
        if entry.state in TODO and job.url(entry.variant):
            decision, path = self._fetch(entry)
        else:
            decision = explain(job, entry.state, self.rules)
        self.draft.note(job.id, entry.variant, decision.action)
        self.told.append(
            Planned(
                id=job.id,
                file_name=job.file_name,
                action=str(decision.action),
                reason=decision.reason,
                path=path,
                variant=str(entry.variant),
            )
        )

    def _fetch(self, entry: Entry) -> tuple[Decision, str | None]:
        """Return what a transfer would do, and where the file would go, None if that is open."""
        local = self.eye.look(entry)
        if local.found not in {None, entry.path}:
            local = self.eye.look(entry, self.eye.rivals(self._namesakes(entry)))
        if local.found and not self._is_free(path_key(local.found), entry.job):
            local = replace(local, found=None)
        decision = self._within_budget(decide(local))
        if decision.action is Action.FILTER:
            return decision, None
        if local.found:
            self.draft.claim(path_key(local.found), entry.job.id)
            return decision, local.found
        extension = extension_of_url(entry.job.url(entry.variant) or "", variant=entry.variant)
        path, trouble = self._place(entry, extension or FALLBACK_EXTENSION)
        if trouble is not None:
            return Decision(Action.FAIL, str(trouble)), None
        return decision, path if extension or path == entry.path else None

    def _namesakes(self, entry: Entry) -> list[Entry]:
        """Return the files, as far as they are known, that may have the paths of this one."""
        beginning = entry.job.id[:SHORT_ID_CHARACTERS]
        listed = [
            one
            for one in self.listed
            if one.state is not State.COMPLETE and one.job.id.startswith(beginning)
        ]
        return [*self.reader.namesakes(entry.job.id), *listed]

    def _is_free(self, key: str, job: Job) -> bool:
        """Return whether a path is no other job's."""
        return (self.draft.owner(key) or self.reader.owner(key)) in {None, job.id}

    def _within_budget(self, decision: Decision) -> Decision:
        """Return the decision, or that the file is left out: originals count as well."""
        most = self.settings.max_downloads
        if decision.action is Action.ADOPT:
            return decision
        if most is None or self.begun < most:
            self.begun += 1
            return decision
        return Decision(Action.FILTER, f"beyond --max-downloads {most}")

    def _place(self, entry: Entry, extension: str) -> tuple[str | None, PlaceError | None]:
        """Return where the file would be put, and what would hinder that, as in `Finisher`."""
        trouble: PlaceError = TakenError(TAKEN)
        for path, key in self.eye.candidates(entry, extension):
            if not self._is_free(key, entry.job):
                continue
            found = self.eye.places.trouble(path, over_file=was_ours(entry, path))
            if not isinstance(found, TakenError):
                self.draft.claim(key, entry.job.id)
                return path, found
            trouble = found
        return None, trouble


class Plan:
    """What a backfill would do; `destination` is where it would write."""

    def __init__(
        self, destination: Destination, history: History, planner: _Planner, sink: Sink
    ) -> None:
        self.destination = destination
        self._history = history
        self._planner = planner
        self._sink = sink
        self._began_s = time.monotonic()

    async def make(self) -> None:
        """Tell of every action a backfill would take.

        A cancellation waits for the page that is being decided, and tells of it.
        Raises KeyRefusedError, ApiError, ManifestError, StorageError.
        """
        planner = self._planner
        with ThreadPoolExecutor(1) as thread:
            may_be_empty = await run(thread, planner.reader.is_empty)
            async with aclosing(self._history.pages(may_be_empty=may_be_empty)) as pages:
                async for page in pages:
                    await self._told(thread, planner.plan, page)
            after: tuple[int, int] | None = _FIRST
            while after is not None:
                after = await self._told(thread, planner.plan_left, after)

    async def _told(
        self, thread: Executor, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what `step` returns, and hand on what it has told, on the event loop."""
        try:
            return await run(thread, step, *args, **kwargs)
        finally:
            for event in self._planner.told:
                self._sink(event)
            self._planner.told.clear()

    async def completed(self, exit_code: int) -> RunCompleted:
        """Return the final event: what was decided so far, which adds up.

        `exit_code`: 0 where the plan came to its end, which stays where no file would fail.
        Raises StorageError.
        """
        counts = await asyncio.to_thread(self._planner.draft.counts)
        return RunCompleted(
            records=counts.total(),
            already=counts[Action.SKIP],
            failed=counts[Action.FAIL],
            pending=counts[Action.WAIT] + sum(counts[action] for action in _FETCHED),
            rejected=counts[Action.REJECT],
            filtered=counts[Action.FILTER],
            invalid=self._planner.complaints.count,
            seconds=round(time.monotonic() - self._began_s, 3),
            exit_code=exit_code or (1 if counts[Action.FAIL] else 0),
        )


@contextlib.asynccontextmanager
async def planning(settings: Settings, sink: Sink) -> AsyncIterator[Plan]:
    """Give a plan that is still to be made, with the manifest and a session with the API open.

    Raises UsageError (no key), StorageError, ManifestError.
    """
    settings.read_key()
    destination = destination_of(settings)
    await asyncio.to_thread(destination.check)
    with Reader(destination.manifest) as reader, Draft() as draft:
        destination.refuse_manifest_of(reader.get("dest"))
        async with api_of(settings) as api:
            planner = _Planner(settings, reader, draft, eye_of(settings), rules_of(settings))
            yield Plan(destination, history_of(settings, api, sink), planner, sink)
