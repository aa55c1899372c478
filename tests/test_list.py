"""`fetcher list` joins the history with what is on disk, newest first."""

from __future__ import annotations

import asyncio
import csv
import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
import threading
import unicodedata
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifests import Shelf, job, rejected

from fetcher.configuration.settings import Settings
from fetcher.configuration.tables import Cell, Column, Screen, lines, settle
from fetcher.core.text import width
from fetcher.engine import STOPPED_BY_SIGINT, Fetcher
from fetcher.events import JobPending, PollCompleted
from fetcher.files.locks import held
from fetcher.models import State, Status, Variant
from fetcher.refresh import refresh

if TYPE_CHECKING:
    from pathlib import Path

    from fetcher.events import Event
    from fetcher.simulator import Simulator


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "dest")


# ---- the table ---------------------------------------------------------------------------


def test_rows_are_newest_first_and_say_state_status_size_and_path(shelf: Shelf) -> None:
    old, new, late = job(1, "old.wav"), job(3, "new.wav"), job(2, "late.wav", status=Status.PENDING)
    shelf.add(new, late, old)
    shelf.complete(old, "old/old.00000001.wav", bytes_stored=1_200_000)
    assert shelf.lines("list") == [
        "STATE     STATUS     SIZE  CREATED (UTC)     ID        NAME      PATH OR REASON",
        "queued    success          2025-06-01 12:03  00000003  new.wav",
        "waiting   pending          2025-06-01 12:02  00000002  late.wav",
        "complete  success  1.2 MB  2025-06-01 12:01  00000001  old.wav   old/old.00000001.wav",
    ]


def test_a_failure_shows_its_reason(shelf: Shelf) -> None:
    given_up, refused = job(1), rejected(2, "too long")
    shelf.add(given_up, refused)
    shelf.fail(given_up, "the host answered 404")
    _, first, second = shelf.lines("list")
    assert first.startswith("rejected  failed")
    assert first.endswith("too long")
    assert second.startswith("failed    success")
    assert second.endswith("the host answered 404")


def test_an_original_stands_below_its_clean_file(shelf: Shelf) -> None:
    one, other = (job(n, original_audio_url="https://files.example/o.wav") for n in (1, 2))
    shelf.add(other, one, originals=True)
    shelf.complete(one, "a.original.wav", variant=Variant.ORIGINAL)
    said = [(one["id"][:8], one["variant"]) for one in shelf.objects("list", "--json")]
    assert said == [
        ("00000002", "denoised"),
        ("00000002", "original"),
        ("00000001", "denoised"),
        ("00000001", "original"),
    ]
    assert "audio.wav (original)" in shelf.lines("list")[4]


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--state", "complete"], ["1"]),
        (["--state", "complete", "--state", "failed"], ["2", "1"]),
        (["--since", "2025-06-01T12:02"], ["4", "3", "2"]),
        (["--until", "2025-06-01T12:02:30"], ["2", "1"]),
        (["--match", "lecture*"], ["3", "2"]),
        (["--match", "lecture*", "--match", "d?mo.wav"], ["4", "3", "2"]),
        (["--failed"], ["4"]),
        (["--failed", "--match", "lecture*"], []),
    ],
)
def test_what_is_listed_can_be_chosen(shelf: Shelf, options: list[str], numbers: list[str]) -> None:
    done, failed, waiting = job(1), job(2, "lecture 1.wav"), job(3, "lecture 2.wav")
    shelf.add(rejected(4, "too long", "demo.wav"), waiting, failed, done)
    shelf.complete(done, "a.wav")
    shelf.fail(failed, "404")
    said = [one["id"][:8].lstrip("0") for one in shelf.objects("list", "--json", *options)]
    assert said == numbers


@pytest.mark.parametrize("bound", ["--since=2025-06-01T12:02", "--until=2025-06-01T12:01"])
def test_a_job_without_a_time_is_listed_whatever_the_bounds_as_a_run_takes_it(
    bound: str, shelf: Shelf
) -> None:
    shelf.add(job(1), job(2), job(3, created_at=None))
    said = [one["id"][:8].lstrip("0") for one in shelf.objects("list", "--json", bound)]
    assert said == ["2" if "since" in bound else "1", "3"]


def test_without_a_manifest_nothing_is_listed_and_nothing_is_made(shelf: Shelf) -> None:
    for options in ([], ["--json"], ["--failed"]):
        assert (shelf.run("list", *options), shelf.out.getvalue()) == (0, "")
    assert not shelf.dest.exists()


def test_a_dest_that_is_a_file_is_told(shelf: Shelf) -> None:
    shelf.dest.write_text("not a folder")
    assert shelf.run("list") == 6
    assert "is a file" in shelf.err.getvalue()


def test_a_damaged_manifest_is_named_and_left_alone(shelf: Shelf) -> None:
    shelf.manifest.parent.mkdir(parents=True)
    shelf.manifest.write_bytes(b"garbage")
    assert shelf.run("list") == 6
    assert str(shelf.manifest) in shelf.err.getvalue()
    assert shelf.manifest.read_bytes() == b"garbage"


@pytest.mark.parametrize("options", [["--csv", "--json"], ["--failed", "--state", "complete"]])
def test_options_that_exclude_each_other_are_told(shelf: Shelf, options: list[str]) -> None:
    assert shelf.run("list", *options) == 2
    assert "exclude each other" in shelf.err.getvalue()


def test_no_control_character_reaches_a_person(shelf: Shelf) -> None:
    evil = "\x1b[31mred\x1b[0m\r\nfake row\u202egnp.exe\x00\t.wav"
    failed = job(1, evil)
    shelf.add(failed, rejected(2, evil, evil))
    shelf.fail(failed, evil)
    for options in (["list"], ["list", "--failed"], ["status"]):
        text = "\n".join(shelf.lines(*options))
        bad = [one for one in text if unicodedata.category(one) == "Cc" and one != "\n"]
        assert (bad, "\u202e" in text) == ([], False)
    assert len(shelf.lines("list")) == 3


def test_json_carries_a_name_faithfully(shelf: Shelf) -> None:
    evil = "\x1b[31mمقابلة\r\n\u202egnp\u0085\ttab\x00 \U0001f399.wav"
    shelf.add(job(1, evil))
    (one,) = shelf.objects("list", "--json")
    assert (one["event"], one["file_name"]) == ("list.entry", evil)
    assert "url" not in str(one)


def test_csv_has_a_line_of_titles_and_whole_values(shelf: Shelf) -> None:
    shelf.add(job(1, 'a "b", c\nd.wav'))
    assert shelf.run("list", "--csv") == 0
    (row,) = csv.DictReader(StringIO(shelf.out.getvalue()))
    assert (row["file_name"], row["state"], row["path"]) == ('a "b", c\nd.wav', "queued", "")


def test_failed_jobs_are_grouped_by_reason_for_a_refund(shelf: Shelf) -> None:
    shelf.add(
        rejected(1, "too long", audio_duration_s=100),
        rejected(2, "no speech"),
        rejected(3, "too long", audio_duration_s=50),
        rejected(4, None),
        job(5),
    )
    text = shelf.lines("list", "--failed")
    heads = [line for line in text if line.endswith("of audio")]
    assert heads == [
        "too long: 2 jobs, 2 min 30 s of audio",
        "no reason given: 1 job, 1 min 2 s of audio",
        "no speech: 1 job, 1 min 2 s of audio",
    ]
    first = next(line for line in text if "tx_3" in line)
    assert first.startswith("2025-06-01 12:03")
    assert "00000003-0000-4000-8000-000000000000" in first


# ---- columns -----------------------------------------------------------------------------

_TABLE = (Column("A", 3, 3), Column("NAME", 8, 30, rank=1), Column("PATH", 10, 50))


@pytest.mark.parametrize(
    ("room", "widths"),
    [
        (None, [3, 20, 40]),
        (200, [3, 20, 40]),
        (50, [3, 20, 23]),
        (25, [3, 8, 10]),
        (24, [3, 0, 19]),
        (10, [3, 0, 5]),
        (1, [3, 0, 1]),
    ],
)
def test_columns_share_the_room_there_is(room: int | None, widths: list[int]) -> None:
    assert settle(_TABLE, [3, 20, 40], room) == widths


@given(
    st.lists(st.tuples(st.text(max_size=30), st.text(max_size=60)), min_size=1, max_size=5),
    st.integers(17, 120),
)
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, str]], columns: int) -> None:
    table = ((Cell("abc"), Cell(name), Cell(path, "bad")) for name, path in rows)
    for line in lines(_TABLE, table, Screen(columns)):
        assert width(line) <= columns


def test_columns_stay_aligned_beside_wide_and_arabic_names() -> None:
    rows = [[Cell("x"), Cell(name), Cell("end")] for name in ("abc", "会議録音", "مقابلة")]
    _, *shown = lines(_TABLE, rows, Screen(60))
    assert {width(line.removesuffix("end")) for line in shown} == {width(shown[0]) - 3}
    assert "\u2068مقابلة\u2069" in shown[2]


def test_a_locale_without_unicode_gets_what_it_can_show() -> None:
    (_, line) = lines(
        _TABLE, [[Cell("x"), Cell("café مقابلة"), Cell("end")]], Screen(60, encoding="latin-1")
    )
    assert line == "x  café ??????  end"


def test_a_terminal_gets_colours_and_its_own_width_unless_no_color_is_set(shelf: Shelf) -> None:
    shelf.add(*(job(n, "a rather long name of a recording.wav") for n in range(3)))
    coloured = _on_terminal(shelf, 60)
    assert "\x1b[36mqueued" in coloured
    plain = _on_terminal(shelf, 60, NO_COLOR="1")
    assert "\x1b" not in plain
    assert max(len(line) for line in plain.splitlines()) <= 60


def _on_terminal(shelf: Shelf, columns: int, **environ: str) -> str:
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "fetcher", "list", "-d", str(shelf.dest)]
    usual = {"PATH": os.defpath, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    subprocess.run(command, stdout=follower, env=usual | environ, check=True)
    os.close(follower)
    text = b""
    try:
        while piece := os.read(leader, 65_536):
            text += piece
    except OSError:  # how Linux says that nobody has the other end any more
        pass
    os.close(leader)
    return text.decode()


def test_a_reader_that_has_seen_enough_ends_it_cleanly(shelf: Shelf) -> None:
    shelf.add(*(job(n) for n in range(5000)))
    command = [sys.executable, "-m", "fetcher", "list", "-d", str(shelf.dest)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"STATE")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_neither_pydantic_nor_aiohttp_is_imported_to_read(shelf: Shelf) -> None:
    shelf.add(job(1))
    code = (
        "import sys; from fetcher.cli import main\n"
        "for words in (['list'], ['list', '--json'], ['status'], ['export'], ['retry']):\n"
        f"    main([*words, '-d', {str(shelf.dest)!r}])\n"
        "heavy = {'pydantic', 'aiohttp', 'tqdm', 'mutagen', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- --refresh ---------------------------------------------------------------------------


def _settings(sim: Simulator, dest: Path, **options: object) -> Settings:
    given: dict[str, object] = {"min_free": 0, "retry_delay": 0.01, "retries": 1}
    return Settings.model_validate(
        {"api_key": "k", "api_url": sim.api_url, "dest": dest} | given | options
    )


async def test_refresh_records_and_downloads_nothing_and_a_backfill_fetches_it(
    sim: Simulator, shelf: Shelf
) -> None:
    done, waiting = sim.add_job("a.wav"), sim.add_job("b.wav", status="pending")
    settings = _settings(sim, shelf.dest)
    told: list[Event] = []
    final = await refresh(Fetcher(settings), told.append)
    assert (final.exit_code, sim.audio_requests()) == (0, [])
    assert [one.id for one in told if isinstance(one, JobPending)] == [waiting]
    assert [one.records for one in told if isinstance(one, PollCompleted)] == [2]
    assert [one["state"] for one in shelf.objects("list", "--json")] == ["waiting", "queued"]
    final = await Fetcher(settings).run_backfill(told.append)
    assert (final.downloaded, len(sim.audio_requests(done))) == (1, 1)


async def refreshed(
    sim: Simulator, shelf: Shelf, *options: str, **environ: str
) -> tuple[list[str], list[str]]:
    """Run `list --refresh`; return the states that it shows, and those of all jobs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fetcher", "list", "--refresh", "--json", "-d", str(shelf.dest)),
        *options,
        env={"MUNSIT_API_KEY": "k", "FETCHER_API_URL": sim.api_url, "FETCHER_MIN_FREE": "0"}
        | environ,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    shown = [json.loads(line)["state"] for line in out.splitlines()]
    return shown, [one["state"] for one in shelf.objects("list", "--json")]


@pytest.mark.parametrize("option", ["--match=talk 1*", "--until=2000-01-01"])
async def test_refresh_takes_the_filters_of_its_command_line_for_what_is_shown(
    option: str, sim: Simulator, shelf: Shelf
) -> None:
    sim.add_job("talk 1.wav")
    sim.add_job("talk 2.wav")
    shown, states = await refreshed(sim, shelf, option)
    assert (len(shown), states) == ("match" in option, ["queued", "queued"])


async def test_refresh_leaves_out_what_the_filters_of_a_run_leave_out(
    sim: Simulator, shelf: Shelf
) -> None:
    sim.add_job("clip.mp4", source_type="video")
    sim.add_job("talk.wav")
    sim.add_job("clip.wav")
    environ = {"FETCHER_MATCH": "clip*", "FETCHER_SOURCE_TYPE": "audio"}
    settings = _settings(sim, shelf.dest, match=["clip*"], source_type="audio")
    await Fetcher(settings).run_backfill(lambda _: None)
    expected = ["complete", "filtered", "filtered"]
    assert await refreshed(sim, shelf, **environ) == (["complete", "filtered"], expected)
    shown, states = await refreshed(sim, shelf, "--match", "*", **environ)
    assert (shown, states) == (expected, expected)


async def test_refresh_that_waits_for_another_process_can_be_stopped(
    sim: Simulator, shelf: Shelf
) -> None:
    shelf.add(job(1))
    fetcher = Fetcher(_settings(sim, shelf.dest, wait_lock=60))
    told: list[Event] = []
    with held([shelf.manifest.parent], command="watch", wait_s=0):
        asyncio.get_running_loop().call_later(0.3, fetcher.stop.ask, STOPPED_BY_SIGINT)
        async with asyncio.timeout(10):
            final = await refresh(fetcher, told.append)
    assert (final.exit_code, told) == (130, [final])


def test_refresh_reads_settings_that_come_through_a_pipe_once(shelf: Shelf) -> None:
    pipe = shelf.dest.parent / "pipe"
    os.mkfifo(pipe)
    text = f"api-url = 'http://127.0.0.1:9'\nretries = 0\ndest = '{shelf.dest}'\n"
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    command = [sys.executable, "-m", "fetcher", "list", "--refresh", "--config", str(pipe)]
    environ = {"MUNSIT_API_KEY": "k"}
    done = subprocess.run(command, env=environ, capture_output=True, check=False, timeout=20)
    writer.join()
    assert done.returncode == 4


def test_refresh_beside_a_run_says_who_holds_the_destination(shelf: Shelf) -> None:
    shelf.add(job(1))
    code = (
        "import sys, time; from pathlib import Path; from fetcher.files.locks import held\n"
        "with held([Path(sys.argv[1])], command='watch', wait_s=0):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(shelf.manifest.parent)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        environ = {"MUNSIT_API_KEY": "k", "FETCHER_API_URL": "http://127.0.0.1:9"}
        script = [sys.executable, "-m", "fetcher", "list", "-d", str(shelf.dest)]
        refused = subprocess.run(
            [*script, "--refresh"], env=environ, capture_output=True, text=True, check=False
        )
        reading = subprocess.run(script, env=environ, capture_output=True, text=True, check=False)
        process.communicate()
    assert (refused.returncode, refused.stdout) == (5, "")
    assert f"fetcher watch, process {process.pid}" in refused.stderr
    assert (reading.returncode, reading.stdout.count("\n")) == (0, 2)


def test_every_state_has_a_colour_of_its_own_kind(shelf: Shelf) -> None:
    jobs = {state: job(n) for n, state in enumerate(State)}
    shelf.add(*jobs.values())
    for state, one in jobs.items():
        shelf.set_state(one, state)
    assert {line.split()[0] for line in shelf.lines("list")[1:]} == {str(one) for one in State}
