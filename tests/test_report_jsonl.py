"""`--json`: what a program reads."""

from __future__ import annotations

import io
import json
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.events import (
    DownloadAdopted,
    DownloadCancelled,
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
    Notice,
    PollCompleted,
    RecordInvalid,
    RunCompleted,
)
from fetcher.models import JobId, Variant
from fetcher.report.jsonl import JsonLines, dumps, encode, timestamp
from fetcher.report.outlet import Outlet

AT = datetime(2025, 1, 31, 12, 0, 0, 5000, tzinfo=UTC)
ID = JobId("3f2a91bc-0000-4000-8000-000000000001")
CLEAN = Variant.DENOISED
NAUGHTY = "\x1b[31m\u202egnp.\x00exe\x7f\x9b1m\u2028\u0085\ud800\n\ufeffمقابلة 🎧"

# Event, its fields as contract 6 names them.
PUBLIC: list[tuple[Event, dict[str, Any]]] = [
    (PollCompleted(3, 120, 4, 2), {"requests": 3, "records": 120, "new": 4, "pending": 2}),
    (DownloadStarted(ID, "a", CLEAN, None, 5), {"bytes_total": None, "resumed_from": 5}),
    (
        DownloadCompleted(ID, "a", CLEAN, "a/a.wav", 9, 4, "ab", 0.5),
        {"path": "a/a.wav", "bytes": 9, "bytes_fetched": 4, "sha256": "ab", "seconds": 0.5},
    ),
    (
        DownloadAdopted(ID, "a", CLEAN, "a/a.wav", 9, "ab"),
        {"path": "a/a.wav", "bytes": 9, "sha256": "ab"},
    ),
    (
        DownloadRetrying(ID, "a", CLEAN, 2, 1.5, "reset"),
        {"attempt": 2, "delay": 1.5, "reason": "reset"},
    ),
    (DownloadFailed(ID, "a", CLEAN, "404", 1), {"reason": "404", "attempts": 1}),
    (JobPending(ID, "a"), {}),
    (JobProgress(ID, "a", 45.5, "denoising"), {"pct": 45.5, "message": "denoising"}),
    (JobFailed(ID, "a", "too long"), {"error": "too long"}),
    (RecordInvalid("no status", ID, "a"), {"reason": "no status"}),
    (ExecFailed(ID, "a", 3), {"code": 3}),
    (FileSuspect(ID, "a", "too short"), {"reason": "too short"}),
    (
        RunCompleted(9, 1, 1, 1, 1, 2, 1, 2, 3, 100, 50, 2.5, 1),
        {
            "records": 9,
            "downloaded": 1,
            "adopted": 1,
            "already": 1,
            "failed": 1,
            "pending": 2,
            "rejected": 1,
            "filtered": 2,
            "bytes": 100,
            "bytes_fetched": 50,
            "seconds": 2.5,
            "exit_code": 1,
        },
    ),
]


@pytest.mark.parametrize(("event", "fields"), PUBLIC, ids=lambda value: getattr(value, "name", ""))
def test_each_public_event_has_the_fields_of_the_contract(
    event: Event, fields: dict[str, Any]
) -> None:
    told = json.loads(encode(event, AT))
    assert fields.items() <= told.items()
    assert list(told)[:2] == ["event", "time"]
    assert told["event"] == event.name
    assert told["time"] == "2025-01-31T12:00:00.005Z"
    if event.name.startswith(("job.", "download.", "exec.", "file.")):
        assert told["id"] == ID
        assert told["file_name"] == "a"


def test_events_that_are_not_public_stay_out() -> None:
    stream = io.StringIO()
    sink = JsonLines(Outlet(stream), now=lambda: AT)
    sink(DownloadProgress(ID, "a", CLEAN, 1, 2))
    sink(DownloadCancelled(ID, "a", CLEAN, 1))
    sink(Notice("INFO", "hello"))
    lines = stream.getvalue().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["download.cancelled"]


def test_a_time_is_told_in_utc() -> None:
    at = datetime(2025, 1, 31, 14, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp(at) == "2025-01-31T12:00:00.000Z"


def test_a_naughty_name_is_exact_for_the_program_and_harmless_for_a_terminal() -> None:
    line = encode(JobPending(ID, NAUGHTY), AT)
    assert json.loads(line)["file_name"] == NAUGHTY
    assert [line] == line.splitlines()
    line.encode("utf-8")


def test_arabic_stays_readable() -> None:
    assert "مقابلة" in encode(JobPending(ID, "مقابلة.wav"), AT)


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_survives_as_one_line_of_utf8_without_controls(text: str) -> None:
    line = dumps({"file_name": text})
    assert json.loads(line.encode("utf-8")) == {"file_name": text}
    assert line.splitlines() == [line]
    assert not [char for char in line if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_lacks_is_null(number: float) -> None:
    assert dumps({"pct": number, "deep": [number]}) == '{"pct": null, "deep": [null]}'


def test_lines_are_utf8_whatever_the_locale() -> None:
    buffer = io.BytesIO()
    outlet = Outlet(io.TextIOWrapper(buffer, encoding="ascii"), encoding="utf-8")
    JsonLines(outlet, now=lambda: AT)(JobPending(ID, "مقابلة"))
    assert json.loads(buffer.getvalue().decode("utf-8"))["file_name"] == "مقابلة"
