"""`fetcher retry` makes given-up downloads eligible at once, also beside a running watch."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from manifests import Shelf, job

from fetcher.files.locks import held
from fetcher.manifest.store import Store
from fetcher.models import JobId, State

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "dest")


def _given_up(shelf: Shelf, count: int) -> None:
    jobs = [job(n, f"{n}.wav") for n in range(1, count + 1)]
    shelf.add(*jobs)
    for one in jobs:
        shelf.fail(one, "404")


def _states(shelf: Shelf) -> list[str]:
    return [one["state"] for one in shelf.objects("list", "--json")]


def test_all_that_was_given_up_is_queued_again(shelf: Shelf) -> None:
    _given_up(shelf, 2)
    assert shelf.lines("retry") == [
        "2 files are to be fetched again; the next backfill or watch takes them up",
        "  2.wav (00000002)",
        "  1.wav (00000001)",
    ]
    assert _states(shelf) == ["queued", "queued"]


def test_many_are_counted_and_the_first_are_named(shelf: Shelf) -> None:
    _given_up(shelf, 12)
    text = shelf.lines("retry")
    assert (len(text), text[-1]) == (12, "  and 2 more")


@pytest.mark.parametrize("word", ["00000001-0000-4000-8000-000000000000", "00000001", "00000001-0"])
def test_one_is_named_by_its_id_or_the_start_of_it(shelf: Shelf, word: str) -> None:
    _given_up(shelf, 2)
    assert shelf.lines("retry", word)[0].startswith("1 file is to be fetched again")
    assert _states(shelf) == ["failed", "queued"]


def test_a_whole_id_is_right_however_short_and_whatever_begins_with_it(shelf: Shelf) -> None:
    short, long = job(1, id=JobId("ab")), job(2, id=JobId("abc"))
    shelf.add(short, long)
    shelf.fail(short, "404")
    assert shelf.lines("retry", "ab")[0].startswith("1 file")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("ffffffff", "no job is known by the id 'ffffffff'"),
        ("000", "at least 4 characters"),
        ("0000", "several ids begin with '0000'"),
        ("0000000\x1b", "'0000000\ufffd'"),
    ],
)
def test_an_id_that_names_no_job_is_a_usage_error(shelf: Shelf, word: str, said: str) -> None:
    _given_up(shelf, 2)
    assert shelf.run("retry", word) == 2
    assert said in shelf.err.getvalue()
    assert _states(shelf) == ["failed", "failed"]


def test_a_job_that_was_not_given_up_is_told(shelf: Shelf) -> None:
    done = job(1)
    shelf.add(done)
    shelf.complete(done, "a.wav")
    assert shelf.lines("retry", done.id) == [f"nothing to retry: '{done.id}' is complete"]
    assert _states(shelf) == ["complete"]


def test_nothing_to_retry_is_no_failure_and_makes_no_manifest(shelf: Shelf) -> None:
    assert shelf.lines("retry") == ["nothing to retry: no download was given up"]
    assert not shelf.dest.exists()


def test_it_works_beside_a_watch_and_says_so(shelf: Shelf) -> None:
    _given_up(shelf, 1)
    with (
        held([shelf.manifest.parent], command="watch", wait_s=0),
        closing(Store(shelf.manifest)) as store,
    ):
        cursor = store.sync_tickets()
        assert "the running fetcher takes it up" in shelf.lines("retry")[0]
        ((_, entry),) = store.take(cursor, 10)
    assert (entry.state, entry.attempts) == (State.QUEUED, 0)


def test_json_names_each_file(shelf: Shelf) -> None:
    _given_up(shelf, 1)
    (said,) = shelf.objects("retry", "--json")
    assert (said["event"], said["file_name"]) == ("retry.queued", "1.wav")
    assert shelf.objects("retry", "--json") == []
