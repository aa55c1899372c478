"""`fetcher verify` tells what is not whole on disk; `--repair` brings it back, losing nothing."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from manifests import Shelf, job
from support import KEY, check_account, files, run, settings, unfinished

from fetcher import cli
from fetcher.commands import Environment
from fetcher.engine import STOPPED_BY_SIGINT, STOPPED_BY_SIGTERM, Fetcher
from fetcher.errors import LockedError
from fetcher.events import (
    DownloadFailed,
    DownloadStarted,
    Event,
    FileDamaged,
    Notice,
    RunCompleted,
    VerifyCompleted,
    VerifyProgress,
)
from fetcher.files.locks import held
from fetcher.manifest.reader import Reader
from fetcher.manifest.store import Store
from fetcher.models import State, Variant
from fetcher.report.pace import Pace
from fetcher.runs.assembly import destination_of
from fetcher.simulator import Fault
from fetcher.verify import Check, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fetcher.models import Entry
    from fetcher.simulator import Simulator
    from fetcher.simulator.log import SimRequest


@dataclass(slots=True)
class Verified:
    """A verification that has ended."""

    events: list[Event]
    final: RunCompleted

    @property
    def found(self) -> dict[str, str]:
        """Return the problem of each file that was not whole, by its path."""
        return {one.path: one.problem for one in self.events if isinstance(one, FileDamaged)}

    @property
    def completed(self) -> VerifyCompleted:
        """Return what was counted."""
        (one,) = (event for event in self.events if isinstance(event, VerifyCompleted))
        return one

    @property
    def reasons(self) -> list[str]:
        """Return why files could not be mended."""
        return [one.reason for one in self.events if isinstance(one, DownloadFailed)]


async def verified(api_url: str, dest: Path, *, repair: bool = False, **options: Any) -> Verified:
    """Verify and check what is true of every verification."""
    events: list[Event] = []
    final = await verify(Fetcher(settings(api_url, dest, **options)), events.append, repair=repair)
    check_account(final)
    assert events[-1] is final
    outcome = Verified(events, final)
    counts = outcome.completed
    assert counts.files == counts.intact + counts.missing + counts.damaged + counts.foreign
    return outcome


def entries(dest: Path) -> list[Entry]:
    with Reader(dest / ".fetcher" / "manifest.db") as reader:
        return list(reader.entries())


def rot(path: Path) -> None:
    """Change a byte of a file as a bad disk does: size and time stay."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def become_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def become_dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES = [
    (rot, "damaged"),
    (cut, "damaged"),
    (lambda path: path.write_bytes(b""), "damaged"),
    (lambda path: path.unlink(), "missing"),
    (lambda path: (path.unlink(), path.parent.rmdir()), "missing"),
    (become_folder, "foreign"),
    (become_link, "foreign"),
    (become_dangling, "foreign"),
]
IDS = ["rot", "cut", "empty", "deleted", "folder deleted", "a folder", "a link", "a dangling link"]


async def one_file(sim: Simulator, dest: Path, name: str = "talk.wav") -> tuple[str, Path]:
    """Bring one job home and return its id and its file."""
    job_id = sim.add_job(name)
    assert (await run(sim.api_url, dest)).exit_code == 0
    (path,) = files(dest)
    return job_id, dest / path


# ---- checking ----------------------------------------------------------------------------


async def test_whole_files_are_told_as_such(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(70, size_bytes=1000)
    sim.add_job("b.wav", status="pending")
    await run(sim.api_url, tmp_path)
    outcome = await verified(sim.api_url, tmp_path)
    assert replace(outcome.completed, seconds=0) == VerifyCompleted(
        files=70, intact=70, bytes=sum(len(data) for data in files(tmp_path).values())
    )
    assert (outcome.final.exit_code, outcome.final.records, outcome.final.already) == (0, 70, 70)
    assert outcome.final.bytes == 0
    progress = [one for one in outcome.events if isinstance(one, VerifyProgress)]
    assert (progress[-1].files_done, progress[-1].files_total) == (70, 70)


@pytest.mark.parametrize(("damage", "problem"), DAMAGES, ids=IDS)
async def test_each_damage_has_its_name(
    sim: Simulator, tmp_path: Path, damage: Callable[[Path], object], problem: str
) -> None:
    sim.add_job("whole.wav")
    await run(sim.api_url, tmp_path)
    sim.add_job("talk.wav")
    await run(sim.api_url, tmp_path)
    (path,) = (path for path in files(tmp_path) if "talk" in path)
    damage(tmp_path / path)
    before = files(tmp_path)
    outcome = await verified(sim.api_url, tmp_path)
    assert outcome.found == {path: problem}
    assert (outcome.final.exit_code, outcome.final.already, outcome.final.failed) == (1, 1, 1)
    assert files(tmp_path) == before


async def test_a_folder_that_is_a_link_out_of_the_destination_is_foreign(
    sim: Simulator, tmp_path: Path
) -> None:
    dest, outside = tmp_path / "dest", tmp_path / "outside"
    _, path = await one_file(sim, dest)
    path.parent.rename(outside)
    path.parent.symlink_to(outside)
    outcome = await verified(sim.api_url, dest)
    assert set(outcome.found.values()) == {"foreign"}


async def test_files_that_never_were_complete_are_not_looked_for(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "dest")
    waiting, failed = job(1), job(2)
    shelf.add(waiting, failed)
    shelf.fail(failed, "404")
    outcome = await verified("http://127.0.0.1:9", shelf.dest)
    assert (outcome.completed.files, outcome.final.exit_code) == (0, 0)


async def test_a_file_that_is_moved_while_it_is_checked_is_no_damage(tmp_path: Path) -> None:
    shelf, one = Shelf(tmp_path), job(1)
    shelf.add(one)
    good = b"whole"
    (tmp_path / "old.wav").write_bytes(b"wrong")
    (tmp_path / "new.wav").write_bytes(good)
    sha256 = hashlib.sha256(good).hexdigest()
    shelf.complete(one, "old.wav", bytes_stored=len(good), sha256=sha256)

    def somebody_moves_it() -> bool:
        shelf.complete(one, "new.wav", bytes_stored=len(good), sha256=sha256)
        return False

    events: list[Event] = []
    destination = destination_of(settings("http://127.0.0.1:9", tmp_path))
    check = Check(destination, events.append, somebody_moves_it, is_alone=False)
    await check.run()
    assert (check.broken, check.completed(0, 0).intact) == ({}, 1)


async def test_checking_stops_at_once_when_asked(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(3)
    await run(sim.api_url, tmp_path)
    fetcher = Fetcher(settings(sim.api_url, tmp_path))
    fetcher.stop.ask(STOPPED_BY_SIGINT)
    events: list[Event] = []
    final = await verify(fetcher, events.append)
    assert (final.exit_code, final.records) == (130, 0)
    assert events[-1] is final


def test_progress_is_shown_as_that_of_a_download() -> None:
    now_s = 0.0
    pace = Pace(lambda: now_s)
    pace(VerifyProgress(0, 100, 0))
    for n in range(1, 41):
        now_s = n / 10
        pace(VerifyProgress(n, 100, n * 1000))
    progress = pace.progress()
    assert (progress.settled_files, progress.known_files, progress.bytes_arrived) == (
        40,
        100,
        40_000,
    )
    assert progress.rate_bytes_s == pytest.approx(10_000, rel=0.05)
    assert progress.left_s == pytest.approx(6, rel=0.05)


# ---- mending -----------------------------------------------------------------------------


@pytest.mark.parametrize(("damage", "problem"), DAMAGES[:5], ids=IDS[:5])
async def test_what_was_ours_is_mended_in_its_place(
    sim: Simulator, tmp_path: Path, damage: Callable[[Path], object], problem: str
) -> None:
    whole = sim.add_job("whole.wav")
    job_id = sim.add_job("talk.wav")
    await run(sim.api_url, tmp_path)
    before = files(tmp_path)
    (path,) = (path for path in before if "talk" in path)
    mtime_ns = (tmp_path / path).stat().st_mtime_ns
    damage(tmp_path / path)
    sim.expire_links()
    outcome = await verified(sim.api_url, tmp_path, repair=True)
    assert (outcome.final.exit_code, outcome.final.downloaded, outcome.final.already) == (0, 1, 1)
    assert (outcome.completed.repaired, outcome.found) == (1, {path: problem})
    assert outcome.final.bytes == len(before[path])
    assert files(tmp_path) == before
    assert (tmp_path / path).stat().st_mtime_ns == mtime_ns
    assert (len(sim.audio_requests(whole)), len(sim.audio_requests(job_id))) == (1, 2)
    assert unfinished(tmp_path) == []
    assert (await verified(sim.api_url, tmp_path)).final.exit_code == 0
    assert (await run(sim.api_url, tmp_path)).final.already == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
async def test_a_file_that_may_not_be_read_is_damaged_and_mended_like_the_others(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(4, size_bytes=5_000)
    await run(sim.api_url, tmp_path)
    before = files(tmp_path)
    closed, lost, *_ = before
    (tmp_path / closed).chmod(0)
    (tmp_path / lost).unlink()

    outcome = await verified(sim.api_url, tmp_path)
    assert (outcome.final.exit_code, outcome.found) == (1, {closed: "damaged", lost: "missing"})

    outcome = await verified(sim.api_url, tmp_path, repair=True)
    assert (outcome.final.exit_code, outcome.completed.repaired) == (0, 2)
    assert files(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
async def test_a_file_whose_folder_may_not_be_entered_is_not_said_to_be_gone(
    sim: Simulator, tmp_path: Path
) -> None:
    _, path = await one_file(sim, tmp_path)
    path.parent.chmod(0)
    outcome = await verified(sim.api_url, tmp_path)
    path.parent.chmod(0o700)
    assert (outcome.final.exit_code, list(outcome.found.values())) == (1, ["damaged"])


@pytest.mark.parametrize(("damage", "problem"), DAMAGES[5:], ids=IDS[5:])
async def test_what_is_foreign_stays_and_the_whole_id_is_used(
    sim: Simulator, tmp_path: Path, damage: Callable[[Path], object], problem: str
) -> None:
    job_id, path = await one_file(sim, tmp_path)
    damage(path)
    before = files(tmp_path)
    outcome = await verified(sim.api_url, tmp_path, repair=True)
    assert (outcome.final.exit_code, outcome.completed.foreign) == (0, 1)
    added = {name: data for name, data in files(tmp_path).items() if name not in before}
    assert added == {f"talk/talk.{job_id}.wav": sim.content(job_id)}
    assert {name: files(tmp_path)[name] for name in before} == before
    assert path.is_symlink() or (path / "mine.txt").read_text() == "mine"
    assert (await verified(sim.api_url, tmp_path)).final.exit_code == 0


async def test_a_file_of_somebody_else_is_never_replaced_however_often_it_is_tried(
    sim: Simulator, tmp_path: Path
) -> None:
    job_id, path = await one_file(sim, tmp_path)
    become_folder(path)
    other = path.with_name(f"talk.{job_id}.wav")
    other.write_text("somebody else's")
    for _ in range(2):
        outcome = await verified(sim.api_url, tmp_path, repair=True)
        assert outcome.final.exit_code == 1
        assert other.read_text() == "somebody else's"
    assert (await run(sim.api_url, tmp_path)).exit_code == 1
    assert (other.read_text(), path.is_dir()) == ("somebody else's", True)


async def test_a_damaged_file_stays_until_its_successor_is_whole(
    sim: Simulator, tmp_path: Path
) -> None:
    job_id, path = await one_file(sim, tmp_path)
    rot(path)
    damaged = path.read_bytes()
    fault = Fault(on="audio", times=None, status=500)
    sim.faults.add(fault)
    outcome = await verified(sim.api_url, tmp_path, repair=True)
    assert (outcome.final.exit_code, outcome.final.failed) == (1, 1)
    assert path.read_bytes() == damaged
    assert [one.state for one in entries(tmp_path)] == [State.FAILED]
    assert (await verified(sim.api_url, tmp_path)).found == {"talk/" + path.name: "damaged"}
    sim.faults.clear()
    assert (await run(sim.api_url, tmp_path)).final.downloaded == 1
    assert files(tmp_path) == {f"talk/{path.name}": sim.content(job_id)}


async def test_a_crash_while_mending_is_healed_by_the_next_backfill(
    sim: Simulator, tmp_path: Path
) -> None:
    job_id, path = await one_file(sim, tmp_path)
    rot(path)
    damaged = path.read_bytes()
    sim.faults.add(Fault(on="audio", stall_after_bytes=1000))
    started = asyncio.Event()

    def watch(event: Event) -> None:
        if isinstance(event, DownloadStarted):
            started.set()

    fetcher = Fetcher(settings(sim.api_url, tmp_path))
    task = asyncio.create_task(verify(fetcher, watch, repair=True))
    await started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert path.read_bytes() == damaged
    outcome = await run(sim.api_url, tmp_path, output="{id}{ext}")  # even under another template
    assert (outcome.exit_code, outcome.final.downloaded) == (0, 1)
    assert files(tmp_path) == {f"talk/{path.name}": sim.content(job_id)}


async def test_a_stop_while_mending_keeps_what_came(sim: Simulator, tmp_path: Path) -> None:
    job_id = sim.add_job("talk.wav", size_bytes=600_000)
    await run(sim.api_url, tmp_path)
    (name,) = files(tmp_path)
    (tmp_path / name).unlink()
    sim.faults.add(Fault(on="audio", stall_after_bytes=400_000))
    fetcher = Fetcher(settings(sim.api_url, tmp_path))
    events: list[Event] = []

    def sink(event: Event) -> None:
        events.append(event)
        if event.name == "download.progress":
            fetcher.stop.ask(STOPPED_BY_SIGINT)

    final = await verify(fetcher, sink, repair=True)
    assert (final.exit_code, final.failed) == (130, 1)
    sent_before = sim.bytes_sent(job_id)
    assert (await verified(sim.api_url, tmp_path, repair=True)).final.exit_code == 0
    assert sim.bytes_sent(job_id) - sent_before < 600_000
    assert files(tmp_path) == {name: sim.content(job_id)}


async def test_a_job_that_the_service_no_longer_has_is_told_and_stays_as_it_is(
    sim: Simulator, tmp_path: Path
) -> None:
    gone, path = await one_file(sim, tmp_path)
    sim.add_job("other.wav")
    path.unlink()
    sim.delete(gone)
    outcome = await verified(sim.api_url, tmp_path, repair=True)
    assert outcome.reasons == ["the service has no audio of this job any more"]
    assert (outcome.final.exit_code, outcome.final.failed) == (1, 1)
    assert [one.state for one in entries(tmp_path)] == [State.COMPLETE]


async def test_many_links_come_from_one_pass_over_the_history(
    sim: Simulator, tmp_path: Path
) -> None:
    ids = sim.add_jobs(120, size_bytes=200)
    await run(sim.api_url, tmp_path)
    before = files(tmp_path)
    for path in before:
        (tmp_path / path).unlink()
    sim.delete(ids[60])
    sim.log.clear()
    outcome = await verified(sim.api_url, tmp_path, repair=True, page_size=50)
    assert (outcome.final.exit_code, outcome.final.downloaded, outcome.final.failed) == (1, 119, 1)
    assert len(outcome.reasons) == 1
    assert (sim.log.of("progress"), len(sim.list_requests) <= 6) == ([], True)
    missing = {path for path in before if ids[60][:8] in path}
    assert files(tmp_path) == {path: data for path, data in before.items() if path not in missing}


async def test_an_original_is_mended_beside_its_clean_file(sim: Simulator, tmp_path: Path) -> None:
    job_id = sim.add_job("talk.mp3")
    await run(sim.api_url, tmp_path, originals=True)
    (path,) = (path for path in files(tmp_path) if "original" in path)
    cut(tmp_path / path)
    outcome = await verified(sim.api_url, tmp_path, repair=True)
    assert (outcome.final.exit_code, outcome.final.records) == (0, 1)
    assert files(tmp_path)[path] == sim.original(job_id)
    assert len(sim.audio_requests(job_id)) == 1
    assert {one.variant for one in entries(tmp_path) if one.state is State.COMPLETE} == set(Variant)


async def test_filters_of_runs_do_not_keep_a_file_from_being_mended(
    sim: Simulator, tmp_path: Path
) -> None:
    _, path = await one_file(sim, tmp_path)
    path.unlink()
    sim.add_job("new.wav")
    options = {"match": ["zzz*"], "since": "2099-01-01", "max_size": 1, "max_downloads": 0}
    outcome = await verified(sim.api_url, tmp_path, repair=True, **options)
    assert outcome.final.exit_code == 0
    assert list(files(tmp_path)) == [f"talk/{path.name}"]


async def test_nothing_else_is_fetched_while_mending(sim: Simulator, tmp_path: Path) -> None:
    failing = sim.add_job("failing.wav")
    sim.faults.add(Fault(on="audio", job=failing, times=None, status=500))
    sim.add_job("talk.wav")
    await run(sim.api_url, tmp_path)
    (name,) = files(tmp_path)
    (tmp_path / name).unlink()
    sim.log.clear()
    outcome = await verified(sim.api_url, tmp_path, repair=True)
    assert (outcome.final.exit_code, sim.audio_requests(failing)) == (0, [])


async def test_a_file_that_was_put_back_meanwhile_is_not_fetched_again(
    sim: Simulator, tmp_path: Path
) -> None:
    job_id, path = await one_file(sim, tmp_path)
    (one,) = entries(tmp_path)
    with closing(Store(tmp_path / ".fetcher" / "manifest.db")) as store:
        store.reopen([one.job._replace(audio_url=sim.url(job_id))], {one.seq})
    outcome = await run(sim.api_url, tmp_path)
    assert (outcome.final.adopted, len(sim.audio_requests(job_id))) == (1, 1)
    assert path.read_bytes() == sim.content(job_id)


# ---- what can be in the way --------------------------------------------------------------


@pytest.mark.parametrize(("status", "exit_code"), [(401, 3), (503, 4)])
async def test_an_api_that_refuses_or_fails_ends_mending_with_its_status(
    sim: Simulator, tmp_path: Path, status: int, exit_code: int
) -> None:
    _, path = await one_file(sim, tmp_path)
    path.unlink()
    sim.api_down = status
    outcome = await verified(sim.api_url, tmp_path, repair=True)
    assert outcome.final.exit_code == exit_code
    assert any(isinstance(one, Notice) and one.level == "ERROR" for one in outcome.events)
    assert [one.state for one in entries(tmp_path)] == [State.COMPLETE]


async def test_mending_beside_a_run_is_refused_and_checking_is_not(
    sim: Simulator, tmp_path: Path
) -> None:
    await one_file(sim, tmp_path)
    with held([tmp_path / ".fetcher"], command="watch", wait_s=0):
        with pytest.raises(LockedError, match="fetcher watch"):
            await verified(sim.api_url, tmp_path, repair=True)
        assert (await verified(sim.api_url, tmp_path)).final.exit_code == 0


async def test_mending_that_waits_for_another_process_can_be_stopped(
    sim: Simulator, tmp_path: Path
) -> None:
    await one_file(sim, tmp_path)
    fetcher = Fetcher(settings(sim.api_url, tmp_path, wait_lock=60))
    told: list[Event] = []
    with held([tmp_path / ".fetcher"], command="watch", wait_s=0):
        asyncio.get_running_loop().call_later(0.3, fetcher.stop.ask, STOPPED_BY_SIGTERM)
        async with asyncio.timeout(10):
            final = await verify(fetcher, told.append, repair=True)
    assert (final.exit_code, told) == (143, [final])


@pytest.mark.parametrize("options", [[], ["--repair"]])
def test_without_a_manifest_all_is_well_and_nothing_is_made(
    tmp_path: Path, options: list[str]
) -> None:
    shelf = Shelf(tmp_path / "dest")
    assert shelf.run("verify", "-q", *options) == 0
    assert not shelf.dest.exists()


def test_to_mend_a_key_is_needed_and_to_check_none(tmp_path: Path) -> None:
    shelf, one = Shelf(tmp_path / "dest"), job(1)
    shelf.add(one)
    shelf.complete(one, "gone.wav")
    assert shelf.run("verify") == 1
    assert shelf.run("verify", "--repair") == 2
    assert "MUNSIT_API_KEY" in shelf.err.getvalue()


# ---- the command -------------------------------------------------------------------------


def test_the_command_tells_each_finding_and_what_to_type_next(tmp_path: Path) -> None:
    shelf, one, other = Shelf(tmp_path / "dest"), job(1), job(2)
    shelf.add(one, other)
    shelf.complete(one, "gone.wav")
    (shelf.dest / "here.wav").write_bytes(b"here")
    sha256 = hashlib.sha256(b"here").hexdigest()
    shelf.complete(other, "here.wav", bytes_stored=4, sha256=sha256)
    assert (shelf.run("verify"), shelf.out.getvalue()) == (1, "")
    text = shelf.err.getvalue()
    assert "missing: gone.wav" in text
    assert "checked 2 files" in text
    assert "= 1 as recorded + 1 missing" in text
    assert f"fetcher verify --repair -d {shelf.dest}" in text
    assert shelf.run("verify", "--json") == 1
    said = [json.loads(line) for line in shelf.out.getvalue().splitlines()]
    assert [one["event"] for one in said] == ["verify.damaged", "verify.completed", "run.completed"]
    expected = {"id": one.id, "file_name": "audio.wav", "path": "gone.wav", "problem": "missing"}
    assert expected.items() <= said[0].items()
    assert (said[-1]["exit_code"], said[-1]["records"], said[-1]["failed"]) == (1, 2, 1)


def test_quiet_says_nothing_where_all_is_well(tmp_path: Path) -> None:
    shelf, one = Shelf(tmp_path / "dest"), job(1)
    shelf.add(one)
    (shelf.dest / "here.wav").write_bytes(b"here")
    sha256 = hashlib.sha256(b"here").hexdigest()
    shelf.complete(one, "here.wav", bytes_stored=4, sha256=sha256)
    assert shelf.lines("verify", "-q") == []


@pytest.mark.parametrize("options", [(), ("--repair",)], ids=["check", "repair"])
def test_a_destination_that_is_a_file_ends_with_a_final_event(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("")
    out, complaints = StringIO(), StringIO()
    env = Environment(out, complaints, {"MUNSIT_API_KEY": KEY}, tmp_path, tmp_path)
    assert cli.run(["verify", "--json", "-d", "file", *options], env) == 6
    (final,) = map(json.loads, out.getvalue().splitlines())
    assert (final["event"], final["exit_code"]) == ("run.completed", 6)
    assert "is a file, not a folder" in complaints.getvalue()


@pytest.mark.parametrize(
    ("error", "status"), [(errno.ENOSPC, 6), (errno.EPIPE, 130)], ids=["full", "reader gone"]
)
def test_findings_that_stdout_does_not_take_are_no_good_end(
    tmp_path: Path, error: int, status: int
) -> None:
    class Lost(StringIO):
        def write(self, text: str) -> int:
            raise OSError(error, os.strerror(error))

    complaints = StringIO()
    env = Environment(Lost(), complaints, {}, tmp_path, tmp_path)
    assert cli.run(["verify", "--json"], env) == status
    assert ("stdout cannot be written" in complaints.getvalue()) is (status == 6)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_mending_with_its_status(
    sim: Simulator, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    _, path = await one_file(sim, tmp_path)
    path.unlink()
    asked = asyncio.Event()

    def note(_: SimRequest) -> bool:
        asked.set()
        return True

    sim.faults.add(Fault(on="audio", times=None, stall_after_bytes=100, when=note))
    command = ["verify", "--repair", "--json", "--api-url", sim.api_url, "-d", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fetcher", *command),
        env={"MUNSIT_API_KEY": KEY, "FETCHER_MIN_FREE": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    await asked.wait()
    process.send_signal(number)
    last = (await process.stdout.read()).decode().splitlines()[-1]
    assert (await process.wait(), json.loads(last)["exit_code"]) == (status, status)


def test_what_was_ours_at_one_path_says_nothing_of_another(tmp_path: Path) -> None:
    shelf, one = Shelf(tmp_path), job(1)
    shelf.add(one)
    shelf.complete(one, "a.wav", bytes_stored=7)
    (row,) = entries(tmp_path)
    with closing(Store(shelf.manifest)) as store:
        store.reopen([one], {row.seq})
        for path, bytes_stored in (("a.wav", 7), ("b.wav", None)):
            assert store.claim([(row.seq, [(path, path)])]) == [path]
            (again,) = store.pick([row.seq])
            assert (again.path, again.bytes_stored, again.sha256) == (
                path,
                bytes_stored,
                row.sha256,
            )
