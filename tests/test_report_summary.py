"""The account at the end of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fetcher.events import (
    DownloadAdopted,
    DownloadCompleted,
    DownloadFailed,
    DownloadStarted,
    ExecFailed,
    FileSuspect,
    RunCompleted,
    RunStarted,
)
from fetcher.models import JobId, Variant
from fetcher.report import Collector, Tally, render
from fetcher.report.summary import KEPT_FAILURES, Failure

CLEAN = Variant.DENOISED
GOOD = RunCompleted(
    records=25, downloaded=17, already=5, pending=3, bytes=34_500_000, bytes_fetched=34_500_000,
    seconds=12.0,
)  # fmt: skip
BAD = replace(GOOD, downloaded=15, failed=2, exit_code=1)


def failed(number: int, reason: str = "404 Not Found") -> DownloadFailed:
    return DownloadFailed(JobId(f"{number:08x}-0000"), f"{number}.wav", CLEAN, reason, 1)


def test_a_good_run_takes_two_lines() -> None:
    tally = Tally("backfill", "downloads", GOOD)
    assert render(tally) == (
        "25 records = 17 downloaded + 5 already here + 3 waiting\n"
        "34.5 MB fetched in 12 s (2.9 MB/s) into downloads\n"
    )


def test_failures_stand_by_reason_with_the_command_that_tries_them_again() -> None:
    failures = (
        Failure("00000001-1", "one.wav", "disk of the server is full"),
        Failure("00000002-1", "two.wav", "404 Not Found"),
        Failure("00000003-1", "three.wav", "404 Not Found"),
    )
    tally = Tally("backfill", "/srv/my audio", replace(BAD, failed=3), failures=failures)
    assert render(tally).splitlines()[2:] == [
        "Could not be fetched: 3",
        "  404 Not Found (2 files)",
        "    two.wav (00000002)",
        "    three.wav (00000003)",
        "  disk of the server is full",
        "    one.wav (00000001)",
        "To try again: fetcher backfill -d '/srv/my audio'  (with the options of this run)",
    ]


def test_a_watch_offers_retry_and_a_caller_what_it_knows_better() -> None:
    tally = Tally("watch", "downloads", BAD)
    assert "To try again: fetcher retry  (" in render(tally)
    assert "To try again: fetcher x\n" in render(tally, again="fetcher x")


def test_ten_failures_are_named_and_the_rest_counted() -> None:
    failures = tuple(Failure(f"{n:08x}", f"{n}.wav", f"reason {n % 3}") for n in range(40))
    lines = render(Tally("backfill", "downloads", replace(BAD, failed=40), failures=failures))
    assert sum(line.startswith("    ") for line in lines.splitlines()) == 10
    assert "  and 30 more: fetcher list --state failed\n" in lines


@pytest.mark.parametrize("code", [3, 4, 6, 70, 130, 143])
def test_a_run_that_ended_early_says_that_the_next_one_goes_on(code: int) -> None:
    text = render(Tally("backfill", "downloads", replace(GOOD, exit_code=code)))
    assert text.endswith("Ended early: the next run goes on where this one stopped.\n")


def test_what_is_no_failure_and_wants_a_look_is_counted() -> None:
    tally = Tally("x", "y", replace(GOOD, invalid=1), suspects=2, exec_failures=1)
    assert render(tally).splitlines()[2:] == [
        "1 malformed record reported above",
        "2 files suspect: the length of the audio is not the record's",
        "1 command of --exec failed",
    ]


@pytest.mark.parametrize(
    ("tally", "is_silent"),
    [
        (Tally("x", "y", GOOD), True),
        (Tally("x", "y", replace(GOOD, invalid=1)), False),
        (Tally("x", "y", BAD), False),
        (Tally("x", "y", replace(GOOD, exit_code=130)), False),
    ],
    ids=["good", "malformed", "failed", "interrupted"],
)
def test_a_quiet_run_is_silent_when_all_went_well(tally: Tally, is_silent: bool) -> None:
    assert is_silent == (render(tally, quiet=True) == "")


def test_a_run_that_has_not_ended_has_no_account() -> None:
    assert render(Tally("x", "y")) == ""


def test_a_run_that_fetched_nothing_has_no_rate() -> None:
    run = RunCompleted(records=5, already=5, seconds=0.3)
    assert render(Tally("backfill", "downloads", run)).splitlines() == [
        "5 records = 0 downloaded + 5 already here",
        "0 B fetched in 0.3 s into downloads",
    ]


def test_foreign_text_in_a_summary_drives_no_terminal() -> None:
    failures = (Failure("\x1b[31m-000", "a\x1b[2J\u202eb\n.wav", "\x9b31m gone"),)
    text = render(Tally("watch", "d\x07", replace(BAD, failed=1), failures=failures))
    assert not set(text) & set("\x1b\x07\x9b\u202e")
    assert "a\ufffd[2Jb .wav" in text


# ---- the collector -----------------------------------------------------------------------


def test_the_collector_keeps_what_the_summary_needs() -> None:
    collector = Collector()
    for event in (
        RunStarted("watch", "here"),
        failed(1),
        FileSuspect(JobId("a"), "a", "short"),
        ExecFailed(JobId("a"), "a", 1),
        BAD,
    ):
        collector(event)
    tally = collector.tally()
    assert (tally.mode, tally.dest, tally.account) == ("watch", "here", BAD)
    assert (tally.suspects, tally.exec_failures) == (1, 1)
    assert [failure.file_name for failure in tally.failures] == ["1.wav"]
    assert collector.totals.failed_files == 1


def test_a_file_that_came_after_all_is_no_failure() -> None:
    collector = Collector()
    for number in (1, 2, 3, 4):
        collector(failed(number))
    one, two, three, _ = (failed(number) for number in (1, 2, 3, 4))
    collector(DownloadCompleted(one.id, "1.wav", CLEAN, "1", 1, 1, "ab", 1.0))
    collector(DownloadAdopted(two.id, "2.wav", CLEAN, "2", 1, "ab"))
    collector(DownloadStarted(three.id, "3.wav", CLEAN, 1, 0))
    assert [failure.file_name for failure in collector.tally().failures] == ["4.wav"]


def test_failures_without_number_take_bounded_memory() -> None:
    collector = Collector()
    for number in range(KEPT_FAILURES + 50):
        collector(failed(number))
    assert len(collector.tally().failures) == KEPT_FAILURES
    assert collector.totals.failed_files == KEPT_FAILURES + 50
