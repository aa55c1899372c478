"""Whole backfills against the simulator: what is fetched, adopted, left out, and what is said."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import threading
import unicodedata
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest
from raw_server import RawServer, Request, answer
from support import (
    KEY,
    Ran,
    check_account,
    check_mirror,
    everything,
    files,
    names,
    run,
    settings,
    short_path,
    song,
    tree,
)

from fetcher.engine import Fetcher
from fetcher.errors import LockedError, StorageError, UsageError
from fetcher.events import (
    DownloadAdopted,
    DownloadCompleted,
    DownloadFailed,
    FileSuspect,
    JobFailed,
    JobPending,
    Notice,
    Planned,
    PollCompleted,
    RecordInvalid,
    RunCompleted,
)
from fetcher.manifest.reader import Reader
from fetcher.manifest.store import Store
from fetcher.simulator import OMIT, Fault, Serving, Simulator
from fetcher.simulator.record import record

if TYPE_CHECKING:
    from asyncio import StreamWriter

    from fetcher.events import Event

MANIFEST = "manifest.db"


def forget(dest: Path) -> None:
    """Delete the manifest of a destination."""
    for path in (dest / ".fetcher").glob(f"{MANIFEST}*"):
        path.unlink()


# ---- once, and only once -----------------------------------------------------------------


async def test_every_finished_job_is_fetched_once(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(30)
    first = await run(sim.api_url, tmp_path)
    second = await run(sim.api_url, tmp_path)
    assert (first.final.downloaded, second.final.already, second.final.downloaded) == (30, 30, 0)
    assert len(sim.audio_requests()) == 30
    check_mirror(sim, tmp_path)


async def test_a_file_lands_in_the_folder_of_its_stem_with_the_jobs_time(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job("مقابلة مع فلان.mp4")
    ran = await run(sim.api_url, tmp_path)
    path = short_path("مقابلة مع فلان.mp4", job)
    [done] = ran.of(DownloadCompleted)
    assert (done.path, list(files(tmp_path))) == (path, [path])
    assert (tmp_path / path).stat().st_mtime == pytest.approx(sim.job(job).updated_at, abs=0.001)
    assert done.sha256 == hashlib.sha256(sim.content(job)).hexdigest()


async def test_the_counts_of_every_class_add_up(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(3)
    sim.add_job("waits.wav", status="pending")
    sim.add_job("broken.wav", status="failed", error="too loud")
    sim.add_job("out.xyz")
    lost = sim.add_job("lost.wav")
    sim.add_raw("no record", 2)
    sim.faults.add(Fault("audio", job=lost, status=500, times=None))
    ran = await run(sim.api_url, tmp_path, match="*.wav")
    final = ran.final
    assert ran.exit_code == 1
    assert (final.records, final.downloaded, final.pending, final.rejected) == (7, 3, 1, 1)
    assert (final.failed, final.filtered, final.invalid) == (1, 1, 1)
    assert [event.error for event in ran.of(JobFailed)] == ["too loud"]
    assert len(ran.of(JobPending)) == 1
    [poll] = ran.of(PollCompleted)
    assert (poll.records, poll.new, poll.pending) == (7, 7, 1)


async def test_what_the_service_failed_or_has_not_finished_is_no_failure(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job(status="pending")
    sim.add_job(status="failed")
    sim.add_raw({"id": 7, "status": []})
    assert (await run(sim.api_url, tmp_path)).exit_code == 0


async def test_an_empty_history_is_nothing_to_do(tmp_path: Path, sim: Simulator) -> None:
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.final.records, files(tmp_path)) == (0, 0, {})


async def test_jobs_that_finish_later_are_fetched_by_a_later_run(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = [sim.add_job(status="pending") for _ in range(3)]
    failed = sim.add_job(status="failed")
    first = await run(sim.api_url, tmp_path)
    for job in (*jobs[:2], failed):
        sim.finish(job)
    second = await run(sim.api_url, tmp_path)
    assert (first.final.pending, second.final.downloaded, second.final.pending) == (3, 3, 1)
    check_mirror(sim, tmp_path)


async def test_a_complete_file_that_the_user_moved_is_not_fetched_again(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(2, file_name="{n}.wav")
    await run(sim.api_url, tmp_path)
    shutil.rmtree(tmp_path / "0")
    (tmp_path / "1").rename(tmp_path / "mine")
    again = await run(sim.api_url, tmp_path)
    assert (again.exit_code, again.final.already, len(sim.audio_requests())) == (0, 2, 2)


async def test_a_job_whose_record_changes_after_its_download_is_not_fetched_again(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job()
    await run(sim.api_url, tmp_path)
    sim.override(job, updated_at="2030-01-01T00:00:00Z", file_name="renamed.wav", status="failed")
    again = await run(sim.api_url, tmp_path)
    assert (again.exit_code, again.final.already) == (0, 1)
    assert list(files(tmp_path)) == [short_path("audio.wav", job)]


# ---- the manifest is lost ----------------------------------------------------------------


async def test_files_in_place_are_adopted_without_a_request_for_audio(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(12, file_name="{n}.mp3")
    sim.add_jobs(3, file_name="same.wav")
    sim.add_job("متشابه.wav")
    await run(sim.api_url, tmp_path)
    before, asked = files(tmp_path), len(sim.audio_requests())
    forget(tmp_path)
    again = await run(sim.api_url, tmp_path)
    assert (again.exit_code, again.final.adopted, again.final.downloaded) == (0, 16, 0)
    assert (files(tmp_path), len(sim.audio_requests())) == (before, asked)
    assert {event.sha256 for event in again.of(DownloadAdopted)} == {
        hashlib.sha256(data).hexdigest() for data in before.values()
    }
    assert (await run(sim.api_url, tmp_path)).final.already == 16


async def test_originals_are_adopted_as_well(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(3, file_name="{n}.mp4")
    await run(sim.api_url, tmp_path, originals=True)
    before, sent = files(tmp_path), sim.bytes_sent()
    forget(tmp_path)
    again = await run(sim.api_url, tmp_path, originals=True)
    assert (again.exit_code, again.final.adopted) == (0, 3)
    assert (files(tmp_path), sim.bytes_sent()) == (before, sent)


async def test_the_whole_state_folder_may_be_lost(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(5)
    await run(sim.api_url, tmp_path)
    shutil.rmtree(tmp_path / ".fetcher")
    again = await run(sim.api_url, tmp_path)
    assert (again.exit_code, again.final.adopted, len(sim.audio_requests())) == (0, 5, 5)


async def test_a_file_that_was_truncated_is_not_adopted(tmp_path: Path, sim: Simulator) -> None:
    job = sim.add_job()
    await run(sim.api_url, tmp_path)
    place = tmp_path / short_path("audio.wav", job)
    stat = place.stat()
    os.truncate(place, 1_000)
    os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    forget(tmp_path)
    again = await run(sim.api_url, tmp_path)
    assert (again.exit_code, again.final.adopted, again.final.downloaded) == (0, 0, 1)
    assert sim.content(job) in files(tmp_path).values()
    assert place.read_bytes() == sim.content(job)[:1_000], "a file that is not ours was changed"


async def test_files_of_ids_that_begin_alike_are_adopted_by_their_own_jobs(
    tmp_path: Path, sim: Simulator
) -> None:
    """Same name, same times, same short id: only the path with the whole id tells them apart."""
    ids = [f"12345678-0000-4000-8000-00000000000{n}" for n in range(4)]
    for n, job in enumerate(ids):
        at = "2026-01-05T10:00:00.000Z"
        sim.add_job("talk.wav", id=job, content=song(4_000, seed=n), created_at=float(n))
        sim.override(job, updated_at=at, created_at=at)
    first = await run(sim.api_url, tmp_path)
    before = {str(event.id): event.path for event in first.of(DownloadCompleted)}
    forget(tmp_path)
    again = await run(sim.api_url, tmp_path)
    assert (again.exit_code, again.final.adopted, len(sim.audio_requests())) == (0, 4, 4)
    assert {event.id: event.path for event in again.of(DownloadAdopted)} == before
    assert all((tmp_path / before[job]).read_bytes() == sim.content(job) for job in ids)


async def test_a_missing_file_is_not_taken_to_be_one_of_an_id_that_begins_alike(
    tmp_path: Path, sim: Simulator
) -> None:
    ids = [f"12345678-0000-4000-8000-00000000000{n}" for n in range(2)]
    for n, job in enumerate(ids):
        sim.add_job("talk.wav", id=job, content=song(4_000, seed=n), created_at=float(n))
        sim.override(job, updated_at="2026-01-05T10:00:00Z")
    first = await run(sim.api_url, tmp_path, concurrency=1)
    whole = next(event.path for event in first.of(DownloadCompleted) if "0000" in event.path)
    (tmp_path / whole).unlink()
    forget(tmp_path)
    again = await run(sim.api_url, tmp_path)
    assert again.exit_code == 0
    check_mirror(sim, tmp_path)


# ---- names and what stands in the way ----------------------------------------------------


async def test_jobs_of_one_name_lie_side_by_side(tmp_path: Path, sim: Simulator) -> None:
    jobs = sim.add_jobs(20, file_name="audio.wav")
    await run(sim.api_url, tmp_path)
    assert sorted(files(tmp_path)) == sorted(short_path("audio.wav", job) for job in jobs)
    check_mirror(sim, tmp_path)


async def test_ids_that_begin_alike_get_paths_of_their_own(tmp_path: Path, sim: Simulator) -> None:
    for n in range(5):
        sim.add_job("a.wav", id=f"12345678-0000-4000-8000-00000000000{n}")
    first = await run(sim.api_url, tmp_path)
    assert (first.exit_code, len(files(tmp_path))) == (0, 5)
    check_mirror(sim, tmp_path)
    second = await run(sim.api_url, tmp_path)
    assert second.final.already == 5


async def test_names_that_differ_only_in_case_or_form_never_share_a_path(
    tmp_path: Path, sim: Simulator
) -> None:
    """On a disk that folds case these would be one file."""
    names = [
        "Talk.wav",
        "TALK.wav",
        "talk.wav",
        "caf\u00e9.wav",
        "cafe\u0301.wav",
        "Stra\u00dfe.wav",
    ]
    for n, name in enumerate(names):
        sim.add_job(name, id=f"12345678-0000-4000-8000-00000000000{n}")
    ran = await run(sim.api_url, tmp_path)
    folded = {unicodedata.normalize("NFC", path).casefold() for path in files(tmp_path)}
    assert (ran.exit_code, len(files(tmp_path)), len(folded)) == (0, 6, 6)
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link", "link to a folder"])
async def test_what_is_foreign_at_a_files_path_stays_and_the_whole_id_is_used(
    kind: str, tmp_path: Path, sim: Simulator
) -> None:
    outside = tmp_path / "outside"
    dest = tmp_path / "dest"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    job = sim.add_job("talk.wav")
    place = dest / short_path("talk.wav", job)
    place.parent.mkdir(parents=True)
    match kind:
        case "file":
            place.write_bytes(b"mine")
        case "folder":
            place.mkdir()
        case "link":
            place.symlink_to(outside / "precious")
        case "dangling link":
            place.symlink_to(outside / "new")
        case _:
            place.symlink_to(outside)
    ran = await run(sim.api_url, dest)
    [done] = ran.of(DownloadCompleted)
    assert (ran.exit_code, done.path) == (0, f"talk/talk.{job}.wav")
    assert (dest / done.path).read_bytes() == sim.content(job)
    assert tree(outside) == {"precious": b"precious"}
    assert kind != "file" or place.read_bytes() == b"mine"
    assert (await run(sim.api_url, dest)).final.already == 1


async def test_a_file_fails_where_both_of_its_paths_are_taken_and_nothing_is_lost(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job("talk.wav")
    sim.add_job("other.wav")
    short = tmp_path / short_path("talk.wav", job)
    whole = tmp_path / "talk" / f"talk.{job}.wav"
    short.parent.mkdir()
    short.write_bytes(b"mine")
    whole.mkdir()
    first = await run(sim.api_url, tmp_path)
    assert (first.exit_code, first.final.failed, first.final.downloaded) == (1, 1, 1)
    assert "stands at" in first.reasons[0]
    assert short.read_bytes() == b"mine"
    whole.rmdir()
    second = await run(sim.api_url, tmp_path)
    assert (second.exit_code, whole.read_bytes()) == (0, sim.content(job))


async def test_a_file_where_the_folder_should_be_fails_only_that_job(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job("talk.wav")
    sim.add_job("other.wav")
    (tmp_path / "talk").write_bytes(b"mine")
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.final.failed, ran.final.downloaded) == (1, 1, 1)
    assert (tmp_path / "talk").read_bytes() == b"mine"


async def test_a_folder_that_is_a_link_out_of_the_destination_is_not_followed(
    tmp_path: Path, sim: Simulator
) -> None:
    outside, dest = tmp_path / "outside", tmp_path / "dest"
    outside.mkdir()
    dest.mkdir()
    (dest / "talk").symlink_to(outside)
    sim.add_job("talk.wav")
    ran = await run(sim.api_url, dest)
    assert (ran.exit_code, tree(outside)) == (1, {})


async def test_the_same_bytes_at_the_path_are_the_file(tmp_path: Path, sim: Simulator) -> None:
    """What was copied here by hand, times and all lost, is not doubled."""
    job = sim.add_job("talk.wav")
    place = tmp_path / short_path("talk.wav", job)
    place.parent.mkdir()
    place.write_bytes(sim.content(job))
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, list(files(tmp_path))) == (0, [short_path("talk.wav", job)])


@pytest.mark.parametrize(
    "name", ["../../escape.wav", "/etc/passwd", ".fetcher", "a/b\\c.wav", "\x1b[31mred\x00.wav"]
)
async def test_a_hostile_name_stays_inside(name: str, tmp_path: Path, sim: Simulator) -> None:
    dest = tmp_path / "deep" / "dest"
    sim.add_job(name)
    ran = await run(sim.api_url, dest)
    assert ran.exit_code == 0
    check_mirror(sim, dest)
    assert names(tmp_path) == ["deep"]
    assert names(tmp_path / "deep") == ["dest"]


# ---- the list changes while it is read ---------------------------------------------------


@pytest.mark.parametrize("page_size", [1, 2, 7, 10, 200])
@pytest.mark.parametrize("cap", [None, 1, 3])
async def test_every_record_is_seen_whatever_the_pages(
    page_size: int, cap: int | None, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(20, size_bytes=100)
    sim.page_cap = cap
    ran = await run(sim.api_url, tmp_path, page_size=page_size)
    assert (ran.exit_code, ran.final.records, ran.final.downloaded) == (0, 20, 20)


async def test_deletions_and_insertions_while_paging_lose_nothing(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(60, size_bytes=100)
    stays = set(jobs)

    def change(number: int) -> None:
        if number % 2 == 0 and number < 20:
            for victim in jobs[-2 * number : -2 * number + 2]:
                if victim in stays:
                    sim.delete(victim)
                    stays.discard(victim)
        elif number < 20:
            stays.add(sim.insert(0, size_bytes=100))

    sim.on_list = change
    ran = await run(sim.api_url, tmp_path, page_size=6)
    done = {event.id for event in ran.of(DownloadCompleted)}
    there_all_along = stays & set(jobs)
    assert ran.exit_code in {0, 1}  # a file of a deleted job may be gone before it is fetched
    assert there_all_along <= done


async def test_duplicates_count_once(tmp_path: Path, sim: Simulator) -> None:
    jobs = sim.add_jobs(4)
    for job in jobs:
        sim.add_raw(record(sim.job(job), sim.links, sim.serving), 1)
    ran = await run(sim.api_url, tmp_path, page_size=3)
    assert (ran.exit_code, ran.final.records, ran.final.downloaded) == (0, 4, 4)
    assert len(sim.audio_requests()) == 4


async def test_malformed_records_are_reported_and_the_others_go_on(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(3)
    sim.add_raw(None)
    sim.add_raw([1, 2])
    sim.add_raw({"id": "", "status": "success"}, 2)
    odd = sim.add_job("odd.wav", new_field={"a": 1}, source_type=7)
    sim.override(odd, audio_duration="long")
    strange = sim.add_job("strange.wav")
    sim.override(strange, status="sleeping")
    linkless = sim.add_job("linkless.wav")
    sim.override(linkless, audio_url=OMIT)
    ran = await run(sim.api_url, tmp_path, page_size=2)
    assert (ran.exit_code, ran.final.downloaded, ran.final.pending) == (0, 4, 2)
    assert ran.final.invalid == len(ran.of(RecordInvalid)) == 6
    assert odd in {event.id for event in ran.of(DownloadCompleted)}


async def test_equal_malformed_records_are_counted_on_every_page(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job()
    for _ in range(25):
        sim.add_raw(None)
    for _ in range(2):
        ran = await run(sim.api_url, tmp_path, page_size=10)
        assert (ran.exit_code, ran.final.records, ran.final.invalid) == (0, 1, 25)
        assert len(ran.of(RecordInvalid)) == 25


async def test_a_server_that_ignores_offsets_ends_the_walk(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(10)
    sim.ignore_offset = True
    ran = await run(sim.api_url, tmp_path, page_size=4)
    assert ran.final.downloaded == 4
    assert len(sim.list_requests) < 20


async def test_downloading_starts_while_the_list_is_still_read(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(40)
    sim.faults.add(Fault("list", after=1, times=None, delay_s=0.05))
    ran = await run(sim.api_url, tmp_path, page_size=10)
    last_page = max(r.at_s for r in sim.list_requests)
    first_audio = min(r.at_s for r in sim.audio_requests())
    assert ran.exit_code == 0
    assert first_audio < last_page - 0.1


# ---- an API in trouble -------------------------------------------------------------------


async def test_a_history_that_is_suddenly_empty_is_an_error_and_nothing_is_forgotten(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(3)
    await run(sim.api_url, tmp_path)
    for job in jobs:
        sim.delete(job)
    empty = await run(sim.api_url, tmp_path)
    assert empty.exit_code == 4
    assert len(files(tmp_path)) == 3
    assert any("nothing was forgotten" in event.message for event in empty.of(Notice))
    back = sim.add_job("back.wav", id=jobs[0])
    again = await run(sim.api_url, tmp_path)
    assert (back, again.final.already, again.final.downloaded) == (jobs[0], 1, 0)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("list", times=None, html=True),
        Fault("list", times=None, body=b'[{"id": "a", "status"'),
        Fault("list", times=None, body=b""),
        Fault("list", times=None, body=b'{"statusCode": 200, "message": "Success"}'),
        Fault("list", times=None, body=b'"text"'),
        Fault("list", times=None, status=500),
        Fault("list", times=None, status=404),
        Fault("list", times=None, disconnect=True),
        Fault("list", times=None, cut_after_bytes=40),
        Fault("list", times=None, status=429, headers={"Retry-After": "3600"}),
        Fault("list", times=None, status=302, headers={"Location": "http://127.0.0.1:1/x"}),
        Fault("list", times=None, status=302, headers={"Location": "/api/v1/denoise"}),
    ],
    ids=[
        *("HTML", "half JSON", "nothing", "an object", "a text", "500", "404", "closed", "cut"),
        *("an hour's pause", "a redirect away", "a redirect in circles"),
    ],
)
async def test_an_api_that_keeps_failing_is_4(fault: Fault, tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(2)
    sim.faults.add(fault)
    ran = await run(sim.api_url, tmp_path, retries=1)
    assert ran.exit_code == 4
    assert len(ran.of(Notice)) >= 1
    assert all(KEY not in str(event) for event in ran.events)
    sim.faults.clear()
    assert (await run(sim.api_url, tmp_path)).exit_code == 0


@pytest.mark.parametrize(
    "fault",
    [
        Fault("list", html=True),
        Fault("list", body=b'[{"id": "a", "status"'),
        Fault("list", body=b""),
        Fault("list", status=500),
        Fault("list", disconnect=True),
        Fault("list", cut_after_bytes=40),
    ],
    ids=["HTML", "half JSON", "nothing", "500", "closed", "cut"],
)
async def test_an_api_that_fails_once_is_tried_again(
    fault: Fault, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(5)
    sim.faults.add(fault)
    ran = await run(sim.api_url, tmp_path, page_size=2)
    assert (ran.exit_code, ran.final.downloaded) == (0, 5)


async def test_an_api_that_fails_on_the_way_leaves_what_was_listed(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(12)
    sim.faults.add(Fault("list", after=2, times=None, status=500))
    ran = await run(sim.api_url, tmp_path, page_size=5)
    assert ran.exit_code == 4
    assert 5 <= ran.final.downloaded < 12
    sim.faults.clear()
    again = await run(sim.api_url, tmp_path)
    assert again.exit_code == 0
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_3(status: int, tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(2)
    sim.faults.add(Fault("list", times=None, status=status))
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, len(sim.list_requests)) == (3, 1)
    assert all(KEY not in str(event) for event in ran.events)


async def test_a_key_that_is_refused_on_the_way_is_3(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(12)
    sim.faults.add(Fault("list", after=2, times=None, status=401))
    ran = await run(sim.api_url, tmp_path, page_size=5)
    assert ran.exit_code == 3


async def test_both_shapes_and_the_envelope_are_read(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(5)
    sim.envelope = True
    assert (await run(sim.api_url, tmp_path, page_size=2)).final.downloaded == 5


# ---- filters and options -----------------------------------------------------------------


async def test_max_downloads_leaves_the_rest_for_the_next_run(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(10)
    seen = []
    for _ in range(4):
        ran = await run(sim.api_url, tmp_path, max_downloads=4)
        seen.append((ran.exit_code, ran.final.downloaded, ran.final.already, ran.final.filtered))
    assert seen == [(0, 4, 0, 6), (0, 4, 4, 2), (0, 2, 8, 0), (0, 0, 10, 0)]
    assert len(sim.audio_requests()) == 10


async def test_failed_files_do_not_count_against_max_downloads(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(6)
    for job in jobs[3:]:
        sim.faults.add(Fault("audio", job=job, times=None, status=500))
    ran = await run(sim.api_url, tmp_path, max_downloads=3, concurrency=2)
    assert (ran.final.downloaded, ran.final.failed + ran.final.filtered) == (3, 3)


@pytest.mark.parametrize("concurrency", [1, 3, 16])
async def test_max_downloads_is_exact_with_any_number_of_workers(
    concurrency: int, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(20)
    ran = await run(sim.api_url, tmp_path, max_downloads=5, concurrency=concurrency)
    assert (ran.final.downloaded, len(sim.audio_requests())) == (5, 5)


async def test_max_downloads_of_none_lists_adopts_and_leaves_the_rest_for_later(
    tmp_path: Path, sim: Simulator
) -> None:
    """Left out at once in a bare folder, and what is in place is adopted in any other."""
    sim.add_jobs(30)
    listed = await run(sim.api_url, tmp_path, max_downloads=0, page_size=5)
    assert (listed.exit_code, listed.final.filtered, files(tmp_path)) == (0, 30, {})
    some = await run(sim.api_url, tmp_path, max_downloads=10, page_size=5)
    assert (some.final.downloaded, some.final.filtered) == (10, 20)
    for leftover in (tmp_path / ".fetcher").glob("manifest.db*"):
        leftover.unlink()
    again = await run(sim.api_url, tmp_path, max_downloads=0, page_size=5)
    assert (again.final.adopted, again.final.filtered) == (10, 20)
    rest = await run(sim.api_url, tmp_path, page_size=5)
    assert (rest.final.already, rest.final.downloaded) == (10, 20)
    check_mirror(sim, tmp_path)


async def test_since_and_until_bound_created_at(tmp_path: Path, sim: Simulator) -> None:
    for day in range(1, 6):
        sim.add_job(f"{day}.wav", created_at=datetime(2026, 3, day, tzinfo=UTC))
    ran = await run(
        sim.api_url, tmp_path, since="2026-03-02T00:00:00Z", until="2026-03-04T00:00:00Z"
    )
    assert sorted(path.partition("/")[0] for path in files(tmp_path)) == ["2", "3", "4"]
    assert (ran.exit_code, ran.final.filtered) == (0, 2)
    wider = await run(sim.api_url, tmp_path)
    assert (wider.final.downloaded, wider.final.already) == (2, 3)


async def test_match_and_source_type_choose(tmp_path: Path, sim: Simulator) -> None:
    for name in ("talk.wav", "talk.mp4", "music.wav", "film.mov"):
        sim.add_job(name)
    await run(sim.api_url, tmp_path, match=["talk*", "film*"], source_type="video")
    assert sorted(path.partition("/")[0] for path in files(tmp_path)) == ["film", "talk"]


async def test_what_a_filter_left_unfinished_in_an_earlier_run_is_left_out(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job("talk.wav", size_bytes=60_000)
    sim.faults.add(Fault("audio", job=job, times=None, cut_after_bytes=0))
    first = await run(sim.api_url, tmp_path)
    sim.faults.clear()
    second = await run(sim.api_url, tmp_path, match="other*")
    third = await run(sim.api_url, tmp_path)
    assert (first.exit_code, second.exit_code, third.exit_code) == (1, 0, 0)
    assert (second.final.filtered, third.final.downloaded) == (1, 1)


async def test_what_is_not_listed_any_more_is_not_lost_to_a_filter(
    tmp_path: Path, sim: Simulator
) -> None:
    keep, job = sim.add_job("talk.wav"), sim.add_job("other.wav")
    content = sim.content(job)
    is_up = False

    async def reply(_: Request, writer: StreamWriter) -> None:
        writer.write(answer(content) if is_up else answer(status="503 Busy"))

    async with RawServer(reply) as raw:
        sim.override(job, audio_url=f"{raw.origin}/other.wav")
        first = await run(sim.api_url, tmp_path, retries=0)
        sim.delete(job)
        filtered = await run(sim.api_url, tmp_path, match="talk*", retries=0)
        is_up = True
        last = await run(sim.api_url, tmp_path, retries=0)
    assert [ran.exit_code for ran in (first, filtered, last)] == [1, 0, 0]
    assert (filtered.final.filtered, last.final.downloaded) == (1, 1)
    assert sorted(files(tmp_path).values()) == sorted([sim.content(keep), content])


async def test_originals_that_nobody_wants_any_more_are_left_alone(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(3)
    sim.faults.add(Fault("original", times=None, status=404))
    wanted = await run(sim.api_url, tmp_path, originals=True)
    asked = len(sim.log.of("original"))
    plain = await run(sim.api_url, tmp_path)
    assert (wanted.exit_code, plain.exit_code, plain.final.already) == (1, 0, 3)
    assert len(sim.log.of("original")) == asked
    sim.faults.clear()
    again = await run(sim.api_url, tmp_path, originals=True)
    assert (again.exit_code, sum(".original." in path for path in files(tmp_path))) == (0, 3)


async def test_originals_come_beside_the_clean_files(tmp_path: Path, sim: Simulator) -> None:
    job = sim.add_job("talk.mp3")
    ran = await run(sim.api_url, tmp_path, originals=True)
    assert (ran.exit_code, ran.final.records, ran.final.downloaded) == (0, 1, 1)
    assert files(tmp_path) == {
        short_path("talk.mp3", job): sim.content(job),
        f"talk/talk.{job[:8]}.original.mp3": sim.original(job),
    }


async def test_originals_may_be_asked_for_later(tmp_path: Path, sim: Simulator) -> None:
    job = sim.add_job("talk.mp3")
    await run(sim.api_url, tmp_path)
    later = await run(sim.api_url, tmp_path, originals=True)
    assert (later.exit_code, later.final.already, len(sim.audio_requests())) == (0, 1, 1)
    assert sim.original(job) in files(tmp_path).values()


async def test_an_original_that_fails_fails_its_job(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(2)
    sim.faults.add(Fault("original", times=None, status=500, job=sim.ids[0]))
    ran = await run(sim.api_url, tmp_path, originals=True)
    assert (ran.exit_code, ran.final.records) == (1, 2)
    assert (ran.final.downloaded, ran.final.failed) == (1, 1)


async def test_an_original_that_fails_takes_its_own_job_from_those_already_here(
    tmp_path: Path, sim: Simulator
) -> None:
    old = sim.add_job()
    await run(sim.api_url, tmp_path)
    sim.faults.add(Fault("original", times=None, status=404, job=old))
    sim.add_job()
    ran = await run(sim.api_url, tmp_path, originals=True)
    assert (ran.final.downloaded, ran.final.already, ran.final.failed) == (1, 0, 1)


@pytest.mark.parametrize(
    ("said_s", "mode", "expected"),
    [
        (1.0, "warn", (0, 1, 0)),
        (2.5, "warn", (0, 1, 1)),
        (2.5, "off", (0, 1, 0)),
        (2.5, "fail", (1, 0, 0)),
        (0.0, "warn", (0, 1, 0)),
        (2.1, "fail", (1, 0, 0)),
        (1.99, "fail", (0, 1, 0)),
    ],
)
async def test_a_length_unlike_the_records_is_suspect(
    said_s: float, mode: str, expected: tuple[int, int, int], tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job(duration_s=1.0, audio_duration=said_s)
    ran = await run(sim.api_url, tmp_path, check_duration=mode)
    assert (ran.exit_code, ran.final.downloaded, len(ran.of(FileSuspect))) == expected
    assert len(files(tmp_path)) == expected[1]


async def test_another_template_applies_to_new_files_only(tmp_path: Path, sim: Simulator) -> None:
    old = sim.add_job("old.wav")
    await run(sim.api_url, tmp_path)
    new = sim.add_job("new.wav")
    await run(sim.api_url, tmp_path, output="{id}{ext}")
    assert sorted(files(tmp_path)) == sorted([short_path("old.wav", old), f"{new}.wav"])


async def test_a_state_folder_elsewhere_keeps_the_manifest(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(3)
    dest, state = tmp_path / "dest", tmp_path / "state"
    await run(sim.api_url, dest, state_dir=state)
    again = await run(sim.api_url, dest, state_dir=state)
    assert again.final.already == 3
    assert (state / MANIFEST).exists()
    assert not (dest / ".fetcher" / MANIFEST).exists()


# ---- the dry run -------------------------------------------------------------------------


async def plan(sim: Simulator, dest: Path, **options: Any) -> Ran:
    events: list[Event] = []
    final = await Fetcher(settings(sim.api_url, dest, dry_run=True, **options)).run_plan(
        events.append
    )
    return Ran(events, final)


async def test_a_manifest_elsewhere_is_of_one_destination_wherever_that_is_moved(
    tmp_path: Path, sim: Simulator
) -> None:
    """Else all that the first one holds would count as being in the second."""
    sim.add_jobs(3)
    first, second, moved = (tmp_path / name for name in ("first", "second", "moved"))
    state = tmp_path / "state"
    await run(sim.api_url, first, state_dir=state)
    with pytest.raises(UsageError, match="first"):
        await run(sim.api_url, second, state_dir=state)
    with pytest.raises(UsageError, match="first"):
        await plan(sim, second, state_dir=state)
    assert files(second) == {}
    first.rename(moved)
    again = await run(sim.api_url, moved, state_dir=state)
    assert (again.exit_code, again.final.already) == (0, 3)


async def test_a_dry_run_writes_nothing_where_nothing_is(tmp_path: Path, sim: Simulator) -> None:
    jobs = sim.add_jobs(3)
    dest = tmp_path / "new" / "dest"
    ran = await plan(sim, dest)
    assert ran.exit_code == 0
    assert names(tmp_path) == []
    assert {event.id for event in ran.of(Planned)} == set(jobs)
    assert sim.audio_requests() == []


@pytest.mark.parametrize(
    "kind",
    [
        *("file", "below a file", "dangling link", "a name too long", "proc", "state file"),
        *("state link", "partial file", "partial link", "no rights"),
    ],
)
async def test_a_dry_run_into_what_no_run_could_write_is_a_storage_error(
    kind: str, tmp_path: Path, sim: Simulator
) -> None:
    dest, own = tmp_path / "dest", tmp_path / "dest" / ".fetcher"
    match kind:
        case "file" | "below a file":
            dest.write_bytes(b"mine")
            dest = dest if kind == "file" else dest / "deeper" / "down"
        case "dangling link":
            dest.symlink_to(tmp_path / "gone")
        case "a name too long":
            dest = tmp_path / ("x" * 300)
        case "proc":
            dest = Path("/proc/fetcher/downloads")
        case "no rights":
            if os.geteuid() == 0:
                pytest.skip("permissions do not bind root")
            dest.mkdir(mode=0o500)
        case _:
            place = own if kind.startswith("state") else own / "partial"
            place.parent.mkdir(parents=True)
            if kind.endswith("link"):
                place.symlink_to(tmp_path)
            else:
                place.write_bytes(b"")
    before = names(tmp_path)
    with pytest.raises(StorageError):
        await plan(sim, dest)
    assert names(tmp_path) == before
    with pytest.raises(StorageError):
        await run(sim.api_url, dest)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
@pytest.mark.parametrize("name", [MANIFEST, "lock"])
async def test_a_dry_run_finds_a_file_of_fetcher_that_no_run_could_write(
    name: str, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job()
    await run(sim.api_url, tmp_path)
    os.chmod(tmp_path / ".fetcher" / name, 0o444)  # noqa: PTH101 - pathlib is not for coroutines
    with pytest.raises(StorageError, match=name):
        await plan(sim, tmp_path)


async def test_a_dry_run_of_a_folder_that_may_not_be_read_ends_as_the_backfill_does(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job()
    dest = tmp_path / "dest"
    dest.mkdir(mode=0o300)
    assert (await plan(sim, dest)).exit_code == (await run(sim.api_url, dest)).exit_code


async def test_a_dry_run_changes_nothing_that_is_there(tmp_path: Path, sim: Simulator) -> None:
    job = sim.add_job("cut.wav", size_bytes=60_000)
    sim.add_jobs(3)
    sim.faults.add(Fault("audio", job=job, times=None, cut_after_bytes=9_000))
    await run(sim.api_url, tmp_path, retries=0)
    sim.add_job("new.wav")
    sim.add_job("pending.wav", status="pending")
    sim.add_job("failed.wav", status="failed")
    before = everything(tmp_path)
    ran = await plan(sim, tmp_path)
    assert everything(tmp_path) == before
    actions = {event.file_name: event.action for event in ran.of(Planned)}
    assert actions == {
        "cut.wav": "resume",
        "audio.wav": "skip",
        "new.wav": "download",
        "pending.wav": "wait",
        "failed.wav": "reject",
    }
    done = {event.path for event in (await run(sim.api_url, tmp_path)).of(DownloadCompleted)}
    planned = {e.path for e in ran.of(Planned) if e.action in {"download", "resume"}}
    assert done == planned


async def test_a_dry_run_plans_what_the_backfill_then_does(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(8, file_name="{n}.wav")
    ran = await plan(sim, tmp_path, max_downloads=3, match="[0-4]*")
    real = await run(sim.api_url, tmp_path, max_downloads=3, match="[0-4]*")
    planned = [event for event in ran.of(Planned) if event.action == "download"]
    assert (len(planned), ran.final.filtered) == (3, real.final.filtered)
    assert {event.path for event in planned} == {e.path for e in real.of(DownloadCompleted)}


def to_fetch(ran: Ran) -> list[tuple[str, str]]:
    """Return what a dry run would download."""
    return sorted((e.id, e.variant) for e in ran.of(Planned) if e.action in {"download", "resume"})


@pytest.mark.parametrize("before", ["nothing", "clean files", "some originals", "all"])
@pytest.mark.parametrize("most", [None, 1, 2, 3, 5, 9])
@pytest.mark.parametrize("page_size", [2, 200])
async def test_a_dry_run_plans_the_originals_that_the_backfill_then_fetches(
    before: str, most: int | None, page_size: int, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(4)
    if before != "nothing":
        await run(sim.api_url, tmp_path)
    if before in {"some originals", "all"}:
        await run(sim.api_url, tmp_path, originals=True, max_downloads=2 if before[0] == "s" else 4)
    options: dict[str, Any] = {"originals": True, "max_downloads": most, "page_size": page_size}
    planned = await plan(sim, tmp_path, **options)
    fetched = await run(sim.api_url, tmp_path, concurrency=1, **options)
    done = sorted((event.id, event.variant) for event in fetched.of(DownloadCompleted))
    assert to_fetch(planned) == done
    assert planned.final.filtered == fetched.final.filtered


def told(ran: Ran) -> dict[tuple[str, str], str | None]:
    """Return where a run put files, or a plan would put them; None: nowhere, it failed."""
    places: dict[tuple[str, str], str | None] = {}
    for event in ran.events:
        match event:
            case DownloadCompleted() | DownloadAdopted() | DownloadFailed():
                places[event.id, event.variant] = getattr(event, "path", None)
            case Planned(action="download" | "resume" | "adopt" | "fail"):
                places[event.id, event.variant] = event.path
            case _:
                pass
    return places


async def check_plan(sim: Simulator, dest: Path, **options: Any) -> Ran:
    """Assert that a dry run tells of what the backfill then does; return the dry run."""
    before = everything(dest)
    planned = await plan(sim, dest, **options)
    assert everything(dest) == before
    check_account(planned.final)
    real = await run(sim.api_url, dest, concurrency=1, **options)
    assert told(planned) == told(real)
    assert planned.exit_code == real.exit_code
    for name in ("records", "already", "failed", "rejected", "filtered"):
        assert getattr(planned.final, name) == getattr(real.final, name), name
    return planned


TWINS = [f"{'a' * 8}-0000-4000-8000-00000000000{n}" for n in range(1, 4)]


@pytest.mark.parametrize("page_size", [1, 200])
@pytest.mark.parametrize("output", ["{stem}/{stem}.{short_id}{ext}", "{short_id}{ext}"])
async def test_a_dry_run_gives_no_two_jobs_one_path(
    output: str, page_size: int, tmp_path: Path, sim: Simulator
) -> None:
    for job in (*TWINS, TWINS[0].upper()):
        sim.add_job("talk.wav", id=job)
    ran = await check_plan(sim, tmp_path, output=output, page_size=page_size, originals=True)
    assert len(set(told(ran).values())) == 8


async def test_a_dry_run_gives_no_job_the_path_of_a_file_that_another_adopts(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job("talk.wav", id=TWINS[0])
    await run(sim.api_url, tmp_path)
    forget(tmp_path)
    for job in TWINS[1:]:
        sim.add_job("talk.wav", id=job)
    ran = await check_plan(sim, tmp_path)
    assert told(ran)[TWINS[0], "denoised"] == short_path("talk.wav", TWINS[0])


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
async def test_a_dry_run_leaves_the_path_of_something_foreign_alone(
    kind: str, tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job("talk.wav")
    foreign = tmp_path / "dest" / short_path("talk.wav", job)
    foreign.parent.mkdir(parents=True)
    match kind:
        case "file":
            foreign.write_bytes(b"mine")
        case "folder":
            foreign.mkdir()
        case _:
            foreign.symlink_to(tmp_path if kind == "link" else tmp_path / "gone")
    ran = await check_plan(sim, tmp_path / "dest")
    assert told(ran) == {(job, "denoised"): f"talk/talk.{job}.wav"}


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "own link"])
@pytest.mark.parametrize("extension", [".wav", ""])
async def test_a_dry_run_tells_what_could_not_be_put_in_its_folder(
    kind: str, extension: str, tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job("talk.wav", serving=Serving(extension=extension))
    other = sim.add_job("other.wav")
    folder = tmp_path / "dest" / "talk"
    folder.parent.mkdir()
    match kind:
        case "file":
            folder.write_bytes(b"mine")
        case "link" | "dangling link":
            folder.symlink_to(tmp_path if kind == "link" else tmp_path / "gone")
        case _:
            folder.symlink_to(".fetcher")
    ran = await check_plan(sim, tmp_path / "dest", originals=True, max_downloads=4)
    failed = {(e.id, e.variant): e.reason for e in ran.of(Planned) if e.action == "fail"}
    assert set(failed) == {(job, "denoised"), (job, "original")}
    assert all(str(folder) in reason for reason in failed.values())
    assert (ran.exit_code, ran.final.failed, ran.final.pending) == (1, 1, 1)
    assert told(ran)[other, "denoised"] == short_path("other.wav", other)


async def test_a_link_to_a_folder_of_the_destination_hinders_no_plan(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job("talk.wav")
    (tmp_path / "inner").mkdir()
    (tmp_path / "talk").symlink_to("inner")
    assert (await check_plan(sim, tmp_path)).exit_code == 0


async def test_a_file_that_failed_for_its_folder_is_planned_anew_with_another_template(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job("talk.wav")
    (tmp_path / "talk").write_bytes(b"mine")
    assert (await run(sim.api_url, tmp_path)).exit_code == 1
    ran = await check_plan(sim, tmp_path, output="{id}{ext}")
    assert told(ran) == {(job, "denoised"): f"{job}.wav"}


def unlist(sim: Simulator, *jobs: str) -> None:
    """Take jobs out of the list, while their links work on."""
    for job in jobs:
        sim.delete(job)
        sim.faults.add(Fault(job=job, times=None, body=song(60_000)))


@pytest.mark.parametrize("now", ["pending", "failed"])
@pytest.mark.parametrize("fault", [{"status": 404}, {"cut_after_bytes": 9_000}])
async def test_a_file_that_failed_fails_no_more_once_the_list_takes_its_job_back(
    tmp_path: Path, sim: Simulator, *, now: str, fault: dict[str, Any]
) -> None:
    """Also where a part of it is here already; and it comes once the job is finished anew."""
    job = sim.add_job(size_bytes=60_000)
    sim.faults.add(Fault("audio", job=job, times=None, **fault))
    assert (await run(sim.api_url, tmp_path, retries=0)).exit_code == 1
    asked = len(sim.audio_requests())
    sim.override(job, status=now, error="no speech" if now == "failed" else None, audio_url=None)
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.final.failed, len(sim.audio_requests())) == (0, 0, asked)
    assert (ran.final.pending, ran.final.rejected) == ((1, 0) if now == "pending" else (0, 1))
    sim.faults.clear()
    sim.override(job, status="success", error=None, audio_url=sim.url(job))
    assert (await run(sim.api_url, tmp_path)).final.downloaded == 1
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize("most", [None, 0, 1, 2])
@pytest.mark.parametrize("match", [(), ("[bc]*",)])
async def test_a_dry_run_tells_of_what_earlier_runs_left_and_the_list_has_lost(
    most: int | None, match: tuple[str, ...], tmp_path: Path, sim: Simulator
) -> None:
    jobs = [sim.add_job(f"{name}.wav", size_bytes=60_000) for name in "abc"]
    sim.faults.add(*(Fault("audio", job=job, times=None, status=500) for job in jobs[:2]))
    sim.faults.add(Fault("audio", job=jobs[2], times=None, cut_after_bytes=9_000))
    assert (await run(sim.api_url, tmp_path, retries=0)).final.failed == 3
    sim.faults.clear()
    sim.add_job("new.wav")
    unlist(sim, *jobs[:2])
    ran = await check_plan(sim, tmp_path, max_downloads=most, match=match)
    assert len({event.id for event in ran.of(Planned)}) == len(ran.of(Planned)) == 4


@pytest.mark.parametrize("is_wanted", [True, False])
@pytest.mark.parametrize("is_listed", [True, False])
async def test_a_dry_run_tells_of_originals_that_an_earlier_run_left(
    tmp_path: Path, sim: Simulator, *, is_listed: bool, is_wanted: bool
) -> None:
    job = sim.add_job("talk.mp4")
    sim.faults.add(Fault("original", job=job, times=None, status=500))
    assert (await run(sim.api_url, tmp_path, originals=True, retries=0)).final.failed == 1
    sim.faults.clear()
    sim.add_job("new.wav")
    if not is_listed:
        unlist(sim, job)
    ran = await check_plan(sim, tmp_path, originals=is_wanted)
    assert ((job, "original") in told(ran)) == is_wanted


async def test_a_dry_run_leaves_out_what_was_given_up_for_good(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job("gone.wav")
    sim.add_job("here.wav")
    sim.faults.add(Fault("audio", job=job, times=None, status=404))
    await run(sim.api_url, tmp_path, retries=0)
    sim.delete(job)
    await run(sim.api_url, tmp_path, retries=0)
    ran = await check_plan(sim, tmp_path)
    assert [event.action for event in ran.of(Planned)] == ["skip"]


@pytest.mark.parametrize("is_over", [False, True])
@pytest.mark.parametrize("now", ["pending", "failed"])
async def test_a_dry_run_counts_a_queued_job_once_that_the_list_takes_back(
    tmp_path: Path, sim: Simulator, *, now: str, is_over: bool
) -> None:
    job = sim.add_job("talk.mp4")
    sim.faults.add(
        *(Fault(kind, job=job, times=None, status=404) for kind in ("audio", "original"))
    )
    await run(sim.api_url, tmp_path, retries=0, originals=True)
    if is_over:
        with closing(Store(tmp_path / ".fetcher" / MANIFEST)) as store:
            store.fail(1, "404", 1, for_good=True)
    sim.faults.clear()
    sim.override(job, status=now)
    sim.add_job("new.wav")
    ran = await check_plan(sim, tmp_path, originals=True)
    assert {job for job, _ in told(ran)} == {sim.ids[0]}
    assert (ran.final.pending, ran.final.rejected) == ((2, 0) if now == "pending" else (1, 1))


async def test_a_dry_run_names_the_old_path_of_a_file_that_is_to_be_mended(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job("talk.wav")
    await run(sim.api_url, tmp_path, output="{stem}.{id}{ext}")
    (tmp_path / f"talk.{job}.wav").write_bytes(b"damaged")
    manifest = tmp_path / ".fetcher" / MANIFEST
    with Reader(manifest) as reader:
        [row] = reader.entries()
    with closing(Store(manifest)) as store:
        assert store.reopen([row.job._replace(audio_url=sim.url(job))], {row.seq}) == [row.seq]
    ran = await check_plan(sim, tmp_path)
    assert told(ran) == {(job, "denoised"): f"talk.{job}.wav"}


async def test_a_plan_is_told_on_the_event_loop(tmp_path: Path, sim: Simulator) -> None:
    """Sinks, such as the queue of an iterator, are not safe to call from a thread."""
    sim.add_jobs(2)
    threads: set[int] = set()
    fetcher = Fetcher(settings(sim.api_url, tmp_path))
    await fetcher.run_plan(lambda _: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize(("status", "exit_code"), [(401, 3), (403, 3), (500, 4)])
async def test_a_dry_run_that_the_api_hinders_ends_as_the_backfill_does(
    status: int, exit_code: int, tmp_path: Path, sim: Simulator
) -> None:
    sim.faults.add(Fault("list", times=None, status=status))
    events: list[Event] = []
    async with Fetcher(settings(sim.api_url, tmp_path, retries=0)) as fetcher:
        async for event in fetcher.plan():
            events.append(event)  # noqa: PERF401 - what came before an error would be lost
    assert names(tmp_path) == []
    assert events[-1] == RunCompleted(exit_code=exit_code, seconds=ANY)
    real = await run(sim.api_url, tmp_path, retries=0)
    told = [event for event in events if isinstance(event, Notice)]
    assert (real.exit_code, real.of(Notice)) == (exit_code, told)
    assert [notice.level for notice in told] == ["ERROR"]


async def test_a_dry_run_that_is_stopped_ends_with_what_it_has_told(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(4)
    events: list[Event] = []
    fetcher = Fetcher(settings(sim.api_url, tmp_path, page_size=2))
    loop = asyncio.get_running_loop()

    def stop_early(event: Event) -> None:
        events.append(event)
        if isinstance(event, Planned):
            loop.call_soon_threadsafe(fetcher.stop.ask, 130)

    final = await fetcher.run_plan(stop_early)
    assert (final.exit_code, events[-1]) == (130, final)
    assert final.records == sum(isinstance(event, Planned) for event in events)


# ---- the destination ---------------------------------------------------------------------


async def test_a_destination_that_is_a_file_is_a_storage_error(
    tmp_path: Path, sim: Simulator
) -> None:
    dest = tmp_path / "file"
    dest.write_bytes(b"mine")
    with pytest.raises(StorageError, match="file stands in the way"):
        await run(sim.api_url, dest)
    assert dest.read_bytes() == b"mine"


@pytest.mark.parametrize("name", [".fetcher", ".fetcher/partial"])
async def test_a_folder_of_fetchers_own_that_is_a_link_is_told_and_not_followed(
    name: str, tmp_path: Path, sim: Simulator
) -> None:
    """What is in these folders is removed when a run ends: it must not be the user's."""
    sim.add_job()
    victim, dest = tmp_path / "victim", tmp_path / "dest"
    victim.mkdir(mode=0o755)
    (victim / "precious.txt").write_text("mine")
    (dest / name).parent.mkdir(parents=True)
    (dest / name).symlink_to(victim)
    before = everything(victim)
    with pytest.raises(StorageError, match="is a link"):
        await run(sim.api_url, dest)
    assert everything(victim) == before


async def test_a_second_run_in_one_process_is_refused(tmp_path: Path, sim: Simulator) -> None:
    sim.add_job(size_bytes=300_000, serving=Serving(rate_bytes_s=300_000))  # held for a second

    raised: list[BaseException] = []
    events: list[Event] = []
    fetcher = Fetcher(settings(sim.api_url, tmp_path))
    async for event in fetcher.backfill():
        if not events:
            with pytest.raises(LockedError, match="backfill") as caught:
                await run(sim.api_url, tmp_path)
            raised.append(caught.value)
        events.append(event)
    assert len(raised) == 1
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize(
    "damage",
    [b"", b"no database at all", b"SQLite format 3\0" + bytes(200)],
    ids=["empty", "text", "a header only"],
)
async def test_a_damaged_manifest_is_named_and_left_as_it_is(
    damage: bytes, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job()
    await run(sim.api_url, tmp_path)
    forget(tmp_path)
    manifest = tmp_path / ".fetcher" / MANIFEST
    manifest.write_bytes(damage)
    with pytest.raises(StorageError, match=MANIFEST):
        await run(sim.api_url, tmp_path)
    assert manifest.read_bytes() == damage


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
async def test_a_destination_that_cannot_be_written_is_a_storage_error(
    tmp_path: Path, sim: Simulator
) -> None:
    os.chmod(tmp_path, 0o500)  # noqa: PTH101 - pathlib is not for coroutines
    try:
        with pytest.raises(StorageError):
            await run(sim.api_url, tmp_path / "dest")
    finally:
        os.chmod(tmp_path, 0o700)  # noqa: PTH101 - as above


# ---- secrets -----------------------------------------------------------------------------


async def test_the_key_and_signatures_stay_out_of_events_and_state(
    tmp_path: Path, sim: Simulator
) -> None:
    jobs = sim.add_jobs(6, size_bytes=50_000)
    sim.faults.add(
        Fault("audio", job=jobs[0], times=None, status=500),
        Fault("audio", job=jobs[1], times=None, status=403),
        Fault("audio", job=jobs[2], times=None, cut_after_bytes=1_000),
        Fault("audio", job=jobs[3], times=None, disconnect=True),
        Fault("audio", job=jobs[4], times=None, status=302, headers={"Location": "ftp://x/?X-S=1"}),
    )
    ran = await run(sim.api_url, tmp_path)
    said = "\n".join(json.dumps(event.fields(), default=str) for event in ran.events)
    assert ran.exit_code == 1
    assert KEY not in said
    assert "Signature" not in said
    assert "X-S=" not in said
    assert all(KEY.encode() not in content for _, _, content in everything(tmp_path).values())
    assert all("x-api-key" not in r.headers for r in sim.requests if r.origin == "host")
    mode = (tmp_path / ".fetcher").stat().st_mode & 0o777
    assert mode == 0o700


async def test_a_part_and_its_journal_hold_no_link(tmp_path: Path, sim: Simulator) -> None:
    job = sim.add_job(size_bytes=50_000, serving=Serving(length="known"))
    sim.faults.add(Fault("audio", job=job, times=None, cut_after_bytes=1_000))
    await run(sim.api_url, tmp_path, retries=0)
    journals = list((tmp_path / ".fetcher" / "partial").glob("*.journal"))
    assert len(journals) == 1
    assert b"http" not in journals[0].read_bytes()


@pytest.mark.parametrize(
    "ids", [("a1b2", "A1B2", "A1b2"), ("A1B2", "a1b2"), ("abcdefgh1", "ABCDEFGH1", "abcdefgh")]
)
async def test_jobs_whose_ids_differ_in_case_alone_have_files_of_their_own(
    ids: tuple[str, ...], tmp_path: Path, sim: Simulator
) -> None:
    for job in ids:
        sim.add_job("talk.wav", id=job)
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.reasons) == (0, [])
    check_mirror(sim, tmp_path)
    assert len({path.lower() for path in files(tmp_path)}) == len(ids)
