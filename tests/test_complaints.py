"""Malformed records are told of once each, however often pages and passes show them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from fetcher.core.complaints import Complaints
from fetcher.core.pages import tied
from fetcher.core.paging import Walk
from fetcher.core.wire import parse_page

if TYPE_CHECKING:
    from fetcher.core.wire import Page


def page(*elements: object, offset: int = 0) -> Page:
    return replace(parse_page(json.dumps(elements).encode()), offset=offset)


def good(number: int) -> dict[str, Any]:
    return {"id": f"job-{number}", "status": "pending"}


def walk(complaints: Complaints, items: list[Any], size: int, *, ignores_offset: bool) -> None:
    """Read a whole list as a pass does."""
    complaints.begin()
    pages = Walk(size)
    while not pages.finished:
        asked = pages.next
        start = 0 if ignores_offset else asked.offset
        one = page(*items[start : start + asked.limit], offset=asked.offset)
        pages.feed([job.id for job in one.jobs], one.count, tied=tied(one.jobs))
        complaints.news(one)


def test_malformed_records_are_told_apart_although_they_lack_the_same() -> None:
    shown = page({"id": "a"}, {"id": "b"}, {"x": 1}, {"x": 2}, 1, 2)
    assert len(Complaints().news(shown)) == 6


def test_equal_elements_of_one_page_are_counted_each() -> None:
    assert len(Complaints().news(page(None, None, {}, {}, good(1), {}))) == 5


def test_what_another_pass_shows_again_is_no_news_wherever_it_stands() -> None:
    complaints = Complaints()
    complaints.news(page({"x": 1}, None, good(1), None))
    complaints.begin()
    assert complaints.news(page(good(2), {"x": 1}, None, good(1), None)) == []
    complaints.begin()
    assert len(complaints.news(page(good(2), {"x": 1}, None, None, good(1), None))) == 1
    assert complaints.count == 4


def test_a_record_with_an_id_is_told_of_once_for_each_reason() -> None:
    complaints = Complaints()
    for offset in (0, 5):
        complaints.news(page({"id": "a"}, {**good(1), "status": "x"}, offset=offset))
    assert complaints.count == 2
    assert len(complaints.news(page({"id": "a", "status": 1}, offset=9))) == 1


@pytest.mark.parametrize("size", [2, 7, 10, 200])
@pytest.mark.parametrize(
    "items",
    [
        pytest.param([None] * 400 + [good(1)], id="one behind all"),
        pytest.param([good(1)] + [None] * 400, id="one before all"),
        pytest.param([None] * 400, id="none readable"),
        pytest.param([good(n) if n % 3 else None for n in range(600)], id="every third"),
        pytest.param([good(n // 9) if n % 9 > 3 else {} for n in range(600)], id="runs of four"),
    ],
)
def test_a_full_pass_counts_equal_records_of_all_its_pages(items: list[Any], size: int) -> None:
    complaints = Complaints()
    for _ in range(2):
        walk(complaints, items, size, ignores_offset=False)
        assert complaints.count == sum(not item or "id" not in item for item in items)


def test_a_server_that_ignores_offsets_shows_the_same_records_again() -> None:
    complaints = Complaints()
    items = [good(n) if n % 10 else None for n in range(1, 100)]
    walk(complaints, items, 200, ignores_offset=True)
    assert complaints.count == 9


def test_no_more_than_so_many_are_told_of_in_one_run() -> None:
    complaints = Complaints()
    assert len(complaints.news(page(*range(10_002)))) == 10_000
    assert complaints.news(page({"x": 1})) == []
