"""What lies on disk of a file: found by its mark at any path it may have, and by no other."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import check_mirror, files, run, settings, song

from fetcher.core.extensions import KNOWN_EXTENSIONS
from fetcher.core.layout import DEFAULT_TEMPLATE, Template
from fetcher.core.plan import Local
from fetcher.engine import Fetcher
from fetcher.events import Event, Planned
from fetcher.files.journal import Version
from fetcher.files.parts import Parts, part_key
from fetcher.files.places import Places, mtime_ns
from fetcher.models import Entry, Job, JobId, State, Status, Validator, Variant
from fetcher.runs.look import Adoptable, Eye

if TYPE_CHECKING:
    from fetcher.simulator import Simulator

AT = datetime(2024, 5, 1, 10, 20, 30, 123456, tzinfo=UTC)
ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
SHORT, WHOLE = f"talk/talk.{ID[:8]}", f"talk/talk.{ID}"
SONG = song(5_000)


def entry(url: str | None = "https://x/a.wav", **fields: Any) -> Entry:
    job = Job(
        JobId(ID),
        Status.SUCCESS,
        file_name="talk.mp4",
        audio_url=url,
        original_audio_url="https://x/original.mp4",
        created_at=AT,
        updated_at=AT,
    )
    return Entry(1, job, Variant.DENOISED, State.QUEUED)._replace(**fields)


@pytest.fixture
def eye(tmp_path: Path) -> Eye:
    state = tmp_path / ".fetcher" / "partial"
    state.mkdir(parents=True)
    return Eye(Template.parse(DEFAULT_TEMPLATE), Places(tmp_path), Parts(state))


def place(eye: Eye, path: str, content: bytes = SONG, at: datetime = AT) -> Path:
    """Put a file in place that bears the mark of that time."""
    where = eye.places.root / path
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_bytes(content)
    os.utime(where, ns=(mtime_ns(at), mtime_ns(at)))
    return where


# ---- looking -----------------------------------------------------------------------------


def test_where_nothing_is_nothing_is_found(eye: Eye) -> None:
    assert eye.look(entry()) == Local()


def test_an_unfinished_file_is_found_by_its_job(eye: Eye) -> None:
    part = eye.parts.begin(part_key(JobId(ID), Variant.DENOISED), Version(Validator(), None))
    part.append(b"x" * 77)
    part.close()
    assert eye.look(entry("https://elsewhere/b.mp3")) == Local(part_bytes=77)
    assert eye.look(entry(variant=Variant.ORIGINAL)) == Local()


@pytest.mark.parametrize("path", [f"{SHORT}.wav", f"{WHOLE}.wav"])
def test_a_file_in_place_is_found_with_the_short_id_and_the_whole(eye: Eye, path: str) -> None:
    place(eye, path)
    assert eye.look(entry()) == Local(found=path)


def test_the_path_that_the_manifest_knows_comes_first(eye: Eye) -> None:
    for path in ("elsewhere.wav", f"{SHORT}.wav"):
        place(eye, path)
    assert eye.look(entry(path="elsewhere.wav")).found == "elsewhere.wav"


def test_the_whole_id_tells_more_than_the_short_one(eye: Eye) -> None:
    for path in (f"{SHORT}.wav", f"{WHOLE}.wav"):
        place(eye, path)
    assert eye.look(entry()).found == f"{WHOLE}.wav"


@pytest.mark.parametrize("extension", KNOWN_EXTENSIONS)
def test_a_link_that_tells_no_extension_hides_no_file(eye: Eye, extension: str) -> None:
    place(eye, f"{SHORT}{extension}")
    assert eye.look(entry("https://x/download?id=1")).found == f"{SHORT}{extension}"


def test_a_link_that_is_gone_hides_no_file(eye: Eye) -> None:
    place(eye, f"{SHORT}.mp3")
    assert eye.look(entry(None)).found == f"{SHORT}.mp3"


def test_an_original_is_not_taken_for_the_clean_file(eye: Eye) -> None:
    place(eye, f"{SHORT}.original.mp4")
    assert eye.look(entry()) == Local()
    assert eye.look(entry(variant=Variant.ORIGINAL)).found == f"{SHORT}.original.mp4"


@pytest.mark.parametrize(
    "at", [AT + timedelta(seconds=1), AT - timedelta(days=1), AT + timedelta(microseconds=1)]
)
def test_a_file_of_another_time_is_foreign(eye: Eye, at: datetime) -> None:
    place(eye, f"{SHORT}.wav", at=at)
    assert eye.look(entry()) == Local()


LATER = AT + timedelta(days=3)


def changed(**fields: Any) -> Entry:
    """Return the entry of a job that was changed days after its file was fetched."""
    usual: dict[str, Any] = {"updated_at": LATER, "audio_duration_s": (len(SONG) - 44) / 32_000}
    return entry()._replace(job=entry().job._replace(**(usual | fields)))


def finely_clocked(where: Path) -> None:
    """Touch the inode until its ctime shows a clock that is finer than 100 ns."""
    while not where.stat().st_ctime_ns % 100:
        where.chmod(0o644)


@pytest.mark.parametrize("at", [AT, AT + timedelta(seconds=3), LATER - timedelta(microseconds=1)])
def test_a_file_that_bears_an_earlier_mark_is_found(eye: Eye, at: datetime) -> None:
    finely_clocked(place(eye, f"{SHORT}.wav", at=at))
    assert eye.look(changed()).found == f"{SHORT}.wav"


def test_a_file_that_bears_the_mark_of_today_is_preferred(eye: Eye) -> None:
    finely_clocked(place(eye, f"{WHOLE}.wav"))
    place(eye, f"{SHORT}.wav", at=LATER)
    assert eye.look(changed()).found == f"{SHORT}.wav"


@pytest.mark.parametrize(
    ("at_ns", "fields"),
    [
        pytest.param(1, {}, id="a time that the system gave"),
        pytest.param(-1_000, {}, id="before the job was there"),
        pytest.param(0, {"audio_duration_s": 60.0}, id="of another length"),
        pytest.param(0, {"audio_duration_s": None}, id="a record without a length"),
        pytest.param(0, {"created_at": None}, id="a record without a beginning"),
        pytest.param(0, {"updated_at": None, "created_at": None}, id="a record without a time"),
    ],
)
def test_a_file_without_the_proof_of_an_earlier_mark_is_foreign(
    eye: Eye, at_ns: int, fields: dict[str, Any]
) -> None:
    where = place(eye, f"{SHORT}.wav")
    finely_clocked(where)
    os.utime(where, ns=(mtime_ns(AT) + at_ns,) * 2)
    finely_clocked(where)
    assert eye.look(changed(**fields)) == Local()


async def test_files_of_jobs_that_changed_are_adopted_when_the_manifest_is_lost(
    sim: Simulator, tmp_path: Path
) -> None:
    jobs = sim.add_jobs(3, duration_s=2.0)
    assert (await run(sim.api_url, tmp_path)).exit_code == 0
    for lost in list((tmp_path / ".fetcher").glob("manifest*")):
        lost.unlink()
    for path in files(tmp_path):
        finely_clocked(tmp_path / path)
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    for job in jobs:
        sim.override(job, updated_at=later.isoformat())
    asked = len(sim.audio_requests())
    again = await run(sim.api_url, tmp_path)
    assert (again.exit_code, again.final.adopted) == (0, 3)
    assert len(sim.audio_requests()) == asked
    stamps = {(tmp_path / path).lstat().st_mtime_ns for path in files(tmp_path)}
    assert stamps == {mtime_ns(later)}


def test_a_job_without_a_time_finds_nothing(eye: Eye) -> None:
    place(eye, f"{SHORT}.wav")
    timeless = entry().job._replace(created_at=None, updated_at=None)
    assert eye.look(entry(job=timeless)) == Local()


def test_a_job_without_an_update_finds_the_file_that_bears_the_time_of_its_creation(
    eye: Eye,
) -> None:
    place(eye, f"{SHORT}.wav")
    early = AT - timedelta(days=1)
    never_updated = entry().job._replace(updated_at=None)
    assert eye.look(entry(job=never_updated)).found == f"{SHORT}.wav"
    assert eye.look(entry(job=never_updated._replace(created_at=early))) == Local()


@pytest.mark.parametrize("path", [f"{SHORT}.wav", f"{WHOLE}.wav"])
def test_a_file_that_bears_the_time_of_its_job_is_found_however_long_it_is(
    eye: Eye, path: str
) -> None:
    """As one that `--check-duration warn` has kept."""
    place(eye, path)
    assert eye.look(entry(job=entry().job._replace(audio_duration_s=60))).found == path


@pytest.mark.parametrize("kind", ["link", "folder", "link above"])
def test_what_is_no_file_in_dir_is_not_found(eye: Eye, tmp_path: Path, kind: str) -> None:
    root = eye.places.root
    outside = tmp_path.parent / "outside"
    outside.mkdir(exist_ok=True)
    if kind == "link":
        place(eye, "real.wav")
        (root / "talk").mkdir()
        (root / f"{SHORT}.wav").symlink_to(root / "real.wav")
    elif kind == "folder":
        (root / f"{SHORT}.wav").mkdir(parents=True)
    else:
        (root / "talk").symlink_to(outside)
        place(eye, f"{SHORT}.wav")
    assert eye.look(entry()) == Local()


def test_a_run_that_began_with_nothing_looks_for_unfinished_files_only(eye: Eye) -> None:
    assert eye.look_all([entry()]) == [Local()]
    place(eye, f"{SHORT}.wav")
    part = eye.parts.path(part_key(JobId(ID), Variant.DENOISED))
    part.write_bytes(b"begun")
    assert eye.look_all([entry()]) == [Local(part_bytes=5)]


def test_a_run_that_began_with_something_looks_for_everything(eye: Eye) -> None:
    place(eye, f"{SHORT}.wav")
    for _ in range(2):
        [found] = eye.look_all([entry()])
        assert found.found is not None


# ---- candidates --------------------------------------------------------------------------


def test_a_file_may_have_the_short_id_and_else_the_whole(eye: Eye) -> None:
    paths = [f"{SHORT}.mp3", f"{WHOLE}.mp3"]
    assert list(eye.candidates(entry(), ".mp3")) == [(path, path) for path in paths]


def test_a_path_that_was_decided_stays_first(eye: Eye) -> None:
    found = list(eye.candidates(entry(path="Old/Place.wav"), ".wav"))
    assert found[0] == ("Old/Place.wav", "old/place.wav")
    assert [path for path, _ in found[1:]] == [f"{SHORT}.wav", f"{WHOLE}.wav"]
    assert len(list(eye.candidates(entry(path=f"{SHORT}.wav"), ".wav"))) == 2


def test_a_template_of_whole_ids_gives_one_candidate(tmp_path: Path) -> None:
    eye = Eye(Template.parse("{id}{ext}"), Places(tmp_path), Parts(tmp_path))
    assert list(eye.candidates(entry(), ".wav")) == [(f"{ID}.wav", f"{ID}.wav")]


# ---- adopting ----------------------------------------------------------------------------


def test_whole_audio_is_adopted_with_its_digest(eye: Eye) -> None:
    place(eye, f"{SHORT}.wav")
    assert eye.adopt(f"{SHORT}.wav") == Adoptable(
        f"{SHORT}.wav", hashlib.sha256(SONG).hexdigest(), len(SONG)
    )


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(SONG[:3_000], id="a WAV that was cut short"),
        pytest.param(b"<html><body>Sign in</body></html>", id="a web page"),
        pytest.param(b'{"error": "expired"}', id="JSON"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_no_whole_audio_is_not_adopted(eye: Eye, content: bytes) -> None:
    place(eye, f"{SHORT}.wav", content)
    assert eye.adopt(f"{SHORT}.wav") is None


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_is_not_adopted(eye: Eye, kind: str) -> None:
    path = eye.places.root / "a.wav"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(place(eye, "real.wav"))
    else:
        os.mkfifo(path)
    assert eye.adopt("a.wav") is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that fails to be read")
def test_what_cannot_be_read_is_not_adopted(tmp_path: Path) -> None:
    eye = Eye(Template.parse(DEFAULT_TEMPLATE), Places(Path("/proc/self")), Parts(tmp_path))
    assert eye.adopt("mem") is None
    assert eye.adopt("gone") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
async def test_a_file_that_may_not_be_read_keeps_no_other_from_being_adopted(
    sim: Simulator, tmp_path: Path
) -> None:
    jobs = sim.add_jobs(4, size_bytes=5_000)
    assert (await run(sim.api_url, tmp_path)).exit_code == 0
    shutil.rmtree(tmp_path / ".fetcher")
    (closed,) = (tmp_path / path for path in files(tmp_path) if jobs[1][:8] in path)
    closed.chmod(0)
    beside = str(closed.with_name(closed.name.replace(jobs[1][:8], jobs[1])).relative_to(tmp_path))

    planned: list[Event] = []
    await Fetcher(settings(sim.api_url, tmp_path, dry_run=True)).run_plan(planned.append)
    plan = {str(one.id): (one.action, one.path) for one in planned if isinstance(one, Planned)}
    assert plan[jobs[1]] == ("download", beside)
    assert [plan[job][0] for job in jobs if job != jobs[1]] == ["adopt"] * 3

    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.final.adopted, ran.final.downloaded) == (0, 3, 1)
    assert (tmp_path / beside).read_bytes() == sim.content(jobs[1])
    closed.chmod(0o600)


# ---- two jobs that share a short id and a time -------------------------------------------

ONE, OTHER = f"{ID[:8]}-0000-4000-8000-000000000001", f"{ID[:8]}-0000-4000-8000-000000000002"


def add_twin(sim: Simulator, job_id: str) -> None:
    sim.add_job("talk.wav", id=job_id, updated_at="2024-05-01T10:20:30.000Z")


async def test_a_job_does_not_adopt_the_file_of_its_twin(sim: Simulator, tmp_path: Path) -> None:
    add_twin(sim, ONE)
    assert (await run(sim.api_url, tmp_path)).exit_code == 0
    add_twin(sim, OTHER)
    planned: list[Event] = []
    await Fetcher(settings(sim.api_url, tmp_path, dry_run=True)).run_plan(planned.append)
    plan = {one.id: (one.action, one.path) for one in planned if isinstance(one, Planned)}
    assert plan == {
        ONE: ("skip", None),
        OTHER: ("download", f"talk/talk.{OTHER}.wav"),
    }
    second = await run(sim.api_url, tmp_path)
    assert (second.exit_code, second.final.downloaded, second.final.adopted) == (0, 1, 0)
    assert set(files(tmp_path)) == {f"{SHORT}.wav", f"talk/talk.{OTHER}.wav"}
    check_mirror(sim, tmp_path)


async def test_twins_find_their_own_files_when_the_manifest_is_lost(
    sim: Simulator, tmp_path: Path
) -> None:
    for job_id in (ONE, OTHER):
        add_twin(sim, job_id)
    assert (await run(sim.api_url, tmp_path)).exit_code == 0
    for lost in list((tmp_path / ".fetcher").glob("manifest*")):
        lost.unlink()
    asked = len(sim.audio_requests())
    again = await run(sim.api_url, tmp_path)
    assert (again.exit_code, again.final.adopted) == (0, 2)
    assert len(sim.audio_requests()) == asked
    check_mirror(sim, tmp_path)


UPDATED = "2024-05-01T10:20:30.000Z"
SOON = "2024-05-01T10:20:41.000Z"


@pytest.mark.parametrize(
    ("fields", "adopted"),
    [
        pytest.param({"updated_at": UPDATED, "audio_duration": None}, 0, id="nothing tells them"),
        pytest.param({"updated_at": UPDATED, "audio_duration": 34.0}, 1, id="another length"),
        pytest.param({"updated_at": SOON}, 1, id="updated after"),
    ],
)
async def test_a_twin_that_comes_after_the_manifest_is_lost_gets_its_own_file(
    sim: Simulator, tmp_path: Path, fields: dict[str, Any], adopted: int
) -> None:
    begun = "2024-05-01T10:20:00.000Z"
    sim.add_job("talk.wav", id=ONE, updated_at=UPDATED)
    sim.override(ONE, created_at=begun)
    assert (await run(sim.api_url, tmp_path)).exit_code == 0
    shutil.rmtree(tmp_path / ".fetcher")
    finely_clocked(tmp_path / f"{SHORT}.wav")
    sim.add_job("talk.wav", id=OTHER)
    sim.override(OTHER, created_at=begun, **fields)
    if not adopted:
        sim.override(ONE, audio_duration=None)

    planned: list[Event] = []
    await Fetcher(settings(sim.api_url, tmp_path, dry_run=True)).run_plan(planned.append)
    plan = {one.id: one.action for one in planned if isinstance(one, Planned)}
    assert plan == {ONE: "adopt" if adopted else "download", OTHER: "download"}

    again = await run(sim.api_url, tmp_path)
    assert (again.exit_code, again.final.adopted) == (0, adopted)
    assert {sim.content(ONE), sim.content(OTHER)} <= set(files(tmp_path).values())
