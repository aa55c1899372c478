"""A page of the history: whatever single records hold, the page lives on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.core.wire import Page, parse_page, usable_url
from fetcher.errors import ContentError
from fetcher.models import Job, JobId, Status

RECORD = {
    "id": "0b7cf4ac-4f0f-4a53-9a34-6d6f3a1b7e01",
    "user_id": "u-1",
    "transaction_id": None,
    "audio_url": "https://cdn.example/a.wav?X-Sig=1",
    "original_audio_url": "https://cdn.example/o.wav",
    "file_name": "تسجيل.wav",
    "audio_duration": 12.5,
    "audio_size": 123_456,
    "audio_format": "wav",
    "source_type": "audio",
    "status": "success",
    "error": None,
    "created_at": "2025-01-02T03:04:05.678Z",
    "updated_at": "2025-01-02T05:04:05+02:00",
}
JOB = Job(
    id=JobId("0b7cf4ac-4f0f-4a53-9a34-6d6f3a1b7e01"),
    status=Status.SUCCESS,
    file_name="تسجيل.wav",
    audio_url="https://cdn.example/a.wav?X-Sig=1",
    original_audio_url="https://cdn.example/o.wav",
    created_at=datetime(2025, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC),
    updated_at=datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC),
    source_type="audio",
    audio_format="wav",
    audio_duration_s=12.5,
    audio_size_bytes=123_456,
    user_id="u-1",
)


def page_of(*records: object) -> Page:
    """Return the page that holds the records."""
    return parse_page(json.dumps(records).encode())


def one(**fields: object) -> tuple[Job | None, str | None]:
    """Return job and complaint for a good record with other fields."""
    page = page_of({**RECORD, **fields})
    assert page.count == 1
    reasons = [item.reason for item in page.invalid]
    return (page.jobs[0] if page.jobs else None), (reasons[0] if reasons else None)


def test_a_documented_record_becomes_a_job() -> None:
    assert page_of(RECORD) == Page([JOB], [], 1)


def test_times_are_utc() -> None:
    job = page_of(RECORD).jobs[0]
    assert job.updated_at is not None
    assert job.updated_at.tzinfo is UTC


@pytest.mark.parametrize("body", [b"[]", b" [ ] ", b'{"data": []}', b"\xef\xbb\xbf[]"])
def test_an_empty_list_is_an_empty_page(body: bytes) -> None:
    assert parse_page(body) == Page([], [], 0)


def test_a_list_may_come_under_data() -> None:
    body = json.dumps({"statusCode": 200, "data": [RECORD], "message": "Success"}).encode()
    assert parse_page(body) == Page([JOB], [], 1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  \n",
        b"null",
        b"{}",
        b'{"data": null}',
        b'{"data": {"data": []}}',
        b'"text"',
        b"5",
        b"<html><body>Bad gateway</body></html>",
        b'[{"id": "a", "status": "pend',
        b"[]]",
        b"[1,]",
        b"[" * 100_000,
        b"[" + b'"' + b"x" * 100_000,
        b"\x00\xff\xfe",
        b"\x1b[2J",
    ],
)
def test_what_is_no_page_is_refused_with_a_printable_reason(body: bytes) -> None:
    with pytest.raises(ContentError) as caught:
        parse_page(body)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (None, "a record is missing"),
        (5, "a record is a number"),
        ("text", "a record is 'text'"),
        ([], "a record is a list or an object"),
        ({}, "id is missing; status is missing"),
        ({**RECORD, "id": ""}, "id is ''"),
        ({**RECORD, "id": 7}, "id is a number"),
        ({**RECORD, "id": "a\nb"}, "id is 'a\\nb'"),
        ({**RECORD, "id": "\ud800x"}, "id is '\\ud800x'"),
        ({**RECORD, "id": "x\udfff"}, "id is 'x\\udfff'"),
        ({**RECORD, "id": "x" * 201}, f"id is '{'x' * 40}'"),
        ({**RECORD, "status": None}, "status is missing"),
        ({**RECORD, "status": True}, "status is true or false"),
    ],
)
def test_a_record_without_id_or_status_is_left_out(record: object, reason: str) -> None:
    page = page_of(RECORD, record)
    assert page.jobs == [JOB]
    known_id = RECORD["id"] if reason.startswith("status") else None
    assert [(item.reason, item.id) for item in page.invalid] == [(reason, known_id)]
    assert page.count == 2


@pytest.mark.parametrize(
    "field",
    [
        *("file_name", "original_audio_url", "source_type", "audio_format", "user_id", "error"),
        *("transaction_id", "audio_duration", "audio_size", "created_at", "updated_at"),
    ],
)
@pytest.mark.parametrize("value", [[], {"a": 1}, True])
def test_a_wrong_field_costs_that_field_and_is_reported(field: str, value: object) -> None:
    job, reason = one(**{field: value})
    absent, nothing = one(**{field: None})
    assert job == absent
    assert reason is not None
    assert reason.startswith(f"{field} is ")
    assert nothing is None


@pytest.mark.parametrize("field", ["audio_duration", "audio_size"])
@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-1", "-0.5", "1e400", "9" * 60, "9" * 50_000, "1e19"]
)
def test_a_number_that_no_file_has_is_none(field: str, text: str) -> None:
    body = json.dumps([{**RECORD, field: "here"}]).replace('"here"', text).encode()
    page = parse_page(body)
    job = page.jobs[0]
    known = {"audio_duration": job.audio_duration_s, "audio_size": job.audio_size_bytes}
    assert known[field] is None
    assert page.invalid == []


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (12.0, 12), (12.9, 12), (2**62, 2**62)])
def test_sizes_are_whole_numbers(value: float, expected: int) -> None:
    job, _ = one(audio_size=value)
    assert job is not None
    assert job.audio_size_bytes == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-01-02T03:04:05", datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2025-01-02T03:04:05Z", datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2025-01-02 03:04:05+03:00", datetime(2025, 1, 2, 0, 4, 5, tzinfo=UTC)),
        ("2025-01-02T03:04:05.123456789Z", datetime(2025, 1, 2, 3, 4, 5, 123_456, tzinfo=UTC)),
        ("0001-01-01T00:00:00+05:00", None),
    ],
)
def test_times_are_read_with_and_without_a_zone(text: str, expected: datetime | None) -> None:
    job, reason = one(created_at=text)
    assert job is not None
    assert job.created_at == expected
    assert reason is None


@pytest.mark.parametrize("text", ["yesterday", "", "2025-13-45T00:00:00Z", "\ud800"])
def test_a_time_that_is_none_is_reported(text: str) -> None:
    job, reason = one(created_at=text)
    assert job is not None
    assert job.created_at is None
    assert reason is not None
    assert reason.startswith("created_at is ")


def test_an_unknown_status_is_kept_as_pending_and_reported() -> None:
    job, reason = one(status="archived\x1b[2J")
    assert job is not None
    assert job.status is Status.PENDING
    assert reason == "status is 'archived\\x1b[2J', kept as pending"


@pytest.mark.parametrize(
    "url", [None, "", "ftp://x/y", "/relative", "http://", "https://x/a\nb", "https:///a", 5]
)
def test_success_without_a_usable_link_is_kept_as_pending_and_reported(url: object) -> None:
    job, reason = one(audio_url=url)
    assert job is not None
    assert (job.status, job.audio_url) == (Status.PENDING, None)
    assert reason is not None
    assert "success without a usable audio_url" in reason


def test_a_pending_record_needs_no_link() -> None:
    job, reason = one(status="pending", audio_url=None)
    assert job is not None
    assert (job.status, reason) == (Status.PENDING, None)


@pytest.mark.parametrize(
    "url",
    ["https://x/a?b=%2f+c&d=é", "HTTP://x:80/..//a b", "http://[::1]:5/", "https://u:p@x/#f"],
)
def test_a_link_is_kept_byte_for_byte(url: str) -> None:
    job, _ = one(audio_url=url)
    assert job is not None
    assert job.audio_url == url == usable_url(url)


@pytest.mark.parametrize("text", ["a\x00b", "../../etc", "\u202etxt.exe", "x" * 10_000, "\x1b[0m"])
def test_foreign_text_survives_as_it_is(text: str) -> None:
    job, reason = one(file_name=text)
    assert job is not None
    assert (job.file_name, reason) == (text, None)


def test_lone_surrogates_become_replacement_characters() -> None:
    job, reason = one(file_name="a\ud800b.wav", error="\udfff")
    assert job is not None
    assert (job.file_name, job.error, reason) == ("a\ufffdb.wav", "\ufffd", None)


def test_broken_utf_8_becomes_replacement_characters() -> None:
    body = json.dumps([{**RECORD, "file_name": "?"}]).encode().replace(b'"?"', b'"\xff\xfe.wav"')
    assert parse_page(body).jobs[0].file_name == "\ufffd\ufffd.wav"


def test_extra_fields_are_ignored_whatever_they_hold() -> None:
    assert one(new_field={"deep": [1, {"er": None}]}, another=1e308) == (JOB, None)


@pytest.mark.parametrize("depth", [100, 500, 100_000])
@pytest.mark.parametrize("field", ["extra", "file_name"])
def test_deep_nesting_does_not_kill_the_page(field: str, depth: int) -> None:
    deep = b"[" * depth + b'"]{"' + b"]" * depth
    body = json.dumps([{**RECORD, field: "here"}, RECORD]).encode().replace(b'"here"', deep)
    page = parse_page(body)
    assert page.jobs[1] == JOB
    assert page.jobs[0].id == JOB.id
    assert page.count == 2


def test_repeated_ids_are_kept() -> None:
    assert page_of(RECORD, RECORD) == Page([JOB, JOB], [], 2)


def test_one_bad_record_leaves_a_thousand_good_ones_as_they_are() -> None:
    records = [{**RECORD, "id": f"id-{number}"} for number in range(1000)]
    assert page_of(*records, None).jobs == page_of(*records).jobs


@given(st.binary(max_size=200))
def test_any_bytes_are_a_page_or_refused(body: bytes) -> None:
    try:
        page = parse_page(body)
    except ContentError:
        return
    assert len(page.jobs) <= page.count


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)
RECORDS = st.fixed_dictionaries(
    {}, optional={name: VALUES | st.just(v) for name, v in RECORD.items()}
)


@given(st.lists(VALUES | RECORDS, max_size=4))
def test_any_records_are_each_kept_or_reported(records: list[Any]) -> None:
    page = page_of(*records)
    assert page.count == len(records)
    left_out = [item for item in page.invalid if item.mark]
    assert len(page.jobs) + len(left_out) == page.count
    assert all(item.reason.isprintable() for item in page.invalid)


@given(st.lists(RECORDS, min_size=1, max_size=3))
def test_a_record_is_read_alike_on_the_fast_and_the_slow_path(records: list[Any]) -> None:
    alone = page_of(*records)
    beside_a_bad_one = page_of(*records, None)
    assert beside_a_bad_one.jobs == alone.jobs
    assert beside_a_bad_one.invalid[:-1] == alone.invalid


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=30))])))
def test_any_time_is_read_back(at: datetime) -> None:
    job, reason = one(created_at=at.isoformat())
    assert job is not None
    assert reason is None
    assert job.created_at in {at, None}
