"""How far, how fast, how long: the arithmetic behind bars and the line of the minute."""

from __future__ import annotations

import pytest

from fetcher.events import (
    DownloadAdopted,
    DownloadCancelled,
    DownloadCompleted,
    DownloadFailed,
    DownloadFiltered,
    DownloadProgress,
    DownloadRetrying,
    DownloadStarted,
    ListingProgress,
    PollCompleted,
    QueueGrew,
    RunStarted,
)
from fetcher.models import JobId, Variant
from fetcher.report.pace import Pace, Speed

A, B = JobId("a"), JobId("b")
CLEAN = Variant.DENOISED
MB = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(clock)


def started(job_id: JobId, total: int | None = 10 * MB, start: int = 0) -> DownloadStarted:
    return DownloadStarted(job_id, "x", CLEAN, total, start)


def progress(job_id: JobId, done: int, total: int | None = 10 * MB) -> DownloadProgress:
    return DownloadProgress(job_id, "x", CLEAN, done, total)


def completed(job_id: JobId, size: int = 10 * MB) -> DownloadCompleted:
    return DownloadCompleted(job_id, "x", CLEAN, "x", size, size, "ab", 1.0)


def test_each_end_settles_a_file_and_a_cancelled_one_stays_to_be_done(pace: Pace) -> None:
    pace(QueueGrew(5))
    pace(completed(A))
    pace(DownloadFailed(A, "x", CLEAN, "no", 1))
    pace(DownloadFiltered(A, "x", CLEAN, "no"))
    pace(DownloadAdopted(A, "x", CLEAN, "x", 1, "ab"))
    pace(started(B))
    pace(DownloadCancelled(B, "x", CLEAN, 0))
    now = pace.progress()
    assert (now.settled_files, now.known_files, now.is_busy) == (4, 5, True)
    assert pace.flights == {}


def test_files_that_are_no_longer_wanted_leave_the_count(pace: Pace) -> None:
    pace(QueueGrew(5))
    pace(QueueGrew(-2))
    assert pace.progress().known_files == 3


def test_known_files_are_never_fewer_than_those_seen(pace: Pace) -> None:
    pace(completed(A))
    pace(started(B))
    now = pace.progress()
    assert (now.settled_files, now.known_files) == (1, 2)


def test_a_run_lists_until_its_poll_is_complete(pace: Pace) -> None:
    pace(RunStarted("backfill", "x"))
    pace(ListingProgress(200))
    assert pace.progress().is_listing
    assert pace.progress().listed_records == 200
    pace(PollCompleted(1, 200, 200, 0))
    assert not pace.progress().is_busy


def test_a_resumed_file_counts_only_what_arrives_now(pace: Pace) -> None:
    pace(started(A, start=9 * MB))
    pace(progress(A, 9 * MB + 5))
    assert pace.progress().bytes_arrived == 5


def test_a_file_that_starts_again_from_zero_takes_nothing_back(pace: Pace) -> None:
    pace(started(A))
    pace(progress(A, 5 * MB))
    pace(progress(A, 0))
    pace(progress(A, 1 * MB))
    assert pace.progress().bytes_arrived == 6 * MB


def test_a_small_file_counts_although_it_never_told_its_progress(pace: Pace) -> None:
    pace(started(A, total=100))
    pace(completed(A, size=100))
    assert pace.progress().bytes_arrived == 100


def test_the_fraction_grows_with_files_in_flight(pace: Pace) -> None:
    pace(QueueGrew(4))
    pace(completed(A))
    pace(started(B))
    pace(progress(B, 5 * MB))
    assert pace.progress().fraction == pytest.approx(1.5 / 4)


def test_a_file_of_unknown_length_has_no_fraction(pace: Pace) -> None:
    pace(QueueGrew(1))
    pace(started(A, total=None))
    pace(progress(A, 5 * MB, None))
    assert pace.progress().fraction == 0


def test_a_steady_rate_is_told_as_it_is(pace: Pace, clock: Clock) -> None:
    pace(QueueGrew(1))
    pace(started(A, total=100 * MB))
    for second in range(1, 21):
        clock.now_s += 1
        pace(progress(A, second * 2 * MB, 100 * MB))
    now = pace.progress()
    assert now.rate_bytes_s == pytest.approx(2 * MB)
    assert now.left_s == pytest.approx(30)


def test_one_burst_moves_the_time_left_little(pace: Pace, clock: Clock) -> None:
    pace(QueueGrew(1))
    pace(started(A, total=1000 * MB))
    for second in range(1, 61):
        clock.now_s += 1
        pace(progress(A, second * 2 * MB, 1000 * MB))
    before_s = pace.progress().left_s
    clock.now_s += 1
    pace(progress(A, 130 * MB, 1000 * MB))  # five times as fast for a second
    after_s = pace.progress().left_s
    assert before_s is not None
    assert after_s is not None
    assert 0.8 * before_s < after_s < before_s


def test_a_stall_brings_the_rate_down(pace: Pace, clock: Clock) -> None:
    pace(started(A))
    clock.now_s += 1
    pace(progress(A, 5 * MB))
    clock.now_s += 60
    assert pace.progress().rate_bytes_s < 1000


def test_files_not_begun_are_taken_for_as_long_as_the_others(pace: Pace, clock: Clock) -> None:
    pace(QueueGrew(11))
    pace(started(A))
    for second in range(1, 11):
        clock.now_s += 1
        pace(progress(A, second * MB))
    pace(completed(A))
    assert pace.progress().left_s == pytest.approx(100)


def test_nobody_knows_how_long_it_takes_before_a_byte_has_come(pace: Pace) -> None:
    pace(QueueGrew(5))
    assert pace.progress().left_s is None


def test_a_watch_counts_each_batch_anew(pace: Pace) -> None:
    pace(PollCompleted(1, 0, 0, 0))
    pace(QueueGrew(2))
    pace(completed(A))
    pace(completed(B))
    pace(QueueGrew(1))
    now = pace.progress()
    assert (now.settled_files, now.known_files) == (0, 1)


def test_a_backfill_that_overtakes_its_listing_counts_on(pace: Pace) -> None:
    pace(QueueGrew(1))
    pace(completed(A))
    pace(QueueGrew(1))
    now = pace.progress()
    assert (now.settled_files, now.known_files) == (1, 2)


def test_a_wait_for_the_next_attempt_ends_with_its_first_byte(pace: Pace, clock: Clock) -> None:
    pace(started(A))
    pace(DownloadRetrying(A, "x", CLEAN, 1, 30.0, "reset"))
    (flight,) = pace.flights.values()
    assert flight.retry_at == clock.now_s + 30
    pace(progress(A, 1))
    assert flight.retry_at is None


def test_an_average_is_right_from_its_first_sample() -> None:
    speed = Speed(5.0, 0.0)
    speed.add(100, 0.1)
    assert speed.bytes_s == 0
    speed.add(100, 0.5)
    assert speed.bytes_s == pytest.approx(400)
