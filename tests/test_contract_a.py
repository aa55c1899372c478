"""What an outside examiner found against the promises on listing, naming and events."""

from __future__ import annotations

import json
from io import StringIO
from typing import TYPE_CHECKING

import pytest

from fetcher.cli import run
from fetcher.commands import Environment
from fetcher.core.paging import Walk
from fetcher.core.wire import InvalidRecord, parse_page
from fetcher.models import JobId

if TYPE_CHECKING:
    from pathlib import Path


def complaints(*elements: object) -> list[InvalidRecord]:
    """Return what a page of these elements is reported for."""
    return parse_page(json.dumps(elements).encode()).invalid


def test_a_page_without_a_readable_id_that_comes_whatever_the_offset_ends_the_walk() -> None:
    walk = Walk(200)
    for _ in range(10):
        if not walk.finished:
            walk.feed([], 1)
    assert walk.finished


def test_an_illegible_page_like_the_first_does_not_hide_what_follows() -> None:
    items = [None] * 4 + [JobId(f"r{number}") for number in range(8)]
    walk = Walk(2)
    seen: set[JobId] = set()
    for _ in range(100):
        if not walk.finished:
            request = walk.next
            page = items[request.offset :][: request.limit]
            seen.update(item for item in page if item)
            walk.feed([item for item in page if item], len(page))
    assert walk.finished
    assert len(seen) == 8


def test_a_record_without_status_is_reported_under_its_id() -> None:
    assert [item.id for item in complaints({"id": "a", "status": None})] == ["a"]


@pytest.mark.parametrize("command", ["backfill", "watch"])
def test_a_run_without_a_key_ends_with_its_account_too(command: str, tmp_path: Path) -> None:
    out = StringIO()
    environment = Environment(out, StringIO(), {}, tmp_path, tmp_path / "user")
    assert run([command, "--json", "-d", str(tmp_path / "dest")], environment) == 2
    last = json.loads(out.getvalue().splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("run.completed", 2)
