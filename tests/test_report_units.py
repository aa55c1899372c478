"""Numbers in words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.report.units import (
    human_bytes,
    human_clock,
    human_count,
    human_duration,
    human_rate,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1234, "1.2 kB"),
        (12_345, "12.3 kB"),
        (99_949, "99.9 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_600, "1.0 MB"),
        (172_800_044, "173 MB"),
        (5e9, "5.0 GB"),
        (2e15, "2.0 PB"),
        (-5, "0 B"),
        (math.nan, "0 B"),
        (math.inf, "0 B"),
    ],
)
def test_bytes_are_decimal_and_short(count: float, text: str) -> None:
    assert text == human_bytes(count)


@given(st.integers(0, 10**17))
def test_a_size_never_takes_more_than_seven_columns(count: int) -> None:
    assert len(human_bytes(count)) <= 7


def test_a_rate_is_a_size_a_second() -> None:
    assert human_rate(12_345_678) == "12.3 MB/s"


def test_counts_have_thousands_apart() -> None:
    assert human_count(1_204_000) == "1,204,000"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (725, "12 min 5 s"),
        (3599.7, "1 h"),
        (3900, "1 h 5 min"),
        (86_400 * 2 + 3 * 3600, "2 d 3 h"),
        (-1, "0.0 s"),
        (math.nan, "0.0 s"),
        (math.inf, "0.0 s"),
    ],
)
def test_a_passed_time_has_at_most_two_units(seconds: float, text: str) -> None:
    assert text == human_duration(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (42.4, "0:42"),
        (725, "12:05"),
        (3599.7, "1h 00m"),
        (3900, "1h 05m"),
        (86_400 * 2 + 3 * 3600, "2d 3h"),
        (math.inf, "0:00"),
    ],
)
def test_a_time_to_go_is_no_finer_than_it_can_be_known(seconds: float, text: str) -> None:
    assert text == human_clock(seconds)
