"""The API: the list, live progress, submissions, and its two shapes of errors.

Owns what a request to the API is answered with; `sender` puts it on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs

from fetcher.simulator.record import link, row_bytes, to_json
from fetcher.simulator.sender import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from fetcher.simulator.history import Account, SimJob
    from fetcher.simulator.links import Links
    from fetcher.simulator.serving import Serving

_JSON = {"Content-Type": "application/json; charset=utf-8"}
_WORDS = {
    400: "Invalid query parameter",
    401: "Invalid or missing API key",
    402: "Insufficient wallet balance",
    404: "Denoise job not found",
    413: "The file is larger than 200 MB",
    429: "Too many requests",
    500: "Internal server error",
    503: "Service unavailable",
}


@dataclass(slots=True, eq=False, repr=False)
class ApiHabits:
    """How the API behaves; a script may change any of it at any time.

    `page_cap`: records a page holds at most, whatever `limit` asks. `ignore_offset`: every
    page is the first. `on_list` is called with the number (1, 2, ...) of each list request
    before it is answered. `progress_every_s`, `sse_idle_s`: real seconds between messages
    of a job under way, and simulated ones of silence after which its stream closes.
    """

    error_shape: Literal["code", "status"] = "code"
    envelope: bool = False
    page_cap: int | None = None
    ignore_offset: bool = False
    on_list: Callable[[int], object] | None = None
    progress_every_s: float = 0.1
    sse_idle_s: float = 900.0


def error(status: int, shape: Literal["code", "status"], message: str | None = None) -> Answer:
    """Return an error in one of the two shapes that the API uses."""
    text = message or _WORDS.get(status, f"HTTP {status}")
    body: dict[str, object]
    if shape == "code":
        body = {"errorCode": f"{status}01", "errorMessage": text}
    else:
        body = {"statusCode": status, "message": text}
    return Answer(status, dict(_JSON), to_json(body))


def answer_list(
    query: str, account: Account, habits: ApiHabits, links: Links, serving: Serving
) -> Answer:
    """Return one page of the history, newest first; 400 for a query that is no number."""
    fields = parse_qs(query, keep_blank_values=True)
    offset = _number(fields.get("offset"), least=0, default=0)
    limit = _number(fields.get("limit"), least=1, default=len(account))
    if offset is None or limit is None:
        return error(400, habits.error_shape)
    if habits.ignore_offset:
        offset = 0
    if habits.page_cap is not None:
        limit = min(limit, habits.page_cap)
    parts = [row_bytes(row, links, serving) for row in account.rows(offset, limit)]
    if account.generated is not None:
        start = max(0, offset - account.explicit_count())
        made = account.generated.page(start, start + limit - len(parts), links, serving)
        parts += [made] if made else []
    body = b"[" + b",".join(parts) + b"]"
    if habits.envelope:
        body = b'{"statusCode":200,"data":' + body + b',"message":"Success"}'
    return Answer(200, dict(_JSON), body)


def answer_progress(
    job: SimJob, account: Account, habits: ApiHabits, links: Links, serving: Serving
) -> Answer:
    """Return the stream of a job's progress; a finished job replays its end at once."""
    stages = _stages(job, account, habits, lambda: link(job, "audio", links, serving))
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    return Answer(200, headers, stages, framing="chunked")


def submitted(job_id: str) -> Answer:
    """Return the answer to an upload that was taken."""
    return Answer(201, dict(_JSON), to_json({"jobId": job_id, "denoiseId": job_id}))


async def _stages(
    job: SimJob, account: Account, habits: ApiHabits, fresh_link: Callable[[], str]
) -> AsyncGenerator[bytes]:
    said: dict[str, object] | None = None
    spoke_at = account.clock.now()
    while account.find(job.id) is job:
        if job.status == "success":
            yield _event({"stage": "done", "url": fresh_link(), "denoiseId": job.id})
            return
        if job.status == "failed":
            yield _event({"stage": "error", "message": job.error})
            return
        stage = _processing(job, account.clock.now())
        if stage != said:
            said, spoke_at = stage, account.clock.now()
            yield _event(stage)
        if account.clock.now() - spoke_at > habits.sse_idle_s:
            return
        await account.changed(job.id, _wait_s(job, account, habits))


def _wait_s(job: SimJob, account: Account, habits: ApiHabits) -> float:
    if job.due_at is None:
        return habits.progress_every_s
    left_s = account.clock.real_wait_s(job.due_at - account.clock.now())
    return min(habits.progress_every_s, left_s + 0.001)


def _processing(job: SimJob, now: float) -> dict[str, object]:
    pct = job.pct
    if pct is None and job.due_at is not None:
        span_s = max(0.001, job.due_at - job.updated_at)
        pct = round(min(99.0, max(0.0, 100 * (now - job.updated_at) / span_s)), 1)
    stage: dict[str, object] = {"stage": "processing", "pct": pct or 0}
    message = job.message or ("Removing noise" if pct else "Queued")
    return stage | {"message": message}


def _event(stage: dict[str, object]) -> bytes:
    return b"data: " + to_json(stage) + b"\n\n"


def _number(values: list[str] | None, *, least: int, default: int) -> int | None:
    if values is None:
        return default
    text = values[-1]
    if not (text.isascii() and text.isdecimal()) or len(text) > 15 or int(text) < least:
        return None
    return int(text)
