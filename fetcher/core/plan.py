"""What is to be done with each job, and why. Pure: values in, values out.

`classify` says what state a listed record has, from the record, what the manifest knows
and the run's filters; `decide` says what a transfer will do, once the disk was looked at.
A dry run prints what these return.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from fetcher.frozen import frozen
from fetcher.models import State, Status

if TYPE_CHECKING:
    from fetcher.core.filters import Rules
    from fetcher.models import Job

TODO = frozenset({State.QUEUED, State.PARTIAL, State.FAILED})
_ANNOUNCED = frozenset({State.QUEUED, State.PARTIAL})


class Action(StrEnum):
    """What happens to one file."""

    DOWNLOAD = "download"
    RESUME = "resume"
    ADOPT = "adopt"
    SKIP = "skip"
    WAIT = "wait"
    REJECT = "reject"
    FILTER = "filter"
    FAIL = "fail"  # it could not be put in place


class Known(NamedTuple):
    """What the manifest says of one file of a listed job."""

    seq: int
    status: str
    updated_us: int | None
    state: State
    ticket: int
    bytes_total: int | None


@frozen
class Local:
    """What lies on disk for one file.

    `found`: relative path of a complete file that bears this job's mark, None where there
    is none. `part_bytes`: size of its partial file.
    """

    found: str | None = None
    part_bytes: int = 0


@frozen
class Decision:
    """One row of the plan: the action and its reason in words."""

    action: Action
    reason: str


def classify(job: Job, known: Known | None, rules: Rules) -> State:
    """Return the state of a job's file after a listing has shown `job`.

    What is complete stays complete whatever the service says later. A job that an event
    stream called done is fetched although the list has not called it finished yet; one that the
    list takes back, or whose file was given up, is what the list says.
    """
    if known is not None:
        if known.state is State.COMPLETE:
            return State.COMPLETE
        lags = job.status is not Status.SUCCESS and known.status != Status.SUCCESS
        if lags and known.state in _ANNOUNCED:
            return known.state
    if job.status is Status.PENDING:
        return State.WAITING
    if job.status is Status.FAILED:
        return State.REJECTED
    if rules.refuse(job) or (known is not None and rules.refuse_size(known.bytes_total)):
        return State.FILTERED
    return known.state if known is not None and known.state in TODO else State.QUEUED


def explain(job: Job, state: State, rules: Rules) -> Decision:
    """Return the decision for a file that is not to be fetched now, with its reason."""
    match state:
        case State.COMPLETE:
            return Decision(Action.SKIP, "already complete")
        case State.WAITING:
            return Decision(Action.WAIT, "not finished by the service")
        case State.REJECTED:
            return Decision(Action.REJECT, f"failed by the service: {job.error or 'no reason'}")
        case State.FILTERED:
            return Decision(Action.FILTER, rules.refuse(job) or "larger than --max-size")
        case State.QUEUED | State.PARTIAL | State.FAILED:
            return Decision(Action.DOWNLOAD, "to be fetched")


def decide(local: Local) -> Decision:
    """Return what a transfer does with a file that is to be fetched."""
    if local.found is not None:
        return Decision(Action.ADOPT, f"already in place at {local.found}")
    if local.part_bytes:
        return Decision(Action.RESUME, f"{local.part_bytes} bytes are here already")
    return Decision(Action.DOWNLOAD, "finished and not here")
