"""One file over several runs: what is trusted of its part, and what a crash may leave behind."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import json
import os
import shutil
import threading
import time
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support import (
    allocated_bytes,
    check_mirror,
    eventually,
    files,
    run,
    settings,
    short_path,
    song,
    unfinished,
)

from fetcher.core.proof import Announced, Digest
from fetcher.engine import Fetcher
from fetcher.events import DownloadCompleted, DownloadRetrying, DownloadStarted
from fetcher.files.direct import Writer
from fetcher.files.parts import Part, Parts
from fetcher.simulator import Fault, Serving, SimRequest, Simulator
from fetcher.threads import end_if_called_off
from fetcher.transfers.underway import Underway

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

SIZE = 900_000
CUT = 600_000


async def leave_part(sim: Simulator, dest: Path) -> tuple[str, Path, Path]:
    """Leave the part of a file that was cut; return its job, its data and its journal."""
    job = sim.add_job("talk.wav", size_bytes=SIZE)
    sim.faults.add(Fault("audio", cut_after_bytes=CUT))
    ran = await run(sim.api_url, dest, retries=0)
    assert ran.exit_code == 1
    return job, *part_of(dest)


def part_of(dest: Path) -> tuple[Path, Path]:
    """Return data and journal of the one part that there is."""
    journal, data = (dest / ".fetcher" / "partial" / name for name in unfinished(dest))
    assert (journal.suffix, data.suffix) == (".journal", ".part")
    return data, journal


def cut_tail(data: Path, journal: Path) -> None:
    data.write_bytes(data.read_bytes()[:-1_000])


def zero_tail(data: Path, journal: Path) -> None:
    data.write_bytes(data.read_bytes()[:-1_000] + bytes(1_000))


def flip_first_byte(data: Path, journal: Path) -> None:
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)


def zero_all(data: Path, journal: Path) -> None:
    data.write_bytes(bytes(CUT))


def empty_data(data: Path, journal: Path) -> None:
    data.write_bytes(b"")


def lose_data(data: Path, journal: Path) -> None:
    data.unlink()


def lose_journal(data: Path, journal: Path) -> None:
    journal.unlink()


def empty_journal(data: Path, journal: Path) -> None:
    journal.write_bytes(b"")


def garble_journal(data: Path, journal: Path) -> None:
    journal.write_bytes(b"\x00\xff" * 500)


def tear_journal(data: Path, journal: Path) -> None:
    journal.write_bytes(journal.read_bytes()[:-30])


def zero_journals_tail(data: Path, journal: Path) -> None:
    content = journal.read_bytes()
    journal.write_bytes(content[:-30] + bytes(30))


def boast_in_journal(data: Path, journal: Path) -> None:
    """Add a line that claims more than there is."""
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    journal.write_bytes(journal.read_bytes() + f"{SIZE} {digest}\n".encode())


def append_rubbish(data: Path, journal: Path) -> None:
    data.write_bytes(data.read_bytes() + b"rubbish" * 1_000)


def grow_beyond_the_file(data: Path, journal: Path) -> None:
    data.write_bytes(data.read_bytes() + bytes(SIZE))


def another_format(data: Path, journal: Path) -> None:
    head, _, rest = journal.read_bytes().partition(b"\n")
    said = json.loads(head) | {"format": 999}
    journal.write_bytes(json.dumps(said).encode() + b"\n" + rest)


def called(damage: Callable[[Path, Path], None] | None) -> str:
    return "undamaged" if damage is None else damage.__name__


DAMAGES: tuple[Callable[[Path, Path], None], ...] = (
    cut_tail,
    zero_tail,
    flip_first_byte,
    zero_all,
    empty_data,
    lose_data,
    lose_journal,
    empty_journal,
    garble_journal,
    tear_journal,
    zero_journals_tail,
    boast_in_journal,
    append_rubbish,
    grow_beyond_the_file,
    another_format,
)


@pytest.mark.parametrize("sent_first", [None, 100_001], ids=["in one go", "in two gos"])
async def test_most_of_a_large_file_goes_past_the_page_cache(
    sent_first: int | None, tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct_bytes = 0
    real = Writer._write_directly

    def spy(self: Writer, view: memoryview, offset: int) -> int:
        nonlocal direct_bytes
        written = real(self, view, offset)
        direct_bytes += written
        return written

    monkeypatch.setattr(Writer, "_write_directly", spy)
    sim.add_job("talk.wav", size_bytes=6_000_000)
    if sent_first is not None:
        sim.faults.add(Fault("audio", cut_after_bytes=sent_first))
        assert (await run(sim.api_url, tmp_path, retries=0)).exit_code == 1
    assert (await run(sim.api_url, tmp_path)).exit_code == 0
    check_mirror(sim, tmp_path)
    assert direct_bytes > 4_000_000


async def test_a_whole_part_is_trusted_to_its_last_byte(tmp_path: Path, sim: Simulator) -> None:
    await leave_part(sim, tmp_path)
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.final.bytes_fetched) == (0, SIZE - CUT)
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.__name__ for damage in DAMAGES])
async def test_a_damaged_part_never_gives_a_wrong_file(
    damage: Callable[[Path, Path], None], tmp_path: Path, sim: Simulator
) -> None:
    _, data, journal = await leave_part(sim, tmp_path)
    damage(data, journal)
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.reasons) == (0, [])
    check_mirror(sim, tmp_path)
    [started] = ran.of(DownloadStarted)
    assert ran.final.bytes_fetched == SIZE - started.resumed_from


@pytest.mark.parametrize("damage", [cut_tail, zero_tail, tear_journal, append_rubbish])
async def test_a_lost_tail_costs_no_more_than_a_megabyte(
    damage: Callable[[Path, Path], None], tmp_path: Path, sim: Simulator
) -> None:
    """The journal proves a prefix: what lies before the damage is not fetched again."""
    sim.add_job(size_bytes=6_000_000)
    sim.faults.add(Fault("audio", cut_after_bytes=5_000_000))
    await run(sim.api_url, tmp_path, retries=0)
    damage(*part_of(tmp_path))
    ran = await run(sim.api_url, tmp_path)
    [started] = ran.of(DownloadStarted)
    assert ran.exit_code == 0
    assert started.resumed_from >= 5_000_000 - 1_000 - (1 << 20)
    check_mirror(sim, tmp_path)


async def test_the_host_is_asked_while_the_part_is_proven(
    tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave_part(sim, tmp_path)
    asked, was_asked_first = threading.Event(), []
    prove = Parts.recover

    def slowly(parts: Parts, key: str) -> Part | None:
        was_asked_first.append(asked.wait(10))
        return prove(parts, key)

    def note(request: SimRequest) -> bool:
        asked.set()
        return False

    monkeypatch.setattr(Parts, "recover", slowly)
    sim.faults.add(Fault("audio", when=note))
    ran = await run(sim.api_url, tmp_path)
    assert was_asked_first == [True]
    assert (ran.exit_code, ran.final.bytes_fetched) == (0, SIZE - CUT)
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize(
    "trouble",
    [
        {"status": 403},
        {"status": 503},
        {"status": 416},
        {"disconnect": True},
        {"ignore_range": True},
        {"change_file": True},
        {"html": True},
        {"headers": {"ETag": None}},
        {"content_range": "bytes 5-899999/900000"},
        {"cut_after_bytes": 10_000},
    ],
    ids="-".join,
)
@pytest.mark.parametrize("damage", [None, cut_tail, zero_all, lose_data], ids=called)
async def test_whatever_answers_before_the_proof_has_ended_the_file_is_right(
    damage: Callable[[Path, Path], None] | None,
    trouble: dict[str, Any],
    tmp_path: Path,
    sim: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, data, journal = await leave_part(sim, tmp_path)
    if damage is not None:
        damage(data, journal)
    prove = Parts.recover

    def slowly(parts: Parts, key: str) -> Part | None:
        time.sleep(0.05)
        return prove(parts, key)

    monkeypatch.setattr(Parts, "recover", slowly)
    sim.faults.add(Fault("audio", **trouble))
    ran = await run(sim.api_url, tmp_path, retry_delay=0.01)
    assert (ran.exit_code, ran.reasons) == (0, [])
    check_mirror(sim, tmp_path)
    assert unfinished(tmp_path) == []


@pytest.mark.parametrize("status", [429, 503])
async def test_a_host_is_left_alone_from_its_answer_on_however_long_the_proof_takes(
    status: int, tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _, _ = await leave_part(sim, tmp_path)
    for n in range(30):
        sim.add_job(created_at=n)  # long ago: they come last
    asked, prove = threading.Event(), Parts.recover

    def slowly(parts: Parts, key: str) -> Part | None:
        asked.wait(10)
        time.sleep(0.4)
        return prove(parts, key)

    def note(request: SimRequest) -> bool:
        asked.set()
        return True

    monkeypatch.setattr(Parts, "recover", slowly)
    busy = {"Retry-After": "0.5"}
    sim.faults.add(Fault("audio", job=job, status=status, headers=busy, when=note))
    ran = await run(sim.api_url, tmp_path, concurrency=4)
    [refused] = [r for r in sim.audio_requests() if r.status == status]
    [retrying] = ran.of(DownloadRetrying)
    asked_s = [r.at_s - refused.at_s for r in sim.audio_requests()]
    assert ran.exit_code == 0
    assert sum(0 < at_s < 0.5 for at_s in asked_s) <= 3  # those that were on their way
    assert retrying.delay < 0.5  # counted from the answer, not from the end of the proof
    check_mirror(sim, tmp_path)


async def test_a_stop_does_not_wait_for_a_proof(
    tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave_part(sim, tmp_path)
    before = files(tmp_path / ".fetcher" / "partial")
    proving, ended = threading.Event(), []

    def endlessly(parts: Parts, key: str) -> Part | None:
        proving.set()
        try:
            for _ in range(1000):
                end_if_called_off()
                time.sleep(0.01)
        finally:
            ended.append(key)
        return None

    monkeypatch.setattr(Parts, "recover", endlessly)
    sim.faults.add(Fault("audio", delay_s=60.0))
    fetcher = Fetcher(settings(sim.api_url, tmp_path))
    running = asyncio.create_task(fetcher.run_backfill(lambda _: None))
    await eventually(proving.is_set)
    fetcher.stop.ask(130)
    final = await asyncio.wait_for(running, 3)
    assert (final.exit_code, len(ended)) == (130, 1)
    assert files(tmp_path / ".fetcher" / "partial") == before


async def test_a_part_that_is_a_link_is_not_written_through(tmp_path: Path, sim: Simulator) -> None:
    _, data, _ = await leave_part(sim, tmp_path)
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    data.unlink()
    data.symlink_to(precious)
    await run(sim.api_url, tmp_path)
    assert (tmp_path / "precious").read_bytes() == b"mine"


async def test_a_part_that_is_complete_asks_for_nothing(tmp_path: Path, sim: Simulator) -> None:
    """Killed between the last byte and the rename."""
    job, data, journal = await leave_part(sim, tmp_path)
    whole = sim.content(job)
    data.write_bytes(whole)
    with journal.open("ab") as log:
        log.write(f"{SIZE} {hashlib.sha256(whole).hexdigest()}\n".encode())
    asked = len(sim.audio_requests())
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, len(sim.audio_requests())) == (0, asked)
    [done] = ran.of(DownloadCompleted)
    assert (done.bytes, done.bytes_fetched) == (SIZE, 0)
    check_mirror(sim, tmp_path)


async def test_a_complete_part_of_wrong_bytes_is_not_put_in_place(
    tmp_path: Path, sim: Simulator
) -> None:
    """The journal may be right about rubbish; the host's digest is not."""
    sim.serving = Serving(digests=("repr-digest",))
    job, data, journal = await leave_part(sim, tmp_path)
    wrong = bytearray(sim.content(job))
    wrong[-1] ^= 1
    data.write_bytes(wrong)
    with journal.open("ab") as log:
        log.write(f"{SIZE} {hashlib.sha256(wrong).hexdigest()}\n".encode())
    ran = await run(sim.api_url, tmp_path)
    assert ran.exit_code == 0
    check_mirror(sim, tmp_path)


async def test_a_digest_of_the_first_answer_is_remembered_over_runs(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.serving = Serving(digests=("content-md5",), digest_wrong=True)
    await leave_part(sim, tmp_path)
    sim.serving = Serving()
    ran = await run(sim.api_url, tmp_path)
    assert "md5" in ran.retried[0]
    assert ran.exit_code == 0
    check_mirror(sim, tmp_path)


async def test_a_file_that_changed_between_runs_is_fetched_from_its_start(
    tmp_path: Path, sim: Simulator
) -> None:
    job, *_ = await leave_part(sim, tmp_path)
    sim.change(job)
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.final.bytes_fetched) == (0, SIZE)
    check_mirror(sim, tmp_path)


async def test_a_file_that_shrank_below_its_part_is_fetched_from_its_start(
    tmp_path: Path, sim: Simulator
) -> None:
    job, *_ = await leave_part(sim, tmp_path)
    sim.change(job, content=song(10_000))
    ran = await run(sim.api_url, tmp_path)
    assert ran.exit_code == 0
    check_mirror(sim, tmp_path)


async def test_the_part_of_a_job_that_is_gone_fails_and_keeps_its_reason(
    tmp_path: Path, sim: Simulator
) -> None:
    job, *_ = await leave_part(sim, tmp_path)
    sim.add_job("other.wav")
    sim.delete(job)
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.final.downloaded, ran.final.failed) == (1, 1, 1)
    assert "404" in ran.reasons[0]


async def test_nothing_unfinished_is_ever_visible(tmp_path: Path, sim: Simulator) -> None:
    await leave_part(sim, tmp_path)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("fields", [{}, {"updated_at": None}], ids=["updated", "never updated"])
async def test_a_crash_between_rename_and_record_is_adopted(
    fields: dict[str, Any], tmp_path: Path, sim: Simulator
) -> None:
    """The file is in place, the manifest does not know: as after a kill at that moment."""
    sim.add_job("before.wav")
    await run(sim.api_url, tmp_path)
    state = tmp_path / ".fetcher"
    kept = tmp_path.parent / "kept"
    shutil.copytree(state, kept)
    for job in sim.add_jobs(4):
        sim.override(job, **fields)
    await run(sim.api_url, tmp_path)
    shutil.rmtree(state)
    shutil.move(kept, state)
    asked = len(sim.audio_requests())
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.final.adopted, ran.final.already) == (0, 4, 1)
    assert len(sim.audio_requests()) == asked
    check_mirror(sim, tmp_path)


async def test_rubbish_among_the_parts_is_swept_after_a_whole_run(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job()
    await run(sim.api_url, tmp_path)
    partial = tmp_path / ".fetcher" / "partial"
    (partial / "stranger.part").write_bytes(b"x")
    (partial / "x.journal.new").write_bytes(b"x")
    assert (await run(sim.api_url, tmp_path)).exit_code == 0
    assert unfinished(tmp_path) == []


async def test_jobs_whose_ids_make_odd_file_names_keep_parts_of_their_own(
    tmp_path: Path, sim: Simulator
) -> None:
    odd = ["../../evil", "a/b", "A" * 190, "..", "con", "ä b", "x.part"]
    for job in odd:
        sim.add_job("talk.wav", id=job, size_bytes=60_000)
    sim.faults.add(Fault("audio", times=len(odd), cut_after_bytes=20_000))
    first = await run(sim.api_url, tmp_path, retries=0)
    assert first.final.failed >= 1
    second = await run(sim.api_url, tmp_path)
    assert second.exit_code == 0
    check_mirror(sim, tmp_path)
    assert second.final.bytes_fetched <= len(odd) * 40_000


@pytest.mark.parametrize(
    ("serving", "name"),
    [
        (Serving(content_type="audio/mpeg", extension=".mp3"), "talk.mp3"),
        (Serving(content_type="audio/mp4", extension=""), "talk.m4a"),
        (Serving(content_type="application/octet-stream", extension=".flac"), "talk.flac"),
        (Serving(content_type=None, extension=""), "talk.wav"),
    ],
    ids=["of the link", "of the type", "of the link before the type", "of the bytes"],
)
async def test_the_extension_is_of_the_audio_that_came(
    serving: Serving, name: str, tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job("talk.mov", serving=serving)
    ran = await run(sim.api_url, tmp_path, check_duration="off")
    ext = "." + name.rpartition(".")[2]
    assert ran.exit_code == 0
    assert list(files(tmp_path)) == [short_path("talk.mov", job, ext)]


# ---- a large file over several lines -----------------------------------------------------

LARGE = 5_000_000
LINES = {"connections": 4, "concurrency": 4}
SLOW_LINE = Serving(rate_bytes_s=1_200_000)


def is_extra(request: SimRequest) -> bool:
    """Say whether a request is for a stretch in the middle, over a line of its own."""
    return request.range is not None and not request.range.endswith("-")


async def test_a_large_file_on_a_slow_line_is_fetched_over_several(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job(size_bytes=LARGE, serving=SLOW_LINE)
    ran = await run(sim.api_url, tmp_path, **LINES)
    assert ran.exit_code == 0
    assert sum(is_extra(r) for r in sim.audio_requests()) >= 1
    assert ran.final.bytes_fetched <= LARGE + (1 << 20)
    check_mirror(sim, tmp_path)


async def test_whatever_befalls_extra_lines_the_file_is_right(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job(size_bytes=LARGE, serving=SLOW_LINE)
    lies: tuple[dict[str, Any], ...] = (
        {"headers": {"ETag": '"another"'}},
        {"headers": {"Content-Digest": "md5=:AAAAAAAAAAAAAAAAAAAAAA==:"}},
        {"cut_after_bytes": 400_000},
        {"content_range": f"bytes 0-{LARGE - 1}/{LARGE}"},
    )
    sim.faults.add(*(Fault("audio", when=is_extra, after=n, **lie) for n, lie in enumerate(lies)))
    ran = await run(sim.api_url, tmp_path, **LINES)
    assert (ran.exit_code, ran.reasons) == (0, [])
    check_mirror(sim, tmp_path)


async def test_extra_lines_that_are_refused_hold_the_host_and_are_opened_again_later(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job(size_bytes=2 * LARGE, serving=SLOW_LINE)
    busy = {"Retry-After": "1.5"}
    sim.faults.add(Fault("audio", times=3, when=is_extra, status=429, headers=busy))
    ran = await run(sim.api_url, tmp_path, **LINES)
    assert (ran.exit_code, ran.retried) == (0, [])
    extra = [r for r in sim.audio_requests(job) if is_extra(r)]
    refused_at_s = [r.at_s for r in extra if r.status == 429]
    asked_again_at_s = [r.at_s for r in extra if r.status == 206]
    assert asked_again_at_s
    assert min(asked_again_at_s) - min(refused_at_s) >= 1.5
    check_mirror(sim, tmp_path)


async def test_extra_lines_that_are_refused_for_too_long_are_not_opened_again(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job(size_bytes=LARGE, serving=SLOW_LINE)
    busy = {"Retry-After": "1200"}
    sim.faults.add(Fault("audio", times=None, when=is_extra, status=429, headers=busy))
    ran = await run(sim.api_url, tmp_path, **LINES)
    assert (ran.exit_code, ran.retried) == (0, [])
    assert sum(is_extra(r) for r in sim.audio_requests(job)) == LINES["connections"] - 1
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize("field", ["Repr-Digest", "x-goog-hash", "Content-MD5"])
async def test_a_digest_of_the_whole_that_only_extra_lines_bring_is_held_against_the_file(
    field: str, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job(size_bytes=LARGE, serving=SLOW_LINE)
    md5 = base64.b64encode(hashlib.md5(b"another file").digest()).decode()
    said = {"Repr-Digest": f"md5=:{md5}:", "x-goog-hash": f"md5={md5}", "Content-MD5": md5}
    sim.faults.add(Fault("audio", times=None, when=is_extra, headers={field: said[field]}))
    ran = await run(sim.api_url, tmp_path, retries=0, **LINES)
    assert ran.exit_code == 1
    assert "does not match" in ran.reasons[0]
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("audio", when=is_extra, cut_after_bytes=300_000),
        Fault("audio", when=lambda one: one.range is not None and not is_extra(one), times=None),
    ],
    ids=["an extra line that is cut", "the own line that is taken over"],
)
async def test_a_digest_of_what_came_over_more_than_one_line_is_held_against_the_file(
    fault: Fault, tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job(size_bytes=LARGE, serving=SLOW_LINE)
    sim.faults.add(Fault("audio", cut_after_bytes=100_000))
    await run(sim.api_url, tmp_path, retries=0)
    headers = {"Content-Digest": "md5=:AAAAAAAAAAAAAAAAAAAAAA==:"}
    sim.faults.add(replace(fault, headers=headers))
    ran = await run(sim.api_url, tmp_path, retries=0, **LINES)
    assert sum(is_extra(r) for r in sim.audio_requests()) >= 1
    assert ran.exit_code == 1
    assert "does not match" in ran.reasons[0]
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    ("spans", "kept"),
    [
        ([(start, 900) for start in range(100, 900, 100)], [(100, 900)]),
        ([(100, 200), (300, 400), (320, 380)], [(100, 200), (300, 400)]),
        ([(n, n + 1) for n in range(500)], [(n, n + 1) for n in range(16)]),
    ],
    ids=["each the rest of the file", "one within another", "very many"],
)
def test_few_answers_that_were_cut_are_held_against_the_file(
    spans: list[tuple[int, int]], kept: list[tuple[int, int]]
) -> None:
    """Each is read again at the end: none that lies within another, and no more than sixteen."""
    unused: Any = None
    file = Underway(unused, "key", unused)
    said = Announced(part=(Digest("md5", bytes(16), "content-digest"),))
    for start, end in spans:
        file.hear(said, start, end)
    assert [(one.start, one.end) for one in file.spans] == kept
    assert file.hear(Announced(), 1000, 2000) is None
    assert len(file.spans) == len(kept)


async def test_a_file_whose_pieces_are_damaged_is_fetched_again_in_one(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_job(size_bytes=LARGE, serving=SLOW_LINE)
    wrong = base64.b64encode(hashlib.md5(b"another file").digest()).decode()
    headers = {"Repr-Digest": f"md5=:{wrong}:"}
    sim.faults.add(Fault("audio", times=None, when=is_extra, headers=headers))
    ran = await run(sim.api_url, tmp_path, retries=1, **LINES)
    assert (ran.exit_code, ran.reasons) == (0, [])
    check_mirror(sim, tmp_path)


@pytest.mark.parametrize(
    ("damage", "change"),
    [(False, False), (False, True), (True, False)],
    ids=["as they were", "of a changed file", "damaged"],
)
async def test_stretches_that_a_stop_left_are_gone_on_with_but_never_trusted_blindly(
    damage: bool, change: bool, tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job(size_bytes=LARGE, serving=SLOW_LINE)
    fetcher = Fetcher(settings(sim.api_url, tmp_path, **LINES))
    stopping = asyncio.create_task(fetcher.run_backfill(lambda _: None))
    await eventually(lambda: sum(held_bytes(tmp_path)) > 2_000_000)
    fetcher.stop.ask(143)
    first = await stopping
    held = sum(held_bytes(tmp_path))
    assert (first.exit_code, len(held_bytes(tmp_path)) > 1) == (143, True)
    if damage:
        [data] = (tmp_path / ".fetcher" / "partial").glob("*.part")
        for start in stretch_starts(tmp_path):
            flip(data, start + 100)
    if change:
        sim.change(job)
    sim.serve(job, Serving())
    second = await run(sim.api_url, tmp_path, **LINES)
    assert second.exit_code == 0
    check_mirror(sim, tmp_path)
    if not damage and not change:
        assert second.final.bytes_fetched <= LARGE - held + (1 << 20)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(Serving(length="chunked"), id="no length"),
        pytest.param(Serving(last_modified=False), id="no date"),
    ],
)
async def test_stretches_are_gone_on_with_though_the_first_answer_said_less(
    first: Serving, tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job(size_bytes=LARGE, serving=first)
    sim.faults.add(Fault("audio", cut_after_bytes=CUT))
    assert (await run(sim.api_url, tmp_path, retries=0)).exit_code == 1
    sim.serve(job, SLOW_LINE)
    fetcher = Fetcher(settings(sim.api_url, tmp_path, **LINES))
    stopping = asyncio.create_task(fetcher.run_backfill(lambda _: None))
    await eventually(lambda: sum(held_bytes(tmp_path)) > 2_000_000)
    fetcher.stop.ask(143)
    await stopping
    held = held_bytes(tmp_path)
    assert len(held) > 1
    sim.serve(job, Serving())
    last = await run(sim.api_url, tmp_path, **LINES)
    assert (last.exit_code, last.final.bytes_fetched) == (0, LARGE - sum(held))
    check_mirror(sim, tmp_path)


def journals(dest: Path) -> list[Path]:
    """Return the journals of all lines of unfinished files."""
    return sorted((dest / ".fetcher" / "partial").glob("*.journal"))


def held_bytes(dest: Path) -> list[int]:
    """Return how much each line has brought, as its journal says."""
    lines = [path.read_bytes().splitlines()[-1] for path in journals(dest)]
    return [int(line.split()[0]) for line in lines if line[:1].isdigit()]


def stretch_starts(dest: Path) -> list[int]:
    """Return where lines in the middle of the file began."""
    return [int(path.stem.rpartition("@")[2]) for path in journals(dest) if "@" in path.stem]


def flip(data: Path, offset: int) -> None:
    with data.open("r+b") as file:
        file.seek(offset)
        [byte] = file.read(1) or b"\0"
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("size_bytes", [50_000, 400_000], ids=["small", "large"])
async def test_what_was_fetched_is_let_go_of_without_the_collector(
    tmp_path: Path, sim: Simulator, size_bytes: int
) -> None:
    """Objects that keep each other, and a file's bytes, wait for it: 200 MB of small files."""
    sim.add_jobs(20, size_bytes=size_bytes)
    gc.collect()
    gc.disable()
    try:
        ran = await run(sim.api_url, tmp_path)
        left = [one for one in gc.get_objects() if isinstance(one, Underway)]
    finally:
        gc.enable()
    assert (ran.exit_code, left) == (0, [])


@pytest.mark.parametrize("how", ["it stalls", "it breaks off"])
async def test_what_came_is_made_durable_although_nothing_more_comes(
    how: str, tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut during a long silence, or a long wait, costs what came since 5 s before."""
    synced: list[int] = []
    real = Part.checkpoint

    def spy(self: Part, threads: Executor) -> None:
        synced.append(self.bytes_written)
        real(self, threads)

    monkeypatch.setattr(Part, "checkpoint", spy)
    monkeypatch.setattr("fetcher.transfers.receive.SYNC_AFTER_S", 0.2)
    sim.add_job(size_bytes=2_000_000)
    is_stall = how == "it stalls"
    sim.faults.add(
        Fault("audio", stall_after_bytes=CUT) if is_stall else Fault("audio", cut_after_bytes=CUT)
    )
    fetcher = Fetcher(settings(sim.api_url, tmp_path, retry_delay=30, connections=1))
    running = asyncio.create_task(fetcher.run_backfill(lambda _: None))
    await eventually(lambda: bool(synced) and synced[-1] == CUT)
    fetcher.stop.ask(143)
    await running


async def test_splitting_takes_no_more_room_than_the_file(tmp_path: Path, sim: Simulator) -> None:
    """Stretches lie where they belong: nothing is ever on disk twice."""
    sim.add_job(size_bytes=LARGE, serving=SLOW_LINE)
    partial = tmp_path / ".fetcher" / "partial"
    seen: list[int] = []

    def watch() -> bool:
        seen.append(allocated_bytes(partial))
        return task.done()

    task = asyncio.create_task(run(sim.api_url, tmp_path, **LINES))
    await eventually(watch)
    assert (await task).exit_code == 0
    check_mirror(sim, tmp_path)
    assert LARGE / 2 < max(seen) < LARGE + (1 << 20)


async def test_a_stretch_is_forgotten_once_the_part_that_holds_it_is_durable(
    tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract 5.2: a power cut at any moment costs no byte that was durable before."""
    done: list[str] = []
    real_sync, real_forget = Part.sync, Parts.forget_stretch

    def sync(self: Part) -> None:
        real_sync(self)
        done.append("durable")

    def forget(self: Parts, key: str, start: int) -> None:
        done.append("forgotten")
        real_forget(self, key, start)

    monkeypatch.setattr(Part, "sync", sync)
    monkeypatch.setattr(Parts, "forget_stretch", forget)
    sim.add_job(size_bytes=LARGE, serving=SLOW_LINE)
    assert (await run(sim.api_url, tmp_path, **LINES)).exit_code == 0
    assert "forgotten" in done
    assert all(before == "durable" for before, after in pairwise(done) if after == "forgotten")


@pytest.mark.parametrize(
    ("files_at_a_time", "lines_a_file", "most"),
    [(4, 8, 8), (8, 4, 8), (1, 4, 4), (4, 1, 2)],
    ids=["more lines than files", "more files than lines", "one file", "no extra lines"],
)
async def test_all_lines_together_are_never_more_than_files_or_one_files_lines_may_be(
    files_at_a_time: int, lines_a_file: int, most: int, tmp_path: Path, sim: Simulator
) -> None:
    """`-j 1 -x 4` is one file at a time, over four lines, as users of aria2c would expect."""
    for _ in range(2):
        sim.add_job(size_bytes=LARGE, serving=SLOW_LINE)
    at_once: list[int] = []

    def watch() -> bool:
        at_once.append(sum(request.status == 0 for request in sim.audio_requests()))
        return task.done()

    lines = {"concurrency": files_at_a_time, "connections": lines_a_file}
    task = asyncio.create_task(run(sim.api_url, tmp_path, **lines))
    await eventually(watch)
    assert (await task).exit_code == 0
    assert most / 2 < max(at_once) <= most


@pytest.mark.parametrize(
    ("serving", "taken_at"),
    [(Serving(length="chunked"), LARGE / 4), (SLOW_LINE, LARGE / 4), (SLOW_LINE, LARGE * 0.7)],
    ids=["a body of unknown length", "several lines", "several lines, the own one is done"],
)
async def test_no_body_fills_the_disk_below_min_free(
    serving: Serving,
    taken_at: float,
    tmp_path: Path,
    sim: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Contract 2, `--min-free`; on the way others take most of the room that there was."""
    keep, partial = 10_000_000, tmp_path / ".fetcher" / "partial"
    room, seen = [keep + 2 * LARGE], []

    def statvfs(_: object) -> SimpleNamespace:
        used = allocated_bytes(partial)
        if used > taken_at:
            room[0] = min(room[0], keep + used + LARGE // 5)  # more than three lines hold
        seen.append(room[0] - used)
        return SimpleNamespace(f_bavail=seen[-1], f_frsize=1, f_blocks=2**60)

    monkeypatch.setattr(os, "statvfs", statvfs)
    sim.add_job(size_bytes=LARGE, serving=serving)
    sim.faults.add(Fault("audio", times=None, when=is_extra, rate_bytes_s=400_000))
    ran = await run(sim.api_url, tmp_path, min_free=keep, **LINES)
    assert ran.exit_code == 6
    assert min(seen) >= keep
    monkeypatch.undo()
    sim.faults.clear()
    assert (await run(sim.api_url, tmp_path, **LINES)).exit_code == 0
    check_mirror(sim, tmp_path)
