"""Which consumers a command gets, and how they live together."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pytest

from fetcher.events import (
    DownloadCompleted,
    DownloadFailed,
    DownloadStarted,
    Event,
    Notice,
    Planned,
    QueueGrew,
    RunCompleted,
)
from fetcher.models import JobId, Variant
from fetcher.report import Console, Wishes, choose, render
from fetcher.report.choice import threshold_of, wants_bars
from fetcher.report.words import DEBUG, INFO, NOTICE, VERBOSE, WARNING

if TYPE_CHECKING:
    from pathlib import Path

ID = JobId("3f2a91bc-0000-4000-8000-000000000001")
CLEAN = Variant.DENOISED
STARTED = DownloadStarted(ID, "a.wav", CLEAN, 9, 0)
COMPLETED = DownloadCompleted(ID, "a.wav", CLEAN, "a/a.wav", 9, 9, "ab", 0.1)
FAILED = DownloadFailed(ID, "a.wav", CLEAN, "404 Not Found", 1)
ENDED = RunCompleted(records=1, failed=1, exit_code=1)


class Memory(io.StringIO):
    """A stream in memory that says what it is."""

    encoding = "utf-8"


@dataclass
class Ends:
    """A console in memory."""

    stdout: Memory = field(default_factory=Memory)
    stderr: Memory = field(default_factory=Memory)

    def console(self, **facts: Any) -> Console:
        return Console(self.stdout, self.stderr, **facts)


@pytest.fixture
def ends() -> Ends:
    return Ends()


BOTH = {"stdout_is_tty": True, "stderr_is_tty": True}


@pytest.mark.parametrize(
    ("wishes", "facts", "expected"),
    [
        (Wishes(), BOTH, True),
        (Wishes(), {"stderr_is_tty": True}, True),
        (Wishes(), {"stdout_is_tty": True}, False),
        (Wishes(), {}, False),
        (Wishes(), {**BOTH, "is_dumb": True}, False),
        (Wishes(json=True), BOTH, False),
        (Wishes(json=True), {"stderr_is_tty": True}, True),
        (Wishes(dry_run=True), BOTH, False),
        (Wishes(dry_run=True), {"stderr_is_tty": True}, True),
        (Wishes(quiet=True), BOTH, False),
        (Wishes(log_format="json"), BOTH, False),
        (Wishes(progress="off"), BOTH, False),
        (Wishes(progress="on"), {}, True),
        (Wishes(progress="on", quiet=True, json=True), {"is_dumb": True}, True),
    ],
)
def test_bars_are_shown_only_on_a_terminal_of_their_own(
    ends: Ends, wishes: Wishes, facts: dict[str, bool], expected: bool
) -> None:
    assert expected == wants_bars(wishes, ends.console(**facts))
    assert expected == choose(wishes, ends.console(**facts)).has_bars


def test_a_closed_stderr_has_no_bars() -> None:
    console = Console(io.StringIO(), None)
    assert not wants_bars(Wishes(progress="on"), console)
    with choose(Wishes(progress="on", verbose=2), console) as report:
        report(STARTED)
        report(FAILED)


@pytest.mark.parametrize(
    ("wishes", "has_bars", "expected"),
    [
        (Wishes(), False, INFO),
        (Wishes(), True, NOTICE),
        (Wishes(quiet=True), False, WARNING),
        (Wishes(quiet=True), True, WARNING),
        (Wishes(verbose=1), True, VERBOSE),
        (Wishes(verbose=2), False, DEBUG),
        (Wishes(verbose=3), False, DEBUG),
    ],
)
def test_v_and_q_set_how_much_is_told(wishes: Wishes, has_bars: bool, expected: int) -> None:
    assert expected == threshold_of(wishes, has_bars=has_bars)


def test_json_has_stdout_for_itself(ends: Ends) -> None:
    with choose(Wishes(json=True), ends.console()) as report:
        report(COMPLETED)
        report(Notice("WARNING", "slow"))
    (line,) = ends.stdout.getvalue().splitlines()
    assert json.loads(line)["event"] == "download.completed"
    assert "downloaded a/a.wav" in ends.stderr.getvalue()
    assert "warning: slow" in ends.stderr.getvalue()


def test_without_json_nothing_goes_to_stdout(ends: Ends) -> None:
    with choose(Wishes(verbose=2), ends.console()) as report:
        report(COMPLETED)
        report(Planned(ID, "a", "download", "new", "a/a.wav"))
    assert ends.stdout.getvalue() == ""


def test_a_dry_run_prints_its_plan_on_stdout(ends: Ends) -> None:
    with choose(Wishes(dry_run=True), ends.console()) as report:
        report(Planned(ID, "a", "download", "new", "a/a.wav"))
    assert ends.stdout.getvalue() == "download: a/a.wav (new)\n"


def test_a_dry_run_with_json_prints_events(ends: Ends) -> None:
    with choose(Wishes(dry_run=True, json=True), ends.console()) as report:
        report(Planned(ID, "a", "download", "new", "a/a.wav"))
    assert json.loads(ends.stdout.getvalue())["event"] == "plan.action"


def test_quiet_and_well_is_silent(ends: Ends) -> None:
    with choose(Wishes(quiet=True), ends.console()) as report:
        report(STARTED)
        report(COMPLETED)
        report.say("nothing that matters")
    assert (ends.stdout.getvalue(), ends.stderr.getvalue()) == ("", "")


@pytest.mark.parametrize(
    ("facts", "is_stamped"),
    [({}, True), ({"stderr_is_tty": True, "is_dumb": True}, False), ({"is_journal": True}, False)],
    ids=["file", "terminal", "journal"],
)
def test_lines_are_stamped_where_nothing_else_tells_the_time(
    ends: Ends, facts: dict[str, bool], is_stamped: bool
) -> None:
    with choose(Wishes(), ends.console(**facts)) as report:
        report(COMPLETED)
    assert is_stamped == ends.stderr.getvalue()[:2].isdecimal()


def test_the_log_file_gets_what_quiet_hides(ends: Ends, tmp_path: Path) -> None:
    path = tmp_path / "fetcher.log"
    with choose(Wishes(quiet=True, log_file=path), ends.console()) as report:
        report(STARTED)
        report.say("a word")
    assert [line.split(" ", 1)[1] for line in path.read_text().splitlines()] == [
        "downloading a.wav (3f2a91bc) (9 B)",
        "a word",
    ]
    assert ends.stderr.getvalue() == ""


def test_a_log_file_that_cannot_be_written_is_told_even_when_quiet(
    ends: Ends, tmp_path: Path
) -> None:
    with choose(Wishes(quiet=True, log_file=tmp_path), ends.console()) as report:
        report(STARTED)
        report(STARTED)
    assert ends.stderr.getvalue().count("cannot be written: Is a directory") == 1


def test_what_libraries_log_goes_above_the_bars_until_the_end(ends: Ends) -> None:
    logger = logging.getLogger("some.library")
    with choose(Wishes(), ends.console()) as report:
        logger.warning("odd\x1b[2J")
    report.close()
    assert ends.stderr.getvalue().endswith(" warning: some.library: odd\ufffd[2J\n")
    assert not [one for one in logging.getLogger().handlers if type(one).__name__ == "StrayRecords"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_arabic_survives_a_locale_that_is_not_utf8(log_format: Literal["text", "json"]) -> None:
    buffer = io.BytesIO()
    stderr = io.TextIOWrapper(buffer, encoding="ascii")
    with choose(Wishes(log_format=log_format), Console(io.StringIO(), stderr)) as report:
        report(DownloadFailed(ID, "مقابلة 🎧", CLEAN, "no", 1))
    if log_format == "text":
        assert b"\\u0645" in buffer.getvalue()
    else:
        assert json.loads(buffer.getvalue())["file_name"] == "مقابلة 🎧"


def test_the_summary_is_made_of_what_the_report_saw(ends: Ends) -> None:
    with choose(Wishes(), ends.console()) as report:
        report(FAILED)
        report(ENDED)
    assert "404 Not Found" in render(report.collector.tally(), quote=report.quote)


# ---- lost streams ------------------------------------------------------------------------


def test_a_closed_pipe_is_told_to_the_caller_and_stops_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    told: list[OSError] = []
    stderr = Memory()
    with os.fdopen(writer, "w") as stdout:
        console = Console(stdout, stderr)
        with choose(Wishes(json=True), console, on_lost=told.append) as report:
            report(STARTED)
            report(COMPLETED)
    assert [type(error) for error in told] == [BrokenPipeError]
    assert "downloaded a/a.wav" in stderr.getvalue()


def test_a_lost_stderr_stops_nothing(ends: Ends) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (
        os.fdopen(writer, "w") as stderr,
        choose(Wishes(json=True, progress="on"), Console(ends.stdout, stderr)) as report,
    ):
        report(FAILED)
        report(COMPLETED)
    assert len(ends.stdout.getvalue().splitlines()) == 2


def test_a_tick_hands_on_what_a_slow_reader_left() -> None:
    reader, writer = os.pipe()
    event = DownloadFailed(ID, "a" * 1000, CLEAN, "no", 1)
    with os.fdopen(writer, "w") as stdout, os.fdopen(reader, "rb") as out:
        report = choose(Wishes(json=True, quiet=True), Console(stdout, None))
        for _ in range(100):  # more than a pipe holds
            report(event)
        lines = b""
        os.set_blocking(reader, False)
        while part := out.read(1 << 20):
            lines += part
            report.tick()
        report.close()
    assert lines.count(b"\n") == 100


# ---- the real thing ----------------------------------------------------------------------


def test_a_console_knows_its_terminal() -> None:
    main, side = pty.openpty()
    with os.fdopen(side, "w", encoding="utf-8") as stderr, os.fdopen(main, "rb"):
        console = Console.of(io.StringIO(), stderr, {"TERM": "dumb", "JOURNAL_STREAM": "8:1"})
    assert (console.stdout_is_tty, console.stderr_is_tty) == (False, True)
    assert (console.is_dumb, console.is_journal) == (True, True)


def test_a_console_of_closed_streams_has_no_terminal() -> None:
    closed = io.StringIO()
    closed.close()
    console = Console.of(None, closed, {})
    assert (console.stdout_is_tty, console.stderr_is_tty) == (False, False)


def read_until(terminal: io.RawIOBase | io.FileIO, wanted: bytes) -> bytes:
    """Return what came from the terminal up to the piece that holds `wanted`."""
    got = b""
    while wanted not in got:
        got += terminal.read(65536) or b""
    return got


def test_bars_on_a_real_terminal_leave_nothing_behind() -> None:
    main, side = pty.openpty()
    now_s = [0.0]
    with os.fdopen(side, "w", encoding="utf-8") as stderr, os.fdopen(main, "rb", 0) as terminal:
        console = Console.of(io.StringIO(), stderr, {})
        with choose(Wishes(), console, clock=lambda: now_s[0]) as report:
            report(QueueGrew(3))
            report(STARTED)
            now_s[0] += 1
            report.tick()
            drawn = read_until(terminal, b"a.wav")
        cleared = read_until(terminal, b"\x1b[J")
    assert b"0 of 3 files" in drawn
    assert cleared.endswith(b"\r\x1b[J")


def test_bars_are_not_imported_where_none_are_shown() -> None:
    code = (
        "import io, sys; from fetcher.report import *;"
        "choose(Wishes(json=True), Console(io.StringIO(), io.StringIO())).close();"
        "print({'tqdm', 'wcwidth', 'aiohttp', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_consumer_sees_every_event_in_order(ends: Ends) -> None:
    seen: list[Event] = []
    with choose(Wishes(), ends.console()) as report:
        report.add(seen.append)
        report(STARTED)
        report(COMPLETED)
    assert seen == [STARTED, COMPLETED]
