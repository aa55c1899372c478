"""Records as the API sent them: every field and value, but for the signatures of links."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fetcher.core.wire import parse_page
from fetcher.models import Job, JobId, Status
from fetcher.runs.records import brought_up, sent_in

ID = JobId("0b5e2f9a-1111-4222-8333-444455556666")
RECORD: dict[str, Any] = {
    "id": ID,
    "status": "success",
    "file_name": "مقابلة.wav",
    "audio_url": "https://files.example/x%2Fy.wav?X-Signature=secret#part",
    "original_audio_url": None,
    "created_at": "2025-01-31T21:30:00.100+03:00",
    "audio_duration": 2.50,
    "audio_size": 12345678901234567890,
    "language": "ar",
    "speakers": [{"name": "x?y", "audio_url": "https://files.example/?kept"}],
    "empty": None,
}
JOB = Job(ID, Status.SUCCESS, audio_url="https://files.example/done.wav?X-Signature=secret")


def page(*records: object) -> bytes:
    return json.dumps(records, ensure_ascii=False).encode()


def read(body: bytes) -> dict[str, Any]:
    """Return the records of a page by id, read again."""
    return {str(one): json.loads(text) for one, text in sent_in(body).items()}


@pytest.mark.parametrize("form", ["%s", '{"data": %s, "total": 1}', " \n%s"])
def test_a_record_is_as_it_was_sent_but_for_signatures(form: str) -> None:
    body = form.encode() % page(RECORD)
    assert read(body) == {ID: RECORD | {"audio_url": "https://files.example/x%2Fy.wav"}}


def test_a_record_is_readable_text() -> None:
    text = sent_in(page(RECORD))[ID].decode()
    assert text.endswith("\n}\n")
    assert '  "created_at": "2025-01-31T21:30:00.100+03:00",\n' in text
    assert "مقابلة.wav" in text


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("https://files.example/a?b?c", "https://files.example/a"),
        ("https://user:word@files.example/a?b", "https://files.example/a"),
        ("no link at all", "no link at all"),
        (["odd?"], ["odd?"]),
        (7, 7),
    ],
)
@pytest.mark.parametrize("name", ["audio_url", "original_audio_url"])
def test_only_what_signs_a_link_is_removed(name: str, url: object, written: object) -> None:
    assert read(page(RECORD | {name: url}))[ID][name] == written


def test_of_a_job_that_stands_twice_the_record_counts_that_is_further_along() -> None:
    pending = {"id": ID, "status": "pending"}
    assert read(page(pending, RECORD, pending))[ID]["status"] == "success"


def test_what_cannot_be_said_in_json_has_no_record_and_harms_no_other() -> None:
    endless = b'{"id": "a", "status": "success", "x": 1e999}'
    deep = b'{"id": "b", "status": "success", "x": %s}' % (b"[" * 500 + b"]" * 500)
    body = b'[%s, %s, 7, {}, {"id": 3}, %s]' % (endless, deep, json.dumps(RECORD).encode())
    assert ID in sent_in(body)
    assert JobId("a") not in sent_in(body)


def test_text_that_utf_8_cannot_hold_is_kept_as_it_was_sent() -> None:
    body = rb'[{"id": "a", "status": "success", "file_name": "x\ud800"}]'
    assert json.loads(sent_in(body)[JobId("a")])["file_name"] == "x\ud800"


@pytest.mark.parametrize(
    "body",
    [page(RECORD), b"\xef\xbb\xbf" + page(RECORD), page(RECORD | {"audio_size": "odd"}, 7)],
    ids=["clean", "with a mark", "odd"],
)
def test_a_page_brings_what_its_records_are_read_from(body: bytes) -> None:
    assert ID in sent_in(parse_page(body).body)


def test_a_record_of_a_finished_job_stays_as_it_is() -> None:
    text = sent_in(page(RECORD))[ID]
    assert brought_up(text, JOB) is text


def test_what_a_stream_told_later_is_in_the_record() -> None:
    pending = RECORD | {"status": "pending", "audio_url": None, "error": None}
    text = brought_up(sent_in(page(pending))[ID], JOB)
    news = {"status": "success", "audio_url": "https://files.example/done.wav"}
    assert json.loads(text) == pending | news
