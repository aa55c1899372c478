"""What a page of history changes in the manifest. Pure: records in, rows and counts out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fetcher.core.plan import TODO, classify
from fetcher.frozen import frozen
from fetcher.manifest.rows import job_values, to_us
from fetcher.models import State, Status, Variant

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence
    from datetime import datetime

    from fetcher.core.filters import Rules
    from fetcher.core.plan import Known
    from fetcher.models import Job, JobId


_LEFT = frozenset({State.FILTERED, State.REJECTED})


class Listed(NamedTuple):
    """One listed job after its page was absorbed; `before` is None for a new one."""

    seq: int
    job: Job
    before: State | None
    after: State


@frozen
class Restamp:
    """A complete file whose record has a newer `updated_at`: so must its time on disk."""

    path: str
    before: datetime | None
    after: datetime


@frozen
class Absorbed:
    """One page after it was absorbed; `queued` files got a ticket."""

    listed: list[Listed]
    queued: int
    restamped: list[Restamp]

    @property
    def new(self) -> int:
        """Return how many jobs were not known before."""
        return sum(1 for one in self.listed if one.before is None)


@frozen
class Intake:
    """How a listing turns into work: the filters, and whether originals are wanted.

    Tickets up to `run_base` are from earlier runs; a failed file with a ticket up to
    `retry_base` may be tried again, and so may one whose record has changed since.
    `left_out`: rows that this run has left out itself (`--max-downloads`). `is_spent`: it may
    download no more, so that only what may lie on disk already is worth a ticket: nothing
    where the run began with a `bare` folder, and nothing that was left out before.
    """

    rules: Rules
    originals: bool
    run_base: int
    retry_base: int
    left_out: Container[int] = ()
    is_spent: bool = False
    is_bare: bool = False

    def classify(self, job: Job, known: Known | None) -> State:
        """Return the state of a file after a listing has shown its job."""
        state = classify(job, known, self.rules)
        if state not in TODO or (known is not None and known.state in TODO):
            return state
        if known is not None and known.state is State.FILTERED:
            stays_out = self.is_spent or known.seq in self.left_out
        else:
            stays_out = self.is_spent and self.is_bare
        return State.FILTERED if stays_out else state

    def wants_ticket(self, known: Known, state: State, *, is_changed: bool) -> bool:
        """Return whether a known file joins the queue (again) of this run."""
        if state not in TODO:
            return False
        if known.state not in TODO or known.ticket <= self.run_base:
            return True
        may_retry = is_changed or known.ticket <= self.retry_base
        return known.state is State.FAILED and may_retry


class PageChanges:
    """The rows that one page adds and changes; `add` every job, then `add_originals`."""

    def __init__(self, intake: Intake, last_seq: int, last_ticket: int) -> None:
        self.intake = intake
        self.last_seq = last_seq
        self.last_ticket = last_ticket
        self.listed: list[Listed] = []
        self.inserts: list[tuple[Any, ...]] = []
        self.updates: list[tuple[Any, ...]] = []
        self.known_originals: dict[JobId, Known] = {}
        self.newer: list[tuple[Known, datetime]] = []
        self.queued = 0
        self._originals: list[JobId] = []  # of jobs whose original is to be fetched

    def add(self, job: Job, known: Known | None) -> None:
        """Take a job and what is known of its denoised file."""
        state = self.intake.classify(job, known)
        seq = self._write(job, known, state, Variant.DENOISED)
        self.listed.append(Listed(seq, job, known.state if known else None, state))

    def add_originals(self) -> None:
        """Take the originals of the jobs that were added."""
        for one in self.listed:
            job, known = one.job, self.known_originals.get(one.job.id)
            if concerns_original(job, one.after, known):
                state = self.intake.classify(job, known)
                self._write(job, known, state, Variant.ORIGINAL)
                if state in TODO:
                    self._originals.append(job.id)

    def to_come(self) -> Iterator[JobId]:
        """Yield the jobs, some twice, whose record here is that of a file still to come.

        A job that is to be fetched although it is listed as unfinished has a record that
        lags behind.
        """
        for one in self.listed:
            is_done = one.after in TODO and one.job.status is Status.SUCCESS
            if is_done or one.after is State.WAITING:
                yield one.job.id
        yield from self._originals

    def dropped(self) -> list[int]:
        """Return the rows that were still to come and are not any more."""
        return [
            one.seq
            for one in self.listed
            if one.after in _LEFT and one.before is not None and one.before not in _LEFT
        ]

    def _write(self, job: Job, known: Known | None, state: State, variant: Variant) -> int:
        if known is None:
            return self._insert(job, state, variant)
        if state in TODO and job.status is not Status.SUCCESS:
            return known.seq  # an event stream knows more than this listing: keep its link
        ticket = known.ticket
        is_changed = known.status != job.status or known.updated_us != to_us(job.updated_at)
        queued = self.intake.wants_ticket(known, state, is_changed=is_changed)
        if queued and state is State.FAILED:
            state = State.QUEUED  # while it is under way nobody may queue it as failed once more
        if queued:
            ticket = self._ticket()
        if known.state is State.COMPLETE:
            if job.updated_at is not None and known.updated_us != to_us(job.updated_at):
                self.newer.append((known, job.updated_at))
            return known.seq
        if queued or is_changed or known.state is not state:
            self.updates.append((*job_values(job), str(state), ticket, known.seq))
        return known.seq

    def _insert(self, job: Job, state: State, variant: Variant) -> int:
        ticket = self._ticket() if state in TODO else 0
        self.last_seq += 1
        self.inserts.append((*job_values(job), str(variant), str(state), ticket, self.last_seq))
        return self.last_seq

    def _ticket(self) -> int:
        self.last_ticket += 1
        self.queued += 1
        return self.last_ticket


def wants_original(job: Job, clean: State) -> bool:
    """Return whether a job's original is to be fetched, by the state of its clean file."""
    is_wanted = job.status is Status.SUCCESS and clean is not State.FILTERED
    return is_wanted and bool(job.original_audio_url)


def concerns_original(job: Job, clean: State, known: Known | None) -> bool:
    """Return whether a listing decides about a job's original: what to fetch, or no longer."""
    is_to_come = known is not None and known.state in TODO
    return wants_original(job, clean) or (is_to_come and job.status is not Status.SUCCESS)


def distinct(jobs: Sequence[Job]) -> dict[JobId, Job]:
    """Return the jobs by id; of one that stands twice, the record that is further along."""
    unique: dict[JobId, Job] = {}
    for job in jobs:
        before = unique.get(job.id)
        if before is None or before.status is not Status.SUCCESS:
            unique[job.id] = job
    return unique
