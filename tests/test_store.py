"""What a run writes to the manifest: states, tickets, paths, and that nothing is forgotten."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fetcher.core.filters import Rules
from fetcher.errors import StorageError
from fetcher.manifest import schema
from fetcher.manifest.files import Stored
from fetcher.manifest.listing import Absorbed, Intake
from fetcher.manifest.manifest import Manifest
from fetcher.manifest.store import Store
from fetcher.models import Job, JobId, State, Status, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START = datetime(2025, 1, 1, tzinfo=UTC)
SHA256 = "ab" * 32


def job(number: int, status: Status = Status.SUCCESS, **fields: Any) -> Job:
    at = START + timedelta(minutes=number)
    is_done = status is Status.SUCCESS
    usual: dict[str, Any] = {
        "file_name": f"talk {number}.wav",
        "audio_url": f"https://files.example/{number}.wav" if is_done else None,
        "original_audio_url": f"https://files.example/{number}.mp4",
        "created_at": at,
        "updated_at": at + timedelta(seconds=30),
        "source_type": "audio",
    }
    return Job(JobId(f"job-{number}"), status, **(usual | fields))


def pending(number: int, **fields: Any) -> Job:
    return job(number, Status.PENDING, **fields)


def failed(number: int, **fields: Any) -> Job:
    return job(number, Status.FAILED, **({"error": "no speech"} | fields))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / schema.FILE_NAME


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(Store(path)) as opened:
        yield opened


def intake(store: Store, *, rules: Rules | None = None, originals: bool = False) -> Intake:
    """Return how a run that begins now takes listings in."""
    base = store.sync_tickets()
    return Intake(rules or Rules(), originals, run_base=base, retry_base=base)


def absorb(store: Store, *jobs: Job, **options: Any) -> Absorbed:
    """Absorb one page as a run of its own does."""
    return store.absorb(jobs, intake(store, **options), {})


def seqs(absorbed: Absorbed) -> dict[JobId, int]:
    return {one.job.id: one.seq for one in absorbed.listed}


def states(store: Store) -> dict[str, State]:
    ids = [JobId(f"job-{number}") for number in range(100)]
    return {str(job_id): known.state for job_id, known in store.look_up(ids).items()}


def complete(store: Store, seq: int, path: str = "a.wav") -> None:
    [taken] = store.claim([(seq, [(path, path)])])
    assert taken == path
    store.complete([Stored(seq, path, path, 1000, SHA256, START)])


# ---- a page of history -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "state"),
    [
        pytest.param(job(1), State.QUEUED, id="finished"),
        pytest.param(pending(1), State.WAITING, id="pending"),
        pytest.param(failed(1), State.REJECTED, id="failed by the service"),
    ],
)
def test_a_new_job_gets_the_state_that_its_status_calls_for(
    store: Store, listed: Job, state: State
) -> None:
    absorbed = absorb(store, listed)
    assert states(store) == {"job-1": state}
    assert absorbed.new == 1
    assert absorbed.queued == (state is State.QUEUED)
    assert [(one.before, one.after) for one in absorbed.listed] == [(None, state)]


def test_a_job_comes_back_as_it_was_listed(store: Store) -> None:
    listed = job(
        1,
        file_name="تسجيل صوتي 🎙️.wav",
        audio_duration_s=61.25,
        audio_size_bytes=2**62,
        user_id="u",
        transaction_id="t",
        audio_format="wav",
        created_at=datetime(1, 1, 1, tzinfo=UTC),
        updated_at=datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    )
    absorb(store, listed)
    [(_, entry)] = store.take(0, 10)
    assert entry.job == listed


def test_a_page_that_changes_nothing_writes_nothing(store: Store, path: Path) -> None:
    absorb(store, job(1), pending(2), failed(3))
    run = intake(store)
    store.absorb([job(1), pending(2), failed(3)], run, {})
    log = path.with_name(path.name + "-wal")
    before = log.stat().st_size, log.stat().st_mtime_ns
    absorbed = store.absorb([job(1), pending(2), failed(3)], run, {"fact": "told"})
    assert (log.stat().st_size, log.stat().st_mtime_ns) == before
    assert absorbed.new == absorbed.queued == 0
    assert store.get("fact") is None


def test_facts_are_recorded_along_with_new_jobs(store: Store) -> None:
    store.absorb([job(1)], intake(store), {"fact": "told"})
    assert store.get("fact") == "told"


TURNS = [
    pytest.param(pending(1), job(1), State.QUEUED, id="pending, finished"),
    pytest.param(pending(1), failed(1), State.REJECTED, id="pending, failed"),
    pytest.param(pending(1), pending(1), State.WAITING, id="pending, pending"),
    pytest.param(failed(1), job(1), State.QUEUED, id="failed, finished"),
    pytest.param(failed(1), pending(1), State.WAITING, id="failed, tried again"),
    pytest.param(job(1), pending(1), State.WAITING, id="finished, pending"),
    pytest.param(job(1), failed(1), State.REJECTED, id="finished, failed"),
]


@pytest.mark.parametrize(("before", "now", "state"), TURNS)
def test_a_job_that_is_listed_anew_takes_its_new_state(
    store: Store, before: Job, now: Job, state: State
) -> None:
    absorb(store, before)
    absorb(store, now)
    assert states(store) == {"job-1": state}


@pytest.mark.parametrize("now", [job(1), pending(1), failed(1)])
def test_what_is_complete_stays_complete(store: Store, now: Job) -> None:
    first = absorb(store, job(1))
    complete(store, seqs(first)[JobId("job-1")])
    absorbed = absorb(store, now._replace(file_name="renamed.wav"))
    assert states(store) == {"job-1": State.COMPLETE}
    assert absorbed.queued == 0
    assert store.take(0, 10) == []


def test_a_complete_job_with_a_newer_time_is_told_with_both(store: Store) -> None:
    first = absorb(store, job(1))
    complete(store, seqs(first)[JobId("job-1")], "here.wav")
    later = START + timedelta(days=9)
    [restamp] = absorb(store, job(1, updated_at=later)).restamped
    assert (restamp.path, restamp.before, restamp.after) == (
        "here.wav",
        job(1).updated_at,
        later,
    )
    assert absorb(store, job(1, updated_at=later)).restamped == []


def test_a_file_whose_job_is_updated_while_it_comes_is_told_with_both_times(store: Store) -> None:
    later = START + timedelta(days=9)
    done, other = seqs(absorb(store, job(1), job(2))).values()
    [(_, first), (_, second)] = store.take(0, 10)
    absorb(store, job(1, updated_at=later), job(2))
    stored = [
        Stored(seq, f"{seq}.wav", f"{seq}.wav", 1, SHA256, START, taken.job.marked_at)
        for seq, taken in ((done, first), (other, second))
    ]
    [changed] = store.complete(stored)
    assert (changed.path, changed.before, changed.after) == (
        f"{done}.wav",
        job(1).updated_at,
        later,
    )


def test_a_file_of_a_job_that_is_updated_for_the_first_time_bears_that_of_its_creation(
    store: Store,
) -> None:
    first = absorb(store, job(1, updated_at=None))
    complete(store, seqs(first)[JobId("job-1")], "here.wav")
    [restamp] = absorb(store, job(1, updated_at=START)).restamped
    assert (restamp.before, restamp.after) == (job(1).created_at, START)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_a_job_that_stands_twice_in_a_page_the_finished_one_counts(
    store: Store, order: tuple[int, int]
) -> None:
    both = [pending(1), job(1)]
    absorbed = absorb(store, *(both[n] for n in order))
    assert states(store) == {"job-1": State.QUEUED}
    assert (len(absorbed.listed), absorbed.new, absorbed.queued) == (1, 1, 1)


def test_a_page_larger_than_one_question_is_known_again(store: Store) -> None:
    many = [job(number) for number in range(1_700)]
    assert absorb(store, *many).new == 1_700
    assert absorb(store, *many).new == 0


def test_a_fresh_link_replaces_the_one_of_an_earlier_run(store: Store) -> None:
    absorb(store, job(1))
    absorb(store, job(1, audio_url="https://files.example/fresh"))
    [(_, entry)] = store.take(0, 10)
    assert entry.job.audio_url == "https://files.example/fresh"


def test_an_announced_link_outlives_a_listing_that_lags_behind(store: Store) -> None:
    absorb(store, pending(1))
    run = intake(store)
    listed = store.announce_done(JobId("job-1"), "https://files.example/live", run)
    assert listed is not None
    assert listed.after is State.QUEUED
    for lagging in (pending(1), failed(1)):
        store.absorb([lagging], run, {})
    [(_, entry)] = store.take(0, 10)
    assert entry.job.audio_url == "https://files.example/live"


@pytest.mark.parametrize(
    ("listed", "state"),
    [(pending(1), State.WAITING), (failed(1), State.REJECTED)],
    ids=["pending", "failed"],
)
def test_an_announced_file_that_does_not_come_is_what_the_list_says(
    store: Store, listed: Job, state: State
) -> None:
    [seq] = seqs(absorb(store, listed)).values()
    store.announce_done(JobId("job-1"), "https://files.example/live", intake(store))
    assert store.fail(seq, "404", 1) is state
    [entry] = store.pick([seq])
    assert (entry.state, entry.job.status, entry.job.error) == (state, listed.status, listed.error)


def test_an_original_that_does_not_come_has_failed(store: Store) -> None:
    absorb(store, pending(1))
    run = intake(store, originals=True)
    store.announce_done(JobId("job-1"), "https://files.example/live", run)
    [(_, _), (_, original)] = store.take(0, 10)
    assert store.fail(original.seq, "404", 1) is State.FAILED


def test_an_announced_file_that_is_over_for_good_has_failed(store: Store) -> None:
    [seq] = seqs(absorb(store, pending(1))).values()
    store.announce_done(JobId("job-1"), "https://files.example/live", intake(store))
    assert store.fail(seq, "404", 1, for_good=True) is State.FAILED


@pytest.mark.parametrize("listed", [job(1), None], ids=["queued already", "not known"])
def test_an_announcement_that_brings_nothing_new_queues_nothing(
    store: Store, listed: Job | None
) -> None:
    if listed is not None:
        absorb(store, listed)
    assert store.announce_done(JobId("job-1"), "https://x/live", intake(store)) is None


def test_an_announced_job_that_a_filter_leaves_out_is_not_queued(store: Store) -> None:
    rules = Rules(match=("*.mp3",))
    absorb(store, pending(1), rules=rules)
    assert store.announce_done(JobId("job-1"), "https://x/1", intake(store, rules=rules)) is None
    assert store.take(0, 10) == []


def test_filters_of_another_run_are_forgotten(store: Store) -> None:
    absorb(store, job(1), job(2), rules=Rules(match=("talk 1*",)))
    assert states(store) == {"job-1": State.QUEUED, "job-2": State.FILTERED}
    assert absorb(store, job(1), job(2), rules=Rules(match=("talk 2*",))).queued == 1
    assert states(store) == {"job-1": State.FILTERED, "job-2": State.QUEUED}


@pytest.mark.parametrize(
    ("is_bare", "new", "known"),
    [(True, State.FILTERED, State.FILTERED), (False, State.QUEUED, State.FILTERED)],
    ids=["a bare folder", "files that may be adopted"],
)
def test_once_max_downloads_is_spent_only_what_may_be_on_disk_gets_a_ticket(
    is_bare: bool, new: State, known: State, store: Store
) -> None:
    left, unfinished, pending = seqs(absorb(store, job(1), job(2), job(3, Status.PENDING))).values()
    store.set_state([left], State.FILTERED)
    store.set_total(unfinished, 1000, State.PARTIAL)
    spent = replace(intake(store), is_spent=True, is_bare=is_bare)
    listed = store.absorb([job(n) for n in (1, 2, 3, 4)], spent, {}).listed
    assert [one.after for one in listed] == [known, State.PARTIAL, new, new]
    assert [listed[1].seq, listed[2].seq] == [unfinished, pending]


def test_a_file_known_to_be_too_large_is_left_out_until_the_limit_is_raised(store: Store) -> None:
    [seq] = seqs(absorb(store, job(1))).values()
    store.set_total(seq, 5_000, State.FILTERED)
    absorb(store, job(1), rules=Rules(max_size_bytes=4_999))
    assert states(store) == {"job-1": State.FILTERED}
    absorb(store, job(1), rules=Rules(max_size_bytes=5_000))
    assert states(store) == {"job-1": State.QUEUED}


# ---- records ---------------------------------------------------------------------------


RECORDS = {JobId(f"job-{n}"): b"{%d}" % n for n in range(1, 9)}


def keep(store: Store, *jobs: Job, records: dict[JobId, bytes], **options: Any) -> Absorbed:
    """Absorb one page with its records as a run of its own does."""
    return store.absorb(jobs, intake(store, **options), {}, records)


def kept(store: Store) -> set[str]:
    return set(store.records(list(RECORDS)))


def test_records_are_kept_of_jobs_whose_files_are_still_to_come(store: Store, path: Path) -> None:
    keep(store, job(1), pending(2), failed(3), records=RECORDS)
    keep(store, job(4), records=RECORDS, rules=Rules(match=("other*",)))
    assert store.records(list(RECORDS)) == {n: RECORDS[n] for n in map(JobId, ("job-1", "job-2"))}
    with closing(Store(path)) as later:
        assert kept(later) == {"job-1", "job-2"}


def test_without_records_none_are_kept(store: Store) -> None:
    absorb(store, job(1))
    assert kept(store) == set()


def test_the_newest_record_counts(store: Store) -> None:
    keep(store, job(1), records=RECORDS)
    keep(store, job(1), records={JobId("job-1"): b"newer"})
    assert store.records([JobId("job-1")]) == {"job-1": b"newer"}
    absorb(store, job(1))
    assert kept(store) == {"job-1"}


def test_a_record_is_let_go_of_once_the_last_file_of_its_job_is_complete(store: Store) -> None:
    keep(store, job(1), job(2), records=RECORDS, originals=True)
    clean = [entry for _, entry in store.take(0, 9) if entry.job.id == "job-1"]
    complete(store, clean[0].seq, "a.wav")
    assert kept(store) == {"job-1", "job-2"}
    complete(store, clean[1].seq, "b.wav")
    assert kept(store) == {"job-2"}


def test_an_original_that_is_asked_for_later_has_its_record(store: Store) -> None:
    seq = seqs(keep(store, job(1), records=RECORDS))[JobId("job-1")]
    complete(store, seq)
    assert kept(store) == set()
    keep(store, job(1), records=RECORDS, originals=True)
    assert kept(store) == {"job-1"}


def test_a_record_is_let_go_of_where_its_job_is_left_out(store: Store) -> None:
    seq = seqs(keep(store, job(1), job(2), pending(3), pending(4), records=RECORDS))
    store.set_state([seq[JobId("job-1")]], State.FILTERED)
    store.set_total(seq[JobId("job-2")], 5000, State.PARTIAL)
    assert kept(store) == {"job-2", "job-3", "job-4"}
    store.set_total(seq[JobId("job-2")], 5000, State.FILTERED)
    keep(store, failed(3), job(4), records=RECORDS, rules=Rules(match=("other*",)))
    assert kept(store) == set()


def test_a_listing_that_lags_behind_replaces_no_record(store: Store) -> None:
    keep(store, pending(1), records=RECORDS)
    store.announce_done(JobId("job-1"), "https://files.example/new.wav", intake(store))
    keep(store, pending(1), records={JobId("job-1"): b"behind"})
    assert store.records([JobId("job-1")]) == {"job-1": RECORDS[JobId("job-1")]}


# ---- originals ---------------------------------------------------------------------------


def variants(store: Store) -> Counter[Variant]:
    return Counter(entry.variant for _, entry in store.take(0, 100))


def test_originals_are_files_of_their_own(store: Store) -> None:
    assert absorb(store, job(1), originals=True).queued == 2
    assert variants(store) == {Variant.DENOISED: 1, Variant.ORIGINAL: 1}


def test_originals_that_are_asked_for_later_are_queued_beside_complete_files(store: Store) -> None:
    [seq] = seqs(absorb(store, job(1))).values()
    complete(store, seq)
    assert absorb(store, job(1), originals=True).queued == 1
    assert variants(store) == {Variant.ORIGINAL: 1}


@pytest.mark.parametrize(
    "listed", [pending(1), failed(1), job(1, original_audio_url=None)], ids=["p", "f", "no link"]
)
def test_a_job_without_a_finished_original_has_none(store: Store, listed: Job) -> None:
    absorb(store, listed, originals=True)
    assert variants(store)[Variant.ORIGINAL] == 0


@pytest.mark.parametrize(
    ("now", "state"), [(pending(1), State.WAITING), (failed(1), State.REJECTED)], ids=["p", "f"]
)
def test_an_original_that_is_still_to_come_follows_its_job(
    store: Store, path: Path, now: Job, state: State
) -> None:
    [clean] = seqs(absorb(store, job(1), originals=True)).values()
    complete(store, clean)
    [(_, original)] = store.take(0, 10)
    store.fail(original.seq, "404", 1)
    absorb(store, now, originals=True)
    assert [one.state for one in store.pick([clean, original.seq])] == [State.COMPLETE, state]
    assert absorb(store, job(1), originals=True).queued == 1


def test_an_original_of_an_announced_job_outlives_a_listing_that_lags_behind(store: Store) -> None:
    absorb(store, pending(1), originals=True)
    run = intake(store, originals=True)
    assert store.announce_done(JobId("job-1"), "https://files.example/live", run) is not None
    store.absorb([pending(1)], run, {})
    assert variants(store) == {Variant.DENOISED: 1, Variant.ORIGINAL: 1}


def test_counts_are_of_jobs_and_not_of_files(store: Store) -> None:
    absorb(store, job(1), job(2), originals=True)
    assert store.count() == 2
    assert store.count(State.QUEUED) == 2
    assert store.count_newer(START) == 2


# ---- the queue ---------------------------------------------------------------------------


def test_files_are_handed_out_once_in_the_order_of_their_tickets(store: Store) -> None:
    absorb(store, *(job(number) for number in range(10)))
    first = store.take(0, 4)
    rest = store.take(first[-1][0], 100)
    assert [entry.job.id for _, entry in first + rest] == [f"job-{n}" for n in range(10)]
    assert [ticket for ticket, _ in first + rest] == sorted(ticket for ticket, _ in first + rest)
    assert store.take(rest[-1][0], 100) == []


def test_a_job_listed_again_in_the_same_run_is_not_queued_twice(store: Store) -> None:
    run = intake(store)
    assert store.absorb([job(1)], run, {}).queued == 1
    assert store.absorb([job(1)], run, {}).queued == 0


def test_a_file_given_up_is_not_tried_again_in_the_same_run_but_in_the_next(store: Store) -> None:
    run = intake(store)
    [seq] = seqs(store.absorb([job(1)], run, {})).values()
    [(ticket, _)] = store.take(run.run_base, 10)
    store.fail(seq, "404", 3)
    assert store.absorb([job(1)], run, {}).queued == 0
    assert store.take(ticket, 10) == []
    assert absorb(store, job(1)).queued == 1
    [(_, entry)] = store.take(ticket, 10)
    assert (entry.attempts, entry.last_error) == (3, "404")


def test_a_later_full_pass_of_a_watch_tries_again_what_was_given_up(store: Store) -> None:
    run = intake(store)
    [seq] = seqs(store.absorb([job(1)], run, {})).values()
    store.fail(seq, "404", 1)
    later = replace(run, retry_base=store.sync_tickets())
    assert store.absorb([job(1)], later, {}).queued == 1


def test_what_a_killed_run_left_is_queued_by_the_next(path: Path) -> None:
    with closing(Store(path)) as first:
        absorb(first, job(1), job(2))
    with closing(Store(path)) as second:
        base = second.sync_tickets()
        assert second.take(base, 10) == []
        assert second.requeue(base, originals=True) == [(1, 1), (2, 2)]
        assert [entry.job.id for _, entry in second.take(base, 10)] == ["job-1", "job-2"]
        assert second.requeue(base, originals=True) == []


def test_what_is_over_for_good_comes_back_only_if_it_is_listed_or_asked_for(path: Path) -> None:
    with closing(Store(path)) as first:
        for seq in seqs(absorb(first, job(1), job(2), job(3))).values():
            first.fail(seq, "404", 1, for_good=True)
    with closing(Store(path)) as second:
        base = second.sync_tickets()
        assert second.requeue(base, originals=True) == []
        absorb(second, job(2))
        second.retry([JobId("job-3")])
        assert [entry.job.id for _, entry in second.take(base, 10)] == ["job-2", "job-3"]


def test_an_original_that_is_queued_again_names_the_row_of_its_job(path: Path) -> None:
    with closing(Store(path)) as first:
        wanting = replace(intake(first), originals=True)
        [seq] = seqs(first.absorb([job(1)], wanting, {})).values()
        complete(first, seq)
    with closing(Store(path)) as second:
        [(original, clean)] = second.requeue(second.sync_tickets(), originals=True)
        assert (clean, original != seq) == (seq, True)


def test_retry_makes_failed_files_eligible_for_a_run_that_goes_on(path: Path, store: Store) -> None:
    found = seqs(absorb(store, job(1), job(2), job(3)))
    tickets = [ticket for ticket, _ in store.take(0, 10)]
    for number in (1, 2):
        store.fail(found[JobId(f"job-{number}")], "404", 2)
    complete(store, found[JobId("job-3")])
    with closing(Store(path)) as other:
        assert other.retry([JobId("job-2"), JobId("job-3"), JobId("unheard of")]) == ["job-2"]
        assert other.retry(None) == ["job-1"]
        assert other.retry(None) == []
    again = store.take(tickets[-1], 10)
    assert [(entry.job.id, entry.attempts) for _, entry in again] == [("job-2", 0), ("job-1", 0)]
    assert min(ticket for ticket, _ in again) > tickets[-1]


OUTCOMES = st.sampled_from(["complete", "fail", "filter", "leave", "crash"])
LISTINGS = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 7), st.sampled_from(list(Status)), max_size=8),
        st.lists(OUTCOMES, max_size=12),
    ),
    max_size=5,
)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(runs=LISTINGS)
def test_every_run_is_handed_each_unfinished_file_exactly_once(
    tmp_path: Path, runs: list[tuple[dict[int, Status], list[str]]]
) -> None:
    """Runs list, fetch, fail and crash at will; a model of four sets says what is expected."""
    for old in tmp_path.iterdir():
        old.unlink()
    done: set[int] = set()
    wanted: set[int] = set()
    for listing, outcomes in runs:
        with closing(Store(tmp_path / schema.FILE_NAME)) as store:
            run = intake(store)
            finished = {n for n, status in listing.items() if status is Status.SUCCESS}
            wanted = wanted - set(listing) | (finished - done)
            store.absorb([job(n, status) for n, status in listing.items()], run, {})
            store.requeue(run.run_base, originals=True)
            handed = store.take(run.run_base, 100)
            numbers = [int(entry.job.id[4:]) for _, entry in handed]
            assert sorted(numbers) == sorted(wanted)
            for (_, entry), number, outcome in zip(handed, numbers, outcomes, strict=False):
                if outcome == "complete":
                    complete(store, entry.seq, f"{number}.wav")
                    done.add(number)
                    wanted.discard(number)
                elif outcome == "fail":
                    store.fail(entry.seq, "404", 1)
                elif outcome == "filter":
                    store.set_state([entry.seq], State.FILTERED)
                    wanted.discard(number)
                elif outcome == "crash":
                    break
            assert store.take(handed[-1][0] if handed else run.run_base, 100) == []


# ---- paths -------------------------------------------------------------------------------


def test_a_path_belongs_to_the_first_who_claims_it(store: Store) -> None:
    first, second, third = seqs(absorb(store, job(1), job(2), job(3))).values()
    short, whole = ("a.wav", "a.wav"), ("a.whole.wav", "a.whole.wav")
    assert store.claim([(first, [short, whole]), (second, [short, whole])]) == [
        "a.wav",
        "a.whole.wav",
    ]
    assert store.claim([(third, [short, whole])]) == [None]
    assert store.claim([(first, [short])]) == ["a.wav"]


def test_paths_that_some_disk_takes_for_the_same_are_the_same(store: Store) -> None:
    first, second = seqs(absorb(store, job(1), job(2))).values()
    assert store.claim([(first, [("A.wav", "a.wav")]), (second, [("a.wav", "a.wav")])]) == [
        "A.wav",
        None,
    ]


def test_paths_of_unfinished_files_can_be_decided_anew(store: Store) -> None:
    first, second = seqs(absorb(store, job(1), job(2))).values()
    complete(store, first, "done.wav")
    store.claim([(second, [("old.wav", "old.wav")])])
    store.forget_paths()
    assert [entry.path for entry in store.pick([first, second])] == ["done.wav", None]
    assert store.claim([(second, [("done.wav", "done.wav"), ("new.wav", "new.wav")])]) == [
        "new.wav"
    ]


def test_a_complete_file_forgets_its_links_and_keeps_its_facts(store: Store) -> None:
    [seq] = seqs(absorb(store, job(1))).values()
    store.fail(seq, "reset", 4)
    complete(store, seq, "a/b.wav")
    [entry] = store.pick([seq])
    assert (entry.job.audio_url, entry.job.original_audio_url) == (None, None)
    assert (entry.state, entry.path, entry.bytes_stored, entry.sha256, entry.completed_at) == (
        State.COMPLETE,
        "a/b.wav",
        1000,
        SHA256,
        START,
    )
    assert entry.last_error is None


@pytest.mark.parametrize("variant", list(Variant))
def test_a_fresh_link_is_recorded_for_its_own_variant(store: Store, variant: Variant) -> None:
    [seq] = seqs(absorb(store, job(1))).values()
    store.set_url(seq, variant, "https://files.example/fresh")
    [entry] = store.pick([seq])
    assert [one for one in Variant if entry.job.url(one) == "https://files.example/fresh"] == [
        variant
    ]


def test_rows_that_do_not_exist_are_passed_over(store: Store) -> None:
    assert store.pick([7, 8]) == []
    store.fail(7, "404", 1)
    store.set_state([7], State.FILTERED)
    assert store.unfinished() == set()


def test_waiting_jobs_come_oldest_first(store: Store) -> None:
    absorb(store, pending(3), pending(1), job(2), failed(4), pending(5, created_at=None))
    assert [one.id for one in store.waiting()] == ["job-5", "job-1", "job-3"]


# ---- crashes, other processes ------------------------------------------------------------

WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import absorb, job
from fetcher.manifest.store import Store
store = Store(Path(sys.argv[1]))
for number in range(40):
    absorb(store, job(number))
print("written", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_committed_before_a_kill_is_there(path: Path) -> None:
    folder = os.path.dirname(__file__)  # noqa: PTH120 - for the other process' sys.path
    ended = subprocess.run(
        [sys.executable, "-c", WRITE_AND_DIE, str(path), folder], capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"written\n")
    assert path.with_name(path.name + "-wal").exists(), "the kill left a write-ahead log"
    with closing(Store(path)) as store:
        assert store.count(State.QUEUED) == 40
    assert [one.name for one in path.parent.iterdir()] == [path.name]


FILL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import absorb, job
from fetcher.errors import StorageError
from fetcher.manifest.store import Store
store = Store(Path(sys.argv[1]))
absorb(store, job(0))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for number in range(1, 3000):
        absorb(store, job(number))
except StorageError as error:
    print(number, error.exit_code)
store.close()
"""


def test_a_disk_that_fills_keeps_what_was_committed(path: Path) -> None:
    folder = os.path.dirname(__file__)  # noqa: PTH120 - for the other process' sys.path
    ended = subprocess.run(
        [sys.executable, "-c", FILL, str(path), folder], capture_output=True, check=True
    )
    committed, exit_code = map(int, ended.stdout.split())
    assert exit_code == 6
    with closing(Store(path)) as store:
        assert store.count() == committed
        assert absorb(store, job(9_999)).new == 1


def test_a_transaction_that_fails_changes_nothing(store: Store) -> None:
    first, second = seqs(absorb(store, job(1), job(2))).values()
    complete(store, first, "taken.wav")
    good = Stored(second, "mine.wav", "mine.wav", 1, SHA256, START)
    clash = Stored(second, "taken.wav", "taken.wav", 1, SHA256, START)
    with pytest.raises(StorageError):
        store.complete([good, clash])
    assert states(store)["job-2"] is State.QUEUED
    complete(store, second, "mine.wav")


def test_a_writer_who_does_not_let_go_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 0.05)
    with closing(Store(path)) as store, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="held by another program"):
            absorb(store, job(1))
        other.rollback()
        assert absorb(store, job(1)).new == 1


async def test_the_manifest_answers_off_the_loop_and_closes_clean(path: Path) -> None:
    async with Manifest(path) as manifest:
        await manifest.do(Store.put, {"a": "b"})
        assert await manifest.do(Store.get, "a") == "b"
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    with pytest.raises(RuntimeError):
        await manifest.do(Store.get, "a")


def test_a_manifest_that_cannot_be_opened_leaves_no_thread(path: Path) -> None:
    path.write_bytes(b"noise")

    async def open_it() -> None:
        async with Manifest(path):
            pass

    with pytest.raises(StorageError):
        asyncio.run(open_it())
    for thread in threading.enumerate():
        if thread.name.startswith("manifest"):
            thread.join(5)
            assert not thread.is_alive()
