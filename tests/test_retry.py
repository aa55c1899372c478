"""What is tried again, how long is waited, and when a watcher polls next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.core.retry import (
    Bounds,
    GiveUp,
    Pace,
    Policy,
    Wait,
    decide,
    next_poll_s,
    parse_retry_after,
)
from fetcher.errors import (
    ApiError,
    ConnectionFailedError,
    ContentError,
    FetcherError,
    KeyRefusedError,
    PlaceError,
    ShortBodyError,
    StatusError,
    StorageError,
    TransferError,
)

NOW = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


class Fixed(Random):
    """Chance that always falls at one share of what is possible."""

    def __init__(self, share: float) -> None:
        super().__init__(0)
        self._share = share

    def random(self) -> float:
        return self._share


LEAST, MIDDLE, MOST = Fixed(0.0), Fixed(0.5), Fixed(1.0)


@pytest.mark.parametrize(
    "error",
    [
        *(
            pytest.param(StatusError(status, "no"), id=str(status))
            for status in (408, 425, 429, 500, 501, 502, 503, 504, 505, 520, 599)
        ),
        pytest.param(ConnectionFailedError("reset"), id="connection"),
        pytest.param(ShortBodyError("short"), id="short body"),
        pytest.param(ContentError("a page"), id="content"),
    ],
)
def test_what_may_pass_is_tried_again(error: FetcherError) -> None:
    assert decide(error, 1, policy=Policy(), rng=MOST) == Wait(1.0)


@pytest.mark.parametrize(
    "error",
    [
        *(
            pytest.param(StatusError(status, "no", retry_after_s=1), id=str(status))
            for status in (300, 304, 400, 401, 402, 403, 404, 405, 410, 412, 418, 451, 600)
        ),
        pytest.param(ConnectionFailedError("no", permanent=True), id="untrusted certificate"),
        pytest.param(PlaceError("no"), id="place taken"),
        pytest.param(TransferError("no"), id="transfer"),
        pytest.param(StorageError("no"), id="storage"),
        pytest.param(KeyRefusedError("no"), id="key"),
        pytest.param(ApiError("no"), id="api"),
    ],
)
def test_what_cannot_pass_is_given_up_at_once(error: FetcherError) -> None:
    assert decide(error, 1, policy=Policy(), rng=MOST) == GiveUp("no")


def test_retries_count_attempts_after_the_first() -> None:
    """`--retries 5` makes six attempts: the sixth failure ends them."""
    error = ShortBodyError("cut")
    assert decide(error, 5, policy=Policy(), rng=MOST) == Wait(16.0)
    assert decide(error, 6, policy=Policy(), rng=MOST) == GiveUp("cut; given up after 6 attempts")


def test_no_retries_give_up_after_one_attempt() -> None:
    verdict = decide(ShortBodyError("cut"), 1, policy=Policy(retries=0), rng=MOST)
    assert isinstance(verdict, GiveUp)


@pytest.mark.parametrize(
    ("attempt", "least_s", "most_s"),
    [(1, 0.5, 1), (2, 1, 2), (3, 2, 4), (4, 4, 8), (7, 30, 60), (8, 30, 60), (10_000, 30, 60)],
)
def test_backoff_doubles_up_to_its_cap(attempt: int, least_s: float, most_s: float) -> None:
    policy = Policy(retries=10_000)
    error = StatusError(503, "busy")
    assert decide(error, attempt, policy=policy, rng=LEAST) == Wait(least_s)
    assert decide(error, attempt, policy=policy, rng=MOST) == Wait(most_s)


def test_retry_delay_is_the_base_of_the_backoff() -> None:
    assert decide(ShortBodyError(""), 3, policy=Policy(delay_s=0.1), rng=MOST) == Wait(0.4)


def test_retry_after_is_the_least_wait() -> None:
    error = StatusError(429, "slow down", retry_after_s=120)
    assert decide(error, 1, policy=Policy(), rng=MOST) == Wait(120)


def test_retry_after_shorter_than_the_backoff_does_not_shorten_it() -> None:
    error = StatusError(429, "slow down", retry_after_s=0)
    assert decide(error, 3, policy=Policy(), rng=MOST) == Wait(4)


def test_retry_after_of_ten_minutes_is_obeyed() -> None:
    error = StatusError(503, "later", retry_after_s=600)
    assert decide(error, 1, policy=Policy(), rng=MOST) == Wait(600)


def test_retry_after_beyond_ten_minutes_gives_up_and_says_so() -> None:
    error = StatusError(503, "later", retry_after_s=3600)
    verdict = decide(error, 1, policy=Policy(), rng=MOST)
    assert verdict == GiveUp("later; the server asks to wait 3600 s, longer than 600 s")


@given(
    st.integers(1, 5),
    st.floats(0, 1e6),
    st.none() | st.floats(0, 600),
    st.integers(),
)
def test_every_wait_keeps_its_bounds(
    attempt: int, delay_s: float, asked_s: float | None, seed: int
) -> None:
    error = StatusError(503, "busy", retry_after_s=asked_s)
    verdict = decide(error, attempt, policy=Policy(delay_s=delay_s), rng=Random(seed))
    assert isinstance(verdict, Wait)
    assert (asked_s or 0) <= verdict.delay_s <= max(60, asked_s or 0)


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("1.5", 1.5),
        ("9" * 5000, 2**31),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
        ("Sun Nov  6 08:50:37 1994", 60),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Sat, 05 Nov 1994 08:49:37 GMT", 0),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("5 minutes", None),
        ("inf", None),
        ("nan", None),
        ("1e3", None),
        ("٥", None),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms(text: str, expected_s: float | None) -> None:
    assert parse_retry_after(text, now=NOW) == expected_s


def test_retry_after_date_is_taken_against_any_zone_of_now() -> None:
    riyadh = NOW.astimezone(tz=None) + timedelta(seconds=30)
    assert parse_retry_after("Sun, 06 Nov 1994 08:50:37 GMT", now=riyadh) == 30


@given(st.text())
def test_no_text_makes_reading_retry_after_fail(text: str) -> None:
    asked_s = parse_retry_after(text, now=NOW)
    assert asked_s is None or asked_s >= 0


@pytest.mark.parametrize(
    ("pace", "expected_s"),
    [
        pytest.param(Pace(), 30, id="as a rule"),
        pytest.param(Pace(pending=3), 15, id="pending"),
        pytest.param(Pace(pending=3, idle_polls=99), 15, id="pending outweighs idle"),
        pytest.param(Pace(idle_polls=10), 30, id="idle, within grace"),
        pytest.param(Pace(idle_polls=11), 37.5, id="idle, one beyond grace"),
        pytest.param(Pace(idle_polls=10_000), 120, id="idle for long"),
        pytest.param(Pace(failures=1), 30, id="first failure"),
        pytest.param(Pace(failures=3), 120, id="third failure"),
        pytest.param(Pace(failures=10_000), 600, id="outage for hours"),
        pytest.param(Pace(failures=2, pending=3), 60, id="failures outweigh pending"),
    ],
)
def test_poll_interval_follows_the_pace(pace: Pace, expected_s: float) -> None:
    assert next_poll_s(30, pace, rng=MIDDLE) == pytest.approx(expected_s)


def test_an_interval_beyond_the_outage_cap_is_kept() -> None:
    assert next_poll_s(3600, Pace(failures=9), rng=MIDDLE) == pytest.approx(3600)


def test_bounds_of_one_interval_never_lengthen_it() -> None:
    bounds = Bounds(longest_idle=1)
    assert next_poll_s(30, Pace(idle_polls=99), rng=MIDDLE, bounds=bounds) == pytest.approx(30)


@given(
    st.floats(0.01, 86_400),
    st.builds(Pace, st.integers(0, 9), st.integers(0, 10**6), st.integers(0, 10**6)),
    st.integers(),
)
def test_every_poll_wait_keeps_its_bounds(interval_s: float, pace: Pace, seed: int) -> None:
    wait_s = next_poll_s(interval_s, pace, rng=Random(seed))
    longest_s = max(600, interval_s) if pace.failures else 4 * interval_s
    assert 0.45 * interval_s * 0.999 <= wait_s <= longest_s * 1.1001


def test_jitter_is_a_tenth_either_way() -> None:
    assert next_poll_s(30, Pace(), rng=LEAST) == pytest.approx(27)
    assert next_poll_s(30, Pace(), rng=MOST) == pytest.approx(33)
