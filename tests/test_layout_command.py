"""`fetcher layout`: where files would go, and moving them there without losing any."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections import Counter
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from support import files, tree
from support import run as backfill

from fetcher.cli import run
from fetcher.commands import Environment
from fetcher.files.locks import held
from fetcher.files.places import Places
from fetcher.files.sealing import sync_folder
from fetcher.manifest.reader import Reader
from fetcher.manifest.store import Store
from fetcher.models import State, Variant
from fetcher.simulator import Fault, Serving

if TYPE_CHECKING:
    from pathlib import Path

    from fetcher.simulator import Simulator

FIRST, SECOND = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002"
OTHER = "bbbbbbbb-0000-4000-8000-000000000003"
BY_ID = "{id}{ext}"


class Desk:
    """A destination and a command line to work on it."""

    def __init__(self, folder: Path, sim: Simulator) -> None:
        self.folder, self.sim = folder, sim
        self.dest = folder / "dest"
        self.out, self.err = StringIO(), StringIO()

    async def fetch(self, **options: Any) -> None:
        """Download everything; nothing may fail."""
        done = await backfill(self.sim.api_url, self.dest, **options)
        assert done.exit_code == 0

    def layout(self, *argv: str, **environ: str) -> int:
        """Run the command; return its status."""
        self.out, self.err = StringIO(), StringIO()
        env = Environment(self.out, self.err, environ, self.folder, self.folder)
        return run(["layout", "-d", str(self.dest), *argv], env)

    def said(self, *argv: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Run the command with --json; return what it said of files, and at the end."""
        status = self.layout("--json", *argv)
        *lines, last = [json.loads(line) for line in self.out.getvalue().splitlines()]
        assert {line["event"] for line in lines} <= {"layout.file"}
        assert (last["event"], last["exit_code"]) == ("layout.completed", status)
        return lines, last

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()

    @property
    def paths(self) -> dict[tuple[str, str], str | None]:
        """The path of each file by the manifest."""
        with Reader(self.dest / ".fetcher/manifest.db") as reader:
            return {(one.job.id, str(one.variant)): one.path for one in reader.entries()}

    def path(self, job_id: str) -> str | None:
        return self.paths[job_id, "denoised"]

    def check(self) -> None:
        """Assert that every complete file is where the manifest says, byte for byte."""
        with Reader(self.dest / ".fetcher/manifest.db") as reader:
            done = [one for one in reader.entries() if one.state is State.COMPLETE]
        expected = {
            one.path: self.sim.content(one.job.id)
            for one in done
            if one.variant is Variant.DENOISED
        }
        there = files(self.dest)
        assert {path: there.get(path or "") for path in expected} == expected

    async def check_nothing_more_is_fetched(self) -> None:
        """Assert that a run with the same settings finds nothing to do."""
        asked = len(self.sim.log.of("audio", "original"))
        await self.fetch()
        assert len(self.sim.log.of("audio", "original")) == asked


@pytest.fixture
def desk(tmp_path: Path, sim: Simulator) -> Desk:
    return Desk(tmp_path, sim)


# ---- looking -----------------------------------------------------------------------------


async def test_check_shows_old_and_new_paths_and_changes_nothing(desk: Desk) -> None:
    desk.sim.add_job("talk.wav", id=FIRST)
    desk.sim.add_job("مقابلة.mp3", id=OTHER)
    await desk.fetch()
    before = {path: path.stat().st_mtime_ns for path in desk.folder.rglob("*")}

    assert desk.layout("--check", BY_ID) == 0

    assert desk.lines == [
        f"مقابلة/مقابلة.bbbbbbbb.wav -> {OTHER}.wav",
        f"talk/talk.aaaaaaaa.wav -> {FIRST}.wav",
        "2 would move; --apply moves them",
    ]
    assert {path: path.stat().st_mtime_ns for path in desk.folder.rglob("*")} == before


@pytest.mark.parametrize(
    "argv", [(), (BY_ID,), ("--apply", "--dry-run"), ("--check", BY_ID), ("-o", BY_ID)]
)
async def test_nothing_moves_without_apply(desk: Desk, argv: tuple[str, ...]) -> None:
    desk.sim.add_job("talk.wav")
    await desk.fetch()
    before = tree(desk.dest)

    assert desk.layout(*argv) == 0

    assert tree(desk.dest) == before


async def test_files_that_stay_are_counted_and_not_shown(desk: Desk) -> None:
    desk.sim.add_jobs(3)
    await desk.fetch()

    assert desk.layout() == 0

    assert desk.lines == ["3 where it belongs"]


async def test_jobs_that_are_not_fetched_yet_have_a_place_too(desk: Desk) -> None:
    desk.sim.add_job("a.wav", id=FIRST)
    desk.sim.add_job("b.wav", id=SECOND)
    desk.sim.add_job("c.wav", id=OTHER, status="pending")
    desk.sim.faults.add(Fault(on="audio", job=SECOND, status=404, times=None))
    await backfill(desk.sim.api_url, desk.dest)

    lines, last = desk.said("--check", "{short_id}{ext}")

    assert {line["id"]: (line["action"], line["path"], line["new_path"]) for line in lines} == {
        FIRST: ("moves", "a/a.aaaaaaaa.wav", "aaaaaaaa.wav"),
        SECOND: ("later", None, f"{SECOND}.wav"),
        OTHER: ("later", None, None),
    }
    assert (last["moves"], last["later"], last["whole_ids"]) == (1, 2, 1)


async def test_json_has_the_facts_of_each_file(desk: Desk) -> None:
    desk.sim.add_job("talk.wav", id=FIRST)
    await desk.fetch()

    [line], last = desk.said("--check", BY_ID)

    del line["time"], last["time"]
    assert line == {
        "event": "layout.file",
        "id": FIRST,
        "file_name": "talk.wav",
        "variant": "denoised",
        "action": "moves",
        "path": "talk/talk.aaaaaaaa.wav",
        "new_path": f"{FIRST}.wav",
        "reason": None,
    }
    assert last == {
        "event": "layout.completed",
        **dict.fromkeys(("stays", "found", "later", "missing", "blocked", "moved"), 0),
        "moves": 1,
        "whole_ids": 0,
        "exit_code": 0,
    }


def test_without_a_manifest_there_is_nothing_and_nothing_is_made(desk: Desk) -> None:
    assert desk.layout("--check", BY_ID) == 0
    assert desk.lines == ["no job with a file is known here"]
    assert desk.layout("--apply") == 0
    assert not desk.dest.exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--check", "{stem}"], "cannot tell records apart"),
        (["--check", "{id"], "without its partner"),
        (["--check", "{idd}"], "did you mean {id}?"),
        (["--apply", "../{id}"], "paths only go down"),
        (["--apply", "-o", "/{id}"], "leads out of the destination"),
        (["--check", BY_ID, "--apply"], "exclude each other"),
        (["--check", BY_ID, "{id}"], "several templates"),
        (["--apply", BY_ID, "-o", "{id}"], "several templates"),
        (["--apply", BY_ID, "x"], "does not take 'x'"),
        (["--check"], "--check needs a value"),
    ],
)
def test_what_cannot_be_is_2(desk: Desk, argv: list[str], words: str) -> None:
    assert desk.layout(*argv) == 2
    assert words in desk.err.getvalue()
    assert desk.out.getvalue() == ""


def test_a_wrong_template_of_the_settings_file_is_2_and_named(desk: Desk) -> None:
    (desk.folder / "fetcher.toml").write_text('output = "{stem}"')

    assert desk.layout("--apply") == 2
    assert "fetcher.toml: output: " in desk.err.getvalue()


def test_the_environment_cannot_ask_for_moving(desk: Desk) -> None:
    assert desk.layout(FETCHER_APPLY="1") == 0
    assert "FETCHER_APPLY in the environment sets no option" in desk.err.getvalue()


# ---- moving ------------------------------------------------------------------------------


async def test_apply_moves_files_and_their_rows_and_nothing_is_fetched_again(desk: Desk) -> None:
    desk.sim.add_job("talk.wav", id=FIRST)
    desk.sim.add_job("مقابلة.mp3", id=OTHER)
    await desk.fetch()
    before = Counter(files(desk.dest).values())

    assert desk.layout("--apply", "-o", "{source_type}/{id}{ext}") == 0

    expected = {f"audio/{FIRST}.wav", f"audio/{OTHER}.wav"}
    assert set(files(desk.dest)) == expected
    assert set(desk.paths.values()) == expected
    assert Counter(files(desk.dest).values()) == before
    assert desk.lines[-1] == "2 moved"
    desk.check()
    await desk.check_nothing_more_is_fetched()


async def test_the_template_of_the_settings_is_the_one_that_is_applied(desk: Desk) -> None:
    desk.sim.add_job(id=FIRST)
    await desk.fetch()
    (desk.folder / "fetcher.toml").write_text(f'output = "{BY_ID}"')

    assert desk.layout("--apply") == 0

    assert desk.path(FIRST) == f"{FIRST}.wav"
    assert desk.err.getvalue() == ""


async def test_a_template_that_is_not_the_settings_brings_a_reminder(desk: Desk) -> None:
    desk.sim.add_job()
    await desk.fetch()

    assert desk.layout("--apply", BY_ID) == 0

    assert "new files still go to {stem}/{stem}.{short_id}{ext}" in desk.err.getvalue()


async def test_apply_does_what_check_said_and_then_has_nothing_to_do(desk: Desk) -> None:
    desk.sim.add_job("x.wav", id=FIRST)
    desk.sim.add_job("x.wav", id=SECOND)
    desk.sim.add_job("y.wav", id=OTHER)
    await desk.fetch()
    template = "{created:%Y/%m}/{short_id}{ext}"

    planned, _ = desk.said("--check", template)
    done, last = desk.said("--apply", template)
    again, after = desk.said("--apply", template)

    moves = {(line["id"], line["path"], line["new_path"]) for line in planned}
    assert {(line["id"], line["path"], line["new_path"]) for line in done} == moves
    assert {line["action"] for line in done} == {"moved"}
    assert (last["moved"], after["stays"], again) == (3, 3, [])
    desk.check()


async def test_of_two_files_with_one_path_the_first_recorded_gets_it(desk: Desk) -> None:
    desk.sim.add_job("a.wav", id=FIRST)
    desk.sim.add_job("b.wav", id=SECOND)
    await desk.fetch()
    with Reader(desk.dest / ".fetcher/manifest.db") as reader:
        first, second = sorted(reader.entries(), key=lambda one: one.seq)

    assert desk.layout("--apply", "{short_id}{ext}") == 0

    assert desk.path(first.job.id) == "aaaaaaaa.wav"
    assert desk.path(second.job.id) == f"{second.job.id}.wav"
    desk.check()


async def test_a_path_decided_once_stays_where_the_template_still_allows_it(desk: Desk) -> None:
    """The whole id was needed once; the shorter path being free again changes nothing."""
    desk.sim.add_job("talk.wav", id=FIRST)
    taken = desk.dest / "talk/talk.aaaaaaaa.wav"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    await desk.fetch()
    taken.unlink()

    assert desk.layout("--apply") == 0

    assert desk.path(FIRST) == f"talk/talk.{FIRST}.wav"
    assert desk.lines == ["1 where it belongs"]


async def test_originals_move_beside_their_results(desk: Desk) -> None:
    desk.sim.add_job("talk.wav", id=FIRST)
    await desk.fetch(originals=True)

    assert desk.layout("--apply", BY_ID) == 0

    assert desk.paths == {
        (FIRST, "denoised"): f"{FIRST}.wav",
        (FIRST, "original"): f"{FIRST}.original.wav",
    }
    assert set(files(desk.dest)) == set(desk.paths.values())
    desk.check()


async def test_records_move_with_their_files_and_foreign_ones_stay(desk: Desk) -> None:
    desk.sim.add_job("talk.wav", id=FIRST)
    desk.sim.add_job("else.wav", id=OTHER)
    await desk.fetch(write_record=True)
    foreign = desk.dest / "else/else.bbbbbbbb.wav.json"
    foreign.write_text('{"id": "mine"}')

    assert desk.layout("--apply", BY_ID) == 0

    assert set(files(desk.dest)) == {
        *(f"{FIRST}.wav", f"{FIRST}.wav.json", f"{OTHER}.wav"),
        "else/else.bbbbbbbb.wav.json",
    }
    assert json.loads((desk.dest / f"{FIRST}.wav.json").read_text())["id"] == FIRST


async def test_a_record_whose_place_is_taken_stays_and_is_told_of(desk: Desk) -> None:
    desk.sim.add_job("talk.wav", id=FIRST)
    await desk.fetch(write_record=True)
    (desk.dest / f"{FIRST}.wav.json").write_text("mine")

    assert desk.layout("--apply", BY_ID) == 0

    assert "its record stays at talk/talk.aaaaaaaa.wav.json" in desk.lines[0]
    assert (desk.dest / f"{FIRST}.wav.json").read_text() == "mine"
    assert (desk.dest / "talk/talk.aaaaaaaa.wav.json").exists()


async def test_empty_folders_go_and_others_stay(desk: Desk) -> None:
    desk.sim.add_job("empty.wav", id=FIRST)
    desk.sim.add_job("full.wav", id=OTHER)
    await desk.fetch(output="deep/{stem}/{short_id}{ext}")
    (desk.dest / "deep/full/notes.txt").write_text("mine")

    assert desk.layout("--apply", BY_ID) == 0
    assert [path for path, data in tree(desk.dest).items() if data is None] == ["deep", "deep/full"]

    (desk.dest / "deep/full/notes.txt").unlink()
    assert desk.layout("--apply", "deep/full/{short_id}{ext}") == 0
    assert desk.layout("--apply", BY_ID) == 0
    assert [path for path, data in tree(desk.dest).items() if data is None] == []
    assert desk.dest.is_dir()


async def test_times_of_files_stay_the_job_s(desk: Desk) -> None:
    desk.sim.add_job(id=FIRST)
    await desk.fetch()
    before = (desk.dest / (desk.path(FIRST) or "")).stat().st_mtime_ns

    desk.layout("--apply", BY_ID)

    assert (desk.dest / f"{FIRST}.wav").stat().st_mtime_ns == before


async def test_a_change_of_case_alone_is_a_move(desk: Desk) -> None:
    desk.sim.add_job(id=FIRST)
    await desk.fetch(output="{id}/Talk{ext}")

    assert desk.layout("--apply", "{id}/talk{ext}") == 0

    assert set(files(desk.dest)) == {f"{FIRST}/talk.wav"}
    desk.check()


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
async def test_a_file_whose_folder_may_not_be_entered_is_blocked_and_not_missing(
    desk: Desk,
) -> None:
    desk.sim.add_job("talk.wav", id=FIRST)
    await desk.fetch()
    folder = (desk.dest / (desk.path(FIRST) or "")).parent
    folder.chmod(0)
    lines, last = desk.said("--apply", BY_ID)
    folder.chmod(0o700)
    assert (last["blocked"], last["missing"], last["exit_code"]) == (1, 0, 1)
    assert "cannot be looked at" in lines[0]["reason"]


@pytest.mark.parametrize("extension", [".oga", ".aif"])
async def test_an_extension_that_came_from_the_link_stays(desk: Desk, extension: str) -> None:
    desk.sim.add_job(f"podcast{extension}", id=FIRST, serving=Serving(extension=extension))
    await desk.fetch()
    assert desk.path(FIRST) == f"podcast/podcast.aaaaaaaa{extension}"

    assert desk.layout("--apply", BY_ID) == 0

    assert desk.path(FIRST) == f"{FIRST}{extension}"


@pytest.mark.parametrize(
    ("file_name", "output"),
    [
        pytest.param("talk.mp4", "{id}/{file_name}", id="alone"),
        pytest.param("Talk.MP4", "{short_id}.{file_name}", id="behind the id, in capitals"),
        pytest.param("-talk.mp4", "{id}/{file_name}", id="with another beginning"),
        pytest.param("talk" * 100 + ".mp4", "{short_id}.{file_name}", id="cut"),
        pytest.param("talk.mp4. ", "{id}/{file_name}", id="with an end that no name has"),
    ],
)
async def test_the_extension_is_that_of_the_audio_and_not_of_file_name(
    desk: Desk, file_name: str, output: str
) -> None:
    desk.sim.add_job(file_name, id=FIRST, source_type="video")
    await desk.fetch(output=output)
    assert (desk.path(FIRST) or "").lower().endswith(".mp4")

    assert desk.layout("--apply", BY_ID) == 0

    assert desk.path(FIRST) == f"{FIRST}.wav"


async def test_quiet_says_only_what_could_not_be_moved(desk: Desk) -> None:
    desk.sim.add_job("a.wav", id=FIRST)
    desk.sim.add_job("b.wav", id=OTHER)
    await desk.fetch()
    (desk.dest / "b/b.bbbbbbbb.wav").write_text("another")

    assert desk.layout("--apply", "-q", BY_ID) == 1

    assert len(desk.lines) == 1
    assert desk.lines[0].startswith("b/b.bbbbbbbb.wav: it has changed")


# ---- what stands in the way --------------------------------------------------------------


async def test_a_foreign_file_in_the_way_leads_to_the_whole_id(desk: Desk) -> None:
    desk.sim.add_job("talk.wav", id=FIRST)
    await desk.fetch()
    (desk.dest / "aaaaaaaa.wav").write_text("mine")

    assert desk.layout("--apply", "{short_id}{ext}") == 0

    assert desk.path(FIRST) == f"{FIRST}.wav"
    assert (desk.dest / "aaaaaaaa.wav").read_text() == "mine"


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
async def test_a_file_whose_places_are_taken_stays_and_is_1(desk: Desk, kind: str) -> None:
    desk.sim.add_job("talk.wav", id=FIRST)
    await desk.fetch()
    for name in ("aaaaaaaa.wav", f"{FIRST}.wav"):
        match kind:
            case "file":
                (desk.dest / name).write_text("mine")
            case "folder":
                (desk.dest / name).mkdir()
            case "link":
                (desk.folder / "mine").write_text("mine")
                (desk.dest / name).symlink_to(desk.folder / "mine")
            case _:
                (desk.dest / name).symlink_to("nowhere")
    before = tree(desk.dest)

    assert desk.layout("--apply", "{short_id}{ext}") == 1

    assert tree(desk.dest) == before
    assert "another file stands where it would go" in desk.lines[0]
    assert desk.path(FIRST) == "talk/talk.aaaaaaaa.wav"
    desk.check()


async def test_a_link_out_of_the_destination_is_not_followed(desk: Desk) -> None:
    outside = desk.folder / "outside"
    outside.mkdir()
    desk.sim.add_job("talk.wav", id=FIRST)
    await desk.fetch()
    (desk.dest / "audio").symlink_to(outside)

    assert desk.layout("--apply", "{source_type}/{id}{ext}") == 1

    assert list(outside.iterdir()) == []
    desk.check()


async def test_a_file_in_place_of_a_new_folder_blocks_only_its_file(desk: Desk) -> None:
    desk.sim.add_job("a.wav", id=FIRST)
    desk.sim.add_job("b.wav", id=OTHER)
    await desk.fetch()
    (desk.dest / "new-a").write_text("mine")

    assert desk.layout("--apply", "new-{stem}/{id}{ext}") == 1

    assert desk.path(FIRST) == "a/a.aaaaaaaa.wav"
    assert desk.path(OTHER) == f"new-b/{OTHER}.wav"
    desk.check()


@pytest.mark.parametrize(
    ("kind", "status", "action"),
    [("gone", 0, "missing"), ("changed", 1, "blocked"), ("link", 1, "blocked")],
)
async def test_a_file_that_is_not_as_recorded_is_told_of_and_left(
    desk: Desk, kind: str, status: int, action: str
) -> None:
    desk.sim.add_job("a.wav", id=FIRST)
    desk.sim.add_job("b.wav", id=OTHER)
    await desk.fetch()
    file = desk.dest / "a/a.aaaaaaaa.wav"
    if kind == "changed":
        file.write_text("tagged")
    else:
        file.rename(desk.folder / "away.wav")
    if kind == "link":
        file.symlink_to(desk.folder / "away.wav")
    was_there = file.is_symlink() or file.exists()

    lines, last = desk.said("--apply", BY_ID)

    assert (last["exit_code"], last[action], last["moved"]) == (status, 1, 1)
    assert {line["id"]: line["action"] for line in lines} == {FIRST: action, OTHER: "moved"}
    assert (file.is_symlink() or file.exists()) == was_there
    assert desk.path(FIRST) == "a/a.aaaaaaaa.wav"


async def test_a_folder_that_became_a_link_out_of_the_destination_is_left(desk: Desk) -> None:
    desk.sim.add_job("a.wav", id=FIRST)
    await desk.fetch()
    shutil.move(desk.dest / "a", desk.folder / "outside")
    (desk.dest / "a").symlink_to(desk.folder / "outside")

    assert desk.layout("--apply", BY_ID) == 1

    assert [path.name for path in (desk.folder / "outside").iterdir()] == ["a.aaaaaaaa.wav"]


async def test_files_moved_by_hand_to_their_new_places_are_recognised(desk: Desk) -> None:
    desk.sim.add_job("a.wav", id=FIRST)
    await desk.fetch()
    (desk.dest / "a/a.aaaaaaaa.wav").rename(desk.dest / f"{FIRST}.wav")

    assert desk.said("--check", BY_ID)[1]["found"] == 1
    assert desk.layout("--apply", BY_ID) == 0

    assert desk.path(FIRST) == f"{FIRST}.wav"
    assert not (desk.dest / "a").exists()
    desk.check()


async def test_another_file_of_the_same_length_is_not_taken_for_a_moved_one(desk: Desk) -> None:
    desk.sim.add_job("a.wav", id=FIRST)
    await desk.fetch()
    length = (desk.dest / "a/a.aaaaaaaa.wav").stat().st_size
    (desk.dest / "a/a.aaaaaaaa.wav").unlink()
    (desk.dest / f"{FIRST}.wav").write_bytes(b"x" * length)

    assert desk.layout("--apply", BY_ID) == 1

    assert desk.path(FIRST) == "a/a.aaaaaaaa.wav"


async def test_two_jobs_that_swap_places_never_overwrite_each_other(desk: Desk) -> None:
    desk.sim.add_job("x.wav", id=FIRST, user_id="y")
    desk.sim.add_job("y.wav", id=SECOND, user_id="x")
    await desk.fetch(output="{stem}/{short_id}{ext}")
    assert desk.path(FIRST) == "x/aaaaaaaa.wav"

    assert desk.layout("--apply", "{user_id}/{short_id}{ext}") == 0

    assert set(desk.paths.values()) == {f"y/{FIRST}.wav", f"x/{SECOND}.wav"}
    desk.check()


# ---- destinations ------------------------------------------------------------------------


async def test_a_held_destination_is_5_and_names_the_holder(desk: Desk) -> None:
    desk.sim.add_job("talk.wav")
    await desk.fetch()
    before = tree(desk.dest)

    with held([desk.dest / ".fetcher"], command="watch", wait_s=0):
        assert desk.layout("--apply", BY_ID) == 5
        assert "fetcher watch, process" in desk.err.getvalue()
        assert tree(desk.dest) == before
        assert desk.layout("--check", BY_ID) == 0


async def test_a_damaged_manifest_is_6_and_nothing_moves(desk: Desk) -> None:
    desk.sim.add_job("talk.wav")
    await desk.fetch()
    (desk.dest / ".fetcher/manifest.db").write_bytes(b"garbage" * 1000)
    before = tree(desk.dest)

    assert desk.layout("--apply", BY_ID) == 6
    assert desk.layout("--check", BY_ID) == 6

    assert tree(desk.dest) == before


async def test_a_destination_that_is_not_there_is_6_and_is_not_made(desk: Desk) -> None:
    desk.sim.add_job("talk.wav")
    state = desk.folder / "state"
    await desk.fetch(state_dir=state)
    desk.dest.rename(desk.folder / "unmounted")

    assert desk.layout("--apply", "--state-dir", str(state), BY_ID) == 6
    assert not desk.dest.exists()


def test_a_destination_that_is_a_file_is_6(desk: Desk) -> None:
    desk.dest.write_text("")

    assert desk.layout("--apply", BY_ID) == 6


async def test_a_state_folder_elsewhere_works_too(desk: Desk) -> None:
    desk.sim.add_job("talk.wav", id=FIRST)
    state = desk.folder / "state"
    await desk.fetch(state_dir=state)

    assert desk.layout("--apply", "--state-dir", str(state), BY_ID) == 0
    assert set(files(desk.dest)) == {f"{FIRST}.wav"}


# ---- cut on the way ----------------------------------------------------------------------


def cut(*_: object, **__: object) -> None:
    """End the run as a crash would: between one step and the next."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("owner", "step"),
    [(Places, "put"), (Store, "relocate"), (Places, "prune")],
    ids=["before renaming", "before recording", "before removing folders"],
)
@pytest.mark.parametrize("template", ["{id}{ext}", "elsewhere/{short_id}{ext}"])
async def test_a_crash_anywhere_is_healed_by_the_next_apply_whatever_its_template(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, template: str
) -> None:
    desk.sim.add_job("talk.wav", id=FIRST)
    desk.sim.add_job("else.wav", id=OTHER)
    await desk.fetch(write_record=True)
    before = Counter(files(desk.dest).values())

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, cut)
        assert desk.layout("--apply", BY_ID) == 130
    assert Counter(files(desk.dest).values()) == before
    assert desk.layout("--apply", template) == 0

    assert Counter(files(desk.dest).values()) == before
    is_by_id = template == BY_ID
    assert desk.path(FIRST) == (f"{FIRST}.wav" if is_by_id else "elsewhere/aaaaaaaa.wav")
    for path in desk.paths.values():
        assert (desk.dest / f"{path}.json").exists()
    desk.check()
    await desk.check_nothing_more_is_fetched()


async def test_a_full_disk_ends_with_6_and_what_was_moved_is_recorded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.sim.add_jobs(5, file_name="talk-{n}.wav")
    await desk.fetch()
    real, calls = os.mkdir, Counter[str]()

    def full_after_two(*args: Any, **options: Any) -> None:
        calls["below DIR"] += "dir_fd" in options
        if calls["below DIR"] > 2:
            raise OSError(28, "No space left on device")
        real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", full_after_two)
        assert desk.layout("--apply", "{id}/a{ext}") == 6
    desk.check()
    assert sum(path.endswith("/a.wav") for path in files(desk.dest)) == 2

    assert desk.layout("--apply", "{id}/a{ext}") == 0
    desk.check()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_between_groups_and_the_next_apply_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    desk.sim.add_jobs(70, size_bytes=200)
    await desk.fetch()
    real = Store.relocate

    def signalled(store: Store, moved: Any) -> list[bool]:
        signal.raise_signal(number)
        return real(store, moved)

    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "relocate", signalled)
        assert desk.said("--apply", BY_ID)[1]["exit_code"] == status
    assert signal.getsignal(number) == handler
    desk.check()
    assert 0 < sum("/" not in path for path in files(desk.dest)) < 70

    assert desk.said("--apply", BY_ID)[1]["moved"] == 6
    desk.check()


async def test_a_kill_at_any_moment_loses_nothing(desk: Desk) -> None:
    desk.sim.add_jobs(200, size_bytes=100, file_name="{n}.wav")
    await desk.fetch()
    before = Counter(files(desk.dest).values())
    argv = [sys.executable, "-m", "fetcher", "layout", "--apply", "-d", str(desk.dest)]
    templates = ["a/{id}{ext}", "b/{stem}/{id}{ext}", "c/{short_id}/x{ext}"]

    for n, template in enumerate(templates):
        process = await asyncio.create_subprocess_exec(
            *argv,
            template,
            stdout=asyncio.subprocess.PIPE,
            cwd=desk.folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        await process.stdout.readline()  # the first file was moved: it is in the midst of it
        await asyncio.sleep(0.003 * n)
        process.kill()
        await process.communicate()
        assert Counter(files(desk.dest).values()) == before

    assert desk.layout("--apply", templates[-1]) == 0
    assert Counter(files(desk.dest).values()) == before
    assert len(desk.paths) == 200
    desk.check()
    assert [path for path in tree(desk.dest) if path.startswith(("a", "b"))] == []


async def test_folders_are_durable_before_the_manifest_says_so(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.sim.add_job("talk.wav", id=FIRST)
    await desk.fetch()
    order: list[str] = []
    real = Store.relocate

    def synced(folder: Path) -> None:
        order.append(str(folder.relative_to(desk.dest)))
        sync_folder(folder)

    def relocated(store: Store, moved: Any) -> list[bool]:
        order.append("recorded") if moved else None
        return real(store, moved)

    monkeypatch.setattr("fetcher.relayout.moves.sync_folder", synced)
    monkeypatch.setattr(Store, "relocate", relocated)

    assert desk.layout("--apply", "new/{id}{ext}") == 0

    assert (set(order[:-1]), order[-1]) == ({".", "new", "talk"}, "recorded")


# ---- many times over ---------------------------------------------------------------------


async def test_any_row_of_templates_ends_with_every_file_in_its_place(desk: Desk) -> None:
    for n in range(6):
        head = "aaaaaaaa" if n % 2 else "bbbbbbbb"
        name = "Talk.wav" if n % 3 else "talk.WAV"
        desk.sim.add_job(name, id=f"{head}-0000-4000-8000-00000000000{n}")
    await desk.fetch(originals=True)
    before = Counter(files(desk.dest).values())
    templates = [
        "{short_id}{ext}",
        "{short_id}/{stem}{ext}",
        "{stem}/{stem}.{short_id}{ext}",
        "{id}{ext}",
        "{file_name}-{short_id}",
        "{user_id}/{created:%Y/%m}/{short_id}.{stem:.3}{ext}",
    ]

    for template in [*templates, *reversed(templates), *templates[::2]]:
        assert desk.layout("--apply", template) == 0
        assert Counter(files(desk.dest).values()) == before
        assert {path for path in desk.paths.values() if path} == set(files(desk.dest))
        desk.check()
        assert desk.said("--apply", template)[1]["stays"] == 12


async def test_a_backfill_after_apply_with_the_same_template_keeps_to_it(desk: Desk) -> None:
    desk.sim.add_job(id=FIRST)
    await desk.fetch()
    desk.layout("--apply", BY_ID)
    desk.sim.add_job(id=OTHER)

    await desk.fetch(output=BY_ID)

    assert set(files(desk.dest)) == {f"{FIRST}.wav", f"{OTHER}.wav"}


async def test_what_a_name_holds_cannot_drive_a_terminal(desk: Desk) -> None:
    desk.sim.add_job("a\x1b[31m\u202eb.wav", id=FIRST)
    await desk.fetch()

    assert desk.layout("--check", BY_ID) == 0

    assert "\x1b" not in desk.out.getvalue()
    assert "\u202e" not in desk.out.getvalue()


async def test_a_closed_pipe_ends_quietly(desk: Desk) -> None:
    class Closed(StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

        def flush(self) -> None:
            raise BrokenPipeError(32, "Broken pipe")

    desk.sim.add_jobs(3)
    await desk.fetch()
    err = StringIO()
    env = Environment(Closed(), err, {}, desk.folder, desk.folder)

    status = run(["layout", "-d", str(desk.dest), "--apply", BY_ID], env)

    assert (status, err.getvalue()) == (0, "")
    assert desk.layout("--apply", BY_ID) == 0
    desk.check()
