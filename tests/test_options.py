"""Each option's values: what is read, what is refused and with which words."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.configuration.options import (
    BY_FIELD,
    BY_NAME,
    BY_SHORT,
    OPTIONS,
    STATES,
    accepted_by,
    check_together,
    shown_by,
)
from fetcher.configuration.targets import EXEC_PLACEHOLDERS, is_loopback, split_command
from fetcher.configuration.values import nearest
from fetcher.errors import UsageError
from fetcher.models import State

NOW = datetime(2025, 6, 15, 12, 0, tzinfo=UTC)
MIB = 2**20


@pytest.mark.parametrize("name", ["dest", "log-file", "exec", "exec-after"])
def test_what_the_system_takes_as_bytes_may_be_no_utf_8(name: str) -> None:
    assert str(read(name, "play\udcff")) == "play\udcff"


def read(name: str, value: object) -> object:
    return BY_NAME[name].read(value, f"--{name}", NOW)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("min-free", "256M", 256 * MIB),
        ("min-free", "0", 0),
        ("min-free", "12345", 12345),
        ("min-free", "500K", 500 * 1024),
        ("min-free", "500k", 500 * 1024),
        ("min-free", "1.5G", 1536 * MIB),
        ("min-free", ".5M", MIB // 2),
        ("min-free", "2MB", 2 * MIB),
        ("min-free", "2 MiB", 2 * MIB),
        ("min-free", "1T", 2**40),
        ("min-free", 4096, 4096),
        ("max-size", "none", None),
        ("max-size", "0", 0),
        ("limit-rate", "2M", 2 * MIB),
        ("limit-rate", "2M/s", 2 * MIB),
        ("limit-rate", "0", None),
        ("limit-rate", "none", None),
        ("limit-rate", None, None),
        ("timeout", "30", 30.0),
        ("timeout", "0.25", 0.25),
        ("timeout", ".5", 0.5),
        ("timeout", 7, 7.0),
        ("timeout", timedelta(minutes=1), 60.0),
        ("retry-delay", "0", 0.0),
        ("interval", "90s", 90.0),
        ("interval", "10m", 600.0),
        ("full-every", "12h", 43_200.0),
        ("full-every", "1d", 86_400.0),
        ("full-every", "1w", 604_800.0),
        ("max-age", "10m", 600.0),
        ("concurrency", "1", 1),
        ("concurrency", 256, 256),
        ("retries", "0", 0),
        ("retries", " 3 ", 3),
        ("max-downloads", "0", 0),
        ("max-downloads", "none", None),
        ("source-type", "Audio", "audio"),
        ("source-type", "both", None),
        ("check-duration", "fail", "fail"),
        ("live", "1", True),
        ("live", "0", False),
        ("live", "TRUE", True),
        ("live", "no", False),
        ("live", False, False),
        ("match", "a*", ("a*",)),
        ("match", ["a*", "none"], ("a*", "none")),
        ("state", ["failed", "queued"], ("failed", "queued")),
        ("dest", "some/dir", Path("some/dir")),
        ("dest", Path("x"), Path("x")),
        ("dest", "none", Path("none")),
        ("dest", "~x", Path("~x")),
        ("api-url", "https://api.example/api/v1/", "https://api.example/api/v1"),
        ("api-url", "HTTPS://api.example", "https://api.example"),
        ("api-url", "http://127.0.0.1:8080/api/v1", "http://127.0.0.1:8080/api/v1"),
        ("api-url", "http://[::1]:80/", "http://[::1]:80"),
        ("api-url", "http://localhost", "http://localhost"),
        ("ping-url", "https://hc.example/uuid", "https://hc.example/uuid"),
        ("exec", "play {path}", "play {path}"),
        ("exec", "awk '{print $1}' {path} {}", "awk '{print $1}' {path} {}"),
        ("exec-after", "notify '{anything}'", "notify '{anything}'"),
    ],
)
def test_value_is_read(name: str, text: object, expected: object) -> None:
    assert read(name, text) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("since", "2025-01-31", datetime(2025, 1, 31, tzinfo=UTC)),
        ("since", "20250131", datetime(2025, 1, 31, tzinfo=UTC)),
        ("since", "2025-01-31T18:30", datetime(2025, 1, 31, 18, 30, tzinfo=UTC)),
        ("since", "2025-01-31 18:30:05", datetime(2025, 1, 31, 18, 30, 5, tzinfo=UTC)),
        ("since", "2025-01-31T18:30:00Z", datetime(2025, 1, 31, 18, 30, tzinfo=UTC)),
        ("since", "2025-01-31T18:30:00+03:00", datetime(2025, 1, 31, 15, 30, tzinfo=UTC)),
        ("since", "7d", NOW - timedelta(days=7)),
        ("since", "1.5h", NOW - timedelta(minutes=90)),
        ("since", "2w", NOW - timedelta(days=14)),
        ("since", timedelta(days=1), NOW - timedelta(days=1)),
        ("since", date(2025, 1, 31), datetime(2025, 1, 31, tzinfo=UTC)),
        ("since", datetime(2025, 1, 31), datetime(2025, 1, 31, tzinfo=UTC)),  # noqa: DTZ001 - the case
        (
            "since",
            datetime(2025, 1, 31, 3, tzinfo=timezone(timedelta(hours=3))),
            datetime(2025, 1, 31, tzinfo=UTC),
        ),
        ("until", "2025-01-31", datetime(2025, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("until", "2025-01-31T18:30", datetime(2025, 1, 31, 18, 30, tzinfo=UTC)),
        ("until", "7d", NOW - timedelta(days=7)),
        ("until", "none", None),
    ],
)
def test_bound_in_time_is_read_as_utc(name: str, text: object, expected: datetime | None) -> None:
    found = read(name, text)

    assert found == expected
    assert not isinstance(found, datetime) or found.tzinfo is UTC


REFUSED: list[tuple[str, object]] = [
    *[("min-free", value) for value in ("", "x", "-1", "1.5X", "1e3", "nan", "9" * 40)],
    ("min-free", True),
    *[("limit-rate", value) for value in ("fast", "-2M", "2M/m", "/s")],
    ("limit-rate", []),
    *[("timeout", value) for value in ("0", "-1", "inf", "nan", "5y", "30,5", "٣")],
    ("timeout", True),
    ("timeout", float("nan")),
    ("timeout", float("inf")),
    ("timeout", 1e300),
    *[("concurrency", value) for value in ("0", "257", "1.5", "x", "")],
    ("concurrency", True),
    ("concurrency", 4.0),
    ("concurrency", None),
    ("connections", "17"),
    ("retries", "-1"),
    ("page-size", "0"),
    ("port", "65536"),
    ("source-type", "sound"),
    ("progress", "maybe"),
    ("live", "2"),
    ("live", "maybe"),
    ("match", ""),
    ("match", [5]),
    ("dest", " "),
    ("dest", "a\0b"),
    ("dest", 5),
    ("state", ["failed", "lost"]),
    *[("since", value) for value in ("yesterday", "7", "7y", "2025", "2025-13-01", "-7d")],
    *[("since", value) for value in ("2025-W05", "99999999d", "2025-01-31T25:00", "d")],
    ("since", 7),
    ("since", "0001-01-01T00:00+23:00"),
    *[
        ("api-url", value)
        for value in (
            "",
            "api.example",
            "ftp://api.example",
            "https://",
            "https:///path",
            "https://api.example:99999",
            "https://[::1",
            "https://api.example/a b",
            "https://api.example\\@evil.example",
            "https://user@api.example",
            "https://api.example?x=1",
            "https://api.example#x",
            "http://api.example",
            "http://127.0.0.1.evil.example",
            "http://10.0.0.1",
            5,
        )
    ],
    ("ping-url", "hc.example"),
    ("exec", "play '{path}"),
    ("exec", "play {pth}"),
    ("exec", "''"),
    ("exec", "  "),
    ("exec-after", 'say "done'),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_refusal_names_place_and_value(name: str, value: object) -> None:
    with pytest.raises(UsageError) as refused:
        read(name, value)

    message = str(refused.value)
    shown = value[-1] if isinstance(value, list) and value else value
    assert message.startswith(f"--{name}: '{str(shown).replace(chr(0), chr(0xFFFD))[:77]}")
    assert len(message) > len(f"--{name}: '{shown}' ")


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("check-duration", "wran", "did you mean warn?"),
        ("exec", "play {pth}", "did you mean path?"),
        ("api-url", "http://api.example", "https://"),
        ("limit-rate", "fast", "such as 2M"),
        ("since", "last week", "an age such as 7d"),
    ],
)
def test_refusal_says_what_is_right(name: str, value: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(hint)):
        read(name, value)


def test_refused_value_is_shown_printable_and_bounded() -> None:
    with pytest.raises(UsageError) as refused:
        read("min-free", "\x1b[31m\u202e" + "x" * 10_000)

    assert "\x1b" not in str(refused.value)
    assert "\u202e" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_home_is_expanded_in_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")

    assert read("dest", "~/Clean") == Path("/home/somebody/Clean")


@given(st.integers(0, 2**63 - 1))
def test_shown_size_is_read_back(size_bytes: int) -> None:
    option = BY_NAME["min-free"]

    assert option.read(option.show(size_bytes), "x") == size_bytes


@given(st.integers(1, 10**11))
def test_shown_duration_is_read_back(milliseconds: int) -> None:
    option = BY_NAME["timeout"]

    assert option.read(option.show(milliseconds / 1000), "x") == milliseconds / 1000


@given(st.datetimes(timezones=st.just(UTC)))
def test_shown_time_is_read_back(at: datetime) -> None:
    option = BY_NAME["since"]

    assert option.read(option.show(at), "x") == at


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.lists(st.text()))
def test_any_value_is_read_or_refused_as_usage(value: object) -> None:
    for option in OPTIONS:
        try:
            option.read(value, option.flag, NOW)
        except UsageError as refused:
            assert str(refused).startswith(f"{option.flag}: ")  # noqa: PT017 - many in one go


def test_every_default_is_read_as_it_is() -> None:
    for option in OPTIONS:
        if option.default is not None:
            assert option.show(option.read(option.default, "x")) == option.show(option.default)


def test_states_are_those_of_the_manifest() -> None:
    assert tuple(State) == STATES


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(BY_FIELD) == len(OPTIONS)
    assert len(BY_SHORT) == sum(1 for option in OPTIONS if option.short)


def test_an_own_option_is_taken_by_its_command_alone() -> None:
    repair = BY_NAME["repair"]

    assert repair in accepted_by("verify")
    assert repair not in accepted_by("backfill")


def test_shared_options_are_taken_everywhere_but_shown_where_they_matter() -> None:
    interval = BY_NAME["interval"]

    assert interval in accepted_by("backfill")
    assert interval in shown_by("watch")
    assert interval not in shown_by("backfill")
    assert interval not in accepted_by("simulate", bare=True)


@pytest.mark.parametrize(
    ("changed", "places"),
    [
        (
            {"since": datetime(2025, 2, 1, tzinfo=UTC), "until": datetime(2025, 1, 1, tzinfo=UTC)},
            ("since", "until"),
        ),
        ({"quiet": True, "verbose": 1}, ("quiet", "verbose")),
        ({"state_dir": Path("/x"), "dest": Path("/x")}, ("state_dir",)),
    ],
    ids=["since after until", "quiet and verbose", "state in dest"],
)
def test_values_that_exclude_each_other_are_refused_by_their_places(
    changed: dict[str, object], places: tuple[str, ...]
) -> None:
    values = {option.field: option.default for option in OPTIONS} | changed

    with pytest.raises(UsageError) as refused:
        check_together(values, lambda field: f"<{field}>")

    for place in places:
        assert f"<{place}>" in str(refused.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("localhost.example", False),
        ("127.1", False),
    ],
)
def test_loopback_is_this_machine_only(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_command_is_split_as_a_shell_would() -> None:
    assert split_command("a 'b c' \"d\" e\\ f") == ["a", "b c", "d", "e f"]


def test_every_placeholder_is_accepted_in_a_command() -> None:
    command = " ".join(f"{{{name}}}" for name in EXEC_PLACEHOLDERS)

    assert read("exec", f"tell {command}") == f"tell {command}"


@pytest.mark.parametrize(
    ("word", "expected"), [("concurency", "; did you mean concurrency?"), ("qqqq", "")]
)
def test_nearest_word_is_offered_only_when_it_is_near(word: str, expected: str) -> None:
    assert nearest(word, ["concurrency", "connections"]) == expected
