"""Whole runs with commands, pings and records: what comes when, and that nothing is harmed."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import closing
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from raw_server import RawServer, always, answer
from support import KEY, eventually, files, run, settings, unfinished

from fetcher.engine import Fetcher
from fetcher.errors import LockedError
from fetcher.events import ExecFailed, Notice
from fetcher.manifest.store import Store
from fetcher.models import JobId
from fetcher.simulator import Fault

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from pathlib import Path

    from fetcher.simulator import Simulator

OK = always(answer(b"OK"))


def python(code: str, *words: str) -> str:
    """Return a command that runs `code`."""
    return shlex.join([sys.executable, "-IS", "-c", code, *words])


def append(path: Path) -> str:
    """Return code that adds its words to a file, one line a command."""
    return (
        "import os, sys\n"
        f"fd = os.open({str(path)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "os.write(fd, (' '.join(sys.argv[1:]) + chr(10)).encode())"
    )


async def command(sim: Simulator, dest: Path, *words: str, **environ: str) -> Process:
    """Start the command itself."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fetcher", *words),
        *("--api-url", sim.api_url, "--dest", str(dest), "--min-free", "0"),
        env={**os.environ, "MUNSIT_API_KEY": KEY, **environ},
        stdout=PIPE,
        stderr=PIPE,
    )


# ---- commands ----------------------------------------------------------------------------


async def test_each_finished_file_has_its_command_once(sim: Simulator, tmp_path: Path) -> None:
    ids = sim.add_jobs(5)
    seen = tmp_path / "seen"
    for _ in range(2):
        ran = await run(
            sim.api_url, tmp_path / "dest", exec=python(append(seen), "{id}", "{relative_path}")
        )
        assert ran.exit_code == 0
    lines = seen.read_text().splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(ids)
    assert {line.split(" ", 1)[1] for line in lines} == set(files(tmp_path / "dest"))


async def test_originals_have_their_command_too(sim: Simulator, tmp_path: Path) -> None:
    sim.add_job()
    seen = tmp_path / "seen"
    code = python(append(seen), "{variant}")
    await run(sim.api_url, tmp_path / "dest", exec=code, originals=True)
    assert sorted(seen.read_text().split()) == ["denoised", "original"]


async def test_failing_commands_change_nothing_else(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(3)
    ran = await run(
        sim.api_url,
        tmp_path,
        exec=python("raise SystemExit(9)"),
        exec_after="no-such-program-anywhere",
        ping_url="http://127.0.0.1:9/nobody",
    )
    assert ran.exit_code == 0
    assert [event.code for event in ran.of(ExecFailed)] == [9, 9, 9]
    assert len(files(tmp_path)) == 3


async def test_the_last_command_runs_once_and_only_after_downloads(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(3)
    seen = tmp_path / "seen"
    last = python(append(seen), "ran")
    for _ in range(2):
        await run(sim.api_url, tmp_path / "dest", exec_after=last)
    assert seen.read_text().splitlines() == ["ran"]


async def test_the_last_command_runs_after_originals_alone(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(2)
    sim.faults.add(Fault("original", times=None, status=404, job=sim.ids[0]))
    seen, dest = tmp_path / "seen", tmp_path / "dest"
    await run(sim.api_url, dest)
    ran = await run(sim.api_url, dest, originals=True, exec_after=python(append(seen), "ran"))
    assert (ran.final.downloaded, ran.final.already, ran.final.failed) == (0, 1, 1)
    assert seen.read_text().splitlines() == ["ran"]


async def test_the_last_command_finds_the_destination_free(sim: Simulator, tmp_path: Path) -> None:
    sim.add_job()
    words = ["-m", "fetcher", "backfill", "--api-url", sim.api_url, "--dest", str(tmp_path)]
    nested = shlex.join([sys.executable, *words, "--api-key-file", str(tmp_path / "key")])
    (tmp_path / "key").write_text("another")
    ran = await run(sim.api_url, tmp_path, exec_after=nested)
    assert ran.of(Notice) == []
    assert "another" in {request.headers["x-api-key"] for request in sim.list_requests}


async def test_a_dry_run_runs_no_command_and_pings_nobody(sim: Simulator, tmp_path: Path) -> None:
    sim.add_job()
    seen = tmp_path / "seen"
    async with RawServer(OK) as server:
        options: dict[str, Any] = {
            "exec": python(append(seen)),
            "exec_after": python(append(seen)),
            "ping_url": server.origin,
        }
        await Fetcher(settings(sim.api_url, tmp_path / "d", **options)).run_plan(lambda _: None)
        assert server.requests == []
    assert not seen.exists()


async def test_what_commands_print_never_reaches_stdout(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(3)
    printing = python("import os; print('KEY', os.environ.get('MUNSIT_API_KEY')); print('LAST')")
    process = await command(
        *(sim, tmp_path, "backfill", "--json"),
        *("--exec", printing, "--exec-after", printing),
        WRAPPED=f"x{KEY}",
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0
    assert json.loads(stdout.splitlines()[-1])["event"] == "run.completed"
    assert all(json.loads(line)["event"] for line in stdout.splitlines())
    assert stderr.count(b"LAST") == 4
    assert stderr.count(b"KEY None") == 4
    assert KEY.encode() not in stdout + stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_commands_and_run_within_seconds(
    sim: Simulator, tmp_path: Path, number: signal.Signals
) -> None:
    sim.add_jobs(2)
    pid = tmp_path / "pid"
    stubborn = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"open({str(pid)!r}, 'a').write(str(os.getpid()) + chr(10)); time.sleep(60)"
    )
    process = await command(sim, tmp_path / "dest", "backfill", "--exec", python(stubborn))
    await eventually(lambda: pid.exists() and pid.read_text().count("\n") == 2)
    began_s = time.monotonic()
    process.send_signal(number)
    await process.communicate()
    assert time.monotonic() - began_s < 5
    assert process.returncode in {0, 128 + number}
    for line in pid.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(line), 0)


async def test_a_watch_that_is_stopped_runs_its_last_command(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_job()
    seen, last = tmp_path / "seen", tmp_path / "last"
    process = await command(
        *(sim, tmp_path / "dest", "watch", "--interval", "60"),
        *("--exec", python(append(seen)), "--exec-after", python(append(last))),
    )
    await eventually(seen.exists)
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0
    assert last.exists()


# ---- pings -------------------------------------------------------------------------------


async def test_a_good_run_is_pinged_as_such(sim: Simulator, tmp_path: Path) -> None:
    sim.add_job()
    async with RawServer(OK) as server:
        await run(sim.api_url, tmp_path, ping_url=f"{server.origin}/u?r=1")
        assert [request.target for request in server.requests] == ["/u/start?r=1", "/u?r=1"]
        assert all(KEY not in str(request) for request in server.requests)


async def test_a_run_that_ends_badly_is_pinged_as_failed(sim: Simulator, tmp_path: Path) -> None:
    sim.faults.add(Fault(on="list", status=401))
    async with RawServer(OK) as server:
        ran = await run(sim.api_url, tmp_path, ping_url=f"{server.origin}/u")
        assert ran.exit_code == 3
        assert [request.target for request in server.requests] == ["/u/start", "/u/fail"]


async def test_a_run_that_cannot_begin_is_pinged_as_failed(sim: Simulator, tmp_path: Path) -> None:
    from fetcher.runs.assembly import opened

    async with RawServer(OK) as server:
        options = settings(sim.api_url, tmp_path, ping_url=f"{server.origin}/u")
        async with opened(settings(sim.api_url, tmp_path), lambda _: None, command="watch"):
            with pytest.raises(LockedError):
                await Fetcher(options).run_backfill(lambda _: None)
        assert [request.target for request in server.requests] == ["/u/start", "/u/fail"]


@pytest.mark.parametrize(
    ("where", "environ"),
    [
        ("flag", {"FETCHER_OUTPUT": "{file_name}"}),
        ("environment", {"FETCHER_OUTPUT": "{file_name}"}),
        ("file", {"FETCHER_OUTPUT": "{file_name}"}),
        ("flag", {"FETCHER_RETRIES": "several"}),
    ],
    ids=["template, flag", "template, environment", "template, file", "value, flag"],
)
async def test_a_run_whose_settings_are_no_good_is_pinged_as_failed(
    sim: Simulator, tmp_path: Path, where: str, environ: dict[str, str]
) -> None:
    config = tmp_path / "fetcher.toml"
    async with RawServer(OK) as server:
        url = f"{server.origin}/u"
        config.write_text(f"ping-url = '{url}'" if where == "file" else "")
        words = ["--ping-url", url] if where == "flag" else []
        more = {"FETCHER_PING_URL": url} if where == "environment" else {}
        words += ["--config", str(config)]
        process = await command(sim, tmp_path, "backfill", *words, **environ, **more)
        _, err = await process.communicate()
        assert [request.target for request in server.requests] == ["/u/start", "/u/fail"]
    assert process.returncode == 2
    assert err.count(b"\n") == 1


async def test_a_dry_run_whose_settings_are_no_good_pings_nobody(
    sim: Simulator, tmp_path: Path
) -> None:
    async with RawServer(OK) as server:
        words = ["--dry-run", "--ping-url", f"{server.origin}/u", "-o", "{file_name}"]
        process = await command(sim, tmp_path, "backfill", *words)
        await process.communicate()
        assert server.requests == []
    assert process.returncode == 2


# ---- records -----------------------------------------------------------------------------


async def test_records_stand_beside_all_files(sim: Simulator, tmp_path: Path) -> None:
    ids = sim.add_jobs(70, size_bytes=2_000)
    ran = await run(sim.api_url, tmp_path, write_record=True, originals=True)
    assert ran.exit_code == 0
    home = files(tmp_path)
    records = {path: data for path, data in home.items() if path.endswith(".json")}
    assert len(home) == 280
    assert sorted(path.removesuffix(".json") for path in records) == sorted(
        set(home) - set(records)
    )
    assert sorted(json.loads(data)["id"] for data in records.values()) == sorted([*ids, *ids])
    assert not any(b"?" in data for data in records.values())
    assert unfinished(tmp_path) == []


EXTRA: dict[str, Any] = {"language": "ar", "updated_at": "2025-01-31T21:30:00.1+03:00"}


def written(dest: Path) -> dict[str, Any]:
    """Return the one record below DEST."""
    [text] = [data for path, data in files(dest).items() if path.endswith(".json")]
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def unsigned(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with its links as they are to be written."""
    links = ("audio_url", "original_audio_url")
    return record | {name: (record[name] or "").partition("?")[0] or None for name in links}


async def listed(sim: Simulator) -> dict[str, Any]:
    """Return the newest record as the API sends it."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{sim.api_url}/denoise", headers={"x-api-key": "any"}) as response,
    ):
        [record, *_] = await response.json()
    assert isinstance(record, dict)
    return record


async def until_idle(sim: Simulator, dest: Path, **options: Any) -> None:
    """Watch until all is here."""
    usual: dict[str, Any] = {"interval": 0.05, "until_idle": True}
    watch = Fetcher(settings(sim.api_url, dest, **(usual | options)))
    assert (await watch.run_watch(lambda _: None)).exit_code == 0


async def test_a_record_is_written_as_the_api_sent_it(sim: Simulator, tmp_path: Path) -> None:
    sim.add_job(**EXTRA)
    await run(sim.api_url, tmp_path, write_record=True)
    record = written(tmp_path)
    assert record == unsigned(await listed(sim))
    assert EXTRA.items() <= record.items()


async def test_a_record_that_one_run_queued_is_written_by_a_later_one(
    sim: Simulator, tmp_path: Path
) -> None:
    job = sim.add_job(**EXTRA)
    sim.faults.add(Fault("audio", times=None, status=500, job=job))
    await run(sim.api_url, tmp_path, write_record=True)
    sim.faults.clear()
    await until_idle(sim, tmp_path, write_record=True)
    assert EXTRA.items() <= written(tmp_path).items()
    with closing(Store(tmp_path / ".fetcher" / "manifest.db")) as store:
        assert store.records([JobId(job)]) == {}


async def test_a_record_whose_job_finishes_while_it_is_watched_is_written_whole(
    sim: Simulator, tmp_path: Path
) -> None:
    """The list has shown the pending record only; the stream tells the rest."""
    sim.add_job(finishes_after_s=0.5, **EXTRA)
    await until_idle(sim, tmp_path, write_record=True, interval=3600.0)
    record = written(tmp_path)
    assert EXTRA.items() <= record.items()
    assert record["status"] == "success"
    assert record["audio_url"].startswith(sim.host_url)


async def test_a_command_finds_the_record_in_place(sim: Simulator, tmp_path: Path) -> None:
    sim.add_job()
    check = python("import os, sys; sys.exit(not os.path.exists(sys.argv[1]))", "{path}.json")
    ran = await run(sim.api_url, tmp_path, write_record=True, exec=check)
    assert ran.of(ExecFailed) == []


async def test_adopted_files_keep_their_records(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(3)
    await run(sim.api_url, tmp_path, write_record=True)
    before = files(tmp_path)
    for leftover in (tmp_path / ".fetcher").glob("manifest*"):
        leftover.unlink()
    ran = await run(sim.api_url, tmp_path, write_record=True)
    assert ran.final.adopted == 3
    assert files(tmp_path) == before


async def test_a_foreign_file_at_the_record_s_place_harms_nothing(
    sim: Simulator, tmp_path: Path
) -> None:
    job = sim.add_job("talk.wav")
    (tmp_path / "talk").mkdir()
    (tmp_path / f"talk/talk.{job[:8]}.wav.json").write_text("mine")
    ran = await run(sim.api_url, tmp_path, write_record=True)
    assert ran.exit_code == 0
    assert (tmp_path / f"talk/talk.{job[:8]}.wav.json").read_text() == "mine"
    assert (tmp_path / f"talk/talk.{job[:8]}.wav").read_bytes() == sim.content(job)
