"""Log lines: thresholds, the summary of each minute, the log file, words of every event."""

from __future__ import annotations

import json
import logging
import os
import unicodedata
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher import events
from fetcher.events import (
    DownloadAdopted,
    DownloadCompleted,
    DownloadFailed,
    DownloadProgress,
    DownloadRetrying,
    DownloadStarted,
    Event,
    ExecFailed,
    FileSuspect,
    JobFailed,
    JobPending,
    JobProgress,
    ListingProgress,
    Notice,
    Planned,
    PollCompleted,
    QueueGrew,
    RecordInvalid,
    RunCompleted,
    RunStarted,
)
from fetcher.models import JobId, Variant
from fetcher.report.lines import LogFile, LogLines, PlanLines, StrayRecords, Style
from fetcher.report.outlet import Outlet
from fetcher.report.pace import Pace
from fetcher.report.words import (
    DEBUG,
    INFO,
    NOTICE,
    VERBOSE,
    WARNING,
    account,
    isolated,
    level_of,
    words,
)

AT = datetime(2025, 1, 31, 12, tzinfo=UTC)
ID = JobId("3f2a91bc-0000-4000-8000-000000000001")
CLEAN = Variant.DENOISED
STARTED = DownloadStarted(ID, "a.wav", CLEAN, 1000, 0)
COMPLETED = DownloadCompleted(ID, "a.wav", CLEAN, "a/a.3f2a91bc.wav", 1_200_000, 1, "ab", 0.44)
FAILED = DownloadFailed(ID, "a.wav", CLEAN, "404 Not Found", 1)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def written(style: Style, *happened: Event) -> list[str]:
    lines: list[str] = []
    sink = LogLines(lines.append, style, clock=Clock(), now=lambda: AT)
    for event in happened:
        sink(event)
    return lines


EVERYTHING: list[tuple[Event, int, str]] = [
    (RunStarted("backfill", "downloads"), INFO, "backfill into downloads"),
    (
        PollCompleted(3, 1200, 4, 2),
        VERBOSE,
        "polled: 3 requests, 1,200 records, 4 new, 2 pending",
    ),
    (ListingProgress(5), DEBUG, "listed so far: 5 records"),
    (QueueGrew(5), DEBUG, "to be fetched: +5 files"),
    (Notice("INFO", "API back"), NOTICE, "API back"),
    (Notice("ERROR", "no"), logging.ERROR, "no"),
    (Notice("DEBUG", "no"), DEBUG, "no"),
    (
        RecordInvalid("no status", ID, "a"),
        WARNING,
        "record a (3f2a91bc) was not understood: no status",
    ),
    (RecordInvalid("no id"), WARNING, "record without an id was not understood: no id"),
    (JobPending(ID, "a"), VERBOSE, "not finished by the service yet: a (3f2a91bc)"),
    (JobProgress(ID, "a", 45.4, "hm"), DEBUG, "at the service, 45%: a (3f2a91bc) hm"),
    (JobFailed(ID, "", "too long"), NOTICE, "failed by the service: job 3f2a91bc: too long"),
    (Planned(ID, "a", "download", "new", "a/a.wav"), DEBUG, "download: a/a.wav (new)"),
    (STARTED, VERBOSE, "downloading a.wav (3f2a91bc) (1.0 kB)"),
    (
        DownloadStarted(ID, "a.wav", CLEAN, None, 10),
        VERBOSE,
        "downloading a.wav (3f2a91bc) (size unknown, from 10 B)",
    ),
    (COMPLETED, INFO, "downloaded a/a.3f2a91bc.wav (1.2 MB in 0.4 s)"),
    (DownloadAdopted(ID, "a", CLEAN, "a/a.wav", 9, "ab"), INFO, "found in place a/a.wav (9 B)"),
    (
        DownloadRetrying(ID, "a", CLEAN, 2, 1.5, "reset"),
        VERBOSE,
        "attempt 2 failed, next in 1.5 s: a (3f2a91bc): reset",
    ),
    (
        DownloadRetrying(ID, "a", CLEAN, 1, 120, "429"),
        NOTICE,
        "attempt 1 failed, next in 2 min: a (3f2a91bc): 429",
    ),
    (
        FAILED,
        logging.ERROR,
        "could not be fetched after 1 attempt: a.wav (3f2a91bc): 404 Not Found",
    ),
    (
        ExecFailed(ID, "a", 3),
        WARNING,
        "the command of --exec ended with 3 for a (3f2a91bc)",
    ),
    (
        ExecFailed(ID, "a", None, "not found"),
        WARNING,
        "the command of --exec failed for a (3f2a91bc): not found",
    ),
    (FileSuspect(ID, "a", "too short"), WARNING, "suspect: a (3f2a91bc): too short"),
    (
        events.DownloadFiltered(ID, "a", CLEAN, "larger than 5 MB"),
        INFO,
        "filtered out: a (3f2a91bc): larger than 5 MB",
    ),
    (events.DownloadCancelled(ID, "a", CLEAN, 5), VERBOSE, "stopped at 5 B: a (3f2a91bc)"),
    (
        events.FileDamaged(ID, "a", CLEAN, "a/a.wav", "damaged", "9 bytes instead of 10"),
        WARNING,
        "damaged: a/a.wav: 9 bytes instead of 10",
    ),
    (events.VerifyProgress(1, 2, 3), DEBUG, ""),
    (
        events.VerifyCompleted(files=3, intact=1, missing=2, bytes=1_200_000, seconds=0.44),
        VERBOSE,
        "checked 3 files (1.2 MB in 0.4 s) = 1 as recorded + 2 missing",
    ),
    (events.JobSettled(ID, "a"), DEBUG, "no longer followed: a (3f2a91bc)"),
    (DownloadProgress(ID, "a", CLEAN, 1, 2), DEBUG, ""),
    (
        RunCompleted(records=1, downloaded=1),
        VERBOSE,
        "run ended with status 0: 1 record = 1 downloaded",
    ),
]


@pytest.mark.parametrize(
    ("event", "level", "text"), EVERYTHING, ids=lambda value: getattr(value, "name", "")
)
def test_each_event_has_its_level_and_words(event: Event, level: int, text: str) -> None:
    assert (level, text) == (level_of(event), words(event))


def test_no_event_was_forgotten() -> None:
    told = {type(event) for event, _, _ in EVERYTHING}
    bases = {events.JobEvent, events.FileEvent}
    known = {kind for kind in vars(events).values() if isinstance(kind, type)}
    assert {kind for kind in known if issubclass(kind, Event)} - bases - {Event} == told


def _with_text(event: Event, text: str) -> Event:
    """Return `event` with `text` in every field that others fill."""
    values: dict[str, Any] = {field.name: getattr(event, field.name) for field in fields(event)}
    ours = {"mode", "action", "level", "variant"}
    foreign = {name for name, value in values.items() if isinstance(value, str)} - ours
    return type(event)(**values | dict.fromkeys(foreign, text))


@given(st.text(st.characters(exclude_categories=())))
def test_no_foreign_text_brings_a_control_character(text: str) -> None:
    for event, _, _ in EVERYTHING:
        line = words(_with_text(event, text))
        bad = [char for char in line if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}]
        assert bad == []
        assert line.splitlines() in ([line], [])
        assert not set(line) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200f")


def test_a_name_of_ten_thousand_letters_leaves_a_line_readable() -> None:
    assert len(words(JobPending(ID, "م" * 10_000))) < 200


def test_right_to_left_names_are_isolated_on_a_terminal() -> None:
    line = words(JobPending(ID, "مقابلة"), isolated)
    assert line == "not finished by the service yet: \u2068مقابلة\u2069 (3f2a91bc)"


def test_quiet_leaves_problems_only() -> None:
    lines = written(Style(threshold=WARNING), STARTED, COMPLETED, JobFailed(ID, "a"), FAILED)
    assert lines == ["error: could not be fetched after 1 attempt: a.wav (3f2a91bc): 404 Not Found"]


def test_without_a_terminal_each_finished_file_is_a_stamped_line() -> None:
    lines = written(Style(is_stamped=True), STARTED, COMPLETED)
    assert lines == ["2025-01-31T12:00:00.000Z downloaded a/a.3f2a91bc.wav (1.2 MB in 0.4 s)"]


def test_json_log_lines_carry_the_event_and_the_words() -> None:
    (line,) = written(Style(as_json=True), FAILED)
    told = json.loads(line)
    assert told["level"] == "error"
    assert told["time"] == "2025-01-31T12:00:00.000Z"
    assert told["event"] == "download.failed"
    assert told["reason"] == "404 Not Found"
    assert told["message"].startswith("could not be fetched")


def _running(clock: Clock, style: Style) -> tuple[list[str], Pace, LogLines]:
    lines: list[str] = []
    pace = Pace(clock)
    return lines, pace, LogLines(lines.append, style, pace=pace, clock=clock, now=lambda: AT)


def test_a_line_a_minute_says_how_far_the_run_is() -> None:
    clock = Clock()
    lines, pace, sink = _running(clock, Style(threshold=NOTICE - 5))
    pace(QueueGrew(1204))
    pace(PollCompleted(1, 1204, 1204, 0))
    pace(STARTED)
    clock.now_s += 10
    pace(DownloadProgress(ID, "a.wav", CLEAN, 500, 1000))
    sink.tick()
    assert lines == []
    clock.now_s += 51
    sink.tick()
    sink.tick()
    (line,) = lines
    assert line.startswith("0 of 1,204 files, 500 B, ")
    assert line.endswith(" left")


def test_an_outage_is_not_told_every_minute() -> None:
    clock = Clock()
    lines, pace, sink = _running(clock, Style())
    pace(QueueGrew(5))
    for _ in range(10):
        clock.now_s += 61
        sink.tick()
    assert lines == []


def test_a_quiet_run_has_no_line_a_minute() -> None:
    clock = Clock()
    lines, pace, sink = _running(clock, Style(threshold=WARNING))
    pace(ListingProgress(5))
    clock.now_s += 61
    sink.tick()
    assert lines == []


def test_listing_is_told_before_any_file_is_known() -> None:
    clock = Clock()
    lines, pace, sink = _running(clock, Style())
    pace(ListingProgress(120_000))
    clock.now_s += 61
    sink.tick()
    assert lines == ["listed so far: 120,000 records"]


# ---- the log file ------------------------------------------------------------------------


def test_the_log_file_has_more_than_the_screen_and_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "fetcher.log"
    path.write_text("before\n")
    file = LogFile(path, complain=pytest.fail)
    file(STARTED)
    file(COMPLETED)
    file.close()
    lines = path.read_text().splitlines()
    assert lines[0] == "before"
    assert [line.split(" ")[1] for line in lines[1:]] == ["downloading", "downloaded"]


def test_a_log_file_is_made_only_when_there_is_something_to_say(tmp_path: Path) -> None:
    path = tmp_path / "fetcher.log"
    LogFile(path, complain=pytest.fail).close()
    assert not path.exists()


def test_a_rotated_log_file_is_opened_anew(tmp_path: Path) -> None:
    path, old = tmp_path / "fetcher.log", tmp_path / "fetcher.log.1"
    file = LogFile(path, complain=pytest.fail)
    file.say(INFO, "one")
    path.rename(old)
    file.say(INFO, "two")
    file.close()
    assert old.read_text().endswith(" one\n")
    assert path.read_text().endswith(" two\n")


def test_a_log_file_that_cannot_be_written_is_told_once_and_then_tried_again(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    path = tmp_path / "missing" / "fetcher.log"
    file = LogFile(path, complain=told.append)
    file.say(INFO, "one")
    file.say(INFO, "two")
    path.parent.mkdir()
    file.say(INFO, "three")
    file.close()
    assert told == [f"the log file {path} cannot be written: No such file or directory"]
    assert path.read_text().endswith(" three\n")


def test_a_pipe_that_nobody_reads_holds_nobody_up_and_gets_its_lines_later(tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "pipe"
    os.mkfifo(path)
    file = LogFile(path, complain=told.append)
    file.say(INFO, "one")
    assert told == [f"the log file {path} cannot be written: nobody reads this pipe"]
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file.say(INFO, "two")
    assert os.read(reader, 1000).endswith(b" two\n")
    os.close(reader)
    file.close()


def test_a_pipe_whose_reader_does_not_read_holds_nobody_up_and_loses_no_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = LogFile(path, complain=pytest.fail)
    for number in range(2000):  # several times what a pipe holds
        file.say(INFO, f"{number:04} {'x' * 100}")
    assert not file.pump()
    got = b""
    while not file.pump():
        got += os.read(reader, 1 << 20)
    got += os.read(reader, 1 << 20)
    assert [int(line.split()[1]) for line in got.splitlines()] == list(range(2000))
    os.close(reader)
    file.close()


def test_a_terminal_that_is_held_holds_nobody_up_as_a_log_file() -> None:
    main, side = os.openpty()
    file = LogFile(Path(os.ttyname(side)), complain=pytest.fail)
    for number in range(1000):
        file.say(INFO, f"{number:04} {'x' * 100}")
    assert not file.pump()
    file.close()
    os.close(side)
    os.close(main)


def test_a_lone_surrogate_does_not_stop_the_log_file(tmp_path: Path) -> None:
    path = tmp_path / "fetcher.log"
    file = LogFile(path, complain=pytest.fail)
    file.say(INFO, "\ud800")
    file.close()
    assert path.read_text(encoding="utf-8").endswith(" \\ud800\n")


# ---- the plan, and what libraries log ----------------------------------------------------


@pytest.mark.parametrize(
    ("show_all", "expected"),
    [
        (False, ["download: a/a.wav (new)", "fail: c (3f2a91bc) (taken)"]),
        (
            True,
            [
                "download: a/a.wav (new)",
                "fail: c (3f2a91bc) (taken)",
                "skip: b (3f2a91bc) (complete)",
            ],
        ),
    ],
)
def test_a_plan_says_what_would_be_fetched(show_all: bool, expected: list[str]) -> None:
    import io

    stream = io.StringIO()
    sink = PlanLines(Outlet(stream), show_all=show_all)
    sink(Planned(ID, "a", "download", "new", "a/a.wav"))
    sink(Planned(ID, "c", "fail", "taken"))
    sink(Planned(ID, "b", "skip", "complete"))
    sink(COMPLETED)
    assert expected == stream.getvalue().splitlines()


def test_what_a_library_logs_becomes_a_notice_without_its_details() -> None:
    told: list[Event] = []
    handler = StrayRecords(told.append)
    logger = logging.Logger("asyncio")
    logger.addHandler(handler)
    error = RuntimeError("https://host/a?X-Signature=secret")
    logger.error("never retrieved\nhttps://host/a?X-Signature=secret", exc_info=error)
    logger.info("small talk")
    assert told == [Notice("ERROR", "asyncio: never retrieved (RuntimeError)")]


# ---- the account -------------------------------------------------------------------------


def test_the_account_adds_up_and_leaves_zeros_out() -> None:
    run = RunCompleted(
        records=1021,
        downloaded=1000,
        adopted=1,
        already=2,
        failed=3,
        pending=4,
        rejected=5,
        filtered=6,
        exit_code=1,
    )
    assert account(run) == (
        "1,021 records = 1,000 downloaded + 1 found in place + 2 already here + 4 waiting + "
        "5 failed by the service + 3 could not be fetched + 6 filtered out"
    )
    assert account(RunCompleted(records=2, already=2)) == (
        "2 records = 0 downloaded + 2 already here"
    )


def test_what_an_interrupted_run_left_is_not_called_waiting_for_the_service() -> None:
    run = RunCompleted(records=2, downloaded=1, pending=1, exit_code=130)
    assert account(run) == "2 records = 1 downloaded + 1 waiting or left for the next run"
