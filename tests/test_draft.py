"""What a dry run keeps while it lasts: actions, counts, and who gets which path."""

from __future__ import annotations

from fetcher.core.plan import Action
from fetcher.manifest.draft import Draft
from fetcher.models import JobId, Variant

A, B, C = JobId("a"), JobId("b"), JobId("c")
CLEAN, ORIGINAL = Variant.DENOISED, Variant.ORIGINAL


def test_a_file_is_decided_once() -> None:
    with Draft() as draft:
        assert not draft.has(A, CLEAN)
        draft.note(A, CLEAN, Action.DOWNLOAD)
        draft.note(A, CLEAN, Action.SKIP)
        assert (draft.has(A, CLEAN), draft.has(A, ORIGINAL), draft.has(B, CLEAN)) == (
            True,
            False,
            False,
        )
        assert draft.counts() == {Action.DOWNLOAD: 1}


def test_a_job_counts_by_its_clean_file_but_as_failed_where_its_original_is() -> None:
    with Draft() as draft:
        draft.note(A, CLEAN, Action.SKIP)
        draft.note(A, ORIGINAL, Action.DOWNLOAD)
        draft.note(B, ORIGINAL, Action.FAIL)
        draft.note(B, CLEAN, Action.DOWNLOAD)
        draft.note(C, CLEAN, Action.FAIL)
        draft.note(C, ORIGINAL, Action.FILTER)
        assert draft.counts() == {Action.SKIP: 1, Action.FAIL: 2}


def test_a_path_belongs_to_whom_it_was_given() -> None:
    with Draft() as draft:
        draft.claim("talk/talk.wav", A)
        draft.claim("talk/talk.wav", A)
        assert (draft.owner("talk/talk.wav"), draft.owner("talk/other.wav")) == (A, None)


def test_nothing_is_kept() -> None:
    with Draft() as draft:
        draft.note(A, CLEAN, Action.SKIP)
    with Draft() as draft:
        assert draft.counts() == {}
