"""Bars, looked at through a small terminal: what stands on its lines, whatever happens."""

from __future__ import annotations

import io
import os
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.core.text import width
from fetcher.events import (
    DownloadCompleted,
    DownloadFailed,
    DownloadProgress,
    DownloadRetrying,
    DownloadStarted,
    Event,
    JobFailed,
    JobProgress,
    JobSettled,
    ListingProgress,
    PollCompleted,
    QueueGrew,
    RunStarted,
)
from fetcher.models import JobId, Variant
from fetcher.report.bars import Bars
from fetcher.report.outlet import Outlet
from fetcher.report.pace import Pace

CLEAN = Variant.DENOISED
MB = 1_000_000
ARABIC = "مقابلة مع الضيف.wav"
NAMES = [
    "audio.wav",
    ARABIC,
    "n" * 200 + ".wav",
    "会議の録音.wav",
    "\x1b[31mred\u202e\n.wav",
    "👨‍👩‍👧.wav",
]
SEQUENCE = re.compile(r"\x1b\[(\??\d*)([A-Za-z])")


class Screen:
    """A terminal of so many columns and lines that knows what bars write to it.

    It scrolls, wraps where wrapping is on, and keeps what has left through its top.
    """

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.rows: list[list[str]] = [[] for _ in range(lines)]
        self.gone: list[str] = []
        self.x = self.y = 0
        self.wraps = True

    def feed(self, text: str) -> None:
        while text:
            found = SEQUENCE.match(text)
            if found:
                self._sequence(found[1], found[2])
                text = text[found.end() :]
            else:
                self._put(text[0])
                text = text[1:]

    def shown(self) -> list[str]:
        """Return the lines, without the empty ones at the end."""
        lines = ["".join(row).rstrip() for row in self.rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _sequence(self, number: str, letter: str) -> None:
        match number, letter:
            case "", "A":
                self.y = max(0, self.y - 1)
            case "", "K":
                del self.rows[self.y][self.x :]
            case "", "J":
                del self.rows[self.y][self.x :]
                for row in self.rows[self.y + 1 :]:
                    row.clear()
            case "?7", "h" | "l":
                self.wraps = letter == "h"
            case _:
                pytest.fail(f"a sequence that bars do not write: {number}{letter}")

    def _put(self, char: str) -> None:
        if char == "\r":
            self.x = 0
        elif char == "\n":
            self._down()
        else:
            assert unicodedata.category(char) != "Cc", f"a control character: {char!r}"
            self._letter(char)

    def _down(self) -> None:
        self.x = 0  # as ONLCR has it
        self.y += 1
        if self.y == self.lines:
            self.gone.append("".join(self.rows.pop(0)))
            self.rows.append([])
            self.y -= 1

    def _letter(self, char: str) -> None:
        size = width(char)
        if size and self.x + size > self.columns:
            if not self.wraps:
                return
            self._down()
        row = self.rows[self.y]
        row.extend(" " * (self.x - len(row)))
        if size == 0:
            row[self.x - 1 : self.x] = [row[self.x - 1] + char if self.x else char]
            return
        row[self.x : self.x + size] = [char] + [""] * (size - 1)
        self.x += size


class Bench:
    """Bars on a screen, with a clock and a size that tests move."""

    def __init__(self, columns: int = 80, lines: int = 24, encoding: str = "utf-8") -> None:
        self.screen = Screen(columns, lines)
        self.now_s = 1000.0
        self.buffer = io.BytesIO()
        self.stream = io.TextIOWrapper(self.buffer, encoding=encoding)
        self.encoding = encoding
        self.pace = Pace(self.clock)
        self.bars = Bars(Outlet(self.stream), self.pace, clock=self.clock, size=self.size)

    def clock(self) -> float:
        return self.now_s

    def size(self) -> os.terminal_size:
        return os.terminal_size((self.screen.columns, self.screen.lines))

    def tell(self, *happened: Event, after_s: float = 0.0) -> None:
        self.now_s += after_s
        for event in happened:
            self.pace(event)
            self.bars(event)

    def look(self, after_s: float = 0.5) -> list[str]:
        """Let time pass, have the bars drawn, and return the lines of the screen."""
        self.now_s += after_s
        self.bars.tick()
        return self.now()

    def now(self) -> list[str]:
        self.screen.feed(self.written())
        return self.screen.shown()

    def written(self) -> str:
        text = self.buffer.getvalue().decode(self.encoding)
        self.buffer.seek(0)
        self.buffer.truncate()
        return text


def started(number: int, name: str = "audio.wav", total: int | None = 10 * MB) -> Event:
    return DownloadStarted(JobId(f"{number:08x}-0000"), name, CLEAN, total, 0)


def progress(number: int, done: int, total: int | None = 10 * MB) -> Event:
    return DownloadProgress(JobId(f"{number:08x}-0000"), "audio.wav", CLEAN, done, total)


def completed(number: int, size: int = 10 * MB) -> Event:
    return DownloadCompleted(
        JobId(f"{number:08x}-0000"), "audio.wav", CLEAN, "a.wav", size, size, "ab", 1.0
    )


def at_service(number: int, pct: float, message: str | None = None, name: str = "a.wav") -> Event:
    return JobProgress(JobId(f"{number:08x}-0000"), name, pct, message)


def test_the_whole_run_stands_above_the_service_above_the_downloads() -> None:
    bench = Bench()
    bench.tell(QueueGrew(1204), PollCompleted(3, 1204, 1204, 1), started(1, "one.wav"))
    bench.tell(at_service(9, 45, "denoising", "nine.wav"), progress(1, 5 * MB), after_s=1)
    run, job, file = bench.look()
    assert run.startswith("0 of 1,204 files ")
    assert run.endswith(" left")
    assert re.search(r"5\.0 MB +\d\.\d MB/s", run)
    assert re.fullmatch(r"nine\.wav +\|░+ +\|   45%  denoising", job)
    assert re.fullmatch(r"one\.wav +\|█+\S? +\|   50%   5\.0 MB/10\.0 MB +\d\.\d MB/s", file)


def test_listing_is_shown_until_a_file_is_known_and_known_grows() -> None:
    bench = Bench()
    bench.tell(RunStarted("backfill", "x"), ListingProgress(12_000))
    assert bench.look() == ["listing: 12,000 records"]
    bench.tell(QueueGrew(200))
    assert bench.look()[0].startswith("0 of 200+ files")
    bench.tell(QueueGrew(100), PollCompleted(3, 12_200, 300, 0))
    assert bench.look()[0].startswith("0 of 300 files")


def test_a_small_file_never_gets_a_line() -> None:
    bench = Bench()
    bench.tell(QueueGrew(20))
    for number in range(10):
        bench.tell(started(number), completed(number), after_s=0.2)
        assert len(bench.now()) == 1


def test_a_line_of_a_finished_file_is_handed_on_to_the_next() -> None:
    bench = Bench()
    bench.tell(QueueGrew(3), started(1, "one.wav"), started(2, "two.wav"))
    assert [line.split()[0] for line in bench.look()[1:]] == ["one.wav", "two.wav"]
    bench.tell(completed(1), started(3, "three.wav"))
    assert [line.split()[0] for line in bench.look(0.2)[1:]] == ["one.wav", "two.wav"]
    assert [line.split()[0] for line in bench.look(0.2)[1:]] == ["three.wav", "two.wav"]


def test_lines_that_nobody_needs_go_after_a_second() -> None:
    bench = Bench()
    bench.tell(QueueGrew(3), started(1, "one.wav"), started(2, "two.wav"))
    bench.look()
    bench.tell(completed(1))
    assert len(bench.look(0.2)) == 3
    assert [line.split()[0] for line in bench.look(1.1)[1:]] == ["two.wav"]


def test_files_of_one_name_are_told_apart() -> None:
    bench = Bench()
    bench.tell(QueueGrew(2), started(1), started(2))
    lines = bench.look()
    assert lines[1].startswith("audio.wav ")
    assert lines[2].startswith("00000002 audio.wav ")


def test_a_job_leaves_its_line_when_it_is_settled_or_failed() -> None:
    bench = Bench()
    bench.tell(at_service(1, 5), at_service(2, 6))
    assert len(bench.look()) == 3
    bench.tell(JobSettled(JobId("00000001-0000"), "a"), JobFailed(JobId("00000002-0000"), "a"))
    assert len(bench.look()) == 1


def test_a_wait_for_the_next_attempt_is_counted_down() -> None:
    bench = Bench()
    bench.tell(QueueGrew(1), started(1))
    bench.tell(DownloadRetrying(JobId("00000001-0000"), "audio.wav", CLEAN, 1, 90.0, "429"))
    assert "next attempt in 1:20" in bench.look(10)[1]
    assert "next attempt in 0:20" in bench.look(60)[1]
    assert "attempt" not in bench.look(30)[1]


def test_a_file_of_unknown_length_shows_its_bytes() -> None:
    bench = Bench()
    bench.tell(QueueGrew(1), started(1, total=None))
    bench.tell(progress(1, 7 * MB, None), after_s=1)
    assert re.fullmatch(r"audio\.wav +7\.0 MB +\d+(\.\d)? [kM]B/s", bench.look()[1])


def test_a_full_bar_is_not_shown_before_the_last_byte() -> None:
    bench = Bench()
    bench.tell(QueueGrew(1), started(1), progress(1, 10 * MB - 1))
    assert "  99%" in bench.look()[1]


# ---- room --------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 5, 12, 20, 39, 40, 41, 60, 80, 100, 250])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1256"])
def test_no_line_is_wider_than_the_terminal(columns: int, encoding: str) -> None:
    bench = Bench(columns, 40, encoding)
    bench.tell(QueueGrew(123_456), RunStarted("watch", "x"))
    for number, name in enumerate(NAMES):
        bench.tell(started(number, name), at_service(number + 100, 50, name, name))
        bench.tell(progress(number, 5 * MB))
    lines = bench.look()
    assert len(lines) == 1 + 2 * len(NAMES)
    assert max(width(line) for line in lines) < max(2, columns)


def test_twenty_columns_still_say_what_matters() -> None:
    bench = Bench(20)
    bench.tell(QueueGrew(40), PollCompleted(1, 40, 40, 0), started(1, "interview-with-guest.wav"))
    bench.tell(progress(1, 5 * MB), after_s=1)
    run, file = bench.look()
    assert re.fullmatch(r"0/40 +\d+:\d\d left", run)
    assert re.fullmatch(r"interview-wit…  50%", file)


@pytest.mark.parametrize(
    ("lines", "jobs", "files", "expected"),
    [
        (24, 3, 4, "run jjj ffff"),
        (8, 3, 3, "run jjj fff"),
        (8, 3, 4, "run jj fff +2"),
        (8, 9, 0, "run jjjjj +4"),
        (8, 0, 9, "run fffff +4"),
        (8, 1, 9, "run j ffff +5"),
        (3, 5, 5, "run +10"),
        (2, 5, 5, "run"),
        (1, 5, 5, "run"),
    ],
)
def test_lines_keep_to_the_height_and_the_rest_is_counted(
    lines: int, jobs: int, files: int, expected: str
) -> None:
    bench = Bench(80, lines)
    bench.tell(QueueGrew(99))
    for number in range(jobs):
        bench.tell(at_service(number, 50, "denoising", f"job{number}"))
    for number in range(files):
        bench.tell(started(number + 100, f"file{number}"))
    seen = bench.look()
    shown_jobs = "j" * sum(line.startswith("job") for line in seen)
    shown_files = "f" * sum(line.startswith("file") for line in seen)
    more = [line.split()[0] for line in seen if line.startswith("+")]
    assert expected == " ".join(filter(None, ["run", shown_jobs, shown_files, *more]))
    assert len(seen) <= max(1, lines - 1)


def test_meters_of_all_lines_begin_and_end_under_one_another() -> None:
    bench = Bench(100)
    bench.tell(QueueGrew(9), PollCompleted(1, 9, 9, 0), at_service(50, 30, "denoising"))
    for number, name in enumerate(["a.wav", ARABIC, "会議.wav", "é́.wav"]):
        bench.tell(started(number, name))
        bench.tell(progress(number, 3 * MB), after_s=0.3)
    places = set()
    for line in bench.look():
        first, last = line.index("|"), line.rindex("|")
        places.add((width(line[:first]), width(line[:last])))
    assert len(places) == 1


def test_a_right_to_left_name_is_isolated_from_the_numbers() -> None:
    bench = Bench()
    bench.tell(QueueGrew(1), started(1, ARABIC))
    bench.now_s += 0.5
    bench.bars.tick()
    assert f"\u2068{ARABIC}\u2069" in bench.written()


def test_a_terminal_that_knows_no_unicode_gets_none() -> None:
    bench = Bench(encoding="ascii")
    bench.tell(QueueGrew(1), started(1, ARABIC), at_service(9, 50, ARABIC, ARABIC))
    run, job, file = bench.look()
    assert "|" in run
    assert job.startswith("?????? ?? ?????.wav")
    assert file.startswith("?????? ?? ?????.wav")
    assert "\\" not in run + job + file


@given(st.text(st.characters(exclude_categories=()), max_size=60), st.integers(2, 120))
def test_no_name_or_message_breaks_the_lines(text: str, columns: int) -> None:
    bench = Bench(columns, 10)
    bench.tell(QueueGrew(2), started(1, text), at_service(2, 50, text, text))
    lines = bench.look()
    assert len(lines) == 3
    assert bench.screen.gone == []


# ---- drawing -----------------------------------------------------------------------------


def test_frames_come_at_most_ten_times_a_second() -> None:
    bench = Bench()
    bench.tell(QueueGrew(1), started(1))
    bench.look()
    frames = 0
    for step in range(1000):
        bench.tell(progress(1, step * 1000), after_s=0.001)
        frames += bool(bench.written())
    assert 8 <= frames <= 10


def test_nothing_is_written_while_nothing_changes() -> None:
    bench = Bench()
    bench.tell(QueueGrew(1))
    bench.look()
    for _ in range(20):
        bench.now_s += 0.2
        bench.bars.tick()
    assert bench.written() == ""


def test_log_lines_stand_above_the_bars_whole_and_in_order() -> None:
    bench = Bench(40, 8)
    bench.tell(QueueGrew(5), started(1, "one.wav"), started(2, "two.wav"))
    bench.look()
    for number in range(20):
        bench.bars.log(f"line {number} " + "x" * 40)
        bench.tell(progress(1, number * 1000), after_s=0.05)
    shown = bench.look()
    assert [line.split()[0] for line in shown[-3:]] == ["0", "one.wav", "two.wav"]
    above = "".join(bench.screen.gone + shown[:-3])
    assert above == "".join(f"line {number} " + "x" * 40 for number in range(20))


def test_bars_do_not_touch_what_stood_on_the_screen() -> None:
    bench = Bench(40, 6)
    bench.screen.feed("$ fetcher backfill\r\n")
    for number in range(4):
        bench.tell(QueueGrew(1), started(number, f"{number}.wav"))
    bench.look()
    bench.bars.close()
    assert bench.now() == ["$ fetcher backfill"]


def test_closing_leaves_log_lines_and_nothing_else() -> None:
    bench = Bench()
    bench.tell(QueueGrew(5), started(1), at_service(2, 40))
    bench.look()
    bench.bars.log("the last word")
    bench.bars.close()
    bench.bars.close()
    bench.bars.log("after all")
    bench.tell(progress(1, 5), after_s=1)
    bench.bars.tick()
    assert bench.now() == ["the last word", "after all"]
    assert bench.screen.wraps
    assert (bench.screen.x, bench.screen.y) == (0, 2)


def test_closing_before_the_first_frame_writes_nothing() -> None:
    bench = Bench()
    bench.bars.close()
    assert bench.written() == ""


@pytest.mark.parametrize(("columns", "lines"), [(30, 24), (120, 24), (80, 4), (20, 3)])
def test_a_resized_terminal_is_right_at_the_next_frame(columns: int, lines: int) -> None:
    bench = Bench()
    bench.tell(QueueGrew(9))
    for number in range(5):
        bench.tell(started(number, "n" * 60))
    bench.look()
    bench.screen = Screen(columns, lines)  # reflowed: the cursor is at the first bar's start
    seen = bench.look()
    assert len(seen) == min(6, lines - 1)
    assert max(len(line) for line in seen) < columns


def test_the_cursor_rests_at_the_start_of_the_first_bar() -> None:
    bench = Bench()
    bench.tell(QueueGrew(5), started(1), started(2))
    bench.look()
    assert (bench.screen.x, bench.screen.y) == (0, 0)


def test_a_name_drawn_wider_than_unicode_says_cannot_wrap() -> None:
    bench = Bench()
    bench.tell(QueueGrew(1), started(1, "👨‍👩‍👧" * 100))
    bench.written()
    bench.now_s += 0.5
    bench.bars.tick()
    text = bench.written()
    assert text.index("\x1b[?7l") < text.index("👨") < text.index("\x1b[?7h")


def test_a_held_terminal_gets_no_frames_and_loses_no_log_line() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as stream, os.fdopen(reader, "rb") as out:
        outlet = Outlet(stream)
        clock = Bench()
        bars = Bars(outlet, clock.pace, clock=clock.clock, size=clock.size)
        outlet.write("x" * 100_000)  # more than a pipe holds
        waiting = outlet.waiting_bytes
        assert waiting > 0
        for number in range(10):
            clock.now_s += 1
            bars.log(f"line {number}")
        assert outlet.waiting_bytes == waiting
        bars.close()
        got = b""
        while not outlet.pump():
            got += os.read(out.fileno(), 65536)
        stream.close()
        got += out.read()
    assert got.endswith("".join(f"line {number}\n" for number in range(10)).encode())


def test_a_failed_file_leaves_its_line() -> None:
    bench = Bench()
    bench.tell(QueueGrew(1), started(1))
    bench.look()
    bench.tell(DownloadFailed(JobId("00000001-0000"), "audio.wav", CLEAN, "404", 1))
    bench.look()
    assert len(bench.look(1.1)) == 1
