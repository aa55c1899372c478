"""Where pending jobs stood: what is remembered of a page, and how new records move it."""

from __future__ import annotations

from fetcher.core.spots import Spots
from fetcher.models import Job, JobId, Status

A, B, DONE = JobId("a"), JobId("b"), JobId("done")


def page(*ids: JobId) -> list[Job]:
    """Return these jobs; all but `DONE` are pending."""
    return [Job(one, Status.SUCCESS if one == DONE else Status.PENDING) for one in ids]


def test_the_row_of_a_pending_job_is_known_and_of_no_other() -> None:
    spots = Spots()
    spots.note(100, page(DONE, A, DONE, B), 4)
    assert [spots.row(one) for one in (A, B, DONE)] == [101, 103, None]


def test_elements_that_cannot_be_read_are_taken_to_be_spread_evenly() -> None:
    spots = Spots()
    spots.note(100, page(DONE, A), 20)
    assert spots.row(A) == 110


def test_new_records_move_all_jobs_but_those_seen_since() -> None:
    spots = Spots()
    spots.note(0, page(A, B), 2)
    spots.moved(30, but={A})
    assert [spots.row(one) for one in (A, B)] == [0, 31]


def test_jobs_that_nobody_waits_for_are_forgotten() -> None:
    spots = Spots()
    spots.note(0, page(A, B), 2)
    spots.keep({B})
    assert [spots.row(one) for one in (A, B)] == [None, 1]
