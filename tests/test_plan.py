"""What is to be done with each job, and why."""

from __future__ import annotations

from itertools import product

import pytest

from fetcher.core.filters import Rules
from fetcher.core.plan import TODO, Action, Known, Local, classify, decide, explain
from fetcher.models import Job, JobId, State, Status

EVERYTHING = Rules()
NOTHING = Rules(match=("no name fits",))


def job(status: Status, error: str | None = None) -> Job:
    return Job(JobId("a"), status, file_name="talk.wav", error=error)


def known(state: State, bytes_total: int | None = None, status: Status = Status.SUCCESS) -> Known:
    return Known(1, str(status), 0, state, 1, bytes_total)


# What the manifest says (None: nothing), what the list says, and what follows from both, where
# the list has said `success` before.
STATES = [
    (None, Status.PENDING, State.WAITING),
    (None, Status.SUCCESS, State.QUEUED),
    (None, Status.FAILED, State.REJECTED),
    (State.WAITING, Status.PENDING, State.WAITING),
    (State.WAITING, Status.SUCCESS, State.QUEUED),
    (State.WAITING, Status.FAILED, State.REJECTED),
    (State.REJECTED, Status.PENDING, State.WAITING),
    (State.REJECTED, Status.SUCCESS, State.QUEUED),
    (State.REJECTED, Status.FAILED, State.REJECTED),
    (State.FILTERED, Status.PENDING, State.WAITING),
    (State.FILTERED, Status.SUCCESS, State.QUEUED),
    (State.FILTERED, Status.FAILED, State.REJECTED),
    (State.QUEUED, Status.PENDING, State.WAITING),
    (State.QUEUED, Status.SUCCESS, State.QUEUED),
    (State.QUEUED, Status.FAILED, State.REJECTED),
    (State.PARTIAL, Status.PENDING, State.WAITING),
    (State.PARTIAL, Status.SUCCESS, State.PARTIAL),
    (State.PARTIAL, Status.FAILED, State.REJECTED),
    (State.FAILED, Status.PENDING, State.WAITING),
    (State.FAILED, Status.SUCCESS, State.FAILED),
    (State.FAILED, Status.FAILED, State.REJECTED),
    (State.COMPLETE, Status.PENDING, State.COMPLETE),
    (State.COMPLETE, Status.SUCCESS, State.COMPLETE),
    (State.COMPLETE, Status.FAILED, State.COMPLETE),
]


def test_the_table_has_every_case() -> None:
    assert {(before, now) for before, now, _ in STATES} == set(product([None, *State], Status))


@pytest.mark.parametrize(("before", "now", "after"), STATES)
def test_a_listed_job_gets_the_state_that_record_and_manifest_call_for(
    before: State | None, now: Status, after: State
) -> None:
    assert classify(job(now), known(before) if before else None, EVERYTHING) is after


@pytest.mark.parametrize("now", [Status.PENDING, Status.FAILED])
@pytest.mark.parametrize("before", [Status.PENDING, Status.FAILED])
@pytest.mark.parametrize("state", [State.QUEUED, State.PARTIAL])
def test_what_a_stream_called_done_is_fetched_while_the_list_lags_behind(
    state: State, before: Status, now: Status
) -> None:
    assert classify(job(now), known(state, status=before), EVERYTHING) is state


@pytest.mark.parametrize(("before", "now", "after"), STATES)
def test_a_filter_leaves_out_what_would_be_fetched_and_nothing_else(
    before: State | None, now: Status, after: State
) -> None:
    is_left_out = now is Status.SUCCESS and before is not State.COMPLETE
    expected = State.FILTERED if is_left_out else after
    assert classify(job(now), known(before) if before else None, NOTHING) is expected


@pytest.mark.parametrize(
    ("bytes_total", "limit", "state"),
    [(11, 10, State.FILTERED), (10, 10, State.QUEUED), (None, 10, State.QUEUED)],
)
def test_a_size_that_was_learnt_earlier_counts(
    bytes_total: int | None, limit: int, state: State
) -> None:
    rules = Rules(max_size_bytes=limit)
    assert classify(job(Status.SUCCESS), known(State.FILTERED, bytes_total), rules) is state


@pytest.mark.parametrize(
    ("state", "action"),
    [
        (State.COMPLETE, Action.SKIP),
        (State.WAITING, Action.WAIT),
        (State.REJECTED, Action.REJECT),
        (State.FILTERED, Action.FILTER),
        *((state, Action.DOWNLOAD) for state in sorted(TODO)),
    ],
)
def test_each_state_is_explained(state: State, action: Action) -> None:
    decision = explain(job(Status.SUCCESS), state, NOTHING)
    assert decision.action is action
    assert decision.reason


def test_the_reason_is_the_services_or_the_filters_own() -> None:
    rejected = explain(job(Status.FAILED, "no speech"), State.REJECTED, EVERYTHING)
    assert rejected.reason == "failed by the service: no speech"
    assert "no reason" in explain(job(Status.FAILED), State.REJECTED, EVERYTHING).reason
    assert "--match" in explain(job(Status.SUCCESS), State.FILTERED, NOTHING).reason
    assert "--max-size" in explain(job(Status.SUCCESS), State.FILTERED, EVERYTHING).reason


@pytest.mark.parametrize(
    ("local", "action"),
    [
        (Local(), Action.DOWNLOAD),
        (Local(part_bytes=1), Action.RESUME),
        (Local(found="a/b.wav"), Action.ADOPT),
        (Local(found="a/b.wav", part_bytes=1), Action.ADOPT),
    ],
)
def test_what_lies_on_disk_decides_what_a_transfer_does(local: Local, action: Action) -> None:
    decision = decide(local)
    assert decision.action is action
    assert decision.reason
