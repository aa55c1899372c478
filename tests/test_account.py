"""The account of a run: every record falls into exactly one class, whatever happens to it."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetcher.core.account import Account, Class, Rows
from fetcher.core.filters import Rules
from fetcher.core.plan import TODO, Known
from fetcher.manifest import schema
from fetcher.manifest.files import Stored
from fetcher.manifest.listing import Intake
from fetcher.manifest.store import Store
from fetcher.models import Entry, Job, JobId, State, Status, Variant

START = datetime(2025, 1, 1, tzinfo=UTC)


def entry(seq: int, variant: Variant = Variant.DENOISED) -> Entry:
    return Entry(seq, Job(JobId(f"job-{seq}"), Status.SUCCESS), variant, State.QUEUED)


def counted(account: Account) -> dict[Class, int]:
    return {one: count for one, count in account.counts.items() if count}


# ---- rows --------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 70_000)), max_size=50))
def test_a_set_of_rows_is_a_set(steps: list[tuple[bool, int]]) -> None:
    rows, model = Rows(), set[int]()
    for is_added, seq in steps:
        if is_added:
            assert rows.add(seq) is (seq not in model)
            model.add(seq)
        else:
            assert rows.discard(seq) is (seq in model)
            model.discard(seq)
        assert all((one in rows) is (one in model) for _, one in steps)


# ---- what a page shows -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State.COMPLETE, Class.ALREADY),
        (State.WAITING, Class.PENDING),
        (State.REJECTED, Class.REJECTED),
        (State.FILTERED, Class.FILTERED),
        (State.QUEUED, Class.TODO),
        (State.PARTIAL, Class.TODO),
        (State.FAILED, Class.TODO),
    ],
)
def test_each_state_has_its_class(state: State, expected: Class) -> None:
    account = Account()
    assert account.listed(1, None, state) is True
    assert counted(account) == {expected: 1}


def test_a_record_that_pages_show_twice_counts_once() -> None:
    account = Account()
    assert account.listed(7, None, State.QUEUED) is True
    assert account.listed(7, State.QUEUED, State.QUEUED) is False
    assert account.records == 1


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (State.WAITING, State.QUEUED, Class.TODO),
        (State.WAITING, State.REJECTED, Class.REJECTED),
        (State.WAITING, State.FILTERED, Class.FILTERED),
        (State.REJECTED, State.QUEUED, Class.TODO),
        (State.FILTERED, State.QUEUED, Class.TODO),
        (State.QUEUED, State.WAITING, Class.PENDING),
        (State.PARTIAL, State.REJECTED, Class.REJECTED),
    ],
)
def test_a_record_that_changes_meanwhile_changes_its_class(
    before: State, after: State, expected: Class
) -> None:
    account = Account()
    account.listed(1, None, before)
    account.listed(1, before, after)
    assert counted(account) == {expected: 1}


# ---- how a file ends ---------------------------------------------------------------------

OUTCOMES = [Class.DOWNLOADED, Class.ADOPTED, Class.FAILED, Class.FILTERED]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_file_that_ends_moves_its_record(outcome: Class) -> None:
    account = Account()
    account.listed(1, None, State.QUEUED)
    account.taken(entry(1))
    account.ended(entry(1), outcome, stored=5)
    assert (counted(account), account.bytes_stored) == ({outcome: 1}, 5)


def test_what_an_earlier_run_left_counts_once_it_is_taken() -> None:
    account = Account()
    account.taken(entry(1))
    assert counted(account) == {Class.TODO: 1}
    account.listed(1, State.QUEUED, State.QUEUED)
    assert account.records == 1


def test_a_file_that_failed_and_is_tried_again_counts_once() -> None:
    account = Account()
    account.listed(1, None, State.QUEUED)
    for outcome in (Class.FAILED, Class.FAILED, Class.DOWNLOADED):
        account.taken(entry(1))
        account.ended(entry(1), outcome)
    assert counted(account) == {Class.DOWNLOADED: 1}


@pytest.mark.parametrize(
    ("after", "expected"), [(State.WAITING, Class.PENDING), (State.REJECTED, Class.REJECTED)]
)
@pytest.mark.parametrize("before", [State.FAILED, State.QUEUED], ids=["given up", "once more"])
def test_a_failed_file_of_a_job_that_the_list_takes_back_is_no_failure(
    before: State, after: State, expected: Class
) -> None:
    account = Account()
    account.listed(1, None, State.QUEUED)
    account.taken(entry(1))
    account.ended(entry(1), Class.FAILED)
    account.listed(1, before, after)
    assert counted(account) == {expected: 1}


def known(seq: int, state: State) -> Known:
    return Known(seq, "success", None, state, 0, None)


def end_original(account: Account, outcome: Class, state: State = State.COMPLETE) -> None:
    """Take the original of record 1, whose clean file is in that state, and end it so."""
    original = entry(2, Variant.ORIGINAL)
    account.taken(original, known(1, state))
    account.ended(original, outcome, stored=3)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_original_is_no_record_of_its_own(outcome: Class) -> None:
    account = Account()
    account.listed(1, None, State.COMPLETE)
    end_original(account, outcome)
    expected = Class.FAILED if outcome is Class.FAILED else Class.ALREADY
    assert (counted(account), account.bytes_stored) == ({expected: 1}, 3)
    assert account.files_downloaded == (outcome is Class.DOWNLOADED)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_record_of_which_only_the_original_is_fetched_was_seen(outcome: Class) -> None:
    account = Account()
    end_original(account, outcome)
    assert account.records == 1
    assert account.listed(1, State.COMPLETE, State.COMPLETE) is False
    assert account.records == 1


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_failed_original_is_taken_from_the_class_of_its_own_record(outcome: Class) -> None:
    account = Account()
    for seq in (1, 7):
        account.taken(entry(seq))
    account.ended(entry(1), outcome)
    account.ended(entry(7), Class.DOWNLOADED)
    end_original(account, Class.FAILED)
    assert counted(account) == {Class.FAILED: 1, Class.DOWNLOADED: 1}


def test_a_failed_original_counts_whatever_becomes_of_the_clean_file_later() -> None:
    account = Account()
    account.taken(entry(1))
    end_original(account, Class.FAILED, State.QUEUED)
    account.ended(entry(1), Class.DOWNLOADED)
    assert counted(account) == {Class.FAILED: 1}


def test_an_original_that_comes_after_all_is_no_failure() -> None:
    account = Account()
    for outcome in (Class.FAILED, Class.FAILED, Class.DOWNLOADED):
        end_original(account, outcome)
    assert counted(account) == {Class.ALREADY: 1}


def test_a_page_that_is_counted_late_takes_nothing_back() -> None:
    """A file may be fetched between the recording of its page and the counting of it."""
    account = Account()
    account.listed(1, None, State.WAITING)
    account.taken(entry(1))
    account.ended(entry(1), Class.DOWNLOADED)
    account.listed(1, State.WAITING, State.QUEUED)
    assert counted(account) == {Class.DOWNLOADED: 1}


def test_rows_that_were_left_out_are_told_apart() -> None:
    account = Account()
    for seq, outcome in ((1, Class.FILTERED), (2, Class.DOWNLOADED)):
        account.taken(entry(seq))
        account.ended(entry(seq), outcome)
    assert [seq in account.left_out for seq in (1, 2, 3)] == [True, False, False]


# ---- a whole run -------------------------------------------------------------------------

LISTING = st.dictionaries(st.integers(0, 7), st.sampled_from(list(Status)), max_size=8)
PASSES = st.lists(
    st.tuples(
        st.lists(LISTING, max_size=3), st.lists(st.sampled_from(OUTCOMES), min_size=16, max_size=16)
    ),
    max_size=4,
)


def job(number: int, status: Status) -> Job:
    at = START + timedelta(minutes=number)
    return Job(
        JobId(f"job-{number}"),
        status,
        audio_url="https://x/a.wav",
        original_audio_url="https://x/b.wav",
        created_at=at,
    )


def expected_class(state: State, last: Class | None, last_original: Class | None) -> Class:
    """Return the class that a record must have, from its row and how its files last ended.

    A file that failed and is queued once more has failed until it is taken.
    """
    if last_original is Class.FAILED:
        return Class.FAILED
    if last is Class.FAILED and state is State.QUEUED:
        return Class.FAILED
    if last is not None and state in {State.COMPLETE, State.FAILED, State.FILTERED}:
        return last
    return {
        State.COMPLETE: Class.ALREADY,
        State.WAITING: Class.PENDING,
        State.REJECTED: Class.REJECTED,
        State.FILTERED: Class.FILTERED,
    }.get(state, Class.TODO)


@settings(deadline=None, max_examples=80)
@given(earlier=LISTING, passes=PASSES, originals=st.booleans())
def test_the_account_of_a_watch_adds_up_after_every_step(
    earlier: dict[int, Status],
    passes: list[tuple[list[dict[int, Status]], list[Class]]],
    originals: bool,
) -> None:
    """Listings and outcomes in any order; the manifest's rows say what the account must be."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Store(Path(folder) / schema.FILE_NAME)) as store,
    ):
        first = Intake(Rules(), originals=originals, run_base=0, retry_base=0)
        store.absorb([job(n, status) for n, status in earlier.items()], first, {})
        run = replace(first, run_base=store.sync_tickets())
        account, cursor = Account(), run.run_base
        last: dict[tuple[JobId, Variant], Class] = {}
        seen: set[JobId] = set()
        for listings, outcomes in passes:
            again = replace(run, retry_base=store.sync_tickets())
            for listing in listings:
                page = [job(n, status) for n, status in listing.items()]
                for one in store.absorb(page, again, {}).listed:
                    account.listed(one.seq, one.before, one.after)
                    if one.before in TODO and one.after not in TODO:
                        last.pop((one.job.id, Variant.DENOISED), None)
                    seen.add(one.job.id)
                check(store, account, seen, last)
            store.requeue(run.run_base, originals=True)
            for (ticket, taken), outcome in zip(store.take(cursor, 99), outcomes, strict=False):
                cursor = ticket
                account.taken(taken, store.look_up([taken.job.id])[taken.job.id])
                settle(store, taken, outcome)
                account.ended(taken, outcome)
                last[taken.job.id, taken.variant] = outcome
                seen.add(taken.job.id)
                check(store, account, seen, last)


def settle(store: Store, taken: Entry, outcome: Class) -> None:
    path = f"{taken.seq}.wav"
    match outcome:
        case Class.FAILED:
            store.fail(taken.seq, "404", 1)
        case Class.FILTERED:
            store.set_state([taken.seq], State.FILTERED)
        case _:
            store.complete([Stored(taken.seq, path, path, 1, "ab" * 32, START)])


def check(
    store: Store, account: Account, seen: set[JobId], last: dict[tuple[JobId, Variant], Class]
) -> None:
    rows = store.look_up(sorted(seen))
    expected = Counter(
        expected_class(rows[one].state, *(last.get((one, variant)) for variant in Variant))
        for one in seen
    )
    assert counted(account) == dict(expected)
    assert account.records == len(seen)
