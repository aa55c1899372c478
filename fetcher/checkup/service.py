"""The API itself: one list request for one record, what came of it, and what time it is there."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fetcher import __version__
from fetcher.checkup.findings import Finding, good, problem, warning
from fetcher.core.heads import http_date
from fetcher.errors import ApiError, FetcherError, KeyRefusedError, StatusError
from fetcher.network.client import Api, Host
from fetcher.report.units import human_duration

if TYPE_CHECKING:
    from fetcher.checkup.findings import Findings
    from fetcher.core.wire import Page

_AGENT = f"fetcher/{__version__}"
_API = ApiError.exit_code
_MINUTE_S, _DAY_S = 60.0, 86_400.0  # skews that mislead people, and ones that break signatures


@dataclass(slots=True)
class Answer:
    """What came of one request; `skew_s`: how far the API's clock is ahead of ours."""

    said: str = ""
    took_s: float = 0.0
    skew_s: float | None = None
    error: FetcherError | None = None


def consult(api_url: str, key: str | None, limit_s: float) -> Findings:
    """Yield how the API answers, all of it within `limit_s`, and how its clock agrees.

    Without a key it is asked without one, as any stranger could.
    """
    asked = _ask_without_key(api_url, limit_s) if key is None else _ask(api_url, key, limit_s)
    answer = asyncio.run(asked)
    if answer.error is not None:
        yield _refusal(answer.error)
    else:
        yield good("API", f"{answer.said} ({answer.took_s * 1000:.0f} ms)")
    if answer.skew_s is not None:
        yield _clock(answer.skew_s)


async def _ask(api_url: str, key: str, limit_s: float) -> Answer:
    answer = Answer()
    began_s = time.monotonic()
    async with Api(api_url, lambda: key, timeout_s=limit_s, agent=_AGENT) as api:
        try:
            async with asyncio.timeout(limit_s):
                page = await api.page(0, 1)
            answer.said = _described(page)
        except FetcherError as error:
            answer.error = error
        except TimeoutError:
            answer.error = ApiError(f"the API gave no whole answer within {limit_s:g} s")
        answer.took_s = time.monotonic() - began_s
        answer.skew_s = api.clock_skew_s
    return answer


def _described(page: Page) -> str:
    if not page.count:
        return "takes the key; the history is empty"
    return "takes the key and answers with the history" + (
        ", whose newest record is malformed" if page.invalid else ""
    )


async def _ask_without_key(api_url: str, limit_s: float) -> Answer:
    answer = Answer()
    began_s = time.monotonic()
    try:
        async with (
            asyncio.timeout(limit_s),
            Host(timeout_s=limit_s, agent=_AGENT) as host,
            host.open(f"{api_url}/denoise?offset=0&limit=1", {}) as body,
        ):
            answer.said = f"answers {body.head.status} to a request without a key"
            sent_at = http_date(body.head.headers.get("date", ""))
            if sent_at is not None:
                answer.skew_s = (sent_at - datetime.now(UTC)).total_seconds()
    except FetcherError as error:
        answer.error = error
    except TimeoutError:
        answer.error = ApiError(f"the API did not answer within {limit_s:g} s")
    answer.took_s = time.monotonic() - began_s
    return answer


def _refusal(error: FetcherError) -> Finding:
    """Return the finding for an answer that is no history."""
    match error:
        case KeyRefusedError():
            cure = "the key is wrong or was revoked: take it anew from your account"
            return problem("API", str(error), cure, KeyRefusedError.exit_code)
        case StatusError(status=429 | 503):
            return problem("API", str(error), "it asks for patience: try again later", _API)
        case StatusError(status=status) if status >= 500:
            return problem("API", str(error), "the service is in trouble: try again later", _API)
        case StatusError():
            return problem("API", str(error), "is --api-url the API's base address?", _API)
        case _:
            cure = (
                "is --api-url the API's base address? a page in place of data comes from a "
                "proxy or a sign-in of this network"
            )
            return problem("API", str(error), cure, _API)


def _clock(skew_s: float) -> Finding:
    """Return how this machine's clock agrees with the API's; Date has whole seconds."""
    off_s = abs(skew_s)
    if off_s <= _MINUTE_S:
        return good("clock", "agrees with the API's")
    found = f"{human_duration(off_s)} {'behind' if skew_s > 0 else 'ahead of'} the API's"
    cure = "set this machine's clock, such as: timedatectl set-ntp true"
    if off_s <= _DAY_S:
        return warning("clock", found, cure)
    return problem("clock", found, f"{cure}; certificates and links fail until then", _API)
