"""`fetcher status` says how things stand, what to type next, and whether a watch is alive."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from manifests import Shelf, job, rejected

from fetcher.files.locks import held
from fetcher.models import State, Status, Variant

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "dest")


def _ago(**age: float) -> str:
    return (datetime.now(UTC) - timedelta(**age)).isoformat()


def _sign(shelf: Shelf, **said: object) -> None:
    (shelf.dest / ".fetcher").mkdir(parents=True, exist_ok=True)
    (shelf.dest / ".fetcher" / "status.json").write_text(json.dumps(said))


def test_counts_per_state_bytes_and_last_poll_stand_on_one_screen(shelf: Shelf) -> None:
    done, again, failed = job(1), job(2), job(3)
    shelf.add(done, again, failed, rejected(4, "too long"), job(5, status=Status.PENDING))
    shelf.complete(done, "a.wav", bytes_stored=1_000_000)
    shelf.complete(again, "b.wav", bytes_stored=500_000)
    shelf.fail(failed, "the host answered 404")
    shelf.put(last_poll_at=_ago(minutes=5), last_full_at=_ago(hours=3))
    text = shelf.lines("status")
    assert text[0] == str(shelf.dest)
    assert text[1:5] == [
        "  complete  2  on disk  1.5 MB",
        "  waiting   1  not finished by the service",
        "  failed    1  could not be fetched",
        "  rejected  1  failed by the service",
    ]
    assert text[5].endswith("(5 min ago)")
    assert text[6].endswith("(3 h ago)")
    assert text[7:] == [
        "Could not be fetched: 1",
        "  the host answered 404",
        f"To fetch them: fetcher backfill -d {shelf.dest}",
        f"Which they are: fetcher list --state failed -d {shelf.dest}",
        f"What the service failed: fetcher list --failed -d {shelf.dest}",
    ]


def test_failures_are_grouped_by_reason_up_to_ten(shelf: Shelf) -> None:
    jobs = [job(n) for n in range(15)]
    shelf.add(*jobs)
    for n, one in enumerate(jobs):
        shelf.fail(one, "common" if n < 3 else f"rare {n:02}")
    text = shelf.lines("status")
    assert "  common (3 files)" in text
    assert sum(1 for line in text if line.startswith("  rare")) == 9
    assert "  and 3 more for other reasons" in text


def test_json_is_one_object_with_every_state(shelf: Shelf) -> None:
    done = job(1, original_audio_url="https://files.example/o.wav")
    shelf.add(done, originals=True)
    shelf.complete(done, "a.wav", bytes_stored=7)
    shelf.complete(done, "a.original.wav", variant=Variant.ORIGINAL, bytes_stored=5)
    (said,) = shelf.objects("status", "--json")
    assert (said["event"], said["records"], said["bytes"]) == ("status", 1, 12)
    assert said["states"] == dict.fromkeys(map(str, State), 0) | {"complete": 1}
    assert said["originals"]["complete"] == 1
    assert (said["holder"], said["watch"], said["last_poll_at"]) == (None, None, None)


def test_without_a_manifest_it_says_how_to_begin_and_makes_nothing(shelf: Shelf) -> None:
    assert shelf.lines("status") == [
        str(shelf.dest),
        f"  nothing is here yet: fetcher backfill -d {shelf.dest}",
    ]
    assert not shelf.dest.exists()


# ---- who works here ----------------------------------------------------------------------


def test_the_holder_is_named_and_retry_offered_while_it_works(shelf: Shelf) -> None:
    failed = job(1)
    shelf.add(failed)
    shelf.fail(failed, "404")
    with held([shelf.manifest.parent], command="watch", wait_s=0):
        text = "\n".join(shelf.lines("status"))
        (said,) = shelf.objects("status", "--json")
    assert f"In use by fetcher watch, process {os.getpid()} on {socket.gethostname()}" in text
    assert "fetcher retry" in text
    assert said["holder"]["pid"] == str(os.getpid())


def test_a_holder_that_was_killed_is_none(shelf: Shelf) -> None:
    shelf.add(job(1))
    code = (
        "import os, sys; from pathlib import Path; from fetcher.files.locks import held\n"
        "with held([Path(sys.argv[1])], command='watch', wait_s=0): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(shelf.manifest.parent)], check=False)
    assert (shelf.manifest.parent / "holder.json").exists()
    assert "In use" not in "\n".join(shelf.lines("status"))


# ---- for a monitor -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("watch_polled", "manifest_polled", "status"),
    [
        (timedelta(minutes=1), None, 0),
        (timedelta(minutes=11), None, 1),
        (None, timedelta(minutes=1), 0),
        (None, timedelta(minutes=11), 1),
        (timedelta(days=30), timedelta(minutes=1), 0),
        (timedelta(minutes=-5), None, 0),
        (None, None, 1),
    ],
    ids=["alive", "stuck", "backfill", "old backfill", "nightly since", "clock back", "never"],
)
def test_max_age_tells_whether_a_poll_succeeded_lately(
    shelf: Shelf, watch_polled: timedelta | None, manifest_polled: timedelta | None, status: int
) -> None:
    shelf.add(job(1))
    now = datetime.now(UTC)
    if watch_polled is not None:
        _sign(shelf, time=now.isoformat(), last_poll_at=(now - watch_polled).isoformat())
    if manifest_polled is not None:
        shelf.put(last_poll_at=(now - manifest_polled).isoformat())
    assert shelf.run("status", "--max-age", "10m") == status
    assert bool(shelf.err.getvalue()) == bool(status)


def test_max_age_fails_where_nothing_was_ever_fetched(shelf: Shelf) -> None:
    assert shelf.run("status", "--max-age", "10m") == 1
    assert "no poll has succeeded yet" in shelf.err.getvalue()


def test_the_watchs_trouble_is_shown_while_it_runs(shelf: Shelf) -> None:
    shelf.add(job(1))
    _sign(shelf, last_poll_at=_ago(minutes=20), last_error="the API answered 503\x1b[2J")
    with held([shelf.manifest.parent], command="watch", wait_s=0):
        assert "The watch has trouble: the API answered 503\ufffd[2J" in shelf.lines("status")


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"last_poll_at": 5}', "\xff"])
def test_a_status_file_that_says_nothing_is_as_none(shelf: Shelf, text: str) -> None:
    shelf.add(job(1))
    (shelf.dest / ".fetcher" / "status.json").write_bytes(text.encode("latin-1"))
    assert shelf.run("status", "--max-age", "10m") == 1
