"""Single header fields are read strictly."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.core.heads import (
    codings,
    content_length,
    content_range,
    http_date,
    is_strong,
    validator_of,
)
from fetcher.models import Head, Validator

OLD = "Sun, 06 Nov 1994 08:49:37 GMT"
A_SECOND_LATER = "Sun, 06 Nov 1994 08:49:38 GMT"


def head(**fields: str) -> Head:
    return Head(200, {name.replace("_", "-"): text for name, text in fields.items()})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"content_length": "0"}, 0),
        ({"content_length": " 512 "}, 512),
        ({"content_length": "5, 5"}, 5),
        ({"content_length": "5", "transfer_encoding": "chunked"}, None),
        ({"content_length": "nonsense", "transfer_encoding": "chunked"}, None),
    ],
)
def test_content_length_is_what_frames_the_body(
    fields: dict[str, str], expected: int | None
) -> None:
    assert content_length(head(**fields)) == expected


@pytest.mark.parametrize(
    "text", ["", "-1", "+5", "5.0", "0x10", "1_000", "5, 6", "5,", "٥", "9" * 19, "5 5"]
)
def test_malformed_content_length_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        content_length(head(content_length=text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-0/1", (0, 1, 1)),
        ("bytes 5-9/10", (5, 10, 10)),
        ("bytes 5-9/*", (5, 10, None)),
        ("Bytes  5-9/10", (5, 10, 10)),
        ("", None),
        ("bytes */10", None),
        ("bytes 5-4/10", None),
        ("bytes 5-10/10", None),
        ("bytes 5-9", None),
        ("bytes=5-9/10", None),
        ("bytes 5-/10", None),
        ("bytes -5/10", None),
        ("items 5-9/10", None),
        ("5-9/10", None),
        ("bytes 5-9/10, bytes 5-9/10", None),
        ("bytes 5-9/ten", None),
        ("bytes ٥-٩/10", None),
        ("bytes 0-" + "9" * 5000 + "/*", None),
    ],
)
def test_content_range_is_one_valid_span_or_nothing(
    text: str, expected: tuple[int, int, int | None] | None
) -> None:
    assert content_range(head(content_range=text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("identity", []),
        (" GZip ", ["gzip"]),
        ("gzip, identity", ["gzip"]),
        ("deflate,br", ["deflate", "br"]),
        (",", []),
    ],
)
def test_codings_leave_identity_out(text: str, expected: list[str]) -> None:
    assert codings(head(content_encoding=text)) == expected


@pytest.mark.parametrize(
    ("etag", "expected"),
    [
        ('"abc"', True),
        ('"W/abc"', True),
        ('W/"abc"', False),
        ('w/"abc"', False),
        ("abc", False),
        ('""', False),
        ('"a b"', False),
        ('"a", "b"', False),
        ('"سلام"', False),
        (None, False),
    ],
)
def test_only_a_wellformed_etag_without_w_is_strong(etag: str | None, expected: bool) -> None:
    assert is_strong(etag) is expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, Validator(), id="nothing"),
        pytest.param({"etag": ' "a" '}, Validator(etag='"a"'), id="strong etag"),
        pytest.param({"etag": "a"}, Validator(etag="a"), id="malformed etag kept to compare"),
        pytest.param({"etag": '"\udcff"'}, Validator(), id="bytes that cannot be stored"),
        pytest.param({"etag": '"' + "a" * 2000 + '"'}, Validator(), id="etag out of bounds"),
        pytest.param(
            {"etag": '"é"', "last_modified": OLD}, Validator(), id="no date beside bytes not kept"
        ),
        pytest.param(
            {"etag": '"' + "a" * 2000 + '"', "last_modified": OLD},
            Validator(),
            id="no date beside an etag out of bounds",
        ),
        pytest.param(
            {"etag": " ", "last_modified": OLD}, Validator(last_modified=OLD), id="empty etag"
        ),
        pytest.param(
            {"last_modified": OLD, "date": A_SECOND_LATER},
            Validator(last_modified=OLD),
            id="date a second older",
        ),
        pytest.param({"last_modified": OLD, "date": OLD}, Validator(), id="date of this second"),
        pytest.param(
            {"last_modified": A_SECOND_LATER, "date": OLD}, Validator(), id="date to come"
        ),
        pytest.param({"last_modified": OLD}, Validator(last_modified=OLD), id="no Date"),
        pytest.param({"last_modified": "yesterday"}, Validator(), id="no date at all"),
        pytest.param(
            {"etag": 'W/"a"', "last_modified": OLD, "date": OLD},
            Validator(etag='W/"a"'),
            id="weak etag, date of this second",
        ),
        pytest.param(
            {"etag": '"a"', "last_modified": OLD, "date": OLD},
            Validator('"a"', OLD),
            id="strong etag, date of this second kept to compare",
        ),
    ],
)
def test_validator_names_the_version(fields: dict[str, str], expected: Validator) -> None:
    assert validator_of(head(**fields)) == expected


@pytest.mark.parametrize(
    "text", [OLD, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_all_three_forms_of_http_date_are_read(text: str) -> None:
    assert http_date(text) == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "soon", "0", "Sun, 99 Nov 1994 08:49:37 GMT", "٦ Nov 1994"])
def test_what_is_no_date_is_none(text: str) -> None:
    assert http_date(text) is None


@given(st.text(), st.sampled_from(["etag", "last-modified", "date", "content-encoding"]))
def test_no_text_makes_reading_fail(text: str, field: str) -> None:
    """Fields are foreign: reading them never raises, and dates that are read are aware."""
    headers = {"last-modified": OLD, field: text}
    validator_of(Head(200, headers))
    codings(Head(200, headers))
    read = http_date(text)
    assert read is None or read.tzinfo is not None


@given(st.from_regex(r"[A-Za-z]{3},? [0-9]{1,6}[ -][A-Za-z]{3}[ -][0-9]{1,12} [0-9:]{1,12} .{0,9}"))
def test_no_near_date_makes_reading_fail(text: str) -> None:
    read = http_date(text)
    assert read is None or read.tzinfo is not None
