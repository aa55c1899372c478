"""Which jobs a run is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetcher.core.filters import Rules, fits
from fetcher.models import Job, JobId, Status

NOON = datetime(2025, 1, 1, 12, tzinfo=UTC)
JOB = Job(JobId("a"), Status.SUCCESS, file_name="Talk 1.wav", created_at=NOON, source_type="audio")
MICROSECOND = timedelta(microseconds=1)


def test_no_rules_leave_nothing_out() -> None:
    assert Rules().refuse(JOB) is None
    assert Rules().refuse(Job(JobId("a"), Status.PENDING)) is None
    assert Rules().refuse_size(2**63) is None


@pytest.mark.parametrize(
    ("rules", "is_kept"),
    [
        pytest.param(Rules(since=NOON), True, id="since that moment"),
        pytest.param(Rules(since=NOON + MICROSECOND), False, id="since a moment later"),
        pytest.param(Rules(until=NOON), True, id="until that moment"),
        pytest.param(Rules(until=NOON - MICROSECOND), False, id="until a moment before"),
        pytest.param(Rules(since=NOON, until=NOON), True, id="that moment alone"),
        pytest.param(
            Rules(since=NOON.astimezone(timezone(timedelta(hours=14)))), True, id="another zone"
        ),
        pytest.param(Rules(match=("*.wav",)), True, id="a glob"),
        pytest.param(Rules(match=("*.mp3", "Talk ?.*")), True, id="one of two globs"),
        pytest.param(Rules(match=("*.mp3", "*.flac")), False, id="none of two globs"),
        pytest.param(Rules(match=("talk*",)), False, id="another case"),
        pytest.param(Rules(match=("Talk",)), False, id="only a part"),
        pytest.param(Rules(match=("[T]alk [0-9].wav",)), True, id="classes"),
        pytest.param(Rules(source_type="audio"), True, id="its source type"),
        pytest.param(Rules(source_type="video"), False, id="another source type"),
        pytest.param(Rules(match=("*",), source_type="video"), False, id="one of two rules"),
    ],
)
def test_a_rule_keeps_or_leaves_out(rules: Rules, is_kept: bool) -> None:
    assert (rules.refuse(JOB) is None) is is_kept


@pytest.mark.parametrize(
    "rules", [Rules(since=NOON), Rules(until=NOON), Rules(since=NOON, until=NOON)]
)
def test_a_job_without_a_time_is_never_left_out_by_one(rules: Rules) -> None:
    assert rules.refuse(JOB._replace(created_at=None)) is None


@pytest.mark.parametrize(
    ("name", "glob", "expected"),
    [
        ("", "*", True),
        ("", "?*", False),
        ("two\nlines.wav", "*.wav", True),
        ("تسجيل صوتي.wav", "تسجيل*", True),
        ("a[1].wav", "a[[]1].wav", True),
        ("a[1].wav", "a[1].wav", False),
        ("[", "[", True),
        ("a", "[!b]", True),
        ("caf\u00e9.wav", "cafe\u0301.wav", True),
        ("cafe\u0301.wav", "caf\u00e9.wav", True),
        ("cafe\u0301.wav", "caf?.wav", True),
        ("a/b.wav", "*.wav", True),
    ],
)
def test_a_glob_fits_the_whole_name(name: str, glob: str, expected: bool) -> None:
    assert fits(name, glob) is expected


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_no_glob_and_no_name_is_an_error(name: str, glob: str) -> None:
    assert fits(name, "*")
    fits(name, glob)


def test_a_glob_of_many_stars_is_decided_at_once() -> None:
    assert not fits("a" * 10_000, "*a" * 30 + "b")


@pytest.mark.parametrize(
    ("size", "limit", "is_kept"),
    [
        (None, 10, True),
        (10, None, True),
        (10, 10, True),
        (11, 10, False),
        (0, 0, True),
        (1, 0, False),
    ],
)
def test_only_what_is_known_to_be_larger_is_left_out(
    size: int | None, limit: int | None, is_kept: bool
) -> None:
    assert (Rules(max_size_bytes=limit).refuse_size(size) is None) is is_kept


RULES = [
    Rules(),
    Rules(since=NOON),
    Rules(until=NOON),
    Rules(match=("a",)),
    Rules(match=("a", "b")),
    Rules(match=("a,b",)),
    Rules(source_type="audio"),
    Rules(max_size_bytes=1),
]


def test_rules_that_differ_have_signatures_that_differ() -> None:
    signatures = [rules.signature(originals=both) for rules in RULES for both in (False, True)]
    assert len(set(signatures)) == 2 * len(RULES)
    again = Rules(since=NOON).signature(originals=True)
    assert again == Rules(since=NOON).signature(originals=True)
